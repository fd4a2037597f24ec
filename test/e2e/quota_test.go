//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto/packet"
)

// TestL10QuotaAndChiSquare begins 20,000 connections to each of many VIPs of 32
// members with mixed weights: every member has its quota of slots, and the
// connections follow the slots as chance would have it.
func TestL10QuotaAndChiSquare(t *testing.T) {
	const (
		memberCount = 32
		connections = 20_000
		perSecond   = 40_000
	)
	vips := 5
	if soak {
		vips = 100
	}
	l := singleLab(t, secure, 1+memberCount)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		// What they would answer goes to addresses that nobody has.
		run(t, "ip", "-n", h.namespace.name, "route", "add", "blackhole", "198.18.0.0/15")
	}
	c := l.control("managed")
	rng := rand.New(rand.NewPCG(10, uint64(vips)))

	worst, good := 0.0, 0
	for i := range vips {
		name := fmt.Sprintf("v%d", i)
		address := netip.AddrFrom4([4]byte{10, 0, 0, byte(100 + i)})
		list := members(uint16(8000+i), servers...)
		sum := 0
		for j := range list {
			w := 1 + rng.IntN(100)
			list[j].Weight = &w
			sum += w
		}
		c.must("PUT", "/v1/vips/"+name, vipDoc{Address: address.String(), Listeners: []listenerDoc{listener("tcp", 80, list)}})
		s := c.installed(name)

		mac, err := net.ParseMAC(s.MAC)
		require.NoError(t, err)
		src, err := net.ParseMAC(client.mac)
		require.NoError(t, err)
		flow := packet.Flow{SrcMAC: packet.MAC(src), DstMAC: packet.MAC(mac), Src: netip.MustParseAddrPort("198.18.0.1:1"),
			Dst: netip.AddrPortFrom(address, 80)}
		frame := packet.AppendTCPFrame(nil, flow, packet.TCP{Flags: packet.TCPSyn, Window: 1024}, nil)
		const ipSource, portSource = 14 + 12, 14 + 20
		vary := func(b []byte) {
			// Checksums are wrong, and nobody looks: members have nowhere to answer to.
			binary.BigEndian.PutUint32(b[ipSource:], 198<<24|18<<16|rng.Uint32N(1<<17))
			binary.BigEndian.PutUint16(b[portSource:], uint16(1024+rng.IntN(64512)))
		}
		// What a busy machine drops on the way to the switch is sent again.
		var st statsDoc
		for passed := 0; passed < connections; passed = st.Listeners[0].Packets {
			client.flood(frame, perSecond, time.Duration(connections-passed+100)*time.Second/perSecond, vary)
			before, at := -1, ""
			eventually(t, 10*time.Second, "the counters of "+name+" are complete", func() bool {
				l.settle()
				require.Equal(t, 200, c.rest("GET", "/v1/vips/"+name+"/stats?max_age=200ms", nil, &st))
				now := st.Listeners[0].Packets
				still := now == before && now > 0 && st.At != at // another reading says the same
				before, at = now, st.At
				return still
			})
		}
		ls := st.Listeners[0]

		chi, freedom := 0.0, -1
		for j, m := range ls.Members {
			share := float64(ls.Slots) * float64(*list[j].Weight) / float64(sum)
			require.LessOrEqual(t, math.Abs(float64(m.Slots)-share), 1.0, "slots of member %d of %s, of weight %d of %d", j, name, *list[j].Weight, sum)
			if m.Slots == 0 {
				require.Zero(t, m.Packets)
				continue
			}
			expected := float64(ls.Packets) * float64(m.Slots) / float64(ls.Slots)
			chi += (float64(m.Packets) - expected) * (float64(m.Packets) - expected) / expected
			freedom++
		}
		limit := chiSquare99(freedom)
		worst = max(worst, chi/limit)
		if chi <= limit {
			good++
		}
		// Room for the next one in the cache of datapath flows.
		c.must("DELETE", "/v1/vips/"+name, nil)
	}
	t.Logf("%d VIPs × %d members, %d connections each: chi-square within p > 0.01 for %d; the highest is %.2f of the limit", vips, memberCount, connections, good, worst)
	require.GreaterOrEqual(t, good, vips*95/100)
}

// statsDoc is the counters of a VIP, as far as the tests read them.
type statsDoc struct {
	At        string `json:"at"`
	Listeners []struct {
		Packets int `json:"packets"`
		Slots   int `json:"slots"`
		Members []struct {
			Packets int `json:"packets"`
			Slots   int `json:"slots"`
		} `json:"members"`
	} `json:"listeners"`
}

// chiSquare99 is about the 99th percentile of the chi-square distribution (Wilson and
// Hilferty's approximation).
func chiSquare99(freedom int) float64 {
	k := float64(freedom)
	return k * math.Pow(1-2/(9*k)+2.3263*math.Sqrt(2/(9*k)), 3)
}
