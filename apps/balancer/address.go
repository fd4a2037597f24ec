package balancer

import (
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// compileAddress is what a switch does for an address of VIPs in a VLAN: ARP requests
// and neighbour solicitations are turned into the reply and sent back, and nothing
// addressed to it is forwarded as ordinary traffic.
func compileAddress(addr netip.Addr, vlan uint16, mac ofproto.MAC, answer bool, caps controller.Capabilities) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassService, Flows: []flowtable.Flow{{
		Table: controller.TableVIP, Priority: controller.PrioVIPDrop,
		Match: ofproto.NewMatch(append(network(addr, vlan), ipDst(addr))...),
	}}}
	switch {
	case !answer:
	case addr.Is6():
		p.Flows = append(p.Flows, answerND(addr, vlan, mac, caps)...)
	default:
		p.Flows = append(p.Flows, answerARP(addr, vlan, mac, caps))
	}
	return p
}

// answerARP answers ARP requests for an address.
func answerARP(addr netip.Addr, vlan uint16, mac ofproto.MAC, caps controller.Capabilities) flowtable.Flow {
	reply := []ofproto.Action{ofproto.ToController()}
	if caps.Nicira {
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
	return flowtable.Flow{
		Table: controller.TableIngress, Priority: controller.PrioVIPARP,
		Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeARP), inVLAN(vlan), ofproto.ARPOp(packet.ARPRequest),
			ofproto.ARPTPA(netip.PrefixFrom(addr, 32))),
		Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: reply}},
	}
}

// answersND says whether a switch answers neighbour solicitations by itself.
func answersND(caps controller.Capabilities) bool {
	return caps.Nicira && caps.NDAnswers && !caps.OneTable()
}

// ndFlags are those of the answer to one asker (RFC 4861 §4.4): solicited, override.
const ndFlags = 0x60000000

// answering marks an advertisement that is in the making.
var answering = ofproto.Field{Type: ofproto.FieldNXMReg0 + controller.RegAnswer, Value: []byte{0, 0, 0, 1}}

// answerND answers neighbour solicitations for an address. Open vSwitch makes the
// advertisement of the solicitation, in two entries: a target link address can be
// written only where the match says that it is an advertisement. A solicitation
// without a link address has no room for one in the answer; those of duplicate address
// detection are of that kind, and want another answer. The controller gives it.
func answerND(addr netip.Addr, vlan uint16, mac ofproto.MAC, caps controller.Capabilities) []flowtable.Flow {
	nd := func(icmpType uint8, more ...ofproto.Field) ofproto.Match {
		return ofproto.NewMatch(append(append(network(addr, vlan), ofproto.IPProto(packet.ProtoICMPv6),
			ofproto.ICMPv6Type(icmpType), ofproto.IPv6NDTarget(addr)), more...)...)
	}
	apply := func(actions ...ofproto.Action) []ofproto.Instruction {
		return []ofproto.Instruction{ofproto.ApplyActions{Actions: actions}}
	}
	set := func(f ofproto.Field) ofproto.Action { return ofproto.SetField{Field: f} }
	punt := flowtable.Flow{
		Table: controller.TableIngress, Priority: controller.PrioVIPARP,
		Match: nd(packet.ICMPv6NeighborSolicitation), Instructions: apply(ofproto.ToController()),
	}
	if !answersND(caps) {
		return []flowtable.Flow{punt}
	}
	punt.Priority, punt.Match = controller.PrioVIPNoLink, nd(packet.ICMPv6NeighborSolicitation, ofproto.IPv6NDSLL(ofproto.MAC{}))
	return []flowtable.Flow{
		punt,
		{
			Table: controller.TableIngress, Priority: controller.PrioVIPARP,
			Match: nd(packet.ICMPv6NeighborSolicitation),
			Instructions: append(apply(
				ofproto.Move{Src: ofproto.FieldNXMEthSrc, Dst: ofproto.FieldNXMEthDst, Bits: 48},
				set(ofproto.EthSrc(mac)),
				ofproto.Move{Src: ofproto.FieldNXMIPv6Src, Dst: ofproto.FieldNXMIPv6Dst, Bits: 128},
				set(ipSrc(addr)),
				set(ofproto.NDOptionsType(packet.NDTargetLinkAddr)),
				set(ofproto.NDReserved(ndFlags)),
				set(ofproto.ICMPv6Type(packet.ICMPv6NeighborAdvertisement)),
				set(answering),
			), ofproto.GotoTable{Table: controller.TableVIP}),
		},
		{
			Table: controller.TableVIP, Priority: controller.PrioVIPForward,
			Match:        nd(packet.ICMPv6NeighborAdvertisement, answering),
			Instructions: apply(set(ofproto.IPv6NDTLL(mac)), ofproto.OutputPort(ofproto.PortInPort)),
		},
	}
}
