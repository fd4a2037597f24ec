package discovery

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// A cable or a bridge may pass small frames and lose whole ones, because something on the way
// has a smaller MTU, which OpenFlow 1.3 does not tell: links are up, and connections hang. So
// a port that leads to others sends a probe as large as the frames of hosts with a small one
// now and then. What counts against the way is a small one that arrives alone; one large one
// that arrives takes all back.

const (
	// wholePayload is what a whole frame carries behind the Ethernet header, wholeFrame its
	// size with that, in bytes.
	wholePayload = 1500
	wholeFrame   = 14 + wholePayload
	// wholeAgain is when it is looked whether a whole probe was heard; where it was not, the
	// next is sent. After narrowAfter in a row the way is narrow.
	wholeAgain  = 400 * time.Millisecond
	narrowAfter = 5
)

// wholeProber is the sending end of a port's whole probes.
type wholeProber struct {
	next time.Time
	sent bool // a probe is under way, and looked after at next
	ways map[topology.Place]*way
}

// way is from a port to another that hears its probes.
type way struct {
	small, whole bool // heard since the last whole one was sent
	lost         int  // whole ones in a row, of which the small one came
	narrow       bool
}

// probeWholes sends the whole probes that are due, and judges by those that were sent.
func (a *App) probeWholes(c *controller.Context) {
	snap := c.Graph.Snapshot()
	for at, p := range a.ports {
		w := &p.whole
		if w.next.After(c.Now) {
			if w.doubtful() {
				c.WakeAt(w.next)
			}
			continue
		}
		if w.sent {
			a.judge(c, at, w)
		}
		again := w.sent && w.doubtful()
		dst, ends := hearers(snap, at)
		w.keep(ends)
		if fault(c, at, w); len(ends) == 0 || w.sent && !again || c.Switch(ofproto.DPID(at.DPID)) == nil {
			w.sent, w.next = false, c.Now.Add(probeEvery-wholeAgain)
			continue
		}
		// The small one goes last: it does not overtake.
		frame := a.probeTo(dst, at, p, probeWhole)
		frame = append(frame, make([]byte, wholeFrame-len(frame))...)
		c.PacketOut(ofproto.DPID(at.DPID), ofproto.PortController, frame, ofproto.OutputPort(ofproto.Port(at.Port)))
		if dst == packet.LLDPMulticast {
			a.probe(c, at)
		} else {
			a.probeBridge(c, at, p, probeSegment)
		}
		for _, way := range w.ways {
			way.small, way.whole = false, false
		}
		w.sent, w.next = true, c.Now.Add(wholeAgain)
		if again {
			c.WakeAt(w.next)
		}
	}
}

// hearers returns the ports that hear what is sent out of a port, and the address that they
// hear it by.
func hearers(snap *topology.Snapshot, at topology.Place) (dst packet.MAC, ends []topology.Place) {
	if peer, ok := snap.Peer(at); ok {
		return packet.LLDPMulticast, []topology.Place{peer}
	}
	seg, _, _ := snap.Segment(at)
	for _, p := range seg.Ports {
		if p.Place != at {
			ends = append(ends, p.Place)
		}
	}
	return bridgedMulticast, ends
}

// keep has a port look after the ways to these others and no more.
func (w *wholeProber) keep(ends []topology.Place) {
	for to := range w.ways {
		if !slices.Contains(ends, to) {
			delete(w.ways, to)
		}
	}
	for _, to := range ends {
		if w.ways == nil {
			w.ways = map[topology.Place]*way{}
		}
		if w.ways[to] == nil {
			w.ways[to] = &way{}
		}
	}
}

// doubtful says whether a whole probe was lost by a way that is not known to be narrow yet.
func (w *wholeProber) doubtful() bool {
	for _, way := range w.ways {
		if way.lost > 0 && !way.narrow {
			return true
		}
	}
	return false
}

// judge counts what was lost of the last whole probe.
func (a *App) judge(c *controller.Context, from topology.Place, w *wholeProber) {
	for to, way := range w.ways {
		if way.small && !way.whole {
			if way.lost++; way.lost >= narrowAfter && !way.narrow {
				way.narrow = true
				tellWidth(c, from, to, way)
				c.Alarm(fmt.Sprintf("narrow %v %v", from, to), "small frames pass from one switch to another, whole ones do not: is an MTU too small?",
					"from", from.String(), "to", to.String(), "bytes", wholePayload)
			}
		}
	}
}

// hearWhole takes in a whole probe.
func (a *App) hearWhole(c *controller.Context, from, at topology.Place) {
	if p := a.ports[from]; p != nil && p.whole.ways[at] != nil {
		way := p.whole.ways[at]
		way.whole, way.lost = true, 0
		if way.narrow {
			way.narrow = false
			fault(c, from, &p.whole)
			tellWidth(c, from, at, way)
		}
	}
}

// hearSmall takes in a small probe that was sent with a whole one.
func (a *App) hearSmall(from, at topology.Place) {
	if p := a.ports[from]; p != nil && p.whole.ways[at] != nil {
		p.whole.ways[at].small = true
	}
}

// findNarrow has whole probes sent at once out of ports that are found to lead to others.
func (a *App) findNarrow(c *controller.Context, ends ...topology.Place) {
	for _, at := range ends {
		if p := a.ports[at]; p != nil && !p.whole.sent {
			p.whole.next = c.Now
			c.WakeAt(c.Now)
		}
	}
}

// tellWidth tells watchers that a way is narrow, or is not any more.
func tellWidth(c *controller.Context, from, to topology.Place, w *way) {
	kind, event := "link", "wide"
	if c.Graph.Snapshot().IsOnSegment(from) {
		kind = "segment"
	}
	if w.narrow {
		event = "narrow"
	}
	c.Notify(kind, map[string]any{"event": event, "from": from, "to": to, "bytes": wholePayload})
}

// fault has the graph know of the narrow ways from a port.
func fault(c *controller.Context, from topology.Place, w *wholeProber) {
	var to []string
	for end, way := range w.ways {
		if way.narrow {
			to = append(to, end.String())
		}
	}
	text := ""
	if slices.Sort(to); len(to) > 0 {
		text = fmt.Sprintf("frames with %d bytes from %v do not arrive at %s, small ones do: is an MTU too small?", wholePayload, from, strings.Join(to, ", "))
	}
	emit(c, c.Graph.SetFault(from, topology.FaultNarrow, text, c.Now))
}
