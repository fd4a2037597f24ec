package main

import (
	"bytes"
	"context"
	"net/netip"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
)

func TestStatsTable(t *testing.T) {
	member := func(last byte, packets uint64, slots int, observed *float64) balancer.MemberStats {
		return balancer.MemberStats{
			Address: netip.AddrFrom4([4]byte{10, 0, 0, last}), Port: 8080, Slots: slots, Share: float64(slots) / 32, WeightShare: 1.0 / 3, ObservedShare: observed,
			Traffic: balancer.Traffic{Packets: packets, Bytes: 60 * packets, NewConnections: at(packets / 5), PacketRate: float64(packets) / 10, ByteRate: 6 * float64(packets), NewConnectionRate: 0.25},
		}
	}
	st := balancer.Stats{
		Name: "web", At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Interval: balancer.Duration(10 * time.Second),
		Unread: []string{"0000000000000003: controller: switch is not connected"},
		Listeners: []balancer.ListenerStats{{
			Protocol: balancer.TCP, Port: 80, Slots: 32, QuantisationError: 1.0 / 96,
			Traffic: balancer.Traffic{Packets: 1234567, Bytes: 74074020, NewConnections: at(uint64(246913)), PacketRate: 123456.7, ByteRate: 7407402, NewConnectionRate: 24691.3},
			Members: []balancer.MemberStats{member(2, 1000000, 11, at(0.81)), member(3, 234567, 11, at(0.19)), member(4, 0, 10, at(0.0))},
		}, {
			Protocol: balancer.UDP, Port: 53, Slots: 16,
			Members: []balancer.MemberStats{{Address: netip.MustParseAddr("2001:db8::2"), Port: 53, Slots: 16, Share: 1, WeightShare: 1}},
		}},
	}
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	statsTable(w, st)
	require.NoError(t, w.Flush())
	golden(t, "stats.txt", b.String())
}

// The table is renewed until the command is told to end; without a terminal one follows
// the other.
func TestStatsWatch(t *testing.T) {
	r := newRig(t)
	r.done("vip apply -f " + r.file(webYAML))
	for _, c := range []struct{ format, mark string }{{"table", "LISTENER  MEMBER"}, {"json", `"listeners":[`}, {"yaml", "---\nname: web"}} {
		ctx, cancel := context.WithCancel(t.Context())
		var errs bytes.Buffer
		out := &counting{mark: c.mark, enough: cancel}
		code := run(ctx, []string{"vip", "stats", "web", "--watch", "--every", "200ms", "-o", c.format}, strings.NewReader(""), out, &errs)
		require.Equal(t, exitDone, code, errs.String())
		require.Equal(t, 2, strings.Count(out.String(), c.mark), "%s", out.String())
		require.NotContains(t, out.String(), "\x1b")
		cancel()
	}
	require.Contains(t, r.fails(exitUsage, "vip stats web --watch --every 10ms"), "every: ")
	require.Contains(t, r.fails(exitRefused, "vip stats nothing --watch"), "not found")
}

// counting calls enough when a mark was written twice.
type counting struct {
	bytes.Buffer
	mark   string
	enough func()
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.Buffer.Write(b)
	if strings.Count(c.String(), c.mark) == 2 {
		c.enough()
	}
	return n, err
}

func TestBarsAndAmounts(t *testing.T) {
	require.Equal(t, strings.Repeat("█", barWidth), bar(1))
	require.Equal(t, strings.Repeat("█", barWidth), bar(1.5))
	require.Equal(t, " ", bar(0))
	require.Equal(t, "█▌", bar(1.5/barWidth))
	for v, want := range map[float64]string{0: "0", 7: "7", 0.25: "0.2", 12.34: "12.3", 999: "999", 999.7: "1.0k", 12345: "12.3k", 123456: "123k", 2.5e6: "2.5M", 4e9: "4.0G", 5e12: "5000G"} {
		require.Equal(t, want, amount(v))
	}
}
