package main

import (
	"fmt"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/topology"
)

// attachmentsOf is what the balancer is told of where interfaces are.
func attachmentsOf(a ovsdb.Attachments) balancer.Attachments {
	to := balancer.Attachments{ByID: make(map[string][]balancer.Attachment, len(a.ByID)), Complete: a.Complete}
	for id, list := range a.ByID {
		for _, at := range list {
			to.ByID[id] = append(to.ByID[id], balancer.Attachment{
				Place: topology.Place{DPID: topology.DPID(at.DPID), Port: topology.Port(at.Port)}, MAC: at.MAC, Addresses: at.Addresses,
				Access: at.Access, Where: fmt.Sprintf("bridge %s at %s", at.Bridge, at.Endpoint), Error: at.Error, Stale: at.Stale,
			})
		}
	}
	return to
}
