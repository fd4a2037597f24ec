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

	"github.com/fairlead/fairlead/ofproto/packet"
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

// TestOVSMemberIsNotStolen has hosts at other ports, of the same switch and of another, send
// what a member would send that is given by its interface, under requests to it: it stays
// where the database says.
func TestOVSMemberIsNotStolen(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"steer", "managed"} {
		t.Run(stage, func(t *testing.T) {
			l := bareLab(t, 3)
			l.addSwitch("s2", standalone)
			l.addLink("s1", "s2")
			client, vm, thieves := l.host("h1"), l.host("h2"), []*host{l.host("h3"), l.addHost("s2")}
			l.sweep()
			vm.serveHTTP(8080)
			c := l.serving("observe")
			c.succeeds("ovs", "adopt", l.db(), "--all", "--stage", stage)
			l.ovs.Vsctl("set", "interface", vm.name, "external_ids:iface-id=vm-1", "external_ids:attached-mac="+vm.mac, "external_ids:ip_addresses="+vm.addr.String()+"/24")
			doc := map[string]any{"address": vip.String(), "listeners": []any{map[string]any{"protocol": "tcp", "port": 80, "pool": map[string]any{
				"members": []any{map[string]any{"interface": "vm-1", "port": 8080}}}}}}
			c.wait("the interface is known", func() bool { return c.status("PUT", "/v1/vips/web", doc) < 300 })
			c.wait("the VIP serves", func() bool { _, err := client.request(netip.AddrPort{}, service(80)); return err == nil })
			place := func() (at [2]any) {
				var m struct {
					Status struct {
						Switch string
						Port   int
					}
				}
				require.Equal(t, http.StatusOK, c.rest("GET", memberPath("web", "tcp:80", vm.member(8080)), nil, &m))
				return [2]any{m.Status.Switch, m.Status.Port}
			}
			home := place()
			require.Equal(t, [2]any{l.dpid(), 2}, home)
			voice := client.sniff(t, "eth0")
			for _, thief := range thieves {
				var stolen, seen atomic.Int64
				wire := thief.sniff(t, "eth0")
				go func() {
					for b := make([]byte, 2048); ; {
						n, err := wire.Read(b)
						if err != nil {
							return
						}
						seen.Add(1)
						if f, err := packet.Decode(b[:n]); err == nil && f.Ethernet().Dst == vm.hardware() && f.Proto() == packet.ProtoTCP {
							stolen.Add(1)
						}
					}
				}()
				own, mac, to := thief.hardware(), vm.hardware(), client.hardware()
				claims := [][]byte{
					packet.AppendARPRequest(nil, mac, vm.addr, vm.addr),       // it announces itself
					packet.AppendARPReply(nil, mac, vm.addr, to, client.addr), // it answers
					packet.AppendARPRequest(nil, own, vm.addr, vm.addr),       // its address is the thief's
					packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: mac, DstMAC: to, Src: netip.AddrPortFrom(vm.addr, 8080), Dst: netip.AddrPortFrom(client.addr, 9)}, nil),
				}
				before := seen.Load()
				for i := range 200 {
					_, err := wire.Write(claims[i%len(claims)])
					require.NoError(t, err)
					_, err = client.request(netip.AddrPort{}, service(80))
					require.NoError(t, err, "request %d, thief at %s", i, thief.at)
				}
				eventually(t, 10*time.Second, "its wire is listened to", func() bool {
					_, err := voice.Write(packet.AppendARPRequest(nil, to, client.addr, thief.addr))
					require.NoError(t, err)
					return seen.Load() > before
				})
				require.Zero(t, stolen.Load(), "frames for the member at %s of %s", thief.name, thief.at)
				require.Equal(t, home, place())
				t.Logf("200 claims of %s on %s: 0 frames stolen, 0 of 200 requests broken", thief.name, thief.at)
			}
		})
	}
}
