//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fairlead/fairlead/test/ovstest"
)

const (
	benchFor    = 2 * time.Second // each figure of a turn
	benchTurns  = 5
	benchActive = 16 // connections at once
	// Members' ports of the VIP. Their replies are rewritten, so that the other ways
	// have ports of their own.
	webPort, bulkPort   = 8080, 9000
	plainWeb, plainBulk = 8081, 9001
	proxyWeb            = 80
	proxyBulk           = 81
)

// way is one way from the client to the same three servers.
type way struct {
	name string
	web  []netip.AddrPort // in turns
	bulk []netip.AddrPort
}

// BenchmarkDataPlane compares what a client gets through a VIP with what it gets
// from the members themselves, forwarded by the same switch, and by way of HAProxy as
// a one-armed TCP proxy on it. The ways take turns; a figure is the median of the
// turns. Client, switch, proxy and servers share the machine's cores.
func BenchmarkDataPlane(b *testing.B) {
	haproxy, err := exec.LookPath("haproxy")
	if err != nil {
		haproxy = "/usr/sbin/haproxy"
	}
	l := singleLab(b, secure, 5)
	client, servers, proxy := l.hosts[0], l.hosts[1:4], l.hosts[4]
	direct := way{name: "plain L2"}
	for _, h := range servers {
		h.serveHTTP(webPort, plainWeb)
		h.serveBulk(bulkPort)
		h.serveBulk(plainBulk)
		direct.web = append(direct.web, netip.AddrPortFrom(h.addr, plainWeb))
		direct.bulk = append(direct.bulk, netip.AddrPortFrom(h.addr, plainBulk))
	}
	proxy.runHAProxy(haproxy, direct)
	c := l.control("managed")
	c.put("web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
		listener("tcp", 80, members(webPort, servers...)), listener("tcp", bulkPort, members(bulkPort, servers...)),
	}})
	l.sweep()
	ways := []way{
		direct,
		{"VIP", []netip.AddrPort{service(80)}, []netip.AddrPort{service(bulkPort)}},
		{"HAProxy", []netip.AddrPort{netip.AddrPortFrom(proxy.addr, proxyWeb)}, []netip.AddrPort{netip.AddrPortFrom(proxy.addr, proxyBulk)}},
	}
	figures := []struct {
		name, unit string
		measure    func(way) float64
	}{
		{"new connections", "/s", func(w way) float64 { return client.newConnections(w.web) }},
		{"keep-alive requests", "/s", func(w way) float64 { return client.keepAlive(w.web) }},
		{"throughput", "Mbit/s", func(w way) float64 { return client.throughput(w.bulk) }},
	}
	for b.Loop() {
		var table strings.Builder
		for _, f := range figures {
			turns := make([][]float64, len(ways))
			for range benchTurns {
				for i, w := range ways {
					turns[i] = append(turns[i], f.measure(w))
				}
			}
			median := make([]float64, len(ways))
			for i := range turns {
				slices.Sort(turns[i])
				median[i] = turns[i][benchTurns/2]
				fmt.Fprintf(&table, "\n%-20s %-9s %8.0f %s (%.0f – %.0f)", f.name, ways[i].name, median[i], f.unit, turns[i][0], turns[i][benchTurns-1])
			}
			fmt.Fprintf(&table, "\n%-20s VIP is %.2f × plain L2 (aim 0.9), %.2f × HAProxy (aim 1.5)", f.name, median[1]/median[0], median[1]/median[2])
			metric := strings.ReplaceAll(f.name, " ", "-")
			b.ReportMetric(median[1]/median[0], metric+"/L2")
			b.ReportMetric(median[1]/median[2], metric+"/HAProxy")
		}
		b.Log(table.String())
	}
	b.ReportMetric(0, "ns/op") // says nothing here
}

// each runs do from benchActive goroutines until the time is over, and returns the
// sum of what they return a second.
func (h *host) each(targets []netip.AddrPort, do func(dst netip.AddrPort, over func() bool) (float64, error)) float64 {
	h.t.Helper()
	var wg sync.WaitGroup
	var failed atomic.Pointer[error]
	sums := make([]float64, benchActive)
	start := time.Now()
	for i := range benchActive {
		wg.Go(func() {
			n, err := do(targets[i%len(targets)], func() bool { return time.Since(start) >= benchFor })
			if err != nil {
				failed.Store(&err)
			}
			sums[i] = n
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		h.t.Fatalf("%s: %v", h.name, *err)
	}
	total := 0.0
	for _, n := range sums {
		total += n
	}
	return total / time.Since(start).Seconds()
}

func (h *host) newConnections(targets []netip.AddrPort) float64 {
	return h.each(targets, func(dst netip.AddrPort, over func() bool) (n float64, err error) {
		for ; !over(); n++ {
			s, err := h.open(netip.AddrPort{}, dst)
			if err != nil {
				return n, err
			}
			s.close()
		}
		return n, nil
	})
}

func (h *host) keepAlive(targets []netip.AddrPort) float64 {
	return h.each(targets, func(dst netip.AddrPort, over func() bool) (n float64, err error) {
		s, err := h.open(netip.AddrPort{}, dst)
		if err != nil {
			return 0, err
		}
		defer s.close()
		for ; !over(); n++ {
			if _, err := s.ask(); err != nil {
				return n, err
			}
		}
		return n, nil
	})
}

// throughput is in Mbit/s.
func (h *host) throughput(targets []netip.AddrPort) float64 {
	return h.each(targets, func(dst netip.AddrPort, over func() bool) (n float64, err error) {
		c, err := h.dial(netip.AddrPort{}, dst, patience)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		_ = c.SetLinger(0)
		buf := make([]byte, 1<<16)
		for !over() {
			k, err := c.Read(buf)
			if err != nil {
				return n, err
			}
			n += float64(k) * 8 / 1e6
		}
		return n, nil
	})
}

// serveBulk sends without end on every connection to a port.
func (h *host) serveBulk(port uint16) {
	h.t.Helper()
	l, err := h.listen(fmt.Sprintf(":%d", port))
	if err != nil {
		h.t.Fatalf("%s: serve bulk: %v", h.name, err)
	}
	h.t.Cleanup(func() { _ = l.Close() })
	buf := make([]byte, 1<<16)
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				continue
			}
			go func() {
				defer c.Close()
				for {
					if _, err := c.Write(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
}

// runHAProxy balances the same servers over TCP from the host until the test ends.
func (h *host) runHAProxy(path string, to way) {
	h.t.Helper()
	var cfg strings.Builder
	cfg.WriteString("global\n  maxconn 4000\ndefaults\n  mode tcp\n  balance roundrobin\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n")
	for _, s := range []struct {
		port    int
		servers []netip.AddrPort
	}{{proxyWeb, to.web}, {proxyBulk, to.bulk}} {
		fmt.Fprintf(&cfg, "listen p%d\n  bind :%d\n", s.port, s.port)
		for i, a := range s.servers {
			fmt.Fprintf(&cfg, "  server s%d %s\n", i, a)
		}
	}
	file := filepath.Join(h.t.TempDir(), "haproxy.cfg")
	if err := os.WriteFile(file, []byte(cfg.String()), 0o600); err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", h.namespace.name, path, "-db", "-f", file)
	cmd.Stderr = io.Discard
	if err := ovstest.StartDaemon(cmd); err != nil {
		h.t.Fatalf("haproxy: %v (apt-get install haproxy)", err)
	}
	h.t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	eventually(h.t, patience, "haproxy listens", func() bool {
		c, err := h.dial(netip.AddrPort{}, netip.AddrPortFrom(h.addr, proxyWeb), patience)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}
