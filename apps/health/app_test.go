package health_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/health"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// at is one port of a switch.
func at(dpid ofproto.DPID, port ofproto.Port) simswitch.Place {
	return simswitch.Place{DPID: dpid, Port: port}
}

// site is a lab with the health app.
type site struct {
	*lab.Lab
	t        *testing.T
	app      *health.App
	verdicts map[string]health.Verdict
	changes  []change // of verdicts
	repeats  int
}

type change struct {
	health.Verdict
	when time.Time
}

// panics fails a test in whose log something panicked: the core goes on as if nothing
// had been.
type panics struct{ t *testing.T }

func (p panics) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "panicked") {
		p.t.Errorf("%s", line)
	}
	return len(line), nil
}

// open starts a controller with the health app over a network.
func open(t *testing.T, n *simswitch.Network, o lab.Options) *site {
	t.Helper()
	s := &site{t: t, verdicts: map[string]health.Verdict{}}
	s.app = health.New(slog.New(slog.DiscardHandler), func(c *controller.Context, v health.Verdict) {
		if s.verdicts[v.ID] == v {
			s.repeats++
			return
		}
		if old, ok := s.verdicts[v.ID]; !ok || old.Up != v.Up {
			s.changes = append(s.changes, change{v, c.Now})
		}
		s.verdicts[v.ID] = v
	})
	o.Log = panics{t}
	o.Apps = func() []controller.App { return []controller.App{s.app} }
	s.Lab = lab.Start(t, n, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.app.Run(ctx, s.Core.Post) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	s.Settle()
	return s
}

func (s *site) probe(targets ...health.Target) {
	s.t.Helper()
	require.NoError(s.t, s.Core.Post(s.t.Context(), health.Change{Owner: "test", Targets: targets}))
	synctest.Wait()
}

// verdict is the last one of a target: "up", "down: why", "" when there is none.
func (s *site) verdict(id string) (text string) {
	s.t.Helper()
	s.Do(func(*controller.Context) {
		if v, ok := s.verdicts[id]; ok && v.Up {
			text = "up"
		} else if ok {
			text = "down: " + v.Reason
		}
	})
	return text
}

func (s *site) stats() (st health.Stats) {
	s.t.Helper()
	s.Do(func(*controller.Context) { st = s.app.Stats() })
	return st
}

// manner is how a member answers.
type manner struct{ mute, refuse, sctpStray atomic.Bool }

// answer is what a member does with a probe.
func (m *manner) answer(f packet.Frame) [][]byte {
	if m.mute.Load() {
		return nil
	}
	back := simswitch.Headers(f.Bytes()).Reverse()
	src, dst := back.Src.Addr(), back.Dst.Addr()
	switch f.Proto() {
	case packet.ProtoICMP, packet.ProtoICMPv6:
		echo, ok := f.ICMP()
		if !ok {
			echo, _ = f.ICMPv6()
		}
		if echo.Type == packet.ICMPEchoRequest || echo.Type == packet.ICMPv6EchoRequest {
			return [][]byte{packet.AppendEchoFrame(nil, back, true, echo.ID, echo.Seq, f.Payload())}
		}
	case packet.ProtoUDP:
		if !m.refuse.Load() {
			return nil
		}
		quoted := f.Network()
		if src.Is4() {
			b := packet.AppendEthernet(nil, packet.Ethernet{Dst: back.DstMAC, Src: back.SrcMAC, Type: packet.EtherTypeIPv4}, back.Tags...)
			b = packet.AppendIPv4(b, packet.IPv4{TTL: 64, Proto: packet.ProtoICMP, Src: src, Dst: dst}, 8+len(quoted))
			return [][]byte{packet.AppendICMP(b, packet.ICMP{Type: packet.ICMPUnreachable, Code: 3}, quoted)}
		}
		b := packet.AppendEthernet(nil, packet.Ethernet{Dst: back.DstMAC, Src: back.SrcMAC, Type: packet.EtherTypeIPv6}, back.Tags...)
		b = packet.AppendIPv6(b, packet.IPv6{HopLimit: 64, NextHeader: packet.ProtoICMPv6, Src: src, Dst: dst}, 8+len(quoted))
		return [][]byte{packet.AppendICMPv6(b, packet.ICMP{Type: packet.ICMPv6Unreachable, Code: 4}, src, dst, quoted)}
	case packet.ProtoSCTP:
		init := f.Payload()
		if len(init) < 20 || init[0] != 1 {
			return nil
		}
		tag := binary.BigEndian.Uint32(init[4:])
		if m.sctpStray.Load() { // of another association
			return [][]byte{packet.AppendSCTPFrame(nil, back, tag+1, []byte{6, 0, 0, 4})}
		}
		if m.refuse.Load() {
			return [][]byte{packet.AppendSCTPFrame(nil, back, tag, []byte{6, 0, 0, 4})}
		}
		ack := append([]byte{2}, init[1:20]...)
		return [][]byte{packet.AppendSCTPFrame(nil, back, tag, ack)}
	}
	return nil
}

var (
	source4 = netip.MustParseAddr("10.0.0.250")
	source6 = netip.MustParseAddr("2001:db8::250")
)

// line is two switches with a client on the first and members on the second: "four",
// "six", and "tagged" of VLAN 7.
func line(m *manner, o simswitch.Options) *simswitch.Network {
	n := simswitch.NewNetwork()
	for dpid := range ofproto.DPID(2) {
		o.DPID = dpid + 1
		n.AddSwitch(o)
	}
	n.Link(at(1, 10), at(2, 10))
	n.AddHost(simswitch.Host{Name: "client", MAC: packet.MAC{2, 5: 9}, IP: netip.MustParseAddr("10.0.0.9"), At: at(1, 1)})
	n.AddHost(simswitch.Host{Name: "four", MAC: packet.MAC{2, 5: 1}, IP: netip.MustParseAddr("10.0.0.1"), At: at(2, 1), Answer: m.answer})
	n.AddHost(simswitch.Host{Name: "six", MAC: packet.MAC{2, 5: 2}, IP: netip.MustParseAddr("2001:db8::1"), At: at(2, 2), Answer: m.answer})
	n.AddHost(simswitch.Host{Name: "tagged", MAC: packet.MAC{2, 5: 3}, IP: netip.MustParseAddr("10.0.0.1"), VLAN: 7, At: at(2, 3), Answer: m.answer})
	return n
}

// targets of every kind that needs one packet, on every host that answers.
func (s *site) targets() (all []health.Target) {
	for _, name := range []string{"four", "six", "tagged"} {
		h := s.Host(name)
		for i, typ := range []health.Type{health.Ping, health.UDPConnect, health.SCTP} {
			t := health.Target{
				ID: name + " " + string(typ), Type: typ, Address: h.IP, Port: uint16(1000 + i), Source: source4, Answer: true, VLAN: h.VLAN,
				Interval: time.Second, Timeout: 400 * time.Millisecond, Rise: 2, Fall: 2,
			}
			if h.IP.Is6() {
				t.Source = source6
			}
			all = append(all, t)
		}
	}
	return all
}

// Every kind of probe, family and VLAN, in every stage and on switches of one table:
// probes cross switches, what answers is up, what refuses or is silent is down in
// time, and nobody else sees a packet of it.
func TestProbesOfOnePacket(t *testing.T) {
	for name, o := range map[string]struct {
		lab lab.Options
		sw  simswitch.Options
	}{
		"observe":       {lab: lab.Options{Observe: true}},
		"steer":         {lab: lab.Options{Stage: controller.StageSteer}},
		"managed":       {},
		"one table":     {sw: simswitch.Options{Tables: 1}},
		"no port masks": {sw: simswitch.Options{NoNicira: true}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &manner{}
				s := open(t, line(m, o.sw), o.lab)
				for _, h := range []string{"four", "six", "tagged"} {
					s.Announce(h)
				}
				s.Pass(time.Second)
				s.Forget()
				all := s.targets()
				s.probe(all...)
				s.Pass(time.Second)
				s.NoFaults()
				for _, to := range all {
					require.Equal(t, "up", s.verdict(to.ID), to.ID)
				}
				for _, f := range s.Seen("client") {
					d, err := packet.Decode(f)
					require.NoError(t, err)
					require.Equal(t, packet.EtherTypeLLDP, d.EtherType(), "the client sees %x", f)
				}

				limit := 2*time.Second + 400*time.Millisecond
				m.refuse.Store(true)
				began := time.Now()
				s.Pass(limit)
				for _, to := range all {
					want := map[health.Type]string{
						health.Ping: "up", health.UDPConnect: "down: UDP port unreachable", health.SCTP: "down: SCTP association refused (ABORT)",
					}[to.Type]
					require.Equal(t, want, s.verdict(to.ID), to.ID)
				}
				for _, c := range s.changes {
					require.True(t, c.Up || c.when.Sub(began) <= limit)
				}
				m.refuse.Store(false)
				m.mute.Store(true)
				s.Pass(limit)
				for _, to := range all {
					want := "up" // silence
					if to.Type != health.UDPConnect {
						want = "down: no answer within 400ms"
					}
					require.Equal(t, want, s.verdict(to.ID), to.ID)
				}

				// Who is asked for is found, and nothing stays behind.
				s.probe()
				s.Pass(time.Second)
				for _, sw := range s.Switches() {
					for _, f := range sw.Flows() {
						require.NotEqual(t, controller.AppHealth, flowtable.CookieApp(f.Cookie), "left behind: %v", f)
					}
				}
				require.Empty(t, s.stats().Targets)
			})
		})
	}
}

// up opens a site whose members have made themselves known.
func up(t *testing.T, m *manner, o lab.Options) *site {
	s := open(t, line(m, simswitch.Options{}), o)
	for _, h := range []string{"four", "six", "tagged"} {
		s.Announce(h)
	}
	s.Pass(time.Second)
	s.Forget()
	return s
}

func (s *site) target(id string, typ health.Type, addr string) health.Target {
	t := health.Target{
		ID: id, Type: typ, Address: netip.MustParseAddr(addr), Port: 1000, Source: source4,
		Interval: time.Second, Timeout: 400 * time.Millisecond, Rise: 2, Fall: 2,
	}
	if t.Address.Is6() {
		t.Source = source6
	}
	return t
}

// A source address of ours is answered for, in every VLAN and family that has it, and
// only where targets say so.
func TestSourceIsAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := up(t, &manner{}, lab.Options{})
		all := s.targets()
		s.probe(all...)
		s.Pass(time.Second)
		s.Forget()
		ask := func(name string) (answers int) {
			h := s.Host(name)
			if h.IP.Is4() {
				s.Send(name, packet.AppendARPRequest(nil, h.MAC, h.IP, source4, h.Tags()...))
			} else {
				s.Send(name, packet.AppendNeighborSolicitation(nil, h.MAC, h.IP, source6, h.Tags()...))
			}
			synctest.Wait()
			for _, b := range s.Received(name) {
				f, err := packet.Decode(b)
				require.NoError(t, err)
				require.True(t, f.ChecksumsOK())
				if tag, _ := f.VLAN(); tag.ID != h.VLAN {
					continue
				}
				if a, ok := f.ARP(); ok && a.Op == packet.ARPReply && a.SPA == source4 && a.SHA == packet.MAC(controller.ProbeMAC) {
					answers++
				}
				if n, ok := f.ND(); ok && n.Type == packet.ICMPv6NeighborAdvertisement && n.Target == source6 {
					mac, _ := n.LinkAddr(packet.NDTargetLinkAddr)
					require.Equal(t, packet.MAC(controller.ProbeMAC), mac)
					answers++
				}
			}
			return answers
		}
		for _, name := range []string{"four", "six", "tagged", "client"} {
			require.Equal(t, 1, ask(name), name)
		}
		for i := range all {
			all[i].Answer = false
		}
		s.probe(all...)
		s.Pass(100 * time.Millisecond)
		for _, name := range []string{"four", "six", "tagged", "client"} {
			require.Zero(t, ask(name), name)
		}
	})
}

// A target that is nowhere is asked for; it is down for that reason, and probed as
// soon as it turns up.
func TestTargetWithoutPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, line(&manner{}, simswitch.Options{}), lab.Options{})
		s.probe(s.target("quiet", health.Ping, "10.0.0.1"), s.target("quiet6", health.Ping, "2001:db8::1"), s.target("nobody", health.Ping, "10.0.0.77"))
		s.Pass(10 * time.Millisecond)
		require.Equal(t, "up", s.verdict("quiet"), "who has not said a word is found by ARP")
		require.Equal(t, "up", s.verdict("quiet6"), "or by neighbour discovery")
		require.Equal(t, "", s.verdict("nobody"))
		s.Pass(3 * time.Second)
		require.Equal(t, "down: is not known in the network: does not answer ARP or neighbour discovery", s.verdict("nobody"))
		s.AddHost(simswitch.Host{Name: "late", MAC: packet.MAC{2, 5: 7}, IP: netip.MustParseAddr("10.0.0.77"), At: at(1, 3), Answer: (&manner{}).answer})
		s.Pass(2 * time.Second) // the port settles
		s.Announce("late")
		s.Pass(2 * time.Second)
		require.Equal(t, "up", s.verdict("nobody"))

		s.Switch(1).SetPort(3, false)
		s.Pass(2500 * time.Millisecond)
		require.Contains(t, []string{"down: port 0000000000000001/3 is down", "down: is not known in the network: does not answer ARP or neighbour discovery"}, s.verdict("nobody"))
	})
}

// While the switch of a member is not connected nothing is known of the member, and
// what was known stays, until the switch is given up.
func TestSwitchWithoutSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manner{}
		s := up(t, m, lab.Options{})
		s.probe(s.target("a", health.Ping, "10.0.0.1"))
		s.Pass(time.Second)
		require.Equal(t, "up", s.verdict("a"))
		s.Disconnect(2)
		m.mute.Store(true)
		s.Pass(20 * time.Second)
		require.Equal(t, "up", s.verdict("a"))
		m.mute.Store(false)
		s.Connect(2)
		s.Pass(2 * time.Second)
		require.Equal(t, "up", s.verdict("a"))
		s.Disconnect(2)
		m.mute.Store(true)
		s.Pass(40 * time.Second)
		require.Contains(t, s.verdict("a"), "down: is not known")
		s.Connect(2)
		m.mute.Store(false)
		s.Pass(4 * time.Second)
		s.Announce("four")
		s.Pass(4 * time.Second)
		require.Equal(t, "up", s.verdict("a"))
	})
}

// Targets are probed as soon as their switch is back, however long the interval.
func TestSwitchComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manner{}
		s := up(t, m, lab.Options{})
		s.Disconnect(2)
		s.Pass(time.Second)
		a := s.target("a", health.Ping, "10.0.0.1")
		a.Interval = time.Hour
		s.probe(a)
		s.Pass(10 * time.Second)
		require.Equal(t, "", s.verdict("a"))
		s.Connect(2)
		s.Pass(time.Second)
		require.Equal(t, "up", s.verdict("a"))
	})
}

// Verdicts are given again and again, so that one that was lost does no harm.
func TestVerdictsAreRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := up(t, &manner{}, lab.Options{})
		s.probe(s.target("a", health.Ping, "10.0.0.1"), s.target("b", health.Ping, "2001:db8::1"))
		s.Pass(time.Minute)
		s.Do(func(*controller.Context) {
			require.InDelta(t, 12, s.repeats, 2)
			require.Equal(t, []health.Verdict{{ID: "a", Up: true}, {ID: "b", Up: true}}, s.app.Verdicts())
		})
	})
}

// The probes of many targets that come together are spread out, and none is late.
func TestStarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := up(t, &manner{}, lab.Options{})
		perMillisecond := map[int64]int{}
		n := map[uint16][]time.Time{}
		s.Tap = func(from simswitch.Place, frame []byte) {
			f, err := packet.Decode(frame)
			if port, to, ok := f.Ports(); err == nil && ok && port >= 0xf000 && from == at(2, 1) {
				perMillisecond[time.Now().UnixMilli()]++
				n[to] = append(n[to], time.Now())
			}
		}
		var all []health.Target
		for i := range 1000 {
			to := s.target(fmt.Sprint(i), health.UDPConnect, "10.0.0.1")
			to.Port = uint16(i + 1)
			all = append(all, to)
		}
		s.probe(all...)
		s.Pass(30 * time.Second)
		s.Do(func(*controller.Context) {})
		most := 0
		for _, c := range perMillisecond {
			most = max(most, c)
		}
		require.Less(t, most, 12, "probes in one millisecond, 1 on average")
		require.Len(t, n, 1000)
		for port, times := range n {
			for i := 1; i < len(times); i++ {
				gap := times[i].Sub(times[i-1])
				require.LessOrEqual(t, gap, time.Second+2*time.Millisecond, "%d", port)
				require.GreaterOrEqual(t, gap, 898*time.Millisecond, "%d", port)
			}
		}
		st := s.stats()
		require.Equal(t, map[health.Status]int{health.Up: 1000}, st.Targets)
		require.Zero(t, st.Deferred)
		require.Zero(t, st.Dropped)
	})
}

// An SCTP packet of another association, and replies that are not asked for, are no
// answer.
func TestStrayReplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manner{}
		m.sctpStray.Store(true)
		s := up(t, m, lab.Options{})
		s.probe(s.target("a", health.SCTP, "10.0.0.1"), s.target("b", health.Ping, "10.0.0.1"))
		h := s.Host("four")
		flow := packet.Flow{SrcMAC: h.MAC, DstMAC: packet.MAC(controller.ProbeMAC), Src: h.AddrPort(1000), Dst: netip.AddrPortFrom(source4, 0xf123)}
		s.Send("four", packet.AppendSCTPFrame(nil, flow, 1, []byte{2, 0, 0, 20}))
		s.Send("four", packet.AppendEchoFrame(nil, flow, true, 7, 7, nil))
		s.Pass(3 * time.Second)
		require.Equal(t, "down: no answer within 400ms", s.verdict("a"))
		require.Equal(t, "up", s.verdict("b"))
	})
}

// A target that is probed otherwise keeps what is known of it; one that leaves and
// comes back is unknown.
func TestTargetsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &manner{}
		s := up(t, m, lab.Options{})
		a := s.target("a", health.SCTP, "10.0.0.1")
		s.probe(a)
		s.Pass(time.Second)
		require.Equal(t, "up", s.verdict("a"))
		m.mute.Store(true)
		a.Port++
		s.probe(a)
		s.Pass(500 * time.Millisecond)
		s.Do(func(*controller.Context) {
			require.Equal(t, map[health.Status]int{health.Up: 1}, s.app.Stats().Targets)
		})
		s.Pass(2 * time.Second)
		require.Equal(t, "down: no answer within 400ms", s.verdict("a"))
		s.probe()
		s.probe(a)
		s.Do(func(*controller.Context) {
			require.Equal(t, map[health.Status]int{health.Unknown: 1}, s.app.Stats().Targets)
		})
		require.NoError(t, s.Core.Post(t.Context(), health.Change{Owner: "other", Targets: []health.Target{a, {ID: "mine"}, {ID: "mine"}}}))
		s.Pass(3 * time.Second)
		require.Equal(t, "down: no such kind of probe: ", s.verdict("mine"))
		require.NoError(t, s.Core.Post(t.Context(), health.Change{Owner: "other"}))
		s.Do(func(*controller.Context) { require.Len(t, s.app.Verdicts(), 1) })
	})
}
