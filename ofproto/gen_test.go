package ofproto

import (
	"math/rand/v2"
	"net/netip"
)

// generator makes random messages that a well-behaved program could send.
type generator struct{ *rand.Rand }

func newGenerator(seed uint64) generator { return generator{rand.New(rand.NewPCG(seed, 1))} }

func (g generator) bytes(n int) []byte {
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(g.Uint32())
	}
	return b
}

func (g generator) u8() uint8   { return uint8(g.Uint32()) }
func (g generator) u16() uint16 { return uint16(g.Uint32()) }

func (g generator) mac() MAC { return MAC(g.bytes(6)) }

func (g generator) name(n int) string {
	b := make([]byte, g.IntN(n+1))
	for i := range b {
		b[i] = 'a' + byte(g.IntN(26))
	}
	return string(b)
}

func list[T any](g generator, n int, one func() T) []T {
	var l []T
	for range g.IntN(n + 1) {
		l = append(l, one())
	}
	return l
}

// field is a random field of the table, of the specification's class unless any.
func (g generator) field(any, mask bool) Field {
	info := fields[g.IntN(40)]
	if any {
		info = fields[g.IntN(len(fields))]
	}
	f := Field{Type: info.Type, Value: g.bytes(int(info.Len))}
	if mask && g.IntN(3) == 0 {
		f.Mask = g.bytes(int(info.Len))
	}
	return f
}

func (g generator) match() Match {
	return NewMatch(list(g, 6, func() Field { return g.field(true, true) })...)
}

func (g generator) action() Action {
	switch g.IntN(16) {
	case 0:
		return Output{Port: Port(g.Uint32()), MaxLen: g.u16()}
	case 1:
		return Group{ID: GroupID(g.Uint32())}
	case 2:
		return SetField{Field: g.field(true, false)}
	case 3:
		return PushVLAN{EthType: g.u16()}
	case 4:
		return PopVLAN{}
	case 5:
		return PushMPLS{EthType: g.u16()}
	case 6:
		return PopMPLS{EthType: g.u16()}
	case 7:
		return PushPBB{EthType: g.u16()}
	case 8:
		return SetQueue{Queue: g.Uint32()}
	case 9:
		return SetMPLSTTL{TTL: g.u8()}
	case 10:
		return DecMPLSTTL{}
	case 11:
		return SetNWTTL{TTL: g.u8()}
	case 12:
		return DecNWTTL{}
	case 13:
		return CopyTTLOut{}
	case 14:
		return CopyTTLIn{}
	default:
		return OutputPort(Port(g.Uint32()))
	}
}

func (g generator) fieldType() FieldType { return fields[g.IntN(len(fields))].Type }

// extension is an action that the specification has not, or that the other
// implementation has not.
func (g generator) extension() Action {
	switch g.IntN(7) {
	case 0:
		return Move{Src: g.fieldType(), Dst: g.fieldType(), SrcOffset: g.u16(), DstOffset: g.u16(), Bits: g.u16()}
	case 1:
		return Load{Dst: g.fieldType(), Offset: g.u16() & 0x3ff, Bits: 1 + g.u16()&0x3f, Value: g.Uint64()}
	case 2:
		return Multipath{
			Fields: g.u16(), Basis: g.u16(), Algorithm: g.u16(), Links: 1 + uint32(g.u16()), Arg: g.Uint32(),
			Dst: g.fieldType(), Offset: g.u16() & 0x3ff, Bits: 1 + g.u16()&0x3f,
		}
	case 3:
		switch g.IntN(3) {
		case 0:
			return Controller{Meter: g.Uint32()}
		case 1:
			return OutputReg{Src: g.fieldType(), Offset: g.u16() & 0x3ff, Bits: 1 + g.u16()&0x3f}
		}
		return Resubmit{InPort: PortInPort, Table: Table(g.u8())}
	case 4:
		ct := CT{Flags: g.u16(), Zone: g.u16(), Table: Table(g.u8()), ALG: g.u16(), Actions: list(g, 3, g.action)}
		if g.IntN(2) == 0 {
			ct.Zone, ct.ZoneField, ct.ZoneOffset, ct.ZoneBits = 0, g.fieldType(), g.u16()&0x3ff, 1+g.u16()&0x3f
		}
		nat := NAT{Flags: g.u16(), PortMin: g.u16(), PortMax: g.u16()}
		switch g.IntN(3) {
		case 0:
			nat.IPMin, nat.IPMax = netip.AddrFrom4([4]byte(g.bytes(4))), netip.AddrFrom4([4]byte(g.bytes(4)))
		case 1:
			nat.IPMin = netip.AddrFrom16([16]byte(g.bytes(16)))
		}
		ct.Actions = append(ct.Actions, nat)
		return ct
	case 5:
		return PopPBB{}
	default:
		return RawAction{Type: 0xffff, Body: append([]byte{0, 1, 2, 3}, g.bytes(8*g.IntN(4))...)}
	}
}

func (g generator) actions() []Action {
	return list(g, 5, func() Action {
		if g.IntN(4) == 0 {
			return g.extension()
		}
		return g.action()
	})
}

func (g generator) instruction() Instruction {
	switch g.IntN(7) {
	case 0:
		return GotoTable{Table: Table(g.u8())}
	case 1:
		return WriteMetadata{Metadata: g.Uint64(), Mask: g.Uint64()}
	case 2:
		return WriteActions{Actions: g.actions()}
	case 3:
		return ApplyActions{Actions: g.actions()}
	case 4:
		return ClearActions{}
	case 5:
		return RawInstruction{Type: 0xffff, Body: append([]byte{0, 1, 2, 3}, g.bytes(8*g.IntN(4))...)}
	default:
		return Meter{ID: g.Uint32()}
	}
}

func (g generator) bucket() Bucket {
	return Bucket{Weight: g.u16(), WatchPort: Port(g.Uint32()), WatchGroup: GroupID(g.Uint32()), Actions: g.actions()}
}

func (g generator) band() MeterBand {
	switch b := (MeterBand{Rate: g.Uint32(), Burst: g.Uint32()}); g.IntN(3) {
	case 0:
		b.Type = BandDrop
		return b
	case 1:
		b.Type, b.PrecLevel = BandDSCPRemark, g.u8()
		return b
	default:
		b.Type, b.Data = BandExperimenter, g.bytes(4)
		return b
	}
}

func (g generator) portDesc() PortDesc {
	return PortDesc{
		Port: Port(g.Uint32()), HWAddr: g.mac(), Name: g.name(15), Config: g.Uint32(), State: g.Uint32(), Curr: g.Uint32(),
		Advertised: g.Uint32(), Supported: g.Uint32(), Peer: g.Uint32(), CurrSpeed: g.Uint32(), MaxSpeed: g.Uint32(),
	}
}

func (g generator) counter() Counter { return Counter{Packets: g.Uint64(), Bytes: g.Uint64()} }

// reply is a multipart reply with its records.
func (g generator) reply() *MultipartReply {
	m := &MultipartReply{Flags: uint16(g.IntN(2))}
	several := func(one func()) {
		for range 1 + g.IntN(3) {
			one()
		}
	}
	switch m.Type = MultipartType(g.IntN(14)); m.Type {
	case MultipartDesc:
		m.Body = Desc{
			Manufacturer: g.name(255), Hardware: g.name(255), Software: g.name(255), Serial: g.name(31), Datapath: g.name(255),
		}.AppendTo(nil)
	case MultipartFlow:
		several(func() {
			m.Body = FlowStats{
				Table: Table(g.u8()), DurationSec: g.Uint32(), DurationNsec: g.Uint32(), Priority: g.u16(), IdleTimeout: g.u16(),
				HardTimeout: g.u16(), Flags: g.u16(), Cookie: g.Uint64(), Packets: g.Uint64(), Bytes: g.Uint64(), Match: g.match(),
				RawInstructions: AppendInstructions(nil, list(g, 3, g.instruction)),
			}.AppendTo(m.Body)
		})
	case MultipartAggregate:
		m.Body = AggregateStats{Packets: g.Uint64(), Bytes: g.Uint64(), Flows: g.Uint32()}.AppendTo(nil)
	case MultipartTable:
		several(func() {
			m.Body = TableStats{Table: Table(g.u8()), Active: g.Uint32(), Lookups: g.Uint64(), Matched: g.Uint64()}.AppendTo(m.Body)
		})
	case MultipartPortStats:
		several(func() {
			p := PortStats{Port: Port(g.Uint32()), DurationSec: g.Uint32(), DurationNsec: g.Uint32()}
			for _, c := range p.counters() {
				*c = g.Uint64()
			}
			m.Body = p.AppendTo(m.Body)
		})
	case MultipartQueue:
		several(func() {
			m.Body = QueueStats{
				Port: Port(g.Uint32()), Queue: g.Uint32(), TxBytes: g.Uint64(), TxPackets: g.Uint64(), TxDropped: g.Uint64(),
				DurationSec: g.Uint32(), DurationNsec: g.Uint32(),
			}.AppendTo(m.Body)
		})
	case MultipartGroup:
		several(func() {
			m.Body = GroupStats{
				Group: GroupID(g.Uint32()), RefCount: g.Uint32(), Packets: g.Uint64(), Bytes: g.Uint64(),
				DurationSec: g.Uint32(), DurationNsec: g.Uint32(), Buckets: list(g, 4, g.counter),
			}.AppendTo(m.Body)
		})
	case MultipartGroupDesc:
		several(func() {
			m.Body = GroupDesc{Type: GroupType(g.u8()), Group: GroupID(g.Uint32()), Buckets: list(g, 4, g.bucket)}.AppendTo(m.Body)
		})
	case MultipartGroupFeatures:
		m.Body = GroupFeatures{
			Types: g.Uint32(), Capabilities: g.Uint32(), MaxGroups: [4]uint32{g.Uint32(), g.Uint32(), 3, 4}, Actions: [4]uint32{g.Uint32(), 2, 3, g.Uint32()},
		}.AppendTo(nil)
	case MultipartMeter:
		several(func() {
			m.Body = MeterStats{
				Meter: g.Uint32(), Flows: g.Uint32(), Packets: g.Uint64(), Bytes: g.Uint64(),
				DurationSec: g.Uint32(), DurationNsec: g.Uint32(), Bands: list(g, 3, g.counter),
			}.AppendTo(m.Body)
		})
	case MultipartMeterConfig:
		several(func() {
			m.Body = MeterConfig{Flags: g.u16(), Meter: g.Uint32(), Bands: list(g, 3, g.band)}.AppendTo(m.Body)
		})
	case MultipartMeterFeatures:
		m.Body = MeterFeatures{
			MaxMeter: g.Uint32(), BandTypes: g.Uint32(), Capabilities: g.Uint32(), MaxBands: g.u8(), MaxColor: g.u8(),
		}.AppendTo(nil)
	case MultipartTableFeatures:
		several(func() { m.Body = g.tableFeatures().AppendTo(m.Body) })
	case MultipartPortDesc:
		several(func() { m.Body = g.portDesc().AppendTo(m.Body) })
	}
	return m
}

func (g generator) tableFeatures() TableFeatures {
	t := TableFeatures{
		Table: Table(g.u8()), Name: g.name(31), MetadataMatch: g.Uint64(), MetadataWrite: g.Uint64(),
		Config: g.Uint32(), MaxEntries: g.Uint32(),
	}
	types := func() (b []byte) {
		for range g.IntN(5) {
			b = append(b, 0, byte(g.IntN(28)), 0, 4)
		}
		return b
	}
	oxms := func() (b []byte) {
		for range g.IntN(5) {
			b = be.AppendUint32(b, g.fieldType().header())
		}
		return b
	}
	for _, typ := range []TablePropertyType{0, 1, 4, 5, 6, 7} {
		t.Properties = append(t.Properties, TableProperty{Type: typ, Body: types()})
	}
	for _, typ := range []TablePropertyType{8, 10, 12, 13, 14, 15} {
		t.Properties = append(t.Properties, TableProperty{Type: typ, Body: oxms()})
	}
	return t
}

func (g generator) request() *MultipartRequest {
	m := &MultipartRequest{Type: MultipartType(g.IntN(14))}
	switch m.Type {
	case MultipartFlow, MultipartAggregate:
		m.Body = FlowStatsRequest{
			Table: Table(g.u8()), OutPort: Port(g.Uint32()), OutGroup: GroupID(g.Uint32()), Cookie: g.Uint64(), CookieMask: g.Uint64(), Match: g.match(),
		}
	case MultipartPortStats:
		m.Body = PortStatsRequest{Port: Port(g.Uint32())}
	case MultipartQueue:
		m.Body = QueueStatsRequest{Port: Port(g.Uint32()), Queue: g.Uint32()}
	case MultipartGroup:
		m.Body = GroupStatsRequest{Group: GroupID(g.Uint32())}
	case MultipartMeter, MultipartMeterConfig:
		m.Body = MeterStatsRequest{Meter: g.Uint32()}
	case MultipartTableFeatures:
		if tables := list(g, 2, g.tableFeatures); tables != nil {
			m.Body = TableFeaturesRequest{Tables: tables}
		}
	}
	return m
}

// kinds is the number of kinds of messages that message makes.
const kinds = 31

func (g generator) message(kind int) Message {
	switch kind {
	case 0:
		m := &Hello{}
		for v := range 256 {
			if g.IntN(20) == 0 {
				m.Versions = append(m.Versions, uint8(v))
			}
		}
		return m
	case 1:
		return &Error{Type: ErrorType(g.IntN(20)), Code: g.u16(), Data: g.bytes(g.IntN(64))}
	case 2:
		return &Error{Type: ErrorExperimenter, Code: g.u16(), Experimenter: g.Uint32(), Data: g.bytes(g.IntN(64))}
	case 3:
		return &EchoRequest{Data: g.bytes(g.IntN(9))}
	case 4:
		return &EchoReply{Data: g.bytes(g.IntN(9))}
	case 5:
		return &Experimenter{Experimenter: g.Uint32(), ExpType: g.Uint32(), Data: g.bytes(g.IntN(20))}
	case 6:
		return &FeaturesReply{
			DPID: DPID(g.Uint64()), Buffers: g.Uint32(), Tables: g.u8(), AuxiliaryID: g.u8(), Capabilities: g.Uint32(),
		}
	case 7:
		return &GetConfigReply{Flags: g.u16(), MissSendLen: g.u16()}
	case 8:
		return &SetConfig{Flags: g.u16(), MissSendLen: g.u16()}
	case 9, 10:
		return &PacketIn{
			BufferID: g.Uint32(), TotalLen: g.u16(), Reason: g.u8(), Table: Table(g.u8()), Cookie: g.Uint64(),
			Match: g.match(), Data: g.bytes(g.IntN(100)),
		}
	case 11:
		return &FlowRemoved{
			Cookie: g.Uint64(), Priority: g.u16(), Reason: g.u8(), Table: Table(g.u8()), DurationSec: g.Uint32(),
			DurationNsec: g.Uint32(), IdleTimeout: g.u16(), HardTimeout: g.u16(), Packets: g.Uint64(), Bytes: g.Uint64(), Match: g.match(),
		}
	case 12:
		return &PortStatus{Reason: g.u8(), Desc: g.portDesc()}
	case 13:
		return &PacketOut{BufferID: g.Uint32(), InPort: Port(g.Uint32()), Actions: g.actions(), Data: g.bytes(g.IntN(100))}
	case 14, 15, 16, 17:
		return &FlowMod{
			Cookie: g.Uint64(), CookieMask: g.Uint64(), Table: Table(g.u8()), Command: FlowCommand(g.u8()), IdleTimeout: g.u16(),
			HardTimeout: g.u16(), Priority: g.u16(), BufferID: g.Uint32(), OutPort: Port(g.Uint32()), OutGroup: GroupID(g.Uint32()),
			Flags: g.u16(), Match: g.match(), Instructions: list(g, 4, g.instruction),
		}
	case 18:
		return &GroupMod{Command: GroupCommand(g.u16()), Type: GroupType(g.u8()), Group: GroupID(g.Uint32()), Buckets: list(g, 4, g.bucket)}
	case 19:
		return &PortMod{Port: Port(g.Uint32()), HWAddr: g.mac(), Config: g.Uint32(), Mask: g.Uint32(), Advertise: g.Uint32()}
	case 20:
		return &TableMod{Table: Table(g.u8()), Config: g.Uint32()}
	case 21:
		return &MeterMod{Command: MeterCommand(g.u16()), Flags: g.u16(), Meter: g.Uint32(), Bands: list(g, 3, g.band)}
	case 22:
		return &RoleRequest{Role: Role(g.Uint32()), GenerationID: g.Uint64()}
	case 23:
		return &RoleReply{Role: Role(g.Uint32()), GenerationID: g.Uint64()}
	case 24:
		return &GetAsyncReply{PacketIn: [2]uint32{g.Uint32(), g.Uint32()}, FlowRemoved: [2]uint32{g.Uint32(), 1}}
	case 25:
		return &SetAsync{PacketIn: [2]uint32{g.Uint32(), g.Uint32()}, PortStatus: [2]uint32{1, g.Uint32()}}
	case 26, 27:
		return g.request()
	case 28:
		return g.reply()
	case 29:
		return &BundleControl{Bundle: g.Uint32(), Type: BundleControlType(g.u16()), Flags: g.u16()}
	default:
		return &BundleAdd{Bundle: g.Uint32(), Flags: g.u16(), XID: g.Uint32(), Message: g.message(14 + g.IntN(8))}
	}
}
