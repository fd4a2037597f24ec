package health

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

const (
	// startEvery is the time between the first probes of targets that come together.
	startEvery = time.Millisecond
	// batch is how close together things may be due to be done in one turn of the core.
	batch = time.Millisecond
	// repeatEvery is how often a verdict is given again, at the end of a probe.
	repeatEvery = 10 * time.Second

	// maxInFlight bounds the probes under way. maxThreads bounds those of them that
	// take a goroutine each: HTTPS, and all from the controller's host. A probe over a
	// bound waits for deferBy.
	maxInFlight = 4096
	maxThreads  = 512
	deferBy     = 10 * time.Millisecond
	// threadGrace is how long after its time a probe from the host is given up.
	threadGrace = 100 * time.Millisecond

	// A probe that ran out of time says nothing of its target when the core itself was
	// late by more than lateLeast and more than a part of the timeout: it is void, and
	// made again. maxVoid bounds how many are in a row.
	lateLeast = 20 * time.Millisecond
	latePart  = 4
	maxVoid   = 3

	// askEvery is the shortest time between two questions for where an address is. They
	// go to all edge ports, so askMost bounds how many there are in a second.
	askEvery = 5 * time.Second
	askMost  = 50
	// askWait is how long after a question others that have the same wait too.
	askWait = time.Second

	// firstPort is the lowest source port of probes; they go up to 65535. Entries for
	// replies match their upper four bits.
	firstPort uint16 = 0xf000
)

// App is the health app. Make one with New and Run it beside the controller. The core
// loop owns it: targets come in as Change, and verdicts go out, in its calls.
type App struct {
	log     *slog.Logger
	verdict func(*controller.Context, Verdict)
	wire    *wire

	checks    map[string]*check
	owned     map[string][]string // ids of each owner
	byAddress map[netip.Addr]map[*check]bool
	cutOff    map[topology.Place]map[*check]bool // targets by why they have no place
	asked     map[netip.Addr]time.Time           // where addresses are
	asks      int                                // in the second that began at askedAt
	askedAt   time.Time
	replies   map[string]*part         // entries for replies, by part name
	taken     map[reply]bool           // of those in replies
	sources   map[string]*part         // addresses that are answered for, by part name
	access    map[[2]netip.Addr]uint16 // VLANs of targets behind access ports, by address and source
	pending   map[packetKey]*check     // probes of single packets in flight
	due       timetable
	firstFree time.Time // when the next new target may be probed first
	probes    uint64    // made so far; numbers them
	nextPort  uint16
	inFlight  int
	threads   int
	lateAt    time.Time // when the core was last found to be late
	lateBy    time.Duration

	counts counts
}

// check is a target with what is known of it.
type check struct {
	Target
	owner  string
	state  state
	why    string // the last failure
	told   Verdict
	toldAt time.Time
	voids  int // in a row

	at    time.Time // of what is next: a probe, or the end of the one in flight
	index int       // in the timetable
	next  time.Time // when the next probe begins

	probe    uint64 // number of the one in flight; 0: none
	began    time.Time
	key      packetKey      // of the one in flight, where it is a single packet
	tag      uint32         // of SCTP
	unplaced bool           // the last probe failed because the address has no place
	cutOff   topology.Place // the port of its place, if that is why
	awaits   bool           // the probe waits for the address to be found
}

// New returns the app. verdict is called on the core loop with each change of a
// verdict, and with all of them now and then; it must not block.
func New(log *slog.Logger, verdict func(*controller.Context, Verdict)) *App {
	return &App{
		log: log, verdict: verdict, wire: newWire(log),
		checks: map[string]*check{}, owned: map[string][]string{}, byAddress: map[netip.Addr]map[*check]bool{},
		cutOff: map[topology.Place]map[*check]bool{}, asked: map[netip.Addr]time.Time{},
		replies: map[string]*part{}, taken: map[reply]bool{}, sources: map[string]*part{},
		access: map[[2]netip.Addr]uint16{}, pending: map[packetKey]*check{},
		nextPort: firstPort, counts: counts{},
	}
}

// Run does what must not hold the core loop up, until ctx ends. post gives an event to
// the core, as Controller.Post does.
func (a *App) Run(ctx context.Context, post func(context.Context, any) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var g sync.WaitGroup
	defer g.Wait()
	defer cancel()
	g.Go(func() { a.wire.run(ctx) })
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wire.news:
			if err := post(ctx, collect{time.Now()}); err != nil && ctx.Err() == nil {
				return err
			}
		}
	}
}

// collect is the event that the wire has something for the core.
type collect struct{ at time.Time }

// ID implements controller.App.
func (a *App) ID() flowtable.AppID { return controller.AppHealth }

// Handle implements controller.App.
func (a *App) Handle(c *controller.Context, event any) {
	switch e := event.(type) {
	case Change:
		a.change(c, e)
	case controller.PacketIn:
		if flowtable.CookieApp(e.Cookie) != controller.AppHealth || !flowtable.OwnsCookie(e.Cookie) {
			return
		}
		a.packetIn(c, e)
	case collect:
		a.noteLate(c.Now, e.at)
		a.collect(c)
	case controller.Woken:
		a.wake(c)
	case topology.HostAdded:
		a.hostSeen(c, e.Host)
	case topology.HostMoved:
		a.hostSeen(c, e.Host)
	case topology.HostChanged:
		a.hostSeen(c, e.Host)
	case controller.SwitchUp:
		for k := range a.cutOff[topology.Place{DPID: topology.DPID(e.DPID)}] {
			a.retry(c, k)
		}
	case topology.PortChanged:
		if !e.Gone && e.Port.Up {
			for k := range a.cutOff[e.Place] {
				a.retry(c, k)
			}
		}
	default:
		return
	}
	a.schedule(c)
}

// schedule asks for the next call.
func (a *App) schedule(c *controller.Context) {
	if len(a.due) > 0 {
		c.WakeAt(a.due[0].at)
	}
}

// change takes in the targets of an owner. A target that stays, and is probed
// otherwise now, keeps its state.
func (a *App) change(c *controller.Context, e Change) {
	wanted := map[string]Target{}
	for _, t := range e.Targets {
		if k := a.checks[t.ID]; k == nil || k.owner == e.Owner {
			wanted[t.ID] = t.filled()
		}
	}
	for _, id := range a.owned[e.Owner] {
		if _, ok := wanted[id]; !ok {
			a.remove(c, a.checks[id])
		}
	}
	if len(wanted) == 0 {
		delete(a.owned, e.Owner)
		return
	}
	ids := make([]string, 0, len(wanted))
	for _, t := range e.Targets { // in their order, for the sake of the first probes
		t, ok := wanted[t.ID]
		if !ok {
			continue
		}
		delete(wanted, t.ID)
		ids = append(ids, t.ID)
		k := a.checks[t.ID]
		switch {
		case k == nil:
			k = &check{owner: e.Owner, index: -1}
			a.checks[t.ID] = k
		case k.Target == t:
			continue
		default:
			a.let(c, k)
		}
		k.Target, k.awaits = t, false
		a.acquire(c, t)
		addTo(a.byAddress, t.Address, k)
		a.plan(k, a.turn(c.Now))
	}
	a.owned[e.Owner] = ids
}

// let ends what is under way and is kept for a target as it is.
func (a *App) let(c *controller.Context, k *check) {
	a.cancel(k)
	a.placed(k)
	a.release(c, k.Target)
	if dropFrom(a.byAddress, k.Address, k); a.byAddress[k.Address] == nil {
		delete(a.asked, k.Address)
	}
}

func (a *App) remove(c *controller.Context, k *check) {
	a.let(c, k)
	if k.index >= 0 {
		heap.Remove(&a.due, k.index)
	}
	delete(a.checks, k.ID)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func addTo[K, V comparable](m map[K]map[V]bool, k K, v V) {
	if m[k] == nil {
		m[k] = map[V]bool{}
	}
	m[k][v] = true
}

func dropFrom[K, V comparable](m map[K]map[V]bool, k K, v V) {
	if delete(m[k], v); len(m[k]) == 0 {
		delete(m, k)
	}
}

// plan sets when something is next to be done about a check.
func (a *App) plan(k *check, at time.Time) {
	k.at = at
	if k.index < 0 {
		heap.Push(&a.due, k)
	} else {
		heap.Fix(&a.due, k.index)
	}
}

// wake does what is due.
func (a *App) wake(c *controller.Context) {
	if len(a.due) > 0 {
		a.noteLate(c.Now, a.due[0].at)
	}
	for len(a.due) > 0 && !a.due[0].at.After(c.Now.Add(batch)) {
		k := a.due[0]
		if k.probe == 0 {
			a.begin(c, k)
		} else {
			a.expire(c, k)
		}
	}
}

// noteLate remembers that the core came late to something.
func (a *App) noteLate(now, due time.Time) {
	if by := now.Sub(due); by >= lateLeast {
		a.lateAt, a.lateBy = now, by
	}
}

// begin makes a probe. It always sets when the check is next looked at.
func (a *App) begin(c *controller.Context, k *check) {
	thread := k.ViaHost || k.Type == HTTPS
	if a.inFlight >= maxInFlight || thread && a.threads >= maxThreads {
		a.counts.deferred++
		a.plan(k, c.Now.Add(deferBy))
		return
	}
	if !k.awaits {
		// Never later than the interval after the one before, so that a failure is found
		// within Fall intervals and a timeout.
		k.next = c.Now.Add(k.Interval - time.Duration(rand.Int64N(int64(k.Interval/10)+1)))
		k.began = c.Now
	}
	if why := k.fault(); why != "" {
		a.finish(c, k, OutcomeFailure, why)
		return
	}
	if !k.ViaHost {
		at, why := locate(c, k.VLAN, k.Address)
		if why != "" {
			a.displaced(k, at.Place)
			if k.awaits = k.cutOff == (topology.Place{}) && a.ask(c, k); k.awaits {
				a.plan(k, c.Now.Add(k.Timeout))
			} else {
				a.finish(c, k, OutcomeUnplaced, why)
			}
			return
		}
		k.awaits = false
		a.placed(k)
		if at.VLAN != k.VLAN {
			a.access[[2]netip.Addr{k.Address, k.Source}] = k.VLAN
		}
		if c.Switch(ofproto.DPID(at.Place.DPID)) == nil {
			// Its flows outlive the session, and so does what was known of its hosts,
			// until the switch is given up and they with it.
			a.displaced(k, topology.Place{DPID: at.Place.DPID})
			a.counts.add(k.Type, OutcomeVoid)
			a.plan(k, k.next)
			return
		}
	}
	a.probes++
	k.probe = a.probes
	a.inFlight++
	if thread {
		a.threads++
	}
	deadline := c.Now.Add(k.Timeout)
	if a.plan(k, deadline); k.ViaHost {
		a.plan(k, deadline.Add(threadGrace)) // it ends by itself
	}
	if k.ViaHost || k.Type == TCP || k.Type == HTTP || k.Type == HTTPS {
		if !a.wire.start(k.probe, k.Target, deadline) {
			a.counts.deferred++
			a.settle(k)
			a.plan(k, c.Now.Add(deferBy))
		}
		return
	}
	a.sendPacket(c, k)
}

// cancel ends the probe in flight without an outcome.
func (a *App) cancel(k *check) {
	if k.probe != 0 {
		a.wire.abort(k.probe)
		a.settle(k)
	}
}

// settle forgets the probe in flight.
func (a *App) settle(k *check) {
	delete(a.pending, k.key)
	k.key, k.probe = packetKey{}, 0
	a.inFlight--
	if k.ViaHost || k.Type == HTTPS {
		a.threads--
	}
}

// expire ends a probe whose time is over.
func (a *App) expire(c *controller.Context, k *check) {
	if k.Type == UDPConnect && !k.ViaHost { // silence
		a.cancel(k)
		a.finish(c, k, OutcomeSuccess, "")
		return
	}
	a.timedOut(c, k)
}

// timedOut judges a probe that got no answer in time.
func (a *App) timedOut(c *controller.Context, k *check) {
	a.cancel(k)
	if a.lateBy > k.Timeout/latePart && a.lateAt.After(k.began) && k.voids < maxVoid {
		k.voids++
		a.counts.add(k.Type, OutcomeVoid)
		a.plan(k, c.Now.Add(deferBy))
		return
	}
	a.finish(c, k, OutcomeTimeout, "no answer within "+k.Timeout.String())
}

// finish takes in the outcome of a probe that is not in flight any more.
func (a *App) finish(c *controller.Context, k *check, o Outcome, why string) {
	a.counts.add(k.Type, o)
	k.voids = 0
	if o == OutcomeSuccess {
		k.why = ""
		k.state.pass(c.Now, k.Rise)
	} else {
		k.why = why
		k.state.fail(c.Now, k.Fall)
	}
	a.plan(k, later(k.next, c.Now))
	v, known := k.judged(c.Now)
	if !known {
		return
	}
	if v != k.told || c.Now.Sub(k.toldAt) >= repeatEvery {
		if v.Up != k.told.Up || k.told.ID == "" {
			a.counts.verdicts++
		}
		k.told, k.toldAt = v, c.Now
		a.verdict(c, v)
	}
}

// judged returns the verdict on a target; known is false when there is none yet.
func (k *check) judged(now time.Time) (v Verdict, known bool) {
	v = Verdict{ID: k.ID, Up: k.state.status == Up}
	switch {
	case v.Up:
	case k.why != "":
		v.Reason = k.why
	case k.state.held(now):
		v.Reason = fmt.Sprintf("answers, and is held down for %s because it flips", k.state.hold())
	default:
		v.Reason = k.told.Reason // answers, but not often enough yet
	}
	return v, k.state.status != Unknown
}

// collect takes what the wire has: packets to be sent, and outcomes.
func (a *App) collect(c *controller.Context) {
	packets, results := a.wire.drain()
	for _, p := range packets {
		a.send(c, p.vlan, p.dst, p.data)
	}
	for _, r := range results {
		k := a.checks[r.id]
		if k == nil || k.probe != r.probe {
			continue
		}
		if r.outcome == OutcomeTimeout {
			a.timedOut(c, k)
			continue
		}
		a.settle(k)
		if r.outcome == OutcomeVoid && k.voids < maxVoid {
			k.voids++
			a.counts.add(k.Type, OutcomeVoid)
			a.plan(k, c.Now.Add(deferBy))
			continue
		}
		a.finish(c, k, r.outcome, r.why)
	}
}

// Verdicts returns the present verdicts of all targets that have one, in order of their
// ids. It is for the core loop.
func (a *App) Verdicts() []Verdict {
	list := make([]Verdict, 0, len(a.checks))
	for _, k := range a.checks {
		if k.told.ID != "" {
			list = append(list, k.told)
		}
	}
	slices.SortFunc(list, func(x, y Verdict) int { return cmp.Compare(x.ID, y.ID) })
	return list
}
