package discovery

import (
	"fmt"
	"hash/fnv"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// Where something passes on ordinary broadcasts and none of the controller's probes, a
// circle shows by what it does: one frame comes in again and again, at more ports than the
// one of its host. The port that brings the most is blocked for a while.
const (
	// copiesMost is how often a port may bring one frame in copiesWithin, where another
	// port brings it as well: in a circle that does so half as often at least; or it is the
	// host's own, and brings next to none. A host that itself sends one frame that often to
	// two ports looks the same.
	copiesMost   = 30
	copiesWithin = time.Second
	// copiesRest is how long nothing is counted after a port was blocked: what is under
	// way has to end first.
	copiesRest = 3 * time.Second
	// maxCopied bounds the frames remembered.
	maxCopied = 4096
)

// copies are the broadcasts seen of late.
type copies struct {
	frames map[uint64]*copied
	swept  time.Time
	rest   time.Time // not counted until then
	told   time.Time // that a switch that is not managed has a circle
}

// copied is one frame.
type copied struct {
	since time.Time
	at    map[topology.Place]int // how often it came in since, by port
}

// circle says whether a frame goes round by way of a port.
func (k *copied) circle(at topology.Place) bool {
	if k.at[at] < copiesMost {
		return false
	}
	for other, n := range k.at {
		if other != at && (n >= copiesMost/2 || n <= copiesMost/10) {
			return true
		}
	}
	return false
}

// comesBack takes in a frame to a group of a host, and says whether it is a copy: then it
// tells nothing of where its host is.
func (a *App) comesBack(c *controller.Context, e controller.PacketIn, f packet.Frame) bool {
	_, arp := f.ARP()
	_, nd := f.ND()
	if !packet.IsGroup(f.Ethernet().Dst) || e.Table != controller.TableIngress && (arp || nd) { // of these there is a copy of ingress
		return false
	}
	at := place(e.DPID, e.InPort)
	snap := c.Graph.Snapshot()
	// On a segment, each of the domains around it sees what is sent there.
	if !snap.IsEdge(at) || snap.IsOnSegment(at) {
		return false
	}
	k := &a.copies
	if c.Now.Sub(k.swept) > copiesWithin {
		k.swept = c.Now
		for key, one := range k.frames {
			if c.Now.Sub(one.since) > copiesWithin {
				delete(k.frames, key)
			}
		}
	}
	h := fnv.New64a()
	h.Write(e.Data)
	one := k.frames[h.Sum64()]
	if one == nil || c.Now.Sub(one.since) > copiesWithin {
		if len(k.frames) < maxCopied {
			k.frames[h.Sum64()] = &copied{since: c.Now, at: map[topology.Place]int{at: 1}}
		}
		return false
	}
	one.at[at]++
	src := f.Ethernet().Src
	tag, _ := f.VLAN()
	if k.rest.After(c.Now) || !one.circle(at) {
		home, known := snap.Host(topology.MAC(src), tag.ID)
		return one.at[at] > 1 && len(one.at) > 1 && known && home.Place != at
	}
	delete(k.frames, h.Sum64())
	k.rest = c.Now.Add(copiesRest)
	reason := fmt.Sprintf("a circle: a broadcast of %v came in %d times in a second, and elsewhere too", ofproto.MAC(src), copiesMost)
	if sw := c.Switch(e.DPID); sw != nil && sw.Stage == controller.StageManaged {
		emit(c, c.Graph.Block(at, topology.Block{Guard: topology.GuardLoop, Reason: reason, Until: c.Now.Add(guardHold)}, c.Now))
	} else if c.Now.Sub(k.told) >= guardHold {
		k.told = c.Now
		c.Notify("port", map[string]any{"event": "circle", "dpid": at.DPID, "port": uint32(at.Port), "reason": reason})
	}
	return true
}
