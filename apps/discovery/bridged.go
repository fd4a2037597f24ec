package discovery

import (
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

const (
	// bridgedAfter is when a port that came up sends its first probe over bridges: a
	// cable to another switch is found by then. bridgedEvery is the time between two,
	// segmentEvery where the port is on a segment; both are stretched where they would
	// be more than bridgedMost a second in all. After bridgedLost that went missing two
	// ports are not believed to be on one segment any more.
	bridgedAfter = 300 * time.Millisecond
	bridgedEvery = time.Second
	segmentEvery = 500 * time.Millisecond
	bridgedMost  = 2000
	bridgedLost  = 4
	// broadcastFirst is how many of the first probes of a port go to all stations too,
	// broadcastEach how many rounds it is from then on to the next that does: bridges
	// that pass on no multicast are rare, and hosts would have to look at each of them.
	broadcastFirst = 3
	broadcastEach  = 5
	// suspectEvery is the least time between two probes of one port because of a host
	// that seems to be at two. taggedFor is how long probes are sent in the VLAN that a
	// circle was found in.
	suspectEvery = 100 * time.Millisecond
	taggedFor    = 10 * time.Second
	// partedFor is how long it is remembered that two ports were on one segment, until they
	// did not hear each other. Each time but the first that they are found so again within
	// it, they are believed for twice as long without a probe, up to holdMost.
	partedFor = time.Minute
	holdMost  = time.Minute
	// maxParted bounds the pairs remembered.
	maxParted = 4096
)

// bridgedProber is the sending end of a port's probes over bridges.
type bridgedProber struct {
	next      time.Time
	begun     bool   // the first was due
	asked     uint64 // the number of the last question (silence.go)
	copied    bool   // which was sent for certain
	rounds    int
	suspected time.Time // when last
	vlan      uint16    // that is probed too, until then
	tagged    time.Time
}

// pair names two ports, the lower first.
type pair struct{ a, b topology.Place }

func pairOf(a, b topology.Place) pair {
	if a.Compare(b) > 0 {
		a, b = b, a
	}
	return pair{a, b}
}

// parting says when two ports were last found not to be on one segment any more, and how
// often in a row soon after they were found to be.
type parting struct {
	at    time.Time
	again int
}

// probeBridges sends the probes over bridges that are due: out of the ports that no
// cable leads from to another switch.
func (a *App) probeBridges(c *controller.Context) {
	snap := c.Graph.Snapshot()
	for _, sw := range snap.Switches() {
		if c.Switch(ofproto.DPID(sw.DPID)) == nil {
			c.Graph.HoldBridged(sw.DPID, c.Now.Add(a.hold(0)))
		}
	}
	for at, p := range a.ports {
		b := &p.bridged
		if b.next.After(c.Now) {
			if !b.begun {
				c.WakeAt(b.next)
			}
			continue
		}
		b.begun = true
		on := snap.IsOnSegment(at)
		b.next = c.Now.Add(a.stretched(bridgedEvery))
		if on {
			b.next = c.Now.Add(a.stretched(segmentEvery))
		}
		if state, ok := snap.Port(at); !ok || !state.Up || snap.IsLink(at) && !snap.IsShared(at) {
			continue
		}
		a.probeBridge(c, at, p, probeSegment)
		if on || b.rounds < broadcastFirst || b.rounds%broadcastEach == 0 {
			a.broadcastProbe(c, at, p, 0)
			if b.tagged.After(c.Now) {
				a.broadcastProbe(c, at, p, b.vlan)
			}
		}
		b.rounds++
	}
}

// stretched is the time between two probes of a port, so that they are not too many in
// all.
func (a *App) stretched(every time.Duration) time.Duration {
	return max(every, time.Duration(len(a.ports))*every/bridgedMost)
}

// hold is how long two ports that were found to be on one segment again so often are
// believed to be without a probe.
func (a *App) hold(again int) time.Duration {
	return min(bridgedLost*a.stretched(segmentEvery)<<min(max(again-1, 0), 8), max(holdMost, bridgedLost*a.stretched(segmentEvery)))
}

func (a *App) probeBridge(c *controller.Context, at topology.Place, p *prober, kind probeKind) {
	if c.Switch(ofproto.DPID(at.DPID)) != nil {
		c.PacketOut(ofproto.DPID(at.DPID), ofproto.PortController, a.probeFrame(at, p, kind), ofproto.OutputPort(ofproto.Port(at.Port)))
	}
}

// broadcastProbe sends a probe of segments to all stations of a VLAN, 0 for untagged.
func (a *App) broadcastProbe(c *controller.Context, at topology.Place, p *prober, vlan uint16) {
	if c.Switch(ofproto.DPID(at.DPID)) == nil {
		return
	}
	c.PacketOut(ofproto.DPID(at.DPID), ofproto.PortController, a.probeTo(packet.Broadcast, at, p, probeSegment, packet.Tags(vlan)...), ofproto.OutputPort(ofproto.Port(at.Port)))
}

// hearBridged takes in a probe that came over a bridge.
func (a *App) hearBridged(c *controller.Context, from, at topology.Place, f packet.Frame) {
	if tag, ok := f.VLAN(); ok {
		for _, end := range []topology.Place{from, at} {
			if p := a.ports[end]; p != nil {
				p.bridged.vlan, p.bridged.tagged = tag.ID, c.Now.Add(taggedFor)
			}
		}
	}
	a.silences.hears(from, at, c.Now)
	again := 0
	if parted, ok := a.parted[pairOf(from, at)]; ok {
		again = parted.again
	}
	emit(c, c.Graph.HearBridged(from, at, c.Now.Add(a.hold(again)), c.Now))
}

// segmentChanged counts how often two ports are found to be on one segment and not to
// be, and has those that are new probed soon.
func (a *App) segmentChanged(c *controller.Context, e topology.SegmentChanged) {
	if e.A == e.B {
		return
	}
	key := pairOf(e.A, e.B)
	parted, was := a.parted[key]
	if !e.Joined {
		for k, p := range a.parted {
			if c.Now.Sub(p.at) > partedFor && p.at.After(time.Time{}) {
				delete(a.parted, k)
			}
		}
		if len(a.parted) < maxParted && isUp(c, e.A) && isUp(c, e.B) {
			a.parted[key] = parting{c.Now, parted.again}
		}
		return
	}
	switch {
	case !was:
	case c.Now.Sub(parted.at) > partedFor:
		delete(a.parted, key)
	default:
		a.parted[key] = parting{parted.at, parted.again + 1}
	}
	for _, end := range []topology.Place{e.A, e.B} {
		if p := a.ports[end]; p != nil {
			p.bridged.next = c.Now.Add(segmentEvery)
		}
	}
	c.WakeAt(c.Now.Add(segmentEvery))
}

// suspect probes two ports at which one host seems to be: what is sent out of the one
// may come back at the other.
func (a *App) suspect(c *controller.Context, vlan uint16, ends ...topology.Place) {
	snap := c.Graph.Snapshot()
	for _, at := range ends {
		p := a.ports[at]
		if p == nil || !snap.IsEdge(at) || c.Now.Sub(p.bridged.suspected) < suspectEvery {
			continue
		}
		p.bridged.suspected = c.Now
		a.probeBridge(c, at, p, probeSegment)
		a.broadcastProbe(c, at, p, 0)
		if vlan != 0 {
			a.broadcastProbe(c, at, p, vlan)
		}
	}
}
