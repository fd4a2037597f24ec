package forwarding

import (
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// A port that brings one unknown source after the other is not learned from for a
// while, other than by ARP and neighbour discovery. The entry for that matches the port
// alone, so that a switch need not look at the sources: Open vSwitch makes one flow of
// its datapath for all of them, where it would make one for each.
const (
	// unknownMost is how many packets of another unknown source than the one before a
	// port may bring, and unknownPerSecond how many of them are forgotten a second.
	unknownMost      = 200
	unknownPerSecond = 100
	// unlearnedFor is how long such a port is not learned from.
	unlearnedFor = 30 * time.Second
	// maxFloods bounds the ports that are counted.
	maxFloods = 65536
)

// flood counts the unknown sources of a port.
type flood struct {
	last  ofproto.MAC
	count float64
	at    time.Time
	until time.Time // the port is not learned from; zero: it is
}

// unknown takes in a copy of a packet whose source its switch does not know.
func (a *App) unknown(c *controller.Context, e controller.PacketIn) {
	if e.Table != controller.TableSource || len(e.Data) < 12 || flowtable.CookieApp(e.Cookie) != a.ID() {
		return
	}
	at := topology.Place{DPID: topology.DPID(e.DPID), Port: topology.Port(e.InPort)}
	f := a.floods[at]
	if f == nil {
		if len(a.floods) >= maxFloods {
			return
		}
		f = &flood{}
		a.floods[at] = f
	}
	source := ofproto.MAC(e.Data[6:12])
	if source == f.last || !f.until.IsZero() {
		return
	}
	f.count = max(f.count-unknownPerSecond*c.Now.Sub(f.at).Seconds(), 0) + 1
	f.last, f.at = source, c.Now
	if f.count < unknownMost {
		return
	}
	f.count, f.until = 0, c.Now.Add(unlearnedFor)
	c.Dirty(e.DPID, partBase)
	c.WakeAt(f.until)
	c.Notify("port", map[string]any{"dpid": e.DPID.String(), "port": uint32(e.InPort), "learning": false})
}

// learnAgain ends what unknown began, where it is time.
func (a *App) learnAgain(c *controller.Context) {
	for at, f := range a.floods {
		switch {
		case f.until.After(c.Now):
			c.WakeAt(f.until)
		case !f.until.IsZero():
			delete(a.floods, at)
			c.Dirty(ofproto.DPID(at.DPID), partBase)
			c.Notify("port", map[string]any{"dpid": ofproto.DPID(at.DPID).String(), "port": uint32(at.Port), "learning": true})
		}
	}
}

// unlearned returns the ports of a switch that are not learned from.
func (a *App) unlearned(dpid ofproto.DPID) map[topology.Port]bool {
	var ports map[topology.Port]bool
	for at, f := range a.floods {
		if at.DPID == topology.DPID(dpid) && !f.until.IsZero() {
			if ports == nil {
				ports = map[topology.Port]bool{}
			}
			ports[at.Port] = true
		}
	}
	return ports
}
