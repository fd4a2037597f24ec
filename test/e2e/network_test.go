//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// requireOneCopy broadcasts from a host and asks that every other host receives
// each broadcast exactly once.
func requireOneCopy(l *lab, from *host) {
	l.t.Helper()
	// A port that has just come up gets broadcasts after a second, when it is known that no switch is behind it.
	eventually(l.t, 10*time.Second, "a broadcast of "+from.name+" reaches all", func() bool {
		for name, copies := range l.broadcast(from, 1) {
			require.LessOrEqual(l.t, copies[0], 1, "copies of a broadcast of %s at %s", from.name, name)
			if copies[0] == 0 {
				return false
			}
		}
		return true
	})
	for name, copies := range l.broadcast(from, 100) {
		for i, n := range copies {
			require.Equal(l.t, 1, n, "copies of broadcast %d of %s at %s", i, from.name, name)
		}
	}
}

// linkCount is the number of links that the controller knows.
func (c *controller) linkCount() int {
	c.t.Helper()
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	c.rest("GET", "/v1/links", nil, &list)
	return len(list.Items)
}

// linked waits until the controller knows every link of the lab, in either way
// of counting them (a cable once, or each of its directions).
func (c *controller) linked() int {
	c.t.Helper()
	n := 0
	c.wait("all links are found", func() bool {
		n = c.linkCount()
		return n == len(c.lab.links) || n == 2*len(c.lab.links)
	})
	return n
}

// ringWithService is a ring of four, a client and a member on each switch.
func ringWithService(t *testing.T) (l *lab, c *controller, clients, servers []*host) {
	t.Helper()
	l = ringLab(t, secure, 2)
	for i, h := range l.hosts {
		if i%2 == 0 {
			clients = append(clients, h)
			continue
		}
		servers = append(servers, h)
		h.serveHTTP(8080)
		h.serveEcho(5353)
		h.serveLines(9009)
	}
	c = l.control("managed")
	c.linked()
	l.sweep()
	return l, c, clients, servers
}

func TestRingServesFromEverySwitch(t *testing.T) {
	t.Parallel()
	l, c, clients, servers := ringWithService(t)
	c.put("web", web(members(8080, servers...)))
	for _, h := range clients {
		counts := h.requests(service(80), h.sources(200, 1)).counts()
		t.Logf("%s on %s: %v", h.name, h.at, counts)
		require.Len(t, counts, 4)
	}

	// The same 5-tuples from each ingress: one host, plugged into one switch after the other.
	roamer := l.addHost("s1")
	roamer.addAddresses(150, 10)
	sources := roamer.sources(400, 6)
	var first placement
	for _, sw := range []string{"s1", "s2", "s3", "s4"} {
		if sw != roamer.at {
			roamer.move(sw)
		}
		l.found(roamer)
		p := roamer.requests(service(80), sources)
		if first == nil {
			first = p
		}
		require.Empty(t, first.moved(p), "5-tuples that another member serves when they enter at %s", sw)
	}
	require.Len(t, first.counts(), 4)

	for _, h := range clients {
		requireOneCopy(l, h)
	}
}

// found waits until a host, after a move, exchanges packets with all others under
// each of its addresses.
func (l *lab) found(h *host) {
	l.t.Helper()
	for _, other := range l.hosts {
		if other == h {
			continue
		}
		for _, a := range append([]netip.Addr{h.addr}, h.more...) {
			eventually(l.t, 15*time.Second, h.name+" as "+a.String()+" reaches "+other.name, func() bool {
				_, err := h.datagram(netip.AddrPortFrom(a, 0), netip.AddrPortFrom(other.addr, 7))
				return err == nil
			})
		}
	}
}

func TestRingHealsACutLink(t *testing.T) {
	l, c, clients, servers := ringWithService(t)
	far := servers[2:3] // on s3, two hops from s1 either way
	c.put("far", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
		listener("udp", 53, members(5353, far...)),
		listener("tcp", 9, members(9009, far...)),
	}})
	all := c.linkCount()
	client := clients[0]
	for _, k := range l.links {
		udp, tcp := client.udpStream(service(53)), client.tcpStream(service(9))
		direct := client.udpStream(netip.AddrPortFrom(far[0].addr, 7))
		udp.flows(t, 500)
		l.cut(k)
		udp.flows(t, 1500)
		direct.flows(t, 100)
		for what, s := range map[string]*stream{"UDP by the VIP": udp, "TCP by the VIP": tcp, "UDP to the host": direct} {
			r := s.finish()
			t.Logf("%s cut, %s: %v", k, what, r)
			require.NoError(t, r.err)
			require.LessOrEqual(t, r.gap, time.Second)
			require.LessOrEqual(t, r.lost(), 1000)
			require.Zero(t, r.repeated)
		}
		requireOneCopy(l, client)
		l.mend(k)
		c.wait("the link is found again", func() bool { return c.linkCount() == all })
		requireOneCopy(l, client)
	}
}

// TestCutLinksBreakNoConnection cuts the links of a ring, one after the other, while
// connections by the VIP are asked all the time: a packet that comes to another member than
// those before it ends its connection, one that is lost does not.
func TestCutLinksBreakNoConnection(t *testing.T) {
	l, c, clients, servers := ringWithService(t)
	c.put("web", web(members(8080, servers...)))
	all := c.linkCount()
	var asking sync.WaitGroup
	stop, broken := make(chan struct{}), make(chan string, 60)
	for _, s := range openSessions(clients[0], 60) {
		asking.Go(func() {
			for tick := time.NewTicker(20 * time.Millisecond); ; {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				if member, err := s.ask(); err != nil || member != s.member {
					broken <- fmt.Sprintf("%s, then %s: %v", s.member, member, err)
					return
				}
			}
		})
	}
	for _, k := range l.links {
		udp := clients[0].udpStream(netip.AddrPortFrom(servers[2].addr, 5353))
		udp.flows(t, 200)
		l.cut(k)
		udp.flows(t, 1000)
		t.Logf("%s cut: %v", k, udp.finish())
		c.noFaults()
		l.mend(k)
		c.wait("the link is found again", func() bool { return c.linkCount() == all })
	}
	close(stop)
	asking.Wait()
	close(broken)
	for b := range broken {
		t.Error(b)
	}
	c.noFaults()
}

// noFaults requires that switches have taken all that they were sent.
func (c *controller) noFaults() {
	c.t.Helper()
	var list struct {
		Items []struct {
			DPID   string            `json:"dpid"`
			Faults []json.RawMessage `json:"faults"`
		} `json:"items"`
	}
	require.Equal(c.t, 200, c.rest("GET", "/v1/switches", nil, &list))
	require.Len(c.t, list.Items, len(c.lab.switches()))
	for _, sw := range list.Items {
		require.Empty(c.t, sw.Faults, "switch %s", sw.DPID)
	}
}

func TestTreeServes(t *testing.T) {
	t.Parallel()
	l := treeLab(t, secure, 3)
	client, servers := l.host("h1"), l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.linked()
	l.sweep()
	c.put("web", web(members(8080, servers...)))
	require.Len(t, client.requests(service(80), client.sources(400, 1)).counts(), 5)
	requireOneCopy(l, client)
}

// normalLab is one switch that forwards on its own by flows of its operator's.
func normalLab(t *testing.T) (l *lab, operator []string) {
	t.Helper()
	l = singleLab(t, secure, 4)
	l.ovs.AddFlow("s1", "cookie=0xabc,priority=0,actions=NORMAL", "cookie=0xabc,priority=10,udp,tp_dst=9998,actions=drop")
	l.sweep()
	return l, l.ovs.DumpFlows("s1", "cookie=0xabc/-1")
}

// forwardsOnItsOwn waits until the switch has learned by itself where all hosts
// are, which it does only for packets that it forwards on its own (NORMAL), and not
// for those of flows that it has cached.
func (l *lab) forwardsOnItsOwn() {
	l.t.Helper()
	eventually(l.t, 15*time.Second, "the switch has learned all hosts by itself", func() bool {
		l.sweep()
		return l.learned()
	})
}

// learned reports whether all hosts are in the switch's own table.
func (l *lab) learned() bool {
	l.t.Helper()
	table := l.ovs.Appctl("fdb/show", "s1")
	for _, h := range l.hosts {
		if !strings.Contains(table, h.mac) {
			return false
		}
	}
	return true
}

// probeMAC is the source of what the controller itself sends for discovery.
const probeMAC = "02:46:4c:00:00:01"

func TestObserveChangesNothing(t *testing.T) {
	t.Parallel()
	l, operator := normalLab(t)
	require.Len(t, operator, 2)
	watcher := l.host("h4")
	log := watcher.capture()
	stream := l.host("h1").udpStream(netip.AddrPortFrom(l.host("h2").addr, 7))
	stream.flows(t, 500)

	c := l.control("observe")
	c.quiet()
	c.must("PUT", "/v1/vips/web", web(members(8080, l.host("h3")))) // stored, and not for this switch
	c.quiet()
	stream.flows(t, 500)

	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())
	require.Zero(t, r.repeated)
	require.Equal(t, operator, l.ovs.DumpFlows("s1", "cookie=0xabc/-1"), "the operator's flows")
	require.Empty(t, l.ovs.DumpGroups("s1"))
	for src := range log.senders(watcher) {
		require.True(t, src == probeMAC || strings.HasPrefix(src, "02:00:00:00:00:"), "a frame from %s", src)
	}
	require.LessOrEqual(t, log.unicast(watcher), 5, "packets of others are not flooded")

	l.ovs.Appctl("fdb/flush", "s1")
	l.forwardsOnItsOwn()
	_, err := l.host("h1").request(netip.AddrPort{}, service(80))
	require.Error(t, err, "no VIP on a switch that is only observed")

	c.stop()
	l.sweep()
}

func TestSteerAddsVIPs(t *testing.T) {
	t.Parallel()
	l, operator := normalLab(t)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(8080)
		h.serveEcho(5353)
	}
	c := l.control("observe")
	stream := client.udpStream(netip.AddrPortFrom(servers[0].addr, 7))
	stream.flows(t, 500)
	c.must("PUT", "/v1/switches/"+l.switches()[0]+"/stage", map[string]string{"stage": "steer"})
	c.put("web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
		listener("tcp", 80, members(8080, servers...)), listener("udp", 53, members(5353, servers...)),
	}})
	counts := client.requests(service(80), client.sources(300, 1)).counts()
	t.Logf("TCP: %v", counts)
	require.Len(t, counts, 3)
	require.Len(t, client.datagrams(service(53), client.sources(300, 1)).counts(), 3)
	stream.flows(t, 500)
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())
	require.Zero(t, r.repeated)

	require.Equal(t, operator, l.ovs.DumpFlows("s1", "cookie=0xabc/-1"), "the operator's flows")
	l.ovs.Appctl("fdb/flush", "s1")
	l.forwardsOnItsOwn()
	requireOneCopy(l, client)

	// Back again: what was added goes, what was there stays.
	c.must("DELETE", "/v1/vips/web", nil)
	c.must("PUT", "/v1/switches/"+l.switches()[0]+"/stage", map[string]string{"stage": "observe"})
	c.wait("the groups are gone", func() bool { return len(l.ovs.DumpGroups("s1")) == 0 })
	l.sweep()
	require.Equal(t, operator, l.ovs.DumpFlows("s1", "cookie=0xabc/-1"), "the operator's flows")
}
