// Package simswitch is a software OpenFlow 1.3 switch for tests: it follows the
// matching and execution rules of the specification (1.3.5, §5) on values of
// ofproto, so that a test asks what becomes of a packet and not which flows there
// are. Where the specification is silent or generous it refuses: a group that does
// not exist is an error here, and a packet dropped without a word on Open vSwitch.
//
// Switch is the datapath, Serve its OpenFlow channel, Network joins switches and
// hosts by cables.
package simswitch

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/fairlead/fairlead/ofproto"
)

// Options is the personality of a switch. The zero value is a generous Open
// vSwitch without ports.
type Options struct {
	DPID  ofproto.DPID
	Ports []ofproto.Port // all up
	Desc  *ofproto.Desc  // nil: names itself Open vSwitch
	// HWAddr gives ports their hardware addresses; nil: they are made of DPID and port.
	HWAddr func(ofproto.Port) ofproto.MAC

	MaxFlows   int // of one table; 0: no limit
	MaxGroups  int // 0: no limit
	MaxBuckets int // of one group; 0: no limit

	Tables   int  // 0: 254
	NoNicira bool // Nicira's actions and masks on ports are refused
	NoMasks  bool // masks that are no prefix are refused, on addresses too
	NoNormal bool // output to NORMAL is refused
	// Tags are the VLANs of access ports, which NORMAL alone knows of (tag in Open vSwitch).
	Tags       map[ofproto.Port]uint16
	NoMeters   bool
	NoGroups   bool
	NoSelect   bool
	NoFailover bool
	NoChaining bool
	NoWatch    bool // groups that watch groups are refused
	NoBundles  bool
	NoRoles    bool
	// NoSet are the fields that no action may set, NoBucketSet those that no bucket may.
	NoSet, NoBucketSet []ofproto.FieldType
	// Undeclared: what the switch lacks it claims to have.
	Undeclared bool

	// Ignore says of which messages the switch takes no notice, though it accepts them.
	Ignore func(ofproto.Message) bool
	// Reorder has the switch carry out what comes between two barriers in a random
	// order, as it may (§6.2), made from this seed; 0: in order.
	Reorder uint64

	// Hello is sent as it stands in place of the switch's own hello.
	Hello []byte
	// Refuse may refuse a message of a controller: an error returned is the answer.
	// It sees flow-mods and group-mods of bundles when they are carried out.
	Refuse func(ofproto.Message) *ofproto.Error
	// Received is called with every message that came over a channel, before it is
	// handled.
	Received func(ofproto.Header, ofproto.Message)
	// Answered is called with every message that answers one of a controller.
	Answered func(ofproto.Message)
}

// Switch is one datapath. It is safe for concurrent use.
type Switch struct {
	o Options

	mu       sync.Mutex
	ports    map[ofproto.Port]*port
	tables   [tableCount]flowTable
	groups   map[ofproto.GroupID]*group
	macs     map[macKey]ofproto.Port
	term     uint64 // of the last master
	termSeen bool
	channels map[*channel]struct{}
	mods     int
	transmit func([]Output) // set by Network: where packet-outs go
	random   *rand.Rand     // of Options.Reorder
	holding  bool           // a bundle is being carried out
	frozen   bool           // no packet is taken or sent
	held     []ofproto.Message
}

const tableCount = 254

// tableLimit is the number of tables.
func (s *Switch) tableLimit() ofproto.Table {
	if s.o.Tables > 0 {
		return ofproto.Table(s.o.Tables)
	}
	return tableCount
}

type port struct {
	desc   ofproto.PortDesc
	rx, tx ofproto.Counter
}

// New returns a switch with empty tables.
func New(o Options) *Switch {
	s := &Switch{
		o: o, ports: map[ofproto.Port]*port{}, groups: map[ofproto.GroupID]*group{},
		macs: map[macKey]ofproto.Port{}, channels: map[*channel]struct{}{},
	}
	if o.Reorder != 0 {
		s.random = rand.New(rand.NewPCG(o.Reorder, 0))
	}
	for _, p := range o.Ports {
		s.ports[p] = &port{desc: s.portDesc(p, true)}
	}
	return s
}

// DPID returns the datapath id.
func (s *Switch) DPID() ofproto.DPID { return s.o.DPID }

func (s *Switch) portDesc(p ofproto.Port, up bool) ofproto.PortDesc {
	d := ofproto.PortDesc{
		Port: p, Name: "port" + p.String(), State: ofproto.PortStateLinkDown,
		HWAddr: ofproto.MAC{0x0a, byte(s.o.DPID >> 8), byte(s.o.DPID), byte(p >> 16), byte(p >> 8), byte(p)},
	}
	if s.o.HWAddr != nil {
		d.HWAddr = s.o.HWAddr(p)
	}
	if up {
		d.State = ofproto.PortStateLive
	}
	return d
}

// SetPort plugs a port in or takes its link down, and tells the controllers.
func (s *Switch) SetPort(p ofproto.Port, up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	reason := ofproto.PortReasonModify
	at := s.ports[p]
	if at == nil {
		reason, at = ofproto.PortReasonAdd, &port{}
		s.ports[p] = at
	}
	at.desc = s.portDesc(p, up)
	s.async(&ofproto.PortStatus{Reason: reason, Desc: at.desc})
}

// RemovePort takes a port away and tells the controllers.
func (s *Switch) RemovePort(p ofproto.Port) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.ports[p]; at != nil {
		delete(s.ports, p)
		s.async(&ofproto.PortStatus{Reason: ofproto.PortReasonDelete, Desc: at.desc})
	}
}

func (s *Switch) up(p ofproto.Port) bool {
	at := s.ports[p]
	return at != nil && at.desc.Up()
}

// portList returns the ports in order.
func (s *Switch) portList() []ofproto.Port { return slices.Sorted(maps.Keys(s.ports)) }

// Freeze has the switch take and send no packet any more, with its ports up and its
// channel as it is, or takes that back.
func (s *Switch) Freeze(frozen bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frozen = frozen
}

// Flows returns all flow entries by table and falling priority, with counters.
func (s *Switch) Flows() []Flow {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []Flow
	for t := range s.tables {
		for _, f := range s.tables[t].entries {
			all = append(all, *f)
		}
	}
	slices.SortStableFunc(all, func(a, b Flow) int {
		return cmp.Or(cmp.Compare(a.Table, b.Table), -cmp.Compare(a.Priority, b.Priority), cmp.Compare(string(a.Match), string(b.Match)))
	})
	return all
}

// Groups returns all groups by id.
func (s *Switch) Groups() []ofproto.GroupDesc {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groupDescs()
}

// GroupStats returns the counters of all groups by id.
func (s *Switch) GroupStats() []ofproto.GroupStats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.groupStats(ofproto.GroupAll)
}

// Mods returns how many flow-mods and group-mods came over channels, those in
// bundles and those refused too.
func (s *Switch) Mods() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mods
}

// Apply carries a flow-mod, group-mod or port-mod out. What it keeps of m it copies.
func (s *Switch) Apply(m ofproto.Message) *ofproto.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apply(m)
}

func (s *Switch) apply(m ofproto.Message) *ofproto.Error {
	if s.o.Refuse != nil {
		if err := s.o.Refuse(m); err != nil {
			return err
		}
	}
	if s.o.Ignore != nil && s.o.Ignore(m) {
		return nil
	}
	m, err := fresh(m)
	if err != nil {
		return bad(ofproto.ErrorBadRequest, ofproto.CodeBadLen)
	}
	switch m := m.(type) {
	case *ofproto.FlowMod:
		return s.flowMod(m)
	case *ofproto.GroupMod:
		return s.groupMod(m)
	case *ofproto.PortMod:
		return s.portMod(m)
	}
	return bad(ofproto.ErrorBadRequest, ofproto.CodeBadType)
}

// fresh is a deep copy by way of the wire.
func fresh(m ofproto.Message) (ofproto.Message, error) {
	_, c, err := ofproto.Parse(ofproto.Append(nil, 0, m))
	return c, err
}

func (s *Switch) portMod(m *ofproto.PortMod) *ofproto.Error {
	at := s.ports[m.Port]
	if at == nil {
		return bad(ofproto.ErrorPortModFailed, 0)
	}
	if at.desc.HWAddr != m.HWAddr {
		return bad(ofproto.ErrorPortModFailed, 1)
	}
	at.desc.Config = at.desc.Config&^m.Mask | m.Config&m.Mask
	s.async(&ofproto.PortStatus{Reason: ofproto.PortReasonModify, Desc: at.desc})
	return nil
}

func bad(t ofproto.ErrorType, code uint16) *ofproto.Error {
	return &ofproto.Error{Type: t, Code: code}
}

// Codes that ofproto does not name.
const (
	requestBadMultipart    uint16 = 2
	requestBadExperimenter uint16 = 3

	actionBadType      uint16 = 0
	actionBadExp       uint16 = 2
	actionBadPort      uint16 = 4
	actionBadArgument  uint16 = 5
	actionBadGroup     uint16 = 9
	actionInconsistent uint16 = 10
	actionBadSetType   uint16 = 13

	instructionUnsup    uint16 = 1
	instructionBadTable uint16 = 2

	matchBadField  uint16 = 6
	matchBadMask   uint16 = 8
	matchBadPrereq uint16 = 9
	matchDuplicate uint16 = 10

	flowBadTable   uint16 = 2
	flowBadCommand uint16 = 6

	groupInvalid       uint16 = 1
	groupChainingUnsup uint16 = 5
	groupWatchUnsup    uint16 = 6
	groupLoop          uint16 = 7
	groupChained       uint16 = 9
	groupBadType       uint16 = 10
	groupBadCommand    uint16 = 11
	groupBadBucket     uint16 = 12
	groupBadWatch      uint16 = 13

	bundleUnknownID     uint16 = 2302
	bundleExists        uint16 = 2303
	bundleBadXID        uint16 = 2309
	bundleUnsupported   uint16 = 2310
	bundleMessageFailed uint16 = 2313
)
