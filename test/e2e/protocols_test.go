//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/ovstest"
)

// vip6 is the IPv6 address that the tests balance.
var vip6 = netip.MustParseAddr("2001:db8::64")

// useIPv6 gives the host an IPv6 address, which is the one it goes by from then on, and
// n more, to send from many sources.
func (h *host) useIPv6(n int) {
	h.t.Helper()
	h.sysctl(h.t, "net/ipv6/conf/eth0/accept_ra", "0")
	h.sysctl(h.t, "net/ipv6/conf/eth0/router_solicitations", "0")
	h.sysctl(h.t, "net/ipv6/conf/all/disable_ipv6", "0")
	h.sysctl(h.t, "net/ipv6/conf/eth0/disable_ipv6", "0")
	last := h.addr.As4()[3]
	h.more = nil
	for i := range n + 1 {
		a := netip.MustParseAddr(fmt.Sprintf("2001:db8::%x:%x", i, last))
		if i == 0 {
			h.addr = a
		} else {
			h.more = append(h.more, a)
		}
		run(h.t, "ip", "-n", h.namespace.name, "addr", "add", a.String()+"/64", "dev", "eth0", "nodad")
	}
	h.serveEcho(7)
}

func (l *lab) useIPv6() {
	l.t.Helper()
	for _, h := range l.hosts {
		h.useIPv6(0)
	}
}

// join has all frames of the host tagged with a VLAN on their way to its switch, and
// untagged on the way back. A bridge of its own does that, for kernels may lack devices
// that tag.
func (h *host) join(vlan int) {
	h.t.Helper()
	l, bridge := h.lab, "t"+h.name
	l.ovs.DelPort(h.at, h.name)
	l.ovs.AddBridge(ovstest.Bridge{Name: bridge, DPID: 0xff00 + uint64(h.addr.As4()[3])})
	near, trunk := bridge+"-n", bridge+"-f"
	run(h.t, "ip", "-n", l.ns.name, "link", "add", near, "type", "veth", "peer", "name", trunk)
	run(h.t, "ip", "-n", l.ns.name, "link", "set", near, "up")
	l.ovs.AddPort(bridge, h.name, 1)
	l.ovs.AddPort(bridge, near, 2)
	l.ovs.AddFlow(bridge,
		fmt.Sprintf("in_port=1,actions=push_vlan:0x8100,set_field:%d->vlan_vid,output:2", 0x1000|vlan),
		fmt.Sprintf("in_port=2,dl_vlan=%d,actions=pop_vlan,output:1", vlan))
	l.plug(h.at, trunk)
}

// document is the document of a VIP with one listener.
func document(address netip.Addr, protocol string, port, end, memberPort int, hosts ...*host) map[string]any {
	listener := map[string]any{"protocol": protocol, "port": port, "pool": map[string]any{"members": members(uint16(memberPort), hosts...)}}
	if end != 0 {
		listener["port_end"] = end
	}
	return map[string]any{"address": address.String(), "listeners": []any{listener}}
}

// apply writes a document and waits until it serves.
func (c *controller) apply(name string, doc map[string]any) vipState {
	c.t.Helper()
	c.must("PUT", "/v1/vips/"+name, doc)
	return c.serves(name)
}

// joined waits until all links of the lab are up.
func (c *controller) joined() {
	c.t.Helper()
	c.wait("all links are up", func() bool {
		var list struct {
			Items []struct {
				State string `json:"state"`
			} `json:"items"`
		}
		c.rest("GET", "/v1/links", nil, &list)
		up := 0
		for _, l := range list.Items {
			if l.State == "up" {
				up++
			}
		}
		return up == len(c.lab.links)
	})
}

// restarts stops the controller and starts it again: what it reads back from the switches
// is what it wrote, so nothing is written.
func (c *controller) restarts() {
	c.t.Helper()
	c.quiet()
	before := c.lab.tap.mods()
	c.stop()
	c.start()
	c.serves("web")
	c.quiet()
	require.Equal(c.t, before, c.lab.tap.mods(), "messages that change switches")
}

// TestIPv6 balances HTTP over IPv6 in one switch, in both stages, with the controller
// and without it.
func TestIPv6(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"steer", "managed"}[:scale(1, 2)] {
		t.Run(stage, func(t *testing.T) {
			l := singleLab(t, secure, 5)
			l.useIPv6()
			client, servers := l.hosts[0], l.hosts[1:]
			for i := range 40 {
				a := netip.MustParseAddr(fmt.Sprintf("2001:db8::c:%x", i+1))
				run(t, "ip", "-n", client.namespace.name, "addr", "add", a.String()+"/64", "dev", "eth0", "nodad")
				client.more = append(client.more, a)
			}
			for _, h := range servers {
				h.serveHTTP(8080)
				h.serveEcho(5353)
			}
			c := l.control(stage)
			doc := document(vip6, "tcp", 80, 0, 8080, servers...)
			doc["listeners"] = append(doc["listeners"].([]any), document(vip6, "udp", 53, 0, 5353, servers...)["listeners"].([]any)[0])
			c.apply("web", doc)

			sources := client.sources(1000, 6)
			at := netip.AddrPortFrom(vip6, 80)
			first := client.requests(at, sources)
			t.Logf("%s: 1,000 requests over IPv6: %v, busiest %.3f of the mean", stage, first.counts(), first.busiest(4))
			require.Len(t, first.counts(), 4)
			require.LessOrEqual(t, first.busiest(4), 1.3)

			udp := client.datagrams(netip.AddrPortFrom(vip6, 53), client.sources(1000, 7))
			t.Logf("%s: 1,000 datagrams over IPv6: %v, busiest %.3f of the mean", stage, udp.counts(), udp.busiest(4))
			require.Len(t, udp.counts(), 4)
			require.LessOrEqual(t, udp.busiest(4), 1.3)

			// By address in brackets, escaped and not, and by the command.
			member := fmt.Sprintf("[%s]:8080", servers[3].addr)
			c.must("DELETE", "/v1/vips/web/listeners/tcp:80/members/"+member, nil)
			c.serves("web")
			three := client.requests(at, sources)
			require.NotContains(t, three.counts(), servers[3].name)
			require.Empty(t, first.moved(three, servers[3].name))
			escaped := strings.NewReplacer("[", "%5B", "]", "%5D", ":", "%3A").Replace(member)
			c.must("PUT", "/v1/vips/web/listeners/tcp:80/members/"+escaped, map[string]any{"weight": 1})
			c.must("DELETE", "/v1/vips/web/listeners/tcp:80/members/"+escaped, nil)
			out, err := exec.Command("ip", "netns", "exec", l.ns.name, os.Getenv("FAIRLEAD_BIN"),
				"member", "add", "web", "tcp:80", member, "--server", "http://"+restAddress).CombinedOutput()
			require.NoError(t, err, "%s", out)
			c.serves("web")
			require.Len(t, client.requests(at, sources).counts(), 4)
			c.restarts()

			// Neighbour solicitations for the VIP are answered in the switch.
			c.stop()
			run(t, "ip", "-n", client.namespace.name, "-6", "neigh", "flush", "dev", "eth0")
			require.Empty(t, client.requests(at, sources).moved(client.requests(at, sources)))
		})
	}
}

// TestIPv6Ring balances HTTP over IPv6 from every switch of a ring.
func TestIPv6Ring(t *testing.T) {
	t.Parallel()
	l := ringLab(t, secure, 2)
	l.useIPv6()
	var clients, servers []*host
	for i := 0; i < len(l.hosts); i += 2 {
		clients, servers = append(clients, l.hosts[i]), append(servers, l.hosts[i+1])
	}
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.joined()
	c.apply("web", document(vip6, "tcp", 80, 0, 8080, servers...))
	l.sweep()
	for _, h := range clients {
		counts := h.requests(netip.AddrPortFrom(vip6, 80), h.sources(100, 8)).counts()
		t.Logf("%s: %v", h.name, counts)
		require.Len(t, counts, 4)
	}
}

// TestBothFamilies has one service at an IPv4 and an IPv6 address, its members with
// several addresses each.
func TestBothFamilies(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 3)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	v4, from4 := document(vip, "tcp", 80, 0, 8080, servers...), client.sources(100, 9)
	l.useIPv6()
	for _, h := range servers {
		h.serveHTTP(8080)
	}
	c := l.control("managed")
	c.apply("web4", v4)
	c.apply("web6", document(vip6, "tcp", 80, 0, 8080, servers...))
	require.Len(t, client.requests(service(80), from4).counts(), 2)
	require.Len(t, client.requests(netip.AddrPortFrom(vip6, 80), client.sources(100, 9)).counts(), 2)
}

// TestVLAN balances inside a VLAN, members and clients on trunk ports.
func TestVLAN(t *testing.T) {
	t.Parallel()
	for _, stage := range []string{"steer", "managed"}[:scale(1, 2)] {
		t.Run(stage, func(t *testing.T) {
			l := treeLab(t, secure, 3)
			client, servers := l.hosts[0], []*host{l.hosts[1], l.hosts[3], l.hosts[4]}
			for _, h := range append([]*host{client}, servers...) {
				h.join(7)
			}
			for _, h := range servers {
				h.serveHTTP(8080)
			}
			outside := l.hosts[2]
			c := l.control(stage)
			c.joined()
			doc := document(vip, "tcp", 80, 0, 8080, servers...)
			doc["vlan"] = 7
			c.apply("web", doc)
			counts := client.requests(service(80), client.sources(300, 10)).counts()
			t.Logf("%s: %v", stage, counts)
			require.Len(t, counts, 3)
			_, err := outside.dial(netip.AddrPort{}, service(80), 500*time.Millisecond)
			require.Error(t, err, "a host that is untagged reaches the VIP of a VLAN")
		})
	}
}

// TestVLANAccessPorts has members behind access ports of Open vSwitch, and the client
// on a trunk.
func TestVLANAccessPorts(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nat", "conntrack", "dsr"} {
		t.Run(mode, func(t *testing.T) { accessPorts(t, mode) })
	}
}

func accessPorts(t *testing.T, mode string) {
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	client.join(7)
	servers[2].join(7) // and one member that tags
	for _, h := range servers {
		h.serveHTTP(80)
	}
	if mode == "dsr" {
		haveAddress(t, vip, servers...)
	}
	for _, h := range servers[:2] {
		l.ovs.Vsctl("set", "port", h.name, "tag=7")
	}
	c := l.control("steer")
	doc := document(vip, "tcp", 80, 0, 80, servers...)
	doc["vlan"], doc["mode"] = 7, mode
	c.apply("web", doc)
	counts := client.requests(service(80), client.sources(300, 11)).counts()
	t.Log(counts)
	require.Len(t, counts, 3)

	c.restarts()

	// What ports are in is known to NORMAL alone.
	c.must("PUT", "/v1/switches/"+l.switches()[0]+"/stage", map[string]any{"stage": "managed"})
	c.wait("the VIP is refused", func() bool {
		var s vipState
		return c.rest("GET", "/v1/vips/web", nil, &s) == http.StatusOK && len(s.Status.Switches) == 1 &&
			strings.Contains(s.Status.Switches[0].Reason, "is untagged on the wire")
	})
}

// TestPortRanges balances a range of ports and all of them.
func TestPortRanges(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"nat", "conntrack", "dsr"} {
		t.Run(mode, func(t *testing.T) { portRanges(t, mode) })
	}
}

func portRanges(t *testing.T, mode string) {
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	client.addAddresses(150, 20)
	for _, h := range servers {
		h.serveHTTP(8000, 8001, 8100, 8255, 8999, 9000)
		if mode != "dsr" {
			h.serveEcho(5000, 60000)
			continue
		}
		haveAddress(t, vip, h)
		h.serveEchoAt(service(5000))
		h.serveEchoAt(service(60000))
	}
	c := l.control("managed")
	l.sweep()
	doc := document(vip, "tcp", 8001, 8999, 8001, servers...)
	doc["mode"] = mode
	doc["listeners"] = append(doc["listeners"].([]any), document(vip, "udp", 1, 65535, 1, servers...)["listeners"].([]any)[0])
	c.apply("web", doc)
	for _, port := range []uint16{8001, 8100, 8255, 8999} {
		require.Len(t, client.requests(service(port), client.sources(100, 12)).counts(), 3)
	}
	for _, port := range []uint16{8000, 9000} {
		_, err := client.dial(netip.AddrPort{}, service(port), 500*time.Millisecond)
		require.Error(t, err, "port %d is outside the range", port)
	}
	for _, port := range []uint16{5000, 60000} {
		require.Len(t, client.datagrams(service(port), client.sources(200, 13)).counts(), 3)
	}
	c.restarts()
}

// raw is the traffic of a host that its kernel takes no part in.
type raw struct {
	*host
	device *os.File
}

func (h *host) raw() raw {
	h.t.Helper()
	r := raw{h, h.sniff(h.t, "eth0")}
	c, err := r.device.SyscallConn()
	require.NoError(h.t, err)
	require.NoError(h.t, c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	}))
	require.NoError(h.t, err)
	return r
}

// next returns the next frame that is what is looked for; ok is false when none comes.
func (r raw) next(want func(f packet.Frame) bool) (f packet.Frame, ok bool) {
	r.t.Helper()
	require.NoError(r.t, r.device.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
	b := make([]byte, 9000)
	for {
		n, err := r.device.Read(b)
		if err != nil {
			return packet.Frame{}, false
		}
		if f, err = packet.Decode(slices.Clone(b[:n])); err == nil && want(f) {
			return f, true
		}
	}
}

func (h *host) hardware() (m packet.MAC) {
	_, err := fmt.Sscanf(h.mac, "%02x:%02x:%02x:%02x:%02x:%02x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5])
	require.NoError(h.t, err)
	return m
}

// TestSCTP balances SCTP packets made by hand, for kernels may lack the protocol. The
// switch has to give each the checksum of what it rewrites.
func TestSCTP(t *testing.T) {
	t.Parallel()
	for _, six := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6=%v", six), func(t *testing.T) {
			l := singleLab(t, secure, 4)
			at := vip
			if six {
				l.useIPv6()
				at = vip6
			}
			client, servers := l.hosts[0].raw(), l.hosts[1:]
			var members []raw
			for _, h := range servers {
				members = append(members, h.raw())
			}
			c := l.control("managed")
			l.sweep()
			s := c.apply("sig", document(at, "sctp", 3868, 0, 9000, servers...))
			var mac packet.MAC
			_, err := fmt.Sscanf(s.MAC, "%02x:%02x:%02x:%02x:%02x:%02x", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5])
			require.NoError(t, err)

			sctp := func(f packet.Frame) bool { return f.Proto() == packet.ProtoSCTP }
			counts := map[string]int{}
			for port := uint16(20000); port < 20200; port++ {
				f := packet.Flow{SrcMAC: client.hardware(), DstMAC: mac, Src: netip.AddrPortFrom(client.addr, port), Dst: netip.AddrPortFrom(at, 3868)}
				_, err := client.device.Write(packet.AppendSCTPFrame(nil, f, uint32(port), []byte{10, 0, 0, 5, 1, 0, 0, 0}))
				require.NoError(t, err)
				if port == 20000 {
					l.settle()
				}
			}
			for _, m := range members {
				for {
					got, ok := m.next(sctp)
					if !ok {
						break
					}
					counts[m.name]++
					require.True(t, got.ChecksumsOK())
					_, dst, _ := got.Ports()
					require.EqualValues(t, 9000, dst)
					src, to, _ := got.Addrs()
					require.Equal(t, m.addr, to)
					sport, _, _ := got.Ports()
					h, _ := got.SCTP()
					require.EqualValues(t, sport, h.Tag, "the packet of that source")
					back := packet.Flow{SrcMAC: m.hardware(), DstMAC: client.hardware(), Src: netip.AddrPortFrom(to, 9000), Dst: netip.AddrPortFrom(src, sport)}
					_, err := m.device.Write(packet.AppendSCTPFrame(nil, back, uint32(sport), []byte{11, 0, 0, 4}))
					require.NoError(t, err)
				}
			}
			t.Logf("200 associations: %v", counts)
			require.Len(t, counts, 3)
			answers := 0
			for {
				got, ok := client.next(func(f packet.Frame) bool { return sctp(f) && f.Ethernet().Src != client.hardware() })
				if !ok {
					break
				}
				answers++
				require.True(t, got.ChecksumsOK())
				src, _, _ := got.Addrs()
				sport, _, _ := got.Ports()
				require.Equal(t, netip.AddrPortFrom(at, 3868), netip.AddrPortFrom(src, sport))
			}
			require.Equal(t, 200, counts["h2"]+counts["h3"]+counts["h4"])
			require.Equal(t, 200, answers)
		})
	}
}

// TestFragmentsOfDatagrams sends datagrams that are too long for one packet. Fragments
// have no ports, so they are dropped, and reach no wrong member.
func TestFragmentsOfDatagrams(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	client.addAddresses(150, 20)
	var members []raw
	for _, h := range servers {
		h.serveEcho(5353)
		members = append(members, h.raw())
	}
	c := l.control("managed")
	l.sweep()
	c.apply("dns", document(vip, "udp", 53, 0, 5353, servers...))
	for _, src := range client.sources(100, 14) {
		conn, err := client.listenPacket(src.String())
		require.NoError(t, err)
		_, err = conn.WriteToUDPAddrPort(make([]byte, 4000), service(53))
		require.NoError(t, err)
		require.NoError(t, conn.Close())
	}
	for _, m := range members {
		_, ok := m.next(func(f packet.Frame) bool { return f.Fragment() })
		require.False(t, ok, "%s got a fragment", m.name)
	}
	eventually(t, 10*time.Second, "the entry that drops has counted 3 fragments of each datagram", func() bool {
		flows := strings.Split(l.ovs.Ofctl("-O", "OpenFlow13", "dump-flows", l.ovs.Target("s1"), "table=2,ip,nw_dst="+vip.String()), "\n")
		return slices.ContainsFunc(flows, func(f string) bool {
			return strings.Contains(f, "n_packets=300") && strings.HasSuffix(f, "actions=drop")
		})
	})
}

// TestFragmentsOfAllPorts sends long datagrams to a VIP that balances all ports by the
// address of the client: fragments go the way of all its packets, and come back. So they
// do where the switch tracks connections.
func TestFragmentsOfAllPorts(t *testing.T) {
	t.Parallel()
	t.Run("source_ip", func(t *testing.T) { allFragments(t, "nat", "source_ip") })
	t.Run("conntrack", func(t *testing.T) { allFragments(t, "conntrack", "none") })
}

func allFragments(t *testing.T, mode, persistence string) {
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	client.addAddresses(150, 40)
	for _, h := range servers {
		h.serveEcho(5353)
	}
	c := l.control("managed")
	l.sweep()
	doc := document(vip, "udp", 1, 65535, 1, servers...)
	doc["listeners"].([]any)[0].(map[string]any)["pool"].(map[string]any)["persistence"] = persistence
	doc["mode"] = mode
	c.apply("dns", doc)
	counts := map[string]int{}
	for _, a := range client.more {
		conn, err := client.listenPacket(netip.AddrPortFrom(a, 0).String())
		require.NoError(t, err)
		patient(t, conn)
		question := make([]byte, 1900)
		_, err = conn.WriteToUDPAddrPort(question, service(5353))
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(3*time.Second)))
		b := make([]byte, 4000)
		n, from, err := conn.ReadFromUDPAddrPort(b)
		require.NoError(t, err, "from %s", a)
		require.Equal(t, service(5353), from)
		require.Greater(t, n, 1900)
		counts[string(b[1900:n])]++
		require.NoError(t, conn.Close())
	}
	t.Logf("40 clients with datagrams in two fragments: %v", counts)
	require.Greater(t, len(counts), 1)
}

// TestModesFamiliesVLANs serves TCP and UDP in every mode over both families, in a VLAN and,
// in the long form, outside (TestEveryCombination does that): every member gets connections,
// and every connection is answered.
func TestModesFamiliesVLANs(t *testing.T) {
	t.Parallel()
	stages := []string{"steer", "managed"}
	turn := 0
	for _, mode := range []string{"nat", "conntrack", "dsr"} {
		for _, six := range []bool{false, true} {
			for _, vlan := range []int{7, 0}[:scale(1, 2)] {
				stage := stages[(turn+turn/2)%2]
				turn++
				t.Run(fmt.Sprintf("%s IPv6=%v VLAN=%d %s", mode, six, vlan, stage), func(t *testing.T) {
					l := singleLab(t, secure, 4)
					client, servers := l.hosts[0], l.hosts[1:]
					at := vip
					for _, h := range l.hosts {
						if vlan != 0 {
							h.join(vlan)
						}
						if six {
							at = vip6
							h.useIPv6(0)
						}
					}
					if mode == "dsr" {
						haveAddress(t, at, servers...)
					}
					for _, h := range servers {
						h.serveHTTP(80)
						h.serveEcho(53)
					}
					c := l.control(stage)
					doc := document(at, "tcp", 80, 0, 80, servers...)
					doc["mode"], doc["vlan"] = mode, vlan
					if mode != "dsr" { // servers at any address answer datagrams by their own
						doc["listeners"] = append(doc["listeners"].([]any), document(at, "udp", 53, 0, 53, servers...)["listeners"].([]any)[0])
					}
					c.apply("web", doc)
					counts := client.requests(netip.AddrPortFrom(at, 80), client.sources(200, 15)).counts()
					t.Logf("TCP %v", counts)
					require.Len(t, counts, 3)
					if mode != "dsr" {
						counts = client.datagrams(netip.AddrPortFrom(at, 53), client.sources(200, 15)).counts()
						t.Logf("UDP %v", counts)
						require.Len(t, counts, 3)
					}
				})
			}
		}
	}
}

// haveAddress gives hosts an address on their loopback that they do not resolve.
func haveAddress(t *testing.T, a netip.Addr, hosts ...*host) {
	t.Helper()
	if a.Is4() {
		haveVIP(t, true, hosts...)
		return
	}
	for _, h := range hosts {
		run(t, "ip", "-n", h.namespace.name, "addr", "add", a.String()+"/128", "dev", "lo", "nodad")
	}
}
