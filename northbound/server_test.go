package northbound

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestOperation(t *testing.T) {
	reasons := []string{"the store is not read", "no switch"}
	other := prometheus.NewRegistry()
	other.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "fairlead_other"}, func() float64 { return 4 }))
	r := newRig(t, func(o *Options) {
		o.Ready = func() []string { return reasons }
		o.Metrics = other
	})
	require.Equal(t, map[string]any{"status": "ok", "version": "1.2.3"}, r.ok(200, "GET /healthz", ""))
	p := r.refused(503, nil, "GET /readyz", "")
	require.Equal(t, reasons, p.Reasons)
	require.Equal(t, reasons[0], p.Detail)
	reasons = nil
	require.Equal(t, map[string]any{"ready": true, "reasons": []any{}}, r.ok(200, "GET /readyz", ""))

	r.do("GET /v1/vips/none", "")
	r.do("GET /nowhere", "")
	r.do("BREW /v1/vips", "")
	resp := r.do("GET /metrics", "")
	require.Equal(t, 200, resp.StatusCode)
	require.True(t, strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain"))
	for _, line := range []string{
		"fairlead_other 4",
		`fairlead_http_requests_total{method="GET",route="/healthz",status="200"} 1`,
		`fairlead_http_requests_total{method="GET",route="/v1/vips/:name",status="404"} 1`,
		`fairlead_http_requests_total{method="GET",route="none",status="404"} 1`,
		`fairlead_http_requests_total{method="other",route="/v1/vips",status="405"} 1`,
		"fairlead_event_streams 0",
	} {
		require.Contains(t, string(resp.body), line+"\n")
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/", "/v1", "/v1/", "/v2/vips", "/v1/vipss", "/v1/explained", "/v1/switches/0000000000000001/other", "/favicon.ico"} {
		r.refused(404, nil, "GET "+path, "")
	}
	for _, request := range []string{"POST /v1/vips", "PUT /v1/vips", "DELETE /v1/vips", "PATCH /v1/vips/web", "POST /v1/vips/web",
		"PUT /v1/switches", "DELETE " + sw1, "GET " + sw1 + "/stage", "POST " + sw1 + "/stage", "PUT /v1/links", "POST /v1/events",
		"DELETE /healthz", "POST /metrics", "PUT " + "/v1/vips/web/stats", "BREW /v1/vips", "TRACE /v1/vips"} {
		resp := r.do(request, "{}")
		requireProblem(t, resp, 405, nil)
		require.NotEmpty(t, resp.Header.Get("Allow"), request)
	}
	resp := r.do("OPTIONS /v1/vips/web", "")
	require.Equal(t, http.StatusNoContent, resp.StatusCode)
	for _, m := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		require.Contains(t, resp.Header.Get("Allow"), m)
	}
	require.Empty(t, resp.Header.Get("Access-Control-Allow-Origin"))
	require.Empty(t, r.do("GET /v1/vips", "", "Origin", "http://evil.example").Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "no-store", r.do("GET /v1/vips", "").Header.Get("Cache-Control"))
	require.Equal(t, "nosniff", r.do("GET /v1/vips", "").Header.Get("X-Content-Type-Options"))
}

// Every GET answers HEAD with the same headers and no body.
func TestHead(t *testing.T) {
	r := newRig(t)
	r.network.graph = ring(t)
	r.ok(201, "PUT /v1/vips/web", web)
	addr := serveRig(t, r)
	for _, rt := range r.s.routes() {
		if rt.method != http.MethodGet {
			continue
		}
		path := fill(rt.path)
		resp, err := http.Head("http://" + addr + path)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, path)
		require.Empty(t, body, path)
		require.NotEmpty(t, resp.Header.Get("Content-Type"), path)
	}
}

// fill puts examples for the parameters of a route.
func fill(path string) string {
	return strings.NewReplacer(":name", "web", ":listener", "tcp:80", ":member", "10.0.0.2:8080", ":dpid", "0000000000000001",
		":endpoint", ovsEscaped, ":bridge", "br0").Replace(path)
}

func TestBodyLimit(t *testing.T) {
	r := newRig(t)
	pad := func(n int) string { return web + strings.Repeat(" ", n-len(web)) }
	for _, request := range []string{"PUT /v1/vips/web", "PUT " + member, "PUT " + sw1 + "/stage"} {
		r.refused(413, []string{"body"}, request, pad(maxBody+1))
	}
	require.Empty(t, r.vips.vips)
	r.ok(201, "PUT /v1/vips/web", pad(maxBody))

	// A client that does not say how long its body is.
	addr := serveRig(t, r)
	req, err := http.NewRequest(http.MethodPut, "http://"+addr+"/v1/vips/web", io.MultiReader(strings.NewReader(pad(maxBody)), strings.NewReader(" ")))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	requireProblem(t, reply{resp, body}, 413, []string{"body"})
	require.Equal(t, uint64(1), r.vips.vips["web"].Generation)

	r.refused(415, []string{"Content-Encoding"}, "PUT /v1/vips/web", web, "Content-Encoding", "gzip")
	r.ok(200, "PUT /v1/vips/web", web, "Content-Encoding", "identity", "Content-Type", "application/x-www-form-urlencoded")
}

func TestTokens(t *testing.T) {
	tokens, err := ParseTokens(strings.NewReader("# who\n\nalice:s3cret\n  bare-token  \n"))
	require.NoError(t, err)
	require.True(t, tokens.Required())
	logged := new(bytes.Buffer)
	r := newRig(t, func(o *Options) {
		o.Tokens = tokens
		o.Log = slog.New(slog.NewTextHandler(logged, nil))
	})
	for _, rt := range r.s.routes() {
		request := rt.method + " " + fill(rt.path)
		if rt.path == "/healthz" {
			require.Equal(t, 200, r.do(request, "").StatusCode)
			continue
		}
		for _, auth := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer alice", "Bearer alice:s3cret", "Basic s3cret", "s3cret", "Bearer s3cret x"} {
			resp := r.do(request, "", "Authorization", auth)
			requireProblem(t, resp, 401, nil)
			require.Equal(t, `Bearer realm="fairlead"`, resp.Header.Get("WWW-Authenticate"))
		}
	}
	requireProblem(t, r.do("GET /nowhere", ""), 401, nil)
	require.Empty(t, r.vips.vips)
	r.ok(200, "GET /v1/vips", "", "Authorization", "bearer bare-token")
	r.ok(201, "PUT /v1/vips/web", web, "Authorization", "Bearer s3cret")
	require.Contains(t, logged.String(), "method=PUT path=/v1/vips/web status=201")
	require.Contains(t, logged.String(), "token=alice")
	require.NotContains(t, logged.String(), "s3cret")

	for _, bad := range []string{"", "\n# nobody\n", "alice:", "alice: \n"} {
		_, err := ParseTokens(strings.NewReader(bad))
		require.Error(t, err, "%q", bad)
	}
	require.False(t, Tokens{}.Required())
}

type panicking struct{ VIPs }

func TestPanicIsContained(t *testing.T) {
	r := newRig(t, func(o *Options) { o.VIPs = panicking{} })
	r.refused(500, nil, "GET /v1/vips", "")
	r.ok(200, "GET /healthz", "")
	require.Contains(t, string(r.do("GET /metrics", "").body), "fairlead_http_panics_total 1\n")
}

// A client that sends its headers, or its body, drop by drop is cut off, and does not
// keep others from being answered.
func TestSlowClients(t *testing.T) {
	r := newRig(t)
	r.s.limits.readHeader, r.s.limits.read = 50*time.Millisecond, 100*time.Millisecond
	addr := serveRig(t, r)
	for _, start := range []string{"", "GET /healthz HT", "GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: ", "PUT /v1/vips/web HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"} {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		_, err = io.WriteString(conn, start)
		require.NoError(t, err)
		resp, err := http.Get("http://" + addr + "/healthz")
		require.NoError(t, err)
		resp.Body.Close()
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(5*time.Second)))
		_, err = io.Copy(io.Discard, conn)
		require.NoError(t, err, "the server closes %q", start)
		conn.Close()
	}
	require.Empty(t, r.vips.vips)
}

func TestHardening(t *testing.T) {
	l := defaultLimits
	for _, d := range []time.Duration{l.readHeader, l.read, l.write, l.idle} {
		require.Positive(t, d)
		require.LessOrEqual(t, d, 2*time.Minute)
	}
	require.Less(t, l.readSwitch, l.write, "a read of a switch is answered before the deadline")
	require.Less(t, l.shutdown, 5*time.Second)
	r := newRig(t)
	addr := serveRig(t, r)
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/healthz", nil)
	require.NoError(t, err)
	req.Header.Set("X-Long", strings.Repeat("x", 128<<10))
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode)
}

// A write that waits is not cut off by the time a request has to be read and answered.
func TestWaitOutlivesTimeouts(t *testing.T) {
	r := newRig(t)
	r.s.limits.read, r.s.limits.write = 50*time.Millisecond, 50*time.Millisecond
	r.vips.onWait = func(ctx context.Context, _ string, _ uint64) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(150 * time.Millisecond):
			return nil
		}
	}
	addr := serveRig(t, r)
	req, err := http.NewRequest(http.MethodPut, "http://"+addr+"/v1/vips/web?wait=5s", strings.NewReader(web))
	require.NoError(t, err)
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 201, resp.StatusCode)
	require.GreaterOrEqual(t, time.Since(start), 150*time.Millisecond)
}

func TestRunFailsWithItsListener(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	require.ErrorContains(t, r.s.Run(context.Background(), l), "serve")
}

// The end does not cut off a request that is being answered.
func TestRunLetsRequestsFinish(t *testing.T) {
	r := newRig(t)
	started := make(chan struct{})
	r.vips.onWait = func(ctx context.Context, _ string, _ uint64) error {
		close(started)
		<-ctx.Done()
		return ctx.Err()
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.s.Run(ctx, l) }()
	go func() {
		<-started
		cancel()
	}()
	req, err := http.NewRequest(http.MethodPut, "http://"+l.Addr().String()+"/v1/vips/web?wait=1m", strings.NewReader(web))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 201, resp.StatusCode, "the write is durable; only the wait is cut short")
	require.NoError(t, <-done)
}

func FuzzHandler(f *testing.F) {
	f.Add("/v1/vips/web", []byte(web), "")
	f.Add("/v1/vips/web/listeners/tcp:80/members/10.0.0.2:80", []byte(`{"weight":1}`), `"1"`)
	f.Add("/v1/switches/0000000000000001/stage?wait=1s", []byte(`{"stage":"steer"}`), "*")
	f.Fuzz(func(t *testing.T, target string, body []byte, ifMatch string) {
		r := newRig(t)
		req, err := http.NewRequest(http.MethodPut, "http://x"+target, bytes.NewReader(body))
		if err != nil {
			t.Skip()
		}
		req.Header.Set("If-Match", ifMatch)
		rec := httptest.NewRecorder()
		r.s.Handler().ServeHTTP(rec, req)
		require.NotEqual(t, 500, rec.Code, "%s", rec.Body)
	})
}
