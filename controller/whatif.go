package controller

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Change is what moving a switch to a stage would change in it. Lists are ordered by
// table, priority and match, and by id.
type Change struct {
	AddFlows, DeleteFlows []flowtable.Flow
	KeptFlows             int
	Tables                map[ofproto.Table]int // flows that there would be, those of others not counted
	AddGroups             []flowtable.Group
	ChangeGroups          []flowtable.Group // as they are to be
	DeleteGroups          []ofproto.GroupID
	KeptGroups            int
	// Refused says, by name, what the switch could not have in that stage, and why.
	Refused map[string]string
	// Assumed says what the answer takes for granted; empty: nothing.
	Assumed string
}

// WhatIf says what a stage would change in a connected switch. It is compiled from what
// is known of the network now: with the stage, paths and segments may change too.
// ErrNotConnected when the switch is not.
func (c *Controller) WhatIf(ctx context.Context, dpid ofproto.DPID, stage Stage) (Change, error) {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return Change{}, err
	}
	var sw *Switch
	var parts map[flowtable.PartKey]Source
	err = c.Do(ctx, func(x *Context) {
		if now := x.switches[dpid]; now != nil {
			sw = now.as(stage)
			parts = c.compileFor(sw)
		}
	})
	if err == nil && sw == nil {
		err = ErrNotConnected
	}
	if err != nil {
		return Change{}, err
	}
	metering, err := s.metering(ctx)
	if err != nil {
		return Change{}, err
	}
	flows, groups, refused := desiredOf(sw, parts, metering)
	held, err := c.held(ctx, dpid)
	if err != nil {
		return Change{}, err
	}
	ch := held.change(flows, groups)
	ch.Refused = refused
	return ch, nil
}

// WhatIfNew says what a stage would put into a switch that is not connected, taken for
// an empty one with these ports and the capabilities of the Open vSwitches that were
// seen.
func (c *Controller) WhatIfNew(ctx context.Context, dpid ofproto.DPID, stage Stage, ports []ofproto.PortDesc) (Change, error) {
	caps, software := c.kinds.openVSwitch()
	sw := &Switch{DPID: dpid, Stage: stage, Capabilities: caps, Role: ofproto.RoleMaster, Ports: map[ofproto.Port]ofproto.PortDesc{}, Faults: map[string]string{}}
	for _, p := range ports {
		sw.Ports[p.Port] = p
	}
	var parts map[flowtable.PartKey]Source
	if err := c.Do(ctx, func(*Context) { parts = c.compileFor(sw) }); err != nil {
		return Change{}, err
	}
	flows, groups, refused := desiredOf(sw, parts, metering{})
	ch := contents{}.change(flows, groups)
	ch.Refused, ch.Assumed = refused, "the bridge is not connected: it is taken for empty, its links and hosts are not known, and it is to be able to do what "+software
	return ch, nil
}

// openVSwitch is what Open vSwitches can do, as far as one was seen.
func (k *kinds) openVSwitch() (caps Capabilities, which string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(k.known)) {
		if strings.Contains(key, "Open vSwitch") {
			caps, which = k.known[key], "the Open vSwitch that was probed last can"
		}
	}
	if which == "" {
		features := &ofproto.FeaturesReply{Tables: 254}
		groups := ofproto.GroupFeatures{Types: 0xf, Capabilities: ofproto.GroupCapChaining}
		caps, which = capabilitiesOf(features, ofproto.Desc{Hardware: "Open vSwitch"}, groups, ofproto.MeterFeatures{}, true), "every Open vSwitch since 2.17 can"
	}
	return caps, which
}

// metering asks the worker of a session which meters its flows name.
func (s *session) metering(ctx context.Context) (metering, error) {
	got := make(chan metering, 1)
	if err := s.ask(ctx, func(w *worker) { got <- w.metering() }); err != nil {
		return metering{}, fmt.Errorf("controller: ask for the meters of %s: %w", s.dpid, err)
	}
	select {
	case m := <-got:
		return m, nil
	case <-ctx.Done():
		return metering{}, ctx.Err()
	}
}

// as is the switch as it would be in another stage, for compiling.
func (s *Switch) as(stage Stage) *Switch {
	other := *s
	other.Stage, other.Faults, other.Ports, other.pending, other.waiters = stage, map[string]string{}, maps.Clone(s.Ports), nil, nil
	return &other
}

// compileFor captures every part that the apps would desire on a switch that is not
// what it is said to be here. Nothing of it is assigned.
func (c *Controller) compileFor(sw *Switch) map[flowtable.PartKey]Source {
	dirty := maps.Clone(c.ctx.dirty)
	parts := c.compileAll(sw)
	c.ctx.dirty = dirty
	return parts
}

// desiredOf builds parts, outside of the core loop.
func desiredOf(sw *Switch, parts map[flowtable.PartKey]Source, m metering) (flows []flowtable.DesiredFlow, groups []flowtable.DesiredGroup, refused map[string]string) {
	refused = map[string]string{}
	built := map[flowtable.PartKey]flowtable.Part{}
	table := flowtable.New(Pipeline)
	fault := func(key flowtable.PartKey, err error) { refused[AppNames[key.App]+"/"+key.Name] = err.Error() }
	for key, src := range parts {
		if src.Refused != nil {
			fault(key, src.Refused)
		}
		if src.Build == nil {
			continue
		}
		built[key] = m.metered(key.App, src.Build())
	}
	if sw.Capabilities.OneTable() {
		folded, err := Pipeline.Fold(built)
		if err != nil {
			refused["pipeline"] = err.Error()
		}
		built = folded
	}
	for key, p := range built {
		if err := table.SetPart(key, p); err != nil {
			fault(key, err)
		}
	}
	flows, groups = table.Desired()
	return flows, groups, refused
}

// contents is what a switch holds of ours.
type contents struct {
	flows   map[flowtable.FlowKey]flowtable.Flow
	cookies map[flowtable.FlowKey]uint64
	altered map[flowtable.FlowKey]bool
	groups  map[ofproto.GroupID]flowtable.Group
}

func placeOf(f flowtable.Flow) flowtable.FlowKey {
	return flowtable.FlowKey{Table: f.Table, Priority: f.Priority, Match: string(f.Match.Canonical())}
}

// held reads what a connected switch holds of ours.
func (c *Controller) held(ctx context.Context, dpid ofproto.DPID) (contents, error) {
	h := contents{map[flowtable.FlowKey]flowtable.Flow{}, map[flowtable.FlowKey]uint64{}, map[flowtable.FlowKey]bool{}, map[ofproto.GroupID]flowtable.Group{}}
	var bad error
	err := c.Flows(ctx, dpid, func(f ofproto.FlowStats) {
		if !flowtable.OwnsCookie(f.Cookie) {
			return
		}
		ins, err := f.Instructions()
		if err != nil {
			bad = err
			return
		}
		flow := flowtable.Flow{Table: f.Table, Priority: f.Priority, Match: f.Match.Canonical(), Instructions: detached(ins)}
		key := placeOf(flow)
		h.flows[key], h.cookies[key] = flow, f.Cookie
		if flowtable.Altered(f) {
			h.altered[key] = true
		}
	})
	if err = cmp.Or(err, bad); err != nil {
		return h, fmt.Errorf("controller: read flows of %s: %w", dpid, err)
	}
	err = c.Groups(ctx, dpid, func(g ofproto.GroupDesc) {
		if !flowtable.OwnsGroup(g.Group) {
			return
		}
		buckets := slices.Clone(g.Buckets)
		for i := range buckets {
			buckets[i].Actions, _ = ofproto.ParseActions(ofproto.AppendActions(nil, buckets[i].Actions)) // they were parsed before
		}
		h.groups[g.Group] = flowtable.Group{ID: g.Group, Type: g.Type, Buckets: buckets}
	})
	if err != nil && !refused(err) { // there are switches without groups
		return h, fmt.Errorf("controller: read groups of %s: %w", dpid, err)
	}
	return h, nil
}

// change is the difference between what is held and what is desired.
func (h contents) change(flows []flowtable.DesiredFlow, groups []flowtable.DesiredGroup) (ch Change) {
	wanted := map[flowtable.FlowKey]bool{}
	ch.Tables = map[ofproto.Table]int{}
	for _, f := range flows {
		ch.Tables[f.Flow.Table]++
		key := placeOf(f.Flow)
		wanted[key] = true
		if h.cookies[key] == f.Cookie && !h.altered[key] {
			ch.KeptFlows++
			continue
		}
		ch.AddFlows = append(ch.AddFlows, f.Flow)
	}
	for key, f := range h.flows {
		if !wanted[key] {
			ch.DeleteFlows = append(ch.DeleteFlows, f)
		}
	}
	named := map[ofproto.GroupID]bool{}
	for _, g := range groups {
		named[g.Group.ID] = true
		switch was, ok := h.groups[g.Group.ID]; {
		case !ok:
			ch.AddGroups = append(ch.AddGroups, g.Group)
		case !flowtable.SameGroup(was, g.Group):
			ch.ChangeGroups = append(ch.ChangeGroups, g.Group)
		default:
			ch.KeptGroups++
		}
	}
	for id := range h.groups {
		if !named[id] {
			ch.DeleteGroups = append(ch.DeleteGroups, id)
		}
	}
	byPlace := func(a, b flowtable.Flow) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), cmp.Compare(b.Priority, a.Priority), cmp.Compare(string(a.Match), string(b.Match)))
	}
	byID := func(a, b flowtable.Group) int { return cmp.Compare(a.ID, b.ID) }
	slices.SortFunc(ch.AddFlows, byPlace)
	slices.SortFunc(ch.DeleteFlows, byPlace)
	slices.SortFunc(ch.AddGroups, byID)
	slices.SortFunc(ch.ChangeGroups, byID)
	slices.Sort(ch.DeleteGroups)
	return ch
}

// Room returns how many entries the tables of a connected switch take, as it declares;
// nothing when it does not. ErrNotConnected when the switch is not.
func (c *Controller) Room(ctx context.Context, dpid ofproto.DPID) (map[ofproto.Table]uint32, error) {
	room := map[ofproto.Table]uint32{}
	err := read(ctx, c, dpid, &ofproto.MultipartRequest{Type: ofproto.MultipartTableFeatures}, ofproto.TableFeaturesOf, func(t ofproto.TableFeatures) {
		room[t.Table] = t.MaxEntries
	})
	if err != nil && !refused(err) {
		return nil, fmt.Errorf("controller: read tables of %s: %w", dpid, err)
	}
	return room, nil
}
