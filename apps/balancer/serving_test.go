package balancer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// hasRoute says whether the VIP is to be announced to routers.
func (s *site) hasRoute() (yes bool) {
	s.Do(func(c *controller.Context) { yes = s.app.Serving(c)[vipAddr] })
	return yes
}

// keepsServing lets time pass and checks all the while that the VIP is announced.
func (s *site) keepsServing(d time.Duration) {
	s.t.Helper()
	for begin := time.Now(); time.Since(begin) < d; s.Pass(5 * time.Millisecond) {
		require.True(s.t, s.hasRoute(), "withdrawn %v later", time.Since(begin))
	}
}

// A switch goes on serving without its channel, and its VIPs are announced on for as long
// as it is believed to; likewise while it is brought up to date.
func TestServingOutlivesTheChannel(t *testing.T) {
	inSites := func(name string, switches int, f func(*testing.T, *site)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				links := [][2]int{{1, 2}, {2, 3}}[:max(switches-1, 0)]
				n := lab.Build(switches, simswitch.Options{}, links...)
				lab.AddHost(n, 4, place{DPID: 1, Port: 102})
				s := open(t, t.TempDir(), n, lab.Options{})
				for dpid := 2; dpid <= switches; dpid++ {
					require.NoError(t, s.Core.SetStage(t.Context(), ofproto.DPID(dpid), controller.StageObserve))
				}
				s.learn()
				rec := s.put(s.pool(balancer.TCP, "h4"))
				s.Pass(time.Second)
				require.Equal(t, "h4", s.serves("h1", 1000, rec))
				f(t, s)
			})
		})
	}
	empty := func(s *site) {
		for _, m := range []ofproto.Message{
			&ofproto.FlowMod{Table: ofproto.TableAll, Command: ofproto.FlowDelete, BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny},
			&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll},
		} {
			require.Nil(s.t, s.Switch(1).Apply(m))
		}
	}

	inSites("the channel is away", 1, func(t *testing.T, s *site) {
		s.Disconnect(1)
		s.keepsServing(29 * time.Second)
		s.Connect(1)
		s.keepsServing(5 * time.Second)
		s.Disconnect(1)
		s.Pass(31 * time.Second)
		require.False(t, s.hasRoute(), "it is given up")
	})
	inSites("the switch was restarted", 1, func(t *testing.T, s *site) {
		s.Disconnect(1)
		empty(s)
		s.Connect(1)
		s.keepsServing(5 * time.Second)
	})
	inSites("the stage changes", 1, func(t *testing.T, s *site) {
		for _, stage := range []controller.Stage{controller.StageSteer, controller.StageManaged} {
			require.NoError(t, s.Core.SetStage(t.Context(), 1, stage))
			s.keepsServing(2 * time.Second)
		}
		require.NoError(t, s.Core.SetStage(t.Context(), 1, controller.StageObserve))
		require.False(t, s.hasRoute())
	})
	inSites("it is to serve no more when it comes back", 1, func(t *testing.T, s *site) {
		s.Disconnect(1)
		s.Pass(10 * time.Millisecond)
		require.NoError(t, s.Core.SetStage(t.Context(), 1, controller.StageObserve))
		s.keepsServing(time.Second)
		s.Connect(1)
		s.Pass(time.Second)
		require.False(t, s.hasRoute())
	})
	inSites("neighbours hear it forward", 3, func(t *testing.T, s *site) {
		s.Disconnect(1)
		s.keepsServing(10 * time.Second)
	})
	inSites("it dies with its ports up", 3, func(t *testing.T, s *site) {
		s.Switch(1).Freeze(true)
		s.Disconnect(1)
		s.Pass(600 * time.Millisecond)
		require.False(t, s.hasRoute())
	})
	inSites("its cables die before its channel", 3, func(t *testing.T, s *site) {
		s.SetLink(place{DPID: 1, Port: 1}, false)
		s.keepsServing(time.Second)
		s.Disconnect(1)
		s.Pass(10 * time.Millisecond)
		require.False(t, s.hasRoute())
		s.SetLink(place{DPID: 1, Port: 1}, true)
		s.Connect(1)
		s.Settle()
		require.True(t, s.hasRoute())
	})
	inSites("its cables die after its channel", 3, func(t *testing.T, s *site) {
		s.Disconnect(1)
		s.keepsServing(5 * time.Second)
		s.SetLink(place{DPID: 1, Port: 1}, false)
		s.Pass(10 * time.Millisecond)
		require.False(t, s.hasRoute())
	})
	inSites("the only other switch dies before", 2, func(t *testing.T, s *site) {
		s.SetLink(place{DPID: 1, Port: 1}, false)
		s.Disconnect(2)
		s.Pass(40 * time.Second)
		s.Disconnect(1)
		s.keepsServing(20 * time.Second)
	})
	inSites("its last member goes meanwhile", 1, func(t *testing.T, s *site) {
		s.Disconnect(1)
		v := s.pool(balancer.TCP)
		s.put(v)
		s.Pass(10 * time.Millisecond)
		require.False(t, s.hasRoute())
	})
}
