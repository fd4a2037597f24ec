package balancer

import (
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// A packet that leaves by the port it came in by goes back into the segment that its
// client is in. It has the VIP's MAC as its source then, as a router's would have the
// router's: with the client's, a bridge there would take the client to be behind the
// switch, and send what is for it the wrong way. The VIP's MAC is there already: the
// packet came to it.
//
// No group knows the port that a packet came in by. On Open vSwitch the member's group
// puts the port that leads to the member into a register, and table out, which has one
// entry a port for all VIPs, compares the two.

// partOut is table out of a switch.
const partOut = "out"

// What all VIPs need of a switch beside their own parts is in App.refused, where the
// switch did not take it, at addresses that no VIP has.
var (
	refusedTracking = netip.Addr{}
	refusedOut      = netip.IPv4Unspecified()
)

// byOut says whether the entries of table out send packets to members.
func byOut(caps controller.Capabilities) bool { return caps.Resubmits && !caps.OneTable() }

// sendOut sends a packet for a VIP out of a port by way of table out.
func sendOut(vip ofproto.MAC, port ofproto.Port) []ofproto.Action {
	lower := uint32(vip[3])<<16 | uint32(vip[4])<<8 | uint32(vip[5])
	return []ofproto.Action{
		ofproto.SetField{Field: register(controller.RegMAC, lower)},
		ofproto.SetField{Field: register(controller.RegPort, uint32(port))},
		ofproto.Resubmit{InPort: ofproto.PortInPort, Table: controller.TableOut},
	}
}

// register is a register with a value, to match or to set.
func register(n int, value uint32) ofproto.Field {
	f := ofproto.NXMReg(n, value, ^uint32(0))
	f.Mask = nil
	return f
}

// compileOut is table out of a switch with these ports. It is there before there are VIPs,
// and of the class that comes first: no packet of a VIP finds the table empty.
func compileOut(ports []ofproto.PortDesc) flowtable.Part {
	flow := func(priority uint16, actions []ofproto.Action, match ...ofproto.Field) flowtable.Flow {
		return flowtable.Flow{Table: controller.TableOut, Priority: priority, Match: ofproto.NewMatch(match...), Instructions: applied(actions...)}
	}
	p := flowtable.Part{Flows: []flowtable.Flow{
		flow(controller.PrioOut, []ofproto.Action{ofproto.OutputReg{Src: ofproto.FieldNXMReg0 + controller.RegPort, Bits: labelPortBits}}),
	}}
	for _, port := range ports {
		if port.Port >= ofproto.PortMax {
			continue
		}
		p.Flows = append(p.Flows, flow(controller.PrioOutBack, []ofproto.Action{
			ofproto.SetField{Field: ofproto.EthSrc(controller.OwnMACs)},
			ofproto.Move{Src: ofproto.FieldNXMReg0 + controller.RegMAC, Dst: ofproto.FieldNXMEthSrc, Bits: 24},
			ofproto.OutputPort(ofproto.PortInPort),
		}, ofproto.InPort(port.Port), ofproto.NXMReg(controller.RegPort, uint32(port.Port), 1<<labelPortBits-1)))
	}
	return p
}

func compileOutOf(sw *controller.Switch) controller.Source {
	if !serves(sw) || !byOut(sw.Capabilities) {
		return controller.Source{}
	}
	ports := sw.PortList()
	return controller.Source{Build: func() flowtable.Part { return compileOut(ports) }}
}

// sendBack does without table out, for the ports that clients and members are known to
// share, what it does: to packets from there it has entries of its own, which send those
// for members there back. They choose by the bits of a selector, whatever the listener has
// for others. Without masks to choose by such packets go nowhere, for a switch does not
// send out of the port that a packet came in by unless it is told to by that name.
func (in vipInput) sendBack(p *flowtable.Part, l ListenerRecord, ch choice, byIndex map[uint16]MemberRecord) {
	owners := ch.owners
	if servingMembers(owners) == 1 {
		owners = owners[:1]
	}
	masks := in.addressMasks() || in.caps.PortMasks && !in.persistent(l)
	if ch.lookup || len(owners) > 1 && !masks || in.matches(l)*in.selectors(l, len(owners)) > maxEntries {
		return
	}
	for _, port := range in.shared {
		there := func(id uint16) bool {
			m, ok := byIndex[id]
			return ok && in.isBack(port, m)
		}
		if !slices.ContainsFunc(owners, there) {
			continue
		}
		of := map[uint16][]ofproto.Instruction{}
		for slot, id := range owners {
			m, ok := byIndex[id]
			if !ok || ch.method == MethodSelector && !there(id) {
				continue // the entry for all ports is right
			}
			if of[id] == nil {
				of[id] = applied(append(in.learn(), in.actionsFrom(port, l, m)...)...)
			}
			for _, match := range in.selector(l, slot, len(owners)) {
				in.admitAt(controller.PrioVIPBack, p, l, ch, of[id], append(match, ofproto.InPort(port))...)
			}
		}
	}
}

// isBack says whether a packet from a port goes to a member by the same port. In stage
// steer the switch's own forwarding may know another way to a member at another switch.
func (in vipInput) isBack(port ofproto.Port, m MemberRecord) bool {
	t := in.targets[m.Key.Addr()]
	return t.port == port && (t.attached || in.stage == controller.StageManaged)
}

// actionsFrom are the actions for a member on packets that came in by a port.
func (in vipInput) actionsFrom(port ofproto.Port, l ListenerRecord, m MemberRecord) []ofproto.Action {
	as := in.actions(l, m, in.caps.Normal)
	if len(as) == 0 || !in.isBack(port, m) {
		return as
	}
	back := []ofproto.Action{ofproto.SetField{Field: ofproto.EthSrc(in.rec.VIP.MAC)}}
	for _, a := range as {
		switch a.(type) {
		case ofproto.SetField, ofproto.PopVLAN:
			back = append(back, a)
		}
	}
	return append(back, ofproto.OutputPort(ofproto.PortInPort))
}

// sharedPorts returns the ports of a switch that hosts may be behind beside a member: those
// on segments, towards switches that serve nothing, and with several hosts.
func (a *App) sharedPorts(c *controller.Context, sw *controller.Switch) (ports []ofproto.Port) {
	if byOut(sw.Capabilities) {
		return nil
	}
	for _, o := range a.regions(c).Outlets(topology.DPID(sw.DPID)) {
		if o.Others > 0 || o.Legacy || len(a.guests[topology.Place{DPID: topology.DPID(sw.DPID), Port: o.Port}]) > 1 {
			ports = append(ports, ofproto.Port(o.Port))
		}
	}
	return ports
}

// share has the VIPs compiled again for a switch whose shared ports have become others.
func (a *App) share(c *controller.Context, sw *controller.Switch) {
	now := a.sharedPorts(c, sw)
	if slices.Equal(now, a.shared[sw.DPID]) {
		return
	}
	a.shared[sw.DPID] = now
	for _, v := range a.vips {
		if v.rec != nil && serves(sw) {
			a.dirtyOn(c, sw.DPID, v)
		}
	}
}
