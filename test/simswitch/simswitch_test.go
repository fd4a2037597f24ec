package simswitch

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

var (
	macA, macB = packet.MAC{2, 0, 0, 0, 0, 0xa}, packet.MAC{2, 0, 0, 0, 0, 0xb}
	ipA, ipB   = netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")
)

func tcp(sport, dport uint16) []byte {
	f := packet.Flow{SrcMAC: macA, DstMAC: macB, Src: netip.AddrPortFrom(ipA, sport), Dst: netip.AddrPortFrom(ipB, dport)}
	return packet.AppendTCPFrame(nil, f, packet.TCP{Flags: packet.TCPSyn}, nil)
}

func add(table ofproto.Table, prio uint16, match ofproto.Match, ins ...ofproto.Instruction) *ofproto.FlowMod {
	return &ofproto.FlowMod{Table: table, Priority: prio, Match: match, Instructions: ins, BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}
}

func apply(as ...ofproto.Action) ofproto.Instruction { return ofproto.ApplyActions{Actions: as} }

func out(p ofproto.Port) ofproto.Action { return ofproto.OutputPort(p) }

func newSwitch(t *testing.T, o Options, mods ...ofproto.Message) *Switch {
	t.Helper()
	o.Ports = []ofproto.Port{1, 2, 3, 4}
	s := New(o)
	for _, m := range mods {
		require.Nil(t, s.Apply(m), "%#v", m)
	}
	return s
}

func ports(out []Output) (ps []ofproto.Port) {
	for _, o := range out {
		ps = append(ps, o.Port)
	}
	slices.Sort(ps)
	return ps
}

func sends(t *testing.T, s *Switch, in ofproto.Port, frame []byte, want ...ofproto.Port) []Output {
	t.Helper()
	got, _ := s.Process(in, frame)
	require.Equal(t, want, ports(got))
	return got
}

func tcpMatch(more ...ofproto.Field) ofproto.Match {
	return ofproto.NewMatch(append([]ofproto.Field{ofproto.EthType(ofproto.EthTypeIPv4), ofproto.IPProto(ofproto.ProtoTCP)}, more...)...)
}

func bucket(as ...ofproto.Action) ofproto.Bucket {
	return ofproto.Bucket{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: as}
}

func TestHighestPriorityWins(t *testing.T) {
	s := newSwitch(t, Options{},
		add(0, 1, nil, apply(out(2))),
		add(0, 5, tcpMatch(ofproto.TCPDst(80)), apply(out(3))),
		add(0, 9, tcpMatch(ofproto.TCPSrcMasked(4, 6)), apply(out(4))))
	sends(t, s, 1, tcp(1001, 81), 2)
	sends(t, s, 1, tcp(1001, 80), 3)
	sends(t, s, 1, tcp(1004, 80), 4)
	sends(t, s, 2, tcp(1001, 81)) // not back out of the ingress port
}

func TestWriteActionsRunLastAndGroupBeatsOutput(t *testing.T) {
	s := newSwitch(t, Options{},
		&ofproto.GroupMod{Type: ofproto.GroupTypeIndirect, Group: 1, Buckets: []ofproto.Bucket{bucket(out(4))}},
		add(0, 0, nil, ofproto.GotoTable{Table: 1}, ofproto.WriteActions{Actions: []ofproto.Action{out(2), ofproto.SetField{Field: ofproto.EthDst(macA)}}}),
		add(1, 0, nil, apply(out(3))),
		add(1, 1, tcpMatch(ofproto.TCPDst(80)), ofproto.WriteActions{Actions: []ofproto.Action{ofproto.Group{ID: 1}}}),
		add(1, 1, tcpMatch(ofproto.TCPDst(81)), ofproto.ClearActions{}))
	got := sends(t, s, 1, tcp(1, 82), 2, 3)
	require.Equal(t, macB, Headers(got[0].Frame).DstMAC, "applied before the set")
	require.Equal(t, macA, Headers(got[1].Frame).DstMAC)
	sends(t, s, 1, tcp(1, 80), 4)
	sends(t, s, 1, tcp(1, 81))
}

func TestRewritesKeepChecksumsRight(t *testing.T) {
	s := newSwitch(t, Options{}, add(0, 0, tcpMatch(),
		apply(ofproto.SetField{Field: ofproto.IPv4Dst(netip.MustParsePrefix("10.9.9.9/32"))}, ofproto.SetField{Field: ofproto.TCPDst(8080)},
			ofproto.Move{Src: ofproto.FieldEthSrc, Dst: ofproto.FieldEthDst, Bits: 48}, out(2))))
	got := sends(t, s, 1, tcp(1, 80), 2)[0].Frame
	f, err := packet.Decode(got)
	require.NoError(t, err)
	require.True(t, f.ChecksumsOK())
	require.Equal(t, netip.MustParseAddrPort("10.9.9.9:8080"), Headers(got).Dst)
	require.Equal(t, macA, Headers(got).DstMAC)
}

func TestOneArmedNeedsInPortOrALoad(t *testing.T) {
	s := newSwitch(t, Options{},
		add(0, 0, nil, apply(ofproto.Load{Dst: ofproto.FieldNXMInPort, Bits: 16}, out(1))),
		add(0, 1, tcpMatch(ofproto.TCPDst(1)), apply(out(ofproto.PortInPort))),
		add(0, 1, tcpMatch(ofproto.TCPDst(2)), apply(out(1))))
	sends(t, s, 1, tcp(1, 80), 1)
	sends(t, s, 1, tcp(1, 1), 1)
	sends(t, s, 1, tcp(1, 2))
}

func TestSelectSpreadsAndSkipsTheDead(t *testing.T) {
	var mods []ofproto.Message
	var slots []ofproto.Bucket
	for p := range ofproto.Port(3) {
		b := bucket(out(p + 2))
		b.WatchPort = p + 2
		mods = append(mods, &ofproto.GroupMod{Type: ofproto.GroupTypeFastFailover, Group: ofproto.GroupID(p + 1), Buckets: []ofproto.Bucket{b}})
		slot := bucket(ofproto.Group{ID: ofproto.GroupID(p + 1)})
		slot.Weight, slot.WatchGroup = 1, ofproto.GroupID(p+1)
		slots = append(slots, slot)
	}
	mods = append(mods, &ofproto.GroupMod{Type: ofproto.GroupTypeSelect, Group: 9, Buckets: slots}, add(0, 0, nil, apply(ofproto.Group{ID: 9})))
	s := newSwitch(t, Options{}, mods...)
	before := map[uint16]ofproto.Port{}
	count := map[ofproto.Port]int{}
	for sport := range uint16(300) {
		o, _ := s.Process(1, tcp(sport, 80))
		require.Len(t, o, 1)
		before[sport] = o[0].Port
		count[o[0].Port]++
	}
	for p := ofproto.Port(2); p <= 4; p++ {
		require.InDelta(t, 100, count[p], 30)
	}
	s.SetPort(3, false)
	for sport := range uint16(300) {
		o, _ := s.Process(1, tcp(sport, 80))
		require.Len(t, o, 1)
		if before[sport] == 3 {
			require.Equal(t, ofproto.Port(4), o[0].Port, "the next slot's")
		} else {
			require.Equal(t, before[sport], o[0].Port)
		}
	}
	st := s.GroupStats()
	require.EqualValues(t, 600, st[len(st)-1].Packets)
}

func TestNormalLearns(t *testing.T) {
	s := newSwitch(t, Options{}, add(0, 0, nil, apply(out(ofproto.PortNormal))))
	sends(t, s, 1, tcp(1, 80), 2, 3, 4)
	f := packet.Flow{SrcMAC: macB, DstMAC: macA, Src: netip.AddrPortFrom(ipB, 80), Dst: netip.AddrPortFrom(ipA, 1)}
	sends(t, s, 2, packet.AppendTCPFrame(nil, f, packet.TCP{}, nil), 1)
	sends(t, s, 1, tcp(1, 80), 2)
}

// NORMAL keeps the VLANs of access ports apart, and takes their tags away.
func TestNormalAccessPorts(t *testing.T) {
	s := newSwitch(t, Options{Tags: map[ofproto.Port]uint16{1: 7, 2: 7, 3: 8}}, add(0, 0, nil, apply(out(ofproto.PortNormal))))
	sends(t, s, 1, tcp(1, 80), 2, 4)
	f := packet.Flow{SrcMAC: macB, DstMAC: macA, Src: netip.AddrPortFrom(ipB, 80), Dst: netip.AddrPortFrom(ipA, 1)}
	tagged := f
	tagged.Tags = []packet.VLAN{{ID: 7}}
	frame := func(f packet.Flow) []byte { return packet.AppendTCPFrame(nil, f, packet.TCP{}, nil) }
	require.Equal(t, frame(f), sends(t, s, 4, frame(tagged), 1)[0].Frame, "without the tag")
	back := packet.Flow{SrcMAC: macA, DstMAC: macB, Src: f.Dst, Dst: f.Src}
	out := sends(t, s, 1, frame(back), 4)
	got, err := packet.Decode(out[0].Frame)
	require.NoError(t, err)
	tag, _ := got.VLAN()
	require.EqualValues(t, 7, tag.ID, "with it")
	sends(t, s, 5, frame(f)) // nobody has the VLAN without a tag
	sends(t, s, 2, frame(tagged))
}

func TestFlowModsSelectByMatchCookieAndOutput(t *testing.T) {
	mods := func() []ofproto.Message {
		a, b, c := add(0, 1, tcpMatch(), apply(out(2))), add(0, 2, tcpMatch(ofproto.TCPDst(80)), apply(out(3))), add(0, 3, nil, apply(out(3)))
		a.Cookie, b.Cookie, c.Cookie = 0x11, 0x12, 0x21
		return []ofproto.Message{a, b, c}
	}
	del := func(change func(*ofproto.FlowMod)) []uint64 {
		s := newSwitch(t, Options{}, mods()...)
		m := add(0, 0, nil)
		m.Command = ofproto.FlowDelete
		change(m)
		require.Nil(t, s.Apply(m))
		var left []uint64
		for _, f := range s.Flows() {
			left = append(left, f.Cookie)
		}
		return left
	}
	require.Empty(t, del(func(m *ofproto.FlowMod) {}))
	require.Empty(t, del(func(m *ofproto.FlowMod) { m.Table = ofproto.TableAll }))
	require.Equal(t, []uint64{0x21}, del(func(m *ofproto.FlowMod) { m.Match = tcpMatch() }))
	require.Equal(t, []uint64{0x21}, del(func(m *ofproto.FlowMod) { m.Cookie, m.CookieMask = 0x10, 0xf0 }))
	require.Equal(t, []uint64{0x11}, del(func(m *ofproto.FlowMod) { m.OutPort = 3 }))
	require.Equal(t, []uint64{0x21, 0x12}, del(func(m *ofproto.FlowMod) {
		m.Command, m.Priority, m.Match = ofproto.FlowDeleteStrict, 1, tcpMatch()
	}))
	require.Len(t, del(func(m *ofproto.FlowMod) { m.Command = ofproto.FlowDeleteStrict }), 3)
}

func TestErrors(t *testing.T) {
	group := func(command ofproto.GroupCommand, id ofproto.GroupID, bs ...ofproto.Bucket) *ofproto.GroupMod {
		return &ofproto.GroupMod{Command: command, Type: ofproto.GroupTypeAll, Group: id, Buckets: bs}
	}
	watched := bucket(out(1))
	watched.WatchPort = 1
	for name, c := range map[string]struct {
		o    Options
		m    ofproto.Message
		want string
	}{
		"flow to a missing group":    {Options{}, add(0, 0, nil, apply(ofproto.Group{ID: 7})), "OFPBAC_BAD_OUT_GROUP"},
		"bucket to a missing group":  {Options{}, group(ofproto.GroupAdd, 2, bucket(ofproto.Group{ID: 7})), "OFPBAC_BAD_OUT_GROUP"},
		"group twice":                {Options{}, group(ofproto.GroupAdd, 1), "OFPGMFC_GROUP_EXISTS"},
		"modify a missing group":     {Options{}, group(ofproto.GroupModify, 7), "OFPGMFC_UNKNOWN_GROUP"},
		"group in itself":            {Options{}, group(ofproto.GroupModify, 1, bucket(ofproto.Group{ID: 1})), "OFPGMFC_LOOP"},
		"liveness of an all group":   {Options{}, group(ofproto.GroupAdd, 2, watched), "OFPGMFC_WATCH_UNSUPPORTED"},
		"too many groups":            {Options{MaxGroups: 1}, group(ofproto.GroupAdd, 2), "OFPGMFC_OUT_OF_GROUPS"},
		"chaining":                   {Options{NoChaining: true}, group(ofproto.GroupAdd, 2, bucket(ofproto.Group{ID: 1})), "OFPGMFC_CHAINING_UNSUPPORTED"},
		"full table":                 {Options{MaxFlows: 1}, add(0, 7, nil), "OFPFMFC_TABLE_FULL"},
		"backwards":                  {Options{}, add(2, 0, nil, ofproto.GotoTable{Table: 2}), "OFPBIC_BAD_TABLE_ID"},
		"missing prerequisite":       {Options{}, add(0, 0, ofproto.NewMatch(ofproto.TCPDst(80))), "OFPBMC_BAD_PREREQ"},
		"set-field of another":       {Options{}, add(0, 0, nil, apply(ofproto.SetField{Field: ofproto.TCPDst(80)})), "OFPBAC_MATCH_INCONSISTENT"},
		"Nicira's action elsewhere":  {Options{NoNicira: true}, add(0, 0, nil, apply(ofproto.Load{Dst: ofproto.FieldNXMInPort, Bits: 16})), "OFPBAC_BAD_EXPERIMENTER"},
		"masked port elsewhere":      {Options{NoNicira: true}, add(0, 0, tcpMatch(ofproto.TCPSrcMasked(2, 2))), "OFPBMC_BAD_MASK"},
		"overlap, asked to check it": {Options{}, &ofproto.FlowMod{Priority: 5, Match: tcpMatch(), Flags: ofproto.FlagCheckOverlap}, "OFPFMFC_OVERLAP"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwitch(t, c.o, group(ofproto.GroupAdd, 1, bucket(out(1))), add(0, 5, nil))
			flows, groups := s.Flows(), s.Groups()
			err := s.Apply(c.m)
			require.NotNil(t, err)
			require.Equal(t, c.want, err.Name())
			require.Equal(t, flows, s.Flows())
			require.Equal(t, groups, s.Groups())
		})
	}
}

func TestDeletedGroupTakesItsFlows(t *testing.T) {
	s := newSwitch(t, Options{},
		&ofproto.GroupMod{Type: ofproto.GroupTypeAll, Group: 1, Buckets: []ofproto.Bucket{bucket(out(1))}},
		&ofproto.GroupMod{Type: ofproto.GroupTypeAll, Group: 2, Buckets: []ofproto.Bucket{bucket(ofproto.Group{ID: 1})}},
		add(0, 1, nil, apply(ofproto.Group{ID: 2})), add(0, 0, nil))
	require.Equal(t, "OFPGMFC_CHAINED_GROUP", s.Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: 1}).Name())
	require.Nil(t, s.Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: 2}))
	require.Len(t, s.Flows(), 1)
	require.Nil(t, s.Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: 1}))
	require.Empty(t, s.Groups())
}

func TestNetworkFollowsPackets(t *testing.T) {
	n := NewNetwork()
	for d := range ofproto.DPID(3) {
		s := n.AddSwitch(Options{DPID: d + 1})
		require.Nil(t, s.Apply(add(0, 0, nil, apply(out(ofproto.PortNormal)))))
	}
	n.Link(Place{1, 1}, Place{2, 1})
	n.Link(Place{2, 2}, Place{3, 1})
	n.AddHost(Host{Name: "a", MAC: macA, IP: ipA, At: Place{1, 10}})
	n.AddHost(Host{Name: "b", MAC: macB, IP: ipB, At: Place{3, 10}})
	n.Send("a", packet.AppendARPRequest(nil, macA, ipA, ipB))
	require.Len(t, n.Received("b"), 1)
	require.Len(t, n.Received("a"), 1, "the reply")
	n.Send("a", tcp(1, 80))
	require.Equal(t, [][]byte{tcp(1, 80)}, n.Received("b"))
	n.SetLink(Place{1, 1}, false)
	n.Send("a", tcp(1, 80))
	require.Empty(t, n.Received("b"))
	n.SetLink(Place{1, 1}, true)
	n.Link(Place{1, 3}, Place{3, 3}) // a ring of learning switches
	n.Announce("a")
	require.True(t, n.Stormed())
}
