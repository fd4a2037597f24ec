// Package controller runs the OpenFlow side of Fairlead: it accepts switches,
// keeps one session with each, and holds every switch at the state that the apps
// desire.
//
// One goroutine, the core loop, owns all controller state and calls the apps.
// Each session has a worker goroutine that compiles the parts it is assigned,
// compares them with what the switch holds, and applies the difference. The core
// never waits for a session, and a session never for another.
package controller

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

const (
	// rerouteEvery is the shortest time between two recalculations of paths. Where one
	// keeps the core busy for long, rerouteRest times that passes before the next, up
	// to rerouteMost: a network that comes up link by link is routed a few times, not
	// all the time.
	rerouteEvery = 200 * time.Millisecond
	rerouteRest  = 5
	rerouteMost  = 2 * time.Second
	// goneAfter is how long a switch whose session ended stays in the graph, and its
	// links are believed without being heard. Its flows outlive the session: a loss of
	// the channel is no reason to route around it or to forget the hosts behind it. A
	// switch that dies takes the ports of its neighbours down.
	goneAfter = 30 * time.Second
	// heardWithin is how long the links of a switch that came back at the last moment
	// have for being heard again.
	heardWithin = 15 * time.Second
	// returnWithin is how long a switch known from before a restart stays in the
	// graph without having connected.
	returnWithin = 30 * time.Second
	// maxAway bounds the switches remembered after they left.
	maxAway = 4096
	// packetInTurn is how many packet-ins of one switch are taken before it is the
	// next switch's turn.
	packetInTurn = 64
)

// Store is what the controller keeps over a restart.
type Store interface {
	// Stages returns the stages that were set.
	Stages(ctx context.Context) (map[ofproto.DPID]Stage, error)
	// SetStage stores one durably.
	SetStage(ctx context.Context, dpid ofproto.DPID, stage Stage) error
	// NextTerm returns a number above least and above all it ever returned.
	NextTerm(ctx context.Context, least uint64) (uint64, error)
	// Capabilities returns what was probed of each kind of switch.
	Capabilities(ctx context.Context) (map[string]Capabilities, error)
	// SetCapabilities stores one kind's.
	SetCapabilities(ctx context.Context, kind string, c Capabilities) error
}

// Options configures a Controller. The fields down to Log are required.
type Options struct {
	Store        Store
	Graph        *topology.Graph
	Apps         []App
	Cluster      string // identity of the store
	DefaultStage Stage  // of switches that have none stored
	Log          *slog.Logger

	// Bindings keeps which certificate each switch is bound to; nil: they are kept
	// until the process ends.
	Bindings Bindings
	// AllowPlain lets switches on other machines connect without TLS.
	AllowPlain bool
	// PacketInRate and PacketInPortRate are how many packets a second are taken from
	// one switch, and from one port of it; the rest is dropped and counted. 0: the
	// default; below 0: no limit.
	PacketInRate, PacketInPortRate int
}

// Controller accepts switches and runs the apps. Make one with New, then Run it.
type Controller struct {
	Options
	log         *slog.Logger
	logLimited  limitedLog
	term        atomic.Uint64
	firstTerm   uint64 // of this start
	termsMu     sync.Mutex
	terms       map[uint64]bool // given out since
	heldReasons atomic.Pointer[[]string]
	cmds        chan func()
	inbox       inbox
	notices     notices
	saver       saver
	kinds       kinds
	admission   *admission
	bindings    bindings
	alarms      alarms
	warnPlain   sync.Once
	stopped     chan struct{}

	// Owned by the core loop.
	ctx       *Context
	sessions  map[ofproto.DPID]*session // claimed, attached or not
	stages    map[ofproto.DPID]Stage
	away      map[ofproto.DPID]*Switch // were connected since the start
	goneAt    map[ofproto.DPID]time.Time
	seq       uint64 // of assigned parts
	unflushed []*session
	reroute   bool
	rerouted  bool      // in this turn of the loop
	rerouteAt time.Time // not before
}

// New reads what is stored and returns a controller that is ready to Run.
func New(ctx context.Context, o Options) (*Controller, error) {
	stages, err := o.Store.Stages(ctx)
	if err != nil {
		return nil, fmt.Errorf("controller: read stages: %w", err)
	}
	term, err := o.Store.NextTerm(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("controller: take a term: %w", err)
	}
	bound := map[ofproto.DPID]Binding{}
	if o.Bindings != nil {
		if bound, err = o.Bindings.Bindings(ctx); err != nil {
			return nil, fmt.Errorf("controller: read bindings: %w", err)
		}
	}
	c := &Controller{
		admission: newAdmission(),
		bindings:  bindings{store: o.Bindings, of: bound},

		Options:  o,
		log:      o.Log,
		cmds:     make(chan func(), 64),
		inbox:    inbox{signal: make(chan struct{}, 1)},
		saver:    saver{signal: make(chan struct{}, 1), pending: map[string]func(context.Context) error{}},
		stopped:  make(chan struct{}),
		sessions: map[ofproto.DPID]*session{},
		stages:   stages,
		away:     map[ofproto.DPID]*Switch{},
		goneAt:   map[ofproto.DPID]time.Time{},
		ctx:      NewContext(time.Now(), o.Graph, nil),
	}
	c.term.Store(term)
	if err := c.kinds.load(ctx, o.Store); err != nil {
		return nil, err
	}
	c.firstTerm, c.terms = term, map[uint64]bool{term: true}
	// Switches known from before a restart have that long to come back.
	for _, sw := range o.Graph.Snapshot().Switches() {
		c.goneAt[ofproto.DPID(sw.DPID)] = c.ctx.Now.Add(returnWithin)
	}
	return c, nil
}

// Run accepts switches from the listeners until ctx ends, and then closes every
// session, leaving the switches as they are. It owns the listeners.
func (c *Controller) Run(ctx context.Context, listeners ...net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(c.stopped)
		return c.loop(ctx)
	})
	g.Go(func() error { return c.saver.run(ctx, c.log) })
	for _, ln := range listeners {
		g.Go(func() error { return c.accept(ctx, ln) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// accept serves the connections of one listener and waits for them to end.
func (c *Controller) accept(ctx context.Context, ln net.Listener) error {
	var sessions sync.WaitGroup
	defer sessions.Wait()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	for {
		nc, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			var temporary interface{ Temporary() bool }
			if errors.As(err, &temporary) && temporary.Temporary() {
				// Out of descriptors, most likely: wait for some to be given back.
				c.logLimited.log(c.log, slog.LevelError, "accept", "error", err)
				select {
				case <-time.After(100 * time.Millisecond):
					continue
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return fmt.Errorf("controller: accept: %w", err)
		}
		sessions.Go(func() {
			peer := nc.RemoteAddr().String()
			if err := c.serve(ctx, nc); err != nil && ctx.Err() == nil {
				c.logLimited.log(c.log, slog.LevelWarn, "session ended", "peer", peer, "reason", err)
			}
		})
	}
}

// Do runs f on the core loop and waits for it. f must not block.
func (c *Controller) Do(ctx context.Context, f func(*Context)) error {
	done := make(chan struct{})
	err := errPanic // until f has returned
	if err := c.enqueue(ctx, func() { defer close(done); f(c.ctx); err = nil }); err != nil {
		return err
	}
	select {
	case <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.stopped:
		return errStopped
	}
}

var errStopped = errors.New("controller: stopped")

// Post gives an event to every app.
func (c *Controller) Post(ctx context.Context, event any) error {
	return c.enqueue(ctx, func() { c.ctx.Emit(event) })
}

func (c *Controller) enqueue(ctx context.Context, f func()) error {
	select {
	case c.cmds <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.stopped:
		return errStopped
	}
}

// SetStage stores the stage of a switch and moves the switch to it.
func (c *Controller) SetStage(ctx context.Context, dpid ofproto.DPID, stage Stage) error {
	if err := c.Store.SetStage(ctx, dpid, stage); err != nil {
		return fmt.Errorf("controller: store stage: %w", err)
	}
	return c.Do(ctx, func(x *Context) {
		c.stages[dpid] = stage
		if sw := x.switches[dpid]; sw != nil && sw.Stage != stage {
			sw.Stage = stage
			x.Emit(StageChanged{dpid})
			x.Notify("switch", map[string]any{"dpid": dpid.String(), "stage": stage.String()})
		}
	})
}

// Flows asks a connected switch for all its flow entries. What f gets is only good
// during the call. ErrNotConnected when the switch is not.
func (c *Controller) Flows(ctx context.Context, dpid ofproto.DPID, f func(ofproto.FlowStats)) error {
	return read(ctx, c, dpid, allFlows(), ofproto.FlowStatsOf, f)
}

// Groups asks a connected switch for the descriptions of its groups. What f gets
// is only good during the call.
func (c *Controller) Groups(ctx context.Context, dpid ofproto.DPID, f func(ofproto.GroupDesc)) error {
	return read(ctx, c, dpid, &ofproto.MultipartRequest{Type: ofproto.MultipartGroupDesc}, ofproto.GroupDescOf, f)
}

// GroupStats asks a connected switch for the counters of its groups. What f gets is
// only good during the call.
func (c *Controller) GroupStats(ctx context.Context, dpid ofproto.DPID, f func(ofproto.GroupStats)) error {
	req := &ofproto.MultipartRequest{Type: ofproto.MultipartGroup, Body: &ofproto.GroupStatsRequest{Group: ofproto.GroupAll}}
	return read(ctx, c, dpid, req, ofproto.GroupStatsOf, f)
}

func read[T any](ctx context.Context, c *Controller, dpid ofproto.DPID, req *ofproto.MultipartRequest, records func([]byte) iter.Seq2[T, error], f func(T)) error {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return err
	}
	return s.conn.Multipart(ctx, req, func(b []byte) error { return each(records(b), f) })
}

// each calls f with every record until one cannot be parsed.
func each[T any](records iter.Seq2[T, error], f func(T)) error {
	for r, err := range records {
		if err != nil {
			return err
		}
		f(r)
	}
	return nil
}

// ErrNotConnected says that no session with a switch is ready.
var ErrNotConnected = errors.New("controller: switch is not connected")

func (c *Controller) session(ctx context.Context, dpid ofproto.DPID) (s *session, err error) {
	err = c.Do(ctx, func(x *Context) {
		if sw := x.switches[dpid]; sw != nil {
			s = sw.session
		}
	})
	if err == nil && s == nil {
		err = ErrNotConnected
	}
	return s, err
}

// claim makes s the session of its datapath id. When another connection holds the
// id, that one is probed: the live one stays and the newcomer is refused; a dead
// one is closed and superseded.
func (c *Controller) claim(ctx context.Context, s *session) error {
	for {
		var old *session
		err := c.Do(ctx, func(*Context) {
			if old = c.sessions[s.dpid]; old == nil {
				c.sessions[s.dpid] = s
			}
		})
		if err != nil {
			return err
		}
		if old == nil {
			return nil
		}
		if old.alive(ctx) {
			c.alarm("duplicate "+s.dpid.String(), "duplicate datapath id refused", "dpid", s.dpid.String(), "peer", s.peer.String(), "holder", old.peer.String())
			return fmt.Errorf("%w: %s", errDuplicate, old.peer)
		}
		old.conn.CloseWith(errSuperseded)
		c.detach(old)
	}
}

// raiseTerm makes the term at least least.
func (c *Controller) raiseTerm(ctx context.Context, least uint64) error {
	term, err := c.Store.NextTerm(ctx, least)
	if err != nil {
		return fmt.Errorf("controller: raise term: %w", err)
	}
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	c.terms[term] = true
	if term > c.term.Load() {
		c.term.Store(term)
	}
	return nil
}

// suspect says whether a term that a switch has seen is none that this store gave
// out: later than the one of this start, and not one it was raised to since.
func (c *Controller) suspect(term uint64) bool {
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	return term != ^uint64(0) && int64(term-c.firstTerm) > 0 && !c.terms[term]
}

// attach makes a session's switch known to the apps and assigns all its parts.
func (c *Controller) attach(ctx context.Context, s *session) error {
	err := c.Do(ctx, func(x *Context) {
		if c.sessions[s.dpid] != s {
			return // superseded meanwhile
		}
		stage, ok := c.stages[s.dpid]
		if !ok {
			stage = c.DefaultStage
		}
		sw := &Switch{
			DPID: s.dpid, Remote: s.peer, Desc: s.desc, Stage: stage, Role: s.role, Capabilities: s.caps,
			Ports: map[ofproto.Port]ofproto.PortDesc{}, Connected: true, Secure: s.cert != nil, Since: x.Now, Faults: map[string]string{},
			pending: map[flowtable.PartKey]uint64{}, session: s,
		}
		if was := c.away[s.dpid]; was != nil && was.Flows > 0 && s.empty {
			// OpenFlow does not tell the fail mode of a switch: this is how it shows.
			s.log().Warn("the switch came back empty and is filled again: it was restarted, or is set to forget its entries "+
				"while its controller is away (on Open vSwitch: ovs-vsctl set-fail-mode BRIDGE secure)", "flows", was.Flows)
		}
		x.switches[s.dpid], x.order = sw, nil
		delete(c.away, s.dpid)
		delete(c.goneAt, s.dpid)
		states := make([]topology.PortState, 0, len(s.ports))
		for _, p := range s.ports {
			sw.Ports[p.Port] = p
			states = append(states, portState(p))
		}
		c.emitTopology(x.Graph.SetSwitch(topology.DPID(s.dpid), states, x.Now))
		x.Emit(SwitchUp{s.dpid})
		x.Notify("switch", map[string]any{"dpid": s.dpid.String(), "connected": true, "stage": stage.String()})
		c.dispatch()
		c.assign(sw, c.compileAll(sw), true)
		// From here on events of the switch are delivered; first those kept so far.
		s.phase.Store(phaseReady)
		s.mu.Lock()
		s.enqueueLocked()
		s.log().Log(ctx, s.logLevel(), "switch connected", "stage", stage, "software", sw.Desc.Software, "ports", len(sw.Ports), "bundles", s.caps.Bundles)
	})
	return err
}

// portState is what the graph needs of a port. Of the reserved ports only LOCAL,
// the bridge's own interface, is part of the network.
func portState(p ofproto.PortDesc) topology.PortState {
	return topology.PortState{Port: topology.Port(p.Port), Name: p.Name, Up: p.Up() && (p.Port < ofproto.PortMax || p.Port == ofproto.PortLocal), MAC: topology.MAC(p.HWAddr)}
}

// unknownPart stands for the parts of an app that cannot say which it has.
const unknownPart = "?"

// compileAll captures every part that the apps desire on a switch.
func (c *Controller) compileAll(sw *Switch) map[flowtable.PartKey]Source {
	parts := map[flowtable.PartKey]Source{{App: AppStore, Name: markPart}: markSource(c.Cluster)}
	for _, app := range c.Apps {
		// What a bug leaves out must not count as not desired: its place is taken by a
		// part that does not compile.
		names := []string{unknownPart}
		c.call(app, func(x *Context) { names = app.Parts(x, sw) })
		for _, name := range names {
			src := Source{Build: func() flowtable.Part { panic("the app panicked") }}
			if name != unknownPart {
				c.call(app, func(x *Context) { src = app.Compile(x, sw, name) })
			}
			parts[flowtable.PartKey{App: app.ID(), Name: name}] = src
		}
	}
	for k := range c.ctx.dirty {
		if k.dpid == sw.DPID {
			delete(c.ctx.dirty, k)
		}
	}
	return parts
}

// leave keeps what is known of a switch that is not connected any more, for display.
func (c *Controller) leave(sw *Switch, now time.Time) {
	sw.Connected, sw.Since = false, now
	clear(sw.pending)
	sw.wakeIfSettled()
	if len(c.away) >= maxAway {
		for dpid := range c.away {
			delete(c.away, dpid)
			break
		}
	}
	c.away[sw.DPID] = sw
}

// Known calls f on the core loop with every switch that is connected, was connected
// since the start, or has a stage stored. f must keep nothing of it.
func (c *Controller) Known(ctx context.Context, f func(*Context, *Switch)) error {
	return c.Do(ctx, func(x *Context) {
		all := map[ofproto.DPID]*Switch{}
		for dpid, stage := range c.stages {
			all[dpid] = &Switch{DPID: dpid, Stage: stage}
		}
		maps.Copy(all, c.away)
		maps.Copy(all, x.switches)
		for _, dpid := range slices.Sorted(maps.Keys(all)) {
			if stage, ok := c.stages[dpid]; ok {
				all[dpid].Stage = stage
			}
			f(x, all[dpid])
		}
	})
}

// assign hands parts to the worker of a switch and remembers that it owes an answer.
func (c *Controller) assign(sw *Switch, parts map[flowtable.PartKey]Source, complete bool) {
	for key, src := range parts {
		c.seq++
		src.seq = c.seq
		parts[key] = src
		sw.pending[key] = src.seq
	}
	sw.session.assign(parts, complete)
}

// Settled returns nil when a switch has acknowledged or refused all that it is to
// hold now, or is not connected. The error is that of ctx.
func (c *Controller) Settled(ctx context.Context, dpid ofproto.DPID) error {
	done := make(chan struct{})
	err := c.Do(ctx, func(x *Context) {
		sw := x.switches[dpid]
		if sw == nil {
			close(done)
			return
		}
		sw.waiters = append(sw.waiters, done)
		sw.wakeIfSettled()
	})
	if err != nil {
		return err
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// wakeIfSettled releases those who wait for a switch that owes no answer.
func (s *Switch) wakeIfSettled() {
	if len(s.pending) > 0 {
		return
	}
	for _, done := range s.waiters {
		close(done)
	}
	s.waiters = nil
}

// detach ends what the core knows of a session.
func (c *Controller) detach(s *session) {
	// After the core has stopped there is nothing to tell.
	_ = c.Do(context.Background(), func(x *Context) {
		if c.sessions[s.dpid] != s {
			return
		}
		delete(c.sessions, s.dpid)
		if sw := x.switches[s.dpid]; sw != nil && sw.session == s {
			delete(x.switches, s.dpid)
			x.order = nil
			c.publishHeld()
			c.leave(sw, x.Now)
			c.goneAt[s.dpid] = x.Now.Add(goneAfter)
			for _, l := range x.Graph.Snapshot().Links() {
				if l.State == topology.StateUp && (l.A.DPID == topology.DPID(s.dpid) || l.B.DPID == topology.DPID(s.dpid)) {
					c.emitTopology(x.Graph.SeedLink(l.A, l.B, c.goneAt[s.dpid].Add(heardWithin), x.Now))
				}
			}
			x.Emit(SwitchDown{s.dpid})
			x.Notify("switch", map[string]any{"dpid": s.dpid.String(), "connected": false})
			s.log().Log(context.Background(), s.logLevel(), "switch disconnected", "reason", s.conn.Err())
		}
	})
}

type partResult struct {
	key flowtable.PartKey
	src Source
	err error
}

type tableCounts struct{ flows, groups, foreign int }

// applied takes a worker's report.
func (c *Controller) applied(ctx context.Context, s *session, results []partResult, counts tableCounts) {
	_ = c.enqueue(ctx, func() {
		sw := c.ctx.switches[s.dpid]
		if sw == nil || sw.session != s {
			return
		}
		sw.Flows, sw.Groups, sw.Foreign = counts.flows, counts.groups, counts.foreign
		for _, r := range results {
			if r.key.App == 0 {
				continue // what was left over from earlier
			}
			if sw.pending[r.key] == r.src.seq {
				delete(sw.pending, r.key)
			}
			name := AppNames[r.key.App] + "/" + r.key.Name
			if r.err == nil {
				delete(sw.Faults, name)
			} else if errors.Is(r.err, ErrHeld) {
				// The switch's own fault says so.
			} else if old := sw.Faults[name]; old != r.err.Error() {
				sw.Faults[name] = r.err.Error()
				if !sameFault(old, r.err) {
					s.log().Error("switch refuses a part", "part", name, "error", r.err)
				}
			}
			for _, app := range c.Apps {
				if app.ID() == r.key.App {
					c.call(app, func(x *Context) {
						app.Handle(x, Applied{DPID: s.dpid, Part: r.key.Name, Tag: r.src.Tag, Err: r.err})
					})
				}
			}
		}
		sw.wakeIfSettled()
	})
}

// sameFault says whether the log has an error already: the same name of the switch's,
// on whatever message of the part.
func sameFault(old string, err error) bool {
	var e *ofproto.Error
	return errors.As(err, &e) && strings.HasSuffix(old, e.Error())
}

// loop is the core loop.
func (c *Controller) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-c.cmds:
			c.now()
			c.contain(f)
		case <-c.inbox.signal:
			c.now()
			if s := c.inbox.take(); s != nil {
				c.contain(func() { c.drain(s) })
			}
		case <-timer.C:
			c.now()
			c.contain(c.timers)
		}
		c.contain(c.flush)
		timer.Reset(c.nextTimer())
	}
}

// contain keeps a panic in what the core does for one event from ending the process:
// what the switches hold goes on, and the next event or audit finds what was missed.
func (c *Controller) contain(f func()) {
	defer func() {
		if r := recover(); r != nil {
			c.admission.panicked()
			c.log.Error("core panicked", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	f()
}

func (c *Controller) now() { c.ctx.Now = time.Now() }

// drain takes what a session has received, a turn's worth.
func (c *Controller) drain(s *session) {
	s.mu.Lock()
	ports := s.portEvs
	s.portEvs = nil
	n := min(len(s.packetIns), packetInTurn)
	packets := s.packetIns[:n:n]
	if s.packetIns = s.packetIns[n:]; len(s.packetIns) == 0 {
		s.packetIns = nil
	}
	s.queued = len(s.packetIns) > 0
	again := s.queued
	received, dropped := s.received, s.dropped
	s.mu.Unlock()
	if again {
		c.inbox.put(s)
	}
	x := c.ctx
	sw := x.switches[s.dpid]
	if sw == nil || sw.session != s {
		return
	}
	sw.PacketIns, sw.PacketInsDropped = received, dropped
	for _, p := range ports {
		c.portStatus(sw, p)
	}
	for _, p := range packets {
		p.DPID = s.dpid
		x.Emit(p)
		c.dispatch()
	}
}

func (c *Controller) portStatus(sw *Switch, p ofproto.PortStatus) {
	x := c.ctx
	removed := p.Reason == ofproto.PortReasonDelete
	if _, known := sw.Ports[p.Desc.Port]; !known && (removed || len(sw.Ports) >= maxPorts) {
		return
	}
	state := portState(p.Desc)
	if removed {
		delete(sw.Ports, p.Desc.Port)
		c.emitTopology(x.Graph.RemovePort(topology.Place{DPID: topology.DPID(sw.DPID), Port: state.Port}, x.Now))
	} else {
		sw.Ports[p.Desc.Port] = p.Desc
		c.emitTopology(x.Graph.SetPort(topology.DPID(sw.DPID), state, x.Now))
	}
	x.Emit(PortChanged{DPID: sw.DPID, Desc: p.Desc, Removed: removed})
	x.Notify("switch", map[string]any{"dpid": sw.DPID.String(), "port": uint32(p.Desc.Port), "up": !removed && p.Desc.Up()})
}

// emitTopology hands topology events to the apps.
func (c *Controller) emitTopology(events []topology.Event) {
	for _, e := range events {
		c.ctx.Emit(e)
	}
}

// flush brings the effects of what was just handled to where they belong.
func (c *Controller) flush() {
	c.dispatch()
	x := c.ctx
	if len(x.dirty) > 0 {
		assign := map[*Switch]map[flowtable.PartKey]Source{}
		for k := range x.dirty {
			sw := x.switches[k.dpid]
			if sw == nil {
				continue
			}
			parts := assign[sw]
			if parts == nil {
				parts = map[flowtable.PartKey]Source{}
				assign[sw] = parts
			}
			for _, app := range c.Apps {
				if app.ID() == k.part.App {
					c.call(app, func(x *Context) { parts[k.part] = app.Compile(x, sw, k.part.Name) })
				}
			}
		}
		x.dirty = map[dirtyKey]struct{}{} // a large one that is cleared stays large
		for sw, parts := range assign {
			c.assign(sw, parts, false)
		}
	}
	for _, p := range x.packetOuts {
		if sw := x.switches[p.dpid]; sw != nil && sw.session.conn.TryQueue(0, p.msg) && !sw.session.unflushed {
			sw.session.unflushed = true
			c.unflushed = append(c.unflushed, sw.session)
		}
	}
	for _, s := range c.unflushed {
		s.unflushed = false
		s.conn.Flush()
	}
	clear(c.unflushed)
	c.unflushed = c.unflushed[:0]
	clear(x.packetOuts)
	x.packetOuts = x.packetOuts[:0]
	if len(x.notices) > 0 {
		c.notices.publish(x.Now, x.notices)
		x.notices = nil
	}
	if len(x.saves) > 0 {
		c.saver.put(x.saves)
		x.saves = nil
	}
	if c.rerouted {
		c.rerouted = false
		c.rerouteAt = x.Now.Add(min(max(rerouteRest*time.Since(x.Now), rerouteEvery), rerouteMost))
	}
}

// dispatch hands every emitted event to every app, and those that they emit.
func (c *Controller) dispatch() {
	x := c.ctx
	for len(x.events) > 0 {
		e := x.events[0]
		x.events = x.events[1:]
		switch e := e.(type) {
		case topology.LinkUp, topology.LinkDown:
			c.reroute = true
		case StageChanged:
			defer func() {
				if sw := x.switches[e.DPID]; sw != nil {
					c.assign(sw, c.compileAll(sw), false)
				}
			}()
		}
		for _, app := range c.Apps {
			c.call(app, func(x *Context) { app.Handle(x, e) })
		}
	}
	x.events = nil
	if c.reroute && !x.Now.Before(c.rerouteAt) {
		c.reroute = false
		x.Emit(Rerouted{})
		c.dispatch()
		c.rerouted = true
	}
}

// call runs an app and contains its panics: a bug that one packet brings out must
// not take the network's controller down.
func (c *Controller) call(app App, f func(*Context)) {
	defer func() {
		if r := recover(); r != nil {
			c.admission.panicked()
			c.log.Error("app panicked", "app", AppNames[app.ID()], "panic", r, "stack", string(debug.Stack()))
		}
	}()
	c.ctx.app = app
	f(c.ctx)
}

// timers handles what is due.
func (c *Controller) timers() {
	x := c.ctx
	for dpid, at := range c.goneAt {
		if !at.After(x.Now) {
			delete(c.goneAt, dpid)
			c.emitTopology(x.Graph.RemoveSwitch(topology.DPID(dpid), x.Now))
		}
	}
	for _, app := range c.Apps {
		if at, ok := x.wake[app.ID()]; ok && !at.After(x.Now) {
			delete(x.wake, app.ID())
			c.call(app, func(x *Context) { app.Handle(x, Woken{}) })
		}
	}
}

func (c *Controller) nextTimer() time.Duration {
	next := c.ctx.Now.Add(time.Hour)
	for at := range maps.Values(c.goneAt) {
		next = earlier(next, at)
	}
	for at := range maps.Values(c.ctx.wake) {
		next = earlier(next, at)
	}
	if c.reroute {
		next = earlier(next, c.rerouteAt)
	}
	return max(time.Until(next), 0)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// inbox is the queue of sessions that have something for the core. A session is
// in it at most once, so it is bounded by their number.
type inbox struct {
	mu     sync.Mutex
	queue  []*session
	signal chan struct{}
}

func (in *inbox) put(s *session) {
	in.mu.Lock()
	in.queue = append(in.queue, s)
	in.mu.Unlock()
	in.poke()
}

func (in *inbox) poke() {
	select {
	case in.signal <- struct{}{}:
	default:
	}
}

func (in *inbox) take() *session {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue) == 0 {
		return nil
	}
	s := in.queue[0]
	in.queue = in.queue[1:]
	if len(in.queue) > 0 {
		in.poke()
	} else {
		in.queue = nil
	}
	return s
}

// saver makes the writes of Context.Save, the last of each key.
type saver struct {
	mu      sync.Mutex
	pending map[string]func(context.Context) error
	signal  chan struct{}
}

func (s *saver) put(list []save) {
	s.mu.Lock()
	for _, v := range list {
		s.pending[v.key] = v.write
	}
	s.mu.Unlock()
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

func (s *saver) run(ctx context.Context, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			s.write(context.WithoutCancel(ctx), log)
			return ctx.Err()
		case <-s.signal:
			s.write(ctx, log)
		}
	}
}

func (s *saver) write(ctx context.Context, log *slog.Logger) {
	s.mu.Lock()
	pending := s.pending
	s.pending = map[string]func(context.Context) error{}
	s.mu.Unlock()
	for key, write := range pending {
		if err := write(ctx); err != nil {
			log.Warn("not saved; a restart will have to learn it again", "what", key, "error", err)
		}
	}
}

// limitedLog lets a message through at most once a second for each text and
// datapath, and says how many it held back.
type limitedLog struct {
	mu   sync.Mutex
	seen map[limitedKey]limitedState
}

type limitedKey struct {
	log  *slog.Logger
	text string
}

type limitedState struct {
	at   time.Time
	held int
}

func (l *limitedLog) log(log *slog.Logger, level slog.Level, text string, args ...any) {
	now := time.Now()
	l.mu.Lock()
	k := limitedKey{log, text}
	st := l.seen[k]
	if now.Sub(st.at) < time.Second {
		st.held++
		l.seen[k] = st
		l.mu.Unlock()
		return
	}
	if l.seen == nil || len(l.seen) > 4096 {
		l.seen = map[limitedKey]limitedState{}
	}
	l.seen[k] = limitedState{at: now}
	l.mu.Unlock()
	if st.held > 0 {
		args = append(args, "held_back", st.held)
	}
	log.Log(context.Background(), level, text, args...)
}
