package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/topology"
)

// undo takes back what a run has changed: target by target, the last one first, each is
// compared with its checkpoint and brought there. It can be begun again at any point. A
// target that cannot be reached does not hold the others up, and is tried again, until
// the patience for it is over: then the run has failed, and a rollback tries again.
func (s *Service) undo(ctx context.Context, r *record) error {
	name := r.Description.Name
	points, err := s.points(ctx, r)
	if err != nil {
		return s.over(ctx, r, StateFailed, r.Run.Reason+"; it cannot be taken back: "+err.Error())
	}
	u, err := s.beginUndoing(ctx)
	if err != nil {
		return s.undecided(ctx, err)
	}
	wait, deadline := s.patience.retry, time.Now().Add(s.patience.giveUp)
	for {
		var failed []string
		for _, i := range r.order() {
			st := r.Run.Steps[i]
			if r, err = s.mark(ctx, r, i, StepUndoing, ""); err != nil {
				return s.undecided(ctx, err)
			}
			note, err := u.restore(ctx, st.Step, points)
			if ctx.Err() != nil {
				return nil // the next start goes on
			}
			state := StepUndone
			if err != nil {
				state, note = StepFailed, err.Error()
				failed = append(failed, st.Target()+": "+note)
			}
			if r, err = s.mark(ctx, r, i, state, note); err != nil {
				return s.undecided(ctx, err)
			}
		}
		if len(failed) == 0 {
			return s.undone(ctx, r, points)
		}
		why := because("not taken back yet", failed)
		s.o.Log.Warn("rolling back", "migration", name, "error", why)
		if !time.Now().Before(deadline) {
			return s.over(ctx, r, StateFailed, fmt.Sprintf("%s; %v", r.Run.Reason, why))
		}
		if r.Run.Retrying != why.Error() {
			if r, err = s.transit(ctx, r, PhaseUndoing, func(r *record, _ map[string][]byte) error {
				r.Run.Retrying = why.Error()
				return nil
			}); err != nil {
				return s.undecided(ctx, err)
			}
		}
		if !sleep(ctx, wait) {
			return nil
		}
		wait = min(2*wait, s.patience.retryMax)
	}
}

// undecided waits a moment when the store cannot be written to: advance comes again.
func (s *Service) undecided(ctx context.Context, err error) error {
	if !errors.Is(err, errMoved) && ctx.Err() == nil {
		s.o.Log.Error("migration not stored", "error", err)
		sleep(ctx, s.patience.retry)
	}
	return errMoved
}

// order are the steps of a run that have to be taken back, in the order in which they
// are: of a wave the last one first, of a rollback as they stand.
func (r *record) order() (list []int) {
	for i, st := range r.Run.Steps {
		if st.State != StepPending && st.State != StepUndone {
			list = append(list, i)
		}
	}
	if !r.Run.Whole {
		slices.Reverse(list)
	}
	return list
}

// points is what each target of a run goes back to: what the checkpoint says of it, or
// the first one after that says something.
func (s *Service) points(ctx context.Context, r *record) (map[string]pointed, error) {
	all := map[string]pointed{}
	if r.Run.Checkpoint == 0 {
		return all, nil
	}
	for _, v := range r.Checkpoints {
		if v.N < r.Run.Checkpoint {
			continue
		}
		c, err := s.point(ctx, r.Description.Name, v.N)
		if err != nil {
			return nil, err
		}
		for _, t := range c.Targets {
			if _, ok := all[t.name()]; !ok {
				all[t.name()] = pointed{t, c.Matrix}
			}
		}
	}
	return all, nil
}

// pointed is a target as a checkpoint has it.
type pointed struct {
	Target
	matrix Measurement
}

// unchanged is the note of a target that nothing had to be done to.
const unchanged = "it is as it was"

// restore brings one target to where it was. note is what is remarkable.
func (u *undoing) restore(ctx context.Context, step Step, points map[string]pointed) (note string, err error) {
	s := u.s
	t, ok := points[step.Target()]
	if !ok {
		return "it has no checkpoint: nothing was done to it", nil
	}
	if t.Bridge == "" {
		return u.restoreStage(ctx, t.Target)
	}
	v, err := s.bridge(ctx, t.Endpoint, t.Bridge)
	if err != nil {
		return "", err
	}
	sw, err := s.o.Network.Switch(ctx, parseDPID(v.DPID))
	if err != nil {
		return "", err
	}
	if !t.Adopted {
		note = unchanged
		if v.State != "available" {
			if note, err = u.closes(ctx, sw, StageReleased); err != nil {
				return "", err
			}
			if err := s.o.Bridges.Release(ctx, t.Endpoint, t.Bridge); err != nil && !errors.Is(err, ovsdb.ErrNotAdopted) {
				return "", err
			}
		}
		u.released[topology.DPID(sw.DPID)] = true
		rows, err := s.o.Bridges.Rows(ctx, t.Endpoint, t.Bridge)
		if err != nil {
			return "", err
		}
		if diff := rows.Differences(*t.Rows); len(diff) > 0 {
			var list []string
			for _, d := range diff {
				list = append(list, d.String())
			}
			// Nobody's but the one who wrote it meanwhile: it is not put back.
			return because("somebody else has changed the bridge meanwhile", list).Error(), nil
		}
		return note, nil
	}
	if v.State == "adopted" && sw.Stage == t.Stage && sameTargets(v, t.Controllers) && len(v.Drift) == 0 {
		return unchanged, nil
	}
	if note, err = u.closes(ctx, sw, t.Stage); err != nil {
		return "", err
	}
	dpid, err := s.adopt(ctx, ovsdb.Request{
		Endpoint: t.Endpoint, Bridges: []string{t.Bridge}, Stage: t.Stage, Controllers: t.Controllers, DiscardFlows: step.DiscardFlows,
	})
	if err != nil {
		return "", err
	}
	return note, s.holds(ctx, dpid, nil)
}

func sameTargets(v ovsdb.View, targets []string) bool {
	var now []string
	for _, c := range v.Controllers {
		now = append(now, c.Target)
	}
	return slices.Equal(slices.Sorted(slices.Values(now)), slices.Sorted(slices.Values(targets)))
}

// restoreStage brings a switch to its stage. One that is not connected gets it when it
// comes.
func (u *undoing) restoreStage(ctx context.Context, t Target) (note string, err error) {
	s := u.s
	dpid := parseDPID(t.DPID)
	sw, err := s.o.Network.Switch(ctx, dpid)
	if err != nil {
		return "", err
	}
	note = unchanged
	if sw.Stored != (t.Stage != "") || sw.Stored && sw.Stage != t.Stage {
		stage := t.Stage
		if stage == "" { // that of switches never seen: nobody has datapath id 0
			unseen, err := s.o.Network.Switch(ctx, 0)
			if err != nil {
				return "", err
			}
			stage = unseen.Stage
		}
		if note, err = u.closes(ctx, sw, stage); err != nil {
			return "", err
		}
		if err := s.o.Network.SetStage(ctx, dpid, t.Stage); err != nil {
			return "", err
		}
	}
	if !sw.Connected && !t.Connected {
		return "the switch is not connected: it gets its stage when it is", nil
	}
	if err := s.holds(ctx, dpid, nil); err != nil {
		if sw, bad := s.o.Network.Switch(ctx, dpid); bad == nil && !sw.Connected {
			return "the switch is not connected: it gets its stage when it is", nil
		}
		return err.Error(), nil // it has the stage; what it refuses it may have refused before
	}
	return note, nil
}

// undone verifies what was taken back and closes the run.
func (s *Service) undone(ctx context.Context, r *record, points map[string]pointed) error {
	reason := r.Run.Reason
	if i := slices.IndexFunc(r.Checkpoints, func(c CheckpointView) bool { return c.N == r.Run.Checkpoint }); i >= 0 {
		point, err := s.point(ctx, r.Description.Name, r.Run.Checkpoint)
		if err == nil {
			_, err = s.verify(ctx, r.Description, point.Matrix, point.unconnected(), true)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			reason += "; all is taken back, but then: " + err.Error()
		}
	}
	return s.over(ctx, r, StateRolledBack, reason)
}

// unconnected are the datapath ids of switches that were none of Fairlead's then.
func (c Checkpoint) unconnected() map[string]bool {
	ids := map[string]bool{}
	for _, t := range c.Targets {
		if !t.Connected && !t.Adopted {
			ids[t.DPID] = true
		}
	}
	return ids
}

// over closes a run that was taken back, or could not be.
func (s *Service) over(ctx context.Context, r *record, state State, reason string) error {
	_, err := s.transit(ctx, r, PhaseUndoing, func(r *record, _ map[string][]byte) error {
		what := "rolled back"
		if state == StateFailed {
			what = "not rolled back"
		} else if i := slices.IndexFunc(r.Checkpoints, func(c CheckpointView) bool { return c.N == r.Run.Checkpoint }); i >= 0 {
			r.Applied = append([]string{}, r.Checkpoints[i].Waves...)
		}
		r.log(AuditEntry{At: s.now(), Who: self, What: what, Target: r.Run.Wave, Detail: reason})
		r.end(state, reason, s.now())
		return nil
	})
	if err != nil {
		return s.undecided(ctx, err)
	}
	s.o.Log.Info("wave rolled back", "migration", r.Description.Name, "wave", r.Run.Wave, "state", string(state), "reason", reason)
	return nil
}
