package balancer

import (
	"maps"
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Serving returns the addresses of VIPs that some switch has and some member serves. A
// switch that lost its channel forwards by what it has: it counts for as long as the graph
// holds it, which is until it is known to have stopped, or was away for too long. One all of
// whose cables to others are dead, though it had some, counts as dead.
func (a *App) Serving(c *controller.Context) map[netip.Addr]bool {
	serving := map[netip.Addr]bool{}
	for _, v := range a.vips {
		if v.rec == nil || !v.rec.VIP.Enabled || serving[v.rec.VIP.Address] || !v.hasOwner() {
			continue
		}
		if a.servedSomewhere(c, v) {
			serving[v.rec.VIP.Address] = true
		}
	}
	return serving
}

func (a *App) servedSomewhere(c *controller.Context, v *vip) bool {
	for sw := range c.Switches() {
		if serves(sw) && a.acknowledged(v, sw.DPID) {
			return true
		}
	}
	snap := c.Graph.Snapshot()
	for dpid := range v.left {
		if _, ok := snap.Switch(topology.DPID(dpid)); ok {
			return true
		}
	}
	return false
}

// acknowledged says whether a switch has acknowledged the VIP. What it did last goes on
// to serve while it is brought up to date.
func (a *App) acknowledged(v *vip, dpid ofproto.DPID) bool {
	k, _ := a.ack(v, dpid)
	return k.generation > 0 && k.err == nil
}

// askAnew forgets what a switch said of a VIP, but for that it serves it: it goes on to
// until it says otherwise, or is gone.
func (a *App) askAnew(v *vip, dpid ofproto.DPID) {
	if a.acknowledged(v, dpid) {
		v.left[dpid] = true
	}
	delete(v.acks, dpid)
}

// leftNothing has a switch serve nothing of what it served before.
func (a *App) leftNothing(dpid ofproto.DPID) {
	for _, v := range a.vips {
		delete(v.left, dpid)
	}
}

// noteCable takes in that a cable works, or is dead at one of its ends.
func (a *App) noteCable(event any) {
	switch e := event.(type) {
	case topology.LinkUp:
		delete(a.dark, e.Link.A.DPID)
		delete(a.dark, e.Link.B.DPID)
	case topology.LinkDown:
		if e.Reason == topology.ReasonPort {
			a.severed = append(a.severed, e.Link)
		}
	}
}

// darken finds the switches whose last cable has died. One of them that has no channel,
// or loses it, is believed to be dead, too.
func (a *App) darken(c *controller.Context) {
	if len(a.severed) == 0 {
		return
	}
	snap := c.Graph.Snapshot()
	for _, l := range a.severed {
		for _, end := range []topology.Place{l.A, l.B} {
			if _, known := snap.Switch(end.DPID); !known || linked(snap, end.DPID) {
				continue
			}
			a.dark[end.DPID] = l.Other(end).DPID
			if c.Switch(ofproto.DPID(end.DPID)) == nil {
				a.leftNothing(ofproto.DPID(end.DPID))
				c.Notify("switch", map[string]any{"dpid": end.DPID.String(), "forwarding": false})
			}
		}
	}
	a.severed = nil
}

// lost takes in that a switch has left the graph. One that had its only cable to it has
// no cable now because of that.
func (a *App) lost(id topology.DPID) {
	maps.DeleteFunc(a.dark, func(one, other topology.DPID) bool { return one == id || other == id })
}

// linked says whether a switch has a cable to another, or a port on a segment.
func linked(snap *topology.Snapshot, id topology.DPID) bool {
	return slices.ContainsFunc(snap.Links(), func(l topology.Link) bool {
		return l.State == topology.StateUp && (l.A.DPID == id || l.B.DPID == id)
	}) || slices.ContainsFunc(snap.Segments(), func(s topology.Segment) bool {
		return slices.ContainsFunc(s.Ports, func(p topology.SegmentPort) bool { return p.DPID == id })
	})
}

// hasOwner says whether any slot of the VIP has a member to go to.
func (v *vip) hasOwner() bool {
	return slices.ContainsFunc(v.owners, func(owners []uint16) bool {
		return slices.ContainsFunc(owners, func(id uint16) bool { return id != NoMember })
	})
}
