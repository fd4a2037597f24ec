// Package health probes targets and says which are up. Probes go through the
// switches: frames leave by packet-out at the port where the target is attached, and
// the replies are taken out by entries of this app and come back by packet-in, so
// the controller needs no interface in the data network. TCP is spoken by a TCP/IP
// stack in the process (gVisor's netstack).
//
// The package knows nothing of VIPs: it has Targets and gives Verdicts. The core loop
// owns all of its state; see App.
package health

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Type is the kind of probe.
type Type string

// Kinds of probes.
const (
	// TCP opens a connection and resets it.
	TCP Type = "tcp"
	// HTTP makes a request and looks at the status code.
	HTTP Type = "http"
	// HTTPS does so over TLS.
	HTTPS Type = "https"
	// Ping sends an ICMP echo request.
	Ping Type = "ping"
	// UDPConnect sends an empty datagram. ICMP port unreachable is a failure; an
	// answer is a success, and so is silence, because few UDP services answer what
	// they do not understand. A target that is switched off is silent too: it is
	// found by its place in the network being lost.
	UDPConnect Type = "udp_connect"
	// SCTP sends INIT (RFC 9260 §3.3.2). INIT ACK is a success, ABORT a failure.
	SCTP Type = "sctp"
)

// Types are all kinds of probes.
var Types = []Type{TCP, HTTP, HTTPS, Ping, UDPConnect, SCTP}

// Target is what is probed, and how. It is a comparable value.
type Target struct {
	// ID names the target; it comes back in the Verdict.
	ID      string
	Type    Type
	Address netip.Addr
	Port    uint16 // of no meaning for Ping
	// Source is the address that probes through the switches come from; of the family
	// of Address. Of no meaning with ViaHost.
	Source netip.Addr
	// Answer says that Source is nobody else's address: ARP and neighbour
	// solicitations for it are answered with controller.ProbeMAC.
	Answer bool
	// VLAN of Address and Source; 0 is untagged.
	VLAN uint16

	// Interval is the time between the beginnings of two probes, at most; it is up to
	// a tenth shorter, at random.
	Interval time.Duration
	// Timeout is how long a probe may take; at most Interval.
	Timeout time.Duration
	// Rise is the number of successes in a row that bring a target up that was down,
	// Fall the number of failures in a row that take one down. 0 counts as 1.
	Rise, Fall int

	// Method, Path and Host are of the request of HTTP and HTTPS; empty: GET, /, and
	// the address. Host is also the name asked of TLS (SNI) and looked for in the
	// certificate.
	Method, Path, Host string
	// ExpectedCodes are the status codes that are a success, as "200", "200-299" or
	// "200,204"; empty: 200.
	ExpectedCodes string
	// TLSInsecure takes any certificate.
	TLSInsecure bool

	// ViaHost sends probes from the network of the controller's own host, not through
	// the switches.
	ViaHost bool
}

// Change gives the app all targets of one owner, in place of those it had before. It
// is an event for controller.App.Handle. Targets with an ID of another owner's are
// left out.
type Change struct {
	Owner   string
	Targets []Target
}

// Verdict says whether a target is up. There is none before the first success, or
// before Fall failures.
type Verdict struct {
	ID string
	Up bool
	// Reason is why it is down: what the last probe ended with, or that it answers and
	// is held down because it flips. Empty when it is up.
	Reason string
}

// filled returns the target with the defaults of its optional fields.
func (t Target) filled() Target {
	t.Rise, t.Fall = max(t.Rise, 1), max(t.Fall, 1)
	t.Interval = max(t.Interval, 10*time.Millisecond)
	if t.Timeout <= 0 || t.Timeout > t.Interval {
		t.Timeout = t.Interval
	}
	if t.Type == Ping {
		t.Port = 0
	}
	if t.Type == HTTP || t.Type == HTTPS {
		if t.Method == "" {
			t.Method = "GET"
		}
		if t.Path == "" {
			t.Path = "/"
		}
		if t.ExpectedCodes == "" {
			t.ExpectedCodes = "200"
		}
	}
	return t
}

// fault says why a target cannot be probed; "" when it can.
func (t Target) fault() string {
	switch {
	case !slices.Contains(Types, t.Type):
		return "no such kind of probe: " + string(t.Type)
	case !t.Address.IsValid():
		return "has no address"
	case !t.ViaHost && t.Source.Is4() != t.Address.Is4():
		return "the source of probes is not of the family of the address"
	}
	return ""
}

// expects says whether a status code is one of a list as in Target.ExpectedCodes.
func expects(codes string, code int) bool {
	for part := range strings.SplitSeq(codes, ",") {
		low, high, isRange := strings.Cut(part, "-")
		from, err := strconv.Atoi(low)
		to := from
		if isRange && err == nil {
			to, err = strconv.Atoi(high)
		}
		if err == nil && from <= code && code <= to {
			return true
		}
	}
	return false
}
