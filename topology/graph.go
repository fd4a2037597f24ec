package topology

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// Options bound a Graph. The zero value of each field means its default.
type Options struct {
	// LinkTTL is how long one direction of a link is believed after it was
	// last heard. Default 15 s.
	LinkTTL time.Duration
	// EdgeDelay is how long a port that came up, or lost its last link, is not
	// yet an edge port. It is the time that discovery has to find a switch
	// there before anything is flooded to it or learned on it: without it, a
	// cable that comes back closes a loop until its first probe is heard.
	// Default none.
	EdgeDelay time.Duration
	// HostTTL is how long a host, and each of its addresses, is kept after it
	// was last seen. Default 5 min.
	HostTTL time.Duration
	// MaxHosts is the number of hosts kept; above it the one silent longest
	// and not pinned goes. Default 65,536.
	MaxHosts int
	// MaxHostsAt is the number of hosts kept of one place, so that one port cannot
	// push out the hosts of others; above it the one silent longest and not pinned
	// goes, or the new one is refused where none of the silent ones is of the place.
	// Default 16,384.
	MaxHostsAt int
	// NewHostsAt is how many hosts a second may be new at one place, a second's
	// worth at once; those above it are refused, and may be seen again later. Each new
	// host changes switches, so this is what a port that invents addresses can make
	// happen in them. Default no limit.
	NewHostsAt int
	// MoveEvery is how often a host may move although its old place is still up, after
	// three moves at once; more often it is left where it is. Each move changes
	// switches, so this is what two ports that claim one address can make happen in
	// them. Default no limit.
	MoveEvery time.Duration
	// Claims makes a host that is seen elsewhere, while hosts can be where it is or it is
	// pinned, and an address that another host claims, a matter of question: SeeHost tells
	// of the claim (HostClaimed) and changes nothing, until the sighting is said to be
	// Verified. Hosts without an address, which cannot be asked, and new ones move at once.
	Claims bool
	// BeyondTTL is how long the hosts at a port that turned out to be the end of a link
	// stay there: they are beyond it, so frames for them go the right way, until they are
	// seen where they are. Those that are not pinned age as others do. Default not at all.
	BeyondTTL time.Duration
	// MaxIPs is the number of addresses kept of one host; above it the one
	// silent longest goes. Default 16: a host may have eight temporary addresses of IPv6
	// beside those that stay (RFC 8981).
	MaxIPs int
}

// Graph is the network as it is known now. It belongs to one goroutine: no
// method may be called while another runs. Times passed to it must not run
// backwards; one that does is taken as the latest one seen.
type Graph struct {
	options Options
	now     time.Time

	version uint64 // counts changes
	fabric  uint64 // version of the last change of switches, ports or links

	switches map[DPID]*node
	edges    map[ends]*edge
	at       map[Place][]*edge   // edges by each of their ends
	settling map[Place]time.Time // ports that are no edge until then
	// away holds, for ports whose link was lost because the switch behind it left,
	// that switch: it may forward on by the flows it has, so they are no edge.
	away      map[Place]map[DPID]struct{}
	stopped   map[DPID]stopped
	spoken    map[DPID][]spoken   // of switches that left and forward on
	beyond    map[Place]time.Time // ports of new links whose hosts are believed to be behind them until then
	bridged   map[ends]time.Time  // ports that hear each other over bridges, until then
	onSegment map[Place]bool      // ports that were found on a segment since they came up
	crowded   map[Place]bool      // those of them that were found with more than one other
	unmanaged map[DPID]bool
	blocks    map[Place]Block          // by guards
	faults    map[Place][faults]string // of ports that lead to switches
	hosts     hosts

	latest *fabric // not yet of a snapshot; nil or old: to be made

	snapshot    *Snapshot
	snapshotNow time.Time
	touched     bool // times moved on since the snapshot
	probed      bool // those of links among them
}

// node is a switch in the graph.
type node struct {
	ports  map[Port]PortState
	sorted []PortState // for snapshots; nil after a change, never written to
}

// ends names an edge: a is not above b.
type ends struct{ a, b Place }

// edge is a link with what was heard in each direction.
type edge struct {
	link Link
	dirs [2]direction // from A, from B
}

// direction is what is known of one direction of a link: nothing while until
// is zero.
type direction struct {
	first, last, until time.Time
	heard              bool // false while only seeded
}

func (d direction) known() bool { return !d.until.IsZero() }

// New returns an empty graph.
func New(o Options) *Graph {
	o.LinkTTL = cmp.Or(o.LinkTTL, 15*time.Second)
	o.HostTTL = cmp.Or(o.HostTTL, 5*time.Minute)
	o.MaxHosts = cmp.Or(o.MaxHosts, 65536)
	o.MaxHostsAt = cmp.Or(o.MaxHostsAt, 16384)
	o.MaxIPs = cmp.Or(o.MaxIPs, 16)
	return &Graph{
		options:  o,
		switches: map[DPID]*node{},
		edges:    map[ends]*edge{},
		at:       map[Place][]*edge{},
		settling: map[Place]time.Time{},
		away:     map[Place]map[DPID]struct{}{},
		stopped:  map[DPID]stopped{},
		spoken:   map[DPID][]spoken{},
		hosts:    newHosts(),

		beyond:    map[Place]time.Time{},
		bridged:   map[ends]time.Time{},
		onSegment: map[Place]bool{},
		crowded:   map[Place]bool{},
		unmanaged: map[DPID]bool{},
		blocks:    map[Place]Block{},
		faults:    map[Place][faults]string{},
	}
}

// Version counts the changes of the graph; it grows with every call that
// returned events.
func (g *Graph) Version() uint64 { return g.version }

// SetSwitch adds a switch, or replaces the ports of a known one: ports not in
// the list are removed, the others are as with SetPort. What is known of links
// on ports that stay up is kept, so a switch that reconnects loses nothing.
func (g *Graph) SetSwitch(id DPID, ports []PortState, now time.Time) []Event {
	g.tick(now)
	want := make(map[Port]PortState, len(ports))
	for _, p := range ports {
		want[p.Port] = p
	}
	n := g.switches[id]
	if n == nil {
		n = &node{ports: want}
		g.switches[id] = n
		evs := []Event{SwitchAdded{Switch{DPID: id, Ports: n.list()}}}
		for p := range want {
			g.delay(Place{id, p})
		}
		evs = append(evs, g.returned(id)...)
		// Seeded links waited for the switch; those on ports that did not come
		// back up are wrong.
		var changed []*edge
		for _, e := range g.edgesOf(id) {
			for _, p := range []Place{e.link.A, e.link.B} {
				if p.DPID == id && !g.up(p) {
					e.dirs = [2]direction{}
				}
			}
			changed = append(changed, e)
		}
		return g.changed(append(evs, g.settle(ReasonPort, changed)...))
	}
	var evs []Event
	for _, p := range slices.Sorted(maps.Keys(n.ports)) {
		if _, ok := want[p]; !ok {
			evs = append(evs, g.removePort(Place{id, p}, n)...)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(want)) {
		evs = append(evs, g.setPort(id, n, want[p])...)
	}
	return g.changed(evs)
}

// RemoveSwitch forgets a switch with its links and its hosts, pinned ones too. The
// ports of others that its links led to are no edge ports while they stay up: the
// switch may still forward, and flooding into it from two sides would close a loop.
func (g *Graph) RemoveSwitch(id DPID, now time.Time) []Event {
	g.tick(now)
	n := g.switches[id]
	if n == nil {
		return nil
	}
	g.hold(g.blockedBeside(id), id)
	return g.changed(g.removeSwitch(id, n))
}

func (g *Graph) removeSwitch(id DPID, n *node) []Event {
	delete(g.switches, id)
	for p := range n.ports {
		delete(g.settling, Place{id, p})
		delete(g.beyond, Place{id, p})
		delete(g.away, Place{id, p})
		delete(g.onSegment, Place{id, p})
		delete(g.crowded, Place{id, p})
		delete(g.faults, Place{id, p})
	}
	evs := g.drop(ReasonSwitch, g.edgesOf(id))
	evs = append(evs, g.unbridge(func(k ends, _ time.Time) bool { return k.a.DPID == id || k.b.DPID == id })...)
	for _, p := range slices.Sorted(maps.Keys(n.ports)) {
		evs = append(evs, g.flush(Place{id, p}, ReasonSwitch, true)...)
	}
	return append(evs, SwitchGone{id})
}

// SetPort adds a port to a known switch or changes it. A port that goes down
// loses its links at once, and its hosts but for the pinned ones. Ports of
// unknown switches are ignored.
func (g *Graph) SetPort(id DPID, p PortState, now time.Time) []Event {
	g.tick(now)
	n := g.switches[id]
	if n == nil {
		return nil
	}
	return g.changed(g.setPort(id, n, p))
}

// RemovePort forgets a port with its links and its hosts, pinned ones too.
func (g *Graph) RemovePort(p Place, now time.Time) []Event {
	g.tick(now)
	n := g.switches[p.DPID]
	if n == nil {
		return nil
	}
	return g.changed(g.removePort(p, n))
}

// HearLink records that a probe sent out of port from was received on port to.
// It is ignored unless both ports are known and up: such a probe was on its way
// when the port went down, and tells of a cable that may be gone.
func (g *Graph) HearLink(from, to Place, now time.Time) []Event {
	g.tick(now)
	if !g.up(from) || !g.up(to) {
		return nil
	}
	e, i := g.edge(from, to)
	d := &e.dirs[i]
	known := d.known() && d.heard
	if !d.known() {
		d.first = g.now
	}
	d.heard = true
	d.last = g.now
	if until := g.now.Add(g.options.LinkTTL); until.After(d.until) {
		d.until = until
	}
	e.link.LastSeen = g.now
	g.touched, g.probed = true, true
	if known {
		return nil
	}
	return g.changed(g.settle(ReasonLink, []*edge{e}))
}

// SeedLink records a link known from before a restart. Until the given time it
// is believed in both directions without having been heard, as soon as both
// ports are up; a port that is down drops it. A link heard both ways goes
// before one that is only trusted.
func (g *Graph) SeedLink(a, b Place, until, now time.Time) []Event {
	g.tick(now)
	for _, p := range []Place{a, b} {
		if n := g.switches[p.DPID]; n != nil && !n.ports[p.Port].Up {
			return nil
		}
	}
	if !until.After(g.now) {
		return nil
	}
	e, _ := g.edge(a, b)
	for i := range e.dirs {
		if a == b && i > 0 {
			break // a port that hears itself has one direction
		}
		d := &e.dirs[i]
		if !d.known() {
			d.first = g.now
		}
		if until.After(d.until) {
			d.until = until
		}
	}
	g.touched, g.probed = true, true
	return g.changed(g.settle(ReasonLink, []*edge{e}))
}

// Expire forgets what was not heard for too long: directions of links, hosts
// that are not pinned, and addresses; and it ends delays (Options.EdgeDelay).
// Call it every second or so, or when NextExpiry says.
func (g *Graph) Expire(now time.Time) []Event {
	g.tick(now)
	var changed []*edge
	for _, e := range g.edges {
		expired := false
		for i := range e.dirs {
			if d := &e.dirs[i]; d.known() && !d.until.After(g.now) {
				*d = direction{}
				expired = true
			}
		}
		if expired {
			changed = append(changed, e)
		}
	}
	// Delays first: one that begins with a link that expires is not over yet.
	apart := g.apart()
	free := g.unblock(func(_ Place, b Block) bool { return !b.Until.After(g.now) })
	evs := slices.Concat(apart, free, g.settled(), g.settle(ReasonExpired, changed), g.expireBeyond(), g.expireHosts())
	return g.changed(evs)
}

// NextExpiry returns a time before which Expire has nothing to do, or the zero
// time when nothing that is known now will ever expire.
func (g *Graph) NextExpiry() time.Time {
	var next time.Time
	due := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	for _, e := range g.edges {
		for _, d := range e.dirs {
			if d.known() {
				due(d.until)
			}
		}
	}
	for _, t := range g.settling {
		due(t)
	}
	for _, t := range g.beyond {
		due(t)
	}
	for _, t := range g.bridged {
		due(t)
	}
	for _, b := range g.blocks {
		due(b.Until)
	}
	if e := g.hosts.lru.Back(); e != nil {
		due(e.Value.(*station).host.LastSeen.Add(g.options.HostTTL))
	}
	if !g.hosts.ipDue.IsZero() {
		due(g.hosts.ipDue)
	}
	return next
}

// tick moves the graph's idea of the time on, never back.
func (g *Graph) tick(now time.Time) {
	if now.After(g.now) {
		g.now = now
	}
}

// changed counts a change and passes its events on.
func (g *Graph) changed(evs []Event) []Event {
	if len(evs) == 0 {
		return nil
	}
	g.version++
	for _, e := range evs {
		if e.fabric() {
			g.fabric = g.version
			evs = append(evs, g.flushBlocked()...)
			break
		}
	}
	return evs
}

// delay keeps a port that is up from being an edge port for a while.
func (g *Graph) delay(p Place) {
	if g.options.EdgeDelay > 0 && g.up(p) {
		g.settling[p] = g.now.Add(g.options.EdgeDelay)
	}
}

// settled lets ports be edge ports whose delay is over.
func (g *Graph) settled() []Event {
	var evs []Event
	for p, until := range g.settling {
		if !until.After(g.now) {
			delete(g.settling, p)
			if g.isEdge(p) {
				evs = append(evs, PortSettled{p})
			}
		}
	}
	slices.SortFunc(evs, func(a, b Event) int { return a.(PortSettled).Place.Compare(b.(PortSettled).Place) })
	return evs
}

// expireBeyond removes the pinned hosts that were not seen beyond the link that they are
// behind for too long: somebody asks for them.
func (g *Graph) expireBeyond() []Event {
	var evs []Event
	for _, p := range slices.SortedFunc(maps.Keys(g.beyond), Place.Compare) {
		if g.beyond[p].After(g.now) {
			continue
		}
		delete(g.beyond, p)
		if len(g.at[p]) == 0 || g.onSegment[p] {
			continue
		}
		for _, key := range slices.SortedFunc(maps.Keys(g.hosts.at[p]), HostKey.Compare) {
			if st := g.hosts.byKey[key]; st.host.Pinned { // others age
				evs = append(evs, g.hosts.remove(st, ReasonLink))
			}
		}
	}
	return evs
}

// isEdge reports whether hosts can be at p.
func (g *Graph) isEdge(p Place) bool {
	_, settling := g.settling[p]
	return !settling && g.mayBeEdge(p)
}

// mayBeEdge reports whether hosts can be at p, but for its delay.
func (g *Graph) mayBeEdge(p Place) bool {
	if _, blocked := g.blocks[p]; blocked || !g.up(p) || len(g.away[p]) > 0 {
		return false
	}
	if len(g.bridged) > 0 {
		if _, role, ok := g.fabricNow().Segment(p); ok {
			return role != RoleBlocked
		}
	}
	return len(g.at[p]) == 0
}

// returned lets the ports go that led to a switch while it was away.
func (g *Graph) returned(id DPID) []Event {
	delete(g.stopped, id)
	delete(g.spoken, id)
	var evs []Event
	for p, peers := range g.away {
		if _, ok := peers[id]; !ok {
			continue
		}
		if delete(peers, id); len(peers) > 0 {
			continue
		}
		delete(g.away, p)
		g.delay(p)
		if g.isEdge(p) {
			evs = append(evs, PortSettled{p})
		}
	}
	slices.SortFunc(evs, func(a, b Event) int { return a.(PortSettled).Place.Compare(b.(PortSettled).Place) })
	return evs
}

// up reports whether p is a known port that is up.
func (g *Graph) up(p Place) bool {
	n := g.switches[p.DPID]
	return n != nil && n.ports[p.Port].Up
}

func (g *Graph) setPort(id DPID, n *node, p PortState) []Event {
	place := Place{id, p.Port}
	old, had := n.ports[p.Port]
	if had && old == p {
		return nil
	}
	n.ports[p.Port] = p
	n.sorted = nil
	evs := []Event{PortChanged{Place: place, Port: p}}
	switch {
	case p.Up && !old.Up:
		g.delay(place)
		evs = append(evs, g.settle(ReasonPort, g.at[place])...)
	case !p.Up:
		delete(g.settling, place)
		delete(g.beyond, place)
		delete(g.away, place)
		delete(g.faults, place)
		evs = append(evs, g.drop(ReasonPort, g.at[place])...)
		evs = append(evs, g.unbridgePort(place)...)
		delete(g.onSegment, place)
		delete(g.crowded, place)
		g.unspoken(place)
		evs = append(evs, g.flush(place, ReasonPort, false)...)
	}
	return evs
}

func (g *Graph) removePort(p Place, n *node) []Event {
	old, had := n.ports[p.Port]
	if !had {
		return nil
	}
	delete(n.ports, p.Port)
	delete(g.settling, p)
	delete(g.beyond, p)
	delete(g.away, p)
	delete(g.blocks, p)
	delete(g.faults, p)
	n.sorted = nil
	old.Up = false
	evs := []Event{PortChanged{Place: p, Port: old, Gone: true}}
	evs = append(evs, g.drop(ReasonPort, g.at[p])...)
	evs = append(evs, g.unbridgePort(p)...)
	delete(g.onSegment, p)
	delete(g.crowded, p)
	g.unspoken(p)
	return append(evs, g.flush(p, ReasonPort, true)...)
}

// list returns the ports in order.
func (n *node) list() []PortState {
	if n.sorted == nil {
		n.sorted = slices.AppendSeq(make([]PortState, 0, len(n.ports)), maps.Values(n.ports))
		slices.SortFunc(n.sorted, func(a, b PortState) int { return cmp.Compare(a.Port, b.Port) })
	}
	return n.sorted
}

// edge returns the edge between two places, made if need be, and the index of
// the direction out of from.
func (g *Graph) edge(from, to Place) (*edge, int) {
	k, i := ends{from, to}, 0
	if from.Compare(to) > 0 {
		k, i = ends{to, from}, 1
	}
	e := g.edges[k]
	if e == nil {
		e = &edge{link: Link{A: k.a, B: k.b, Kind: LinkDirect, FirstSeen: g.now, LastSeen: g.now}}
		g.edges[k] = e
		g.at[k.a] = append(g.at[k.a], e)
		if k.b != k.a {
			g.at[k.b] = append(g.at[k.b], e)
		}
	}
	return e, i
}

// edgesOf returns the edges that touch a switch, in no particular order.
func (g *Graph) edgesOf(id DPID) []*edge {
	var es []*edge
	for _, e := range g.edges {
		if e.link.A.DPID == id || e.link.B.DPID == id {
			es = append(es, e)
		}
	}
	return es
}

// drop forgets all that was heard of some edges.
func (g *Graph) drop(why Reason, es []*edge) []Event {
	for _, e := range es {
		e.dirs = [2]direction{}
	}
	return g.settle(why, es)
}

// settle finds the state of the changed edges and of every other that shares
// a port with them, however far that reaches. The outcome depends on the
// present facts only, not on the order in which they came: links heard both
// ways go before trusted ones, then the one known both ways for longest, then
// the lower ends.
func (g *Graph) settle(why Reason, changed []*edge) []Event {
	if len(changed) == 0 {
		return nil
	}
	group := make([]*edge, 0, len(changed))
	in := make(map[*edge]bool, len(changed))
	add := func(es []*edge) {
		for _, e := range es {
			if !in[e] {
				in[e] = true
				group = append(group, e)
			}
		}
	}
	add(changed)
	for i := 0; i < len(group); i++ {
		add(g.at[group[i].link.A])
		add(g.at[group[i].link.B])
	}
	slices.SortFunc(group, compareEdges)

	var downs, others, ups, gone []Event
	taken := map[Place]bool{}
	for _, e := range group {
		was, state := e.link.State, g.stateOf(e, taken)
		if state == StateUp {
			taken[e.link.A], taken[e.link.B] = true, true
		}
		confirmed := e.link.Trusted != e.trusted() && state != StateGone
		e.link.Trusted = e.trusted()
		e.link.State = state
		if state == StateGone {
			g.forget(e)
		}
		if was == state && !confirmed {
			continue
		}
		switch {
		case state == StateUp && was != StateUp:
			ups = append(ups, LinkUp{e.link})
			ups = append(ups, g.unblock(func(p Place, _ Block) bool { return p == e.link.A || p == e.link.B })...)
		case state != StateUp && was == StateUp:
			reason := why
			if state == StateShared {
				reason = ReasonLink
			}
			downs = append(downs, LinkDown{e.link, reason})
		default:
			others = append(others, LinkChanged{e.link})
		}
		if was == StateGone {
			// What seemed to be behind this port is somewhere beyond the link; on a segment
			// it may well be where it was.
			for _, p := range []Place{e.link.A, e.link.B} {
				switch {
				case g.onSegment[p]:
				case g.options.BeyondTTL > 0:
					g.beyond[p] = g.now.Add(g.options.BeyondTTL)
				default:
					gone = append(gone, g.flush(p, ReasonLink, true)...)
				}
			}
		}
	}
	return slices.Concat(downs, others, ups, gone)
}

// compareEdges orders edges by their claim to their ports.
func compareEdges(a, b *edge) int {
	if a.trusted() != b.trusted() {
		if a.trusted() {
			return 1
		}
		return -1
	}
	return cmp.Or(a.since().Compare(b.since()), a.link.A.Compare(b.link.A), a.link.B.Compare(b.link.B))
}

// since returns when the second of the two directions became known.
func (e *edge) since() time.Time {
	if e.dirs[0].first.After(e.dirs[1].first) {
		return e.dirs[0].first
	}
	return e.dirs[1].first
}

// trusted reports whether some direction is known from before a restart only.
func (e *edge) trusted() bool {
	for _, d := range e.dirs {
		if d.known() && !d.heard {
			return true
		}
	}
	return false
}

func (g *Graph) stateOf(e *edge, taken map[Place]bool) LinkState {
	a, b := e.dirs[0].known(), e.dirs[1].known()
	switch {
	case !a && !b:
		return StateGone
	case e.link.A.DPID == e.link.B.DPID:
		return StateLoop
	case !a || !b || !g.up(e.link.A) || !g.up(e.link.B):
		return StateHalf
	case taken[e.link.A] || taken[e.link.B]:
		return StateShared
	}
	return StateUp
}

// forget takes an edge out of the graph.
func (g *Graph) forget(e *edge) {
	delete(g.edges, ends{e.link.A, e.link.B})
	for _, p := range []Place{e.link.A, e.link.B} {
		if peer := e.link.Other(p).DPID; g.switches[peer] == nil && g.up(p) {
			if g.away[p] == nil {
				g.away[p] = map[DPID]struct{}{}
			}
			g.away[p][peer] = struct{}{}
		}
		es := slices.DeleteFunc(g.at[p], func(o *edge) bool { return o == e })
		if len(es) == 0 {
			delete(g.at, p)
			g.delay(p)
			if !g.onSegment[p] {
				delete(g.faults, p)
			}
		} else {
			g.at[p] = es
		}
	}
}
