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
	"crypto/tls"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"slices"
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
	// rerouteUnrest is the shortest time where changes go on and on: each recalculation
	// that follows the one before within rerouteCalm doubles the time to the next, up to
	// it. A change after a calm is followed at once, and so, but for rerouteEvery, is the
	// loss of a link that was not lost within rerouteForget before, and beside legacy
	// segments one that comes up and did not within that.
	rerouteUnrest = 700 * time.Millisecond
	rerouteCalm   = 2 * time.Second
	rerouteForget = 10 * time.Second
	// goneAfter is how long a switch whose session ended stays in the graph, and its
	// links are believed without being heard. Its flows outlive the session: a loss of
	// the channel is no reason to route around it or to forget the hosts behind it. A
	// switch that dies takes the ports of its neighbours down.
	goneAfter = 30 * time.Second
	// witnessEvery is the time between two looks at whether a switch that has left the
	// graph, and forwards on, still does.
	witnessEvery = time.Second
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
	packetInTurn = 128
)

// Store is what the controller keeps over a restart.
type Store interface {
	// Stages returns the stages that were set.
	Stages(ctx context.Context) (map[ofproto.DPID]Stage, error)
	// SetStage stores one durably.
	SetStage(ctx context.Context, dpid ofproto.DPID, stage Stage) error
	// BPDUs returns the choices for BPDUs that were made.
	BPDUs(ctx context.Context) (map[ofproto.DPID]BPDUs, error)
	// SetBPDUs stores one durably.
	SetBPDUs(ctx context.Context, dpid ofproto.DPID, b BPDUs) error
	// PortMACs returns the hardware addresses of ports that were kept.
	PortMACs(ctx context.Context) (map[ofproto.DPID][]ofproto.MAC, error)
	// SetPortMACs stores those of one switch, in place of those it had; it keeps none
	// of the slice.
	SetPortMACs(ctx context.Context, dpid ofproto.DPID, macs []ofproto.MAC) error
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
	// Recheck says why a switch that is connected would not be accepted any more; it is
	// asked once a minute. For a *CertificateError the session ends, others are told. nil:
	// nobody asks.
	Recheck func(tls.ConnectionState) error
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
	terms       map[uint64]bool       // given out since
	told        map[ofproto.DPID]bool // a term of this start; termsMu
	confirmed   map[ofproto.DPID]bool // may be taken from another controller; termsMu
	opened      map[ofproto.DPID]bool // the gate did, since the start; termsMu
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
	apps        map[flowtable.AppID]App

	// Held by who is the core: the loop, or a reader for a moment (offer). It guards
	// what follows.
	turns     sync.Mutex
	timerAt   time.Time // when the loop wakes by itself
	brief     bool      // the core is a reader's
	ctx       *Context
	sessions  map[ofproto.DPID]*session // claimed, attached or not
	stages    map[ofproto.DPID]Stage
	bpdus     map[ofproto.DPID]BPDUs
	portMACs  map[ofproto.DPID][]ofproto.MAC // of the ports last seen, in order; never written in place
	away      map[ofproto.DPID]*Switch       // were connected since the start
	goneAt    map[ofproto.DPID]time.Time
	witnessAt time.Time // when it is next looked at whether switches that have left the graph forward on
	seq       uint64    // of assigned parts
	unflushed []*session
	reroute   bool
	rerouted  bool      // in this turn of the loop
	rerouteAt time.Time // not before
	// rerouteSoon is the least that rerouteAt may be: a link that changes for the first
	// time does not wait for the unrest to end (see rerouteFor).
	rerouteSoon time.Time
	linksAt     map[linkChange]time.Time // when links were lost last, and when they came up
	unrest      int                      // recalculations that followed one another
}

// New reads what is stored and returns a controller that is ready to Run.
func New(ctx context.Context, o Options) (*Controller, error) {
	stages, err := o.Store.Stages(ctx)
	if err != nil {
		return nil, fmt.Errorf("controller: read stages: %w", err)
	}
	bpdus, err := o.Store.BPDUs(ctx)
	if err != nil {
		return nil, fmt.Errorf("controller: read choices for BPDUs: %w", err)
	}
	macs, err := o.Store.PortMACs(ctx)
	if err != nil {
		return nil, fmt.Errorf("controller: read addresses of ports: %w", err)
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
		apps:     map[flowtable.AppID]App{},
		sessions: map[ofproto.DPID]*session{},
		stages:   stages,
		bpdus:    bpdus,
		portMACs: macs,
		away:     map[ofproto.DPID]*Switch{},
		goneAt:   map[ofproto.DPID]time.Time{},
		linksAt:  map[linkChange]time.Time{},
		ctx:      NewContext(time.Now(), o.Graph, nil),
	}
	for _, app := range o.Apps {
		c.apps[app.ID()] = app
	}
	c.term.Store(term)
	if err := c.kinds.load(ctx, o.Store); err != nil {
		return nil, err
	}
	c.firstTerm, c.terms = term, map[uint64]bool{term: true}
	c.told, c.confirmed, c.opened = map[ofproto.DPID]bool{}, map[ofproto.DPID]bool{}, map[ofproto.DPID]bool{}
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
				c.logLimited.log(c.log, limitedKey{text: "accept"}, 1, slog.LevelError, "error", err)
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
				c.logLimited.log(c.log, limitedKey{text: "session ended"}, 1, slog.LevelWarn, "peer", peer, "reason", err)
			}
		})
	}
}

// Do runs f on the core loop and waits for it. f must not block. When Do returns an
// error of ctx, f has not run and will not.
func (c *Controller) Do(ctx context.Context, f func(*Context)) error {
	done := make(chan struct{})
	var taken atomic.Bool // by the loop, to run f, or by a caller who waits no more
	err := errPanic       // until f has returned
	run := func() {
		if taken.CompareAndSwap(false, true) {
			defer close(done)
			f(c.ctx)
			err = nil
		}
	}
	if err := c.enqueue(ctx, run); err != nil {
		return err
	}
	why := errStopped
	select {
	case <-done:
		return err
	case <-ctx.Done():
		why = ctx.Err()
	case <-c.stopped:
	}
	if taken.CompareAndSwap(false, true) {
		return why
	}
	<-done // f is running, or has just run
	return err
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

// leaveWithin bounds the wait for the others when a switch is to forward on its own.
const leaveWithin = 2 * time.Second

// SetStage stores the stage of a switch and moves the switch to it. One that leaves stage
// managed does so after those beside it have stopped using all but one of the cables to it: what
// it learns on its own from a cable that is about to be closed, it would not soon forget.
func (c *Controller) SetStage(ctx context.Context, dpid ofproto.DPID, stage Stage) error {
	if err := c.Store.SetStage(ctx, dpid, stage); err != nil {
		return fmt.Errorf("controller: store stage: %w", err)
	}
	leaves := false
	var before *topology.Snapshot
	err := c.Do(ctx, func(x *Context) {
		c.stages[dpid] = stage
		sw := x.switches[dpid]
		if leaves = sw != nil && sw.Stage == StageManaged && stage != StageManaged; leaves {
			before = x.Graph.Snapshot()
			c.rerouteAt = x.Now // paths are calculated in this turn
			x.Emit(StageLeaving{dpid})
		} else {
			c.moveTo(sw, stage)
		}
	})
	if err != nil || !leaves {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	if err := c.diverted(wait, before); err != nil && wait.Err() == nil {
		return err
	}
	// Whoever asked may have gone meanwhile: what was begun is ended.
	return c.Do(context.WithoutCancel(ctx), func(x *Context) {
		if c.stages[dpid] == stage { // else it was moved again
			c.moveTo(x.switches[dpid], stage)
		}
	})
}

// moveTo moves a switch, if it is connected, to a stage.
func (c *Controller) moveTo(sw *Switch, stage Stage) {
	if sw == nil || sw.Stage == stage {
		return
	}
	sw.Stage = stage
	c.ctx.Emit(StageChanged{sw.DPID})
	c.ctx.Notify("switch", map[string]any{"dpid": sw.DPID.String(), "stage": stage.String()})
}

// diverted waits until the switches that use other ports than before have acknowledged what
// they are to hold.
func (c *Controller) diverted(ctx context.Context, before *topology.Snapshot) error {
	var now *topology.Snapshot
	if err := c.Do(ctx, func(x *Context) { now = x.Graph.Snapshot() }); err != nil {
		return err
	}
	for _, id := range now.Diverted(before) {
		if err := c.Settled(ctx, ofproto.DPID(id)); err != nil {
			return err
		}
	}
	return nil
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

// PortStats asks a connected switch for the counters of its ports. ErrNotConnected when
// the switch is not.
func (c *Controller) PortStats(ctx context.Context, dpid ofproto.DPID, f func(ofproto.PortStats)) error {
	req := &ofproto.MultipartRequest{Type: ofproto.MultipartPortStats, Body: ofproto.PortStatsRequest{Port: ofproto.PortAny}}
	return read(ctx, c, dpid, req, ofproto.PortStatsOf, f)
}

func read[T any](ctx context.Context, c *Controller, dpid ofproto.DPID, req *ofproto.MultipartRequest, records func([]byte) iter.Seq2[T, error], f func(T)) error {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return err
	}
	n := 0 // whoever asks keeps more of each than the switch has to send
	return s.conn.Multipart(ctx, req, func(b []byte) error {
		if n > maxInstalled {
			return errTooManyEntries
		}
		return each(records(b), func(v T) { n++; f(v) })
	})
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
			all[dpid].BPDUs = c.bpdus[dpid]
			f(x, all[dpid])
		}
	})
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
