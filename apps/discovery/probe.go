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
// them. A frame that was made up, edited, or kept for later is told by it.
const (
	probeSubtype = 1
	probeFields  = 8 + 4 + 8 + 8 // dpid, port, nonce, sequence
	probeLen     = probeFields + sha256.Size
	probeTTL     = 15 // seconds, for other listeners on the cable

	// probeWindow is how many of the last probes of a port are accepted.
	probeWindow = 3
)

// probeOUI is a locally administered identifier.
var probeOUI = [3]byte{0x02, 0x46, 0x4c}

func (a *App) sign(b []byte) []byte {
	m := hmac.New(sha256.New, a.key)
	m.Write([]byte("fairlead lldp v1"))
	m.Write(b)
	return m.Sum(nil)
}

func (a *App) probeFrame(at topology.Place, p *prober) []byte {
	v := make([]byte, 0, probeLen)
	v = binary.BigEndian.AppendUint64(v, uint64(at.DPID))
	v = binary.BigEndian.AppendUint32(v, uint32(at.Port))
	v = append(v, p.nonce[:]...)
	v = binary.BigEndian.AppendUint64(v, p.seq)
	v = append(v, a.sign(v)...)
	b := packet.AppendEthernet(nil, packet.Ethernet{Dst: packet.LLDPMulticast, Src: controller.ProbeMAC, Type: packet.EtherTypeLLDP})
	return packet.AppendLLDP(b, packet.LLDP{
		ChassisSubtype: packet.ChassisLocal, ChassisID: []byte("dpid:" + at.DPID.String()),
		PortSubtype: packet.PortLocal, PortID: []byte(at.Port.String()),
		TTL:      probeTTL,
		Optional: packet.AppendOrganization(nil, probeOUI, probeSubtype, v),
	})
}

// verify returns the place that a probe of ours left from.
func (a *App) verify(l packet.LLDP) (topology.Place, bool) {
	v, ok := l.Organization(probeOUI, probeSubtype)
	if !ok || len(v) != probeLen || !hmac.Equal(v[probeFields:], a.sign(v[:probeFields])) {
		return topology.Place{}, false
	}
	at := topology.Place{DPID: topology.DPID(binary.BigEndian.Uint64(v)), Port: topology.Port(binary.BigEndian.Uint32(v[8:]))}
	p := a.ports[at]
	seq := binary.BigEndian.Uint64(v[20:])
	if p == nil || [8]byte(v[12:20]) != p.nonce || seq > p.seq || seq+probeWindow <= p.seq {
		return topology.Place{}, false
	}
	return at, true
}
