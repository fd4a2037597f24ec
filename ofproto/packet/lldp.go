package packet

import "iter"

// LLDPMulticast is the address LLDP is sent to; bridges do not forward it (IEEE
// 802.1AB §7.1).
var LLDPMulticast = MAC{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e}

// Types of TLVs (IEEE 802.1AB table 8-1).
const (
	TLVEnd             uint8 = 0
	TLVChassisID       uint8 = 1
	TLVPortID          uint8 = 2
	TLVTTL             uint8 = 3
	TLVPortDescription uint8 = 4
	TLVSystemName      uint8 = 5
	TLVOrganization    uint8 = 127
)

// Subtypes of chassis and port ids (IEEE 802.1AB tables 8-2 and 8-3); the others of
// 1 … 7 are good too.
const (
	ChassisMAC   uint8 = 4
	ChassisLocal uint8 = 7
	PortMAC      uint8 = 3
	PortLocal    uint8 = 7
)

// maxTLV is the largest value the 9-bit length of a TLV can carry.
const maxTLV = 511

// LLDP is the data unit of the Link Layer Discovery Protocol (IEEE 802.1AB §8). The
// slices alias the frame.
type LLDP struct {
	ChassisSubtype uint8
	ChassisID      []byte // 1 … 255 bytes
	PortSubtype    uint8
	PortID         []byte // 1 … 255 bytes
	TTL            uint16 // seconds
	// Optional holds the TLVs behind the TTL as they stand, without the End.
	Optional []byte
}

// TLV is one element of LLDP.
type TLV struct {
	Type  uint8 // 7 bits
	Value []byte
}

// ParseLLDP reads what follows the Ethernet header of an LLDP frame. It is strict:
// the three mandatory TLVs first, in order and once, every TLV inside the data, an
// End of length zero, at most MaxTLVs before it, ids with a subtype the standard
// knows, organisationally specific TLVs with their OUI and subtype. What follows the
// End is padding. Errors are *ParseError.
func ParseLLDP(b []byte) (LLDP, error) {
	var l LLDP
	start := 0
	for at, n := 0, 0; ; n++ {
		if len(b)-at < 2 {
			return LLDP{}, fail("lldp", len(b), ErrTruncated) // the End is missing
		}
		head := be.Uint16(b[at:])
		typ, size := uint8(head>>9), int(head&maxTLV)
		if size > len(b)-at-2 {
			return LLDP{}, fail("lldp", at, ErrTruncated)
		}
		v := b[at+2 : at+2+size]
		if typ == TLVEnd {
			if size != 0 {
				return LLDP{}, fail("lldp", at, ErrLength)
			}
			if n < 3 {
				return LLDP{}, fail("lldp", at, ErrValue)
			}
			l.Optional = b[start:at]
			return l, nil
		}
		if n == MaxTLVs {
			return LLDP{}, fail("lldp", at, ErrTooMany)
		}
		// The first three are 1, 2, 3; none of these comes again.
		if n < 3 && typ != uint8(n)+1 || n >= 3 && typ <= TLVTTL {
			return LLDP{}, fail("lldp", at, ErrValue)
		}
		switch typ {
		case TLVChassisID, TLVPortID:
			if size < 2 || size > 256 {
				return LLDP{}, fail("lldp", at, ErrLength)
			}
			if v[0] == 0 || v[0] > 7 {
				return LLDP{}, fail("lldp", at+2, ErrValue)
			}
			if typ == TLVChassisID {
				l.ChassisSubtype, l.ChassisID = v[0], v[1:]
			} else {
				l.PortSubtype, l.PortID = v[0], v[1:]
			}
		case TLVTTL:
			if size != 2 {
				return LLDP{}, fail("lldp", at, ErrLength)
			}
			l.TTL = be.Uint16(v)
			start = at + 4
		case TLVOrganization:
			if size < 4 {
				return LLDP{}, fail("lldp", at, ErrLength)
			}
		}
		at += 2 + size
	}
}

// LLDP returns the LLDP data unit of the frame.
func (f *Frame) LLDP() (LLDP, bool) {
	if f.layers&layerLLDP == 0 {
		return LLDP{}, false
	}
	l, err := ParseLLDP(f.data[f.l3:])
	return l, err == nil
}

// All yields the optional TLVs in order.
func (l LLDP) All() iter.Seq[TLV] {
	return func(yield func(TLV) bool) {
		for b := l.Optional; len(b) >= 2; {
			head := be.Uint16(b)
			size := 2 + int(head&maxTLV)
			if size > len(b) || !yield(TLV{Type: uint8(head >> 9), Value: b[2:size]}) {
				return
			}
			b = b[size:]
		}
	}
}

// Organization returns the value of the first organisationally specific TLV of this
// OUI and subtype, without them.
func (l LLDP) Organization(oui [3]byte, subtype uint8) ([]byte, bool) {
	for t := range l.All() {
		if t.Type == TLVOrganization && len(t.Value) >= 4 && [3]byte(t.Value) == oui && t.Value[3] == subtype {
			return t.Value[4:], true
		}
	}
	return nil, false
}

// AppendLLDP appends a data unit with its End, without an Ethernet header. Ids are
// cut at 255 bytes.
func AppendLLDP(b []byte, l LLDP) []byte {
	b = appendID(b, TLVChassisID, l.ChassisSubtype, l.ChassisID)
	b = appendID(b, TLVPortID, l.PortSubtype, l.PortID)
	b = be.AppendUint16(b, uint16(TLVTTL)<<9|2)
	b = be.AppendUint16(b, l.TTL)
	b = append(b, l.Optional...)
	return append(b, 0, 0)
}

func appendID(b []byte, typ, subtype uint8, id []byte) []byte {
	id = id[:min(len(id), 255)]
	b = be.AppendUint16(b, uint16(typ)<<9|uint16(1+len(id)))
	return append(append(b, subtype), id...)
}

// AppendTLV appends one TLV, as for LLDP.Optional. A value over 511 bytes is cut.
func AppendTLV(b []byte, t TLV) []byte {
	v := t.Value[:min(len(t.Value), maxTLV)]
	b = be.AppendUint16(b, uint16(t.Type)<<9|uint16(len(v)))
	return append(b, v...)
}

// AppendOrganization appends an organisationally specific TLV (IEEE 802.1AB §8.6). A
// value over 507 bytes is cut.
func AppendOrganization(b []byte, oui [3]byte, subtype uint8, value []byte) []byte {
	value = value[:min(len(value), maxTLV-4)]
	b = be.AppendUint16(b, uint16(TLVOrganization)<<9|uint16(4+len(value)))
	b = append(b, oui[0], oui[1], oui[2], subtype)
	return append(b, value...)
}
