package balancer

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Attachment is a place where an interface with an id is, as the database of its Open
// vSwitch says.
type Attachment struct {
	Place topology.Place // port 0: OpenFlow has no port for it
	// MAC is the address of what is attached; zero: it is not known.
	MAC ofproto.MAC
	// Addresses are those that what is attached is said to have, in order.
	Addresses []netip.Addr
	Access    bool   // its frames have no tag, whatever their VLAN is
	Where     string // for people: "bridge br0 at unix:/run/openvswitch/db.sock"
	Error     string // why it has no port
	Stale     bool   // the database is not connected: this is what it said last
}

// Attachments is an event: where every interface with an id is. It takes the place of
// the one before, and nobody may write to it.
type Attachments struct {
	// ByID has the places of each id: one, but for a moment in which a machine moves.
	ByID map[string][]Attachment
	// Complete says that every database has been read: what is not in ByID is nowhere.
	Complete bool
}

// attach follows interfaces to where they are now.
func (a *App) attach(c *controller.Context, now Attachments) {
	was := a.attached
	a.attached = now
	a.relocate(c, func(yield func(netip.Addr) bool) {
		for addr, l := range a.members {
			if l.iface == "" || was.Complete == now.Complete && reflect.DeepEqual(was.ByID[l.iface], now.ByID[l.iface]) {
				continue
			}
			if !l.known {
				l.askAtOnce(c.Now)
			}
			if !yield(addr) {
				return
			}
		}
	})
	a.resolveSoon(c)
}

// nameInterfaces and unnameInterfaces keep which interface an address is the member of,
// by how many members say so. Where they differ, the lowest counts.
func (a *App) nameInterfaces(v VIP) { a.countInterfaces(v, 1) }

func (a *App) unnameInterfaces(v VIP) { a.countInterfaces(v, -1) }

func (a *App) countInterfaces(v VIP, n int) {
	for _, l := range v.Listeners {
		for _, m := range l.Pool.Members {
			if m.Interface == "" {
				continue
			}
			ids := a.interfaces[m.Address]
			if ids == nil {
				ids = map[string]int{}
				a.interfaces[m.Address] = ids
			}
			if ids[m.Interface] += n; ids[m.Interface] == 0 {
				delete(ids, m.Interface)
			}
			if len(ids) == 0 {
				delete(a.interfaces, m.Address)
			}
			if at := a.members[m.Address]; at != nil {
				at.iface = lowest(ids)
			}
		}
	}
}

func lowest(ids map[string]int) (low string) {
	for id := range ids {
		if low == "" || id < low {
			low = id
		}
	}
	return low
}

// sight is where a member is found.
type sight struct {
	known    bool
	declared bool // place is what a database says
	searched bool // it is found by its frames, and asked for everywhere
	kept     bool // it is not known, but its host is where a port is down
	mac      ofproto.MAC
	bound    ofproto.MAC // of what is attached there, as the database says; zero: it does not
	vlan     uint16
	place    topology.Place // also of one that is not known, where something is known of it
	reason   string         // why it is not known
}

// atInterface finds a member where its interface is. h is the host that its address was
// heard from, if ok. found is false where databases do not say: then it is found by its
// frames, like any other.
func (a *App) atInterface(snap *topology.Snapshot, l *location, h topology.Host, ok bool) (s sight, found bool) {
	list := a.attached.ByID[l.iface]
	if len(list) == 0 {
		return sight{reason: fmt.Sprintf("no bridge known by OVSDB has an interface with the id %s", l.iface)}, a.attached.Complete
	}
	at := list[choose(snap, list, func(p topology.Place) bool { return ok && h.Place == p }, l.place)]
	named := fmt.Sprintf("interface %s is on %s", l.iface, at.Where)
	if _, ours := snap.Switch(at.Place.DPID); !ours {
		// It may be behind a segment: the frames say.
		return sight{reason: named + ", which is not connected as a switch"}, false
	}
	s = sight{declared: true, place: at.Place, mac: at.MAC, bound: at.MAC, vlan: l.network}
	if at.Access {
		s.vlan = 0
	}
	port, there := snap.Port(at.Place)
	switch {
	case at.Place.Port == 0:
		s.reason = named + " and has no port"
		if at.Error != "" {
			s.reason += ": " + at.Error
		}
		return s, true
	case !there:
		s.reason = fmt.Sprintf("%s, whose switch has no port %d yet", named, at.Place.Port)
		return s, true
	}
	heard := ok && h.Place == at.Place && (s.mac == ofproto.MAC{} || s.mac == ofproto.MAC(h.MAC))
	if heard {
		s.mac, s.vlan = ofproto.MAC(h.MAC), h.VLAN
	}
	if !port.Up {
		s.kept, s.reason = heard, "port "+at.Place.String()+" is down"
		return s, true
	}
	if s.mac == (ofproto.MAC{}) {
		s.mac = l.mac // what is attached keeps its address where it goes
	}
	if s.mac == (ofproto.MAC{}) {
		s.reason = named + ", whose MAC is not known: it has no external_ids:attached-mac, and no ARP or neighbour discovery was heard from it"
		return s, true
	}
	s.known = true
	return s, true
}

// choose picks one of the places of an interface: one that packets can be sent to, that
// a connected database tells of, that the member's frames come from, and where it was
// before, in this order.
func choose(snap *topology.Snapshot, list []Attachment, heard func(topology.Place) bool, before topology.Place) int {
	best, most := 0, -1
	for i, at := range list {
		rank := 0
		for _, is := range []bool{usable(snap, at.Place), !at.Stale, heard(at.Place), at.Place == before} {
			rank *= 2
			if is {
				rank++
			}
		}
		if rank > most {
			best, most = i, rank
		}
	}
	return best
}

func usable(snap *topology.Snapshot, p topology.Place) bool {
	port, ok := snap.Port(p)
	return ok && port.Up
}

// declare tells the graph of a member that it has not heard from where its interface is:
// forwarding and probes then find it there, too.
func (a *App) declare(c *controller.Context, addr netip.Addr) {
	l := a.members[addr]
	if l == nil || !l.known || !l.declared {
		return
	}
	snap := c.Graph.Snapshot()
	h, ok := snap.Host(topology.MAC(l.mac), l.vlan)
	if ok && h.Place == l.place && slices.Contains(h.IPs, addr) {
		return
	}
	for _, e := range c.Graph.SeeHost(topology.Sighting{MAC: topology.MAC(l.mac), VLAN: l.vlan, Place: l.place, IP: addr, Declared: true}, c.Now) {
		c.Emit(e)
	}
}

// fill gives the members of a document that have an interface and no address the address
// of what is attached there. The error is *UnsupportedError.
func (s *Service) fill(ctx context.Context, v VIP) (VIP, error) {
	if !v.unaddressed() {
		return v, nil
	}
	old, err := s.Intents.Get(ctx, v.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return v, err
	}
	var attached Attachments
	var snap *topology.Snapshot
	if err := s.core.Do(ctx, func(c *controller.Context) { attached, snap = s.app.attached, c.Graph.Snapshot() }); err != nil {
		return v, err
	}
	var missing faults
	v.Listeners = slices.Clone(v.Listeners)
	for i := range v.Listeners {
		pool := &v.Listeners[i].Pool
		pool.Members = slices.Clone(pool.Members)
		for j := range pool.Members {
			m := &pool.Members[j]
			if m.Interface == "" || m.Address.IsValid() {
				continue
			}
			addr, reason := attachedAddress(snap, attached.ByID[m.Interface], v, old.VIP.memberAt(m.Interface))
			if reason != "" {
				missing.add(memberField(fmt.Sprintf("listeners[%d].pool", i), j)+".address", "interface %s: %s", m.Interface, reason)
			}
			m.Address = addr
		}
	}
	if len(missing) > 0 {
		return v, &UnsupportedError{missing}
	}
	return v, nil
}

// unaddressed says whether a member has an interface and no address.
func (v VIP) unaddressed() bool {
	return slices.ContainsFunc(v.Listeners, func(l Listener) bool {
		return slices.ContainsFunc(l.Pool.Members, func(m Member) bool { return m.Interface != "" && !m.Address.IsValid() })
	})
}

// memberAt returns the address of the members with an interface, if there are any.
func (v VIP) memberAt(iface string) (addr netip.Addr) {
	for _, l := range v.Listeners {
		for _, m := range l.Pool.Members {
			if m.Interface == iface {
				return m.Address
			}
		}
	}
	return addr
}

// attachedAddress returns the address, of the family of a VIP, of what is attached to an
// interface: of those that the database has, or else that were heard from there. The one
// that a member has already stays while it is among them, or none is known. reason says
// why it is not known.
func attachedAddress(snap *topology.Snapshot, list []Attachment, v VIP, before netip.Addr) (addr netip.Addr, reason string) {
	var said, heard []netip.Addr
	fits := func(a netip.Addr) bool { return a.Is4() == v.Address.Is4() && !a.IsLinkLocalUnicast() }
	for _, at := range list {
		said = append(said, at.Addresses...)
		if at.Place.Port == 0 {
			continue
		}
		for _, h := range snap.Hosts() {
			if h.Place == at.Place && (h.VLAN == v.VLAN || h.VLAN == 0) && (at.MAC == ofproto.MAC{} || at.MAC == ofproto.MAC(h.MAC)) {
				heard = append(heard, h.IPs...)
			}
		}
	}
	for _, known := range [][]netip.Addr{said, heard} {
		known = slices.DeleteFunc(known, func(a netip.Addr) bool { return !fits(a) })
		slices.SortFunc(known, netip.Addr.Compare)
		known = slices.Compact(known)
		switch {
		case len(known) == 0:
			continue
		case len(known) == 1, slices.Contains(known, before):
			if slices.Contains(known, before) {
				return before, ""
			}
			return known[0], ""
		}
		return addr, fmt.Sprintf("it has several addresses, %v: say which", known)
	}
	family := "IPv4"
	if v.Address.Is6() {
		family = "IPv6"
	}
	switch {
	case before.IsValid() && fits(before):
		return before, ""
	case len(list) == 0:
		return addr, "no bridge known by OVSDB has it: give the address, or attach it first"
	}
	return addr, fmt.Sprintf("no %s address of it is known: it has none in external_ids:ip_addresses, and none was heard from its port", family)
}
