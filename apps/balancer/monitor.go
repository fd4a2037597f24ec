package balancer

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller"
)

// Check is one member to be probed, as its pool's monitor says.
type Check struct {
	ID      string // of the member within all VIPs: "web/tcp:80/10.0.0.2:8080"
	Monitor Monitor
	Target  netip.AddrPort // what is probed; the port says nothing for PING
	Source  netip.Addr     // of probes through the switches
	VLAN    uint16         // of the network of members; 0 is untagged
}

// Verdict is an event: what probing has found of a member. Verdicts come when they
// change, and may be repeated.
type Verdict struct {
	ID     string // of the Check
	Up     bool
	Reason string // why it is down
}

// Watch has the checks of a VIP run, in place of those it had before; none when it is
// deleted or has no monitor. It is called on the core loop and must not block.
type Watch func(c *controller.Context, vip string, checks []Check)

// health is what probing says of a member. The zero value is of one that is not
// probed.
type health struct {
	state  Health
	since  time.Time
	reason string
}

// SetWatch names the function that has members probed. It is called before the
// controller runs; without it no monitor is run, and their members stay as they are.
func (a *App) SetWatch(w Watch) { a.watch = w }

// checkID names the check of a member. Names of VIPs have no slash.
func checkID(vip string, l ListenerKey, m MemberKey) string {
	return vip + "/" + l.String() + "/" + m.String()
}

// probed says whether a member is: one that is administratively down may be taken
// apart, and is left in peace.
func probed(v VIP, p Pool, m Member) bool {
	return v.Enabled && p.Monitor != nil && m.AdminState != AdminDown
}

// checksOf returns the checks of a VIP in the order of its members; none when rec is
// nil.
func checksOf(rec *Record) []Check {
	if rec == nil {
		return nil
	}
	var checks []Check
	for _, l := range rec.VIP.Listeners {
		for _, m := range l.Pool.Members {
			if !probed(rec.VIP, l.Pool, m) {
				continue
			}
			ch := Check{
				ID: checkID(rec.VIP.Name, l.Key(), m.Key()), Monitor: *l.Pool.Monitor,
				Target: m.Key(), Source: rec.VIP.Address, VLAN: rec.VIP.VLAN,
			}
			if l.Pool.Monitor.SourceAddress.IsValid() {
				ch.Source = l.Pool.Monitor.SourceAddress
			}
			if m.MonitorAddress.IsValid() {
				ch.Target = netip.AddrPortFrom(m.MonitorAddress, ch.Target.Port())
			}
			if m.MonitorPort != 0 {
				ch.Target = netip.AddrPortFrom(ch.Target.Addr(), m.MonitorPort)
			}
			checks = append(checks, ch)
		}
	}
	return checks
}

// startHealth gives every member of a VIP that is probed a health to begin with: the
// one that it has by before. Of the others, those that own slots of their own count
// as up until they are probed: they served until the controller or the monitor came,
// and neither coming is a reason to stop. What else is new is unknown, unless the
// monitor says otherwise. before is nil at the start of the controller, when nothing
// is new.
func (v *vip) startHealth(before map[string]health, now time.Time) {
	v.health = map[string]health{}
	if v.rec == nil {
		return
	}
	for i, l := range v.rec.Listeners {
		pool := v.rec.VIP.Listeners[i].Pool
		for j, m := range l.Members {
			if !probed(v.rec.VIP, pool, pool.Members[j]) {
				continue
			}
			id := checkID(v.name, l.Key, m.Key)
			h, ok := before[id]
			if !ok {
				h = health{state: HealthUnknown, since: now, reason: "not probed yet"}
				if before != nil && pool.Monitor.Initial == HealthUp || l.Slots.owns(v.owners[i], m.Index) {
					h.state = HealthUp
				}
			}
			v.health[id] = h
		}
	}
}

// watchAll has the checks of all VIPs run.
func (a *App) watchAll(c *controller.Context) {
	if a.watch == nil {
		return
	}
	for _, v := range a.vips {
		if checks := checksOf(v.rec); len(checks) > 0 {
			a.watch(c, v.name, checks)
		}
	}
}

// rewatch has the checks of a VIP run that has another revision.
func (a *App) rewatch(c *controller.Context, old, v *Record, name string) {
	if a.watch == nil {
		return
	}
	was, is := checksOf(old), checksOf(v)
	if !slices.Equal(was, is) {
		a.watch(c, name, is)
	}
}

// verdict takes in what probing has found of a member. Slots follow in the same turn
// of the core loop.
func (a *App) verdict(c *controller.Context, e Verdict) {
	name, _, _ := strings.Cut(e.ID, "/")
	v := a.vips[name]
	if v == nil {
		return
	}
	was, ok := v.health[e.ID]
	if !ok { // it is not a member any more
		return
	}
	is := health{state: HealthUp, since: c.Now}
	if !e.Up {
		is.state, is.reason = HealthDown, e.Reason
	}
	if was.state == is.state {
		is.since = was.since
	}
	if was == is {
		return
	}
	v.health[e.ID] = is
	if was.state != is.state {
		if a.reown(c, v) {
			a.dirty(c, v)
			v.forget(v.rec, c.Now)
			a.settled(c, v)
		}
	}
	listener, member, _ := strings.Cut(strings.TrimPrefix(e.ID, name+"/"), "/")
	key, err := netip.ParseAddrPort(member)
	if err != nil {
		return
	}
	c.Notify("member", map[string]any{
		"vip": name, "listener": listener, "address": key.Addr(), "port": key.Port(),
		"health": is.state, "reason": is.reason,
	})
}
