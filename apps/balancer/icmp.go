package balancer

import (
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// errorsRate bounds the frames a second that ICMP errors are turned into, half a
// second's worth at once. An error that a hash may have sent to any member goes to
// all of them.
const errorsRate = 2000

// compileICMP is what a switch does with ICMP to an address of VIPs. Echo requests are
// turned into the reply and sent back, by the controller where the switch cannot. The
// rest goes to the controller, who knows to whom to give errors about connections of
// the VIP. Where a table is too small for all, VIPs come first.
func compileICMP(addr netip.Addr, vlan uint16, mac ofproto.MAC, nicira bool) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassHost}
	flow := func(priority uint16, actions []ofproto.Action, match ...ofproto.Field) {
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: priority,
			Match:        ofproto.NewMatch(append(append(network(addr, vlan), ipDst(addr)), match...)...),
			Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: actions}},
		})
	}
	icmp, request, reply := ofproto.IPProto(packet.ProtoICMP), ofproto.ICMPv4Type(packet.ICMPEchoRequest), ofproto.ICMPv4Type(packet.ICMPEchoReply)
	back := ofproto.Move{Src: ofproto.FieldNXMIPSrc, Dst: ofproto.FieldNXMIPDst, Bits: 32}
	if addr.Is6() {
		icmp, request, reply = ofproto.IPProto(packet.ProtoICMPv6), ofproto.ICMPv6Type(packet.ICMPv6EchoRequest), ofproto.ICMPv6Type(packet.ICMPv6EchoReply)
		back = ofproto.Move{Src: ofproto.FieldNXMIPv6Src, Dst: ofproto.FieldNXMIPv6Dst, Bits: 128}
	}
	flow(controller.PrioVIPICMP, []ofproto.Action{ofproto.ToController()}, icmp)
	if nicira {
		// Of a request in fragments only the first has a type: its answer would lack the
		// others.
		flow(controller.PrioVIPEcho, []ofproto.Action{
			ofproto.Move{Src: ofproto.FieldNXMEthSrc, Dst: ofproto.FieldNXMEthDst, Bits: 48},
			ofproto.SetField{Field: ofproto.EthSrc(mac)},
			back,
			ofproto.SetField{Field: ipSrc(addr)},
			ofproto.SetField{Field: reply},
			ofproto.SetNWTTL{TTL: 64},
			ofproto.OutputPort(ofproto.PortInPort),
		}, icmp, request, ofproto.IPFrag(0, ofproto.FragAny))
	}
	return p
}

// compileErrors is what a switch does with the ICMP errors of a family that are not for a
// VIP: they go where they would, and a copy comes to the controller. One that a
// member sends, or a router on the way to it, quotes the member's address, which the
// client does not know.
func compileErrors(six bool) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassService}
	any := netip.IPv4Unspecified()
	if six {
		any = netip.IPv6Unspecified()
	}
	for _, match := range icmpErrors(any) {
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: controller.PrioICMPError,
			Match: ofproto.NewMatch(append(match, ofproto.EthType(etherTypeOf(any)))...),
			Instructions: []ofproto.Instruction{
				ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController()}},
				ofproto.GotoTable{Table: controller.TableDestination},
			},
		})
	}
	return p
}

// icmp takes an ICMP packet that came by an entry of compileICMP or compileErrors.
func (a *App) icmp(c *controller.Context, e controller.PacketIn, f packet.Frame) {
	_, dst, _ := f.Addrs()
	if q, ok := f.Quote(); ok {
		if len(a.byAddress[dst]) > 0 {
			a.errorToMembers(c, e, f, q)
		} else {
			a.errorToClient(c, e, f, q)
		}
		return
	}
	for name := range a.byAddress[dst] {
		if v := a.vips[name]; v.rec.VIP.VLAN == vlanOf(f) && v.rec.VIP.Enabled && !v.placed[e.DPID].none {
			if frame := packet.AppendEchoAnswer(nil, f); frame != nil {
				c.PacketOut(e.DPID, ofproto.PortController, frame, ofproto.OutputPort(e.InPort))
			}
			return
		}
	}
}

// errorToMembers gives the members of a listener an error about a packet that one of
// them sent. Which of them the switches' hash knows; a host drops an error about a
// connection that it does not have.
func (a *App) errorToMembers(c *controller.Context, e controller.PacketIn, f packet.Frame, q packet.Quote) {
	v, i := a.listenerOf(q.Src.Addr(), vlanOf(f), protocolOf(q.Proto), q.Src.Port())
	if v == nil {
		return
	}
	serving := map[uint16]bool{}
	for _, id := range v.owners[i] {
		serving[id] = true
	}
	for _, m := range v.rec.Listeners[i].Members {
		at := a.members[m.Key.Addr()]
		if !serving[m.Index] || !at.known {
			continue
		}
		if !a.errors.take(c.Now) {
			return
		}
		r := packet.Readdress{DstMAC: at.mac, Tags: packet.Tags(at.vlan)}
		if slices.Contains(a.regions(c).Around(at.place), topology.Place{DPID: topology.DPID(e.DPID), Port: topology.Port(e.InPort)}) {
			r.SrcMAC = v.rec.VIP.MAC // it goes back where it came from: see out.go
		}
		if v.rec.VIP.Mode != ModeDSR {
			port := m.Key.Port()
			if !v.rec.VIP.Listeners[i].ports().single() {
				port = q.Src.Port()
			}
			r.Dst, r.QuotedSrc = m.Key.Addr(), netip.AddrPortFrom(m.Key.Addr(), port)
		}
		frame := packet.AppendReaddressed(nil, f, r)
		if frame == nil {
			return
		}
		c.PacketOut(ofproto.DPID(at.place.DPID), ofproto.PortController, frame, ofproto.OutputPort(ofproto.Port(at.place.Port)))
	}
}

// errorToClient gives a client an error about a packet that it sent to the VIP and a
// switch to a member. It is the switch where the error enters the network that says so.
func (a *App) errorToClient(c *controller.Context, e controller.PacketIn, f packet.Frame, q packet.Quote) {
	place := topology.Place{DPID: topology.DPID(e.DPID), Port: topology.Port(e.InPort)}
	if len(a.byMember[q.Dst.Addr()]) == 0 || c.Graph.Snapshot().IsLink(place) {
		return
	}
	src, dst, _ := f.Addrs()
	if dst != q.Src.Addr() {
		return
	}
	for name := range a.byMember[q.Dst.Addr()] {
		v := a.vips[name]
		if v.rec.VIP.Mode == ModeDSR || !v.rec.VIP.Enabled {
			continue
		}
		for i, l := range v.rec.VIP.Listeners {
			ports := l.ports()
			if l.Protocol != protocolOf(q.Proto) || !v.rec.Listeners[i].has(ports, q.Dst) {
				continue
			}
			port := l.Port
			if !ports.single() {
				port = q.Dst.Port()
			}
			r := packet.Readdress{QuotedDst: netip.AddrPortFrom(v.rec.VIP.Address, port)}
			if src == q.Dst.Addr() {
				r.Src = v.rec.VIP.Address
			}
			if vlan, ok := f.VLAN(); ok {
				r.Tags = []packet.VLAN{vlan}
			}
			if frame := packet.AppendReaddressed(nil, f, r); frame != nil && a.errors.take(c.Now) {
				c.PacketOut(e.DPID, e.InPort, frame, ofproto.OutputPort(ofproto.PortTable))
			}
		}
	}
}

// has says whether a listener has a member there. Members of a range keep the ports of
// packets.
func (l ListenerRecord) has(ports portRange, at netip.AddrPort) bool {
	for _, m := range l.Members {
		if m.Key == at || !ports.single() && m.Key.Addr() == at.Addr() && ports.first <= at.Port() && at.Port() <= ports.last {
			return true
		}
	}
	return false
}

// allowance is a token bucket of errorsRate.
type allowance struct {
	spent float64
	at    time.Time
}

// take says whether one more frame may go.
func (l *allowance) take(now time.Time) bool {
	l.spent = max(l.spent-now.Sub(l.at).Seconds()*errorsRate, 0)
	l.at = now
	if l.spent+1 > errorsRate/2 {
		return false
	}
	l.spent++
	return true
}
