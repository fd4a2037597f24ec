package flowtable

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Table is what one switch should hold beside what it is known to hold. One
// goroutine owns it: the switch's session.
type Table struct {
	pipeline *Pipeline
	parts    map[PartKey]*part
	flows    map[FlowKey]wantedFlow
	groups   map[ofproto.GroupID]wantedGroup

	hasFlows  map[FlowKey]uint64 // cookie of each entry of ours
	hasGroups map[ofproto.GroupID]string
	foreign   map[FlowKey]uint64 // entries that are not ours, by cookie

	setGroups map[ofproto.GroupID]string // as last set and acknowledged
	// How many read-backs in a row found an object otherwise than it was set.
	alteredFlows  map[FlowKey]int
	alteredGroups map[ofproto.GroupID]int

	meters meters

	keepOrphans bool

	queue   [classes][]PartKey // dirty parts by class, oldest first
	queued  map[PartKey]bool
	scratch []byte
}

type part struct {
	class  Class
	flows  []partFlow
	groups []ofproto.GroupID
	meters []uint32
	// Objects the part no longer wants and the switch may still hold; nil when there
	// are none, as of most parts.
	staleFlows  map[FlowKey]struct{}
	staleGroups map[ofproto.GroupID]struct{}
}

// partFlow is a flow as its part knows it, so that comparing needs one look at what
// the switch has, and none at what is wanted.
type partFlow struct {
	FlowKey
	cookie uint64
}

func (p *part) staleFlow(k FlowKey) {
	if p.staleFlows == nil {
		p.staleFlows = map[FlowKey]struct{}{}
	}
	p.staleFlows[k] = struct{}{}
}

func (p *part) staleGroup(id ofproto.GroupID) {
	if p.staleGroups == nil {
		p.staleGroups = map[ofproto.GroupID]struct{}{}
	}
	p.staleGroups[id] = struct{}{}
}

type wantedFlow struct {
	part   PartKey
	flow   Flow
	cookie uint64
}

type wantedGroup struct {
	part  PartKey
	group Group
	desc  string
}

// New returns an empty Table: nothing desired, nothing installed.
func New(p *Pipeline) *Table {
	return &Table{
		pipeline:  p,
		parts:     map[PartKey]*part{},
		flows:     map[FlowKey]wantedFlow{},
		groups:    map[ofproto.GroupID]wantedGroup{},
		hasFlows:  map[FlowKey]uint64{},
		hasGroups: map[ofproto.GroupID]string{},
		foreign:   map[FlowKey]uint64{},
		setGroups: map[ofproto.GroupID]string{},
		queued:    map[PartKey]bool{},
	}
}

// Errors of SetPart and Plan, for callers that branch on them.
var (
	// ErrPart says that a compiled part contradicts the pipeline, itself or another part.
	ErrPart = errors.New("flowtable: invalid part")
	// ErrForeign says that an entry which is not ours sits where a desired one belongs.
	ErrForeign = errors.New("flowtable: a foreign flow entry is in the way")
)

// SetPart replaces the desired state of a part and marks it dirty. On an error
// (ErrPart) nothing changes: what the part had before stays desired.
func (t *Table) SetPart(key PartKey, p Part) error {
	if err := t.check(key, p); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrPart, key, err)
	}
	old := t.drop(key)
	now := &part{flows: make([]partFlow, 0, len(p.Flows)), groups: make([]ofproto.GroupID, 0, len(p.Groups))}
	if old != nil {
		now.staleFlows, now.staleGroups = old.staleFlows, old.staleGroups
	}
	for _, f := range p.Flows {
		k := keyOf(f)
		t.scratch = ofproto.AppendInstructions(t.scratch[:0], f.Instructions)
		c := cookieOf(t.pipeline.Version, key.App, k, t.scratch)
		t.flows[k] = wantedFlow{part: key, flow: f, cookie: c}
		now.flows = append(now.flows, partFlow{k, c})
		delete(now.staleFlows, k)
	}
	for _, g := range p.Groups {
		t.groups[g.ID] = wantedGroup{part: key, group: g, desc: describe(g.Type, g.Buckets)}
		now.groups = append(now.groups, g.ID)
		delete(now.staleGroups, g.ID)
	}
	now.meters = t.setPartMeters(key, p.Meters)
	t.parts[key] = now
	t.MarkDirty(key)
	return nil
}

// DeletePart makes a part desire nothing and marks it dirty.
func (t *Table) DeletePart(key PartKey) {
	if old := t.drop(key); old != nil {
		old.flows, old.groups, old.meters = nil, nil, nil
		t.parts[key] = old
	}
	t.MarkDirty(key)
}

// drop takes a part's objects out of the desired state and remembers them as stale.
func (t *Table) drop(key PartKey) *part {
	old := t.parts[key]
	if old == nil {
		return nil
	}
	for _, f := range old.flows {
		delete(t.flows, f.FlowKey)
		old.staleFlow(f.FlowKey)
	}
	for _, id := range old.groups {
		delete(t.groups, id)
		old.staleGroup(id)
	}
	for _, id := range old.meters {
		delete(t.meters.parts, id)
	}
	return old
}

// check asserts a part against the pipeline, and that its references close.
func (t *Table) check(key PartKey, p Part) error {
	ids := make(map[ofproto.GroupID]bool, len(p.Groups))
	for _, g := range p.Groups {
		if !OwnsGroup(g.ID) {
			return fmt.Errorf("group %#x is outside our range", uint32(g.ID))
		}
		if ids[g.ID] {
			return fmt.Errorf("group %#x appears twice", uint32(g.ID))
		}
		// Open vSwitch takes a group without a bucket and drops its packets silently.
		if len(g.Buckets) == 0 {
			return fmt.Errorf("group %#x has no bucket", uint32(g.ID))
		}
		if w, ok := t.groups[g.ID]; ok && w.part != key {
			return fmt.Errorf("group %#x belongs to part %s", uint32(g.ID), w.part)
		}
		ids[g.ID] = true
	}
	var missing error
	ref := func(id ofproto.GroupID) {
		if !ids[id] {
			missing = fmt.Errorf("group %#x is referred to and not in the part", uint32(id))
		}
	}
	for _, g := range p.Groups {
		bucketRefs(g.Buckets, ref)
	}
	for _, m := range p.Meters {
		if w, ok := t.meters.parts[m.ID]; ok && w.part != key {
			return fmt.Errorf("meter %#x belongs to part %s", m.ID, w.part)
		}
	}
	seen := make(map[FlowKey]bool, len(p.Flows))
	for _, f := range p.Flows {
		if err := t.pipeline.Check(key.App, f); err != nil {
			return err
		}
		k := keyOf(f)
		if seen[k] {
			return fmt.Errorf("two flows with table %d, priority %d, match %s", f.Table, f.Priority, f.Match)
		}
		if w, ok := t.flows[k]; ok && w.part != key {
			return fmt.Errorf("flow table %d, priority %d, match %s belongs to part %s", f.Table, f.Priority, f.Match, w.part)
		}
		seen[k] = true
		groupRefs(f.Instructions, ref)
	}
	return missing
}

// Installed is what one complete read-back of a switch reported.
type Installed struct {
	flows   map[FlowKey]uint64
	groups  map[ofproto.GroupID]string
	foreign map[FlowKey]uint64
	meters  map[uint32]uint32    // rate by id
	altered map[FlowKey]struct{} // of flows
	scratch ofproto.Match
}

// NewInstalled returns an empty read-back. flows is about how many of ours are
// expected, which spares growing for them.
func NewInstalled(flows int) *Installed {
	return &Installed{
		flows: make(map[FlowKey]uint64, flows), groups: map[ofproto.GroupID]string{},
		foreign: map[FlowKey]uint64{}, altered: map[FlowKey]struct{}{},
	}
}

// Len returns how many flows and groups were recorded.
func (in *Installed) Len() int { return len(in.flows) + len(in.foreign) + len(in.groups) }

// Ours returns how many flows and groups of ours the switch reported.
func (in *Installed) Ours() int { return len(in.flows) + len(in.groups) }

// AddFlow records an entry that the switch reported. It keeps nothing of f. An
// entry with a cookie of ours and a content that the cookie does not stand for has
// been altered by somebody else, and is recorded as such.
func (in *Installed) AddFlow(f ofproto.FlowStats) {
	in.scratch = f.Match.AppendCanonical(in.scratch[:0])
	k := FlowKey{Table: f.Table, Priority: f.Priority, Match: string(in.scratch)}
	if !OwnsCookie(f.Cookie) {
		in.foreign[k] = f.Cookie
		return
	}
	in.flows[k] = f.Cookie
	if cookieOf(uint8(f.Cookie>>44&0xf), CookieApp(f.Cookie), k, f.RawInstructions) != f.Cookie {
		in.altered[k] = struct{}{}
	}
}

// Matches returns the matches of the entries that an app owns.
func (in *Installed) Matches(app AppID) []ofproto.Match {
	var all []ofproto.Match
	for k, c := range in.flows {
		if CookieApp(c) == app {
			all = append(all, ofproto.Match(k.Match))
		}
	}
	return all
}

// AddGroup records a group that the switch reported; foreign ids are ignored.
func (in *Installed) AddGroup(id ofproto.GroupID, typ ofproto.GroupType, buckets []ofproto.Bucket) {
	if OwnsGroup(id) {
		in.groups[id] = describe(typ, buckets)
	}
}

// ReadBack replaces what the switch is known to hold. The parts that the switch does
// not hold as they are desired become dirty, and what it holds of ours that no part
// desires becomes stale. It may only be called with a complete read-back and a
// complete desired state, for what is stale is deleted.
func (t *Table) ReadBack(in *Installed) {
	t.hasFlows, t.hasGroups, t.foreign = in.flows, in.groups, in.foreign
	t.meters.has, t.meters.refused, t.meters.settled = in.meters, nil, false
	t.repair(in)
	orphans := t.parts[PartKey{}]
	if orphans == nil {
		orphans = &part{}
		t.parts[PartKey{}] = orphans
	}
	var dirty []PartKey
	flows, groups := 0, 0 // that the switch holds and parts desire
	for key, p := range t.parts {
		f, g, same := t.holds(p)
		flows, groups = flows+f, groups+g
		if !same && key != (PartKey{}) {
			dirty = append(dirty, key)
		}
	}
	if flows < len(t.hasFlows) {
		for k := range t.hasFlows {
			if !t.wantsFlow(k) {
				orphans.staleFlow(k)
			}
		}
	}
	if groups < len(t.hasGroups) {
		for id := range t.hasGroups {
			if !t.wantsGroup(id) {
				orphans.staleGroup(id)
			}
		}
	}
	// What is left over goes last: a group of it may still be in a bucket that only
	// the plan of another part takes away.
	t.queue[classOrphan] = nil
	delete(t.queued, PartKey{})
	slices.SortFunc(dirty, comparePartKeys)
	for _, key := range dirty {
		t.MarkDirty(key)
	}
	t.MarkDirty(PartKey{})
}

// holds counts the flows and groups of a part that the switch has, and says whether
// it has all of them as they are desired and nothing that the part left behind.
func (t *Table) holds(p *part) (flows, groups int, same bool) {
	same = len(p.staleFlows) == 0 && len(p.staleGroups) == 0
	for i := range p.flows {
		c, ok := t.hasFlows[p.flows[i].FlowKey]
		if ok {
			flows++
		}
		same = same && ok && c == p.flows[i].cookie
	}
	for _, id := range p.groups {
		desc, ok := t.hasGroups[id]
		if ok {
			groups++
		}
		same = same && desc == t.groups[id].desc
	}
	return flows, groups, same && t.blocked(p) == nil
}

// believeAfter is how many times in a row a read-back must find an object otherwise
// than it was set before the switch is taken to write it in its own way.
const believeAfter = 3

// repair makes the entries that were altered due to be set again; groups that are
// not as desired are so already. What a switch reports otherwise however often it is
// set is its own way of writing it, and is believed.
func (t *Table) repair(in *Installed) {
	flows, groups := map[FlowKey]int{}, map[ofproto.GroupID]int{}
	for k := range in.altered {
		if flows[k] = t.alteredFlows[k] + 1; flows[k] <= believeAfter {
			t.hasFlows[k] = 0
		}
	}
	for id, has := range t.hasGroups {
		if w, wanted := t.groups[id]; wanted && w.desc != has && t.setGroups[id] == w.desc {
			if groups[id] = t.alteredGroups[id] + 1; groups[id] > believeAfter {
				t.hasGroups[id] = w.desc
			}
		}
	}
	t.alteredFlows, t.alteredGroups = flows, groups
}

func comparePartKeys(a, b PartKey) int {
	return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Name, b.Name))
}

// Wants returns the part that desires an entry.
func (t *Table) Wants(table ofproto.Table, priority uint16, match ofproto.Match) (PartKey, bool) {
	w, ok := t.flows[FlowKey{Table: table, Priority: priority, Match: string(match.Canonical())}]
	return w.part, ok
}

// FlowRemoved records that the switch dropped an entry, and marks the part that
// desires it dirty. It reports whether an entry of ours that is desired went.
func (t *Table) FlowRemoved(table ofproto.Table, priority uint16, match ofproto.Match, cookie uint64) bool {
	k := FlowKey{Table: table, Priority: priority, Match: string(match.Canonical())}
	delete(t.foreign, k)
	if c, ok := t.hasFlows[k]; !ok || c != cookie {
		return false
	}
	delete(t.hasFlows, k)
	w, wanted := t.flows[k]
	if wanted {
		t.MarkDirty(w.part)
	}
	return wanted
}

// MarkDirty queues a part for the next Plan.
func (t *Table) MarkDirty(key PartKey) {
	if key == (PartKey{}) && t.keepOrphans {
		return
	}
	if !t.queued[key] {
		t.queued[key] = true
		class := ClassBase // what is not desired any more makes room
		if key == (PartKey{}) {
			class = classOrphan
		} else if p := t.parts[key]; p != nil && len(p.flows) > 0 {
			class = p.class
		}
		t.queue[class] = append(t.queue[class], key)
	}
}

// KeepOrphans says whether what a read-back found of ours, and no part desires, is left
// in the switch: a part that cannot be compiled may desire it.
func (t *Table) KeepOrphans(keep bool) {
	was := t.keepOrphans
	t.keepOrphans = keep
	if was && !keep {
		t.MarkDirty(PartKey{})
	}
}

// Postpone takes parts off the queue again until MarkDirty is called for them.
func (t *Table) Postpone(these func(PartKey) bool) {
	for class := range t.queue {
		t.queue[class] = slices.DeleteFunc(t.queue[class], func(key PartKey) bool {
			late := these(key)
			if late {
				delete(t.queued, key)
			}
			return late
		})
	}
}

// Dirty says whether a Plan would look at any part.
func (t *Table) Dirty() bool { return len(t.queued) > 0 }

// next takes a part off the queue. ok is false when it is empty.
func (t *Table) next() (key PartKey, ok bool) {
	for class := range t.queue {
		if q := t.queue[class]; len(q) > 0 {
			t.queue[class] = q[1:]
			delete(t.queued, q[0])
			return q[0], true
		}
	}
	return PartKey{}, false
}

// Stale returns how many of the flows and groups of ours that the switch holds are
// not desired, and how many it holds.
func (t *Table) Stale() (stale, has int) {
	for k := range t.hasFlows {
		if !t.wantsFlow(k) {
			stale++
		}
	}
	for id := range t.hasGroups {
		if !t.wantsGroup(id) {
			stale++
		}
	}
	return stale, len(t.hasFlows) + len(t.hasGroups)
}

// StaleOf returns how many flows of one app the switch holds that are not desired.
func (t *Table) StaleOf(app AppID) (stale int) {
	for k, c := range t.hasFlows {
		if CookieApp(c) == app && !t.wantsFlow(k) {
			stale++
		}
	}
	return stale
}

// Foreign returns how many entries of others the last read-back saw.
func (t *Table) Foreign() int { return len(t.foreign) }

// Counts returns how many flows and groups of ours the switch is known to hold.
func (t *Table) Counts() (flows, groups int) { return len(t.hasFlows), len(t.hasGroups) }
