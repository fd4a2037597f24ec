//go:build e2e && soak

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestZ03Drift changes VIPs, links, ports and the switches' channel for minutes
// (FAIRLEAD_SOAK, 10m when it is not set) under traffic, and asks whether the
// controller's memory, goroutines or descriptors grow.
func TestZ03Drift(t *testing.T) {
	long := 10 * time.Minute
	if v := os.Getenv("FAIRLEAD_SOAK"); v != "" {
		var err error
		long, err = time.ParseDuration(v)
		require.NoError(t, err)
	}
	l, c, clients, servers := ringWithService(t)
	random := seeded(t)
	c.put("dns", vipDoc{Address: vip.String(), Listeners: []listenerDoc{listener("udp", 53, members(5353, servers...))}})
	stream := spreadStream(t, clients, func(int) netip.AddrPort { return service(53) })
	type sample struct {
		at       time.Duration
		rss, fds int
	}
	var samples []sample
	begin, rounds := time.Now(), 0
	for time.Since(begin) < long {
		for i := range 10 {
			doc := vipDoc{Address: fmt.Sprintf("10.0.0.%d", 110+i), Listeners: []listenerDoc{listener("tcp", 80, members(uint16(10000+i), servers[:1+random.IntN(len(servers))]...))}}
			require.Contains(t, []int{200, 201}, c.status("PUT", fmt.Sprintf("/v1/vips/vip-%d", i), doc))
		}
		k := l.links[random.IntN(len(l.links))]
		l.cut(k)
		time.Sleep(2 * time.Second) // an outage takes that long
		l.mend(k)
		for i := range 10 {
			if random.IntN(2) == 0 {
				require.Equal(t, 204, c.status("DELETE", fmt.Sprintf("/v1/vips/vip-%d", i), nil))
			}
		}
		c.linked()
		rounds++
		u := c.usage()
		samples = append(samples, sample{time.Since(begin), u.rss, u.fds})
	}
	r := stream.finish()
	// The slope of the second half, by least squares.
	half := samples[len(samples)/2:]
	var n, sx, sy, sxx, sxy float64
	for _, s := range half {
		x, y := s.at.Hours(), float64(s.rss)/1024
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	slope := (n*sxy - sx*sy) / (n*sxx - sx*sx)
	first, last := samples[len(samples)/2], samples[len(samples)-1]
	t.Logf("%d rounds in %v: RSS %d MiB at first, %d at half time, %d at last, slope of the second half %.1f MiB an hour; descriptors %d → %d; %v",
		rounds, time.Since(begin).Round(time.Second), samples[0].rss>>10, first.rss>>10, last.rss>>10, slope, samples[0].fds, last.fds, r)
	require.LessOrEqual(t, last.fds, samples[0].fds+4)
	require.LessOrEqual(t, last.rss, first.rss*5/4)
}
