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
// same to an address that they do.
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

func (a *App) probeFrame(at topology.Place, p *prober, kind probeKind) []byte {
	p.seq[kind]++
	v := make([]byte, 0, probeLen)
	v = binary.BigEndian.AppendUint64(v, uint64(at.DPID))
	v = binary.BigEndian.AppendUint32(v, uint32(at.Port))
	v = append(v, p.nonce[:]...)
	v = binary.BigEndian.AppendUint64(v, p.seq[kind])
	v = append(v, a.sign(kind, v)...)
	dst := packet.LLDPMulticast
	if kind == probeSegment {
		dst = bridgedMulticast
	}
	b := packet.AppendEthernet(nil, packet.Ethernet{Dst: dst, Src: controller.ProbeMAC, Type: packet.EtherTypeLLDP})
	return packet.AppendLLDP(b, packet.LLDP{
		ChassisSubtype: packet.ChassisLocal, ChassisID: []byte("dpid:" + at.DPID.String()),
		PortSubtype: packet.PortLocal, PortID: []byte(at.Port.String()),
		TTL:      probeTTL,
		Optional: packet.AppendOrganization(nil, probeOUI, uint8(kind), v),
	})
}

// verify returns the place that a probe of ours left from, and its kind.
func (a *App) verify(l packet.LLDP) (topology.Place, probeKind, bool) {
	kind := probeLink
	v, ok := l.Organization(probeOUI, uint8(kind))
	if !ok {
		kind = probeSegment
		v, ok = l.Organization(probeOUI, uint8(kind))
	}
	if !ok || len(v) != probeLen || !hmac.Equal(v[probeFields:], a.sign(kind, v[:probeFields])) {
		return topology.Place{}, 0, false
	}
	at := topology.Place{DPID: topology.DPID(binary.BigEndian.Uint64(v)), Port: topology.Port(binary.BigEndian.Uint32(v[8:]))}
	p := a.ports[at]
	seq := binary.BigEndian.Uint64(v[20:])
	if p == nil || [8]byte(v[12:20]) != p.nonce || seq > p.seq[kind] || seq+probeWindow <= p.seq[kind] {
		return topology.Place{}, 0, false
	}
	return at, kind, true
}
