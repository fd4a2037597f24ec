package northbound

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics of the API itself, in a registry of their own.
type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	panics   prometheus.Counter
	streams  prometheus.Gauge
	handler  http.Handler
}

func newMetrics(network collector, others prometheus.Gatherer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fairlead_http_requests_total",
			Help: "Requests answered, by route, method and status.",
		}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "fairlead_http_request_seconds",
			Help:    "Time to answer, by route and method; event streams are not in it.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 4, 9),
		}, []string{"route", "method"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fairlead_http_panics_total",
			Help: "Requests that panicked and were answered with 500.",
		}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fairlead_event_streams",
			Help: "Event streams open now.",
		}),
	}
	own := prometheus.NewRegistry()
	own.MustRegister(m.requests, m.seconds, m.panics, m.streams, network)
	all := prometheus.Gatherers{own}
	if others != nil {
		all = append(all, others)
	}
	m.handler = promhttp.HandlerFor(all, promhttp.HandlerOpts{})
	return m
}

func (m *metrics) observe(route, method string, status int, took time.Duration) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodPost, http.MethodOptions:
	default: // a client may invent methods; each would be a series
		method = "other"
	}
	if route == "" {
		route = "none"
	}
	m.requests.WithLabelValues(route, method, strconv.Itoa(status)).Inc()
	if route != eventsPath {
		m.seconds.WithLabelValues(route, method).Observe(took.Seconds())
	}
}
