package ovsdb

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// maxBackoff is how long an adopted bridge waits at most before it connects again, in
// milliseconds: the least that Open vSwitch allows.
const maxBackoff = 1000

// openFlow13 is the protocol that Fairlead speaks.
const openFlow13 = "OpenFlow13"

// Refusal says why a bridge is not adopted or not released. Nothing of it was changed,
// or all that was changed has been put back.
type Refusal struct {
	Bridge string
	Reason string
}

func (e *Refusal) Error() string { return fmt.Sprintf("bridge %s: %s", e.Bridge, e.Reason) }

// unfit says why a bridge cannot be adopted for a stage, nothing when it can. stage is
// empty where it stays what it is.
func unfit(inv *Inventory, b Bridge, stage string) string {
	switch {
	case b.DPID == "":
		return "it has no datapath id yet: ovs-vswitchd does not run, or cannot make the bridge"
	case inv.OVNBridge == b.Name:
		return "ovn-controller programs it (external_ids:ovn-bridge)"
	case stage != "managed":
		return ""
	case b.STP || b.RSTP:
		return "it runs STP or RSTP, which Fairlead's own forwarding of stage managed does not follow: use observe or steer"
	}
	for _, p := range b.Ports {
		switch {
		case len(p.Interfaces) > 1:
			return fmt.Sprintf("port %s is a bond, which only the switch's own forwarding balances: use observe or steer, not managed", p.Name)
		case p.Tag >= 0 || len(p.Trunks) > 0 || p.VLANMode != "":
			return fmt.Sprintf("port %s has VLANs, which only the switch's own forwarding keeps apart: use observe or steer, not managed", p.Name)
		}
	}
	return ""
}

// taken says why a record that is there forbids an adoption by a cluster.
func taken(s *state, cluster string, controllers []string) string {
	if !s.recorded || s.record.Cluster == cluster {
		return ""
	}
	for _, t := range s.record.Controllers {
		if slices.Contains(controllers, t) {
			return "" // ours, from before its store was lost
		}
	}
	return fmt.Sprintf("another Fairlead has adopted it (cluster %s, controllers %s): release it first",
		s.record.Cluster, strings.Join(s.record.Controllers, " "))
}

// missing are the targets that are no controllers of the bridge.
func (s *state) missing(targets []string) (l []string) {
	for _, t := range targets {
		if !slices.ContainsFunc(s.order, func(id string) bool { return s.target(id) == t }) {
			l = append(l, t)
		}
	}
	return l
}

// protocols is the column with OpenFlow 1.3 in it; nil when it stays. An empty one means
// all that Open vSwitch offers, and says so afterwards.
func (s *state) protocols(offered []string) (any, error) {
	has, err := set(s.bridge["protocols"])
	switch {
	case err != nil:
		return nil, err
	case slices.Contains(has, openFlow13):
		return nil, nil
	case !slices.Contains(offered, openFlow13):
		return nil, fmt.Errorf("this Open vSwitch does not offer %s", openFlow13)
	case len(has) == 0:
		return setOf(offered...), nil
	}
	return setOf(append(has, openFlow13)...), nil
}

// offeredProtocols are the OpenFlow versions that a schema allows.
func offeredProtocols(schema ovsdb.DatabaseSchema) (l []string) {
	c := schema.Table("Bridge").Columns["protocols"]
	if c == nil || c.TypeObj == nil || c.TypeObj.Key == nil {
		return nil
	}
	for _, e := range c.TypeObj.Key.Enum {
		if s, ok := e.(string); ok {
			l = append(l, s)
		}
	}
	return l
}

// joining is the target of a service connection to a controller: the same place, written
// with a zero before the port. Open vSwitch does not make a primary connection of a
// service one; it compares the texts of targets.
func joining(target string) string {
	i := strings.LastIndexByte(target, ':')
	return target[:i+1] + "0" + target[i+1:]
}

// joins says whether a controller of the bridge is a service connection of planJoin.
func (s *state) joins(uuid string) bool {
	return slices.ContainsFunc(s.record.Controllers, func(t string) bool { return joining(t) == s.target(uuid) })
}

// planJoin gives a bridge service connections to the controllers, pins its datapath id
// and writes the record. A service controller counts as none to Open vSwitch: nothing
// is flushed, and the controllers can fill the bridge before they take it over.
func planJoin(s *state, r Record, offered []string) ([]ovsdb.Operation, error) {
	p := newPlan(s)
	members := []any{}
	for _, id := range s.order {
		members = append(members, reference(id))
	}
	for _, t := range s.missing(r.Controllers) {
		members = append(members, p.insert(map[string]json.RawMessage{"target": quoted(joining(t)), "type": quoted(service)}))
	}
	columns := ovsdb.Row{"controller": setOf(members...)}
	protocols, err := s.protocols(offered)
	if err != nil {
		return nil, err
	}
	if protocols != nil {
		columns["protocols"] = protocols
	}
	p.update(columns)
	p.put("other_config", map[string]*string{keyDatapathID: &s.dpid})
	p.record(r)
	return p.commit("join"), nil
}

// planAdopt makes the controllers the only ones of the bridge, in one transaction: rows
// with the same target stay, so that their connections do. So do service connections,
// until planHand.
func planAdopt(s *state, r Record, offered []string) ([]ovsdb.Operation, error) {
	p := newPlan(s)
	members := []any{}
	for _, t := range r.Controllers {
		i := slices.IndexFunc(s.order, func(id string) bool { return s.target(id) == t })
		if i < 0 {
			members = append(members, p.insert(map[string]json.RawMessage{
				"target": quoted(t), "max_backoff": json.RawMessage(fmt.Sprint(maxBackoff)),
			}))
			continue
		}
		members = append(members, reference(s.order[i]))
		p.controller(s.order[i], ovsdb.Row{"type": setOf[string](), "max_backoff": maxBackoff})
	}
	for _, id := range s.order {
		if s.joins(id) {
			members = append(members, reference(id))
		}
	}
	columns := ovsdb.Row{"controller": setOf(members...), "fail_mode": "secure"}
	protocols, err := s.protocols(offered)
	if err != nil {
		return nil, err
	}
	if protocols != nil {
		columns["protocols"] = protocols
	}
	p.update(columns)
	yes := "true"
	p.put("other_config", map[string]*string{keyDatapathID: &s.dpid, keyInBand: &yes})
	p.record(r)
	return p.commit("adopt"), nil
}

// planHand takes the service connections away.
func planHand(s *state) ([]ovsdb.Operation, error) {
	p := newPlan(s)
	members := []any{}
	for _, id := range s.order {
		if !s.joins(id) {
			members = append(members, reference(id))
		}
	}
	if len(members) == len(s.order) {
		return nil, nil
	}
	p.update(ovsdb.Row{"controller": setOf(members...)})
	return p.commit("hand over"), nil
}

// drift says what of an adopted bridge is not as adoption set it, nothing when all is.
func drift(b Bridge, r Record) (l []string) {
	targets := []string{}
	for _, c := range b.Controllers {
		if c.Type == primary {
			targets = append(targets, c.Target)
		} else {
			l = append(l, "controller "+c.Target+" is of type "+c.Type)
		}
	}
	want := slices.Sorted(slices.Values(r.Controllers))
	if !slices.Equal(targets, want) {
		l = append(l, fmt.Sprintf("controllers are %s, not %s", strings.Join(targets, " "), strings.Join(want, " ")))
	}
	if b.FailMode != "secure" {
		l = append(l, "fail_mode is not secure")
	}
	if b.OtherConfig[keyInBand] != "true" {
		l = append(l, "other_config:disable-in-band is not true")
	}
	if b.OtherConfig[keyDatapathID] != b.DPID {
		l = append(l, "other_config:datapath-id is not "+b.DPID)
	}
	if len(b.Protocols) > 0 && !slices.Contains(b.Protocols, openFlow13) {
		l = append(l, "protocols lack "+openFlow13)
	}
	return l
}

// ours says whether a controller of the bridge is there because of the record alone.
func (s *state) ours(uuid string) bool {
	t := s.target(uuid)
	return s.joins(uuid) || slices.Contains(s.record.Controllers, t) && !s.record.Before.has(t)
}

func (b Before) has(target string) bool {
	return slices.ContainsFunc(b.Controllers, func(r map[string]json.RawMessage) bool {
		t, _ := atom(r["target"])
		return t == target
	})
}

// planReturn gives a bridge its earlier controllers back beside Fairlead's: it has
// primary controllers all the time, and flushes nothing.
func planReturn(s *state) []ovsdb.Operation {
	p := newPlan(s)
	members := []any{}
	for _, r := range s.record.Before.Controllers {
		members = append(members, p.insert(r))
	}
	for _, id := range s.order {
		if s.ours(id) {
			members = append(members, reference(id))
		}
	}
	p.update(ovsdb.Row{"controller": setOf(members...)})
	r := s.record
	r.Phase = PhaseReleasing
	p.record(r)
	return p.commit("return")
}

// planRestore puts back what adoption changed and takes the record away. Of a bridge
// that is adopted the earlier controllers are made again; otherwise they are there.
func planRestore(s *state) []ovsdb.Operation {
	p := newPlan(s)
	members := []any{}
	if s.record.Phase == PhaseAdopted {
		for _, r := range s.record.Before.Controllers {
			members = append(members, p.insert(r))
		}
	} else {
		for _, id := range s.order {
			if !s.ours(id) {
				members = append(members, reference(id))
			}
		}
	}
	before := s.record.Before
	p.update(ovsdb.Row{"controller": setOf(members...), "protocols": before.Protocols, "fail_mode": before.FailMode})
	keys := map[string]*string{keyDatapathID: nil, keyInBand: nil}
	for k := range keys {
		if v, ok := before.OtherConfig[k]; ok {
			keys[k] = &v
		}
	}
	p.put("other_config", keys)
	p.put("external_ids", map[string]*string{recordKey: nil})
	return p.commit("release")
}

func quoted(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // of a string
	}
	return b
}
