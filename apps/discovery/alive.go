package discovery

import (
	"encoding/binary"
	"maps"
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
// can tell: a switch sends probes of a kind of their own back to where they came from, by an
// entry of its own, and its neighbours ask it so. What counts are the ways by which it has
// answered while it was connected: not every switch can, nor passes every bridge such probes
// on. One that answers by none of them any more is taken for stopped, unless the probe comes
// back from a switch that it can only have reached through this one: then that has lost its
// entries, and forwards by itself. One that answers, but not over a segment, is not there.

const (
	// stoppedAfter is how many probes in a row must go unanswered for a switch to be
	// taken for stopped, absentAfter for one that answers elsewhere not to be on a segment.
	// doubtEvery is the time between them, and assureEvery between those to a switch that
	// answers. One that has stopped is asked so for stoppedFor.
	stoppedAfter = 4
	absentAfter  = 8
	doubtEvery   = 100 * time.Millisecond
	assureEvery  = time.Second
	stoppedFor   = 10 * time.Minute
	// tryEvery is how often switches that are connected are tried by the ways that they have
	// not answered by, tryAfter how soon where something new is found.
	tryEvery = probeEvery
	tryAfter = 50 * time.Millisecond
	// askersMost bounds the ports that ask about one switch.
	askersMost = 8

	partAlive = "alive"
)

// The group addresses of these probes, there and back. Bridges pass both on.
var (
	askMulticast  = packet.MAC{0x03, 0x46, 0x4c, 0x00, 0x00, 0x02}
	toldMulticast = packet.MAC{0x03, 0x46, 0x4c, 0x00, 0x00, 0x03}
)

// answers are the ways by which a switch has answered: the ports that it did so to.
type answers struct {
	installed bool // it has the entry
	at        map[topology.Place]bool
}

// doubt is about a switch that is not connected.
type doubt struct {
	askers  map[topology.Place]*asker
	next    time.Time // when it is asked next
	missed  int       // what it did not answer, in a row
	stopped time.Time // since when it is taken for stopped; zero: it is not
}

// asker is a port that asks.
type asker struct {
	beside  []topology.DPID // on a segment: those that hear it too; nil: it is on a cable
	pending bool            // what was asked last is not answered
	sent    bool            // and was sent: the switch that asks says so
	missed  int             // in a row
}

// answerMAC is the source of a switch's answers: the lower 40 bits of its datapath id,
// locally administered.
func answerMAC(id topology.DPID) ofproto.MAC {
	b := binary.BigEndian.AppendUint64(nil, uint64(id))
	return ofproto.MAC{0x06, b[3], b[4], b[5], b[6], b[7]}
}

// alivePart sends such probes back.
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

// lost begins to doubt a switch whose session has ended, where it has answered.
func (a *App) lost(c *controller.Context, id topology.DPID) {
	if _, known := c.Graph.Snapshot().Switch(id); known && a.answers[id] != nil && len(a.answers[id].at) > 0 {
		a.doubts[id] = &doubt{next: c.Now, askers: map[topology.Place]*asker{}}
		c.WakeAt(c.Now)
	}
}

// back ends it.
func (a *App) back(id topology.DPID) { delete(a.doubts, id) }

// answersNow notes whether a switch has the entry that answers.
func (a *App) answersNow(c *controller.Context, id topology.DPID, installed bool) {
	if !installed {
		delete(a.answers, id)
		return
	}
	if a.answers[id] == nil {
		a.answers[id] = &answers{at: map[topology.Place]bool{}}
	}
	a.answers[id].installed = true
	a.trySoon(c)
}

// trySoon has switches be tried by the ways that are new.
func (a *App) trySoon(c *controller.Context) {
	if soon := c.Now.Add(tryAfter); soon.Before(a.tries) {
		a.tries = soon
	}
	c.WakeAt(a.tries)
}

// try asks the switches that are connected by the ways that they have not answered by.
func (a *App) try(c *controller.Context) {
	if a.tries.After(c.Now) {
		if a.tries.Sub(c.Now) <= tryAfter {
			c.WakeAt(a.tries)
		}
		return
	}
	a.tries = c.Now.Add(tryEvery)
	for id, k := range a.answers {
		if !k.installed || c.Switch(ofproto.DPID(id)) == nil {
			continue
		}
		for p := range askers(c, id) {
			if pr := a.ports[p]; pr != nil && !k.at[p] && asks(c, p) {
				a.probeBridge(c, p, pr, probeAlive)
			}
		}
	}
}

// forgetAnswers forgets a switch that is not there any more, with what it asked.
func (a *App) forgetAnswers(id topology.DPID) {
	if a.doubts[id] == nil {
		delete(a.answers, id)
	}
	for _, k := range a.answers {
		maps.DeleteFunc(k.at, func(p topology.Place, _ bool) bool { return p.DPID == id })
	}
}

// askers returns the ports that can ask about a switch: at the other ends of its cables, and
// on its segments, askersMost of them. With each of the latter come the others that hear it too.
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
			d.meet(askers(c, id), a.answers[id].at)
		}
		a.conclude(c, id, d)
		asked := false
		for p, k := range d.askers {
			k.pending, k.sent = false, false
			if pr := a.ports[p]; pr != nil && asks(c, p) {
				asked, k.pending = true, true
				// A copy comes back at once: a switch, or a controller, that is slow is no reason to
				// take another for stopped.
				c.PacketOut(ofproto.DPID(p.DPID), ofproto.PortController, a.probeFrame(p, pr, probeAlive), ofproto.OutputPort(ofproto.Port(p.Port)), ofproto.ToController())
			}
		}
		if d.over(c, id, asked) {
			delete(a.doubts, id)
			if _, there := c.Graph.Snapshot().Switch(id); !there {
				delete(a.answers, id)
			}
			continue
		}
		d.next = c.Now.Add(doubtEvery)
		if !asked || !d.stopped.IsZero() {
			d.next = c.Now.Add(assureEvery)
		}
		c.WakeAt(d.next)
	}
}

// over says whether a switch is doubted no more: it has been gone for long, or nobody is left
// to ask it, from whose silence nothing follows, and nothing is kept for its sake.
func (d *doubt) over(c *controller.Context, id topology.DPID, asked bool) bool {
	if !d.stopped.IsZero() {
		return !asked || c.Now.Sub(d.stopped) >= stoppedFor
	}
	if _, there := c.Graph.Snapshot().Switch(id); asked || there {
		return false
	}
	for _, left := range c.Graph.Snapshot().Mourned() {
		if slices.Contains(left, id) {
			return false
		}
	}
	return true
}

// meet has those ask that can and that the switch has answered.
func (d *doubt) meet(can map[topology.Place][]topology.DPID, answered map[topology.Place]bool) {
	maps.DeleteFunc(d.askers, func(p topology.Place, _ *asker) bool { _, ok := can[p]; return !ok })
	for p, beside := range can {
		switch k := d.askers[p]; {
		case k != nil:
			k.beside = beside
		case answered[p]:
			d.askers[p] = &asker{beside: beside}
		}
	}
}

// conclude counts what was not answered.
func (a *App) conclude(c *controller.Context, id topology.DPID, d *doubt) {
	silent, answered := false, false
	for _, k := range d.askers {
		switch {
		case !k.pending:
			answered = answered || k.sent
		case k.sent:
			silent = true
			k.missed++
		}
	}
	switch {
	case answered:
		for p, k := range d.askers {
			if k.beside != nil && k.missed == absentAfter {
				emit(c, c.Graph.Bury(id, p, c.Now))
			}
		}
	case silent:
		if d.missed++; d.missed >= stoppedAfter && d.stopped.IsZero() {
			d.stopped = c.Now
			emit(c, c.Graph.Stopped(id, c.Now))
			c.Notify("switch", map[string]any{"dpid": id.String(), "forwarding": false})
		}
	}
}

// told takes in such a probe: as it was sent, or as it came back to the port it left from,
// with the mark of the switch that sent it back.
func (a *App) told(c *controller.Context, from, at topology.Place, e packet.Ethernet) {
	back := from == at && e.Dst == toldMulticast
	if back {
		for id, k := range a.answers {
			if k.installed && answerMAC(id) == ofproto.MAC(e.Src) && c.Switch(ofproto.DPID(id)) != nil {
				if _, can := askers(c, id)[from]; can && !k.at[from] {
					k.at[from], a.answered = true, true
				}
			}
		}
	}
	for id, d := range a.doubts {
		k := d.askers[from]
		switch {
		case k == nil:
			continue
		case ofproto.Port(at.Port) == ofproto.PortController:
			k.sent = true
			continue
		case !back || !forwards(id, k.beside, ofproto.MAC(e.Src)):
			continue
		}
		k.pending, k.sent, k.missed, d.missed = false, true, 0, 0
		d.next = c.Now.Add(d.rest())
		if !d.stopped.IsZero() {
			d.stopped = time.Time{}
			emit(c, c.Graph.Resumed(id, c.Now))
			c.Notify("switch", map[string]any{"dpid": id.String(), "forwarding": true})
		}
	}
}

// rest is how long a switch that has just answered is not asked: long, unless it does not
// answer on every segment.
func (d *doubt) rest() time.Duration {
	for _, k := range d.askers {
		if k.beside != nil && k.missed > 0 && k.missed < absentAfter {
			return doubtEvery
		}
	}
	return assureEvery
}

// forwards says whether a switch forwards, from the mark on a probe that came back. beside
// are those that the probe reached without it.
func forwards(id topology.DPID, beside []topology.DPID, mark ofproto.MAC) bool {
	return mark == answerMAC(id) || !slices.ContainsFunc(beside, func(b topology.DPID) bool { return b != id && answerMAC(b) == mark })
}
