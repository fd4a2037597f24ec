package packet

import (
	"hash/crc32"
	"net/netip"
)

const (
	tcpLen  = 20
	udpLen  = 8
	sctpLen = 12
)

// TCP flags (RFC 9293 §3.1).
const (
	TCPFin uint16 = 1 << iota
	TCPSyn
	TCPRst
	TCPPsh
	TCPAck
	TCPUrg
	TCPEce
	TCPCwr
)

// TCP is the header of a TCP segment (RFC 9293).
type TCP struct {
	SrcPort, DstPort uint16
	Seq, Ack         uint32
	Flags            uint16 // TCPFin …, 12 bits
	Window           uint16
	Checksum         uint16 // AppendTCP computes it
	Urgent           uint16
	Options          []byte // aliases the frame; written padded to 4 bytes, cut at 40
}

// TCP returns the TCP header of the frame.
func (f *Frame) TCP() (TCP, bool) {
	if f.layers&layerTCP == 0 {
		return TCP{}, false
	}
	b := f.data[f.l4:f.payload]
	return TCP{
		SrcPort: be.Uint16(b), DstPort: be.Uint16(b[2:]),
		Seq: be.Uint32(b[4:]), Ack: be.Uint32(b[8:]),
		Flags: be.Uint16(b[12:]) & 0x0fff, Window: be.Uint16(b[14:]),
		Checksum: be.Uint16(b[16:]), Urgent: be.Uint16(b[18:]),
		Options: b[tcpLen:],
	}, true
}

// AppendTCP appends a segment with its checksum, which covers src and dst.
func AppendTCP(b []byte, h TCP, src, dst netip.Addr, payload []byte) []byte {
	at := len(b)
	opts := padded(len(h.Options))
	b = be.AppendUint16(b, h.SrcPort)
	b = be.AppendUint16(b, h.DstPort)
	b = be.AppendUint32(b, h.Seq)
	b = be.AppendUint32(b, h.Ack)
	b = be.AppendUint16(b, uint16((tcpLen+opts)/4)<<12|h.Flags&0x0fff)
	b = be.AppendUint16(b, h.Window)
	b = append(b, 0, 0)
	b = be.AppendUint16(b, h.Urgent)
	b = appendPadded(b, h.Options, opts)
	b = append(b, payload...)
	be.PutUint16(b[at+16:], ^fold(sum(b[at:])+pseudo(src, dst, ProtoTCP, len(b)-at)))
	return b
}

// UDP is the header of a UDP datagram (RFC 768).
type UDP struct {
	SrcPort, DstPort uint16
	Length           uint16 // of header and payload; AppendUDP computes it
	Checksum         uint16 // 0 is none; AppendUDP computes it
}

// UDP returns the UDP header of the frame.
func (f *Frame) UDP() (UDP, bool) {
	if f.layers&layerUDP == 0 {
		return UDP{}, false
	}
	b := f.data[f.l4:]
	return UDP{SrcPort: be.Uint16(b), DstPort: be.Uint16(b[2:]), Length: be.Uint16(b[4:]), Checksum: be.Uint16(b[6:])}, true
}

// AppendUDP appends a datagram with its checksum, which covers src and dst.
func AppendUDP(b []byte, h UDP, src, dst netip.Addr, payload []byte) []byte {
	at := len(b)
	b = be.AppendUint16(b, h.SrcPort)
	b = be.AppendUint16(b, h.DstPort)
	b = be.AppendUint16(b, uint16(udpLen+len(payload)))
	b = append(b, 0, 0)
	b = append(b, payload...)
	be.PutUint16(b[at+6:], udpChecksum(b[at:], src, dst))
	return b
}

// udpChecksum computes the checksum of a datagram whose checksum field is zero. A
// sum of zero is sent as all ones, for zero says that there is none.
func udpChecksum(b []byte, src, dst netip.Addr) uint16 {
	if c := ^fold(sum(b) + pseudo(src, dst, ProtoUDP, len(b))); c != 0 {
		return c
	}
	return 0xffff
}

// SCTP is the common header of an SCTP packet (RFC 9260 §3.1); its chunks are
// payload.
type SCTP struct {
	SrcPort, DstPort uint16
	Tag              uint32 // verification tag
	Checksum         uint32 // CRC32c as it stands on the wire; AppendSCTP computes it
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SCTP returns the SCTP header of the frame.
func (f *Frame) SCTP() (SCTP, bool) {
	if f.layers&layerSCTP == 0 {
		return SCTP{}, false
	}
	b := f.data[f.l4:]
	return SCTP{SrcPort: be.Uint16(b), DstPort: be.Uint16(b[2:]), Tag: be.Uint32(b[4:]), Checksum: be.Uint32(b[8:])}, true
}

// AppendSCTP appends an SCTP packet with its checksum. Chunks are appended as they
// are.
func AppendSCTP(b []byte, h SCTP, chunks []byte) []byte {
	at := len(b)
	b = be.AppendUint16(b, h.SrcPort)
	b = be.AppendUint16(b, h.DstPort)
	b = be.AppendUint32(b, h.Tag)
	b = append(b, 0, 0, 0, 0)
	b = append(b, chunks...)
	putSCTPChecksum(b[at:])
	return b
}

// putSCTPChecksum writes the checksum of a packet; it is the only little-endian
// field here (RFC 9260 appendix A).
func putSCTPChecksum(b []byte) {
	le.PutUint32(b[8:], sctpChecksum(b))
}

// sctpChecksum computes the CRC32c of a packet as if its checksum field were zero.
func sctpChecksum(b []byte) uint32 {
	c := crc32.Update(0, castagnoli, b[:8])
	c = crc32.Update(c, castagnoli, zero4[:])
	return crc32.Update(c, castagnoli, b[sctpLen:])
}

var zero4 [4]byte
