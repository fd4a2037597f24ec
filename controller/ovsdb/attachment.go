package ovsdb

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/fairlead/fairlead/ofproto"
)

// maxIfaceID is the longest external_ids:iface-id that counts, in bytes.
const maxIfaceID = 255

// Attachment is where an interface with an external_ids:iface-id is.
type Attachment struct {
	Endpoint  Endpoint
	Bridge    string
	DPID      ofproto.DPID // of the bridge; 0: it has none yet
	Interface string
	Port      ofproto.Port // 0: OpenFlow has no port for it
	Error     string       // why it has none, where Open vSwitch says so
	// MAC is the address of what is attached: external_ids:attached-mac, or that of an
	// internal interface. Zero: it is not known.
	MAC ofproto.MAC
	// Addresses are those of external_ids:ip_addresses, in order.
	Addresses []netip.Addr
	// Access says that the port is in one VLAN, whose frames have no tag there.
	Access bool
	// Stale says that there is no session with the endpoint at present: this is what it
	// said last.
	Stale bool
}

// Attachments are the interfaces with an id of the endpoints that have adopted bridges.
// They are shared: nobody may write to them.
type Attachments struct {
	// ByID has the places of each id, in the order of endpoint, bridge and interface.
	// There is one but for a moment, as while a machine moves from one host to another.
	ByID map[string][]Attachment
	// Complete says that each of the endpoints has been read since the start: what is not
	// in ByID is nowhere.
	Complete bool
}

// attachments reads the interfaces with an id from an inventory.
func attachments(e Endpoint, inv *Inventory) (list []identified) {
	for _, b := range inv.Bridges {
		// A server that was restarted has forgotten datapath_id until ovs-vswitchd is back.
		dpid := parseDPID(cmp.Or(b.DPID, b.OtherConfig[keyDatapathID]))
		for _, p := range b.Ports {
			for _, f := range p.Interfaces {
				if f.IfaceID == "" || len(f.IfaceID) > maxIfaceID {
					continue
				}
				a := Attachment{
					Endpoint: e, Bridge: b.Name, DPID: dpid, Interface: f.Name, Error: f.Error,
					Addresses: addressList(f.ExternalIDs["ip_addresses"]),
					Access:    p.Tag >= 0 && len(p.Trunks) == 0 && (p.VLANMode == "" || p.VLANMode == "access"),
				}
				a.MAC, _ = AttachedMAC(f)
				if f.OFPort > 0 {
					a.Port = ofPort(f.OFPort)
				}
				list = append(list, identified{f.IfaceID, a})
			}
		}
	}
	return list
}

// identified is an attachment with its external_ids:iface-id.
type identified struct {
	id string
	at Attachment
}

// AttachedMAC is the address of what is attached to an interface:
// external_ids:attached-mac, or that of an internal interface. ok is false when it is
// not known.
func AttachedMAC(f Interface) (mac ofproto.MAC, ok bool) {
	if mac = parseMAC(f.AttachedMAC); f.AttachedMAC == "" && f.Type == "internal" {
		mac = parseMAC(f.MAC)
	}
	return mac, mac != ofproto.MAC{}
}

// parseMAC reads the Ethernet address of one station; zero when it is none.
func parseMAC(s string) (mac ofproto.MAC) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != len(mac) || hw[0]&1 != 0 {
		return mac
	}
	return ofproto.MAC(hw)
}

// addressList reads addresses, with or without the length of their network, with spaces
// or commas between. What is none is left out.
func addressList(s string) (list []netip.Addr) {
	for _, field := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' }) {
		field, _, _ = strings.Cut(field, "/")
		if a, err := netip.ParseAddr(field); err == nil && a.Zone() == "" {
			list = append(list, a.Unmap())
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.Compact(list)
}

// poke has the attachments looked at soon. It does not block.
func (h *Hosts) poke() {
	select {
	case h.pokes <- struct{}{}:
	default:
	}
}

// follow tells the attachments whenever they have changed, until ctx ends. What an
// endpoint said last stands while there is no session with it: its switches go on.
func (h *Hosts) follow(ctx context.Context) {
	type reading struct {
		inv   *Inventory // that list was made of; nil: there is no session
		list  []identified
		stale bool
	}
	read := map[Endpoint]reading{}
	told := Attachments{}
	for first := true; ; first = false {
		in := h.inUse()
		for e := range read {
			if in[e] == nil {
				delete(read, e)
			}
		}
		now := Attachments{ByID: map[string][]Attachment{}, Complete: true}
		for e, client := range in {
			r, known := read[e]
			if inv, err := client.Inventory(); err != nil {
				r.stale = true
			} else if known = true; inv != r.inv || r.stale {
				r = reading{inv: inv, list: attachments(e, inv)}
			}
			if !known {
				now.Complete = false
				continue
			}
			read[e] = r
			for _, x := range r.list {
				x.at.Stale = r.stale
				now.ByID[x.id] = append(now.ByID[x.id], x.at)
			}
		}
		for _, list := range now.ByID {
			slices.SortFunc(list, func(a, b Attachment) int {
				return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Bridge, b.Bridge), cmp.Compare(a.Interface, b.Interface))
			})
		}
		if first || !reflect.DeepEqual(now, told) {
			told = now
			h.o.Attached(ctx, now)
		}
		select {
		case <-ctx.Done():
			return
		case <-h.pokes:
		}
	}
}

// inUse returns the clients of the endpoints with adopted bridges.
func (h *Hosts) inUse() map[Endpoint]*Client {
	h.mu.Lock()
	defer h.mu.Unlock()
	in := map[Endpoint]*Client{}
	for key := range h.adoptions {
		if k := h.hosts[key.endpoint]; k != nil {
			in[key.endpoint] = k.client
		}
	}
	return in
}
