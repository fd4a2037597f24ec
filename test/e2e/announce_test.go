//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/test/ovstest"
)

// Addresses beside the lab's own network: of a client behind a router, of the session
// between router and controller, and of a VIP that only a route leads to.
const (
	farClient, farRouter = "192.0.2.2", "192.0.2.1"
	bgpRouter, bgpSelf   = "198.51.100.2", "198.51.100.1"
	labRouter            = "10.0.0.254"
	routedVIP            = "203.0.113.10"
	anchorVIP            = "10.0.0.200" // of the lab's network: what the router asks for
)

// routedLab is one switch with members and a FRR router that a client is behind. The
// router hears BGP from the controller, of which the options are returned.
func routedLab(t *testing.T, memberCount int) (l *lab, client, router *namespace, options []string) {
	t.Helper()
	l = singleLab(t, secure, memberCount)
	client, router = newNamespace(t, "far"), newNamespace(t, "router")
	run(t, "ip", "-n", client.name, "link", "add", "eth0", "type", "veth", "peer", "name", "far", "netns", router.name)
	run(t, "ip", "-n", l.ns.name, "link", "add", "router", "type", "veth", "peer", "name", "lab", "netns", router.name)
	run(t, "ip", "-n", l.ns.name, "link", "add", "bgp", "type", "veth", "peer", "name", "bgp", "netns", router.name)
	for _, d := range []struct {
		ns           *namespace
		device, addr string
	}{
		{client, "eth0", farClient + "/24"}, {router, "far", farRouter + "/24"}, {router, "lab", labRouter + "/24"},
		{router, "bgp", bgpRouter + "/30"}, {l.ns, "bgp", bgpSelf + "/30"},
	} {
		run(t, "ip", "-n", d.ns.name, "addr", "add", d.addr, "dev", d.device)
		run(t, "ip", "-n", d.ns.name, "link", "set", d.device, "up")
		d.ns.run(t, "ethtool", "-K", d.device, "tx", "off")
	}
	l.plug("s1", "router")
	router.sysctl(t, "net/ipv4/ip_forward", "1")
	run(t, "ip", "-n", client.name, "route", "add", "default", "via", farRouter)
	for _, h := range l.hosts {
		run(t, "ip", "-n", h.namespace.name, "route", "add", "default", "via", labRouter)
	}
	startFRR(t, router)
	return l, client, router, []string{"--bgp-asn", "64512", "--bgp-router-id", bgpSelf, "--bgp-peer", bgpRouter + "@64513",
		"--bgp-next-hop", anchorVIP, "--bgp-community", "64512:100"}
}

// startFRR runs FRR's routing and BGP daemons in a namespace until the test ends.
func startFRR(t *testing.T, ns *namespace) {
	t.Helper()
	dir, err := os.MkdirTemp("", "frr")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o777))
	config := filepath.Join(dir, "frr.conf")
	require.NoError(t, os.WriteFile(config, []byte(fmt.Sprintf(`router bgp 64513
 bgp router-id %s
 no bgp ebgp-requires-policy
 bgp graceful-restart
 neighbor %s remote-as 64512
 neighbor %s timers connect 1
`, bgpRouter, bgpSelf, bgpSelf)), 0o644))
	start := func(daemon string, args ...string) {
		cmd := exec.Command("ip", append([]string{"netns", "exec", ns.name, "/usr/lib/frr/" + daemon,
			"-i", filepath.Join(dir, daemon+".pid"), "-z", filepath.Join(dir, "zserv"), "--vty_socket", dir, "-P", "0"}, args...)...)
		log, err := os.Create(filepath.Join(dir, daemon+".log"))
		require.NoError(t, err)
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		require.NoError(t, ovstest.StartDaemon(cmd), "apt-get install frr")
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
			if t.Failed() {
				b, _ := os.ReadFile(log.Name())
				t.Logf("%s:\n%s", daemon, b)
			}
		})
	}
	start("zebra", "-f", "/dev/null")
	eventually(t, 10*time.Second, "zebra is up", func() bool { _, err := os.Stat(filepath.Join(dir, "zserv")); return err == nil })
	start("bgpd", "-f", config)
}

// routes are those that a router has by BGP.
func routes(t *testing.T, router *namespace) string {
	t.Helper()
	return run(t, "ip", "-n", router.name, "route", "show", "proto", "bgp")
}

// TestRoutersLearnVIPs has FRR hear of a VIP that no link leads to. Its route comes and
// goes with the members, clients behind the router are balanced, and neither a restart of
// the controller nor a switch without its channel is noticed. It goes with the switch.
func TestRoutersLearnVIPs(t *testing.T) {
	t.Parallel()
	l, client, router, options := routedLab(t, 4)
	for _, h := range l.hosts {
		h.serveHTTP(8080)
	}
	c := l.controlWith("managed", options...)
	c.put("anchor", vipDoc{Address: anchorVIP, Listeners: []listenerDoc{}})
	require.NotContains(t, routes(t, router), routedVIP)

	begin := time.Now()
	// In mode conntrack a change of members breaks no connection.
	doc := func(list ...memberDoc) map[string]any {
		return map[string]any{"address": routedVIP, "mode": "conntrack", "listeners": []listenerDoc{listener("tcp", 80, append([]memberDoc{}, list...))}}
	}
	c.must("PUT", "/v1/vips/web", doc(members(8080, l.hosts[:3]...)...))
	eventually(t, 30*time.Second, "the router has the route", func() bool { return strings.Contains(routes(t, router), routedVIP+" ") })
	t.Logf("route learned %v after the VIP was made", time.Since(begin).Round(time.Millisecond))
	require.Contains(t, routes(t, router), "via "+anchorVIP)
	c.serves("web")

	// Clients behind the router, while members come and go.
	far := &host{namespace: client, t: t, lab: l, name: "far", addr: netip.MustParseAddr(farClient)}
	dst := netip.AddrPortFrom(netip.MustParseAddr(routedVIP), 80)
	var sources []netip.AddrPort
	for i := range 60 {
		sources = append(sources, netip.AddrPortFrom(far.addr, uint16(20000+i)))
	}
	first := far.requests(dst, sources)
	require.Len(t, first.counts(), 3)
	stop, done := make(chan struct{}), make(chan int, 1)
	go func() {
		n, broken := 0, 0
		for ; ; n++ {
			select {
			case <-stop:
				t.Logf("%d requests while members changed, %d broken", n, broken)
				done <- broken
				return
			default:
			}
			if _, err := far.request(netip.AddrPort{}, dst); err != nil {
				broken++
			}
		}
	}()
	for range 3 {
		c.must("PUT", memberPath("web", "tcp:80", l.hosts[3].member(8080)), l.hosts[3].member(8080))
		c.serves("web")
		drained := map[string]any{"admin_state": "drain"}
		c.must("PUT", memberPath("web", "tcp:80", l.hosts[3].member(8080)), drained)
		c.serves("web")
	}
	close(stop)
	require.Zero(t, <-done, "requests that broke")

	// The route outlives the controller, and its restart.
	monitor := exec.Command("ip", "-n", router.name, "monitor", "route")
	var changes strings.Builder
	monitor.Stdout = &changes
	require.NoError(t, monitor.Start())
	c.stop()
	require.Contains(t, routes(t, router), routedVIP)
	require.Empty(t, first.moved(far.requests(dst, sources)))
	c.start()
	eventually(t, 30*time.Second, "the session is back", func() bool {
		return strings.Contains(router.run(t, "ss", "-tnH", "state", "established", "sport", "=", ":179"), bgpSelf)
	})
	require.Empty(t, first.moved(far.requests(dst, sources)))
	c.serves("web")
	require.Contains(t, routes(t, router), routedVIP)

	// And the channel of the only switch, which forwards on.
	connected := func() bool {
		var sw struct {
			Connection struct {
				State string `json:"state"`
			} `json:"connection"`
		}
		require.Equal(t, 200, c.rest("GET", "/v1/switches/0000000000000001", nil, &sw))
		return sw.Connection.State == "connected"
	}
	l.tap.sever(true)
	eventually(t, 10*time.Second, "the channel is gone", func() bool { return !connected() })
	for away := time.Now(); time.Since(away) < 3*time.Second; {
		require.Empty(t, first.moved(far.requests(dst, sources)))
	}
	l.tap.sever(false)
	eventually(t, 30*time.Second, "the channel is back", connected)
	c.serves("web")
	require.Empty(t, first.moved(far.requests(dst, sources)))
	_ = monitor.Process.Kill()
	_ = monitor.Wait()
	require.NotContains(t, changes.String(), "Deleted "+routedVIP, "changes of routes over the restart and without the channel")

	// A switch that nobody can ask is believed to forward for half a minute.
	begin = time.Now()
	l.ovs.StopVswitchd()
	eventually(t, 60*time.Second, "the route goes with the switch", func() bool { return !strings.Contains(routes(t, router), routedVIP) })
	t.Logf("route gone %v after the switch", time.Since(begin).Round(time.Millisecond))
	l.ovs.StartVswitchd()
	eventually(t, 60*time.Second, "the route is back with the switch", func() bool { return strings.Contains(routes(t, router), routedVIP) })

	// Without a member the route goes.
	begin = time.Now()
	c.must("PUT", "/v1/vips/web", doc())
	eventually(t, 20*time.Second, "the route is gone", func() bool { return !strings.Contains(routes(t, router), routedVIP) })
	t.Logf("route gone %v after the last member", time.Since(begin).Round(time.Millisecond))
}

// TestRoutersFollowMonitors has monitors say when a VIP is healthy: FRR has its route
// within two seconds of the first member up, and has none two seconds after the last one
// down.
func TestRoutersFollowMonitors(t *testing.T) {
	l, client, router, options := routedLab(t, 3)
	c := l.controlWith("managed", options...)
	c.put("anchor", vipDoc{Address: anchorVIP, Listeners: []listenerDoc{}})
	c.must("PUT", "/v1/vips/web", map[string]any{"address": routedVIP, "mode": "conntrack", "listeners": []any{map[string]any{
		"protocol": "tcp", "port": 80, "pool": map[string]any{
			"members": members(8080, l.hosts...),
			"monitor": map[string]any{"type": "http", "interval": "200ms", "timeout": "150ms", "path": "/", "rise": 2, "fall": 2},
		}}}})
	far := &host{namespace: client, t: t, lab: l, name: "far", addr: netip.MustParseAddr(farClient)}
	dst := netip.AddrPortFrom(netip.MustParseAddr(routedVIP), 80)
	// healthy says how many members are up, as the events of monitors count them.
	healthy := func() (n int) {
		var v vipState
		require.Equal(t, 200, c.rest("GET", "/v1/vips/web", nil, &v))
		for _, m := range v.Listeners[0].Pool.Members {
			if m.Status.Health == "up" {
				n++
			}
		}
		return n
	}
	has := func() bool { return strings.Contains(routes(t, router), routedVIP+" ") }
	within := func(what string, known, followed func() bool) {
		t.Helper()
		eventually(t, 20*time.Second, what, func() bool { return known() || followed() })
		begin := time.Now()
		eventually(t, 20*time.Second, what+" and the router follows", followed)
		took := time.Since(begin)
		t.Logf("%s: the router followed within %v", what, took.Round(time.Millisecond))
		require.Less(t, took, 2*time.Second, what)
	}
	established := func() bool {
		return strings.Contains(router.run(t, "ss", "-tnH", "state", "established", "sport", "=", ":179"), bgpSelf)
	}
	eventually(t, 30*time.Second, "there is a session", established)
	eventually(t, 20*time.Second, "all members are known to be down", func() bool { return healthy() == 0 && c.installed("web").Status.Operating == "offline" })
	require.False(t, has(), "no member is healthy")

	servers := make([]*http.Server, len(l.hosts))
	for i, h := range l.hosts {
		ln, err := h.listen(h.wildcard(8080))
		require.NoError(t, err)
		servers[i] = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, h.name) })}
		go func() { _ = servers[i].Serve(ln) }()
		t.Cleanup(func() { _ = servers[i].Close() })
		if i == 0 {
			within("the first member is up", func() bool { return healthy() > 0 }, has)
		}
	}
	eventually(t, 20*time.Second, "all members are up", func() bool { return healthy() == len(l.hosts) })
	c.serves("web")
	// Clients behind the router, while members drain, go and come, and monitors run.
	stop, done := make(chan struct{}), make(chan error, 1)
	sent := 0
	go func() {
		for {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := far.request(netip.AddrPort{}, dst); err != nil {
				done <- err
				return
			}
			sent++
		}
	}()
	last := l.hosts[2].member(8080)
	for _, state := range []string{"drain", "up", "drain"} {
		c.must("PUT", memberPath("web", "tcp:80", last), map[string]any{"admin_state": state})
		c.serves("web")
	}
	c.must("DELETE", memberPath("web", "tcp:80", last), nil)
	c.serves("web")
	c.must("PUT", memberPath("web", "tcp:80", last), map[string]any{})
	eventually(t, 20*time.Second, "all members are up", func() bool { return healthy() == len(l.hosts) })
	close(stop)
	require.NoError(t, <-done, "a request while members changed")
	t.Logf("%d requests from behind the router while members changed, 0 broken", sent)

	for i := len(servers) - 1; i >= 0; i-- {
		_ = servers[i].Close()
		if i > 0 {
			eventually(t, 20*time.Second, "the monitor has noticed", func() bool { return healthy() == i })
			require.True(t, has(), "others serve")
		}
	}
	within("the last member is down", func() bool { return healthy() == 0 }, func() bool { return !has() })
}
