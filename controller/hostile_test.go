package controller_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/discovery"
	"github.com/fairlead/fairlead/apps/forwarding"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// A switch that sends 50,000 packets a second to the controller, with sources and ports
// of its own invention, is taken at its limit; another one is served as ever.
func TestZ01HostileSwitch(t *testing.T) {
	const perSecond, span = 50_000, 2 * time.Second
	g := topology.New(topology.Options{})
	core, err := controller.New(t.Context(), controller.Options{
		Store: &lab.Memory{}, Graph: g, DefaultStage: controller.StageManaged, Log: slog.New(slog.DiscardHandler),
		Apps: []controller.App{
			discovery.New([]byte(strings.Repeat("k", 32)), io.Reader(zeros{}), func(context.Context, []byte) error { return nil }),
			forwarding.New(g),
		},
	})
	require.NoError(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- core.Run(ctx, ln) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	connect := func(dpid ofproto.DPID) net.Conn {
		nc, err := net.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = simswitch.New(simswitch.Options{DPID: dpid, Ports: []ofproto.Port{1, 2, 3}}).Serve(ctx, nc)
		}()
		t.Cleanup(func() { nc.Close(); <-ended })
		require.Eventually(t, func() bool {
			up := false
			require.NoError(t, core.Do(ctx, func(c *controller.Context) { up = c.Switch(dpid) != nil }))
			return up
		}, 10*time.Second, time.Millisecond)
		require.NoError(t, core.Settled(ctx, dpid))
		return nc
	}
	connect(1)
	hostile := connect(2)

	flooded := make(chan int)
	go func() {
		sent, begin := 0, time.Now()
		var batch bytes.Buffer
		for time.Since(begin) < span {
			batch.Reset()
			for due := int(time.Since(begin).Seconds() * perSecond); sent < due; sent++ {
				frame := make([]byte, 60)
				frame[0], frame[5], frame[6], frame[12] = 2, 9, 2, 8
				frame[8], frame[9], frame[10], frame[11] = byte(sent>>24), byte(sent>>16), byte(sent>>8), byte(sent)
				batch.Write(ofproto.Append(nil, 0, &ofproto.PacketIn{
					BufferID: ofproto.NoBuffer, TotalLen: 60, Table: controller.TableSource, Data: frame,
					Match: ofproto.NewMatch(ofproto.InPort(ofproto.Port(1 + sent%3))),
				}))
			}
			if _, err := hostile.Write(batch.Bytes()); err != nil {
				break
			}
			time.Sleep(time.Millisecond)
		}
		flooded <- sent
	}()
	var before, after syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
	begin := time.Now()
	var waits []time.Duration
	sent := 0
	for sent == 0 {
		select {
		case sent = <-flooded:
		default:
			asked := time.Now() // by way of the core, the other switch's session, and back
			require.NoError(t, core.Groups(ctx, 1, func(ofproto.GroupDesc) {}))
			waits = append(waits, time.Since(asked))
			time.Sleep(time.Millisecond)
		}
	}
	took := time.Since(begin)
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
	used := time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	slices.Sort(waits)
	var received, dropped uint64
	require.NoError(t, core.Do(ctx, func(c *controller.Context) {
		received, dropped = c.Switch(2).PacketIns, c.Switch(2).PacketInsDropped
		require.Zero(t, c.Switch(1).PacketInsDropped)
	}))
	t.Logf("%.0f packet-ins a second, %.0f of them taken; both ends used %.0f %% of one core; the other switch answered within %v (p99)",
		float64(sent)/took.Seconds(), float64(received-dropped)/took.Seconds(), 100*used.Seconds()/took.Seconds(), waits[len(waits)*99/100])
	require.Less(t, waits[len(waits)*99/100], time.Second)
	require.LessOrEqual(t, float64(received-dropped), 1.2*(4000*took.Seconds()+2000))
}
