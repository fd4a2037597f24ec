package scale

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/discovery"
	"github.com/fairlead/fairlead/apps/forwarding"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// scale is the short number of an ordinary run, or the long one of a soak.
func scale(short, long int) int {
	if soak {
		return long
	}
	return short
}

// key authenticates probes.
var key = []byte("0123456789abcdef0123456789abcdef")

// keep is what outlives a controller.
type keep struct {
	memory lab.Memory
	dir    string
}

type options struct {
	keep     *keep
	stage    controller.Stage
	apps     []controller.App // besides the usual ones
	maxHosts int
	vips     []balancer.VIP // stored before the start
}

// rig is a running controller that listens on loopback.
type rig struct {
	t       *testing.T
	core    *controller.Controller
	intents *balancer.Intents
	app     *balancer.App
	service *balancer.Service
	addr    string
	log     *logs
	stop    func()
}

// start runs a controller until the end of the test, when all of its goroutines and
// descriptors must be gone.
func start(t *testing.T, o options) *rig {
	t.Helper()
	if o.keep == nil {
		o.keep = &keep{dir: t.TempDir()}
	}
	// The runtime's own descriptors for the network are there from the first listener on.
	first, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, first.Close())
	files := descriptors(t)
	db, err := store.Open(o.keep.dir, store.Options{})
	require.NoError(t, err)
	log := &logs{}
	r := &rig{t: t, log: log}
	graph := topology.New(topology.Options{EdgeDelay: lab.EdgeDelay, MaxHosts: o.maxHosts})
	found := discovery.New(key, rand.NewChaCha8([32]byte(key)), o.keep.memory.SaveTopology)
	require.NoError(t, found.Restore(graph, o.keep.memory.Topology(), time.Now()))
	r.intents = balancer.NewIntents(db, time.Now, func(c balancer.Change) {
		if r.core != nil {
			_ = r.core.Post(context.Background(), c)
		}
	})
	var g errgroup.Group
	g.SetLimit(64)
	for _, v := range o.vips {
		g.Go(func() error {
			_, _, err := r.intents.Put(t.Context(), v, balancer.Condition{})
			return err
		})
	}
	require.NoError(t, g.Wait())
	records, err := r.intents.All(t.Context())
	require.NoError(t, err)
	r.app = balancer.NewApp(records, r.intents.SaveOwners)
	apps := append([]controller.App{found, forwarding.New(graph), r.app}, o.apps...)
	ctx, cancel := context.WithCancel(context.Background())
	r.core, err = controller.New(ctx, controller.Options{
		Store: &o.keep.memory, Graph: graph, Apps: apps, Cluster: "scale", DefaultStage: o.stage,
		Log: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	require.NoError(t, err)
	r.service = balancer.NewService(r.intents, r.app, r.core)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r.addr = ln.Addr().String()
	done := make(chan error, 1)
	label := t.Name()
	pprof.Do(ctx, pprof.Labels("rig", label), func(ctx context.Context) {
		go func() { done <- r.core.Run(ctx, ln) }()
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, db.Close())
		eventually(t, 5*time.Second, "all goroutines of the controller have ended", func() bool { return goroutines(label) == 0 })
		// The switches close theirs when they have read what was on its way.
		eventually(t, 30*time.Second, fmt.Sprintf("all descriptors are closed but %d", files), func() bool { return descriptors(t) <= files })
	})
	t.Cleanup(func() {
		r.stop()
		if t.Failed() {
			t.Logf("the controller's log (last lines):\n%s", log.tail(30))
		}
	})
	return r
}

// logs keeps the controller's log.
type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logs) tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := strings.Split(l.b.String(), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func eventually(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			require.Fail(t, fmt.Sprintf("not within %v: %s", within, what))
		}
	}
}

// goroutines counts those that carry the label of a rig.
func goroutines(label string) (n int) {
	var b bytes.Buffer
	_ = pprof.Lookup("goroutine").WriteTo(&b, 1)
	count := 0
	for line := range strings.Lines(b.String()) {
		if head, _, ok := strings.Cut(line, " @ "); ok {
			count, _ = strconv.Atoi(head)
		}
		if strings.HasPrefix(line, "# labels:") && strings.Contains(line, strconv.Quote(label)) {
			n += count
		}
	}
	return n
}

// descriptors counts the open files of this process.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(list)
}

// memory is what heap and stacks hold after a collection, in bytes.
func memory() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// connectAll connects switches at once and returns for each how long it took until
// it held all that it is to hold. The switches are closed at the end of the test.
func (r *rig) connectAll(switches []*fake) []time.Duration {
	r.t.Helper()
	times := make([]time.Duration, len(switches))
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	var g errgroup.Group
	begin := time.Now()
	for i, f := range switches {
		g.Go(func() error {
			if err := f.connect(r.addr); err != nil {
				return err
			}
			for {
				known := false
				if err := r.core.Do(ctx, func(c *controller.Context) { known = c.Switch(f.dpid) != nil }); err != nil {
					return fmt.Errorf("switch %s: %w", f.dpid, err)
				}
				if known {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			err := r.core.Settled(ctx, f.dpid)
			times[i] = time.Since(begin)
			return err
		})
	}
	require.NoError(r.t, g.Wait())
	return times
}

func closeAll(switches []*fake) {
	for _, f := range switches {
		f.close()
	}
}

// noFaults fails the test when a switch refused something.
func (r *rig) noFaults() {
	r.t.Helper()
	faults := map[string]string{}
	require.NoError(r.t, r.core.Do(context.Background(), func(c *controller.Context) {
		for sw := range c.Switches() {
			for part, why := range sw.Faults {
				faults[sw.DPID.String()+" "+part] = why
			}
		}
	}))
	require.Empty(r.t, faults)
}

// settled waits until a document is acknowledged by all switches.
func (r *rig) settled(rec balancer.Record) {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(r.t, r.service.Wait(ctx, rec.VIP.Name, rec.VIP.Generation), "VIP %s", rec.VIP.Name)
}

func (r *rig) put(v balancer.VIP) balancer.Record {
	r.t.Helper()
	rec, _, err := r.intents.Put(r.t.Context(), v, balancer.Condition{})
	require.NoError(r.t, err)
	return rec
}

const fakePorts = 5

// tree returns n switches that cables join to a tree of four branches each; port 5
// of each leads to a host.
func tree(n int) []*fake {
	list := make([]*fake, n)
	for i := range list {
		list[i] = newFake(ofproto.DPID(i+1), fakePorts)
		list[i].hosts[fakePorts] = fakeHost{hostMAC(i), hostIP(i)}
		if i > 0 {
			// Port 1 leads up, 2 to 4 lead down.
			join(list[i], 1, list[(i-1)/3], ofproto.Port(2+(i-1)%3))
		}
	}
	return list
}

func hostMAC(i int) ofproto.MAC { return ofproto.MAC{2, 0, 0, 0, byte(i >> 8), byte(i)} }
func hostIP(i int) netip.Addr   { return netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}) }

// vipOf is a document with one TCP listener over the hosts of some switches. All
// VIPs use member ports of their own, or other hosts.
func vipOf(i int, port uint16, hosts ...int) balancer.VIP {
	l := balancer.Listener{Protocol: balancer.TCP, Port: 80, Pool: balancer.Pool{Persistence: balancer.PersistenceNone}}
	for _, h := range hosts {
		l.Pool.Members = append(l.Pool.Members, balancer.Member{Address: hostIP(h), Port: port, Weight: 1, AdminState: balancer.AdminUp})
	}
	return balancer.VIP{
		Name: fmt.Sprintf("vip-%d", i), Address: netip.AddrFrom4([4]byte{10, 2, byte(i >> 8), byte(i)}), Mode: balancer.ModeNAT,
		Enabled: true, OnEmpty: balancer.OnEmptyDrop, Listeners: []balancer.Listener{l},
	}
}

func median(d []time.Duration) time.Duration { return slices.Sorted(slices.Values(d))[len(d)/2] }
