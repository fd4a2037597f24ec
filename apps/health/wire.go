package health

import (
	"context"
	"log/slog"
	"net/netip"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of what waits between the core and the wire; what is over them is dropped, as
// a network drops it.
const (
	maxJobs    = 2 * maxInFlight
	maxInbound = 4096
	maxOut     = 8192
	// sweepEvery is how often probes are looked for that the core gave up and whose end
	// was lost.
	sweepEvery = time.Second
)

// wire makes the probes that need more than one packet. One goroutine, run, owns the
// TCP/IP stack and all connections through the switches; those that speak TLS, and
// those from the controller's own host, have a goroutine each while they last.
//
// start, abort, deliver and drain are for the core: they never block.
type wire struct {
	log     *slog.Logger
	jobs    chan job
	inbound chan inbound
	wakeup  chan struct{} // capacity 1: connections are ready
	news    chan struct{} // capacity 1: drain has something
	dropped atomic.Uint64

	mu      sync.Mutex
	out     []outbound
	results []result
	ready   []*stream

	// Owned by run.
	stack   *netstack
	streams map[uint64]*stream
	threads map[uint64]context.CancelFunc
	group   sync.WaitGroup
}

// job asks for a probe to be made, or ended where target is zero.
type job struct {
	probe    uint64
	target   Target
	deadline time.Time
}

// inbound is an IP packet from a switch, outbound one for a host.
type inbound struct {
	vlan uint16
	data []byte
}

type outbound struct {
	vlan uint16
	dst  netip.Addr
	data []byte
}

// result is how a probe ended.
type result struct {
	id      string // of the target
	probe   uint64
	outcome Outcome
	why     string
}

func newWire(log *slog.Logger) *wire {
	return &wire{
		log: log, jobs: make(chan job, maxJobs), inbound: make(chan inbound, maxInbound),
		wakeup: make(chan struct{}, 1), news: make(chan struct{}, 1),
		streams: map[uint64]*stream{}, threads: map[uint64]context.CancelFunc{},
	}
}

// signal makes a channel of capacity 1 readable.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// start has a probe made; false when too many wait.
func (w *wire) start(probe uint64, t Target, deadline time.Time) bool {
	select {
	case w.jobs <- job{probe, t, deadline}:
		return true
	default:
		return false
	}
}

// abort ends a probe; it has no result any more that anybody waits for.
func (w *wire) abort(probe uint64) {
	select {
	case w.jobs <- job{probe: probe}:
	default: // the sweep finds it
	}
}

// deliver hands over an IP packet from a target, which belongs to the wire now; false
// when it is dropped.
func (w *wire) deliver(vlan uint16, data []byte) bool {
	select {
	case w.inbound <- inbound{vlan, data}:
		return true
	default:
		return false
	}
}

// drain returns what has come up for the core since it was last called.
func (w *wire) drain() ([]outbound, []result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out, results := w.out, w.results
	w.out, w.results = nil, nil
	return out, results
}

// send queues an IP packet for the core to send.
func (w *wire) send(p outbound) {
	w.mu.Lock()
	full := len(w.out) >= maxOut
	if !full {
		w.out = append(w.out, p)
	}
	w.mu.Unlock()
	if full {
		w.dropped.Add(1)
	}
	signal(w.news)
}

// report queues a result for the core. There is at most one for each probe in flight.
func (w *wire) report(r result) {
	w.mu.Lock()
	w.results = append(w.results, r)
	w.mu.Unlock()
	signal(w.news)
}

// wake has a connection looked at.
func (w *wire) wake(s *stream) {
	if s.waiting.CompareAndSwap(false, true) {
		w.mu.Lock()
		w.ready = append(w.ready, s)
		w.mu.Unlock()
		signal(w.wakeup)
	}
}

// run makes probes until ctx ends, and then ends those under way.
func (w *wire) run(ctx context.Context) {
	defer w.group.Wait()
	defer w.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan uint64, maxThreads)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-w.jobs:
			w.contain(func() { w.do(ctx, j, ended) })
		case p := <-w.inbound:
			w.contain(func() { w.stackNow().inject(p) })
		case <-w.wakeup:
			w.mu.Lock()
			ready := w.ready
			w.ready = nil
			w.mu.Unlock()
			for _, s := range ready {
				s.waiting.Store(false)
				if w.streams[s.probe] == s {
					w.contain(func() { w.step(ctx, s, ended) })
				}
			}
		case probe := <-ended:
			w.contain(func() { w.forget(probe) })
		case now := <-sweep.C:
			for probe, s := range w.streams {
				if now.Sub(s.deadline) > sweepEvery {
					w.contain(func() { w.forget(probe) })
				}
			}
			if w.stack != nil && w.stack.broken.Load() {
				w.reset()
			}
		}
	}
}

// do starts or ends a probe.
func (w *wire) do(ctx context.Context, j job, ended chan<- uint64) {
	switch {
	case j.target.Type == "":
		w.forget(j.probe)
	case !time.Now().Before(j.deadline):
		w.report(result{j.target.ID, j.probe, OutcomeVoid, "the controller is late"})
	case j.target.ViaHost:
		w.thread(ctx, j.probe, j.target, j.deadline, ended, func(ctx context.Context) error { return fromHost(ctx, j.target) })
	default:
		s := &stream{wire: w, probe: j.probe, target: j.target, deadline: j.deadline}
		w.streams[j.probe] = s
		if err := s.connect(w.stackNow()); err != nil {
			w.end(s, err)
		}
	}
}

// step goes on with a connection that is ready.
func (w *wire) step(ctx context.Context, s *stream, ended chan<- uint64) {
	done, err := s.step()
	switch {
	case err != nil || done:
		w.end(s, err)
	case s.phase == phaseTLS && !s.handed:
		s.handed = true
		w.thread(ctx, s.probe, s.target, s.deadline, ended, func(ctx context.Context) error {
			return speakTLS(ctx, s.conn(), s.target)
		})
	}
}

// thread makes a probe in a goroutine of its own.
func (w *wire) thread(ctx context.Context, probe uint64, t Target, deadline time.Time, ended chan<- uint64, f func(context.Context) error) {
	all := ctx
	ctx, cancel := context.WithDeadline(all, deadline)
	w.threads[probe] = cancel
	w.group.Go(func() {
		r := result{t.ID, probe, OutcomeVoid, "the probe failed in the controller"}
		defer func() {
			if p := recover(); p != nil {
				w.log.Error("probe panicked", "target", t.ID, "panic", p, "stack", string(debug.Stack()))
			}
			w.report(r)
			select {
			case ended <- probe:
			case <-all.Done():
			}
		}()
		err := f(ctx)
		r.outcome, r.why = outcomeOf(ctx, err)
	})
}

// outcomeOf judges the error of a probe.
func outcomeOf(ctx context.Context, err error) (Outcome, string) {
	switch {
	case err == nil:
		return OutcomeSuccess, ""
	case ctx.Err() != nil || isTimeout(err):
		return OutcomeTimeout, ""
	}
	return OutcomeFailure, err.Error()
}

// end ends a connection with its result.
func (w *wire) end(s *stream, err error) {
	r := result{id: s.target.ID, probe: s.probe}
	if err != nil {
		r.outcome, r.why = OutcomeFailure, err.Error()
	}
	w.report(r)
	w.forget(s.probe)
}

// forget ends what is left of a probe.
func (w *wire) forget(probe uint64) {
	if cancel := w.threads[probe]; cancel != nil {
		cancel()
		delete(w.threads, probe)
	}
	if s := w.streams[probe]; s != nil {
		delete(w.streams, probe)
		s.close()
	}
}

func (w *wire) stackNow() *netstack {
	if w.stack == nil {
		w.stack = newNetstack(w)
	}
	return w.stack
}

// contain keeps a panic of the TCP/IP stack from ending the process. What it leaves
// locked or half done is left behind with it: the probes through it are void, and the
// next one gets a new stack.
func (w *wire) contain(f func()) {
	defer func() {
		if p := recover(); p != nil {
			w.log.Error("TCP/IP stack of health monitors panicked", "panic", p, "stack", string(debug.Stack()))
			w.reset()
		}
	}()
	f()
}

// reset leaves a broken stack.
func (w *wire) reset() {
	for probe, s := range w.streams {
		w.report(result{s.target.ID, probe, OutcomeVoid, ""})
	}
	clear(w.streams)
	if old := w.stack; old != nil {
		go func() {
			defer func() { _ = recover() }()
			old.close()
		}()
	}
	w.stack = nil
}

// close ends all that is under way.
func (w *wire) close() {
	for _, cancel := range w.threads {
		cancel()
	}
	for _, s := range w.streams {
		w.contain(s.close)
	}
	clear(w.streams)
	if w.stack != nil {
		w.contain(w.stack.close)
	}
}
