package ofproto

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/test/allocation"
)

// seeds are the frames that fuzzing starts from: everything well-formed that the
// tests have. What is malformed stands in testdata/fuzz.
func seeds(f testing.TB) (frames [][]byte) {
	for _, g := range goldens {
		frames = append(frames, unhex(f, g.bytes))
	}
	files, err := filepath.Glob("testdata/*.hex")
	require.NoError(f, err)
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(f, err)
		if frame := unhex(f, string(text)); len(frame) < 4096 {
			frames = append(frames, frame)
		}
	}
	return frames
}

// FuzzParse: what is parsed and appended parses to the same value, and its bytes
// stay the same from then on.
func FuzzParse(f *testing.F) {
	for _, frame := range seeds(f) {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		allocation.Bounded(t, len(frame), func() { _, _, _ = Parse(frame) })
		h, m, err := Parse(frame)
		if !bytes.Equal(before, frame) {
			t.Fatal("Parse changes what it reads")
		}
		if err != nil {
			if m != nil {
				t.Fatalf("%v and %#v", err, m)
			}
			_ = err.Error()
			return
		}
		again := Append(nil, h.XID, m)
		if len(again) > MaxMessageLen {
			return // padding that was missing; the sender's business
		}
		h2, m2, err := Parse(again)
		if err != nil {
			t.Fatalf("%v: %x from %x", err, again, frame)
		}
		if h2.XID != h.XID || h2.Type != h.Type || !reflect.DeepEqual(m, m2) {
			t.Fatalf("%#v became %#v", m, m2)
		}
		if third := Append(nil, h.XID, m2); !bytes.Equal(again, third) {
			t.Fatalf("%x became %x", again, third)
		}
		if !bytes.Equal(before, frame) {
			t.Fatal("Append changes what was parsed")
		}
		if h.Type == TypePacketIn {
			var in PacketIn
			if err := ParsePacketIn(frame, &in); err != nil || !reflect.DeepEqual(m, &in) {
				t.Fatalf("%v: %#v is not %#v", err, in, m)
			}
		}
		if _, err := describe(m); err != nil && h.Type != TypeMultipartReply {
			t.Fatal(err)
		}
	})
}

// FuzzMatch: the canonical form is canonical, and every field is found and written.
func FuzzMatch(f *testing.F) {
	for _, g := range goldens {
		if m, ok := g.msg.(*FlowMod); ok {
			f.Add([]byte(m.Match))
		}
	}
	f.Fuzz(func(t *testing.T, tlvs []byte) {
		if len(tlvs) > 1<<15 {
			return
		}
		padded := appendMatch(nil, tlvs)
		allocation.Bounded(t, len(padded), func() { _, _, _ = parseMatch(padded) })
		m, n, err := parseMatch(padded)
		if err != nil {
			return
		}
		if n != roundUp8(4+len(tlvs)) || !bytes.Equal(m, tlvs) {
			t.Fatalf("%x of %d bytes from %x", []byte(m), n, tlvs)
		}
		var b []byte
		for field := range m.Fields() {
			b = field.appendTo(b)
			if _, ok := m.Lookup(field.Type); !ok {
				t.Fatalf("%v is lost", field)
			}
			_, _ = field.Prefix()
		}
		if !bytes.Equal(b, m) {
			t.Fatalf("fields %x of %x", b, []byte(m))
		}
		c := m.Canonical()
		if !bytes.Equal(c, c.Canonical()) {
			t.Fatalf("%x is canonical, and %x too", []byte(c), []byte(c.Canonical()))
		}
		_, _ = m.String(), c.String()
	})
}

// FuzzActions: a list of actions that is read is written and read again.
func FuzzActions(f *testing.F) {
	for _, g := range goldens {
		if m, ok := g.msg.(*FlowMod); ok {
			for _, i := range m.Instructions {
				if a, ok := i.(ApplyActions); ok {
					f.Add(AppendActions(nil, a.Actions))
				}
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		allocation.Bounded(t, len(b), func() { _, _ = ParseActions(b) })
		list, err := ParseActions(b)
		if err != nil {
			return
		}
		again := AppendActions(nil, list)
		list2, err := ParseActions(again)
		if err != nil || !reflect.DeepEqual(list, list2) {
			t.Fatalf("%v: %v became %v", err, list, list2)
		}
		if !bytes.Equal(again, AppendActions(nil, list2)) {
			t.Fatalf("%x", again)
		}
		_ = FormatActions(list)
	})
}

// FuzzMultipart: the records that are read are written and read again.
func FuzzMultipart(f *testing.F) {
	for _, frame := range seeds(f) {
		if _, m, err := Parse(frame); err == nil {
			if r, ok := m.(*MultipartReply); ok {
				f.Add(uint16(r.Type), r.Body)
			}
		}
	}
	f.Fuzz(func(t *testing.T, typ uint16, body []byte) {
		m := &MultipartReply{Type: MultipartType(typ), Body: body}
		allocation.Bounded(t, len(body), func() { _, _ = rewritten(m) })
		again, ok := rewritten(m)
		if !ok {
			return
		}
		m2 := &MultipartReply{Type: m.Type, Body: again}
		third, ok := rewritten(m2)
		if !ok || !bytes.Equal(again, third) {
			t.Fatalf("%x became %x", again, third)
		}
		one, err1 := describe(m)
		two, err2 := describe(m2)
		if err1 != nil || err2 != nil || one != two {
			t.Fatalf("%v %v: %s became %s", err1, err2, one, two)
		}
	})
}

// rewritten reads the records of a reply and writes them again; ok is false where
// they are refused.
func rewritten(m *MultipartReply) (b []byte, ok bool) {
	ok = true
	one := func(v interface{ AppendTo([]byte) []byte }, err error) {
		if ok = ok && err == nil; ok {
			b = v.AppendTo(b)
		}
	}
	switch body := m.Body; m.Type {
	case MultipartDesc:
		v, err := ParseDesc(body)
		one(v, err)
	case MultipartFlow:
		for v, err := range FlowStatsOf(body) {
			if err == nil {
				_, err = v.Instructions()
			}
			one(v, err)
		}
	case MultipartAggregate:
		v, err := ParseAggregateStats(body)
		one(v, err)
	case MultipartTable:
		for v, err := range TableStatsOf(body) {
			one(v, err)
		}
	case MultipartPortStats:
		for v, err := range PortStatsOf(body) {
			one(v, err)
		}
	case MultipartQueue:
		for v, err := range QueueStatsOf(body) {
			one(v, err)
		}
	case MultipartGroup:
		for v, err := range GroupStatsOf(body) {
			one(v, err)
		}
	case MultipartGroupDesc:
		for v, err := range GroupDescOf(body) {
			one(v, err)
		}
	case MultipartGroupFeatures:
		v, err := ParseGroupFeatures(body)
		one(v, err)
	case MultipartMeter:
		for v, err := range MeterStatsOf(body) {
			one(v, err)
		}
	case MultipartMeterConfig:
		for v, err := range MeterConfigOf(body) {
			one(v, err)
		}
	case MultipartMeterFeatures:
		v, err := ParseMeterFeatures(body)
		one(v, err)
	case MultipartTableFeatures:
		for v, err := range TableFeaturesOf(body) {
			one(v, err)
		}
	case MultipartPortDesc:
		for v, err := range PortDescOf(body) {
			one(v, err)
		}
	default:
		return nil, false
	}
	return b, ok
}

// malformed are frames that must be refused: why, and at which byte. Each is a
// file of the corpus of FuzzParse too.
var malformed = []struct {
	name  string
	bytes string
	err   error
	at    int
}{
	{"empty", ``, ErrTruncated, 0},
	{"half a header", `04 0e 00`, ErrTruncated, 3},
	{"header of length 0", `04 0e 0000 00000001`, ErrLength, 2},
	{"header of length 7", `04 0e 0007 00000001`, ErrLength, 2},
	{"length over the frame", `04 0e 0009 00000001`, ErrTruncated, 8},
	{"length under the frame", `04 02 0008 00000001 00`, ErrLength, 2},
	{"version 1", `01 02 0008 00000001`, ErrVersion, 0},
	{"version 6", `06 0e 0008 00000001`, ErrVersion, 0},
	{"hello element of length 0", `04 00 0010 00000001 0001 0000 00000010`, ErrLength, 10},
	{"hello element over the end", `04 00 0010 00000001 0001 000c 00000010`, ErrTruncated, 10},
	{"hello bitmap of 5 bytes", `04 00 0018 00000001 0001 0009 00000010 00 00000000000000`, ErrLength, 10},
	{"hello with 2 bytes", `04 00 000a 00000001 0001`, ErrTruncated, 8},
	{"error of 2 bytes", `04 01 000a 00000001 0001`, ErrTruncated, 10},
	{"error of an experimenter without it", `04 01 000e 00000001 ffff 0000 0000`, ErrTruncated, 14},
	{"experimenter of 4 bytes", `04 04 000c 00000001 00002320`, ErrTruncated, 12},
	{"packet-in without match", `04 0a 0018 00000001 ffffffff 0000 00 00 0000000000000000`, ErrTruncated, 24},
	{"packet-in with match of length 0", `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0001 0000 00000000 0000`, ErrLength, 26},
	{"packet-in with match of length 3", `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0001 0003 00000000 0000`, ErrLength, 26},
	{"packet-in with match over the end", `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0001 0010 00000000 0000`, ErrTruncated, 26},
	{"packet-in with match of OpenFlow 1.0", `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0000 0004 00000000 0000`, ErrValue, 24},
	{"packet-in without the two bytes before the packet", `04 0a 0020 00000001 ffffffff 0000 00 00 0000000000000000 0001 0004 00000000`, ErrTruncated, 32},
	{"in_port of 3 bytes", `04 0a 002a 00000001 ffffffff 0000 00 00 0000000000000000 0001 000b 80000003 000000 0000000000 0000`, ErrLength, 31},
	{"oxm over the match", `04 0a 002a 00000001 ffffffff 0000 00 00 0000000000000000 0001 000c 80000008 00000001 00000000 0000`, ErrTruncated, 31},
	{"half an oxm header", `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0001 0006 8000 0000 0000`, ErrTruncated, 30},
	{"masked oxm of odd length", `04 0a 002a 00000001 ffffffff 0000 00 00 0000000000000000 0001 000b 00ff0103 000000 0000000000 0000`, ErrLength, 31},
	{"masked oxm of length 0", `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0001 0008 00ff0100 0000`, ErrLength, 31},
	{"experimenter oxm without experimenter", `04 0a 002a 00000001 ffffffff 0000 00 00 0000000000000000 0001 000a ffff0002 0000 000000000000 0000`, ErrLength, 31},
	{"flow-mod without match", `04 0e 0030 00000001` + flowModHead, ErrTruncated, 48},
	{"instruction of length 0", `04 0e 0040 00000001` + flowModHead + `0001 0004 00000000 0001 0000 00000000`, ErrLength, 58},
	{"instruction of length 4", `04 0e 0040 00000001` + flowModHead + `0001 0004 00000000 0001 0004 00000000`, ErrLength, 58},
	{"instruction of length 12", `04 0e 0044 00000001` + flowModHead + `0001 0004 00000000 0001 000c 00000000 00000000`, ErrLength, 58},
	{"instruction over the end", `04 0e 0040 00000001` + flowModHead + `0001 0004 00000000 0004 0010 00000000`, ErrTruncated, 58},
	{"half an instruction", `04 0e 003c 00000001` + flowModHead + `0001 0004 00000000 0001 0008`, ErrTruncated, 56},
	{"goto_table of 16 bytes", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0001 0010 00000000 0000000000000000`, ErrLength, 64},
	{"write_metadata of 8 bytes", `04 0e 0040 00000001` + flowModHead + `0001 0004 00000000 0002 0008 00000000`, ErrTruncated, 64},
	{"clear_actions with an action", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0005 0010 00000000 0012 0008 00000000`, ErrLength, 64},
	{"action of length 0", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0004 0010 00000000 001b 0000 00000000`, ErrLength, 66},
	{"action of length 4", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0004 0010 00000000 0012 0004 00000000`, ErrLength, 66},
	{"action over the instruction", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0004 0010 00000000 0000 0010 00000000`, ErrTruncated, 66},
	{"output of 8 bytes", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0004 0010 00000000 0000 0008 00000001`, ErrTruncated, 72},
	{"pop_pbb of 16 bytes", `04 0e 0050 00000001` + flowModHead + `0001 0004 00000000 0004 0018 00000000 001b 0010 00000000 0000000000000000`, ErrLength, 72},
	{"set_field with a mask", `04 0e 0058 00000001` + flowModHead + `0001 0004 00000000 0004 0020 00000000 0019 0018 80000d04 1000 1000 000000000000 000000000000`, ErrValue, 70},
	{"set_field with an oxm over it", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0004 0010 00000000 0019 0008 80000606`, ErrTruncated, 71},
	{"set_field with too much behind", `04 0e 0058 00000001` + flowModHead + `0001 0004 00000000 0004 0020 00000000 0019 0018 80000a02 0800 00000000000000000000 0000 0000`, ErrLength, 66},
	{"nicira action of 8 bytes", `04 0e 0048 00000001` + flowModHead + `0001 0004 00000000 0004 0010 00000000 ffff 0008 00002320`, ErrLength, 66},
	{"move of 16 bytes", `04 0e 0050 00000001` + flowModHead + `0001 0004 00000000 0004 0018 00000000 ffff 0010 00002320 0006 000000000000`, ErrTruncated, 80},
	{"ct of 16 bytes", `04 0e 0050 00000001` + flowModHead + `0001 0004 00000000 0004 0018 00000000 ffff 0010 00002320 0023 000000000000`, ErrLength, 66},
	{"ct with an action of length 0", `04 0e 0060 00000001` + flowModHead + `0001 0004 00000000 0004 0028 00000000 ffff 0020 00002320 0023 0000 00000000 0000 ff 000000 0000 ffff 0000 00002320`, ErrLength, 90},
	{"ct in ct", `04 0e 0070 00000001` + flowModHead + `0001 0004 00000000 0004 0038 00000000 ffff 0030 00002320 0023 0000 00000000 0000 ff 000000 0000 ffff 0018 00002320 0023 0000 00000000 0000 ff 000000 0000`, ErrValue, 96},
	{"nat with an address over it", `04 0e 0068 00000001` + flowModHead + `0001 0004 00000000 0004 0030 00000000 ffff 0028 00002320 0023 0000 00000000 0000 ff 000000 0000 ffff 0010 00002320 0024 0000 0002 0001`, ErrLength, 90},
	{"nat of two families", `04 0e 0068 00000001` + flowModHead + `0001 0004 00000000 0004 0030 00000000 ffff 0028 00002320 0023 0000 00000000 0000 ff 000000 0000 ffff 0010 00002320 0024 0000 0002 0005`, ErrValue, 102},
	{"packet-out with actions over the end", `04 0d 0018 00000001 ffffffff 00000001 0008 000000000000`, ErrTruncated, 16},
	{"packet-out with half an action", `04 0d 001c 00000001 ffffffff 00000001 0004 000000000000 00120008`, ErrTruncated, 24},
	{"bucket of length 0", `04 0f 0020 00000001 0000 00 00 00000001 0000 0000 ffffffff ffffffff 00000000`, ErrLength, 16},
	{"bucket of length 8", `04 0f 0020 00000001 0000 00 00 00000001 0008 0000 ffffffff ffffffff 00000000`, ErrLength, 16},
	{"bucket over the end", `04 0f 0020 00000001 0000 00 00 00000001 0018 0000 ffffffff ffffffff 00000000`, ErrTruncated, 16},
	{"half a bucket", `04 0f 0018 00000001 0000 00 00 00000001 0008 0000 ffffffff`, ErrTruncated, 16},
	{"bucket with an action of length 0", `04 0f 0028 00000001 0000 00 00 00000001 0018 0000 ffffffff ffffffff 00000000 0016 0000 00000001`, ErrLength, 34},
	{"band of length 0", `04 1d 0020 00000001 0000 0000 00000001 0001 0000 00000000 00000000 00000000`, ErrLength, 18},
	{"band over the end", `04 1d 0020 00000001 0000 0000 00000001 0001 0018 00000000 00000000 00000000`, ErrTruncated, 18},
	{"drop band of 24 bytes", `04 1d 0028 00000001 0000 0000 00000001 0001 0018 00000000 00000000 00000000 0000000000000000`, ErrLength, 18},
	{"multipart request of 4 bytes", `04 12 000c 00000001 00000000`, ErrTruncated, 12},
	{"request for descriptions with a body", `04 12 0018 00000001 0000 0000 00000000 0000000000000000`, ErrLength, 16},
	{"request for a port without it", `04 12 0010 00000001 0004 0000 00000000`, ErrTruncated, 16},
	{"request for flows without match", `04 12 0030 00000001 0001 0000 00000000 ff000000 ffffffff ffffffff 00000000 0000000000000000 0000000000000000`, ErrTruncated, 48},
	{"table features of length 0", `04 12 0050 00000001 000c 0000 00000000 0000` + strings.Repeat("00", 62), ErrLength, 16},
	{"table features over the end", `04 12 0050 00000001 000c 0000 00000000 0048` + strings.Repeat("00", 62), ErrTruncated, 16},
	{"table property of length 0", `04 12 0058 00000001 000c 0000 00000000 0048` + strings.Repeat("00", 62) + `0000 0000 00000000`, ErrLength, 82},
	{"table property over the end", `04 12 0058 00000001 000c 0000 00000000 0048` + strings.Repeat("00", 62) + `0000 0009 00000000`, ErrTruncated, 82},
	{"table property with an action of length 0", `04 12 0058 00000001 000c 0000 00000000 0048` + strings.Repeat("00", 62) + `0004 0008 0000 0000`, ErrLength, 86},
	{"table property with half an oxm", `04 12 0058 00000001 000c 0000 00000000 0048` + strings.Repeat("00", 62) + `0008 0006 8000 0000`, ErrTruncated, 84},
	{"port status of 64 bytes", `04 0c 0048 00000001` + strings.Repeat("00", 64), ErrTruncated, 72},
	{"features reply of 20 bytes", `04 06 001c 00000001` + strings.Repeat("00", 20), ErrTruncated, 28},
	{"barrier reply with a body", `04 15 0010 00000001 0000000000000000`, ErrLength, 8},
	{"role reply with a longer body", `04 19 0020 00000001` + strings.Repeat("00", 24), ErrLength, 24},
	{"bundle control of 4 bytes", `04 04 0014 00000001 4f4e4600 000008fc 00000001`, ErrTruncated, 20},
	{"bundle add without a message", `04 04 0018 00000001 4f4e4600 000008fd 00000001 0000 0003`, ErrTruncated, 24},
	{"bundle add with a message of length 0", `04 04 0020 00000001 4f4e4600 000008fd 00000001 0000 0003 04 14 0000 00000001`, ErrLength, 26},
	{"bundle add with a message over the end", `04 04 0020 00000001 4f4e4600 000008fd 00000001 0000 0003 04 14 0010 00000001`, ErrTruncated, 26},
	{"bundle add with a message of version 1", `04 04 0020 00000001 4f4e4600 000008fd 00000001 0000 0003 01 14 0008 00000001`, ErrVersion, 24},
	{"bundle add in bundle add", `04 04 0038 00000001 4f4e4600 000008fd 00000001 0000 0003 04 04 0020 00000001 4f4e4600 000008fd 00000001 0000 0003 04 14 0008 00000001`, ErrValue, 24},
}

func TestMalformed(t *testing.T) {
	for _, c := range malformed {
		frame := unhex(t, c.bytes)
		_, m, err := Parse(frame)
		require.ErrorIs(t, err, c.err, c.name)
		require.Nil(t, m, c.name)
		var pe *ParseError
		require.ErrorAs(t, err, &pe, c.name)
		require.Equal(t, c.at, pe.Offset, "%s: %v", c.name, err)

		file := filepath.Join("testdata", "fuzz", "FuzzParse", strings.ReplaceAll(c.name, " ", "-"))
		corpus := fmt.Sprintf("go test fuzz v1\n[]byte(%s)\n", strconv.Quote(string(frame)))
		if *rewrite {
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
			require.NoError(t, os.WriteFile(file, []byte(corpus), 0o644))
		}
		stored, err := os.ReadFile(file)
		require.NoError(t, err)
		require.Equal(t, corpus, string(stored))
	}
}

// TestMalformedReplies are bodies of multipart replies that their reader must
// refuse after the records before the fault.
func TestMalformedReplies(t *testing.T) {
	flow := FlowStats{RawInstructions: AppendInstructions(nil, []Instruction{GotoTable{Table: 1}})}.AppendTo(nil)
	group := GroupDesc{Group: 1, Buckets: []Bucket{{Actions: []Action{OutputPort(1)}}}}.AppendTo(nil)
	stats := GroupStats{Group: 1, Buckets: []BucketCounter{{}}}.AppendTo(nil)
	meter := MeterStats{Meter: 1, Bands: []Counter{{}}}.AppendTo(nil)
	config := MeterConfig{Meter: 1, Bands: []MeterBand{{Type: BandDrop}}}.AppendTo(nil)
	table := TableFeatures{Properties: []TableProperty{{Type: PropMatch, Body: []byte{0x80, 0, 0, 4}}}}.AppendTo(nil)
	for _, c := range []struct {
		typ    MultipartType
		record []byte
		length int // where its length stands, -1 for none
	}{
		{MultipartDesc, make([]byte, 1056), -1},
		{MultipartFlow, flow, 0},
		{MultipartFlow, flow, 50},
		{MultipartFlow, flow, 58},
		{MultipartAggregate, make([]byte, 24), -1},
		{MultipartTable, make([]byte, 24), -1},
		{MultipartPortStats, make([]byte, 112), -1},
		{MultipartQueue, make([]byte, 40), -1},
		{MultipartGroup, stats, 0},
		{MultipartGroupDesc, group, 0},
		{MultipartGroupDesc, group, 8},
		{MultipartGroupDesc, group, 26},
		{MultipartGroupFeatures, make([]byte, 40), -1},
		{MultipartMeter, meter, 4},
		{MultipartMeterConfig, config, 0},
		{MultipartMeterConfig, config, 10},
		{MultipartMeterFeatures, make([]byte, 16), -1},
		{MultipartTableFeatures, table, 0},
		{MultipartTableFeatures, table, 66},
		{MultipartPortDesc, make([]byte, 64), -1},
	} {
		_, ok := rewritten(&MultipartReply{Type: c.typ, Body: c.record})
		require.True(t, ok, "%v", c.typ)
		for n := 1; n < len(c.record); n++ {
			_, ok := rewritten(&MultipartReply{Type: c.typ, Body: c.record[:n]})
			require.False(t, ok, "%v cut to %d", c.typ, n)
		}
		if c.length < 0 {
			continue
		}
		old := be.Uint16(c.record[c.length:])
		for _, v := range []uint16{0, 1, 3, 7, old - 1, old + 1, old + 64, 0xfff8, 0xffff} {
			bad := bytes.Clone(c.record)
			be.PutUint16(bad[c.length:], v)
			_, ok := rewritten(&MultipartReply{Type: c.typ, Body: bad})
			require.False(t, ok, "%v: length at %d is %d instead of %d", c.typ, c.length, v, old)
		}
	}
}
