package discovery

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Hosts that pass the controller's probes on to one another, by a way of their own, look like
// a cable: what they pass on is genuine and fresh. A cable that is plugged in does more,
// though. The ports at both its ends come up, so no link appears between ports that have been
// up and silent for long; and where hosts were until just before, somebody has moved them. What
// does not fit is told, and shown with the link. Nothing is refused for it: a circuit of a
// provider, whose ends are up while it is down, looks the same.

const (
	// silentFor is how long a port must have been up, and silentProbes how many probes must
	// have left it, for nobody to have been there.
	silentFor    = 4 * probeEvery
	silentProbes = 4
	// recabledFor is how long it is remembered what was at a port that went down.
	recabledFor = time.Minute
	// maxPasts bounds the ports of which that is remembered, pastHosts the hosts of each.
	maxPasts  = 4096
	pastHosts = 8
)

// past is what was at a port until it went down.
type past struct {
	down  time.Time
	hosts []topology.HostKey // some of them
}

// suspicion is why a link may be none.
type suspicion struct {
	link topology.Link
	// hosts that were at its ports until these went down. One that is seen elsewhere was
	// moved, and explains the link; empty: nothing does.
	hosts []topology.HostKey
}

// wasDown remembers that a port went down. Hosts that were there shortly before it did so
// the last time are not forgotten.
func (a *App) wasDown(c *controller.Context, at topology.Place) {
	if a.ports[at] == nil {
		return // it was not up
	}
	for p, old := range a.pasts {
		if c.Now.Sub(old.down) > 2*recabledFor {
			delete(a.pasts, p)
		}
	}
	p := a.pasts[at]
	if p == nil && len(a.pasts) >= maxPasts {
		return
	}
	if p == nil || c.Now.Sub(p.down) > recabledFor {
		p = &past{}
		a.pasts[at] = p
	}
	p.down = c.Now
	p.add(c.Graph.HostsAt(at)...) // pinned ones; of others the graph tells
}

// add adds hosts that were at the port.
func (p *past) add(hosts ...topology.HostKey) {
	for _, h := range hosts {
		if len(p.hosts) < pastHosts && !slices.Contains(p.hosts, h) {
			p.hosts = append(p.hosts, h)
		}
	}
}

// forgetPorts forgets what was at ports that are not there any more.
func (a *App) forgetPorts(gone func(topology.Place) bool) {
	maps.DeleteFunc(a.pasts, func(p topology.Place, _ *past) bool { return gone(p) })
	maps.DeleteFunc(a.peers, func(p, _ topology.Place) bool { return gone(p) })
}

// wasAt remembers a host that was at a port until it went down.
func (a *App) wasAt(h topology.Host, now time.Time) {
	if p := a.pasts[h.Place]; p != nil && p.down.Equal(now) {
		p.add(h.Key())
	}
}

// listening has the ports of a switch count as silent from now on only: it was not
// connected, or had no entry for probes.
func (a *App) listening(dpid topology.DPID, now time.Time) {
	for at, p := range a.ports {
		if at.DPID == dpid {
			p.since, p.sent = now, 0
		}
	}
}

// examine looks whether a cable can have been plugged in where a link came up.
func (a *App) examine(c *controller.Context, l topology.Link) {
	s := suspicion{link: l}
	one, two := a.history(l, l.A), a.history(l, l.B)
	var why string
	switch {
	case l.Trusted, a.peers[l.A] == l.B, a.peers[l.B] == l.A: // it was there before
	case one.silent && two.silent:
		why = fmt.Sprintf("both ports have been up for %v and nothing was heard", min(one.up, two.up).Round(time.Second))
	case one.late || two.late:
		why = "a port went down after the probe was sent that came in by it"
	case one.silent && two.past != nil, two.silent && one.past != nil:
		why = fmt.Sprintf("one port went down and up, the other has been up for %v and nothing was heard", max(one.up, two.up).Round(time.Second))
	case one.past != nil && two.past != nil:
		s.hosts = slices.DeleteFunc(slices.Concat(one.past.hosts, two.past.hosts), func(h topology.HostKey) bool {
			now, known := c.Graph.Snapshot().Host(h.MAC, h.VLAN)
			return known && now.Place != l.A && now.Place != l.B // it was moved
		})
		if len(s.hosts) > 0 {
			why = fmt.Sprintf("hosts were there until the ports went down, and are nowhere else: %v", s.hosts)
		}
	}
	if why == "" || len(a.suspicions) >= maxClaims {
		a.believe(l)
		return
	}
	a.suspicions[l.A] = s
	emit(c, c.Graph.SetFault(l.A, topology.FaultSuspect, fmt.Sprintf("hosts may pass on the probes that make this link: %s", why), c.Now))
	c.Notify("link", map[string]any{"event": "suspected", "a": l.A, "b": l.B, "reason": why})
	c.Alarm(fmt.Sprintf("suspected %v %v", l.A, l.B), "a link came up where no cable seems to have been plugged in: do hosts pass on probes?",
		"a", l.A.String(), "b", l.B.String(), "reason", why)
}

// history is what is known of a port at which a link came up.
type history struct {
	up     time.Duration // that it has been so, and heard
	silent bool          // and there was nobody for long
	late   bool          // a probe was heard that was sent before it went down
	past   *past         // nil: it was not down of late, or is new
}

func (a *App) history(l topology.Link, at topology.Place) (h history) {
	p := a.ports[at]
	if p == nil {
		return h
	}
	h.up = l.FirstSeen.Sub(p.since)
	h.silent = h.up >= silentFor && p.sent >= silentProbes
	h.late = p.late == l.Other(at)
	if old := a.pasts[at]; !h.silent && old != nil && p.born.Sub(old.down) <= recabledFor {
		h.past = old
	}
	return h
}

// changed follows a link: one that is gone is suspected no more, one that was only believed
// and is heard now was there before.
func (a *App) changed(l topology.Link) {
	switch _, suspected := a.suspicions[l.A]; {
	case l.State == topology.StateGone:
		delete(a.suspicions, l.A)
	case l.State == topology.StateUp && !suspected:
		a.believe(l)
	}
}

// believe remembers a link as one that is there, and may come again.
func (a *App) believe(l topology.Link) { a.peers[l.A], a.peers[l.B] = l.B, l.A }

// noteLate looks whether a probe that came in by a port had left before the port went down.
func (a *App) noteLate(from, at topology.Place, seq uint64) {
	p, q := a.ports[from], a.ports[at]
	if p == nil || q == nil || a.pasts[at] == nil {
		return
	}
	if sent := p.sentAt[seq%probeWindow]; !sent.IsZero() && sent.Before(a.pasts[at].down) {
		q.late = from
	}
}

// explain takes a suspicion back that a host explains which is elsewhere now.
func (a *App) explain(c *controller.Context, h topology.Host) {
	for at, s := range a.suspicions {
		if slices.Contains(s.hosts, h.Key()) && h.Place != s.link.A && h.Place != s.link.B {
			a.trust(c, at)
		}
	}
}

// confirmed takes back what is suspected of the links of a switch.
func (a *App) confirmed(c *controller.Context, dpid ofproto.DPID) {
	for at, s := range a.suspicions {
		if ofproto.DPID(s.link.A.DPID) == dpid || ofproto.DPID(s.link.B.DPID) == dpid {
			a.trust(c, at)
		}
	}
}

// trust takes what is suspected of a link back.
func (a *App) trust(c *controller.Context, at topology.Place) {
	l := a.suspicions[at].link
	delete(a.suspicions, at)
	a.believe(l)
	emit(c, c.Graph.SetFault(at, topology.FaultSuspect, "", c.Now))
	c.Notify("link", map[string]any{"event": "trusted", "a": l.A, "b": l.B})
}
