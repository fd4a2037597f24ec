package packet

import (
	"encoding/binary"
	"net/netip"
)

var le = binary.LittleEndian

// sum adds up the 16-bit words of b (RFC 1071), an odd last byte padded with zero.
// It adds 32 bits at a time: the carries are folded in the end.
func sum(b []byte) uint64 {
	var s uint64
	for len(b) >= 8 {
		v := be.Uint64(b)
		s += v>>32 + v&0xffffffff
		b = b[8:]
	}
	for len(b) >= 2 {
		s += uint64(be.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	return s
}

// fold reduces a sum to 16 bits in one's complement arithmetic.
func fold(s uint64) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// pseudo sums the pseudo header that precedes transport headers (RFC 9293 §3.1, RFC
// 8200 §8.1).
func pseudo(src, dst netip.Addr, proto uint8, length int) uint64 {
	s := uint64(proto) + uint64(length)
	for _, a := range [2]netip.Addr{src, dst} {
		if a.Is4() {
			v := a.As4()
			s += sum(v[:])
		} else if a.IsValid() {
			v := a.As16()
			s += sum(v[:])
		}
	}
	return s
}

// ChecksumsOK reports whether the checksums of the frame are right: IPv4 header,
// TCP, UDP, SCTP, ICMP and ICMPv6. What cannot be checked, because the frame is cut
// short or a fragment, or UDP over IPv4 has none, counts as right. A frame that left
// a local socket with checksum offload has wrong ones.
func (f *Frame) ChecksumsOK() bool {
	if f.layers&layerIPv4 != 0 && fold(sum(f.data[f.l3:f.l4])) != 0xffff {
		return false
	}
	if f.fragment || f.truncated {
		return true
	}
	b := f.Transport()
	src, dst, _ := f.Addrs()
	switch {
	case f.layers&layerICMP != 0:
		return fold(sum(b)) == 0xffff
	case f.layers&layerUDP != 0 && be.Uint16(b[6:]) == 0:
		return f.layers&layerIPv4 != 0
	case f.layers&(layerTCP|layerUDP|layerICMPv6) != 0:
		return fold(sum(b)+pseudo(src, dst, f.proto, len(b))) == 0xffff
	case f.layers&layerSCTP != 0:
		return le.Uint32(b[8:]) == sctpChecksum(b)
	}
	return true
}

// UpdateChecksums writes the checksums of a frame anew, in place, after its fields
// were changed. It leaves alone what ChecksumsOK cannot check. The errors are those
// of Decode.
func UpdateChecksums(frame []byte) error {
	f, err := Decode(frame)
	if err != nil {
		return err
	}
	if f.layers&layerIPv4 != 0 {
		h := frame[f.l3:f.l4]
		be.PutUint16(h[10:], 0)
		be.PutUint16(h[10:], ^fold(sum(h)))
	}
	if f.fragment || f.truncated {
		return nil
	}
	b := f.Transport()
	src, dst, _ := f.Addrs()
	switch {
	case f.layers&layerTCP != 0:
		be.PutUint16(b[16:], 0)
		be.PutUint16(b[16:], ^fold(sum(b)+pseudo(src, dst, f.proto, len(b))))
	case f.layers&layerUDP != 0:
		if be.Uint16(b[6:]) == 0 && f.layers&layerIPv4 != 0 {
			return nil
		}
		be.PutUint16(b[6:], 0)
		be.PutUint16(b[6:], udpChecksum(b, src, dst))
	case f.layers&layerICMP != 0:
		be.PutUint16(b[2:], 0)
		be.PutUint16(b[2:], ^fold(sum(b)))
	case f.layers&layerICMPv6 != 0:
		be.PutUint16(b[2:], 0)
		be.PutUint16(b[2:], ^fold(sum(b)+pseudo(src, dst, f.proto, len(b))))
	case f.layers&layerSCTP != 0:
		putSCTPChecksum(b)
	}
	return nil
}
