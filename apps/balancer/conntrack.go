package balancer

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// Mode conntrack: the switch by which a client's packets come in keeps the member of
// each connection. A packet to the VIP is looked up first (table tracked). One without a
// connection takes a slot, and the slot's bucket commits the connection with the
// member's address as its new destination; one with a connection never sees the slots.
// Both are sent on by the member's address (table member), which is there for members
// that serve no new connections too.
//
// Every switch looks up the replies of members, and the one that has the connection
// gives them the VIP's address.
//
// With source_nat, and where the client is behind the member's own port, which a member
// that is its own client is, the source becomes the VIP's address at the switch that the
// member is attached to: so replies come back to the VIP, and not past the switch. The
// client's MAC and port are kept with the connection (table return).
//
// All VIPs of a VLAN share their zones (controller.Zones), so that connections of
// several VIPs to one member are told apart: where two would look the same to the
// member, Open vSwitch changes the port of one.

// Source ports of translated connections. Those above are of health monitors.
const (
	natPortFirst uint16 = 1024
	natPortLast  uint16 = 61439
)

// Bits of a connection's label: the client's MAC, and the port its packets come in by.
const (
	labelPort     = 48
	labelPortBits = 16
)

// etherType is that of the VIP's family.
func (in vipInput) etherType() uint16 { return etherTypeOf(in.rec.VIP.Address) }

func etherTypeOf(a netip.Addr) uint16 {
	if a.Is6() {
		return packet.EtherTypeIPv6
	}
	return packet.EtherTypeIPv4
}

// ofListener matches what has been found to be for a listener.
func ofListener(l ListenerRecord, addr netip.Addr) []ofproto.Field {
	return []ofproto.Field{ofproto.NXMReg(controller.RegListener, uint32(l.Group), ^uint32(0)), ofproto.EthType(etherTypeOf(addr))}
}

func applied(actions ...ofproto.Action) []ofproto.Instruction {
	return []ofproto.Instruction{ofproto.ApplyActions{Actions: actions}}
}

// track is the part of a listener in mode conntrack.
func (in vipInput) track(p *flowtable.Part, l ListenerRecord, ch choice) {
	zone, _ := controller.Zones(in.rec.VIP.VLAN)
	vip := in.rec.VIP.Address
	flow := func(table ofproto.Table, priority uint16, ins []ofproto.Instruction, match ...ofproto.Field) {
		p.Flows = append(p.Flows, flowtable.Flow{Table: table, Priority: priority, Match: ofproto.NewMatch(match...), Instructions: ins})
	}
	in.admit(p, l, ch, applied(append([]ofproto.Action{
		ofproto.Load{Dst: ofproto.FieldNXMReg0 + controller.RegListener, Bits: 32, Value: uint64(l.Group)},
		ofproto.CT{Zone: zone, Table: controller.TableTracked, Actions: []ofproto.Action{ofproto.NAT{}}},
	}, in.learn()...)...))

	// New connections.
	byIndex := map[uint16]MemberRecord{}
	for j, m := range l.Members {
		if in.delivers(l, j) {
			byIndex[m.Index] = m
		}
	}
	serving := slices.ContainsFunc(ch.owners, func(id uint16) bool { _, ok := byIndex[id]; return ok })
	fresh := append(ofListener(l, vip), ipDst(vip))
	switch {
	case !serving && in.rec.VIP.OnEmpty == OnEmptyReject:
		flow(controller.TableTracked, controller.PrioNew, applied(ofproto.ToController()), fresh...)
	case !serving:
	case ch.method == MethodSelector:
		flow(controller.TableTracked, controller.PrioNew, in.lookup(l, len(ch.owners)), fresh...)
		for slot, id := range ch.owners {
			if m, ok := byIndex[id]; ok {
				flow(controller.TableSlot, controller.PrioSlot, applied(in.commit(l, m)), in.slotMatch(l, slot, len(ch.owners))...)
			}
		}
	default:
		g := flowtable.Group{ID: l.Group, Type: ofproto.GroupTypeSelect}
		for _, id := range ch.owners {
			b := ofproto.Bucket{Weight: 1, WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny}
			if m, ok := byIndex[id]; ok { // as it has, where another has: see Spread
				b.Actions = []ofproto.Action{in.commit(l, m)}
				if in.targets[m.Key.Addr()].isWatched() {
					b.WatchGroup = m.Group
				}
			}
			g.Buckets = append(g.Buckets, b)
		}
		p.Groups = append(p.Groups, g)
		flow(controller.TableTracked, controller.PrioNew, applied(ofproto.Group{ID: l.Group}), fresh...)
	}

	// Members, whether they take new connections or not.
	for j, m := range l.Members {
		if !in.delivers(l, j) {
			continue
		}
		p.Groups = append(p.Groups, in.memberGroup(l, m))
		addr := m.Key.Addr()
		to := append(ofListener(l, vip), ipDst(addr))
		if in.ports(l).single() {
			proto := l.Key.Protocol.number()
			to = append(to, ofproto.IPProto(proto), ofproto.L4Dst(proto, m.Key.Port()))
		}
		send := applied(ofproto.Group{ID: m.Group})
		t, masked := in.targets[addr], applied(in.masquerade())
		if t.attached || in.stage == controller.StageSteer {
			// What has the VIP's address has its MAC: a bridge behind the port must not learn
			// that its own hosts are here.
			sent := applied(ofproto.SetField{Field: ofproto.EthSrc(in.rec.VIP.MAC)}, ofproto.Group{ID: m.Group})
			flow(controller.TableMember, controller.PrioMemberSent, sent, append(to[:len(to):len(to)], ipSrc(vip))...)
			if in.rec.VIP.SourceNAT {
				send = masked
			}
		}
		if t.attached {
			flow(controller.TableMember, controller.PrioMemberHairpin, masked, append(to[:len(to):len(to)], ofproto.InPort(t.port))...)
		}
		flow(controller.TableMember, controller.PrioMember, send, to...)
	}
}

// commit makes a connection with a member.
func (in vipInput) commit(l ListenerRecord, m MemberRecord) ofproto.Action {
	zone, _ := controller.Zones(in.rec.VIP.VLAN)
	nat := ofproto.NAT{Flags: ofproto.NATDst, IPMin: m.Key.Addr()}
	if in.ports(l).single() {
		nat.PortMin = m.Key.Port()
	}
	return ofproto.CT{Flags: ofproto.CTCommit, Zone: zone, Table: controller.TableMember, Actions: []ofproto.Action{nat}}
}

// masquerade gives a packet to a member the VIP's address as its source.
func (in vipInput) masquerade() ofproto.Action {
	_, zone := controller.Zones(in.rec.VIP.VLAN)
	return ofproto.CT{Flags: ofproto.CTCommit, Zone: zone, Table: controller.TableMember, Actions: []ofproto.Action{
		ofproto.NAT{Flags: ofproto.NATSrc, IPMin: in.rec.VIP.Address, PortMin: natPortFirst, PortMax: natPortLast},
		ofproto.Move{Src: ofproto.FieldNXMEthSrc, Dst: ofproto.FieldNXMCTLabel, Bits: 48},
		ofproto.Move{Src: ofproto.FieldNXMInPort, Dst: ofproto.FieldNXMCTLabel, DstOffset: labelPort, Bits: labelPortBits},
	}}
}

// delivers says whether packets of connections of a member are sent to it: in any case
// but when it is down by intent, or has drained for as long as it may.
func (in vipInput) delivers(l ListenerRecord, member int) bool {
	m := l.Members[member]
	pool := in.document(l).Pool
	doc := pool.Members[member]
	t, known := in.targets[m.Key.Addr()]
	if doc.AdminState == AdminDown || !known || t.port == 0 && in.stage != controller.StageSteer {
		return false
	}
	end := drainEnd(pool, m)
	return end.IsZero() || in.now.Before(end)
}

// drainEnd is when the connections of a member that drains are cut; zero: never.
func drainEnd(p Pool, m MemberRecord) time.Time {
	if m.Drained.IsZero() || p.DrainTimeout == 0 {
		return time.Time{}
	}
	return m.Drained.Add(time.Duration(p.DrainTimeout))
}

// untracked says why a switch cannot serve a listener in mode conntrack; empty where it
// can.
func (in vipInput) untracked(l ListenerRecord, owners []uint16) string {
	caps := in.caps
	if !caps.ConnTrack || !caps.Hashing || !byOut(caps) || !caps.Select || !caps.FastFailover || !caps.Chaining || !caps.WatchGroup {
		return "mode conntrack needs Open vSwitch with connection tracking: use nat or dsr"
	}
	if in.floor.level > levelChained {
		return "mode conntrack needs groups in groups"
	}
	if in.stage != controller.StageSteer {
		return ""
	}
	var far []string
	for _, m := range l.Members {
		if t, ok := in.targets[m.Key.Addr()]; ok && !t.attached && slices.Contains(owners, m.Index) {
			far = append(far, m.Key.Addr().String())
		}
	}
	switch {
	case len(far) == 0:
	case !in.rec.VIP.SourceNAT:
		return fmt.Sprintf("replies of %s need not come by this switch, which has the connections: set source_nat, or use nat or dsr", strings.Join(far, ", "))
	case !in.alone:
		return fmt.Sprintf("replies of %s to the VIP may come to another switch than this one, which has the connections: have one switch serve, or use nat or dsr", strings.Join(far, ", "))
	}
	return ""
}

// compileTracking is what a switch does in mode conntrack for all VIPs.
func compileTracking() flowtable.Part {
	invalid := ofproto.CTInvalid | ofproto.CTTracked
	return flowtable.Part{Class: flowtable.ClassService, Flows: []flowtable.Flow{
		{Table: controller.TableTracked, Priority: controller.PrioInvalid, Match: ofproto.NewMatch(ofproto.NXMCTState(invalid, invalid))},
		{Table: controller.TableTracked, Priority: controller.PrioKnown, Instructions: []ofproto.Instruction{ofproto.GotoTable{Table: controller.TableMember}}},
	}}
}

// icmpErrors match the ICMP messages that quote a packet they are about.
func icmpErrors(a netip.Addr) [][]ofproto.Field {
	var all [][]ofproto.Field
	if a.Is6() {
		for t := packet.ICMPv6Unreachable; t <= packet.ICMPv6ParameterProblem; t++ {
			all = append(all, []ofproto.Field{ofproto.IPProto(packet.ProtoICMPv6), ofproto.ICMPv6Type(t)})
		}
		return all
	}
	for _, t := range []uint8{packet.ICMPUnreachable, packet.ICMPTimeExceeded, packet.ICMPParameterProblem} {
		all = append(all, []ofproto.Field{ofproto.IPProto(packet.ProtoICMP), ofproto.ICMPv4Type(t)})
	}
	return all
}

// translatesErrors says whether Open vSwitch gets the translation of ICMP errors right.
// Of IPv6 it takes the header of the error for that of the packet quoted: it writes a
// checksum into the MTU, or into the address quoted (seen with 3.1). There the
// controller translates them as in mode nat.
func translatesErrors(a netip.Addr) bool { return a.Is4() }

// trackErrors looks up ICMP errors to an address of VIPs in mode conntrack.
func trackErrors(addr netip.Addr, vlan uint16) (flows []flowtable.Flow) {
	if !translatesErrors(addr) {
		return nil
	}
	zone, _ := controller.Zones(vlan)
	for _, icmp := range icmpErrors(addr) {
		flows = append(flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: controller.PrioVIPRelated,
			Match:        ofproto.NewMatch(append(append(network(addr, vlan), ipDst(addr)), icmp...)...),
			Instructions: applied(ofproto.CT{Zone: zone, Table: controller.TableTracked, Actions: []ofproto.Action{ofproto.NAT{}}}),
		})
	}
	return flows
}

// compileTrackedMember is what a switch does about the packets of a member of VIPs in
// mode conntrack: which VIP a reply is of, the connection says. VIPs that share the
// member share the entries.
func compileTrackedMember(addr netip.Addr, vips []vipInput) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassService}
	seen := map[string]bool{}
	flow := func(table ofproto.Table, priority uint16, ins []ofproto.Instruction, match ...ofproto.Field) {
		f := flowtable.Flow{Table: table, Priority: priority, Match: ofproto.NewMatch(match...), Instructions: ins}
		if key := fmt.Sprint(table, priority, f.Match); !seen[key] {
			seen[key] = true
			p.Flows = append(p.Flows, f)
		}
	}
	for _, in := range vips {
		t, known := in.targets[addr]
		if !known {
			continue
		}
		vip := in.rec.VIP.Address
		destination, source := controller.Zones(in.rec.VIP.VLAN)
		back := func(zone uint16, table ofproto.Table) ofproto.Action {
			return ofproto.CT{Zone: zone, Table: table, Actions: []ofproto.Action{ofproto.NAT{}}}
		}
		for i, ch := range in.choices() {
			l := in.rec.Listeners[i]
			if ch.method == MethodRefused {
				continue
			}
			for _, m := range l.Members {
				if m.Key.Addr() != addr {
					continue
				}
				for _, match := range in.replyMatches(l, m) {
					flow(controller.TableVIP, controller.PrioVIPTracked, applied(back(destination, controller.TableDestination)), match...)
					flow(controller.TableVIP, controller.PrioVIPChosen, applied(ofproto.SetField{Field: ofproto.EthSrc(in.rec.VIP.MAC)}, back(source, controller.TableReturn)),
						append(match[:len(match):len(match)], ipDst(vip))...)
					in.returned(flow, match, back)
				}
				if in.rec.VIP.SourceNAT && in.stage == controller.StageManaged {
					// From the switch that chose the member: the VIP's MAC says so.
					match := append(network(addr, in.rec.VIP.VLAN), ofproto.EthDst(in.rec.VIP.MAC), ipDst(addr), ofproto.IPProto(l.Key.Protocol.number()))
					if in.ports(l).single() {
						match = append(match, ofproto.L4Dst(l.Key.Protocol.number(), m.Key.Port()))
					}
					flow(controller.TableVIP, controller.PrioVIPChosen, []ofproto.Instruction{
						ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.Load{Dst: ofproto.FieldNXMReg0 + controller.RegListener, Bits: 32, Value: uint64(l.Group)}}},
						ofproto.GotoTable{Table: controller.TableMember},
					}, match...)
				}
			}
		}
		if !translatesErrors(addr) {
			continue
		}
		for _, icmp := range icmpErrors(addr) {
			flow(controller.TableVIP, controller.PrioVIPRelated, applied(back(destination, controller.TableDestination)),
				append(append(network(addr, t.vlan), ipSrc(addr)), icmp...)...)
		}
		related := ofproto.CTRelated | ofproto.CTTracked
		if as := in.deliver(t, in.caps.Normal); len(as) > 0 {
			flow(controller.TableMember, controller.PrioMemberRelated, applied(as...),
				append(network(addr, in.rec.VIP.VLAN), ofproto.NXMCTState(related, related), ipDst(addr))...)
		}
	}
	return p
}

// returned sends replies to the VIP itself on, when they have the client's address again.
func (in vipInput) returned(flow func(ofproto.Table, uint16, []ofproto.Instruction, ...ofproto.Field), match []ofproto.Field, back func(uint16, ofproto.Table) ofproto.Action) {
	destination, _ := controller.Zones(in.rec.VIP.VLAN)
	actions := []ofproto.Action{ofproto.Move{Src: ofproto.FieldNXMCTLabel, Dst: ofproto.FieldNXMEthDst, Bits: 48}}
	next := controller.TableDestination
	if in.stage == controller.StageSteer {
		next = controller.TableOut
		actions = append(actions, ofproto.Move{
			Src: ofproto.FieldNXMCTLabel, SrcOffset: labelPort, Dst: ofproto.FieldNXMReg0 + controller.RegPort, Bits: labelPortBits,
		})
	}
	actions = append(actions, ofproto.Load{Dst: ofproto.FieldNXMInPort, Bits: 16}, back(destination, next))
	reply := ofproto.CTReply | ofproto.CTTracked
	flow(controller.TableReturn, controller.PrioReturn, applied(actions...),
		append(slices.DeleteFunc(slices.Clone(match), func(f ofproto.Field) bool {
			return f.Type == ofproto.FieldVLANVID || f.Type == ofproto.FieldNXMIPFrag
		}), ofproto.NXMCTState(reply, reply))...)
}

// noteDrains remembers since when members drain.
func (rec *Record) noteDrains(old Record, now time.Time) {
	for i, l := range rec.Listeners {
		was := map[MemberKey]time.Time{}
		for _, o := range old.Listeners {
			if o.Key == l.Key {
				for _, m := range o.Members {
					was[m.Key] = m.Drained
				}
			}
		}
		for j, m := range l.Members {
			switch {
			case rec.VIP.Listeners[i].Pool.Members[j].SlotWeight() > 0:
				rec.Listeners[i].Members[j].Drained = time.Time{}
			case !was[m.Key].IsZero():
				rec.Listeners[i].Members[j].Drained = was[m.Key]
			default:
				rec.Listeners[i].Members[j].Drained = now
			}
		}
	}
}

// nextCut is when the next connections of a record's members are cut; zero: never.
func (rec *Record) nextCut(now time.Time) (next time.Time) {
	if rec == nil || rec.VIP.Mode != ModeConntrack {
		return next
	}
	for i, l := range rec.Listeners {
		for _, m := range l.Members {
			end := drainEnd(rec.VIP.Listeners[i].Pool, m)
			if end.After(now) && (next.IsZero() || end.Before(next)) {
				next = end
			}
		}
	}
	return next
}
