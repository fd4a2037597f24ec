package ofproto

// Why a packet came to the controller (§7.4.1, enum ofp_packet_in_reason).
const (
	ReasonNoMatch    uint8 = 0 // the table-miss flow
	ReasonAction     uint8 = 1 // an output to the controller
	ReasonInvalidTTL uint8 = 2
)

// PacketIn is a packet that a switch hands to the controller (§7.4.1).
type PacketIn struct {
	BufferID uint32 // NoBuffer when Data is the whole packet
	TotalLen uint16 // bytes of the packet, of which Data may be only the first
	Reason   uint8  // Reason…
	Table    Table  // where the flow was that sent it
	Cookie   uint64 // of that flow; all ones where there is none
	Match    Match  // the pipeline fields of the packet, in_port among them
	Data     []byte // the Ethernet frame; aliases the message
}

// MessageType implements Message.
func (*PacketIn) MessageType() MessageType { return TypePacketIn }

// InPort is the port the packet came in on; ok is false where the match has none.
func (m *PacketIn) InPort() (port Port, ok bool) { return m.Match.InPort() }

func (m *PacketIn) appendBody(b []byte) []byte {
	b = be.AppendUint32(b, m.BufferID)
	b = be.AppendUint16(b, m.TotalLen)
	b = append(b, m.Reason, byte(m.Table))
	b = be.AppendUint64(b, m.Cookie)
	b = appendMatch(b, m.Match)
	b = pad(b, 2)
	return append(b, m.Data...)
}

func (m *PacketIn) parse(b []byte) error {
	if err := atLeast("body", b, 16); err != nil {
		return err
	}
	match, n, err := parseMatch(b[16:])
	if err != nil {
		return within("body", 16, err)
	}
	n += 16
	if err := atLeast("body", b, n+2); err != nil {
		return err
	}
	*m = PacketIn{
		BufferID: be.Uint32(b), TotalLen: be.Uint16(b[4:]), Reason: b[6], Table: Table(b[7]),
		Cookie: be.Uint64(b[8:]), Match: match, Data: clip(b[n+2:]),
	}
	return nil
}

// PacketOut makes a switch send a packet (§7.3.7).
type PacketOut struct {
	BufferID uint32 // of a PacketIn, or NoBuffer with the packet in Data
	InPort   Port   // what the packet is taken to have come in on; PortController where it came from nowhere
	Actions  []Action
	Data     []byte
}

// MessageType implements Message.
func (*PacketOut) MessageType() MessageType { return TypePacketOut }

func (m *PacketOut) appendBody(b []byte) []byte {
	b = be.AppendUint32(b, m.BufferID)
	b = be.AppendUint32(b, uint32(m.InPort))
	lenAt := len(b)
	b = pad(b, 8)
	start := len(b)
	b = appendActions(b, m.Actions)
	be.PutUint16(b[lenAt:], uint16(len(b)-start))
	return append(b, m.Data...)
}

func (m *PacketOut) parse(b []byte) error {
	if err := atLeast("body", b, 16); err != nil {
		return err
	}
	list, err := cut("actions", b[16:], int(be.Uint16(b[8:])), 0, 0)
	if err != nil {
		return within("body", 8, err)
	}
	actions, err := parseActions(list)
	if err != nil {
		return within("body", 16, err)
	}
	*m = PacketOut{
		BufferID: be.Uint32(b), InPort: Port(be.Uint32(b[4:])), Actions: actions,
		Data: clip(b[16+len(list):]),
	}
	return nil
}
