package balancer_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// kinds are switches that do what concerns the controller in different ways.
var kinds = map[string]simswitch.Options{"Open vSwitch": {}, "not Open vSwitch": {NoNicira: true}, "one table": {Tables: 1}}

func TestListenersWithoutMembersAreRejected(t *testing.T) {
	for name, o := range kinds {
		for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
			t.Run(fmt.Sprint(name, " ", stage), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := open(t, t.TempDir(), lab.Build(2, o, [2]int{1, 2}), lab.Options{Stage: stage})
					s.learn()
					v := s.monitored("h2")
					v.OnEmpty = balancer.OnEmptyReject
					v.Listeners = append(v.Listeners, s.pool(balancer.UDP, "h2").Listeners[0])
					v.Listeners[1].Pool.Monitor = v.Listeners[0].Pool.Monitor
					rec := s.put(v)
					syn := s.request("h1", 1000, rec)
					who, got := s.takes("h1", syn)
					require.Equal(t, "h1", who)
					require.Equal(t, simswitch.Headers(syn).Reverse(), simswitch.Headers(got))
					s.intact(got)
					f, err := packet.Decode(got)
					require.NoError(t, err)
					tcp, ok := f.TCP()
					require.True(t, ok)
					require.Equal(t, packet.TCPRst|packet.TCPAck, tcp.Flags)
					require.EqualValues(t, 1, tcp.Ack)

					datagram := packet.AppendUDPFrame(nil, simswitch.Headers(syn), []byte("ping"))
					who, got = s.takes("h1", datagram)
					require.Equal(t, "h1", who)
					s.intact(got)
					f, err = packet.Decode(got)
					require.NoError(t, err)
					q, ok := f.Quote()
					require.True(t, ok)
					require.Equal(t, packet.Quote{Proto: packet.ProtoUDP, Src: s.Host("h1").AddrPort(1000), Dst: netip.AddrPortFrom(vipAddr, vipPort)}, q)

					// A port that is no listener is not answered.
					other := simswitch.Headers(syn)
					other.Dst = netip.AddrPortFrom(vipAddr, 81)
					who, _ = s.takes("h1", packet.AppendTCPFrame(nil, other, packet.TCP{Flags: packet.TCPSyn}, nil))
					require.Empty(t, who)

					s.finds(true, "", "h2")
					require.Equal(t, "h2", s.serves("h1", 1001, rec))
					s.finds(false, "timeout", "h2")
					who, _ = s.takes("h1", syn)
					require.Equal(t, "h1", who)
					v.OnEmpty = balancer.OnEmptyDrop
					s.put(v)
					who, _ = s.takes("h1", syn)
					require.Empty(t, who)
				})
			})
		}
	}
}

func TestEchoIsAnswered(t *testing.T) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), lab.Build(2, o, [2]int{1, 2}), lab.Options{})
				s.learn()
				v := s.monitored("h2") // nobody serves
				rec := s.put(v)
				h := s.Host("h1")
				flow := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: h.AddrPort(0), Dst: netip.AddrPortFrom(vipAddr, 0)}
				request := packet.AppendEchoFrame(nil, flow, false, 7, 8, []byte("are you there"))
				want := packet.AppendEchoFrame(nil, flow.Reverse(), true, 7, 8, []byte("are you there"))
				who, got := s.takes("h1", request)
				require.Equal(t, "h1", who)
				require.Equal(t, want, got)
				v.Enabled = false
				s.put(v)
				who, _ = s.takes("h1", request)
				require.Empty(t, who)
				v.Enabled = true
				s.put(v)
				if !o.NoNicira {
					s.Stop()
					_, got = s.takes("h1", request)
					require.Equal(t, want, got, "without a controller")
				}
			})
		})
	}
}

// quoted is ICMP time exceeded about a frame.
func quoted(t *testing.T, f packet.Flow, about []byte) []byte {
	t.Helper()
	d, err := packet.Decode(about)
	require.NoError(t, err)
	quote := d.Network()
	b := packet.AppendEthernet(nil, packet.Ethernet{Dst: f.DstMAC, Src: f.SrcMAC, Type: packet.EtherTypeIPv4})
	b = packet.AppendIPv4(b, packet.IPv4{TTL: 64, Proto: packet.ProtoICMP, Src: f.Src.Addr(), Dst: f.Dst.Addr()}, 8+len(quote))
	return packet.AppendICMP(b, packet.ICMP{Type: packet.ICMPTimeExceeded}, quote)
}

func TestErrorsAboutRepliesReachTheMembers(t *testing.T) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), ring(o), lab.Options{})
				s.learn()
				v := s.monitored("h2", "h3", "h4")
				rec := s.put(v)
				s.finds(true, "", "h2", "h3")
				h := s.Host("h1")
				request := s.request("h1", 1000, rec)
				// A router between h1 and the VIP could not deliver a reply.
				translated := packet.AppendTCPFrame(nil, simswitch.Headers(request).Reverse(), packet.TCP{Seq: 9, Flags: packet.TCPAck}, []byte("reply"))
				router := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: netip.MustParseAddrPort("192.0.2.1:0"), Dst: netip.AddrPortFrom(vipAddr, 0)}
				s.Forget()
				s.Send("h1", quoted(t, router, translated))
				synctest.Wait()
				require.Empty(t, s.Seen("h4"), "does not serve")
				require.Empty(t, s.Seen("h1"))
				for _, m := range []string{"h2", "h3"} {
					member := s.Host(m)
					// Without the VIP in between the member would have got this.
					sent := simswitch.Headers(translated)
					sent.Src = member.AddrPort(memberPort)
					direct := router
					direct.DstMAC, direct.Dst = member.MAC, member.AddrPort(0)
					want := quoted(t, direct, packet.AppendTCPFrame(nil, sent, packet.TCP{Seq: 9, Flags: packet.TCPAck}, []byte("reply")))
					require.Equal(t, [][]byte{want}, s.Seen(m))
				}

				// What nobody asked for goes nowhere.
				s.Forget()
				stranger := simswitch.Headers(translated)
				stranger.Src = netip.AddrPortFrom(vipAddr, 81)
				s.Send("h1", quoted(t, router, packet.AppendTCPFrame(nil, stranger, packet.TCP{}, nil)))
				s.Send("h1", packet.AppendEchoFrame(nil, router, true, 1, 1, nil))
				synctest.Wait()
				for _, m := range s.Hosts() {
					require.Empty(t, s.Seen(m))
				}

				// A flood of them is bounded.
				for range 3000 {
					s.Send("h1", quoted(t, router, translated))
				}
				synctest.Wait()
				require.LessOrEqual(t, len(s.Seen("h2")), 1000)
			})
		})
	}
}

func TestErrorsOfMembersNameTheVIP(t *testing.T) {
	for name, o := range kinds {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), ring(o), lab.Options{})
				s.learn()
				rec := s.put(s.pool(balancer.UDP, "h3"))
				client, member := s.Host("h1"), s.Host("h3")
				request := s.request("h1", 1000, rec)
				who, got := s.takes("h1", request)
				require.Equal(t, "h3", who)
				s.Forget()
				refusal := simswitch.Headers(got).Reverse()
				s.Send("h3", quoted(t, refusal, got))
				synctest.Wait()
				// The client gets the error as it is, which means nothing to it, and one
				// that it understands. The quoted header is as the member got it.
				seen := s.Seen("h1")
				require.Len(t, seen, 2)
				translated := packet.Flow{SrcMAC: member.MAC, DstMAC: client.MAC, Src: netip.AddrPortFrom(vipAddr, 0), Dst: client.AddrPort(0)}
				require.Contains(t, seen, quoted(t, translated, request))
				require.Contains(t, seen, quoted(t, refusal, got))
				require.Empty(t, s.Seen("h3"))
			})
		})
	}
}
