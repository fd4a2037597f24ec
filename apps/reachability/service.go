package reachability

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

const (
	// settleMost is how long switches have to take what they are to hold, before a
	// measurement begins and for its broadcasts.
	settleMost = 2 * time.Second
	// ratesLeast is the shortest time that packets of ports are counted over.
	ratesLeast = 500 * time.Millisecond
	// cleanMost bounds what is done after a measurement whose context has ended.
	cleanMost = 5 * time.Second
	// readAtOnce bounds the switches that are read at the same time.
	readAtOnce = 16
)

// VIP is what a measurement needs to know of a virtual IP.
type VIP struct {
	Name    string
	Address netip.Addr
	MAC     ofproto.MAC
	VLAN    uint16
	// Tracked: replies of members become the VIP's at the switch that the connection
	// came in by, and are not yet the VIP's where they are caught.
	Tracked   bool
	Allowed   []netip.Prefix // clients that it serves; empty: all
	Operating string         // its operating status
	Listeners []Listener
}

// Listener is one port of a VIP.
type Listener struct {
	Protocol string
	Port     uint16
	Members  []netip.AddrPort // that are to get connections
}

// String returns protocol:port.
func (l Listener) String() string { return fmt.Sprintf("%s:%d", l.Protocol, l.Port) }

// Service measures, one measurement at a time. Make one with NewService.
type Service struct {
	app    *App
	core   *controller.Controller
	vips   func(context.Context) ([]VIP, error)
	access func(context.Context) (AccessPorts, error)
	random io.Reader
	turn   chan struct{} // capacity 1: held by who measures
}

// AccessPorts are ports whose untagged frames are of a VLAN for the switch's own
// forwarding, which OpenFlow does not see: ports of Open vSwitch with a tag.
type AccessPorts map[topology.Place]uint16

// NewService returns a service over an app that core runs. vips returns all VIPs, access
// the access ports that are known; random gives nonces.
func NewService(app *App, core *controller.Controller, vips func(context.Context) ([]VIP, error), access func(context.Context) (AccessPorts, error), random io.Reader) *Service {
	return &Service{app: app, core: core, vips: vips, access: access, random: random, turn: make(chan struct{}, 1)}
}

// Measure measures what a request asks for. It waits for measurements that others have
// under way. The error is an *InvalidError, or that of ctx or of the controller; nothing
// is left in switches in any case.
func (s *Service) Measure(ctx context.Context, req Request) (Measurement, error) {
	if e := req.check(); e != nil {
		return Measurement{}, e
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return Measurement{}, ctx.Err()
	}
	var vips []VIP
	if len(req.Sources)+len(req.VIPs)+len(req.Probes) > 0 {
		var err error
		if vips, err = s.vips(ctx); err != nil {
			return Measurement{}, fmt.Errorf("reachability: list VIPs: %w", err)
		}
	}
	access, err := s.access(ctx)
	if err != nil {
		return Measurement{}, fmt.Errorf("reachability: list access ports: %w", err)
	}
	began := time.Now()
	w := &work{s: s, req: req, vips: vips, access: access, m: Measurement{
		At: began.UTC(), Switches: []Switch{}, Pairs: []Pair{}, VIPs: []VIPAnswer{}, Probes: []ProbeAnswer{}, Copies: []Copies{},
		Links: []LinkAnswer{}, Rates: []PortRate{}, Notes: []string{},
	}}
	if err := w.measure(ctx); err != nil {
		var invalid *InvalidError
		if errors.As(err, &invalid) || ctx.Err() != nil {
			return Measurement{}, err
		}
		return Measurement{}, fmt.Errorf("reachability: %w", err)
	}
	w.m.Took = time.Since(began).Round(time.Millisecond).String()
	return w.m, nil
}

// work is a measurement as its caller sees it.
type work struct {
	s      *Service
	req    Request
	vips   []VIP
	access AccessPorts
	m      Measurement

	snap   *topology.Snapshot
	from   []ofproto.DPID // that are measured from
	stages map[ofproto.DPID]controller.Stage
	away   map[ofproto.DPID]bool // known, and not connected
	run    *run
	// questions, and what is to be done when all are settled.
	questions []*question
	fill      []func()
}

func (w *work) note(format string, args ...any) {
	w.m.Notes = append(w.m.Notes, fmt.Sprintf(format, args...))
}

func (w *work) measure(ctx context.Context) error {
	if err := w.look(ctx); err != nil {
		return err
	}
	if err := w.checkKnown(); err != nil {
		return err
	}
	var nonce [8]byte
	if _, err := io.ReadFull(w.s.random, nonce[:]); err != nil {
		return err
	}
	w.run = newRun(nonce, w.from, w.req, w.access)
	if err := w.s.core.Do(ctx, func(*controller.Context) { w.s.app.run = w.run }); err != nil {
		return err
	}
	defer w.clean(ctx)
	var before portCounts
	if w.req.Rates {
		before = w.readPorts(ctx)
	}
	if w.req.Broadcast {
		if err := w.broadcast(ctx); err != nil {
			return err
		}
	}
	w.pairs()
	w.askVIPs()
	if err := w.askProbes(ctx); err != nil {
		return err
	}
	if w.req.MTU != 0 {
		w.links()
	}
	if err := w.fire(ctx, w.questions); err != nil {
		return err
	}
	for _, f := range w.fill {
		f()
	}
	if w.req.Tables {
		w.compare(ctx)
	}
	if w.req.Rates {
		if err := w.rates(ctx, before); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// clean leaves nothing of the measurement behind.
func (w *work) clean(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanMost)
	defer cancel()
	// An error means that the core has stopped; there is nothing to be left behind in it.
	_ = w.s.core.Do(ctx, func(*controller.Context) { w.s.app.run = nil })
}

// look finds out which switches there are to measure from, and what they are attached
// to.
func (w *work) look(ctx context.Context) error {
	all := map[ofproto.DPID]bool{}
	for _, dpid := range w.req.From {
		all[dpid] = false
	}
	w.stages, w.away = map[ofproto.DPID]controller.Stage{}, map[ofproto.DPID]bool{}
	err := w.s.core.Known(ctx, func(c *controller.Context, sw *controller.Switch) {
		w.away[sw.DPID] = !sw.Connected
		if _, asked := all[sw.DPID]; len(w.req.From) > 0 && !asked {
			return
		}
		all[sw.DPID] = true
		w.stages[sw.DPID] = sw.Stage
		why := unfit(sw)
		if why == "" {
			w.from = append(w.from, sw.DPID)
		}
		w.m.Switches = append(w.m.Switches, Switch{DPID: sw.DPID.String(), Stage: sw.Stage.String(), Skipped: why, Deviations: []string{}})
	})
	if err != nil {
		return err
	}
	var invalid InvalidError
	for i, dpid := range w.req.From {
		if !all[dpid] {
			invalid.add(fmt.Sprintf("from[%d]", i), "switch %s is not known", dpid)
		}
	}
	if len(invalid.Errors) > 0 {
		return &invalid
	}
	settle, cancel := context.WithTimeout(ctx, settleMost)
	defer cancel()
	for _, dpid := range w.from {
		if err := w.s.core.Settled(settle, dpid); err != nil && ctx.Err() == nil {
			w.note("switch %s had not taken all that it is to hold when the measurement began", dpid)
		}
	}
	return w.s.core.Do(ctx, func(c *controller.Context) { w.snap = c.Graph.Snapshot() })
}

// unfit says why a switch cannot be measured from; empty: it can.
func unfit(sw *controller.Switch) string {
	base := controller.AppNames[controller.AppMeasure] + "/" + partBase
	switch {
	case !sw.Connected:
		return "not connected"
	case sw.Role == ofproto.RoleSlave:
		return "another controller is its master"
	case sw.Held() != "":
		return "nothing may be written to it: " + sw.Held()
	case sw.Faults[base] != "":
		return "it refused the entries that catch answers: " + sw.Faults[base]
	case sw.Stage != controller.StageManaged && !sw.Capabilities.Normal:
		return "it has no forwarding of its own, which stage " + sw.Stage.String() + " leaves it to"
	}
	return ""
}

// checkKnown says what is wrong with a request in this network.
func (w *work) checkKnown() error {
	var e InvalidError
	for i, a := range w.req.Sources {
		field := fmt.Sprintf("source_addresses[%d]", i)
		for _, v := range w.vips {
			if v.Address == a {
				e.add(field, "%s is the address of VIP %s", a, v.Name)
			}
		}
		for _, h := range w.snap.Hosts() {
			if slices.Contains(h.IPs, a) {
				e.add(field, "%s is the address of a host, %s at %s: it must be nobody's", a, h.MAC, h.Place)
			}
		}
	}
	for i, name := range w.req.VIPs {
		if !slices.ContainsFunc(w.vips, func(v VIP) bool { return v.Name == name }) {
			e.add(fmt.Sprintf("vips[%d]", i), "there is no VIP %q", name)
		}
	}
	if len(e.Errors) > 0 {
		return &e
	}
	return nil
}

// ask has a question asked together with others; done is called when it is settled.
func (w *work) ask(q *question, done func(*question)) {
	w.questions = append(w.questions, q)
	w.fill = append(w.fill, func() { done(q) })
}

// fire asks questions, and returns when all are settled.
func (w *work) fire(ctx context.Context, list []*question) error {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for first := true; ; first = false {
		left := 0
		err := w.s.core.Do(ctx, func(c *controller.Context) {
			if first {
				w.run.add(list)
			}
			w.run.step(c)
			left = w.run.left
		})
		if err != nil || left == 0 {
			return err
		}
		select {
		case <-ticker.C:
		case <-w.run.idle:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// each calls f for each switch that is measured from, some at a time, and waits.
func (w *work) each(f func(ofproto.DPID)) {
	limit := make(chan struct{}, readAtOnce)
	for _, dpid := range w.from {
		limit <- struct{}{}
		go func() {
			defer func() { <-limit }()
			f(dpid)
		}()
	}
	for range readAtOnce {
		limit <- struct{}{}
	}
}

// compare reads the switches and compares what they hold with what they are to hold.
func (w *work) compare(ctx context.Context) {
	type outcome struct {
		list []string
		err  error
	}
	got := make([]outcome, len(w.from))
	w.each(func(dpid ofproto.DPID) {
		i, _ := slices.BinarySearch(w.from, dpid)
		got[i].list, got[i].err = w.s.core.Deviations(ctx, dpid)
	})
	for i, dpid := range w.from {
		at := slices.IndexFunc(w.m.Switches, func(sw Switch) bool { return sw.DPID == dpid.String() })
		if err := got[i].err; err != nil {
			w.note("switch %s could not be read: %s", dpid, err)
			continue
		}
		sw := &w.m.Switches[at]
		sw.Compared, sw.Deviations = true, append(sw.Deviations, got[i].list...)
	}
}

// portCounts are the counters of ports at one time.
type portCounts struct {
	at    map[ofproto.DPID]time.Time
	ports map[topology.Place]ofproto.PortStats
}

func (w *work) readPorts(ctx context.Context) portCounts {
	type outcome struct {
		at    time.Time
		ports []ofproto.PortStats
		err   error
	}
	got := make([]outcome, len(w.from))
	w.each(func(dpid ofproto.DPID) {
		i, _ := slices.BinarySearch(w.from, dpid)
		got[i].err = w.s.core.PortStats(ctx, dpid, func(p ofproto.PortStats) { got[i].ports = append(got[i].ports, p) })
		got[i].at = time.Now()
	})
	counts := portCounts{map[ofproto.DPID]time.Time{}, map[topology.Place]ofproto.PortStats{}}
	for i, dpid := range w.from {
		if got[i].err != nil {
			w.note("the counters of switch %s could not be read: %s", dpid, got[i].err)
			continue
		}
		counts.at[dpid] = got[i].at
		for _, p := range got[i].ports {
			counts.ports[place(dpid, p.Port)] = p
		}
	}
	return counts
}

// rates tells what ports carried since they were read before.
func (w *work) rates(ctx context.Context, before portCounts) error {
	latest := slices.MaxFunc(append(slices.Collect(maps.Values(before.at)), time.Time{}), time.Time.Compare)
	select {
	case <-time.After(time.Until(latest.Add(ratesLeast))):
	case <-ctx.Done():
		return ctx.Err()
	}
	after := w.readPorts(ctx)
	for _, at := range slices.SortedFunc(maps.Keys(after.ports), topology.Place.Compare) {
		now, was := after.ports[at], before.ports[at]
		dpid := ofproto.DPID(at.DPID)
		passed := after.at[dpid].Sub(before.at[dpid]).Seconds()
		if _, ok := before.ports[at]; !ok || passed <= 0 || now.RxPackets < was.RxPackets || now.TxPackets < was.TxPackets {
			continue // the port is new
		}
		w.m.Rates = append(w.m.Rates, PortRate{
			Place: placeOf(at), Rx: float64(now.RxPackets-was.RxPackets) / passed, Tx: float64(now.TxPackets-was.TxPackets) / passed,
		})
	}
	return nil
}
