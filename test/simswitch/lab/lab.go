// Package lab runs the real controller over a network of software switches, for
// tests that ask what the whole does with packets. It belongs in a bubble of
// testing/synctest: seconds of the network then take no time, and a test waits for
// what it expects instead of sleeping.
package lab

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/discovery"
	"github.com/fairlead/fairlead/apps/forwarding"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/topology"
)

// EdgeDelay is how long ports of a lab settle.
const EdgeDelay = time.Second

// Memory is what a controller keeps over a restart. It implements
// controller.Store. It is safe for concurrent use.
type Memory struct {
	Cluster string // identity of the store

	mu       sync.Mutex
	stages   map[ofproto.DPID]controller.Stage
	bpdus    map[ofproto.DPID]controller.BPDUs
	macs     map[ofproto.DPID][]ofproto.MAC
	term     uint64
	topology []byte
	kinds    map[string]controller.Capabilities
}

// Stages implements controller.Store.
func (m *Memory) Stages(context.Context) (map[ofproto.DPID]controller.Stage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	stages := map[ofproto.DPID]controller.Stage{}
	maps.Copy(stages, m.stages)
	return stages, nil
}

// SetStage implements controller.Store.
func (m *Memory) SetStage(_ context.Context, dpid ofproto.DPID, stage controller.Stage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stages == nil {
		m.stages = map[ofproto.DPID]controller.Stage{}
	}
	m.stages[dpid] = stage
	return nil
}

// BPDUs implements controller.Store.
func (m *Memory) BPDUs(context.Context) (map[ofproto.DPID]controller.BPDUs, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	bpdus := map[ofproto.DPID]controller.BPDUs{}
	maps.Copy(bpdus, m.bpdus)
	return bpdus, nil
}

// SetBPDUs implements controller.Store.
func (m *Memory) SetBPDUs(_ context.Context, dpid ofproto.DPID, b controller.BPDUs) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bpdus == nil {
		m.bpdus = map[ofproto.DPID]controller.BPDUs{}
	}
	m.bpdus[dpid] = b
	return nil
}

// PortMACs implements controller.Store.
func (m *Memory) PortMACs(context.Context) (map[ofproto.DPID][]ofproto.MAC, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	macs := map[ofproto.DPID][]ofproto.MAC{}
	maps.Copy(macs, m.macs)
	return macs, nil
}

// SetPortMACs implements controller.Store.
func (m *Memory) SetPortMACs(_ context.Context, dpid ofproto.DPID, macs []ofproto.MAC) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.macs == nil {
		m.macs = map[ofproto.DPID][]ofproto.MAC{}
	}
	m.macs[dpid] = slices.Clone(macs)
	return nil
}

// NextTerm implements controller.Store.
func (m *Memory) NextTerm(_ context.Context, least uint64) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.term = max(m.term+1, least)
	return m.term, nil
}

// Capabilities implements controller.Store.
func (m *Memory) Capabilities(context.Context) (map[string]controller.Capabilities, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.kinds), nil
}

// SetCapabilities implements controller.Store.
func (m *Memory) SetCapabilities(_ context.Context, kind string, c controller.Capabilities) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kinds == nil {
		m.kinds = map[string]controller.Capabilities{}
	}
	m.kinds[kind] = c
	return nil
}

// SaveTopology keeps what the discovery app saves.
func (m *Memory) SaveTopology(_ context.Context, b []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.topology = b
	return nil
}

// Topology returns what was saved last.
func (m *Memory) Topology() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.topology
}

// Options configures a lab. The zero value is a controller with discovery and
// forwarding whose switches are managed.
type Options struct {
	Memory *Memory // of an earlier lab, for a restart
	Stage  controller.Stage
	// Observe makes observe the default stage: the zero of Stage stands for managed.
	Observe bool
	// Apps returns the apps besides discovery and forwarding.
	Apps func() []controller.App
	// Virtual says which addresses are no host's (discovery.App.Except); nil: none.
	Virtual func(netip.Addr) bool
	// Only has no discovery and no forwarding either.
	Only bool
	Key  []byte    // authenticates probes; nil: one that all labs share
	Log  io.Writer // nil: nowhere
	// Relays says that hosts pass on probes. Otherwise a lab fails that is told of it.
	Relays bool
}

// Lab is a running controller and the network it controls.
type Lab struct {
	*simswitch.Network
	Core   *controller.Controller
	Memory *Memory

	t        *testing.T
	listener *listener
	ctx      context.Context
	stop     func()
	mu       sync.Mutex
	channels map[ofproto.DPID]context.CancelFunc
	serving  sync.WaitGroup
}

const commonKey = "0123456789abcdef0123456789abcdef"

// Start runs a controller over a network whose switches all connect, and stops it
// at the end of the test.
func Start(t *testing.T, n *simswitch.Network, o Options) *Lab {
	t.Helper()
	if o.Memory == nil {
		o.Memory = &Memory{}
	}
	if o.Stage == 0 && !o.Observe {
		o.Stage = controller.StageManaged
	}
	if o.Key == nil {
		o.Key = []byte(commonKey)
	}
	if o.Log == nil {
		o.Log = io.Discard
	}
	g := topology.New(topology.Options{EdgeDelay: EdgeDelay})
	var apps []controller.App
	found := discovery.New(o.Key, rand.NewChaCha8([32]byte([]byte(commonKey))), o.Memory.SaveTopology)
	found.Except(o.Virtual)
	require.NoError(t, found.Restore(g, o.Memory.Topology(), time.Now()))
	if !o.Only {
		apps = append(apps, found, forwarding.New(g))
	}
	if o.Apps != nil {
		apps = append(apps, o.Apps()...)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var relayed alarmed
	core, err := controller.New(ctx, controller.Options{
		Store: o.Memory, Cluster: o.Memory.Cluster, Graph: g, Apps: apps, DefaultStage: o.Stage,
		Log: slog.New(slog.NewTextHandler(io.MultiWriter(o.Log, &relayed), nil)),
	})
	require.NoError(t, err)
	l := &Lab{
		Network: n, Core: core, Memory: o.Memory, t: t, ctx: ctx,
		listener: newListener(), channels: map[ofproto.DPID]context.CancelFunc{},
	}
	done := make(chan error, 1)
	go func() { done <- core.Run(ctx, l.listener) }()
	l.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
		l.serving.Wait()
		require.Equal(t, o.Relays, relayed.Load(), "an alarm of probes that are passed on")
	})
	t.Cleanup(l.stop)
	for _, sw := range n.Switches() {
		l.Connect(sw.DPID())
	}
	return l
}

// alarmed says whether the controller has found that hosts pass on probes.
type alarmed struct{ atomic.Bool }

func (a *alarmed) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("do hosts pass on probes?")) {
		a.Store(true)
	}
	return len(b), nil
}

// Stop ends the controller. The switches keep what they have.
func (l *Lab) Stop() { l.stop() }

// Dial opens a connection to the controller.
func (l *Lab) Dial() net.Conn {
	here, there := net.Pipe()
	select {
	case l.listener.conns <- there:
	case <-l.listener.closed:
		there.Close()
	}
	return here
}

// redial is how long a switch waits before it tries again to connect.
const redial = time.Second

// Connect has a switch connect to the controller, again and again as switches do.
func (l *Lab) Connect(dpid ofproto.DPID) {
	ctx, cancel := context.WithCancel(l.ctx)
	l.mu.Lock()
	l.channels[dpid] = cancel
	l.mu.Unlock()
	nc := l.Dial()
	l.serving.Go(func() {
		for {
			_ = l.Switch(dpid).Serve(ctx, nc) // why it ended is the controller's to say
			select {
			case <-ctx.Done():
				return
			case <-time.After(redial):
				nc = l.Dial()
			}
		}
	})
}

// Disconnect ends the connection of a switch for good, until Connect.
func (l *Lab) Disconnect(dpid ofproto.DPID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.channels[dpid]()
}

// Settle lets the network come to rest: links are probed, ports settle, switches
// get what they are to hold.
func (l *Lab) Settle() { l.Pass(4 * time.Second) }

// Pass lets time pass.
func (l *Lab) Pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// Do runs f on the core loop.
func (l *Lab) Do(f func(*controller.Context)) {
	l.t.Helper()
	require.NoError(l.t, l.Core.Do(l.ctx, f))
}

// Snapshot returns the network as the controller knows it.
func (l *Lab) Snapshot() (snap *topology.Snapshot) {
	l.t.Helper()
	l.Do(func(c *controller.Context) { snap = c.Graph.Snapshot() })
	return snap
}

// Mods returns how many flow-mods and group-mods all switches were sent so far.
func (l *Lab) Mods() int {
	sum := 0
	for _, sw := range l.Switches() {
		sum += sw.Mods()
	}
	return sum
}

// NoFaults fails the test when a switch refused something.
func (l *Lab) NoFaults() {
	l.t.Helper()
	faults := map[string]string{}
	l.Do(func(c *controller.Context) {
		for sw := range c.Switches() {
			for part, why := range sw.Faults {
				faults[sw.DPID.String()+" "+part] = why
			}
		}
	})
	require.Empty(l.t, faults)
}

// listener hands out the ends of pipes.
type listener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newListener() *listener {
	return &listener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, errClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "pipe" }
func (address) String() string  { return "pipe" }

var errClosed = errors.New("lab: listener is closed")
