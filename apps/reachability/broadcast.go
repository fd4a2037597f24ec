package reachability

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

const (
	// floodRounds is how many broadcasts at most are sent from one switch: another one
	// where some switch did not get the one before.
	floodRounds = 3
	// floodWait is how long copies are waited for.
	floodWait = 250 * time.Millisecond
	// floodMost is how many copies of one broadcast are counted.
	floodMost = 1000
)

// flow is the copies of one broadcast that come to one switch.
type flow struct {
	from, to ofproto.DPID
	round    uint64
}

// floods is what broadcasts of a measurement came to. The core loop owns it.
type floods struct {
	applied map[ofproto.DPID]bool // switches that have, or refused, partFlood as it is now
	copies  map[flow]int
}

// flooded counts a copy of a broadcast. Where a switch takes no broadcasts in stage
// managed, it drops the copy after this one was made.
func (r *run) flooded(c *controller.Context, f *packet.Frame, at topology.Place) {
	m, ok := markerOf(f)
	to := ofproto.DPID(at.DPID)
	sw := c.Switch(to)
	if !ok || m.nonce != r.nonce || sw == nil || ofproto.Port(at.Port) == ofproto.PortController {
		return
	}
	snap := c.Graph.Snapshot()
	if sw.Stage == controller.StageManaged && !snap.Tree().Contains(at) && !snap.IsEdge(at) {
		return
	}
	k := flow{ofproto.DPID(m.a), to, m.b}
	if _, known := r.lanes[k.from]; known && m.b < floodRounds && r.floods.copies[k] < floodMost {
		r.floods.copies[k]++
	}
}

// broadcast counts the copies of a broadcast from each switch.
func (w *work) broadcast(ctx context.Context) error {
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanMost)
		defer cancel()
		_ = w.setFlooding(ctx, false) // an error means that the core has stopped
	}()
	if err := w.setFlooding(ctx, true); err != nil {
		return err
	}
	senders := w.from
	most := map[flow]int{} // of all rounds
	for round := range uint64(floodRounds) {
		err := w.s.core.Do(ctx, func(c *controller.Context) {
			for _, dpid := range senders {
				frame := marker{w.run.nonce, uint64(dpid), round}.frame(packet.MAC(floodMAC), w.run.lanes[dpid], 0)
				c.PacketOut(dpid, ofproto.PortController, frame, ofproto.OutputPort(ofproto.PortTable))
			}
		})
		if err != nil {
			return err
		}
		select {
		case <-time.After(floodWait):
		case <-ctx.Done():
			return ctx.Err()
		}
		var copies map[flow]int
		if err := w.s.core.Do(ctx, func(*controller.Context) { copies = maps.Clone(w.run.floods.copies) }); err != nil {
			return err
		}
		for k, n := range copies {
			k.round = 0
			most[k] = max(most[k], n)
		}
		senders = slices.DeleteFunc(slices.Clone(senders), func(from ofproto.DPID) bool {
			return !slices.ContainsFunc(w.from, func(to ofproto.DPID) bool { return to != from && most[flow{from: from, to: to}] == 0 })
		})
		if len(senders) == 0 {
			break
		}
	}
	for _, from := range w.from {
		for _, to := range w.from {
			if n := most[flow{from: from, to: to}]; to != from || n > 0 {
				w.m.Copies = append(w.m.Copies, Copies{From: from.String(), To: to.String(), Count: n})
			}
		}
	}
	return nil
}

// setFlooding has the switches pass on broadcasts of measurements, or drop them again,
// and waits until they have taken it. Who does not in time is noted.
func (w *work) setFlooding(ctx context.Context, on bool) error {
	if err := w.s.core.Do(ctx, func(*controller.Context) { clear(w.run.floods.applied) }); err != nil {
		return err
	}
	if err := w.s.core.Post(ctx, flooding{on}); err != nil {
		return err
	}
	until := time.Now().Add(settleMost)
	for {
		var left []ofproto.DPID
		err := w.s.core.Do(ctx, func(c *controller.Context) {
			for _, dpid := range w.from {
				if c.Switch(dpid) != nil && !w.run.floods.applied[dpid] {
					left = append(left, dpid)
				}
			}
		})
		if err != nil || len(left) == 0 {
			return err
		}
		if time.Now().After(until) {
			for _, dpid := range left {
				w.note("switch %s was late to pass on broadcasts: their copies may not all have been counted", dpid)
			}
			return nil
		}
		select {
		case <-time.After(tick):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
