package balancer_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

const bridgeID ofproto.DPID = 99

// bridge plugs a legacy bridge, which learns, into ports of switches, with hosts behind it
// that are called as they are numbered.
func (s *site) bridge(hosts []byte, plugs ...place) {
	s.t.Helper()
	b := s.AddSwitch(simswitch.Options{DPID: bridgeID})
	require.Nil(s.t, b.Apply(&ofproto.FlowMod{
		BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
		Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(ofproto.PortNormal)}}},
	}))
	for i, p := range plugs {
		s.Link(place{DPID: bridgeID, Port: ofproto.Port(1 + i)}, p)
	}
	for i, n := range hosts {
		old(s.Network, fmt.Sprintf("h%d", n), n, place{DPID: bridgeID, Port: ofproto.Port(100 + i)})
	}
	s.Pass(10 * time.Second)
	s.learn()
}

// toVIP is the i-th packet from a host to a VIP: each is from another address.
func (s *site) toVIP(from string, i int, rec balancer.Record) (packet.Flow, []byte) {
	h, l := s.Host(from), rec.VIP.Listeners[0]
	src := netip.AddrFrom4([4]byte{10, 9, byte(7 * i), byte(11*i + i/3)})
	f := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: netip.AddrPortFrom(src, uint16(1000+2*i)), Dst: netip.AddrPortFrom(rec.VIP.Address, l.Port)}
	return f, frame(l.Protocol, f)
}

// passes requires that a bridge sends what one host sends to another to that one alone.
func (s *site) passes(from, to string) {
	s.t.Helper()
	a, b := s.Host(from), s.Host(to)
	who, _ := s.takes(from, packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.AddrPort(1), Dst: b.AddrPort(2)}, nil))
	require.Equal(s.t, to, who, "who gets what %s sends to %s", from, to)
}

// A client has members behind the bridge that it is behind itself, and one elsewhere. What
// comes back to the bridge has the VIP's MAC, so that the bridge goes on knowing where the
// client is; what goes elsewhere has the client's.
func TestBackIntoTheSegment(t *testing.T) {
	for kind, o := range modeSwitches {
		for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
			for _, w := range []service{
				{protocol: balancer.TCP}, {protocol: balancer.UDP}, {protocol: balancer.TCP, persistence: balancer.PersistenceSourceIP},
				{protocol: balancer.SCTP, port: 1, end: 65535},
			} {
				t.Run(fmt.Sprintf("%s %s %s %s", kind, stage, w.protocol, w.persistence), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := lab.Build(1, o)
						lab.AddHost(n, 2, place{DPID: 1, Port: 102})
						s := open(t, t.TempDir(), n, lab.Options{Stage: stage})
						s.bridge([]byte{91, 92, 93, 94, 95}, place{DPID: 1, Port: 300})
						w.addr, w.members = vipAddr, []string{"h2", "h93", "h94"}
						if w.port == 0 {
							w.port, w.memberPort = 80, 80
						} else {
							w.memberPort = 1
						}
						v := s.vip(w)
						v.Mode = balancer.ModeDSR
						rec := s.put(v)
						count := map[string]int{}
						for i := range 90 {
							from := []string{"h91", "h95", "h1"}[i%3]
							require.Equal(t, 1, s.asks(from, vipAddr))
							want, request := s.toVIP(from, i, rec)
							who, got := s.takes(from, request)
							require.NotEmpty(t, who, "nobody got request %d of %s", i, from)
							count[who]++
							want.DstMAC = s.Host(who).MAC
							if who != "h2" && from != "h1" {
								want.SrcMAC = rec.VIP.MAC
							}
							require.Equal(t, want, simswitch.Headers(got), "%s to %s", from, who)
							s.intact(got)
							back := want.Reverse()
							back.SrcMAC, back.DstMAC = s.Host(who).MAC, s.Host(from).MAC
							to, _ := s.takes(who, frame(w.protocol, back))
							require.Equal(t, from, to, "who gets the reply of %s", who)
							s.passes("h92", from)
						}
						require.Len(t, count, 3, "%v", count)
						for _, h := range s.Snapshot().Hosts() {
							require.NotEqual(t, rec.VIP.MAC, ofproto.MAC(h.MAC), "the VIP is taken for a host")
						}
					})
				})
			}
		}
	}
}

// A bridge with a client is between two managed domains: one answers for the VIP, and the
// members are in the other.
func TestBackAcrossTheSegment(t *testing.T) {
	for kind, o := range modeSwitches {
		for _, mode := range []balancer.Mode{balancer.ModeNAT, balancer.ModeDSR} {
			t.Run(fmt.Sprintf("%s %s", kind, mode), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := lab.Build(2, o)
					lab.AddHost(n, 3, place{DPID: 2, Port: 103})
					lab.AddHost(n, 4, place{DPID: 2, Port: 104})
					s := open(t, t.TempDir(), n, lab.Options{})
					s.bridge([]byte{91, 92}, legacy(1, 1), legacy(2, 1))
					w := service{addr: vipAddr, protocol: balancer.TCP, port: 80, memberPort: 8080, members: []string{"h2", "h3"}}
					if mode == balancer.ModeDSR {
						w.memberPort = 80
					}
					v := s.vip(w)
					v.Mode = mode
					rec := s.put(v)
					count := map[string]int{}
					for i := range 40 {
						require.Equal(t, 1, s.asks("h91", vipAddr))
						sent, request := s.toVIP("h91", i, rec)
						who, got := s.takes("h91", request)
						require.NotEmpty(t, who, "nobody got request %d", i)
						count[who]++
						want := packet.Flow{SrcMAC: rec.VIP.MAC, DstMAC: s.Host(who).MAC, Src: sent.Src, Dst: sent.Dst}
						if mode == balancer.ModeNAT {
							want.Dst = s.Host(who).AddrPort(8080)
						}
						require.Equal(t, want, simswitch.Headers(got))
						back := want.Reverse()
						back.SrcMAC, back.DstMAC = s.Host(who).MAC, sent.SrcMAC
						to, reply := s.takes(who, frame(w.protocol, back))
						require.Equal(t, "h91", to, "who gets the reply of %s", who)
						back.Src = sent.Dst
						require.Equal(t, back, simswitch.Headers(reply))
						s.passes("h92", "h91")
						s.passes("h1", "h91")
						s.passes("h4", "h91")
					}
					require.Len(t, count, 2, "%v", count)

					// A host that uses the VIP's MAC is another matter.
					if o.Tables != 1 {
						f := packet.Flow{SrcMAC: rec.VIP.MAC, DstMAC: s.Host("h2").MAC, Src: s.Host("h4").AddrPort(1), Dst: s.Host("h2").AddrPort(2)}
						who, _ := s.takes("h4", packet.AppendUDPFrame(nil, f, nil))
						require.Empty(t, who, "who gets what has the VIP's MAC, from a host")
					}
					for _, h := range s.Snapshot().Hosts() {
						require.NotEqual(t, rec.VIP.MAC, ofproto.MAC(h.MAC), "the VIP is taken for a host")
					}
				})
			})
		}
	}
}

// A switch that serves nothing has a client and members; packets come to the next one, and
// back.
func TestBackToASwitchThatDoesNotServe(t *testing.T) {
	for kind, o := range modeSwitches {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lab.Build(2, o, [2]int{1, 2})
				for i := 3; i <= 5; i++ {
					lab.AddHost(n, i, place{DPID: 1, Port: ofproto.Port(100 + i)})
				}
				s := open(t, t.TempDir(), n, lab.Options{})
				require.NoError(t, s.Core.SetStage(t.Context(), 1, controller.StageObserve))
				s.Pass(5 * time.Second)
				s.learn()
				v := s.vip(service{addr: vipAddr, protocol: balancer.TCP, port: 80, memberPort: 80, members: []string{"h2", "h3", "h4"}})
				v.Mode = balancer.ModeDSR
				rec := s.put(v)
				count := map[string]int{}
				for i := range 60 {
					require.Equal(t, 1, s.asks("h1", vipAddr))
					want, request := s.toVIP("h1", i, rec)
					who, got := s.takes("h1", request)
					require.NotEmpty(t, who, "nobody got request %d", i)
					count[who]++
					want.DstMAC = s.Host(who).MAC
					if who != "h2" {
						want.SrcMAC = rec.VIP.MAC
					}
					require.Equal(t, want, simswitch.Headers(got))
					s.passes("h5", "h1")
				}
				require.Len(t, count, 3, "%v", count)
			})
		})
	}
}

// An error about a reply, from a host behind the bridge that the members are behind, comes
// back to the bridge from the VIP, too.
func TestErrorsBackIntoTheSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(1, simswitch.Options{})
		s := open(t, t.TempDir(), n, lab.Options{})
		s.bridge([]byte{91, 92, 93}, place{DPID: 1, Port: 300})
		v := s.vip(service{addr: vipAddr, protocol: balancer.TCP, port: 80, memberPort: 80, members: []string{"h93"}})
		v.Mode = balancer.ModeDSR
		rec := s.put(v)
		for from, want := range map[string]ofproto.MAC{"h91": rec.VIP.MAC, "h1": s.Host("h1").MAC} {
			require.Equal(t, 1, s.asks(from, vipAddr))
			sent, _ := s.toVIP(from, 1, rec)
			h := s.Host(from)
			failure := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: h.AddrPort(0), Dst: netip.AddrPortFrom(vipAddr, 0)}
			who, got := s.takes(from, quoted(t, failure, frame(balancer.TCP, sent.Reverse())))
			require.Equal(t, "h93", who)
			failure.SrcMAC, failure.DstMAC = want, s.Host("h93").MAC
			require.Equal(t, failure, simswitch.Headers(got))
			s.passes("h92", from)
		}
	})
}
