package discovery_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

type place = simswitch.Place

// probes collects the LLDP frames that leave each port.
type probes struct {
	mu  sync.Mutex
	all map[place][][]byte
}

func tap(n *simswitch.Network) *probes {
	p := &probes{all: map[place][][]byte{}}
	n.Tap = func(from place, frame []byte) {
		if packet.MAC(frame[:6]) == packet.LLDPMulticast {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.all[from] = append(p.all[from], slices.Clone(frame))
		}
	}
	return p
}

func (p *probes) last(from place) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.all[from]
	return slices.Clone(l[len(l)-1])
}

// apart is a network of two switches without a link, with a host on each.
func apart() *simswitch.Network { return lab.Build(2, simswitch.Options{}) }

var port1 = place{DPID: 1, Port: lab.HostPort}

func links(l *lab.Lab) (all []string) {
	synctest.Wait()
	for _, link := range l.Snapshot().Links() {
		all = append(all, link.String())
	}
	return all
}

func TestForgedProbesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := apart()
		heard := tap(n)
		l := lab.Start(t, n, lab.Options{})
		l.Settle()

		// Edited: no byte of what is signed may change.
		frame := heard.last(port1)
		at := bytes.Index(frame, []byte{0x02, 0x46, 0x4c, 1}) + 4
		require.Greater(t, at, 14)
		for i := at; i < at+8+4+8+8+32; i++ {
			edited := slices.Clone(frame)
			edited[i] ^= 1
			l.Send("h2", edited)
			require.Empty(t, links(l), "byte %d", i)
		}
		// Cut short, or with the rest missing.
		for i := 14; i < len(frame)-2; i++ {
			l.Send("h2", frame[:i])
			require.Empty(t, links(l), "cut at %d", i)
		}
		// From a neighbour that speaks LLDP and is not ours.
		l.Send("h2", packet.AppendLLDP(packet.AppendEthernet(nil, packet.Ethernet{Dst: packet.LLDPMulticast, Src: packet.MAC{2}, Type: packet.EtherTypeLLDP}),
			packet.LLDP{ChassisSubtype: packet.ChassisMAC, ChassisID: []byte("abcdef"), PortSubtype: packet.PortLocal, PortID: []byte("1"), TTL: 120}))
		require.Empty(t, links(l))
		// Kept for later.
		l.Pass(20 * time.Second)
		l.Send("h2", frame)
		require.Empty(t, links(l))

		// The frame as it was sent is what tells of a cable.
		l.Send("h2", heard.last(port1))
		require.Empty(t, links(l), "half a cable waits for the other half at a port of hosts")
		l.Pass(time.Second)
		require.Len(t, links(l), 1)
	})
}

func TestProbesOfAnotherNetworkAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := apart()
		heard := tap(n)
		other := lab.Start(t, n, lab.Options{Key: []byte("another key, of the same length!")})
		other.Settle()
		frame := heard.last(port1)
		other.Stop()
		// The same switches and the same random numbers: only the key differs.
		l := lab.Start(t, apart(), lab.Options{})
		l.Settle()
		l.Send("h2", frame)
		require.Empty(t, links(l))
	})
}

func TestProbesOfAnEarlierRunAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := apart()
		heard := tap(n)
		first := lab.Start(t, n, lab.Options{})
		first.Settle()
		frame := heard.last(port1)
		require.Empty(t, links(first))
		// The port went down since: its nonce is another.
		first.Switch(1).SetPort(port1.Port, false)
		synctest.Wait()
		first.Switch(1).SetPort(port1.Port, true)
		first.Pass(100 * time.Millisecond)
		first.Send("h2", frame)
		require.Empty(t, links(first))
	})
}

func TestNewLinkIsUpAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, apart(), lab.Options{})
		l.Pass(7 * time.Second)
		l.Link(place{DPID: 1, Port: 1}, place{DPID: 2, Port: 1})
		l.Pass(10 * time.Millisecond)
		require.Equal(t, []string{"0000000000000001/1-0000000000000002/1 up"}, links(l))
	})
}

func TestSilentLinkIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(2, simswitch.Options{}, [2]int{1, 2}), lab.Options{})
		l.Settle()
		require.Len(t, links(l), 1)
		l.Pass(2 * time.Minute)
		require.Len(t, links(l), 1, "probes keep it")
		l.Cut(place{DPID: 1, Port: 1}, true)
		l.Pass(9 * time.Second)
		require.Len(t, links(l), 1, "one probe lost is no link lost")
		l.Pass(10 * time.Second)
		require.Empty(t, links(l))
	})
}

// hosts returns what is known of hosts, as "mac@vlan port ips".
func hosts(l *lab.Lab) (all []string) {
	synctest.Wait()
	for _, h := range l.Snapshot().Hosts() {
		all = append(all, fmt.Sprintf("%v %v %v", h.Key(), h.Place, h.IPs))
	}
	return all
}

func TestHostsAreLearned(t *testing.T) {
	mac := packet.MAC{0x0e, 0, 0, 0, 0, 1} // h1's
	ip, ip6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fe80::1")
	const at = "0000000000000001/100"
	flow6 := packet.Flow{SrcMAC: mac, DstMAC: packet.MAC{0x33, 0x33, 0, 0, 0, 1}, Src: netip.AddrPortFrom(ip6, 0), Dst: netip.MustParseAddrPort("[ff02::1]:0")}
	// An advertisement whose frame comes from another station than it names.
	other6 := packet.AppendNeighborAdvertisement(nil, flow6, ip6, false)
	copy(other6[6:], []byte{0x0e, 7, 7, 7, 7, 7})
	for name, c := range map[string]struct {
		frame []byte
		want  []string
	}{
		"ARP request":                   {packet.AppendARPRequest(nil, mac, ip, netip.MustParseAddr("10.0.0.9")), []string{"0e:00:00:00:00:01 " + at + " [10.0.0.1]"}},
		"announcement":                  {packet.AppendARPRequest(nil, mac, ip, ip), []string{"0e:00:00:00:00:01 " + at + " [10.0.0.1]"}},
		"ARP reply":                     {packet.AppendARPReply(nil, mac, ip, packet.MAC{0x0e, 9}, netip.MustParseAddr("10.0.0.9")), []string{"0e:00:00:00:00:01 " + at + " [10.0.0.1]"}},
		"ARP probe":                     {packet.AppendARPRequest(nil, mac, netip.IPv4Unspecified(), ip), []string{"0e:00:00:00:00:01 " + at + " []"}},
		"on a VLAN":                     {packet.AppendARPRequest(nil, mac, ip, ip, packet.VLAN{ID: 7}), []string{"0e:00:00:00:00:01@7 " + at + " [10.0.0.1]"}},
		"solicitation":                  {packet.AppendNeighborSolicitation(nil, mac, ip6, netip.MustParseAddr("fe80::2")), []string{"0e:00:00:00:00:01 " + at + " [fe80::1]"}},
		"duplicate detection":           {packet.AppendNeighborSolicitation(nil, mac, netip.IPv6Unspecified(), ip6), []string{"0e:00:00:00:00:01 " + at + " []"}},
		"advertisement":                 {packet.AppendNeighborAdvertisement(nil, flow6, ip6, false), []string{"0e:00:00:00:00:01 " + at + " [fe80::1]"}},
		"solicitation on a VLAN":        {packet.AppendNeighborSolicitation(nil, mac, ip6, netip.MustParseAddr("fe80::2"), packet.VLAN{ID: 7}), []string{"0e:00:00:00:00:01@7 " + at + " [fe80::1]"}},
		"advertisement for another MAC": {other6, nil},
		"any packet":                    {packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: mac, DstMAC: packet.MAC{0x0e, 9}, Src: netip.AddrPortFrom(ip, 1), Dst: netip.MustParseAddrPort("10.0.0.9:9")}, nil), []string{"0e:00:00:00:00:01 " + at + " []"}},
		"ARP for another":               {packet.AppendEthernet(nil, packet.Ethernet{Dst: packet.Broadcast, Src: packet.MAC{0x0e, 7}, Type: packet.EtherTypeARP}), nil},
		"from a group":                  {packet.AppendARPRequest(nil, packet.MAC{1, 2, 3}, ip, ip), nil},
		"from the controller":           {packet.AppendARPRequest(nil, packet.MAC(controller.ProbeMAC), ip, ip), nil},
		"from nowhere":                  {packet.AppendARPRequest(nil, packet.MAC{}, ip, ip), nil},
		"too short for its ARP":         {packet.AppendARPRequest(nil, mac, ip, ip)[:30], nil},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "ARP for another" {
				c.frame = packet.AppendARP(c.frame, packet.ARP{Op: packet.ARPRequest, SHA: mac, SPA: ip, TPA: ip})
			}
			synctest.Test(t, func(t *testing.T) {
				n := apart()
				n.Host("h2").Mute = true
				l := lab.Start(t, n, lab.Options{})
				l.Settle()
				l.Send("h1", c.frame)
				require.Equal(t, c.want, hosts(l))
			})
		})
	}
}

// A host has as many IPv6 addresses as it claims, link-local ones among them.
func TestHostsHaveSeveralAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, apart(), lab.Options{})
		l.Settle()
		h := l.Host("h1")
		for _, ip := range []string{"fe80::1", "2001:db8::1", "2001:db8::a"} {
			l.Send("h1", packet.AppendNeighborSolicitation(nil, h.MAC, netip.MustParseAddr(ip), netip.MustParseAddr("2001:db8::99")))
		}
		l.Announce("h1")
		require.Equal(t, []string{"0e:00:00:00:00:01 0000000000000001/100 [10.0.0.1 2001:db8::1 2001:db8::a fe80::1]"}, hosts(l))
	})
}

// Neighbour messages to the controller's own MAC go to it and nowhere else; others are
// copied and go on, multicast ones to everyone.
func TestNeighbourMessagesGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(2, simswitch.Options{}, [2]int{1, 2}), lab.Options{})
		l.Settle()
		h := l.Host("h1")
		ask := packet.AppendNeighborSolicitation(nil, h.MAC, netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2"))
		l.Forget()
		l.Send("h1", ask)
		require.Len(t, l.Seen("h2"), 1)
		copy(ask, controller.ProbeMAC[:])
		l.Send("h1", ask)
		require.Empty(t, l.Seen("h2"))
	})
}

func TestHostsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, apart(), lab.Options{})
		l.Settle()
		l.Announce("h1")
		require.Len(t, hosts(l), 1)
		l.Pass(6 * time.Minute)
		require.Empty(t, hosts(l))
	})
}

// recorder notes topology events.
type recorder struct{ events []string }

func (*recorder) ID() flowtable.AppID                                    { return controller.AppBalancer }
func (*recorder) Parts(*controller.Context, *controller.Switch) []string { return nil }
func (*recorder) Compile(*controller.Context, *controller.Switch, string) controller.Source {
	return controller.Source{}
}

func (r *recorder) Handle(_ *controller.Context, event any) {
	if e, ok := event.(topology.Event); ok {
		if _, confirmed := e.(topology.LinkChanged); !confirmed { // a trusted link was heard
			r.events = append(r.events, e.String())
		}
	}
}

func TestRestartLooksLikeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(4, simswitch.Options{}, lab.Ring(4)...)
		first := lab.Start(t, n, lab.Options{})
		first.Settle()
		for _, h := range first.Hosts() {
			first.Announce(h)
		}
		first.Settle()
		known, cables := hosts(first), links(first)
		require.Len(t, known, 4)
		require.Len(t, cables, 4)
		first.Stop()
		time.Sleep(10 * time.Second) // the controller is away

		r := &recorder{}
		second := lab.Start(t, n, lab.Options{Memory: first.Memory, Apps: func() []controller.App { return []controller.App{r} }})
		second.Pass(time.Minute)
		require.Equal(t, known, hosts(second))
		require.Equal(t, cables, links(second))
		var events []string
		second.Do(func(*controller.Context) { events = r.events })
		require.Empty(t, events)
	})
}

func TestWhatDoesNotComeBackIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(2, simswitch.Options{}, [2]int{1, 2})
		first := lab.Start(t, n, lab.Options{})
		first.Settle()
		for _, h := range first.Hosts() {
			first.Announce(h)
		}
		first.Settle()
		first.Stop()
		n.SetLink(place{DPID: 1, Port: 1}, false) // the cable went while nobody looked
		n.Switch(2).SetPort(lab.HostPort, false)
		second := lab.Start(t, n, lab.Options{Memory: first.Memory})
		second.Pass(time.Second)
		require.Empty(t, links(second))
		require.Len(t, hosts(second), 1)
	})
}
