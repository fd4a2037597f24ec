package reachability

import (
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// links has every direction of every link tried with a small and a whole packet, and
// every segment from each of its ports to the next.
func (w *work) links() {
	for _, l := range w.snap.Links() {
		if l.State == topology.StateUp {
			w.tryLink(l.A, l.B, false)
			w.tryLink(l.B, l.A, false)
		}
	}
	for _, seg := range w.snap.Segments() {
		open := slices.DeleteFunc(slices.Clone(seg.Ports), func(p topology.SegmentPort) bool { return p.Role == topology.RoleBlocked })
		for i, p := range open {
			if next := open[(i+1)%len(open)]; len(open) > 1 {
				w.tryLink(p.Place, next.Place, true)
			}
		}
	}
}

// tryLink has frames sent out of one port that are to come in by another.
func (w *work) tryLink(from, to topology.Place, segment bool) {
	if !slices.Contains(w.from, ofproto.DPID(from.DPID)) || !slices.Contains(w.from, ofproto.DPID(to.DPID)) {
		return
	}
	i := len(w.m.Links)
	w.m.Links = append(w.m.Links, LinkAnswer{From: placeOf(from), To: placeOf(to), Segment: segment, MTU: w.req.MTU})
	w.ask(askLink(from, to, 0), func(q *question) { w.m.Links[i].Small = q.reply.OK() })
	w.ask(askLink(from, to, w.req.MTU), func(q *question) { w.m.Links[i].Full = q.reply.OK() })
}

// askLink is a frame with that many bytes of payload. It goes to the lane of the other
// switch, which catches it.
func askLink(from, to topology.Place, size int) *question {
	q := &question{from: ofproto.DPID(from.DPID), out: ofproto.Port(from.Port)}
	q.ask = func(r *run) (key, []byte) {
		r.local++
		m := marker{r.nonce, r.local, uint64(size)}
		return key{kind: kindFrame, local: r.local}, m.frame(r.lanes[ofproto.DPID(to.DPID)].mac(), r.lanes[q.from], size)
	}
	q.judge = func(_ *controller.Context, _ *run, f *packet.Frame, at topology.Place) bool {
		return at == to && len(f.Network()) >= size
	}
	return q
}
