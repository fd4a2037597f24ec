package flowtable

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Table is what one switch should hold beside what it is known to hold. One
// goroutine owns it: the switch's session.
type Table struct {
	pipeline *Pipeline
	parts    map[PartKey]*part
	// Every flow entry and group that a part desires, or the switch holds.
	flows  map[FlowKey]*flow
	groups map[ofproto.GroupID]*group

	heldFlows, heldGroups int // how many the switch holds

	foreign map[FlowKey]uint64 // entries that are not ours, by cookie

	// How many read-backs in a row found an object otherwise than it was set.
	alteredFlows  map[*flow]int
	alteredGroups map[*group]int

	meters meters

	keepOrphans bool

	queue   [classes][]PartKey // dirty parts by class, oldest first
	queued  map[PartKey]bool
	reading uint32       // number of the last read-back that was begun
	cookies *cookieIndex // nil: to be made again
	checked uint32       // number of the last part that was checked

	// Reused from part to part.
	scratch []byte
	refs    []ofproto.GroupID
	encoded map[sameInstructions][2]int
	places  []place
}

type part struct {
	key    PartKey
	class  Class
	flows  []*flow
	groups []*group
	meters []uint32
	// Objects the part no longer wants and the switch may still hold.
	staleFlows  []*flow
	staleGroups []*group
}

// flow is an entry as it is desired and as the switch holds it.
type flow struct {
	FlowKey
	part         *part         // that desires it; nil: none
	match        ofproto.Match // as desired
	instructions []byte        // likewise, as they stand on the wire
	cookie       uint64        // of what is desired

	held    bool   // by the switch
	leaving bool   // its deletion is planned
	has     uint64 // cookie of what is held; 0: it is not what its cookie says
	seen    uint32 // by the read-back of that number
	checked uint32 // named by the part of that number
}

// installed says whether the switch holds a flow as it is desired.
func (f *flow) installed() bool { return f.held && f.has == f.cookie && !f.leaving }

func (f *flow) desired() Flow {
	instructions, _ := ofproto.ParseInstructions(f.instructions) // SetPart made them
	return Flow{Table: f.Table, Priority: f.Priority, Match: f.match, Instructions: instructions}
}

// group is a group as it is desired and as the switch holds it.
type group struct {
	id   ofproto.GroupID
	part *part             // that desires it; nil: none
	desc description       // as desired
	refs []ofproto.GroupID // the groups that it refers to, as desired

	held    bool
	leaving bool
	has     description // what is held
	set     description // as last set and acknowledged; nil: never
	checked uint32
}

func (g *group) installed() bool { return g.held && g.has.equal(g.desc) && !g.leaving }

// New returns an empty Table: nothing desired, nothing installed.
func New(p *Pipeline) *Table {
	return &Table{
		pipeline: p,
		parts:    map[PartKey]*part{},
		flows:    map[FlowKey]*flow{},
		groups:   map[ofproto.GroupID]*group{},
		foreign:  map[FlowKey]uint64{},
		queued:   map[PartKey]bool{},
		encoded:  map[sameInstructions][2]int{},
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
	piece, places := t.encode(p.Flows)
	flows, groups, err := t.check(key, p, piece, places)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrPart, key, err)
	}
	now := &part{key: key, class: p.Class, flows: flows, groups: groups}
	old := t.drop(key)
	for i, f := range flows {
		m, ins := places[i].match, places[i].instructions
		f.part, f.match, f.instructions = now, piece[m[0]:m[1]:m[1]], piece[ins[0]:ins[1]:ins[1]]
		f.cookie = cookieOf(t.pipeline.Version, key.App, f.Table, f.Priority, f.match, f.instructions)
	}
	for i, g := range groups {
		from := &p.Groups[i]
		g.part = now
		if t.scratch = appendDescription(t.scratch[:0], from.Type, from.Buckets); !g.desc.equal(t.scratch) {
			if g.has.equal(t.scratch) {
				g.desc = g.has
			} else {
				g.desc = bytes.Clone(t.scratch)
			}
		}
		g.refs = append(g.refs[:0], t.refsOf(from.Buckets)...)
	}
	if old != nil {
		now.staleFlows, now.staleGroups = old.staleFlows, old.staleGroups
	}
	t.clean(now)
	now.meters = t.setPartMeters(key, p.Meters)
	t.parts[key] = now
	t.MarkDirty(key)
	return nil
}

// place is where the match and the instructions of a flow begin and end among the bytes
// of its part.
type place struct{ match, instructions [2]int }

// sameInstructions tells lists of instructions that are one and the same.
type sameInstructions struct {
	first *ofproto.Instruction
	n     int
}

// encode returns the bytes of a part's flows, in one piece: all matches, then all
// instructions. Those that flows share are there once. The places are good until the next
// call.
func (t *Table) encode(flows []Flow) (piece []byte, places []place) {
	b, places := t.scratch[:0], t.places[:0]
	for i := range flows {
		start := len(b)
		b = append(b, flows[i].Match...)
		places = append(places, place{match: [2]int{start, len(b)}})
	}
	for i := range flows {
		list := flows[i].Instructions
		if len(list) == 0 {
			continue
		}
		same := sameInstructions{&list[0], len(list)}
		at, known := t.encoded[same]
		if !known {
			start := len(b)
			b = ofproto.AppendInstructions(b, list)
			at = [2]int{start, len(b)}
			t.encoded[same] = at
		}
		places[i].instructions = at
	}
	clear(t.encoded)
	t.scratch, t.places = b, places
	return bytes.Clone(b), places
}

// DeletePart makes a part desire nothing and marks it dirty.
func (t *Table) DeletePart(key PartKey) {
	if old := t.drop(key); old != nil {
		old.flows, old.groups, old.meters = nil, nil, nil
		t.clean(old)
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
		f.part = nil
	}
	for _, g := range old.groups {
		g.part = nil
	}
	old.staleFlows = append(old.staleFlows, old.flows...)
	old.staleGroups = append(old.staleGroups, old.groups...)
	for _, id := range old.meters {
		delete(t.meters.parts, id)
	}
	return old
}

// clean forgets of what a part has left behind whatever is desired again, or not held
// by the switch.
func (t *Table) clean(p *part) {
	p.staleFlows = slices.DeleteFunc(p.staleFlows, func(f *flow) bool { t.tidyFlow(f); return f.part != nil || !f.held })
	p.staleGroups = slices.DeleteFunc(p.staleGroups, func(g *group) bool { t.tidyGroup(g); return g.part != nil || !g.held })
	if len(p.staleFlows) == 0 {
		p.staleFlows = nil
	}
	if len(p.staleGroups) == 0 {
		p.staleGroups = nil
	}
}

// refsOf returns the groups that buckets refer to, each once. The list is good until the
// next call.
func (t *Table) refsOf(bs []ofproto.Bucket) []ofproto.GroupID {
	t.refs = t.refs[:0]
	bucketRefs(bs, func(id ofproto.GroupID) {
		if !slices.Contains(t.refs, id) {
			t.refs = append(t.refs, id)
		}
	})
	return t.refs
}

// tidyFlow forgets a flow that is neither desired nor held.
func (t *Table) tidyFlow(f *flow) {
	if f.part == nil && !f.held && t.flows[f.FlowKey] == f {
		delete(t.flows, f.FlowKey)
	}
}

func (t *Table) tidyGroup(g *group) {
	if g.part == nil && !g.held && t.groups[g.id] == g {
		delete(t.groups, g.id)
	}
}

// holdFlow records whether the switch holds a flow; the caller says what it holds.
func (t *Table) holdFlow(f *flow, held bool) {
	t.cookies = nil
	if f.held != held {
		f.held = held
		if held {
			t.heldFlows++
		} else {
			t.heldFlows--
		}
	}
}

func (t *Table) holdGroup(g *group, held bool) {
	if g.held != held {
		g.held = held
		if held {
			t.heldGroups++
		} else {
			t.heldGroups--
		}
	}
}

// check asserts a part against the pipeline, and that its references close. It returns
// the part's flows and groups in their order; on an error it leaves nothing of them.
// piece and places are of encode.
func (t *Table) check(key PartKey, p Part, piece []byte, places []place) (flows []*flow, groups []*group, err error) {
	t.checked++
	defer func() {
		if err != nil {
			for _, f := range flows {
				t.tidyFlow(f)
			}
			for _, g := range groups {
				t.tidyGroup(g)
			}
		}
	}()
	groups = make([]*group, 0, len(p.Groups))
	for i := range p.Groups {
		id := p.Groups[i].ID
		if !OwnsGroup(id) {
			return flows, groups, fmt.Errorf("group %#x is outside our range", uint32(id))
		}
		g := t.groups[id]
		switch {
		case g == nil:
			g = &group{id: id}
			t.groups[id] = g
		case g.checked == t.checked:
			return flows, groups, fmt.Errorf("group %#x appears twice", uint32(id))
		case g.part != nil && g.part.key != key:
			return flows, groups, fmt.Errorf("group %#x belongs to part %s", uint32(id), g.part.key)
		}
		g.checked = t.checked
		groups = append(groups, g)
		// Open vSwitch takes a group without a bucket and drops its packets silently.
		if len(p.Groups[i].Buckets) == 0 {
			return flows, groups, fmt.Errorf("group %#x has no bucket", uint32(id))
		}
	}
	var missing error
	ref := func(id ofproto.GroupID) {
		if g := t.groups[id]; g == nil || g.checked != t.checked {
			missing = fmt.Errorf("group %#x is referred to and not in the part", uint32(id))
		}
	}
	for i := range p.Groups {
		for _, id := range t.refsOf(p.Groups[i].Buckets) {
			ref(id)
		}
	}
	for _, m := range p.Meters {
		if w, ok := t.meters.parts[m.ID]; ok && w.part != key {
			return flows, groups, fmt.Errorf("meter %#x belongs to part %s", m.ID, w.part)
		}
	}
	flows = make([]*flow, 0, len(p.Flows))
	var fresh []flow // one allocation for all
	var matches string
	for i := range p.Flows {
		from := &p.Flows[i]
		if err := t.pipeline.Check(key.App, *from); err != nil {
			return flows, groups, err
		}
		// This form of the key makes no string of its own.
		f := t.flows[FlowKey{Table: from.Table, Priority: from.Priority, Match: string(from.Match)}]
		switch {
		case f == nil:
			if len(fresh) == 0 {
				fresh = make([]flow, len(p.Flows)-i)
				matches = string(piece[:places[len(places)-1].match[1]])
			}
			f, fresh = &fresh[0], fresh[1:]
			f.FlowKey = FlowKey{Table: from.Table, Priority: from.Priority, Match: matches[places[i].match[0]:places[i].match[1]]}
			t.flows[f.FlowKey] = f
		case f.checked == t.checked:
			return flows, groups, fmt.Errorf("two flows with table %d, priority %d, match %s", from.Table, from.Priority, from.Match)
		case f.part != nil && f.part.key != key:
			return flows, groups, fmt.Errorf("flow table %d, priority %d, match %s belongs to part %s", from.Table, from.Priority, from.Match, f.part.key)
		}
		f.checked = t.checked
		flows = append(flows, f)
		groupRefs(from.Instructions, ref)
	}
	return flows, groups, missing
}

// Installed is what one complete read-back of a switch reported, as far as it is not
// what a Table knows already.
type Installed struct {
	table   *Table // nil: all is recorded
	number  uint32
	same    int // flows that the switch holds as the table knows: those ticked off
	index   *cookieIndex
	ticks   ticks
	flows   []reportedFlow
	groups  map[ofproto.GroupID]description
	foreign map[FlowKey]uint64
	meters  map[uint32]uint32 // rate by id
	scratch ofproto.Match
	desc    []byte
}

type reportedFlow struct {
	FlowKey
	cookie  uint64
	altered bool
}

// NewInstalled returns an empty read-back that records everything.
func NewInstalled() *Installed {
	return &Installed{groups: map[ofproto.GroupID]description{}, foreign: map[FlowKey]uint64{}}
}

// NewInstalled returns an empty read-back for this table: flows that the switch holds
// as the table knows are ticked off as they come, and cost no memory. Until ReadBack is
// called with it, or nothing comes of it, the table must be left alone.
func (t *Table) NewInstalled() *Installed {
	in := NewInstalled()
	t.reading++
	in.table, in.number, in.index = t, t.reading, t.index()
	in.ticks = make(ticks, len(in.index.slots)/64+1)
	return in
}

// Len returns how many flows, groups and meters were recorded, foreign ones included.
func (in *Installed) Len() int { return in.Ours() + len(in.foreign) + len(in.meters) }

// Ours returns how many flows and groups of ours the switch reported.
func (in *Installed) Ours() int { return in.same + len(in.flows) + len(in.groups) }

// AddFlow records an entry that the switch reported. It keeps nothing of f. An
// entry with a cookie of ours and a content that the cookie does not stand for has
// been altered by somebody else, and is recorded as such.
func (in *Installed) AddFlow(f ofproto.FlowStats) {
	in.scratch = f.Match.AppendCanonical(in.scratch[:0])
	ours := OwnsCookie(f.Cookie)
	if ours && in.index != nil {
		// The cookie stands for the content, which is looked at all the same: somebody may
		// have changed it.
		slot, known := in.index.find(f.Cookie)
		if known && !in.ticks.has(slot) && !in.index.twice[f.Cookie] && f.Cookie == contentOf(f, in.scratch) {
			in.ticks.set(slot)
			in.same++
			return
		}
	}
	k := FlowKey{Table: f.Table, Priority: f.Priority, Match: string(in.scratch)}
	if !ours {
		in.foreign[k] = f.Cookie
		return
	}
	in.flows = append(in.flows, reportedFlow{k, f.Cookie, contentOf(f, in.scratch) != f.Cookie})
}

// contentOf is the cookie that a reported flow has when it is as it was set, of whatever
// app and version.
func contentOf(f ofproto.FlowStats, match ofproto.Match) uint64 {
	return cookieOf(uint8(f.Cookie>>44&0xf), CookieApp(f.Cookie), f.Table, f.Priority, match, f.RawInstructions)
}

// ticked says whether a flow was reported as the table knows it.
func (in *Installed) ticked(f *flow) bool {
	if in.index == nil || !f.held || f.has == 0 || in.index.twice[f.has] {
		return false
	}
	slot, there := in.index.find(f.has)
	return there && in.ticks.has(slot)
}

// Matches returns the matches of the entries that an app owns.
func (in *Installed) Matches(app AppID) []ofproto.Match {
	var all []ofproto.Match
	for i := range in.flows {
		if CookieApp(in.flows[i].cookie) == app {
			all = append(all, ofproto.Match(in.flows[i].Match))
		}
	}
	if in.same > 0 {
		for _, f := range in.table.flows {
			if in.ticked(f) && CookieApp(f.has) == app {
				all = append(all, ofproto.Match(f.Match))
			}
		}
	}
	return all
}

// AddGroup records a group that the switch reported; foreign ids are ignored.
func (in *Installed) AddGroup(id ofproto.GroupID, typ ofproto.GroupType, buckets []ofproto.Bucket) {
	if !OwnsGroup(id) {
		return
	}
	in.desc = appendDescription(in.desc[:0], typ, buckets)
	if in.table != nil {
		if g := in.table.groups[id]; g != nil && g.has.equal(in.desc) {
			in.groups[id] = g.has
			return
		}
	}
	in.groups[id] = bytes.Clone(in.desc)
}

// ReadBack replaces what the switch is known to hold. The parts that the switch does
// not hold as they are desired become dirty, and what it holds of ours that no part
// desires becomes stale. It may only be called with a complete read-back and a
// complete desired state, for what is stale is deleted.
//
// Parts for which waits says so are left as they are: that the switch does not hold them
// is known. It may be nil. The parts returned became dirty only now.
func (t *Table) ReadBack(in *Installed, waits func(PartKey) bool) (found []PartKey) {
	t.meters.has, t.meters.refused, t.meters.settled = in.meters, nil, false
	if in.table == t && t.unchanged(in) {
		return nil
	}
	t.foreign = in.foreign
	t.adoptFlows(in)
	t.adoptGroups(in)
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
		if !same && key != (PartKey{}) && (waits == nil || !waits(key)) {
			dirty = append(dirty, key)
		}
	}
	if flows < t.heldFlows {
		for _, f := range t.flows {
			if f.held && f.part == nil {
				orphans.staleFlows = append(orphans.staleFlows, f)
			}
		}
	}
	if groups < t.heldGroups {
		for _, g := range t.groups {
			if g.held && g.part == nil {
				orphans.staleGroups = append(orphans.staleGroups, g)
			}
		}
	}
	// What is left over goes last: a group of it may still be in a bucket that only
	// the plan of another part takes away.
	t.queue[classOrphan] = nil
	delete(t.queued, PartKey{})
	slices.SortFunc(dirty, comparePartKeys)
	for _, key := range dirty {
		if !t.queued[key] {
			found = append(found, key)
		}
		t.MarkDirty(key)
	}
	t.MarkDirty(PartKey{})
	return found
}

// unchanged says whether a read-back found nothing but what was known. What is not as
// it is desired all the same is dirty already, or waits to be tried again.
func (t *Table) unchanged(in *Installed) bool {
	if in.same != t.heldFlows || len(in.flows) > 0 || len(in.groups) != t.heldGroups || len(t.alteredFlows)+len(t.alteredGroups) > 0 || !maps.Equal(in.foreign, t.foreign) {
		return false
	}
	for id, has := range in.groups {
		if g := t.groups[id]; g == nil || !g.held || !g.has.equal(has) {
			return false
		}
	}
	return true
}

// believeAfter is how many times in a row a read-back must find an object otherwise
// than it was set before the switch is taken to write it in its own way.
const believeAfter = 3

// adoptFlows takes over which flows a read-back saw. Those that were altered are due to
// be set again; what a switch reports otherwise however often it is set is its own way
// of writing it, and is believed.
func (t *Table) adoptFlows(in *Installed) {
	if in.table != t {
		t.reading++
		in.number, in.same, in.index = t.reading, 0, nil
	}
	for _, f := range t.flows {
		if in.ticked(f) {
			f.seen = in.number
		}
	}
	altered := map[*flow]int{}
	known := t.heldFlows // before
	seen := in.same
	for i := range in.flows {
		r := &in.flows[i]
		f := t.flows[r.FlowKey]
		if f == nil {
			f = &flow{FlowKey: r.FlowKey}
			t.flows[r.FlowKey] = f
		} else if f.held && f.seen != in.number {
			seen++
		}
		t.holdFlow(f, true)
		f.has, f.seen, f.leaving = r.cookie, in.number, false
		if r.altered {
			if altered[f] = t.alteredFlows[f] + 1; altered[f] <= believeAfter {
				f.has = 0
			}
		}
	}
	t.alteredFlows = altered
	if seen == known {
		return
	}
	for _, f := range t.flows {
		if f.held && f.seen != in.number {
			t.holdFlow(f, false)
			f.leaving = false
			t.tidyFlow(f)
		}
	}
}

// adoptGroups does as adoptFlows.
func (t *Table) adoptGroups(in *Installed) {
	for id, has := range in.groups {
		g := t.groups[id]
		if g == nil {
			g = &group{id: id}
			t.groups[id] = g
		}
		t.holdGroup(g, true)
		g.has, g.leaving = has, false
	}
	altered := map[*group]int{}
	for id, g := range t.groups {
		if _, there := in.groups[id]; g.held && !there {
			t.holdGroup(g, false)
			g.has, g.leaving = nil, false
			t.tidyGroup(g)
		}
		if g.held && g.part != nil && !g.desc.equal(g.has) && g.set.equal(g.desc) {
			if altered[g] = t.alteredGroups[g] + 1; altered[g] > believeAfter {
				g.has = g.desc
			}
		}
	}
	t.alteredGroups = altered
}

// holds counts the flows and groups of a part that the switch has, and says whether
// it has all of them as they are desired and nothing that the part left behind.
func (t *Table) holds(p *part) (flows, groups int, same bool) {
	same = len(p.staleFlows) == 0 && len(p.staleGroups) == 0
	for _, f := range p.flows {
		if f.held {
			flows++
		}
		same = same && f.installed()
	}
	for _, g := range p.groups {
		if g.held {
			groups++
		}
		same = same && g.installed()
	}
	return flows, groups, same && t.blocked(p) == nil
}

func comparePartKeys(a, b PartKey) int {
	return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Name, b.Name))
}

// Wants returns the part that desires an entry.
func (t *Table) Wants(table ofproto.Table, priority uint16, match ofproto.Match) (PartKey, bool) {
	f := t.flows[FlowKey{Table: table, Priority: priority, Match: string(match.Canonical())}]
	if f == nil || f.part == nil {
		return PartKey{}, false
	}
	return f.part.key, true
}

// FlowRemoved records that the switch dropped an entry, and marks the part that
// desires it dirty. It reports whether an entry of ours that is desired went.
func (t *Table) FlowRemoved(table ofproto.Table, priority uint16, match ofproto.Match, cookie uint64) bool {
	k := FlowKey{Table: table, Priority: priority, Match: string(match.Canonical())}
	delete(t.foreign, k)
	f := t.flows[k]
	if f == nil || !f.held || f.has != cookie {
		return false
	}
	t.holdFlow(f, false)
	if f.part == nil {
		t.tidyFlow(f)
		return false
	}
	t.MarkDirty(f.part.key)
	return true
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

// Unqueue takes one part off the queue until MarkDirty is called for it, and reports
// whether it was there.
func (t *Table) Unqueue(key PartKey) bool {
	was := t.queued[key]
	if was {
		delete(t.queued, key)
		for class := range t.queue {
			if i := slices.Index(t.queue[class], key); i >= 0 {
				t.queue[class] = slices.Delete(t.queue[class], i, i+1)
			}
		}
	}
	return was
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
// not desired, and how many it holds. A flow of another version of the pipeline does not
// count where one of this version is to take its place.
func (t *Table) Stale() (stale, has int) {
	old, missing := 0, 0
	for _, f := range t.flows {
		switch {
		case f.held && f.part == nil && uint8(f.has>>44&0xf) != t.pipeline.Version&0xf:
			old++
		case f.held && f.part == nil:
			stale++
		case !f.held && f.part != nil:
			missing++
		}
	}
	stale += max(old-missing, 0)
	for _, g := range t.groups {
		if g.held && g.part == nil {
			stale++
		}
	}
	return stale, t.heldFlows + t.heldGroups
}

// StaleOf returns how many flows of one app the switch holds that are not desired.
func (t *Table) StaleOf(app AppID) (stale int) {
	for _, f := range t.flows {
		if f.held && f.part == nil && CookieApp(f.has) == app {
			stale++
		}
	}
	return stale
}

// Foreign returns how many entries of others the last read-back saw.
func (t *Table) Foreign() int { return len(t.foreign) }

// Counts returns how many flows and groups of ours the switch is known to hold.
func (t *Table) Counts() (flows, groups int) { return t.heldFlows, t.heldGroups }
