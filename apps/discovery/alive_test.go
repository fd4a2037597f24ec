package discovery_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

func legacy(sw int) place { return place{DPID: ofproto.DPID(sw), Port: 301} }

// beside are two switches with a bridge between, and a cable.
func beside(o simswitch.Options) *simswitch.Network {
	n := lab.Build(3, o, [2]int{1, 2}, [2]int{2, 3})
	n.Share(false, legacy(1), legacy(2))
	return n
}

// blocked says whether the port of switch 2 on the bridge is not used for the sake of 1.
func blocked(l *lab.Lab) bool {
	return !l.Snapshot().IsEdge(topology.Place{DPID: 2, Port: 301})
}

// A switch that has died is told by its neighbours' probes at once, though its ports are
// up at the other ends, and so is one that is not on the segment any more; one that has lost
// its channel alone is not, nor one that cannot answer.
func TestSwitchThatStopped(t *testing.T) {
	for _, name := range []string{
		"alive", "dead", "dies later", "not Open vSwitch", "not Open vSwitch, dead", "cannot answer", "forwards by itself", "its neighbour is stuck",
		"not on the segment any more", "dead when the controller starts", "alive when the controller starts",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := simswitch.Options{NoNicira: strings.HasPrefix(name, "not Open vSwitch")}
				if name == "cannot answer" {
					o.NoSet = []ofproto.FieldType{ofproto.FieldEthDst}
				}
				l := lab.Start(t, beside(o), lab.Options{})
				l.Settle()
				l.Pass(2 * time.Second)
				require.True(t, blocked(l))
				die := func() { l.Switch(1).Freeze(true) }
				switch name {
				case "dead", "not Open vSwitch, dead", "cannot answer", "its neighbour is stuck":
					die()
				case "not on the segment any more":
					l.Cut(legacy(1), true)
				}
				l.Switch(2).Freeze(name == "its neighbour is stuck")
				l.Disconnect(1)
				if name == "forwards by itself" {
					for _, m := range []*ofproto.FlowMod{
						{Table: ofproto.TableAll, Command: ofproto.FlowDelete},
						{Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(ofproto.PortNormal)}}}},
					} {
						m.BufferID, m.OutPort, m.OutGroup = ofproto.NoBuffer, ofproto.PortAny, ofproto.GroupAny
						require.Nil(t, l.Switch(1).Apply(m))
					}
				}
				l.Pass(600 * time.Millisecond)
				if name == "not on the segment any more" {
					l.Pass(2 * time.Second)
					require.False(t, blocked(l))
					l.Pass(time.Minute)
					require.False(t, blocked(l))
					return
				}
				if rest, ok := strings.CutSuffix(name, " when the controller starts"); ok {
					l.Pass(3 * time.Second)
					l.Stop()
					if rest == "dead" {
						die()
					}
					next := lab.Start(t, l.Network, lab.Options{Memory: l.Memory})
					next.Disconnect(1)
					next.Pass(2 * time.Second)
					require.Equal(t, rest == "alive", blocked(next))
					next.Pass(time.Minute)
					require.Equal(t, rest == "alive", blocked(next))
					return
				}
				if strings.HasSuffix(name, "dead") {
					require.False(t, blocked(l))
					_, there := l.Snapshot().Switch(1)
					require.False(t, there)
					// It was only slow: back to what was.
					l.Switch(1).Freeze(false)
					l.Pass(1500 * time.Millisecond)
					require.True(t, blocked(l))
					return
				}
				require.True(t, blocked(l))
				if name == "dies later" {
					l.Pass(time.Minute)
					require.True(t, blocked(l))
					die()
					l.Pass(1600 * time.Millisecond)
					require.False(t, blocked(l))
					return
				}
				if name != "its neighbour is stuck" {
					l.Pass(time.Minute)
					require.True(t, blocked(l))
				}
			})
		})
	}
}

// Asking does not go on for ever, and a switch that comes back is as it was.
func TestStoppedSwitchComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, beside(simswitch.Options{}), lab.Options{})
		l.Settle()
		l.Switch(1).Freeze(true)
		l.Disconnect(1)
		l.Pass(11 * time.Minute)
		require.False(t, blocked(l))
		l.Switch(1).Freeze(false)
		l.Connect(1)
		l.Settle()
		l.Pass(2 * time.Second)
		require.True(t, blocked(l))
		_, role, _ := l.Snapshot().Segment(topology.Place{DPID: 1, Port: 301})
		require.Equal(t, topology.RoleDesignated, role)
		l.Do(func(c *controller.Context) { require.NotNil(t, c.Switch(1)) })
		l.NoFaults()
	})
}
