package trace_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/controller/trace"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
)

// pair is the same random tables in a software switch, which works on bytes, and in
// this package, which works on fields.
type pair struct {
	sim   *simswitch.Switch
	trace *trace.Switch
}

// gen makes what the tables are made of. Values come from small sets, so that packets
// meet entries.
type gen struct{ *rand.Rand }

func (g gen) port() uint16      { return uint16(80 + g.IntN(3)) }
func (g gen) mac() ofproto.MAC  { return ofproto.MAC{2, 0, 0, 0, 0, byte(g.IntN(3))} }
func (g gen) addr4() netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(1 + g.IntN(3))}) }
func (g gen) addr6() netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 0x01, 15: byte(1 + g.IntN(3))})
}
func (g gen) out() ofproto.Port   { return ofproto.Port(1 + g.IntN(5)) }
func (g gen) chance(n int) bool   { return g.IntN(n) == 0 }
func (g gen) slots() int          { return 1 << g.IntN(4) }
func (g gen) v4() netip.Prefix    { return netip.PrefixFrom(g.addr4(), 28+g.IntN(5)).Masked() }
func (g gen) host4() netip.Prefix { return netip.PrefixFrom(g.addr4(), 32) }
func (g gen) host6() netip.Prefix { return netip.PrefixFrom(g.addr6(), 128) }

func (g gen) headers() trace.Headers {
	h := trace.Headers{EthSrc: g.mac(), EthDst: g.mac(), Tuple: trace.Tuple{Proto: []uint8{6, 17, 132}[g.IntN(3)]}, TCPFlags: 2}
	if g.chance(3) {
		h.VLAN = uint16(1 + g.IntN(2))
	}
	src, dst := g.addr4(), g.addr4()
	if g.chance(3) {
		src, dst = g.addr6(), g.addr6()
	}
	h.Src, h.Dst = netip.AddrPortFrom(src, g.port()), netip.AddrPortFrom(dst, g.port())
	return h
}

func (g gen) match(table int) ofproto.Match {
	var fs []ofproto.Field
	maybe := func(f ofproto.Field) {
		if g.chance(3) {
			fs = append(fs, f)
		}
	}
	maybe(ofproto.InPort(g.out()))
	maybe(ofproto.EthDst(g.mac()))
	maybe(ofproto.EthSrcMasked(g.mac(), ofproto.MAC{5: 1}))
	if table > 0 {
		maybe(ofproto.Metadata(g.Uint64N(4), 1))
		maybe(ofproto.NXMReg(g.IntN(3), g.Uint32N(4), 3))
	}
	switch g.IntN(4) {
	case 0:
		fs = append(fs, ofproto.VLANNone())
	case 1:
		fs = append(fs, ofproto.VLANAny())
	}
	proto := []uint8{6, 17, 132}[g.IntN(3)]
	switch g.IntN(5) {
	case 0:
		fs = append(fs, ofproto.EthType(ofproto.EthTypeIPv6))
		maybe(ofproto.IPv6Dst(g.host6()))
	case 1:
	default:
		fs = append(fs, ofproto.EthType(ofproto.EthTypeIPv4))
		maybe(ofproto.IPv4Dst(g.v4()))
		maybe(ofproto.IPv4SrcMasked(g.Uint32N(4), 1+g.Uint32N(3)))
	}
	if len(fs) > 0 && slices.ContainsFunc(fs, func(f ofproto.Field) bool { return f.Type == ofproto.FieldEthType }) && !g.chance(3) {
		fs = append(fs, ofproto.IPProto(proto))
		maybe(ofproto.L4Dst(proto, g.port()))
		maybe(ofproto.L4SrcMasked(proto, g.port(), 3))
	}
	return ofproto.NewMatch(fs...)
}

// actions are those of an entry or a bucket. Only those of one table push a tag: the
// software switch reads frames of two at most.
func (g gen) actions(groups []ofproto.GroupID, push bool) (list []ofproto.Action) {
	for range g.IntN(4) {
		switch g.IntN(13) {
		case 0:
			list = append(list, ofproto.SetField{Field: ofproto.EthDst(g.mac())})
		case 1:
			list = append(list, ofproto.SetField{Field: ofproto.IPv4Dst(g.host4())})
		case 2:
			list = append(list, ofproto.SetField{Field: ofproto.IPv6Src(g.host6())})
		case 3:
			list = append(list, ofproto.SetField{Field: ofproto.TCPDst(g.port())})
		case 4:
			list = append(list, ofproto.SetField{Field: ofproto.UDPSrc(g.port())})
		case 5:
			list = append(list, ofproto.Move{Src: ofproto.FieldNXMEthSrc, Dst: ofproto.FieldNXMEthDst, Bits: 48})
		case 6:
			list = append(list, ofproto.Load{Dst: ofproto.FieldNXMInPort, Bits: 16})
		case 7:
			list = append(list, ofproto.Load{Dst: ofproto.FieldNXMReg0 + ofproto.FieldType(g.IntN(3)), Offset: 0, Bits: 2, Value: g.Uint64N(4)})
		case 8:
			if !push {
				continue
			}
			push = false
			list = append(list, ofproto.PushVLAN{EthType: ofproto.EthTypeVLAN}, ofproto.SetField{Field: ofproto.VLANVID(uint16(1 + g.IntN(3)))})
		case 9:
			list = append(list, ofproto.PopVLAN{})
		case 10:
			list = append(list, ofproto.DecNWTTL{})
		case 11:
			list = append(list, ofproto.Move{Src: ofproto.FieldNXMEthDst, Dst: ofproto.FieldNXMReg1, SrcOffset: 0, DstOffset: 3, Bits: 5})
		case 12:
			list = append(list, ofproto.SetNWTTL{TTL: uint8(1 + g.IntN(3))})
		}
	}
	switch g.IntN(6) {
	case 0, 1:
		list = append(list, ofproto.OutputPort(g.out()))
	case 2:
		list = append(list, ofproto.OutputPort(ofproto.PortInPort))
	case 3:
		list = append(list, ofproto.ToController())
	case 4:
		if len(groups) > 0 {
			list = append(list, ofproto.Group{ID: groups[g.IntN(len(groups))]})
		}
	case 5:
		if g.chance(3) {
			list = append(list, ofproto.OutputPort(ofproto.PortFlood))
		}
	}
	return list
}

func (g gen) group(id ofproto.GroupID, groups []ofproto.GroupID) *ofproto.GroupMod {
	m := &ofproto.GroupMod{Command: ofproto.GroupAdd, Group: id, Type: ofproto.GroupType(g.IntN(4))}
	n := 1
	if m.Type != ofproto.GroupTypeIndirect {
		n = g.slots()
	}
	for range n {
		b := ofproto.Bucket{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: g.actions(groups, false)}
		if m.Type == ofproto.GroupTypeSelect {
			b.Weight = 1
		}
		if m.Type == ofproto.GroupTypeFastFailover || m.Type == ofproto.GroupTypeSelect && g.chance(2) {
			if len(groups) > 0 && g.chance(2) {
				b.WatchGroup = groups[g.IntN(len(groups))]
			} else {
				b.WatchPort = g.out()
			}
		}
		m.Buckets = append(m.Buckets, b)
	}
	return m
}

// tables fills both switches; what the software switch refuses neither of them has.
func (g gen) tables(t *testing.T) pair {
	ports := []ofproto.Port{1, 2, 3, 4, 5}
	sim := simswitch.New(simswitch.Options{DPID: 7, Ports: ports})
	down := g.out()
	sim.SetPort(down, false)
	var groups []trace.Group
	var ids []ofproto.GroupID
	for i := range 8 {
		m := g.group(ofproto.GroupID(i+1), ids)
		if sim.Apply(m) == nil {
			ids = append(ids, m.Group)
			groups = append(groups, trace.Group{Group: flowtable.Group{ID: m.Group, Type: m.Type, Buckets: m.Buckets}})
		}
	}
	var entries []trace.Entry
	for i := range 60 {
		f := flowtable.Flow{Table: ofproto.Table(i % 3), Priority: uint16(100 - i)}
		f.Match = g.match(int(f.Table))
		if i > 50 {
			f.Match = nil
		}
		as := g.actions(ids, f.Table == 0)
		if g.chance(4) {
			f.Instructions = append(f.Instructions, ofproto.WriteActions{Actions: as})
		} else {
			f.Instructions = append(f.Instructions, ofproto.ApplyActions{Actions: as})
		}
		if g.chance(6) {
			f.Instructions = append(f.Instructions, ofproto.ClearActions{})
		}
		if g.chance(4) {
			f.Instructions = append(f.Instructions, ofproto.WriteMetadata{Metadata: g.Uint64N(4), Mask: 3})
		}
		if f.Table < 2 && !g.chance(3) {
			f.Instructions = append(f.Instructions, ofproto.GotoTable{Table: f.Table + 1})
		}
		if sim.Apply(&ofproto.FlowMod{
			Table: f.Table, Priority: f.Priority, Match: f.Match, Instructions: f.Instructions,
			BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
		}) == nil {
			entries = append(entries, trace.Entry{Flow: f})
		}
	}
	require.Greater(t, len(entries), 15)
	sw := trace.NewSwitch(7, entries, groups)
	for _, p := range ports {
		sw.Ports[p] = p != down
	}
	sw.Hash = func(p *trace.Packet) (uint32, bool) {
		return uint32(simswitch.Hash(frameOf(trace.Headers{EthSrc: p.EthSrc(), EthDst: p.EthDst(), Tuple: p.Tuple()}))), true
	}
	return pair{sim, sw}
}

// seen is what left a switch, as text.
func seen(port any, src, dst ofproto.MAC, vlan uint16, t trace.Tuple) string {
	return fmt.Sprintf("%v: %s > %s vlan %d, %+v", port, src, dst, vlan, t)
}

func ofFrame(t *testing.T, port any, frame []byte) string {
	f, err := packet.Decode(frame)
	require.NoError(t, err)
	var vlan uint16
	if v, ok := f.VLAN(); ok {
		vlan = v.ID
	}
	src, dst, _ := f.Addrs()
	sp, dp, _ := f.Ports()
	e := f.Ethernet()
	return seen(port, ofproto.MAC(e.Src), ofproto.MAC(e.Dst), vlan,
		trace.Tuple{Proto: f.Proto(), Src: netip.AddrPortFrom(src, sp), Dst: netip.AddrPortFrom(dst, dp)})
}

// What leaves a switch of random tables, and with which headers, is the same for two
// implementations that share nothing.
func TestSameAsTheSoftwareSwitch(t *testing.T) {
	sent := 0
	for seed := range uint64(300) {
		g := gen{rand.New(rand.NewPCG(seed, 1))}
		p := g.tables(t)
		for range 20 {
			h, in := g.headers(), g.out()
			if !p.trace.Ports[in] {
				continue // nothing arrives at a port that is down
			}
			var want, got []string
			outs, punts := p.sim.Process(in, frameOf(h))
			for _, o := range outs {
				want = append(want, ofFrame(t, o.Port, o.Frame))
			}
			for _, o := range punts {
				want = append(want, ofFrame(t, "controller", o.Data))
			}
			for _, o := range p.trace.Process(in, trace.NewPacket(h), nil).Outputs {
				var at any = o.Port
				if o.Kind == trace.ToController {
					at = "controller"
				}
				got = append(got, seen(at, o.Packet.EthSrc(), o.Packet.EthDst(), o.Packet.VLAN(), o.Packet.Tuple()))
			}
			slices.Sort(want)
			slices.Sort(got)
			require.Equal(t, want, got, "seed %d, port %d, %+v", seed, in, h)
			sent += len(got)
		}
	}
	require.Greater(t, sent, 3000, "the tables let packets through")
	t.Logf("%d packets left", sent)
}
