package balancer

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Part names: one part a VIP, and two an address, which several VIPs may share.
const (
	partVIP     = "vip/"
	partAddress = "address/"
	partICMP    = "icmp/"   // and an address: what is not vital of it
	partErrors  = "errors/" // and 4 or 6: ICMP errors to others
)

// App is the balancer as the core loop sees it: it follows the intents, finds the
// members in the network, keeps the present owners of the slots, and compiles.
type App struct {
	saveOwners func(ctx context.Context, name string, generation uint64, owners map[ListenerKey][]uint16) error
	watch      Watch // nil: members are not probed

	vips      map[string]*vip
	byAddress map[netip.Addr]map[string]bool // VIPs by their address
	byMember  map[netip.Addr]map[string]bool // VIPs by the addresses of their members
	tracked   map[netip.Addr]map[string]bool // and those in mode conntrack
	cuts      map[string]time.Time           // when the next connections of a VIP's members are cut
	members   map[netip.Addr]*location       // of every address in byMember
	resolveAt time.Time                      // when they are looked at next; see resolve
	// interfaces are the ids that members are said to be attached to, by their address,
	// and how many members say so; attached is where interfaces are.
	interfaces map[netip.Addr]map[string]int
	attached   Attachments
	addressOf  map[topology.HostKey]map[netip.Addr]bool
	at         map[topology.Place]map[netip.Addr]bool // members by where they were seen last
	refused    map[netip.Addr]map[ofproto.DPID]error  // addresses that a switch did not take
	families   map[bool]int                           // VIPs of IPv6, and of IPv4
	errors     allowance                              // of ICMP errors passed on
	// hops are the ways of switches towards those that members are attached to, as VIPs
	// were compiled with: they change when the network is routed anew.
	hops    map[ofproto.DPID]map[topology.DPID]hop
	handled uint64 // events; between two of them nothing changes
	// leaving are the switches that have ceased to serve VIPs, whose parts go.
	leaving map[ofproto.DPID]bool

	observing map[topology.DPID]bool // switches that do not serve VIPs
	stages    uint64                 // counts changes of it
	voices    voices
	outlets   map[ofproto.DPID][]topology.Outlet       // of switches that serve, as last heard
	listening bool                                     // they are to be looked at
	severed   []topology.Link                          // died, and are to be looked at
	dark      map[topology.DPID]topology.DPID          // switches whose last cable died, with those that it led to
	abilities map[ofproto.DPID]controller.Capabilities // of switches that are, or were, connected
	away      map[ofproto.DPID]bool                    // they were, and are not
	presence  presence

	guests    map[topology.Place]map[topology.HostKey]bool // hosts by where they are
	bypasses  map[netip.Addr]bypass                        // of members in mode nat
	bypassing bool                                         // they are to be looked for
	bypassAt  time.Time                                    // when they were last
	shared    map[ofproto.DPID][]ofproto.Port              // by sharedPorts, of switches that have any
}

// vip is one VIP. A deleted one stays, without a record, until the switches have
// let go of it.
type vip struct {
	name     string
	rec      *Record
	revision uint64    // of the intent
	since    time.Time // of the revision
	version  uint64    // counts what has been desired of switches: revisions, moves of members
	owners   [][]uint16
	health   map[string]health // of members that are probed, by Check.ID
	// standings are how the members of each listener stand, as of the owners. They are
	// shared with what is being compiled: nobody may write to them.
	standings [][]standing
	acks      map[ofproto.DPID]ack
	left      map[ofproto.DPID]bool // switches that served it when they were last asked, and have not answered since
	awaits    ofproto.DPID          // while pending: a switch that has not answered, if it still has not
	floors    map[ofproto.DPID]floor
	flushes   flushes
	placed    map[ofproto.DPID]placement // as last compiled
	told      map[ofproto.DPID]bool      // switches for which it was announced
	taken     taken                      // by takes
	pending   bool                       // as last told to watchers
}

// taken remembers what takes said, for several parts ask one after the other.
type taken struct {
	handled uint64
	dpid    ofproto.DPID
	yes     bool
}

func newVIP(name string) *vip {
	return &vip{name: name, acks: map[ofproto.DPID]ack{}, left: map[ofproto.DPID]bool{}, floors: map[ofproto.DPID]floor{}, placed: map[ofproto.DPID]placement{}, told: map[ofproto.DPID]bool{}}
}

// ack is what a switch said of a VIP last.
type ack struct {
	version    uint64
	generation uint64
	err        error
}

// location is what is known of where a member's address is.
type location struct {
	known  bool
	lost   bool             // it was known
	held   topology.HostKey // pinned for it, also while its port is down; zero: none
	mac    ofproto.MAC
	vlan   uint16 // of its frames where it is; 0: untagged
	place  topology.Place
	since  time.Time // of the last change
	asked  time.Time // last ARP request or neighbour solicitation
	asks   int       // of those, without an answer
	reason string    // why it is not known

	network  uint16      // VLAN of the VIPs that have it as a member
	iface    string      // that it is attached to; empty: it is found by its frames
	bound    ofproto.MAC // of what the database says is attached to it; zero: it does not say
	declared bool        // place is where the database says that iface is
}

// NewApp returns the app with the stored intents. saveOwners is called now and
// then, outside the core loop, with the present owners of slots.
func NewApp(records []Record, saveOwners func(context.Context, string, uint64, map[ListenerKey][]uint16) error) *App {
	a := &App{
		saveOwners: saveOwners,
		vips:       map[string]*vip{},
		byAddress:  map[netip.Addr]map[string]bool{},
		byMember:   map[netip.Addr]map[string]bool{},
		tracked:    map[netip.Addr]map[string]bool{},
		cuts:       map[string]time.Time{},
		members:    map[netip.Addr]*location{},
		interfaces: map[netip.Addr]map[string]int{},
		addressOf:  map[topology.HostKey]map[netip.Addr]bool{},
		at:         map[topology.Place]map[netip.Addr]bool{},
		refused:    map[netip.Addr]map[ofproto.DPID]error{},
		families:   map[bool]int{},
		hops:       map[ofproto.DPID]map[topology.DPID]hop{},
		leaving:    map[ofproto.DPID]bool{},
		guests:     map[topology.Place]map[topology.HostKey]bool{},
		bypasses:   map[netip.Addr]bypass{},
		shared:     map[ofproto.DPID][]ofproto.Port{},
		observing:  map[topology.DPID]bool{},
		dark:       map[topology.DPID]topology.DPID{},
		abilities:  map[ofproto.DPID]controller.Capabilities{},
		away:       map[ofproto.DPID]bool{},
		outlets:    map[ofproto.DPID][]topology.Outlet{},
		presence:   presence{every: DefaultAnnounceEvery, queued: map[netip.Addr]bool{}},
	}
	for i := range records {
		v := newVIP(records[i].VIP.Name)
		v.rec = &records[i]
		a.index(v)
		v.startHealth(nil, time.Time{})
		v.standings = a.standings(v)
	}
	return a
}

// ID implements controller.App.
func (a *App) ID() flowtable.AppID { return controller.AppBalancer }

// Parts implements controller.App. A switch that has just ceased to serve VIPs has its
// parts once more, so that they are compiled to nothing.
func (a *App) Parts(c *controller.Context, sw *controller.Switch) []string {
	if !serves(sw) && !a.leaving[sw.DPID] {
		return nil
	}
	delete(a.leaving, sw.DPID)
	parts := make([]string, 0, len(a.vips)+len(a.byAddress))
	for name := range a.vips {
		parts = append(parts, partVIP+name)
	}
	for addr := range a.byAddress {
		parts = append(parts, partAddress+addr.String(), partICMP+addr.String())
	}
	parts = append(append(parts, partOut, partErrors+"4", partErrors+"6"), a.trackedParts()...)
	return append(parts, a.boundParts()...)
}

// Handle implements controller.App.
func (a *App) Handle(c *controller.Context, event any) {
	a.handled++
	switch e := event.(type) {
	case controller.Started:
		for _, h := range c.Graph.Snapshot().Hosts() {
			a.seeGuest(c, h, topology.Place{})
		}
		a.watchAll(c)
		for _, v := range a.vips {
			a.planCut(c, v)
		}
	case Change:
		a.change(c, e)
	case Verdict:
		a.verdict(c, e)
	case Attachments:
		a.attach(c, e)
	case controller.SwitchUp:
		if sw := c.Switch(e.DPID); sw != nil && !serves(sw) {
			a.leftNothing(e.DPID)
		}
		a.noteStage(c, e.DPID)
		a.setAway(c, e.DPID, false)
		a.listen(c)
		delete(a.leaving, e.DPID)
		delete(a.hops, e.DPID)
		a.locateAt(c, topology.DPID(e.DPID))
		a.await(c, e.DPID)
		a.dirtyAlone(c)
		a.askSooner(c)
	case controller.SwitchDown:
		delete(a.outlets, e.DPID)
		delete(a.shared, e.DPID)
		a.forgetAnswers(e.DPID)
		a.darken(c)
		_, known := c.Graph.Snapshot().Switch(topology.DPID(e.DPID))
		if _, dark := a.dark[topology.DPID(e.DPID)]; dark || !known {
			a.leftNothing(e.DPID)
		}
		a.setAway(c, e.DPID, true)
		a.dirtyAlone(c)
		for _, v := range a.vips {
			if v.pending {
				a.settled(c, v)
			}
		}
	case controller.StageChanged:
		a.noteStage(c, e.DPID)
		a.listen(c)
		a.forgetAnswers(e.DPID)
		for _, v := range a.vips {
			delete(v.floors, e.DPID)
		}
		if sw := c.Switch(e.DPID); sw != nil {
			if a.leaving[e.DPID] = !serves(sw); !serves(sw) {
				a.leftNothing(e.DPID)
			}
		}
		a.await(c, e.DPID)
		a.dirtyAlone(c)
	case controller.Rerouted:
		a.locateAll(c)
		a.rerouted(c)
	case controller.Applied:
		a.applied(c, e)
	case controller.PacketIn:
		a.answer(c, e)
		a.answerIP(c, e)
	case controller.Woken:
		a.hear(c)
		a.announce(c)
		a.findBypasses(c)
		a.resolve(c)
		a.cut(c)
	case topology.PortChanged:
		// A host that is pinned stays in the graph while its port is down.
		a.relocate(c, maps.Keys(maps.Clone(a.at[e.Place])))
		c.Dirty(ofproto.DPID(e.Place.DPID), partOut)
		a.listen(c)
	case topology.PortSettled:
		a.relocate(c, maps.Keys(maps.Clone(a.at[e.Place])))
		a.askAgain(c)
		a.listen(c)
	case topology.SegmentChanged, topology.LinkUp, topology.LinkDown:
		a.noteCable(event)
		a.listen(c)
	case topology.SwitchGone:
		a.lost(e.DPID)
		delete(a.observing, e.DPID)
		a.stages++
		a.listen(c)
	case topology.HostAdded:
		a.seeGuest(c, e.Host, topology.Place{})
		a.hostEvent(c, e.Host)
	case topology.HostMoved:
		a.seeGuest(c, e.Host, e.From)
		a.hostEvent(c, e.Host)
	case topology.HostChanged:
		a.hostEvent(c, e.Host)
	case topology.HostGone:
		a.loseGuest(c, e.Host)
		a.hostEvent(c, e.Host)
	}
}

// change takes in a new revision of an intent.
func (a *App) change(c *controller.Context, e Change) {
	old := a.vips[e.Name]
	if old == nil && e.Record == nil {
		return
	}
	if old != nil && e.Revision <= old.revision {
		return
	}
	v := newVIP(e.Name)
	v.rec, v.revision, v.since = e.Record, e.Revision, c.Now
	if old != nil {
		a.unindex(old)
		v.acks, v.left, v.version, v.floors, v.placed, v.flushes = old.acks, old.left, old.version, old.floors, old.placed, old.flushes
		if samePlace(old.rec, v.rec) {
			v.told = old.told
		}
		carryOwners(old, v)
	}
	a.index(v)
	if old != nil {
		v.startHealth(old.health, c.Now)
	} else {
		v.startHealth(map[string]health{}, c.Now)
	}
	a.rewatch(c, recordOf(old), v.rec, v.name)
	if rec := recordOf(old); rec != nil {
		a.prune(c, rec)
	}
	a.locate(c, v)
	a.reown(c, v)
	a.dirty(c, v)
	a.dirtyTracked(c, recordOf(old))
	a.planCut(c, v)
	v.forget(recordOf(old), c.Now)
	for _, rec := range []*Record{recordOf(old), v.rec} {
		if rec != nil {
			a.dirtyAddress(c, rec.VIP.Address)
		}
	}
	a.resolveSoon(c)
	a.bypassDue(c)
	a.settled(c, v)
}

// samePlace says whether hosts find two VIPs at the same address and MAC.
func samePlace(a, b *Record) bool {
	return a != nil && b != nil && a.VIP.Enabled == b.VIP.Enabled && a.VIP.Address == b.VIP.Address && a.VIP.VLAN == b.VIP.VLAN && a.VIP.MAC == b.VIP.MAC
}

func recordOf(v *vip) *Record {
	if v == nil {
		return nil
	}
	return v.rec
}

// carryOwners gives the listeners of a new revision the present owners of the old.
func carryOwners(old, v *vip) {
	if v.rec == nil {
		return
	}
	v.owners = make([][]uint16, len(v.rec.Listeners))
	for i, l := range v.rec.Listeners {
		v.owners[i] = l.Slots.Owner
		if old.rec == nil {
			continue
		}
		for j, was := range old.rec.Listeners {
			if was.Key == l.Key && !renumbered(was, l) {
				v.owners[i] = old.owners[j]
			}
		}
	}
}

func (a *App) index(v *vip) {
	a.vips[v.name] = v
	if v.rec == nil {
		return
	}
	if v.owners == nil {
		for _, l := range v.rec.Listeners {
			v.owners = append(v.owners, l.Slots.Owner)
		}
	}
	if len(a.byAddress[v.rec.VIP.Address]) == 0 {
		a.presence.order = nil
	}
	add(a.byAddress, v.rec.VIP.Address, v.name)
	a.indexTracked(v, add)
	a.families[v.rec.VIP.Address.Is6()]++
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			add(a.byMember, m.Key.Addr(), v.name)
			if a.members[m.Key.Addr()] == nil {
				a.members[m.Key.Addr()] = &location{}
			}
			a.members[m.Key.Addr()].network = v.rec.VIP.VLAN
		}
	}
	a.nameInterfaces(v.rec.VIP)
}

func (a *App) unindex(v *vip) {
	if v.rec == nil {
		return
	}
	if remove(a.byAddress, v.rec.VIP.Address, v.name); len(a.byAddress[v.rec.VIP.Address]) == 0 {
		a.presence.order = nil
	}
	a.indexTracked(v, remove)
	a.families[v.rec.VIP.Address.Is6()]--
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			remove(a.byMember, m.Key.Addr(), v.name)
		}
	}
	a.unnameInterfaces(v.rec.VIP)
}

// prune forgets the members of an old revision that no VIP has any more, and has the
// unknown ones among the others asked for at once.
func (a *App) prune(c *controller.Context, old *Record) {
	for _, l := range old.Listeners {
		for _, m := range l.Members {
			addr := m.Key.Addr()
			if at := a.members[addr]; a.byMember[addr] == nil {
				a.forget(c, addr)
			} else if !at.known {
				at.askAtOnce(c.Now)
			}
		}
	}
}

func add[K, V comparable](index map[K]map[V]bool, k K, name V) {
	if index[k] == nil {
		index[k] = map[V]bool{}
	}
	index[k][name] = true
}

func remove[K, V comparable](index map[K]map[V]bool, k K, name V) {
	if delete(index[k], name); len(index[k]) == 0 {
		delete(index, k)
	}
}

// dirty has a VIP compiled again for every switch that serves VIPs.
func (a *App) dirty(c *controller.Context, v *vip) {
	v.version++
	for sw := range c.Switches() {
		if serves(sw) {
			c.Dirty(sw.DPID, partVIP+v.name)
		}
	}
	a.dirtyTracked(c, v.rec)
}

// dirtyAddress has what concerns an address compiled again.
func (a *App) dirtyAddress(c *controller.Context, addr netip.Addr) {
	family := partErrors + "4"
	if addr.Is6() {
		family = partErrors + "6"
	}
	for sw := range c.Switches() {
		if serves(sw) {
			c.Dirty(sw.DPID, partAddress+addr.String())
			c.Dirty(sw.DPID, partICMP+addr.String())
			if a.families[addr.Is6()] < 2 { // the first, or the last
				c.Dirty(sw.DPID, family)
			}
		}
	}
}

// serves says whether VIPs are installed in a switch at its stage.
func serves(sw *controller.Switch) bool { return sw.Stage != controller.StageObserve }

// reown computes the present owners of the slots from what is known of the
// members, and reports whether any changed.
func (a *App) reown(c *controller.Context, v *vip) bool {
	if v.rec == nil {
		return false
	}
	changed := false
	v.standings = a.standings(v)
	for i, l := range v.rec.Listeners {
		owners := present(l.Slots, v.owners[i], v.rec.VIP.Listeners[i].Pool, v.standings[i])
		if !slices.Equal(owners, v.owners[i]) {
			v.owners[i] = owners
			changed = true
		}
	}
	if changed {
		name, generation := v.name, v.rec.VIP.Generation
		owners := map[ListenerKey][]uint16{}
		for i, l := range v.rec.Listeners {
			owners[l.Key] = v.owners[i]
		}
		c.Save("owners/"+name, func(ctx context.Context) error { return a.saveOwners(ctx, name, generation, owners) })
	}
	return changed
}

// applied takes a switch's answer on a part.
func (a *App) applied(c *controller.Context, e controller.Applied) {
	if name, ok := strings.CutPrefix(e.Part, partAddress); ok {
		a.appliedAddress(c, netip.MustParseAddr(name), e)
		return
	}
	if name, ok := strings.CutPrefix(e.Part, partMember); ok {
		a.appliedAddress(c, netip.MustParseAddr(name), e)
		return
	}
	switch e.Part {
	case partTracking:
		a.appliedAddress(c, refusedTracking, e)
		return
	case partOut:
		a.appliedAddress(c, refusedOut, e)
		return
	}
	name, ok := strings.CutPrefix(e.Part, partVIP)
	v := a.vips[name]
	if !ok || v == nil || e.Tag < v.version {
		return
	}
	if a.lower(c, v, e) {
		return
	}
	k := ack{version: e.Tag, err: e.Err}
	if v.rec != nil {
		k.generation = v.rec.VIP.Generation
	}
	if was := v.acks[e.DPID]; v.rec != nil && errors.Is(was.err, ErrRefused) != errors.Is(k.err, ErrRefused) {
		c.Dirty(e.DPID, partAddress+v.rec.VIP.Address.String()) // whether ARP is answered
		c.Dirty(e.DPID, partICMP+v.rec.VIP.Address.String())
		a.dirtyBeside(c, e.DPID, v)
	}
	v.acks[e.DPID] = k
	delete(v.left, e.DPID)
	if v.rec != nil && v.rec.VIP.Enabled && !v.told[e.DPID] && a.holds(v, e.DPID) {
		a.tell(c, v.rec.VIP.Address)
	}
	if e.Err == nil {
		v.flushes.send(c, e.DPID, e.Tag)
	}
	a.settled(c, v)
}

// await makes all VIPs pending until a switch has answered.
func (a *App) await(c *controller.Context, dpid ofproto.DPID) {
	if sw := c.Switch(dpid); sw == nil || !serves(sw) {
		return
	}
	for _, v := range a.vips {
		if !v.pending {
			v.pending, v.awaits = true, dpid
		}
	}
}

// lower has the next best way of spreading a VIP tried on a switch that seemed to be
// able to do better and refused it. It reports whether there is one; if not, the VIP
// waits for the switch as it is.
func (a *App) lower(c *controller.Context, v *vip, e controller.Applied) bool {
	sw := c.Switch(e.DPID)
	if sw == nil || v.rec == nil || !v.rec.VIP.Enabled {
		return false
	}
	next, ok := v.floors[e.DPID].lower(v.placed[e.DPID], e.Err)
	if !ok {
		return false
	}
	in := a.input(c, sw, v)
	if in.floor = next; in.placement(in.choices()).refused != nil {
		return false
	}
	v.floors[e.DPID] = next
	a.askAnew(v, e.DPID)
	c.Dirty(e.DPID, partVIP+v.name)
	if next.level != levelInline || !outOfGroups(e.Err) {
		return true
	}
	// Groups are short: the VIPs that have one a member make room for those that
	// have none.
	for _, other := range a.vips {
		if p, ok := other.placed[e.DPID]; ok && p.level == levelChained && other.floors[e.DPID].level == levelChained {
			other.floors[e.DPID] = floor{level: levelInline, slots: other.floors[e.DPID].slots, tried: next.tried}
			a.askAnew(other, e.DPID)
			c.Dirty(e.DPID, partVIP+other.name)
		}
	}
	return true
}

// forgetAnswers drops what a switch said: it is gone, or is asked anew.
func (a *App) forgetAnswers(dpid ofproto.DPID) {
	for _, v := range a.vips {
		a.askAnew(v, dpid)
		delete(v.told, dpid)
	}
	for addr, by := range a.refused {
		if delete(by, dpid); len(by) == 0 {
			delete(a.refused, addr)
		}
	}
}

// appliedAddress remembers whether a switch answers ARP for an address and keeps
// its packets from being forwarded: the VIPs of the address depend on it.
func (a *App) appliedAddress(c *controller.Context, addr netip.Addr, e controller.Applied) {
	if _, was := a.refused[addr][e.DPID]; !was && e.Err == nil {
		return
	}
	if e.Err == nil {
		if delete(a.refused[addr], e.DPID); len(a.refused[addr]) == 0 {
			delete(a.refused, addr)
		}
	} else {
		if a.refused[addr] == nil {
			a.refused[addr] = map[ofproto.DPID]error{}
		}
		a.refused[addr][e.DPID] = e.Err
	}
	for name := range a.byAddress[addr] {
		a.settled(c, a.vips[name])
		if v := a.vips[name]; !v.told[e.DPID] && a.holds(v, e.DPID) {
			a.tell(c, addr)
		}
	}
}

// ack returns what a switch said of a VIP last, its address included. ok is false
// while it owes an answer on what is desired now.
func (a *App) ack(v *vip, dpid ofproto.DPID) (k ack, ok bool) {
	k = v.acks[dpid]
	if v.rec != nil && k.err == nil {
		k.err = a.refused[v.rec.VIP.Address][dpid]
		if k.err == nil && len(a.refused) > 0 {
			k.err = a.refused[refusedOut][dpid]
		}
		if v.rec.VIP.Mode == ModeConntrack && len(a.refused) > 0 && k.err == nil {
			k.err = a.refusesTracking(v.rec, dpid)
		}
	}
	_, ok = v.acks[dpid]
	return k, ok && k.version >= v.version
}

// settled tells watchers when a VIP has left the state pending, and forgets a
// deleted one that no switch holds any more.
func (a *App) settled(c *controller.Context, v *vip) {
	if v.pending {
		// One switch that has not answered is enough to know. Looking at all of them on
		// the answer of each would take their number squared.
		if sw := c.Switch(v.awaits); sw != nil && serves(sw) {
			if _, ok := a.ack(v, sw.DPID); !ok {
				return
			}
		}
	}
	pending := false
	var failed string
	for sw := range c.Switches() {
		if !serves(sw) {
			continue
		}
		k, ok := a.ack(v, sw.DPID)
		switch {
		case !ok:
			pending, v.awaits = true, sw.DPID
		case k.err != nil:
			failed = k.err.Error()
		}
	}
	if v.rec != nil && a.resolving(c, v) {
		pending = true
	}
	if v.rec == nil && !pending {
		delete(a.vips, v.name)
	}
	if pending != v.pending || !pending {
		v.pending = pending
		c.Notify("vip", map[string]any{"name": v.name, "revision": v.revision, "deleted": v.rec == nil, "pending": pending, "error": failed})
	}
}

// Status returns the state of a VIP in the network and of its members. ok is false
// when the app does not know the VIP.
func (a *App) Status(c *controller.Context, name string) (s Status, ok bool) {
	v := a.vips[name]
	if v == nil {
		return Status{}, false
	}
	s.Deleted = v.rec == nil
	s.VIP = VIPStatus{Provisioning: ProvisioningActive, Switches: []SwitchStatus{}}
	served := false
	for sw := range c.Switches() {
		if !serves(sw) {
			continue
		}
		served = true
		k, acked := a.ack(v, sw.DPID)
		st := SwitchStatus{DPID: sw.DPID.String(), State: InstallInstalled, Generation: k.generation}
		switch {
		case !acked:
			st.State = InstallPending
			if s.VIP.Provisioning == ProvisioningActive {
				s.VIP.Provisioning = ProvisioningPending
			}
		case k.err != nil:
			st.State, st.Reason = InstallError, k.err.Error()
			s.VIP.Provisioning = ProvisioningError
		}
		if p, ok := v.placed[sw.DPID]; ok && v.rec != nil && v.rec.VIP.Enabled {
			st.Method, st.Slots = p.method, p.slots
			if st.Reason == "" {
				st.Reason = p.reason
			} else if p.reason != "" {
				st.Reason += "; " + p.reason
			}
		}
		if v.rec != nil && v.rec.VIP.Enabled {
			for _, reason := range []string{a.bypassedAt(c, v, sw.DPID), a.strayedAt(c, v, sw)} {
				if reason != "" && st.Reason != "" {
					reason = "; " + reason
				}
				st.Reason += reason
			}
		}
		s.VIP.Switches = append(s.VIP.Switches, st)
	}
	if v.rec == nil {
		return s, true
	}
	s.Generation = v.rec.VIP.Generation
	if !served || s.VIP.Provisioning == ProvisioningActive && a.resolving(c, v) {
		s.VIP.Provisioning = ProvisioningPending
	}
	s.Members = map[ListenerKey]map[MemberKey]MemberStatus{}
	serving, wanted, up, monitored := 0, 0, 0, false
	for i, l := range v.rec.Listeners {
		slots := map[uint16]int{}
		for _, id := range v.owners[i] {
			slots[id]++
		}
		s.Members[l.Key] = map[MemberKey]MemberStatus{}
		pool := v.rec.VIP.Listeners[i].Pool
		monitored = monitored || pool.Monitor != nil
		mustered := muster(pool, v.standings[i])
		for j, st := range v.standings[i] {
			m := l.Members[j]
			ms := a.memberStatus(pool.Members[j], v.health[checkID(v.name, l.Key, m.Key)])
			ms.Slots = slots[m.Index]
			for _, reason := range []string{mustered.reason(st), retired(v.rec.VIP.Mode, pool, pool.Members[j], m)} {
				if reason != "" && ms.Reason != "" {
					reason = "; " + reason
				}
				ms.Reason += reason
			}
			if v.rec.VIP.Mode == ModeNAT {
				if reason := a.bypasses[m.Key.Addr()].reason(m.Key.Addr()); reason != "" {
					if ms.Reason != "" {
						reason = "; " + reason
					}
					ms.Reason += reason
				}
			}
			if v.rec.VIP.Mode == ModeDSR && !a.members[m.Key.Addr()].known {
				ms.Reason += ": mode dsr reaches members of the switches' own layer 2 network only"
			}
			s.Members[l.Key][m.Key] = ms
			if st.wanted && !st.backup {
				wanted++
				if st.fit() {
					up++
				}
			}
			serving += ms.Slots
		}
	}
	switch {
	case !v.rec.VIP.Enabled:
		s.VIP.Operating = OperatingDisabled
	case serving == 0:
		s.VIP.Operating = OperatingOffline
	case up < wanted:
		s.VIP.Operating = OperatingDegraded
	case monitored:
		s.VIP.Operating = OperatingOnline
	default:
		s.VIP.Operating = OperatingNoMonitor
	}
	return s, true
}

// Status is what the app knows of a VIP.
type Status struct {
	Generation uint64 // of the document; 0 when it is deleted
	Deleted    bool   // and some switch may still hold something of it
	VIP        VIPStatus
	Members    map[ListenerKey]map[MemberKey]MemberStatus
}

// standings returns how the members of each listener stand, in their order.
func (a *App) standings(v *vip) [][]standing {
	lists := make([][]standing, len(v.rec.Listeners))
	for i, l := range v.rec.Listeners {
		pool := v.rec.VIP.Listeners[i].Pool
		lists[i] = make([]standing, len(l.Members))
		for j, m := range l.Members {
			doc := pool.Members[j]
			st := standing{
				id: m.Index, wanted: doc.SlotWeight() > 0, backup: doc.Backup,
				placed: a.members[m.Key.Addr()].known, health: HealthNoMonitor,
			}
			if v.rec.VIP.Mode == ModeNAT && a.bypasses[m.Key.Addr()].all {
				st.placed = false
			}
			if pool.Monitor != nil {
				if h, ok := v.health[checkID(v.name, l.Key, m.Key)]; ok {
					st.health = h.state
				}
			}
			lists[i][j] = st
		}
	}
	return lists
}

// memberStatus is the state of a member, h what probing says of it.
func (a *App) memberStatus(m Member, h health) MemberStatus {
	l := a.members[m.Address]
	s := MemberStatus{Health: HealthNoMonitor, Since: l.since, Reason: l.reason}
	if l.known {
		s.Switch, s.Port = l.place.DPID.String(), uint32(l.place.Port)
		if h.state != "" {
			s.Health, s.Reason = h.state, h.reason
			if h.since.After(s.Since) {
				s.Since = h.since
			}
			if h.state == HealthDown {
				s.Reason = "monitor: " + h.reason
			}
		}
	} else {
		s.Health = HealthUnknown
		if l.asks >= unresolvedAfter {
			s.Health = HealthDown
		}
	}
	return s
}

// Compile implements controller.App.
func (a *App) Compile(c *controller.Context, sw *controller.Switch, part string) controller.Source {
	if name, ok := strings.CutPrefix(part, partVIP); ok {
		return a.compileVIP(c, sw, a.vips[name])
	}
	switch part {
	case partTracking:
		return a.compileTracking(sw)
	case partOut:
		return compileOutOf(sw)
	}
	if name, ok := strings.CutPrefix(part, partMember); ok {
		return a.compileTrackedMember(c, sw, netip.MustParseAddr(name))
	}
	if name, ok := strings.CutPrefix(part, partBound); ok {
		return a.compileBoundOf(sw, netip.MustParseAddr(name))
	}
	if family, ok := strings.CutPrefix(part, partErrors); ok {
		six := family == "6"
		if !serves(sw) || a.families[six] == 0 {
			return controller.Source{}
		}
		return controller.Source{Class: flowtable.ClassService, Build: func() flowtable.Part { return compileErrors(six) }}
	}
	name, icmp := strings.CutPrefix(part, partICMP)
	addr, err := netip.ParseAddr(strings.TrimPrefix(name, partAddress))
	if err != nil || !serves(sw) || len(a.byAddress[addr]) == 0 {
		return controller.Source{}
	}
	var first *vip // by name
	answer := false
	for name := range a.byAddress[addr] {
		v := a.vips[name]
		if first == nil || v.name < first.name {
			first = v
		}
		answer = answer || v.rec.VIP.Enabled && a.takes(c, sw, v)
	}
	mac, vlan, caps := first.rec.VIP.MAC, first.rec.VIP.VLAN, sw.Capabilities
	if icmp {
		src := controller.Source{Class: flowtable.ClassHost}
		if answer {
			src.Build = func() flowtable.Part { return compileICMP(addr, vlan, mac, caps.Nicira) }
		}
		return src
	}
	quiet := a.quietPorts(c, sw.DPID, addr)
	stage, tracked, direct := sw.Stage, sw.Capabilities.ConnTrack && a.inMode(addr, ModeConntrack), a.inMode(addr, ModeDSR)
	return controller.Source{Class: flowtable.ClassService, Build: func() flowtable.Part {
		p := compileAddress(addr, vlan, mac, answer, caps)
		p.Flows = append(p.Flows, compileQuiet(addr, vlan, quiet)...)
		p.Flows = append(p.Flows, compileClaims(addr, vlan, mac, stage, caps, direct)...)
		if tracked {
			p.Flows = append(p.Flows, trackErrors(addr, vlan)...)
		}
		return p
	}}
}

func (a *App) compileVIP(c *controller.Context, sw *controller.Switch, v *vip) controller.Source {
	if v == nil {
		return controller.Source{}
	}
	src := controller.Source{Tag: v.version, Class: flowtable.ClassService}
	if v.rec == nil || !serves(sw) || !v.rec.VIP.Enabled {
		return src
	}
	in := a.input(c, sw, v)
	choices := in.choices()
	placed := in.placement(choices)
	if c.Switch(sw.DPID) == sw { // and not what the switch would be in another stage
		v.placed[sw.DPID], v.taken = placed, taken{a.handled, sw.DPID, !placed.none}
	}
	src.Build, src.Refused = func() flowtable.Part { return in.compile(choices) }, placed.refused
	return src
}

// takes says whether a switch takes anything that is sent to a VIP: who is told where
// the VIP is expects an answer.
func (a *App) takes(c *controller.Context, sw *controller.Switch, v *vip) bool {
	if c.Switch(sw.DPID) != sw { // what the switch would be in another stage
		return !a.placement(c, sw, v).none
	}
	if k := v.taken; k.handled != a.handled || k.dpid != sw.DPID {
		v.taken = taken{a.handled, sw.DPID, !a.placement(c, sw, v).none}
	}
	return v.taken.yes
}

// placement says how a VIP would be compiled for a switch now.
func (a *App) placement(c *controller.Context, sw *controller.Switch, v *vip) placement {
	in := a.input(c, sw, v)
	return in.placement(in.choices())
}

// input is what the part of a VIP in a switch is made from.
func (a *App) input(c *controller.Context, sw *controller.Switch, v *vip) vipInput {
	snap := c.Graph.Snapshot()
	in := vipInput{
		rec: v.rec, owners: slices.Clone(v.owners), standings: v.standings,
		stage: sw.Stage, caps: sw.Capabilities,
		targets: map[netip.Addr]target{}, floor: v.floors[sw.DPID],
		now: c.Now, shared: a.shared[sw.DPID],
	}
	if v.rec.VIP.Mode == ModeConntrack && sw.Stage == controller.StageSteer {
		in.alone = true
		for other := range c.Switches() {
			in.alone = in.alone && (other.DPID == sw.DPID || !serves(other))
		}
	}
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			if at := a.members[m.Key.Addr()]; at.known {
				t := a.targetOn(snap, topology.DPID(sw.DPID), at)
				if v.rec.VIP.Mode == ModeConntrack && sw.Stage == controller.StageManaged {
					a.track(c, topology.DPID(sw.DPID), v.rec.VIP.Address, at, &t)
				}
				in.targets[m.Key.Addr()] = t
			}
		}
	}
	return in
}

// targetOn says how a switch reaches a member.
func (a *App) targetOn(snap *topology.Snapshot, dpid topology.DPID, at *location) target {
	t := target{mac: at.mac, vlan: at.vlan}
	if at.place.DPID == dpid {
		t.hop, t.attached = hop{port: ofproto.Port(at.place.Port)}, true
		return t
	}
	hops := a.hops[ofproto.DPID(dpid)]
	if hops == nil {
		hops = map[topology.DPID]hop{}
		a.hops[ofproto.DPID(dpid)] = hops
	}
	h, known := hops[at.place.DPID]
	if !known {
		h = hopTo(snap, dpid, at.place.DPID)
		hops[at.place.DPID] = h
	}
	t.hop = h
	return t
}

func hopTo(snap *topology.Snapshot, from, to topology.DPID) hop {
	port, _ := snap.NextHop(from, to)
	spare, detour := snap.Detour(from, to)
	return hop{ofproto.Port(port), ofproto.Port(spare), detour}
}
