package balancer

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// alike gives listeners whose pools have the same members, weights and persistence the
// same slots, so that a client has the same member on all of them: with source_ip on all
// of a VIP, with source_ip_protocol on those of one protocol. The slots are those of the
// listener that had them before, the first of several.
func (rec *Record) alike(old Record) {
	had := func(i int) int { // 0 before 1
		if slices.ContainsFunc(old.Listeners, func(o ListenerRecord) bool { return o.Key == rec.Listeners[i].Key }) {
			return 0
		}
		return 1
	}
	kinds := map[string][]int{}
	for i, l := range rec.VIP.Listeners {
		if kind := likeness(l); kind != "" {
			kinds[kind] = append(kinds[kind], i)
		}
	}
	for _, like := range kinds {
		first := slices.MinFunc(like, func(i, j int) int {
			a, b := rec.Listeners[i].Key, rec.Listeners[j].Key
			return cmp.Or(cmp.Compare(had(i), had(j)), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Port, b.Port))
		})
		from := rec.Listeners[first]
		for _, i := range like {
			if i == first {
				continue
			}
			to := &rec.Listeners[i]
			members := slices.Clone(to.Members)
			a, b := byKey(from.Members), byKey(members)
			for n := range b {
				members[b[n]].Index = from.Members[a[n]].Index
			}
			to.Members, to.Slots, to.Next = members, from.Slots, from.Next
		}
	}
}

// byKey returns the indexes of members in the order of their addresses and ports.
func byKey(members []MemberRecord) []int {
	order := make([]int, len(members))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return members[a].Key.Compare(members[b].Key) })
	return order
}

// likeness is the same for listeners that are to send a client to the same member; empty
// where there is no such.
func likeness(l Listener) string {
	var kind string
	switch l.Pool.Persistence {
	case PersistenceSourceIP:
		kind = "any"
	case PersistenceSourceIPProtocol:
		kind = string(l.Protocol)
	default:
		return ""
	}
	members := slices.Clone(l.Pool.Members)
	slices.SortFunc(members, func(a, b Member) int { return a.Key().Compare(b.Key()) })
	var s strings.Builder
	s.WriteString(kind)
	for _, m := range members {
		fmt.Fprintf(&s, " %s %d %t", m.Address, m.SlotWeight(), m.Backup)
	}
	return s.String()
}

// renumbered says whether a member has another index than it had: owners by the old
// numbers mean nothing then.
func renumbered(was, is ListenerRecord) bool {
	return slices.ContainsFunc(is.Members, func(m MemberRecord) bool {
		return slices.ContainsFunc(was.Members, func(o MemberRecord) bool { return o.Key == m.Key && o.Index != m.Index })
	})
}
