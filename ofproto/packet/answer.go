package packet

import "net/netip"

// Most bytes of an ICMP error, with the IP header (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
const (
	icmpMost   = 576
	icmpv6Most = 1280
)

// Codes of unreachable messages.
const (
	icmpPortUnreachable   = 3 // RFC 792
	icmpv6PortUnreachable = 4 // RFC 4443
)

// answer returns the flow of the answer to a frame.
func (f *Frame) answer() Flow {
	src, dst, _ := f.Addrs()
	sport, dport, _ := f.Ports()
	tags, n := f.Tags()
	e := f.Ethernet()
	return Flow{
		SrcMAC: e.Dst, DstMAC: e.Src, Tags: tags[:n],
		Src: netip.AddrPortFrom(dst, dport), Dst: netip.AddrPortFrom(src, sport),
	}
}

// AppendRefusal appends the frame by which a host answers one to a port that nobody
// listens on: a reset to TCP (RFC 9293 §3.5.2), ICMP or ICMPv6 port unreachable to
// UDP and SCTP. It goes to the sender from whom the frame was sent to. b is returned as
// it is where no answer is due: to a reset, to what has no ports, to a fragment or a
// frame cut short.
func AppendRefusal(b []byte, f Frame) []byte {
	if f.fragment || f.truncated {
		return b
	}
	to := f.answer()
	switch t, tcp := f.TCP(); {
	case tcp && t.Flags&TCPRst != 0:
		return b
	case tcp && t.Flags&TCPAck != 0:
		return AppendTCPFrame(b, to, TCP{Seq: t.Ack, Flags: TCPRst}, nil)
	case tcp:
		ack := t.Seq + uint32(len(f.Payload()))
		if t.Flags&TCPSyn != 0 {
			ack++
		}
		if t.Flags&TCPFin != 0 {
			ack++
		}
		return AppendTCPFrame(b, to, TCP{Ack: ack, Flags: TCPRst | TCPAck}, nil)
	case f.layers&(layerUDP|layerSCTP) == 0:
		return b
	}
	quote := f.Network()
	if to.Src.Addr().Is4() {
		quote = quote[:min(len(quote), icmpMost-ipv4Len-icmpLen)]
		b = to.appendIP(b, ProtoICMP, 64, icmpLen+len(quote))
		return AppendICMP(b, ICMP{Type: ICMPUnreachable, Code: icmpPortUnreachable}, quote)
	}
	quote = quote[:min(len(quote), icmpv6Most-ipv6Len-icmpLen)]
	b = to.appendIP(b, ProtoICMPv6, 64, icmpLen+len(quote))
	return AppendICMPv6(b, ICMP{Type: ICMPv6Unreachable, Code: icmpv6PortUnreachable}, to.Src.Addr(), to.Dst.Addr(), quote)
}

// AppendEchoAnswer appends the reply to an ICMP or ICMPv6 echo request. b is returned
// as it is for other frames, fragments and frames cut short.
func AppendEchoAnswer(b []byte, f Frame) []byte {
	if f.fragment || f.truncated {
		return b
	}
	h, ok := f.ICMP()
	want := ICMPEchoRequest
	if !ok {
		h, ok = f.ICMPv6()
		want = ICMPv6EchoRequest
	}
	if !ok || h.Type != want || h.Code != 0 {
		return b
	}
	return AppendEchoFrame(b, f.answer(), true, h.ID, h.Seq, f.Payload())
}

// Quote is what an ICMP error tells of the packet that it is about (RFC 792, RFC 4443
// §2.4): its protocol and, of TCP, UDP and SCTP, its ends.
type Quote struct {
	Proto    uint8
	Src, Dst netip.AddrPort
}

// Quote returns what an ICMP or ICMPv6 error quotes. ok is false for other frames, and
// where what is quoted is of another family, is a fragment without ports, has IPv6
// extension headers or is cut short before its ports.
func (f *Frame) Quote() (q Quote, ok bool) {
	q, _, ok = f.quote()
	return q, ok
}

// quote also returns where in Payload the quoted transport header is.
func (f *Frame) quote() (q Quote, l4 int, ok bool) {
	h, v4 := f.ICMP()
	if !v4 {
		var v6 bool
		if h, v6 = f.ICMPv6(); !v6 || h.Type < ICMPv6Unreachable || h.Type > ICMPv6ParameterProblem {
			return q, 0, false
		}
	} else if h.Type != ICMPUnreachable && h.Type != ICMPTimeExceeded && h.Type != ICMPParameterProblem {
		return q, 0, false
	}
	b := f.Payload()
	var src, dst netip.Addr
	switch {
	case v4 && len(b) >= ipv4Len && b[0]>>4 == 4:
		l4 = int(b[0]&15) * 4
		if l4 < ipv4Len || be.Uint16(b[6:])&0x1fff != 0 {
			return q, 0, false
		}
		q.Proto, src, dst = b[9], addr4(b[12:]), addr4(b[16:])
	case !v4 && len(b) >= ipv6Len && b[0]>>4 == 6:
		l4 = ipv6Len
		q.Proto, src, dst = b[6], addr16(b[8:]), addr16(b[24:])
	default:
		return q, 0, false
	}
	if q.Proto != ProtoTCP && q.Proto != ProtoUDP && q.Proto != ProtoSCTP || len(b) < l4+4 {
		return q, 0, false
	}
	q.Src, q.Dst = netip.AddrPortFrom(src, be.Uint16(b[l4:])), netip.AddrPortFrom(dst, be.Uint16(b[l4+2:]))
	return q, l4, true
}

// Readdress says what changes in an ICMP error whose flow was translated. Addresses
// that are not valid stay as they are; the others are of the family of the frame.
type Readdress struct {
	SrcMAC, DstMAC       MAC // zero: as it is
	Tags                 []VLAN
	Src, Dst             netip.Addr     // of the error
	QuotedSrc, QuotedDst netip.AddrPort // of the packet that it quotes
}

// AppendReaddressed appends an ICMP error with other addresses in itself and in what it
// quotes. Checksums within the quote change by what changes under them, so that one
// that was right stays so, of a quote that is cut short too; that of SCTP, which nobody
// can check on a quote, stays as it was. b is returned as it is
// for a frame without a Quote, or cut short.
func AppendReaddressed(b []byte, f Frame, r Readdress) []byte {
	_, l4, ok := f.quote()
	if !ok || f.truncated || f.fragment {
		return b
	}
	e := f.Ethernet()
	if r.SrcMAC != (MAC{}) {
		e.Src = r.SrcMAC
	}
	if r.DstMAC != (MAC{}) {
		e.Dst = r.DstMAC
	}
	b = AppendEthernet(b, e, r.Tags...)
	ip := len(b)
	b = append(b, f.Network()...)
	icmp, quoted := ip+f.l4-f.l3, b[ip+f.payload-f.l3:]
	v4 := f.layers&layerIPv4 != 0
	srcAt, dstAt := 8, 24
	if v4 {
		srcAt, dstAt = 12, 16
	}
	put := func(at []byte, a netip.Addr) {
		if a.IsValid() {
			copy(at, a.AsSlice())
		}
	}
	put(b[ip+srcAt:], r.Src)
	put(b[ip+dstAt:], r.Dst)

	// The checksums that are under what changes: of the quoted header, and of the
	// quoted transport.
	transport := -1
	proto := quoted[6]
	if v4 {
		proto = quoted[9]
	}
	switch {
	case proto == ProtoTCP && len(quoted) >= l4+18:
		transport = l4 + 16
	case proto == ProtoUDP && len(quoted) >= l4+8 && be.Uint16(quoted[l4+6:]) != 0:
		transport = l4 + 6
	}
	change := func(at int, to []byte, header bool) {
		from := quoted[at : at+len(to)]
		if header && v4 {
			adjust(quoted[10:], from, to)
		}
		if transport >= 0 {
			adjust(quoted[transport:], from, to)
		}
		copy(from, to)
	}
	for _, end := range []struct {
		to            netip.AddrPort
		address, port int
	}{{r.QuotedSrc, srcAt, l4}, {r.QuotedDst, dstAt, l4 + 2}} {
		if end.to.IsValid() {
			change(end.address, end.to.Addr().AsSlice(), true)
			change(end.port, be.AppendUint16(nil, end.to.Port()), false)
		}
	}

	be.PutUint16(b[icmp+2:], 0)
	if v4 {
		be.PutUint16(b[ip+10:], 0)
		be.PutUint16(b[ip+10:], ^fold(sum(b[ip:icmp])))
		be.PutUint16(b[icmp+2:], ^fold(sum(b[icmp:])))
	} else {
		src, dst := addr16(b[ip+8:]), addr16(b[ip+24:])
		be.PutUint16(b[icmp+2:], ^fold(sum(b[icmp:])+pseudo(src, dst, ProtoICMPv6, len(b)-icmp)))
	}
	return b
}

// adjust brings a checksum up to a change of what it covers (RFC 1624).
func adjust(check, from, to []byte) {
	s := uint64(^be.Uint16(check)) + sum(to)
	for i := 0; i+1 < len(from); i += 2 {
		s += uint64(^be.Uint16(from[i:]))
	}
	be.PutUint16(check, ^fold(s))
}
