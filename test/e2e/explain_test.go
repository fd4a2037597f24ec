//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// explanation is what POST /v1/explain answers, as far as the tests read it.
type explanation struct {
	Result     string   `json:"result"`
	Member     string   `json:"member"`
	Slot       *int     `json:"slot"`
	Reasons    []string `json:"reasons"`
	Installed  string   `json:"installed"`
	Candidates []any    `json:"candidates"`
	Path       []struct {
		DPID    string `json:"dpid"`
		OutPort string `json:"out_port"`
	} `json:"path"`
	Reply *struct {
		Result  string `json:"result"`
		Arrives struct {
			Src, Dst string
		} `json:"arrives"`
	} `json:"reply"`
	Differences []struct {
		DPID   string `json:"dpid"`
		Change string `json:"change"`
		Part   string `json:"part"`
	} `json:"differences"`
}

func (c *controller) explain(protocol string, from, to netip.AddrPort, at string) explanation {
	c.t.Helper()
	var e explanation
	code := c.rest("POST", "/v1/explain", map[string]string{"protocol": protocol, "from": from.String(), "to": to.String(), "at": at}, &e)
	require.Equal(c.t, 200, code)
	return e
}

// TestExplain asks, of 300 connections over a ring of switches, for the member that
// then answers; and of datagrams the same.
func TestExplain(t *testing.T) {
	t.Parallel()
	for _, stage := range stages() {
		t.Run(stage, func(t *testing.T) {
			if stage == "steer" && testing.Short() {
				t.Skip("one stage is enough")
			}
			l := newLab(t)
			l.addSwitches(secure, 4, 2)
			links := 4
			if stage == "steer" {
				links = 3 // the switches' own forwarding has no protocol against loops
			}
			for i := 1; i <= links; i++ {
				l.addLink(fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", i%4+1))
			}
			client, servers := l.hosts[0], l.hosts[1:]
			client.addAddresses(150, 40)
			byMember := map[string]string{}
			for _, h := range servers {
				h.serveHTTP(8080)
				h.serveEcho(5353)
				byMember[h.addr.String()+":8080"], byMember[h.addr.String()+":5353"] = h.name, h.name
			}
			c := l.control(stage)
			l.sweep()
			doc := web(members(8080, servers...))
			doc.Listeners = append(doc.Listeners, listener("udp", 53, members(5353, servers...)))
			c.put("web", doc)
			l.sweep()

			const at = "0000000000000001/1"
			c.wait("the client is known", func() bool {
				e := c.explain("tcp", netip.AddrPortFrom(client.addr, 10000), service(80), at)
				return e.Reply != nil && e.Reply.Result == "delivered"
			})
			begin := time.Now()
			for _, p := range []struct {
				protocol string
				port     uint16
				n        int
			}{{"tcp", 80, 300}, {"udp", 53, 100}} {
				sources := client.sources(p.n, uint64(p.port))
				said := map[netip.AddrPort]string{}
				hops := map[int]int{}
				for _, src := range sources {
					e := c.explain(p.protocol, src, service(p.port), at)
					require.Equal(t, "delivered", e.Result, "%v", e.Reasons)
					require.Equal(t, "same", e.Installed, "%v", e.Differences)
					require.NotNil(t, e.Slot)
					require.Equal(t, "delivered", e.Reply.Result)
					require.Equal(t, service(p.port).String(), e.Reply.Arrives.Src)
					require.Equal(t, src.String(), e.Reply.Arrives.Dst)
					said[src] = byMember[e.Member]
					hops[len(e.Path)]++
				}
				t.Logf("%d %s packets explained in %s, by the number of switches on their way: %v", p.n, p.protocol, time.Since(begin).Round(time.Millisecond), hops)
				served := client.requests
				if p.protocol == "udp" {
					served = client.datagrams
				}
				require.Equal(t, map[netip.AddrPort]string(served(service(p.port), sources)), said, "the member that answered is the one that was named")
			}

			// Somebody else changes a switch.
			l.ovs.AddFlow("s1", fmt.Sprintf("table=2,priority=50000,tcp,nw_dst=%s,actions=drop", vip))
			e := c.explain("tcp", netip.AddrPortFrom(client.addr, 10000), service(80), at)
			require.Equal(t, "different", e.Installed)
			require.Len(t, e.Differences, 1)
			require.Equal(t, "extra", e.Differences[0].Change)
		})
	}
}

// TestExplainModes asks the same of every mode, and of connections that keep to the
// member of their client.
func TestExplainModes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(secure, 3, 2)
	l.addLink("s1", "s2")
	l.addLink("s2", "s3")
	client, servers := l.hosts[0], l.hosts[1:]
	client.addAddresses(150, 60)
	for _, h := range servers {
		h.serveHTTP(80)
		// A member in mode dsr has the VIP's address, and keeps silent about it.
		h.sysctl(t, "net/ipv4/conf/all/arp_ignore", "1")
		h.sysctl(t, "net/ipv4/conf/all/arp_announce", "2")
	}
	byMember := map[string]string{}
	for _, h := range servers {
		byMember[h.addr.String()+":80"] = h.name
	}
	c := l.control("managed")
	l.sweep()
	for _, mode := range []string{"nat", "conntrack", "dsr"} {
		for _, persistence := range []string{"none", "source_ip", "source_ip_protocol"} {
			pool := map[string]any{"persistence": persistence, "members": members(80, servers...)}
			doc := map[string]any{"address": vip.String(), "mode": mode, "listeners": []any{map[string]any{"protocol": "tcp", "port": 80, "pool": pool}}}
			if mode == "dsr" && persistence == "none" {
				for _, h := range servers {
					run(t, "ip", "-n", h.namespace.name, "addr", "add", vip.String()+"/32", "dev", "lo")
				}
			}
			c.must("PUT", "/v1/vips/web", doc)
			c.serves("web")
			sources, said := client.sources(100, 8), map[netip.AddrPort]string{}
			for _, src := range sources {
				e := c.explain("tcp", src, service(80), "0000000000000001/1")
				require.Equal(t, "delivered", e.Result, "%s, %s: %v", mode, persistence, e.Reasons)
				require.Equal(t, "same", e.Installed, "%s, %s: %v", mode, persistence, e.Differences)
				require.NotNil(t, e.Slot, "%s, %s: %v", mode, persistence, e.Reasons)
				require.Equal(t, "delivered", e.Reply.Result, "%s, %s", mode, persistence)
				require.Equal(t, service(80).String(), e.Reply.Arrives.Src, "%s, %s", mode, persistence)
				require.Equal(t, src.String(), e.Reply.Arrives.Dst, "%s, %s", mode, persistence)
				said[src] = byMember[e.Member]
			}
			served := client.requests(service(80), sources)
			t.Logf("mode %s, persistence %s: %v", mode, persistence, served.counts())
			require.Equal(t, map[netip.AddrPort]string(served), said, "%s, %s", mode, persistence)
			c.must("DELETE", "/v1/vips/web?wait=10s", nil)
		}
	}
}

// TestExplainIPv6 asks the same of IPv6 and of a range of ports.
func TestExplainIPv6(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(secure, 2, 3)
	l.addLink("s1", "s2")
	l.useIPv6()
	client, servers := l.hosts[0], l.hosts[1:]
	byMember := map[string]string{}
	for _, h := range servers {
		h.serveHTTP(8000, 8001, 8002, 8003)
		byMember[h.addr.String()] = h.name
	}
	c := l.control("managed")
	l.sweep()
	pool := map[string]any{"members": members(8000, servers...)}
	c.must("PUT", "/v1/vips/web", map[string]any{"address": vip6.String(), "listeners": []any{map[string]any{"protocol": "tcp", "port": 8000, "port_end": 8003, "pool": pool}}})
	c.serves("web")
	for port := uint16(8000); port < 8004; port++ {
		sources, said := client.sources(60, uint64(port)), map[netip.AddrPort]string{}
		to := netip.AddrPortFrom(vip6, port)
		for _, src := range sources {
			e := c.explain("tcp", src, to, "0000000000000001/1")
			require.Equal(t, "delivered", e.Result, "%v", e.Reasons)
			require.Equal(t, "same", e.Installed, "%v", e.Differences)
			require.Equal(t, to.String(), e.Reply.Arrives.Src)
			at, err := netip.ParseAddrPort(e.Member)
			require.NoError(t, err)
			said[src] = byMember[at.Addr().String()]
		}
		require.Equal(t, map[netip.AddrPort]string(client.requests(to, sources)), said)
	}
}
