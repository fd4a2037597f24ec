//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/reachability"
)

// measure measures what answers.
func (c *controller) measure(doc object) (m reachability.Measurement) {
	c.t.Helper()
	require.NoError(c.t, json.Unmarshal(c.must("POST", "/v1/reachability", doc), &m))
	for _, note := range m.Notes {
		c.t.Log(note)
	}
	return m
}

// silent are the pairs of a measurement without an answer.
func silent(m reachability.Measurement) (list []string) {
	for _, p := range m.Pairs {
		if !p.OK() {
			list = append(list, fmt.Sprintf("%s from %s: %s %s", p.Address, p.From, p.Result, p.Reason))
		}
	}
	return list
}

// TestReachability measures three switches in a row with a legacy bridge between two of
// them, in each stage: hosts of both families, of a VLAN and behind the bridge answer from
// every switch; VIPs answer; broadcasts arrive once; links pass whole packets but one; and
// nothing is left in switches or in the caches of hosts.
func TestReachability(t *testing.T) {
	l := newLab(t)
	l.addSwitches(secure, 3, 2)
	l.addLink("s1", "s2")
	l.addBridge("old")
	l.bridgeTo("old", "s2")
	l.bridgeTo("old", "s3")
	legacy := l.addLegacyHost("old")
	h1, six, tagged, h4 := l.hosts[0], l.hosts[1], l.hosts[2], l.hosts[3]
	six.useIPv6(0)
	tagged.join(7)
	for _, h := range []*host{h4, l.hosts[4]} {
		h.serveHTTP(8080)
	}
	h4.serveLines(2222)
	c := l.control("observe")
	c.joined()
	known := func() bool {
		for _, h := range l.hosts {
			if h == six {
				_, _ = h.dial(netip.AddrPort{}, netip.MustParseAddrPort("[2001:db8::99]:9"), 20*time.Millisecond)
			} else {
				_, _ = h.dial(netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.99:9"), 20*time.Millisecond)
			}
		}
		var list struct {
			Items []struct {
				IPs []string `json:"ips"`
			} `json:"items"`
		}
		c.rest("GET", "/v1/hosts", nil, &list)
		n := 0
		for _, h := range list.Items {
			n += min(len(h.IPs), 1)
		}
		return n == len(l.hosts)
	}
	c.wait("all hosts are known", known)
	request := object{"broadcast": true, "rates": true, "tables": true, "mtu": 1500, "source_addresses": []string{"10.0.0.200"}, "timeout": "1s",
		"probes": []object{{"type": "ping", "address": legacy.addr.String()}, {"type": "tcp", "address": h4.addr.String(), "port": 2222}}}
	for _, stage := range []string{"observe", "steer", "managed"} {
		for _, dpid := range []string{"0000000000000001", "0000000000000002", "0000000000000003"} {
			c.succeeds("switch", "stage", dpid, stage, "--wait", "5s")
		}
		if stage == "steer" {
			c.must("PUT", "/v1/vips/web", web(members(8080, h4, l.hosts[4])))
			request["vips"] = []string{"web"}
		}
		if stage != "observe" {
			c.serves("web")
		}
		c.unchanged(time.Second)
		before := l.tap.mods()
		asking := maps.Clone(request)
		delete(asking, "broadcast")
		m := c.measure(asking)
		require.Equal(t, before, l.tap.mods(), "%s: asking changes no switch", stage)
		require.Empty(t, silent(m), stage)
		require.Len(t, m.Pairs, 3*len(l.hosts), stage)
		m = c.measure(request)
		require.Empty(t, silent(m), stage)
		for _, p := range m.Probes {
			require.True(t, p.OK(), "%s: %+v", stage, p)
		}
		for _, v := range m.VIPs {
			require.True(t, v.OK(), "%s: %+v", stage, v)
		}
		if stage != "observe" {
			require.Len(t, m.VIPs, 3)
		}
		require.Len(t, m.Copies, 6, stage)
		for _, n := range m.Copies {
			require.Equal(t, 1, n.Count, "%s: %+v", stage, n)
		}
		for _, sw := range m.Switches {
			require.True(t, sw.Compared)
			require.Empty(t, sw.Deviations, stage)
		}
		require.NotEmpty(t, m.Rates)
		require.Len(t, m.Links, 4, stage)
		for _, k := range m.Links {
			require.True(t, k.Small && k.Full, "%s: %+v", stage, k)
		}
		t.Logf("%s: %d pairs and all else in %s", stage, len(m.Pairs), m.Took)
		require.NotContains(t, run(t, "ip", "-n", h1.namespace.name, "neigh"), "02:46:4c", "what caches learned")
	}

	// What gets worse is told.
	good := c.measure(request)
	c.narrow = true
	run(t, "ip", "-n", l.ns.name, "link", "set", l.links[0].near(), "mtu", "1400")
	run(t, "ip", "-n", legacy.namespace.name, "link", "set", "eth0", "arp", "off")
	l.ovs.AddFlow("s2", "table=3,priority=1000,dl_dst="+l.hosts[4].mac+",actions=drop")
	request["timeout"] = "300ms"
	bad := c.measure(request)
	text := ""
	for _, d := range reachability.Worse(good, bad) {
		text += d.Text + "\n"
	}
	for _, want := range []string{
		"packets of 1500 bytes do not pass from 0000000000000001/",
		fmt.Sprintf("%s (%s) does not answer from switch 0000000000000003 any more (answered before)", legacy.addr, legacy.mac),
		fmt.Sprintf("%s (%s) does not answer from switch 0000000000000001 any more (answered before)", l.hosts[4].addr, l.hosts[4].mac),
	} {
		require.Contains(t, text, want)
	}
	require.NotContains(t, text, l.hosts[4].mac+") does not answer from switch 0000000000000003")
	shown := c.succeeds("reachability", "--source", "10.0.0.200", "--vip", "web", "--timeout", "100ms")
	require.Contains(t, shown, "web tcp:80")
	t.Log(shown)
}

// TestReachabilityVLAN measures a bridge with access ports of a VLAN, a trunk and untagged
// ports: hosts answer in the VLAN that Open vSwitch takes them to be of, and VIPs of the VLAN
// do in each mode, by members with and without tags.
func TestReachabilityVLAN(t *testing.T) {
	l := bareLab(t, 4)
	servers := l.hosts[:3]
	servers[2].join(7)
	for _, h := range servers {
		h.serveHTTP(80)
	}
	haveAddress(t, vip, servers...)
	for _, h := range servers[:2] {
		l.ovs.Vsctl("set", "port", h.name, "tag=7")
	}
	c := l.serving("observe")
	c.succeeds("ovs", "adopt", l.db(), "s1", "--stage", "observe")
	c.wait("all hosts are known", func() bool {
		for _, h := range l.hosts {
			_, _ = h.dial(netip.AddrPort{}, netip.MustParseAddrPort("10.0.0.99:9"), 20*time.Millisecond)
		}
		var list struct {
			Items []struct{ IPs []string }
		}
		c.rest("GET", "/v1/hosts", nil, &list)
		known := 0
		for _, h := range list.Items {
			known += min(len(h.IPs), 1)
		}
		return known == len(l.hosts)
	})
	request := object{
		"source_addresses": []string{"10.0.0.200"}, "timeout": "1s",
		"probes": []object{{"type": "ping", "address": servers[0].addr.String(), "vlan": 7}, {"type": "tcp", "address": servers[2].addr.String(), "port": 80, "vlan": 7}},
	}
	answered := func(what string, m reachability.Measurement) {
		require.Empty(t, silent(m), what)
		require.Len(t, m.Pairs, len(l.hosts), what)
		for _, p := range m.Probes {
			require.True(t, p.OK(), "%s: %+v", what, p)
		}
		for _, v := range m.VIPs {
			require.True(t, v.OK(), "%s: %+v", what, v)
		}
	}
	answered("observe", c.measure(request))
	c.succeeds("switch", "stage", l.dpid(), "steer", "--wait", "5s")
	answered("steer", c.measure(request))
	request["vips"] = []string{"web"}
	for _, mode := range []string{"nat", "dsr", "conntrack"} {
		doc := document(vip, "tcp", 80, 0, 80, servers...)
		doc["vlan"], doc["mode"] = 7, mode
		c.apply("web", doc)
		for range 5 { // by chance each member is met
			m := c.measure(request)
			require.Len(t, m.VIPs, 1, mode)
			answered(mode, m)
		}
		c.must("DELETE", "/v1/vips/web", nil)
	}
}

// TestReachabilityRing measures a ring of managed switches that a legacy bridge closes: a
// broadcast arrives once, though there are two ways. Where the switches forward on their
// own, and nobody opens the circle, it arrives again and again, and ends with the
// measurement.
func TestReachabilityRing(t *testing.T) {
	l := newLab(t)
	l.addSwitches(secure, 3, 1)
	l.addLink("s1", "s2")
	l.addLink("s2", "s3")
	l.addBridge("old")
	l.bridgeTo("old", "s1")
	l.bridgeTo("old", "s3")
	c := l.control("managed")
	c.wait("the segment is found", func() bool {
		s := c.segments()
		return len(s) == 1 && s[0]["designated"] == 1 && s[0]["blocked"] == 1
	})
	l.sweep()
	c.unchanged(time.Second)
	ring := c.measure(object{"broadcast": true, "rates": true, "timeout": "1s", "mtu": 1500})
	require.Empty(t, silent(ring))
	require.Len(t, ring.Pairs, 9)
	require.Len(t, ring.Copies, 6)
	for _, n := range ring.Copies {
		require.Equal(t, 1, n.Count, "%+v", n)
	}

	// The hosts are silent by now; nothing but the measurement's broadcast goes round.
	for _, h := range l.hosts {
		run(t, "ip", "-n", h.namespace.name, "link", "set", "eth0", "arp", "off")
	}
	for _, dpid := range []string{"0000000000000001", "0000000000000002", "0000000000000003"} {
		c.succeeds("switch", "stage", dpid, "observe", "--wait", "5s")
	}
	circle := c.measure(object{"broadcast": true, "rates": true, "hosts": false})
	loops, storms := 0, 0
	for _, d := range reachability.Worse(ring, circle) {
		switch d.Aspect {
		case reachability.AspectBroadcast:
			loops++
		case reachability.AspectStorm:
			storms++
		}
	}
	require.Positive(t, loops)
	t.Logf("%d broadcasts that go round, %d ports with a storm", loops, storms)
	after := c.measure(object{"rates": true, "hosts": false})
	for _, r := range after.Rates {
		require.Less(t, max(r.Rx, r.Tx), 1000.0, "%+v: what goes round after the measurement", r)
	}
}
