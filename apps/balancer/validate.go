package balancer

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/fairlead/fairlead/controller/documents"
)

// Limits of a monitor.
const (
	minInterval = 100 * time.Millisecond
	maxInterval = time.Hour
	minTimeout  = 10 * time.Millisecond
	maxRiseFall = 10
	maxPath     = 1024 // bytes
	maxHost     = 253  // bytes of a name in the DNS
)

// Limits of other fields.
const (
	maxInterface = 255            // bytes of an external_ids:iface-id
	maxRate      = 1_000_000      // connections a second
	maxDrain     = 24 * time.Hour // drain_timeout
)

// maxFaults bounds the errors reported of one document.
const maxFaults = 32

// FieldError is what is wrong with one field of a document.
type FieldError = documents.FieldError

// InvalidError says that a document is malformed or against its rules (400).
type InvalidError struct{ Errors []FieldError }

// Error lists the fields and reasons.
func (e *InvalidError) Error() string {
	return "balancer: invalid document: " + documents.Join(e.Errors)
}

// UnsupportedError says that a document is well-formed and asks for something
// this version does not offer (422).
type UnsupportedError struct{ Errors []FieldError }

// Error lists the fields and reasons.
func (e *UnsupportedError) Error() string {
	return "balancer: not supported: " + documents.Join(e.Errors)
}

// ConflictError says that a document cannot stand beside another one, or two
// parts of one document beside each other (409). With names what is in the way.
type ConflictError struct{ Field, With string }

// Error names both sides.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("balancer: %s conflicts with %s", e.Field, e.With)
}

// faults gathers what is wrong with a document.
type faults []FieldError

func (f *faults) add(field, format string, args ...any) {
	if len(*f) < maxFaults {
		*f = append(*f, FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
}

// validate holds a document to its rules: first to those that every document
// keeps (InvalidError), then to those between its parts (ConflictError), then to
// what this version offers (UnsupportedError). What other documents say is not
// looked at.
func validate(v VIP) error {
	var bad faults
	checkVIP(&bad, v)
	if len(bad) > 0 {
		return &InvalidError{bad}
	}
	if err := checkParts(v); err != nil {
		return err
	}
	var missing faults
	checkOffered(&missing, v)
	if len(missing) > 0 {
		return &UnsupportedError{missing}
	}
	return nil
}

func checkVIP(bad *faults, v VIP) {
	if !validName(v.Name) {
		bad.add("name", "must be 1 to 63 of a-z, 0-9 and -, not beginning with -")
	}
	checkAddress(bad, "address", v.Address)
	oneOf(bad, "mode", v.Mode, ModeNAT, ModeDSR, ModeConntrack)
	if v.VLAN > 4094 {
		bad.add("vlan", "must be 0 (untagged) to 4094")
	}
	oneOf(bad, "on_empty", v.OnEmpty, OnEmptyDrop, OnEmptyReject)
	if v.SourceNAT && v.Mode != ModeConntrack {
		bad.add("source_nat", "is for mode conntrack only")
	}
	if len(v.AllowedCIDRs) > MaxCIDRs {
		bad.add("allowed_cidrs", "must be at most %d", MaxCIDRs)
		return
	}
	for i, p := range v.AllowedCIDRs {
		field := fmt.Sprintf("allowed_cidrs[%d]", i)
		switch {
		case !p.IsValid():
			bad.add(field, "is missing")
		case p != p.Masked():
			bad.add(field, "has host bits set: the network is %s", p.Masked())
		case p.Addr().Is4In6() || p.Addr().Is4() != v.Address.Is4():
			bad.add(field, "must be of the family of the VIP's address")
		case slices.Contains(v.AllowedCIDRs[:i], p):
			bad.add(field, "is given twice")
		}
	}
	if len(v.Listeners) > MaxListeners {
		bad.add("listeners", "must be at most %d", MaxListeners)
		return
	}
	for i, l := range v.Listeners {
		field := fmt.Sprintf("listeners[%d]", i)
		oneOf(bad, field+".protocol", l.Protocol, TCP, UDP, SCTP)
		switch {
		case l.Port == 0:
			bad.add(field+".port", "must be 1 to 65535")
		case l.PortEnd != 0 && l.PortEnd <= l.Port:
			bad.add(field+".port_end", "must be above port, or 0")
		}
		if l.ConnectionRate < 0 || l.ConnectionRate > maxRate {
			bad.add(field+".connection_rate", "must be 0 to %d", maxRate)
		} else if l.ConnectionRate != 0 && l.Protocol != TCP {
			bad.add(field+".connection_rate", "is for tcp only")
		}
		checkPool(bad, field+".pool", v, l.Pool)
		for j, m := range l.Pool.Members {
			if m.Port == l.Port || m.Port == 0 {
				continue
			}
			if l.PortEnd != 0 {
				bad.add(memberField(field+".pool", j)+".port", "must be the listener's port, %d: packets of a range keep theirs", l.Port)
			} else if v.Mode == ModeDSR {
				bad.add(memberField(field+".pool", j)+".port", "must be the listener's port, %d: mode dsr does not rewrite it", l.Port)
			}
		}
	}
}

func checkPool(bad *faults, field string, v VIP, p Pool) {
	oneOf(bad, field+".persistence", p.Persistence, PersistenceNone, PersistenceSourceIP, PersistenceSourceIPProtocol)
	if p.Monitor != nil {
		checkMonitor(bad, field+".monitor", v, *p.Monitor)
	}
	if p.PanicThreshold < 0 || p.PanicThreshold > 100 {
		bad.add(field+".panic_threshold", "must be 0 to 100 percent")
	}
	if p.MinimumHealthy < 0 || p.MinimumHealthy > MaxMembers {
		bad.add(field+".minimum_healthy", "must be 0 to %d", MaxMembers)
	}
	switch d := time.Duration(p.DrainTimeout); {
	case d < 0 || d > maxDrain:
		bad.add(field+".drain_timeout", "must be 0s to %v", maxDrain)
	case d != 0 && v.Mode != ModeConntrack:
		bad.add(field+".drain_timeout", "is for mode conntrack only: the others know no connections")
	}
	if len(p.Members) > MaxMembers {
		bad.add(field+".members", "must be at most %d", MaxMembers)
		return
	}
	first := map[MemberKey]int{}
	for i, m := range p.Members {
		at := memberField(field, i)
		checkMember(bad, at+".", v.Address, m)
		if j, twice := first[m.Key()]; twice {
			bad.add(at, "has the address and port of members[%d]", j)
		} else {
			first[m.Key()] = i
		}
	}
}

// memberField is the path of a member of the pool at that path.
func memberField(pool string, i int) string { return fmt.Sprintf("%s.members[%d]", pool, i) }

// checkMember checks one member; vip is invalid where it is not known.
func checkMember(bad *faults, prefix string, vip netip.Addr, m Member) {
	switch {
	case !checkAddress(bad, prefix+"address", m.Address) || !vip.IsValid():
	case m.Address == vip:
		bad.add(prefix+"address", "is the address of the VIP itself")
	case m.Address.Is4() != vip.Is4():
		bad.add(prefix+"address", "must be of the family of the VIP's address")
	}
	if m.Port == 0 {
		bad.add(prefix+"port", "must be 1 to 65535")
	}
	if m.Weight < 0 || m.Weight > MaxWeight {
		bad.add(prefix+"weight", "must be 0 to %d", MaxWeight)
	}
	if !validInterface(m.Interface) {
		bad.add(prefix+"interface", "must be 1 to %d bytes without control characters or spaces at its ends", maxInterface)
	}
	oneOf(bad, prefix+"admin_state", m.AdminState, AdminUp, AdminDrain, AdminDown)
	if m.MonitorAddress.IsValid() && checkAddress(bad, prefix+"monitor_address", m.MonitorAddress) && m.MonitorAddress.Is4() != m.Address.Is4() {
		bad.add(prefix+"monitor_address", "must be of the family of the member's address")
	}
}

func checkMonitor(bad *faults, field string, v VIP, m Monitor) {
	oneOf(bad, field+".via", m.Via, ViaSwitches, ViaHost)
	oneOf(bad, field+".initial", m.Initial, HealthUnknown, HealthUp)
	switch {
	case m.SourceAddress.IsValid():
		switch {
		case m.Via == ViaHost:
			bad.add(field+".source_address", "is for probes via switches only")
		case checkAddress(bad, field+".source_address", m.SourceAddress) && m.SourceAddress.Is4() != v.Address.Is4():
			bad.add(field+".source_address", "must be of the family of the VIP's address")
		}
	case v.Mode == ModeDSR && m.Via == ViaSwitches:
		bad.add(field+".source_address", "is missing: in mode dsr members have the VIP's address themselves and would not answer probes from it")
	}
	oneOf(bad, field+".type", m.Type,
		MonitorTCP, MonitorHTTP, MonitorHTTPS, MonitorPing, MonitorUDPConnect, MonitorSCTP)
	if d := time.Duration(m.Interval); d < minInterval || d > maxInterval {
		bad.add(field+".interval", "must be %v to %v", minInterval, maxInterval)
	}
	if d := time.Duration(m.Timeout); d < minTimeout || m.Timeout > m.Interval {
		bad.add(field+".timeout", "must be %v to the interval", minTimeout)
	}
	if m.Rise < 1 || m.Rise > maxRiseFall {
		bad.add(field+".rise", "must be 1 to %d", maxRiseFall)
	}
	if m.Fall < 1 || m.Fall > maxRiseFall {
		bad.add(field+".fall", "must be 1 to %d", maxRiseFall)
	}
	if !m.Type.http() {
		if m.Path != "" {
			bad.add(field+".path", "is for http and https only")
		}
		if m.ExpectedCodes != "" {
			bad.add(field+".expected_codes", "is for http and https only")
		}
		if m.Method != "" {
			bad.add(field+".method", "is for http and https only")
		}
		if m.Host != "" {
			bad.add(field+".host", "is for http and https only")
		}
		if m.TLSInsecure {
			bad.add(field+".tls_insecure", "is for https only")
		}
		return
	}
	if m.TLSInsecure && m.Type != MonitorHTTPS {
		bad.add(field+".tls_insecure", "is for https only")
	}
	oneOf(bad, field+".method", m.Method, "GET", "HEAD", "OPTIONS", "POST")
	if len(m.Host) > maxHost || strings.ContainsFunc(m.Host, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == '@' }) {
		bad.add(field+".host", "must be a host name or address, at most %d characters", maxHost)
	}
	unprintable := func(r rune) bool { return r <= ' ' || r > '~' }
	if !strings.HasPrefix(m.Path, "/") || len(m.Path) > maxPath || strings.ContainsFunc(m.Path, unprintable) {
		bad.add(field+".path", "must begin with / and be at most %d printable ASCII characters without spaces", maxPath)
	}
	if !validCodes(m.ExpectedCodes) {
		bad.add(field+".expected_codes", `must be codes from 100 to 599 and ranges of them, as "200", "200,204", "200-299"`)
	}
}

// validInterface says whether a text can be the id of an interface; an empty one is
// none.
func validInterface(s string) bool {
	return len(s) <= maxInterface && s == strings.TrimSpace(s) && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// http says whether probes of the type are HTTP requests.
func (t MonitorType) http() bool { return t == MonitorHTTP || t == MonitorHTTPS }

// validName is [a-z0-9]([a-z0-9-]{0,62}).
func validName(s string) bool {
	for i, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return false
		}
	}
	return 1 <= len(s) && len(s) <= 63
}

func validCodes(s string) bool {
	code := func(s string) int {
		n, err := strconv.Atoi(s)
		if err != nil || len(s) != 3 || n < 100 || n > 599 {
			return 0
		}
		return n
	}
	if len(s) > maxPath {
		return false
	}
	for part := range strings.SplitSeq(s, ",") {
		low, high, isRange := strings.Cut(part, "-")
		if code(low) == 0 || isRange && code(high) < code(low) {
			return false
		}
	}
	return true
}

// checkAddress wants the address of one host that others can reach.
func checkAddress(bad *faults, field string, a netip.Addr) bool {
	broadcast := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	switch {
	case !a.IsValid():
		bad.add(field, "is missing")
	case a.Zone() != "":
		bad.add(field, "must not have a zone")
	case a.Is4In6():
		bad.add(field, "must be written as IPv4: %s", a.Unmap())
	case a.IsUnspecified():
		bad.add(field, "must not be unspecified")
	case a.IsLoopback():
		bad.add(field, "must not be loopback")
	case a.IsMulticast():
		bad.add(field, "must not be multicast")
	case a == broadcast:
		bad.add(field, "must not be broadcast")
	case a.IsLinkLocalUnicast():
		bad.add(field, "must not be link-local")
	case a.Is4() && a.As4()[0] == 0:
		bad.add(field, "must not be in 0.0.0.0/8")
	default:
		return true
	}
	return false
}

func oneOf[T ~string](bad *faults, field string, v T, allowed ...T) {
	if !slices.Contains(allowed, v) {
		names := make([]string, len(allowed))
		for i, a := range allowed {
			names[i] = string(a)
		}
		bad.add(field, "must be one of %s", strings.Join(names, ", "))
	}
}

// checkParts refuses a document whose listeners stand in each other's way.
func checkParts(v VIP) error {
	at := map[netip.Addr]string{}
	for i, l := range v.Listeners {
		for j, m := range l.Pool.Members {
			if other := at[m.Address]; other != "" && m.Interface != "" && other != m.Interface {
				return &ConflictError{memberField(fmt.Sprintf("listeners[%d].pool", i), j) + ".interface", fmt.Sprintf("interface %s, where another member has %s", other, m.Address)}
			}
			at[m.Address] = cmp.Or(at[m.Address], m.Interface)
		}
	}
	for i, l := range v.Listeners {
		for j, other := range v.Listeners[:i] {
			if other.Protocol == l.Protocol && other.ports().overlaps(l.ports()) {
				return &ConflictError{fmt.Sprintf("listeners[%d].port", i), fmt.Sprintf("listeners[%d]: %s and %s have ports in common", j, l.named(), other.named())}
			}
		}
	}
	if v.Mode != ModeNAT {
		return nil
	}
	// A reply tells its listener by the member's address, protocol and port alone.
	type source struct {
		protocol Protocol
		member   netip.Addr
	}
	type use struct {
		field string
		ports portRange
	}
	members := map[source][]use{}
	for i, l := range v.Listeners {
		for j, m := range l.Pool.Members {
			field := memberField(fmt.Sprintf("listeners[%d].pool", i), j)
			from, ports := source{l.Protocol, m.Address}, l.memberPorts(m)
			for _, other := range members[from] {
				if other.ports.overlaps(ports) {
					return &ConflictError{field, fmt.Sprintf("%s: in nat mode %s serves one %s listener only", other.field, m.Key(), l.Protocol)}
				}
			}
			members[from] = append(members[from], use{field, ports})
		}
	}
	return nil
}

// named is the listener's name in messages: "tcp:80", "tcp:8000-8999".
func (l Listener) named() string { return string(l.Protocol) + ":" + l.ports().String() }

// memberPorts are the ports of a member that packets of the listener go to.
func (l Listener) memberPorts(m Member) portRange {
	if l.ports().single() {
		return portRange{m.Port, m.Port}
	}
	return l.ports()
}

// checkOffered lists what the contract has and this version does not.
func checkOffered(missing *faults, v VIP) {
	for i, l := range v.Listeners {
		field := fmt.Sprintf("listeners[%d]", i)
		if l.Protocol == SCTP && v.Mode == ModeConntrack {
			missing.add(field+".protocol", "sctp is not tracked by Open vSwitch itself: use mode nat or dsr")
		}
	}
}
