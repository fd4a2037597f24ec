package simswitch

import (
	"encoding/binary"
	"hash/fnv"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// Output is one frame that leaves by a port.
type Output struct {
	Port  ofproto.Port
	Frame []byte
}

// Process takes in a frame that arrived at a port, and returns what leaves and what
// goes to the controllers. What goes to the controllers is sent over the channels
// too.
func (s *Switch) Process(in ofproto.Port, frame []byte) (outputs []Output, packetIns []*ofproto.PacketIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.frozen || !s.up(in) || s.ports[in].desc.Config&ofproto.PortConfigNoRecv != 0 {
		return nil, nil
	}
	s.ports[in].rx.Packets++
	s.ports[in].rx.Bytes += uint64(len(frame))
	x := &execution{s: s}
	x.pipeline(newInFlight(in, frame))
	return x.finish()
}

// packetOut carries out a packet-out (§7.3.7).
func (s *Switch) packetOut(m *ofproto.PacketOut) ([]Output, *ofproto.Error) {
	if s.frozen {
		return nil, nil
	}
	if m.BufferID != ofproto.NoBuffer {
		return nil, bad(ofproto.ErrorBadRequest, 8)
	}
	if err := s.checkActions(m.Actions, nil, false); err != nil {
		return nil, err
	}
	x := &execution{s: s, isOut: true}
	x.list(m.Actions, newInFlight(m.InPort, m.Data), 0, nil)
	out, _ := x.finish()
	return out, nil
}

// execution is one packet's way through the switch and all that comes of it.
type execution struct {
	s         *Switch
	isOut     bool
	outputs   []Output
	packetIns []*ofproto.PacketIn
}

func (x *execution) finish() ([]Output, []*ofproto.PacketIn) {
	for _, o := range x.outputs {
		x.s.ports[o.Port].tx.Packets++
		x.s.ports[o.Port].tx.Bytes += uint64(len(o.Frame))
	}
	for _, p := range x.packetIns {
		x.s.async(p)
	}
	return x.outputs, x.packetIns
}

// pipeline is §5.1: the tables from 0 on, then the action set.
func (x *execution) pipeline(p *inFlight) {
	set := map[int]ofproto.Action{}
	var fields []ofproto.Action
	for table := 0; ; {
		f := x.s.tables[table].lookup(p)
		if f == nil {
			return // no table-miss entry: dropped (§5.4)
		}
		f.Counter.Packets++
		f.Counter.Bytes += uint64(len(p.frame))
		next := -1
		for _, in := range inOrder(f.Instructions) {
			switch in := in.(type) {
			case ofproto.ApplyActions:
				if !x.list(in.Actions, p, f.Table, f) {
					return
				}
			case ofproto.ClearActions:
				clear(set)
				fields = nil
			case ofproto.WriteActions:
				fields = mergeSet(set, fields, in.Actions)
			case ofproto.WriteMetadata:
				old, _ := p.get(ofproto.FieldMetadata)
				v := binary.BigEndian.Uint64(old)&^in.Mask | in.Metadata&in.Mask
				p.set(ofproto.FieldMetadata, binary.BigEndian.AppendUint64(nil, v))
			case ofproto.GotoTable:
				next = int(in.Table)
			}
		}
		if next < 0 {
			x.list(ordered(set, fields), p, f.Table, f)
			return
		}
		table = next
	}
}

// inOrder sorts instructions into the order of execution (§5.9).
func inOrder(ins []ofproto.Instruction) []ofproto.Instruction {
	rank := func(in ofproto.Instruction) int {
		switch in.(type) {
		case ofproto.ApplyActions:
			return 1
		case ofproto.ClearActions:
			return 2
		case ofproto.WriteActions:
			return 3
		case ofproto.WriteMetadata:
			return 4
		case ofproto.GotoTable:
			return 5
		}
		return 0
	}
	out := slices.Clone(ins)
	slices.SortStableFunc(out, func(a, b ofproto.Instruction) int { return rank(a) - rank(b) })
	return out
}

// Ranks of actions in an action set (§5.10).
const (
	rankPop = iota
	rankPush
	rankTTL
	rankSet
	rankGroup
	rankOutput
	rankResubmit // Open vSwitch's own
	rankLast     = rankResubmit
)

func rankOf(a ofproto.Action) int {
	switch a.(type) {
	case ofproto.PopVLAN:
		return rankPop
	case ofproto.PushVLAN:
		return rankPush
	case ofproto.DecNWTTL, ofproto.SetNWTTL:
		return rankTTL
	case ofproto.Group:
		return rankGroup
	case ofproto.Output, ofproto.OutputReg:
		return rankOutput
	case ofproto.Resubmit:
		return rankResubmit
	}
	return rankSet
}

// mergeSet writes actions into a set: one of each kind, and one set-field of each
// field. Open vSwitch keeps moves and loads in order among the set-fields.
func mergeSet(set map[int]ofproto.Action, fields, actions []ofproto.Action) []ofproto.Action {
	for _, a := range actions {
		r := rankOf(a)
		if r != rankSet {
			set[r] = a
			continue
		}
		if f, ok := a.(ofproto.SetField); ok {
			fields = slices.DeleteFunc(slices.Clone(fields), func(o ofproto.Action) bool {
				g, ok := o.(ofproto.SetField)
				return ok && g.Field.Type == f.Field.Type
			})
		}
		fields = append(fields, a)
	}
	return fields
}

// ordered returns the actions of a set as they are executed: of a group, an output and a
// lookup in another table the first is, and the others are ignored.
func ordered(set map[int]ofproto.Action, fields []ofproto.Action) []ofproto.Action {
	var out []ofproto.Action
	for r := rankPop; r <= rankLast; r++ {
		if r == rankSet {
			out = append(out, fields...)
		} else if a, ok := set[r]; ok {
			out = append(out, a)
			if r >= rankGroup {
				break
			}
		}
	}
	return out
}

// list executes actions in order and says whether the packet is still there.
func (x *execution) list(actions []ofproto.Action, p *inFlight, table ofproto.Table, f *Flow) bool {
	for _, a := range actions {
		switch a := a.(type) {
		case ofproto.Output:
			x.output(a, p, table, f)
		case ofproto.Group:
			x.group(a.ID, p, table, f)
		case ofproto.SetField:
			p.set(a.Field.Type, a.Field.Value)
		case ofproto.Move:
			src, ok := p.get(a.Src)
			dst, has := p.get(a.Dst)
			if ok && has {
				copyBits(dst, int(a.DstOffset), src, int(a.SrcOffset), int(a.Bits))
				p.set(a.Dst, dst)
			}
		case ofproto.Load:
			if dst, ok := p.get(a.Dst); ok {
				copyBits(dst, int(a.Offset), binary.BigEndian.AppendUint64(nil, a.Value), 0, int(a.Bits))
				p.set(a.Dst, dst)
			}
		case ofproto.Multipath:
			if dst, ok := p.get(a.Dst); ok {
				copyBits(dst, int(a.Offset), binary.BigEndian.AppendUint64(nil, p.hashSource(a.Basis)%uint64(a.Links)), 0, int(a.Bits))
				p.set(a.Dst, dst)
			}
		case ofproto.OutputReg:
			if src, ok := p.get(a.Src); ok {
				to := make([]byte, 4)
				copyBits(to, 0, src, int(a.Offset), int(a.Bits))
				x.output(ofproto.Output{Port: ofproto.Port(binary.BigEndian.Uint32(to))}, p, table, f)
			}
		case ofproto.Resubmit:
			x.resubmit(a, p)
		case ofproto.PushVLAN:
			tag := binary.BigEndian.AppendUint16(nil, a.EthType)
			tag = append(tag, 0, 0)
			p.frame = slices.Insert(p.frame, 12, tag...)
			p.decode()
		case ofproto.PopVLAN:
			if _, ok := p.decoded.VLAN(); ok {
				p.frame = slices.Delete(p.frame, 12, 16)
				p.decode()
			}
		case ofproto.SetNWTTL:
			p.ttl(func(uint8) uint8 { return a.TTL })
		case ofproto.DecNWTTL:
			if p.ttl(func(v uint8) uint8 { return max(v, 1) - 1 }) == 0 {
				return false
			}
		}
	}
	return true
}

// resubmit looks the packet up in another table as if it came in by another port; what
// that does to it stays done. Only lists of actions are carried out.
func (x *execution) resubmit(a ofproto.Resubmit, p *inFlight) {
	if p.sideways > 16 {
		return
	}
	p.sideways++
	defer func() { p.sideways-- }()
	in := p.in
	if a.InPort != ofproto.PortInPort {
		p.in = a.InPort
	}
	f := x.s.tables[a.Table].lookup(p)
	p.in = in // for the actions it is where it came in by
	if f == nil {
		return
	}
	f.Counter.Packets++
	f.Counter.Bytes += uint64(len(p.frame))
	for _, in := range f.Instructions {
		if apply, ok := in.(ofproto.ApplyActions); ok {
			x.list(apply.Actions, p, f.Table, f)
		}
	}
}

// hashSource is a hash of the source address of an IP packet.
func (p *inFlight) hashSource(basis uint16) uint64 {
	h := fnv.New64a()
	_ = binary.Write(h, binary.BigEndian, basis)
	for _, t := range []ofproto.FieldType{ofproto.FieldIPv4Src, ofproto.FieldIPv6Src} {
		if v, ok := p.get(t); ok {
			_, _ = h.Write(v)
		}
	}
	return h.Sum64()
}

// ttl changes the TTL of an IP packet and returns it; of others it is 255.
func (p *inFlight) ttl(change func(uint8) uint8) uint8 {
	at := 0
	if _, ok := p.decoded.IPv4(); ok {
		at = p.l3 + 8
	} else if _, ok := p.decoded.IPv6(); ok {
		at = p.l3 + 7
	} else {
		return 255
	}
	p.frame[at] = change(p.frame[at])
	p.edited = true
	return p.frame[at]
}

func (x *execution) output(a ofproto.Output, p *inFlight, table ofproto.Table, f *Flow) {
	switch a.Port {
	case ofproto.PortInPort:
		if x.s.up(p.in) {
			x.outputs = append(x.outputs, Output{p.in, p.bytes()})
		}
	case ofproto.PortController:
		x.toController(a.MaxLen, p, table, f)
	case ofproto.PortAll, ofproto.PortFlood:
		x.flood(p, 0)
	case ofproto.PortNormal:
		x.normal(p)
	case ofproto.PortTable:
		if x.isOut {
			x.pipeline(p.fork())
		}
	default:
		if a.Port != p.in && x.s.up(a.Port) {
			x.outputs = append(x.outputs, Output{a.Port, p.bytes()})
		}
	}
}

func (x *execution) flood(p *inFlight, except ofproto.Port) {
	for _, port := range x.s.portList() {
		if port != p.in && port != except && x.s.up(port) && port < ofproto.PortMax {
			x.outputs = append(x.outputs, Output{port, p.bytes()})
		}
	}
}

func (x *execution) toController(maxLen uint16, p *inFlight, table ofproto.Table, f *Flow) {
	data := p.bytes()
	m := &ofproto.PacketIn{
		BufferID: ofproto.NoBuffer, TotalLen: uint16(len(data)), Reason: ofproto.ReasonAction, Table: table,
		Cookie: ^uint64(0), Match: ofproto.NewMatch(ofproto.InPort(p.in)), Data: data,
	}
	if maxLen != ofproto.MaxLenNoBuffer {
		m.Data = data[:min(len(data), int(maxLen))]
	}
	if f != nil {
		m.Cookie = f.Cookie
		if f.Priority == 0 && len(f.Match) == 0 {
			m.Reason = ofproto.ReasonNoMatch
		}
	}
	x.packetIns = append(x.packetIns, m)
}

// macKey is an address as the switch's own forwarding learns it.
type macKey struct {
	mac  packet.MAC
	vlan uint16
}

// normal is the switch's own forwarding: a learning bridge. Of packets from the
// controller it learns nothing, as Open vSwitch does not.
func (x *execution) normal(p *inFlight) {
	if x.s.ports[p.in] == nil && p.in != ofproto.PortController {
		return // from nowhere: Open vSwitch drops it too
	}
	tag, tagged := p.decoded.VLAN()
	vlan := tag.ID
	if access := x.s.o.Tags[p.in]; access != 0 {
		if tagged {
			return // an access port takes untagged frames only
		}
		vlan = access
	}
	src, dst := macKey{vlan: vlan}, macKey{vlan: vlan}
	copy(dst.mac[:], p.frame)
	copy(src.mac[:], p.frame[6:])
	if dst.mac[0] == 0x01 && dst.mac[1] == 0x80 && dst.mac[2] == 0xc2 && dst.mac[3] == 0 && dst.mac[4] == 0 && dst.mac[5]&0xf0 == 0 {
		return // reserved for the link (IEEE 802.1D §7.12.6)
	}
	if !packet.IsGroup(src.mac) && p.in != ofproto.PortController {
		x.s.macs[src] = p.in
	}
	to, known := x.s.macs[dst]
	switch {
	case packet.IsGroup(dst.mac) || !known || !x.s.up(to):
		for _, port := range x.s.portList() {
			if port != p.in && x.s.up(port) && port < ofproto.PortMax {
				x.outputNormal(p, port, vlan)
			}
		}
	case to != p.in:
		x.outputNormal(p, to, vlan)
	}
}

// outputNormal sends a frame of a VLAN out of a port: without its tag out of an access
// port of the VLAN, with it out of a trunk.
func (x *execution) outputNormal(p *inFlight, port ofproto.Port, vlan uint16) {
	frame := p.bytes()
	_, tagged := p.decoded.VLAN()
	switch access := x.s.o.Tags[port]; {
	case access != 0 && access != vlan:
		return
	case access != 0 && tagged:
		frame = slices.Delete(frame, 12, 16)
	case access == 0 && vlan != 0 && !tagged:
		frame = slices.Insert(frame, 12, 0x81, 0x00, byte(vlan>>8), byte(vlan))
	}
	x.outputs = append(x.outputs, Output{port, frame})
}

// group is §5.6.1. The packet itself goes on unchanged: buckets work on copies.
func (x *execution) group(id ofproto.GroupID, p *inFlight, table ofproto.Table, f *Flow) {
	g := x.s.groups[id]
	if g == nil || p.sideways > 16 {
		return
	}
	g.counter.Packets++
	g.counter.Bytes += uint64(len(p.frame))
	run := func(i int) {
		g.each[i].Packets++
		g.each[i].Bytes += uint64(len(p.frame))
		set := map[int]ofproto.Action{}
		c := p.fork()
		c.sideways++
		x.list(ordered(set, mergeSet(set, nil, g.buckets[i].Actions)), c, table, f)
	}
	switch g.typ {
	case ofproto.GroupTypeAll, ofproto.GroupTypeIndirect:
		for i := range g.buckets {
			run(i)
		}
	case ofproto.GroupTypeSelect:
		if i := x.s.choose(g, p); i >= 0 {
			run(i)
		}
	case ofproto.GroupTypeFastFailover:
		if i := slices.IndexFunc(g.buckets, x.s.live); i >= 0 {
			run(i)
		}
	}
}
