package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime/debug"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

const (
	// planSize is about how many messages one plan holds. One bundle must not hold
	// up what comes after it for long.
	planSize = 4096
	// auditEvery is how often a switch is read back although nothing is known to be
	// wrong, give or take a third.
	auditEvery = 45 * time.Second
	retryFirst = time.Second
	retryMost  = time.Minute
	// readsMost is how often in a row a switch is read back for one part's sake: what
	// got lost or was deleted meanwhile must not count as what it cannot do.
	readsMost = 3
	// retryRoom is the time between attempts at what a switch has no room for.
	retryRoom = 10 * time.Second
)

// retry remembers when a part that failed is tried again.
type retry struct {
	at   time.Time
	wait time.Duration
	room bool // it waits for room, with all others that do
	read int  // how often the switch was read back because of it
}

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
	w := &worker{session: s, compiled: map[flowtable.PartKey]Source{}, broken: map[flowtable.PartKey]bool{}, retries: map[flowtable.PartKey]retry{}, installed: installed}
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

// worker is the state of a session's reconciling goroutine.
type worker struct {
	*session
	compiled  map[flowtable.PartKey]Source // of each part, the last one compiled
	retries   map[flowtable.PartKey]retry
	folded    folded
	installed *flowtable.Installed       // a read-back that is not in the table yet
	roomAt    time.Time                  // when parts that wait for room are next tried
	broken    map[flowtable.PartKey]bool // parts that do not compile
	ready     bool
	shut      error // why the gate is shut; nil: open
}

// step compiles what was assigned and applies plans until nothing is dirty.
func (w *worker) step(ctx context.Context) error {
	for {
		if err := w.take(ctx); err != nil {
			return err
		}
		if !w.ready || w.held(ctx) {
			return nil
		}
		if err := w.setMeters(ctx); err != nil {
			return err
		}
		if !w.table.Dirty() {
			return w.deleteMeters(ctx)
		}
		plan := w.table.Plan(planSize)
		results, err := w.apply(ctx, &plan)
		if err != nil {
			return err
		}
		w.report(ctx, &plan, results)
	}
}

// take moves what waits for the worker into the table.
func (w *worker) take(ctx context.Context) error {
	w.mu.Lock()
	sources, complete := w.sources, w.complete
	w.sources = map[flowtable.PartKey]Source{}
	var removed []removedFlow
	var reread bool
	if complete {
		removed, reread = w.removed, w.reread
		w.removed, w.reread = nil, false
	}
	w.mu.Unlock()

	results := map[flowtable.PartKey]error{}
	for key, src := range sources {
		if !w.caps.Holds {
			src.Build, src.Refused = nil, errIgnores
		}
		w.compiled[key] = Source{Tag: src.Tag, Refused: src.Refused, seq: src.seq} // Build would keep its inputs alive
		delete(w.retries, key)
		delete(w.broken, key)
		if src.Build == nil {
			w.deletePart(key)
			continue
		}
		part, err := w.build(src)
		if err == nil {
			err = w.setPart(key, w.metered(key.App, part))
		}
		if err != nil {
			w.log().Error("part does not compile", "part", key.Name, "app", AppNames[key.App], "error", err)
			results[key] = err
			w.broken[key] = true
		}
	}
	w.table.KeepOrphans(len(w.broken) > 0)
	w.refold(sources, results)
	defer func() {
		if len(results) > 0 {
			w.c.applied(ctx, w.session, w.applied(results), w.counts())
		}
	}()
	if !complete {
		return nil
	}
	if reread && w.installed == nil {
		in, err := w.readBack(ctx)
		if err != nil {
			return fmt.Errorf("read-back: %w", err)
		}
		w.installed = in
	}
	if w.installed != nil {
		w.table.ReadBack(w.installed)
		w.table.Postpone(func(key flowtable.PartKey) bool { return w.retries[key].room })
		w.installed = nil
		if !w.ready {
			w.ready = true
			if w.shut = w.gate(); w.shut != nil {
				w.c.hold(ctx, w.session, w.shut)
				for key := range w.compiled {
					results[key] = w.shut
				}
			}
		}
	}
	if w.shut != nil {
		for key := range sources {
			results[key] = w.shut
		}
	}
	// After the read-back: what it saw may have been removed since.
	for _, r := range removed {
		w.table.FlowRemoved(r.table, r.priority, r.match, r.cookie)
	}
	now := time.Now()
	for key, r := range w.retries {
		if !r.at.After(now) && !r.room {
			w.table.MarkDirty(key)
		}
	}
	w.lookForRoom(now)
	return nil
}

// lookForRoom tries the one part again that has waited for room longest, when it is
// time to.
func (w *worker) lookForRoom(now time.Time) {
	if w.roomAt.After(now) {
		return
	}
	var first flowtable.PartKey
	var at time.Time
	for key, r := range w.retries {
		if r.room && (at.IsZero() || r.at.Before(at)) {
			first, at = key, r.at
		}
	}
	if !at.IsZero() {
		w.table.MarkDirty(first)
	}
}

// roomMade has all parts that wait for room tried again.
func (w *worker) roomMade() {
	for key, r := range w.retries {
		if r.room {
			w.table.MarkDirty(key)
		}
	}
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

// nextRetry is how long the worker may sleep for the sake of parts that failed.
func (w *worker) nextRetry() time.Duration {
	next := time.Hour
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
			results[key] = w.compiled[key].Refused
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
	if room {
		w.roomMade()
	}
	w.c.applied(ctx, w.session, w.applied(results), w.counts())
}

func (w *worker) applied(results map[flowtable.PartKey]error) []partResult {
	out := make([]partResult, 0, len(results))
	for key, err := range results {
		out = append(out, partResult{key: key, src: w.compiled[key], err: err})
	}
	return out
}

func (w *worker) counts() tableCounts {
	flows, groups := w.table.Counts()
	return tableCounts{flows: flows, groups: groups, foreign: w.table.Foreign()}
}

// mistaken says whether an error shows that what the switch holds is not what it is
// thought to hold: a group that is there and should not be, or the other way round. A
// switch that cannot watch groups says BAD_WATCH too, and says it again.
func mistaken(err error) bool {
	var e *ofproto.Error
	return errors.As(err, &e) && (e.Type == ofproto.ErrorGroupModFailed && (e.Code == ofproto.CodeGroupExists || e.Code == ofproto.CodeUnknownGroup || e.Code == ofproto.CodeBadWatch) ||
		e.Type == ofproto.ErrorBadAction && e.Code == ofproto.CodeBadOutGroup)
}

// errInnocent marks a part whose messages were refused only because another
// part's message in the same bundle was.
var errInnocent = errors.New("discarded with the bundle")

// Bounds of how a plan is taken apart when a switch refuses some of it.
const (
	// refusalsMost is how many bundles in a row may be refused before the parts are
	// sent one by one.
	refusalsMost = 3
	// fullMost is how many parts in a row that find no room end the attempt.
	fullMost = 8
)

// apply sends a plan and returns the parts that failed, and why. An error means
// that the connection is of no more use.
//
// A part that the switch refuses does not keep the others out. Where the switch has
// no room for all, the parts are sent one by one in the order of their class, those
// that need no more room first, until it is plain that no more fit.
func (s *session) apply(ctx context.Context, p *flowtable.Plan) (map[flowtable.PartKey]error, error) {
	failed := maps.Clone(p.Blocked)
	if p.Len() == 0 {
		return failed, nil
	}
	if err := s.applyWhole(ctx, p, failed); err != nil {
		return nil, err
	}
	full := false
	for _, err := range failed {
		full = full || noRoom(err)
	}
	if !full && s.refusals < refusalsMost {
		return failed, nil
	}
	row := 0
	var last *ofproto.Error
	split := p.Split()
	if len(split) == 1 && (s.caps.Bundles || len(p.DeleteFlows)+len(p.DeleteGroups) == 0) {
		return failed, nil // it was by itself
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
			return nil, err
		}
		if noRoom(failed[key]) && !s.caps.Bundles && len(q.DeleteFlows)+len(q.DeleteGroups) > 0 {
			delete(failed, key)
			if err := s.applyPhases(ctx, &q, q.RoomFirst(), failed); err != nil {
				return nil, err
			}
		}
		if row++; !noRoom(failed[key]) || !errors.As(failed[key], &last) {
			row = 0
		}
	}
	s.refusals = 0
	return failed, nil
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
		return s.applyBundle(ctx, p.Atomic(), failed)
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
	errs, err := s.send(ctx, send, func(xid uint32, m *flowtable.Mod) ofproto.Message { return m.Message }, nil)
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

// applyBundle sends messages as one atomic, ordered bundle. When the switch
// refuses it, the parts whose messages it named have failed, and the others are
// innocent.
func (s *session) applyBundle(ctx context.Context, mods []flowtable.Mod, failed map[flowtable.PartKey]error) error {
	s.bundleID++
	id, flags := s.bundleID, ofproto.BundleAtomic|ofproto.BundleOrdered
	control := func(t ofproto.BundleControlType) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		_, err := s.conn.Request(ctx, &ofproto.BundleControl{Bundle: id, Type: t, Flags: flags})
		return err
	}
	if err := control(ofproto.BundleOpenRequest); err != nil {
		return fmt.Errorf("bundle open: %w", err)
	}
	errs, err := s.send(ctx, mods, func(xid uint32, m *flowtable.Mod) ofproto.Message {
		return &ofproto.BundleAdd{Bundle: id, Flags: flags, XID: xid, Message: m.Message}
	}, func() error { return control(ofproto.BundleCommitRequest) })
	switch {
	case err == nil && len(errs) == 0:
		s.refusals = 0
		for i := range mods {
			s.table.Applied(&mods[i])
		}
		return nil
	case err != nil && !refused(err):
		return fmt.Errorf("bundle: %w", err)
	}
	s.refusals++
	// Nothing was applied. After a refused add the bundle is still open.
	if err == nil {
		if err := control(ofproto.BundleDiscardRequest); err != nil && !refused(err) {
			return fmt.Errorf("bundle discard: %w", err)
		}
	}
	for i := range mods {
		m := &mods[i]
		s.table.Failed(m)
		if e := errs[i]; e != nil && failed[m.Part] == nil {
			failed[m.Part] = fmt.Errorf("%s: %w", m, e)
		}
	}
	for i := range mods {
		part := mods[i].Part
		if failed[part] != nil {
			continue
		}
		if len(errs) > 0 {
			failed[part] = errInnocent
		} else {
			failed[part] = fmt.Errorf("bundle: %w", err)
		}
	}
	return nil
}

// send sends messages back to back under xids of their own and a barrier, and returns
// the errors that the switch sent for them, by index. Where there were none commit
// follows, unless it is nil: what is refused is never committed. Its error is returned
// with the errors that came of it.
func (s *session) send(ctx context.Context, mods []flowtable.Mod, wrap func(uint32, *flowtable.Mod) ofproto.Message, commit func() error) (map[int]*ofproto.Error, error) {
	sent := make(map[uint32]int, len(mods))
	s.mu.Lock()
	s.sent, s.errs = sent, map[int]*ofproto.Error{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.sent, s.errs = nil, nil
		s.mu.Unlock()
	}()
	for i := range mods {
		xid := s.conn.NextXID()
		s.mu.Lock()
		sent[xid] = i
		s.mu.Unlock()
		if err := s.conn.SendXID(xid, wrap(xid, &mods[i])); err != nil {
			return nil, err
		}
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	if errs := s.errors(); commit == nil || len(errs) > 0 {
		return errs, nil
	}
	err := commit()
	if err == nil {
		return nil, nil
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	return s.errors(), err
}

func (s *session) errors() map[int]*ofproto.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.errs)
}

func (s *session) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if _, err := request[*ofproto.BarrierReply](ctx, s, &ofproto.BarrierRequest{}); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	return nil
}

// readBack asks a switch for all its groups and flows. Nothing of a read-back
// that is torn or cannot be parsed is used.
func (s *session) readBack(ctx context.Context) (*flowtable.Installed, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	expected, _ := s.table.Counts()
	in := flowtable.NewInstalled(expected)
	err := s.conn.Multipart(ctx, &ofproto.MultipartRequest{Type: ofproto.MultipartGroupDesc}, func(b []byte) error {
		return each(ofproto.GroupDescOf(b), func(g ofproto.GroupDesc) { in.AddGroup(g.Group, g.Type, g.Buckets) })
	})
	if err != nil && !refused(err) {
		return nil, fmt.Errorf("groups: %w", err)
	}
	err = s.conn.Multipart(ctx, allFlows(), func(b []byte) error {
		if in.Len() > maxInstalled {
			return fmt.Errorf("over %d entries: %w", maxInstalled, ofproto.ErrTooLarge)
		}
		return each(ofproto.FlowStatsOf(b), in.AddFlow)
	})
	if err != nil {
		return nil, fmt.Errorf("flows: %w", err)
	}
	return in, s.readMeters(ctx, in)
}

// allFlows asks for the flow entries of all tables.
func allFlows() *ofproto.MultipartRequest {
	return &ofproto.MultipartRequest{Type: ofproto.MultipartFlow, Body: &ofproto.FlowStatsRequest{
		Table: ofproto.TableAll, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
	}}
}
