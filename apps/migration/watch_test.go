package migration

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/documents"
)

// A wave that waits for its confirmation is watched: what is worse and stays so takes it
// back at once, what passes does not.
func TestUnconfirmedIsWatched(t *testing.T) {
	for name, c := range map[string]struct {
		breaks func(w *world)
		reason string
	}{
		"a host":       {func(w *world) { w.broken = func(*world) []string { return []string{d9 + " 10.0.0.9 does not answer"} } }, "not verified: 10.0.0.9 does not answer"},
		"a VIP":        {func(w *world) { w.silent = []string{"VIP web does not answer"} }, "not verified: VIP web does not answer"},
		"the entries":  {func(w *world) { w.switches[d1].deviates = []string{"table 0: missing"} }, "does not hold what it is to hold: table 0: missing"},
		"a part":       {func(w *world) { w.switches[d1].faults = map[string]string{"balancer/vip/web": "OFPFMFC_TABLE_FULL"} }, "refuses: balancer/vip/web"},
		"its channel":  {func(w *world) { w.switches[d1].connected = false }, "is not connected"},
		"its way back": {func(w *world) { w.switches[d1].held = "another store's" }, "another store's"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				first := w.picture()
				l := w.start(t)
				defer l.end()
				l.put(describe(t, []string{"a1 steer"}))
				require.Equal(t, StateUnconfirmed, l.apply().State)
				time.Sleep(l.patience.watch + time.Second)
				synctest.Wait()
				m := l.get("campus")
				require.Equal(t, StateUnconfirmed, m.State, m.Reason)
				require.Equal(t, 1, m.Watch.Times)
				require.Empty(t, m.Watch.Doubts)
				w.look(func() { c.breaks(w) })
				time.Sleep(35 * time.Second) // of the minute: until it looks, and what it waits for
				synctest.Wait()
				w.look(func() { w.broken, w.silent = nil, nil })
				m = l.rests("campus")
				require.Equal(t, StateRolledBack, m.State)
				require.Contains(t, m.Reason, "while it waited for its confirmation: ")
				require.Contains(t, m.Reason, c.reason)
				require.Nil(t, m.Watch)
				require.Equal(t, first, w.picture())
			})
		})
	}
}

// What passes by itself, and what has other causes, does not take a wave back: the first
// is nothing, the second is shown.
func TestWatchDoubts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.start(t)
		defer l.end()
		d := describe(t, []string{"a1 steer"})
		d.ConfirmTimeout = documents.Duration(10 * time.Minute)
		l.put(d)
		l.apply()
		w.look(func() { w.broken = func(*world) []string { return []string{d9 + " lost"} } })
		time.Sleep(l.patience.watch + l.patience.verify/2)
		w.look(func() { w.broken = func(*world) []string { return []string{"?" + d9 + " 10.0.0.9 does not answer"} } })
		time.Sleep(time.Minute)
		synctest.Wait()
		m := l.get("campus")
		require.Equal(t, StateUnconfirmed, m.State, m.Reason)
		require.Equal(t, []string{"10.0.0.9 does not answer"}, m.Watch.Doubts)
		asked := w.measured
		require.Less(t, asked, 20, "at a modest pace")
		l.confirm()
		require.Equal(t, StateCompleted, l.get("campus").State)
		time.Sleep(time.Minute)
		require.Equal(t, asked, w.measured, "nobody watches any more")
	})
}

// A confirmation, a rollback and the next wave do not wait for a verification, and what
// that finds afterwards is of no wave of theirs.
func TestConfirmedWhileWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer"}, []string{"a2 steer"}))
		l.apply()
		w.look(func() { w.switches[d1].connected = false })
		time.Sleep(l.patience.watch + time.Second) // it waits for the switch
		synctest.Wait()
		require.Equal(t, StateUnconfirmed, l.get("campus").State)
		l.confirm()
		w.look(func() { w.switches[d1].connected = true })
		m := l.apply()
		require.Equal(t, StateUnconfirmed, m.State, m.Reason)
		require.Equal(t, "w2", m.Run.Wave)

		w.look(func() { w.switches[d2].connected = false })
		time.Sleep(l.patience.watch + time.Second)
		began := time.Now()
		_, err := l.Rollback(context.Background(), "campus", 0, "anna")
		require.NoError(t, err)
		m = l.rests("campus")
		require.Equal(t, StateRolledBack, m.State)
		require.Contains(t, m.Reason, "asked for by anna")
		require.Less(t, time.Since(began), 5*time.Second)
	})
}

// Of the first bridge of a network nothing can be asked before it has joined: then it is.
func TestFirstBaseline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.first = true
		w.look(func() { delete(w.switches, d9) })
		l := w.start(t)
		defer l.end()
		d := describe(t, []string{"a1 steer", "a2 steer"})
		l.put(d)
		checks := l.get("campus").Plan.Waves[0].Steps
		require.Contains(t, checks[0].Checks, Check{"measured", CheckWarning, "no switch is connected yet, and no VIP or probe is named: only hosts that are heard, if any, are asked through the bridge itself, before it is taken over"})
		require.Contains(t, checks[1].Checks, Check{"measured", CheckWarning, "no host is known yet, and no VIP or probe is named: there is nothing that could answer less than before"}, "the first is connected by then")

		m := l.apply()
		require.Equal(t, StateUnconfirmed, m.State, m.Reason)
		require.Equal(t, Tally{2, 2}, m.Checkpoints[0].Hosts)
		require.Equal(t, Tally{2, 2}, w.like.Hosts, "what is compared with")
		point, err := l.point(context.Background(), "campus", 1)
		require.NoError(t, err)
		require.Equal(t, Tally{2, 2}, point.Matrix.Hosts)

		// What is worse at the switch that was the first does not count once it is given back.
		first := true
		w.look(func() {
			w.broken = func(w *world) []string {
				if first = first && w.bridges["a1"].adopted; !first {
					return []string{d1 + " was not measured from"}
				}
				return nil
			}
		})
		time.Sleep(2 * time.Minute)
		m = l.rests("campus")
		require.Equal(t, StateRolledBack, m.State)
		require.Equal(t, "it was not confirmed within 1m0s", m.Reason)
	})
}

// What has to answer and does not, before the bridge is taken over, stops the wave while
// nothing was done.
func TestFirstBaselineSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.first, w.silentJoined = true, []string{"ping 10.0.0.9 answers no switch: no answer"}
		first := w.picture()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer"}))
		m := l.apply()
		require.Equal(t, StateRolledBack, m.State)
		require.Contains(t, m.Reason, "before the bridge is taken over: ping 10.0.0.9 answers no switch")
		require.Empty(t, w.actions())
		require.Equal(t, first, w.picture())
	})
}
