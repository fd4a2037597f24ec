//go:build e2e

package e2e

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/store"
)

// hellos is how many connections switches have made to the tap so far.
func (p *tap) hellos() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up[0]
}

// reconnected waits until the switch has connected again since, and returns when.
func (l *lab) reconnected(since int) time.Time {
	l.t.Helper()
	eventually(l.t, 30*time.Second, "the switch connects", func() bool { return l.tap.hellos() > since })
	return time.Now()
}

// answers sends a datagram to each address every 20 ms until all have answered, and
// returns how long each took.
func (h *host) answers(port uint16, addrs ...netip.Addr) []time.Duration {
	h.t.Helper()
	c, err := h.listenPacket(netip.AddrPortFrom(h.addr, 0).String())
	require.NoError(h.t, err)
	times := make([]time.Duration, len(addrs))
	index := map[netip.Addr]int{}
	for i, a := range addrs {
		index[a] = i
	}
	begin := time.Now()
	var mu sync.Mutex
	var reader sync.WaitGroup
	left := len(addrs)
	reader.Go(func() {
		b := make([]byte, 64)
		for {
			_, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil && !passing(err) {
				return
			}
			mu.Lock()
			if i, ok := index[from.Addr()]; ok && err == nil && times[i] == 0 {
				times[i] = time.Since(begin)
				left--
			}
			mu.Unlock()
		}
	})
	eventuallyEvery(h.t, 20*time.Millisecond, 30*time.Second, "all VIPs answer", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for i, a := range addrs {
			if times[i] == 0 {
				_, _ = c.WriteToUDPAddrPort([]byte("?"), netip.AddrPortFrom(a, port))
			}
		}
		return left == 0
	})
	_ = c.Close()
	reader.Wait()
	return times
}

func eventuallyEvery(t testing.TB, every, timeout time.Duration, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(timeout); !condition(); time.Sleep(every) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", timeout, what)
		}
	}
}

// TestU06SwitchKilled kills the switch of 100,000 flows, which loses them all, and
// starts it again: all VIPs must answer again soon after it has connected.
func TestU06SwitchKilled(t *testing.T) {
	k := newCrowd(t)
	k.udp.finish()
	for _, s := range k.open {
		s.idle.Store(true)
	}
	var addrs []netip.Addr
	for i := 0; i < crowdVIPs; i += 10 {
		addrs = append(addrs, crowdAddress(i))
	}
	_, groups := k.counts()
	for range scale(1, 5) {
		hellos := k.tap.hellos()
		k.ovs.KillVswitchd()
		k.ovs.StartVswitchd()
		up := time.Now()
		connected := k.reconnected(hellos)
		times := k.clients[0].answers(53, addrs...)
		took := time.Since(connected)
		slices.Sort(times)
		t.Logf("connected %v after its start; the first VIP answered %v after that, half of them %v, all %v", connected.Sub(up).Round(time.Millisecond),
			times[0].Round(time.Millisecond), times[len(times)/2].Round(time.Millisecond), took.Round(time.Millisecond))
		// 1.5 s is the aim where the machine is not shared with others.
		require.LessOrEqual(t, took, 5*time.Second, "from the reconnection to the last VIP")
		k.installedAll()
		require.Len(t, k.ovs.DumpGroups("s1"), groups)
	}
}

// small is a lab of one switch with four clients, some servers, and a VIP over these,
// UDP and TCP.
func small(t *testing.T, n int) (l *lab, c *controller, clients, servers []*host) {
	t.Helper()
	l = singleLab(t, secure, 4+n)
	clients, servers = l.hosts[:4], l.hosts[4:]
	for _, h := range servers {
		h.serveHTTP(8080)
		h.serveEcho(5353)
	}
	c = l.control("managed")
	l.ovs.Vsctl("set", "controller", "s1", "max_backoff=1000")
	l.sweep()
	c.put("web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
		listener("tcp", 80, members(8080, servers...)), listener("udp", 53, members(5353, servers...)),
	}})
	c.quiet()
	return l, c, clients, servers
}

// TestU07BothRestart restarts switch and controller in every order.
func TestU07BothRestart(t *testing.T) {
	t.Parallel()
	l, c, clients, _ := small(t, 3)
	client := clients[0]
	flows, groups := l.ovs.DumpFlows("s1"), l.ovs.DumpGroups("s1")
	slices.Sort(flows)
	slices.Sort(groups)
	orders := map[string]func(){
		"the switch while the controller is down": func() { c.kill(); l.ovs.KillVswitchd(); l.ovs.StartVswitchd(); c.launch() },
		"the controller while the switch is down": func() {
			l.ovs.KillVswitchd()
			c.kill()
			c.launch()
			c.wait("fairlead is ready", func() bool { return c.status("GET", "/readyz", nil) == 200 })
			l.ovs.StartVswitchd()
		},
		"both at once": func() { l.ovs.KillVswitchd(); c.kill(); c.launch(); l.ovs.StartVswitchd() },
	}
	for range scale(1, 20) {
		for name, restart := range orders {
			restart()
			begin := time.Now()
			eventually(t, 10*time.Second, name+": the VIP answers", func() bool {
				_, err := client.datagram(netip.AddrPortFrom(client.addr, 0), service(53))
				return err == nil
			})
			took := time.Since(begin)
			eventually(t, 10*time.Second, name+": the switch holds what it held", func() bool {
				f, g := l.ovs.DumpFlows("s1"), l.ovs.DumpGroups("s1")
				slices.Sort(f)
				slices.Sort(g)
				return slices.Equal(flows, f) && slices.Equal(groups, g)
			})
			t.Logf("%s: the VIP answers after %v, all is back after %v", name, took.Round(time.Millisecond), time.Since(begin).Round(time.Millisecond))
			require.LessOrEqual(t, time.Since(begin), 10*time.Second)
			c.ready()
		}
	}
}

// TestU09ControllerAbsent leaves the switch alone for long; a member fails meanwhile.
func TestU09ControllerAbsent(t *testing.T) {
	t.Parallel()
	l, c, clients, servers := small(t, 4)
	client := clients[0]
	client.addAddresses(150, 20)
	open := openSessions(client, 60)
	sources := client.sources(500, 7)
	first := client.requests(service(80), sources)
	c.kill()
	gone := servers[1]
	gone.unplug()
	eventually(t, 5*time.Second, "OVS sees the port go down", func() bool { return !l.portUp(gone.name) })
	l.settle()
	broken := 0
	for end := time.Now().Add(time.Duration(scale(2, 600)) * time.Second); ; {
		for _, s := range open {
			if s.member == gone.name {
				continue
			}
			member, err := s.ask()
			require.NoError(t, err, "a connection of %s, which is up", s.member)
			require.Equal(t, s.member, member)
		}
		now := client.requests(service(80), sources)
		require.Empty(t, first.moved(now, gone.name), "of members that are up")
		require.NotContains(t, now.counts(), gone.name)
		if time.Now().After(end) {
			break
		}
	}
	for _, s := range open {
		if s.member == gone.name {
			broken++
		}
	}
	gone.plugIn()
	eventually(t, 5*time.Second, "OVS sees the port come up", func() bool { return l.portUp(gone.name) })
	t.Logf("60 connections, %d of the member whose port went down; none of the others broke or moved", broken)
	c.start()
	c.serves("web")
	require.Empty(t, first.moved(client.requests(service(80), sources)), "with the member back")

}

// TestU12CrashLoop has the controller die three seconds after each start.
func TestU12CrashLoop(t *testing.T) {
	t.Parallel()
	l, c, clients, _ := small(t, 4)
	stream := spreadStream(t, clients, func(int) netip.AddrPort { return service(53) })
	stream.flows(t, 200)
	before := l.tap.mods()
	for range scale(3, 50) {
		c.kill()
		c.launch()
		time.Sleep(3 * time.Second) // that long it lives
	}
	begin := time.Now()
	c.ready()
	c.installed("web")
	t.Logf("%d crashes; steady %v after the last", scale(3, 50), time.Since(begin).Round(time.Millisecond))
	require.LessOrEqual(t, time.Since(begin), 10*time.Second)
	c.quiet()
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())
	if after := l.tap.mods(); !maps.Equal(before, after) {
		t.Fatalf("messages that change the switch, by type, before: %v, after: %v, the last of them:\n%s", before, after, l.tap.last(t, 10))
	}
}

// TestU16StoreNotReady starts the controller while its store cannot be opened: the
// switch must not see it before it has read all that is stored.
func TestU16StoreNotReady(t *testing.T) {
	t.Parallel()
	l, c, clients, _ := small(t, 4)
	stream := spreadStream(t, clients, func(int) netip.AddrPort { return service(53) })
	c.stop()
	db, err := store.Open(c.data, store.Options{})
	require.NoError(t, err)
	down, _ := l.tap.snapshot()
	for range 2 { // as a supervisor does
		c.launch()
		select {
		case <-c.done:
		case <-time.After(10 * time.Second):
			t.Fatal("fairlead waits for its store without end")
		}
	}
	now, _ := l.tap.snapshot()
	require.Equal(t, down, now, "messages to the switch while the store is in use by another")
	require.NoError(t, db.Close())
	c.start()
	c.installed("web")
	c.quiet()
	after, _ := l.tap.snapshot()
	for _, kind := range modTypes {
		require.Equal(t, down[kind], after[kind], "messages of type %d", kind)
	}
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())
}

// TestU17LinksOutliveARestart restarts the controller of a ring: no link may go down
// because no probe has come back yet, and no path changes.
func TestU17LinksOutliveARestart(t *testing.T) {
	l := ringLab(t, secure, 1)
	c := l.control("managed")
	l.sweep()
	c.wait("all links are up", func() bool { return c.linksUp() == 4 })
	c.quiet()
	before := l.tap.mods()
	stream := l.host("h1").udpStream(netip.AddrPortFrom(l.host("h3").addr, 7))
	for range scale(1, 3) {
		c.kill()
		c.launch()
		c.wait("fairlead answers", func() bool { return c.status("GET", "/healthz", nil) == 200 })
		// Longer than what is known from before is believed unheard.
		for end := time.Now().Add(time.Duration(scale(8, 40)) * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if n := c.linksUp(); n >= 0 {
				require.Equal(t, 4, n, "links that are up")
			}
		}
		c.ready()
	}
	c.quiet()
	if after := l.tap.mods(); !maps.Equal(before, after) {
		t.Fatalf("messages that change the switch, by type, before: %v, after: %v, the last of them:\n%s", before, after, l.tap.last(t, 10))
	}
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())
}

// linksUp is how many links are up as the controller sees it; -1: no answer.
func (c *controller) linksUp() int {
	c.t.Helper()
	var list struct {
		Links []struct {
			State string `json:"state"`
		} `json:"links"`
	}
	if c.rest("GET", "/v1/topology", nil, &list) != 200 {
		return -1
	}
	n := 0
	for _, k := range list.Links {
		if k.State == "up" {
			n++
		}
	}
	return n
}
