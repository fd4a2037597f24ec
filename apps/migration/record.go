package migration

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
)

// State is where a migration stands.
type State string

// The states of a migration.
const (
	StatePlanned     State = "planned"      // no wave was applied yet
	StateApplying    State = "applying"     // a wave is under way
	StateUnconfirmed State = "unconfirmed"  // a wave is applied and waits for its confirmation
	StateRollingBack State = "rolling_back" // what was changed is taken back
	StateRolledBack  State = "rolled_back"  // it was
	StateConfirmed   State = "confirmed"    // a wave is confirmed, others wait
	StateCompleted   State = "completed"    // all waves are
	// StateFailed: not all could be taken back. The reason says what; a rollback tries
	// again.
	StateFailed State = "failed"
)

// Phase is how far the run of a wave has come.
type Phase string

// The phases of a run, in order. From each of them but the last a run can go to
// PhaseUndoing.
const (
	PhaseChecking    Phase = "checking"    // the checks of the plan, once more
	PhaseMeasuring   Phase = "measuring"   // what answers before; ends with the checkpoint
	PhaseStepping    Phase = "stepping"    // steps, each with its verification
	PhaseUnconfirmed Phase = "unconfirmed" // all done: the confirm timeout runs
	PhaseUndoing     Phase = "undoing"     // targets go back to the checkpoint
)

// StepState is how far a step of a run has come.
type StepState string

// The states of a step.
const (
	StepPending   StepState = "pending"
	StepApplying  StepState = "applying"
	StepVerifying StepState = "verifying"
	StepDone      StepState = "done"
	StepFailed    StepState = "failed"
	StepUndoing   StepState = "undoing"
	StepUndone    StepState = "undone"
)

// StepRun is one step of a run.
type StepRun struct {
	Step
	State  StepState `json:"state"`
	Reason string    `json:"reason,omitempty"` // why it failed, or what is remarkable
	// Refused are the parts that the switch was known to refuse before: they are no
	// reason to take the step back.
	Refused []string  `json:"refused,omitempty"`
	Began   time.Time `json:"began,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
}

// Run is a wave, or a rollback, that is under way.
type Run struct {
	Wave  string `json:"wave"`
	Phase Phase  `json:"phase"`
	// Steps in the order in which they are applied: the canary first. Of a rollback they
	// are all targets, in the order in which they go back.
	Steps []StepRun `json:"steps"`
	// Checkpoint is what the run goes back to; 0: nothing was changed yet.
	Checkpoint int `json:"checkpoint"`
	// Whole is a rollback of all targets, and not of a wave.
	Whole    bool      `json:"whole,omitempty"`
	Began    time.Time `json:"began"`
	Deadline time.Time `json:"deadline,omitzero"` // for the confirmation
	Reason   string    `json:"reason,omitempty"`  // why it is taken back
	Retrying string    `json:"retrying,omitempty"`
}

// Outcome is how the last run ended.
type Outcome struct {
	Wave   string    `json:"wave"`
	State  State     `json:"state"` // rolled_back, confirmed or failed
	Reason string    `json:"reason,omitempty"`
	At     time.Time `json:"at"`
	Steps  []StepRun `json:"steps"`
}

// Target is what a checkpoint keeps of one bridge or switch.
type Target struct {
	Endpoint ovsdb.Endpoint `json:"endpoint,omitempty"`
	Bridge   string         `json:"bridge,omitempty"`
	DPID     string         `json:"dpid,omitempty"`
	// Stage of the switch; empty: none was stored.
	Stage       string      `json:"stage,omitempty"`
	Connected   bool        `json:"connected"` // the switch was
	Adopted     bool        `json:"adopted"`   // the bridge is Fairlead's
	Controllers []string    `json:"controllers,omitempty"`
	Rows        *ovsdb.Rows `json:"rows,omitempty"` // of a bridge
}

func (t Target) name() string {
	return Step{Endpoint: t.Endpoint, Bridge: t.Bridge, DPID: t.DPID}.Target()
}

// Checkpoint is what was there before a wave.
type Checkpoint struct {
	N       int         `json:"n"` // 1, 2, 3, …
	At      time.Time   `json:"at"`
	Wave    string      `json:"wave"`  // that was about to be applied
	Waves   []string    `json:"waves"` // that were applied then
	Targets []Target    `json:"targets"`
	Matrix  Measurement `json:"matrix"`
}

// CheckpointView is a checkpoint in short.
type CheckpointView struct {
	N       int       `json:"n"`
	At      time.Time `json:"at"`
	Wave    string    `json:"wave"`
	Waves   []string  `json:"waves"`
	Targets []Target  `json:"targets"` // without rows
	Hosts   Tally     `json:"hosts"`   // by switch that asked
	VIPs    Tally     `json:"vips"`    // listeners, likewise
	Probes  Tally     `json:"probes"`
}

// AuditEntry is one thing that was done, or happened.
type AuditEntry struct {
	At       time.Time `json:"at"`
	Who      string    `json:"who"`  // token and address of who asked; "fairlead": by itself
	What     string    `json:"what"` // put, apply, confirm, rollback, step, verify, undo, …
	Target   string    `json:"target,omitempty"`
	Before   string    `json:"before,omitempty"`
	After    string    `json:"after,omitempty"`
	Detail   string    `json:"detail,omitempty"`
	Revision uint64    `json:"revision"` // of the migration, after it
}

// Bounds of what is kept of a migration.
const (
	maxAudit       = 500
	maxCheckpoints = 32
	maxMigrations  = 256
)

// record is what is stored of a migration under its name. It is not changed once others
// can see it: update makes a copy.
type record struct {
	Description Description        `json:"description"`
	CreatedAt   time.Time          `json:"created_at"`
	UpdatedAt   time.Time          `json:"updated_at"`
	Revision    uint64             `json:"revision"` // one more with every write
	Applied     []string           `json:"applied"`  // waves, in the order in which they were confirmed
	Run         *Run               `json:"run,omitempty"`
	Last        *Outcome           `json:"last,omitempty"`
	Checkpoints []CheckpointView   `json:"checkpoints"`
	NextPoint   int                `json:"next_point"` // number of the next checkpoint
	StepTime    documents.Duration `json:"step_time"`  // what a step took, about
	Audit       []AuditEntry       `json:"audit"`
}

// clone returns a copy that may be changed.
func (r *record) clone() *record {
	c := *r
	c.Applied, c.Checkpoints, c.Audit = slices.Clone(r.Applied), slices.Clone(r.Checkpoints), slices.Clone(r.Audit)
	if r.Run != nil {
		run := *r.Run
		run.Steps = slices.Clone(r.Run.Steps)
		c.Run = &run
	}
	return &c
}

// log adds to the audit log; the oldest entries make room.
func (r *record) log(e AuditEntry) {
	e.Revision = r.Revision + 1
	r.Audit = append(r.Audit, e)
	if n := len(r.Audit) - maxAudit; n > 0 {
		r.Audit = slices.Delete(r.Audit, 0, n)
	}
}

func (r *record) state() State {
	switch {
	case r.Run != nil && r.Run.Phase == PhaseUndoing:
		return StateRollingBack
	case r.Run != nil && r.Run.Phase == PhaseUnconfirmed:
		return StateUnconfirmed
	case r.Run != nil:
		return StateApplying
	case r.Last != nil && r.Last.State == StateFailed:
		return StateFailed
	case len(r.Applied) == len(r.Description.Waves):
		return StateCompleted
	case r.Last != nil && r.Last.State == StateRolledBack:
		return StateRolledBack
	case len(r.Applied) > 0:
		return StateConfirmed
	}
	return StatePlanned
}

// next is the first wave that is not applied; empty: all are.
func (r *record) next() string {
	for _, w := range r.Description.Waves {
		if !slices.Contains(r.Applied, w.Name) {
			return w.Name
		}
	}
	return ""
}

// targets are the steps of all waves, one for each target, in the order in which they go
// back: the last one first.
func (d Description) targets() (list []Step) {
	seen := map[string]bool{}
	for i := len(d.Waves) - 1; i >= 0; i-- {
		steps := d.Waves[i].Steps
		for j := len(steps) - 1; j >= 0; j-- {
			if t := steps[j].Target(); !seen[t] {
				seen[t] = true
				list = append(list, steps[j])
			}
		}
	}
	return list
}

// Progress is how much is done.
type Progress struct {
	Done  int `json:"done"` // steps of all waves
	Total int `json:"total"`
	// Left is about how long what is under way will take; waiting for a confirmation is
	// not counted. 0s when nothing is.
	Left documents.Duration `json:"left"`
	// Confirm is how long there is for the confirmation; 0s when none is waited for.
	Confirm documents.Duration `json:"confirm"`
}

// firstGuess is how long a step takes, as long as none was seen.
const firstGuess = documents.Duration(6 * time.Second)

func (r *record) progress(now time.Time) Progress {
	p := Progress{Total: r.Description.steps()}
	for _, w := range r.Description.Waves {
		if slices.Contains(r.Applied, w.Name) && (r.Run == nil || r.Run.Phase != PhaseUndoing) {
			p.Done += len(w.Steps)
		}
	}
	if r.Run == nil {
		return p
	}
	left := 0
	for _, s := range r.Run.Steps {
		switch {
		case r.Run.Phase == PhaseUndoing && s.State == StepDone, r.Run.Phase == PhaseUndoing && s.State == StepUndoing, r.Run.Phase == PhaseUndoing && s.State == StepFailed:
			left++
		case r.Run.Phase == PhaseUndoing:
		case s.State == StepDone:
			p.Done++
		default:
			left++
		}
	}
	each := r.StepTime
	if each == 0 {
		each = firstGuess
	}
	p.Left = documents.Duration(left) * each
	if r.Run.Phase == PhaseUnconfirmed {
		p.Left, p.Confirm = 0, documents.Duration(max(r.Run.Deadline.Sub(now), 0).Round(time.Second))
	}
	return p
}

// Migration is a migration as the API shows it.
type Migration struct {
	Name        string           `json:"name"`
	State       State            `json:"state"`
	Reason      string           `json:"reason,omitempty"` // why it is rolled back, or failed
	Description Description      `json:"description"`
	CreatedAt   time.Time        `json:"created_at"`
	UpdatedAt   time.Time        `json:"updated_at"`
	Revision    uint64           `json:"revision"`
	Applied     []string         `json:"applied"` // waves that are confirmed
	Next        string           `json:"next"`    // the wave that apply would take; empty: none
	Run         *Run             `json:"run,omitempty"`
	Last        *Outcome         `json:"last,omitempty"`
	Progress    Progress         `json:"progress"`
	Checkpoints []CheckpointView `json:"checkpoints"`
	Plan        *Plan            `json:"plan,omitempty"`  // as it was made last; not in lists
	Watch       *Watch           `json:"watch,omitempty"` // while a wave waits for its confirmation; not in lists
	Audit       []AuditEntry     `json:"audit,omitempty"`
}

// ETag returns the entity tag of the migration, with its quotes.
// No two that had the same name have the same.
func (m Migration) ETag() string { return etag(m.Revision, m.UpdatedAt) }

func etag(revision uint64, updated time.Time) string {
	return fmt.Sprintf(`"%d-%d"`, revision, updated.UnixNano())
}

func (r *record) view(now time.Time) Migration {
	m := Migration{
		Name: r.Description.Name, State: r.state(), Description: r.Description, CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt, Revision: r.Revision,
		Applied: append([]string{}, r.Applied...), Next: r.next(), Run: r.Run, Last: r.Last, Progress: r.progress(now),
		Checkpoints: append([]CheckpointView{}, r.Checkpoints...),
	}
	if r.Run != nil {
		m.Reason = r.Run.Reason
	} else if r.Last != nil {
		m.Reason = r.Last.Reason
	}
	return m
}

// Errors that callers branch on.
var (
	// ErrNotFound says that there is no such migration, wave or checkpoint.
	ErrNotFound = errors.New("migration: not found")
	// ErrPrecondition says that the migration is not the one that was read.
	ErrPrecondition = errors.New("migration: precondition failed")
)

// ConflictError says that something cannot be done as long as the migration, or
// another, stands where it does.
type ConflictError struct{ Reason string }

// Error returns the reason.
func (e *ConflictError) Error() string { return "migration: " + e.Reason }

func conflict(format string, args ...any) error { return &ConflictError{fmt.Sprintf(format, args...)} }

// Keys of the store: the record under the name, and beside it what is large and seldom
// written.
func planKey(name string) string              { return name + "/plan" }
func checkpointKey(name string, n int) string { return fmt.Sprintf("%s/checkpoint/%d", name, n) }
