package topology_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/topology"
)

// wired is a graph of switches with ports 1 to n each, at a time of its own.
type wired struct {
	*topology.Graph
	now time.Time
}

func newWired(switches, ports int) *wired {
	w := &wired{topology.New(topology.Options{}), time.Unix(1000, 0)}
	for i := 1; i <= switches; i++ {
		var ps []topology.PortState
		for p := 1; p <= ports; p++ {
			ps = append(ps, topology.PortState{Port: topology.Port(p), Up: true})
		}
		w.SetSwitch(topology.DPID(i), ps, w.now)
	}
	return w
}

func at(sw, port int) topology.Place {
	return topology.Place{DPID: topology.DPID(sw), Port: topology.Port(port)}
}

func (w *wired) cable(a, b topology.Place) {
	w.HearLink(a, b, w.now)
	w.HearLink(b, a, w.now)
}

func (w *wired) bridge(places ...topology.Place) {
	for _, a := range places {
		for _, b := range places {
			w.HearBridged(a, b, w.now.Add(time.Minute), w.now)
		}
	}
}

// speakers are the ports that are first in their regions.
func speakers(r *topology.Regions, switches int) (list []topology.Place) {
	for i := 1; i <= switches; i++ {
		for _, o := range r.Outlets(topology.DPID(i)) {
			if len(o.Before) == 0 {
				list = append(list, at(i, int(o.Port)))
			}
		}
	}
	return list
}

func allBut(silent ...topology.DPID) func(topology.DPID) bool {
	return func(id topology.DPID) bool {
		for _, s := range silent {
			if s == id {
				return false
			}
		}
		return true
	}
}

func TestRegionsOfDomainsOnASegment(t *testing.T) {
	w := newWired(4, 3)
	w.cable(at(1, 1), at(2, 1))
	w.bridge(at(1, 2), at(2, 2), at(3, 2), at(4, 2))
	r := w.Snapshot().Regions(allBut())
	require.Equal(t, []topology.Place{at(1, 2), at(1, 3), at(2, 3), at(3, 1), at(3, 3), at(4, 1), at(4, 3)}, speakers(r, 4))
	require.Equal(t, []topology.Outlet{{Port: 1}, {Port: 2, Before: []topology.DPID{1}, Others: 3, Legacy: true}, {Port: 3}}, r.Outlets(3))
	require.Equal(t, []topology.Outlet{{Port: 3}}, r.Outlets(2), "a blocked port and a cable are no outlets")
	require.Equal(t, []topology.Place{at(1, 2), at(2, 2), at(3, 2), at(4, 2)}, r.Around(at(3, 2)))
	require.Equal(t, []topology.Place{at(3, 3)}, r.Around(at(3, 3)))
	require.Nil(t, r.Around(at(1, 1)))
}

// A switch that does not serve is part of a region, as any bridge is.
func TestRegionsOfSwitchesThatDoNotServe(t *testing.T) {
	w := newWired(4, 4)
	w.cable(at(1, 1), at(2, 1)) // 2 and 3 do not serve
	w.cable(at(2, 2), at(3, 1))
	w.cable(at(3, 2), at(4, 1))
	w.cable(at(2, 3), at(4, 2))
	r := w.Snapshot().Regions(allBut(2, 3))
	require.Equal(t, []topology.Place{at(1, 1), at(1, 2), at(1, 3), at(1, 4), at(4, 3), at(4, 4)}, speakers(r, 4))
	require.Equal(t, []topology.Outlet{
		{Port: 1, Before: []topology.DPID{1}, Others: 5}, {Port: 2, Before: []topology.DPID{1, 4}, Others: 5}, {Port: 3}, {Port: 4},
	}, r.Outlets(4))
	require.Empty(t, r.Outlets(2))
	require.Equal(t, []topology.Place{at(1, 1), at(2, 4), at(3, 3), at(3, 4), at(4, 1), at(4, 2)}, r.Around(at(2, 4)))

	// A segment joins it with others.
	w.bridge(at(3, 3), at(1, 4))
	w.SetManaged(3, false, w.now)
	r = w.Snapshot().Regions(allBut(2, 3))
	require.Equal(t, r.Around(at(1, 1)), r.Around(at(2, 4)))
}

// What was blocked beside a switch that left stays so, until it is known to have stopped.
func TestStoppedSwitchLeavesItsPlace(t *testing.T) {
	build := func() *wired {
		w := newWired(3, 3)
		w.cable(at(1, 1), at(2, 1))
		w.bridge(at(1, 2), at(2, 2))
		require.True(t, w.Snapshot().IsBlocked(at(2, 2)))
		return w
	}
	blocked := func(w *wired) bool { return !w.Snapshot().IsEdge(at(2, 2)) }
	quiet := []topology.Outlet{{Port: 2, Before: []topology.DPID{1}, Others: 1, Held: true, Legacy: true}, {Port: 3}}

	w := build()
	w.RemoveSwitch(1, w.now)
	require.True(t, blocked(w))
	require.Equal(t, quiet, w.Snapshot().Regions(allBut()).Outlets(2))
	require.NotEmpty(t, w.Stopped(1, w.now))
	require.False(t, blocked(w))
	require.Equal(t, []topology.Outlet{{Port: 2, Legacy: true}, {Port: 3}}, w.Snapshot().Regions(allBut()).Outlets(2))
	require.NotEmpty(t, w.Resumed(1, w.now))
	require.True(t, blocked(w))
	require.Equal(t, quiet, w.Snapshot().Regions(allBut()).Outlets(2))

	w = build()
	evs := w.Stopped(1, w.now)
	require.Contains(t, evs, topology.Event(topology.SwitchGone{DPID: 1}))
	require.Contains(t, evs, topology.Event(topology.PortSettled{Place: at(2, 2)}))
	require.False(t, blocked(w))
	require.Empty(t, w.Stopped(1, w.now), "known")
	w.SetSwitch(1, []topology.PortState{{Port: 1, Up: true}, {Port: 2, Up: true}}, w.now)
	require.Empty(t, w.Resumed(1, w.now), "it is there")
	require.False(t, blocked(w))

	// In another domain nothing is blocked for its sake, and all the same it speaks on
	// where it is known to forward.
	build = func() *wired {
		w := newWired(3, 3)
		w.bridge(at(1, 2), at(2, 2), at(3, 2))
		return w
	}
	outlets := func(w *wired, id topology.DPID) topology.Outlet {
		return w.Snapshot().Regions(allBut()).Outlets(id)[1]
	}
	for _, others := range []int{2, 1} {
		w = build()
		if others == 1 {
			w.RemoveSwitch(3, w.now)
		}
		before := outlets(w, 2)
		require.Equal(t, []topology.DPID{1}, before.Before)
		require.NotEmpty(t, w.LeaveSwitch(1, w.now))
		require.Equal(t, []topology.DPID{1}, w.Left())
		require.Equal(t, before, outlets(w, 2))
		require.NotEmpty(t, w.Stopped(1, w.now))
		require.Empty(t, outlets(w, 2).Before)
		require.Empty(t, w.Left())
		require.NotEmpty(t, w.Resumed(1, w.now))
		require.Equal(t, before, outlets(w, 2))
		require.NotEmpty(t, w.GiveUp(1, w.now))
		require.Empty(t, w.GiveUp(1, w.now))
		require.Empty(t, outlets(w, 2).Before)
	}
	w = build()
	w.RemoveSwitch(1, w.now)
	require.Empty(t, outlets(w, 2).Before, "nobody knows")
	w = build()
	w.LeaveSwitch(1, w.now)
	w.SetPort(2, topology.PortState{Port: 2}, w.now)
	w.SetPort(2, topology.PortState{Port: 2, Up: true}, w.now)
	require.Empty(t, outlets(w, 2).Before, "it may be elsewhere")
	w = build()
	w.LeaveSwitch(1, w.now)
	w.SetSwitch(1, []topology.PortState{{Port: 1, Up: true}, {Port: 2, Up: true}}, w.now)
	require.Empty(t, w.Left())
	w = build()
	w.LeaveSwitch(3, w.now)
	require.Empty(t, outlets(w, 1).Before, "it was quiet")

	w = newWired(3, 3)
	w.cable(at(1, 1), at(2, 1))
	w.bridge(at(1, 2), at(2, 2))
	require.Empty(t, w.Stopped(7, w.now), "nobody")
	w.Stopped(1, w.now)
	w.SetPort(2, topology.PortState{Port: 2}, w.now)
	require.Empty(t, w.Resumed(1, w.now), "the port is another thing since")
}
