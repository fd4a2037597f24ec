package controller

import (
	"context"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Withdraw takes everything of Fairlead's out of a connected switch and returns when
// the switch has acknowledged or refused that; what others put there stays. Nothing is
// written to the switch again before Return, or before it connects anew.
// ErrNotConnected when it is not connected; any other error is that of ctx.
func (c *Controller) Withdraw(ctx context.Context, dpid ofproto.DPID) error {
	return c.withdraw(ctx, dpid, true)
}

// Return undoes Withdraw: the switch is brought to the desired state again. Its errors
// are those of Withdraw.
func (c *Controller) Return(ctx context.Context, dpid ofproto.DPID) error {
	return c.withdraw(ctx, dpid, false)
}

// Release tells that a switch, connected or not, forwards by itself from now on and will
// not come back: when it is not connected any more, it counts as a legacy one. Its error
// is that of ctx.
func (c *Controller) Release(ctx context.Context, dpid ofproto.DPID) error {
	return c.Do(ctx, func(x *Context) {
		if sw := x.switches[dpid]; sw != nil {
			sw.released = true
			return
		}
		delete(c.goneAt, dpid)
		c.emitTopology(x.Graph.GiveUp(topology.DPID(dpid), x.Now))
		c.emitTopology(x.Graph.ReleaseSwitch(topology.DPID(dpid), x.Now))
	})
}

func (c *Controller) withdraw(ctx context.Context, dpid ofproto.DPID, away bool) error {
	connected := false
	err := c.Do(ctx, func(x *Context) {
		sw := x.switches[dpid]
		if connected = sw != nil; connected {
			sw.withdrawn = away
			c.assign(sw, c.compileAll(sw), false)
		}
	})
	if err != nil {
		return err
	}
	if !connected {
		return ErrNotConnected
	}
	return c.Settled(ctx, dpid)
}

// nothing is what every part of a withdrawn switch is.
func nothing(parts map[flowtable.PartKey]Source) {
	for key, src := range parts {
		parts[key] = Source{Tag: src.Tag}
	}
}

// StageOf returns the stage of a switch, connected or not, and whether one is stored
// for it; otherwise the stage is that of switches never seen before.
func (c *Controller) StageOf(ctx context.Context, dpid ofproto.DPID) (stage Stage, stored bool, err error) {
	err = c.Do(ctx, func(*Context) {
		if stage, stored = c.stages[dpid]; !stored {
			stage = c.DefaultStage
		}
	})
	return stage, stored, err
}
