package balancer

import (
	"math/bits"
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// target is a member as one switch reaches it.
type target struct {
	mac  ofproto.MAC
	port ofproto.Port // towards it; 0: no path is known
	// attached: the member is behind a port of this very switch.
	attached bool
}

// vipInput is all that the part of one VIP in one switch is made from.
type vipInput struct {
	rec     *Record
	owners  [][]uint16 // of each listener's slots
	stage   controller.Stage
	caps    controller.Capabilities
	targets map[netip.Addr]target // of the members whose place is known
	floor   floor
}

// compile makes the flows and groups of a VIP in a switch (docs/architecture.md,
// slots). For each listener: what spreads its connections over the owners of the
// slots, by the method that the switch has (Method); and a flow a member that gives
// its replies the VIP's address. A listener that the switch cannot serve has neither.
func (in vipInput) compile() flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassService}
	for i, ch := range in.choices() {
		if ch.method != MethodRefused {
			in.forward(&p, in.rec.Listeners[i], ch)
			in.reverse(&p, in.rec.Listeners[i])
		}
	}
	return p
}

// reachable returns the owners of a listener's slots among the members that there
// is a path to from this switch. Where the network has fallen apart, the slots of
// those beyond the gap are shared by the others.
func (in vipInput) reachable(l ListenerRecord, owners []uint16) []uint16 {
	up := make(map[uint16]bool, len(l.Members))
	cut := false
	for _, m := range l.Members {
		t, known := in.targets[m.Key.Addr()]
		up[m.Index] = known && (t.port != 0 || in.stage == controller.StageSteer)
		cut = cut || known && !up[m.Index]
	}
	if !cut {
		return owners
	}
	return Spread(l.Slots.Home, owners, func(id uint16) bool { return up[id] })
}

func (in vipInput) forward(p *flowtable.Part, l ListenerRecord, ch choice) {
	owners := ch.owners
	byIndex := make(map[uint16]MemberRecord, len(l.Members))
	for _, m := range l.Members {
		byIndex[m.Index] = m
	}
	serving := map[uint16]bool{}
	for _, id := range owners {
		if _, ok := byIndex[id]; ok {
			serving[id] = true
		}
	}
	if len(serving) == 0 {
		return // the address's drop flow takes its packets
	}
	if ch.level == levelChained {
		for _, m := range l.Members {
			if serving[m.Index] {
				p.Groups = append(p.Groups, in.memberGroup(l, m))
			}
		}
	}
	match := []ofproto.Field{
		ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(l.Key.Protocol.number()),
		ofproto.IPv4Dst(netip.PrefixFrom(in.rec.VIP.Address, 32)), ofproto.L4Dst(l.Key.Protocol.number(), l.Key.Port),
	}
	flow := func(actions []ofproto.Action, more ...ofproto.Field) {
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: controller.PrioVIPForward,
			Match:        ofproto.NewMatch(append(match[:len(match):len(match)], more...)...),
			Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: append(actions, in.learn()...)}},
		})
	}
	if ch.method == MethodSelector {
		for slot, id := range owners {
			if m, ok := byIndex[id]; ok {
				actions := in.actions(l, m, in.caps.Normal)
				if ch.level == levelChained {
					actions = []ofproto.Action{ofproto.Group{ID: m.Group}}
				}
				flow(actions, in.selector(l.Key.Protocol.number(), slot, len(owners))...)
			}
		}
		return
	}
	g := flowtable.Group{ID: l.Group, Type: ofproto.GroupTypeSelect, Buckets: make([]ofproto.Bucket, 0, len(owners))}
	for _, id := range owners {
		m := byIndex[id] // every slot has an owner when one member has: see Spread
		t := in.targets[m.Key.Addr()]
		b := ofproto.Bucket{Weight: 1, WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny}
		switch {
		case ch.level == levelInline:
			b.Actions = in.actions(l, m, in.caps.NormalInBuckets)
			if t.port != 0 && in.caps.WatchPort {
				b.WatchPort = t.port
			}
		default:
			b.Actions = []ofproto.Action{ofproto.Group{ID: m.Group}}
			if t.port != 0 {
				b.WatchGroup = m.Group
			}
		}
		g.Buckets = append(g.Buckets, b)
	}
	p.Groups = append(p.Groups, g)
	flow([]ofproto.Action{ofproto.Group{ID: l.Group}})
}

// memberGroup is the group that delivers to one member: a fast failover group,
// because that type has liveness on Open vSwitch, so that the slots skip the
// member while its port is down. Without a port to watch it is indirect.
func (in vipInput) memberGroup(l ListenerRecord, m MemberRecord) flowtable.Group {
	b := ofproto.Bucket{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: in.actions(l, m, in.caps.NormalInBuckets)}
	g := flowtable.Group{ID: m.Group, Type: ofproto.GroupTypeIndirect}
	if t := in.targets[m.Key.Addr()]; t.port != 0 {
		g.Type, b.WatchPort = ofproto.GroupTypeFastFailover, t.port
	}
	g.Buckets = []ofproto.Bucket{b}
	return g
}

// actions rewrites a packet for a member and sends it there. No action: dropped.
// normal says that NORMAL may be among them.
func (in vipInput) actions(l ListenerRecord, m MemberRecord, normal bool) []ofproto.Action {
	t, ok := in.targets[m.Key.Addr()]
	if !ok {
		return nil
	}
	as := []ofproto.Action{
		ofproto.SetField{Field: ofproto.EthDst(t.mac)},
		ofproto.SetField{Field: ofproto.IPv4Dst(netip.PrefixFrom(m.Key.Addr(), 32))},
	}
	if m.Key.Port() != l.Key.Port {
		as = append(as, ofproto.SetField{Field: ofproto.L4Dst(l.Key.Protocol.number(), m.Key.Port())})
	}
	switch {
	case in.stage == controller.StageSteer && normal && !(t.attached && in.caps.Nicira):
		// The switch's own forwarding knows the way.
		return append(as, ofproto.OutputPort(ofproto.PortNormal))
	case t.port == 0:
		return nil
	}
	if in.caps.Nicira {
		// A switch does not send a packet back out of the port it came in by, which a
		// client and a member behind one port need. Open vSwitch forgets the port when
		// it is set to none.
		as = append(as, ofproto.Load{Dst: ofproto.FieldNXMInPort, Bits: 16})
	}
	return append(as, ofproto.OutputPort(t.port))
}

// learn keeps the switch's own MAC table informed of clients in stage steer. The
// packets of a VIP do not pass NORMAL, so the client would not be learned there
// and replies to it would be flooded. A packet that is sent to its own sender
// teaches the table and goes nowhere.
func (in vipInput) learn() []ofproto.Action {
	if in.stage != controller.StageSteer || !in.caps.Nicira || !in.caps.Normal {
		return nil
	}
	return []ofproto.Action{
		ofproto.Move{Src: ofproto.FieldNXMEthSrc, Dst: ofproto.FieldNXMEthDst, Bits: 48},
		ofproto.OutputPort(ofproto.PortNormal),
	}
}

// reverse gives the replies of every member, drained ones too, the VIP's address
// and port.
func (in vipInput) reverse(p *flowtable.Part, l ListenerRecord) {
	proto := l.Key.Protocol.number()
	for _, m := range l.Members {
		rewrite := []ofproto.Action{ofproto.SetField{Field: ofproto.IPv4Src(netip.PrefixFrom(in.rec.VIP.Address, 32))}}
		if m.Key.Port() != l.Key.Port {
			rewrite = append(rewrite, ofproto.SetField{Field: ofproto.L4Src(proto, l.Key.Port)})
		}
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: controller.PrioVIPReverse,
			Match: ofproto.NewMatch(
				ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(proto),
				ofproto.IPv4Src(netip.PrefixFrom(m.Key.Addr(), 32)), ofproto.L4Src(proto, m.Key.Port()),
			),
			Instructions: []ofproto.Instruction{
				ofproto.ApplyActions{Actions: rewrite},
				ofproto.GotoTable{Table: controller.TableDestination},
			},
		})
	}
}

// selector is the match that stands for one of size slots where no hash does: four
// bits of the source port, and as many of the source address as the slots need
// beyond. The lowest bit of the port says nothing: Linux picks even ones to connect.
// OpenFlow has no masks on ports (§7.2.3.7), Open vSwitch has: elsewhere all bits
// are those of the address, and a client keeps to one slot. Where addresses have no
// such masks, all bits are those of the port.
func (in vipInput) selector(proto uint8, slot, size int) []ofproto.Field {
	all := bits.Len(uint(size - 1))
	portBits := 0
	switch {
	case in.caps.PortMasks && in.caps.AddressMasks:
		portBits = 4
	case in.caps.PortMasks:
		portBits = all
	}
	var fs []ofproto.Field
	if mask := uint16(1<<portBits-1) << 1; mask != 0 {
		fs = append(fs, ofproto.L4SrcMasked(proto, uint16(slot)<<1&mask, mask))
	}
	if addressBits := max(all-portBits, 0); addressBits > 0 {
		fs = append(fs, ofproto.IPv4SrcMasked(uint32(slot>>portBits), 1<<addressBits-1))
	}
	return fs
}

// number is the protocol's number in an IP header.
func (p Protocol) number() uint8 {
	switch p {
	case TCP:
		return packet.ProtoTCP
	case UDP:
		return packet.ProtoUDP
	default:
		return packet.ProtoSCTP
	}
}

// compileAddress is what a switch does for an address of VIPs: ARP requests are
// turned into the reply and sent back, and nothing addressed to it is forwarded
// as ordinary traffic.
func compileAddress(addr netip.Addr, mac ofproto.MAC, answer, nicira bool) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassService, Flows: []flowtable.Flow{{
		Table: controller.TableVIP, Priority: controller.PrioVIPDrop,
		Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPv4Dst(netip.PrefixFrom(addr, 32))),
	}}}
	if !answer {
		return p
	}
	reply := []ofproto.Action{ofproto.ToController()}
	if nicira {
		// The fields of a move are named as Open vSwitch reports them: an entry that
		// reads otherwise than it was written counts as altered.
		reply = []ofproto.Action{
			ofproto.Move{Src: ofproto.FieldNXMEthSrc, Dst: ofproto.FieldNXMEthDst, Bits: 48},
			ofproto.SetField{Field: ofproto.EthSrc(mac)},
			ofproto.SetField{Field: ofproto.ARPOp(packet.ARPReply)},
			ofproto.Move{Src: ofproto.FieldNXMARPSHA, Dst: ofproto.FieldNXMARPTHA, Bits: 48},
			ofproto.Move{Src: ofproto.FieldNXMARPSPA, Dst: ofproto.FieldNXMARPTPA, Bits: 32},
			ofproto.SetField{Field: ofproto.ARPSHA(mac)},
			ofproto.SetField{Field: ofproto.ARPSPA(netip.PrefixFrom(addr, 32))},
			ofproto.OutputPort(ofproto.PortInPort),
		}
	}
	p.Flows = append(p.Flows, flowtable.Flow{
		Table: controller.TableIngress, Priority: controller.PrioVIPARP,
		Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeARP), ofproto.ARPOp(packet.ARPRequest),
			ofproto.ARPTPA(netip.PrefixFrom(addr, 32))),
		Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: reply}},
	})
	return p
}
