// Package discovery learns the network: links by authenticated LLDP probes, legacy
// segments by probes of the same kind that bridges pass on, hosts by ARP, neighbour discovery and the first packets they send. What it learns it
// records in the controller's topology.Graph, whose events tell the other apps.
package discovery

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

const (
	// probeEvery is the time between two probes out of one port. A link is
	// forgotten after three that went missing (topology.Options.LinkTTL).
	probeEvery = 5 * time.Second
	tick       = time.Second
	// saveEvery is the shortest time between two saves of the graph; saveSoon where
	// the place of a pinned host has changed: VIPs are without it after a restart until
	// it is found again.
	saveEvery = 2 * time.Second
	saveSoon  = 250 * time.Millisecond
	// trustFor is how long links from before a restart are believed unheard.
	trustFor = 30 * time.Second

	partBase = "base"
)

// App is the discovery app. Make one with New.
type App struct {
	key    []byte
	random io.Reader
	store  func(context.Context, []byte) error
	ports  map[topology.Place]*prober
	// halves are directions of links that wait for the other one, from where to where.
	halves map[[2]topology.Place]half
	// virtual says which addresses are no host's; nil: none.
	virtual func(netip.Addr) bool

	wakes    time.Time // when the app is to be woken next
	parted   map[pair]parting
	silences silences
	copies   copies
	answers  map[topology.DPID]*answers
	tries    time.Time                // when switches are tried next
	doubts   map[topology.DPID]*doubt // of switches that are not connected
	claims   map[claimKey]*claim
	gone     map[topology.HostKey]departure

	peers      map[topology.Place]topology.Place // the last other end of a link, by port
	pasts      map[topology.Place]*past
	suspicions map[topology.Place]suspicion // by the lower end of the link

	savedVersion uint64
	savedAt      time.Time
	urgent       bool // a pinned host has moved since
	answered     bool // a switch has answered by another way since
}

// prober is the sending end of the probes of one port.
type prober struct {
	nonce   [8]byte
	seq     [probeKinds]uint64
	next    time.Time // when the next probe is due
	born    time.Time // when the port came up
	since   time.Time // from when on others hear its probes, and it theirs
	sent    int       // probes of links since
	sentAt  [probeWindow]time.Time
	late    topology.Place // whence a probe came that had left before the port went down
	bridged bridgedProber
	whole   wholeProber
}

// New returns the app. key authenticates probes and is shared by all controllers
// of a network (32 bytes); random gives the nonces; store keeps the graph as
// Restore reads it.
func New(key []byte, random io.Reader, store func(context.Context, []byte) error) *App {
	return &App{
		key: key, random: random, store: store, ports: map[topology.Place]*prober{}, halves: map[[2]topology.Place]half{},
		parted: map[pair]parting{}, silences: silences{pairs: map[pair]*hearing{}}, copies: copies{frames: map[uint64]*copied{}},
		answers: map[topology.DPID]*answers{}, doubts: map[topology.DPID]*doubt{},
		claims: map[claimKey]*claim{}, gone: map[topology.HostKey]departure{},
		peers: map[topology.Place]topology.Place{}, pasts: map[topology.Place]*past{}, suspicions: map[topology.Place]suspicion{},
	}
}

// Except has addresses left out that are no host's, whatever hosts say: those of which
// virtual says so. It is called on the core loop.
func (a *App) Except(virtual func(netip.Addr) bool) { a.virtual = virtual }

// ID implements controller.App.
func (a *App) ID() flowtable.AppID { return controller.AppDiscovery }

// Parts implements controller.App: one part a switch, and one that it can do without.
func (a *App) Parts(*controller.Context, *controller.Switch) []string {
	return []string{partBase, partAlive}
}

// Compile implements controller.App.
func (a *App) Compile(_ *controller.Context, sw *controller.Switch, part string) controller.Source {
	if part == partAlive {
		if sw.Capabilities.FlowSet&controller.LayerL2 == 0 {
			return controller.Source{}
		}
		dpid := sw.DPID
		return controller.Source{Tag: 1, Build: func() flowtable.Part { return alivePart(dpid) }}
	}
	stage, caps, bpdus := sw.Stage, sw.Capabilities, sw.BPDUs
	return controller.Source{Build: func() flowtable.Part {
		p := basePart(stage, caps)
		p.Flows = append(p.Flows, bpduFlows(bpdus, stage, caps)...)
		return p
	}}
}

// basePart takes discovery frames out of the traffic, and copies what tells of
// hosts. Copies go on as the stage says; where they cannot, there are none.
func basePart(stage controller.Stage, caps controller.Capabilities) flowtable.Part {
	punt := ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController()}}
	copied := []ofproto.Instruction{punt, ofproto.GotoTable{Table: controller.TableSource}}
	switch {
	case caps.OneTable() && stage == controller.StageManaged: // no table for sources
		copied = []ofproto.Instruction{punt, ofproto.GotoTable{Table: controller.TableVIP}}
	case stage == controller.StageObserve:
		copied = []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController(), ofproto.OutputPort(ofproto.PortNormal)}}}
	case stage == controller.StageSteer:
		copied = []ofproto.Instruction{punt, ofproto.GotoTable{Table: controller.TableVIP}}
	}
	arp := ofproto.EthType(packet.EtherTypeARP)
	flow := func(priority uint16, ins []ofproto.Instruction, match ...ofproto.Field) flowtable.Flow {
		return flowtable.Flow{Table: controller.TableIngress, Priority: priority, Match: ofproto.NewMatch(match...), Instructions: ins}
	}
	nd := func(priority uint16, ins []ofproto.Instruction, icmpType uint8, more ...ofproto.Field) flowtable.Flow {
		return flow(priority, ins, append(more, ofproto.EthType(packet.EtherTypeIPv6), ofproto.IPProto(packet.ProtoICMPv6), ofproto.ICMPv6Type(icmpType))...)
	}
	toUs := ofproto.EthDst(controller.ProbeMAC)
	p := flowtable.Part{Flows: []flowtable.Flow{
		flow(controller.PrioDiscovery, []ofproto.Instruction{punt}, ofproto.EthType(packet.EtherTypeLLDP)),
		flow(controller.PrioProbe, []ofproto.Instruction{punt}, arp, toUs),
		nd(controller.PrioProbe, []ofproto.Instruction{punt}, packet.ICMPv6NeighborSolicitation, toUs),
		nd(controller.PrioProbe, []ofproto.Instruction{punt}, packet.ICMPv6NeighborAdvertisement, toUs),
	}}
	if caps.Normal || stage == controller.StageManaged {
		p.Flows = append(p.Flows, flow(controller.PrioARP, copied, arp),
			nd(controller.PrioARP, copied, packet.ICMPv6NeighborSolicitation), nd(controller.PrioARP, copied, packet.ICMPv6NeighborAdvertisement))
	}
	return p
}

// Handle implements controller.App.
func (a *App) Handle(c *controller.Context, event any) {
	switch e := event.(type) {
	case controller.Started:
		for _, sw := range c.Graph.Snapshot().Switches() { // from before
			a.lost(c, sw.DPID)
		}
	case controller.SwitchUp:
		a.back(topology.DPID(e.DPID))
		a.listening(topology.DPID(e.DPID), c.Now)
		a.stage(c, e.DPID)
		a.wakeUp(c)
	case controller.StageChanged:
		a.stage(c, e.DPID)
	case controller.StageLeaving:
		emit(c, c.Graph.SetManaged(topology.DPID(e.DPID), false, c.Now))
	case controller.BPDUsChanged:
		c.Dirty(e.DPID, partBase)
		if sw := c.Switch(e.DPID); sw != nil {
			a.guards(c, sw)
		}
	case controller.SwitchDown:
		a.lost(c, topology.DPID(e.DPID))
	case controller.Applied:
		if e.Part == partAlive {
			a.answersNow(c, topology.DPID(e.DPID), e.Tag != 0 && e.Err == nil)
			return
		}
		// Probes that come before the switch takes them out are lost on it.
		a.listening(topology.DPID(e.DPID), c.Now)
		if sw := c.Switch(e.DPID); sw != nil && e.Err == nil {
			for _, p := range sw.PortList() {
				a.probe(c, place(e.DPID, p.Port))
			}
		}
	case topology.PortChanged:
		if e.Gone || !e.Port.Up {
			a.wasDown(c, e.Place)
			delete(a.ports, e.Place)
			if e.Gone {
				a.forgetPorts(func(p topology.Place) bool { return p == e.Place })
			}
		} else {
			a.probe(c, e.Place)
			a.wakeUp(c)
			a.settleClaims(c)
		}
	case topology.SwitchGone:
		a.forgetAnswers(e.DPID)
		maps.DeleteFunc(a.ports, func(p topology.Place, _ *prober) bool { return p.DPID == e.DPID })
		a.forgetPorts(func(p topology.Place) bool { return p.DPID == e.DPID })
	case topology.LinkUp:
		a.findNarrow(c, e.Link.A, e.Link.B)
		a.examine(c, e.Link)
		a.trySoon(c)
	case topology.LinkDown:
		a.changed(e.Link)
	case topology.LinkChanged:
		a.changed(e.Link)
	case controller.Confirmed:
		a.confirmed(c, e.DPID)
	case topology.SegmentChanged:
		a.segmentChanged(c, e)
		if e.Joined {
			a.findNarrow(c, e.A, e.B)
			a.trySoon(c)
		}
	case topology.HostMoved:
		a.suspect(c, e.Host.VLAN, e.Host.Place, e.From)
		a.explain(c, e.Host)
	case topology.HostClaimed:
		a.claimed(c, e)
	case topology.HostGone:
		a.departed(c, e)
		if e.Reason == topology.ReasonPort {
			a.wasAt(e.Host, c.Now)
		}
	case topology.HostAdded:
		a.arrived(c, e.Host)
		a.explain(c, e.Host)
	case topology.HostFlaps:
		a.suspect(c, e.Host.VLAN, e.Host.Place, e.At)
	case controller.PacketIn:
		a.packetIn(c, e)
	case controller.Woken:
		a.askHalves(c)
		if late := c.Now.Sub(a.wakes); !a.wakes.IsZero() && late > segmentEvery {
			c.Graph.ProlongBridged(late)
		}
		emit(c, c.Graph.Expire(c.Now))
		a.wakeUp(c)
		a.probeWholes(c)
		for sw := range c.Switches() {
			for _, p := range sw.PortList() {
				at := place(sw.DPID, p.Port)
				if pr := a.ports[at]; pr == nil || !pr.next.After(c.Now) {
					a.probe(c, at)
				}
			}
		}
		a.probeBridges(c)
		a.askSilent(c)
		a.try(c)
		a.ask(c)
		a.settleClaims(c)
		a.save(c)
	}
	if pinned(event) && !a.urgent {
		a.urgent = true
		c.WakeAt(c.Now.Add(saveSoon))
	}
	if kind, data := describe(event); kind != "" {
		c.Notify(kind, data)
	}
}

// pinned says whether an event tells of the place of a host that is pinned.
func pinned(event any) bool {
	switch e := event.(type) {
	case topology.HostAdded:
		return e.Host.Pinned
	case topology.HostMoved:
		return e.Host.Pinned
	case topology.HostChanged:
		return e.Host.Pinned
	}
	return false
}

// wakeUp asks for the next call: for the graph's sake when something of it expires,
// in a tick at the latest.
func (a *App) wakeUp(c *controller.Context) {
	at := c.Now.Add(tick)
	if snap := c.Graph.Snapshot(); len(snap.Segments()) > 0 || len(snap.Mourned()) > 0 {
		at = c.Now.Add(segmentEvery)
	}
	if next := c.Graph.NextExpiry(); !next.IsZero() && next.Before(at) {
		at = next
	}
	a.wakes = at
	c.WakeAt(at)
}

func place(dpid ofproto.DPID, port ofproto.Port) topology.Place {
	return topology.Place{DPID: topology.DPID(dpid), Port: topology.Port(port)}
}

func emit(c *controller.Context, events []topology.Event) {
	for _, e := range events {
		c.Emit(e)
	}
}

// probe sends one probe out of a port that is up.
func (a *App) probe(c *controller.Context, at topology.Place) {
	state, ok := c.Graph.Snapshot().Port(at)
	sw := c.Switch(ofproto.DPID(at.DPID))
	if !ok || !state.Up || sw == nil || ofproto.Port(at.Port) >= ofproto.PortMax {
		return
	}
	p := a.ports[at]
	if p == nil {
		p = &prober{born: c.Now, since: c.Now, bridged: bridgedProber{next: c.Now.Add(bridgedAfter)}}
		c.WakeAt(p.bridged.next)
		if _, err := io.ReadFull(a.random, p.nonce[:]); err != nil {
			return // no randomness, no discovery: a guessable probe is worse than none
		}
		a.ports[at] = p
	}
	p.next = c.Now.Add(probeEvery)
	p.sent++
	p.sentAt[(p.seq[probeLink]+1)%probeWindow] = c.Now
	c.PacketOut(sw.DPID, ofproto.PortController, a.probeFrame(at, p, probeLink), ofproto.OutputPort(ofproto.Port(at.Port)))
}

// stage tells the graph whether a switch forwards by it.
func (a *App) stage(c *controller.Context, dpid ofproto.DPID) {
	if sw := c.Switch(dpid); sw != nil {
		emit(c, c.Graph.SetManaged(topology.DPID(dpid), sw.Stage == controller.StageManaged, c.Now))
		a.guards(c, sw)
	}
}

func (a *App) packetIn(c *controller.Context, e controller.PacketIn) {
	f, err := packet.Decode(e.Data)
	if err != nil {
		return
	}
	at := place(e.DPID, e.InPort)
	if isBPDU(ofproto.MAC(f.Ethernet().Dst)) {
		a.bpdu(c, at, f)
		return
	}
	if l, ok := f.LLDP(); ok {
		switch from, kind, seq, ok := a.verify(l); {
		case !ok:
		case kind == probeAlive:
			a.told(c, from, at, f.Ethernet())
		case kind == probeSegment && ofproto.Port(at.Port) == ofproto.PortController:
			a.hearCopy(from, seq)
		case kind == probeSegment:
			if f.Ethernet().Dst == bridgedMulticast {
				a.hearSmall(from, at)
			}
			a.hearBridged(c, from, at, f)
		case kind == probeWhole:
			a.hearWhole(c, from, at)
		default:
			a.hearSmall(from, at)
			a.noteLate(from, at, seq)
			a.heard(c, from, at)
		}
		return
	}
	if t := f.EtherType(); t == packet.EtherTypeLLDP || t == packet.EtherTypeBDDP {
		return
	}
	src := ofproto.MAC(f.Ethernet().Src)
	if packet.IsGroup(src) || src == (ofproto.MAC{}) || own(src) {
		return
	}
	if a.comesBack(c, e, f) {
		return
	}
	s := topology.Sighting{MAC: topology.MAC(src), Place: at}
	if tag, ok := f.VLAN(); ok {
		s.VLAN = tag.ID
	}
	if arp, ok := f.ARP(); ok {
		if arp.SHA != src || own(arp.SHA) {
			return // a proxy or a spoof: the sender is not at this place
		}
		s.IP = usable(arp.SPA)
	} else if nd, ok := f.ND(); ok {
		ip, link := ndSender(f, nd)
		if link != src {
			return // likewise
		}
		s.IP = usable(ip)
	}
	if s.IP.IsValid() && a.virtual != nil && a.virtual(s.IP) {
		s.IP = netip.Addr{}
	}
	if f.Ethernet().Dst == packet.MAC(controller.ProbeMAC) {
		a.testify(c, s)
	}
	emit(c, c.Graph.SeeHost(s, c.Now))
}

// halfFor is how long one direction of a link may be known alone before it counts, and
// halfEvery the time between two probes of the other: a switch that is being adopted
// loses some.
const (
	halfFor   = time.Second
	halfEvery = 100 * time.Millisecond
)

// heard records a probe that came over a cable. A port where hosts may be has been one
// for a while when the first probe of a switch comes: the switch is new to the
// controller, not the cable, and half a link would take the port, and the hosts behind
// it, out of use until the other half is heard. So the first half waits for the second,
// which is asked for at once.
func (a *App) heard(c *controller.Context, from, at topology.Place) {
	here, there := [2]topology.Place{from, at}, [2]topology.Place{at, from}
	snap := c.Graph.Snapshot()
	first, second := a.halves[there]
	if second {
		delete(a.halves, there)
		if !first.counted {
			emit(c, c.Graph.HearLink(at, from, c.Now))
		}
	} else if snap.IsEdge(at) && !snap.IsLink(from) && len(a.halves) < maxHalves {
		if _, waiting := a.halves[here]; !waiting {
			a.await(c, here, false)
		}
		return
	}
	events := c.Graph.HearLink(from, at, c.Now)
	emit(c, events)
	if len(events) > 0 && !second && len(a.halves) < maxHalves {
		a.await(c, here, true)
	}
}

// half is a direction of a link that was heard, while the other was not.
type half struct {
	until   time.Time
	counted bool // the graph knows of it
}

// maxHalves bounds the halves that wait.
const maxHalves = 4096

// await asks for the other half of a link at once, so that a new one is up in milliseconds,
// and again for a while: a switch that has only just connected may not have the entry yet
// that sends probes here.
func (a *App) await(c *controller.Context, heard [2]topology.Place, counted bool) {
	a.halves[heard] = half{c.Now.Add(halfFor), counted}
	a.probe(c, heard[1])
	c.WakeAt(c.Now.Add(halfEvery))
}

// askHalves asks for the other halves again, and has those count that have waited for
// long enough.
func (a *App) askHalves(c *controller.Context) {
	if len(a.halves) == 0 {
		return
	}
	snap := c.Graph.Snapshot()
	for heard, h := range a.halves {
		_, up := snap.Peer(heard[1])
		switch {
		case h.counted && up: // it was heard before
			delete(a.halves, heard)
		case h.until.After(c.Now):
			a.probe(c, heard[1])
			c.WakeAt(c.Now.Add(halfEvery))
		default:
			delete(a.halves, heard)
			if !h.counted {
				emit(c, c.Graph.HearLink(heard[0], heard[1], c.Now))
			}
		}
	}
}

// own says whether an address is of the range the controller takes its own from.
func own(m ofproto.MAC) bool {
	return [3]byte(m[:3]) == [3]byte(controller.OwnMACs[:3])
}

func usable(ip netip.Addr) netip.Addr {
	if ip.IsUnspecified() {
		return netip.Addr{}
	}
	return ip
}

// ndSender is the address that the sender of a message of neighbour discovery claims,
// the target of an advertisement and the source of others, and the Ethernet address it
// gives with it: that of the frame where there is none.
func ndSender(f packet.Frame, nd packet.ND) (netip.Addr, packet.MAC) {
	ip, _, _ := f.Addrs()
	option := packet.NDSourceLinkAddr
	if nd.Type == packet.ICMPv6NeighborAdvertisement {
		ip, option = nd.Target, packet.NDTargetLinkAddr
	}
	if link, ok := nd.LinkAddr(option); ok {
		return ip, link
	}
	return ip, f.Ethernet().Src
}

// describe returns what watchers are told of a topology event.
func describe(event any) (kind string, data any) {
	switch e := event.(type) {
	case topology.LinkUp:
		return "link", map[string]any{"event": "up", "a": e.Link.A, "b": e.Link.B}
	case topology.LinkDown:
		return "link", map[string]any{"event": "down", "a": e.Link.A, "b": e.Link.B, "reason": e.Reason}
	case topology.PortBlocked:
		return "port", map[string]any{"event": map[bool]string{true: "unblocked", false: "blocked"}[e.Reason == ""], "dpid": e.Place.DPID, "port": uint32(e.Place.Port), "reason": e.Reason}
	case topology.SegmentChanged:
		if e.A == e.B {
			return "", nil
		}
		return "segment", map[string]any{"event": map[bool]string{true: "joined", false: "left"}[e.Joined], "a": e.A, "b": e.B}
	case topology.HostAdded:
		return "host", map[string]any{"event": "added", "mac": e.Host.MAC, "ips": e.Host.IPs, "place": e.Host.Place}
	case topology.HostMoved:
		return "host", map[string]any{"event": "moved", "mac": e.Host.MAC, "ips": e.Host.IPs, "place": e.Host.Place, "from": e.From}
	case topology.HostFlaps:
		return "host", map[string]any{"event": "flapping", "mac": e.Host.MAC, "ips": e.Host.IPs, "place": e.Host.Place, "at": e.At}
	case topology.HostChanged:
		return "host", map[string]any{"event": "changed", "mac": e.Host.MAC, "ips": e.Host.IPs, "place": e.Host.Place}
	case topology.HostGone:
		return "host", map[string]any{"event": "gone", "mac": e.Host.MAC, "place": e.Host.Place, "reason": e.Reason}
	}
	return "", nil
}

// savedGraph is the graph as it is kept over a restart.
type savedGraph struct {
	Switches []savedSwitch   `json:"switches"`
	Links    [][2]savedPlace `json:"links"`
	Segments [][]savedPlace  `json:"segments,omitempty"`
	Hosts    []savedHost     `json:"hosts"`
	Blocks   []savedBlock    `json:"blocks,omitempty"`
}

type savedSwitch struct {
	DPID      uint64      `json:"dpid"`
	Ports     []savedPort `json:"ports"`
	Unmanaged bool        `json:"unmanaged,omitempty"`
	// Answers are the ports that the switch has sent probes back to.
	Answers []savedPlace `json:"answers,omitempty"`
}

type savedPort struct {
	Port uint32      `json:"port"`
	Name string      `json:"name"`
	MAC  ofproto.MAC `json:"mac"`
	Up   bool        `json:"up"`
}

type savedPlace struct {
	DPID uint64 `json:"dpid"`
	Port uint32 `json:"port"`
}

type savedHost struct {
	MAC   ofproto.MAC  `json:"mac"`
	VLAN  uint16       `json:"vlan,omitempty"`
	Place savedPlace   `json:"place"`
	IPs   []netip.Addr `json:"ips,omitempty"`
}

// savedBlock is a port that a guard keeps out of use.
type savedBlock struct {
	Place  savedPlace     `json:"place"`
	Guard  topology.Guard `json:"guard"`
	Reason string         `json:"reason"`
	Until  time.Time      `json:"until"`
}

func savePlace(p topology.Place) savedPlace { return savedPlace{uint64(p.DPID), uint32(p.Port)} }

func (p savedPlace) place() topology.Place {
	return topology.Place{DPID: topology.DPID(p.DPID), Port: topology.Port(p.Port)}
}

// save keeps the graph for a restart, when it has changed and not too often.
func (a *App) save(c *controller.Context) {
	version, every := c.Graph.Version(), saveEvery
	if a.urgent {
		every = saveSoon
	}
	if version == a.savedVersion && !a.answered || c.Now.Sub(a.savedAt) < every {
		return
	}
	a.savedVersion, a.savedAt, a.urgent, a.answered = version, c.Now, false, false
	snap := c.Graph.Snapshot()
	var g savedGraph
	for _, sw := range snap.Switches() {
		s := savedSwitch{DPID: uint64(sw.DPID), Unmanaged: !snap.Managed(sw.DPID)}
		for _, p := range sw.Ports {
			s.Ports = append(s.Ports, savedPort{uint32(p.Port), p.Name, ofproto.MAC(p.MAC), p.Up})
		}
		if k := a.answers[sw.DPID]; k != nil {
			for _, p := range slices.SortedFunc(maps.Keys(k.at), topology.Place.Compare) {
				s.Answers = append(s.Answers, savePlace(p))
			}
		}
		g.Switches = append(g.Switches, s)
	}
	for _, l := range snap.Links() {
		if l.State == topology.StateUp {
			g.Links = append(g.Links, [2]savedPlace{savePlace(l.A), savePlace(l.B)})
		}
	}
	for _, seg := range snap.Segments() {
		var ports []savedPlace
		for _, p := range seg.Ports {
			ports = append(ports, savePlace(p.Place))
		}
		g.Segments = append(g.Segments, ports)
	}
	for _, h := range snap.Hosts() {
		g.Hosts = append(g.Hosts, savedHost{ofproto.MAC(h.MAC), h.VLAN, savePlace(h.Place), h.IPs})
	}
	blocks := snap.Blocks()
	for _, p := range slices.SortedFunc(maps.Keys(blocks), topology.Place.Compare) {
		b := blocks[p]
		g.Blocks = append(g.Blocks, savedBlock{savePlace(p), b.Guard, b.Reason, b.Until})
	}
	b, err := json.Marshal(g)
	if err != nil {
		return // cannot happen: the types have no cycles and no channels
	}
	c.Save("topology", func(ctx context.Context) error { return a.store(ctx, b) })
}

// Restore brings a saved graph back, before the controller runs: a restart must
// not look like a network that has lost its links and hosts. Links are believed
// for a while without having been heard.
func (a *App) Restore(g *topology.Graph, saved []byte, now time.Time) error {
	if len(saved) == 0 {
		return nil
	}
	var s savedGraph
	if err := json.Unmarshal(saved, &s); err != nil {
		return fmt.Errorf("discovery: read saved topology: %w", err)
	}
	for _, sw := range s.Switches {
		ports := make([]topology.PortState, 0, len(sw.Ports))
		for _, p := range sw.Ports {
			ports = append(ports, topology.PortState{Port: topology.Port(p.Port), Name: p.Name, MAC: topology.MAC(p.MAC), Up: p.Up})
		}
		// Long ago, so that its ports are settled: they were before the restart.
		g.SetSwitch(topology.DPID(sw.DPID), ports, now.Add(-trustFor))
		g.SetManaged(topology.DPID(sw.DPID), !sw.Unmanaged, now.Add(-trustFor))
		k := &answers{at: map[topology.Place]bool{}}
		for _, p := range sw.Answers {
			k.at[p.place()] = true
		}
		a.answers[topology.DPID(sw.DPID)] = k
	}
	g.Expire(now)
	for _, b := range s.Blocks {
		g.SeedBlock(b.Place.place(), topology.Block{Guard: b.Guard, Reason: b.Reason, Until: b.Until}, now)
	}
	for _, ports := range s.Segments {
		places := make([]topology.Place, len(ports))
		for i, p := range ports {
			places[i] = p.place()
		}
		g.SeedSegment(places, now.Add(trustFor), now)
	}
	for _, l := range s.Links {
		g.SeedLink(l[0].place(), l[1].place(), now.Add(trustFor), now)
	}
	for _, h := range s.Hosts {
		sighting := topology.Sighting{MAC: topology.MAC(h.MAC), VLAN: h.VLAN, Place: h.Place.place()}
		g.SeedHost(sighting, now)
		for _, ip := range h.IPs {
			sighting.IP = ip
			g.SeedHost(sighting, now)
		}
	}
	return nil
}
