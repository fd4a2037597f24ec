package topology

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A port that invents addresses has no more of them learned than the limit lets it; other
// ports learn as ever.
func TestZ02NewHostsOfOnePortAreLimited(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	g := New(Options{NewHostsAt: 100})
	g.SetSwitch(1, ports(2), now)
	see := func(n int, port Port) bool {
		var mac MAC
		binary.BigEndian.PutUint32(mac[2:], uint32(n))
		mac[0] = 2
		return len(g.SeeHost(Sighting{MAC: mac, Place: Place{1, port}}, now)) > 0
	}
	learned := 0
	for n := range 100_000 {
		now = now.Add(100 * time.Microsecond)
		if see(n, 1) {
			learned++
		}
		if n%10_000 == 0 {
			require.True(t, see(1_000_000+n, 2))
		}
	}
	require.InDelta(t, 100+10*100, learned, 2)
	require.EqualValues(t, 100_000-learned, g.Snapshot().Refused())
	now = now.Add(10 * time.Second)
	require.True(t, see(2_000_000, 1), "when the flood is over")
}

// Many times more source addresses than fit, behind one port, leave the hosts of other ports known, and
// the table bounded.
func TestZ02HostsOfOnePort(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	g := New(Options{MaxHosts: 4096, MaxHostsAt: 1024})
	g.SetSwitch(1, ports(8), now)
	see := func(n int, port Port) {
		var mac MAC
		binary.BigEndian.PutUint32(mac[2:], uint32(n))
		mac[0] = 2
		g.SeeHost(Sighting{MAC: mac, Place: Place{1, port}}, now)
	}
	for n := range 200 { // silent from now on
		see(n, Port(2+n%4))
	}
	for n := range 200_000 {
		now = now.Add(50 * time.Microsecond)
		see(1000+n, 1)
	}
	at := map[Port]int{}
	for _, h := range g.Snapshot().Hosts() {
		at[h.Place.Port]++
	}
	require.LessOrEqual(t, at[1], 1024)
	require.Equal(t, map[Port]int{1: at[1], 2: 50, 3: 50, 4: 50, 5: 50}, at)
}
