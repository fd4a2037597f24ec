package documents

import (
	"fmt"
	"net/netip"
)

// Probe is a question to an address that is asked through the switches.
type Probe struct {
	Type    ProbeType  `json:"type"`
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port,omitempty"` // of type tcp
	VLAN    uint16     `json:"vlan,omitempty"` // 0: untagged
}

// String returns the probe in short: "tcp 10.0.0.9:22".
func (p Probe) String() string {
	s := string(p.Type) + " " + p.Address.String()
	if p.Port != 0 {
		s = string(p.Type) + " " + netip.AddrPortFrom(p.Address, p.Port).String()
	}
	if p.VLAN != 0 {
		s += fmt.Sprintf(" vlan %d", p.VLAN)
	}
	return s
}

// ProbeType is the kind of a probe.
type ProbeType string

// The kinds of probes. Ping and TCP need a source address.
const (
	ProbeARP  ProbeType = "arp" // ARP, or neighbour discovery
	ProbePing ProbeType = "ping"
	ProbeTCP  ProbeType = "tcp" // answered by who accepts a connection
)
