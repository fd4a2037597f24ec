package topology

import (
	"maps"
	"slices"
	"time"
)

// A switch whose channel is away may forward still, so its place on a segment is kept:
// what is blocked beside it stays so, after it was removed too. Who knows that it does
// not forward says so by Stopped, and takes it back by Resumed.

// blockedBeside returns the ports of others that are blocked on the segments that a
// switch leads to.
func (g *Graph) blockedBeside(id DPID) (list []Place) {
	if len(g.bridged) == 0 {
		return nil
	}
	for _, s := range g.fabricNow().segments {
		if !slices.ContainsFunc(s.Ports, func(p SegmentPort) bool { return p.DPID == id && p.Role != RoleBlocked }) {
			continue
		}
		for _, p := range s.Ports {
			if p.Role == RoleBlocked && p.DPID != id {
				list = append(list, p.Place)
			}
		}
	}
	return list
}

// hold keeps ports blocked for the sake of a switch that may forward still.
func (g *Graph) hold(ports []Place, id DPID) {
	for _, p := range ports {
		if g.away[p] == nil {
			g.away[p] = map[DPID]struct{}{}
		}
		g.away[p][id] = struct{}{}
	}
}

// heldPorts returns the ports on segments that are held, with the switches for whose
// sake they are.
func (g *Graph) heldPorts() map[Place][]DPID {
	held := map[Place][]DPID{}
	for p, left := range g.away {
		if g.onSegment[p] {
			held[p] = slices.Sorted(maps.Keys(left))
		}
	}
	return held
}

// Stopped records that a switch forwards nothing any more, and removes it where it is
// still there. Unlike with RemoveSwitch, the ports that were blocked beside it are not
// kept so.
func (g *Graph) Stopped(id DPID, now time.Time) []Event {
	g.tick(now)
	ports := g.blockedBeside(id)
	var evs []Event
	if n := g.switches[id]; n != nil {
		evs = g.removeSwitch(id, n)
	}
	for p, left := range g.away {
		if _, ok := left[id]; !ok || !g.onSegment[p] {
			continue
		}
		ports = append(ports, p)
		if delete(left, id); len(left) == 0 {
			delete(g.away, p)
		}
	}
	slices.SortFunc(ports, Place.Compare)
	if len(evs) == 0 && len(ports) == 0 {
		return nil
	}
	g.stopped[id] = slices.Compact(ports)
	evs = g.changed(append(evs, SegmentChanged{}))
	var settled []Event
	for _, p := range g.stopped[id] {
		if g.isEdge(p) {
			settled = append(settled, PortSettled{p})
		}
	}
	return append(evs, g.changed(settled)...)
}

// Resumed takes back what Stopped recorded: the switch forwards, though it is not there.
func (g *Graph) Resumed(id DPID, now time.Time) []Event {
	g.tick(now)
	ports := slices.DeleteFunc(g.stopped[id], func(p Place) bool { return !g.up(p) })
	delete(g.stopped, id)
	if len(ports) == 0 || g.switches[id] != nil {
		return nil
	}
	g.hold(ports, id)
	return g.changed([]Event{SegmentChanged{}})
}
