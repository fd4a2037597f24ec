package simswitch

import (
	"hash/fnv"
	"maps"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// group is one entry of the group table (§5.6).
type group struct {
	typ     ofproto.GroupType
	buckets []ofproto.Bucket
	counter ofproto.Counter
	each    []ofproto.Counter
}

// groupMod is §6.7.
func (s *Switch) groupMod(m *ofproto.GroupMod) *ofproto.Error {
	if s.o.NoGroups {
		return bad(ofproto.ErrorBadRequest, ofproto.CodeBadType)
	}
	old := s.groups[m.Group]
	switch m.Command {
	case ofproto.GroupDelete:
		if m.Group == ofproto.GroupAll {
			for id := range s.groups {
				s.dropGroup(id)
			}
			return nil
		}
		if s.referred(m.Group) {
			return bad(ofproto.ErrorGroupModFailed, groupChained)
		}
		s.dropGroup(m.Group)
		return nil
	case ofproto.GroupAdd:
		if old != nil {
			return bad(ofproto.ErrorGroupModFailed, ofproto.CodeGroupExists)
		}
		if s.o.MaxGroups > 0 && len(s.groups) >= s.o.MaxGroups {
			return bad(ofproto.ErrorGroupModFailed, ofproto.CodeOutOfGroups)
		}
	case ofproto.GroupModify:
		if old == nil {
			return bad(ofproto.ErrorGroupModFailed, ofproto.CodeUnknownGroup)
		}
	default:
		return bad(ofproto.ErrorGroupModFailed, groupBadCommand)
	}
	if err := s.checkGroup(m); err != nil {
		return err
	}
	g := &group{typ: m.Type, buckets: m.Buckets, each: make([]ofproto.Counter, len(m.Buckets))}
	if old != nil {
		g.counter = old.counter // those of the group survive, its buckets are new
	}
	s.groups[m.Group] = g
	return nil
}

func (s *Switch) checkGroup(m *ofproto.GroupMod) *ofproto.Error {
	fail := func(code uint16) *ofproto.Error { return bad(ofproto.ErrorGroupModFailed, code) }
	switch {
	case m.Group > ofproto.GroupMax:
		return fail(groupInvalid)
	case m.Type > ofproto.GroupTypeFastFailover,
		m.Type == ofproto.GroupTypeSelect && s.o.NoSelect, m.Type == ofproto.GroupTypeFastFailover && s.o.NoFailover:
		return fail(groupBadType)
	case s.o.MaxBuckets > 0 && len(m.Buckets) > s.o.MaxBuckets:
		return fail(ofproto.CodeOutOfBuckets)
	case m.Type == ofproto.GroupTypeIndirect && len(m.Buckets) != 1:
		return fail(groupInvalid)
	}
	for _, b := range m.Buckets {
		watches := b.WatchPort != ofproto.PortAny || b.WatchGroup != ofproto.GroupAny
		switch {
		case b.Weight != 0 && m.Type != ofproto.GroupTypeSelect:
			return fail(groupBadBucket)
		case watches && m.Type != ofproto.GroupTypeSelect && m.Type != ofproto.GroupTypeFastFailover:
			return fail(groupWatchUnsup)
		case !watches && m.Type == ofproto.GroupTypeFastFailover:
			return fail(groupBadWatch)
		case b.WatchGroup != ofproto.GroupAny && s.o.NoWatch:
			return fail(groupWatchUnsup)
		case b.WatchGroup != ofproto.GroupAny && s.groups[b.WatchGroup] == nil:
			return fail(groupBadWatch)
		}
		for _, a := range b.Actions {
			if g, ok := a.(ofproto.Group); ok {
				if s.o.NoChaining {
					return fail(groupChainingUnsup)
				}
				if g.ID == m.Group || s.reaches(g.ID, m.Group) {
					return fail(groupLoop)
				}
			}
		}
		if err := s.checkActions(b.Actions, nil, false); err != nil {
			return err
		}
	}
	return nil
}

// next yields the groups that a group hands packets to.
func (g *group) next(yield func(ofproto.GroupID)) {
	for _, b := range g.buckets {
		for _, a := range b.Actions {
			if a, ok := a.(ofproto.Group); ok {
				yield(a.ID)
			}
		}
	}
}

func (s *Switch) reaches(from, to ofproto.GroupID) (found bool) {
	if g := s.groups[from]; g != nil {
		g.next(func(id ofproto.GroupID) { found = found || id == to || s.reaches(id, to) })
	}
	return found
}

func (s *Switch) referred(to ofproto.GroupID) (found bool) {
	for _, g := range s.groups {
		g.next(func(id ofproto.GroupID) { found = found || id == to })
	}
	return found
}

// dropGroup removes a group and the flows that use it (§6.7).
func (s *Switch) dropGroup(id ofproto.GroupID) {
	delete(s.groups, id)
	for t := range s.tables {
		for _, f := range slices.Clone(s.tables[t].entries) {
			if groupOf(f.Instructions, id) {
				s.removeFlow(f, ofproto.RemovedGroupDelete)
			}
		}
	}
}

func (s *Switch) groupDescs() []ofproto.GroupDesc {
	var out []ofproto.GroupDesc
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		out = append(out, ofproto.GroupDesc{Type: s.groups[id].typ, Group: id, Buckets: s.groups[id].buckets})
	}
	return out
}

func (s *Switch) groupStats(want ofproto.GroupID) []ofproto.GroupStats {
	var out []ofproto.GroupStats
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		if g := s.groups[id]; want == ofproto.GroupAll || want == id {
			out = append(out, ofproto.GroupStats{Group: id, Packets: g.counter.Packets, Bytes: g.counter.Bytes, Buckets: slices.Clone(g.each)})
		}
	}
	return out
}

// live is the liveness of a bucket (§5.6.1): one that watches nothing always is.
func (s *Switch) live(b ofproto.Bucket) bool {
	if b.WatchPort == ofproto.PortAny && b.WatchGroup == ofproto.GroupAny {
		return true
	}
	return b.WatchPort != ofproto.PortAny && s.up(b.WatchPort) || b.WatchGroup != ofproto.GroupAny && s.groupLive(b.WatchGroup)
}

func (s *Switch) groupLive(id ofproto.GroupID) bool {
	g := s.groups[id]
	return g != nil && slices.ContainsFunc(g.buckets, s.live)
}

// choose returns the index of the bucket of a select group that a packet takes: its
// hash modulo the sum of weights, and the next live one if that is dead. -1: none.
func (s *Switch) choose(g *group, p *inFlight) int {
	total := 0
	for _, b := range g.buckets {
		total += int(b.Weight)
	}
	if total == 0 {
		return -1
	}
	at, left := 0, int(Hash(p.frame)%uint64(total))
	for ; left >= int(g.buckets[at].Weight); at++ {
		left -= int(g.buckets[at].Weight)
	}
	for i := range g.buckets {
		if j := (at + i) % len(g.buckets); s.live(g.buckets[j]) && g.buckets[j].Weight > 0 {
			return j
		}
	}
	return -1
}

// Hash is the hash of a frame by which select groups choose: over addresses,
// protocol, and the ports of TCP and SCTP. As with Open vSwitch's default, UDP ports
// are not in it. It is the same on every switch.
func Hash(frame []byte) uint64 {
	h := fnv.New64a()
	f, err := packet.Decode(frame)
	if err != nil {
		return 0
	}
	src, dst, ok := f.Addrs()
	if !ok {
		h.Write(frame[:14])
	}
	a, b := src.As16(), dst.As16()
	h.Write(a[:])
	h.Write(b[:])
	h.Write([]byte{f.Proto()})
	if sp, dp, ok := f.Ports(); ok && f.Proto() != packet.ProtoUDP {
		h.Write([]byte{byte(sp >> 8), byte(sp), byte(dp >> 8), byte(dp)})
	}
	v := h.Sum64()
	v ^= v >> 29
	v *= 0xbf58476d1ce4e5b9
	return v ^ v>>32
}
