package reachability

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

const (
	// tick is how often questions are sent and given up.
	tick = 10 * time.Millisecond
	// askRate is how many questions are asked a second: well below what the answers of
	// one port may be (controller.Options.PacketInPortRate), were all behind it. askBurst
	// bounds how many are asked at once when the core was late.
	askRate  = 500
	askBurst = 20
	// tries is how often a question is asked before it counts as not answered.
	tries = 3

	// Source ports, and identifiers of pings. Those above are of health monitors.
	portFirst uint16 = 0xe000
	portMask  uint16 = 0x0fff
)

// key is what an answer has in it that tells its question.
type key struct {
	kind  kind
	lane  lane       // of ARP and neighbour discovery
	addr  netip.Addr // likewise
	vlan  uint16     // likewise
	local uint64     // port, identifier, or number of a frame
}

type kind uint8

const (
	kindARP kind = iota
	kindND
	kindTCP
	kindPing
	kindFrame
)

// question is asked of the network, again and again until it is answered or given up.
type question struct {
	from ofproto.DPID
	out  ofproto.Port // PortTable, or the port that it leaves by
	// ask returns the frame of a try, and the key of its answer.
	ask func(*run) (key, []byte)
	// judge takes in a frame with a key of the question. false: it is no answer.
	judge func(*controller.Context, *run, *packet.Frame, topology.Place) bool

	keys    []key // of all tries
	asked   time.Time
	mac     packet.MAC // of who answered
	reply   Reply
	settled bool
}

// run is a measurement under way. The core loop owns it.
type run struct {
	nonce   [8]byte
	timeout time.Duration
	lanes   map[ofproto.DPID]lane
	sources []netip.Addr
	access  AccessPorts

	queue   []*question // to be asked
	again   []*question // to be asked again; they go first
	waiting []wait      // for an answer, in order of time
	pending map[key]*question
	left    int           // questions that are not settled
	idle    chan struct{} // capacity 1: none is left
	spent   time.Time     // the rate is used up to this time
	local   uint64        // last number given out
	floods  floods
}

type wait struct {
	q   *question
	try int
	at  time.Time
}

func newRun(nonce [8]byte, from []ofproto.DPID, req Request, access AccessPorts) *run {
	r := &run{
		nonce: nonce, timeout: req.Timeout, sources: req.Sources, access: access, lanes: map[ofproto.DPID]lane{},
		pending: map[key]*question{}, idle: make(chan struct{}, 1),
		floods: floods{applied: map[ofproto.DPID]bool{}, copies: map[flow]int{}},
	}
	for i, dpid := range from {
		r.lanes[dpid] = laneFirst + lane(i%int(lanesMost))
	}
	return r
}

// add has questions asked.
func (r *run) add(list []*question) {
	r.queue = append(r.queue, list...)
	r.left += len(list)
}

// step asks what may be asked now, and gives up what was not answered in time.
func (r *run) step(c *controller.Context) {
	for len(r.waiting) > 0 && c.Now.Sub(r.waiting[0].at) >= r.timeout {
		w := r.waiting[0]
		r.waiting = r.waiting[1:]
		switch {
		case w.q.settled || w.q.reply.Tries != w.try:
		case w.try < tries:
			r.again = append(r.again, w.q)
		default:
			r.settle(w.q, NoAnswer, cmp.Or(w.q.reply.Reason, "no answer"))
		}
	}
	if earliest := c.Now.Add(-askBurst * time.Second / askRate); r.spent.Before(earliest) {
		r.spent = earliest
	}
	r.again = r.askSome(c, r.again)
	r.queue = r.askSome(c, r.queue)
}

// askSome asks from a list as far as the rate allows, and returns what is left of it.
func (r *run) askSome(c *controller.Context, list []*question) []*question {
	var later []*question // whose answers could be taken for those of others
	for i, q := range list {
		if !r.spent.Before(c.Now) {
			return append(later, list[i:]...)
		}
		switch {
		case q.settled:
			continue // answered late
		case c.Switch(q.from) == nil:
			r.settle(q, NoAnswer, "the switch is not connected any more")
			continue
		}
		k, frame := q.ask(r)
		if other := r.pending[k]; other != nil && other != q {
			later = append(later, q)
			continue
		}
		r.pending[k] = q
		q.keys = append(q.keys, k)
		q.asked = c.Now
		q.reply.Tries++
		r.waiting = append(r.waiting, wait{q, q.reply.Tries, c.Now})
		r.spent = r.spent.Add(time.Second / askRate)
		c.PacketOut(q.from, ofproto.PortController, frame, ofproto.OutputPort(q.out))
	}
	return later
}

// settle ends a question.
func (r *run) settle(q *question, result Result, reason string) {
	if q.settled {
		return
	}
	q.settled, q.reply.Result, q.reply.Reason = true, result, reason
	for _, k := range q.keys {
		delete(r.pending, k)
	}
	q.keys = nil
	if r.left--; r.left == 0 {
		select {
		case r.idle <- struct{}{}:
		default:
		}
	}
}

// number returns one that no question under way has: a port, or an identifier.
func (r *run) number(k kind) uint64 {
	for range uint64(portMask) {
		r.local++
		n := uint64(portFirst | uint16(r.local)&portMask)
		if r.pending[key{kind: k, local: n}] == nil {
			return n
		}
	}
	return uint64(portFirst) // the question is asked later
}

// packetIn takes in what a switch sent. It is of hosts, and not believed further than it
// goes.
func (r *run) packetIn(c *controller.Context, e controller.PacketIn) {
	f, err := packet.Decode(e.Data)
	if err != nil {
		return
	}
	at := place(e.DPID, e.InPort)
	dst := f.Ethernet().Dst
	if dst == packet.MAC(floodMAC) {
		r.flooded(c, &f, at)
		return
	}
	if !forUs(dst) {
		r.answerFor(c, &f, at)
		return
	}
	k, ok := r.keyOf(&f, dst, at)
	q := r.pending[k]
	if !ok || q == nil || !q.judge(c, r, &f, at) {
		return
	}
	caught := placeOf(at)
	q.reply.RTT, q.reply.Caught = c.Now.Sub(q.asked).Round(10*time.Microsecond).String(), &caught
	r.settle(q, Answered, q.reply.Reason)
}

// keyOf reads the key of an answer that came in at a port.
func (r *run) keyOf(f *packet.Frame, dst packet.MAC, at topology.Place) (k key, ok bool) {
	if f.Fragment() || f.Truncated() {
		return k, false
	}
	l, laned := laneOf(dst)
	tag, _ := f.VLAN()
	if tag.ID == 0 {
		tag.ID = r.access[at] // of the VLAN that it was asked in
	}
	if a, ok := f.ARP(); ok {
		return key{kind: kindARP, lane: l, addr: a.SPA, vlan: tag.ID}, laned && a.Op == packet.ARPReply
	}
	if m, ok := markerOf(f); ok {
		return key{kind: kindFrame, local: m.a}, m.nonce == r.nonce
	}
	if !f.ChecksumsOK() {
		return k, false
	}
	if n, ok := f.ND(); ok {
		return key{kind: kindND, lane: l, addr: n.Target, vlan: tag.ID}, laned && n.Type == packet.ICMPv6NeighborAdvertisement
	}
	if _, ok := f.TCP(); ok {
		_, local, _ := f.Ports()
		return key{kind: kindTCP, local: uint64(local)}, true
	}
	if m, ok := f.ICMP(); ok {
		return key{kind: kindPing, local: uint64(m.ID)}, m.Type == packet.ICMPEchoReply
	}
	if m, ok := f.ICMPv6(); ok {
		return key{kind: kindPing, local: uint64(m.ID)}, m.Type == packet.ICMPv6EchoReply
	}
	return k, false
}

// answerFor answers who asks for a source address of the measurement, where it is
// attached; switches copy such questions to the controller.
func (r *run) answerFor(c *controller.Context, f *packet.Frame, at topology.Place) {
	if len(r.sources) == 0 {
		return
	}
	tag, _ := f.VLAN()
	var reply []byte
	if q, ok := f.ARP(); ok && q.Op == packet.ARPRequest && r.isSource(q.TPA) {
		reply = packet.AppendARPReply(nil, packet.MAC(controller.ProbeMAC), q.TPA, q.SHA, q.SPA, packet.Tags(tag.ID)...)
	} else if q, ok := f.ND(); ok && q.Type == packet.ICMPv6NeighborSolicitation && r.isSource(q.Target) && f.ChecksumsOK() {
		src, _, _ := f.Addrs()
		if src.IsUnspecified() {
			return // somebody wants the address
		}
		reply = packet.AppendNeighborAdvertisement(nil, packet.Flow{
			SrcMAC: packet.MAC(controller.ProbeMAC), DstMAC: f.Ethernet().Src, Tags: packet.Tags(tag.ID),
			Src: netip.AddrPortFrom(q.Target, 0), Dst: netip.AddrPortFrom(src, 0),
		}, q.Target, true)
	}
	if reply != nil && !c.Graph.Snapshot().IsLink(at) {
		c.PacketOut(ofproto.DPID(at.DPID), ofproto.PortController, reply, ofproto.OutputPort(ofproto.Port(at.Port)))
	}
}

func (r *run) isSource(a netip.Addr) bool { return slices.Contains(r.sources, a) }

// askHost is the question to a host for its own address. to is its Ethernet address, or
// the broadcast address.
func askHost(from ofproto.DPID, to packet.MAC, addr netip.Addr, vlan uint16) *question {
	q := &question{from: from, out: ofproto.PortTable}
	q.ask = func(r *run) (key, []byte) {
		l := r.lanes[from]
		k := key{kind: kindARP, lane: l, addr: addr, vlan: vlan}
		if addr.Is6() {
			k.kind = kindND
		}
		return k, whoHas(l, to, addr, vlan)
	}
	q.judge = func(_ *controller.Context, _ *run, f *packet.Frame, _ topology.Place) bool {
		q.mac = f.Ethernet().Src
		if a, ok := f.ARP(); ok {
			q.mac = a.SHA
		}
		return packet.IsGroup(to) || q.mac == to // else another has the address too
	}
	return q
}

// askPing is an echo request. to is the Ethernet address of who has the address.
func askPing(from ofproto.DPID, source netip.Addr, to packet.MAC, addr netip.Addr, vlan uint16) *question {
	q := &question{from: from, out: ofproto.PortTable}
	q.ask = func(r *run) (key, []byte) {
		n := r.number(kindPing)
		f := packet.Flow{SrcMAC: r.lanes[from].mac(), DstMAC: to, Tags: packet.Tags(vlan), Src: netip.AddrPortFrom(source, 0), Dst: netip.AddrPortFrom(addr, 0)}
		return key{kind: kindPing, local: n}, packet.AppendEchoFrame(nil, f, false, uint16(n), uint16(q.reply.Tries), []byte("fairlead"))
	}
	q.judge = func(_ *controller.Context, _ *run, f *packet.Frame, _ topology.Place) bool {
		src, dst, _ := f.Addrs()
		return src == addr && dst == source
	}
	return q
}

// askTCP asks for a connection, which is reset when it is accepted. Each try is of
// another port, and may come to another member. members are who may answer in place of
// the address asked: where is told in odd.
func askTCP(from ofproto.DPID, source netip.Addr, to packet.MAC, addr netip.AddrPort, vlan uint16, accept func(src netip.AddrPort, at topology.Place) (ok bool, odd string)) *question {
	q := &question{from: from, out: ofproto.PortTable}
	flow := packet.Flow{DstMAC: to, Tags: packet.Tags(vlan), Dst: addr}
	q.ask = func(r *run) (key, []byte) {
		n := r.number(kindTCP)
		flow.SrcMAC, flow.Src = r.lanes[from].mac(), netip.AddrPortFrom(source, uint16(n))
		h := packet.TCP{Flags: packet.TCPSyn, Seq: binary.BigEndian.Uint32(r.nonce[:]), Window: 1024}
		return key{kind: kindTCP, local: n}, packet.AppendTCPFrame(nil, flow, h, nil)
	}
	q.judge = func(c *controller.Context, r *run, f *packet.Frame, at topology.Place) bool {
		h, _ := f.TCP()
		src, dst, _ := f.Addrs()
		who := netip.AddrPortFrom(src, h.SrcPort)
		ok, odd := accept(who, at)
		switch {
		case dst != source:
			return false
		case h.Flags&packet.TCPRst != 0:
			q.reply.Reason = "connection refused"
			return false // by one member; others may accept
		case h.Flags&(packet.TCPSyn|packet.TCPAck) != packet.TCPSyn|packet.TCPAck || h.Ack != binary.BigEndian.Uint32(r.nonce[:])+1:
			return false
		}
		rst := flow
		rst.SrcMAC, rst.Src = r.lanes[from].mac(), netip.AddrPortFrom(source, h.DstPort)
		c.PacketOut(from, ofproto.PortController, packet.AppendTCPFrame(nil, rst, packet.TCP{Flags: packet.TCPRst, Seq: h.Ack}, nil), ofproto.OutputPort(ofproto.PortTable))
		q.reply.Reason = odd
		return ok
	}
	return q
}
