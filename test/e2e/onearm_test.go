//go:build e2e

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// segmentLab is a legacy bridge with hosts behind it, which switches are plugged into.
type segmentLab struct {
	*lab
	c       *controller
	client  *host
	other   *host
	uplinks []string // the bridge's ports towards switches
}

// fdb is where the bridge takes addresses to be, by MAC.
func (w *segmentLab) fdb() map[string]string {
	table := map[string]string{}
	for line := range strings.Lines(run(w.t, "bridge", "-n", w.ns.name, "fdb", "show", "br", "old", "dynamic")) {
		if f := strings.Fields(line); len(f) > 2 {
			table[f[0]] = f[2]
		}
	}
	return table
}

// keeps has the client send requests to the VIP, while a host beside it that the VIP is
// nothing to exchanges datagrams with it: all are answered, and the bridge knows both
// where they are after each request.
func (w *segmentLab) keeps(t *testing.T, n int, seed uint64) map[string]int {
	t.Helper()
	stop, done := make(chan struct{}), make(chan [2]int, 1)
	go func() {
		var tried, lost int
		for {
			select {
			case <-stop:
				done <- [2]int{tried, lost}
				return
			default:
				if tried++; !w.other.reaches(w.client.addr) {
					lost++
				}
				time.Sleep(time.Millisecond)
			}
		}
	}()
	counts := map[string]int{}
	var failed []error
	moved := 0
	for _, src := range w.client.sources(n, seed) {
		who, err := w.client.request(src, service(80))
		if err != nil {
			failed = append(failed, err)
		} else {
			counts[who]++
		}
		if len(failed) > 5 || moved > 5 {
			break // each of them takes its time
		}
		if table := w.fdb(); table[w.client.mac] != w.client.name || table[w.other.mac] != w.other.name {
			moved++
		}
	}
	close(stop)
	beside := <-done
	t.Logf("%d requests, %v: %d failed; the bridge had a host elsewhere %d times; %d of %d datagrams beside them lost", n, counts, len(failed), moved, beside[1], beside[0])
	require.Empty(t, failed)
	require.Zero(t, moved, "the bridge takes hosts of its own to be at the switch")
	require.Zero(t, beside[1], "the client was out of reach")
	require.NotZero(t, beside[0])
	return counts
}

// TestOneArmed has a client and members in mode dsr behind one legacy bridge, by one port
// of a switch: what the switch sends back does not move the client.
func TestOneArmed(t *testing.T) {
	for _, stage := range []string{"managed", "steer"} {
		t.Run(stage, func(t *testing.T) {
			t.Parallel()
			w := &segmentLab{lab: newLab(t)}
			w.addSwitches(secure, 1, 1)
			w.addBridge("old")
			uplink := w.bridgeTo("old", "s1").near()
			w.client, w.other = w.addLegacyHost("old"), w.addLegacyHost("old")
			servers := []*host{w.addLegacyHost("old"), w.addLegacyHost("old")}
			for _, h := range servers {
				h.serveHTTP(80)
			}
			haveVIP(t, true, servers...)
			w.c = w.control(stage)
			w.sweep()
			w.c.apply("web", modal("dsr", offer("tcp", 80, members(80, servers...))))
			var doc struct {
				MAC string `json:"mac"`
			}
			require.Equal(t, 200, w.c.rest("GET", "/v1/vips/web", nil, &doc))
			counts := w.keeps(t, 200, 1)
			require.Len(t, counts, 2)
			require.Equal(t, uplink, w.fdb()[doc.MAC], "where the bridge takes the VIP to be")
			// One beside the bridge is served too, and by the same switch.
			require.Len(t, w.hosts[0].requests(service(80), w.hosts[0].sources(50, 2)).counts(), 2)
		})
	}
}

// TestMembersAcrossASegment has a client in a legacy bridge between two managed switches.
// One of them answers for the VIP, the members are at the other: packets go through the
// bridge twice.
func TestMembersAcrossASegment(t *testing.T) {
	for _, mode := range []string{"nat", "dsr"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := &segmentLab{lab: newLab(t)}
			w.addSwitches(secure, 2, 2)
			w.addBridge("old")
			for _, sw := range []string{"s1", "s2"} {
				w.uplinks = append(w.uplinks, w.bridgeTo("old", sw).near())
			}
			w.client, w.other = w.addLegacyHost("old"), w.addLegacyHost("old")
			servers := w.hosts[2:4]
			port := uint16(8080)
			if mode == "dsr" {
				port = 80
				haveVIP(t, true, servers...)
			}
			for _, h := range servers {
				h.serveHTTP(port)
			}
			w.c = w.control("managed")
			w.c.wait("the segment is found", func() bool { s := w.c.segments(); return len(s) == 1 && s[0]["designated"] == 2 })
			w.sweep()
			w.c.apply("web", modal(mode, offer("tcp", 80, members(port, servers...))))
			var doc struct {
				MAC string `json:"mac"`
			}
			require.Equal(t, 200, w.c.rest("GET", "/v1/vips/web", nil, &doc))
			counts := w.keeps(t, 200, 1)
			require.Len(t, counts, 2)
			require.Equal(t, w.uplinks[0], w.fdb()[doc.MAC], "where the bridge takes the VIP to be")
			for _, h := range w.hosts[:2] { // of the other domain
				require.Len(t, h.requests(service(80), h.sources(50, 2)).counts(), 2)
			}
		})
	}
}
