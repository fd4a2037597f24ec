package forwarding

import (
	"maps"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Tags of the parts of hosts.
const (
	tagTree = iota + 1 // along the tree
	tagPath            // by the shortest path
)

// spread is how far the entries for a new host have come, where its shortest paths are not
// those of the broadcast tree. No two switches get an entry at the same moment, and one
// without floods what is for the host, and takes no flood from links outside the tree. So
// what another sends it by such a link would be lost, what that takes of its flood would
// come twice, and paths and floods together could make circles.
//
// So all get entries along the tree first, which are right beside switches that flood.
// When all have acknowledged theirs, the shortest paths follow from the host's switch
// outwards: a switch gets its entry after all that are on the path from it.
type spread struct {
	flooding map[ofproto.DPID]bool // have acknowledged no entry
	onTree   map[ofproto.DPID]bool // do not forward by the shortest path all the way; nil: nobody does
}

// added takes in a host that no switch has entries for.
func (a *App) added(c *controller.Context, h topology.Host) {
	a.setHost(c, h)
	delete(a.spreads, hostPart(h))
	snap := c.Graph.Snapshot()
	managed := map[ofproto.DPID]bool{}
	detours := false
	for sw := range c.Switches() {
		if sw.Stage == controller.StageManaged {
			managed[sw.DPID] = true
			detours = detours || !direct(snap, sw.DPID, h)
		}
	}
	if detours {
		a.spreads[hostPart(h)] = &spread{flooding: managed}
	}
}

// direct says whether a switch reaches a host along the tree as by the shortest path.
func direct(snap *topology.Snapshot, dpid ofproto.DPID, h topology.Host) bool {
	path, _ := snap.NextHop(topology.DPID(dpid), h.Place.DPID)
	tree, _ := snap.NextHopInTree(topology.DPID(dpid), h.Place.DPID)
	return path == tree
}

// goesByTree says whether a switch is to forward to a host along the tree for now.
func (a *App) goesByTree(snap *topology.Snapshot, dpid ofproto.DPID, h topology.Host) bool {
	s := a.spreads[hostPart(h)]
	return s != nil && (s.onTree == nil || s.onTree[dpid] && s.waits(snap, dpid, h))
}

// waits says whether the next switch on the shortest path does not forward by that yet.
func (s *spread) waits(snap *topology.Snapshot, dpid ofproto.DPID, h topology.Host) bool {
	out, _ := snap.NextHop(topology.DPID(dpid), h.Place.DPID)
	next, ok := snap.Peer(topology.Place{DPID: topology.DPID(dpid), Port: out})
	return ok && s.onTree[ofproto.DPID(next.DPID)]
}

// acknowledged goes on with a host when a switch has acknowledged its entry.
func (a *App) acknowledged(c *controller.Context, e controller.Applied) {
	s := a.spreads[e.Part]
	if s == nil || e.Err != nil || e.Tag == 0 {
		return
	}
	h := a.hosts[e.Part]
	switch {
	case s.onTree == nil:
		if delete(s.flooding, e.DPID); len(s.flooding) > 0 {
			return
		}
		s.onTree = map[ofproto.DPID]bool{}
		for sw := range c.Switches() {
			if sw.Stage == controller.StageManaged && topology.DPID(sw.DPID) != h.Place.DPID {
				s.onTree[sw.DPID] = true
			}
		}
		for _, dpid := range slices.Collect(maps.Keys(s.onTree)) {
			a.advance(c, s, dpid, h)
		}
	case e.Tag == tagPath:
		a.arrived(c, s, e.DPID, h)
	}
	if len(s.onTree) == 0 {
		delete(a.spreads, e.Part)
	}
}

// advance has a switch forward by the shortest path, where all that follow do.
func (a *App) advance(c *controller.Context, s *spread, dpid ofproto.DPID, h topology.Host) {
	snap := c.Graph.Snapshot()
	switch {
	case !s.onTree[dpid] || s.waits(snap, dpid, h):
	case direct(snap, dpid, h):
		a.arrived(c, s, dpid, h)
	default:
		c.Dirty(dpid, hostPart(h))
	}
}

// arrived notes that a switch forwards by the shortest path, as all that follow do.
func (a *App) arrived(c *controller.Context, s *spread, dpid ofproto.DPID, h topology.Host) {
	if !s.onTree[dpid] {
		return
	}
	delete(s.onTree, dpid)
	snap := c.Graph.Snapshot()
	sw, _ := snap.Switch(topology.DPID(dpid))
	for _, p := range sw.Ports {
		before, ok := snap.Peer(topology.Place{DPID: sw.DPID, Port: p.Port})
		if out, leads := snap.NextHop(before.DPID, h.Place.DPID); ok && leads && out == before.Port {
			a.advance(c, s, ofproto.DPID(before.DPID), h)
		}
	}
}

// restaged takes a switch out of what new hosts wait for.
func (a *App) restaged(c *controller.Context, dpid ofproto.DPID) {
	for part, s := range a.spreads {
		if delete(s.flooding, dpid); len(s.flooding) == 0 {
			delete(a.spreads, part)
			a.dirtyHost(c, part)
		}
	}
}

// rerouted begins again with hosts that are not known everywhere, and leaves the order of
// the others to chance: paths have changed under them.
func (a *App) rerouted(c *controller.Context) {
	snap := c.Graph.Snapshot()
	for part, s := range a.spreads {
		for dpid := range s.flooding {
			if _, ok := snap.Switch(topology.DPID(dpid)); !ok {
				delete(s.flooding, dpid)
			}
		}
		if len(s.flooding) == 0 {
			delete(a.spreads, part)
		}
	}
}
