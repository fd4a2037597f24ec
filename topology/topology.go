// Package topology is the graph of the network: switches with their ports,
// the links between them, and the hosts at the edge. It is pure. It reads no
// clock (now is a parameter), does no I/O, draws no random number and imports
// nothing else of this module; the same calls give the same graph, the same
// events and the same paths on every run.
//
// A Graph is changed by one goroutine, its owner. Each change returns the
// events that it caused. What others read is a Snapshot: immutable, cheap to
// take, safe for any number of readers.
//
// A link is believed when a probe was heard both ways between two ports that
// are up. A port where a probe of ours arrived, or from which one was heard
// elsewhere, is never an edge port, even while its link is unusable: flooding
// it as if hosts were there could close a loop.
package topology

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"time"
)

// DPID identifies a switch, as the datapath_id of OpenFlow 1.3.5 §7.3.1 does.
type DPID uint64

// String returns 16 lower-case hex digits.
func (d DPID) String() string { return fmt.Sprintf("%016x", uint64(d)) }

// MarshalText gives the DPID in JSON as String does.
func (d DPID) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Port is the number of a port on its switch (OpenFlow 1.3.5 §7.2.1).
type Port uint32

// PortLocal is the switch's own port (OFPP_LOCAL).
const PortLocal Port = 0xfffffffe

// String returns the number in decimal, or LOCAL for PortLocal.
func (p Port) String() string {
	if p == PortLocal {
		return "LOCAL"
	}
	return strconv.FormatUint(uint64(p), 10)
}

// MAC is an Ethernet address.
type MAC [6]byte

// String returns the address in lower case with colons.
func (m MAC) String() string {
	b := make([]byte, 0, 17)
	for i := range m {
		if i > 0 {
			b = append(b, ':')
		}
		b = hex.AppendEncode(b, m[i:i+1])
	}
	return string(b)
}

// MarshalText gives the address in JSON as String does.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// unicast reports whether m can be the address of one host.
func (m MAC) unicast() bool { return m[0]&1 == 0 && m != MAC{} }

// Place is one port of one switch.
type Place struct {
	DPID DPID `json:"dpid"`
	Port Port `json:"port"`
}

// String returns the DPID and the port with a slash between.
func (p Place) String() string { return p.DPID.String() + "/" + p.Port.String() }

// Compare orders places by DPID, then by port.
func (p Place) Compare(o Place) int {
	return cmp.Or(cmp.Compare(p.DPID, o.DPID), cmp.Compare(p.Port, o.Port))
}

// PortState is what a switch says of one of its ports.
type PortState struct {
	Port Port   `json:"port"`
	Name string `json:"name"`
	MAC  MAC    `json:"mac"`
	// Up is false when the port is down by configuration or has no carrier.
	Up bool `json:"up"`
}

// Switch is one switch and its ports.
type Switch struct {
	DPID DPID `json:"dpid"`
	// Ports are in order of their numbers. They belong to the graph: do not
	// change them.
	Ports []PortState `json:"ports"`
}

// LinkKind says what joins the two ends of a link.
type LinkKind uint8

// The kinds of link.
const (
	// LinkDirect joins two ports with nothing of note between them.
	LinkDirect LinkKind = iota
)

// String returns the name of the kind.
func (k LinkKind) String() string {
	if k == LinkDirect {
		return "direct"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// MarshalText gives the kind in JSON as String does.
func (k LinkKind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// LinkState says whether a link carries traffic and, if not, why not. Only a
// link in StateUp is used by paths and trees; the ends of a link in any state
// but StateGone are no edge ports.
type LinkState uint8

// The states of a link.
const (
	// StateGone: nothing is known of the link any more.
	StateGone LinkState = iota
	// StateHalf: heard in one direction only, or known from before a restart
	// with an end that has not come back yet.
	StateHalf
	// StateUp: heard both ways between two ports that are up.
	StateUp
	// StateShared: heard both ways, but one of its ports already has another
	// link that is up, so a hub or a bridge is between them.
	StateShared
	// StateLoop: both ends are on one switch. Reported, never used.
	StateLoop
)

var linkStates = [...]string{"gone", "half", "up", "shared", "loop"}

// String returns the name of the state.
func (s LinkState) String() string {
	if int(s) < len(linkStates) {
		return linkStates[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// MarshalText gives the state in JSON as String does.
func (s LinkState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Link is a cable between two ports, known by probes sent through it.
type Link struct {
	// A is the lower end and B the higher one, as Place.Compare orders them.
	A     Place     `json:"a"`
	B     Place     `json:"b"`
	Kind  LinkKind  `json:"kind"`
	State LinkState `json:"state"`
	// Trusted is true while one of its directions is known only from before a
	// restart (see Graph.SeedLink).
	Trusted bool `json:"trusted,omitempty"`
	// FirstSeen is when the link was first heard of in either direction,
	// LastSeen when last.
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	// Fault is what is wrong with the link, which is used all the same (see Graph.SetFault).
	Fault string `json:"fault,omitempty"`
}

// String returns both ends and the state.
func (l Link) String() string { return fmt.Sprintf("%v-%v %v", l.A, l.B, l.State) }

func (l Link) trust() string {
	if l.Trusted {
		return " trusted"
	}
	return ""
}

// Other returns the end of the link that is not p.
func (l Link) Other(p Place) Place {
	if p == l.A {
		return l.B
	}
	return l.A
}

// HostKey identifies a host: the same MAC on two VLANs is two hosts.
type HostKey struct {
	MAC  MAC
	VLAN uint16
}

// String returns the MAC, followed by @VLAN when that is not 0.
func (k HostKey) String() string {
	if k.VLAN == 0 {
		return k.MAC.String()
	}
	return k.MAC.String() + "@" + strconv.Itoa(int(k.VLAN))
}

// Compare orders keys by MAC, then by VLAN.
func (k HostKey) Compare(o HostKey) int {
	return cmp.Or(compareMAC(k.MAC, o.MAC), cmp.Compare(k.VLAN, o.VLAN))
}

func compareMAC(a, b MAC) int {
	for i := range a {
		if a[i] != b[i] {
			return cmp.Compare(a[i], b[i])
		}
	}
	return 0
}

// Host is an end station and the edge port behind which it was last seen.
type Host struct {
	MAC MAC `json:"mac"`
	// VLAN is 0 for untagged frames.
	VLAN  uint16 `json:"vlan"`
	Place Place  `json:"place"`
	// IPs are the addresses it was heard to use, in order. They belong to the
	// graph: do not change them.
	IPs       []netip.Addr `json:"ips"`
	FirstSeen time.Time    `json:"first_seen"`
	LastSeen  time.Time    `json:"last_seen"`
	// Pinned hosts neither age nor are evicted (see Graph.Pin).
	Pinned bool `json:"pinned"`
}

// Key returns what identifies the host.
func (h Host) Key() HostKey { return HostKey{h.MAC, h.VLAN} }
