package balancer

import (
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// Whoever asks for a VIP's address is to hear one answer, and bridges on the way are to
// see the VIP's MAC at one port. What is asked on a legacy segment, or behind a switch
// that does not serve VIPs, comes to all the switches that have a port there
// (topology.Region). One of them answers and announces: the first, by datapath id and
// port, that serves the VIP. The others are quiet at their ports. Elsewhere the first
// switch on the way answers, and the request goes no further.

// voices is who speaks where, as of one state of the network.
type voices struct {
	regions *topology.Regions
	fabric  uint64 // topology.Snapshot.FabricVersion
	stages  uint64 // App.stages
}

// serving says whether a switch serves VIPs as far as is known: one that is not
// connected goes on with what it did, and one that was not yet seen is taken to serve.
func (a *App) serving(dpid topology.DPID) bool { return !a.observing[dpid] }

// noteStage keeps whether a switch serves VIPs.
func (a *App) noteStage(c *controller.Context, dpid ofproto.DPID) {
	sw := c.Switch(dpid)
	if sw == nil || a.observing[topology.DPID(dpid)] == !serves(sw) {
		return
	}
	a.stages++
	if serves(sw) {
		delete(a.observing, topology.DPID(dpid))
	} else {
		a.observing[topology.DPID(dpid)] = true
	}
}

// regions returns the regions of the network as it is now.
func (a *App) regions(c *controller.Context) *topology.Regions {
	snap := c.Graph.Snapshot()
	if v := &a.voices; v.regions == nil || v.fabric != snap.FabricVersion() || v.stages != a.stages {
		*v = voices{snap.Regions(a.serving), snap.FabricVersion(), a.stages}
	}
	return a.voices.regions
}

// answers says whether a switch answers for an address, as far as is known. One that lost
// its channel does where it had the VIP then, and needs nobody to make its answers.
func (a *App) answers(dpid topology.DPID, addr netip.Addr) bool {
	id := ofproto.DPID(dpid)
	away := a.away[id]
	if away && !answersAlone(a.abilities[id], addr) {
		return false
	}
	for name := range a.byAddress[addr] {
		if v := a.vips[name]; v.rec.VIP.Enabled && !v.placed[id].none && (!away || v.left[id]) {
			return true
		}
	}
	return false
}

// answersAlone says whether a switch answers for an address without the controller.
func answersAlone(caps controller.Capabilities, addr netip.Addr) bool {
	if addr.Is6() {
		return answersND(caps)
	}
	return caps.Nicira
}

// setAway takes in that a switch has lost its channel or is back, and has others speak,
// or be quiet, where it cannot go on without.
func (a *App) setAway(c *controller.Context, dpid ofproto.DPID, away bool) {
	beside := a.beside(c, dpid)
	var answered map[netip.Addr]bool
	if len(beside) > 0 {
		answered = make(map[netip.Addr]bool, len(a.byAddress))
		for addr := range a.byAddress {
			answered[addr] = a.answers(topology.DPID(dpid), addr)
		}
	}
	if sw := c.Switch(dpid); sw != nil {
		a.abilities[dpid] = sw.Capabilities
	}
	a.away[dpid] = away
	for addr, did := range answered {
		if a.answers(topology.DPID(dpid), addr) != did {
			for _, id := range beside {
				c.Dirty(id, partAddress+addr.String())
			}
		}
	}
}

// silenced says whether another port speaks for an address in the region of an outlet, or
// nothing is to be said there.
func (a *App) silenced(o topology.Outlet, addr netip.Addr) bool {
	return o.Held || slices.ContainsFunc(o.Before, func(d topology.DPID) bool { return a.answers(d, addr) })
}

// quietPorts returns the ports at which a switch does not answer for an address.
func (a *App) quietPorts(c *controller.Context, dpid ofproto.DPID, addr netip.Addr) (ports []ofproto.Port) {
	for _, o := range a.regions(c).Outlets(topology.DPID(dpid)) {
		if a.silenced(o, addr) {
			ports = append(ports, ofproto.Port(o.Port))
		}
	}
	return ports
}

// compileQuiet drops what asks for an address of VIPs at ports where another answers, and
// what that announces. A switch that passed it on would have it come by two ways.
func compileQuiet(addr netip.Addr, vlan uint16, ports []ofproto.Port) (flows []flowtable.Flow) {
	drop := func(match ...ofproto.Field) {
		flows = append(flows, flowtable.Flow{
			Table: controller.TableIngress, Priority: controller.PrioVIPQuiet, Match: ofproto.NewMatch(match...),
		})
	}
	for _, port := range ports {
		in := ofproto.InPort(port)
		if !addr.Is6() {
			drop(in, ofproto.EthType(packet.EtherTypeARP), inVLAN(vlan), ofproto.ARPOp(packet.ARPRequest), ofproto.ARPTPA(netip.PrefixFrom(addr, 32)))
			continue
		}
		for _, kind := range []uint8{packet.ICMPv6NeighborSolicitation, packet.ICMPv6NeighborAdvertisement} {
			drop(append(network(addr, vlan), in, ofproto.IPProto(packet.ProtoICMPv6), ofproto.ICMPv6Type(kind), ofproto.IPv6NDTarget(addr))...)
		}
	}
	return flows
}

// listen has the voices looked at again soon: the network may have become another.
func (a *App) listen(c *controller.Context) {
	a.listening = true
	c.WakeAt(c.Now.Add(resolveSoon))
}

// hear has the addresses compiled again in switches that have become quiet at other
// ports, and announced where a switch speaks that did not.
func (a *App) hear(c *controller.Context) {
	if !a.listening {
		return
	}
	a.listening = false
	a.darken(c)
	a.bypassDue(c)
	regions := a.regions(c)
	joined := false
	for sw := range c.Switches() {
		if !serves(sw) {
			delete(a.outlets, sw.DPID)
			continue
		}
		a.share(c, sw)
		now := regions.Outlets(topology.DPID(sw.DPID))
		was, known := a.outlets[sw.DPID]
		a.outlets[sw.DPID] = now
		joined = joined || !slices.EqualFunc(shared(now), shared(was), sameSpeakers)
		if !slices.EqualFunc(quiet(now), quiet(was), sameSpeakers) {
			for addr := range a.byAddress {
				c.Dirty(sw.DPID, partAddress+addr.String())
			}
		}
		if known { // else it announces what it acknowledges
			a.tellOutlets(c, sw.DPID, was, now)
		}
	}
	if joined {
		a.dirtyAllTracked(c)
	}
}

// sameSpeakers says whether the same switches come first at two outlets of one port.
func sameSpeakers(x, y topology.Outlet) bool {
	return x.Port == y.Port && x.Held == y.Held && slices.Equal(x.Before, y.Before)
}

// shared returns the outlets into regions that have other ports, too.
func shared(list []topology.Outlet) (some []topology.Outlet) {
	for _, o := range list {
		if o.Others > 0 {
			some = append(some, o)
		}
	}
	return some
}

// quiet returns the outlets where another switch may speak.
func quiet(list []topology.Outlet) (some []topology.Outlet) {
	for _, o := range list {
		if len(o.Before) > 0 {
			some = append(some, o)
		}
	}
	return some
}

// dirtyBeside has the address of a VIP compiled again for the switches that speak, or
// not, by whether another does, and in mode conntrack the VIP.
func (a *App) dirtyBeside(c *controller.Context, dpid ofproto.DPID, v *vip) {
	for _, id := range a.beside(c, dpid) {
		c.Dirty(id, partAddress+v.rec.VIP.Address.String())
		if v.rec.VIP.Mode == ModeConntrack {
			a.dirtyOn(c, id, v)
		}
	}
}

// beside returns the other switches that speak somewhere, or not, by whether this one does.
func (a *App) beside(c *controller.Context, dpid ofproto.DPID) (beside []ofproto.DPID) {
	for sw := range c.Switches() {
		if sw.DPID != dpid && serves(sw) && slices.ContainsFunc(a.regions(c).Outlets(topology.DPID(sw.DPID)), func(o topology.Outlet) bool {
			return slices.Contains(o.Before, topology.DPID(dpid))
		}) {
			beside = append(beside, sw.DPID)
		}
	}
	return beside
}
