package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"testing"
	"time"

	openflow "github.com/netrack/openflow"
	"github.com/netrack/openflow/ofp"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

const (
	codecTurn   = 60 * time.Millisecond
	statsPerMsg = 100 // flows in one reply
)

// codecCase is one job that both codecs do on the same bytes.
type codecCase struct {
	name   string
	ours   func()
	theirs func()
	free   bool // ours may not allocate
}

// codec compares ofproto with github.com/netrack/openflow.
func (b *bench) codec() error {
	b.head("codec", "ofproto against github.com/netrack/openflow v0.1.0 on the same messages: the flow-mod of a VIP's\nmember, a packet-in of 1,000 bytes, a flow statistics reply of 100 flows. Buffers are reused by both.")
	cases, err := codecCases()
	if err != nil {
		return err
	}
	b.printf("%-24s %26s %7s %28s %7s %24s\n", "", "ofproto ns", "allocs", "netrack ns", "allocs", "netrack / ofproto")
	for _, c := range cases {
		var ours, theirs sample
		for range b.rounds {
			ours = append(ours, nsPerCall(c.ours))
			theirs = append(theirs, nsPerCall(c.theirs))
		}
		allocs := testing.AllocsPerRun(1000, c.ours)
		b.printf("%-24s %26s %7.0f %28s %7.0f %24s\n", c.name, ours.text("%.0f"), allocs, theirs.text("%.0f"),
			testing.AllocsPerRun(100, c.theirs), theirs.over(ours).text("%.0f"))
		if c.free && allocs > 0 {
			b.failures = append(b.failures, fmt.Sprintf("codec: %s allocates %.0f times", c.name, allocs))
		}
	}
	return nil
}

// nsPerCall runs f for a turn.
func nsPerCall(f func()) float64 {
	n := 1
	for {
		start := time.Now()
		for range n {
			f()
		}
		took := time.Since(start)
		if took >= codecTurn {
			return float64(took.Nanoseconds()) / float64(n)
		}
		n = max(2*n, int(float64(n)*1.2*float64(codecTurn)/float64(max(took, time.Microsecond))))
	}
}

func codecCases() ([]codecCase, error) {
	member := netip.MustParsePrefix("10.0.0.2/32")
	vip := netip.MustParsePrefix("10.0.0.100/32")
	mod := &ofproto.FlowMod{
		Cookie: 0xfa1d130000000001, Table: 2, Priority: 200, BufferID: ofproto.NoBuffer,
		OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny, Flags: ofproto.FlagSendFlowRem,
		Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(packet.ProtoTCP),
			ofproto.IPv4Src(member), ofproto.L4Src(packet.ProtoTCP, 8080)),
		Instructions: []ofproto.Instruction{
			ofproto.ApplyActions{Actions: []ofproto.Action{
				ofproto.SetField{Field: ofproto.IPv4Src(vip)},
				ofproto.SetField{Field: ofproto.L4Src(packet.ProtoTCP, 80)},
			}},
			ofproto.GotoTable{Table: 3},
		},
	}
	frame := ofproto.Append(nil, 1, mod)
	buf := make([]byte, 0, 4096)

	theirMod := &ofp.FlowMod{}
	if _, err := theirMod.ReadFrom(bytes.NewReader(frame[ofproto.HeaderLen:])); err != nil {
		return nil, fmt.Errorf("netrack: read flow-mod: %w", err)
	}
	var payload, out bytes.Buffer
	encodeTheirs := func() {
		payload.Reset()
		out.Reset()
		_, err := theirMod.WriteTo(&payload)
		must(err)
		h := openflow.Header{Version: ofproto.Version, Type: openflow.Type(ofproto.TypeFlowMod), Length: uint16(ofproto.HeaderLen + payload.Len()), Transaction: 1}
		_, err = h.WriteTo(&out)
		must(err)
		out.Write(payload.Bytes())
	}
	if encodeTheirs(); !bytes.Equal(out.Bytes(), frame) {
		return nil, fmt.Errorf("the codecs disagree on a flow-mod: %x, %x", frame, out.Bytes())
	}

	packetIn := ofproto.Append(nil, 1, &ofproto.PacketIn{
		BufferID: ofproto.NoBuffer, TotalLen: 1000, Match: ofproto.NewMatch(ofproto.InPort(1)), Data: make([]byte, 1000),
	})
	var ourIn ofproto.PacketIn

	flow := ofproto.FlowStats{
		Table: 2, Priority: 200, Cookie: mod.Cookie, Match: mod.Match,
		RawInstructions: ofproto.AppendInstructions(nil, mod.Instructions),
	}.AppendTo(nil)
	reply := ofproto.Append(nil, 1, &ofproto.MultipartReply{Type: ofproto.MultipartFlow, Body: bytes.Repeat(flow, statsPerMsg)})
	body := reply[16:] // behind the headers of the message and of the multipart
	ourFlows := func() {
		n := 0
		for f, err := range ofproto.FlowStatsOf(body) {
			must(err)
			_, err := f.Instructions()
			must(err)
			n += int(f.Cookie & 1)
		}
		check(n == statsPerMsg)
	}
	theirFlows := func() {
		n := 0
		for r := bytes.NewReader(body); r.Len() > 0; n++ {
			var f ofp.FlowStats
			_, err := f.ReadFrom(r)
			must(err)
		}
		check(n == statsPerMsg)
	}

	return []codecCase{
		{"flow-mod encode", func() { buf = ofproto.Append(buf[:0], 1, mod) }, encodeTheirs, true},
		{"packet-in decode", func() { must(ofproto.ParsePacketIn(packetIn, &ourIn)) }, func() {
			var in ofp.PacketIn
			r := bytes.NewReader(packetIn)
			var h openflow.Header
			_, err := h.ReadFrom(r)
			must(err)
			_, err = in.ReadFrom(r)
			must(err)
		}, true},
		{"flow stats reply decode", ourFlows, theirFlows, false},
	}, nil
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func check(ok bool) {
	if !ok {
		panic("bench: a codec lost something")
	}
}
