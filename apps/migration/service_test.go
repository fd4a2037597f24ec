package migration

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/topology"
)

func TestWavesAndRollback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		first := w.picture()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer", "a2 steer"}, []string{"a1 managed", d9 + " steer"}, []string{"a2 released"}))
		require.Empty(t, w.actions(), "a plan changes nothing")
		require.Equal(t, first, w.picture())
		require.Equal(t, StatePlanned, l.get("campus").State)

		m := l.apply()
		require.Equal(t, StateUnconfirmed, m.State, m.Reason)
		require.Equal(t, Progress{Done: 2, Total: 5, Confirm: documents.Duration(time.Minute)}, m.Progress)
		require.Equal(t, []string{"adopt a1 steer", "adopt a2 steer"}, w.actions())
		_, err := l.Apply(context.Background(), "campus", "", "test")
		require.ErrorContains(t, err, "is under way")
		l.confirm()
		require.Equal(t, StateConfirmed, l.get("campus").State)
		afterFirst := w.picture()
		l.apply()
		l.confirm()
		m = l.apply()
		require.Equal(t, StateUnconfirmed, m.State, m.Reason)
		l.confirm()
		require.Equal(t, StateCompleted, l.get("campus").State)
		_, err = l.Apply(context.Background(), "campus", "", "test")
		require.ErrorContains(t, err, "all waves are applied")

		// To the checkpoint of the second wave, forward again, and to the first.
		back := func(to int) Migration {
			_, err := l.Rollback(context.Background(), "campus", to, "test")
			require.NoError(t, err)
			return l.rests("campus")
		}
		third := w.picture()
		m = back(3) // only the last wave: the others are where they were
		require.Equal(t, []string{"w1", "w2"}, m.Applied)
		for _, st := range m.Last.Steps {
			want := unchanged
			if st.Bridge == "a2" {
				want = ""
			}
			require.Equal(t, want, st.Reason, st.Target())
		}
		l.apply()
		l.confirm()
		require.Equal(t, third, w.picture())
		m = back(2)
		require.Equal(t, StateRolledBack, m.State)
		require.Equal(t, []string{"w1"}, m.Applied)
		require.Equal(t, afterFirst, w.picture())
		require.Equal(t, "w2", m.Next)
		l.apply()
		l.confirm()
		l.apply()
		require.Equal(t, third, w.picture())
		l.confirm()
		require.Empty(t, back(1).Applied)
		require.Equal(t, first, w.picture())
		_, err = l.Rollback(context.Background(), "campus", 99, "test")
		require.ErrorIs(t, err, ErrNotFound)

		audit := l.get("campus").Audit
		for _, what := range []string{"put", "apply", "checked", "checkpoint", "step", "applied", "confirm", "rollback", "rolled back"} {
			require.True(t, slices.ContainsFunc(audit, func(e AuditEntry) bool { return e.What == what }), what)
		}
		require.NoError(t, l.Delete(context.Background(), "campus", Condition{}, "test"))
		require.Empty(t, w.stored)
	})
}

// A wave that nobody confirms is rolled back when the time is over, and not before.
func TestConfirmTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		first := w.picture()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer", d9 + " managed"}))
		l.apply()
		time.Sleep(59 * time.Second)
		synctest.Wait()
		require.Equal(t, StateUnconfirmed, l.get("campus").State)
		time.Sleep(2 * time.Second)
		m := l.rests("campus")
		require.Equal(t, StateRolledBack, m.State)
		require.Equal(t, "it was not confirmed within 1m0s", m.Reason)
		require.Equal(t, first, w.picture())
		_, err := l.Confirm(context.Background(), "campus", "test")
		require.ErrorContains(t, err, "no wave of migration campus waits")
	})
}

// What goes wrong in a wave takes it back, says why, and leaves nothing behind.
func TestFailures(t *testing.T) {
	answers := func(w *world) []string {
		if w.bridges["a2"].adopted {
			return []string{d9 + " 10.0.0.9 does not answer from switch 9 any more"}
		}
		return nil
	}
	for name, c := range map[string]struct {
		breaks func(w *world)
		reason string
		acts   bool // something was done
	}{
		"a host does not answer": {func(w *world) { w.broken = answers }, "10.0.0.9 does not answer", true},
		"a VIP is silent before": {func(w *world) { w.silent = []string{"VIP web does not answer"} }, "before the wave: VIP web", false},
		"the switch is out of table space": {func(w *world) {
			w.taken = func(s *fakeSwitch) { s.faults = map[string]string{"balancer/vip/web": "OFPFMFC_TABLE_FULL"} }
		}, "refuses: balancer/vip/web: OFPFMFC_TABLE_FULL", true},
		"the tables are not as they are to be": {func(w *world) { w.switches[d2] = &fakeSwitch{stage: "observe", deviates: []string{"table 0: missing"}} }, "does not hold what it is to hold: table 0: missing", true},
		"nothing may be written":               {func(w *world) { w.switches[d9].held = "another store's" }, "another store's", false},
		"an endpoint is gone":                  {func(w *world) { w.gone[at2] = true }, "connection refused", false},
		"STP and managed":                      {func(w *world) { w.bridges["a1"].stp = true }, "STP", false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				stage := "steer"
				if name == "STP and managed" {
					stage = "managed"
				}
				first := w.picture()
				l := w.start(t)
				defer l.end()
				l.put(describe(t, []string{"a1 " + stage, "a2 steer", d9 + " steer"}))
				w.mu.Lock()
				c.breaks(w)
				w.mu.Unlock()
				began := time.Now()
				m := l.apply()
				require.Equal(t, StateRolledBack, m.State)
				require.Contains(t, m.Reason, c.reason)
				require.Less(t, time.Since(began), time.Minute, "within the confirm timeout")
				require.Equal(t, c.acts, len(w.actions()) > 0, "%v", w.actions())
				w.mu.Lock()
				delete(w.gone, at2)
				w.bridges["a1"].stp = false
				w.mu.Unlock()
				require.Equal(t, first, w.picture())
				require.Empty(t, m.Applied)
			})
		})
	}
}

// An endpoint that goes while a wave is applied is waited for; the others are taken back
// meanwhile. One that never comes back fails the run, and a later rollback goes through.
func TestEndpointGoneMidWave(t *testing.T) {
	for _, comes := range []bool{true, false} {
		t.Run(fmt.Sprint(comes), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				first := w.picture()
				l := w.start(t)
				defer l.end()
				l.put(describe(t, []string{d9 + " steer", "a1 steer", "a2 steer"}))
				w.look(func() {
					w.broken = func(w *world) []string {
						if w.bridges["a2"].adopted {
							w.gone[at1] = true
							return []string{d9 + " 10.0.0.9 does not answer"}
						}
						return nil
					}
				})
				_, err := l.Apply(context.Background(), "campus", "", "test")
				require.NoError(t, err)
				time.Sleep(30 * time.Second)
				synctest.Wait()
				m := l.get("campus")
				require.Equal(t, StateRollingBack, m.State)
				require.Contains(t, m.Run.Retrying, "connection refused")
				require.Contains(t, m.Reason, "10.0.0.9")
				w.look(func() {
					require.False(t, w.bridges["a2"].adopted, "what can be reached is taken back")
					require.Equal(t, "observe", w.switches[d9].stage)
				})
				if !comes {
					m = l.rests("campus")
					require.Equal(t, StateFailed, m.State)
					require.Contains(t, m.Reason, "not taken back yet")
					_, err := l.Apply(context.Background(), "campus", "", "test")
					require.ErrorContains(t, err, "roll it back first")
				}
				w.mu.Lock()
				w.broken = nil
				delete(w.gone, at1)
				w.mu.Unlock()
				if !comes {
					_, err := l.Rollback(context.Background(), "campus", 0, "test")
					require.NoError(t, err)
				}
				m = l.rests("campus")
				require.Equal(t, StateRolledBack, m.State)
				require.Equal(t, first, w.picture())
			})
		})
	}
}

// A rollback that is asked for while a wave is applied interrupts it.
func TestRollbackMidWave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		first := w.picture()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer", "a2 steer"}))
		w.look(func() {
			w.broken = func(w *world) []string {
				if w.bridges["a1"].adopted {
					return []string{d9 + " still silent"}
				}
				return nil
			}
		})
		_, err := l.Apply(context.Background(), "campus", "", "test")
		require.NoError(t, err)
		time.Sleep(5 * time.Second) // it is being verified
		synctest.Wait()
		require.Equal(t, StateApplying, l.get("campus").State, l.get("campus").Reason)
		_, err = l.Rollback(context.Background(), "campus", 0, "anna")
		require.NoError(t, err)
		m := l.rests("campus")
		require.Equal(t, StateRolledBack, m.State)
		require.Contains(t, m.Reason, "asked for by anna")
		require.Equal(t, first, w.picture())
		require.NotContains(t, w.actions(), "adopt a2 steer")
	})
}

// The program is killed at every single thing that it does, before and after: the next
// one brings the network to where it was, or waits for the confirmation that is due.
func TestKilledAtEveryPoint(t *testing.T) {
	waves := [][]string{{"a1 steer", "a2 steer", d9 + " steer"}, {"a1 released", d9 + " managed"}}
	points, states := 0, map[State]int{}
	for _, broken := range []bool{false, true} {
		for killAt := 1; ; killAt++ {
			over := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld()
				l := w.start(t)
				l.put(describe(t, waves...))
				first := w.picture()
				if broken { // so that it is rolled back, and killed while it is
					w.broken = func(w *world) []string {
						if w.switches[d9].stage == "steer" && w.bridges["a2"].adopted {
							return []string{d9 + " silent"}
						}
						return nil
					}
				}
				w.mu.Lock()
				w.step, w.killAt = 0, killAt
				w.mu.Unlock()
				_, err := l.Apply(context.Background(), "campus", "", "test")
				if err == nil {
					m := l.restsOrEnds("campus")
					if m.State == StateUnconfirmed && !broken {
						_, _ = l.Confirm(context.Background(), "campus", "test")
					}
				}
				synctest.Wait()
				w.mu.Lock()
				over = w.step < killAt
				w.killAt, w.broken = 0, nil
				w.mu.Unlock()
				l.end()
				if over {
					return
				}
				points++
				l = w.start(t)
				defer l.end()
				m := l.rests("campus")
				states[m.State]++
				switch m.State {
				case StatePlanned, StateRolledBack:
					require.Equal(t, first, w.picture(), "killed at %d", killAt)
				case StateUnconfirmed:
					require.True(t, w.stands())
					time.Sleep(2 * time.Minute)
					m = l.rests("campus")
					require.Equal(t, StateRolledBack, m.State)
					require.Equal(t, first, w.picture(), "killed at %d", killAt)
				case StateConfirmed:
					require.True(t, w.stands())
				default:
					t.Fatalf("killed at %d: %s: %s", killAt, m.State, m.Reason)
				}
			})
			if over || t.Failed() {
				break
			}
		}
	}
	t.Logf("killed at %d points: %v", points, states)
	require.Greater(t, points, 60)
	for _, s := range []State{StatePlanned, StateRolledBack, StateUnconfirmed, StateConfirmed} {
		require.NotZero(t, states[s], s)
	}
}

// restsOrEnds is rests for a life that may end meanwhile.
func (l *life) restsOrEnds(name string) Migration {
	for {
		synctest.Wait()
		select {
		case <-l.over:
			return Migration{}
		default:
		}
		m := l.get(name)
		if m.State != StateApplying && m.State != StateRollingBack {
			return m
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// What is killed while it goes back to a checkpoint goes on.
func TestKilledWhileRollingBack(t *testing.T) {
	for killAt := 1; ; killAt++ {
		over := false
		synctest.Test(t, func(t *testing.T) {
			w := newWorld()
			first := w.picture()
			l := w.start(t)
			l.put(describe(t, []string{"a1 steer"}, []string{"a2 managed", "a1 managed"}))
			for range 2 {
				require.Equal(t, StateUnconfirmed, l.apply().State, l.get("campus").Reason)
				l.confirm()
			}
			full := w.picture()
			w.mu.Lock()
			w.step, w.killAt = 0, killAt
			w.mu.Unlock()
			_, _ = l.Rollback(context.Background(), "campus", 1, "test")
			l.restsOrEnds("campus")
			w.mu.Lock()
			over = w.step < killAt
			w.killAt = 0
			w.mu.Unlock()
			l.end()
			if over {
				return
			}
			l = w.start(t)
			defer l.end()
			if m := l.rests("campus"); m.State == StateCompleted {
				require.Equal(t, full, w.picture(), "it was not begun")
			} else {
				require.Equal(t, StateRolledBack, m.State)
				require.Equal(t, first, w.picture(), "killed at %d", killAt)
			}
		})
		if over || t.Failed() {
			t.Logf("killed at %d points", killAt-1)
			require.Greater(t, killAt, 10)
			return
		}
	}
}

// Somebody who changes a bridge meanwhile is not overwritten, and it is told.
func TestSomebodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer"}))
		l.apply()
		w.mu.Lock()
		w.bridges["a1"].text = "another"
		w.mu.Unlock()
		time.Sleep(2 * time.Minute)
		m := l.rests("campus")
		require.Equal(t, StateRolledBack, m.State)
		require.Contains(t, m.Last.Steps[0].Reason, "somebody else has changed the bridge")
	})
}

func TestPutKeepsWhatIsApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.start(t)
		defer l.end()
		ctx := context.Background()
		l.put(describe(t, []string{"a1 steer"}, []string{"a2 steer"}))
		l.apply()
		clash := new(ConflictError)
		_, _, err := l.Put(ctx, describe(t, []string{"a1 steer"}), Condition{}, "test")
		require.ErrorAs(t, err, &clash)
		require.ErrorContains(t, err, "under way")
		require.ErrorContains(t, l.Delete(ctx, "campus", Condition{}, "test"), "under way")
		l.confirm()
		_, _, err = l.Put(ctx, describe(t, []string{"a1 managed"}), Condition{}, "test")
		require.ErrorContains(t, err, "wave w1 is applied")
		l.put(describe(t, []string{"a1 steer"}, []string{"a2 managed"}, []string{"a1 released"}))
		require.Equal(t, "w2", l.get("campus").Next)
		_, _, err = l.Put(ctx, describe(t, []string{"a1 steer"}), Condition{IfMatch: func(tag string) bool { return tag == `"1"` }}, "test")
		require.ErrorIs(t, err, ErrPrecondition)
		_, _, err = l.Put(ctx, describe(t, []string{"a1 steer"}), Condition{IfNoneMatch: true}, "test")
		require.ErrorIs(t, err, ErrPrecondition)
		_, err = l.Apply(ctx, "campus", "w9", "test")
		require.ErrorIs(t, err, ErrNotFound)
		_, err = l.Apply(ctx, "campus", "w1", "test")
		require.ErrorContains(t, err, "w1 is applied")
		_, err = l.Get(ctx, "other")
		require.ErrorIs(t, err, ErrNotFound)
		_, err = l.Rollback(ctx, "other", 0, "test")
		require.ErrorIs(t, err, ErrNotFound)
	})
}

// One migration at a time.
func TestTwoMigrations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer"}))
		other := describe(t, []string{"a2 steer"})
		other.Name = "other"
		l.put(other)
		l.apply()
		_, err := l.Apply(context.Background(), "other", "", "test")
		require.ErrorContains(t, err, "migration campus is under way")
		l.confirm()
		_, err = l.Apply(context.Background(), "other", "", "test")
		require.NoError(t, err)
		require.Equal(t, StateUnconfirmed, l.rests("other").State)
		_, err = l.Rollback(context.Background(), "campus", 0, "test")
		require.ErrorContains(t, err, "migration other is under way")
		list, err := l.List(context.Background())
		require.NoError(t, err)
		require.Len(t, list, 2)
	})
}

// The store says no: what was changed is not forgotten.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		l := w.start(t)
		defer l.end()
		l.put(describe(t, []string{"a1 steer"}))
		store := &brokenStore{Store: l.o.Store}
		l.o.Store = store
		store.fails = 1
		_, err := l.Apply(context.Background(), "campus", "", "test")
		require.ErrorIs(t, err, errFull)
		require.Equal(t, StatePlanned, l.get("campus").State)
		first := w.picture()
		w.broken = func(w *world) []string {
			if w.bridges["a1"].adopted {
				store.fails = 20 // from now on
				w.broken = nil
				return []string{d9 + " silent"}
			}
			return nil
		}
		l.patience.verify = 0
		m := l.apply()
		require.Equal(t, StateRolledBack, m.State)
		require.Equal(t, first, w.picture())
	})
}

type brokenStore struct {
	Store
	fails int
}

var errFull = errors.New("the disk is full")

func (s *brokenStore) Write(ctx context.Context, entries map[string][]byte) error {
	if s.fails > 0 {
		s.fails--
		return errFull
	}
	return s.Store.Write(ctx, entries)
}

func TestPlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		now := time.Now()
		// 9 and 8 are joined twice: a circle, unless one is managed.
		for _, id := range []topology.DPID{8, 9} {
			w.links.SetSwitch(id, []topology.PortState{{Port: 1, Up: true}, {Port: 2, Up: true}}, now)
		}
		for _, port := range []topology.Port{1, 2} {
			a, b := topology.Place{DPID: 8, Port: port}, topology.Place{DPID: 9, Port: port}
			w.links.SeedLink(a, b, now.Add(time.Hour), now)
		}
		w.switches["0000000000000008"] = &fakeSwitch{connected: true, stage: "managed", stored: true}
		w.switches[d9].stage = "managed"
		w.vips = []VIP{{Name: "web", Mode: "nat", Members: []Member{{DPID: d9}}}}
		l := w.start(t)
		defer l.end()
		d := describe(t, []string{d9 + " steer"}, []string{"0000000000000008 steer"}, []string{d9 + " observe"}, []string{"a1 steer"}, []string{"a1 released"})
		d.VIPs = []string{"web"}
		p, err := l.Plan(context.Background(), d)
		require.NoError(t, err)
		find := func(wave int, check string) Check {
			for _, c := range p.Waves[wave].Steps[0].Checks {
				if c.Name == check {
					return c
				}
			}
			t.Fatalf("no check %s in %+v", check, p.Waves[wave].Steps[0].Checks)
			return Check{}
		}
		require.Equal(t, CheckOK, find(0, "loops").State)
		require.Equal(t, CheckWarning, find(1, "loops").State, "with 9 in steer by then; they may run STP")
		require.Contains(t, find(1, "loops").Detail, "circle")
		require.Equal(t, CheckOK, find(1, "return_paths").State)
		require.Equal(t, CheckFailed, find(2, "return_paths").State)
		require.Equal(t, "steer", p.Waves[2].Steps[0].From, "an earlier wave did that")
		require.Len(t, p.Waves[0].Steps[0].Blast.Links, 2)
		require.Equal(t, []SwitchChange{{
			DPID: "0000000000000008", Ports: []string{"port 2: blocked: 0000000000000009 forwards on its own, and is reached another way"},
		}}, p.Waves[0].Steps[0].Elsewhere)
		require.Empty(t, p.Waves[1].Steps[0].Elsewhere, "9 is in steer by then")
		require.Equal(t, "available", p.Waves[3].Steps[0].From)
		require.Len(t, p.Waves[3].Steps[0].OVSDB, 1)
		require.Equal(t, "steer", p.Waves[4].Steps[0].From)
		require.Equal(t, "the bridge is adopted again, in stage steer", p.Waves[4].Steps[0].Undo)
		require.Empty(t, w.actions())

		// With their databases known, it is sure.
		w.look(func() {
			w.bridges["b8"] = &fakeBridge{endpoint: at1, dpid: "0000000000000008", adopted: true}
			w.bridges["b9"] = &fakeBridge{endpoint: at1, dpid: d9, adopted: true}
			w.room = 4
		})
		p, err = l.Plan(context.Background(), d)
		require.NoError(t, err)
		require.Equal(t, CheckFailed, find(1, "loops").State)
		require.Equal(t, CheckFailed, find(0, "room").State)
		require.Contains(t, find(0, "room").Detail, "table 0 would have 5 flows")
		w.look(func() { w.bridges["b8"].stp, w.room = true, 0 })
		p, err = l.Plan(context.Background(), d)
		require.NoError(t, err)
		require.Equal(t, CheckOK, find(1, "loops").State, "one of them runs STP")
		require.Equal(t, CheckOK, find(0, "room").State)

		d.VIPs = []string{"none"}
		p, err = l.Plan(context.Background(), d)
		require.NoError(t, err)
		require.Contains(t, find(0, "return_paths").Detail, "no VIP none")
	})
}

func TestCanary(t *testing.T) {
	step := func(dpid string, known bool, hosts int, marked bool) PlannedStep {
		return PlannedStep{Step: Step{DPID: dpid, Canary: marked}, Blast: Blast{Known: known, Hosts: make([]string, hosts)}}
	}
	order := func(steps ...PlannedStep) (list []string) {
		canaryFirst(steps)
		for _, s := range steps {
			list = append(list, s.DPID)
		}
		require.True(t, steps[0].Canary)
		return list
	}
	require.Equal(t, []string{"c", "a", "b"}, order(step("a", true, 9, false), step("b", false, 0, false), step("c", true, 2, false)))
	require.Equal(t, []string{"b", "a", "c"}, order(step("a", true, 1, false), step("b", true, 7, true), step("c", true, 2, false)))
	require.Equal(t, []string{"a", "b"}, order(step("a", false, 0, false), step("b", false, 0, false)))
}
