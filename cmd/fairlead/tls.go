package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/fairlead/fairlead/controller"
)

// tlsFiles is the TLS of one listener, made of files that are read again when they
// have changed: a certificate is renewed without a restart. Connections that are open
// keep what they began with.
type tlsFiles struct {
	cert, key string
	ca        string // whose certificates peers must show; empty: they show none
	crl       string // certificates of ca that are revoked; may be empty
	least     uint16 // TLS version
	log       *slog.Logger

	mu     sync.Mutex
	stamp  string // of the files that conf was made of
	conf   *tls.Config
	failed string // last error logged
}

// strongSuites are those of TLS 1.2 with forward secrecy and authenticated encryption;
// TLS 1.3 has no others.
var strongSuites = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// config reads the files and returns a configuration that follows them.
func (f *tlsFiles) config() (*tls.Config, error) {
	conf, err := f.current()
	if err != nil {
		return nil, err
	}
	conf = conf.Clone()
	conf.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return f.current() }
	return conf, nil
}

// current returns the configuration of the files as they are now. While they make
// none, as when a certificate is there and its key is not yet, the last one stands.
func (f *tlsFiles) current() (*tls.Config, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	stamp := f.stampOf()
	if f.conf != nil && stamp == f.stamp {
		return f.conf, nil
	}
	conf, err := f.load()
	switch {
	case err == nil:
		if f.conf != nil {
			f.log.Info("TLS files read again", slog.String("cert", f.cert))
		}
		f.conf, f.stamp, f.failed = conf, stamp, ""
	case f.conf == nil:
		return nil, err
	case err.Error() != f.failed:
		f.failed = err.Error()
		f.log.Error("TLS files have changed and cannot be used; the last ones stand", "error", err)
	}
	return f.conf, nil
}

// stampOf changes when one of the files does.
func (f *tlsFiles) stampOf() string {
	var b strings.Builder
	for _, path := range []string{f.cert, f.key, f.ca, f.crl} {
		if path == "" {
			continue
		}
		info, err := os.Stat(path)
		if err != nil {
			fmt.Fprintf(&b, "%v;", err)
			continue
		}
		inode := uint64(0)
		if st, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = st.Ino
		}
		fmt.Fprintf(&b, "%d %d %d;", info.ModTime().UnixNano(), info.Size(), inode)
	}
	return b.String()
}

// load reads the files. Errors name the flag.
func (f *tlsFiles) load() (*tls.Config, error) {
	prefix := ""
	if f.ca == "" {
		prefix = "http-"
	}
	cert, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, fmt.Errorf("%stls-cert: %w", prefix, err)
	}
	if weak := weakness(cert.Leaf); weak != "" {
		return nil, fmt.Errorf("%stls-cert: %s: %s", prefix, f.cert, weak)
	}
	conf := &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   f.least,
		CipherSuites: strongSuites,
	}
	if f.ca == "" {
		return conf, nil
	}
	text, err := os.ReadFile(f.ca)
	if err != nil {
		return nil, fmt.Errorf("tls-ca: %w", err)
	}
	conf.ClientCAs = x509.NewCertPool()
	authorities, err := certificatesIn(text)
	if err != nil {
		return nil, fmt.Errorf("tls-ca: %s: %w", f.ca, err)
	}
	for _, a := range authorities {
		conf.ClientCAs.AddCert(a)
	}
	revoked, err := f.revocations(authorities)
	if err != nil {
		return nil, fmt.Errorf("tls-crl: %w", err)
	}
	conf.ClientAuth = tls.RequireAndVerifyClientCert
	// Every connection is verified in whole: a ticket would outlive its certificate's
	// revocation.
	conf.SessionTicketsDisabled = true
	conf.VerifyConnection = func(cs tls.ConnectionState) error { return verify(cs, revoked) }
	return conf, nil
}

func certificatesIn(text []byte) (certs []*x509.Certificate, err error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate in it")
	}
	return certs, nil
}

// revocation names a certificate by its issuer and serial number.
type revocation struct{ issuer, serial string }

// revocations reads the lists of revoked certificates, in PEM or one in DER. Each must
// be signed by one of the authorities.
func (f *tlsFiles) revocations(authorities []*x509.Certificate) (map[revocation]bool, error) {
	revoked := map[revocation]bool{}
	if f.crl == "" {
		return revoked, nil
	}
	text, err := os.ReadFile(f.crl)
	if err != nil {
		return nil, err
	}
	var lists [][]byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "X509 CRL" {
			lists = append(lists, block.Bytes)
		}
	}
	if len(lists) == 0 {
		lists = [][]byte{text}
	}
	for _, der := range lists {
		list, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.crl, err)
		}
		signed := false
		for _, a := range authorities {
			signed = signed || bytes.Equal(a.RawSubject, list.RawIssuer) && list.CheckSignatureFrom(a) == nil
		}
		if !signed {
			return nil, fmt.Errorf("%s: the list of %q is signed by none of the authorities", f.crl, list.Issuer)
		}
		for _, r := range list.RevokedCertificateEntries {
			revoked[revocation{string(list.RawIssuer), r.SerialNumber.String()}] = true
		}
	}
	return revoked, nil
}

// recheck says why an open connection would not be accepted now, by the files as they are.
func (f *tlsFiles) recheck(cs tls.ConnectionState) error {
	conf, err := f.current()
	if err != nil {
		return err
	}
	if err := conf.VerifyConnection(cs); err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err = cs.PeerCertificates[0].Verify(x509.VerifyOptions{
		Roots: conf.ClientCAs, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return err
}

// verify refuses what the verification of chains lets pass: weak keys and signatures,
// and revoked certificates.
func verify(cs tls.ConnectionState, revoked map[revocation]bool) error {
	var bad error
	for _, chain := range cs.VerifiedChains {
		if bad = verifyChain(chain, revoked); bad == nil {
			return nil
		}
	}
	if bad == nil {
		return errors.New("no verified certificate")
	}
	return bad
}

func verifyChain(chain []*x509.Certificate, revoked map[revocation]bool) error {
	for i, c := range chain {
		reason := weakness(c)
		switch {
		case reason != "":
		case i == len(chain)-1: // the authority itself, whose signature nobody needs
		case revoked[revocation{string(c.RawIssuer), c.SerialNumber.String()}]:
			reason = "it is revoked"
		}
		if reason == "" {
			continue
		}
		if i > 0 {
			reason = fmt.Sprintf("its authority %q: %s", c.Subject, reason)
		}
		return &controller.CertificateError{Certificate: chain[0], Reason: reason}
	}
	return nil
}

// weakness says why a certificate's key is not good enough, nothing when it is.
// Signatures made with SHA-1 and MD5 are refused by crypto/x509.
func weakness(c *x509.Certificate) string {
	switch key := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n < 2048 {
			return fmt.Sprintf("RSA key of %d bits: 2048 are the least", n)
		}
	case *ecdsa.PublicKey:
		if n := key.Curve.Params().BitSize; n < 256 {
			return fmt.Sprintf("ECDSA key of %d bits: 256 are the least", n)
		}
	case ed25519.PublicKey:
	default:
		return fmt.Sprintf("key of type %s", c.PublicKeyAlgorithm)
	}
	return ""
}
