//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestU15MistakenStore starts the controller with a store that is not the one the
// switch was programmed from, then with an old copy of the right one: nothing may
// be written, and the VIP serves on, until an operator confirms.
func TestU15MistakenStore(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(8080)
		h.serveEcho(5353)
	}
	c := l.control("managed")
	l.sweep()
	c.put("web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
		listener("tcp", 80, members(8080, servers...)), listener("udp", 53, members(5353, servers...)),
	}})
	stream := client.udpStream(service(53))
	stream.flows(t, 200)
	c.quiet()
	c.stop()
	right, old := c.data, c.data+".old"
	out, err := exec.Command("cp", "-a", right, old).CombinedOutput()
	require.NoError(t, err, "%s", out)
	c.start() // takes a term that the old copy does not know
	c.quiet()
	c.stop()

	held := func() {
		t.Helper()
		before := l.tap.mods()
		c.launch()
		c.wait("the switch is held", func() bool { return c.status("GET", "/readyz", nil) == http.StatusServiceUnavailable })
		c.quiet()
		require.Equal(t, before, l.tap.mods(), "messages that change the switch")
		require.Len(t, client.requests(service(80), client.sources(50, 1)).counts(), 3)
	}
	c.data = right + ".empty"
	held()
	c.stop()

	c.data = old
	held()
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())

	c.must("POST", "/v1/switches/"+l.switches()[0]+"/confirm", nil)
	c.ready()
	c.stop()

	// Another store, confirmed: what it does not want goes.
	require.NoError(t, os.RemoveAll(right+".empty"))
	c.data = right + ".empty"
	held()
	c.must("POST", "/v1/switches/"+l.switches()[0]+"/confirm", nil)
	c.ready()
	c.wait("the groups of the other store are gone", func() bool { return len(l.ovs.DumpGroups("s1")) <= 1 })
}
