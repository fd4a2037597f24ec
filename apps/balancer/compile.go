package balancer

import (
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// target is a member as one switch reaches it.
type target struct {
	mac ofproto.MAC
	hop
	vlan uint16 // of its frames as they are seen; 0: untagged
	// attached: the member is behind a port of this very switch.
	attached bool
}

// hop is the way out of a switch.
type hop struct {
	port   ofproto.Port // 0: no path is known
	spare  ofproto.Port // takes over when port is down (topology.Snapshot.Detour); 0: none
	detour bool         // there is a path without port
}

// isWatched says whether the slots of a member skip it while no port towards it is up.
// Where there is another path, it will be taken in a moment: what is lost until then
// is sent again, and in the hands of another member it would end its connection.
func (h hop) isWatched() bool { return h.port != 0 && (h.spare != 0 || !h.detour) }

// vipInput is all that the part of one VIP in one switch is made from.
type vipInput struct {
	rec    *Record
	owners [][]uint16 // of each listener's slots
	// standings are how the members of each listener stand.
	standings [][]standing
	stage     controller.Stage
	caps      controller.Capabilities
	targets   map[netip.Addr]target // of the members whose place is known
	floor     floor
	now       time.Time
	alone     bool // no other switch serves VIPs
	// shared are the ports that clients may be behind beside a member, where the switch has
	// no table out.
	shared []ofproto.Port
}

// compile makes the flows and groups of a VIP in a switch (docs/architecture.md,
// slots). For each listener: what spreads its connections over the owners of the
// slots, by the method that the switch has (Method); and in mode nat a flow a member
// that gives its replies the VIP's address. A listener that the switch cannot serve has
// neither. choices are those of in.
func (in vipInput) compile(choices []choice) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassService}
	for i, ch := range choices {
		l := in.rec.Listeners[i]
		switch {
		case ch.method == MethodRefused:
			continue
		case in.rec.VIP.Mode == ModeConntrack:
			in.track(&p, l, ch)
			continue
		case in.rec.VIP.Mode == ModeNAT:
			in.reverse(&p, l)
		}
		in.forward(&p, l, ch)
	}
	if in.rec.VIP.Mode == ModeDSR && len(p.Flows) > 0 {
		in.handedOver(&p)
	}
	return p
}

// reachable returns the owners of a listener's slots among the members that there
// is a path to from this switch. Where the network has fallen apart, the slots of
// those beyond the gap are shared by the others.
func (in vipInput) reachable(listener int) []uint16 {
	l, owners := in.rec.Listeners[listener], in.owners[listener]
	cut := false
	var near []standing
	for j, m := range l.Members {
		t, known := in.targets[m.Key.Addr()]
		here := known && (t.port != 0 || in.stage == controller.StageSteer)
		if known && !here {
			if !cut {
				cut, near = true, slices.Clone(in.standings[listener])
			}
			near[j].placed = false
		}
	}
	if !cut {
		return owners
	}
	return present(l.Slots, owners, in.rec.VIP.Listeners[listener].Pool, near)
}

func (in vipInput) forward(p *flowtable.Part, l ListenerRecord, ch choice) {
	owners := ch.owners
	byIndex := make(map[uint16]MemberRecord, len(l.Members))
	for _, m := range l.Members {
		byIndex[m.Index] = m
	}
	serving := make(map[uint16]bool, len(l.Members))
	for _, id := range owners {
		if !serving[id] {
			if _, ok := byIndex[id]; ok {
				serving[id] = true
			}
		}
	}
	if ch.level == levelChained {
		// Members that do not serve at present keep their groups, so that health costs
		// one group-mod, and their counters.
		for _, m := range l.Members {
			if t, known := in.targets[m.Key.Addr()]; serving[m.Index] || known && (t.port != 0 || in.stage == controller.StageSteer) {
				p.Groups = append(p.Groups, in.memberGroup(l, m))
			}
		}
	}
	if len(serving) == 0 {
		in.empty(p, l)
		return
	}
	in.sendBack(p, l, ch, byIndex)
	if ch.method == MethodSelector {
		if ch.lookup {
			in.admit(p, l, ch, in.lookup(l, len(owners)))
		}
		// What the slots of a member have in common is made once.
		of := make(map[uint16][]ofproto.Instruction, len(serving))
		for slot, id := range owners {
			m, ok := byIndex[id]
			if !ok {
				continue
			}
			ins := of[id]
			if ins == nil {
				actions := append([]ofproto.Action{ofproto.Group{ID: m.Group}}, in.learn()...)
				if ch.level != levelChained {
					// A group works on a copy of the packet, actions change it: the client is
					// learned first.
					actions = append(in.learn(), in.actions(l, m, in.caps.Normal)...)
				}
				ins = applied(actions...)
				of[id] = ins
			}
			if ch.lookup {
				p.Flows = append(p.Flows, flowtable.Flow{
					Table: controller.TableSlot, Priority: controller.PrioSlot,
					Match: ofproto.NewMatch(in.slotMatch(l, slot, len(owners))...), Instructions: ins,
				})
				continue
			}
			for _, match := range in.selector(l, slot, len(owners)) {
				in.admit(p, l, ch, ins, match...)
			}
		}
		return
	}
	g := flowtable.Group{ID: l.Group, Type: ofproto.GroupTypeSelect, Buckets: make([]ofproto.Bucket, 0, len(owners))}
	of := make(map[uint16]ofproto.Bucket, len(serving))
	for _, id := range owners {
		b, made := of[id]
		if !made {
			b = in.bucket(l, byIndex[id], ch) // every slot has an owner when one member has: see Spread
			of[id] = b
		}
		g.Buckets = append(g.Buckets, b)
	}
	p.Groups = append(p.Groups, g)
	in.admit(p, l, ch, applied(append([]ofproto.Action{ofproto.Group{ID: l.Group}}, in.learn()...)...))
}

// bucket is that of a slot of a member. All slots of a member share its actions.
func (in vipInput) bucket(l ListenerRecord, m MemberRecord, ch choice) ofproto.Bucket {
	t := in.targets[m.Key.Addr()]
	b := ofproto.Bucket{Weight: 1, WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny}
	if ch.level == levelInline {
		b.Actions = in.actions(l, m, in.caps.NormalInBuckets)
		if t.port != 0 && !t.detour && in.caps.WatchPort {
			b.WatchPort = t.port
		}
		return b
	}
	b.Actions = []ofproto.Action{ofproto.Group{ID: m.Group}}
	if t.isWatched() {
		b.WatchGroup = m.Group
	}
	return b
}

// memberGroup is the group that delivers to one member: where it is watched a fast
// failover group, because that type has liveness on Open vSwitch, so that the slots skip
// the member while its ports are down; else indirect.
func (in vipInput) memberGroup(l ListenerRecord, m MemberRecord) flowtable.Group {
	t := in.targets[m.Key.Addr()]
	bucket := ofproto.Bucket{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: in.actions(l, m, in.caps.NormalInBuckets)}
	g := flowtable.Group{ID: m.Group, Type: ofproto.GroupTypeIndirect}
	if t.isWatched() {
		g.Type, bucket.WatchPort = ofproto.GroupTypeFastFailover, t.port
	}
	g.Buckets = []ofproto.Bucket{bucket}
	if t.spare != 0 {
		t.port = t.spare
		bucket.Actions, bucket.WatchPort = in.actionsTo(t, l, m, in.caps.NormalInBuckets), t.spare
		g.Buckets = append(g.Buckets, bucket)
	}
	return g
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
