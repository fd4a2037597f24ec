package reliability

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
)

// TestWhatIfComesTrue asks what each stage would change in a switch that has VIPs, hosts
// and links, and moves it there: exactly that changes. Asking changes nothing.
func TestWhatIfComesTrue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := ring(t, options{})
		r.install(r.vip(1, "h2", "h3", "h4"))
		sticky := r.vip(2, "h2", "h3")
		sticky.Listeners[0].Pool.Persistence = balancer.PersistenceSourceIP
		r.install(sticky)
		r.settle()
		sw := r.Switch(2)
		for _, stage := range []controller.Stage{controller.StageObserve, controller.StageSteer, controller.StageManaged, controller.StageSteer} {
			before, mods := holds(sw), r.mods()
			says, err := r.core.WhatIf(r.ctx, 2, stage)
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			require.Equal(t, mods, r.mods(), "asking writes nothing")
			require.Equal(t, before, holds(sw))

			require.NoError(t, r.core.SetStage(r.ctx, 2, stage))
			require.NoError(t, r.core.Settled(r.ctx, 2))
			r.settle()
			after := holds(sw)
			want := map[string]bool{}
			for k := range before {
				want[k] = true
			}
			for _, f := range says.DeleteFlows {
				delete(want, flowText(f.Table, f.Priority, f.Match))
			}
			for _, f := range says.AddFlows {
				want[flowText(f.Table, f.Priority, f.Match)] = true
			}
			for _, id := range says.DeleteGroups {
				delete(want, fmt.Sprint("group ", id))
			}
			for _, g := range says.AddGroups {
				want[fmt.Sprint("group ", g.ID)] = true
			}
			require.Equal(t, want, after, "%s", stage)
			flows := 0
			for _, f := range sw.Flows() {
				if flowtable.OwnsCookie(f.Cookie) {
					flows++
				}
			}
			require.Equal(t, flows, says.KeptFlows+len(says.AddFlows), "%s", stage)
			t.Logf("to %s: flows +%d -%d =%d, groups +%d ~%d -%d =%d", stage, len(says.AddFlows), len(says.DeleteFlows), says.KeptFlows,
				len(says.AddGroups), len(says.ChangeGroups), len(says.DeleteGroups), says.KeptGroups)

			again, err := r.core.WhatIf(r.ctx, 2, stage)
			require.NoError(t, err)
			require.Empty(t, again.AddFlows, "it is there")
			require.Empty(t, again.DeleteFlows)
			require.Empty(t, again.AddGroups)
			require.Empty(t, again.ChangeGroups)
		}
		_, err := r.core.WhatIf(r.ctx, 99, controller.StageSteer)
		require.ErrorIs(t, err, controller.ErrNotConnected)
		room, err := r.core.Room(r.ctx, 2)
		require.NoError(t, err)
		t.Logf("room: %d tables", len(room))

		// One that is not there yet: the base and the VIPs.
		says, err := r.core.WhatIfNew(r.ctx, 99, controller.StageSteer, []ofproto.PortDesc{{Port: 1}})
		require.NoError(t, err)
		require.NotEmpty(t, says.AddFlows)
		require.NotEmpty(t, says.AddGroups)
		require.NotEmpty(t, says.Assumed)
	})
}

// holds is what a switch has of ours.
func holds(sw *simswitch.Switch) map[string]bool {
	all := map[string]bool{}
	for _, f := range sw.Flows() {
		if flowtable.OwnsCookie(f.Cookie) {
			all[flowText(f.Table, f.Priority, f.Match)] = true
		}
	}
	for _, g := range sw.Groups() {
		if flowtable.OwnsGroup(g.Group) {
			all[fmt.Sprint("group ", g.Group)] = true
		}
	}
	return all
}

func flowText(table ofproto.Table, priority uint16, match ofproto.Match) string {
	return fmt.Sprint(table, " ", priority, " ", match.Canonical())
}
