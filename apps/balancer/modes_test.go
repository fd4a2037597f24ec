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

// modeSwitches are switches that modes and persistence differ on.
var modeSwitches = map[string]simswitch.Options{
	"Open vSwitch": {}, "not Open vSwitch": {NoNicira: true}, "no groups": {NoGroups: true},
	"one table": {Tables: 1}, "one table, no groups, not Open vSwitch": {Tables: 1, NoGroups: true, NoNicira: true},
}

// from is a packet that h1 sends for a client of any address.
func (s *site) from(client netip.AddrPort, rec balancer.Record, listener int) []byte {
	l := rec.VIP.Listeners[listener]
	return frame(l.Protocol, packet.Flow{
		SrcMAC: s.Host("h1").MAC, DstMAC: rec.VIP.MAC, Src: client, Dst: netip.AddrPortFrom(rec.VIP.Address, l.Port),
	})
}

// clients are addresses that hardly differ, in ways that addresses do.
func clients(six bool) map[string][]netip.Addr {
	all := map[string][]netip.Addr{}
	for i := range 192 {
		b := byte(i)
		if six {
			all["in one network"] = append(all["in one network"], netip.MustParseAddr(fmt.Sprintf("2001:db8:0:7::%x", 0x10+i)))
			all["the same in many"] = append(all["the same in many"], netip.MustParseAddr(fmt.Sprintf("2001:db8:0:%x::1", i)))
			continue
		}
		all["in one network"] = append(all["in one network"], netip.AddrFrom4([4]byte{10, 9, 1, 10 + b}))
		all["the same in many"] = append(all["the same in many"], netip.AddrFrom4([4]byte{10, 9, b, 1}))
	}
	return all
}

// A client has one member on all listeners of a VIP, whatever the switch, and clients are
// spread however alike their addresses are.
func TestPersistenceOnEveryKindOfSwitch(t *testing.T) {
	t.Parallel()
	for kind, o := range modeSwitches {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s IPv6=%v", kind, six), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := lab.Build(1, o)
					for i := 2; i <= 6; i++ {
						lab.AddHost(n, i, place{DPID: 1, Port: ofproto.Port(100 + i)})
					}
					w := service{addr: vipAddr, protocol: balancer.TCP, port: 80, memberPort: 8080, persistence: balancer.PersistenceSourceIP}
					if six {
						ipv6(n)
						w.addr = vipAddr6
					}
					s := open(t, t.TempDir(), n, lab.Options{})
					s.learn()
					doc := func(members ...string) balancer.VIP {
						w.members = members
						v := s.vip(w)
						for _, p := range []balancer.Protocol{balancer.TCP, balancer.UDP} {
							l := v.Listeners[0]
							l.Protocol, l.Port = p, 81
							l.Pool.Members = append([]balancer.Member(nil), l.Pool.Members...)
							for i := range l.Pool.Members {
								l.Pool.Members[i].Port = 8081
							}
							v.Listeners = append(v.Listeners, l)
						}
						return v
					}
					picks := 0
					pick := func(rec balancer.Record, a netip.Addr) string {
						who, listeners, ports := "", 1, []uint16{uint16(1000 + picks)}
						if picks++; picks%8 == 0 {
							listeners, ports = 3, []uint16{1000, 1001, 40000}
						}
						for listener := range listeners {
							for _, port := range ports {
								got, _ := s.takes("h1", s.from(netip.AddrPortFrom(a, port), rec, listener))
								require.NotEmpty(t, got)
								if who == "" {
									who = got
								}
								require.Equal(t, who, got, "%s from port %d to listener %d", a, port, listener)
							}
						}
						return who
					}
					rec := s.put(doc("h2", "h3", "h4", "h5"))
					first := map[netip.Addr]string{}
					for how, list := range clients(six) {
						count := map[string]int{}
						for _, a := range list {
							first[a] = pick(rec, a)
							count[first[a]]++
						}
						for _, m := range []string{"h2", "h3", "h4", "h5"} {
							require.InDelta(t, 48, count[m], 22, "clients %s: %v", how, count)
						}
					}
					rec = s.put(doc("h2", "h3", "h4", "h5", "h6"))
					moved := 0
					five := map[netip.Addr]string{}
					for a, was := range first {
						if five[a] = pick(rec, a); five[a] != was {
							require.Equal(t, "h6", five[a])
							moved++
						}
					}
					require.Less(t, float64(moved), 0.3*float64(len(first)))
					rec = s.put(doc("h2", "h4", "h5", "h6"))
					for a, was := range five {
						if who := pick(rec, a); was != "h3" {
							require.Equal(t, was, who)
						}
					}
				})
			})
		}
	}
}

// In mode dsr a member gets what the client sent, but for the MAC, over any switches; its
// replies pass as they are.
func TestDSROnEveryKindOfSwitch(t *testing.T) {
	for kind, o := range modeSwitches {
		for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
			for _, persistence := range []balancer.Persistence{balancer.PersistenceNone, balancer.PersistenceSourceIPProtocol} {
				t.Run(fmt.Sprintf("%s %s %s", kind, stage, persistence), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						s := open(t, t.TempDir(), line(o), lab.Options{Stage: stage})
						v := s.vip(service{addr: vipAddr, protocol: balancer.TCP, port: 80, members: []string{"h1", "h2", "h3"}, memberPort: 80, persistence: persistence})
						v.Mode = balancer.ModeDSR
						rec := s.put(v)
						s.learn()
						count := map[string]int{}
						for i := range 48 {
							client := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), byte(i)}), uint16(1000+2*i))
							request := s.from(client, rec, 0)
							who, got := s.takes("h1", request)
							if who == "" { // h1 is behind the port that the request came from, and has it back
								require.True(t, o.NoNicira, "nobody got it")
								continue
							}
							count[who]++
							f := simswitch.Headers(request)
							want := f
							want.DstMAC = s.Host(who).MAC
							if who == "h1" && o.Tables != 1 { // what goes back comes from the VIP
								want.SrcMAC = rec.VIP.MAC
							}
							require.Equal(t, want, simswitch.Headers(got))
							if who == "h1" {
								continue
							}
							back := simswitch.Headers(got).Reverse()
							to, reply := s.takes(who, frame(balancer.TCP, back))
							require.Equal(t, "h1", to)
							require.Equal(t, back, simswitch.Headers(reply))
						}
						require.GreaterOrEqual(t, len(count), 2, "%v", count)

						// A member that claims the address does not get it.
						if o.Tables == 1 {
							return
						}
						for _, op := range []uint16{packet.ARPRequest, packet.ARPReply} {
							h := s.Host("h2")
							claim := packet.AppendARPReply(nil, h.MAC, vipAddr, packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, vipAddr)
							if op == packet.ARPRequest {
								claim = packet.AppendARPRequest(nil, h.MAC, vipAddr, vipAddr)
							}
							s.Forget()
							s.Send("h2", claim)
							s.Pass(time.Second)
							for _, other := range []string{"h1", "h3"} {
								require.Empty(t, s.Seen(other))
							}
						}
						_, ok := s.Snapshot().HostByIP(0, vipAddr)
						require.False(t, ok, "the VIP is taken for a host's address")
						// What a member asks by the VIP's address it is told, by the one asked.
						if !o.NoNicira {
							who, got := s.takesAny("h2", packet.AppendARPRequest(nil, s.Host("h2").MAC, vipAddr, s.Host("h1").IP), "h1")
							require.True(t, who)
							f, err := packet.Decode(got)
							require.NoError(t, err)
							arp, ok := f.ARP()
							require.True(t, ok)
							require.True(t, arp.SPA.IsUnspecified())
						}
					})
				})
			}
		}
	}
}

// takesAny sends a frame and returns what a host saw of it.
func (s *site) takesAny(from string, frame []byte, by string) (bool, []byte) {
	s.Forget()
	s.Send(from, frame)
	synctest.Wait()
	for _, f := range s.Seen(by) {
		return true, f
	}
	return false, nil
}

// Clients that are not allowed get nothing by any method, and ARP is answered still.
func TestAllowedCIDRsOnEveryKindOfSwitch(t *testing.T) {
	t.Parallel()
	for kind, o := range modeSwitches {
		for _, protocol := range []balancer.Protocol{balancer.TCP, balancer.UDP} {
			for _, persistence := range []balancer.Persistence{balancer.PersistenceNone, balancer.PersistenceSourceIP} {
				t.Run(fmt.Sprintf("%s %s %s", kind, protocol, persistence), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n := lab.Build(1, o)
						for i := 2; i <= 3; i++ {
							lab.AddHost(n, i, place{DPID: 1, Port: ofproto.Port(100 + i)})
						}
						s := open(t, t.TempDir(), n, lab.Options{})
						v := s.vip(service{addr: vipAddr, protocol: protocol, port: 80, members: []string{"h2", "h3"}, memberPort: 8080, persistence: persistence})
						for _, p := range []string{"10.9.1.0/24", "10.9.1.128/25", "10.9.2.3/32", "10.8.0.0/15"} {
							v.AllowedCIDRs = append(v.AllowedCIDRs, netip.MustParsePrefix(p))
						}
						rec := s.put(v)
						s.learn()
						for _, a := range []string{"10.9.1.0", "10.9.1.255", "10.9.2.3", "10.8.0.1", "10.9.77.7"} {
							who, _ := s.takes("h1", s.from(netip.AddrPortFrom(netip.MustParseAddr(a), 1000), rec, 0))
							require.NotEmpty(t, who, a)
						}
						v.AllowedCIDRs = v.AllowedCIDRs[:3]
						rec = s.put(v)
						for i := range 32 {
							for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{10, 9, 0, byte(i)}), netip.AddrFrom4([4]byte{10, 9, 2, byte(4 + i)}), s.Host("h1").IP} {
								who, _ := s.takes("h1", s.from(netip.AddrPortFrom(a, uint16(1000+i)), rec, 0))
								require.Empty(t, who, a)
							}
							who, _ := s.takes("h1", s.from(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, 1, byte(3 * i)}), uint16(1000+i)), rec, 0))
							require.NotEmpty(t, who)
						}
						require.Len(t, s.asksForVIP("h1"), 1)

						// More than a switch is to hold are refused, where it has no second lookup.
						v.AllowedCIDRs = nil
						for i := range balancer.MaxCIDRs {
							v.AllowedCIDRs = append(v.AllowedCIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 11, byte(i), 0}), 24))
						}
						s.give(v)
						st := s.status(1)
						if many := persistence != balancer.PersistenceNone || protocol == balancer.UDP || o.NoGroups; many && (o.NoNicira || o.Tables == 1 || o.NoGroups && protocol == balancer.TCP && persistence == balancer.PersistenceNone) {
							if st.State == balancer.InstallError {
								require.Contains(t, st.Reason, "allowed_cidrs")
							}
						} else {
							require.Equal(t, balancer.InstallInstalled, st.State, "%+v", st)
						}
					})
				})
			}
		}
	}
}

// What a switch cannot do is said: a limit that is none, and a mode that needs another
// switch.
func TestModesThatASwitchCannotDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), line(simswitch.Options{}), lab.Options{})
		v := s.pool(balancer.TCP, "h2", "h3")
		v.Listeners[0].ConnectionRate = 100
		s.put(v)
		st := s.status(1)
		require.Equal(t, balancer.InstallInstalled, st.State)
		require.Contains(t, st.Reason, "connection_rate: not limited")

		v.Mode = balancer.ModeConntrack
		rec := s.give(v)
		st = s.status(1)
		require.Equal(t, balancer.InstallError, st.State)
		require.Equal(t, balancer.MethodRefused, st.Method)
		require.Contains(t, st.Reason, "mode conntrack needs Open vSwitch")
		who, _ := s.takes("h1", s.request("h1", 1000, rec))
		require.Empty(t, who)
		for _, arp := range s.asksARPOnly("h1") {
			require.NotEqual(t, packet.ARPReply, arp.Op)
		}

		v.Mode = balancer.ModeDSR
		v.Listeners[0].Pool.Members[0].Port, v.Listeners[0].Pool.Members[1].Port = vipPort, vipPort
		v.Listeners[0].Pool.Members = append(v.Listeners[0].Pool.Members, balancer.Member{
			Address: netip.MustParseAddr("10.0.0.99"), Port: vipPort, Weight: 1, AdminState: balancer.AdminUp,
		})
		s.put(v)
		s.Pass(10 * time.Second)
		got, err := s.service.Get(t.Context(), "web")
		require.NoError(t, err)
		require.Contains(t, got.Listeners[0].Pool.Members[2].Status.Reason, "layer 2 network")
	})
}
