package balancer

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// equal returns n members of weight 1 with IDs 0 … n-1.
func equal(n int) []SlotMember {
	m := make([]SlotMember, n)
	for i := range m {
		m[i] = SlotMember{ID: uint16(i), Weight: 1}
	}
	return m
}

// ids numbers as many members as there are weights.
func ids(weights []int) []uint16 {
	out := make([]uint16, len(weights))
	for i := range out {
		out[i] = uint16(i)
	}
	return out
}

func counts(table []uint16) map[uint16]int {
	c := map[uint16]int{}
	for _, id := range table {
		c[id]++
	}
	return c
}

func moved(a, b []uint16) (n int) {
	for j := range b {
		if a[j%len(a)] != b[j] {
			n++
		}
	}
	return n
}

// wantQuotas is the rule in its plainest form: floors, and then one more each for
// those with a remainder who had that many before, and then for the largest
// remainders.
func wantQuotas(before []uint16, members []SlotMember) map[uint16]int {
	size, had := len(before), counts(before)
	sum, left := 0, size
	for _, m := range members {
		sum += m.Weight
	}
	q := map[uint16]int{}
	for _, m := range members {
		if m.Weight > 0 {
			q[m.ID] = size * m.Weight / sum
			left -= q[m.ID]
		}
	}
	served := map[uint16]bool{}
	for ; left > 0 && len(q) > 0; left-- {
		best := SlotMember{ID: NoMember}
		for _, m := range members {
			if m.Weight == 0 || served[m.ID] {
				continue
			}
			a, b := size*m.Weight%sum, size*best.Weight%sum
			keepsA, keepsB := a > 0 && had[m.ID] > q[m.ID], b > 0 && had[best.ID] > q[best.ID]
			if best.ID == NoMember || keepsA && !keepsB || keepsA == keepsB && (a > b || a == b && m.ID < best.ID) {
				best = m
			}
		}
		served[best.ID] = true
		q[best.ID]++
	}
	maps.DeleteFunc(q, func(_ uint16, n int) bool { return n == 0 })
	if len(q) == 0 {
		q[NoMember] = size
	}
	return q
}

// checkAssign holds one step of Assign to all that its comment promises.
func checkAssign(t testing.TB, prev Slots, members []SlotMember) Slots {
	t.Helper()
	keep := Slots{Home: slices.Clone(prev.Home), Owner: slices.Clone(prev.Owner), Backup: slices.Clone(prev.Backup)}
	got := Assign(prev, members)
	require.Equal(t, keep, prev, "the previous table was changed")

	size := len(got.Home)
	require.Contains(t, []int{16, 32, 64, 128, 256}, size)
	require.GreaterOrEqual(t, size, len(prev.Home))
	require.Len(t, got.Owner, size)
	unit, sum := 0, 0
	for _, m := range members {
		unit, sum = gcd(m.Weight, unit), sum+m.Weight
	}
	if unit > 0 && size < MaxSlots {
		require.GreaterOrEqual(t, size, slotsPerUnit*sum/unit)
	}
	if unit > 0 && size > max(MinSlots, len(prev.Home)) {
		require.Less(t, size/2, slotsPerUnit*sum/unit, "no larger than needed")
	}

	want := wantQuotas(stretch(prev.Home, size), members)
	require.Equal(t, want, counts(got.Home))

	// The least that must move: what each member lacks to its quota.
	had := counts(stretch(prev.Home, size))
	least := 0
	for id, n := range want {
		least += max(0, n-had[id])
	}
	require.Equal(t, least, moved(stretch(prev.Home, size), got.Home))

	for j, id := range got.Owner {
		if id != got.Home[j] {
			require.Contains(t, want, id, "slot %d on loan to a member without slots", j)
			require.Equal(t, prev.Owner[j%len(prev.Owner)], id)
		}
	}
	shuffled := slices.Clone(members)
	rand.New(rand.NewPCG(uint64(size), uint64(len(members)))).Shuffle(len(shuffled), func(i, j int) {
		shuffled[i], shuffled[j] = shuffled[j], shuffled[i]
	})
	require.Equal(t, got, Assign(prev, shuffled), "the order of members matters")
	require.Equal(t, got, Assign(got, members), "a second time changes something")
	return got
}

// checkSpread holds one step of Spread to all that its comment promises.
func checkSpread(t testing.TB, home, prev []uint16, up func(uint16) bool) []uint16 {
	t.Helper()
	got := Spread(home, prev, up)
	require.Len(t, got, len(home))
	own := counts(home)
	delete(own, NoMember)
	maps.DeleteFunc(own, func(id uint16, _ int) bool { return !up(id) })
	has := counts(got)
	if len(own) == 0 {
		require.Equal(t, map[uint16]int{NoMember: len(home)}, has)
		return got
	}
	total := 0
	for _, n := range own {
		total += n
	}
	for id, n := range has {
		require.Contains(t, own, id, "a slot of a member that is not up")
		share := len(home) * own[id]
		require.Less(t, (n-1)*total, share, "member %d has %d", id, n)
		require.Greater(t, (n+1)*total, share, "member %d has %d", id, n)
	}
	// A present owner gives up only what is over its share, and only so much moves
	// as must.
	least, change := 0, 0
	before := map[uint16]int{}
	for j := range home {
		switch {
		case own[home[j]] > 0:
			require.Equal(t, home[j], got[j], "slot %d is not at home", j)
		default:
			p := NoMember
			if len(prev) > 0 {
				p = prev[j%len(prev)]
			}
			before[p]++
			if p != got[j] {
				change++
			}
		}
	}
	for id, n := range own {
		least += max(0, has[id]-n-before[id])
	}
	require.Equal(t, least, change)
	require.Equal(t, got, Spread(home, got, up), "a second time changes something")
	return got
}

func TestTableSize(t *testing.T) {
	for _, c := range []struct {
		prev    int
		weights []int
		want    int
	}{
		{0, nil, 16}, {0, []int{1}, 16}, {0, []int{256}, 16}, {0, []int{1, 1}, 16}, {0, []int{7, 7}, 16},
		{0, []int{1, 2}, 32}, {0, []int{1, 1, 1}, 32}, {0, []int{4, 2, 2}, 32}, {0, []int{1, 1, 1, 1, 1}, 64},
		{0, []int{10, 10, 10, 10, 10, 10, 10, 10, 10, 10}, 128}, {0, []int{1, 16}, 256}, {0, []int{1, 256}, 256},
		{128, []int{1}, 128}, {256, nil, 256}, {32, []int{1, 1, 1, 1, 1}, 64},
	} {
		require.Equal(t, c.want, tableSize(c.prev, c.weights), "%+v", c)
	}
}

func TestQuotas(t *testing.T) {
	for _, c := range []struct {
		size    int
		weights []int
		want    []int
	}{
		{16, nil, []int{}},
		{16, []int{5}, []int{16}},
		{16, []int{1, 1, 1}, []int{6, 5, 5}},
		{256, []int{1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, []int{26, 26, 26, 26, 26, 26, 25, 25, 25, 25}},
		{32, []int{1, 2}, []int{11, 21}},
		{256, []int{1, 256}, []int{1, 255}},
		{256, []int{256, 256, 1}, []int{128, 128, 0}},
	} {
		require.Equal(t, c.want, quotas(c.weights, ids(c.weights), stretch(nil, c.size)), "%+v", c)
	}
	require.Equal(t, slices.Repeat([]int{1}, 256), quotas(slices.Repeat([]int{3}, 256), ids(slices.Repeat([]int{3}, 256)), stretch(nil, 256)))
}

// Equal members take turns on the first assignment: any aligned run has the same
// number of each, within one, and any other run within two.
func TestFirstAssignmentIsStriped(t *testing.T) {
	for n := 1; n <= MaxMembers; n += 1 + n/20 {
		home := checkAssign(t, Slots{}, equal(n)).Home
		for start := range len(home) - rowSlots + 1 {
			few, many := rowSlots/n, (rowSlots+n-1)/n
			if start%rowSlots != 0 {
				few, many = few-1, many+1
			}
			c := counts(home[start : start+rowSlots])
			for id := range n {
				if c[uint16(id)] < few || c[uint16(id)] > many {
					t.Fatalf("%d members, slots from %d: %v", n, start, c)
				}
			}
		}
	}
}

// Members of unlike weights are striped too: no run has much more of one than its
// share.
func TestFirstAssignmentByWeightIsStriped(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		members := equal(2 + rng.IntN(9))
		for i := range members {
			members[i].Weight = 1 + rng.IntN(10)
		}
		home := checkAssign(t, Slots{}, members).Home
		for id, quota := range counts(home) {
			for row := range slices.Chunk(home, rowSlots) {
				require.InDelta(t, float64(quota*rowSlots)/float64(len(home)), counts(row)[id], 2, "%v", members)
			}
		}
	}
}

// The changes of the table in the architecture: only what must move does.
func TestMovement(t *testing.T) {
	for _, n := range []int{4, 10} {
		before := checkAssign(t, Slots{}, equal(n))
		for gone := range n {
			after := checkAssign(t, before, slices.Delete(equal(n), gone, gone+1))
			require.Equal(t, counts(before.Home)[uint16(gone)], moved(before.Home, after.Home),
				"%d members without %d: a slot of a survivor moved", n, gone)
		}
		after := checkAssign(t, before, equal(n+1))
		require.LessOrEqual(t, moved(before.Home, after.Home), len(after.Home)/(n+1)+1)
		for j, id := range after.Home {
			if id != before.Home[j%len(before.Home)] {
				require.EqualValues(t, n, id, "only the new member gains")
			}
		}
	}
}

func TestDoublingMovesNothing(t *testing.T) {
	// Weights with no common divisor make for smaller units and a larger table.
	before := checkAssign(t, Slots{}, []SlotMember{{ID: 0, Weight: 1}, {ID: 1, Weight: 1}})
	require.Len(t, before.Home, 16)
	after := checkAssign(t, before, []SlotMember{{ID: 0, Weight: 50}, {ID: 1, Weight: 51}})
	require.Len(t, after.Home, 256)
	require.LessOrEqual(t, moved(before.Home, after.Home), 2, "50:51 of 256 slots")

	before = checkAssign(t, Slots{}, equal(16))
	after = checkAssign(t, before, append(equal(16), SlotMember{ID: 16, Weight: 1}))
	require.Len(t, before.Home, 128)
	require.Len(t, after.Home, 256)
	require.Equal(t, 15, moved(before.Home, after.Home), "no more than the new member's quota of 256/17")

	require.Equal(t, after, checkAssign(t, after, append(equal(16), SlotMember{ID: 16, Weight: 1})))
	shrunk := checkAssign(t, after, equal(1))
	require.Len(t, shrunk.Home, 256, "never shrinks")
}

func TestNoEligibleMember(t *testing.T) {
	for _, members := range [][]SlotMember{nil, {{ID: 3}}, {{ID: 3}, {ID: 4}}} {
		require.Equal(t, slices.Repeat([]uint16{NoMember}, 16), checkAssign(t, Slots{}, members).Home)
	}
	full := checkAssign(t, Slots{}, equal(5))
	empty := checkAssign(t, full, nil)
	require.Len(t, empty.Home, 64)
	require.Equal(t, counts(full.Home), counts(checkAssign(t, empty, equal(5)).Home))
	require.Equal(t, slices.Repeat([]uint16{NoMember}, 64), Spread(empty.Home, full.Home, func(uint16) bool { return true }))
}

// A member that fails and recovers leaves the table as it was, whatever else
// failed meanwhile.
func TestHomeOwnersComeBack(t *testing.T) {
	all := func(uint16) bool { return true }
	rng := rand.New(rand.NewPCG(2, 2))
	for range 50 {
		members := equal(2 + rng.IntN(19))
		for i := range members {
			members[i].Weight = 1 + rng.IntN(4)
		}
		home := checkAssign(t, Slots{}, members).Home
		owner := checkSpread(t, home, nil, all)
		require.Equal(t, home, owner)
		for range 20 {
			down := map[uint16]bool{}
			for range rng.IntN(len(members) + 1) {
				down[uint16(rng.IntN(len(members)))] = true
			}
			owner = checkSpread(t, home, owner, func(id uint16) bool { return !down[id] })
		}
		require.Equal(t, home, checkSpread(t, home, owner, all))
	}
}

// When a second member fails, what the first one lent stays where it is.
func TestLoansStay(t *testing.T) {
	home := Assign(Slots{}, equal(10)).Home
	one := checkSpread(t, home, home, func(id uint16) bool { return id != 3 })
	two := checkSpread(t, home, one, func(id uint16) bool { return id != 3 && id != 7 })
	for j := range home {
		if one[j] != 7 {
			require.Equal(t, one[j], two[j], "slot %d of a survivor moved", j)
		}
	}
}

// A table that has doubled takes its loans along, and Assign keeps those that
// still make sense.
func TestOwnersThroughChanges(t *testing.T) {
	s := Assign(Slots{}, equal(16))
	s.Owner = checkSpread(t, s.Home, s.Owner, func(id uint16) bool { return id != 3 })
	next := checkAssign(t, s, equal(17))
	require.Len(t, next.Home, 2*len(s.Home))
	for j, id := range next.Home {
		if id == 3 {
			require.Equal(t, s.Owner[j%len(s.Owner)], next.Owner[j])
		}
	}
	require.Equal(t,
		checkSpread(t, next.Home, next.Owner, func(id uint16) bool { return id != 3 }),
		checkSpread(t, next.Home, s.Owner, func(id uint16) bool { return id != 3 }))
}

// A thousand changes in a row: members come, go, fail, recover and change weight.
func TestLongSequences(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ members, weight int }{{4, 1}, {10, 1}, {40, 1}, {12, 10}, {300, 256}} {
		t.Run(fmt.Sprintf("%d members of weight %d", c.members, c.weight), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(uint64(c.members), uint64(c.weight)))
			var s Slots
			var members []SlotMember
			down := map[uint16]bool{}
			next := uint16(0)
			for range 1000 {
				switch op := rng.IntN(10); {
				case len(members) == 0, op < 4 && len(members) < c.members:
					members = append(members, SlotMember{ID: next, Weight: 1 + rng.IntN(c.weight)})
					next++
				case op < 6:
					i := rng.IntN(len(members))
					delete(down, members[i].ID)
					members = slices.Delete(members, i, i+1)
				case op < 8:
					members[rng.IntN(len(members))].Weight = rng.IntN(c.weight + 1)
				default:
					id := members[rng.IntN(len(members))].ID
					down[id] = !down[id]
				}
				s = checkAssign(t, s, members)
				s.Owner = checkSpread(t, s.Home, s.Owner, func(id uint16) bool { return !down[id] })
			}
		})
	}
}

// After many changes rows are still balanced, near enough.
func TestRowsStayBalanced(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	members := equal(10)
	s := Assign(Slots{}, members)
	next, sum, n := uint16(10), 0.0, 0
	for range 500 {
		i := rng.IntN(len(members))
		members = slices.Delete(members, i, i+1)
		s = Assign(s, members)
		members = append(members, SlotMember{ID: next, Weight: 1})
		next++
		s = Assign(s, members)
		for row := range slices.Chunk(s.Home, rowSlots) {
			for _, m := range members {
				off := float64(counts(row)[m.ID]) - rowSlots/10.0
				sum += off * off
				n++
			}
		}
	}
	// 1.6 slots a row, rounded, are 0.24 off in the mean of squares at best.
	require.Less(t, sum/float64(n), 0.35)
}

func FuzzAssign(f *testing.F) {
	f.Add([]byte{0, 1, 1, 1, 2, 1})
	f.Add([]byte{0, 1, 1, 1, 2, 1, 0, 0, 3, 5, 1, 0, 128, 0, 7, 9})
	f.Add([]byte{0, 255, 1, 255, 2, 1, 129, 0, 3, 200, 0, 1})
	f.Fuzz(func(t *testing.T, ops []byte) {
		// Pairs of member and weight; from 128 on the member goes down or comes up.
		var s Slots
		weights, down := map[uint16]int{}, map[uint16]bool{}
		for i := 0; i+1 < len(ops) && i < 200; i += 2 {
			id := uint16(ops[i] & 0x7f)
			if ops[i] < 128 {
				weights[id] = int(ops[i+1])
			} else {
				down[id] = !down[id]
			}
			var members []SlotMember
			for id, w := range weights {
				members = append(members, SlotMember{ID: id, Weight: w})
			}
			s = checkAssign(t, s, members)
			s.Owner = checkSpread(t, s.Home, s.Owner, func(id uint16) bool { return !down[id] })
		}
	})
}

func BenchmarkAssign(b *testing.B) {
	for _, n := range []int{10, 256} {
		b.Run(fmt.Sprintf("members=%d", n), func(b *testing.B) {
			before, after := Assign(Slots{}, equal(n)), equal(n)[1:]
			for b.Loop() {
				Assign(before, after)
			}
		})
	}
}
