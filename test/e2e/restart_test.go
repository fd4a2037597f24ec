//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCrashUnderTraffic kills the controller with SIGKILL and starts it again,
// with 200 VIPs in use: no packet may be lost, no connection reset, no switch changed.
func TestCrashUnderTraffic(t *testing.T) {
	const vips = 200
	l := singleLab(t, secure, 5)
	client, servers := l.hosts[0], l.hosts[1:]
	address := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(50 + i)}) }
	for _, h := range servers {
		var ports []uint16
		for i := range vips {
			ports = append(ports, uint16(20000+i))
		}
		h.serveHTTP(ports...)
		h.serveEcho(5353)
		h.serveLines(9009)
	}
	c := l.control("managed")
	l.sweep()

	var wg sync.WaitGroup
	queue := make(chan int)
	failed := make(chan string, vips)
	for range 8 {
		wg.Go(func() {
			for i := range queue {
				doc := vipDoc{Address: address(i).String(), Listeners: []listenerDoc{
					listener("tcp", 80, members(uint16(20000+i), servers...)),
				}}
				if i == 0 {
					doc.Listeners = append(doc.Listeners,
						listener("udp", 53, members(5353, servers...)), listener("tcp", 9, members(9009, servers...)))
				}
				if code := c.status("PUT", fmt.Sprintf("/v1/vips/vip-%d", i), doc); code != 201 {
					failed <- fmt.Sprintf("PUT of VIP %d: status %d", i, code)
				}
			}
		})
	}
	for i := range vips {
		queue <- i
	}
	close(queue)
	wg.Wait()
	close(failed)
	for f := range failed {
		t.Fatal(f)
	}
	for i := range vips {
		c.installed(fmt.Sprintf("vip-%d", i))
	}

	var open []*session
	for i := range vips {
		s, err := client.open(netip.AddrPort{}, netip.AddrPortFrom(address(i), 80))
		require.NoError(t, err, "VIP %d", i)
		t.Cleanup(s.close)
		open = append(open, s)
	}
	udp := client.udpStream(netip.AddrPortFrom(address(0), 53))
	tcp := client.tcpStream(netip.AddrPortFrom(address(0), 9))
	udp.flows(t, 500)
	c.quiet()
	before := l.tap.mods()

	c.kill()
	udp.flows(t, 2000)
	for _, s := range open {
		_, err := s.ask()
		require.NoError(t, err, "a connection while no controller runs")
	}
	c.start()
	for i := range vips {
		c.installed(fmt.Sprintf("vip-%d", i))
	}
	c.quiet()
	udp.flows(t, 500)

	u, s := udp.finish(), tcp.finish()
	t.Logf("UDP: %v", u)
	t.Logf("TCP: %v", s)
	require.Zero(t, u.lost())
	require.Zero(t, u.repeated)
	require.NoError(t, u.err)
	require.NoError(t, s.err)
	require.Zero(t, s.lost())
	for _, s := range open {
		member, err := s.ask()
		require.NoError(t, err, "a connection after the restart")
		require.Equal(t, s.member, member)
	}
	if after := l.tap.mods(); !maps.Equal(before, after) {
		t.Fatalf("the switch was changed: messages by type before: %v, after: %v, the last of them:\n%s", before, after, l.tap.last(t, 10))
	}
}
