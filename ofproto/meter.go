package ofproto

// MeterCommand is what a MeterMod does (§7.3.4.4).
type MeterCommand uint16

// Meter commands.
const (
	MeterAdd    MeterCommand = 0
	MeterModify MeterCommand = 1
	MeterDelete MeterCommand = 2
)

// Meter numbers with a meaning (§7.3.4.4, enum ofp_meter).
const (
	MeterMax        uint32 = 0xffff0000
	MeterSlowpath   uint32 = 0xfffffffd
	MeterController uint32 = 0xfffffffe
	MeterAll        uint32 = 0xffffffff
)

// Flags of a meter (§7.3.4.4, enum ofp_meter_flags).
const (
	MeterFlagKbps  uint16 = 1 << 0
	MeterFlagPktps uint16 = 1 << 1
	MeterFlagBurst uint16 = 1 << 2
	MeterFlagStats uint16 = 1 << 3
)

// MeterBandType is what a band does with packets over its rate (§7.3.4.4).
type MeterBandType uint16

// Band types.
const (
	BandDrop         MeterBandType = 1
	BandDSCPRemark   MeterBandType = 2
	BandExperimenter MeterBandType = 0xffff
)

// MeterMod adds, changes or deletes a meter (§7.3.4.4).
type MeterMod struct {
	Command MeterCommand
	Flags   uint16 // MeterFlag… bits
	Meter   uint32
	Bands   []MeterBand
}

// MeterBand is one rate of a meter (§7.3.4.4).
type MeterBand struct {
	Type      MeterBandType
	Rate      uint32 // kbit/s, or packets/s with MeterFlagPktps
	Burst     uint32 // kbit, or packets with MeterFlagPktps
	PrecLevel uint8  // BandDSCPRemark only: how many drop precedences to add
	Data      []byte // of other types than drop and DSCP remark: what follows the burst size
}

// MessageType implements Message.
func (*MeterMod) MessageType() MessageType { return TypeMeterMod }

func (m *MeterMod) appendBody(b []byte) []byte {
	b = be.AppendUint16(b, uint16(m.Command))
	b = be.AppendUint16(b, m.Flags)
	b = be.AppendUint32(b, m.Meter)
	return appendBands(b, m.Bands)
}

func (m *MeterMod) parse(b []byte) error {
	if err := atLeast("body", b, 8); err != nil {
		return err
	}
	bands, err := parseBands(b[8:])
	if err != nil {
		return within("body", 8, err)
	}
	*m = MeterMod{
		Command: MeterCommand(be.Uint16(b)), Flags: be.Uint16(b[2:]), Meter: be.Uint32(b[4:]), Bands: bands,
	}
	return nil
}

func appendBands(b []byte, bands []MeterBand) []byte {
	for i := range bands {
		d := &bands[i]
		start := len(b)
		b = be.AppendUint16(b, uint16(d.Type))
		b = pad(b, 2)
		b = be.AppendUint32(b, d.Rate)
		b = be.AppendUint32(b, d.Burst)
		switch d.Type {
		case BandDrop:
			b = pad(b, 4)
		case BandDSCPRemark:
			b = append(b, d.PrecLevel, 0, 0, 0)
		default:
			b = append(b, d.Data...)
			b = pad8(b, start)
		}
		b = setLen(b, start, 2)
	}
	return b
}

func parseBands(b []byte) ([]MeterBand, error) {
	n, err := count("bands", b, 2, 16, 8)
	if n == 0 || err != nil {
		return nil, err
	}
	bands := make([]MeterBand, 0, n)
	for off := 0; off < len(b); {
		e := b[off:][:be.Uint16(b[off+2:])]
		d := MeterBand{Type: MeterBandType(be.Uint16(e)), Rate: be.Uint32(e[4:]), Burst: be.Uint32(e[8:])}
		switch d.Type {
		case BandDrop, BandDSCPRemark:
			if len(e) != 16 {
				return nil, fail("bands", off+2, ErrLength)
			}
			if d.Type == BandDSCPRemark {
				d.PrecLevel = e[12]
			}
		default:
			d.Data = clip(e[12:])
		}
		bands = append(bands, d)
		off += len(e)
	}
	return bands, nil
}
