//go:build e2e

package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/ovstest"
)

// object is a part of a document of the REST API.
type object = map[string]any

// modal is a document of a VIP in a mode, with a listener each for the same members;
// change may edit it.
func modal(mode string, listeners ...object) object {
	return object{"address": vip.String(), "mode": mode, "listeners": listeners}
}

// offer is a listener over members, with more fields of its pool.
func offer(protocol string, port uint16, list []memberDoc, pool ...object) object {
	p := object{"members": list}
	for _, more := range pool {
		for k, v := range more {
			p[k] = v
		}
	}
	return object{"protocol": protocol, "port": port, "pool": p}
}

// with returns a document with more fields.
func with(doc object, key string, value any) object {
	doc[key] = value
	return doc
}

// admin puts a member of the VIP "web" into an admin state and waits until the switches
// follow.
func (c *controller) admin(m memberDoc, state string) {
	c.t.Helper()
	c.must("PUT", memberPath("web", "tcp:80", m), object{"address": m.Address, "port": m.Port, "admin_state": state})
	c.serves("web")
}

// haveVIP gives hosts the VIP on their loopback, for mode dsr.
func haveVIP(t *testing.T, careful bool, hosts ...*host) {
	for _, h := range hosts {
		if careful {
			h.sysctl(t, "net/ipv4/conf/all/arp_ignore", "1")
			h.sysctl(t, "net/ipv4/conf/all/arp_announce", "2")
		}
		run(t, "ip", "-n", h.namespace.name, "addr", "add", vip.String()+"/32", "dev", "lo")
	}
}

// lineLab is n switches in a row with two hosts on each.
func lineLab(t *testing.T, n int) *lab {
	l := newLab(t)
	l.addSwitches(secure, n, 2)
	for i := 1; i < n; i++ {
		l.addLink(fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", i+1))
	}
	return l
}

// TestConntrackDrain asks that open connections of a member that drains all finish, and
// that no new one arrives there; that a removed member takes no others with it; and that
// down cuts.
func TestConntrackDrain(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 6)
	client, servers := l.hosts[0], l.hosts[1:]
	client.addAddresses(150, 20)
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.apply("web", modal("conntrack", offer("tcp", 80, members(8080, servers...))))
	sources := client.sources(2000, 1)
	first := client.requests(service(80), sources)
	t.Logf("2,000 connections over 5 members: %v, busiest %.3f of the mean", first.counts(), first.busiest(5))
	require.Len(t, first.counts(), 5)
	require.LessOrEqual(t, first.busiest(5), 1.3)

	drained := servers[0]
	var open []*session
	for held := 0; held < 200; {
		s, err := client.open(netip.AddrPort{}, service(80))
		require.NoError(t, err)
		t.Cleanup(s.close)
		open = append(open, s)
		if s.member == drained.name {
			held++
		}
	}
	c.admin(drained.member(8080), "drain")
	require.NotContains(t, client.requests(service(80), sources).counts(), drained.name, "new connections of a member that drains")
	kept := 0
	for _, s := range open {
		member, err := s.ask()
		require.NoError(t, err, "a connection of %s, while %s drains", s.member, drained.name)
		require.Equal(t, s.member, member)
		if member == drained.name {
			kept++
		}
	}
	t.Logf("%d connections open, of which %d of the member that drains: all go on", len(open), kept)
	require.GreaterOrEqual(t, kept, 200)

	gone := servers[1]
	c.must("DELETE", memberPath("web", "tcp:80", gone.member(8080)), nil)
	c.serves("web")
	kept = 0
	for _, s := range open {
		if s.member == gone.name {
			continue
		}
		member, err := s.ask()
		require.NoError(t, err, "a connection of %s, when %s is removed", s.member, gone.name)
		require.Equal(t, s.member, member)
		kept++
	}
	t.Logf("%s removed: %d connections of others go on", gone.name, kept)

	// Those of members that are cut are reset, and their ports can be used again.
	c.admin(drained.member(8080), "down")
	cut := 0
	for _, s := range open {
		if s.member != drained.name && s.member != gone.name {
			continue
		}
		_, err := s.ask()
		require.ErrorIs(t, err, syscall.ECONNRESET, "a connection of %s", s.member)
		s.close()
		if cut++; cut%4 == 0 {
			member, err := client.request(s.src, service(80))
			require.NoError(t, err)
			require.NotEqual(t, s.member, member)
		}
	}
	t.Logf("%s down: %d connections of it and of %s reset", drained.name, cut, gone.name)
}

// TestConntrackDrainTimeout asks that connections are cut when a member has drained for
// as long as it may, over a restart too.
func TestConntrackDrainTimeout(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 3)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.apply("web", modal("conntrack", offer("tcp", 80, members(8080, servers...), object{"drain_timeout": "6s"})))
	open := openSessions(client, 40)
	drained := servers[0]
	var s, other *session
	for _, o := range open {
		if o.member == drained.name {
			s = o
		} else {
			other = o
		}
	}
	require.NotNil(t, s)
	begin := time.Now()
	c.admin(drained.member(8080), "drain")
	c.stop()
	c.start()
	for time.Since(begin) < 5*time.Second {
		_, err := s.ask()
		require.NoError(t, err, "after %s", time.Since(begin))
	}
	eventually(t, 10*time.Second, "the connection is cut", func() bool {
		_ = s.conn.SetDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := s.conn.Write([]byte("GET / HTTP/1.1\r\nHost: vip\r\n\r\n")); err != nil {
			return true
		}
		response, err := http.ReadResponse(s.r, nil)
		if err == nil {
			_ = response.Body.Close()
			_, _ = s.r.Discard(s.r.Buffered())
		}
		return err != nil
	})
	t.Logf("cut after %s", time.Since(begin).Round(100*time.Millisecond))
	require.GreaterOrEqual(t, time.Since(begin), 6*time.Second)
	_, err := other.ask()
	require.NoError(t, err)
}

// servePeers answers requests with the host's name and the address they came from.
func (h *host) servePeers(ports ...uint16) {
	h.t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from, _ := netip.ParseAddrPort(r.RemoteAddr)
		_, _ = fmt.Fprintf(w, "%s %s", h.name, from.Addr().Unmap())
	})}
	h.t.Cleanup(func() { _ = server.Close() })
	for _, port := range ports {
		l, err := h.listen(fmt.Sprintf(":%d", port))
		require.NoError(h.t, err)
		go func() { _ = server.Serve(l) }()
	}
}

// serveEchoAt is serveEcho at one of the host's addresses.
func (h *host) serveEchoAt(at netip.AddrPort) {
	h.t.Helper()
	c, err := h.listenPacket(at.String())
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = c.WriteToUDPAddrPort(append(b[:n:n], h.name...), from)
			}
		}
	}()
}

// TestConntrackHairpin asks that members are clients of their own VIP, and hosts behind
// one port with members.
func TestConntrackHairpin(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"managed", "steer"} {
		t.Run(stage, func(t *testing.T) {
			l := singleLab(t, secure, 2)
			l.ovs.AddBridge(ovstest.Bridge{Name: "old", DPID: 99, FailMode: string(standalone)})
			l.addLink("s1", "old")
			servers := []*host{l.host("h1"), l.host("h2"), l.addHost("old"), l.addHost("old")}
			client := l.addHost("old")
			for _, h := range servers {
				h.servePeers(8080)
			}
			c := l.control(stage)
			l.sweep()
			c.apply("web", modal("conntrack", offer("tcp", 80, members(8080, servers...))))
			for _, h := range append(servers, client) {
				counts := h.requests(service(80), h.sources(200, 3)).counts()
				t.Logf("%s on %s: %v", h.name, h.at, counts)
				require.Len(t, counts, 4)
				for _, m := range servers {
					from := h.addr
					if m == h || m.at == "old" && h.at == "old" {
						from = vip
					}
					require.Contains(t, counts, m.name+" "+from.String())
				}
			}
		})
	}
}

// TestConntrackLine asks for every way through several switches: with and without
// source_nat, the states of connections where packets come in.
func TestConntrackLine(t *testing.T) {
	t.Parallel()
	for _, sourceNAT := range []bool{false, true} {
		t.Run(fmt.Sprintf("source_nat=%v", sourceNAT), func(t *testing.T) {
			l := lineLab(t, 3)
			var clients, servers []*host
			for i, h := range l.hosts {
				if i%2 == 0 {
					clients = append(clients, h)
				} else {
					servers = append(servers, h)
					h.servePeers(8080)
					h.serveEcho(5353)
				}
			}
			c := l.control("managed")
			c.linked()
			l.sweep()
			c.apply("web", with(modal("conntrack", offer("tcp", 80, members(8080, servers...)), offer("udp", 53, members(5353, servers...))), "source_nat", sourceNAT))
			for _, h := range slices.Concat(clients, servers) {
				counts := h.requests(service(80), h.sources(150, 4)).counts()
				t.Logf("%s on %s: %v", h.name, h.at, counts)
				require.Len(t, counts, 3)
				for _, m := range servers {
					from := h.addr
					if m == h || sourceNAT {
						from = vip
					}
					require.Contains(t, counts, m.name+" "+from.String())
				}
				require.Len(t, h.datagrams(service(53), h.sources(60, 5)).counts(), 3)
			}
			// Who speaks to a member itself hears from the member itself.
			_, err := clients[0].request(netip.AddrPort{}, netip.AddrPortFrom(servers[2].addr, 8080))
			require.NoError(t, err)
		})
	}
}

// TestConntrackBesideASegment has two domains on a legacy segment, each with its own
// connections: whom a switch is said not to serve, and nobody else, is not served.
func TestConntrackBesideASegment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addMachine("s1")
	l.addSwitch("s2", secure)
	one, two := []*host{l.addHost("s1"), l.addHost("s1")}, []*host{l.addHost("s2"), l.addHost("s2")}
	l.addBridge("old")
	l.bridgeTo("old", "s1")
	l.bridgeTo("old", "s2")
	legacy := []*host{l.addLegacyHost("old"), l.addLegacyHost("old")}
	for _, h := range []*host{one[1], two[1], legacy[1]} {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.wait("the segment is found", func() bool { s := c.segments(); return len(s) == 1 && s[0]["designated"] == 2 })
	l.sweep()
	for _, sourceNAT := range []bool{false, true} {
		for _, m := range []*host{one[1], two[1], legacy[1]} {
			what := fmt.Sprintf("source_nat=%v, member at %s", sourceNAT, m.at)
			c.apply("web", with(modal("conntrack", offer("tcp", 80, members(8080, m))), "source_nat", sourceNAT))
			reasons := map[string]string{}
			var v vipState
			c.rest("GET", "/v1/vips/web", nil, &v)
			for _, s := range v.Status.Switches {
				require.Equal(t, "installed", s.State)
				reasons[strings.TrimLeft(s.DPID, "0")] = s.Reason
			}
			require.Empty(t, reasons["2"], what)
			require.Equal(t, m.at == "s2", reasons["1"] != "", "%s: %v", what, reasons)
			// The segment's clients come in by s1, which speaks for VIPs there.
			expected := map[string]bool{one[0].name: reasons["1"] == "" || !sourceNAT, two[0].name: true, legacy[0].name: reasons["1"] == ""}
			served := map[string]bool{}
			var mu sync.Mutex
			var wg sync.WaitGroup
			for _, h := range []*host{one[0], two[0], legacy[0]} {
				wg.Go(func() {
					var err error
					for range 3 {
						if _, err = h.request(netip.AddrPort{}, service(80)); err != nil {
							break
						}
					}
					mu.Lock()
					defer mu.Unlock()
					served[h.name] = err == nil
				})
			}
			wg.Wait()
			t.Logf("%s: served %v; s1: %s", what, served, reasons["1"])
			require.Equal(t, expected, served, what)
			c.must("DELETE", "/v1/vips/web", nil)
		}
	}
}

// TestConntrackRing asks that connections outlive a link, and that each switch picks the
// same member.
func TestConntrackRing(t *testing.T) {
	l := ringLab(t, secure, 2)
	var clients, servers []*host
	for i, h := range l.hosts {
		if i%2 == 0 {
			clients = append(clients, h)
		} else {
			servers = append(servers, h)
			h.serveHTTP(8080)
		}
	}
	c := l.control("managed")
	c.linked()
	l.sweep()
	c.apply("web", modal("conntrack", offer("tcp", 80, members(8080, servers...))))
	open := openSessions(clients[0], 40)
	l.cut(l.links[0])
	for _, s := range open {
		member, err := s.ask()
		require.NoError(t, err, "a connection of %s", s.member)
		require.Equal(t, s.member, member)
	}
	for _, h := range clients {
		require.Len(t, h.requests(service(80), h.sources(100, 6)).counts(), 4)
	}
}

// TestConntrackSharedMember asks that several VIPs have one member address and port, and
// that connections to both from one source do not get mixed up.
func TestConntrackSharedMember(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 3)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.apply("web", modal("conntrack", offer("tcp", 80, members(8080, servers...)), offer("tcp", 81, members(8080, servers...))))
	other := netip.MustParseAddr("10.0.0.101")
	c.apply("other", with(modal("conntrack", offer("tcp", 80, members(8080, servers...))), "address", other.String()))
	n := 0
	for _, src := range client.sources(60, 7) {
		for _, dst := range []netip.AddrPort{service(80), service(81), netip.AddrPortFrom(other, 80)} {
			s, err := client.openShared(src, dst)
			require.NoError(t, err, "from %s to %s", src, dst)
			t.Cleanup(s.close)
			n++
		}
	}
	t.Logf("%d connections at once, three from each source", n)
	code, answer := c.exchange("PUT", "/v1/vips/third", with(modal("nat", offer("tcp", 80, members(8080, servers...))), "address", "10.0.0.102"))
	require.Equal(t, http.StatusConflict, code, "%s", answer)
}

// openShared opens a connection from a source that has others, to other destinations.
func (h *host) openShared(src, dst netip.AddrPort) (*session, error) {
	var c net.Conn
	var err error
	d := net.Dialer{Timeout: patience, LocalAddr: net.TCPAddrFromAddrPort(src), Control: func(_, _ string, raw syscall.RawConn) error {
		var failed error
		err := raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
		return errors.Join(err, failed)
	}}
	h.do(func() { c, err = d.Dial("tcp4", dst.String()) })
	if err != nil {
		return nil, err
	}
	s := &session{src: src, conn: c.(*net.TCPConn), r: bufio.NewReader(c)}
	_ = s.conn.SetLinger(0)
	if s.member, err = s.ask(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// TestConntrackICMPErrors asks that an ICMP error finds its way through translation: one
// of a member to the client, and one of a router on the client's side to the member.
func TestConntrackICMPErrors(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 2)
	client, server := l.hosts[0], l.hosts[1]
	c := l.control("managed")
	l.sweep()
	state := c.apply("web", modal("conntrack", offer("udp", 53, members(5353, server)), offer("udp", 54, members(5354, server))))

	// Nobody listens there: the member says that the port is unreachable.
	var conn net.Conn
	var err error
	client.do(func() { conn, err = net.Dial("udp4", service(53).String()) })
	require.NoError(t, err)
	defer conn.Close()
	eventually(t, 5*time.Second, "the client hears that the port is unreachable", func() bool {
		_, _ = conn.Write([]byte("?"))
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := conn.Read(make([]byte, 16))
		return errors.Is(err, syscall.ECONNREFUSED)
	})

	// A router says that packets to the client are too big: the member sends smaller ones.
	server.serveEcho(5354)
	src := netip.AddrPortFrom(client.addr, 20000)
	_, err = client.datagram(src, service(54))
	require.NoError(t, err)
	quoted := packet.AppendUDPFrame(nil, packet.Flow{Src: service(54), Dst: src}, []byte("?"))[14:]
	frame := icmpTooBig(t, client, state.MAC, quoted[:28], 900)
	eventually(t, 5*time.Second, "the member knows the smaller path MTU", func() bool {
		client.flood(frame, 20, 100*time.Millisecond, nil)
		return strings.Contains(run(t, "ip", "-n", server.namespace.name, "route", "get", client.addr.String()), "mtu 900")
	})
}

// icmpTooBig is a message of the host to the VIP that a quoted packet needs to be
// fragmented (RFC 1191).
func icmpTooBig(t *testing.T, from *host, mac string, quoted []byte, mtu uint16) []byte {
	dst, err := net.ParseMAC(mac)
	require.NoError(t, err)
	src, err := net.ParseMAC(from.mac)
	require.NoError(t, err)
	message := append([]byte{3, 4, 0, 0, 0, 0, byte(mtu >> 8), byte(mtu)}, quoted...)
	a, b := from.addr.As4(), vip.As4()
	ip := append([]byte{0x45, 0, 0, byte(20 + len(message)), 0, 1, 0, 0, 64, 1, 0, 0}, append(a[:], b[:]...)...)
	sum := func(b []byte) uint16 {
		s := uint32(0)
		for i := 0; i+1 < len(b); i += 2 {
			s += uint32(b[i])<<8 | uint32(b[i+1])
		}
		for s > 0xffff {
			s = s>>16 + s&0xffff
		}
		return ^uint16(s)
	}
	binary.BigEndian.PutUint16(message[2:], sum(message))
	binary.BigEndian.PutUint16(ip[10:], sum(ip))
	frame := append(append(append([]byte{}, dst...), src...), 8, 0)
	return append(append(frame, ip...), message...)
}

// TestDSR asks that members with the VIP on their loopback serve in mode dsr, over
// several switches, and see the clients' own addresses.
func TestDSR(t *testing.T) {
	t.Parallel()
	for _, stage := range stages() {
		t.Run(stage, func(t *testing.T) {
			l := lineLab(t, 3)
			var clients, servers []*host
			for i, h := range l.hosts {
				if i%2 == 0 {
					clients = append(clients, h)
					continue
				}
				servers = append(servers, h)
				h.servePeers(80)
			}
			haveVIP(t, true, servers...)
			for _, h := range servers {
				h.serveEchoAt(service(53))
			}
			c := l.control(stage)
			c.linked()
			l.sweep()
			c.apply("web", modal("dsr", offer("tcp", 80, members(80, servers...)), offer("udp", 53, members(53, servers...))))
			for _, h := range clients {
				sources := h.sources(200, 8)
				p := h.requests(service(80), sources)
				t.Logf("%s on %s: %v", h.name, h.at, p.counts())
				require.Len(t, p.counts(), 3)
				for _, m := range servers {
					require.Contains(t, p.counts(), m.name+" "+h.addr.String())
				}
				require.Len(t, h.datagrams(service(53), h.sources(60, 8)).counts(), 3)
			}
			require.NotContains(t, string(c.must("GET", "/v1/hosts", nil)), `"`+vip.String()+`"`)

			sources := clients[0].sources(300, 9)
			first := clients[0].requests(service(80), sources)
			gone := servers[1]
			c.must("DELETE", memberPath("web", "tcp:80", gone.member(80)), nil)
			c.serves("web")
			require.Empty(t, first.moved(clients[0].requests(service(80), sources), gone.name+" "+clients[0].addr.String()))
		})
	}
}

// TestDSRCarelessMember asks that a member that claims the VIP in ARP does not get it.
func TestDSRCarelessMember(t *testing.T) {
	t.Parallel()
	for _, stage := range stages() {
		t.Run(stage, func(t *testing.T) {
			l := lineLab(t, 2)
			clients, servers := []*host{l.host("h1"), l.host("h3")}, []*host{l.host("h2"), l.host("h4")}
			for _, h := range servers {
				h.serveHTTP(80)
			}
			haveVIP(t, false, servers...)
			c := l.control(stage)
			c.linked()
			l.sweep()
			state := c.apply("web", modal("dsr", offer("tcp", 80, members(80, servers...))))
			for round := range 3 {
				for _, h := range servers {
					mac, err := net.ParseMAC(h.mac)
					require.NoError(t, err)
					for _, op := range []uint16{packet.ARPRequest, packet.ARPReply} {
						h.flood(gratuitous(packet.MAC(mac), vip, op), 20, 100*time.Millisecond, nil)
					}
					for _, client := range clients { // its own requests have the VIP as their sender
						run(t, "ip", "-n", h.namespace.name, "neigh", "flush", "all")
						_, _ = client.request(netip.AddrPort{}, service(80))
					}
				}
				for _, h := range clients {
					p := h.requests(service(80), h.sources(100, uint64(round)))
					require.Len(t, p.counts(), 2, "%s: %v", h.name, p.counts())
					require.Contains(t, run(t, "ip", "-n", h.namespace.name, "neigh", "show", vip.String()), state.MAC)
				}
			}
			require.NotContains(t, string(c.must("GET", "/v1/hosts", nil)), `"`+vip.String()+`"`)
		})
	}
}

// gratuitous is an ARP message by which a MAC claims an address.
func gratuitous(mac packet.MAC, addr netip.Addr, op uint16) []byte {
	a := addr.As4()
	frame := append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac[:]...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, byte(op>>8), byte(op))
	frame = append(append(frame, mac[:]...), a[:]...)
	frame = append(append(frame, make([]byte, 6)...), a[:]...)
	return append(frame, make([]byte, 60-len(frame))...)
}

// TestAllowedCIDRs asks that others than those allowed get no answer, by every method.
func TestAllowedCIDRs(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nat", "dsr", "conntrack"} {
		t.Run(mode, func(t *testing.T) {
			l := singleLab(t, secure, 4)
			client, servers := l.hosts[0], l.hosts[1:]
			client.addAddresses(150, 20)
			port := uint16(8080)
			if mode == "dsr" {
				port = 80
				haveVIP(t, true, servers...)
			}
			for _, h := range servers {
				h.serveHTTP(port, port+2)
				if mode == "dsr" {
					h.serveEchoAt(service(port))
				} else {
					h.serveEcho(port)
				}
			}
			c := l.control("managed")
			l.sweep()
			second := offer("tcp", 82, members(port+2, servers...), object{"persistence": "source_ip"})
			c.apply("web", with(modal(mode,
				offer("tcp", 80, members(port, servers...)), offer("udp", 80, members(port, servers...)), second,
			), "allowed_cidrs", []string{"10.0.0.152/29", "10.0.0.156/32", "10.0.0.168/31", "192.0.2.0/24"}))
			for _, a := range client.more {
				allowed := a.As4()[3] >= 152 && a.As4()[3] < 160 || a.As4()[3] >= 168
				for p := range uint16(4) {
					src := netip.AddrPortFrom(a, 20000+2*p)
					if allowed {
						for _, dst := range []uint16{80, 82} {
							src := netip.AddrPortFrom(a, src.Port()+100*(dst-80)) // the port may not be free again yet
							_, err := client.request(src, service(dst))
							require.NoError(t, err, "%s to port %d", src, dst)
						}
						_, err := client.datagram(src, service(80))
						require.NoError(t, err, "%s by UDP", src)
						continue
					}
					for _, dst := range []uint16{80, 82} {
						_, err := client.dial(netip.AddrPortFrom(a, 0), service(dst), 50*time.Millisecond)
						require.Error(t, err, "%s to port %d", a, dst)
					}
					break
				}
				if a.As4()[3]%8 == 2 && !allowed { // patience costs a second
					_, err := client.datagram(netip.AddrPortFrom(a, 0), service(80))
					require.Error(t, err, "%s by UDP", a)
				}
			}
		})
	}
}

// TestConnectionRate asks that no more connections than the limit are made in a second,
// and that those there are go on.
func TestConnectionRate(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nat", "conntrack"} {
		t.Run(mode, func(t *testing.T) {
			const rate = 40
			l := singleLab(t, secure, 3)
			client, servers := l.hosts[0], l.hosts[1:]
			for _, h := range servers {
				h.serveHTTP(8080)
			}
			c := l.control("managed")
			l.sweep()
			c.apply("web", modal(mode, with(offer("tcp", 80, members(8080, servers...)), "connection_rate", rate)))
			established, err := client.open(netip.AddrPort{}, service(80))
			require.NoError(t, err)
			defer established.close()
			made, tried := 0, 0
			begin := time.Now()
			for time.Since(begin) < 3*time.Second {
				tried++
				if conn, err := client.dial(netip.AddrPort{}, service(80), 5*time.Millisecond); err == nil {
					made++
					_ = conn.SetLinger(0)
					_ = conn.Close()
				}
				_, err := established.ask()
				require.NoError(t, err)
			}
			took := time.Since(begin).Seconds()
			t.Logf("%d of %d connections in %.1f s at a limit of %d a second", made, tried, took, rate)
			require.LessOrEqual(t, float64(made), rate*(took+1))
			require.Greater(t, tried, made)
			require.Greater(t, made, rate)
		})
	}
}

// TestPersistence asks of real switches what persistence promises: 2,000 clients, which
// differ in their higher bits too.
func TestPersistence(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nat", "conntrack"} {
		t.Run(mode, func(t *testing.T) {
			l := singleLab(t, secure, 6)
			client, servers := l.hosts[0], l.hosts[1:]
			// All of 10.7.0.0/16 is the client.
			run(t, "ip", "-n", client.namespace.name, "route", "add", "local", "10.7.0.0/16", "dev", "lo")
			for _, h := range servers {
				run(t, "ip", "-n", h.namespace.name, "route", "add", "10.7.0.0/16", "via", client.addr.String())
				h.serveHTTP(8080, 8081)
				h.serveEcho(5353)
			}
			four, fifth := servers[:4], servers[4]
			source := object{"persistence": "source_ip"}
			doc := func(hosts ...*host) object {
				return modal(mode, offer("tcp", 80, members(8080, hosts...), source), offer("tcp", 81, members(8081, hosts...), source),
					offer("udp", 53, members(5353, hosts...), source))
			}
			c := l.control("managed")
			l.sweep()
			c.apply("web", doc(four...))
			var sources []netip.AddrPort
			for i := range 2000 {
				a := netip.AddrFrom4([4]byte{10, 7, byte(i / 8), byte(1 + i%8*32)})
				sources = append(sources, netip.AddrPortFrom(a, uint16(20000+i)))
			}
			elsewhere := make([]netip.AddrPort, len(sources)) // the same clients, other ports
			for i, s := range sources {
				elsewhere[i] = netip.AddrPortFrom(s.Addr(), s.Port()+4001)
			}
			byClient := func(p placement) placement {
				q := placement{}
				for s, m := range p {
					q[netip.AddrPortFrom(s.Addr(), 0)] = m
				}
				return q
			}
			first := byClient(client.requests(service(80), sources))
			t.Logf("2,000 clients over 4 members: %v, busiest %.3f of the mean", first.counts(), first.busiest(4))
			require.Len(t, first.counts(), 4)
			require.LessOrEqual(t, first.busiest(4), 1.25)
			require.Empty(t, first.moved(byClient(client.requests(service(80), elsewhere))), "the same clients from other ports")
			require.Empty(t, first.moved(byClient(client.requests(service(81), sources))), "on another listener")
			require.Empty(t, first.moved(byClient(client.datagrams(service(53), sources))), "by another protocol")

			c.apply("web", doc(servers...))
			five := byClient(client.requests(service(80), sources))
			moved := first.moved(five)
			t.Logf("a member added: %d of 2,000 clients have another", len(moved))
			require.LessOrEqual(t, float64(len(moved))/2000, 0.2+0.03)
			for _, s := range moved {
				require.Equal(t, fifth.name, five[s])
			}
			require.Empty(t, five.moved(byClient(client.requests(service(81), elsewhere))))
			c.apply("web", doc(slices.Concat(four[:2], four[3:], servers[4:])...))
			after := byClient(client.requests(service(81), elsewhere))
			require.Empty(t, five.moved(after, four[2].name), "clients of members that stay")
		})
	}
}

// TestUDPSpread asks that the flows of one client are spread whatever ports it takes.
func TestUDPSpread(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nat", "conntrack"} {
		t.Run(mode, func(t *testing.T) {
			l := singleLab(t, secure, 5)
			client, servers := l.hosts[0], l.hosts[1:]
			for _, h := range servers {
				h.serveEcho(5353)
			}
			c := l.control("managed")
			l.sweep()
			c.apply("dns", modal(mode, offer("udp", 53, members(5353, servers...))))
			for name, port := range map[string]func(i int) uint16{
				"sequential": func(i int) uint16 { return uint16(12000 + i) },
				"even":       func(i int) uint16 { return uint16(12000 + 2*i) },
				"odd":        func(i int) uint16 { return uint16(12001 + 2*i) },
				"random":     func(i int) uint16 { return client.sources(2000, 11)[i].Port() },
			} {
				var sources []netip.AddrPort
				for i := range 2000 {
					sources = append(sources, netip.AddrPortFrom(client.addr, port(i)))
				}
				p := client.datagrams(service(53), sources)
				t.Logf("%s ports: %v, busiest %.3f of the mean", name, p.counts(), p.busiest(4))
				require.LessOrEqual(t, p.busiest(4), 1.3, name)
			}
		})
	}
}

// TestModesReadBack asks that what is read back from switches is what was written, in every
// mode: a restart sends nothing.
func TestModesReadBack(t *testing.T) {
	t.Parallel()
	for _, stage := range stages() {
		t.Run(stage, func(t *testing.T) {
			l := singleLab(t, secure, 4)
			servers := l.hosts[1:]
			c := l.control(stage)
			for i, mode := range []string{"nat", "dsr", "conntrack"} {
				port := uint16(8080)
				if mode == "dsr" {
					port = 80
				}
				doc := modal(mode,
					with(offer("tcp", 80, members(port, servers...)), "connection_rate", 100),
					offer("udp", 80, members(port, servers...), object{"persistence": "source_ip"}),
					offer("tcp", 81, members(port+1, servers...), object{"persistence": "source_ip_protocol"}))
				doc["allowed_cidrs"] = []string{"10.0.0.0/24", "10.9.0.0/16"}
				doc["address"] = netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)}).String()
				if mode == "dsr" {
					doc["listeners"].([]object)[2]["port"] = 82
					doc["listeners"].([]object)[2]["pool"].(object)["members"] = members(82, servers...)
				}
				if mode != "dsr" {
					for _, l := range doc["listeners"].([]object) {
						l["pool"].(object)["members"] = members(port+uint16(10*i), servers...)
						port++
					}
				}
				name := []string{"web", "direct", "tracked"}[i]
				c.apply(name, with(doc, "source_nat", mode == "conntrack"))
			}
			c.restarts()
			for _, line := range l.ovs.DumpFlows("s1") {
				if strings.Contains(line, "ct(") {
					return
				}
			}
			t.Fatal("no connection is tracked")
		})
	}
}

// TestModeChanges asks that a VIP serves on in another mode, from any to any.
func TestModeChanges(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(80)
	}
	haveVIP(t, true, servers...)
	c := l.control("managed")
	l.sweep()
	for i, mode := range []string{"nat", "conntrack", "nat", "dsr", "conntrack", "dsr", "nat"} {
		c.apply("web", modal(mode, offer("tcp", 80, members(80, servers...), object{"persistence": []string{"none", "source_ip"}[i%2]})))
		client.requests(service(80), client.sources(100, uint64(i)))
	}
}

// TestConntrackSteerRefused asks that a switch whose members are at another one, in stage
// steer, refuses the mode with the reason, where replies need not come by it.
func TestConntrackSteerRefused(t *testing.T) {
	t.Parallel()
	l := lineLab(t, 2)
	server := l.host("h4")
	server.serveHTTP(8080)
	c := l.control("steer")
	c.linked()
	l.sweep()
	reason := func(sourceNAT bool) map[string]string {
		c.must("PUT", "/v1/vips/web?wait=5s", with(modal("conntrack", offer("tcp", 80, members(8080, server))), "source_nat", sourceNAT))
		reasons := map[string]string{}
		c.wait("both switches say what they have", func() bool {
			var s vipState
			c.rest("GET", "/v1/vips/web", nil, &s)
			for _, sw := range s.Status.Switches {
				reasons[sw.DPID] = sw.Reason
				if sw.State == "pending" || (sw.DPID == l.switches()[0]) != (sw.State == "error") {
					return false
				}
			}
			return len(s.Status.Switches) == 2
		})
		return reasons
	}
	plain := reason(false)
	require.Contains(t, plain[l.switches()[0]], "set source_nat")
	require.Contains(t, reason(true)[l.switches()[0]], "have one switch serve")
	// At the member's own switch it works.
	l.host("h3").requests(service(80), l.host("h3").sources(50, 1))

	// With one switch that serves, replies to the VIP can come to no other.
	c.must("PUT", "/v1/switches/"+l.switches()[1]+"/stage", object{"stage": "observe"})
	c.wait("the first switch serves alone", func() bool {
		var s vipState
		c.rest("GET", "/v1/vips/web", nil, &s)
		return len(s.Status.Switches) == 1 && s.Status.Switches[0].State == "installed"
	})
	c.unchanged(200 * time.Millisecond)
	l.settle()
	l.host("h1").requests(service(80), l.host("h1").sources(50, 2))
}

// TestConntrackOnASegment has a client and the member on a legacy segment, where both were
// seen by the switch that does not speak for the VIP there: it was alone at first.
func TestConntrackOnASegment(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addMachine("s1")
	l.addSwitch("s2", secure)
	one, two := l.addHost("s1"), l.addHost("s2")
	l.addBridge("old")
	l.bridgeTo("old", "s2")
	client, member := l.addLegacyHost("old"), l.addLegacyHost("old")
	member.serveHTTP(8080)
	c := l.control("managed")
	for _, h := range []*host{client, member} {
		eventually(t, patience, h.name+" is seen", func() bool { return two.reaches(h.addr) })
	}
	l.bridgeTo("old", "s1")
	c.wait("the segment is found", func() bool { s := c.segments(); return len(s) == 1 && s[0]["designated"] == 2 })
	l.sweep()
	for _, sourceNAT := range []bool{false, true} {
		c.apply("web", with(modal("conntrack", offer("tcp", 80, members(8080, member))), "source_nat", sourceNAT))
		var v vipState
		c.rest("GET", "/v1/vips/web", nil, &v)
		for _, s := range v.Status.Switches {
			require.Empty(t, s.Reason)
		}
		for _, h := range []*host{client, one, two} {
			require.Len(t, h.requests(service(80), h.sources(10, 1)).counts(), 1, "source_nat=%v, client at %s", sourceNAT, h.at)
		}
		c.must("DELETE", "/v1/vips/web", nil)
	}
}
