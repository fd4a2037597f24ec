package reliability

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
)

// suspect is the fault of a switch that came with the ports of another.
func (r *rig) suspect(dpid ofproto.DPID) string {
	sw, _ := r.known(dpid)
	return sw.Faults["ports"]
}

// plug puts a switch with four ports in place of the one that has its datapath id. at
// says whose and which each is.
func (r *rig) plug(dpid ofproto.DPID, at func(ofproto.Port) simswitch.Place) {
	r.AddSwitch(simswitch.Options{DPID: dpid, Ports: []ofproto.Port{1, 2, 3, 4, ofproto.PortLocal}, HWAddr: func(p ofproto.Port) ofproto.MAC {
		if p == ofproto.PortLocal {
			p = 1 // as Open vSwitch does
		}
		from := at(p)
		return ofproto.MAC{2, 0, 0, 0, byte(from.DPID), byte(from.Port)}
	}})
	r.connect(dpid)
}

// unplug ends the connections of switches 1 and 2.
func (r *rig) unplug() {
	for dpid := range ofproto.DPID(2) {
		r.disconnect(dpid + 1)
		eventually(r.t, 10*time.Second, "disconnected", func() bool { return !r.connected(dpid + 1) })
	}
}

// of returns the ports of the switch that had a datapath id first.
func of(dpid ofproto.DPID) func(ofproto.Port) simswitch.Place {
	return func(p ofproto.Port) simswitch.Place { return simswitch.Place{DPID: dpid, Port: p} }
}

// TestT18SwappedDatapathIDs has two switches come back with each other's datapath id:
// both are reported as they connect, and again after a restart of the controller, until
// they are put right or confirmed. Ports that move are no swap.
func TestT18SwappedDatapathIDs(t *testing.T) {
	pair := func(t *testing.T) *rig {
		r := start(t, options{})
		r.plug(1, of(1))
		r.plug(2, of(2))
		r.ready(1, 2)
		r.noFaults()
		return r
	}
	swap := func(r *rig) {
		r.plug(1, of(2))
		r.plug(2, of(1))
		r.ready(1, 2)
	}
	both := func(r *rig) {
		require.Contains(r.t, r.suspect(1), "0000000000000002 had")
		require.Contains(r.t, r.suspect(2), "0000000000000001 had")
		require.Len(r.t, r.logs.with("ALARM"), 2)
	}
	t.Run("put right", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := pair(t)
			r.unplug()
			swap(r)
			both(r)
			r.settle()
			mods := r.mods()
			for range 2 { // what was learned is not learned from them
				r = r.restart(options{})
				r.ready(1, 2)
				both(r)
				require.Equal(t, mods, r.mods())
			}
			r.unplug()
			r.plug(1, of(1))
			r.plug(2, of(2))
			r.ready(1, 2)
			r.noFaults()
		})
	})
	t.Run("restart between", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := pair(t)
			r.settle()
			mods := r.mods()
			r = r.restart(options{})
			r.ready(1, 2)
			require.Equal(t, mods, r.mods(), "nothing changed, nothing is sent")
			r.noFaults()
			r.stop()
			next := start(t, options{keep: r.keep})
			swap(next)
			both(next)
		})
	})
	t.Run("confirmed", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := pair(t)
			r.unplug()
			swap(r)
			both(r)
			require.NoError(t, r.core.Confirm(t.Context(), 1))
			require.Empty(t, r.suspect(1))
			require.NotEmpty(t, r.suspect(2), "each by itself")
			require.NoError(t, r.core.Confirm(t.Context(), 2))
			r = r.restart(options{})
			r.ready(1, 2)
			r.noFaults()
		})
	})
	t.Run("ports that move", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			r := start(t, options{})
			r.plug(1, of(1))
			r.plug(2, func(p ofproto.Port) simswitch.Place {
				return simswitch.Place{DPID: 2 - ofproto.DPID(p/10), Port: p % 10}
			})
			r.ready(1, 2)
			// All ports of 1 become ports of 2, whose own go, before the controller's eyes.
			for p := range ofproto.Port(4) {
				r.Switch(1).RemovePort(p + 1)
				r.Switch(2).SetPort(p+11, true)
				r.Switch(2).RemovePort(p + 1)
			}
			eventually(t, 5*time.Second, "seen", func() bool {
				one, _ := r.known(1)
				two, _ := r.known(2)
				return len(one.Ports) == 1 && len(two.Ports) == 5
			})
			r = r.restart(options{})
			r.ready(1, 2)
			r.noFaults()
			// And back again while it does not look, all but one.
			r.unplug()
			r.plug(1, of(1))
			r.plug(2, func(p ofproto.Port) simswitch.Place { return simswitch.Place{DPID: 2 - ofproto.DPID(p/4), Port: p} })
			r.ready(1, 2)
			r.noFaults()
			require.Empty(t, r.logs.with("ALARM"))
		})
	})
	t.Run("no evidence", func(t *testing.T) {
		for name, at := range map[string]func(ofproto.Port) simswitch.Place{
			"new ports":              of(7),
			"half of another":        func(p ofproto.Port) simswitch.Place { return simswitch.Place{DPID: 1 + ofproto.DPID(p%2)*6, Port: p} },
			"all but one of another": func(p ofproto.Port) simswitch.Place { return simswitch.Place{DPID: 1 + ofproto.DPID(p/4), Port: p} },
			"one address":            func(ofproto.Port) simswitch.Place { return simswitch.Place{DPID: 1, Port: 1} },
			"of two others":          of(3),
		} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					r := pair(t)
					r.plug(4, of(3)) // a laboratory whose switches are copies
					r.plug(5, of(3))
					r.ready(4, 5)
					r.disconnect(2)
					eventually(t, 10*time.Second, "disconnected", func() bool { return !r.connected(2) })
					r.plug(2, at)
					r.ready(2)
					r.noFaults()
					require.Empty(t, r.logs.with("ALARM"))
				})
			})
		}
	})
}
