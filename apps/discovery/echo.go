package discovery

import (
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// A switch whose session has ended may forward on by what it holds, or be dead. Ports that
// are blocked because it leads to their segment are to stay so in the one case and not in
// the other. The difference is told by sending: a broadcast into the tree at the blocked
// port's own switch comes out into the segment and back to the port while the switch
// forwards.

const (
	// echoEvery is the time between two echoes that are not heard, echoLost how many of
	// them make a switch dead; after one that was heard the next has echoRest.
	echoEvery = 500 * time.Millisecond
	echoLost  = 3
	echoRest  = time.Second
)

// echo is the state of one blocked port.
type echo struct {
	next time.Time
	sent int // since the last that was heard
}

// sendEchoes sends what is due, and gives up those that were not heard.
func (a *App) sendEchoes(c *controller.Context) {
	snap := c.Graph.Snapshot()
	wanted := awaited(c, snap)
	for at := range a.echoes {
		if _, ok := wanted[at]; !ok {
			delete(a.echoes, at)
		}
	}
	for at, dead := range wanted {
		p, sw := a.ports[at], c.Switch(ofproto.DPID(at.DPID))
		if p == nil || sw == nil {
			continue
		}
		e := a.echoes[at]
		if e == nil {
			e = &echo{}
			a.echoes[at] = e
		}
		if e.next.After(c.Now) {
			c.WakeAt(e.next)
			continue
		}
		if e.sent >= echoLost {
			delete(a.echoes, at)
			for _, id := range dead {
				emit(c, c.Graph.Bury(id, at, c.Now))
			}
			continue
		}
		var out []ofproto.Action
		for _, port := range snap.Tree().Ports(at.DPID) {
			out = append(out, ofproto.OutputPort(ofproto.Port(port)))
		}
		for led, m := range snap.Mourned() { // cables to switches that left
			if led.DPID == at.DPID && !m.Segment {
				out = append(out, ofproto.OutputPort(ofproto.Port(led.Port)))
			}
		}
		if len(out) > 0 {
			c.PacketOut(sw.DPID, ofproto.PortController, a.probeFrame(at, p, probeEcho), out...)
		}
		e.sent++
		e.next = c.Now.Add(echoEvery)
		c.WakeAt(e.next)
	}
}

// awaited returns the blocked ports that are so for the sake of switches that are not
// connected, and those.
func awaited(c *controller.Context, snap *topology.Snapshot) map[topology.Place][]topology.DPID {
	all := map[topology.Place][]topology.DPID{}
	for at, m := range snap.Mourned() {
		if m.Segment && c.Switch(ofproto.DPID(at.DPID)) != nil {
			all[at] = m.For
		}
	}
	for _, s := range snap.Segments() {
		var gone []topology.DPID
		for _, p := range s.Ports {
			if p.Role != topology.RoleBlocked && c.Switch(ofproto.DPID(p.DPID)) == nil {
				gone = append(gone, p.DPID)
			}
		}
		if len(gone) == 0 {
			continue
		}
		for _, p := range s.Ports {
			if _, guarded := snap.Blocks()[p.Place]; p.Role == topology.RoleBlocked && !guarded && c.Switch(ofproto.DPID(p.DPID)) != nil {
				all[p.Place] = append(all[p.Place], gone...)
			}
		}
	}
	return all
}

// hearEcho takes in an echo that came back to the port that it was sent for.
func (a *App) hearEcho(c *controller.Context, from, at topology.Place) {
	if e := a.echoes[at]; e != nil && from == at {
		e.sent, e.next = 0, c.Now.Add(echoRest)
	}
}
