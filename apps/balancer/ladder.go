package balancer

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
)

// Method is how a switch spreads the connections of a listener: a rung of the ladder
// from the best to none. Not every switch can do the best one.
type Method string

// Methods, the best first.
const (
	// MethodChained is a select group of slots, each of which hands over to the group
	// of the member that owns it.
	MethodChained Method = "chained"
	// MethodInline is a select group whose slots hold the actions of their members:
	// a member that moves costs the whole group, and counters are those of slots.
	MethodInline Method = "inline"
	// MethodSelector is a flow entry a slot, on masked bits of the source. It is the
	// best for UDP, whose ports Open vSwitch does not hash.
	MethodSelector Method = "selector"
	// MethodRefused: the switch can do none of them.
	MethodRefused Method = "refused"
)

// ErrRefused says that a switch cannot do what a VIP needs. Nothing that would only
// look as if it worked is installed.
var ErrRefused = errors.New("refused")

// level is how much a part makes of groups.
type level uint8

const (
	levelChained  level = iota // members have groups, slots refer to them
	levelInline                // slots hold actions
	levelNoGroups              // flow entries alone
)

var levelNames = [...]string{"chained groups", "inline actions", "no groups"}

// floor is what a switch has refused of a VIP, although it seemed able to: the next
// lower is tried instead.
type floor struct {
	level level
	slots int    // the largest group to try; 0: no limit
	tried string // what was, and what the switch said
	// unmetered: the switch has no room for the meter of a listener.
	unmetered bool
}

// lower returns the floor below what was tried last, for the switch's error on it.
// ok is false where there is nothing else to try.
func (f floor) lower(used placement, err error) (_ floor, ok bool) {
	var e *ofproto.Error
	if !errors.As(err, &e) {
		return f, false
	}
	next := f
	if e.Type == ofproto.ErrorMeterModFailed {
		next.unmetered = true
		return next, !f.unmetered
	}
	if used.level == levelNoGroups {
		return f, false
	}
	what := levelNames[used.level]
	switch {
	case e.Type == ofproto.ErrorGroupModFailed && e.Code == ofproto.CodeOutOfBuckets && used.slots > 2:
		what = fmt.Sprintf("%d slots", used.slots)
		next.level, next.slots = used.level, used.slots/2
	case e.Type == ofproto.ErrorGroupModFailed && e.Code == ofproto.CodeOutOfBuckets:
		next.level = levelNoGroups
	case unable(e):
		next.level = used.level + 1
	case e.Type == ofproto.ErrorBadRequest && e.Code == ofproto.CodeBadType: // no group-mods at all
		next.level = levelNoGroups
	default:
		return f, false
	}
	if next.tried != "" {
		next.tried += ", "
	}
	next.tried += what + " (" + e.Name() + ")"
	return next, true
}

// unable says whether an error is about what a switch can do. Others are about what
// it holds at present, which may be otherwise than is known, or about ports that went.
func unable(e *ofproto.Error) bool {
	const ( // of OFPGMFC and OFPBAC
		weight, chaining, watch, badType, badBucket, badWatch = 2, 5, 6, 10, 12, 13
		badOutPort, badOutGroup                               = 4, 9
	)
	switch e.Type {
	case ofproto.ErrorGroupModFailed:
		return slices.Contains([]uint16{ofproto.CodeOutOfGroups, weight, chaining, watch, badType, badBucket, badWatch}, e.Code)
	case ofproto.ErrorBadAction:
		return e.Code != badOutPort && e.Code != badOutGroup
	}
	return false
}

// outOfGroups says whether a switch has no more groups.
func outOfGroups(err error) bool {
	var e *ofproto.Error
	return errors.As(err, &e) && e.Type == ofproto.ErrorGroupModFailed && e.Code == ofproto.CodeOutOfGroups
}

// choice is how one listener is compiled for one switch.
type choice struct {
	method Method
	level  level
	owners []uint16 // of the slots in this switch
	// lookup: of a selector, slots are looked up by themselves (controller.TableSlot).
	lookup  bool
	limited bool   // new connections pass a meter
	counted bool   // new connections have an entry of their own, which counts them
	reason  string // why it is not the best, or is refused
}

// placement is how a VIP is compiled for one switch: what the worst of its listeners
// gets.
type placement struct {
	method  Method
	level   level
	slots   int
	reason  string
	refused error // of the listeners that are
	none    bool  // all are
}

// methodRank orders methods from the best.
var methodRank = map[Method]int{MethodChained: 0, MethodInline: 1, MethodSelector: 2, MethodRefused: 3}

// placement sums up the choices of all listeners.
func (in vipInput) placement(choices []choice) placement {
	p := placement{method: MethodChained, none: len(choices) > 0}
	var reasons, refused []string
	for i, ch := range choices {
		key := in.rec.Listeners[i].Key.String()
		if methodRank[ch.method] > methodRank[p.method] || i == 0 {
			p.method, p.slots = ch.method, len(ch.owners)
		}
		if ch.method == MethodRefused {
			refused = append(refused, key+": "+ch.reason)
			continue
		}
		p.none = false
		p.level = max(p.level, ch.level)
		if ch.reason != "" {
			reasons = append(reasons, key+": "+ch.reason)
		}
	}
	if len(refused) > 0 {
		p.refused = fmt.Errorf("%w: %s", ErrRefused, strings.Join(refused, "; "))
	}
	p.reason = strings.Join(reasons, "; ")
	return p
}

// choices returns the choice of each listener.
func (in vipInput) choices() []choice {
	all := make([]choice, len(in.rec.Listeners))
	for i, l := range in.rec.Listeners {
		all[i] = in.choose(l, in.reachable(i))
	}
	return all
}

// Ladder returns the best method for TCP that a switch of these capabilities has in
// a stage, the largest number of slots, and why it is not the best there is.
func Ladder(caps controller.Capabilities, stage controller.Stage) (m Method, slots int, reason string) {
	in := vipInput{stage: stage, caps: caps}
	owners := make([]uint16, MaxSlots)
	for i := range owners {
		owners[i] = uint16(i % 2)
	}
	l := ListenerRecord{Key: ListenerKey{TCP, 1}, Members: []MemberRecord{{Index: 0}, {Index: 1}}}
	ch := in.choose(l, owners)
	return ch.method, len(ch.owners), ch.reason
}

// choose picks the highest rung that a switch has for a listener whose slots have
// these owners.
func (in vipInput) choose(l ListenerRecord, owners []uint16) choice {
	caps := in.caps
	refuse := func(format string, args ...any) choice {
		reason := fmt.Sprintf(format, args...)
		if in.floor.tried != "" {
			reason = "tried " + in.floor.tried + "; " + reason
		}
		return choice{method: MethodRefused, level: levelNoGroups, reason: reason}
	}
	need, ports := controller.LayerL2|controller.LayerL3, controller.LayerL4
	if in.ipv6() {
		need = controller.LayerL2 | controller.LayerIPv6
	}
	if l.Key.Protocol == SCTP {
		ports = controller.LayerSCTP
	}
	mode := in.mode()
	if mode == ModeDSR {
		need = controller.LayerL2
	}
	for _, m := range l.Members {
		if m.Key.Port() != l.Key.Port {
			need |= ports
		}
	}
	switch lack := need &^ caps.FlowSet; {
	case !caps.Holds:
		return refuse("the switch accepts flow entries and does not hold them")
	case in.stage == controller.StageSteer && !caps.Normal:
		return refuse("stage steer needs NORMAL, which the switch does not have")
	case lack == ports:
		return refuse("the switch cannot rewrite ports: give the members the listener's port")
	case lack != 0:
		return refuse("the switch cannot rewrite %s", strings.Join(lack.Names(), ", "))
	case l.Key.Protocol == SCTP && caps.FlowSet&controller.LayerSCTP == 0:
		return refuse("the switch does not know SCTP")
	case !caps.PortMasks && !in.ports(l).all() && !in.ports(l).single():
		return refuse("ranges of ports need masks on ports, which the switch does not have: only single ports, and all of them, work there")
	}
	if mode == ModeConntrack {
		if reason := in.untracked(l, owners); reason != "" {
			return refuse("%s", reason)
		}
	}
	if m, ok := in.untagged(l, owners); ok {
		return refuse("member %s is untagged on the wire: stage managed leaves frames in the VLAN they came in", m)
	}

	var why []string
	at := in.floor.level
	need2 := func(least level, ok bool, reason string, args ...any) {
		if !ok && at < least {
			at = least
			why = append(why, fmt.Sprintf(reason, args...))
		}
	}
	if in.floor.tried != "" {
		why = append(why, "refused "+in.floor.tried)
	}
	lack := need &^ caps.BucketSet
	need2(levelNoGroups, caps.Select, "no select groups")
	need2(levelNoGroups, lack == 0, "no rewriting of %s in groups", strings.Join(lack.Names(), ", "))
	need2(levelNoGroups, in.stage != controller.StageSteer || caps.NormalInBuckets || in.allReached(l, owners), "no NORMAL in groups")
	need2(levelNoGroups, caps.MaxBuckets >= 2, "no groups of several buckets")
	need2(levelInline, caps.FastFailover, "no fast failover groups")
	need2(levelInline, caps.Chaining, "no groups in groups")
	need2(levelInline, caps.WatchGroup, "no watching of groups")

	ch := choice{method: MethodChained, level: at, owners: owners}
	if at == levelInline {
		ch.method = MethodInline
		if !caps.WatchPort {
			why = append(why, "slots of a dead port are not skipped before the controller says so")
		}
	}
	switch persistent := in.persistent(l); {
	case persistent || l.Key.Protocol == UDP:
		ch.method = MethodSelector
		if at == levelInline {
			ch.level = levelNoGroups
		}
		why = nil // it is the best for UDP
		if in.floor.tried != "" {
			why = []string{"refused " + in.floor.tried}
		}
		ch.lookup = caps.Hashing && !caps.OneTable() &&
			(persistent || mode == ModeConntrack || in.matches(l) > 1)
	case at == levelNoGroups:
		ch.method = MethodSelector
	}
	if ch.method == MethodSelector {
		switch {
		case in.persistent(l) && ch.lookup:
		case in.persistent(l):
			switch {
			case servingMembers(owners) <= 1:
				ch.owners = owners[:min(1, len(owners))]
			case in.addressMasks():
				why = append(why, fmt.Sprintf("clients are told apart by %d bits of their address", clientBits))
			default:
				return refuse("no way to tell clients apart by their address")
			}
		case in.addressMasks() || caps.PortMasks:
			if !caps.PortMasks {
				why = append(why, "no masks on ports: all connections of a client go to one member")
			}
		case servingMembers(owners) == 1:
			ch.owners = owners[:1]
		default:
			return refuse("%s, and no masks to select by", strings.Join(append(why, "no way to select among members"), ", "))
		}
	} else {
		most := int(caps.MaxBuckets)
		if in.floor.slots > 0 {
			most = min(most, in.floor.slots)
		}
		size := len(owners)
		for size > most {
			size /= 2
		}
		if size < len(owners) {
			ch.owners = Fewer(owners, size)
			why = append(why, loss(owners, ch.owners))
		}
	}
	if reason := in.tooMany(l, ch); reason != "" {
		return refuse("%s", reason)
	}
	if in.document(l).ConnectionRate > 0 {
		reason := in.unlimited()
		if ch.limited = reason == ""; !ch.limited {
			why = append(why, "connection_rate: not limited: "+reason)
		}
	}
	ch.counted = in.counted(l, ch)
	ch.reason = strings.Join(why, ", ")
	return ch
}

// mode is that of the VIP.
func (in vipInput) mode() Mode {
	if in.rec == nil {
		return ModeNAT
	}
	return in.rec.VIP.Mode
}

// untagged returns an owner of slots that stage managed cannot serve a VIP of a VLAN
// by: what a port is in by its configuration is known to NORMAL alone.
func (in vipInput) untagged(l ListenerRecord, owners []uint16) (addr netip.Addr, ok bool) {
	if in.stage != controller.StageManaged || in.rec == nil || in.rec.VIP.VLAN == 0 {
		return addr, false
	}
	for _, m := range l.Members {
		if t, known := in.targets[m.Key.Addr()]; known && t.vlan == 0 && slices.Contains(owners, m.Index) {
			return m.Key.Addr(), true
		}
	}
	return addr, false
}

// allReached says whether a port towards each owner is known.
func (in vipInput) allReached(l ListenerRecord, owners []uint16) bool {
	return !slices.ContainsFunc(l.Members, func(m MemberRecord) bool {
		return slices.Contains(owners, m.Index) && in.targets[m.Key.Addr()].port == 0
	})
}

func servingMembers(owners []uint16) int {
	seen := map[uint16]bool{}
	for _, id := range owners {
		if id != NoMember {
			seen[id] = true
		}
	}
	return len(seen)
}

// loss says what a table of fewer slots costs.
func loss(full, fewer []uint16) string {
	share := func(table []uint16, id uint16) float64 {
		n := 0
		for _, o := range table {
			if o == id {
				n++
			}
		}
		return float64(n) / float64(len(table))
	}
	worst, moved, without := 0.0, 0, map[uint16]bool{}
	for j, id := range full {
		if fewer[j%len(fewer)] != id {
			moved++
		}
		d := share(full, id) - share(fewer, id)
		worst = max(worst, d, -d)
		if !slices.Contains(fewer, id) {
			without[id] = true
		}
	}
	s := fmt.Sprintf("%d of %d slots fit: shares are off by up to %.1f %%, %d slots have another owner than on other switches", len(fewer), len(full), 100*worst, moved)
	if len(without) > 0 {
		s += fmt.Sprintf(", %d members have none", len(without))
	}
	return s
}
