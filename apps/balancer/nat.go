package balancer

import (
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// actions rewrites a packet for a member, as the mode says, and sends it there. No
// action: dropped. normal says that NORMAL may be among them.
func (in vipInput) actions(l ListenerRecord, m MemberRecord, normal bool) []ofproto.Action {
	t, ok := in.targets[m.Key.Addr()]
	if !ok {
		return nil
	}
	return in.actionsTo(t, l, m, normal)
}

// actionsTo is actions for a member that is reached in a way of its own.
func (in vipInput) actionsTo(t target, l ListenerRecord, m MemberRecord, normal bool) []ofproto.Action {
	deliver := in.deliver(t, normal)
	if in.rec.VIP.Mode != ModeNAT || len(deliver) == 0 {
		return deliver
	}
	as := []ofproto.Action{deliver[0], ofproto.SetField{Field: ipDst(m.Key.Addr())}}
	if m.Key.Port() != l.Key.Port {
		as = append(as, ofproto.SetField{Field: ofproto.L4Dst(l.Key.Protocol.number(), m.Key.Port())})
	}
	return append(as, deliver[1:]...)
}

// deliver sends a packet to a member's MAC, which it sets first. No action: there is no
// way to it.
func (in vipInput) deliver(t target, normal bool) []ofproto.Action {
	as := []ofproto.Action{ofproto.SetField{Field: ofproto.EthDst(t.mac)}}
	if in.rec.VIP.SourceNAT && in.stage == controller.StageManaged && !t.attached {
		// The VIP's MAC tells the switch of the member that a source is to be changed.
		as[0] = ofproto.SetField{Field: ofproto.EthDst(in.rec.VIP.MAC)}
	}
	switch {
	case in.stage == controller.StageSteer && normal && !(t.attached && in.caps.Nicira):
		// The switch's own forwarding knows the way.
		return append(as, ofproto.OutputPort(ofproto.PortNormal))
	case t.port == 0:
		return nil
	}
	if in.rec.VIP.VLAN != 0 && t.vlan == 0 {
		as = append(as, ofproto.PopVLAN{}) // behind an access port; NORMAL does it by itself
	}
	if byOut(in.caps) {
		return append(as, sendOut(in.rec.VIP.MAC, t.port)...)
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
	// Of the members at one port all have the same.
	var kept, changed []ofproto.Instruction
	rewrite := func(as ...ofproto.Action) []ofproto.Instruction {
		return []ofproto.Instruction{ofproto.ApplyActions{Actions: as}, ofproto.GotoTable{Table: controller.TableDestination}}
	}
	source := ofproto.SetField{Field: ipSrc(in.rec.VIP.Address)}
	for _, m := range l.Members {
		ins := kept
		if m.Key.Port() != l.Key.Port {
			if changed == nil {
				changed = rewrite(source, ofproto.SetField{Field: ofproto.L4Src(proto, l.Key.Port)})
			}
			ins = changed
		} else if ins == nil {
			kept = rewrite(source)
			ins = kept
		}
		for _, match := range in.replyMatches(l, m) {
			p.Flows = append(p.Flows, flowtable.Flow{
				Table: controller.TableVIP, Priority: controller.PrioVIPReverse, Match: ofproto.NewMatch(match...), Instructions: ins,
			})
		}
	}
}
