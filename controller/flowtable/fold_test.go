package flowtable_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
)

// three is a pipeline of three tables with three priorities each.
var three = func() *flowtable.Pipeline {
	p := &flowtable.Pipeline{Version: 1}
	for id := range ofproto.Table(3) {
		t := flowtable.TableSpec{ID: id, Name: fmt.Sprint(id), Match: []ofproto.FieldType{
			ofproto.FieldInPort, ofproto.FieldEthType, ofproto.FieldEthDst, ofproto.FieldIPv4Src, ofproto.FieldIPv4Dst,
		}}
		for _, priority := range []uint16{3000, 2000, 1000} {
			t.Rows = append(t.Rows, flowtable.RowSpec{Priority: priority, App: 3})
		}
		for next := id + 1; next < 3; next++ {
			t.Next = append(t.Next, next)
		}
		p.Tables = append(p.Tables, t)
	}
	return p
}()

// randomFlow has a match over a small space of packets, so that flows overlap.
func randomFlow(r *rand.Rand) flowtable.Flow {
	f := flowtable.Flow{Table: ofproto.Table(r.IntN(3)), Priority: uint16(1000 * (1 + r.IntN(3)))}
	var fields []ofproto.Field
	if r.IntN(3) == 0 {
		fields = append(fields, ofproto.InPort(ofproto.Port(1+r.IntN(2))))
	}
	if r.IntN(3) == 0 {
		fields = append(fields, ofproto.EthDst(mac(r.IntN(2))))
	}
	ip := r.IntN(2) == 0
	if ip {
		fields = append(fields, ofproto.EthType(ofproto.EthTypeIPv4))
		switch r.IntN(3) {
		case 0:
			fields = append(fields, ofproto.IPv4SrcMasked(uint32(r.IntN(4)), uint32(1+r.IntN(3))))
		case 1:
			fields = append(fields, ofproto.IPv4Dst(prefixOf(r.IntN(4))))
		}
	}
	f.Match = ofproto.NewMatch(fields...)
	var actions []ofproto.Action
	if r.IntN(3) == 0 {
		actions = append(actions, ofproto.SetField{Field: ofproto.EthDst(mac(r.IntN(3)))})
	}
	if ip && r.IntN(3) == 0 {
		actions = append(actions, ofproto.SetField{Field: ofproto.IPv4Dst(prefixOf(r.IntN(4)))})
	}
	if r.IntN(2) == 0 {
		actions = append(actions, ofproto.OutputPort(ofproto.Port(3+r.IntN(3))))
	}
	if len(actions) > 0 {
		f.Instructions = append(f.Instructions, ofproto.ApplyActions{Actions: actions})
	}
	if f.Table < 2 && r.IntN(4) > 0 {
		f.Instructions = append(f.Instructions, ofproto.GotoTable{Table: f.Table + 1 + ofproto.Table(r.IntN(int(2-f.Table)))})
	}
	return f
}

func mac(n int) ofproto.MAC { return ofproto.MAC{2, 0, 0, 0, 0, byte(n)} }

// unambiguous says whether no two flows of a table and priority can match one packet:
// which of them counts is the switch's choice (§5.3).
func unambiguous(flows []flowtable.Flow, f flowtable.Flow) bool {
	for _, g := range flows {
		if g.Table != f.Table || g.Priority != f.Priority {
			continue
		}
		apart := false
		for a := range g.Match.Fields() {
			b, ok := f.Match.Lookup(a.Type)
			if !ok {
				continue
			}
			for i := range a.Value {
				mask := byte(0xff)
				if a.Mask != nil {
					mask &= a.Mask[i]
				}
				if b.Mask != nil {
					mask &= b.Mask[i]
				}
				apart = apart || (a.Value[i]^b.Value[i])&mask != 0
			}
		}
		if !apart {
			return false
		}
	}
	return true
}

// What a switch with one table does with the folded parts is what one with all tables
// does with the parts.
func TestFoldedDoesTheSame(t *testing.T) {
	ways := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		parts := map[flowtable.PartKey]flowtable.Part{}
		var all []flowtable.Flow
		for range 25 {
			f := randomFlow(r)
			if !unambiguous(all, f) {
				continue
			}
			all = append(all, f)
			k := key(fmt.Sprint(r.IntN(4)))
			part := parts[k]
			part.Class = flowtable.Class(k.Name[0] % 3)
			part.Flows = append(part.Flows, f)
			parts[k] = part
		}
		folded, err := three.Fold(parts)
		require.NoError(t, err)
		ports := []ofproto.Port{1, 2, 3, 4, 5}
		tables, one := simswitch.New(simswitch.Options{DPID: 1, Ports: ports}), simswitch.New(simswitch.Options{DPID: 1, Ports: ports, Tables: 1})
		add := func(sw *simswitch.Switch, p *flowtable.Pipeline, parts map[flowtable.PartKey]flowtable.Part) {
			table := flowtable.New(p)
			for k, part := range parts {
				require.NoError(t, table.SetPart(k, part), "seed %d", seed)
			}
			plan := table.Plan(1 << 20)
			for _, m := range plan.Atomic() {
				require.Nil(t, sw.Apply(m.Message), "seed %d: %s", seed, &m)
			}
		}
		add(tables, three, parts)
		add(one, three.Folded(), folded)
		ways += len(one.Flows())
		for in := range ofproto.Port(2) {
			for dst := range 3 {
				for ip := range 16 {
					f := packet.Flow{SrcMAC: packet.MAC{2, 9}, DstMAC: packet.MAC(mac(dst)), Src: addrPort(ip % 4), Dst: addrPort(ip / 4)}
					frame := packet.AppendUDPFrame(nil, f, []byte("x"))
					want, _ := tables.Process(in+1, frame)
					got, _ := one.Process(in+1, frame)
					require.Equal(t, want, got, "seed %d, %v in by port %d", seed, f, in+1)
				}
				arp := packet.AppendARPRequest(nil, packet.MAC{2, 9}, addrPort(1).Addr(), addrPort(2).Addr())
				want, _ := tables.Process(in+1, arp)
				got, _ := one.Process(in+1, arp)
				require.Equal(t, want, got, "seed %d, ARP", seed)
			}
		}
	}
	require.Greater(t, ways, 300*5)
}

func TestWhatDoesNotFold(t *testing.T) {
	flow := func(table ofproto.Table, match ofproto.Match, ins ...ofproto.Instruction) flowtable.Flow {
		return flowtable.Flow{Table: table, Priority: 1000, Match: match, Instructions: ins}
	}
	move := ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.Move{Src: ofproto.FieldEthSrc, Dst: ofproto.FieldEthDst, Bits: 48}}}
	for name, flows := range map[string][]flowtable.Flow{
		"action set":       {flow(0, nil, ofproto.WriteActions{Actions: []ofproto.Action{ofproto.OutputPort(1)}})},
		"metadata":         {flow(0, nil, ofproto.WriteMetadata{Metadata: 1, Mask: 1})},
		"moved, and match": {flow(0, nil, move, ofproto.GotoTable{Table: 1}), flow(1, ofproto.NewMatch(ofproto.EthDst(mac(1))))},
		"table nowhere":    {flow(0, nil, ofproto.GotoTable{Table: 9})},
	} {
		_, err := three.Fold(map[flowtable.PartKey]flowtable.Part{key("a"): {Flows: flows}})
		require.ErrorIs(t, err, flowtable.ErrPart, name)
	}
	require.ErrorIs(t, three.CheckPart(key("a"), flowtable.Part{Flows: []flowtable.Flow{{Table: 0, Priority: 7}}}), flowtable.ErrPart)
}

func prefixOf(n int) netip.Prefix { return netip.PrefixFrom(addrPort(n).Addr(), 32) }

func addrPort(n int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 1000)
}
