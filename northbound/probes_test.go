package northbound

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMetricsOfAnnouncements(t *testing.T) {
	err := error(nil)
	r := newRig(t, func(o *Options) {
		o.Presence = func(context.Context) (PresenceView, error) { return PresenceView{ARP: 12, ND: 3, Waiting: 4}, err }
	})
	text := string(r.do("GET /metrics", "").body)
	for _, line := range []string{
		`fairlead_collect_success 1`, `fairlead_vip_announcements_total{type="arp"} 12`, `fairlead_vip_announcements_total{type="nd"} 3`,
		`fairlead_vip_announcements_waiting 4`,
	} {
		require.Contains(t, text, line+"\n")
	}
	err = errors.New("the core is gone")
	require.Contains(t, string(r.do("GET /metrics", "").body), "fairlead_collect_success 0\n")
}

func TestMetricsOfHealthMonitors(t *testing.T) {
	view, err := ProbesView{
		Targets: map[string]int{"up": 5, "down": 2}, Held: 1, InFlight: 3,
		Probes:   []ProbeCount{{"http", "success", 70}, {"http", "timeout", 4}, {"ping", "void", 1}},
		Verdicts: 9, Deferred: 8, Dropped: 6,
	}, error(nil)
	r := newRig(t, func(o *Options) { o.Probes = func(context.Context) (ProbesView, error) { return view, err } })
	text := string(r.do("GET /metrics", "").body)
	for _, line := range []string{
		`fairlead_collect_success 1`,
		`fairlead_health_targets{status="unknown"} 0`, `fairlead_health_targets{status="up"} 5`, `fairlead_health_targets{status="down"} 2`,
		`fairlead_health_targets_held 1`, `fairlead_health_probes_in_flight 3`,
		`fairlead_health_probes_total{outcome="success",type="http"} 70`, `fairlead_health_probes_total{outcome="timeout",type="http"} 4`,
		`fairlead_health_probes_total{outcome="void",type="ping"} 1`,
		`fairlead_health_verdicts_total 9`, `fairlead_health_probes_deferred_total 8`, `fairlead_health_packets_dropped_total 6`,
	} {
		require.Contains(t, text, line+"\n")
	}
	err = errors.New("the core is gone")
	require.Contains(t, string(r.do("GET /metrics", "").body), "fairlead_collect_success 0\n")
}
