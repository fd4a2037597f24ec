package ovsdb

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/fairlead/fairlead/ofproto"
)

// Bridge is one bridge as the database describes it. Lists are ordered by name, and are
// shared: they must not be changed.
type Bridge struct {
	Name         string            `json:"name"`
	DPID         string            `json:"dpid"` // 16 hex digits; empty: ovs-vswitchd has not made the bridge yet
	DatapathType string            `json:"datapath_type"`
	FailMode     string            `json:"fail_mode"` // empty: the default, standalone
	Protocols    []string          `json:"protocols"` // empty: Open vSwitch's default
	STP          bool              `json:"stp"`
	RSTP         bool              `json:"rstp"`
	Controllers  []Controller      `json:"controllers"`
	OtherConfig  map[string]string `json:"other_config"`
	ExternalIDs  map[string]string `json:"external_ids"`
	Ports        []Port            `json:"ports"`
}

// Controller is an OpenFlow controller of a bridge.
type Controller struct {
	Target    string `json:"target"`
	Type      string `json:"type"` // primary or service
	Connected bool   `json:"connected"`
	Role      string `json:"role"` // master, slave, other; empty when not connected
}

// Port is a port of a bridge: one interface, or a bond of several.
type Port struct {
	Name       string      `json:"name"`
	Tag        int         `json:"tag"`       // VLAN of an access port or the native one; -1: none
	Trunks     []int       `json:"trunks"`    // VLANs; empty: all
	VLANMode   string      `json:"vlan_mode"` // empty: by tag and trunks
	BondMode   string      `json:"bond_mode"` // of a bond; empty: not set
	LACP       string      `json:"lacp"`
	Interfaces []Interface `json:"interfaces"`
}

// Interface is a network device of a port, which OpenFlow knows by a number.
type Interface struct {
	Name        string            `json:"name"`
	Type        string            `json:"type"`   // empty: a device of the system
	OFPort      int               `json:"ofport"` // number in OpenFlow; 65534 is LOCAL; 0: none yet, -1: it could not be opened
	MAC         string            `json:"mac"`
	AdminState  string            `json:"admin_state"` // up, down or empty
	LinkState   string            `json:"link_state"`  // up, down or empty
	Error       string            `json:"error"`
	MTU         int               `json:"mtu"`          // bytes; 0: not known
	Peer        string            `json:"peer"`         // of a patch port: the interface at its other end
	IfaceID     string            `json:"iface_id"`     // external_ids:iface-id
	AttachedMAC string            `json:"attached_mac"` // external_ids:attached-mac
	ExternalIDs map[string]string `json:"external_ids"`
}

// Inventory is what one database says of its bridges at one moment.
type Inventory struct {
	Version string // of Open vSwitch; empty: ovs-vswitchd has not run yet
	// OVNBridge is the bridge that ovn-controller programs; empty: none.
	OVNBridge string
	Bridges   []Bridge // ordered by name
}

// Bridge returns a bridge by name.
func (inv *Inventory) Bridge(name string) (Bridge, bool) {
	i, ok := slices.BinarySearchFunc(inv.Bridges, name, func(b Bridge, name string) int { return cmp.Compare(b.Name, name) })
	if !ok {
		return Bridge{}, false
	}
	return inv.Bridges[i], true
}

// parseDPID reads a datapath id of 16 hex digits; 0 when it is none.
func parseDPID(s string) ofproto.DPID {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0
	}
	return ofproto.DPID(n)
}

// LocalPort is the number of a bridge's own interface in OpenFlow 1.0, which
// the database uses.
const LocalPort = 65534

func ofPort(n int) ofproto.Port {
	if n == LocalPort {
		return ofproto.PortLocal
	}
	return ofproto.Port(n)
}

// inventory reads the replica. References to rows that are not there, or for the second
// time, are left out: Open vSwitch makes no such, and a server that does would make a
// small replica a large inventory.
func (r *replica) inventory() *Inventory {
	r.mu.Lock()
	defer r.mu.Unlock()
	inv := &Inventory{Bridges: []Bridge{}}
	used := map[string]bool{}
	for _, e := range r.tables["Open_vSwitch"] {
		root := e.row.(*rootRow)
		inv.Version = deref(root.Version)
		if _, ok := root.ExternalIDs["ovn-remote"]; ok {
			inv.OVNBridge = cmp.Or(root.ExternalIDs["ovn-bridge"], "br-int")
		}
		for _, id := range root.Bridges {
			if row, ok := once[*bridgeRow](r, used, "Bridge", id); ok {
				inv.Bridges = append(inv.Bridges, r.bridge(row, used))
			}
		}
	}
	slices.SortFunc(inv.Bridges, func(a, b Bridge) int { return cmp.Compare(a.Name, b.Name) })
	return inv
}

// once returns a row of a table the first time that it is asked for.
func once[T any](r *replica, used map[string]bool, table, id string) (row T, ok bool) {
	e, ok := r.tables[table][id]
	if !ok || used[id] {
		return row, false
	}
	used[id] = true
	return e.row.(T), true
}

func (r *replica) bridge(row *bridgeRow, used map[string]bool) Bridge {
	b := Bridge{
		Name: row.Name, DPID: deref(row.DatapathID), DatapathType: row.DatapathType, FailMode: deref(row.FailMode),
		Protocols: list(row.Protocols), STP: row.STP, RSTP: row.RSTP, OtherConfig: whole(row.OtherConfig), ExternalIDs: whole(row.ExternalIDs),
		Controllers: []Controller{}, Ports: []Port{},
	}
	if parseDPID(b.DPID) == 0 {
		b.DPID = ""
	}
	for _, id := range row.Controller {
		if k, ok := once[*controllerRow](r, used, "Controller", id); ok {
			b.Controllers = append(b.Controllers, Controller{
				Target: k.Target, Type: controllerType(k.Target, deref(k.Type)), Connected: k.Connected, Role: deref(k.Role),
			})
		}
	}
	slices.SortFunc(b.Controllers, func(a, b Controller) int { return cmp.Compare(a.Target, b.Target) })
	for _, id := range row.Ports {
		k, ok := once[*portRow](r, used, "Port", id)
		if !ok {
			continue
		}
		p := Port{
			Name: k.Name, Tag: -1, Trunks: list(k.Trunks), VLANMode: deref(k.VLANMode),
			BondMode: deref(k.BondMode), LACP: deref(k.LACP), Interfaces: []Interface{},
		}
		if k.Tag != nil {
			p.Tag = *k.Tag
		}
		for _, id := range k.Interfaces {
			k, ok := once[*interfaceRow](r, used, "Interface", id)
			if !ok {
				continue
			}
			f := Interface{
				Name: k.Name, Type: k.Type, MAC: deref(k.MACInUse), AdminState: deref(k.AdminState), LinkState: deref(k.LinkState),
				Error: deref(k.Error), Peer: k.Options["peer"], IfaceID: k.ExternalIDs["iface-id"], AttachedMAC: k.ExternalIDs["attached-mac"], ExternalIDs: whole(k.ExternalIDs),
			}
			f.OFPort, f.MTU = deref(k.OFPort), deref(k.MTU)
			p.Interfaces = append(p.Interfaces, f)
		}
		slices.SortFunc(p.Interfaces, func(a, b Interface) int { return cmp.Compare(a.Name, b.Name) })
		b.Ports = append(b.Ports, p)
	}
	slices.SortFunc(b.Ports, func(a, b Port) int { return cmp.Compare(a.Name, b.Name) })
	return b
}

// The types of controllers (ovs-vswitchd.conf.db(5), Controller, type).
const (
	primary = "primary"
	service = "service"
)

// controllerType is the type of a controller whose row may leave it to the target:
// those that Open vSwitch connects to are primary.
func controllerType(target, typ string) string {
	scheme, _, _ := strings.Cut(target, ":")
	switch {
	case typ != "":
		return typ
	case scheme == "tcp" || scheme == "ssl" || scheme == "unix":
		return primary
	}
	return service
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func list[T cmp.Ordered](l []T) []T {
	l = append([]T{}, l...)
	slices.Sort(l)
	return l
}

func whole(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return maps.Clone(m)
}
