package reachability

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// How a listener was asked.
const (
	byTCP     = "tcp"
	byMembers = "members"
)

// askVIPs has the listeners of the VIPs asked from each switch that serves VIPs.
func (w *work) askVIPs() {
	for _, name := range w.req.VIPs {
		v := w.vips[slices.IndexFunc(w.vips, func(v VIP) bool { return v.Name == name })]
		for _, dpid := range w.from {
			if w.stages[dpid] == controller.StageObserve {
				continue // packets to the VIP are nothing special there
			}
			for _, l := range v.Listeners {
				w.askListener(dpid, v, l)
			}
		}
		for _, l := range v.Listeners {
			if w.req.source(v.Address).IsValid() && l.Protocol != "tcp" {
				w.note("VIP %s %s: nothing that is sent to it has to be answered; its members were asked for by their addresses instead", v.Name, l)
			}
		}
	}
}

func (w *work) askListener(from ofproto.DPID, v VIP, l Listener) {
	i := len(w.m.VIPs)
	w.m.VIPs = append(w.m.VIPs, VIPAnswer{From: from.String(), VIP: v.Name, Listener: l.String(), By: byTCP})
	fail := func(result Result, format string, args ...any) {
		w.m.VIPs[i].Reply = Reply{Result: result, Reason: fmt.Sprintf(format, args...)}
	}
	source := w.req.source(v.Address)
	switch {
	case source.IsValid() && len(v.Allowed) > 0 && !slices.ContainsFunc(v.Allowed, func(p netip.Prefix) bool { return p.Contains(source) }):
		fail(Skipped, "the VIP does not serve %s (allowed_cidrs)", source)
		return
	case source.IsValid() && l.Protocol == "tcp":
		q := askTCP(from, source, packet.MAC(v.MAC), netip.AddrPortFrom(v.Address, l.Port), v.VLAN, w.accepts(v, l))
		w.ask(q, func(q *question) { w.m.VIPs[i].Reply = q.reply })
		return
	}
	w.m.VIPs[i].By = byMembers
	if v.Operating == "offline" || v.Operating == "disabled" {
		fail(NoAnswer, "the VIP is %s", v.Operating)
		return
	}
	fail(NoAnswer, "none of its members is known in the network")
	var asked []*question
	addrs := map[netip.Addr]bool{}
	for _, m := range l.Members {
		h, ok := w.host(v.VLAN, m.Addr())
		if !ok || addrs[m.Addr()] {
			continue
		}
		addrs[m.Addr()] = true
		q := askHost(from, packet.MAC(h.MAC), m.Addr(), w.vlanTo(h))
		asked = append(asked, q)
		w.ask(q, func(*question) {
			w.m.VIPs[i].Reply = Reply{Result: NoAnswer, Tries: tries, Reason: "no member answers"}
			if j := slices.IndexFunc(asked, func(q *question) bool { return q.reply.OK() }); j >= 0 {
				w.m.VIPs[i].Reply = asked[j].reply
			}
		})
	}
}

// accepts says who may answer for a listener: the VIP; and a member itself where nothing
// on the way of the answer makes it the VIP's before it is caught.
func (w *work) accepts(v VIP, l Listener) func(netip.AddrPort, topology.Place) (bool, string) {
	vip := netip.AddrPortFrom(v.Address, l.Port)
	return func(src netip.AddrPort, at topology.Place) (ok bool, odd string) {
		switch {
		case src == vip:
			return true, ""
		case !slices.Contains(l.Members, src):
			return false, ""
		case v.Tracked || w.stages[ofproto.DPID(at.DPID)] == controller.StageObserve:
			return true, ""
		}
		return false, fmt.Sprintf("member %s answered in its own name at switch %s, not in the VIP's", src, at.DPID)
	}
}

// askProbes has the further questions asked. Addresses that are of no known host are
// looked for first.
func (w *work) askProbes(ctx context.Context) error {
	search := map[documents.Probe][]*question{}
	var all []*question
	for _, p := range w.req.Probes {
		to := target(p)
		_, known := w.host(p.VLAN, p.Address)
		if _, ok := search[to]; ok || known || w.vipAt(p) != nil {
			continue
		}
		for _, dpid := range w.from {
			search[to] = append(search[to], askHost(dpid, packet.Broadcast, p.Address, p.VLAN))
		}
		all = append(all, search[to]...)
	}
	if err := w.fire(ctx, all); err != nil {
		return err
	}
	for _, p := range w.req.Probes {
		for i, dpid := range w.from {
			at := len(w.m.Probes)
			w.m.Probes = append(w.m.Probes, ProbeAnswer{From: dpid.String(), Probe: p})
			q, found := w.askProbe(dpid, p, search[target(p)])
			switch {
			case q != nil:
				w.ask(q, func(q *question) { w.m.Probes[at].Reply = q.reply })
			case p.Type == documents.ProbeARP && found == "":
				w.m.Probes[at].Reply = search[target(p)][i].reply
			default:
				w.m.Probes[at].Reply = Reply{Result: NoAnswer, Reason: found}
				if w.vipAt(p) != nil {
					w.m.Probes[at].Result = Skipped
				}
			}
		}
	}
	return nil
}

// target is what of a probe tells where it goes.
func target(p documents.Probe) documents.Probe {
	return documents.Probe{Address: p.Address, VLAN: p.VLAN}
}

// askProbe returns the question that a probe is, from one switch. nil: it is not asked,
// and why says the reason, empty where search has asked it already.
func (w *work) askProbe(from ofproto.DPID, p documents.Probe, search []*question) (q *question, why string) {
	var mac packet.MAC
	vlan := p.VLAN
	v := w.vipAt(p)
	switch h, ok := w.host(p.VLAN, p.Address); {
	case v != nil && p.Type != documents.ProbeTCP:
		return nil, "it is the address of VIP " + v.Name + ": the switch itself answers, to the port that was asked from"
	case v != nil && w.stages[from] == controller.StageObserve:
		return nil, "it is the address of VIP " + v.Name + ", which the switch does not serve in stage observe"
	case v != nil:
		mac = packet.MAC(v.MAC)
	case ok:
		mac, vlan = packet.MAC(h.MAC), w.vlanTo(h)
	case p.Type == documents.ProbeARP:
		return nil, ""
	default:
		i := slices.IndexFunc(search, func(q *question) bool { return q.reply.OK() })
		if i < 0 {
			return nil, "nobody answers for " + p.Address.String()
		}
		mac = search[i].mac
	}
	source := w.req.source(p.Address)
	switch {
	case p.Type == documents.ProbeARP:
		return askHost(from, mac, p.Address, vlan), ""
	case p.Type == documents.ProbePing:
		return askPing(from, source, mac, p.Address, vlan), ""
	}
	to := netip.AddrPortFrom(p.Address, p.Port)
	accept := func(src netip.AddrPort, _ topology.Place) (ok bool, odd string) {
		if src == to {
			return true, ""
		}
		if name := w.renames(to, src); name != "" {
			return true, fmt.Sprintf("it is a member of VIP %s, in whose name it answers to whoever asks: %s", name, src)
		}
		return false, "the answer came in the name of " + src.String()
	}
	if v != nil {
		if i := slices.IndexFunc(v.Listeners, func(l Listener) bool { return l.Protocol == "tcp" && l.Port == p.Port }); i >= 0 {
			accept = w.accepts(*v, v.Listeners[i])
		}
	}
	return askTCP(from, source, mac, to, vlan, accept), ""
}

// renames returns the VIP whose address and port a member's replies are given, by mode nat
// in every switch that serves it; empty: none.
func (w *work) renames(member, as netip.AddrPort) string {
	for _, v := range w.vips {
		for _, l := range v.Listeners {
			if !v.Tracked && l.Protocol == "tcp" && as == netip.AddrPortFrom(v.Address, l.Port) && slices.Contains(l.Members, member) {
				return v.Name
			}
		}
	}
	return ""
}

// vipAt returns the VIP that has the address of a probe; nil: none.
func (w *work) vipAt(p documents.Probe) *VIP {
	i := slices.IndexFunc(w.vips, func(v VIP) bool { return v.Address == p.Address && v.VLAN == p.VLAN })
	if i < 0 {
		return nil
	}
	return &w.vips[i]
}
