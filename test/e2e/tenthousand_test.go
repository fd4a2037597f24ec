//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTenThousandVIPs has 10,000 VIPs of three members (an ordinary run: 1,000) on one
// switch, of which 100 change a member each second. Meanwhile one more member is changed
// again and again, and each time it is measured how long it takes until the switch has
// acknowledged that.
func TestTenThousandVIPs(t *testing.T) {
	vips := scale(1000, 10_000)
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(10000)
	}
	c := l.control("managed")
	l.sweep()
	memory := func(when string) {
		t.Logf("%s: fairlead %d MiB, ovs-vswitchd %d MiB", when, c.usage().rss>>10, rss(t, l.ovs.PID())>>20)
	}
	memory("without VIPs")

	name := func(i int) string { return fmt.Sprintf("vip-%d", i) }
	path := func(i, m int) string {
		return memberPath(name(i), "tcp:80", servers[m].member(uint16(10000+i)))
	}
	began := time.Now()
	var next, failed atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < vips; i = int(next.Add(1)) - 1 {
				doc := web(members(uint16(10000+i), servers...))
				if i > 0 {
					doc.Address = fmt.Sprintf("10.1.%d.%d", i>>8, i&255)
				}
				if c.status("PUT", "/v1/vips/"+name(i), doc) != http.StatusCreated {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, failed.Load())
	written := time.Since(began)
	for i := vips - 1; i >= 0; i -= max(vips/20, 1) {
		c.installed(name(i))
	}
	c.installed(name(0))
	c.quiet()
	t.Logf("%d VIPs written in %s, in the switch %s later", vips, written.Round(time.Millisecond), (time.Since(began) - written).Round(time.Millisecond))
	memory(fmt.Sprintf("%d VIPs × 3 members", vips))
	require.Len(t, client.requests(service(80), client.sources(100, 1)).counts(), 3)

	// 100 others change each second.
	ctx, stop := context.WithCancel(t.Context())
	var changes atomic.Int64
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-time.After(80 * time.Millisecond):
				}
				i := 1 + rand.IntN(vips-1)
				m := servers[rand.IntN(3)]
				doc := m.member(uint16(10000 + i))
				if c.status("PUT", memberPath(name(i), "tcp:80", doc), fields{"address": doc.Address, "port": doc.Port, "weight": 1 + rand.IntN(2)}) == http.StatusOK {
					changes.Add(1)
				}
			}
		})
	}
	var took []time.Duration
	start := time.Now()
	for n := range scale(100, 500) {
		doc := servers[n%3].member(10000)
		before := time.Now()
		require.Equal(t, http.StatusOK, c.status("PUT", path(0, n%3)+"?wait=5s", fields{"address": doc.Address, "port": doc.Port, "weight": 1 + n/3%2}))
		took = append(took, time.Since(before))
		time.Sleep(20 * time.Millisecond)
	}
	rate := float64(changes.Load()) / time.Since(start).Seconds()
	stop()
	wg.Wait()
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	t.Logf("one member's change of %d VIPs, %.0f others a second: from the request to the switch's acknowledgement median %s, p90 %s, p99 %s, worst %s",
		vips, rate, at(0.5), at(0.9), at(0.99), at(1))
	memory("after the changes")
	require.Greater(t, rate, 50.0)
	// The p99 of an idle machine; a loaded one is held to its median.
	require.LessOrEqual(t, at(0.5), 50*time.Millisecond)
}
