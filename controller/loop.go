package controller

import (
	"context"
	"maps"
	"runtime/debug"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// briefTurns is how many sessions are taken in turn by a reader that is the core.
const briefTurns = 8

// loop is the core loop.
func (c *Controller) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	next := c.turn(func() { c.ctx.Emit(Started{}) })
	for {
		timer.Reset(time.Until(next))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-c.cmds:
			next = c.turn(f)
		case <-c.inbox.signal:
			next = c.turn(func() {
				if s := c.inbox.take(); s != nil {
					c.drain(s)
				}
			})
		case <-timer.C:
			next = c.turn(c.timers)
		}
	}
}

// turn does one thing as the core, and what follows from it. It returns when the core
// has to do with timers next.
func (c *Controller) turn(f func()) time.Time {
	c.turns.Lock()
	c.now()
	c.contain(f)
	c.contain(c.flush)
	c.timerAt = c.nextTimer()
	next := c.timerAt
	c.turns.Unlock()
	if c.inbox.waiting.Load() > 0 {
		c.inbox.poke()
	}
	return next
}

// offer has what a session has received taken by the core: by the goroutine that calls
// it, a reader, if nobody is the core at the moment, else by who is. It spares waking
// the core loop, and the packet a wait. What would keep a reader from its echoes for
// long is left to the loop.
func (c *Controller) offer(s *session) {
	c.inbox.add(s)
	for range 2 {
		// Who holds the lock looks into the inbox after giving it back.
		if !c.turns.TryLock() {
			return
		}
		c.now()
		c.brief = true
		for range briefTurns {
			s := c.inbox.take()
			if s == nil {
				break
			}
			c.contain(func() { c.drain(s) })
		}
		c.contain(c.flush)
		c.brief = false
		at := c.nextTimer()
		sooner := at.Before(c.timerAt)
		if sooner {
			c.timerAt = at
		}
		c.turns.Unlock()
		if sooner {
			break // the loop is to set its timer
		}
		if c.inbox.waiting.Load() == 0 {
			return
		}
	}
	c.inbox.poke()
}

// contain keeps a panic in what the core does for one event from ending the process:
// what the switches hold goes on, and the next event or audit finds what was missed.
func (c *Controller) contain(f func()) {
	defer func() {
		if r := recover(); r != nil {
			c.admission.panicked()
			c.log.Error("core panicked", "panic", r, "stack", string(debug.Stack()))
		}
	}()
	f()
}

func (c *Controller) now() { c.ctx.Now = time.Now() }

// drain takes what a session has received, a turn's worth.
func (c *Controller) drain(s *session) {
	s.mu.Lock()
	ports := s.portEvs
	s.portEvs = nil
	n := min(len(s.packetIns), packetInTurn)
	packets := s.packetIns[:n:n]
	for i := range packets {
		s.queuedLen -= len(packets[i].Data)
	}
	if s.packetIns = s.packetIns[n:]; len(s.packetIns) == 0 {
		s.packetIns = nil
	}
	s.queued = len(s.packetIns) > 0
	again := s.queued
	received, dropped := s.received, s.dropped
	s.mu.Unlock()
	if again {
		c.inbox.put(s)
	}
	x := c.ctx
	sw := x.switches[s.dpid]
	if sw == nil || sw.session != s {
		return
	}
	sw.PacketIns, sw.PacketInsDropped = received, dropped
	for _, p := range ports {
		c.portStatus(sw, p)
	}
	for _, p := range packets {
		p.DPID = s.dpid
		x.Emit(p)
		c.dispatch()
	}
}

func (c *Controller) portStatus(sw *Switch, p ofproto.PortStatus) {
	x := c.ctx
	removed := p.Reason == ofproto.PortReasonDelete
	was, known := sw.Ports[p.Desc.Port]
	if !known && (removed || len(sw.Ports) >= maxPorts) {
		return
	}
	state := portState(p.Desc)
	if removed {
		c.portMoved(sw, portMAC(was), ofproto.MAC{})
		delete(sw.Ports, p.Desc.Port)
		c.emitTopology(x.Graph.RemovePort(topology.Place{DPID: topology.DPID(sw.DPID), Port: state.Port}, x.Now))
	} else {
		c.portMoved(sw, portMAC(was), portMAC(p.Desc))
		sw.Ports[p.Desc.Port] = p.Desc
		c.emitTopology(x.Graph.SetPort(topology.DPID(sw.DPID), state, x.Now))
	}
	x.Emit(PortChanged{DPID: sw.DPID, Desc: p.Desc, Removed: removed})
	x.Notify("switch", map[string]any{"dpid": sw.DPID.String(), "port": uint32(p.Desc.Port), "up": !removed && p.Desc.Up()})
}

// emitTopology hands topology events to the apps.
func (c *Controller) emitTopology(events []topology.Event) {
	for _, e := range events {
		c.ctx.Emit(e)
	}
}

// flush brings the effects of what was just handled to where they belong.
func (c *Controller) flush() {
	c.dispatch()
	x := c.ctx
	if len(x.dirty) > 0 {
		assign := map[*Switch]map[flowtable.PartKey]Source{}
		for k := range x.dirty {
			sw := x.switches[k.dpid]
			if sw == nil {
				continue
			}
			parts := assign[sw]
			if parts == nil {
				parts = map[flowtable.PartKey]Source{}
				assign[sw] = parts
			}
			if app := c.apps[k.part.App]; app != nil {
				c.call(app, func(x *Context) { parts[k.part] = app.Compile(x, sw, k.part.Name) })
			}
		}
		x.dirty = map[dirtyKey]struct{}{} // a large one that is cleared stays large
		for sw, parts := range assign {
			c.assign(sw, parts, false)
		}
	}
	for _, p := range x.packetOuts {
		if sw := x.switches[p.dpid]; sw != nil && !sw.session.passive && sw.session.conn.TryQueue(0, p.msg) && !sw.session.unflushed {
			sw.session.unflushed = true
			c.unflushed = append(c.unflushed, sw.session)
		}
	}
	for _, s := range c.unflushed {
		s.unflushed = false
		s.conn.Flush()
	}
	clear(c.unflushed)
	c.unflushed = c.unflushed[:0]
	clear(x.packetOuts)
	x.packetOuts = x.packetOuts[:0]
	if len(x.notices) > 0 {
		c.notices.publish(x.Now, x.notices)
		x.notices = nil
	}
	for _, r := range x.alarms {
		c.alarm(r.key, r.text, r.args...)
	}
	x.alarms = nil
	if len(x.saves) > 0 {
		c.saver.put(x.saves)
		x.saves = nil
	}
	if c.rerouted {
		c.rerouted = false
		if c.unrest++; x.Now.Sub(c.rerouteAt) > rerouteCalm {
			c.unrest = 0
		}
		rest := min(max(rerouteRest*time.Since(x.Now), rerouteEvery), rerouteMost)
		c.rerouteSoon = x.Now.Add(rest)
		c.rerouteAt = x.Now.Add(max(rest, min(rest<<min(c.unrest, 4), rerouteUnrest)))
		maps.DeleteFunc(c.linksAt, func(_ linkChange, at time.Time) bool { return x.Now.Sub(at) > rerouteForget })
	}
}

// dispatch hands every emitted event to every app, and those that they emit.
func (c *Controller) dispatch() {
	x := c.ctx
	for len(x.events) > 0 {
		e := x.events[0]
		x.events = x.events[1:]
		switch e := e.(type) {
		case topology.LinkDown:
			c.reroute = true
			c.rerouteFor(e.Link, false)
		case topology.LinkUp:
			c.reroute = true
			// Where a domain has grown, ports on segments are blocked by now that paths use.
			if len(x.Graph.Snapshot().Segments()) > 0 {
				c.rerouteFor(e.Link, true)
			}
		case topology.SegmentChanged:
			c.reroute = true
		case StageChanged:
			defer func() {
				if sw := x.switches[e.DPID]; sw != nil {
					c.assign(sw, c.compileAll(sw), false)
				}
			}()
		}
		for _, app := range c.Apps {
			c.call(app, func(x *Context) { app.Handle(x, e) })
		}
	}
	x.events = nil
	if c.reroute && !c.brief && !x.Now.Before(c.rerouteAt) {
		c.reroute = false
		x.Emit(Rerouted{})
		c.dispatch()
		c.rerouted = true
	}
}

// linkChange is a link, by its ends, that is lost or comes up.
type linkChange struct {
	a, b topology.Place
	up   bool
}

// rerouteFor has paths calculated soon because of a link that is lost, or comes up, unless
// it does so again and again.
func (c *Controller) rerouteFor(l topology.Link, up bool) {
	change, now := linkChange{l.A, l.B, up}, c.ctx.Now
	if now.Sub(c.linksAt[change]) > rerouteForget {
		c.rerouteAt = earlier(c.rerouteAt, c.rerouteSoon)
	}
	c.linksAt[change] = now
}

// call runs an app and contains its panics: a bug that one packet brings out must
// not take the network's controller down.
func (c *Controller) call(app App, f func(*Context)) {
	defer func() {
		if r := recover(); r != nil {
			c.admission.panicked()
			c.log.Error("app panicked", "app", AppNames[app.ID()], "panic", r, "stack", string(debug.Stack()))
		}
	}()
	c.ctx.app = app
	f(c.ctx)
}

// timers handles what is due.
func (c *Controller) timers() {
	x := c.ctx
	for dpid, at := range c.goneAt {
		if !at.After(x.Now) {
			delete(c.goneAt, dpid)
			if c.forwards(dpid) {
				c.emitTopology(x.Graph.LeaveSwitch(topology.DPID(dpid), x.Now))
			} else {
				c.emitTopology(x.Graph.RemoveSwitch(topology.DPID(dpid), x.Now))
			}
			x.Notify("switch", map[string]any{"dpid": dpid.String(), "given_up": true})
		}
	}
	if !c.witnessAt.After(x.Now) {
		c.witnessAt = x.Now.Add(witnessEvery)
		for _, id := range x.Graph.Left() {
			if !c.forwards(ofproto.DPID(id)) {
				c.emitTopology(x.Graph.GiveUp(id, x.Now))
			}
		}
	}
	for _, app := range c.Apps {
		if at, ok := x.wake[app.ID()]; ok && !at.After(x.Now) {
			delete(x.wake, app.ID())
			c.call(app, func(x *Context) { app.Handle(x, Woken{}) })
		}
	}
}

// forwards says whether a switch without a channel is known to forward.
func (c *Controller) forwards(dpid ofproto.DPID) (yes bool) {
	for _, app := range c.Apps {
		if w, ok := app.(Witness); ok {
			c.call(app, func(*Context) { yes = yes || w.Forwards(dpid) })
		}
	}
	return yes
}

// nextTimer is when the core has to do with timers next.
func (c *Controller) nextTimer() time.Time {
	next := c.ctx.Now.Add(time.Hour)
	for _, at := range c.goneAt {
		next = earlier(next, at)
	}
	if len(c.ctx.Graph.Left()) > 0 {
		next = earlier(next, c.witnessAt)
	}
	for _, at := range c.ctx.wake {
		next = earlier(next, at)
	}
	if c.reroute {
		next = earlier(next, c.rerouteAt)
	}
	return next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
