package topology

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestT16HostThatFlaps has two ports claim one address: it stays at one of them, but
// for a move now and then. A host whose port goes down may move as often as it likes.
func TestT16HostThatFlaps(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g := New(Options{MoveEvery: 5 * time.Second})
	ports := []PortState{{Port: 1, Up: true}, {Port: 2, Up: true}}
	g.SetSwitch(1, ports, now)
	sight := Sighting{MAC: MAC{2, 0, 0, 0, 0, 1}, Place: Place{1, 1}}
	g.SeeHost(sight, now)
	moved, told := 0, 0
	for i := range 6000 { // a minute, 100 a second
		now = now.Add(10 * time.Millisecond)
		sight.Place.Port = Port(1 + i%2)
		for _, e := range g.SeeHost(sight, now) {
			switch e.(type) {
			case HostMoved:
				moved++
			case HostFlaps:
				told++
			}
		}
	}
	require.LessOrEqual(t, moved, 3+60/5+1)
	require.Greater(t, moved, 10)
	require.LessOrEqual(t, told, 60/5+1)
	require.NotZero(t, told)

	for i := range 100 {
		from, to := Port(1+i%2), Port(2-i%2)
		now = now.Add(100 * time.Millisecond)
		g.SetPort(1, PortState{Port: to, Up: true}, now)
		g.SetPort(1, PortState{Port: from}, now)
		sight.Place.Port = to
		g.SeeHost(sight, now)
		h, ok := g.Snapshot().Host(sight.MAC, 0)
		require.True(t, ok)
		require.Equal(t, to, h.Place.Port)
	}
}
