package packet

import "net/netip"

const (
	ipv4Len = 20
	ipv6Len = 40
)

// Flags of an IPv4 header.
const (
	DontFragment  uint8 = 2
	MoreFragments uint8 = 1
)

// IPv4 is the header of an IPv4 packet (RFC 791).
type IPv4 struct {
	DSCP, ECN  uint8
	Length     uint16 // of the packet, in bytes; AppendIPv4 computes it
	ID         uint16
	Flags      uint8  // DontFragment, MoreFragments
	FragOffset uint16 // in units of 8 bytes
	TTL        uint8
	Proto      uint8
	Checksum   uint16 // AppendIPv4 computes it
	Src, Dst   netip.Addr
	Options    []byte // aliases the frame; written padded to 4 bytes, cut at 40
}

func (f *Frame) decodeIPv4() error {
	b := f.data[f.l3:]
	if len(b) < ipv4Len {
		return fail("ipv4", len(f.data), ErrTruncated)
	}
	if b[0]>>4 != 4 {
		return fail("ipv4", f.l3, ErrValue)
	}
	n, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if n < ipv4Len {
		return fail("ipv4", f.l3, ErrLength)
	}
	if total < n {
		return fail("ipv4", f.l3+2, ErrLength)
	}
	if n > len(b) {
		return fail("ipv4", len(f.data), ErrTruncated)
	}
	f.setEnd(f.l3 + total)
	f.layers |= layerIPv4
	f.proto = b[9]
	f.l4 = f.l3 + n
	f.payload = f.l4
	frag := be.Uint16(b[6:])
	f.fragment = frag&0x3fff != 0
	if frag&0x1fff != 0 {
		return nil
	}
	return f.decodeTransport()
}

// IPv4 returns the IPv4 header of the frame.
func (f *Frame) IPv4() (IPv4, bool) {
	if f.layers&layerIPv4 == 0 {
		return IPv4{}, false
	}
	b := f.data[f.l3:f.l4]
	frag := be.Uint16(b[6:])
	return IPv4{
		DSCP: b[1] >> 2, ECN: b[1] & 3,
		Length: be.Uint16(b[2:]), ID: be.Uint16(b[4:]),
		Flags: uint8(frag>>13) & 3, FragOffset: frag & 0x1fff,
		TTL: b[8], Proto: b[9], Checksum: be.Uint16(b[10:]),
		Src: addr4(b[12:]), Dst: addr4(b[16:]),
		Options: b[ipv4Len:],
	}, true
}

// AppendIPv4 appends the header of a packet that carries payload bytes, with its
// checksum. Length and Checksum of h are not used.
func AppendIPv4(b []byte, h IPv4, payload int) []byte {
	at := len(b)
	opts := padded(len(h.Options))
	n := ipv4Len + opts
	b = append(b, 0x40|byte(n/4), h.DSCP<<2|h.ECN&3)
	b = be.AppendUint16(b, uint16(n+payload))
	b = be.AppendUint16(b, h.ID)
	b = be.AppendUint16(b, uint16(h.Flags&3)<<13|h.FragOffset&0x1fff)
	b = append(b, h.TTL, h.Proto, 0, 0)
	b = append4(b, h.Src)
	b = append4(b, h.Dst)
	b = appendPadded(b, h.Options, opts)
	be.PutUint16(b[at+10:], ^fold(sum(b[at:])))
	return b
}

// padded returns the room that n bytes of options take: a multiple of 4, at most
// the 40 bytes that the 4-bit header lengths of IPv4 and TCP leave.
func padded(n int) int { return (min(n, 40) + 3) &^ 3 }

func appendPadded(b, options []byte, room int) []byte {
	n := min(len(options), room)
	b = append(b, options[:n]...)
	for range room - n {
		b = append(b, 0)
	}
	return b
}

// IPv6 is the header of an IPv6 packet (RFC 8200).
type IPv6 struct {
	TrafficClass uint8  // DSCP in the upper 6 bits, ECN in the lower 2
	FlowLabel    uint32 // 20 bits
	Length       uint16 // of what follows the fixed header; AppendIPv6 computes it
	NextHeader   uint8  // of the fixed header; Frame.Proto is what follows the extensions
	HopLimit     uint8
	Src, Dst     netip.Addr
	Extensions   []byte // extension headers as they stand; aliases the frame
}

// Extension headers (RFC 8200 §4, RFC 4302).
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAH          = 51
	extDestination = 60
	extMobility    = 135
	extHIP         = 139
	extShim6       = 140
)

func (f *Frame) decodeIPv6() error {
	b := f.data[f.l3:]
	if len(b) < ipv6Len {
		return fail("ipv6", len(f.data), ErrTruncated)
	}
	if b[0]>>4 != 6 {
		return fail("ipv6", f.l3, ErrValue)
	}
	f.setEnd(f.l3 + ipv6Len + int(be.Uint16(b[4:])))
	f.layers |= layerIPv6

	next, at := b[6], f.l3+ipv6Len
	for n := 0; ; n++ {
		var size int
		b := f.data[at:f.end]
		switch next {
		case extHopByHop, extRouting, extFragment, extAH, extDestination, extMobility, extHIP, extShim6:
		default:
			f.proto, f.l4, f.payload = next, at, at
			return f.decodeTransport()
		}
		if n == MaxExtensions {
			return fail("ipv6", at, ErrTooMany)
		}
		if len(b) < 8 {
			return fail("ipv6", f.end, ErrTruncated)
		}
		switch next {
		case extHopByHop:
			if n > 0 {
				return fail("ipv6", at, ErrValue) // only ever the first
			}
			size = (int(b[1]) + 1) * 8
		case extFragment:
			size = 8
		case extAH:
			size = (int(b[1]) + 2) * 4
		default:
			size = (int(b[1]) + 1) * 8
		}
		if size > len(b) {
			if f.truncated {
				return fail("ipv6", f.end, ErrTruncated)
			}
			return fail("ipv6", at+1, ErrLength)
		}
		if next == extFragment {
			offset := be.Uint16(b[2:]) & 0xfff9 // offset and the more-fragments bit
			f.fragment = f.fragment || offset != 0
			if offset&0xfff8 != 0 {
				f.proto, f.l4, f.payload = b[0], at+size, at+size
				return nil
			}
		}
		next = b[0]
		at += size
	}
}

// IPv6 returns the IPv6 header of the frame.
func (f *Frame) IPv6() (IPv6, bool) {
	if f.layers&layerIPv6 == 0 {
		return IPv6{}, false
	}
	b := f.data[f.l3:f.l4]
	first := be.Uint32(b)
	return IPv6{
		TrafficClass: uint8(first >> 20), FlowLabel: first & 0xfffff,
		Length: be.Uint16(b[4:]), NextHeader: b[6], HopLimit: b[7],
		Src: addr16(b[8:]), Dst: addr16(b[24:]),
		Extensions: b[ipv6Len:],
	}, true
}

// AppendIPv6 appends the header and the extension headers of a packet that carries
// payload bytes behind them. Length of h is not used.
func AppendIPv6(b []byte, h IPv6, payload int) []byte {
	b = be.AppendUint32(b, 6<<28|uint32(h.TrafficClass)<<20|h.FlowLabel&0xfffff)
	b = be.AppendUint16(b, uint16(len(h.Extensions)+payload))
	b = append(b, h.NextHeader, h.HopLimit)
	b = append16(b, h.Src)
	b = append16(b, h.Dst)
	return append(b, h.Extensions...)
}
