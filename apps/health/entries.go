package health

import (
	"fmt"
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// part is the desired state of one name, with how many targets need it.
type part struct {
	uses    int
	compile func(controller.Stage, controller.Capabilities) flowtable.Part
}

// reply is what the replies of targets have in common that one entry takes out.
type reply struct {
	vlan           uint16
	proto          uint8
	target, source netip.Addr
	port           uint16 // of the target, where the protocol has ports
	unreachable    bool   // ICMP port unreachable, not an echo reply
}

// replyTo is the reply that a packet with this key is.
func replyTo(k packetKey) reply {
	return reply{vlan: k.vlan, proto: k.proto, target: k.target, source: k.source, port: k.port}
}

func (r reply) name() string {
	if r.unreachable {
		return fmt.Sprintf("unreachable/%d/%s/%s", r.vlan, r.target, r.source)
	}
	return fmt.Sprintf("reply/%d/%d/%s/%d/%s", r.vlan, r.proto, r.target, r.port, r.source)
}

// source is an address of probes that hosts ask for. Where it is a VIP's, switches
// answer for it, but not a target behind an access port of the VIP's VLAN: for that one
// alone it is answered here.
type source struct {
	addr  netip.Addr
	vlan  uint16
	asker netip.Addr // invalid: anyone
}

func (s source) name() string {
	if s.asker.IsValid() {
		return fmt.Sprintf("source/%d/%s/%s", s.vlan, s.addr, s.asker)
	}
	return fmt.Sprintf("source/%d/%s", s.vlan, s.addr)
}

// sourceOf says for which address a target needs an answer.
func sourceOf(t Target) (s source, ok bool) {
	s = source{addr: t.Source, vlan: t.VLAN}
	if !t.Answer {
		s.asker = t.Address
	}
	return s, t.Answer || t.VLAN != 0
}

// repliesOf lists the replies that probes of a target have.
func repliesOf(t Target) []reply {
	r := reply{vlan: t.VLAN, proto: t.protocol(), target: t.Address, source: t.Source, port: t.Port}
	if t.Type != UDPConnect {
		return []reply{r}
	}
	u := reply{vlan: t.VLAN, proto: icmpOf(t.Address), target: t.Address, source: t.Source, unreachable: true}
	return []reply{r, u}
}

// acquire has the entries made that a target needs.
func (a *App) acquire(c *controller.Context, t Target) {
	if t.ViaHost || t.fault() != "" {
		return
	}
	for _, r := range repliesOf(t) {
		need(c, a.replies, r.name(), r.compile)
		a.taken[r] = true
	}
	if s, ok := sourceOf(t); ok {
		need(c, a.sources, s.name(), s.compile)
	}
}

// release drops those that no target needs any more.
func (a *App) release(c *controller.Context, t Target) {
	if t.ViaHost || t.fault() != "" {
		return
	}
	for _, r := range repliesOf(t) {
		if drop(c, a.replies, r.name()) {
			delete(a.taken, r)
		}
	}
	delete(a.access, [2]netip.Addr{t.Address, t.Source}) // the next probe of another like it brings it back
	if s, ok := sourceOf(t); ok {
		drop(c, a.sources, s.name())
	}
}

func need(c *controller.Context, m map[string]*part, name string, compile func(controller.Stage, controller.Capabilities) flowtable.Part) {
	if m[name] == nil {
		m[name] = &part{compile: compile}
		c.DirtyAll(name)
	}
	m[name].uses++
}

// drop reports whether it was the last use.
func drop(c *controller.Context, m map[string]*part, name string) bool {
	if m[name].uses--; m[name].uses > 0 {
		return false
	}
	delete(m, name)
	c.DirtyAll(name)
	return true
}

// Parts implements controller.App: one part a reply, and one an address that is
// answered for.
func (a *App) Parts(*controller.Context, *controller.Switch) []string {
	names := make([]string, 0, len(a.replies)+len(a.sources))
	for name := range a.replies {
		names = append(names, name)
	}
	for name := range a.sources {
		names = append(names, name)
	}
	return names
}

// Compile implements controller.App.
func (a *App) Compile(_ *controller.Context, sw *controller.Switch, name string) controller.Source {
	p := a.replies[name]
	if p == nil {
		p = a.sources[name]
	}
	if p == nil {
		return controller.Source{}
	}
	compile, stage, caps := p.compile, sw.Stage, sw.Capabilities
	return controller.Source{Build: func() flowtable.Part { return compile(stage, caps) }}
}

func ethTypeOf(a netip.Addr) uint16 {
	if a.Is4() {
		return packet.EtherTypeIPv4
	}
	return packet.EtherTypeIPv6
}

// whole is the prefix of an address alone.
func whole(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// punt makes the entries that send to the controller what they match, and nowhere
// else. In a VLAN there are two: frames of hosts behind its access ports are untagged.
func punt(table ofproto.Table, priority uint16, vlan uint16, match []ofproto.Field) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassService}
	add := func(more ...ofproto.Field) {
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: table, Priority: priority, Match: ofproto.NewMatch(append(more, match...)...),
			Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController()}}},
		})
	}
	if vlan == 0 {
		add()
	} else {
		add(ofproto.VLANVID(vlan))
		add(ofproto.VLANNone())
	}
	return p
}

// compile makes the entry that takes a reply out of the traffic. In stage observe
// packets never get to table vip, so it is in the first one there.
func (r reply) compile(stage controller.Stage, caps controller.Capabilities) flowtable.Part {
	table := controller.TableVIP
	if stage == controller.StageObserve {
		table = controller.TableIngress
	}
	match := []ofproto.Field{ofproto.EthType(ethTypeOf(r.target)), ofproto.IPProto(r.proto)}
	if r.target.Is4() {
		match = append(match, ofproto.IPv4Src(whole(r.target)), ofproto.IPv4Dst(whole(r.source)))
	} else {
		match = append(match, ofproto.IPv6Src(whole(r.target)), ofproto.IPv6Dst(whole(r.source)))
	}
	switch r.proto {
	case packet.ProtoICMP:
		if r.unreachable {
			match = append(match, ofproto.ICMPv4Type(packet.ICMPUnreachable), ofproto.ICMPv4Code(codePort))
		} else {
			match = append(match, ofproto.ICMPv4Type(packet.ICMPEchoReply))
		}
	case packet.ProtoICMPv6:
		if r.unreachable {
			match = append(match, ofproto.ICMPv6Type(packet.ICMPv6Unreachable), ofproto.ICMPv6Code(codePort6))
		} else {
			match = append(match, ofproto.ICMPv6Type(packet.ICMPv6EchoReply))
		}
	default:
		match = append(match, ofproto.L4Src(r.proto, r.port))
		if caps.PortMasks {
			match = append(match, ofproto.L4DstMasked(r.proto, firstPort, firstPort))
		}
	}
	return punt(table, controller.PrioProbeReply, r.vlan, match)
}

// Codes of "port unreachable" (RFC 792, RFC 4443 §3.1).
const (
	codePort  uint8 = 3
	codePort6 uint8 = 4
)

// compile makes the entry that takes out what asks for the link address of a source.
func (s source) compile(controller.Stage, controller.Capabilities) flowtable.Part {
	match := []ofproto.Field{ofproto.EthType(packet.EtherTypeARP), ofproto.ARPOp(packet.ARPRequest)}
	if s.addr.Is4() {
		match = append(match, ofproto.ARPTPA(whole(s.addr)))
	} else {
		match = []ofproto.Field{ofproto.EthType(packet.EtherTypeIPv6), ofproto.IPProto(packet.ProtoICMPv6),
			ofproto.ICMPv6Type(packet.ICMPv6NeighborSolicitation), ofproto.IPv6NDTarget(s.addr)}
	}
	if !s.asker.IsValid() {
		return punt(controller.TableIngress, controller.PrioVIPARP, s.vlan, match)
	}
	asker := ofproto.ARPSPA(whole(s.asker))
	if s.asker.Is6() {
		asker = ofproto.IPv6Src(whole(s.asker))
	}
	return punt(controller.TableIngress, controller.PrioVIPARP, 0, append(match, asker, ofproto.VLANNone()))
}
