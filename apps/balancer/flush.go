package balancer

import (
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
)

// Connections of a member that is cut are dropped by the switch, which still knows them.
// It is told to forget them, when it has acknowledged that the member is no more: then
// what comes of them is new, goes to another member, and is reset by that. A switch that
// cannot (Open vSwitch before 3.1) or a controller that ends meanwhile leaves them to
// their time-outs.

// connections is what all those between a listener and one of its members have in common.
type connections struct {
	zone     uint16
	protocol uint8
	to, from netip.AddrPort // of the VIP; of the member. Port 0: all
}

// flushes are the connections of a VIP that switches are to forget.
type flushes struct {
	live map[connections]bool                    // of members that are served; nil: not known yet
	dead map[connections]uint64                  // by the version of the VIP that has them no more
	done map[ofproto.DPID]map[connections]uint64 // of dead, what a switch was told already
}

// flushMost bounds the connections that are remembered.
const flushMost = 4 * MaxMembers

// forget has switches forget the connections of members that a VIP has no more, or that
// are cut. So are those of UDP with a member that was found down and has no slots: there
// a client that always sends from one port would have that member for ever, and learn
// nothing. Those of TCP are for the two ends to give up: the member may be back before.
func (v *vip) forget(old *Record, now time.Time) {
	live := v.rec.connections(now)
	if v.rec != nil && v.rec.VIP.Mode == ModeConntrack {
		for i, l := range v.rec.Listeners {
			for j, m := range l.Members {
				if l.Key.Protocol == UDP && v.standings[i][j].health == HealthDown && !slices.Contains(v.owners[i], m.Index) {
					delete(live, v.rec.connectionsOf(i, j))
				}
			}
		}
	}
	v.flushes.change(old, live, v.version)
}

// change takes in the connections there are to be from a version on.
func (f *flushes) change(old *Record, live map[connections]bool, version uint64) {
	if f.live == nil && old != nil {
		f.live = old.connections(time.Time{})
	}
	if len(f.live) == 0 && len(live) == 0 && len(f.dead) == 0 {
		return
	}
	dead := maps.Clone(f.dead)
	if dead == nil {
		dead = map[connections]uint64{}
	}
	for k := range f.live {
		if !live[k] && len(dead) < flushMost {
			dead[k] = version
		}
	}
	for k := range live {
		delete(dead, k)
	}
	f.live, f.dead = live, dead
}

// send has a switch that acknowledged a version forget what it has no more.
func (f *flushes) send(c *controller.Context, dpid ofproto.DPID, version uint64) {
	sw := c.Switch(dpid)
	if len(f.dead) == 0 || sw == nil || !sw.Capabilities.ConnTrack {
		return
	}
	if f.done == nil {
		f.done = map[ofproto.DPID]map[connections]uint64{}
	}
	done := f.done[dpid]
	maps.DeleteFunc(done, func(k connections, _ uint64) bool { _, ok := f.dead[k]; return !ok })
	for k, since := range f.dead {
		if since > version || done[k] == since {
			continue
		}
		if done == nil {
			done = map[connections]uint64{}
			f.done[dpid] = done
		}
		done[k] = since
		c.Send(dpid, ofproto.FlushConnections(k.zone, k.protocol, k.to, k.from))
	}
}

// connections are those of the members that are not cut at a time, the zero time
// standing for before all.
func (rec *Record) connections(now time.Time) map[connections]bool {
	all := map[connections]bool{}
	if rec == nil || rec.VIP.Mode != ModeConntrack || !rec.VIP.Enabled {
		return all
	}
	for i, l := range rec.Listeners {
		doc := rec.VIP.Listeners[i]
		for j, m := range l.Members {
			end := drainEnd(doc.Pool, m)
			if doc.Pool.Members[j].AdminState == AdminDown || !end.IsZero() && !now.Before(end) {
				continue
			}
			all[rec.connectionsOf(i, j)] = true
		}
	}
	return all
}

// connectionsOf are those of one member of one listener.
func (rec *Record) connectionsOf(listener, member int) connections {
	zone, _ := controller.Zones(rec.VIP.VLAN)
	l := rec.Listeners[listener]
	k := connections{zone: zone, protocol: l.Key.Protocol.number(), to: netip.AddrPortFrom(rec.VIP.Address, l.Key.Port), from: l.Members[member].Key}
	if !rec.VIP.Listeners[listener].ports().single() {
		k.to, k.from = netip.AddrPortFrom(k.to.Addr(), 0), netip.AddrPortFrom(k.from.Addr(), 0)
	}
	return k
}
