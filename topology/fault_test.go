package topology_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/topology"
)

// Faults are shown with links and with ports of segments, change no path, and end with what
// they are of.
func TestFaults(t *testing.T) {
	w := newWired(3, 3)
	w.cable(at(1, 1), at(2, 1))
	w.bridge(at(2, 2), at(3, 2))
	require.Empty(t, w.SetFault(at(1, 9), topology.FaultNarrow, "no such port", w.now))
	require.Len(t, w.SetFault(at(1, 1), topology.FaultNarrow, "a", w.now), 1)
	require.Empty(t, w.SetFault(at(1, 1), topology.FaultNarrow, "a", w.now), "it was told")
	w.SetFault(at(1, 1), topology.FaultSuspect, "b", w.now)
	w.SetFault(at(2, 1), topology.FaultNarrow, "c", w.now)
	w.SetFault(at(3, 2), topology.FaultNarrow, "d", w.now)
	link := func() string { return w.Snapshot().Links()[0].Fault }
	require.Equal(t, "a; b; c", link())
	require.Equal(t, topology.StateUp, w.Snapshot().Links()[0].State)
	require.Equal(t, "d", w.Snapshot().Segments()[0].Ports[1].Fault)
	w.SetFault(at(1, 1), topology.FaultSuspect, "", w.now)
	require.Equal(t, "a; c", link())

	for up := range 2 { // a port that was down is without
		w.SetPort(2, topology.PortState{Port: 1, Up: up == 1}, w.now)
	}
	w.cable(at(1, 1), at(2, 1))
	require.Empty(t, link(), "it was another cable")
	w.SetFault(at(1, 1), topology.FaultNarrow, "a", w.now)
	w.Expire(w.now.Add(time.Hour))
	w.now = w.now.Add(time.Hour)
	w.cable(at(1, 1), at(2, 1))
	require.Empty(t, link(), "it was forgotten")
}
