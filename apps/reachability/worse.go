package reachability

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller/documents"
)

// A port counts as in a storm when it carries that many packets a second in one
// direction, and that many times as much as before.
const (
	stormPackets = 5000
	stormTimes   = 10
)

// Aspect is what of a measurement a difference is about.
type Aspect string

// Aspects.
const (
	AspectSwitch    Aspect = "switch"
	AspectHost      Aspect = "host"
	AspectVIP       Aspect = "vip"
	AspectProbe     Aspect = "probe"
	AspectBroadcast Aspect = "broadcast"
	AspectLink      Aspect = "link"
	AspectStorm     Aspect = "storm"
	AspectTable     Aspect = "table"
)

// Difference is something that is worse than it was.
type Difference struct {
	Aspect Aspect `json:"aspect"`
	// DPID is the switch that it was found at.
	DPID string `json:"dpid"`
	Text string `json:"text"` // what is worse, as a sentence
	// Doubtful says that it need not come from the network: a host that answers no switch
	// may be switched off, a port that carries much may be wanted to.
	Doubtful bool `json:"doubtful"`
}

// Worse lists what is worse in a measurement than in an earlier one: what was answered
// and is not any more, broadcasts that arrive twice or not at all, links that lose whole
// packets, ports that carry a storm, tables that are not as they are to be. What one of
// the two did not measure is not compared, but that a switch cannot be measured from any
// more is told. Better is not told.
func Worse(before, after Measurement) (list []Difference) {
	add := func(a Aspect, dpid, format string, args ...any) {
		list = append(list, Difference{Aspect: a, DPID: dpid, Text: fmt.Sprintf(format, args...)})
	}
	doubt := func(a Aspect, dpid, format string, args ...any) {
		add(a, dpid, format, args...)
		list[len(list)-1].Doubtful = true
	}
	lost := map[string]bool{} // switches that were measured from, and are not
	were := map[string]Switch{}
	for _, sw := range before.Switches {
		were[sw.DPID] = sw
		if sw.Skipped != "" {
			continue
		}
		i := slices.IndexFunc(after.Switches, func(s Switch) bool { return s.DPID == sw.DPID })
		switch {
		case i < 0:
			lost[sw.DPID] = true
			add(AspectSwitch, sw.DPID, "switch %s was not measured from, as it was before", sw.DPID)
		case after.Switches[i].Skipped != "":
			lost[sw.DPID] = true
			add(AspectSwitch, sw.DPID, "switch %s cannot be measured from any more: %s", sw.DPID, after.Switches[i].Skipped)
		}
	}
	worse := func(a Aspect, what, from string, was, is Reply, asked bool) {
		switch {
		case !was.OK() || is.OK() || is.Result == Skipped || lost[from]:
		case !asked:
			add(a, from, "%s was not asked from switch %s (answered before)", what, from)
		case is.Reason == "" || is.Reason == "no answer":
			add(a, from, "%s does not answer from switch %s any more (answered before)", what, from)
		default:
			add(a, from, "%s does not answer from switch %s any more (answered before): %s", what, from, is.Reason)
		}
	}

	type pairKey struct {
		from string
		addr netip.Addr
		vlan uint16
		mac  string
	}
	pairs := map[pairKey]Reply{}
	for _, p := range after.Pairs {
		pairs[pairKey{p.From, p.Address, p.VLAN, p.MAC}] = p.Reply
	}
	off := silent(before.Pairs, after.Pairs)
	for _, p := range before.Pairs {
		is, asked := pairs[pairKey{p.From, p.Address, p.VLAN, p.MAC}]
		if n := len(list); len(after.Pairs) > 0 {
			worse(AspectHost, p.name(), p.From, p.Reply, is, asked)
			for i := n; i < len(list); i++ {
				list[i].Doubtful = asked && off[p.host()]
			}
		}
	}

	type vipKey struct{ from, vip, listener string }
	vips := map[vipKey]Reply{}
	for _, v := range after.VIPs {
		vips[vipKey{v.From, v.VIP, v.Listener}] = v.Reply
	}
	for _, v := range before.VIPs {
		// A switch that went back to observe serves no VIPs, and is not asked.
		if is, asked := vips[vipKey{v.From, v.VIP, v.Listener}]; asked {
			worse(AspectVIP, "VIP "+v.VIP+" "+v.Listener, v.From, v.Reply, is, asked)
		}
	}

	type probeKey struct {
		from string
		documents.Probe
	}
	probes := map[probeKey]Reply{}
	for _, p := range after.Probes {
		probes[probeKey{p.From, p.Probe}] = p.Reply
	}
	for _, p := range before.Probes {
		if is, asked := probes[probeKey{p.From, p.Probe}]; asked {
			worse(AspectProbe, p.Probe.String(), p.From, p.Reply, is, asked)
		}
	}

	copies := map[[2]string]int{}
	for _, c := range before.Copies {
		copies[[2]string{c.From, c.To}] = c.Count
	}
	for _, c := range after.Copies {
		was, measured := copies[[2]string{c.From, c.To}]
		switch {
		case c.From == c.To && c.Count > was:
			add(AspectBroadcast, c.To, "a broadcast of switch %s comes back to it %d times: there is a loop", c.From, c.Count)
		case c.From != c.To && c.Count > 1 && c.Count > was:
			add(AspectBroadcast, c.To, "%d copies of one broadcast from switch %s come to switch %s: there is a loop", c.Count, c.From, c.To)
		case c.From != c.To && measured && was > 0 && c.Count == 0 && !lost[c.From] && !lost[c.To]:
			add(AspectBroadcast, c.To, "a broadcast from switch %s does not come to switch %s any more", c.From, c.To)
		}
	}

	type linkKey struct{ from, to Place }
	links := map[linkKey]LinkAnswer{}
	for _, l := range before.Links {
		links[linkKey{l.From, l.To}] = l
	}
	for _, l := range after.Links {
		if was := links[linkKey{l.From, l.To}]; was.MTU == l.MTU && was.Full && !l.Full {
			if !l.Small {
				add(AspectLink, l.From.DPID, "nothing passes from %s to %s any more", l.From, l.To)
			} else {
				add(AspectLink, l.From.DPID, "packets of %d bytes do not pass from %s to %s any more, small ones do", l.MTU, l.From, l.To)
			}
		}
	}

	rates := map[Place]PortRate{}
	for _, r := range before.Rates {
		rates[r.Place] = r
	}
	for _, r := range after.Rates {
		was := rates[r.Place]
		if r.Rx > stormPackets && r.Rx > stormTimes*was.Rx {
			doubt(AspectStorm, r.DPID, "port %s takes %.0f packets a second (%.0f before): there may be a loop", r.Place, r.Rx, was.Rx)
		} else if r.Tx > stormPackets && r.Tx > stormTimes*was.Tx {
			doubt(AspectStorm, r.DPID, "port %s sends %.0f packets a second (%.0f before): there may be a loop", r.Place, r.Tx, was.Tx)
		}
	}

	for _, sw := range after.Switches {
		for _, d := range sw.Deviations {
			if !slices.Contains(were[sw.DPID].Deviations, d) {
				add(AspectTable, sw.DPID, "switch %s does not hold what it is to: %s", sw.DPID, d)
			}
		}
	}
	return list
}

// host is who is asked in a pair.
type host struct {
	mac  string
	vlan uint16
}

func (p Pair) host() host { return host{p.MAC, p.VLAN} }

// silent are the hosts that answered a switch before and answer none after. Where several
// answered, and nobody does, it is not they that are off: then there are none.
func silent(before, after []Pair) map[host]bool {
	off := map[host]bool{}
	for _, p := range before {
		if p.OK() {
			off[p.host()] = true
		}
	}
	were := len(off)
	for _, p := range after {
		if p.OK() {
			delete(off, p.host())
		}
	}
	if were > 1 && len(off) == were {
		return nil
	}
	return off
}

// name is the host of a pair, as operators know it.
func (p Pair) name() string {
	s := p.Address.String() + " (" + p.MAC
	if p.VLAN != 0 {
		s += fmt.Sprintf(", VLAN %d", p.VLAN)
	}
	return s + ")"
}
