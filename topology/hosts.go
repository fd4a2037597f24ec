package topology

import (
	"container/list"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Sighting is one observation of a host: a frame with this source arrived at
// this place.
type Sighting struct {
	MAC   MAC
	VLAN  uint16 // 0 for untagged frames
	Place Place
	// IP is the address the host claimed, by ARP, neighbour discovery or as the
	// source of a packet; the zero Addr when none is known.
	IP netip.Addr
	// Declared: what configures the port says so, and not a frame. It counts before the
	// port has settled, and no rate of new hosts or moves applies to it.
	Declared bool
	// Verified: the host that it takes something from was asked (see Options.Claims).
	Verified bool
}

// hosts are the end stations of a graph.
type hosts struct {
	byKey map[HostKey]*station
	byIP  cow[ipKey, HostKey]
	at    map[Place]map[HostKey]struct{}
	pins  map[HostKey]struct{}
	fresh map[Place]rate // of new hosts
	lru   *list.List     // of *station that are not pinned, last seen first

	public cow[HostKey, Host]   // what snapshots show
	stale  map[HostKey]struct{} // what in public is not up to date
	ipDue  time.Time            // no address expires before; zero when there is none
	refuse uint64
}

// station is a host in the graph.
type station struct {
	host Host
	seen []time.Time   // when each of host.IPs was last claimed
	elem *list.Element // nil while pinned

	young   time.Time // until when it moves at once; see youngFor
	moves   rate      // between places that are both up
	flapped time.Time // when that was last told
}

// youngFor is how long a new host that is seen elsewhere is not doubted (Options.Claims):
// its first frame comes in at several places of a segment, and not where it entered first.
const youngFor = 500 * time.Millisecond

// movesAtOnce is how often a host may move before Options.MoveEvery counts.
const movesAtOnce = 3

// mayMove says whether a host may be elsewhere although its place is up, and counts it.
func (st *station) mayMove(every time.Duration, now time.Time) bool {
	if every == 0 {
		return true
	}
	r := rate{max(st.moves.count-now.Sub(st.moves.at).Seconds()/every.Seconds(), 0), now}
	ok := r.count+1 <= movesAtOnce
	if ok {
		r.count++
	}
	st.moves = r
	return ok
}

// rate counts what comes, and forgets it at a rate.
type rate struct {
	count float64
	at    time.Time
}

// mayCome says whether one more host may be new at a place, and counts it.
func (h *hosts) mayCome(at Place, perSecond int, now time.Time) bool {
	if perSecond == 0 {
		return true
	}
	r := h.fresh[at]
	limit := float64(perSecond)
	r = rate{max(r.count-limit*now.Sub(r.at).Seconds(), 0), now}
	ok := r.count+1 <= limit
	if ok {
		r.count++
	}
	h.fresh[at] = r
	return ok
}

// ipKey names an address: VLANs may use the same ones.
type ipKey struct {
	ip   netip.Addr
	vlan uint16
}

func newHosts() hosts {
	return hosts{
		byKey:  map[HostKey]*station{},
		byIP:   newCOW[ipKey, HostKey](hashIP),
		at:     map[Place]map[HostKey]struct{}{},
		pins:   map[HostKey]struct{}{},
		fresh:  map[Place]rate{},
		lru:    list.New(),
		public: newCOW[HostKey, Host](hashHost),
		stale:  map[HostKey]struct{}{},
	}
}

// HostsAt returns the hosts at a place, in order.
func (g *Graph) HostsAt(p Place) []HostKey {
	return slices.SortedFunc(maps.Keys(g.hosts.at[p]), HostKey.Compare)
}

// SeeHost records a sighting of a host. It counts on edge ports only: one on a
// port that is unknown, down, the end of a link or not settled yet (unless it is
// Declared) is ignored, and so is a MAC that cannot be a host's. An address that belonged to another host of the
// VLAN is taken from it. When the table is full, the host that is not pinned
// and was silent for longest makes room; when all are pinned, the new one is
// refused and counted.
func (g *Graph) SeeHost(s Sighting, now time.Time) []Event {
	g.tick(now)
	if !s.MAC.unicast() || !g.isEdge(s.Place) && !(s.Declared && g.mayBeEdge(s.Place)) {
		return nil
	}
	return g.see(s)
}

// SeedHost records a host from before a restart. Unlike a sighting it counts at a port
// that is down, too: the host was pinned there, and is to be pinned again before it ages.
func (g *Graph) SeedHost(s Sighting, now time.Time) []Event {
	g.tick(now)
	n := g.switches[s.Place.DPID]
	if n == nil || !s.MAC.unicast() {
		return nil
	}
	if port, ok := n.ports[s.Place.Port]; !ok || port.Up && !g.isEdge(s.Place) {
		return nil
	}
	evs := g.see(s)
	if st := g.hosts.byKey[HostKey{s.MAC, s.VLAN}]; st != nil {
		st.young = time.Time{}
	}
	return evs
}

// see records a sighting that counts.
func (g *Graph) see(s Sighting) []Event {
	h := &g.hosts
	var evs, claims []Event
	key := HostKey{s.MAC, s.VLAN}
	if owner := g.claimed(s); owner != nil {
		claims = append(claims, HostClaimed{*owner, s})
		s.IP = netip.Addr{}
	}
	st := h.byKey[key]
	added, moved, changed := st == nil, false, false
	var from Place
	if added {
		if !s.Declared && !h.mayCome(s.Place, g.options.NewHostsAt, g.now) {
			h.refuse++
			g.touched = true
			return nil
		}
		evicted, ok := h.makeRoom(s.Place, g.options)
		if !ok {
			g.touched = true
			return nil
		}
		evs = append(evs, evicted...)
		st = &station{host: Host{MAC: s.MAC, VLAN: s.VLAN, Place: s.Place, IPs: []netip.Addr{}, FirstSeen: g.now}, young: g.now.Add(youngFor)}
		h.byKey[key] = st
		h.arrive(s.Place, key)
		if _, ok := h.pins[key]; ok {
			st.host.Pinned = true
		} else {
			st.elem = h.lru.PushFront(st)
		}
	} else if from = st.host.Place; from != s.Place {
		if g.passesBy(s.Place, from) {
			return nil
		}
		if !s.Declared && g.options.Claims && !s.Verified && len(st.host.IPs) > 0 && (st.host.Pinned || !st.young.After(g.now)) && g.isHome(st.host) {
			return append(claims, HostClaimed{st.host, s})
		}
		if !s.Declared && g.isEdge(from) && !st.mayMove(g.options.MoveEvery, g.now) {
			if !st.flapped.IsZero() && g.now.Sub(st.flapped) < g.options.MoveEvery {
				return nil
			}
			st.flapped = g.now
			return []Event{HostFlaps{st.host, s.Place}}
		}
		moved = true
		h.leave(from, key)
		h.arrive(s.Place, key)
		st.host.Place = s.Place
	}
	st.host.LastSeen = g.now
	if st.elem != nil {
		h.lru.MoveToFront(st.elem)
	}
	h.stale[key] = struct{}{}
	g.touched = true

	if ip := s.IP.WithZone("").Unmap(); usable(ip) {
		if owner, ok := h.byIP.get(ipKey{ip, s.VLAN}); ok && owner != key {
			loser := h.byKey[owner]
			h.dropIP(loser, ip)
			evs = append(evs, HostChanged{loser.host})
		}
		changed = g.claim(st, ip)
	}
	switch {
	case added:
		evs = append(evs, HostAdded{st.host})
	case moved:
		evs = append(evs, HostMoved{st.host, from})
	case changed:
		evs = append(evs, HostChanged{st.host})
	}
	return append(claims, g.changed(evs)...)
}

// claimed returns the host whose address a sighting of another claims without having
// been verified; nil: there is none.
func (g *Graph) claimed(s Sighting) *Host {
	if !g.options.Claims || s.Declared || s.Verified || !s.IP.IsValid() {
		return nil
	}
	owner, ok := g.hosts.byIP.get(ipKey{s.IP.WithZone("").Unmap(), s.VLAN})
	if !ok || owner == (HostKey{s.MAC, s.VLAN}) {
		return nil
	}
	host := g.hosts.byKey[owner].host
	if !g.isHome(host) {
		return nil
	}
	return &host
}

// isHome says whether a host can be where it is known to be: what claims to be it is
// doubted then. A pinned one may be back at a port that is down. Where a port has turned
// out to be the end of a link it is beyond, and moves to where it is seen.
func (g *Graph) isHome(h Host) bool {
	return g.isEdge(h.Place) || h.Pinned && len(g.at[h.Place]) == 0
}

// Pin keeps a host, known or yet to be seen, from ageing and from eviction; or
// lets it go again. It still goes with its switch or its port, and when its
// port turns out to be the end of a link; the pin itself stays.
func (g *Graph) Pin(key HostKey, pinned bool, now time.Time) []Event {
	g.tick(now)
	h := &g.hosts
	if pinned {
		h.pins[key] = struct{}{}
	} else {
		delete(h.pins, key)
	}
	st := h.byKey[key]
	if st == nil || st.host.Pinned == pinned {
		return nil
	}
	st.host.Pinned = pinned
	h.stale[key] = struct{}{}
	evs := []Event{HostChanged{st.host}}
	if pinned {
		h.lru.Remove(st.elem)
		st.elem = nil
	} else if g.old(st.host.LastSeen) {
		return g.changed(append(evs, h.remove(st, ReasonExpired)))
	} else if !g.up(st.host.Place) {
		// Only the pin kept it where no host can be.
		return g.changed(append(evs, h.remove(st, ReasonPort)))
	} else {
		st.elem = h.enqueue(st)
		h.ipDue = g.now // its addresses were not looked at while it was pinned
	}
	return g.changed(evs)
}

// old reports whether something last seen then has outlived HostTTL.
func (g *Graph) old(seen time.Time) bool { return !seen.Add(g.options.HostTTL).After(g.now) }

// claim records that st uses ip, and reports whether its addresses changed.
func (g *Graph) claim(st *station, ip netip.Addr) bool {
	h := &g.hosts
	i, found := slices.BinarySearchFunc(st.host.IPs, ip, netip.Addr.Compare)
	if found {
		st.seen[i] = g.now
		return false
	}
	if len(st.host.IPs) >= g.options.MaxIPs {
		oldest := 0
		for j, t := range st.seen {
			if t.Before(st.seen[oldest]) {
				oldest = j
			}
		}
		h.dropIP(st, st.host.IPs[oldest])
		i, _ = slices.BinarySearchFunc(st.host.IPs, ip, netip.Addr.Compare)
	}
	// Clone: snapshots and events share the slice.
	st.host.IPs = slices.Insert(slices.Clone(st.host.IPs), i, ip)
	st.seen = slices.Insert(st.seen, i, g.now)
	h.byIP.set(ipKey{ip, st.host.VLAN}, st.host.Key())
	if h.ipDue.IsZero() {
		h.ipDue = g.now.Add(g.options.HostTTL)
	}
	return true
}

// expireHosts removes hosts and addresses that were silent for too long.
func (g *Graph) expireHosts() []Event {
	h := &g.hosts
	var evs []Event
	for e := h.lru.Back(); e != nil; e = h.lru.Back() {
		st := e.Value.(*station)
		if !g.old(st.host.LastSeen) {
			break
		}
		evs = append(evs, h.remove(st, ReasonExpired))
	}
	if h.ipDue.IsZero() || h.ipDue.After(g.now) {
		return evs
	}
	h.ipDue = time.Time{}
	for _, key := range slices.SortedFunc(maps.Keys(h.byKey), HostKey.Compare) {
		st := h.byKey[key]
		changed := false
		// A pinned host keeps its addresses as it keeps its place: the one it
		// is pinned for may be silent.
		for i := len(st.seen) - 1; i >= 0 && !st.host.Pinned; i-- {
			if g.old(st.seen[i]) {
				h.dropIP(st, st.host.IPs[i])
				changed = true
			}
		}
		for _, t := range st.seen {
			if due := t.Add(g.options.HostTTL); !st.host.Pinned && (h.ipDue.IsZero() || due.Before(h.ipDue)) {
				h.ipDue = due
			}
		}
		if changed {
			evs = append(evs, HostChanged{st.host})
		}
	}
	return evs
}

// flush removes the hosts at a place, the pinned ones only when all is true.
func (g *Graph) flush(p Place, why Reason, all bool) []Event {
	if all {
		delete(g.hosts.fresh, p)
	}
	var evs []Event
	for _, key := range slices.SortedFunc(maps.Keys(g.hosts.at[p]), HostKey.Compare) {
		if st := g.hosts.byKey[key]; all || !st.host.Pinned {
			evs = append(evs, g.hosts.remove(st, why))
		}
	}
	return evs
}

// makeRoom removes hosts until one more fits, and reports whether it does.
func (h *hosts) makeRoom(at Place, o Options) (evs []Event, ok bool) {
	if len(h.at[at]) >= o.MaxHostsAt {
		st := h.silentAt(at)
		if st == nil {
			h.refuse++
			return nil, false
		}
		evs = append(evs, h.remove(st, ReasonEvicted))
	}
	for len(h.byKey) >= o.MaxHosts {
		e := h.lru.Back()
		if e == nil {
			h.refuse++
			return evs, false
		}
		evs = append(evs, h.remove(e.Value.(*station), ReasonEvicted))
	}
	return evs, true
}

// silentAt returns the host of a place that was silent for longest and is not pinned;
// nil when there is none among those that have been silent for longest of all.
func (h *hosts) silentAt(at Place) *station {
	const most = 256 // looked at: a flood must not make each of its hosts cost more
	e := h.lru.Back()
	for range most {
		if e == nil {
			return nil
		}
		if st := e.Value.(*station); st.host.Place == at {
			return st
		}
		e = e.Prev()
	}
	return nil
}

// enqueue puts a station into the list at the place of its last sighting.
func (h *hosts) enqueue(st *station) *list.Element {
	for e := h.lru.Front(); e != nil; e = e.Next() {
		if !e.Value.(*station).host.LastSeen.After(st.host.LastSeen) {
			return h.lru.InsertBefore(st, e)
		}
	}
	return h.lru.PushBack(st)
}

func (h *hosts) remove(st *station, why Reason) Event {
	key := st.host.Key()
	for _, ip := range st.host.IPs {
		h.byIP.remove(ipKey{ip, key.VLAN})
	}
	if st.elem != nil {
		h.lru.Remove(st.elem)
	}
	h.leave(st.host.Place, key)
	delete(h.byKey, key)
	h.stale[key] = struct{}{}
	return HostGone{st.host, why}
}

func (h *hosts) dropIP(st *station, ip netip.Addr) {
	i, _ := slices.BinarySearchFunc(st.host.IPs, ip, netip.Addr.Compare)
	st.host.IPs = slices.Delete(slices.Clone(st.host.IPs), i, i+1)
	st.seen = slices.Delete(st.seen, i, i+1)
	h.byIP.remove(ipKey{ip, st.host.VLAN})
	h.stale[st.host.Key()] = struct{}{}
}

func (h *hosts) arrive(p Place, key HostKey) {
	if h.at[p] == nil {
		h.at[p] = map[HostKey]struct{}{}
	}
	h.at[p][key] = struct{}{}
}

func (h *hosts) leave(p Place, key HostKey) {
	delete(h.at[p], key)
	if len(h.at[p]) == 0 {
		delete(h.at, p)
	}
}

// publish brings public up to date.
func (h *hosts) publish() {
	for key := range h.stale {
		if st := h.byKey[key]; st != nil {
			h.public.set(key, st.host)
		} else {
			h.public.remove(key)
		}
	}
	clear(h.stale)
}

// usable reports whether ip can be the address of one host.
func usable(ip netip.Addr) bool {
	return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() && !ip.IsLoopback() &&
		ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
