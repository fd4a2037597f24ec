package packet

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// flows are of both families, tagged and not.
func answerFlows() []Flow {
	v4 := Flow{SrcMAC: MAC{2, 0, 0, 0, 0, 1}, DstMAC: MAC{2, 0, 0, 0, 0, 2},
		Src: netip.MustParseAddrPort("10.0.0.1:40001"), Dst: netip.MustParseAddrPort("10.0.0.100:80")}
	v6 := v4
	v6.Src, v6.Dst = netip.MustParseAddrPort("[2001:db8::1]:40001"), netip.MustParseAddrPort("[2001:db8::100]:80")
	tagged := v4
	tagged.Tags = []VLAN{{TPID: EtherTypeVLAN, ID: 7}}
	return []Flow{v4, v6, tagged}
}

func decoded(t *testing.T, frame []byte) Frame {
	t.Helper()
	f, err := Decode(frame)
	require.NoError(t, err)
	require.True(t, f.ChecksumsOK())
	return f
}

func TestRefusalOfTCP(t *testing.T) {
	for _, flow := range answerFlows() {
		for _, c := range []struct {
			in      TCP
			payload string
			want    *TCP
		}{
			{TCP{Seq: 1000, Flags: TCPSyn}, "", &TCP{Ack: 1001, Flags: TCPRst | TCPAck}},
			{TCP{Seq: 0xffffffff, Flags: TCPSyn}, "", &TCP{Ack: 0, Flags: TCPRst | TCPAck}},
			{TCP{Seq: 1000, Flags: TCPSyn}, "hello", &TCP{Ack: 1006, Flags: TCPRst | TCPAck}},
			{TCP{Seq: 1000, Flags: TCPFin}, "hello", &TCP{Ack: 1006, Flags: TCPRst | TCPAck}},
			{TCP{Seq: 1000}, "hello", &TCP{Ack: 1005, Flags: TCPRst | TCPAck}},
			{TCP{Seq: 1000, Ack: 77, Flags: TCPAck | TCPPsh}, "hello", &TCP{Seq: 77, Flags: TCPRst}},
			{TCP{Seq: 1000, Ack: 77, Flags: TCPRst | TCPAck}, "", nil},
			{TCP{Seq: 1000, Flags: TCPRst}, "", nil},
		} {
			out := AppendRefusal(nil, decoded(t, AppendTCPFrame(nil, flow, c.in, []byte(c.payload))))
			if c.want == nil {
				require.Empty(t, out, "%+v", c.in)
				continue
			}
			f := decoded(t, out)
			got, ok := f.TCP()
			require.True(t, ok)
			require.Equal(t, flow.Reverse(), flowOf(f))
			got.SrcPort, got.DstPort, got.Checksum, got.Options = 0, 0, 0, nil
			require.Equal(t, *c.want, got, "%+v", c.in)
		}
	}
}

func flowOf(f Frame) Flow {
	e := f.Ethernet()
	src, dst, _ := f.Addrs()
	sport, dport, _ := f.Ports()
	out := Flow{SrcMAC: e.Src, DstMAC: e.Dst, Src: netip.AddrPortFrom(src, sport), Dst: netip.AddrPortFrom(dst, dport)}
	if v, ok := f.VLAN(); ok {
		out.Tags = []VLAN{v}
	}
	return out
}

func TestRefusalOfDatagrams(t *testing.T) {
	for _, flow := range answerFlows() {
		for _, size := range []int{0, 4, 3000} {
			for _, in := range [][]byte{AppendUDPFrame(nil, flow, make([]byte, size)), AppendSCTPFrame(nil, flow, 9, make([]byte, size))} {
				request := decoded(t, in)
				f := decoded(t, AppendRefusal(nil, request))
				h, ok := f.ICMP()
				want, most := ICMP{Type: 3, Code: 3}, 576
				if !ok {
					h, ok = f.ICMPv6()
					want, most = ICMP{Type: 1, Code: 4}, 1280
				}
				require.True(t, ok)
				h.Checksum = 0
				require.Equal(t, want, h)
				require.LessOrEqual(t, len(f.Network()), most)
				require.Equal(t, request.Network()[:len(f.Payload())], f.Payload())
				require.True(t, len(f.Payload()) == len(request.Network()) || len(f.Network()) == most)
				q, ok := f.Quote()
				require.True(t, ok)
				require.Equal(t, Quote{request.Proto(), flow.Src, flow.Dst}, q)
				require.Equal(t, flow.Tags, flowOf(f).Tags)
				require.Empty(t, AppendRefusal(nil, f), "no error about an error")
			}
		}
	}
}

func TestNoAnswerToWhatIsNotWhole(t *testing.T) {
	flow := answerFlows()[0]
	for _, frame := range [][]byte{
		AppendTCPFrame(nil, flow, TCP{Flags: TCPSyn}, []byte("hello")),
		AppendUDPFrame(nil, flow, []byte("hello")),
		AppendEchoFrame(nil, flow, false, 1, 2, []byte("hello")),
	} {
		for n := range len(frame) {
			if f, err := Decode(frame[:n]); err == nil {
				require.Empty(t, AppendRefusal(nil, f))
				require.Empty(t, AppendEchoAnswer(nil, f))
				require.Empty(t, AppendReaddressed(nil, f, Readdress{}))
			}
		}
	}
	require.Empty(t, AppendRefusal(nil, Frame{}))
	require.Empty(t, AppendEchoAnswer(nil, Frame{}))
}

func TestEchoAnswer(t *testing.T) {
	for _, flow := range answerFlows() {
		in := decoded(t, AppendEchoFrame(nil, flow, false, 7, 8, []byte("payload")))
		require.Equal(t, AppendEchoFrame(nil, flow.Reverse(), true, 7, 8, []byte("payload")), AppendEchoAnswer(nil, in))
		require.Empty(t, AppendEchoAnswer(nil, decoded(t, AppendEchoFrame(nil, flow, true, 7, 8, nil))))
	}
}

// An error with other addresses is the one that would have come without translation.
func TestReaddressedErrors(t *testing.T) {
	for i, flow := range answerFlows() {
		for _, build := range []func(Flow) []byte{
			func(f Flow) []byte { return AppendTCPFrame(nil, f, TCP{Seq: 5, Flags: TCPAck}, []byte("segment")) },
			func(f Flow) []byte { return AppendUDPFrame(nil, f, []byte("datagram")) },
			func(f Flow) []byte { return AppendSCTPFrame(nil, f, 3, []byte("chunk123")) },
		} {
			for _, cut := range []int{0, 8, 20} {
				t.Run(fmt.Sprint(i, cut), func(t *testing.T) {
					// A router far away tells the VIP of a packet that a member sent.
					member := netip.MustParseAddrPort("10.0.0.2:8080")
					router := netip.MustParseAddr("192.0.2.1")
					if flow.Src.Addr().Is6() {
						member, router = netip.MustParseAddrPort("[2001:db8::2]:8080"), netip.MustParseAddr("2001:db8:9::1")
					}
					sent := flow.Reverse()
					translated := errorAbout(t, build(sent), router, sent.Src.Addr(), cut)
					sent.Src = member
					want := errorAbout(t, build(sent), router, member.Addr(), cut)
					got := AppendReaddressed(nil, decoded(t, translated), Readdress{Dst: member.Addr(), QuotedSrc: member})
					if q, _ := mustDecode(t, got).Quote(); q.Proto == ProtoSCTP && cut != 8 {
						// Its checksum covers what is not quoted, and stays as it was.
						require.Equal(t, member, q.Src)
						return
					}
					require.Equal(t, want, got)

					// And back.
					got = AppendReaddressed(nil, decoded(t, want), Readdress{DstMAC: flow.DstMAC, Dst: flow.Dst.Addr(), QuotedSrc: flow.Dst, Tags: flow.Tags})
					f := decoded(t, got)
					require.Equal(t, flow.DstMAC, f.Ethernet().Dst)
					require.Equal(t, flow.Tags, flowOf(f).Tags)
					tf := decoded(t, translated)
					require.Equal(t, tf.Network(), f.Network())
				})
			}
		}
	}
}

func mustDecode(t *testing.T, frame []byte) *Frame {
	f := decoded(t, frame)
	return &f
}

// errorAbout is time exceeded about a frame, of which so many bytes of the transport
// header are quoted; 0: all.
func errorAbout(t *testing.T, frame []byte, src, dst netip.Addr, cut int) []byte {
	f, err := Decode(frame)
	require.NoError(t, err)
	quote := f.Network()
	if cut > 0 {
		quote = quote[:min(len(quote), f.l4-f.l3+cut)]
	}
	flow := Flow{SrcMAC: MAC{2, 9}, DstMAC: MAC{2, 8}, Src: netip.AddrPortFrom(src, 0), Dst: netip.AddrPortFrom(dst, 0)}
	if src.Is4() {
		return AppendICMP(flow.appendIP(nil, ProtoICMP, 64, icmpLen+len(quote)), ICMP{Type: ICMPTimeExceeded}, quote)
	}
	b := flow.appendIP(nil, ProtoICMPv6, 64, icmpLen+len(quote))
	return AppendICMPv6(b, ICMP{Type: ICMPv6TimeExceeded}, src, dst, quote)
}

func TestQuoteOfWhatIsNone(t *testing.T) {
	flow := answerFlows()[0]
	inner := decoded(t, AppendUDPFrame(nil, flow, nil))
	about := func(typ uint8, quote []byte) Frame {
		return decoded(t, AppendICMP(flow.appendIP(nil, ProtoICMP, 64, icmpLen+len(quote)), ICMP{Type: typ}, quote))
	}
	good := inner.Network()
	fragment := append([]byte{}, good...)
	fragment[7] = 1
	six := append([]byte{}, good...)
	six[0] = 0x65
	short := append([]byte{}, good...)
	short[0] = 0x44
	icmp := append([]byte{}, good...)
	icmp[9] = ProtoICMP
	for name, f := range map[string]Frame{
		"a redirect": about(5, good), "an echo": about(8, good), "nothing": about(3, nil), "a later fragment": about(3, fragment),
		"another family": about(3, six), "a short header": about(3, short), "no ports": about(3, good[:22]),
		"about ICMP": about(3, icmp), "no ICMP": inner,
	} {
		_, ok := f.Quote()
		require.False(t, ok, name)
		require.Empty(t, AppendReaddressed(nil, f, Readdress{}), name)
	}
	f := about(3, good)
	_, ok := f.Quote()
	require.True(t, ok)
}
