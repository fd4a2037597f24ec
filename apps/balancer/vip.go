// Package balancer turns virtual IPs into select groups and flows of switches.
//
// This half of it holds the intents: the document of a VIP as the REST API
// shows it (VIP), what is stored of it (Record: the document and everything
// that was allocated for it), the slot tables (Assign, Spread) and the
// transactions that change them (Intents).
package balancer

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/ofproto"
)

// Limits of one document. A pool holds at most one member a slot.
const (
	MaxListeners = 128 // listeners of a VIP
	MaxMembers   = 256 // members of a pool
	MaxWeight    = 256 // weight of a member; 0 drains it
	MaxCIDRs     = 256 // allowed_cidrs of a VIP
)

// Protocol is the transport protocol of a listener.
type Protocol string

// Protocols of a listener.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// Mode says how a packet reaches its member and how the reply comes back.
type Mode string

// Modes of a VIP.
const (
	ModeNAT       Mode = "nat"       // rewritten both ways by flows, no state
	ModeDSR       Mode = "dsr"       // the member answers as the VIP itself
	ModeConntrack Mode = "conntrack" // rewritten by the switch's connection tracking
)

// AdminState is what the operator wants of a member.
type AdminState string

// Admin states of a member.
const (
	AdminUp    AdminState = "up"
	AdminDrain AdminState = "drain" // no new slots
	AdminDown  AdminState = "down"  // no slots
)

// Persistence says which packets of a client keep to one member, beyond those
// of one connection.
type Persistence string

// Kinds of persistence.
const (
	PersistenceNone             Persistence = "none"
	PersistenceSourceIP         Persistence = "source_ip"
	PersistenceSourceIPProtocol Persistence = "source_ip_protocol"
)

// Via says from where the probes of a monitor come.
type Via string

// Places that probes come from.
const (
	ViaSwitches Via = "switches" // the data network, by packet-out and packet-in
	ViaHost     Via = "host"     // the network of the controller's own host
)

// What happens to packets of a listener that has no member to send them to.
const (
	OnEmptyDrop   = "drop"
	OnEmptyReject = "reject"
)

// MonitorType is the kind of probe of a monitor.
type MonitorType string

// Kinds of monitors.
const (
	MonitorTCP        MonitorType = "tcp"
	MonitorHTTP       MonitorType = "http"
	MonitorHTTPS      MonitorType = "https"
	MonitorPing       MonitorType = "ping"
	MonitorUDPConnect MonitorType = "udp_connect"
	MonitorSCTP       MonitorType = "sctp"
)

// Provisioning is how far the switches have followed a VIP's document.
type Provisioning string

// Values of VIPStatus.Provisioning.
const (
	ProvisioningPending Provisioning = "pending"
	ProvisioningActive  Provisioning = "active"
	ProvisioningError   Provisioning = "error"
)

// Operating is how well a VIP serves.
type Operating string

// Values of VIPStatus.Operating.
const (
	OperatingOnline    Operating = "online"
	OperatingDegraded  Operating = "degraded"
	OperatingOffline   Operating = "offline"
	OperatingNoMonitor Operating = "no_monitor"
	OperatingDisabled  Operating = "disabled"
)

// InstallState is how far one switch has followed a VIP's document.
type InstallState string

// Values of SwitchStatus.State.
const (
	InstallInstalled InstallState = "installed"
	InstallPending   InstallState = "pending"
	InstallError     InstallState = "error"
)

// Health is what is known of a member.
type Health string

// Values of MemberStatus.Health.
const (
	HealthUp        Health = "up"
	HealthDown      Health = "down"
	HealthUnknown   Health = "unknown"
	HealthNoMonitor Health = "no_monitor"
)

// VIP is one virtual IP: the document that the REST API reads and writes. ID,
// MAC, Generation, CreatedAt, UpdatedAt and Status are given by the server and
// ignored in what a client sends.
type VIP struct {
	Name         string         `json:"name"`
	ID           string         `json:"id,omitempty"` // UUID, one per life of a name
	Address      netip.Addr     `json:"address"`
	MAC          ofproto.MAC    `json:"mac"` // one per address: VIPs that share an address share it
	Mode         Mode           `json:"mode"`
	VLAN         uint16         `json:"vlan"` // 0 is untagged
	Enabled      bool           `json:"enabled"`
	AllowedCIDRs []netip.Prefix `json:"allowed_cidrs"` // empty allows all
	OnEmpty      string         `json:"on_empty"`      // OnEmptyDrop or OnEmptyReject
	// SourceNAT gives packets to members the VIP's address as their source, so that
	// replies come back by the same switch. Mode conntrack only.
	SourceNAT  bool       `json:"source_nat"`
	Listeners  []Listener `json:"listeners"`
	Generation uint64     `json:"generation,omitempty"` // 1 on creation, one more with every change
	CreatedAt  time.Time  `json:"created_at,omitzero"`
	UpdatedAt  time.Time  `json:"updated_at,omitzero"`
	Status     *VIPStatus `json:"status,omitempty"`
}

// Listener is one protocol and port of a VIP, or a range of ports, with the pool
// behind it. In a range packets keep their port, and the port of every member is
// that of the listener.
type Listener struct {
	Protocol Protocol `json:"protocol"`
	Port     uint16   `json:"port"`     // the first of a range
	PortEnd  uint16   `json:"port_end"` // the last of a range; 0: one port
	// ConnectionRate bounds the new connections a second, of tcp, by a meter of each
	// switch they enter by; 0 is no bound.
	ConnectionRate int             `json:"connection_rate"`
	Pool           Pool            `json:"pool"`
	Status         *ListenerStatus `json:"status,omitempty"`
}

// Pool is the set of members a listener spreads its connections over.
type Pool struct {
	Persistence Persistence `json:"persistence"`
	Members     []Member    `json:"members"`
	Monitor     *Monitor    `json:"monitor,omitempty"`
	// PanicThreshold is a share of the members, in percent: when fewer than that are
	// healthy all serve, for the monitor is then more likely to be wrong than they
	// are. 0: never.
	PanicThreshold int `json:"panic_threshold"`
	// MinimumHealthy is the number of healthy members below which the pool counts as
	// empty. 0: a pool is empty when none is.
	MinimumHealthy int `json:"minimum_healthy"`
	// DrainTimeout is how long established connections of a member that drains go on
	// in mode conntrack; 0 is for as long as they like.
	DrainTimeout Duration `json:"drain_timeout"`
}

// Member is one backend of a pool. Status is given by the server.
type Member struct {
	Address netip.Addr `json:"address"`
	Port    uint16     `json:"port"`
	// Interface is the external_ids:iface-id of the interface of Open vSwitch that the
	// member is attached to: it is where OVSDB says, and not where its address is heard.
	// Empty: it is found by its address.
	Interface  string     `json:"interface,omitempty"`
	Weight     int        `json:"weight"` // 0 … MaxWeight; 0 drains
	AdminState AdminState `json:"admin_state"`
	Backup     bool       `json:"backup"` // serves when no other member can
	// MonitorAddress and MonitorPort are probed in place of Address and Port, where
	// they are given.
	MonitorAddress netip.Addr `json:"monitor_address,omitzero"`
	MonitorPort    uint16     `json:"monitor_port,omitempty"`

	Status *MemberStatus `json:"status,omitempty"`
}

// Monitor is the health check of a pool.
type Monitor struct {
	Type          MonitorType `json:"type"`
	Interval      Duration    `json:"interval"`
	Timeout       Duration    `json:"timeout"`
	Rise          int         `json:"rise"`                     // good probes in a row that bring a member up
	Fall          int         `json:"fall"`                     // bad probes in a row that take it down
	Via           Via         `json:"via"`                      // where probes come from
	Initial       Health      `json:"initial"`                  // of a new member: unknown, which does not serve, or up
	SourceAddress netip.Addr  `json:"source_address,omitzero"`  // of probes; by default the VIP's own
	Method        string      `json:"method,omitempty"`         // http and https
	Host          string      `json:"host,omitempty"`           // http and https: the Host header, and the name asked for by TLS; by default the member's address
	TLSInsecure   bool        `json:"tls_insecure"`             // https: take any certificate
	Path          string      `json:"path,omitempty"`           // http and https
	ExpectedCodes string      `json:"expected_codes,omitempty"` // http and https: "200", "200-299", "200,204"
}

// VIPStatus is the state of a VIP in the network.
type VIPStatus struct {
	Provisioning Provisioning   `json:"provisioning"`
	Operating    Operating      `json:"operating"`
	Switches     []SwitchStatus `json:"switches"`
}

// SwitchStatus is the state of a VIP in one switch.
type SwitchStatus struct {
	DPID       string       `json:"dpid"` // 16 hex digits, ofproto.DPID.String
	State      InstallState `json:"state"`
	Generation uint64       `json:"generation"` // of the document that the switch has
	Method     Method       `json:"method"`     // how its worst listener is spread; empty when it is not
	Slots      int          `json:"slots"`      // of that listener in this switch
	Reason     string       `json:"reason"`     // why it is an error, or not the best method
}

// ListenerStatus is what has become of the weights of a listener.
type ListenerStatus struct {
	Slots int `json:"slots"` // of its table
	// QuantisationError is what whole slots cost: the largest difference between a
	// member's share of its own slots and its share of the weights, 0 … 1.
	QuantisationError float64 `json:"quantisation_error"`
}

// MemberStatus is the state of a member.
type MemberStatus struct {
	Health Health    `json:"health"`
	Since  time.Time `json:"since,omitzero"`   // when that began, or the member was found elsewhere
	Slots  int       `json:"slots"`            // slots it owns now
	Switch string    `json:"switch,omitempty"` // where it is attached: 16 hex digits
	Port   uint32    `json:"port,omitempty"`   // of that switch
	Reason string    `json:"reason"`
}

// ListenerKey names a listener of a VIP.
type ListenerKey struct {
	Protocol Protocol
	Port     uint16
}

// MemberKey names a member of a listener; its String is "10.0.0.2:8080" or "[2001:db8::2]:8080".
type MemberKey = netip.AddrPort

// Record is what is stored of a VIP: its document, with no Status in it, and
// what was allocated for it. Listeners are in the order of VIP.Listeners. The
// slices of a Record are shared by all who got it: nobody may write to them.
type Record struct {
	VIP       VIP              `json:"vip"`
	Listeners []ListenerRecord `json:"listeners"`
}

// ListenerRecord is what was allocated for one listener. Members are in the
// order of the document's pool.
type ListenerRecord struct {
	Key     ListenerKey     `json:"key"`
	Group   ofproto.GroupID `json:"group"` // of the select group
	Slots   Slots           `json:"slots"`
	Members []MemberRecord  `json:"members"`
	Next    uint16          `json:"next"` // where the search for the next free Index starts
}

// MemberRecord is what was allocated for one member of a listener.
type MemberRecord struct {
	Key   MemberKey       `json:"key"`
	Group ofproto.GroupID `json:"group"` // of the member's fast failover group
	Index uint16          `json:"index"` // the id that stands for it in Slots, stable while it is a member
	// Drained is since when the member is to have no new connections; zero while it is.
	Drained time.Time `json:"drained,omitzero"`
}

// Key returns the listener's name within its VIP.
func (l Listener) Key() ListenerKey { return ListenerKey{l.Protocol, l.Port} }

// Key returns the member's name within its pool.
func (m Member) Key() MemberKey { return netip.AddrPortFrom(m.Address, m.Port) }

// SlotWeight is the weight that counts for slots: 0 for a member that is not to
// have any.
func (m Member) SlotWeight() int {
	if m.AdminState != AdminUp {
		return 0
	}
	return m.Weight
}

// Listener returns the index of the listener with that key, or -1.
func (v VIP) Listener(k ListenerKey) int {
	for i, l := range v.Listeners {
		if l.Key() == k {
			return i
		}
	}
	return -1
}

// Member returns the index of the member with that key, or -1.
func (p Pool) Member(k MemberKey) int {
	for i, m := range p.Members {
		if m.Key() == k {
			return i
		}
	}
	return -1
}

// ETag returns the entity tag of the document, with its quotes. No two documents of a
// name have the same: generations begin again where a name is given again, or a backup is
// restored.
func (v VIP) ETag() string {
	return fmt.Sprintf(`"%d-%.8s-%d"`, v.Generation, v.ID, v.UpdatedAt.UnixMilli())
}

// String returns the key as in the REST API: "tcp:80".
func (k ListenerKey) String() string {
	return string(k.Protocol) + ":" + strconv.Itoa(int(k.Port))
}

// ParseListenerKey reads "tcp:80". The port has no sign and no leading zeros.
func ParseListenerKey(s string) (ListenerKey, error) {
	proto, port, ok := strings.Cut(s, ":")
	switch p := Protocol(proto); {
	case !ok, p != TCP && p != UDP && p != SCTP:
	default:
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != port {
			break
		}
		return ListenerKey{p, uint16(n)}, nil
	}
	return ListenerKey{}, fmt.Errorf("balancer: parse listener %q: want tcp|udp|sctp:port", s)
}

// MarshalText writes the key as String does.
func (k ListenerKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (k *ListenerKey) UnmarshalText(b []byte) error {
	v, err := ParseListenerKey(string(b))
	if err == nil {
		*k = v
	}
	return err
}

// Duration is a duration in a document.
type Duration = documents.Duration

// vipJSON is a VIP whose MAC is text in JSON; ofproto's type has no text form.
type vipJSON struct {
	*vipFields
	MAC string `json:"mac,omitempty"` // hides vipFields.MAC
}

type vipFields VIP

// MarshalJSON writes the document of the REST API. Lists are never null.
func (v VIP) MarshalJSON() ([]byte, error) {
	if v.AllowedCIDRs == nil {
		v.AllowedCIDRs = []netip.Prefix{}
	}
	if v.Listeners == nil {
		v.Listeners = []Listener{}
	}
	j := vipJSON{vipFields: (*vipFields)(&v)}
	if v.MAC != (ofproto.MAC{}) {
		j.MAC = v.MAC.String()
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads a document that a server wrote. It is not strict: what a
// client sends goes through DecodeVIP.
func (v *VIP) UnmarshalJSON(b []byte) error {
	var fresh VIP
	j := vipJSON{vipFields: (*vipFields)(&fresh)}
	if err := json.Unmarshal(b, &j); err != nil {
		return err
	}
	if j.MAC != "" {
		mac, err := parseMAC(j.MAC)
		if err != nil {
			return err
		}
		fresh.MAC = mac
	}
	for _, l := range fresh.Listeners {
		if l.Pool.Monitor != nil {
			l.Pool.Monitor.complete()
		}
	}
	*v = fresh
	return nil
}

// complete fills in what documents of earlier versions do not say.
func (m *Monitor) complete() {
	if m.Via == "" {
		m.Via, m.Initial = ViaSwitches, HealthUnknown
		if m.Type.http() {
			m.Method = defaultMethod
		}
	}
}

// MarshalJSON writes the pool with a list of members that is never null.
func (p Pool) MarshalJSON() ([]byte, error) {
	type fields Pool
	if p.Members == nil {
		p.Members = []Member{}
	}
	return json.Marshal(fields(p))
}

// parseMAC reads six pairs of hex digits with colons between them.
func parseMAC(s string) (ofproto.MAC, error) {
	var m ofproto.MAC
	if len(s) != 17 {
		return m, fmt.Errorf("balancer: parse MAC %q: want six pairs of hex digits", s)
	}
	for i := range m {
		n, err := strconv.ParseUint(s[3*i:3*i+2], 16, 8)
		if err != nil || i < 5 && s[3*i+2] != ':' {
			return ofproto.MAC{}, fmt.Errorf("balancer: parse MAC %q: want six pairs of hex digits", s)
		}
		m[i] = byte(n)
	}
	return m, nil
}
