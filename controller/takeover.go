package controller

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead/fairlead/ofproto"
)

const (
	// holdEvery is how often a switch is told to forward by itself while it is about to
	// forget what it holds: what is told right after that is the first that it reads.
	holdEvery = time.Millisecond
	// forgetWithin is how long a switch may take to forget.
	forgetWithin = 2 * time.Second
	// handoverTimeout is how long a switch may take to be connected by another connection.
	handoverTimeout = 8 * time.Second
	handoverPoll    = 5 * time.Millisecond
)

// TakeOver makes a bridge of Open vSwitch that is connected by a service connection
// Fairlead's own. do gives it the controllers by which it connects from now on, and hand
// takes the service connection away, for which the new one waits. flushed says whether
// Open vSwitch forgets all that the bridge holds at do, as it does when the first
// controller comes: then packets are forwarded by NORMAL until the bridge holds the
// desired state again. When TakeOver returns nil, the bridge is connected anew and holds
// it. forgot is whether it did forget.
//
// The error is that of do or hand, ErrNotConnected, or that of the connection or ctx.
func (c *Controller) TakeOver(ctx context.Context, dpid ofproto.DPID, flushed bool, do, hand func(context.Context) error) (forgot bool, err error) {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return false, err
	}
	s.leaves.Store(time.Now().Add(handoverTimeout).UnixNano())
	defer s.leaves.Store(0)
	if flushed {
		forgot, err = c.holdWhile(ctx, s, do)
	} else {
		err = do(ctx)
	}
	if err != nil {
		return forgot, err
	}
	if err := hand(ctx); err != nil {
		return forgot, err
	}
	wait, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	for {
		next, err := c.session(wait, dpid)
		if err == nil && next != s {
			return forgot, c.Settled(wait, dpid)
		}
		if err != nil && !errors.Is(err, ErrNotConnected) {
			return forgot, err
		}
		select {
		case <-wait.Done():
			return forgot, wait.Err()
		case <-time.After(handoverPoll):
		}
	}
}

// awaited says whether a session is about to end by TakeOver, after a moment.
func (s *session) awaited(ctx context.Context) bool {
	if time.Now().UnixNano() >= s.leaves.Load() {
		return false
	}
	select {
	case <-ctx.Done():
	case <-time.After(handoverPoll):
	}
	return ctx.Err() == nil
}

// holdWhile runs do, at which a switch forgets what it holds, and returns when it holds
// the desired state again.
func (c *Controller) holdWhile(ctx context.Context, s *session, do func(context.Context) error) (forgot bool, err error) {
	gone := make(chan struct{}, 1)
	s.hold.Store(&gone)
	defer s.hold.Store(nil)
	if err := s.sendHold(); err != nil {
		return false, err
	}
	if err := s.barrier(ctx); err != nil {
		return false, err
	}
	holding, stop := context.WithCancel(ctx)
	defer stop()
	held := make(chan struct{})
	go func() {
		defer close(held)
		tick := time.NewTicker(holdEvery)
		defer tick.Stop()
		for {
			select {
			case <-holding.Done():
				return
			case <-tick.C:
				if s.sendHold() != nil {
					return
				}
			}
		}
	}()
	err = do(ctx)
	if err == nil {
		wait := time.NewTimer(forgetWithin)
		defer wait.Stop()
		select {
		case <-gone:
			forgot = true
			err = s.sendHold()
		case <-wait.C:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	stop()
	<-held
	if err != nil || !forgot {
		return forgot, err // the entry stays: it may be the one that was there before
	}
	s.mu.Lock()
	s.reread = true // meters and groups go without a word
	s.mu.Unlock()
	err = c.Do(ctx, func(x *Context) {
		if sw := x.switches[s.dpid]; sw != nil && sw.session == s {
			c.assign(sw, c.compileAll(sw), false)
		}
	})
	if err == nil {
		err = c.Settled(ctx, s.dpid)
	}
	if err != nil {
		return forgot, err
	}
	m := holdEntry()
	m.Command, m.Flags = ofproto.FlowDeleteStrict, 0
	if _, err := s.conn.Send(m); err != nil {
		return forgot, err
	}
	return forgot, s.barrier(ctx)
}

// holdEntry is the entry that Open vSwitch itself gives a bridge without a controller.
func holdEntry() *ofproto.FlowMod {
	return &ofproto.FlowMod{
		Command: ofproto.FlowAdd, Flags: ofproto.FlagSendFlowRem, BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
		Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(ofproto.PortNormal)}}},
	}
}

func (s *session) sendHold() error {
	_, err := s.conn.Send(holdEntry())
	return err
}

// holdRemoved tells holdWhile that the switch has forgotten.
func (s *session) holdRemoved(m *ofproto.FlowRemoved) {
	gone := s.hold.Load()
	if gone == nil || m.Table != 0 || m.Priority != 0 || m.Cookie != 0 {
		return
	}
	select {
	case *gone <- struct{}{}:
	default:
	}
}
