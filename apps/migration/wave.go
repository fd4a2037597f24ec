package migration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/ofproto"
)

// self is who did what the audit log has nobody for.
const self = "fairlead"

// Run carries migrations through until ctx ends. What an earlier run of the program left
// under way is taken up: a wave that was being checked or applied is taken back, because
// nobody knows what has happened in the network since; one that waits for its
// confirmation waits on, to the same deadline; what was being taken back is taken back.
func (s *Service) Run(ctx context.Context) error {
	if r := s.underWay(); r != nil && s.left {
		switch r.Run.Phase {
		case PhaseChecking, PhaseMeasuring, PhaseStepping:
			s.fail(ctx, r, "the controller ended while the wave was "+string(r.Run.Phase))
		}
	}
	for {
		r := s.underWay()
		if r == nil {
			select {
			case <-ctx.Done():
				return nil
			case <-s.wake:
			}
			continue
		}
		s.advance(ctx, r)
		if ctx.Err() != nil {
			return nil
		}
	}
}

// advance does the next thing that a migration under way needs.
func (s *Service) advance(ctx context.Context, r *record) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	if s.records[r.Description.Name] != r {
		s.mu.Unlock()
		return // it changed meanwhile: look again
	}
	s.interrupt = cancel
	s.mu.Unlock()
	var err error
	switch r.Run.Phase {
	case PhaseChecking:
		err = s.check(ctx, r)
	case PhaseMeasuring:
		err = s.measure(ctx, r)
	case PhaseStepping:
		err = s.stepOn(ctx, r)
	case PhaseUnconfirmed:
		err = s.await(ctx, r)
	case PhaseUndoing:
		err = s.undo(ctx, r)
	default:
		err = fmt.Errorf("migration: phase %q is not known", r.Run.Phase)
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, errMoved) {
		return // done; or the program ends, or a rollback was asked for: what is stored says
	}
	s.fail(ctx, r, err.Error())
}

// errMoved says that the record is not in the phase any more that a change was for.
var errMoved = errors.New("migration: it is in another phase by now")

// transit changes a record that is still in a phase, and fails with errMoved otherwise.
func (s *Service) transit(ctx context.Context, r *record, phase Phase, f func(r *record, more map[string][]byte) error) (*record, error) {
	return s.update(ctx, r.Description.Name, func(now *record, more map[string][]byte) error {
		if now.Run == nil || now.Run.Phase != phase || !now.Run.Began.Equal(r.Run.Began) {
			return errMoved
		}
		return f(now, more)
	})
}

// fail has the run of a record taken back, if it is under way still. Where that cannot
// be stored, it is tried until it can: what was changed must not be forgotten.
func (s *Service) fail(ctx context.Context, of *record, reason string) {
	name := of.Description.Name
	s.o.Log.Warn("wave fails and is rolled back", "migration", name, "reason", reason)
	for {
		_, err := s.update(ctx, name, func(r *record, _ map[string][]byte) error {
			if r.Run == nil || r.Run.Phase == PhaseUndoing || !r.Run.Began.Equal(of.Run.Began) {
				return errMoved
			}
			r.log(AuditEntry{At: s.now(), Who: self, What: "failed", Target: r.Run.Wave, Detail: reason})
			r.turnBack(reason)
			return nil
		})
		if err == nil || errors.Is(err, errMoved) || ctx.Err() != nil {
			return
		}
		s.o.Log.Error("migration not stored", "migration", name, "error", err)
		sleep(ctx, s.patience.retry)
	}
}

// sleep waits, and says whether ctx still stands.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// because puts reasons into one.
func because(what string, why []string) error {
	const most = 5
	s := strings.Join(why[:min(len(why), most)], "; ")
	if n := len(why) - most; n > 0 {
		s += fmt.Sprintf("; and %d more", n)
	}
	return errors.New(what + ": " + s)
}

// check makes the plan of the wave once more, orders its steps, and refuses it when a
// check fails.
func (s *Service) check(ctx context.Context, r *record) error {
	plan, err := s.plan(ctx, r.Description, r.Applied, r.Run.Wave)
	if err != nil {
		return fmt.Errorf("the wave cannot be checked: %w", err)
	}
	if why := plan.failed(); len(why) > 0 {
		return because("checks before the wave failed", why)
	}
	_, err = s.transit(ctx, r, PhaseChecking, func(r *record, more map[string][]byte) error {
		r.Run.Steps = nil
		for _, ps := range plan.Waves[0].Steps {
			r.Run.Steps = append(r.Run.Steps, StepRun{Step: ps.Step, State: StepPending, Refused: ps.Refused})
		}
		r.Run.Phase = PhaseMeasuring
		encoded, err := json.Marshal(plan)
		more[planKey(r.Description.Name)] = encoded
		r.log(AuditEntry{At: s.now(), Who: self, What: "checked", Target: r.Run.Wave, Detail: fmt.Sprintf("%d warnings", plan.Warnings)})
		return err
	})
	if err == nil {
		s.keepPlan(r.Description.Name, plan)
	}
	return err
}

// measure takes the checkpoint of a wave: what is there, and what answers.
func (s *Service) measure(ctx context.Context, r *record) error {
	before, err := s.ask(ctx, r.Description, nil)
	if err != nil {
		return fmt.Errorf("what answers before the wave cannot be measured: %w", err)
	}
	if len(before.Silent) > 0 {
		return because("before the wave", before.Silent)
	}
	point := Checkpoint{At: s.now(), Wave: r.Run.Wave, Waves: append([]string{}, r.Applied...), Targets: []Target{}, Matrix: before}
	for _, step := range r.Description.targets() {
		t, err := s.target(ctx, step)
		mine := slices.ContainsFunc(r.Run.Steps, func(st StepRun) bool { return st.Target() == step.Target() })
		if err != nil && mine {
			return fmt.Errorf("what is there before the wave cannot be read: %s: %w", step.Target(), err)
		}
		if err == nil { // else a later checkpoint has it, before anything is done to it
			point.Targets = append(point.Targets, t)
		}
	}
	_, err = s.transit(ctx, r, PhaseMeasuring, func(r *record, more map[string][]byte) error {
		point.N = r.NextPoint
		r.NextPoint++
		r.Run.Checkpoint, r.Run.Phase = point.N, PhaseStepping
		v := CheckpointView{N: point.N, At: point.At, Wave: point.Wave, Waves: point.Waves, Targets: slices.Clone(point.Targets), Hosts: before.Hosts, VIPs: before.VIPs, Probes: before.Probes}
		for i := range v.Targets {
			v.Targets[i].Rows = nil
		}
		r.Checkpoints = append(r.Checkpoints, v)
		for len(r.Checkpoints) > maxCheckpoints {
			more[checkpointKey(r.Description.Name, r.Checkpoints[0].N)] = nil
			r.Checkpoints = slices.Delete(r.Checkpoints, 0, 1)
		}
		encoded, err := json.Marshal(point)
		more[checkpointKey(r.Description.Name, point.N)] = encoded
		r.log(AuditEntry{At: s.now(), Who: self, What: "checkpoint", Target: fmt.Sprint(point.N), Detail: fmt.Sprintf("%d targets; answered: %s hosts, %s VIPs, %s probes", len(point.Targets), before.Hosts, before.VIPs, before.Probes)})
		return err
	})
	return err
}

// target reads what a step's target is now.
func (s *Service) target(ctx context.Context, step Step) (Target, error) {
	t := Target{Endpoint: step.Endpoint, Bridge: step.Bridge, DPID: step.DPID}
	if step.Bridge != "" {
		v, err := s.bridge(ctx, step.Endpoint, step.Bridge)
		if err != nil {
			return t, err
		}
		t.DPID, t.Adopted = v.DPID, v.State == "adopted"
		if t.Adopted {
			for _, c := range v.Controllers {
				t.Controllers = append(t.Controllers, c.Target)
			}
		}
		rows, err := s.o.Bridges.Rows(ctx, step.Endpoint, step.Bridge)
		if err != nil {
			return t, err
		}
		t.Rows = &rows
	}
	sw, err := s.o.Network.Switch(ctx, parseDPID(t.DPID))
	if err != nil {
		return t, err
	}
	t.Connected = sw.Connected
	if sw.Stored || t.Adopted {
		t.Stage = sw.Stage
	}
	return t, nil
}

// bridge looks one bridge up.
func (s *Service) bridge(ctx context.Context, e ovsdb.Endpoint, name string) (ovsdb.View, error) {
	views, err := s.o.Bridges.Bridges(ctx, e)
	if err != nil {
		return ovsdb.View{}, err
	}
	for _, v := range views {
		if v.Name != name {
			continue
		}
		if !v.Connected || v.State == "missing" {
			return v, errors.New(v.Reason)
		}
		return v, nil
	}
	return ovsdb.View{}, fmt.Errorf("%w: %s at %s", ovsdb.ErrNoBridge, name, e)
}

// point reads a checkpoint.
func (s *Service) point(ctx context.Context, name string, n int) (c Checkpoint, err error) {
	if n == 0 {
		return c, nil
	}
	value, err := s.o.Store.Entry(ctx, checkpointKey(name, n))
	if err != nil {
		return c, fmt.Errorf("migration: read checkpoint %d: %w", n, err)
	}
	if value == nil {
		return c, fmt.Errorf("%w: migration %s has no checkpoint %d", ErrNotFound, name, n)
	}
	if err := json.Unmarshal(value, &c); err != nil {
		return c, fmt.Errorf("migration: stored checkpoint %d: %w", n, err)
	}
	return c, nil
}

// stepOn applies the next step of a wave and verifies it; after the last one the confirm
// timeout runs.
func (s *Service) stepOn(ctx context.Context, r *record) error {
	i := slices.IndexFunc(r.Run.Steps, func(st StepRun) bool { return st.State != StepDone })
	if i < 0 {
		_, err := s.transit(ctx, r, PhaseStepping, func(r *record, _ map[string][]byte) error {
			r.Run.Phase, r.Run.Deadline = PhaseUnconfirmed, s.now().Add(time.Duration(r.Description.ConfirmTimeout))
			r.log(AuditEntry{At: s.now(), Who: self, What: "applied", Target: r.Run.Wave, Detail: "waits for a confirmation until " + r.Run.Deadline.Format(time.RFC3339)})
			return nil
		})
		return err
	}
	point, err := s.point(ctx, r.Description.Name, r.Run.Checkpoint)
	if err != nil {
		return err
	}
	step := r.Run.Steps[i].Step
	if r, err = s.mark(ctx, r, i, StepApplying, ""); err != nil {
		return err
	}
	dpid, err := s.move(ctx, step, func() (err error) {
		r, point, err = s.baseline(ctx, r, point)
		return err
	})
	if err != nil {
		return fmt.Errorf("step %s: %w", step, err)
	}
	if r, err = s.mark(ctx, r, i, StepVerifying, ""); err != nil {
		return err
	}
	if step.Stage != StageReleased {
		if err := s.holds(ctx, dpid, r.Run.Steps[i].Refused); err != nil {
			return fmt.Errorf("after step %s: %w", step, err)
		}
	}
	gone := released(r.Run.Steps[:i+1], point)
	if _, err := s.verify(ctx, r.Description, point.Matrix, gone, true); err != nil {
		return fmt.Errorf("after step %s: %w", step, err)
	}
	_, err = s.mark(ctx, r, i, StepDone, "")
	return err
}

// released are the datapath ids of bridges that a wave has given back.
func released(steps []StepRun, point Checkpoint) map[string]bool {
	gone := map[string]bool{}
	for _, st := range steps {
		if st.Stage != StageReleased {
			continue
		}
		for _, t := range point.Targets {
			if t.name() == st.Target() {
				gone[t.DPID] = true
			}
		}
	}
	return gone
}

// mark stores how far a step has come.
func (s *Service) mark(ctx context.Context, r *record, i int, state StepState, reason string) (*record, error) {
	return s.transit(ctx, r, r.Run.Phase, func(r *record, _ map[string][]byte) error {
		st := &r.Run.Steps[i]
		was := st.State
		st.State, st.Reason = state, reason
		switch state {
		case StepApplying:
			st.Began = s.now()
		case StepDone, StepFailed, StepUndone:
			st.Ended = s.now()
		}
		if state == StepDone && !st.Began.IsZero() {
			took := documents.Duration(st.Ended.Sub(st.Began))
			if r.StepTime == 0 {
				r.StepTime = took
			}
			r.StepTime = (3*r.StepTime + took) / 4
		}
		r.log(AuditEntry{At: s.now(), Who: self, What: "step", Target: st.Step.String(), Before: string(was), After: string(state), Detail: reason})
		return nil
	})
}

// baseline measures what answers through a bridge that has joined and still forwards by
// itself, where no switch could be asked before the wave: else nothing could answer less
// than before once it is taken over. The checkpoint has it from now on.
func (s *Service) baseline(ctx context.Context, r *record, point Checkpoint) (*record, Checkpoint, error) {
	if point.Matrix.asked() {
		return r, point, nil
	}
	var before Measurement
	for deadline := time.Now().Add(s.patience.verify); ; { // members are being looked for
		var err error
		if before, err = s.ask(ctx, r.Description, nil); err != nil {
			return r, point, fmt.Errorf("what answers before the bridge is taken over cannot be measured: %w", err)
		}
		if len(before.Silent) == 0 {
			break
		}
		if !time.Now().Before(deadline) || !sleep(ctx, s.patience.again) {
			return r, point, because("before the bridge is taken over", before.Silent)
		}
	}
	point.Matrix = before
	next, err := s.transit(ctx, r, PhaseStepping, func(r *record, more map[string][]byte) error {
		for i := range r.Checkpoints {
			if c := &r.Checkpoints[i]; c.N == point.N {
				c.Hosts, c.VIPs, c.Probes = before.Hosts, before.VIPs, before.Probes
			}
		}
		encoded, err := json.Marshal(point)
		more[checkpointKey(r.Description.Name, point.N)] = encoded
		r.log(AuditEntry{At: s.now(), Who: self, What: "measured", Target: fmt.Sprint(point.N), Detail: fmt.Sprintf("before the bridge is taken over; answered: %s hosts, %s VIPs, %s probes", before.Hosts, before.VIPs, before.Probes)})
		return err
	})
	if err != nil {
		return r, point, err
	}
	return next, point, nil
}

// move does what a step says, and returns the datapath id of its switch. joined is
// called when a bridge has joined and is not yet taken over.
func (s *Service) move(ctx context.Context, step Step, joined func() error) (ofproto.DPID, error) {
	switch {
	case step.Bridge == "":
		return step.dpid(), s.o.Network.SetStage(ctx, step.dpid(), step.Stage)
	case step.Stage == StageReleased:
		v, err := s.bridge(ctx, step.Endpoint, step.Bridge)
		if err != nil {
			return 0, err
		}
		if err := s.o.Bridges.Release(ctx, step.Endpoint, step.Bridge); err != nil && !errors.Is(err, ovsdb.ErrNotAdopted) {
			return 0, err
		}
		return parseDPID(v.DPID), nil
	}
	req := step.request()
	req.Joined = joined
	return s.adopt(ctx, req)
}

func (s *Service) adopt(ctx context.Context, req ovsdb.Request) (ofproto.DPID, error) {
	outcomes, err := s.o.Bridges.Adopt(ctx, req)
	if err != nil {
		return 0, err
	}
	if len(outcomes) != 1 {
		return 0, fmt.Errorf("%d outcomes of one bridge", len(outcomes))
	}
	if o := outcomes[0]; o.State != "adopted" {
		return 0, errors.New(o.Reason)
	}
	for _, w := range outcomes[0].Warnings {
		s.o.Log.Warn("adopting a bridge", "bridge", req.Bridges[0], "warning", w)
	}
	return parseDPID(outcomes[0].DPID), nil
}

// verify returns nil when nothing answers less than before. It is asked until it is so,
// for a while: hosts are found again, and links heard. What is doubtful counts too when
// all is set; else it is returned. gone are switches that were given back.
func (s *Service) verify(ctx context.Context, d Description, before Measurement, gone map[string]bool, all bool) (doubts []string, err error) {
	deadline := time.Now().Add(s.patience.verify)
	for {
		why, doubts, err := s.worse(ctx, d, before, gone)
		if all {
			why, doubts = append(why, doubts...), nil
		}
		switch {
		case err != nil:
			err = fmt.Errorf("what answers cannot be measured: %w", err)
		case len(why) > 0:
			err = because("not verified", why)
		}
		if err == nil || ctx.Err() != nil {
			return doubts, err
		}
		if !time.Now().Before(deadline) || !sleep(ctx, s.patience.again) {
			return doubts, err
		}
	}
}

// holds waits until a switch is connected and has acknowledged its state, and checks
// that it holds that and nothing else. It may refuse the parts that are refused.
func (s *Service) holds(ctx context.Context, dpid ofproto.DPID, refused []string) error {
	wait, cancel := context.WithTimeout(ctx, s.patience.connect)
	defer cancel()
	var sw Switch
	for {
		var err error
		if sw, err = s.o.Network.Switch(wait, dpid); err != nil && ctx.Err() == nil && wait.Err() == nil {
			return err
		}
		if sw.Connected {
			break
		}
		if !sleep(wait, 50*time.Millisecond) {
			return fmt.Errorf("switch %s is not connected", dpid)
		}
	}
	if sw.Held != "" {
		return fmt.Errorf("nothing is written to switch %s: %s", dpid, sw.Held)
	}
	if err := s.o.Network.Settled(wait, dpid); err != nil {
		return fmt.Errorf("switch %s did not acknowledge its state: %w", dpid, err)
	}
	sw, err := s.o.Network.Switch(ctx, dpid)
	if err != nil {
		return err
	}
	var why []string
	for _, part := range sorted(sw.Faults) {
		if !slices.Contains(refused, part) {
			why = append(why, part+": "+sw.Faults[part])
		}
	}
	if len(why) > 0 {
		return because(fmt.Sprintf("switch %s refuses", dpid), why)
	}
	why, err = s.o.Network.Deviations(wait, dpid)
	if err != nil {
		return fmt.Errorf("switch %s cannot be read: %w", dpid, err)
	}
	why = slices.DeleteFunc(why, func(text string) bool { // it tells of what is refused too
		return slices.ContainsFunc(refused, func(part string) bool { return strings.HasPrefix(text, part+": ") })
	})
	if len(why) > 0 {
		return because(fmt.Sprintf("switch %s does not hold what it is to hold", dpid), why)
	}
	return nil
}
