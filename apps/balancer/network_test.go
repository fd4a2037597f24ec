package balancer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

type place = simswitch.Place

// site is a lab with the balancer, its intents in a store.
type site struct {
	*lab.Lab
	t       *testing.T
	db      *store.Store
	intents *balancer.Intents
	app     *balancer.App
	service *balancer.Service
	prober  prober
}

// open starts a controller with the balancer over a network, on the store in dir.
func open(t *testing.T, dir string, n *simswitch.Network, o lab.Options) *site {
	t.Helper()
	s := &site{t: t}
	var err error
	s.db, err = store.Open(dir, store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { s.db.Close() })
	var core *controller.Controller
	s.intents = balancer.NewIntents(s.db, time.Now, func(c balancer.Change) {
		require.NoError(t, core.Post(context.Background(), c))
	})
	records, err := s.intents.All(t.Context())
	require.NoError(t, err)
	s.app = balancer.NewApp(records, s.intents.SaveOwners)
	s.app.SetWatch(s.prober.watch)
	o.Apps = func() []controller.App { return []controller.App{s.app} }
	o.Virtual = s.app.Virtual
	s.Lab = lab.Start(t, n, o)
	core = s.Core
	s.service = balancer.NewService(s.intents, s.app, core)
	s.Settle()
	return s
}

// close stops the controller, as a restart does.
func (s *site) close() {
	s.Stop()
	require.NoError(s.t, s.db.Close())
}

const (
	vipPort    = 80
	memberPort = 8080
)

var vipAddr = netip.MustParseAddr("10.0.100.1")

// pool is a document with one listener whose members are hosts.
func (s *site) pool(protocol balancer.Protocol, members ...string) balancer.VIP {
	l := balancer.Listener{Protocol: protocol, Port: vipPort, Pool: balancer.Pool{Persistence: balancer.PersistenceNone}}
	for _, m := range members {
		l.Pool.Members = append(l.Pool.Members, balancer.Member{
			Address: s.Host(m).IP, Port: memberPort, Weight: 1, AdminState: balancer.AdminUp,
		})
	}
	return balancer.VIP{
		Name: "web", Address: vipAddr, Mode: balancer.ModeNAT, Enabled: true, OnEmpty: balancer.OnEmptyDrop,
		Listeners: []balancer.Listener{l},
	}
}

// put writes a document and waits until all switches have it.
func (s *site) put(v balancer.VIP) balancer.Record {
	s.t.Helper()
	rec, _, err := s.intents.Put(s.t.Context(), v, balancer.Condition{})
	require.NoError(s.t, err)
	require.NoError(s.t, s.service.Wait(s.t.Context(), v.Name, rec.VIP.Generation))
	s.Pass(time.Second)
	s.NoFaults()
	s.Forget()
	return rec
}

// start opens a site on a network with the VIP "web" in place.
func start(t *testing.T, n *simswitch.Network, o lab.Options, protocol balancer.Protocol, members ...string) (*site, balancer.Record) {
	t.Helper()
	s := open(t, t.TempDir(), n, o)
	return s, s.put(s.pool(protocol, members...))
}

// request is the first packet of a connection to the VIP.
func (s *site) request(from string, sport uint16, rec balancer.Record) []byte {
	h := s.Host(from)
	f := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: h.AddrPort(sport), Dst: netip.AddrPortFrom(vipAddr, vipPort)}
	if rec.VIP.Listeners[0].Protocol == balancer.UDP {
		return packet.AppendUDPFrame(nil, f, []byte("ping"))
	}
	return packet.AppendTCPFrame(nil, f, packet.TCP{Flags: packet.TCPSyn}, nil)
}

// reply is the answer of the member that got a request.
func reply(request []byte) []byte {
	f := simswitch.Headers(request).Reverse()
	if d, _ := packet.Decode(request); d.Proto() == packet.ProtoUDP {
		return packet.AppendUDPFrame(nil, f, []byte("pong"))
	}
	return packet.AppendTCPFrame(nil, f, packet.TCP{Flags: packet.TCPSyn | packet.TCPAck}, nil)
}

// takes sends a frame and returns which of the hosts got it, and the frame it got.
// No other host may see anything of it.
func (s *site) takes(from string, frame []byte) (string, []byte) {
	s.t.Helper()
	s.Forget()
	s.Send(from, frame)
	synctest.Wait()
	var who string
	var got []byte
	for _, h := range s.Hosts() {
		for _, f := range s.Seen(h) {
			require.Empty(s.t, who, "%s saw it too", h)
			who, got = h, f
		}
	}
	return who, got
}

// serves opens a connection to the VIP, checks both directions of it, and returns
// the member that served it.
func (s *site) serves(from string, sport uint16, rec balancer.Record) string {
	s.t.Helper()
	request := s.request(from, sport, rec)
	member, got := s.takes(from, request)
	require.NotEmpty(s.t, member, "nobody got the request of %s from port %d", from, sport)
	client, server := s.Host(from), s.Host(member)
	want := packet.Flow{SrcMAC: client.MAC, DstMAC: server.MAC, Src: client.AddrPort(sport), Dst: server.AddrPort(memberPort)}
	require.Equal(s.t, want, simswitch.Headers(got))
	s.intact(got)

	who, back := s.takes(member, reply(got))
	require.Equal(s.t, from, who, "who gets the reply of %s", member)
	want = packet.Flow{SrcMAC: server.MAC, DstMAC: client.MAC, Src: netip.AddrPortFrom(vipAddr, vipPort), Dst: client.AddrPort(sport)}
	require.Equal(s.t, want, simswitch.Headers(back))
	s.intact(back)
	return member
}

func (s *site) intact(frame []byte) {
	s.t.Helper()
	f, err := packet.Decode(frame)
	require.NoError(s.t, err)
	require.True(s.t, f.ChecksumsOK())
}

// learn has all hosts known.
func (s *site) learn() {
	for _, h := range s.Hosts() {
		s.Announce(h)
	}
	s.Pass(time.Second)
	s.Forget()
}

// byHash is the member that owns the slot of a frame.
func (s *site) byHash(rec balancer.Record, frame []byte) string {
	owner := rec.Listeners[0].Slots.Owner
	return s.memberOf(rec, owner[simswitch.Hash(frame)%uint64(len(owner))])
}

func (s *site) memberOf(rec balancer.Record, index uint16) string {
	for _, m := range rec.Listeners[0].Members {
		if m.Index == index {
			for _, h := range s.Hosts() {
				if s.Host(h).IP == m.Key.Addr() {
					return h
				}
			}
		}
	}
	return ""
}

func ring(o simswitch.Options) *simswitch.Network { return lab.Build(4, o, lab.Ring(4)...) }

// personalities are the kinds of switch that a VIP must work on.
var personalities = map[string]simswitch.Options{
	"Open vSwitch":       {},
	"no bundles":         {NoBundles: true},
	"no chaining":        {NoChaining: true},
	"no failover":        {NoFailover: true},
	"no select":          {NoSelect: true},
	"not Open vSwitch":   {NoNicira: true},
	"neither nor select": {NoNicira: true, NoSelect: true},
}

func TestVIPWorksOnEveryKindOfSwitch(t *testing.T) {
	for name, o := range personalities {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, rec := start(t, lab.Build(4, o, [2]int{1, 2}, [2]int{2, 3}, [2]int{3, 4}), lab.Options{}, balancer.TCP, "h2", "h3", "h4")
				s.learn()
				for sport := range uint16(60) {
					member := s.serves("h1", 1000+sport, rec)
					if !o.NoSelect {
						require.Equal(t, s.byHash(rec, s.request("h1", 1000+sport, rec)), member)
					}
				}
			})
		})
	}
}

func TestEveryIngressPicksTheSameMember(t *testing.T) {
	for _, protocol := range []balancer.Protocol{balancer.TCP, balancer.UDP} {
		synctest.Test(t, func(t *testing.T) {
			s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, protocol, "h2", "h3", "h4")
			s.learn()
			client := s.Host("h1")
			for sport := range uint16(40) {
				picks := map[string]bool{}
				frame := s.request("h1", 2000+sport, rec)
				for d := ofproto.DPID(1); d <= 4; d++ {
					s.Forget()
					// The client moves to that switch without a word.
					frame[11] = byte(0xf0 + d)
					client.At = place{DPID: d, Port: lab.HostPort + 7}
					s.Switch(d).SetPort(client.At.Port, true)
					who, _ := s.takes("h1", frame)
					picks[who] = true
				}
				require.Len(t, picks, 1)
				require.NotContains(t, picks, "")
			}
		})
	}
}

func TestUDPWhereNoMasksOnPortsAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{NoNicira: true}), lab.Options{}, balancer.UDP, "h2", "h3", "h4")
		s.learn()
		for _, client := range []string{"h1", "h2", "h3", "h4"} {
			_, got := s.takes(client, s.request(client, 1000, rec))
			if got != nil {
				require.EqualValues(t, memberPort, simswitch.Headers(got).Dst.Port())
			}
		}
		require.Equal(t, s.serves("h1", 1000, rec), s.serves("h1", 2002, rec), "by the client's address")
	})
}

func TestUDPIsSpreadByItsSelector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.UDP, "h2", "h3", "h4")
		s.learn()
		count := map[string]int{}
		for i := range uint16(320) {
			count[s.serves("h1", 1000+2*i, rec)]++ // even ports, as Linux picks them
		}
		for _, m := range []string{"h2", "h3", "h4"} {
			require.InDelta(t, 320/3, count[m], 40)
		}
	})
}

// asksForVIP sends an ARP request for the VIP and returns the replies.
func (s *site) asksForVIP(from string) (replies []packet.ARP) {
	s.t.Helper()
	h := s.Host(from)
	s.Forget()
	s.Send(from, packet.AppendARPRequest(nil, h.MAC, h.IP, vipAddr))
	synctest.Wait()
	for _, other := range s.Hosts() {
		for _, f := range s.Seen(other) {
			d, err := packet.Decode(f)
			require.NoError(s.t, err)
			arp, ok := d.ARP()
			require.True(s.t, ok)
			require.Equal(s.t, from, other, "%s saw %v", other, arp)
			replies = append(replies, arp)
		}
	}
	return replies
}

func TestARPIsAnswered(t *testing.T) {
	for _, o := range []simswitch.Options{{}, {NoNicira: true}} {
		t.Run(fmt.Sprintf("in the switch=%v", !o.NoNicira), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, rec := start(t, ring(o), lab.Options{}, balancer.TCP, "h2", "h3")
				s.learn()
				want := packet.ARP{Op: packet.ARPReply, SHA: rec.VIP.MAC, SPA: vipAddr, THA: s.Host("h1").MAC, TPA: s.Host("h1").IP}
				require.Equal(t, []packet.ARP{want}, s.asksForVIP("h1"))
				if !o.NoNicira {
					s.Stop()
					require.Equal(t, []packet.ARP{want}, s.asksForVIP("h1"), "without a controller")
				}
			})
		})
	}
}

func TestOneArmed(t *testing.T) {
	for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
		t.Run(stage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lab.Build(2, simswitch.Options{}, [2]int{1, 2})
				h1 := n.Host("h1")
				member := lab.AddHost(n, 9, h1.At) // behind the port of the client
				s, rec := start(t, n, lab.Options{Stage: stage}, balancer.TCP, member.Name)
				s.learn()
				s.Send("h1", s.request("h1", 1000, rec))
				got := s.Received(member.Name)
				require.Len(t, got, 1, "back out of the port it came in by")
				require.Equal(t, member.AddrPort(memberPort), simswitch.Headers(got[0]).Dst)
				require.Empty(t, s.Seen("h2"))
				require.Equal(t, member.Name, s.memberOf(rec, rec.Listeners[0].Slots.Owner[0]))
				// And from elsewhere as any other member.
				s.Forget()
				s.Send("h2", s.request("h2", 1000, rec))
				require.Len(t, s.Received(member.Name), 1)
			})
		})
	}
}

func TestMemberPortDownIsSkippedInTheSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h1", "h2", "h3")
		s.learn()
		s.Stop() // no controller from here on
		port := s.Host("h1").At.Port
		lab.AddHost(s.Network, 20, place{DPID: 1, Port: 120}) // a client beside h1
		before := map[uint16]string{}
		hit := 0
		for sport := range uint16(60) {
			who, _ := s.takes("h20", s.request("h20", 1000+sport, rec))
			before[sport] = who
		}
		s.Switch(1).SetPort(port, false)
		for sport := range uint16(60) {
			who, _ := s.takes("h20", s.request("h20", 1000+sport, rec))
			if before[sport] == "h1" {
				hit++
				require.NotEmpty(t, who, "a request was lost")
				require.NotEqual(t, "h1", who)
			} else {
				require.Equal(t, before[sport], who, "a connection of a member that lives moved")
			}
		}
		require.NotZero(t, hit)
	})
}

func TestDeadMemberIsSpreadEvenlyAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2", "h3", "h4")
		s.learn()
		picks := func() map[uint16]string {
			all := map[uint16]string{}
			for sport := range uint16(120) {
				all[sport] = s.serves("h1", 1000+sport, rec)
			}
			return all
		}
		before := picks()
		at := s.Host("h2").At
		s.Switch(at.DPID).SetPort(at.Port, false)
		s.Pass(time.Second)
		during, took := picks(), map[string]int{}
		for sport, was := range before {
			if was == "h2" {
				took[during[sport]]++
			} else {
				require.Equal(t, was, during[sport], "survivors keep theirs")
			}
		}
		require.Len(t, took, 2, "both survivors share the load: %v", took)
		s.Switch(at.DPID).SetPort(at.Port, true)
		s.Pass(5 * time.Second)
		require.Equal(t, before, picks(), "home again")
	})
}

func TestChangesOfAPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2", "h3", "h4")
		s.learn()
		picks := func() map[uint16]string {
			all := map[uint16]string{}
			for sport := range uint16(100) {
				all[sport] = s.serves("h1", 1000+sport, rec)
			}
			return all
		}
		before := picks()
		oldReply := func() (string, []byte) { // of a connection that h4 served
			f := packet.Flow{SrcMAC: s.Host("h4").MAC, DstMAC: s.Host("h1").MAC, Src: s.Host("h4").AddrPort(memberPort), Dst: s.Host("h1").AddrPort(1)}
			return s.takes("h4", packet.AppendTCPFrame(nil, f, packet.TCP{}, nil))
		}

		v := s.pool(balancer.TCP, "h4", "h3", "h2")
		rec = s.put(v)
		require.Equal(t, before, picks(), "another order changes nothing")

		v.Listeners[0].Pool.Members[0].AdminState = balancer.AdminDrain
		rec = s.put(v)
		for sport, who := range picks() {
			if before[sport] == "h4" {
				require.NotEqual(t, "h4", who, "drained")
			} else {
				require.Equal(t, before[sport], who)
			}
		}
		_, got := oldReply()
		require.Equal(t, vipAddr, simswitch.Headers(got).Src.Addr(), "replies of a drained member are still those of the VIP")

		rec = s.put(s.pool(balancer.TCP, "h3", "h2"))
		require.NotContains(t, slices.Collect(values(picks())), "h4")
		_, got = oldReply()
		require.Equal(t, s.Host("h4").IP, simswitch.Headers(got).Src.Addr(), "a removed member is a host like any other")

		// No member at all, then disabled: dropped, never forwarded.
		rec = s.put(s.pool(balancer.TCP))
		who, _ := s.takes("h1", s.request("h1", 1, rec))
		require.Empty(t, who)
		require.Len(t, s.asksForVIP("h1"), 1)
		v = s.pool(balancer.TCP, "h2", "h3")
		v.Enabled = false
		rec = s.put(v)
		who, _ = s.takes("h1", s.request("h1", 1, rec))
		require.Empty(t, who)
		require.Empty(t, slices.DeleteFunc(s.asksARPOnly("h1"), func(a packet.ARP) bool { return a.Op != packet.ARPReply }), "nobody answers for a disabled VIP")

		require.NoError(t, s.intents.Delete(t.Context(), "web", balancer.Condition{}))
		require.NoError(t, s.service.Wait(t.Context(), "web", 0))
		for _, sw := range s.Switches() {
			for _, f := range sw.Flows() {
				if f.Table != controller.TableOut { // which is there without VIPs, too
					require.NotEqual(t, controller.AppBalancer, flowtable.CookieApp(f.Cookie), "left: %+v", f)
				}
			}
			require.Len(t, sw.Groups(), 1, "the flood group alone is left")
		}
	})
}

// asksARPOnly is asksForVIP without a word on who may see the request.
func (s *site) asksARPOnly(from string) (seen []packet.ARP) {
	h := s.Host(from)
	s.Forget()
	s.Send(from, packet.AppendARPRequest(nil, h.MAC, h.IP, vipAddr))
	synctest.Wait()
	for _, other := range s.Hosts() {
		for _, f := range s.Seen(other) {
			if d, err := packet.Decode(f); err == nil {
				if arp, ok := d.ARP(); ok {
					seen = append(seen, arp)
				}
			}
		}
	}
	return seen
}

func values[K comparable, V any](m map[K]V) func(func(V) bool) {
	return func(yield func(V) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

func TestPacketsToAVIPThatNoListenerTakesAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2")
		s.learn()
		f := packet.Flow{SrcMAC: s.Host("h1").MAC, DstMAC: rec.VIP.MAC, Src: s.Host("h1").AddrPort(1), Dst: netip.AddrPortFrom(vipAddr, 81)}
		for _, frame := range [][]byte{
			packet.AppendTCPFrame(nil, f, packet.TCP{}, nil), packet.AppendUDPFrame(nil, f, nil), packet.AppendEchoFrame(nil, f, true, 1, 1, nil),
		} {
			who, _ := s.takes("h1", frame)
			require.Empty(t, who)
		}
	})
}

func TestSteerTeachesTheSwitchItsClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := lab.Build(3, simswitch.Options{}, [2]int{1, 2}, [2]int{2, 3})
		s, rec := start(t, line, lab.Options{Stage: controller.StageSteer}, balancer.TCP, "h2", "h3")
		// Nothing was ever heard of h1: its first packet is for the VIP.
		s.Announce("h2")
		s.Announce("h3")
		members := map[string]bool{}
		for sport := range uint16(40) {
			members[s.serves("h1", 1000+sport, rec)] = true
		}
		require.Len(t, members, 2)
		// Other traffic is the switches' own.
		who, _ := s.takes("h2", lab.Frame(s.Host("h2"), 1, s.Host("h1").MAC, s.Host("h1").AddrPort(22)))
		require.Equal(t, "h1", who)
	})
}

func TestMemberThatMovesIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h3")
		s.learn()
		require.Equal(t, "h3", s.serves("h1", 1000, rec))
		s.Move("h3", place{DPID: 4, Port: 150})
		s.Settle()
		s.Announce("h3")
		s.Pass(time.Second)
		require.Equal(t, "h3", s.serves("h1", 1000, rec))
	})
}

func TestLinkLossReroutesTheVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2", "h3", "h4")
		s.learn()
		before := map[uint16]string{}
		for sport := range uint16(50) {
			before[sport] = s.serves("h1", sport+1, rec)
		}
		s.SetLink(place{DPID: 1, Port: 1}, false)
		s.Pass(time.Second)
		for sport := range uint16(50) {
			require.Equal(t, before[sport], s.serves("h1", sport+1, rec))
		}
	})
}

// TestLinkDownBeforeAnybodyCalculates takes a link down that packets to members go by, while
// the controller is away. They go another way where a neighbour has one, are lost where there
// will be one, and go to other members only where there is none.
func TestLinkDownBeforeAnybodyCalculates(t *testing.T) {
	const lost, other = "lost", "other"
	for _, c := range []struct {
		name     string
		switches int
		links    [][2]int
		want     map[string]string // of the members beyond the link from 1 to 2; else the same
	}{
		{"triangle", 3, lab.Ring(3), nil},
		{"ring of four", 4, lab.Ring(4), map[string]string{"h2": lost}}, // 4 reaches 2 by 1
		{"two cables", 2, [][2]int{{1, 2}, {1, 2}}, nil},
		{"line", 3, [][2]int{{1, 2}, {2, 3}}, map[string]string{"h2": other, "h3": other}},
	} {
		for _, o := range []simswitch.Options{{}, {NoChaining: true}} {
			t.Run(fmt.Sprint(c.name, " chained ", !o.NoChaining), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := lab.Build(c.switches, o, c.links...)
					n.AddHost(simswitch.Host{Name: "here", MAC: packet.MAC{2, 9}, IP: netip.MustParseAddr("10.0.0.99"), At: place{DPID: 1, Port: 101}})
					pool := []string{"here", "h2"}
					if c.switches > 2 {
						pool = append(pool, "h3")
					}
					s, rec := start(t, n, lab.Options{}, balancer.TCP, pool...)
					s.learn()
					before := map[uint16]string{}
					for sport := range uint16(100) {
						before[sport] = s.serves("h1", 1+sport, rec)
					}
					beyond := map[packet.MAC]bool{} // what packets go to by the link
					s.SetTap(func(from place, frame []byte) {
						if from == (place{DPID: 1, Port: 1}) {
							beyond[packet.MAC(frame[:6])] = true
						}
					})
					for sport := range uint16(100) {
						s.takes("h1", s.request("h1", 1+sport, rec))
					}
					s.SetTap(nil)
					for d := range c.switches {
						s.Disconnect(ofproto.DPID(d + 1))
					}
					s.SetLink(place{DPID: 1, Port: 1}, false)
					s.Pass(10 * time.Millisecond)
					for sport := range uint16(100) {
						who, _ := s.takes("h1", s.request("h1", 1+sport, rec))
						was := before[sport]
						want := c.want[was]
						if o.NoChaining && beyond[s.Host(was).MAC] && want == "" {
							want = lost // a bucket of a select group has one port
						}
						switch want {
						case lost:
							require.Empty(t, who, "of %s", was)
						case other:
							require.Equal(t, "here", who, "of %s", was)
						default:
							require.Equal(t, was, who)
						}
					}
				})
			})
		}
	}
}

func TestMembersAreFoundByARP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2", "h3") // nobody has announced itself
		s.Announce("h1")
		s.Pass(time.Second)
		require.Contains(t, []string{"h2", "h3"}, s.serves("h1", 1000, rec))
		v, err := s.service.Get(t.Context(), "web")
		require.NoError(t, err)
		require.Equal(t, balancer.ProvisioningActive, v.Status.Provisioning)
		require.Equal(t, balancer.OperatingNoMonitor, v.Status.Operating)
	})
}

// A member has been what it is since some time, also one that nobody has ever heard of.
func TestMembersAreWhatTheyAreSince(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), ring(simswitch.Options{}), lab.Options{})
		v := s.pool(balancer.TCP, "h2")
		v.Listeners[0].Pool.Members[0].Address = netip.MustParseAddr("10.0.0.77")
		began := time.Now()
		_, _, err := s.intents.Put(t.Context(), v, balancer.Condition{})
		require.NoError(t, err)
		synctest.Wait()
		status := func() balancer.MemberStatus {
			v, err := s.service.Get(t.Context(), "web")
			require.NoError(t, err)
			return *v.Listeners[0].Pool.Members[0].Status
		}
		unknown := status()
		require.Equal(t, balancer.HealthUnknown, unknown.Health)
		require.WithinRange(t, unknown.Since, began, time.Now())
		text, err := json.Marshal(unknown)
		require.NoError(t, err)
		require.Contains(t, string(text), `"reason":`)
		s.Pass(20 * time.Second)
		down := status()
		require.Equal(t, balancer.HealthDown, down.Health)
		require.WithinRange(t, down.Since, unknown.Since.Add(time.Millisecond), time.Now())
		s.Pass(20 * time.Second)
		require.Equal(t, down, status())
	})
	text, err := json.Marshal(balancer.MemberStatus{})
	require.NoError(t, err)
	require.JSONEq(t, `{"health":"","slots":0,"reason":""}`, string(text), "an empty reason is there")
}

func TestRestartWithTheSameIntentsSendsNothing(t *testing.T) {
	for name, o := range personalities {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				n := ring(o)
				first := open(t, dir, n, lab.Options{})
				for i := range 5 {
					v := first.pool(balancer.TCP, "h2", "h3", "h4")
					v.Name = fmt.Sprintf("web%d", i)
					v.Address = netip.AddrFrom4([4]byte{10, 0, 100, byte(1 + i)})
					for m := range v.Listeners[0].Pool.Members {
						v.Listeners[0].Pool.Members[m].Port = memberPort + uint16(i)
					}
					if i == 4 {
						v.Listeners[0].Protocol = balancer.UDP
					}
					_, _, err := first.intents.Put(t.Context(), v, balancer.Condition{})
					require.NoError(t, err)
				}
				first.Settle()
				first.learn()
				first.Settle()
				first.close()
				mods := first.Mods()
				second := open(t, dir, n, lab.Options{Memory: first.Memory})
				second.Pass(90 * time.Second) // over what is trusted, and audits
				require.Equal(t, mods, second.Mods(), "mods of the restart")
			})
		})
	}
}

func TestDeadMemberStaysDeadOverARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := ring(simswitch.Options{})
		first := open(t, dir, n, lab.Options{})
		first.put(first.pool(balancer.TCP, "h2", "h3", "h4"))
		first.learn()
		at := n.Host("h3").At
		n.Switch(at.DPID).SetPort(at.Port, false)
		first.Settle()
		first.close()
		mods := first.Mods()
		second := open(t, dir, n, lab.Options{Memory: first.Memory})
		second.Pass(20 * time.Second)
		require.Equal(t, mods, second.Mods())
	})
}

func TestOlderRevisionsAreIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2")
		s.learn()
		require.NoError(t, s.Core.Post(t.Context(), balancer.Change{Name: "web", Record: nil, Revision: 1}))
		s.Pass(time.Second)
		require.Equal(t, "h2", s.serves("h1", 1000, rec))
	})
}

func TestTwoVIPsShareAnAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2")
		other := s.pool(balancer.TCP, "h3")
		other.Name, other.Listeners[0].Port = "other", 443
		recOther := s.put(other)
		s.learn()
		require.Equal(t, rec.VIP.MAC, recOther.VIP.MAC)
		require.Equal(t, "h2", s.serves("h1", 1000, rec))
		require.NoError(t, s.intents.Delete(t.Context(), "web", balancer.Condition{}))
		s.Pass(time.Second)
		require.Len(t, s.asksForVIP("h1"), 1, "the other still has the address")
		who, _ := s.takes("h1", s.request("h1", 1000, rec))
		require.Empty(t, who)
	})
}

func TestMembersBeyondAPartitionAreLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		line := lab.Build(3, simswitch.Options{}, [2]int{1, 2}, [2]int{2, 3})
		s, rec := start(t, line, lab.Options{}, balancer.TCP, "h2", "h3")
		s.learn()
		before := map[uint16]string{}
		for sport := range uint16(40) {
			before[sport] = s.serves("h1", 1000+sport, rec)
		}
		s.SetLink(place{DPID: 2, Port: 2}, false)
		s.Pass(time.Second)
		for sport := range uint16(40) {
			require.Equal(t, "h2", s.serves("h1", 1000+sport, rec))
		}
		s.SetLink(place{DPID: 2, Port: 2}, true)
		s.Settle()
		for sport := range uint16(40) {
			require.Equal(t, before[sport], s.serves("h1", 1000+sport, rec))
		}
	})
}

// TestChaos lets links, ports, channels and documents change at random, and asks of
// the network at rest that every connection is served, by the same member from
// everywhere, and that no switch holds more than it should.
func TestChaos(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 5))
			links := append(lab.Ring(5), [2]int{1, 3}, [2]int{2, 4})
			s := open(t, t.TempDir(), lab.Build(5, simswitch.Options{NoBundles: seed%3 == 1, NoChaining: seed%3 == 2}, links...), lab.Options{})
			hosts := []string{"h1", "h2", "h3", "h4", "h5"}
			pick := func() []string {
				random.Shuffle(5, func(i, j int) { hosts[i], hosts[j] = hosts[j], hosts[i] })
				return hosts[:1+random.IntN(4)]
			}
			rec := s.put(s.pool(balancer.TCP, pick()...))
			ports := func(up bool) {
				for d := ofproto.DPID(1); d <= 5; d++ {
					for _, p := range []ofproto.Port{1, 2, 3, 4, lab.HostPort} {
						if up || random.IntN(8) == 0 {
							s.Switch(d).SetPort(p, up || random.IntN(2) == 0)
						}
					}
				}
			}
			for range 25 {
				switch random.IntN(5) {
				case 0:
					ports(false)
				case 1:
					ports(true)
				case 2:
					d := ofproto.DPID(1 + random.IntN(5))
					s.Disconnect(d)
					s.Pass(time.Duration(random.IntN(4000)) * time.Millisecond)
					s.Connect(d)
				case 3:
					var err error
					rec, _, err = s.intents.Put(t.Context(), s.pool(balancer.TCP, pick()...), balancer.Condition{})
					require.NoError(t, err)
				}
				for range random.IntN(10) {
					from := hosts[random.IntN(5)]
					s.Send(from, s.request(from, uint16(random.IntN(1000)), rec))
				}
				s.Pass(time.Duration(random.IntN(2000)) * time.Millisecond)
			}
			ports(true)
			s.Pass(2 * time.Minute)
			s.learn()
			s.NoFaults()
			members := map[string]bool{}
			for _, m := range rec.Listeners[0].Members {
				members[m.Key.Addr().String()] = true
			}
			served := map[string]bool{}
			for sport := range uint16(60) {
				picks := map[string]bool{}
				for _, from := range s.Hosts() {
					// The same addresses and ports from everywhere, so that the hash is the same.
					f := packet.Flow{SrcMAC: s.Host(from).MAC, DstMAC: rec.VIP.MAC, Src: netip.AddrPortFrom(netip.MustParseAddr("10.1.1.1"), sport+1), Dst: netip.AddrPortFrom(vipAddr, vipPort)}
					who, _ := s.takes(from, packet.AppendTCPFrame(nil, f, packet.TCP{}, nil))
					require.NotEmpty(t, who, "seed %d: dropped at %s", seed, from)
					picks[who] = true
					served[s.Host(who).IP.String()] = true
				}
				require.Len(t, picks, 1, "seed %d", seed)
			}
			require.Equal(t, members, served, "seed %d", seed)
			require.False(t, s.Stormed())
			for _, sw := range s.Switches() {
				if seed%3 != 2 {
					require.Len(t, sw.Groups(), 2+len(members), "flood, select, members")
				}
			}
		})
	}
}
