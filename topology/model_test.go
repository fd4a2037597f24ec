package topology

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// model is a second graph, dumb and slow: facts in flat lists, everything
// else worked out anew each time. The real one must agree with it.
type model struct {
	o     Options
	now   time.Time
	ports map[DPID]map[Port]PortState
	dirs  map[[2]Place]fact // from, to
	hosts []modelHost       // the one seen last at the end
	pins  map[HostKey]bool

	settling map[Place]time.Time
	was      map[Place]bool  // ports that were up or the end of a link before
	before   [][2]Place      // from, to: known before
	away     map[[2]any]bool // port and the switch it led to, which left
}

type fact struct {
	first, until time.Time
	heard        bool
}

type modelHost struct {
	key         HostKey
	place       Place
	first, last time.Time
	ips         map[netip.Addr]time.Time
}

func newModel(o Options) *model {
	return &model{o: New(o).options, ports: map[DPID]map[Port]PortState{}, dirs: map[[2]Place]fact{}, pins: map[HostKey]bool{},
		settling: map[Place]time.Time{}, away: map[[2]any]bool{}}
}

func (m *model) up(p Place) bool { return m.ports[p.DPID][p.Port].Up }

// settle begins the delay of each port that came up or lost its last link since
// the last call.
func (m *model) settle() {
	waiting := map[Place]bool{}
	for a := range m.away {
		waiting[a[0].(Place)] = true
	}
	for _, d := range m.before {
		_, one := m.dirs[d]
		_, two := m.dirs[[2]Place{d[1], d[0]}]
		for i := range d {
			if peer := d[1-i].DPID; !one && !two && m.ports[peer] == nil {
				m.away[[2]any{d[i], peer}] = true
			}
		}
	}
	maps.DeleteFunc(m.away, func(a [2]any, _ bool) bool { return !m.up(a[0].(Place)) || m.ports[a[1].(DPID)] != nil })
	m.before = slices.Collect(maps.Keys(m.dirs))
	is := map[Place]bool{} // true when an end
	for id, ps := range m.ports {
		for _, p := range ps {
			if place := (Place{id, p.Port}); p.Up {
				is[place] = m.isEnd(place)
				if was, up := m.was[place]; !up || was && !is[place] || waiting[place] && !m.isAway(place) {
					m.settling[place] = m.now.Add(m.o.EdgeDelay)
				}
			}
		}
	}
	maps.DeleteFunc(m.settling, func(p Place, _ time.Time) bool { return !m.up(p) || m.o.EdgeDelay == 0 })
	m.was = is
}

func (m *model) isEdge(p Place) bool {
	_, settling := m.settling[p]
	return m.up(p) && !m.isEnd(p) && !settling && !m.isAway(p)
}

// isAway reports whether p led to a switch that has left.
func (m *model) isAway(p Place) bool {
	for a := range m.away {
		if a[0] == p {
			return true
		}
	}
	return false
}

func (m *model) isEnd(p Place) bool {
	for d := range m.dirs {
		if d[0] == p || d[1] == p {
			return true
		}
	}
	return false
}

// cut forgets both directions of each link with an end that fits.
func (m *model) cut(fits func(Place) bool) {
	maps.DeleteFunc(m.dirs, func(d [2]Place, _ fact) bool { return fits(d[0]) || fits(d[1]) })
}

func (m *model) losePort(p Place, pinned bool) {
	m.cut(func(o Place) bool { return o == p })
	m.hosts = slices.DeleteFunc(m.hosts, func(h modelHost) bool { return h.place == p && (pinned || !m.pins[h.key]) })
}

func (m *model) setPort(id DPID, p PortState) {
	if m.ports[id] == nil {
		return
	}
	m.ports[id][p.Port] = p
	if !p.Up {
		m.losePort(Place{id, p.Port}, false)
	}
}

func (m *model) removePort(p Place) {
	delete(m.ports[p.DPID], p.Port)
	m.losePort(p, true)
}

func (m *model) setSwitch(id DPID, ps []PortState) {
	if m.ports[id] == nil {
		m.ports[id] = map[Port]PortState{}
		for _, p := range ps {
			m.ports[id][p.Port] = p
		}
		m.cut(func(p Place) bool { return p.DPID == id && !m.up(p) })
		return
	}
	for _, p := range slices.Collect(maps.Keys(m.ports[id])) {
		if !slices.ContainsFunc(ps, func(o PortState) bool { return o.Port == p }) {
			m.removePort(Place{id, p})
		}
	}
	for _, p := range ps {
		m.setPort(id, p)
	}
}

func (m *model) removeSwitch(id DPID) {
	if m.ports[id] == nil {
		return
	}
	delete(m.ports, id)
	m.cut(func(p Place) bool { return p.DPID == id })
	m.hosts = slices.DeleteFunc(m.hosts, func(h modelHost) bool { return h.place.DPID == id })
}

func (m *model) know(from, to Place, until time.Time, heard bool) {
	f, ok := m.dirs[[2]Place{from, to}]
	if !ok {
		f.first = m.now
	}
	if until.After(f.until) {
		f.until = until
	}
	f.heard = f.heard || heard
	m.dirs[[2]Place{from, to}] = f
	m.hosts = slices.DeleteFunc(m.hosts, func(h modelHost) bool { return m.isEnd(h.place) })
}

func (m *model) hear(from, to Place) {
	if m.up(from) && m.up(to) {
		m.know(from, to, m.now.Add(m.o.LinkTTL), true)
	}
}

func (m *model) seed(a, b Place, until time.Time) {
	for _, p := range []Place{a, b} {
		if m.ports[p.DPID] != nil && !m.up(p) {
			return
		}
	}
	if until.After(m.now) {
		m.know(a, b, until, false)
		m.know(b, a, until, false)
	}
}

func (m *model) expire() {
	maps.DeleteFunc(m.settling, func(_ Place, t time.Time) bool { return !t.After(m.now) })
	maps.DeleteFunc(m.dirs, func(_ [2]Place, f fact) bool { return !f.until.After(m.now) })
	old := func(t time.Time) bool { return !t.Add(m.o.HostTTL).After(m.now) }
	m.hosts = slices.DeleteFunc(m.hosts, func(h modelHost) bool { return !m.pins[h.key] && old(h.last) })
	for _, h := range m.hosts {
		if !m.pins[h.key] {
			maps.DeleteFunc(h.ips, func(_ netip.Addr, t time.Time) bool { return old(t) })
		}
	}
}

func (m *model) see(s Sighting) {
	if s.MAC == (MAC{}) || s.MAC[0]&1 == 1 || !m.isEdge(s.Place) {
		return
	}
	key := HostKey{s.MAC, s.VLAN}
	h := modelHost{key: key, first: m.now, ips: map[netip.Addr]time.Time{}}
	if i := slices.IndexFunc(m.hosts, func(h modelHost) bool { return h.key == key }); i >= 0 {
		h = m.hosts[i]
		m.hosts = slices.Delete(m.hosts, i, i+1)
	} else if len(m.hosts) >= m.o.MaxHosts {
		i := slices.IndexFunc(m.hosts, func(h modelHost) bool { return !m.pins[h.key] })
		if i < 0 {
			return
		}
		m.hosts = slices.Delete(m.hosts, i, i+1)
	}
	h.place, h.last = s.Place, m.now
	if ip := s.IP; ip.IsValid() {
		for _, o := range m.hosts {
			if o.key.VLAN == s.VLAN {
				delete(o.ips, ip)
			}
		}
		if _, ok := h.ips[ip]; !ok && len(h.ips) >= m.o.MaxIPs {
			delete(h.ips, slices.MinFunc(slices.Collect(maps.Keys(h.ips)), func(a, b netip.Addr) int {
				return cmp.Or(h.ips[a].Compare(h.ips[b]), a.Compare(b))
			}))
		}
		h.ips[ip] = m.now
	}
	m.hosts = append(m.hosts, h)
}

func (m *model) pin(key HostKey, pinned bool) {
	was := m.pins[key]
	if pinned {
		m.pins[key] = true
		return
	}
	delete(m.pins, key)
	if !was {
		return
	}
	m.hosts = slices.DeleteFunc(m.hosts, func(h modelHost) bool {
		return h.key == key && (!h.last.Add(m.o.HostTTL).After(m.now) || !m.up(h.place))
	})
}

// links returns the state of every link.
func (m *model) links() []Link {
	type candidate struct {
		Link
		since time.Time
		both  bool
	}
	var cs []candidate
	for d := range m.dirs {
		back := [2]Place{d[1], d[0]}
		f, g := m.dirs[d], m.dirs[back]
		if d[0].Compare(d[1]) > 0 {
			if !g.until.IsZero() {
				continue // seen from the other side
			}
			d = back
		}
		c := candidate{Link: Link{A: d[0], B: d[1], Trusted: !f.heard || !g.until.IsZero() && !g.heard}}
		c.both = !f.until.IsZero() && !g.until.IsZero()
		c.since = f.first
		if g.first.After(c.since) {
			c.since = g.first
		}
		cs = append(cs, c)
	}
	slices.SortFunc(cs, func(a, b candidate) int {
		if a.Trusted != b.Trusted {
			if b.Trusted {
				return -1
			}
			return 1
		}
		return cmp.Or(a.since.Compare(b.since), compareLinks(a.Link, b.Link))
	})
	taken := map[Place]bool{}
	var ls []Link
	for _, c := range cs {
		switch {
		case c.A.DPID == c.B.DPID:
			c.State = StateLoop
		case !c.both || !m.up(c.A) || !m.up(c.B):
			c.State = StateHalf
		case taken[c.A] || taken[c.B]:
			c.State = StateShared
		default:
			c.State = StateUp
			taken[c.A], taken[c.B] = true, true
		}
		ls = append(ls, c.Link)
	}
	slices.SortFunc(ls, compareLinks)
	return ls
}

// mirror rebuilds a graph from events alone.
type mirror struct {
	switches map[DPID]map[Port]PortState
	links    map[ends]LinkState
	hosts    map[HostKey]Host
}

func newMirror() *mirror {
	return &mirror{map[DPID]map[Port]PortState{}, map[ends]LinkState{}, map[HostKey]Host{}}
}

func (m *mirror) apply(t require.TestingT, evs []Event) {
	link := func(l Link) {
		k := ends{l.A, l.B}
		if l.State == StateGone {
			delete(m.links, k)
			return
		}
		m.links[k] = l.State
	}
	for _, e := range evs {
		switch e := e.(type) {
		case SwitchAdded:
			require.NotContains(t, m.switches, e.Switch.DPID)
			ps := map[Port]PortState{}
			for _, p := range e.Switch.Ports {
				ps[p.Port] = p
			}
			m.switches[e.Switch.DPID] = ps
		case SwitchGone:
			require.Contains(t, m.switches, e.DPID)
			delete(m.switches, e.DPID)
		case PortChanged:
			require.NotEqual(t, m.switches[e.Place.DPID][e.Place.Port], e)
			if e.Gone {
				delete(m.switches[e.Place.DPID], e.Place.Port)
			} else {
				m.switches[e.Place.DPID][e.Place.Port] = e.Port
			}
		case LinkUp:
			require.NotEqual(t, StateUp, m.links[ends{e.Link.A, e.Link.B}])
			require.Equal(t, StateUp, e.Link.State)
			link(e.Link)
		case LinkDown:
			require.Equal(t, StateUp, m.links[ends{e.Link.A, e.Link.B}])
			require.NotEqual(t, StateUp, e.Link.State)
			require.NotZero(t, e.Reason)
			link(e.Link)
		case LinkChanged:
			require.Equal(t, e.Link.State == StateUp, m.links[ends{e.Link.A, e.Link.B}] == StateUp)
			link(e.Link)
		case HostAdded:
			require.NotContains(t, m.hosts, e.Host.Key())
			m.hosts[e.Host.Key()] = e.Host
		case HostMoved:
			require.Equal(t, m.hosts[e.Host.Key()].Place, e.From)
			m.hosts[e.Host.Key()] = e.Host
		case HostChanged:
			require.Equal(t, m.hosts[e.Host.Key()].Place, e.Host.Place)
			m.hosts[e.Host.Key()] = e.Host
		case HostGone:
			require.Contains(t, m.hosts, e.Host.Key())
			require.NotZero(t, e.Reason)
			delete(m.hosts, e.Host.Key())
		case PortSettled:
			require.True(t, m.switches[e.Place.DPID][e.Place.Port].Up)
		default:
			require.Fail(t, "unknown event", "%T", e)
		}
		require.NotContains(t, e.String(), "%!")
	}
}

// play runs a program, two bytes an instruction, on a graph, the model and the
// mirror, and compares the three after each.
func play(t require.TestingT, o Options, program []byte) *Graph {
	g, m, r := New(o), newModel(o), newMirror()
	now := t0
	var version uint64
	kept := map[*Snapshot]string{}
	defer func() {
		for s, was := range kept {
			require.Equal(t, was, render(s), "a snapshot changed")
		}
	}()
	for len(program) >= 2 {
		op, arg := program[0], program[1]
		program = program[2:]
		id := DPID(arg&3 + 1)
		a := Place{id, Port(arg>>2&3 + 1)}
		b := Place{DPID(arg>>4&3 + 1), Port(arg>>6&3 + 1)}
		key := HostKey{MAC{2, 0, 0, 0, 0, op >> 4 & 7}, uint16(op >> 7)}
		m.now = now
		var evs []Event
		switch op & 15 {
		case 0, 1:
			up := op>>4 == 0
			evs = g.SetPort(a.DPID, PortState{Port: a.Port, Up: up}, now)
			m.setPort(a.DPID, PortState{Port: a.Port, Up: up})
		case 2:
			var ps []PortState
			for p := Port(1); p <= 4; p++ {
				if op>>4&1 == 0 || p != a.Port {
					ps = append(ps, PortState{Port: p, Up: op>>5&1 == 0 || p != b.Port})
				}
			}
			evs = g.SetSwitch(id, ps, now)
			m.setSwitch(id, ps)
		case 3:
			switch op >> 4 & 3 {
			case 0:
				evs = g.RemoveSwitch(id, now)
				m.removeSwitch(id)
			case 1:
				evs = g.RemovePort(a, now)
				if m.ports[id] != nil {
					m.removePort(a)
				}
			}
		case 4, 5, 6:
			evs = g.HearLink(a, b, now)
			m.hear(a, b)
		case 7, 8:
			evs = append(g.HearLink(a, b, now), g.HearLink(b, a, now)...)
			m.hear(a, b)
			m.hear(b, a)
		case 9:
			until := now.Add(time.Duration(op>>4) * time.Second)
			evs = g.SeedLink(a, b, until, now)
			m.seed(a, b, until)
		case 10:
			next := g.NextExpiry()
			now = now.Add(time.Duration(arg) * time.Second / 8)
			m.now = now
			evs = g.Expire(now)
			if next.IsZero() || now.Before(next) {
				require.Empty(t, evs)
			}
			m.expire()
		case 11:
			evs = g.Pin(key, arg&1 == 0, now)
			m.pin(key, arg&1 == 0)
		default:
			s := Sighting{MAC: key.MAC, VLAN: key.VLAN, Place: a}
			if n := arg >> 4; n > 0 {
				s.IP = netip.AddrFrom4([4]byte{10, 0, 0, n})
			}
			evs = g.SeeHost(s, now)
			m.see(s)
		}

		if len(evs) == 0 {
			require.Equal(t, version, g.Version())
		} else {
			require.Greater(t, g.Version(), version)
		}
		version = g.Version()
		m.settle()
		r.apply(t, evs)
		compare(t, g, m, r, now)
		if len(program)%64 < 2 {
			kept[g.Snapshot()] = render(g.Snapshot())
		}
	}
	return g
}

// render prints all that a snapshot holds, not what it has computed.
func render(s *Snapshot) string {
	var ips []string
	for _, part := range s.byIP.parts {
		for k, v := range part {
			ips = append(ips, fmt.Sprint(k, v))
		}
	}
	slices.Sort(ips)
	return fmt.Sprint(s.version, s.switches, s.links, s.sortHosts(), ips)
}

func compare(t require.TestingT, g *Graph, m *model, r *mirror, now time.Time) {
	require.Equal(t, g.Version(), g.Snapshot().Version())
	g.snapshotNow = now.Add(-time.Second) // so that times are up to date too
	s := g.Snapshot()

	links := m.links()
	require.Len(t, s.Links(), len(links))
	require.Len(t, r.links, len(links))
	for i, l := range s.Links() {
		w := links[i]
		require.Equal(t, Link{A: w.A, B: w.B, State: w.State, Trusted: w.Trusted}, Link{A: l.A, B: l.B, State: l.State, Trusted: l.Trusted})
		require.Equal(t, l.State, r.links[ends{l.A, l.B}])
		require.False(t, l.LastSeen.Before(l.FirstSeen))
	}

	require.Len(t, s.Switches(), len(m.ports))
	require.Len(t, r.switches, len(m.ports))
	for _, sw := range s.Switches() {
		require.Len(t, sw.Ports, len(m.ports[sw.DPID]))
		require.Equal(t, m.ports[sw.DPID], r.switches[sw.DPID])
		var edge []Port
		for _, p := range sw.Ports {
			require.Equal(t, m.ports[sw.DPID][p.Port], p)
			place := Place{sw.DPID, p.Port}
			require.Equal(t, m.isEnd(place) || m.isAway(place), s.IsLink(place))
			require.Equal(t, m.isEdge(place), s.IsEdge(place))
			if m.isEdge(place) {
				edge = append(edge, p.Port)
			}
		}
		require.ElementsMatch(t, edge, s.EdgePorts(sw.DPID))
	}

	require.LessOrEqual(t, len(m.hosts), m.o.MaxHosts)
	require.Equal(t, len(m.hosts), s.HostCount())
	require.Len(t, s.Hosts(), len(m.hosts))
	require.Len(t, r.hosts, len(m.hosts))
	owned := 0
	for _, w := range m.hosts {
		ips := slices.SortedFunc(maps.Keys(w.ips), netip.Addr.Compare)
		if ips == nil {
			ips = []netip.Addr{}
		}
		want := Host{MAC: w.key.MAC, VLAN: w.key.VLAN, Place: w.place, IPs: ips, FirstSeen: w.first, LastSeen: w.last, Pinned: m.pins[w.key]}
		got, ok := s.Host(w.key.MAC, w.key.VLAN)
		require.True(t, ok)
		require.Equal(t, want, got)
		told := r.hosts[w.key]
		require.Equal(t, [3]any{want.Place, want.IPs, want.Pinned}, [3]any{told.Place, told.IPs, told.Pinned})
		for _, ip := range ips {
			owner, ok := s.HostByIP(w.key.VLAN, ip)
			require.True(t, ok)
			require.Equal(t, want, owner)
			owned++
		}
	}
	require.Equal(t, owned, s.byIP.size)
	unpinned := 0
	for _, st := range g.hosts.byKey {
		if st.elem != nil {
			unpinned++
		}
		require.Equal(t, st.host.Pinned, st.elem == nil)
	}
	require.Equal(t, unpinned, g.hosts.lru.Len())
}

var tight = Options{LinkTTL: 10 * time.Second, HostTTL: 20 * time.Second, MaxHosts: 6, MaxIPs: 3}

// guarded are tight options with a delay too.
var guarded = Options{LinkTTL: 10 * time.Second, HostTTL: 20 * time.Second, EdgeDelay: 2 * time.Second, MaxHosts: 6, MaxIPs: 3}

func randomProgram(seed uint64, steps int) []byte {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := []byte{2, 0, 2, 1, 2, 2, 2, 3}
	for range steps {
		op := byte(rng.Uint32())
		switch op & 15 {
		case 2, 3: // rarer, so that something is left to go wrong
			if rng.IntN(4) > 0 {
				op = 7
			}
		case 0, 1:
			if rng.IntN(2) > 0 {
				op &= 15 // up
			}
		}
		b = append(b, op, byte(rng.Uint32()))
	}
	return b
}

// The graph agrees with the model after every step of many random programs, and
// its events alone tell the same.
func TestModel(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			program, o := randomProgram(seed, 200), tight
			if seed%2 > 0 {
				o = guarded
			}
			g := play(t, o, program)
			checkFabric(t, g.Snapshot())
			again := play(t, o, program)
			require.Equal(t, g.Snapshot().View(Notes{}), again.Snapshot().View(Notes{}))
		})
	}
}

// Run it with -fuzzminimizetime=10x: map order makes coverage vary a little, on
// which the default minimizing spends a minute an input.
func FuzzGraph(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(randomProgram(seed, 60))
		f.Add(append(randomProgram(seed, 60), 0))
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 400 {
			return
		}
		o := tight
		if len(program)%2 > 0 {
			o = guarded
		}
		checkFabric(t, play(t, o, program).Snapshot())
	})
}

// Whatever happened before, and in whatever order the facts that hold now were
// learned, the graph is the same.
func TestOrderDoesNotMatter(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 2))
		var facts []func(g *Graph, now time.Time)
		for range 14 {
			a := Place{DPID(rng.IntN(4) + 1), Port(rng.IntN(4) + 1)}
			b := Place{DPID(rng.IntN(4) + 1), Port(rng.IntN(4) + 1)}
			facts = append(facts, func(g *Graph, now time.Time) { g.HearLink(a, b, now) })
			if rng.IntN(4) > 0 {
				facts = append(facts, func(g *Graph, now time.Time) { g.HearLink(b, a, now) })
			}
		}
		for n := range byte(8) {
			s := Sighting{MAC: MAC{2, 0, 0, 0, 1, n}, Place: Place{DPID(rng.IntN(4) + 1), Port(rng.IntN(4) + 1)}, IP: netip.AddrFrom4([4]byte{10, 0, 1, n})}
			facts = append(facts, func(g *Graph, now time.Time) { g.SeeHost(s, now) })
		}
		var want View
		for round := range 6 {
			var g *Graph
			if round == 0 {
				g = New(Options{})
			} else {
				// A past: anything may have happened, then all ports went down.
				g = play(t, Options{}, randomProgram(seed*31+uint64(round), 60))
			}
			now := t0.Add(time.Hour)
			for key := range g.hosts.pins {
				g.Pin(key, false, now)
			}
			g.Expire(now)
			for id := DPID(1); id <= 4; id++ {
				g.SetSwitch(id, nil, now)
			}
			for id := DPID(1); id <= 4; id++ {
				g.SetSwitch(id, ports(4), now)
			}
			rng.Shuffle(len(facts), func(i, j int) { facts[i], facts[j] = facts[j], facts[i] })
			for _, f := range facts {
				f(g, now)
			}
			v := g.Snapshot().View(Notes{})
			v.Version = 0
			if round == 0 {
				want = v
			}
			require.Equal(t, want, v, "seed %d round %d", seed, round)
			require.Equal(t, want.SVG(), v.SVG())
		}
	}
}
