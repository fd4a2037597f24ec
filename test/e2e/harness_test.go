//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The tests of this file ask about the lab itself, with Open vSwitch forwarding on its own or by flows
// written here: what they see is the network's doing, not Fairlead's.

func TestLabTreeForwards(t *testing.T) {
	t.Parallel()
	l := treeLab(t, standalone, 2)
	l.sweep()
	for name, copies := range l.broadcast(l.host("h1"), 50) {
		for _, n := range copies {
			require.Equal(t, 1, n, "copies of a broadcast at %s", name)
		}
	}
	h4 := l.host("h4")
	h4.serveHTTP(80)
	require.Equal(t, map[string]int{"h4": 100},
		l.host("h1").requests(netip.AddrPortFrom(h4.addr, 80), l.host("h1").sources(100, 1)).counts())
}

func TestLabRingLinksCutAndMend(t *testing.T) {
	t.Parallel()
	l := ringLab(t, secure, 1)
	require.Len(t, l.links, 4)
	for _, k := range l.links {
		l.cut(k)
		eventually(t, 5*time.Second, "OVS sees the cut", func() bool { return !l.portUp(k.near()) && !l.portUp(k.far()) })
		l.mend(k)
		eventually(t, 5*time.Second, "OVS sees the link again", func() bool { return l.portUp(k.near()) && l.portUp(k.far()) })
	}
}

// TestLabSelectGroup balances by flows and groups written by hand, in the shape
// that the design gives them: equal slots that watch members.
func TestLabSelectGroup(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 5)
	client, servers := l.host("h1"), l.hosts[1:]
	client.addAddresses(150, 20)

	const vipMAC = "02:46:4c:00:00:aa"
	flows := []string{
		"priority=0,actions=NORMAL",
		fmt.Sprintf("priority=100,tcp,nw_dst=%s,tp_dst=80,actions=group:100", vip),
	}
	var groups []string
	slots := strings.Builder{}
	for i, h := range servers {
		h.serveHTTP(8080)
		groups = append(groups, fmt.Sprintf(
			"group_id=%d,type=ff,bucket=watch_port:%d,actions=set_field:%s->eth_dst,set_field:%s->ip_dst,set_field:8080->tcp_dst,output:%d",
			i+1, i+2, h.mac, h.addr, i+2))
		flows = append(flows, fmt.Sprintf("priority=100,tcp,nw_src=%s,tp_src=8080,actions=set_field:%s->ip_src,set_field:80->tcp_src,NORMAL", h.addr, vip))
	}
	for i := range 16 {
		fmt.Fprintf(&slots, ",bucket=watch_group:%d,actions=group:%d", i%4+1, i%4+1)
	}
	groups = append(groups, "group_id=100,type=select"+slots.String())
	l.ovs.AddGroup("s1", groups...)
	l.ovs.AddFlow("s1", flows...)
	client.run(t, "ip", "neigh", "replace", vip.String(), "lladdr", vipMAC, "dev", "eth0")
	l.sweep()

	begin := time.Now()
	first := client.requests(service(80), client.sources(2000, 1))
	t.Logf("2,000 requests in %s: %v", time.Since(begin).Round(time.Millisecond), first.counts())
	require.Len(t, first.counts(), 4)
	require.LessOrEqual(t, first.busiest(4), 1.25)
	require.Empty(t, first.moved(client.requests(service(80), client.sources(2000, 1))))

	var open []*session
	for range 60 {
		s, err := client.open(netip.AddrPort{}, service(80))
		require.NoError(t, err)
		open = append(open, s)
	}
	gone := servers[1]
	gone.unplug()
	eventually(t, 5*time.Second, "OVS sees the port go down", func() bool { return !l.portUp(gone.name) })
	for _, s := range open {
		member, err := s.ask()
		if s.member == gone.name {
			require.Error(t, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, s.member, member)
	}
	require.Empty(t, first.moved(client.requests(service(80), client.sources(2000, 1)), gone.name))
}

func TestLabStreamCountsLosses(t *testing.T) {
	l := singleLab(t, standalone, 2)
	l.sweep()
	a, b := l.host("h1"), l.host("h2")
	b.serveLines(9)
	udp := a.udpStream(netip.AddrPortFrom(b.addr, 7))
	tcp := a.tcpStream(netip.AddrPortFrom(b.addr, 9))
	udp.flows(t, 500)
	b.unplug()
	eventually(t, 5*time.Second, "OVS sees the port go down", func() bool { return !l.portUp(b.name) })
	time.Sleep(50 * time.Millisecond) // the outage to measure
	b.plugIn()
	udp.flows(t, 500)
	r := udp.finish()
	t.Log(r)
	require.NoError(t, r.err)
	require.GreaterOrEqual(t, r.gap, 50*time.Millisecond)
	require.GreaterOrEqual(t, r.lost(), 40)
	require.Equal(t, map[string]int{"h2": r.answered}, r.members)
	r = tcp.finish()
	t.Log(r)
	require.NoError(t, r.err)
	require.GreaterOrEqual(t, r.gap, 50*time.Millisecond)
	require.Zero(t, r.lost())
}

func TestLabHostMoves(t *testing.T) {
	t.Parallel()
	l := treeLab(t, standalone, 1)
	l.sweep()
	a, b := l.host("h1"), l.host("h2")
	a.move("s3")
	eventually(t, 10*time.Second, "the moved host is found", func() bool { return a.reaches(b.addr) && b.reaches(a.addr) })
}
