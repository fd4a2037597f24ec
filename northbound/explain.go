package northbound

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/topology"
)

// Explainer tells what becomes of a packet. Errors are those of package balancer.
type Explainer interface {
	Explain(ctx context.Context, q balancer.Query) (balancer.Explanation, error)
}

// postExplain follows a packet through the network. It changes nothing there that a
// packet could meet.
func (s *Server) postExplain(c echo.Context) error {
	body, err := readBody(c)
	if err != nil {
		return err
	}
	var doc struct{ protocol, from, to, at string }
	err = decodeFields(body, map[string]any{"protocol": &doc.protocol, "from": &doc.from, "to": &doc.to, "at": &doc.at}, "at")
	if err != nil {
		return err
	}
	q, err := ParseQuery(doc.protocol, doc.from, doc.to, doc.at)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), s.limits.readSwitch)
	defer cancel()
	e, err := s.o.Explainer.Explain(ctx, q)
	if err != nil {
		return err
	}
	return respond(c, http.StatusOK, e)
}

// ParseQuery reads the packet to be explained: a protocol, two times address:port (IPv6
// addresses in brackets), and dpid/port or nothing. The error is a *Problem that blames
// the fields.
func ParseQuery(protocol, from, to, at string) (q balancer.Query, err error) {
	var wrong []FieldError
	fail := func(field, format string, args ...any) {
		wrong = append(wrong, FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
	switch q.Protocol = balancer.Protocol(protocol); q.Protocol {
	case balancer.TCP, balancer.UDP, balancer.SCTP:
	default:
		fail("protocol", "%q is none of tcp, udp, sctp", protocol)
	}
	for _, end := range []struct {
		field, text string
		to          *netip.AddrPort
	}{{"from", from, &q.From}, {"to", to, &q.To}} {
		a, err := netip.ParseAddrPort(end.text)
		if err != nil || a.Port() == 0 || a.Addr().Zone() != "" {
			fail(end.field, "%q is not address:port (IPv6 addresses in brackets)", end.text)
			continue
		}
		*end.to = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	if q.From.IsValid() && q.To.IsValid() && q.From.Addr().Is4() != q.To.Addr().Is4() {
		fail("to", "must be of the family of from")
	}
	if at != "" {
		place, err := parsePlace(at)
		if err != nil {
			fail("at", "%s", err)
		}
		q.At = &place
	}
	if len(wrong) > 0 {
		return q, fieldsProblem(http.StatusBadRequest, "invalid", "Invalid request", wrong)
	}
	return q, nil
}

// parsePlace reads dpid/port: up to 16 hex digits and a number, or LOCAL.
func parsePlace(s string) (p topology.Place, err error) {
	dpid, port, ok := strings.Cut(s, "/")
	d, err := strconv.ParseUint(dpid, 16, 64)
	if !ok || err != nil || len(dpid) > 16 {
		return p, fmt.Errorf("%q is not DPID/PORT, such as 0000000000000001/3", s)
	}
	p = topology.Place{DPID: topology.DPID(d), Port: topology.PortLocal}
	if strings.EqualFold(port, "local") {
		return p, nil
	}
	n, err := strconv.ParseUint(port, 10, 32)
	if err != nil || n == 0 {
		return p, fmt.Errorf("%q is not the number of a port", port)
	}
	p.Port = topology.Port(n)
	return p, nil
}
