// Package reachability measures what answers through the switches: which host answers
// from which switch, which VIP, how often a broadcast arrives, which links pass whole
// packets. The controller needs no interface in the network: a question is handed to a
// switch as a packet-out that goes through its tables, as if a host of the switch had
// sent it, and the answer is caught at the first switch that it crosses.
//
// Each switch asks from an Ethernet address of its own (see lane), so that answers tell
// which question they belong to, and are told apart from those to other apps. The
// entries that catch them are permanent and few; only while the copies of a broadcast
// are counted there is one more.
//
// Service measures; its goroutine is the caller's. What is under way belongs to the core
// loop, which is asked for a moment every few milliseconds.
package reachability

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Bounds of a measurement.
const (
	// DefaultPairs is how many pairs of a switch and a host are measured where the
	// request does not say, and MaxPairs how many at most.
	DefaultPairs = 1000
	MaxPairs     = 5000
	// DefaultTimeout is how long the answer to one question is waited for.
	DefaultTimeout = 250 * time.Millisecond
	MaxTimeout     = 5 * time.Second
	// MaxProbes and MaxVIPs bound what is asked for beside the hosts.
	MaxProbes = 256
	MaxVIPs   = 256
	// MinMTU and MaxMTU bound the packets that links are measured with.
	MinMTU = 64
	MaxMTU = 9216
)

// Request says what to measure.
type Request struct {
	// From are the switches to measure from; empty: all that are connected.
	From []ofproto.DPID
	// Hosts has all known hosts asked from each switch.
	Hosts bool
	// Sources are addresses that nobody has, one of a family at most. Probes of IP come
	// from them, and the controller answers for them while it measures.
	Sources []netip.Addr
	// VIPs are the names of those whose listeners are asked. Without a source of the
	// family, their members are asked instead.
	VIPs []string
	// Probes are further questions, each asked from each switch.
	Probes []documents.Probe
	// Broadcast has the copies counted in which a broadcast from each switch arrives.
	Broadcast bool
	// Rates has the packets counted that ports carry while all this is measured.
	Rates bool
	// Tables has the switches read, and compared with what they are to hold.
	Tables bool
	// MTU has the links tried with IP packets of that many bytes; 0: not.
	MTU int

	// MaxPairs bounds the pairs of a switch and a host; 0: DefaultPairs. Of more than
	// that there are, always the same are taken.
	MaxPairs int
	// Timeout is how long the answer to one question is waited for, which is asked three
	// times before it counts as not answered; 0: DefaultTimeout.
	Timeout time.Duration
	// Like is an earlier measurement whose pairs are asked again, whether their hosts are
	// known still or not; a switch that was not measured from then asks all hosts. It takes
	// the place of Hosts; nil: none.
	Like *Measurement
}

// Result is what became of a question.
type Result string

// Results.
const (
	Answered Result = "answered"
	NoAnswer Result = "no_answer"
	Skipped  Result = "skipped" // it was not asked; the reason says why
)

// Measurement is what answered at one time. It is the document that the API shows.
type Measurement struct {
	At       time.Time     `json:"at"`
	Took     string        `json:"took"` // a duration
	Switches []Switch      `json:"switches"`
	Pairs    []Pair        `json:"pairs"`
	Total    int           `json:"pairs_total"` // how many pairs there are; of more than Pairs has, some were left out
	VIPs     []VIPAnswer   `json:"vips"`
	Probes   []ProbeAnswer `json:"probes"`
	Copies   []Copies      `json:"copies"`
	Links    []LinkAnswer  `json:"links"`
	Rates    []PortRate    `json:"rates"`
	Notes    []string      `json:"notes"` // what could not be measured, and why
}

// Place is a port of a switch.
type Place struct {
	DPID string `json:"dpid"` // 16 hex digits
	Port uint32 `json:"port"`
}

func placeOf(p topology.Place) Place { return Place{p.DPID.String(), uint32(p.Port)} }

// String returns the DPID and the port with a slash between.
func (p Place) String() string { return p.DPID + "/" + topology.Port(p.Port).String() }

// Switch is one that was measured from, or could not be.
type Switch struct {
	DPID  string `json:"dpid"`
	Stage string `json:"stage"`
	// Skipped is why the switch was not measured from; empty: it was.
	Skipped string `json:"skipped,omitempty"`
	// Compared says that its tables were read, and Deviations what they hold otherwise
	// than they are to.
	Compared   bool     `json:"compared"`
	Deviations []string `json:"deviations"`
}

// Reply is what became of one question.
type Reply struct {
	Result Result `json:"result"`
	Tries  int    `json:"tries"`         // how often it was asked
	RTT    string `json:"rtt,omitempty"` // a duration: from the last question to the answer, seen at the controller
	// Caught is where the answer came in: the first switch that it crossed.
	Caught *Place `json:"caught,omitempty"`
	Reason string `json:"reason,omitempty"` // why there is no answer, or what is odd with it
}

// OK says whether the question was answered.
func (r Reply) OK() bool { return r.Result == Answered }

// Pair is a switch that asked a host by ARP or neighbour discovery.
type Pair struct {
	From    string     `json:"from"` // the datapath id of the switch
	Address netip.Addr `json:"address"`
	MAC     string     `json:"mac"`
	VLAN    uint16     `json:"vlan"` // of the host's frames; 0: untagged
	At      Place      `json:"at"`   // where the host was seen
	Reply
}

// VIPAnswer is a switch that asked a listener of a VIP.
type VIPAnswer struct {
	From     string `json:"from"`
	VIP      string `json:"vip"`
	Listener string `json:"listener"` // protocol:port
	// By is how it was asked: tcp, or members, whose addresses were asked for instead.
	By string `json:"by"`
	Reply
}

// ProbeAnswer is a switch that asked a probe's address.
type ProbeAnswer struct {
	From string `json:"from"`
	documents.Probe
	Reply
}

// Copies is in how many copies a broadcast that began at one switch came to another, by
// ports that broadcasts are taken from. One is right, none is right where they are not
// joined, more is a loop; so is one that comes back to where it began.
type Copies struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Count int    `json:"count"`
}

// LinkAnswer is one direction of a link, or two ports of a segment.
type LinkAnswer struct {
	From    Place `json:"from"`
	To      Place `json:"to"`
	Segment bool  `json:"segment"` // there is something of others between
	MTU     int   `json:"mtu"`     // the bytes of an IP packet that it was tried with
	Small   bool  `json:"small"`   // a small packet passed
	Full    bool  `json:"full"`    // one of MTU bytes did
}

// PortRate is what a port carried while the measurement went on.
type PortRate struct {
	Place
	Rx float64 `json:"rx"` // packets a second that it took
	Tx float64 `json:"tx"` // and sent
}

// InvalidError says what is wrong with a request.
type InvalidError struct{ Errors []documents.FieldError }

// Error lists the fields and reasons.
func (e *InvalidError) Error() string {
	return "reachability: invalid request: " + documents.Join(e.Errors)
}

func (e *InvalidError) add(field, format string, args ...any) {
	e.Errors = append(e.Errors, documents.FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
}

// check says what is wrong with a request by itself, and fills in defaults.
func (r *Request) check() *InvalidError {
	var e InvalidError
	for i, a := range r.Sources {
		field := fmt.Sprintf("source_addresses[%d]", i)
		switch {
		case !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a.Zone() != "" || a.Is4In6():
			e.add(field, "%s is no address of a host", a)
		case i > 0 && a.Is4() == r.Sources[0].Is4() || i > 1:
			e.add(field, "there is one of that family already")
		}
	}
	if len(r.VIPs) > MaxVIPs {
		e.add("vips", "must be %d at most", MaxVIPs)
	}
	if len(r.Probes) > MaxProbes {
		e.add("probes", "must be %d at most", MaxProbes)
	}
	for i, p := range r.Probes {
		at := fmt.Sprintf("probes[%d].", i)
		switch p.Type {
		case documents.ProbeTCP, documents.ProbePing:
			if !r.source(p.Address).IsValid() {
				e.add("source_addresses", "%s needs one of its family", p)
			}
		case documents.ProbeARP:
		default:
			e.add(at+"type", "%q is none of arp, ping, tcp", p.Type)
		}
		if a := p.Address; !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" || a.Is4In6() {
			e.add(at+"address", "%s is no address of a host", a)
		}
		if (p.Type == documents.ProbeTCP) != (p.Port != 0) {
			e.add(at+"port", "type tcp needs one, others have none")
		}
		if p.VLAN > 4094 {
			e.add(at+"vlan", "must be 0 to 4094")
		}
	}
	if r.MTU != 0 && (r.MTU < MinMTU || r.MTU > MaxMTU) {
		e.add("mtu", "must be %d to %d", MinMTU, MaxMTU)
	}
	if r.MaxPairs < 0 || r.MaxPairs > MaxPairs {
		e.add("max_pairs", "must be 1 to %d", MaxPairs)
	}
	if r.Timeout < 0 || r.Timeout > MaxTimeout {
		e.add("timeout", "must be %s at most", MaxTimeout)
	}
	if r.MaxPairs == 0 {
		r.MaxPairs = DefaultPairs
	}
	if r.Timeout == 0 {
		r.Timeout = DefaultTimeout
	}
	if len(e.Errors) > 0 {
		return &e
	}
	return nil
}

// source returns the source of the family of an address; invalid when there is none.
func (r *Request) source(of netip.Addr) netip.Addr {
	for _, a := range r.Sources {
		if a.Is4() == of.Is4() {
			return a
		}
	}
	return netip.Addr{}
}
