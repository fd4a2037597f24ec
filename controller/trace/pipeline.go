package trace

import (
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

const (
	maxDepth = 32   // of groups in groups and of tables looked up again
	maxSteps = 4096 // in one switch
)

// Step is one thing that a packet meets in a switch: an entry, or nothing, in a table;
// or a group.
type Step struct {
	Depth int // of groups and recirculations it is in

	Table ofproto.Table
	Entry *Entry // nil: a group, or no entry matched

	Group *Group // nil: a table
	// Bucket is the one taken, Meant the one that the hash of a select group means,
	// which is another while that one is dead; -1: none, or not known.
	Bucket, Meant int
	// Note says what has to be said beside: why a bucket is not known, what is not
	// evaluated.
	Note string
}

// Kind is where an output leads.
type Kind string

// Kinds of outputs.
const (
	ToPort       Kind = "port"
	ToController Kind = "controller"
	ToNormal     Kind = "normal" // the switch's own forwarding
	ToSelf       Kind = "self"   // by NORMAL to its own sender: it teaches the switch's MAC table and goes nowhere
)

// Output is one copy of the packet that leaves the tables.
type Output struct {
	Kind   Kind
	Port   ofproto.Port // of ToPort
	Packet *Packet
	Step   int // of the visit, that sent it; index of the last one
}

// Candidate is a bucket that a packet may take where the switch's choice is not known.
type Candidate struct {
	Group   *Group
	Bucket  int
	Steps   []Step
	Outputs []Output
}

// Visit is what one switch makes of a packet.
type Visit struct {
	Steps      []Step
	Outputs    []Output
	Candidates []Candidate // instead of outputs of a group whose choice is not known
	// Undetermined is why what else becomes of the packet cannot be told; empty: it can.
	Undetermined string
}

// Process follows a packet that arrives at a port through the tables. tracked holds the
// connections that the switch knows, and learns those that it commits; nil: there are
// none. p is left as it is.
func (s *Switch) Process(in ofproto.Port, p *Packet, tracked *Connections) Visit {
	x := execution{s: s, tracked: tracked}
	if x.tracked == nil {
		x.tracked = &Connections{}
	}
	p = p.clone()
	p.enter(in)
	x.table(0, p)
	return x.Visit
}

type execution struct {
	Visit
	s       *Switch
	tracked *Connections
}

func (x *execution) step(s Step) *Step {
	x.Steps = append(x.Steps, s)
	return &x.Steps[len(x.Steps)-1]
}

func (x *execution) note(format string, args ...any) {
	if n := len(x.Steps); n > 0 {
		s := &x.Steps[n-1]
		if s.Note != "" {
			s.Note += "; "
		}
		s.Note += fmt.Sprintf(format, args...)
	}
}

// lookup finds the entry of a table and notes it.
func (x *execution) lookup(table ofproto.Table, p *Packet) *Entry {
	e := x.s.lookup(table, p)
	x.step(Step{Depth: p.depth, Table: table, Entry: e, Bucket: -1, Meant: -1})
	return e
}

// table is §5.1: a table and those that it leads to, then the action set.
func (x *execution) table(table ofproto.Table, p *Packet) {
	set := actionSet{}
	for len(x.Steps) < maxSteps {
		e := x.lookup(table, p)
		if e == nil {
			return // no table-miss entry: dropped (§5.4)
		}
		next, alive := x.instructions(e.Instructions, p, &set)
		if !alive {
			return
		}
		if next < 0 {
			x.actions(set.ordered(), p)
			return
		}
		table = ofproto.Table(next)
	}
	x.note("too many steps: the rest is not followed")
}

// instructions executes those of an entry in their order (§5.9). next is the table that
// they lead to, below 0 for none.
func (x *execution) instructions(ins []ofproto.Instruction, p *Packet, set *actionSet) (next int, alive bool) {
	for _, in := range ins { // meters and what is not read change nothing here
		if raw, ok := in.(ofproto.RawInstruction); ok {
			x.note("%s is not evaluated", raw)
		}
	}
	for _, in := range ins {
		if in, ok := in.(ofproto.ApplyActions); ok && !x.actions(in.Actions, p) {
			return -1, false
		}
	}
	for _, in := range ins {
		if _, ok := in.(ofproto.ClearActions); ok {
			*set = actionSet{}
		}
	}
	next = -1
	for _, in := range ins {
		switch in := in.(type) {
		case ofproto.WriteActions:
			set.write(in.Actions)
		case ofproto.WriteMetadata:
			old, _ := p.get(ofproto.FieldMetadata)
			p.set(ofproto.FieldMetadata, be.AppendUint64(nil, be.Uint64(old)&^in.Mask|in.Metadata&in.Mask))
		case ofproto.GotoTable:
			next = int(in.Table)
		}
	}
	return next, true
}

// actions executes a list in order (§5.12) and reports whether the packet is still
// there.
func (x *execution) actions(list []ofproto.Action, p *Packet) (alive bool) {
	for _, a := range list {
		switch a := a.(type) {
		case ofproto.Output:
			x.output(a.Port, p)
		case ofproto.Controller:
			x.send(ToController, 0, p)
		case ofproto.Group:
			x.group(a.ID, p)
		case ofproto.SetField:
			p.set(a.Field.Type, a.Field.Value)
		case ofproto.Move:
			src, ok1 := p.get(a.Src)
			dst, ok2 := p.get(a.Dst)
			if ok1 && ok2 {
				p.set(a.Dst, withBits(dst, int(a.DstOffset), src, int(a.SrcOffset), int(a.Bits)))
			}
		case ofproto.Load:
			if dst, ok := p.get(a.Dst); ok {
				p.set(a.Dst, withBits(dst, int(a.Offset), be.AppendUint64(nil, a.Value), 0, int(a.Bits)))
			}
		case ofproto.Multipath:
			if !x.multipath(a, p) {
				return false
			}
		case ofproto.PushVLAN:
			p.pushVLAN()
		case ofproto.PopVLAN:
			p.popVLAN()
		case ofproto.SetNWTTL:
			p.set(ofproto.FieldNXMIPTTL, []byte{a.TTL})
		case ofproto.DecNWTTL:
			ttl, ok := p.get(ofproto.FieldNXMIPTTL)
			if ok && ttl[0] <= 1 {
				x.note("its TTL is used up")
				return false
			} else if ok {
				p.set(ofproto.FieldNXMIPTTL, []byte{ttl[0] - 1})
			}
		case ofproto.OutputReg:
			if v, ok := p.get(a.Src); ok {
				x.output(ofproto.Port(be.Uint32(withBits(make([]byte, 4), 0, v, int(a.Offset), int(a.Bits)))), p)
			}
		case ofproto.Resubmit:
			x.resubmit(a, p)
		case ofproto.CT:
			x.track(a, p)
		case ofproto.SetQueue:
		default:
			x.note("%s is not evaluated", a)
		}
	}
	return true
}

func (x *execution) send(kind Kind, port ofproto.Port, p *Packet) {
	x.Outputs = append(x.Outputs, Output{Kind: kind, Port: port, Packet: p.clone(), Step: len(x.Steps) - 1})
}

func (x *execution) output(port ofproto.Port, p *Packet) {
	switch port {
	case ofproto.PortInPort:
		if in := p.inPort(); x.s.Ports[in] {
			x.send(ToPort, in, p)
		}
	case ofproto.PortController:
		x.send(ToController, 0, p)
	case ofproto.PortNormal:
		kind := ToNormal
		if p.EthDst() == p.EthSrc() {
			kind = ToSelf
		}
		x.send(kind, 0, p)
	case ofproto.PortAll, ofproto.PortFlood:
		var all []ofproto.Port
		for at, up := range x.s.Ports {
			if up && at != p.inPort() && at < ofproto.PortMax {
				all = append(all, at)
			}
		}
		slices.Sort(all)
		for _, at := range all {
			x.send(ToPort, at, p)
		}
	default:
		// A packet is not sent back where it came from by the number of the port.
		if port == p.inPort() {
			x.note("not sent back out of port %s, which it came in by", port)
		} else if x.s.Ports[port] {
			x.send(ToPort, port, p)
		} else {
			x.note("port %s is down or not there", port)
		}
	}
}

// group is §5.6.1. The packet itself goes on unchanged: buckets work on copies.
func (x *execution) group(id ofproto.GroupID, p *Packet) {
	g := x.s.Groups[id]
	if g == nil {
		x.note("group %d is not there", uint32(id))
		return
	}
	if p.depth >= maxDepth {
		x.note("groups are nested too deep")
		return
	}
	at := len(x.Steps)
	x.step(Step{Depth: p.depth, Group: g, Bucket: -1, Meant: -1})
	switch g.Type {
	case ofproto.GroupTypeAll:
		for i := range g.Buckets {
			x.bucket(g, i, p)
		}
	case ofproto.GroupTypeIndirect:
		if len(g.Buckets) > 0 {
			x.Steps[at].Bucket = 0
			x.bucket(g, 0, p)
		}
	case ofproto.GroupTypeFastFailover:
		i := slices.IndexFunc(g.Buckets, func(b ofproto.Bucket) bool { return x.s.live(&b, 0) })
		x.Steps[at].Bucket = i
		if i < 0 {
			x.note("no bucket is live")
			return
		}
		x.bucket(g, i, p)
	case ofproto.GroupTypeSelect:
		taken, meant, why := x.s.choose(g, p)
		x.Steps[at].Bucket, x.Steps[at].Meant, x.Steps[at].Note = taken, meant, why
		switch {
		case taken >= 0:
			if meant < 0 && len(g.Buckets) > 1 {
				x.Steps[at].Bucket = -1 // any: they do the same
			}
			x.bucket(g, taken, p)
		case why == "":
			x.note("no bucket is live")
		default:
			x.Undetermined = why
			x.candidates(g, p)
		}
	}
}

// bucket executes the actions of a bucket, which are a set (§5.10), on a copy.
func (x *execution) bucket(g *Group, i int, p *Packet) {
	c := p.clone()
	c.depth++
	set := actionSet{}
	set.write(g.Buckets[i].Actions)
	x.actions(set.ordered(), c)
}

// candidates follows each of the live buckets that a packet may take by itself.
func (x *execution) candidates(g *Group, p *Packet) {
	for i := range g.Buckets {
		if g.Buckets[i].Weight == 0 || !x.s.live(&g.Buckets[i], 0) {
			continue
		}
		alone := execution{s: x.s, tracked: x.tracked.clone()}
		alone.bucket(g, i, p)
		x.Candidates = append(x.Candidates, Candidate{Group: g, Bucket: i, Steps: alone.Steps, Outputs: alone.Outputs})
	}
}

// resubmit looks the packet up in a table again; what that does stays done.
func (x *execution) resubmit(a ofproto.Resubmit, p *Packet) {
	if p.depth >= maxDepth {
		x.note("tables are looked up too often")
		return
	}
	in := p.fields[ofproto.FieldInPort]
	if a.InPort != ofproto.PortInPort {
		p.fields[ofproto.FieldInPort] = be.AppendUint32(nil, uint32(a.InPort))
	}
	p.depth++
	if e := x.lookup(a.Table, p); e != nil {
		for _, i := range e.Instructions {
			if i, ok := i.(ofproto.ApplyActions); ok {
				x.actions(i.Actions, p)
			}
		}
		for _, i := range e.Instructions {
			if i, ok := i.(ofproto.GotoTable); ok {
				x.table(i.Table, p)
			}
		}
	}
	p.depth--
	p.fields[ofproto.FieldInPort] = in
}

// multipath writes the number that a hash of the packet makes to a field. It reports
// whether that number is known.
func (x *execution) multipath(a ofproto.Multipath, p *Packet) bool {
	if a.Fields != ofproto.HashNWSrc || a.Algorithm != ofproto.MultipathModulo || x.s.Source == nil {
		x.Undetermined = x.s.NoHash
		x.note("%s", x.s.NoHash)
		return false
	}
	v, ok := x.s.Source(p, a.Basis)
	if dst, has := p.get(a.Dst); ok && has {
		p.set(a.Dst, withBits(dst, int(a.Offset), be.AppendUint64(nil, uint64(v%a.Links)), 0, int(a.Bits)))
	}
	return ok
}

func (p *Packet) pushVLAN() {
	p.tags = append(p.tags[:len(p.tags):len(p.tags)], tag{p.fields[ofproto.FieldVLANVID], p.fields[ofproto.FieldVLANPCP]})
	p.fields[ofproto.FieldVLANVID], p.fields[ofproto.FieldVLANPCP] = be.AppendUint16(nil, tagged), []byte{0}
}

func (p *Packet) popVLAN() {
	if p.fields[ofproto.FieldVLANVID][0]&(tagged>>8) == 0 {
		return
	}
	inner := tag{vid: []byte{0, 0}}
	if n := len(p.tags); n > 0 {
		inner, p.tags = p.tags[n-1], p.tags[:n-1]
	}
	if p.fields[ofproto.FieldVLANVID] = inner.vid; inner.pcp != nil {
		p.fields[ofproto.FieldVLANPCP] = inner.pcp
	} else {
		delete(p.fields, ofproto.FieldVLANPCP)
	}
}

// actionSet is what an entry writes, or a bucket is (§5.10): one action of a kind, and
// for set-field one a field.
type actionSet struct {
	first [rankLast + 1]ofproto.Action
	sets  []ofproto.Action
}

// The order in which the actions of a set are executed.
const (
	rankPop = iota
	rankPush
	rankTTL
	rankSet
	rankQueue
	rankGroup
	rankOutput
	rankTable // of Nicira's, which Open vSwitch executes in this order after an output
	rankTrack
	rankLast = rankTrack
)

func rank(a ofproto.Action) int {
	switch a.(type) {
	case ofproto.PopVLAN:
		return rankPop
	case ofproto.PushVLAN:
		return rankPush
	case ofproto.SetNWTTL, ofproto.DecNWTTL:
		return rankTTL
	case ofproto.SetQueue:
		return rankQueue
	case ofproto.Group:
		return rankGroup
	case ofproto.Output, ofproto.OutputReg, ofproto.Controller:
		return rankOutput
	case ofproto.Resubmit:
		return rankTable
	case ofproto.CT:
		return rankTrack
	}
	return rankSet
}

func (s *actionSet) write(actions []ofproto.Action) {
	for _, a := range actions {
		if r := rank(a); r != rankSet {
			s.first[r] = a
			continue
		}
		if f, ok := a.(ofproto.SetField); ok {
			s.sets = slices.DeleteFunc(slices.Clone(s.sets), func(o ofproto.Action) bool {
				g, ok := o.(ofproto.SetField)
				return ok && g.Field.Type == f.Field.Type
			})
		}
		s.sets = append(s.sets, a)
	}
}

// ordered returns the actions as they are executed. Of those that send the packet
// somewhere only the first is.
func (s *actionSet) ordered() []ofproto.Action {
	var list []ofproto.Action
	for r, a := range s.first {
		if r == rankSet {
			list = append(list, s.sets...)
		}
		if a == nil {
			continue
		}
		list = append(list, a)
		if r >= rankGroup {
			break
		}
	}
	return list
}
