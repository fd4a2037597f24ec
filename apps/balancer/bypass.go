package balancer

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// In mode nat a switch gives the replies of a member the VIP's address. A client that is
// in the member's own region (topology.Regions) gets them past all switches, with the
// member's address, and has no use for them. Such clients are told of; a member that can
// have no others is not used.

// bypassEvery is how often it is looked for at most.
const bypassEvery = time.Second

// bypass is who gets the replies of a member past the switches.
type bypass struct {
	clients int    // hosts that are no members
	one     string // of them
	all     bool   // no client can be anywhere else
}

// reason says what is wrong, and what to do; empty where nothing is.
func (b bypass) reason(member netip.Addr) string {
	const remedy = "does not cross an OpenFlow switch: use dsr or conntrack"
	switch {
	case b.all:
		return fmt.Sprintf("reply of %s %s", member, remedy)
	case b.clients == 1:
		return fmt.Sprintf("reply of %s to %s %s", member, b.one, remedy)
	case b.clients > 1:
		return fmt.Sprintf("reply of %s to %s and %d more of its segment %s", member, b.one, b.clients-1, remedy)
	}
	return ""
}

// seeGuest keeps where hosts are.
func (a *App) seeGuest(c *controller.Context, h topology.Host, from topology.Place) {
	if from != (topology.Place{}) {
		remove(a.guests, from, h.Key())
	}
	add(a.guests, h.Place, h.Key())
	a.guestsAt(c, from, h.Place)
	a.bypassDue(c)
}

func (a *App) loseGuest(c *controller.Context, h topology.Host) {
	remove(a.guests, h.Place, h.Key())
	a.guestsAt(c, h.Place)
	a.bypassDue(c)
}

// guestsAt follows places where hosts have come or gone.
func (a *App) guestsAt(c *controller.Context, places ...topology.Place) {
	for _, p := range places {
		if sw := c.Switch(ofproto.DPID(p.DPID)); sw != nil && !byOut(sw.Capabilities) {
			a.share(c, sw)
		}
	}
}

// bypassDue has bypasses looked for.
func (a *App) bypassDue(c *controller.Context) {
	if !a.bypassing {
		a.bypassing = true
		c.WakeAt(later(a.bypassAt.Add(bypassEvery), c.Now.Add(resolveSoon)))
	}
}

// findBypasses looks for clients that get replies past the switches.
func (a *App) findBypasses(c *controller.Context) {
	if !a.bypassing {
		return
	}
	if next := a.bypassAt.Add(bypassEvery); next.After(c.Now) {
		c.WakeAt(next)
		return
	}
	a.bypassing, a.bypassAt = false, c.Now
	type where struct {
		first         topology.Place // of the region
		network, vlan uint16
	}
	found := map[where]bypass{}
	var changed []netip.Addr
	for addr, l := range a.members {
		var now bypass
		around := a.regions(c).Around(l.place)
		if l.known && len(around) > 0 && a.inModeNAT(addr) {
			at := where{around[0], l.network, l.vlan}
			b, known := found[at]
			if !known {
				b = a.bypassAround(c, around, l)
				found[at] = b
			}
			now = b
		}
		was := a.bypasses[addr]
		if now == was {
			continue
		}
		if now == (bypass{}) {
			delete(a.bypasses, addr)
		} else {
			a.bypasses[addr] = now
		}
		if now.all != was.all {
			changed = append(changed, addr)
		}
	}
	for addr := range a.bypasses {
		if a.members[addr] == nil {
			delete(a.bypasses, addr)
		}
	}
	for _, addr := range changed {
		a.moved(c, addr)
	}
}

// inModeNAT says whether a VIP in mode nat has a member of that address.
func (a *App) inModeNAT(addr netip.Addr) bool {
	for name := range a.byMember[addr] {
		if a.vips[name].rec.VIP.Mode == ModeNAT {
			return true
		}
	}
	return false
}

// bypassAround looks for those that get the replies of members in a region past the
// switches. Members of VIPs are not taken for clients.
func (a *App) bypassAround(c *controller.Context, around []topology.Place, l *location) (b bypass) {
	inside := map[topology.Place]bool{}
	snap := c.Graph.Snapshot()
	var first topology.HostKey
	for _, p := range around {
		inside[p] = true
		for key := range a.guests[p] {
			if a.addressOf[key] != nil || key.VLAN != l.network && key.VLAN != l.vlan {
				continue
			}
			if b.clients++; b.clients == 1 || key.Compare(first) < 0 {
				first = key
			}
		}
	}
	if b.clients == 0 {
		return b
	}
	b.one = first.String()
	if h, ok := snap.Host(first.MAC, first.VLAN); ok && len(h.IPs) > 0 {
		b.one = h.IPs[0].String()
	}
	b.all = true
	for p := range a.regions(c).Places() {
		if !inside[p] && !a.membersOnly(p) {
			b.all = false
			break
		}
	}
	return b
}

// membersOnly says whether hosts are known at a place, all of them members.
func (a *App) membersOnly(p topology.Place) bool {
	for key := range a.guests[p] {
		if a.addressOf[key] == nil {
			return false
		}
	}
	return len(a.guests[p]) > 0
}

// bypassedAt returns why replies of members that a switch has a port beside go past it.
func (a *App) bypassedAt(c *controller.Context, v *vip, dpid ofproto.DPID) string {
	if v.rec.VIP.Mode != ModeNAT || len(a.bypasses) == 0 {
		return ""
	}
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			b, ok := a.bypasses[m.Key.Addr()]
			if !ok {
				continue
			}
			for _, p := range a.regions(c).Around(a.members[m.Key.Addr()].place) {
				if p.DPID == topology.DPID(dpid) {
					return b.reason(m.Key.Addr())
				}
			}
		}
	}
	return ""
}
