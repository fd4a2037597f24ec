package flowtable

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Mod is one message of a plan and the object it concerns.
type Mod struct {
	Part    PartKey
	Message ofproto.Message // *ofproto.FlowMod, *ofproto.GroupMod or *ofproto.MeterMod

	flow   *flow // of a flow-mod
	cookie uint64
	group  *group // of a group-mod
	meter  Meter  // of a meter-mod
	desc   description
	remove bool
	fresh  bool // it adds what was not there
	depth  int  // of a group-mod: how many phases must come before it
}

func (m *Mod) String() string {
	verb := "set"
	if m.remove {
		verb = "delete"
	}
	if _, ok := m.Message.(*ofproto.MeterMod); ok {
		return fmt.Sprintf("%s meter %#x", verb, m.meter.ID)
	}
	if _, ok := m.Message.(*ofproto.GroupMod); ok {
		return fmt.Sprintf("%s group %#x of %s", verb, uint32(m.group.id), m.Part)
	}
	return fmt.Sprintf("%s flow table=%d,priority=%d,%s of %s", verb, m.flow.Table, m.flow.Priority, ofproto.Match(m.flow.Match), m.Part)
}

// Plan is the difference between desired and installed for some parts. The four
// lists are each in the order in which they must be sent.
type Plan struct {
	Parts []PartKey
	// Blocked holds the parts that cannot be installed at present, and why. They
	// are not in the lists.
	Blocked map[PartKey]error

	DeleteFlows  []Mod
	SetGroups    []Mod // those referred to before those that refer
	SetFlows     []Mod // the last table first, so that no entry goes to a table not yet filled
	DeleteGroups []Mod // those that refer before those referred to

	atomic []Mod // all of them, where they lie one behind the other
}

// Len is the number of messages.
func (p *Plan) Len() int {
	return len(p.DeleteFlows) + len(p.SetGroups) + len(p.SetFlows) + len(p.DeleteGroups)
}

// Atomic returns the messages in the order for one atomic, ordered bundle:
// deletions first, so that a full table has room.
func (p *Plan) Atomic() []Mod {
	if p.atomic != nil {
		return p.atomic
	}
	return slices.Concat(p.DeleteFlows, p.SetGroups, p.SetFlows, p.DeleteGroups)
}

// Phases returns the messages for a switch without bundles, to be sent with a
// barrier after each phase: make before break. A switch may carry out what comes
// between two barriers in any order (§6.2), so groups are a phase a level of
// references.
func (p *Plan) Phases() [][]Mod {
	phases := slices.Concat(byDepth(p.SetGroups), [][]Mod{p.SetFlows, p.DeleteFlows}, byDepth(p.DeleteGroups))
	return slices.DeleteFunc(phases, func(ms []Mod) bool { return len(ms) == 0 })
}

// RoomFirst returns the messages as Phases does, break before make: for a switch
// without room for both the old and the new.
func (p *Plan) RoomFirst() [][]Mod {
	phases := slices.Concat([][]Mod{p.DeleteFlows}, byDepth(p.DeleteGroups), byDepth(p.SetGroups), [][]Mod{p.SetFlows})
	return slices.DeleteFunc(phases, func(ms []Mod) bool { return len(ms) == 0 })
}

// byDepth divides messages by their depth.
func byDepth(mods []Mod) (phases [][]Mod) {
	for _, m := range mods {
		for len(phases) <= m.depth {
			phases = append(phases, nil)
		}
		phases[m.depth] = append(phases[m.depth], m)
	}
	return phases
}

// Split returns a plan for each part that has messages: first the parts that need no
// more room than they have, then in the order of Parts.
func (p *Plan) Split() []Plan {
	at := map[PartKey]int{}
	var plans []Plan
	of := func(key PartKey) *Plan {
		if _, ok := at[key]; !ok {
			at[key] = len(plans)
			plans = append(plans, Plan{Parts: []PartKey{key}})
		}
		return &plans[at[key]]
	}
	busy := map[PartKey]bool{}
	for _, mods := range [][]Mod{p.DeleteFlows, p.SetGroups, p.SetFlows, p.DeleteGroups} {
		for i := range mods {
			busy[mods[i].Part] = true
		}
	}
	for _, key := range p.Parts {
		if busy[key] {
			of(key)
		}
	}
	for i := range p.DeleteFlows {
		q := of(p.DeleteFlows[i].Part)
		q.DeleteFlows = append(q.DeleteFlows, p.DeleteFlows[i])
	}
	for i := range p.SetGroups {
		q := of(p.SetGroups[i].Part)
		q.SetGroups = append(q.SetGroups, p.SetGroups[i])
	}
	for i := range p.SetFlows {
		q := of(p.SetFlows[i].Part)
		q.SetFlows = append(q.SetFlows, p.SetFlows[i])
	}
	for i := range p.DeleteGroups {
		q := of(p.DeleteGroups[i].Part)
		q.DeleteGroups = append(q.DeleteGroups, p.DeleteGroups[i])
	}
	slices.SortStableFunc(plans, func(a, b Plan) int { return cmp.Compare(a.adds(), b.adds()) })
	return plans
}

// Frees says whether the parts that were carried out leave more room for flows or
// groups than there was.
func (p *Plan) Frees(done func(PartKey) bool) bool {
	flows, groups := p.room(done)
	return flows > 0 || groups > 0
}

// room is how many entries and groups fewer some parts need than before.
func (p *Plan) room(of func(PartKey) bool) (flows, groups int) {
	count := func(mods []Mod) (n int) {
		for i := range mods {
			if of(mods[i].Part) && (mods[i].fresh || mods[i].remove) {
				n++
			}
		}
		return n
	}
	return count(p.DeleteFlows) - count(p.SetFlows), count(p.DeleteGroups) - count(p.SetGroups)
}

// adds is 1 for a plan that needs more room than there was, and 0 for one that does not.
func (p *Plan) adds() int {
	if flows, groups := p.room(func(PartKey) bool { return true }); flows < 0 || groups < 0 {
		return 1
	}
	return 0
}

// Undo returns what takes back the additions of some parts that the switch carried
// out, in phases. What was changed, and not added, stays as it is now.
func (t *Table) Undo(p *Plan, of func(PartKey) bool) [][]Mod {
	var flows, groups []Mod
	for _, m := range p.SetFlows {
		if f := m.flow; m.fresh && f.held && f.has == m.cookie && of(m.Part) {
			flows = append(flows, Mod{Part: m.Part, Message: deleteMessage(f.FlowKey, f.has), flow: f, cookie: f.has, remove: true})
		}
	}
	deepest := 0
	for _, m := range p.SetGroups {
		deepest = max(deepest, m.depth)
	}
	for _, m := range p.SetGroups {
		if m.fresh && m.group.held && of(m.Part) {
			groups = append(groups, deleteGroup(m.Part, m.group, deepest-m.depth))
		}
	}
	phases := slices.Concat([][]Mod{flows}, byDepth(groups))
	return slices.DeleteFunc(phases, func(ms []Mod) bool { return len(ms) == 0 })
}

func deleteGroup(key PartKey, g *group, depth int) Mod {
	return Mod{Part: key, Message: &ofproto.GroupMod{Command: ofproto.GroupDelete, Group: g.id}, group: g, remove: true, depth: depth}
}

// Plan takes dirty parts off the queue until they need about most messages, and
// returns what brings the switch to their desired state. A part is never split.
// The caller reports each message with Applied or Failed. Until it has, the parts of the
// plan are to be left alone; other parts may be planned.
func (t *Table) Plan(most int) Plan {
	p := Plan{Blocked: map[PartKey]error{}}
	var deleteFlows, setFlows []*flow
	var setGroups []*group
	var deletions []Mod  // of groups
	var owners []PartKey // of deleteFlows
	for len(deleteFlows)+len(setFlows)+len(setGroups)+len(deletions) < most {
		key, ok := t.next()
		if !ok {
			break
		}
		part := t.parts[key]
		p.Parts = append(p.Parts, key)
		if part == nil {
			continue
		}
		if err := t.blocked(part); err != nil {
			p.Blocked[key] = err
			continue
		}
		for _, f := range part.staleFlows {
			if f.held && f.part == nil && !f.leaving {
				f.leaving = true
				deleteFlows, owners = append(deleteFlows, f), append(owners, key)
			}
		}
		for _, g := range part.groups {
			if !g.installed() {
				setGroups = append(setGroups, g)
			}
		}
		for _, f := range part.flows {
			if !f.installed() {
				setFlows = append(setFlows, f)
			}
		}
		for _, g := range part.staleGroups {
			if g.held && g.part == nil && !g.leaving {
				g.leaving = true
				deletions = append(deletions, deleteGroup(key, g, 0))
			}
		}
		part.staleFlows, part.staleGroups = nil, nil
		if len(part.flows) == 0 && len(part.groups) == 0 {
			delete(t.parts, key)
		}
	}
	// By table and priority, from the highest, and else as they came.
	order := make([]uint64, len(setFlows))
	for i, f := range setFlows {
		order[i] = uint64(^f.Table)<<48 | uint64(^f.Priority)<<32 | uint64(i)
	}
	slices.Sort(order)
	mods := make([]Mod, 0, len(deleteFlows)+len(setGroups)+len(setFlows)+len(deletions))
	for i, f := range deleteFlows {
		mods = append(mods, Mod{Part: owners[i], Message: deleteMessage(f.FlowKey, f.has), flow: f, cookie: f.has, remove: true})
	}
	slices.SortFunc(mods, func(a, b Mod) int {
		return cmp.Or(cmp.Compare(a.flow.Table, b.flow.Table), cmp.Compare(a.flow.Priority, b.flow.Priority), cmp.Compare(a.flow.Match, b.flow.Match))
	})
	mods = t.orderGroups(mods, setGroups)
	messages := make([]ofproto.FlowMod, len(setFlows))
	for i, o := range order {
		f := setFlows[uint32(o)]
		addMessage(&messages[i], f)
		mods = append(mods, Mod{Part: f.part.key, Message: &messages[i], flow: f, cookie: f.cookie, fresh: !f.held || f.leaving})
	}
	mods = append(mods, t.orderDeletions(deletions)...)
	n := [...]int{len(deleteFlows), len(deleteFlows) + len(setGroups), len(deleteFlows) + len(setGroups) + len(setFlows)}
	p.DeleteFlows, p.SetGroups, p.SetFlows, p.DeleteGroups = mods[:n[0]:n[0]], mods[n[0]:n[1]:n[1]], mods[n[1]:n[2]:n[2]], mods[n[2]:]
	p.atomic = mods
	return p
}

// blocked says why a part cannot be installed: a foreign entry has the same
// table, priority and match as one of its flows, and adding ours would replace it.
func (t *Table) blocked(p *part) error {
	if len(t.foreign) == 0 {
		return nil
	}
	for _, f := range p.flows {
		if c, ok := t.foreign[f.FlowKey]; ok {
			return fmt.Errorf("%w: table %d, priority %d, match %s, cookie %#x", ErrForeign, f.Table, f.Priority, f.match, c)
		}
	}
	return nil
}

// orderGroups appends the group-mods of a list with every group after those it refers
// to.
func (t *Table) orderGroups(mods []Mod, list []*group) []Mod {
	if len(list) == 0 {
		return mods
	}
	depths := make(map[ofproto.GroupID]int, len(list)) // plus one of those visited; 0: to be
	for _, g := range list {
		depths[g.id] = 0
	}
	messages := make([]ofproto.GroupMod, len(list))
	var visit func(*group)
	visit = func(g *group) {
		depths[g.id] = 1 // a loop, which no switch takes, must not be followed for ever
		depth := 0
		for _, ref := range g.refs {
			d, among := depths[ref]
			if !among {
				continue
			}
			if d == 0 {
				visit(t.groups[ref])
			}
			depth = max(depth, depths[ref])
		}
		depths[g.id] = depth + 1
		m := &messages[0]
		messages = messages[1:]
		fresh := !g.held || g.leaving
		*m = ofproto.GroupMod{Command: ofproto.GroupModify, Type: g.desc.kind(), Group: g.id, RawBuckets: g.desc.rawBuckets()}
		if fresh {
			m.Command = ofproto.GroupAdd
		}
		mods = append(mods, Mod{Part: g.part.key, Message: m, group: g, desc: g.desc, fresh: fresh, depth: depth})
	}
	for _, g := range list {
		if depths[g.id] == 0 {
			visit(g)
		}
	}
	return mods
}

// orderDeletions sorts the deletions of groups so that those that refer to others,
// as the switch holds them, come before those.
func (t *Table) orderDeletions(mods []Mod) []Mod {
	if len(mods) == 0 {
		return nil
	}
	refs := make(map[ofproto.GroupID][]ofproto.GroupID, len(mods))
	for _, m := range mods {
		refs[m.group.id] = slices.Clone(t.refsOf(m.group.has.buckets()))
	}
	depths := make(map[ofproto.GroupID]int, len(mods))
	var sink func(id ofproto.GroupID, depth int)
	sink = func(id ofproto.GroupID, depth int) {
		if depth > len(mods) || depth < depths[id] {
			return // a loop, which no switch takes; or known to be deeper
		}
		depths[id] = depth
		for _, ref := range refs[id] {
			if _, ok := refs[ref]; ok {
				sink(ref, depth+1)
			}
		}
	}
	for _, m := range mods {
		sink(m.group.id, depths[m.group.id])
	}
	for i := range mods {
		mods[i].depth = depths[mods[i].group.id]
	}
	slices.SortFunc(mods, func(a, b Mod) int {
		return cmp.Or(cmp.Compare(a.depth, b.depth), cmp.Compare(a.group.id, b.group.id))
	})
	return mods
}

// Applied records that the switch carried a message out.
func (t *Table) Applied(m *Mod) {
	switch m.Message.(type) {
	case *ofproto.MeterMod:
		t.appliedMeter(m)
	case *ofproto.GroupMod:
		g := m.group
		t.holdGroup(g, !m.remove)
		g.has, g.set, g.leaving = m.desc, m.desc, false
		t.tidyGroup(g)
	case *ofproto.FlowMod:
		f := m.flow
		t.holdFlow(f, !m.remove)
		f.has, f.leaving = m.cookie, false
		t.tidyFlow(f)
	}
}

// Failed records that the switch refused a message, or that its bundle was
// discarded: a deletion is remembered as still to be done. The caller decides
// when the part is tried again, with MarkDirty.
func (t *Table) Failed(m *Mod) {
	if _, meter := m.Message.(*ofproto.MeterMod); meter {
		t.failedMeter(m)
		return
	}
	if !m.remove {
		return
	}
	p := t.parts[m.Part]
	if p == nil {
		p = &part{key: m.Part}
		t.parts[m.Part] = p
	}
	if m.group != nil {
		m.group.leaving = false
		p.staleGroups = append(p.staleGroups, m.group)
	} else {
		m.flow.leaving = false
		p.staleFlows = append(p.staleFlows, m.flow)
	}
}
