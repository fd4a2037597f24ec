package forwarding_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

type place = simswitch.Place

var tree = [][2]int{{1, 2}, {1, 3}, {2, 4}, {2, 5}, {3, 6}, {3, 7}}

// networks are the graphs that every question is asked of.
var networks = map[string]struct {
	size  int
	links [][2]int
}{
	"one switch":       {1, nil},
	"ring of four":     {4, lab.Ring(4)},
	"ring with chord":  {6, append(lab.Ring(6), [2]int{1, 4})},
	"tree":             {7, tree},
	"parallel links":   {2, [][2]int{{1, 2}, {1, 2}, {1, 2}}},
	"two components":   {5, [][2]int{{1, 2}, {3, 4}, {4, 5}, {5, 3}}},
	"complete of five": {5, [][2]int{{1, 2}, {1, 3}, {1, 4}, {1, 5}, {2, 3}, {2, 4}, {2, 5}, {3, 4}, {3, 5}, {4, 5}}},
}

// reachable says which hosts a host can reach over links that are up.
func reachable(size int, links [][2]int) func(a, b int) bool {
	root := make([]int, size+1)
	for i := range root {
		root[i] = i
	}
	find := func(i int) int {
		for root[i] != i {
			i = root[i]
		}
		return i
	}
	for _, l := range links {
		root[find(l[0])] = find(l[1])
	}
	return func(a, b int) bool { return find(a) == find(b) }
}

// broadcastsArriveOnce asks from every host.
func broadcastsArriveOnce(t *testing.T, l *lab.Lab, size int, same func(a, b int) bool) {
	t.Helper()
	l.Forget()
	for a := 1; a <= size; a++ {
		l.Announce(name(a))
		for b := 1; b <= size; b++ {
			want := 0
			if a != b && same(a, b) {
				want = 1
			}
			require.Len(t, l.Seen(name(b)), want, "broadcast of h%d at h%d", a, b)
		}
	}
	require.False(t, l.Stormed())
}

func name(i int) string { return fmt.Sprintf("h%d", i) }

// unicastsArrive sends between all pairs of hosts and wants them nowhere else.
func unicastsArrive(t *testing.T, l *lab.Lab, size int, same func(a, b int) bool) {
	t.Helper()
	l.Forget()
	for a := 1; a <= size; a++ {
		for b := 1; b <= size; b++ {
			if a == b || !same(a, b) {
				continue
			}
			l.Send(name(a), frame(l, a, b))
			for c := 1; c <= size; c++ {
				want := 0
				if c == b {
					want = 1
				}
				require.Len(t, l.Seen(name(c)), want, "h%d to h%d seen at h%d", a, b, c)
			}
		}
	}
}

func frame(l *lab.Lab, a, b int) []byte {
	to := l.Host(name(b))
	return lab.Frame(l.Host(name(a)), 1000, to.MAC, to.AddrPort(80))
}

func announceAll(l *lab.Lab) {
	for _, h := range l.Hosts() {
		l.Announce(h)
	}
	l.Pass(time.Second)
}

func TestManagedNetworks(t *testing.T) {
	for title, n := range networks {
		t.Run(title, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := lab.Start(t, lab.Build(n.size, simswitch.Options{}, n.links...), lab.Options{})
				l.Settle()
				same := reachable(n.size, n.links)
				broadcastsArriveOnce(t, l, n.size, same)
				l.Pass(time.Second) // the announcements were learned
				unicastsArrive(t, l, n.size, same)
				l.NoFaults()
			})
		})
	}
}

func TestRandomNetworks(t *testing.T) {
	for seed := range uint64(15) {
		synctest.Test(t, func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			size := 2 + r.IntN(7)
			var links [][2]int
			for range r.IntN(2*size) + 1 {
				if a, b := 1+r.IntN(size), 1+r.IntN(size); a != b {
					links = append(links, [2]int{a, b})
				}
			}
			t.Logf("seed %d: %d switches, %v", seed, size, links)
			l := lab.Start(t, lab.Build(size, simswitch.Options{NoBundles: seed%2 == 0}, links...), lab.Options{})
			l.Settle()
			broadcastsArriveOnce(t, l, size, reachable(size, links))
			l.Pass(time.Second)
			unicastsArrive(t, l, size, reachable(size, links))
			l.NoFaults()
		})
	}
}

// hops counts the switches that a frame passes, by their counters.
func hops(l *lab.Lab, send func()) int {
	count := func() (n int) {
		for _, sw := range l.Switches() {
			for _, f := range sw.Flows() {
				if f.Table == 0 {
					n += int(f.Counter.Packets)
				}
			}
		}
		return n
	}
	before := count()
	send()
	return count() - before
}

func TestUnicastTakesTheShortestPath(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := networks["ring with chord"]
		l := lab.Start(t, lab.Build(n.size, simswitch.Options{}, n.links...), lab.Options{})
		l.Settle()
		announceAll(l)
		for a := 1; a <= n.size; a++ {
			for b := 1; b <= n.size; b++ {
				if a != b {
					path := l.Snapshot().Path(topology.DPID(a), topology.DPID(b))
					require.Equal(t, len(path), hops(l, func() { l.Send(name(a), frame(l, a, b)) }), "h%d to h%d", a, b)
				}
			}
		}
	})
}

func TestLinkLossReroutes(t *testing.T) {
	for _, silent := range []bool{false, true} {
		t.Run(fmt.Sprintf("silent=%v", silent), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := lab.Start(t, lab.Build(4, simswitch.Options{}, lab.Ring(4)...), lab.Options{})
				l.Settle()
				announceAll(l)
				all := reachable(4, lab.Ring(4))
				cut := place{DPID: 1, Port: 1}
				if silent {
					l.Cut(cut, true)
					l.Pass(20 * time.Second) // three probes go missing
				} else {
					l.SetLink(cut, false)
					l.Pass(250 * time.Millisecond)
				}
				unicastsArrive(t, l, 4, all)
				broadcastsArriveOnce(t, l, 4, all)
				if silent {
					l.Cut(cut, false)
					l.Pass(7 * time.Second)
				} else {
					l.SetLink(cut, true)
				}
				// At no time on the way back may a flood loop.
				for range 30 {
					l.Pass(100 * time.Millisecond)
					broadcastsArriveOnce(t, l, 4, all)
				}
				unicastsArrive(t, l, 4, all)
			})
		})
	}
}

func TestLossOfASwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(4, simswitch.Options{}, lab.Ring(4)...), lab.Options{})
		l.Settle()
		announceAll(l)
		// The channel alone is lost: the switch forwards on, nothing is rerouted.
		l.Disconnect(2)
		l.Pass(time.Second)
		unicastsArrive(t, l, 4, reachable(4, lab.Ring(4)))
		// Then the whole switch.
		l.SetLink(place{DPID: 2, Port: 1}, false)
		l.SetLink(place{DPID: 2, Port: 2}, false)
		l.Pass(3 * time.Second)
		without := reachable(4, [][2]int{{3, 4}, {4, 1}})
		unicastsArrive(t, l, 4, without)
		broadcastsArriveOnce(t, l, 4, without)
	})
}

// A switch without its channel forwards on by the flows it has: it must not become
// a bridge between two ports that are taken for edge ports.
func TestSwitchWithoutItsChannelClosesNoLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(4, simswitch.Options{}, lab.Ring(4)...), lab.Options{})
		l.Settle()
		announceAll(l)
		l.Disconnect(2)
		l.Pass(100 * time.Millisecond) // at the very moment when the tree changes floods rest
		for range 60 {
			l.Forget()
			l.Announce("h1")
			require.False(t, l.Stormed())
			require.Len(t, l.Seen("h3"), 1)
			require.Len(t, l.Seen("h4"), 1)
			l.Pass(time.Second)
		}
		unicastsArrive(t, l, 4, func(a, b int) bool { return a != 2 && b != 2 })
		l.Connect(2)
		for range 50 {
			l.Announce("h1")
			require.False(t, l.Stormed())
			l.Pass(100 * time.Millisecond)
		}
		broadcastsArriveOnce(t, l, 4, reachable(4, lab.Ring(4)))
		l.Pass(time.Second)
		unicastsArrive(t, l, 4, reachable(4, lab.Ring(4)))
	})
}

func TestPortIsHeldUntilItIsKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(2, simswitch.Options{}, [2]int{1, 2}), lab.Options{})
		l.Settle()
		l.AddHost(simswitch.Host{Name: "new", MAC: packet.MAC{0x0e, 9, 9, 9, 9, 9}, At: place{DPID: 2, Port: 200}})
		synctest.Wait()
		l.Announce("h1")
		require.Empty(t, l.Seen("new"), "a port that just came up is not flooded")
		l.Pass(lab.EdgeDelay + 1500*time.Millisecond)
		l.Announce("h1")
		require.Len(t, l.Seen("new"), 1)
	})
}

func TestHostMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(4, simswitch.Options{}, lab.Ring(4)...), lab.Options{})
		l.Settle()
		announceAll(l)
		l.Move("h2", place{DPID: 4, Port: 101})
		l.Settle()
		l.Announce("h2")
		l.Pass(100 * time.Millisecond)
		unicastsArrive(t, l, 4, reachable(4, lab.Ring(4)))
	})
}

// One MAC may be a host of several VLANs, each at a place of its own.
func TestHostsOfVLANsAreKeptApart(t *testing.T) {
	for _, o := range []simswitch.Options{{}, {Tables: 1}} {
		synctest.Test(t, func(t *testing.T) {
			n := lab.Build(3, o, [2]int{1, 2}, [2]int{2, 3})
			n.Host("h2").MAC = n.Host("h1").MAC
			n.Host("h2").VLAN = 7
			l := lab.Start(t, n, lab.Options{})
			l.Settle()
			announceAll(l)
			from := l.Host("h3")
			send := func(tags ...packet.VLAN) {
				f := packet.Flow{SrcMAC: from.MAC, DstMAC: n.Host("h1").MAC, Tags: tags, Src: from.AddrPort(1), Dst: n.Host("h1").AddrPort(2)}
				l.Forget()
				l.Send("h3", packet.AppendUDPFrame(nil, f, nil))
				l.Pass(100 * time.Millisecond)
			}
			send()
			require.Len(t, l.Seen("h1"), 1)
			require.Empty(t, l.Seen("h2"))
			send(packet.VLAN{ID: 7})
			require.Empty(t, l.Seen("h1"))
			require.Len(t, l.Seen("h2"), 1)
		})
	}
}

func TestUnknownHostIsFoundByFlooding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(4, simswitch.Options{}, lab.Ring(4)...), lab.Options{})
		l.Settle()
		l.Send("h1", frame(l, 1, 3))
		for _, h := range []string{"h2", "h3", "h4"} {
			require.Len(t, l.Seen(h), 1)
		}
		l.Pass(100 * time.Millisecond)
		l.Send("h3", frame(l, 3, 1)) // h1 was learned from its first packet
		require.Len(t, l.Seen("h1"), 1)
		require.Empty(t, l.Seen("h2"))
	})
}

func TestObserveAndSteerLeaveForwardingToTheSwitch(t *testing.T) {
	for _, stage := range []controller.Stage{controller.StageObserve, controller.StageSteer} {
		t.Run(stage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := lab.Start(t, lab.Build(7, simswitch.Options{}, tree...), lab.Options{Stage: stage, Observe: stage == controller.StageObserve})
				l.Settle()
				same := reachable(7, tree)
				broadcastsArriveOnce(t, l, 7, same)
				unicastsArrive(t, l, 7, same)
				l.NoFaults()
				l.Pass(time.Second)
				snap := l.Snapshot()
				require.Len(t, snap.Links(), len(tree), "links are discovered all the same")
				require.Equal(t, 7, snap.HostCount())
			})
		})
	}
}

func TestStagesThereAndBackAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(3, simswitch.Options{}, [2]int{1, 2}, [2]int{2, 3}), lab.Options{Observe: true})
		l.Settle()
		announceAll(l)
		tables := func() (all []string) {
			for _, sw := range l.Switches() {
				for _, f := range sw.Flows() {
					all = append(all, fmt.Sprintf("%v %d %d %v %v", sw.DPID(), f.Table, f.Priority, f.Match, f.Instructions))
				}
				for _, g := range sw.Groups() {
					all = append(all, fmt.Sprint(sw.DPID(), g))
				}
			}
			return all
		}
		before := tables()
		same := reachable(3, [][2]int{{1, 2}, {2, 3}})
		for _, stage := range []controller.Stage{controller.StageSteer, controller.StageManaged, controller.StageSteer, controller.StageManaged, controller.StageObserve} {
			for d := ofproto.DPID(1); d <= 3; d++ {
				require.NoError(t, l.Core.SetStage(t.Context(), d, stage))
				require.NoError(t, l.Core.Settled(t.Context(), d))
				broadcastsArriveOnce(t, l, 3, same) // also while switches differ
				l.Pass(time.Second)
			}
			unicastsArrive(t, l, 3, same)
		}
		require.Equal(t, before, tables())
		l.NoFaults()
	})
}

func TestRestartSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(4, simswitch.Options{}, lab.Ring(4)...)
		first := lab.Start(t, n, lab.Options{})
		first.Settle()
		announceAll(first)
		first.Settle()
		first.Stop()
		mods := first.Mods()
		second := lab.Start(t, n, lab.Options{Memory: first.Memory})
		for range 40 {
			unicastsArrive(t, second, 4, reachable(4, lab.Ring(4)))
			second.Pass(time.Second)
		}
		require.Equal(t, mods, second.Mods(), "mods of the restart")
	})
}
