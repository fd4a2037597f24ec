// Package migration moves a network over to Fairlead, and back, in steps that can each
// be checked and undone.
//
// A Description says which bridges and switches go to which stage, in waves. The plan
// tells for each step what has to hold, what exactly would change, who is behind it and
// how it is undone; planning changes nothing. A wave is applied step by step, and
// verified after each: nothing may answer less than before. When all steps are done, an
// operator has the confirm timeout to say that it is good. Without that, and whenever a
// step fails or is not verified, the wave is taken back, and the migration says why.
//
// Where a wave stands is stored with every transition, together with what was there
// before, so that a controller that was killed takes up what the one before it left.
// Taking back compares what is with what was, target by target: it can be begun again
// at any point.
package migration

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/ofproto"
)

// StageReleased is the target of a step that gives a bridge back to what had it before.
const StageReleased = "released"

// Stages are the targets of steps, from the least to the most that Fairlead does.
var Stages = []string{StageReleased, "observe", "steer", "managed"}

// DefaultConfirmTimeout is how long a wave waits for its confirmation where the
// description does not say.
const DefaultConfirmTimeout = documents.Duration(5 * time.Minute)

// Bounds of a description.
const (
	minConfirm  = 5 * time.Second
	maxConfirm  = 24 * time.Hour
	maxWaves    = 64
	maxSteps    = 256 // of a wave
	maxVIPs     = 256
	maxProbes   = 256
	maxTargets  = 8 // controllers of a step
	maxNameSize = 63
)

// Description says what a migration is to do. DecodeDescription reads one.
type Description struct {
	Name string `json:"name"` // [a-z0-9]([a-z0-9-]{0,62})
	// ConfirmTimeout is how long an applied wave waits for its confirmation, before it
	// is rolled back.
	ConfirmTimeout documents.Duration `json:"confirm_timeout"`
	// SourceAddress is nobody's address: probes of IP come from it. Without one probes
	// are ARP and neighbour discovery.
	SourceAddress netip.Addr        `json:"source_address,omitzero"`
	VIPs          []string          `json:"vips"`   // names of VIPs that must keep working
	Probes        []documents.Probe `json:"probes"` // more that must answer before and after
	Waves         []Wave            `json:"waves"`
}

// Wave is a set of steps that are applied, confirmed and taken back together.
type Wave struct {
	Name  string `json:"name"`
	Steps []Step `json:"steps"`
}

// Step moves one target to a stage: a bridge of Open vSwitch, by endpoint and name, or a
// switch that is connected, by datapath id.
type Step struct {
	Endpoint ovsdb.Endpoint `json:"endpoint,omitempty"`
	Bridge   string         `json:"bridge,omitempty"`
	DPID     string         `json:"dpid,omitempty"` // 16 hex digits
	Stage    string         `json:"stage"`          // one of Stages
	// Controllers are the targets that an adopted bridge gets; empty: this server.
	Controllers []string `json:"controllers,omitempty"`
	// DiscardFlows adopts a bridge that forgets flows of others by it.
	DiscardFlows bool `json:"discard_flows,omitempty"`
	// Canary makes the step the first of its wave. By default that is the one with the
	// fewest hosts, members and links behind it.
	Canary bool `json:"canary,omitempty"`
}

// Target names what a step moves: "unix:/run/openvswitch/db.sock br0", or a datapath id.
func (s Step) Target() string {
	if s.Bridge != "" {
		return string(s.Endpoint) + " " + s.Bridge
	}
	return s.DPID
}

// String returns the step in short.
func (s Step) String() string {
	if s.Stage == "" {
		return s.Target() // of a rollback, which is to where it was
	}
	return s.Target() + " to " + s.Stage
}

// dpid is the datapath id of a step that has one.
func (s Step) dpid() ofproto.DPID { return parseDPID(s.DPID) }

// parseDPID reads 16 hex digits; 0 when there are none.
func parseDPID(s string) ofproto.DPID {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0
	}
	return ofproto.DPID(n)
}

// wave returns the index of a wave by its name, or -1.
func (d Description) wave(name string) int {
	for i, w := range d.Waves {
		if w.Name == name {
			return i
		}
	}
	return -1
}

// steps counts the steps of all waves.
func (d Description) steps() (n int) {
	for _, w := range d.Waves {
		n += len(w.Steps)
	}
	return n
}

// InvalidError says that a description is malformed or against its rules.
type InvalidError struct{ Errors []documents.FieldError }

// Error lists the fields and reasons.
func (e *InvalidError) Error() string {
	return "migration: invalid description: " + documents.Join(e.Errors)
}

// maxFaults bounds the errors reported of one description.
const maxFaults = 32

type faults []documents.FieldError

func (f *faults) add(field, format string, args ...any) {
	if len(*f) < maxFaults {
		*f = append(*f, documents.FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
}
