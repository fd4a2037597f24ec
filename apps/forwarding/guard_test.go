package forwarding_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// etherType is that of a frame, behind its tags.
func etherType(frame []byte) uint16 {
	f, err := packet.Decode(frame)
	if err != nil {
		return 0
	}
	return f.EtherType()
}

// Circles that are closed between ports that are up, by things that keep back the more
// or the less of what would show it, under traffic: each is open within 2 s.
func TestCirclesAreOpened(t *testing.T) {
	noMulticast := func(frame []byte) bool { return frame[0]&1 != 0 && frame[0] != 0xff }
	noProbes := func(frame []byte) bool {
		return etherType(frame) == packet.EtherTypeLLDP || etherType(frame) == packet.EtherTypeBDDP
	}
	for _, s := range []struct {
		name  string
		ports [2]place
		keeps func([]byte) bool
		vlan  uint16
	}{
		{"a bridge between two switches", [2]place{legacy(1, 1), legacy(3, 1)}, nil, 0},
		{"a bridge at two ports of one switch", [2]place{legacy(2, 1), legacy(2, 2)}, nil, 0},
		{"a bridge that passes on no multicast", [2]place{legacy(1, 1), legacy(3, 1)}, noMulticast, 0},
		{"the same at one switch", [2]place{legacy(2, 1), legacy(2, 2)}, noMulticast, 0},
		{"a bridge of one VLAN", [2]place{legacy(1, 1), legacy(3, 1)}, func(frame []byte) bool { return frame[12] != 0x81 }, 7},
		{"what passes on no probe", [2]place{legacy(1, 1), legacy(3, 1)}, noProbes, 0},
		{"the same at one switch", [2]place{legacy(2, 1), legacy(2, 2)}, noProbes, 0},
	} {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := lab.Build(4, simswitch.Options{}, lab.Ring(4)...)
				legacyHost(n, "old", 91, s.ports[0])
				legacyHost(n, "older", 92, s.ports[1])
				l := lab.Start(t, n, lab.Options{})
				l.Settle()
				announceAll(l)
				everyUnicastArrives(t, l)
				l.Pass(10 * time.Second) // ports are what they are for long
				if s.vlan != 0 {
					for _, h := range l.Hosts() {
						l.Host(h).VLAN = s.vlan
					}
					announceAll(l)
				}
				l.Share(false, s.ports[0], s.ports[1])
				l.KeepBack(s.ports[0], s.keeps)
				begin, open := time.Now(), time.Duration(0)
				for time.Since(begin) < 5*time.Second {
					l.Calm()
					l.Forget()
					l.Announce("h2")
					once := !l.Stormed()
					for _, h := range []string{"h1", "h3", "h4", "old", "older"} {
						once = once && len(l.Seen(h)) == 1
					}
					l.Pass(50 * time.Millisecond)
					if !once {
						open = time.Since(begin)
					}
				}
				t.Logf("open after %v", open)
				require.LessOrEqual(t, open, 2*time.Second)
				blocked := ""
				for _, p := range s.ports {
					blocked += l.Snapshot().Blocked(topology.Place{DPID: topology.DPID(p.DPID), Port: topology.Port(p.Port)})
				}
				require.NotEmpty(t, blocked)
				l.Pass(20 * time.Second)
				l.Calm()
				for _, from := range l.Hosts() {
					l.Forget()
					l.Announce(from)
					require.False(t, l.Stormed())
					for _, to := range []string{"h1", "h2", "h3", "h4"} {
						require.Equal(t, to != from, len(l.Seen(to)) == 1, "%s at %s", from, to)
					}
				}
				l.NoFaults()
			})
		})
	}
}

// A host that sends one broadcast very often, and one that repeats those of another once,
// are no circle.
func TestManyBroadcastsAreNoCircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, segmentedLabs[1].build(), lab.Options{}) // two domains, a bridge between
		l.Settle()
		for range 2000 {
			l.Announce("h1")
			l.Announce("old")
			l.Pass(time.Millisecond)
		}
		require.Empty(t, l.Snapshot().Blocks())
	})
}

// The designated port of a segment stops to work without a word, or its whole switch does:
// the next takes over within 3 s. When its port goes down it is at once.
func TestDesignatedPortDies(t *testing.T) {
	for _, s := range []struct {
		name string
		kill func(l *lab.Lab)
		most time.Duration
	}{
		{"its port goes down", func(l *lab.Lab) { l.Switch(1).SetPort(301, false) }, 100 * time.Millisecond},
		{"its cable carries nothing", func(l *lab.Lab) { l.Cut(legacy(1, 1), true) }, 2 * time.Second},
		{"its switch is dead", func(l *lab.Lab) {
			l.Disconnect(1)
			for _, p := range []place{legacy(1, 1), {DPID: 1, Port: 1}, l.Host("h1").At} {
				l.Cut(p, true)
			}
			l.Switch(2).SetPort(1, false)
		}, 3 * time.Second},
		{"its switch is dead, and its ports seem up", func(l *lab.Lab) {
			l.Disconnect(1)
			for _, p := range []place{legacy(1, 1), {DPID: 1, Port: 1}, l.Host("h1").At} {
				l.Cut(p, true)
			}
		}, 3 * time.Second},
	} {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := lab.Start(t, segmentedLabs[0].build(), lab.Options{})
				l.Settle()
				announceAll(l)
				everyUnicastArrives(t, l)
				_, role, ok := l.Snapshot().Segment(topology.Place{DPID: 1, Port: 301})
				require.True(t, ok)
				require.Equal(t, topology.RoleDesignated, role)
				l.Pass(2300 * time.Millisecond)
				s.kill(l)
				begin := time.Now()
				a, b := l.Host("h2"), l.Host("old")
				reaches := func() bool {
					l.Forget()
					l.Send("h2", packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.AddrPort(1), Dst: b.AddrPort(2)}, nil))
					return len(l.Received("old")) == 1 // it says nothing itself
				}
				for !reaches() {
					l.Pass(50 * time.Millisecond)
					require.LessOrEqual(t, time.Since(begin), s.most)
				}
				t.Logf("over after %v", time.Since(begin))
				for range 20 { // and for good
					l.Pass(time.Second)
					require.True(t, reaches())
				}
				require.False(t, l.Stormed())
			})
		})
	}
}

// Two ports that are on one segment now and then are believed to be for longer each time but
// the first.
func TestHoldDownOfSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, segmentedLabs[0].build(), lab.Options{})
		l.Settle()
		last := time.Duration(0)
		for i := range 7 {
			require.Len(t, l.Snapshot().Segments(), 1)
			l.Cut(legacy(1, 1), true)
			begin := time.Now()
			for len(l.Snapshot().Segments()) == 1 {
				l.Pass(50 * time.Millisecond)
			}
			took := time.Since(begin)
			if i < 2 {
				require.LessOrEqual(t, took, 1700*time.Millisecond)
			} else {
				require.Greater(t, took, last)
			}
			last = took
			l.Cut(legacy(1, 1), false)
			l.Pass(2 * time.Second)
		}
		t.Logf("parted after %v in the end", last)
		require.Greater(t, last, 20*time.Second)
	})
}
