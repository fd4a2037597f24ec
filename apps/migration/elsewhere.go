package migration

import (
	"context"

	"github.com/fairlead/fairlead/topology"
)

// maxPathsOf is up to how many switches paths are compared: each with each.
const maxPathsOf = 256

// elsewhere says what follows from a step in other managed switches: which of their ports
// are opened or closed, and whom they reach another way. A bridge that is given back is
// taken for one that forwards by itself.
func (p *planner) elsewhere(ctx context.Context, ps *PlannedStep, dpid topology.DPID) error {
	before := p.ways
	if before == nil {
		before = p.snap
	}
	to := ps.Stage == stageManaged
	if _, known := before.Switch(dpid); !known || before.Managed(dpid) == to {
		return nil
	}
	p.managed[dpid] = to
	after, err := p.s.o.Network.Assuming(ctx, p.managed)
	if err != nil {
		return err
	}
	p.ways = after
	list, changed := []SwitchChange{}, false
	for _, sw := range after.Switches() {
		if sw.DPID != dpid && after.Managed(sw.DPID) {
			ch := SwitchChange{DPID: sw.DPID.String(), Ports: ports(before, after, sw)}
			changed = changed || len(ch.Ports) > 0
			list = append(list, ch)
		}
	}
	if !changed {
		return nil // nor do paths
	}
	for _, ch := range list {
		if len(after.Switches()) <= maxPathsOf {
			ch.Paths = paths(before, after, topology.DPID(parseDPID(ch.DPID)))
		}
		if len(ch.Ports) > 0 || ch.Paths > 0 {
			ps.Elsewhere = append(ps.Elsewhere, ch)
		}
	}
	return nil
}

// ports lists the ports of a switch by which more or less passes.
func ports(before, after *topology.Snapshot, sw topology.Switch) []string {
	list := []string{}
	for _, port := range sw.Ports {
		at := topology.Place{DPID: sw.DPID, Port: port.Port}
		if was, is := use(before, at), use(after, at); was != is {
			list = append(list, "port "+port.Port.String()+": "+is)
		}
	}
	return list
}

// paths counts the switches that one reaches another way.
func paths(before, after *topology.Snapshot, from topology.DPID) (n int) {
	for _, to := range after.Switches() {
		was, had := before.NextHop(from, to.DPID)
		if is, has := after.NextHop(from, to.DPID); was != is || had != has {
			n++
		}
	}
	return n
}

// use says what passes by a port.
func use(snap *topology.Snapshot, at topology.Place) string {
	if why := snap.Blocked(at); why != "" {
		return "blocked: " + why
	}
	if snap.Tree().Contains(at) || snap.IsEdge(at) {
		return "broadcasts pass"
	}
	return "no broadcasts pass"
}
