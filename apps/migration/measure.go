package migration

import (
	"context"
	"fmt"
	"net/netip"
	"time"
)

// Prober measures what answers, through the switches that are connected.
type Prober interface {
	// Measure asks every known host from every switch in turn, VIPs and probes, and
	// returns what answered. The error is that of ctx, or says why nothing could be
	// measured.
	Measure(ctx context.Context, r ProbeRequest) (Measurement, error)
}

// ProbeRequest says what to measure beside the hosts.
type ProbeRequest struct {
	Source netip.Addr // nobody's address, that probes of IP come from; may be the zero Addr
	VIPs   []string   // all listeners of these
	Probes []Probe
}

// Measurement is what answered at one time.
type Measurement struct {
	At     time.Time     `json:"at"`
	Hosts  []HostAnswer  `json:"hosts"`
	VIPs   []VIPAnswer   `json:"vips"`
	Probes []ProbeAnswer `json:"probes"`
	Copies []Copies      `json:"copies"`
	Rates  []PortRate    `json:"rates"`
	MTUs   []LinkMTU     `json:"mtus"`
}

// HostAnswer is whether a host answered a switch.
type HostAnswer struct {
	DPID     string     `json:"dpid"` // of the switch that asked
	Address  netip.Addr `json:"address"`
	VLAN     uint16     `json:"vlan"`
	Answered bool       `json:"answered"`
}

// VIPAnswer is whether a listener of a VIP answered a switch.
type VIPAnswer struct {
	DPID     string `json:"dpid"` // of the switch that asked; empty: any
	VIP      string `json:"vip"`
	Listener string `json:"listener"` // protocol:port
	Answered bool   `json:"answered"`
	Reason   string `json:"reason,omitempty"` // why it did not
}

// ProbeAnswer is whether a probe was answered.
type ProbeAnswer struct {
	DPID     string `json:"dpid"` // of the switch that asked; empty: any
	Probe    string `json:"probe"`
	Answered bool   `json:"answered"`
	Reason   string `json:"reason,omitempty"`
}

// Copies is how many copies of one broadcast came to a switch: 1 is right, more is a
// loop.
type Copies struct {
	DPID  string `json:"dpid"`
	Count int    `json:"count"`
}

// PortRate is what a port takes and sends.
type PortRate struct {
	DPID    string  `json:"dpid"`
	Port    uint32  `json:"port"`
	Packets float64 `json:"packets"` // a second, the larger of both directions
}

// LinkMTU is the largest IP packet that passed a link.
type LinkMTU struct {
	Link string `json:"link"`
	MTU  int    `json:"mtu"` // bytes
}

// A port counts as in a storm when it carries that many packets a second, and that many
// times as much as before.
const (
	stormPackets = 5000
	stormTimes   = 10
)

// answered counts what did.
func (m Measurement) answered() (hosts, vips, probes int) {
	for _, h := range m.Hosts {
		if h.Answered {
			hosts++
		}
	}
	for _, v := range m.VIPs {
		if v.Answered {
			vips++
		}
	}
	for _, p := range m.Probes {
		if p.Answered {
			probes++
		}
	}
	return hosts, vips, probes
}

// silent says what has to answer in any case and does not: VIPs and probes.
func (m Measurement) silent() (why []string) {
	because := func(what, dpid, reason string) {
		s := what + " does not answer"
		if dpid != "" {
			s += " switch " + dpid
		}
		if reason != "" {
			s += ": " + reason
		}
		why = append(why, s)
	}
	for _, v := range m.VIPs {
		if !v.Answered {
			because("VIP "+v.VIP+" "+v.Listener, v.DPID, v.Reason)
		}
	}
	for _, p := range m.Probes {
		if !p.Answered {
			because(p.Probe, p.DPID, p.Reason)
		}
	}
	return why
}

// worse says what is worse than before. gone are switches that are not asked any more.
func (m Measurement) worse(before Measurement, gone func(dpid string) bool) (why []string) {
	type pair struct {
		dpid string
		addr netip.Addr
		vlan uint16
	}
	now, asked := map[pair]bool{}, map[string]bool{}
	for _, h := range m.Hosts {
		now[pair{h.DPID, h.Address, h.VLAN}] = h.Answered
		asked[h.DPID] = true
	}
	missed := map[string]bool{}
	for _, h := range before.Hosts {
		if !h.Answered || now[pair{h.DPID, h.Address, h.VLAN}] || gone(h.DPID) {
			continue
		}
		if !asked[h.DPID] {
			if !missed[h.DPID] {
				why = append(why, "switch "+h.DPID+" could not be measured from, as it could before")
			}
			missed[h.DPID] = true
			continue
		}
		s := fmt.Sprintf("%s answered switch %s before, and does not now", h.Address, h.DPID)
		if h.VLAN != 0 {
			s += fmt.Sprintf(" (VLAN %d)", h.VLAN)
		}
		why = append(why, s)
	}
	why = append(why, m.silent()...)
	copies := map[string]int{}
	for _, c := range before.Copies {
		copies[c.DPID] = c.Count
	}
	for _, c := range m.Copies {
		if c.Count > max(copies[c.DPID], 1) {
			why = append(why, fmt.Sprintf("%d copies of one broadcast came to switch %s: there is a loop", c.Count, c.DPID))
		}
	}
	type port struct {
		dpid string
		port uint32
	}
	rates := map[port]float64{}
	for _, r := range before.Rates {
		rates[port{r.DPID, r.Port}] = r.Packets
	}
	for _, r := range m.Rates {
		if was := rates[port{r.DPID, r.Port}]; r.Packets > stormPackets && r.Packets > stormTimes*was {
			why = append(why, fmt.Sprintf("port %d of switch %s carries %.0f packets a second, %.0f before: there may be a loop", r.Port, r.DPID, r.Packets, was))
		}
	}
	mtus := map[string]int{}
	for _, l := range before.MTUs {
		mtus[l.Link] = l.MTU
	}
	for _, l := range m.MTUs {
		if was := mtus[l.Link]; l.MTU < was {
			why = append(why, fmt.Sprintf("packets of %d bytes passed %s before, now of %d at most", was, l.Link, l.MTU))
		}
	}
	return why
}
