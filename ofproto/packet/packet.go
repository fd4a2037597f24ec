// Package packet reads and writes the headers of the frames a controller meets:
// Ethernet, 802.1Q, ARP, IPv4, IPv6 and its extension headers, ICMP, ICMPv6
// neighbour discovery, TCP, UDP, SCTP and LLDP.
//
// Decode checks a whole frame once and returns a small Frame; its accessors give
// the headers as values. Slices in them alias the frame. Neither Decode of a good
// frame nor the accessors allocate. A length of zero where one may not be, or one
// that passes the end of what contains it, is an error: the frame is to be dropped.
// What the package does not know (another EtherType, another IP protocol) is no
// error, but payload.
//
// The Append functions are the way out. They compute lengths and checksums, append
// to the buffer given and return it, and never panic.
package packet

import (
	"errors"
	"fmt"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// Broadcast is the Ethernet address of every station.
var Broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// IsGroup reports whether the address is a multicast or broadcast address. No
// station may send from one.
func IsGroup(m MAC) bool { return m[0]&1 != 0 }

// EtherTypes.
const (
	EtherTypeIPv4 uint16 = 0x0800
	EtherTypeARP  uint16 = 0x0806
	EtherTypeVLAN uint16 = 0x8100 // 802.1Q customer tag
	EtherTypeIPv6 uint16 = 0x86dd
	EtherTypeQinQ uint16 = 0x88a8 // 802.1ad service tag
	EtherTypeLLDP uint16 = 0x88cc
	// EtherTypeBDDP carries LLDP's TLVs to an address that bridges forward. Decode
	// leaves it as payload, for ParseLLDP.
	EtherTypeBDDP uint16 = 0x8942

	// minEtherType is the least value that is a type; smaller ones are the length
	// of an 802.3 frame.
	minEtherType = 0x0600
)

// IP protocol numbers, which are the next headers of IPv6 too.
const (
	ProtoICMP   uint8 = 1
	ProtoTCP    uint8 = 6
	ProtoUDP    uint8 = 17
	ProtoICMPv6 uint8 = 58
	ProtoSCTP   uint8 = 132
)

// Bounds on what Decode follows.
const (
	// MaxTags is the number of VLAN tags a frame may carry.
	MaxTags = 2
	// MaxExtensions is the number of IPv6 extension headers a packet may carry.
	MaxExtensions = 8
	// MaxTLVs is the number of TLVs an LLDP frame may carry, without the End.
	MaxTLVs = 64
)

// Reasons why a frame is refused; a ParseError wraps one of them.
var (
	ErrTruncated = errors.New("truncated")        // the bytes end inside a header
	ErrLength    = errors.New("bad length")       // a length field that cannot be
	ErrValue     = errors.New("bad value")        // another field that cannot be
	ErrTooMany   = errors.New("too many headers") // more than MaxTags, MaxExtensions, MaxTLVs
)

// ParseError says which header of a frame is wrong, and where. Offset is in bytes
// from the start of what was given to the function that failed.
type ParseError struct {
	Header string // "ethernet", "vlan", "arp", "ipv4", …
	Offset int
	Err    error
}

// Error returns the text of the error.
func (e *ParseError) Error() string {
	return fmt.Sprintf("packet: parse %s at byte %d: %v", e.Header, e.Offset, e.Err)
}

// Unwrap returns ErrTruncated, ErrLength, ErrValue or ErrTooMany.
func (e *ParseError) Unwrap() error { return e.Err }
