package trace

import (
	"fmt"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// maxHops bounds the switches of one walk, the branches of a flood included.
const maxHops = 256

// Network is what a walk asks of the network.
type Network interface {
	// Switch returns the switch to be followed. An error ends the branch that reached it.
	Switch(ofproto.DPID) (*Switch, error)
	// Peer returns the other end of the link at a port; link is true where there is a
	// link, and up while it carries packets.
	Peer(topology.Place) (to topology.Place, link, up bool)
	// Normal says where the switch's own forwarding sends a packet, as far as can be
	// told, and why; ok is false where it cannot be told.
	Normal(ofproto.DPID, *Packet) (port ofproto.Port, why string, ok bool)
}

// Result is how a packet ends.
type Result string

// Results, those that count for more first.
const (
	Delivered    Result = "delivered"    // it leaves at one port that leads to no switch
	Flooded      Result = "flooded"      // at several
	Undetermined Result = "undetermined" // what a switch chooses is not known
	Looped       Result = "loop"         // it comes back to where it was
	Unread       Result = "unknown"      // a switch on its way cannot be asked
	Lost         Result = "normal"       // a switch's own forwarding takes it, to where is not known
	Punted       Result = "controller"   // to the controller, and nowhere else
	Dropped      Result = "dropped"
)

// End is where one output of a hop leads.
type End struct {
	Output
	Next int // hop that it leads to; -1: none
	Note string
}

// Hop is a packet's way through one switch.
type Hop struct {
	At   topology.Place // where it comes in
	From int            // hop that it comes from; -1 for the first
	In   *Packet        // as it comes in
	Visit
	Ends []End
	Err  error // why the switch could not be followed
}

// Delivery is a copy of the packet that leaves the switches.
type Delivery struct {
	Hop    int
	At     topology.Place // port that it leaves by
	Packet *Packet
}

// Path is a walk through the network.
type Path struct {
	Hops       []Hop // each after the one it comes from
	Result     Result
	Reason     string // why it is not Delivered
	Deliveries []Delivery
}

// Tracked are the connections that switches track, by switch. What is committed on the
// way there is known on the way back.
type Tracked map[ofproto.DPID]*Connections

// Walk follows a packet that arrives at a port from switch to switch, until all copies
// of it have left or are gone.
func Walk(n Network, at topology.Place, p *Packet, tracked Tracked) Path {
	w := walk{n: n, tracked: tracked, found: map[Result]string{}}
	w.enter(at, -1, p)
	for i := 0; i < len(w.Hops); i++ {
		w.hop(i)
	}
	w.sum()
	return w.Path
}

type walk struct {
	Path
	n       Network
	tracked Tracked
	found   map[Result]string // what happened to copies, and why
}

func (w *walk) enter(at topology.Place, from int, p *Packet) int {
	w.Hops = append(w.Hops, Hop{At: at, From: from, In: p})
	return len(w.Hops) - 1
}

// was says whether a packet that arrives somewhere has been there like that before.
func (w *walk) was(at topology.Place, from int, p *Packet) bool {
	for ; from >= 0; from = w.Hops[from].From {
		if h := &w.Hops[from]; h.At == at && same(h.In, p) {
			return true
		}
	}
	return false
}

func same(a, b *Packet) bool {
	return a.EthSrc() == b.EthSrc() && a.EthDst() == b.EthDst() && a.VLAN() == b.VLAN() && a.Tuple() == b.Tuple()
}

func (w *walk) hop(i int) {
	h := w.Hops[i]
	dpid := ofproto.DPID(h.At.DPID)
	s, err := w.n.Switch(dpid)
	if err != nil {
		w.Hops[i].Err = err
		w.found[Unread] = fmt.Sprintf("switch %s: %s", dpid, err)
		return
	}
	if w.tracked[dpid] == nil {
		w.tracked[dpid] = &Connections{}
	}
	h.Visit = s.Process(ofproto.Port(h.At.Port), h.In, w.tracked[dpid])
	if h.Undetermined != "" {
		w.found[Undetermined] = h.Undetermined
	} else if len(h.Outputs) == 0 {
		w.found[Dropped] = dropReason(dpid, h.Steps)
	}
	for _, o := range h.Outputs {
		e := End{Output: o, Next: -1}
		switch o.Kind {
		case ToController:
			w.found[Punted] = "switch " + dpid.String()
		case ToNormal:
			port, why, ok := w.n.Normal(dpid, o.Packet)
			if e.Note = why; !ok {
				w.found[Lost] = fmt.Sprintf("switch %s: %s", dpid, why)
				break
			}
			e.Port = port
			w.leave(i, &e)
		case ToPort:
			w.leave(i, &e)
		}
		h.Ends = append(h.Ends, e)
	}
	w.Hops[i] = h
}

// leave follows an output of a hop to the other end of its cable.
func (w *walk) leave(i int, e *End) {
	from := topology.Place{DPID: w.Hops[i].At.DPID, Port: topology.Port(e.Port)}
	to, link, up := w.n.Peer(from)
	switch {
	case link && !up:
		e.Note = join(e.Note, "the link is down")
		w.found[Dropped] = "the link at " + from.String() + " is down"
	case !link:
		w.Deliveries = append(w.Deliveries, Delivery{i, from, e.Packet})
	case w.was(to, i, e.Packet):
		e.Note = join(e.Note, "it has been at "+to.String()+" before")
		w.found[Looped] = e.Note
	case len(w.Hops) >= maxHops:
		w.found[Looped] = fmt.Sprintf("more than %d switches", maxHops)
	default:
		e.Next = w.enter(to, i, e.Packet)
	}
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// dropReason says by what a switch drops a packet.
func dropReason(dpid ofproto.DPID, steps []Step) string {
	at := "switch " + dpid.String()
	if len(steps) == 0 {
		return at
	}
	last := steps[len(steps)-1]
	switch {
	case last.Note != "":
		return at + ": " + last.Note
	case last.Group != nil:
		return fmt.Sprintf("%s: group %d sends it nowhere", at, uint32(last.Group.ID))
	case last.Entry == nil:
		return fmt.Sprintf("%s: no entry of table %d matches", at, last.Table)
	}
	return fmt.Sprintf("%s: the entry of table %d with priority %d sends it nowhere", at, last.Table, last.Entry.Priority)
}

// sum decides how the walk ended.
func (w *walk) sum() {
	switch {
	case len(w.Deliveries) == 1:
		w.Result = Delivered
		return
	case len(w.Deliveries) > 1:
		w.Result, w.Reason = Flooded, fmt.Sprintf("%d ports", len(w.Deliveries))
		return
	}
	for _, r := range []Result{Undetermined, Looped, Unread, Lost, Punted, Dropped} {
		if why, ok := w.found[r]; ok {
			w.Result, w.Reason = r, why
			return
		}
	}
	w.Result = Dropped
}
