package scale

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// someVIPs returns n documents over three hosts each.
func someVIPs(n, hosts int) []balancer.VIP {
	list := make([]balancer.VIP, n)
	for i := range list {
		list[i] = vipOf(i, uint16(8000+i), i%hosts, (i+1)%hosts, (i+2)%hosts)
	}
	return list
}

func (r *rig) counts() (links, hosts int) {
	r.t.Helper()
	require.NoError(r.t, r.core.Do(context.Background(), func(c *controller.Context) {
		snap := c.Graph.Snapshot()
		for _, l := range snap.Links() {
			if l.State == topology.StateUp {
				links++
			}
		}
		hosts = snap.HostCount()
	}))
	return links, hosts
}

// TestZ05AThousandSwitches has many switches connect at once to a controller with 20
// VIPs: all are ready within a minute, none much later than the others, at a known
// price in memory. After a restart of the controller it happens again, and nothing
// is sent to any of them.
func TestZ05AThousandSwitches(t *testing.T) {
	n := scale(100, 1000)
	switches := tree(n)
	k := &keep{dir: t.TempDir()}
	o := options{keep: k, stage: controller.StageManaged, vips: someVIPs(20, 20)}
	base := memory()
	r := start(t, o)
	times := r.connectAll(switches)
	t.Logf("%d switches ready: median %v, slowest %v", n, median(times).Round(time.Millisecond), slices.Max(times).Round(time.Millisecond))
	require.Less(t, slices.Max(times), time.Minute)
	require.LessOrEqual(t, slices.Max(times), 3*median(times))
	r.noFaults()

	begin := time.Now()
	eventually(t, time.Minute, "all links are found", func() bool { links, _ := r.counts(); return links == n-1 })
	time.Sleep(lab.EdgeDelay)
	for _, f := range switches[:20] {
		f.announce()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	eventually(t, time.Minute, "all members are found", func() bool { _, hosts := r.counts(); return hosts == 20 })
	for _, f := range switches {
		require.NoError(t, r.core.Settled(ctx, f.dpid))
	}
	t.Logf("%d links, 20 hosts and the paths to them in all switches after %v more", n-1, time.Since(begin).Round(time.Millisecond))
	r.noFaults()
	eventually(t, time.Minute, "the switches are sent nothing more", func() bool { return r.quiet(switches, 2*time.Second) })
	flows, groups := 0, 0
	require.NoError(t, r.core.Do(ctx, func(c *controller.Context) {
		for sw := range c.Switches() {
			flows, groups = flows+sw.Flows, groups+sw.Groups
		}
	}))
	held := memory()
	t.Logf("%d flows and %d groups in all; %.0f KiB a switch, those of the light switches themselves included", flows, groups, float64(held-base)/float64(n)/1024)

	r.stop()
	for _, f := range switches {
		f.close()
		f.mods.Store(0)
	}
	empty := memory()
	t.Logf("of them %.0f KiB a switch of the controller's", float64(held-empty)/float64(n)/1024)
	o.vips = nil
	r = start(t, o)
	times = r.connectAll(switches)
	t.Logf("after a restart: median %v, slowest %v", median(times).Round(time.Millisecond), slices.Max(times).Round(time.Millisecond))
	require.Less(t, slices.Max(times), time.Minute)
	require.LessOrEqual(t, slices.Max(times), 3*median(times))
	eventually(t, time.Minute, "the switches are sent nothing more", func() bool { return r.quiet(switches, 2*time.Second) })
	require.Zero(t, mods(switches), "flow-mods and group-mods after a restart")
	r.stop()
	closeAll(switches)
}

func mods(switches []*fake) (sum int64) {
	for _, f := range switches {
		sum += f.mods.Load()
	}
	return sum
}

// quiet says whether no switch is sent a mod for a while.
func (r *rig) quiet(switches []*fake, d time.Duration) bool {
	before := mods(switches)
	time.Sleep(d)
	return mods(switches) == before
}
