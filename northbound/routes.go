package northbound

import (
	"net/http"

	"github.com/labstack/echo/v4"
)

// route is one method on one path. Every GET answers HEAD too.
type route struct {
	method, path string // path in echo's syntax: /v1/vips/:name
	handler      echo.HandlerFunc
}

const memberRoute = "/v1/vips/:name/listeners/:listener/members/:member"

// routes is the whole API. openapi.json describes the same routes; a test holds them
// together.
func (s *Server) routes() []route {
	return []route{
		{http.MethodGet, "/v1/vips", s.listVIPs},
		{http.MethodGet, "/v1/vips/:name", s.getVIP},
		{http.MethodPut, "/v1/vips/:name", s.putVIP},
		{http.MethodDelete, "/v1/vips/:name", s.deleteVIP},
		{http.MethodGet, "/v1/vips/:name/stats", s.getVIPStats},
		{http.MethodGet, memberRoute, s.getMember},
		{http.MethodPut, memberRoute, s.putMember},
		{http.MethodDelete, memberRoute, s.deleteMember},
		{http.MethodGet, "/v1/switches", s.listSwitches},
		{http.MethodGet, "/v1/switches/:dpid", s.getSwitch},
		{http.MethodPut, "/v1/switches/:dpid/stage", s.putStage},
		{http.MethodPut, "/v1/switches/:dpid/bpdus", s.putBPDUs},
		{http.MethodPost, "/v1/switches/:dpid/confirm", s.postConfirm},
		{http.MethodDelete, "/v1/switches/:dpid/certificate", s.deleteCertificate},
		{http.MethodGet, "/v1/switches/:dpid/flows", s.listFlows},
		{http.MethodGet, "/v1/switches/:dpid/groups", s.listGroups},
		{http.MethodGet, ovsPath, s.listOVS},
		{http.MethodPost, ovsPath, s.postOVS},
		{http.MethodGet, "/v1/ovs/interfaces", s.listOVSInterfaces},
		{http.MethodGet, "/v1/ovs/:endpoint/:bridge", s.getOVS},
		{http.MethodDelete, "/v1/ovs/:endpoint/:bridge", s.deleteOVS},
		{http.MethodGet, migrationsPath, s.listMigrations},
		{http.MethodGet, "/v1/migrations/:name", s.getMigration},
		{http.MethodPut, "/v1/migrations/:name", s.putMigration},
		{http.MethodDelete, "/v1/migrations/:name", s.deleteMigration},
		{http.MethodPost, "/v1/migrations/:name/apply", s.postApply},
		{http.MethodPost, "/v1/migrations/:name/confirm", s.postMigrationConfirm},
		{http.MethodPost, "/v1/migrations/:name/rollback", s.postRollback},
		{http.MethodGet, "/v1/links", s.listLinks},
		{http.MethodGet, "/v1/hosts", s.listHosts},
		{http.MethodGet, "/v1/segments", s.listSegments},
		{http.MethodGet, "/v1/topology", s.getTopology},
		{http.MethodGet, "/v1/coverage", s.getCoverage},
		{http.MethodPost, "/v1/explain", s.postExplain},
		{http.MethodPost, "/v1/reachability", s.postReachability},
		{http.MethodGet, eventsPath, s.getEvents},
		{http.MethodGet, backupPath, s.getBackup},
		{http.MethodPost, restorePath, s.postRestore},
		{http.MethodGet, "/healthz", s.getHealth},
		{http.MethodGet, "/readyz", s.getReady},
		{http.MethodGet, "/metrics", s.getMetrics},
		{http.MethodGet, "/openapi.json", s.getOpenAPI},
	}
}

// Health is the answer of /healthz: the process answers.
type Health struct {
	Status  string `json:"status"` // ok
	Version string `json:"version"`
}

func (s *Server) getHealth(c echo.Context) error {
	return respond(c, http.StatusOK, Health{Status: "ok", Version: s.o.Version})
}

// Readiness is the answer of /readyz when the server is ready; otherwise the answer
// is a Problem with Reasons.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons"`
}

func (s *Server) getReady(c echo.Context) error {
	if s.o.Ready != nil {
		if reasons := s.o.Ready(); len(reasons) > 0 {
			p := problem(http.StatusServiceUnavailable, "not-ready", "Not ready", reasons[0])
			p.Reasons = reasons
			return p
		}
	}
	return respond(c, http.StatusOK, Readiness{Ready: true, Reasons: []string{}})
}

func (s *Server) getMetrics(c echo.Context) error {
	s.metrics.handler.ServeHTTP(c.Response(), c.Request())
	return nil
}
