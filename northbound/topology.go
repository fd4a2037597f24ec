package northbound

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/topology"
)

// getTopology answers with the whole graph and the VIPs on it: as a document, or drawn.
func (s *Server) getTopology(c echo.Context) error {
	format := c.QueryParam("format")
	switch format {
	case "", "json", "dot", "svg":
	default:
		return badField("format", "%q is none of json, dot, svg", format)
	}
	ctx := c.Request().Context()
	snapshot, err := s.o.Network.Topology(ctx)
	if err != nil {
		return err
	}
	vips, err := s.vipNotes(ctx)
	if err != nil {
		return err
	}
	view := snapshot.View(topology.Notes{VIPs: vips})
	if format == "dot" || format == "svg" {
		return respondPicture(c, format, view)
	}
	return respond(c, http.StatusOK, view)
}

// respondPicture answers with a drawing, in format dot or svg.
func respondPicture(c echo.Context, format string, view topology.View) error {
	if format == "dot" {
		return c.Blob(http.StatusOK, "text/vnd.graphviz; charset=utf-8", []byte(view.DOT()))
	}
	// Names in the picture come from the network: a browser runs nothing in it.
	c.Response().Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; sandbox")
	return c.Blob(http.StatusOK, "image/svg+xml; charset=utf-8", []byte(view.SVG()))
}

// vipNotes says of every VIP where its traffic goes.
func (s *Server) vipNotes(ctx context.Context) ([]topology.VIPNote, error) {
	var notes []topology.VIPNote
	for after := ""; ; {
		vips, next, err := s.o.VIPs.List(ctx, after, maxLimit)
		if err != nil {
			return nil, err
		}
		for _, v := range vips {
			n := topology.VIPNote{Name: v.Name, Address: v.Address, VLAN: v.VLAN, Replies: repliesOf(v)}
			seen := map[netip.Addr]bool{}
			for _, l := range v.Listeners {
				for _, m := range l.Pool.Members {
					if !seen[m.Address] {
						seen[m.Address] = true
						n.Members = append(n.Members, m.Address)
					}
				}
			}
			notes = append(notes, n)
		}
		if next == "" {
			return notes, nil
		}
		after = next
	}
}

// repliesOf says which way the replies of a VIP's members have to take.
func repliesOf(v balancer.VIP) topology.Replies {
	switch {
	case v.Mode == balancer.ModeDSR:
		return topology.RepliesFree
	case v.SourceNAT:
		return topology.RepliesToVIP
	case v.Mode == balancer.ModeConntrack:
		return topology.RepliesReturn
	}
	return topology.RepliesCross
}
