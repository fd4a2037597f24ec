package topology

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func ports(n int) []PortState {
	ps := make([]PortState, n)
	for i := range ps {
		ps[i] = PortState{Port: Port(i + 1), Up: true}
	}
	return ps
}

func hear(g *Graph, a, b Place, now time.Time) []Event {
	return append(g.HearLink(a, b, now), g.HearLink(b, a, now)...)
}

func TestTwoSwitches(t *testing.T) {
	g := New(Options{})
	g.SetSwitch(1, ports(3), t0)
	g.SetSwitch(2, ports(3), t0)
	evs := hear(g, Place{1, 1}, Place{2, 2}, t0)
	require.Len(t, evs, 2)
	require.IsType(t, LinkChanged{}, evs[0])
	require.IsType(t, LinkUp{}, evs[1])

	ip := netip.MustParseAddr("10.0.0.1")
	mac := MAC{2, 0, 0, 0, 0, 1}
	require.Empty(t, g.SeeHost(Sighting{MAC: mac, Place: Place{1, 1}}, t0), "learned on a link")
	g.SeeHost(Sighting{MAC: mac, Place: Place{1, 3}, IP: ip}, t0)

	s := g.Snapshot()
	require.Same(t, s, g.Snapshot())
	p, ok := s.NextHop(1, 2)
	require.True(t, ok)
	require.Equal(t, Port(1), p)
	require.Equal(t, []Hop{{1, 0, 1}, {2, 2, 0}}, s.Path(1, 2))
	require.Equal(t, []Port{1}, s.Tree().Ports(1))
	require.Equal(t, []Port{2, 3}, s.EdgePorts(1))
	require.Equal(t, [][]DPID{{1, 2}}, s.Components())
	h, ok := s.HostByIP(0, ip)
	require.True(t, ok)
	require.Equal(t, Place{1, 3}, h.Place)

	evs = g.SetPort(1, PortState{Port: 1}, t0)
	require.IsType(t, LinkDown{}, evs[1])
	_, ok = g.Snapshot().NextHop(1, 2)
	require.False(t, ok)
	_, ok = s.NextHop(1, 2)
	require.True(t, ok, "a snapshot changed")
}
