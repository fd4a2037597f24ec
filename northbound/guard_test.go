package northbound

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// from sends a request as if from an address.
func from(r *rig, remote, request, body string, header ...string) *httptest.ResponseRecorder {
	method, target, _ := strings.Cut(request, " ")
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	req.RemoteAddr = remote
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	r.s.Handler().ServeHTTP(rec, req)
	return rec
}

// TestR04TokensAreNotGuessed asks every route without a token, with wrong ones, and
// again and again.
func TestR04TokensAreNotGuessed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tokens, err := ParseTokens(strings.NewReader("alice:s3cret\n"))
		require.NoError(t, err)
		r := newRig(t, func(o *Options) { o.Tokens = tokens })
		open := 0
		for i, rt := range r.s.routes() {
			for j, header := range [][]string{nil, {"Authorization", "Bearer wrong"}, {"Authorization", "Basic s3cret"}, {"Authorization", "Bearer s3cretx"}, {"Authorization", "Bearer "}} {
				code := from(r, fmt.Sprintf("192.0.2.%d:%d", i, 1000+j), rt.method+" "+fill(rt.path), "{}", header...).Code
				if rt.path == "/healthz" {
					open++
					require.Equal(t, 200, code)
					continue
				}
				require.Equal(t, 401, code, "%s %s with %v", rt.method, rt.path, header)
			}
		}
		require.Equal(t, 5, open, "liveness alone")

		// 10,000 guesses within ten seconds, of one address and of one network.
		for _, remote := range []string{"198.51.100.7:1", "[2001:db8::%d]:1"} {
			looked := 0
			for i := range 10000 {
				peer := remote
				if strings.Contains(remote, "%d") {
					peer = fmt.Sprintf(remote, i+1)
				}
				switch code := from(r, peer, "GET /v1/vips", "", "Authorization", fmt.Sprintf("Bearer %d", i)).Code; code {
				case 401:
					looked++
				default:
					require.Equal(t, http.StatusTooManyRequests, code)
				}
				time.Sleep(time.Millisecond)
			}
			t.Logf("%s: %d of 10,000 guesses within 10 s were looked at", remote, looked)
			require.LessOrEqual(t, looked, 10*10+10)
			require.GreaterOrEqual(t, looked, 90)
			require.Equal(t, 429, from(r, strings.ReplaceAll(remote, "%d", "1"), "GET /v1/vips", "", "Authorization", "Bearer s3cret").Code)
			time.Sleep(time.Second)
			require.Equal(t, 200, from(r, strings.ReplaceAll(remote, "%d", "1"), "GET /v1/vips", "", "Authorization", "Bearer s3cret").Code)
		}
		require.Equal(t, 200, from(r, "203.0.113.1:1", "GET /v1/vips", "", "Authorization", "Bearer s3cret").Code, "others are not held up")
	})
}

// What is remembered of addresses has a bound.
func TestGuessersAreBounded(t *testing.T) {
	g := guesses{of: map[netip.Prefix]guessed{}}
	now := time.Now()
	for i := range 3 * guessers {
		g.wrong(guesser(&http.Request{RemoteAddr: fmt.Sprintf("10.%d.%d.%d:1", i>>16, i>>8&0xff, i&0xff)}), now)
		require.LessOrEqual(t, len(g.of), guessers)
	}
}

// TestR11ChangesAreLogged makes every change that the API has, and looks for who made
// it and which revision came of it; tokens are not in the log.
func TestR11ChangesAreLogged(t *testing.T) {
	tokens, err := ParseTokens(strings.NewReader("alice:s3cret\n"))
	require.NoError(t, err)
	logged := new(bytes.Buffer)
	r := newRig(t, func(o *Options) {
		o.Tokens = tokens
		o.Log = slog.New(slog.NewTextHandler(logged, nil))
	})
	line := func(request, body string, header ...string) string {
		logged.Reset()
		rec := from(r, "192.0.2.1:4000", request, body, append(header, "Authorization", "Bearer s3cret")...)
		require.NotContains(t, logged.String(), "s3cret")
		for l := range strings.Lines(logged.String()) {
			if strings.Contains(l, "msg=request") {
				require.Contains(t, l, fmt.Sprintf("status=%d", rec.Code))
				return l
			}
		}
		return ""
	}
	l := line("PUT /v1/vips/web", web)
	for _, part := range []string{"method=PUT", "path=/v1/vips/web", "token=alice", "remote=192.0.2.1:4000", "revision=" + strconv.Quote(vipTag(1))} {
		require.Contains(t, l, part)
	}
	require.Empty(t, line("GET /v1/vips/web", ""), "reading changes nothing")
	require.Contains(t, line("PUT /v1/vips/web", strings.Replace(web, `"port": 80`, `"port": 81`, 1), "If-Match", `"1"`), `if_match="\"1\""`)
	for _, rt := range r.s.routes() {
		if rt.method != http.MethodGet {
			require.Contains(t, line(rt.method+" "+fill(rt.path), "{}"), "token=alice", "%s %s", rt.method, rt.path)
		}
	}
}

// TestR03StoreThatCannotBeWritten: what the store says of its disk is what the client is told.
func TestR03StoreThatCannotBeWritten(t *testing.T) {
	r := newRig(t)
	for err, status := range map[error]int{syscall.ENOSPC: 507, syscall.EDQUOT: 507, syscall.EIO: 503, syscall.EROFS: 503} {
		r.vips.fail = fmt.Errorf("store: commit: %w", err)
		r.refused(status, nil, "PUT /v1/vips/web", web)
	}
	r.vips.fail = nil
	r.ok(201, "PUT /v1/vips/web", web)
}
