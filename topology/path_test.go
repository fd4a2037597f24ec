package topology

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// checkFabric compares the paths, trees and components of a snapshot with what
// a dumb reading of its links gives.
func checkFabric(t require.TestingT, s *Snapshot) {
	const far = 1 << 20
	dist := map[[2]DPID]int{}
	var ids []DPID
	for _, sw := range s.Switches() {
		ids = append(ids, sw.DPID)
	}
	for _, a := range ids {
		for _, b := range ids {
			dist[[2]DPID{a, b}] = far
		}
		dist[[2]DPID{a, a}] = 0
	}
	wire := map[Place]Place{}
	for _, l := range s.Links() {
		require.True(t, s.IsLink(l.A) && s.IsLink(l.B))
		if l.State != StateUp {
			continue
		}
		require.NotContains(t, wire, l.A, "two links on one port")
		require.NotContains(t, wire, l.B, "two links on one port")
		wire[l.A], wire[l.B] = l.B, l.A
		dist[[2]DPID{l.A.DPID, l.B.DPID}], dist[[2]DPID{l.B.DPID, l.A.DPID}] = 1, 1
	}
	for _, k := range ids { // Floyd and Warshall
		for _, a := range ids {
			for _, b := range ids {
				dist[[2]DPID{a, b}] = min(dist[[2]DPID{a, b}], dist[[2]DPID{a, k}]+dist[[2]DPID{k, b}])
			}
		}
	}
	for p, o := range wire {
		peer, ok := s.Peer(p)
		require.True(t, ok)
		require.Equal(t, o, peer)
	}

	tree := s.Tree()
	for _, a := range ids {
		root := a
		for _, b := range ids {
			d := dist[[2]DPID{a, b}]
			if d < far {
				root = min(root, b)
			}
			path := s.Path(a, b)
			if d == far {
				require.Nil(t, path)
				_, ok := s.NextHop(a, b)
				require.False(t, ok)
				continue
			}
			require.Len(t, path, d+1)
			require.Equal(t, a, path[0].DPID)
			require.Equal(t, b, path[d].DPID)
			require.Zero(t, path[0].In)
			require.Zero(t, path[d].Out)
			for i := range d {
				out, ok := s.NextHop(path[i].DPID, b)
				require.True(t, ok)
				require.Equal(t, path[i].Out, out)
				require.Equal(t, Place{path[i+1].DPID, path[i+1].In}, wire[Place{path[i].DPID, out}])
			}
			_, ok := s.NextHop(b, b)
			require.False(t, ok)

			if d > 0 {
				checkDetour(t, s, wire, a, b)
			}
			at := a
			for hops := 0; at != b; hops++ {
				out, ok := s.NextHopInTree(at, b)
				require.True(t, ok)
				require.True(t, tree.Contains(Place{at, out}))
				require.Less(t, hops, len(ids), "the way from %v to %v along the tree has a circle", a, b)
				at = wire[Place{at, out}].DPID
			}
		}
		r, ok := tree.Root(a)
		require.True(t, ok)
		require.Equal(t, root, r)

		// A broadcast from behind each edge port, and from the switch itself.
		for _, in := range append(s.EdgePorts(a), 0) {
			flood(t, s, wire, Place{a, in}, dist)
		}
	}

	var all []DPID
	for _, c := range s.Components() {
		require.True(t, slices.IsSorted(c))
		for _, b := range c {
			require.Less(t, dist[[2]DPID{c[0], b}], far)
		}
		all = append(all, c...)
	}
	require.ElementsMatch(t, ids, all)
}

// flood sends a broadcast in at a place and checks that every switch of the
// component sees it once, and every edge port but that one sends it once.
func flood(t require.TestingT, s *Snapshot, wire map[Place]Place, in Place, dist map[[2]DPID]int) {
	seen := map[DPID]int{}
	left := map[Place]int{}
	queue := []Place{in}
	for len(queue) > 0 {
		at := queue[0]
		queue = queue[1:]
		seen[at.DPID]++
		require.Equal(t, 1, seen[at.DPID], "switch %v got it again", at.DPID)
		for _, p := range s.EdgePorts(at.DPID) {
			if p != at.Port {
				left[Place{at.DPID, p}]++
			}
		}
		for _, p := range s.Tree().Ports(at.DPID) {
			require.True(t, s.Tree().Contains(Place{at.DPID, p}))
			if p != at.Port {
				far, ok := wire[Place{at.DPID, p}]
				require.True(t, ok, "a tree port without a link")
				queue = append(queue, far)
			}
		}
	}
	for _, sw := range s.Switches() {
		reached := dist[[2]DPID{in.DPID, sw.DPID}] < 1<<20
		require.Equal(t, reached, seen[sw.DPID] == 1)
		for _, p := range s.EdgePorts(sw.DPID) {
			place := Place{sw.DPID, p}
			require.Equal(t, reached && place != in, left[place] == 1, "edge port %v", place)
		}
	}
}

// randomGraph links n switches at random: parallel links, loops, one-way
// links and unplugged ports among them.
func randomGraph(rng *rand.Rand, n, links int) *Graph {
	g := New(Options{})
	ids := rng.Perm(4 * n)[:n]
	for _, id := range ids {
		g.SetSwitch(DPID(id+1), ports(links), t0)
	}
	var free []Place
	for _, id := range ids {
		for p := 1; p <= links; p++ {
			free = append(free, Place{DPID(id + 1), Port(p)})
		}
	}
	rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
	for i := range links {
		a, b := free[2*i], free[2*i+1]
		g.HearLink(a, b, t0)
		if rng.IntN(8) > 0 {
			g.HearLink(b, a, t0)
		}
		if rng.IntN(16) == 0 {
			g.SetPort(a.DPID, PortState{Port: a.Port}, t0)
		}
	}
	return g
}

func TestRandomGraphs(t *testing.T) {
	for seed := range uint64(80) {
		rng := rand.New(rand.NewPCG(seed, 3))
		n := 2 + rng.IntN(12)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			checkFabric(t, randomGraph(rng, n, 1+rng.IntN(2*n)).Snapshot())
		})
	}
}

// Among equal paths the lowest neighbour wins, then the lowest port, on every
// run and however the links were learned.
func TestTies(t *testing.T) {
	g := New(Options{})
	for id := DPID(1); id <= 4; id++ {
		g.SetSwitch(id, ports(8), t0)
	}
	hear(g, Place{1, 1}, Place{3, 1}, t0)
	hear(g, Place{3, 2}, Place{4, 1}, t0)
	hear(g, Place{1, 7}, Place{2, 1}, t0)
	hear(g, Place{1, 6}, Place{2, 2}, t0)
	hear(g, Place{2, 3}, Place{4, 2}, t0)
	s := g.Snapshot()
	require.Equal(t, []Hop{{1, 0, 6}, {2, 2, 3}, {4, 2, 0}}, s.Path(1, 4))
	require.Equal(t, []Port{1, 6}, s.Tree().Ports(1))
}

// Many readers may use snapshots while the owner changes the graph: for the
// race detector, and each must still see its own.
func TestConcurrentReaders(t *testing.T) {
	g := randomGraph(rand.New(rand.NewPCG(1, 4)), 10, 25)
	edge := g.Snapshot().Switches()[0].DPID
	var wg sync.WaitGroup
	for i := range 50 {
		g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 0, byte(i)}, Place: Place{edge, g.Snapshot().EdgePorts(edge)[0]}}, t0)
		if i%10 == 0 {
			g.SetPort(edge, PortState{Port: 99, Up: i%20 == 0}, t0)
		}
		s, want := g.Snapshot(), i+1
		for range 2 {
			wg.Go(func() {
				checkHosts := s.Hosts()
				if len(checkHosts) != want {
					t.Errorf("%d hosts, want %d", len(checkHosts), want)
				}
				for _, a := range s.Switches() {
					for _, b := range s.Switches() {
						s.Path(a.DPID, b.DPID)
					}
					s.EdgePorts(a.DPID)
					s.Tree().Ports(a.DPID)
				}
			})
		}
	}
	wg.Wait()
}

// checkDetour compares Detour with a search that leaves the link out.
func checkDetour(t require.TestingT, s *Snapshot, wire map[Place]Place, a, b DPID) {

	lost, _ := s.NextHop(a, b)
	reached := map[DPID]bool{a: true}
	for queue := []DPID{a}; len(queue) > 0; queue = queue[1:] {
		for p, o := range wire {
			if p.DPID == queue[0] && p != (Place{a, lost}) && o != (Place{a, lost}) && !reached[o.DPID] {
				reached[o.DPID] = true
				queue = append(queue, o.DPID)
			}
		}
	}
	spare, ok := s.Detour(a, b)
	require.Equal(t, reached[b], ok, "a way from %v to %v without %v", a, b, lost)
	if spare == 0 {
		for p, o := range wire {
			if p.DPID == a && p.Port != lost {
				back := slices.ContainsFunc(s.Path(o.DPID, b), func(h Hop) bool { return h.DPID == a })
				require.True(t, back, "%v is spare from %v to %v", p, a, b)
			}
		}
		return
	}
	require.NotEqual(t, lost, spare)
	for _, h := range s.Path(wire[Place{a, spare}].DPID, b) {
		require.NotEqual(t, a, h.DPID, "the way over the spare port comes back")
	}
}
