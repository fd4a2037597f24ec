package balancer

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// stand makes members of letters: u is up, d down, ? never probed, x out of reach, - not
// wanted, n without a monitor; those behind a slash are backups.
func stand(letters string) (all []standing) {
	backup := false
	for _, r := range letters {
		s := standing{id: uint16(len(all)), wanted: r != '-', backup: backup, placed: r != 'x', health: HealthUp}
		switch r {
		case '/':
			backup = true
			continue
		case 'd':
			s.health = HealthDown
		case '?':
			s.health = HealthUnknown
		case 'n':
			s.health = HealthNoMonitor
		}
		all = append(all, s)
	}
	return all
}

func TestMuster(t *testing.T) {
	for _, c := range []struct {
		members        string
		panic, minimum int
		want           tier
	}{
		{"", 0, 0, tierNone},
		{"uu", 0, 0, tierOrdinary},
		{"nx", 0, 0, tierOrdinary},
		{"ud", 0, 0, tierOrdinary},
		{"dd", 0, 0, tierNone},
		{"??", 0, 0, tierNone},
		{"--", 0, 0, tierNone},
		{"xx", 0, 0, tierNone},
		{"ud/u", 0, 0, tierOrdinary},
		{"dd/u", 0, 0, tierBackup},
		{"d?/ud", 0, 0, tierBackup},
		{"dd/d", 0, 0, tierNone},
		{"/u", 0, 0, tierBackup},
		{"/-", 0, 0, tierNone},
		{"uu/u", 0, 2, tierOrdinary},
		{"ud/u", 0, 2, tierBackup},
		{"ud/d", 0, 2, tierNone},
		{"uudd", 50, 0, tierOrdinary},
		{"uddd", 50, 0, tierPanic},
		{"dddd", 50, 0, tierPanic},
		{"uddd", 25, 0, tierOrdinary},
		{"dddd", 1, 0, tierPanic},
		{"udd-", 33, 0, tierOrdinary},
		{"uddx", 30, 0, tierPanic},
		{"xxxx", 50, 0, tierNone},
		{"u???", 50, 0, tierOrdinary},
		{"????", 50, 0, tierNone},
		{"uddd", 50, 2, tierNone},
		{"uuddddd", 50, 2, tierPanic},
		{"dddd/u", 50, 0, tierBackup},
		{"uddd/u", 50, 0, tierPanic},
		{"dddd/d", 50, 0, tierPanic},
	} {
		require.Equal(t, c.want, muster(Pool{PanicThreshold: c.panic, MinimumHealthy: c.minimum}, stand(c.members)), "%+v", c)
	}
}

func TestPanicServesWhoCanBeReached(t *testing.T) {
	s := Assign(Slots{}, equal(5))
	members := stand("uddx?")
	got := present(s, s.Owner, Pool{PanicThreshold: 80}, members)
	require.Equal(t, []uint16{0, 1, 2}, whoOwns(got))
	for j, id := range s.Home {
		if id < 3 {
			require.Equal(t, id, got[j], "slot %d is not at home", j)
		}
	}
	require.Equal(t, []uint16{0}, whoOwns(present(s, got, Pool{}, members)))
}

func TestBackupsHaveTheSameSlotsAgain(t *testing.T) {
	s := Assign(Slots{}, []SlotMember{{ID: 0, Weight: 1}, {ID: 1, Weight: 3}, {ID: 2, Weight: 1, Backup: true}, {ID: 3, Weight: 2, Backup: true}})
	require.Len(t, s.Backup, len(s.Home))
	require.Equal(t, map[uint16]int{2: 11, 3: 21}, counts(s.Backup))
	up := present(s, s.Owner, Pool{}, stand("uu/uu"))
	require.Equal(t, s.Home, up)
	stood := present(s, up, Pool{}, stand("dd/uu"))
	require.Equal(t, s.Backup, stood)
	one := present(s, stood, Pool{}, stand("dd/ud"))
	require.Equal(t, []uint16{2}, whoOwns(one))
	require.Equal(t, s.Backup, present(s, one, Pool{}, stand("dd/uu")))
	require.Equal(t, s.Home, present(s, one, Pool{}, stand("uu/uu")))
	require.True(t, s.owns(one, 2))
	require.False(t, s.owns(one, 0))
}

func TestMembersWithoutSlotsOfTheirOwnStandIn(t *testing.T) {
	s := Assign(Slots{}, []SlotMember{{ID: 0, Weight: 256}, {ID: 1, Weight: 256}, {ID: 2, Weight: 1}})
	require.Equal(t, []uint16{0, 1}, whoOwns(s.Home))
	require.Equal(t, []uint16{2}, whoOwns(present(s, s.Owner, Pool{}, stand("ddu"))))
}

func whoOwns(owners []uint16) []uint16 {
	ids := slices.Clone(owners)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// A thousand changes of every kind: whoever serves may, homes are respected, shares are
// right, no more moves than must, and everything comes back.
func TestMembershipThroughChanges(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 7))
		var s Slots
		var members []SlotMember
		var standings []standing
		pool := Pool{}
		next := uint16(0)
		healths := []Health{HealthUp, HealthUp, HealthDown, HealthUnknown}
		for range 250 {
			switch op := rng.IntN(12); {
			case len(members) < 2, op == 0 && len(members) < 30:
				m := SlotMember{ID: next, Weight: 1 + rng.IntN(4), Backup: rng.IntN(4) == 0}
				members = append(members, m)
				standings = append(standings, standing{id: next, wanted: true, backup: m.Backup, placed: true, health: HealthUp})
				next++
			case op == 1:
				i := rng.IntN(len(members))
				members, standings = slices.Delete(members, i, i+1), slices.Delete(standings, i, i+1)
			case op == 2:
				i := rng.IntN(len(members))
				members[i].Weight = rng.IntN(MaxWeight + 1)
				standings[i].wanted = members[i].Weight > 0
			case op == 3:
				pool = Pool{PanicThreshold: rng.IntN(101), MinimumHealthy: rng.IntN(4)}
			case op == 4: // the role of a member changes
				i := rng.IntN(len(members))
				members[i].Backup = !members[i].Backup
				standings[i].backup = members[i].Backup
			case op < 7:
				standings[rng.IntN(len(standings))].placed = rng.IntN(3) > 0
			default:
				standings[rng.IntN(len(standings))].health = healths[rng.IntN(len(healths))]
			}
			s = checkTables(t, s, members)
			s.Owner = checkPresent(t, s, pool, standings)
		}
		for i := range standings {
			standings[i].placed, standings[i].health = true, HealthUp
		}
		home := s.Home
		if !slices.ContainsFunc(standings, func(m standing) bool { return m.wanted && !m.backup }) && len(s.Backup) > 0 {
			home = s.Backup
		}
		require.Equal(t, home, present(s, s.Owner, Pool{}, standings), "everything comes back")
	}
}

// checkTables holds Assign to what it promises of both of its tables.
func checkTables(t *testing.T, prev Slots, members []SlotMember) Slots {
	t.Helper()
	got := Assign(prev, members)
	require.Len(t, got.Owner, len(got.Home))
	table := func(before, after []uint16, backup bool) {
		var own []SlotMember
		for _, m := range members {
			if m.Backup == backup {
				own = append(own, m)
			}
		}
		was := stretch(before, len(got.Home))
		want := wantQuotas(was, own)
		if backup && len(after) == 0 {
			require.Contains(t, want, NoMember, "backups without a table")
			return
		}
		require.Len(t, after, len(got.Home))
		require.Equal(t, want, counts(after))
		had, least := counts(was), 0
		for id, n := range want {
			least += max(0, n-had[id])
		}
		require.Equal(t, least, moved(was, after))
	}
	table(prev.Home, got.Home, false)
	table(prev.Backup, got.Backup, true)
	require.Equal(t, got, Assign(got, members), "a second time changes something")
	return got
}

// checkPresent holds one step of present to what it promises.
func checkPresent(t *testing.T, s Slots, pool Pool, members []standing) []uint16 {
	t.Helper()
	got := present(s, s.Owner, pool, members)
	byID := map[uint16]standing{}
	for _, m := range members {
		byID[m.id] = m
	}
	home, serves := s.Home, func(m standing) bool { return !m.backup && m.fit() }
	switch muster(pool, members) {
	case tierNone:
		require.Equal(t, []uint16{NoMember}, whoOwns(got))
		return got
	case tierPanic:
		serves = func(m standing) bool { return !m.backup && m.wanted && m.placed && m.health != HealthUnknown }
	case tierBackup:
		home, serves = s.Backup, func(m standing) bool { return m.backup && m.fit() }
	}
	for _, id := range got {
		if id != NoMember {
			require.True(t, serves(byID[id]), "member %d serves: %+v", id, byID[id])
		}
	}
	if !slices.ContainsFunc(home, func(id uint16) bool { return serves(byID[id]) }) {
		require.NotContains(t, got, NoMember, "those without slots of their own stand in")
		return got
	}
	require.Equal(t, got, checkSpread(t, home, s.Owner, func(id uint16) bool { return serves(byID[id]) }))
	require.Equal(t, got, present(s, got, pool, members), "a second time changes something")
	return got
}

func TestReasons(t *testing.T) {
	members := stand("ud/u")
	require.Equal(t, "", tierOrdinary.reason(members[0]))
	require.Equal(t, "", tierOrdinary.reason(members[1]))
	require.Contains(t, tierPanic.reason(members[1]), "panic_threshold")
	require.Contains(t, tierBackup.reason(members[0]), "minimum_healthy")
	require.Contains(t, tierNone.reason(members[0]), "minimum_healthy")
	require.Contains(t, tierOrdinary.reason(members[2]), "backup")
	require.Equal(t, "", tierBackup.reason(members[2]))

	m := MemberRecord{Drained: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	up, drain, down, none := Member{Weight: 1, AdminState: AdminUp}, Member{Weight: 1, AdminState: AdminDrain}, Member{Weight: 1, AdminState: AdminDown}, Member{AdminState: AdminUp}
	require.Equal(t, "", retired(ModeNAT, Pool{}, up, m))
	require.Equal(t, "admin_state is drain: mode nat knows no connections, those it had went to other members", retired(ModeNAT, Pool{}, drain, m))
	require.Equal(t, "weight is 0: mode dsr knows no connections, those it had went to other members", retired(ModeDSR, Pool{}, none, m))
	require.Equal(t, "admin_state is drain: its connections go on", retired(ModeConntrack, Pool{}, drain, m))
	require.Equal(t, "weight is 0: its connections go on until 2026-01-02T03:05:05Z", retired(ModeConntrack, Pool{DrainTimeout: Duration(time.Minute)}, none, m))
	require.Equal(t, "admin_state is down: its connections are cut", retired(ModeConntrack, Pool{DrainTimeout: Duration(time.Minute)}, down, m))
}
