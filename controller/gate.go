package controller

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// The gates before the first write to a switch. A controller that starts with an
// empty store, another's, or an old copy of its own desires little or the wrong
// things, and would take down what serves. So nothing is written to a switch that
//
//   - bears the mark of another store: a flow entry that matches nothing and stands
//     for the store's identity;
//   - has seen a later term (generation_id, §6.3.6) than this store ever gave out;
//   - would lose more than half of what it holds of ours, and was not programmed since the
//     controller started: what it has lost since then was asked for;
//
// until an operator confirms it.

// ErrHeld says that nothing is written to a switch until an operator confirms it.
var ErrHeld = errors.New("held back until confirmed")

const (
	markPart = "mark"
	// markType is an EtherType for local experiments (IEEE 802): no traffic has it.
	markType = 0x88b5

	// A switch is held when a first plan would delete more than one in shrinkMost of
	// at least shrinkFrom flows and groups.
	shrinkMost = 2
	shrinkFrom = 100
)

// marked says whether a switch bears the mark of another store.
func (s *session) marked(installed *flowtable.Installed) bool {
	ours := markSource(s.c.Cluster).Build().Flows[0].Match
	return slices.ContainsFunc(installed.Matches(AppStore), func(m ofproto.Match) bool { return !m.Equal(ours) })
}

// markSource compiles the mark of a store.
func markSource(cluster string) Source {
	sum := sha256.Sum256([]byte("fairlead store " + cluster))
	match := ofproto.NewMatch(ofproto.EthType(markType), ofproto.EthDst(ofproto.MAC(sum[:6])))
	return Source{Build: func() flowtable.Part {
		return flowtable.Part{Flows: []flowtable.Flow{{Table: TableIngress, Priority: PrioMark, Match: match}}}
	}}
}

// gate returns why nothing may be written to the switch yet, after its read-back
// and with the whole desired state in the table.
func (w *worker) gate() error {
	if w.table.StaleOf(AppStore) > 0 {
		return fmt.Errorf("%w: the switch is programmed from another store: is this the right data directory?", ErrHeld)
	}
	if w.laterTerm != 0 {
		return fmt.Errorf("%w: the switch has seen term %d, which this store has not given out yet: the store is an old copy, or another controller has the switch", ErrHeld, w.laterTerm)
	}
	if w.passive { // its mark has gone since
		return fmt.Errorf("%w: another controller may have the switch", ErrHeld)
	}
	if stale, has := w.table.Stale(); has >= shrinkFrom && stale*shrinkMost > has && !w.c.programmed(w.dpid) {
		return fmt.Errorf("%w: %d of the %d flows and groups in the switch are not wanted any more", ErrHeld, stale, has)
	}
	return nil
}

// held says whether the gate is shut, and tells the core when that changes.
func (w *worker) held(ctx context.Context) bool {
	w.mu.Lock()
	confirmed := w.confirmed
	w.mu.Unlock()
	if w.shut != nil && confirmed {
		w.shut = nil
		w.c.program(w.dpid)
		w.c.hold(ctx, w.session, nil)
	}
	return w.shut != nil
}

// hold records that a switch is held, or not any more.
func (c *Controller) hold(ctx context.Context, s *session, why error) {
	_ = c.enqueue(ctx, func() {
		sw := c.ctx.switches[s.dpid]
		if sw == nil || sw.session != s {
			return
		}
		if why != nil {
			s.log().Error("ALARM: nothing is written to the switch", "reason", why)
			sw.Faults[heldFault] = why.Error()
		} else {
			s.log().Info("the switch is confirmed")
			delete(sw.Faults, heldFault)
		}
		c.ctx.Notify("switch", map[string]any{"dpid": s.dpid.String(), "held": why != nil})
		c.publishHeld()
	})
}

// heldFault is the object that a held switch's fault names.
const heldFault = "store"

// Held is why nothing is written to the switch until an operator confirms it; empty:
// nothing keeps it.
func (s *Switch) Held() string { return s.Faults[heldFault] }

// publishHeld keeps for Held why switches are held.
func (c *Controller) publishHeld() {
	var reasons []string
	for _, dpid := range slices.Sorted(maps.Keys(c.ctx.switches)) {
		if why, ok := c.ctx.switches[dpid].Faults[heldFault]; ok {
			reasons = append(reasons, fmt.Sprintf("switch %s: %s", dpid, why))
		}
	}
	c.heldReasons.Store(&reasons)
}

// Held returns which switches nothing is written to, and why. While it returns any,
// the controller is not ready.
func (c *Controller) Held() []string {
	if r := c.heldReasons.Load(); r != nil {
		return *r
	}
	return nil
}

// program notes that the gate has opened for a switch.
func (c *Controller) program(dpid ofproto.DPID) {
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	if len(c.opened) < toldMost {
		c.opened[dpid] = true
	}
}

// programmed says whether the gate has opened for a switch since the start.
func (c *Controller) programmed(dpid ofproto.DPID) bool {
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	return c.opened[dpid]
}

// mayTake says whether an operator has confirmed that a switch which another controller
// may have is to be taken. It is good for one connection.
func (c *Controller) mayTake(dpid ofproto.DPID) bool {
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	ok := c.confirmed[dpid]
	delete(c.confirmed, dpid)
	return ok
}

// Confirm lets a switch that is held be brought to the desired state. One that another
// controller may have, to which this one is a slave, is taken with the connection that
// it makes next. It is no error when the switch is not held; ErrNotConnected when it is
// not connected. The ports that it has are its own from then on, whoever had them.
func (c *Controller) Confirm(ctx context.Context, dpid ofproto.DPID) error {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return err
	}
	err = c.Do(ctx, func(x *Context) {
		if sw := x.switches[dpid]; sw != nil && sw.session == s {
			c.acceptPorts(sw)
			x.Emit(Confirmed{dpid})
		}
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.confirmed = true
	s.mu.Unlock()
	s.log().Log(ctx, slog.LevelInfo, "an operator confirmed the desired state of the switch")
	if s.passive {
		c.termsMu.Lock()
		c.confirmed[dpid] = true
		c.termsMu.Unlock()
		s.conn.CloseWith(errConfirmed)
		return nil
	}
	s.wake()
	return nil
}
