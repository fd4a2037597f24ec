package health

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// A probe that ran out of time because the core was late is void and made again; a
// target that is dead is found all the same, at most three probes later. Steps of the
// wall clock are not seen: times of the core have a monotonic reading.
func TestLateCore(t *testing.T) {
	now := time.Now()
	graph := topology.New(topology.Options{})
	graph.SetSwitch(1, []topology.PortState{{Port: 1, Up: true}}, now)
	target := netip.MustParseAddr("10.0.0.2")
	graph.SeeHost(topology.Sighting{MAC: topology.MAC{2, 5: 1}, Place: topology.Place{DPID: 1, Port: 1}, IP: target}, now)
	var verdicts []Verdict
	a := New(slog.New(slog.DiscardHandler), func(_ *controller.Context, v Verdict) { verdicts = append(verdicts, v) })
	call := func(event any) {
		a.Handle(controller.NewContext(now, graph, a, &controller.Switch{DPID: ofproto.DPID(1)}), event)
	}
	call(Change{Owner: "x", Targets: []Target{{
		ID: "a", Type: Ping, Address: target, Source: netip.MustParseAddr("10.0.0.9"), Interval: time.Second, Timeout: 100 * time.Millisecond, Fall: 1,
	}}})
	call(controller.Woken{})
	require.Equal(t, 1, a.inFlight)
	for i := range maxVoid {
		now = now.Add(500 * time.Millisecond) // the core hung
		call(controller.Woken{})
		require.Empty(t, verdicts)
		require.EqualValues(t, i+1, a.counts.probes[ProbeKind{Ping, OutcomeVoid}])
		now = now.Add(deferBy)
		call(controller.Woken{})
		require.Equal(t, 1, a.inFlight, "made again")
	}
	now = now.Add(500 * time.Millisecond)
	call(controller.Woken{})
	require.Equal(t, []Verdict{{ID: "a", Reason: "no answer within 100ms"}}, verdicts)
	now = now.Add(time.Second)
	call(controller.Woken{})
	now = now.Add(101 * time.Millisecond) // in time
	call(controller.Woken{})
	require.EqualValues(t, 2, a.counts.probes[ProbeKind{Ping, OutcomeTimeout}])
}
