package migration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead/fairlead/controller/documents"
)

// Prober measures what answers, through the switches that are connected.
type Prober interface {
	// Measure asks every known host from every switch in turn, VIPs and probes, and
	// returns what answered. The error is that of ctx, or says why nothing could be
	// measured.
	Measure(ctx context.Context, r ProbeRequest) (Measurement, error)
	// Worse lists what is worse in a measurement than in an earlier one: what answered and
	// does not any more, broadcasts that arrive twice, links that lose large packets,
	// ports that carry a storm.
	Worse(before, after Measurement) []Difference
}

// ProbeRequest says what to measure beside the hosts.
type ProbeRequest struct {
	Source netip.Addr // nobody's address, that probes of IP come from; may be the zero Addr
	VIPs   []string   // all listeners of these
	Probes []documents.Probe
	// Like is an earlier measurement whose questions are asked again, and those of
	// switches that came since; nil: all that is known is asked.
	Like *Measurement
}

// Measurement is what answered at one time.
type Measurement struct {
	At     time.Time `json:"at"`
	Hosts  Tally     `json:"hosts"` // by switch that asked
	VIPs   Tally     `json:"vips"`
	Probes Tally     `json:"probes"`
	// Silent are the VIPs and probes that have to answer and do not, as sentences: those
	// that answer no switch, and those that do not answer one that came since.
	Silent []string `json:"silent"`
	// Whole is the measurement as the prober has it.
	Whole json.RawMessage `json:"whole,omitempty"`
}

// asked says whether anything was asked.
func (m Measurement) asked() bool { return m.Hosts.Asked+m.VIPs.Asked+m.Probes.Asked > 0 }

// Tally counts questions.
type Tally struct {
	Answered int `json:"answered"`
	Asked    int `json:"asked"`
}

// String returns "3 of 4".
func (t Tally) String() string { return fmt.Sprintf("%d of %d", t.Answered, t.Asked) }

// Difference is something that is worse than it was.
type Difference struct {
	DPID string // of the switch that it was found at
	Text string // a sentence
	// Doubtful says that it need not come from the network: a host that answers no switch,
	// a port that carries much.
	Doubtful bool
}

// ask measures once.
func (s *Service) ask(ctx context.Context, d Description, like *Measurement) (Measurement, error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience.measure)
	defer cancel()
	return s.o.Prober.Measure(ctx, ProbeRequest{Source: d.SourceAddress, VIPs: d.VIPs, Probes: d.Probes, Like: like})
}

// worse says what answers less than before. gone are switches that were given back.
func (s *Service) worse(ctx context.Context, d Description, before Measurement, gone map[string]bool) (why, doubts []string, err error) {
	now, err := s.ask(ctx, d, &before)
	if err != nil {
		return nil, nil, err
	}
	for _, w := range s.o.Prober.Worse(before, now) {
		switch {
		case gone[w.DPID]:
		case w.Doubtful:
			doubts = append(doubts, w.Text)
		default:
			why = append(why, w.Text)
		}
	}
	return append(why, now.Silent...), doubts, nil
}
