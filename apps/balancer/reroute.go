package balancer

import (
	"maps"
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// rerouted has those VIPs compiled again, in those switches, of which a member is
// reached by another way than before.
func (a *App) rerouted(c *controller.Context) {
	snap := c.Graph.Snapshot()
	attached := map[topology.DPID][]netip.Addr{}
	for place, addrs := range a.at {
		for addr := range addrs {
			attached[place.DPID] = append(attached[place.DPID], addr)
		}
	}
	maps.DeleteFunc(a.hops, func(d ofproto.DPID, _ map[topology.DPID]hop) bool { return c.Switch(d) == nil })
	for sw := range c.Switches() {
		if !serves(sw) {
			continue
		}
		hops := a.hops[sw.DPID]
		for to, was := range hops {
			now := hopTo(snap, topology.DPID(sw.DPID), to)
			if now == was {
				continue
			}
			hops[to] = now
			for _, addr := range attached[to] {
				for name := range a.byMember[addr] {
					a.dirtyOn(c, sw.DPID, a.vips[name])
				}
			}
		}
	}
}

// dirtyOn has a VIP compiled again for one switch.
func (a *App) dirtyOn(c *controller.Context, dpid ofproto.DPID, v *vip) {
	a.askAnew(v, dpid)
	if !v.pending {
		v.pending, v.awaits = true, dpid
	}
	c.Dirty(dpid, partVIP+v.name)
	if v.rec.VIP.Mode != ModeConntrack {
		return
	}
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			c.Dirty(dpid, partMember+m.Key.Addr().String())
		}
	}
}

// dirtyAlone has the VIPs compiled again for which it makes a difference how many
// switches serve VIPs.
func (a *App) dirtyAlone(c *controller.Context) {
	if len(a.tracked) == 0 {
		return
	}
	steered := false
	for sw := range c.Switches() {
		steered = steered || sw.Stage == controller.StageSteer
	}
	if !steered {
		return
	}
	a.dirtyAllTracked(c)
}

// dirtyAllTracked has the VIPs in mode conntrack compiled again.
func (a *App) dirtyAllTracked(c *controller.Context) {
	seen := map[string]bool{}
	for _, names := range a.tracked {
		for name := range names {
			if !seen[name] {
				seen[name] = true
				a.dirty(c, a.vips[name])
			}
		}
	}
}

// locateAt brings up to date what is known of members that a switch has, and of those
// that are nowhere.
func (a *App) locateAt(c *controller.Context, dpid topology.DPID) {
	a.relocate(c, func(yield func(netip.Addr) bool) {
		for addr, l := range a.members {
			if (!l.known || l.place.DPID == dpid) && !yield(addr) {
				return
			}
		}
	})
}
