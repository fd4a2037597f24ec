// Package faultproxy is a proxy between switches and a controller that knows
// OpenFlow. It loses, repeats, delays, shortens and forges messages as rules say,
// stops reading, and cuts connections, so that a test has a bad channel to order.
// It counts and logs every message that changes a switch.
package faultproxy

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/ofproto"
)

// Direction is the way a message goes.
type Direction uint8

// The two directions. A rule for Both holds for messages of either.
const (
	ToController Direction = iota
	ToSwitch
	Both
)

// String returns "to controller", "to switch" or "both".
func (d Direction) String() string { return [...]string{"to controller", "to switch", "both"}[d] }

// Frame is one message on its way. A predicate must not keep or change Bytes.
type Frame struct {
	Session   int // of the proxy, counted from 1 in the order they connect
	Direction Direction
	N         int // of its session and direction, from 1
	Header    ofproto.Header
	Bytes     []byte // the whole frame
}

// Message parses the frame; nil when it is malformed. It aliases Bytes.
func (f *Frame) Message() ofproto.Message {
	_, m, err := ofproto.Parse(f.Bytes)
	if err != nil {
		return nil
	}
	return m
}

// Action is what becomes of a message. Make one with Drop, Duplicate, and so on.
type Action struct {
	replace func(*Frame) [][]byte // what is sent in its place; nil: itself
	hold    time.Duration         // those behind it wait too
	late    time.Duration         // those behind it overtake
	stall   bool
	cut     bool
}

// Drop loses the message.
func Drop() Action { return Lie(func(*Frame) [][]byte { return nil }) }

// Duplicate sends the message n more times.
func Duplicate(n int) Action {
	return Lie(func(f *Frame) [][]byte { return slices.Repeat([][]byte{f.Bytes}, n+1) })
}

// Delay holds the message, and all behind it, for d.
func Delay(d time.Duration) Action { return Action{hold: d} }

// Late holds the message for d while those behind it overtake.
func Late(d time.Duration) Action { return Action{late: d} }

// Truncate sends the first n bytes under a header that says n: the message is
// short, the next one begins where it should. n is at least the 8 of the header.
func Truncate(n int) Action {
	return Lie(func(f *Frame) [][]byte {
		b := slices.Clone(f.Bytes[:min(max(n, ofproto.HeaderLen), len(f.Bytes))])
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
		return [][]byte{b}
	})
}

// Chop sends the first n bytes as they are: what follows is not framed any more.
func Chop(n int) Action {
	return Lie(func(f *Frame) [][]byte { return [][]byte{f.Bytes[:min(n, len(f.Bytes))]} })
}

// Lie sends something else in place of the message: what f returns, which may be
// nothing, or no OpenFlow at all.
func Lie(f func(*Frame) [][]byte) Action { return Action{replace: f} }

// Stall lets the message and all behind it wait until Proxy.Resume.
func Stall() Action { return Action{stall: true} }

// Cut closes both ends of the session in place of sending the message.
func Cut() Action { return Action{cut: true} }

// Rule says which messages an action is for. The first rule that fits is carried
// out, in the order they were added.
type Rule struct {
	Name      string // in the log
	Direction Direction
	Types     []ofproto.MessageType // none: any
	Match     func(*Frame) bool     // nil: any
	Chance    float64               // of each message that fits; 0 is certainty
	Skip      int                   // how many that fit are let pass first
	Limit     int                   // how many are acted on; 0: no limit
	Do        Action

	fits, done int
}

// Entry is one line of the log: a message that changes a switch, or one that a
// rule acted on.
type Entry struct {
	At        time.Time
	Session   int
	Direction Direction
	Type      ofproto.MessageType // inside a bundle, that of the message added
	XID       uint32
	Rule      string // the rule that acted on it; empty: it was passed on
}

// Options configures a Proxy.
type Options struct {
	// Seed decides about rules with a Chance, and about Reorder.
	Seed uint64
	// Reorder shuffles the messages to the switch between two barriers, as a switch
	// may (§6.2). Bundles, whose order is promised, are left alone.
	Reorder bool
	// Tap is called with every frame as it comes in, from several goroutines; may be
	// nil. It must not keep Bytes.
	Tap func(*Frame)
}

// Proxy is a set of sessions that share rules. It is safe for concurrent use.
type Proxy struct {
	o    Options
	dial func(context.Context) (net.Conn, error)

	mu       sync.Mutex
	random   *rand.Rand
	rules    []*Rule
	log      []Entry
	mods     map[ofproto.MessageType]int
	sessions map[int]*session
	last     int
	gates    [2]chan struct{} // of a stalled direction; closed by Resume
}

// New returns a proxy without rules, which reaches the controller by dial.
func New(dial func(context.Context) (net.Conn, error), o Options) *Proxy {
	return &Proxy{
		o: o, dial: dial, random: rand.New(rand.NewPCG(o.Seed, 0)),
		mods: map[ofproto.MessageType]int{}, sessions: map[int]*session{},
	}
}

// Add puts a rule behind those there are, and returns what takes it away again.
func (p *Proxy) Add(r Rule) (remove func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, &r)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.rules = slices.DeleteFunc(p.rules, func(o *Rule) bool { return o == &r })
	}
}

// Clear takes all rules away and resumes both directions.
func (p *Proxy) Clear() {
	p.mu.Lock()
	p.rules = nil
	p.mu.Unlock()
	p.Resume(Both)
}

// Stall stops reading what goes in a direction, in all sessions: the sender's
// window fills. Both freezes them.
func (p *Proxy) Stall(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.gates {
		if (d == Both || int(d) == i) && p.gates[i] == nil {
			p.gates[i] = make(chan struct{})
		}
	}
}

// Resume undoes Stall.
func (p *Proxy) Resume(d Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, gate := range p.gates {
		if (d == Both || int(d) == i) && gate != nil {
			close(gate)
			p.gates[i] = nil
		}
	}
}

// Cut closes both ends of all sessions.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.sessions {
		s.end(errCut)
	}
}

var errCut = errors.New("faultproxy: cut")

// Sessions returns how many sessions there have been, and how many there are.
func (p *Proxy) Sessions() (all, now int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, len(p.sessions)
}

// Inject sends bytes in the newest session, between two frames of that direction.
func (p *Proxy) Inject(d Direction, b []byte) error {
	p.mu.Lock()
	s := p.sessions[p.last]
	p.mu.Unlock()
	if s == nil {
		return errors.New("faultproxy: inject: no session")
	}
	return s.lanes[d].write(b)
}

// Mods returns how many flow-, group-, meter-, port- and table-mods were passed on
// to switches, by type; those in bundles count as what they are.
func (p *Proxy) Mods() map[ofproto.MessageType]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.mods)
}

// Log returns the log so far.
func (p *Proxy) Log() []Entry {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.log)
}

// Acted returns how many messages the rules of a name acted on.
func (p *Proxy) Acted(rule string) (n int) {
	for _, e := range p.Log() {
		if e.Rule == rule {
			n++
		}
	}
	return n
}

// Run serves the connections of a listener, which it owns, until ctx ends; all
// sessions have ended when it returns.
func (p *Proxy) Run(ctx context.Context, ln net.Listener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("faultproxy: accept: %w", err)
		}
		sessions.Go(func() { _ = p.Serve(ctx, nc) }) // how it ended is the test's to see at its ends
	}
}

// session is one switch's connection and the one to the controller.
type session struct {
	id    int
	ctx   context.Context
	end   context.CancelCauseFunc
	lanes [2]*lane
}

// lane is one direction of a session.
type lane struct {
	p    *Proxy
	s    *session
	d    Direction
	from net.Conn
	n    int
	held [][]byte // waits for a barrier, with Reorder
	late sync.WaitGroup

	mu sync.Mutex // one frame at a time
	to net.Conn
}

func (l *lane) write(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.to.Write(b)
	return err
}

// Serve proxies one connection of a switch, which it owns, until either end closes
// it, it is cut, or ctx ends. It returns why.
func (p *Proxy) Serve(ctx context.Context, nc net.Conn) error {
	defer nc.Close()
	up, err := p.dial(ctx)
	if err != nil {
		return fmt.Errorf("faultproxy: reach the controller: %w", err)
	}
	defer up.Close()
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	s := &session{ctx: ctx, end: end}
	s.lanes = [2]*lane{
		ToController: {p: p, s: s, d: ToController, from: nc, to: up},
		ToSwitch:     {p: p, s: s, d: ToSwitch, from: up, to: nc},
	}
	p.mu.Lock()
	p.last++
	s.id = p.last
	p.sessions[s.id] = s
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.sessions, s.id)
	}()
	defer context.AfterFunc(ctx, func() { nc.Close(); up.Close() })()
	var lanes sync.WaitGroup
	for _, l := range s.lanes {
		lanes.Go(func() {
			end(l.run())
			l.late.Wait()
		})
	}
	lanes.Wait()
	return context.Cause(ctx)
}

// run carries the frames of a direction.
func (l *lane) run() error {
	r := bufio.NewReader(l.from)
	for {
		header, err := r.Peek(ofproto.HeaderLen)
		if err != nil {
			return err
		}
		h, err := ofproto.ParseHeader(header)
		if err != nil {
			return err
		}
		b := make([]byte, h.Length)
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		l.n++
		f := &Frame{Session: l.s.id, Direction: l.d, N: l.n, Header: h, Bytes: b}
		if err := l.gate(); err != nil { // it may have been stalled while this one was read
			return err
		}
		if l.p.o.Tap != nil {
			l.p.o.Tap(f)
		}
		if err := l.pass(f); err != nil {
			return err
		}
	}
}

// gate waits while the direction is stalled.
func (l *lane) gate() error {
	for {
		l.p.mu.Lock()
		gate := l.p.gates[l.d]
		l.p.mu.Unlock()
		if gate == nil {
			return nil
		}
		select {
		case <-gate:
		case <-l.s.ctx.Done():
			return context.Cause(l.s.ctx)
		}
	}
}

// pass does with a frame what the rules say.
func (l *lane) pass(f *Frame) error {
	r := l.p.decide(f)
	if r == nil {
		return l.send(f.Bytes)
	}
	a := r.Do
	switch {
	case a.cut:
		return errCut
	case a.stall:
		l.p.Stall(l.d)
		if err := l.gate(); err != nil {
			return err
		}
	case a.hold > 0:
		t := time.NewTimer(a.hold)
		defer t.Stop()
		select {
		case <-t.C:
		case <-l.s.ctx.Done():
			return context.Cause(l.s.ctx)
		}
	case a.late > 0:
		l.late.Go(func() {
			t := time.NewTimer(a.late)
			defer t.Stop()
			select {
			case <-t.C:
				_ = l.write(f.Bytes) // the session may be over by then
			case <-l.s.ctx.Done():
			}
		})
		return nil
	}
	if a.replace == nil {
		return l.send(f.Bytes)
	}
	for _, b := range a.replace(f) {
		if err := l.send(b); err != nil {
			return err
		}
	}
	return nil
}

// send writes one frame, or keeps it for shuffling.
func (l *lane) send(b []byte) error {
	if !l.p.o.Reorder || l.d != ToSwitch || len(b) < ofproto.HeaderLen {
		return l.write(b)
	}
	switch t := ofproto.MessageType(b[1]); {
	case t == ofproto.TypeFlowMod || t == ofproto.TypeGroupMod:
		l.held = append(l.held, b)
		return nil
	case t == ofproto.TypeEchoReply || t == ofproto.TypeEchoRequest:
		return l.write(b)
	}
	l.p.mu.Lock()
	l.p.random.Shuffle(len(l.held), func(i, j int) { l.held[i], l.held[j] = l.held[j], l.held[i] })
	l.p.mu.Unlock()
	for _, h := range l.held {
		if err := l.write(h); err != nil {
			return err
		}
	}
	l.held = nil
	return l.write(b)
}

// decide finds the rule for a frame, and logs it.
func (p *Proxy) decide(f *Frame) *Rule {
	p.mu.Lock()
	defer p.mu.Unlock()
	typ := f.Header.Type
	if inner, ok := innerType(f.Bytes); ok {
		typ = inner
	}
	for _, r := range p.rules {
		if !r.wants(f) || r.Chance > 0 && p.random.Float64() >= r.Chance {
			continue
		}
		if r.fits++; r.fits <= r.Skip || r.Limit > 0 && r.done >= r.Limit {
			continue
		}
		r.done++
		p.log = append(p.log, Entry{time.Now(), f.Session, f.Direction, typ, f.Header.XID, r.Name})
		return r
	}
	if f.Direction == ToSwitch && isMod(typ) {
		p.mods[typ]++
		p.log = append(p.log, Entry{time.Now(), f.Session, f.Direction, typ, f.Header.XID, ""})
	}
	return nil
}

func (r *Rule) wants(f *Frame) bool {
	return (r.Direction == Both || r.Direction == f.Direction) &&
		(len(r.Types) == 0 || slices.Contains(r.Types, f.Header.Type)) &&
		(r.Match == nil || r.Match(f))
}

func isMod(t ofproto.MessageType) bool {
	switch t {
	case ofproto.TypeFlowMod, ofproto.TypeGroupMod, ofproto.TypeMeterMod, ofproto.TypePortMod, ofproto.TypeTableMod:
		return true
	}
	return false
}

// innerType returns the type of the message that a bundle-add carries (extension
// 230): after the header, experimenter, its type 2301, bundle id, padding, flags.
func innerType(b []byte) (ofproto.MessageType, bool) {
	const add, at = 2301, 24
	if ofproto.MessageType(b[1]) != ofproto.TypeExperimenter || len(b) < at+ofproto.HeaderLen ||
		binary.BigEndian.Uint32(b[8:]) != ofproto.ExperimenterONF || binary.BigEndian.Uint32(b[12:]) != add {
		return 0, false
	}
	return ofproto.MessageType(b[at+1]), true
}
