//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// addBridge adds a legacy switch: a Linux bridge that learns, without spanning tree.
func (l *lab) addBridge(name string) {
	l.t.Helper()
	run(l.t, "ip", "-n", l.ns.name, "link", "add", name, "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
	run(l.t, "ip", "-n", l.ns.name, "link", "set", name, "up")
}

// bridgeTo plugs a switch into a bridge.
func (l *lab) bridgeTo(bridge, sw string) link {
	l.t.Helper()
	n := l.ports[sw] + 1
	k := link{bridge, fmt.Sprintf("%s%d", sw, n)}
	run(l.t, "ip", "-n", l.ns.name, "link", "add", k.near(), "type", "veth", "peer", "name", k.far())
	run(l.t, "ip", "-n", l.ns.name, "link", "set", k.near(), "master", bridge, "up")
	l.plug(sw, k.far())
	return k
}

// addLegacyHost adds a host behind a bridge, named and numbered as all others.
func (l *lab) addLegacyHost(bridge string) *host {
	l.t.Helper()
	n := len(l.hosts) + 1
	h := &host{t: l.t, lab: l, name: fmt.Sprintf("h%d", n), addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), mac: fmt.Sprintf("02:00:00:00:00:%02x", n), at: bridge}
	h.namespace = newNamespace(l.t, h.name)
	run(l.t, "ip", "-n", l.ns.name, "link", "add", h.name, "type", "veth", "peer", "name", "eth0", "address", h.mac, "netns", h.namespace.name)
	h.run(l.t, "ethtool", "-K", "eth0", "tx", "off")
	h.addAddress(h.addr)
	run(l.t, "ip", "-n", h.namespace.name, "link", "set", "eth0", "up")
	run(l.t, "ip", "-n", l.ns.name, "link", "set", h.name, "master", bridge, "up")
	l.hosts = append(l.hosts, h)
	h.serveEcho(7)
	return h
}

// segments are the legacy segments as the controller sees them: how many ports each has
// of every role.
func (c *controller) segments() (list []map[string]int) {
	var page struct {
		Items []struct {
			Ports []struct {
				Role string `json:"role"`
			} `json:"ports"`
		} `json:"items"`
	}
	if c.rest("GET", "/v1/segments", nil, &page) != 200 {
		return nil
	}
	for _, s := range page.Items {
		roles := map[string]int{}
		for _, p := range s.Ports {
			roles[p.Role]++
		}
		list = append(list, roles)
	}
	return list
}

// once requires that every broadcast arrives once at every other host.
func (l *lab) once(t *testing.T) {
	t.Helper()
	for _, from := range l.hosts {
		for name, counts := range l.broadcast(from, 20) {
			if name == from.name {
				continue
			}
			for n, count := range counts {
				require.Equal(t, 1, count, "broadcast %d of %s at %s", n, from.name, name)
			}
		}
	}
}

// TestT12CableAndBridgeSideBySide joins two managed switches by a cable and by a legacy
// bridge, then plugs the bridge in once more while broadcasts are under way.
func TestT12CableAndBridgeSideBySide(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(secure, 2, 2)
	l.addLink("s1", "s2")
	l.addBridge("old")
	l.bridgeTo("old", "s1")
	l.bridgeTo("old", "s2")
	legacy := l.addLegacyHost("old")
	for _, h := range l.hosts[:4] {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.wait("the segment is found", func() bool {
		s := c.segments()
		return len(s) == 1 && s[0]["designated"] == 1 && s[0]["blocked"] == 1
	})
	var links struct {
		Items []struct {
			State string `json:"state"`
		} `json:"items"`
	}
	require.Equal(t, 200, c.rest("GET", "/v1/links", nil, &links))
	require.Len(t, links.Items, 1, "no link is inferred across the bridge")
	l.sweep()
	l.once(t)
	c.put("web", web(members(8080, l.hosts[:4]...)))
	p := legacy.requests(service(80), legacy.sources(100, 1))
	require.Len(t, p.counts(), 4, "the legacy client is balanced")

	// A third cable into the bridge: a circle for as long as nobody looks.
	stop, done := make(chan struct{}), make(chan int, 1)
	go func() {
		n := 0
		for {
			select {
			case <-stop:
				done <- n
				return
			case <-time.After(5 * time.Millisecond):
				_, _ = l.hosts[0].datagram(netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.250:7")) // nobody: ARP goes to all
				n++
			}
		}
	}()
	l.bridgeTo("old", "s2")
	c.wait("the new port is blocked", func() bool {
		s := c.segments()
		return len(s) == 1 && s[0]["designated"] == 1 && s[0]["blocked"] == 2
	})
	close(stop)
	<-done
	l.once(t)

	// The controller restarts: the circle stays open.
	c.stop()
	l.once(t)
	c.start()
	l.once(t)
	p = legacy.requests(service(80), legacy.sources(100, 2))
	require.Len(t, p.counts(), 4)
}

// TestT17HubOfThree has three managed switches with nothing between them but one legacy
// bridge that passes on all, LLDP too. One leaves, and comes back.
func TestT17HubOfThree(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(secure, 3, 1)
	l.addBridge("hub")
	run(t, "ip", "-n", l.ns.name, "link", "set", "hub", "type", "bridge", "ageing_time", "0", "group_fwd_mask", "65528")
	for _, sw := range []string{"s1", "s2", "s3"} {
		l.bridgeTo("hub", sw)
	}
	l.addLegacyHost("hub")
	c := l.control("managed")
	c.wait("the segment is found", func() bool { s := c.segments(); return len(s) == 1 && s[0]["designated"] == 3 })
	l.sweep()
	l.once(t)
	for _, a := range l.hosts {
		for _, b := range l.hosts {
			require.True(t, a == b || a.reaches(b.addr), "%s to %s", a.name, b.name)
		}
	}
	run(t, "ip", "-n", l.ns.name, "link", "set", l.hubPort("s3"), "down")
	c.wait("one has left", func() bool { s := c.segments(); return len(s) == 1 && s[0]["designated"] == 2 })
	require.True(t, l.hosts[0].reaches(l.hosts[1].addr))
	begin := time.Now()
	run(t, "ip", "-n", l.ns.name, "link", "set", l.hubPort("s3"), "up")
	eventually(t, 10*time.Second, "its host is reached", func() bool { return l.hosts[0].reaches(l.hosts[2].addr) })
	t.Logf("reached %v after the cable was back", time.Since(begin).Round(time.Millisecond))
	c.wait("it is back", func() bool { s := c.segments(); return len(s) == 1 && s[0]["designated"] == 3 })
	c.wait("broadcasts reach it", func() bool { return l.broadcast(l.hosts[0], 1)["h3"][0] == 1 })
	l.once(t)
}

// hubPort is the hub's end of a switch's cable, the switch having one host.
func (l *lab) hubPort(sw string) string { return link{"hub", sw + "2"}.near() }

// patch plugs two bridges into each other; the cable is named a-b.
func (l *lab) patch(a, b string) link {
	l.t.Helper()
	k := link{a, b}
	run(l.t, "ip", "-n", l.ns.name, "link", "add", k.near(), "type", "veth", "peer", "name", k.far())
	for device, bridge := range map[string]string{k.near(): a, k.far(): b} {
		run(l.t, "ip", "-n", l.ns.name, "link", "set", device, "master", bridge, "up")
		l.keepMulticast(device)
	}
	return k
}

// keepMulticast has a bridge not pass on multicast that nobody has asked for out of a port.
func (l *lab) keepMulticast(device string) {
	l.t.Helper()
	run(l.t, "ip", "-n", l.ns.name, "link", "set", "dev", device, "type", "bridge_slave", "mcast_flood", "off")
}

// TestLoopsAreBlocked closes circles at run time between bridges that pass on broadcasts and
// no multicast, at ports that have been up all the time: between two switches, and at one.
func TestLoopsAreBlocked(t *testing.T) {
	l := newLab(t)
	l.addSwitches(secure, 2, 1)
	l.addLink("s1", "s2")
	for bridge, sw := range map[string]string{"ba": "s1", "bb": "s2", "bc": "s1"} {
		l.addBridge(bridge)
		l.keepMulticast(l.bridgeTo(bridge, sw).near())
	}
	c := l.control("managed")
	blocked := func() (n int) {
		for _, s := range c.segments() {
			n += s["blocked"]
		}
		return n
	}
	l.sweep()
	l.once(t)
	for _, ends := range [][2]string{{"ba", "bb"}, {"ba", "bc"}} {
		k := l.patch(ends[0], ends[1])
		begin := time.Now()
		eventually(t, 10*time.Second, "the circle is open", func() bool {
			counts := l.broadcast(l.hosts[0], 1)
			return blocked() == 1 && counts["h2"][0] == 1
		})
		took := time.Since(begin)
		t.Logf("%v: open after %v", ends, took.Round(time.Millisecond))
		require.LessOrEqual(t, took, time.Duration(scale(5, 2))*time.Second)
		l.once(t)
		run(t, "ip", "-n", l.ns.name, "link", "del", k.near())
		c.wait("nothing is blocked", func() bool { return blocked() == 0 })
		c.wait("broadcasts arrive once", func() bool { return l.broadcast(l.hosts[0], 1)["h2"][0] == 1 })
	}
}

// TestT18SwappedDatapathIDs exchanges the datapath ids of two bridges, under requests to a
// VIP of a third. Both are reported until they are put right, and the third is left alone.
func TestT18SwappedDatapathIDs(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(secure, 3, 3)
	l.addLink("s1", "s2")
	client, servers := l.hosts[6], l.hosts[7:]
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.put("web", web(members(8080, servers...)))
	c.serves("web")
	// What is written to an entry makes it young.
	ages := func() map[string]float64 {
		all := map[string]float64{}
		for _, kind := range []string{"dump-flows", "dump-group-stats"} {
			for line := range strings.Lines(l.ovs.Ofctl("-O", "OpenFlow13", kind, l.ovs.Target("s3"))) {
				name, rest, ok := strings.Cut(line, "duration=")
				if !ok {
					continue
				}
				age, rest, _ := strings.Cut(rest, "s,")
				seconds, err := strconv.ParseFloat(age, 64)
				require.NoError(t, err, line)
				_, match, _ := strings.Cut(rest, "priority=")
				all[name+match] = seconds
			}
		}
		return all
	}
	reach := func() bool { return l.hosts[0].reaches(l.hosts[3].addr) }
	c.wait("hosts are reached", func() bool {
		return reach() && client.reaches(servers[0].addr) && client.reaches(servers[1].addr) && servers[0].reaches(servers[1].addr)
	})
	c.wait("the third knows its hosts, and is at rest", func() bool {
		for _, h := range servers {
			client.reaches(h.addr)
		}
		now := ages()
		entries := strings.Join(slices.Collect(maps.Keys(now)), "")
		return slices.Min(slices.Collect(maps.Values(now))) > 1 && !slices.ContainsFunc(l.hosts[6:], func(h *host) bool {
			return !strings.Contains(entries, "dl_dst="+h.mac)
		})
	})
	exchange := func(one, two int) {
		l.ovs.Vsctl("--", "set", "bridge", "s1", fmt.Sprintf("other-config:datapath-id=%016x", one),
			"--", "set", "bridge", "s2", fmt.Sprintf("other-config:datapath-id=%016x", two))
	}
	before, begin := ages(), time.Now()
	require.Greater(t, len(before), 20)
	stop, done := make(chan struct{}), make(chan [2]int)
	go func() {
		n := [2]int{} // requests, and those that broke
		for {
			select {
			case <-stop:
				done <- n
				return
			default:
			}
			n[0]++
			if _, err := client.request(netip.AddrPort{}, service(80)); err != nil {
				n[1]++
			}
		}
	}()
	suspect := func(dpid int) string {
		var sw struct {
			Faults []struct{ Object, Reason string }
		}
		require.Less(t, c.rest("GET", fmt.Sprintf("/v1/switches/%016x", dpid), nil, &sw), 300)
		for _, f := range sw.Faults {
			if f.Object == "ports" {
				return f.Reason
			}
		}
		return ""
	}
	exchange(2, 1)
	c.wait("both are reported", func() bool {
		return strings.Contains(suspect(1), "0000000000000002 had") && strings.Contains(suspect(2), "0000000000000001 had")
	})
	t.Logf("both are reported after %v: %s", time.Since(begin).Round(time.Millisecond), suspect(1))
	require.Empty(t, suspect(3))
	l.settle()
	exchange(1, 2)
	c.wait("it is put right", func() bool { return suspect(1) == "" && suspect(2) == "" && reach() })
	t.Logf("put right after %v", time.Since(begin).Round(time.Millisecond))
	close(stop)
	n := <-done
	t.Logf("%d requests to the VIP of the third meanwhile, %d broken", n[0], n[1])
	require.Zero(t, n[1])
	after := ages()
	for what, age := range before {
		now, there := after[what]
		require.True(t, there && now > age, "%s is %v s old, and was %v", what, now, age)
	}
	for what := range after {
		require.Contains(t, before, what)
	}
}

// TestT18NarrowLink makes the MTU of a cable, and then of one port of a bridge, smaller on one
// side: each is told within two intervals of discovery and taken back when it is put right,
// and a VIP is served by way of both all along.
func TestT18NarrowLink(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(secure, 3, 1)
	l.addLink("s1", "s2")
	l.addBridge("old")
	l.bridgeTo("old", "s2")
	port := l.bridgeTo("old", "s3")
	l.hosts[1].serveHTTP(8080)
	l.hosts[2].serveHTTP(8080)
	c := l.control("managed")
	c.wait("the segment is found", func() bool { s := c.segments(); return len(s) == 1 && s[0]["designated"] == 2 })
	l.sweep()
	c.put("web", web(members(8080, l.hosts[1], l.hosts[2])))
	c.serves("web")
	require.Empty(t, c.faults())
	c.narrow = true
	for round, narrow := range []string{l.links[0].near(), port.far()} {
		run(t, "ip", "-n", l.ns.name, "link", "set", narrow, "mtu", "1400")
		begin := time.Now()
		c.wait("it is told", func() bool { return len(c.faults()) > 0 })
		require.LessOrEqual(t, time.Since(begin), 10*time.Second)
		t.Logf("%s: told after %v: %v", narrow, time.Since(begin).Round(100*time.Millisecond), c.faults())
		require.Contains(t, c.succeeds("topology"), "frames with 1500 bytes from")
		p := l.hosts[0].requests(service(80), l.hosts[0].sources(40, uint64(1+round)))
		require.Len(t, p.counts(), 2)
		run(t, "ip", "-n", l.ns.name, "link", "set", narrow, "mtu", "1500")
		begin = time.Now()
		c.wait("it is well again", func() bool { return len(c.faults()) == 0 })
		t.Logf("%s: well after %v", narrow, time.Since(begin).Round(100*time.Millisecond))
	}
	log, err := os.ReadFile(c.log)
	require.NoError(t, err)
	require.Equal(t, 4, strings.Count(string(log), "ALARM: small frames pass from one switch to another, whole ones do not"), "each way once")
}

// faults are what is wrong with links and ports of segments.
func (c *controller) faults() (list []string) {
	var graph struct {
		Links []struct {
			Fault string `json:"fault"`
		} `json:"links"`
		Segments []struct {
			Ports []struct {
				Fault string `json:"fault"`
			} `json:"ports"`
		} `json:"segments"`
	}
	require.Equal(c.t, 200, c.rest("GET", "/v1/topology", nil, &graph))
	for _, l := range graph.Links {
		list = append(list, l.Fault)
	}
	for _, s := range graph.Segments {
		for _, p := range s.Ports {
			list = append(list, p.Fault)
		}
	}
	return slices.DeleteFunc(list, func(text string) bool { return text == "" })
}
