package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// sending is a run of messages on their way, under transaction ids that follow one
// another.
type sending struct {
	first uint32 // id of the first
	n     uint32
	errs  map[int]*ofproto.Error // that the switch sent for them, by index; session.mu
}

// announce makes a sending of n messages known to the reader, until conclude.
func (s *session) announce(n int) *sending {
	q := &sending{first: s.conn.ReserveXIDs(n), n: uint32(n)}
	s.mu.Lock()
	s.sendings = append(s.sendings, q)
	s.mu.Unlock()
	return q
}

// errors returns what came for a sending so far: all that there is, after a barrier.
func (s *session) errors(q *sending) map[int]*ofproto.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(q.errs)
}

func (s *session) conclude(q *sending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.sendings {
		if s.sendings[i] == q {
			s.sendings = append(s.sendings[:i], s.sendings[i+1:]...)
			return
		}
	}
}

// send sends messages back to back and a barrier (§7.3.8), and returns the errors that
// the switch sent for them, by index.
func (s *session) send(ctx context.Context, mods []flowtable.Mod) (map[int]*ofproto.Error, error) {
	q := s.announce(len(mods))
	defer s.conclude(q)
	for i := range mods {
		if err := s.conn.Queue(q.first+uint32(i), mods[i].Message); err != nil {
			return nil, err
		}
	}
	if err := s.barrier(ctx); err != nil {
		return nil, err
	}
	return s.errors(q), nil
}

func (s *session) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errNoAnswer)
	defer cancel()
	if _, err := request[*ofproto.BarrierReply](ctx, s, &ofproto.BarrierRequest{}); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	return nil
}

// bundleFlags are those of every bundle: all or nothing, and in order.
const bundleFlags = ofproto.BundleAtomic | ofproto.BundleOrdered

// flight is a plan on its way to the switch as one atomic, ordered bundle. It is
// launched, committed when the switch has refused nothing of it, and landed when the
// switch has answered.
//
// While a switch carries one out, the next is prepared and its messages are on their
// way: the switch is kept busy. They are of other parts, so what becomes of the one
// does not change what the other should be; but where the first is refused the second
// is abandoned, for that is when the order of the parts counts.
type flight struct {
	plan   *flowtable.Plan
	mods   []flowtable.Mod
	failed map[flowtable.PartKey]error // the outcome: the other parts are installed

	at      time.Time // of the launch
	bundle  uint32
	sending *sending
	open    *ofproto.Call
	barrier *ofproto.Call
	commit  *ofproto.Call // nil: something was refused
	refused error         // why the bundle could not be opened

	parts map[flowtable.PartKey]struct{} // of plan; made when asked for
}

// has says whether a part is of the plan.
func (f *flight) has(key flowtable.PartKey) bool {
	if f == nil {
		return false
	}
	if f.parts == nil {
		f.parts = make(map[flowtable.PartKey]struct{}, len(f.plan.Parts))
		for _, p := range f.plan.Parts {
			f.parts[p] = struct{}{}
		}
	}
	_, ok := f.parts[key]
	return ok
}

// launch sends a plan's messages in a bundle, without waiting for the switch.
func (s *session) launch(p *flowtable.Plan, failed map[flowtable.PartKey]error) (*flight, error) {
	s.bundleID++
	f := &flight{plan: p, mods: p.Atomic(), failed: failed, at: time.Now(), bundle: s.bundleID}
	f.sending = s.announce(len(f.mods))
	var err error
	if f.open, err = s.conn.Start(f.control(ofproto.BundleOpenRequest)); err != nil {
		return nil, err
	}
	add := ofproto.BundleAdd{Bundle: f.bundle, Flags: bundleFlags}
	for i := range f.mods {
		add.XID, add.Message = f.sending.first+uint32(i), f.mods[i].Message
		if err := s.conn.Queue(add.XID, &add); err != nil {
			return nil, err
		}
	}
	if f.barrier, err = s.conn.Start(&ofproto.BarrierRequest{}); err != nil {
		return nil, err
	}
	s.conn.Flush()
	return f, nil
}

func (f *flight) control(t ofproto.BundleControlType) *ofproto.BundleControl {
	return &ofproto.BundleControl{Bundle: f.bundle, Type: t, Flags: bundleFlags}
}

// wait waits for the reply to a control message of a flight. Another message in its place
// says nothing of the bundle: what became of that is not known.
func (f *flight) wait(ctx context.Context, call *ofproto.Call, reply ofproto.BundleControlType) error {
	m, err := call.Wait(ctx)
	if err != nil {
		return err
	}
	if c, ok := m.(*ofproto.BundleControl); !ok || c.Bundle != f.bundle || c.Type != reply {
		return fmt.Errorf("%v of bundle %d expected, got %+v", reply, f.bundle, m)
	}
	return nil
}

// added waits until the switch has taken in all of a flight, and says whether it
// refused none of it.
func (s *session) added(ctx context.Context, f *flight) (bool, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errNoAnswer)
	defer cancel()
	if err := f.wait(ctx, f.open, ofproto.BundleOpenReply); refused(err) {
		f.refused = fmt.Errorf("bundle open: %w", err)
	} else if err != nil {
		return false, fmt.Errorf("bundle open: %w", err)
	}
	if _, err := f.barrier.Wait(ctx); err != nil {
		return false, fmt.Errorf("barrier: %w", err)
	}
	return f.refused == nil && len(s.errors(f.sending)) == 0, nil
}

// commit has the switch carry a flight out, unless it refused something of it.
func (s *session) commit(ctx context.Context, f *flight) error {
	ok, err := s.added(ctx, f)
	if !ok || err != nil {
		return err
	}
	f.commit, err = s.conn.Start(f.control(ofproto.BundleCommitRequest))
	s.conn.Flush()
	return err
}

// land waits for the outcome of a flight and records it, in the table and in
// f.failed. Where the switch refused it nothing was applied: the parts whose messages
// it named have failed, and the others are innocent.
func (s *session) land(ctx context.Context, f *flight) (ok bool, err error) {
	defer s.conclude(f.sending)
	why := f.refused
	if f.commit != nil {
		ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errNoAnswer)
		defer cancel()
		if why = f.wait(ctx, f.commit, ofproto.BundleCommitReply); why == nil {
			s.refusals = 0
			for i := range f.mods {
				s.table.Applied(&f.mods[i])
			}
			return true, nil
		}
		why = fmt.Errorf("bundle: %w", why)
		if !refused(why) {
			return false, why
		}
		if err := s.barrier(ctx); err != nil {
			return false, err
		}
	} else if err := s.discard(ctx, f); err != nil { // after a refused add it is still open
		return false, err
	}
	s.refusals++
	errs := s.errors(f.sending)
	for i := range f.mods {
		m := &f.mods[i]
		s.table.Failed(m)
		if e := errs[i]; e != nil && f.failed[m.Part] == nil {
			f.failed[m.Part] = fmt.Errorf("%s: %w", m, e)
		}
	}
	for i := range f.mods {
		part := f.mods[i].Part
		if f.failed[part] != nil {
			continue
		}
		if len(errs) > 0 || why == nil {
			f.failed[part] = errInnocent
		} else {
			f.failed[part] = why
		}
	}
	return false, nil
}

// abandon gives up a flight that was launched, and no more. Its parts are due again.
func (s *session) abandon(ctx context.Context, f *flight) error {
	defer s.conclude(f.sending)
	if _, err := s.added(ctx, f); err != nil {
		return err
	}
	if err := s.discard(ctx, f); err != nil {
		return err
	}
	for i := range f.mods {
		s.table.Failed(&f.mods[i])
	}
	for _, key := range f.plan.Parts {
		s.table.MarkDirty(key)
	}
	return nil
}

func (s *session) discard(ctx context.Context, f *flight) error {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errNoAnswer)
	defer cancel()
	if _, err := s.conn.Request(ctx, f.control(ofproto.BundleDiscardRequest)); err != nil && !refused(err) {
		return fmt.Errorf("bundle discard: %w", err)
	}
	return nil
}

// applyBundle sends a plan as a bundle and waits for its outcome.
func (s *session) applyBundle(ctx context.Context, p *flowtable.Plan, failed map[flowtable.PartKey]error) error {
	f, err := s.launch(p, failed)
	if err != nil {
		return err
	}
	if err := s.commit(ctx, f); err != nil {
		return err
	}
	_, err = s.land(ctx, f)
	return err
}

// errInnocent marks a part whose messages were refused only because another
// part's message in the same bundle was.
var errInnocent = errors.New("discarded with the bundle")
