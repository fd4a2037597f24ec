// Package trace follows a packet through the flow tables and groups of switches
// (OpenFlow 1.3.5 §5) without sending it: what each table makes of it, which bucket a
// select group takes, what connection tracking would do with the first packet of a
// connection and with the answer to it, and where the packet leaves.
//
// It knows nothing of apps. What is followed may be what a switch is to hold or what it
// was found to hold. The package is pure: no clock, no socket, no goroutine.
package trace

import (
	"cmp"
	"slices"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Entry is a flow entry of a switch.
type Entry struct {
	flowtable.Flow
	Cookie  uint64
	Part    flowtable.PartKey // that desires it; zero where none does
	Altered bool              // it was found to be other than its cookie stands for
}

// Group is a group entry of a switch.
type Group struct {
	flowtable.Group
	Part flowtable.PartKey // that desires it; zero where none does
}

// Hash returns the number by which a switch chooses among the buckets of a select
// group: bucket number modulo S of S equal buckets. ok is false for packets whose hash
// is not known.
type Hash func(*Packet) (value uint32, ok bool)

// Switch is the state of one switch that a packet meets. Nobody may change it while
// it is in use.
type Switch struct {
	DPID   ofproto.DPID
	Ports  map[ofproto.Port]bool // that it has; whether each is up
	Groups map[ofproto.GroupID]*Group
	Hash   Hash // of select groups; nil: not known
	// Source is the hash of the multipath action over the source address, which has a
	// basis; nil: not known.
	Source func(p *Packet, basis uint16) (value uint32, ok bool)
	NoHash string // why they are not known

	tables map[ofproto.Table][]*Entry
}

// NewSwitch returns a switch with these entries. It keeps them.
func NewSwitch(dpid ofproto.DPID, entries []Entry, groups []Group) *Switch {
	s := &Switch{
		DPID: dpid, Ports: map[ofproto.Port]bool{}, NoHash: "how the switch hashes is not known",
		Groups: make(map[ofproto.GroupID]*Group, len(groups)), tables: map[ofproto.Table][]*Entry{},
	}
	for i := range entries {
		s.tables[entries[i].Table] = append(s.tables[entries[i].Table], &entries[i])
	}
	for _, es := range s.tables {
		// Which of two entries of one priority a packet meets is not defined (§5.3): here
		// it is always the same one.
		slices.SortFunc(es, func(a, b *Entry) int {
			return cmp.Or(-cmp.Compare(a.Priority, b.Priority), cmp.Compare(string(a.Match), string(b.Match)))
		})
	}
	for i := range groups {
		s.Groups[groups[i].ID] = &groups[i]
	}
	return s
}

// Entry returns the entry of that table, priority and match, or nil.
func (s *Switch) Entry(k flowtable.FlowKey) *Entry {
	for _, e := range s.tables[k.Table] {
		if e.Priority == k.Priority && string(e.Match) == k.Match {
			return e
		}
	}
	return nil
}

// lookup returns the entry of the highest priority that matches, or nil.
func (s *Switch) lookup(table ofproto.Table, p *Packet) *Entry {
	for _, e := range s.tables[table] {
		if p.matches(e.Match) {
			return e
		}
	}
	return nil
}

// live is the liveness of a bucket (§5.6.1): one that watches nothing always is.
func (s *Switch) live(b *ofproto.Bucket, depth int) bool {
	if b.WatchPort == ofproto.PortAny && b.WatchGroup == ofproto.GroupAny {
		return true
	}
	if b.WatchPort != ofproto.PortAny && s.Ports[b.WatchPort] {
		return true
	}
	g := s.Groups[b.WatchGroup]
	if b.WatchGroup == ofproto.GroupAny || g == nil || depth >= maxDepth {
		return false
	}
	return slices.ContainsFunc(g.Buckets, func(b ofproto.Bucket) bool { return s.live(&b, depth+1) })
}

// choose returns the bucket of a select group that a packet takes and the one that its
// hash means, which is another where that one is dead. Where it cannot be told taken is
// -1, and why says why; it is -1 with no reason where no bucket is live.
func (s *Switch) choose(g *Group, p *Packet) (taken, meant int, why string) {
	n := len(g.Buckets)
	live := func(i int) bool { return g.Buckets[i].Weight > 0 && s.live(&g.Buckets[i], 0) }
	first := -1
	same := true // all that are live do the same
	for i := range n {
		if !live(i) {
			continue
		}
		if first < 0 {
			first = i
		}
		same = same && ofproto.FormatActions(g.Buckets[i].Actions) == ofproto.FormatActions(g.Buckets[first].Actions)
	}
	if first < 0 {
		return -1, -1, ""
	}
	var value uint32
	known := false
	if why = s.NoHash; s.Hash != nil {
		if value, known = s.Hash(p); !known {
			why = "the switch's hash of such a packet is not known"
		}
	}
	for i := range n {
		if g.Buckets[i].Weight != g.Buckets[0].Weight || n&(n-1) != 0 || n > 256 {
			known, why = false, "its buckets are not equal, or no power of two: which hash goes to which is the switch's own affair"
		}
	}
	switch {
	case known:
		meant = int(value % uint32(n))
		for taken = meant; !live(taken); {
			taken = (taken + 1) % n
		}
		return taken, meant, ""
	case n == 1:
		return 0, 0, ""
	case same:
		// Whichever it is, the packet fares the same.
		return first, -1, why
	}
	return -1, -1, why
}
