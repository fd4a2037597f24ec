package packet

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/test/allocation"
)

// use calls everything a frame offers and encodes again what it holds: the result
// must decode to the same headers.
func use(t *testing.T, f *Frame) {
	e := f.Ethernet()
	tags, n := f.Tags()
	f.VLAN()
	f.ChecksumsOK()
	f.Ports()
	require.LessOrEqual(t, len(f.Payload()), len(f.Network()))
	b := AppendEthernet(nil, e, tags[:n]...)
	require.Equal(t, f.data[:f.l3], b)

	if a, ok := f.ARP(); ok {
		require.Equal(t, f.Network(), AppendARP(nil, a))
	}
	src, dst, _ := f.Addrs()
	if ip, ok := f.IPv4(); ok {
		again, err := Decode(append(AppendIPv4(b, ip, len(f.Transport())), f.Transport()...))
		if !f.truncated {
			require.NoError(t, err)
		}
		if err == nil {
			got, ok := again.IPv4()
			require.True(t, ok)
			got.Checksum, got.Length = ip.Checksum, ip.Length
			require.Equal(t, ip, got)
			require.Equal(t, f.proto, again.proto)
		}
	}
	if ip, ok := f.IPv6(); ok {
		again, err := Decode(append(AppendIPv6(b, ip, len(f.Transport())), f.Transport()...))
		if !f.truncated {
			require.NoError(t, err)
		}
		if err == nil {
			got, ok := again.IPv6()
			require.True(t, ok)
			got.Length = ip.Length
			require.Equal(t, ip, got)
			require.Equal(t, f.proto, again.proto)
		}
	}
	// A transport header encoded again differs from the frame's in its checksum only,
	// and not at all when that was right.
	var out []byte
	if h, ok := f.TCP(); ok {
		out = AppendTCP(nil, h, src, dst, f.Payload())
	}
	if h, ok := f.UDP(); ok && h.Checksum != 0 && !f.truncated && !f.fragment {
		out = AppendUDP(nil, h, src, dst, f.Payload())
	}
	if h, ok := f.SCTP(); ok {
		out = AppendSCTP(nil, h, f.Payload())
	}
	if h, ok := f.ICMP(); ok {
		out = AppendICMP(nil, h, f.Payload())
	}
	if out != nil && !f.truncated && !f.fragment {
		require.Len(t, out, len(f.Transport()))
		if f.layers&layerIPv4 == 0 || fold(sum(f.data[f.l3:f.l4])) == 0xffff {
			require.Equal(t, f.ChecksumsOK(), sameChecksum(out, f.Transport()))
		}
	}
	if n, ok := f.ND(); ok {
		for o := range n.All() {
			require.NotEmpty(t, o.Value)
		}
		n.LinkAddr(NDSourceLinkAddr)
	}
	if l, ok := f.LLDP(); ok {
		b := AppendLLDP(nil, l)
		require.True(t, bytes.HasPrefix(f.data[f.l3:], b))
		count := 0
		for range l.All() {
			count++
		}
		require.LessOrEqual(t, count, MaxTLVs-3)
		l.Organization(oui, 1)
	}
}

// sameChecksum compares two transport headers. Zero and all ones are the same
// number in one's complement.
func sameChecksum(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	for i := range a {
		if a[i] != b[i] && a[i]^b[i] != 0xff {
			return false
		}
	}
	return false
}

func FuzzDecode(f *testing.F) {
	for _, tt := range golden {
		f.Add(tt.frame)
	}
	for _, tt := range hostile {
		f.Add(tt.frame)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = bytes.Clone(data)
		allocation.Bounded(t, len(data), func() {
			if f, err := Decode(data); err == nil {
				f.ARP()
				f.ND()
				f.LLDP()
			}
		})
		frame, err := Decode(data)
		if err != nil {
			require.Equal(t, Frame{}, frame)
			return
		}
		use(t, &frame)
		require.NoError(t, UpdateChecksums(data))
		require.True(t, frame.ChecksumsOK())
	})
}

func FuzzLLDP(f *testing.F) {
	f.Add(bytes.Join([][]byte{chassis, portID, ttl, end}, nil))
	for _, tt := range hostile {
		if tt.header == "lldp" {
			f.Add(tt.frame[ethernetLen:])
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		allocation.Bounded(t, len(data), func() { _, _ = ParseLLDP(data) })
		l, err := ParseLLDP(data)
		if err != nil {
			require.Equal(t, LLDP{}, l)
			return
		}
		out := AppendLLDP(nil, l)
		require.True(t, bytes.HasPrefix(data, out))
		again, err := ParseLLDP(out)
		require.NoError(t, err)
		require.Equal(t, l, again)
	})
}
