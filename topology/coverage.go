package topology

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// A path of a VIP leads from a client to a member and back. It is covered when a switch
// that acts on VIPs is on the way there, and on the way back what the VIP's replies need
// (Replies): where packets go that no such switch sees, nobody rewrites them. Clients are
// the hosts that are no members of the VIP. The ways are the shortest, as Snapshot.Path
// has them; switches that forward on their own take them where there is one only.
//
// A client and a member behind one port, or on one segment, reach one another before any
// switch. What the client sends to the VIP comes to a switch there all the same, for it
// answers for the VIP, and goes back; but the reply does not, unless it is to the VIP.

// CoverageNotes is what Coverage has to know beside the graph.
type CoverageNotes struct {
	Notes
	// Steering are the switches that act on VIPs: in stage steer or managed.
	Steering map[DPID]bool
	// Bridges are known, and no switches of the graph.
	Bridges []CoverageBridge
}

// CoverageBridge is a bridge that could become a switch, known by its database.
type CoverageBridge struct {
	DPID     DPID
	Endpoint string
	Name     string
	Attached []MAC   // of its ports: packets of these hosts pass it
	Behind   []Place // ports of switches that lead to it: so do those of hosts there
}

// Coverage says which paths of VIPs are covered, and which switches to convert next.
type Coverage struct {
	Paths   int           `json:"paths"`
	Covered int           `json:"covered"`
	Never   int           `json:"never"` // cross nothing that is known and could be converted
	VIPs    []VIPCoverage `json:"vips"`
	// Steps are what to convert, each the one that covers most after those before it. What
	// would cover nothing is not among them.
	Steps []CoverageStep `json:"steps"`
}

// VIPCoverage is the coverage of one VIP.
type VIPCoverage struct {
	Name     string        `json:"name"`
	Address  netip.Addr    `json:"address"`
	Paths    int           `json:"paths"`
	Covered  int           `json:"covered"`
	Never    int           `json:"never"`
	Unplaced []netip.Addr  `json:"unplaced"` // members that are nowhere in the graph: their paths are not counted
	Gaps     []CoverageGap `json:"gaps"`     // not covered, the most clients first; at most maxGaps
}

// CoverageGap are the paths between the clients at one place and one member that are not
// covered.
type CoverageGap struct {
	From    Place      `json:"from"`
	Clients int        `json:"clients"`
	Member  netip.Addr `json:"member"`
	To      Place      `json:"to"`
	Reason  string     `json:"reason"`
}

// CoverageStep is one conversion.
type CoverageStep struct {
	DPID     DPID   `json:"dpid"`
	Name     string `json:"name"`
	Kind     string `json:"kind"`               // switch: raise its stage; bridge: adopt it
	Endpoint string `json:"endpoint,omitempty"` // of the bridge's database
	Behind   *Place `json:"behind,omitempty"`   // where a bridge is, if known
	Gain     int    `json:"gain"`               // paths that it covers
	Covered  int    `json:"covered"`            // paths that are covered then
}

const maxGaps = 20

// spot is where a host is: at a place, and attached to a bridge before it, if that is
// not 0.
type spot struct {
	Place
	bridge DPID
}

// way is the paths between the clients at one spot and one member.
type way struct {
	vip      int
	from, to spot
	member   netip.Addr
	clients  int
	*route
}

// route is what paths pass that have the same switches and bridges at their ends.
type route struct {
	there, back []DPID // in the order in which packets pass them
	replies     Replies
	paths       int // of all VIPs
}

// ends of a route. together: they reach one another before any switch.
type routeKey struct {
	from, to     DPID
	before, last DPID // bridges
	together     bool
	replies      Replies
	beside       Place // where both are, if replies may be such that it matters
}

// covered says what of a route is, where switches act on VIPs.
func (r *route) covered(acts func(DPID) bool) (there, back bool) {
	first := slices.IndexFunc(r.there, acts)
	there = first >= 0
	switch r.replies {
	case RepliesFree, RepliesToVIP:
		back = true
	case RepliesReturn:
		back = there && slices.Contains(r.back, r.there[first])
	default:
		back = slices.ContainsFunc(r.back, acts)
	}
	return there, back
}

// in returns whether a set has a switch.
func in(set map[DPID]bool) func(DPID) bool { return func(d DPID) bool { return set[d] } }

// Coverage computes it. The same snapshot and notes give the same answer.
func (s *Snapshot) Coverage(n CoverageNotes) Coverage {
	c := Coverage{VIPs: []VIPCoverage{}, Steps: []CoverageStep{}}
	steps := map[DPID]CoverageStep{}
	for _, sw := range s.Switches() {
		if !n.Steering[sw.DPID] {
			steps[sw.DPID] = CoverageStep{DPID: sw.DPID, Name: switchName(sw, n.Notes), Kind: "switch"}
		}
	}
	for _, b := range n.Bridges {
		if _, is := s.Switch(b.DPID); is || b.DPID == 0 {
			continue
		}
		steps[b.DPID] = CoverageStep{DPID: b.DPID, Name: b.Name, Kind: "bridge", Endpoint: b.Endpoint, Behind: s.behind(b)}
	}
	ways, routes := s.ways(n, &c)

	by := map[DPID]bool{}
	for d, steering := range n.Steering {
		if steering {
			by[d] = true
		}
	}
	all := maps.Clone(by)
	for d := range steps {
		all[d] = true
	}
	for _, w := range ways {
		v := &c.VIPs[w.vip]
		there, back := w.covered(in(by))
		couldThere, couldBack := w.covered(in(all))
		switch {
		case there && back:
			v.Covered += w.clients
			continue
		case !couldThere || !couldBack:
			v.Never += w.clients
		}
		if len(v.Gaps) >= 8*maxGaps {
			v.cutGaps()
		}
		v.Gaps = append(v.Gaps, CoverageGap{From: w.from.Place, To: w.to.Place, Clients: w.clients, Member: w.member, Reason: reasonOf(w.replies, there, back, couldThere, couldBack)})
	}
	for i := range c.VIPs {
		v := &c.VIPs[i]
		v.cutGaps()
		c.Paths, c.Covered, c.Never = c.Paths+v.Paths, c.Covered+v.Covered, c.Never+v.Never
	}
	for covered := c.Covered; ; {
		step, ok := nextStep(steps, routes, by)
		if !ok {
			return c
		}
		covered += step.Gain
		step.Covered = covered
		c.Steps = append(c.Steps, step)
		by[step.DPID] = true
		delete(steps, step.DPID)
	}
}

// cutGaps keeps those with the most clients, the first of equals.
func (v *VIPCoverage) cutGaps() {
	slices.SortStableFunc(v.Gaps, func(a, b CoverageGap) int { return cmp.Compare(b.Clients, a.Clients) })
	v.Gaps = v.Gaps[:min(len(v.Gaps), maxGaps)]
}

func reasonOf(replies Replies, there, back, couldThere, couldBack bool) string {
	switch {
	case there && replies == RepliesReturn && couldThere:
		return "the way back does not cross the switch that the way there does"
	case !couldThere || !couldBack:
		return "no switch is between them"
	case there:
		return "the way back crosses no converted switch"
	case back:
		return "the way there crosses no converted switch"
	}
	return "crosses no converted switch"
}

// ways lists what leads from the clients of every VIP to its members, and counts it.
func (s *Snapshot) ways(n CoverageNotes, c *Coverage) (ways []way, routes map[routeKey]*route) {
	routes = map[routeKey]*route{}
	attached, behind := map[MAC]DPID{}, map[Place]DPID{}
	for _, b := range n.Bridges {
		if _, is := s.Switch(b.DPID); is {
			continue
		}
		for _, mac := range b.Attached {
			attached[mac] = b.DPID
		}
		for _, p := range b.Behind {
			behind[p] = b.DPID
		}
	}
	at := func(h Host) spot { return spot{h.Place, cmp.Or(attached[h.MAC], behind[h.Place])} }
	vips := slices.SortedFunc(slices.Values(n.VIPs), func(a, b VIPNote) int { return cmp.Compare(a.Name, b.Name) })
	for i, vip := range vips {
		v := VIPCoverage{Name: vip.Name, Address: vip.Address, Unplaced: []netip.Addr{}, Gaps: []CoverageGap{}}
		members := map[HostKey]bool{}
		places := make([]spot, len(vip.Members))
		for j, addr := range vip.Members {
			h, ok := s.HostByIP(vip.VLAN, addr)
			if !ok && vip.VLAN != 0 {
				h, ok = s.HostByIP(0, addr) // behind an access port
			}
			if !ok {
				v.Unplaced = append(v.Unplaced, addr)
				continue
			}
			members[h.Key()], places[j] = true, at(h)
		}
		clients := map[spot]int{}
		for _, h := range s.Hosts() {
			if !members[h.Key()] && (h.VLAN == vip.VLAN || h.VLAN == 0) {
				clients[at(h)]++
			}
		}
		order := slices.SortedFunc(maps.Keys(clients), func(a, b spot) int { return cmp.Or(a.Compare(b.Place), cmp.Compare(a.bridge, b.bridge)) })
		for _, from := range order {
			for j, to := range places {
				if slices.Contains(v.Unplaced, vip.Members[j]) {
					continue
				}
				v.Paths += clients[from]
				key := routeKey{from.DPID, to.DPID, from.bridge, to.bridge, s.together(from.Place, to.Place), vip.Replies, Place{}}
				if key.together && vip.Replies != RepliesCross {
					key.beside = from.Place
				}
				if routes[key] == nil {
					routes[key] = s.route(key)
				}
				routes[key].paths += clients[from]
				ways = append(ways, way{vip: i, from: from, to: to, member: vip.Members[j], clients: clients[from], route: routes[key]})
			}
		}
		c.VIPs = append(c.VIPs, v)
	}
	return ways, routes
}

func (k routeKey) reverse() routeKey {
	k.from, k.to, k.before, k.last = k.to, k.from, k.last, k.before
	return k
}

// route is the way of packets between two ends.
func (s *Snapshot) route(k routeKey) *route {
	r := &route{there: s.passed(k), back: s.passed(k.reverse()), replies: k.replies}
	if k.beside == (Place{}) {
		return r
	}
	beside := []DPID{k.beside.DPID}
	if segment, _, ok := s.Segment(k.beside); ok {
		beside = nil
		for _, p := range segment.Ports { // the first that acts answers for the VIP
			beside = append(beside, p.DPID)
		}
	}
	r.there = append(r.there, beside...)
	if k.replies == RepliesReturn { // what goes back has the VIP's address, and so the reply comes
		r.back = append(r.back, beside...)
	}
	return r
}

// passed are the switches and bridges between two hosts.
func (s *Snapshot) passed(k routeKey) (list []DPID) {
	if k.before != 0 {
		list = append(list, k.before)
	}
	if !k.together && (k.before == 0 || k.before != k.last) {
		for _, hop := range s.Path(k.from, k.to) {
			list = append(list, hop.DPID)
		}
	}
	if k.last != 0 && k.last != k.before {
		list = append(list, k.last)
	}
	return list
}

// together says whether hosts at two places reach one another before any switch: behind
// one port, or on one segment.
func (s *Snapshot) together(a, b Place) bool {
	if a == b {
		return true
	}
	x, _, onA := s.Segment(a)
	y, _, onB := s.Segment(b)
	return onA && onB && x.ID() == y.ID()
}

// nextStep returns what covers most: whole paths first, then one direction of them, then
// the lowest datapath id. ok is false when nothing covers anything.
func nextStep(steps map[DPID]CoverageStep, routes map[routeKey]*route, by map[DPID]bool) (best CoverageStep, ok bool) {
	whole, half := map[DPID]int{}, map[DPID]int{}
	for _, w := range routes {
		there, back := w.covered(in(by))
		if there && back {
			continue
		}
		passed := map[DPID]bool{}
		for _, d := range append(slices.Clone(w.there), w.back...) {
			_, passed[d] = steps[d]
		}
		for d, is := range passed {
			if !is {
				continue
			}
			thereToo, backToo := w.covered(func(o DPID) bool { return o == d || by[o] })
			switch {
			case thereToo && backToo:
				whole[d] += w.paths
			case thereToo && !there, backToo && !back:
				half[d] += w.paths
			}
		}
	}
	for _, d := range slices.Sorted(maps.Keys(steps)) {
		if whole[d]+half[d] == 0 {
			continue
		}
		if best.DPID == 0 || cmp.Or(cmp.Compare(whole[d], whole[best.DPID]), cmp.Compare(half[d], half[best.DPID])) > 0 {
			best = steps[d]
		}
	}
	best.Gain = whole[best.DPID]
	return best, best.DPID != 0
}

// behind is the place that a bridge is behind: where switches lead to it, or the only one
// where hosts are seen that are attached to it. nil: it is not known.
func (s *Snapshot) behind(b CoverageBridge) *Place {
	places := slices.Clone(b.Behind)
	if len(places) == 0 {
		for _, h := range s.Hosts() {
			if slices.Contains(b.Attached, h.MAC) {
				places = append(places, h.Place)
			}
		}
	}
	slices.SortFunc(places, Place.Compare)
	if places = slices.Compact(places); len(places) != 1 {
		return nil
	}
	return &places[0]
}

// Mark says how a picture shows a switch.
type Mark uint8

// The marks. The zero value is a switch like any other.
const (
	MarkNone   Mark = iota
	MarkActive      // it acts on VIPs
	MarkStep        // so it does after a step
	MarkLegacy      // it does not
)

// CoverageView is the snapshot with its coverage after the first steps, to be drawn.
func (s *Snapshot) CoverageView(n CoverageNotes, c Coverage, after int) View {
	v := s.View(n.Notes)
	v.marks = map[DPID]Mark{}
	for i := range v.Switches {
		v.marks[v.Switches[i].DPID] = MarkLegacy
		if n.Steering[v.Switches[i].DPID] {
			v.marks[v.Switches[i].DPID] = MarkActive
		}
	}
	for _, b := range n.Bridges {
		if _, is := s.Switch(b.DPID); is || b.DPID == 0 || v.marks[b.DPID] != MarkNone {
			continue
		}
		v.marks[b.DPID] = MarkLegacy
		sw := ViewSwitch{Name: b.Name, Switch: Switch{DPID: b.DPID, Ports: []PortState{}}, Root: b.DPID}
		v.Switches = append(v.Switches, sw)
		if at := s.behind(b); at != nil {
			v.Links = append(v.Links, ViewLink{Link: Link{A: *at, B: Place{DPID: b.DPID}, State: StateUp}, Tree: true})
		}
	}
	slices.SortStableFunc(v.Switches, func(a, b ViewSwitch) int { return cmp.Compare(a.DPID, b.DPID) })
	covered := c.Covered
	for i, step := range c.Steps[:min(max(after, 0), len(c.Steps))] {
		covered = step.Covered
		v.marks[step.DPID] = MarkStep
		for j := range v.Switches {
			if v.Switches[j].DPID == step.DPID {
				v.Switches[j].Name = fmt.Sprintf("%d: %s", i+1, v.Switches[j].Name)
			}
		}
	}
	v.title = fmt.Sprintf("%d of %d VIP paths covered", covered, c.Paths)
	return v
}
