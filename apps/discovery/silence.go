package discovery

import (
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// Two ports on a segment that have not heard each other for a while are apart, or some switch
// is slow. They are asked quickly: each sends a probe of segments of which its switch gives a
// copy back. Where both copies come and the ports still hear nothing, again and again, they
// are apart. Where copies do not come the ports are believed for as long as without.

const (
	// silentAfter is how long two ports have heard nothing of each other when they are asked,
	// silentEvery the time between two questions. silentLost of them that were sent for
	// certain, in a row, and were not heard make the ports be apart.
	silentAfter = 1100 * time.Millisecond
	silentEvery = 100 * time.Millisecond
	silentLost  = 5
	// silentMost bounds the pairs that are asked at once.
	silentMost = 64
	// silentAgain is how often two ports may have been found together again soon after they
	// were apart for this to hold; then they are believed longer (see hold).
	silentAgain = 2
)

// hearing is of two ports on a segment.
type hearing struct {
	heard time.Time // when last
	asked bool      // since
	lost  int       // questions in a row
}

// silences are the pairs of ports on segments.
type silences struct {
	pairs map[pair]*hearing
	next  time.Time // when pairs are asked next
}

// hears notes that two ports hear each other over bridges.
func (s *silences) hears(a, b topology.Place, now time.Time) {
	if a == b {
		return
	}
	h := s.pairs[pairOf(a, b)]
	if h == nil {
		if len(s.pairs) >= maxParted {
			return
		}
		h = &hearing{}
		s.pairs[pairOf(a, b)] = h
	}
	*h = hearing{heard: now}
}

// askSilent asks the ports that have heard nothing of each other, when that is due, and draws
// conclusions.
func (a *App) askSilent(c *controller.Context) {
	s := &a.silences
	if s.next.After(c.Now) {
		c.WakeAt(s.next)
		return
	}
	asking := map[topology.Place]bool{}
	pairs := 0
	for k, h := range s.pairs {
		p, q := a.ports[k.a], a.ports[k.b]
		if p == nil || q == nil || !asks(c, k.a) || !asks(c, k.b) {
			delete(s.pairs, k) // port and channel tell of themselves
			continue
		}
		if a.parted[k].again >= silentAgain || pairs == silentMost {
			continue
		}
		if due := h.heard.Add(silentAfter - segmentEvery + a.stretched(segmentEvery)); due.After(c.Now) {
			c.WakeAt(due)
			continue
		}
		if h.asked && p.bridged.copied && q.bridged.copied {
			h.lost++
		}
		if h.lost >= silentLost {
			delete(s.pairs, k)
			emit(c, c.Graph.Part(k.a, k.b, c.Now))
			continue
		}
		h.asked = true
		asking[k.a], asking[k.b] = true, true
		pairs++
	}
	for at := range asking {
		p := a.ports[at]
		c.PacketOut(ofproto.DPID(at.DPID), ofproto.PortController, a.probeTo(packet.Broadcast, at, p, probeSegment),
			ofproto.OutputPort(ofproto.Port(at.Port)), ofproto.ToController())
		p.bridged.copied, p.bridged.asked = false, p.seq[probeSegment]
	}
	if len(asking) > 0 {
		s.next = c.Now.Add(silentEvery)
		c.WakeAt(s.next)
	}
}

// hearCopy takes in the copy of a question, as the switch that sent it gives it.
func (a *App) hearCopy(from topology.Place, seq uint64) {
	if p := a.ports[from]; p != nil && p.bridged.asked == seq {
		p.bridged.copied = true
	}
}
