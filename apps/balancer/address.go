package balancer

import (
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

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
