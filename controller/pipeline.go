package controller

import (
	"net/netip"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// The apps that own flows. The numbers travel in cookies and never change.
const (
	AppDiscovery  flowtable.AppID = 1
	AppForwarding flowtable.AppID = 2
	AppBalancer   flowtable.AppID = 3
	AppHealth     flowtable.AppID = 4
	AppMeasure    flowtable.AppID = 5
	AppStore      flowtable.AppID = 15 // the mark of the store; see gate.go
)

// AppNames names the apps for display and documentation.
var AppNames = map[flowtable.AppID]string{
	AppDiscovery:  "discovery",
	AppForwarding: "forwarding",
	AppBalancer:   "balancer",
	AppHealth:     "health",
	AppMeasure:    "reachability",
	AppStore:      "store",
}

// ProbeMAC is the source address of the frames that the controller itself sends:
// discovery probes, ARP requests and the probes of health monitors. ARP replies to
// it go to the controller.
var ProbeMAC = ofproto.MAC{0x02, 0x46, 0x4c, 0x00, 0x00, 0x01}

// ProbeAddress6 is the link-local address that belongs to ProbeMAC (RFC 4291, appendix A):
// a neighbour solicitation needs one to be answered to.
var ProbeAddress6 = netip.MustParseAddr("fe80::46:4cff:fe00:1")

// OwnMACs is the first of the range of addresses that the controller takes for itself and
// for VIPs, OwnMACsMask what they have in common.
var (
	OwnMACs     = ofproto.MAC{ProbeMAC[0], ProbeMAC[1], ProbeMAC[2]}
	OwnMACsMask = ofproto.MAC{0xff, 0xff, 0xff}
)

// The flow tables. Sources are learned before VIPs are rewritten, because a VIP's
// group sends a packet out at once and its client would never be learned.
const (
	TableIngress     ofproto.Table = 0
	TableSource      ofproto.Table = 1
	TableVIP         ofproto.Table = 2
	TableDestination ofproto.Table = 3
)

// The tables of what only Open vSwitch has: registers, connection tracking and packets
// that groups look up again.
const (
	TableTracked ofproto.Table = 4
	TableSlot    ofproto.Table = 5
	TableMember  ofproto.Table = 6
	TableReturn  ofproto.Table = 7
	TableOut     ofproto.Table = 8
)

// Registers, and what they hold.
const (
	RegSlot     = 0 // the slot that a hash chose
	RegListener = 1 // the group id of the listener
	RegPort     = 2 // a port to send to
	RegAnswer   = 3 // 1: the answer to a neighbour solicitation in the making
	RegMAC      = 4 // the lower half of the MAC of the VIP that the packet is for
)

// Zones of connection tracking: one for destinations that were changed, and one for
// sources, for each VLAN.
const (
	zoneDestination uint16 = 0x4000
	zoneSource      uint16 = 0x5000
)

// Zones returns the zones of connection tracking of a VLAN, 0 for untagged packets:
// one for translated destinations, one for translated sources. All VIPs of a VLAN share
// them, because the connections to a member that several have must differ.
func Zones(vlan uint16) (destination, source uint16) {
	return zoneDestination | vlan&0xfff, zoneSource | vlan&0xfff
}

// Priorities, by table.
const (
	PrioMark        uint16 = 65500 // ingress: the mark of the store
	PrioAlive       uint16 = 65100 // ingress: probes that the switch sends back
	PrioDiscovery   uint16 = 65000 // ingress: LLDP
	PrioProbe       uint16 = 64000 // ingress: ARP replies to the controller's own requests
	PrioBPDUGuard   uint16 = 51000 // ingress: BPDUs, where they block the port
	PrioBlocked     uint16 = 50000 // ingress: ports that another one leads to the same segment for
	PrioBPDU        uint16 = 45000 // ingress: BPDUs
	PrioFlooding    uint16 = 44001 // ingress: the broadcast of a measurement, while there is one
	PrioMeasured    uint16 = 44000 // ingress: answers to measurements, and broadcasts that are left of one
	PrioVIPQuiet    uint16 = 40200 // ingress: the same at ports where another switch answers
	PrioVIPNoLink   uint16 = 40100 // ingress: neighbour solicitations for a VIP without a link address
	PrioVIPARP      uint16 = 40000 // ingress: ARP, neighbour solicitations for a VIP
	PrioVIPOwn      uint16 = 39002 // ingress: ARP of a VIP's own MAC
	PrioVIPAsks     uint16 = 39001 // ingress: ARP requests of others by a VIP's address
	PrioVIPClaim    uint16 = 39000 // ingress: ARP of others that claim a VIP's address
	PrioMemberOwn   uint16 = 38001 // ingress: ARP of a member whose MAC a database has
	PrioMemberClaim uint16 = 38000 // ingress: ARP of others that claim its address
	PrioMeasure     uint16 = 30001 // ingress: questions of measurements
	PrioARP         uint16 = 30000 // ingress: copies of ARP
	// PrioMiss is above 0, so that the entry NORMAL of priority 0 that many bridges
	// have from before stays what it is and is not in the way.
	PrioMiss uint16 = 1 // every table

	PrioSourceOwn       uint16 = 160 // source: the controller's and VIPs' addresses on segments
	PrioSourceVIP       uint16 = 150 // source: a VIP's address from hosts
	PrioSourceElsewhere uint16 = 90  // source: pinned hosts where they do not belong
	PrioSourceLink      uint16 = 200 // source: ports that lead to other switches, or bring a flood
	PrioSourceHost      uint16 = 100 // source: known hosts where they belong

	PrioProbeReply uint16 = 400 // vip: replies to health monitors; ingress where that is all
	PrioVIPChosen  uint16 = 350 // vip: what is on its way to a member, or back, already
	PrioVIPBack    uint16 = 320 // vip: listeners, from ports that packets may have to leave by again
	PrioVIPLimit   uint16 = 310 // vip: new connections of a listener that bounds them
	PrioVIPForward uint16 = 300 // vip: listeners
	PrioVIPRelated uint16 = 210 // vip: ICMP errors about connections
	PrioVIPTracked uint16 = 205 // vip: replies of members in mode conntrack
	PrioVIPReverse uint16 = 200 // vip: replies of members
	PrioVIPEcho    uint16 = 160 // vip: echo requests to a VIP
	PrioVIPICMP    uint16 = 150 // vip: other ICMP to a VIP
	PrioVIPDrop    uint16 = 100 // vip: anything else for a VIP
	PrioICMPError  uint16 = 50  // vip: ICMP errors to others

	PrioAnswer     uint16 = 300 // destination: answers to measurements
	PrioHost       uint16 = 200 // destination: known hosts
	PrioFloodBlock uint16 = 100 // destination: floods from ports outside the tree

	PrioInvalid uint16 = 300 // tracked: what belongs to no connection and begins none
	PrioNew     uint16 = 200 // tracked: what no member has been chosen for
	PrioKnown   uint16 = 100 // tracked: what belongs to a connection

	PrioSlot uint16 = 100 // slot

	PrioMemberSent    uint16 = 300 // member: the source has been changed
	PrioMemberHairpin uint16 = 200 // member: to itself
	PrioMember        uint16 = 100 // member: to the member of a connection
	PrioMemberRelated uint16 = 50  // member: ICMP errors

	PrioReturn  uint16 = 100 // return
	PrioOutBack uint16 = 200 // out: by the port that the packet came in by
	PrioOut     uint16 = 100 // out
)

// Pipeline is the declared layout of the tables of every switch that Fairlead
// programs. docs/pipeline.md is printed from it.
var Pipeline = &flowtable.Pipeline{
	Version: 1,
	Tables: []flowtable.TableSpec{
		{
			ID: TableIngress, Name: "ingress",
			Purpose: "Takes out what concerns the controller: discovery frames, ARP. Answers ARP for VIPs in the switch.",
			Match: []ofproto.FieldType{ofproto.FieldInPort, ofproto.FieldEthType, ofproto.FieldEthDst,
				ofproto.FieldARPOp, ofproto.FieldARPTPA, ofproto.FieldARPSPA, ofproto.FieldARPSHA, ofproto.FieldEthSrc, ofproto.FieldIPProto, ofproto.FieldICMPv6Type,
				ofproto.FieldVLANVID, ofproto.FieldIPv4Src, ofproto.FieldIPv4Dst, ofproto.FieldIPv6Src, ofproto.FieldIPv6Dst,
				ofproto.FieldTCPSrc, ofproto.FieldTCPDst, ofproto.FieldUDPSrc, ofproto.FieldUDPDst, ofproto.FieldSCTPSrc, ofproto.FieldSCTPDst,
				ofproto.FieldICMPv4Type, ofproto.FieldICMPv4Code, ofproto.FieldICMPv6Code, ofproto.FieldIPv6NDTarget,
				ofproto.FieldIPv6NDSLL},
			Next: []ofproto.Table{TableSource, TableVIP},
			Rows: []flowtable.RowSpec{
				{Priority: PrioMark, App: AppStore, Stages: "all", Match: "an EtherType and address that no packet has, made of the store's identity", Does: "nothing; marks the switch as programmed from this store"},
				{Priority: PrioAlive, App: AppDiscovery, Stages: "all", Match: "LLDP to a group of ours, where the switch can write addresses", Does: "sent back, with another group and the switch's mark as its addresses: it tells that the switch forwards"},
				{Priority: PrioDiscovery, App: AppDiscovery, Stages: "all", Match: "LLDP", Does: "to the controller, and nowhere else"},
				{Priority: PrioProbe, App: AppDiscovery, Stages: "all", Match: "ARP, neighbour messages to the controller's own MAC", Does: "to the controller, and nowhere else"},
				{Priority: PrioBPDUGuard, App: AppDiscovery, Stages: "managed", Match: "BPDU, where the switch guards against them", Does: "to the controller, and nowhere else: the port is blocked"},
				{Priority: PrioVIPQuiet, App: AppBalancer, Stages: "steer, managed", Match: "port on a segment, or to a switch that does not serve, where another one speaks for a VIP; ARP request, neighbour solicitation or advertisement for it", Does: "drop"},
				{Priority: PrioVIPNoLink, App: AppBalancer, Stages: "steer, managed", Match: "neighbour solicitation for a VIP that does not say who asks, as in duplicate address detection", Does: "to the controller, which answers"},
				{Priority: PrioBlocked, App: AppForwarding, Stages: "managed", Match: "port that is blocked: another leads to its segment, or a guard has found a reason", Does: "drop"},
				{Priority: PrioBPDU, App: AppDiscovery, Stages: "managed; observe, steer where forwarded", Match: "BPDU", Does: "managed: drop, or on to vip, where it is flooded; observe, steer: out of all other ports"},
				{Priority: PrioFlooding, App: AppMeasure, Stages: "all", Match: "broadcast of a measurement, while there is one", Does: "a copy to the controller, then on as any other packet"},
				{Priority: PrioMeasured, App: AppMeasure, Stages: "all", Match: "broadcast of a measurement", Does: "drop: none goes round when there is no measurement"},
				{Priority: PrioMeasured, App: AppMeasure, Stages: "all", Match: "ARP, neighbour advertisement to an address that measurements ask from; observe: anything to one", Does: "to the controller, and nowhere else"},
				{Priority: PrioVIPARP, App: AppBalancer, Stages: "steer, managed", Match: "ARP request, neighbour solicitation for a VIP", Does: "turned into the reply and sent back, solicitations by way of vip; by the controller where the switch cannot"},
				{Priority: PrioVIPOwn, App: AppBalancer, Stages: "steer, managed", Match: "ARP, neighbour message that gives a VIP's address the VIP's MAC", Does: "on as any other packet"},
				{Priority: PrioVIPAsks, App: AppBalancer, Stages: "steer, managed", Match: "dsr: ARP request of another MAC that has a VIP's address for its own", Does: "the address is taken out; on as any other packet"},
				{Priority: PrioVIPClaim, App: AppBalancer, Stages: "steer, managed", Match: "other ARP, neighbour advertisement that gives a VIP's address another MAC", Does: "drop"},
				{Priority: PrioMemberOwn, App: AppBalancer, Stages: "steer, managed", Match: "a member whose MAC is in OVSDB: ARP, neighbour advertisement that gives its address that MAC", Does: "a copy to the controller, then on as any other packet"},
				{Priority: PrioMemberClaim, App: AppBalancer, Stages: "steer, managed", Match: "and what gives its address another MAC", Does: "to the controller, and nowhere else"},
				{Priority: PrioVIPARP, App: AppHealth, Stages: "all", Match: "ARP request or neighbour solicitation for the source address of a monitor, where that is no VIP; for a VIP, of a member behind an access port of its VLAN", Does: "to the controller, which answers"},
				{Priority: PrioMeasure, App: AppMeasure, Stages: "all", Match: "ARP request, neighbour solicitation of a measurement", Does: "on as any other packet, without a copy; managed: to vip"},
				{Priority: PrioARP, App: AppDiscovery, Stages: "all", Match: "ARP; IPv6 neighbour solicitations and advertisements", Does: "a copy to the controller, then on as any other packet"},
				{Priority: PrioProbeReply, App: AppHealth, Stages: "observe", Match: "reply of a member to a health monitor", Does: "to the controller, and nowhere else"},
				{Priority: PrioMiss, App: AppForwarding, Stages: "all", Match: "everything else", Does: "observe: NORMAL; steer: to vip; managed: to source"},
			},
		},
		{
			ID: TableSource, Name: "source",
			Purpose: "Learns hosts from the first packet that a port brings. Used in stage managed only.",
			Match:   []ofproto.FieldType{ofproto.FieldInPort, ofproto.FieldEthSrc, ofproto.FieldVLANVID},
			Next:    []ofproto.Table{TableVIP},
			Rows: []flowtable.RowSpec{
				{Priority: PrioSourceLink, App: AppForwarding, Stages: "managed", Match: "port of a link, or one that brings a flood of unknown sources", Does: "on to vip: hosts are learned where they enter the network, and not from a flood"},
				{Priority: PrioSourceOwn, App: AppForwarding, Stages: "managed", Match: "port on a segment; an address of the controller's own range", Does: "on to vip: another domain's"},
				{Priority: PrioSourceVIP, App: AppBalancer, Stages: "managed", Match: "the MAC of a VIP", Does: "drop: no host has it"},
				{Priority: PrioSourceHost, App: AppForwarding, Stages: "managed", Match: "known host on its port; a member on any port on a segment", Does: "on to vip"},
				{Priority: PrioSourceElsewhere, App: AppForwarding, Stages: "managed", Match: "a member, elsewhere", Does: "to the controller, and nowhere else: it has moved, or another says it were it"},
				{Priority: PrioMiss, App: AppForwarding, Stages: "managed", Match: "everything else", Does: "a copy to the controller, then on to vip"},
			},
		},
		{
			ID: TableVIP, Name: "vip",
			Purpose: "Rewrites packets to a VIP towards the member that their hash picks, and replies of members back to the VIP.",
			Match: []ofproto.FieldType{ofproto.FieldEthType, ofproto.FieldIPProto, ofproto.FieldIPv4Src, ofproto.FieldIPv4Dst,
				ofproto.FieldTCPSrc, ofproto.FieldTCPDst, ofproto.FieldUDPSrc, ofproto.FieldUDPDst,
				ofproto.FieldVLANVID, ofproto.FieldIPv6Src, ofproto.FieldIPv6Dst, ofproto.FieldSCTPSrc, ofproto.FieldSCTPDst,
				ofproto.FieldICMPv4Type, ofproto.FieldICMPv4Code, ofproto.FieldICMPv6Type, ofproto.FieldICMPv6Code,
				ofproto.FieldInPort, ofproto.FieldEthDst, ofproto.FieldONFTCPFlags, ofproto.FieldNXMIPFrag, ofproto.FieldIPv6NDTarget, ofproto.FieldNXMReg0 + RegAnswer},
			Next: []ofproto.Table{TableDestination, TableTracked, TableSlot, TableMember},
			Rows: []flowtable.RowSpec{
				{Priority: PrioProbeReply, App: AppHealth, Stages: "steer, managed", Match: "reply of a member to a health monitor", Does: "to the controller, and nowhere else"},
				{Priority: PrioVIPChosen, App: AppBalancer, Stages: "steer, managed", Match: "dsr: VIP address, to a member's MAC; conntrack: from a member to the VIP, from a VIP's MAC to a member", Does: "dsr: on to destination; conntrack: translated back by way of return; on to member"},
				{Priority: PrioVIPBack + PrioVIPLimit - PrioVIPForward, App: AppBalancer, Stages: "steer, managed", Match: "as the next, and the first packet of a TCP connection", Does: "as the next, by way of the listener's meter"},
				{Priority: PrioVIPBack, App: AppBalancer, Stages: "steer, managed", Match: "without table out: as the one but next, from a port that a member and others are behind; one entry a slot", Does: "to a member there: source becomes the VIP's MAC, back out of the port; to the slot's member"},
				{Priority: PrioVIPLimit, App: AppBalancer, Stages: "steer, managed", Match: "as the next, and the first packet of a TCP connection", Does: "as the next, and counts new connections; by way of the listener's meter where it bounds them"},
				{Priority: PrioVIPForward, App: AppBalancer, Stages: "steer, managed", Match: "VIP address, protocol and port; for UDP one entry a slot, on bits of source address and port", Does: "TCP: the listener's select group; UDP: the group of the slot's member; persistence: on to slot by a hash of the source; conntrack: looked up, on to tracked. Without a member: drop"},
				{Priority: PrioVIPForward, App: AppBalancer, Stages: "steer, managed", Match: "neighbour advertisement that ingress made of a solicitation for a VIP", Does: "gets the VIP's MAC; sent back"},
				{Priority: PrioVIPRelated, App: AppBalancer, Stages: "steer, managed", Match: "conntrack: ICMP error to the VIP's address or from a member", Does: "looked up and translated as the connection it is about; on to tracked, or to destination"},
				{Priority: PrioVIPTracked, App: AppBalancer, Stages: "steer, managed", Match: "conntrack: source is a member's address, protocol and port", Does: "looked up and translated back if the connection is known here; on to destination"},
				{Priority: PrioVIPReverse, App: AppBalancer, Stages: "steer, managed", Match: "source is a member's address, protocol and port", Does: "source rewritten to the VIP's; on to destination"},
				{Priority: PrioVIPEcho, App: AppBalancer, Stages: "steer, managed", Match: "echo request of ICMP or ICMPv6 to a VIP, where the switch can answer", Does: "turned into the reply and sent back"},
				{Priority: PrioVIPICMP, App: AppBalancer, Stages: "steer, managed", Match: "other ICMP or ICMPv6 to a VIP", Does: "to the controller, which answers echo requests and gives errors to the members"},
				{Priority: PrioVIPDrop, App: AppBalancer, Stages: "steer, managed", Match: "VIP address", Does: "drop: nothing addressed to a VIP is ordinary traffic"},
				{Priority: PrioICMPError, App: AppBalancer, Stages: "steer, managed", Match: "ICMP or ICMPv6 errors to others", Does: "a copy to the controller, which gives clients those that quote a member; on to destination"},
				{Priority: PrioMiss, App: AppForwarding, Stages: "steer, managed", Match: "everything else", Does: "on to destination"},
			},
		},
		{
			ID: TableDestination, Name: "destination",
			Purpose: "Forwards: on shortest paths to known hosts, along one loop-free tree otherwise. In stage steer it is the switch's own forwarding.",
			Match:   []ofproto.FieldType{ofproto.FieldInPort, ofproto.FieldEthDst, ofproto.FieldVLANVID},
			Rows: []flowtable.RowSpec{
				{Priority: PrioAnswer, App: AppMeasure, Stages: "steer, managed", Match: "destination is an address that measurements ask from", Does: "to the controller, and nowhere else"},
				{Priority: PrioHost, App: AppForwarding, Stages: "managed", Match: "destination is a known host", Does: "out of the port on the shortest path"},
				{Priority: PrioFloodBlock, App: AppForwarding, Stages: "managed", Match: "port that is neither in the tree nor an edge port", Does: "drop: floods arrive by the tree"},
				{Priority: PrioMiss, App: AppForwarding, Stages: "steer, managed", Match: "everything else", Does: "steer: NORMAL; managed: flood group (tree ports and edge ports)"},
			},
		},
		{
			ID: TableTracked, Name: "tracked", Extension: true,
			Purpose: "Mode conntrack: packets to a VIP whose connection has been looked up, and their destination translated if there is one.",
			Match: []ofproto.FieldType{ofproto.FieldEthType, ofproto.FieldIPProto, ofproto.FieldIPv4Dst, ofproto.FieldIPv6Dst,
				ofproto.FieldNXMCTState, ofproto.FieldNXMReg1},
			Next: []ofproto.Table{TableSlot, TableMember},
			Rows: []flowtable.RowSpec{
				{Priority: PrioInvalid, App: AppBalancer, Stages: "steer, managed", Match: "no packet of a connection, and none that begins one", Does: "drop"},
				{Priority: PrioNew, App: AppBalancer, Stages: "steer, managed", Match: "listener; still to the VIP's address", Does: "the listener's select group, whose buckets commit the connection with the member's address and go on to member; or on to slot"},
				{Priority: PrioKnown, App: AppBalancer, Stages: "steer, managed", Match: "everything else", Does: "on to member"},
			},
		},
		{
			ID: TableSlot, Name: "slot", Extension: true,
			Purpose: "Picks the member of a slot, where vip or tracked hashed the source into a register or the entries are on bits of the source.",
			Match: []ofproto.FieldType{ofproto.FieldEthType, ofproto.FieldIPProto, ofproto.FieldIPv4Src, ofproto.FieldIPv6Src,
				ofproto.FieldTCPSrc, ofproto.FieldUDPSrc, ofproto.FieldSCTPSrc, ofproto.FieldNXMReg0, ofproto.FieldNXMReg1},
			Rows: []flowtable.RowSpec{
				{Priority: PrioSlot, App: AppBalancer, Stages: "steer, managed", Match: "listener; slot, or bits of the source", Does: "the group of the slot's member; conntrack: the connection is committed with the member's address, and goes on to member"},
			},
		},
		{
			ID: TableMember, Name: "member", Extension: true,
			Purpose: "Mode conntrack: sends a packet to the member of its connection, drained ones too.",
			Match: []ofproto.FieldType{ofproto.FieldEthType, ofproto.FieldIPProto, ofproto.FieldIPv4Src, ofproto.FieldIPv4Dst, ofproto.FieldIPv6Src, ofproto.FieldIPv6Dst,
				ofproto.FieldTCPDst, ofproto.FieldUDPDst, ofproto.FieldSCTPDst, ofproto.FieldNXMReg1, ofproto.FieldNXMCTState, ofproto.FieldInPort, ofproto.FieldVLANVID},
			Rows: []flowtable.RowSpec{
				{Priority: PrioMemberSent, App: AppBalancer, Stages: "steer, managed", Match: "listener; from the VIP to a member", Does: "the member's group"},
				{Priority: PrioMemberHairpin, App: AppBalancer, Stages: "steer, managed", Match: "listener; to a member, from the port that it is behind", Does: "the source is translated to the VIP's, and back to this table"},
				{Priority: PrioMember, App: AppBalancer, Stages: "steer, managed", Match: "listener; to a member", Does: "the member's group; with source_nat, at the member's switch, as from its own port"},
				{Priority: PrioMemberRelated, App: AppBalancer, Stages: "steer, managed", Match: "ICMP error about a connection, to a member", Does: "to the member"},
			},
		},
		{
			ID: TableReturn, Name: "return", Extension: true,
			Purpose: "Mode conntrack: replies of members to the VIP itself, whose destination has been translated back to the client's.",
			Match: []ofproto.FieldType{ofproto.FieldEthType, ofproto.FieldIPProto, ofproto.FieldIPv4Src, ofproto.FieldIPv6Src,
				ofproto.FieldTCPSrc, ofproto.FieldUDPSrc, ofproto.FieldSCTPSrc, ofproto.FieldNXMCTState},
			Rows: []flowtable.RowSpec{
				{Priority: PrioReturn, App: AppBalancer, Stages: "steer, managed", Match: "reply of a connection; a member's address, protocol and port", Does: "to the client's MAC, source translated to the VIP's; managed: on to destination; steer: on to out"},
			},
		},
		{
			ID: TableOut, Name: "out", Extension: true,
			Purpose: "Sends a packet to a member out of the port that the member's group has put into a register; and mode conntrack, in stage steer, replies out of the port that the client's packets came in by.",
			Match:   []ofproto.FieldType{ofproto.FieldInPort, ofproto.FieldNXMReg2},
			Rows: []flowtable.RowSpec{
				{Priority: PrioOutBack, App: AppBalancer, Stages: "steer, managed", Match: "port; the same port in the register", Does: "source becomes the VIP's MAC; back out of the port"},
				{Priority: PrioOut, App: AppBalancer, Stages: "steer, managed", Match: "everything else", Does: "out of the port in the register"},
			},
		},
	},
}
