package packet

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// edit returns a copy of a frame with bytes changed from an offset on.
func edit(frame []byte, at int, v ...byte) []byte {
	b := append([]byte(nil), frame...)
	copy(b[at:], v)
	return b
}

func taggedFrame(tags int) []byte {
	return AppendUDPFrame(nil, flow(a4, b4, 1, 2, make([]VLAN, tags)...), nil)
}

// nd returns a neighbour message with these options behind its fixed part.
func nd(typ uint8, body int, options ...byte) []byte {
	f := flow(a6, b6, 0, 0)
	payload := append(make([]byte, body-icmpLen), options...)
	b := f.appendIP(nil, ProtoICMPv6, 255, icmpLen+len(payload))
	return AppendICMPv6(b, ICMP{Type: typ}, a6, b6, payload)
}

func extensions(n int) []byte {
	var b []byte
	for i := range n {
		next := byte(extDestination)
		if i == n-1 {
			next = 59
		}
		b = append(b, next, 0, 1, 4, 0, 0, 0, 0)
	}
	return b
}

// lldp makes a frame of raw TLVs.
func lldp(tlvs ...[]byte) []byte {
	b := AppendEthernet(nil, Ethernet{Dst: LLDPMulticast, Src: macA, Type: EtherTypeLLDP})
	for _, t := range tlvs {
		b = append(b, t...)
	}
	return b
}

func tlv(typ uint8, v ...byte) []byte { return AppendTLV(nil, TLV{Type: typ, Value: v}) }

func repeat(n int, b []byte) []byte {
	var out []byte
	for range n {
		out = append(out, b...)
	}
	return out
}

var (
	arpFrame = AppendARPRequest(nil, macA, a4, b4)
	tcpFrame = AppendTCPFrame(nil, flow(a4, b4, 1, 2), TCP{}, []byte("payload"))
	udpFrame = AppendUDPFrame(nil, flow(a4, b4, 1, 2), []byte("payload"))
	udp6     = AppendUDPFrame(nil, flow(a6, b6, 1, 2), []byte("payload"))

	chassis = tlv(TLVChassisID, 7, 'c')
	portID  = tlv(TLVPortID, 7, 'p')
	ttl     = tlv(TLVTTL, 0, 120)
	end     = tlv(TLVEnd)
)

// hostile are frames that must be refused, each with the reason. They are seeds of
// the fuzz target too.
var hostile = []struct {
	name   string
	frame  []byte
	header string
	err    error
}{
	{"empty", nil, "ethernet", ErrTruncated},
	{"runt", make([]byte, 13), "ethernet", ErrTruncated},
	{"three tags", taggedFrame(3), "vlan", ErrTooMany},
	{"twenty tags", taggedFrame(20), "vlan", ErrTooMany},
	{"tag cut", taggedFrame(2)[:20], "vlan", ErrTruncated},

	{"arp hlen 255", edit(arpFrame, 14+4, 255), "arp", ErrLength},
	{"arp plen 0", edit(arpFrame, 14+5, 0), "arp", ErrLength},
	{"arp plen 16", edit(arpFrame, 14+5, 16), "arp", ErrLength},
	{"arp for ipv6", edit(arpFrame, 14+2, 0x86, 0xdd), "arp", ErrValue},
	{"arp over frame relay", edit(arpFrame, 14, 0, 15), "arp", ErrValue},
	{"arp empty", arpFrame[:14], "arp", ErrTruncated},

	{"ipv4 ihl 0", edit(udpFrame, 14, 0x40), "ipv4", ErrLength},
	{"ipv4 ihl 4", edit(udpFrame, 14, 0x44), "ipv4", ErrLength},
	{"ipv4 ihl 15", edit(udpFrame, 14, 0x4f), "ipv4", ErrLength},
	{"ipv4 ihl 15 beyond the frame", edit(udpFrame, 14, 0x4f, 0, 0, 60), "ipv4", ErrTruncated},
	{"ipv4 version 0", edit(udpFrame, 14, 0x05), "ipv4", ErrValue},
	{"ipv4 version 6", edit(udpFrame, 14, 0x65), "ipv4", ErrValue},
	{"ipv4 length 0", edit(udpFrame, 14+2, 0, 0), "ipv4", ErrLength},
	{"ipv4 length 19", edit(udpFrame, 14+2, 0, 19), "ipv4", ErrLength},
	{"ipv4 length 20", edit(udpFrame, 14+2, 0, 20), "udp", ErrTruncated},
	{"ipv4 cut", udpFrame[:14+19], "ipv4", ErrTruncated},

	{"tcp offset 0", edit(tcpFrame, 14+20+12, 0x00), "tcp", ErrLength},
	{"tcp offset 4", edit(tcpFrame, 14+20+12, 0x40), "tcp", ErrLength},
	{"tcp offset 15", edit(tcpFrame, 14+20+12, 0xf0), "tcp", ErrTruncated},
	{"tcp cut", tcpFrame[:14+20+19], "tcp", ErrTruncated},
	{"udp length 0", edit(udpFrame, 14+20+4, 0, 0), "udp", ErrLength},
	{"udp length 7", edit(udpFrame, 14+20+4, 0, 7), "udp", ErrLength},
	{"udp length beyond the packet", edit(udpFrame, 14+20+4, 0, 16), "udp", ErrLength},
	{"sctp cut", ipv4Frame(IPv4{Proto: ProtoSCTP}, make([]byte, 11)), "sctp", ErrTruncated},
	{"icmp cut", ipv4Frame(IPv4{Proto: ProtoICMP}, make([]byte, 7)), "icmp", ErrTruncated},

	{"ipv6 version 4", edit(udp6, 14, 0x40), "ipv6", ErrValue},
	{"ipv6 length 0", edit(udp6, 14+4, 0, 0), "udp", ErrTruncated},
	{"ipv6 nine extension headers", ipv6Frame(extDestination, extensions(9), nil), "ipv6", ErrTooMany},
	{"ipv6 hundred extension headers", ipv6Frame(extDestination, extensions(100), nil), "ipv6", ErrTooMany},
	{"ipv6 extension beyond the packet", ipv6Frame(extDestination, []byte{59, 1, 1, 4, 0, 0, 0, 0}, nil), "ipv6", ErrLength},
	{"ipv6 extension of 2048 bytes", ipv6Frame(extRouting, []byte{59, 255, 1, 4, 0, 0, 0, 0}, nil), "ipv6", ErrLength},
	{"ipv6 extension missing", ipv6Frame(extDestination, nil, nil), "ipv6", ErrTruncated},
	{"ipv6 hop-by-hop second", ipv6Frame(extDestination, []byte{0, 0, 1, 4, 0, 0, 0, 0, 59, 0, 1, 4, 0, 0, 0, 0}, nil), "ipv6", ErrValue},
	{"ipv6 jumbogram", edit(ipv6Frame(0, []byte{17, 0, 0xc2, 4, 0, 1, 0, 0}, make([]byte, 100)), 14+4, 0, 0), "ipv6", ErrTruncated},
	{"ipv6 authentication beyond the packet", ipv6Frame(extAH, []byte{59, 255, 0, 0, 0, 0, 0, 0}, nil), "ipv6", ErrLength},

	{"icmpv6 cut", ipv6Frame(ProtoICMPv6, nil, make([]byte, 7)), "icmpv6", ErrTruncated},
	{"nd option length 0", nd(ICMPv6NeighborSolicitation, 24, 1, 0, 2, 0, 0, 0, 0, 1), "nd", ErrLength},
	{"nd second option length 0", nd(ICMPv6RouterAdvertisement, 16, 1, 1, 2, 0, 0, 0, 0, 1, 5, 0, 0, 0, 0, 0, 0, 0), "nd", ErrLength},
	{"nd option beyond the packet", nd(ICMPv6NeighborAdvertisement, 24, 2, 2, 2, 0, 0, 0, 0, 1), "nd", ErrTruncated},
	{"nd option of one byte", nd(ICMPv6RouterSolicitation, 8, 1), "nd", ErrTruncated},
	{"nd without target", nd(ICMPv6NeighborSolicitation, 16), "nd", ErrTruncated},
	{"nd redirect cut", nd(ICMPv6Redirect, 32), "nd", ErrTruncated},
	{"nd routed", edit(nd(ICMPv6NeighborSolicitation, 24), 14+7, 64), "nd", ErrValue},
	{"nd code 1", edit(nd(ICMPv6NeighborSolicitation, 24), 14+40+1, 1), "nd", ErrValue},
	{"nd multicast target", edit(nd(ICMPv6NeighborSolicitation, 24), 14+40+8, 0xff, 2), "nd", ErrValue},
	{"nd first fragment", edit(ipv6Frame(extFragment, mustHex("3a00000100000001"), edit(make([]byte, 24), 0, 135)), 14+7, 255), "nd", ErrValue},

	{"lldp empty", lldp(), "lldp", ErrTruncated},
	{"lldp end only", lldp(end), "lldp", ErrValue},
	{"lldp no ttl", lldp(chassis, portID, end), "lldp", ErrValue},
	{"lldp missing end", lldp(chassis, portID, ttl), "lldp", ErrTruncated},
	{"lldp end as 0x0200", lldp(chassis, portID, ttl, []byte{2, 0}), "lldp", ErrValue},
	{"lldp end with a length", lldp(chassis, portID, ttl, []byte{0, 1, 0}), "lldp", ErrLength},
	{"lldp overrun", lldp(chassis, portID, ttl, []byte{10, 200, 'x'}, end), "lldp", ErrTruncated},
	{"lldp 2,000 tlvs", lldp(chassis, portID, ttl, repeat(2000, tlv(TLVSystemName)), end), "lldp", ErrTooMany},
	{"lldp 65 tlvs", lldp(chassis, portID, ttl, repeat(62, tlv(TLVSystemName)), end), "lldp", ErrTooMany},
	{"lldp chassis subtype 255", lldp(tlv(TLVChassisID, 255, 'c'), portID, ttl, end), "lldp", ErrValue},
	{"lldp chassis subtype 0", lldp(tlv(TLVChassisID, 0, 'c'), portID, ttl, end), "lldp", ErrValue},
	{"lldp port subtype 8", lldp(chassis, tlv(TLVPortID, 8, 'p'), ttl, end), "lldp", ErrValue},
	{"lldp chassis without id", lldp(tlv(TLVChassisID, 7), portID, ttl, end), "lldp", ErrLength},
	{"lldp chassis empty", lldp(tlv(TLVChassisID), portID, ttl, end), "lldp", ErrLength},
	{"lldp port of 256 bytes", lldp(chassis, tlv(TLVPortID, append([]byte{7}, make([]byte, 256)...)...), ttl, end), "lldp", ErrLength},
	{"lldp ttl of 1 byte", lldp(chassis, portID, tlv(TLVTTL, 1), end), "lldp", ErrLength},
	{"lldp out of order", lldp(portID, chassis, ttl, end), "lldp", ErrValue},
	{"lldp chassis twice", lldp(chassis, portID, ttl, chassis, end), "lldp", ErrValue},
	{"lldp organisation cut", lldp(chassis, portID, ttl, tlv(TLVOrganization, 2, 0x46, 0x4c), end), "lldp", ErrLength},
}

func TestHostile(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Decode(tt.frame)
			require.ErrorIs(t, err, tt.err)
			require.Equal(t, Frame{}, f, "a failed decode leaves nothing")
			var pe *ParseError
			require.True(t, errors.As(err, &pe))
			require.Equal(t, tt.header, pe.Header, "%v", err)
			require.LessOrEqual(t, pe.Offset, len(tt.frame))
			require.Error(t, UpdateChecksums(append([]byte(nil), tt.frame...)))
		})
	}
}

// The largest that is allowed is allowed.
func TestBounds(t *testing.T) {
	for name, frame := range map[string][]byte{
		"two tags":             taggedFrame(2),
		"eight extensions":     ipv6Frame(extDestination, extensions(8), nil),
		"64 tlvs":              lldp(chassis, portID, ttl, repeat(61, tlv(TLVSystemName)), end),
		"nd without options":   nd(ICMPv6NeighborSolicitation, 24),
		"router advertisement": nd(ICMPv6RouterAdvertisement, 16, 5, 1, 0, 0, 0, 0, 5, 0xdc),
		"redirect":             nd(ICMPv6Redirect, 40),
	} {
		_, err := Decode(frame)
		require.NoError(t, err, name)
	}
}
