package topology

import (
	"fmt"
	"strings"
	"time"
)

// Fault is what can be wrong with a port that leads to other switches and is used all the
// same.
type Fault uint8

// The faults.
const (
	// FaultNarrow: small frames that leave by the port arrive, whole ones do not.
	FaultNarrow Fault = iota
	// FaultSuspect: the link at the port may be none, but frames that hosts pass on.
	FaultSuspect

	faults = iota
)

// SetFault says what is wrong with a port, for operators to read; an empty text ends it. It
// changes no path. It ends by itself when the port goes down or leads to no switch any more.
func (g *Graph) SetFault(p Place, f Fault, text string, now time.Time) []Event {
	g.tick(now)
	all := g.faults[p]
	if all[f] == text || text != "" && !g.up(p) {
		return nil
	}
	all[f] = text
	if all == [faults]string{} {
		delete(g.faults, p)
	} else {
		g.faults[p] = all
	}
	return g.changed([]Event{PortFault{p, text}})
}

// faultAt is all that is wrong with some ports.
func (g *Graph) faultAt(ports ...Place) string {
	var list []string
	for _, p := range ports {
		for _, text := range g.faults[p] {
			if text != "" {
				list = append(list, text)
			}
		}
	}
	return strings.Join(list, "; ")
}

// PortFault tells of something that is wrong with a port that leads to switches; without a
// text, that it is not any more.
type PortFault struct {
	Place Place
	Text  string
}

func (PortFault) fabric() bool { return true }

// String returns the event in one line.
func (e PortFault) String() string {
	if e.Text == "" {
		return fmt.Sprintf("port fault %v ended", e.Place)
	}
	return fmt.Sprintf("port fault %v (%s)", e.Place, e.Text)
}
