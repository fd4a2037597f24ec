//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/store"
)

// The tests of this file restart the controller of a switch that holds 100,000
// flows and serves 200 VIPs under traffic: 1,000 numbered datagrams a second over
// all VIPs, and 200 open TCP connections that are asked all the time.

const (
	crowdVIPs = 200
	// UDP listeners of each VIP: their weights need 256 slots, and a slot is a flow.
	crowdUDP     = 2
	crowdMembers = 4
	crowdClients = 4
	crowdFlows   = crowdVIPs * crowdUDP * balancer.MaxSlots // at least
)

// scale is the short number of an ordinary run, or the long one of a soak.
func scale(short, long int) int {
	if soak {
		return long
	}
	return short
}

// stages are those that tests go through which ask the same of each; the short form
// leaves steer to others.
func stages() []string { return []string{"managed", "steer"}[:scale(1, 2)] }

// seeded returns a source of randomness whose seed is printed; RELIABILITY_SEED
// runs the same again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	if v := os.Getenv("RELIABILITY_SEED"); v != "" {
		var err error
		seed, err = strconv.ParseUint(v, 10, 64)
		require.NoError(t, err, "RELIABILITY_SEED")
	}
	t.Logf("RELIABILITY_SEED=%d runs this again", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// crowd is the lab of these tests.
type crowd struct {
	*lab
	c       *controller
	clients []*host
	servers []*host
	udp     *stream
	open    []*session

	asked  atomic.Int64
	broken chan error
}

func crowdAddress(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, byte(50 + i)}) }
func crowdName(i int) string        { return fmt.Sprintf("vip-%d", i) }

// crowdDoc is the document of a VIP. The listeners of all VIPs use member ports of
// their own.
func crowdDoc(i int, servers []*host) vipDoc {
	doc := vipDoc{Address: crowdAddress(i).String(), Listeners: []listenerDoc{listener("tcp", 80, members(uint16(20000+i), servers...))}}
	for u := range crowdUDP {
		list := members(uint16(21000+1000*u+i), servers...)
		for m := range list {
			weight := 7 + m%3 // 7, 8, 9, 7: 31 units, 8 slots or more each
			list[m].Weight = &weight
		}
		doc.Listeners = append(doc.Listeners, listener("udp", uint16(53+u), list))
	}
	return doc
}

// newCrowd programs the switch and starts the traffic.
func newCrowd(t *testing.T) *crowd {
	t.Helper()
	l := singleLab(t, secure, crowdClients+crowdMembers)
	k := &crowd{lab: l, clients: l.hosts[:crowdClients], servers: l.hosts[crowdClients:], broken: make(chan error, 1)}
	var tcp, udp []uint16
	for i := range crowdVIPs {
		tcp = append(tcp, uint16(20000+i))
		udp = append(udp, uint16(21000+i))
	}
	for _, h := range k.servers {
		h.serveHTTP(tcp...)
		h.serveEcho(udp...)
	}
	k.c = l.control("managed")
	k.impatient()
	l.sweep()

	var wg sync.WaitGroup
	var next atomic.Int64
	var failed atomic.Int64
	for range 8 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < crowdVIPs; i = int(next.Add(1)) - 1 {
				if k.c.status("PUT", "/v1/vips/"+crowdName(i), crowdDoc(i, k.servers)) != 201 {
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	require.Zero(t, failed.Load(), "VIPs that were refused")
	k.installedAll()
	flows, groups := k.counts()
	t.Logf("%d flows and %d groups of ours, %d VIPs", flows, groups, crowdVIPs)
	require.GreaterOrEqual(t, flows, crowdFlows)

	k.traffic(t)
	k.c.quiet()
	return k
}

// impatient has the switch try to connect again every second, and not after up to
// 8 s as it does by default: Open vSwitch takes that only while it is connected.
func (k *crowd) impatient() { k.ovs.Vsctl("set", "controller", "s1", "max_backoff=1000") }

func (k *crowd) installedAll() {
	k.t.Helper()
	for i := range crowdVIPs {
		k.c.installed(crowdName(i))
	}
}

// counts is what the controller knows the switch to hold of ours.
func (k *crowd) counts() (flows, groups int) {
	k.t.Helper()
	var s struct {
		Counts struct {
			Flows  int `json:"flows"`
			Groups int `json:"groups"`
		} `json:"counts"`
	}
	require.Equal(k.t, 200, k.c.rest("GET", "/v1/switches/"+k.switches()[0], nil, &s))
	return s.Counts.Flows, s.Counts.Groups
}

// traffic starts the datagrams and the connections.
func (k *crowd) traffic(t *testing.T) {
	t.Helper()
	for i := range crowdVIPs {
		s, err := k.clients[i%crowdClients].open(netip.AddrPort{}, netip.AddrPortFrom(crowdAddress(i), 80))
		require.NoError(t, err, "VIP %d", i)
		t.Cleanup(s.close)
		k.open = append(k.open, s)
	}
	k.udp = spreadStream(t, k.clients, func(n int) netip.AddrPort { return netip.AddrPortFrom(crowdAddress(n%crowdVIPs), 53) })
	k.udp.flows(t, crowdVIPs*crowdClients*sourcesEach) // each VIP from each socket

	stop := make(chan struct{})
	var asking sync.WaitGroup
	t.Cleanup(func() { close(stop); asking.Wait() })
	asking.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(4 * time.Millisecond):
			}
			s := k.open[i%len(k.open)]
			if s.idle.Load() {
				continue
			}
			member, err := s.ask()
			if err == nil && member != s.member {
				err = fmt.Errorf("answered by %s, before by %s", member, s.member)
			}
			if err != nil && !s.idle.Load() {
				select {
				case k.broken <- fmt.Errorf("connection to VIP %d: %w", i%len(k.open), err):
				default:
				}
				return
			}
			k.asked.Add(1)
		}
	})
}

// sourcesEach is how many sockets each client of a spread stream sends from.
const sourcesEach = 4

// spreadStream is a stream of datagrams from several clients, and several sockets of
// each, in turn. Open vSwitch reads a port's queue on the thread that also answers its
// controller: where that stalls on a busy machine, a queue holds some 270 packets, so
// a thousand a second must not all pass one port. to is called with 0, 1, … once for
// each round of the sockets.
func spreadStream(t *testing.T, clients []*host, to func(round int) netip.AddrPort) *stream {
	t.Helper()
	var conns []*net.UDPConn
	answers := make(chan []byte, 1<<16)
	var readers sync.WaitGroup
	for range sourcesEach {
		for _, h := range clients {
			c, err := h.listenPacket(netip.AddrPortFrom(h.addr, 0).String())
			require.NoError(t, err)
			patient(t, c)
			conns = append(conns, c)
			readers.Go(func() {
				for {
					b := make([]byte, 64)
					n, _, err := c.ReadFromUDPAddrPort(b)
					if errors.Is(err, net.ErrClosed) {
						return
					}
					if err == nil {
						answers <- b[:n]
					}
				}
			})
		}
	}
	n := 0
	return clients[0].stream(
		func(b []byte) error {
			_, err := conns[n%len(conns)].WriteToUDPAddrPort(b, to(n/len(conns)))
			n++
			return err
		},
		func(b []byte) (int, error) {
			a, ok := <-answers
			if !ok {
				return 0, net.ErrClosed
			}
			return copy(b, a), nil
		},
		func() {
			for _, c := range conns {
				_ = c.Close()
			}
			readers.Wait()
			close(answers)
		})
}

// patient gives a socket a buffer that lasts while a busy machine lets its reader wait.
func patient(t testing.TB, c *net.UDPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 4<<20)
	}))
	require.NoError(t, err)
}

// unharmed fails the test when a datagram was lost or a connection broken so far.
func (k *crowd) unharmed(t *testing.T) {
	t.Helper()
	select {
	case err := <-k.broken:
		t.Fatal(err)
	default:
	}
	// Each connection answers once more from here on.
	from := k.asked.Load()
	eventually(t, 30*time.Second, "every connection is asked once more", func() bool {
		select {
		case err := <-k.broken:
			t.Fatal(err)
		default:
		}
		return k.asked.Load() >= from+int64(len(k.open))
	})
}

// finish ends the datagrams: none may have been lost.
func (k *crowd) finish(t *testing.T) {
	t.Helper()
	r := k.udp.finish()
	t.Logf("UDP: %v; TCP: %d connections, %d requests", r, len(k.open), k.asked.Load())
	require.NoError(t, r.err)
	require.Zero(t, r.lost())
	require.Zero(t, r.repeated)
}

// unchanged fails the test when the switch was sent a message that changes it since.
func (k *crowd) unchanged(t *testing.T, before map[byte]int) {
	t.Helper()
	if after := k.tap.mods(); !maps.Equal(before, after) {
		t.Fatalf("messages that change the switch, by type, before: %v, after: %v, the last of them:\n%s", before, after, k.tap.last(t, 10))
	}
}

// usage is what a process holds.
type usage struct {
	rss, fds int // KiB; count
}

func (c *controller) usage() usage {
	c.t.Helper()
	// The process that runs is ip's until it has become fairlead's; it keeps its id.
	pid := c.cmd.Process.Pid
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(c.t, err)
	var u usage
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			u.rss, _ = strconv.Atoi(f[1])
		}
	}
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(c.t, err)
	u.fds = len(list)
	return u
}

// TestU01GracefulRestarts replaces the controller again and again while nothing
// changes: nobody may notice.
func TestU01GracefulRestarts(t *testing.T) {
	k := newCrowd(t)
	before, first := k.tap.mods(), k.c.usage()
	var slowest time.Duration
	for range scale(2, 20) {
		k.c.stop()
		begin := time.Now()
		k.c.start()
		k.installedAll()
		slowest = max(slowest, time.Since(begin))
	}
	k.c.quiet()
	k.unharmed(t)
	k.unchanged(t, before)
	k.finish(t)
	last := k.c.usage()
	t.Logf("%d graceful restarts, 0 messages that change the switch; the slowest had all VIPs confirmed after %s; RSS %d MiB at first, %d MiB at last, descriptors %d and %d",
		scale(2, 20), slowest.Round(time.Millisecond), first.rss>>10, last.rss>>10, first.fds, last.fds)
	require.LessOrEqual(t, last.fds, first.fds+2)
	require.LessOrEqual(t, last.rss, 2*first.rss)
}

// TestU02Killed kills the controller at random moments of its start and of its
// life, with a writer that keeps the store busy.
func TestU02Killed(t *testing.T) {
	random := seeded(t)
	k := newCrowd(t)
	// What the writer writes is of a VIP that is switched off: it is stored and changes no switch.
	spare := func(n int) map[string]any {
		weight := 1 + n%2
		member := k.servers[0].member(39999)
		member.Weight = &weight
		return map[string]any{"address": "10.0.0.254", "enabled": false, "listeners": []listenerDoc{
			listener("tcp", 80, []memberDoc{member, k.servers[1].member(39999)}),
		}}
	}
	k.c.must("PUT", "/v1/vips/spare", spare(0))
	k.c.quiet()
	before := k.tap.mods()

	stop := make(chan struct{})
	var writing sync.WaitGroup
	var written atomic.Int64
	writing.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			if k.c.status("PUT", "/v1/vips/spare", spare(n)) == 200 {
				written.Add(1)
			}
		}
	})
	for range scale(5, 200) {
		time.Sleep(time.Duration(random.Int64N(int64(4 * time.Second)))) // the random moment
		k.c.kill()
		k.c.launch()
	}
	k.c.ready()
	k.installedAll()
	close(stop)
	writing.Wait()
	k.c.quiet()
	k.unharmed(t)
	k.unchanged(t, before)
	k.finish(t)
	t.Logf("%d kills, 0 messages that change the switch; %d writes stored meanwhile", scale(5, 200), written.Load())
}

// TestU03ChangedWhileDown makes changes while the controller is down: the next start
// sends exactly what differs, and the other VIPs notice nothing.
func TestU03ChangedWhileDown(t *testing.T) {
	random := seeded(t)
	k := newCrowd(t)
	const half = crowdVIPs / 2
	for _, s := range k.open[half:] { // of VIPs that change
		s.idle.Store(true)
	}
	for _, n := range []int{1, 10, 1000} {
		k.c.stop()
		before := k.tap.mods()
		flows, groups := k.edit(t, random, n, half)
		k.c.start()
		k.installedAll()
		k.c.quiet()
		after := k.tap.mods()
		t.Logf("%d changes while down: %d flow-mods and %d group-mods", n, after[typeFlowMod]-before[typeFlowMod], after[typeGroupMod]-before[typeGroupMod])
		require.Equal(t, flows, after[typeFlowMod]-before[typeFlowMod], "flow-mods for %d changes", n)
		require.Equal(t, groups, after[typeGroupMod]-before[typeGroupMod], "group-mods for %d changes", n)
		k.unharmed(t)
	}
	k.finish(t)
}

// edit changes n weights of random members in the store, of VIPs from a number on,
// and returns how many flows and groups differ from then on: a flow a slot of UDP
// that has another owner, a group where a slot of TCP has.
func (k *crowd) edit(t *testing.T, random *rand.Rand, n, from int) (flows, groups int) {
	t.Helper()
	db, err := store.Open(k.c.data, store.Options{})
	require.NoError(t, err)
	intents := balancer.NewIntents(db, time.Now, func(balancer.Change) {})
	ctx := context.Background()
	old, err := intents.All(ctx)
	require.NoError(t, err)
	for range n {
		i := from + random.IntN(crowdVIPs-from)
		rec, err := intents.Get(ctx, crowdName(i))
		require.NoError(t, err)
		l := rec.VIP.Listeners[random.IntN(len(rec.VIP.Listeners))]
		m := l.Pool.Members[random.IntN(len(l.Pool.Members))]
		for w := m.Weight; w == m.Weight; {
			m.Weight = 5 + random.IntN(10)
		}
		_, _, err = intents.PutMember(ctx, rec.VIP.Name, l.Key(), m, balancer.Condition{})
		require.NoError(t, err)
	}
	now, err := intents.All(ctx)
	require.NoError(t, err)
	require.NoError(t, db.Close())
	for i := range old {
		require.Equal(t, old[i].VIP.Name, now[i].VIP.Name)
		for j, was := range old[i].Listeners {
			is := now[i].Listeners[j]
			if was.Key.Protocol == balancer.TCP {
				if !slices.Equal(was.Slots.Home, is.Slots.Home) {
					groups++
				}
				continue
			}
			require.Len(t, is.Slots.Home, len(was.Slots.Home), "slots of %s %s", old[i].VIP.Name, was.Key)
			for s := range was.Slots.Home {
				if was.Slots.Home[s] != is.Slots.Home[s] {
					flows++
				}
			}
		}
	}
	return flows, groups
}
