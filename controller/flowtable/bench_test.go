package flowtable_test

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

func benchKey(i int) flowtable.PartKey {
	return flowtable.PartKey{App: controller.AppBalancer, Name: fmt.Sprintf("vip/v%d", i)}
}

// benchPart is what a switch holds of a VIP of three members with 32 slots.
func benchPart(i int) flowtable.Part {
	vip := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 128 | byte(i>>16), byte(i >> 8), byte(i)}), 32)
	p := flowtable.Part{Flows: []flowtable.Flow{{
		Table: controller.TableVIP, Priority: controller.PrioVIPForward,
		Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(packet.ProtoTCP),
			ofproto.IPv4Dst(vip), ofproto.L4Dst(packet.ProtoTCP, 80)),
		Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.Group{ID: flowtable.GroupIDOf(uint32(4 * i))}}}},
	}}}
	slots := flowtable.Group{ID: flowtable.GroupIDOf(uint32(4 * i)), Type: ofproto.GroupTypeSelect}
	for j := range 3 {
		n := 3*i + j
		member := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(n >> 8), byte(n)}), 32)
		id := flowtable.GroupIDOf(uint32(4*i + j + 1))
		p.Groups = append(p.Groups, flowtable.Group{ID: id, Type: ofproto.GroupTypeFastFailover, Buckets: []ofproto.Bucket{{
			WatchPort: 1, WatchGroup: ofproto.GroupAny, Actions: []ofproto.Action{
				ofproto.SetField{Field: ofproto.EthDst(ofproto.MAC{2, 0, 0, 0, 0, byte(j)})},
				ofproto.SetField{Field: ofproto.IPv4Dst(member)},
				ofproto.SetField{Field: ofproto.L4Dst(packet.ProtoTCP, 8080)},
				ofproto.OutputPort(1),
			},
		}}})
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: controller.PrioVIPReverse,
			Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(packet.ProtoTCP),
				ofproto.IPv4Src(member), ofproto.L4Src(packet.ProtoTCP, uint16(1024+n>>16))),
			Instructions: []ofproto.Instruction{
				ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.SetField{Field: ofproto.IPv4Src(vip)}}},
				ofproto.GotoTable{Table: controller.TableDestination},
			},
		})
	}
	for slot := range 32 {
		id := flowtable.GroupIDOf(uint32(4*i + slot%3 + 1))
		slots.Buckets = append(slots.Buckets, ofproto.Bucket{
			Weight: 1, WatchPort: ofproto.PortAny, WatchGroup: id, Actions: []ofproto.Action{ofproto.Group{ID: id}},
		})
	}
	p.Groups = append(p.Groups, slots)
	return p
}

// BenchmarkProgram is the controller's share of programming 10,000 VIPs: 40,000
// flows and 40,000 groups.
func BenchmarkProgram(b *testing.B) {
	parts := make([]flowtable.Part, 10_000)
	for i := range parts {
		parts[i] = benchPart(i)
	}
	b.ReportAllocs()
	for b.Loop() {
		t := flowtable.New(controller.Pipeline)
		for i, p := range parts {
			require.NoError(b, t.SetPart(benchKey(i), p))
		}
		t.ReadBack(t.NewInstalled(), nil)
		mods := 0
		for t.Dirty() {
			plan := t.Plan(4096)
			for _, m := range plan.Atomic() {
				t.Applied(&m)
				mods++
			}
		}
		require.Equal(b, 80_000, mods)
	}
}

// BenchmarkReadBack is what it costs to find 100,000 flows unchanged.
func BenchmarkReadBack(b *testing.B) {
	t := flowtable.New(controller.Pipeline)
	for i := range 25_000 {
		p := benchPart(i)
		p.Groups = nil
		p.Flows[0].Instructions = nil
		require.NoError(b, t.SetPart(benchKey(i), p))
	}
	t.ReadBack(t.NewInstalled(), nil)
	var flows []ofproto.FlowStats
	plan := t.Plan(1 << 20)
	for _, m := range plan.SetFlows {
		f := m.Message.(*ofproto.FlowMod)
		flows = append(flows, ofproto.FlowStats{
			Table: f.Table, Priority: f.Priority, Flags: f.Flags, Cookie: f.Cookie, Match: f.Match,
			RawInstructions: f.RawInstructions,
		})
	}
	require.Len(b, flows, 100_000)
	b.ReportAllocs()
	for b.Loop() {
		in := t.NewInstalled()
		for _, f := range flows {
			in.AddFlow(f)
		}
		t.ReadBack(in, nil)
		plan := t.Plan(1 << 20)
		require.Zero(b, plan.Len())
	}
}
