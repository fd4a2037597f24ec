package migration

import (
	"context"
	"fmt"
	"time"

	"github.com/fairlead/fairlead/ofproto"
)

// Watch is how an applied wave was watched since it waits for its confirmation. A
// restart of the controller begins it anew.
type Watch struct {
	Times int       `json:"times"`       // how often all of the wave was verified again
	At    time.Time `json:"at,omitzero"` // when that ended last
	// Doubts are what is worse than before the wave and has many causes, as sentences: a
	// host that answers no switch may be switched off, a port that carries much more may
	// be wanted. They do not take the wave back.
	Doubts []string `json:"doubts"`
}

// await waits for the confirmation of a wave, and watches it meanwhile.
func (s *Service) await(ctx context.Context, r *record) error {
	ctx, cancel := context.WithCancel(ctx)
	worse := make(chan error, 1)
	go func() {
		defer close(worse)
		worse <- s.watch(ctx, r)
	}()
	defer func() {
		cancel()
		for range worse { // until it has ended
		}
	}()
	left := time.NewTimer(r.Run.Deadline.Sub(s.now()))
	defer left.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
			if s.record(r.Description.Name) != r {
				return nil // confirmed, or to be rolled back
			}
		case err := <-worse:
			if ctx.Err() != nil {
				return nil
			}
			return err
		case <-left.C:
			return fmt.Errorf("it was not confirmed within %s", r.Description.ConfirmTimeout)
		}
	}
}

// watch verifies a wave again and again, and returns what is worse once it stays so. It
// takes a tenth of the time at most: switches are read, and hosts asked.
func (s *Service) watch(ctx context.Context, r *record) error {
	name := r.Description.Name
	s.watched(name, &Watch{Doubts: []string{}})
	defer s.watched(name, nil)
	point, err := s.point(ctx, name, r.Run.Checkpoint)
	if err != nil {
		return err
	}
	gone := released(r.Run.Steps, point)
	w := Watch{}
	pause := s.patience.watch
	if s.left { // switches come back first
		pause = max(pause, s.patience.connect)
	}
	for sleep(ctx, pause) {
		began := time.Now()
		for _, st := range r.Run.Steps {
			if st.Stage == StageReleased {
				continue
			}
			if err := s.holds(ctx, point.dpid(st.Step), st.Refused); err != nil {
				return fmt.Errorf("while it waited for its confirmation: %w", err)
			}
		}
		doubts, err := s.verify(ctx, r.Description, point.Matrix, gone, false)
		if err != nil {
			return fmt.Errorf("while it waited for its confirmation: %w", err)
		}
		w = Watch{Times: w.Times + 1, At: s.now(), Doubts: append([]string{}, doubts...)}
		s.watched(name, &w)
		pause = max(s.patience.watch, 9*time.Since(began))
	}
	return nil // ctx has ended
}

// watched keeps how a migration is watched, for display; nil: it is not.
func (s *Service) watched(name string, w *Watch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w == nil {
		delete(s.watches, name)
		return
	}
	now := *w
	s.watches[name] = &now
}

// dpid is the datapath id of the switch of a step.
func (c Checkpoint) dpid(step Step) ofproto.DPID {
	for _, t := range c.Targets {
		if t.name() == step.Target() {
			return parseDPID(t.DPID)
		}
	}
	return step.dpid()
}
