//go:build e2e

package e2e

import (
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestOVSMembersByInterface has a member that answers no ARP found by the interface that
// it is attached to, and followed under traffic: to another OpenFlow number, to another
// bridge, and when its interface has no id any more.
func TestOVSMembersByInterface(t *testing.T) {
	for _, stage := range []string{"steer", "managed"} {
		t.Run(stage, func(t *testing.T) { testMembersByInterface(t, stage) })
	}
}

func testMembersByInterface(t *testing.T, stage string) {
	l := bareLab(t, 3)
	l.addSwitch("s2", standalone)
	l.addLink("s1", "s2")
	l.sweep()
	client, vm, other := l.host("h1"), l.host("h2"), l.host("h3")
	for _, h := range []*host{vm, other} {
		h.serveHTTP(8080)
	}
	c := l.serving("observe")
	c.succeeds("ovs", "adopt", l.db(), "--all", "--stage", stage)
	// The member says nothing by itself: no ARP finds it.
	client.run(t, "ip", "neigh", "flush", "dev", "eth0")
	vm.run(t, "ip", "neigh", "replace", client.addr.String(), "lladdr", client.mac, "dev", "eth0", "nud", "permanent")
	vm.sysctl(t, "net/ipv4/conf/all/arp_ignore", "8")
	l.ovs.Vsctl("set", "interface", vm.name, "external_ids:iface-id=vm-1", "external_ids:attached-mac="+vm.mac, "external_ids:ip_addresses="+vm.addr.String()+"/24")

	doc := map[string]any{"address": vip.String(), "listeners": []any{map[string]any{"protocol": "tcp", "port": 80, "pool": map[string]any{
		"members": []any{map[string]any{"interface": "vm-1", "port": 8080}}}}}}
	c.wait("the interface is known", func() bool { return c.status("PUT", "/v1/vips/web", doc) < 300 })
	c.succeeds("member", "add", "web", "tcp:80", other.addr.String()+":8080")
	require.Contains(t, c.succeeds("vip", "get", "web"), "vm-1")
	type status struct {
		Health, Switch, Reason string
		Port, Slots            int
	}
	member := func() (s status) {
		var m struct {
			Address, Interface string
			Status             status
		}
		require.Equal(t, http.StatusOK, c.rest("GET", memberPath("web", "tcp:80", vm.member(8080)), nil, &m))
		require.Equal(t, "vm-1", m.Interface)
		return m.Status
	}
	dst := netip.AddrPortFrom(vip, 80)
	var sent, broken, byVM atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			sent.Add(1)
			who, err := client.request(netip.AddrPort{}, dst)
			if err != nil {
				broken.Add(1)
			} else if strings.Contains(who, vm.name) {
				byVM.Add(1)
			}
		}
	}()
	serves := func(what string, dpid string, port int, change func()) {
		t.Helper()
		b := broken.Load()
		begin := time.Now()
		change()
		changed := time.Since(begin)
		eventually(t, 10*time.Second, what, func() bool {
			s := member()
			return s.Port == port && s.Switch == dpid && s.Slots > 0
		})
		known := time.Since(begin)
		before := byVM.Load()
		eventually(t, 10*time.Second, what+", and serves", func() bool { return byVM.Load() > before+3 })
		t.Logf("%s: OVSDB changed after %v, member placed after %v, it served again within %v; %d requests broken", what,
			changed.Round(time.Millisecond), known.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond), broken.Load()-b)
	}
	at := func(bridge, number string) []string {
		return []string{"--", "add-port", bridge, vm.name, "--", "set", "interface", vm.name, "ofport_request=" + number, "external_ids:iface-id=vm-1",
			"external_ids:attached-mac=" + vm.mac, "external_ids:ip_addresses=" + vm.addr.String()}
	}
	first := l.dpid()
	serves("found", first, 2, func() {})
	serves("another number", first, 77, func() { l.ovs.Vsctl("set", "interface", vm.name, "ofport_request=77") })
	serves("removed and added again", first, 78, func() {
		l.ovs.DelPort("s1", vm.name)
		eventually(t, 10*time.Second, "the member has no place", func() bool { return member().Slots == 0 })
		require.Equal(t, "no bridge known by OVSDB has an interface with the id vm-1", member().Reason)
		l.ovs.Vsctl(at("s1", "78")[1:]...)
	})
	serves("another bridge", "0000000000000002", 9, func() { l.ovs.Vsctl(append([]string{"del-port", "s1", vm.name}, at("s2", "9")...)...) })
	serves("and back", first, 10, func() { l.ovs.Vsctl(append([]string{"del-port", "s2", vm.name}, at("s1", "10")...)...) })
	l.ovs.Vsctl("remove", "interface", vm.name, "external_ids", "iface-id")
	eventually(t, 10*time.Second, "the member has no place", func() bool { return member().Slots == 0 })
	l.settle()
	b, n, v := broken.Load(), sent.Load(), byVM.Load()
	eventually(t, 10*time.Second, "requests go on", func() bool { return sent.Load() > n+50 })
	require.LessOrEqual(t, broken.Load()-b, int64(1), "one may have been on its way")
	require.LessOrEqual(t, byVM.Load()-v, int64(1))
	close(stop)
	<-done
	t.Logf("%d requests, %d broken, %d served by the member", sent.Load(), broken.Load(), byVM.Load())
	c.succeeds("ovs", "release", l.db(), "--all")
}
