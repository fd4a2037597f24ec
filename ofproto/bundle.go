package ofproto

import "fmt"

// Bundles are extension 230 of the ONF for 1.3 (§7.3.9 of version 1.4): messages
// gathered under a number and carried out at once.
const (
	bundleControlType = 2300
	bundleAddType     = 2301
)

// BundleControlType is what a BundleControl asks or answers.
type BundleControlType uint16

// Bundle control types; a reply is its request plus one.
const (
	BundleOpenRequest    BundleControlType = 0
	BundleOpenReply      BundleControlType = 1
	BundleCloseRequest   BundleControlType = 2
	BundleCloseReply     BundleControlType = 3
	BundleCommitRequest  BundleControlType = 4
	BundleCommitReply    BundleControlType = 5
	BundleDiscardRequest BundleControlType = 6
	BundleDiscardReply   BundleControlType = 7
)

// String returns the name of the specification in lower case.
func (t BundleControlType) String() string {
	names := [...]string{
		"open_request", "open_reply", "close_request", "close_reply", "commit_request", "commit_reply",
		"discard_request", "discard_reply",
	}
	if int(t) < len(names) {
		return names[t]
	}
	return fmt.Sprintf("type_%d", uint16(t))
}

// Flags of a bundle: the same in every message of it.
const (
	BundleAtomic  uint16 = 1 << 0 // all or nothing, also for packets on their way
	BundleOrdered uint16 = 1 << 1 // in the order the messages were added
)

// BundleControl opens, closes, commits or discards a bundle, and is the answer to that.
type BundleControl struct {
	Bundle     uint32 // chosen by the controller
	Type       BundleControlType
	Flags      uint16 // Bundle… bits
	Properties []byte // as on the wire
}

// BundleAdd adds a message to a bundle; only an error is answered. Open vSwitch
// wants XID to be that of the frame around it.
type BundleAdd struct {
	Bundle     uint32
	Flags      uint16 // Bundle… bits
	XID        uint32 // of Message
	Message    Message
	Properties []byte // as on the wire
}

// MessageType implements Message.
func (*BundleControl) MessageType() MessageType { return TypeExperimenter }

// MessageType implements Message.
func (*BundleAdd) MessageType() MessageType { return TypeExperimenter }

func (m *BundleControl) appendBody(b []byte) []byte {
	b = be.AppendUint32(b, ExperimenterONF)
	b = be.AppendUint32(b, bundleControlType)
	b = be.AppendUint32(b, m.Bundle)
	b = be.AppendUint16(b, uint16(m.Type))
	b = be.AppendUint16(b, m.Flags)
	return append(b, m.Properties...)
}

func (m *BundleAdd) appendBody(b []byte) []byte {
	b = be.AppendUint32(b, ExperimenterONF)
	b = be.AppendUint32(b, bundleAddType)
	b = be.AppendUint32(b, m.Bundle)
	b = pad(b, 2)
	b = be.AppendUint16(b, m.Flags)
	start := len(b)
	b = Append(b, m.XID, m.Message)
	if len(m.Properties) > 0 {
		b = pad8(b, start)
		b = append(b, m.Properties...)
	}
	return b
}

func parseBundleControl(b []byte) (Message, error) {
	if err := atLeast("bundle_control", b, 16); err != nil {
		return nil, err
	}
	return &BundleControl{
		Bundle: be.Uint32(b[8:]), Type: BundleControlType(be.Uint16(b[12:])), Flags: be.Uint16(b[14:]),
		Properties: clip(b[16:]),
	}, nil
}

func parseBundleAdd(b []byte) (Message, error) {
	const inner = 16
	if err := atLeast("bundle_add", b, inner); err != nil {
		return nil, err
	}
	h, err := ParseHeader(b[inner:])
	if err != nil {
		return nil, within("bundle_add", inner, err)
	}
	frame, err := cut("bundle_add", b[inner:], int(h.Length), HeaderLen, 2)
	if err != nil {
		return nil, within("bundle_add", inner, err)
	}
	// Bundles do not nest, and neither does the reading of them.
	if h.Type == TypeExperimenter && len(frame) >= 16 && be.Uint32(frame[8:]) == ExperimenterONF {
		if t := be.Uint32(frame[12:]); t == bundleControlType || t == bundleAddType {
			return nil, fail("bundle_add", inner, ErrValue)
		}
	}
	_, m, err := Parse(frame)
	if err != nil {
		return nil, within("bundle_add", inner, err)
	}
	// The padding between message and properties may be missing at the very end.
	rest := b[inner+len(frame):]
	rest = rest[min(len(rest), -len(frame)&7):]
	return &BundleAdd{
		Bundle: be.Uint32(b[8:]), Flags: be.Uint16(b[14:]), XID: h.XID, Message: m, Properties: clip(rest),
	}, nil
}
