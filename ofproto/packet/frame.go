package packet

import (
	"encoding/binary"
	"net/netip"
)

var be = binary.BigEndian

// layer is the set of headers found in a frame.
type layer uint16

const (
	layerARP layer = 1 << iota
	layerIPv4
	layerIPv6
	layerICMP
	layerICMPv6
	layerND
	layerTCP
	layerUDP
	layerSCTP
	layerLLDP
)

// Frame is a decoded Ethernet frame. It aliases the bytes given to Decode and is
// valid as long as they are. The zero Frame has no header at all.
type Frame struct {
	data      []byte
	layers    layer
	etherType uint16
	tags      uint8
	proto     uint8
	fragment  bool
	truncated bool
	// Offsets in data: start of the network header, of the transport header, of the
	// payload, and the end of what the length fields declare.
	l3, l4, payload, end int
}

// Decode checks the headers of one Ethernet frame, without its frame check
// sequence. On an error the frame is zero and the error a *ParseError.
//
// A frame cut short by the switch (the max_len of an output to the controller) is
// good as long as its headers are whole: see Truncated. Checksums are not verified:
// see ChecksumsOK.
func Decode(data []byte) (Frame, error) {
	f := Frame{data: data}
	if err := f.decode(); err != nil {
		return Frame{}, err
	}
	return f, nil
}

// fail makes the error of decode; it is apart so that the good path stays small.
func fail(header string, offset int, err error) error {
	return &ParseError{Header: header, Offset: offset, Err: err}
}

func (f *Frame) decode() error {
	if len(f.data) < ethernetLen {
		return fail("ethernet", len(f.data), ErrTruncated)
	}
	at := ethernetLen
	f.etherType = be.Uint16(f.data[12:])
	for isTag(f.etherType) {
		if f.tags == MaxTags {
			return fail("vlan", at, ErrTooMany)
		}
		if len(f.data)-at < tagLen {
			return fail("vlan", len(f.data), ErrTruncated)
		}
		f.tags++
		f.etherType = be.Uint16(f.data[at+2:])
		at += tagLen
	}
	f.l3, f.l4, f.payload, f.end = at, at, at, len(f.data)

	switch f.etherType {
	case EtherTypeARP:
		return f.decodeARP()
	case EtherTypeIPv4:
		return f.decodeIPv4()
	case EtherTypeIPv6:
		return f.decodeIPv6()
	case EtherTypeLLDP:
		if _, err := ParseLLDP(f.data[at:]); err != nil {
			err.(*ParseError).Offset += at
			return err
		}
		f.layers |= layerLLDP
	}
	if f.etherType < minEtherType {
		f.setEnd(at + int(f.etherType))
	}
	return nil
}

// setEnd cuts the frame to the length that a header declares. A length beyond the
// data means that the switch sent only the beginning.
func (f *Frame) setEnd(end int) {
	if end > len(f.data) {
		f.truncated = true
		return
	}
	f.end = end
}

// decodeTransport reads the header at f.l4 of protocol f.proto. Fragments other
// than the first have none.
func (f *Frame) decodeTransport() error {
	b := f.data[f.l4:f.end]
	switch f.proto {
	case ProtoTCP:
		if len(b) < tcpLen {
			return fail("tcp", f.end, ErrTruncated)
		}
		n := int(b[12]>>4) * 4
		if n < tcpLen {
			return fail("tcp", f.l4+12, ErrLength)
		}
		if n > len(b) {
			return fail("tcp", f.end, ErrTruncated)
		}
		f.layers |= layerTCP
		f.payload = f.l4 + n
	case ProtoUDP:
		if len(b) < udpLen {
			return fail("udp", f.end, ErrTruncated)
		}
		n := int(be.Uint16(b[4:]))
		if n < udpLen || n > len(b) && !f.truncated && !f.fragment {
			return fail("udp", f.l4+4, ErrLength)
		}
		if n < len(b) {
			f.end = f.l4 + n
		}
		f.layers |= layerUDP
		f.payload = f.l4 + udpLen
	case ProtoSCTP:
		if len(b) < sctpLen {
			return fail("sctp", f.end, ErrTruncated)
		}
		f.layers |= layerSCTP
		f.payload = f.l4 + sctpLen
	case ProtoICMP:
		if f.layers&layerIPv4 == 0 {
			return nil // ICMP has no meaning in IPv6
		}
		if len(b) < icmpLen {
			return fail("icmp", f.end, ErrTruncated)
		}
		f.layers |= layerICMP
		f.payload = f.l4 + icmpLen
	case ProtoICMPv6:
		if f.layers&layerIPv6 == 0 {
			return nil
		}
		if len(b) < icmpLen {
			return fail("icmpv6", f.end, ErrTruncated)
		}
		f.layers |= layerICMPv6
		f.payload = f.l4 + icmpLen
		return f.decodeND()
	}
	return nil
}

// Bytes returns the whole frame, padding included.
func (f *Frame) Bytes() []byte { return f.data }

// EtherType returns the type behind the VLAN tags; below 0x0600 it is the length of
// an 802.3 frame.
func (f *Frame) EtherType() uint16 { return f.etherType }

// Proto returns the protocol of the IP payload, behind IPv6 extension headers; 0 if
// the frame is not IP.
func (f *Frame) Proto() uint8 { return f.proto }

// Fragment reports whether the frame carries a part of an IP packet. Only the first
// part has a transport header.
func (f *Frame) Fragment() bool { return f.fragment }

// Truncated reports whether the frame is shorter than its headers declare, as in a
// packet-in that brings only the first bytes. Payload is then cut short too.
func (f *Frame) Truncated() bool { return f.truncated }

// Network returns what follows the Ethernet header and tags, to the end that the
// lengths in the headers declare, without padding.
func (f *Frame) Network() []byte { return f.data[f.l3:f.end] }

// Transport returns the transport header and what follows it; nothing if the frame
// is not IP. In a fragment other than the first it is the fragment's data.
func (f *Frame) Transport() []byte {
	if f.layers&(layerIPv4|layerIPv6) == 0 {
		return nil
	}
	return f.data[f.l4:f.end]
}

// Payload returns what follows the last header decoded, without padding.
func (f *Frame) Payload() []byte { return f.data[f.payload:f.end] }

// Addrs returns source and destination of an IPv4 or IPv6 packet.
func (f *Frame) Addrs() (src, dst netip.Addr, ok bool) {
	b := f.data[f.l3:]
	switch {
	case f.layers&layerIPv4 != 0:
		return addr4(b[12:]), addr4(b[16:]), true
	case f.layers&layerIPv6 != 0:
		return addr16(b[8:]), addr16(b[24:]), true
	}
	return netip.Addr{}, netip.Addr{}, false
}

// Ports returns source and destination port of TCP, UDP or SCTP.
func (f *Frame) Ports() (src, dst uint16, ok bool) {
	if f.layers&(layerTCP|layerUDP|layerSCTP) == 0 {
		return 0, 0, false
	}
	return be.Uint16(f.data[f.l4:]), be.Uint16(f.data[f.l4+2:]), true
}

func addr4(b []byte) netip.Addr  { return netip.AddrFrom4([4]byte(b[:4])) }
func addr16(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b[:16])) }
