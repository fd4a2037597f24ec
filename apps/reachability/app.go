package reachability

import (
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// The parts of a switch.
const (
	partBase  = "base"      // catches answers; always there
	partFlood = "broadcast" // passes on the broadcast of a measurement, and copies it
)

// App has switches catch answers, and takes them in. Make one with New; Service measures
// by it. The core loop owns it.
type App struct {
	run      *run // the measurement under way; nil: none
	flooding bool // partFlood is desired
}

// New returns the app.
func New() *App { return &App{} }

// ID implements controller.App.
func (a *App) ID() flowtable.AppID { return controller.AppMeasure }

// Parts implements controller.App.
func (a *App) Parts(*controller.Context, *controller.Switch) []string {
	if a.flooding {
		return []string{partBase, partFlood}
	}
	return []string{partBase}
}

// Compile implements controller.App.
func (a *App) Compile(_ *controller.Context, sw *controller.Switch, part string) controller.Source {
	stage, caps := sw.Stage, sw.Capabilities
	switch {
	case part == partBase:
		return controller.Source{Build: func() flowtable.Part { return compileBase(stage, caps) }}
	case part == partFlood && a.flooding && (caps.Normal || stage == controller.StageManaged):
		return controller.Source{Build: func() flowtable.Part {
			copied := ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController()}}
			return flowtable.Part{Flows: []flowtable.Flow{
				ingress(controller.PrioFlooding, onward(stage, &copied), ofproto.EthDst(floodMAC)),
			}}
		}}
	}
	return controller.Source{}
}

func ingress(priority uint16, ins []ofproto.Instruction, match ...ofproto.Field) flowtable.Flow {
	return flowtable.Flow{Table: controller.TableIngress, Priority: priority, Match: ofproto.NewMatch(match...), Instructions: ins}
}

// onward has a packet forwarded as the stage forwards any other; before is done first.
// Stage managed goes by the table of sources: there are no hosts to be learned.
func onward(stage controller.Stage, before *ofproto.ApplyActions) (ins []ofproto.Instruction) {
	if stage != controller.StageObserve {
		if before != nil {
			ins = append(ins, *before)
		}
		return append(ins, ofproto.GotoTable{Table: controller.TableVIP})
	}
	normal := ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(ofproto.PortNormal)}}
	if before != nil {
		normal.Actions = append(before.Actions, normal.Actions...)
	}
	return []ofproto.Instruction{normal}
}

// compileBase takes out what is addressed to a lane: ARP and neighbour discovery at once,
// the rest when the balancer is through with it, so that the answer of a VIP is seen as a
// client would. Questions are kept out of the copies that hosts are learned from.
// Broadcasts of measurements are dropped, lest one goes round for ever that began when a
// loop was closed.
func compileBase(stage controller.Stage, caps controller.Capabilities) flowtable.Part {
	punt := []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController()}}}
	to, from := ofproto.EthDstMasked(laneAddress, laneMask), ofproto.EthSrcMasked(laneAddress, laneMask)
	arp := ofproto.EthType(packet.EtherTypeARP)
	nd := func(icmpType uint8, more ofproto.Field) []ofproto.Field {
		return []ofproto.Field{more, ofproto.EthType(packet.EtherTypeIPv6), ofproto.IPProto(packet.ProtoICMPv6), ofproto.ICMPv6Type(icmpType)}
	}
	p := flowtable.Part{Flows: []flowtable.Flow{ingress(controller.PrioMeasured, nil, ofproto.EthDst(floodMAC))}}
	if stage == controller.StageObserve {
		p.Flows = append(p.Flows, ingress(controller.PrioMeasured, punt, to))
	} else {
		p.Flows = append(p.Flows,
			ingress(controller.PrioMeasured, punt, arp, to),
			ingress(controller.PrioMeasured, punt, nd(packet.ICMPv6NeighborAdvertisement, to)...),
			flowtable.Flow{Table: controller.TableDestination, Priority: controller.PrioAnswer, Match: ofproto.NewMatch(to), Instructions: punt})
	}
	if caps.Normal || stage == controller.StageManaged {
		on := onward(stage, nil)
		p.Flows = append(p.Flows,
			ingress(controller.PrioMeasure, on, arp, from),
			ingress(controller.PrioMeasure, on, nd(packet.ICMPv6NeighborSolicitation, from)...))
	}
	return p
}

// flooding is the event that partFlood is to be there, or not.
type flooding struct{ on bool }

// Handle implements controller.App.
func (a *App) Handle(c *controller.Context, event any) {
	switch e := event.(type) {
	case controller.PacketIn:
		if a.run != nil {
			a.run.packetIn(c, e)
		}
	case controller.Applied:
		if a.run != nil && e.Part == partFlood {
			a.run.floods.applied[e.DPID] = true
		}
	case flooding:
		a.flooding = e.on
		c.DirtyAll(partFlood)
	}
}
