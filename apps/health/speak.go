package health

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// maxHead bounds what is read of a response.
const maxHead = 4096

// request is the HTTP request of a probe.
func request(t Target) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: fairlead\r\nAccept: */*\r\nConnection: close\r\n", t.Method, t.Path, t.host())
	if t.Method != "GET" && t.Method != "HEAD" {
		b.WriteString("Content-Length: 0\r\n")
	}
	b.WriteString("\r\n")
	return b.Bytes()
}

// host is the Host header.
func (t Target) host() string {
	switch {
	case t.Host != "":
		return t.Host
	case t.Type == HTTP && t.Port == 80 || t.Type == HTTPS && t.Port == 443:
		if t.Address.Is6() {
			return "[" + t.Address.String() + "]"
		}
		return t.Address.String()
	}
	return netip.AddrPortFrom(t.Address, t.Port).String()
}

// serverName is the name that TLS asks for and looks for in the certificate.
func (t Target) serverName() string {
	if t.Host == "" {
		return t.Address.String()
	}
	if host, _, err := net.SplitHostPort(t.Host); err == nil {
		return host
	}
	return t.Host
}

// judge looks at what has come of a response: done when it is a success, an error when
// it is none, neither while more is needed.
func judge(t Target, head []byte) (done bool, err error) {
	for {
		line, rest, whole := bytes.Cut(head, []byte("\n"))
		if !whole {
			if len(head) >= maxHead {
				return false, errors.New("the answer is not HTTP")
			}
			return false, nil
		}
		version, status, _ := strings.Cut(strings.TrimRight(string(line), "\r"), " ")
		number, _, _ := strings.Cut(status, " ")
		code, err := strconv.Atoi(number)
		if err != nil || len(number) != 3 || !strings.HasPrefix(version, "HTTP/") {
			return false, errors.New("the answer is not HTTP")
		}
		if code >= 200 || expects(t.ExpectedCodes, code) {
			if !expects(t.ExpectedCodes, code) {
				return false, fmt.Errorf("HTTP status %d, not %s", code, t.ExpectedCodes)
			}
			return true, nil
		}
		// 1xx: the answer proper comes after it (RFC 9110 §15.2).
		_, head, whole = bytes.Cut(rest, []byte("\r\n\r\n"))
		if !whole {
			if len(rest) >= maxHead {
				return false, errors.New("the answer is not HTTP")
			}
			return false, nil
		}
	}
}

// speak makes the request on a connection and judges the answer.
func speak(conn net.Conn, t Target) error {
	if _, err := conn.Write(request(t)); err != nil {
		return err
	}
	head := make([]byte, 0, maxHead)
	for {
		n, err := conn.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if n > 0 {
			if done, err := judge(t, head); done || err != nil {
				return err
			}
		}
		switch {
		case isTimeout(err):
			return err
		case err != nil:
			return errClosed
		case len(head) == cap(head):
			return errors.New("the answer is not HTTP")
		}
	}
}

// speakTLS does so over TLS.
func speakTLS(ctx context.Context, conn net.Conn, t Target) error {
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	secure := tls.Client(conn, &tls.Config{ServerName: t.serverName(), InsecureSkipVerify: t.TLSInsecure})
	if err := secure.HandshakeContext(ctx); err != nil {
		if isTimeout(err) {
			return err
		}
		return fmt.Errorf("TLS: %w", err)
	}
	return speak(secure, t)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}
