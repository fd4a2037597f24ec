package main

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/health"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/northbound"
)

// watch has the members of a VIP probed (balancer.Watch).
func watch(c *controller.Context, vip string, checks []balancer.Check) {
	targets := make([]health.Target, len(checks))
	for i, ch := range checks {
		targets[i] = targetOf(ch)
	}
	c.Emit(health.Change{Owner: vip, Targets: targets})
}

// targetOf is what is probed for a check.
func targetOf(ch balancer.Check) health.Target {
	m := ch.Monitor
	return health.Target{
		ID: ch.ID, Type: health.Type(m.Type), Address: ch.Target.Addr(), Port: ch.Target.Port(),
		Source: ch.Source, VLAN: ch.VLAN,
		// The VIP's own address is answered for by the balancer.
		Answer:   m.SourceAddress.IsValid() && m.Via == balancer.ViaSwitches,
		Interval: time.Duration(m.Interval), Timeout: time.Duration(m.Timeout), Rise: m.Rise, Fall: m.Fall,
		Method: m.Method, Path: m.Path, Host: m.Host, ExpectedCodes: m.ExpectedCodes, TLSInsecure: m.TLSInsecure,
		ViaHost: m.Via == balancer.ViaHost,
	}
}

// tell gives the balancer a verdict.
func tell(c *controller.Context, v health.Verdict) {
	c.Emit(balancer.Verdict{ID: v.ID, Up: v.Up, Reason: v.Reason})
}

// probesView shows what health monitors do (northbound.Options.Probes).
func probesView(core *controller.Controller, app *health.App) func(context.Context) (northbound.ProbesView, error) {
	return func(ctx context.Context) (v northbound.ProbesView, err error) {
		var s health.Stats
		if err := core.Do(ctx, func(*controller.Context) { s = app.Stats() }); err != nil {
			return v, err
		}
		v = northbound.ProbesView{
			Targets: map[string]int{}, Held: s.Held, InFlight: s.InFlight,
			Verdicts: s.Verdicts, Deferred: s.Deferred, Dropped: s.Dropped,
		}
		for status, n := range s.Targets {
			v.Targets[status.String()] = n
		}
		for kind, n := range s.Probes {
			v.Probes = append(v.Probes, northbound.ProbeCount{Type: string(kind.Type), Outcome: kind.Outcome.String(), Count: n})
		}
		slices.SortFunc(v.Probes, func(a, b northbound.ProbeCount) int {
			return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Outcome, b.Outcome))
		})
		return v, nil
	}
}
