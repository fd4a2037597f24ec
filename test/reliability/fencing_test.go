package reliability

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// TestH18TwoControllersByMistake points a second controller, with a store of its own,
// at a switch that another one has: it stays passive and says so, until an operator
// confirms that it is to take the switch; then the first is the passive one.
func TestH18TwoControllersByMistake(t *testing.T) {
	for _, ahead := range []int{-1, 0, 1000} { // of the second's term before the first's
		t.Run(fmt.Sprintf("ahead=%d", ahead), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var masters atomic.Int64
				memory := &lab.Memory{Cluster: "first"}
				for range 5 {
					_, err := memory.NextTerm(t.Context(), 0)
					require.NoError(t, err)
				}
				first := single(t, 4, options{keep: &keep{memory: memory, dir: t.TempDir()}}, simswitch.Options{Received: func(_ ofproto.Header, m ofproto.Message) {
					if r, ok := m.(*ofproto.RoleRequest); ok && r.Role == ofproto.RoleMaster {
						masters.Add(1)
					}
				}})
				rec := first.install(first.vip(1, "h2", "h3", "h4"))
				picks, mods, since, were := first.picks(50, rec), first.mods(), first.since(1), masters.Load()

				other := &lab.Memory{Cluster: "second"}
				_, err := other.NextTerm(t.Context(), uint64(5+ahead)) // and one more when it starts
				require.NoError(t, err)
				second := start(t, options{keep: &keep{memory: other, dir: t.TempDir()}})
				second.Network = first.Network
				second.connect(1)
				eventually(t, 10*time.Second, "the second says that it is held", func() bool { return len(second.core.Held()) == 1 })
				t.Log(second.core.Held()[0])
				require.NotEmpty(t, second.logs.with("ALARM"))
				for range 12 {
					time.Sleep(10 * time.Second)
					require.Equal(t, picks, first.picks(50, rec))
				}
				require.Equal(t, mods, first.mods(), "both together send nothing")
				require.Equal(t, were, masters.Load(), "the role is not asked for")
				require.Equal(t, since, first.since(1))
				require.Empty(t, first.core.Held())
				first.install(first.vip(2, "h2", "h3")) // the first goes on
				first.proxy(1).Cut()
				time.Sleep(5 * time.Second)
				require.Empty(t, first.core.Held(), "and has the switch again after its connection was cut")

				// The second is meant after all.
				require.NoError(t, second.core.Confirm(t.Context(), 1))
				eventually(t, 10*time.Second, "the second has the switch", func() bool {
					sw, ok := second.known(1)
					return ok && sw.Role == ofproto.RoleMaster && len(second.core.Held()) == 0
				})
				second.ready(1)
				were = masters.Load()
				first.put(first.vip(3, "h2"))
				eventually(t, 2*time.Minute, "the first has noticed", func() bool { return len(first.core.Held()) == 1 })
				require.NotEmpty(t, first.logs.with("another controller has become the switch's master"))
				time.Sleep(2 * time.Minute)
				require.Empty(t, second.core.Held())
				require.LessOrEqual(t, masters.Load()-were, int64(2), "no fight")
				first.core.Held()
			})
		})
	}
}

// TestH18SlaveInsteadOfMaster has a switch answer the request to be master with another
// role: nothing is written by a session that is a slave, or that it is not known what it is.
func TestH18SlaveInsteadOfMaster(t *testing.T) {
	for _, role := range []ofproto.Role{ofproto.RoleSlave, ofproto.RoleNoChange, 77} {
		t.Run(role.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := start(t, options{})
				o := hosted(7)
				o.holds = true
				o.override = func(f frame, m ofproto.Message) ([][]byte, bool) {
					if q, ok := m.(*ofproto.RoleRequest); ok && q.Role == ofproto.RoleMaster {
						return reply(f.XID, &ofproto.RoleReply{Role: role, GenerationID: q.GenerationID}), true
					}
					return nil, false
				}
				p := r.peer()
				p.play(o)
				time.Sleep(time.Minute)
				require.Zero(t, p.mods())
				sw, connected := r.known(7)
				require.Equal(t, role == ofproto.RoleSlave, connected)
				if connected {
					require.Contains(t, sw.Held(), "another controller may have the switch")
				} else {
					require.Len(t, r.logs.with("asked to be master"), 1)
				}
			})
		})
	}
}

// TestH11ClocksThatStep steps the wall clock of a controller, as far as a process can
// have that done to it: all that it measures are differences of readings that carry the
// monotonic clock, so what is restored from a store of another time matters.
func TestH11ClocksThatStep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := ring(t, options{})
		rec := r.install(r.vip(1, "h2", "h3", "h4"))
		time.Sleep(5 * time.Second)
		picks, mods := r.picks(50, rec), r.mods()
		// An hour passes for the controller alone: its process sleeps, or its clock was
		// an hour behind when it saved what it knows.
		r.stop()
		time.Sleep(time.Hour)
		r = r.restart(options{})
		r.ready(1, 2, 3, 4)
		require.Equal(t, picks, r.picks(50, rec))
		time.Sleep(40 * time.Second)
		require.Len(t, r.links(), 4)
		require.Equal(t, mods, r.mods())
	})
}
