// Package ofproto speaks OpenFlow 1.3.5 (wire version 0x04): messages as Go
// values, their bytes both ways, and a connection that carries them.
//
// Messages are plain structs. Parse turns one whole frame into a fresh value;
// the value aliases the frame, so it is valid only as long as the frame is.
// Append is the way out: it appends the frame to a buffer and allocates nothing
// when the buffer has room. What this package does not know it keeps raw
// (RawMessage, RawAction, RawInstruction, RawBody), never drops.
//
// Section numbers in the comments are those of the OpenFlow Switch
// Specification, version 1.3.5 (ONF TS-023).
package ofproto

import (
	"fmt"
)

// Version is the OpenFlow wire version spoken by this package.
const Version = 0x04

// HeaderLen is the length in bytes of the header every message begins with (§7.1).
const HeaderLen = 8

// MaxMessageLen is the largest length the 16-bit header field can carry.
const MaxMessageLen = 0xffff

// DPID identifies a datapath: the lower 48 bits are usually a MAC address, the
// upper 16 are the implementer's (§7.3.1).
type DPID uint64

// String returns the 16 lower-case hex digits that the REST API uses.
func (d DPID) String() string { return fmt.Sprintf("%016x", uint64(d)) }

// MAC is an Ethernet address.
type MAC [6]byte

// String returns the address in lower case with colons.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Port is a port number (§7.2.1); the reserved ones are the Port… constants.
type Port uint32

// Reserved ports (§7.2.1, enum ofp_port_no).
const (
	PortMax        Port = 0xffffff00
	PortInPort     Port = 0xfffffff8
	PortTable      Port = 0xfffffff9
	PortNormal     Port = 0xfffffffa
	PortFlood      Port = 0xfffffffb
	PortAll        Port = 0xfffffffc
	PortController Port = 0xfffffffd
	PortLocal      Port = 0xfffffffe
	PortAny        Port = 0xffffffff
)

// Other wildcards and sentinels.
const (
	TableAll Table = 0xff
	TableMax Table = 0xfe

	GroupMax GroupID = 0xffffff00
	GroupAll GroupID = 0xfffffffc
	GroupAny GroupID = 0xffffffff

	// NoBuffer in a buffer id says that the whole packet is in the message.
	NoBuffer uint32 = 0xffffffff
	// MaxLenNoBuffer in an output to the controller asks for the whole packet.
	MaxLenNoBuffer uint16 = 0xffff
)

// Table is a flow table number.
type Table uint8

// GroupID identifies a group of one switch.
type GroupID uint32

// Header is the header every message begins with (§7.1).
type Header struct {
	Version uint8
	Type    MessageType
	Length  uint16 // of the whole message, header included, in bytes
	XID     uint32
}

// MessageType is the type field of a header (§7.1, enum ofp_type).
type MessageType uint8

// Message types.
const (
	TypeHello            MessageType = 0
	TypeError            MessageType = 1
	TypeEchoRequest      MessageType = 2
	TypeEchoReply        MessageType = 3
	TypeExperimenter     MessageType = 4
	TypeFeaturesRequest  MessageType = 5
	TypeFeaturesReply    MessageType = 6
	TypeGetConfigRequest MessageType = 7
	TypeGetConfigReply   MessageType = 8
	TypeSetConfig        MessageType = 9
	TypePacketIn         MessageType = 10
	TypeFlowRemoved      MessageType = 11
	TypePortStatus       MessageType = 12
	TypePacketOut        MessageType = 13
	TypeFlowMod          MessageType = 14
	TypeGroupMod         MessageType = 15
	TypePortMod          MessageType = 16
	TypeTableMod         MessageType = 17
	TypeMultipartRequest MessageType = 18
	TypeMultipartReply   MessageType = 19
	TypeBarrierRequest   MessageType = 20
	TypeBarrierReply     MessageType = 21
	TypeQueueConfigReq   MessageType = 22
	TypeQueueConfigReply MessageType = 23
	TypeRoleRequest      MessageType = 24
	TypeRoleReply        MessageType = 25
	TypeGetAsyncRequest  MessageType = 26
	TypeGetAsyncReply    MessageType = 27
	TypeSetAsync         MessageType = 28
	TypeMeterMod         MessageType = 29
)

// Message is one OpenFlow message without its header. The implementations are
// the pointer types of this package.
type Message interface {
	// MessageType is the header type the message travels under.
	MessageType() MessageType
	// appendBody appends what follows the header.
	appendBody(b []byte) []byte
}

// FieldType names an OXM field: class in the upper 16 bits, field number in the
// 7 bits of the lower half (§7.2.3.2). It does not hold the mask bit or a length.
type FieldType uint32

// Field is one OXM TLV: a match field or the operand of a set-field action. Value
// and Mask alias whatever they were read from; Mask is nil where the field is exact.
type Field struct {
	Type         FieldType
	Experimenter uint32 // of class 0xffff only
	Value        []byte
	Mask         []byte
}

// Match is a list of OXM TLVs as they stand on the wire, without the ofp_match
// header and padding. NewMatch makes a canonical one: sorted by field, without
// masks of all ones, without fields masked to nothing, values cut to their
// masks; two canonical matches are equal if their bytes are.
type Match []byte
