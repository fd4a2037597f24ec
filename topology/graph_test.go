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

// TestDeclaredHosts has what configures a port say who is there: it counts before the port
// has settled, as often as it is said, and where a cable is, or nothing, never.
func TestDeclaredHosts(t *testing.T) {
	g := New(Options{EdgeDelay: time.Second, MoveEvery: time.Minute, NewHostsAt: 1})
	g.SetSwitch(1, ports(9), t0)
	seen := func(p Port, declared bool) bool {
		g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 0, 1}, Place: Place{1, p}, Declared: declared}, t0)
		h, ok := g.Snapshot().Host(MAC{2, 0, 0, 0, 0, 1}, 0)
		return ok && h.Place == Place{1, p}
	}
	require.False(t, seen(1, false), "the port has not settled")
	for i := range 20 {
		require.True(t, seen(1+Port(i)%4, true))
	}
	g.HearLink(Place{1, 8}, Place{1, 9}, t0)
	require.False(t, seen(8, true), "a cable ends there")
	require.False(t, seen(77, true), "there is no such port")
	g.SetPort(1, PortState{Port: 5}, t0)
	require.False(t, seen(5, true), "it is down")
	require.Empty(t, g.SeeHost(Sighting{MAC: MAC{1, 0, 0, 0, 0, 1}, Place: Place{1, 1}, Declared: true}, t0), "no host's address")
	g.HearLink(Place{1, 4}, Place{1, 6}, t0)
	_, ok := g.Snapshot().Host(MAC{2, 0, 0, 0, 0, 1}, 0)
	require.False(t, ok, "a cable was found where it was said to be")
}
