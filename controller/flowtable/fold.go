package flowtable

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Folded returns the layout of a switch with one table, for a Table that gets its
// parts from Fold.
func (p *Pipeline) Folded() *Pipeline {
	return &Pipeline{Version: p.Version, Tables: p.Tables[:1], folded: true}
}

// CheckPart says what of a part the declared tables do not have (ErrPart).
func (p *Pipeline) CheckPart(key PartKey, part Part) error {
	for _, f := range part.Flows {
		if err := p.Check(key.App, f); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrPart, key, err)
		}
	}
	return nil
}

// Fold turns parts that are made for the declared tables into parts that do the
// same in the first table alone: each entry of the result stands for a way through
// the tables. It matches what all entries on the way match, and does what they do.
// Its priority is that of the entry of the first table, plus the rank of those of
// the later ones in the order of the tables; so of two ways that a packet could take,
// the one that the tables would have taken wins.
//
// An entry belongs to the part whose groups it uses, else to the first part on its
// way that is not of ClassBase, else to the first one. Every part is in the result.
//
// The error (ErrPart) is about what has no equal in one table: action sets, metadata,
// a match on a field that an earlier entry has moved something to, and tables of
// extensions.
func (p *Pipeline) Fold(parts map[PartKey]Part) (map[PartKey]Part, error) {
	f := folder{pipeline: p, entries: map[ofproto.Table][]foldEntry{}, groups: map[ofproto.GroupID]PartKey{}, out: map[PartKey]Part{}}
	for _, key := range slices.SortedFunc(maps.Keys(parts), comparePartKeys) {
		part := parts[key]
		f.out[key] = Part{Class: part.Class, Groups: part.Groups, Meters: part.Meters}
		for _, g := range part.Groups {
			f.groups[g.ID] = key
		}
		for _, flow := range part.Flows {
			f.entries[flow.Table] = append(f.entries[flow.Table], foldEntry{key: key, class: part.Class, flow: flow})
		}
	}
	for _, es := range f.entries {
		slices.SortStableFunc(es, func(a, b foldEntry) int {
			return cmp.Or(-cmp.Compare(a.flow.Priority, b.flow.Priority), cmp.Compare(string(a.flow.Match), string(b.flow.Match)))
		})
	}
	if err := f.walk(0, way{}); err != nil {
		return nil, fmt.Errorf("%w: fold: %w", ErrPart, err)
	}
	return f.out, nil
}

type folder struct {
	pipeline *Pipeline
	entries  map[ofproto.Table][]foldEntry // by falling priority
	groups   map[ofproto.GroupID]PartKey
	out      map[PartKey]Part
}

type foldEntry struct {
	key   PartKey
	class Class
	flow  Flow
}

// way is a way through some tables.
type way struct {
	match   ofproto.Match
	written map[ofproto.FieldType][]byte // what actions so far have set; nil: to what is not known
	first   uint16                       // priority of the entry of the first table
	rank    uint16                       // of those of later tables
	other   []ofproto.Instruction        // meters
	actions []ofproto.Action
	entries []foldEntry
}

// walk follows a way into the table of that place in the pipeline.
func (f *folder) walk(at int, w way) error {
	spec := f.pipeline.Tables[at]
	covered := false
	for _, e := range f.entries[spec.ID] {
		match, ok, err := w.meet(e.flow.Match)
		if err != nil {
			return fmt.Errorf("%s: %w", e.key, err)
		}
		if !ok {
			continue
		}
		next, to, err := w.with(e)
		if err != nil {
			return fmt.Errorf("%s: %w", e.key, err)
		}
		next.match = match
		if at == 0 {
			next.first = e.flow.Priority
		} else {
			next.rank += f.rank(at, e.flow.Priority)
		}
		covered = covered || len(e.flow.Match) == 0
		if to < 0 {
			f.emit(next)
			continue
		}
		i := slices.IndexFunc(f.pipeline.Tables, func(t TableSpec) bool { return int(t.ID) == to })
		if i <= at || f.pipeline.Tables[i].Extension {
			return fmt.Errorf("%s: table %d is not declared", e.key, to)
		}
		if err := f.walk(i, next); err != nil {
			return err
		}
	}
	if at > 0 && !covered {
		f.emit(w) // no entry of this table: what was done so far is all
	}
	return nil
}

// rank is the weight of an entry of a later table: its row's place from the lowest,
// which is 1, times the number of ranks that the tables after it need.
func (f *folder) rank(at int, priority uint16) uint16 {
	r := uint16(1)
	for _, row := range f.pipeline.Tables[at].Rows {
		if row.Priority < priority {
			r++
		}
	}
	for _, t := range f.pipeline.Tables[at+1:] {
		if !t.Extension {
			r *= uint16(len(t.Rows) + 1)
		}
	}
	return r
}

// meet returns what is matched when what the way matches is to match m too, after
// what the way has written. ok is false where no packet matches both.
func (w way) meet(m ofproto.Match) (_ ofproto.Match, ok bool, err error) {
	fields := slices.Collect(w.match.Fields())
	for g := range m.Fields() {
		if value, was := w.written[g.Type]; was {
			if value == nil {
				return nil, false, fmt.Errorf("matches on %s, which an earlier entry changes", m)
			}
			if !sameUnder(value, g.Value, g.Mask, nil) {
				return nil, false, nil
			}
			continue
		}
		i := slices.IndexFunc(fields, func(f ofproto.Field) bool { return f.Type == g.Type })
		if i < 0 {
			fields = append(fields, g)
			continue
		}
		if !sameUnder(fields[i].Value, g.Value, fields[i].Mask, g.Mask) {
			return nil, false, nil
		}
		fields[i] = both(fields[i], g)
	}
	return ofproto.NewMatch(fields...), true, nil
}

// sameUnder compares two values in the bits that both masks have; no mask has all.
func sameUnder(a, b, maskA, maskB []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		mask := byte(0xff)
		if maskA != nil {
			mask &= maskA[i]
		}
		if maskB != nil {
			mask &= maskB[i]
		}
		if (a[i]^b[i])&mask != 0 {
			return false
		}
	}
	return true
}

// both is the field that has the bits of two that agree.
func both(a, b ofproto.Field) ofproto.Field {
	if a.Mask == nil {
		return a
	}
	if b.Mask == nil {
		return b
	}
	out := ofproto.Field{Type: a.Type, Experimenter: a.Experimenter, Value: slices.Clone(a.Value), Mask: slices.Clone(a.Mask)}
	for i := range out.Value {
		out.Value[i] = a.Value[i]&a.Mask[i] | b.Value[i]&b.Mask[i]
		out.Mask[i] |= b.Mask[i]
	}
	return out
}

// with returns the way that goes on through an entry, and the table that it goes to,
// below 0 for none.
func (w way) with(e foldEntry) (next way, to int, err error) {
	next, to = w, -1
	next.entries = append(w.entries[:len(w.entries):len(w.entries)], e)
	next.written = maps.Clone(w.written)
	for _, in := range e.flow.Instructions {
		switch in := in.(type) {
		case ofproto.ApplyActions:
			next.actions = append(next.actions[:len(next.actions):len(next.actions)], in.Actions...)
			for _, a := range in.Actions {
				next.writes(a)
			}
		case ofproto.GotoTable:
			to = int(in.Table)
		case ofproto.Meter:
			if len(next.other) == 0 {
				next.other = []ofproto.Instruction{in}
			}
		default:
			return way{}, -1, fmt.Errorf("%T has no equal in one table", in)
		}
	}
	return next, to, nil
}

// writes takes note of what an action changes in the packet.
func (w *way) writes(a ofproto.Action) {
	set := func(t ofproto.FieldType, value []byte) {
		if w.written == nil {
			w.written = map[ofproto.FieldType][]byte{}
		}
		w.written[t] = value
	}
	switch a := a.(type) {
	case ofproto.SetField:
		set(a.Field.Type, a.Field.Value)
	case ofproto.Move:
		set(a.Dst, nil)
	case ofproto.Load:
		set(a.Dst, nil)
	}
}

// emit adds the entry that a way comes to.
func (f *folder) emit(w way) {
	owner := w.entries[0].key
	if i := slices.IndexFunc(w.entries, func(e foldEntry) bool { return e.class != ClassBase }); i >= 0 {
		owner = w.entries[i].key
	}
	actionGroups(w.actions, func(id ofproto.GroupID) {
		if key, ok := f.groups[id]; ok {
			owner = key
		}
	})
	ins := w.other
	if len(w.actions) > 0 {
		ins = append(ins[:len(ins):len(ins)], ofproto.ApplyActions{Actions: w.actions})
	}
	part := f.out[owner]
	part.Flows = append(part.Flows, Flow{Table: f.pipeline.Tables[0].ID, Priority: w.first + w.rank, Match: w.match, Instructions: ins})
	f.out[owner] = part
}
