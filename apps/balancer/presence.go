package balancer

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// VIPs are announced to hosts and bridges by gratuitous ARP (RFC 5227 §3) and unsolicited
// neighbour advertisements (RFC 4861 §7.2.6): from the VIP's MAC, out of every port where
// a switch speaks for it (voice.go). So caches of hosts follow the VIP, and tables of
// bridges the port, when either changes, and neither forgets them.

const (
	// DefaultAnnounceEvery is the time between two announcements of an address: below
	// the 300 s after which bridges usually forget, with room for some that are lost.
	DefaultAnnounceEvery = time.Minute
	// announceMost bounds the packet-outs of announcements a second. Many addresses take
	// longer than AnnounceEvery then.
	announceMost = 4000
	// announceTick is how often some are sent while there are any to send.
	announceTick = 25 * time.Millisecond
	// announceJitter is by which part of itself the time between two varies.
	announceJitter = 0.1
	// remindersMost bounds what waits to be announced again for each of announceAgain;
	// more is left to the next round.
	remindersMost = 1 << 16
)

// announceAgain is when what was announced because it changed is announced again, each time
// counted from the one before. The first may be lost, a bridge may not be ready for it, and a
// reply of the VIP that is still on its way by the old port has a bridge look there again.
var announceAgain = [...]time.Duration{100 * time.Millisecond, 300 * time.Millisecond, 600 * time.Millisecond}

// presence is what is announced, and what is to be.
type presence struct {
	every time.Duration // 0: on change only

	order  []netip.Addr // of all addresses; nil: to be made again. Never written to.
	cursor int          // in order: what is announced next
	next   time.Time    // when; zero: not yet settled

	fresh     []netip.Addr // answered by a switch that did not before
	queued    map[netip.Addr]bool
	sweeps    []sweep // all addresses, out of ports that have begun to speak
	reminders [len(announceAgain)][]reminder

	allowance float64 // of packet-outs
	at        time.Time
	sent      Announcements
}

// sweep announces all addresses out of ports of a switch.
type sweep struct {
	dpid  ofproto.DPID
	ports []topology.Port
	left  []netip.Addr
}

// reminder announces again.
type reminder struct {
	at    time.Time
	dpid  ofproto.DPID
	ports []topology.Port // nil: all
	addr  netip.Addr
}

// Announcements counts packets sent to hosts and bridges to say where VIPs are: one a
// switch and address, whatever the number of ports.
type Announcements struct {
	ARP, ND uint64 // gratuitous ARP, unsolicited neighbour advertisements
	Waiting int    // because of a change, and not sent yet
}

// AnnounceEvery sets the time between two announcements of an address; 0: only what
// changes is announced. It is called before the app runs.
func (a *App) AnnounceEvery(d time.Duration) { a.presence.every = d }

// Announcements returns what was announced so far.
func (a *App) Announcements() Announcements {
	p := &a.presence
	s := p.sent
	s.Waiting = len(p.fresh)
	for _, queue := range p.reminders {
		s.Waiting += len(queue)
	}
	for _, w := range p.sweeps {
		s.Waiting += len(w.left)
	}
	return s
}

// tell has an address announced by the switches that answer for it and did not before.
func (a *App) tell(c *controller.Context, addr netip.Addr) {
	p := &a.presence
	if !p.queued[addr] {
		p.queued[addr] = true
		p.fresh = append(p.fresh, addr)
		c.WakeAt(c.Now.Add(resolveSoon))
	}
}

// tellOutlets has all addresses announced out of ports where a switch speaks for some now
// that others spoke for, and into what has grown: bridges there may know another port. A
// host that is plugged in asks by itself.
func (a *App) tellOutlets(c *controller.Context, dpid ofproto.DPID, was, now []topology.Outlet) {
	var ports []topology.Port
	for _, o := range now {
		i := slices.IndexFunc(was, func(w topology.Outlet) bool { return w.Port == o.Port })
		switch {
		case i >= 0 && slices.Equal(was[i].Before, o.Before) && o.Others <= was[i].Others:
		case i < 0 && o.Others == 0 && !o.Legacy:
		default:
			ports = append(ports, o.Port)
		}
	}
	if len(ports) == 0 || len(a.byAddress) == 0 {
		return
	}
	p := &a.presence
	p.sweeps = slices.DeleteFunc(p.sweeps, func(w sweep) bool {
		if w.dpid != dpid {
			return false
		}
		for _, port := range w.ports {
			if !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
		return true
	})
	p.sweeps = append(p.sweeps, sweep{dpid, ports, a.addresses()})
	c.WakeAt(c.Now)
}

// addresses returns all addresses of VIPs in order.
func (a *App) addresses() []netip.Addr {
	p := &a.presence
	if p.order == nil {
		p.order = slices.SortedFunc(maps.Keys(a.byAddress), netip.Addr.Compare)
	}
	return p.order
}

// announce sends what is due, and no more at once than it may.
func (a *App) announce(c *controller.Context) {
	p := &a.presence
	p.allowance = min(p.allowance+announceMost*c.Now.Sub(p.at).Seconds(), announceMost*announceTick.Seconds())
	p.at = c.Now
	for p.allowance >= 1 && a.announceChange(c) {
	}
	for p.allowance >= 1 && a.announceRound(c) {
	}
	next := p.next
	if p.allowance < 1 || len(p.fresh) > 0 || len(p.sweeps) > 0 {
		next = c.Now.Add(announceTick)
	} else {
		for _, queue := range p.reminders {
			if len(queue) > 0 && (next.IsZero() || queue[0].at.Before(next)) {
				next = queue[0].at
			}
		}
	}
	if !next.IsZero() {
		c.WakeAt(later(next, c.Now.Add(announceTick)))
	}
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// announceChange announces one address because of a change; false: there is none.
func (a *App) announceChange(c *controller.Context) bool {
	p := &a.presence
	switch {
	case len(p.fresh) > 0:
		addr := p.fresh[0]
		p.fresh = p.fresh[1:]
		delete(p.queued, addr)
		for sw := range c.Switches() {
			if a.untold(sw.DPID, addr) && a.announceBy(c, sw.DPID, addr, nil) {
				p.remind(c, 0, reminder{dpid: sw.DPID, addr: addr})
			}
		}
	case len(p.sweeps) > 0:
		w := p.sweeps[0]
		p.sweeps = p.sweeps[1:]
		if len(w.left) == 0 {
			return true
		}
		addr := w.left[0]
		if a.announceBy(c, w.dpid, addr, w.ports) {
			p.remind(c, 0, reminder{dpid: w.dpid, addr: addr, ports: w.ports})
		}
		if w.left = w.left[1:]; len(w.left) > 0 {
			p.sweeps = append(p.sweeps, w) // the others have their turn
		}
	default:
		return a.announceAgain(c)
	}
	return true
}

// announceAgain announces one address again; false: none is due.
func (a *App) announceAgain(c *controller.Context) bool {
	p := &a.presence
	for i, queue := range p.reminders {
		if len(queue) == 0 || queue[0].at.After(c.Now) {
			continue
		}
		r := queue[0]
		p.reminders[i] = queue[1:]
		if a.announceBy(c, r.dpid, r.addr, r.ports) {
			p.remind(c, i+1, r)
		}
		return true
	}
	return false
}

// remind has something announced again for the i-th time.
func (p *presence) remind(c *controller.Context, i int, r reminder) {
	if i < len(p.reminders) && len(p.reminders[i]) < remindersMost {
		r.at = c.Now.Add(announceAgain[i])
		p.reminders[i] = append(p.reminders[i], r)
	}
}

// untold says whether a switch has begun to answer for an address, and takes note of it.
func (a *App) untold(dpid ofproto.DPID, addr netip.Addr) (news bool) {
	for name := range a.byAddress[addr] {
		v := a.vips[name]
		if v.rec.VIP.Enabled && a.holds(v, dpid) && !v.told[dpid] {
			v.told[dpid], news = true, true
		}
	}
	return news
}

// holds says whether a switch acknowledged a VIP and serves it.
func (a *App) holds(v *vip, dpid ofproto.DPID) bool {
	k, known := v.acks[dpid]
	return known && k.err == nil && a.refused[v.rec.VIP.Address][dpid] == nil && !v.placed[dpid].none
}

// announceRound announces one address because its time has come again; false: none is
// due. The addresses are spread over the time between two rounds.
func (a *App) announceRound(c *controller.Context) bool {
	p := &a.presence
	n := len(a.byAddress)
	if p.every == 0 || n == 0 {
		p.next = time.Time{}
		return false
	}
	step := time.Duration(float64(p.every) / float64(n) * (1 - announceJitter + 2*announceJitter*rand.Float64()))
	if p.next.IsZero() || p.next.After(c.Now.Add(step+step/2)) {
		p.next = c.Now.Add(step) // there is more to announce than there was
	}
	if p.next.After(c.Now) {
		return false
	}
	order := a.addresses()
	p.cursor = (p.cursor + 1) % len(order)
	for sw := range c.Switches() {
		if serves(sw) {
			a.announceBy(c, sw.DPID, order[p.cursor], nil)
		}
	}
	// What could not be sent in time is not made up for.
	p.next = later(p.next.Add(step), c.Now.Add(-announceTick))
	return true
}

// announceBy announces an address out of those of some ports of a switch, nil for all,
// where it speaks for it. It reports whether there are any.
func (a *App) announceBy(c *controller.Context, dpid ofproto.DPID, addr netip.Addr, ports []topology.Port) bool {
	if c.Switch(dpid) == nil {
		return false
	}
	var rec *Record
	for name := range a.byAddress[addr] {
		if v := a.vips[name]; v.rec.VIP.Enabled && a.holds(v, dpid) {
			rec = v.rec
			break
		}
	}
	if rec == nil {
		return false
	}
	var out []ofproto.Action
	for _, o := range a.regions(c).Outlets(topology.DPID(dpid)) {
		if (ports == nil || slices.Contains(ports, o.Port)) && !a.silenced(o, addr) {
			out = append(out, ofproto.OutputPort(ofproto.Port(o.Port)))
		}
	}
	if len(out) == 0 {
		return false
	}
	c.PacketOut(dpid, ofproto.PortController, announcement(addr, rec.VIP.MAC, rec.VIP.VLAN), out...)
	a.presence.allowance--
	if addr.Is6() {
		a.presence.sent.ND++
	} else {
		a.presence.sent.ARP++
	}
	return true
}

// announcement is the frame that tells all where an address is.
func announcement(addr netip.Addr, mac ofproto.MAC, vlan uint16) []byte {
	if addr.Is6() {
		return packet.AppendNeighborAdvertisement(nil, packet.Flow{
			SrcMAC: mac, DstMAC: allNodesMAC, Tags: packet.Tags(vlan), Src: netip.AddrPortFrom(addr, 0), Dst: netip.AddrPortFrom(allNodes, 0),
		}, addr, false)
	}
	return packet.AppendARPRequest(nil, mac, addr, addr, packet.Tags(vlan)...)
}
