package packet

import (
	"iter"
	"net/netip"
)

const icmpLen = 8

// ICMP types (RFC 792) and ICMPv6 types (RFC 4443, RFC 4861).
const (
	ICMPEchoReply        uint8 = 0
	ICMPUnreachable      uint8 = 3
	ICMPEchoRequest      uint8 = 8
	ICMPTimeExceeded     uint8 = 11
	ICMPParameterProblem uint8 = 12

	ICMPv6Unreachable           uint8 = 1
	ICMPv6PacketTooBig          uint8 = 2
	ICMPv6TimeExceeded          uint8 = 3
	ICMPv6ParameterProblem      uint8 = 4
	ICMPv6EchoRequest           uint8 = 128
	ICMPv6EchoReply             uint8 = 129
	ICMPv6RouterSolicitation    uint8 = 133
	ICMPv6RouterAdvertisement   uint8 = 134
	ICMPv6NeighborSolicitation  uint8 = 135
	ICMPv6NeighborAdvertisement uint8 = 136
	ICMPv6Redirect              uint8 = 137
)

// ICMP is the header of an ICMP (RFC 792) or ICMPv6 (RFC 4443) message.
type ICMP struct {
	Type, Code uint8
	Checksum   uint16 // the Append functions compute it
	// ID and Seq are those of an echo; in other messages, the two halves of the
	// four bytes after the checksum.
	ID, Seq uint16
}

func parseICMP(b []byte) ICMP {
	return ICMP{Type: b[0], Code: b[1], Checksum: be.Uint16(b[2:]), ID: be.Uint16(b[4:]), Seq: be.Uint16(b[6:])}
}

// ICMP returns the ICMP header of an IPv4 packet.
func (f *Frame) ICMP() (ICMP, bool) {
	if f.layers&layerICMP == 0 {
		return ICMP{}, false
	}
	return parseICMP(f.data[f.l4:]), true
}

// ICMPv6 returns the ICMPv6 header of an IPv6 packet.
func (f *Frame) ICMPv6() (ICMP, bool) {
	if f.layers&layerICMPv6 == 0 {
		return ICMP{}, false
	}
	return parseICMP(f.data[f.l4:]), true
}

func appendICMP(b []byte, h ICMP, payload []byte) []byte {
	b = append(b, h.Type, h.Code, 0, 0)
	b = be.AppendUint16(b, h.ID)
	b = be.AppendUint16(b, h.Seq)
	return append(b, payload...)
}

// AppendICMP appends an ICMP message with its checksum.
func AppendICMP(b []byte, h ICMP, payload []byte) []byte {
	at := len(b)
	b = appendICMP(b, h, payload)
	be.PutUint16(b[at+2:], ^fold(sum(b[at:])))
	return b
}

// AppendICMPv6 appends an ICMPv6 message with its checksum, which covers src and
// dst (RFC 4443 §2.3).
func AppendICMPv6(b []byte, h ICMP, src, dst netip.Addr, payload []byte) []byte {
	at := len(b)
	b = appendICMP(b, h, payload)
	be.PutUint16(b[at+2:], ^fold(sum(b[at:])+pseudo(src, dst, ProtoICMPv6, len(b)-at)))
	return b
}

// ND is a neighbour discovery message (RFC 4861 §4).
type ND struct {
	Type uint8 // ICMPv6RouterSolicitation … ICMPv6Redirect
	// Router, Solicited and Override are the flags of a neighbour advertisement.
	Router, Solicited, Override bool
	// Target is the address asked for, advertised or redirected to; the zero Addr in
	// router solicitations and advertisements.
	Target netip.Addr
	// Options are the options as they stand; they alias the frame.
	Options []byte
}

// Options of neighbour discovery (RFC 4861 §4.6).
const (
	NDSourceLinkAddr uint8 = 1
	NDTargetLinkAddr uint8 = 2
)

// NDOption is one option of a neighbour discovery message. Value is what follows
// type and length.
type NDOption struct {
	Type  uint8
	Value []byte
}

// decodeND checks the message at f.l4 if it is neighbour discovery: whole, from a
// neighbour (RFC 4861 §6.1 and §7.1), unfragmented (RFC 6980), its options of at
// least one unit and inside the packet.
func (f *Frame) decodeND() error {
	b := f.data[f.l4:f.end]
	fixed := ndFixed(b[0])
	if fixed == 0 {
		return nil
	}
	if b[1] != 0 || f.data[f.l3+7] != 255 || f.fragment {
		return fail("nd", f.l4, ErrValue)
	}
	if len(b) < fixed || f.truncated {
		return fail("nd", f.end, ErrTruncated) // no part of it can be done without
	}
	if b[0] == ICMPv6NeighborSolicitation || b[0] == ICMPv6NeighborAdvertisement {
		if b[8] == 0xff { // a multicast target
			return fail("nd", f.l4+8, ErrValue)
		}
	}
	for at := fixed; at < len(b); {
		if len(b)-at < 2 {
			return fail("nd", f.end, ErrTruncated)
		}
		n := int(b[at+1]) * 8
		if n == 0 {
			return fail("nd", f.l4+at+1, ErrLength)
		}
		if n > len(b)-at {
			return fail("nd", f.l4+at+1, ErrTruncated)
		}
		at += n
	}
	f.layers |= layerND
	f.payload = f.end
	return nil
}

// ndFixed returns the length of a message up to its options; 0 for what is not
// neighbour discovery.
func ndFixed(typ uint8) int {
	switch typ {
	case ICMPv6RouterSolicitation:
		return 8
	case ICMPv6RouterAdvertisement:
		return 16
	case ICMPv6NeighborSolicitation, ICMPv6NeighborAdvertisement:
		return 24
	case ICMPv6Redirect:
		return 40
	}
	return 0
}

// ND returns the neighbour discovery message of the frame.
func (f *Frame) ND() (ND, bool) {
	if f.layers&layerND == 0 {
		return ND{}, false
	}
	b := f.data[f.l4:f.end]
	n := ND{Type: b[0], Options: b[ndFixed(b[0]):]}
	if n.Type >= ICMPv6NeighborSolicitation {
		n.Target = addr16(b[8:])
	}
	if n.Type == ICMPv6NeighborAdvertisement {
		n.Router, n.Solicited, n.Override = b[4]&0x80 != 0, b[4]&0x40 != 0, b[4]&0x20 != 0
	}
	return n, true
}

// All yields the options in order.
func (n ND) All() iter.Seq[NDOption] {
	return func(yield func(NDOption) bool) {
		for b := n.Options; len(b) >= 2; {
			size := int(b[1]) * 8
			if size == 0 || size > len(b) || !yield(NDOption{Type: b[0], Value: b[2:size]}) {
				return
			}
			b = b[size:]
		}
	}
}

// LinkAddr returns the Ethernet address in the first option of type
// NDSourceLinkAddr or NDTargetLinkAddr.
func (n ND) LinkAddr(option uint8) (MAC, bool) {
	for o := range n.All() {
		if o.Type == option && len(o.Value) == 6 {
			return MAC(o.Value), true
		}
	}
	return MAC{}, false
}
