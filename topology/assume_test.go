package topology

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is assumed of switches is what comes when it is so, and changes nothing before.
func TestAssuming(t *testing.T) {
	now := time.Unix(1, 0)
	ring := func() *Graph {
		g := New(Options{})
		for id := range DPID(5) {
			g.SetSwitch(id+1, []PortState{{Port: 1, Up: true}, {Port: 2, Up: true}, {Port: 3, Up: true}}, now)
		}
		for id := range DPID(4) { // a ring of four, and 5 beside it, on a segment with 4 and 1
			g.SeedLink(Place{id + 1, 1}, Place{(id+1)%4 + 1, 2}, now.Add(time.Hour), now)
		}
		g.SeedSegment([]Place{{1, 3}, {4, 3}, {5, 3}}, now.Add(time.Hour), now)
		return g
	}
	look := func(s *Snapshot) (seen []any) {
		for id := range DPID(5) {
			seen = append(seen, s.Tree().Ports(id+1), s.EdgePorts(id+1), s.Managed(id+1))
			for port := range Port(3) {
				seen = append(seen, s.Blocked(Place{id + 1, port + 1}))
			}
			for to := range DPID(5) {
				hop, ok := s.NextHop(id+1, to+1)
				seen = append(seen, hop, ok)
			}
		}
		return append(seen, s.Segments())
	}
	for _, first := range []map[DPID]bool{{}, {1: false}, {2: false, 3: false}, {5: false, 4: false}} {
		for _, then := range []map[DPID]bool{{}, {1: false}, {2: false}, {1: true, 3: false}, {2: true, 3: false}, {1: false, 2: false, 3: false, 4: false}} {
			g := ring()
			for id, managed := range first {
				g.SetManaged(id, managed, now)
			}
			before, version := look(g.Snapshot()), g.Version()
			got := look(g.Assuming(then))
			require.Equal(t, before, look(g.Snapshot()), "%v then %v", first, then)
			require.Equal(t, version, g.Version())
			for id, managed := range then {
				g.SetManaged(id, managed, now)
			}
			require.Equal(t, look(g.Snapshot()), got, "%v then %v", first, then)
		}
	}
}
