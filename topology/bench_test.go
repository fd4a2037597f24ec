package topology

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"
)

// mesh has 100 switches in a 10 by 10 grid with wrap-around, each with 48 ports,
// and 10,000 hosts, 100 on each.
func mesh(tb testing.TB) *Graph {
	g := New(Options{})
	const side = 10
	id := func(x, y int) DPID { return DPID(1 + x%side + y%side*side) }
	for n := range side * side {
		g.SetSwitch(DPID(n+1), ports(48), t0)
	}
	for x := range side {
		for y := range side {
			hear(g, Place{id(x, y), 1}, Place{id(x+1, y), 2}, t0)
			hear(g, Place{id(x, y), 3}, Place{id(x, y+1), 4}, t0)
		}
	}
	for n := range 10000 {
		g.SeeHost(sighting(n), t0)
	}
	if s := g.Snapshot(); s.HostCount() != 10000 || len(s.Components()) != 1 {
		tb.Fatal("not the mesh that was meant")
	}
	return g
}

func sighting(n int) Sighting {
	var mac [8]byte
	binary.BigEndian.PutUint64(mac[:], uint64(n))
	mac[2] = 2
	return Sighting{
		MAC:   MAC(mac[2:]),
		Place: Place{DPID(n%100 + 1), Port(5 + n/100%40)},
		IP:    netip.AddrFrom4([4]byte{10, 0, byte(n >> 8), byte(n)}),
	}
}

func BenchmarkBuild(b *testing.B) {
	for b.Loop() {
		mesh(b)
	}
}

// A probe that tells nothing new: what nearly all probes are.
func BenchmarkHearLink(b *testing.B) {
	g := mesh(b)
	b.ReportAllocs()
	for b.Loop() {
		g.HearLink(Place{1, 1}, Place{2, 2}, t0)
	}
}

func BenchmarkSeeHost(b *testing.B) {
	g := mesh(b)
	b.Run("known", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			g.SeeHost(sighting(i%10000), t0)
		}
	})
	b.Run("moving, a snapshot each", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			s := sighting(i % 10000)
			s.Place.Port = Port(6 + i/10000%40)
			g.SeeHost(s, t0)
			g.Snapshot()
		}
	})
}

func BenchmarkSnapshot(b *testing.B) {
	g := mesh(b)
	b.Run("unchanged", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			g.Snapshot()
		}
	})
	b.Run("link changed", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			flap(g, i)
			g.Snapshot()
		}
	})
	b.Run("link changed, all next hops and the tree", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			flap(g, i)
			s := g.Snapshot()
			s.Tree()
			for to := DPID(1); to <= 100; to++ {
				for from := DPID(1); from <= 100; from++ {
					s.NextHop(from, to)
				}
			}
		}
	})
}

// flap takes a link down or brings it back.
func flap(g *Graph, i int) {
	if i%2 == 0 {
		g.SetPort(1, PortState{Port: 1}, t0)
		return
	}
	g.SetPort(1, PortState{Port: 1, Up: true}, t0)
	hear(g, Place{1, 1}, Place{2, 2}, t0)
}

func BenchmarkNextHop(b *testing.B) {
	s := mesh(b).Snapshot()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		s.NextHop(DPID(i%100+1), DPID(i/100%100+1))
	}
}

func BenchmarkExpire(b *testing.B) {
	g := mesh(b)
	b.ReportAllocs()
	for b.Loop() {
		g.Expire(t0.Add(time.Second))
	}
}

func BenchmarkSVG(b *testing.B) {
	v := mesh(b).Snapshot().View(Notes{})
	for b.Loop() {
		v.SVG()
	}
}
