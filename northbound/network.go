package northbound

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Network is what the controller knows of switches and of the graph they make. Errors
// are ErrNotFound (no such switch was ever seen) and ErrNotConnected.
type Network interface {
	// Switches returns every switch that is known, in any order.
	Switches(ctx context.Context) ([]SwitchView, error)
	// Switch returns one switch.
	Switch(ctx context.Context, dpid ofproto.DPID) (SwitchView, error)
	// SetStage stores the stage of a switch, one of Stages. It is durable when it
	// returns; the switch follows.
	SetStage(ctx context.Context, dpid ofproto.DPID, stage string) error
	// SetBPDUs stores what a switch does with BPDUs, one of BPDUs. It is durable when it
	// returns; the switch follows.
	SetBPDUs(ctx context.Context, dpid ofproto.DPID, bpdus string) error
	// Confirm lets a switch be written to that was held back because the store does
	// not seem to be the one it was programmed from. A switch that is not held stays
	// as it is, but that its ports are its own from then on, whoever had them.
	Confirm(ctx context.Context, dpid ofproto.DPID) error
	// Unbind forgets the certificate that a switch is bound to. ErrNotFound when there
	// is none.
	Unbind(ctx context.Context, dpid ofproto.DPID) error
	// Sessions counts the OpenFlow connections.
	Sessions(ctx context.Context) (SessionsView, error)
	// Settled returns nil when the switch has acknowledged, or failed to take, all
	// that it is to hold now. A switch that is not connected is not waited for. The
	// error is that of ctx.
	Settled(ctx context.Context, dpid ofproto.DPID) error
	// Flows reads the flows that a switch holds, in any order.
	Flows(ctx context.Context, dpid ofproto.DPID) ([]FlowView, error)
	// Groups reads the groups that a switch holds, in any order.
	Groups(ctx context.Context, dpid ofproto.DPID) ([]GroupView, error)
	// Topology returns the graph as it is now.
	Topology(ctx context.Context) (*topology.Snapshot, error)
}

// Stages are the stages of a switch, from the least to the most that Fairlead does.
var Stages = []string{"observe", "steer", "managed"}

// BPDUs are the choices for the frames of spanning tree that reach a switch; the first is
// what holds where none was made.
var BPDUs = []string{"drop", "forward", "guard"}

// SwitchView is a switch as the API shows it.
type SwitchView struct {
	DPID         string           `json:"dpid"` // 16 hex digits
	Connection   ConnectionView   `json:"connection"`
	Role         string           `json:"role"`  // of this controller: master, slave, equal or nochange; empty when not connected
	Stage        string           `json:"stage"` // one of Stages
	BPDUs        string           `json:"bpdus"` // one of BPDUs
	Description  DescriptionView  `json:"description"`
	Capabilities CapabilitiesView `json:"capabilities"`
	Ports        []PortView       `json:"ports"`
	Counts       CountsView       `json:"counts"`
	Faults       []FaultView      `json:"faults"`
	// Certificate that the datapath id is bound to, connected or not.
	Certificate *CertificateView `json:"certificate,omitempty"`
}

// CertificateView is the certificate that a datapath id is bound to: another key is
// refused.
type CertificateView struct {
	Key     string    `json:"key"`     // SHA-256 of the public key, hex
	Subject string    `json:"subject"` // of the certificate that was first seen
	Since   time.Time `json:"since"`
}

// SessionsView counts OpenFlow connections.
type SessionsView struct {
	Open, Handshaking int
	Refused           map[string]uint64 // since the start, by reason
	Panics            uint64            // contained, outside of the API
}

// ConnectionView is the OpenFlow session with a switch.
type ConnectionView struct {
	State   string    `json:"state"`             // connected or disconnected
	Secure  bool      `json:"secure"`            // by TLS, with a certificate that is good for the datapath id
	Address string    `json:"address,omitempty"` // of the switch, address:port
	Since   time.Time `json:"since,omitzero"`
}

// DescriptionView is what the switch says of itself (OpenFlow 1.3.5 §7.3.5.1).
type DescriptionView struct {
	Manufacturer string `json:"manufacturer"`
	Hardware     string `json:"hardware"`
	Software     string `json:"software"`
	Serial       string `json:"serial"`
	Datapath     string `json:"datapath"`
}

// CapabilitiesView is what the switch was found to be able to do.
type CapabilitiesView struct {
	Tables          uint8         `json:"tables"`
	Bundles         bool          `json:"bundles"` // atomic, ordered changes
	Nicira          bool          `json:"nicira"`  // Open vSwitch's actions
	SelectGroups    bool          `json:"select_groups"`
	FastFailover    bool          `json:"fast_failover"`  // groups that skip dead ports
	GroupChaining   bool          `json:"group_chaining"` // groups in buckets
	AllGroups       bool          `json:"all_groups"`     // groups that flood
	WatchPort       bool          `json:"watch_port"`     // buckets of select groups follow the state of a port
	WatchGroup      bool          `json:"watch_group"`    // and of a group
	MaxGroups       uint32        `json:"max_groups"`     // select groups
	MaxBuckets      uint16        `json:"max_buckets"`    // of a select group; no more than 256 are asked for
	MaxMeters       uint32        `json:"max_meters"`
	Normal          bool          `json:"normal"`            // the switch's own forwarding can be handed packets
	NormalInBuckets bool          `json:"normal_in_buckets"` // by groups too
	SetFields       []string      `json:"set_fields"`        // headers that flow entries can rewrite: l2, l3, l4, ipv6, sctp
	BucketSetFields []string      `json:"bucket_set_fields"` // and buckets
	AddressMasks    bool          `json:"address_masks"`     // any bits of an IPv4 address can be matched
	IPv6Masks       bool          `json:"ipv6_masks"`        // and of an IPv6 address
	PortMasks       bool          `json:"port_masks"`        // and of a port
	NDAnswers       bool          `json:"nd_answers"`        // entries can answer neighbour solicitations
	Hashing         bool          `json:"hashing"`           // entries can hash the source of a packet into a register
	Resubmits       bool          `json:"resubmits"`         // actions can look a packet up in a later table
	TCPFlags        bool          `json:"tcp_flags"`         // flags of TCP can be matched
	ConnTrack       bool          `json:"conn_track"`        // the switch tracks connections
	Holds           bool          `json:"holds"`             // the switch holds the flow entries that it accepts
	Ignores         bool          `json:"ignores"`           // it accepted something that it then did not hold
	Probed          bool          `json:"probed"`            // tried out on this kind of switch, not only declared
	Pipeline        string        `json:"pipeline"`          // tables, or folded into one
	Balancing       BalancingView `json:"balancing"`
}

// BalancingView is the best way to spread TCP connections that a switch has in its
// stage.
type BalancingView struct {
	Method balancer.Method `json:"method"`
	Slots  int             `json:"slots"`  // of the largest table
	Reason string          `json:"reason"` // why it is not the best there is
}

// PortView is one port of a switch.
type PortView struct {
	Port      uint32 `json:"port"`
	Name      string `json:"name"`
	MAC       string `json:"mac"`
	Up        bool   `json:"up"`
	SpeedKbps uint32 `json:"speed_kbps"` // 0 when the switch does not say
	// Blocked is why nothing is sent to the port and nothing taken from it; empty: it is
	// not blocked.
	Blocked string `json:"blocked,omitempty"`
	// IfaceID and AttachedMAC are external ids of the interface, where its OVSDB is
	// connected and has them.
	IfaceID     string `json:"iface_id,omitempty"`
	AttachedMAC string `json:"attached_mac,omitempty"`
}

// CountsView counts what a switch holds and sent.
type CountsView struct {
	Ports            int    `json:"ports"`
	Links            int    `json:"links"`
	Hosts            int    `json:"hosts"`
	Flows            int    `json:"flows"`   // Fairlead's
	Groups           int    `json:"groups"`  // Fairlead's
	Foreign          int    `json:"foreign"` // flows and groups of others, left alone
	PacketIns        uint64 `json:"packet_ins"`
	PacketInsDropped uint64 `json:"packet_ins_dropped"`
}

// FaultView is something that a switch refused or lacks.
type FaultView struct {
	Object string `json:"object"` // what it concerns: "vip/web"
	Reason string `json:"reason"`
}

// FlowView is one flow that a switch holds, decoded.
type FlowView struct {
	Table        uint8              `json:"table"`
	Priority     uint16             `json:"priority"`
	Owner        string             `json:"owner"`        // "balancer vip/web"; empty when not Fairlead's
	Cookie       string             `json:"cookie"`       // hex
	Match        map[string]string  `json:"match"`        // by OXM field name; empty matches everything
	Instructions []string           `json:"instructions"` // in the manner of ovs-ofctl
	Packets      uint64             `json:"packets"`
	Bytes        uint64             `json:"bytes"`
	Age          documents.Duration `json:"age"`
	IdleTimeout  documents.Duration `json:"idle_timeout"` // 0s is never
	HardTimeout  documents.Duration `json:"hard_timeout"` // 0s is never

	match string // as ofproto prints it: with table and priority the flow's identity
}

// NewFlowView decodes one flow of a switch. It copies what it needs of f.
func NewFlowView(f ofproto.FlowStats, owner string) (FlowView, error) {
	instructions, err := f.Instructions()
	if err != nil {
		return FlowView{}, fmt.Errorf("northbound: decode flow: %w", err)
	}
	v := FlowView{
		Table: uint8(f.Table), Priority: f.Priority, Owner: owner, Cookie: fmt.Sprintf("%#016x", f.Cookie),
		Match: map[string]string{}, Instructions: make([]string, 0, len(instructions)),
		Packets: f.Packets, Bytes: f.Bytes,
		Age:         documents.Duration(time.Duration(f.DurationSec)*time.Second + time.Duration(f.DurationNsec)),
		IdleTimeout: documents.Duration(time.Duration(f.IdleTimeout) * time.Second),
		HardTimeout: documents.Duration(time.Duration(f.HardTimeout) * time.Second),
		match:       f.Match.String(),
	}
	if v.match != "" {
		for field := range strings.SplitSeq(v.match, ",") {
			name, value, _ := strings.Cut(field, "=")
			v.Match[name] = value
		}
	}
	for _, i := range instructions {
		v.Instructions = append(v.Instructions, i.String())
	}
	return v, nil
}

// key orders flows as a switch tries them: by table, the highest priority first.
func (f *FlowView) key() string {
	return fmt.Sprintf("%03d/%05d/%s", f.Table, 0xffff-f.Priority, f.match)
}

// GroupView is one group that a switch holds, decoded.
type GroupView struct {
	ID       uint32             `json:"id"`
	Type     string             `json:"type"` // all, select, indirect or ff
	Owner    string             `json:"owner"`
	Packets  uint64             `json:"packets"`
	Bytes    uint64             `json:"bytes"`
	RefCount uint32             `json:"ref_count"` // flows and groups that use it
	Age      documents.Duration `json:"age"`
	Buckets  []BucketView       `json:"buckets"`
}

// BucketView is one bucket of a group.
type BucketView struct {
	Weight     uint16   `json:"weight"`
	WatchPort  string   `json:"watch_port,omitempty"`
	WatchGroup uint32   `json:"watch_group,omitempty"`
	Actions    []string `json:"actions"`
	Packets    uint64   `json:"packets"`
	Bytes      uint64   `json:"bytes"`
}

// NewGroupView decodes one group of a switch from its description and its counters.
// It copies what it needs of both.
func NewGroupView(d ofproto.GroupDesc, st ofproto.GroupStats, owner string) GroupView {
	v := GroupView{
		ID: uint32(d.Group), Type: d.Type.String(), Owner: owner,
		Packets: st.Packets, Bytes: st.Bytes, RefCount: st.RefCount,
		Age:     documents.Duration(time.Duration(st.DurationSec)*time.Second + time.Duration(st.DurationNsec)),
		Buckets: make([]BucketView, len(d.Buckets)),
	}
	for i, b := range d.Buckets {
		k := &v.Buckets[i]
		k.Weight, k.Actions = b.Weight, make([]string, 0, len(b.Actions))
		if b.WatchPort != ofproto.PortAny {
			k.WatchPort = b.WatchPort.String()
		}
		if b.WatchGroup != ofproto.GroupAny {
			k.WatchGroup = uint32(b.WatchGroup)
		}
		for _, a := range b.Actions {
			k.Actions = append(k.Actions, a.String())
		}
		if i < len(st.Buckets) {
			k.Packets, k.Bytes = st.Buckets[i].Packets, st.Buckets[i].Bytes
		}
	}
	return v
}

func (s *Server) listSwitches(c echo.Context) error {
	list, err := s.o.Network.Switches(c.Request().Context())
	if err != nil {
		return err
	}
	for i := range list {
		list[i].whole()
	}
	return respondPage(c, list, func(v *SwitchView) string { return v.DPID })
}

// whole makes lists of what is null.
func (v *SwitchView) whole() {
	if v.Ports == nil {
		v.Ports = []PortView{}
	}
	k := &v.Capabilities
	if k.SetFields == nil {
		k.SetFields = []string{}
	}
	if k.BucketSetFields == nil {
		k.BucketSetFields = []string{}
	}
	if v.Faults == nil {
		v.Faults = []FaultView{}
	}
	slices.SortFunc(v.Faults, func(a, b FaultView) int { return cmp.Compare(a.Object, b.Object) })
}

func (s *Server) getSwitch(c echo.Context) error {
	dpid, err := dpidParam(c)
	if err != nil {
		return err
	}
	return s.respondSwitch(c, dpid)
}

// respondSwitch answers with a switch. The entity tag is of what is stored of it.
func (s *Server) respondSwitch(c echo.Context, dpid ofproto.DPID) error {
	v, err := s.o.Network.Switch(c.Request().Context(), dpid)
	if err != nil {
		return err
	}
	v.whole()
	c.Response().Header().Set("ETag", switchTag(v))
	return respond(c, http.StatusOK, v)
}

// switchTag is the entity tag of what is stored of a switch: its stage, what it does with
// BPDUs, and its certificate.
func switchTag(v SwitchView) string {
	tag := v.Stage + "-" + v.BPDUs
	if v.Certificate != nil {
		tag += "-" + v.Certificate.Key
	}
	return `"` + tag + `"`
}

func (s *Server) putStage(c echo.Context) error {
	return s.putChoice(c, "stage", Stages, s.o.Network.SetStage)
}

func (s *Server) putBPDUs(c echo.Context) error {
	return s.putChoice(c, "bpdus", BPDUs, s.o.Network.SetBPDUs)
}

// putChoice stores one choice of a switch: the document has one field, and that one of
// some values.
func (s *Server) putChoice(c echo.Context, field string, values []string, set func(context.Context, ofproto.DPID, string) error) error {
	dpid, err := dpidParam(c)
	if err != nil {
		return err
	}
	cond, wait, err := writeParams(c)
	if err != nil {
		return err
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	var value string
	if err := decodeFields(body, map[string]any{field: &value}); err != nil {
		return err
	}
	if !slices.Contains(values, value) {
		return badField(field, "%q is none of %s", value, strings.Join(values, ", "))
	}
	err = s.setSwitch(c.Request().Context(), dpid, cond, func(ctx context.Context) error { return set(ctx, dpid, value) })
	if err != nil {
		return err
	}
	s.wait(c, wait, func(ctx context.Context) error { return s.o.Network.Settled(ctx, dpid) })
	return s.respondSwitch(c, dpid)
}

// postConfirm lets a held switch be written to. It takes no body.
func (s *Server) postConfirm(c echo.Context) error {
	dpid, err := dpidParam(c)
	if err != nil {
		return err
	}
	_, wait, err := writeParams(c)
	if err != nil {
		return err
	}
	if err := s.o.Network.Confirm(c.Request().Context(), dpid); err != nil {
		return err
	}
	s.wait(c, wait, func(ctx context.Context) error { return s.o.Network.Settled(ctx, dpid) })
	return s.respondSwitch(c, dpid)
}

// deleteCertificate makes the next certificate that a switch shows the one it is bound
// to.
func (s *Server) deleteCertificate(c echo.Context) error {
	dpid, err := dpidParam(c)
	if err != nil {
		return err
	}
	cond, err := condition(c)
	if err != nil {
		return err
	}
	err = s.setSwitch(c.Request().Context(), dpid, cond, func(ctx context.Context) error { return s.o.Network.Unbind(ctx, dpid) })
	if err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

// setSwitch has something stored of a switch, on a condition on its entity tag.
func (s *Server) setSwitch(ctx context.Context, dpid ofproto.DPID, cond balancer.Condition, set func(context.Context) error) error {
	s.stages.Lock()
	defer s.stages.Unlock()
	if cond.IfMatch != "" || cond.IfNoneMatch {
		v, err := s.o.Network.Switch(ctx, dpid)
		if err != nil {
			return err
		}
		if cond.IfNoneMatch || !matches(cond.IfMatch, switchTag(v)) {
			return fmt.Errorf("the entity tag of switch %s is %s: %w", dpid, switchTag(v), ErrPrecondition)
		}
	}
	return set(ctx)
}

func (s *Server) listFlows(c echo.Context) error {
	dpid, err := dpidParam(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), s.limits.readSwitch)
	defer cancel()
	flows, err := s.o.Network.Flows(ctx, dpid)
	if err != nil {
		return err
	}
	return respondPage(c, flows, (*FlowView).key)
}

func (s *Server) listGroups(c echo.Context) error {
	dpid, err := dpidParam(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), s.limits.readSwitch)
	defer cancel()
	groups, err := s.o.Network.Groups(ctx, dpid)
	if err != nil {
		return err
	}
	return respondPage(c, groups, func(g *GroupView) string { return fmt.Sprintf("%010d", g.ID) })
}

func (s *Server) listLinks(c echo.Context) error {
	t, err := s.o.Network.Topology(c.Request().Context())
	if err != nil {
		return err
	}
	return respondPage(c, t.Links(), func(l *topology.Link) string { return placeKey(l.A) + "-" + placeKey(l.B) })
}

// placeKey orders places as topology does.
func placeKey(p topology.Place) string {
	return fmt.Sprintf("%016x/%010d", uint64(p.DPID), uint32(p.Port))
}

func (s *Server) listHosts(c echo.Context) error {
	t, err := s.o.Network.Topology(c.Request().Context())
	if err != nil {
		return err
	}
	return respondPage(c, t.Hosts(), func(h *topology.Host) string { return fmt.Sprintf("%s/%04d", h.MAC, h.VLAN) })
}

func (s *Server) listSegments(c echo.Context) error {
	t, err := s.o.Network.Topology(c.Request().Context())
	if err != nil {
		return err
	}
	return respondPage(c, t.Segments(), func(s *topology.Segment) string { return s.ID().String() })
}

func respondPage[T any](c echo.Context, items []T, key func(*T) string) error {
	p, err := pageOf(c, items, key)
	if err != nil {
		return err
	}
	return respond(c, http.StatusOK, p)
}
