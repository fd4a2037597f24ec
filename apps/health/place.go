package health

import (
	"net/netip"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// hostSeen has targets probed at once whose address has just turned up.
func (a *App) hostSeen(c *controller.Context, h topology.Host) {
	for _, ip := range h.IPs {
		for k := range a.byAddress[ip] {
			a.retry(c, k)
		}
	}
}

// retry has a target probed soon that had no place.
func (a *App) retry(c *controller.Context, k *check) {
	if k.unplaced && k.probe == 0 {
		a.placed(k)
		a.plan(k, a.turn(c.Now))
	}
}

// turn is when the first of the probes of one more target may begin.
func (a *App) turn(now time.Time) time.Time {
	at := later(a.firstFree, now)
	a.firstFree = at.Add(startEvery)
	return at
}

// displaced notes that a target has no place: nowhere at all, at a port that is down, or
// at a switch without a session, which is port 0 of that.
func (a *App) displaced(k *check, at topology.Place) {
	a.placed(k)
	k.unplaced, k.cutOff = true, at
	if at != (topology.Place{}) {
		addTo(a.cutOff, at, k)
	}
}

// placed forgets that a target had no place.
func (a *App) placed(k *check) {
	if k.cutOff != (topology.Place{}) {
		dropFrom(a.cutOff, k.cutOff, k)
	}
	k.unplaced, k.cutOff = false, topology.Place{}
}

// ask asks the network where an address is, if it has not been asked lately, and
// reports whether an answer may come that was not waited for yet.
func (a *App) ask(c *controller.Context, k *check) bool {
	if since := c.Now.Sub(a.asked[k.Address]); since < askEvery {
		return since < askWait && !k.awaits
	}
	if c.Now.Sub(a.askedAt) >= time.Second {
		a.askedAt, a.asks = c.Now, 0
	}
	if a.asks++; a.asks > askMost {
		return false
	}
	a.asked[k.Address] = c.Now
	mac := packet.MAC(controller.ProbeMAC)
	var frame []byte
	if k.Address.Is4() {
		frame = packet.AppendARPRequest(nil, mac, netip.IPv4Unspecified(), k.Address, packet.Tags(k.VLAN)...)
	} else {
		frame = packet.AppendNeighborSolicitation(nil, mac, controller.ProbeAddress6, k.Address, packet.Tags(k.VLAN)...)
	}
	snap := c.Graph.Snapshot()
	for sw := range c.Switches() {
		var out []ofproto.Action
		for _, port := range snap.EdgePorts(topology.DPID(sw.DPID)) {
			out = append(out, ofproto.OutputPort(ofproto.Port(port)))
		}
		if len(out) > 0 {
			c.PacketOut(sw.DPID, ofproto.PortController, frame, out...)
		}
	}
	return true
}

// locate finds the host of an address. why says that it has no place. A host whose
// frames are untagged may be behind an access port of the VLAN.
func locate(c *controller.Context, vlan uint16, addr netip.Addr) (h topology.Host, why string) {
	snap := c.Graph.Snapshot()
	h, ok := snap.HostByIP(vlan, addr)
	if !ok && vlan != 0 {
		h, ok = snap.HostByIP(0, addr)
	}
	if !ok {
		return h, "is not known in the network: does not answer ARP or neighbour discovery"
	}
	if p, ok := snap.Port(h.Place); !ok || !p.Up {
		return h, "port " + h.Place.String() + " is down"
	}
	return h, ""
}

// send sends an IP packet to a host of the network, out of the port where it is.
func (a *App) send(c *controller.Context, vlan uint16, dst netip.Addr, ip []byte) {
	h, why := locate(c, vlan, dst)
	if why != "" {
		a.counts.dropped++
		return
	}
	e := packet.Ethernet{Dst: packet.MAC(h.MAC), Src: packet.MAC(controller.ProbeMAC), Type: packet.EtherTypeIPv4}
	if dst.Is6() {
		e.Type = packet.EtherTypeIPv6
	}
	frame := packet.AppendEthernet(make([]byte, 0, len(ip)+18), e, packet.Tags(h.VLAN)...)
	c.PacketOut(ofproto.DPID(h.Place.DPID), ofproto.PortController, append(frame, ip...), ofproto.OutputPort(ofproto.Port(h.Place.Port)))
}
