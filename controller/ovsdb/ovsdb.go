// Package ovsdb takes bridges of Open vSwitch over and gives them back, by way of the
// database that configures them (RFC 7047, ovs-vswitchd.conf.db(5)).
//
// A Client keeps one replica of what concerns bridges in the database at one endpoint:
// it connects again for ever, starts each connection from an empty replica, and
// compares the replica with the database all the time, so that a monitor that went
// silent is noticed. Hosts has a Client for each endpoint in use, adopts and releases
// bridges there, and answers which interface is behind which OpenFlow port.
//
// The notation, the schema and the mapping of rows to Go values are libovsdb's; this
// package is the only one that imports it. Its client is not used: it reads messages
// of any size, and what a hostile server sends can make it panic on goroutines of its
// own (docs/decisions/0010-ovsdb.md).
package ovsdb

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// database is the one that ovs-vswitchd is configured by.
const database = "Open_vSwitch"

// defaultPort is where OVSDB listens when an endpoint names no port (RFC 7047 §1.2,
// IANA).
const defaultPort = 6640

// Endpoint is where an OVSDB server listens, in the syntax of ovsdb(7): unix:PATH,
// tcp:HOST:PORT or ssl:HOST:PORT. IPv6 addresses are in brackets. It is comparable, and
// two that are equal are the same place.
type Endpoint string

// ParseEndpoint checks an endpoint and writes it in full.
func ParseEndpoint(s string) (Endpoint, error) {
	scheme, rest, _ := strings.Cut(s, ":")
	switch scheme {
	case "unix":
		if !strings.HasPrefix(rest, "/") {
			return "", fmt.Errorf("ovsdb: parse endpoint: %q has no absolute path", s)
		}
		if len(rest) > 107 || strings.ContainsRune(rest, 0) { // sun_path of unix(7)
			return "", fmt.Errorf("ovsdb: parse endpoint: %q is no path of a socket", s)
		}
		return Endpoint(s), nil
	case "tcp", "ssl":
		address, err := hostPort(rest)
		if err != nil {
			return "", fmt.Errorf("ovsdb: parse endpoint: %q: %w", s, err)
		}
		return Endpoint(scheme + ":" + address), nil
	}
	return "", fmt.Errorf("ovsdb: parse endpoint: %q is none of unix:PATH, tcp:HOST:PORT, ssl:HOST:PORT", s)
}

var errNoHost = errors.New("it names no host")

func hostPort(s string) (string, error) {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		if host, port, err = net.SplitHostPort(s + ":" + strconv.Itoa(defaultPort)); err != nil {
			return "", errors.New("it is not HOST:PORT")
		}
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", fmt.Errorf("%q is not a port number", port)
	}
	if host == "" || strings.ContainsAny(host, "/ \t\r\n") {
		return "", errNoHost
	}
	if a, err := netip.ParseAddr(host); err == nil {
		host = a.String()
	}
	return net.JoinHostPort(host, strconv.FormatUint(n, 10)), nil
}

// dialed is the network and the address of an endpoint for net.Dialer.
func (e Endpoint) dialed() (network, address string, tls bool) {
	scheme, rest, _ := strings.Cut(string(e), ":")
	if scheme == "unix" {
		return "unix", rest, false
	}
	return "tcp", rest, scheme == "ssl"
}

// ParseController checks the target of an OpenFlow controller: tcp:ADDRESS:PORT or
// ssl:ADDRESS:PORT, an address and not a name (ovs-vswitchd.conf.db(5), Controller).
func ParseController(s string) error {
	scheme, rest, _ := strings.Cut(s, ":")
	if scheme != "tcp" && scheme != "ssl" {
		return fmt.Errorf("%q is none of tcp:ADDRESS:PORT, ssl:ADDRESS:PORT", s)
	}
	a, err := netip.ParseAddrPort(rest)
	if err != nil || a.Port() == 0 || a.Addr().IsUnspecified() {
		return fmt.Errorf("%q has no address and port that a switch can connect to", s)
	}
	return nil
}
