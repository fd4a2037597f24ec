package topology

import (
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Snapshot is the graph at one moment. It never changes and is safe for any
// number of concurrent readers. Slices that it returns are shared: do not
// change them. The one thing that may lag, by up to a second, are the LastSeen
// times of what has not changed otherwise.
type Snapshot struct {
	*fabric
	version uint64
	links   []Link
	hosts   frozen[HostKey, Host]
	byIP    frozen[ipKey, HostKey]
	refused uint64
	list    func() []Host
}

// Snapshot returns the graph as it is now. While nothing changes it returns
// the same one again.
func (g *Graph) Snapshot() *Snapshot {
	s := g.snapshot
	if s != nil && s.version == g.version && (!g.touched || g.now.Sub(g.snapshotNow) < time.Second) {
		return s
	}
	g.hosts.publish()
	next := &Snapshot{
		version: g.version,
		hosts:   g.hosts.public.freeze(),
		byIP:    g.hosts.byIP.freeze(),
		refused: g.hosts.refuse,
	}
	next.list = sync.OnceValue(next.sortHosts)
	same := s != nil && s.fabric.version == g.fabric
	if same && !g.probed {
		next.links = s.links
	} else {
		next.links = g.links()
	}
	if same {
		next.fabric = s.fabric
	} else {
		next.fabric = g.newFabric(next.links)
	}
	g.snapshot, g.snapshotNow, g.touched, g.probed = next, g.now, false, false
	return next
}

// links returns the links in order of their ends.
func (g *Graph) links() []Link {
	ls := make([]Link, 0, len(g.edges))
	for _, e := range g.edges {
		l := e.link
		if len(g.faults) > 0 {
			l.Fault = g.faultAt(l.A, l.B)
		}
		ls = append(ls, l)
	}
	slices.SortFunc(ls, compareLinks)
	return ls
}

func compareLinks(a, b Link) int {
	if c := a.A.Compare(b.A); c != 0 {
		return c
	}
	return a.B.Compare(b.B)
}

// Version is the Graph.Version this snapshot shows.
func (s *Snapshot) Version() uint64 { return s.version }

// FabricVersion is the version at which switches, ports or links last changed.
// Paths, trees and edge ports of two snapshots with the same one are the same.
func (s *Snapshot) FabricVersion() uint64 { return s.fabric.version }

// Links returns all links in any state, in order of their ends.
func (s *Snapshot) Links() []Link { return s.links }

// Diverted returns the switches that use other ports than in an earlier snapshot, in order:
// some are blocked or not any more, or broadcasts leave by others.
func (s *Snapshot) Diverted(earlier *Snapshot) []DPID {
	var ids []DPID
	for _, sw := range s.Switches() {
		blocked := func(p PortState) bool {
			at := Place{sw.DPID, p.Port}
			return s.IsBlocked(at) != earlier.IsBlocked(at)
		}
		if !slices.Equal(s.Tree().Ports(sw.DPID), earlier.Tree().Ports(sw.DPID)) ||
			!slices.Equal(s.EdgePorts(sw.DPID), earlier.EdgePorts(sw.DPID)) || slices.ContainsFunc(sw.Ports, blocked) {
			ids = append(ids, sw.DPID)
		}
	}
	return ids
}

// Hosts returns all hosts in order of MAC and VLAN.
func (s *Snapshot) Hosts() []Host { return s.list() }

// HostCount returns the number of hosts.
func (s *Snapshot) HostCount() int { return s.hosts.size }

// Refused returns how many sightings of new hosts were refused so far because
// the table was full of pinned ones.
func (s *Snapshot) Refused() uint64 { return s.refused }

// Host returns the host with this MAC on this VLAN.
func (s *Snapshot) Host(mac MAC, vlan uint16) (Host, bool) {
	return s.hosts.get(HostKey{mac, vlan})
}

// HostByIP returns the host that last claimed this address on this VLAN.
func (s *Snapshot) HostByIP(vlan uint16, ip netip.Addr) (Host, bool) {
	key, ok := s.byIP.get(ipKey{ip.WithZone("").Unmap(), vlan})
	if !ok {
		return Host{}, false
	}
	return s.hosts.get(key)
}

func (s *Snapshot) sortHosts() []Host {
	hs := make([]Host, 0, s.hosts.size)
	for _, part := range s.hosts.parts {
		for _, h := range part {
			hs = append(hs, h)
		}
	}
	slices.SortFunc(hs, func(a, b Host) int { return a.Key().Compare(b.Key()) })
	return hs
}
