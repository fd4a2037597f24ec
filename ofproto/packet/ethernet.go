package packet

const (
	ethernetLen = 14
	tagLen      = 4
)

// Ethernet is the header of an Ethernet II frame (IEEE 802.3).
type Ethernet struct {
	Dst, Src MAC
	// Type is the EtherType behind the tags, or the length of an 802.3 frame.
	Type uint16
}

// VLAN is one tag (IEEE 802.1Q).
type VLAN struct {
	TPID uint16 // EtherTypeVLAN or EtherTypeQinQ; zero is written as EtherTypeVLAN
	ID   uint16 // 12 bits; 0 is a priority tag
	PCP  uint8  // 3 bits
	DEI  bool
}

// Tags returns the tags of a frame of a VLAN, 0 for an untagged one.
func Tags(vlan uint16) []VLAN {
	if vlan == 0 {
		return nil
	}
	return []VLAN{{ID: vlan}}
}

func isTag(t uint16) bool { return t == EtherTypeVLAN || t == EtherTypeQinQ }

// Ethernet returns the Ethernet header.
func (f *Frame) Ethernet() Ethernet {
	if len(f.data) < ethernetLen {
		return Ethernet{}
	}
	return Ethernet{Dst: MAC(f.data[0:6]), Src: MAC(f.data[6:12]), Type: f.etherType}
}

// VLAN returns the outermost tag.
func (f *Frame) VLAN() (VLAN, bool) {
	if f.tags == 0 {
		return VLAN{}, false
	}
	return f.tag(0), true
}

// Tags returns the tags, the outermost first, and how many there are.
func (f *Frame) Tags() (tags [MaxTags]VLAN, n int) {
	for i := range int(f.tags) {
		tags[i] = f.tag(i)
	}
	return tags, int(f.tags)
}

func (f *Frame) tag(i int) VLAN {
	b := f.data[12+i*tagLen:]
	tci := be.Uint16(b[2:])
	return VLAN{TPID: be.Uint16(b), ID: tci & 0x0fff, PCP: uint8(tci >> 13), DEI: tci&0x1000 != 0}
}

// AppendEthernet appends an Ethernet header with tags, the outermost first. It
// neither pads nor appends a frame check sequence.
func AppendEthernet(b []byte, e Ethernet, tags ...VLAN) []byte {
	b = append(b, e.Dst[:]...)
	b = append(b, e.Src[:]...)
	for _, t := range tags {
		tpid := t.TPID
		if tpid == 0 {
			tpid = EtherTypeVLAN
		}
		tci := uint16(t.PCP)<<13 | t.ID&0x0fff
		if t.DEI {
			tci |= 0x1000
		}
		b = be.AppendUint16(be.AppendUint16(b, tpid), tci)
	}
	return be.AppendUint16(b, e.Type)
}
