package balancer_test

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
)

// A smaller table keeps the shares within one slot, leaves nobody without where there
// are enough, and takes slot j from one of the slots that fall on it wherever it can.
func TestFewerSlots(t *testing.T) {
	for seed := range uint64(400) {
		r := rand.New(rand.NewPCG(seed, 2))
		var members []balancer.SlotMember
		for id := range 1 + r.IntN(12) {
			members = append(members, balancer.SlotMember{ID: uint16(id * 3), Weight: 1 + r.IntN(4)})
		}
		full := balancer.Assign(balancer.Slots{}, members).Home
		for size := len(full); size >= 2; size /= 2 {
			got := balancer.Fewer(full, size)
			require.Len(t, got, size)
			require.Equal(t, got, balancer.Fewer(full, size), "it depends on nothing else")
			if size == len(full) {
				require.Equal(t, full, got)
			}
			count, share := map[uint16]int{}, map[uint16]float64{}
			for _, id := range full {
				share[id] += float64(size) / float64(len(full))
			}
			for _, id := range got {
				require.NotEqual(t, balancer.NoMember, id, "seed %d", seed)
				count[id]++
			}
			crowded := false // some need a slot of which their share is less
			for _, s := range share {
				crowded = crowded || s < 1
			}
			for id, s := range share {
				if size >= len(share) {
					require.NotZero(t, count[id], "seed %d, size %d: member %d has none", seed, size, id)
				}
				if !crowded {
					require.InDelta(t, s, count[id], 1, "seed %d, size %d: member %d", seed, size, id)
				}
			}
		}
	}
	require.Equal(t, []uint16{1, 2, 1, 2}, balancer.Fewer([]uint16{1, 2, 1, 2, 1, 2, 1, 2}, 4), "slot j is slot j's owner's")
}
