package forwarding_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
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

// TestLeavingManaged moves switches of a ring from managed to steer while one frame is on
// its way: wherever it falls, what the switch learned of it on its own is good afterwards,
// and the frame arrives.
func TestLeavingManaged(t *testing.T) {
	for at := time.Duration(0); at < 900*time.Millisecond; at += 30 * time.Millisecond {
		synctest.Test(t, func(t *testing.T) {
			l := lab.Start(t, lab.Build(3, simswitch.Options{}, lab.Ring(3)...), lab.Options{})
			l.Settle()
			everyUnicastArrives(t, l)
			l.Pass(time.Second)
			send := func(from, to string) {
				a, b := l.Host(from), l.Host(to)
				l.Forget()
				l.Send(from, packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.AddrPort(1), Dst: b.AddrPort(2)}, nil))
				require.Equal(t, 1, len(l.Received(to)), "copies from %s to %s after %v", from, to, at)
			}
			// Paths were calculated just now, and are not at once again of themselves.
			require.NoError(t, l.Core.SetStage(t.Context(), 1, controller.StageSteer))
			moved := make(chan error, 1)
			go func() { moved <- l.Core.SetStage(t.Context(), 3, controller.StageSteer) }()
			l.Pass(at)
			send("h2", "h3")
			l.Pass(time.Second)
			require.NoError(t, <-moved)
			l.Settle()
			send("h3", "h2")
			send("h1", "h3")
			l.NoFaults()
		})
	}
}
