package northbound

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/ofproto"
)

// OVS adopts and releases bridges of Open vSwitch through OVSDB. Errors are those of
// package ovsdb.
type OVS interface {
	Bridges(ctx context.Context, e ovsdb.Endpoint) ([]ovsdb.View, error)
	Adopt(ctx context.Context, req ovsdb.Request) ([]ovsdb.Outcome, error)
	Release(ctx context.Context, e ovsdb.Endpoint, bridge string) error
}

// adoptTime is how long an adoption may take: all bridges of a request connect at the
// same time, and are taken over one by one.
const adoptTime = 50 * time.Second

const ovsPath = "/v1/ovs"

// maxBridges bounds the bridges of one request.
const maxBridges = 1000

// OVSAdoption is the body of POST /v1/ovs.
type OVSAdoption struct {
	Endpoint     string   `json:"endpoint"`
	Bridges      []string `json:"bridges,omitempty"`
	All          bool     `json:"all,omitempty"`
	Stage        string   `json:"stage,omitempty"`
	Controllers  []string `json:"controllers,omitempty"`
	DiscardFlows bool     `json:"discard_flows,omitempty"`
}

// OVSOutcomes is the answer of POST /v1/ovs: one for each bridge.
type OVSOutcomes struct {
	Items []ovsdb.Outcome `json:"items"`
}

// OVSInterface is an interface of a bridge with its place.
type OVSInterface struct {
	Endpoint ovsdb.Endpoint `json:"endpoint"`
	Bridge   string         `json:"bridge"`
	DPID     string         `json:"dpid"`
	Port     string         `json:"port"` // that it is part of
	ovsdb.Interface
}

// decodeAdoption reads the document of an adoption; what is wrong beyond its form
// request says.
func decodeAdoption(body []byte) (a OVSAdoption, err error) {
	err = decodeFields(body, map[string]any{
		"endpoint": &a.Endpoint, "bridges": &a.Bridges, "all": &a.All, "stage": &a.Stage, "controllers": &a.Controllers, "discard_flows": &a.DiscardFlows,
	}, "bridges", "all", "stage", "controllers", "discard_flows")
	return a, err
}

func endpointField(field, v string) (ovsdb.Endpoint, error) {
	e, err := ovsdb.ParseEndpoint(v)
	if err != nil {
		return "", badField(field, "%s", strings.TrimPrefix(err.Error(), "ovsdb: parse endpoint: "))
	}
	return e, nil
}

// request checks a document.
func (a OVSAdoption) request() (req ovsdb.Request, err error) {
	if req.Endpoint, err = endpointField("endpoint", a.Endpoint); err != nil {
		return req, err
	}
	switch {
	case a.All && len(a.Bridges) > 0:
		return req, badField("all", "is instead of bridges")
	case !a.All && len(a.Bridges) == 0:
		return req, badField("bridges", "is required, or all")
	case len(a.Bridges) > maxBridges:
		return req, badField("bridges", "has more than %d names", maxBridges)
	}
	seen := map[string]bool{}
	for i, b := range a.Bridges {
		if b == "" || len(b) > 255 || seen[b] {
			return req, badField("bridges["+strconv.Itoa(i)+"]", "%q is no name of a bridge, or is there twice", b)
		}
		seen[b] = true
	}
	if err := stageField(a.Stage); err != nil {
		return req, err
	}
	for i, c := range a.Controllers {
		if err := ovsdb.ParseController(c); err != nil {
			return req, badField("controllers["+strconv.Itoa(i)+"]", "%v", err)
		}
		if seen["controller "+c] || i >= 8 {
			return req, badField("controllers["+strconv.Itoa(i)+"]", "it is there twice, or there are more than 8")
		}
		seen["controller "+c] = true
	}
	req.Bridges, req.Stage, req.Controllers, req.DiscardFlows = a.Bridges, a.Stage, a.Controllers, a.DiscardFlows
	return req, nil
}

func stageField(stage string) error {
	if stage == "" {
		return nil
	}
	for _, s := range Stages {
		if s == stage {
			return nil
		}
	}
	return badField("stage", "%q is none of %s", stage, strings.Join(Stages, ", "))
}

// ovsProblem turns an error of package ovsdb into an answer.
func ovsProblem(err error) error {
	var refusal *ovsdb.Refusal
	switch {
	case errors.As(err, &refusal):
		return problem(http.StatusConflict, "refused", "Refused", err.Error(), FieldError{Field: "bridge", Reason: refusal.Reason})
	case errors.Is(err, ovsdb.ErrNotAdopted), errors.Is(err, ovsdb.ErrNoBridge):
		return problem(http.StatusNotFound, "not-found", "Not found", strings.TrimPrefix(err.Error(), "ovsdb: "))
	case errors.Is(err, ovsdb.ErrNotConnected):
		return problem(http.StatusServiceUnavailable, "not-connected", "Endpoint not connected", strings.TrimPrefix(err.Error(), "ovsdb: "))
	}
	return err
}

func (s *Server) listOVS(c echo.Context) error {
	var e ovsdb.Endpoint
	if v := c.QueryParam("endpoint"); v != "" {
		var err error
		if e, err = endpointField("endpoint", v); err != nil {
			return err
		}
	}
	list, err := s.o.OVS.Bridges(c.Request().Context(), e)
	if err != nil {
		return ovsProblem(err)
	}
	return respondPage(c, list, func(v *ovsdb.View) string { return string(v.Endpoint) + " " + v.Name })
}

func (s *Server) getOVS(c echo.Context) error {
	e, bridge, err := ovsParams(c)
	if err != nil {
		return err
	}
	v, err := s.bridge(c.Request().Context(), e, bridge)
	if err != nil {
		return err
	}
	if v.Since != "" {
		c.Response().Header().Set("ETag", adoptionTag(v))
	}
	return respond(c, http.StatusOK, v)
}

// bridge finds a bridge at an endpoint.
func (s *Server) bridge(ctx context.Context, e ovsdb.Endpoint, name string) (ovsdb.View, error) {
	list, err := s.o.OVS.Bridges(ctx, e)
	if err != nil {
		return ovsdb.View{}, ovsProblem(err)
	}
	for _, v := range list {
		if v.Name == name {
			return v, nil
		}
	}
	return ovsdb.View{}, problem(http.StatusNotFound, "not-found", "Not found", "there is no bridge "+name+" at "+string(e))
}

// adoptionTag is the entity tag of an adoption: of what adopting again may change.
func adoptionTag(v ovsdb.View) string {
	h := sha256.New()
	fmt.Fprintln(h, v.State, v.Stage, v.Since)
	for _, k := range v.Controllers {
		fmt.Fprintln(h, k.Target)
	}
	return fmt.Sprintf(`"%x"`, h.Sum(nil)[:8])
}

func ovsParams(c echo.Context) (e ovsdb.Endpoint, bridge string, err error) {
	v, err := pathParam(c, "endpoint")
	if err != nil {
		return "", "", err
	}
	if e, err = endpointField("endpoint", v); err != nil {
		return "", "", err
	}
	bridge, err = pathParam(c, "bridge")
	return e, bridge, err
}

// listOVSInterfaces lists the interfaces of all bridges at the endpoints in use that
// have what is asked for.
func (s *Server) listOVSInterfaces(c echo.Context) error {
	q := c.QueryParams()
	if v := q.Get("dpid"); v != "" {
		if _, err := ParseDPID(v); err != nil {
			return err
		}
	}
	port := 0
	if v := q.Get("port"); v != "" {
		n, err := strconv.ParseUint(v, 10, 32)
		if err != nil || n == 0 {
			return badField("port", "%q is not a port number", v)
		}
		if port = int(n); ofproto.Port(n) == ofproto.PortLocal {
			port = ovsdb.LocalPort
		}
	}
	list, err := s.o.OVS.Bridges(c.Request().Context(), "")
	if err != nil {
		return ovsProblem(err)
	}
	is := func(key, v string) bool { return !q.Has(key) || strings.EqualFold(q.Get(key), v) }
	var found []OVSInterface
	for _, b := range list {
		if !is("dpid", b.DPID) {
			continue
		}
		for _, p := range b.Ports {
			for _, f := range p.Interfaces {
				if is("name", f.Name) && is("iface_id", f.IfaceID) && is("attached_mac", f.AttachedMAC) && (port == 0 || port == f.OFPort) {
					found = append(found, OVSInterface{b.Endpoint, b.Name, b.DPID, p.Name, f})
				}
			}
		}
	}
	return respondPage(c, found, func(f *OVSInterface) string { return string(f.Endpoint) + " " + f.Bridge + " " + f.Name })
}

func (s *Server) postOVS(c echo.Context) error {
	body, err := readBody(c)
	if err != nil {
		return err
	}
	doc, err := decodeAdoption(body)
	if err != nil {
		return err
	}
	req, err := doc.request()
	if err != nil {
		return err
	}
	ctx, cancel := s.patient(c)
	defer cancel()
	outcomes, err := s.o.OVS.Adopt(ctx, req)
	if err != nil {
		return ovsProblem(err)
	}
	refused := []FieldError{}
	for _, o := range outcomes {
		if o.Reason != "" {
			refused = append(refused, FieldError{Field: o.Bridge, Reason: o.Reason})
		}
	}
	if len(refused) > 0 && len(refused) == len(outcomes) {
		return fieldsProblem(http.StatusConflict, "refused", "Refused", refused)
	}
	return respond(c, http.StatusOK, OVSOutcomes{outcomes})
}

// patient gives a request as long as an adoption may take.
func (s *Server) patient(c echo.Context) (context.Context, context.CancelFunc) {
	rc := http.NewResponseController(c.Response())
	_ = rc.SetReadDeadline(time.Time{})
	_ = rc.SetWriteDeadline(time.Now().Add(adoptTime + s.limits.write))
	return context.WithTimeout(c.Request().Context(), adoptTime)
}

func (s *Server) deleteOVS(c echo.Context) error {
	e, bridge, err := ovsParams(c)
	if err != nil {
		return err
	}
	cond, err := condition(c)
	if err != nil {
		return err
	}
	ctx, cancel := s.patient(c)
	defer cancel()
	if cond.IfMatch != "" {
		v, err := s.bridge(ctx, e, bridge)
		if err != nil {
			return err
		}
		if v.Since == "" || !matches(cond.IfMatch, adoptionTag(v)) {
			return fmt.Errorf("bridge %s at %s is %s: %w", bridge, e, v.State, ErrPrecondition)
		}
	}
	if err := s.o.OVS.Release(ctx, e, bridge); err != nil {
		return ovsProblem(err)
	}
	return c.NoContent(http.StatusNoContent)
}
