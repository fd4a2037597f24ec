package packet

import "net/netip"

const arpLen = 28

// ARP operations (RFC 826).
const (
	ARPRequest uint16 = 1
	ARPReply   uint16 = 2
)

// ARP is an ARP message for IPv4 over Ethernet (RFC 826). Others are refused.
type ARP struct {
	Op  uint16
	SHA MAC        // sender's Ethernet address
	SPA netip.Addr // sender's IPv4 address
	THA MAC        // target's Ethernet address
	TPA netip.Addr // target's IPv4 address
}

func (f *Frame) decodeARP() error {
	b := f.data[f.l3:]
	if len(b) < 8 {
		return fail("arp", len(f.data), ErrTruncated)
	}
	if be.Uint16(b) != 1 || be.Uint16(b[2:]) != EtherTypeIPv4 {
		return fail("arp", f.l3, ErrValue)
	}
	if b[4] != 6 || b[5] != 4 {
		return fail("arp", f.l3+4, ErrLength)
	}
	if len(b) < arpLen {
		return fail("arp", len(f.data), ErrTruncated)
	}
	f.layers |= layerARP
	f.end = f.l3 + arpLen
	f.payload = f.end
	return nil
}

// ARP returns the ARP message of the frame.
func (f *Frame) ARP() (ARP, bool) {
	if f.layers&layerARP == 0 {
		return ARP{}, false
	}
	b := f.data[f.l3:]
	return ARP{
		Op:  be.Uint16(b[6:]),
		SHA: MAC(b[8:14]), SPA: addr4(b[14:]),
		THA: MAC(b[18:24]), TPA: addr4(b[24:]),
	}, true
}

// AppendARP appends an ARP message without an Ethernet header. Addresses that are
// not IPv4 are written as 0.0.0.0.
func AppendARP(b []byte, a ARP) []byte {
	b = append(b, 0, 1, 0x08, 0, 6, 4)
	b = be.AppendUint16(b, a.Op)
	b = append(b, a.SHA[:]...)
	b = append4(b, a.SPA)
	b = append(b, a.THA[:]...)
	return append4(b, a.TPA)
}

// append4 appends an IPv4 address.
func append4(b []byte, a netip.Addr) []byte {
	var v [4]byte
	if a.Is4() || a.Is4In6() {
		v = a.As4()
	}
	return append(b, v[:]...)
}

// append16 appends an IPv6 address.
func append16(b []byte, a netip.Addr) []byte {
	var v [16]byte
	if a.IsValid() {
		v = a.As16()
	}
	return append(b, v[:]...)
}
