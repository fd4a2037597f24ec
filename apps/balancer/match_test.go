package balancer

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// The masks of a range take its ports, each once, and no others, and are at most 30:
// two for each bit but the highest and the lowest.
func TestPortMasks(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	ranges := []portRange{{1, 65535}, {1, 65534}, {1, 1}, {65535, 65535}, {1024, 65535}, {1024, 2047}, {1000, 2000}}
	for range 200 {
		a, b := uint16(1+random.IntN(65535)), uint16(1+random.IntN(65535))
		ranges = append(ranges, portRange{min(a, b), max(a, b)})
	}
	for _, r := range ranges {
		masks := r.masks()
		require.LessOrEqual(t, len(masks), 30, "%s", r)
		for port := range 1 << 16 {
			n := 0
			for _, m := range masks {
				if uint16(port)&m.mask == m.value {
					n++
				}
			}
			want := 0
			if port >= int(r.first) && port <= int(r.last) {
				want = 1
			}
			if n != want {
				t.Fatalf("port %d is in %d masks of %s", port, n, r)
			}
		}
	}
	require.Len(t, portRange{1000, 2000}.masks(), 8)
	require.Len(t, portRange{1024, 2047}.masks(), 1)
	require.Len(t, portRange{1, 65534}.masks(), 30)
}
