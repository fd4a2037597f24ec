package balancer_test

import (
	"fmt"
	"net/netip"
	"sync"
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
	"github.com/fairlead/fairlead/topology"
)

// legacy is a port of a switch that is plugged into something legacy.
func legacy(sw, n int) place { return place{DPID: ofproto.DPID(sw), Port: ofproto.Port(300 + n)} }

// old adds a host behind a legacy bridge, by one of the ports on it.
func old(n *simswitch.Network, name string, last byte, at place) {
	n.AddHost(simswitch.Host{Name: name, MAC: packet.MAC{0x0e, 0, 0, 0, 9, last}, IP: netip.AddrFrom4([4]byte{10, 0, 9, last}), At: at})
}

// mouths notes by which ports frames of a VIP's MAC leave switches.
type mouths struct {
	mu   sync.Mutex
	from map[place]int
}

func (m *mouths) note(s *site, mac packet.MAC) {
	m.from = map[place]int{}
	s.SetTap(func(from simswitch.Place, frame []byte) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if packet.MAC(frame[6:12]) == mac {
			m.from[from]++
		}
	})
}

// of returns the ports among some.
func (m *mouths) of(ports ...place) (some []place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range ports {
		if m.from[p] > 0 {
			some = append(some, p)
		}
	}
	return some
}

// asks sends a request for the VIP from a host, and returns the answers that it gets.
// Nobody else may get any.
func (s *site) asks(from string, vip netip.Addr) (answers int) {
	s.t.Helper()
	h := s.Host(from)
	s.Forget()
	if vip.Is6() {
		s.Send(from, packet.AppendNeighborSolicitation(nil, h.MAC, h.IP, vip, h.Tags()...))
	} else {
		s.Send(from, packet.AppendARPRequest(nil, h.MAC, h.IP, vip, h.Tags()...))
	}
	synctest.Wait()
	for _, to := range s.Hosts() {
		for _, f := range s.Seen(to) {
			d, err := packet.Decode(f)
			require.NoError(s.t, err)
			arp, isARP := d.ARP()
			nd, isND := d.ND()
			if isARP && arp.Op == packet.ARPReply && arp.SPA == vip || isND && nd.Type == packet.ICMPv6NeighborAdvertisement && nd.Target == vip {
				if to != from { // on a medium all see all
					require.Equal(s.t, h.MAC, packet.MAC(f[:6]))
					continue
				}
				answers++
			}
		}
	}
	return answers
}

// presenceLabs are networks that are partly not ours. Ports are those on each piece of
// them, in order: the first speaks.
var presenceLabs = []struct {
	name  string
	build func(o simswitch.Options) *simswitch.Network
	stage map[ofproto.DPID]controller.Stage // of those that are not managed
	ports []place
}{
	{name: "three domains on a hub", ports: []place{legacy(1, 1), legacy(2, 1), legacy(3, 1)}, build: func(o simswitch.Options) *simswitch.Network {
		n := lab.Build(3, o)
		n.Share(true, legacy(1, 1), legacy(2, 1), legacy(3, 1))
		old(n, "h91", 91, legacy(3, 1))
		return n
	}},
	{name: "a domain of two, and another", ports: []place{legacy(1, 1), legacy(2, 1), legacy(3, 1)}, build: func(o simswitch.Options) *simswitch.Network {
		n := lab.Build(3, o, [2]int{1, 2})
		n.Share(false, legacy(1, 1), legacy(2, 1), legacy(3, 1))
		old(n, "h91", 91, legacy(2, 1))
		return n
	}},
	{
		name:  "steered switches on a bridge",
		stage: map[ofproto.DPID]controller.Stage{1: controller.StageSteer, 2: controller.StageSteer},
		ports: []place{legacy(1, 1), legacy(2, 1)}, build: func(o simswitch.Options) *simswitch.Network {
			n := lab.Build(2, o)
			n.Share(false, legacy(1, 1), legacy(2, 1))
			old(n, "h91", 91, legacy(2, 1))
			return n
		},
	},
	{
		name:  "steered switches in a row",
		stage: map[ofproto.DPID]controller.Stage{1: controller.StageSteer, 2: controller.StageSteer, 3: controller.StageSteer},
		build: func(o simswitch.Options) *simswitch.Network {
			return lab.Build(3, o, [2]int{1, 2}, [2]int{2, 3})
		},
	},
	{
		name:  "steered switches on both sides of an observed one",
		stage: map[ofproto.DPID]controller.Stage{1: controller.StageSteer, 2: controller.StageObserve, 3: controller.StageSteer},
		ports: []place{{DPID: 1, Port: 1}, {DPID: 3, Port: 1}}, build: func(o simswitch.Options) *simswitch.Network {
			return lab.Build(3, o, [2]int{1, 2}, [2]int{2, 3})
		},
	},
	{
		name:  "managed ones beside an observed one that a bridge is behind",
		stage: map[ofproto.DPID]controller.Stage{2: controller.StageObserve},
		ports: []place{{DPID: 1, Port: 1}, legacy(3, 1)}, build: func(o simswitch.Options) *simswitch.Network {
			n := lab.Build(3, o, [2]int{1, 2})
			n.Share(false, legacy(2, 1), legacy(3, 1))
			old(n, "h91", 91, legacy(2, 1))
			return n
		},
	},
}

func TestOneSwitchSpeaksForAVIP(t *testing.T) {
	for _, p := range presenceLabs {
		for name, o := range map[string]simswitch.Options{"Open vSwitch": {}, "no Nicira": {NoNicira: true}, "one table": {Tables: 1}} {
			if p.stage != nil && o.Tables == 1 {
				continue // steer needs tables
			}
			for _, six := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, %s, IPv6=%v", p.name, name, six), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						n, vip := p.build(o), vipAddr
						if six {
							n, vip = ipv6(n), vipAddr6
						}
						s := open(t, t.TempDir(), n, lab.Options{})
						for dpid, stage := range p.stage {
							require.NoError(t, s.Core.SetStage(t.Context(), dpid, stage))
						}
						s.Settle()
						s.learn()
						rec := s.put(s.vip(service{addr: vip, protocol: balancer.TCP, port: 80, members: []string{"h1"}, memberPort: 80}))
						s.Settle()
						var m mouths
						m.note(s, rec.VIP.MAC)
						for _, h := range s.Hosts() {
							require.Equal(t, 1, s.asks(h, vip), "answers to %s", h)
						}
						s.Pass(70 * time.Second) // it is announced
						require.False(t, s.Stormed())
						if len(p.ports) > 0 {
							require.Equal(t, p.ports[:1], m.of(p.ports...))
						}
						for _, h := range s.Hosts() {
							require.Equal(t, 1, s.asks(h, vip), "answers to %s", h)
						}
						s.NoFaults()
					})
				})
			}
		}
	}
}

// A switch that lost its channel answers by what it has, for as long as it likes: nobody
// else does meanwhile. When it dies another does.
func TestOneSwitchSpeaksWithoutItsChannel(t *testing.T) {
	for _, p := range presenceLabs[:2] {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6=%v", p.name, six), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n, vip := p.build(simswitch.Options{}), vipAddr
					if six {
						n, vip = ipv6(n), vipAddr6
					}
					s := open(t, t.TempDir(), n, lab.Options{})
					s.learn()
					rec := s.put(s.vip(service{addr: vip, protocol: balancer.TCP, port: 80, members: []string{"h3"}, memberPort: 80}))
					s.Settle()
					one := func(why string, hosts ...string) {
						t.Helper()
						for _, h := range hosts {
							require.Equal(t, 1, s.asks(h, vip), "answers to %s %s", h, why)
						}
						require.False(t, s.Stormed())
					}
					one("before", "h1", "h2", "h3", "h91")
					var m mouths
					s.Disconnect(1)
					for i := range 8 {
						s.Pass(10*time.Second + 10*time.Millisecond)
						m.note(s, rec.VIP.MAC)
						one(fmt.Sprintf("without a channel for %d s", 10*(1+i)), "h1", "h2", "h3", "h91")
						require.Equal(t, p.ports[:1], m.of(p.ports...))
					}
					// What it does not have, others answer; and those of its domain too, for it passes
					// the question on to them.
					other := s.vip(service{addr: vip.Next(), protocol: balancer.TCP, port: 80, members: []string{"h3"}, memberPort: 81})
					other.Name = "other"
					s.put(other)
					require.NotZero(t, s.asks("h91", vip.Next()))
					one("while there is another VIP", "h91")

					s.Connect(1)
					s.Settle()
					s.Pass(5 * time.Second)
					one("with a channel again", "h1", "h2", "h3", "h91")
					require.Equal(t, 1, s.asks("h91", vip.Next()))
					s.Disconnect(1)
					s.Pass(time.Minute)
					one("without a channel again", "h2", "h3", "h91")
					s.Switch(1).Freeze(true)
					s.Pass(1700 * time.Millisecond)
					one("when it is dead", "h3", "h91")
				})
			})
		}
	}
}

// One that has the controller make its answers is silent without its channel: the next
// speaks at once.
func TestAnotherSpeaksForASwitchThatCannotAnswer(t *testing.T) {
	for _, p := range presenceLabs[:2] {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, IPv6=%v", p.name, six), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n, vip := p.build(simswitch.Options{NoNicira: true}), vipAddr
					if six {
						n, vip = ipv6(n), vipAddr6
					}
					s := open(t, t.TempDir(), n, lab.Options{})
					s.learn()
					s.put(s.vip(service{addr: vip, protocol: balancer.TCP, port: 80, members: []string{"h3"}, memberPort: 80}))
					s.Settle()
					require.Equal(t, 1, s.asks("h91", vip))
					s.Disconnect(1)
					for range 4 {
						s.Pass(10*time.Second + 10*time.Millisecond)
						require.Equal(t, 1, s.asks("h91", vip))
					}
					s.Connect(1)
					s.Settle()
					s.Pass(5 * time.Second)
					require.Equal(t, 1, s.asks("h91", vip))
				})
			})
		}
	}
}

// announced returns how often a host was told where an address is since it was asked
// last. What tells it must be right.
func (s *site) announced(to string, vip netip.Addr, mac packet.MAC) (n int) {
	s.t.Helper()
	for _, f := range s.Seen(to) {
		d, err := packet.Decode(f)
		require.NoError(s.t, err)
		tag, _ := d.VLAN()
		if arp, ok := d.ARP(); ok && arp.SPA == vip {
			require.Equal(s.t, packet.ARP{Op: packet.ARPRequest, SHA: mac, SPA: vip, TPA: vip}, arp)
			require.Equal(s.t, packet.Broadcast, d.Ethernet().Dst)
		} else if nd, ok := d.ND(); ok && nd.Target == vip {
			require.Equal(s.t, packet.ICMPv6NeighborAdvertisement, nd.Type)
			link, ok := nd.LinkAddr(packet.NDTargetLinkAddr)
			require.True(s.t, ok)
			require.Equal(s.t, mac, link)
			require.Equal(s.t, packet.MAC{0x33, 0x33, 5: 1}, d.Ethernet().Dst)
			require.True(s.t, d.ChecksumsOK())
		} else {
			continue
		}
		require.Equal(s.t, mac, d.Ethernet().Src)
		require.Equal(s.t, s.Host(to).VLAN, tag.ID)
		n++
	}
	return n
}

func TestVIPsAreAnnounced(t *testing.T) {
	for _, six := range []bool{false, true} {
		for _, id := range []uint16{0, 7} {
			t.Run(fmt.Sprintf("IPv6=%v, VLAN %d", six, id), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n, vip := vlan(presenceLabs[1].build(simswitch.Options{}), id), vipAddr
					if six {
						n, vip = ipv6(n), vipAddr6
					}
					s := open(t, t.TempDir(), n, lab.Options{})
					s.learn()
					doc := s.vip(service{addr: vip, vlan: id, protocol: balancer.TCP, port: 80, members: []string{"h1"}, memberPort: 80})
					rec, _, err := s.intents.Put(t.Context(), doc, balancer.Condition{})
					require.NoError(t, err)
					mac := packet.MAC(rec.VIP.MAC)
					told := func(least, most int, why string) {
						t.Helper()
						for _, h := range s.Hosts() {
							got := s.announced(h, vip, mac)
							require.True(t, least <= got && got <= most, "%s: %s was told %d times", why, h, got)
						}
					}
					s.Pass(100 * time.Millisecond)
					told(1, 1, "it is new")
					s.Pass(400 * time.Millisecond)
					told(2, 2, "again, and again")
					s.Pass(2 * time.Second)
					told(1, 2, "a last time, and perhaps the first round")
					s.Pass(10 * time.Minute)
					told(9, 11, "every minute")

					doc.Enabled = false
					s.put(doc)
					s.Pass(5 * time.Minute)
					told(0, 0, "it is disabled")
					doc.Enabled = true
					_, _, err = s.intents.Put(t.Context(), doc, balancer.Condition{})
					require.NoError(t, err)
					s.Pass(3 * time.Second)
					told(4, 5, "it is enabled")

					s.Do(func(*controller.Context) { s.app.AnnounceEvery(0) })
					s.Pass(5 * time.Minute)
					told(0, 1, "on change only")
					doc.Listeners[0].Pool.Members[0].Weight = 3
					s.put(doc)
					s.Pass(5 * time.Second)
					told(0, 0, "that is no change of where it is")

					// A switch that comes back announces where it speaks.
					s.Disconnect(3)
					s.Pass(10 * time.Second)
					s.Forget()
					s.Connect(3)
					s.Pass(5 * time.Second)
					require.GreaterOrEqual(t, s.announced("h3", vip, mac), 4)
					if six {
						require.Positive(t, s.app.Announcements().ND)
					} else {
						require.Positive(t, s.app.Announcements().ARP)
					}
				})
			})
		}
	}
}

// Many VIPs are announced in turn, and never in a burst: 10,000 by two switches.
func TestManyVIPsAreAnnouncedInTurn(t *testing.T) {
	const vips, step = 10000, 25 * time.Millisecond
	records := make([]balancer.Record, vips)
	for i := range records {
		addr := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		records[i].VIP = balancer.VIP{Name: addr.String(), Address: addr, MAC: ofproto.MAC{2, 0x46, 0x4c, 1, byte(i >> 8), byte(i)}, Enabled: true}
	}
	app := balancer.NewApp(records, nil)
	g, now := topology.New(topology.Options{}), time.Unix(1000, 0)
	var switches []*controller.Switch
	for d := range ofproto.DPID(2) {
		g.SetSwitch(topology.DPID(d+1), []topology.PortState{{Port: 1, Up: true}, {Port: 2, Up: true}}, now)
		switches = append(switches, &controller.Switch{DPID: d + 1, Stage: controller.StageManaged})
	}
	// call has the app handle an event and returns the addresses that are announced.
	call := func(event any) (told []netip.Addr) {
		c := controller.NewContext(now, g, app, switches...)
		app.Handle(c, event)
		for _, out := range c.PacketOuts() {
			f, err := packet.Decode(out.Data)
			require.NoError(t, err)
			arp, ok := f.ARP()
			require.True(t, ok)
			require.Len(t, out.Actions, 2, "both ports")
			told = append(told, arp.SPA)
		}
		return told
	}
	up := func(dpid ofproto.DPID) {
		call(controller.SwitchUp{DPID: dpid})
		for i := range records {
			call(controller.Applied{DPID: dpid, Part: "vip/" + records[i].VIP.Name})
		}
	}
	up(1)
	up(2)
	pass := func(d time.Duration, most int) map[netip.Addr]int {
		counts := map[netip.Addr]int{}
		for end := now.Add(d); now.Before(end); {
			now = now.Add(step)
			told := call(controller.Woken{})
			require.LessOrEqual(t, len(told), most)
			for _, a := range told {
				counts[a]++
			}
		}
		return counts
	}
	all := func(counts map[netip.Addr]int, least, most int) {
		t.Helper()
		require.Len(t, counts, vips)
		for a, n := range counts {
			require.True(t, least <= n && n <= most, "%s %d times", a, n)
		}
	}
	// 4,000 a second: what is new takes five seconds, and as long each time it is said again.
	all(pass(21*time.Second, 102), 8, 10)
	require.Zero(t, app.Announcements().Waiting)
	all(pass(2*time.Minute, 20), 2, 6) // 8.3 a step are the mean
	call(controller.SwitchDown{DPID: 2})
	up(2)
	all(pass(11*time.Second, 102), 4, 7)
	require.Zero(t, app.Announcements().Waiting)
}

// The port that speaks into a legacy segment moves when it, or its switch, dies.
func TestAnnouncementsFollowTheDesignatedPort(t *testing.T) {
	for name, die := range map[string]func(s *site){
		"its port":                  func(s *site) { s.Switch(1).SetPort(legacy(1, 1).Port, false) },
		"the port of the neighbour": func(s *site) { s.Switch(2).SetPort(legacy(2, 1).Port, false) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), presenceLabs[1].build(simswitch.Options{}), lab.Options{})
				s.Move("h91", legacy(3, 1))
				s.learn()
				rec := s.put(s.pool(balancer.TCP, "h2"))
				s.Pass(time.Second)
				var m mouths
				m.note(s, rec.VIP.MAC)
				s.Forget()
				die(s)
				s.Pass(time.Second)
				first := m.of(presenceLabs[1].ports...)
				if name == "its port" {
					require.Equal(t, []place{legacy(2, 1)}, first, "the other switch of the domain announces it")
					require.Positive(t, s.announced("h91", vipAddr, rec.VIP.MAC))
				} else {
					require.NotContains(t, first, legacy(2, 1))
					require.NotContains(t, first, legacy(3, 1))
				}
				require.Equal(t, 1, s.asks("h91", vipAddr))
				require.Equal(t, 1, s.asks("h3", vipAddr))
				if name == "its port" {
					m.note(s, rec.VIP.MAC)
					s.Switch(1).SetPort(legacy(1, 1).Port, true)
					s.Pass(2500 * time.Millisecond)
					require.Contains(t, m.of(presenceLabs[1].ports...), legacy(1, 1), "and back")
					require.Equal(t, 1, s.asks("h91", vipAddr))
				}
			})
		})
	}
}
