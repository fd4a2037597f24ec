package health_test

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net/netip"
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
