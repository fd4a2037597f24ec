package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// claim makes s the session of its datapath id. When another connection holds the
// id, that one is probed: the live one stays and the newcomer is refused; a dead
// one is closed and superseded.
func (c *Controller) claim(ctx context.Context, s *session) error {
	for {
		var old *session
		err := c.Do(ctx, func(*Context) {
			if old = c.sessions[s.dpid]; old == nil {
				c.sessions[s.dpid] = s
			}
		})
		if err != nil {
			return err
		}
		if old == nil {
			return nil
		}
		if old.awaited(ctx) {
			continue
		}
		if old.alive(ctx) {
			c.alarm("duplicate "+s.dpid.String(), "duplicate datapath id refused", "dpid", s.dpid.String(), "peer", s.peer.String(), "holder", old.peer.String())
			return fmt.Errorf("%w: %s", errDuplicate, old.peer)
		}
		old.conn.CloseWith(errSuperseded)
		c.detach(old)
	}
}

// raiseTerm makes the term at least least.
func (c *Controller) raiseTerm(ctx context.Context, least uint64) error {
	term, err := c.Store.NextTerm(ctx, least)
	if err != nil {
		return fmt.Errorf("controller: raise term: %w", err)
	}
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	c.terms[term] = true
	if term > c.term.Load() {
		c.term.Store(term)
	}
	return nil
}

// suspect says whether a term that a switch has seen is none that this store gave
// out: later than the one of this start, and not one it was raised to since; or one of
// this start, though the switch was never told it. An old copy of the store gives out
// terms again that its successor has given out.
func (c *Controller) suspect(dpid ofproto.DPID, term uint64) bool {
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	switch {
	case term == ^uint64(0):
		return false
	case c.terms[term]:
		return !c.told[dpid] && len(c.told) < toldMost
	}
	return int64(term-c.firstTerm) > 0
}

// toldMost bounds the switches that are remembered to know a term of this start.
const toldMost = 1 << 16

// tell notes that a switch is about to be told a term.
func (c *Controller) tell(dpid ofproto.DPID) {
	c.termsMu.Lock()
	defer c.termsMu.Unlock()
	if len(c.told) < toldMost {
		c.told[dpid] = true
	}
}

// attach makes a session's switch known to the apps and assigns all its parts.
func (c *Controller) attach(ctx context.Context, s *session) error {
	err := c.Do(ctx, func(x *Context) {
		if c.sessions[s.dpid] != s {
			return // superseded meanwhile
		}
		stage, ok := c.stages[s.dpid]
		if !ok {
			stage = c.DefaultStage
		}
		sw := &Switch{
			DPID: s.dpid, Remote: s.peer, Desc: s.desc, Stage: stage, BPDUs: c.bpdus[s.dpid], Role: s.role, Capabilities: s.caps,
			Ports: map[ofproto.Port]ofproto.PortDesc{}, Connected: true, Secure: s.cert != nil, Since: x.Now, Faults: map[string]string{},
			pending: map[flowtable.PartKey]uint64{}, session: s,
		}
		if was := c.away[s.dpid]; was != nil && was.Flows > 0 && s.empty {
			// OpenFlow does not tell the fail mode of a switch: this is how it shows.
			s.log().Warn("the switch came back empty and is filled again: it was restarted, or is set to forget its entries "+
				"while its controller is away (on Open vSwitch: ovs-vsctl set-fail-mode BRIDGE secure)", "flows", was.Flows)
		}
		x.switches[s.dpid], x.order = sw, nil
		delete(c.away, s.dpid)
		delete(c.goneAt, s.dpid)
		states := make([]topology.PortState, 0, len(s.ports))
		for _, p := range s.ports {
			sw.Ports[p.Port] = p
			states = append(states, portState(p))
		}
		c.recognise(sw)
		c.emitTopology(x.Graph.SetSwitch(topology.DPID(s.dpid), states, x.Now))
		x.Emit(SwitchUp{s.dpid})
		x.Notify("switch", map[string]any{"dpid": s.dpid.String(), "connected": true, "stage": stage.String()})
		c.dispatch()
		c.assign(sw, c.compileAll(sw), true)
		// From here on events of the switch are delivered; first those kept so far.
		s.phase.Store(phaseReady)
		s.mu.Lock()
		s.enqueueLocked()
		s.log().Log(ctx, s.logLevel(), "switch connected", "stage", stage, "software", sw.Desc.Software, "ports", len(sw.Ports), "bundles", s.caps.Bundles)
	})
	return err
}

// portState is what the graph needs of a port. Of the reserved ports only LOCAL,
// the bridge's own interface, is part of the network.
func portState(p ofproto.PortDesc) topology.PortState {
	return topology.PortState{Port: topology.Port(p.Port), Name: p.Name, Up: p.Up() && (p.Port < ofproto.PortMax || p.Port == ofproto.PortLocal), MAC: topology.MAC(p.HWAddr)}
}

// unknownPart stands for the parts of an app that cannot say which it has.
const unknownPart = "?"

// compileAll captures every part that the apps desire on a switch.
func (c *Controller) compileAll(sw *Switch) map[flowtable.PartKey]Source {
	names, n := make([][]string, len(c.Apps)), 1
	for i, app := range c.Apps {
		// What a bug leaves out must not count as not desired: its place is taken by a
		// part that does not compile.
		names[i] = []string{unknownPart}
		c.call(app, func(x *Context) { names[i] = app.Parts(x, sw) })
		n += len(names[i])
	}
	parts := make(map[flowtable.PartKey]Source, n)
	parts[flowtable.PartKey{App: AppStore, Name: markPart}] = markSource(c.Cluster)
	for i, app := range c.Apps {
		for _, name := range names[i] {
			src := Source{Build: func() flowtable.Part { panic("the app panicked") }}
			if name != unknownPart {
				c.call(app, func(x *Context) { src = app.Compile(x, sw, name) })
			}
			parts[flowtable.PartKey{App: app.ID(), Name: name}] = src
		}
	}
	for k := range c.ctx.dirty {
		if k.dpid == sw.DPID {
			delete(c.ctx.dirty, k)
		}
	}
	return parts
}

// leave keeps what is known of a switch that is not connected any more, for display.
func (c *Controller) leave(sw *Switch, now time.Time) {
	sw.Connected, sw.Since = false, now
	clear(sw.pending)
	sw.wakeIfSettled()
	if len(c.away) >= maxAway {
		for dpid := range c.away {
			delete(c.away, dpid)
			break
		}
	}
	c.away[sw.DPID] = sw
}

// assign hands parts to the worker of a switch and remembers that it owes an answer.
func (c *Controller) assign(sw *Switch, parts map[flowtable.PartKey]Source, complete bool) {
	if sw.withdrawn {
		nothing(parts)
	}
	if len(sw.pending) == 0 && len(parts) > planFirst {
		sw.pending = make(map[flowtable.PartKey]uint64, len(parts))
	}
	for key, src := range parts {
		c.seq++
		src.seq, src.at = c.seq, c.ctx.Now
		parts[key] = src
		sw.pending[key] = src.seq
	}
	sw.session.assign(parts, complete)
}

// wakeIfSettled releases those who wait for a switch that owes no answer.
func (s *Switch) wakeIfSettled() {
	if len(s.pending) > 0 {
		return
	}
	for _, done := range s.waiters {
		close(done)
	}
	s.waiters = nil
}

// detach ends what the core knows of a session.
func (c *Controller) detach(s *session) {
	// After the core has stopped there is nothing to tell.
	_ = c.Do(context.Background(), func(x *Context) {
		if c.sessions[s.dpid] != s {
			return
		}
		delete(c.sessions, s.dpid)
		if sw := x.switches[s.dpid]; sw != nil && sw.session == s {
			delete(x.switches, s.dpid)
			x.order = nil
			c.publishHeld()
			c.leave(sw, x.Now)
			if sw.released {
				c.emitTopology(x.Graph.ReleaseSwitch(topology.DPID(s.dpid), x.Now))
			} else {
				c.goneAt[s.dpid] = x.Now.Add(goneAfter)
			}
			for _, l := range x.Graph.Snapshot().Links() {
				if l.State == topology.StateUp && (l.A.DPID == topology.DPID(s.dpid) || l.B.DPID == topology.DPID(s.dpid)) {
					c.emitTopology(x.Graph.SeedLink(l.A, l.B, c.goneAt[s.dpid].Add(heardWithin), x.Now))
				}
			}
			x.Emit(SwitchDown{s.dpid})
			x.Notify("switch", map[string]any{"dpid": s.dpid.String(), "connected": false})
			s.log().Log(context.Background(), s.logLevel(), "switch disconnected", "reason", s.conn.Err())
		}
	})
}

type partResult struct {
	key flowtable.PartKey
	of  assignment
	err error
}

type tableCounts struct{ flows, groups, foreign int }

// applied takes a worker's report.
func (c *Controller) applied(ctx context.Context, s *session, results []partResult, counts tableCounts) {
	_ = c.enqueue(ctx, func() {
		sw := c.ctx.switches[s.dpid]
		if sw == nil || sw.session != s {
			return
		}
		sw.Flows, sw.Groups, sw.Foreign = counts.flows, counts.groups, counts.foreign
		for _, r := range results {
			if r.key.App == 0 {
				continue // what was left over from earlier
			}
			if sw.pending[r.key] == r.of.seq {
				delete(sw.pending, r.key)
			}
			if r.err != nil || len(sw.Faults) > 0 {
				sw.fault(s, AppNames[r.key.App]+"/"+r.key.Name, r.err)
			}
			if app := c.apps[r.key.App]; app != nil {
				c.call(app, func(x *Context) {
					app.Handle(x, Applied{DPID: s.dpid, Part: r.key.Name, Tag: r.of.tag, Err: r.err})
				})
			}
		}
		sw.wakeIfSettled()
	})
}

// fault notes how a part ended.
func (sw *Switch) fault(s *session, part string, err error) {
	switch old := sw.Faults[part]; {
	case err == nil:
		delete(sw.Faults, part)
	case errors.Is(err, ErrHeld):
		// The switch's own fault says so.
	case old != err.Error():
		sw.Faults[part] = err.Error()
		if !sameFault(old, err) {
			s.logLimited(fewLines, slog.LevelError, "switch refuses a part", "part", part, "error", err)
		}
	}
}

// sameFault says whether the log has an error already: the same name of the switch's,
// on whatever message of the part.
func sameFault(old string, err error) bool {
	var e *ofproto.Error
	return errors.As(err, &e) && strings.HasSuffix(old, e.Error())
}
