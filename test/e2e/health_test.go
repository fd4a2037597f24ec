//go:build e2e

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto/packet"
)

// fields are an object of the REST API that a test writes by hand.
type fields = map[string]any

// monitored is a VIP with one listener at port 80 whose members are probed.
func monitored(protocol string, monitor fields, list []memberDoc) fields {
	return fields{"address": vip.String(), "listeners": []fields{{
		"protocol": protocol, "port": 80, "pool": fields{"members": list, "monitor": monitor},
	}}}
}

// everyHalf is a monitor that finds a failure within 1.3 seconds.
func everyHalf(typ string) fields {
	return fields{"type": typ, "interval": "500ms", "timeout": "300ms", "rise": 2, "fall": 2}
}

// foundWithin is fall × interval + timeout of everyHalf.
const foundWithin = 1300 * time.Millisecond

// health returns the health of the members of a VIP's first listener, in their order,
// and why.
func (c *controller) health(name string) (state, reason []string) {
	c.t.Helper()
	var s vipState
	if c.rest("GET", "/v1/vips/"+name, nil, &s) != http.StatusOK || len(s.Listeners) == 0 {
		return nil, nil
	}
	for _, m := range s.Listeners[0].Pool.Members {
		state, reason = append(state, m.Status.Health), append(reason, m.Status.Reason)
	}
	return state, reason
}

// allUp waits until all members of a VIP are up and the switches follow.
func (c *controller) allUp(name string) {
	c.t.Helper()
	c.wait("all members of "+name+" are up", func() bool {
		state, _ := c.health(name)
		return len(state) > 0 && !slices.ContainsFunc(state, func(s string) bool { return s != "up" })
	})
	c.serves(name)
}

// manner is how a fickle server behaves.
type manner int32

const (
	good   manner = iota
	broken        // answers 500
	hangs         // answers nothing
	resets        // resets each connection
	slow          // answers too late
	gone          // refuses connections
)

// fickle is an HTTP server that behaves in one of many ways.
type fickle struct {
	*host
	port   uint16
	manner atomic.Int32

	mu     sync.Mutex
	listen net.Listener
}

// serveFickle runs a fickle server until the test ends. It answers with the host's name.
func (h *host) serveFickle(port uint16) *fickle {
	h.t.Helper()
	f := &fickle{host: h, port: port}
	f.open()
	h.t.Cleanup(f.shut)
	return f
}

func (f *fickle) open() {
	f.t.Helper()
	l, err := f.namespace.listen(fmt.Sprintf(":%d", f.port))
	if err != nil {
		f.t.Fatalf("%s: serve: %v", f.name, err)
	}
	f.mu.Lock()
	f.listen = l
	f.mu.Unlock()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f.serve(c.(*net.TCPConn))
		}
	}()
}

func (f *fickle) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.listen.Close()
}

func (f *fickle) serve(c *net.TCPConn) {
	defer c.Close()
	b := make([]byte, 4096)
	for {
		switch manner(f.manner.Load()) {
		case resets:
			_ = c.SetLinger(0)
			return
		}
		if _, err := c.Read(b); err != nil {
			return
		}
		code := http.StatusOK
		switch manner(f.manner.Load()) {
		case broken:
			code = http.StatusInternalServerError
		case hangs:
			continue
		case resets:
			_ = c.SetLinger(0)
			return
		case slow:
			time.Sleep(600 * time.Millisecond) // twice the monitor's timeout
		}
		if _, err := fmt.Fprintf(c, "HTTP/1.1 %d x\r\nContent-Length: %d\r\n\r\n%s", code, len(f.name), f.name); err != nil {
			return
		}
	}
}

// become changes how the server behaves.
func (f *fickle) become(m manner) {
	f.t.Helper()
	was := manner(f.manner.Swap(int32(m)))
	switch {
	case m == gone && was != gone:
		f.shut()
	case m != gone && was == gone:
		f.open()
	}
}

// shot is one request of a watch.
type shot struct {
	src        netip.AddrPort
	began, end time.Time
	member     string
	err        error
}

// barrage makes requests from the same sources again and again until stop is called,
// each on a connection of its own, and returns them all.
func (h *host) barrage(dst netip.AddrPort, sources []netip.AddrPort) (stop func() []shot) {
	var mu sync.Mutex
	var all []shot
	var wg sync.WaitGroup
	over := make(chan struct{})
	const workers = 8
	for w := range workers {
		wg.Go(func() {
			pace := time.NewTicker(20 * time.Millisecond)
			defer pace.Stop()
			for i := w; ; i += workers {
				select {
				case <-over:
					return
				case <-pace.C:
				}
				s := shot{src: sources[i%len(sources)], began: time.Now()}
				s.member, s.err = h.quickly(s.src, dst, 500*time.Millisecond)
				s.end = time.Now()
				mu.Lock()
				all = append(all, s)
				mu.Unlock()
			}
		})
	}
	return func() []shot { close(over); wg.Wait(); return all }
}

// quickly makes one request that may take so long.
func (h *host) quickly(src, dst netip.AddrPort, most time.Duration) (string, error) {
	c, err := h.dial(src, dst, most)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetLinger(0)
	if err := c.SetDeadline(time.Now().Add(most)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
		return "", err
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if err != nil {
		return "", err
	}
	var code int
	var name string
	if _, err := fmt.Sscanf(string(b[:n]), "HTTP/1.1 %d x\r\nContent-Length: 2\r\n\r\n%s", &code, &name); err != nil || code != 200 {
		return name, fmt.Errorf("status %d: %q", code, b[:n])
	}
	return name, nil
}

// twoSwitches is a client on s1, and members on s1 and on s2.
func twoSwitches(t *testing.T, stage string) (l *lab, c *controller, client *host, servers []*fickle) {
	l = newLab(t)
	l.addSwitch("s1", secure)
	l.addSwitch("s2", secure)
	l.addLink("s1", "s2")
	client = l.addHost("s1")
	client.addAddresses(150, 30)
	for _, sw := range []string{"s1", "s2", "s2", "s2"} {
		servers = append(servers, l.addHost(sw).serveFickle(8080))
	}
	c = l.control(stage)
	c.linked()
	l.sweep()
	return l, c, client, servers
}

func hostsOf(servers []*fickle) (list []*host) {
	for _, f := range servers {
		list = append(list, f.host)
	}
	return list
}

// A member that fails in any way is found in time, by probes that cross two switches;
// from then on no client meets it, and the clients of the others never notice. It comes
// back when it is good again. Each verdict changes each switch once, at once.
func TestHealthFindsFailures(t *testing.T) {
	for _, stage := range stages() {
		t.Run(stage, func(t *testing.T) {
			l, c, client, servers := twoSwitches(t, stage)
			c.must("PUT", "/v1/vips/web", monitored("tcp", everyHalf("http"), members(8080, hostsOf(servers)...)))
			c.allUp("web")
			sources := client.sources(200, 1)
			var decided []time.Duration // from the packet to the group-mods
			for _, m := range []struct {
				name   string
				manner manner
				reason string
			}{
				{"answers 500", broken, "HTTP status 500"},
				{"hangs", hangs, "no answer within 300ms"},
				{"refuses", gone, "connection refused"},
				{"resets", resets, "connection"},
				{"is slow", slow, "no answer within 300ms"},
			} {
				sick := servers[3]
				home := client.requests(service(80), sources)
				require.Len(t, home.counts(), 4)
				reaction := l.reactions()
				stop := client.barrage(service(80), sources)
				time.Sleep(300 * time.Millisecond) // some good ones first
				began := time.Now()
				sick.become(m.manner)
				var found time.Duration
				eventually(t, 5*time.Second, "the member that "+m.name+" is found", func() bool {
					state, why := c.health("web")
					found = time.Since(began)
					return state[3] == "down" && strings.Contains(why[3], m.reason)
				})
				time.Sleep(time.Second)
				shots := stop()
				failed, late, others := 0, 0, 0
				for _, s := range shots {
					if s.err == nil {
						continue
					}
					failed++
					if home[s.src] != sick.name {
						others++
						t.Logf("%s: request of %s, whose member is %s, failed after %s: %v", m.name, s.src, home[s.src], s.began.Sub(began), s.err)
					} else if s.began.Sub(began) > foundWithin+50*time.Millisecond {
						late++
						t.Logf("%s: request begun after %s failed: %v", m.name, s.began.Sub(began), s.err)
					}
				}
				mods, worst := reaction()
				t.Logf("%s: down after %s; %d requests, %d failed, %d of them late, %d on other members; %d group-mods, the last %s after the packet that decided",
					m.name, found.Round(time.Millisecond), len(shots), failed, late, others, mods, worst.Round(10*time.Microsecond))
				require.Zero(t, late)
				require.Zero(t, others)
				require.LessOrEqual(t, found, foundWithin+200*time.Millisecond, "with the time to ask")
				require.Equal(t, len(l.switches()), mods, "one group-mod a switch")
				if m.manner != hangs && m.manner != slow { // those are decided by a timer, not by a packet
					decided = append(decided, worst)
				}
				// A controller that starts anew has nothing to hold against it.
				sick.become(good)
				c.stop()
				c.start()
				c.allUp("web")
			}
			slices.Sort(decided)
			require.LessOrEqual(t, decided[len(decided)/2], 10*time.Millisecond, "%v", decided)
			require.LessOrEqual(t, decided[len(decided)-1], 100*time.Millisecond, "on a machine that others use too")
		})
	}
}

// commandDelete is the command of a group-mod that deletes a group (OpenFlow 1.3.5, §7.3.4.2).
const commandDelete = 2

// reactions watches the channel until the function returned is called, which tells how
// many group-mods passed, and how long after the last reply to a monitor the last of
// those did that came in the same burst.
func (l *lab) reactions() func() (groupMods int, worst time.Duration) {
	var mu sync.Mutex
	var reply time.Time
	var n int
	var worst time.Duration
	l.tap.look(func(kind byte, message []byte) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case kind == typePacketIn && len(message) > 24 && binary.BigEndian.Uint64(message[16:])>>40 == 0xfa1d14:
			if n == 0 {
				reply = time.Now()
			}
		case kind == typeGroupMod && binary.BigEndian.Uint16(message[8:]) == commandDelete:
			// The group of a member that has no slots any more; nothing waits for it.
		case kind == typeGroupMod:
			n++
			worst = max(worst, time.Since(reply))
		}
	})
	return func() (int, time.Duration) {
		l.tap.look(nil)
		mu.Lock()
		defer mu.Unlock()
		return n, worst
	}
}

// TestHealthFlapping has three of eight members change between good and bad every
// 0.7 s, with the most nervous of monitors: they are taken out and kept out, and the
// clients of the others notice nothing.
func TestHealthFlapping(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 9)
	client := l.hosts[0]
	client.addAddresses(150, 30)
	var servers []*fickle
	for _, h := range l.hosts[1:] {
		servers = append(servers, h.serveFickle(8080))
	}
	c := l.control("managed")
	monitor := everyHalf("http")
	monitor["rise"], monitor["fall"] = 1, 1
	c.must("PUT", "/v1/vips/web", monitored("tcp", monitor, members(8080, hostsOf(servers)...)))
	c.allUp("web")
	sources := client.sources(400, 1)
	home := client.requests(service(80), sources)
	require.Len(t, home.counts(), 8)

	flappers := servers[:3]
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(700 * time.Millisecond)
		defer tick.Stop()
		for m := broken; ; m = good + broken - m {
			for _, f := range flappers {
				f.manner.Store(int32(m))
			}
			select {
			case <-stop:
				return
			case <-tick.C:
			}
		}
	}()
	shots := client.barrage(service(80), sources)
	reaction := l.reactions()
	long := time.Duration(scale(15, 180)) * time.Second
	changes := make([][]time.Time, len(servers))
	was, _ := c.health("web")
	for began := time.Now(); time.Since(began) < long; time.Sleep(25 * time.Millisecond) {
		is, _ := c.health("web")
		for i := range is {
			if is[i] != was[i] {
				changes[i] = append(changes[i], time.Now())
			}
		}
		was = is
	}
	close(stop)
	<-stopped
	mods, _ := reaction()
	all := shots()
	others := 0
	for _, s := range all {
		if s.err != nil && !slices.ContainsFunc(flappers, func(f *fickle) bool { return f.name == home[s.src] }) {
			others++
		}
	}
	most := 0
	for i := range changes {
		for _, end := range changes[i] {
			n := 0
			for _, at := range changes[i] {
				if since := end.Sub(at); since >= 0 && since < time.Minute {
					n++
				}
			}
			most = max(most, n)
		}
		t.Logf("%s: %d changes in %s", servers[i].name, len(changes[i]), long)
	}
	t.Logf("at most %d changes of a member in a minute; %d group-mods; %d requests, %d failed on other members", most, mods, len(all), others)
	require.LessOrEqual(t, most, 6)
	require.Positive(t, most)
	require.Zero(t, others)
	for i := range servers[3:] {
		require.Empty(t, changes[3+i])
	}
}

// TestHealthOverRestart: a restart changes nothing in a switch and fails no request of
// members that are monitored; one that died meanwhile is found.
func TestHealthOverRestart(t *testing.T) {
	t.Parallel()
	l, c, client, servers := twoSwitches(t, "managed")
	c.must("PUT", "/v1/vips/web", monitored("tcp", everyHalf("http"), members(8080, hostsOf(servers)...)))
	c.allUp("web")
	c.quiet()
	sources := client.sources(200, 1)
	home := client.requests(service(80), sources)
	require.Len(t, home.counts(), 4)
	before := l.tap.mods()
	stop := client.barrage(service(80), sources)
	c.stop()
	c.start()
	c.allUp("web")
	c.kill()
	c.start()
	c.allUp("web")
	shots := stop()
	for _, s := range shots {
		require.NoError(t, s.err, "a request during restarts")
	}
	t.Logf("%d requests over two restarts, 0 failed", len(shots))
	require.Equal(t, before, l.tap.mods())
	require.Empty(t, home.moved(client.requests(service(80), sources)))

	c.stop()
	servers[2].become(gone)
	c.start()
	began := time.Now()
	c.wait("the member that died is found", func() bool {
		state, _ := c.health("web")
		return len(state) == 4 && state[2] == "down"
	})
	t.Logf("found %s after all switches were back", time.Since(began).Round(time.Millisecond))
	c.serves("web")
	require.Empty(t, home.moved(client.requests(service(80), sources), servers[2].name))
}

// probed returns how many probes have ended so far, by outcome.
func (c *controller) probed() map[string]int {
	c.t.Helper()
	n := map[string]int{}
	for line := range strings.Lines(string(c.must("GET", "/metrics", nil))) {
		var count int
		if rest, ok := strings.CutPrefix(line, `fairlead_health_probes_total{outcome="`); ok {
			outcome, rest, _ := strings.Cut(rest, `"`)
			_, value, _ := strings.Cut(rest, "} ")
			if _, err := fmt.Sscan(value, &count); err == nil {
				n[outcome] += count
			}
		}
	}
	return n
}

// TestHealthRate makes 1,000 checks a second through one switch, of TCP and of HTTP.
func TestHealthRate(t *testing.T) {
	const hosts, ports, vips = 10, 100, 5
	for _, typ := range []string{"http", "tcp"}[:scale(1, 2)] {
		t.Run(typ, func(t *testing.T) {
			l := singleLab(t, secure, hosts)
			var list []uint16
			for p := range ports {
				list = append(list, uint16(8000+p))
			}
			for _, h := range l.hosts {
				h.serveHTTP(list...)
			}
			c := l.control("managed")
			for v := range vips {
				var pool []memberDoc
				for _, h := range l.hosts {
					for _, p := range list[v*ports/vips : (v+1)*ports/vips] {
						pool = append(pool, h.member(p))
					}
				}
				doc := monitored("tcp", fields{"type": typ, "interval": "1s", "timeout": "800ms"}, pool)
				doc["address"] = fmt.Sprintf("10.0.0.%d", 200+v)
				c.must("PUT", fmt.Sprintf("/v1/vips/v%d", v), doc)
			}
			for v := range vips {
				c.allUp(fmt.Sprintf("v%d", v))
			}
			time.Sleep(2 * time.Second) // the rate to be measured sets in
			began, before := time.Now(), c.probed()
			busy := cpu(t, c.cmd.Process.Pid)
			busySwitch := cpu(t, l.ovs.PID())
			dropped := c.lab.tap.packetIns()
			time.Sleep(time.Duration(scale(5, 10)) * time.Second) // what is measured
			after, took := c.probed(), time.Since(began).Seconds()
			busy, busySwitch = cpu(t, c.cmd.Process.Pid)-busy, cpu(t, l.ovs.PID())-busySwitch
			rate := map[string]float64{}
			for outcome := range after {
				rate[outcome] = math.Round(float64(after[outcome]-before[outcome]) / took)
			}
			t.Logf("%s: probes a second by outcome %v; packets to the controller %.0f a second; CPU of the controller %.0f %% of a core, of the switch %.0f %%; resident %d MB",
				typ, rate, float64(c.lab.tap.packetIns()-dropped)/took, 100*busy.Seconds()/took, 100*busySwitch.Seconds()/took, rss(t, c.cmd.Process.Pid)>>20)
			require.GreaterOrEqual(t, rate["success"], 1000.0)
			require.Zero(t, after["timeout"]-before["timeout"])
			require.Zero(t, after["failure"]-before["failure"])
		})
	}
}

// kinds are what one host serves for each type of monitor, on IPv4 and IPv6.
type kinds struct {
	*host
	cert *httptest.Server // for its certificate
	end  []func()
}

// portOf is where the service for a type of monitor is.
var portOf = map[string]int{"tcp": 7001, "http": 7002, "https": 7003, "ping": 7004, "udp_connect": 7005, "sctp": 7006}

// serve opens the services; shut closes them, as the end of a process would.
func (k *kinds) serve() {
	k.t.Helper()
	listen := func(typ string) net.Listener {
		var l net.Listener
		var err error
		k.do(func() {
			l, err = new(net.ListenConfig).Listen(context.Background(), "tcp", fmt.Sprintf(":%d", portOf[typ]))
		})
		require.NoError(k.t, err)
		return l
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/healthz" || r.Method != http.MethodHead || r.Host != "shop.example" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	plain, web, secure := listen("tcp"), listen("http"), tls.NewListener(listen("https"), k.cert.TLS)
	go func() { _ = http.Serve(web, handler) }()
	quiet := &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0)} // monitors end connections without more ado
	go func() { _ = quiet.Serve(secure) }()
	k.end = []func(){func() { plain.Close() }, func() { web.Close() }, func() { secure.Close() }}
	for _, network := range []string{"udp4", "udp6", "ip4:132", "ip6:132"} {
		address := ""
		if strings.HasPrefix(network, "udp") {
			address = fmt.Sprintf(":%d", portOf["udp_connect"])
		}
		var c net.PacketConn
		var err error
		k.do(func() { c, err = new(net.ListenConfig).ListenPacket(context.Background(), network, address) })
		require.NoError(k.t, err)
		k.end = append(k.end, func() { c.Close() })
		if address == "" {
			go acceptSCTP(c)
		}
	}
	k.silence("0")
	k.end = append(k.end, func() { k.silence("1") })
}

func (k *kinds) shut() {
	k.t.Helper()
	for _, f := range k.end {
		f()
	}
	k.end = nil
}

// silence has the host answer no pings, or answer them.
func (k *kinds) silence(on string) {
	k.t.Helper()
	k.sysctl(k.t, "net/ipv4/icmp_echo_ignore_all", on)
	k.sysctl(k.t, "net/ipv6/icmp/echo_ignore_all", on)
}

// acceptSCTP answers INIT with INIT ACK (RFC 9260 §5.1), as far as a monitor looks.
func acceptSCTP(c net.PacketConn) {
	b := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		if n < 32 || b[12] != 1 || int(binary.BigEndian.Uint16(b[2:])) != portOf["sctp"] {
			continue
		}
		ack := slices.Clone(b[12:32])
		ack[0] = 2
		h := packet.SCTP{SrcPort: binary.BigEndian.Uint16(b[2:]), DstPort: binary.BigEndian.Uint16(b), Tag: binary.BigEndian.Uint32(b[16:])}
		_, _ = c.WriteTo(packet.AppendSCTP(nil, h, ack), from)
	}
}

// TestHealthOfEveryKind probes one member by every type of monitor, on IPv4 and IPv6,
// through the switches from the VIP's address and from one of its own, and from the
// controller's own network.
func TestHealthOfEveryKind(t *testing.T) {
	t.Parallel()
	for _, stage := range stages() {
		t.Run(stage, func(t *testing.T) {
			l := newLab(t)
			l.addSwitch("s1", secure)
			l.addSwitch("s2", secure)
			l.addLink("s1", "s2")
			l.addHost("s1")
			k := &kinds{host: l.addHost("s2"), cert: httptest.NewUnstartedServer(nil)}
			k.cert.StartTLS()
			t.Cleanup(k.cert.Close)
			// The controller's own network is joined to s1 like a host.
			l.joinController("s1")
			k.sysctl(t, "net/ipv6/conf/eth0/disable_ipv6", "0")
			run(t, "ip", "-n", k.namespace.name, "addr", "add", "2001:db8::2/64", "dev", "eth0", "nodad")
			k.serve()
			t.Cleanup(k.shut)
			c := l.control(stage)
			c.linked()

			type way struct {
				name, vip, member, via, source string
			}
			ways := []way{
				{"v4", "10.0.0.100", "10.0.0.2", "switches", ""},
				{"v6", "2001:db8::100", "2001:db8::2", "switches", ""},
				{"v4-own", "10.0.0.101", "10.0.0.2", "switches", "10.0.0.251"},
				{"v6-own", "2001:db8::101", "2001:db8::2", "switches", "2001:db8::251"},
				{"v4-host", "10.0.0.102", "10.0.0.2", "host", ""},
				{"v6-host", "2001:db8::102", "2001:db8::2", "host", ""},
			}
			var names []string
			port := 20000
			for _, w := range ways {
				for typ, at := range portOf {
					// Linux refuses datagrams to one peer at most once a second.
					monitor := fields{"type": typ, "interval": "2s", "timeout": "500ms", "rise": 1, "fall": 2, "via": w.via}
					if w.source != "" {
						monitor["source_address"] = w.source
					}
					if typ == "http" || typ == "https" {
						monitor["method"], monitor["path"], monitor["host"], monitor["expected_codes"] = "HEAD", "/healthz", "shop.example", "200-204"
					}
					if typ == "https" {
						monitor["tls_insecure"] = true
					}
					port++
					name := w.name + "-" + strings.ReplaceAll(typ, "_", "-")
					c.must("PUT", "/v1/vips/"+name, fields{"address": w.vip, "listeners": []fields{{
						"protocol": "tcp", "port": port, "pool": fields{"monitor": monitor,
							"members": []fields{{"address": w.member, "port": port, "monitor_port": at}}},
					}}})
					names = append(names, name)
				}
			}
			expect := func(what, want string, most time.Duration) {
				began := time.Now()
				var all string
				defer func() {
					if t.Failed() {
						t.Logf("%s: %s", what, all)
					}
				}()
				eventually(t, most, what, func() bool {
					all = ""
					for _, name := range names {
						state, why := c.health(name)
						if len(state) != 1 || state[0] != want {
							all += fmt.Sprintf("\n%s: %v %q", name, state, why)
						}
					}
					return all == ""
				})
				t.Logf("%s: %d after %s", what, len(names), time.Since(began).Round(10*time.Millisecond))
			}
			expect("all are up", "up", 20*time.Second)
			k.shut()
			expect("all are down", "down", 10*time.Second)
			for _, name := range names {
				if _, why := c.health(name); strings.HasSuffix(name, "-tcp") {
					require.Equal(t, []string{"monitor: connection refused"}, why, name)
				}
			}
			k.serve()
			expect("all are up again", "up", 10*time.Second)
		})
	}
}

// TestHealthInVLAN probes members of a VLAN, on a trunk and behind an access port,
// from the VIP's address and from one of the monitor's own.
func TestHealthInVLAN(t *testing.T) {
	t.Parallel()
	for _, own := range []string{"", "10.0.0.251"} {
		t.Run("source "+own, func(t *testing.T) {
			l := singleLab(t, secure, 3)
			servers := l.hosts[1:]
			l.hosts[0].join(7)
			servers[0].join(7)
			l.ovs.Vsctl("set", "port", servers[1].name, "tag=7")
			for _, h := range servers {
				h.serveHTTP(8080)
			}
			c := l.control("steer")
			monitor := everyHalf("http")
			if own != "" {
				monitor["source_address"] = own
			}
			doc := monitored("tcp", monitor, members(8080, servers...))
			doc["vlan"] = 7
			c.must("PUT", "/v1/vips/web", doc)
			c.allUp("web")
			counts := l.hosts[0].requests(service(80), l.hosts[0].sources(100, 1)).counts()
			require.Len(t, counts, 2)
		})
	}
}

// TestHealthInModes probes members of a VIP in each mode, and takes one that fails out.
func TestHealthInModes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nat", "conntrack", "dsr"} {
		t.Run(mode, func(t *testing.T) {
			l := singleLab(t, secure, 4)
			client := l.hosts[0]
			var servers []*fickle
			for _, h := range l.hosts[1:] {
				servers = append(servers, h.serveFickle(80))
			}
			monitor := everyHalf("http")
			if mode == "dsr" {
				haveVIP(t, true, l.hosts[1:]...)
				monitor["source_address"] = "10.0.0.251"
			}
			c := l.control("managed")
			doc := monitored("tcp", monitor, members(80, hostsOf(servers)...))
			doc["mode"] = mode
			c.must("PUT", "/v1/vips/web", doc)
			c.allUp("web")
			l.sweep()
			require.Len(t, client.requests(service(80), client.sources(100, 1)).counts(), 3)
			servers[0].become(gone)
			c.wait("the member that failed is found", func() bool {
				state, _ := c.health("web")
				return len(state) == 3 && state[0] == "down"
			})
			c.serves("web")
			require.NotContains(t, client.requests(service(80), client.sources(200, 2)).counts(), servers[0].name)
			servers[0].become(good)
			c.allUp("web")
			require.Len(t, client.requests(service(80), client.sources(100, 3)).counts(), 3)
		})
	}
}

// TestHealthUnderFlood floods the controller with packets of unknown hosts, and with
// what looks like replies of a member, from a port beside those of the members: no
// member is taken for dead.
func TestHealthUnderFlood(t *testing.T) {
	l := singleLab(t, secure, 5)
	attacker, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	monitor := everyHalf("http")
	c.must("PUT", "/v1/vips/web", monitored("tcp", monitor, members(8080, servers...)))
	c.allUp("web")
	before := c.probed()
	macs := uint32(0)
	strangers := attacker.frameTo(0x0800, make([]byte, 46)...)
	forged := packet.AppendTCPFrame(nil, packet.Flow{
		SrcMAC: packet.MAC{2, 0, 0, 0, 0, 1}, DstMAC: packet.MAC{2, 0x46, 0x4c, 0, 0, 1},
		Src: netip.AddrPortFrom(servers[0].addr, 8080), Dst: netip.AddrPortFrom(vip, 0xf123),
	}, packet.TCP{Flags: packet.TCPRst | packet.TCPAck}, nil)
	for _, kind := range []struct {
		name      string
		perSecond int
		frame     []byte
		next      func([]byte)
	}{
		{"packets of unknown hosts", 20_000, strangers, func(f []byte) { macs++; binary.BigEndian.PutUint32(f[8:], macs) }},
		{"forged replies", 8_000, forged, nil}, // more than the meter lets through would be at the cost of real ones
	} {
		sent := attacker.flood(kind.frame, kind.perSecond, 4*time.Second, kind.next)
		state, why := c.health("web")
		t.Logf("%d %s: %v", sent, kind.name, state)
		for i := range state {
			require.Equal(t, "up", state[i], "%s: %s", servers[i].name, why[i])
		}
	}
	after := c.probed()
	t.Logf("probes: %d succeeded, %d failed, %d timed out", after["success"]-before["success"], after["failure"]-before["failure"], after["timeout"]-before["timeout"])
}

// TestHealthAtAnotherAddress probes members at an address and port of their own for
// monitors, which nobody else has asked for.
func TestHealthAtAnotherAddress(t *testing.T) {
	t.Parallel()
	_, c, client, servers := twoSwitches(t, "managed")
	var list []fields
	for i, f := range servers {
		at := netip.AddrFrom4([4]byte{10, 0, 0, byte(240 + i)})
		f.addAddress(at)
		f.serveHTTP(9000)
		m := f.member(8080)
		list = append(list, fields{"address": m.Address, "port": m.Port, "monitor_address": at, "monitor_port": 9000})
	}
	c.must("PUT", "/v1/vips/web", fields{"address": vip.String(), "listeners": []fields{{
		"protocol": "tcp", "port": 80, "pool": fields{"members": list, "monitor": everyHalf("http")},
	}}})
	c.allUp("web")
	require.Len(t, client.requests(service(80), client.sources(100, 1)).counts(), 4)
}
