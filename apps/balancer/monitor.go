package balancer

import (
	"net/netip"

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
