package ofproto

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// golden is one message as a value and as the bytes of the specification's
// pictures, written by hand. Print is what ovs-ofctl has to say of it, where
// Open vSwitch knows the message.
type golden struct {
	name  string
	msg   Message
	bytes string
	print string
	slack int // bytes at the end that a reader does not insist on
}

// unhex reads hexadecimal bytes; spaces, line ends and comments from # on do not count.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	var digits strings.Builder
	for line := range strings.Lines(s) {
		line, _, _ = strings.Cut(line, "#")
		digits.WriteString(strings.Join(strings.Fields(line), ""))
	}
	b, err := hex.DecodeString(digits.String())
	require.NoError(t, err)
	return b
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

var (
	mac1 = MAC{0x02, 0, 0, 0, 0, 0x01}
	mac2 = MAC{0x02, 0, 0, 0, 0, 0x02}
	mac0 = MAC{0xff, 0xff, 0xff, 0, 0, 0}
)

const goldenXID = 0x01020304

// flowMod is a flow-mod that adds, with what most of them have in common.
func flowMod(m Match, instructions ...Instruction) *FlowMod {
	return &FlowMod{
		Priority: 100, BufferID: NoBuffer, OutPort: PortAny, OutGroup: GroupAny, Match: m, Instructions: instructions,
	}
}

// flowModHead is the part of such a flow-mod before its match.
const flowModHead = `
	0000000000000000 0000000000000000  # cookie, mask
	00 00 0000 0000 0064               # table, command, idle, hard, priority
	ffffffff ffffffff ffffffff         # buffer, port, group
	0000 0000                          # flags
`

var goldens = []golden{
	{
		name: "hello",
		msg:  &Hello{Versions: []uint8{1, 4}},
		bytes: `04 00 0010 01020304
			0001 0008 00000012`,
		print: "version bitmap: 0x01, 0x04",
	},
	{
		name:  "hello without elements",
		msg:   &Hello{},
		bytes: `04 00 0008 01020304`,
		print: "version bitmap: 0x01, 0x02, 0x03, 0x04",
	},
	{
		name: "hello with an element of another kind, and two words",
		msg:  &Hello{Versions: []uint8{4, 33}, Elements: []byte{0, 9, 0, 5, 0xaa, 0, 0, 0}},
		bytes: `04 00 0020 01020304
			0001 000c 00000010 00000002 00000000
			0009 0005 aa 000000`,
		slack: 3,
	},
	{
		name: "error",
		msg:  &Error{Type: ErrorFlowModFailed, Code: CodeTableFull, Data: []byte{4, 20, 0, 8, 0, 0, 0, 9}},
		bytes: `04 01 0014 01020304
			0005 0001
			0414000800000009`,
		print: "OFPFMFC_TABLE_FULL",
	},
	{
		name: "error of an experimenter",
		msg:  &Error{Type: ErrorExperimenter, Code: 2304, Experimenter: ExperimenterONF, Data: []byte{4, 20, 0, 8, 0, 0, 0, 9}},
		bytes: `04 01 0018 01020304
			ffff 0900 4f4e4600
			0414000800000009`,
		print: "OFPBFC_BUNDLE_CLOSED",
	},
	{
		name:  "echo request",
		msg:   &EchoRequest{Data: []byte("abc")},
		bytes: `04 02 000b 01020304 616263`,
		print: "3 bytes of payload",
	},
	{
		name:  "echo reply",
		msg:   &EchoReply{},
		bytes: `04 03 0008 01020304`,
		print: "0 bytes of payload",
	},
	{
		name: "experimenter",
		msg:  &Experimenter{Experimenter: 0x00123456, ExpType: 7, Data: []byte{1, 2}},
		bytes: `04 04 0012 01020304
			00123456 00000007 0102`,
	},
	{
		name: "connections to flush",
		msg:  FlushConnections(0x4000, ProtoTCP, netip.MustParseAddrPort("10.0.0.100:80"), netip.MustParseAddrPort("10.0.0.2:8080")),
		bytes: `04 04 0070 01020304
			00002320 00000020 06 00 000000000000
			0000 0028 00000000
				0001 0014 00000000000000000000ffff0a000064 00000000
				0003 0008 0050 0000
			0001 0028 00000000
				0000 0014 00000000000000000000ffff0a000002 00000000
				0002 0008 1f90 0000
			0002 0008 4000 0000`,
		print: "NXT_CT_FLUSH|zone=16384|ct_nw_dst=10.0.0.100",
	},
	{
		name:  "features request",
		msg:   &FeaturesRequest{},
		bytes: `04 05 0008 01020304`,
		print: "OFPT_FEATURES_REQUEST",
	},
	{
		name: "features reply",
		msg: &FeaturesReply{
			DPID: 0x0000aabbccddeeff, Buffers: 256, Tables: 254, AuxiliaryID: 1,
			Capabilities: CapFlowStats | CapTableStats | CapPortStats | CapGroupStats | CapQueueStats,
		},
		bytes: `04 06 0020 01020304
			0000aabbccddeeff
			00000100 fe 01 0000
			0000004f 00000000`,
		print: "dpid:0000aabbccddeeff|n_tables:254, n_buffers:256, auxiliary_id:1|capabilities: FLOW_STATS TABLE_STATS PORT_STATS GROUP_STATS QUEUE_STATS",
	},
	{
		name:  "get config request",
		msg:   &GetConfigRequest{},
		bytes: `04 07 0008 01020304`,
		print: "OFPT_GET_CONFIG_REQUEST",
	},
	{
		name:  "get config reply",
		msg:   &GetConfigReply{Flags: FragDrop, MissSendLen: 128},
		bytes: `04 08 000c 01020304 0001 0080`,
		print: "frags=drop miss_send_len=128",
	},
	{
		name:  "set config",
		msg:   &SetConfig{Flags: FragNormal, MissSendLen: MaxLenNoBuffer},
		bytes: `04 09 000c 01020304 0000 ffff`,
		print: "frags=normal miss_send_len=65535",
	},
	{
		name: "packet-in",
		msg: &PacketIn{
			BufferID: NoBuffer, TotalLen: 14, Reason: ReasonAction, Table: 3, Cookie: 0x1122,
			Match: NewMatch(InPort(7)),
			Data:  []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5},
		},
		bytes: `04 0a 0038 01020304
			ffffffff 000e 01 03 0000000000001122
			0001 000c 80000004 00000007 00000000
			0000
			020000000002 020000000001 88b5`,
		print: "table_id=3 cookie=0x1122 total_len=14 in_port=7 (via action)",
	},
	{
		name: "flow removed",
		msg: &FlowRemoved{
			Cookie: 0xfeed, Priority: 5, Reason: RemovedIdleTimeout, Table: 1, DurationSec: 10, DurationNsec: 500000000,
			IdleTimeout: 10, HardTimeout: 20, Packets: 3, Bytes: 300, Match: NewMatch(InPort(1)),
		},
		bytes: `04 0b 0040 01020304
			000000000000feed 0005 00 01
			0000000a 1dcd6500 000a 0014
			0000000000000003 000000000000012c
			0001 000c 80000004 00000001 00000000`,
		print: "in_port=1 reason=idle table_id=1 cookie:0xfeed duration10.500s idle10 hard20 pkts3 bytes300",
	},
	{
		name: "port status",
		msg: &PortStatus{Reason: PortReasonModify, Desc: PortDesc{
			Port: 3, HWAddr: mac1, Name: "s1-eth3", Config: PortConfigDown, State: PortStateLinkDown,
			Curr: 0x840, Advertised: 0x41, Supported: 0x42, Peer: 0x44, CurrSpeed: 10000000, MaxSpeed: 20000000,
		}},
		bytes: `04 0c 0050 01020304
			02 00000000000000
			00000003 00000000 020000000001 0000
			73312d65746833000000000000000000
			00000001 00000001
			00000840 00000041 00000042 00000044
			00989680 01312d00`,
		print: "MOD: 3(s1-eth3): addr:02:00:00:00:00:01|config: PORT_DOWN|state: LINK_DOWN|speed: 10000 Mbps now, 20000 Mbps max",
	},
	{
		name: "packet-out",
		msg: &PacketOut{
			BufferID: NoBuffer, InPort: PortController, Actions: []Action{OutputPort(2), Group{ID: 9}},
			Data: []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x88, 0xb5},
		},
		bytes: `04 0d 003e 01020304
			ffffffff fffffffd 0018 000000000000
			0000 0010 00000002 0000 000000000000
			0016 0008 00000009
			020000000002 020000000001 88b5`,
		print: "in_port=CONTROLLER actions=output:2,group:9 data_len=14",
	},
	{
		name: "flow-mod of a VIP",
		msg: &FlowMod{
			Cookie: 0x464c000000000001, Table: 2, Command: FlowAdd, IdleTimeout: 60, HardTimeout: 600, Priority: 200,
			BufferID: NoBuffer, OutPort: PortAny, OutGroup: GroupAny, Flags: FlagSendFlowRem | FlagCheckOverlap,
			Match: NewMatch(
				TCPDst(80), IPv4Dst(prefix("10.0.0.100/32")), IPProto(ProtoTCP), EthType(EthTypeIPv4), InPort(1)),
			Instructions: []Instruction{
				ApplyActions{Actions: []Action{SetField{Field: EthDst(mac2)}, Group{ID: 0x46000001}}},
				GotoTable{Table: 3},
			},
		},
		bytes: `04 0e 0080 01020304
			464c000000000001 0000000000000000
			02 00 003c 0258 00c8
			ffffffff ffffffff ffffffff 0003 0000
			0001 0025                     # match
				80000004 00000001
				80000a02 0800
				80001401 06
				80001804 0a000064
				80001c02 0050
				000000
			0004 0020 00000000            # apply actions
				0019 0010 80000606 020000000002 0000
				0016 0008 46000001
			0001 0008 03 000000           # goto table`,
		print: "table:2 priority=200,tcp,in_port=1,nw_dst=10.0.0.100,tp_dst=80 cookie:0x464c000000000001 idle:60 hard:600 send_flow_rem check_overlap actions=set_field:02:00:00:00:00:02->eth_dst,group:1174405121,goto_table:3",
	},
	{
		name: "flow-mod that deletes everything",
		msg: &FlowMod{
			Table: TableAll, Command: FlowDelete, Cookie: 1, CookieMask: 0xff, BufferID: NoBuffer,
			OutPort: 5, OutGroup: 6, Flags: FlagResetCounts | FlagNoPktCounts | FlagNoByteCounts,
		},
		bytes: `04 0e 0038 01020304
			0000000000000001 00000000000000ff
			ff 03 0000 0000 0000
			ffffffff 00000005 00000006 001c 0000
			0001 0004 00000000`,
		print: "DEL table:255 priority=0 cookie:0x1/0xff out_port:5 reset_counts no_packet_counts no_byte_counts actions=drop",
	},
	{
		name: "flow-mod with every instruction",
		msg: flowMod(nil,
			Meter{ID: 9},
			ApplyActions{},
			ClearActions{},
			WriteActions{Actions: []Action{OutputPort(PortInPort)}},
			WriteMetadata{Metadata: 0x1100, Mask: 0xff00},
			GotoTable{Table: 200},
		),
		bytes: `04 0e 0088 01020304` + flowModHead + `
			0001 0004 00000000
			0006 0008 00000009
			0004 0008 00000000
			0005 0008 00000000
			0003 0018 00000000
				0000 0010 fffffff8 0000 000000000000
			0002 0018 00000000 0000000000001100 000000000000ff00
			0001 0008 c8 000000`,
		print: "actions=meter:9,clear_actions,write_actions(IN_PORT),write_metadata:0x1100/0xff00,goto_table:200",
	},
	{
		name: "flow-mod with the actions of VLAN and IP",
		msg: flowMod(NewMatch(EthType(EthTypeIPv4), VLANNone()), ApplyActions{Actions: []Action{
			PushVLAN{EthType: EthTypeVLAN}, SetField{Field: VLANVID(5)}, PopVLAN{},
			DecNWTTL{}, SetNWTTL{TTL: 64}, SetQueue{Queue: 3},
			Group{ID: 1}, OutputPort(PortNormal), ToController(),
		}}),
		bytes: `04 0e 00a8 01020304` + flowModHead + `
			0001 0010 80000a02 0800 80000c02 0000
			0004 0068 00000000
				0011 0008 8100 0000
				0019 0010 80000c02 1005 000000000000
				0012 0008 00000000
				0018 0008 00000000
				0017 0008 40 000000
				0015 0008 00000003
				0016 0008 00000001
				0000 0010 fffffffa 0000 000000000000
				0000 0010 fffffffd ffff 000000000000`,
		print: "ip,vlan_tci=0x0000/0x1fff actions=push_vlan:0x8100,set_field:4101->vlan_vid,pop_vlan,dec_ttl,mod_nw_ttl:64,set_queue:3,group:1,NORMAL,CONTROLLER:65535",
	},
	{
		name: "flow-mod with the actions of MPLS",
		msg: flowMod(NewMatch(EthType(0x8847)), ApplyActions{Actions: []Action{
			SetMPLSTTL{TTL: 9}, DecMPLSTTL{}, PushMPLS{EthType: 0x8847}, PopMPLS{EthType: EthTypeIPv4},
		}}),
		bytes: `04 0e 0068 01020304` + flowModHead + `
			0001 000a 80000a02 8847 000000000000
			0004 0028 00000000
				000f 0008 09 000000
				0010 0008 00000000
				0013 0008 8847 0000
				0014 0008 0800 0000`,
		print: "mpls actions=set_mpls_ttl(9),dec_mpls_ttl,push_mpls:0x8847,pop_mpls:0x0800",
	},
	{
		name: "flow-mod with the actions that Open vSwitch has not",
		msg: flowMod(nil, WriteActions{Actions: []Action{
			CopyTTLOut{}, CopyTTLIn{}, PushPBB{EthType: 0x88e7}, PopPBB{},
			RawAction{Type: 0x0fff, Body: []byte{1, 2, 3, 4}},
			RawAction{Type: 0xffff, Body: []byte{0, 0x12, 0x34, 0x56, 1, 2, 3, 4, 5, 6, 7, 8}},
		}}, RawInstruction{Type: 0xffff, Body: []byte{0, 0x12, 0x34, 0x56}}),
		bytes: `04 0e 0080 01020304` + flowModHead + `
			0001 0004 00000000
			0003 0040 00000000
				000b 0008 00000000
				000c 0008 00000000
				001a 0008 88e7 0000
				001b 0008 00000000
				0fff 0008 01020304
				ffff 0010 00123456 0102030405060708
			ffff 0008 00123456`,
	},
	{
		name: "flow-mod with fields of Ethernet, metadata and masks",
		msg: flowMod(NewMatch(
			InPort(1), InPhyPort(2), Metadata(0x12, 0xff), EthDstMasked(mac1, mac0), EthSrc(mac2), EthType(0x0806),
			VLANVID(10), VLANPCP(5), ARPOp(1), ARPSPA(prefix("10.0.0.0/8")), ARPTPA(prefix("10.1.2.3/32")),
			ARPSHA(mac1), ARPTHA(mac2), TunnelID(7, 1<<64-1), PBBISID(0x010203),
		)),
		bytes: `04 0e 00c8 01020304` + flowModHead + `
			0001 0094
				80000004 00000001
				80000204 00000002
				80000510 0000000000000012 00000000000000ff
				8000070c 020000000000 ffffff000000
				80000806 020000000002
				80000a02 0806
				80000c02 100a
				80000e01 05
				80002a02 0001
				80002d08 0a000000 ff000000
				80002e04 0a010203
				80003006 020000000001
				80003206 020000000002
				80004a03 010203
				80004c08 0000000000000007
				00000000`,
	},
	{
		name: "flow-mod with fields of ARP",
		msg: flowMod(NewMatch(EthType(EthTypeARP), ARPOp(2), ARPSPA(prefix("10.0.0.0/8")), ARPTPA(prefix("10.1.2.3/32")),
			ARPSHA(mac1), ARPTHA(mac2))),
		bytes: `04 0e 0068 01020304` + flowModHead + `
			0001 0038
				80000a02 0806
				80002a02 0002
				80002d08 0a000000 ff000000
				80002e04 0a010203
				80003006 020000000001
				80003206 020000000002`,
		print: "arp,arp_spa=10.0.0.0/8,arp_tpa=10.1.2.3,arp_op=2,arp_sha=02:00:00:00:00:01,arp_tha=02:00:00:00:00:02",
	},
	{
		name: "flow-mod with fields of IPv4 and masked ports",
		msg: flowMod(NewMatch(EthType(EthTypeIPv4), VLANAny(), IPDSCP(10), IPECN(1), IPProto(ProtoUDP),
			IPv4SrcMasked(0x01, 0x03), IPv4Dst(prefix("192.0.2.0/24")), UDPSrcMasked(0x2, 0x6), UDPDst(53))),
		bytes: `04 0e 0078 01020304` + flowModHead + `
			0001 0047
				80000a02 0800
				80000d04 1000 1000
				80001001 0a
				80001201 01
				80001401 11
				80001708 00000001 00000003
				80001908 c0000200 ffffff00
				80001f04 0002 0006
				80002002 0035
				00`,
		print: "udp,vlan_tci=0x1000/0x1000,nw_src=0.0.0.1/0.0.0.3,nw_dst=192.0.2.0/24,nw_tos=40,nw_ecn=1,tp_src=0x2/0x6,tp_dst=53",
	},
	{
		name: "flow-mod with fields of ICMP",
		msg:  flowMod(NewMatch(EthType(EthTypeIPv4), VLANNone(), IPProto(ProtoICMP), ICMPv4Type(8), ICMPv4Code(1))),
		bytes: `04 0e 0050 01020304` + flowModHead + `
			0001 001f
				80000a02 0800
				80000c02 0000
				80001401 01
				80002601 08
				80002801 01
				00`,
		print: "icmp,vlan_tci=0x0000/0x1fff,icmp_type=8,icmp_code=1",
	},
	{
		name: "flow-mod with fields of neighbour discovery",
		msg: flowMod(NewMatch(EthType(EthTypeIPv6), IPProto(ProtoICMPv6), IPv6Src(prefix("2001:db8::/32")),
			IPv6Dst(prefix("ff02::1:ff00:1/128")), IPv6FLabel(0x12345), ICMPv6Type(135), ICMPv6Code(0),
			IPv6NDTarget(netip.MustParseAddr("2001:db8::1")), IPv6NDSLL(mac1))),
		bytes: `04 0e 00a8 01020304` + flowModHead + `
			0001 0077
				80000a02 86dd
				80001401 3a
				80003520 20010db8000000000000000000000000 ffffffff000000000000000000000000
				80003610 ff0200000000000000000001ff000001
				80003804 00012345
				80003a01 87
				80003c01 00
				80003e10 20010db8000000000000000000000001
				80004006 020000000001
				00`,
		print: "icmp6,ipv6_src=2001:db8::/32,ipv6_dst=ff02::1:ff00:1,ipv6_label=0x12345,icmp_type=135,icmp_code=0,nd_target=2001:db8::1,nd_sll=02:00:00:00:00:01",
	},
	{
		name: "flow-mod with the other fields of the transport, MPLS and IPv6",
		msg: flowMod(NewMatch(TCPSrc(1), TCPDst(2), UDPSrc(3), UDPDst(4), SCTPSrc(5), SCTPDst(6),
			IPv6NDTLL(mac2), MPLSLabel(0x54321), MPLSTC(7), MPLSBOS(1), IPv6ExtHdr(1, 3))),
		bytes: `04 0e 0080 01020304` + flowModHead + `
			0001 004c
				80001a02 0001
				80001c02 0002
				80001e02 0003
				80002002 0004
				80002202 0005
				80002402 0006
				80004206 020000000002
				80004404 00054321
				80004601 07
				80004801 01
				80004f04 0001 0003
				00000000`,
	},
	{
		name: "flow-mod with SCTP",
		msg:  flowMod(NewMatch(EthType(EthTypeIPv4), IPProto(ProtoSCTP), L4Src(ProtoSCTP, 9), L4DstMasked(ProtoSCTP, 4, 0xfffc))),
		bytes: `04 0e 0050 01020304` + flowModHead + `
			0001 001d
				80000a02 0800
				80001401 84
				80002202 0009
				80002504 0004 fffc
				000000`,
		print: "sctp,tp_src=9,tp_dst=0x4/0xfffc",
	},
	{
		name: "flow-mod with fields of experimenters",
		msg: flowMod(NewMatch(
			EthType(EthTypeIPv4), IPProto(ProtoTCP), NXMReg(1, 0x5, 0xf), NXMCTState(0x21, 0x21),
			ONFTCPFlags(2, 0x12),
		)),
		bytes: `04 0e 0068 01020304` + flowModHead + `
			0001 0033
				80000a02 0800
				80001401 06
				00010308 00000005 0000000f
				0001d308 00000021 00000021
				ffff5508 4f4e4600 0002 0012
				0000000000`,
		print: "ct_state=+new+trk,tcp,reg1=0x5/0xf",
	},
	{
		name: "flow-mod with Nicira's actions",
		msg: flowMod(NewMatch(EthType(EthTypeARP)), ApplyActions{Actions: []Action{
			Move{Src: FieldNXMEthSrc, Dst: FieldNXMEthDst, Bits: 48},
			Move{Src: FieldNXMReg0, SrcOffset: 4, Dst: FieldNXMReg1, DstOffset: 8, Bits: 12},
			Load{Dst: FieldNXMARPOp, Bits: 16, Value: 2},
			Load{Dst: FieldNXMInPort, Bits: 16},
			Load{Dst: FieldMetadata, Offset: 8, Bits: 24, Value: 0x777777},
			Multipath{
				Fields: HashNWSrc, Basis: 50, Algorithm: MultipathHRW, Links: 16, Arg: 3,
				Dst: FieldNXMReg2, Offset: 4, Bits: 16,
			},
			Resubmit{InPort: PortInPort, Table: 7},
			Resubmit{InPort: 9, Table: 8},
		}}),
		bytes: `04 0e 0100 01020304` + flowModHead + `
			0001 000a 80000a02 0806 000000000000
			0004 00c0 00000000
				ffff 0018 00002320 0006 0030 0000 0000 00000406 00000206
				ffff 0018 00002320 0006 000c 0004 0008 00010004 00010204
				ffff 0018 00002320 0007 000f 00001e02 0000000000000002
				ffff 0018 00002320 0007 000f 00000002 0000000000000000
				ffff 0018 00002320 0007 0217 80000408 0000000000777777
				ffff 0020 00002320 000a 0004 0032 0000
					0002 000f 00000003 0000 010f 00010404
				ffff 0010 00002320 000e fff8 07 000000
				ffff 0010 00002320 000e 0009 08 000000`,
		print: "arp actions=move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],move:NXM_NX_REG0[4..15]->NXM_NX_REG1[8..19],load:0x2->NXM_OF_ARP_OP[],load:0->NXM_OF_IN_PORT[],load:0x777777->OXM_OF_METADATA[8..31],multipath(nw_src,50,hrw,16,3,NXM_NX_REG2[4..19]),resubmit(,7),resubmit(9,8)",
	},
	{
		name: "flow-mod with connection tracking",
		msg: flowMod(NewMatch(EthType(EthTypeIPv4), IPProto(ProtoTCP)), ApplyActions{Actions: []Action{
			CT{Zone: 5, Table: 3, Actions: []Action{NAT{}}},
			CT{Flags: CTCommit | CTForce, ZoneField: FieldNXMReg3, ZoneOffset: 0, ZoneBits: 16, Table: CTNoTable, Actions: []Action{
				NAT{Flags: NATDst | NATHash, IPMin: netip.MustParseAddr("10.0.0.2"), IPMax: netip.MustParseAddr("10.0.0.9"), PortMin: 8080, PortMax: 8090},
				SetField{Field: field32(FieldNXMCTMark, 1)},
			}},
		}}),
		bytes: `04 0e 00b8 01020304` + flowModHead + `
			0001 000f 80000a02 0800 80001401 06 00
			0004 0078 00000000
				ffff 0028 00002320 0023 0000 00000000 0005 03 000000 0000
					ffff 0010 00002320 0024 0000 0000 0000
				ffff 0048 00002320 0023 0003 00010604 000f ff 000000 0000
					ffff 0020 00002320 0024 0000 000a 0033
						0a000002 0a000009 1f90 1f9a 00000000
					0019 0010 0001d604 00000001 00000000`,
		print: "tcp actions=ct(table=3,zone=5,nat),ct(commit,force,zone=NXM_NX_REG3[0..15],nat(dst=10.0.0.2-10.0.0.9:8080-8090,hash),exec(set_field:0x1->ct_mark))",
	},
	{
		name: "flow-mod with connection tracking of IPv6",
		msg: flowMod(NewMatch(EthType(EthTypeIPv6), IPProto(ProtoTCP)), ApplyActions{Actions: []Action{
			CT{Flags: CTCommit, Table: 1, Actions: []Action{
				NAT{Flags: NATSrc | NATPersistent | NATRandom, IPMin: netip.MustParseAddr("2001:db8::2"), PortMin: 80},
			}},
		}}),
		bytes: `04 0e 0088 01020304` + flowModHead + `
			0001 000f 80000a02 86dd 80001401 06 00
			0004 0048 00000000
				ffff 0040 00002320 0023 0001 00000000 0000 01 000000 0000
					ffff 0028 00002320 0024 0000 0015 0014
						20010db8000000000000000000000002 0050 000000000000`,
		print: "tcp6 actions=ct(commit,table=1,nat(src=[2001:db8::2]:80,persistent,random))",
	},
	{
		name: "group-mod select",
		msg: &GroupMod{Command: GroupAdd, Type: GroupTypeSelect, Group: 0x46000001, Buckets: []Bucket{
			{Weight: 1, WatchPort: PortAny, WatchGroup: 0x46000002, Actions: []Action{Group{ID: 0x46000002}}},
			{Weight: 2, WatchPort: PortAny, WatchGroup: GroupAny},
		}},
		bytes: `04 0f 0038 01020304
			0000 01 00 46000001
			0018 0001 ffffffff 46000002 00000000
				0016 0008 46000002
			0010 0002 ffffffff ffffffff 00000000`,
		print: "ADD group_id=1174405121,type=select,bucket=watch_group:1174405122,actions=group:1174405122,bucket=weight:2,actions=drop",
	},
	{
		name: "group-mod fast failover",
		msg: &GroupMod{Command: GroupModify, Type: GroupTypeFastFailover, Group: 2, Buckets: []Bucket{
			{WatchPort: 3, WatchGroup: GroupAny, Actions: []Action{SetField{Field: EthDst(mac1)}, OutputPort(3)}},
		}},
		bytes: `04 0f 0040 01020304
			0001 03 00 00000002
			0030 0000 00000003 ffffffff 00000000
				0019 0010 80000606 020000000001 0000
				0000 0010 00000003 0000 000000000000`,
		print: "MOD group_id=2,type=ff,bucket=watch_port:3,actions=set_field:02:00:00:00:00:01->eth_dst,output:3",
	},
	{
		name: "group-mod all",
		msg: &GroupMod{Type: GroupTypeAll, Group: 3, Buckets: []Bucket{
			{WatchPort: PortAny, WatchGroup: GroupAny, Actions: []Action{OutputPort(1)}},
			{WatchPort: PortAny, WatchGroup: GroupAny, Actions: []Action{OutputPort(2)}},
		}},
		bytes: `04 0f 0050 01020304
			0000 00 00 00000003
			0020 0000 ffffffff ffffffff 00000000
				0000 0010 00000001 0000 000000000000
			0020 0000 ffffffff ffffffff 00000000
				0000 0010 00000002 0000 000000000000`,
		print: "ADD group_id=3,type=all,bucket=actions=output:1,bucket=actions=output:2",
	},
	{
		name: "group-mod indirect",
		msg: &GroupMod{Type: GroupTypeIndirect, Group: 4, Buckets: []Bucket{
			{WatchPort: PortAny, WatchGroup: GroupAny, Actions: []Action{OutputPort(1)}},
		}},
		bytes: `04 0f 0030 01020304
			0000 02 00 00000004
			0020 0000 ffffffff ffffffff 00000000
				0000 0010 00000001 0000 000000000000`,
		print: "ADD group_id=4,type=indirect,bucket=actions=output:1",
	},
	{
		name:  "group-mod that deletes all",
		msg:   &GroupMod{Command: GroupDelete, Group: GroupAll},
		bytes: `04 0f 0010 01020304 0002 00 00 fffffffc`,
		print: "DEL group_id=4294967292,type=all",
	},
	{
		name: "port-mod",
		msg:  &PortMod{Port: 3, HWAddr: mac1, Config: PortConfigDown, Mask: PortConfigDown | PortConfigNoFwd, Advertise: 0x40},
		bytes: `04 10 0028 01020304
			00000003 00000000 020000000001 0000
			00000001 00000021 00000040 00000000`,
		print: "port: 3: addr:02:00:00:00:00:01|config: PORT_DOWN|mask:  PORT_DOWN NO_FWD|advertise: 10GB-FD",
	},
	{
		name:  "table-mod",
		msg:   &TableMod{Table: 5, Config: 0},
		bytes: `04 11 0010 01020304 05 000000 00000000`,
		print: "table_id=5",
	},
	{
		name: "meter-mod",
		msg: &MeterMod{Command: MeterAdd, Flags: MeterFlagKbps | MeterFlagBurst | MeterFlagStats, Meter: 9, Bands: []MeterBand{
			{Type: BandDrop, Rate: 1000, Burst: 100},
			{Type: BandDSCPRemark, Rate: 500, Burst: 50, PrecLevel: 1},
		}},
		bytes: `04 1d 0030 01020304
			0000 000d 00000009
			0001 0010 000003e8 00000064 00000000
			0002 0010 000001f4 00000032 01 000000`,
		print: "ADD meter=9 kbps burst stats bands=|type=drop rate=1000 burst_size=100|type=dscp_remark rate=500 burst_size=50 prec_level=1",
	},
	{
		name: "meter-mod with a band of an experimenter",
		msg: &MeterMod{Command: MeterModify, Flags: MeterFlagPktps, Meter: 9, Bands: []MeterBand{
			{Type: BandExperimenter, Rate: 1, Burst: 2, Data: []byte{0, 0x12, 0x34, 0x56}},
		}},
		bytes: `04 1d 0020 01020304
			0001 0002 00000009
			ffff 0010 00000001 00000002 00123456`,
	},
	{
		name:  "barrier request",
		msg:   &BarrierRequest{},
		bytes: `04 14 0008 01020304`,
		print: "OFPT_BARRIER_REQUEST",
	},
	{
		name:  "barrier reply",
		msg:   &BarrierReply{},
		bytes: `04 15 0008 01020304`,
		print: "OFPT_BARRIER_REPLY",
	},
	{
		name:  "queue get config request, kept raw",
		msg:   &RawMessage{Type: TypeQueueConfigReq, Body: []byte{0, 0, 0, 2, 0, 0, 0, 0}},
		bytes: `04 16 0010 01020304 00000002 00000000`,
		print: "port=2",
	},
	{
		name:  "role request",
		msg:   &RoleRequest{Role: RoleMaster, GenerationID: 7},
		bytes: `04 18 0018 01020304 00000002 00000000 0000000000000007`,
		print: "role=primary generation_id=7",
	},
	{
		name:  "role reply",
		msg:   &RoleReply{Role: RoleSlave, GenerationID: 1<<64 - 1},
		bytes: `04 19 0018 01020304 00000003 00000000 ffffffffffffffff`,
		print: "role=secondary",
	},
	{
		name:  "get async request",
		msg:   &GetAsyncRequest{},
		bytes: `04 1a 0008 01020304`,
		print: "OFPT_GET_ASYNC_REQUEST",
	},
	{
		name: "get async reply",
		msg:  &GetAsyncReply{PacketIn: [2]uint32{3, 0}, PortStatus: [2]uint32{7, 7}, FlowRemoved: [2]uint32{15, 0}},
		bytes: `04 1b 0020 01020304
			00000003 00000000 00000007 00000007 0000000f 00000000`,
		print: "PACKET_IN: no_match action|PORT_STATUS: add delete modify|FLOW_REMOVED: idle hard delete group_delete",
	},
	{
		name: "set async",
		msg:  &SetAsync{PacketIn: [2]uint32{1, 2}, PortStatus: [2]uint32{3, 4}, FlowRemoved: [2]uint32{5, 6}},
		bytes: `04 1c 0020 01020304
			00000001 00000002 00000003 00000004 00000005 00000006`,
		print: "PACKET_IN: no_match|PORT_STATUS: add delete|FLOW_REMOVED: idle delete|PACKET_IN: action|PORT_STATUS: modify|FLOW_REMOVED: hard delete",
	},
	{
		name:  "multipart request desc",
		msg:   &MultipartRequest{Type: MultipartDesc},
		bytes: `04 12 0010 01020304 0000 0000 00000000`,
		print: "OFPST_DESC request",
	},
	{
		name: "multipart request flow",
		msg: &MultipartRequest{Type: MultipartFlow, Body: FlowStatsRequest{
			Table: 2, OutPort: 3, OutGroup: 4, Cookie: 5, CookieMask: 0xff, Match: NewMatch(InPort(1)),
		}},
		bytes: `04 12 0040 01020304 0001 0000 00000000
			02 000000 00000003 00000004 00000000
			0000000000000005 00000000000000ff
			0001 000c 80000004 00000001 00000000`,
		print: "OFPST_FLOW request (OF1.3) (xid=0x1020304): table=2 out_port=3 in_port=1",
	},
	{
		name: "multipart request aggregate",
		msg:  &MultipartRequest{Type: MultipartAggregate, Body: AllFlows()},
		bytes: `04 12 0038 01020304 0002 0000 00000000
			ff 000000 ffffffff ffffffff 00000000
			0000000000000000 0000000000000000
			0001 0004 00000000`,
		print: "OFPST_AGGREGATE request",
	},
	{
		name:  "multipart request table",
		msg:   &MultipartRequest{Type: MultipartTable},
		bytes: `04 12 0010 01020304 0003 0000 00000000`,
		print: "OFPST_TABLE request",
	},
	{
		name:  "multipart request port stats",
		msg:   &MultipartRequest{Type: MultipartPortStats, Body: PortStatsRequest{Port: PortAny}},
		bytes: `04 12 0018 01020304 0004 0000 00000000 ffffffff 00000000`,
		print: "OFPST_PORT request (OF1.3) (xid=0x1020304): port_no=ANY",
	},
	{
		name:  "multipart request queue",
		msg:   &MultipartRequest{Type: MultipartQueue, Body: QueueStatsRequest{Port: 2, Queue: 0xffffffff}},
		bytes: `04 12 0018 01020304 0005 0000 00000000 00000002 ffffffff`,
		print: "OFPST_QUEUE request (OF1.3) (xid=0x1020304): port=2 queue=ALL",
	},
	{
		name:  "multipart request group",
		msg:   &MultipartRequest{Type: MultipartGroup, Body: GroupStatsRequest{Group: 9}},
		bytes: `04 12 0018 01020304 0006 0000 00000000 00000009 00000000`,
		print: "OFPST_GROUP request (OF1.3) (xid=0x1020304): group_id=9",
	},
	{
		name:  "multipart request group desc",
		msg:   &MultipartRequest{Type: MultipartGroupDesc},
		bytes: `04 12 0010 01020304 0007 0000 00000000`,
		print: "OFPST_GROUP_DESC request",
	},
	{
		name:  "multipart request group features",
		msg:   &MultipartRequest{Type: MultipartGroupFeatures},
		bytes: `04 12 0010 01020304 0008 0000 00000000`,
		print: "OFPST_GROUP_FEATURES request",
	},
	{
		name:  "multipart request meter",
		msg:   &MultipartRequest{Type: MultipartMeter, Body: MeterStatsRequest{Meter: 9}},
		bytes: `04 12 0018 01020304 0009 0000 00000000 00000009 00000000`,
		print: "OFPST_METER request (OF1.3) (xid=0x1020304): meter=9",
	},
	{
		name:  "multipart request meter config",
		msg:   &MultipartRequest{Type: MultipartMeterConfig, Body: MeterStatsRequest{Meter: MeterAll}},
		bytes: `04 12 0018 01020304 000a 0000 00000000 ffffffff 00000000`,
		print: "OFPST_METER_CONFIG request (OF1.3) (xid=0x1020304): meter=all",
	},
	{
		name:  "multipart request meter features",
		msg:   &MultipartRequest{Type: MultipartMeterFeatures},
		bytes: `04 12 0010 01020304 000b 0000 00000000`,
		print: "OFPST_METER_FEATURES request",
	},
	{
		name:  "multipart request table features",
		msg:   &MultipartRequest{Type: MultipartTableFeatures, Flags: MultipartMore},
		bytes: `04 12 0010 01020304 000c 0001 00000000`,
		print: "OFPST_TABLE_FEATURES request",
	},
	{
		name: "multipart request that sets table features",
		msg: &MultipartRequest{Type: MultipartTableFeatures, Body: TableFeaturesRequest{Tables: []TableFeatures{{
			Table: 1, Name: "vip", MetadataMatch: 0xff, MetadataWrite: 0xf0, Config: 3, MaxEntries: 1000,
			Properties: []TableProperty{
				{Type: PropInstructions, Body: []byte{0, 1, 0, 4, 0, 4, 0, 4}},
				{Type: PropNextTables, Body: []byte{2, 3, 4}},
				{Type: PropMatch, Body: []byte{0x80, 0, 0, 4, 0x80, 0, 7, 12}},
			},
		}}}},
		bytes: `04 12 0078 01020304 000c 0000 00000000
			0068 01 0000000000
			7669700000000000 0000000000000000 0000000000000000 0000000000000000
			00000000000000ff 00000000000000f0 00000003 000003e8
			0000 000c 0001 0004 0004 0004 00000000
			0002 0007 02 03 04 00
			0008 000c 80000004 8000070c 00000000`,
	},
	{
		name:  "multipart request port desc",
		msg:   &MultipartRequest{Type: MultipartPortDesc},
		bytes: `04 12 0010 01020304 000d 0000 00000000`,
		print: "OFPST_PORT_DESC request",
	},
	{
		name:  "multipart request of an experimenter",
		msg:   &MultipartRequest{Type: MultipartExperimenter, Body: RawBody{0, 0x12, 0x34, 0x56, 0, 0, 0, 1}},
		bytes: `04 12 0018 01020304 ffff 0000 00000000 00123456 00000001`,
	},
	{
		name: "multipart reply flow",
		msg: &MultipartReply{Type: MultipartFlow, Flags: MultipartMore, Body: FlowStats{
			Table: 1, DurationSec: 2, DurationNsec: 3000000, Priority: 4, IdleTimeout: 5, HardTimeout: 6,
			Flags: FlagSendFlowRem, Cookie: 7, Packets: 8, Bytes: 9, Match: NewMatch(InPort(1)),
			RawInstructions: []byte{0, 1, 0, 8, 2, 0, 0, 0},
		}.AppendTo(nil)},
		bytes: `04 13 0058 01020304 0001 0001 00000000
			0048 01 00 00000002 002dc6c0
			0004 0005 0006 0001 00000000
			0000000000000007 0000000000000008 0000000000000009
			0001 000c 80000004 00000001 00000000
			0001 0008 02 000000`,
		print: "cookie=0x7, duration=2.003s, table=1, n_packets=8, n_bytes=9, idle_timeout=5, hard_timeout=6, send_flow_rem priority=4,in_port=1 actions=goto_table:2",
	},
	{
		name: "multipart reply aggregate",
		msg:  &MultipartReply{Type: MultipartAggregate, Body: AggregateStats{Packets: 1, Bytes: 2, Flows: 3}.AppendTo(nil)},
		bytes: `04 13 0028 01020304 0002 0000 00000000
			0000000000000001 0000000000000002 00000003 00000000`,
		print: "packet_count=1 byte_count=2 flow_count=3",
	},
	{
		name: "multipart reply table",
		msg:  &MultipartReply{Type: MultipartTable, Body: TableStats{Table: 1, Active: 2, Lookups: 3, Matched: 4}.AppendTo(nil)},
		bytes: `04 13 0028 01020304 0003 0000 00000000
			01 000000 00000002 0000000000000003 0000000000000004`,
		print: "active=2, lookup=3, matched=4",
	},
	{
		name: "multipart reply port stats",
		msg: &MultipartReply{Type: MultipartPortStats, Body: PortStats{
			Port: 1, RxPackets: 2, TxPackets: 3, RxBytes: 4, TxBytes: 5, RxDropped: 6, TxDropped: 7, RxErrors: 8, TxErrors: 9,
			RxFrameErr: 10, RxOverErr: 11, RxCRCErr: 12, Colls: 13, DurationSec: 14, DurationNsec: 15000000,
		}.AppendTo(nil)},
		bytes: `04 13 0080 01020304 0004 0000 00000000
			00000001 00000000
			0000000000000002 0000000000000003 0000000000000004 0000000000000005
			0000000000000006 0000000000000007 0000000000000008 0000000000000009
			000000000000000a 000000000000000b 000000000000000c 000000000000000d
			0000000e 00e4e1c0`,
		print: "rx pkts=2, bytes=4, drop=6, errs=8, frame=10, over=11, crc=12|tx pkts=3, bytes=5, drop=7, errs=9, coll=13|duration=14.015s",
	},
	{
		name: "multipart reply queue",
		msg: &MultipartReply{Type: MultipartQueue, Body: QueueStats{
			Port: 1, Queue: 2, TxBytes: 3, TxPackets: 4, TxDropped: 5, DurationSec: 6, DurationNsec: 7000000,
		}.AppendTo(nil)},
		bytes: `04 13 0038 01020304 0005 0000 00000000
			00000001 00000002 0000000000000003 0000000000000004 0000000000000005 00000006 006acfc0`,
		print: "port 1 queue 2: bytes=3, pkts=4, errors=5, duration=6.007s",
	},
	{
		name: "multipart reply group",
		msg: &MultipartReply{Type: MultipartGroup, Body: GroupStats{
			Group: 1, RefCount: 2, Packets: 3, Bytes: 4, DurationSec: 5, DurationNsec: 6000000,
			Buckets: []BucketCounter{{Packets: 7, Bytes: 8}, {Packets: 9, Bytes: 10}},
		}.AppendTo(nil)},
		bytes: `04 13 0058 01020304 0006 0000 00000000
			0048 0000 00000001 00000002 00000000
			0000000000000003 0000000000000004 00000005 005b8d80
			0000000000000007 0000000000000008 0000000000000009 000000000000000a`,
		print: "group_id=1,duration=5.006s,ref_count=2,packet_count=3,byte_count=4,bucket0:packet_count=7,byte_count=8,bucket1:packet_count=9,byte_count=10",
	},
	{
		name: "multipart reply group desc",
		msg: &MultipartReply{Type: MultipartGroupDesc, Body: GroupDesc{
			Type: GroupTypeSelect, Group: 1, Buckets: []Bucket{
				{Weight: 100, WatchPort: PortAny, WatchGroup: GroupAny, Actions: []Action{OutputPort(1)}},
			},
		}.AppendTo(nil)},
		bytes: `04 13 0038 01020304 0007 0000 00000000
			0028 01 00 00000001
			0020 0064 ffffffff ffffffff 00000000
				0000 0010 00000001 0000 000000000000`,
		print: "group_id=1,type=select,bucket=weight:100,actions=output:1",
	},
	{
		name: "multipart reply group features",
		msg: &MultipartReply{Type: MultipartGroupFeatures, Body: GroupFeatures{
			Types: 0xf, Capabilities: GroupCapSelectWeight | GroupCapChaining, MaxGroups: [4]uint32{1, 2, 3, 4}, Actions: [4]uint32{1, 1, 1, 1},
		}.AppendTo(nil)},
		bytes: `04 13 0038 01020304 0008 0000 00000000
			0000000f 00000005 00000001 00000002 00000003 00000004
			00000001 00000001 00000001 00000001`,
		print: "Types:  0xf|Capabilities:  0x5|max_groups=0x2",
	},
	{
		name: "multipart reply meter",
		msg: &MultipartReply{Type: MultipartMeter, Body: MeterStats{
			Meter: 1, Flows: 2, Packets: 3, Bytes: 4, DurationSec: 5, DurationNsec: 6000000, Bands: []Counter{{Packets: 7, Bytes: 8}},
		}.AppendTo(nil)},
		bytes: `04 13 0048 01020304 0009 0000 00000000
			00000001 0038 000000000000 00000002
			0000000000000003 0000000000000004 00000005 005b8d80
			0000000000000007 0000000000000008`,
		print: "meter:1 flow_count:2 packet_in_count:3 byte_in_count:4 duration:5.006s bands:|0: packet_count:7 byte_count:8",
	},
	{
		name: "multipart reply meter config",
		msg: &MultipartReply{Type: MultipartMeterConfig, Body: MeterConfig{
			Flags: MeterFlagKbps, Meter: 1, Bands: []MeterBand{{Type: BandDrop, Rate: 1000}},
		}.AppendTo(nil)},
		bytes: `04 13 0028 01020304 000a 0000 00000000
			0018 0001 00000001
			0001 0010 000003e8 00000000 00000000`,
		print: "meter=1 kbps bands=|type=drop rate=1000",
	},
	{
		name: "multipart reply meter features",
		msg: &MultipartReply{Type: MultipartMeterFeatures, Body: MeterFeatures{
			MaxMeter: 100, BandTypes: 1 << BandDrop, Capabilities: uint32(MeterFlagKbps | MeterFlagStats), MaxBands: 8, MaxColor: 1,
		}.AppendTo(nil)},
		bytes: `04 13 0020 01020304 000b 0000 00000000
			00000064 00000002 00000009 08 01 0000`,
		print: "max_meter:100 max_bands:8 max_color:1|band_types: drop|capabilities: kbps stats",
	},
	{
		name: "multipart reply port desc",
		msg:  &MultipartReply{Type: MultipartPortDesc, Body: PortDesc{Port: PortLocal, HWAddr: mac2, Name: "br0"}.AppendTo(nil)},
		bytes: `04 13 0050 01020304 000d 0000 00000000
			fffffffe 00000000 020000000002 0000
			62723000000000000000000000000000
			00000000 00000000 00000000 00000000
			00000000 00000000 00000000 00000000`,
		print: "LOCAL(br0): addr:02:00:00:00:00:02",
	},
	{
		name: "bundle control",
		msg:  &BundleControl{Bundle: 1, Type: BundleCommitRequest, Flags: BundleAtomic | BundleOrdered},
		bytes: `04 04 0018 01020304
			4f4e4600 000008fc
			00000001 0004 0003`,
		print: "bundle_id=0x1 type=COMMIT_REQUEST flags=atomic ordered",
	},
	{
		name: "bundle control with a property",
		msg:  &BundleControl{Bundle: 1, Type: BundleOpenReply, Flags: BundleAtomic, Properties: []byte{0xff, 0xff, 0, 12, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0}},
		bytes: `04 04 0028 01020304
			4f4e4600 000008fc
			00000001 0001 0001
			ffff 000c 00000001 00000001 00000000`,
	},
	{
		name: "bundle add",
		msg: &BundleAdd{Bundle: 1, Flags: BundleAtomic | BundleOrdered, XID: goldenXID, Message: &GroupMod{
			Command: GroupDelete, Group: 7,
		}},
		bytes: `04 04 0028 01020304
			4f4e4600 000008fd
			00000001 0000 0003
			040f0010 01020304 0002 00 00 00000007`,
		print: "bundle_id=0x1 flags=atomic ordered|OFPT_GROUP_MOD (OF1.3) (xid=0x1020304): DEL group_id=7,type=all",
	},
	{
		name: "bundle add with a property",
		msg: &BundleAdd{Bundle: 1, Flags: BundleOrdered, XID: 9, Message: &SetConfig{MissSendLen: 1},
			Properties: []byte{0xff, 0xff, 0, 8, 0, 0, 0, 1}},
		bytes: `04 04 0030 01020304
			4f4e4600 000008fd
			00000001 0000 0002
			0409000c 00000009 0000 0001 00000000
			ffff 0008 00000001`,
	},
}

func TestGolden(t *testing.T) {
	for _, g := range goldens {
		t.Run(g.name, func(t *testing.T) {
			want := unhex(t, g.bytes)
			require.Equal(t, hex.EncodeToString(want), hex.EncodeToString(Append(nil, goldenXID, g.msg)))
			require.Equal(t, len(want), Len(g.msg))

			h, got, err := Parse(want)
			require.NoError(t, err)
			require.Equal(t, Header{Version: 4, Type: g.msg.MessageType(), Length: uint16(len(want)), XID: goldenXID}, h)
			require.Equal(t, g.msg, got)

			// Appending goes behind what is there.
			require.Equal(t, append([]byte("xyz"), want...), Append([]byte("xyz"), goldenXID, g.msg))
		})
	}
}

// TestRawLists writes lists in two forms: what is encoded already goes behind the rest.
func TestRawLists(t *testing.T) {
	flow := *vipFlow()
	whole := Append(nil, 7, &flow)
	for n := range len(flow.Instructions) + 1 {
		split := flow
		split.Instructions, split.RawInstructions = flow.Instructions[:n], AppendInstructions(nil, flow.Instructions[n:])
		require.Equal(t, whole, Append(nil, 7, &split))
	}
	group := GroupMod{Type: GroupTypeSelect, Group: 3, Buckets: []Bucket{
		{Weight: 1, WatchPort: PortAny, WatchGroup: 5, Actions: []Action{Group{ID: 5}}},
		{Weight: 2, WatchPort: 6, WatchGroup: GroupAny},
	}}
	whole = Append(nil, 7, &group)
	for n := range len(group.Buckets) + 1 {
		split := group
		split.Buckets, split.RawBuckets = group.Buckets[:n], AppendBuckets(nil, group.Buckets[n:])
		require.Equal(t, whole, Append(nil, 7, &split))
		back, err := ParseBuckets(split.RawBuckets)
		require.NoError(t, err)
		require.Equal(t, len(group.Buckets)-n, len(back))
	}
}

// TestGoldenCoversTypes fails when a message type of the specification has no golden bytes.
func TestGoldenCoversTypes(t *testing.T) {
	seen := map[MessageType]bool{TypeQueueConfigReply: true} // nobody asks for it
	multipart := map[MultipartType]bool{}
	for _, g := range goldens {
		seen[g.msg.MessageType()] = true
		if m, ok := g.msg.(*MultipartRequest); ok {
			multipart[m.Type] = true
		}
	}
	for typ := TypeHello; typ <= TypeMeterMod; typ++ {
		require.True(t, seen[typ], "no golden bytes of %v", typ)
	}
	for typ := MultipartDesc; typ <= MultipartPortDesc; typ++ {
		require.True(t, multipart[typ], "no golden bytes of a request for %v", typ)
	}
}

// TestEveryTruncation cuts every golden message at every byte: as a short frame,
// which is always refused, and as a whole frame of the shorter length, which is
// refused unless the message may end there, and then means what its bytes say.
func TestEveryTruncation(t *testing.T) {
	for _, g := range goldens {
		frame := unhex(t, g.bytes)
		for n := range len(frame) {
			_, m, err := Parse(frame[:n:n])
			require.ErrorIs(t, err, ErrTruncated, "%s cut to %d", g.name, n)
			require.Nil(t, m)
			if n < HeaderLen {
				continue
			}
			short := append([]byte(nil), frame[:n]...)
			be.PutUint16(short[2:], uint16(n))
			_, m, err = Parse(short)
			if err != nil {
				var pe *ParseError
				require.ErrorAs(t, err, &pe)
				require.LessOrEqual(t, pe.Offset, n, "%s cut to %d: %v", g.name, n, err)
				require.Nil(t, m)
				continue
			}
			if n < len(frame)-g.slack {
				require.NotEqual(t, g.msg, m, "%s cut to %d lost nothing", g.name, n)
			}
			again, m2, err := Parse(Append(nil, goldenXID, m))
			require.NoError(t, err)
			require.Equal(t, m, m2, "%s cut to %d: %v", g.name, n, again)
		}
		_, _, err := Parse(append(frame[:len(frame):len(frame)], 0))
		require.ErrorIs(t, err, ErrLength, "%s and one byte more", g.name)
	}
}

// TestFixedLengthMessages appends bytes, and says so in the header, to messages
// that have one length only.
func TestFixedLengthMessages(t *testing.T) {
	for _, m := range []Message{
		&FeaturesRequest{}, &FeaturesReply{}, &GetConfigRequest{}, &GetConfigReply{}, &SetConfig{}, &FlowRemoved{},
		&PortStatus{}, &PortMod{}, &TableMod{}, &BarrierRequest{}, &BarrierReply{}, &RoleRequest{}, &RoleReply{},
		&GetAsyncRequest{}, &GetAsyncReply{}, &SetAsync{}, &MultipartRequest{Type: MultipartDesc},
		&MultipartRequest{Type: MultipartFlow, Body: AllFlows()}, &MultipartRequest{Type: MultipartPortStats, Body: PortStatsRequest{}},
	} {
		frame := pad(Append(nil, 1, m), 8)
		be.PutUint16(frame[2:], uint16(len(frame)))
		_, _, err := Parse(frame)
		require.ErrorIs(t, err, ErrLength, "%v", m.MessageType())
	}
}

// TestNestedLengths overwrites every length inside the golden messages with what
// it must not be, and expects a refusal that names a place.
func TestNestedLengths(t *testing.T) {
	// Where the lengths of a message stand: name of the golden message, offset.
	for _, c := range []struct {
		name   string
		offset int
		size   int // of the length field in bytes
		what   string
	}{
		{"hello", 10, 2, "element"},
		{"packet-in", 26, 2, "match"},
		{"packet-in", 31, 1, "oxm"},
		{"flow removed", 50, 2, "match"},
		{"packet-out", 26, 2, "action"},
		{"packet-out", 42, 2, "second action"},
		{"flow-mod of a VIP", 50, 2, "match"},
		{"flow-mod of a VIP", 55, 1, "oxm in_port"},
		{"flow-mod of a VIP", 69, 1, "oxm ip_proto"},
		{"flow-mod of a VIP", 90, 2, "instruction"},
		{"flow-mod of a VIP", 98, 2, "set-field"},
		{"flow-mod of a VIP", 103, 1, "oxm in set-field"},
		{"flow-mod of a VIP", 114, 2, "group action"},
		{"flow-mod of a VIP", 122, 2, "goto_table"},
		{"group-mod select", 16, 2, "bucket"},
		{"group-mod select", 34, 2, "action in a bucket"},
		{"group-mod select", 40, 2, "second bucket"},
		{"meter-mod", 18, 2, "band"},
		{"meter-mod", 34, 2, "second band"},
		{"bundle add", 26, 2, "message in a bundle"},
		{"multipart request flow", 50, 2, "match"},
		{"multipart request that sets table features", 16, 2, "table"},
		{"multipart request that sets table features", 82, 2, "property"},
		{"flow-mod with Nicira's actions", 66, 2, "instruction"},
		{"flow-mod with Nicira's actions", 74, 2, "move"},
		{"flow-mod with connection tracking", 74, 2, "ct"},
		{"flow-mod with connection tracking", 98, 2, "nat"},
		{"flow-mod with connection tracking", 114, 2, "second ct"},
		{"flow-mod with connection tracking", 138, 2, "nat with addresses"},
	} {
		var frame []byte
		for _, g := range goldens {
			if g.name == c.name {
				frame = unhex(t, g.bytes)
			}
		}
		require.NotEmpty(t, frame, c.name)
		old := uint16(frame[c.offset])
		if c.size == 2 {
			old = be.Uint16(frame[c.offset:])
		}
		for _, v := range []uint16{0, 1, 3, 7, old - 1, old + 1, old + 8, 0xff, 0xfff8, 0xffff} {
			if v == old || (c.size == 1 && v > 0xff) {
				continue
			}
			if c.what == "instruction" && v == old+8 && c.name == "flow-mod of a VIP" {
				continue // takes the instruction behind it for an action of an unknown type
			}
			bad := append([]byte(nil), frame...)
			if c.size == 2 {
				be.PutUint16(bad[c.offset:], v)
			} else {
				bad[c.offset] = byte(v)
			}
			_, m, err := Parse(bad)
			require.Error(t, err, "%s: length of %s is %d instead of %d: %#v", c.name, c.what, v, old, m)
			require.Nil(t, m)
		}
	}
}
