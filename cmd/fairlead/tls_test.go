package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// authority signs certificates of a test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  crypto.Signer
}

func ecKey(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return key
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, key: ecKey(t)}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte(name),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, a.key.Public(), a.key)
	require.NoError(t, err)
	a.cert, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return a
}

var serial int64 = 100

// issue signs a certificate for a key; change may alter it before.
func (a *authority) issue(name string, key crypto.Signer, change func(*x509.Certificate)) tls.Certificate {
	a.t.Helper()
	serial++
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if change != nil {
		change(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	require.NoError(a.t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(a.t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

func writePEM(t *testing.T, path, kind string, ders ...[]byte) {
	t.Helper()
	var b bytes.Buffer
	for _, der := range ders {
		require.NoError(t, pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}))
	}
	// As it should be done: whole or not at all.
	require.NoError(t, os.WriteFile(path+".new", b.Bytes(), 0o600))
	require.NoError(t, os.Rename(path+".new", path))
}

// syncBuffer is a log that is written and read at once.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// southbound is a controller that switches reach by TLS.
type southbound struct {
	t    *testing.T
	dir  string
	cfg  Config
	ca   *authority
	log  syncBuffer
	addr string
	core *controller.Controller
	ln   net.Listener // nil: of its own

	bindings controller.Bindings
}

func newSouthbound(t *testing.T) *southbound {
	t.Helper()
	s := &southbound{t: t, dir: t.TempDir(), ca: newAuthority(t, "switches")}
	s.cfg = Config{TLSMin: "1.3", TLSCert: s.path("cert"), TLSKey: s.path("key"), TLSCA: s.path("ca")}
	writePEM(t, s.cfg.TLSCA, "CERTIFICATE", s.ca.cert.Raw)
	s.renew("controller")
	return s
}

func (s *southbound) path(name string) string { return filepath.Join(s.dir, name+".pem") }

// renew gives the controller a new certificate.
func (s *southbound) renew(name string) {
	s.t.Helper()
	cert := s.ca.issue(name, ecKey(s.t), nil)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(s.t, err)
	writePEM(s.t, s.cfg.TLSCert, "CERTIFICATE", cert.Certificate[0])
	writePEM(s.t, s.cfg.TLSKey, "PRIVATE KEY", key)
}

func (s *southbound) start() {
	s.t.Helper()
	log := slog.New(slog.NewTextHandler(&s.log, nil))
	conf, recheck, err := s.cfg.southboundTLS(log)
	require.NoError(s.t, err)
	ln := s.ln
	if ln == nil {
		ln, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(s.t, err)
	}
	s.addr = ln.Addr().String()
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	s.core, err = controller.New(s.t.Context(), controller.Options{
		Store: &lab.Memory{}, Graph: topology.New(topology.Options{}), Log: log, AllowPlain: s.cfg.OpenFlowInsecure, Bindings: s.bindings, Recheck: recheck,
	})
	require.NoError(s.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.core.Run(ctx, ln) }()
	s.t.Cleanup(func() { cancel(); require.NoError(s.t, <-done) })
}

// client is the TLS of a switch with a certificate.
func (s *southbound) client(certs ...tls.Certificate) *tls.Config {
	roots := x509.NewCertPool()
	roots.AddCert(s.ca.cert)
	return &tls.Config{RootCAs: roots, Certificates: certs}
}

// connect speaks OpenFlow as a switch until the test ends, or the connection does: then
// ended is closed.
func (s *southbound) connect(dpid ofproto.DPID, conf *tls.Config) (sw *simswitch.Switch, conn net.Conn, ended chan struct{}) {
	s.t.Helper()
	nc, err := net.Dial("tcp", s.addr)
	require.NoError(s.t, err)
	if conf != nil {
		conf = conf.Clone()
		conf.ServerName = "127.0.0.1"
		nc = tls.Client(nc, conf)
	}
	sw = simswitch.New(simswitch.Options{DPID: dpid, Ports: []ofproto.Port{1}})
	ended = make(chan struct{})
	go func() { defer close(ended); _ = sw.Serve(s.t.Context(), nc) }()
	s.t.Cleanup(func() { nc.Close(); <-ended })
	return sw, nc, ended
}

func (s *southbound) connected(dpid ofproto.DPID) (remote string) {
	s.t.Helper()
	require.NoError(s.t, s.core.Do(s.t.Context(), func(c *controller.Context) {
		if sw := c.Switch(dpid); sw != nil {
			require.Equal(s.t, s.cfg.TLSCert != "", sw.Secure)
			remote = sw.Remote.String()
		}
	}))
	return remote
}

func (s *southbound) accepted(dpid ofproto.DPID, conf *tls.Config) net.Conn {
	s.t.Helper()
	_, nc, _ := s.connect(dpid, conf)
	require.Eventually(s.t, func() bool { return s.connected(dpid) == nc.LocalAddr().String() }, 10*time.Second, time.Millisecond)
	return nc
}

// refused connects and expects to be cut off, with the switch never attached and the
// log naming what is given.
func (s *southbound) refused(dpid ofproto.DPID, conf *tls.Config, says ...string) {
	s.t.Helper()
	before := s.connected(dpid)
	_, _, ended := s.connect(dpid, conf)
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		s.t.Fatal("the connection was not refused")
	}
	require.Equal(s.t, before, s.connected(dpid))
	for _, text := range says {
		require.Eventually(s.t, func() bool { return strings.Contains(s.log.String(), text) }, 5*time.Second, time.Millisecond, "%s in %s", text, &s.log)
	}
}

func named(uri string) func(*x509.Certificate) {
	u, err := url.Parse(uri)
	if err != nil {
		panic(err)
	}
	return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
}

func TestX01MutualTLS(t *testing.T) {
	s := newSouthbound(t)
	s.start()
	cert := s.ca.issue("s1", ecKey(t), nil)
	for range 9 { // in the place of the one before
		s.accepted(1, s.client(cert)).Close()
		require.Eventually(t, func() bool { return s.connected(1) == "" }, 10*time.Second, time.Millisecond)
	}
	old := s.client(cert)
	old.MaxVersion = tls.VersionTLS12
	s.refused(2, old, "TLS handshake refused", "unsupported versions")
}

func TestX01TLS12ByFlag(t *testing.T) {
	s := newSouthbound(t)
	s.cfg.TLSMin = "1.2"
	s.start()
	cert := s.ca.issue("s1", ecKey(t), nil)
	old := s.client(cert)
	old.MaxVersion = tls.VersionTLS12
	s.accepted(1, old)
	s.accepted(2, s.client(cert))
	older := s.client(cert)
	older.MinVersion, older.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	s.refused(3, older)
	weak := old.Clone()
	weak.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA}
	s.refused(3, weak)
}

func TestX02BadCertificatesAreRefused(t *testing.T) {
	s := newSouthbound(t)
	revoked := s.ca.issue("revoked one", ecKey(t), nil)
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked.Leaf.SerialNumber, RevocationTime: time.Now()}},
	}, s.ca.cert, s.ca.key)
	require.NoError(t, err)
	s.cfg.TLSCRL = s.path("crl")
	writePEM(t, s.cfg.TLSCRL, "X509 CRL", crl)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	own := newAuthority(t, "self-signed one")
	for name, cert := range map[string]tls.Certificate{
		"of another authority": newAuthority(t, "strangers").issue("stranger", ecKey(t), nil),
		"self-signed one":      {Certificate: [][]byte{own.cert.Raw}, PrivateKey: own.key, Leaf: own.cert},
		"expired one":          s.ca.issue("expired one", ecKey(t), func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"not yet valid":        s.ca.issue("not yet valid", ecKey(t), func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
		"not for clients": s.ca.issue("not for clients", ecKey(t), func(c *x509.Certificate) {
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		}),
		"short key":   s.ca.issue("short key", weak, nil),
		"revoked one": revoked,
	} {
		// Without the name of the authority that is asked for the client shows what it has.
		conf := s.client()
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
		sum := sha256.Sum256(cert.Certificate[0])
		t.Run(name, func(t *testing.T) {
			held := s.t
			s.t = t
			defer func() { s.t = held }()
			s.start() // a controller of its own: the alarm is due at once
			s.refused(1, conf, cert.Leaf.Subject.CommonName, hex.EncodeToString(sum[:]))
			require.Eventually(t, func() bool { return s.core.Counters().Refused["tls"] == 1 }, 10*time.Second, time.Millisecond)
		})
	}
	s.start()
	s.refused(1, s.client())
	s.refused(1, nil) // plain TCP at a TLS port
	require.Eventually(t, func() bool { return s.core.Counters().Refused["tls"] == 2 }, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return s.core.Counters().Open == 0 }, time.Second, time.Millisecond)
	s.accepted(1, s.client(s.ca.issue("a good one", ecKey(t), nil)))
}

// pipes is a listener of connections within the process.
type pipes chan net.Conn

func (p pipes) Accept() (net.Conn, error) {
	if nc, ok := <-p; ok {
		return nc, nil
	}
	return nil, net.ErrClosed
}
func (p pipes) Close() error   { close(p); return nil }
func (p pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// TestX02RevokedWhileConnected revokes the certificate of a switch that is connected, then
// takes its authority away, and lets time pass until it has expired.
func TestX02RevokedWhileConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSouthbound(t)
		revoke := func(serials ...*big.Int) {
			list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour)}
			for _, n := range serials {
				list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: time.Now()})
			}
			crl, err := x509.CreateRevocationList(rand.Reader, list, s.ca.cert, s.ca.key)
			require.NoError(t, err)
			writePEM(t, s.cfg.TLSCRL, "X509 CRL", crl)
		}
		s.cfg.TLSCRL = s.path("crl")
		revoke()
		door := make(pipes)
		s.ln = door
		s.start()
		connect := func(dpid ofproto.DPID, cert tls.Certificate) {
			here, there := net.Pipe()
			door <- there
			conf := s.client(cert)
			conf.ServerName = "127.0.0.1"
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = simswitch.New(simswitch.Options{DPID: dpid, Ports: []ofproto.Port{1}}).Serve(s.t.Context(), tls.Client(here, conf))
			}()
			t.Cleanup(func() { here.Close(); <-ended })
			time.Sleep(time.Second)
			require.NotEmpty(t, s.connected(dpid))
		}
		stolen, good := s.ca.issue("stolen", ecKey(t), nil), s.ca.issue("good", ecKey(t), nil)
		connect(1, stolen)
		connect(2, good)
		time.Sleep(10 * time.Minute)
		require.NotContains(t, s.log.String(), "ALARM")
		revoke(stolen.Leaf.SerialNumber)
		time.Sleep(time.Minute)
		require.Empty(t, s.connected(1), "it is revoked")
		require.Contains(t, s.log.String(), "it is revoked")
		require.Contains(t, s.log.String(), "CN=stolen")
		require.NotEmpty(t, s.connected(2))
		require.NotContains(t, s.log.String(), "refused when it connects again")

		more := newAuthority(t, "more switches")
		writePEM(t, s.cfg.TLSCA, "CERTIFICATE", s.ca.cert.Raw, more.cert.Raw)
		time.Sleep(2 * time.Minute)
		require.NotContains(t, s.log.String(), "refused when it connects again", "both stand")
		time.Sleep(time.Hour)
		require.Contains(t, s.log.String(), "expired or is not yet valid")
		require.Contains(t, s.log.String(), "refused when it connects again")
		require.NotEmpty(t, s.connected(2), "it serves on")
	})
}

func TestX03CertificateNamesItsDatapath(t *testing.T) {
	s := newSouthbound(t)
	s.start()
	byURI := s.ca.issue("switch", ecKey(t), named("fairlead:dpid:00000000000000aa"))
	byName := s.ca.issue("edge-00000000000000BB id:3b0c1b6e-3a4e-4f7c-9d5e-1a2b3c4d5e6f", ecKey(t), nil)
	bad := s.ca.issue("switch", ecKey(t), named("fairlead:dpid:aa"))
	first := s.accepted(0xaa, s.client(byURI))
	s.accepted(0xbb, s.client(byName))
	s.refused(0xaa, s.client(byName), "dpid=00000000000000aa", "it names [00000000000000bb]")
	s.refused(0xbb, s.client(byURI))
	s.refused(0xcc, s.client(byURI))
	s.refused(0xdd, s.client(bad), "16 hexadecimal digits")
	require.Equal(t, first.LocalAddr().String(), s.connected(0xaa), "the switch itself is undisturbed")

	// A new key in a certificate that names the datapath is as good.
	first.Close()
	require.Eventually(t, func() bool { return s.connected(0xaa) == "" }, 10*time.Second, time.Millisecond)
	s.accepted(0xaa, s.client(s.ca.issue("switch", ecKey(t), named("fairlead:dpid:00000000000000aa"))))
	require.Eventually(t, func() bool { return s.core.Counters().Refused["certificate"] == 4 }, 10*time.Second, time.Millisecond)
}

func TestX03FirstKeyIsBound(t *testing.T) {
	s := newSouthbound(t)
	s.start()
	key := ecKey(t)
	a, b := s.ca.issue("switch a", key, nil), s.ca.issue("switch b", ecKey(t), nil)
	s.accepted(1, s.client(a)).Close()
	require.Eventually(t, func() bool { return s.connected(1) == "" }, 10*time.Second, time.Millisecond)
	s.refused(1, s.client(b), "another key", "switch a", "switch b")
	s.accepted(2, s.client(a)) // Open vSwitch shows one certificate for all its bridges
	s.accepted(3, s.client(b))
	// Another certificate of the same key is as good.
	s.accepted(1, s.client(s.ca.issue("switch a, renewed", key, nil))).Close()
	require.Eventually(t, func() bool { return s.connected(1) == "" }, 10*time.Second, time.Millisecond)

	require.NoError(t, s.core.Unbind(t.Context(), 1))
	require.ErrorIs(t, s.core.Unbind(t.Context(), 1), controller.ErrNoBinding)
	s.accepted(1, s.client(b))
	bound, ok := s.core.BindingOf(1)
	require.True(t, ok)
	require.Equal(t, "CN=switch b", bound.Subject)
}

// TestX06InANamespace is the same where no address but that of a namespace is to be had.
func TestX06InANamespace(t *testing.T) {
	if os.Getenv(namespaceVariable) == "" {
		inNamespace(t)
		return
	}
	TestX06PlainTCPFromElsewhereIsRefused(t)
}

// TestX02SHA1 shows a certificate that is signed by way of SHA-1.
func TestX02SHA1(t *testing.T) {
	s := newSouthbound(t)
	s.cfg.TLSMin = "1.2"
	s.start()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(s.ca.key)
	require.NoError(t, err)
	writePEM(t, filepath.Join(dir, "ca.key"), "PRIVATE KEY", key)
	for _, args := range [][]string{
		{"req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=by SHA-1", "-keyout", "key", "-out", "csr"},
		{"x509", "-req", "-in", "csr", "-CA", s.cfg.TLSCA, "-CAkey", "ca.key", "-set_serial", "7", "-days", "1", "-sha1", "-out", "cert"},
	} {
		cmd := exec.Command("openssl", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "cert"), filepath.Join(dir, "key"))
	require.NoError(t, err)
	require.Equal(t, x509.ECDSAWithSHA1, cert.Leaf.SignatureAlgorithm)
	conf := s.client()
	conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }
	s.refused(1, conf, "by SHA-1", "insecure algorithm")
}

// TestX02Renegotiation asks for another handshake within TLS 1.2, as openssl does.
func TestX02Renegotiation(t *testing.T) {
	s := newSouthbound(t)
	s.cfg.TLSMin = "1.2"
	s.start()
	cert := s.ca.issue("switch", ecKey(t), nil)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	dir := t.TempDir()
	writePEM(t, filepath.Join(dir, "key"), "PRIVATE KEY", key)
	writePEM(t, filepath.Join(dir, "cert"), "CERTIFICATE", cert.Certificate[0])
	cmd := exec.Command("openssl", "s_client", "-connect", s.addr, "-tls1_2", "-cert", filepath.Join(dir, "cert"), "-key", filepath.Join(dir, "key"), "-CAfile", s.cfg.TLSCA)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	var out syncBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(out.String(), "Verify return code") }, 10*time.Second, 10*time.Millisecond)
	_, err = in.Write([]byte("R\n"))
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		require.Error(t, err, "%s", &out)
	case <-time.After(20 * time.Second):
		_ = cmd.Process.Kill()
		t.Fatalf("the connection stays: %s", &out)
	}
	require.Contains(t, out.String(), "RENEGOTIATING")
	require.Regexp(t, "no renegotiation|unexpected message", out.String())
	require.Eventually(t, func() bool { return s.core.Counters().Open == 0 }, 10*time.Second, time.Millisecond)
}

// A datapath id that came with a certificate is not to be had without.
func TestX04NoFallBackToPlainTCP(t *testing.T) {
	s := newSouthbound(t)
	db, err := store.Open(t.TempDir(), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	s.bindings = state{db}
	s.start()
	s.accepted(1, s.client(s.ca.issue("switch", ecKey(t), nil)))
	s.cfg = Config{}
	s.start() // without TLS
	s.refused(1, nil, "plain TCP")
	s.accepted(2, nil)
	require.NoError(t, s.core.Unbind(t.Context(), 1))
	s.accepted(1, nil)
}

// What is in flight is either whole or ends the connection.
func TestX04TamperedStreamEnds(t *testing.T) {
	s := newSouthbound(t)
	s.start()
	inner := s.addr
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	flip := make(chan struct{})
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", inner)
		if err != nil {
			nc.Close()
			return
		}
		go func() { _, _ = io.Copy(nc, up); nc.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := nc.Read(buf)
			if err != nil {
				up.Close()
				return
			}
			select {
			case <-flip:
				buf[n-1] ^= 1
			default:
			}
			if _, err := up.Write(buf[:n]); err != nil {
				nc.Close()
				return
			}
		}
	}()
	s.addr = ln.Addr().String()
	sw, _, ended := s.connect(1, s.client(s.ca.issue("switch", ecKey(t), nil)))
	require.Eventually(t, func() bool { return s.connected(1) != "" }, 10*time.Second, time.Millisecond)
	close(flip)
	sw.SetPort(2, true)
	<-ended
	require.Eventually(t, func() bool { return s.connected(1) == "" }, 10*time.Second, time.Millisecond)
}

func TestX06PlainTCPFromElsewhereIsRefused(t *testing.T) {
	address, ok := elsewhere(t)
	if !ok {
		return
	}
	for _, allowed := range []bool{false, true} {
		s := &southbound{t: t, cfg: Config{OpenFlowInsecure: allowed}}
		var err error
		s.ln, err = net.Listen("tcp", net.JoinHostPort(address, "0"))
		require.NoError(t, err)
		s.start()
		if allowed {
			s.accepted(1, nil)
			s.accepted(2, nil)
			require.Equal(t, 1, strings.Count(s.log.String(), "INSECURE"), "said once")
			continue
		}
		s.refused(1, nil, "plain TCP from another machine refused")
		require.Eventually(t, func() bool { return s.core.Counters().Refused["plain_tcp"] == 1 }, 10*time.Second, time.Millisecond)
	}
}

// namespaceVariable says that the test runs in a network of its own.
const namespaceVariable = "FAIRLEAD_TEST_NAMESPACE"

// elsewhere returns an address that is not loopback, of this machine or, where it has
// none, of a network namespace that the test is run again in: then ok is false.
func elsewhere(t *testing.T) (address string, ok bool) {
	t.Helper()
	if os.Getenv(namespaceVariable) != "" {
		for _, args := range [][]string{{"link", "set", "lo", "up"}, {"addr", "add", "192.0.2.1/32", "dev", "lo"}} {
			out, err := exec.Command("ip", args...).CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		return "192.0.2.1", true
	}
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String(), true
		}
	}
	inNamespace(t)
	return "", false
}

// inNamespace runs the test again in a network namespace of its own; who is not root
// is it there, where the machine lets users have namespaces.
func inNamespace(t *testing.T) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run", "^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), namespaceVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
	}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, syscall.EPERM) {
		t.Skip("this machine lets nobody but root have a network namespace")
	}
	require.NoError(t, err, "%s", out)
}

func TestCertificatesAreReadAgain(t *testing.T) {
	s := newSouthbound(t)
	s.start()
	cert := s.ca.issue("switch", ecKey(t), nil)
	first := s.accepted(1, s.client(cert)).(*tls.Conn)
	require.Equal(t, "controller", first.ConnectionState().PeerCertificates[0].Subject.CommonName)

	// A certificate without its key: the last pair stands.
	other := s.ca.issue("half", ecKey(t), nil)
	writePEM(t, s.cfg.TLSCert, "CERTIFICATE", other.Certificate[0])
	second := s.accepted(2, s.client(cert)).(*tls.Conn)
	require.Equal(t, "controller", second.ConnectionState().PeerCertificates[0].Subject.CommonName)
	require.Contains(t, s.log.String(), "cannot be used")

	s.renew("renewed")
	third := s.accepted(3, s.client(cert)).(*tls.Conn)
	require.Equal(t, "renewed", third.ConnectionState().PeerCertificates[0].Subject.CommonName)

	// Another authority for switches, at once.
	more := newAuthority(t, "more switches")
	writePEM(t, s.cfg.TLSCA, "CERTIFICATE", more.cert.Raw)
	s.refused(4, s.client(cert))
	s.accepted(4, s.client(more.issue("switch", ecKey(t), nil)))
	require.NotEmpty(t, s.connected(1), "who was connected stays")
}

func TestWeakOwnCertificateIsRefused(t *testing.T) {
	s := newSouthbound(t)
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	cert := s.ca.issue("weak", key, nil)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	writePEM(t, s.cfg.TLSCert, "CERTIFICATE", cert.Certificate[0])
	writePEM(t, s.cfg.TLSKey, "PRIVATE KEY", der)
	_, _, err = s.cfg.southboundTLS(slog.Default())
	require.ErrorContains(t, err, "1024 bits")
}

func TestCRLMustBeOfTheAuthority(t *testing.T) {
	s := newSouthbound(t)
	other := newAuthority(t, "strangers")
	crl, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour),
	}, other.cert, other.key)
	require.NoError(t, err)
	s.cfg.TLSCRL = s.path("crl")
	writePEM(t, s.cfg.TLSCRL, "X509 CRL", crl)
	_, _, err = s.cfg.southboundTLS(slog.Default())
	require.ErrorContains(t, err, "none of the authorities")
}
