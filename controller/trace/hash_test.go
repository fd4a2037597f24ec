package trace_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/trace"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/ovstest"
)

// randomTuple is a connection to a VIP, of either family and any of the protocols.
func randomTuple(r *rand.Rand) trace.Tuple {
	var src, dst netip.Addr
	if r.IntN(3) == 0 {
		a := [16]byte{0x20, 0x01, 0x0d, 0xb8}
		for i := 4; i < 16; i++ {
			a[i] = byte(r.Uint32())
		}
		src, dst = netip.AddrFrom16(a), netip.MustParseAddr("2001:db8::100")
	} else {
		src, dst = netip.AddrFrom4([4]byte{10, byte(r.Uint32()), byte(r.Uint32()), byte(r.Uint32())}), netip.MustParseAddr("10.0.0.100")
	}
	proto := []uint8{packet.ProtoTCP, packet.ProtoUDP, packet.ProtoSCTP}[r.IntN(3)]
	return trace.Tuple{Proto: proto, Src: netip.AddrPortFrom(src, uint16(1+r.IntN(65535))), Dst: netip.AddrPortFrom(dst, uint16(1+r.IntN(65535)))}
}

func frameOf(h trace.Headers) []byte {
	f := packet.Flow{SrcMAC: packet.MAC(h.EthSrc), DstMAC: packet.MAC(h.EthDst), Src: h.Src, Dst: h.Dst}
	if h.VLAN != 0 {
		f.Tags = []packet.VLAN{{ID: h.VLAN}}
	}
	switch h.Proto {
	case packet.ProtoUDP:
		return packet.AppendUDPFrame(nil, f, []byte("fairlead"))
	case packet.ProtoSCTP:
		return packet.AppendSCTPFrame(nil, f, 1, nil)
	}
	return packet.AppendTCPFrame(nil, f, packet.TCP{Flags: h.TCPFlags}, nil)
}

// left waits until that many frames have left by ports p2 to p5.
func left(o *ovstest.OVS, n int) {
	o.Eventually("all frames have left", func() bool {
		return len(o.Sent("p2"))+len(o.Sent("p3"))+len(o.Sent("p4"))+len(o.Sent("p5")) >= n
	})
}

// Of 500 connections each is told the bucket that Open vSwitch takes.
func TestHashIsThatOfOpenVSwitch(t *testing.T) {
	o := ovstest.Start(t)
	o.AddBridge(ovstest.Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2", "p3", "p4", "p5"}})
	r := rand.New(rand.NewPCG(4, 9))
	for _, slots := range []int{16, 64, 256} {
		owner := make([]int, slots)
		group := fmt.Sprintf("group_id=%d,type=select", slots)
		for i := range owner {
			owner[i] = 2 + r.IntN(4)
			group += fmt.Sprintf(",bucket=weight:1,actions=output:%d", owner[i])
		}
		o.AddGroup("s1", group)
		o.AddFlow("s1", fmt.Sprintf("priority=1,actions=group:%d", slots))
		o.Appctl("revalidator/wait") // else some packets still go by the group before
		var frames [][]byte
		want := map[int][]string{}
		for range 500 {
			h := trace.Headers{EthSrc: [6]byte{2, 0, 0, 0, 0, 1}, EthDst: [6]byte{2, 0, 0, 0, 0, 2}, Tuple: randomTuple(r), TCPFlags: 2}
			v, ok := trace.HashMurmur(trace.NewPacket(h))
			require.True(t, ok)
			at := owner[v%uint32(slots)]
			frames = append(frames, frameOf(h))
			want[at] = append(want[at], fmt.Sprintf("%x", frames[len(frames)-1]))
		}
		o.Inject("p1", frames...)
		left(o, 500)
		for port := 2; port <= 5; port++ {
			name := fmt.Sprintf("p%d", port)
			var got []string
			for _, f := range o.Sent(name) {
				got = append(got, fmt.Sprintf("%x", f))
			}
			require.ElementsMatch(t, want[port], got, "%d slots, port %s", slots, name)
			o.Forget(name)
		}
	}
}

// Of the hash of the source address alone too.
func TestHashOfTheSourceIsThatOfOpenVSwitch(t *testing.T) {
	o := ovstest.Start(t)
	o.AddBridge(ovstest.Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2", "p3", "p4", "p5"}})
	o.AddFlow("s1", "actions=multipath(nw_src,6,modulo_n,4,0,NXM_NX_REG0[0..15]),resubmit(,1)",
		"table=1,reg0=0,actions=output:2", "table=1,reg0=1,actions=output:3", "table=1,reg0=2,actions=output:4", "table=1,reg0=3,actions=output:5")
	r := rand.New(rand.NewPCG(4, 10))
	var frames [][]byte
	want := map[uint32][]string{}
	for range 500 {
		h := trace.Headers{EthSrc: [6]byte{2, 0, 0, 0, 0, 1}, EthDst: [6]byte{2, 0, 0, 0, 0, 2}, Tuple: randomTuple(r), TCPFlags: 2}
		v, ok := trace.HashSource(trace.NewPacket(h), 6)
		require.True(t, ok)
		frames = append(frames, frameOf(h))
		want[v%4] = append(want[v%4], fmt.Sprintf("%x", frames[len(frames)-1]))
	}
	o.Inject("p1", frames...)
	left(o, 500)
	for i := range uint32(4) {
		var got []string
		for _, f := range o.Sent(fmt.Sprintf("p%d", i+2)) {
			got = append(got, fmt.Sprintf("%x", f))
		}
		require.ElementsMatch(t, want[i], got)
	}
}

// The values are those of the processor's instructions.
func TestHashCRC(t *testing.T) {
	for _, c := range []struct {
		src, dst string
		want     uint32
	}{
		{"10.0.0.1:40000", "10.0.0.100:80", 0x086102c0},
		{"[2001:db8::1]:40000", "[2001:db8:7700::64]:80", 0xe5934e45},
	} {
		tuple := trace.Tuple{Proto: 6, Src: netip.MustParseAddrPort(c.src), Dst: netip.MustParseAddrPort(c.dst)}
		there, _ := trace.HashCRC(trace.NewPacket(trace.Headers{Tuple: tuple}))
		back, _ := trace.HashCRC(trace.NewPacket(trace.Headers{Tuple: tuple.Reverse()}))
		require.Equal(t, fmt.Sprintf("%08x", c.want), fmt.Sprintf("%08x", there))
		require.Equal(t, there, back, "both directions hash alike")
	}
}
