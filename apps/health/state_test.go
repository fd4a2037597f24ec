package health

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestRiseAndFall(t *testing.T) {
	now := time.Unix(0, 0)
	var s state
	feed := func(outcomes string) string {
		var got []byte
		for _, o := range outcomes {
			now = now.Add(10 * time.Minute) // so that nothing counts as flipping
			if o == '+' {
				s.pass(now, 3)
			} else {
				s.fail(now, 2)
			}
			got = append(got, "?UD"[s.status])
		}
		return string(got)
	}
	require.Equal(t, "?D", feed("--"), "unknown until it failed often enough")
	require.Equal(t, "DDDDDU", feed("++-+++"))
	require.Equal(t, "UUUD", feed("-+--"))
	s = state{}
	require.Equal(t, "U", feed("+"), "one success is enough for a new target")
	s = state{}
	require.Equal(t, "?U", feed("-+"))
}

// Whatever a target does, it changes at most six times in any minute, is down as soon
// as it failed often enough, and comes up again some time after it has become good.
func TestFlappingIsBounded(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		rise, fall := 1+random.IntN(3), 1+random.IntN(3)
		every := time.Duration(50+random.IntN(3000)) * time.Millisecond
		stay := random.Float64()
		now := time.Unix(0, 0)
		var s state
		var changes []time.Time
		good, bad := true, 0
		most := 0
		note := func(was Status) {
			if s.status == was || was == Unknown {
				return
			}
			changes = append(changes, now)
			n := 0
			for _, at := range changes {
				if now.Sub(at) < time.Minute {
					n++
				}
			}
			most = max(most, n)
		}
		for range 5000 {
			now = now.Add(every)
			if random.Float64() > stay {
				good = !good
			}
			was := s.status
			if good {
				bad = 0
				s.pass(now, rise)
			} else {
				bad++
				s.fail(now, fall)
			}
			note(was)
			require.False(t, bad >= fall && s.status != Down, "seed %d: %d failures in a row", seed, bad)
		}
		require.LessOrEqual(t, most, 6, "seed %d", seed)
		for n := time.Duration(0); s.status != Up; n += every {
			require.LessOrEqual(t, n, holdMost+time.Duration(rise)*every, "seed %d: still held", seed)
			now = now.Add(every)
			s.pass(now, rise)
		}
	}
}
