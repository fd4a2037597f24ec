package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// fakeMeasurer measures two switches, one of which is away.
type fakeMeasurer struct{}

func (fakeMeasurer) Measure(_ context.Context, req reachability.Request) (reachability.Measurement, error) {
	const one, two = "0000000000000001", "0000000000000002"
	yes, no := reachability.Reply{Result: reachability.Answered, Tries: 1}, reachability.Reply{Result: reachability.NoAnswer, Tries: 3, Reason: "no answer"}
	refused := reachability.Reply{Result: reachability.NoAnswer, Tries: 3, Reason: "connection refused\x1b[2J"}
	host := func(from, addr string, vlan uint16, r reachability.Reply) reachability.Pair {
		return reachability.Pair{From: from, Address: netip.MustParseAddr(addr), MAC: "02:00:00:00:00:02", VLAN: vlan, At: reachability.Place{DPID: two, Port: 3}, Reply: r}
	}
	a, b := reachability.Place{DPID: one, Port: 1}, reachability.Place{DPID: two, Port: 2}
	m := reachability.Measurement{
		Took: "12ms", Switches: []reachability.Switch{{DPID: one, Compared: true}, {DPID: two, Compared: true, Deviations: []string{"group 7: missing (balancer vip/web)"}}, {DPID: "000000000000000a", Skipped: "not connected"}},
		Pairs: []reachability.Pair{host(one, "10.0.0.2", 0, yes), host(two, "10.0.0.2", 0, yes), host(one, "10.0.0.3", 7, yes), host(two, "10.0.0.3", 7, no)},
		Notes: []string{"hosts without an address that is known were not asked: 1"},
	}
	for _, v := range req.VIPs {
		m.VIPs = append(m.VIPs, reachability.VIPAnswer{From: two, VIP: v, Listener: "tcp:80", By: "tcp", Reply: refused})
	}
	for _, p := range req.Probes {
		m.Probes = append(m.Probes, reachability.ProbeAnswer{From: one, Probe: p, Reply: yes})
	}
	if req.Broadcast {
		m.Copies = []reachability.Copies{{From: one, To: two, Count: 2}}
	}
	if req.MTU != 0 {
		m.Links = []reachability.LinkAnswer{{From: a, To: b, MTU: req.MTU, Small: true}}
	}
	if req.Rates {
		m.Rates = []reachability.PortRate{{Place: a, Rx: 10.4, Tx: 2000}}
	}
	return m, nil
}

func TestReachabilityIsPrinted(t *testing.T) {
	r := newRig(t)
	golden(t, "reachability.txt", r.done("reachability --source 10.0.0.250,2001:db8::250 --vip web --probe tcp:[2001:db8::9]:22 --probe arp:10.0.0.9 --broadcast --mtu 1500 --rates --tables --from 1"))
	require.Contains(t, r.done("reachability -o json"), `"result": "no_answer"`)
	for _, line := range []string{"reachability web", "reachability --probe 10.0.0.1", "reachability --probe tcp:10.0.0.1", "reachability --source x", "reachability --from x", "reachability --timeout 0s"} {
		r.fails(exitUsage, line)
	}
}

// station is a host that accepts connections on one port, and answers pings, of whoever
// it can find the Ethernet address of by asking for it.
type station struct {
	port    uint16
	own     netip.Addr // that it asks in the name of; by default the address that it was asked at
	refuses bool
	waiting [][]byte // until it knows where to send them
	resets  int
}

func (s *station) answer(f packet.Frame) [][]byte {
	if a, ok := f.ARP(); ok {
		if a.Op != packet.ARPReply {
			return nil
		}
		return s.flush(a.SHA)
	}
	if n, ok := f.ND(); ok {
		if mac, ok := n.LinkAddr(packet.NDTargetLinkAddr); ok && n.Type == packet.ICMPv6NeighborAdvertisement {
			return s.flush(mac)
		}
		return nil
	}
	back := simswitch.Headers(f.Bytes()).Reverse()
	if h, ok := f.TCP(); ok {
		switch {
		case h.Flags&packet.TCPRst != 0:
			s.resets++
			return nil
		case h.DstPort != s.port || h.Flags != packet.TCPSyn:
			return nil
		}
		flags := packet.TCPSyn | packet.TCPAck
		if s.refuses {
			flags = packet.TCPRst | packet.TCPAck
		}
		s.waiting = append(s.waiting, packet.AppendTCPFrame(nil, back, packet.TCP{Flags: flags, Ack: h.Seq + 1, Seq: 7, Window: 1000}, nil))
		return s.ask(back)
	}
	m, ok := f.ICMP()
	if !ok {
		m, ok = f.ICMPv6()
	}
	if ok && (m.Type == packet.ICMPEchoRequest || m.Type == packet.ICMPv6EchoRequest) {
		s.waiting = append(s.waiting, packet.AppendEchoFrame(nil, back, true, m.ID, m.Seq, f.Payload()))
		return s.ask(back)
	}
	return nil
}

func (s *station) ask(back packet.Flow) [][]byte {
	src, dst := back.Src.Addr(), back.Dst.Addr()
	if s.own.IsValid() {
		src = s.own
	}
	if dst.Is4() {
		return [][]byte{packet.AppendARPRequest(nil, back.SrcMAC, src, dst, back.Tags...)}
	}
	return [][]byte{packet.AppendNeighborSolicitation(nil, back.SrcMAC, src, dst, back.Tags...)}
}

func (s *station) flush(mac packet.MAC) [][]byte {
	out := s.waiting
	s.waiting = nil
	for _, f := range out {
		copy(f, mac[:])
	}
	return out
}

// measured is a lab with the balancer and what measures it.
type measured struct {
	*lab.Lab
	vips    *balancer.Service
	service *reachability.Service
	m2, m3  *station
}

// measuredLab is three switches in a row: a client at the first, a member of each family
// at the second and the third.
func measuredLab(t *testing.T, stage controller.Stage, o simswitch.Options) *measured {
	return measuredMode(t, stage, o, balancer.ModeNAT, 0)
}

// measuredMode is measuredLab with VIPs of another mode, or of a VLAN.
func measuredMode(t *testing.T, stage controller.Stage, o simswitch.Options, mode balancer.Mode, vlan uint16) *measured {
	s := &measured{m2: &station{port: 8080}, m3: &station{port: 8080}}
	own := [2]netip.Addr{}
	if mode == balancer.ModeDSR { // the VIP's address is one of theirs, that they answer nobody's questions for
		s.m2.port, s.m3.port = 80, 80
		own = [2]netip.Addr{netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::3")}
		s.m2.own, s.m3.own = netip.MustParseAddr("10.0.9.2"), netip.MustParseAddr("10.0.9.3")
	}
	n := lab.Build(3, o, [2]int{1, 2}, [2]int{2, 3})
	for _, h := range []struct {
		name string
		ip   string
		at   simswitch.Place
		s    *station
	}{
		{"m2", "10.0.9.2", simswitch.Place{DPID: 2, Port: 101}, s.m2}, {"m3", "10.0.9.3", simswitch.Place{DPID: 3, Port: 101}, s.m3},
		{"s2", "2001:db8::2", simswitch.Place{DPID: 2, Port: 102}, &station{port: s.m2.port, own: own[0]}}, {"s3", "2001:db8::3", simswitch.Place{DPID: 3, Port: 102}, &station{port: s.m2.port, own: own[1]}},
	} {
		n.AddHost(simswitch.Host{Name: h.name, MAC: packet.MAC{0x0e, 9, 0, 0, byte(h.at.Port), byte(h.at.DPID)}, IP: netip.MustParseAddr(h.ip), VLAN: vlan, At: h.at, Answer: h.s.answer})
	}
	db, err := store.Open(t.TempDir(), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	var core *controller.Controller
	intents := balancer.NewIntents(db, time.Now, func(c balancer.Change) { require.NoError(t, core.Post(context.Background(), c)) })
	app, probes := balancer.NewApp(nil, intents.SaveOwners), reachability.New()
	s.Lab = lab.Start(t, n, lab.Options{Stage: stage, Virtual: app.Virtual, Apps: func() []controller.App { return []controller.App{app, probes} }})
	core = s.Core
	s.vips = balancer.NewService(intents, app, core)
	s.service = reachability.NewService(probes, core, measuredVIPs(s.vips), func(context.Context) (reachability.AccessPorts, error) { return nil, nil }, rand.Reader)
	s.Settle()
	for _, h := range n.Hosts() {
		s.Announce(h)
	}
	for name, a := range map[string]string{"web": "10.0.100.1", "six": "2001:db8::64"} {
		v := balancer.VIP{Address: netip.MustParseAddr(a), Name: name, Mode: mode, VLAN: vlan, Enabled: true, OnEmpty: balancer.OnEmptyDrop}
		members := []string{"10.0.9.2", "10.0.9.3"}
		if v.Address.Is6() {
			members = []string{"2001:db8::2", "2001:db8::3"}
		}
		for _, protocol := range []balancer.Protocol{balancer.TCP, balancer.UDP} {
			l := balancer.Listener{Protocol: protocol, Port: 80, Pool: balancer.Pool{Persistence: balancer.PersistenceNone}}
			for _, m := range members {
				l.Pool.Members = append(l.Pool.Members, balancer.Member{Address: netip.MustParseAddr(m), Port: s.m2.port, Weight: 1, AdminState: balancer.AdminUp})
			}
			v.Listeners = append(v.Listeners, l)
		}
		_, _, err := s.vips.Put(t.Context(), v, balancer.Condition{})
		require.NoError(t, err)
	}
	s.Settle()
	s.NoFaults()
	return s
}

var (
	source4 = netip.MustParseAddr("10.0.200.1")
	source6 = netip.MustParseAddr("2001:db8::200")
)

// A VIP answers from every switch that serves it, in its own name, in both families, and
// the connection is reset. Without a source its members are asked. A further question is
// answered, or not, as its target does.
func TestMeasuredVIPs(t *testing.T) {
	for name, o := range map[string]struct {
		stage controller.Stage
		sw    simswitch.Options
	}{
		"managed":          {stage: controller.StageManaged},
		"steer":            {stage: controller.StageSteer},
		"one table":        {stage: controller.StageManaged, sw: simswitch.Options{Tables: 1}},
		"no Open vSwitch":  {stage: controller.StageManaged, sw: simswitch.Options{NoNicira: true}},
		"steer, one table": {stage: controller.StageSteer, sw: simswitch.Options{Tables: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := measuredLab(t, o.stage, o.sw)
				req := reachability.Request{
					VIPs: []string{"web", "six"}, Sources: []netip.Addr{source4, source6},
					Probes: []documents.Probe{
						{Type: documents.ProbePing, Address: netip.MustParseAddr("10.0.9.3")},
						{Type: documents.ProbeTCP, Address: netip.MustParseAddr("10.0.100.1"), Port: 80},
						{Type: documents.ProbeTCP, Address: netip.MustParseAddr("10.0.9.2"), Port: 22},
						{Type: documents.ProbeARP, Address: netip.MustParseAddr("10.0.66.66")},
						{Type: documents.ProbePing, Address: netip.MustParseAddr("10.0.66.66")},
						{Type: documents.ProbePing, Address: netip.MustParseAddr("2001:db8::64")},
						{Type: documents.ProbePing, Address: netip.MustParseAddr("2001:db8::3")},
						{Type: documents.ProbeTCP, Address: netip.MustParseAddr("10.0.9.2"), Port: 8080},
					},
				}
				m, err := s.service.Measure(t.Context(), req)
				require.NoError(t, err)
				require.Len(t, m.VIPs, 12)
				for _, v := range m.VIPs {
					require.Equal(t, map[string]string{"tcp:80": "tcp", "udp:80": "members"}[v.Listener], v.By)
					require.Equal(t, reachability.Answered, v.Result, "%+v", v)
				}
				s.Pass(time.Second)
				require.Positive(t, s.m2.resets+s.m3.resets)
				wanted := []reachability.Result{reachability.Answered, reachability.Answered, reachability.NoAnswer, reachability.NoAnswer, reachability.NoAnswer, reachability.Skipped, reachability.Answered, reachability.Answered}
				for i, p := range m.Probes {
					require.Equal(t, wanted[i/3], p.Result, "%+v", p)
				}
				require.Equal(t, "it is a member of VIP web, in whose name it answers to whoever asks: 10.0.100.1:80", m.Probes[len(m.Probes)-1].Reason)
				require.Equal(t, []string{
					"VIP web udp:80: nothing that is sent to it has to be answered; its members were asked for by their addresses instead",
					"VIP six udp:80: nothing that is sent to it has to be answered; its members were asked for by their addresses instead",
				}, m.Notes)

				req.Sources, req.Probes = nil, nil
				m, err = s.service.Measure(t.Context(), req)
				require.NoError(t, err)
				require.Len(t, m.VIPs, 12)
				for _, v := range m.VIPs {
					require.Equal(t, "members", v.By)
					require.Equal(t, reachability.Answered, v.Result, "%+v", v)
				}
			})
		})
	}
}

// VIPs in mode dsr, and of a VLAN, answer as others do.
func TestMeasuredModes(t *testing.T) {
	for _, mode := range []balancer.Mode{balancer.ModeNAT, balancer.ModeDSR} {
		for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
			for _, vlan := range []uint16{0, 7} {
				t.Run(fmt.Sprintf("%s, %s, VLAN %d", mode, stage, vlan), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := measuredMode(t, stage, simswitch.Options{}, mode, vlan)
						req := reachability.Request{
							Hosts: true, VIPs: []string{"web", "six"}, Sources: []netip.Addr{source4, source6},
							Probes: []documents.Probe{
								{Type: documents.ProbeTCP, Address: netip.MustParseAddr("10.0.100.1"), Port: 80, VLAN: vlan},
								{Type: documents.ProbePing, Address: netip.MustParseAddr("10.0.9.3"), VLAN: vlan},
								{Type: documents.ProbeTCP, Address: netip.MustParseAddr("10.0.9.2"), Port: s.m2.port, VLAN: vlan},
							},
						}
						m, err := s.service.Measure(t.Context(), req)
						require.NoError(t, err)
						require.Len(t, m.VIPs, 12)
						for _, v := range m.VIPs {
							require.Equal(t, reachability.Answered, v.Result, "%+v", v)
							require.Empty(t, v.Reason)
						}
						for _, p := range m.Probes {
							require.Equal(t, reachability.Answered, p.Result, "%+v", p)
							require.Equal(t, mode == balancer.ModeNAT && p.Address == netip.MustParseAddr("10.0.9.2"), p.Reason != "", p.Reason)
						}
						for _, p := range m.Pairs {
							require.Equal(t, reachability.Answered, p.Result, "%+v", p)
						}
						s.Pass(time.Second)
						require.Positive(t, s.m2.resets+s.m3.resets)
						s.m2.refuses, s.m3.refuses = true, true
						m, err = s.service.Measure(t.Context(), req)
						require.NoError(t, err)
						require.Equal(t, "connection refused", m.VIPs[0].Reason)
					})
				})
			}
		}
	}
}

func TestAccessPortsOf(t *testing.T) {
	port := func(ofport, tag int, mode string) ovsdb.Port {
		return ovsdb.Port{Tag: tag, VLANMode: mode, Interfaces: []ovsdb.Interface{{OFPort: ofport}}}
	}
	views := []ovsdb.View{
		{Bridge: ovsdb.Bridge{DPID: "00000000000000a1", Ports: []ovsdb.Port{
			port(1, 7, ""), port(2, 8, "access"), port(3, 9, "native-untagged"), port(4, 10, "trunk"), port(5, -1, ""), port(6, 0, ""), port(-1, 7, ""), port(7, 7, "dot1q-tunnel"),
		}}},
		{Bridge: ovsdb.Bridge{Ports: []ovsdb.Port{port(1, 7, "")}}}, // has no datapath id yet
	}
	require.Equal(t, reachability.AccessPorts{{DPID: 0xa1, Port: 1}: 7, {DPID: 0xa1, Port: 2}: 8, {DPID: 0xa1, Port: 3}: 9}, accessPortsOf(views))
}

// A VIP that fails is told with its reason.
func TestMeasuredVIPFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := measuredLab(t, controller.StageManaged, simswitch.Options{})
		req := reachability.Request{VIPs: []string{"web"}, Sources: []netip.Addr{source4}}
		before, err := s.service.Measure(t.Context(), req)
		require.NoError(t, err)

		s.m2.refuses, s.m3.refuses = true, true
		m, err := s.service.Measure(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, "connection refused", m.VIPs[0].Reason)
		worse := reachability.Worse(before, m)
		require.Len(t, worse, 3)
		require.Equal(t, "VIP web tcp:80 does not answer from switch 0000000000000001 any more (answered before): connection refused", worse[0].Text)
		s.m2.refuses, s.m3.refuses = false, false

		// Somebody takes the reply's way past what makes it the VIP's.
		for _, sw := range s.Switches() {
			require.Nil(t, sw.Apply(&ofproto.FlowMod{Table: controller.TableVIP, Priority: 60000, BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
				Match:        ofproto.NewMatch(ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(packet.ProtoTCP), ofproto.TCPSrc(8080)),
				Instructions: []ofproto.Instruction{ofproto.GotoTable{Table: controller.TableDestination}}}))
		}
		m, err = s.service.Measure(t.Context(), req)
		require.NoError(t, err)
		require.Equal(t, reachability.NoAnswer, m.VIPs[0].Result)
		require.Contains(t, m.VIPs[0].Reason, "answered in its own name at switch 000000000000000")

		// An address that is in use is refused.
		for field, r := range map[string]reachability.Request{
			"source_addresses[0]": {Sources: []netip.Addr{netip.MustParseAddr("10.0.9.2")}},
			"vips[1]":             {VIPs: []string{"web", "none"}},
			"from[0]":             {From: []ofproto.DPID{9}},
		} {
			_, err = s.service.Measure(t.Context(), r)
			var invalid *reachability.InvalidError
			require.ErrorAs(t, err, &invalid)
			require.True(t, slices.ContainsFunc(invalid.Errors, func(e documents.FieldError) bool { return e.Field == field }), err)
		}
		_, err = s.service.Measure(t.Context(), reachability.Request{Sources: []netip.Addr{netip.MustParseAddr("10.0.100.1")}})
		require.ErrorContains(t, err, "is the address of VIP web")
	})
}
