package northbound

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// serveRig runs the rig's server on a loopback port until the test ends.
func serveRig(t *testing.T, r *rig) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return l.Addr().String()
}

// stream opens an event stream and returns its lines.
func stream(t *testing.T, addr string, headers ...string) *bufio.Reader {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+addr+"/v1/events", nil)
	require.NoError(t, err)
	for h := headers; len(h) > 1; h = h[2:] {
		req.Header.Set(h[0], h[1])
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	t.Cleanup(func() { resp.Body.Close() })
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	return bufio.NewReader(resp.Body)
}

// block reads up to the next empty line.
func block(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	var b strings.Builder
	for {
		line, err := r.ReadString('\n')
		require.NoError(t, err)
		if line == "\n" {
			return b.String()
		}
		b.WriteString(line)
	}
}

func TestEvents(t *testing.T) {
	r := newRig(t)
	addr := serveRig(t, r)
	for _, id := range []string{"", "41"} { // Last-Event-ID changes nothing
		lines := stream(t, addr, "Last-Event-ID", id)
		require.Equal(t, ": fairlead events\n", block(t, lines))
		r.events.publish(Event{ID: 42, Type: EventVIP, Time: epoch, Data: map[string]string{"name": "web\nid: 7"}})
		require.Equal(t, "id: 42\nevent: vip\ndata: {\"id\":42,\"type\":\"vip\",\"time\":\"2026-01-02T03:04:05Z\",\"data\":{\"name\":\"web\\nid: 7\"}}\n", block(t, lines))
	}
}

func TestEventsHeartbeatOutlivesTimeouts(t *testing.T) {
	r := newRig(t)
	r.s.limits.heartbeat = 40 * time.Millisecond
	r.s.limits.read, r.s.limits.readHeader, r.s.limits.write = 60*time.Millisecond, 60*time.Millisecond, 60*time.Millisecond
	lines := stream(t, serveRig(t, r))
	block(t, lines)
	for range 5 { // 200 ms: longer than a request may take
		require.Equal(t, ": heartbeat\n", block(t, lines))
	}
}

func TestEventsOfLaggingClient(t *testing.T) {
	r := newRig(t)
	r.s.limits.eventBuffer = 4
	addr := serveRig(t, r)
	lines := stream(t, addr)
	block(t, lines)
	<-r.events.came
	// More at once than the buffer holds: one lock keeps the stream from draining it.
	r.events.mu.Lock()
	for ch := range r.events.subs {
		ch <- Event{ID: 8, Type: EventLink, Time: epoch}
		delete(r.events.subs, ch)
		close(ch)
	}
	r.events.mu.Unlock()
	require.Contains(t, block(t, lines), "id: 8\nevent: link\n")
	require.Contains(t, block(t, lines), "id: 8\nevent: lagged\n")
	_, err := lines.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

// A client that does not read is dropped when a write to it takes too long, and holds
// up nobody meanwhile.
func TestEventsOfClientThatDoesNotRead(t *testing.T) {
	r := newRig(t)
	r.s.limits.eventWrite = 50 * time.Millisecond
	r.s.limits.eventBuffer = 1 << 16
	addr := serveRig(t, r)
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(1024))
	_, err = io.WriteString(conn, "GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	<-r.events.came
	big := Event{ID: 1, Type: EventVIP, Time: epoch, Data: strings.Repeat("x", 1<<16)}
	require.Eventually(t, func() bool {
		for range 10 {
			r.events.publish(big)
		}
		return r.events.open() == 0
	}, 10*time.Second, time.Millisecond)
}

func TestEventsEndWithTheServerAndTheClient(t *testing.T) {
	r := newRig(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.s.Run(ctx, l) }()

	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr().String()+"/v1/events", nil)
	require.NoError(t, err)
	gone, leave := context.WithCancel(context.Background())
	resp, err := http.DefaultClient.Do(req.WithContext(gone))
	require.NoError(t, err)
	<-r.events.came
	leave()
	resp.Body.Close()
	require.Eventually(t, func() bool { return r.events.open() == 0 }, 5*time.Second, time.Millisecond)

	lines := stream(t, l.Addr().String())
	block(t, lines)
	start := time.Now()
	cancel()
	require.NoError(t, <-done)
	require.Less(t, time.Since(start), 2*time.Second, "a stream does not hold up the end")
	_, err = lines.ReadByte()
	require.ErrorIs(t, err, io.EOF)
}

func TestEventsBoundsStreams(t *testing.T) {
	r := newRig(t)
	r.s.limits.streams = 1
	addr := serveRig(t, r)
	block(t, stream(t, addr))
	resp, err := http.Get("http://" + addr + "/v1/events")
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	requireProblem(t, reply{resp, body}, http.StatusServiceUnavailable, nil)
}
