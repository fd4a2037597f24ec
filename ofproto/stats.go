package ofproto

import "iter"

// The readers of this file take the body of a MultipartReply. Those of many
// records yield one at a time and stop at the first error, which they yield with
// a zero record. Records alias the body. Each record has AppendTo, the way back.

// records yields the records of b, each of the length that size finds, read by parse.
func records[T any](op string, b []byte, size func([]byte) (int, error), parse func([]byte) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for off := 0; off < len(b); {
			n, err := size(b[off:])
			var v T
			if err == nil {
				v, err = parse(b[off : off+n])
			}
			if err != nil {
				var zero T
				yield(zero, within(op, off, err))
				return
			}
			if !yield(v, nil) {
				return
			}
			off += n
		}
	}
}

// fixed is the size of records that all have n bytes.
func fixed(n int) func([]byte) (int, error) {
	return func(b []byte) (int, error) { return n, atLeast("record", b, n) }
}

// sized is the size of records with a length of at least min in the 16 bits at lenAt.
func sized(lenAt, min int) func([]byte) (int, error) {
	return func(b []byte) (int, error) {
		if err := atLeast("record", b, min); err != nil {
			return 0, err
		}
		n := int(be.Uint16(b[lenAt:]))
		_, err := cut("record", b, n, min, lenAt)
		if err == nil && n%8 != 0 {
			err = fail("record", lenAt, ErrLength)
		}
		return n, err
	}
}

// Desc describes a switch (§7.3.5.1).
type Desc struct {
	Manufacturer, Hardware, Software string // at most 256 bytes
	Serial                           string // at most 32 bytes
	Datapath                         string // at most 256 bytes
}

// ParseDesc reads the body of a MultipartDesc reply.
func ParseDesc(b []byte) (Desc, error) {
	if err := exactly("desc", b, 1056); err != nil {
		return Desc{}, err
	}
	return Desc{
		Manufacturer: cString(b[:256]), Hardware: cString(b[256:512]), Software: cString(b[512:768]),
		Serial: cString(b[768:800]), Datapath: cString(b[800:1056]),
	}, nil
}

// AppendTo appends the body of a reply.
func (d Desc) AppendTo(b []byte) []byte {
	b = appendCString(b, d.Manufacturer, 256)
	b = appendCString(b, d.Hardware, 256)
	b = appendCString(b, d.Software, 256)
	b = appendCString(b, d.Serial, 32)
	return appendCString(b, d.Datapath, 256)
}

// FlowStats is a flow and its counters (§7.3.5.2).
type FlowStats struct {
	Table           Table
	DurationSec     uint32 // since the flow was added
	DurationNsec    uint32 // beyond DurationSec
	Priority        uint16
	IdleTimeout     uint16 // seconds
	HardTimeout     uint16 // seconds
	Flags           uint16 // Flag… bits
	Cookie          uint64
	Packets         uint64 // all ones where not counted
	Bytes           uint64 // all ones where not counted
	Match           Match
	RawInstructions []byte // read by Instructions
}

// Instructions reads the instructions of the flow.
func (f FlowStats) Instructions() ([]Instruction, error) { return parseInstructions(f.RawInstructions) }

const flowStatsLen = 48 // before the match

// FlowStatsOf reads the body of a MultipartFlow reply. It allocates nothing for a record.
func FlowStatsOf(b []byte) iter.Seq2[FlowStats, error] {
	return records("flow stats", b, sized(0, flowStatsLen+8), parseFlowStats)
}

func parseFlowStats(b []byte) (FlowStats, error) {
	match, n, err := parseMatch(b[flowStatsLen:])
	if err != nil {
		return FlowStats{}, within("flow", flowStatsLen, err)
	}
	return FlowStats{
		Table: Table(b[2]), DurationSec: be.Uint32(b[4:]), DurationNsec: be.Uint32(b[8:]),
		Priority: be.Uint16(b[12:]), IdleTimeout: be.Uint16(b[14:]), HardTimeout: be.Uint16(b[16:]),
		Flags: be.Uint16(b[18:]), Cookie: be.Uint64(b[24:]), Packets: be.Uint64(b[32:]), Bytes: be.Uint64(b[40:]),
		Match: match, RawInstructions: clip(b[flowStatsLen+n:]),
	}, nil
}

// AppendTo appends the record.
func (f FlowStats) AppendTo(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, byte(f.Table), 0)
	b = be.AppendUint32(b, f.DurationSec)
	b = be.AppendUint32(b, f.DurationNsec)
	b = be.AppendUint16(b, f.Priority)
	b = be.AppendUint16(b, f.IdleTimeout)
	b = be.AppendUint16(b, f.HardTimeout)
	b = be.AppendUint16(b, f.Flags)
	b = pad(b, 4)
	b = be.AppendUint64(b, f.Cookie)
	b = be.AppendUint64(b, f.Packets)
	b = be.AppendUint64(b, f.Bytes)
	b = appendMatch(b, f.Match)
	b = append(b, f.RawInstructions...)
	return setLen(b, start, 0)
}

// AggregateStats sums up flows (§7.3.5.3).
type AggregateStats struct {
	Packets, Bytes uint64
	Flows          uint32
}

// ParseAggregateStats reads the body of a MultipartAggregate reply.
func ParseAggregateStats(b []byte) (AggregateStats, error) {
	if err := exactly("aggregate stats", b, 24); err != nil {
		return AggregateStats{}, err
	}
	return AggregateStats{Packets: be.Uint64(b), Bytes: be.Uint64(b[8:]), Flows: be.Uint32(b[16:])}, nil
}

// AppendTo appends the body of a reply.
func (a AggregateStats) AppendTo(b []byte) []byte {
	b = be.AppendUint64(b, a.Packets)
	b = be.AppendUint64(b, a.Bytes)
	b = be.AppendUint32(b, a.Flows)
	return pad(b, 4)
}

// TableStats are the counters of a table (§7.3.5.4).
type TableStats struct {
	Table            Table
	Active           uint32 // flows in it
	Lookups, Matched uint64 // packets
}

// TableStatsOf reads the body of a MultipartTable reply.
func TableStatsOf(b []byte) iter.Seq2[TableStats, error] {
	return records("table stats", b, fixed(24), func(b []byte) (TableStats, error) {
		return TableStats{
			Table: Table(b[0]), Active: be.Uint32(b[4:]), Lookups: be.Uint64(b[8:]), Matched: be.Uint64(b[16:]),
		}, nil
	})
}

// AppendTo appends the record.
func (t TableStats) AppendTo(b []byte) []byte {
	b = append(b, byte(t.Table), 0, 0, 0)
	b = be.AppendUint32(b, t.Active)
	b = be.AppendUint64(b, t.Lookups)
	return be.AppendUint64(b, t.Matched)
}

// PortStats are the counters of a port (§7.3.5.6); all ones where not counted.
type PortStats struct {
	Port                                   Port
	RxPackets, TxPackets                   uint64
	RxBytes, TxBytes                       uint64
	RxDropped, TxDropped                   uint64
	RxErrors, TxErrors                     uint64
	RxFrameErr, RxOverErr, RxCRCErr, Colls uint64
	DurationSec, DurationNsec              uint32 // since the port was there
}

// PortStatsOf reads the body of a MultipartPortStats reply.
func PortStatsOf(b []byte) iter.Seq2[PortStats, error] {
	return records("port stats", b, fixed(112), func(b []byte) (PortStats, error) {
		p := PortStats{Port: Port(be.Uint32(b)), DurationSec: be.Uint32(b[104:]), DurationNsec: be.Uint32(b[108:])}
		for i, c := range p.counters() {
			*c = be.Uint64(b[8+8*i:])
		}
		return p, nil
	})
}

// counters are the 64-bit counters in the order of the wire.
func (p *PortStats) counters() [12]*uint64 {
	return [...]*uint64{
		&p.RxPackets, &p.TxPackets, &p.RxBytes, &p.TxBytes, &p.RxDropped, &p.TxDropped,
		&p.RxErrors, &p.TxErrors, &p.RxFrameErr, &p.RxOverErr, &p.RxCRCErr, &p.Colls,
	}
}

// AppendTo appends the record.
func (p PortStats) AppendTo(b []byte) []byte {
	b = be.AppendUint32(b, uint32(p.Port))
	b = pad(b, 4)
	for _, c := range p.counters() {
		b = be.AppendUint64(b, *c)
	}
	b = be.AppendUint32(b, p.DurationSec)
	return be.AppendUint32(b, p.DurationNsec)
}

// QueueStats are the counters of a queue (§7.3.5.8); all ones where not counted.
type QueueStats struct {
	Port                          Port
	Queue                         uint32
	TxBytes, TxPackets, TxDropped uint64
	DurationSec, DurationNsec     uint32 // since the queue was there
}

// QueueStatsOf reads the body of a MultipartQueue reply.
func QueueStatsOf(b []byte) iter.Seq2[QueueStats, error] {
	return records("queue stats", b, fixed(40), func(b []byte) (QueueStats, error) {
		return QueueStats{
			Port: Port(be.Uint32(b)), Queue: be.Uint32(b[4:]), TxBytes: be.Uint64(b[8:]), TxPackets: be.Uint64(b[16:]),
			TxDropped: be.Uint64(b[24:]), DurationSec: be.Uint32(b[32:]), DurationNsec: be.Uint32(b[36:]),
		}, nil
	})
}

// AppendTo appends the record.
func (q QueueStats) AppendTo(b []byte) []byte {
	b = be.AppendUint32(b, uint32(q.Port))
	b = be.AppendUint32(b, q.Queue)
	b = be.AppendUint64(b, q.TxBytes)
	b = be.AppendUint64(b, q.TxPackets)
	b = be.AppendUint64(b, q.TxDropped)
	b = be.AppendUint32(b, q.DurationSec)
	return be.AppendUint32(b, q.DurationNsec)
}

// Counter counts packets and bytes of a bucket or a meter band.
type Counter struct{ Packets, Bytes uint64 }

func appendCounters(b []byte, list []Counter) []byte {
	for _, c := range list {
		b = be.AppendUint64(b, c.Packets)
		b = be.AppendUint64(b, c.Bytes)
	}
	return b
}

func parseCounters(b []byte) ([]Counter, error) {
	if len(b)%16 != 0 {
		return nil, fail("counters", 0, ErrLength)
	}
	if len(b) == 0 {
		return nil, nil
	}
	list := make([]Counter, len(b)/16)
	for i := range list {
		list[i] = Counter{Packets: be.Uint64(b[16*i:]), Bytes: be.Uint64(b[16*i+8:])}
	}
	return list, nil
}

// BucketCounter counts what a bucket was chosen for.
type BucketCounter = Counter

// GroupStats are the counters of a group (§7.3.5.9).
type GroupStats struct {
	Group                     GroupID
	RefCount                  uint32 // flows and groups that lead to it
	Packets, Bytes            uint64
	DurationSec, DurationNsec uint32
	Buckets                   []BucketCounter // in the order of the group
}

const groupStatsLen = 40 // before the buckets

// GroupStatsOf reads the body of a MultipartGroup reply.
func GroupStatsOf(b []byte) iter.Seq2[GroupStats, error] {
	return records("group stats", b, sized(0, groupStatsLen), func(b []byte) (GroupStats, error) {
		buckets, err := parseCounters(b[groupStatsLen:])
		if err != nil {
			return GroupStats{}, within("group", groupStatsLen, err)
		}
		return GroupStats{
			Group: GroupID(be.Uint32(b[4:])), RefCount: be.Uint32(b[8:]), Packets: be.Uint64(b[16:]), Bytes: be.Uint64(b[24:]),
			DurationSec: be.Uint32(b[32:]), DurationNsec: be.Uint32(b[36:]), Buckets: buckets,
		}, nil
	})
}

// AppendTo appends the record.
func (g GroupStats) AppendTo(b []byte) []byte {
	start := len(b)
	b = pad(b, 4)
	b = be.AppendUint32(b, uint32(g.Group))
	b = be.AppendUint32(b, g.RefCount)
	b = pad(b, 4)
	b = be.AppendUint64(b, g.Packets)
	b = be.AppendUint64(b, g.Bytes)
	b = be.AppendUint32(b, g.DurationSec)
	b = be.AppendUint32(b, g.DurationNsec)
	b = appendCounters(b, g.Buckets)
	return setLen(b, start, 0)
}

// GroupDesc is a group as the switch has it (§7.3.5.10).
type GroupDesc struct {
	Type    GroupType
	Group   GroupID
	Buckets []Bucket
}

// GroupDescOf reads the body of a MultipartGroupDesc reply.
func GroupDescOf(b []byte) iter.Seq2[GroupDesc, error] {
	return records("group desc", b, sized(0, 8), func(b []byte) (GroupDesc, error) {
		buckets, err := parseBuckets(b[8:])
		if err != nil {
			return GroupDesc{}, within("group", 8, err)
		}
		return GroupDesc{Type: GroupType(b[2]), Group: GroupID(be.Uint32(b[4:])), Buckets: buckets}, nil
	})
}

// AppendTo appends the record.
func (g GroupDesc) AppendTo(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, byte(g.Type), 0)
	b = be.AppendUint32(b, uint32(g.Group))
	b = appendBuckets(b, g.Buckets)
	return setLen(b, start, 0)
}

// Capabilities of groups (§7.3.5.11, enum ofp_group_capabilities).
const (
	GroupCapSelectWeight   uint32 = 1 << 0
	GroupCapSelectLiveness uint32 = 1 << 1
	GroupCapChaining       uint32 = 1 << 2
	GroupCapChainingChecks uint32 = 1 << 3
)

// GroupFeatures says which groups a switch can have (§7.3.5.11). The arrays are
// indexed by GroupType.
type GroupFeatures struct {
	Types        uint32 // bit 1<<GroupType for each that it has
	Capabilities uint32 // GroupCap… bits
	MaxGroups    [4]uint32
	Actions      [4]uint32 // bit 1<<type for each action of the specification
}

// ParseGroupFeatures reads the body of a MultipartGroupFeatures reply.
func ParseGroupFeatures(b []byte) (GroupFeatures, error) {
	if err := exactly("group features", b, 40); err != nil {
		return GroupFeatures{}, err
	}
	g := GroupFeatures{Types: be.Uint32(b), Capabilities: be.Uint32(b[4:])}
	for i := range 4 {
		g.MaxGroups[i] = be.Uint32(b[8+4*i:])
		g.Actions[i] = be.Uint32(b[24+4*i:])
	}
	return g, nil
}

// AppendTo appends the body of a reply.
func (g GroupFeatures) AppendTo(b []byte) []byte {
	b = be.AppendUint32(b, g.Types)
	b = be.AppendUint32(b, g.Capabilities)
	for _, v := range g.MaxGroups {
		b = be.AppendUint32(b, v)
	}
	for _, v := range g.Actions {
		b = be.AppendUint32(b, v)
	}
	return b
}

// MeterStats are the counters of a meter (§7.3.5.12).
type MeterStats struct {
	Meter                     uint32
	Flows                     uint32 // that use it
	Packets, Bytes            uint64 // that came in
	DurationSec, DurationNsec uint32
	Bands                     []Counter // in the order of the meter
}

const meterStatsLen = 40 // before the bands

// MeterStatsOf reads the body of a MultipartMeter reply.
func MeterStatsOf(b []byte) iter.Seq2[MeterStats, error] {
	return records("meter stats", b, sized(4, meterStatsLen), func(b []byte) (MeterStats, error) {
		bands, err := parseCounters(b[meterStatsLen:])
		if err != nil {
			return MeterStats{}, within("meter", meterStatsLen, err)
		}
		return MeterStats{
			Meter: be.Uint32(b), Flows: be.Uint32(b[12:]), Packets: be.Uint64(b[16:]), Bytes: be.Uint64(b[24:]),
			DurationSec: be.Uint32(b[32:]), DurationNsec: be.Uint32(b[36:]), Bands: bands,
		}, nil
	})
}

// AppendTo appends the record.
func (m MeterStats) AppendTo(b []byte) []byte {
	start := len(b)
	b = be.AppendUint32(b, m.Meter)
	b = pad(b, 8)
	b = be.AppendUint32(b, m.Flows)
	b = be.AppendUint64(b, m.Packets)
	b = be.AppendUint64(b, m.Bytes)
	b = be.AppendUint32(b, m.DurationSec)
	b = be.AppendUint32(b, m.DurationNsec)
	b = appendCounters(b, m.Bands)
	return setLen(b, start, 4)
}

// MeterConfig is a meter as the switch has it (§7.3.5.13).
type MeterConfig struct {
	Flags uint16 // MeterFlag… bits
	Meter uint32
	Bands []MeterBand
}

// MeterConfigOf reads the body of a MultipartMeterConfig reply.
func MeterConfigOf(b []byte) iter.Seq2[MeterConfig, error] {
	return records("meter config", b, sized(0, 8), func(b []byte) (MeterConfig, error) {
		bands, err := parseBands(b[8:])
		if err != nil {
			return MeterConfig{}, within("meter", 8, err)
		}
		return MeterConfig{Flags: be.Uint16(b[2:]), Meter: be.Uint32(b[4:]), Bands: bands}, nil
	})
}

// AppendTo appends the record.
func (m MeterConfig) AppendTo(b []byte) []byte {
	start := len(b)
	b = pad(b, 2)
	b = be.AppendUint16(b, m.Flags)
	b = be.AppendUint32(b, m.Meter)
	b = appendBands(b, m.Bands)
	return setLen(b, start, 0)
}

// MeterFeatures says which meters a switch can have (§7.3.5.14).
type MeterFeatures struct {
	MaxMeter     uint32
	BandTypes    uint32 // bit 1<<MeterBandType for each that it has
	Capabilities uint32 // MeterFlag… bits
	MaxBands     uint8  // of a meter
	MaxColor     uint8
}

// ParseMeterFeatures reads the body of a MultipartMeterFeatures reply.
func ParseMeterFeatures(b []byte) (MeterFeatures, error) {
	if err := exactly("meter features", b, 16); err != nil {
		return MeterFeatures{}, err
	}
	return MeterFeatures{
		MaxMeter: be.Uint32(b), BandTypes: be.Uint32(b[4:]), Capabilities: be.Uint32(b[8:]), MaxBands: b[12], MaxColor: b[13],
	}, nil
}

// AppendTo appends the body of a reply.
func (m MeterFeatures) AppendTo(b []byte) []byte {
	b = be.AppendUint32(b, m.MaxMeter)
	b = be.AppendUint32(b, m.BandTypes)
	b = be.AppendUint32(b, m.Capabilities)
	return append(b, m.MaxBands, m.MaxColor, 0, 0)
}

// PortDescOf reads the body of a MultipartPortDesc reply.
func PortDescOf(b []byte) iter.Seq2[PortDesc, error] {
	return records("port desc", b, fixed(portLen), func(b []byte) (PortDesc, error) { return parsePort(b), nil })
}

// TablePropertyType is the kind of a table's property (§7.3.5.5.2). An odd type is
// the even one before it for the table-miss flow.
type TablePropertyType uint16

// Table property types.
const (
	PropInstructions      TablePropertyType = 0
	PropInstructionsMiss  TablePropertyType = 1
	PropNextTables        TablePropertyType = 2
	PropNextTablesMiss    TablePropertyType = 3
	PropWriteActions      TablePropertyType = 4
	PropWriteActionsMiss  TablePropertyType = 5
	PropApplyActions      TablePropertyType = 6
	PropApplyActionsMiss  TablePropertyType = 7
	PropMatch             TablePropertyType = 8
	PropWildcards         TablePropertyType = 10
	PropWriteSetField     TablePropertyType = 12
	PropWriteSetFieldMiss TablePropertyType = 13
	PropApplySetField     TablePropertyType = 14
	PropApplySetFieldMiss TablePropertyType = 15
	PropExperimenter      TablePropertyType = 0xfffe
	PropExperimenterMiss  TablePropertyType = 0xffff
)

// TableFeatures says what a table can do (§7.3.5.5.1).
type TableFeatures struct {
	Table         Table
	Name          string // at most 32 bytes
	MetadataMatch uint64 // bits that can be matched
	MetadataWrite uint64 // bits that can be written
	Config        uint32
	MaxEntries    uint32
	Properties    []TableProperty
}

// TableProperty is one list of what a table can do.
type TableProperty struct {
	Type TablePropertyType
	Body []byte // without type, length and padding
}

// Property finds a property by type.
func (t TableFeatures) Property(typ TablePropertyType) (TableProperty, bool) {
	for _, p := range t.Properties {
		if p.Type == typ {
			return p, true
		}
	}
	return TableProperty{}, false
}

// Tables is the list of a PropNextTables.
func (p TableProperty) Tables() []Table {
	list := make([]Table, len(p.Body))
	for i, t := range p.Body {
		list[i] = Table(t)
	}
	return list
}

// Types runs over the action types of a PropWriteActions or PropApplyActions, or
// the instruction types of a PropInstructions.
func (p TableProperty) Types() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for b := p.Body; len(b) >= 4; {
			n := int(be.Uint16(b[2:]))
			if n < 4 || n > len(b) || !yield(be.Uint16(b)) {
				return
			}
			b = b[n:]
		}
	}
}

// Fields runs over the fields of a PropMatch, PropWildcards or set-field property;
// maskable is true where the table can match bits of the field. Experimenters'
// fields are left out.
func (p TableProperty) Fields() iter.Seq2[FieldType, bool] {
	return func(yield func(t FieldType, maskable bool) bool) {
		for b := p.Body; len(b) >= 4; {
			h := be.Uint32(b)
			b = b[4:]
			if h>>16 == classExperimenter {
				b = b[min(4, len(b)):]
				continue
			}
			if !yield(FieldType(h&^0xffff|h>>9&0x7f), h&(1<<8) != 0) {
				return
			}
		}
	}
}

// check refuses a list with an element that does not fit.
func (p TableProperty) check() error {
	switch p.Type &^ 1 {
	case PropInstructions, PropWriteActions, PropApplyActions:
		_, err := count("property", p.Body, 2, 4, 1)
		return err
	case PropMatch, PropWildcards, PropWriteSetField, PropApplySetField:
		for off := 0; off < len(p.Body); off += 4 {
			if len(p.Body)-off < 4 {
				return fail("property", off, ErrTruncated)
			}
			if be.Uint16(p.Body[off:]) != classExperimenter {
				continue
			}
			if off += 4; len(p.Body)-off < 4 {
				return fail("property", off, ErrTruncated)
			}
		}
	}
	return nil
}

const tableFeaturesLen = 64 // before the properties

// TableFeaturesOf reads the body of a MultipartTableFeatures reply.
func TableFeaturesOf(b []byte) iter.Seq2[TableFeatures, error] {
	return records("table features", b, sized(0, tableFeaturesLen), parseTableFeatures)
}

func parseTableFeatures(b []byte) (TableFeatures, error) {
	t := TableFeatures{
		Table: Table(b[2]), Name: cString(b[8:40]), MetadataMatch: be.Uint64(b[40:]), MetadataWrite: be.Uint64(b[48:]),
		Config: be.Uint32(b[56:]), MaxEntries: be.Uint32(b[60:]),
	}
	for off := tableFeaturesLen; off < len(b); {
		// The whole table is a multiple of 8, so a header of 4 is always there.
		p, err := cut("property", b[off:], int(be.Uint16(b[off+2:])), 4, 2)
		if err != nil {
			return TableFeatures{}, within("table", off, err)
		}
		prop := TableProperty{Type: TablePropertyType(be.Uint16(p)), Body: clip(p[4:])}
		if err := prop.check(); err != nil {
			return TableFeatures{}, within("table", off+4, err)
		}
		t.Properties = append(t.Properties, prop)
		off += roundUp8(len(p))
	}
	return t, nil
}

// AppendTo appends the record.
func (t TableFeatures) AppendTo(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 0, byte(t.Table))
	b = pad(b, 5)
	b = appendCString(b, t.Name, 32)
	b = be.AppendUint64(b, t.MetadataMatch)
	b = be.AppendUint64(b, t.MetadataWrite)
	b = be.AppendUint32(b, t.Config)
	b = be.AppendUint32(b, t.MaxEntries)
	for _, p := range t.Properties {
		prop := len(b)
		b = be.AppendUint16(b, uint16(p.Type))
		b = be.AppendUint16(b, uint16(4+len(p.Body)))
		b = append(b, p.Body...)
		b = pad8(b, prop)
	}
	return setLen(b, start, 0)
}
