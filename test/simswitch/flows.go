package simswitch

import (
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Flow is one entry of a flow table (§5.2).
type Flow struct {
	Table        ofproto.Table
	Priority     uint16
	Match        ofproto.Match
	Cookie       uint64
	Flags        uint16
	Idle, Hard   uint16 // seconds; kept for display, entries do not expire by themselves
	Instructions []ofproto.Instruction
	Counter      ofproto.Counter
}

// flowTable holds the entries in falling priority.
type flowTable struct {
	entries         []*Flow
	lookups, misses uint64
}

func (t *flowTable) find(priority uint16, m ofproto.Match) int {
	return slices.IndexFunc(t.entries, func(f *Flow) bool { return f.Priority == priority && f.Match.Equal(m) })
}

func (t *flowTable) insert(f *Flow) {
	at := slices.IndexFunc(t.entries, func(o *Flow) bool { return o.Priority < f.Priority })
	if at < 0 {
		at = len(t.entries)
	}
	t.entries = slices.Insert(t.entries, at, f)
}

// lookup returns the entry of the highest priority that matches, nil for none.
func (t *flowTable) lookup(p *inFlight) *Flow {
	t.lookups++
	seen := map[ofproto.FieldType][]byte{}
	for _, f := range t.entries {
		if p.matches(f.Match, seen) {
			return f
		}
	}
	t.misses++
	return nil
}

// flowMod is §6.4.
func (s *Switch) flowMod(m *ofproto.FlowMod) *ofproto.Error {
	remove := m.Command == ofproto.FlowDelete || m.Command == ofproto.FlowDeleteStrict
	if m.Table >= s.tableLimit() && !(m.Table == ofproto.TableAll && remove) {
		return bad(ofproto.ErrorFlowModFailed, flowBadTable)
	}
	if err := s.checkMatch(m.Match); err != nil {
		return err
	}
	m.Match = m.Match.Canonical()
	if !remove {
		if err := s.checkInstructions(m.Table, m.Match, m.Instructions); err != nil {
			return err
		}
	}
	switch m.Command {
	case ofproto.FlowAdd:
		return s.addFlow(m)
	case ofproto.FlowModify, ofproto.FlowModifyStrict:
		for _, f := range s.selectFlows(m, m.Command == ofproto.FlowModifyStrict) {
			f.Instructions = m.Instructions
			if m.Flags&ofproto.FlagResetCounts != 0 {
				f.Counter = ofproto.Counter{}
			}
		}
	case ofproto.FlowDelete, ofproto.FlowDeleteStrict:
		for _, f := range s.selectFlows(m, m.Command == ofproto.FlowDeleteStrict) {
			if m.OutPort != ofproto.PortAny && !outputs(f.Instructions, m.OutPort) ||
				m.OutGroup != ofproto.GroupAny && !groupOf(f.Instructions, m.OutGroup) {
				continue
			}
			s.removeFlow(f, ofproto.RemovedDelete)
		}
	default:
		return bad(ofproto.ErrorFlowModFailed, flowBadCommand)
	}
	return nil
}

func (s *Switch) addFlow(m *ofproto.FlowMod) *ofproto.Error {
	t := &s.tables[m.Table]
	f := &Flow{
		Table: m.Table, Priority: m.Priority, Match: m.Match, Cookie: m.Cookie, Flags: m.Flags,
		Idle: m.IdleTimeout, Hard: m.HardTimeout, Instructions: m.Instructions,
	}
	if m.Flags&ofproto.FlagCheckOverlap != 0 {
		for _, o := range t.entries {
			if o.Priority == f.Priority && overlap(o.Match, f.Match) {
				return bad(ofproto.ErrorFlowModFailed, ofproto.CodeOverlap)
			}
		}
	}
	if i := t.find(f.Priority, f.Match); i >= 0 {
		if m.Flags&ofproto.FlagResetCounts == 0 {
			f.Counter = t.entries[i].Counter
		}
		t.entries[i] = f
		return nil
	}
	if s.o.MaxFlows > 0 && len(t.entries) >= s.o.MaxFlows {
		return bad(ofproto.ErrorFlowModFailed, ofproto.CodeTableFull)
	}
	t.insert(f)
	return nil
}

// selectFlows returns the entries that a modify or delete is about.
func (s *Switch) selectFlows(m *ofproto.FlowMod, strict bool) []*Flow {
	var out []*Flow
	for t := range s.tables {
		if m.Table != ofproto.TableAll && int(m.Table) != t {
			continue
		}
		for _, f := range s.tables[t].entries {
			same := f.Priority == m.Priority && f.Match.Equal(m.Match)
			if (f.Cookie^m.Cookie)&m.CookieMask == 0 && (same || !strict && covers(m.Match, f.Match)) {
				out = append(out, f)
			}
		}
	}
	return out
}

func (s *Switch) removeFlow(f *Flow, reason uint8) {
	t := &s.tables[f.Table]
	t.entries = slices.DeleteFunc(t.entries, func(o *Flow) bool { return o == f })
	if f.Flags&ofproto.FlagSendFlowRem != 0 {
		s.async(&ofproto.FlowRemoved{
			Cookie: f.Cookie, Priority: f.Priority, Reason: reason, Table: f.Table, Match: f.Match,
			Packets: f.Counter.Packets, Bytes: f.Counter.Bytes, IdleTimeout: f.Idle, HardTimeout: f.Hard,
		})
	}
}

func (s *Switch) checkMatch(m ofproto.Match) *ofproto.Error {
	seen := map[ofproto.FieldType]bool{}
	for f := range m.Fields() {
		if seen[f.Type] {
			return bad(ofproto.ErrorBadMatch, matchDuplicate)
		}
		seen[f.Type] = true
		flags := f.Type == ofproto.FieldONFTCPFlags
		if f.Type.Len() == 0 && !flags || s.o.NoNicira && (flags || nicira(f.Type)) {
			return bad(ofproto.ErrorBadMatch, matchBadField)
		}
		if !meets(m, f.Type) {
			return bad(ofproto.ErrorBadMatch, matchBadPrereq)
		}
		if s.o.NoNicira && f.Mask != nil && f.Type >= ofproto.FieldTCPSrc && f.Type <= ofproto.FieldSCTPDst {
			return bad(ofproto.ErrorBadMatch, matchBadMask)
		}
		if s.o.NoMasks && f.Mask != nil && !prefixMask(f.Mask) {
			return bad(ofproto.ErrorBadMatch, matchBadMask)
		}
	}
	return nil
}

// prefixMask says whether the bits of a mask are all ones, then all zeros.
func prefixMask(mask []byte) bool {
	ended := false
	for _, b := range mask {
		for bit := byte(0x80); bit > 0; bit >>= 1 {
			if b&bit == 0 {
				ended = true
			} else if ended {
				return false
			}
		}
	}
	return true
}

func (s *Switch) checkInstructions(table ofproto.Table, m ofproto.Match, ins []ofproto.Instruction) *ofproto.Error {
	for _, in := range ins {
		switch in := in.(type) {
		case ofproto.GotoTable:
			if in.Table <= table || in.Table >= s.tableLimit() {
				return bad(ofproto.ErrorBadInstruction, instructionBadTable)
			}
		case ofproto.ApplyActions:
			if err := s.checkActions(in.Actions, m, true); err != nil {
				return err
			}
		case ofproto.WriteActions:
			if err := s.checkActions(in.Actions, m, true); err != nil {
				return err
			}
		case ofproto.WriteMetadata, ofproto.ClearActions:
		default:
			return bad(ofproto.ErrorBadInstruction, instructionUnsup)
		}
	}
	return nil
}

// checkActions validates a list of actions. known says that m is the match of the
// packets; the packets of a bucket may be any.
func (s *Switch) checkActions(actions []ofproto.Action, m ofproto.Match, known bool) *ofproto.Error {
	field := func(t ofproto.FieldType) *ofproto.Error {
		if t.Len() == 0 {
			return bad(ofproto.ErrorBadAction, actionBadSetType)
		}
		if known && !meets(m, t) {
			return bad(ofproto.ErrorBadAction, actionInconsistent)
		}
		return nil
	}
	for _, a := range actions {
		var err *ofproto.Error
		switch a := a.(type) {
		case ofproto.Output:
			if a.Port == 0 || a.Port == ofproto.PortAny || a.Port >= ofproto.PortMax && a.Port < ofproto.PortInPort {
				err = bad(ofproto.ErrorBadAction, actionBadPort)
			}
			if s.o.NoNormal && a.Port == ofproto.PortNormal {
				err = bad(ofproto.ErrorBadAction, actionBadPort)
			}
		case ofproto.Group:
			if s.groups[a.ID] == nil {
				err = bad(ofproto.ErrorBadAction, actionBadGroup)
			}
		case ofproto.SetField:
			err = field(a.Field.Type)
			if s.o.NoNicira && nicira(a.Field.Type) {
				err = bad(ofproto.ErrorBadAction, actionBadSetType)
			}
			if slices.Contains(s.o.NoSet, a.Field.Type) || !known && slices.Contains(s.o.NoBucketSet, a.Field.Type) {
				err = bad(ofproto.ErrorBadAction, actionBadSetType)
			}
		case ofproto.Move:
			if err = field(a.Src); err == nil {
				err = field(a.Dst)
			}
			if int(a.SrcOffset+a.Bits) > 8*a.Src.Len() || int(a.DstOffset+a.Bits) > 8*a.Dst.Len() {
				err = bad(ofproto.ErrorBadAction, actionBadArgument)
			}
			if s.o.NoNicira {
				err = bad(ofproto.ErrorBadAction, actionBadExp)
			}
		case ofproto.Multipath:
			if err = field(a.Dst); err == nil && (int(a.Offset+a.Bits) > 8*a.Dst.Len() || a.Bits < 32 && a.Links > 1<<a.Bits) {
				err = bad(ofproto.ErrorBadAction, actionBadArgument)
			}
			if s.o.NoNicira || a.Algorithm != ofproto.MultipathModulo || a.Fields != ofproto.HashNWSrc {
				err = bad(ofproto.ErrorBadAction, actionBadExp)
			}
		case ofproto.Load:
			if err = field(a.Dst); err == nil && int(a.Offset+a.Bits) > 8*a.Dst.Len() {
				err = bad(ofproto.ErrorBadAction, actionBadArgument)
			}
			if s.o.NoNicira {
				err = bad(ofproto.ErrorBadAction, actionBadExp)
			}
		case ofproto.Resubmit:
			if s.o.NoNicira || a.Table >= s.tableLimit() {
				err = bad(ofproto.ErrorBadAction, actionBadExp)
			}
		case ofproto.OutputReg:
			if err = field(a.Src); err == nil && int(a.Offset+a.Bits) > 8*a.Src.Len() {
				err = bad(ofproto.ErrorBadAction, actionBadArgument)
			}
			if s.o.NoNicira {
				err = bad(ofproto.ErrorBadAction, actionBadExp)
			}
		case ofproto.PushVLAN, ofproto.PopVLAN, ofproto.SetNWTTL, ofproto.DecNWTTL:
		default:
			err = bad(ofproto.ErrorBadAction, actionBadType)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// actionsOf yields every action of a list of instructions.
func actionsOf(ins []ofproto.Instruction, yield func(ofproto.Action)) {
	for _, in := range ins {
		switch in := in.(type) {
		case ofproto.ApplyActions:
			for _, a := range in.Actions {
				yield(a)
			}
		case ofproto.WriteActions:
			for _, a := range in.Actions {
				yield(a)
			}
		}
	}
}

func outputs(ins []ofproto.Instruction, p ofproto.Port) (found bool) {
	actionsOf(ins, func(a ofproto.Action) {
		o, ok := a.(ofproto.Output)
		found = found || ok && o.Port == p
	})
	return found
}

func groupOf(ins []ofproto.Instruction, id ofproto.GroupID) (found bool) {
	actionsOf(ins, func(a ofproto.Action) {
		g, ok := a.(ofproto.Group)
		found = found || ok && g.ID == id
	})
	return found
}
