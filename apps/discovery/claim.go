package discovery

import (
	"net/netip"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/topology"
)

// A host that is seen elsewhere has moved, or another one says that it were it. The place
// where it is known to be is asked: while the host answers there the claim is refused. A
// pinned host, one that VIPs have as a member, must answer at the new place too. Where the
// port of the old place is down nobody can be asked there; a pinned host is then waited for
// a little longer, so that a port that goes down and up again is no occasion.

const (
	// askEvery is the time between two questions of a claim, claimFor how long the old
	// place has to answer, claimDownFor likewise where its port is down.
	askEvery     = 100 * time.Millisecond
	claimFor     = 300 * time.Millisecond
	claimDownFor = 500 * time.Millisecond
	// refusedFor is how long a claim that was refused is not looked into again.
	refusedFor = 5 * time.Second
	// departedFor is how long it is remembered where a host was whose port went down.
	departedFor = time.Minute
	// maxClaims bounds the claims, and the hosts that left, that are remembered. A claim
	// above it is ignored.
	maxClaims = 1024
	// asksMost is how many addresses of a host are asked for.
	asksMost = 2
)

// claimKey names a claim: what is claimed, and where.
type claimKey struct {
	host topology.HostKey
	ip   netip.Addr // that is claimed by another host; the zero Addr: the host itself is
	at   topology.Place
}

// claim is one that is looked into, or was refused.
type claim struct {
	host    topology.Host
	by      topology.Sighting
	next    time.Time // question
	until   time.Time
	down    bool // the old place's port was
	there   bool // the new place answered
	refused bool
}

// departure is where a host was when its port went down.
type departure struct {
	place topology.Place
	at    time.Time
}

// claimed begins to look into a claim.
func (a *App) claimed(c *controller.Context, e topology.HostClaimed) {
	key := claimKey{host: e.Host.Key(), at: e.By.Place}
	if e.By.MAC != e.Host.MAC {
		key.ip = e.By.IP
	}
	if _, ok := a.claims[key]; ok || len(a.claims) >= maxClaims {
		return
	}
	wait, down := claimFor, !isUp(c, e.Host.Place)
	if down {
		wait = claimDownFor
	}
	a.claims[key] = &claim{host: e.Host, by: e.By, next: c.Now, until: c.Now.Add(wait), down: down}
	a.suspect(c, e.Host.VLAN, e.Host.Place, e.By.Place)
	a.settleClaims(c)
}

func isUp(c *controller.Context, at topology.Place) bool {
	state, ok := c.Graph.Snapshot().Port(at)
	return ok && state.Up
}

// testify takes a sighting that answers a question of the controller's. Others prove
// nothing: what a host sent before it moved may come after what it sent then.
func (a *App) testify(c *controller.Context, s topology.Sighting) {
	for key, k := range a.claims {
		switch {
		case k.refused || s.VLAN != k.host.VLAN:
		case s.MAC == k.host.MAC && s.Place == k.host.Place && (!key.ip.IsValid() || s.IP == key.ip):
			k.refused, k.until = true, c.Now.Add(refusedFor)
			what := map[string]any{"event": "claim refused", "mac": k.host.MAC, "ips": k.host.IPs, "place": k.host.Place, "at": k.by.Place}
			if key.ip.IsValid() {
				what["claimed"], what["by"] = key.ip, k.by.MAC
			}
			c.Notify("host", what)
		case s.MAC == k.by.MAC && s.Place == k.by.Place && s.IP.IsValid():
			k.there = true
		}
	}
}

// settleClaims asks what is to be asked, and believes those claims that nobody objected to.
func (a *App) settleClaims(c *controller.Context) {
	for key, k := range a.claims {
		switch up := isUp(c, k.host.Place); {
		case k.refused || up != k.down:
		case up: // now it can be asked
			k.down, k.next, k.until = false, c.Now, c.Now.Add(claimFor)
		default: // and now it cannot
			k.down, k.until = true, c.Now.Add(claimDownFor)
		}
		if h, ok := c.Graph.Snapshot().Host(k.host.MAC, k.host.VLAN); ok && h.Place != k.host.Place {
			delete(a.claims, key) // it is elsewhere by now, and was not asked there
			continue
		}
		if !k.until.After(c.Now) {
			delete(a.claims, key)
			if !k.refused && (k.there || !k.host.Pinned) {
				s := k.by
				s.Verified = true
				emit(c, c.Graph.SeeHost(s, c.Now))
			}
			continue
		}
		if !k.refused && !k.next.After(c.Now) {
			k.next = c.Now.Add(askEvery)
			if key.ip.IsValid() {
				a.question(c, k.host.MAC, k.host.VLAN, k.host.Place, key.ip)
				a.question(c, k.by.MAC, k.host.VLAN, k.by.Place, key.ip)
			} else {
				for _, ip := range k.host.IPs[:min(len(k.host.IPs), asksMost)] {
					a.question(c, k.host.MAC, k.host.VLAN, k.host.Place, ip)
					a.question(c, k.by.MAC, k.host.VLAN, k.by.Place, ip)
				}
			}
		}
		if k.refused || k.until.Before(k.next) {
			c.WakeAt(k.until)
		} else {
			c.WakeAt(k.next)
		}
	}
	for key, d := range a.gone {
		if c.Now.Sub(d.at) > departedFor {
			delete(a.gone, key)
		}
	}
}

// question asks a host at a place whether it is there and has an address: ARP or a neighbour
// solicitation to its own MAC.
func (a *App) question(c *controller.Context, mac topology.MAC, vlan uint16, at topology.Place, ip netip.Addr) {
	tags := packet.Tags(vlan)
	var frame []byte
	if ip.Is6() {
		frame = packet.AppendNeighborSolicitation(nil, controller.ProbeMAC, controller.ProbeAddress6, ip, tags...)
	} else {
		frame = packet.AppendARPRequest(nil, controller.ProbeMAC, netip.IPv4Unspecified(), ip, tags...)
	}
	copy(frame, mac[:])
	c.PacketOut(ofproto.DPID(at.DPID), ofproto.PortController, frame, ofproto.OutputPort(ofproto.Port(at.Port)))
}

// departed remembers where a host was whose port went down.
func (a *App) departed(c *controller.Context, e topology.HostGone) {
	if e.Reason == topology.ReasonPort && len(a.gone) < maxClaims {
		a.gone[e.Host.Key()] = departure{e.Host.Place, c.Now}
	}
}

// arrived tells watchers of a host that is elsewhere than it was when its port went down:
// it was plugged in there, or another one has waited for that.
func (a *App) arrived(c *controller.Context, h topology.Host) {
	d, ok := a.gone[h.Key()]
	if !ok {
		return
	}
	delete(a.gone, h.Key())
	if d.place != h.Place && c.Now.Sub(d.at) <= departedFor {
		c.Notify("host", map[string]any{"event": "elsewhere", "mac": h.MAC, "ips": h.IPs, "place": h.Place, "from": d.place})
	}
}
