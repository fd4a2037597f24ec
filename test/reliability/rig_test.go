package reliability

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/discovery"
	"github.com/fairlead/fairlead/apps/forwarding"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/faultproxy"
	"github.com/fairlead/fairlead/test/simswitch"
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

// seeded returns a source of randomness whose seed is printed when the test fails.
func seeded(t *testing.T) (*rand.Rand, uint64) {
	t.Helper()
	seed := rand.Uint64()
	if !soak {
		seed = 1 // an ordinary run asks the same every time; a soak goes looking
	}
	if v := os.Getenv("RELIABILITY_SEED"); v != "" {
		var err error
		seed, err = strconv.ParseUint(v, 10, 64)
		require.NoError(t, err, "RELIABILITY_SEED")
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("RELIABILITY_SEED=%d runs this again", seed)
		}
	})
	return rand.New(rand.NewPCG(seed, 1)), seed
}

// bubble runs a test in parallel with others, in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, f)
}

// key authenticates the probes of a rig.
var key = []byte("0123456789abcdef0123456789abcdef")

// keep is what a controller keeps over a restart.
type keep struct {
	memory *lab.Memory
	dir    string
}

type options struct {
	keep  *keep
	stage controller.Stage // the zero is managed; observe has no test here
	tcp   bool             // listen on loopback
	apps  []controller.App // besides the usual ones
	only  bool             // the usual ones are left out
	key   []byte           // authenticates probes; nil: the usual one
	// relays: hosts pass on probes, which is told of no other network.
	relays bool
}

// rig is a running controller with its apps, and a network of software switches.
type rig struct {
	*simswitch.Network
	t       *testing.T
	keep    *keep
	core    *controller.Controller
	graph   *topology.Graph
	db      *store.Store
	intents *balancer.Intents
	app     *balancer.App
	service *balancer.Service
	logs    *journal
	door    *door

	ctx     context.Context
	stop    func()
	serving sync.WaitGroup
	mu      sync.Mutex
	proxies map[ofproto.DPID]*faultproxy.Proxy
	cancels map[ofproto.DPID]context.CancelFunc
}

// start runs a controller until the end of the test. At its end all goroutines and
// connections of the rig must be gone.
func start(t *testing.T, o options) *rig {
	t.Helper()
	if o.keep == nil {
		o.keep = &keep{memory: &lab.Memory{Cluster: "reliability"}, dir: t.TempDir()}
	}
	if o.stage == 0 {
		o.stage = controller.StageManaged
	}
	r := &rig{
		Network: simswitch.NewNetwork(), t: t, keep: o.keep, logs: &journal{},
		proxies: map[ofproto.DPID]*faultproxy.Proxy{}, cancels: map[ofproto.DPID]context.CancelFunc{},
	}
	r.door = openDoor(t, o.tcp)
	var err error
	r.db, err = store.Open(o.keep.dir, store.Options{})
	require.NoError(t, err)
	r.graph = topology.New(topology.Options{EdgeDelay: lab.EdgeDelay, MoveEvery: 5 * time.Second, Claims: true})
	if o.key == nil {
		o.key = key
	}
	found := discovery.New(o.key, rand.NewChaCha8([32]byte(key)), o.keep.memory.SaveTopology)
	require.NoError(t, found.Restore(r.graph, o.keep.memory.Topology(), time.Now()))
	r.intents = balancer.NewIntents(r.db, time.Now, func(c balancer.Change) { _ = r.core.Post(context.Background(), c) })
	records, err := r.intents.All(t.Context())
	require.NoError(t, err)
	r.app = balancer.NewApp(records, r.intents.SaveOwners)
	apps := o.apps
	if !o.only {
		apps = append([]controller.App{found, forwarding.New(r.graph), r.app}, apps...)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.ctx = ctx
	r.core, err = controller.New(ctx, controller.Options{
		Store: o.keep.memory, Graph: r.graph, Apps: apps, Cluster: o.keep.memory.Cluster, DefaultStage: o.stage,
		Log: slog.New(r.logs),
	})
	require.NoError(t, err)
	r.service = balancer.NewService(r.intents, r.app, r.core)
	done := make(chan error, 1)
	label := t.Name()
	pprof.Do(ctx, pprof.Labels("rig", label), func(ctx context.Context) {
		go func() { done <- r.core.Run(ctx, r.door) }()
	})
	r.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
		r.serving.Wait()
		require.NoError(t, r.db.Close())
		require.Zero(t, r.door.open.Load(), "connections left open")
		for _, line := range r.logs.with("do hosts pass on probes?") {
			if !o.relays {
				t.Error(line)
			}
		}
		if o.tcp {
			eventually(t, 5*time.Second, "all goroutines of the controller have ended", func() bool { return goroutines(label) == 0 })
		}
	})
	t.Cleanup(r.stop)
	return r
}

// restart ends the controller and starts another one over the same network and
// stores; the switches come back to it.
func (r *rig) restart(o options) *rig {
	r.t.Helper()
	r.stop()
	o.keep = r.keep
	next := start(r.t, o)
	next.Network = r.Network
	for _, sw := range r.Switches() {
		next.connect(sw.DPID())
	}
	return next
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

// heap is what is in use after a collection, in bytes.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// eventually polls a condition; in a bubble that takes no time.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	wait := 2 * time.Millisecond
	for end := time.Now().Add(within); !condition(); time.Sleep(wait) {
		if time.Now().After(end) {
			require.Fail(t, fmt.Sprintf("not within %v: %s", within, what))
		}
		wait = min(wait*21/20, 200*time.Millisecond)
	}
}

// took is how long it takes until a condition holds, at most within.
func took(t *testing.T, within time.Duration, what string, condition func() bool) time.Duration {
	t.Helper()
	begin := time.Now()
	eventually(t, within, what, condition)
	return time.Since(begin)
}

// proxy is the one in front of a switch; add makes one that reconnects every
// second, as Open vSwitch does.
func (r *rig) proxy(dpid ofproto.DPID) *faultproxy.Proxy {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.proxies[dpid]
}

// add plugs a switch into the network and connects it, by a proxy.
func (r *rig) add(o simswitch.Options) *simswitch.Switch {
	sw := r.AddSwitch(o)
	r.connect(o.DPID)
	return sw
}

// connect has a switch of the network connect, and connect again whenever the
// connection ends.
func (r *rig) connect(dpid ofproto.DPID) *faultproxy.Proxy {
	return r.connectBy(dpid, faultproxy.Options{})
}

func (r *rig) connectBy(dpid ofproto.DPID, o faultproxy.Options) *faultproxy.Proxy {
	p := faultproxy.New(func(context.Context) (net.Conn, error) { return r.door.dial() }, o)
	ctx, cancel := context.WithCancel(r.ctx)
	r.mu.Lock()
	r.proxies[dpid], r.cancels[dpid] = p, cancel
	r.mu.Unlock()
	sw := r.Switch(dpid)
	r.serving.Go(func() {
		for ctx.Err() == nil {
			r.session(ctx, sw, p)
			sleep(ctx, time.Second)
		}
	})
	return p
}

// session is one connection of a switch through its proxy, to its end.
func (r *rig) session(ctx context.Context, sw *simswitch.Switch, p *faultproxy.Proxy) {
	near, far := net.Pipe()
	var both sync.WaitGroup
	both.Go(func() { _ = p.Serve(ctx, far) })
	_ = sw.Serve(ctx, near)
	both.Wait()
}

// disconnect ends the connection of a switch; it does not come back by itself.
func (r *rig) disconnect(dpid ofproto.DPID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cancels[dpid]()
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// known returns what the core knows of a connected switch.
func (r *rig) known(dpid ofproto.DPID) (sw controller.Switch, ok bool) {
	r.t.Helper()
	require.NoError(r.t, r.core.Do(r.ctx, func(c *controller.Context) {
		if s := c.Switch(dpid); s != nil {
			sw, ok = *s, true
			sw.Ports = map[ofproto.Port]ofproto.PortDesc{}
			for k, v := range s.Ports {
				sw.Ports[k] = v
			}
			sw.Faults = map[string]string{}
			for k, v := range s.Faults {
				sw.Faults[k] = v
			}
		}
	}))
	return sw, ok
}

// snapshot returns the network as the controller knows it.
func (r *rig) snapshot() (s *topology.Snapshot) {
	r.t.Helper()
	require.NoError(r.t, r.core.Do(r.ctx, func(c *controller.Context) { s = c.Graph.Snapshot() }))
	return s
}

func (r *rig) connected(dpid ofproto.DPID) bool { _, ok := r.known(dpid); return ok }

// ready waits until switches are connected and hold what they are to hold.
func (r *rig) ready(dpids ...ofproto.DPID) {
	r.t.Helper()
	for _, dpid := range dpids {
		eventually(r.t, 30*time.Second, fmt.Sprintf("switch %v connected", dpid), func() bool { return r.connected(dpid) })
		ctx, cancel := context.WithTimeout(r.ctx, 60*time.Second)
		require.NoError(r.t, r.core.Settled(ctx, dpid))
		cancel()
	}
}

// settle lets ports settle and links be found, in virtual time.
func (r *rig) settle() { time.Sleep(4 * time.Second) }

// since returns the connection's age, to tell whether a switch was disconnected.
func (r *rig) since(dpid ofproto.DPID) time.Time {
	sw, _ := r.known(dpid)
	return sw.Since
}

// noFaults fails the test when a switch refused something.
func (r *rig) noFaults() {
	r.t.Helper()
	for _, sw := range r.Switches() {
		k, _ := r.known(sw.DPID())
		require.Empty(r.t, k.Faults, "switch %v", sw.DPID())
	}
}

// mods is how many mods all switches were sent.
func (r *rig) mods() (sum int) {
	for _, sw := range r.Switches() {
		sum += sw.Mods()
	}
	return sum
}

// door is the listener of a rig; it counts the connections that are open.
type door struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	open   atomic.Int64
	tcp    net.Listener
}

func openDoor(t *testing.T, tcp bool) *door {
	d := &door{conns: make(chan net.Conn), closed: make(chan struct{})}
	if tcp {
		var err error
		d.tcp, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	return d
}

type counted struct {
	net.Conn
	close func()
}

func (c *counted) Close() error {
	c.close()
	return c.Conn.Close()
}

func (d *door) count(nc net.Conn) net.Conn {
	d.open.Add(1)
	return &counted{nc, sync.OnceFunc(func() { d.open.Add(-1) })}
}

func (d *door) Accept() (net.Conn, error) {
	if d.tcp != nil {
		nc, err := d.tcp.Accept()
		if err != nil {
			return nil, err
		}
		return d.count(nc), nil
	}
	select {
	case c := <-d.conns:
		return d.count(c), nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

func (d *door) Close() error {
	d.once.Do(func() { close(d.closed) })
	if d.tcp != nil {
		return d.tcp.Close()
	}
	return nil
}

func (d *door) Addr() net.Addr {
	if d.tcp != nil {
		return d.tcp.Addr()
	}
	return pipeAddr{}
}

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// dial opens a connection to the controller.
func (d *door) dial() (net.Conn, error) {
	if d.tcp != nil {
		return net.Dial("tcp", d.tcp.Addr().String())
	}
	here, there := net.Pipe()
	select {
	case d.conns <- there:
		return here, nil
	case <-d.closed:
		return nil, errors.New("the controller does not listen")
	}
}

// journal counts log lines by their message.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }

func (j *journal) Handle(_ context.Context, rec slog.Record) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", rec.Level, rec.Message)
	rec.Attrs(func(a slog.Attr) bool { fmt.Fprintf(&b, " %s=%v", a.Key, a.Value); return true })
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, b.String())
	return nil
}

func (j *journal) WithAttrs([]slog.Attr) slog.Handler { return j }
func (j *journal) WithGroup(string) slog.Handler      { return j }

// with returns the lines that hold a text.
func (j *journal) with(text string) (lines []string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, l := range j.lines {
		if strings.Contains(l, text) {
			lines = append(lines, l)
		}
	}
	return lines
}

func (j *journal) len() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.lines)
}

// VIPs.

const (
	vipPort    = 80
	memberPort = 8080
)

func vipAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 100 + byte(i>>8), byte(i)}) }

func vipName(i int) string { return fmt.Sprintf("vip-%d", i) }

// vip is a document with one TCP listener; each VIP uses member ports of its own.
func (r *rig) vip(i int, members ...string) balancer.VIP {
	l := balancer.Listener{Protocol: balancer.TCP, Port: vipPort, Pool: balancer.Pool{Persistence: balancer.PersistenceNone}}
	for _, m := range members {
		l.Pool.Members = append(l.Pool.Members, balancer.Member{
			Address: r.Host(m).IP, Port: uint16(memberPort + i), Weight: 1, AdminState: balancer.AdminUp,
		})
	}
	return balancer.VIP{
		Name: vipName(i), Address: vipAddr(i), Mode: balancer.ModeNAT, Enabled: true, OnEmpty: balancer.OnEmptyDrop,
		Listeners: []balancer.Listener{l},
	}
}

// put writes a document without waiting for the switches.
func (r *rig) put(v balancer.VIP) balancer.Record {
	r.t.Helper()
	rec, _, err := r.intents.Put(r.t.Context(), v, balancer.Condition{})
	require.NoError(r.t, err)
	return rec
}

// install writes a document and waits until all switches have answered.
func (r *rig) install(v balancer.VIP) balancer.Record {
	r.t.Helper()
	rec := r.put(v)
	ctx, cancel := context.WithTimeout(r.ctx, 60*time.Second)
	defer cancel()
	require.NoError(r.t, r.service.Wait(ctx, v.Name, rec.VIP.Generation), "VIP %s", v.Name)
	return rec
}

// status is what the REST API says of a VIP.
func (r *rig) status(name string) balancer.Status {
	r.t.Helper()
	var s balancer.Status
	require.NoError(r.t, r.core.Do(r.ctx, func(c *controller.Context) { s, _ = r.app.Status(c, name) }))
	return s
}

// learn has all hosts known.
func (r *rig) learn() {
	for _, h := range r.Hosts() {
		r.Announce(h)
	}
	time.Sleep(time.Second)
}

// fill gives a switch n hosts h1 … hn, at ports 1 … n.
func (r *rig) fill(dpid ofproto.DPID, n int) {
	for i := 1; i <= n; i++ {
		r.AddHost(simswitch.Host{
			Name: fmt.Sprintf("h%d", i), MAC: [6]byte{2, 0, 0, 0, byte(dpid), byte(i)},
			IP: netip.AddrFrom4([4]byte{10, 0, byte(dpid), byte(i)}), At: simswitch.Place{DPID: dpid, Port: ofproto.Port(i)},
		})
	}
}

// single is a rig with one switch, number 1, and n hosts that are known.
func single(t *testing.T, n int, o options, sw simswitch.Options) *rig {
	t.Helper()
	r := start(t, o)
	sw.DPID = 1
	r.AddSwitch(sw)
	r.fill(1, n)
	r.connect(1)
	r.ready(1)
	r.settle()
	r.learn()
	r.ready(1)
	return r
}

// request is the first packet of a connection of a host to a VIP.
func (r *rig) request(from string, sport uint16, rec balancer.Record) []byte {
	h := r.Host(from)
	f := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: h.AddrPort(sport), Dst: netip.AddrPortFrom(rec.VIP.Address, vipPort)}
	return packet.AppendTCPFrame(nil, f, packet.TCP{Flags: packet.TCPSyn}, nil)
}

// serves sends a request to a VIP and returns the host that got it, "" for none.
// The member must get it at its own address.
func (r *rig) serves(from string, sport uint16, rec balancer.Record) string {
	r.t.Helper()
	r.Forget()
	r.Send(from, r.request(from, sport, rec))
	who := ""
	for _, h := range r.Hosts() {
		for _, f := range r.Seen(h) {
			to := simswitch.Headers(f)
			if to.Src != r.Host(from).AddrPort(sport) {
				continue
			}
			require.Equal(r.t, r.Host(h).IP, to.Dst.Addr(), "%s got a packet for somebody else", h)
			require.Empty(r.t, who, "%s got it too", h)
			who = h
		}
	}
	return who
}

// picks is which member serves each of n connections.
func (r *rig) picks(n int, rec balancer.Record) []string {
	r.t.Helper()
	out := make([]string, n)
	for i := range out {
		out[i] = r.serves("h1", uint16(20000+i), rec)
	}
	return out
}
