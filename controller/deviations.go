package controller

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

const (
	// maxDeviations bounds what Deviations lists; how many there are besides is its
	// last line.
	maxDeviations = 100
	// deviationsAgain is how long a difference may last that comes of a change under
	// way, and deviationsTries how often a switch is read for it.
	deviationsAgain = 200 * time.Millisecond
	deviationsTries = 3
)

// Deviations reads a connected switch and lists what it holds otherwise than it is to:
// parts that it refused, entries and groups of ours that are missing, altered or left
// over. Nothing is what all is well with. Entries of others are no deviation, and
// nothing is mended. ErrNotConnected when the switch is not.
//
// It waits for what is under way first, until ctx ends.
func (c *Controller) Deviations(ctx context.Context, dpid ofproto.DPID) ([]string, error) {
	for try := 1; ; try++ {
		if err := c.Settled(ctx, dpid); err != nil {
			return nil, fmt.Errorf("controller: wait for %s to settle: %w", dpid, err)
		}
		list, err := c.deviations(ctx, dpid)
		if err != nil || len(list) == 0 || try == deviationsTries {
			return list, err
		}
		// Something may have been desired between the two looks.
		select {
		case <-time.After(deviationsAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Controller) deviations(ctx context.Context, dpid ofproto.DPID) ([]string, error) {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return nil, err
	}
	var list deviations
	if err := c.Do(ctx, func(x *Context) {
		if sw := x.switches[dpid]; sw != nil {
			for _, part := range slices.Sorted(maps.Keys(sw.Faults)) {
				list.add("%s: %s", part, sw.Faults[part])
			}
		}
	}); err != nil {
		return nil, err
	}
	flows, groups, err := s.desired(ctx)
	if err != nil {
		return nil, fmt.Errorf("controller: ask for the desired state of %s: %w", dpid, err)
	}
	entries := make(map[flowtable.FlowKey]flowtable.DesiredFlow, len(flows))
	for _, f := range flows {
		entries[flowtable.FlowKey{Table: f.Flow.Table, Priority: f.Flow.Priority, Match: string(f.Flow.Match)}] = f
	}
	err = c.Flows(ctx, dpid, func(f ofproto.FlowStats) {
		k := flowtable.FlowKey{Table: f.Table, Priority: f.Priority, Match: string(f.Match.Canonical())}
		want, ok := entries[k]
		delete(entries, k)
		switch {
		case ok && (want.Cookie != f.Cookie || flowtable.Altered(f)):
			list.add("table %d, priority %d, %s: altered (%s %s)", k.Table, k.Priority, ofproto.Match(k.Match), AppNames[want.Part.App], want.Part.Name)
		case !ok && flowtable.OwnsCookie(f.Cookie):
			list.add("table %d, priority %d, %s: left over", k.Table, k.Priority, ofproto.Match(k.Match))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("controller: read flows of %s: %w", dpid, err)
	}
	for _, f := range flows {
		k := flowtable.FlowKey{Table: f.Flow.Table, Priority: f.Flow.Priority, Match: string(f.Flow.Match)}
		if _, missing := entries[k]; missing {
			list.add("table %d, priority %d, %s: missing (%s %s)", k.Table, k.Priority, f.Flow.Match, AppNames[f.Part.App], f.Part.Name)
		}
	}
	wanted := make(map[ofproto.GroupID]flowtable.DesiredGroup, len(groups))
	for _, g := range groups {
		wanted[g.Group.ID] = g
	}
	err = c.Groups(ctx, dpid, func(g ofproto.GroupDesc) {
		want, ok := wanted[g.Group]
		delete(wanted, g.Group)
		switch {
		case ok && !flowtable.SameGroup(want.Group, flowtable.Group{ID: g.Group, Type: g.Type, Buckets: g.Buckets}):
			list.add("group %d: altered (%s %s)", g.Group, AppNames[want.Part.App], want.Part.Name)
		case !ok && flowtable.OwnsGroup(g.Group):
			list.add("group %d: left over", g.Group)
		}
	})
	if err != nil && !refused(err) { // there are switches without groups
		return nil, fmt.Errorf("controller: read groups of %s: %w", dpid, err)
	}
	for _, g := range groups {
		if _, missing := wanted[g.Group.ID]; missing {
			list.add("group %d: missing (%s %s)", g.Group.ID, AppNames[g.Part.App], g.Part.Name)
		}
	}
	return list.lines(), nil
}

// desired asks the worker for what the switch is to hold.
func (s *session) desired(ctx context.Context) ([]flowtable.DesiredFlow, []flowtable.DesiredGroup, error) {
	type state struct {
		flows  []flowtable.DesiredFlow
		groups []flowtable.DesiredGroup
	}
	got := make(chan state, 1)
	if err := s.ask(ctx, func(w *worker) {
		var st state
		st.flows, st.groups = w.table.Desired()
		got <- st
	}); err != nil {
		return nil, nil, err
	}
	select {
	case st := <-got:
		return st.flows, st.groups, nil
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
}

// deviations is a bounded list of them.
type deviations struct {
	list []string
	more int
}

func (d *deviations) add(format string, args ...any) {
	if len(d.list) == maxDeviations {
		d.more++
		return
	}
	d.list = append(d.list, fmt.Sprintf(format, args...))
}

func (d *deviations) lines() []string {
	if d.more > 0 {
		return append(d.list, fmt.Sprintf("and %d more", d.more))
	}
	return d.list
}
