package balancer_test

import (
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

var vipAddr6 = netip.MustParseAddr("2001:db8:64::1")

// line is three switches in a row with a host each.
func line(o simswitch.Options) *simswitch.Network {
	return lab.Build(3, o, [2]int{1, 2}, [2]int{2, 3})
}

// ipv6 gives all hosts of a network IPv6 addresses.
func ipv6(n *simswitch.Network) *simswitch.Network {
	for _, name := range n.Hosts() {
		h := n.Host(name)
		h.IP = netip.MustParseAddr("2001:db8::" + name[1:])
	}
	return n
}

// vlan puts all hosts of a network into a VLAN.
func vlan(n *simswitch.Network, id uint16) *simswitch.Network {
	for _, name := range n.Hosts() {
		n.Host(name).VLAN = id
	}
	return n
}

// service is a VIP of one listener.
type service struct {
	addr        netip.Addr
	vlan        uint16
	protocol    balancer.Protocol
	port, end   uint16
	members     []string
	memberPort  uint16
	persistence balancer.Persistence
}

func (s *site) vip(w service) balancer.VIP {
	if w.persistence == "" {
		w.persistence = balancer.PersistenceNone
	}
	l := balancer.Listener{Protocol: w.protocol, Port: w.port, PortEnd: w.end, Pool: balancer.Pool{Persistence: w.persistence}}
	for _, m := range w.members {
		l.Pool.Members = append(l.Pool.Members, balancer.Member{Address: s.Host(m).IP, Port: w.memberPort, Weight: 1, AdminState: balancer.AdminUp})
	}
	return balancer.VIP{
		Name: "web", Address: w.addr, VLAN: w.vlan, Mode: balancer.ModeNAT, Enabled: true, OnEmpty: balancer.OnEmptyDrop,
		Listeners: []balancer.Listener{l},
	}
}

// frame is a packet of a protocol.
func frame(protocol balancer.Protocol, f packet.Flow) []byte {
	switch protocol {
	case balancer.UDP:
		return packet.AppendUDPFrame(nil, f, []byte("hello"))
	case balancer.SCTP:
		return packet.AppendSCTPFrame(nil, f, 7, []byte{10, 0, 0, 4})
	}
	return packet.AppendTCPFrame(nil, f, packet.TCP{Flags: packet.TCPSyn}, nil)
}

// talks sends a packet from a host to a VIP and the answer back, and returns the member
// that got it; empty if nobody did. Ports, addresses, tags and checksums must be right.
func (s *site) talks(from string, rec balancer.Record, sport, port uint16) string {
	s.t.Helper()
	client, l := s.Host(from), rec.VIP.Listeners[0]
	to := packet.Flow{SrcMAC: client.MAC, DstMAC: rec.VIP.MAC, Tags: client.Tags(), Src: client.AddrPort(sport), Dst: netip.AddrPortFrom(rec.VIP.Address, port)}
	member, got := s.takes(from, frame(l.Protocol, to))
	if member == "" {
		return ""
	}
	server, at := s.Host(member), port
	if l.PortEnd == 0 {
		at = l.Pool.Members[0].Port
	}
	want := packet.Flow{SrcMAC: client.MAC, DstMAC: server.MAC, Tags: server.Tags(), Src: to.Src, Dst: server.AddrPort(at)}
	require.Equal(s.t, want, simswitch.Headers(got))
	s.intact(got)

	who, back := s.takes(member, frame(l.Protocol, simswitch.Headers(got).Reverse()))
	require.Equal(s.t, from, who, "who gets the reply of %s", member)
	want = packet.Flow{SrcMAC: server.MAC, DstMAC: client.MAC, Tags: client.Tags(), Src: to.Dst, Dst: to.Src}
	require.Equal(s.t, want, simswitch.Headers(back))
	s.intact(back)
	return member
}

// Each family, protocol and VLAN works on each kind of switch that offers it.
func TestEveryProtocolOnEveryKindOfSwitch(t *testing.T) {
	t.Parallel()
	kinds := map[string]simswitch.Options{
		"Open vSwitch": {}, "no chaining": {NoChaining: true}, "no select": {NoSelect: true},
		"not Open vSwitch": {NoNicira: true}, "one table": {Tables: 1}, "one table, not Open vSwitch": {Tables: 1, NoNicira: true},
	}
	for kind, o := range kinds {
		for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
			for _, protocol := range []balancer.Protocol{balancer.TCP, balancer.UDP, balancer.SCTP} {
				for _, six := range []bool{false, true} {
					for _, id := range []uint16{0, 7} {
						t.Run(fmt.Sprintf("%s %s %s IPv6=%v VLAN=%d", kind, stage, protocol, six, id), func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								n, w := vlan(line(o), id), service{addr: vipAddr, vlan: id, protocol: protocol, port: 80, members: []string{"h2", "h3"}, memberPort: 8080}
								if six {
									ipv6(n)
									w.addr = vipAddr6
								}
								s := open(t, t.TempDir(), n, lab.Options{Stage: stage})
								rec := s.put(s.vip(w))
								s.learn()
								served := map[string]int{}
								for i := range uint16(24) {
									served[s.talks("h1", rec, 1000+2*i, 80)]++
								}
								if protocol != balancer.UDP || !o.NoNicira { // one client, no masks on ports
									require.Len(t, served, 2)
								}
								require.NotContains(t, served, "")
							})
						})
					}
				}
			}
		}
	}
}

// asksND has a host solicit a VIP and returns the advertisements that anyone saw, and who.
func (s *site) asksND(from string, frame []byte) (who []string, answers []packet.Frame) {
	s.t.Helper()
	s.Forget()
	s.Send(from, frame)
	synctest.Wait()
	for _, h := range s.Hosts() {
		for _, b := range s.Seen(h) {
			f, err := packet.Decode(b)
			require.NoError(s.t, err)
			if nd, ok := f.ND(); ok && nd.Type == packet.ICMPv6NeighborAdvertisement {
				who, answers = append(who, h), append(answers, f)
			}
		}
	}
	return who, answers
}

func TestNeighbourSolicitationsAreAnswered(t *testing.T) {
	for _, o := range []simswitch.Options{{}, {NoNicira: true}, {Tables: 1}, {NoSet: []ofproto.FieldType{ofproto.FieldIPv6NDTLL}}} {
		for _, id := range []uint16{0, 9} {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), vlan(ipv6(line(o)), id), lab.Options{})
				rec := s.put(s.vip(service{addr: vipAddr6, vlan: id, protocol: balancer.TCP, port: 80, members: []string{"h2"}, memberPort: 80}))
				s.learn()
				h := s.Host("h1")
				multicast := packet.AppendNeighborSolicitation(nil, h.MAC, h.IP, vipAddr6, h.Tags()...)
				unicast := packet.AppendNeighborSolicitation(nil, h.MAC, h.IP, vipAddr6, h.Tags()...)
				copy(unicast, rec.VIP.MAC[:])
				asks := func(frame []byte) {
					who, answers := s.asksND("h1", frame)
					require.Equal(t, []string{"h1"}, who)
					f := answers[0]
					want := packet.Flow{SrcMAC: rec.VIP.MAC, DstMAC: h.MAC, Tags: h.Tags(), Src: netip.AddrPortFrom(vipAddr6, 0), Dst: h.AddrPort(0)}
					require.Equal(t, want, simswitch.Headers(f.Bytes()))
					nd, _ := f.ND()
					require.Equal(t, vipAddr6, nd.Target)
					require.True(t, nd.Solicited && nd.Override && !nd.Router)
					link, ok := nd.LinkAddr(packet.NDTargetLinkAddr)
					require.True(t, ok)
					require.EqualValues(t, rec.VIP.MAC, link)
					s.intact(f.Bytes())
				}
				asks(multicast)
				asks(unicast)

				// Someone who is about to take the address is told that it is taken, and so
				// is everyone.
				dad := packet.AppendNeighborSolicitation(nil, h.MAC, netip.IPv6Unspecified(), vipAddr6, h.Tags()...)
				who, answers := s.asksND("h1", dad)
				require.Equal(t, []string{"h1"}, who)
				require.Equal(t, netip.MustParseAddr("ff02::1"), simswitch.Headers(answers[0].Bytes()).Dst.Addr())
				nd, _ := answers[0].ND()
				require.False(t, nd.Solicited)

				// Another VLAN is another network.
				other := packet.AppendNeighborSolicitation(nil, h.MAC, h.IP, vipAddr6, packet.VLAN{ID: 33})
				who, _ = s.asksND("h1", other)
				require.Empty(t, who)

				if o.NoNicira || o.Tables == 1 || o.NoSet != nil {
					return
				}
				s.Stop()
				asks(multicast)
				asks(unicast)
			})
		}
	}
}

// Members are asked for by their solicited-node group; they answer to the controller,
// and nobody else hears of it.
func TestMembersAreFoundByNeighbourDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), ipv6(line(simswitch.Options{})), lab.Options{})
		rec := s.put(s.vip(service{addr: vipAddr6, protocol: balancer.TCP, port: 80, members: []string{"h2", "h3"}, memberPort: 80}))
		for _, m := range rec.Listeners[0].Members {
			h, ok := s.Snapshot().HostByIP(0, m.Key.Addr())
			require.True(t, ok)
			require.True(t, h.Pinned)
		}
		s.Forget()
		s.Pass(61 * time.Second) // they are asked again where they are
		for _, f := range s.Seen("h1") {
			d, err := packet.Decode(f)
			require.NoError(t, err)
			nd, ok := d.ND()
			require.True(t, !ok || nd.Target == vipAddr6, "h1 sees %x", f) // the VIP is announced
		}
		s.Move("h3", place{DPID: 1, Port: 77})
		s.Announce("h3")
		s.Pass(2 * time.Second)
		s.learn()
		served := map[string]int{}
		for i := range uint16(24) {
			served[s.talks("h1", rec, 1000+i, 80)]++
		}
		require.Len(t, served, 2)
	})
}

func TestRangesOfPorts(t *testing.T) {
	for _, protocol := range []balancer.Protocol{balancer.TCP, balancer.UDP} {
		synctest.Test(t, func(t *testing.T) {
			s := open(t, t.TempDir(), line(simswitch.Options{}), lab.Options{})
			rec := s.put(s.vip(service{addr: vipAddr, protocol: protocol, port: 1000, end: 2006, members: []string{"h2", "h3"}, memberPort: 1000}))
			s.learn()
			served := map[string]int{}
			for _, port := range []uint16{1000, 1001, 1023, 1024, 1535, 1999, 2005, 2006} {
				for i := range uint16(8) {
					served[s.talks("h1", rec, 5000+2*i, port)]++
				}
			}
			require.Len(t, served, 2)
			require.NotContains(t, served, "")
			for _, port := range []uint16{1, 999, 2007, 2008, 65535} {
				require.Empty(t, s.talks("h1", rec, 5000, port), "port %d", port)
			}
		})
	}
}

func TestAllPorts(t *testing.T) {
	for _, o := range []simswitch.Options{{}, {NoNicira: true}} {
		synctest.Test(t, func(t *testing.T) {
			s := open(t, t.TempDir(), line(o), lab.Options{})
			rec := s.put(s.vip(service{addr: vipAddr, protocol: balancer.TCP, port: 1, end: 65535, members: []string{"h2", "h3"}, memberPort: 1}))
			s.learn()
			served := map[string]int{}
			for _, port := range []uint16{1, 80, 65535} {
				for i := range uint16(16) {
					served[s.talks("h1", rec, 5000+i, port)]++
				}
			}
			require.Len(t, served, 2)
			require.NotContains(t, served, "")
		})
	}
}

// A switch without masks on ports has no ranges, and says so.
func TestRangesAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, t.TempDir(), line(simswitch.Options{NoNicira: true}), lab.Options{})
		v := s.vip(service{addr: vipAddr, protocol: balancer.TCP, port: 80, end: 90, members: []string{"h2"}, memberPort: 80})
		_, _, err := s.intents.Put(t.Context(), v, balancer.Condition{})
		require.NoError(t, err)
		require.Contains(t, s.refusal(), "ranges of ports need masks on ports")
	})
}

// refusal is what the switches say of the VIP "web".
func (s *site) refusal() string {
	s.t.Helper()
	s.Pass(3 * time.Second)
	var st balancer.Status
	s.Do(func(c *controller.Context) { st, _ = s.app.Status(c, "web") })
	require.Equal(s.t, balancer.ProvisioningError, st.VIP.Provisioning)
	return st.VIP.Switches[0].Reason
}

// A switch that cannot write IPv6 serves IPv4, and refuses IPv6 with the reason.
func TestIPv6IsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := simswitch.Options{NoSet: []ofproto.FieldType{ofproto.FieldIPv6Src, ofproto.FieldIPv6Dst}}
		s := open(t, t.TempDir(), ipv6(line(o)), lab.Options{})
		_, _, err := s.intents.Put(t.Context(), s.vip(service{addr: vipAddr6, protocol: balancer.TCP, port: 80, members: []string{"h2"}, memberPort: 80}), balancer.Condition{})
		require.NoError(t, err)
		require.Contains(t, s.refusal(), "the switch cannot rewrite ipv6")
	})
}

// VLANs are networks of their own: what is not tagged, or tagged otherwise, does not
// reach a VIP of a VLAN, and what is tagged does not reach one that is not.
func TestVLANsAreKeptApart(t *testing.T) {
	for _, id := range []uint16{0, 7} {
		synctest.Test(t, func(t *testing.T) {
			s := open(t, t.TempDir(), vlan(line(simswitch.Options{}), id), lab.Options{})
			rec := s.put(s.vip(service{addr: vipAddr, vlan: id, protocol: balancer.TCP, port: 80, members: []string{"h2", "h3"}, memberPort: 80}))
			s.learn()
			require.NotEmpty(t, s.talks("h1", rec, 1000, 80))
			h := s.Host("h1")
			for _, other := range []uint16{0, 7, 8} {
				if other == id {
					continue
				}
				f := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: h.AddrPort(1000), Dst: netip.AddrPortFrom(vipAddr, 80)}
				if other != 0 {
					f.Tags = []packet.VLAN{{ID: other}}
				}
				s.Forget()
				s.Send("h1", frame(balancer.TCP, f))
				synctest.Wait()
				for _, m := range s.Hosts() {
					for _, got := range s.Seen(m) {
						require.Equal(t, vipAddr, simswitch.Headers(got).Dst.Addr(), "%s got it rewritten", m)
					}
				}
				s.Forget()
				s.Send("h1", packet.AppendARPRequest(nil, h.MAC, h.IP, vipAddr, f.Tags...))
				synctest.Wait()
				require.Empty(t, s.Seen("h1"), "answered in VLAN %d", other)
			}
		})
	}
}

// A member behind an access port is seen untagged. Where the switch's own forwarding
// knows the VLAN of ports the member is served, and gets no tag.
func TestMemberBehindAnAccessPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(1, simswitch.Options{})
		lab.AddHost(n, 2, place{DPID: 1, Port: 50})
		n.Host("h1").VLAN = 7
		s := open(t, t.TempDir(), n, lab.Options{Stage: controller.StageSteer})
		rec := s.put(s.vip(service{addr: vipAddr, vlan: 7, protocol: balancer.TCP, port: 80, members: []string{"h2"}, memberPort: 8080}))
		s.learn()
		client, server := s.Host("h1"), s.Host("h2")
		to := packet.Flow{SrcMAC: client.MAC, DstMAC: rec.VIP.MAC, Tags: client.Tags(), Src: client.AddrPort(1000), Dst: netip.AddrPortFrom(vipAddr, 80)}
		who, got := s.takes("h1", frame(balancer.TCP, to))
		require.Equal(t, "h2", who)
		want := packet.Flow{SrcMAC: client.MAC, DstMAC: server.MAC, Src: to.Src, Dst: server.AddrPort(8080)}
		require.Equal(t, want, simswitch.Headers(got))
		who, back := s.takes("h2", frame(balancer.TCP, want.Reverse()))
		require.Equal(t, "h1", who)
		require.Equal(t, to.Dst, simswitch.Headers(back).Src)
	})
}

func TestUntaggedMemberIsRefusedWhereVLANsOfPortsAreNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := line(simswitch.Options{})
		n.Host("h1").VLAN = 7
		s := open(t, t.TempDir(), n, lab.Options{})
		_, _, err := s.intents.Put(t.Context(), s.vip(service{addr: vipAddr, vlan: 7, protocol: balancer.TCP, port: 80, members: []string{"h2"}, memberPort: 80}), balancer.Condition{})
		require.NoError(t, err)
		require.Contains(t, s.refusal(), "member 10.0.0.2 is untagged on the wire")
	})
}

// fragments returns the two halves of an IPv4 packet.
func fragments(t *testing.T, whole []byte) (first, later []byte) {
	f, err := packet.Decode(whole)
	require.NoError(t, err)
	h, ok := f.IPv4()
	require.True(t, ok)
	body := f.Transport()
	part := func(h packet.IPv4, b []byte) []byte {
		return append(packet.AppendIPv4(packet.AppendEthernet(nil, f.Ethernet()), h, len(b)), b...)
	}
	h.Flags, h.ID = packet.MoreFragments, 99
	first = part(h, body[:16])
	h.Flags, h.FragOffset = 0, 2
	return first, part(h, body[16:])
}

// Fragments have no ports: all are dropped.
func TestFragments(t *testing.T) {
	for _, c := range []struct {
		what      string
		port, end uint16
	}{
		{"one port", 80, 0}, {"range", 80, 90}, {"all ports", 1, 65535},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), line(simswitch.Options{}), lab.Options{})
				rec := s.put(s.vip(service{addr: vipAddr, protocol: balancer.UDP, port: c.port, end: c.end, members: []string{"h2", "h3"}, memberPort: c.port}))
				s.learn()
				h := s.Host("h1")
				for i := range uint16(8) {
					to := packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: h.AddrPort(1000 + 2*i), Dst: netip.AddrPortFrom(vipAddr, 80)}
					first, later := fragments(t, packet.AppendUDPFrame(nil, to, make([]byte, 64)))
					for _, part := range [][]byte{first, later} {
						who, _ := s.takes("h1", part)
						require.Empty(t, who)
					}
				}
			})
		})
	}
}
