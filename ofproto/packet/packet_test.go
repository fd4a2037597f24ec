package packet

import (
	"encoding/hex"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	macA = MAC{2, 0, 0, 0, 0, 1}
	macB = MAC{2, 0, 0, 0, 0, 2}
	a4   = netip.MustParseAddr("10.0.0.1")
	b4   = netip.MustParseAddr("10.0.0.2")
	a6   = netip.MustParseAddr("2001:db8::1")
	b6   = netip.MustParseAddr("2001:db8::2")
	oui  = [3]byte{0x02, 0x46, 0x4c}
)

func flow(src, dst netip.Addr, sport, dport uint16, tags ...VLAN) Flow {
	return Flow{SrcMAC: macA, DstMAC: macB, Tags: tags,
		Src: netip.AddrPortFrom(src, sport), Dst: netip.AddrPortFrom(dst, dport)}
}

// ipv4Frame builds a frame around any IPv4 payload.
func ipv4Frame(h IPv4, payload []byte) []byte {
	b := AppendEthernet(nil, Ethernet{Dst: macB, Src: macA, Type: EtherTypeIPv4})
	h.TTL, h.Src, h.Dst = 64, a4, b4
	return append(AppendIPv4(b, h, len(payload)), payload...)
}

// ipv6Frame builds a frame around any extension headers and payload.
func ipv6Frame(next uint8, extensions, payload []byte) []byte {
	b := AppendEthernet(nil, Ethernet{Dst: macB, Src: macA, Type: EtherTypeIPv6})
	b = AppendIPv6(b, IPv6{HopLimit: 64, NextHeader: next, Src: a6, Dst: b6, Extensions: extensions}, len(payload))
	return append(b, payload...)
}

// golden pairs what the encoders are told with the bytes of the frame. The bytes
// come from another implementation (os-ken 2.5), less its padding, but for two
// checksums that it gets wrong: SCTP's, whose CRC32c is 0xa0b32d44 and goes out in
// little-endian order (RFC 9260 appendix A), and UDP's behind extension headers,
// whose pseudo header holds 17, not the first next header (RFC 8200 §8.1).
var golden = []struct {
	name  string
	frame []byte
	hex   string
	whole bool // headers to the last byte: every truncation is an error
	check func(t *testing.T, f *Frame)
}{
	{
		name:  "arp request",
		frame: AppendARPRequest(nil, macA, a4, b4),
		hex:   "ffffffffffff0200000000010806" + "0001080006040001" + "0200000000010a000001" + "0000000000000a000002",
		whole: true,
		check: func(t *testing.T, f *Frame) {
			a, ok := f.ARP()
			require.True(t, ok)
			require.Equal(t, ARP{Op: ARPRequest, SHA: macA, SPA: a4, TPA: b4}, a)
			require.Equal(t, Ethernet{Dst: Broadcast, Src: macA, Type: EtherTypeARP}, f.Ethernet())
			_, _, ok = f.Addrs()
			require.False(t, ok)
		},
	},
	{
		name:  "arp reply, tagged",
		frame: AppendARPReply(nil, macA, a4, macB, b4, VLAN{ID: 100, PCP: 5}),
		hex:   "0200000000020200000000018100a0640806" + "0001080006040002" + "0200000000010a000001" + "0200000000020a000002",
		whole: true,
		check: func(t *testing.T, f *Frame) {
			a, ok := f.ARP()
			require.True(t, ok)
			require.Equal(t, ARP{Op: ARPReply, SHA: macA, SPA: a4, THA: macB, TPA: b4}, a)
			v, ok := f.VLAN()
			require.True(t, ok)
			require.Equal(t, VLAN{TPID: EtherTypeVLAN, ID: 100, PCP: 5}, v)
		},
	},
	{
		name: "tcp syn",
		frame: AppendTCPFrame(nil, flow(a4, b4, 40000, 80),
			TCP{Seq: 0x01020304, Flags: TCPSyn, Window: 65535, Options: []byte{2, 4, 5, 0xb4}}, nil),
		hex: "0200000000020200000000010800" + "4500002c00004000400626ca0a0000010a000002" +
			"9c40005001020304000000006002ffffe38d0000020405b4",
		check: func(t *testing.T, f *Frame) {
			h, ok := f.TCP()
			require.True(t, ok)
			require.Equal(t, TCP{SrcPort: 40000, DstPort: 80, Seq: 0x01020304, Flags: TCPSyn, Window: 65535,
				Checksum: 0xe38d, Options: []byte{2, 4, 5, 0xb4}}, h)
			ip, ok := f.IPv4()
			require.True(t, ok)
			require.Equal(t, IPv4{Length: 44, Flags: DontFragment, TTL: 64, Proto: ProtoTCP, Checksum: 0x26ca,
				Src: a4, Dst: b4, Options: []byte{}}, ip)
			require.Empty(t, f.Payload())
		},
	},
	{
		name: "tcp data",
		frame: AppendTCPFrame(nil, flow(a4, b4, 40000, 80),
			TCP{Seq: 0x01020304, Ack: 5, Flags: TCPAck | TCPPsh, Window: 65535}, []byte("GET /")),
		hex: "0200000000020200000000010800" + "4500002d00004000400626c90a0000010a000002" +
			"9c40005001020304000000055018ffff30c40000" + "474554202f",
		check: func(t *testing.T, f *Frame) {
			require.Equal(t, "GET /", string(f.Payload()))
			src, dst, ok := f.Ports()
			require.True(t, ok)
			require.Equal(t, []uint16{40000, 80}, []uint16{src, dst})
		},
	},
	{
		name:  "tcp over ipv6",
		frame: AppendTCPFrame(nil, flow(a6, b6, 40000, 80), TCP{Seq: 1, Ack: 2, Flags: TCPAck | TCPPsh, Window: 1000}, []byte("abc")),
		hex: "02000000000202000000000186dd" + "6000000000170640" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" +
			"9c40005000000001000000025018" + "03e8ef760000" + "616263",
		check: func(t *testing.T, f *Frame) {
			ip, ok := f.IPv6()
			require.True(t, ok)
			require.Equal(t, IPv6{Length: 23, NextHeader: ProtoTCP, HopLimit: 64, Src: a6, Dst: b6, Extensions: []byte{}}, ip)
			require.Equal(t, "abc", string(f.Payload()))
		},
	},
	{
		name:  "udp",
		frame: AppendUDPFrame(nil, flow(a4, b4, 5353, 53), []byte("hello")),
		hex:   "0200000000020200000000010800" + "4500002100004000401126ca0a0000010a000002" + "14e90035000d92e1" + "68656c6c6f",
		check: func(t *testing.T, f *Frame) {
			h, ok := f.UDP()
			require.True(t, ok)
			require.Equal(t, UDP{SrcPort: 5353, DstPort: 53, Length: 13, Checksum: 0x92e1}, h)
			require.Equal(t, "hello", string(f.Payload()))
		},
	},
	{
		name:  "udp over ipv6",
		frame: AppendUDPFrame(nil, flow(a6, b6, 5353, 53), []byte("hello")),
		hex: "02000000000202000000000186dd" + "60000000000d1140" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" +
			"14e90035000d4b6f" + "68656c6c6f",
		check: func(t *testing.T, f *Frame) {
			require.Equal(t, ProtoUDP, f.Proto())
			require.Equal(t, "hello", string(f.Payload()))
		},
	},
	{
		name:  "udp, stacked tags",
		frame: AppendUDPFrame(nil, flow(a4, b4, 1, 2, VLAN{TPID: EtherTypeQinQ, ID: 10}, VLAN{ID: 20, PCP: 3}), []byte("x")),
		hex: "02000000000202000000000188a8000a810060140800" + "4500001d00004000401126ce0a0000010a000002" +
			"000100020009" + "73d6" + "78",
		check: func(t *testing.T, f *Frame) {
			tags, n := f.Tags()
			require.Equal(t, 2, n)
			require.Equal(t, [MaxTags]VLAN{{TPID: EtherTypeQinQ, ID: 10}, {TPID: EtherTypeVLAN, ID: 20, PCP: 3}}, tags)
			require.Equal(t, EtherTypeIPv4, f.EtherType())
		},
	},
	{
		name:  "icmp echo",
		frame: AppendEchoFrame(nil, flow(a4, b4, 0, 0), false, 7, 9, []byte("ping")),
		hex:   "0200000000020200000000010800" + "4500002000004000400126db0a0000010a000002" + "0800191f00070009" + "70696e67",
		check: func(t *testing.T, f *Frame) {
			h, ok := f.ICMP()
			require.True(t, ok)
			require.Equal(t, ICMP{Type: ICMPEchoRequest, Checksum: 0x191f, ID: 7, Seq: 9}, h)
			_, ok = f.ICMPv6()
			require.False(t, ok)
		},
	},
	{
		name:  "icmpv6 echo",
		frame: AppendEchoFrame(nil, flow(a6, b6, 0, 0), false, 7, 9, []byte("ping")),
		hex: "02000000000202000000000186dd" + "60000000000c3a40" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" +
			"8000456300070009" + "70696e67",
		check: func(t *testing.T, f *Frame) {
			h, ok := f.ICMPv6()
			require.True(t, ok)
			require.Equal(t, ICMP{Type: ICMPv6EchoRequest, Checksum: 0x4563, ID: 7, Seq: 9}, h)
			_, ok = f.ND()
			require.False(t, ok)
		},
	},
	{
		name:  "sctp cookie ack",
		frame: AppendSCTPFrame(nil, flow(a4, b4, 3868, 3869), 0xdeadbeef, []byte{11, 0, 0, 4}),
		hex: "0200000000020200000000010800" + "45000024000040004084" + "26540a0000010a000002" +
			"0f1c0f1ddeadbeef442db3a0" + "0b000004",
		check: func(t *testing.T, f *Frame) {
			h, ok := f.SCTP()
			require.True(t, ok)
			require.Equal(t, SCTP{SrcPort: 3868, DstPort: 3869, Tag: 0xdeadbeef, Checksum: 0x442db3a0}, h)
			require.Equal(t, []byte{11, 0, 0, 4}, f.Payload())
		},
	},
	{
		name:  "neighbour solicitation",
		frame: AppendNeighborSolicitation(nil, macA, a6, b6),
		hex: "3333ff00000202000000000186dd" + "6000000000203aff" + "20010db8000000000000000000000001" + "ff0200000000000000000001ff000002" +
			"87001c2700000000" + "20010db8000000000000000000000002" + "0101020000000001",
		whole: true,
		check: func(t *testing.T, f *Frame) {
			n, ok := f.ND()
			require.True(t, ok)
			require.Equal(t, ICMPv6NeighborSolicitation, n.Type)
			require.Equal(t, b6, n.Target)
			mac, ok := n.LinkAddr(NDSourceLinkAddr)
			require.True(t, ok)
			require.Equal(t, macA, mac)
			_, ok = n.LinkAddr(NDTargetLinkAddr)
			require.False(t, ok)
		},
	},
	{
		name:  "neighbour advertisement",
		frame: AppendNeighborAdvertisement(nil, flow(a6, b6, 0, 0), a6, true),
		hex: "02000000000202000000000186dd" + "6000000000203aff" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" +
			"88008a7360000000" + "20010db8000000000000000000000001" + "0201020000000001",
		whole: true,
		check: func(t *testing.T, f *Frame) {
			n, ok := f.ND()
			require.True(t, ok)
			require.Equal(t, a6, n.Target)
			require.Equal(t, []bool{false, true, true}, []bool{n.Router, n.Solicited, n.Override})
			mac, ok := n.LinkAddr(NDTargetLinkAddr)
			require.True(t, ok)
			require.Equal(t, macA, mac)
		},
	},
	{
		name: "udp behind extension headers",
		frame: ipv6Frame(0, mustHex("3c00010400000000"+"1100010400000000"),
			AppendUDP(nil, UDP{SrcPort: 1, DstPort: 2}, a6, b6, []byte("z"))),
		hex: "02000000000202000000000186dd" + "6000000000190040" + "20010db8000000000000000000000001" + "20010db8000000000000000000000002" +
			"3c00010400000000" + "1100010400000000" + "0001000200092a647a",
		check: func(t *testing.T, f *Frame) {
			require.Equal(t, ProtoUDP, f.Proto())
			ip, ok := f.IPv6()
			require.True(t, ok)
			require.Len(t, ip.Extensions, 16)
			require.Equal(t, uint8(0), ip.NextHeader)
			require.Equal(t, "z", string(f.Payload()))
		},
	},
	{
		name: "lldp",
		frame: AppendLLDP(AppendEthernet(nil, Ethernet{Dst: LLDPMulticast, Src: macA, Type: EtherTypeLLDP}), LLDP{
			ChassisSubtype: ChassisLocal, ChassisID: []byte("dpid:0000000000000001"),
			PortSubtype: PortLocal, PortID: []byte{0, 0, 0, 3}, TTL: 120,
			Optional: AppendOrganization(AppendTLV(nil, TLV{Type: TLVSystemName, Value: []byte("fairlead")}), oui, 1, []byte{0xaa, 0xbb}),
		}),
		hex: "0180c200000e02000000000188cc" + "021607" + "647069643a30303030303030303030303030303031" + "04050700000003" + "06020078" +
			"0a08666169726c656164" + "fe0602464c01aabb" + "0000",
		whole: true,
		check: func(t *testing.T, f *Frame) {
			l, ok := f.LLDP()
			require.True(t, ok)
			require.Equal(t, ChassisLocal, l.ChassisSubtype)
			require.Equal(t, "dpid:0000000000000001", string(l.ChassisID))
			require.Equal(t, PortLocal, l.PortSubtype)
			require.Equal(t, []byte{0, 0, 0, 3}, l.PortID)
			require.Equal(t, uint16(120), l.TTL)
			v, ok := l.Organization(oui, 1)
			require.True(t, ok)
			require.Equal(t, []byte{0xaa, 0xbb}, v)
			_, ok = l.Organization(oui, 2)
			require.False(t, ok)
			var types []uint8
			for tlv := range l.All() {
				types = append(types, tlv.Type)
			}
			require.Equal(t, []uint8{TLVSystemName, TLVOrganization}, types)
		},
	},
}

func mustHex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

func TestGolden(t *testing.T) {
	for _, tt := range golden {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.hex, hex.EncodeToString(tt.frame))
			f, err := Decode(mustHex(tt.hex))
			require.NoError(t, err)
			require.False(t, f.Truncated())
			require.True(t, f.ChecksumsOK())
			tt.check(t, &f)
		})
	}
}

// Ethernet pads short frames to 60 bytes; the padding is never payload.
func TestPadding(t *testing.T) {
	for _, tt := range golden {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Decode(append(mustHex(tt.hex), make([]byte, 60)...))
			require.NoError(t, err)
			require.False(t, f.Truncated())
			require.True(t, f.ChecksumsOK())
			tt.check(t, &f)
		})
	}
}

// A frame cut inside its headers is refused; one cut behind them says so.
func TestTruncation(t *testing.T) {
	for _, tt := range golden {
		t.Run(tt.name, func(t *testing.T) {
			whole := mustHex(tt.hex)
			f, err := Decode(whole)
			require.NoError(t, err)
			headers := len(whole) - len(f.Payload())
			for n := range whole {
				cut, err := Decode(whole[:n:n])
				if tt.whole || n < headers {
					require.ErrorIs(t, err, ErrTruncated, "%d of %d bytes", n, len(whole))
					require.Equal(t, Frame{}, cut)
					continue
				}
				require.NoError(t, err, "%d of %d bytes", n, len(whole))
				require.True(t, cut.Truncated())
				require.Equal(t, f.Payload()[:n-headers], cut.Payload())
				require.True(t, cut.ChecksumsOK())
			}
		})
	}
}

func TestChecksums(t *testing.T) {
	for _, tt := range golden {
		f, err := Decode(mustHex(tt.hex))
		require.NoError(t, err)
		src, _, ok := f.Addrs()
		if !ok {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			b := mustHex(tt.hex)
			f, err := Decode(b)
			require.NoError(t, err)
			last := &f.Network()[23] // byte of the source
			if src.Is4() {
				last = &f.Network()[15]
			}
			*last++
			// SCTP's checksum does not cover the addresses, but IPv4's header does.
			require.False(t, f.ChecksumsOK())
			require.NoError(t, UpdateChecksums(b))
			require.True(t, f.ChecksumsOK())
			*last--
			require.NoError(t, UpdateChecksums(b))
			require.Equal(t, tt.hex, hex.EncodeToString(b))

			if len(f.Payload()) > 0 {
				f.Payload()[0] ^= 0x55
				require.False(t, f.ChecksumsOK())
				require.NoError(t, UpdateChecksums(b))
				require.True(t, f.ChecksumsOK())
			}
		})
	}
}

func TestUDPChecksumZero(t *testing.T) {
	b := AppendUDPFrame(nil, flow(a4, b4, 1, 2), []byte("x"))
	f, err := Decode(b)
	require.NoError(t, err)
	copy(f.Transport()[6:], []byte{0, 0})
	require.True(t, f.ChecksumsOK(), "UDP over IPv4 may have no checksum")
	require.NoError(t, UpdateChecksums(b))
	h, _ := f.UDP()
	require.Zero(t, h.Checksum, "and gets none")

	f, err = Decode(AppendUDPFrame(nil, flow(a6, b6, 1, 2), []byte("x")))
	require.NoError(t, err)
	copy(f.Transport()[6:], []byte{0, 0})
	require.False(t, f.ChecksumsOK(), "UDP over IPv6 must have one")

	// A payload that makes the sum zero: the field is sent as all ones.
	f, err = Decode(AppendUDPFrame(nil, flow(a4, b4, 1, 2), []byte{0, 0}))
	require.NoError(t, err)
	h, _ = f.UDP()
	b = AppendUDPFrame(nil, flow(a4, b4, 1, 2), []byte{byte(h.Checksum >> 8), byte(h.Checksum)})
	f, err = Decode(b)
	require.NoError(t, err)
	h, _ = f.UDP()
	require.Equal(t, uint16(0xffff), h.Checksum)
	require.True(t, f.ChecksumsOK())
}

func TestFragments(t *testing.T) {
	udp := AppendUDP(nil, UDP{SrcPort: 1, DstPort: 2}, a4, b4, make([]byte, 64))

	f, err := Decode(ipv4Frame(IPv4{Proto: ProtoUDP, Flags: MoreFragments}, udp[:32]))
	require.NoError(t, err)
	require.True(t, f.Fragment())
	_, _, ok := f.Ports()
	require.True(t, ok, "the first fragment has the ports")
	require.True(t, f.ChecksumsOK())

	f, err = Decode(ipv4Frame(IPv4{Proto: ProtoUDP, FragOffset: 4}, udp[32:]))
	require.NoError(t, err)
	require.True(t, f.Fragment())
	_, _, ok = f.Ports()
	require.False(t, ok, "the others have not")
	require.Equal(t, udp[32:], f.Payload())

	_, err = Decode(ipv4Frame(IPv4{Proto: ProtoTCP, Flags: MoreFragments}, udp[:8]))
	require.ErrorIs(t, err, ErrTruncated, "a first fragment that hides the ports' header is refused")

	f, err = Decode(ipv6Frame(extFragment, mustHex("1100000100000001"), udp[:32]))
	require.NoError(t, err)
	require.True(t, f.Fragment())
	_, _, ok = f.Ports()
	require.True(t, ok)

	f, err = Decode(ipv6Frame(extFragment, mustHex("1100002000000001"), udp[32:]))
	require.NoError(t, err)
	require.True(t, f.Fragment())
	_, _, ok = f.Ports()
	require.False(t, ok)
	require.Equal(t, ProtoUDP, f.Proto())

	f, err = Decode(ipv6Frame(extFragment, mustHex("1100000000000001"), udp))
	require.NoError(t, err)
	require.False(t, f.Fragment(), "an atomic fragment is the whole packet")
}

// What is not known is payload, not an error.
func TestUnknown(t *testing.T) {
	jumbo := append(AppendEthernet(nil, Ethernet{Dst: macB, Src: macA, Type: 0x8870}), make([]byte, 9000)...)
	f, err := Decode(jumbo)
	require.NoError(t, err)
	require.Len(t, f.Payload(), 9000)
	require.Zero(t, f.Proto())

	f, err = Decode(ipv4Frame(IPv4{Proto: 0}, []byte("abc")))
	require.NoError(t, err)
	require.Equal(t, "abc", string(f.Payload()))
	require.Equal(t, "abc", string(f.Transport()))
	_, _, ok := f.Ports()
	require.False(t, ok)

	f, err = Decode(ipv6Frame(59, nil, []byte("abc")))
	require.NoError(t, err)
	require.Equal(t, "abc", string(f.Payload()))

	// ICMP in IPv6 and ICMPv6 in IPv4 mean nothing.
	f, err = Decode(ipv6Frame(ProtoICMP, nil, nil))
	require.NoError(t, err)
	_, ok = f.ICMP()
	require.False(t, ok)
	f, err = Decode(ipv4Frame(IPv4{Proto: ProtoICMPv6}, []byte{135, 0}))
	require.NoError(t, err)
	_, ok = f.ND()
	require.False(t, ok)

	// 802.3 with a length: spanning tree.
	stp := append(AppendEthernet(nil, Ethernet{Dst: MAC{1, 0x80, 0xc2}, Src: macA, Type: 38}), make([]byte, 46)...)
	f, err = Decode(stp)
	require.NoError(t, err)
	require.Len(t, f.Payload(), 38)
	require.False(t, f.Truncated())

	bddp := AppendEthernet(nil, Ethernet{Dst: Broadcast, Src: macA, Type: EtherTypeBDDP})
	f, err = Decode(AppendLLDP(bddp, LLDP{ChassisSubtype: 7, ChassisID: []byte("c"), PortSubtype: 7, PortID: []byte("p"), TTL: 1}))
	require.NoError(t, err)
	_, ok = f.LLDP()
	require.False(t, ok)
	l, err := ParseLLDP(f.Payload())
	require.NoError(t, err)
	require.Equal(t, "p", string(l.PortID))
}

func TestZeroFrame(t *testing.T) {
	var f Frame
	require.Empty(t, f.Network())
	require.Empty(t, f.Transport())
	require.Empty(t, f.Payload())
	require.Equal(t, Ethernet{}, f.Ethernet())
	_, _, ok := f.Addrs()
	require.False(t, ok)
	require.True(t, f.ChecksumsOK())
}

func TestOptionsAreCut(t *testing.T) {
	h := TCP{Options: make([]byte, 60)}
	f, err := Decode(AppendTCPFrame(nil, flow(a4, b4, 1, 2), h, []byte("x")))
	require.NoError(t, err)
	got, ok := f.TCP()
	require.True(t, ok)
	require.Len(t, got.Options, 40)
	require.Equal(t, "x", string(f.Payload()))

	f, err = Decode(ipv4Frame(IPv4{Proto: 255, Options: []byte{1, 1, 1}}, []byte("x")))
	require.NoError(t, err)
	ip, ok := f.IPv4()
	require.True(t, ok)
	require.Equal(t, []byte{1, 1, 1, 0}, ip.Options)
	require.True(t, f.ChecksumsOK())

	l, err := ParseLLDP(AppendLLDP(nil, LLDP{ChassisSubtype: 7, ChassisID: make([]byte, 300), PortSubtype: 7, PortID: make([]byte, 300),
		Optional: AppendTLV(AppendOrganization(nil, oui, 1, make([]byte, 600)), TLV{Type: TLVSystemName, Value: make([]byte, 600)})}))
	require.NoError(t, err)
	require.Len(t, l.ChassisID, 255)
	v, ok := l.Organization(oui, 1)
	require.True(t, ok)
	require.Len(t, v, 507)
}

func TestAllocations(t *testing.T) {
	tcp, lldp, nd := golden[2].frame, golden[14].frame, golden[11].frame
	buf := make([]byte, 0, 2048)
	payload := []byte("hello")
	fl := flow(a4, b4, 1, 2, VLAN{ID: 5})
	var sink int
	require.Zero(t, testing.AllocsPerRun(100, func() {
		f, _ := Decode(tcp)
		ip, _ := f.IPv4()
		h, _ := f.TCP()
		src, _, _ := f.Addrs()
		sink += int(ip.TTL) + int(h.SrcPort) + src.BitLen() + len(f.Payload())
		f, _ = Decode(lldp)
		l, _ := f.LLDP()
		v, _ := l.Organization(oui, 1)
		sink += len(v)
		f, _ = Decode(nd)
		n, _ := f.ND()
		mac, _ := n.LinkAddr(NDSourceLinkAddr)
		sink += int(mac[0])
		buf = AppendTCPFrame(buf[:0], fl, TCP{Flags: TCPSyn}, payload)
		buf = AppendUDPFrame(buf[:0], fl, payload)
		buf = AppendARPRequest(buf[:0], macA, a4, b4)
		buf = AppendNeighborSolicitation(buf[:0], macA, a6, b6)
	}))
	require.NotZero(t, sink)
}
