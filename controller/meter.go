package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Meters on what goes to the controller, where the switch has them: a flood ends in the
// switch and loads neither the channel nor the controller.
//
// On Open vSwitch it is the copy for the controller that is metered and the packet goes
// on. The meters of the specification meter the packet itself, so elsewhere only flows
// that do nothing but send to the controller name one; the limits of packetlimit.go
// hold for the others.

// Meter ids of ours, where the switch numbers that high; else the last of those that
// it has.
const (
	meterFirst uint32 = 0x46000000
	meterCount uint32 = 16
	// meterLast leaves room for one meter a group of ours: see GroupMeter.
	meterLast = meterFirst + meterCount + 1<<24 - 1
	// meterNumbers: a switch of more meters than that numbers them as it is told.
	meterNumbers uint32 = 1 << 16
)

// GroupMeter is the id of the meter that belongs to a group of ours, for parts that
// have meters of their own. Capabilities.GroupMeters says whether a switch has it.
func GroupMeter(id ofproto.GroupID) uint32 {
	return meterFirst + meterCount + uint32(id)&0xffffff
}

// Kinds of packets that are metered apart.
const (
	meterProbes  uint32 = iota // discovery, answers to our own requests
	meterHosts                 // copies of ARP and neighbour discovery
	meterUnknown               // copies of packets of unknown hosts
	meterOther
	meterReplies // replies to health monitors

	meterKinds
)

// probesRate is the rate of meterProbes: links depend on it, so it is well over what
// the ports of one switch bring.
const probesRate = 4000

// unknownRate is the most of meterUnknown: one packet of a host is enough, and a port
// may not bring nearly as many new hosts.
const unknownRate = 500

// meterKind returns the kind of a flow that goes to the controller.
func meterKind(app flowtable.AppID, priority uint16) uint32 {
	switch {
	case app == AppDiscovery && priority == PrioARP, app == AppBalancer && (priority == PrioMemberOwn || priority == PrioMemberClaim):
		return meterHosts
	case app == AppDiscovery && priority != PrioBPDUGuard:
		return meterProbes
	case app == AppForwarding:
		return meterUnknown
	case app == AppHealth && priority == PrioProbeReply:
		return meterReplies
	}
	return meterOther
}

// meterIDs is the range of a switch that can have up to most meters.
func meterIDs(most uint32) flowtable.MeterRange {
	if most > meterNumbers {
		return flowtable.MeterRange{First: meterFirst, Last: meterLast}
	}
	return flowtable.MeterRange{First: most - meterKinds + 1, Last: most}
}

// meters says which meters a switch is to have; ok is false when it is to have none.
func (s *session) meters() (ids flowtable.MeterRange, list []flowtable.Meter, ok bool) {
	rate := s.limit.rate / 2
	if s.caps.Meters < meterKinds || rate <= 0 || s.metersRefused {
		return ids, nil, false
	}
	ids = meterIDs(s.caps.Meters)
	for kind := range meterKinds {
		r := uint32(max(rate, 1))
		switch kind {
		case meterProbes:
			r = probesRate
		case meterReplies:
			r = repliesRate
		case meterUnknown:
			r = min(r, unknownRate)
		}
		list = append(list, flowtable.Meter{ID: ids.First + kind, Rate: r, Burst: max(r/2, 1)})
	}
	return ids, list, true
}

// metering is by which meters flows of a switch go to the controller; the zero value is
// by none.
type metering struct {
	first  uint32 // 0: none
	copies bool   // it is copies that are metered, and not packets
}

func (w *worker) metering() metering {
	ids, _, ok := w.meters()
	if !ok {
		return metering{}
	}
	return metering{ids.First, w.caps.MeteredCopies}
}

// metered makes the flows of a part that go to the controller do so by way of the
// switch's meters.
func (m metering) metered(app flowtable.AppID, p flowtable.Part) flowtable.Part {
	if m.first == 0 {
		return p
	}
	copied := false // the list may be the app's
	for i, f := range p.Flows {
		if !punts(f.Instructions) || !m.copies && !onlyPunts(f.Instructions) {
			continue
		}
		if !copied {
			p.Flows, copied = slices.Clone(p.Flows), true
		}
		id := m.first + meterKind(app, f.Priority)
		if m.copies {
			p.Flows[i].Instructions = meterCopies(f.Instructions, id)
		} else {
			p.Flows[i].Instructions = append([]ofproto.Instruction{ofproto.Meter{ID: id}}, f.Instructions...)
		}
	}
	return p
}

// punts says whether instructions send to the controller.
func punts(ins []ofproto.Instruction) bool {
	return slices.ContainsFunc(ins, func(in ofproto.Instruction) bool {
		apply, ok := in.(ofproto.ApplyActions)
		return ok && slices.ContainsFunc(apply.Actions, toController)
	})
}

// toController says whether an action sends to the controller.
func toController(a ofproto.Action) bool {
	o, ok := a.(ofproto.Output)
	return ok && o.Port == ofproto.PortController
}

func meterCopies(ins []ofproto.Instruction, id uint32) []ofproto.Instruction {
	out := slices.Clone(ins)
	for i, in := range out {
		if apply, ok := in.(ofproto.ApplyActions); ok && slices.ContainsFunc(apply.Actions, toController) {
			actions := slices.Clone(apply.Actions)
			for j, a := range actions {
				if toController(a) {
					actions[j] = ofproto.Controller{Meter: id}
				}
			}
			out[i] = ofproto.ApplyActions{Actions: actions}
		}
	}
	return out
}

// onlyPunts says whether a flow does nothing but send to the controller.
func onlyPunts(ins []ofproto.Instruction) bool {
	if len(ins) != 1 {
		return false
	}
	apply, ok := ins[0].(ofproto.ApplyActions)
	return ok && len(apply.Actions) == 1 && toController(apply.Actions[0])
}

// setMeters brings the meters about that flows are going to name. A switch that
// refuses one does without: its parts are compiled again.
func (w *worker) setMeters(ctx context.Context) error {
	mods := w.table.SetMeterMods()
	if len(mods) == 0 {
		return nil
	}
	failed := map[flowtable.PartKey]error{}
	if err := w.applyPhase(ctx, mods, failed); err != nil {
		return fmt.Errorf("meters: %w", err)
	}
	if err := failed[flowtable.PartKey{}]; err != nil {
		w.log().Warn("the switch refuses meters; packets to the controller are limited by the controller alone", "error", err)
		w.metersRefused = true
		w.table.SetMeters(meterIDs(w.caps.Meters), nil)
		w.c.recompile(ctx, w.session)
	}
	return nil
}

// deleteMeters deletes the meters that are not desired any more, when no flow of ours
// names them.
func (w *worker) deleteMeters(ctx context.Context) error {
	mods := w.table.DeleteMeterMods()
	if len(mods) == 0 {
		return nil
	}
	if err := w.applyPhase(ctx, mods, map[flowtable.PartKey]error{}); err != nil {
		return fmt.Errorf("meters: %w", err)
	}
	return nil
}

// readMeters adds the meters of a switch to what was read back.
func (s *session) readMeters(ctx context.Context, in *flowtable.Installed) error {
	if s.caps.Meters == 0 {
		return nil
	}
	req := &ofproto.MultipartRequest{Type: ofproto.MultipartMeterConfig, Body: ofproto.MeterStatsRequest{Meter: ofproto.MeterAll}}
	err := s.conn.Multipart(ctx, req, into(in, ofproto.MeterConfigOf, in.AddMeter))
	if err != nil && !refused(err) {
		return fmt.Errorf("meters: %w", err)
	}
	return nil
}

// recompile hands all parts of a switch to its session anew.
func (c *Controller) recompile(ctx context.Context, s *session) {
	_ = c.enqueue(ctx, func() {
		if sw := c.ctx.switches[s.dpid]; sw != nil && sw.session == s {
			c.assign(sw, c.compileAll(sw), false)
		}
	})
}
