package discovery

import (
	"fmt"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// guardHold is how long a port stays blocked after the last reason to block it. A bridge
// sends a BPDU every 2 s.
const guardHold = 30 * time.Second

func isBPDU(dst ofproto.MAC) bool { return slices.Contains(controller.BPDUAddresses, dst) }

// bpduFlows does with BPDUs what was chosen. Where the switch's own forwarding has them,
// there are none.
func bpduFlows(choice controller.BPDUs, stage controller.Stage, caps controller.Capabilities) (flows []flowtable.Flow) {
	priority := controller.PrioBPDU
	var does []ofproto.Instruction
	switch managed := stage == controller.StageManaged; {
	case managed && choice == controller.BPDUsDrop:
	case managed && choice == controller.BPDUsForward: // not by way of source: a bridge's address is no host's
		does = []ofproto.Instruction{ofproto.GotoTable{Table: controller.TableVIP}}
	case managed:
		priority = controller.PrioBPDUGuard
		does = []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.ToController()}}}
	case choice == controller.BPDUsForward && caps.Normal:
		does = []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(ofproto.PortFlood)}}}
	default:
		return nil
	}
	for _, dst := range controller.BPDUAddresses {
		flows = append(flows, flowtable.Flow{
			Table: controller.TableIngress, Priority: priority, Match: ofproto.NewMatch(ofproto.EthDst(dst)), Instructions: does,
		})
	}
	return flows
}

// bpdu takes in a BPDU that came to the controller.
func (a *App) bpdu(c *controller.Context, at topology.Place, f packet.Frame) {
	sw := c.Switch(ofproto.DPID(at.DPID))
	if sw == nil || sw.Stage != controller.StageManaged || sw.BPDUs != controller.BPDUsGuard {
		return
	}
	emit(c, c.Graph.Block(at, topology.Block{
		Guard: topology.GuardBPDU, Reason: fmt.Sprintf("a BPDU came from %v", ofproto.MAC(f.Ethernet().Src)), Until: c.Now.Add(guardHold),
	}, c.Now))
}

// guards ends the blocks of guards that a switch is not under any more.
func (a *App) guards(c *controller.Context, sw *controller.Switch) {
	id, managed := topology.DPID(sw.DPID), sw.Stage == controller.StageManaged
	if !managed || sw.BPDUs != controller.BPDUsGuard {
		emit(c, c.Graph.Unblock(id, topology.GuardBPDU, c.Now))
	}
	if !managed {
		emit(c, c.Graph.Unblock(id, topology.GuardLoop, c.Now))
	}
}
