package balancer

import (
	"iter"
	"maps"
	"net/netip"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

const (
	// resolveTick is how often members are looked at.
	resolveTick = 500 * time.Millisecond
	// resolveSoon is how long a new member waits, so that many that come together
	// are looked at once.
	resolveSoon = 5 * time.Millisecond
	// refreshEvery is how often a known member is asked for again, so that it does
	// not age out of the network's host table.
	refreshEvery = 60 * time.Second
	// unseenEvery and lostEvery are the longest times between two requests for a member
	// that was never seen, and for one that was: it is more likely to be back.
	unseenEvery = 30 * time.Second
	lostEvery   = 5 * time.Second
	// silentAfter is how long a known member may leave requests unanswered before it
	// may age like any other host.
	silentAfter = 3 * refreshEvery
	// unresolvedAfter is how many ARP requests without an answer make a member down
	// rather than unknown.
	unresolvedAfter = 3
	// resolveMost bounds the members asked for in one tick: each request for an
	// unknown one is flooded.
	resolveMost = 200
	// resolvingFor is how long a new VIP counts as pending for the sake of members
	// that have not answered yet.
	resolvingFor = 2 * time.Second
)

// locate brings what is known of the members of a VIP up to date with the graph.
func (a *App) locate(c *controller.Context, v *vip) {
	if v.rec == nil {
		return
	}
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			a.locateAddress(c, m.Key.Addr())
		}
	}
}

// locateAll does so for all members, and has those VIPs compiled again of which
// something changed.
func (a *App) locateAll(c *controller.Context) {
	a.relocate(c, maps.Keys(a.members))
}

// relocate does so for some. Slots get new owners only when all of them are
// located: on the way there members would lend out slots that they have.
func (a *App) relocate(c *controller.Context, addrs iter.Seq[netip.Addr]) {
	var changed []netip.Addr
	for addr := range addrs {
		if a.locateAddress(c, addr) {
			changed = append(changed, addr)
		}
	}
	for _, addr := range changed {
		a.moved(c, addr)
	}
}

// locateAddress looks a member up in the graph and reports whether it is
// elsewhere than it was.
func (a *App) locateAddress(c *controller.Context, addr netip.Addr) bool {
	l := a.members[addr]
	snap := c.Graph.Snapshot()
	h, ok := snap.HostByIP(0, addr)
	reason := "does not answer ARP"
	if ok {
		if p, up := snap.Port(h.Place); !up || !p.Up {
			ok, reason = false, "port "+h.Place.String()+" is down"
		}
	}
	mac := ofproto.MAC(h.MAC)
	if ok == l.known && (!ok || mac == l.mac && h.Place == l.place) {
		if !ok && l.reason == "" {
			l.reason = reason
		}
		return false
	}
	if l.known {
		a.dropMAC(c, l.mac, addr)
	}
	remove(a.at, l.place, addr)
	*l = location{known: ok, lost: !ok, since: c.Now, asked: l.asked, place: h.Place}
	if h.Place.DPID != 0 {
		add(a.at, h.Place, addr)
	}
	if ok {
		l.mac = mac
		a.noteMAC(c, mac, addr)
	} else {
		l.reason = reason
		c.WakeAt(c.Now.Add(resolveSoon))
	}
	return true
}

// moved has the VIPs of a member compiled again, and tells watchers.
func (a *App) moved(c *controller.Context, addr netip.Addr) {
	l := a.members[addr]
	for name := range a.byMember[addr] {
		v := a.vips[name]
		a.reown(c, v)
		a.dirty(c, v)
		a.settled(c, v)
	}
	c.Notify("member", map[string]any{"address": addr, "up": l.known, "place": l.place, "reason": l.reason})
}

// hostEvent follows a host that was added, moved, changed or lost.
func (a *App) hostEvent(c *controller.Context, h topology.Host) {
	seen := map[netip.Addr]bool{}
	for addr := range a.addressOf[ofproto.MAC(h.MAC)] {
		seen[addr] = true
	}
	for _, addr := range h.IPs {
		if a.members[addr] != nil {
			seen[addr] = true
		}
	}
	a.relocate(c, maps.Keys(seen))
}

// resolving says whether a VIP is young and has members that may yet answer.
func (a *App) resolving(c *controller.Context, v *vip) bool {
	if c.Now.Sub(v.since) >= resolvingFor {
		return false
	}
	for i, l := range v.rec.Listeners {
		for j, m := range l.Members {
			if at := a.members[m.Key.Addr()]; !at.known && v.rec.VIP.Listeners[i].Pool.Members[j].SlotWeight() > 0 {
				return true
			}
		}
	}
	return false
}

// askAgain makes every unknown member due at once: something was plugged in.
func (a *App) askAgain(c *controller.Context) {
	for _, l := range a.members {
		if !l.known {
			l.asked, l.asks = time.Time{}, 0
		}
	}
	c.WakeAt(c.Now.Add(resolveSoon))
}

// askSooner has the time between two requests for an unknown member grow from the
// beginning again: a switch that it may be at has connected, and others may follow.
func (a *App) askSooner(c *controller.Context) {
	for _, l := range a.members {
		if !l.known {
			l.asks = 0
		}
	}
	c.WakeAt(c.Now.Add(resolveSoon))
}

// resolve sends the ARP requests that are due. A member whose place is known is
// asked there; another wherever hosts may be.
func (a *App) resolve(c *controller.Context) {
	c.WakeAt(c.Now.Add(resolveTick))
	left := resolveMost
	for addr, l := range a.members {
		due := l.asked.Add(refreshEvery)
		if !l.known {
			most := unseenEvery
			if l.lost {
				most = lostEvery
			}
			due = l.asked.Add(min(resolveTick<<min(l.asks, 8), most))
		}
		if due.After(c.Now) {
			continue
		}
		if left--; left < 0 {
			break
		}
		l.asked = c.Now
		l.asks++
		frame := packet.AppendARPRequest(nil, controller.ProbeMAC, netip.IPv4Unspecified(), addr)
		if l.known {
			h, ok := c.Graph.Snapshot().HostByIP(0, addr)
			pin(c, l.mac, ok && c.Now.Sub(h.LastSeen) < silentAfter)
			c.PacketOut(ofproto.DPID(l.place.DPID), ofproto.PortController, frame, ofproto.OutputPort(ofproto.Port(l.place.Port)))
			continue
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
	}
	// A VIP stops being pending for unknown members when its time is over.
	for _, v := range a.vips {
		if v.pending {
			a.settled(c, v)
		}
	}
}

// answerARP answers a request for a VIP that a switch could not answer by itself.
func (a *App) answerARP(c *controller.Context, e controller.PacketIn) {
	if e.Table != controller.TableIngress {
		return
	}
	f, err := packet.Decode(e.Data)
	if err != nil {
		return
	}
	arp, ok := f.ARP()
	if !ok || arp.Op != packet.ARPRequest {
		return
	}
	sw := c.Switch(e.DPID)
	if sw == nil || !serves(sw) || sw.Capabilities.Nicira {
		return
	}
	for name := range a.byAddress[arp.TPA] {
		if v := a.vips[name].rec.VIP; v.Enabled && !a.vips[name].placed[e.DPID].none {
			reply := packet.AppendARPReply(nil, v.MAC, arp.TPA, arp.SHA, arp.SPA)
			c.PacketOut(e.DPID, ofproto.PortController, reply, ofproto.OutputPort(e.InPort))
			return
		}
	}
}

// noteMAC and dropMAC keep which members a host is, and keep such a host from being
// pushed out of the table of hosts by a flood of others.
func (a *App) noteMAC(c *controller.Context, mac ofproto.MAC, addr netip.Addr) {
	add(a.addressOf, mac, addr)
	pin(c, mac, true)
}

// forget drops what is known of an address that no VIP has as a member any more.
func (a *App) forget(c *controller.Context, addr netip.Addr) {
	if l := a.members[addr]; l != nil {
		remove(a.at, l.place, addr)
		if l.known {
			a.dropMAC(c, l.mac, addr)
		}
	}
	delete(a.members, addr)
}

func (a *App) dropMAC(c *controller.Context, mac ofproto.MAC, addr netip.Addr) {
	if remove(a.addressOf, mac, addr); a.addressOf[mac] == nil {
		pin(c, mac, false)
	}
}

func pin(c *controller.Context, mac ofproto.MAC, pinned bool) {
	for _, e := range c.Graph.Pin(topology.HostKey{MAC: topology.MAC(mac)}, pinned, c.Now) {
		c.Emit(e)
	}
}
