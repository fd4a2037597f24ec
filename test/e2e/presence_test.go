//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/test/ovstest"
)

// serviceBack is the longest that a legacy client may be without the VIP when the switch
// that announces it dies: a second, and more where the machine has other things to do.
var serviceBack = time.Duration(scale(3, 1)) * time.Second

// twins are two managed switches with a cable between, both plugged into a legacy bridge:
// s1, which speaks for VIPs there, is a machine of its own. The members are at s2, and the
// client is behind the bridge.
type twins struct {
	*lab
	first  *ovstest.OVS // of s1
	c      *controller
	client *host
	ports  [2]string // of the bridge, towards each
	mac    string    // of the VIP
}

// machine is a switch that is a machine of its own: it can die alone, and tracks its own
// connections, where the bridges of one Open vSwitch share theirs.
type machine struct {
	*namespace
	ovs *ovstest.OVS
}

// addMachine adds a switch that is a machine. Its channel goes over a cable of its own, to
// a relay beside the controller.
func (l *lab) addMachine(name string) *machine {
	t := l.t
	t.Helper()
	m := &machine{namespace: newNamespace(t, name)}
	m.ovs = ovstest.StartIn(t, m.name)
	l.dpids++
	cable, near, far := "channel"+name, fmt.Sprintf("192.0.2.%d", 4*l.dpids+1), fmt.Sprintf("192.0.2.%d", 4*l.dpids+2)
	run(t, "ip", "-n", l.ns.name, "link", "add", cable, "type", "veth", "peer", "name", cable, "netns", m.name)
	for ns, addr := range map[string]string{l.ns.name: near, m.name: far} {
		run(t, "ip", "-n", ns, "addr", "add", addr+"/30", "dev", cable)
		run(t, "ip", "-n", ns, "link", "set", cable, "up")
	}
	relay, err := l.ns.listen(near + ":6653")
	require.NoError(t, err)
	t.Cleanup(func() { relay.Close() })
	go func() {
		for {
			here, err := relay.Accept()
			if err != nil {
				return
			}
			there, err := l.ns.dial(netip.AddrPort{}, netip.MustParseAddrPort(tapAddress), patience)
			if err != nil {
				here.Close()
				continue
			}
			pass := func(from, to net.Conn) {
				_, _ = io.Copy(to, from) // its end is the end of both
				from.Close()
				to.Close()
			}
			go pass(here, there)
			go pass(there, here)
		}
	}()
	m.ovs.AddBridge(ovstest.Bridge{Name: name, DPID: uint64(l.dpids), Controllers: []string{"tcp:" + near + ":6653"}})
	l.machines[name] = m
	return m
}

func newTwins(t *testing.T) *twins {
	w := &twins{lab: newLab(t)}
	w.first = w.addMachine("s1").ovs
	w.addSwitch("s2", secure)
	for range 2 {
		w.addHost("s2").serveHTTP(8080)
	}
	w.addBridge("old")
	w.ports = [2]string{w.bridgeTo("old", "s1").near(), w.bridgeTo("old", "s2").near()}
	w.addLink("s1", "s2")
	w.client = w.addLegacyHost("old")

	w.c = w.control("managed")
	w.wait(t)
	w.mac = w.c.put("web", web(members(8080, w.hosts[:2]...))).MAC
	require.NotEmpty(t, w.mac)
	w.c.wait("the bridge has learned the VIP", func() bool { return w.learned() == w.ports[0] })
	return w
}

// wait waits until the segment is as it is to be.
func (w *twins) wait(t *testing.T) {
	t.Helper()
	w.c.wait("the segment is found", func() bool {
		s := w.c.segments()
		return len(s) == 1 && s[0]["designated"] == 1 && s[0]["blocked"] == 1
	})
}

// learned is the port of the bridge that has the VIP behind it, as its table says.
func (w *twins) learned() string {
	for line := range strings.Lines(run(w.t, "bridge", "-n", w.ns.name, "fdb", "show", "br", "old", "dynamic")) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == w.mac {
			return f[2]
		}
	}
	return ""
}

// opens says whether the client gets a connection through the VIP.
func (w *twins) opens() bool {
	c, err := w.client.dial(netip.AddrPort{}, service(80), 100*time.Millisecond)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// outage has something happen while the client opens one connection after the other, and
// returns how long none could be opened from then on.
func (w *twins) outage(t *testing.T, happen func()) time.Duration {
	t.Helper()
	for range 20 {
		require.True(t, w.opens(), "before")
	}
	begin := time.Now()
	happen()
	var back time.Time
	for good := 0; good < 50; time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("the service is not back")
		}
		at := time.Now()
		if !w.opens() {
			good, back = 0, time.Time{}
			continue
		}
		if good++; back.IsZero() {
			back = at
		}
	}
	return back.Sub(begin)
}

// TestLegacyClientFollowsTheVIP kills the switch that speaks for a VIP into a legacy
// segment, or cuts its port there, under a client behind the bridge.
func TestLegacyClientFollowsTheVIP(t *testing.T) {
	w := newTwins(t)
	back := func(what string, gone time.Duration, most time.Duration) {
		t.Helper()
		t.Logf("%s: service back after %v", what, gone.Round(time.Millisecond))
		require.Less(t, gone, most, what)
		require.Equal(t, w.ports[1], w.learned(), "the bridge's table follows")
		require.Contains(t, w.client.run(t, "ip", "neigh", "show", service(80).Addr().String()), w.mac)
	}
	again := func() {
		w.wait(t)
		w.c.wait("s1 speaks again", func() bool { return w.opens() && w.learned() == w.ports[0] })
		// A reply on its way by the other port has the bridge look there, until s1 speaks again.
		begin, last := time.Now(), time.Duration(0)
		for good := 0; good < 20; good++ {
			if !w.opens() {
				good, last = -1, time.Since(begin)
				require.Less(t, last, serviceBack, "s1 speaks and does not serve")
			}
		}
		if last > 0 {
			t.Logf("s1 spoke %v before it served", last.Round(time.Millisecond))
		}
	}

	port := func(args ...string) {
		run(t, append([]string{"ip", "-n", w.ns.name, "link", "set", w.ports[0]}, args...)...)
	}
	back("its port is cut", w.outage(t, func() { port("down") }), serviceBack)
	port("up")
	again()

	// The bridge passes nothing on to it any more, and nobody loses a carrier.
	for range 2 { // the second time soon after the first
		back("its port is dead, with its carrier", w.outage(t, func() { port("nomaster") }), serviceBack+1500*time.Millisecond)
		port("master", "old")
		again()
	}

	back("the switch is killed", w.outage(t, w.first.KillVswitchd), serviceBack)
	w.first.StartVswitchd()
	again()
}
