package controller

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"

	"github.com/fairlead/fairlead/ofproto"
)

// Who a switch is, is said by its certificate. One that names datapath ids, as a URI
// fairlead:dpid:0000000000000001 or as sixteen hexadecimal digits that stand alone in
// its common name, is good for these and no others: its authority has vouched for
// them. One that names none is good for the datapath ids it was first seen with: each
// is bound to the certificate's public key, and refused to any other key, and to plain
// TCP, until the binding is deleted.

// Binding is the certificate that a datapath id is bound to.
type Binding struct {
	Key     string    `json:"key"`     // SHA-256 of the public key (SubjectPublicKeyInfo), hexadecimal
	Subject string    `json:"subject"` // of the certificate first seen with it
	Since   time.Time `json:"since"`
}

// Bindings keeps bindings over a restart.
type Bindings interface {
	// Bindings returns all that are stored.
	Bindings(ctx context.Context) (map[ofproto.DPID]Binding, error)
	// Bind stores one durably.
	Bind(ctx context.Context, dpid ofproto.DPID, b Binding) error
	// Unbind deletes one; it is no error when there is none.
	Unbind(ctx context.Context, dpid ofproto.DPID) error
}

// maxBindings bounds what holders of good certificates can make the store keep, and
// maxBindingsOfKey how many ids one of them can take that nobody has vouched for. A
// hypervisor has one certificate for all its bridges.
const (
	maxBindings      = 1 << 16
	maxBindingsOfKey = 256
)

// tlsTimeout is how long the TLS handshake may take.
const tlsTimeout = 10 * time.Second

var (
	errInsecure = errors.New("plain TCP from another machine is not allowed")
	errTLS      = errors.New("TLS handshake failed")
	errIdentity = errors.New("the certificate is not good for this datapath id")
)

// errUnbound ends a session whose certificate was forgotten.
var errUnbound = errors.New("its certificate was forgotten")

// ErrNoBinding says that no certificate is bound to a switch.
var ErrNoBinding = errors.New("controller: no certificate is bound to the switch")

// bindings is the bindings in memory.
type bindings struct {
	store Bindings // nil: they last until the process ends
	mu    sync.Mutex
	of    map[ofproto.DPID]Binding
}

// check says whether a certificate (nil: plain TCP) may speak for a datapath id, and
// binds the id to it if it is the first.
func (b *bindings) check(ctx context.Context, dpid ofproto.DPID, cert *x509.Certificate, now time.Time) error {
	if cert == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if bound, ok := b.of[dpid]; ok {
			return fmt.Errorf("%w: it is bound to the key of %q, and this is plain TCP", errIdentity, bound.Subject)
		}
		return nil
	}
	names, err := datapathsOf(cert)
	if err != nil {
		return fmt.Errorf("%w: %w", errIdentity, err)
	}
	if len(names) > 0 && !slices.Contains(names, dpid) {
		return fmt.Errorf("%w: it names %s", errIdentity, names)
	}
	now = now.UTC().Truncate(time.Second)
	bind := Binding{Key: keyOf(cert), Subject: subjectOf(cert), Since: now}
	b.mu.Lock()
	bound, ok := b.of[dpid]
	switch {
	case ok && bound.Key == bind.Key:
		b.mu.Unlock()
		return nil
	case ok && len(names) == 0:
		b.mu.Unlock()
		return fmt.Errorf("%w: it is bound to another key, that of %q since %s", errIdentity, bound.Subject, bound.Since.Format(time.RFC3339))
	case !ok && len(b.of) >= maxBindings:
		b.mu.Unlock()
		return fmt.Errorf("%w: %d datapath ids are bound already", errIdentity, maxBindings)
	case !ok && len(names) == 0 && b.ofKey(bind.Key) >= maxBindingsOfKey:
		b.mu.Unlock()
		return fmt.Errorf("%w: %d datapath ids are bound to its key already; one that names them is good for more", errIdentity, maxBindingsOfKey)
	}
	b.of[dpid] = bind
	b.mu.Unlock()
	if b.store == nil {
		return nil
	}
	if err := b.store.Bind(ctx, dpid, bind); err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.of[dpid] == bind {
			if delete(b.of, dpid); ok {
				b.of[dpid] = bound
			}
		}
		return fmt.Errorf("controller: bind certificate: %w", err)
	}
	return nil
}

// ofKey counts the datapath ids bound to a key. The caller holds mu.
func (b *bindings) ofKey(key string) (n int) {
	for _, bound := range b.of {
		if bound.Key == key {
			n++
		}
	}
	return n
}

// get returns the binding of a datapath id.
func (b *bindings) get(dpid ofproto.DPID) (Binding, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.of[dpid]
	return v, ok
}

// BindingOf returns the certificate that a datapath id is bound to. It is safe for
// concurrent use.
func (c *Controller) BindingOf(dpid ofproto.DPID) (Binding, bool) { return c.bindings.get(dpid) }

// Unbind forgets the certificate that a datapath id is bound to, so that the next one
// it connects with is bound, and ends the session that was opened with it.
// ErrNoBinding when there is none.
func (c *Controller) Unbind(ctx context.Context, dpid ofproto.DPID) error {
	b := &c.bindings
	if _, ok := b.get(dpid); !ok {
		return ErrNoBinding
	}
	if b.store != nil {
		if err := b.store.Unbind(ctx, dpid); err != nil {
			return fmt.Errorf("controller: unbind certificate: %w", err)
		}
	}
	b.mu.Lock()
	delete(b.of, dpid)
	b.mu.Unlock()
	c.log.Info("certificate of a switch forgotten", "dpid", dpid.String())
	return c.Do(ctx, func(*Context) {
		if s := c.sessions[dpid]; s != nil && s.cert != nil {
			s.conn.CloseWith(errUnbound)
		}
	})
}

// dpidScheme begins the URI that names a datapath id in a certificate.
const dpidScheme = "fairlead"

// datapathsOf returns the datapath ids that a certificate names.
func datapathsOf(cert *x509.Certificate) (names []ofproto.DPID, err error) {
	for _, u := range cert.URIs {
		if u.Scheme != dpidScheme {
			continue
		}
		hexits, ok := strings.CutPrefix(u.Opaque, "dpid:")
		d, good := parseDPID(hexits)
		if !ok || !good {
			return nil, fmt.Errorf("its URI %q is not %s:dpid: and 16 hexadecimal digits", u, dpidScheme)
		}
		names = append(names, d)
	}
	apart := func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	for _, word := range strings.FieldsFunc(cert.Subject.CommonName, apart) {
		if d, ok := parseDPID(word); ok {
			names = append(names, d)
		}
	}
	return names, nil
}

func parseDPID(s string) (ofproto.DPID, bool) {
	if len(s) != 16 {
		return 0, false
	}
	n, err := strconv.ParseUint(s, 16, 64)
	return ofproto.DPID(n), err == nil
}

func keyOf(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// subjectOf names the subject of a certificate, cut to what a log line bears: whoever
// made the certificate chose it.
func subjectOf(cert *x509.Certificate) string {
	s := cert.Subject.String()
	return s[:min(len(s), 200)]
}

// certificateLog describes a certificate for the log.
func certificateLog(cert *x509.Certificate) slog.Attr {
	sum := sha256.Sum256(cert.Raw)
	return slog.Group("certificate", "subject", subjectOf(cert), "issuer", cert.Issuer.String()[:min(len(cert.Issuer.String()), 200)],
		"serial", cert.SerialNumber.Text(16), "sha256", hex.EncodeToString(sum[:]), "not_after", cert.NotAfter.Format(time.RFC3339))
}

// CertificateError is the refusal of a certificate by a verification of one's own
// (tls.Config.VerifyConnection), with the certificate that the alarm then names.
type CertificateError struct {
	Certificate *x509.Certificate
	Reason      string
}

func (e *CertificateError) Error() string {
	return fmt.Sprintf("certificate of %q: %s", subjectOf(e.Certificate), e.Reason)
}

// secure makes a connection as safe as it is to be, before a byte of OpenFlow is
// read: the TLS handshake where the listener asks for one; otherwise plain TCP, from
// this machine or where that is allowed. It returns the peer's certificate, nil for
// plain TCP.
func (c *Controller) secure(ctx context.Context, nc net.Conn) (*x509.Certificate, error) {
	tc, ok := nc.(*tls.Conn)
	if !ok {
		if peerAddr(nc.RemoteAddr()).IsLoopback() {
			return nil, nil
		}
		if !c.AllowPlain {
			c.alarm("plain", "plain TCP from another machine refused", "peer", nc.RemoteAddr().String())
			return nil, errInsecure
		}
		c.warnPlain.Do(func() {
			c.log.Warn("INSECURE: switches on other machines speak plain TCP: nobody's identity is checked", "first", nc.RemoteAddr().String())
		})
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, tlsTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		args := []any{"peer", nc.RemoteAddr().String(), "error", err}
		var unverified *tls.CertificateVerificationError
		var own *CertificateError
		switch {
		case errors.As(err, &unverified) && len(unverified.UnverifiedCertificates) > 0:
			args = append(args, certificateLog(unverified.UnverifiedCertificates[0]))
		case errors.As(err, &own):
			args = append(args, certificateLog(own.Certificate))
		}
		c.alarm("tls "+peerAddr(nc.RemoteAddr()).String(), "TLS handshake refused", args...)
		return nil, fmt.Errorf("%w: %w", errTLS, err)
	}
	certs := tc.ConnectionState().PeerCertificates
	if len(certs) == 0 {
		return nil, fmt.Errorf("%w: the switch shows no certificate", errTLS)
	}
	return certs[0], nil
}

// recheck ends a session whose certificate has been revoked since it began. One that has
// grown old, or whose authority is not in the file any more, is told: without a controller
// the switch would be worse off, and a file that is wrong must not cut off all of them.
func (s *session) recheck() error {
	tc, ok := s.entry.nc.(*tls.Conn)
	if !ok || s.c.Recheck == nil {
		return nil
	}
	err := s.c.Recheck(tc.ConnectionState())
	if err == nil {
		return nil
	}
	text := "a connected switch is refused when it connects again"
	var own *CertificateError
	if errors.As(err, &own) {
		text = "a connected switch is disconnected"
		err = fmt.Errorf("%w: %w", errIdentity, err)
	}
	s.c.alarm("recheck "+s.dpid.String(), text, "dpid", s.dpid.String(), "peer", s.peer.String(), "error", err, certificateLog(s.cert))
	if own == nil {
		return nil
	}
	return err
}

// alarmEvery is how often one alarm is repeated at most.
const alarmEvery = time.Minute

// alarms remembers when each was logged.
type alarms struct {
	mu   sync.Mutex
	seen map[string]limitedState
}

// alarm logs what an operator must see: at once, and then once a minute for each key
// with the number held back.
func (c *Controller) alarm(key, text string, args ...any) {
	now := time.Now()
	a := &c.alarms
	a.mu.Lock()
	st, ok := a.seen[key]
	if ok && now.Sub(st.at) < alarmEvery {
		st.held++
		a.seen[key] = st
		a.mu.Unlock()
		return
	}
	if a.seen == nil || len(a.seen) >= 4096 {
		a.seen = map[string]limitedState{}
	}
	a.seen[key] = limitedState{at: now}
	a.mu.Unlock()
	if st.held > 0 {
		args = append(args, "held_back", st.held)
	}
	c.log.Error("ALARM: "+text, args...)
}
