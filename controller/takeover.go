package controller

import (
	"context"
	"time"

	"github.com/fairlead/fairlead/ofproto"
)

const (
	// holdEvery is how often a switch is told to forward by itself while it is about to
	// forget what it holds: what is told right after that is the first that it reads.
	holdEvery = time.Millisecond
	// forgetWithin is how long a switch may take to forget.
	forgetWithin = 2 * time.Second
)

// TakeOver runs do, which makes Open vSwitch forget all that a bridge holds: its first
// controller is one too many for it. Packets are forwarded by NORMAL until the switch
// holds the desired state again, which has come when TakeOver returns. forgot is whether
// the switch did forget.
//
// The error is that of do, ErrNotConnected, or that of the connection or ctx.
func (c *Controller) TakeOver(ctx context.Context, dpid ofproto.DPID, do func(context.Context) error) (forgot bool, err error) {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return false, err
	}
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
		if sw := x.switches[dpid]; sw != nil && sw.session == s {
			c.assign(sw, c.compileAll(sw), false)
		}
	})
	if err == nil {
		err = c.Settled(ctx, dpid)
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

// holdRemoved tells TakeOver that the switch has forgotten.
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
