package controller

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Layers are the headers whose fields a set-field action may write.
type Layers uint8

// The layers that balancing rewrites.
const (
	LayerL2   Layers = 1 << iota // Ethernet addresses
	LayerL3                      // IPv4 addresses
	LayerL4                      // ports of TCP
	LayerIPv6                    // IPv6 addresses; in flow entries, that they can be matched too
	LayerSCTP                    // ports of SCTP; likewise

	allLayers = LayerL2 | LayerL3 | LayerL4 | LayerIPv6 | LayerSCTP
)

// Names returns the layers as the API shows them: "l2", "l3", "l4", "ipv6", "sctp".
func (l Layers) Names() []string {
	names := []string{}
	for i, name := range []string{"l2", "l3", "l4", "ipv6", "sctp"} {
		if l&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// MaxBuckets is the largest number of buckets of a group that is ever asked for.
const MaxBuckets = 256

// maxKinds bounds the kinds of switches that are remembered; further ones are probed
// at each connection.
const maxKinds = 1024

// pipelineTables is how many tables the unfolded pipeline needs.
const pipelineTables = 4

// Capabilities is what a switch was found to be able to do: what it declares,
// corrected by what it did with probes. It is a comparable value: the compile step
// of an app holds a copy.
type Capabilities struct {
	Tables       uint8 // that entries can go to; 1 where the pipeline does not fit
	Nicira       bool  // Open vSwitch's move and load actions
	Bundles      bool  // ONF extension 230, atomic and ordered
	Select       bool  // select groups
	FastFailover bool
	AllGroups    bool // groups that flood
	Chaining     bool // groups in buckets
	WatchPort    bool // buckets of select groups follow the state of a port
	WatchGroup   bool // and of a group
	MaxGroups    uint32
	MaxBuckets   uint16 // of a select group, at most MaxBuckets; 0: there are none
	Meters       uint32 // how many; 0: none
	// MeteredCopies says that what goes to the controller can be metered apart from
	// the packet.
	MeteredCopies bool

	Normal          bool // the switch's own forwarding can be handed a packet
	NormalInBuckets bool
	BucketSet       Layers // what buckets can write
	FlowSet         Layers // what flow entries can write
	AddressMasks    bool   // any bits of an IPv4 address can be matched
	IPv6Masks       bool   // and of an IPv6 address
	PortMasks       bool   // and of a TCP port, beyond the specification
	// NDAnswers says that entries can turn a neighbour solicitation into the
	// advertisement.
	NDAnswers bool
	// Hashing says that entries can hash the source into a register, which entries of
	// later tables match.
	Hashing bool
	// Resubmits says that actions can look a packet up in a later table, which matches a
	// register and sends to the port in it.
	Resubmits bool
	TCPFlags  bool // flags of TCP can be matched
	// ConnTrack says that the switch tracks connections and translates their addresses,
	// in buckets too, and has the tables for it.
	ConnTrack bool

	// Holds says that the switch held the flow entries it accepted. One that
	// accepts and ignores does not.
	Holds bool
	// Ignored says that the switch accepted something that it then did not hold.
	Ignored bool
	// Probed says that all this was tried, and not only declared.
	Probed bool
}

// GroupMeters says whether a switch has the meters that GroupMeter numbers.
func (c Capabilities) GroupMeters() bool { return c.Meters > meterNumbers }

// OneTable says whether the pipeline has to be folded into one table.
func (c Capabilities) OneTable() bool { return c.Tables < pipelineTables }

// capabilitiesOf reads what the replies of the handshake say of a switch; groups
// and meters are zero where the switch has none. What has no place in OpenFlow's
// replies counts as there until a probe says otherwise.
func capabilitiesOf(features *ofproto.FeaturesReply, desc ofproto.Desc, groups ofproto.GroupFeatures, meters ofproto.MeterFeatures, bundles bool) Capabilities {
	has := func(t ofproto.GroupType) bool { return groups.Types&(1<<t) != 0 }
	ovs := strings.Contains(desc.Hardware, "Open vSwitch")
	return Capabilities{
		Tables:       features.Tables,
		Nicira:       ovs,
		Bundles:      bundles,
		Select:       has(ofproto.GroupTypeSelect),
		FastFailover: has(ofproto.GroupTypeFastFailover),
		AllGroups:    has(ofproto.GroupTypeAll),
		Chaining:     groups.Capabilities&ofproto.GroupCapChaining != 0,
		WatchPort:    true,
		WatchGroup:   groups.Capabilities&ofproto.GroupCapChaining != 0,
		MaxGroups:    groups.MaxGroups[ofproto.GroupTypeSelect],
		MaxBuckets:   MaxBuckets,
		Meters:       meters.MaxMeter,

		MeteredCopies: ovs && meters.MaxMeter > 0,

		Normal: true, NormalInBuckets: true,
		BucketSet: allLayers, FlowSet: allLayers,
		AddressMasks: true, IPv6Masks: true, PortMasks: ovs, NDAnswers: ovs,
		Hashing: ovs && features.Tables > uint8(TableOut), Resubmits: ovs && features.Tables > uint8(TableOut), TCPFlags: ovs, ConnTrack: ovs && features.Tables > uint8(TableOut),
		Holds: true,
	}
}

// kinds remembers what was probed, by the description of the switch and what it
// declares. It is safe for concurrent use.
type kinds struct {
	mu    sync.Mutex
	known map[string]Capabilities
}

// kindOf is the key under which the capabilities of a switch are remembered.
func kindOf(d ofproto.Desc, declared Capabilities) string {
	return fmt.Sprintf("%q %q %q %+v", d.Manufacturer, d.Hardware, d.Software, declared)
}

func (k *kinds) get(key string) (c Capabilities, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, ok = k.known[key]
	return c, ok
}

// set reports whether there was room: descriptions are what switches say, and one
// could say another each time it connects.
func (k *kinds) set(key string, c Capabilities) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.known[key]; !ok && len(k.known) >= maxKinds {
		return false
	}
	k.known[key] = c
	return true
}

// learnCapabilities replaces what the switch declared by what is known of its kind,
// which is probed when it is the first one. A switch that this controller may not
// write to (gate.go), or that has no port to probe with, counts as what it declares.
func (s *session) learnCapabilities(ctx context.Context, installed *flowtable.Installed) error {
	key := kindOf(s.desc, s.caps)
	if known, ok := s.c.kinds.get(key); ok {
		s.caps = known
		return nil
	}
	port, ok := probePort(s.ports)
	if !ok || s.role == ofproto.RoleSlave || s.laterTerm != 0 || s.marked(installed) {
		return nil
	}
	p := prober{session: s, caps: s.caps}
	err := p.run(ctx, port)
	if err == nil && len(p.refused)+len(p.ignored) > 0 {
		// What is found counts for all switches of the kind. A message may have been
		// damaged, or an entry deleted by somebody else; what a switch cannot do it
		// cannot do twice.
		p = prober{session: s, caps: s.caps}
		err = p.run(ctx, port)
	}
	if err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	s.caps = p.caps
	s.log().Info("switch probed", "hardware", s.desc.Hardware, "software", s.desc.Software, "refused", strings.Join(p.refused, ","), "ignored", strings.Join(p.ignored, ","))
	if !p.caps.Probed || !s.c.kinds.set(key, p.caps) {
		return nil
	}
	s.c.saver.put([]save{{"capabilities/" + key, func(ctx context.Context) error { return s.c.Store.SetCapabilities(ctx, key, p.caps) }}})
	return nil
}

// probePort is the port that probes name: the first of the physical ones, or the
// bridge's own.
func probePort(ports []ofproto.PortDesc) (ofproto.Port, bool) {
	var all []ofproto.Port
	for _, p := range ports {
		if p.Port < ofproto.PortMax || p.Port == ofproto.PortLocal {
			all = append(all, p.Port)
		}
	}
	if len(all) == 0 {
		return 0, false
	}
	return slices.Min(all), true
}

// probe is one thing tried: a message that adds a group or a flow entry of our own,
// which no packet meets.
type probe struct {
	name  string
	group *ofproto.GroupMod
	flow  *ofproto.FlowMod
	// later: it refers to a group of another probe, which a barrier has to separate
	// from it.
	later bool
	// lacks says what is not there when the probe is refused.
	lacks func(*Capabilities)
}

// probeGroupFirst is the first of the group ids of probes, which are the highest
// thirty-one below the one that forwarding floods with.
const probeGroupFirst uint32 = 0xffffe0

// probeMember is the group of probes that others refer to.
var probeMember = flowtable.GroupIDOf(probeGroupFirst)

// bucketSizes are the numbers of buckets that are tried, the first one at first.
var bucketSizes = []uint16{MaxBuckets, 128, 64, 32, 16}

// probesOf returns all that is tried on a switch that declares these capabilities.
// Flow entries match addresses that are set aside for documentation (RFC 5737,
// RFC 3849) at the lowest priority; none but those of table 0 are ever reached.
func probesOf(port ofproto.Port, declared Capabilities) []probe {
	var list []probe
	id := probeGroupFirst
	output := ofproto.OutputPort(port)
	group := func(name string, later bool, typ ofproto.GroupType, lacks func(*Capabilities), buckets ...ofproto.Bucket) {
		list = append(list, probe{name: name, later: later, lacks: lacks, group: &ofproto.GroupMod{
			Command: ofproto.GroupAdd, Type: typ, Group: flowtable.GroupIDOf(id), Buckets: buckets,
		}})
		id++
	}
	bucket := func(weight uint16, actions ...ofproto.Action) ofproto.Bucket {
		return ofproto.Bucket{Weight: weight, WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: actions}
	}
	watching := bucket(0, output)
	watching.WatchPort = port
	group("fast failover groups", false, ofproto.GroupTypeFastFailover, func(c *Capabilities) {
		c.FastFailover, c.WatchGroup = false, false
	}, watching)
	group("flooding groups", false, ofproto.GroupTypeAll, func(c *Capabilities) { c.AllGroups = false }, bucket(0, output), bucket(0, ofproto.OutputPort(ofproto.PortInPort)))
	group("select groups", false, ofproto.GroupTypeSelect, func(c *Capabilities) { c.Select = false }, bucket(1, output), bucket(1, output))
	watching.Weight = 1
	group("watch_port", false, ofproto.GroupTypeSelect, func(c *Capabilities) { c.WatchPort = false }, watching, watching)
	rewrites := []struct {
		layer Layers
		field ofproto.Field
		back  ofproto.Field
	}{
		{LayerL2, ofproto.EthDst(ProbeMAC), ofproto.EthSrc(ProbeMAC)},
		{LayerL3, ofproto.IPv4Dst(probeAddress(0)), ofproto.IPv4Src(probeAddress(0))},
		{LayerL4, ofproto.TCPDst(1), ofproto.TCPSrc(1)},
		{LayerIPv6, ofproto.IPv6Dst(probeAddress6), ofproto.IPv6Src(probeAddress6)},
		{LayerSCTP, ofproto.SCTPDst(1), ofproto.SCTPSrc(1)},
	}
	for _, r := range rewrites {
		group("buckets that write "+r.layer.Names()[0], false, ofproto.GroupTypeSelect, func(c *Capabilities) { c.BucketSet &^= r.layer },
			bucket(1, ofproto.SetField{Field: r.field}, output))
	}
	group("buckets to NORMAL", false, ofproto.GroupTypeSelect, func(c *Capabilities) { c.NormalInBuckets = false }, bucket(1, ofproto.OutputPort(ofproto.PortNormal)))
	for i, n := range bucketSizes {
		// Refused, the next smaller is what is left.
		left := uint16(2)
		if i+1 < len(bucketSizes) {
			left = bucketSizes[i+1]
		}
		group(fmt.Sprintf("%d buckets", n), i > 0, ofproto.GroupTypeSelect, func(c *Capabilities) { c.MaxBuckets = min(c.MaxBuckets, left) },
			slices.Repeat([]ofproto.Bucket{bucket(1, output)}, int(n))...)
	}
	chained := bucket(1, ofproto.Group{ID: probeMember})
	group("chaining", true, ofproto.GroupTypeSelect, func(c *Capabilities) { c.Chaining = false }, chained)
	if declared.ConnTrack {
		tracked := bucket(1, ofproto.CT{Flags: ofproto.CTCommit, Zone: zoneDestination, Table: TableMember, Actions: []ofproto.Action{
			ofproto.NAT{Flags: ofproto.NATDst, IPMin: probeAddress(0).Addr(), PortMin: 1},
		}})
		tracked.WatchGroup = probeMember
		group("connections in buckets", true, ofproto.GroupTypeSelect, func(c *Capabilities) { c.ConnTrack = false }, tracked)
	}
	chained.WatchGroup = probeMember
	group("watch_group", true, ofproto.GroupTypeSelect, func(c *Capabilities) { c.WatchGroup = false }, chained)

	entry := func(name string, table ofproto.Table, lacks func(*Capabilities), ins []ofproto.Instruction, match ...ofproto.Field) {
		list = append(list, probe{name: name, lacks: lacks, flow: &ofproto.FlowMod{
			Cookie: flowtable.ProbeCookie, Table: table, Command: ofproto.FlowAdd,
			BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
			Match: ofproto.NewMatch(match...), Instructions: ins,
		}})
	}
	n := byte(0)
	flow := func(name string, table ofproto.Table, lacks func(*Capabilities), ins []ofproto.Instruction, more ...ofproto.Field) {
		n++
		match := []ofproto.Field{
			ofproto.EthType(ofproto.EthTypeIPv4), ofproto.IPProto(ofproto.ProtoTCP), ofproto.IPv4Dst(probeAddress(n)), ofproto.TCPDst(1),
		}
		entry(name, table, lacks, ins, append(match, more...)...)
	}
	ipv6 := []ofproto.Field{ofproto.EthType(ofproto.EthTypeIPv6), ofproto.IPv6Dst(probeAddress6)}
	sctp := []ofproto.Field{
		ofproto.EthType(ofproto.EthTypeIPv4), ofproto.IPProto(ofproto.ProtoSCTP), ofproto.IPv4Dst(probeAddress(0)), ofproto.SCTPDst(1),
	}
	apply := func(actions ...ofproto.Action) []ofproto.Instruction {
		return []ofproto.Instruction{ofproto.ApplyActions{Actions: actions}}
	}
	flow("flow entries", 0, func(c *Capabilities) { c.Holds = false }, apply(output))
	if !declared.OneTable() {
		oneTable := func(c *Capabilities) { c.Tables = 1 }
		for t := ofproto.Table(0); t < pipelineTables-1; t++ {
			flow(fmt.Sprintf("table %d to %d", t, t+1), t, oneTable, []ofproto.Instruction{ofproto.GotoTable{Table: t + 1}})
		}
		flow(fmt.Sprintf("table %d", pipelineTables-1), pipelineTables-1, oneTable, apply(output))
	}
	flow("NORMAL", 0, func(c *Capabilities) { c.Normal, c.NormalInBuckets = false, false }, apply(ofproto.OutputPort(ofproto.PortNormal)))
	for _, r := range rewrites {
		name, lacks := "entries that write "+r.layer.Names()[0], func(c *Capabilities) { c.FlowSet &^= r.layer }
		ins := apply(ofproto.SetField{Field: r.field}, ofproto.SetField{Field: r.back}, output)
		switch r.layer {
		case LayerIPv6:
			entry(name, 0, lacks, ins, ipv6...)
		case LayerSCTP:
			entry(name, 0, lacks, ins, sctp...)
		default:
			flow(name, 0, lacks, ins)
		}
	}
	flow("masks on addresses", 0, func(c *Capabilities) { c.AddressMasks = false }, apply(output), ofproto.IPv4SrcMasked(1, 0xf))
	entry("masks on IPv6 addresses", 0, func(c *Capabilities) { c.IPv6Masks = false }, apply(output), append(ipv6[:2:2], ofproto.IPv6SrcMasked(1, 0xf))...)
	flow("masks on ports", 0, func(c *Capabilities) { c.PortMasks = false }, apply(output), ofproto.L4SrcMasked(ofproto.ProtoTCP, 2, 0x1e))
	if declared.MeteredCopies {
		flow("meters on copies", 0, func(c *Capabilities) { c.MeteredCopies = false }, apply(ofproto.Controller{Meter: meterFirst}))
	}
	if declared.NDAnswers {
		nd := func(icmpType uint8) []ofproto.Field {
			return []ofproto.Field{
				ofproto.EthType(ofproto.EthTypeIPv6), ofproto.IPProto(ofproto.ProtoICMPv6), ofproto.ICMPv6Type(icmpType),
				ofproto.IPv6NDTarget(probeAddress6.Addr()),
			}
		}
		lacks := func(c *Capabilities) { c.NDAnswers = false }
		entry("solicitations made advertisements", 0, lacks, apply(ofproto.SetField{Field: ofproto.NDOptionsType(2)},
			ofproto.SetField{Field: ofproto.NDReserved(0)}, ofproto.SetField{Field: ofproto.ICMPv6Type(136)}, output), nd(135)...)
		entry("target link addresses", 0, lacks, apply(ofproto.SetField{Field: ofproto.IPv6NDTLL(ProbeMAC)}, output), nd(136)...)
	}
	if declared.TCPFlags {
		flow("flags of TCP", 0, func(c *Capabilities) { c.TCPFlags = false }, apply(output), ofproto.ONFTCPFlags(2, 0x12))
	}
	if declared.Hashing {
		lacks := func(c *Capabilities) { c.Hashing = false }
		flow("hashing", TableVIP, lacks, []ofproto.Instruction{
			ofproto.ApplyActions{Actions: []ofproto.Action{
				ofproto.Load{Dst: ofproto.FieldNXMReg1, Bits: 32, Value: 1},
				ofproto.Multipath{Fields: ofproto.HashNWSrc, Links: 16, Dst: ofproto.FieldNXMReg0, Bits: 16},
			}},
			ofproto.GotoTable{Table: TableSlot},
		})
		entry("matching registers", TableSlot, lacks, apply(output), ofproto.NXMReg(RegSlot, 1, 0xffff), ofproto.NXMReg(RegListener, 1, ^uint32(0)))
	}
	if declared.ConnTrack {
		lacks := func(c *Capabilities) { c.ConnTrack = false }
		flow("tracking connections", TableVIP, lacks, apply(ofproto.CT{Zone: zoneDestination, Table: TableTracked, Actions: []ofproto.Action{ofproto.NAT{}}}))
		flow("matching their state", TableTracked, lacks, apply(ofproto.CT{Flags: ofproto.CTCommit, Zone: zoneSource, Table: TableMember, Actions: []ofproto.Action{
			ofproto.NAT{Flags: ofproto.NATSrc, IPMin: probeAddress(0).Addr(), PortMin: 1024, PortMax: 61439},
			ofproto.Move{Src: ofproto.FieldNXMEthSrc, Dst: ofproto.FieldNXMCTLabel, Bits: 48},
		}}), ofproto.NXMCTState(ofproto.CTTracked|ofproto.CTNew, ofproto.CTTracked|ofproto.CTNew))
	}
	if declared.Resubmits {
		lacks := func(c *Capabilities) { c.Resubmits, c.ConnTrack = false, false }
		flow("lookups in a later table", TableVIP, lacks, apply(
			ofproto.SetField{Field: ofproto.Field{Type: ofproto.FieldNXMReg0 + RegPort, Value: make([]byte, 4)}},
			ofproto.Resubmit{InPort: ofproto.PortInPort, Table: TableOut},
		))
		entry("sending to the port in a register", TableOut, lacks, apply(
			ofproto.Move{Src: ofproto.FieldNXMReg0 + RegMAC, Dst: ofproto.FieldNXMEthSrc, Bits: 24},
			ofproto.OutputReg{Src: ofproto.FieldNXMReg0 + RegPort, Bits: 16},
		), ofproto.InPort(port), ofproto.NXMReg(RegPort, uint32(port), 0xffff))
	}
	flow("Nicira's actions", 0, func(c *Capabilities) { c.Nicira = false }, apply(
		ofproto.Move{Src: ofproto.FieldEthSrc, Dst: ofproto.FieldEthDst, Bits: 48},
		ofproto.Load{Dst: ofproto.FieldNXMInPort, Bits: 16}, output))
	return list
}

// probeAddress6 is what probes of IPv6 name.
var probeAddress6 = netip.MustParsePrefix("2001:db8::46:4c/128")

func probeAddress(n byte) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, n}), 32)
}

// prober runs the probes of one switch.
type prober struct {
	*session
	caps             Capabilities
	held             []probe // accepted and not deleted again
	refused, ignored []string
	inconclusive     bool
}

// run tries everything, looks whether the switch holds what it accepted, and deletes
// it again: four barriers and two readings. After an error the session is of no more
// use; what is left in the switch is deleted as any other orphan of ours when it is
// next read back.
func (p *prober) run(ctx context.Context, port ofproto.Port) error {
	all := probesOf(port, p.caps)
	var first, later []probe
	for _, q := range all {
		if q.later {
			later = append(later, q)
		} else {
			first = append(first, q)
		}
	}
	if err := p.try(ctx, first); err != nil {
		return err
	}
	later = slices.DeleteFunc(later, func(q probe) bool {
		if strings.HasSuffix(q.name, " buckets") {
			return p.caps.MaxBuckets == MaxBuckets || !p.caps.Select
		}
		if p.caps.FastFailover && p.caps.Select {
			return false
		}
		q.lacks(&p.caps)
		return true
	})
	if err := p.try(ctx, later); err != nil {
		return err
	}
	if err := p.verify(ctx); err != nil {
		return err
	}
	if err := p.clean(ctx); err != nil {
		return err
	}
	p.caps.Probed = !p.inconclusive
	if !p.caps.Select {
		p.caps.MaxBuckets = 0
	}
	return nil
}

// try sends probes and takes note of those that are refused. A switch that has no
// room says nothing of what it can do.
func (p *prober) try(ctx context.Context, list []probe) error {
	if len(list) == 0 {
		return nil
	}
	mods := make([]flowtable.Mod, len(list))
	for i, q := range list {
		if q.group != nil {
			mods[i].Message = q.group
		} else {
			mods[i].Message = q.flow
		}
	}
	errs, err := p.send(ctx, mods)
	if err != nil {
		return err
	}
	for i, q := range list {
		e := errs[i]
		switch {
		case e == nil, e.Type == ofproto.ErrorGroupModFailed && e.Code == ofproto.CodeGroupExists: // left by a session that broke off
			p.held = append(p.held, q)
		case e.Type == ofproto.ErrorGroupModFailed && e.Code == ofproto.CodeOutOfGroups,
			e.Type == ofproto.ErrorFlowModFailed && e.Code == ofproto.CodeTableFull,
			e.Type == ofproto.ErrorBadRequest && e.Code == ofproto.CodeIsSlave:
			p.inconclusive = true
		default:
			q.lacks(&p.caps)
			p.refused = append(p.refused, q.name)
		}
	}
	return nil
}

// verify reads back what the switch has accepted.
func (p *prober) verify(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, requestTimeout, errNoAnswer)
	defer cancel()
	// What is not of a probe is not kept, however much of it there is.
	groups := map[ofproto.GroupID]int{} // buckets; -1: not there
	flows := map[flowtable.FlowKey]bool{}
	for _, q := range p.held {
		if q.group != nil {
			groups[q.group.Group] = -1
		} else {
			flows[probeKey(q.flow.Table, q.flow.Match)] = false
		}
	}
	err := p.conn.Multipart(ctx, &ofproto.MultipartRequest{Type: ofproto.MultipartGroupDesc}, func(b []byte) error {
		return each(ofproto.GroupDescOf(b), func(g ofproto.GroupDesc) {
			if _, ours := groups[g.Group]; ours {
				groups[g.Group] = len(g.Buckets)
			}
		})
	})
	groupsRead := err == nil
	if err != nil && !refused(err) {
		return fmt.Errorf("groups: %w", err)
	}
	request := &ofproto.MultipartRequest{Type: ofproto.MultipartFlow, Body: &ofproto.FlowStatsRequest{
		Table: ofproto.TableAll, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny, Cookie: flowtable.ProbeCookie, CookieMask: ^uint64(0),
	}}
	err = p.conn.Multipart(ctx, request, func(b []byte) error {
		return each(ofproto.FlowStatsOf(b), func(f ofproto.FlowStats) {
			key := probeKey(f.Table, f.Match)
			if _, ours := flows[key]; ours && f.Cookie == flowtable.ProbeCookie {
				flows[key] = true
			}
		})
	})
	flowsRead := err == nil
	if err != nil && !refused(err) {
		return fmt.Errorf("flows: %w", err)
	}
	for _, q := range p.held {
		there := true
		if q.group != nil {
			there = !groupsRead || groups[q.group.Group] == len(q.group.Buckets)
		} else {
			there = !flowsRead || flows[probeKey(q.flow.Table, q.flow.Match)]
		}
		if !there {
			q.lacks(&p.caps)
			p.caps.Ignored = true
			p.ignored = append(p.ignored, q.name)
		}
	}
	return nil
}

func probeKey(table ofproto.Table, match ofproto.Match) flowtable.FlowKey {
	return flowtable.FlowKey{Table: table, Match: string(match.Canonical())}
}

// clean deletes what was accepted: entries one by one, because not every switch
// minds the cookie of a deletion, and groups after those that refer to them.
func (p *prober) clean(ctx context.Context) error {
	var first, then []flowtable.Mod
	for _, q := range p.held {
		switch {
		case q.flow != nil:
			m := *q.flow
			m.Command, m.CookieMask, m.Instructions = ofproto.FlowDeleteStrict, ^uint64(0), nil
			first = append(first, flowtable.Mod{Message: &m})
		case q.group.Group == probeMember:
			then = append(then, flowtable.Mod{Message: &ofproto.GroupMod{Command: ofproto.GroupDelete, Group: q.group.Group}})
		default:
			first = append(first, flowtable.Mod{Message: &ofproto.GroupMod{Command: ofproto.GroupDelete, Group: q.group.Group}})
		}
	}
	for _, mods := range [][]flowtable.Mod{first, then} {
		if len(mods) == 0 {
			continue
		}
		if _, err := p.send(ctx, mods); err != nil {
			return err
		}
	}
	return nil
}

// load fills the memory of kinds from the store.
func (k *kinds) load(ctx context.Context, s Store) error {
	known, err := s.Capabilities(ctx)
	if err != nil {
		return fmt.Errorf("controller: read capabilities: %w", err)
	}
	k.known = map[string]Capabilities{}
	maps.Copy(k.known, known)
	return nil
}
