package reliability

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/faultproxy"
	"github.com/fairlead/fairlead/test/simswitch"
)

func bitmap(words ...uint32) []byte {
	b := []byte{0, 1, 0, byte(4 + 4*len(words))}
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return append(b, make([]byte, -len(b)&7)...)
}

func TestC01HelloVariants(t *testing.T) {
	const v10, v13, v14, v15 = 1 << 1, 1 << 4, 1 << 5, 1 << 6
	unknown := []byte{0, 9, 0, 8, 1, 2, 3, 4}
	for _, c := range []struct {
		name    string
		hello   []byte
		accept  bool
		refused bool // with HELLO_FAILED/INCOMPATIBLE; a malformed one is just closed
	}{
		{"1.3 without bitmap", header(4, 0, 1), true, false},
		{"1.3 in the bitmap", header(4, 0, 1, bitmap(v13)...), true, false},
		{"1.0 and 1.3", header(4, 0, 1, bitmap(v10|v13)...), true, false},
		{"1.5 with 1.3 in the bitmap", header(6, 0, 1, bitmap(v13|v14|v15)...), true, false},
		{"1.5 without bitmap", header(6, 0, 1), true, false}, // §6.3.1: the lower of the two, 1.3
		{"unknown element, then the bitmap", header(4, 0, 1, slices.Concat(unknown, bitmap(v13))...), true, false},
		{"only an unknown element", header(4, 0, 1, unknown...), true, false},
		{"bitmap of two words", header(4, 0, 1, bitmap(v13, 1)...), true, false},
		{"1.0 only", header(1, 0, 1), false, true},
		{"1.5 only", header(6, 0, 1, bitmap(v15)...), false, true},
		{"1.0 and 1.5, not 1.3", header(6, 0, 1, bitmap(v10|v15)...), false, true},
		{"element of length 0", header(4, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0), false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, options{})
				p := r.peer()
				p.raw(c.hello)
				if c.accept {
					p.wait(ofproto.TypeFeaturesRequest, 0)
					return
				}
				eventually(t, 2*time.Second, "closed", p.over)
				require.Empty(t, p.took(ofproto.TypeFeaturesRequest))
				if c.refused {
					require.Len(t, p.errors(), 1)
					require.Equal(t, "OFPHFC_INCOMPATIBLE", p.errors()[0].Name())
				}
			})
		})
	}
}

// TestC02NoHello leaves a thousand connections mute beside a working switch.
func TestC02NoHello(t *testing.T) {
	const mute = 1000
	r := start(t, options{tcp: true})
	r.AddSwitch(simswitch.Options{DPID: 1})
	r.fill(1, 2)
	r.connect(1)
	r.ready(1)
	p := r.proxy(1)

	before := heap()
	begin := time.Now()
	var conns []net.Conn
	for range mute {
		nc, err := r.door.dial()
		require.NoError(t, err)
		conns = append(conns, nc)
	}
	eventually(t, 5*time.Second, "all are accepted, or turned away", func() bool { return r.door.open.Load() >= 2 })
	var rtts []time.Duration
	for range 100 {
		rtts = append(rtts, echo(t, p))
	}
	each := (heap() - before) / mute
	for _, nc := range conns {
		_ = nc.SetReadDeadline(begin.Add(15 * time.Second))
		for b := make([]byte, 64); ; {
			if _, err := nc.Read(b); err != nil {
				require.False(t, isTimeout(err), "a mute connection is open after %v", time.Since(begin))
				break
			}
		}
		nc.Close()
	}
	slices.Sort(rtts)
	t.Logf("closed after %v; %d B of heap each, both ends; echo of the switch p99 %v", time.Since(begin).Round(time.Millisecond), each, rtts[98])
	require.LessOrEqual(t, each, int64(64<<10))
	require.Less(t, rtts[98], 200*time.Millisecond)
	require.True(t, r.connected(1))
}

func isTimeout(err error) bool {
	ne, ok := err.(net.Error)
	return ok && ne.Timeout()
}

// echo sends an echo request in the newest session of a proxy, as from the switch,
// and returns when the reply came by. The switch does not see it.
func echo(t *testing.T, p *faultproxy.Proxy) time.Duration {
	t.Helper()
	const xid = 0x0ec40000
	came := make(chan struct{}, 1)
	remove := p.Add(faultproxy.Rule{Name: "echo", Direction: faultproxy.ToSwitch, Types: []ofproto.MessageType{ofproto.TypeEchoReply},
		Match: func(f *faultproxy.Frame) bool {
			if f.Header.XID != xid {
				return false
			}
			select {
			case came <- struct{}{}:
			default:
			}
			return true
		}, Do: faultproxy.Drop()})
	defer remove()
	begin := time.Now()
	require.NoError(t, p.Inject(faultproxy.ToController, ofproto.Append(nil, xid, &ofproto.EchoRequest{Data: []byte("probe")})))
	select {
	case <-came:
	case <-time.After(10 * time.Second):
		require.Fail(t, "no echo reply within 10 s")
	}
	return time.Since(begin)
}

func TestC03MessagesBeforeHello(t *testing.T) {
	for name, b := range map[string][]byte{
		"flow_removed":                         ofproto.Append(nil, 0, &ofproto.FlowRemoved{Match: ofproto.NewMatch()}),
		"packet_in":                            ofproto.Append(nil, 0, &ofproto.PacketIn{Match: ofproto.NewMatch(ofproto.InPort(1)), Data: make([]byte, 60)}),
		"features_reply":                       ofproto.Append(nil, 0, &ofproto.FeaturesReply{DPID: 7}),
		"features_reply to a request not sent": ofproto.Append(nil, 0x80000001, &ofproto.FeaturesReply{DPID: 7}),
		"port_status":                          ofproto.Append(nil, 0, &ofproto.PortStatus{Desc: upPort(1)}),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, options{})
				p := r.peer()
				p.raw(b)
				eventually(t, 11*time.Second, "closed", p.over)
				require.False(t, r.connected(7))
				require.Zero(t, len(r.snapshot().Switches()))
			})
		})
	}
}

// hosted is a scripted switch with a port and no flows.
func hosted(dpid ofproto.DPID) persona {
	return persona{dpid: dpid, ports: []ofproto.PortDesc{upPort(1), upPort(2)}}
}

func TestC04WrongVersionAfterNegotiation(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, options{})
		p := r.scripted(hosted(1))
		r.ready(1)
		ports := func() int { sw, _ := r.known(1); return len(sw.Ports) }
		messages := []ofproto.Message{
			&ofproto.EchoRequest{}, &ofproto.EchoReply{}, &ofproto.Experimenter{Experimenter: 1}, &ofproto.FeaturesReply{DPID: 9},
			&ofproto.GetConfigReply{}, &ofproto.PacketIn{Match: ofproto.NewMatch(ofproto.InPort(1)), Data: make([]byte, 60)},
			&ofproto.FlowRemoved{Match: ofproto.NewMatch()}, &ofproto.PortStatus{Reason: ofproto.PortReasonAdd, Desc: upPort(9)},
			&ofproto.PacketOut{BufferID: ofproto.NoBuffer}, &ofproto.FlowMod{}, &ofproto.GroupMod{}, &ofproto.PortMod{}, &ofproto.TableMod{},
			&ofproto.MultipartReply{}, &ofproto.BarrierReply{}, &ofproto.RoleReply{}, &ofproto.SetConfig{}, &ofproto.FeaturesRequest{},
			&ofproto.BarrierRequest{}, &ofproto.MeterMod{},
		}
		require.Len(t, messages, 20)
		n := 0
		for _, version := range []byte{1, 2, 5, 6} {
			for _, m := range messages {
				b := ofproto.Append(nil, 77, m)
				b[0] = version
				p.raw(b)
				n++
				eventually(t, time.Second, "refused: "+m.MessageType().String(), func() bool { return len(p.errors()) == n })
				require.Equal(t, "OFPBRC_BAD_VERSION", p.errors()[n-1].Name(), "%v", m.MessageType())
			}
		}
		require.Equal(t, 2, ports(), "a port of another version's message")
		sw, _ := r.known(1)
		require.Zero(t, sw.PacketIns)
		require.Empty(t, p.took(ofproto.TypeEchoReply))
		p.lives()
		// An error of another version is not answered, and means nothing.
		for _, version := range []byte{1, 2, 5, 6} {
			b := ofproto.Append(nil, 77, &ofproto.Error{Type: 5, Code: 1})
			b[0] = version
			p.raw(b)
		}
		p.lives()
		require.Len(t, p.errors(), n)
		require.Empty(t, r.logs.with("switch reports an error"), "an error of another version was parsed")
	})
}

func TestC05UnknownTypes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, options{})
		p := r.scripted(hosted(1))
		r.ready(1)
		lines := r.logs.len()
		for typ := 30; typ <= 255; typ++ {
			p.raw(header(4, ofproto.MessageType(typ), uint32(typ), 1, 2, 3, 4))
		}
		p.lives()
		// The answer to an echo overtakes them.
		eventually(t, time.Second, "all are refused", func() bool { return len(p.errors()) == 226 })
		for i, e := range p.errors() {
			require.Equal(t, "OFPBRC_BAD_TYPE", e.Name())
			require.EqualValues(t, 30+i, e.Data[1])
		}
		require.LessOrEqual(t, r.logs.len()-lines, 1, "log lines in a second")
	})
}

func TestC08DuplicateDatapathID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 4, options{}, simswitch.Options{})
		rec := r.install(r.vip(1, "h2", "h3", "h4"))
		since, mods := r.since(1), r.mods()
		begin := time.Now()
		for range scale(600, 6000) {
			p := r.peer()
			p.play(hosted(1))
			eventually(t, 3*time.Second, "the newcomer is turned away", p.over)
			require.Zero(t, p.mods())
			require.Empty(t, p.took(ofproto.TypeRoleRequest), "a newcomer was asked to make us its master")
			require.NotEmpty(t, r.serves("h1", 1000, rec), "a packet lost")
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, since, r.since(1), "the live switch was disconnected")
		require.Equal(t, mods, r.mods())
		alarms := r.logs.with("duplicate datapath id")
		minutes := int(time.Since(begin)/time.Minute) + 1
		t.Logf("%d duplicates, %d alarms in %v", scale(600, 6000), len(alarms), time.Since(begin))
		require.NotEmpty(t, alarms)
		require.LessOrEqual(t, len(alarms), minutes, "alarms: %v", alarms)
		require.Contains(t, alarms[0], "holder=")
	})
}

func TestC09HalfOpenConnection(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 4, options{}, simswitch.Options{})
		rec := r.install(r.vip(1, "h2", "h3", "h4"))
		since, mods := r.since(1), r.mods()
		r.proxy(1).Stall(faultproxy.Both) // the old connection is frozen, with no FIN

		// The switch connects again, by another path.
		begin := time.Now()
		old := r.proxy(1)
		r.connectBy(1, faultproxy.Options{})
		eventually(t, 10*time.Second, "the newcomer takes over", func() bool { sw, ok := r.known(1); return ok && sw.Since.After(since) })
		control := time.Since(begin)
		t.Logf("control restored after %v", control)
		require.LessOrEqual(t, control, 3*time.Second)
		require.NotEmpty(t, r.serves("h1", 1000, rec))
		r.ready(1)
		require.Equal(t, mods, r.mods(), "an unchanged switch was written to")
		r.stop()
		old.Resume(faultproxy.Both)
	})
}

func TestC11ReconnectStorm(t *testing.T) {
	n, rounds := scale(48, 504), scale(3, 20)
	r := start(t, options{tcp: true})
	for i := range n {
		dpid := ofproto.DPID(i + 1)
		r.AddSwitch(simswitch.Options{DPID: dpid, Ports: []ofproto.Port{1, 2}})
		r.connect(dpid)
	}
	dpids := func(yield func(ofproto.DPID)) {
		for i := range n {
			yield(ofproto.DPID(i + 1))
		}
	}
	dpids(func(d ofproto.DPID) { r.ready(d) })
	time.Sleep(1500 * time.Millisecond) // the ports settle
	dpids(func(d ofproto.DPID) { r.ready(d) })
	mods, steady := r.mods(), heap()
	for round := range rounds {
		var ends sync.WaitGroup
		times := make([]time.Duration, n)
		before := map[ofproto.DPID]time.Time{}
		dpids(func(d ofproto.DPID) { before[d] = r.since(d) })
		begin := time.Now()
		dpids(func(d ofproto.DPID) { r.proxy(d).Cut() })
		dpids(func(d ofproto.DPID) {
			ends.Go(func() {
				for {
					sw, ok := r.known(d)
					if ok && sw.Since.After(before[d]) || time.Since(begin) > time.Minute {
						times[d-1] = time.Since(begin)
						return
					}
					time.Sleep(20 * time.Millisecond)
				}
			})
		})
		ends.Wait()
		dpids(func(d ofproto.DPID) { r.ready(d) })
		slices.Sort(times)
		t.Logf("round %d: %d switches back, median %v, slowest %v", round, n, times[n/2].Round(time.Millisecond), times[n-1].Round(time.Millisecond))
		require.Less(t, times[n-1], time.Minute)
		require.LessOrEqual(t, times[n-1], 3*times[n/2])
	}
	require.Equal(t, mods, r.mods(), "unchanged switches were written to")
	require.LessOrEqual(t, heap(), steady*3/2+4<<20)
}

func TestC12Flapping(t *testing.T) {
	bubble(t, func(t *testing.T) {
		random, _ := seeded(t)
		r := single(t, 3, options{}, simswitch.Options{})
		rec := r.install(r.vip(1, "h2", "h3"))
		minutes := scale(1, 10)
		until := time.Now().Add(time.Duration(minutes) * time.Minute)
		base, flaps := r.door.open.Load(), 0
		var mu sync.Mutex
		var flapping sync.WaitGroup
		for i := range 50 {
			dpid := ofproto.DPID(100 + i)
			sw := r.AddSwitch(simswitch.Options{DPID: dpid, Ports: []ofproto.Port{1}})
			pause := rand.New(rand.NewPCG(random.Uint64(), 0))
			flapping.Go(func() {
				for time.Now().Before(until) {
					ctx, cancel := context.WithTimeout(r.ctx, 500*time.Millisecond+time.Duration(pause.Int64N(int64(1500*time.Millisecond))))
					if nc, err := r.door.dial(); err == nil {
						_ = sw.Serve(ctx, nc)
					}
					cancel()
					mu.Lock()
					flaps++
					mu.Unlock()
					sleep(r.ctx, time.Duration(pause.Int64N(int64(500*time.Millisecond))))
				}
			})
		}
		lines := r.logs.len()
		flapping.Wait()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		t.Logf("%d connections made and ended in %d min, %d log lines", flaps, minutes, r.logs.len()-lines)
		require.Equal(t, base, r.door.open.Load(), "connections left")
		require.NotEmpty(t, r.serves("h1", 1, rec))
		require.LessOrEqual(t, r.logs.len()-lines, 4*flaps)
	})
}

// TestC01NotOpenFlow has peers begin with what is another protocol: they are told from slow
// ones at once, by the first byte.
func TestC01NotOpenFlow(t *testing.T) {
	for begin, says := range map[string]string{
		"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03": "it speaks TLS", "\x16": "it speaks TLS",
		"GET / HTTP/1.1\r\n\r\n": "does not speak OpenFlow", "SSH-2.0-x\r\n": "does not speak OpenFlow", "\x00": "does not speak OpenFlow",
	} {
		t.Run(strconv.Quote(begin), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, options{})
				p := r.peer()
				p.raw([]byte(begin))
				require.Less(t, took(t, 15*time.Second, "closed", p.over), time.Second)
				eventually(t, time.Second, "told", func() bool { return len(r.logs.with(says)) == 1 })
				require.EqualValues(t, 1, r.core.Counters().Refused["not_openflow"])
			})
		})
	}
}

// TestC12NoiseOfManyConnections has peers connect one after the other that each send a
// message which cannot be read: the log does not grow by each.
func TestC12NoiseOfManyConnections(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, options{})
		begin := time.Now()
		for range 300 {
			p := r.peer()
			p.send(0, &ofproto.Hello{Versions: []uint8{ofproto.Version}})
			p.raw(header(4, ofproto.TypePortStatus, 0, 1, 2, 3))
			p.lives()
			p.nc.Close()
		}
		lines := len(r.logs.with("malformed message"))
		t.Logf("%d lines of %d in %v", lines, r.logs.len(), time.Since(begin))
		require.Positive(t, lines)
		require.LessOrEqual(t, lines, 1+int(time.Since(begin).Seconds()))
	})
}

// TestC14PortsDuringHandshake changes ports between any two messages of the
// handshake: what is known in the end is the truth.
func TestC14PortsDuringHandshake(t *testing.T) {
	bubble(t, func(t *testing.T) {
		random, _ := seeded(t)
		r := start(t, options{})
		sw := r.AddSwitch(simswitch.Options{DPID: 1, Ports: []ofproto.Port{1, 2, 3, 4}})
		var mu sync.Mutex
		change := func(*faultproxy.Frame) {
			mu.Lock()
			defer mu.Unlock()
			for random.IntN(3) > 0 {
				p := ofproto.Port(1 + random.IntN(8))
				switch random.IntN(3) {
				case 0:
					sw.RemovePort(p)
				default:
					sw.SetPort(p, random.IntN(2) == 0)
				}
			}
		}
		for range scale(150, 1000) {
			ctx, cancel := context.WithCancel(r.ctx)
			p := faultproxy.New(func(context.Context) (net.Conn, error) { return r.door.dial() }, faultproxy.Options{Tap: func(f *faultproxy.Frame) {
				if f.Direction == faultproxy.ToSwitch && !r.connected(1) {
					change(f)
				}
			}})
			var session sync.WaitGroup
			session.Go(func() { r.session(ctx, sw, p) })
			r.ready(1)
			time.Sleep(3100 * time.Millisecond) // no flapping
			got, _ := r.known(1)
			truth := map[ofproto.Port]bool{}
			for n, up := range portsOf(sw) {
				truth[n] = up
			}
			known := map[ofproto.Port]bool{}
			for n, d := range got.Ports {
				known[n] = d.Up()
			}
			require.Equal(t, truth, known)
			cancel()
			session.Wait()
			eventually(t, 5*time.Second, "disconnected", func() bool { return !r.connected(1) })
		}
	})
}

// TestC14PortChangesThatAreNotTold loses what a switch says of its ports: the next
// audit finds it out.
func TestC14PortChangesThatAreNotTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 4, options{}, simswitch.Options{})
		rec := r.install(r.vip(1, "h2", "h3"))
		r.proxy(1).Add(faultproxy.Rule{Name: "lost", Direction: faultproxy.ToController, Types: []ofproto.MessageType{ofproto.TypePortStatus}, Do: faultproxy.Drop()})
		since := r.since(1)
		r.Switch(1).SetPort(2, false)
		r.Switch(1).RemovePort(4)
		r.Switch(1).SetPort(9, true)
		d := took(t, time.Minute+time.Second, "the ports are known as they are", func() bool {
			sw, _ := r.known(1)
			p2 := sw.Ports[2]
			_, p4 := sw.Ports[4]
			p9 := sw.Ports[9]
			return !p2.Up() && !p4 && p9.Up()
		})
		t.Logf("known after %v", d)
		time.Sleep(2 * time.Second)
		for i := range 20 {
			require.Equal(t, "h3", r.serves("h1", uint16(1000+i), rec))
		}
		require.Equal(t, since, r.since(1))
		require.Len(t, r.logs.with("was not told"), 3)
	})
}

// portsOf asks a software switch for its ports, over a channel of its own.
func portsOf(sw *simswitch.Switch) map[ofproto.Port]bool {
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var serving sync.WaitGroup
	serving.Go(func() { _ = sw.Serve(ctx, near) })
	conn := ofproto.NewConn(far, ofproto.ConnOptions{})
	serving.Go(func() { _ = conn.Run(ctx) })
	_, _ = conn.Send(&ofproto.Hello{Versions: []uint8{ofproto.Version}})
	ports := map[ofproto.Port]bool{}
	_ = conn.Multipart(ctx, &ofproto.MultipartRequest{Type: ofproto.MultipartPortDesc}, func(b []byte) error {
		for d := range ofproto.PortDescOf(b) {
			ports[d.Port] = d.Up()
		}
		return nil
	})
	cancel()
	serving.Wait()
	return ports
}

// TestC15SwitchThatStopsReading has mods due to all switches while one of them
// does not read: the others get theirs as fast as without it. A pipe has no
// buffer: it is a window of zero.
func TestC15SwitchThatStopsReading(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const switches = 4
		flows := scale(3000, 10000)
		r := start(t, options{apps: []controller.App{&bulk{}}, only: true})
		stuck := r.scripted(hosted(99))
		for d := ofproto.DPID(1); d <= switches; d++ {
			r.add(simswitch.Options{DPID: d})
		}
		r.ready(1, 2, 3, 4)
		stuck.deafen()
		begin := time.Now()
		require.NoError(t, r.core.Post(r.ctx, want(flows)))
		r.ready(1, 2, 3, 4)
		others := time.Since(begin)
		for d := ofproto.DPID(1); d <= switches; d++ {
			require.GreaterOrEqual(t, len(r.Switch(d).Flows()), flows)
		}
		mute := took(t, 25*time.Second, "the mute switch is given up", func() bool { return !r.connected(99) })
		t.Logf("%d flows to %d switches beside a mute one: after %v of waiting; the mute one was given up after %v", flows, switches, others, mute)
		require.LessOrEqual(t, others, 100*time.Millisecond)
	})
}

// TestC16BarrierReplies loses, diverts, delays and repeats what acknowledges mods.
// No acknowledgement is invented, and in the end the switch is right.
func TestC16BarrierReplies(t *testing.T) {
	acks := func(f *faultproxy.Frame) bool {
		if f.Header.Type == ofproto.TypeBarrierReply {
			return true
		}
		c, ok := f.Message().(*ofproto.BundleControl)
		return ok && c.Type == ofproto.BundleCommitReply
	}
	for name, do := range map[string]faultproxy.Rule{
		"half lost":        {Chance: 0.5, Do: faultproxy.Drop()},
		"one lost":         {Limit: 1, Do: faultproxy.Drop()},
		"delayed":          {Chance: 0.7, Do: faultproxy.Delay(time.Second)},
		"late":             {Chance: 0.7, Do: faultproxy.Late(time.Second)},
		"repeated":         {Do: faultproxy.Duplicate(3)},
		"under another id": {Chance: 0.3, Do: faultproxy.Lie(func(f *faultproxy.Frame) [][]byte { b := slices.Clone(f.Bytes); b[7]++; return [][]byte{b} })},
	} {
		for _, bundles := range []bool{true, false} {
			t.Run(name+map[bool]string{true: " with bundles", false: " without bundles"}[bundles], func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					random, seed := seeded(t)
					r := start(t, options{})
					r.AddSwitch(simswitch.Options{DPID: 1, NoBundles: !bundles})
					r.fill(1, 4)
					p := r.connectBy(1, faultproxy.Options{Seed: seed})
					r.ready(1)
					r.settle()
					r.learn()
					r.ready(1)
					rule := do
					rule.Name, rule.Direction, rule.Match = "acks", faultproxy.ToController, acks
					false_ := 0
					for i := range 10 {
						remove := p.Add(rule)
						rec := r.put(r.vip(i, []string{"h2", "h3", "h4"}[:1+random.IntN(3)]...))
						for range 40 {
							time.Sleep(100 * time.Millisecond)
							if s := r.status(vipName(i)); s.VIP.Provisioning == balancer.ProvisioningActive && r.serves("h1", 5000, rec) == "" {
								false_++
							}
						}
						remove()
						d := took(t, 22*time.Second, "converged", func() bool {
							return r.status(vipName(i)).VIP.Provisioning == balancer.ProvisioningActive
						})
						require.LessOrEqual(t, d, 22*time.Second)
						require.NotEmpty(t, r.serves("h1", 5000, rec))
					}
					require.Zero(t, false_, "acknowledged and not there")
					require.NotZero(t, p.Acted("acks"))
					r.noFaults()
				})
			})
		}
	}
}

// TestC16ReplyOfAnotherKind has a bundle discarded where it is to be committed, so that the
// reply comes under the right id and is another.
func TestC16ReplyOfAnotherKind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 3, options{}, simswitch.Options{})
		p := r.proxy(1)
		p.Add(faultproxy.Rule{Name: "discard", Direction: faultproxy.ToSwitch, Types: []ofproto.MessageType{ofproto.TypeExperimenter}, Limit: 1,
			Match: func(f *faultproxy.Frame) bool {
				c, ok := f.Message().(*ofproto.BundleControl)
				return ok && c.Type == ofproto.BundleCommitRequest
			}, Do: faultproxy.Lie(func(f *faultproxy.Frame) [][]byte {
				c := *f.Message().(*ofproto.BundleControl)
				c.Type = ofproto.BundleDiscardRequest
				return [][]byte{ofproto.Append(nil, f.Header.XID, &c)}
			})})
		rec := r.put(r.vip(1, "h2", "h3"))
		took(t, 22*time.Second, "acknowledged", func() bool {
			return r.status(vipName(1)).VIP.Provisioning == balancer.ProvisioningActive
		})
		require.Equal(t, 1, p.Acted("discard"))
		require.NotEmpty(t, r.serves("h1", 5000, rec), "acknowledged and not there")
		require.Len(t, r.logs.with("commit_reply of bundle"), 1)
	})
}

// TestC17RepliesOfAnOldSession repeats all that a switch said in its first session
// in the second one.
func TestC17RepliesOfAnOldSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var mu sync.Mutex
		var old [][]byte
		r := start(t, options{})
		r.AddSwitch(simswitch.Options{DPID: 1})
		r.fill(1, 4)
		p := r.connectBy(1, faultproxy.Options{Tap: func(f *faultproxy.Frame) {
			if f.Session == 1 && f.Direction == faultproxy.ToController && f.Header.Type != ofproto.TypePortStatus && f.Header.Type != ofproto.TypePacketIn {
				mu.Lock()
				defer mu.Unlock()
				old = append(old, slices.Clone(f.Bytes))
			}
		}})
		r.ready(1)
		r.settle()
		r.learn()
		rec := r.install(r.vip(1, "h2", "h3"))
		picks, mods := r.picks(20, rec), r.mods()
		p.Cut()
		eventually(t, 5*time.Second, "gone", func() bool { return !r.connected(1) })
		r.ready(1)
		mu.Lock()
		replay := old
		mu.Unlock()
		require.Greater(t, len(replay), 10)
		since := r.since(1)
		// While a VIP is being written, too.
		r.put(r.vip(2, "h2", "h3"))
		for _, b := range replay {
			require.NoError(t, p.Inject(faultproxy.ToController, b))
		}
		r.ready(1)
		require.Equal(t, since, r.since(1), "disconnected")
		require.NoError(t, r.intents.Delete(t.Context(), vipName(2), balancer.Condition{}))
		r.ready(1)
		time.Sleep(2 * time.Minute) // an audit
		require.Equal(t, picks, r.picks(20, rec))
		t.Logf("%d old frames; mods %d before, %d with VIP 2 made and removed", len(replay), mods, r.mods())
		r.noFaults()
	})
}
