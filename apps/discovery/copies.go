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
// circle shows by what it does: one frame comes in again and again at a port that it did
// not come in by first. Such a port is blocked for a while. It is always the one of the
// copies: who repeats the frames of others is cut off, and not who sent them.
const (
	// copiesMost is how many copies of one frame a port may bring in copiesWithin. One
	// copy of each is what a part of the network brings that two switches are plugged into.
	copiesMost   = 30
	copiesWithin = time.Second
	// copiesRest is how long nothing is counted after a port was blocked: what is under
	// way has to end first.
	copiesRest = time.Second
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
	first topology.Place
	last  time.Time
	since time.Time              // of the counts
	at    map[topology.Place]int // copies by where they came in
}

// comesBack takes in a frame to a group of a host, and says whether it is one of many
// copies: then it tells nothing of where its host is.
func (a *App) comesBack(c *controller.Context, at topology.Place, f packet.Frame, data []byte) bool {
	if !packet.IsGroup(f.Ethernet().Dst) {
		return false
	}
	snap := c.Graph.Snapshot()
	// On a segment, each of the domains around it sees what is sent there.
	if !snap.IsEdge(at) || snap.IsOnSegment(at) {
		return false
	}
	k := &a.copies
	if c.Now.Sub(k.swept) > copiesWithin {
		k.swept = c.Now
		for key, one := range k.frames {
			if c.Now.Sub(one.last) > 2*copiesWithin {
				delete(k.frames, key)
			}
		}
	}
	h := fnv.New64a()
	h.Write(data)
	one := k.frames[h.Sum64()]
	if one == nil {
		if len(k.frames) < maxCopied {
			k.frames[h.Sum64()] = &copied{first: at, last: c.Now, since: c.Now}
		}
		return false
	}
	one.last = c.Now
	if at == one.first || k.rest.After(c.Now) {
		return false
	}
	if c.Now.Sub(one.since) > copiesWithin || one.at == nil {
		one.since, one.at = c.Now, map[topology.Place]int{}
	}
	if one.at[at]++; one.at[at] < copiesMost {
		return one.at[at] > 1
	}
	one.at = nil
	k.rest = c.Now.Add(copiesRest)
	reason := fmt.Sprintf("a circle: broadcasts of %v, first seen at %v, come back here", ofproto.MAC(f.Ethernet().Src), one.first)
	if sw := c.Switch(ofproto.DPID(at.DPID)); sw != nil && sw.Stage == controller.StageManaged {
		emit(c, c.Graph.Block(at, topology.Block{Guard: topology.GuardLoop, Reason: reason, Until: c.Now.Add(guardHold)}, c.Now))
	} else if c.Now.Sub(k.told) >= guardHold {
		k.told = c.Now
		c.Notify("port", map[string]any{"event": "circle", "dpid": at.DPID, "port": uint32(at.Port), "reason": reason})
	}
	return true
}
