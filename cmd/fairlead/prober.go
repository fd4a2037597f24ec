package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/fairlead/fairlead/apps/migration"
	"github.com/fairlead/fairlead/apps/reachability"
)

// migrationMTU is what links are tried with around the steps of a migration.
const migrationMTU = 1500

// prober measures for package migration (migration.Prober).
type prober struct{ service *reachability.Service }

// Measure implements migration.Prober.
func (p prober) Measure(ctx context.Context, r migration.ProbeRequest) (m migration.Measurement, err error) {
	req := reachability.Request{Hosts: true, VIPs: r.VIPs, Probes: r.Probes, Broadcast: true, Rates: true, MTU: migrationMTU}
	if r.Source.IsValid() {
		req.Sources = []netip.Addr{r.Source}
	}
	if r.Like != nil {
		like, err := wholeOf(*r.Like)
		if err != nil {
			return m, err
		}
		req.Like = &like
	}
	now, err := p.service.Measure(ctx, req)
	if err != nil {
		return m, err
	}
	if m.Whole, err = json.Marshal(now); err != nil {
		return m, err
	}
	m.At, m.Silent = now.At, mustAnswer(now, req.Like)
	for _, one := range now.Pairs {
		count(&m.Hosts, one.Reply)
	}
	for _, one := range now.VIPs {
		count(&m.VIPs, one.Reply)
	}
	for _, one := range now.Probes {
		count(&m.Probes, one.Reply)
	}
	return m, nil
}

func count(t *migration.Tally, r reachability.Reply) {
	switch r.Result {
	case reachability.Answered:
		t.Answered++
		t.Asked++
	case reachability.NoAnswer:
		t.Asked++
	}
}

// mustAnswer lists the VIPs and probes that answer no switch, or not one that did not ask
// them in the earlier measurement.
func mustAnswer(now reachability.Measurement, like *reachability.Measurement) (silent []string) {
	asked, answered := map[string]bool{}, map[string]bool{} // by what is asked
	var order []string
	reasons := map[string]string{}
	before := map[[2]string]bool{} // what, and the switch that asked
	take := func(what string, r reachability.Reply) {
		if r.Result == reachability.Skipped {
			return
		}
		if !asked[what] {
			asked[what] = true
			order = append(order, what)
		}
		if r.OK() {
			answered[what] = true
		} else if reasons[what] == "" {
			reasons[what] = r.Reason
		}
	}
	for _, v := range now.VIPs {
		take(vipText(v), v.Reply)
	}
	for _, p := range now.Probes {
		take(p.Probe.String(), p.Reply)
	}
	for _, what := range order {
		if !answered[what] {
			silent = append(silent, fmt.Sprintf("%s answers no switch: %s", what, reasons[what]))
		}
	}
	if like == nil {
		return silent
	}
	for _, v := range like.VIPs {
		before[[2]string{vipText(v), v.From}] = v.Result != reachability.Skipped
	}
	for _, p := range like.Probes {
		before[[2]string{p.Probe.String(), p.From}] = p.Result != reachability.Skipped
	}
	since := func(what, from string, r reachability.Reply) {
		if r.Result == reachability.NoAnswer && answered[what] && !before[[2]string{what, from}] {
			silent = append(silent, fmt.Sprintf("%s does not answer from switch %s: %s", what, from, r.Reason))
		}
	}
	for _, v := range now.VIPs {
		since(vipText(v), v.From, v.Reply)
	}
	for _, p := range now.Probes {
		since(p.Probe.String(), p.From, p.Reply)
	}
	return silent
}

func vipText(v reachability.VIPAnswer) string { return "VIP " + v.VIP + " " + v.Listener }

// Worse implements migration.Prober.
func (p prober) Worse(before, after migration.Measurement) (list []migration.Difference) {
	was, err := wholeOf(before)
	if err == nil {
		var is reachability.Measurement
		if is, err = wholeOf(after); err == nil {
			for _, d := range reachability.Worse(was, is) {
				list = append(list, migration.Difference{DPID: d.DPID, Text: d.Text, Doubtful: d.Doubtful})
			}
			return list
		}
	}
	return []migration.Difference{{Text: err.Error()}} // what cannot be compared is not good
}

// wholeOf reads the measurement that Measure kept.
func wholeOf(m migration.Measurement) (whole reachability.Measurement, err error) {
	if err := json.Unmarshal(m.Whole, &whole); err != nil {
		return whole, fmt.Errorf("read the measurement of %s: %w", m.At, err)
	}
	return whole, nil
}
