package trace

import (
	"encoding/binary"
	"maps"
	"net/netip"

	"github.com/fairlead/fairlead/ofproto"
)

var be = binary.BigEndian

// Tuple is what tells connections apart: protocol, addresses and ports.
type Tuple struct {
	Proto    uint8 // ofproto.ProtoTCP, ProtoUDP or ProtoSCTP
	Src, Dst netip.AddrPort
}

// Reverse returns the tuple of the answers.
func (t Tuple) Reverse() Tuple { return Tuple{t.Proto, t.Dst, t.Src} }

// Headers are those of the packet to be followed. Both addresses are of one family.
type Headers struct {
	EthSrc, EthDst ofproto.MAC
	VLAN           uint16 // 0: no tag
	Tuple
	TCPFlags uint16 // of TCP: bit 1 is SYN, bit 4 ACK (RFC 9293 §3.1)
}

// Packet is a packet as matches see it: the values of the fields that it has, those of
// the pipeline included. Fields are named as in the specification; Nicira's names of
// the same fields are understood too.
type Packet struct {
	fields map[ofproto.FieldType][]byte
	regs   [64]byte // registers 0 … 15, which others overlay
	tags   []tag    // VLAN tags behind the first, the outermost last
	depth  int      // of groups and recirculations it is in
}

// tag is a VLAN tag that another has been pushed before; one that is none has no pcp.
type tag struct{ vid, pcp []byte }

// NewPacket returns a packet with these headers and a TTL of 64.
func NewPacket(h Headers) *Packet {
	p := &Packet{fields: map[ofproto.FieldType][]byte{}}
	u16 := func(t ofproto.FieldType, v uint16) { p.fields[t] = be.AppendUint16(nil, v) }
	p.fields[ofproto.FieldEthSrc], p.fields[ofproto.FieldEthDst] = h.EthSrc[:], h.EthDst[:]
	u16(ofproto.FieldVLANVID, 0)
	if h.VLAN != 0 {
		u16(ofproto.FieldVLANVID, tagged|h.VLAN)
		p.fields[ofproto.FieldVLANPCP] = []byte{0}
	}
	p.fields[ofproto.FieldIPProto] = []byte{h.Proto}
	for _, t := range []ofproto.FieldType{ofproto.FieldIPDSCP, ofproto.FieldIPECN, ofproto.FieldNXMIPFrag} {
		p.fields[t] = []byte{0}
	}
	p.fields[ofproto.FieldNXMIPTTL] = []byte{64}
	if h.Src.Addr().Is4() {
		u16(ofproto.FieldEthType, ofproto.EthTypeIPv4)
		p.fields[ofproto.FieldIPv4Src], p.fields[ofproto.FieldIPv4Dst] = h.Src.Addr().AsSlice(), h.Dst.Addr().AsSlice()
	} else {
		u16(ofproto.FieldEthType, ofproto.EthTypeIPv6)
		p.fields[ofproto.FieldIPv6Src], p.fields[ofproto.FieldIPv6Dst] = h.Src.Addr().AsSlice(), h.Dst.Addr().AsSlice()
		p.fields[ofproto.FieldIPv6FLabel] = make([]byte, 4)
	}
	src := portField(h.Proto)
	u16(src, h.Src.Port())
	u16(src+1, h.Dst.Port())
	if h.Proto == ofproto.ProtoTCP {
		u16(ofproto.FieldNXMTCPFlags, h.TCPFlags)
	}
	return p
}

// tagged is the bit of vlan_vid that every packet with a tag has (§7.2.3.7).
const tagged = 0x1000

// portField is the field of a protocol's source port; that of the destination is next.
func portField(proto uint8) ofproto.FieldType {
	switch proto {
	case ofproto.ProtoUDP:
		return ofproto.FieldUDPSrc
	case ofproto.ProtoSCTP:
		return ofproto.FieldSCTPSrc
	}
	return ofproto.FieldTCPSrc
}

func (p *Packet) clone() *Packet {
	c := *p
	c.fields = maps.Clone(p.fields) // values are replaced, never written to
	return &c
}

// Tuple returns protocol, addresses and ports as they are now.
func (p *Packet) Tuple() Tuple {
	proto := p.fields[ofproto.FieldIPProto][0]
	addr := func(v4, v6 ofproto.FieldType) netip.Addr {
		b, ok := p.fields[v4]
		if !ok {
			b = p.fields[v6]
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	src := portField(proto)
	return Tuple{
		Proto: proto,
		Src:   netip.AddrPortFrom(addr(ofproto.FieldIPv4Src, ofproto.FieldIPv6Src), be.Uint16(p.fields[src])),
		Dst:   netip.AddrPortFrom(addr(ofproto.FieldIPv4Dst, ofproto.FieldIPv6Dst), be.Uint16(p.fields[src+1])),
	}
}

// EthSrc returns the source address as it is now.
func (p *Packet) EthSrc() ofproto.MAC { return ofproto.MAC(p.fields[ofproto.FieldEthSrc]) }

// EthDst returns the destination address as it is now.
func (p *Packet) EthDst() ofproto.MAC { return ofproto.MAC(p.fields[ofproto.FieldEthDst]) }

// VLAN returns the VLAN of the outermost tag, 0 where there is none.
func (p *Packet) VLAN() uint16 { return be.Uint16(p.fields[ofproto.FieldVLANVID]) &^ tagged }

// inPort is the ingress port field, which a load may have changed.
func (p *Packet) inPort() ofproto.Port {
	return ofproto.Port(be.Uint32(p.fields[ofproto.FieldInPort]))
}

// enter prepares the packet for the tables of a switch: nothing but its headers comes
// along from the last one.
func (p *Packet) enter(in ofproto.Port) {
	p.regs, p.depth = [64]byte{}, 0
	p.fields[ofproto.FieldInPort] = be.AppendUint32(nil, uint32(in))
	for _, t := range []ofproto.FieldType{
		ofproto.FieldMetadata, ofproto.FieldTunnelID, ofproto.FieldNXMPktMark, ofproto.FieldNXMConjID,
		ofproto.FieldNXMCTState, ofproto.FieldNXMCTZone, ofproto.FieldNXMCTMark, ofproto.FieldNXMCTLabel,
	} {
		p.fields[t] = make([]byte, t.Len())
	}
}

// names maps Nicira's names to those of the specification.
var names = map[ofproto.FieldType]ofproto.FieldType{
	ofproto.FieldNXMEthDst: ofproto.FieldEthDst, ofproto.FieldNXMEthSrc: ofproto.FieldEthSrc, ofproto.FieldNXMEthType: ofproto.FieldEthType,
	ofproto.FieldNXMIPProto: ofproto.FieldIPProto, ofproto.FieldNXMIPSrc: ofproto.FieldIPv4Src, ofproto.FieldNXMIPDst: ofproto.FieldIPv4Dst,
	ofproto.FieldNXMTCPSrc: ofproto.FieldTCPSrc, ofproto.FieldNXMTCPDst: ofproto.FieldTCPDst, ofproto.FieldNXMUDPSrc: ofproto.FieldUDPSrc,
	ofproto.FieldNXMUDPDst: ofproto.FieldUDPDst, ofproto.FieldNXMTunID: ofproto.FieldTunnelID, ofproto.FieldNXMIPv6Src: ofproto.FieldIPv6Src,
	ofproto.FieldNXMIPv6Dst: ofproto.FieldIPv6Dst, ofproto.FieldONFTCPFlags: ofproto.FieldNXMTCPFlags, ofproto.FieldNXMIPv6Label: ofproto.FieldIPv6FLabel, ofproto.FieldNXMIPECN: ofproto.FieldIPECN,
}

// register says which bytes of the registers a field stands for.
func register(t ofproto.FieldType) (at int, ok bool) {
	switch {
	case t >= ofproto.FieldNXMReg0 && t <= ofproto.FieldNXMReg15:
		return 4 * int(t-ofproto.FieldNXMReg0), true
	case t >= ofproto.FieldNXMXXReg0 && t <= ofproto.FieldNXMXXReg0+3:
		return 16 * int(t-ofproto.FieldNXMXXReg0), true
	case t >= ofproto.FieldPacketReg0 && t <= ofproto.FieldPacketReg0+7:
		return 8 * int(t-ofproto.FieldPacketReg0), true
	}
	return 0, false
}

// get returns the value of a field as an OXM holds it; ok is false where the packet
// does not have it. The value must not be written to.
func (p *Packet) get(t ofproto.FieldType) (v []byte, ok bool) {
	if to, ok := names[t]; ok {
		t = to
	}
	if at, ok := register(t); ok {
		return append([]byte(nil), p.regs[at:at+t.Len()]...), true
	}
	if t == ofproto.FieldNXMInPort {
		return p.fields[ofproto.FieldInPort][2:], true
	}
	v, ok = p.fields[t]
	return v, ok
}

// set replaces the value of a field that the packet has, and reports whether it has it
// (§5.12: others are left alone).
func (p *Packet) set(t ofproto.FieldType, v []byte) bool {
	if to, ok := names[t]; ok {
		t = to
	}
	if at, ok := register(t); ok {
		copy(p.regs[at:], v)
		return true
	}
	if t == ofproto.FieldNXMInPort {
		t, v = ofproto.FieldInPort, be.AppendUint32(nil, uint32(be.Uint16(v)))
	}
	old, ok := p.fields[t]
	if !ok || len(old) != len(v) || t == ofproto.FieldEthType || t == ofproto.FieldIPProto {
		return false
	}
	if t == ofproto.FieldVLANVID {
		if old[0]&(tagged>>8) == 0 {
			return false // there is no tag to write to
		}
		v = be.AppendUint16(nil, be.Uint16(v)|tagged)
	}
	p.fields[t] = append([]byte(nil), v...)
	return true
}

// matches says whether the packet has all fields of a match (§5.3).
func (p *Packet) matches(m ofproto.Match) bool {
	for f := range m.Fields() {
		v, ok := p.get(f.Type)
		if !ok || len(v) != len(f.Value) {
			return false
		}
		for i := range v {
			diff := v[i] ^ f.Value[i]
			if f.Mask != nil {
				diff &= f.Mask[i]
			}
			if diff != 0 {
				return false
			}
		}
	}
	return true
}

// bit returns bit n of a value, counted from the least significant.
func bit(v []byte, n int) byte { return v[len(v)-1-n/8] >> (n % 8) & 1 }

// withBits returns a copy of dst whose n bits from dstAt on are those of src from
// srcAt on. Offsets count from the least significant bit; what is outside is ignored.
func withBits(dst []byte, dstAt int, src []byte, srcAt, n int) []byte {
	out := append([]byte(nil), dst...)
	for i := range n {
		to, from := dstAt+i, srcAt+i
		if to >= 8*len(out) || from >= 8*len(src) {
			break
		}
		b := &out[len(out)-1-to/8]
		*b = *b&^(1<<(to%8)) | bit(src, from)<<(to%8)
	}
	return out
}
