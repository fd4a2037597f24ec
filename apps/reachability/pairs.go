package reachability

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"
	"strconv"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// pair is one to be measured.
type pair struct {
	from ofproto.DPID
	mac  packet.MAC
	addr netip.Addr
	vlan uint16
	at   Place
}

// pairs has the hosts asked from each switch.
func (w *work) pairs() {
	var all []pair
	switch {
	case w.req.Like != nil:
		all = w.earlier()
	case w.req.Hosts:
		all = w.known()
	}
	w.m.Total = len(all)
	all = sample(all, w.req.MaxPairs)
	if left := w.m.Total - len(all); left > 0 {
		w.note("%d of %d pairs of a switch and a host were left out: max_pairs is %d", left, w.m.Total, w.req.MaxPairs)
	}
	w.m.Pairs = make([]Pair, len(all))
	for i, p := range all {
		w.m.Pairs[i] = Pair{From: p.from.String(), Address: p.addr, MAC: ofproto.MAC(p.mac).String(), VLAN: p.vlan, At: p.at}
		if at, ok := w.snap.Host(topology.MAC(p.mac), p.vlan); ok && w.away[ofproto.DPID(at.Place.DPID)] {
			w.m.Pairs[i].Reply = Reply{Result: Skipped, Reason: "its switch is not connected, which would catch the answer"}
			continue
		}
		vlan := p.vlan
		if vlan == 0 {
			vlan = w.access[w.placeNow(p)]
		}
		w.ask(askHost(p.from, p.mac, p.addr, vlan), func(q *question) { w.m.Pairs[i].Reply = q.reply })
	}
}

// known are all pairs of a switch that is measured from and an address of a host.
func (w *work) known() (all []pair) {
	silent := 0
	for _, h := range w.snap.Hosts() {
		addrs := asked(h.IPs)
		if len(addrs) == 0 {
			silent++
		}
		for _, addr := range addrs {
			for _, dpid := range w.from {
				all = append(all, pair{dpid, packet.MAC(h.MAC), addr, h.VLAN, placeOf(h.Place)})
			}
		}
	}
	if silent > 0 {
		w.note("hosts without an address that is known were not asked: %d", silent)
	}
	return all
}

// asked chooses the addresses by which a host is asked: one of each family, a link-local
// one where there is no other.
func asked(ips []netip.Addr) (chosen []netip.Addr) {
	var four, six, local netip.Addr
	for _, a := range slices.SortedFunc(slices.Values(ips), netip.Addr.Compare) {
		switch {
		case a.Is4() && !four.IsValid():
			four = a
		case a.Is6() && a.IsLinkLocalUnicast() && !local.IsValid():
			local = a
		case a.Is6() && !a.IsLinkLocalUnicast() && !six.IsValid():
			six = a
		}
	}
	for _, a := range []netip.Addr{four, six} {
		if a.IsValid() {
			chosen = append(chosen, a)
		}
	}
	if len(chosen) == 0 && local.IsValid() {
		chosen = append(chosen, local)
	}
	return chosen
}

// earlier are the pairs of an earlier measurement whose switch is measured from now. A
// switch that came since asks all hosts, those of the earlier measurement and those that
// are known now.
func (w *work) earlier() (all []pair) {
	since := map[string]ofproto.DPID{}
	for _, dpid := range w.from {
		since[dpid.String()] = dpid
	}
	then := map[string]ofproto.DPID{}
	for _, sw := range w.req.Like.Switches {
		if dpid, ok := since[sw.DPID]; ok && sw.Skipped == "" {
			then[sw.DPID] = dpid
			delete(since, sw.DPID)
		}
	}
	asked := map[pair]bool{} // with no place: a host may have moved
	add := func(p pair) {
		if k := (pair{p.from, p.mac, p.addr, p.vlan, Place{}}); !asked[k] {
			asked[k] = true
			all = append(all, p)
		}
	}
	for _, p := range w.req.Like.Pairs {
		mac, err := net.ParseMAC(p.MAC)
		if err != nil || len(mac) != len(packet.MAC{}) {
			continue
		}
		host := pair{0, packet.MAC(mac), p.Address, p.VLAN, p.At}
		if dpid, ok := then[p.From]; ok {
			host.from = dpid
			add(host)
		}
		for _, dpid := range since {
			host.from = dpid
			add(host)
		}
	}
	for _, p := range w.known() {
		if _, ok := since[p.from.String()]; ok {
			add(p)
		}
	}
	return all
}

// sample takes at most that many pairs: always the same of the same, and spread over
// switches and hosts. It returns them in the order of addresses and switches.
func sample(all []pair, most int) []pair {
	if len(all) > most {
		rank := make(map[pair]uint64, len(all))
		for _, p := range all {
			h := fnv.New64a()
			_, _ = fmt.Fprint(h, p.from, p.mac, p.addr, p.vlan)
			rank[p] = h.Sum64()
		}
		slices.SortFunc(all, func(a, b pair) int { return cmp.Compare(rank[a], rank[b]) })
		all = all[:most]
	}
	slices.SortFunc(all, func(a, b pair) int {
		return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.vlan, b.vlan), cmp.Compare(a.from, b.from), slices.Compare(a.mac[:], b.mac[:]))
	})
	return all
}

// placeNow is where the host of a pair is, or was when nobody knows any more.
func (w *work) placeNow(p pair) topology.Place {
	if h, ok := w.snap.Host(topology.MAC(p.mac), p.vlan); ok {
		return h.Place
	}
	dpid, err := strconv.ParseUint(p.at.DPID, 16, 64)
	if err != nil {
		return topology.Place{}
	}
	return topology.Place{DPID: topology.DPID(dpid), Port: topology.Port(p.at.Port)}
}

// vlanTo is the VLAN in which a host is asked: that of its frames, or that of its access
// port.
func (w *work) vlanTo(h topology.Host) uint16 {
	if h.VLAN == 0 {
		return w.access[h.Place]
	}
	return h.VLAN
}

// host finds who has an address; a host of a VLAN may be behind an access port of it.
func (w *work) host(vlan uint16, addr netip.Addr) (topology.Host, bool) {
	h, ok := w.snap.HostByIP(vlan, addr)
	if !ok && vlan != 0 {
		h, ok = w.snap.HostByIP(0, addr)
	}
	return h, ok
}
