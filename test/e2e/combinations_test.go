//go:build e2e

package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto/packet"
)

// offering is one combination of the table in docs/balancing.md, and what the table says
// of Open vSwitch.
type offering struct {
	mode, protocol, persistence, monitor, family, stage string
	refused                                             string // why; empty: it is offered
}

// The columns of the table, and what "all" stands for.
var offeringColumns = []struct {
	name string
	all  []string
}{
	{"mode", []string{"nat", "dsr", "conntrack", "conntrack with source_nat"}},
	{"protocol", []string{"tcp", "udp", "sctp"}},
	{"persistence", []string{"none", "source_ip", "source_ip_protocol"}},
	{"monitor", []string{
		"none", "tcp", "tcp via host", "http", "http via host", "https", "https via host", "ping", "ping via host",
		"udp_connect", "udp_connect via host", "sctp", "sctp via host",
	}},
	{"family", []string{"IPv4", "IPv6"}},
	{"stage", []string{"managed", "steer", "steer, members at another switch"}},
}

// offerings reads the table.
func offerings(t *testing.T) []offering {
	t.Helper()
	text, err := os.ReadFile(repositoryFile(t, "docs/balancing.md"))
	require.NoError(t, err)
	_, table, found := strings.Cut(string(text), "<!-- printed by:")
	require.True(t, found)
	table, _, found = strings.Cut(table, "<!-- end of what is printed -->")
	require.True(t, found)
	table, notes, found := strings.Cut(table, "\n\n1. ")
	require.True(t, found)
	reasons := map[string]string{}
	for line := range strings.Lines("1. " + notes) {
		if n, reason, ok := strings.Cut(strings.TrimSpace(line), ". "); ok {
			reasons["refused ("+n+")"] = reason
		}
	}
	rows := strings.Split(table[strings.Index(table, "| mode |"):], "\n")
	head := cells(rows[0])
	for i, c := range offeringColumns {
		require.Equal(t, c.name, head[i])
	}
	require.Equal(t, "Open vSwitch", head[len(offeringColumns)])

	var list []offering
	for _, row := range rows[2:] {
		values := cells(row)
		sets := make([][]string, len(offeringColumns))
		for i, c := range offeringColumns {
			// A value may have a comma in it.
			for _, v := range c.all {
				if values[i] == "all" || strings.Contains(", "+values[i]+",", ", "+v+",") && v != "steer" ||
					v == "steer" && (values[i] == "steer" || strings.HasPrefix(values[i], "managed, steer")) {
					sets[i] = append(sets[i], v)
				}
			}
			require.NotEmpty(t, sets[i], "%s of %s", c.name, row)
		}
		refused := ""
		if text := values[len(offeringColumns)]; strings.HasPrefix(text, "refused") {
			refused = reasons[text]
			require.NotEmpty(t, refused, row)
		}
		for _, mode := range sets[0] {
			for _, protocol := range sets[1] {
				for _, persistence := range sets[2] {
					for _, monitor := range sets[3] {
						for _, family := range sets[4] {
							for _, stage := range sets[5] {
								list = append(list, offering{mode, protocol, persistence, monitor, family, stage, refused})
							}
						}
					}
				}
			}
		}
	}
	all := 1
	for _, c := range offeringColumns {
		all *= len(c.all)
	}
	require.Len(t, list, all, "the table has every combination once")
	return list
}

// cells are the cells of a row of a table.
func cells(row string) []string {
	list := strings.Split(strings.Trim(strings.TrimSpace(row), "|"), "|")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// TestEveryCombination has each combination that docs/balancing.md says Open vSwitch
// offers carry traffic over three members, and counts what each of them serves: while all
// are well, and when what the monitors look at of one member has gone. Each combination
// that is said to be refused is refused, with the reason that is given there.
//
// Persistence and monitors do not know of each other, so an ordinary run takes each
// monitor without persistence and each persistence without a monitor, and of the monitors
// of one mode, protocol and family a third; stage steer is left to the long form, and
// to the other tests.
func TestEveryCombination(t *testing.T) {
	t.Parallel()
	labs := map[string][]offering{} // by what has a lab of its own
	turn := 0
	for _, o := range offerings(t) {
		if soak {
			labs[o.stage+", persistence "+o.persistence] = append(labs[o.stage+", persistence "+o.persistence], o)
			continue
		}
		if o.stage != "managed" || o.persistence != "none" && o.monitor != "none" {
			continue
		}
		if turn++; o.monitor == "none" || turn%3 == 0 {
			labs[o.stage] = append(labs[o.stage], o)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(labs)) {
		t.Run(name, func(t *testing.T) { everyCombination(t, labs[name][0].stage, labs[name]) })
	}
}

// combinedVIP is a VIP of which the listeners are combinations of one mode and family.
type combinedVIP struct {
	name      string
	address   netip.Addr
	offerings []offering
	doc       object
}

// port is of the i-th listener, and of its members, which serve no other.
func (v *combinedVIP) port(i int) uint16 {
	last := v.address.AsSlice()[v.address.BitLen()/8-1]
	return uint16(20000 + int(last%16)*128 + i)
}

func everyCombination(t *testing.T, stage string, list []offering) {
	l := newLab(t)
	l.addSwitch("s1", secure)
	at := []string{"s1", "s1", "s1"}
	if stage != "steer" {
		l.addSwitch("s2", secure)
		l.addLink("s1", "s2")
		at = []string{"s1", "s2", "s2"}
		if stage != "managed" {
			at[0] = "s2"
		}
	}
	client := l.addHost("s1")
	client.addAddresses(150, 40)
	// In mode conntrack the TCP connections there are stay with their member, whatever its
	// monitor says: those of the second round are new. Datagrams go elsewhere.
	sources := map[string][][]netip.AddrPort{"IPv4": {client.sources(60, 1), client.sources(60, 2)}}
	var servers []*kinds
	for _, sw := range at {
		servers = append(servers, &kinds{host: l.addHost(sw), cert: httptest.NewUnstartedServer(nil)})
	}
	l.joinController("s1")
	hosts := map[string][]netip.Addr{}
	for _, k := range servers {
		hosts["IPv4"] = append(hosts["IPv4"], k.addr)
	}

	// The VIPs, one of each mode and family.
	var vips []*combinedVIP
	for _, mode := range offeringColumns[0].all {
		for _, family := range offeringColumns[4].all {
			v := &combinedVIP{name: fmt.Sprintf("v%d", len(vips)), address: netip.AddrFrom4([4]byte{10, 0, 0, byte(96 + len(vips)/2)})}
			if family == "IPv6" {
				v.address = netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", 0x160+len(vips)/2))
			}
			for _, o := range list {
				if o.mode == mode && o.family == family && o.refused == "" {
					v.offerings = append(v.offerings, o)
				}
			}
			if len(v.offerings) > 0 {
				vips = append(vips, v)
			}
		}
	}
	// What the members serve: first by IPv4, then by IPv6.
	serve := func(family string) {
		for _, k := range servers {
			k.serveSCTPAt(k.addr)
			for _, v := range vips {
				if v.address.Is6() != (family == "IPv6") {
					continue
				}
				from := k.addr
				if strings.HasPrefix(v.offerings[0].mode, "dsr") {
					from = v.address
					run(t, "ip", "-n", k.namespace.name, "addr", "add", netip.PrefixFrom(from, from.BitLen()).String(), "dev", "lo", "nodad")
					k.serveSCTPAt(from)
				}
				for i, o := range v.offerings {
					switch o.protocol {
					case "tcp":
						k.serveHTTP(v.port(i))
					case "udp":
						k.serveEchoAt(netip.AddrPortFrom(from, v.port(i)))
					}
				}
			}
		}
	}
	for _, k := range servers {
		k.sysctl(t, "net/ipv4/conf/all/arp_ignore", "1")
		k.sysctl(t, "net/ipv4/conf/all/arp_announce", "2")
		k.sysctl(t, "net/ipv4/icmp_ratelimit", "0")
		k.sysctl(t, "net/ipv6/icmp/ratelimit", "0")
	}
	serve("IPv4")
	client.useIPv6(40)
	sources["IPv6"] = [][]netip.AddrPort{client.sources(60, 1), client.sources(60, 2)}
	for _, k := range servers {
		k.useIPv6(0)
		hosts["IPv6"] = append(hosts["IPv6"], k.addr)
		k.cert.StartTLS()
		t.Cleanup(k.cert.Close)
		k.serve()
		t.Cleanup(k.shut)
	}
	serve("IPv6")

	name, _, _ := strings.Cut(stage, ",")
	c := l.control(name)
	if len(l.links) > 0 {
		c.linked()
	}
	for _, v := range vips {
		v.doc = combinedDocument(v, hosts[v.offerings[0].family])
		c.must("PUT", "/v1/vips/"+v.name, v.doc)
	}
	// fit waits until the members of a VIP are found as they are, all well or one not, and
	// the switches follow.
	fit := func(v *combinedVIP, down int) {
		var addr, why string
		if down >= 0 {
			addr = hosts[v.offerings[0].family][down].String()
		}
		defer func() {
			if t.Failed() {
				t.Log(v.name, why)
			}
		}()
		c.wait("the members of "+v.name+" are found as they are", func() bool { why = c.unfit(v, addr); return why == "" })
		c.serves(v.name)
	}
	served := 0
	look := func(round, down int) {
		for _, v := range vips {
			fit(v, down)
			for i, o := range v.offerings {
				var want []string
				for m, k := range servers {
					if m != down || o.monitor == "none" {
						want = append(want, k.name)
					}
				}
				from := sources[o.family][round]
				if o.protocol == "udp" {
					from = sources[o.family][0]
				}
				var p placement
				var got []string
				for try := 0; try < 3 && !slices.Equal(want, got); try++ {
					if try > 0 {
						fit(v, down) // a busy machine may keep a monitor waiting, too
					}
					p = client.through(o.protocol, netip.AddrPortFrom(v.address, v.port(i)), from)
					got = slices.Sorted(maps.Keys(p.counts()))
				}
				require.Equal(t, want, got, "%+v: requests by member: %v", o, p.counts())
				served += len(p)
				if o.persistence != "none" {
					requirePersistence(t, o, p)
				}
			}
		}
	}
	look(0, -1)
	offered := 0
	for _, o := range list {
		if o.refused == "" {
			offered++
		} else {
			c.refuses(o, hosts[o.family])
		}
	}
	well := served
	servers[1].shut()
	look(1, 1)
	t.Logf("%d combinations, %d requests while all are well, %d while one member is not; %d combinations refused", offered, well, served-well, len(list)-offered)
}

// requirePersistence asks that all connections of a client are with one member.
func requirePersistence(t *testing.T, o offering, p placement) {
	t.Helper()
	of := map[netip.Addr]string{}
	for src, member := range p {
		if other, ok := of[src.Addr()]; ok {
			require.Equal(t, other, member, "%+v: a client has two members", o)
		}
		of[src.Addr()] = member
	}
}

// combinedDocument has a listener for each of the combinations.
func combinedDocument(v *combinedVIP, hosts []netip.Addr) object {
	mode, _, sourceNAT := strings.Cut(v.offerings[0].mode, " with ")
	doc := object{"address": v.address.String(), "mode": mode}
	if sourceNAT {
		doc["source_nat"] = true
	}
	var listeners []object
	for i, o := range v.offerings {
		typ, via, _ := strings.Cut(o.monitor, " via ")
		var list []object
		for _, a := range hosts {
			m := object{"address": a.String(), "port": v.port(i)}
			if typ != "none" {
				m["monitor_port"] = portOf[typ]
			}
			list = append(list, m)
		}
		pool := object{"members": list, "persistence": o.persistence}
		if typ != "none" {
			monitor := object{"type": typ, "interval": fmt.Sprintf("%ds", scale(1, 2)), "timeout": "900ms", "rise": 1, "fall": 2}
			if via != "" {
				monitor["via"] = via
			} else if mode == "dsr" {
				monitor["source_address"] = map[bool]string{false: "10.0.0.251", true: "2001:db8::251"}[v.address.Is6()]
			}
			if strings.HasPrefix(typ, "http") {
				monitor["method"], monitor["path"], monitor["host"], monitor["expected_codes"] = "HEAD", "/healthz", "shop.example", "200-204"
			}
			if typ == "https" {
				monitor["tls_insecure"] = true
			}
			pool["monitor"] = monitor
		}
		listeners = append(listeners, object{"protocol": o.protocol, "port": v.port(i), "pool": pool})
	}
	doc["listeners"] = listeners
	return doc
}

// unfit says which members are not as they should be: those with a monitor up, but for
// one that is down.
func (c *controller) unfit(v *combinedVIP, down string) string {
	c.t.Helper()
	var s vipState
	if c.rest("GET", "/v1/vips/"+v.name, nil, &s) != http.StatusOK || len(s.Listeners) != len(v.offerings) {
		return "there is no such VIP"
	}
	for i, l := range s.Listeners {
		if v.offerings[i].monitor == "none" {
			continue
		}
		for _, m := range l.Pool.Members {
			if (m.Status.Health == "down") != (m.Address == down) || m.Address != down && m.Status.Health != "up" {
				return fmt.Sprintf("%s of %+v: %s, %s", m.Address, v.offerings[i], m.Status.Health, m.Status.Reason)
			}
		}
	}
	return ""
}

// refuses asks for a combination, which is refused with the reason of the table, by the
// API or by the switch.
func (c *controller) refuses(o offering, hosts []netip.Addr) {
	c.t.Helper()
	v := &combinedVIP{name: "refused", address: netip.MustParseAddr("10.0.0.110"), offerings: []offering{o}}
	if o.family == "IPv6" {
		v.address = netip.MustParseAddr("2001:db8::16e")
	}
	code, answer := c.exchange("PUT", "/v1/vips/refused?wait=5s", combinedDocument(v, hosts))
	if code == http.StatusUnprocessableEntity {
		require.Contains(c.t, string(answer), o.refused, "%+v", o)
		return
	}
	require.Contains(c.t, []int{http.StatusOK, http.StatusCreated, http.StatusAccepted}, code, "%+v: %s", o, answer)
	var reasons []string
	var text []string
	for _, a := range hosts {
		text = append(text, a.String())
	}
	c.wait(fmt.Sprintf("the switch refuses %+v", o), func() bool {
		var s vipState
		reasons = nil
		c.rest("GET", "/v1/vips/refused", nil, &s)
		for _, sw := range s.Status.Switches {
			if sw.State == "error" {
				reasons = append(reasons, strings.ReplaceAll(sw.Reason, strings.Join(text, ", "), "members"))
			}
		}
		return slices.ContainsFunc(reasons, func(r string) bool { return strings.Contains(r, o.refused) })
	})
	c.must("DELETE", "/v1/vips/refused", nil)
}

// joinController gives the controller's own network a leg in a switch, like a host's.
func (l *lab) joinController(sw string) {
	l.t.Helper()
	device := sw + "-ctl"
	run(l.t, "ip", "-n", l.ns.name, "link", "add", "ctl", "type", "veth", "peer", "name", device)
	l.ns.run(l.t, "ethtool", "-K", "ctl", "tx", "off")
	l.ns.sysctl(l.t, "net/ipv6/conf/ctl/disable_ipv6", "0")
	run(l.t, "ip", "-n", l.ns.name, "addr", "add", "10.0.0.240/24", "dev", "ctl")
	run(l.t, "ip", "-n", l.ns.name, "addr", "add", "2001:db8::240/64", "dev", "ctl", "nodad")
	run(l.t, "ip", "-n", l.ns.name, "link", "set", "ctl", "up")
	l.plug(sw, device)
}

// through makes a request from each source by a protocol and returns who served it.
func (h *host) through(protocol string, dst netip.AddrPort, sources []netip.AddrPort) placement {
	h.t.Helper()
	switch protocol {
	case "tcp":
		return h.requests(dst, sources)
	case "udp":
		return h.datagrams(dst, sources)
	}
	return h.associations(dst, sources)
}

// Chunks of SCTP (RFC 9260, §3.2) that stand for a question and its answer: kernels may
// lack the protocol.
const (
	chunkAsk    = 10 // COOKIE ECHO
	chunkAnswer = 11 // COOKIE ACK
)

// serveSCTPAt answers questions at one of the host's addresses, at every port, with the
// host's name.
func (h *host) serveSCTPAt(at netip.Addr) {
	h.t.Helper()
	c := h.rawSCTP(at)
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if n < packetSCTP+4 || b[packetSCTP] != chunkAsk {
				continue
			}
			head := packet.SCTP{SrcPort: binary.BigEndian.Uint16(b[2:]), DstPort: binary.BigEndian.Uint16(b), Tag: binary.BigEndian.Uint32(b[4:])}
			chunk := append([]byte{chunkAnswer, 0, 0, byte(4 + len(h.name))}, h.name...)
			_, _ = c.WriteTo(packet.AppendSCTP(nil, head, append(chunk, make([]byte, -len(chunk)&3)...)), from)
		}
	}()
}

// packetSCTP is how long the header of SCTP is.
const packetSCTP = 12

// rawSCTP is a socket for SCTP packets of one of the host's addresses.
func (h *host) rawSCTP(at netip.Addr) *net.IPConn {
	h.t.Helper()
	network := "ip4:132"
	if at.Is6() {
		network = "ip6:132"
	}
	var c *net.IPConn
	var err error
	h.do(func() { c, err = net.ListenIP(network, &net.IPAddr{IP: at.AsSlice()}) })
	require.NoError(h.t, err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

// associations sends a question from each source and returns who answered it; those that
// are not answered within 200 ms are sent again, five times at most. What the switches
// made of the checksums is looked at.
func (h *host) associations(dst netip.AddrPort, sources []netip.AddrPort) placement {
	h.t.Helper()
	p := placement{}
	answers := make(chan placement, 8*len(sources)) // no reader waits when this is over
	conns := map[netip.Addr]*net.IPConn{}
	for _, s := range sources {
		if conns[s.Addr()] != nil {
			continue
		}
		c := h.rawSCTP(s.Addr())
		conns[s.Addr()] = c
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := c.ReadFrom(b)
				if err != nil {
					return
				}
				src, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
				if !ok || n < packetSCTP+4 || b[packetSCTP] != chunkAnswer || src.Unmap() != dst.Addr() || binary.BigEndian.Uint16(b) != dst.Port() {
					continue
				}
				head := packet.SCTP{SrcPort: dst.Port(), DstPort: binary.BigEndian.Uint16(b[2:]), Tag: binary.BigEndian.Uint32(b[4:])}
				if !bytes.Equal(b[:n], packet.AppendSCTP(nil, head, b[packetSCTP:n])) {
					continue // its checksum is wrong
				}
				name := string(b[packetSCTP+4 : packetSCTP+int(b[packetSCTP+3])])
				answers <- placement{netip.AddrPortFrom(s.Addr(), head.DstPort): name}
			}
		}()
	}
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range 5 {
		for _, s := range sources {
			if _, ok := p[s]; ok {
				continue
			}
			head := packet.SCTP{SrcPort: s.Port(), DstPort: dst.Port(), Tag: uint32(s.Port())}
			_, err := conns[s.Addr()].WriteTo(packet.AppendSCTP(nil, head, []byte{chunkAsk, 0, 0, 4}), &net.IPAddr{IP: dst.Addr().AsSlice()})
			require.NoError(h.t, err)
		}
		wait := time.After(200 * time.Millisecond)
		for late := false; len(p) < len(sources) && !late; {
			select {
			case a := <-answers:
				maps.Copy(p, a)
			case <-wait:
				late = true
			}
		}
	}
	require.Len(h.t, p, len(sources), "associations with %s that were answered", dst)
	return p
}
