package topology

import (
	"maps"
	"slices"
	"time"
)

// A switch whose channel is away may forward still, so its place on a segment is kept:
// what is blocked beside it stays so, after it was removed too. Who knows that it does
// not forward says so by Stopped, and takes it back by Resumed. Who knows that it does
// removes it by LeaveSwitch, and where it spoke first in a region it does so on.

// spoken is a port of a switch that is not there and forwards on, and the ports of others
// that were on the same segment.
type spoken struct {
	at     Place
	beside []Place
}

// LeaveSwitch removes a switch that is known to forward on, until Stopped says that it
// does not, or GiveUp that this is not known any more.
func (g *Graph) LeaveSwitch(id DPID, now time.Time) []Event {
	g.tick(now)
	spoken := g.speaks(id)
	evs := g.RemoveSwitch(id, now)
	if len(evs) == 0 || len(spoken) == 0 {
		return evs
	}
	g.spoken[id] = spoken
	return g.changed(append(evs, SegmentChanged{}))
}

// Left returns the switches that LeaveSwitch has removed, and of which nothing else was
// said since, in order.
func (g *Graph) Left() []DPID {
	if len(g.spoken) == 0 {
		return nil
	}
	return slices.Sorted(maps.Keys(g.spoken))
}

// GiveUp ends what LeaveSwitch has begun: whether the switch forwards is not known.
func (g *Graph) GiveUp(id DPID, now time.Time) []Event {
	g.tick(now)
	if len(g.spoken[id]) == 0 {
		return nil
	}
	delete(g.spoken, id)
	return g.changed([]Event{SegmentChanged{}})
}

// speaks returns where a switch of the graph, or one that left it, is on segments.
func (g *Graph) speaks(id DPID) []spoken {
	if g.switches[id] == nil || len(g.bridged) == 0 {
		return g.spoken[id]
	}
	var list []spoken
	for _, s := range g.fabricNow().segments {
		var beside []Place
		for _, p := range s.Ports {
			if p.DPID != id {
				beside = append(beside, p.Place)
			}
		}
		for _, p := range s.Ports {
			if p.DPID == id && p.Role != RoleBlocked {
				list = append(list, spoken{p.Place, beside})
			}
		}
	}
	return list
}

// unspoken has a port be beside no switch any more that is not there.
func (g *Graph) unspoken(p Place) {
	for _, list := range g.spoken {
		for i := range list {
			list[i].beside = slices.DeleteFunc(slices.Clone(list[i].beside), func(o Place) bool { return o == p })
		}
	}
}

// spokenBeside returns, by port, those of switches that are not there and speak on the
// same segment.
func (g *Graph) spokenBeside() map[Place][]Place {
	all := map[Place][]Place{}
	for _, list := range g.spoken {
		for _, s := range list {
			for _, p := range s.beside {
				all[p] = append(all[p], s.at)
			}
		}
	}
	for _, list := range all {
		slices.SortFunc(list, Place.Compare)
	}
	return all
}

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

// stopped is what was kept for the sake of a switch until it stopped: ports that were
// held, and where it spoke.
type stopped struct {
	held   []Place
	spoken []spoken
}

// Stopped records that a switch forwards nothing any more, and removes it where it is
// still there. Unlike with RemoveSwitch, the ports that were blocked beside it are not
// kept so.
func (g *Graph) Stopped(id DPID, now time.Time) []Event {
	g.tick(now)
	ports, spoken := g.blockedBeside(id), g.speaks(id)
	delete(g.spoken, id)
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
	if len(evs) == 0 && len(ports) == 0 && len(spoken) == 0 {
		return nil
	}
	ports = slices.Compact(ports)
	g.stopped[id] = stopped{ports, spoken}
	evs = g.changed(append(evs, SegmentChanged{}))
	var settled []Event
	for _, p := range ports {
		if g.isEdge(p) {
			settled = append(settled, PortSettled{p})
		}
	}
	return append(evs, g.changed(settled)...)
}

// Resumed takes back what Stopped recorded: the switch forwards, though it is not there.
func (g *Graph) Resumed(id DPID, now time.Time) []Event {
	g.tick(now)
	was := g.stopped[id]
	down := func(p Place) bool { return !g.up(p) }
	ports := slices.DeleteFunc(was.held, down)
	var spoken []spoken
	for _, s := range was.spoken {
		if s.beside = slices.DeleteFunc(slices.Clone(s.beside), down); len(s.beside) > 0 {
			spoken = append(spoken, s)
		}
	}
	delete(g.stopped, id)
	if len(ports)+len(spoken) == 0 || g.switches[id] != nil {
		return nil
	}
	g.hold(ports, id)
	if len(spoken) > 0 {
		g.spoken[id] = spoken
	}
	return g.changed([]Event{SegmentChanged{}})
}
