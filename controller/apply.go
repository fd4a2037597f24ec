package controller

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

const (
	// planSize is about how many messages one plan holds. One bundle must not hold
	// up what comes after it for long.
	planSize = 4096
	// planFirst is how many the first one after a rest holds, and planGrows by how much
	// the next may be larger: what is changed over and over is caught before all of it
	// is on its way, and a switch that comes back empty has work at once.
	planFirst = 64
	planGrows = 8
	// aheadStep is how many messages are compiled between two looks at whether the switch
	// waits for the next word.
	aheadStep = 64
	// auditEvery is how often a switch is read back although nothing is known to be
	// wrong, give or take a third.
	auditEvery = 45 * time.Second
	retryFirst = time.Second
	retryMost  = time.Minute
	// lossesFree is how often a part that the switch has dropped entries of, or does not
	// hold at a read-back, is repaired at once; then it waits as one that was refused.
	// lossForget is for how long it is held until that is forgotten.
	lossesFree = 5
	lossForget = 2 * retryMost
	// readsMost is how often in a row a switch is read back for one part's sake: what
	// got lost or was deleted meanwhile must not count as what it cannot do.
	readsMost = 3
	// retryRoom is the time between attempts at what a switch has no room for.
	retryRoom = 10 * time.Second
	// A part that is assigned over and over is compiled when nothing came for as long
	// as the switch took for the last plan, between quietLeast and quietMost, and
	// hotMost after the first assignment in any case.
	quietLeast = 5 * time.Millisecond
	quietMost  = 100 * time.Millisecond
	hotMost    = time.Second
	// doubtEvery is the time between two read-backs because a switch may not hold what it
	// has accepted.
	doubtEvery = 10 * time.Second
	// hostsEvery is the time between two plans with hosts that are new or gone. They are
	// in no hurry, and every plan has Open vSwitch look at all flows of its datapath
	// again: with a plan for each host that a flood invents it lost packets of others.
	hostsEvery = 200 * time.Millisecond
)

// retry remembers when a part that failed is tried again.
type retry struct {
	at   time.Time
	wait time.Duration
	room bool // it waits for room, with all others that do
	read int  // how often the switch was read back because of it
}

// loss remembers that the switch has dropped entries of a part.
type loss struct {
	count int       // of repairs, within lossForget of one another
	last  time.Time // when it was lost
	until time.Time // not repaired before
	open  bool      // not repaired yet
	doubt bool      // repaired, which counts when a read-back has seen it
}

// errLost is the fault of a part that is not repaired at once any more.
var errLost = errors.New("the switch drops entries of it again and again, or does not hold those that it accepts")

// attachAndWork joins the core and then keeps the switch at its desired state
// until the connection ends.
func (s *session) attachAndWork(ctx context.Context) error {
	installed, err := s.readBack(ctx)
	if err != nil {
		return fmt.Errorf("read-back: %w", err)
	}
	s.empty = installed.Ours() == 0
	if err := s.learnCapabilities(ctx, installed); err != nil {
		return err
	}
	if s.caps.OneTable() {
		s.table = flowtable.New(Pipeline.Folded())
	}
	if err := s.c.attach(ctx, s); err != nil {
		return err
	}
	if ids, meters, ok := s.meters(); ok {
		s.table.SetMeters(ids, meters)
	}
	s.attached = time.Now()
	s.c.admission.done(s.entry)
	s.c.admission.settle(s.entry)
	w := &worker{
		session: s, waiting: map[flowtable.PartKey]Source{}, hot: map[flowtable.PartKey]hotSource{}, compiled: map[flowtable.PartKey]assignment{},
		broken: map[flowtable.PartKey]bool{}, retries: map[flowtable.PartKey]retry{}, losses: map[flowtable.PartKey]loss{}, installed: installed,
		window: planFirst,
	}
	audit := time.NewTimer(auditDelay())
	defer audit.Stop()
	again := time.NewTimer(time.Hour)
	defer again.Stop()
	for {
		if err := w.step(ctx); err != nil {
			return err
		}
		again.Reset(w.nextRetry())
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.work:
		case <-again.C:
		case <-audit.C:
			if err := s.recheck(); err != nil {
				return err
			}
			if err := s.auditPorts(ctx); err != nil {
				return err
			}
			s.mu.Lock()
			s.reread = true
			s.mu.Unlock()
			audit.Reset(auditDelay())
		}
	}
}

func auditDelay() time.Duration {
	return auditEvery*2/3 + rand.N(auditEvery*2/3)
}

// classes is how many classes of parts are compiled one after the other.
const classes = int(flowtable.ClassHost) + 1

// hotSource is an assignment that waits for the next of the same part.
type hotSource struct {
	Source
	since time.Time // of the first
	until time.Time // zero: see coolAt
}

// assignment is what of a Source is kept when it has been compiled. Its Build would keep
// all that it is made from alive.
type assignment struct {
	tag     uint64
	seq     uint64
	refused error
}

// worker is the state of a session's reconciling goroutine.
type worker struct {
	*session
	waiting      map[flowtable.PartKey]Source     // to be compiled
	backlog      [classes][]flowtable.PartKey     // the keys of waiting, by class, oldest first
	hot          map[flowtable.PartKey]hotSource  // not to be compiled yet; see refill
	compiled     map[flowtable.PartKey]assignment // of each part, the last one compiled
	retries      map[flowtable.PartKey]retry
	losses       map[flowtable.PartKey]loss // parts that entries were dropped of
	removedInAir []removedFlow              // entries of parts in the air that were removed
	air          *flight                    // committed, and not landed; nil: none
	next         *flight                    // launched, and not committed; nil: none
	lead         int                        // about how many messages are compiled and not planned
	window       int                        // how many messages the next plan holds
	last         *flight                    // that landed
	lastTook     time.Duration
	hostsAt      time.Time // not before, new hosts
	folded       folded
	installed    *flowtable.Installed       // a read-back that is not in the table yet
	roomAt       time.Time                  // when parts that wait for room are next tried
	freed        bool                       // we have made room since they were tried
	broken       map[flowtable.PartKey]bool // parts that do not compile
	ready        bool
	shut         error // why the gate is shut; nil: open
}

// step compiles what was assigned and applies plans until nothing is dirty.
func (w *worker) step(ctx context.Context) error {
	for {
		if err := w.take(ctx); err != nil {
			return err
		}
		if !w.due() {
			w.answer()
		}
		if !w.ready || w.held(ctx) {
			return nil
		}
		if w.air == nil {
			if err := w.setMeters(ctx); err != nil {
				return err
			}
		}
		if err := w.plan(ctx); err != nil {
			return err
		}
		w.ahead(ctx)
		if w.air != nil {
			if err := w.land(ctx); err != nil {
				return err
			}
		}
		if w.next != nil {
			if err := w.commit(ctx, w.next); err != nil {
				return err
			}
			w.air, w.next = w.next, nil
			continue
		}
		if w.table.Dirty() || w.due() || w.freed {
			continue
		}
		w.window = planFirst
		if len(w.waiting) == 0 {
			w.waiting = map[flowtable.PartKey]Source{} // a large one that is cleared stays large
		}
		if len(w.hot) > 0 {
			return nil
		}
		return w.deleteMeters(ctx)
	}
}

// plan makes a plan of what is dirty. Where the switch has bundles it is launched, even
// before the one in the air has landed; else it has been carried out.
func (w *worker) plan(ctx context.Context) error {
	for w.table.Dirty() && (w.air == nil || w.air.commit != nil && !w.waitsForLanding()) {
		plan := w.table.Plan(w.window)
		w.window = min(w.window*planGrows, planSize)
		if w.lead = max(w.lead-plan.Len(), 0); !w.table.Dirty() {
			w.lead = 0
		}
		failed := maps.Clone(plan.Blocked)
		if plan.Len() > 0 && w.caps.Bundles {
			var err error
			w.next, err = w.launch(&plan, failed)
			return err
		}
		f := &flight{plan: &plan, failed: failed, at: time.Now()}
		if plan.Len() > 0 {
			if err := w.applyPhases(ctx, &plan, plan.Phases(), failed); err != nil {
				return err
			}
			if err := w.oneByOne(ctx, &plan, failed); err != nil {
				return err
			}
		}
		w.landed(ctx, f)
		if plan.Len() > 0 {
			break // others may have been assigned
		}
	}
	return nil
}

// ahead compiles for the plan after the one that was launched, for as long as the switch
// is busy with what it has: it must not have to wait for that afterwards. It does so
// where there are many parts, not where few are changed again and again.
func (w *worker) ahead(ctx context.Context) {
	if w.next == nil || w.shut != nil || w.caps.OneTable() {
		return
	}
	results := map[flowtable.PartKey]error{}
	for w.due() && len(w.waiting) > planFirst && w.lead < w.window && !w.next.barrier.Done() {
		n := w.compile(results, aheadStep)
		if w.lead += n; n == 0 {
			break // what there is waits for its landing
		}
	}
	if len(results) > 0 {
		w.c.applied(ctx, w.session, w.applied(results), w.counts())
	}
}

// land waits for the flight in the air. The one that was launched after it may have to
// be given up.
func (w *worker) land(ctx context.Context) error {
	f := w.air
	ok, err := w.session.land(ctx, f)
	if err != nil {
		return err
	}
	if !ok {
		if next := w.next; next != nil {
			w.next = nil
			if err := w.abandon(ctx, next); err != nil {
				return err
			}
		}
		if err := w.oneByOne(ctx, f.plan, f.failed); err != nil {
			return err
		}
	}
	w.air = nil
	w.landed(ctx, f)
	return nil
}

// aloft says whether a part is on its way to the switch, so that it must be left alone.
func (w *worker) aloft(key flowtable.PartKey) bool {
	_, known := w.compiled[key] // else it is not, and there are many of those at the beginning
	return known && (w.air.has(key) || w.next.has(key))
}

// landed reports a flight whose outcome is known.
func (w *worker) landed(ctx context.Context, f *flight) {
	w.report(ctx, f.plan, f.failed)
	if f.plan.Len() > 0 {
		w.last, w.lastTook = &flight{plan: &flowtable.Plan{Parts: f.plan.Parts}, at: f.at}, time.Since(f.at)
	}
}

// waitsForLanding says whether something is to be done while nothing is in the air.
func (w *worker) waitsForLanding() bool {
	if w.table.MetersDue() {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.reread || w.freed || len(w.removedInAir) > 0
}

// due says whether parts wait to be compiled.
func (w *worker) due() bool {
	for _, keys := range w.backlog {
		if len(keys) > 0 {
			return true
		}
	}
	return false
}

// refill takes over what was assigned since. A part that is assigned again while its
// last assignment is on its way, or waits for the switch, is hot: more of it is likely
// to come, and each would be sent for nothing but the last.
func (w *worker) refill(now time.Time) (complete bool) {
	w.mu.Lock()
	sources, complete := w.sources, w.complete
	if len(sources) > 0 {
		w.sources = map[flowtable.PartKey]Source{}
	} else {
		sources = nil // who assigns goes on to write to the empty map
	}
	w.mu.Unlock()
	hostsDue := !w.hostsAt.After(now)
	if !w.ready && len(sources) > 0 && len(w.waiting)+len(w.hot) == 0 {
		w.waiting = sources // all of it, at the beginning
		for key, src := range sources {
			w.line(key, src)
		}
		sources = nil
	}
	for key, src := range sources {
		if h, hot := w.hot[key]; hot && (h.until.IsZero() || src.Class == flowtable.ClassHost) {
			h.Source = src
			w.hot[key] = h
			continue
		}
		delete(w.hot, key) // it rested with others that are in no hurry
		_, waits := w.waiting[key]
		if waits && (w.air == nil || len(w.waiting) > planFirst) {
			w.waiting[key] = src // of many: a switch that is brought up to date must not wait
			continue
		}
		busy := w.air != nil || w.last != nil && src.at.After(w.last.at) && !src.at.After(w.last.at.Add(w.lastTook))
		if w.ready && busy && (waits || src.again || w.air.has(key) || w.last.has(key) || w.table.Unqueue(key)) {
			w.hot[key] = hotSource{Source: src, since: src.at}
			delete(w.waiting, key)
			continue
		}
		if known := w.compiled[key].seq > 0; w.ready && key.App == AppForwarding && src.Class == flowtable.ClassHost && (!known || src.Build == nil || src.Patient) {
			if !hostsDue {
				w.hot[key] = hotSource{Source: src, since: src.at, until: w.hostsAt}
				continue
			}
			w.hostsAt = now.Add(hostsEvery)
		}
		w.enlist(key, src)
	}
	for key, h := range w.hot {
		if !w.coolAt(h).After(now) {
			delete(w.hot, key)
			w.enlist(key, h.Source)
			if !h.until.IsZero() {
				w.hostsAt = now.Add(hostsEvery)
			}
		}
	}
	return complete
}

func (w *worker) enlist(key flowtable.PartKey, src Source) {
	w.waiting[key] = src
	w.line(key, src)
}

// line puts a part that waits behind those of its class.
func (w *worker) line(key flowtable.PartKey, src Source) {
	class := min(int(src.Class), len(w.backlog)-1)
	w.backlog[class] = append(w.backlog[class], key)
}

// coolAt is when a hot part is compiled: when it was left alone for as long as the
// switch took last, and soon in any case.
func (w *worker) coolAt(h hotSource) time.Time {
	if !h.until.IsZero() {
		return h.until
	}
	quiet := min(max(w.lastTook, quietLeast), quietMost)
	return earlier(h.at.Add(quiet), h.since.Add(hotMost))
}

// compile brings parts that wait into the table, those of the lower class first, until
// they make about most messages, and returns how many they make. Parts in the air wait.
func (w *worker) compile(results map[flowtable.PartKey]error, most int) (n int) {
	taken := map[flowtable.PartKey]Source{} // where all have to be looked at
	metering := w.metering()
	for class := range w.backlog {
		var later []flowtable.PartKey
		for len(w.backlog[class]) > 0 && n < most {
			key := w.backlog[class][0]
			w.backlog[class] = w.backlog[class][1:]
			if w.aloft(key) {
				later = append(later, key)
				continue
			}
			src, waits := w.waiting[key]
			if !waits {
				continue // hot meanwhile
			}
			delete(w.waiting, key)
			if !w.caps.Holds {
				src.Build, src.Refused = nil, errIgnores
			}
			w.compiled[key] = assignment{tag: src.Tag, refused: src.Refused, seq: src.seq}
			delete(w.retries, key)
			delete(w.broken, key)
			if most == math.MaxInt {
				taken[key] = src
			}
			if w.shut != nil {
				results[key] = w.shut
			}
			if src.Build == nil {
				delete(w.losses, key)
				w.deletePart(key)
				n++
				continue
			}
			part, err := w.build(src)
			if err == nil {
				err = w.setPart(key, metering.metered(key.App, part))
			}
			if err != nil {
				w.log().Error("part does not compile", "part", key.Name, "app", AppNames[key.App], "error", err)
				results[key] = err
				w.broken[key] = true
			}
			n += 1 + len(part.Flows) + len(part.Groups)
		}
		w.backlog[class] = append(w.backlog[class], later...)
		if len(w.backlog[class]) > len(later) {
			break
		}
		if len(w.backlog[class]) == 0 {
			w.backlog[class] = nil
		}
	}
	w.table.KeepOrphans(len(w.broken) > 0)
	w.refold(taken, results)
	return n
}

// take moves what waits for the worker into the table.
func (w *worker) take(ctx context.Context) error {
	now := time.Now()
	complete := w.refill(now)
	results := map[flowtable.PartKey]error{}
	defer func() {
		if len(results) > 0 {
			w.c.applied(ctx, w.session, w.applied(results), w.counts())
		}
	}()
	if complete && !w.ready && w.installed.Ours() == 0 && w.laterTerm == 0 && !w.passive && !w.caps.OneTable() {
		// Where nothing of ours is, nothing can be deleted by mistake, and the first
		// plans need not wait until all is compiled.
		w.mu.Lock()
		w.removed, w.reread = nil, false // told of before the read-back, or of nothing of ours
		w.mu.Unlock()
		w.adopt(ctx, results)
	}
	if complete && w.ready {
		w.flowsRemoved(now, results)
	}
	if !w.ready || w.shut != nil || w.caps.OneTable() {
		w.compile(results, math.MaxInt) // all, for all is looked at
	} else {
		// About as much as one plan holds, so that the switch has something to do while the
		// rest is compiled.
		if !w.table.Dirty() {
			w.lead = 0
		}
		w.lead += w.compile(results, w.window-w.lead)
	}
	if !complete || w.air != nil {
		return nil
	}
	if w.ready && w.due() && w.shut == nil {
		return nil // a read-back is compared with the whole
	}
	w.mu.Lock()
	reread := w.reread
	w.reread = false
	if due := w.rereadDue; !due.IsZero() && !due.After(now) {
		reread, w.rereadDue, w.doubtedAt = true, time.Time{}, now
	}
	w.mu.Unlock()
	if reread && w.installed == nil {
		in, err := w.readBack(ctx)
		if err != nil {
			return fmt.Errorf("read-back: %w", err)
		}
		w.installed = in
	}
	if w.installed != nil {
		w.adopt(ctx, results)
	}
	w.flowsRemoved(now, results) // after the read-back: what it saw may have been removed since
	for key, r := range w.retries {
		if !r.at.After(now) && !r.room {
			w.table.MarkDirty(key)
		}
	}
	w.lookForRoom(now)
	return nil
}

// flowsRemoved takes in which entries the switch has dropped. Those of parts in the air
// wait for their landing: the entry may have been added again after that.
func (w *worker) flowsRemoved(now time.Time, results map[flowtable.PartKey]error) {
	w.mu.Lock()
	removed := w.removed
	w.removed = nil
	w.mu.Unlock()
	removed = append(w.removedInAir, removed...)
	w.removedInAir = nil
	for _, r := range removed {
		if w.air != nil {
			if key, ok := w.table.Wants(r.table, r.priority, r.match); ok && w.air.has(key) {
				w.removedInAir = append(w.removedInAir, r)
				continue
			}
		}
		if w.table.FlowRemoved(r.table, r.priority, r.match, r.cookie) {
			key, _ := w.table.Wants(r.table, r.priority, r.match)
			if w.lost(key, now) {
				results[key] = errLost
			}
		}
	}
}

// lost notes that the switch has dropped an entry of a part, or was found not to hold it,
// and says whether the part has to wait for being repaired. A switch that drops one entry
// for another, or somebody who deletes what is not his, would else be answered as fast as
// he can.
func (w *worker) lost(key flowtable.PartKey, now time.Time) (waits bool) {
	l := w.losses[key]
	if !l.open {
		if now.Sub(l.last) > lossForget {
			l.count = 0
		}
		l.count, l.open, l.last = l.count+1, true, now
		if n := l.count - lossesFree; n > 0 {
			l.until = now.Add(min(retryFirst<<min(n-1, 16), retryMost))
			w.retries[key] = retry{at: l.until}
		}
		w.losses[key] = l
	}
	if !l.until.After(now) {
		return false
	}
	w.table.Unqueue(key)
	return true
}

// adopt compares a read-back with what is desired; after the first, the gate is asked.
func (w *worker) adopt(ctx context.Context, results map[flowtable.PartKey]error) {
	foreign := w.table.Foreign()
	now := time.Now()
	found := w.table.ReadBack(w.installed, func(key flowtable.PartKey) bool {
		return w.retries[key].room || w.losses[key].until.After(now)
	})
	if w.table.Foreign() < foreign {
		w.roomBeside()
	}
	w.installed = nil
	if w.ready {
		for _, key := range found {
			if _, failed := w.retries[key]; !failed && w.lost(key, now) {
				results[key] = errLost
			}
		}
		for key, l := range w.losses {
			if l.doubt && !l.open {
				l.doubt = false
				w.losses[key] = l
				results[key] = w.compiled[key].refused
			}
		}
		return
	}
	w.ready = true
	if w.shut = w.gate(); w.shut == nil {
		w.c.program(w.dpid)
		return
	}
	w.c.hold(ctx, w.session, w.shut)
	for key := range w.compiled {
		results[key] = w.shut
	}
}

// lookForRoom has parts tried again that wait for room: all of them at once where we
// made some; and else, when it is time to, the one that was tried longest ago, or all
// where somebody else has made some.
//
// Those assigned first come first. What belongs together, as a VIP and its address do,
// was assigned together: in another order the room might go to halves, which serve
// nobody.
func (w *worker) lookForRoom(now time.Time) {
	waiting := w.waitForRoom()
	if len(waiting) > 0 && !w.freed && w.roomAt.After(now) {
		return
	}
	w.mu.Lock()
	all := w.freed || w.othersFreed
	w.freed, w.othersFreed = false, false
	w.mu.Unlock()
	slices.SortFunc(waiting, func(a, b flowtable.PartKey) int { return cmp.Compare(w.compiled[a].seq, w.compiled[b].seq) })
	if !all && len(waiting) > 0 {
		waiting = []flowtable.PartKey{slices.MinFunc(waiting, func(a, b flowtable.PartKey) int { return w.retries[a].at.Compare(w.retries[b].at) })}
	}
	for _, key := range waiting {
		w.table.MarkDirty(key)
	}
}

// waitForRoom returns the parts that wait for room, in no order.
func (w *worker) waitForRoom() (waiting []flowtable.PartKey) {
	for key, r := range w.retries {
		if r.room {
			waiting = append(waiting, key)
		}
	}
	return waiting
}

// roomBeside notes that somebody else has deleted entries, which leaves room for ours.
func (s *session) roomBeside() {
	s.mu.Lock()
	s.othersFreed = true
	s.mu.Unlock()
}

// build compiles a part and contains a panic in it: the other parts go on.
func (w *worker) build(src Source) (p flowtable.Part, err error) {
	defer func() {
		if r := recover(); r != nil {
			w.c.admission.panicked()
			w.log().Error("part panicked", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, r)
		}
	}()
	return src.Build(), nil
}

// nextRetry is how long the worker may sleep for the sake of parts that failed or are
// hot.
func (w *worker) nextRetry() time.Duration {
	next := time.Hour
	w.mu.Lock()
	if !w.rereadDue.IsZero() {
		next = max(time.Until(w.rereadDue), 0)
	}
	w.mu.Unlock()
	for _, h := range w.hot {
		next = min(next, max(time.Until(w.coolAt(h)), 0))
	}
	for _, r := range w.retries {
		at := r.at
		if r.room {
			at = w.roomAt
		}
		next = min(next, max(time.Until(at), 0))
	}
	return next
}

// report tells the core how each part of a plan ended, and sets retries.
func (w *worker) report(ctx context.Context, plan *flowtable.Plan, failed map[flowtable.PartKey]error) {
	results := make(map[flowtable.PartKey]error, len(plan.Parts))
	room := plan.Frees(func(key flowtable.PartKey) bool { return failed[key] == nil })
	for _, key := range plan.Parts {
		err := failed[key]
		if errors.Is(err, errInnocent) {
			// The part's messages were discarded with another's: at once again.
			w.table.MarkDirty(key)
			continue
		}
		results[key] = err
		if err == nil {
			results[key] = w.compiled[key].refused
			if l, ok := w.losses[key]; ok {
				l.open, l.doubt = false, l.count > lossesFree
				w.losses[key] = l
				if l.doubt {
					results[key] = errLost
					w.doubt()
				}
			}
			room = room || w.retries[key].room
			delete(w.retries, key)
			continue
		}
		r := w.retries[key]
		if mistaken(err) && r.read < readsMost {
			// The switch does not hold what it is thought to hold: look, then at once again.
			delete(results, key)
			w.retries[key] = retry{at: time.Now(), read: r.read + 1}
			w.table.MarkDirty(key)
			w.mu.Lock()
			w.reread = true
			w.mu.Unlock()
			continue
		}
		if r.room = noRoom(err); r.room {
			r.at, r.wait = time.Now(), 0
			w.retries[key] = r
			w.roomAt = r.at.Add(retryRoom)
			continue
		}
		r.wait = min(max(2*r.wait, retryFirst), retryMost)
		r.at = time.Now().Add(r.wait)
		w.retries[key] = r
	}
	w.freed = w.freed || room && len(w.waitForRoom()) > 0
	w.c.applied(ctx, w.session, w.applied(results), w.counts())
}

func (w *worker) applied(results map[flowtable.PartKey]error) []partResult {
	out := make([]partResult, 0, len(results))
	for key, err := range results {
		out = append(out, partResult{key: key, of: w.compiled[key], err: err})
	}
	return out
}

func (w *worker) counts() tableCounts {
	flows, groups := w.table.Counts()
	return tableCounts{flows: flows, groups: groups, foreign: w.table.Foreign()}
}

// mistaken says whether an error shows that what the switch holds is not what it is
// thought to hold: a group that is there and should not be, or the other way round, or
// that a meter is gone, and with it the entries that named it (§6.4). A
// switch that cannot watch groups says BAD_WATCH too, and says it again.
func mistaken(err error) bool {
	var e *ofproto.Error
	return errors.As(err, &e) && (e.Type == ofproto.ErrorGroupModFailed && (e.Code == ofproto.CodeGroupExists || e.Code == ofproto.CodeUnknownGroup || e.Code == ofproto.CodeBadWatch) ||
		e.Type == ofproto.ErrorBadAction && e.Code == ofproto.CodeBadOutGroup ||
		e.Type == ofproto.ErrorMeterModFailed && (e.Code == ofproto.CodeInvalidMeter || e.Code == ofproto.CodeUnknownMeter))
}

// Bounds of how a plan is taken apart when a switch refuses some of it.
const (
	// refusalsMost is how many bundles in a row may be refused before the parts are
	// sent one by one.
	refusalsMost = 3
	// fullMost is how many parts in a row that find no room end the attempt.
	fullMost = 8
)

// oneByOne goes on with a plan that the switch did not take as it was; failed is what
// it refused, and becomes what it refuses in the end. An error means that the
// connection is of no more use.
//
// A part that the switch refuses does not keep the others out. Where the switch has
// no room for all, the parts are sent one by one in the order of their class, those
// that need no more room first, until it is plain that no more fit.
func (s *session) oneByOne(ctx context.Context, p *flowtable.Plan, failed map[flowtable.PartKey]error) error {
	full := false
	for _, err := range failed {
		full = full || noRoom(err)
	}
	if !full && s.refusals < refusalsMost {
		return nil
	}
	row := 0
	var last *ofproto.Error
	split := p.Split()
	if len(split) == 1 && (s.caps.Bundles || len(p.DeleteFlows)+len(p.DeleteGroups) == 0) {
		return nil // it was by itself
	}
	for _, q := range split {
		key := q.Parts[0]
		if err := failed[key]; err == nil || !noRoom(err) && !errors.Is(err, errInnocent) {
			continue
		}
		if row >= fullMost {
			failed[key] = fmt.Errorf("no room for it, as for others: %w", last)
			s.keepDeletions(&q)
			continue
		}
		delete(failed, key)
		if err := s.applyWhole(ctx, &q, failed); err != nil {
			return err
		}
		if noRoom(failed[key]) && !s.caps.Bundles && len(q.DeleteFlows)+len(q.DeleteGroups) > 0 {
			delete(failed, key)
			if err := s.applyPhases(ctx, &q, q.RoomFirst(), failed); err != nil {
				return err
			}
		}
		if row++; !noRoom(failed[key]) || !errors.As(failed[key], &last) {
			row = 0
		}
	}
	s.refusals = 0
	return nil
}

// keepDeletions remembers the deletions of a plan that is not carried out.
func (s *session) keepDeletions(p *flowtable.Plan) {
	for _, mods := range [][]flowtable.Mod{p.DeleteFlows, p.DeleteGroups} {
		for i := range mods {
			s.table.Failed(&mods[i])
		}
	}
}

// noRoom says whether a switch refused something for want of room, of which there
// may be more another time.
func noRoom(err error) bool {
	var e *ofproto.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Type {
	case ofproto.ErrorFlowModFailed:
		return e.Code == ofproto.CodeTableFull
	case ofproto.ErrorGroupModFailed:
		return e.Code == ofproto.CodeOutOfGroups || e.Code == ofproto.CodeOutOfBuckets
	}
	return false
}

// applyWhole sends a plan as one bundle, or in phases where there are none.
func (s *session) applyWhole(ctx context.Context, p *flowtable.Plan, failed map[flowtable.PartKey]error) error {
	if s.caps.Bundles {
		return s.applyBundle(ctx, p, failed)
	}
	return s.applyPhases(ctx, p, p.Phases(), failed)
}

// applyPhases sends a plan in phases. What was added of a part that then failed is
// taken back: half a part is a black hole.
func (s *session) applyPhases(ctx context.Context, p *flowtable.Plan, phases [][]flowtable.Mod, failed map[flowtable.PartKey]error) error {
	for _, mods := range phases {
		if err := s.applyPhase(ctx, mods, failed); err != nil {
			return err
		}
	}
	undone := map[flowtable.PartKey]error{}
	for _, mods := range s.table.Undo(p, func(key flowtable.PartKey) bool { return failed[key] != nil }) {
		if err := s.applyPhase(ctx, mods, undone); err != nil {
			return err
		}
	}
	return nil
}

// applyPhase sends messages and a barrier (§7.3.8). Messages of a part that has
// failed in an earlier phase are held back.
func (s *session) applyPhase(ctx context.Context, mods []flowtable.Mod, failed map[flowtable.PartKey]error) error {
	send := make([]flowtable.Mod, 0, len(mods))
	for _, m := range mods {
		if failed[m.Part] == nil {
			send = append(send, m)
		} else {
			s.table.Failed(&m)
		}
	}
	errs, err := s.send(ctx, send)
	if err != nil {
		return err
	}
	for i := range send {
		m := &send[i]
		if e := errs[i]; e != nil {
			s.table.Failed(m)
			if failed[m.Part] == nil {
				failed[m.Part] = fmt.Errorf("%s: %w", m, e)
			}
			continue
		}
		s.table.Applied(m)
	}
	return nil
}

// readBack asks a switch for all its groups and flows. Nothing of a read-back
// that is torn or cannot be parsed is used.
func (s *session) readBack(ctx context.Context) (*flowtable.Installed, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errNoAnswer)
	defer cancel()
	in := s.table.NewInstalled()
	err := s.conn.Multipart(ctx, &ofproto.MultipartRequest{Type: ofproto.MultipartGroupDesc}, into(in, ofproto.GroupDescOf, func(g ofproto.GroupDesc) {
		in.AddGroup(g.Group, g.Type, g.Buckets)
	}))
	if err != nil && !refused(err) {
		return nil, fmt.Errorf("groups: %w", err)
	}
	err = s.conn.Multipart(ctx, allFlows(), into(in, ofproto.FlowStatsOf, in.AddFlow))
	if err != nil {
		return nil, fmt.Errorf("flows: %w", err)
	}
	return in, s.readMeters(ctx, in)
}

// into returns what adds the records of a multipart reply to a read-back, as many as one
// may hold.
func into[T any](in *flowtable.Installed, records func([]byte) iter.Seq2[T, error], add func(T)) func([]byte) error {
	return func(b []byte) error {
		if in.Len() > maxInstalled {
			return errTooManyEntries
		}
		return each(records(b), add)
	}
}

// allFlows asks for the flow entries of all tables.
func allFlows() *ofproto.MultipartRequest {
	return &ofproto.MultipartRequest{Type: ofproto.MultipartFlow, Body: &ofproto.FlowStatsRequest{
		Table: ofproto.TableAll, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
	}}
}
