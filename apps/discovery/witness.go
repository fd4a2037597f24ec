package discovery

import (
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Forwards implements controller.Witness: the switch answers what its neighbours send it.
func (a *App) Forwards(dpid ofproto.DPID) bool {
	d := a.doubts[topology.DPID(dpid)]
	return d != nil && d.stopped.IsZero()
}
