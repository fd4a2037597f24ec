package northbound

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collectTimeout bounds what one scrape may ask of the controller.
const collectTimeout = 5 * time.Second

// collector shows the network as metrics. It asks for what it shows at each scrape and
// keeps nothing.
type collector struct {
	network Network
	vips    VIPs
	probes  func(context.Context) (ProbesView, error) // nil: there are none
	// presence may be nil too.
	presence func(context.Context) (PresenceView, error)
	traffic  TrafficDetail
}

// PresenceView is what was sent to hosts and bridges to say where VIPs are: packets, one
// a switch and address.
type PresenceView struct {
	ARP, ND uint64 // gratuitous ARP, unsolicited neighbour advertisements
	Waiting int    // because of a change, and not sent yet
}

// ProbesView is what the health monitors do and have done.
type ProbesView struct {
	Targets                     map[string]int // by status: unknown, up, down
	Held                        int            // of those down: they answer, and are held down because they flip
	InFlight                    int
	Probes                      []ProbeCount
	Verdicts, Deferred, Dropped uint64
}

// ProbeCount counts the probes of one kind that ended in one way.
type ProbeCount struct {
	Type, Outcome string
	Count         uint64
}

// The metrics of the network. A counter of a switch starts anew with its connection.
var (
	descUp = prometheus.NewDesc("fairlead_collect_success", "1 when all that follows could be read, else 0.", nil, nil)

	descSwitches  = prometheus.NewDesc("fairlead_switches", "Switches known, by state of the connection.", []string{"state"}, nil)
	descConnected = ofSwitch("connected", "1 while the switch is connected.")
	descSecure    = ofSwitch("secure", "1 while the switch is connected with TLS.")
	descPorts     = ofSwitch("ports", "Ports of the switch.")
	descFlows     = ofSwitch("flows", "Flows of Fairlead's that the switch holds.")
	descGroups    = ofSwitch("groups", "Groups of Fairlead's that the switch holds.")
	descForeign   = ofSwitch("foreign", "Flows of others that the switch holds.")
	descFaults    = ofSwitch("faults", "What the switch refuses or lacks at present.")
	descPackets   = ofSwitch("packet_ins_total", "Packets that the switch sent to the controller.")
	descDropped   = ofSwitch("packet_ins_dropped_total", "Of them, those dropped over a limit.")

	descOpen    = prometheus.NewDesc("fairlead_connections", "OpenFlow connections open.", nil, nil)
	descFresh   = prometheus.NewDesc("fairlead_connections_handshaking", "Of them, those that have not finished the handshake.", nil, nil)
	descRefused = prometheus.NewDesc("fairlead_sessions_refused_total", "OpenFlow connections that became no session, by reason.", []string{"reason"}, nil)
	descPanics  = prometheus.NewDesc("fairlead_panics_total", "Panics contained outside of the API.", nil, nil)

	descHosts    = prometheus.NewDesc("fairlead_hosts", "Hosts known.", nil, nil)
	descLinks    = prometheus.NewDesc("fairlead_links", "Links between switches, by state.", []string{"state"}, nil)
	descFaulty   = prometheus.NewDesc("fairlead_link_faults", "Links between switches, and ports of segments, that are used though something is wrong with them.", nil, nil)
	descTargets  = prometheus.NewDesc("fairlead_health_targets", "Members that are probed, by what is known of them.", []string{"status"}, nil)
	descHeld     = prometheus.NewDesc("fairlead_health_targets_held", "Of those down, those that answer and are held down because they flip.", nil, nil)
	descInFlight = prometheus.NewDesc("fairlead_health_probes_in_flight", "Probes under way.", nil, nil)
	descProbes   = prometheus.NewDesc("fairlead_health_probes_total", "Probes that have ended, by type and outcome.", []string{"type", "outcome"}, nil)
	descVerdicts = prometheus.NewDesc("fairlead_health_verdicts_total", "Members that were found up or down and had not been before.", nil, nil)
	descDeferred = prometheus.NewDesc("fairlead_health_probes_deferred_total", "Times that a probe waited for others to end.", nil, nil)
	descLost     = prometheus.NewDesc("fairlead_health_packets_dropped_total", "Packets of probes dropped in the controller, both ways.", nil, nil)

	descAnnounced = prometheus.NewDesc("fairlead_vip_announcements_total", "Packets sent to hosts and bridges to say where VIPs are, by type: one a switch and address.", []string{"type"}, nil)
	descWaiting   = prometheus.NewDesc("fairlead_vip_announcements_waiting", "Of those due because something changed, the ones not sent yet.", nil, nil)

	descVIPs = prometheus.NewDesc("fairlead_vips", "VIPs, by how far the switches have followed and how well they serve.", []string{"provisioning", "operating"}, nil)
)

func ofSwitch(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("fairlead_switch_"+name, help, []string{"dpid"}, nil)
}

// Describe implements prometheus.Collector.
func (c collector) Describe(ch chan<- *prometheus.Desc) { ch <- descUp }

// Collect implements prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	success := 1.0
	for _, collect := range []func(context.Context, chan<- prometheus.Metric) error{c.switches, c.sessions, c.topology, c.services, c.health, c.announced, c.counted} {
		if !contained(func() error { return collect(ctx, ch) }) {
			success = 0
		}
	}
	gauge(ch, descUp, success)
}

// contained says whether f did what it should. A panic of one must not hide the other
// metrics.
func contained(f func() error) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return f() == nil
}

func gauge(ch chan<- prometheus.Metric, d *prometheus.Desc, v float64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func counter(ch chan<- prometheus.Metric, d *prometheus.Desc, v uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (c collector) switches(ctx context.Context, ch chan<- prometheus.Metric) error {
	list, err := c.network.Switches(ctx)
	if err != nil {
		return err
	}
	states := map[string]int{"connected": 0, "disconnected": 0}
	for i := range list {
		s := &list[i]
		states[s.Connection.State]++
		up := s.Connection.State == "connected"
		gauge(ch, descConnected, truth(up), s.DPID)
		gauge(ch, descSecure, truth(up && s.Connection.Secure), s.DPID)
		gauge(ch, descPorts, float64(s.Counts.Ports), s.DPID)
		gauge(ch, descFlows, float64(s.Counts.Flows), s.DPID)
		gauge(ch, descGroups, float64(s.Counts.Groups), s.DPID)
		gauge(ch, descForeign, float64(s.Counts.Foreign), s.DPID)
		gauge(ch, descFaults, float64(len(s.Faults)), s.DPID)
		counter(ch, descPackets, s.Counts.PacketIns, s.DPID)
		counter(ch, descDropped, s.Counts.PacketInsDropped, s.DPID)
	}
	for state, n := range states {
		gauge(ch, descSwitches, float64(n), state)
	}
	return nil
}

func (c collector) sessions(ctx context.Context, ch chan<- prometheus.Metric) error {
	v, err := c.network.Sessions(ctx)
	if err != nil {
		return err
	}
	gauge(ch, descOpen, float64(v.Open))
	gauge(ch, descFresh, float64(v.Handshaking))
	counter(ch, descPanics, v.Panics)
	for reason, n := range v.Refused {
		counter(ch, descRefused, n, reason)
	}
	return nil
}

func (c collector) topology(ctx context.Context, ch chan<- prometheus.Metric) error {
	t, err := c.network.Topology(ctx)
	if err != nil {
		return err
	}
	gauge(ch, descHosts, float64(len(t.Hosts())))
	states := map[string]int{}
	for _, l := range t.Links() {
		states[l.State.String()]++
	}
	for state, n := range states {
		gauge(ch, descLinks, float64(n), state)
	}
	faults := 0
	for _, l := range t.Links() {
		faults += int(truth(l.Fault != ""))
	}
	for _, s := range t.Segments() {
		for _, p := range s.Ports {
			faults += int(truth(p.Fault != ""))
		}
	}
	gauge(ch, descFaulty, float64(faults))
	return nil
}

func (c collector) announced(ctx context.Context, ch chan<- prometheus.Metric) error {
	if c.presence == nil {
		return nil
	}
	v, err := c.presence(ctx)
	if err != nil {
		return err
	}
	counter(ch, descAnnounced, v.ARP, "arp")
	counter(ch, descAnnounced, v.ND, "nd")
	gauge(ch, descWaiting, float64(v.Waiting))
	return nil
}

func (c collector) health(ctx context.Context, ch chan<- prometheus.Metric) error {
	if c.probes == nil {
		return nil
	}
	v, err := c.probes(ctx)
	if err != nil {
		return err
	}
	for _, status := range []string{"unknown", "up", "down"} {
		gauge(ch, descTargets, float64(v.Targets[status]), status)
	}
	gauge(ch, descHeld, float64(v.Held))
	gauge(ch, descInFlight, float64(v.InFlight))
	for _, p := range v.Probes {
		counter(ch, descProbes, p.Count, p.Type, p.Outcome)
	}
	counter(ch, descVerdicts, v.Verdicts)
	counter(ch, descDeferred, v.Deferred)
	counter(ch, descLost, v.Dropped)
	return nil
}

func (c collector) services(ctx context.Context, ch chan<- prometheus.Metric) error {
	states := map[[2]string]int{}
	for after := ""; ; {
		page, next, err := c.vips.List(ctx, after, maxLimit)
		if err != nil {
			return err
		}
		for i := range page {
			if st := page[i].Status; st != nil {
				states[[2]string{string(st.Provisioning), string(st.Operating)}]++
			}
		}
		if after = next; after == "" {
			break
		}
	}
	for state, n := range states {
		gauge(ch, descVIPs, float64(n), state[0], state[1])
	}
	return nil
}
