package balancer

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// maxEntries bounds the entries of a listener in one switch: allowed_cidrs, blocks of a
// range of ports and slots multiply where a switch cannot look slots up by themselves.
const maxEntries = 4096

// admit lets the packets of clients to a listener in: it adds the entries that take
// them, with more fields, and do ins. New connections of TCP are told apart, to be
// counted (stats.go); those of a listener that bounds them pass its meter.
func (in vipInput) admit(p *flowtable.Part, l ListenerRecord, ch choice, ins []ofproto.Instruction, more ...ofproto.Field) {
	in.admitAt(controller.PrioVIPForward, p, l, ch, ins, more...)
}

// admitAt does so at a priority.
func (in vipInput) admitAt(priority uint16, p *flowtable.Part, l ListenerRecord, ch choice, ins []ofproto.Instruction, more ...ofproto.Field) {
	for _, match := range in.forwardMatches(l) {
		match, ok := meet(match, more)
		if !ok {
			continue
		}
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: priority,
			Match: ofproto.NewMatch(match...), Instructions: ins,
		})
		if !ch.limited && !ch.counted {
			continue
		}
		first := flowtable.Flow{
			Table: controller.TableVIP, Priority: priority + controller.PrioVIPLimit - controller.PrioVIPForward,
			Match: ofproto.NewMatch(append(match, synField())...), Instructions: ins,
		}
		id := controller.GroupMeter(l.Group)
		if ch.limited {
			first.Instructions = append([]ofproto.Instruction{ofproto.Meter{ID: id}}, ins...)
		}
		p.Flows = append(p.Flows, first)
		if !ch.limited {
			continue
		}
		if len(p.Meters) == 0 || p.Meters[len(p.Meters)-1].ID != id {
			rate := uint32(in.document(l).ConnectionRate)
			p.Meters = append(p.Meters, flowtable.Meter{ID: id, Rate: rate, Burst: max(rate/burstPart, 1)})
		}
	}
}

// synField matches the first segment of a connection: SYN without ACK.
func synField() ofproto.Field {
	return ofproto.ONFTCPFlags(uint16(packet.TCPSyn), uint16(packet.TCPSyn|packet.TCPAck))
}

// countedMost is how many entries a listener may have for its new connections to be
// counted: each of them takes one more.
const countedMost = 4

// counted says whether the new connections of a listener are counted in the switch.
func (in vipInput) counted(l ListenerRecord, ch choice) bool {
	return l.Key.Protocol == TCP && in.caps.TCPFlags && !in.caps.OneTable() && in.matches(l) <= countedMost && (ch.method != MethodSelector || ch.lookup)
}

// burstPart is how many bursts of new connections make a second of them.
const burstPart = 4

// unlimited says why a switch cannot bound the new connections of a listener that asks
// for it; empty where it can.
func (in vipInput) unlimited() string {
	switch {
	case !in.caps.TCPFlags:
		return "the switch does not tell the first packet of a connection"
	case !in.caps.GroupMeters():
		return "the switch has no meters, or too few"
	case in.floor.unmetered:
		return "the switch refused the meter"
	}
	return ""
}

// allowed restricts matches to the clients that the document allows.
func (in vipInput) allowed(matches [][]ofproto.Field) [][]ofproto.Field {
	cidrs := in.clients()
	if len(cidrs) == 0 {
		return matches
	}
	all := make([][]ofproto.Field, 0, len(matches)*len(cidrs))
	for _, match := range matches {
		for _, p := range cidrs {
			f := ofproto.IPv4Src(p)
			if p.Addr().Is6() {
				f = ofproto.IPv6Src(p)
			}
			all = append(all, append(match[:len(match):len(match)], f))
		}
	}
	return all
}

// clients are the networks that the document allows, without those inside others; none
// where all are.
func (in vipInput) clients() []netip.Prefix {
	if in.rec == nil {
		return nil
	}
	var list []netip.Prefix
	for _, p := range in.rec.VIP.AllowedCIDRs {
		if p.Bits() == 0 {
			return nil
		}
		if !slices.ContainsFunc(in.rec.VIP.AllowedCIDRs, func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Contains(p.Addr()) }) {
			list = append(list, p)
		}
	}
	return list
}

// meet returns the fields that match what both lists match; ok is false where no packet
// does. It may return a.
func meet(a, b []ofproto.Field) (_ []ofproto.Field, ok bool) {
	if len(b) == 0 {
		return a, true
	}
	out := slices.Clone(a)
	for _, f := range b {
		i := slices.IndexFunc(out, func(g ofproto.Field) bool { return g.Type == f.Type && g.Experimenter == f.Experimenter })
		if i < 0 {
			out = append(out, f)
			continue
		}
		g := ofproto.Field{Type: f.Type, Experimenter: f.Experimenter, Value: slices.Clone(f.Value), Mask: make([]byte, len(f.Value))}
		exact := true
		for k := range g.Value {
			x, y := maskAt(out[i], k), maskAt(f, k)
			if (out[i].Value[k]^f.Value[k])&x&y != 0 {
				return nil, false
			}
			g.Value[k] = out[i].Value[k]&x | f.Value[k]&y
			g.Mask[k] = x | y
			exact = exact && g.Mask[k] == 0xff
		}
		if exact {
			g.Mask = nil
		}
		out[i] = g
	}
	return out, true
}

func maskAt(f ofproto.Field, i int) byte {
	if f.Mask == nil {
		return 0xff
	}
	return f.Mask[i]
}

// matches is the number of forwardMatches.
func (in vipInput) matches(l ListenerRecord) int {
	n := max(len(in.clients()), 1)
	if ports := in.ports(l); !ports.all() && !ports.single() {
		n *= len(ports.masks())
	}
	return n
}

// tooMany says why a listener has too many entries for a switch; empty where it has not.
func (in vipInput) tooMany(l ListenerRecord, ch choice) string {
	n := in.matches(l)
	if ch.method == MethodSelector && !ch.lookup {
		n *= max(in.selectors(l, len(ch.owners)), 1)
	}
	if n <= maxEntries {
		return ""
	}
	return fmt.Sprintf("allowed_cidrs, blocks of ports and slots make %d entries, of which %d at most are installed", n, maxEntries)
}
