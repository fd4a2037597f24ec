package topology

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Guard is what a port was blocked by.
type Guard uint8

// The guards.
const (
	// GuardBPDU: a bridge announced itself where none should be.
	GuardBPDU Guard = iota
	// GuardLoop: what was sent into the network came back at the port.
	GuardLoop
)

// Block keeps an edge port out of use for a while: nothing is sent to it and nothing
// taken from it, but probes.
type Block struct {
	Guard  Guard
	Reason string // for operators
	Until  time.Time
}

// Block blocks an edge port, whose hosts are forgotten, or has one that is blocked stay so
// until then. The block outlives that the port goes down; it ends early where the port
// turns out to be the end of a link, and with Unblock. Other ports are left alone.
func (g *Graph) Block(p Place, b Block, now time.Time) []Event {
	g.tick(now)
	if old, ok := g.blocks[p]; ok {
		if b.Until.After(old.Until) {
			old.Until = b.Until
			g.blocks[p] = old
		}
		return nil
	}
	if !g.isEdge(p) || !b.Until.After(g.now) {
		return nil
	}
	g.blocks[p] = b
	return g.changed(append([]Event{PortBlocked{p, b.Reason}}, g.flush(p, ReasonBlocked, true)...))
}

// SeedBlock records a block from before a restart.
func (g *Graph) SeedBlock(p Place, b Block, now time.Time) []Event {
	g.tick(now)
	if _, ok := g.blocks[p]; ok || !b.Until.After(g.now) {
		return nil
	}
	g.blocks[p] = b
	return g.changed([]Event{PortBlocked{p, b.Reason}})
}

// Unblock ends the blocks of a switch by one guard.
func (g *Graph) Unblock(id DPID, by Guard, now time.Time) []Event {
	g.tick(now)
	return g.changed(g.unblock(func(p Place, b Block) bool { return p.DPID == id && b.Guard == by }))
}

// unblock ends blocks. A port that is let go settles as one that came up.
func (g *Graph) unblock(over func(Place, Block) bool) (evs []Event) {
	for _, p := range slices.SortedFunc(maps.Keys(g.blocks), Place.Compare) {
		if over(p, g.blocks[p]) {
			delete(g.blocks, p)
			g.delay(p)
			evs = append(evs, PortBlocked{p, ""})
		}
	}
	return evs
}

// PortBlocked tells that a port is kept out of use for a reason; without one, that it is
// not any more.
type PortBlocked struct {
	Place  Place
	Reason string
}

func (PortBlocked) fabric() bool { return true }

// String returns the event in one line.
func (e PortBlocked) String() string {
	if e.Reason == "" {
		return fmt.Sprintf("port unblocked %v", e.Place)
	}
	return fmt.Sprintf("port blocked %v (%s)", e.Place, e.Reason)
}

// Blocked returns why a port is blocked: by a guard, because another leads to its segment,
// or to the switch at its other end, which forwards on its own. Empty: it is not.
func (f *fabric) Blocked(p Place) string {
	if b, ok := f.blocks[p]; ok {
		return b.Reason
	}
	if why, ok := f.closed[p]; ok {
		return why
	}
	if i, ok := f.segmentAt[p]; ok {
		for _, o := range f.segments[i].Ports {
			if o.Place == p && o.Role == RoleBlocked {
				return o.Reason
			}
		}
	}
	return ""
}

// Blocks returns the ports that guards keep out of use.
func (f *fabric) Blocks() map[Place]Block { return f.blocks }
