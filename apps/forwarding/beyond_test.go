package forwarding

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/topology"
)

// A host that was seen at a port which then turns out to lead to a switch is behind that
// switch: the port is the way to it on this side, and the way back on the other.
func TestHostBeyondALink(t *testing.T) {
	now := time.Unix(1e9, 0)
	g := topology.New(topology.Options{BeyondTTL: time.Minute})
	up := func(id topology.DPID, ports ...topology.Port) {
		var states []topology.PortState
		for _, p := range ports {
			states = append(states, topology.PortState{Port: p, Up: true})
		}
		g.SetSwitch(id, states, now)
	}
	link := func(a, b topology.Place) {
		g.HearLink(a, b, now)
		g.HearLink(b, a, now)
	}
	up(1, 1, 2)
	up(2, 1, 2)
	link(topology.Place{DPID: 1, Port: 2}, topology.Place{DPID: 2, Port: 1})
	g.SeeHost(topology.Sighting{MAC: topology.MAC{2, 1}, Place: topology.Place{DPID: 2, Port: 2}}, now)
	up(3, 1, 2)
	up(4, 1)
	link(topology.Place{DPID: 2, Port: 2}, topology.Place{DPID: 3, Port: 1})
	link(topology.Place{DPID: 3, Port: 2}, topology.Place{DPID: 4, Port: 1})
	snap := g.Snapshot()
	h, known := snap.Host(topology.MAC{2, 1}, 0)
	require.True(t, known)
	for dpid, entries := range map[topology.DPID]int{1: 1, 2: 2, 3: 0, 4: 0} {
		require.Len(t, compileHost(snap, dpid, h, snap.NextHop, false).Flows, entries, "switch %v", dpid)
	}
}
