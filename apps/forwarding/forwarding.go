// Package forwarding moves packets between hosts as the stage of each switch says:
// observe and steer leave it to the switch's own forwarding; managed forwards to
// known hosts on shortest paths, and floods the rest along one loop-free tree.
package forwarding

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

const (
	partBase = "base"
	partHost = "host/" // followed by the host's key
)

// floodGroup is the group that floods. It is outside what the store allocates,
// which counts up from 1.
var floodGroup = flowtable.GroupIDOf(0xffffff)

// App is the forwarding app. Make one with New.
type App struct {
	hosts   map[string]topology.Host // by part name
	spreads map[string]*spread       // by part name, of new hosts
	floods  map[topology.Place]*flood

	trunks   map[ofproto.DPID]*trunks // of managed switches
	withheld map[ofproto.DPID]bool    // those that get trunks when closing is over
	closing  bool                     // a switch has trunks open that the tree does not have
	closeBy  time.Time                // when that is not waited for any more
	reviewed uint64                   // version of the fabric that closing was found for; 0: none
}

// New returns the app. Hosts that the graph knows already, from before a restart,
// count as known.
func New(g *topology.Graph) *App {
	a := &App{
		hosts: map[string]topology.Host{}, spreads: map[string]*spread{}, floods: map[topology.Place]*flood{},
		trunks: map[ofproto.DPID]*trunks{}, withheld: map[ofproto.DPID]bool{},
	}
	for _, h := range g.Snapshot().Hosts() {
		a.hosts[hostPart(h)] = h
	}
	return a
}

func hostPart(h topology.Host) string { return partHost + h.Key().String() }

// ID implements controller.App.
func (a *App) ID() flowtable.AppID { return controller.AppForwarding }

// Parts implements controller.App: the base, and a part a host where managed.
func (a *App) Parts(_ *controller.Context, sw *controller.Switch) []string {
	parts := []string{partBase}
	for name := range a.hosts {
		parts = append(parts, name)
	}
	return parts
}

// Handle implements controller.App.
func (a *App) Handle(c *controller.Context, event any) {
	switch e := event.(type) {
	case topology.PortChanged:
		c.Dirty(ofproto.DPID(e.Place.DPID), partBase)
	case topology.PortSettled:
		c.Dirty(ofproto.DPID(e.Place.DPID), partBase)
	case topology.PortBlocked:
		c.Dirty(ofproto.DPID(e.Place.DPID), partBase)
	case topology.SegmentChanged:
		c.DirtyAll(partBase)
	case topology.LinkChanged:
		c.Dirty(ofproto.DPID(e.Link.A.DPID), partBase)
		c.Dirty(ofproto.DPID(e.Link.B.DPID), partBase)
	case controller.Rerouted:
		a.rerouted(c)
		c.DirtyAll(partBase)
		for name := range a.hosts {
			a.dirtyHost(c, name)
		}
	case controller.PacketIn:
		a.unknown(c, e)
	case controller.Woken:
		a.learnAgain(c)
		a.open(c)
	case controller.SwitchDown:
		a.reviewed = 0
		for at := range a.floods {
			if at.DPID == topology.DPID(e.DPID) {
				delete(a.floods, at)
			}
		}
	case controller.Applied:
		if e.Part == partBase {
			a.assigned(c, e)
		} else {
			a.acknowledged(c, e)
		}
	case controller.StageChanged:
		a.restaged(c, e.DPID)
		a.staged(c, c.Switch(e.DPID))
	case topology.HostAdded:
		a.added(c, e.Host)
	case topology.HostMoved:
		delete(a.spreads, hostPart(e.Host))
		a.setHost(c, e.Host)
	case topology.HostChanged:
		if known, ok := a.hosts[hostPart(e.Host)]; ok && known.Pinned != e.Host.Pinned {
			a.setHost(c, e.Host)
		}
	case topology.HostGone:
		delete(a.hosts, hostPart(e.Host))
		delete(a.spreads, hostPart(e.Host))
		a.dirtyHost(c, hostPart(e.Host))
	}
}

func (a *App) setHost(c *controller.Context, h topology.Host) {
	a.hosts[hostPart(h)] = h
	a.dirtyHost(c, hostPart(h))
}

func (a *App) dirtyHost(c *controller.Context, name string) {
	for sw := range c.Switches() {
		if sw.Stage == controller.StageManaged {
			c.Dirty(sw.DPID, name)
		}
	}
}

// errNoNormal is why a switch that has no forwarding of its own is left alone in the
// stages that build on it.
var errNoNormal = errors.New("stages observe and steer need NORMAL, which the switch does not have: move it to managed")

// Compile implements controller.App.
func (a *App) Compile(c *controller.Context, sw *controller.Switch, part string) controller.Source {
	if strings.HasPrefix(part, partHost) {
		h, ok := a.hosts[part]
		if !ok || sw.Stage != controller.StageManaged {
			return controller.Source{Class: flowtable.ClassHost}
		}
		snap := c.Graph.Snapshot()
		dpid := topology.DPID(sw.DPID)
		oneTable := sw.Capabilities.OneTable()
		class := flowtable.ClassHost
		if h.Pinned {
			class = flowtable.ClassService // traffic that is vital goes there
		}
		tag, nextHop := uint64(tagPath), snap.NextHop
		if a.goesByTree(snap, sw.DPID, h) {
			tag, nextHop = tagTree, snap.NextHopInTree
		}
		return controller.Source{
			Tag: tag, Class: class, Patient: a.spreads[part] != nil,
			Build: func() flowtable.Part { return compileHost(snap, dpid, h, nextHop, oneTable) },
		}
	}
	switch {
	case sw.Stage != controller.StageManaged && !sw.Capabilities.Normal:
		return controller.Source{Refused: errNoNormal}
	case sw.Stage == controller.StageObserve:
		return controller.Source{Build: compileObserve}
	case sw.Stage == controller.StageSteer:
		return controller.Source{Build: compileSteer}
	}
	snap := c.Graph.Snapshot()
	dpid := topology.DPID(sw.DPID)
	caps := sw.Capabilities
	unlearned := a.unlearned(sw.DPID)
	var withheld map[topology.Port]bool
	var tag uint64
	if c.Switch(sw.DPID) == sw { // else it is only asked what would be
		withheld, tag = a.assign(c, snap, sw.DPID)
	}
	return controller.Source{Tag: tag, Build: func() flowtable.Part { return compileManaged(snap, dpid, caps, unlearned, withheld) }}
}

func flow(table ofproto.Table, priority uint16, ins []ofproto.Instruction, match ...ofproto.Field) flowtable.Flow {
	return flowtable.Flow{Table: table, Priority: priority, Match: ofproto.NewMatch(match...), Instructions: ins}
}

func gotoTable(t ofproto.Table) []ofproto.Instruction {
	return []ofproto.Instruction{ofproto.GotoTable{Table: t}}
}

func apply(actions ...ofproto.Action) []ofproto.Instruction {
	return []ofproto.Instruction{ofproto.ApplyActions{Actions: actions}}
}

func compileObserve() flowtable.Part {
	return flowtable.Part{Flows: []flowtable.Flow{
		flow(controller.TableIngress, controller.PrioMiss, apply(ofproto.OutputPort(ofproto.PortNormal))),
	}}
}

func compileSteer() flowtable.Part {
	return flowtable.Part{Flows: []flowtable.Flow{
		flow(controller.TableIngress, controller.PrioMiss, gotoTable(controller.TableVIP)),
		flow(controller.TableVIP, controller.PrioMiss, gotoTable(controller.TableDestination)),
		flow(controller.TableDestination, controller.PrioMiss, apply(ofproto.OutputPort(ofproto.PortNormal))),
	}}
}

// compileManaged is the part of a managed switch that does not depend on hosts.
// Floods leave by the ports of the broadcast tree and by the edge ports, and are
// taken from no other ports. A switch with one table does not learn from packets,
// for every pair of hosts would be an entry there; ARP and neighbour discovery tell
// of hosts too. Ports of the tree that are withheld pass no floods yet.
func compileManaged(snap *topology.Snapshot, dpid topology.DPID, caps controller.Capabilities, unlearned, withheld map[topology.Port]bool) flowtable.Part {
	learn := append(apply(ofproto.ToController()), ofproto.GotoTable{Table: controller.TableVIP})
	p := flowtable.Part{Flows: []flowtable.Flow{
		flow(controller.TableVIP, controller.PrioMiss, gotoTable(controller.TableDestination)),
	}}
	if caps.OneTable() {
		p.Flows = append(p.Flows, flow(controller.TableIngress, controller.PrioMiss, gotoTable(controller.TableVIP)))
	} else {
		p.Flows = append(p.Flows,
			flow(controller.TableIngress, controller.PrioMiss, gotoTable(controller.TableSource)),
			flow(controller.TableSource, controller.PrioMiss, learn))
	}
	tree := snap.Tree()
	out := slices.Concat(tree.Ports(dpid), snap.EdgePorts(dpid))
	out = slices.DeleteFunc(out, func(p topology.Port) bool { return withheld[p] })
	slices.Sort(out)
	sw, _ := snap.Switch(dpid)
	for _, port := range sw.Ports {
		at := topology.Place{DPID: dpid, Port: port.Port}
		in := ofproto.InPort(ofproto.Port(port.Port))
		if !port.Up {
			continue
		}
		if snap.IsBlocked(at) {
			p.Flows = append(p.Flows, flow(controller.TableIngress, controller.PrioBlocked, nil, in))
			continue
		}
		if snap.IsOnSegment(at) && !caps.OneTable() {
			p.Flows = append(p.Flows, flow(controller.TableSource, controller.PrioSourceOwn, gotoTable(controller.TableVIP), in, ownMACs))
		}
		if (snap.IsLink(at) || unlearned[port.Port]) && !caps.OneTable() {
			p.Flows = append(p.Flows, flow(controller.TableSource, controller.PrioSourceLink, gotoTable(controller.TableVIP), in))
		}
		if !slices.Contains(out, port.Port) {
			p.Flows = append(p.Flows, flow(controller.TableDestination, controller.PrioFloodBlock, nil, in))
		}
	}
	if len(out) == 0 {
		p.Flows = append(p.Flows, flow(controller.TableDestination, controller.PrioMiss, nil))
		return p
	}
	var all []ofproto.Action
	for _, port := range out {
		all = append(all, ofproto.OutputPort(ofproto.Port(port)))
	}
	if !caps.AllGroups {
		p.Flows = append(p.Flows, flow(controller.TableDestination, controller.PrioMiss, apply(all...)))
		return p
	}
	g := flowtable.Group{ID: floodGroup, Type: ofproto.GroupTypeAll}
	for _, output := range all {
		g.Buckets = append(g.Buckets, ofproto.Bucket{
			WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: []ofproto.Action{output},
		})
	}
	p.Groups = append(p.Groups, g)
	p.Flows = append(p.Flows, flow(controller.TableDestination, controller.PrioMiss, apply(ofproto.Group{ID: floodGroup})))
	return p
}

// isBeyond says whether a switch is at the far side of a port that was found to lead to
// another switch: what was seen at that port is on this side of it, and not where the path
// there leads.
func isBeyond(snap *topology.Snapshot, dpid topology.DPID, at topology.Place) bool {
	if !snap.IsLink(at) {
		return false
	}
	path := snap.Path(dpid, at.DPID)
	return len(path) > 0 && path[len(path)-1].In == at.Port
}

// ownMACs match frames of the controller's own range. On a segment they come from other
// domains.
var ownMACs = ofproto.EthSrcMasked(controller.OwnMACs, controller.OwnMACsMask)

// compileHost is what one switch does for one host: out of its port on the host's
// switch, out of the port on the path there elsewhere, nothing where there is
// no path (its packets are flooded along the tree). nextHop says which that path is.
func compileHost(snap *topology.Snapshot, dpid topology.DPID, h topology.Host, nextHop func(from, to topology.DPID) (topology.Port, bool), oneTable bool) flowtable.Part {
	p := flowtable.Part{Class: flowtable.ClassHost}
	mac := ofproto.MAC(h.MAC)
	port, ok := h.Place.Port, true
	// One MAC may be a host of several VLANs, each at a place of its own.
	tag := ofproto.VLANNone()
	if h.VLAN != 0 {
		tag = ofproto.VLANVID(h.VLAN)
	}
	if h.Place.DPID != dpid {
		port, ok = nextHop(dpid, h.Place.DPID)
		ok = ok && !isBeyond(snap, dpid, h.Place)
	} else if !oneTable {
		p.Flows = append(p.Flows, flow(controller.TableSource, controller.PrioSourceHost, gotoTable(controller.TableVIP),
			ofproto.InPort(ofproto.Port(port)), ofproto.EthSrc(mac), tag))
	}
	// A host at the end of a link is beyond it, and a switch that has no way to the host may
	// be between: then nobody knows yet where its frames enter.
	if h.Pinned && ok && !oneTable && !snap.IsLink(h.Place) {
		p.Flows = append(p.Flows, flow(controller.TableSource, controller.PrioSourceElsewhere, apply(ofproto.ToController()), ofproto.EthSrc(mac), tag))
		for _, edge := range snap.EdgePorts(dpid) {
			// What is sent on a segment comes to every domain around it.
			if at := (topology.Place{DPID: dpid, Port: edge}); at != h.Place && snap.IsOnSegment(at) {
				p.Flows = append(p.Flows, flow(controller.TableSource, controller.PrioSourceHost, gotoTable(controller.TableVIP),
					ofproto.InPort(ofproto.Port(edge)), ofproto.EthSrc(mac), tag))
			}
		}
	}
	if ok {
		p.Flows = append(p.Flows, flow(controller.TableDestination, controller.PrioHost, apply(ofproto.OutputPort(ofproto.Port(port))),
			ofproto.EthDst(mac), tag))
	}
	return p
}
