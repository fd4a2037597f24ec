package balancer

import (
	"cmp"
	"slices"
)

// Sizes of a slot table: always a power of two.
const (
	MinSlots = 16
	MaxSlots = 256
)

// slotsPerUnit is the number of slots that a unit of weight should have, so that
// rounding to whole slots stays small.
const slotsPerUnit = 8

// rowSlots is the length of the runs of slots that are kept balanced: a selector
// that has but a few hash bits to tell the connections of one client apart spreads
// them over one aligned run of this length.
const rowSlots = 16

// NoMember is the owner of a slot that nobody can serve.
const NoMember uint16 = 0xffff

// Slots is the slot table of one listener: slot i stands for bucket i of a select
// group of len(Home) equal buckets. Entries are member indexes
// (MemberRecord.Index) or NoMember.
type Slots struct {
	// Home is the table by intent: weights and admin states alone.
	Home []uint16 `json:"home"`
	// Owner is the table as last known: members that are not up lend their slots
	// to others. It has the length of Home.
	Owner []uint16 `json:"owner"`
	// Backup is the table of the backup members, by intent: it stands in for Home
	// when no ordinary member can serve. It has the length of Home, or is empty
	// where there are none.
	Backup []uint16 `json:"backup,omitempty"`
}

// owns says whether a member holds a slot that is its own by the owners given, which
// may be of a table that has doubled since.
func (s Slots) owns(owners []uint16, id uint16) bool {
	for j, owner := range stretch(owners, len(s.Home)) {
		if owner == id && (s.Home[j] == id || len(s.Backup) > 0 && s.Backup[j] == id) {
			return true
		}
	}
	return false
}

// keepOwners gives the slots to those who owned them before, and to nobody else: in a
// pool with a monitor a member owns none until it is known to serve.
func (s Slots) keepOwners(before []uint16, members []MemberRecord) {
	copy(s.Owner, stretch(before, len(s.Owner)))
	for j, id := range s.Owner {
		if !slices.ContainsFunc(members, func(m MemberRecord) bool { return m.Index == id }) {
			s.Owner[j] = NoMember
		}
	}
}

// SlotMember is a member as Assign sees it. A Weight of 0 gets no slots.
type SlotMember struct {
	ID     uint16
	Weight int
	Backup bool // its slots are those of Slots.Backup
}

// Assign returns the slot table for members, made of the previous one, which is
// the zero value at first. The IDs of members differ; none is NoMember.
//
// The number of slots is a power of two, MinSlots to MaxSlots, with 8 slots or
// more per unit of weight (weights over their greatest common divisor) where that
// fits. It never shrinks, and grows by doubling: slot j of 2S starts as slot j mod
// S, so that a hash value keeps its owner. Each member's quota of slots is its
// share by weight, rounded down or up: up for those who have that many already,
// then by largest remainders, ties to the lower ID. A share of less than half a
// slot may get none. A member keeps the slots it has, up to its quota; only the
// surplus, and what nobody of members holds, moves. No other table with these
// quotas has fewer slots with a new owner.
//
// Slots change hands so that any run of consecutive slots stays balanced. The
// result depends on prev and on the set of members, not on their order. Backup
// members have a table of their own, of the same length and by the same rules. In
// Owner, slots on loan to a member with slots of its own stay so; all others are as
// in Home. Assign keeps neither argument.
func Assign(prev Slots, members []SlotMember) Slots {
	ids, weights := sharing(members, false)
	backupIDs, backupWeights := sharing(members, true)
	size := max(tableSize(len(prev.Home), weights), tableSize(len(prev.Home), backupWeights))
	before := stretch(prev.Home, size)
	s := Slots{Home: slices.Clone(before)}
	move(s.Home, ids, quotas(weights, ids, before), nil)
	if len(backupIDs) > 0 {
		was := stretch(prev.Backup, size)
		s.Backup = slices.Clone(was)
		move(s.Backup, backupIDs, quotas(backupWeights, backupIDs, was), nil)
	}

	s.Owner = slices.Clone(s.Home)
	for j, lent := range stretch(prev.Owner, size) {
		if lent != before[j] && (slices.Contains(s.Home, lent) || slices.Contains(s.Backup, lent)) {
			s.Owner[j] = lent
		}
	}
	return s
}

// sharing returns the members with a weight, ordinary or backup ones, by their IDs.
func sharing(members []SlotMember, backup bool) (ids []uint16, weights []int) {
	some := slices.DeleteFunc(slices.Clone(members), func(m SlotMember) bool { return m.Weight <= 0 || m.Backup != backup })
	slices.SortFunc(some, func(a, b SlotMember) int { return cmp.Compare(a.ID, b.ID) })
	for _, m := range some {
		ids, weights = append(ids, m.ID), append(weights, m.Weight)
	}
	return ids, weights
}

// Spread returns the present owners of the slots, for a table of homes and the
// owners before (nil, of the length of home, or of a table that has doubled
// since). A slot whose home is up belongs to it. The others are shared by the
// members that are up, so that the slots of each, its own and those on loan, are
// in proportion to its own within one; of those, present owners keep what they
// have on loan up to that share. With no home up all slots are NoMember's. up is
// asked once for each member with slots of its own. Spread changes neither slice.
func Spread(home, prevOwner []uint16, up func(id uint16) bool) []uint16 {
	count := map[uint16]int{}
	for _, id := range home {
		count[id]++
	}
	delete(count, NoMember)
	var ids []uint16
	for id := range count {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	ids = slices.DeleteFunc(ids, func(id uint16) bool { return !up(id) })
	own := make([]int, len(ids))
	for i, id := range ids {
		own[i] = count[id]
	}

	before := stretch(prevOwner, len(home))
	owner := make([]uint16, len(home))
	for j := range owner {
		if _, ok := slices.BinarySearch(ids, home[j]); ok {
			owner[j] = home[j]
		} else {
			owner[j] = before[j]
		}
	}
	move(owner, ids, quotas(own, ids, owner), home)
	return owner
}

// tableSize returns the number of slots for weights, all above 0, where the
// table had prev before.
func tableSize(prev int, weights []int) int {
	unit, sum := 0, 0
	for _, w := range weights {
		unit, sum = gcd(w, unit), sum+w
	}
	size := max(prev, MinSlots)
	for size < MaxSlots && unit > 0 && size < sum/unit*slotsPerUnit {
		size *= 2
	}
	return size
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// stretch returns a copy of table repeated up to size, or nobody's slots where
// there is no table.
func stretch(table []uint16, size int) []uint16 {
	long := make([]uint16, size)
	for j := range long {
		if len(table) == 0 {
			long[j] = NoMember
		} else {
			long[j] = table[j%len(table)]
		}
	}
	return long
}

// quotas shares the slots of a table by weights. Each share is rounded down or up:
// up for those who have that many slots already, so that none moves for the sake
// of rounding, and for the others by largest remainders, ties to the first.
// Without weights there are no quotas.
func quotas(weights []int, ids, table []uint16) []int {
	size, sum := len(table), 0
	for _, w := range weights {
		sum += w
	}
	held := make([]int, len(ids))
	for _, id := range table {
		if i, ok := slices.BinarySearch(ids, id); ok {
			held[i]++
		}
	}
	q := make([]int, len(weights))
	order := make([]int, len(weights))
	left := size
	for i, w := range weights {
		q[i] = size * w / sum
		left -= q[i]
		order[i] = i
	}
	remainder := func(i int) int { return size * weights[i] % sum }
	has := func(i int) int { // 1 for who would lose a slot by rounding down
		if held[i] > q[i] && remainder(i) > 0 {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(has(b), has(a)), cmp.Compare(remainder(b), remainder(a)))
	})
	for _, i := range order[:min(left, len(order))] {
		q[i]++
	}
	return q
}

// move gives ids[i] exactly quota[i] slots of the table with as few changes as
// can be. Slots that pinned gives to the same owner are never taken from it; the
// quotas leave room for them. ids are in order; quotas add up to the table, or
// there are none.
func move(table, ids []uint16, quota []int, pinned []uint16) {
	held := make([]int, len(ids))
	for j, id := range table {
		if i, ok := slices.BinarySearch(ids, id); ok {
			held[i]++
		} else {
			table[j] = NoMember
		}
	}
	free := make([]int, (len(table)+rowSlots-1)/rowSlots) // slots of each row without an owner
	for j, id := range table {
		if id == NoMember {
			free[j/rowSlots]++
		}
	}
	for i, id := range ids {
		for ; held[i] > quota[i]; held[i]-- {
			j := surplus(table, id, free, pinned)
			table[j] = NoMember
			free[j/rowSlots]++
		}
	}
	deal(table, ids, quota, held)
}

// surplus picks the slot that id gives up next: of the rows where it has most,
// the one with the fewest slots to hand out so far.
func surplus(table []uint16, id uint16, free []int, pinned []uint16) int {
	best, bestHas := -1, 0
	for row := range free {
		last, has := -1, 0
		for j := row * rowSlots; j < min(len(table), (row+1)*rowSlots); j++ {
			if table[j] != id {
				continue
			}
			has++
			if pinned == nil || pinned[j] != id {
				last = j
			}
		}
		if last >= 0 && (best < 0 || has > bestHas || has == bestHas && free[row] < free[best/rowSlots]) {
			best, bestHas = last, has
		}
	}
	return best
}

// deal hands out the slots without an owner from the first to the last. A member
// that has less than its share of the row comes first; among equals, the one that
// is furthest behind its pace: one that is owed d slots is due for its k-th when
// (2k-1)/2d of all are dealt. So equal members take turns.
func deal(table, ids []uint16, quota, held []int) {
	owed, dealt := make([]int, len(ids)), make([]int, len(ids))
	for i := range ids {
		owed[i] = quota[i] - held[i]
	}
	for row := range slices.Chunk(table, rowSlots) {
		in := make([]int, len(ids)) // slots of this row
		for _, id := range row {
			if i, ok := slices.BinarySearch(ids, id); ok {
				in[i]++
			}
		}
		// rank is lowest for whom a slot of this row suits best.
		rank := func(i int) int {
			share := quota[i] * len(row) // in 1/len(table) slots
			switch {
			case in[i] < share/len(table):
				return 0
			case in[i]*len(table) < share:
				return 1
			}
			return 2
		}
		for j, id := range row {
			if id != NoMember {
				continue
			}
			next := -1
			for i := range ids {
				if dealt[i] == owed[i] {
					continue
				}
				if next < 0 || rank(i) < rank(next) ||
					rank(i) == rank(next) && (2*dealt[i]+1)*owed[next] < (2*dealt[next]+1)*owed[i] {
					next = i
				}
			}
			if next < 0 {
				return
			}
			row[j] = ids[next]
			dealt[next]++
			in[next]++
		}
	}
}

// Fewer returns the table of size slots that stands for a larger one, size dividing
// its length: a hash value has slot j of it where it had one of j, j+size, … before.
// Slot j is one of theirs, the first whose owner has not got its share yet; shares
// are those of the larger table, by largest remainder, and where there are slots
// enough nobody is left with none. Slots whose owners all have their share go to
// those who do not. Owners are compared by ID alone; the result depends on nothing
// but the table.
func Fewer(owners []uint16, size int) []uint16 {
	count := map[uint16]int{}
	for _, id := range owners {
		count[id]++
	}
	var ids []uint16
	for id := range count {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	left := map[uint16]int{}
	dealt := 0
	rest := func(id uint16) int { return count[id] * size % len(owners) }
	for _, id := range ids {
		left[id] = count[id] * size / len(owners)
		if left[id] == 0 && len(ids) <= size {
			left[id] = 1
		}
		dealt += left[id]
	}
	byRest := slices.Clone(ids)
	slices.SortStableFunc(byRest, func(a, b uint16) int { return cmp.Compare(rest(b), rest(a)) })
	for _, id := range byRest {
		if dealt < size && (rest(id) > 0 && count[id]*size >= len(owners) || left[id] == 0) {
			left[id]++
			dealt++
		}
	}
	for dealt > size { // those who were given one slot out of turn cost those who have most
		most := slices.MaxFunc(ids, func(a, b uint16) int { return cmp.Compare(left[a], left[b]) })
		left[most]--
		dealt--
	}
	table := make([]uint16, size)
	var open []int
	for j := range table {
		table[j] = NoMember
		for k := j; k < len(owners); k += size {
			if left[owners[k]] > 0 {
				table[j] = owners[k]
				left[owners[k]]--
				break
			}
		}
		if table[j] == NoMember {
			open = append(open, j)
		}
	}
	for _, j := range open {
		next := slices.MaxFunc(ids, func(a, b uint16) int { return cmp.Compare(left[a], left[b]) })
		if left[next] > 0 {
			table[j] = next
			left[next]--
		}
	}
	return table
}
