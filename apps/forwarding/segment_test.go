package forwarding_test

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// Ports of the labs that are plugged into something legacy.
func legacy(sw, n int) place { return place{DPID: ofproto.DPID(sw), Port: ofproto.Port(300 + n)} }

// legacyHost adds a host behind a legacy bridge, by one of the ports on it.
func legacyHost(n *simswitch.Network, name string, last byte, at place) {
	n.AddHost(simswitch.Host{Name: name, MAC: packet.MAC{0x0e, 0, 0, 0, 9, last}, IP: netip.AddrFrom4([4]byte{10, 0, 9, last}), At: at})
}

// everyBroadcastOnce has each host announce itself and requires that every other saw
// that once, and itself never.
func everyBroadcastOnce(t *testing.T, l *lab.Lab) {
	t.Helper()
	hosts := l.Hosts()
	for _, from := range hosts {
		l.Forget()
		l.Announce(from)
		require.False(t, l.Stormed(), "a broadcast of %s goes round", from)
		for _, to := range hosts {
			want := 1
			if to == from {
				want = 0
			}
			require.Len(t, l.Seen(to), want, "a broadcast of %s at %s", from, to)
		}
	}
	l.Pass(200 * time.Millisecond)
}

// everyUnicastArrives has each host send to each other.
func everyUnicastArrives(t *testing.T, l *lab.Lab) {
	t.Helper()
	hosts := l.Hosts()
	for _, from := range hosts {
		for _, to := range hosts {
			if from == to {
				continue
			}
			l.Forget()
			a, b := l.Host(from), l.Host(to)
			l.Send(from, packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.AddrPort(1), Dst: b.AddrPort(2)}, nil))
			require.False(t, l.Stormed())
			require.Len(t, l.Received(to), 1, "%s to %s", from, to)
		}
	}
}

// segmented is what is tried: switches with one host each, cables, and what else joins
// them.
type segmented struct {
	name     string
	switches int
	cables   [][2]int
	share    func(n *simswitch.Network)
	segments int
	blocked  int
	direct   int
}

var segmentedLabs = []segmented{
	{name: "a cable and a bridge between two", switches: 2, cables: [][2]int{{1, 2}}, segments: 1, blocked: 1, direct: 1, share: func(n *simswitch.Network) {
		n.Share(false, legacy(1, 1), legacy(2, 1))
		legacyHost(n, "old", 91, legacy(1, 1))
	}},
	{name: "a bridge alone between two", switches: 2, segments: 1, share: func(n *simswitch.Network) {
		n.Share(false, legacy(1, 1), legacy(2, 1))
		legacyHost(n, "old", 91, legacy(2, 1))
	}},
	{name: "a hub of three", switches: 3, segments: 1, share: func(n *simswitch.Network) {
		n.Share(true, legacy(1, 1), legacy(2, 1), legacy(3, 1))
		legacyHost(n, "old", 91, legacy(3, 1))
	}},
	{name: "two ports of one switch on a bridge", switches: 2, cables: [][2]int{{1, 2}}, segments: 1, blocked: 1, direct: 1, share: func(n *simswitch.Network) {
		n.Share(false, legacy(1, 1), legacy(1, 2))
		legacyHost(n, "old", 91, legacy(1, 2))
	}},
	{name: "a ring of cables and a bridge across", switches: 4, cables: lab.Ring(4), segments: 1, blocked: 2, direct: 4, share: func(n *simswitch.Network) {
		n.Share(false, legacy(1, 1), legacy(3, 1), legacy(4, 1))
	}},
	{name: "two bridges between two domains", switches: 4, cables: [][2]int{{1, 2}, {3, 4}}, segments: 2, blocked: 1, direct: 2, share: func(n *simswitch.Network) {
		n.Share(false, legacy(1, 1), legacy(3, 1))
		n.Share(false, legacy(2, 1), legacy(4, 1))
		legacyHost(n, "old", 91, legacy(1, 1))
		legacyHost(n, "older", 92, legacy(4, 1))
	}},
	{name: "a chain of domains and bridges that closes", switches: 3, segments: 3, blocked: 1, share: func(n *simswitch.Network) {
		n.Share(false, legacy(1, 1), legacy(2, 2))
		n.Share(false, legacy(2, 1), legacy(3, 2))
		n.Share(false, legacy(3, 1), legacy(1, 2))
	}},
}

func (s segmented) build() *simswitch.Network {
	n := lab.Build(s.switches, simswitch.Options{}, s.cables...)
	s.share(n)
	return n
}

func TestSegments(t *testing.T) {
	for _, s := range segmentedLabs {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := lab.Start(t, s.build(), lab.Options{})
				l.Settle()
				snap := l.Snapshot()
				require.Len(t, snap.Segments(), s.segments)
				blocked, direct := 0, 0
				for _, seg := range snap.Segments() {
					for _, p := range seg.Ports {
						if p.Role == topology.RoleBlocked {
							require.NotEmpty(t, p.Reason)
							blocked++
						}
					}
				}
				for _, link := range snap.Links() {
					if _, ok := snap.Peer(link.A); ok {
						direct++
					}
				}
				require.Equal(t, s.blocked, blocked, "%+v", snap.Segments())
				require.Equal(t, s.direct, direct, "links across bridges are none")
				everyBroadcastOnce(t, l)
				everyUnicastArrives(t, l)
				everyBroadcastOnce(t, l)
				l.Pass(time.Minute)
				mods := l.Mods()
				everyUnicastArrives(t, l)
				l.Pass(10 * time.Second)
				require.Equal(t, mods, l.Mods(), "nothing flaps")
				l.NoFaults()
			})
		})
	}
}

// A bridge that is plugged in at run time closes a circle: it is opened before a
// broadcast can go round.
func TestLoopAtRunTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(4, simswitch.Options{}, lab.Ring(4)...)
		legacyHost(n, "old", 91, legacy(1, 1))
		l := lab.Start(t, n, lab.Options{})
		l.Settle()
		everyBroadcastOnce(t, l)
		l.Share(false, legacy(1, 1), legacy(3, 1))
		for range 40 {
			l.Forget()
			l.Announce("h2")
			require.False(t, l.Stormed())
			l.Pass(100 * time.Millisecond)
		}
		everyBroadcastOnce(t, l)
		everyUnicastArrives(t, l)
	})
}

// Two that are left on a hub go on as they did, with the host between them.
func TestHubIsNoCable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := segmentedLabs[2].build()
		n.Move("old", legacy(1, 1))
		l := lab.Start(t, n, lab.Options{})
		l.Settle()
		announceAll(l)
		everyUnicastArrives(t, l)
		l.Switch(3).SetPort(301, false)
		l.Pass(30 * time.Second)
		require.Len(t, l.Snapshot().Segments()[0].Ports, 2)
		for _, h := range []string{"h1", "h2", "old"} {
			l.Forget()
			l.Announce(h)
			for _, to := range []string{"h1", "h2", "old"} {
				require.Equal(t, to != h, len(l.Seen(to)) == 1, "%s at %s", h, to)
			}
		}
	})
}

// Over a restart nothing goes round and nothing is written.
func TestSegmentsOutliveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, s := range segmentedLabs {
			n := s.build()
			first := lab.Start(t, n, lab.Options{})
			first.Settle()
			announceAll(first)
			everyUnicastArrives(t, first)
			first.Settle()
			first.Stop()
			mods := first.Mods()
			second := lab.Start(t, n, lab.Options{Memory: first.Memory})
			for range 20 {
				second.Pass(100 * time.Millisecond)
				second.Forget()
				second.Announce("h1")
				require.False(t, second.Stormed(), s.name)
			}
			second.Settle()
			require.Equal(t, mods, second.Mods(), s.name)
			everyUnicastArrives(t, second)
			second.Stop()
		}
	})
}

// A switch whose channel is away forwards on: what is blocked for its sake stays so.
func TestSegmentOfASwitchWithoutItsChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, segmentedLabs[0].build(), lab.Options{})
		l.Settle()
		everyBroadcastOnce(t, l)
		l.Disconnect(1) // has the designated port
		for i := range 60 {
			l.Pass(time.Second)
			l.Forget()
			l.Announce("h2")
			require.False(t, l.Stormed())
			if i < 25 { // then nobody counts on it any more
				require.Len(t, l.Seen("old"), 1)
			}
		}
		l.Connect(1)
		for range 50 {
			l.Pass(100 * time.Millisecond)
			l.Announce("h2")
			require.False(t, l.Stormed())
		}
		everyBroadcastOnce(t, l)
	})
}

// A designated port that dies is replaced by the next.
func TestDesignatedPortMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, segmentedLabs[0].build(), lab.Options{})
		l.Settle()
		announceAll(l)
		everyUnicastArrives(t, l)
		_, role, ok := l.Snapshot().Segment(topology.Place{DPID: 1, Port: 301})
		require.True(t, ok)
		require.Equal(t, topology.RoleDesignated, role)
		l.Switch(1).SetPort(301, false)
		l.Pass(3 * time.Second)
		l.Announce("old")
		l.Announce("h1")
		l.Pass(100 * time.Millisecond)
		l.Forget()
		a, b := l.Host("h1"), l.Host("old")
		l.Send("h1", packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.AddrPort(1), Dst: b.AddrPort(2)}, nil))
		require.Len(t, l.Received("old"), 1, "by way of the other switch")
	})
}
