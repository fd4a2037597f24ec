package balancer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// The switches count, and nobody else: a reading asks each of them for the counters of
// its groups, and for those of flow entries where a VIP has no groups or new connections
// are counted. Readings are shared by all who look, and are made only while somebody
// does.
const (
	// StatsAge is how old counters may be that are shown.
	StatsAge = 10 * time.Second
	// StatsLeast is the shortest time between two readings.
	StatsLeast = 200 * time.Millisecond

	statsTimeout = 10 * time.Second // of one reading
	statsAtOnce  = 8                // switches read at the same time
)

// Stats counts the traffic of a VIP over all switches. Counters only grow while the
// controller runs; where a switch has lost its own, what was read of them before stays
// counted. A controller that starts takes over what the switches have.
type Stats struct {
	Name string    `json:"name"`
	At   time.Time `json:"at"` // of the counters
	// Interval is the time since the reading before, over which rates and observed
	// shares are. 0s: there was none.
	Interval Duration `json:"interval"`
	Traffic
	Listeners []ListenerStats `json:"listeners"`
	// Unread are the switches whose counters could not be read, and why: what they had
	// counted before is in the sums.
	Unread []string `json:"unread"`
}

// Traffic is what has come from clients.
type Traffic struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
	// NewConnections is an estimate: the TCP segments that ask for one. Repeated ones
	// count again; of a member it is its share of the listener's by its slots. nil: no
	// switch counts them.
	NewConnections *uint64 `json:"new_connections"`
	// A second, over the interval.
	PacketRate        float64 `json:"packet_rate"`
	ByteRate          float64 `json:"byte_rate"`
	NewConnectionRate float64 `json:"new_connection_rate"`
}

// ListenerStats counts the traffic of one listener, that of members it has no more
// included.
type ListenerStats struct {
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`
	Traffic
	Slots int `json:"slots"` // size of the slot table
	// QuantisationError is what whole slots cost: the largest difference between a
	// member's share of its own slots and its share of the weights, 0 … 1.
	QuantisationError float64       `json:"quantisation_error"`
	Members           []MemberStats `json:"members"`
}

// MemberStats counts the traffic of one member of a listener.
type MemberStats struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	Traffic
	Slots       int     `json:"slots"`        // owned now
	Share       float64 `json:"share"`        // Slots over the size of the table, 0 … 1
	WeightShare float64 `json:"weight_share"` // of the weights of members of its kind: ordinary or backup
	// ObservedShare is of the listener's packets in the interval; nil: there were none.
	ObservedShare *float64 `json:"observed_share"`
}

// QuantisationError is what whole slots cost a listener: see ListenerStats.
func QuantisationError(rec Record, listener int) float64 {
	worst := 0.0
	for j := range rec.Listeners[listener].Members {
		own, weight := shares(rec, listener, j)
		worst = max(worst, math.Abs(own-weight))
	}
	return worst
}

// shares returns a member's shares of its own slots and of the weights.
func shares(rec Record, listener, member int) (own, weight float64) {
	l, members := rec.Listeners[listener], rec.VIP.Listeners[listener].Pool.Members
	table := l.Slots.Home
	if members[member].Backup {
		table = l.Slots.Backup
	}
	slots, sum := 0, 0
	for _, id := range table {
		if id == l.Members[member].Index {
			slots++
		}
	}
	for _, m := range members {
		if m.Backup == members[member].Backup {
			sum += m.SlotWeight()
		}
	}
	if len(table) > 0 {
		own = float64(slots) / float64(len(table))
	}
	if sum > 0 {
		weight = float64(members[member].SlotWeight()) / float64(sum)
	}
	return own, weight
}

// count is a pair of counters.
type count struct{ packets, bytes uint64 }

func (c count) plus(o count) count { return count{c.packets + o.packets, c.bytes + o.bytes} }

// since is what was counted since an earlier reading of the same counter. One that has
// become less was reset.
func (c count) since(o count) count {
	if c.packets < o.packets || c.bytes < o.bytes {
		return c
	}
	return count{c.packets - o.packets, c.bytes - o.bytes}
}

// sum is what has been counted of a member, or of a listener.
type sum struct {
	total, last count           // last: in the interval
	conns       float64         // new connections
	lastConns   float64         // in the interval
	listener    ofproto.GroupID // of a member: its listener's group
}

func (s *sum) add(delta count, recent bool) {
	s.total = s.total.plus(delta)
	if recent {
		s.last = s.last.plus(delta)
	}
}

// tally is what has been counted so far. Members and listeners are named by their
// groups, which are theirs also where a switch has no groups.
type tally struct {
	mu          sync.Mutex
	running     chan struct{} // closed when the reading under way has ended; nil: none is
	err         error         // of the last reading
	at, before  time.Time     // of the last two
	raw         map[ofproto.DPID]map[rawKey]count
	members     map[ofproto.GroupID]*sum
	listeners   map[ofproto.GroupID]*sum // of what members that are gone had counted, and connections
	connections bool                     // some switch counts new ones
	unread      map[ofproto.DPID]error
}

// rawKey names a counter of a switch: a group by its id, a bucket of one by bucketKey,
// a flow entry by its cookie, which stands for all that it is.
type rawKey uint64

func bucketKey(g ofproto.GroupID, bucket int) rawKey {
	return 1<<40 | rawKey(g&numberMask)<<16 | rawKey(bucket)
}

// fresh makes a reading unless the last one is young enough.
func (s *Service) fresh(ctx context.Context, age time.Duration) error {
	t := &s.traffic
	for {
		t.mu.Lock()
		if !t.at.IsZero() && time.Since(t.at) < max(age, StatsLeast) {
			t.mu.Unlock()
			return nil
		}
		running := t.running
		if running == nil {
			running = make(chan struct{})
			t.running = running
			go s.read(running)
		}
		t.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return ctx.Err()
		}
		t.mu.Lock()
		err := t.err
		t.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// read makes one reading, for all who wait for it. It does not end with any of them.
func (s *Service) read(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	t := &s.traffic
	err := s.readAll(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err, t.running = err, nil
	close(done)
}

// counted is how the counters of one switch are to be read.
type counted struct {
	dpid ofproto.DPID
	// buckets: of select groups whose slots hold the actions of members, the member of
	// each slot.
	buckets map[ofproto.GroupID][]ofproto.GroupID
	flows   bool                // there are VIPs without groups
	syns    map[uint16]struct{} // Ethernet types of VIPs whose new connections are counted
}

// books is what the counters of switches are attributed to.
type books struct {
	switches  []counted
	members   map[ofproto.GroupID]bool // groups of members
	listeners map[ofproto.GroupID]*bookListener
	byAddress map[netip.Addr][]*bookListener
}

// bookListener is a listener as counters are attributed to it.
type bookListener struct {
	group   ofproto.GroupID
	mode    Mode
	proto   uint8
	ports   portRange
	members []bookMember
}

type bookMember struct {
	MemberRecord
	mac   ofproto.MAC
	share float64 // of the slots
}

// bookVIP is a VIP as the core knows it. Owners are those of its slots, of each
// listener: they are not changed, only replaced.
type bookVIP struct {
	rec    *Record
	owners [][]uint16
	floors int // switches that have refused something of it
}

// vipsNow returns all VIPs. It is to be called on the core loop, and takes it as short
// as it can.
func (a *App) vipsNow() []bookVIP {
	all := make([]bookVIP, 0, len(a.vips))
	for _, v := range a.vips {
		if v.rec != nil {
			all = append(all, bookVIP{v.rec, slices.Clone(v.owners), len(v.floors)})
		}
	}
	return all
}

// toRead returns, on the core loop, all VIPs, how the counters of each switch are to be
// read, and the MACs of members, which only matter where VIPs have no groups.
func (a *App) toRead(c *controller.Context) (vips []bookVIP, switches []counted, macs map[netip.Addr]ofproto.MAC) {
	vips = a.vipsNow()
	types := map[uint16]struct{}{}
	var floored []*vip
	for _, v := range vips {
		types[etherTypeOf(v.rec.VIP.Address)] = struct{}{}
		if v.floors > 0 {
			floored = append(floored, a.vips[v.rec.VIP.Name])
		}
	}
	plain := true
	for sw := range c.Switches() {
		if !serves(sw) {
			continue
		}
		k := counted{dpid: sw.DPID, buckets: map[ofproto.GroupID][]ofproto.GroupID{}}
		if sw.Capabilities.TCPFlags && !sw.Capabilities.OneTable() {
			k.syns = types
		}
		of := floored
		if m, _, _ := Ladder(sw.Capabilities, sw.Stage); m != MethodChained {
			of = slices.Collect(maps.Values(a.vips))
		}
		for _, v := range of {
			if v.rec != nil {
				a.withoutMemberGroups(c, sw, v, &k)
			}
		}
		plain = plain && !k.flows
		switches = append(switches, k)
	}
	if plain {
		return vips, switches, nil
	}
	macs = make(map[netip.Addr]ofproto.MAC, len(a.members))
	for addr, at := range a.members {
		macs[addr] = at.mac
	}
	return vips, switches, macs
}

// newBooks makes the index by which counters are attributed.
func newBooks(vips []bookVIP, switches []counted, macs map[netip.Addr]ofproto.MAC) *books {
	b := &books{
		switches: switches, members: make(map[ofproto.GroupID]bool, 4*len(vips)),
		listeners: make(map[ofproto.GroupID]*bookListener, len(vips)), byAddress: make(map[netip.Addr][]*bookListener, len(vips)),
	}
	for _, v := range vips {
		for i, l := range v.rec.Listeners {
			bl := &bookListener{group: l.Group, mode: v.rec.VIP.Mode, proto: l.Key.Protocol.number(), ports: v.rec.VIP.Listeners[i].ports()}
			slots := map[uint16]int{}
			for _, id := range v.owners[i] {
				slots[id]++
			}
			for _, m := range l.Members {
				share := float64(slots[m.Index]) / float64(max(len(v.owners[i]), 1))
				bl.members = append(bl.members, bookMember{MemberRecord: m, mac: macs[m.Key.Addr()], share: share})
				b.members[m.Group] = true
			}
			b.listeners[l.Group] = bl
			b.byAddress[v.rec.VIP.Address] = append(b.byAddress[v.rec.VIP.Address], bl)
		}
	}
	return b
}

// withoutMemberGroups notes the listeners of a VIP whose members have no groups in a
// switch.
func (a *App) withoutMemberGroups(c *controller.Context, sw *controller.Switch, v *vip, k *counted) {
	for i, ch := range a.input(c, sw, v).choices() {
		l := v.rec.Listeners[i]
		switch ch.level {
		case levelInline:
			groups := map[uint16]ofproto.GroupID{}
			for _, m := range l.Members {
				groups[m.Index] = m.Group
			}
			for _, id := range ch.owners {
				k.buckets[l.Group] = append(k.buckets[l.Group], groups[id])
			}
		case levelNoGroups:
			k.flows = k.flows || ch.method != MethodRefused
		}
	}
}

// found is what one counter says, and of whom.
type found struct {
	count
	member   ofproto.GroupID // 0: of none
	listener ofproto.GroupID // whose new connections these are; 0: of none
}

// readAll reads all switches and adds what they have counted since.
func (s *Service) readAll(ctx context.Context) error {
	var vips []bookVIP
	var switches []counted
	var macs map[netip.Addr]ofproto.MAC
	err := s.core.Do(ctx, func(c *controller.Context) {
		vips, switches, macs = s.app.toRead(c)
	})
	if err != nil {
		return err
	}
	b := newBooks(vips, switches, macs)
	results := make([]map[rawKey]found, len(b.switches))
	errs := make([]error, len(b.switches))
	g := errgroup.Group{}
	g.SetLimit(statsAtOnce)
	for i := range b.switches {
		g.Go(func() error {
			results[i], errs[i] = s.readSwitch(ctx, b, &b.switches[i])
			return nil
		})
	}
	_ = g.Wait()
	s.traffic.take(b, results, errs, time.Now())
	return nil
}

// readSwitch reads the counters of one switch that count for somebody.
func (s *Service) readSwitch(ctx context.Context, b *books, k *counted) (map[rawKey]found, error) {
	got := map[rawKey]found{}
	err := s.core.GroupStats(ctx, k.dpid, func(g ofproto.GroupStats) {
		if b.members[g.Group] && g.Packets > 0 {
			got[rawKey(g.Group)] = found{count: count{g.Packets, g.Bytes}, member: g.Group}
		}
		for i, member := range k.buckets[g.Group] {
			if i < len(g.Buckets) && g.Buckets[i].Packets > 0 {
				got[bucketKey(g.Group, i)] = found{count: count{g.Buckets[i].Packets, g.Buckets[i].Bytes}, member: member}
			}
		}
	})
	var refused *ofproto.Error
	if err != nil && !errors.As(err, &refused) { // there are switches without groups
		return nil, err
	}
	flow := func(f ofproto.FlowStats) {
		if !flowtable.OwnsCookie(f.Cookie) || flowtable.CookieApp(f.Cookie) != controller.AppBalancer || f.Packets == 0 || f.Packets == math.MaxUint64 {
			return
		}
		if x := b.flow(f, k.flows); x.member != 0 || x.listener != 0 {
			got[rawKey(f.Cookie)] = x
		}
	}
	cookie, mask := flowtable.CookiesOf(controller.AppBalancer)
	which := ofproto.FlowStatsRequest{Table: ofproto.TableAll, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny, Cookie: cookie, CookieMask: mask}
	if k.flows {
		return got, s.core.FlowsOf(ctx, k.dpid, which, flow)
	}
	for t := range k.syns {
		which.Table, which.Match = controller.TableVIP, ofproto.NewMatch(ofproto.EthType(t), ofproto.IPProto(ofproto.ProtoTCP), synField())
		if err := s.core.FlowsOf(ctx, k.dpid, which, flow); err != nil {
			return got, err
		}
	}
	return got, nil
}

// flow says whose packets a flow entry counts: of a member if it delivers to one by
// itself, and of a listener's new connections.
func (b *books) flow(f ofproto.FlowStats, delivers bool) (x found) {
	x.count = count{f.Packets, f.Bytes}
	var l *bookListener
	var dst netip.Addr
	var port uint16
	for field := range f.Match.Fields() {
		switch field.Type {
		case ofproto.FieldNXMReg0 + controller.RegListener:
			l = b.listeners[ofproto.GroupID(field.Uint())]
		case ofproto.FieldIPv4Dst, ofproto.FieldIPv6Dst:
			dst = field.Addr()
		case ofproto.FieldTCPDst, ofproto.FieldUDPDst, ofproto.FieldSCTPDst:
			port = uint16(field.Uint())
		}
	}
	proto, _ := f.Match.Lookup(ofproto.FieldIPProto)
	byRegister := l != nil
	for _, at := range b.byAddress[dst] {
		if !byRegister && uint64(at.proto) == proto.Uint() && (at.ports.all() || at.ports.first <= port && port <= at.ports.last) {
			l = at
		}
	}
	if l == nil {
		return x
	}
	if _, syn := f.Match.Lookup(ofproto.FieldONFTCPFlags); syn {
		x.listener = l.group
	}
	if !delivers {
		return x
	}
	if l.mode == ModeConntrack {
		// What is known of a connection already does not pass the slots: the table after
		// them sees everything.
		if f.Table == controller.TableMember && byRegister {
			x.member = l.member(netip.AddrPortFrom(dst, port), ofproto.MAC{})
		}
		return x
	}
	ins, err := f.Instructions()
	if err != nil {
		return x
	}
	x.member = l.deliversTo(ins)
	return x
}

// deliversTo returns the group of the member that instructions deliver to by
// themselves; 0: to none, or by way of its group, which counts for it.
func (l *bookListener) deliversTo(ins []ofproto.Instruction) ofproto.GroupID {
	var to netip.Addr
	var port uint16
	var mac ofproto.MAC
	sends := false
	for _, in := range ins {
		apply, ok := in.(ofproto.ApplyActions)
		if !ok {
			continue
		}
		for _, a := range apply.Actions {
			switch a := a.(type) {
			case ofproto.Group:
				return 0
			case ofproto.Output, ofproto.Resubmit:
				sends = true
			case ofproto.SetField:
				switch f := a.Field; f.Type {
				case ofproto.FieldEthDst:
					mac = f.MAC()
				case ofproto.FieldIPv4Dst, ofproto.FieldIPv6Dst:
					to = f.Addr()
				case ofproto.FieldTCPDst, ofproto.FieldUDPDst, ofproto.FieldSCTPDst:
					port = uint16(f.Uint())
				}
			}
		}
	}
	if !sends {
		return 0
	}
	return l.member(netip.AddrPortFrom(to, port), mac)
}

// member returns the group of the member at an address, whose port may be 0 where there
// is but one there; or with a MAC, where there is no address.
func (l *bookListener) member(at netip.AddrPort, mac ofproto.MAC) ofproto.GroupID {
	var found ofproto.GroupID
	for _, m := range l.members {
		switch {
		case m.Key == at:
			return m.Group
		case at.Addr() == m.Key.Addr(), !at.Addr().IsValid() && m.mac == mac && mac != (ofproto.MAC{}):
			found = m.Group
		}
	}
	return found
}

// take adds what switches have counted since they were read last.
func (t *tally) take(b *books, results []map[rawKey]found, errs []error, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.raw == nil {
		t.raw = map[ofproto.DPID]map[rawKey]count{}
		t.members, t.listeners = map[ofproto.GroupID]*sum{}, map[ofproto.GroupID]*sum{}
	}
	t.before, t.at = t.at, now
	t.unread = map[ofproto.DPID]error{}
	t.connections = false
	for _, all := range []map[ofproto.GroupID]*sum{t.members, t.listeners} {
		for _, s := range all {
			s.last, s.lastConns = count{}, 0
		}
	}
	t.keep(b)
	for i, k := range b.switches {
		if errs[i] != nil {
			t.unread[k.dpid] = errs[i]
			continue
		}
		t.connections = t.connections || len(k.syns) > 0
		was, known := t.raw[k.dpid]
		now := make(map[rawKey]count, len(results[i]))
		for key, x := range results[i] {
			now[key] = x.count
			delta := x.count.since(was[key])
			if m := t.members[x.member]; m != nil {
				m.add(delta, known)
			}
			if l := b.listeners[x.listener]; l != nil {
				t.connected(l, float64(delta.packets), known)
			}
		}
		t.raw[k.dpid] = now
	}
}

// keep has a sum for each member and listener there is. What a member has counted that
// is gone stays with its listener.
func (t *tally) keep(b *books) {
	there := map[ofproto.GroupID]bool{}
	for group, l := range b.listeners {
		if t.listeners[group] == nil {
			t.listeners[group] = &sum{}
		}
		for _, m := range l.members {
			there[m.Group] = true
			if t.members[m.Group] == nil {
				t.members[m.Group] = &sum{listener: group}
			}
		}
	}
	for group, m := range t.members {
		if !there[group] {
			if l := t.listeners[m.listener]; l != nil {
				l.total = l.total.plus(m.total)
			}
			delete(t.members, group)
		}
	}
	for group := range t.listeners {
		if b.listeners[group] == nil {
			delete(t.listeners, group)
		}
	}
}

// connected counts new connections of a listener, and of its members by their shares.
func (t *tally) connected(l *bookListener, n float64, recent bool) {
	add := func(s *sum, n float64) {
		s.conns += n
		if recent {
			s.lastConns += n
		}
	}
	add(t.listeners[l.group], n)
	for _, m := range l.members {
		add(t.members[m.Group], n*m.share)
	}
}

// Stats counts the traffic of a VIP, by counters that are at most that old: StatsAge for
// 0, and never less than StatsLeast.
func (s *Service) Stats(ctx context.Context, name string, age time.Duration) (Stats, error) {
	rec, err := s.Intents.Get(ctx, name)
	if err != nil {
		return Stats{}, err
	}
	if err := s.fresh(ctx, cmp.Or(age, StatsAge)); err != nil {
		return Stats{}, fmt.Errorf("balancer: read counters: %w", err)
	}
	var owners [][]uint16
	err = s.core.Do(ctx, func(*controller.Context) {
		if v := s.app.vips[name]; v != nil && v.rec != nil {
			rec, owners = *v.rec, slices.Clone(v.owners)
		}
	})
	if err != nil {
		return Stats{}, err
	}
	return s.traffic.stats(rec, owners), nil
}

// AllStats counts the traffic of all VIPs, in order of their names, as Stats does.
func (s *Service) AllStats(ctx context.Context, age time.Duration) ([]Stats, error) {
	if err := s.fresh(ctx, cmp.Or(age, StatsAge)); err != nil {
		return nil, fmt.Errorf("balancer: read counters: %w", err)
	}
	var vips []bookVIP
	if err := s.core.Do(ctx, func(*controller.Context) { vips = s.app.vipsNow() }); err != nil {
		return nil, err
	}
	slices.SortFunc(vips, func(a, b bookVIP) int { return cmp.Compare(a.rec.VIP.Name, b.rec.VIP.Name) })
	all := make([]Stats, len(vips))
	for i, v := range vips {
		all[i] = s.traffic.stats(*v.rec, v.owners)
	}
	return all, nil
}

// stats is what has been counted of a VIP. Owners are those of its slots; they are not
// changed, only replaced.
func (t *tally) stats(rec Record, owners [][]uint16) Stats {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Stats{Name: rec.VIP.Name, At: t.at, Listeners: []ListenerStats{}, Unread: []string{}}
	if !t.before.IsZero() {
		out.Interval = Duration(t.at.Sub(t.before).Round(time.Millisecond))
	}
	for _, dpid := range slices.Sorted(maps.Keys(t.unread)) {
		out.Unread = append(out.Unread, fmt.Sprintf("%s: %v", dpid, t.unread[dpid]))
	}
	var all sum
	tcp := false
	for i, l := range rec.Listeners {
		ls := ListenerStats{
			Protocol: l.Key.Protocol, Port: l.Key.Port, Slots: len(l.Slots.Home),
			QuantisationError: QuantisationError(rec, i), Members: []MemberStats{},
		}
		var listener sum
		if of := t.listeners[l.Group]; of != nil {
			listener = *of
		}
		counts := l.Key.Protocol == TCP && t.connections
		tcp = tcp || counts
		slots := map[uint16]int{}
		if i < len(owners) {
			for _, id := range owners[i] {
				slots[id]++
			}
		}
		for j, m := range l.Members {
			doc := rec.VIP.Listeners[i].Pool.Members[j]
			ms := MemberStats{Address: doc.Address, Port: doc.Port, Slots: slots[m.Index]}
			_, ms.WeightShare = shares(rec, i, j)
			if ls.Slots > 0 {
				ms.Share = float64(ms.Slots) / float64(ls.Slots)
			}
			if of := t.members[m.Group]; of != nil {
				ms.Traffic = of.traffic(time.Duration(out.Interval), counts)
				listener.total, listener.last = listener.total.plus(of.total), listener.last.plus(of.last)
			}
			ls.Members = append(ls.Members, ms)
		}
		for j, m := range l.Members {
			if of := t.members[m.Group]; of != nil && listener.last.packets > 0 {
				share := float64(of.last.packets) / float64(listener.last.packets)
				ls.Members[j].ObservedShare = &share
			}
		}
		ls.Traffic = listener.traffic(time.Duration(out.Interval), counts)
		all.total, all.last = all.total.plus(listener.total), all.last.plus(listener.last)
		all.conns, all.lastConns = all.conns+listener.conns, all.lastConns+listener.lastConns
		out.Listeners = append(out.Listeners, ls)
	}
	out.Traffic = all.traffic(time.Duration(out.Interval), tcp)
	return out
}

// traffic shows a sum.
func (s *sum) traffic(interval time.Duration, connections bool) Traffic {
	t := Traffic{Packets: s.total.packets, Bytes: s.total.bytes}
	if connections {
		n := uint64(math.Round(s.conns))
		t.NewConnections = &n
	}
	if sec := interval.Seconds(); sec > 0 {
		t.PacketRate, t.ByteRate = float64(s.last.packets)/sec, float64(s.last.bytes)/sec
		if connections {
			t.NewConnectionRate = s.lastConns / sec
		}
	}
	return t
}
