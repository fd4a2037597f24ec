package northbound

import (
	"context"
	"net/http"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/topology"
)

// getCoverage answers which paths of VIPs cross a switch that acts on them, and what to
// convert next: as a document, or drawn as it is after the first conversions.
func (s *Server) getCoverage(c echo.Context) error {
	format, after := c.QueryParam("format"), 0
	drawn := format == "dot" || format == "svg"
	if !drawn && format != "" && format != "json" {
		return badField("format", "%q is none of json, dot, svg", format)
	}
	if v := c.QueryParam("after"); v != "" {
		n, err := strconv.ParseUint(v, 10, 31)
		if err != nil {
			return badField("after", "%q is not a number of conversions", v)
		}
		if !drawn {
			return badField("after", "is for format dot and svg")
		}
		after = int(n)
	}
	ctx := c.Request().Context()
	notes, err := s.coverageNotes(ctx)
	if err != nil {
		return err
	}
	snapshot, err := s.o.Network.Topology(ctx)
	if err != nil {
		return err
	}
	coverage := snapshot.Coverage(notes)
	if !drawn {
		return respond(c, http.StatusOK, coverage)
	}
	return respondPicture(c, format, snapshot.CoverageView(notes, coverage, after))
}

// coverageNotes gathers stages, VIPs, and the bridges that are known by OVSDB.
func (s *Server) coverageNotes(ctx context.Context) (n topology.CoverageNotes, err error) {
	if n.VIPs, err = s.vipNotes(ctx); err != nil {
		return n, err
	}
	switches, err := s.o.Network.Switches(ctx)
	if err != nil {
		return n, err
	}
	n.Steering = map[topology.DPID]bool{}
	for _, sw := range switches {
		if dpid, err := ParseDPID(sw.DPID); err == nil {
			n.Steering[topology.DPID(dpid)] = sw.Stage == "steer" || sw.Stage == "managed"
		}
	}
	bridges, err := s.o.OVS.Bridges(ctx, "")
	if err != nil {
		return n, err
	}
	n.Bridges = coverageBridges(bridges)
	return n, nil
}

// coverageBridges are the bridges with what tells where they are: the machines at their
// ports, and the patch ports of others of the same database that lead to them.
func coverageBridges(views []ovsdb.View) (list []topology.CoverageBridge) {
	type port struct {
		endpoint ovsdb.Endpoint
		name     string
	}
	leads := map[port]topology.Place{} // by the interface that a patch port leads to
	for _, v := range views {
		dpid, err := ParseDPID(v.DPID)
		if err != nil {
			continue
		}
		for _, p := range v.Ports {
			for _, f := range p.Interfaces {
				if f.Type == "patch" && f.Peer != "" && f.OFPort > 0 {
					leads[port{v.Endpoint, f.Peer}] = topology.Place{DPID: topology.DPID(dpid), Port: topology.Port(f.OFPort)}
				}
			}
		}
	}
	for _, v := range views {
		dpid, err := ParseDPID(v.DPID)
		if err != nil {
			continue
		}
		b := topology.CoverageBridge{DPID: topology.DPID(dpid), Endpoint: string(v.Endpoint), Name: v.Name}
		for _, p := range v.Ports {
			for _, f := range p.Interfaces {
				if mac, ok := ovsdb.AttachedMAC(f); ok {
					b.Attached = append(b.Attached, topology.MAC(mac))
				}
				if at, ok := leads[port{v.Endpoint, f.Name}]; ok {
					b.Behind = append(b.Behind, at)
				}
			}
		}
		list = append(list, b)
	}
	return list
}
