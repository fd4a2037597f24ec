package topology

import "fmt"

// Event is one change of the graph: SwitchAdded, SwitchGone, PortChanged,
// PortSettled, PortBlocked, PortFault, LinkUp, LinkDown, LinkChanged, SegmentChanged, HostAdded, HostMoved, HostChanged,
// HostFlaps, HostClaimed or HostGone. Events are values and may be kept.
type Event interface {
	fmt.Stringer
	// fabric is true when the change concerns switches, ports or links.
	fabric() bool
}

// Reason says why a link or a host is gone.
type Reason uint8

// The reasons.
const (
	// ReasonExpired: not heard for longer than its time to live.
	ReasonExpired Reason = iota + 1
	// ReasonPort: its port went down or was removed.
	ReasonPort
	// ReasonSwitch: its switch was removed.
	ReasonSwitch
	// ReasonLink: its port turned out to be the end of a link (hosts), or to
	// belong to another link (links).
	ReasonLink
	// ReasonEvicted: the table was full and the host had been silent longest.
	ReasonEvicted
	// ReasonSegment: its port is on no segment any more, and it may be elsewhere on it.
	ReasonSegment
	// ReasonBlocked: its port was blocked by a guard.
	ReasonBlocked
)

var reasons = [...]string{"none", "expired", "port lost", "switch gone", "port is a link", "table full", "segment parted", "port blocked"}

// String returns the reason in words.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return fmt.Sprintf("reason(%d)", uint8(r))
}

// MarshalText gives the reason in JSON as String does.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// SwitchAdded tells of a switch not known before, with its ports.
type SwitchAdded struct{ Switch Switch }

// SwitchGone tells that a switch was removed.
type SwitchGone struct{ DPID DPID }

// PortChanged tells that a port of a known switch came, changed or was removed.
type PortChanged struct {
	Place Place
	// Port is the new state; when Gone, the last one with Up false.
	Port PortState
	Gone bool
}

// PortSettled tells that a port now is an edge port: it was up for
// Options.EdgeDelay and no link was found there.
type PortSettled struct{ Place Place }

// LinkUp tells that a link now carries traffic.
type LinkUp struct{ Link Link }

// LinkDown tells that a link no longer carries traffic. Link.State says what
// is left of it.
type LinkDown struct {
	Link   Link
	Reason Reason
}

// LinkChanged tells of any other change of a link. It is about one that carries
// no traffic, before and now (a cable heard one way, a loop, a shared medium, or
// the end of such, StateGone), and matters because its ends are not edge
// ports; or about one that was only trusted and now is heard.
type LinkChanged struct{ Link Link }

// SegmentChanged tells that two ports turned out to be on one segment (Joined), or are
// not known to be any more; or, with zero ports, that the roles of ports may be others.
type SegmentChanged struct {
	A, B   Place
	Joined bool
}

// HostAdded tells of a host not known before.
type HostAdded struct{ Host Host }

// HostMoved tells that a host is now seen at Host.Place and no longer at From.
type HostMoved struct {
	Host Host
	From Place
}

// HostChanged tells that the addresses of a host changed, or its pin.
type HostChanged struct{ Host Host }

// HostClaimed tells that a host was seen where it is not known to be, or its address with
// another, and that nothing was changed for it: whether it still is where it was is to be
// found out (see Options.Claims).
type HostClaimed struct {
	Host Host // whose place or address is claimed
	By   Sighting
}

// HostFlaps tells that a host was seen at a place other than its own and is left where
// it was, because it moves too often: the place, or its own, is to blame.
type HostFlaps struct {
	Host Host
	At   Place
}

// HostGone tells that a host was forgotten.
type HostGone struct {
	Host   Host
	Reason Reason
}

func (SwitchAdded) fabric() bool    { return true }
func (SwitchGone) fabric() bool     { return true }
func (PortChanged) fabric() bool    { return true }
func (PortSettled) fabric() bool    { return true }
func (LinkUp) fabric() bool         { return true }
func (LinkDown) fabric() bool       { return true }
func (LinkChanged) fabric() bool    { return true }
func (SegmentChanged) fabric() bool { return true }
func (HostAdded) fabric() bool      { return false }
func (HostMoved) fabric() bool      { return false }
func (HostChanged) fabric() bool    { return false }
func (HostFlaps) fabric() bool      { return false }
func (HostClaimed) fabric() bool    { return false }
func (HostGone) fabric() bool       { return false }

// String returns the event in one line.
func (e SwitchAdded) String() string {
	return fmt.Sprintf("switch added %v ports=%d", e.Switch.DPID, len(e.Switch.Ports))
}

// String returns the event in one line.
func (e SwitchGone) String() string { return fmt.Sprintf("switch gone %v", e.DPID) }

// String returns the event in one line.
func (e PortChanged) String() string {
	state := "down"
	switch {
	case e.Gone:
		state = "gone"
	case e.Port.Up:
		state = "up"
	}
	return fmt.Sprintf("port %s %v", state, e.Place)
}

// String returns the event in one line.
func (e PortSettled) String() string { return fmt.Sprintf("port settled %v", e.Place) }

// String returns the event in one line.
func (e LinkUp) String() string {
	return fmt.Sprintf("link up %v-%v%s", e.Link.A, e.Link.B, e.Link.trust())
}

// String returns the event in one line.
func (e LinkDown) String() string {
	return fmt.Sprintf("link down %v-%v now=%v (%v)", e.Link.A, e.Link.B, e.Link.State, e.Reason)
}

// String returns the event in one line.
func (e LinkChanged) String() string {
	return fmt.Sprintf("link changed %v-%v now=%v%s", e.Link.A, e.Link.B, e.Link.State, e.Link.trust())
}

// String returns the event in one line.
func (e SegmentChanged) String() string {
	return fmt.Sprintf("segment changed %v-%v joined=%v", e.A, e.B, e.Joined)
}

// String returns the event in one line.
func (e HostAdded) String() string {
	return fmt.Sprintf("host added %v at %v ips=%v", e.Host.Key(), e.Host.Place, e.Host.IPs)
}

// String returns the event in one line.
func (e HostMoved) String() string {
	return fmt.Sprintf("host moved %v from %v to %v ips=%v", e.Host.Key(), e.From, e.Host.Place, e.Host.IPs)
}

// String returns the event in one line.
func (e HostFlaps) String() string {
	return fmt.Sprintf("host flaps %v of %v at %v", e.Host.Key(), e.Host.Place, e.At)
}

// String returns the event in one line.
func (e HostClaimed) String() string {
	return fmt.Sprintf("host claimed %v of %v by %v at %v ip=%v", e.Host.Key(), e.Host.Place, e.By.MAC, e.By.Place, e.By.IP)
}

// String returns the event in one line.
func (e HostChanged) String() string {
	s := fmt.Sprintf("host changed %v at %v ips=%v", e.Host.Key(), e.Host.Place, e.Host.IPs)
	if e.Host.Pinned {
		s += " pinned"
	}
	return s
}

// String returns the event in one line.
func (e HostGone) String() string {
	return fmt.Sprintf("host gone %v at %v (%v)", e.Host.Key(), e.Host.Place, e.Reason)
}
