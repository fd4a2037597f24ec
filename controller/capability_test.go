package controller_test

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/ovstest"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

const allLayers = controller.LayerL2 | controller.LayerL3 | controller.LayerL4 | controller.LayerIPv6 | controller.LayerSCTP

// everything is what the software switch can do, but for its meters and the number of
// its groups.
var everything = controller.Capabilities{
	Tables: 254, Nicira: true, Bundles: true, Select: true, FastFailover: true, AllGroups: true,
	Chaining: true, WatchPort: true, WatchGroup: true, MaxBuckets: 256, Normal: true, NormalInBuckets: true,
	BucketSet: allLayers, FlowSet: allLayers,
	AddressMasks: true, IPv6Masks: true, PortMasks: true, NDAnswers: true, Hashing: true, Resubmits: true, TCPFlags: true, Holds: true, Probed: true,
}

// capabilities are those of switch 1 without what everything leaves out.
func (r *rig) capabilities() controller.Capabilities {
	r.t.Helper()
	require.NotNil(r.t, r.connected())
	c := r.connected().Capabilities
	c.MaxGroups, c.Meters = 0, 0
	return c
}

func isGroupMod(m ofproto.Message) bool { _, ok := m.(*ofproto.GroupMod); return ok }
func isMod(m ofproto.Message) bool      { _, ok := m.(*ofproto.FlowMod); return ok || isGroupMod(m) }

// What a switch lacks is found whether it admits it or not.
func TestCapabilitiesAreProbed(t *testing.T) {
	L4 := controller.LayerL4
	type caps = controller.Capabilities
	noGroups := func(c *caps) {
		c.Select, c.FastFailover, c.AllGroups, c.Chaining, c.WatchPort, c.WatchGroup = false, false, false, false, false, false
		c.MaxBuckets, c.BucketSet, c.NormalInBuckets = 0, 0, false
	}
	for name, k := range map[string]struct {
		o    simswitch.Options
		want func(*caps)
	}{
		"Open vSwitch": {simswitch.Options{}, func(*caps) {}},
		"reordering":   {simswitch.Options{Reorder: 7}, func(*caps) {}},
		"one table":    {simswitch.Options{Tables: 1}, func(c *caps) { c.Tables, c.Hashing, c.Resubmits = 1, false, false }},
		"three tables": {simswitch.Options{Tables: 3}, func(c *caps) { c.Tables, c.Hashing, c.Resubmits = 3, false, false }},
		"no groups":    {simswitch.Options{NoGroups: true}, noGroups},
		"no select": {simswitch.Options{NoSelect: true}, func(c *caps) {
			noGroups(c)
			c.FastFailover, c.AllGroups = true, true
		}},
		"no failover": {simswitch.Options{NoFailover: true}, func(c *caps) { c.FastFailover, c.WatchGroup, c.Chaining = false, false, false }},
		"no chaining": {simswitch.Options{NoChaining: true}, func(c *caps) { c.Chaining, c.WatchGroup = false, false }},
		"no watching": {simswitch.Options{NoWatch: true}, func(c *caps) { c.WatchGroup = false }},
		"16 buckets":  {simswitch.Options{MaxBuckets: 16}, func(c *caps) { c.MaxBuckets = 16 }},
		"100 buckets": {simswitch.Options{MaxBuckets: 100}, func(c *caps) { c.MaxBuckets = 64 }},
		"3 buckets":   {simswitch.Options{MaxBuckets: 3}, func(c *caps) { c.MaxBuckets = 2 }},
		"no ports set": {simswitch.Options{NoSet: []ofproto.FieldType{ofproto.FieldTCPSrc, ofproto.FieldTCPDst}}, func(c *caps) {
			c.BucketSet, c.FlowSet = allLayers&^L4, allLayers&^L4
		}},
		"no addresses set in buckets": {simswitch.Options{NoBucketSet: []ofproto.FieldType{ofproto.FieldIPv4Dst}}, func(c *caps) { c.BucketSet = allLayers &^ controller.LayerL3 }},
		"no NORMAL":                   {simswitch.Options{NoNormal: true}, func(c *caps) { c.Normal, c.NormalInBuckets = false, false }},
		"no bundles":                  {simswitch.Options{NoBundles: true}, func(c *caps) { c.Bundles = false }},
		"no meters":                   {simswitch.Options{NoMeters: true}, func(*caps) {}},
		"strict": {simswitch.Options{NoNicira: true}, func(c *caps) {
			c.Nicira, c.PortMasks, c.NDAnswers, c.Hashing, c.Resubmits, c.TCPFlags = false, false, false, false, false, false
		}},
		"no masks": {simswitch.Options{NoNicira: true, NoMasks: true}, func(c *caps) {
			c.Hashing, c.Resubmits, c.TCPFlags = false, false, false
			c.Nicira, c.PortMasks, c.AddressMasks, c.IPv6Masks, c.NDAnswers = false, false, false, false, false
		}},
		"no IPv6 set": {simswitch.Options{NoSet: []ofproto.FieldType{ofproto.FieldIPv6Dst}}, func(c *caps) {
			c.BucketSet, c.FlowSet = allLayers&^controller.LayerIPv6, allLayers&^controller.LayerIPv6
		}},
		"no SCTP set in buckets":            {simswitch.Options{NoBucketSet: []ofproto.FieldType{ofproto.FieldSCTPDst}}, func(c *caps) { c.BucketSet = allLayers &^ controller.LayerSCTP }},
		"no answers of neighbour discovery": {simswitch.Options{NoSet: []ofproto.FieldType{ofproto.FieldIPv6NDTLL}}, func(c *caps) { c.NDAnswers = false }},
		"ignores groups":                    {simswitch.Options{Ignore: isGroupMod}, func(c *caps) { noGroups(c); c.Ignored = true }},
		"ignores all": {simswitch.Options{Ignore: isMod}, func(c *caps) {
			*c = caps{Tables: 1, Bundles: true, Ignored: true, Probed: true}
		}},
	} {
		for _, undeclared := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				o := k.o
				o.Undeclared = undeclared
				r := start(t, o, lab.Options{})
				want := everything
				k.want(&want)
				got := r.capabilities()
				require.Equal(t, want, got, name)
				for _, g := range r.sw.Groups() {
					t.Errorf("%s: group %#x is left", name, g.Group)
				}
				for _, f := range r.sw.Flows() {
					require.NotEqual(t, flowtable.ProbeCookie, f.Cookie, name)
				}
			})
		}
	}
}

// One of each kind is probed, once, over restarts too.
func TestKindsAreProbedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		r.Pass(time.Second)
		mods := r.sw.Mods()
		r.Disconnect(1)
		r.Pass(10 * time.Second)
		r.Connect(1)
		r.Pass(10 * time.Second)
		require.Equal(t, everything, r.capabilities())
		require.Equal(t, mods, r.sw.Mods())
		r.Stop()

		l := lab.Start(t, r.Network, lab.Options{Only: true, Memory: r.Memory, Apps: func() []controller.App { return []controller.App{r.app} }})
		l.Pass(time.Second)
		require.Equal(t, mods, r.sw.Mods())
		l.Do(func(c *controller.Context) { require.True(t, c.Switch(1).Capabilities.Probed) })

		// One of the same description that declares something else is another kind.
		l.AddSwitch(simswitch.Options{DPID: 2, Ports: []ofproto.Port{1}, NoChaining: true})
		l.Connect(2)
		l.Pass(time.Second)
		l.Do(func(c *controller.Context) {
			require.False(t, c.Switch(2).Capabilities.Chaining)
			require.True(t, c.Switch(1).Capabilities.Chaining)
		})
	})
}

// A switch that is full says nothing of its kind, which is probed again another time.
func TestFullSwitchSaysNothingOfItsKind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{MaxFlows: 3}, lab.Options{})
		want := everything
		want.Probed = false
		require.Equal(t, want, r.capabilities())
		kinds, err := r.Memory.Capabilities(t.Context())
		require.NoError(t, err)
		require.Empty(t, kinds)
	})
}

// A session that breaks off while a switch is probed leaves nothing for long.
func TestProbesThatAreLeftBehindAreDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := make(chan struct{}, 1)
		o := simswitch.Options{DPID: 1, Ports: []ofproto.Port{1}, Received: func(_ ofproto.Header, m ofproto.Message) {
			if q, ok := m.(*ofproto.MultipartRequest); ok && q.Type == ofproto.MultipartFlow {
				if f, ok := q.Body.(ofproto.FlowStatsRequest); ok && f.Cookie == flowtable.ProbeCookie {
					select {
					case asked <- struct{}{}:
					default:
					}
				}
			}
		}}
		r := &rig{t: t, app: &partsApp{parts: map[string]flowtable.Part{}, acks: map[string]error{}}}
		n := simswitch.NewNetwork()
		r.sw = n.AddSwitch(o)
		r.Lab = lab.Start(t, n, lab.Options{Only: true, Apps: func() []controller.App { return []controller.App{r.app} }})
		<-asked
		r.Disconnect(1)
		r.Pass(time.Second)
		r.Connect(1)
		r.Pass(10 * time.Second)
		require.Equal(t, everything, r.capabilities())
		require.Empty(t, r.sw.Groups())
		for _, f := range r.sw.Flows() {
			require.NotEqual(t, flowtable.ProbeCookie, f.Cookie)
		}
	})
}

func TestLayerNames(t *testing.T) {
	require.Equal(t, "l2,l4", strings.Join((controller.LayerL2|controller.LayerL4).Names(), ","))
	require.NotNil(t, controller.Layers(0).Names())
}

// Open vSwitch itself can do all of it, and is as it was afterwards.
func TestOpenVSwitchIsProbed(t *testing.T) {
	ovs := ovstest.Start(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	core, err := controller.New(t.Context(), controller.Options{
		Store: &lab.Memory{}, Graph: topology.New(topology.Options{}), Log: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- core.Run(ctx, ln) }()
	defer func() { cancel(); require.NoError(t, <-done) }()
	ovs.AddBridge(ovstest.Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2"}})
	ovs.SetController("s1", "tcp:"+ln.Addr().String())
	var got controller.Capabilities
	ovs.Eventually("the switch is connected", func() bool {
		found := false
		require.NoError(t, core.Do(ctx, func(c *controller.Context) {
			if sw := c.Switch(1); sw != nil {
				got, found = sw.Capabilities, true
			}
		}))
		return found
	})
	require.NoError(t, core.Settled(ctx, 1))
	require.NotZero(t, got.MaxGroups)
	require.NotZero(t, got.Meters)
	require.True(t, got.MeteredCopies)
	got.MaxGroups, got.Meters, got.MeteredCopies = 0, 0, false
	want := everything
	want.ConnTrack = true
	require.Equal(t, want, got)
	require.Empty(t, ovs.DumpGroups("s1"))
	require.Len(t, ovs.DumpFlows("s1"), 1, "the mark of the store alone")
}
