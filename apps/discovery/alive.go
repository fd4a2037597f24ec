package discovery

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// A switch whose session has ended may have lost its channel only, and forward on by what
// it has; or it may have died, with the ports at the other ends up still. Only the network
// can tell: each Open vSwitch sends a probe of a third kind back to where it came from, by
// an entry of its own, and such probes are sent to it by its neighbours. One that does not
// answer is taken for stopped, unless the probe comes back from a switch that it can only
// have reached through this one: then that has lost its entries, and forwards by itself.

const (
	// stoppedAfter is how many probes in a row must go unanswered for a switch to be
	// taken for stopped, doubtEvery the time between them, and assureEvery between those to
	// a switch that answers. One that has stopped is asked so for stoppedFor.
	stoppedAfter = 4
	doubtEvery   = 100 * time.Millisecond
	assureEvery  = time.Second
	stoppedFor   = 10 * time.Minute
	// askersMost bounds the ports that ask about one switch.
	askersMost = 8

	partAlive = "alive"
)

// The group addresses of probes of the third kind, there and back. Bridges pass both on.
var (
	askMulticast  = packet.MAC{0x03, 0x46, 0x4c, 0x00, 0x00, 0x02}
	toldMulticast = packet.MAC{0x03, 0x46, 0x4c, 0x00, 0x00, 0x03}
)

// doubt is about a switch that is not connected.
type doubt struct {
	// askers are the ports that ask, with the switches that hear it beside the one in doubt.
	askers  map[topology.Place][]topology.DPID
	next    time.Time // when it is asked next
	pending bool      // it has not answered what it was asked last
	sent    bool      // and that has been sent: the switch that asks says so
	missed  int       // that it did not answer, in a row
	stopped time.Time // since when it is taken for stopped; zero: it is not
}

// answerMAC is the source of a switch's answers: the lower 40 bits of its datapath id,
// locally administered.
func answerMAC(id topology.DPID) ofproto.MAC {
	b := binary.BigEndian.AppendUint64(nil, uint64(id))
	return ofproto.MAC{0x06, b[3], b[4], b[5], b[6], b[7]}
}

// alivePart sends probes of the third kind back.
func alivePart(dpid ofproto.DPID) flowtable.Part {
	return flowtable.Part{Flows: []flowtable.Flow{{
		Table: controller.TableIngress, Priority: controller.PrioAlive,
		Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeLLDP), ofproto.EthDst(ofproto.MAC(askMulticast))),
		Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{
			ofproto.SetField{Field: ofproto.EthDst(ofproto.MAC(toldMulticast))},
			ofproto.SetField{Field: ofproto.EthSrc(answerMAC(topology.DPID(dpid)))},
			ofproto.OutputPort(ofproto.PortInPort),
		}}},
	}}}
}

// lost begins to doubt a switch whose session has ended, where it would answer.
func (a *App) lost(c *controller.Context, id topology.DPID) {
	if _, known := c.Graph.Snapshot().Switch(id); known && a.answering[id] {
		a.doubts[id] = &doubt{next: c.Now}
		c.WakeAt(c.Now)
	}
}

// back ends it.
func (a *App) back(id topology.DPID) { delete(a.doubts, id) }

// askers returns the ports that can ask about a switch: one for each cable to it, and
// one for each of its segments. With each come the others that hear it too.
func askers(c *controller.Context, id topology.DPID) map[topology.Place][]topology.DPID {
	snap := c.Graph.Snapshot()
	sw, _ := snap.Switch(id)
	all := map[topology.Place][]topology.DPID{}
	for _, port := range sw.Ports {
		at := topology.Place{DPID: id, Port: port.Port}
		if peer, ok := snap.Peer(at); ok && len(all) < askersMost {
			all[peer] = nil
			continue
		}
		seg, _, _ := snap.Segment(at)
		for _, p := range seg.Ports {
			if p.DPID == id || !asks(c, p.Place) || len(all) == askersMost {
				continue
			}
			beside := []topology.DPID{}
			for _, o := range seg.Ports {
				if o.Place != p.Place {
					beside = append(beside, o.DPID)
				}
			}
			all[p.Place] = beside
			break
		}
	}
	return all
}

// asks says whether a probe can be sent out of a port.
func asks(c *controller.Context, p topology.Place) bool {
	state, ok := c.Graph.Snapshot().Port(p)
	return ok && state.Up && c.Switch(ofproto.DPID(p.DPID)) != nil
}

// ask sends the probes to switches in doubt that are due, and draws conclusions.
func (a *App) ask(c *controller.Context) {
	for id, d := range a.doubts {
		if d.next.After(c.Now) {
			c.WakeAt(d.next)
			continue
		}
		if _, ok := c.Graph.Snapshot().Switch(id); ok {
			d.askers = askers(c, id)
		}
		if d.pending && d.sent {
			d.missed++
		}
		if d.missed >= stoppedAfter && d.stopped.IsZero() {
			d.stopped = c.Now
			emit(c, c.Graph.Stopped(id, c.Now))
			c.Notify("switch", map[string]any{"dpid": id.String(), "forwarding": false})
		}
		asked := false
		for p := range d.askers {
			if pr := a.ports[p]; pr != nil && asks(c, p) {
				asked = true
				// A copy comes back at once: a switch, or a controller, that is slow is no reason to
				// take another for stopped.
				c.PacketOut(ofproto.DPID(p.DPID), ofproto.PortController, a.probeFrame(p, pr, probeAlive), ofproto.OutputPort(ofproto.Port(p.Port)), ofproto.ToController())
			}
		}
		// Where nobody is left to ask, nothing follows from silence.
		if !asked || !d.stopped.IsZero() && c.Now.Sub(d.stopped) >= stoppedFor {
			delete(a.doubts, id)
			continue
		}
		d.pending, d.sent = true, false
		d.next = c.Now.Add(doubtEvery)
		if !d.stopped.IsZero() {
			d.next = c.Now.Add(assureEvery)
		}
		c.WakeAt(d.next)
	}
}

// told takes in a probe of the third kind: as it was sent, or as it came back to the port
// it left from, with the mark of the switch that sent it back.
func (a *App) told(c *controller.Context, from, at topology.Place, e packet.Ethernet) {
	for id, d := range a.doubts {
		beside, ours := d.askers[from]
		switch {
		case !ours:
			continue
		case ofproto.Port(at.Port) == ofproto.PortController:
			d.sent = true
			continue
		case from != at || e.Dst != toldMulticast || !forwards(id, beside, ofproto.MAC(e.Src)):
			continue
		}
		d.pending, d.missed = false, 0
		d.next = c.Now.Add(assureEvery)
		if !d.stopped.IsZero() {
			d.stopped = time.Time{}
			emit(c, c.Graph.Resumed(id, c.Now))
			c.Notify("switch", map[string]any{"dpid": id.String(), "forwarding": true})
		}
	}
}

// forwards says whether a switch forwards, from the mark on a probe that came back. beside
// are those that the probe reached without it.
func forwards(id topology.DPID, beside []topology.DPID, mark ofproto.MAC) bool {
	return mark == answerMAC(id) || !slices.ContainsFunc(beside, func(b topology.DPID) bool { return b != id && answerMAC(b) == mark })
}
