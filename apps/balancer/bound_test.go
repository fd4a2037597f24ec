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
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// claims has h1 give h3's address its own MAC, in every way there is, and returns how many
// of these frames h2 and h4 see.
func (s *site) claims() (seen int) {
	s.t.Helper()
	thief, victim := s.Host("h1"), s.Host("h3").IP
	all := packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	frames := [][]byte{
		packet.AppendARPRequest(nil, thief.MAC, victim, victim),
		packet.AppendARPRequest(nil, thief.MAC, victim, netip.MustParseAddr("10.0.0.2")),
		packet.AppendARPReply(nil, thief.MAC, victim, all, victim),
		packet.AppendARPReply(nil, thief.MAC, victim, s.Host("h2").MAC, s.Host("h2").IP),
	}
	if victim.Is6() {
		to := packet.Flow{SrcMAC: thief.MAC, DstMAC: packet.MAC{0x33, 0x33, 5: 1}, Src: netip.AddrPortFrom(victim, 0), Dst: netip.MustParseAddrPort("[ff02::1]:0")}
		frames = [][]byte{packet.AppendNeighborAdvertisement(nil, to, victim, false)}
		to.DstMAC, to.Dst = s.Host("h2").MAC, s.Host("h2").AddrPort(0)
		frames = append(frames, packet.AppendNeighborAdvertisement(nil, to, victim, true))
	}
	for _, f := range frames {
		s.Forget()
		s.Send("h1", f)
		synctest.Wait()
		for _, h := range []string{"h2", "h4"} {
			for _, got := range s.Received(h) {
				if packet.MAC(got[6:12]) == thief.MAC { // others ask whether it is true
					seen++
				}
			}
		}
		s.Pass(time.Second)
	}
	return seen
}

// The address of a member whose MAC is in OVSDB is not another host's in ARP.
func TestAddressOfAMemberIsBound(t *testing.T) {
	for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s IPv6=%v", stage, six), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := lab.Build(4, modeSwitches["Open vSwitch"], [2]int{1, 2}, [2]int{2, 3}, [2]int{3, 4})
					w := service{addr: vipAddr, protocol: balancer.TCP, port: 80, memberPort: 8080, members: []string{"h3"}}
					if six {
						ipv6(n)
						w.addr = vipAddr6
					}
					s := open(t, t.TempDir(), n, lab.Options{Stage: stage})
					s.learn()
					require.NotZero(t, s.claims(), "nobody is a member yet")
					s.learn()
					doc := s.vip(w)
					doc.Listeners[0].Pool.Members[0].Interface = vm
					rec := s.put(doc)
					home := topology.Place{DPID: 3, Port: topology.Port(s.Host("h3").At.Port)}
					unnamed := s.at(home.DPID, home.Port)
					unnamed.MAC = ofproto.MAC{}
					s.attached(true, one(unnamed))
					s.Pass(time.Second)
					require.NotZero(t, s.claims(), "the database does not have its MAC")
					s.Announce("h3")

					s.attached(true, one(s.at(home.DPID, home.Port)))
					s.Pass(time.Second)
					require.Zero(t, s.claims())
					s.Forget()
					s.Announce("h3")
					synctest.Wait()
					require.Len(t, s.Received("h2"), 1, "what it says itself")
					h, ok := s.Snapshot().HostByIP(0, s.Host("h3").IP)
					require.True(t, ok)
					require.Equal(t, home, h.Place)
					s.Pass(time.Second)
					require.Equal(t, "h3", s.talks("h1", rec, 1000, 80))
					s.NoFaults()

					require.NoError(t, s.intents.Delete(t.Context(), "web", balancer.Condition{}))
					s.Pass(5 * time.Second)
					require.NotZero(t, s.claims(), "it is no member any more")
				})
			})
		}
	}
}
