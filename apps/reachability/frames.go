package reachability

import (
	"encoding/binary"
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// lane is the last byte of an Ethernet address that questions come from. Each switch has
// one while a measurement goes on; above lanesMost of them some are shared, and no two
// questions with the same answer are under way at once.
//
// All of them, and controller.ProbeMAC, are 02:46:4c:00:00:00 with 7 bits free: one
// entry matches them. VIPs have none of them.
type lane uint8

const (
	laneFirst lane = 2
	lanesMost lane = 126
)

var (
	laneAddress = ofproto.MAC{0x02, 0x46, 0x4c, 0x00, 0x00, 0x00}
	laneMask    = ofproto.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0x80}
	// floodMAC is the group that broadcasts of measurements go to. Bridges pass it on.
	floodMAC = ofproto.MAC{0x03, 0x46, 0x4c, 0x00, 0x00, 0x02}
)

// etherType is the one of frames between switches: set aside for experiments (IEEE 802,
// clause 9.2.3).
const etherType uint16 = 0x88b5

func (l lane) mac() packet.MAC {
	m := packet.MAC(laneAddress)
	m[5] = byte(l)
	return m
}

// address is the link-local address that goes with the lane's Ethernet address (RFC
// 4291, appendix A).
func (l lane) address() netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 9: 0x46, 10: 0x4c, 11: 0xff, 12: 0xfe, 15: byte(l)})
}

// laneOf returns the lane that a frame is addressed to.
func laneOf(m packet.MAC) (lane, bool) {
	l := lane(m[5])
	return l, l.mac() == m && l >= laneFirst && l < laneFirst+lanesMost
}

// forUs says whether a frame is addressed to a lane or to controller.ProbeMAC.
func forUs(m packet.MAC) bool {
	_, ok := laneOf(m)
	return ok || m == packet.MAC(controller.ProbeMAC)
}

// whoHas asks a host for its own address: by an ARP probe (RFC 5227), which nobody
// learns from, or by a neighbour solicitation. to may be the broadcast address.
func whoHas(l lane, to packet.MAC, addr netip.Addr, vlan uint16) []byte {
	switch {
	case addr.Is4():
		return packet.AppendARPFrame(nil, to, packet.ARP{Op: packet.ARPRequest, SHA: l.mac(), TPA: addr}, packet.Tags(vlan)...)
	case packet.IsGroup(to):
		return packet.AppendNeighborSolicitation(nil, l.mac(), l.address(), addr, packet.Tags(vlan)...)
	}
	f := packet.Flow{SrcMAC: l.mac(), DstMAC: to, Tags: packet.Tags(vlan), Src: netip.AddrPortFrom(l.address(), 0), Dst: netip.AddrPortFrom(addr, 0)}
	return packet.AppendNeighborProbe(nil, f, addr)
}

// A marker is the payload of frames between switches: what they are, the nonce of the
// measurement, and two numbers.
const markerLen = 4 + 8 + 8 + 8

var markerMagic = [4]byte{'F', 'L', 'r', '1'}

type marker struct {
	nonce [8]byte
	a, b  uint64
}

// frame puts a marker into a frame with that many bytes of payload, or as many as it
// needs.
func (m marker) frame(to packet.MAC, l lane, size int) []byte {
	b := packet.AppendEthernet(nil, packet.Ethernet{Dst: to, Src: l.mac(), Type: etherType})
	head := len(b)
	b = append(b, markerMagic[:]...)
	b = append(b, m.nonce[:]...)
	b = binary.BigEndian.AppendUint64(b, m.a)
	b = binary.BigEndian.AppendUint64(b, m.b)
	return append(b, make([]byte, max(size-(len(b)-head), 0))...)
}

// markerOf reads the marker of a frame.
func markerOf(f *packet.Frame) (m marker, ok bool) {
	b := f.Network()
	if f.EtherType() != etherType || len(b) < markerLen || [4]byte(b) != markerMagic {
		return m, false
	}
	m.nonce = [8]byte(b[4:])
	m.a, m.b = binary.BigEndian.Uint64(b[12:]), binary.BigEndian.Uint64(b[20:])
	return m, true
}

func place(dpid ofproto.DPID, port ofproto.Port) topology.Place {
	return topology.Place{DPID: topology.DPID(dpid), Port: topology.Port(port)}
}
