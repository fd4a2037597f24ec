package simswitch

import (
	"encoding/binary"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// inFlight is a packet on its way through the pipeline: its bytes and the pipeline
// fields (§7.2.3.8).
type inFlight struct {
	frame   []byte
	in      ofproto.Port // the field in_port, which a load may change
	scratch map[ofproto.FieldType][]byte
	edited  bool

	decoded  packet.Frame
	l3, l4   int // where the headers begin; 0: there is none
	sideways int // depth of groups in groups
}

func newInFlight(in ofproto.Port, frame []byte) *inFlight {
	p := &inFlight{frame: slices.Clone(frame), in: in, scratch: map[ofproto.FieldType][]byte{}}
	p.decode()
	return p
}

// fork is the copy that a group bucket works on.
func (p *inFlight) fork() *inFlight {
	c := *p
	c.frame = slices.Clone(p.frame)
	c.scratch = map[ofproto.FieldType][]byte{}
	for k, v := range p.scratch {
		c.scratch[k] = slices.Clone(v)
	}
	c.decode()
	return &c
}

func (p *inFlight) decode() {
	f, err := packet.Decode(p.frame)
	p.decoded, p.l3, p.l4 = f, 0, 0
	if err != nil {
		return // only the Ethernet header can be matched
	}
	_, tags := f.Tags()
	p.l3 = 14 + 4*tags
	if v4, ok := f.IPv4(); ok {
		p.l4 = p.l3 + 20 + (len(v4.Options)+3)/4*4
	} else if v6, ok := f.IPv6(); ok {
		p.l4 = p.l3 + 40 + len(v6.Extensions)
	}
}

// bytes is the frame as it leaves, with right checksums if it was changed.
func (p *inFlight) bytes() []byte {
	out := slices.Clone(p.frame)
	if p.edited {
		_ = packet.UpdateChecksums(out) // what has no checksums is left as it is
	}
	return out
}

// alias maps Nicira's names of the fields of the specification to those.
var alias = map[ofproto.FieldType]ofproto.FieldType{
	ofproto.FieldNXMEthDst: ofproto.FieldEthDst, ofproto.FieldNXMEthSrc: ofproto.FieldEthSrc,
	ofproto.FieldNXMEthType: ofproto.FieldEthType, ofproto.FieldNXMIPProto: ofproto.FieldIPProto,
	ofproto.FieldNXMIPSrc: ofproto.FieldIPv4Src, ofproto.FieldNXMIPDst: ofproto.FieldIPv4Dst,
	ofproto.FieldNXMTCPSrc: ofproto.FieldTCPSrc, ofproto.FieldNXMTCPDst: ofproto.FieldTCPDst,
	ofproto.FieldNXMUDPSrc: ofproto.FieldUDPSrc, ofproto.FieldNXMUDPDst: ofproto.FieldUDPDst,
	ofproto.FieldNXMICMPType: ofproto.FieldICMPv4Type, ofproto.FieldNXMICMPCode: ofproto.FieldICMPv4Code,
	ofproto.FieldNXMARPOp: ofproto.FieldARPOp, ofproto.FieldNXMARPSPA: ofproto.FieldARPSPA,
	ofproto.FieldNXMARPTPA: ofproto.FieldARPTPA, ofproto.FieldNXMARPSHA: ofproto.FieldARPSHA,
	ofproto.FieldNXMARPTHA: ofproto.FieldARPTHA, ofproto.FieldNXMIPv6Src: ofproto.FieldIPv6Src,
	ofproto.FieldNXMIPv6Dst: ofproto.FieldIPv6Dst, ofproto.FieldNXMICMPv6Type: ofproto.FieldICMPv6Type,
	ofproto.FieldNXMICMPv6Code: ofproto.FieldICMPv6Code, ofproto.FieldNXMNDTarget: ofproto.FieldIPv6NDTarget,
	ofproto.FieldNXMIPECN: ofproto.FieldIPECN,
	ofproto.FieldNXMNDSLL: ofproto.FieldIPv6NDSLL, ofproto.FieldNXMNDTLL: ofproto.FieldIPv6NDTLL,
}

func canonical(t ofproto.FieldType) ofproto.FieldType {
	if to, ok := alias[t]; ok {
		return to
	}
	return t
}

// span is where a field that is made of whole bytes stands in the frame.
func (p *inFlight) span(t ofproto.FieldType) (at, n int, ok bool) {
	f := &p.decoded
	arp := func(off, n int) (int, int, bool) {
		_, ok := f.ARP()
		return p.l3 + off, n, ok
	}
	ip := func(is bool, off, n int) (int, int, bool) { return p.l3 + off, n, is }
	_, is4 := f.IPv4()
	_, is6 := f.IPv6()
	_, tcp := f.TCP()
	_, udp := f.UDP()
	_, sctp := f.SCTP()
	_, icmp := f.ICMP()
	_, icmp6 := f.ICMPv6()
	switch t {
	case ofproto.FieldEthDst:
		return 0, 6, true
	case ofproto.FieldEthSrc:
		return 6, 6, true
	case ofproto.FieldARPOp:
		return arp(6, 2)
	case ofproto.FieldARPSHA:
		return arp(8, 6)
	case ofproto.FieldARPSPA:
		return arp(14, 4)
	case ofproto.FieldARPTHA:
		return arp(18, 6)
	case ofproto.FieldARPTPA:
		return arp(24, 4)
	case ofproto.FieldIPv4Src:
		return ip(is4, 12, 4)
	case ofproto.FieldIPv4Dst:
		return ip(is4, 16, 4)
	case ofproto.FieldIPv6Src:
		return ip(is6, 8, 16)
	case ofproto.FieldIPv6Dst:
		return ip(is6, 24, 16)
	case ofproto.FieldTCPSrc, ofproto.FieldTCPDst:
		return p.l4 + 2*int(t-ofproto.FieldTCPSrc), 2, tcp
	case ofproto.FieldUDPSrc, ofproto.FieldUDPDst:
		return p.l4 + 2*int(t-ofproto.FieldUDPSrc), 2, udp
	case ofproto.FieldSCTPSrc, ofproto.FieldSCTPDst:
		return p.l4 + 2*int(t-ofproto.FieldSCTPSrc), 2, sctp
	case ofproto.FieldICMPv4Type, ofproto.FieldICMPv4Code:
		return p.l4 + int(t-ofproto.FieldICMPv4Type), 1, icmp
	case ofproto.FieldICMPv6Type, ofproto.FieldICMPv6Code:
		return p.l4 + int(t-ofproto.FieldICMPv6Type), 1, icmp6
	case ofproto.FieldIPv6NDTarget:
		return p.l4 + 8, 16, p.neighbour()
	case ofproto.FieldNDReserved:
		return p.l4 + 4, 4, p.neighbour()
	case ofproto.FieldNDOptionsType:
		nd, ok := f.ND()
		return p.l4 + 24, 1, ok && nd.Target.IsValid() && len(nd.Options) >= 8
	case ofproto.FieldIPv6NDSLL:
		return p.l4 + 26, 6, p.option(packet.ICMPv6NeighborSolicitation, packet.NDSourceLinkAddr)
	case ofproto.FieldIPv6NDTLL:
		return p.l4 + 26, 6, p.option(packet.ICMPv6NeighborAdvertisement, packet.NDTargetLinkAddr)
	}
	return 0, 0, false
}

// neighbour says whether the packet is a neighbour solicitation or advertisement.
func (p *inFlight) neighbour() bool {
	nd, ok := p.decoded.ND()
	return ok && nd.Target.IsValid()
}

// option says whether the packet is of a type of neighbour discovery and begins its
// options with a link address. Only the first option is looked at.
func (p *inFlight) option(icmpType, option uint8) bool {
	nd, ok := p.decoded.ND()
	return ok && nd.Type == icmpType && len(nd.Options) >= 8 && nd.Options[0] == option
}

// get returns the value of a field as an OXM would hold it; ok is false where the
// packet does not have it.
func (p *inFlight) get(t ofproto.FieldType) (value []byte, ok bool) {
	u16 := func(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
	t = canonical(t)
	if t >= ofproto.FieldTCPSrc && t <= ofproto.FieldSCTPDst && p.decoded.Fragment() {
		// As in Open vSwitch, fragments have no ports: they read as zero.
		proto := [...]uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP}[(t-ofproto.FieldTCPSrc)/2]
		return []byte{0, 0}, p.decoded.Proto() == proto
	}
	if at, n, ok := p.span(t); ok {
		return slices.Clone(p.frame[at : at+n]), true
	}
	tag, tagged := p.decoded.VLAN()
	switch t {
	case ofproto.FieldInPort:
		return binary.BigEndian.AppendUint32(nil, uint32(p.in)), true
	case ofproto.FieldNXMInPort:
		return u16(uint16(p.in)), true
	case ofproto.FieldEthType:
		if p.l3 == 0 {
			return p.frame[12:14], true
		}
		return u16(p.decoded.EtherType()), true
	case ofproto.FieldVLANVID:
		if !tagged {
			return u16(0), true
		}
		return u16(tag.ID | 0x1000), true
	case ofproto.FieldVLANPCP:
		return []byte{tag.PCP}, tagged
	case ofproto.FieldIPProto:
		_, is4 := p.decoded.IPv4()
		_, is6 := p.decoded.IPv6()
		return []byte{p.decoded.Proto()}, is4 || is6
	case ofproto.FieldONFTCPFlags:
		tcp, ok := p.decoded.TCP()
		return u16(tcp.Flags), ok
	case ofproto.FieldIPDSCP, ofproto.FieldIPECN:
		b, ok := p.trafficClass()
		if t == ofproto.FieldIPDSCP {
			return []byte{b >> 2}, ok
		}
		return []byte{b & 3}, ok
	case ofproto.FieldNXMIPFrag:
		return p.fragment()
	case ofproto.FieldIPv6NDSLL, ofproto.FieldIPv6NDTLL:
		// Without the option it reads as zero, as in Open vSwitch.
		nd, ok := p.decoded.ND()
		want := packet.ICMPv6NeighborSolicitation + uint8(t-ofproto.FieldIPv6NDSLL)
		return make([]byte, 6), ok && nd.Type == want
	}
	if n := t.Len(); scratchField(t) && n > 0 {
		if v, ok := p.scratch[t]; ok {
			return slices.Clone(v), true
		}
		return make([]byte, n), true
	}
	return nil, false
}

// fragment returns the value of the field of fragments.
func (p *inFlight) fragment() ([]byte, bool) {
	f := &p.decoded
	_, _, ip := f.Addrs()
	if !ip || !f.Fragment() {
		return []byte{0}, ip
	}
	_, _, ports := f.Ports()
	_, icmp := f.ICMP()
	_, icmp6 := f.ICMPv6()
	if ports || icmp || icmp6 {
		return []byte{ofproto.FragAny}, true
	}
	return []byte{ofproto.FragAny | ofproto.FragLater}, true
}

func (p *inFlight) trafficClass() (uint8, bool) {
	if v4, ok := p.decoded.IPv4(); ok {
		return v4.DSCP<<2 | v4.ECN, true
	}
	v6, ok := p.decoded.IPv6()
	return v6.TrafficClass, ok
}

// scratchField says whether a field is of the pipeline, not of the packet.
func scratchField(t ofproto.FieldType) bool {
	return t == ofproto.FieldMetadata || t == ofproto.FieldTunnelID || t == ofproto.FieldNXMTunID ||
		t >= ofproto.FieldNXMReg0 && t <= ofproto.FieldNXMReg15 || t == ofproto.FieldNXMPktMark
}

// set writes a field that the packet has; others are left alone (§5.12).
func (p *inFlight) set(t ofproto.FieldType, value []byte) {
	t = canonical(t)
	if at, n, ok := p.span(t); ok {
		copy(p.frame[at:at+n], value)
		p.edited = true
		p.decode()
		return
	}
	_, tagged := p.decoded.VLAN()
	switch {
	case t == ofproto.FieldInPort:
		p.in = ofproto.Port(binary.BigEndian.Uint32(value))
	case t == ofproto.FieldNXMInPort:
		p.in = ofproto.Port(binary.BigEndian.Uint16(value))
	case t == ofproto.FieldVLANVID && tagged:
		p.frame[14] = p.frame[14]&0xf0 | value[0]&0x0f
		p.frame[15] = value[1]
		p.decode()
	case t == ofproto.FieldVLANPCP && tagged:
		p.frame[14] = p.frame[14]&0x1f | value[0]<<5
		p.decode()
	case t == ofproto.FieldIPDSCP || t == ofproto.FieldIPECN:
		if _, ok := p.decoded.IPv6(); ok {
			c, _ := p.trafficClass()
			if t == ofproto.FieldIPDSCP {
				c = c&3 | value[0]<<2
			} else {
				c = c&^3 | value[0]&3
			}
			p.frame[p.l3] = p.frame[p.l3]&0xf0 | c>>4
			p.frame[p.l3+1] = p.frame[p.l3+1]&0x0f | c<<4
			p.decode()
		} else if _, ok := p.decoded.IPv4(); ok {
			if t == ofproto.FieldIPDSCP {
				p.frame[p.l3+1] = p.frame[p.l3+1]&3 | value[0]<<2
			} else {
				p.frame[p.l3+1] = p.frame[p.l3+1]&^3 | value[0]&3
			}
			p.edited = true
			p.decode()
		}
	case scratchField(t):
		p.scratch[t] = slices.Clone(value)
	}
}

// copyBits copies n bits between byte strings; offsets count from the least
// significant bit.
func copyBits(dst []byte, dstAt int, src []byte, srcAt, n int) {
	for i := range n {
		from, to := srcAt+i, dstAt+i
		bit := src[len(src)-1-from/8] >> (from % 8) & 1
		b := &dst[len(dst)-1-to/8]
		*b = *b&^(1<<(to%8)) | bit<<(to%8)
	}
}

// matches says whether the packet has all fields of a match (§5.3). seen keeps the
// fields read, nil for those that it does not have, from one match to the next; the
// packet is the same for all.
func (p *inFlight) matches(m ofproto.Match, seen map[ofproto.FieldType][]byte) bool {
	for f := range m.Fields() {
		v, ok := seen[f.Type]
		if !ok {
			if v, ok = p.get(f.Type); !ok {
				v = nil
			}
			seen[f.Type] = v
		}
		if v == nil || len(v) != len(f.Value) {
			return false
		}
		for i := range v {
			mask := byte(0xff)
			if f.Mask != nil {
				mask = f.Mask[i]
			}
			if (v[i]^f.Value[i])&mask != 0 {
				return false
			}
		}
	}
	return true
}

// covers says whether every packet that b matches is matched by a as far as their
// fields tell: what a non-strict command selects (§6.4).
func covers(a, b ofproto.Match) bool {
	for f := range a.Fields() {
		g, ok := b.Lookup(f.Type)
		if !ok {
			return false
		}
		for i := range f.Value {
			fm, gm := byte(0xff), byte(0xff)
			if f.Mask != nil {
				fm = f.Mask[i]
			}
			if g.Mask != nil {
				gm = g.Mask[i]
			}
			if fm&^gm != 0 || (f.Value[i]^g.Value[i])&fm != 0 {
				return false
			}
		}
	}
	return true
}

// overlap says whether one packet can match both.
func overlap(a, b ofproto.Match) bool {
	for f := range a.Fields() {
		g, ok := b.Lookup(f.Type)
		if !ok {
			continue
		}
		for i := range f.Value {
			mask := byte(0xff)
			if f.Mask != nil {
				mask &= f.Mask[i]
			}
			if g.Mask != nil {
				mask &= g.Mask[i]
			}
			if (f.Value[i]^g.Value[i])&mask != 0 {
				return false
			}
		}
	}
	return true
}

// prerequisite is what another field must be for a field to exist (§7.2.3.8).
type prerequisite struct {
	field  ofproto.FieldType
	values []uint64
}

func prerequisitesOf(t ofproto.FieldType) []prerequisite {
	eth := func(v ...uint64) prerequisite { return prerequisite{ofproto.FieldEthType, v} }
	proto := func(v uint64) prerequisite { return prerequisite{ofproto.FieldIPProto, []uint64{v}} }
	ip := eth(uint64(ofproto.EthTypeIPv4), uint64(ofproto.EthTypeIPv6))
	switch t = canonical(t); t {
	case ofproto.FieldIPDSCP, ofproto.FieldIPECN, ofproto.FieldIPProto:
		return []prerequisite{ip}
	case ofproto.FieldIPv4Src, ofproto.FieldIPv4Dst:
		return []prerequisite{eth(uint64(ofproto.EthTypeIPv4))}
	case ofproto.FieldIPv6Src, ofproto.FieldIPv6Dst, ofproto.FieldIPv6FLabel:
		return []prerequisite{eth(uint64(ofproto.EthTypeIPv6))}
	case ofproto.FieldARPOp, ofproto.FieldARPSPA, ofproto.FieldARPTPA, ofproto.FieldARPSHA, ofproto.FieldARPTHA:
		return []prerequisite{eth(uint64(ofproto.EthTypeARP))}
	case ofproto.FieldTCPSrc, ofproto.FieldTCPDst, ofproto.FieldONFTCPFlags:
		return []prerequisite{ip, proto(uint64(ofproto.ProtoTCP))}
	case ofproto.FieldUDPSrc, ofproto.FieldUDPDst:
		return []prerequisite{ip, proto(uint64(ofproto.ProtoUDP))}
	case ofproto.FieldSCTPSrc, ofproto.FieldSCTPDst:
		return []prerequisite{ip, proto(uint64(ofproto.ProtoSCTP))}
	case ofproto.FieldICMPv4Type, ofproto.FieldICMPv4Code:
		return []prerequisite{eth(uint64(ofproto.EthTypeIPv4)), proto(uint64(ofproto.ProtoICMP))}
	case ofproto.FieldICMPv6Type, ofproto.FieldICMPv6Code:
		return []prerequisite{eth(uint64(ofproto.EthTypeIPv6)), proto(uint64(ofproto.ProtoICMPv6))}
	case ofproto.FieldIPv6NDTarget, ofproto.FieldNDReserved, ofproto.FieldNDOptionsType:
		return []prerequisite{eth(uint64(ofproto.EthTypeIPv6)), {ofproto.FieldICMPv6Type, []uint64{135, 136}}}
	case ofproto.FieldIPv6NDSLL, ofproto.FieldIPv6NDTLL:
		return []prerequisite{eth(uint64(ofproto.EthTypeIPv6)), {ofproto.FieldICMPv6Type, []uint64{135 + uint64(t-ofproto.FieldIPv6NDSLL)}}}
	case ofproto.FieldNXMIPFrag:
		return []prerequisite{ip}
	}
	return nil
}

// nicira says whether a field is none of the specification's.
func nicira(t ofproto.FieldType) bool { return t>>16 != ofproto.FieldInPort>>16 }

// meets says whether a match guarantees that a field exists.
func meets(m ofproto.Match, t ofproto.FieldType) bool {
	for _, need := range prerequisitesOf(t) {
		f, ok := m.Lookup(need.field)
		if !ok || f.Mask != nil || !slices.Contains(need.values, f.Uint()) {
			return false
		}
	}
	return true
}
