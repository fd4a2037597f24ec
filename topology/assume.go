package topology

import "maps"

// Assuming returns the graph as it would be if some switches forwarded by it, or did not
// (see SetManaged). The graph stays as it is. FabricVersion does not tell the two apart.
func (g *Graph) Assuming(managed map[DPID]bool) *Snapshot {
	assumed := *g.Snapshot()
	unmanaged := g.unmanaged
	defer func() { g.unmanaged = unmanaged }()
	g.unmanaged = maps.Clone(unmanaged)
	for id, yes := range managed {
		if yes {
			delete(g.unmanaged, id)
		} else {
			g.unmanaged[id] = true
		}
	}
	assumed.fabric = g.newFabric(assumed.links)
	return &assumed
}
