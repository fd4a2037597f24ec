package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// fabric is the part of a snapshot that hosts do not change: it outlives
// snapshots, so that what was computed is kept while hosts come and go.
type fabric struct {
	version  uint64
	switches []Switch
	index    map[DPID]int32
	ends     map[Place]int // number of ends of links in any state, or of those to switches that left, but for those on segments
	settling map[Place]time.Time
	peers    map[Place]Place // the other ends of links that are up
	arcs     [][]arc         // by switch, in order of preference
	over     [][]arc         // likewise, over segments: for paths, not for trees
	held     map[Place][]DPID
	spoken   map[Place][]Place // by port: those on its segment, of switches that left and forward on
	legacy   map[Place]bool    // ports that were on segments since they came up

	segments  []Segment
	segmentAt map[Place]int // of segments, by port
	beside    map[vertex][]vertex
	unmanaged map[DPID]bool
	blocks    map[Place]Block
	mourned   map[Place][]DPID
	closed    map[Place]string // ends of links that are not used, and why

	// Computed when first asked for. Two readers may compute the same at once;
	// both get the same, so either may be kept.
	routes     []atomic.Pointer[[]int32] // by destination: the arc to take at each switch, -1 for none
	treeRoutes []atomic.Pointer[[]int32] // likewise, along the tree
	edgePorts  []atomic.Pointer[[]Port]
	spanning   func() *Tree
	cuts       func() map[Place]bool
}

// arc is one direction of a link that is up, seen from the switch it leaves.
type arc struct {
	to       int32
	out, far Port // the port here and the port there
}

func (g *Graph) newFabric(links []Link) *fabric {
	f := &fabric{
		version:    g.fabric,
		switches:   make([]Switch, 0, len(g.switches)),
		index:      make(map[DPID]int32, len(g.switches)),
		ends:       make(map[Place]int, 2*len(links)),
		settling:   maps.Clone(g.settling),
		peers:      make(map[Place]Place, 2*len(links)),
		arcs:       make([][]arc, len(g.switches)),
		routes:     make([]atomic.Pointer[[]int32], len(g.switches)),
		treeRoutes: make([]atomic.Pointer[[]int32], len(g.switches)),
		edgePorts:  make([]atomic.Pointer[[]Port], len(g.switches)),
		held:       g.heldPorts(),
		spoken:     g.spokenBeside(),
	}
	for i, id := range slices.Sorted(maps.Keys(g.switches)) {
		f.index[id] = int32(i)
		f.switches = append(f.switches, Switch{DPID: id, Ports: g.switches[id].list()})
	}
	linked := map[ends]bool{}
	for _, l := range links {
		if l.State != StateHalf { // what is heard over bridges both ways is more
			linked[ends{l.A, l.B}] = true
		}
	}
	f.findSegments(g, linked)
	f.legacy = maps.Clone(g.onSegment)
	for _, l := range links {
		bridged := false
		for _, p := range []Place{l.A, l.B} {
			if _, ok := f.segmentAt[p]; ok {
				bridged = true
			} else {
				f.ends[p]++
			}
		}
		if l.State != StateUp || bridged {
			continue
		}
		f.peers[l.A], f.peers[l.B] = l.B, l.A
		a, b := f.index[l.A.DPID], f.index[l.B.DPID]
		f.arcs[a] = append(f.arcs[a], arc{b, l.A.Port, l.B.Port})
		f.arcs[b] = append(f.arcs[b], arc{a, l.B.Port, l.A.Port})
	}
	for _, as := range f.arcs {
		slices.SortFunc(as, func(a, b arc) int { return cmp.Or(cmp.Compare(a.to, b.to), cmp.Compare(a.out, b.out)) })
	}
	f.mourned = map[Place][]DPID{}
	for p, peers := range g.away {
		f.ends[p]++
		f.mourned[p] = slices.Sorted(maps.Keys(peers))
	}
	f.unmanaged, f.blocks = maps.Clone(g.unmanaged), maps.Clone(g.blocks)
	f.spanning, f.cuts = sync.OnceValue(f.span), sync.OnceValue(f.findCuts)
	f.closeLinks()
	f.over = make([][]arc, len(g.switches))
	f.assignRoles(f.unmanaged)
	for i, as := range f.over {
		f.over[i] = append(f.arcs[i][:len(f.arcs[i]):len(f.arcs[i])], as...)
	}
	return f
}

// Switches returns all switches in order of their DPIDs.
func (f *fabric) Switches() []Switch { return f.switches }

// Switch returns the switch with this DPID.
func (f *fabric) Switch(id DPID) (Switch, bool) {
	i, ok := f.index[id]
	if !ok {
		return Switch{}, false
	}
	return f.switches[i], true
}

// Port returns what is known of a port.
func (f *fabric) Port(p Place) (PortState, bool) {
	s, _ := f.Switch(p.DPID)
	i, ok := slices.BinarySearchFunc(s.Ports, p.Port, func(s PortState, n Port) int { return cmp.Compare(s.Port, n) })
	if !ok {
		return PortState{}, false
	}
	return s.Ports[i], true
}

// IsLink reports whether p is the end of a link in any state, or was when the
// switch at the other end left (see Graph.RemoveSwitch). Such a port is no
// edge port: no host is behind it, and nothing is flooded to it but along
// the tree.
func (f *fabric) IsLink(p Place) bool { return f.ends[p] > 0 }

// IsShared reports whether more than one link ends at p: it is on something that passes
// on what is for a cable alone.
func (f *fabric) IsShared(p Place) bool { return f.ends[p] > 1 }

// Peer returns the other end of the link at p, when that link is up.
func (f *fabric) Peer(p Place) (Place, bool) {
	o, ok := f.peers[p]
	return o, ok
}

// IsEdge reports whether p is an edge port: up, not the end of a link, and
// settled (see Options.EdgeDelay). Hosts are learned there only.
func (f *fabric) IsEdge(p Place) bool {
	ps := f.EdgePorts(p.DPID)
	_, ok := slices.BinarySearch(ps, p.Port)
	return ok
}

// EdgePorts returns the edge ports of a switch (see IsEdge), in order.
func (f *fabric) EdgePorts(id DPID) []Port {
	i, ok := f.index[id]
	if !ok {
		return nil
	}
	if ps := f.edgePorts[i].Load(); ps != nil {
		return *ps
	}
	ps := []Port{}
	for _, p := range f.switches[i].Ports {
		place := Place{id, p.Port}
		if _, settling := f.settling[place]; p.Up && !settling && f.ends[place] == 0 && !f.IsBlocked(place) {
			ps = append(ps, p.Port)
		}
	}
	f.edgePorts[i].Store(&ps)
	return ps
}

// NextHop returns the port of switch from that is on a shortest path, counted
// in links, to switch to. Among equals it is the one to the neighbour with the
// lowest DPID, then the lowest port. It reports false when there is no path, and
// when from and to are the same.
func (f *fabric) NextHop(from, to DPID) (Port, bool) { return f.nextHop(from, to, f.route) }

// NextHopInTree is NextHop on the way that broadcasts take: along the tree, and over
// segments.
func (f *fabric) NextHopInTree(from, to DPID) (Port, bool) { return f.nextHop(from, to, f.treeRoute) }

func (f *fabric) nextHop(from, to DPID, route func(dst int32) []int32) (Port, bool) {
	i, ok := f.index[from]
	if !ok {
		return 0, false
	}
	j, ok := f.index[to]
	if !ok {
		return 0, false
	}
	a := route(j)[i]
	if a < 0 {
		return 0, false
	}
	return f.over[i][a].out, true
}

// Detour says what there is beside the link that NextHop takes from one switch to another:
// whether there is a way without it, and the port to a neighbour whose own path does not
// come back (a loop-free alternate, RFC 5286 §3.2), which can take over before anybody
// calculates; 0 where no neighbour is such. It reports false, too, where NextHop takes no
// cable.
func (f *fabric) Detour(from, to DPID) (spare Port, ok bool) {
	out, leads := f.NextHop(from, to)
	if _, cable := f.peers[Place{from, out}]; !leads || !cable {
		return 0, false
	}
	i, route := f.index[from], f.route(f.index[to])
	for _, a := range f.arcs[i] {
		if a.out == out {
			continue
		}
		at := a.to
		for at != i && route[at] >= 0 && !f.unmanaged[f.switches[at].DPID] {
			at = f.over[at][route[at]].to
		}
		if f.switches[at].DPID == to {
			return a.out, true
		}
	}
	return 0, !f.cuts()[Place{from, out}]
}

// findCuts returns the ends of links without which the network falls apart: those that no
// circle goes by (Tarjan, 1974).
func (f *fabric) findCuts() map[Place]bool {
	cuts := map[Place]bool{}
	seen, low := make([]int, len(f.switches)), make([]int, len(f.switches)) // in order of visits, from 1
	visits := 0
	var visit func(i int32, by Port)
	visit = func(i int32, by Port) {
		visits++
		seen[i], low[i] = visits, visits
		for _, a := range f.over[i] {
			switch {
			case a.out == by:
			case seen[a.to] > 0:
				low[i] = min(low[i], seen[a.to])
			default:
				visit(a.to, a.far)
				low[i] = min(low[i], low[a.to])
				if low[a.to] > seen[i] {
					cuts[Place{f.switches[i].DPID, a.out}], cuts[Place{f.switches[a.to].DPID, a.far}] = true, true
				}
			}
		}
	}
	for i := range f.switches {
		if seen[i] == 0 {
			visit(int32(i), 0)
		}
	}
	return cuts
}

// Hop is one switch of a path: in by one port, out by another. In of the first
// hop and Out of the last are 0.
type Hop struct {
	DPID DPID `json:"dpid"`
	In   Port `json:"in"`
	Out  Port `json:"out"`
}

// Path returns the switches from one to another that NextHop leads through,
// both included, or nil when there is no path.
func (f *fabric) Path(from, to DPID) []Hop {
	i, ok := f.index[from]
	if !ok {
		return nil
	}
	j, ok := f.index[to]
	if !ok {
		return nil
	}
	route := f.route(j)
	path := []Hop{{DPID: from}}
	for i != j {
		if route[i] < 0 {
			return nil
		}
		a := f.over[i][route[i]]
		path[len(path)-1].Out = a.out
		i = a.to
		path = append(path, Hop{DPID: f.switches[i].DPID, In: a.far})
	}
	return path
}

// route returns, for each switch, which of its arcs leads to switch dst.
func (f *fabric) route(dst int32) []int32 {
	return kept(&f.routes[dst], func() []int32 { return f.search(dst, func(int32, int) bool { return true }) })
}

// treeRoute is route along the tree.
func (f *fabric) treeRoute(dst int32) []int32 {
	return kept(&f.treeRoutes[dst], func() []int32 {
		tree := f.spanning()
		return f.search(dst, func(i int32, arc int) bool {
			return arc >= len(f.arcs[i]) || tree.Contains(Place{f.switches[i].DPID, f.arcs[i][arc].out})
		})
	})
}

// kept computes what p does not have yet.
func kept(p *atomic.Pointer[[]int32], compute func() []int32) []int32 {
	if r := p.Load(); r != nil {
		return *r
	}
	r := compute()
	p.Store(&r)
	return r
}

// search finds shortest paths to switch dst by the arcs of over that it may use. Both
// directions of a link are used, or none.
func (f *fabric) search(dst int32, use func(i int32, arc int) bool) []int32 {
	const unreached = -1
	dist := make([]int32, len(f.switches))
	r := make([]int32, len(f.switches))
	for i := range dist {
		dist[i], r[i] = unreached, unreached
	}
	dist[dst] = 0
	queue := append(make([]int32, 0, len(dist)), dst)
	for k := 0; k < len(queue); k++ {
		i := queue[k]
		for n, a := range f.over[i] {
			if dist[a.to] == unreached && use(i, n) {
				dist[a.to] = dist[i] + 1
				queue = append(queue, a.to)
			}
		}
	}
	for i, as := range f.over {
		for n, a := range as {
			// dist is 0 at dst and -1 where dst is not reached: no arc fits there.
			if dist[i] > 0 && dist[a.to] == dist[i]-1 && use(int32(i), n) {
				r[i] = int32(n)
				break
			}
		}
	}
	return r
}

// Tree is a loop-free set of links that joins all switches of each component.
type Tree struct {
	ports      map[DPID][]Port
	roots      map[DPID]DPID
	components [][]DPID
}

// closeLinks takes links between a switch that is managed and one that is not out of
// use where they are not in the tree: what the latter forwards on its own would come
// by each of them.
func (f *fabric) closeLinks() {
	f.closed = map[Place]string{}
	if len(f.unmanaged) == 0 {
		return
	}
	tree := f.spanning()
	for i, as := range f.arcs {
		here := f.switches[i].DPID
		f.arcs[i] = slices.DeleteFunc(as, func(a arc) bool {
			there := f.switches[a.to].DPID
			if f.unmanaged[here] == f.unmanaged[there] || tree.Contains(Place{here, a.out}) {
				return false
			}
			if f.unmanaged[there] {
				f.closed[Place{here, a.out}] = fmt.Sprintf("%v forwards on its own, and is reached another way", there)
			}
			return true
		})
	}
}

// Tree returns the broadcast tree: in each component the breadth-first tree
// from its lowest DPID, with the lowest DPIDs and ports preferred. A frame that
// every switch passes on to its tree ports and edge ports, except where it came
// from, reaches every switch of the component exactly once. Switches that are not
// managed forward over all links between them, so those that are so joined are as one
// switch, which one link leads to from each side.
func (f *fabric) Tree() *Tree { return f.spanning() }

// Components returns the sets of switches that reach one another, each in order
// and ordered by its first.
func (f *fabric) Components() [][]DPID { return f.spanning().components }

// Ports returns the ports of a switch that are in the tree, in order.
func (t *Tree) Ports(id DPID) []Port { return t.ports[id] }

// Contains reports whether a port is in the tree.
func (t *Tree) Contains(p Place) bool {
	_, ok := slices.BinarySearch(t.ports[p.DPID], p.Port)
	return ok
}

// Root returns the lowest DPID of the component that a switch is in.
func (t *Tree) Root(id DPID) (DPID, bool) {
	r, ok := t.roots[id]
	return r, ok
}

func (f *fabric) span() *Tree {
	t := &Tree{ports: make(map[DPID][]Port, len(f.switches)), roots: make(map[DPID]DPID, len(f.switches))}
	for root := range f.switches {
		rootID := f.switches[root].DPID
		if _, ok := t.roots[rootID]; ok {
			continue
		}
		t.roots[rootID] = rootID
		component := []DPID{rootID}
		queue := []int32{int32(root)}
		join := func(from int32, a arc) bool {
			here, there := f.switches[from].DPID, f.switches[a.to].DPID
			if _, ok := t.roots[there]; ok {
				return false
			}
			t.roots[there] = rootID
			t.ports[here] = append(t.ports[here], a.out)
			t.ports[there] = append(t.ports[there], a.far)
			component = append(component, there)
			queue = append(queue, a.to)
			return true
		}
		unmanaged := func(i int32) bool { return f.unmanaged[f.switches[i].DPID] }
		// together joins all that is joined to a switch without a managed one between.
		together := func(i int32) {
			for at := []int32{i}; len(at) > 0; at = at[1:] {
				for _, a := range f.arcs[at[0]] {
					if unmanaged(a.to) && join(at[0], a) {
						at = append(at, a.to)
					}
				}
			}
		}
		if unmanaged(queue[0]) {
			together(queue[0])
		}
		for k := 0; k < len(queue); k++ {
			for _, a := range f.arcs[queue[k]] {
				if join(queue[k], a) && unmanaged(a.to) {
					together(a.to)
				}
			}
		}
		slices.Sort(component)
		t.components = append(t.components, component)
	}
	for _, ps := range t.ports {
		slices.Sort(ps)
	}
	return t
}
