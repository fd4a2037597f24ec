package balancer

import (
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// The database of an Open vSwitch may say which MAC is attached to a member's interface.
// ARP and neighbour advertisements that give the member's address another MAC are kept
// from other hosts then; the MAC itself is kept at its port in stage managed (package
// forwarding). Packets are not: a router may well bring them from elsewhere.

// partBound is the part of a member whose MAC a database has, followed by its address.
const partBound = "bound/"

// bind keeps what a database says is the MAC of a member; zero: it says nothing.
func (a *App) bind(c *controller.Context, addr netip.Addr, mac ofproto.MAC) {
	if l := a.members[addr]; l.bound != mac {
		l.bound = mac
		a.dirtyBound(c, addr)
	}
}

func (a *App) dirtyBound(c *controller.Context, addr netip.Addr) {
	for sw := range c.Switches() {
		if serves(sw) {
			c.Dirty(sw.DPID, partBound+addr.String())
		}
	}
}

func (a *App) boundParts() (parts []string) {
	for addr, l := range a.members {
		if l.bound != (ofproto.MAC{}) {
			parts = append(parts, partBound+addr.String())
		}
	}
	return parts
}

func (a *App) compileBoundOf(sw *controller.Switch, addr netip.Addr) controller.Source {
	l := a.members[addr]
	if l == nil || l.bound == (ofproto.MAC{}) || !serves(sw) || sw.Capabilities.OneTable() {
		return controller.Source{}
	}
	mac, vlan, stage := l.bound, l.network, sw.Stage
	return controller.Source{Class: flowtable.ClassHost, Build: func() flowtable.Part { return compileBound(addr, vlan, mac, stage) }}
}

// compileBound has what claims a member's address for another MAC go to the controller
// alone, who looks into it, and what is the member's own go on as any other packet.
func compileBound(addr netip.Addr, vlan uint16, mac ofproto.MAC, stage controller.Stage) flowtable.Part {
	next := controller.TableVIP
	if stage == controller.StageManaged {
		next = controller.TableSource
	}
	claim, own := claimOf(addr, vlan, mac)
	punt := applied(ofproto.ToController())
	return flowtable.Part{Class: flowtable.ClassHost, Flows: []flowtable.Flow{
		{Table: controller.TableIngress, Priority: controller.PrioMemberOwn, Match: ofproto.NewMatch(own...), Instructions: append(punt[:1:1], ofproto.GotoTable{Table: next})},
		{Table: controller.TableIngress, Priority: controller.PrioMemberClaim, Match: ofproto.NewMatch(claim...), Instructions: punt},
	}}
}
