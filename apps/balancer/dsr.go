package balancer

import (
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// Mode dsr: a packet goes to the member's MAC and keeps the VIP's address, which the
// member has on its loopback. Its replies are those of the VIP already, and are
// ordinary traffic.

// handedOver lets pass what another switch has sent on its way to a member: it has the
// VIP's address still, and must not be spread once more.
func (in vipInput) handedOver(p *flowtable.Part) {
	var macs []ofproto.MAC
	for _, l := range in.rec.Listeners {
		for _, m := range l.Members {
			if t, ok := in.targets[m.Key.Addr()]; ok && !slices.Contains(macs, t.mac) {
				macs = append(macs, t.mac)
			}
		}
	}
	slices.SortFunc(macs, func(a, b ofproto.MAC) int { return slices.Compare(a[:], b[:]) })
	for _, mac := range macs {
		match := append(network(in.rec.VIP.Address, in.rec.VIP.VLAN), ofproto.EthDst(mac), ipDst(in.rec.VIP.Address))
		for _, match := range in.allowed([][]ofproto.Field{match}) {
			p.Flows = append(p.Flows, flowtable.Flow{
				Table: controller.TableVIP, Priority: controller.PrioVIPChosen,
				Match:        ofproto.NewMatch(match...),
				Instructions: []ofproto.Instruction{ofproto.GotoTable{Table: controller.TableDestination}},
			})
		}
	}
}

// compileClaims keeps the address of VIPs from being claimed by another MAC than theirs,
// and their MAC from being any host's. Members in mode dsr have the address, and one that
// is not set up with care says so in ARP. What such a member wants to know it is told
// still: its requests go on without the address, where direct says that there are such.
// The controller gets no copy. Replies that other switches have made pass. A switch with
// one table would need an entry for each host, and has none of this.
func compileClaims(addr netip.Addr, vlan uint16, mac ofproto.MAC, stage controller.Stage, caps controller.Capabilities, direct bool) (flows []flowtable.Flow) {
	if caps.OneTable() {
		return nil
	}
	next := controller.TableVIP
	if stage == controller.StageManaged {
		next = controller.TableSource
		flows = append(flows, flowtable.Flow{
			Table: controller.TableSource, Priority: controller.PrioSourceVIP, Match: ofproto.NewMatch(ofproto.EthSrc(mac), inVLAN(vlan)),
		})
	}
	on := []ofproto.Instruction{ofproto.GotoTable{Table: next}}
	flow := func(priority uint16, ins []ofproto.Instruction, match ...ofproto.Field) flowtable.Flow {
		return flowtable.Flow{Table: controller.TableIngress, Priority: priority, Match: ofproto.NewMatch(match...), Instructions: ins}
	}
	claim, own := claimOf(addr, vlan, mac)
	flows = append(flows, flow(controller.PrioVIPOwn, on, own...), flow(controller.PrioVIPClaim, nil, claim...))
	if direct && caps.Nicira && addr.Is4() { // the specification's own switches need not write fields of ARP
		without := ofproto.ApplyActions{Actions: []ofproto.Action{
			ofproto.SetField{Field: ofproto.ARPSPA(netip.PrefixFrom(netip.IPv4Unspecified(), 32))},
		}}
		flows = append(flows, flow(controller.PrioVIPAsks, append([]ofproto.Instruction{without}, on...), append(claim[:len(claim):len(claim)], ofproto.ARPOp(packet.ARPRequest))...))
	}
	return flows
}

// claimOf matches the ARP or neighbour advertisements that give an address a MAC, and of
// those the ones that give it this MAC.
func claimOf(addr netip.Addr, vlan uint16, mac ofproto.MAC) (claim, own []ofproto.Field) {
	theirs := ofproto.ARPSHA(mac)
	if addr.Is4() {
		claim = []ofproto.Field{ofproto.EthType(packet.EtherTypeARP), inVLAN(vlan), ofproto.ARPSPA(netip.PrefixFrom(addr, 32))}
	} else {
		claim = append(network(addr, vlan), ofproto.IPProto(packet.ProtoICMPv6), ofproto.ICMPv6Type(packet.ICMPv6NeighborAdvertisement), ofproto.IPv6NDTarget(addr))
		theirs = ofproto.EthSrc(mac)
	}
	return claim, append(slices.Clone(claim), theirs)
}
