package health

import "time"

// Flap damping. A target that goes down less than quickFall after it came up has
// flipped. The first time that changes nothing: a service that is restarted is back as
// soon as it answers. From the second time on it is held down before it may come up
// again, each time for longer; steadyFor of being up forgives all. Going down is never
// delayed. In any minute a target changes at most 6 times.
const (
	quickFall = time.Minute
	holdFirst = time.Minute
	holdMost  = 5 * time.Minute
	steadyFor = 5 * time.Minute
)

// Status is what is known of a target.
type Status uint8

// Statuses of a target.
const (
	Unknown Status = iota // not probed to the end yet
	Up
	Down
)

// String returns the status in lower case.
func (s Status) String() string { return [...]string{"unknown", "up", "down"}[s] }

// state follows the outcomes of the probes of one target. It is pure.
type state struct {
	status Status
	since  time.Time // of the last change
	run    int       // outcomes in a row that speak against the status
	flips  int       // lately
}

// pass takes in a success and reports whether the target came up. The first success
// of a target that is not known yet is enough.
func (s *state) pass(now time.Time, rise int) bool {
	if s.status == Up {
		s.run = 0
		return false
	}
	s.run++
	if s.status == Down && (s.run < rise || s.held(now)) {
		return false
	}
	*s = state{status: Up, since: now, flips: s.flips}
	return true
}

// fail takes in a failure and reports whether the target went down.
func (s *state) fail(now time.Time, fall int) bool {
	if s.status == Down {
		s.run = 0
		return false
	}
	if s.run++; s.run < fall {
		return false
	}
	flips := s.flips
	if s.status == Up {
		switch lasted := now.Sub(s.since); {
		case lasted < quickFall:
			flips++
		case lasted >= steadyFor:
			flips = 0
		}
	}
	*s = state{status: Down, since: now, flips: flips}
	return true
}

// hold is how long the target stays down because it has flipped.
func (s *state) hold() time.Duration {
	if s.flips < 2 {
		return 0
	}
	return min(holdFirst<<min(s.flips-2, 8), holdMost)
}

// held says whether the target stays down whatever it answers.
func (s *state) held(now time.Time) bool {
	return s.status == Down && now.Sub(s.since) < s.hold()
}
