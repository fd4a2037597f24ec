package simswitch

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// Place is one port of one switch of a network.
type Place struct {
	DPID ofproto.DPID
	Port ofproto.Port
}

// Host is an end station. It answers ARP or neighbour solicitations for its address,
// and else what Answer says.
type Host struct {
	Name string
	MAC  packet.MAC
	IP   netip.Addr
	VLAN uint16 // it sends and takes frames of this VLAN alone, tagged; 0: untagged
	At   Place  // several hosts at one port are behind a hub
	// Mute: it answers nothing by itself.
	Mute bool
	// Answer returns the frames with which the host answers one that is addressed to
	// it; may be nil.
	Answer func(f packet.Frame) [][]byte

	seen [][]byte
}

// AddrPort is a transport address of the host.
func (h *Host) AddrPort(port uint16) netip.AddrPort { return netip.AddrPortFrom(h.IP, port) }

// Network joins switches and hosts by cables that neither delay nor lose. It is
// safe for concurrent use.
type Network struct {
	// Tap is shown every frame that leaves a port, before it arrives; may be nil. It
	// must not call the network.
	Tap func(from Place, frame []byte)

	mu       sync.Mutex
	switches map[ofproto.DPID]*Switch
	links    map[Place]Place
	media    map[Place]*medium
	cut      map[Place]bool
	narrow   map[Place]int // the most bytes of payload that leave, where they are bounded
	hosts    map[string]*Host
	at       map[Place][]*Host
	storm    bool
}

// hopsMost is how many frames may come of one before it counts as a storm.
const hopsMost = 20000

// NewNetwork returns an empty network.
func NewNetwork() *Network {
	return &Network{
		switches: map[ofproto.DPID]*Switch{}, links: map[Place]Place{}, media: map[Place]*medium{}, cut: map[Place]bool{}, narrow: map[Place]int{},
		hosts: map[string]*Host{}, at: map[Place][]*Host{},
	}
}

// AddSwitch adds a switch. Ports come with links and hosts.
func (n *Network) AddSwitch(o Options) *Switch {
	s := New(o)
	s.transmit = func(out []Output) { n.walk(o.DPID, out) }
	n.mu.Lock()
	defer n.mu.Unlock()
	n.switches[o.DPID] = s
	return s
}

// Switch returns a switch of the network.
func (n *Network) Switch(dpid ofproto.DPID) *Switch { return n.switches[dpid] }

// Switches returns all switches by datapath id.
func (n *Network) Switches() []*Switch {
	n.mu.Lock()
	defer n.mu.Unlock()
	var all []*Switch
	for _, s := range n.switches {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *Switch) int { return int(a.o.DPID) - int(b.o.DPID) })
	return all
}

// Link plugs a cable between two ports, which come up.
func (n *Network) Link(a, b Place) {
	n.mu.Lock()
	n.links[a], n.links[b] = b, a
	n.mu.Unlock()
	n.switches[a.DPID].SetPort(a.Port, true)
	n.switches[b.DPID].SetPort(b.Port, true)
}

// SetTap changes the tap of a network that is in use.
func (n *Network) SetTap(tap func(from Place, frame []byte)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.Tap = tap
}

// medium joins ports that are not the network's own: what leaves by one arrives at all
// others, and at the hosts of all of them.
type medium struct {
	places []Place
	hub    bool
	keeps  func(frame []byte) bool // says what is not passed on; nil: nothing
}

// Share plugs ports into one bridge, which keeps back frames that are for the link
// itself, or into one hub, which keeps back nothing. They come up. Ports that share
// something already bring what it joins.
func (n *Network) Share(hub bool, places ...Place) {
	n.mu.Lock()
	m := &medium{hub: hub}
	for _, p := range places {
		old := []Place{p}
		if o := n.media[p]; o != nil {
			old = o.places
		}
		m.places = append(m.places, old...)
	}
	for _, p := range m.places {
		n.media[p] = m
	}
	n.mu.Unlock()
	for _, p := range places {
		n.switches[p.DPID].SetPort(p.Port, true)
	}
}

// KeepBack has what the port at is plugged into not pass on some frames.
func (n *Network) KeepBack(at Place, keeps func(frame []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.media[at].keeps = keeps
}

// SetLink takes the ports at both ends of the cable at a down, or up again.
func (n *Network) SetLink(a Place, up bool) {
	n.mu.Lock()
	b := n.links[a]
	n.mu.Unlock()
	n.switches[a.DPID].SetPort(a.Port, up)
	n.switches[b.DPID].SetPort(b.Port, up)
}

// Cut makes the cable at a carry nothing, or something again, with its ports up all
// the while.
func (n *Network) Cut(a Place, cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[a] = cut
	if b, ok := n.links[a]; ok {
		n.cut[b] = cut
	}
}

// Narrow makes a port lose frames with more than that many bytes of payload.
func (n *Network) Narrow(at Place, mtu int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.narrow[at] = mtu
}

// AddHost plugs a host in at its place, whose port comes up.
func (n *Network) AddHost(h Host) *Host {
	n.mu.Lock()
	n.hosts[h.Name] = &h
	n.at[h.At] = append(n.at[h.At], &h)
	n.mu.Unlock()
	n.switches[h.At.DPID].SetPort(h.At.Port, true)
	return &h
}

// Host returns a host by name.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.hosts[name] == nil {
		panic(fmt.Sprintf("simswitch: no host %q", name))
	}
	return n.hosts[name]
}

// Hosts returns the names of all hosts.
func (n *Network) Hosts() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var names []string
	for name := range n.hosts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Move plugs a host into another port.
func (n *Network) Move(name string, to Place) {
	n.mu.Lock()
	h := n.hosts[name]
	n.at[h.At] = slices.DeleteFunc(n.at[h.At], func(o *Host) bool { return o == h })
	h.At = to
	n.at[to] = append(n.at[to], h)
	n.mu.Unlock()
	n.switches[to.DPID].SetPort(to.Port, true)
}

// Send sends a frame from a host and follows it, and all that it causes, to the end.
func (n *Network) Send(host string, frame []byte) {
	at := n.Host(host).At
	n.mu.Lock()
	in := n.enter(at, frame)
	n.mu.Unlock()
	n.follow(in)
}

// enter is where a frame of a host at a place arrives.
func (n *Network) enter(at Place, frame []byte) []arrival {
	m := n.media[at]
	if m == nil {
		return []arrival{{at, frame}}
	}
	var in []arrival
	for _, p := range m.places {
		if !n.cut[p] {
			in = append(in, arrival{p, frame})
		}
	}
	return in
}

// Tags are the tags of the frames that the host sends.
func (h *Host) Tags() []packet.VLAN {
	if h.VLAN == 0 {
		return nil
	}
	return []packet.VLAN{{ID: h.VLAN}}
}

// allNodes is the group of all IPv6 hosts of a link (RFC 4291 §2.7.1).
var allNodes = netip.MustParseAddrPort("[ff02::1]:0")

// Announce sends an ARP announcement from a host, or an unsolicited neighbour
// advertisement.
func (n *Network) Announce(host string) {
	h := n.Host(host)
	if h.IP.Is4() {
		n.Send(host, packet.AppendARPRequest(nil, h.MAC, h.IP, h.IP, h.Tags()...))
		return
	}
	n.Send(host, packet.AppendNeighborAdvertisement(nil, packet.Flow{
		SrcMAC: h.MAC, DstMAC: packet.MAC{0x33, 0x33, 5: 1}, Tags: h.Tags(), Src: h.AddrPort(0), Dst: allNodes,
	}, h.IP, false))
}

// Seen returns all frames that came to a host since the last call, by whatever
// address.
func (n *Network) Seen(host string) [][]byte {
	h := n.Host(host)
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := h.seen
	h.seen = nil
	return seen
}

// Received returns the frames since the last call of it or Seen that are addressed
// to the host, by its own address or a group's.
func (n *Network) Received(host string) [][]byte {
	h := n.Host(host)
	return slices.DeleteFunc(n.Seen(host), func(f []byte) bool { return !h.accepts(f) })
}

// Forget drops what all hosts have seen so far.
func (n *Network) Forget() {
	for _, h := range n.Hosts() {
		n.Seen(h)
	}
}

// Stormed says whether some frame was multiplied without end.
func (n *Network) Stormed() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.storm
}

// Calm forgets that some frame was multiplied without end.
func (n *Network) Calm() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.storm = false
}

func (h *Host) accepts(frame []byte) bool {
	dst := packet.MAC(frame[:6])
	return dst == h.MAC || packet.IsGroup(dst)
}

// arrival is a frame about to enter a switch.
type arrival struct {
	at    Place
	frame []byte
}

// walk follows what a switch has sent out.
func (n *Network) walk(from ofproto.DPID, out []Output) {
	var next []arrival
	for _, o := range out {
		next = append(next, n.leave(Place{from, o.Port}, o.Frame)...)
	}
	n.follow(next)
}

func (n *Network) follow(queue []arrival) {
	for hops := 0; len(queue) > 0; hops++ {
		if hops == hopsMost {
			n.mu.Lock()
			n.storm = true
			n.mu.Unlock()
			return
		}
		a := queue[0]
		queue = queue[1:]
		out, _ := n.switches[a.at.DPID].Process(a.at.Port, a.frame)
		for _, o := range out {
			queue = append(queue, n.leave(Place{a.at.DPID, o.Port}, o.Frame)...)
		}
	}
}

// leave takes a frame out of a port, and returns what arrives at switches of it and
// of the answers of hosts.
func (n *Network) leave(at Place, frame []byte) []arrival {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.Tap != nil {
		n.Tap(at, frame)
	}
	if mtu := n.narrow[at]; n.cut[at] || mtu > 0 && len(frame) > mtu+14 {
		return nil
	}
	if to, ok := n.links[at]; ok {
		return []arrival{{to, frame}}
	}
	var answers []arrival
	forLink := [5]byte(frame[:5]) == [5]byte(packet.LLDPMulticast[:5])
	hosts := n.at[at]
	if m := n.media[at]; m != nil && (m.hub || !forLink) && (m.keeps == nil || !m.keeps(frame)) {
		hosts = nil
		for _, p := range m.places {
			hosts = append(hosts, n.at[p]...)
			if p != at && !n.cut[p] {
				answers = append(answers, arrival{p, frame})
			}
		}
	}
	if forLink {
		return answers // no station takes it
	}
	if f, err := packet.Decode(frame); err == nil && f.EtherType() == packet.EtherTypeLLDP {
		return answers // likewise
	}
	for _, h := range hosts {
		h.seen = append(h.seen, frame)
		if !h.accepts(frame) || h.Mute {
			continue
		}
		f, err := packet.Decode(frame)
		if tag, _ := f.VLAN(); err != nil || tag.ID != h.VLAN {
			continue
		}
		if arp, ok := f.ARP(); ok && arp.Op == packet.ARPRequest && arp.TPA == h.IP && h.IP.IsValid() {
			answers = append(answers, n.enter(h.At, packet.AppendARPReply(nil, h.MAC, h.IP, arp.SHA, arp.SPA, h.Tags()...))...)
		}
		if nd, ok := f.ND(); ok && nd.Type == packet.ICMPv6NeighborSolicitation && nd.Target == h.IP {
			to := Headers(frame).Reverse()
			to.SrcMAC, to.Src = h.MAC, h.AddrPort(0)
			answers = append(answers, n.enter(h.At, packet.AppendNeighborAdvertisement(nil, to, h.IP, true))...)
		}
		if h.Answer != nil {
			for _, a := range h.Answer(f) {
				answers = append(answers, n.enter(h.At, a)...)
			}
		}
	}
	return answers
}

// Headers returns the addresses of a frame, ready to build one like it. It panics
// on what is no frame.
func Headers(frame []byte) packet.Flow {
	f, err := packet.Decode(frame)
	if err != nil {
		panic(err)
	}
	e := f.Ethernet()
	src, dst, _ := f.Addrs()
	sp, dp, _ := f.Ports()
	var tags []packet.VLAN
	if tag, ok := f.VLAN(); ok {
		tags = []packet.VLAN{{ID: tag.ID}}
	}
	return packet.Flow{SrcMAC: e.Src, DstMAC: e.Dst, Tags: tags, Src: netip.AddrPortFrom(src, sp), Dst: netip.AddrPortFrom(dst, dp)}
}
