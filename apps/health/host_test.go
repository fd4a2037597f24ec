package health

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Probes from the controller's own network, to this machine.
func TestProbesFromTheHost(t *testing.T) {
	plain := httptest.NewServer(status(http.StatusTeapot))
	t.Cleanup(plain.Close)
	secure := httptest.NewTLSServer(status(http.StatusOK))
	t.Cleanup(secure.Close)
	hangs, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { hangs.Close() })
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { udp.Close() })
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	closed.Close()

	at := func(a net.Addr, typ Type, change ...func(*Target)) Target {
		p := netip.MustParseAddrPort(a.String())
		to := Target{Type: typ, Address: p.Addr(), Port: p.Port(), Interval: time.Second, Timeout: 100 * time.Millisecond, ViaHost: true}
		for _, f := range change {
			f(&to)
		}
		return to.filled()
	}
	for _, c := range []struct {
		name    string
		target  Target
		outcome Outcome
		why     string
	}{
		{"TCP", at(plain.Listener.Addr(), TCP), OutcomeSuccess, ""},
		{"TCP refused", at(closed.LocalAddr(), TCP), OutcomeFailure, "connection refused"},
		{"HTTP 418", at(plain.Listener.Addr(), HTTP), OutcomeFailure, "HTTP status 418, not 200"},
		{"HTTP 418 expected", at(plain.Listener.Addr(), HTTP, func(t *Target) { t.ExpectedCodes = "400-499" }), OutcomeSuccess, ""},
		{"HTTP hangs", at(hangs.Addr(), HTTP), OutcomeTimeout, ""},
		{"HTTPS", at(secure.Listener.Addr(), HTTPS, func(t *Target) { t.TLSInsecure, t.Timeout = true, 5*time.Second }), OutcomeSuccess, ""},
		{"UDP silent", at(udp.LocalAddr(), UDPConnect), OutcomeSuccess, ""},
		{"UDP refused", at(closed.LocalAddr(), UDPConnect), OutcomeFailure, "UDP port unreachable"},
		{"ping", at(plain.Listener.Addr(), Ping), OutcomeSuccess, ""},
		{"SCTP, which answers nothing here", at(plain.Listener.Addr(), SCTP), OutcomeTimeout, ""},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), c.target.Timeout)
		err := fromHost(ctx, c.target)
		if raw := c.target.Type == Ping || c.target.Type == SCTP; raw && os.Geteuid() != 0 {
			require.ErrorIs(t, err, syscall.EPERM, c.name)
		} else {
			o, why := outcomeOf(ctx, err)
			require.Equal(t, c.outcome, o, "%s: %s", c.name, why)
			require.Equal(t, c.why, why, c.name)
		}
		cancel()
	}
}
