package northbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller/documents"
)

// measureTime bounds one measurement, the wait for those of others included.
const measureTime = 45 * time.Second

// Measurer measures what answers through the switches. An error may be a
// *reachability.InvalidError.
type Measurer interface {
	Measure(ctx context.Context, req reachability.Request) (reachability.Measurement, error)
}

// ReachabilityRequest is the document that asks for a measurement. Everything may be left
// out.
type ReachabilityRequest struct {
	From      []string          `json:"from"`             // datapath ids; empty: all connected switches
	Hosts     bool              `json:"hosts"`            // default true
	Sources   []string          `json:"source_addresses"` // nobody's addresses, one of a family at most
	VIPs      []string          `json:"vips"`             // names
	Probes    []documents.Probe `json:"probes"`
	Broadcast bool              `json:"broadcast"`
	Rates     bool              `json:"rates"`
	Tables    bool              `json:"tables"`
	MTU       int               `json:"mtu"`       // bytes of an IP packet; 0: links are not tried
	MaxPairs  int               `json:"max_pairs"` // default 1000
	Timeout   string            `json:"timeout"`   // of one question; default 250ms
}

// postReachability measures, and changes nothing but for a moment.
func (s *Server) postReachability(c echo.Context) error {
	body, err := readBody(c)
	if err != nil {
		return err
	}
	req, err := ParseReachability(body)
	if err != nil {
		return err
	}
	rc := http.NewResponseController(c.Response())
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Now().Add(measureTime + s.limits.write)) // else the server's own holds
	ctx, cancel := context.WithTimeout(c.Request().Context(), measureTime)
	defer cancel()
	m, err := s.o.Measurer.Measure(ctx, req)
	var invalid *reachability.InvalidError
	if errors.As(err, &invalid) {
		return fieldsProblem(http.StatusBadRequest, "invalid", "Invalid request", invalid.Errors)
	}
	if err != nil {
		return err
	}
	return respond(c, http.StatusOK, m)
}

// ParseReachability reads the document of a request. The error is a *Problem that blames
// the fields; what is wrong beyond their form the measurement says.
func ParseReachability(body []byte) (req reachability.Request, err error) {
	doc := ReachabilityRequest{Hosts: true}
	var probes []json.RawMessage
	fields := map[string]any{
		"from": &doc.From, "hosts": &doc.Hosts, "source_addresses": &doc.Sources, "vips": &doc.VIPs, "probes": &probes, "broadcast": &doc.Broadcast,
		"rates": &doc.Rates, "tables": &doc.Tables, "mtu": &doc.MTU, "max_pairs": &doc.MaxPairs, "timeout": &doc.Timeout,
	}
	var optional []string
	for name := range fields {
		optional = append(optional, name)
	}
	if err := decodeFields(body, fields, optional...); err != nil {
		return req, err
	}
	var wrong []FieldError
	fail := func(field, format string, args ...any) {
		wrong = append(wrong, FieldError{Field: field, Reason: fmt.Sprintf(format, args...)})
	}
	req = reachability.Request{
		Hosts: doc.Hosts, VIPs: doc.VIPs, Broadcast: doc.Broadcast, Rates: doc.Rates, Tables: doc.Tables, MTU: doc.MTU, MaxPairs: doc.MaxPairs,
	}
	for i, v := range doc.From {
		dpid, err := ParseDPID(v)
		if err != nil {
			fail(fmt.Sprintf("from[%d]", i), "%q is not 16 hex digits", v)
		}
		req.From = append(req.From, dpid)
	}
	for i, v := range doc.Sources {
		a, err := netip.ParseAddr(v)
		if err != nil {
			fail(fmt.Sprintf("source_addresses[%d]", i), "%q is not an address", v)
		}
		req.Sources = append(req.Sources, a)
	}
	for i, raw := range probes {
		at := fmt.Sprintf("probes[%d]", i)
		if fields, wrong := splitFields(raw); fields == nil {
			fail(at, "%s", wrong[0].Reason)
			continue
		}
		var p documents.Probe
		var addr string
		err := decodeFields(raw, map[string]any{"type": &p.Type, "address": &addr, "port": &p.Port, "vlan": &p.VLAN}, "port", "vlan")
		var problem *Problem
		if errors.As(err, &problem) {
			for _, e := range problem.Errors {
				fail(at+"."+e.Field, "%s", e.Reason)
			}
			continue
		}
		if p.Address, err = netip.ParseAddr(addr); err != nil {
			fail(at+".address", "%q is not an address", addr)
		}
		req.Probes = append(req.Probes, p)
	}
	if doc.Timeout != "" {
		if req.Timeout, err = time.ParseDuration(doc.Timeout); err != nil || req.Timeout <= 0 {
			fail("timeout", "%q is not a duration above 0, such as 250ms", doc.Timeout)
		}
	}
	if len(wrong) > 0 {
		return req, fieldsProblem(http.StatusBadRequest, "invalid", "Invalid request", wrong)
	}
	return req, nil
}
