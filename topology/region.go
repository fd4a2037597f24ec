package topology

import (
	"cmp"
	"iter"
	"maps"
	"slices"
)

// A region is a piece of the network in which broadcasts go about without crossing a
// switch that serves VIPs: what is behind an edge port, a legacy segment, a switch whose
// forwarding is its own alone, and all of these that are joined. What is asked in it is
// heard by every switch that serves and has a port on it.

// Outlet is a port by which a switch that serves meets a region.
type Outlet struct {
	Port Port
	// Before are the switches that meet the same region by a port that comes first, the
	// switch itself among them where that has two: one of all is to speak there, and it
	// is the first that can.
	Before []DPID
	// Others is how many ports of switches the region has beside this one, blocked ones and
	// those of switches within it too.
	Others int
	// Held: the port is out of use for the sake of those Before, which are not there.
	Held bool
	// Legacy: the port was found on a legacy segment since it came up.
	Legacy bool
}

// Regions are the regions of a network.
type Regions struct {
	outlets map[DPID][]Outlet
	places  map[Place][]Place
}

// Outlets returns the outlets of a switch that serves, in order of their ports. Ports
// that are blocked, that lead to another switch that serves, or that have not settled,
// are none.
func (r *Regions) Outlets(id DPID) []Outlet { return r.outlets[id] }

// Around returns the ports at which hosts of the region are seen that are at p, p among
// them, in order; nil where no region is.
func (r *Regions) Around(p Place) []Place { return r.places[p] }

// Places returns all ports at which hosts may be seen, in no particular order.
func (r *Regions) Places() iter.Seq[Place] { return maps.Keys(r.places) }

// Regions finds the regions, where serves says which switches serve VIPs.
func (f *fabric) Regions(serves func(DPID) bool) *Regions {
	joined := newSets[vertex]()
	met := map[vertex][]Place{}    // by a vertex of the region: ports of switches that serve
	inside := map[vertex][]Place{} // and ports of those within that hosts may be at
	r := &Regions{outlets: map[DPID][]Outlet{}, places: map[Place][]Place{}}
	for _, sw := range f.switches {
		within := !serves(sw.DPID)
		here := vertex{domain: sw.DPID}
		for _, port := range sw.Ports {
			p := Place{sw.DPID, port.Port}
			if !port.Up {
				continue
			}
			if left := f.held[p]; len(left) > 0 && !within {
				r.outlets[sw.DPID] = append(r.outlets[sw.DPID], Outlet{Port: p.Port, Before: left, Others: len(left), Held: true, Legacy: true})
				continue
			}
			if i, ok := f.segmentAt[p]; ok {
				segment := vertex{segment: i + 1}
				switch {
				case within:
					joined.join(here, segment)
					inside[segment] = append(inside[segment], p)
				case !f.IsBlocked(p):
					met[segment] = append(met[segment], p)
				default:
					inside[segment] = append(inside[segment], p)
				}
				met[segment] = append(met[segment], f.spoken[p]...)
				continue
			}
			if peer, ok := f.peers[p]; ok {
				there := vertex{domain: peer.DPID}
				switch {
				case serves(peer.DPID):
				case within:
					joined.join(here, there)
				default:
					met[there] = append(met[there], p)
				}
				continue
			}
			switch {
			case !f.IsEdge(p):
			case within:
				inside[here] = append(inside[here], p)
				met[here] = append(met[here], f.spoken[p]...)
			default:
				o := Outlet{Port: p.Port, Legacy: f.legacy[p], Others: len(f.spoken[p])}
				for _, other := range f.spoken[p] {
					if other.Compare(p) < 0 && !slices.Contains(o.Before, other.DPID) {
						o.Before = append(o.Before, other.DPID)
					}
				}
				r.outlets[sw.DPID] = append(r.outlets[sw.DPID], o)
				r.places[p] = []Place{p}
			}
		}
	}
	for v, ps := range met {
		slices.SortFunc(ps, Place.Compare)
		met[v] = slices.Compact(ps)
	}
	ports, all := map[vertex][]Place{}, map[vertex][]Place{} // by region
	for v, ps := range met {
		root := joined.find(v)
		ports[root] = append(ports[root], ps...)
		all[root] = append(all[root], ps...)
	}
	for v, ps := range inside {
		root := joined.find(v)
		all[root] = append(all[root], ps...)
	}
	for root, ps := range ports {
		slices.SortFunc(ps, Place.Compare)
		var before []DPID
		for _, p := range ps {
			if _, there := f.index[p.DPID]; there {
				r.outlets[p.DPID] = append(r.outlets[p.DPID], Outlet{Port: p.Port, Before: slices.Clone(before), Others: len(all[root]) - 1, Legacy: f.legacy[p]})
			}
			if !slices.Contains(before, p.DPID) {
				before = append(before, p.DPID)
			}
		}
	}
	for _, ps := range all {
		slices.SortFunc(ps, Place.Compare)
		for _, p := range ps {
			r.places[p] = ps
		}
	}
	for _, list := range r.outlets {
		slices.SortFunc(list, func(a, b Outlet) int { return cmp.Compare(a.Port, b.Port) })
	}
	return r
}
