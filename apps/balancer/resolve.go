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
	// unresolvedAfter is how many requests without an answer make a member down
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
	a.relocate(c, func(yield func(netip.Addr) bool) {
		for _, l := range v.rec.Listeners {
			for _, m := range l.Members {
				if !yield(m.Key.Addr()) {
					return
				}
			}
		}
	})
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
		a.declare(c, addr)
	}
	for _, addr := range changed {
		a.moved(c, addr)
	}
}

// locateAddress looks a member up in the graph and reports whether it is
// elsewhere than it was.
func (a *App) locateAddress(c *controller.Context, addr netip.Addr) bool {
	l := a.members[addr]
	if l.since.IsZero() {
		l.since = c.Now
	}
	is := a.sight(c.Graph.Snapshot(), addr)
	a.bind(c, addr, is.bound)
	if is.known || is.kept {
		a.hold(c, addr, topology.HostKey{MAC: topology.MAC(is.mac), VLAN: is.vlan})
	} else {
		a.hold(c, addr, topology.HostKey{})
	}
	if is.known == l.known && (!is.known || is.mac == l.mac && is.vlan == l.vlan && is.place == l.place && is.declared == l.declared) {
		if !is.known && (l.reason == "" || l.iface != "") {
			l.reason = is.reason
			a.put(addr, is)
		}
		return false
	}
	*l = location{
		known: is.known, lost: !is.known, held: l.held, since: c.Now, asked: l.asked, place: l.place, mac: l.mac, vlan: is.vlan, network: l.network, iface: l.iface, bound: l.bound,
	}
	a.put(addr, is)
	if is.known {
		l.mac = is.mac
		pin(c, l.host(), true) // again: it may have been let go for its silence
	} else {
		if l.iface == "" {
			l.mac = ofproto.MAC{}
		}
		l.reason = is.reason
		a.resolveSoon(c)
	}
	return true
}

// put notes the place of a member.
func (a *App) put(addr netip.Addr, is sight) {
	l := a.members[addr]
	remove(a.at, l.place, addr)
	l.place, l.declared = is.place, is.declared
	if is.place.DPID != 0 {
		add(a.at, is.place, addr)
	}
}

// sight looks a member up where its interface is, or in the graph.
func (a *App) sight(snap *topology.Snapshot, addr netip.Addr) sight {
	l := a.members[addr]
	h, ok := l.find(snap, addr)
	var elsewhere string
	if l.iface != "" {
		s, found := a.atInterface(snap, l, h, ok)
		if found {
			return s
		}
		if len(a.attached.ByID[l.iface]) > 0 {
			elsewhere = s.reason + "; "
		}
	}
	s := sight{searched: true, known: ok, mac: ofproto.MAC(h.MAC), vlan: h.VLAN, place: h.Place}
	if ok {
		if p, up := snap.Port(h.Place); !up || !p.Up {
			s.known, s.kept, s.reason = false, true, elsewhere+"port "+h.Place.String()+" is down"
		}
		return s
	}
	s.reason = elsewhere + "does not answer ARP"
	if addr.Is6() {
		s.reason = elsewhere + "does not answer neighbour solicitations"
	}
	return s
}

// find looks a member up in its VLAN, and among the hosts whose frames are untagged: it
// may be behind an access port of that VLAN.
func (l *location) find(snap *topology.Snapshot, addr netip.Addr) (topology.Host, bool) {
	h, ok := snap.HostByIP(l.network, addr)
	if !ok && l.network != 0 {
		h, ok = snap.HostByIP(0, addr)
	}
	return h, ok
}

// host is the member's host in the graph.
func (l *location) host() topology.HostKey {
	return topology.HostKey{MAC: topology.MAC(l.mac), VLAN: l.vlan}
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
	for addr := range a.addressOf[h.Key()] {
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

// unask begins anew to count the requests without an answer: a member that was down for
// them is unknown again.
func (l *location) unask(now time.Time) {
	if l.asks >= unresolvedAfter && !l.known {
		l.since = now
	}
	l.asks = 0
}

// askAtOnce makes an unknown member due, as if it had never been asked for.
func (l *location) askAtOnce(now time.Time) {
	l.asked = time.Time{}
	l.unask(now)
}

// askAgain makes every unknown member due at once: something was plugged in.
func (a *App) askAgain(c *controller.Context) {
	for _, l := range a.members {
		if !l.known {
			l.askAtOnce(c.Now)
		}
	}
	a.resolveSoon(c)
}

// askSooner has the time between two requests for an unknown member grow from the
// beginning again: a switch that it may be at has connected, and others may follow.
func (a *App) askSooner(c *controller.Context) {
	for _, l := range a.members {
		if !l.known {
			l.unask(c.Now)
		}
	}
	a.resolveSoon(c)
}

// resolveSoon has the members looked at before the next tick: there is news of some.
func (a *App) resolveSoon(c *controller.Context) {
	if soon := c.Now.Add(resolveSoon); soon.Before(a.resolveAt) {
		a.resolveAt = soon
	}
	c.WakeAt(a.resolveAt)
}

// resolve sends the ARP requests that are due, when it is time to. A member whose place
// is known is asked there; another wherever hosts may be.
func (a *App) resolve(c *controller.Context) {
	if a.resolveAt.After(c.Now) {
		c.WakeAt(a.resolveAt)
		return
	}
	a.resolveAt = c.Now.Add(resolveTick)
	c.WakeAt(a.resolveAt)
	left := resolveMost
	for addr, l := range a.members {
		due := l.asked.Add(refreshEvery)
		if !l.known {
			most := unseenEvery
			if l.lost {
				most = lostEvery
			}
			due = l.asked.Add(min(resolveTick<<min(l.asks, 8), most))
		} else if c.Graph.Snapshot().IsLink(l.place) {
			due = l.asked.Add(resolveTick) // it is beyond a switch that is new, and soon gone from here
		}
		if due.After(c.Now) {
			continue
		}
		if left--; left < 0 {
			break
		}
		l.asked = c.Now
		if l.asks++; l.asks == unresolvedAfter && !l.known {
			l.since = c.Now // down
		}
		if l.known {
			h, ok := l.find(c.Graph.Snapshot(), addr)
			pin(c, l.host(), l.declared || ok && c.Now.Sub(h.LastSeen) < silentAfter)
			c.PacketOut(ofproto.DPID(l.place.DPID), ofproto.PortController, request(addr, l.vlan), ofproto.OutputPort(ofproto.Port(l.place.Port)))
			continue
		}
		if is := a.sight(c.Graph.Snapshot(), addr); !is.searched {
			// It is where its interface is, and is asked for nowhere else.
			if usable(c.Graph.Snapshot(), is.place) {
				c.PacketOut(ofproto.DPID(is.place.DPID), ofproto.PortController, request(addr, is.vlan), ofproto.OutputPort(ofproto.Port(is.place.Port)))
			}
			continue
		}
		frames := [][]byte{request(addr, l.network)}
		if l.network != 0 {
			frames = append(frames, request(addr, 0)) // behind an access port
		}
		snap := c.Graph.Snapshot()
		for sw := range c.Switches() {
			var out []ofproto.Action
			for _, port := range snap.EdgePorts(topology.DPID(sw.DPID)) {
				out = append(out, ofproto.OutputPort(ofproto.Port(port)))
			}
			for _, frame := range frames {
				if len(out) > 0 {
					c.PacketOut(sw.DPID, ofproto.PortController, frame, out...)
				}
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

// request asks for the Ethernet address of a host.
func request(addr netip.Addr, vlan uint16) []byte {
	if addr.Is6() {
		return packet.AppendNeighborSolicitation(nil, controller.ProbeMAC, controller.ProbeAddress6, addr, packet.Tags(vlan)...)
	}
	return packet.AppendARPRequest(nil, controller.ProbeMAC, netip.IPv4Unspecified(), addr, packet.Tags(vlan)...)
}

// answer answers a request for a VIP that a switch could not answer by itself.
func (a *App) answer(c *controller.Context, e controller.PacketIn) {
	if e.Table != controller.TableIngress {
		return
	}
	f, err := packet.Decode(e.Data)
	if err != nil {
		return
	}
	sw := c.Switch(e.DPID)
	if sw == nil || !serves(sw) {
		return
	}
	var target netip.Addr
	var reply func(mac ofproto.MAC) []byte
	tag, _ := f.VLAN()
	if arp, ok := f.ARP(); ok && arp.Op == packet.ARPRequest && !sw.Capabilities.Nicira {
		target = arp.TPA
		reply = func(mac ofproto.MAC) []byte {
			return packet.AppendARPReply(nil, mac, arp.TPA, arp.SHA, arp.SPA, packet.Tags(tag.ID)...)
		}
	} else if nd, ok := f.ND(); ok && nd.Type == packet.ICMPv6NeighborSolicitation {
		if _, linked := nd.LinkAddr(packet.NDSourceLinkAddr); linked && answersND(sw.Capabilities) {
			return
		}
		target = nd.Target
		reply = func(mac ofproto.MAC) []byte { return advertise(f, target, mac, tag.ID) }
	}
	for name := range a.byAddress[target] {
		v := a.vips[name].rec.VIP
		if v.Enabled && v.VLAN == tag.ID && !a.vips[name].placed[e.DPID].none {
			c.PacketOut(e.DPID, ofproto.PortController, reply(v.MAC), ofproto.OutputPort(e.InPort))
			return
		}
	}
}

// allNodes is the group of all IPv6 hosts of a link (RFC 4291 §2.7.1), and its Ethernet
// address.
var (
	allNodes    = netip.MustParseAddr("ff02::1")
	allNodesMAC = packet.MAC{0x33, 0x33, 5: 1}
)

// advertise answers a neighbour solicitation (RFC 4861 §7.2.4): to the one who asks, and
// to all where that is duplicate address detection, whose sender has no address yet.
func advertise(f packet.Frame, target netip.Addr, mac ofproto.MAC, vlan uint16) []byte {
	asker, _, _ := f.Addrs()
	to := packet.Flow{SrcMAC: mac, DstMAC: f.Ethernet().Src, Tags: packet.Tags(vlan), Src: netip.AddrPortFrom(target, 0), Dst: netip.AddrPortFrom(asker, 0)}
	if asker.IsUnspecified() {
		to.DstMAC, to.Dst = allNodesMAC, netip.AddrPortFrom(allNodes, 0)
	}
	return packet.AppendNeighborAdvertisement(nil, to, target, !asker.IsUnspecified())
}

// hold notes which host a member is, and keeps that one from being pushed out of the
// table of hosts by a flood of others, and at its place while its port is down: another
// that claims to be it is asked more than one that is new. The zero key: it is none.
func (a *App) hold(c *controller.Context, addr netip.Addr, host topology.HostKey) {
	l := a.members[addr]
	if l == nil || l.held == host {
		return
	}
	before := l.held
	l.held = host
	if host != (topology.HostKey{}) {
		add(a.addressOf, host, addr)
		pin(c, host, true)
	}
	if before == (topology.HostKey{}) {
		return
	}
	if remove(a.addressOf, before, addr); a.addressOf[before] == nil {
		pin(c, before, false)
	}
}

// forget drops what is known of an address that no VIP has as a member any more.
func (a *App) forget(c *controller.Context, addr netip.Addr) {
	if l := a.members[addr]; l != nil {
		remove(a.at, l.place, addr)
		a.hold(c, addr, topology.HostKey{})
	}
	delete(a.members, addr)
	a.dirtyBound(c, addr)
}

func pin(c *controller.Context, host topology.HostKey, pinned bool) {
	for _, e := range c.Graph.Pin(host, pinned, c.Now) {
		c.Emit(e)
	}
}
