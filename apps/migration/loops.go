package migration

import (
	"context"
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// stageManaged is the stage in which Fairlead keeps circles open; in all others a switch
// forwards by itself.
const stageManaged = "managed"

// circle returns a link of a circle through a switch that consists of switches that are
// open only: that forward by themselves, and keep no circle open.
func circle(links []topology.Link, through topology.DPID, open func(topology.DPID) bool) (topology.Link, bool) {
	isOpen := map[topology.DPID]bool{}
	for _, l := range links {
		for _, id := range []topology.DPID{l.A.DPID, l.B.DPID} {
			if _, asked := isOpen[id]; !asked {
				isOpen[id] = open(id)
			}
		}
	}
	parent := map[topology.DPID]topology.DPID{}
	find := func(v topology.DPID) topology.DPID {
		for {
			up, ok := parent[v]
			if !ok {
				return v
			}
			v = up
		}
	}
	// The links of the switch itself come last: what they close is a circle through it.
	for _, own := range []bool{false, true} {
		for _, l := range links {
			if !isOpen[l.A.DPID] || !isOpen[l.B.DPID] || own != (l.A.DPID == through || l.B.DPID == through) {
				continue
			}
			a, b := find(l.A.DPID), find(l.B.DPID)
			switch {
			case a != b:
				parent[a] = b
			case own:
				return l, true
			}
		}
	}
	return topology.Link{}, false
}

// circleOf looks for a circle through a switch, first of switches of which all is known,
// then of others, too. open is asked whether a switch forwards by itself and keeps no circle
// open; where unknown is set, a switch of which that is not known counts as such. certain
// says that the first was found.
func circleOf(links []topology.Link, through ofproto.DPID, open func(id ofproto.DPID, unknown bool) bool) (l topology.Link, certain, found bool) {
	for _, unknown := range []bool{false, true} {
		l, found = circle(links, topology.DPID(through), func(id topology.DPID) bool { return open(ofproto.DPID(id), unknown) })
		if found {
			return l, !unknown, true
		}
	}
	return l, false, false
}

// doubtfulCircle is what is said of a circle that may be none.
const doubtfulCircle = "with %v there is a circle of switches that are not managed, and it is not known of all of them whether they run STP"

// linksUp are the links of a graph that carry something.
func linksUp(snap *topology.Snapshot) []topology.Link {
	return slices.DeleteFunc(slices.Clone(snap.Links()), func(l topology.Link) bool { return l.State != topology.StateUp })
}

// loops checks that no circle through the switch is left of switches that neither run
// STP nor are managed. Of a switch whose database is not known, nobody can say whether
// it runs STP. What is not connected yet is not in the graph.
func (p *planner) loops(ctx context.Context, ps *PlannedStep, dpid ofproto.DPID) {
	if ps.Stage == stageManaged {
		ps.check("loops", CheckOK, "a managed switch has one tree for broadcasts")
		return
	}
	l, certain, found := circleOf(linksUp(p.snap), dpid, func(id ofproto.DPID, unknown bool) bool {
		stage := ps.Stage
		if id != dpid {
			stage = p.stageAfter(ctx, id)
		}
		stp, known := p.stp[id]
		return stage != "" && stage != stageManaged && !stp && (known || unknown)
	})
	switch {
	case !found:
		ps.check("loops", CheckOK, "no circle is left open by it")
	case certain:
		ps.check("loops", CheckFailed, "with %v there is a circle of switches that neither run STP nor are managed", l)
	default:
		ps.check("loops", CheckWarning, doubtfulCircle, l)
	}
}

// stageAfter is the stage of a switch when the steps so far are done; empty: it is not
// known.
func (p *planner) stageAfter(ctx context.Context, dpid ofproto.DPID) string {
	if s, ok := p.assume[dpid.String()]; ok {
		return s
	}
	sw, err := p.s.o.Network.Switch(ctx, dpid)
	if err != nil || !sw.Connected {
		return ""
	}
	return sw.Stage
}

// undoing is what is known while a run is taken back, so that no step of that closes a
// circle. Cables may have been put in since the checkpoint, and nobody hears the links
// of a bridge any more that was given back: links are those of when it began, too.
type undoing struct {
	s        *Service
	links    []topology.Link
	released map[topology.DPID]bool // bridges that forward by themselves since
	stp      map[ofproto.DPID]bool
}

func (s *Service) beginUndoing(ctx context.Context) (*undoing, error) {
	snap, err := s.o.Network.Topology(ctx)
	if err != nil {
		return nil, err
	}
	u := &undoing{s: s, links: linksUp(snap), released: map[topology.DPID]bool{}, stp: map[ofproto.DPID]bool{}}
	return u, u.lookForSTP(ctx)
}

// lookForSTP notes which bridges run STP, at the endpoints that are in use.
func (u *undoing) lookForSTP(ctx context.Context) error {
	known, err := u.s.o.Bridges.Bridges(ctx, "")
	if err != nil {
		return err
	}
	for _, v := range known {
		u.stp[parseDPID(v.DPID)] = v.STP || v.RSTP
	}
	return nil
}

// now returns the links as they are, and those of bridges that were given back, unless
// the port at a connected end says that the cable is gone.
func (u *undoing) now(ctx context.Context) ([]topology.Link, error) {
	snap, err := u.s.o.Network.Topology(ctx)
	if err != nil {
		return nil, err
	}
	links := linksUp(snap)
	for _, l := range u.links {
		lasts := u.released[l.A.DPID] || u.released[l.B.DPID]
		for _, at := range []topology.Place{l.A, l.B} {
			if port, ok := snap.Port(at); !u.released[at.DPID] && (!ok || !port.Up) {
				lasts = false
			}
		}
		if lasts && !slices.ContainsFunc(links, func(k topology.Link) bool { return k.A == l.A && k.B == l.B }) {
			links = append(links, l)
		}
	}
	return links, nil
}

// closes fails when a switch must not leave stage managed, because that would close a
// circle. note says that a circle is possible: it is not known of all in it whether they
// run STP, as it was not before the wave.
func (u *undoing) closes(ctx context.Context, sw Switch, stage string) (note string, err error) {
	if sw.Stage != stageManaged || stage == stageManaged {
		return "", nil // what it closes is closed already, or it closes nothing
	}
	links, err := u.now(ctx)
	if err != nil {
		return "", err
	}
	if err := u.lookForSTP(ctx); err != nil {
		return "", err
	}
	l, certain, found := circleOf(links, sw.DPID, func(id ofproto.DPID, unknown bool) bool {
		stp, known := u.stp[id]
		switch {
		case stp || !known && !unknown:
			return false
		case u.released[topology.DPID(id)] || id == sw.DPID:
			return true
		}
		other, err := u.s.o.Network.Switch(ctx, id)
		return err == nil && other.Connected && other.Stage != stageManaged
	})
	switch {
	case !found:
		return "", nil
	case certain:
		return "", fmt.Errorf("with %v it would close a circle of switches that neither run STP nor are managed: pull a cable of the circle", l)
	}
	return fmt.Sprintf(doubtfulCircle, l), nil
}
