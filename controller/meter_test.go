package controller_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/discovery"
	"github.com/fairlead/fairlead/apps/forwarding"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/test/ovstest"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// ovsRig is a controller with discovery and forwarding, and an Open vSwitch.
type ovsRig struct {
	t    *testing.T
	ovs  *ovstest.OVS
	ln   net.Listener
	o    controller.Options
	Core *controller.Controller
	stop func()
}

// startOVS makes switch 1 with ports p1 to p3 in stage managed. change may be nil.
func startOVS(t *testing.T, change func(*controller.Options)) *ovsRig {
	t.Helper()
	r := &ovsRig{t: t, ovs: ovstest.Start(t)}
	r.o = controller.Options{Store: &lab.Memory{}, DefaultStage: controller.StageManaged, Log: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&r.o)
	}
	r.run("127.0.0.1:0")
	r.ovs.AddBridge(ovstest.Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2", "p3"}, Controllers: []string{"tcp:" + r.ln.Addr().String()}})
	r.settle()
	return r
}

// run starts a controller anew.
func (r *ovsRig) run(address string) {
	r.t.Helper()
	var err error
	r.ovs.Eventually("the address is free", func() bool {
		r.ln, err = net.Listen("tcp", address)
		return err == nil
	})
	o := r.o
	o.Graph = topology.New(topology.Options{})
	o.Apps = []controller.App{
		discovery.New([]byte(strings.Repeat("k", 32)), io.Reader(zeros{}), func(context.Context, []byte) error { return nil }),
		forwarding.New(o.Graph),
	}
	r.Core, err = controller.New(r.t.Context(), o)
	require.NoError(r.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	ln, core := r.ln, r.Core
	go func() { done <- core.Run(ctx, ln) }()
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			require.NoError(r.t, <-done)
		}
	}
	r.t.Cleanup(r.stop)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// settle waits until the switch is connected and has all it is to have.
func (r *ovsRig) settle() {
	r.t.Helper()
	r.ovs.Eventually("the switch is connected", func() bool { return r.get().Connected })
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(r.t, r.Core.Settled(ctx, 1))
}

// get returns the switch as the core sees it; the zero value when not connected.
func (r *ovsRig) get() (sw controller.Switch) {
	r.t.Helper()
	require.NoError(r.t, r.Core.Do(r.t.Context(), func(c *controller.Context) {
		if s := c.Switch(1); s != nil {
			sw = *s
		}
	}))
	return sw
}

func (r *ovsRig) meters() []string {
	var list []string
	for line := range strings.Lines(r.ovs.Ofctl("dump-meters", r.ovs.Target("s1"))) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "meter=") {
			list = append(list, strings.Fields(line)[0])
		}
	}
	slices.Sort(list)
	return list
}

// Every flow of ours that sends to the controller does so through a meter, with Open
// vSwitch; meters of others stay; those that went or were altered come back.
func TestZ01PacketsToTheControllerAreMetered(t *testing.T) {
	r := startOVS(t, nil)
	punts := 0
	for _, f := range r.ovs.DumpFlows("s1") {
		require.NotContains(t, f, "CONTROLLER:")
		if strings.Contains(f, "controller(") {
			require.Regexp(t, `controller\(meter_id=11744051\d\d\)`, f)
			punts++
		}
	}
	require.Equal(t, 8, punts, "LLDP, ARP and two of ND to the prober, ARP, two of ND, unknown sources")
	ours := r.meters()
	require.Len(t, ours, 5)

	r.ovs.Ofctl("add-meter", r.ovs.Target("s1"), "meter=7,pktps,bands=type=drop,rate=7")
	r.ovs.Ofctl("add-meter", r.ovs.Target("s1"), "meter=1174405133,pktps,bands=type=drop,rate=9") // ours by its number, and stale
	r.ovs.Ofctl("del-meter", r.ovs.Target("s1"), ours[0])
	r.ovs.Ofctl("mod-meter", r.ovs.Target("s1"), ours[1]+",pktps,bands=type=drop,rate=1")
	r.stop()
	r.run(r.ln.Addr().String())
	r.settle()
	r.ovs.Eventually("meters are as they were", func() bool {
		return slices.Equal(slices.Sorted(slices.Values(append(slices.Clone(ours), "meter=7"))), r.meters()) &&
			!strings.Contains(r.ovs.Ofctl("dump-meters", r.ovs.Target("s1")), "rate=1\n")
	})
}

// A restart with nothing changed sends no meter, group or flow.
func TestMetersSurviveARestart(t *testing.T) {
	r := startOVS(t, nil)
	r.stop()
	flows, meters := r.ovs.DumpFlows("s1"), r.meters()
	r.run(r.ln.Addr().String())
	r.settle()
	require.Equal(t, flows, r.ovs.DumpFlows("s1"))
	require.Equal(t, meters, r.meters())
	for _, line := range strings.Split(r.ovs.Ofctl("dump-flows", r.ovs.Target("s1")), "\n") {
		require.NotContains(t, line, "CONTROLLER:")
	}
}

// Without a limit there are no meters either.
func TestNoLimitNoMeters(t *testing.T) {
	r := startOVS(t, func(o *controller.Options) { o.PacketInRate = -1 })
	require.Empty(t, r.meters())
	require.Contains(t, strings.Join(r.ovs.DumpFlows("s1"), "\n"), "CONTROLLER:65535")
}
