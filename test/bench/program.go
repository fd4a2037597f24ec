package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/ovstest"
)

// programMost is how much longer than the bare messages programming may take.
const programMost = 1.3

// program measures how fast many VIPs are brought into an empty switch.
func (b *bench) program() error {
	b.head("programming VIPs of 3 members", `A switch (Open vSwitch, dummy datapath) connects empty; from its features on until Fairlead has its acknowledgement of everything. All of
it is counted: role, descriptions, read-back, compiling, comparing, bundles and barriers. Against it: what Fairlead sent then, recorded,
and played without a pause to a bridge of the same Open vSwitch until the answer to a last barrier. Both pass the same relay. Open vSwitch
is idle before: it frees the entries of an emptied bridge for half a second beside whoever is next. And it lets a features request that
does not come with the hello wait for half a second now and then, which is not counted.`)
	for _, n := range []int{1000, 10000} {
		if err := scoped(func(s *scope) error { return b.programMany(s, n) }); err != nil {
			return fmt.Errorf("%d VIPs: %w", n, err)
		}
	}
	return nil
}

func (b *bench) programMany(s *scope, n int) error {
	p, err := b.startFairlead("observe")
	if err != nil {
		return err
	}
	defer p.stop()
	own, err := newRelay(p.openflow)
	if err != nil {
		return err
	}
	defer own.close()
	o := ovstest.Start(s)
	for i := range 2 {
		o.AddBridge(ovstest.Bridge{Name: fmt.Sprintf("b%d", i), DPID: uint64(i + 1), Ports: portNames(i)})
	}
	o.SetController("b0", own.target())
	if err := b.connected(p, 1); err != nil {
		return err
	}
	if err := b.announce(o, p, portNames(0)); err != nil {
		return err
	}
	start := time.Now()
	if err := b.putMany(p, n); err != nil {
		return err
	}
	wrote := time.Since(start)
	up := time.Now()
	var whole switchState
	// Hosts are taken for clients until they are members, and a VIP with clients beside its
	// members has none that serves: all is there when that is over.
	for end := time.Now().Add(20 * time.Second); whole.Counts.Groups < 4*n; time.Sleep(100 * time.Millisecond) {
		if err := b.settle(p, "managed"); err != nil {
			return err
		}
		if err := b.get(p, switchPath, &whole); err != nil {
			return err
		}
		if len(whole.Faults) > 0 || time.Now().After(end) {
			return fmt.Errorf("%d flows, %d groups, faults: %v", whole.Counts.Flows, whole.Counts.Groups, whole.Faults)
		}
	}

	// reconnect empties the bridge and lets it come back.
	reconnect := func() (time.Duration, error) {
		time.Sleep(stay - time.Since(up))
		o.SetController("b0") // at which Open vSwitch flushes
		if err := atRest(o.PID()); err != nil {
			return 0, err
		}
		own.begin()
		o.SetController("b0", own.target())
		begin, err := own.introduced()
		if err != nil {
			return 0, err
		}
		up = begin
		if err := b.back(p, begin); err != nil {
			return 0, err
		}
		if err := b.settle(p, "managed"); err != nil {
			return 0, err
		}
		took := time.Since(begin)
		var now switchState
		if err := b.get(p, switchPath, &now); err != nil {
			return 0, err
		}
		if now.Counts != whole.Counts || len(now.Faults) > 0 {
			return 0, fmt.Errorf("after a reconnect: %+v, not %+v: %v", now.Counts, whole.Counts, now.Faults)
		}
		return took, nil
	}

	own.record(true)
	if _, err := reconnect(); err != nil {
		return err
	}
	own.record(false)
	messages := own.recorded()
	raw, err := newPlayer(messages)
	if err != nil {
		return err
	}
	defer raw.close()
	front, err := newRelay(raw.addr())
	if err != nil {
		return err
	}
	defer front.close()
	replay := func() (time.Duration, error) {
		o.SetController("b1")
		if err := atRest(o.PID()); err != nil {
			return 0, err
		}
		front.begin()
		o.SetController("b1", front.target())
		begin, err := front.introduced()
		if err != nil {
			return 0, err
		}
		end, err := raw.finished()
		if err != nil {
			return 0, err
		}
		if got := flowCount(o, "b1"); got != flowCount(o, "b0") {
			return 0, fmt.Errorf("the replay left %d flows", got)
		}
		o.SetController("b1")
		return end.Sub(begin), nil
	}

	var ours, bare sample
	for range b.rounds {
		a, err := reconnect()
		if err != nil {
			return err
		}
		z, err := replay()
		if err != nil {
			return err
		}
		ours, bare = append(ours, a.Seconds()*1e3), append(bare, z.Seconds()*1e3)
	}
	ratio := ours.over(bare)
	b.printf("%d VIPs: %d flows, %d groups, %.1f MB of messages (writing them over REST took %.1f s)\n", n, whole.Counts.Flows, whole.Counts.Groups,
		float64(len(messages))/1e6, wrote.Seconds())
	b.printf("  fairlead %s ms, replay %s ms, ratio %s, %s\n", ours.text("%.0f"), bare.text("%.0f"), ratio.text("%.2f"), target(ratio, 0, programMost))
	return nil
}

// atRest waits until a process has done nothing for a tenth of a second.
func atRest(pid int) error {
	before, err := processorTicks(pid)
	for end := time.Now().Add(20 * time.Second); err == nil; {
		time.Sleep(100 * time.Millisecond)
		var now int
		if now, err = processorTicks(pid); now-before <= 1 {
			return err
		}
		if before = now; time.Now().After(end) {
			return fmt.Errorf("process %d does not come to rest", pid)
		}
	}
	return err
}

// processorTicks is the time that a process has used so far, in ticks of 10 ms.
func processorTicks(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return user + system, errors.Join(err, err2)
}

// stay is how long a switch stays: one that goes sooner is held back when it comes again.
const stay = 2500 * time.Millisecond

const switchPath = "/v1/switches/0000000000000001"

// settle sets the stage of the switch and waits until it holds what it is to hold.
func (b *bench) settle(p *process, stage string) error {
	return b.put(p, switchPath+"/stage?wait=60s", map[string]string{"stage": stage}, nil)
}

// back waits until the switch is connected again.
func (b *bench) back(p *process, since time.Time) error {
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		var s switchState
		if err := b.get(p, switchPath, &s); err != nil {
			return err
		}
		if s.Connection.State == "connected" && s.Connection.Since.After(since) {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the switch is %s: %s", s.Connection.State, p.log.tail())
		}
	}
}

// putMany writes n VIPs.
func (b *bench) putMany(p *process, n int) error {
	var g errgroup.Group
	var next atomic.Int64
	for range 32 {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := b.put(p, fmt.Sprintf("/v1/vips/v%d", i), vipDocument(vipAddress(i), threeMembers(i)), nil); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

var flowCountField = regexp.MustCompile(`flow_count=(\d+)`)

func flowCount(o *ovstest.OVS, bridge string) int {
	m := flowCountField.FindStringSubmatch(o.Ofctl("dump-aggregate", o.Target(bridge)))
	n, _ := strconv.Atoi(m[1])
	return n
}

// relay stands between a switch and a controller, and can record what the controller
// says.
type relay struct {
	ln net.Listener
	to string

	mu        sync.Mutex
	at        chan time.Time
	recording bool
	tape      []byte
	conns     sync.WaitGroup
}

func newRelay(to string) (*relay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{ln: ln, to: to, at: make(chan time.Time, 16)}
	r.conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", r.to)
			if err != nil {
				_ = c.Close()
				continue
			}
			r.conns.Go(func() { pump(c, io.MultiWriter(up, &introduction{r: r}), up) })
			if r.rolling() {
				r.conns.Go(func() { pump(up, io.MultiWriter(c, recorder{r}), c) })
			} else {
				r.conns.Go(func() { pump(up, c, c) })
			}
		}
	})
	return r, nil
}

func (r *relay) target() string { return "tcp:" + r.ln.Addr().String() }

// pump copies one direction and closes both ends at its end.
func pump(from net.Conn, w io.Writer, to net.Conn) {
	defer from.Close()
	defer to.Close()
	_, _ = io.Copy(w, from)
}

// introduction tells when a switch has said its features.
type introduction struct {
	r    *relay
	said []byte
	done bool
}

func (w *introduction) Write(b []byte) (int, error) {
	if w.done {
		return len(b), nil
	}
	for w.said = append(w.said, b...); !w.done; {
		n := wholeMessages(w.said, 1)
		if n == 0 {
			break
		}
		w.done = ofproto.MessageType(w.said[1]) == ofproto.TypeFeaturesReply
		w.said = w.said[n:]
	}
	if w.done {
		select {
		case w.r.at <- time.Now():
		default:
		}
	}
	return len(b), nil
}

type recorder struct{ r *relay }

func (w recorder) Write(b []byte) (int, error) {
	w.r.mu.Lock()
	defer w.r.mu.Unlock()
	if w.r.recording {
		w.r.tape = append(w.r.tape, b...)
	}
	return len(b), nil
}

func (r *relay) rolling() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.recording
}

// record starts or stops the recording of connections.
func (r *relay) record(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.recording = on
}

// recorded returns the whole messages that were recorded.
func (r *relay) recorded() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.tape[:wholeMessages(r.tape, len(r.tape))])
}

// begin forgets connections of before.
func (r *relay) begin() {
	for len(r.at) > 0 {
		<-r.at
	}
}

// introduced waits for a switch to say its features and returns when it did.
func (r *relay) introduced() (time.Time, error) {
	select {
	case at := <-r.at:
		return at, nil
	case <-time.After(20 * time.Second):
		return time.Time{}, errors.New("the switch does not connect")
	}
}

func (r *relay) close() { _ = r.ln.Close() }

// player is a controller that says what another said.
type player struct {
	ln   net.Listener
	tape []byte
	done chan played
}

type played struct {
	at  time.Time
	err error
}

// lastBarrier ends a replay.
const lastBarrier uint32 = 0x7ffffff0

func newPlayer(tape []byte) (*player, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &player{ln: ln, tape: ofproto.Append(tape, lastBarrier, &ofproto.BarrierRequest{}), done: make(chan played, 1)}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go p.play(c)
		}
	}()
	return p, nil
}

func (p *player) addr() string { return p.ln.Addr().String() }
func (p *player) close()       { _ = p.ln.Close() }

// play says hello and asks for the features, and all the rest at once when those
// have come: earlier than that no controller has anything to say.
func (p *player) play(c net.Conn) {
	defer c.Close()
	hello := wholeMessages(p.tape, 2)
	if _, err := c.Write(p.tape[:hello]); err != nil {
		p.done <- played{err: err}
		return
	}
	var end played
	var refused error
	end.err = replies(c, func(h ofproto.Header, frame []byte) bool {
		switch {
		case h.Type == ofproto.TypeFeaturesReply:
			go func() { _, _ = c.Write(p.tape[hello:]) }()
		case h.Type == ofproto.TypeError:
			if _, m, err := ofproto.Parse(frame); err == nil {
				refused = fmt.Errorf("replay: %w", m.(*ofproto.Error))
			}
		case h.XID == lastBarrier:
			end.at = time.Now()
			return true
		}
		return false
	})
	end.err = errors.Join(end.err, refused)
	p.done <- end
	_, _ = io.Copy(io.Discard, c) // until the switch goes
}

// wholeMessages is the length of up to most messages that b begins with.
func wholeMessages(b []byte, most int) int {
	n := 0
	for ; most > 0 && n+ofproto.HeaderLen <= len(b); most-- {
		size := int(binary.BigEndian.Uint16(b[n+2:]))
		if n+size > len(b) {
			break
		}
		n += size
	}
	return n
}

// replies reads messages until f returns true. The frame is good during the call.
func replies(c io.Reader, f func(h ofproto.Header, frame []byte) bool) error {
	buf := make([]byte, 256<<10)
	have := 0
	for {
		n, err := c.Read(buf[have:])
		if err != nil {
			return err
		}
		have += n
		used := 0
		for have-used >= ofproto.HeaderLen {
			b := buf[used:have]
			h, err := ofproto.ParseHeader(b)
			if err != nil {
				return err
			}
			if len(b) < int(h.Length) {
				break
			}
			if f(h, b[:h.Length]) {
				return nil
			}
			used += int(h.Length)
		}
		have = copy(buf, buf[used:have])
	}
}

// finished waits for the end of a replay.
func (p *player) finished() (time.Time, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	select {
	case end := <-p.done:
		return end.at, end.err
	case <-ctx.Done():
		return time.Time{}, errors.New("the replay does not end")
	}
}
