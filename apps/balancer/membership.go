package balancer

import (
	"slices"
	"time"
)

// standing is how a member of a pool stands at present.
type standing struct {
	id     uint16
	wanted bool // by weight and admin state
	backup bool
	placed bool // there is a way to it
	health Health
}

// fit says whether a member can serve: it is wanted, it can be reached, and nothing
// is known against it.
func (s standing) fit() bool {
	return s.wanted && s.placed && (s.health == HealthUp || s.health == HealthNoMonitor)
}

// tier is which members of a pool serve.
type tier uint8

const (
	tierNone     tier = iota // none: the pool is empty
	tierOrdinary             // the ordinary ones that are fit
	tierPanic                // the ordinary ones that can be reached, fit or found down
	tierBackup               // the backup ones that are fit
)

// muster picks the members of a pool that serve.
//
// Ordinary members do while at least Pool.MinimumHealthy of them are fit, one at the
// least. When they do not, backup members that are fit do.
//
// When fewer than Pool.PanicThreshold percent of the ordinary members with a verdict
// are fit, the monitor is more likely to be wrong than they are, and those found down
// serve too. Members that were never probed neither count nor serve: a new pool does
// not panic. With none fit, a backup that answers the monitor speaks for the monitor,
// and serves alone.
func muster(p Pool, members []standing) tier {
	fit, down, backups := 0, 0, 0
	reachable := false
	for _, m := range members {
		switch {
		case !m.wanted:
		case m.backup:
			if m.fit() {
				backups++
			}
		case m.fit():
			fit++
		case m.health != HealthUnknown:
			down++
			reachable = reachable || m.placed
		}
	}
	enough := fit >= p.MinimumHealthy
	switch panics := fit*100 < p.PanicThreshold*(fit+down); {
	case fit > 0 && enough && panics:
		return tierPanic
	case fit > 0 && enough:
		return tierOrdinary
	case backups > 0:
		return tierBackup
	case enough && panics && reachable:
		return tierPanic
	}
	return tierNone
}

// present returns the owners of a pool's slots, where prev were the owners before
// (Spread). They come back to their homes when those serve again.
func present(s Slots, prev []uint16, p Pool, members []standing) []uint16 {
	t := muster(p, members)
	serves := map[uint16]bool{}
	for _, m := range members {
		switch {
		case t == tierOrdinary && !m.backup, t == tierBackup && m.backup:
			serves[m.id] = m.fit()
		case t == tierPanic && !m.backup:
			serves[m.id] = m.wanted && m.placed && m.health != HealthUnknown
		}
	}
	home := s.Home
	if t == tierBackup {
		home = s.Backup
	}
	if !slices.ContainsFunc(home, func(id uint16) bool { return serves[id] }) {
		// Those left have weights too small for a slot of their own.
		home = Assign(Slots{Home: stretch(nil, len(s.Home))}, equally(serves)).Home
	}
	return Spread(home, prev, func(id uint16) bool { return serves[id] })
}

// equally returns the members that serve, all of one weight.
func equally(serves map[uint16]bool) (members []SlotMember) {
	for id, ok := range serves {
		if ok {
			members = append(members, SlotMember{ID: id, Weight: 1})
		}
	}
	return members
}

// reason says why a member serves, or does not, where that is not its own doing.
func (t tier) reason(m standing) string {
	switch {
	case !m.wanted:
	case t == tierPanic && !m.backup && m.placed && m.health == HealthDown:
		return "serves because too few are healthy (panic_threshold)"
	case t == tierBackup && !m.backup && m.fit(), t == tierNone && m.fit():
		return "does not serve because too few are healthy (minimum_healthy)"
	case t != tierBackup && m.backup && m.fit():
		return "backup: others serve"
	}
	return ""
}

// retired says what becomes of a member that is not to have new connections; empty where
// it is.
func retired(mode Mode, p Pool, doc Member, m MemberRecord) string {
	var reason string
	switch {
	case doc.AdminState != AdminUp:
		reason = "admin_state is " + string(doc.AdminState)
	case doc.Weight == 0:
		reason = "weight is 0"
	default:
		return ""
	}
	end := drainEnd(p, m)
	switch {
	case mode != ModeConntrack:
		return reason + ": mode " + string(mode) + " knows no connections, those it had went to other members"
	case doc.AdminState == AdminDown:
		return reason + ": its connections are cut"
	case end.IsZero():
		return reason + ": its connections go on"
	}
	return reason + ": its connections go on until " + end.UTC().Format(time.RFC3339)
}
