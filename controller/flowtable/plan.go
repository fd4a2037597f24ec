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

	flow   FlowKey // of a flow-mod
	cookie uint64
	group  ofproto.GroupID // of a group-mod
	meter  Meter           // of a meter-mod
	desc   string
	remove bool
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
		return fmt.Sprintf("%s group %#x of %s", verb, uint32(m.group), m.Part)
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
	DeleteGroups []Mod
}

// Len is the number of messages.
func (p *Plan) Len() int {
	return len(p.DeleteFlows) + len(p.SetGroups) + len(p.SetFlows) + len(p.DeleteGroups)
}

// Atomic returns the messages in the order for one atomic, ordered bundle:
// deletions first, so that a full table has room.
func (p *Plan) Atomic() []Mod {
	return slices.Concat(p.DeleteFlows, p.SetGroups, p.SetFlows, p.DeleteGroups)
}

// Phases returns the messages for a switch without bundles, to be sent with a
// barrier after each phase: make before break.
func (p *Plan) Phases() [][]Mod {
	phases := [][]Mod{p.SetGroups, p.SetFlows, p.DeleteFlows, p.DeleteGroups}
	return slices.DeleteFunc(phases, func(ms []Mod) bool { return len(ms) == 0 })
}

// Plan takes dirty parts off the queue until they need about most messages, and
// returns what brings the switch to their desired state. A part is never split.
// The caller reports each message with Applied or gives the part back with MarkDirty.
func (t *Table) Plan(most int) Plan {
	p := Plan{Blocked: map[PartKey]error{}}
	var setGroups []ofproto.GroupID
	for len(t.queue) > 0 && p.Len()+len(setGroups) < most {
		key := t.queue[0]
		t.queue = t.queue[1:]
		delete(t.queued, key)
		part := t.parts[key]
		p.Parts = append(p.Parts, key)
		if part == nil {
			continue
		}
		if err := t.blocked(part); err != nil {
			p.Blocked[key] = err
			continue
		}
		for k := range part.staleFlows {
			if c, ok := t.hasFlows[k]; ok && !t.wantsFlow(k) {
				p.DeleteFlows = append(p.DeleteFlows, Mod{Part: key, Message: deleteMessage(k, c), flow: k, cookie: c, remove: true})
			}
		}
		for _, id := range part.groups {
			if t.hasGroups[id] != t.groups[id].desc {
				setGroups = append(setGroups, id)
			}
		}
		for _, f := range part.flows {
			if c, ok := t.hasFlows[f.FlowKey]; !ok || c != f.cookie {
				p.SetFlows = append(p.SetFlows, Mod{Part: key, Message: addMessage(t.flows[f.FlowKey].flow, f.cookie), flow: f.FlowKey, cookie: f.cookie})
			}
		}
		for id := range part.staleGroups {
			if _, ok := t.hasGroups[id]; ok && !t.wantsGroup(id) {
				p.DeleteGroups = append(p.DeleteGroups, Mod{Part: key, Message: &ofproto.GroupMod{Command: ofproto.GroupDelete, Group: id}, group: id, remove: true})
			}
		}
		part.staleFlows, part.staleGroups = nil, nil
		if len(part.flows) == 0 && len(part.groups) == 0 {
			delete(t.parts, key)
		}
	}
	p.SetGroups = t.orderGroups(setGroups)
	slices.SortStableFunc(p.SetFlows, func(a, b Mod) int {
		return cmp.Or(-cmp.Compare(a.flow.Table, b.flow.Table), -cmp.Compare(a.flow.Priority, b.flow.Priority), cmp.Compare(a.flow.Match, b.flow.Match))
	})
	slices.SortFunc(p.DeleteFlows, func(a, b Mod) int {
		return cmp.Or(cmp.Compare(a.flow.Table, b.flow.Table), cmp.Compare(a.flow.Priority, b.flow.Priority), cmp.Compare(a.flow.Match, b.flow.Match))
	})
	slices.SortFunc(p.DeleteGroups, func(a, b Mod) int { return cmp.Compare(a.group, b.group) })
	return p
}

func (t *Table) wantsFlow(k FlowKey) bool           { _, ok := t.flows[k]; return ok }
func (t *Table) wantsGroup(id ofproto.GroupID) bool { _, ok := t.groups[id]; return ok }

// blocked says why a part cannot be installed: a foreign entry has the same
// table, priority and match as one of its flows, and adding ours would replace it.
func (t *Table) blocked(p *part) error {
	if len(t.foreign) == 0 {
		return nil
	}
	for _, f := range p.flows {
		if c, ok := t.foreign[f.FlowKey]; ok {
			return fmt.Errorf("%w: table %d, priority %d, match %s, cookie %#x", ErrForeign, f.Table, f.Priority, ofproto.Match(f.Match), c)
		}
	}
	return nil
}

// orderGroups returns the group-mods of ids with every group after those it refers to.
func (t *Table) orderGroups(ids []ofproto.GroupID) []Mod {
	todo := make(map[ofproto.GroupID]bool, len(ids))
	for _, id := range ids {
		todo[id] = true
	}
	mods := make([]Mod, 0, len(ids))
	var visit func(ofproto.GroupID)
	visit = func(id ofproto.GroupID) {
		if !todo[id] {
			return
		}
		delete(todo, id)
		w := t.groups[id]
		bucketRefs(w.group.Buckets, visit)
		command := ofproto.GroupAdd
		if _, ok := t.hasGroups[id]; ok {
			command = ofproto.GroupModify
		}
		mods = append(mods, Mod{
			Part:    w.part,
			Message: &ofproto.GroupMod{Command: command, Type: w.group.Type, Group: id, Buckets: w.group.Buckets},
			group:   id,
			desc:    w.desc,
		})
	}
	for _, id := range ids {
		visit(id)
	}
	return mods
}

// Applied records that the switch carried a message out.
func (t *Table) Applied(m *Mod) {
	switch m.Message.(type) {
	case *ofproto.MeterMod:
		t.appliedMeter(m)
	case *ofproto.GroupMod:
		if m.remove {
			delete(t.hasGroups, m.group)
			delete(t.setGroups, m.group)
		} else {
			t.hasGroups[m.group] = m.desc
			t.setGroups[m.group] = m.desc
		}
	case *ofproto.FlowMod:
		if m.remove {
			delete(t.hasFlows, m.flow)
		} else {
			t.hasFlows[m.flow] = m.cookie
		}
	}
}

// Failed records that the switch refused a message, or that its bundle was
// discarded: a deletion is remembered as still to be done. The caller decides
// when the part is tried again, with MarkDirty.
func (t *Table) Failed(m *Mod) {
	if _, meter := m.Message.(*ofproto.MeterMod); meter || !m.remove {
		return
	}
	p := t.parts[m.Part]
	if p == nil {
		p = &part{}
		t.parts[m.Part] = p
	}
	if _, ok := m.Message.(*ofproto.GroupMod); ok {
		p.staleGroup(m.group)
	} else {
		p.staleFlow(m.flow)
	}
}
