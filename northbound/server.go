// Package northbound is the REST API of Fairlead: /v1, server-sent events, liveness,
// readiness, metrics and the OpenAPI document.
//
// It holds no state of the network. What it shows and changes is behind three small
// interfaces (VIPs, Network, Events; Backups of the store) that the command wires to the controller and its
// apps. Every answer is a document of this package, of apps/balancer or of topology;
// every refusal is a Problem.
package northbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
)

// Options is what a Server is made of. VIPs, Network, Events, OVS, Migrations, Backups
// and Log are required.
type Options struct {
	VIPs    VIPs
	Network Network
	Events  Events
	OVS     OVS
	// Migrations move the network over.
	Migrations Migrations
	// Explainer tells what becomes of a packet; required as VIPs are.
	Explainer Explainer
	// Measurer measures what answers; required as VIPs are.
	Measurer Measurer
	Backups  Backups
	// Probes tells what health monitors do, for metrics; nil: nothing is told.
	Probes func(context.Context) (ProbesView, error)
	// Presence tells what was announced to hosts and bridges, for metrics; nil: nothing
	// is told.
	Presence func(context.Context) (PresenceView, error)
	// Ready returns why the server is not ready, nothing when it is. nil is always
	// ready.
	Ready func() []string
	// Tokens that open everything but /healthz; the zero value lets everybody in.
	Tokens Tokens
	// Traffic is how far the metrics of traffic go into detail; empty: TrafficMembers.
	Traffic TrafficDetail
	// Metrics is shown on /metrics together with the server's own; nil shows the
	// server's own alone.
	Metrics prometheus.Gatherer
	Log     *slog.Logger
	// Version of the program, for /openapi.json and /healthz.
	Version string
}

// Server answers the REST API. It is made by New and serves one listener.
type Server struct {
	o       Options
	limits  limits
	metrics *metrics
	handler http.Handler
	openapi []byte

	// life ends when the server stops; streams and waiting writes end with it.
	life context.Context
	end  context.CancelFunc

	stages  sync.Mutex // one change of a stage at a time: check, then write
	streams streamCount
}

// limits of one connection or request. They are fields so that tests can wait for
// them.
type limits struct {
	readHeader, read, write, idle time.Duration
	maxHeader                     int           // bytes
	readSwitch                    time.Duration // one read of what a switch holds
	shutdown                      time.Duration
	heartbeat                     time.Duration // of an event stream
	eventWrite                    time.Duration // one event to one stream
	eventBuffer                   int           // events a stream may lag behind
	streams                       int64         // event streams at once
}

var defaultLimits = limits{
	readHeader:  5 * time.Second,
	read:        30 * time.Second,
	write:       30 * time.Second,
	idle:        2 * time.Minute,
	maxHeader:   64 << 10,
	readSwitch:  10 * time.Second,
	shutdown:    3 * time.Second,
	heartbeat:   15 * time.Second,
	eventWrite:  10 * time.Second,
	eventBuffer: 1024,
	streams:     256,
}

// New makes a server. It starts nothing.
func New(o Options) *Server {
	s := &Server{o: o, limits: defaultLimits, metrics: newMetrics(collector{network: o.Network, vips: o.VIPs, probes: o.Probes, presence: o.Presence, traffic: o.Traffic}, o.Metrics), openapi: openAPI(o.Version)}
	s.life, s.end = context.WithCancel(context.Background())

	e := echo.New()
	e.HTTPErrorHandler = s.writeProblem
	e.Use(func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			infoOf(c.Request().Context()).route = c.Path()
			if _, err := url.ParseQuery(c.Request().URL.RawQuery); err != nil {
				return badField("query", "%s", err) // or what is broken would count as left out
			}
			return next(c)
		}
	})
	for _, r := range s.routes() {
		e.Add(r.method, r.path, r.handler)
		if r.method == http.MethodGet {
			// net/http drops the body of the answer to a HEAD.
			e.Add(http.MethodHead, r.path, r.handler)
		}
	}
	s.handler = s.observe(s.guard(limitBody(e)))
	return s
}

// Handler returns the whole API.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves l until ctx ends, then lets requests finish for a few seconds and
// returns nil. It closes l. For HTTPS l is a TLS listener.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: s.limits.readHeader,
		ReadTimeout:       s.limits.read,
		WriteTimeout:      s.limits.write,
		IdleTimeout:       s.limits.idle,
		MaxHeaderBytes:    s.limits.maxHeader,
		ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
	defer s.end()
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return fmt.Errorf("northbound: serve %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	s.end()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.limits.shutdown)
	defer cancel()
	err := srv.Shutdown(grace)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close() // somebody is slow; their answer is lost, not their write
	}
	<-failed
	if err != nil {
		return fmt.Errorf("northbound: stop: %w", err)
	}
	return nil
}

// requestInfo is what the layers of one request tell the outermost one.
type requestInfo struct {
	route  string // pattern of the route; empty when there was none
	client string // name of the token
}

type requestInfoKey struct{}

func infoOf(ctx context.Context) *requestInfo {
	if i, ok := ctx.Value(requestInfoKey{}).(*requestInfo); ok {
		return i
	}
	return new(requestInfo)
}

// statusWriter remembers the status that was sent.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap serves http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// observe counts and logs a request, and contains a panic in it.
func (s *Server) observe(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		info := new(requestInfo)
		r = r.WithContext(context.WithValue(r.Context(), requestInfoKey{}, info))
		sw := &statusWriter{ResponseWriter: w}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		defer func() {
			if p := recover(); p != nil {
				s.metrics.panics.Inc()
				s.o.Log.Error("request panicked", slog.String("method", r.Method), slog.String("path", r.URL.Path),
					slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
				if sw.status == 0 {
					respondProblem(sw, problemOf(errors.New("panic"), r))
				}
			}
			took := time.Since(start)
			s.metrics.observe(info.route, r.Method, sw.status, took)
			level := slog.LevelDebug
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				level = slog.LevelInfo // who changed what, from which revision to which
			}
			s.o.Log.Log(r.Context(), level, "request", slog.String("method", r.Method), slog.String("path", r.URL.Path),
				slog.Int("status", sw.status), slog.Duration("took", took),
				slog.String("remote", r.RemoteAddr), slog.String("token", info.client),
				slog.String("if_match", r.Header.Get("If-Match")), slog.String("revision", w.Header().Get("ETag")))
		}()
		next.ServeHTTP(sw, r)
	})
}

// limitBody refuses bodies over maxBody, maxBackup for a backup: at once when the client says so, else when
// the handler has read that much.
func limitBody(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := int64(maxBody)
		if r.URL.Path == restorePath {
			limit = maxBackup
		}
		if r.ContentLength > limit {
			w.Header().Set("Connection", "close") // the rest is not worth reading
			respondProblem(w, problemOf(&http.MaxBytesError{Limit: limit}, r))
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		next.ServeHTTP(w, r)
	})
}

// respond writes v as JSON.
func respond(c echo.Context, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("northbound: encode answer: %w", err)
	}
	return c.Blob(status, "application/json", append(body, '\n'))
}
