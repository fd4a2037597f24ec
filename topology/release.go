package topology

import (
	"maps"
	"slices"
	"time"
)

// ReleaseSwitch forgets a switch that forwards by itself from now on, as a legacy one
// does, unlike RemoveSwitch, after which it is not known what it does. Its hosts are
// behind the ports of others that the broadcast tree had led to it by: those are edge
// ports at once, and what passes the switch goes on passing. Ports that led to it
// outside the tree wait for thrice Options.EdgeDelay: until then it has been heard
// whether they are on one segment with others.
func (g *Graph) ReleaseSwitch(id DPID, now time.Time) []Event {
	g.tick(now)
	n := g.switches[id]
	if n == nil {
		return nil
	}
	f := g.fabricNow()
	var ways, others []Place
	for _, p := range n.list() {
		far, linked := f.Peer(Place{id, p.Port})
		switch {
		case !linked || far.DPID == id:
		case f.Tree().Contains(far):
			ways = append(ways, far)
		default:
			others = append(others, far)
		}
	}
	slices.SortFunc(ways, Place.Compare)
	var evs []Event
	if len(ways) > 0 {
		evs = g.moveHosts(id, n, ways[0])
	}
	evs = append(evs, g.RemoveSwitch(id, now)...)
	for _, p := range ways {
		g.released(p, id)
		delete(g.settling, p)
		if g.isEdge(p) {
			evs = append(evs, PortSettled{p})
		}
	}
	for _, p := range others {
		g.released(p, id)
		if g.options.EdgeDelay > 0 {
			g.settling[p] = g.now.Add(3 * g.options.EdgeDelay)
		}
	}
	return g.changed(evs)
}

// released has a port wait no longer for the return of a switch.
func (g *Graph) released(p Place, id DPID) {
	if delete(g.away[p], id); len(g.away[p]) == 0 {
		delete(g.away, p)
	}
}

// moveHosts moves all hosts of a switch to one place.
func (g *Graph) moveHosts(id DPID, n *node, to Place) []Event {
	h := &g.hosts
	var evs []Event
	for _, p := range n.list() {
		from := Place{id, p.Port}
		for _, key := range slices.SortedFunc(maps.Keys(h.at[from]), HostKey.Compare) {
			st := h.byKey[key]
			h.leave(from, key)
			h.arrive(to, key)
			st.host.Place = to
			h.stale[key] = struct{}{}
			evs = append(evs, HostMoved{st.host, from})
		}
	}
	g.touched = true
	return evs
}
