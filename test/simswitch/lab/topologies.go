package lab

import (
	"fmt"
	"net/netip"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
)

// HostPort is the first port for hosts; lower ones are for links.
const HostPort = 100

// Build returns a network of switches 1 … n with the links given as pairs of
// switches, and a host on each: "h1" on switch 1, with 10.0.0.1 and so on.
func Build(n int, personality simswitch.Options, links ...[2]int) *simswitch.Network {
	net := simswitch.NewNetwork()
	for i := 1; i <= n; i++ {
		o := personality
		o.DPID = ofproto.DPID(i)
		net.AddSwitch(o)
	}
	next := map[int]ofproto.Port{}
	for _, l := range links {
		next[l[0]]++
		a := simswitch.Place{DPID: ofproto.DPID(l[0]), Port: next[l[0]]}
		next[l[1]]++
		net.Link(a, simswitch.Place{DPID: ofproto.DPID(l[1]), Port: next[l[1]]})
	}
	for i := 1; i <= n; i++ {
		AddHost(net, i, simswitch.Place{DPID: ofproto.DPID(i), Port: HostPort})
	}
	return net
}

// AddHost adds the host called "h" and its number.
func AddHost(net *simswitch.Network, i int, at simswitch.Place) *simswitch.Host {
	return net.AddHost(simswitch.Host{
		Name: fmt.Sprintf("h%d", i), At: at,
		MAC: packet.MAC{0x0e, 0, 0, 0, byte(i >> 8), byte(i)}, IP: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}),
	})
}

// Ring returns the links of a ring of n switches.
func Ring(n int) (links [][2]int) {
	for i := 1; i <= n; i++ {
		links = append(links, [2]int{i, i%n + 1})
	}
	return links
}

// Frame is a TCP segment from a host to an address behind a MAC.
func Frame(from *simswitch.Host, sport uint16, mac packet.MAC, to netip.AddrPort) []byte {
	f := packet.Flow{SrcMAC: from.MAC, DstMAC: mac, Src: from.AddrPort(sport), Dst: to}
	return packet.AppendTCPFrame(nil, f, packet.TCP{Flags: packet.TCPSyn, Window: 1000}, nil)
}
