package balancer

import (
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// empty is what becomes of the packets of a listener that no member serves. Dropped
// ones are left to the entry of the address. To be rejected they come to the
// controller, as many as its limits let by.
func (in vipInput) empty(p *flowtable.Part, l ListenerRecord) {
	if in.rec.VIP.OnEmpty != OnEmptyReject {
		return
	}
	for _, match := range in.forwardMatches(l) {
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: controller.PrioVIPForward,
			Match:        ofproto.NewMatch(match...),
			Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController()}}},
		})
	}
}

// ours says whether a packet came by an entry of a VIP, and not as a copy that
// another app asked for.
func ours(e controller.PacketIn) bool {
	if flowtable.OwnsCookie(e.Cookie) {
		return flowtable.CookieApp(e.Cookie) == controller.AppBalancer
	}
	return e.Table == controller.TableVIP
}

// answerIP answers packets to a VIP that no member will: of listeners whose members are
// all gone, and ICMP.
func (a *App) answerIP(c *controller.Context, e controller.PacketIn) {
	if !ours(e) {
		return
	}
	f, err := packet.Decode(e.Data)
	if err != nil {
		return
	}
	src, dst, ok := f.Addrs()
	if !ok || !fromOne(f, src) {
		return
	}
	sw := c.Switch(e.DPID)
	if sw == nil || !serves(sw) {
		return
	}
	if f.Proto() == packet.ProtoICMP || f.Proto() == packet.ProtoICMPv6 {
		a.icmp(c, e, f)
		return
	}
	_, port, ok := f.Ports()
	if !ok {
		return
	}
	v, listener := a.listenerOf(dst, vlanOf(f), protocolOf(f.Proto()), port)
	if v == nil || v.rec.VIP.OnEmpty != OnEmptyReject || !v.rec.VIP.allows(src) {
		return
	}
	if !v.empty(listener) {
		return // a member has come up meanwhile
	}
	if frame := packet.AppendRefusal(nil, f); frame != nil {
		c.PacketOut(e.DPID, ofproto.PortController, frame, ofproto.OutputPort(e.InPort))
	}
}

// empty says whether no member serves a listener.
func (v *vip) empty(listener int) bool {
	for _, id := range v.owners[listener] {
		if id != NoMember {
			return false
		}
	}
	return true
}

// listenerOf finds the listener that packets go to.
func (a *App) listenerOf(dst netip.Addr, vlan uint16, p Protocol, port uint16) (*vip, int) {
	for name := range a.byAddress[dst] {
		v := a.vips[name]
		if !v.rec.VIP.Enabled || v.rec.VIP.VLAN != vlan {
			continue
		}
		for i, l := range v.rec.VIP.Listeners {
			if r := l.ports(); l.Protocol == p && r.first <= port && port <= r.last {
				return v, i
			}
		}
	}
	return nil, 0
}

// allows says whether a client may use the VIP.
func (v VIP) allows(client netip.Addr) bool {
	for _, p := range v.AllowedCIDRs {
		if p.Contains(client) {
			return true
		}
	}
	return len(v.AllowedCIDRs) == 0
}

// protocolOf is the protocol of a number in an IP header, empty for others.
func protocolOf(number uint8) Protocol {
	for _, p := range []Protocol{TCP, UDP, SCTP} {
		if p.number() == number {
			return p
		}
	}
	return ""
}

// vlanOf is the VLAN of a frame, 0 for an untagged one.
func vlanOf(f packet.Frame) uint16 {
	tag, _ := f.VLAN()
	return tag.ID
}

// fromOne says whether a packet is from one host that an answer can go to.
func fromOne(f packet.Frame, src netip.Addr) bool {
	return !packet.IsGroup(f.Ethernet().Src) && src.IsValid() && !src.IsUnspecified() && !src.IsMulticast() &&
		!src.IsLoopback() && src != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
