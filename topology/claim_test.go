package topology

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// claimed makes a graph of a switch with four ports and a host at the first.
func claimed(t *testing.T) (*Graph, Sighting, time.Time) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	g := New(Options{Claims: true, MoveEvery: 5 * time.Second})
	g.SetSwitch(1, []PortState{{Port: 1, Up: true}, {Port: 2, Up: true}, {Port: 3, Up: true}, {Port: 4, Up: true}}, now)
	home := Sighting{MAC: MAC{2, 0, 0, 0, 0, 1}, Place: Place{1, 1}, IP: netip.MustParseAddr("10.0.0.1")}
	require.IsType(t, HostAdded{}, g.SeeHost(home, now)[0], "a new host counts at once")
	return g, home, now.Add(time.Second)
}

// TestNewHostIsNotDoubted sees a host's first frame on a segment before it is seen where it
// entered.
func TestNewHostIsNotDoubted(t *testing.T) {
	g, home, now := claimed(t)
	home.Place.Port = 2
	require.IsType(t, HostMoved{}, g.SeeHost(home, now.Add(-999*time.Millisecond))[0])
}

// TestClaimsAreToldAndChangeNothing sees a host elsewhere, and its address with another
// host: until somebody has asked, it is where it was.
func TestClaimsAreToldAndChangeNothing(t *testing.T) {
	g, home, now := claimed(t)
	elsewhere := home
	elsewhere.Place.Port = 2
	require.Equal(t, []Event{HostClaimed{g.hosts.byKey[HostKey{home.MAC, 0}].host, elsewhere}}, g.SeeHost(elsewhere, now))

	other := Sighting{MAC: MAC{2, 0, 0, 0, 0, 2}, Place: Place{1, 3}, IP: home.IP}
	evs := g.SeeHost(other, now)
	require.Len(t, evs, 2)
	require.IsType(t, HostClaimed{}, evs[0])
	require.IsType(t, HostAdded{}, evs[1], "the other is known at once, without the address")

	h, ok := g.Snapshot().HostByIP(0, home.IP)
	require.True(t, ok)
	require.Equal(t, home.Place, h.Place)
	require.Equal(t, home.MAC, h.MAC)

	elsewhere.Verified = true
	require.IsType(t, HostMoved{}, g.SeeHost(elsewhere, now)[0])
	other.Verified = true
	g.SeeHost(other, now)
	h, _ = g.Snapshot().HostByIP(0, home.IP)
	require.Equal(t, other.MAC, h.MAC)
}

// TestDeclaredSightingsAreNoClaims moves a pinned host, and an address, by what a database
// says.
func TestDeclaredSightingsAreNoClaims(t *testing.T) {
	g, home, now := claimed(t)
	g.Pin(HostKey{home.MAC, 0}, true, now)
	for i := range 10 {
		home.Place.Port, home.Declared = Port(1+(i+1)%2), true
		require.IsType(t, HostMoved{}, g.SeeHost(home, now)[0])
	}
	other := Sighting{MAC: MAC{2, 0, 0, 0, 0, 2}, Place: Place{1, 3}, IP: home.IP, Declared: true}
	g.SeeHost(other, now)
	h, _ := g.Snapshot().HostByIP(0, home.IP)
	require.Equal(t, other.MAC, h.MAC)
}

// TestPinnedHostAtAPortThatIsDown is claimed while its port is down and while it settles.
func TestPinnedHostAtAPortThatIsDown(t *testing.T) {
	g, home, now := claimed(t)
	g.Pin(HostKey{home.MAC, 0}, true, now)
	elsewhere := home
	elsewhere.Place.Port = 2
	g.SetPort(1, PortState{Port: 1}, now)
	require.IsType(t, HostClaimed{}, g.SeeHost(elsewhere, now)[0])
	g.SetPort(1, PortState{Port: 1, Up: true}, now)
	require.IsType(t, HostClaimed{}, g.SeeHost(elsewhere, now)[0])
}

// TestSeedHostAtAPortThatIsDown restores a host where it was pinned; it ages where nobody
// pins it again.
func TestSeedHostAtAPortThatIsDown(t *testing.T) {
	for _, pinned := range []bool{true, false} {
		now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
		g := New(Options{HostTTL: time.Minute})
		g.SetSwitch(1, []PortState{{Port: 1}}, now)
		home := Sighting{MAC: MAC{2, 0, 0, 0, 0, 1}, Place: Place{1, 1}}
		require.Empty(t, g.SeeHost(home, now))
		require.NotEmpty(t, g.SeedHost(home, now))
		unknown := home
		unknown.Place.Port = 9
		require.Empty(t, g.SeedHost(unknown, now))
		key := HostKey{home.MAC, 0}
		if pinned {
			g.Pin(key, true, now)
		}
		g.Expire(now.Add(time.Hour))
		_, ok := g.Snapshot().Host(home.MAC, 0)
		require.Equal(t, pinned, ok)
		g.Pin(key, false, now.Add(time.Hour))
		_, ok = g.Snapshot().Host(home.MAC, 0)
		require.False(t, ok)
	}
}
