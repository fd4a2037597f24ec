package topology

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// A segment is a piece of the network that is not ours: one bridge or hub, or many,
// that switches are plugged into. It is known by probes of a kind that bridges pass
// on: two ports that hear each other's, and are not the two ends of one cable, are
// on one segment.
//
// Switches that are managed and joined by links are a domain. Into each segment a
// domain sends by one port only, the designated one, and takes frames from no other:
// the others are blocked. Where domains and segments make a circle, it is opened at
// one more port. So no broadcast goes round, and none arrives twice. A switch that is
// not managed forwards as it likes; its ports count as open, and where it is in a
// domain, the managed ones beside it are blocked.

// SegmentRole says what a port on a segment is for.
type SegmentRole uint8

// The roles.
const (
	// RoleDesignated: the domain's way into the segment.
	RoleDesignated SegmentRole = iota
	// RoleBlocked: nothing is sent and nothing is taken, but probes.
	RoleBlocked
	// RoleOpen: of a switch that is not managed.
	RoleOpen
)

var segmentRoles = [...]string{"designated", "blocked", "open"}

// String returns the name of the role.
func (r SegmentRole) String() string {
	if int(r) < len(segmentRoles) {
		return segmentRoles[r]
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

// MarshalText gives the role in JSON as String does.
func (r SegmentRole) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// SegmentPort is one port on a segment.
type SegmentPort struct {
	Place
	Role   SegmentRole `json:"role"`
	Reason string      `json:"reason,omitempty"` // why it is blocked
	// Fault is what is wrong with the port, which is used all the same (see Graph.SetFault).
	Fault string `json:"fault,omitempty"`
}

// Segment is a piece of the network between ports, known by the lowest of them.
type Segment struct {
	Ports []SegmentPort `json:"ports"` // in order
}

// ID is the lowest of the segment's ports.
func (s Segment) ID() Place { return s.Ports[0].Place }

// HearBridged records that a probe that bridges pass on, sent out of port from, was
// received on port to, and believed until then. It is ignored unless both ports are
// known and up, and where they are one.
func (g *Graph) HearBridged(from, to Place, until, now time.Time) []Event {
	g.tick(now)
	if from == to || !g.up(from) || !g.up(to) {
		return nil
	}
	if from.Compare(to) > 0 {
		from, to = to, from
	}
	_, known := g.bridged[ends{from, to}]
	g.bridged[ends{from, to}] = until
	g.touched = true
	if known {
		return nil
	}
	return g.changed([]Event{SegmentChanged{from, to, true}})
}

// SeedSegment records a segment known from before a restart, which is believed until
// then.
func (g *Graph) SeedSegment(ports []Place, until, now time.Time) []Event {
	var evs []Event
	for i, p := range ports {
		if !g.up(p) {
			continue
		}
		g.onSegment[p] = true
		if len(ports) > 2 {
			g.crowded[p] = true
		}
		if i > 0 {
			evs = append(evs, g.HearBridged(ports[i-1], p, until, now)...)
		}
	}
	return evs
}

// SetManaged says whether the graph's paths and trees are what a switch forwards by.
// It is taken to be so unless said otherwise.
func (g *Graph) SetManaged(id DPID, managed bool, now time.Time) []Event {
	g.tick(now)
	if g.unmanaged[id] == !managed {
		return nil
	}
	if managed {
		delete(g.unmanaged, id)
	} else {
		g.unmanaged[id] = true
	}
	if g.switches[id] == nil || len(g.bridged) == 0 && len(g.edges) == 0 {
		return nil
	}
	return g.changed([]Event{SegmentChanged{}})
}

// HoldBridged has what was heard over bridges from and at a switch believed at least
// until then: one that is not connected sends no probes, and forwards on.
func (g *Graph) HoldBridged(id DPID, until time.Time) {
	for k, t := range g.bridged {
		if (k.a.DPID == id || k.b.DPID == id) && t.Before(until) {
			g.bridged[k] = until
			g.touched = true
		}
	}
}

// unbridge forgets what was heard over bridges by ports that fit.
func (g *Graph) unbridge(gone func(ends, time.Time) bool) (evs []Event) {
	for _, k := range slices.SortedFunc(maps.Keys(g.bridged), compareEnds) {
		if gone(k, g.bridged[k]) {
			delete(g.bridged, k)
			evs = append(evs, SegmentChanged{k.a, k.b, false})
		}
	}
	return evs
}

// ProlongBridged has all that was heard over bridges believed for longer by d: nothing
// was sent meanwhile.
func (g *Graph) ProlongBridged(d time.Duration) {
	for k, until := range g.bridged {
		g.bridged[k] = until.Add(d)
		g.touched = true
	}
}

// Bury says that a switch that is not connected does not forward any more into the
// segment that a port is on, or was on when the switch left: the port is not blocked any
// more for its sake.
func (g *Graph) Bury(id DPID, p Place, now time.Time) []Event {
	g.tick(now)
	on := map[Place]bool{}
	if s, _, ok := g.fabricNow().Segment(p); ok {
		for _, o := range s.Ports {
			on[o.Place] = o.DPID == id
		}
	}
	evs := g.unbridge(func(k ends, _ time.Time) bool { return on[k.a] || on[k.b] })
	for _, o := range slices.SortedFunc(maps.Keys(on), Place.Compare) {
		if on[o] {
			evs = append(evs, g.flush(o, ReasonSwitch, true)...)
		}
	}
	if peers := g.away[p]; len(peers) > 0 {
		if delete(peers, id); len(peers) == 0 {
			delete(g.away, p)
			evs = append(evs, SegmentChanged{})
		}
	}
	return g.changed(evs)
}

// Part says that two ports do not hear each other over bridges any more.
func (g *Graph) Part(a, b Place, now time.Time) []Event {
	g.tick(now)
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	if _, known := g.bridged[ends{a, b}]; !known {
		return nil
	}
	g.bridged[ends{a, b}] = g.now
	return g.changed(g.apart())
}

// apart forgets what was heard over bridges too long ago. Hosts behind a port that is on
// no segment any more are to be found again: they may be behind the one beside it.
func (g *Graph) apart() []Event {
	was := map[Place]bool{}
	evs := g.unbridge(func(k ends, until time.Time) bool {
		if until.After(g.now) {
			return false
		}
		was[k.a], was[k.b] = true, true
		return true
	})
	for k := range g.bridged {
		delete(was, k.a)
		delete(was, k.b)
	}
	for _, p := range slices.SortedFunc(maps.Keys(was), Place.Compare) {
		evs = append(evs, g.flush(p, ReasonSegment, true)...)
	}
	return evs
}

func (g *Graph) unbridgePort(p Place) []Event {
	return g.unbridge(func(k ends, _ time.Time) bool { return k.a == p || k.b == p })
}

func compareEnds(x, y ends) int { return cmp.Or(x.a.Compare(y.a), x.b.Compare(y.b)) }

// flushBlocked removes the hosts at ports that are blocked: they are to be found
// again by way of the designated one.
func (g *Graph) flushBlocked() (evs []Event) {
	if len(g.bridged) == 0 {
		return nil
	}
	for _, s := range g.fabricNow().segments {
		for _, p := range s.Ports {
			if p.Role == RoleBlocked {
				evs = append(evs, g.flush(p.Place, ReasonLink, true)...)
			}
		}
	}
	return evs
}

// fabricNow returns the fabric as of the last change of switches, ports and links.
func (g *Graph) fabricNow() *fabric {
	if s := g.snapshot; s != nil && s.fabric.version == g.fabric {
		return s.fabric
	}
	if g.latest == nil || g.latest.version != g.fabric {
		g.latest = g.newFabric(g.links())
	}
	return g.latest
}

// passesBy says whether the frames of a host that is known to be at home come by a port
// on their way: then it is not there.
func (g *Graph) passesBy(at, home Place) bool {
	if len(g.bridged) == 0 || !g.up(home) {
		return false
	}
	f := g.fabricNow()
	seg, ok := f.segmentAt[at]
	if !ok {
		return false
	}
	from := vertex{domain: f.domain(home.DPID)}
	if i, ok := f.segmentAt[home]; ok {
		if i == seg {
			return true // the segment is its home
		}
		from = vertex{segment: i + 1}
	}
	// There is one way at most from one domain or segment to another.
	to := vertex{domain: f.domain(at.DPID)}
	before := map[vertex]vertex{from: {}}
	for queue := []vertex{from}; len(queue) > 0; queue = queue[1:] {
		v := queue[0]
		if v == to {
			return before[v] == vertex{segment: seg + 1}
		}
		for _, next := range f.beside[v] {
			if _, seen := before[next]; !seen {
				before[next] = v
				queue = append(queue, next)
			}
		}
	}
	return false
}

// vertex is a domain, by its lowest switch, or a segment, by its index and one: what
// broadcasts pass from one to the next.
type vertex struct {
	domain  DPID
	segment int
}

// findSegments finds the segments, gives their ports their roles, and joins domains by
// segments for paths. Links between ports of a segment are none: a hub passes on the
// probes of cables too.
func (f *fabric) findSegments(g *Graph, linked map[ends]bool) {
	f.segmentAt = map[Place]int{}
	if len(g.bridged) == 0 {
		return
	}
	peers := map[Place]int{}
	for k := range g.bridged {
		peers[k.a]++
		peers[k.b]++
	}
	sets := newSets[Place]()
	for k := range g.bridged {
		// Two that are left of more on a hub look like the ends of a cable.
		more := peers[k.a] > 1 || peers[k.b] > 1 || g.crowded[k.a] || g.crowded[k.b]
		if more {
			g.crowded[k.a], g.crowded[k.b] = true, true
		}
		if !linked[k] || more {
			sets.join(k.a, k.b)
			g.onSegment[k.a], g.onSegment[k.b] = true, true
			continue
		}
		// Their cable was probed later than bridges were.
		delete(g.onSegment, k.a)
		delete(g.onSegment, k.b)
	}
	byRoot := map[Place]int{}
	for _, p := range slices.SortedFunc(maps.Keys(sets.parent), Place.Compare) {
		root := sets.find(p)
		i, ok := byRoot[root]
		if !ok {
			i = len(f.segments)
			byRoot[root] = i
			f.segments = append(f.segments, Segment{})
		}
		f.segmentAt[p] = i
		f.segments[i].Ports = append(f.segments[i].Ports, SegmentPort{Place: p, Fault: g.faultAt(p)})
	}
}

// assignRoles gives the ports of segments their roles.
func (f *fabric) assignRoles(unmanaged map[DPID]bool) {
	circles := newSets[vertex]()
	f.beside = map[vertex][]vertex{}
	for i := range f.segments {
		ports := f.segments[i].Ports
		open := map[DPID]Place{} // by domain: its way into the segment
		for j, p := range ports {
			if unmanaged[p.DPID] {
				ports[j].Role = RoleOpen
				d := f.domain(p.DPID)
				if _, ok := open[d]; !ok {
					open[d] = p.Place
				}
				circles.join(vertex{domain: d}, vertex{segment: i + 1})
			}
		}
		for j, p := range ports {
			if ports[j].Role == RoleOpen {
				continue
			}
			if b, ok := f.blocks[p.Place]; ok {
				ports[j].Role, ports[j].Reason = RoleBlocked, b.Reason
				continue
			}
			d := f.domain(p.DPID)
			switch by, taken := open[d]; {
			case taken:
				ports[j].Role, ports[j].Reason = RoleBlocked, fmt.Sprintf("%v leads there too", by)
			case circles.find(vertex{domain: d}) == circles.find(vertex{segment: i + 1}):
				ports[j].Role, ports[j].Reason = RoleBlocked, "other segments lead there too"
			default:
				open[d] = p.Place
				circles.join(vertex{domain: d}, vertex{segment: i + 1})
			}
		}
		for d := range open {
			f.beside[vertex{domain: d}] = append(f.beside[vertex{domain: d}], vertex{segment: i + 1})
			f.beside[vertex{segment: i + 1}] = append(f.beside[vertex{segment: i + 1}], vertex{domain: d})
		}
		// Domains reach one another over the segment.
		ways := slices.SortedFunc(maps.Values(open), Place.Compare)
		for _, a := range ways {
			for _, b := range ways {
				if a != b {
					f.over[f.index[a.DPID]] = append(f.over[f.index[a.DPID]], arc{f.index[b.DPID], a.Port, b.Port})
				}
			}
		}
	}
}

// domain returns the lowest switch that is joined to a switch by links.
func (f *fabric) domain(id DPID) DPID {
	root, _ := f.spanning().Root(id)
	return root
}

// Managed reports whether a switch forwards by the graph (see Graph.SetManaged).
func (f *fabric) Managed(id DPID) bool { return !f.unmanaged[id] }

// Segments returns the segments in order of their lowest ports.
func (f *fabric) Segments() []Segment { return f.segments }

// IsOnSegment reports whether a port is on a segment.
func (f *fabric) IsOnSegment(p Place) bool {
	_, ok := f.segmentAt[p]
	return ok
}

// Mourned returns the ports that are no edge ports although nothing is known to be behind
// them, each with the switches that left, and may forward on, for whose sake it is so.
func (f *fabric) Mourned() map[Place][]DPID { return f.mourned }

// Segment returns the segment that a port is on, and the port's role there.
func (f *fabric) Segment(p Place) (Segment, SegmentRole, bool) {
	i, ok := f.segmentAt[p]
	if !ok {
		return Segment{}, 0, false
	}
	s := f.segments[i]
	j := slices.IndexFunc(s.Ports, func(o SegmentPort) bool { return o.Place == p })
	return s, s.Ports[j].Role, true
}

// IsBlocked reports whether a port is blocked (see Blocked).
func (f *fabric) IsBlocked(p Place) bool { return f.Blocked(p) != "" }

// sets are disjoint sets.
type sets[T comparable] struct{ parent map[T]T }

func newSets[T comparable]() *sets[T] { return &sets[T]{map[T]T{}} }

func (s *sets[T]) find(v T) T {
	p, ok := s.parent[v]
	if !ok {
		s.parent[v] = v
		return v
	}
	if p != v {
		p = s.find(p)
		s.parent[v] = p
	}
	return p
}

func (s *sets[T]) join(a, b T) {
	if x, y := s.find(a), s.find(b); x != y {
		s.parent[x] = y
	}
}
