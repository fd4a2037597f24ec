package topology

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// campus puts hosts at places, "10.0.0.n" each, on a graph whose links are given as pairs
// of places.
func campus(t *testing.T, n int, links [][2]Place, hosts map[byte]Place) *Graph {
	t.Helper()
	g := New(Options{})
	switches(g, n, 9)
	for _, l := range links {
		hear(g, l[0], l[1], t0)
	}
	for i, at := range hosts {
		evs := g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 0, i}, Place: at, IP: netip.AddrFrom4([4]byte{10, 0, 0, i})}, t0)
		require.NotEmpty(t, evs, "host %d", i)
	}
	return g
}

func pool(name string, members ...string) VIPNote {
	v := VIPNote{Name: name, Address: addr("10.0.0.100")}
	for _, m := range members {
		v.Members = append(v.Members, addr(m))
	}
	return v
}

// steps are what to convert, as "dpid+gain=covered".
func steps(c Coverage) (list []string) {
	for _, s := range c.Steps {
		list = append(list, fmt.Sprintf("%d+%d=%d", s.DPID, s.Gain, s.Covered))
	}
	return list
}

func sums(c Coverage) string {
	return fmt.Sprintf("%d of %d, %d never", c.Covered, c.Paths, c.Never)
}

// star is a core, 1, with three leaves; clients at 4 and 2, members at 2 and 3.
func star(t *testing.T) *Graph {
	return campus(t, 4, [][2]Place{{{1, 1}, {2, 1}}, {{1, 2}, {3, 1}}, {{1, 3}, {4, 1}}},
		map[byte]Place{1: {4, 5}, 2: {4, 6}, 3: {2, 5}, 8: {2, 8}, 9: {3, 8}})
}

func TestCoverageOfAStar(t *testing.T) {
	s := star(t).Snapshot()
	n := CoverageNotes{Notes: Notes{VIPs: []VIPNote{pool("web", "10.0.0.8", "10.0.0.9", "10.0.0.77")}}}
	c := s.Coverage(n)
	require.Equal(t, "0 of 6, 0 never", sums(c))
	require.Equal(t, []string{"1+5=5", "2+1=6"}, steps(c), "the core first; then the leaf where a client is beside a member")
	require.Equal(t, []netip.Addr{addr("10.0.0.77")}, c.VIPs[0].Unplaced)
	require.Equal(t, CoverageStep{DPID: 1, Name: "s1", Kind: "switch", Gain: 5, Covered: 5}, c.Steps[0])
	require.Equal(t, []CoverageGap{
		{From: Place{2, 5}, Clients: 1, Member: addr("10.0.0.8"), To: Place{2, 8}, Reason: "crosses no converted switch"},
		{From: Place{2, 5}, Clients: 1, Member: addr("10.0.0.9"), To: Place{3, 8}, Reason: "crosses no converted switch"},
		{From: Place{4, 5}, Clients: 1, Member: addr("10.0.0.8"), To: Place{2, 8}, Reason: "crosses no converted switch"},
		{From: Place{4, 5}, Clients: 1, Member: addr("10.0.0.9"), To: Place{3, 8}, Reason: "crosses no converted switch"},
		{From: Place{4, 6}, Clients: 1, Member: addr("10.0.0.8"), To: Place{2, 8}, Reason: "crosses no converted switch"},
		{From: Place{4, 6}, Clients: 1, Member: addr("10.0.0.9"), To: Place{3, 8}, Reason: "crosses no converted switch"},
	}, c.VIPs[0].Gaps)
	require.Equal(t, c, s.Coverage(n), "the same again")

	n.Steering = map[DPID]bool{3: true}
	c = s.Coverage(n)
	require.Equal(t, "3 of 6, 0 never", sums(c))
	require.Equal(t, []string{"2+3=6"}, steps(c), "all that is left goes to the member at 2")
	n.Steering = map[DPID]bool{1: true, 2: true}
	c = s.Coverage(n)
	require.Equal(t, "6 of 6, 0 never", sums(c))
	require.Empty(t, c.Steps)
	require.Empty(t, c.VIPs[0].Gaps)
}

// TestCoverageWithoutClients and without VIPs: nothing to do.
func TestCoverageOfNothing(t *testing.T) {
	require.Equal(t, Coverage{VIPs: []VIPCoverage{}, Steps: []CoverageStep{}}, New(Options{}).Snapshot().Coverage(CoverageNotes{}))
	g := campus(t, 1, nil, map[byte]Place{8: {1, 1}})
	c := g.Snapshot().Coverage(CoverageNotes{Notes: Notes{VIPs: []VIPNote{pool("web", "10.0.0.8")}}})
	require.Equal(t, "0 of 0, 0 never", sums(c))
}

// TestCoverageOfSegments has a client and a member on one legacy segment, which no switch
// is between, and another client behind a switch of its own.
func TestCoverageOfSegments(t *testing.T) {
	g := campus(t, 2, nil, nil)
	g.SetManaged(1, false, t0)
	g.SetManaged(2, false, t0)
	g.HearBridged(Place{1, 1}, Place{2, 1}, t0.Add(time.Minute), t0)
	g.HearBridged(Place{2, 1}, Place{1, 1}, t0.Add(time.Minute), t0)
	for i, at := range map[byte]Place{1: {1, 1}, 2: {2, 5}, 9: {1, 1}} {
		require.NotEmpty(t, g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 0, i}, Place: at, IP: netip.AddrFrom4([4]byte{10, 0, 0, i})}, t0))
	}
	n := CoverageNotes{Notes: Notes{VIPs: []VIPNote{pool("web", "10.0.0.9")}}}
	s := g.Snapshot()
	c := s.Coverage(n)
	require.Equal(t, "0 of 2, 1 never", sums(c))
	require.Equal(t, "no switch is between them", c.VIPs[0].Gaps[0].Reason)
	require.Equal(t, []string{"1+1=1"}, steps(c))
	require.Contains(t, drawn(t, s.CoverageView(n, c, 0)), "legacy segment")
}

// sent is a pool whose replies go a certain way.
func sent(replies Replies, members ...string) CoverageNotes {
	v := pool("web", members...)
	v.Replies = replies
	return CoverageNotes{Notes: Notes{VIPs: []VIPNote{v}}}
}

// TestCoverageByReplies asks what of a path is covered where the way back is another than
// the way there.
func TestCoverageByReplies(t *testing.T) {
	s := star(t).Snapshot()
	for replies, want := range map[Replies][]string{
		RepliesCross:  {"1+5=5", "2+1=6"},
		RepliesReturn: {"1+5=5", "2+1=6"},
		RepliesFree:   {"1+5=5", "2+1=6"},
		RepliesToVIP:  {"1+5=5", "2+1=6"},
	} {
		require.Equal(t, want, steps(s.Coverage(sent(replies, "10.0.0.8", "10.0.0.9"))), "where there is one way all are alike")
	}

	// There by 2, back by 4.
	there, back := []DPID{1, 2, 3}, []DPID{3, 4, 1}
	for _, tc := range []struct {
		replies         Replies
		by              DPID
		there, returned bool
	}{
		{RepliesCross, 2, true, false}, {RepliesCross, 4, false, true}, {RepliesCross, 1, true, true}, {RepliesCross, 3, true, true},
		{RepliesFree, 2, true, true}, {RepliesFree, 4, false, true},
		{RepliesToVIP, 2, true, true}, {RepliesToVIP, 4, false, true},
		{RepliesReturn, 2, true, false}, {RepliesReturn, 4, false, false}, {RepliesReturn, 1, true, true},
	} {
		r := route{there: there, back: back, replies: tc.replies}
		a, b := r.covered(in(map[DPID]bool{tc.by: true}))
		require.Equal(t, []bool{tc.there, tc.returned}, []bool{a, b}, "%+v", tc)
	}
	r := route{there: there, back: back, replies: RepliesReturn}
	_, returned := r.covered(in(map[DPID]bool{2: true, 3: true, 4: true}))
	require.False(t, returned, "2 has the connection, and does not see the reply")
}

// TestCoverageBesideAMember has a client and a member behind one port, and on one segment.
func TestCoverageBesideAMember(t *testing.T) {
	behind := campus(t, 1, nil, map[byte]Place{1: {1, 5}, 9: {1, 5}})
	joined := campus(t, 2, nil, nil)
	joined.SetManaged(1, true, t0)
	joined.SetManaged(2, true, t0)
	for _, p := range [][2]Place{{{1, 1}, {2, 1}}, {{2, 1}, {1, 1}}} {
		joined.HearBridged(p[0], p[1], t0.Add(time.Minute), t0)
	}
	for i, at := range map[byte]Place{1: {1, 1}, 9: {2, 1}} {
		require.NotEmpty(t, joined.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 0, i}, Place: at, IP: netip.AddrFrom4([4]byte{10, 0, 0, i})}, t0))
	}
	for _, tc := range []struct {
		replies        Replies
		behind, joined string
	}{
		{RepliesCross, "0 of 1, 1 never []", "0 of 1, 1 never []"},
		{RepliesFree, "0 of 1, 0 never [1+1=1]", "0 of 1, 0 never [1+1=1]"},
		{RepliesToVIP, "0 of 1, 0 never [1+1=1]", "0 of 1, 0 never [1+1=1]"},
		{RepliesReturn, "0 of 1, 0 never [1+1=1]", "0 of 1, 0 never [1+1=1]"},
	} {
		for g, want := range map[*Graph]string{behind: tc.behind, joined: tc.joined} {
			n := sent(tc.replies, "10.0.0.9")
			c := g.Snapshot().Coverage(n)
			require.Equal(t, want, fmt.Sprint(sums(c), " ", steps(c)), "%+v", tc)
			n.Steering = map[DPID]bool{1: true}
			c = g.Snapshot().Coverage(n)
			require.Equal(t, strings.Contains(want, "1+1=1"), c.Covered == 1, "%+v", tc)
		}
	}
}

// TestCoverageOfBridges counts on bridges that are known by their database alone: behind a
// patch port, and where the machines attached to them are seen.
func TestCoverageOfBridges(t *testing.T) {
	g := campus(t, 2, [][2]Place{{{1, 1}, {2, 1}}}, map[byte]Place{1: {1, 5}, 2: {2, 6}, 3: {2, 7}, 9: {1, 5}})
	n := CoverageNotes{
		Notes: Notes{VIPs: []VIPNote{pool("web", "10.0.0.9")}},
		Bridges: []CoverageBridge{
			{DPID: 77, Name: "br-int", Endpoint: "unix:/db.sock", Behind: []Place{{1, 5}}},
			{DPID: 78, Name: "br-2", Endpoint: "unix:/db.sock", Attached: []MAC{{2, 0, 0, 0, 0, 2}}},
			{DPID: 79, Name: "idle", Endpoint: "unix:/db.sock"},
			{DPID: 2, Name: "s2", Endpoint: "unix:/db.sock", Behind: []Place{{1, 5}}}, // a switch already
		},
	}
	s := g.Snapshot()
	c := s.Coverage(n)
	require.Equal(t, "0 of 3, 0 never", sums(c))
	require.Equal(t, []string{"77+3=3"}, steps(c), "the member's own bridge is on every path")
	require.Equal(t, CoverageStep{DPID: 77, Name: "br-int", Kind: "bridge", Endpoint: "unix:/db.sock", Behind: &Place{1, 5}, Gain: 3, Covered: 3}, c.Steps[0])
	n.Bridges = n.Bridges[1:]
	c = s.Coverage(n)
	require.Equal(t, "0 of 3, 1 never", sums(c), "a client and the member are behind one port")
	require.Equal(t, []string{"1+2=2"}, steps(c))
	n.Steering = map[DPID]bool{1: true, 2: true}
	require.Empty(t, s.Coverage(n).Steps, "the bridge of the other client would add nothing")
}

// TestCoveragePictures draws before and after.
func TestCoveragePictures(t *testing.T) {
	n := CoverageNotes{Notes: Notes{VIPs: []VIPNote{pool("web", "10.0.0.8", "10.0.0.9")}}, Steering: map[DPID]bool{3: true},
		Bridges: []CoverageBridge{{DPID: 77, Name: `br"<int>`, Behind: []Place{{4, 5}}}}}
	s := star(t).Snapshot()
	c := s.Coverage(n)
	for after, title := range []string{"3 of 6 VIP paths covered", "6 of 6 VIP paths covered", "6 of 6 VIP paths covered"} {
		v := s.CoverageView(n, c, after)
		svg, dot := drawn(t, v), v.DOT()
		golden(t, fmt.Sprintf("coverage-%d.svg", after), svg)
		golden(t, fmt.Sprintf("coverage-%d.dot", after), dot)
		require.Contains(t, svg, title)
		require.Contains(t, dot, title)
		require.Equal(t, after > 0, strings.Contains(svg, "1: s2"))
	}
}

// drawn is the picture of a view, a whole XML document.
func drawn(t *testing.T, v View) string {
	t.Helper()
	svg := v.SVG()
	for d := xml.NewDecoder(strings.NewReader(svg)); ; {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			return svg
		} else {
			require.NoError(t, err)
		}
	}
}

func BenchmarkCoverage(b *testing.B) {
	g := New(Options{})
	used := switches(g, 9, 400)
	for i := DPID(2); i <= 9; i++ {
		join(g, used, i/2, i)
	}
	for i := range 2000 {
		id := DPID(1 + i%9)
		used[id]++
		g.SeeHost(Sighting{MAC: MAC{2, 1, 0, 0, byte(i >> 8), byte(i)}, Place: Place{id, used[id]}, IP: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})}, t0)
	}
	var n CoverageNotes
	for v := range 10 {
		vip := VIPNote{Name: fmt.Sprint(v), Address: addr("10.0.0.100")}
		for m := range 20 {
			vip.Members = append(vip.Members, netip.AddrFrom4([4]byte{10, 1, 0, byte(v*20 + m)}))
		}
		n.VIPs = append(n.VIPs, vip)
	}
	s := g.Snapshot()
	for b.Loop() {
		s.Coverage(n)
	}
}
