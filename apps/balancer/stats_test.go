package balancer_test

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// stats reads the counters of the VIP, afresh.
func (s *site) stats() balancer.Stats {
	s.t.Helper()
	s.Pass(2 * balancer.StatsLeast)
	st, err := s.service.Stats(s.t.Context(), "web", balancer.StatsLeast)
	require.NoError(s.t, err)
	require.Empty(s.t, st.Unread)
	return st
}

// packets are those of each host that is a member.
func (s *site) packets(st balancer.Stats) map[string]int {
	got := map[string]int{}
	for _, m := range st.Listeners[0].Members {
		for _, h := range s.Hosts() {
			if s.Host(h).IP == m.Address && m.Packets > 0 {
				got[h] = int(m.Packets)
			}
		}
	}
	return got
}

// What each member got is counted, whatever the switches have to count with.
func TestStatsCountWhatMembersGot(t *testing.T) {
	all := map[string]simswitch.Options{"no groups": {NoGroups: true}, "one table": {Tables: 1}, "one table, no groups": {Tables: 1, NoGroups: true}}
	for name, o := range personalities {
		all[name] = o
	}
	for name, o := range all {
		for _, protocol := range []balancer.Protocol{balancer.TCP, balancer.UDP} {
			t.Run(name+" "+string(protocol), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, rec := start(t, lab.Build(4, o, [2]int{1, 2}, [2]int{2, 3}, [2]int{3, 4}), lab.Options{}, protocol, "h2", "h3", "h4")
					s.learn()
					require.Zero(t, s.stats().Packets)
					want := map[string]int{}
					for sport := range uint16(50) {
						want[s.serves("h1", 1000+sport, rec)]++
					}
					st := s.stats()
					require.Equal(t, want, s.packets(st))
					l := st.Listeners[0]
					require.EqualValues(t, 50, l.Packets)
					require.Greater(t, l.Bytes, uint64(50*40))
					require.Equal(t, st.Packets, l.Packets)
					require.InDelta(t, 50, l.PacketRate*time.Duration(st.Interval).Seconds(), 1e-6)
					observed := 0.0
					for _, m := range l.Members {
						if m.ObservedShare != nil {
							observed += *m.ObservedShare
						}
					}
					require.InDelta(t, 1, observed, 1e-9)
					if protocol == balancer.UDP || o.NoNicira {
						require.Nil(t, l.NewConnections, "nothing counts them")
					} else if !o.NoSelect && !o.NoGroups && o.Tables == 0 {
						require.NotNil(t, l.NewConnections)
						require.EqualValues(t, 50, *l.NewConnections)
					}
				})
			})
		}
	}
}

// Counters only grow: when a switch loses its groups, when a member goes, and when the
// controller starts again.
func TestStatsOnlyGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := ring(simswitch.Options{})
		s := open(t, dir, n, lab.Options{})
		rec := s.put(s.pool(balancer.TCP, "h2", "h3", "h4"))
		s.learn()
		send := func() {
			for sport := range uint16(30) {
				s.serves("h1", 1000+sport, rec)
			}
		}
		send()
		require.EqualValues(t, 30, s.stats().Packets)

		require.Nil(t, s.Switch(1).Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll}))
		s.Pass(2 * time.Minute) // it is noticed and set again
		require.EqualValues(t, 30, s.stats().Packets, "what was counted before is kept")
		send()
		st := s.stats()
		require.EqualValues(t, 60, st.Packets)
		require.EqualValues(t, 60, *st.NewConnections)
		before := s.packets(st)

		rec = s.put(s.pool(balancer.TCP, "h2", "h3"))
		st = s.stats()
		require.EqualValues(t, 60, st.Packets, "that of a member that is gone included")
		require.Len(t, st.Listeners[0].Members, 2)
		require.Equal(t, before["h2"], s.packets(st)["h2"])

		s.close()
		memory := s.Memory
		s = open(t, dir, n, lab.Options{Memory: memory})
		st = s.stats()
		require.NotZero(t, st.Packets, "a new controller takes over what the switches have")
		require.LessOrEqual(t, st.Packets, uint64(60))
		was := st.Packets
		send()
		require.Equal(t, was+30, s.stats().Packets)
	})
}

// All who look share one reading, and nobody asks a switch when nobody looks.
func TestStatsAreReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		o := simswitch.Options{Received: func(_ ofproto.Header, m ofproto.Message) {
			if r, ok := m.(*ofproto.MultipartRequest); ok && r.Type == ofproto.MultipartGroup {
				asked.Add(1)
			}
		}}
		s, _ := start(t, ring(o), lab.Options{}, balancer.TCP, "h2", "h3")
		s.learn()
		asked.Store(0)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				_, err := s.service.Stats(t.Context(), "web", 0)
				require.NoError(t, err)
				all, err := s.service.AllStats(t.Context(), 0)
				require.NoError(t, err)
				require.Len(t, all, 1)
			})
		}
		wg.Wait()
		require.EqualValues(t, 4, asked.Load(), "once of each switch")
		s.Pass(balancer.StatsAge / 2)
		_, err := s.service.Stats(t.Context(), "web", 0)
		require.NoError(t, err)
		require.EqualValues(t, 4, asked.Load(), "young enough")
		s.Pass(10 * time.Minute)
		require.EqualValues(t, 4, asked.Load(), "nobody looks")
		st, err := s.service.Stats(t.Context(), "web", 0)
		require.NoError(t, err)
		require.EqualValues(t, 8, asked.Load())
		require.Greater(t, time.Duration(st.Interval), 10*time.Minute)
	})
}

func TestQuantisationError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), ring(simswitch.Options{}), lab.Options{})
		doc := s.pool(balancer.TCP, "h2", "h3", "h4")
		rec := s.put(doc)
		require.Len(t, rec.Listeners[0].Slots.Home, 32)
		require.InDelta(t, 1.0/3-10.0/32, balancer.QuantisationError(rec, 0), 1e-9)
		doc = s.pool(balancer.TCP, "h2", "h3")
		rec = s.put(doc)
		require.Zero(t, balancer.QuantisationError(rec, 0))
		st := s.stats()
		require.Zero(t, st.Listeners[0].QuantisationError)
		require.Equal(t, 0.5, st.Listeners[0].Members[0].WeightShare)
		require.Equal(t, 0.5, st.Listeners[0].Members[0].Share)
	})
}
