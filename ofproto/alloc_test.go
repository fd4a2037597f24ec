package ofproto

import (
	"bytes"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// vipFlow is a flow-mod of the size that the balancer sends.
func vipFlow() *FlowMod {
	for _, g := range goldens {
		if g.name == "flow-mod of a VIP" {
			return g.msg.(*FlowMod)
		}
	}
	panic("no such golden message")
}

func vipPacketIn() []byte {
	return Append(nil, 1, &PacketIn{
		BufferID: NoBuffer, TotalLen: 64, Match: NewMatch(InPort(3)), Data: make([]byte, 64),
	})
}

func TestAppendAllocatesNothing(t *testing.T) {
	b := make([]byte, 0, MaxMessageLen)
	for _, g := range goldens {
		require.Zero(t, testing.AllocsPerRun(10, func() { b = Append(b[:0], 1, g.msg) }), g.name)
	}
}

func TestParsePacketInAllocatesNothing(t *testing.T) {
	frame := vipPacketIn()
	var (
		in   PacketIn
		port Port
	)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		if err := ParsePacketIn(frame, &in); err != nil {
			panic(err)
		}
		port, _ = in.InPort()
	}))
	require.EqualValues(t, 3, port)
	require.Len(t, in.Data, 64)
}

// TestFlowStatsAllocateNothing reads replies of 10 and of 500 flows with the same
// few allocations, those of the iterator.
func TestFlowStatsAllocateNothing(t *testing.T) {
	record := FlowStats{
		Cookie: 1, Match: vipFlow().Match, RawInstructions: AppendInstructions(nil, vipFlow().Instructions),
	}.AppendTo(nil)
	allocs := func(flows int) float64 {
		body := bytes.Repeat(record, flows)
		return testing.AllocsPerRun(20, func() {
			n := 0
			for f, err := range FlowStatsOf(body) {
				if err != nil || f.Cookie != 1 {
					panic(err)
				}
				n++
			}
			if n != flows {
				panic(n)
			}
		})
	}
	require.Equal(t, allocs(10), allocs(500))
	require.LessOrEqual(t, allocs(10), 4.0)
}

// TestParseAllocatesInProportion feeds the messages that make the most of their
// bytes, and some that announce more than they bring: reading must not take more
// than a small multiple of their size.
func TestParseAllocatesInProportion(t *testing.T) {
	// fill repeats one behind head, and writes the length of what stands from inner on
	// to its 16 bits at lenAt.
	fill := func(head string, one []byte, inner, lenAt int) []byte {
		frame := unhex(t, head)
		for len(frame)+len(one) <= MaxMessageLen-7 {
			frame = append(frame, one...)
		}
		be.PutUint16(frame[2:], uint16(len(frame)))
		if inner > 0 {
			be.PutUint16(frame[inner+lenAt:], uint16(len(frame)-inner))
		}
		return frame
	}
	action := []byte{0, actPopVLAN, 0, 8, 0, 0, 0, 0}
	unknown := []byte{0x0f, 0xff, 0, 8, 0, 0, 0, 0}
	setField := AppendActions(nil, []Action{SetField{Field: IPProto(6)}})
	for name, frame := range map[string][]byte{
		"hello":            fill("04 00 0000 00000001", []byte{0, 9, 0, 4, 0, 0, 0, 0}, 0, 0),
		"hello bitmaps":    fill("04 00 0000 00000001", []byte{0, 1, 0, 4, 0, 0, 0, 0}, 0, 0),
		"instructions":     fill("04 0e 0000 00000001"+flowModHead+"0001 0004 00000000", []byte{0, 5, 0, 8, 0, 0, 0, 0}, 0, 0),
		"empty lists":      fill("04 0e 0000 00000001"+flowModHead+"0001 0004 00000000", []byte{0, 4, 0, 8, 0, 0, 0, 0}, 0, 0),
		"raw instructions": fill("04 0e 0000 00000001"+flowModHead+"0001 0004 00000000", []byte{0, 99, 0, 8, 0, 0, 0, 0}, 0, 0),
		"actions":          fill("04 0e 0000 00000001"+flowModHead+"0001 0004 00000000 0004 0000 00000000", action, 56, 2),
		"raw actions":      fill("04 0e 0000 00000001"+flowModHead+"0001 0004 00000000 0004 0000 00000000", unknown, 56, 2),
		"set-fields":       fill("04 0e 0000 00000001"+flowModHead+"0001 0004 00000000 0004 0000 00000000", setField, 56, 2),
		"buckets":          fill("04 0f 0000 00000001 0000 00 00 00000001", appendBuckets(nil, []Bucket{{}}), 0, 0),
		"bands":            fill("04 1d 0000 00000001 0000 0000 00000001", appendBands(nil, []MeterBand{{Type: BandDrop}}), 0, 0),
		"tables":           fill("04 12 0000 00000001 000c 0000 00000000", TableFeatures{}.AppendTo(nil), 0, 0),
		"table properties": fill("04 12 0000 00000001 000c 0000 00000000"+"0000"+string(bytes.Repeat([]byte("00"), 62)), []byte{0, 0x20, 0, 4, 0, 0, 0, 0}, 16, 0),
		"length only":      {4, 14, 0xff, 0xff, 0, 0, 0, 1},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		const rounds = 4
		for range rounds {
			_, _, err := Parse(frame)
			if name != "length only" {
				require.NoError(t, err, name)
			}
		}
		runtime.ReadMemStats(&after)
		require.LessOrEqual(t, (after.TotalAlloc-before.TotalAlloc)/rounds, uint64(24*len(frame)+1024), name)
	}
}

func BenchmarkAppendFlowMod(b *testing.B) {
	m, buf := vipFlow(), make([]byte, 0, 4096)
	b.ReportAllocs()
	for b.Loop() {
		buf = Append(buf[:0], 1, m)
	}
}

func BenchmarkParsePacketIn(b *testing.B) {
	frame := vipPacketIn()
	var in PacketIn
	b.ReportAllocs()
	for b.Loop() {
		if err := ParsePacketIn(frame, &in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseFlowMod(b *testing.B) {
	frame := Append(nil, 1, vipFlow())
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Parse(frame); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFlowStats(b *testing.B) {
	body := bytes.Repeat(FlowStats{
		Match: vipFlow().Match, RawInstructions: AppendInstructions(nil, vipFlow().Instructions),
	}.AppendTo(nil), 400)
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range FlowStatsOf(body) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}

func BenchmarkAppendSelectGroup(b *testing.B) {
	m := &GroupMod{Type: GroupTypeSelect, Group: 1}
	for i := range 256 {
		m.Buckets = append(m.Buckets, Bucket{Weight: 1, WatchPort: PortAny, WatchGroup: GroupID(i), Actions: []Action{Group{ID: GroupID(i)}}})
	}
	buf := make([]byte, 0, MaxMessageLen)
	b.ReportAllocs()
	for b.Loop() {
		buf = Append(buf[:0], 1, m)
	}
}
