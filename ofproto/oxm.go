package ofproto

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// OXM classes (§7.2.3.3): the upper half of a FieldType.
const (
	classNXM0         = 0x0000 // Nicira's fields, before there was OXM
	classNXM1         = 0x0001
	classEricsson     = 0x1000 // of neighbour discovery, in Open vSwitch
	classBasic        = 0x8000
	classPacketRegs   = 0x8001
	classExperimenter = 0xffff
)

// The fields of the specification (§7.2.3.7).
const (
	FieldInPort       FieldType = classBasic<<16 | iota
	FieldInPhyPort              // the physical port under a logical one
	FieldMetadata               // written by earlier tables
	FieldEthDst                 //
	FieldEthSrc                 //
	FieldEthType                // of the payload, after VLAN tags
	FieldVLANVID                // 12 bits and 0x1000, "has a tag"
	FieldVLANPCP                //
	FieldIPDSCP                 // 6 bits
	FieldIPECN                  // 2 bits
	FieldIPProto                //
	FieldIPv4Src                //
	FieldIPv4Dst                //
	FieldTCPSrc                 //
	FieldTCPDst                 //
	FieldUDPSrc                 //
	FieldUDPDst                 //
	FieldSCTPSrc                //
	FieldSCTPDst                //
	FieldICMPv4Type             //
	FieldICMPv4Code             //
	FieldARPOp                  //
	FieldARPSPA                 // sender's IPv4 address
	FieldARPTPA                 // target's IPv4 address
	FieldARPSHA                 // sender's MAC
	FieldARPTHA                 // target's MAC
	FieldIPv6Src                //
	FieldIPv6Dst                //
	FieldIPv6FLabel             // 20 bits
	FieldICMPv6Type             //
	FieldICMPv6Code             //
	FieldIPv6NDTarget           //
	FieldIPv6NDSLL              // source link layer option
	FieldIPv6NDTLL              // target link layer option
	FieldMPLSLabel              // 20 bits
	FieldMPLSTC                 // 3 bits
	FieldMPLSBOS                // 1 bit
	FieldPBBISID                // 24 bits
	FieldTunnelID               //
	FieldIPv6ExtHdr             // 9 flags
)

// Nicira's fields, operands of Move and Load and of matches on Open vSwitch.
const (
	FieldNXMInPort   FieldType = classNXM0<<16 | iota // 16 bits
	FieldNXMEthDst                                    //
	FieldNXMEthSrc                                    //
	FieldNXMEthType                                   //
	FieldNXMVLANTCI                                   //
	FieldNXMIPTOS                                     //
	FieldNXMIPProto                                   //
	FieldNXMIPSrc                                     //
	FieldNXMIPDst                                     //
	FieldNXMTCPSrc                                    //
	FieldNXMTCPDst                                    //
	FieldNXMUDPSrc                                    //
	FieldNXMUDPDst                                    //
	FieldNXMICMPType                                  //
	FieldNXMICMPCode                                  //
	FieldNXMARPOp                                     //
	FieldNXMARPSPA                                    //
	FieldNXMARPTPA                                    //
)

// Fields of Nicira's second class.
const (
	FieldNXMReg0       FieldType = classNXM1 << 16 // registers 0 … 15 follow one another
	FieldNXMReg1       FieldType = classNXM1<<16 | 1
	FieldNXMReg2       FieldType = classNXM1<<16 | 2
	FieldNXMReg3       FieldType = classNXM1<<16 | 3
	FieldNXMReg4       FieldType = classNXM1<<16 | 4
	FieldNXMReg5       FieldType = classNXM1<<16 | 5
	FieldNXMReg6       FieldType = classNXM1<<16 | 6
	FieldNXMReg7       FieldType = classNXM1<<16 | 7
	FieldNXMReg15      FieldType = classNXM1<<16 | 15
	FieldNXMTunID      FieldType = classNXM1<<16 | 16
	FieldNXMARPSHA     FieldType = classNXM1<<16 | 17
	FieldNXMARPTHA     FieldType = classNXM1<<16 | 18
	FieldNXMIPv6Src    FieldType = classNXM1<<16 | 19
	FieldNXMIPv6Dst    FieldType = classNXM1<<16 | 20
	FieldNXMICMPv6Type FieldType = classNXM1<<16 | 21
	FieldNXMICMPv6Code FieldType = classNXM1<<16 | 22
	FieldNXMNDTarget   FieldType = classNXM1<<16 | 23
	FieldNXMNDSLL      FieldType = classNXM1<<16 | 24
	FieldNXMNDTLL      FieldType = classNXM1<<16 | 25
	FieldNXMIPFrag     FieldType = classNXM1<<16 | 26
	FieldNXMIPv6Label  FieldType = classNXM1<<16 | 27
	FieldNXMIPECN      FieldType = classNXM1<<16 | 28
	FieldNXMIPTTL      FieldType = classNXM1<<16 | 29
	FieldNXMMPLSTTL    FieldType = classNXM1<<16 | 30
	FieldNXMTunIPv4Src FieldType = classNXM1<<16 | 31
	FieldNXMTunIPv4Dst FieldType = classNXM1<<16 | 32
	FieldNXMPktMark    FieldType = classNXM1<<16 | 33
	FieldNXMTCPFlags   FieldType = classNXM1<<16 | 34
	FieldNXMConjID     FieldType = classNXM1<<16 | 37
	FieldNXMCTState    FieldType = classNXM1<<16 | 105
	FieldNXMCTZone     FieldType = classNXM1<<16 | 106
	FieldNXMCTMark     FieldType = classNXM1<<16 | 107
	FieldNXMCTLabel    FieldType = classNXM1<<16 | 108
	FieldNXMXXReg0     FieldType = classNXM1<<16 | 111 // four of 128 bits, over the registers
	FieldNXMCTProto    FieldType = classNXM1<<16 | 119
	FieldNXMCTIPSrc    FieldType = classNXM1<<16 | 120
	FieldNXMCTIPDst    FieldType = classNXM1<<16 | 121
	FieldNXMCTIPv6Src  FieldType = classNXM1<<16 | 122
	FieldNXMCTIPv6Dst  FieldType = classNXM1<<16 | 123
	FieldNXMCTSrcPort  FieldType = classNXM1<<16 | 124
	FieldNXMCTDstPort  FieldType = classNXM1<<16 | 125
	FieldPacketReg0    FieldType = classPacketRegs << 16 // eight of 64 bits, over the registers
)

// Fields that let Open vSwitch turn a neighbour solicitation into the advertisement.
const (
	FieldNDReserved    FieldType = classEricsson<<16 | 1 // the flags and what is reserved, 32 bits
	FieldNDOptionsType FieldType = classEricsson<<16 | 2 // of the first option: 1 source, 2 target link address
)

// kind is how a value is written as text.
type kind uint8

const (
	kindDec kind = iota
	kindHex
	kindHex4 // with all its digits
	kindPort
	kindMAC
	kindIP
)

// fieldInfo is what is known about a field.
type fieldInfo struct {
	Type FieldType
	Name string
	Len  uint8  // of a value, in bytes
	Bits uint16 // of them that mean something, the lower ones
	Kind kind
}

// fields is the one place where names, sizes and the way of writing are kept.
// Names of the specification's fields are those of its enum in lower case, names
// of Nicira's fields those that ovs-ofctl takes in move and load.
var fields = []fieldInfo{
	{FieldInPort, "in_port", 4, 32, kindPort},
	{FieldInPhyPort, "in_phy_port", 4, 32, kindPort},
	{FieldMetadata, "metadata", 8, 64, kindHex},
	{FieldEthDst, "eth_dst", 6, 48, kindMAC},
	{FieldEthSrc, "eth_src", 6, 48, kindMAC},
	{FieldEthType, "eth_type", 2, 16, kindHex4},
	{FieldVLANVID, "vlan_vid", 2, 13, kindHex4},
	{FieldVLANPCP, "vlan_pcp", 1, 3, kindDec},
	{FieldIPDSCP, "ip_dscp", 1, 6, kindDec},
	{FieldIPECN, "ip_ecn", 1, 2, kindDec},
	{FieldIPProto, "ip_proto", 1, 8, kindDec},
	{FieldIPv4Src, "ipv4_src", 4, 32, kindIP},
	{FieldIPv4Dst, "ipv4_dst", 4, 32, kindIP},
	{FieldTCPSrc, "tcp_src", 2, 16, kindDec},
	{FieldTCPDst, "tcp_dst", 2, 16, kindDec},
	{FieldUDPSrc, "udp_src", 2, 16, kindDec},
	{FieldUDPDst, "udp_dst", 2, 16, kindDec},
	{FieldSCTPSrc, "sctp_src", 2, 16, kindDec},
	{FieldSCTPDst, "sctp_dst", 2, 16, kindDec},
	{FieldICMPv4Type, "icmpv4_type", 1, 8, kindDec},
	{FieldICMPv4Code, "icmpv4_code", 1, 8, kindDec},
	{FieldARPOp, "arp_op", 2, 16, kindDec},
	{FieldARPSPA, "arp_spa", 4, 32, kindIP},
	{FieldARPTPA, "arp_tpa", 4, 32, kindIP},
	{FieldARPSHA, "arp_sha", 6, 48, kindMAC},
	{FieldARPTHA, "arp_tha", 6, 48, kindMAC},
	{FieldIPv6Src, "ipv6_src", 16, 128, kindIP},
	{FieldIPv6Dst, "ipv6_dst", 16, 128, kindIP},
	{FieldIPv6FLabel, "ipv6_flabel", 4, 20, kindHex},
	{FieldICMPv6Type, "icmpv6_type", 1, 8, kindDec},
	{FieldICMPv6Code, "icmpv6_code", 1, 8, kindDec},
	{FieldIPv6NDTarget, "ipv6_nd_target", 16, 128, kindIP},
	{FieldIPv6NDSLL, "ipv6_nd_sll", 6, 48, kindMAC},
	{FieldIPv6NDTLL, "ipv6_nd_tll", 6, 48, kindMAC},
	{FieldMPLSLabel, "mpls_label", 4, 20, kindDec},
	{FieldMPLSTC, "mpls_tc", 1, 3, kindDec},
	{FieldMPLSBOS, "mpls_bos", 1, 1, kindDec},
	{FieldPBBISID, "pbb_isid", 3, 24, kindHex},
	{FieldTunnelID, "tunnel_id", 8, 64, kindHex},
	{FieldIPv6ExtHdr, "ipv6_exthdr", 2, 9, kindHex},

	{FieldNXMInPort, "NXM_OF_IN_PORT", 2, 16, kindDec},
	{FieldNXMEthDst, "NXM_OF_ETH_DST", 6, 48, kindMAC},
	{FieldNXMEthSrc, "NXM_OF_ETH_SRC", 6, 48, kindMAC},
	{FieldNXMEthType, "NXM_OF_ETH_TYPE", 2, 16, kindHex4},
	{FieldNXMVLANTCI, "NXM_OF_VLAN_TCI", 2, 16, kindHex4},
	{FieldNXMIPTOS, "NXM_OF_IP_TOS", 1, 8, kindDec},
	{FieldNXMIPProto, "NXM_OF_IP_PROTO", 1, 8, kindDec},
	{FieldNXMIPSrc, "NXM_OF_IP_SRC", 4, 32, kindIP},
	{FieldNXMIPDst, "NXM_OF_IP_DST", 4, 32, kindIP},
	{FieldNXMTCPSrc, "NXM_OF_TCP_SRC", 2, 16, kindDec},
	{FieldNXMTCPDst, "NXM_OF_TCP_DST", 2, 16, kindDec},
	{FieldNXMUDPSrc, "NXM_OF_UDP_SRC", 2, 16, kindDec},
	{FieldNXMUDPDst, "NXM_OF_UDP_DST", 2, 16, kindDec},
	{FieldNXMICMPType, "NXM_OF_ICMP_TYPE", 1, 8, kindDec},
	{FieldNXMICMPCode, "NXM_OF_ICMP_CODE", 1, 8, kindDec},
	{FieldNXMARPOp, "NXM_OF_ARP_OP", 2, 16, kindDec},
	{FieldNXMARPSPA, "NXM_OF_ARP_SPA", 4, 32, kindIP},
	{FieldNXMARPTPA, "NXM_OF_ARP_TPA", 4, 32, kindIP},

	{FieldNXMReg0, "NXM_NX_REG0", 4, 32, kindHex},
	{FieldNXMReg1, "NXM_NX_REG1", 4, 32, kindHex},
	{FieldNXMReg2, "NXM_NX_REG2", 4, 32, kindHex},
	{FieldNXMReg3, "NXM_NX_REG3", 4, 32, kindHex},
	{FieldNXMReg4, "NXM_NX_REG4", 4, 32, kindHex},
	{FieldNXMReg5, "NXM_NX_REG5", 4, 32, kindHex},
	{FieldNXMReg6, "NXM_NX_REG6", 4, 32, kindHex},
	{FieldNXMReg7, "NXM_NX_REG7", 4, 32, kindHex},
	{FieldNXMReg0 + 8, "NXM_NX_REG8", 4, 32, kindHex},
	{FieldNXMReg0 + 9, "NXM_NX_REG9", 4, 32, kindHex},
	{FieldNXMReg0 + 10, "NXM_NX_REG10", 4, 32, kindHex},
	{FieldNXMReg0 + 11, "NXM_NX_REG11", 4, 32, kindHex},
	{FieldNXMReg0 + 12, "NXM_NX_REG12", 4, 32, kindHex},
	{FieldNXMReg0 + 13, "NXM_NX_REG13", 4, 32, kindHex},
	{FieldNXMReg0 + 14, "NXM_NX_REG14", 4, 32, kindHex},
	{FieldNXMReg15, "NXM_NX_REG15", 4, 32, kindHex},
	{FieldNXMTunID, "NXM_NX_TUN_ID", 8, 64, kindHex},
	{FieldNXMARPSHA, "NXM_NX_ARP_SHA", 6, 48, kindMAC},
	{FieldNXMARPTHA, "NXM_NX_ARP_THA", 6, 48, kindMAC},
	{FieldNXMIPv6Src, "NXM_NX_IPV6_SRC", 16, 128, kindIP},
	{FieldNXMIPv6Dst, "NXM_NX_IPV6_DST", 16, 128, kindIP},
	{FieldNXMICMPv6Type, "NXM_NX_ICMPV6_TYPE", 1, 8, kindDec},
	{FieldNXMICMPv6Code, "NXM_NX_ICMPV6_CODE", 1, 8, kindDec},
	{FieldNXMNDTarget, "NXM_NX_ND_TARGET", 16, 128, kindIP},
	{FieldNXMNDSLL, "NXM_NX_ND_SLL", 6, 48, kindMAC},
	{FieldNXMNDTLL, "NXM_NX_ND_TLL", 6, 48, kindMAC},
	{FieldNXMIPFrag, "NXM_NX_IP_FRAG", 1, 2, kindDec},
	{FieldNXMIPv6Label, "NXM_NX_IPV6_LABEL", 4, 20, kindHex},
	{FieldNXMIPECN, "NXM_NX_IP_ECN", 1, 2, kindDec},
	{FieldNXMIPTTL, "NXM_NX_IP_TTL", 1, 8, kindDec},
	{FieldNXMMPLSTTL, "NXM_NX_MPLS_TTL", 1, 8, kindDec},
	{FieldNXMTunIPv4Src, "NXM_NX_TUN_IPV4_SRC", 4, 32, kindIP},
	{FieldNXMTunIPv4Dst, "NXM_NX_TUN_IPV4_DST", 4, 32, kindIP},
	{FieldNXMPktMark, "NXM_NX_PKT_MARK", 4, 32, kindHex},
	{FieldNXMTCPFlags, "NXM_NX_TCP_FLAGS", 2, 12, kindHex},
	{FieldNXMConjID, "NXM_NX_CONJ_ID", 4, 32, kindDec},
	{FieldNXMCTState, "NXM_NX_CT_STATE", 4, 32, kindHex},
	{FieldNXMCTZone, "NXM_NX_CT_ZONE", 2, 16, kindDec},
	{FieldNXMCTMark, "NXM_NX_CT_MARK", 4, 32, kindHex},
	{FieldNXMCTLabel, "NXM_NX_CT_LABEL", 16, 128, kindHex},
	{FieldNXMXXReg0, "NXM_NX_XXREG0", 16, 128, kindHex},
	{FieldNXMXXReg0 + 1, "NXM_NX_XXREG1", 16, 128, kindHex},
	{FieldNXMXXReg0 + 2, "NXM_NX_XXREG2", 16, 128, kindHex},
	{FieldNXMXXReg0 + 3, "NXM_NX_XXREG3", 16, 128, kindHex},
	{FieldNXMCTProto, "NXM_NX_CT_NW_PROTO", 1, 8, kindDec},
	{FieldNXMCTIPSrc, "NXM_NX_CT_NW_SRC", 4, 32, kindIP},
	{FieldNXMCTIPDst, "NXM_NX_CT_NW_DST", 4, 32, kindIP},
	{FieldNXMCTIPv6Src, "NXM_NX_CT_IPV6_SRC", 16, 128, kindIP},
	{FieldNXMCTIPv6Dst, "NXM_NX_CT_IPV6_DST", 16, 128, kindIP},
	{FieldNXMCTSrcPort, "NXM_NX_CT_TP_SRC", 2, 16, kindDec},
	{FieldNXMCTDstPort, "NXM_NX_CT_TP_DST", 2, 16, kindDec},

	{FieldPacketReg0, "OXM_OF_PKT_REG0", 8, 64, kindHex},
	{FieldPacketReg0 + 1, "OXM_OF_PKT_REG1", 8, 64, kindHex},
	{FieldPacketReg0 + 2, "OXM_OF_PKT_REG2", 8, 64, kindHex},
	{FieldPacketReg0 + 3, "OXM_OF_PKT_REG3", 8, 64, kindHex},
	{FieldPacketReg0 + 4, "OXM_OF_PKT_REG4", 8, 64, kindHex},
	{FieldPacketReg0 + 5, "OXM_OF_PKT_REG5", 8, 64, kindHex},
	{FieldPacketReg0 + 6, "OXM_OF_PKT_REG6", 8, 64, kindHex},
	{FieldPacketReg0 + 7, "OXM_OF_PKT_REG7", 8, 64, kindHex},

	{FieldNDReserved, "ERICOXM_OF_ICMPV6_ND_RESERVED", 4, 32, kindHex},
	{FieldNDOptionsType, "ERICOXM_OF_ICMPV6_ND_OPTIONS_TYPE", 1, 8, kindDec},
}

// fieldIndex finds a row of fields by class and number; 0 where there is none.
var fieldIndex = func() (index [5][128]uint8) {
	for i, f := range fields {
		index[classIndex(f.Type)][f.Type&0x7f] = uint8(i + 1)
	}
	return index
}()

// classIndex numbers the classes that fields has rows of; -1 for others.
func classIndex(t FieldType) int {
	switch t >> 16 {
	case classBasic:
		return 0
	case classNXM0:
		return 1
	case classNXM1:
		return 2
	case classPacketRegs:
		return 3
	case classEricsson:
		return 4
	}
	return -1
}

func (t FieldType) info() *fieldInfo {
	c := classIndex(t)
	if c < 0 {
		return nil
	}
	if i := fieldIndex[c][t&0x7f]; i > 0 {
		return &fields[i-1]
	}
	return nil
}

// Bits is the number of bits of the field that mean something, 0 when it is not known.
func (t FieldType) Bits() int {
	if i := t.info(); i != nil {
		return int(i.Bits)
	}
	return 0
}

// Len is the number of bytes of a value of the field, 0 when it is not known.
func (t FieldType) Len() int {
	if i := t.info(); i != nil {
		return int(i.Len)
	}
	return 0
}

// String returns the field's name: "ipv4_dst", "NXM_NX_REG0".
func (t FieldType) String() string {
	if i := t.info(); i != nil {
		return i.Name
	}
	return fmt.Sprintf("field_%04x_%d", uint32(t)>>16, t&0x7f)
}

// header is the 32-bit OXM header of a field of known length, without a mask.
func (t FieldType) header() uint32 {
	return uint32(t)&^0xffff | uint32(t&0x7f)<<9 | uint32(t.Len())
}

// fieldOfHeader is the inverse of header; ok is false where the field is not in the
// table or the length is not the table's.
func fieldOfHeader(h uint32) (t FieldType, ok bool) {
	t = FieldType(h&^0xffff | h>>9&0x7f)
	return t, t.Len() > 0 && t.header() == h
}

// appendTo appends the field as an OXM TLV.
func (f Field) appendTo(b []byte) []byte {
	n := len(f.Value) + len(f.Mask)
	if f.Type>>16 == classExperimenter {
		n += 4
	}
	h := uint32(f.Type)&^0xffff | uint32(f.Type&0x7f)<<9 | uint32(n&0xff)
	if f.Mask != nil {
		h |= 1 << 8
	}
	b = be.AppendUint32(b, h)
	if f.Type>>16 == classExperimenter {
		b = be.AppendUint32(b, f.Experimenter)
	}
	b = append(b, f.Value...)
	return append(b, f.Mask...)
}

// parseField reads the TLV that b begins with and returns its length in bytes.
func parseField(b []byte) (f Field, n int, err error) {
	if len(b) < 4 {
		return Field{}, 0, fail("oxm", len(b), ErrTruncated)
	}
	n = 4 + int(b[3])
	if n > len(b) {
		return Field{}, 0, fail("oxm", 3, ErrTruncated)
	}
	f.Type = FieldType(be.Uint16(b))<<16 | FieldType(b[2]>>1)
	v := b[4:n:n]
	if f.Type>>16 == classExperimenter {
		if len(v) < 4 {
			return Field{}, 0, fail("oxm", 3, ErrLength)
		}
		f.Experimenter, v = be.Uint32(v), v[4:]
	}
	f.Value = v
	if b[2]&1 != 0 {
		half := len(v) / 2
		if len(v) == 0 || len(v)%2 != 0 {
			return Field{}, 0, fail("oxm", 3, ErrLength)
		}
		f.Value, f.Mask = v[:half:half], v[half:]
	}
	if want := f.Type.Len(); want != 0 && len(f.Value) != want {
		return Field{}, 0, fail("oxm", 3, ErrLength)
	}
	return f, n, nil
}

// Uint is the value as a number. It is meant for fields of up to 8 bytes; of
// longer ones it is the last 8.
func (f Field) Uint() uint64 { return uintOf(f.Value) }

// UintMask is the mask as a number, all ones in the field's bytes where it is exact.
func (f Field) UintMask() uint64 {
	if f.Mask != nil {
		return uintOf(f.Mask)
	}
	if n := len(f.Value); n < 8 {
		return 1<<(8*n) - 1
	}
	return 1<<64 - 1
}

func uintOf(b []byte) (v uint64) {
	for _, c := range b {
		v = v<<8 | uint64(c)
	}
	return v
}

// Addr is the value of an IPv4 or IPv6 address field; invalid for others.
func (f Field) Addr() netip.Addr {
	a, _ := netip.AddrFromSlice(f.Value)
	return a
}

// Prefix is value and mask of an IPv4 or IPv6 address field; ok is false for other
// fields and for masks that are not a prefix.
func (f Field) Prefix() (p netip.Prefix, ok bool) {
	a := f.Addr()
	if !a.IsValid() {
		return netip.Prefix{}, false
	}
	bits := a.BitLen()
	if f.Mask != nil {
		if bits, ok = prefixBits(f.Mask); !ok {
			return netip.Prefix{}, false
		}
	}
	return netip.PrefixFrom(a, bits), true
}

// prefixBits counts the leading ones of a mask that has nothing else.
func prefixBits(mask []byte) (n int, ok bool) {
	for n < 8*len(mask) && mask[n/8]&(0x80>>(n%8)) != 0 {
		n++
	}
	for i := n; i < 8*len(mask); i++ {
		if mask[i/8]&(0x80>>(i%8)) != 0 {
			return 0, false
		}
	}
	return n, true
}

// MAC is the value of an Ethernet address field; the zero MAC for others.
func (f Field) MAC() MAC {
	if len(f.Value) != 6 {
		return MAC{}
	}
	return MAC(f.Value)
}

// String returns "name=value" or "name=value/mask".
func (f Field) String() string {
	return f.name() + "=" + f.text()
}

func (f Field) name() string {
	if f.Type>>16 == classExperimenter {
		return fmt.Sprintf("experimenter_%08x_%d", f.Experimenter, f.Type&0x7f)
	}
	return f.Type.String()
}

func (f Field) text() string {
	info := f.Type.info()
	if info == nil {
		if f.Mask != nil {
			return fmt.Sprintf("0x%x/0x%x", f.Value, f.Mask)
		}
		return fmt.Sprintf("0x%x", f.Value)
	}
	k := info.Kind
	if f.Mask == nil {
		return textOf(k, f.Value)
	}
	switch k {
	case kindIP:
		if p, ok := f.Prefix(); ok {
			return p.String()
		}
	case kindDec, kindPort: // bits are easier to read in hexadecimal
		k = kindHex
	}
	return textOf(k, f.Value) + "/" + textOf(k, f.Mask)
}

func textOf(k kind, v []byte) string {
	switch k {
	case kindPort:
		return Port(uintOf(v)).String()
	case kindMAC:
		return MAC(v).String()
	case kindIP:
		a, _ := netip.AddrFromSlice(v)
		return a.String()
	case kindHex4:
		return fmt.Sprintf("0x%04x", uintOf(v))
	case kindHex:
		if s := strings.TrimLeft(fmt.Sprintf("%x", v), "0"); s != "" {
			return "0x" + s
		}
		return "0"
	}
	return strconv.FormatUint(uintOf(v), 10)
}

// Protocol numbers for IPProto, L4Src and L4Dst.
const (
	ProtoICMP   uint8 = 1
	ProtoTCP    uint8 = 6
	ProtoUDP    uint8 = 17
	ProtoICMPv6 uint8 = 58
	ProtoSCTP   uint8 = 132
)

// Ethernet types for EthType and PushVLAN.
const (
	EthTypeIPv4 uint16 = 0x0800
	EthTypeARP  uint16 = 0x0806
	EthTypeVLAN uint16 = 0x8100
	EthTypeIPv6 uint16 = 0x86dd
	EthTypeLLDP uint16 = 0x88cc
)

// vlanPresent is the bit of vlan_vid that every tagged packet has (§7.2.3.7, OFPVID_PRESENT).
const vlanPresent = 0x1000

// Those that do not append keep the value out of the heap where the field stays out of it.
func field8(t FieldType, v uint8) Field { return Field{Type: t, Value: []byte{v}} }
func field16(t FieldType, v uint16) Field {
	return Field{Type: t, Value: []byte{byte(v >> 8), byte(v)}}
}
func field32(t FieldType, v uint32) Field {
	return Field{Type: t, Value: []byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)}}
}
func field64(t FieldType, v uint64) Field { return Field{Type: t, Value: be.AppendUint64(nil, v)} }

func field16m(t FieldType, v, m uint16) Field {
	return Field{Type: t, Value: be.AppendUint16(nil, v&m), Mask: be.AppendUint16(nil, m)}
}

func field32m(t FieldType, v, m uint32) Field {
	return Field{Type: t, Value: be.AppendUint32(nil, v&m), Mask: be.AppendUint32(nil, m)}
}

func field64m(t FieldType, v, m uint64) Field {
	if m == 1<<64-1 {
		return field64(t, v)
	}
	return Field{Type: t, Value: be.AppendUint64(nil, v&m), Mask: be.AppendUint64(nil, m)}
}

func fieldMAC(t FieldType, v MAC) Field { return Field{Type: t, Value: v[:]} }

func fieldMACm(t FieldType, v, m MAC) Field {
	for i := range v {
		v[i] &= m[i]
	}
	return Field{Type: t, Value: v[:], Mask: m[:]}
}

// fieldPrefix panics when the prefix is not of the family of the field: that is a
// mistake of the program, never of its input.
func fieldPrefix(t FieldType, p netip.Prefix) Field {
	p = p.Masked()
	v := p.Addr().AsSlice()
	if len(v) != t.Len() {
		panic(fmt.Sprintf("ofproto: %v of prefix %v", t, p))
	}
	f := Field{Type: t, Value: v}
	if !p.IsSingleIP() {
		f.Mask = make([]byte, len(v))
		for i := range p.Bits() {
			f.Mask[i/8] |= 0x80 >> (i % 8)
		}
	}
	return f
}

// InPort matches the port a packet came in on.
func InPort(p Port) Field { return field32(FieldInPort, uint32(p)) }

// InPhyPort matches the physical port under the logical one a packet came in on.
func InPhyPort(p Port) Field { return field32(FieldInPhyPort, uint32(p)) }

// Metadata matches the bits of the metadata that mask has.
func Metadata(value, mask uint64) Field { return field64m(FieldMetadata, value, mask) }

// EthDst matches the destination address.
func EthDst(m MAC) Field { return fieldMAC(FieldEthDst, m) }

// EthDstMasked matches the bits of the destination address that mask has.
func EthDstMasked(m, mask MAC) Field { return fieldMACm(FieldEthDst, m, mask) }

// EthSrc matches the source address.
func EthSrc(m MAC) Field { return fieldMAC(FieldEthSrc, m) }

// EthSrcMasked matches the bits of the source address that mask has.
func EthSrcMasked(m, mask MAC) Field { return fieldMACm(FieldEthSrc, m, mask) }

// EthType matches the Ethernet type; most other fields need it before them.
func EthType(t uint16) Field { return field16(FieldEthType, t) }

// VLANVID matches packets tagged with this VLAN, 0 … 4095; it also is the operand
// of a SetField after PushVLAN. The present bit is added here.
func VLANVID(vid uint16) Field { return field16(FieldVLANVID, vid&0xfff|vlanPresent) }

// VLANNone matches packets without a tag.
func VLANNone() Field { return field16(FieldVLANVID, 0) }

// VLANAny matches packets with a tag, whatever its VLAN.
func VLANAny() Field { return field16m(FieldVLANVID, vlanPresent, vlanPresent) }

// VLANPCP matches the priority of a VLAN tag, 0 … 7.
func VLANPCP(p uint8) Field { return field8(FieldVLANPCP, p) }

// IPDSCP matches the differentiated services code point, 0 … 63.
func IPDSCP(v uint8) Field { return field8(FieldIPDSCP, v) }

// IPECN matches the congestion notification bits, 0 … 3.
func IPECN(v uint8) Field { return field8(FieldIPECN, v) }

// IPProto matches the IP protocol number.
func IPProto(p uint8) Field { return field8(FieldIPProto, p) }

// IPv4Src matches the source address; p must be of IPv4.
func IPv4Src(p netip.Prefix) Field { return fieldPrefix(FieldIPv4Src, p) }

// IPv4Dst matches the destination address; p must be of IPv4.
func IPv4Dst(p netip.Prefix) Field { return fieldPrefix(FieldIPv4Dst, p) }

// IPv4SrcMasked matches the bits of the source address that mask has.
func IPv4SrcMasked(value, mask uint32) Field { return field32m(FieldIPv4Src, value, mask) }

// IPv4DstMasked matches the bits of the destination address that mask has.
func IPv4DstMasked(value, mask uint32) Field { return field32m(FieldIPv4Dst, value, mask) }

// TCPSrc matches the source port.
func TCPSrc(p uint16) Field { return field16(FieldTCPSrc, p) }

// TCPDst matches the destination port.
func TCPDst(p uint16) Field { return field16(FieldTCPDst, p) }

// UDPSrc matches the source port.
func UDPSrc(p uint16) Field { return field16(FieldUDPSrc, p) }

// UDPDst matches the destination port.
func UDPDst(p uint16) Field { return field16(FieldUDPDst, p) }

// SCTPSrc matches the source port.
func SCTPSrc(p uint16) Field { return field16(FieldSCTPSrc, p) }

// SCTPDst matches the destination port.
func SCTPDst(p uint16) Field { return field16(FieldSCTPDst, p) }

// TCPSrcMasked matches bits of the source port. The specification has no masks on
// ports; Open vSwitch takes them.
func TCPSrcMasked(value, mask uint16) Field { return field16m(FieldTCPSrc, value, mask) }

// TCPDstMasked matches bits of the destination port, where the switch takes that.
func TCPDstMasked(value, mask uint16) Field { return field16m(FieldTCPDst, value, mask) }

// UDPSrcMasked matches bits of the source port, where the switch takes that.
func UDPSrcMasked(value, mask uint16) Field { return field16m(FieldUDPSrc, value, mask) }

// UDPDstMasked matches bits of the destination port, where the switch takes that.
func UDPDstMasked(value, mask uint16) Field { return field16m(FieldUDPDst, value, mask) }

// SCTPSrcMasked matches bits of the source port, where the switch takes that.
func SCTPSrcMasked(value, mask uint16) Field { return field16m(FieldSCTPSrc, value, mask) }

// SCTPDstMasked matches bits of the destination port, where the switch takes that.
func SCTPDstMasked(value, mask uint16) Field { return field16m(FieldSCTPDst, value, mask) }

// l4Field is the source port field of a protocol; the destination's is the next.
func l4Field(proto uint8) FieldType {
	switch proto {
	case ProtoTCP:
		return FieldTCPSrc
	case ProtoUDP:
		return FieldUDPSrc
	case ProtoSCTP:
		return FieldSCTPSrc
	}
	panic(fmt.Sprintf("ofproto: no port field of protocol %d", proto))
}

// L4Src matches the source port of ProtoTCP, ProtoUDP or ProtoSCTP; it panics on others.
func L4Src(proto uint8, port uint16) Field { return field16(l4Field(proto), port) }

// L4Dst matches the destination port of ProtoTCP, ProtoUDP or ProtoSCTP; it panics on others.
func L4Dst(proto uint8, port uint16) Field { return field16(l4Field(proto)+1, port) }

// L4SrcMasked is L4Src on the bits that mask has, where the switch takes that.
func L4SrcMasked(proto uint8, value, mask uint16) Field { return field16m(l4Field(proto), value, mask) }

// L4DstMasked is L4Dst on the bits that mask has, where the switch takes that.
func L4DstMasked(proto uint8, value, mask uint16) Field {
	return field16m(l4Field(proto)+1, value, mask)
}

// ICMPv4Type matches the ICMP type.
func ICMPv4Type(t uint8) Field { return field8(FieldICMPv4Type, t) }

// ICMPv4Code matches the ICMP code.
func ICMPv4Code(c uint8) Field { return field8(FieldICMPv4Code, c) }

// ARPOp matches the ARP operation: 1 request, 2 reply.
func ARPOp(op uint16) Field { return field16(FieldARPOp, op) }

// ARPSPA matches the sender's protocol address; p must be of IPv4.
func ARPSPA(p netip.Prefix) Field { return fieldPrefix(FieldARPSPA, p) }

// ARPTPA matches the target's protocol address; p must be of IPv4.
func ARPTPA(p netip.Prefix) Field { return fieldPrefix(FieldARPTPA, p) }

// ARPSHA matches the sender's hardware address.
func ARPSHA(m MAC) Field { return fieldMAC(FieldARPSHA, m) }

// ARPTHA matches the target's hardware address.
func ARPTHA(m MAC) Field { return fieldMAC(FieldARPTHA, m) }

// IPv6Src matches the source address; p must be of IPv6.
func IPv6Src(p netip.Prefix) Field { return fieldPrefix(FieldIPv6Src, p) }

// IPv6Dst matches the destination address; p must be of IPv6.
func IPv6Dst(p netip.Prefix) Field { return fieldPrefix(FieldIPv6Dst, p) }

// IPv6FLabel matches the flow label, 20 bits.
func IPv6FLabel(label uint32) Field { return field32(FieldIPv6FLabel, label) }

// ICMPv6Type matches the ICMPv6 type.
func ICMPv6Type(t uint8) Field { return field8(FieldICMPv6Type, t) }

// ICMPv6Code matches the ICMPv6 code.
func ICMPv6Code(c uint8) Field { return field8(FieldICMPv6Code, c) }

// IPv6NDTarget matches the target of a neighbour discovery message; a must be of IPv6.
func IPv6NDTarget(a netip.Addr) Field {
	return fieldPrefix(FieldIPv6NDTarget, netip.PrefixFrom(a, a.BitLen()))
}

// IPv6NDSLL matches the source link layer address of a neighbour solicitation.
func IPv6NDSLL(m MAC) Field { return fieldMAC(FieldIPv6NDSLL, m) }

// IPv6NDTLL matches the target link layer address of a neighbour advertisement.
func IPv6NDTLL(m MAC) Field { return fieldMAC(FieldIPv6NDTLL, m) }

// MPLSLabel matches the label of the outermost MPLS header, 20 bits.
func MPLSLabel(label uint32) Field { return field32(FieldMPLSLabel, label) }

// MPLSTC matches the traffic class of the outermost MPLS header, 3 bits.
func MPLSTC(tc uint8) Field { return field8(FieldMPLSTC, tc) }

// MPLSBOS matches the bottom-of-stack bit of the outermost MPLS header.
func MPLSBOS(bos uint8) Field { return field8(FieldMPLSBOS, bos) }

// PBBISID matches the service instance of the outermost PBB header, 24 bits.
func PBBISID(isid uint32) Field {
	return Field{Type: FieldPBBISID, Value: []byte{byte(isid >> 16), byte(isid >> 8), byte(isid)}}
}

// TunnelID matches the bits of the tunnel's key that mask has.
func TunnelID(value, mask uint64) Field { return field64m(FieldTunnelID, value, mask) }

// IPv6ExtHdr matches the flags of extension headers that mask has, 9 bits.
func IPv6ExtHdr(value, mask uint16) Field { return field16m(FieldIPv6ExtHdr, value, mask) }

// NXMReg matches the bits of register n, 0 … 15, that mask has (Open vSwitch).
func NXMReg(n int, value, mask uint32) Field {
	return field32m(FieldNXMReg0+FieldType(n&15), value, mask)
}

// FieldONFTCPFlags is the type of the field that ONFTCPFlags matches, which is of an
// experimenter (ONF extension 109).
const FieldONFTCPFlags FieldType = 0xffff<<16 | 42

// ONFTCPFlags matches the bits of the flags of TCP that mask has (ONF extension 109).
// Open vSwitch reports Nicira's field of the same name as this one.
func ONFTCPFlags(value, mask uint16) Field {
	f := field16m(FieldONFTCPFlags, value, mask)
	f.Experimenter = ExperimenterONF
	return f
}

// Bits of the connection tracking state.
const (
	CTNew         uint32 = 1 << 0
	CTEstablished uint32 = 1 << 1
	CTRelated     uint32 = 1 << 2
	CTReply       uint32 = 1 << 3
	CTInvalid     uint32 = 1 << 4
	CTTracked     uint32 = 1 << 5
)

// NXMCTState matches the bits of the connection tracking state that mask has (Open vSwitch).
func NXMCTState(value, mask uint32) Field { return field32m(FieldNXMCTState, value, mask) }

// Values of IPFrag: any fragment, and one that is not the first and has no ports.
const (
	FragAny   uint8 = 1 << 0
	FragLater uint8 = 1 << 1
)

// IPFrag matches the bits of FragAny and FragLater that mask has (Open vSwitch): with
// value 0 and mask FragAny all packets that are no fragments. Unless set otherwise, Open
// vSwitch matches no fragment, the first neither, by ports: those read as 0.
func IPFrag(value, mask uint8) Field {
	return Field{Type: FieldNXMIPFrag, Value: []byte{value & mask}, Mask: []byte{mask}}
}

// NDReserved matches the 32 bits with the flags of a neighbour advertisement (Open
// vSwitch).
func NDReserved(v uint32) Field { return field32(FieldNDReserved, v) }

// NDOptionsType matches the type of the first option of a neighbour discovery message
// (Open vSwitch).
func NDOptionsType(t uint8) Field { return field8(FieldNDOptionsType, t) }

// IPv6SrcMasked matches the bits of the lower 32 of the source address that mask has.
func IPv6SrcMasked(value, mask uint32) Field { return field128m(FieldIPv6Src, value, mask) }

func field128m(t FieldType, v, m uint32) Field {
	return Field{Type: t, Value: be.AppendUint32(make([]byte, 12), v&m), Mask: be.AppendUint32(make([]byte, 12), m)}
}
