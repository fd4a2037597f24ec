package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/controller/store"
)

// reaches says whether a client of an endpoint comes to a session, or why not.
func reaches(t *testing.T, cfg Config, e ovsdb.Endpoint) (why string) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	c := ovsdb.NewClient(e, ovsdb.ClientOptions{TLS: cfg.ovsdbTLS(log), Log: log})
	done := make(chan struct{})
	go func() { c.Run(t.Context()); close(done) }()
	t.Cleanup(func() { <-done })
	require.Eventually(t, func() bool {
		ok, _, err := c.Status()
		if err != nil {
			why = err.Error()
		}
		if ok {
			why = ""
		}
		return ok || !strings.Contains(why, "no attempt") && !strings.Contains(why, "refused")
	}, 10*time.Second, time.Millisecond)
	return why
}

// TestOVSDBByTLS reaches a real ovsdb-server with the certificates of ovs-pki: both sides
// show one.
func TestOVSDBByTLS(t *testing.T) {
	p := newPKI(t)
	p.run("req+sign", "ctl", "controller")
	p.run("req+sign", "host", "switch")
	run := func(name string, args ...string) *exec.Cmd {
		path, err := exec.LookPath(name)
		if err != nil {
			path = "/usr/sbin/" + name
		}
		cmd := exec.Command(path, args...)
		cmd.Env = append(os.Environ(), "OVS_RUNDIR="+p.dir, "OVS_LOGDIR="+p.dir)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return cmd
	}
	out, err := run("ovsdb-tool", "create", p.path("db"), "/usr/share/openvswitch/vswitch.ovsschema").CombinedOutput()
	require.NoError(t, err, "%s", out)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	server := run("ovsdb-server", fmt.Sprintf("--remote=pssl:%d:127.0.0.1", port), "--unixctl="+p.path("ctl"), "--no-chdir", "--verbose=off",
		"--private-key="+p.path("host-privkey.pem"), "--certificate="+p.path("host-cert.pem"), "--ca-cert="+p.path("pki/controllerca/cacert.pem"), p.path("db"))
	require.NoError(t, server.Start())
	t.Cleanup(func() { _ = server.Process.Kill(); _ = server.Wait() })

	e, err := ovsdb.ParseEndpoint(fmt.Sprintf("ssl:127.0.0.1:%d", port))
	require.NoError(t, err)
	good := Config{TLSMin: "1.3", TLSCert: p.path("ctl-cert.pem"), TLSKey: p.path("ctl-privkey.pem"), TLSCA: p.path("pki/switchca/cacert.pem")}
	require.Empty(t, reaches(t, good, e))
	bad := good
	bad.TLSCA = p.path("pki/controllerca/cacert.pem")
	require.Contains(t, reaches(t, bad, e), "unknown authority")
	bad = good
	bad.TLSCert, bad.TLSKey = p.path("host-cert.pem"), p.path("host-privkey.pem") // of the wrong authority
	require.NotEmpty(t, reaches(t, bad, e))
	require.Contains(t, reaches(t, Config{}, e), "needs the certificates")
	plain, err := ovsdb.ParseEndpoint(fmt.Sprintf("tcp:127.0.0.1:%d", port))
	require.NoError(t, err)
	require.NotEmpty(t, reaches(t, good, plain))
}

// TestOVSDBServerNames holds a certificate that names somebody to its names.
func TestOVSDBServerNames(t *testing.T) {
	s := newSouthbound(t)
	f := &tlsFiles{cert: s.cfg.TLSCert, key: s.cfg.TLSKey, ca: s.cfg.TLSCA, least: tls.VersionTLS13, log: slog.New(slog.DiscardHandler)}
	dial := func(cert tls.Certificate, host string) error {
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
		require.NoError(t, err)
		defer l.Close()
		go func() {
			if c, err := l.Accept(); err == nil {
				_ = c.(*tls.Conn).Handshake()
				c.Close()
			}
		}()
		conf, err := f.client(host)
		require.NoError(t, err)
		c, err := tls.Dial("tcp", l.Addr().String(), conf)
		if err == nil {
			c.Close()
		}
		return err
	}
	require.NoError(t, dial(s.ca.issue("host", ecKey(t), nil), "127.0.0.1"))
	require.ErrorContains(t, dial(s.ca.issue("host", ecKey(t), nil), "192.0.2.1"), "not 192.0.2.1")
	nobody := func(c *x509.Certificate) { c.IPAddresses = nil }
	require.NoError(t, dial(s.ca.issue("host", ecKey(t), nobody), "192.0.2.1"), "as ovs-pki makes them")
	dns := func(c *x509.Certificate) { c.IPAddresses, c.DNSNames = nil, []string{"a.example", "host id:1"} }
	require.NoError(t, dial(s.ca.issue("host", ecKey(t), dns), "a.example"))
	require.ErrorContains(t, dial(s.ca.issue("host", ecKey(t), dns), "b.example"), "not b.example")
	require.Error(t, dial(newAuthority(t, "others").issue("host", ecKey(t), nobody), "192.0.2.1"))
	old := func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }
	require.ErrorContains(t, dial(s.ca.issue("host", ecKey(t), old), "127.0.0.1"), "expired")
}

func TestSelfTarget(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.7")
	for at, want := range map[string]string{
		"[::]:6653": "tcp:192.0.2.7:6653", "0.0.0.0:6653": "tcp:192.0.2.7:6653", "192.0.2.9:1": "tcp:192.0.2.9:1", "127.0.0.1:6653": "",
	} {
		got, err := selfTarget(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(at)), false, local)
		require.Equal(t, want == "", err != nil, at)
		require.Equal(t, want, got)
	}
	got, err := selfTarget(&net.TCPAddr{IP: net.IPv6zero, Port: 6653}, true, netip.MustParseAddr("2001:db8::7"))
	require.NoError(t, err)
	require.Equal(t, "ssl:[2001:db8::7]:6653", got)
}

func TestAdoptionsAreStored(t *testing.T) {
	dir := t.TempDir()
	db, err := store.Open(dir, store.Options{})
	require.NoError(t, err)
	a := ovsdb.Adoption{Endpoint: "unix:/a", Bridge: "br0", DPID: "0000000000000001", Stage: "steer", Record: ovsdb.Record{
		Phase: ovsdb.PhaseAdopted, Controllers: []string{"tcp:1.1.1.1:1"},
		Before: ovsdb.Before{Protocols: json.RawMessage(`["set",[]]`), FailMode: json.RawMessage(`["set",[]]`)},
	}}
	b := a
	b.Bridge = "br1"
	require.NoError(t, adoptions{db}.SaveAdoption(t.Context(), a))
	require.NoError(t, adoptions{db}.SaveAdoption(t.Context(), b))
	require.NoError(t, adoptions{db}.DeleteAdoption(t.Context(), "unix:/a", "br1"))
	require.NoError(t, db.Close())
	db, err = store.Open(dir, store.Options{})
	require.NoError(t, err)
	defer db.Close()
	list, err := adoptions{db}.Adoptions(t.Context())
	require.NoError(t, err)
	require.Equal(t, []ovsdb.Adoption{a}, list)
}

// TestOVSCommands asks a server that answers what it was told to.
func TestOVSCommands(t *testing.T) {
	var asked []string
	answer := `{"items":[{"bridge":"br0","dpid":"0000000000000001","state":"adopted","changed":true,"reason":"","warnings":["look"]},{"bridge":"br1","state":"refused","reason":"why"}]}`
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.EscapedPath())
		switch r.Method {
		case http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case http.MethodGet:
			fmt.Fprint(w, `{"items":[{"endpoint":"unix:/a","name":"br0","state":"adopted","ports":[]},{"endpoint":"unix:/a","name":"br1","state":"available"}],"next":""}`)
		default:
			fmt.Fprint(w, answer)
		}
	}))
	defer s.Close()
	do := func(args ...string) (string, int) {
		var out, errs strings.Builder
		code := run(t.Context(), append(args, "--server", s.URL), strings.NewReader(""), &out, &errs)
		return out.String() + errs.String(), code
	}
	out, code := do("ovs", "adopt", "unix:/a", "br0", "br1", "--stage", "steer", "--controller", "tcp:1.2.3.4:5")
	require.Equal(t, 1, code, out)
	require.Contains(t, out, "look")
	require.Contains(t, out, "why")
	require.Contains(t, out, "1 of 2 bridges")
	answer = strings.Replace(answer, "refused", "adopted", 1)
	out, code = do("ovs", "adopt", "unix:/a", "--all")
	require.Zero(t, code, out)
	out, code = do("ovs", "list")
	require.Zero(t, code, out)
	require.Contains(t, out, "br1")
	asked = nil
	out, code = do("ovs", "release", "unix:/a/b", "--all")
	require.Zero(t, code, out)
	require.Equal(t, []string{"GET /v1/ovs", "DELETE /v1/ovs/unix:%2Fa%2Fb/br0"}, asked)
	require.Equal(t, "br0 released\n", out)
	out, code = do("ovs", "release", "unix:/a/b", "br0", "-o", "json")
	require.Zero(t, code, out)
	require.Empty(t, out, "there is no document")
	for _, args := range [][]string{
		{"adopt", "unix:/a"}, {"adopt", "unix:/a", "br0", "--all"}, {"adopt", "here", "br0"}, {"adopt", "unix:/a", "br0", "--stage", "all"},
		{"adopt", "unix:/a", "br0", "--controller", "tcp:host:1"}, {"release", "unix:/a"}, {"list", "here"}, {"show", "unix:/a"}, {"give"},
	} {
		out, code = do(append([]string{"ovs"}, args...)...)
		require.Equal(t, 2, code, "%v: %s", args, out)
	}
}
