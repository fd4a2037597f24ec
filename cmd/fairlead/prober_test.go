package main

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/migration"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/test/simswitch"
)

// A migration is told what answers, what is worse than before, and which of the VIPs and
// probes it names answers nobody, or not a switch that asks for the first time.
func TestMigrationMeasures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := measuredLab(t, controller.StageSteer, simswitch.Options{})
		p := prober{s.service}
		request := migration.ProbeRequest{Source: source4, VIPs: []string{"web"}, Probes: []documents.Probe{
			{Type: documents.ProbePing, Address: netip.MustParseAddr("10.0.9.2")}, {Type: documents.ProbeARP, Address: netip.MustParseAddr("10.0.66.66")},
		}}
		require.NoError(t, s.Core.SetStage(t.Context(), 3, controller.StageObserve))
		s.Settle()
		before, err := p.Measure(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, migration.Tally{Answered: 21, Asked: 21}, before.Hosts)
		require.Equal(t, migration.Tally{Answered: 4, Asked: 4}, before.VIPs, "switch 3 serves none; of UDP the members are asked for")
		require.Equal(t, migration.Tally{Answered: 3, Asked: 6}, before.Probes)
		require.Equal(t, []string{"arp 10.0.66.66 answers no switch: no answer"}, before.Silent)

		// Switch 3 serves the VIP now, and its cable is cut.
		request.Probes, request.Like = request.Probes[:1], &before
		require.NoError(t, s.Core.SetStage(t.Context(), 3, controller.StageSteer))
		s.Settle()
		good, err := p.Measure(t.Context(), request)
		require.NoError(t, err)
		require.Empty(t, good.Silent)
		require.Empty(t, p.Worse(before, good))
		s.Cut(simswitch.Place{DPID: 3, Port: 1}, true)
		s.m3.refuses = true
		s.Pass(100 * time.Millisecond)
		bad, err := p.Measure(t.Context(), request)
		require.NoError(t, err)
		require.Equal(t, []string{"VIP web tcp:80 does not answer from switch 0000000000000003: connection refused"}, bad.Silent)
		var texts []string
		for _, d := range p.Worse(before, bad) {
			texts = append(texts, d.Text)
		}
		require.Contains(t, texts, "ping 10.0.9.2 does not answer from switch 0000000000000003 any more (answered before)")
		require.Contains(t, texts, "nothing passes from 0000000000000003/1 to 0000000000000002/2 any more")
		require.Contains(t, texts, "a broadcast from switch 0000000000000003 does not come to switch 0000000000000001 any more")

		require.Len(t, p.Worse(migration.Measurement{}, good), 1, "what cannot be compared is no good")
	})
}
