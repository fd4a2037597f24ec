package migration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// world is a network of bridges and switches that obey, a store, and a prober. A test
// breaks what it likes; a program that is killed in it can do nothing any more.
type world struct {
	mu       sync.Mutex
	stored   map[string][]byte
	bridges  map[string]*fakeBridge // by name
	switches map[string]*fakeSwitch // by datapath id; those of adopted bridges too
	gone     map[ovsdb.Endpoint]bool
	links    *topology.Graph
	vips     []VIP
	room     uint32
	// broken says what is worse now.
	broken       func(w *world) []string
	silent       []string
	first        bool              // hosts answer only through bridges that are adopted, or have joined
	joined       string            // datapath id of a bridge that has, and is not taken over
	silentJoined []string          // what does not answer through that
	like         Measurement       // that was compared with last
	taken        func(*fakeSwitch) // is told of switches that are adopted
	measured     int
	done         []string // what was done to the network, in order
	events       int

	step   int // counts what a program does: writes, and actions
	killAt int // 0: never
	kill   func()
}

type fakeBridge struct {
	endpoint    ovsdb.Endpoint
	dpid        string
	adopted     bool
	stp         bool
	controllers []string
	text        string // stands for its rows
}

type fakeSwitch struct {
	connected bool
	stage     string
	stored    bool
	faults    map[string]string
	held      string
	deviates  []string
}

const (
	at1 = ovsdb.Endpoint("unix:/one")
	at2 = ovsdb.Endpoint("unix:/two")
	d1  = "00000000000000a1"
	d2  = "00000000000000a2"
	d9  = "0000000000000009" // a switch that has always been there
)

func newWorld() *world {
	return &world{
		stored: map[string][]byte{}, gone: map[ovsdb.Endpoint]bool{}, links: topology.New(topology.Options{}),
		bridges:  map[string]*fakeBridge{"a1": {endpoint: at1, dpid: d1, text: "plain"}, "a2": {endpoint: at2, dpid: d2, text: "plain"}},
		switches: map[string]*fakeSwitch{d9: {connected: true, stage: "observe", stored: true}},
	}
}

// program is what one life of the controller sees of a world.
type program struct {
	*world
	dead *bool
}

var errKilled = errors.New("killed")

// does is called before and after everything that a program does; false: it is dead.
func (p program) does(what string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *p.dead {
		return false
	}
	p.step++
	if p.step == p.killAt {
		*p.dead = true
		p.kill()
		return false
	}
	return true
}

func (p program) Entries(context.Context) (map[string][]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := map[string][]byte{}
	for k, v := range p.stored {
		all[k] = bytes.Clone(v)
	}
	return all, nil
}

func (p program) Entry(_ context.Context, key string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.stored[key]), nil
}

func (p program) Write(ctx context.Context, entries map[string][]byte) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !p.does("write") {
		return errKilled
	}
	p.mu.Lock()
	for k, v := range entries {
		if v == nil {
			delete(p.stored, k)
		} else {
			p.stored[k] = v
		}
	}
	p.mu.Unlock()
	if !p.does("written") {
		return errKilled
	}
	return nil
}

// act does something to the network.
func (p program) act(what string, f func() error) error {
	if !p.does(what) {
		return errKilled
	}
	p.mu.Lock()
	err := f()
	p.done = append(p.done, what)
	p.mu.Unlock()
	if !p.does("done " + what) {
		return errKilled
	}
	return err
}

func (w *world) sw(dpid string) *fakeSwitch {
	s := w.switches[dpid]
	if s == nil {
		s = &fakeSwitch{stage: "observe"}
		w.switches[dpid] = s
	}
	return s
}

func (p program) Switch(_ context.Context, dpid ofproto.DPID) (Switch, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.sw(dpid.String())
	return Switch{
		DPID: dpid, Connected: s.connected, Stage: s.stage, Stored: s.stored, Faults: maps.Clone(s.faults), Held: s.held,
		Capabilities: controller.Capabilities{Holds: true, Normal: true, Select: true, AddressMasks: true, MaxGroups: 1000}, Flows: 7,
	}, nil
}

func (p program) SetStage(_ context.Context, dpid ofproto.DPID, stage string) error {
	return p.act("stage "+dpid.String()+" "+stage, func() error {
		s := p.sw(dpid.String())
		s.stage, s.stored = stage, stage != ""
		if stage == "" {
			s.stage = "observe"
		}
		return nil
	})
}

func (p program) Settled(context.Context, ofproto.DPID) error { return nil }

func (p program) WhatIf(_ context.Context, dpid ofproto.DPID, _ string, _ []ofproto.PortDesc) (controller.Change, error) {
	return controller.Change{Tables: map[ofproto.Table]int{0: 5}}, nil
}

func (p program) Deviations(_ context.Context, dpid ofproto.DPID) ([]string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sw(dpid.String()).deviates, nil
}

func (p program) Room(context.Context, ofproto.DPID) (map[ofproto.Table]uint32, error) {
	return map[ofproto.Table]uint32{0: p.room}, nil
}

func (p program) Topology(context.Context) (*topology.Snapshot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links.Snapshot(), nil
}

func (p program) Assuming(_ context.Context, managed map[topology.DPID]bool) (*topology.Snapshot, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.links.Assuming(managed), nil
}

func (p program) Notify(context.Context, any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events++
}

func (p program) VIPs(context.Context) ([]VIP, error) { return p.vips, nil }

func (p program) Bridges(_ context.Context, e ovsdb.Endpoint) ([]ovsdb.View, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e != "" && p.gone[e] {
		return nil, fmt.Errorf("%w: %s: connection refused", ovsdb.ErrNotConnected, e)
	}
	var list []ovsdb.View
	for _, name := range slices.Sorted(maps.Keys(p.bridges)) {
		b := p.bridges[name]
		if b.endpoint != e && (e != "" || !b.adopted) {
			continue
		}
		v := ovsdb.View{Endpoint: b.endpoint, State: "available", Connected: true, Bridge: ovsdb.Bridge{Name: name, DPID: b.dpid, STP: b.stp}}
		if b.adopted {
			v.State = "adopted"
			for _, c := range b.controllers {
				v.Controllers = append(v.Controllers, ovsdb.Controller{Target: c})
			}
		}
		list = append(list, v)
	}
	return list, nil
}

func (p program) Adopt(_ context.Context, req ovsdb.Request) ([]ovsdb.Outcome, error) {
	name := req.Bridges[0]
	o := ovsdb.Outcome{Bridge: name, State: "adopted"}
	if b := p.bridges[name]; req.Joined != nil && !b.adopted && !p.gone[req.Endpoint] {
		p.look(func() { p.joined = b.dpid })
		err := req.Joined()
		p.look(func() { p.joined = "" })
		if err != nil {
			return []ovsdb.Outcome{{Bridge: name, State: "refused", Reason: err.Error()}}, nil
		}
	}
	err := p.act("adopt "+name+" "+req.Stage, func() error {
		if p.gone[req.Endpoint] {
			return ovsdb.ErrNotConnected
		}
		b := p.bridges[name]
		o.DPID = b.dpid
		b.adopted, b.controllers = true, append([]string{"tcp:10.0.0.1:6653"}, req.Controllers...)
		if len(req.Controllers) > 0 {
			b.controllers = req.Controllers
		}
		s := p.sw(b.dpid)
		s.connected, s.stage, s.stored = true, req.Stage, true
		if p.taken != nil {
			p.taken(s)
		}
		return nil
	})
	return []ovsdb.Outcome{o}, err
}

func (p program) Release(_ context.Context, e ovsdb.Endpoint, name string) error {
	return p.act("release "+name, func() error {
		b := p.bridges[name]
		switch {
		case p.gone[e]:
			return ovsdb.ErrNotConnected
		case !b.adopted:
			return ovsdb.ErrNotAdopted
		}
		b.adopted, b.controllers = false, nil
		delete(p.switches, b.dpid)
		p.links.RemoveSwitch(topology.DPID(parseDPID(b.dpid)), time.Now())
		return nil
	})
}

func (p program) PreviewAdopt(_ context.Context, req ovsdb.Request) ([]ovsdb.Change, error) {
	if p.bridges[req.Bridges[0]].adopted {
		return nil, nil
	}
	return []ovsdb.Change{{Table: "Bridge", Row: req.Bridges[0], Column: "fail_mode", After: `"secure"`}}, nil
}

func (p program) PreviewRelease(_ context.Context, _ ovsdb.Endpoint, bridge string) ([]ovsdb.Change, error) {
	return []ovsdb.Change{{Table: "Bridge", Row: bridge, Column: "fail_mode", Before: `"secure"`}}, nil
}

func (p program) Rows(_ context.Context, e ovsdb.Endpoint, bridge string) (ovsdb.Rows, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone[e] {
		return ovsdb.Rows{}, ovsdb.ErrNotConnected
	}
	text, err := json.Marshal(fmt.Sprint(p.bridges[bridge].text, p.bridges[bridge].controllers))
	return ovsdb.Rows{Bridge: map[string]json.RawMessage{"name": json.RawMessage(`"` + bridge + `"`), "fail_mode": text}}, err
}

func (p program) Measure(ctx context.Context, r ProbeRequest) (Measurement, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.measured++
	m := Measurement{At: time.Now().UTC(), Hosts: Tally{3, 3}, Silent: slices.Clone(p.silent)}
	if p.first { // nobody is connected whom hosts could be asked through
		m.Hosts = Tally{}
		if p.joined != "" {
			m.Hosts = Tally{2, 2}
		}
		for _, b := range p.bridges {
			if b.adopted {
				m.Hosts = Tally{2, 2}
			}
		}
	}
	if p.joined != "" {
		m.Silent = append(m.Silent, p.silentJoined...)
	}
	if r.Like != nil {
		p.like = *r.Like
	}
	if p.broken != nil {
		whole, err := json.Marshal(p.broken(p.world))
		if err != nil {
			return m, err
		}
		m.Whole = whole
	}
	return m, ctx.Err()
}

func (p program) Worse(_, after Measurement) (list []Difference) {
	var texts []string
	_ = json.Unmarshal(after.Whole, &texts)
	for _, t := range texts {
		dpid, text, _ := strings.Cut(t, " ")
		list = append(list, Difference{DPID: strings.TrimPrefix(dpid, "?"), Text: text, Doubtful: strings.HasPrefix(dpid, "?")})
	}
	return list
}

// picture is all that a test compares of a network.
func (w *world) picture() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.bridges)) {
		fmt.Fprintf(&b, "%s %+v\n", name, *w.bridges[name])
	}
	for _, dpid := range slices.Sorted(maps.Keys(w.switches)) {
		if s := w.switches[dpid]; s.stored || s.connected {
			fmt.Fprintf(&b, "%s connected=%v stage=%s\n", dpid, s.connected, s.stage)
		}
	}
	return b.String()
}

// look reads or changes a world while a program may run in it.
func (w *world) look(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// stands says whether both bridges are adopted and the switch is in stage steer.
func (w *world) stands() (ok bool) {
	w.look(func() { ok = w.bridges["a1"].adopted && w.bridges["a2"].adopted && w.switches[d9].stage == "steer" })
	return ok
}

func (w *world) actions() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.done)
}

// life is one run of the program.
type life struct {
	*Service
	t    *testing.T
	w    *world
	stop context.CancelFunc
	over chan struct{}
}

// start begins a life of the program in a world; inside of synctest.Test.
func (w *world) start(t *testing.T) *life {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := program{w, new(bool)}
	w.mu.Lock()
	w.kill = cancel
	w.mu.Unlock()
	s, err := New(ctx, Options{Store: p, Network: p, Bridges: p, VIPs: p, Prober: p, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	l := &life{Service: s, t: t, w: w, stop: cancel, over: make(chan struct{})}
	go func() { defer close(l.over); _ = s.Run(ctx) }()
	return l
}

// end ends a life in good order.
func (l *life) end() {
	l.stop()
	<-l.over
}

func (l *life) get(name string) Migration {
	l.t.Helper()
	m, err := l.Get(context.Background(), name)
	require.NoError(l.t, err)
	return m
}

// rests waits until a migration is in a state that lasts.
func (l *life) rests(name string) Migration {
	l.t.Helper()
	for {
		synctest.Wait()
		m := l.get(name)
		if m.State != StateApplying && m.State != StateRollingBack {
			return m
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// describe makes a description of waves: each is a list of steps as "a1 steer" or
// "000… managed".
func describe(t *testing.T, waves ...[]string) Description {
	t.Helper()
	var list []Wave
	for i, steps := range waves {
		w := Wave{Name: fmt.Sprintf("w%d", i+1)}
		for _, s := range steps {
			target, stage, _ := strings.Cut(s, " ")
			step := Step{Stage: stage}
			switch target {
			case "a1":
				step.Endpoint, step.Bridge = at1, target
			case "a2":
				step.Endpoint, step.Bridge = at2, target
			default:
				step.DPID = target
			}
			w.Steps = append(w.Steps, step)
		}
		list = append(list, w)
	}
	d := Description{Name: "campus", ConfirmTimeout: documents.Duration(time.Minute), Waves: list}
	body, err := json.Marshal(map[string]any{"waves": list, "confirm_timeout": "1m"})
	require.NoError(t, err)
	read, err := DecodeDescription("campus", body)
	require.NoError(t, err)
	require.Equal(t, len(d.Waves), len(read.Waves))
	return read
}

func (l *life) put(d Description) {
	l.t.Helper()
	_, _, err := l.Put(context.Background(), d, Condition{}, "test")
	require.NoError(l.t, err)
}

func (l *life) apply() Migration {
	l.t.Helper()
	_, err := l.Apply(context.Background(), "campus", "", "test")
	require.NoError(l.t, err)
	return l.rests("campus")
}

func (l *life) confirm() {
	l.t.Helper()
	_, err := l.Confirm(context.Background(), "campus", "test")
	require.NoError(l.t, err)
}
