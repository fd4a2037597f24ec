package ofproto

// FlowCommand is what a FlowMod does (§7.3.4.1).
type FlowCommand uint8

// Flow commands.
const (
	FlowAdd          FlowCommand = 0
	FlowModify       FlowCommand = 1 // all flows the match covers
	FlowModifyStrict FlowCommand = 2 // the flow of exactly this match and priority
	FlowDelete       FlowCommand = 3
	FlowDeleteStrict FlowCommand = 4
)

// Flags of a flow (§7.3.4.1, enum ofp_flow_mod_flags).
const (
	FlagSendFlowRem  uint16 = 1 << 0
	FlagCheckOverlap uint16 = 1 << 1
	FlagResetCounts  uint16 = 1 << 2
	FlagNoPktCounts  uint16 = 1 << 3
	FlagNoByteCounts uint16 = 1 << 4
)

// FlowMod adds, changes or deletes flows (§7.3.4.1). Every field is encoded as it
// stands: a delete that is not to be narrowed needs OutPort PortAny and OutGroup
// GroupAny, and a flow-mod without a buffered packet needs BufferID NoBuffer.
type FlowMod struct {
	Cookie, CookieMask uint64 // the mask restricts modify and delete only
	Table              Table  // TableAll for a delete in all tables
	Command            FlowCommand
	IdleTimeout        uint16 // seconds, 0 for never
	HardTimeout        uint16 // seconds, 0 for never
	Priority           uint16
	BufferID           uint32
	OutPort            Port    // restricts a delete
	OutGroup           GroupID // restricts a delete
	Flags              uint16  // Flag… bits
	Match              Match
	Instructions       []Instruction
	// RawInstructions are more of them, behind the others, as they stand on the wire
	// (AppendInstructions): for who has them at hand. Parse leaves it nil.
	RawInstructions []byte
}

// MessageType implements Message.
func (*FlowMod) MessageType() MessageType { return TypeFlowMod }

func (m *FlowMod) appendBody(b []byte) []byte {
	b = be.AppendUint64(b, m.Cookie)
	b = be.AppendUint64(b, m.CookieMask)
	b = append(b, byte(m.Table), byte(m.Command))
	b = be.AppendUint16(b, m.IdleTimeout)
	b = be.AppendUint16(b, m.HardTimeout)
	b = be.AppendUint16(b, m.Priority)
	b = be.AppendUint32(b, m.BufferID)
	b = be.AppendUint32(b, uint32(m.OutPort))
	b = be.AppendUint32(b, uint32(m.OutGroup))
	b = be.AppendUint16(b, m.Flags)
	b = pad(b, 2)
	b = appendMatch(b, m.Match)
	b = appendInstructions(b, m.Instructions)
	return append(b, m.RawInstructions...)
}

func (m *FlowMod) parse(b []byte) error {
	if err := atLeast("body", b, 40); err != nil {
		return err
	}
	match, n, err := parseMatch(b[40:])
	if err != nil {
		return within("body", 40, err)
	}
	instructions, err := parseInstructions(b[40+n:])
	if err != nil {
		return within("body", 40+n, err)
	}
	*m = FlowMod{
		Cookie: be.Uint64(b), CookieMask: be.Uint64(b[8:]), Table: Table(b[16]), Command: FlowCommand(b[17]),
		IdleTimeout: be.Uint16(b[18:]), HardTimeout: be.Uint16(b[20:]), Priority: be.Uint16(b[22:]),
		BufferID: be.Uint32(b[24:]), OutPort: Port(be.Uint32(b[28:])), OutGroup: GroupID(be.Uint32(b[32:])),
		Flags: be.Uint16(b[36:]), Match: match, Instructions: instructions,
	}
	return nil
}

// Why a flow is gone (§7.4.2, enum ofp_flow_removed_reason).
const (
	RemovedIdleTimeout uint8 = 0
	RemovedHardTimeout uint8 = 1
	RemovedDelete      uint8 = 2
	RemovedGroupDelete uint8 = 3
)

// FlowRemoved tells that a flow with FlagSendFlowRem is gone (§7.4.2).
type FlowRemoved struct {
	Cookie       uint64
	Priority     uint16
	Reason       uint8 // Removed…
	Table        Table
	DurationSec  uint32 // how long the flow was there
	DurationNsec uint32 // beyond DurationSec
	IdleTimeout  uint16 // seconds
	HardTimeout  uint16 // seconds
	Packets      uint64 // all ones where not counted
	Bytes        uint64 // all ones where not counted
	Match        Match
}

// MessageType implements Message.
func (*FlowRemoved) MessageType() MessageType { return TypeFlowRemoved }

func (m *FlowRemoved) appendBody(b []byte) []byte {
	b = be.AppendUint64(b, m.Cookie)
	b = be.AppendUint16(b, m.Priority)
	b = append(b, m.Reason, byte(m.Table))
	b = be.AppendUint32(b, m.DurationSec)
	b = be.AppendUint32(b, m.DurationNsec)
	b = be.AppendUint16(b, m.IdleTimeout)
	b = be.AppendUint16(b, m.HardTimeout)
	b = be.AppendUint64(b, m.Packets)
	b = be.AppendUint64(b, m.Bytes)
	return appendMatch(b, m.Match)
}

func (m *FlowRemoved) parse(b []byte) error {
	if err := atLeast("body", b, 40); err != nil {
		return err
	}
	match, n, err := parseMatch(b[40:])
	if err != nil {
		return within("body", 40, err)
	}
	if err := exactly("body", b, 40+n); err != nil {
		return err
	}
	*m = FlowRemoved{
		Cookie: be.Uint64(b), Priority: be.Uint16(b[8:]), Reason: b[10], Table: Table(b[11]),
		DurationSec: be.Uint32(b[12:]), DurationNsec: be.Uint32(b[16:]), IdleTimeout: be.Uint16(b[20:]),
		HardTimeout: be.Uint16(b[22:]), Packets: be.Uint64(b[24:]), Bytes: be.Uint64(b[32:]), Match: match,
	}
	return nil
}
