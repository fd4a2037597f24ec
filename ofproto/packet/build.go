package packet

import "net/netip"

// Flow names the two ends of a frame: what the builders of whole frames need. Source
// and destination are of the same family.
type Flow struct {
	SrcMAC, DstMAC MAC
	Tags           []VLAN // the outermost first
	Src, Dst       netip.AddrPort
}

// Reverse returns the flow of the answer.
func (f Flow) Reverse() Flow {
	return Flow{SrcMAC: f.DstMAC, DstMAC: f.SrcMAC, Tags: f.Tags, Src: f.Dst, Dst: f.Src}
}

// appendIP appends Ethernet and IP headers for a payload of that many bytes.
func (f Flow) appendIP(b []byte, proto, ttl uint8, payload int) []byte {
	e := Ethernet{Dst: f.DstMAC, Src: f.SrcMAC, Type: EtherTypeIPv4}
	src, dst := f.Src.Addr(), f.Dst.Addr()
	if src.Is4() {
		b = AppendEthernet(b, e, f.Tags...)
		return AppendIPv4(b, IPv4{TTL: ttl, Flags: DontFragment, Proto: proto, Src: src, Dst: dst}, payload)
	}
	e.Type = EtherTypeIPv6
	b = AppendEthernet(b, e, f.Tags...)
	return AppendIPv6(b, IPv6{HopLimit: ttl, NextHeader: proto, Src: src, Dst: dst}, payload)
}

// AppendTCPFrame appends a whole frame with a TCP segment. The ports of h are those
// of the flow.
func AppendTCPFrame(b []byte, f Flow, h TCP, payload []byte) []byte {
	h.SrcPort, h.DstPort = f.Src.Port(), f.Dst.Port()
	b = f.appendIP(b, ProtoTCP, 64, tcpLen+padded(len(h.Options))+len(payload))
	return AppendTCP(b, h, f.Src.Addr(), f.Dst.Addr(), payload)
}

// AppendUDPFrame appends a whole frame with a UDP datagram.
func AppendUDPFrame(b []byte, f Flow, payload []byte) []byte {
	b = f.appendIP(b, ProtoUDP, 64, udpLen+len(payload))
	return AppendUDP(b, UDP{SrcPort: f.Src.Port(), DstPort: f.Dst.Port()}, f.Src.Addr(), f.Dst.Addr(), payload)
}

// AppendSCTPFrame appends a whole frame with an SCTP packet of these chunks.
func AppendSCTPFrame(b []byte, f Flow, tag uint32, chunks []byte) []byte {
	b = f.appendIP(b, ProtoSCTP, 64, sctpLen+len(chunks))
	return AppendSCTP(b, SCTP{SrcPort: f.Src.Port(), DstPort: f.Dst.Port(), Tag: tag}, chunks)
}

// AppendEchoFrame appends a whole frame with an ICMP or ICMPv6 echo request or
// reply; the ports of the flow are not used.
func AppendEchoFrame(b []byte, f Flow, reply bool, id, seq uint16, payload []byte) []byte {
	h := ICMP{Type: ICMPEchoRequest, ID: id, Seq: seq}
	if f.Src.Addr().Is4() {
		if reply {
			h.Type = ICMPEchoReply
		}
		b = f.appendIP(b, ProtoICMP, 64, icmpLen+len(payload))
		return AppendICMP(b, h, payload)
	}
	h.Type = ICMPv6EchoRequest
	if reply {
		h.Type = ICMPv6EchoReply
	}
	b = f.appendIP(b, ProtoICMPv6, 64, icmpLen+len(payload))
	return AppendICMPv6(b, h, f.Src.Addr(), f.Dst.Addr(), payload)
}

// AppendARPFrame appends a whole frame with an ARP message to dst. The source is the
// sender of the message.
func AppendARPFrame(b []byte, dst MAC, a ARP, tags ...VLAN) []byte {
	b = AppendEthernet(b, Ethernet{Dst: dst, Src: a.SHA, Type: EtherTypeARP}, tags...)
	return AppendARP(b, a)
}

// AppendARPRequest appends the frame that asks everyone for the Ethernet address of
// target. An invalid spa makes it a probe (RFC 5227), spa equal to target an
// announcement.
func AppendARPRequest(b []byte, sha MAC, spa, target netip.Addr, tags ...VLAN) []byte {
	return AppendARPFrame(b, Broadcast, ARP{Op: ARPRequest, SHA: sha, SPA: spa, TPA: target}, tags...)
}

// AppendARPReply appends the frame that tells tha, tpa that spa is at sha.
func AppendARPReply(b []byte, sha MAC, spa netip.Addr, tha MAC, tpa netip.Addr, tags ...VLAN) []byte {
	return AppendARPFrame(b, tha, ARP{Op: ARPReply, SHA: sha, SPA: spa, THA: tha, TPA: tpa}, tags...)
}

// SolicitedNode returns the multicast group that answers solicitations for an IPv6
// address (RFC 4291 §2.7.1), and the Ethernet address of that group (RFC 2464 §7).
func SolicitedNode(target netip.Addr) (netip.Addr, MAC) {
	t := target.As16()
	g := [16]byte{0xff, 0x02, 11: 0x01, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]}
	return netip.AddrFrom16(g), MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]}
}

// AppendNeighborSolicitation appends the frame that asks for the Ethernet address of
// target at its solicited-node group (RFC 4861 §4.3). With an unspecified source it
// is duplicate address detection and carries no link address.
func AppendNeighborSolicitation(b []byte, srcMAC MAC, src, target netip.Addr, tags ...VLAN) []byte {
	group, mac := SolicitedNode(target)
	f := Flow{SrcMAC: srcMAC, DstMAC: mac, Tags: tags,
		Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(group, 0)}
	return f.appendND(b, ICMP{Type: ICMPv6NeighborSolicitation}, target, NDSourceLinkAddr, !src.IsUnspecified())
}

// AppendNeighborProbe appends the solicitation that asks the destination of the flow
// itself whether it has target (RFC 4861 §7.3.3).
func AppendNeighborProbe(b []byte, f Flow, target netip.Addr) []byte {
	return f.appendND(b, ICMP{Type: ICMPv6NeighborSolicitation}, target, NDSourceLinkAddr, true)
}

// AppendNeighborAdvertisement appends the frame that tells the destination of the
// flow that target is at the flow's source MAC (RFC 4861 §4.4). Override is set;
// solicited is for an answer to one asker.
func AppendNeighborAdvertisement(b []byte, f Flow, target netip.Addr, solicited bool) []byte {
	h := ICMP{Type: ICMPv6NeighborAdvertisement, ID: 0x2000}
	if solicited {
		h.ID |= 0x4000
	}
	return f.appendND(b, h, target, NDTargetLinkAddr, true)
}

func (f Flow) appendND(b []byte, h ICMP, target netip.Addr, option uint8, withOption bool) []byte {
	var body [24]byte
	t := target.As16()
	copy(body[:], t[:])
	n := 16
	if withOption {
		n = 24
		body[16], body[17] = option, 1
		copy(body[18:], f.SrcMAC[:])
	}
	b = f.appendIP(b, ProtoICMPv6, 255, icmpLen+n)
	return AppendICMPv6(b, h, f.Src.Addr(), f.Dst.Addr(), body[:n])
}
