package discovery

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// A probe is an LLDP frame with one organisationally specific TLV: the place it
// left from, a nonce and a sequence number of that port, and an HMAC-SHA256 over
// them and the kind. A frame that was made up, edited, or kept for later is told by it.
//
// Bridges do not pass on what is sent to LLDP's own address. A probe of segments is the
// same to an address that they do, and to that of all stations for those that pass on
// nothing else.
const (
	probeFields = 8 + 4 + 8 + 8 // dpid, port, nonce, sequence
	probeLen    = probeFields + sha256.Size
	probeTTL    = 15 // seconds, for other listeners on the cable

	// probeWindow is how many of the last probes of a port are accepted.
	probeWindow = 3
)

// probeKind is what a probe looks for, and the subtype of its TLV.
type probeKind uint8

const (
	probeLink probeKind = 1 + iota
	probeSegment
	probeAlive            // answered by switches (alive.go)
	probeWhole            // as large as frames of hosts (whole.go)
	probeKinds = iota + 1 // and one that is none
)

// bridgedMulticast is a locally administered group address.
var bridgedMulticast = packet.MAC{0x03, 0x46, 0x4c, 0x00, 0x00, 0x01}

// probeOUI is a locally administered identifier.
var probeOUI = [3]byte{0x02, 0x46, 0x4c}

func (a *App) sign(kind probeKind, b []byte) []byte {
	m := hmac.New(sha256.New, a.key)
	m.Write([]byte("fairlead lldp v1"))
	if kind != probeLink {
		m.Write([]byte{byte(kind)})
	}
	m.Write(b)
	return m.Sum(nil)
}

// probeFrame is the next probe of a kind out of a port, to the address of its kind.
func (a *App) probeFrame(at topology.Place, p *prober, kind probeKind) []byte {
	switch kind {
	case probeSegment:
		return a.probeTo(bridgedMulticast, at, p, kind)
	case probeAlive:
		return a.probeTo(askMulticast, at, p, kind)
	}
	return a.probeTo(packet.LLDPMulticast, at, p, kind)
}

// probeTo is the next probe of a kind out of a port, to an address, with tags.
func (a *App) probeTo(dst packet.MAC, at topology.Place, p *prober, kind probeKind, tags ...packet.VLAN) []byte {
	p.seq[kind]++
	v := make([]byte, 0, probeLen)
	v = binary.BigEndian.AppendUint64(v, uint64(at.DPID))
	v = binary.BigEndian.AppendUint32(v, uint32(at.Port))
	v = append(v, p.nonce[:]...)
	v = binary.BigEndian.AppendUint64(v, p.seq[kind])
	v = append(v, a.sign(kind, v)...)
	b := packet.AppendEthernet(nil, packet.Ethernet{Dst: dst, Src: controller.ProbeMAC, Type: packet.EtherTypeLLDP}, tags...)
	return packet.AppendLLDP(b, packet.LLDP{
		ChassisSubtype: packet.ChassisLocal, ChassisID: []byte("dpid:" + at.DPID.String()),
		PortSubtype: packet.PortLocal, PortID: []byte(at.Port.String()),
		TTL:      probeTTL,
		Optional: packet.AppendOrganization(nil, probeOUI, uint8(kind), v),
	})
}

// verify returns the place that a probe of ours left from, its kind, and its number of that
// port and kind.
func (a *App) verify(l packet.LLDP) (from topology.Place, kind probeKind, seq uint64, ok bool) {
	var v []byte
	for kind = probeLink; kind < probeKinds; kind++ {
		if v, ok = l.Organization(probeOUI, uint8(kind)); ok {
			break
		}
	}
	if !ok || len(v) != probeLen || !hmac.Equal(v[probeFields:], a.sign(kind, v[:probeFields])) {
		return topology.Place{}, 0, 0, false
	}
	from = topology.Place{DPID: topology.DPID(binary.BigEndian.Uint64(v)), Port: topology.Port(binary.BigEndian.Uint32(v[8:]))}
	p := a.ports[from]
	seq = binary.BigEndian.Uint64(v[20:])
	if p == nil || [8]byte(v[12:20]) != p.nonce || seq > p.seq[kind] || seq+probeWindow <= p.seq[kind] {
		return topology.Place{}, 0, 0, false
	}
	return from, kind, seq, true
}
