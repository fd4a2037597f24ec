package migration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Store keeps migrations over a restart. Keys are the names of migrations, and such
// names followed by a slash and more.
type Store interface {
	// Entries returns all that is stored.
	Entries(ctx context.Context) (map[string][]byte, error)
	// Entry returns one; nil when it is not there.
	Entry(ctx context.Context, key string) ([]byte, error)
	// Write puts entries and deletes others, durably, all or nothing. A nil value
	// deletes.
	Write(ctx context.Context, entries map[string][]byte) error
}

// Options configures a Service. All fields are required.
type Options struct {
	Store   Store
	Network Network
	Bridges Bridges
	VIPs    VIPs
	Prober  Prober
	Log     *slog.Logger
}

// Service keeps migrations and runs them. Its methods may be called from any goroutine.
// One goroutine, Run, does what a migration that is under way needs; there is one such
// migration at most, because two would spoil each other's measurements.
type Service struct {
	o        Options
	patience patience
	left     bool // a run was under way when New read it

	writing sync.Mutex // held over a change of a record and its write

	mu      sync.Mutex // guards what follows
	records map[string]*record
	plans   map[string]*Plan
	watches map[string]*Watch
	// interrupt ends what Run is doing for the migration under way.
	interrupt context.CancelFunc
	wake      chan struct{} // capacity 1: a record changed
	changed   chan struct{} // closed when one changes
}

// patience is how long things may take.
type patience struct {
	connect  time.Duration // that a switch connects and takes its state
	verify   time.Duration // that everything answers again after a step
	again    time.Duration // between two measurements
	watch    time.Duration // between two verifications of an applied wave, at least
	retry    time.Duration // before what could not be taken back is tried again; it doubles
	retryMax time.Duration
	giveUp   time.Duration // of taking back
	measure  time.Duration // one measurement
}

var defaultPatience = patience{
	connect: 15 * time.Second, verify: 10 * time.Second, again: time.Second, watch: 10 * time.Second,
	retry: time.Second, retryMax: 15 * time.Second, giveUp: 5 * time.Minute, measure: 30 * time.Second,
}

// New reads what is stored.
func New(ctx context.Context, o Options) (*Service, error) {
	s := &Service{
		o: o, patience: defaultPatience, records: map[string]*record{}, plans: map[string]*Plan{}, watches: map[string]*Watch{},
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	entries, err := o.Store.Entries(ctx)
	if err != nil {
		return nil, fmt.Errorf("migration: read: %w", err)
	}
	for key, value := range entries {
		name, rest, _ := strings.Cut(key, "/")
		switch rest {
		case "":
			r := new(record)
			if err := json.Unmarshal(value, r); err != nil {
				return nil, fmt.Errorf("migration: stored %q: %w", key, err)
			}
			s.records[name] = r
			s.left = s.left || r.Run != nil
		case "plan":
			p := new(Plan)
			if json.Unmarshal(value, p) == nil { // else the next one takes its place
				s.plans[name] = p
			}
		}
	}
	return s, nil
}

func (s *Service) now() time.Time { return time.Now().UTC() }

func (s *Service) record(name string) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[name]
}

// underWay is the migration that runs; nil: none.
func (s *Service) underWay() *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if r.Run != nil {
			return r
		}
	}
	return nil
}

// update changes a record, or makes it, durably: f changes a copy, and its error changes
// nothing. more are entries that are written with it. Others see the change when it is
// on disk.
func (s *Service) update(ctx context.Context, name string, f func(r *record, more map[string][]byte) error) (*record, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	r := s.record(name)
	if r == nil {
		r = &record{Applied: []string{}, Checkpoints: []CheckpointView{}, Audit: []AuditEntry{}}
	}
	next := r.clone()
	more := map[string][]byte{}
	if err := f(next, more); err != nil {
		return nil, err
	}
	next.Revision++
	next.UpdatedAt = s.now()
	value, err := json.Marshal(next)
	if err != nil {
		return nil, fmt.Errorf("migration: encode %s: %w", name, err)
	}
	more[name] = value
	if err := s.o.Store.Write(ctx, more); err != nil {
		return nil, fmt.Errorf("migration: store %s: %w", name, err)
	}
	s.mu.Lock()
	s.records[name] = next
	s.announceLocked()
	s.mu.Unlock()
	s.notify(ctx, next)
	return next, nil
}

// announceLocked tells Run and those who wait that something changed.
func (s *Service) announceLocked() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// event is what is told of a migration that changed.
type event struct {
	Name     string   `json:"name"`
	State    State    `json:"state"`
	Wave     string   `json:"wave,omitempty"`
	Phase    Phase    `json:"phase,omitempty"`
	Reason   string   `json:"reason,omitempty"`
	Revision uint64   `json:"revision"`
	Progress Progress `json:"progress"`
	Deleted  bool     `json:"deleted,omitempty"`
}

func (s *Service) notify(ctx context.Context, r *record) {
	v := r.view(s.now())
	e := event{Name: v.Name, State: v.State, Reason: v.Reason, Revision: v.Revision, Progress: v.Progress}
	if r.Run != nil {
		e.Wave, e.Phase = r.Run.Wave, r.Run.Phase
	}
	s.o.Network.Notify(ctx, e)
}

// Condition is what must hold of a migration that is replaced or deleted.
type Condition struct {
	IfMatch     func(etag string) bool // nil: no condition
	IfNoneMatch bool                   // there must be none
}

func (c Condition) check(r *record) error {
	switch {
	case c.IfNoneMatch && r != nil:
		return fmt.Errorf("%w: %s exists", ErrPrecondition, r.Description.Name)
	case c.IfMatch != nil && (r == nil || !c.IfMatch(etag(r.Revision, r.UpdatedAt))):
		return fmt.Errorf("%w: If-Match", ErrPrecondition)
	}
	return nil
}

// Get returns a migration with its plan and its audit log. ErrNotFound.
func (s *Service) Get(_ context.Context, name string) (Migration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records[name]
	if r == nil {
		return Migration{}, fmt.Errorf("%w: there is no migration %s", ErrNotFound, name)
	}
	v := r.view(s.now())
	v.Plan, v.Watch, v.Audit = s.plans[name], s.watches[name], append([]AuditEntry{}, r.Audit...)
	return v, nil
}

// List returns all migrations by name, without plans and audit logs.
func (s *Service) List(context.Context) ([]Migration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []Migration{}
	for _, name := range slices.Sorted(maps.Keys(s.records)) {
		list = append(list, s.records[name].view(s.now()))
	}
	return list, nil
}

// Changed returns a channel that is closed when a migration changes after now.
func (s *Service) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Plan makes the plan of a description as things stand now, and stores nothing.
func (s *Service) Plan(ctx context.Context, d Description) (*Plan, error) {
	var applied []string
	if r := s.record(d.Name); r != nil {
		applied = r.Applied
	}
	return s.plan(ctx, d, applied, "")
}

// Put creates a migration or replaces one that is not under way, and plans it. Waves that
// are applied stay as they are: a description without them, or with other steps in them,
// is a conflict. who is who asks, for the audit log.
func (s *Service) Put(ctx context.Context, d Description, cond Condition, who string) (m Migration, created bool, err error) {
	plan, err := s.Plan(ctx, d)
	if err != nil {
		return m, false, err
	}
	encoded, err := json.Marshal(plan)
	if err != nil {
		return m, false, fmt.Errorf("migration: encode plan: %w", err)
	}
	_, err = s.update(ctx, d.Name, func(r *record, more map[string][]byte) error {
		created = r.Revision == 0
		old := r
		if created {
			old = nil
		}
		if err := cond.check(old); err != nil {
			return err
		}
		switch {
		case r.Run != nil:
			return conflict("migration %s is under way (%s)", d.Name, r.state())
		case created && s.count() >= maxMigrations:
			return conflict("there are %d migrations: delete one", maxMigrations)
		}
		for _, name := range r.Applied {
			i, was := d.wave(name), r.Description.wave(name)
			if i < 0 || !sameWave(d.Waves[i], r.Description.Waves[was]) {
				return conflict("wave %s is applied: it cannot be changed or left out; roll it back before, or use another name", name)
			}
		}
		if created {
			r.CreatedAt = s.now()
			r.NextPoint = 1
		}
		r.Description = d
		r.log(AuditEntry{At: s.now(), Who: who, What: "put", Detail: fmt.Sprintf("waves: %d, steps: %d, checks of the plan that fail: %d", len(d.Waves), d.steps(), plan.Failed)})
		more[planKey(d.Name)] = encoded
		return nil
	})
	if err != nil {
		return m, false, err
	}
	s.keepPlan(d.Name, plan)
	m, err = s.Get(ctx, d.Name)
	return m, created, err
}

func (s *Service) keepPlan(name string, p *Plan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plans[name] = p
}

func sameWave(a, b Wave) bool {
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	return bytes.Equal(x, y)
}

func (s *Service) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

// Delete forgets a migration that is not under way, with its checkpoints. What it
// applied stays.
func (s *Service) Delete(ctx context.Context, name string, cond Condition, who string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	r := s.record(name)
	if r == nil {
		return fmt.Errorf("%w: there is no migration %s", ErrNotFound, name)
	}
	if err := cond.check(r); err != nil {
		return err
	}
	if r.Run != nil {
		return conflict("migration %s is under way (%s): roll it back, or confirm it", name, r.state())
	}
	gone := map[string][]byte{name: nil, planKey(name): nil}
	for _, c := range r.Checkpoints {
		gone[checkpointKey(name, c.N)] = nil
	}
	if err := s.o.Store.Write(ctx, gone); err != nil {
		return fmt.Errorf("migration: delete %s: %w", name, err)
	}
	s.mu.Lock()
	delete(s.records, name)
	delete(s.plans, name)
	s.announceLocked()
	s.mu.Unlock()
	s.o.Network.Notify(ctx, event{Name: name, Deleted: true})
	s.o.Log.Info("migration deleted", "migration", name, "by", who)
	return nil
}

// free says why no run of a migration can begin.
func (s *Service) free(r *record, name string) error {
	if r.Revision == 0 {
		return fmt.Errorf("%w: there is no migration %s", ErrNotFound, name)
	}
	if other := s.underWay(); other != nil {
		return conflict("migration %s is under way (wave %s, %s): one at a time", other.Description.Name, other.Run.Wave, other.state())
	}
	return nil
}

// pick returns the wave to be applied, the next one when none is named.
func (r *record) pick(wave string) (Wave, error) {
	if wave == "" {
		if wave = r.next(); wave == "" {
			return Wave{}, conflict("all waves are applied")
		}
	}
	i := r.Description.wave(wave)
	switch {
	case i < 0:
		return Wave{}, fmt.Errorf("%w: migration %s has no wave %s", ErrNotFound, r.Description.Name, wave)
	case slices.Contains(r.Applied, wave):
		return Wave{}, conflict("wave %s is applied", wave)
	}
	return r.Description.Waves[i], nil
}

// PlanWave makes the plan of one wave, the next one when none is named, and changes
// nothing.
func (s *Service) PlanWave(ctx context.Context, name, wave string) (*Plan, error) {
	r := s.record(name)
	if r == nil {
		return nil, fmt.Errorf("%w: there is no migration %s", ErrNotFound, name)
	}
	w, err := r.pick(wave)
	if err != nil {
		return nil, err
	}
	return s.plan(ctx, r.Description, r.Applied, w.Name)
}

// Apply begins a wave, the next one when none is named. It is on its way, durably, when
// Apply returns. A *ConflictError says why it cannot begin.
func (s *Service) Apply(ctx context.Context, name, wave, who string) (Migration, error) {
	_, err := s.update(ctx, name, func(r *record, _ map[string][]byte) error {
		if err := s.free(r, name); err != nil {
			return err
		}
		if r.state() == StateFailed {
			return conflict("the last run of migration %s could not be taken back whole: roll it back first", name)
		}
		w, err := r.pick(wave)
		if err != nil {
			return err
		}
		r.Run = &Run{Wave: w.Name, Phase: PhaseChecking, Began: s.now()}
		for _, step := range w.Steps {
			r.Run.Steps = append(r.Run.Steps, StepRun{Step: step, State: StepPending})
		}
		r.log(AuditEntry{At: s.now(), Who: who, What: "apply", Target: w.Name})
		return nil
	})
	if err != nil {
		return Migration{}, err
	}
	return s.Get(ctx, name)
}

// Confirm keeps the wave that waits for it. A *ConflictError when none does.
func (s *Service) Confirm(ctx context.Context, name, who string) (Migration, error) {
	r, err := s.update(ctx, name, func(r *record, _ map[string][]byte) error {
		switch {
		case r.Revision == 0:
			return fmt.Errorf("%w: there is no migration %s", ErrNotFound, name)
		case r.state() != StateUnconfirmed:
			return conflict("no wave of migration %s waits for a confirmation: it is %s", name, r.state())
		case !s.now().Before(r.Run.Deadline):
			return conflict("the time for the confirmation is over")
		}
		r.log(AuditEntry{At: s.now(), Who: who, What: "confirm", Target: r.Run.Wave})
		r.Applied = append(r.Applied, r.Run.Wave)
		r.end(StateConfirmed, "", s.now())
		return nil
	})
	if err != nil {
		return Migration{}, err
	}
	s.o.Log.Info("wave confirmed", "migration", name, "wave", r.Last.Wave, "by", who)
	return s.Get(ctx, name)
}

// end closes the run.
func (r *record) end(state State, reason string, now time.Time) {
	r.Last = &Outcome{Wave: r.Run.Wave, State: state, Reason: reason, At: now, Steps: r.Run.Steps}
	r.Run = nil
}

// Rollback takes a migration back to a checkpoint; 0: the last one, which is the one
// before the wave under way, or before the last wave that was applied. It is on its way,
// durably, when Rollback returns.
func (s *Service) Rollback(ctx context.Context, name string, to int, who string) (Migration, error) {
	_, err := s.update(ctx, name, func(r *record, _ map[string][]byte) error {
		if r.Revision == 0 {
			return fmt.Errorf("%w: there is no migration %s", ErrNotFound, name)
		}
		if other := s.underWay(); other != nil && other.Description.Name != name {
			return s.free(r, name)
		}
		reason := "asked for by " + who
		r.log(AuditEntry{At: s.now(), Who: who, What: "rollback", Detail: checkpointText(to)})
		if run := r.Run; run != nil {
			if to == 0 || to == run.Checkpoint {
				if run.Phase != PhaseUndoing {
					r.turnBack(reason)
				}
				return nil
			}
			if run.Phase == PhaseUndoing {
				return conflict("migration %s is being rolled back already", name)
			}
		}
		if to == 0 {
			if to = r.lastCheckpoint(); to == 0 {
				return conflict("migration %s has no checkpoint: nothing was applied", name)
			}
		}
		if !slices.ContainsFunc(r.Checkpoints, func(c CheckpointView) bool { return c.N == to }) {
			return fmt.Errorf("%w: migration %s has no checkpoint %d", ErrNotFound, name, to)
		}
		wave := fmt.Sprintf("checkpoint %d", to)
		if r.Run != nil {
			wave = r.Run.Wave
		}
		r.Run = &Run{Wave: wave, Phase: PhaseUndoing, Checkpoint: to, Whole: true, Began: s.now(), Reason: reason}
		for _, step := range r.targetsSince(to) {
			r.Run.Steps = append(r.Run.Steps, StepRun{Step: step, State: StepDone})
		}
		return nil
	})
	if err != nil {
		return Migration{}, err
	}
	s.mu.Lock()
	if s.interrupt != nil {
		s.interrupt()
	}
	s.mu.Unlock()
	return s.Get(ctx, name)
}

// targetsSince are the targets that a checkpoint and those after it know, in the order in
// which they go back.
func (r *record) targetsSince(n int) (list []Step) {
	seen := map[string]bool{}
	for _, c := range slices.Backward(r.Checkpoints) { // the last one knows the last description
		for _, t := range c.Targets {
			if c.N >= n && !seen[t.name()] {
				seen[t.name()] = true
				step := Step{Endpoint: t.Endpoint, Bridge: t.Bridge, DPID: t.DPID}
				if t.Bridge != "" {
					step.DPID = ""
				}
				list = append(list, step)
			}
		}
	}
	return list
}

func checkpointText(n int) string {
	if n == 0 {
		return "to the last checkpoint"
	}
	return fmt.Sprintf("to checkpoint %d", n)
}

// lastCheckpoint is the one before the last wave that was applied, or that failed to be
// taken back; 0: there is none.
func (r *record) lastCheckpoint() int {
	wave := ""
	if r.Last != nil && r.Last.State == StateFailed {
		wave = r.Last.Wave
	} else if n := len(r.Applied); n > 0 {
		wave = r.Applied[n-1]
	}
	for i := len(r.Checkpoints) - 1; i >= 0; i-- {
		if c := r.Checkpoints[i]; c.Wave == wave || wave == fmt.Sprintf("checkpoint %d", c.N) {
			return c.N
		}
	}
	return 0
}

// turnBack has the run under way taken back.
func (r *record) turnBack(reason string) {
	r.Run.Phase, r.Run.Reason, r.Run.Deadline = PhaseUndoing, reason, time.Time{}
}
