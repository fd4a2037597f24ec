package health

// Outcome is how a probe ended.
type Outcome uint8

// Outcomes of probes.
const (
	OutcomeSuccess  Outcome = iota
	OutcomeFailure          // a wrong answer, or a refusal
	OutcomeTimeout          // no answer in time
	OutcomeUnplaced         // not sent: the address is nowhere in the network
	OutcomeVoid             // says nothing: the controller was late, or the switch not connected

)

// String returns the outcome in lower case.
func (o Outcome) String() string {
	return [...]string{"success", "failure", "timeout", "unplaced", "void"}[o]
}

// ProbeKind is a kind of probe with how it ended.
type ProbeKind struct {
	Type    Type
	Outcome Outcome
}

// Stats counts what the app has done since it was made, and what it has now.
type Stats struct {
	Targets  map[Status]int
	Held     int // of those down: they answer, and are held down because they flip
	InFlight int
	Probes   map[ProbeKind]uint64
	Verdicts uint64 // changes from up to down and back, and first ones
	Deferred uint64 // times that a probe had to wait for others to end
	Dropped  uint64 // packets of probes dropped, both ways
}

type counts struct {
	probes                      map[ProbeKind]uint64
	verdicts, deferred, dropped uint64
}

func (n *counts) add(t Type, o Outcome) {
	if n.probes == nil {
		n.probes = map[ProbeKind]uint64{}
	}
	n.probes[ProbeKind{t, o}]++
}

// Stats returns the counts. It is for the core loop.
func (a *App) Stats() Stats {
	s := Stats{
		Targets: map[Status]int{}, InFlight: a.inFlight, Probes: map[ProbeKind]uint64{},
		Verdicts: a.counts.verdicts, Deferred: a.counts.deferred, Dropped: a.counts.dropped + a.wire.dropped.Load(),
	}
	for _, k := range a.checks {
		s.Targets[k.state.status]++
		if k.state.status == Down && k.why == "" && k.state.run >= k.Rise {
			s.Held++
		}
	}
	for k, n := range a.counts.probes {
		s.Probes[k] = n
	}
	return s
}
