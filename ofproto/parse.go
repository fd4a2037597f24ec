package ofproto

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// What a ParseError wraps.
var (
	// ErrTruncated says that the bytes end before the structure they announce.
	ErrTruncated = errors.New("truncated")
	// ErrLength says that a length field is impossible: shorter than the structure,
	// longer than what holds it, or not a multiple of what it has to be.
	ErrLength = errors.New("bad length")
	// ErrValue says that a field holds a value its structure does not allow.
	ErrValue = errors.New("bad value")
	// ErrVersion says that a message other than HELLO and ERROR is of another version.
	ErrVersion = errors.New("unsupported version")
	// ErrTooLong says that a message does not fit MaxMessageLen.
	ErrTooLong = errors.New("message too long")
)

// ParseError says where and why bytes are not OpenFlow.
type ParseError struct {
	Op     string // what was being read, outermost first: "flow_mod: actions"
	Offset int    // in bytes from the start of what was handed in
	Err    error  // ErrTruncated, ErrLength, ErrValue or ErrVersion
}

// Error implements error.
func (e *ParseError) Error() string {
	return fmt.Sprintf("ofproto: parse %s: offset %d: %v", e.Op, e.Offset, e.Err)
}

// Unwrap returns Err.
func (e *ParseError) Unwrap() error { return e.Err }

func fail(op string, offset int, err error) error {
	return &ParseError{Op: op, Offset: offset, Err: err}
}

// within places an error of an inner structure, which starts at base, into the
// structure op around it.
func within(op string, base int, err error) error {
	if e, ok := err.(*ParseError); ok {
		e.Op = op + ": " + e.Op
		e.Offset += base
	}
	return err
}

// be reads and appends in network byte order, which is that of every OpenFlow field.
var be = binary.BigEndian

var zeros [64]byte

// pad appends n zero bytes, n at most 64.
func pad(b []byte, n int) []byte { return append(b, zeros[:n]...) }

// pad8 appends zeros until the bytes from start on are a multiple of 8.
func pad8(b []byte, start int) []byte { return pad(b, -(len(b)-start)&7) }

// roundUp8 is the next multiple of 8.
func roundUp8(n int) int { return (n + 7) &^ 7 }

// setLen writes the length of what stands from start on into the 16 bits at offset at of it.
func setLen(b []byte, start, at int) []byte {
	be.PutUint16(b[start+at:], uint16(len(b)-start))
	return b
}

// clip cuts the capacity too, so that a caller who appends does not write into
// the frame; nothing at all becomes nil, so that values compare.
func clip(b []byte) []byte {
	if len(b) == 0 {
		return nil
	}
	return b[:len(b):len(b)]
}

// cString is the text of a fixed field up to its first zero byte.
func cString(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// appendCString appends s in a fixed field of n bytes, cut where it does not fit.
func appendCString(b []byte, s string, n int) []byte {
	if len(s) > n {
		s = s[:n]
	}
	b = append(b, s...)
	for i := len(s); i < n; i++ {
		b = append(b, 0)
	}
	return b
}

// ParseHeader reads the 8 bytes every message begins with (§7.1). It refuses a
// length that cannot hold them; it accepts every version.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderLen {
		return Header{}, fail("header", len(b), ErrTruncated)
	}
	h := Header{Version: b[0], Type: MessageType(b[1]), Length: be.Uint16(b[2:]), XID: be.Uint32(b[4:])}
	if h.Length < HeaderLen {
		return h, fail("header", 2, ErrLength)
	}
	return h, nil
}

// parseFrame reads the header of a whole frame and returns the bytes after it.
func parseFrame(frame []byte) (Header, []byte, error) {
	h, err := ParseHeader(frame)
	if err != nil {
		return h, nil, err
	}
	if int(h.Length) > len(frame) {
		return h, nil, fail(h.Type.String(), len(frame), ErrTruncated)
	}
	if int(h.Length) < len(frame) {
		return h, nil, fail(h.Type.String(), 2, ErrLength)
	}
	// Before the versions are negotiated these two may be of any version (§6.3.1).
	if h.Version != Version && h.Type != TypeHello && h.Type != TypeError {
		return h, nil, fail(h.Type.String(), 0, ErrVersion)
	}
	return h, frame[HeaderLen:], nil
}

// Parse turns one whole frame into a fresh value that aliases it. A message type
// it does not know becomes a *RawMessage. On an error the header is returned as
// far as it could be read, so that the message can be answered or logged.
func Parse(frame []byte) (Header, Message, error) {
	h, body, err := parseFrame(frame)
	if err != nil {
		return h, nil, err
	}
	m, err := parseBody(h, body)
	if err != nil {
		return h, nil, within(h.Type.String(), HeaderLen, err)
	}
	return h, m, nil
}

// ParsePacketIn is Parse for a frame known to be a PACKET_IN, into a value the
// caller owns, without an allocation. m is not changed on an error.
func ParsePacketIn(frame []byte, m *PacketIn) error {
	h, body, err := parseFrame(frame)
	if err != nil {
		return err
	}
	if h.Type != TypePacketIn {
		return fail("packet_in", 1, ErrValue)
	}
	if err := m.parse(body); err != nil {
		return within("packet_in", HeaderLen, err)
	}
	return nil
}

// bodyParser is a message that can be read from the bytes after the header. It
// changes itself only when it succeeds.
type bodyParser interface {
	Message
	parse(b []byte) error
}

func parseBody(h Header, b []byte) (Message, error) {
	var m bodyParser
	switch h.Type {
	case TypeHello:
		if h.Version < Version {
			return &Hello{}, nil // the body has no meaning there and is to be ignored
		}
		m = new(Hello)
	case TypeError:
		m = new(Error)
	case TypeEchoRequest:
		return &EchoRequest{Data: clip(b)}, nil
	case TypeEchoReply:
		return &EchoReply{Data: clip(b)}, nil
	case TypeExperimenter:
		return parseExperimenter(b)
	case TypeFeaturesRequest:
		m = new(FeaturesRequest)
	case TypeFeaturesReply:
		m = new(FeaturesReply)
	case TypeGetConfigRequest:
		m = new(GetConfigRequest)
	case TypeGetConfigReply:
		m = new(GetConfigReply)
	case TypeSetConfig:
		m = new(SetConfig)
	case TypePacketIn:
		m = new(PacketIn)
	case TypeFlowRemoved:
		m = new(FlowRemoved)
	case TypePortStatus:
		m = new(PortStatus)
	case TypePacketOut:
		m = new(PacketOut)
	case TypeFlowMod:
		m = new(FlowMod)
	case TypeGroupMod:
		m = new(GroupMod)
	case TypePortMod:
		m = new(PortMod)
	case TypeTableMod:
		m = new(TableMod)
	case TypeMultipartRequest:
		m = new(MultipartRequest)
	case TypeMultipartReply:
		m = new(MultipartReply)
	case TypeBarrierRequest:
		m = new(BarrierRequest)
	case TypeBarrierReply:
		m = new(BarrierReply)
	case TypeRoleRequest:
		m = new(RoleRequest)
	case TypeRoleReply:
		m = new(RoleReply)
	case TypeGetAsyncRequest:
		m = new(GetAsyncRequest)
	case TypeGetAsyncReply:
		m = new(GetAsyncReply)
	case TypeSetAsync:
		m = new(SetAsync)
	case TypeMeterMod:
		m = new(MeterMod)
	default:
		return &RawMessage{Type: h.Type, Body: clip(b)}, nil
	}
	if err := m.parse(b); err != nil {
		return nil, err
	}
	return m, nil
}

// Append appends the whole frame of m, header included, and returns the longer
// slice. It allocates nothing when b has room and never fails: what does not fit
// a 16-bit length must not be sent, so check that no more than MaxMessageLen
// bytes were added. The header of such a frame has length 0, which every receiver
// refuses.
func Append(b []byte, xid uint32, m Message) []byte {
	start := len(b)
	b = append(b, Version, byte(m.MessageType()), 0, 0)
	b = be.AppendUint32(b, xid)
	b = m.appendBody(b)
	if len(b)-start <= MaxMessageLen {
		setLen(b, start, 2)
	}
	return b
}

// Len is the number of bytes that Append adds for m.
func Len(m Message) int { return len(Append(nil, 0, m)) }

// exactly checks the size of a structure that has only one.
func exactly(op string, b []byte, n int) error {
	switch {
	case len(b) < n:
		return fail(op, len(b), ErrTruncated)
	case len(b) > n:
		return fail(op, n, ErrLength)
	}
	return nil
}

// atLeast checks the size of the fixed part of a structure.
func atLeast(op string, b []byte, n int) error {
	if len(b) < n {
		return fail(op, len(b), ErrTruncated)
	}
	return nil
}

// cut returns the first n bytes of b, n being a length read from b[at:]. It
// refuses lengths under min and over b.
func cut(op string, b []byte, n, min, at int) ([]byte, error) {
	if n < min {
		return nil, fail(op, at, ErrLength)
	}
	if n > len(b) {
		return nil, fail(op, at, ErrTruncated)
	}
	return b[:n], nil
}
