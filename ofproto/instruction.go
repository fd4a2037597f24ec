package ofproto

import "fmt"

// Instruction is what a flow does with the packets it matches (§7.2.4). The
// implementations are values: GotoTable, WriteMetadata, WriteActions,
// ApplyActions, ClearActions, Meter and RawInstruction.
type Instruction interface {
	appendTo(b []byte) []byte
	// String returns the instruction in the manner of ovs-ofctl.
	String() string
}

const (
	instGotoTable     = 1
	instWriteMetadata = 2
	instWriteActions  = 3
	instApplyActions  = 4
	instClearActions  = 5
	instMeter         = 6
)

// GotoTable continues in a later table.
type GotoTable struct{ Table Table }

// WriteMetadata changes the bits of the metadata that Mask has.
type WriteMetadata struct{ Metadata, Mask uint64 }

// WriteActions merges actions into the packet's action set.
type WriteActions struct{ Actions []Action }

// ApplyActions executes actions at once, in order.
type ApplyActions struct{ Actions []Action }

// ClearActions empties the packet's action set.
type ClearActions struct{}

// Meter sends the packet through a meter first.
type Meter struct{ ID uint32 }

// RawInstruction is an instruction this package does not read, experimenters' included.
type RawInstruction struct {
	Type uint16
	Body []byte // what follows type and length; padded to 8 bytes with them when appended
}

func (i GotoTable) appendTo(b []byte) []byte {
	return append(b, 0, instGotoTable, 0, 8, byte(i.Table), 0, 0, 0)
}

func (i WriteMetadata) appendTo(b []byte) []byte {
	b = append(b, 0, instWriteMetadata, 0, 24, 0, 0, 0, 0)
	b = be.AppendUint64(b, i.Metadata)
	return be.AppendUint64(b, i.Mask)
}

func appendActionsInstruction(b []byte, typ byte, actions []Action) []byte {
	start := len(b)
	b = append(b, 0, typ, 0, 0, 0, 0, 0, 0)
	b = appendActions(b, actions)
	return setLen(b, start, 2)
}

func (i WriteActions) appendTo(b []byte) []byte {
	return appendActionsInstruction(b, instWriteActions, i.Actions)
}

func (i ApplyActions) appendTo(b []byte) []byte {
	return appendActionsInstruction(b, instApplyActions, i.Actions)
}

func (i ClearActions) appendTo(b []byte) []byte {
	return append(b, 0, instClearActions, 0, 8, 0, 0, 0, 0)
}

func (i Meter) appendTo(b []byte) []byte {
	b = append(b, 0, instMeter, 0, 8)
	return be.AppendUint32(b, i.ID)
}

func (i RawInstruction) appendTo(b []byte) []byte { return appendRaw(b, i.Type, i.Body) }

// String implements Instruction.
func (i GotoTable) String() string { return fmt.Sprintf("goto_table:%d", i.Table) }

// String implements Instruction.
func (i WriteMetadata) String() string {
	if i.Mask == 1<<64-1 {
		return fmt.Sprintf("write_metadata:%#x", i.Metadata)
	}
	return fmt.Sprintf("write_metadata:%#x/%#x", i.Metadata, i.Mask)
}

// String implements Instruction.
func (i WriteActions) String() string { return "write_actions(" + FormatActions(i.Actions) + ")" }

// String implements Instruction.
func (i ApplyActions) String() string { return "apply_actions(" + FormatActions(i.Actions) + ")" }

// String implements Instruction.
func (i ClearActions) String() string { return "clear_actions" }

// String implements Instruction.
func (i Meter) String() string { return fmt.Sprintf("meter:%d", i.ID) }

// String implements Instruction.
func (i RawInstruction) String() string { return fmt.Sprintf("instruction(%#x,%x)", i.Type, i.Body) }

func appendInstructions(b []byte, list []Instruction) []byte {
	for _, i := range list {
		b = i.appendTo(b)
	}
	return b
}

func parseInstructions(b []byte) ([]Instruction, error) {
	n, err := count("instructions", b, 2, 8, 8)
	if n == 0 || err != nil {
		return nil, err
	}
	list := make([]Instruction, 0, n)
	for off := 0; off < len(b); {
		e := b[off:][:be.Uint16(b[off+2:])]
		i, err := parseInstruction(e)
		if err != nil {
			return nil, within("instructions", off, err)
		}
		list = append(list, i)
		off += len(e)
	}
	return list, nil
}

// parseInstruction reads one instruction of at least 8 bytes.
func parseInstruction(b []byte) (Instruction, error) {
	switch typ := be.Uint16(b); typ {
	case instGotoTable:
		return GotoTable{Table: Table(b[4])}, exactly("goto_table", b, 8)
	case instWriteMetadata:
		if err := exactly("write_metadata", b, 24); err != nil {
			return nil, err
		}
		return WriteMetadata{Metadata: be.Uint64(b[8:]), Mask: be.Uint64(b[16:])}, nil
	case instWriteActions, instApplyActions:
		actions, err := parseActions(b[8:])
		if err != nil {
			return nil, within("actions", 8, err)
		}
		if typ == instWriteActions {
			return WriteActions{Actions: actions}, nil
		}
		return ApplyActions{Actions: actions}, nil
	case instClearActions:
		return ClearActions{}, exactly("clear_actions", b, 8)
	case instMeter:
		return Meter{ID: be.Uint32(b[4:])}, exactly("meter", b, 8)
	default:
		return RawInstruction{Type: typ, Body: clip(b[4:])}, nil
	}
}
