package ofproto

import (
	"fmt"
	"strings"
)

// Action is one thing done to a packet (§7.2.5). The implementations are values:
// the specification's in this file, Nicira's in nicira.go, RawAction for the rest.
type Action interface {
	appendTo(b []byte) []byte
	// String returns the action in the manner of ovs-ofctl.
	String() string
}

const (
	actOutput       = 0
	actCopyTTLOut   = 11
	actCopyTTLIn    = 12
	actSetMPLSTTL   = 15
	actDecMPLSTTL   = 16
	actPushVLAN     = 17
	actPopVLAN      = 18
	actPushMPLS     = 19
	actPopMPLS      = 20
	actSetQueue     = 21
	actGroup        = 22
	actSetNWTTL     = 23
	actDecNWTTL     = 24
	actSetField     = 25
	actPushPBB      = 26
	actPopPBB       = 27
	actExperimenter = 0xffff
)

// Output sends the packet out of a port. MaxLen counts for PortController only:
// how many bytes of the packet to send, MaxLenNoBuffer for all.
type Output struct {
	Port   Port
	MaxLen uint16
}

// OutputPort is an output to a port that is not the controller.
func OutputPort(p Port) Output { return Output{Port: p} }

// ToController is an output of the whole packet to the controller.
func ToController() Output { return Output{Port: PortController, MaxLen: MaxLenNoBuffer} }

// Group hands the packet to a group.
type Group struct{ ID GroupID }

// SetField sets a header field, which has no mask.
type SetField struct{ Field Field }

// PushVLAN adds a VLAN tag of a type, EthTypeVLAN or 0x88a8.
type PushVLAN struct{ EthType uint16 }

// PopVLAN removes the outermost VLAN tag.
type PopVLAN struct{}

// PushMPLS adds an MPLS header of a type, 0x8847 or 0x8848.
type PushMPLS struct{ EthType uint16 }

// PopMPLS removes the outermost MPLS header; EthType is that of what follows.
type PopMPLS struct{ EthType uint16 }

// PushPBB adds a PBB service tag of a type, 0x88e7.
type PushPBB struct{ EthType uint16 }

// PopPBB removes the outermost PBB service tag.
type PopPBB struct{}

// SetQueue chooses the queue of the output that follows.
type SetQueue struct{ Queue uint32 }

// SetMPLSTTL sets the MPLS TTL.
type SetMPLSTTL struct{ TTL uint8 }

// DecMPLSTTL decrements the MPLS TTL.
type DecMPLSTTL struct{}

// SetNWTTL sets the IP TTL.
type SetNWTTL struct{ TTL uint8 }

// DecNWTTL decrements the IP TTL.
type DecNWTTL struct{}

// CopyTTLOut copies the TTL from the next header outwards.
type CopyTTLOut struct{}

// CopyTTLIn copies the TTL to the next header inwards.
type CopyTTLIn struct{}

// RawAction is an action this package does not read, experimenters' included.
type RawAction struct {
	Type uint16
	Body []byte // what follows type and length; padded to 8 bytes with them when appended
}

func (a Output) appendTo(b []byte) []byte {
	b = append(b, 0, actOutput, 0, 16)
	b = be.AppendUint32(b, uint32(a.Port))
	b = be.AppendUint16(b, a.MaxLen)
	return pad(b, 6)
}

func append8(b []byte, typ byte) []byte { return append(b, 0, typ, 0, 8, 0, 0, 0, 0) }

func append8u8(b []byte, typ byte, v uint8) []byte { return append(b, 0, typ, 0, 8, v, 0, 0, 0) }

func append8u16(b []byte, typ byte, v uint16) []byte {
	return append(b, 0, typ, 0, 8, byte(v>>8), byte(v), 0, 0)
}

func append8u32(b []byte, typ byte, v uint32) []byte {
	return be.AppendUint32(append(b, 0, typ, 0, 8), v)
}

func (a Group) appendTo(b []byte) []byte      { return append8u32(b, actGroup, uint32(a.ID)) }
func (a PushVLAN) appendTo(b []byte) []byte   { return append8u16(b, actPushVLAN, a.EthType) }
func (a PopVLAN) appendTo(b []byte) []byte    { return append8(b, actPopVLAN) }
func (a PushMPLS) appendTo(b []byte) []byte   { return append8u16(b, actPushMPLS, a.EthType) }
func (a PopMPLS) appendTo(b []byte) []byte    { return append8u16(b, actPopMPLS, a.EthType) }
func (a PushPBB) appendTo(b []byte) []byte    { return append8u16(b, actPushPBB, a.EthType) }
func (a PopPBB) appendTo(b []byte) []byte     { return append8(b, actPopPBB) }
func (a SetQueue) appendTo(b []byte) []byte   { return append8u32(b, actSetQueue, a.Queue) }
func (a SetMPLSTTL) appendTo(b []byte) []byte { return append8u8(b, actSetMPLSTTL, a.TTL) }
func (a DecMPLSTTL) appendTo(b []byte) []byte { return append8(b, actDecMPLSTTL) }
func (a SetNWTTL) appendTo(b []byte) []byte   { return append8u8(b, actSetNWTTL, a.TTL) }
func (a DecNWTTL) appendTo(b []byte) []byte   { return append8(b, actDecNWTTL) }
func (a CopyTTLOut) appendTo(b []byte) []byte { return append8(b, actCopyTTLOut) }
func (a CopyTTLIn) appendTo(b []byte) []byte  { return append8(b, actCopyTTLIn) }
func (a RawAction) appendTo(b []byte) []byte  { return appendRaw(b, a.Type, a.Body) }

func (a SetField) appendTo(b []byte) []byte {
	start := len(b)
	b = append(b, 0, actSetField, 0, 0)
	b = a.Field.appendTo(b)
	b = pad8(b, start)
	return setLen(b, start, 2)
}

// appendRaw appends a body with type and length before it and padding after it.
func appendRaw(b []byte, typ uint16, body []byte) []byte {
	start := len(b)
	b = be.AppendUint16(b, typ)
	b = pad(b, 2)
	b = append(b, body...)
	if len(body) == 0 { // 8 bytes is the shortest there is
		b = pad(b, 4)
	}
	b = pad8(b, start)
	return setLen(b, start, 2)
}

// String implements Action.
func (a Output) String() string {
	if a.Port == PortController {
		return fmt.Sprintf("CONTROLLER:%d", a.MaxLen)
	}
	return "output:" + a.Port.String()
}

// String implements Action.
func (a Group) String() string { return fmt.Sprintf("group:%d", a.ID) }

// String implements Action.
func (a SetField) String() string {
	return "set_field:" + a.Field.text() + "->" + a.Field.name()
}

// String implements Action.
func (a PushVLAN) String() string { return fmt.Sprintf("push_vlan:0x%04x", a.EthType) }

// String implements Action.
func (a PopVLAN) String() string { return "pop_vlan" }

// String implements Action.
func (a PushMPLS) String() string { return fmt.Sprintf("push_mpls:0x%04x", a.EthType) }

// String implements Action.
func (a PopMPLS) String() string { return fmt.Sprintf("pop_mpls:0x%04x", a.EthType) }

// String implements Action.
func (a PushPBB) String() string { return fmt.Sprintf("push_pbb:0x%04x", a.EthType) }

// String implements Action.
func (a PopPBB) String() string { return "pop_pbb" }

// String implements Action.
func (a SetQueue) String() string { return fmt.Sprintf("set_queue:%d", a.Queue) }

// String implements Action.
func (a SetMPLSTTL) String() string { return fmt.Sprintf("set_mpls_ttl(%d)", a.TTL) }

// String implements Action.
func (a DecMPLSTTL) String() string { return "dec_mpls_ttl" }

// String implements Action.
func (a SetNWTTL) String() string { return fmt.Sprintf("mod_nw_ttl:%d", a.TTL) }

// String implements Action.
func (a DecNWTTL) String() string { return "dec_ttl" }

// String implements Action.
func (a CopyTTLOut) String() string { return "copy_ttl_out" }

// String implements Action.
func (a CopyTTLIn) String() string { return "copy_ttl_in" }

// String implements Action.
func (a RawAction) String() string { return fmt.Sprintf("action(%#x,%x)", a.Type, a.Body) }

// FormatActions returns the actions separated by commas, "drop" for none.
func FormatActions(actions []Action) string {
	if len(actions) == 0 {
		return "drop"
	}
	var s strings.Builder
	for i, a := range actions {
		if i > 0 {
			s.WriteByte(',')
		}
		s.WriteString(a.String())
	}
	return s.String()
}

func appendActions(b []byte, list []Action) []byte {
	for _, a := range list {
		b = a.appendTo(b)
	}
	return b
}

// AppendActions appends the actions as they stand on the wire: a key by which
// lists of actions can be compared.
func AppendActions(b []byte, list []Action) []byte { return appendActions(b, list) }

// AppendInstructions appends the instructions as they stand on the wire: a key by
// which lists of instructions can be compared.
func AppendInstructions(b []byte, list []Instruction) []byte { return appendInstructions(b, list) }

// ParseActions reads a list of actions, which alias b.
func ParseActions(b []byte) ([]Action, error) { return parseActions(b) }

// ParseInstructions reads a list of instructions, which alias b.
func ParseInstructions(b []byte) ([]Instruction, error) { return parseInstructions(b) }

func parseActions(b []byte) ([]Action, error) { return parseActionList(b, parseAction) }

func parseActionList(b []byte, parse func([]byte) (Action, error)) ([]Action, error) {
	n, err := count("actions", b, 2, 8, 8)
	if n == 0 || err != nil {
		return nil, err
	}
	list := make([]Action, 0, n)
	for off := 0; off < len(b); {
		e := b[off:][:be.Uint16(b[off+2:])]
		a, err := parse(e)
		if err != nil {
			return nil, within("actions", off, err)
		}
		list = append(list, a)
		off += len(e)
	}
	return list, nil
}

// parseAction reads one action, b being all of it and at least 8 bytes.
func parseAction(b []byte) (Action, error) {
	typ := be.Uint16(b)
	switch typ {
	case actOutput:
		if err := exactly("output", b, 16); err != nil {
			return nil, err
		}
		return Output{Port: Port(be.Uint32(b[4:])), MaxLen: be.Uint16(b[8:])}, nil
	case actSetField:
		return parseSetField(b)
	case actExperimenter:
		return parseExperimenterAction(b)
	}
	var a Action
	switch typ {
	case actCopyTTLOut:
		a = CopyTTLOut{}
	case actCopyTTLIn:
		a = CopyTTLIn{}
	case actSetMPLSTTL:
		a = SetMPLSTTL{TTL: b[4]}
	case actDecMPLSTTL:
		a = DecMPLSTTL{}
	case actPushVLAN:
		a = PushVLAN{EthType: be.Uint16(b[4:])}
	case actPopVLAN:
		a = PopVLAN{}
	case actPushMPLS:
		a = PushMPLS{EthType: be.Uint16(b[4:])}
	case actPopMPLS:
		a = PopMPLS{EthType: be.Uint16(b[4:])}
	case actSetQueue:
		a = SetQueue{Queue: be.Uint32(b[4:])}
	case actGroup:
		a = Group{ID: GroupID(be.Uint32(b[4:]))}
	case actSetNWTTL:
		a = SetNWTTL{TTL: b[4]}
	case actDecNWTTL:
		a = DecNWTTL{}
	case actPushPBB:
		a = PushPBB{EthType: be.Uint16(b[4:])}
	case actPopPBB:
		a = PopPBB{}
	default:
		return RawAction{Type: typ, Body: clip(b[4:])}, nil
	}
	return a, exactly("action", b, 8)
}

func parseSetField(b []byte) (Action, error) {
	f, n, err := parseField(b[4:])
	if err != nil {
		return nil, within("set_field", 4, err)
	}
	if f.Mask != nil { // not in this version
		return nil, fail("set_field", 6, ErrValue)
	}
	if roundUp8(4+n) != len(b) {
		return nil, fail("set_field", 2, ErrLength)
	}
	return SetField{Field: f}, nil
}
