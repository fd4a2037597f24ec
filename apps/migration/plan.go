package migration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Plan is what a migration would do, wave by wave, from how things stand now. Making
// one changes nothing.
type Plan struct {
	At    time.Time     `json:"at"`
	Waves []PlannedWave `json:"waves"`
	// Failed counts the checks that failed, Warnings those that are worth a look.
	Failed   int `json:"failed"`
	Warnings int `json:"warnings"`
}

// PlannedWave is a wave with its steps in the order in which they would be applied.
type PlannedWave struct {
	Name    string        `json:"name"`
	Applied bool          `json:"applied"` // it is already
	Steps   []PlannedStep `json:"steps"`
}

// PlannedStep is a step with all that is known of it before.
type PlannedStep struct {
	Step
	From     string         `json:"from"` // available (not adopted), observe, steer or managed; empty: not known
	Canary   bool           `json:"canary"`
	Changes  bool           `json:"changes"` // false: it is like that already
	Checks   []Check        `json:"checks"`
	OVSDB    []ovsdb.Change `json:"ovsdb"`
	OpenFlow FlowChanges    `json:"openflow"`
	// Elsewhere is what follows in other managed switches, as far as it is known who is
	// joined to whom.
	Elsewhere []SwitchChange `json:"elsewhere"`
	// Refused are the parts that the switch cannot have in that stage, or refuses now.
	Refused []string `json:"refused"`
	Blast   Blast    `json:"blast"`
	Undo    string   `json:"undo"`
}

// CheckState is what came of a check.
type CheckState string

// The outcomes of checks.
const (
	CheckOK      CheckState = "ok"
	CheckWarning CheckState = "warning" // the wave can be applied
	CheckFailed  CheckState = "failed"  // it cannot
)

// Check is one thing that has to hold before a step.
type Check struct {
	Name   string     `json:"name"` // reachable, capabilities, room, loops, stp, return_paths, mtu, conflict, measured
	State  CheckState `json:"state"`
	Detail string     `json:"detail"`
}

// FlowChanges is what a step changes in the tables of a switch.
type FlowChanges struct {
	AddFlows     int      `json:"add_flows"`
	DeleteFlows  int      `json:"delete_flows"`
	KeptFlows    int      `json:"kept_flows"`
	AddGroups    int      `json:"add_groups"`
	ChangeGroups int      `json:"change_groups"`
	DeleteGroups int      `json:"delete_groups"`
	KeptGroups   int      `json:"kept_groups"`
	Entries      []string `json:"entries"`           // one a line, "+" or "-" before it; the first maxEntries
	Assumed      string   `json:"assumed,omitempty"` // what is taken for granted
}

// SwitchChange is what follows from a step in another switch.
type SwitchChange struct {
	DPID string `json:"dpid"`
	// Ports are those that are opened or closed, as "port 3: broadcasts pass no more".
	Ports []string `json:"ports"`
	// Paths counts the switches that it reaches by another port, or not any more; in
	// networks of up to 256.
	Paths int `json:"paths"`
}

// maxEntries bounds FlowChanges.Entries.
const maxEntries = 200

// Blast is who and what is behind the switch of a step.
type Blast struct {
	Known   bool     `json:"known"`   // false: the switch is not connected, and what is behind it not known
	Hosts   []string `json:"hosts"`   // addresses, or MACs of those that have none
	Members []string `json:"members"` // "web 10.0.0.2"
	VIPs    []string `json:"vips"`
	Links   []string `json:"links"`
}

// size orders steps: the smallest is the canary.
func (b Blast) size() int { return len(b.Hosts) + 4*len(b.Members) + 2*len(b.Links) }

// planner makes one plan. Steps are looked at in order; what earlier ones do is in
// assume.
type planner struct {
	s        *Service
	d        Description
	vips     []VIP
	snap     *topology.Snapshot
	assume   map[string]string        // stage by datapath id, after the steps so far
	managed  map[topology.DPID]bool   // likewise, where steps say so
	ways     *topology.Snapshot       // the graph as it is then; nil: it is what snap is
	stp      map[ofproto.DPID]bool    // of the bridges that were looked at
	views    map[string][]ovsdb.View  // by endpoint
	failures map[ovsdb.Endpoint]error // why an endpoint cannot be looked at
	targets  map[ofproto.DPID]string  // of the wave
}

// plan makes the plan of some waves; empty: of all that are not applied.
func (s *Service) plan(ctx context.Context, d Description, applied []string, only string) (*Plan, error) {
	p := planner{s: s, d: d, assume: map[string]string{}, managed: map[topology.DPID]bool{}, stp: map[ofproto.DPID]bool{}, views: map[string][]ovsdb.View{}, failures: map[ovsdb.Endpoint]error{}}
	var err error
	if p.vips, err = s.o.VIPs.VIPs(ctx); err != nil {
		return nil, err
	}
	if p.snap, err = s.o.Network.Topology(ctx); err != nil {
		return nil, err
	}
	known, err := s.o.Bridges.Bridges(ctx, "") // at the endpoints in use
	if err != nil {
		return nil, err
	}
	for _, v := range known {
		p.stp[parseDPID(v.DPID)] = v.STP || v.RSTP
	}
	plan := &Plan{At: s.now(), Waves: []PlannedWave{}}
	for _, w := range d.Waves {
		if only != "" && w.Name != only {
			continue
		}
		pw := PlannedWave{Name: w.Name, Applied: slices.Contains(applied, w.Name), Steps: []PlannedStep{}}
		p.targets = map[ofproto.DPID]string{}
		if !pw.Applied || only != "" {
			for _, step := range w.Steps {
				ps, err := p.step(ctx, step)
				if err != nil {
					return nil, err
				}
				pw.Steps = append(pw.Steps, ps)
			}
			canaryFirst(pw.Steps)
		}
		plan.Waves = append(plan.Waves, pw)
		for _, st := range pw.Steps {
			for _, c := range st.Checks {
				switch c.State {
				case CheckFailed:
					plan.Failed++
				case CheckWarning:
					plan.Warnings++
				}
			}
		}
	}
	return plan, nil
}

// failed says which checks of a plan failed.
func (p *Plan) failed() (why []string) {
	for _, w := range p.Waves {
		for _, s := range w.Steps {
			for _, c := range s.Checks {
				if c.State == CheckFailed {
					why = append(why, s.Target()+": "+c.Name+": "+c.Detail)
				}
			}
		}
	}
	return why
}

// canaryFirst moves the canary of a wave to the front: the step that is marked, or the
// one with the least behind it of those whose switch is known.
func canaryFirst(steps []PlannedStep) {
	if len(steps) == 0 {
		return
	}
	at := slices.IndexFunc(steps, func(s PlannedStep) bool { return s.Step.Canary })
	if at < 0 {
		at = 0
		for i, s := range steps {
			if s.Blast.Known && (!steps[at].Blast.Known || s.Blast.size() < steps[at].Blast.size()) {
				at = i
			}
		}
	}
	canary := steps[at]
	canary.Canary = true
	copy(steps[1:at+1], steps[:at])
	steps[0] = canary
}

func (ps *PlannedStep) check(name string, state CheckState, format string, args ...any) {
	ps.Checks = append(ps.Checks, Check{name, state, fmt.Sprintf(format, args...)})
}

func (p *planner) step(ctx context.Context, step Step) (PlannedStep, error) {
	ps := PlannedStep{Step: step, Checks: []Check{}, OVSDB: []ovsdb.Change{}, OpenFlow: FlowChanges{Entries: []string{}}, Elsewhere: []SwitchChange{}, Refused: []string{}}
	ps.Blast = Blast{Hosts: []string{}, Members: []string{}, VIPs: []string{}, Links: []string{}}
	dpid, view, err := p.reach(ctx, &ps)
	if err != nil || dpid == 0 {
		return ps, err
	}
	if other, ok := p.targets[dpid]; ok {
		ps.check("conflict", CheckFailed, "%s of this wave is the same switch, %s", other, dpid)
	}
	p.targets[dpid] = step.Target()
	sw, err := p.s.o.Network.Switch(ctx, dpid)
	if err != nil {
		return ps, err
	}
	now := sw.Stage
	if view != nil && view.State != "adopted" {
		now = "available"
	}
	earlier, planned := p.assume[dpid.String()]
	ps.From = now
	if planned {
		ps.From = earlier
	}
	ps.Changes = ps.From != step.Stage && !(ps.From == "available" && step.Stage == StageReleased)
	if view != nil {
		p.ovsdb(ctx, &ps, *view, planned)
	}
	p.openflow(ctx, &ps, sw, view)
	if err := p.elsewhere(ctx, &ps, topology.DPID(dpid)); err != nil {
		return ps, err
	}
	p.blast(&ps, dpid, sw.Connected)
	p.capabilities(&ps, sw, view)
	p.loops(ctx, &ps, dpid)
	p.returns(&ps, dpid)
	mtu(&ps, view)
	p.measured(ctx, &ps, view)
	ps.Undo = undo(ps)
	p.assume[dpid.String()] = step.Stage
	if step.Stage == StageReleased {
		p.assume[dpid.String()] = "available"
	}
	return ps, nil
}

// measured says what the verification of a step can compare with. Hosts are asked through
// switches that are connected: where none is, through the bridge itself, when it has
// joined and is not yet taken over.
func (p *planner) measured(ctx context.Context, ps *PlannedStep, v *ovsdb.View) {
	named := len(p.d.VIPs) + len(p.d.Probes)
	first := v != nil && v.State != "adopted" && ps.Stage != StageReleased && !p.connected(ctx)
	switch {
	case first && named > 0:
		ps.check("measured", CheckOK, "no switch is connected yet: what is named (%d) and hosts that are heard are asked through the bridge itself, before it is taken over", named)
	case first:
		ps.check("measured", CheckWarning, "no switch is connected yet, and no VIP or probe is named: only hosts that are heard, if any, are asked through the bridge itself, before it is taken over")
	case len(p.snap.Hosts()) == 0 && named == 0:
		ps.check("measured", CheckWarning, "no host is known yet, and no VIP or probe is named: there is nothing that could answer less than before")
	}
}

// connected says whether a switch is connected, or will be with an earlier step.
func (p *planner) connected(ctx context.Context) bool {
	for _, stage := range p.assume {
		if stage != "available" {
			return true
		}
	}
	return slices.ContainsFunc(p.snap.Switches(), func(sw topology.Switch) bool {
		known, err := p.s.o.Network.Switch(ctx, ofproto.DPID(sw.DPID))
		return err == nil && known.Connected
	})
}

// reach finds the switch of a step; 0 when it is not known, which is then the outcome of
// the check. view is of a bridge by its endpoint.
func (p *planner) reach(ctx context.Context, ps *PlannedStep) (ofproto.DPID, *ovsdb.View, error) {
	if ps.Bridge == "" {
		sw, err := p.s.o.Network.Switch(ctx, ps.dpid())
		if err != nil {
			return 0, nil, err
		}
		if _, planned := p.assume[ps.DPID]; !sw.Connected && planned {
			ps.check("reachable", CheckOK, "the switch connects with an earlier step")
			return sw.DPID, nil, nil
		}
		if !sw.Connected {
			ps.check("reachable", CheckFailed, "switch %s is not connected", ps.DPID)
			return 0, nil, nil
		}
		if sw.Held != "" {
			ps.check("reachable", CheckFailed, "nothing is written to it: %s", sw.Held)
			return 0, nil, nil
		}
		ps.check("reachable", CheckOK, "the switch is connected")
		return sw.DPID, nil, nil
	}
	views, err := p.bridges(ctx, ps.Endpoint)
	if err != nil {
		ps.check("reachable", CheckFailed, "%v", err)
		return 0, nil, ctx.Err()
	}
	i := slices.IndexFunc(views, func(v ovsdb.View) bool { return v.Name == ps.Bridge })
	switch {
	case i < 0:
		ps.check("reachable", CheckFailed, "there is no bridge %s at %s", ps.Bridge, ps.Endpoint)
		return 0, nil, nil
	case parseDPID(views[i].DPID) == 0:
		ps.check("reachable", CheckFailed, "the bridge has no datapath id yet: ovs-vswitchd does not run there")
		return 0, nil, nil
	case views[i].State == "missing" || !views[i].Connected:
		ps.check("reachable", CheckFailed, "%s", views[i].Reason)
		return 0, nil, nil
	case views[i].State == "joining" || views[i].State == "releasing":
		ps.check("reachable", CheckFailed, "the bridge is %s: another operation on it is not finished", views[i].State)
		return 0, nil, nil
	}
	v := views[i]
	p.stp[parseDPID(v.DPID)] = v.STP || v.RSTP
	ps.check("reachable", CheckOK, "the database is connected and has the bridge")
	if v.State == "adopted" {
		sw, err := p.s.o.Network.Switch(ctx, parseDPID(v.DPID))
		if err != nil {
			return 0, nil, err
		}
		switch {
		case !sw.Connected:
			ps.check("reachable", CheckFailed, "the bridge is adopted, and its switch %s is not connected", v.DPID)
		case sw.Held != "":
			ps.check("reachable", CheckFailed, "nothing is written to its switch: %s", sw.Held)
		}
	}
	return parseDPID(v.DPID), &v, nil
}

// bridges looks at an endpoint once.
func (p *planner) bridges(ctx context.Context, e ovsdb.Endpoint) ([]ovsdb.View, error) {
	if v, ok := p.views[string(e)]; ok {
		return v, nil
	}
	if err, ok := p.failures[e]; ok {
		return nil, err
	}
	v, err := p.s.o.Bridges.Bridges(ctx, e)
	if err != nil {
		p.failures[e] = err
		return nil, err
	}
	p.views[string(e)] = v
	return v, nil
}

// ovsdb says what is written to the database.
func (p *planner) ovsdb(ctx context.Context, ps *PlannedStep, v ovsdb.View, planned bool) {
	var list []ovsdb.Change
	var err error
	switch {
	case ps.Stage == StageReleased && v.State == "adopted":
		list, err = p.s.o.Bridges.PreviewRelease(ctx, ps.Endpoint, ps.Bridge)
	case ps.Stage == StageReleased && planned:
		return // what an earlier step writes is put back
	case ps.Stage == StageReleased:
		return
	default:
		list, err = p.s.o.Bridges.PreviewAdopt(ctx, ps.request())
	}
	var refusal *ovsdb.Refusal
	switch {
	case errors.As(err, &refusal):
		ps.check("capabilities", CheckFailed, "%s", refusal.Reason)
	case err != nil:
		ps.check("reachable", CheckFailed, "%v", err)
	case list != nil && !planned:
		ps.OVSDB = list
	}
}

// request asks for the adoption of the bridge of a step.
func (s Step) request() ovsdb.Request {
	return ovsdb.Request{Endpoint: s.Endpoint, Bridges: []string{s.Bridge}, Stage: s.Stage, Controllers: s.Controllers, DiscardFlows: s.DiscardFlows}
}

// openflow says what changes in the tables of the switch, and whether there is room.
func (p *planner) openflow(ctx context.Context, ps *PlannedStep, sw Switch, v *ovsdb.View) {
	if ps.Stage == StageReleased {
		ps.OpenFlow.DeleteFlows = sw.Flows
		ps.OpenFlow.Assumed = "all entries of Fairlead's go with it"
		return
	}
	var ports []ofproto.PortDesc
	if v != nil {
		ports = portsOf(*v)
	}
	ch, err := p.s.o.Network.WhatIf(ctx, sw.DPID, ps.Stage, ports)
	if err != nil {
		ps.check("capabilities", CheckFailed, "what the stage needs cannot be said: %v", err)
		return
	}
	ps.OpenFlow = flowChanges(ch)
	ps.Refused = append(ps.Refused, sorted(sw.Faults)...)
	for _, part := range sorted(ch.Refused) {
		state := CheckWarning
		if slices.ContainsFunc(p.d.VIPs, func(name string) bool { return strings.HasSuffix(part, "/vip/"+name) }) {
			state = CheckFailed
		}
		ps.check("capabilities", state, "%s: %s", part, ch.Refused[part])
		ps.Refused = append(ps.Refused, part)
	}
	p.room(ctx, ps, sw, ch)
}

// portsOf are the ports that OpenFlow will have of a bridge.
func portsOf(v ovsdb.View) (ports []ofproto.PortDesc) {
	for _, port := range v.Ports {
		for _, f := range port.Interfaces {
			if f.OFPort > 0 && f.OFPort != ovsdb.LocalPort {
				ports = append(ports, ofproto.PortDesc{Port: ofproto.Port(f.OFPort), Name: f.Name})
			}
		}
	}
	return ports
}

func flowChanges(ch controller.Change) FlowChanges {
	f := FlowChanges{
		AddFlows: len(ch.AddFlows), DeleteFlows: len(ch.DeleteFlows), KeptFlows: ch.KeptFlows,
		AddGroups: len(ch.AddGroups), ChangeGroups: len(ch.ChangeGroups), DeleteGroups: len(ch.DeleteGroups), KeptGroups: ch.KeptGroups,
		Entries: []string{}, Assumed: ch.Assumed,
	}
	add := func(format string, args ...any) {
		if len(f.Entries) < maxEntries {
			f.Entries = append(f.Entries, fmt.Sprintf(format, args...))
		}
	}
	for _, g := range ch.AddGroups {
		add("+ group=%d type=%v %d buckets", g.ID, g.Type, len(g.Buckets))
	}
	for _, g := range ch.ChangeGroups {
		add("± group=%d type=%v %d buckets", g.ID, g.Type, len(g.Buckets))
	}
	for _, fl := range ch.AddFlows {
		add("+ %s", entryText(fl))
	}
	for _, fl := range ch.DeleteFlows {
		add("- %s", entryText(fl))
	}
	for _, id := range ch.DeleteGroups {
		add("- group=%d", id)
	}
	return f
}

func entryText(f flowtable.Flow) string {
	ins := make([]string, len(f.Instructions))
	for i, in := range f.Instructions {
		ins[i] = in.String()
	}
	return fmt.Sprintf("table=%d priority=%d %s %s", f.Table, f.Priority, f.Match, strings.Join(ins, " "))
}

// room checks that what is added fits.
func (p *planner) room(ctx context.Context, ps *PlannedStep, sw Switch, ch controller.Change) {
	groups := ch.KeptGroups + len(ch.ChangeGroups) + len(ch.AddGroups)
	if most := sw.Capabilities.MaxGroups; sw.Connected && most > 0 && uint32(groups) > most {
		ps.check("room", CheckFailed, "the stage needs %d groups, and the switch takes %d", groups, most)
		return
	}
	if !sw.Connected {
		ps.check("room", CheckOK, "%d flows and %d groups; Open vSwitch takes a million of each table", len(ch.AddFlows), groups)
		return
	}
	tables, err := p.s.o.Network.Room(ctx, sw.DPID)
	if err != nil {
		ps.check("room", CheckWarning, "the switch does not say how large its tables are: %v", err)
		return
	}
	for _, table := range slices.Sorted(maps.Keys(ch.Tables)) {
		if most, n := tables[table], ch.Tables[table]; most > 0 && uint32(n) > most {
			ps.check("room", CheckFailed, "table %d would have %d flows of Fairlead's, and takes %d", table, n, most)
			return
		}
	}
	ps.check("room", CheckOK, "%d flows and %d groups fit", len(ch.AddFlows)+ch.KeptFlows, groups)
}

// capabilities checks that the switch can do what the stage asks of it.
func (p *planner) capabilities(ps *PlannedStep, sw Switch, v *ovsdb.View) {
	if v != nil {
		if v.STP || v.RSTP {
			state, detail := CheckOK, "the bridge runs STP or RSTP, and goes on doing so"
			if ps.Stage == "managed" {
				state, detail = CheckFailed, "the bridge runs STP or RSTP, which stage managed does not follow: turn it off before, or use steer"
			}
			ps.check("stp", state, "%s", detail)
		} else {
			ps.check("stp", CheckOK, "the bridge runs no STP")
		}
	}
	if !sw.Connected || ps.Stage == StageReleased {
		return
	}
	k := sw.Capabilities
	switch {
	case !k.Holds:
		ps.check("capabilities", CheckFailed, "the switch accepts flow entries and does not hold them")
	case ps.Stage != "managed" && !k.Normal:
		ps.check("capabilities", CheckFailed, "the switch has no NORMAL, by which it would forward in stage %s", ps.Stage)
	case len(p.vips) > 0 && ps.Stage != "observe" && !k.Select && !k.AddressMasks:
		ps.check("capabilities", CheckWarning, "the switch has neither select groups nor masks: it cannot balance")
	default:
		ps.check("capabilities", CheckOK, "the switch can do what stage %s asks for", ps.Stage)
	}
}

// returns checks that replies of members go on crossing a switch that has the VIPs.
func (p *planner) returns(ps *PlannedStep, dpid ofproto.DPID) {
	if len(p.d.VIPs) == 0 {
		return
	}
	for _, name := range p.d.VIPs {
		if !slices.ContainsFunc(p.vips, func(v VIP) bool { return v.Name == name }) {
			ps.check("return_paths", CheckFailed, "there is no VIP %s", name)
			return
		}
	}
	if ps.Stage == "steer" || ps.Stage == "managed" {
		ps.check("return_paths", CheckOK, "replies of members behind it cross it")
		return
	}
	for _, name := range p.d.VIPs {
		i := slices.IndexFunc(p.vips, func(v VIP) bool { return v.Name == name })
		if i < 0 || p.vips[i].Mode == "dsr" {
			continue
		}
		for _, m := range p.vips[i].Members {
			if m.DPID == dpid.String() {
				ps.check("return_paths", CheckFailed, "replies of member %s of VIP %s would not cross a switch that has the VIP", m.Address, name)
				return
			}
		}
	}
	ps.check("return_paths", CheckOK, "no member of the VIPs is behind it")
}

// mtu checks that the interfaces of a bridge agree.
func mtu(ps *PlannedStep, v *ovsdb.View) {
	if v == nil {
		return
	}
	sizes := map[int][]string{}
	for _, port := range v.Ports {
		for _, f := range port.Interfaces {
			if f.MTU > 0 && f.Name != v.Name {
				sizes[f.MTU] = append(sizes[f.MTU], f.Name)
			}
		}
	}
	if len(sizes) > 1 {
		ps.check("mtu", CheckWarning, "the interfaces of the bridge differ in their MTU: %v", sizes)
		return
	}
	ps.check("mtu", CheckOK, "the interfaces of the bridge agree")
}

// blast gathers who and what is behind the switch.
func (p *planner) blast(ps *PlannedStep, dpid ofproto.DPID, connected bool) {
	b := &ps.Blast
	b.Known = connected
	for _, h := range p.snap.Hosts() {
		if ofproto.DPID(h.Place.DPID) != dpid {
			continue
		}
		name := h.MAC.String()
		if len(h.IPs) > 0 {
			name = h.IPs[0].String()
		}
		b.Hosts = append(b.Hosts, name)
	}
	for _, l := range p.snap.Links() {
		if ofproto.DPID(l.A.DPID) == dpid || ofproto.DPID(l.B.DPID) == dpid {
			b.Links = append(b.Links, l.A.String()+"-"+l.B.String())
		}
	}
	for _, v := range p.vips {
		behind := false
		for _, m := range v.Members {
			if m.DPID == dpid.String() {
				b.Members = append(b.Members, v.Name+" "+m.Address.String())
				behind = true
			}
		}
		if behind {
			b.VIPs = append(b.VIPs, v.Name)
		}
	}
	slices.Sort(b.Hosts)
	slices.Sort(b.Links)
	slices.Sort(b.Members)
	b.Members = slices.Compact(b.Members)
}

// undo says how a step is taken back.
func undo(ps PlannedStep) string {
	switch {
	case !ps.Changes:
		return "nothing is changed"
	case ps.From == "available":
		return "the bridge is released: its rows are put back as they are now"
	case ps.Stage == StageReleased:
		return "the bridge is adopted again, in stage " + ps.From
	}
	return "the switch goes back to stage " + ps.From
}

func sorted(m map[string]string) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
