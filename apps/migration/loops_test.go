package migration

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/topology"
)

// join puts cables between ports of the same number of two switches into a graph.
func (w *world) join(a, b topology.DPID, ports ...topology.Port) {
	now := time.Now()
	var up []topology.PortState
	for _, p := range ports {
		up = append(up, topology.PortState{Port: p, Up: true})
	}
	w.links.SetSwitch(a, up, now)
	w.links.SetSwitch(b, up, now)
	for _, p := range ports {
		w.links.SeedLink(topology.Place{DPID: a, Port: p}, topology.Place{DPID: b, Port: p}, now.Add(time.Hour), now)
	}
}

// pull takes a cable out, as the switch at one end sees it.
func (w *world) pull(id topology.DPID, p topology.Port) {
	w.links.SetPort(id, topology.PortState{Port: p}, time.Now())
}

func TestCircle(t *testing.T) {
	link := func(a, b topology.DPID) topology.Link {
		return topology.Link{A: topology.Place{DPID: a}, B: topology.Place{DPID: b}}
	}
	ring := []topology.Link{link(1, 2), link(2, 3), link(1, 3), link(3, 4), link(4, 5), link(4, 5)}
	all := func(topology.DPID) bool { return true }
	but := func(closed topology.DPID) func(topology.DPID) bool {
		return func(id topology.DPID) bool { return id != closed }
	}
	for _, c := range []struct {
		through topology.DPID
		open    func(topology.DPID) bool
		want    bool
	}{
		{1, all, true}, {2, all, true}, {3, all, true}, {4, all, true}, {5, all, true},
		{1, but(2), false}, {1, but(1), false}, {3, but(1), false}, {3, but(4), true}, {4, but(5), false}, {6, all, false},
	} {
		_, found := circle(ring, c.through, c.open)
		require.Equal(t, c.want, found, "through %d", c.through)
	}
	_, found := circle([]topology.Link{link(7, 7)}, 7, all)
	require.True(t, found, "a cable between two of its own ports")
}

// A cable that was put in while both switches were managed would close a circle when they
// go back: the last of them waits until it is pulled.
func TestRollbackClosesNoCircle(t *testing.T) {
	const d8 = "0000000000000008"
	for name, c := range map[string]struct {
		stp, known bool
		waits      bool
	}{
		"no STP":           {false, true, true},
		"STP":              {true, true, false},
		"STP is not known": {false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				w.switches[d8] = &fakeSwitch{connected: true, stage: "steer", stored: true}
				w.switches[d9].stage = "steer"
				if c.known {
					w.bridges["b8"] = &fakeBridge{endpoint: at1, dpid: d8, adopted: true, text: "plain"}
					w.bridges["b9"] = &fakeBridge{endpoint: at1, dpid: d9, adopted: true, text: "plain"}
				}
				w.join(8, 9, 1)
				first := w.picture()
				l := w.start(t)
				defer l.end()
				l.put(describe(t, []string{d8 + " managed", d9 + " managed"}))
				require.Equal(t, StateUnconfirmed, l.apply().State)
				w.look(func() {
					w.join(8, 9, 1, 2)
					if c.stp {
						w.bridges["b8"].stp = true
					}
				})
				time.Sleep(61 * time.Second)
				synctest.Wait()
				m := l.get("campus")
				if !c.waits {
					m = l.rests("campus")
					require.Equal(t, StateRolledBack, m.State)
					if !c.known {
						require.Contains(t, m.Last.Steps[0].Reason, "it is not known of all of them whether they run STP")
					}
					return
				}
				require.Equal(t, StateRollingBack, m.State)
				require.Contains(t, m.Run.Retrying, d8+": with ")
				require.Contains(t, m.Run.Retrying, "it would close a circle of switches that neither run STP nor are managed: pull a cable of the circle")
				w.look(func() {
					require.Equal(t, "steer", w.switches[d9].stage, "the first to go back closes nothing")
					require.Equal(t, "managed", w.switches[d8].stage)
					w.pull(8, 2)
				})
				m = l.rests("campus")
				require.Equal(t, StateRolledBack, m.State, m.Reason)
				require.Equal(t, first, w.picture())
			})
		})
	}
}

// The links of a bridge that was given back are not heard any more, and its cables are
// still there.
func TestReleaseClosesNoCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		first := w.picture()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 managed", "a2 managed"}))
		require.Equal(t, StateUnconfirmed, l.apply().State)
		w.look(func() { w.join(0xa1, 0xa2, 1, 2) })
		time.Sleep(70 * time.Second)
		synctest.Wait()
		m := l.get("campus")
		require.Equal(t, StateRollingBack, m.State)
		require.Contains(t, m.Run.Retrying, "pull a cable of the circle")
		w.look(func() {
			require.False(t, w.bridges["a2"].adopted)
			require.True(t, w.bridges["a1"].adopted)
			w.pull(0xa1, 1)
		})
		require.Equal(t, StateRolledBack, l.rests("campus").State)
		require.Equal(t, first, w.picture())
	})
}
