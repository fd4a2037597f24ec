package reachability_test

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller/documents"
)

// whole is a measurement in which all is well.
func whole() reachability.Measurement {
	yes := reachability.Reply{Result: reachability.Answered, Tries: 1}
	a, b := reachability.Place{DPID: "01", Port: 1}, reachability.Place{DPID: "02", Port: 2}
	return reachability.Measurement{
		Switches: []reachability.Switch{{DPID: "01"}, {DPID: "02"}},
		Pairs: []reachability.Pair{
			{From: "01", Address: netip.MustParseAddr("10.0.0.3"), MAC: "02:00:00:00:00:03", Reply: yes},
			{From: "02", Address: netip.MustParseAddr("10.0.0.3"), MAC: "02:00:00:00:00:03", VLAN: 7, Reply: yes},
		},
		VIPs:   []reachability.VIPAnswer{{From: "01", VIP: "web", Listener: "tcp:80", By: "tcp", Reply: yes}},
		Probes: []reachability.ProbeAnswer{{From: "02", Probe: documents.Probe{Type: documents.ProbePing, Address: netip.MustParseAddr("10.0.0.9")}, Reply: yes}},
		Copies: []reachability.Copies{{From: "01", To: "02", Count: 1}, {From: "02", To: "01", Count: 1}},
		Links:  []reachability.LinkAnswer{{From: a, To: b, MTU: 1500, Small: true, Full: true}},
		Rates:  []reachability.PortRate{{Place: a, Rx: 100, Tx: 4000}},
	}
}

func TestWorse(t *testing.T) {
	no := reachability.Reply{Result: reachability.NoAnswer, Tries: 3, Reason: "no answer"}
	for name, c := range map[string]struct {
		change func(*reachability.Measurement)
		want   []string
	}{
		"the same": {func(*reachability.Measurement) {}, nil},
		"hosts": {func(m *reachability.Measurement) { m.Pairs[0].Reply, m.Pairs[1].Reply = no, no }, []string{
			"10.0.0.3 (02:00:00:00:00:03) does not answer from switch 01 any more (answered before)",
			"10.0.0.3 (02:00:00:00:00:03, VLAN 7) does not answer from switch 02 any more (answered before)"}},
		"a host that is not asked": {func(m *reachability.Measurement) { m.Pairs = m.Pairs[:1] }, []string{
			"10.0.0.3 (02:00:00:00:00:03, VLAN 7) was not asked from switch 02 (answered before)"}},
		"no host is asked": {func(m *reachability.Measurement) { m.Pairs = nil }, nil},
		"skipped":          {func(m *reachability.Measurement) { m.Pairs[0].Result = reachability.Skipped }, nil},
		"a switch that is away": {func(m *reachability.Measurement) {
			m.Switches[0].Skipped = "not connected"
			m.Pairs, m.VIPs, m.Copies = m.Pairs[1:], nil, nil
		}, []string{"switch 01 cannot be measured from any more: not connected"}},
		"a switch that is gone": {func(m *reachability.Measurement) { m.Switches, m.Pairs = m.Switches[1:], m.Pairs[1:] }, []string{
			"switch 01 was not measured from, as it was before"}},
		"a VIP": {func(m *reachability.Measurement) {
			m.VIPs[0].Reply = reachability.Reply{Result: reachability.NoAnswer, Reason: "connection refused"}
		}, []string{"VIP web tcp:80 does not answer from switch 01 any more (answered before): connection refused"}},
		"a probe": {func(m *reachability.Measurement) { m.Probes[0].Reply = no }, []string{"ping 10.0.0.9 does not answer from switch 02 any more (answered before)"}},
		"a loop": {func(m *reachability.Measurement) {
			m.Copies[0].Count = 3
			m.Copies = append(m.Copies, reachability.Copies{From: "02", To: "02", Count: 2})
		}, []string{
			"3 copies of one broadcast from switch 01 come to switch 02: there is a loop", "a broadcast of switch 02 comes back to it 2 times: there is a loop"}},
		"a broadcast that is lost": {func(m *reachability.Measurement) { m.Copies[1].Count = 0 }, []string{"a broadcast from switch 02 does not come to switch 01 any more"}},
		"large packets":            {func(m *reachability.Measurement) { m.Links[0].Full = false }, []string{"packets of 1500 bytes do not pass from 01/1 to 02/2 any more, small ones do"}},
		"all packets":              {func(m *reachability.Measurement) { m.Links[0].Full, m.Links[0].Small = false, false }, []string{"nothing passes from 01/1 to 02/2 any more"}},
		"another size":             {func(m *reachability.Measurement) { m.Links[0].MTU, m.Links[0].Full = 9000, false }, nil},
		"busy":                     {func(m *reachability.Measurement) { m.Rates[0].Rx, m.Rates[0].Tx = 4999, 39999 }, nil},
		"a storm that comes":       {func(m *reachability.Measurement) { m.Rates[0].Rx = 6000 }, []string{"port 01/1 takes 6000 packets a second (100 before): there may be a loop"}},
		"a storm that goes":        {func(m *reachability.Measurement) { m.Rates[0].Tx = 50000 }, []string{"port 01/1 sends 50000 packets a second (4000 before): there may be a loop"}},
		"tables": {func(m *reachability.Measurement) {
			m.Switches[1].Deviations = []string{"group 7: missing (balancer vip/web)"}
		}, []string{"switch 02 does not hold what it is to: group 7: missing (balancer vip/web)"}},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := whole(), whole()
			c.change(&after)
			var got []string
			for _, d := range reachability.Worse(before, after) {
				got = append(got, d.Text)
				require.NotEmpty(t, d.DPID)
				require.NotEmpty(t, d.Aspect)
			}
			require.Equal(t, c.want, got)
			require.Empty(t, reachability.Worse(after, after))
			for _, d := range reachability.Worse(after, before) {
				require.Contains(t, []string{"a switch that is gone"}, name, d.Text)
			}
		})
	}
}

// A host that answers nobody may be off, a port may carry more than before: both are told
// as doubtful. A host that answers some switches is there, and several do not go at once.
func TestDoubtful(t *testing.T) {
	no := reachability.Reply{Result: reachability.NoAnswer, Tries: 3, Reason: "no answer"}
	two := func() reachability.Measurement {
		m := whole()
		for _, p := range m.Pairs {
			p.VLAN = 0
			p.MAC, p.Address = "02:00:00:00:00:04", netip.MustParseAddr("10.0.0.4")
			m.Pairs = append(m.Pairs, p)
		}
		m.Pairs[1].VLAN = 0
		return m
	}
	for name, c := range map[string]struct {
		change   func(*reachability.Measurement)
		doubtful []bool
	}{
		"one host, from both":         {func(m *reachability.Measurement) { m.Pairs[0].Reply, m.Pairs[1].Reply = no, no }, []bool{true, true}},
		"one host, from one":          {func(m *reachability.Measurement) { m.Pairs[0].Reply = no }, []bool{false}},
		"one from both, one from one": {func(m *reachability.Measurement) { m.Pairs[0].Reply, m.Pairs[1].Reply, m.Pairs[2].Reply = no, no, no }, []bool{true, true, false}},
		"all hosts": {func(m *reachability.Measurement) {
			for i := range m.Pairs {
				m.Pairs[i].Reply = no
			}
		}, []bool{false, false, false, false}},
		"a storm": {func(m *reachability.Measurement) { m.Rates[0].Rx = 6000 }, []bool{true}},
		"a loop":  {func(m *reachability.Measurement) { m.Copies[0].Count = 2 }, []bool{false}},
	} {
		t.Run(name, func(t *testing.T) {
			before, after := two(), two()
			c.change(&after)
			var got []bool
			for _, d := range reachability.Worse(before, after) {
				got = append(got, d.Doubtful)
			}
			require.Equal(t, c.doubtful, got)
		})
	}
}
