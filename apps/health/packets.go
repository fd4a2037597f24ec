package health

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// Probes of a single packet: Ping, UDPConnect and SCTP. They need no TCP/IP stack: the
// core sends the packet, and the reply, or the end of the timeout, is the outcome.

// packetKey names a probe of a single packet by what its reply has in it.
type packetKey struct {
	vlan           uint16
	proto          uint8
	target, source netip.Addr
	port           uint16 // of the target
	local          uint16 // source port, or ICMP identifier
}

// icmpOf is ICMP of the family of an address.
func icmpOf(a netip.Addr) uint8 {
	if a.Is4() {
		return packet.ProtoICMP
	}
	return packet.ProtoICMPv6
}

// protocol is the number in IP headers of what a target is probed by.
func (t Target) protocol() uint8 {
	switch t.Type {
	case Ping:
		return icmpOf(t.Address)
	case UDPConnect:
		return packet.ProtoUDP
	case SCTP:
		return packet.ProtoSCTP
	}
	return packet.ProtoTCP
}

// sendPacket sends the packet of a probe that has just begun.
func (a *App) sendPacket(c *controller.Context, k *check) {
	key := packetKey{vlan: k.VLAN, proto: k.protocol(), target: k.Address, source: k.Source, port: k.Port}
	for range 1 << 12 {
		key.local = a.nextPort
		if a.nextPort++; a.nextPort == 0 {
			a.nextPort = firstPort
		}
		if a.pending[key] == nil {
			break
		}
	}
	k.key = key
	a.pending[key] = k
	flow := packet.Flow{Src: netip.AddrPortFrom(k.Source, key.local), Dst: netip.AddrPortFrom(k.Address, k.Port)}
	var frame []byte
	switch k.Type {
	case Ping:
		frame = packet.AppendEchoFrame(nil, flow, false, key.local, uint16(k.probe), []byte("fairlead"))
	case UDPConnect:
		frame = packet.AppendUDPFrame(nil, flow, nil)
	case SCTP:
		k.tag = max(rand.Uint32(), 1)
		frame = packet.AppendSCTPFrame(nil, flow, 0, initChunk(k.tag))
	}
	a.send(c, k.VLAN, k.Address, frame[ethernetLen:])
}

// ethernetLen is the length of an Ethernet header without a tag.
const ethernetLen = 14

// SCTP chunks (RFC 9260 §3.2).
const (
	sctpInit    = 1
	sctpInitAck = 2
	sctpAbort   = 6
)

// initChunk is the chunk that asks for an association (RFC 9260 §3.3.2).
func initChunk(tag uint32) []byte {
	b := []byte{sctpInit, 0, 0, 20}
	b = binary.BigEndian.AppendUint32(b, tag)
	b = binary.BigEndian.AppendUint32(b, 65536) // receive window
	b = binary.BigEndian.AppendUint16(b, 1)     // streams out
	b = binary.BigEndian.AppendUint16(b, 1)     // and in
	return binary.BigEndian.AppendUint32(b, tag)
}

// sctpOutcome judges the first chunk that came in answer to INIT.
func sctpOutcome(chunks []byte) (o Outcome, why string, ok bool) {
	if len(chunks) < 4 {
		return 0, "", false
	}
	switch chunks[0] {
	case sctpInitAck:
		return OutcomeSuccess, "", true
	case sctpAbort:
		return OutcomeFailure, "SCTP association refused (ABORT)", true
	}
	return 0, "", false
}

// packetIn takes in what an entry of ours sent to the controller: a reply, or a
// question for an address that probes come from. Both are of hosts and not believed
// further than they go.
func (a *App) packetIn(c *controller.Context, e controller.PacketIn) {
	f, err := packet.Decode(e.Data)
	if err != nil || f.Fragment() || f.Truncated() {
		a.counts.dropped++
		return
	}
	var vlan uint16
	if tag, ok := f.VLAN(); ok {
		vlan = tag.ID
	}
	if a.answer(c, e, &f, vlan) {
		return
	}
	src, dst, ok := f.Addrs()
	if !ok || !f.ChecksumsOK() {
		a.counts.dropped++
		return
	}
	key := packetKey{vlan: a.network(vlan, src, dst), proto: f.Proto(), target: src, source: dst}
	key.port, key.local, _ = f.Ports()
	switch f.Proto() {
	case packet.ProtoTCP:
		if !a.taken[replyTo(key)] || key.local < firstPort || !a.wire.deliver(key.vlan, f.Network()) {
			a.counts.dropped++
		}
	case packet.ProtoUDP:
		a.answered(c, key, OutcomeSuccess, "")
	case packet.ProtoSCTP:
		h, _ := f.SCTP()
		o, why, ok := sctpOutcome(f.Payload())
		if k := a.pending[key]; ok && k != nil && h.Tag == k.tag {
			a.answered(c, key, o, why)
		}
	case packet.ProtoICMP:
		m, _ := f.ICMP()
		switch m.Type {
		case packet.ICMPEchoReply:
			key.local = m.ID
			a.answered(c, key, OutcomeSuccess, "")
		case packet.ICMPUnreachable:
			a.unreachable(c, key, f.Payload())
		}
	case packet.ProtoICMPv6:
		m, _ := f.ICMPv6()
		switch m.Type {
		case packet.ICMPv6EchoReply:
			key.local = m.ID
			a.answered(c, key, OutcomeSuccess, "")
		case packet.ICMPv6Unreachable:
			a.unreachable(c, key, f.Payload())
		}
	}
}

// answersFor says whether a host that asks for an address of probes is answered.
func (a *App) answersFor(addr, asker netip.Addr, tag uint16) bool {
	s := source{addr: addr, vlan: a.network(tag, asker, addr)}
	if a.sources[s.name()] != nil {
		return true
	}
	s.asker = asker
	return tag == 0 && a.sources[s.name()] != nil
}

// network returns the VLAN that a frame from a target to a source is of.
func (a *App) network(tag uint16, target, source netip.Addr) uint16 {
	if vlan, ok := a.access[[2]netip.Addr{target, source}]; ok && tag == 0 {
		return vlan
	}
	return tag
}

// answered ends the probe of a single packet, if there is one of that key.
func (a *App) answered(c *controller.Context, key packetKey, o Outcome, why string) {
	if k := a.pending[key]; k != nil {
		a.settle(k)
		a.finish(c, k, o, why)
	}
}

// unreachable ends the probe of the datagram that an ICMP message quotes. Only the
// target itself is believed.
func (a *App) unreachable(c *controller.Context, key packetKey, quoted []byte) {
	src, dst, local, port, ok := quotedDatagram(quoted)
	if ok && src == key.source && dst == key.target {
		key.proto, key.local, key.port = packet.ProtoUDP, local, port
		a.answered(c, key, OutcomeFailure, "UDP port unreachable")
	}
}

// quotedDatagram reads the beginning of a UDP packet from an ICMP error (RFC 792, RFC
// 4443 §3.1).
func quotedDatagram(b []byte) (src, dst netip.Addr, from, to uint16, ok bool) {
	var udp []byte
	switch {
	case len(b) >= 20 && b[0]>>4 == 4 && b[9] == packet.ProtoUDP:
		head := int(b[0]&15) * 4
		if head < 20 || len(b) < head+4 {
			return
		}
		src, dst, udp = netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])), b[head:]
	case len(b) >= 44 && b[0]>>4 == 6 && b[6] == packet.ProtoUDP:
		src, dst, udp = netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])), b[40:]
	default:
		return
	}
	return src, dst, binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:]), true
}

// answer answers a question for the link address of an address that probes come from,
// and reports whether the frame was one.
func (a *App) answer(c *controller.Context, e controller.PacketIn, f *packet.Frame, vlan uint16) bool {
	var reply []byte
	if q, ok := f.ARP(); ok {
		if q.Op == packet.ARPRequest && a.answersFor(q.TPA, q.SPA, vlan) {
			reply = packet.AppendARPReply(nil, packet.MAC(controller.ProbeMAC), q.TPA, q.SHA, q.SPA, packet.Tags(vlan)...)
		}
	} else if q, ok := f.ND(); ok && q.Type == packet.ICMPv6NeighborSolicitation {
		src, _, _ := f.Addrs()
		if a.answersFor(q.Target, src, vlan) && f.ChecksumsOK() && !src.IsUnspecified() {
			flow := packet.Flow{
				SrcMAC: packet.MAC(controller.ProbeMAC), DstMAC: f.Ethernet().Src, Tags: packet.Tags(vlan),
				Src: netip.AddrPortFrom(q.Target, 0), Dst: netip.AddrPortFrom(src, 0),
			}
			reply = packet.AppendNeighborAdvertisement(nil, flow, q.Target, true)
		}
	} else {
		return false
	}
	if reply != nil {
		c.PacketOut(e.DPID, ofproto.PortController, reply, ofproto.OutputPort(e.InPort))
	}
	return true
}
