package balancer

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// In mode conntrack a connection is in one switch, and what belongs to it must come there.
// On a legacy segment of several managed domains it may go past: a reply to a client of
// the segment goes to it straight from the domain of the member; and with source_nat, what
// has the VIP's MAC goes to the switch that speaks for the VIP in the segment, whichever
// it is meant for. The VIP serves others all the same, so this is told and not refused.

// strayedAt returns what goes past a switch of the packets of a VIP in mode conntrack, and
// what to do; empty where nothing does.
func (a *App) strayedAt(c *controller.Context, v *vip, sw *controller.Switch) string {
	snap := c.Graph.Snapshot()
	if v.rec.VIP.Mode != ModeConntrack || sw.Stage != controller.StageManaged || len(snap.Segments()) == 0 {
		return ""
	}
	asked := map[topology.Place]bool{}
	for _, l := range v.rec.Listeners {
		for _, m := range l.Members {
			at := a.members[m.Key.Addr()]
			if at == nil || !at.known || asked[at.place] {
				continue
			}
			asked[at.place] = true
			if why := a.strays(c, v, topology.DPID(sw.DPID), at.place, m.Key.Addr()); why != "" {
				return why
			}
		}
	}
	return ""
}

// strays says what goes past a switch of the packets of one member, which is at a place.
func (a *App) strays(c *controller.Context, v *vip, here topology.DPID, at topology.Place, member netip.Addr) string {
	snap, addr := c.Graph.Snapshot(), v.rec.VIP.Address
	path := snap.Path(here, at.DPID)
	for i := range max(len(path)-1, 0) {
		out := topology.Place{DPID: path[i].DPID, Port: path[i].Out}
		if !snap.IsOnSegment(out) {
			continue
		}
		if slices.Contains(a.regions(c).Around(at), out) {
			return "" // it is on the segment, and attached to the switch that speaks there: see track
		}
		speaker, ok := a.speaker(c, out, addr)
		switch next := path[i+1].DPID; {
		case !ok:
		case v.rec.VIP.SourceNAT && speaker != next:
			return fmt.Sprintf("packets to %s come to %s on the legacy segment at %s, where it speaks for the VIP, and not to %s: leave out source_nat, or use nat or dsr", member, speaker, out, next)
		case !v.rec.VIP.SourceNAT && i == 0 && speaker == here:
			return fmt.Sprintf("replies of %s to clients on the legacy segment at %s go past this switch, which has the connections: use nat or dsr", member, out)
		}
	}
	return ""
}

// speaker returns the switch that speaks for an address in the region of a place.
func (a *App) speaker(c *controller.Context, at topology.Place, addr netip.Addr) (topology.DPID, bool) {
	regions := a.regions(c)
	for _, p := range regions.Around(at) {
		for _, o := range regions.Outlets(p.DPID) {
			if o.Port == p.Port && !a.silenced(o, addr) && a.answers(p.DPID, addr) && c.Switch(ofproto.DPID(p.DPID)) != nil {
				return p.DPID, true
			}
		}
	}
	return 0, false
}
