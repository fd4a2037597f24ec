package balancer

import (
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/controller"
)

// Serving returns the addresses of VIPs that some switch has and some member serves.
func (a *App) Serving(c *controller.Context) map[netip.Addr]bool {
	serving := map[netip.Addr]bool{}
	for _, v := range a.vips {
		if v.rec == nil || !v.rec.VIP.Enabled || serving[v.rec.VIP.Address] || !v.hasOwner() {
			continue
		}
		for sw := range c.Switches() {
			// What a switch acknowledged last goes on to serve while it is brought up to date.
			if k, _ := a.ack(v, sw.DPID); serves(sw) && k.generation > 0 && k.err == nil {
				serving[v.rec.VIP.Address] = true
				break
			}
		}
	}
	return serving
}

// hasOwner says whether any slot of the VIP has a member to go to.
func (v *vip) hasOwner() bool {
	return slices.ContainsFunc(v.owners, func(owners []uint16) bool {
		return slices.ContainsFunc(owners, func(id uint16) bool { return id != NoMember })
	})
}
