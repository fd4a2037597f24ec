package forwarding

import (
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// When the broadcast tree changes, no two switches change at the same moment. Where one
// opened a port for floods before another has closed its own, floods would go round for
// as long as the other takes. So ports open when those that close are closed.

// closeWithin is how long a switch may take to close its ports before others open theirs all
// the same: a switch that does not answer must not cut others off for good.
const closeWithin = 500 * time.Millisecond

// trunks are the ports of a switch that pass floods on to other switches.
type trunks struct {
	open map[topology.Port]bool // by what the switch has acknowledged
	next map[topology.Port]bool // by what it was assigned last
	tag  uint64                 // of that
}

// trunksOf returns the ports of a switch that the tree has as trunks.
func trunksOf(snap *topology.Snapshot, dpid ofproto.DPID) map[topology.Port]bool {
	ports := map[topology.Port]bool{}
	for _, p := range snap.Tree().Ports(topology.DPID(dpid)) {
		ports[p] = true
	}
	for _, p := range snap.EdgePorts(topology.DPID(dpid)) {
		if snap.IsOnSegment(topology.Place{DPID: topology.DPID(dpid), Port: p}) {
			ports[p] = true
		}
	}
	return ports
}

// staged takes in that a switch is in another stage. One that forwarded on its own passed
// floods on at all its ports.
func (a *App) staged(c *controller.Context, sw *controller.Switch) {
	a.reviewed = 0
	if sw == nil || sw.Stage != controller.StageManaged {
		return
	}
	snap := c.Graph.Snapshot()
	t := &trunks{open: map[topology.Port]bool{}}
	here, _ := snap.Switch(topology.DPID(sw.DPID))
	for _, p := range here.Ports {
		at := topology.Place{DPID: here.DPID, Port: p.Port}
		if p.Up && (snap.IsLink(at) || snap.IsOnSegment(at)) {
			t.open[p.Port] = true
		}
	}
	a.trunks[sw.DPID] = t
}

// assign notes what trunks a switch is about to get, and returns those that it does not get
// yet, and the tag of the part.
func (a *App) assign(c *controller.Context, snap *topology.Snapshot, dpid ofproto.DPID) (withheld map[topology.Port]bool, tag uint64) {
	want := trunksOf(snap, dpid)
	t := a.trunks[dpid]
	if t == nil { // it may have them since before the controller was started
		t = &trunks{open: want}
		a.trunks[dpid] = t
	}
	a.review(c, snap)
	t.next, withheld = map[topology.Port]bool{}, map[topology.Port]bool{}
	for p := range want {
		if a.closing && !t.open[p] {
			withheld[p] = true
		} else {
			t.next[p] = true
		}
	}
	if len(withheld) > 0 {
		a.withheld[dpid] = true
	}
	t.tag++
	return withheld, t.tag
}

// review finds out whether a switch has trunks open that the tree does not have.
func (a *App) review(c *controller.Context, snap *topology.Snapshot) {
	if a.reviewed == snap.FabricVersion() {
		return
	}
	a.reviewed = snap.FabricVersion()
	was := a.closing
	a.closing = false
	for dpid, t := range a.trunks {
		if sw := c.Switch(dpid); sw == nil || sw.Stage != controller.StageManaged {
			delete(a.trunks, dpid) // a headless one is not waited for
			continue
		}
		want := trunksOf(snap, dpid)
		for p := range t.open {
			state, ok := snap.Port(topology.Place{DPID: topology.DPID(dpid), Port: p})
			a.closing = a.closing || !want[p] && ok && state.Up
		}
	}
	if a.closing && !was {
		a.closeBy = c.Now.Add(closeWithin)
	}
	if a.closing || was {
		c.WakeAt(c.Now) // nothing is made dirty while it is compiled
	}
}

// assigned takes in that a switch has acknowledged its base.
func (a *App) assigned(c *controller.Context, e controller.Applied) {
	t := a.trunks[e.DPID]
	if t == nil || e.Err != nil || e.Tag != t.tag {
		return
	}
	t.open = t.next
	if a.closing {
		a.reviewed = 0
		a.review(c, c.Graph.Snapshot())
		a.open(c)
	}
}

// open has switches get the trunks that were withheld, when the others are closed or have
// taken too long. Until then it has those others close.
func (a *App) open(c *controller.Context) {
	if a.closing && a.closeBy.After(c.Now) {
		snap := c.Graph.Snapshot()
		for dpid, t := range a.trunks {
			want := trunksOf(snap, dpid)
			for p := range t.next {
				if !want[p] {
					c.Dirty(dpid, partBase)
					break
				}
			}
		}
		c.WakeAt(a.closeBy)
		return
	}
	a.closing = false
	for dpid := range a.withheld {
		c.Dirty(dpid, partBase)
	}
	clear(a.withheld)
}
