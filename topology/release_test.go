package topology

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// releasing is a square of three switches and one link across, in which hosts are at
// switch 3: links 1/1-3/1, 1/2-2/1 and 2/2-3/2; hosts at 3/9.
func releasing(t *testing.T, o Options) (g *Graph, now time.Time, host HostKey) {
	t.Helper()
	g, now = New(o), time.Unix(1e9, 0)
	for id, ports := range map[DPID][]Port{1: {1, 2}, 2: {1, 2}, 3: {1, 2, 9}} {
		var states []PortState
		for _, p := range ports {
			states = append(states, PortState{Port: p, Up: true})
		}
		g.SetSwitch(id, states, now)
	}
	now = now.Add(o.EdgeDelay)
	g.Expire(now)
	for _, l := range [][2]Place{{{1, 1}, {3, 1}}, {{1, 2}, {2, 1}}, {{2, 2}, {3, 2}}} {
		g.HearLink(l[0], l[1], now)
		g.HearLink(l[1], l[0], now)
	}
	host = HostKey{MAC: MAC{2, 1}}
	g.SeeHost(Sighting{MAC: host.MAC, Place: Place{3, 9}, IP: netip.MustParseAddr("10.0.0.1")}, now)
	_, known := g.Snapshot().Host(host.MAC, 0)
	require.True(t, known)
	return g, now, host
}

// A switch that is released goes on forwarding: its hosts are behind the port that the
// tree led to it by, which floods on, and no other port floods to it.
func TestReleasedSwitchIsALegacyOne(t *testing.T) {
	g, now, host := releasing(t, Options{EdgeDelay: time.Second})
	require.True(t, g.Snapshot().Tree().Contains(Place{1, 1}))
	g.ReleaseSwitch(3, now)
	snap := g.Snapshot()
	h, known := snap.Host(host.MAC, 0)
	require.True(t, known)
	require.Equal(t, Place{1, 1}, h.Place)
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.0.0.1")}, h.IPs)
	require.True(t, snap.IsEdge(Place{1, 1}))
	require.False(t, snap.IsEdge(Place{2, 2}), "a second way to it would close a circle")
	require.Len(t, snap.Links(), 1)

	// They turn out to be on one segment.
	g.HearBridged(Place{1, 1}, Place{2, 2}, now.Add(time.Minute), now)
	now = now.Add(3 * time.Second)
	g.Expire(now)
	snap = g.Snapshot()
	require.True(t, snap.IsEdge(Place{1, 1}))
	require.True(t, snap.IsBlocked(Place{2, 2}))
	_, known = snap.Host(host.MAC, 0)
	require.True(t, known)
	require.Empty(t, g.ReleaseSwitch(3, now), "it is not there any more")
}

func TestReleasedSwitchOutsideOfTheTree(t *testing.T) {
	g, now, _ := releasing(t, Options{EdgeDelay: time.Second})
	g.ReleaseSwitch(3, now)
	now = now.Add(2 * time.Second)
	g.Expire(now)
	require.False(t, g.Snapshot().IsEdge(Place{2, 2}))
	now = now.Add(time.Second)
	g.Expire(now)
	require.True(t, g.Snapshot().IsEdge(Place{2, 2}), "nothing was heard: it leads elsewhere")
}

// Hosts stay behind a port that turns out to lead to a switch until they are seen there.
func TestHostsBeyondANewLink(t *testing.T) {
	g, now, host := releasing(t, Options{EdgeDelay: time.Second, BeyondTTL: 10 * time.Second})
	other := MAC{2, 2}
	g.SeeHost(Sighting{MAC: other, Place: Place{3, 9}}, now)
	g.SetSwitch(4, []PortState{{Port: 1, Up: true}, {Port: 2, Up: true}}, now)
	now = now.Add(time.Second)
	g.Expire(now)
	g.HearLink(Place{4, 1}, Place{3, 9}, now)
	g.HearLink(Place{3, 9}, Place{4, 1}, now)
	for _, mac := range []MAC{host.MAC, other} {
		h, known := g.Snapshot().Host(mac, 0)
		require.True(t, known)
		require.Equal(t, Place{3, 9}, h.Place)
	}
	evs := g.SeeHost(Sighting{MAC: host.MAC, Place: Place{4, 2}}, now)
	require.IsType(t, HostMoved{}, evs[0])
	require.False(t, g.NextExpiry().After(now.Add(10*time.Second)))
	g.Pin(HostKey{MAC: other}, true, now)
	now = now.Add(10 * time.Second)
	g.Expire(now)
	_, known := g.Snapshot().Host(host.MAC, 0)
	require.True(t, known)
	_, known = g.Snapshot().Host(other, 0)
	require.False(t, known, "it was asked for, and not seen again")
}

// Two ports that heard each other's probes of bridges before those of their cable are the
// ends of that cable; not so on a hub, where more hear each other.
func TestCableThatIsProbedLate(t *testing.T) {
	now := time.Unix(1e9, 0)
	g := New(Options{})
	for id := range DPID(3) {
		g.SetSwitch(id+1, []PortState{{Port: 1, Up: true}}, now)
	}
	a, b, c := Place{1, 1}, Place{2, 1}, Place{3, 1}
	g.HearBridged(a, b, now.Add(time.Minute), now)
	require.Len(t, g.Snapshot().Segments(), 1)
	g.HearLink(a, b, now)
	g.HearLink(b, a, now)
	require.Empty(t, g.Snapshot().Segments())
	require.Contains(t, g.Snapshot().Tree().Ports(1), Port(1))

	g.HearBridged(a, c, now.Add(2*time.Second), now)
	require.Len(t, g.Snapshot().Segments(), 1)
	now = now.Add(3 * time.Second)
	g.Expire(now)
	require.Len(t, g.Snapshot().Segments(), 1, "one has left the hub, and two are still on it")
}
