package balancer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
)

// addressAt is the address that owns a slot by intent.
func addressAt(l ListenerRecord, slot int) netip.Addr {
	for _, m := range l.Members {
		if m.Index == l.Slots.Home[slot] {
			return m.Key.Addr()
		}
	}
	return netip.Addr{}
}

func requireAlike(t *testing.T, a, b ListenerRecord) {
	t.Helper()
	require.Equal(t, len(a.Slots.Home), len(b.Slots.Home))
	for slot := range a.Slots.Home {
		require.Equal(t, addressAt(a, slot), addressAt(b, slot), "slot %d of %s and %s", slot, a.Key, b.Key)
	}
	require.Equal(t, a.Slots, b.Slots)
}

func persistent(v VIP, p Persistence) VIP {
	for i := range v.Listeners {
		v.Listeners[i].Pool.Persistence = p
	}
	return v
}

// Listeners of pools that have come to be alike by different ways have the same slots.
func TestListenersOfOneClientHaveTheSameSlots(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		b := newBench(t)
		put := func(v VIP) Record {
			rec, _, err := b.Put(context.Background(), v, Condition{})
			require.NoError(t, err)
			return rec
		}
		pool := func(port int, members ...int) string {
			s := ""
			for i, m := range members {
				if i > 0 {
					s += ","
				}
				s += fmt.Sprintf("10.0.1.%d:%d*%d", m, port, 1+m%3)
			}
			return s
		}
		some := func() []int { return random.Perm(9)[:2+random.IntN(6)] }
		write := func(p Persistence, web, tls, dns []int) Record {
			return put(persistent(doc(t, "a", fmt.Sprintf("10.0.0.1 tcp:80=%s tcp:443=%s udp:53=%s",
				pool(8080, web...), pool(8443, tls...), pool(5353, dns...))), p))
		}
		for range 3 {
			write(PersistenceSourceIP, some(), some(), some())
		}
		web, other := some(), some()
		before := write(PersistenceSourceIP, web, other, other)
		shuffled := slices.Clone(web)
		random.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		rec := write(PersistenceSourceIP, web, shuffled, web)
		requireAlike(t, rec.Listeners[0], rec.Listeners[1])
		requireAlike(t, rec.Listeners[0], rec.Listeners[2])
		require.Equal(t, before.Listeners[0].Slots, rec.Listeners[0].Slots, "the one that was there is not touched")

		// They stay alike, and move no more than one alone.
		more := append(slices.Clone(web), 20)
		next := write(PersistenceSourceIP, more, more, more)
		requireAlike(t, next.Listeners[0], next.Listeners[1])
		requireAlike(t, next.Listeners[0], next.Listeners[2])
		for slot := range rec.Listeners[0].Slots.Home {
			if was := addressAt(rec.Listeners[0], slot); was != addressAt(next.Listeners[0], slot) {
				require.Equal(t, "10.0.1.20", addressAt(next.Listeners[0], slot).String())
			}
		}
		b.check(t)

		// With source_ip_protocol only those of one protocol are.
		rec = write(PersistenceSourceIPProtocol, web, other, other)
		rec = write(PersistenceSourceIPProtocol, web, web, web)
		requireAlike(t, rec.Listeners[0], rec.Listeners[1])
	}
}

// The eight bits that a switch tells clients apart by stand for each slot as often, in
// runs and steps that are balanced.
func TestClientBits(t *testing.T) {
	for size := 2; size <= MaxSlots; size *= 2 {
		count := make([]int, size)
		for c := range 1 << clientBits {
			count[client(c).slot(size)]++
		}
		require.Equal(t, slices.Repeat([]int{256 / size}, size), count)
	}
	for members := 2; members <= 10; members++ {
		var list []SlotMember
		for i := range members {
			list = append(list, SlotMember{ID: uint16(i), Weight: 1})
		}
		home := Assign(Slots{}, list).Home
		for fixed := range 16 {
			low, high := map[uint16]int{}, map[uint16]int{}
			for vary := range 16 {
				low[home[client(fixed<<4|vary).slot(len(home))]]++
				high[home[client(vary<<4|fixed).slot(len(home))]]++
			}
			for _, counts := range []map[uint16]int{low, high} {
				most := 0
				for _, n := range counts {
					most = max(most, n)
				}
				require.LessOrEqual(t, most, 16/members+3, "%d members, %d: %v", members, fixed, counts)
			}
		}
	}
}

// Who drains does so since the document said so first, and no longer than it says.
func TestDrainsEnd(t *testing.T) {
	b := newBench(t)
	put := func(states ...AdminState) Record {
		v := doc(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80,10.0.1.2:80,10.0.1.3:80")
		v.Mode = ModeConntrack
		v.Listeners[0].Pool.DrainTimeout = Duration(time.Minute)
		for i, s := range states {
			v.Listeners[0].Pool.Members[i].AdminState = s
		}
		rec, _, err := b.Put(context.Background(), v, Condition{})
		require.NoError(t, err)
		return rec
	}
	start := b.now
	put(AdminUp, AdminUp, AdminUp)
	rec := put(AdminDrain, AdminUp, AdminUp)
	require.Equal(t, start, rec.Listeners[0].Members[0].Drained)
	b.now = start.Add(30 * time.Second)
	rec = put(AdminDrain, AdminDown, AdminUp)
	require.Equal(t, start, rec.Listeners[0].Members[0].Drained)
	require.Equal(t, b.now, rec.Listeners[0].Members[1].Drained)
	require.True(t, rec.Listeners[0].Members[2].Drained.IsZero())
	require.Equal(t, start.Add(time.Minute), rec.nextCut(b.now))

	in := vipInput{rec: &rec, stage: controller.StageManaged, targets: map[netip.Addr]target{}}
	for _, m := range rec.Listeners[0].Members {
		in.targets[m.Key.Addr()] = target{hop: hop{port: 1}}
	}
	delivers := func(at time.Time) (all [3]bool) {
		in.now = at
		for j := range all {
			all[j] = in.delivers(rec.Listeners[0], j)
		}
		return all
	}
	require.Equal(t, [3]bool{true, false, true}, delivers(b.now))
	require.Equal(t, [3]bool{false, false, true}, delivers(start.Add(time.Minute)))

	rec = put(AdminUp, AdminDrain, AdminUp)
	require.True(t, rec.Listeners[0].Members[0].Drained.IsZero())
	require.Equal(t, start.Add(30*time.Second), rec.Listeners[0].Members[1].Drained, "it has had no new connections since")
}

// Which modes may share a member's address and port.
func TestModesThatShareMembers(t *testing.T) {
	for _, a := range []Mode{ModeNAT, ModeDSR, ModeConntrack} {
		for _, c := range []Mode{ModeNAT, ModeDSR, ModeConntrack} {
			b := newBench(t)
			first, second := doc(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80"), doc(t, "b", "10.0.0.2 tcp:80=10.0.1.1:80")
			first.Mode, second.Mode = a, c
			_, _, err := b.Put(context.Background(), first, Condition{})
			require.NoError(t, err)
			_, _, err = b.Put(context.Background(), second, Condition{})
			if a == ModeDSR || c == ModeDSR || a == ModeConntrack && c == ModeConntrack {
				require.NoError(t, err, "%s beside %s", c, a)
				continue
			}
			var conflict *ConflictError
			require.ErrorAs(t, err, &conflict, "%s beside %s", c, a)
			require.Equal(t, "listeners[0].pool.members[0]", conflict.Field)
		}
	}
}
