package balancer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/controller/trace"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Query is a packet to be explained: the first one of a connection.
type Query struct {
	Protocol Protocol
	From, To netip.AddrPort
	// At is the port that it comes in by; nil: where From was seen.
	At *topology.Place
}

// Explanation is what becomes of a packet.
type Explanation struct {
	Protocol Protocol       `json:"protocol"`
	From     netip.AddrPort `json:"from"`
	To       netip.AddrPort `json:"to"`
	At       string         `json:"at"` // dpid/port

	VIP      string `json:"vip,omitempty"`      // that the packet is for
	Listener string `json:"listener,omitempty"` // "tcp:80"
	Slot     *int   `json:"slot"`               // that it takes; null where that cannot be told, and without a VIP
	Slots    int    `json:"slots,omitempty"`    // of the table
	Member   string `json:"member,omitempty"`   // that it goes to
	// Candidates are the members it may go to where the switch's choice is not known.
	Candidates []CandidateView `json:"candidates,omitempty"`

	Result  trace.Result `json:"result"`
	Reasons []string     `json:"reasons"`
	Path    []HopView    `json:"path"`
	Reply   *ReplyView   `json:"reply,omitempty"` // of the member, where the packet is delivered

	Installed string `json:"installed"` // same, different or unknown: what the switches on the way hold
	// InstalledError is why it is unknown.
	InstalledError string           `json:"installed_error,omitempty"`
	Differences    []DifferenceView `json:"differences"`
	// InstalledPath is the way by what is installed, where that is different.
	InstalledPath   []HopView    `json:"installed_path,omitempty"`
	InstalledResult trace.Result `json:"installed_result,omitempty"`
	InstalledMember string       `json:"installed_member,omitempty"`
}

// Values of Explanation.Installed.
const (
	InstalledSame      = "same"
	InstalledDifferent = "different"
	InstalledUnknown   = "unknown"
)

// ReplyView is the way of the answer.
type ReplyView struct {
	From    netip.AddrPort `json:"from"` // as the member sends it
	To      netip.AddrPort `json:"to"`
	At      string         `json:"at"`
	Result  trace.Result   `json:"result"`
	Reason  string         `json:"reason,omitempty"`
	Path    []HopView      `json:"path"`
	Arrives *PacketView    `json:"arrives,omitempty"` // as the client gets it
}

// CandidateView is one member that a packet may go to.
type CandidateView struct {
	Member string `json:"member,omitempty"`
	Slots  []int  `json:"slots"` // by which it would
	Port   string `json:"port,omitempty"`
}

// HopView is the way through one switch.
type HopView struct {
	DPID    string       `json:"dpid"`
	InPort  string       `json:"in_port"`
	After   *int         `json:"after,omitempty"` // index of the hop that it comes from
	Packet  PacketView   `json:"packet"`          // as it comes in
	Steps   []StepView   `json:"steps"`
	Group   uint32       `json:"group,omitempty"` // of the listener
	Slot    *int         `json:"slot,omitempty"`
	Slots   int          `json:"slots,omitempty"`
	Member  string       `json:"member,omitempty"`
	OutPort string       `json:"out_port,omitempty"` // where there is one alone
	Outputs []OutputView `json:"outputs"`
	Error   string       `json:"error,omitempty"` // why the switch could not be asked
}

// StepView is a table or a group that the packet meets.
type StepView struct {
	Depth    int               `json:"depth,omitempty"` // of groups and recirculations
	Table    *uint8            `json:"table,omitempty"`
	Name     string            `json:"name,omitempty"` // of the table
	Priority uint16            `json:"priority,omitempty"`
	Match    map[string]string `json:"match,omitempty"`
	Cookie   string            `json:"cookie,omitempty"`
	Group    uint32            `json:"group,omitempty"`
	Type     string            `json:"type,omitempty"`   // of the group
	Bucket   *int              `json:"bucket,omitempty"` // that is taken
	Buckets  int               `json:"buckets,omitempty"`
	Owner    string            `json:"owner,omitempty"` // app; empty when it is not Fairlead's
	Part     string            `json:"part,omitempty"`  // of the app: "vip/web"
	Actions  []string          `json:"actions"`         // none: the packet is dropped
	Note     string            `json:"note,omitempty"`
}

// PacketView is the headers of a packet.
type PacketView struct {
	EthSrc string         `json:"eth_src"`
	EthDst string         `json:"eth_dst"`
	VLAN   uint16         `json:"vlan,omitempty"`
	Src    netip.AddrPort `json:"src"`
	Dst    netip.AddrPort `json:"dst"`
}

// OutputView is a copy that leaves a switch.
type OutputView struct {
	To     trace.Kind `json:"to"`
	Port   string     `json:"port,omitempty"`
	Packet PacketView `json:"packet"`
	Next   *int       `json:"next,omitempty"` // hop that it leads to; a port without one leads out of the network
	Note   string     `json:"note,omitempty"`
}

// DifferenceView is an entry or a group on the way that is not as it is to be.
type DifferenceView struct {
	DPID      string            `json:"dpid"`
	Change    trace.Change      `json:"change"`
	Table     *uint8            `json:"table,omitempty"`
	Priority  uint16            `json:"priority,omitempty"`
	Match     map[string]string `json:"match,omitempty"`
	Group     uint32            `json:"group,omitempty"`
	Owner     string            `json:"owner,omitempty"`
	Part      string            `json:"part,omitempty"`
	Desired   []string          `json:"desired"`
	Installed []string          `json:"installed"`
}

// The addresses of stations that nobody has seen.
var (
	unseenSource      = ofproto.MAC{0x02, 0x46, 0x4c, 0x00, 0x00, 0xfe}
	unseenDestination = ofproto.MAC{0x02, 0x46, 0x4c, 0x00, 0x00, 0xff}
)

// explainer gathers what an explanation is made from.
type explainer struct {
	s    *Service
	ctx  context.Context
	q    Query
	snap *topology.Snapshot
	// serving are the switches that have VIPs installed; macs are those of VIPs.
	serving map[topology.DPID]bool
	macs    map[ofproto.MAC]bool
	known   map[topology.DPID]map[topology.Port]bool

	vip      *vip // that the packet is for
	listener int  // of its record; -1: none
	status   Status
	inputs   map[ofproto.DPID]vipInput

	reasons []string
}

// Explain follows the first packet of a connection, and the answer to it, through what
// the switches are to hold, and compares that with what they hold. An *InvalidError
// says which field of the query makes no sense.
func (s *Service) Explain(ctx context.Context, q Query) (Explanation, error) {
	x := &explainer{s: s, ctx: ctx, q: q, listener: -1}
	if err := x.look(); err != nil {
		return Explanation{}, err
	}
	h, at, err := x.headers()
	if err != nil {
		return Explanation{}, err
	}
	desired := &pipelines{x: x, read: s.core.Desired, got: map[ofproto.DPID]pipeline{}}
	tracked := trace.Tracked{}
	path := trace.Walk(desired, at, trace.NewPacket(h), tracked)
	e := Explanation{
		Protocol: q.Protocol, From: q.From, To: q.To, At: at.String(), Differences: []DifferenceView{},
		Result: path.Result, Path: x.hops(path),
	}
	x.name(&e, path)
	paths := []trace.Path{path}
	if back, ok := x.reply(desired, path, tracked); ok {
		e.Reply = back.view
		paths = append(paths, back.path)
	}
	x.compare(&e, desired, at, h, paths)
	if path.Reason != "" {
		x.because("%s", path.Reason)
	}
	if e.Reasons = x.reasons; e.Reasons == nil {
		e.Reasons = []string{}
	}
	return e, nil
}

func (x *explainer) because(format string, args ...any) {
	if r := fmt.Sprintf(format, args...); !slices.Contains(x.reasons, r) {
		x.reasons = append(x.reasons, r)
	}
}

// look reads what the core knows.
func (x *explainer) look() error {
	var bad faults
	x.inputs = map[ofproto.DPID]vipInput{}
	x.serving, x.macs = map[topology.DPID]bool{}, map[ofproto.MAC]bool{}
	x.known = map[topology.DPID]map[topology.Port]bool{}
	err := x.s.core.Known(x.ctx, func(c *controller.Context, sw *controller.Switch) {
		x.snap = c.Graph.Snapshot()
		ports := map[topology.Port]bool{}
		for n := range sw.Ports {
			ports[topology.Port(n)] = true
		}
		x.known[topology.DPID(sw.DPID)] = ports
	})
	if err != nil {
		return err
	}
	err = x.s.core.Do(x.ctx, func(c *controller.Context) {
		x.snap = c.Graph.Snapshot()
		a := x.s.app
		for name := range a.byAddress[x.q.To.Addr()] {
			v := a.vips[name]
			if x.vip != nil && x.listener >= 0 || v.rec == nil {
				continue
			}
			x.vip, x.listener = v, listenerFor(v.rec, x.q)
		}
		for _, v := range a.vips {
			if v.rec != nil {
				x.macs[v.rec.VIP.MAC] = true
			}
		}
		for sw := range c.Switches() {
			if !serves(sw) {
				continue
			}
			x.serving[topology.DPID(sw.DPID)] = true
			if x.vip != nil {
				x.inputs[sw.DPID] = a.input(c, sw, x.vip)
			}
		}
		if x.vip != nil {
			x.status, _ = a.Status(c, x.vip.name)
		}
	})
	if err != nil {
		return err
	}
	if x.q.From.Addr().Is4() != x.q.To.Addr().Is4() {
		bad.add("to", "must be of the family of from")
	}
	if at := x.q.At; at != nil {
		if ports, ok := x.known[at.DPID]; !ok {
			bad.add("at", "no switch %s is known", at.DPID)
		} else if !ports[at.Port] {
			bad.add("at", "switch %s has no port %s", at.DPID, at.Port)
		}
	}
	if len(bad) > 0 {
		return &InvalidError{bad}
	}
	return nil
}

// listenerFor returns the index of the listener of a VIP that a packet is for: that of
// its very port before one of a range. -1: none.
func listenerFor(rec *Record, q Query) int {
	found := -1
	for i, l := range rec.VIP.Listeners {
		switch port := q.To.Port(); {
		case l.Protocol != q.Protocol:
		case l.Port == port:
			return i
		case l.PortEnd != 0 && l.Port < port && port <= l.PortEnd:
			found = i
		}
	}
	return found
}

// headers are those that the packet has where it comes in.
func (x *explainer) headers() (h trace.Headers, at topology.Place, err error) {
	h.Tuple = trace.Tuple{Proto: x.q.Protocol.number(), Src: x.q.From, Dst: x.q.To}
	if x.q.Protocol == TCP {
		h.TCPFlags = 0x002 // SYN
	}
	vlan := uint16(0)
	if x.vip != nil {
		vlan = x.vip.rec.VIP.VLAN
	}
	client, seen := x.host(vlan, x.q.From.Addr())
	switch {
	case x.q.At != nil:
		at = *x.q.At
	case seen:
		at = client.Place
	default:
		return h, at, &InvalidError{[]FieldError{{Field: "at", Reason: fmt.Sprintf("%s has not been seen: say where the packet comes in", x.q.From.Addr())}}}
	}
	switch {
	case seen:
		h.EthSrc, h.VLAN = ofproto.MAC(client.MAC), client.VLAN
		if client.Place != at {
			x.because("%s was seen at %s, not at %s", x.q.From.Addr(), client.Place, at)
		}
	default:
		h.EthSrc, h.VLAN = unseenSource, vlan
		for _, other := range x.snap.Hosts() {
			if other.Place == at && other.VLAN == vlan { // a router, most likely
				h.EthSrc = ofproto.MAC(other.MAC)
				x.because("%s has not been seen: taken to be behind %s, which is at %s", x.q.From.Addr(), other.MAC, at)
				break
			}
		}
		if h.EthSrc == unseenSource {
			x.because("%s has not been seen: the packet is given a source address that nobody has", x.q.From.Addr())
		}
	}
	if x.vip != nil {
		h.EthDst = x.vip.rec.VIP.MAC
	} else if to, ok := x.host(h.VLAN, x.q.To.Addr()); ok {
		h.EthDst = ofproto.MAC(to.MAC)
	} else {
		h.EthDst = unseenDestination
		x.because("%s is no VIP and has not been seen: the packet is given a destination that nobody has", x.q.To.Addr())
	}
	return h, at, nil
}

// host finds who has an address, on that VLAN if there is one.
func (x *explainer) host(vlan uint16, ip netip.Addr) (topology.Host, bool) {
	if h, ok := x.snap.HostByIP(vlan, ip); ok {
		return h, true
	}
	for _, h := range x.snap.Hosts() {
		if slices.Contains(h.IPs, ip) {
			return h, true
		}
	}
	return topology.Host{}, false
}

// pipeline is one switch as it was read, or why it was not.
type pipeline struct {
	sw  *trace.Switch
	err error
}

// pipelines is the network as a walk sees it (trace.Network). Each switch is read once.
type pipelines struct {
	x    *explainer
	read func(context.Context, ofproto.DPID) (*trace.Switch, error)
	got  map[ofproto.DPID]pipeline
}

// Switch implements trace.Network.
func (n *pipelines) Switch(dpid ofproto.DPID) (*trace.Switch, error) {
	p, ok := n.got[dpid]
	if !ok {
		p.sw, p.err = n.read(n.x.ctx, dpid)
		if errors.Is(p.err, controller.ErrNotConnected) {
			p.err = errors.New("is not connected")
		}
		n.got[dpid] = p
	}
	return p.sw, p.err
}

// Peer implements trace.Network.
func (n *pipelines) Peer(at topology.Place) (to topology.Place, link, up bool) {
	to, up = n.x.snap.Peer(at)
	return to, up || n.x.snap.IsLink(at), up
}

// Normal implements trace.Network: the switch's own forwarding is taken to know what
// the graph knows. Who answers ARP for a VIP is the nearest switch that serves it.
func (n *pipelines) Normal(dpid ofproto.DPID, p *trace.Packet) (port ofproto.Port, why string, ok bool) {
	from, snap := topology.DPID(dpid), n.x.snap
	if n.x.macs[p.EthDst()] {
		var best []topology.Hop
		for _, to := range slices.Sorted(maps.Keys(n.x.serving)) {
			if path := snap.Path(from, to); len(path) > 1 && (best == nil || len(path) < len(best)) {
				best = path
			}
		}
		if best == nil {
			return 0, "the switch's own forwarding; no switch that serves VIPs is reached from it", false
		}
		return ofproto.Port(best[0].Out), "the switch's own forwarding: towards the nearest switch that serves VIPs", true
	}
	h, found := snap.Host(topology.MAC(p.EthDst()), p.VLAN())
	switch {
	case !found:
		return 0, "the switch's own forwarding; where it sends " + p.EthDst().String() + " is not known", false
	case h.Place.DPID == from:
		return ofproto.Port(h.Place.Port), "the switch's own forwarding: " + h.MAC.String() + " is at this port", true
	}
	next, reached := snap.NextHop(from, h.Place.DPID)
	if !reached {
		return 0, "the switch's own forwarding; no path to " + h.MAC.String() + " is known", false
	}
	return ofproto.Port(next), "the switch's own forwarding: " + h.MAC.String() + " is that way", true
}

// answer is the reply to a packet.
type answer struct {
	path trace.Path
	view *ReplyView
}

// reply follows the answer of whoever the packet was delivered to.
func (x *explainer) reply(n trace.Network, path trace.Path, tracked trace.Tracked) (answer, bool) {
	if path.Result != trace.Delivered {
		return answer{}, false
	}
	d := path.Deliveries[0]
	h := trace.Headers{EthSrc: d.Packet.EthDst(), EthDst: d.Packet.EthSrc(), VLAN: d.Packet.VLAN(), Tuple: d.Packet.Tuple().Reverse()}
	if x.q.Protocol == TCP {
		h.TCPFlags = 0x012 // SYN and ACK
	}
	back := trace.Walk(n, d.At, trace.NewPacket(h), tracked)
	v := &ReplyView{From: h.Src, To: h.Dst, At: d.At.String(), Result: back.Result, Reason: back.Reason, Path: x.hops(back)}
	if len(back.Deliveries) == 1 {
		p := packetView(back.Deliveries[0].Packet)
		v.Arrives = &p
		if p.Src != x.q.To || p.Dst != x.q.From {
			v.Reason = fmt.Sprintf("it arrives as %s → %s, which the client does not expect", p.Src, p.Dst)
		}
	}
	return answer{back, v}, true
}

// record is the listener's; it may be asked for only when there is one.
func (x *explainer) record() ListenerRecord { return x.vip.rec.Listeners[x.listener] }

// memberOf returns the index of the member that a packet goes to by these hops, or -1:
// the one whose group it passed, or whose address it bears.
func (x *explainer) memberOf(hops []trace.Hop, p *trace.Packet) int {
	if x.listener < 0 {
		return -1
	}
	members := x.record().Members
	for _, h := range hops {
		for _, st := range h.Steps {
			if st.Group == nil {
				continue
			}
			if i := slices.IndexFunc(members, func(m MemberRecord) bool { return m.Group == st.Group.ID }); i >= 0 {
				return i
			}
		}
	}
	if p == nil {
		return -1
	}
	dst := p.Tuple().Dst
	if i := slices.IndexFunc(members, func(m MemberRecord) bool { return m.Key == dst }); i >= 0 {
		return i
	}
	if i := slices.IndexFunc(members, func(m MemberRecord) bool { return m.Key.Addr() == dst.Addr() }); i >= 0 {
		return i
	}
	for i, m := range members {
		for _, in := range x.inputs {
			if t, ok := in.targets[m.Key.Addr()]; ok && t.mac == p.EthDst() {
				return i
			}
		}
	}
	return -1
}

// slotOf returns the slot that a packet takes in a switch, and the size of the table
// there. ok is false where it takes none; slot is -1 where which is not known.
func (x *explainer) slotOf(h trace.Hop) (slot, slots int, why string, ok bool) {
	if x.listener < 0 {
		return 0, 0, "", false
	}
	l := x.record()
	dpid := ofproto.DPID(h.At.DPID)
	in, serving := x.inputs[dpid]
	for _, st := range h.Steps {
		switch {
		case st.Group != nil && st.Group.ID == l.Group:
			slot, why = st.Meant, "the hash of addresses, protocol and ports"
			if len(st.Group.Buckets) == 1 {
				slot, why = 0, "there is one"
			} else if l.Key.Protocol == UDP {
				why = "the hash of addresses and protocol"
			}
			if st.Bucket >= 0 && st.Bucket != slot {
				x.because("switch %s: slot %d is skipped, for its member's port is down: slot %d is the next", dpid, slot, st.Bucket)
				slot = st.Bucket
			}
			return slot, len(st.Group.Buckets), why, true
		case st.Entry != nil && serving && st.Entry.Part.Name == partVIP+x.vip.name:
			owners := in.choices()[x.listener].owners
			for j := range owners {
				if st.Entry.Table == controller.TableSlot && has(st.Entry.Match, in.slotMatch(l, j, len(owners))) {
					return j, len(owners), "the source", true
				}
				for _, fs := range in.selector(l, j, len(owners)) {
					if len(fs) > 0 && has(st.Entry.Match, fs) {
						return j, len(owners), "bits of the source", true
					}
				}
			}
		}
	}
	return 0, 0, "", false
}

// has says whether a match has fields among its own.
func has(m ofproto.Match, fs []ofproto.Field) bool {
	for f := range ofproto.NewMatch(fs...).Fields() {
		g, ok := m.Lookup(f.Type)
		if !ok || g.String() != f.String() {
			return false
		}
	}
	return true
}

// name says which VIP, listener, slot and member a packet takes, and why.
func (x *explainer) name(e *Explanation, path trace.Path) {
	if x.vip == nil {
		return
	}
	e.VIP = x.vip.name
	if x.listener < 0 {
		x.because("vip %s has no listener %s:%d: what is addressed to a VIP is never ordinary traffic", x.vip.name, x.q.Protocol, x.q.To.Port())
		return
	}
	l := x.record()
	e.Listener = l.Key.String()
	if !x.vip.rec.VIP.Enabled {
		x.because("vip %s is disabled", x.vip.name)
	}
	if len(x.serving) == 0 {
		x.because("no connected switch is in a stage that serves VIPs")
	}
	member := -1
	for i, h := range path.Hops {
		slot, slots, why, ok := x.slotOf(h)
		if !ok {
			continue
		}
		dpid := ofproto.DPID(h.At.DPID)
		view := &e.Path[i]
		view.Group, view.Slots = uint32(l.Group), slots
		if !slices.ContainsFunc(h.Steps, func(st trace.Step) bool { return st.Group != nil && st.Group.ID == l.Group }) {
			view.Group = 0
		}
		e.Slots = slots
		if in, ok := x.inputs[dpid]; ok {
			if ch := in.choices()[x.listener]; ch.reason != "" {
				x.because("switch %s: %s", dpid, ch.reason)
			}
		}
		if slot >= 0 {
			e.Slot, view.Slot = &slot, &slot
			x.because("switch %s: slot %d of %d, by %s", dpid, slot, slots, why)
			x.whose(dpid, slot, slots)
		}
		if member = x.memberOf(path.Hops[i:i+1], nil); member >= 0 {
			view.Member = l.Members[member].Key.String()
		}
		break // further switches get what is a member's
	}
	if len(path.Deliveries) == 1 {
		d := path.Deliveries[0]
		member = cmp.Or(member+1, x.memberOf(path.Hops[:d.Hop+1], d.Packet)+1) - 1
	}
	if member >= 0 {
		e.Member = l.Members[member].Key.String()
	}
	if path.Result == trace.Undetermined {
		x.candidates(e, path)
	}
	if path.Result == trace.Dropped && len(x.status.Members[l.Key]) > 0 && e.Slots == 0 {
		for _, m := range l.Members {
			if st := x.status.Members[l.Key][m.Key]; st.Slots == 0 {
				x.because("member %s serves no slot: %s", m.Key, reasonOf(st))
			}
		}
	}
	if e.Slot == nil && e.Member != "" && len(l.Members) == 1 {
		x.because("%s is the only member", e.Member)
	}
}

// whose says to whom a slot belongs in a switch.
func (x *explainer) whose(dpid ofproto.DPID, slot, slots int) {
	in, ok := x.inputs[dpid]
	l := x.record()
	if !ok || len(l.Slots.Home) == 0 {
		return
	}
	owners := in.choices()[x.listener].owners
	home := l.Slots.Home
	if slots < len(home) {
		home = Fewer(home, slots)
	}
	if slot >= len(owners) || slot >= len(home) {
		return
	}
	owner, at := x.memberName(owners[slot]), x.memberName(home[slot])
	switch {
	case owner == "":
		x.because("slot %d has no owner", slot)
	case owners[slot] == home[slot]:
		x.because("slot %d is %s's own", slot, owner)
	case at == "":
		x.because("slot %d is %s's for now", slot, owner)
	default:
		key, _ := netip.ParseAddrPort(at)
		x.because("slot %d is lent to %s by %s: %s", slot, owner, at, reasonOf(x.status.Members[l.Key][key]))
	}
}

// memberName is the member with an index in slots; empty where there is none.
func (x *explainer) memberName(index uint16) string {
	for _, m := range x.record().Members {
		if m.Index == index {
			return m.Key.String()
		}
	}
	return ""
}

func reasonOf(st MemberStatus) string {
	why := string(st.Health)
	if st.Reason != "" {
		why += ", " + st.Reason
	}
	return why
}

// candidates lists the members that the packet may go to.
func (x *explainer) candidates(e *Explanation, path trace.Path) {
	for _, h := range path.Hops {
		for _, c := range h.Candidates {
			v := CandidateView{Slots: []int{c.Bucket}}
			var p *trace.Packet
			for _, o := range c.Outputs {
				if o.Kind == trace.ToPort {
					v.Port, p = topology.Place{DPID: h.At.DPID, Port: topology.Port(o.Port)}.String(), o.Packet
				}
			}
			if i := x.memberOf([]trace.Hop{{Visit: trace.Visit{Steps: c.Steps}}}, p); i >= 0 {
				v.Member = x.record().Members[i].Key.String()
			}
			if at := slices.IndexFunc(e.Candidates, func(o CandidateView) bool { return o.Member == v.Member && o.Port == v.Port }); at >= 0 {
				e.Candidates[at].Slots = append(e.Candidates[at].Slots, c.Bucket)
			} else {
				e.Candidates = append(e.Candidates, v)
			}
		}
	}
}

// compare follows the packet and its answer through what is installed too.
func (x *explainer) compare(e *Explanation, desired *pipelines, at topology.Place, h trace.Headers, paths []trace.Path) {
	found := &pipelines{x: x, read: x.s.core.Installed, got: map[ofproto.DPID]pipeline{}}
	tracked := trace.Tracked{}
	there := trace.Walk(found, at, trace.NewPacket(h), tracked)
	also := []trace.Path{there}
	if back, ok := x.reply(found, there, tracked); ok {
		also = append(also, back.path)
	}
	steps, dpids := map[ofproto.DPID][2][]trace.Step{}, map[ofproto.DPID]bool{}
	gather := func(i int, list []trace.Path) {
		for _, p := range list {
			for _, hop := range p.Hops {
				dpid := ofproto.DPID(hop.At.DPID)
				s := steps[dpid]
				s[i] = append(s[i], hop.Steps...)
				for _, c := range hop.Candidates {
					s[i] = append(s[i], c.Steps...)
				}
				steps[dpid], dpids[dpid] = s, true
			}
		}
	}
	gather(0, paths)
	gather(1, also)
	e.Installed = InstalledSame
	for _, dpid := range slices.Sorted(maps.Keys(dpids)) {
		want, err := desired.Switch(dpid)
		if err == nil {
			var has *trace.Switch
			if has, err = found.Switch(dpid); err == nil {
				for _, d := range trace.Differences(want, has, steps[dpid][0], steps[dpid][1]) {
					e.Differences = append(e.Differences, differenceView(d))
				}
				continue
			}
		}
		e.InstalledError = fmt.Sprintf("switch %s: %s", dpid, err)
	}
	switch {
	case len(e.Differences) > 0:
		e.Installed = InstalledDifferent
		e.InstalledPath, e.InstalledResult = x.hops(there), there.Result
		if len(there.Deliveries) == 1 {
			d := there.Deliveries[0]
			if i := x.memberOf(there.Hops[:d.Hop+1], d.Packet); i >= 0 {
				e.InstalledMember = x.record().Members[i].Key.String()
			}
		}
	case e.InstalledError != "":
		e.Installed = InstalledUnknown
	}
}

// hops shows a walk.
func (x *explainer) hops(p trace.Path) []HopView {
	views := make([]HopView, 0, len(p.Hops))
	for _, h := range p.Hops {
		v := HopView{
			DPID: h.At.DPID.String(), InPort: h.At.Port.String(), Packet: packetView(h.In),
			Steps: make([]StepView, 0, len(h.Steps)), Outputs: make([]OutputView, 0, len(h.Ends)),
		}
		if h.From >= 0 {
			v.After = &h.From
		}
		if h.Err != nil {
			v.Error = h.Err.Error()
		}
		for _, s := range h.Steps {
			v.Steps = append(v.Steps, stepView(s))
		}
		var out []string
		for _, e := range h.Ends {
			o := OutputView{To: e.Kind, Packet: packetView(e.Packet), Note: e.Note}
			if e.Port != 0 {
				o.Port = topology.Port(e.Port).String()
				out = append(out, o.Port)
			}
			if e.Next >= 0 {
				o.Next = &e.Next
			}
			v.Outputs = append(v.Outputs, o)
		}
		if len(out) == 1 {
			v.OutPort = out[0]
		}
		views = append(views, v)
	}
	return views
}

func packetView(p *trace.Packet) PacketView {
	t := p.Tuple()
	return PacketView{EthSrc: p.EthSrc().String(), EthDst: p.EthDst().String(), VLAN: p.VLAN(), Src: t.Src, Dst: t.Dst}
}

func stepView(s trace.Step) StepView {
	v := StepView{Depth: s.Depth, Note: s.Note, Actions: []string{}}
	switch {
	case s.Group != nil:
		v.Group, v.Type, v.Buckets = uint32(s.Group.ID), s.Group.Type.String(), len(s.Group.Buckets)
		v.Owner, v.Part = owner(s.Group.Part, flowtable.OwnsGroup(s.Group.ID))
		if s.Bucket >= 0 {
			v.Bucket = &s.Bucket
			v.Actions = actionStrings(s.Group.Buckets[s.Bucket].Actions)
		}
		return v
	case s.Entry == nil:
		v.Note = strings.TrimPrefix(v.Note+"; no entry matches", "; ")
	default:
		v.Priority, v.Match, v.Cookie = s.Entry.Priority, matchMap(s.Entry.Match), fmt.Sprintf("%#016x", s.Entry.Cookie)
		v.Owner, v.Part = ownerOf(s.Entry)
		for _, in := range s.Entry.Instructions {
			v.Actions = append(v.Actions, in.String())
		}
	}
	table := uint8(s.Table)
	v.Table = &table
	if spec, ok := controller.Pipeline.Table(s.Table); ok {
		v.Name = spec.Name
	}
	return v
}

func ownerOf(e *trace.Entry) (app, part string) {
	if e.Part == (flowtable.PartKey{}) && flowtable.OwnsCookie(e.Cookie) {
		return controller.AppNames[flowtable.CookieApp(e.Cookie)], ""
	}
	return owner(e.Part, false)
}

func owner(part flowtable.PartKey, ours bool) (app, name string) {
	if part == (flowtable.PartKey{}) {
		if ours {
			return "fairlead", ""
		}
		return "", ""
	}
	return controller.AppNames[part.App], part.Name
}

func matchMap(m ofproto.Match) map[string]string {
	out := map[string]string{}
	for f := range m.Fields() {
		name, value, _ := strings.Cut(f.String(), "=")
		out[name] = value
	}
	return out
}

func actionStrings(list []ofproto.Action) []string {
	out := make([]string, 0, len(list))
	for _, a := range list {
		out = append(out, a.String())
	}
	return out
}

func differenceView(d trace.Difference) DifferenceView {
	v := DifferenceView{DPID: d.DPID.String(), Change: d.Change, Desired: []string{}, Installed: []string{}}
	if e := cmp.Or(d.Desired, d.Installed); e != nil {
		table := uint8(e.Table)
		v.Table, v.Priority, v.Match = &table, e.Priority, matchMap(e.Match)
		v.Owner, v.Part = ownerOf(e)
	}
	if g := cmp.Or(d.DesiredGroup, d.InstalledGroup); g != nil {
		v.Group = uint32(g.ID)
		v.Owner, v.Part = owner(g.Part, true)
	}
	for _, side := range []struct {
		entry *trace.Entry
		group *trace.Group
		to    *[]string
	}{{d.Desired, d.DesiredGroup, &v.Desired}, {d.Installed, d.InstalledGroup, &v.Installed}} {
		if side.entry != nil {
			for _, in := range side.entry.Instructions {
				*side.to = append(*side.to, in.String())
			}
			if len(side.entry.Instructions) == 0 {
				*side.to = append(*side.to, "drop")
			}
		}
		if side.group != nil {
			for _, b := range side.group.Buckets {
				*side.to = append(*side.to, ofproto.FormatActions(b.Actions))
			}
		}
	}
	return v
}
