//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// trafficDoc is what …/stats answers, as far as the tests read it.
type trafficDoc struct {
	Listeners []struct {
		Packets           uint64  `json:"packets"`
		NewConnections    *uint64 `json:"new_connections"`
		QuantisationError float64 `json:"quantisation_error"`
		Members           []struct {
			Address        string   `json:"address"`
			Packets        uint64   `json:"packets"`
			Bytes          uint64   `json:"bytes"`
			NewConnections *uint64  `json:"new_connections"`
			Share          float64  `json:"share"`
			ObservedShare  *float64 `json:"observed_share"`
		} `json:"members"`
	} `json:"listeners"`
	Unread []string `json:"unread"`
}

func (c *controller) traffic(name string) trafficDoc {
	c.t.Helper()
	var st trafficDoc
	require.Equal(c.t, 200, c.rest("GET", "/v1/vips/"+name+"/stats?max_age=200ms", nil, &st))
	require.Empty(c.t, st.Unread)
	return st
}

// TestStats compares the counters of a VIP with the requests that its members served,
// over a ring of switches and over a restart of the controller.
func TestStats(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(secure, 3, 2)
	l.addLink("s1", "s2")
	l.addLink("s2", "s3")
	l.addLink("s3", "s1")
	client, servers := l.hosts[0], l.hosts[1:]
	client.addAddresses(150, 40)
	name := map[string]string{}
	for _, h := range servers {
		h.serveHTTP(8080)
		name[h.addr.String()] = h.name
	}
	c := l.control("managed")
	l.sweep()
	for _, mode := range []string{"nat", "conntrack"} {
		pool := map[string]any{"members": members(8080, servers...)}
		c.must("PUT", "/v1/vips/web", map[string]any{"address": vip.String(), "mode": mode, "listeners": []any{map[string]any{"protocol": "tcp", "port": 80, "pool": pool}}})
		c.serves("web")
		client.requests(service(80), client.sources(20, 11)) // addresses are resolved
		l.settle()
		c.wait("the first requests are counted", func() bool { return *c.traffic("web").Listeners[0].NewConnections >= 20 })
		before := c.traffic("web").Listeners[0]

		const n = 600
		served := client.requests(service(80), client.sources(n, 12)).counts()
		l.settle() // the switch takes the counters of its datapath over
		var now trafficDoc
		c.wait("all requests are counted", func() bool {
			now = c.traffic("web")
			return *now.Listeners[0].NewConnections-*before.NewConnections >= n
		})
		l := now.Listeners[0]
		require.InDelta(t, n, *l.NewConnections-*before.NewConnections, n/50, "SYNs that are sent again count again")
		for i, m := range l.Members {
			share := float64(m.Packets-before.Members[i].Packets) / float64(l.Packets-before.Packets)
			t.Logf("mode %s, %s: %d requests, %d packets (%.3f of them), %d connections by its slots", mode, name[m.Address], served[name[m.Address]],
				m.Packets-before.Members[i].Packets, share, *m.NewConnections-*before.Members[i].NewConnections)
			require.InDelta(t, float64(served[name[m.Address]])/n, share, 0.02)
			require.InDelta(t, m.Share*n, *m.NewConnections-*before.Members[i].NewConnections, 2)
		}
		require.Less(t, l.QuantisationError, 0.02)

		text := string(c.must("GET", "/metrics", nil))
		require.Contains(t, text, fmt.Sprintf("fairlead_vip_new_connections_total{vip=\"web\"} %d\n", *l.NewConnections))
		require.Equal(t, len(servers), strings.Count(text, "\nfairlead_member_packets_total{"))

		c.kill()
		c.start()
		c.serves("web")
		c.wait("what the switches have counted is taken over", func() bool {
			after := c.traffic("web").Listeners[0]
			return after.Packets >= l.Packets && *after.NewConnections >= *l.NewConnections
		})
		c.must("DELETE", "/v1/vips/web?wait=10s", nil)
	}
}
