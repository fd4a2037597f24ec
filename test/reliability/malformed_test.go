package reliability

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/faultproxy"
	"github.com/fairlead/fairlead/test/simswitch"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	require.NoError(t, err)
	return b
}

// corpus returns the messages of the codec's fuzz corpora: well-formed, malformed
// and worse.
func corpus(t testing.TB) (frames [][]byte) {
	for _, pattern := range []string{"FuzzParse", "FuzzConn"} {
		files, err := filepath.Glob(filepath.Join("..", "..", "ofproto", "testdata", "fuzz", pattern, "*"))
		require.NoError(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			for line := range strings.Lines(string(text)) {
				if s, ok := strings.CutPrefix(strings.TrimSpace(line), "[]byte("); ok {
					s, err := strconv.Unquote(strings.TrimSuffix(s, ")"))
					require.NoError(t, err)
					frames = append(frames, []byte(s))
				}
			}
		}
	}
	captured, err := filepath.Glob("../../ofproto/testdata/*.hex")
	require.NoError(t, err)
	for _, file := range captured {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		_, text, _ = bytes.Cut(text, []byte("\n")) // where it is from
		frames = append(frames, unhex(t, string(text)))
	}
	require.Greater(t, len(frames), 150)
	return frames
}

// witness is a switch with a VIP beside which something is attacked.
type witness struct {
	*rig
	rec   func() string
	since time.Time
	mods  int
}

func beside(t *testing.T) witness {
	r := single(t, 3, options{}, simswitch.Options{})
	rec := r.install(r.vip(1, "h2", "h3"))
	r.ready(1) // hosts are gathered for a moment
	return witness{r, func() string { return r.serves("h1", 4000, rec) }, r.since(1), r.mods()}
}

// unaffected checks that the switch kept its session and its flows, and serves.
func (w witness) unaffected() {
	w.t.Helper()
	require.Equal(w.t, w.since, w.rig.since(1), "another switch was disconnected")
	require.Equal(w.t, w.mods, w.rig.mods(), "another switch was written to")
	require.NotEmpty(w.t, w.rec(), "a packet to the VIP is lost")
}

// zeroLengths are messages with a length of 0 at each level of nesting.
var zeroLengths = map[string]string{
	"hello element":          `04 00 0010 00000001 0001 0000 00000010`,
	"match":                  `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0001 0000 00000000 0000`,
	"oxm":                    `04 0a 0022 00000001 ffffffff 0000 00 00 0000000000000000 0001 0008 00ff0100 0000`,
	"instruction":            `04 0e 0040 00000001 0000000000000000 0000000000000000 00 00 0000 0000 0000 ffffffff ffffffff ffffffff 0000 0000 0001 0004 00000000 0001 0000 00000000`,
	"action":                 `04 0d 0020 00000001 ffffffff 00000001 0008 000000000000 0000 0000 00000000`,
	"bucket":                 `04 0f 0020 00000001 0000 00 00 00000001 0000 0000 ffffffff ffffffff 00000000`,
	"queue property":         `04 17 0028 00000001 00000001 00000000 00000001 00000001 0018 000000000000 0001 0000 00000000`,
	"meter band":             `04 1d 0020 00000001 0000 0000 00000001 0001 0000 00000000 00000000 00000000`,
	"table-feature property": `04 12 0058 00000001 000c 0000 00000000 0048 ` + strings.Repeat("00", 62) + ` 0000 0000 00000000`,
	"multipart record":       `04 13 0018 00000001 0001 0000 00000000 0000 0000 00000000`,
	"bundle inner message":   `04 04 0020 00000001 4f4e4600 000008fd 00000001 0000 0003 04 14 0000 00000001`,
}

func TestP01ZeroLengths(t *testing.T) {
	require.Len(t, zeroLengths, 11)
	for name, text := range zeroLengths {
		b := unhex(t, text)
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		begin := time.Now()
		const times = 1000
		for range times {
			_, m, err := ofproto.Parse(b)
			if r, ok := m.(*ofproto.MultipartReply); ok {
				for _, err = range ofproto.FlowStatsOf(r.Body) {
				}
			}
			if _, raw := m.(*ofproto.RawMessage); !raw { // queues are not read at all
				require.Error(t, err, name)
			}
		}
		require.Less(t, time.Since(begin)/times, time.Millisecond, name)
	}
	bubble(t, func(t *testing.T) {
		w := beside(t)
		p := w.scripted(hosted(7))
		for name, text := range zeroLengths {
			b := unhex(t, text)
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
			n := len(p.errors())
			p.raw(b)
			p.lives()
			if b[1] != byte(ofproto.TypeHello) {
				// The answer to an echo overtakes it.
				eventually(t, time.Second, "refused: "+name, func() bool { return len(p.errors()) > n })
			}
		}
		// A header of length 0 cannot be framed: that session ends.
		p.raw([]byte{4, 2, 0, 0, 0, 0, 0, 1})
		eventually(t, time.Second, "closed", p.over)
		w.unaffected()
	})
}

// TestP02Lengths makes messages with wrong lengths out of right ones: headers of
// every length up to the least, and every 16 bits that may be a length replaced.
func TestP02Lengths(t *testing.T) {
	bubble(t, func(t *testing.T) {
		random, _ := seeded(t)
		w := beside(t)
		messages := corpus(t)
		connect := func() *peer { return w.scripted(hosted(7)) }
		p := connect()
		begin, live, sessions := time.Now(), 0, 1
		cases := scale(3000, 50000)
		for range cases {
			b := append([]byte{}, messages[random.IntN(len(messages))]...)
			if len(b) < ofproto.HeaderLen {
				continue
			}
			for range 1 + random.IntN(2) {
				at := random.IntN(len(b) - 1)
				binary.BigEndian.PutUint16(b[at:], []uint16{0, 1, 3, 7, 8, 9, 0x7fff, 0x8000, 0xfff8, 0xffff, uint16(len(b)), uint16(len(b) + 1), uint16(random.IntN(64))}[random.IntN(13)])
			}
			_, _, _ = ofproto.Parse(b)
			if n := int(binary.BigEndian.Uint16(b[2:])); n != len(b) && random.IntN(20) > 0 {
				binary.BigEndian.PutUint16(b[2:], uint16(len(b))) // most with a sound header, which keep the session
			}
			if b[1] == byte(ofproto.TypeFeaturesReply) || b[1] == byte(ofproto.TypeEchoRequest) && len(b) > 4096 {
				continue
			}
			p.raw(b)
			if live++; live%50 == 0 && !p.over() {
				p.send(0x99, &ofproto.EchoRequest{})
				time.Sleep(10 * time.Millisecond)
			}
			if p.over() || binary.BigEndian.Uint16(b[2:]) != uint16(len(b)) {
				p.nc.Close()
				eventually(t, 10*time.Second, "gone", func() bool { return !w.connected(7) })
				time.Sleep(4 * time.Second)
				w.learn() // that the witness's hosts do not age
				p = connect()
				sessions++
			}
		}
		t.Logf("%d cases to the live controller in %d sessions, %v", live, sessions, time.Since(begin))
		w.unaffected()
	})
}

// TestP03TornReadBack answers the read-back of a switch that has flows and groups
// of ours, which nobody wants, with lengths that disagree: nothing may be deleted.
func TestP03TornReadBack(t *testing.T) {
	group := ofproto.GroupDesc{Type: ofproto.GroupTypeAll, Group: flowtable.GroupIDOf(5), Buckets: []ofproto.Bucket{{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: []ofproto.Action{ofproto.OutputPort(1)}}}}
	flow := ofproto.FlowStats{Table: 3, Priority: 200, Cookie: 0xfa1d120000000001, Match: ofproto.NewMatch(ofproto.EthType(0x800)),
		RawInstructions: ofproto.AppendInstructions(nil, []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(1)}}})}
	for name, c := range map[string]struct {
		of    ofproto.MultipartType
		at    int // of the length in the record
		value uint16
	}{
		"group longer than the reply":    {ofproto.MultipartGroupDesc, 0, 200},
		"group of length 0":              {ofproto.MultipartGroupDesc, 0, 0},
		"bucket longer than the group":   {ofproto.MultipartGroupDesc, 8, 64},
		"bucket of length 0":             {ofproto.MultipartGroupDesc, 8, 0},
		"action longer than the bucket":  {ofproto.MultipartGroupDesc, 26, 64},
		"flow longer than the reply":     {ofproto.MultipartFlow, 0, 500},
		"flow of length 0":               {ofproto.MultipartFlow, 0, 0},
		"match longer than the flow":     {ofproto.MultipartFlow, 50, 400},
		"type of another multipart":      {ofproto.MultipartFlow, -1, 0},
		"end of the reply never comes":   {ofproto.MultipartFlow, -2, 0},
		"reply of no whole record":       {ofproto.MultipartFlow, -3, 0},
		"error in the place of the rest": {ofproto.MultipartFlow, -4, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, options{})
				p := r.peer()
				o := hosted(7)
				o.override = func(f frame, m ofproto.Message) ([][]byte, bool) {
					q, ok := m.(*ofproto.MultipartRequest)
					if !ok {
						return nil, false
					}
					answer := &ofproto.MultipartReply{Type: q.Type}
					switch q.Type {
					case ofproto.MultipartGroupDesc:
						answer.Body = group.AppendTo(nil)
					case ofproto.MultipartFlow:
						answer.Body = flow.AppendTo(flow.AppendTo(nil))
					default:
						return nil, false
					}
					if q.Type == c.of {
						switch c.at {
						case -1:
							answer.Type = ofproto.MultipartTable
						case -2:
							answer.Flags = ofproto.MultipartMore
						case -3:
							answer.Body = answer.Body[:20]
						case -4:
							answer.Flags = ofproto.MultipartMore
							return append(reply(f.XID, answer), refusal(f, ofproto.ErrorBadRequest, 13)...), true
						default:
							binary.BigEndian.PutUint16(answer.Body[c.at:], c.value)
						}
					}
					return reply(f.XID, answer), true
				}
				p.play(o)
				eventually(t, 2*time.Minute, "the session ends, or goes on without deleting", func() bool { return p.over() })
				for _, f := range append(p.took(ofproto.TypeFlowMod), p.took(ofproto.TypeGroupMod)...) {
					switch m := f.message().(type) {
					case *ofproto.FlowMod:
						require.NotEqual(t, flow.Cookie, m.Cookie, "deleted on a torn read-back")
					case *ofproto.GroupMod:
						require.NotEqual(t, group.Group, m.Group, "deleted on a torn read-back")
					}
				}
			})
		})
	}
}

// TestP05EndlessReadBack answers requests without end: for flows, for groups of our ids and
// for meters.
func TestP05EndlessReadBack(t *testing.T) {
	for of, record := range map[ofproto.MultipartType]func(b []byte, n uint32) []byte{
		ofproto.MultipartFlow: func(b []byte, n uint32) []byte {
			return ofproto.FlowStats{Table: ofproto.Table(n >> 16), Priority: uint16(n), Match: ofproto.NewMatch(ofproto.Metadata(uint64(n), ^uint64(0)))}.AppendTo(b)
		},
		ofproto.MultipartGroupDesc: func(b []byte, n uint32) []byte {
			return ofproto.GroupDesc{Type: ofproto.GroupTypeAll, Group: flowtable.GroupIDOf(n & 0xffffff)}.AppendTo(b)
		},
		ofproto.MultipartMeterConfig: func(b []byte, n uint32) []byte { return ofproto.MeterConfig{Meter: n}.AppendTo(b) },
	} {
		t.Run(of.String(), func(t *testing.T) { endless(t, of, record) })
	}
}

func endless(t *testing.T, of ofproto.MultipartType, record func(b []byte, n uint32) []byte) {
	r := start(t, options{tcp: true})
	p := r.peer()
	o := hosted(7)
	var sent atomic.Uint32
	o.override = func(f frame, m ofproto.Message) ([][]byte, bool) {
		q, ok := m.(*ofproto.MultipartRequest)
		if ok && q.Type == ofproto.MultipartMeterFeatures {
			return reply(f.XID, &ofproto.MultipartReply{Type: q.Type, Body: ofproto.MeterFeatures{MaxMeter: 1 << 31}.AppendTo(nil)}), true
		}
		if !ok || q.Type != of {
			return nil, false
		}
		go func() {
			var body []byte
			for sent.Load() < 2<<30 {
				body = body[:0]
				for len(body) < 60000 {
					body = record(body, sent.Add(1))
				}
				_ = p.nc.SetWriteDeadline(time.Now().Add(5 * time.Second))
				if _, err := p.nc.Write(ofproto.Append(nil, f.XID, &ofproto.MultipartReply{Type: q.Type, Flags: ofproto.MultipartMore, Body: body})); err != nil {
					return
				}
			}
		}()
		return nil, true
	}
	before, most := heap(), int64(0)
	begin := time.Now()
	p.play(o)
	eventually(t, 60*time.Second, "cut", func() bool {
		most = max(most, heap()-before)
		return p.over()
	})
	t.Logf("cut after %v and %d entries, heap +%d MiB at most", time.Since(begin).Round(time.Millisecond), sent.Load(), most>>20)
	require.LessOrEqual(t, most, int64(64<<20))
}

// hostileFrames are frames of hosts that break parsers.
func hostileFrames(random *rand.Rand) map[string][]byte {
	eth := func(typ uint16, payload ...byte) []byte {
		return append(binary.BigEndian.AppendUint16([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 9, 9, 9, 9, 9}, typ), payload...)
	}
	tags := []byte{}
	for range 20 {
		tags = append(tags, 0x81, 0, 0, 1)
	}
	arp := eth(0x0806, 0, 1, 8, 0, 255, 4, 0, 1)
	ip := func(b ...byte) []byte { return eth(0x0800, b...) }
	noise := make([]byte, 1400)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	long := make([]byte, 9000)
	ext := append([]byte{0x60, 0, 0, 0, 2, 0, 0, 64}, make([]byte, 32)...)
	for range 60 {
		ext = append(ext, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	nd := append([]byte{0x60, 0, 0, 0, 0, 32, 58, 255}, make([]byte, 32)...)
	nd = append(nd, 135, 0, 0, 0, 0, 0, 0, 0)
	nd = append(append(nd, make([]byte, 16)...), 1, 0, 0, 0, 0, 0, 0, 0)
	lldp := func(tlvs ...byte) []byte {
		return append([]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 9, 9, 9, 9, 9, 0x88, 0xcc}, tlvs...)
	}
	many := []byte{2, 7, 4, 2, 9, 9, 9, 9, 9, 4, 2, 7, 1, 6, 2, 0, 120}
	for range 2000 {
		many = append(many, 0xfe, 4, 0, 1, 2, 3)
	}
	return map[string][]byte{
		"ethertype 0x8870": eth(0x8870, noise[:100]...), "ip protocol 0": ip(0x45, 0, 0, 20, 0, 0, 0, 0, 64, 0, 0, 0, 10, 0, 1, 1, 10, 0, 1, 2),
		"20 vlan tags": append(eth(0x8100, tags...), 8, 0), "truncated ip": ip(0x45, 0, 0), "ihl 0": ip(append([]byte{0x40}, noise[:40]...)...),
		"ihl 15": ip(append([]byte{0x4f, 0, 0, 20}, noise[:16]...)...), "truncated tcp": ip(0x45, 0, 0, 22, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 1, 1, 10, 0, 1, 2, 0, 80),
		"jumbo": append(eth(0x0800), long...), "runt": {1, 2, 3}, "empty": {}, "only a header": eth(0x0800), "arp with hlen 255": arp,
		"arp cut": arp[:20], "ipv6 extension headers": eth(0x86dd, ext...), "nd option of length 0": eth(0x86dd, nd...),
		"dhcp option overrun": ip(append([]byte{0x45, 0, 1, 40, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 0, 68, 0, 67, 1, 4, 0, 0, 1, 1, 6, 0}, append(make([]byte, 232), 99, 130, 83, 99, 53, 255)...)...),
		"noise":               noise,
		"lldp end tlv 0x0200": lldp(2, 7, 4, 2, 9, 9, 9, 9, 9, 2, 0), "lldp without end": lldp(2, 7, 4, 2, 9, 9, 9, 9, 9, 4, 2, 7, 1, 6, 2, 0, 120),
		"lldp tlv overrun": lldp(2, 255, 4, 1), "lldp with 2,000 tlvs": lldp(many...), "lldp chassis subtype 255": lldp(2, 7, 255, 2, 9, 9, 9, 9, 9, 4, 2, 7, 1, 6, 2, 0, 120, 0, 0),
		"lldp of nothing": lldp(), "lldp with a broken organisation": lldp(0xfe, 2, 0, 1), "lldp of length 0": lldp(0, 0),
	}
}

// hostile hands frames to a controller as packet-ins of a working switch.
func hostile(t *testing.T, only string) {
	bubble(t, func(t *testing.T) {
		random, _ := seeded(t)
		r := start(t, options{})
		r.AddSwitch(simswitch.Options{DPID: 1})
		r.AddSwitch(simswitch.Options{DPID: 2})
		r.Link(simswitch.Place{DPID: 1, Port: 30}, simswitch.Place{DPID: 2, Port: 30})
		r.fill(1, 4)
		r.connect(1)
		r.connect(2)
		r.ready(1, 2)
		r.settle()
		r.learn()
		rec := r.install(r.vip(1, "h2", "h3"))
		links := func() int { return len(r.snapshot().Links()) }
		require.Equal(t, 1, links())
		since, mods, hosts := r.since(1), r.mods(), len(r.snapshot().Hosts())
		for round := range scale(20, 500) {
			for name, f := range hostileFrames(random) {
				if !strings.HasPrefix(name, only) || only == "" && strings.HasPrefix(name, "lldp") {
					continue
				}
				b := append([]byte{}, f...)
				if round > 0 && len(b) > 15 {
					b[14+random.IntN(len(b)-14)] = byte(random.Uint32())
				}
				for _, port := range []ofproto.Port{1, 30} {
					if port == 30 && only == "" {
						continue // what comes over a link may teach a host
					}
					m := &ofproto.PacketIn{BufferID: ofproto.NoBuffer, TotalLen: uint16(len(b)), Match: ofproto.NewMatch(ofproto.InPort(port)), Data: b}
					require.NoError(t, r.proxy(1).Inject(faultproxy.ToController, ofproto.Append(nil, 0, m)))
				}
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		require.Equal(t, since, r.since(1), "the switch was disconnected")
		require.Equal(t, 1, links())
		require.NotEmpty(t, r.serves("h1", 7, rec))
		if only != "" {
			require.Len(t, r.snapshot().Hosts(), hosts)
			require.Equal(t, mods, r.mods(), "flow mods")
		}
		require.Empty(t, r.logs.with("panic"))
	})
}

func TestP06HostileFrames(t *testing.T) { hostile(t, "") }
func TestP11HostileLLDP(t *testing.T)   { hostile(t, "lldp") }

func TestP07PortStatus(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := beside(t)
		p := w.scripted(hosted(7))
		w.ready(7)
		for _, n := range []ofproto.Port{0, ofproto.PortMax, ofproto.PortMax + 1, ofproto.PortAny, ofproto.PortController, ofproto.PortFlood} {
			p.send(0, &ofproto.PortStatus{Reason: ofproto.PortReasonAdd, Desc: upPort(n)})
		}
		p.send(0, &ofproto.PortStatus{Reason: 200, Desc: upPort(50)})
		p.lives()
		time.Sleep(time.Second)
		sw, _ := w.known(7)
		require.NotContains(t, sw.Ports, ofproto.Port(0))
		require.NotContains(t, sw.Ports, ofproto.PortAny)
		require.NotContains(t, sw.Ports, ofproto.Port(50), "an unknown reason adds no port")
		// 10,000 a second, of 1,000 ports, and then of a million.
		version := w.snapshot().Version()
		seconds := scale(3, 60)
		for i := range seconds * 100 {
			var b []byte
			for j := range 100 {
				n := ofproto.Port(1 + (i*100+j)%1000)
				b = ofproto.Append(b, 0, &ofproto.PortStatus{Reason: uint8((i / 10) % 2), Desc: upPort(n)})
			}
			p.raw(b)
			time.Sleep(10 * time.Millisecond)
		}
		p.lives()
		t.Logf("%d port events; %d versions of the topology", seconds*10000, w.snapshot().Version()-version)
		for i := range 200 {
			var b []byte
			for j := range 100 {
				b = ofproto.Append(b, 0, &ofproto.PortStatus{Reason: ofproto.PortReasonAdd, Desc: upPort(ofproto.Port(5000 + i*100 + j))})
			}
			p.raw(b)
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		sw, _ = w.known(7)
		require.LessOrEqual(t, len(sw.Ports), 4096, "the table of ports has a bound")
		w.unaffected()
	})
}

// TestP08Errors refuses every mod, with errors of all sorts, and sends others
// that belong to nothing.
func TestP08Errors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		random, _ := seeded(t)
		w := beside(t)
		o := hosted(7)
		answers := rand.New(rand.NewPCG(random.Uint64(), 0)) // of the goroutine that answers
		o.override = func(f frame, m ofproto.Message) ([][]byte, bool) {
			switch m.(type) {
			case *ofproto.FlowMod, *ofproto.GroupMod, *ofproto.PacketOut:
				return refusal(f, ofproto.ErrorType(answers.IntN(20)), uint16(answers.IntN(20))), true
			}
			return nil, false
		}
		p := w.scripted(o)
		mods, lines := 0, w.logs.len()
		w.ready(7)
		sw, _ := w.known(7)
		require.NotEmpty(t, sw.Faults)
		// Tries come ever later: within two minutes each part is tried at most 8 times.
		first := p.mods()
		time.Sleep(2 * time.Minute)
		mods = p.mods()
		t.Logf("%d mods at first, %d in two minutes", first, mods)
		require.LessOrEqual(t, mods, 10*first+100)
		for range scale(20, 200) {
			var b []byte
			for i := range 1000 {
				e := &ofproto.Error{Type: ofproto.ErrorType(random.Uint32()), Code: uint16(random.Uint32()), Data: make([]byte, random.IntN(12))}
				b = ofproto.Append(b, uint32(i)*7919, e)
			}
			b = append(b, 4, 1, 0, 10, 0, 0, 0, 9, 0, 1) // cut
			p.raw(b)
			time.Sleep(20 * time.Millisecond)
		}
		p.lives()
		require.Less(t, w.logs.len()-lines, 10*130, "log lines, at most 10 a second")
		w.unaffected()
	})
}

// TestP08RefusalsOfManyParts has a switch refuse each message of hundreds of parts, with
// another error each: the log names a few.
func TestP08RefusalsOfManyParts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := beside(t)
		for i := range 200 {
			w.put(w.vip(2+i, "h2", "h3"))
		}
		w.ready(1)
		w.mods = w.rig.mods()
		o := hosted(7)
		o.holds = true
		var refused atomic.Int64
		probes := 100 // what it takes first
		o.override = func(f frame, m ofproto.Message) ([][]byte, bool) {
			switch m.(type) {
			case *ofproto.FlowMod, *ofproto.GroupMod:
				if probes--; probes < 0 {
					return reply(f.XID, &ofproto.Error{Type: ofproto.ErrorBadInstruction, Code: uint16(refused.Add(1)), Data: make([]byte, 65000)}), true
				}
			}
			return nil, false
		}
		lines, begin := w.logs.len(), time.Now()
		w.scripted(o)
		time.Sleep(30 * time.Second)
		lines = w.logs.len() - lines
		t.Logf("%d errors: %d lines in %v", refused.Load(), lines, time.Since(begin))
		require.Greater(t, refused.Load(), int64(1000))
		require.LessOrEqual(t, lines, 10*int(time.Since(begin).Seconds()+1))
		sw, _ := w.known(7)
		require.NotEmpty(t, sw.Faults)
		w.unaffected()
	})
}

// TestP08LateErrors has a switch answer a barrier before it says what it refuses.
func TestP08LateErrors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, options{})
		o := hosted(7)
		o.holds = true
		var late atomic.Bool
		var refused []frame
		o.override = func(f frame, m ofproto.Message) (out [][]byte, ok bool) {
			switch m := m.(type) {
			case *ofproto.FlowMod:
				if late.Load() && m.Command == ofproto.FlowAdd {
					refused = append(refused, f)
					return nil, true
				}
			case *ofproto.BarrierRequest:
				out = reply(f.XID, &ofproto.BarrierReply{})
				for _, f := range refused {
					out = append(out, refusal(f, ofproto.ErrorBadAction, 4)...)
				}
				refused = nil
				return out, true
			}
			return nil, false
		}
		p := r.scripted(o)
		r.ready(7)
		late.Store(true)
		before := p.mods()
		require.Equal(t, 1, p.lose(func(f ofproto.FlowStats) bool { return f.Priority == controller.PrioMark }))
		d := took(t, 10*time.Minute, "told", func() bool { sw, _ := r.known(7); return len(sw.Faults) > 0 })
		t.Logf("told after %v and %d mods", d, p.mods()-before)
		require.LessOrEqual(t, d, time.Minute)
		late.Store(false)
		took(t, 2*time.Minute, "healed", func() bool { sw, _ := r.known(7); return len(sw.Faults) == 0 })
		// Who sends nothing but errors is not read without end.
		reads := len(p.took(ofproto.TypeMultipartRequest))
		for i := range 1000 {
			p.send(uint32(i), &ofproto.Error{Type: ofproto.ErrorBadAction})
			time.Sleep(20 * time.Millisecond)
		}
		require.Less(t, len(p.took(ofproto.TypeMultipartRequest))-reads, 15)
	})
}

// TestP07PortTwice has a switch list a port twice, up and down: it is one port, and does
// not change with each look at it.
func TestP07PortTwice(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, options{})
		o := hosted(7)
		down := upPort(1)
		down.Name, down.State = "again", ofproto.PortStateLinkDown
		o.ports = append(o.ports, down)
		r.scripted(o)
		r.ready(7)
		r.settle()
		version := r.snapshot().Version()
		time.Sleep(10 * time.Minute) // and audits
		sw, _ := r.known(7)
		require.Len(t, sw.Ports, 2)
		require.Equal(t, "again", sw.Ports[1].Name)
		require.Equal(t, version, r.snapshot().Version())
		require.Empty(t, r.logs.with("not told"))
	})
}

func TestP09FlowRemovedNeverInstalled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := beside(t)
		flows := w.Switch(1).Flows()
		require.NotEmpty(t, flows)
		p := w.proxy(1)
		send := func(m *ofproto.FlowRemoved) {
			require.NoError(t, p.Inject(faultproxy.ToController, ofproto.Append(nil, 0, m)))
		}
		for i, f := range flows {
			send(&ofproto.FlowRemoved{Cookie: f.Cookie + 1, Table: f.Table, Priority: f.Priority, Match: f.Match})      // wrong cookie
			send(&ofproto.FlowRemoved{Cookie: f.Cookie, Table: f.Table + 1, Priority: f.Priority, Match: f.Match})      // other table
			send(&ofproto.FlowRemoved{Cookie: f.Cookie, Table: f.Table, Priority: f.Priority ^ 0x4000, Match: f.Match}) // never installed
			send(&ofproto.FlowRemoved{Cookie: uint64(i), Table: f.Table, Priority: f.Priority, Match: f.Match})         // not ours
		}
		time.Sleep(3 * time.Second)
		w.unaffected()
		require.Equal(t, len(flows), len(w.Switch(1).Flows()))
	})
}

func TestP10UnknownAnnouncements(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := beside(t)
		p := w.scripted(hosted(7))
		w.ready(7)
		role := func(reason byte) []byte {
			return header(4, 30, 0, append([]byte{0, 0, 0, 2, reason, 0, 0, 0}, make([]byte, 8)...)...)
		}
		for _, b := range [][]byte{
			role(200), header(4, 31, 0, make([]byte, 40)...), header(4, 35, 0, 1, 2, 3, 4),
			ofproto.Append(nil, 0, &ofproto.Experimenter{Experimenter: 0xdeadbeef, ExpType: 1, Data: make([]byte, 50)}),
			ofproto.Append(nil, 0, &ofproto.Experimenter{Experimenter: ofproto.ExperimenterONF, ExpType: 1911}), // role status of the extension
			ofproto.Append(nil, 0, &ofproto.Experimenter{Experimenter: ofproto.ExperimenterONF, ExpType: 0xffffffff, Data: make([]byte, 3)}),
			ofproto.Append(nil, 0, &ofproto.BundleControl{Bundle: 9, Type: 77}),
			ofproto.Append(nil, 0x80000123, &ofproto.BundleControl{Bundle: 9, Type: ofproto.BundleCommitReply}),
			ofproto.Append(nil, 0x80000123, &ofproto.MultipartReply{Type: 0xffff, Body: make([]byte, 7)}),
			ofproto.Append(nil, 0, &ofproto.GetAsyncReply{}), ofproto.Append(nil, 0, &ofproto.RoleReply{Role: 77}),
		} {
			p.raw(b)
			p.lives()
		}
		w.unaffected()
	})
}

// TestP12CorpusToLiveController sends every message of the fuzz corpora to a live
// controller, before and after the handshake.
func TestP12CorpusToLiveController(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := beside(t)
		frames := corpus(t)
		early, ready := 0, 0
		p := w.scripted(hosted(7))
		for _, b := range frames {
			q := w.peer()
			w.Announce("h1") // or it would age while the attacks go on
			q.raw(b)
			q.nc.Close()
			early++
			p.raw(b)
			ready++
			p.send(0x55, &ofproto.EchoRequest{})
			time.Sleep(5 * time.Millisecond)
			if n := len(b); p.over() || n < ofproto.HeaderLen || int(binary.BigEndian.Uint16(b[2:])) != n {
				// The stream is out of step: begin again.
				p.nc.Close()
				eventually(t, 10*time.Second, "gone", func() bool { return !w.connected(7) })
				time.Sleep(11 * time.Second)
				p = w.scripted(hosted(7))
			}
		}
		t.Logf("%d messages before the handshake, %d after it", early, ready)
		w.unaffected()
		require.Empty(t, w.logs.with("panic"))
	})
}
