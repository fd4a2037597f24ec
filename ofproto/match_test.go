package ofproto

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewMatchIsCanonical(t *testing.T) {
	want := NewMatch(InPort(1), EthType(EthTypeIPv4), IPProto(6), IPv4Dst(prefix("10.0.0.0/24")), TCPDst(80))
	for name, same := range map[string]Match{
		"other order":               NewMatch(TCPDst(80), IPv4Dst(prefix("10.0.0.0/24")), IPProto(6), EthType(EthTypeIPv4), InPort(1)),
		"host bits in the prefix":   NewMatch(InPort(1), EthType(EthTypeIPv4), IPProto(6), IPv4Dst(prefix("10.0.0.77/24")), TCPDst(80)),
		"a field twice":             NewMatch(InPort(1), InPort(2), EthType(EthTypeIPv4), IPProto(6), IPv4Dst(prefix("10.0.0.0/24")), TCPDst(80)),
		"a mask of all ones":        NewMatch(InPort(1), EthType(EthTypeIPv4), IPProto(6), IPv4Dst(prefix("10.0.0.0/24")), TCPDstMasked(80, 0xffff)),
		"a field masked to nothing": NewMatch(InPort(1), EthType(EthTypeIPv4), IPProto(6), IPv4Dst(prefix("10.0.0.0/24")), TCPDst(80), IPv4Src(prefix("0.0.0.0/0"))),
		"bits outside of a mask": NewMatch(InPort(1), EthType(EthTypeIPv4), IPProto(6), TCPDst(80),
			Field{Type: FieldIPv4Dst, Value: []byte{10, 0, 0, 9}, Mask: []byte{255, 255, 255, 0}}),
		"its own canonical form": want.Canonical(),
	} {
		require.True(t, want.Equal(same), "%s: %v", name, same)
	}
	require.Empty(t, NewMatch())
	require.Equal(t, "in_port=1,eth_type=0x0800,ip_proto=6,ipv4_dst=10.0.0.0/24,tcp_dst=80", want.String())
}

// TestCanonicalLeavesItsInput: the bytes of a caller's field are not changed.
func TestCanonicalLeavesItsInput(t *testing.T) {
	f := Field{Type: FieldTCPDst, Value: []byte{0xff, 0xff}, Mask: []byte{0x0f, 0x00}}
	m := NewMatch(f)
	require.Equal(t, []byte{0xff, 0xff}, f.Value)
	got, ok := m.Lookup(FieldTCPDst)
	require.True(t, ok)
	require.EqualValues(t, 0x0f00, got.Uint())
}

// TestCanonicalMaskOfNarrowFields: of a field with fewer bits than its bytes hold
// the rest does not count.
func TestCanonicalMaskOfNarrowFields(t *testing.T) {
	require.Equal(t, NewMatch(VLANVID(5)), NewMatch(Field{Type: FieldVLANVID, Value: []byte{0x10, 5}, Mask: []byte{0x1f, 0xff}}))
	require.Equal(t, NewMatch(IPv6FLabel(1)), NewMatch(Field{Type: FieldIPv6FLabel, Value: []byte{0, 0, 0, 1}, Mask: []byte{0, 0x0f, 0xff, 0xff}}))
	require.Empty(t, NewMatch(Field{Type: FieldVLANVID, Value: []byte{0, 0}, Mask: []byte{0xe0, 0}}))
	require.NotEmpty(t, NewMatch(VLANAny()))
}

// TestMatchOrder puts a field after the ones it depends on, those of the
// specification before Nicira's, whose class numbers are smaller.
func TestMatchOrder(t *testing.T) {
	m := NewMatch(NXMCTState(1, 1), NXMReg(0, 1, 1), TCPSrc(1), IPProto(6), EthType(EthTypeIPv4))
	var order []FieldType
	for f := range m.Fields() {
		order = append(order, f.Type)
	}
	require.Equal(t, []FieldType{FieldEthType, FieldIPProto, FieldTCPSrc, FieldNXMReg0, FieldNXMCTState}, order)
}

func TestMatchLookup(t *testing.T) {
	m := NewMatch(InPort(PortLocal), EthDst(mac1), IPv6Dst(prefix("2001:db8::/64")), IPv4SrcMasked(1, 5))
	port, ok := m.InPort()
	require.True(t, ok)
	require.Equal(t, PortLocal, port)
	_, ok = NewMatch(EthDst(mac1)).InPort()
	require.False(t, ok)
	f, ok := m.Lookup(FieldEthDst)
	require.True(t, ok)
	require.Equal(t, mac1, f.MAC())
	require.Zero(t, f.Addr())
	f, _ = m.Lookup(FieldIPv6Dst)
	p, ok := f.Prefix()
	require.True(t, ok)
	require.Equal(t, prefix("2001:db8::/64"), p)
	f, _ = m.Lookup(FieldIPv4Src)
	_, ok = f.Prefix()
	require.False(t, ok)
	require.EqualValues(t, 5, f.UintMask())
	require.EqualValues(t, 0xffff, TCPSrc(1).UintMask())
	_, ok = m.Lookup(FieldTCPDst)
	require.False(t, ok)
	require.Len(t, slices.Collect(m.Fields()), 4)
	for range m.Fields() {
		break // the iterator may be left
	}
}

func TestFieldText(t *testing.T) {
	for want, f := range map[string]Field{
		"in_port=LOCAL":             InPort(PortLocal),
		"in_port=7":                 InPort(7),
		"in_phy_port=7":             InPhyPort(7),
		"metadata=0x1/0xff":         Metadata(1, 0xff),
		"metadata=0x1":              Metadata(1, 1<<64-1),
		"metadata=0":                Metadata(0, 1<<64-1),
		"eth_dst=02:00:00:00:00:01": EthDst(mac1),
		"eth_src=02:00:00:00:00:00/ff:ff:ff:00:00:00": EthSrcMasked(mac1, mac0),
		"eth_type=0x86dd":                 EthType(EthTypeIPv6),
		"vlan_vid=0x1005":                 VLANVID(5),
		"vlan_vid=0x0000":                 VLANNone(),
		"vlan_vid=0x1000/0x1000":          VLANAny(),
		"ipv4_dst=10.0.0.1":               IPv4Dst(prefix("10.0.0.1/32")),
		"ipv4_dst=10.0.0.0/8":             IPv4Dst(prefix("10.9.9.9/8")),
		"ipv4_src=0.0.0.1/0.0.0.3":        IPv4SrcMasked(0xfd, 3),
		"ipv4_dst=0.0.0.1/0.0.0.3":        IPv4DstMasked(0xfd, 3),
		"udp_src=0x2/0xfffe":              UDPSrcMasked(3, 0xfffe),
		"udp_dst=0x2/0xfffe":              L4DstMasked(ProtoUDP, 3, 0xfffe),
		"sctp_src=0x2/0xfffe":             SCTPSrcMasked(3, 0xfffe),
		"sctp_dst=0x2/0xfffe":             SCTPDstMasked(3, 0xfffe),
		"udp_src=0x4/0xc":                 L4SrcMasked(ProtoUDP, 4, 0xc),
		"tcp_dst=80":                      L4Dst(ProtoTCP, 80),
		"sctp_src=80":                     L4Src(ProtoSCTP, 80),
		"ipv6_dst=2001:db8::/32":          IPv6Dst(prefix("2001:db8::1/32")),
		"ipv6_nd_target=fe80::1":          IPv6NDTarget(netip.MustParseAddr("fe80::1")),
		"pbb_isid=0x10203":                PBBISID(0x010203),
		"tunnel_id=0x7/0xf":               TunnelID(0x37, 0xf),
		"NXM_NX_REG3=0x7":                 {Type: FieldNXMReg3, Value: []byte{0, 0, 0, 7}},
		"NXM_NX_XXREG0=0x1":               {Type: FieldNXMXXReg0, Value: append(make([]byte, 15), 1)},
		"experimenter_4f4e4600_42=0x0002": {Type: 0xffff<<16 | 42, Experimenter: ExperimenterONF, Value: []byte{0, 2}},
		"field_7777_3=0x01/0x03":          {Type: 0x7777<<16 | 3, Value: []byte{1}, Mask: []byte{3}},
	} {
		require.Equal(t, want, f.String())
	}
}

// TestFieldTable: every row is found under its own type and header, and no two rows
// share a name.
func TestFieldTable(t *testing.T) {
	names := map[string]bool{}
	for _, f := range fields {
		require.Equal(t, int(f.Bits), f.Type.Bits())
		require.Equal(t, int(f.Len), f.Type.Len())
		require.LessOrEqual(t, int(f.Bits), 8*int(f.Len))
		require.Equal(t, f.Name, f.Type.String())
		require.False(t, names[f.Name], f.Name)
		names[f.Name] = true
		got, ok := fieldOfHeader(f.Type.header())
		require.True(t, ok)
		require.Equal(t, f.Type, got)
		_, ok = fieldOfHeader(f.Type.header() | 1<<8)
		require.False(t, ok, "with a mask bit")
		_, ok = fieldOfHeader(f.Type.header() + 1)
		require.False(t, ok, "with another length")
	}
	// The specification's fields are 40 in a row.
	for i := range FieldType(40) {
		require.NotZero(t, (FieldInPort + i).Len())
	}
	require.EqualValues(t, 0x80000027, FieldIPv6ExtHdr)
	require.EqualValues(t, 0x00000011, FieldNXMARPTPA)
	require.Zero(t, FieldType(0x80000028).Len())
}

func TestConstructorsRefuseTheWrongFamily(t *testing.T) {
	require.Panics(t, func() { IPv4Dst(prefix("2001:db8::/32")) })
	require.Panics(t, func() { IPv6Dst(prefix("10.0.0.0/8")) })
	require.Panics(t, func() { L4Src(ProtoICMP, 1) })
}

func TestErrorNames(t *testing.T) {
	for want, e := range map[string]Error{
		"OFPHFC_INCOMPATIBLE":               {Type: ErrorHelloFailed, Code: CodeHelloIncompatible},
		"OFPBRC_MULTIPART_BUFFER_OVERFLOW":  {Type: ErrorBadRequest, Code: 13},
		"OFPBRC_IS_SLAVE":                   {Type: ErrorBadRequest, Code: CodeIsSlave},
		"OFPBAC_BAD_SET_ARGUMENT":           {Type: ErrorBadAction, Code: 15},
		"OFPBIC_EPERM":                      {Type: ErrorBadInstruction, Code: 8},
		"OFPBMC_EPERM":                      {Type: ErrorBadMatch, Code: 11},
		"OFPFMFC_TABLE_FULL":                {Type: ErrorFlowModFailed, Code: CodeTableFull},
		"OFPFMFC_BAD_FLAGS":                 {Type: ErrorFlowModFailed, Code: 7},
		"OFPGMFC_OUT_OF_GROUPS":             {Type: ErrorGroupModFailed, Code: CodeOutOfGroups},
		"OFPGMFC_EPERM":                     {Type: ErrorGroupModFailed, Code: 14},
		"OFPPMFC_EPERM":                     {Type: ErrorPortModFailed, Code: 4},
		"OFPTMFC_EPERM":                     {Type: ErrorTableModFailed, Code: 2},
		"OFPQOFC_EPERM":                     {Type: ErrorQueueOpFailed, Code: 2},
		"OFPSCFC_EPERM":                     {Type: ErrorSwitchConfigFailed, Code: 2},
		"OFPRRFC_BAD_ROLE":                  {Type: ErrorRoleRequestFailed, Code: 2},
		"OFPMMFC_OUT_OF_BANDS":              {Type: ErrorMeterModFailed, Code: 11},
		"OFPTFFC_EPERM":                     {Type: ErrorTableFeaturesFailed, Code: 5},
		"OFPBFC_BUNDLE_IN_PROGRESS":         {Type: ErrorExperimenter, Experimenter: ExperimenterONF, Code: 2315},
		"OFPBIC_DUP_INST":                   {Type: ErrorExperimenter, Experimenter: ExperimenterONF, Code: 2600},
		"NXBRC_MUST_BE_ZERO":                {Type: ErrorExperimenter, Experimenter: ExperimenterNicira, Code: 4},
		"OFPET_EXPERIMENTER(0x00123456,77)": {Type: ErrorExperimenter, Experimenter: 0x123456, Code: 77},
		"OFPET_GROUP_MOD_FAILED(99)":        {Type: ErrorGroupModFailed, Code: 99},
		"OFPET_55(1)":                       {Type: 55, Code: 1},
	} {
		require.Equal(t, want, e.Name())
		require.Equal(t, "switch error "+want, e.Error())
	}
}

// TestErrorNamesOfOpenVSwitch has Open vSwitch print every error of the table: the
// names are the same but for those it calls otherwise.
func TestErrorNamesOfOpenVSwitch(t *testing.T) {
	others := map[string]string{
		"OFPBRC_BAD_MULTIPART":    "OFPBRC_BAD_STAT",
		"OFPBRC_BAD_EXPERIMENTER": "OFPBRC_BAD_VENDOR",
		"OFPBRC_BAD_EXP_TYPE":     "OFPBRC_BAD_SUBTYPE",
		"OFPBRC_IS_SLAVE":         "OFPBRC_IS_SECONDARY",
		"OFPBAC_BAD_EXPERIMENTER": "OFPBAC_BAD_VENDOR",
		"OFPBAC_BAD_EXP_TYPE":     "OFPBAC_BAD_VENDOR_TYPE",
		"OFPTFFC_BAD_TYPE":        "OFPBPC_BAD_TYPE",
		"OFPTFFC_BAD_LEN":         "OFPBPC_BAD_LEN",
		"OFPTFFC_BAD_ARGUMENT":    "OFPBPC_BAD_VALUE",
	}
	var list []*Error
	for typ, names := range errorTable {
		for code := range names.Codes {
			list = append(list, &Error{Type: ErrorType(typ), Code: uint16(code)})
		}
	}
	for i := range bundleErrors {
		list = append(list, &Error{Type: ErrorExperimenter, Experimenter: ExperimenterONF, Code: uint16(bundleControlType + i)})
	}
	for e := range experimenterErrors {
		list = append(list, &Error{Type: ErrorExperimenter, Experimenter: e.Experimenter, Code: e.Code})
	}
	var frames [][]byte
	for _, e := range list {
		if e.Type != ErrorHelloFailed { // its data is text, the others' a message
			e.Data = Append(nil, 1, &BarrierRequest{})
		}
		frames = append(frames, Append(nil, 1, e))
	}
	for i, text := range ofpPrint(t, frames...) {
		want := list[i].Name()
		if other, ok := others[want]; ok {
			want = other
		}
		require.Contains(t, text, "(xid=0x1): "+want+"\n")
	}
}

func TestNames(t *testing.T) {
	require.Equal(t, "flow_mod", TypeFlowMod.String())
	require.Equal(t, "type_99", MessageType(99).String())
	require.Equal(t, "group_desc", MultipartGroupDesc.String())
	require.Equal(t, "experimenter", MultipartExperimenter.String())
	require.Equal(t, "multipart_99", MultipartType(99).String())
	require.Equal(t, "master", RoleMaster.String())
	require.Equal(t, "ff", GroupTypeFastFailover.String())
	require.Equal(t, "commit_reply", BundleCommitReply.String())
	require.Equal(t, "CONTROLLER", PortController.String())
	require.Equal(t, "4294967040", PortMax.String())
}

func TestPortUp(t *testing.T) {
	require.True(t, PortDesc{State: PortStateLive}.Up())
	require.False(t, PortDesc{Config: PortConfigDown}.Up())
	require.False(t, PortDesc{State: PortStateLinkDown}.Up())
}

// TestActionTextIsOpenVSwitchs compares how actions are written with how Open
// vSwitch writes them, where both use the same names.
func TestActionTextIsOpenVSwitchs(t *testing.T) {
	tcp := NewMatch(EthType(EthTypeIPv4), IPProto(ProtoTCP))
	for _, actions := range [][]Action{
		{OutputPort(1), OutputPort(2)},
		{ToController()},
		{Group{ID: 7}},
		{SetField{Field: EthDst(mac1)}, SetField{Field: IPv4Dst(prefix("10.0.0.1/32"))}, SetField{Field: TCPDst(80)}},
		{DecNWTTL{}, SetNWTTL{TTL: 3}, SetQueue{Queue: 9}},
		{PushVLAN{EthType: EthTypeVLAN}},
		{Move{Src: FieldNXMEthSrc, Dst: FieldNXMEthDst, Bits: 48}, Move{Src: FieldNXMReg0, Dst: FieldNXMReg1, Bits: 1}},
		{Load{Dst: FieldNXMReg0, Offset: 3, Bits: 4, Value: 5}},
		{Multipath{Fields: HashSymmetricL4, Basis: 1, Algorithm: MultipathModulo, Links: 3, Dst: FieldNXMReg0, Bits: 32}},
		{Resubmit{InPort: PortInPort, Table: 3}, Resubmit{InPort: 4, Table: 5}},
		{Controller{Meter: 9}},
		{OutputReg{Src: FieldNXMReg2, Bits: 16}},
		{CT{Table: CTNoTable}},
		{CT{Flags: CTCommit, Zone: 9, Table: 3, Actions: []Action{NAT{}}}},
		{CT{Flags: CTCommit, Table: CTNoTable, Actions: []Action{NAT{Flags: NATSrc, IPMin: prefix("10.0.0.1/32").Addr(), PortMin: 1024, PortMax: 2048}}}},
		{CT{Flags: CTCommit, Table: CTNoTable, Actions: []Action{NAT{Flags: NATDst, IPMin: prefix("10.0.0.1/32").Addr(), IPMax: prefix("10.0.0.3/32").Addr()}}}},
		{CT{Flags: CTCommit, Table: CTNoTable, Actions: []Action{NAT{Flags: NATSrc | NATPersistent | NATHash, IPMin: prefix("10.0.0.1/32").Addr()}}}},
	} {
		text := ofpPrint(t, Append(nil, 1, flowMod(tcp, ApplyActions{Actions: actions})))[0]
		text = strings.ReplaceAll(text, "->ip_dst", "->ipv4_dst") // its own name for it
		require.Contains(t, text, "actions="+FormatActions(actions)+"\n")
	}
	require.Equal(t, "drop", FormatActions(nil))
	require.Equal(t, "output:NORMAL", OutputPort(PortNormal).String())
	require.Equal(t, "action(0xfff,01)", RawAction{Type: 0xfff, Body: []byte{1}}.String())
	require.Equal(t, "write_metadata:0x1", WriteMetadata{Metadata: 1, Mask: 1<<64 - 1}.String())
	require.Equal(t, "instruction(0xffff,01)", RawInstruction{Type: 0xffff, Body: []byte{1}}.String())
}

// TestRandomMessages: parse into a fresh value what was appended.
func TestRandomMessages(t *testing.T) {
	g := newGenerator(3)
	for i := range 100 * kinds {
		m := g.message(i % kinds)
		h, got, err := Parse(Append(nil, uint32(i), m))
		require.NoError(t, err, "%#v", m)
		require.Equal(t, uint32(i), h.XID)
		require.Equal(t, m, got)
		if r, ok := got.(*MultipartReply); ok {
			again, ok := rewritten(r)
			require.True(t, ok, "%v", r.Type)
			require.Equal(t, r.Body, again)
		}
	}
}

// TestParsedDataIsClipped: a caller that appends to what was parsed does not write
// into the frame behind it.
func TestParsedDataIsClipped(t *testing.T) {
	frame := Append(nil, 1, &PacketOut{Actions: []Action{RawAction{Type: 99, Body: []byte{1, 2, 3, 4}}}, Data: []byte{5, 6}})
	_, m, err := Parse(frame)
	require.NoError(t, err)
	raw := m.(*PacketOut).Actions[0].(RawAction)
	_ = append(raw.Body, 0xee, 0xee)
	require.Equal(t, []byte{5, 6}, m.(*PacketOut).Data)

	_, m, err = Parse(Append(nil, 1, flowMod(NewMatch(InPort(1)), GotoTable{Table: 1})))
	require.NoError(t, err)
	_ = append(m.(*FlowMod).Match, 0xee)
	require.Equal(t, []Instruction{GotoTable{Table: 1}}, m.(*FlowMod).Instructions)
}

// TestTooLong: a message over 64 KiB has a length that every receiver refuses.
func TestTooLong(t *testing.T) {
	m := &EchoRequest{Data: make([]byte, MaxMessageLen-HeaderLen)}
	frame := Append(nil, 1, m)
	require.Len(t, frame, MaxMessageLen)
	_, got, err := Parse(frame)
	require.NoError(t, err)
	require.Equal(t, m, got)

	m.Data = append(m.Data, 0)
	require.Equal(t, MaxMessageLen+1, Len(m))
	_, err = ParseHeader(Append(nil, 1, m))
	require.ErrorIs(t, err, ErrLength)
}

func TestParsePacketInRefusesOthers(t *testing.T) {
	var in PacketIn
	require.ErrorIs(t, ParsePacketIn(Append(nil, 1, &BarrierReply{}), &in), ErrValue)
	require.Zero(t, in)
	require.ErrorIs(t, ParsePacketIn([]byte{4, 10, 0, 8, 0, 0, 0, 1}, &in), ErrTruncated)
	require.ErrorIs(t, ParsePacketIn(nil, &in), ErrTruncated)
}

// TestHelloOfOtherVersions: before negotiation HELLO and ERROR may be of any version.
func TestHelloOfOtherVersions(t *testing.T) {
	h, m, err := Parse([]byte{1, 0, 0, 12, 0, 0, 0, 1, 0xde, 0xad, 0xbe, 0xef})
	require.NoError(t, err)
	require.EqualValues(t, 1, h.Version)
	require.Equal(t, &Hello{}, m)
	h, m, err = Parse([]byte{6, 0, 0, 16, 0, 0, 0, 1, 0, 1, 0, 8, 0, 0, 0, 0x52})
	require.NoError(t, err)
	require.EqualValues(t, 6, h.Version)
	require.Equal(t, &Hello{Versions: []uint8{1, 4, 6}}, m)
	_, m, err = Parse([]byte{1, 1, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0})
	require.NoError(t, err)
	require.Equal(t, "OFPHFC_INCOMPATIBLE", m.(*Error).Name())
	h, _, err = Parse([]byte{5, 20, 0, 8, 0, 0, 0, 1})
	require.ErrorIs(t, err, ErrVersion)
	require.EqualValues(t, 5, h.Version)
}
