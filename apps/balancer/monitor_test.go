package balancer_test

import (
	"context"
	"net/netip"
	"slices"
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

// monitored is the document of pool with a monitor.
func (s *site) monitored(members ...string) balancer.VIP {
	v := s.pool(balancer.TCP, members...)
	v.Listeners[0].Pool.Monitor = &balancer.Monitor{
		Type: balancer.MonitorHTTP, Interval: balancer.Duration(time.Second), Timeout: balancer.Duration(time.Second),
		Rise: 1, Fall: 1, Via: balancer.ViaSwitches, Initial: balancer.HealthUnknown,
		Method: "GET", Path: "/", ExpectedCodes: "200",
	}
	return v
}

// prober remembers what it was told to probe.
type prober struct{ checks map[string][]balancer.Check }

func (p *prober) watch(_ *controller.Context, vip string, checks []balancer.Check) {
	if p.checks == nil {
		p.checks = map[string][]balancer.Check{}
	}
	p.checks[vip] = checks
}

func (s *site) id(member string) string {
	return "web/tcp:80/" + s.Host(member).AddrPort(memberPort).String()
}

// finds has the prober find something of members.
func (s *site) finds(up bool, reason string, members ...string) {
	s.t.Helper()
	for _, m := range members {
		require.NoError(s.t, s.Core.Post(context.Background(), balancer.Verdict{ID: s.id(m), Up: up, Reason: reason}))
	}
	synctest.Wait()
	s.Settle()
}

// serving counts the slots of each member, and its health.
func (s *site) serving() (slots map[string]int, status map[string]balancer.MemberStatus, v balancer.VIP) {
	s.t.Helper()
	v, err := s.service.Get(s.t.Context(), "web")
	require.NoError(s.t, err)
	slots, status = map[string]int{}, map[string]balancer.MemberStatus{}
	for _, m := range v.Listeners[0].Pool.Members {
		for _, h := range s.Hosts() {
			if s.Host(h).IP == m.Address {
				status[h] = *m.Status
				if m.Status.Slots > 0 {
					slots[h] = m.Status.Slots
				}
			}
		}
	}
	return slots, status, v
}

func TestMembersServeByVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), ring(simswitch.Options{}), lab.Options{})
		s.learn()
		rec := s.put(s.monitored("h2", "h3"))
		require.Equal(t, []balancer.Check{
			{ID: s.id("h2"), Monitor: *rec.VIP.Listeners[0].Pool.Monitor, Target: s.Host("h2").AddrPort(memberPort), Source: vipAddr},
			{ID: s.id("h3"), Monitor: *rec.VIP.Listeners[0].Pool.Monitor, Target: s.Host("h3").AddrPort(memberPort), Source: vipAddr},
		}, s.prober.checks["web"])
		slots, status, v := s.serving()
		require.Empty(t, slots, "before the first success")
		require.Equal(t, balancer.HealthUnknown, status["h2"].Health)
		require.Equal(t, balancer.OperatingOffline, v.Status.Operating)
		who, _ := s.takes("h1", s.request("h1", 1000, rec))
		require.Empty(t, who)

		notices, cancel := s.Core.Subscribe(16)
		defer cancel()
		s.finds(true, "", "h2")
		require.Equal(t, "h2", s.serves("h1", 1000, rec))
		slots, status, v = s.serving()
		require.Equal(t, map[string]int{"h2": 16}, slots)
		require.Equal(t, balancer.HealthUp, status["h2"].Health)
		require.Equal(t, balancer.OperatingDegraded, v.Status.Operating)
		told := map[string]any{}
		for len(notices) > 0 {
			if n := <-notices; n.Kind == "member" {
				told = n.Data.(map[string]any)
			}
		}
		require.Equal(t, map[string]any{"vip": "web", "listener": "tcp:80", "address": s.Host("h2").IP, "port": uint16(memberPort), "health": balancer.HealthUp, "reason": ""}, told)

		s.finds(true, "", "h3")
		slots, _, v = s.serving()
		require.Equal(t, map[string]int{"h2": 8, "h3": 8}, slots)
		require.Equal(t, balancer.OperatingOnline, v.Status.Operating)

		now := time.Now()
		s.finds(false, "http 500", "h2")
		slots, status, _ = s.serving()
		require.Equal(t, map[string]int{"h3": 16}, slots)
		require.Equal(t, balancer.HealthDown, status["h2"].Health)
		require.Equal(t, "monitor: http 500", status["h2"].Reason)
		require.WithinDuration(t, now, status["h2"].Since, time.Second)

		// A member that nobody probes stays unknown; one that is gone does no harm.
		require.NoError(t, s.Core.Post(t.Context(), balancer.Verdict{ID: "web/tcp:80/10.9.9.9:1"}))
		require.NoError(t, s.Core.Post(t.Context(), balancer.Verdict{ID: "nosuch"}))
		v = s.monitored("h2", "h3", "h4")
		s.put(v)
		require.Len(t, s.prober.checks["web"], 3)
		slots, _, _ = s.serving()
		require.Equal(t, []string{"h3"}, keys(slots), "h4 was not probed, h2 is down")
		v.Listeners[0].Pool.Members[1].AdminState = balancer.AdminDown
		s.put(v)
		require.Len(t, s.prober.checks["web"], 2)
		require.NoError(t, s.intents.Delete(t.Context(), "web", balancer.Condition{}))
		s.Settle()
		require.Empty(t, s.prober.checks["web"])
	})
}

func TestInitialHealthUpServesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), ring(simswitch.Options{}), lab.Options{})
		s.learn()
		v := s.monitored("h2", "h3")
		v.Listeners[0].Pool.Monitor.Initial = balancer.HealthUp
		s.put(v)
		slots, _, _ := s.serving()
		require.Equal(t, map[string]int{"h2": 8, "h3": 8}, slots)
	})
}

func TestMonitorOnAServingPoolStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2", "h3")
		s.learn()
		s.put(s.monitored("h2", "h3", "h4"))
		slots, _, _ := s.serving()
		require.Equal(t, []string{"h2", "h3"}, keys(slots))
		s.finds(true, "", "h4")
		slots, _, _ = s.serving()
		require.Equal(t, []string{"h2", "h3", "h4"}, keys(slots))
	})
}

func TestMonitoredMembersServeOnAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n, memory := ring(simswitch.Options{}), &lab.Memory{}
		s := open(t, dir, n, lab.Options{Memory: memory})
		s.learn()
		rec := s.put(s.monitored("h2", "h3", "h4"))
		s.finds(true, "", "h2", "h3")
		s.Pass(2 * time.Minute) // the network is saved
		before, _, _ := s.serving()
		s.close()
		n.Forget()
		mods := modsOf(n)

		s = open(t, dir, n, lab.Options{Memory: memory})
		s.Pass(5 * time.Second)
		require.Equal(t, mods, modsOf(n), "nothing is written")
		after, status, _ := s.serving()
		require.Equal(t, before, after)
		require.Equal(t, balancer.HealthUnknown, status["h4"].Health, "never probed")
		require.Len(t, s.prober.checks["web"], 3, "at the start")
		s.serves("h1", 1000, rec)
		s.finds(false, "refused", "h3")
		after, _, _ = s.serving()
		require.Equal(t, []string{"h2"}, keys(after))
	})
}

func modsOf(n *simswitch.Network) (mods int) {
	for _, sw := range n.Switches() {
		mods += sw.Mods()
	}
	return mods
}

func keys(m map[string]int) []string {
	var ks []string
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}

func TestChecksProbeWhatTheMemberSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), ring(simswitch.Options{}), lab.Options{})
		v := s.monitored("h2")
		v.Listeners[0].Pool.Monitor.SourceAddress = netip.MustParseAddr("10.0.100.9")
		m := &v.Listeners[0].Pool.Members[0]
		m.MonitorAddress, m.MonitorPort = netip.MustParseAddr("10.0.0.77"), 9000
		s.put(v)
		got := s.prober.checks["web"][0]
		require.Equal(t, "10.0.0.77:9000", got.Target.String())
		require.Equal(t, "10.0.100.9", got.Source.String())
		require.Equal(t, s.id("h2"), got.ID)
		v.Enabled = false
		s.put(v)
		require.Empty(t, s.prober.checks["web"])
	})
}

// L-06: three of eight members flap, as fast as a monitor without damping would let them.
// Each verdict costs one group-mod a switch, the slots of the steady members never move,
// and everybody has its own again in the end.
func TestL06FlappingMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := ring(simswitch.Options{})
		names := []string{"h2", "h3", "h4"}
		for i := range 5 {
			names = append(names, lab.AddHost(n, 10+i, place{DPID: 1, Port: ofproto.Port(200 + i)}).Name)
		}
		s := open(t, t.TempDir(), n, lab.Options{})
		s.learn()
		rec := s.put(s.monitored(names...))
		s.finds(true, "", names...)
		home, _, _ := s.serving()
		require.Len(t, home, 8)
		owners := func() []uint16 { return s.owners(0) }
		before := owners()
		steady := map[uint16]bool{}
		for _, m := range rec.Listeners[0].Members {
			if name := s.memberOf(rec, m.Index); slices.Contains(names[3:], name) {
				steady[m.Index] = true
			}
		}
		moved, last := 0, before
		const verdicts = 60
		for i := range verdicts {
			mods := map[ofproto.DPID]int{}
			for _, sw := range n.Switches() {
				mods[sw.DPID()] = sw.Mods()
			}
			s.finds(i/3%2 == 1, "connection refused", names[i%3])
			for _, sw := range n.Switches() {
				require.LessOrEqual(t, sw.Mods()-mods[sw.DPID()], 1, "one group-mod a switch")
			}
			now := owners()
			for j, id := range now {
				if steady[before[j]] {
					require.Equal(t, before[j], id, "slot %d of a steady member", j)
				}
				if id != last[j] {
					moved++
				}
			}
			last = now
			s.Pass(700 * time.Millisecond)
		}
		after, _, _ := s.serving()
		require.Equal(t, home, after)
		require.Equal(t, before, last)
		// Only slots of the three change hands: each at most once a verdict.
		t.Logf("%d verdicts moved %d slots of %d: %.1f a verdict", verdicts, moved, len(before), float64(moved)/verdicts)
		require.LessOrEqual(t, moved, verdicts*2*len(before)/8)
	})
}

// owners are the present owners of a listener's slots as they are stored.
func (s *site) owners(listener int) []uint16 {
	s.t.Helper()
	s.Settle()
	s.Pass(time.Second) // they are saved now and then
	rec, err := s.intents.Get(s.t.Context(), "web")
	require.NoError(s.t, err)
	return rec.Listeners[listener].Slots.Owner
}
