package ovsdb

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"

	"github.com/fairlead/fairlead/ofproto"
)

const (
	// readyTimeout is how long an operation waits for a session with its endpoint.
	readyTimeout = 8 * time.Second
	// operationTimeout bounds one transaction.
	operationTimeout = 5 * time.Second
	pollEvery        = 20 * time.Millisecond
)

// patience is how long things may take.
type patience struct {
	// join: that a bridge connects to the controller by its service connection, and is
	// filled.
	join time.Duration
	// confirm: that Open vSwitch says that a controller is connected; it does so every
	// five seconds at the latest.
	confirm time.Duration
	// leave: that a switch is gone whose bridge has lost its controllers.
	leave time.Duration
}

var defaultPatience = patience{join: 12 * time.Second, confirm: 6 * time.Second, leave: 2 * time.Second}

var (
	// ErrNotAdopted says that there is nothing to release.
	ErrNotAdopted = errors.New("ovsdb: the bridge is not adopted")
	// ErrNoBridge says that the database has no such bridge.
	ErrNoBridge = errors.New("ovsdb: there is no such bridge")
)

// Adoption is what the store keeps of a bridge.
type Adoption struct {
	Endpoint Endpoint `json:"endpoint"`
	Bridge   string   `json:"bridge"`
	DPID     string   `json:"dpid"`
	// Stage is what the switch gets.
	Stage string `json:"stage"`
	// StageBefore is the switch's stage before; empty: none was stored.
	StageBefore string `json:"stage_before"`
	Record      Record `json:"record"`
}

type bridgeKey struct {
	endpoint Endpoint
	bridge   string
}

func (a Adoption) key() bridgeKey { return bridgeKey{a.Endpoint, a.Bridge} }

// Store keeps adoptions over a restart.
type Store interface {
	Adoptions(ctx context.Context) ([]Adoption, error)
	// SaveAdoption stores one durably, in place of an earlier one of the same bridge.
	SaveAdoption(ctx context.Context, a Adoption) error
	DeleteAdoption(ctx context.Context, e Endpoint, bridge string) error
}

// Switches is what adoption needs of the OpenFlow side. dpid need not be known to it.
type Switches interface {
	// Connected says whether the switch has a session, and why nothing is written to it,
	// if so.
	Connected(ctx context.Context, dpid ofproto.DPID) (connected bool, held string, err error)
	// Settled returns nil when the switch has acknowledged all that it is to hold.
	Settled(ctx context.Context, dpid ofproto.DPID) error
	// Foreign counts the flows of others in a connected switch, but for the one that
	// Open vSwitch makes by itself.
	Foreign(ctx context.Context, dpid ofproto.DPID) (int, error)
	// TakeOver runs do, at which a switch that has a service connection gets its own, and
	// where flushed forgets all that it holds: packets pass all the same. hand then takes
	// the service connection away. It returns when the switch is connected anew and holds
	// what it is to; forgot is whether it did forget.
	TakeOver(ctx context.Context, dpid ofproto.DPID, flushed bool, do, hand func(context.Context) error) (forgot bool, err error)
	// Withdraw takes what is Fairlead's out of a connected switch until it connects anew.
	Withdraw(ctx context.Context, dpid ofproto.DPID) error
	// Release tells that the switch is Fairlead's no more, and forwards by itself.
	Release(ctx context.Context, dpid ofproto.DPID) error
	// Stage is the stage of the switch, and whether it is stored or that of switches
	// never seen. SetStage stores one; empty: that of switches never seen.
	Stage(ctx context.Context, dpid ofproto.DPID) (stage string, stored bool, err error)
	SetStage(ctx context.Context, dpid ofproto.DPID, stage string) error
}

// Options configures Hosts. All fields but TLS and Attached are required.
type Options struct {
	Store    Store
	Switches Switches
	Cluster  string // identity of the store
	// Self is the controller target that a bridge gets when none is given; local is this
	// machine's address as the bridge's host knows it.
	Self func(local netip.Addr) (string, error)
	// EdgeDelay is how long a port has to be up before stage managed floods to it: a
	// bridge that goes there is connected for twice that long before.
	EdgeDelay time.Duration
	TLS       func(host string) (*tls.Config, error) // see ClientOptions
	// Attached is told where interfaces with an id are, when Run begins and whenever that
	// has changed, one call at a time. May be nil.
	Attached func(context.Context, Attachments)
	Log      *slog.Logger
}

// Hosts keeps a Client for every endpoint with an adopted bridge, and for others while
// they are asked about. Its methods may be called from any goroutine, while Run runs.
type Hosts struct {
	o        Options
	patience patience
	pokes    chan struct{} // capacity 1: attachments may have changed

	mu        sync.Mutex // guards what follows
	life      context.Context
	work      sync.WaitGroup
	hosts     map[Endpoint]*host
	adoptions map[bridgeKey]Adoption
}

// host is one endpoint.
type host struct {
	endpoint Endpoint
	client   *Client
	stop     context.CancelFunc
	users    int
	busy     chan struct{} // capacity 1: one operation at a time
}

// New reads what is stored.
func New(ctx context.Context, o Options) (*Hosts, error) {
	list, err := o.Store.Adoptions(ctx)
	if err != nil {
		return nil, fmt.Errorf("ovsdb: read adoptions: %w", err)
	}
	h := &Hosts{o: o, patience: defaultPatience, pokes: make(chan struct{}, 1), hosts: map[Endpoint]*host{}, adoptions: map[bridgeKey]Adoption{}}
	for _, a := range list {
		h.adoptions[a.key()] = a
	}
	return h, nil
}

// Run connects to the endpoints of adopted bridges, and finishes what an earlier run
// left half done, until ctx ends. It returns when everything it started has ended.
func (h *Hosts) Run(ctx context.Context) error {
	h.mu.Lock()
	h.life = ctx
	for key := range h.adoptions {
		if h.hosts[key.endpoint] == nil {
			h.startLocked(key.endpoint)
		}
	}
	if h.o.Attached != nil {
		h.work.Go(func() { h.follow(ctx) })
	}
	h.mu.Unlock()
	<-ctx.Done()
	h.mu.Lock()
	h.life = nil
	h.mu.Unlock()
	h.work.Wait()
	return nil
}

func (h *Hosts) startLocked(e Endpoint) *host {
	ctx, cancel := context.WithCancel(h.life)
	k := &host{endpoint: e, stop: cancel, busy: make(chan struct{}, 1)}
	k.client = NewClient(e, ClientOptions{
		TLS: h.o.TLS, Log: h.o.Log, Changed: h.poke, Connected: func(ctx context.Context) { h.resume(ctx, k) },
	})
	h.hosts[e] = k
	h.work.Go(func() { k.client.Run(ctx) })
	return k
}

var errStopped = errors.New("ovsdb: the server is starting or stopping")

// acquire returns the host of an endpoint for as long as release is not called.
func (h *Hosts) acquire(e Endpoint) (k *host, release func(), err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.life == nil {
		return nil, nil, errStopped
	}
	if k = h.hosts[e]; k == nil {
		k = h.startLocked(e)
	}
	k.users++
	return k, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if k.users--; k.users > 0 {
			return
		}
		for key := range h.adoptions {
			if key.endpoint == e {
				return
			}
		}
		k.stop()
		delete(h.hosts, e)
	}, nil
}

// operate runs one operation on a connected endpoint, alone. It goes on when the caller
// has gone: half an operation helps nobody.
func (h *Hosts) operate(ctx context.Context, e Endpoint, do func(ctx context.Context, k *host) error) error {
	k, release, err := h.acquire(e)
	if err != nil {
		return err
	}
	defer release()
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := k.client.Ready(wait); err != nil {
		return err
	}
	h.mu.Lock()
	life := h.life
	h.mu.Unlock()
	if life == nil {
		return errStopped
	}
	select {
	case k.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-life.Done():
		return errStopped
	}
	defer func() { <-k.busy }()
	ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(life, cancel)()
	return do(ctx, k)
}

// read returns a bridge as it is in the database.
func (k *host) read(ctx context.Context, bridge string) (*state, error) {
	results, err := k.client.transact(ctx, readOps(bridge, lasting(k.client.sessionSchema(), "Controller"))...)
	if err != nil {
		return nil, err
	}
	s, ok, err := parseState(results)
	if err != nil {
		return nil, fmt.Errorf("ovsdb: read bridge %s: %w", bridge, err)
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s", ErrNoBridge, bridge)
	}
	return &s, nil
}

// change reads a bridge, plans a transaction and runs it; when the bridge changed in
// between, again. A plan without operations changes nothing.
func (h *Hosts) change(ctx context.Context, k *host, bridge string, planned func(*state) ([]ovsdb.Operation, error)) error {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	for {
		s, err := k.read(ctx, bridge)
		if err != nil {
			return err
		}
		ops, err := planned(s)
		if err != nil || len(ops) == 0 {
			return err
		}
		_, err = k.client.transact(ctx, ops...)
		var changed *ovsdb.TimedOut // the wait of newPlan, which waits for nothing
		if !errors.As(err, &changed) {
			return err
		}
		if !sleep(ctx, pollEvery) {
			return err
		}
	}
}

func (h *Hosts) adoption(e Endpoint, bridge string) (Adoption, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, ok := h.adoptions[bridgeKey{e, bridge}]
	return a, ok
}

func (h *Hosts) save(ctx context.Context, a Adoption) error {
	if err := h.o.Store.SaveAdoption(ctx, a); err != nil {
		return fmt.Errorf("ovsdb: store adoption: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.adoptions[a.key()] = a
	h.poke()
	return nil
}

func (h *Hosts) forget(ctx context.Context, a Adoption) error {
	if err := h.o.Store.DeleteAdoption(ctx, a.Endpoint, a.Bridge); err != nil {
		return fmt.Errorf("ovsdb: delete adoption: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.adoptions, a.key())
	h.poke()
	return nil
}

// Request asks for the adoption of bridges at one endpoint.
type Request struct {
	Endpoint Endpoint
	Bridges  []string // empty: all of them
	Stage    string   // empty: what the switch has, or that of switches never seen
	// Controllers are the targets that the bridges get; empty: this server.
	Controllers []string
	// DiscardFlows lets a bridge be adopted that forgets flows of others by it.
	DiscardFlows bool
	// Joined is called for each bridge that has joined: it is connected and holds what its
	// stage wants, and still forwards by itself. An error puts the bridge back. nil: it is
	// taken over at once.
	Joined func() error
}

// Outcome is what came of one bridge of a Request.
type Outcome struct {
	Bridge   string   `json:"bridge"`
	DPID     string   `json:"dpid"`
	State    string   `json:"state"`   // adopted or refused
	Changed  bool     `json:"changed"` // false: it was like that already
	Reason   string   `json:"reason"`  // why it was refused
	Warnings []string `json:"warnings"`
}

// adopting is a bridge on its way.
type adopting struct {
	a       Adoption
	fresh   bool      // its flows are flushed when it is taken over
	join    bool      // it has service connections first
	since   time.Time // when it was filled
	changes bool
	restage bool // only its stage changes
	err     error
	warn    []string
}

// Adopt adopts bridges. Each is adopted or left as it was; the error is of the request
// as a whole, nothing having been done. Asking for what is already so changes nothing.
func (h *Hosts) Adopt(ctx context.Context, req Request) (outcomes []Outcome, err error) {
	err = h.operate(ctx, req.Endpoint, func(ctx context.Context, k *host) error {
		inv, err := k.client.Inventory()
		if err != nil {
			return err
		}
		names := req.Bridges
		if len(names) == 0 {
			for _, b := range inv.Bridges {
				names = append(names, b.Name)
			}
		}
		if len(req.Controllers) == 0 {
			self, err := h.o.Self(k.client.Local())
			if err != nil {
				return err
			}
			req.Controllers = []string{self}
		}
		outcomes = h.adopt(ctx, k, inv, names, req)
		return nil
	})
	return outcomes, err
}

func (h *Hosts) adopt(ctx context.Context, k *host, inv *Inventory, names []string, req Request) []Outcome {
	all := make([]*adopting, len(names))
	for i, name := range names {
		all[i] = h.begin(ctx, k, inv, name, req)
	}
	// All bridges connect at the same time; they are taken over one by one, so that what
	// Open vSwitch does at once is little.
	each(all, func(x *adopting) {
		if x.err == nil && x.join {
			x.err = h.joined(ctx, k, x, req.DiscardFlows)
		}
	})
	for _, x := range all {
		if x.err == nil && x.join && req.Joined != nil {
			if x.err = req.Joined(); x.err != nil && ctx.Err() == nil {
				x.err = errors.Join(x.err, h.abort(ctx, k, x.a))
			}
		}
	}
	for _, x := range all {
		if x.err == nil && x.changes {
			if x.err = h.takeOver(ctx, k, x); x.err != nil && x.join && ctx.Err() == nil {
				x.err = errors.Join(x.err, h.abort(ctx, k, x.a))
			}
		}
	}
	each(all, func(x *adopting) {
		if x.err == nil && (x.changes || x.restage) {
			x.err = h.confirm(ctx, k, x)
		}
	})
	outcomes := make([]Outcome, len(all))
	for i, x := range all {
		o := &outcomes[i]
		*o = Outcome{Bridge: names[i], DPID: x.a.DPID, State: "adopted", Changed: x.changes || x.restage, Warnings: append([]string{}, x.warn...)}
		if x.err != nil {
			o.State, o.Changed, o.Reason = "refused", false, x.err.Error()
			if r := (*Refusal)(nil); errors.As(x.err, &r) {
				o.Reason = r.Reason
			}
			h.o.Log.Warn("bridge not adopted", "endpoint", string(k.endpoint), "bridge", o.Bridge, "reason", o.Reason)
		} else if o.Changed {
			h.o.Log.Info("bridge adopted", "endpoint", string(k.endpoint), "bridge", o.Bridge, "dpid", o.DPID,
				"controllers", x.a.Record.Controllers, "warnings", o.Warnings)
		}
	}
	return outcomes
}

// each calls f for all at the same time.
func each(all []*adopting, f func(*adopting)) {
	var wg sync.WaitGroup
	for _, x := range all {
		wg.Go(func() { f(x) })
	}
	wg.Wait()
}

// begin checks a bridge, stores what is about to happen, and gives it its service
// connections where it needs them. After an error the bridge is as it was.
func (h *Hosts) begin(ctx context.Context, k *host, inv *Inventory, name string, req Request) *adopting {
	x := &adopting{a: Adoption{Endpoint: k.endpoint, Bridge: name, Stage: req.Stage}}
	refuse := func(reason string) *Refusal { return &Refusal{name, reason} }
	b, ok := inv.Bridge(name)
	if !ok {
		x.err = refuse("there is no such bridge")
		return x
	}
	x.a.DPID = b.DPID
	dpid := parseDPID(b.DPID)
	stage, staged, err := h.o.Switches.Stage(ctx, dpid)
	if err != nil {
		x.err = err
		return x
	}
	x.a.Stage = cmp.Or(req.Stage, stage)
	if reason := unfit(inv, b, x.a.Stage); reason != "" {
		x.err = refuse(reason)
		return x
	}
	connected, err := h.elsewhere(ctx, b, req.Controllers)
	if err != nil {
		x.err = err
		return x
	}
	was, known := h.adoption(k.endpoint, name)
	if known {
		x.a.StageBefore = was.StageBefore
	} else if staged {
		x.a.StageBefore = stage
	}
	offered := offeredProtocols(k.client.sessionSchema())
	stored := false
	x.err = h.change(ctx, k, name, func(s *state) ([]ovsdb.Operation, error) {
		if reason := taken(s, h.o.Cluster, req.Controllers); reason != "" {
			return nil, refuse(reason)
		}
		if s.dpid != b.DPID {
			return nil, refuse("its datapath id is changing")
		}
		if other, ok := h.sameDPID(x.a); ok {
			return nil, refuse(fmt.Sprintf("its datapath id %s is that of bridge %s at %s", b.DPID, other.Bridge, other.Endpoint))
		}
		missing := s.missing(req.Controllers)
		if connected && len(missing) == len(req.Controllers) {
			return nil, refuse("a switch with its datapath id " + b.DPID + " is connected from another place")
		}
		if _, err := s.protocols(offered); err != nil {
			return nil, refuse(err.Error())
		}
		r := Record{Cluster: h.o.Cluster, Phase: PhaseJoining, Since: time.Now().UTC().Truncate(time.Second), Controllers: req.Controllers, Before: s.before()}
		if s.recorded {
			r.Before, r.Since, r.Phase = s.record.Before, s.record.Since, s.record.Phase
		}
		x.join = !s.recorded && len(missing) > 0 || s.recorded && s.record.Phase == PhaseJoining
		x.fresh = !s.primary()
		x.changes = !s.recorded || s.record.Phase != PhaseAdopted || s.record.Cluster != h.o.Cluster || len(drift(b, r)) > 0
		x.a.Record = r
		x.restage = !x.changes && x.a.Stage != stage
		if !stored {
			if err := h.preStage(ctx, x, dpid); err != nil {
				return nil, err
			}
			stored = true
		} else if err := h.save(ctx, x.a); err != nil {
			return nil, err
		}
		if !x.join || s.recorded {
			return nil, nil
		}
		return planJoin(s, r, offered)
	})
	if x.err != nil && stored && !known {
		x.err = errors.Join(x.err, h.drop(ctx, x.a))
	}
	return x
}

// elsewhere says whether a switch with the datapath id of a bridge is connected that the
// bridge cannot be, for it has none of the controllers. One that was just released has a
// moment to go.
func (h *Hosts) elsewhere(ctx context.Context, b Bridge, controllers []string) (bool, error) {
	_, recorded := b.ExternalIDs[recordKey]
	if recorded || slices.ContainsFunc(b.Controllers, func(c Controller) bool { return slices.Contains(controllers, c.Target) }) {
		return false, nil
	}
	wait, cancel := context.WithTimeout(ctx, h.patience.leave)
	defer cancel()
	for {
		connected, _, err := h.o.Switches.Connected(ctx, parseDPID(b.DPID))
		if err != nil || !connected {
			return false, err
		}
		if !sleep(wait, pollEvery) {
			return true, nil
		}
	}
}

// preStage stores the adoption and the stage before the switch connects: its first flows
// are those of the stage. A bridge on its way to stage managed forwards by itself until
// its ports are known.
func (h *Hosts) preStage(ctx context.Context, x *adopting, dpid ofproto.DPID) error {
	if err := h.save(ctx, x.a); err != nil {
		return err
	}
	stage := x.a.Stage
	if stage == "managed" && x.join {
		stage = "steer"
	}
	return h.o.Switches.SetStage(ctx, dpid, stage)
}

// raise moves a bridge that was taken over to its stage.
func (h *Hosts) raise(ctx context.Context, x *adopting) error {
	if x.a.Stage != "managed" || !x.join {
		return nil
	}
	if !sleep(ctx, time.Until(x.since.Add(2*h.o.EdgeDelay))) {
		return ctx.Err()
	}
	return h.o.Switches.SetStage(ctx, parseDPID(x.a.DPID), x.a.Stage)
}

// drop forgets an adoption and puts the stage of its switch back.
func (h *Hosts) drop(ctx context.Context, a Adoption) error {
	err := h.o.Switches.SetStage(ctx, parseDPID(a.DPID), a.StageBefore)
	return errors.Join(err, h.forget(ctx, a))
}

// sameDPID returns another adopted bridge with the datapath id of a.
func (h *Hosts) sameDPID(a Adoption) (Adoption, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, other := range h.adoptions {
		if other.DPID == a.DPID && key != a.key() {
			return other, true
		}
	}
	return Adoption{}, false
}

// joined waits until a bridge with service connections is connected and filled. When
// that does not come, the bridge is put back and the error says why.
func (h *Hosts) joined(ctx context.Context, k *host, x *adopting, discard bool) error {
	wait, cancel := context.WithTimeout(ctx, h.patience.join)
	defer cancel()
	dpid := parseDPID(x.a.DPID)
	reason, err := h.filled(wait, dpid)
	if err != nil && wait.Err() != nil && ctx.Err() == nil {
		reason, err = fmt.Sprintf("it did not take the state of its stage within %s; that is shown with the switch", h.patience.join), nil
	}
	if reason == notConnected {
		reason = fmt.Sprintf("it did not connect to %v within %s: can its host reach that address, and does the server take connections from there "+
			"(plain TCP from other machines needs --openflow-insecure)?", x.a.Record.Controllers, h.patience.join)
	}
	if err == nil && reason == "" && x.fresh && !discard {
		var n int
		if n, err = h.o.Switches.Foreign(wait, dpid); n > 0 {
			reason = fmt.Sprintf("it holds %d flows that are not Fairlead's, which Open vSwitch forgets when the first controller comes: "+
				"delete them, or ask for it (--discard-flows)", n)
		}
	}
	if err == nil && reason == "" {
		x.since = time.Now()
		return nil
	}
	if err == nil {
		err = &Refusal{x.a.Bridge, reason}
	}
	if ctx.Err() != nil {
		return err // the server stops: the next start goes on
	}
	return errors.Join(err, h.abort(ctx, k, x.a))
}

const notConnected = "not connected"

// filled waits until a switch is connected and holds what it is to hold.
func (h *Hosts) filled(ctx context.Context, dpid ofproto.DPID) (reason string, err error) {
	for {
		connected, held, err := h.o.Switches.Connected(ctx, dpid)
		switch {
		case ctx.Err() != nil:
			return notConnected, nil
		case err != nil:
			return "", err
		case held != "":
			return held, nil
		case connected:
			return "", h.o.Switches.Settled(ctx, dpid)
		}
		if !sleep(ctx, pollEvery) {
			return notConnected, nil
		}
	}
}

// abort takes back what begin did.
func (h *Hosts) abort(ctx context.Context, k *host, a Adoption) error {
	h.withdraw(ctx, a)
	err := h.change(ctx, k, a.Bridge, func(s *state) ([]ovsdb.Operation, error) {
		if !s.recorded {
			return nil, nil
		}
		return planRestore(s), nil
	})
	if err != nil {
		return err // it stays stored as joining, and is shown as such
	}
	return h.drop(ctx, a)
}

// withdraw takes what is Fairlead's out of a switch, where it can.
func (h *Hosts) withdraw(ctx context.Context, a Adoption) {
	ctx, cancel := context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	dpid := parseDPID(a.DPID)
	if connected, _, err := h.o.Switches.Connected(ctx, dpid); err != nil || !connected {
		return
	}
	if err := h.o.Switches.Withdraw(ctx, dpid); err != nil {
		h.o.Log.Warn("the switch keeps flows of Fairlead's", "dpid", a.DPID, "error", err)
	}
}

// takeOver makes the controllers those of the bridge. It is stored as adopted by
// confirm.
func (h *Hosts) takeOver(ctx context.Context, k *host, x *adopting) error {
	offered := offeredProtocols(k.client.sessionSchema())
	r := x.a.Record
	r.Phase = PhaseAdopted
	replace := func(ctx context.Context) error {
		return h.change(ctx, k, x.a.Bridge, func(s *state) ([]ovsdb.Operation, error) {
			if x.fresh = !s.primary(); !x.fresh && x.join {
				x.warn = []string{"flows of the earlier controllers stay in the bridge until somebody deletes them"}
			}
			return planAdopt(s, r, offered)
		})
	}
	var err error
	if x.join {
		hand := func(ctx context.Context) error { return h.change(ctx, k, x.a.Bridge, planHand) }
		var forgot bool
		if forgot, err = h.o.Switches.TakeOver(ctx, parseDPID(x.a.DPID), x.fresh, replace, hand); err == nil && x.fresh && !forgot {
			x.warn = append(x.warn, "Open vSwitch did not say that it has forgotten its flows: it may still do so")
		}
	} else {
		err = replace(ctx)
	}
	if err != nil {
		return err
	}
	x.a.Record = r
	return nil
}

// confirm waits until the switch holds what it is to hold, moves it to its stage and
// stores that it is adopted.
func (h *Hosts) confirm(ctx context.Context, k *host, x *adopting) error {
	if !x.join && !h.reports(ctx, k, x.a.Bridge, func(c Controller) bool { return slices.Contains(x.a.Record.Controllers, c.Target) }) {
		x.warn = append(x.warn, fmt.Sprintf("Open vSwitch does not say that it is connected to %v", x.a.Record.Controllers))
	}
	if err := h.raise(ctx, x); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, h.patience.confirm)
	defer cancel()
	if err := h.o.Switches.Settled(wait, parseDPID(x.a.DPID)); err != nil {
		x.warn = append(x.warn, "the switch has not acknowledged all that it is to hold")
	}
	return h.save(ctx, x.a)
}

// reports waits until Open vSwitch says that a bridge is connected to one of certain
// controllers.
func (h *Hosts) reports(ctx context.Context, k *host, bridge string, one func(Controller) bool) bool {
	ctx, cancel := context.WithTimeout(ctx, h.patience.confirm)
	defer cancel()
	for {
		if inv, err := k.client.Inventory(); err == nil {
			b, _ := inv.Bridge(bridge)
			if slices.ContainsFunc(b.Controllers, func(c Controller) bool { return c.Connected && one(c) }) {
				return true
			}
		}
		if !sleep(ctx, pollEvery) {
			return false
		}
	}
}

// Release puts a bridge back as it was before its adoption, of which the bridge itself
// has the record: the store may have been lost. ErrNotAdopted when it has none,
// ErrNoBridge when it is not there.
func (h *Hosts) Release(ctx context.Context, e Endpoint, bridge string) error {
	return h.operate(ctx, e, func(ctx context.Context, k *host) error {
		return h.release(ctx, k, bridge)
	})
}

func (h *Hosts) release(ctx context.Context, k *host, bridge string) error {
	a, known := h.adoption(k.endpoint, bridge)
	var s state
	err := h.change(ctx, k, bridge, func(now *state) ([]ovsdb.Operation, error) {
		s = *now
		if !s.recorded {
			return nil, fmt.Errorf("%w: %s", ErrNotAdopted, bridge)
		}
		return nil, nil
	})
	if known && errors.Is(err, ErrNotAdopted) && a.Record.Phase != PhaseReleasing {
		return &Refusal{bridge, "the record of what it was is not in its external_ids any more; it is in the store: " + a.Record.text()}
	}
	if known && (errors.Is(err, ErrNotAdopted) || errors.Is(err, ErrNoBridge)) {
		return h.drop(ctx, a) // it was released, or is gone
	}
	if err != nil {
		return err
	}
	if !known {
		a = Adoption{Endpoint: k.endpoint, Bridge: bridge, DPID: s.dpid, Record: s.record}
	}
	a.Record.Phase = PhaseReleasing
	if err := h.save(ctx, a); err != nil {
		return err
	}
	// It forwards on its own before it is let go: the others close all cables to it but one.
	if stage, _, err := h.o.Switches.Stage(ctx, parseDPID(a.DPID)); err != nil {
		return err
	} else if stage == "managed" {
		if err := h.o.Switches.SetStage(ctx, parseDPID(a.DPID), "steer"); err != nil {
			return err
		}
	}
	// A bridge with earlier controllers flushes nothing when Fairlead goes: Fairlead takes
	// its flows along, when one of the others is there.
	stays := slices.ContainsFunc(s.record.Controllers, s.record.Before.has)
	if s.record.Before.primary() && !stays {
		if err := h.change(ctx, k, bridge, func(s *state) ([]ovsdb.Operation, error) {
			if s.record.Phase != PhaseAdopted {
				return nil, nil
			}
			return planReturn(s), nil
		}); err != nil {
			return err
		}
		if !h.reports(ctx, k, bridge, func(c Controller) bool { return s.record.Before.has(c.Target) }) {
			h.o.Log.Warn("none of the earlier controllers has come back", "endpoint", string(k.endpoint), "bridge", bridge)
		}
		h.withdraw(ctx, a)
	} else if s.record.Phase == PhaseJoining {
		// Nothing is flushed then, so what is Fairlead's has to be taken out. A server that was
		// just started waits until the bridge is back.
		wait, cancel := context.WithTimeout(ctx, h.patience.join)
		_, _ = h.filled(wait, parseDPID(a.DPID)) // one that does not come is released all the same
		cancel()
		h.withdraw(ctx, a)
	}
	if err := h.change(ctx, k, bridge, func(s *state) ([]ovsdb.Operation, error) { return planRestore(s), nil }); err != nil {
		return err
	}
	if err := h.o.Switches.Release(ctx, parseDPID(a.DPID)); err != nil {
		return err
	}
	h.o.Log.Info("bridge released", "endpoint", string(k.endpoint), "bridge", bridge, "dpid", a.DPID)
	return h.drop(ctx, a)
}

// resume finishes what was left half done at an endpoint: by an earlier run, or by a
// session that ended.
func (h *Hosts) resume(ctx context.Context, k *host) {
	select {
	case k.busy <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-k.busy }()
	h.mu.Lock()
	var half []Adoption
	for key, a := range h.adoptions {
		if key.endpoint == k.endpoint && a.Record.Phase != PhaseAdopted {
			half = append(half, a)
		}
	}
	h.mu.Unlock()
	slices.SortFunc(half, func(a, b Adoption) int { return cmp.Compare(a.Bridge, b.Bridge) })
	for _, a := range half {
		h.o.Log.Info("an operation on a bridge was cut short and is finished", "endpoint", string(k.endpoint), "bridge", a.Bridge, "phase", string(a.Record.Phase))
		if err := h.finish(ctx, k, a); err != nil && ctx.Err() == nil {
			h.o.Log.Warn("bridge not finished", "endpoint", string(k.endpoint), "bridge", a.Bridge, "error", err)
		}
	}
}

func (h *Hosts) finish(ctx context.Context, k *host, a Adoption) error {
	if a.Record.Phase == PhaseReleasing {
		return h.release(ctx, k, a.Bridge)
	}
	var s state
	err := h.change(ctx, k, a.Bridge, func(now *state) ([]ovsdb.Operation, error) { s = *now; return nil, nil })
	switch {
	case errors.Is(err, ErrNoBridge), err == nil && !s.recorded:
		return h.drop(ctx, a) // nothing has been changed yet
	case err != nil:
		return err
	}
	x := &adopting{a: a, fresh: !s.primary(), join: true, changes: true}
	x.a.Record = s.record
	if err := h.joined(ctx, k, x, true); err != nil {
		return err
	}
	// Where the bridge is adopted already, the service connection may still be there.
	finish := func() error { return h.takeOver(ctx, k, x) }
	if s.record.Phase == PhaseAdopted {
		finish = func() error { return h.change(ctx, k, a.Bridge, planHand) }
	}
	if err := finish(); err != nil {
		return err
	}
	return h.confirm(ctx, k, x)
}

// View is a bridge as the API shows it.
type View struct {
	Endpoint Endpoint `json:"endpoint"`
	// State is available (not adopted), joining, adopted, releasing, or missing: it was
	// adopted and is not in the database.
	State string `json:"state"`
	// Connected says whether there is a session with the endpoint; Reason why not. Without
	// one only what is stored is shown.
	Connected bool     `json:"connected"`
	Reason    string   `json:"reason"`
	Stage     string   `json:"stage"` // that was asked for; empty: none
	Since     string   `json:"since"` // of the adoption, RFC 3339; empty: not adopted
	Drift     []string `json:"drift"` // what is not as adoption set it
	Bridge
}

// Bridges returns the bridges at the endpoints in use, or at the one given, ordered by
// endpoint and name. ErrNotConnected only when one is given.
func (h *Hosts) Bridges(ctx context.Context, e Endpoint) ([]View, error) {
	if e != "" {
		k, release, err := h.acquire(e)
		if err != nil {
			return nil, err
		}
		defer release()
		ctx, cancel := context.WithTimeout(ctx, readyTimeout)
		defer cancel()
		if err := k.client.Ready(ctx); err != nil {
			return nil, err
		}
	}
	h.mu.Lock()
	hosts, adoptions := maps.Clone(h.hosts), maps.Clone(h.adoptions)
	h.mu.Unlock()
	views := []View{}
	for _, k := range hosts {
		if e != "" && k.endpoint != e {
			continue
		}
		inv, err := k.client.Inventory()
		if err != nil {
			inv = &Inventory{}
		}
		for _, b := range inv.Bridges {
			a, ok := adoptions[bridgeKey{k.endpoint, b.Name}]
			delete(adoptions, a.key())
			views = append(views, viewOf(k.endpoint, b, a, ok))
		}
		for key, a := range adoptions {
			if key.endpoint != k.endpoint {
				continue
			}
			v := View{
				Endpoint: key.endpoint, State: string(a.Record.Phase), Connected: err == nil, Stage: a.Stage, Since: a.Record.Since.Format(time.RFC3339),
				Drift: []string{}, Bridge: Bridge{
					Name: a.Bridge, DPID: a.DPID, Protocols: []string{}, Controllers: []Controller{}, Ports: []Port{},
					OtherConfig: map[string]string{}, ExternalIDs: map[string]string{},
				},
			}
			if err != nil {
				v.Reason = err.Error()
			} else {
				v.State, v.Reason = "missing", "the database has no such bridge any more"
			}
			views = append(views, v)
		}
	}
	slices.SortFunc(views, func(a, b View) int { return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Name, b.Name)) })
	return views, nil
}

func viewOf(e Endpoint, b Bridge, a Adoption, known bool) View {
	v := View{Endpoint: e, State: "available", Connected: true, Drift: []string{}, Bridge: b}
	r, recorded, err := parseRecord(b.ExternalIDs)
	switch {
	case known:
		v.State, v.Stage, v.Since = string(a.Record.Phase), a.Stage, a.Record.Since.Format(time.RFC3339)
		if a.Record.Phase == PhaseAdopted {
			v.Drift = append(v.Drift, drift(b, a.Record)...)
			if !recorded {
				v.Drift = append(v.Drift, "external_ids:"+recordKey+" is gone")
			}
		}
	case err != nil:
		v.Reason = err.Error()
	case recorded:
		v.State, v.Since = string(r.Phase), r.Since.Format(time.RFC3339)
		v.Reason = "its record is not in the store of this server: adopt it again, or release it"
	}
	return v
}

// Interfaces returns what is behind the OpenFlow ports of a switch, by number; nothing
// when no database in use has a bridge with its datapath id.
func (h *Hosts) Interfaces(dpid ofproto.DPID) map[ofproto.Port]Interface {
	h.mu.Lock()
	hosts := slices.Collect(maps.Values(h.hosts))
	h.mu.Unlock()
	for _, k := range hosts {
		inv, err := k.client.Inventory()
		if err != nil {
			continue
		}
		for _, b := range inv.Bridges {
			if parseDPID(b.DPID) != dpid {
				continue
			}
			m := map[ofproto.Port]Interface{}
			for _, p := range b.Ports {
				for _, f := range p.Interfaces {
					if f.OFPort > 0 {
						m[ofPort(f.OFPort)] = f
					}
				}
			}
			return m
		}
	}
	return nil
}
