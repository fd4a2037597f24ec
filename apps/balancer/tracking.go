package balancer

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Parts of mode conntrack: what all VIPs need, and one a member.
const (
	partTracking = "tracking"
	partMember   = "member/"
)

// indexTracked notes the members of a VIP in mode conntrack, or forgets them.
func (a *App) indexTracked(v *vip, note func(index map[netip.Addr]map[string]bool, addr netip.Addr, name string)) {
	if v.rec == nil || v.rec.VIP.Mode != ModeConntrack {
		return
	}
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			note(a.tracked, m.Key.Addr(), v.name)
		}
	}
}

// dirtyTracked has the parts compiled again that depend on a record in mode conntrack.
func (a *App) dirtyTracked(c *controller.Context, rec *Record) {
	if rec == nil || rec.VIP.Mode != ModeConntrack {
		return
	}
	for sw := range c.Switches() {
		if !serves(sw) {
			continue
		}
		c.Dirty(sw.DPID, partTracking)
		for _, l := range rec.Listeners {
			for _, m := range l.Members {
				c.Dirty(sw.DPID, partMember+m.Key.Addr().String())
			}
		}
	}
}

// trackedParts are the names of the parts of mode conntrack.
func (a *App) trackedParts() []string {
	if len(a.tracked) == 0 {
		return nil
	}
	parts := []string{partTracking}
	for addr := range a.tracked {
		parts = append(parts, partMember+addr.String())
	}
	return parts
}

func (a *App) compileTracking(sw *controller.Switch) controller.Source {
	if len(a.tracked) == 0 || !serves(sw) || !sw.Capabilities.ConnTrack {
		return controller.Source{}
	}
	return controller.Source{Class: flowtable.ClassService, Build: compileTracking}
}

func (a *App) compileTrackedMember(c *controller.Context, sw *controller.Switch, addr netip.Addr) controller.Source {
	if len(a.tracked[addr]) == 0 || !serves(sw) || !sw.Capabilities.ConnTrack {
		return controller.Source{}
	}
	var vips []vipInput
	for _, name := range slices.Sorted(maps.Keys(a.tracked[addr])) {
		if v := a.vips[name]; v.rec.VIP.Enabled {
			vips = append(vips, a.input(c, sw, v))
		}
	}
	return controller.Source{Class: flowtable.ClassService, Build: func() flowtable.Part { return compileTrackedMember(addr, vips) }}
}

// inMode says whether VIPs of an address are in a mode.
func (a *App) inMode(addr netip.Addr, mode Mode) bool {
	for name := range a.byAddress[addr] {
		if v := a.vips[name].rec.VIP; v.Enabled && v.Mode == mode {
			return true
		}
	}
	return false
}

// track corrects how a managed switch reaches a member that is where several switches
// are, for mode conntrack: the switch that answers for VIPs there (voice.go) is the one
// that what the member sends to the VIP comes to. To that one it is attached, and to no
// other, wherever it was seen.
func (a *App) track(c *controller.Context, dpid topology.DPID, vip netip.Addr, at *location, t *target) {
	regions := a.regions(c)
	around := regions.Around(at.place)
	if len(around) < 2 {
		return
	}
	t.attached = false
	for _, o := range regions.Outlets(dpid) {
		if slices.Contains(around, topology.Place{DPID: dpid, Port: o.Port}) {
			t.hop, t.attached = hop{port: ofproto.Port(o.Port)}, !a.silenced(o, vip)
			return
		}
	}
}

// planCut asks to be woken when the next connections of a VIP's members are cut.
func (a *App) planCut(c *controller.Context, v *vip) {
	delete(a.cuts, v.name)
	if next := v.rec.nextCut(c.Now); !next.IsZero() {
		a.cuts[v.name] = next
		c.WakeAt(next)
	}
}

// cut has the VIPs compiled again whose members have drained for as long as they may.
func (a *App) cut(c *controller.Context) {
	var due []string
	var next time.Time
	for name, at := range a.cuts {
		switch {
		case !at.After(c.Now):
			due = append(due, name)
		case next.IsZero() || at.Before(next):
			next = at
		}
	}
	if !next.IsZero() {
		c.WakeAt(next)
	}
	for _, name := range due {
		v := a.vips[name]
		if v == nil {
			delete(a.cuts, name)
			continue
		}
		a.planCut(c, v)
		a.dirty(c, v)
		v.forget(v.rec, c.Now)
		a.settled(c, v)
	}
}

// Virtual says whether an address is a VIP's, which no host has for its own. It is to be
// called on the core loop.
func (a *App) Virtual(addr netip.Addr) bool { return len(a.byAddress[addr]) > 0 }

// refusesTracking is why a switch did not take what a record in mode conntrack needs
// besides its own part.
func (a *App) refusesTracking(rec *Record, dpid ofproto.DPID) error {
	if err := a.refused[refusedTracking][dpid]; err != nil {
		return err
	}
	for _, l := range rec.Listeners {
		for _, m := range l.Members {
			if err := a.refused[m.Key.Addr()][dpid]; err != nil {
				return err
			}
		}
	}
	return nil
}
