package forwarding_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// Switches in steer forward over all that joins them. Managed ones beside them keep what
// they do so from going round, and take one link to each such piece of the network.
func TestCirclesThroughSteer(t *testing.T) {
	for _, s := range []struct {
		name     string
		switches int
		links    [][2]int
		steer    []ofproto.DPID
		blocked  int
	}{
		{"two cables to one", 2, [][2]int{{1, 2}, {1, 2}}, []ofproto.DPID{2}, 1},
		{"two cables to a lower one", 2, [][2]int{{1, 2}, {1, 2}}, []ofproto.DPID{1}, 1},
		{"a triangle, two of them in steer", 3, lab.Ring(3), []ofproto.DPID{2, 3}, 1},
		{"a ring, three of them in steer", 4, lab.Ring(4), []ofproto.DPID{2, 3, 4}, 1},
		{"a ring, opposite ones in steer", 4, lab.Ring(4), []ofproto.DPID{1, 3}, 1},
		{"two managed, each at both of two in steer", 4, [][2]int{{1, 3}, {1, 4}, {2, 3}, {2, 4}, {3, 4}}, []ofproto.DPID{3, 4}, 2},
		{"the same, joined", 4, [][2]int{{1, 2}, {1, 3}, {1, 4}, {2, 3}, {2, 4}, {3, 4}}, []ofproto.DPID{3, 4}, 3},
	} {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &lab.Memory{}
				for _, d := range s.steer {
					require.NoError(t, m.SetStage(t.Context(), d, controller.StageSteer))
				}
				l := lab.Start(t, lab.Build(s.switches, simswitch.Options{}, s.links...), lab.Options{Memory: m})
				l.Settle()
				everyBroadcastOnce(t, l)
				everyUnicastArrives(t, l)
				everyBroadcastOnce(t, l)
				blocked := 0
				snap := l.Snapshot()
				for _, sw := range snap.Switches() {
					for _, p := range sw.Ports {
						if snap.Blocked(topology.Place{DPID: sw.DPID, Port: p.Port}) != "" {
							blocked++
						}
					}
				}
				require.Equal(t, s.blocked, blocked)
				l.NoFaults()
			})
		})
	}
}
