package ovstest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// frame is an Ethernet frame with an experimental type and a number as payload.
func frame(dst, src byte, n uint32) []byte {
	f := []byte{2, 0, 0, 0, 0, dst, 2, 0, 0, 0, 0, src, 0x88, 0xb5}
	f = binary.BigEndian.AppendUint32(f, n)
	return append(f, make([]byte, 60-len(f))...)
}

func TestFramesPassABridge(t *testing.T) {
	o := Start(t)
	o.AddBridge(Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2", "p3"}})
	o.AddFlow("s1", "in_port=1,actions=output:2")

	for i := range uint32(100) {
		o.Inject("p1", frame(2, 1, i))
		sent := o.Sent("p2")
		require.Len(t, sent, 1, "the frame is out when Inject returns")
		require.Equal(t, frame(2, 1, i), sent[0])
		o.Forget("p2")
	}
	require.Empty(t, o.Sent("p3"))

	var burst [][]byte
	for i := range uint32(100) {
		burst = append(burst, frame(2, byte(i), i))
	}
	o.Inject("p1", burst...)
	require.Equal(t, burst, o.Sent("p2"))
}

func TestPatchPortsJoinBridges(t *testing.T) {
	o := Start(t)
	o.AddBridge(Bridge{Name: "s1", DPID: 1, Ports: []string{"p1"}, FailMode: "standalone"})
	o.AddBridge(Bridge{Name: "s2", DPID: 2, Ports: []string{"p2"}, FailMode: "standalone"})
	o.Join("s1", "s1-s2", 10, "s2", "s2-s1", 10)
	for i := range uint32(20) {
		o.Inject("p1", frame(99, byte(i), i))
		require.Len(t, o.Sent("p2"), int(i)+1)
	}
}

func TestPortDownIsSeenByAGroup(t *testing.T) {
	o := Start(t)
	o.AddBridge(Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2", "p3"}})
	o.AddGroup("s1", "group_id=7,type=ff,bucket=watch_port:2,actions=output:2,bucket=watch_port:3,actions=output:3")
	o.AddFlow("s1", "in_port=1,actions=group:7")
	require.Len(t, o.DumpGroups("s1"), 1)
	require.Equal(t, []string{"in_port=1 actions=group:7"}, o.DumpFlows("s1"))

	o.Inject("p1", frame(2, 1, 1))
	require.Len(t, o.Sent("p2"), 1)
	o.PortDown("p2")
	o.Eventually("the group takes the port that lives", func() bool {
		o.Inject("p1", frame(2, 1, 2))
		return len(o.Sent("p3")) > 0
	})
	o.PortUp("p2")
	o.Forget("p2")
	o.Eventually("the group comes back", func() bool {
		o.Inject("p1", frame(2, 1, 3))
		return len(o.Sent("p2")) > 0
	})
}

func TestBridgeDialsItsController(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	o := Start(t)
	o.AddBridge(Bridge{Name: "s1", DPID: 0x2a, Controllers: []string{"tcp:" + l.Addr().String()}})
	require.NoError(t, l.(*net.TCPListener).SetDeadline(time.Now().Add(deadline)))
	c, err := l.Accept()
	require.NoError(t, err)
	defer c.Close()
	hello := make([]byte, 2)
	_, err = c.Read(hello)
	require.NoError(t, err)
	require.Equal(t, []byte{4, 0}, hello, "an OpenFlow 1.3 hello")
	require.Contains(t, o.Ofctl("show", o.Target("s1")), "dpid:000000000000002a")
	require.False(t, o.Connected("s1"))
}

func TestRestartLosesFlowsAndKeepsBridges(t *testing.T) {
	o := Start(t)
	o.AddBridge(Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2"}})
	o.AddFlow("s1", "in_port=1,actions=output:2")
	for _, again := range []func(){o.RestartVswitchd, func() { o.KillVswitchd(); o.StartVswitchd() }} {
		before := o.PID()
		again()
		require.NotEqual(t, before, o.PID())
		o.Eventually("the bridge is back", func() bool {
			out, err := o.appctl("ofproto/list")
			return err == nil && strings.Contains(out, "s1")
		})
		require.Empty(t, o.DumpFlows("s1"))
	}
}

func TestTwoAtOnce(t *testing.T) {
	for i := range 2 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			o := Start(t)
			o.AddBridge(Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2"}, FailMode: "standalone"})
			o.Inject("p1", frame(99, byte(i), uint32(i)))
			require.True(t, bytes.Equal(frame(99, byte(i), uint32(i)), o.Sent("p2")[0]))
		})
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		o := Start(b)
		o.AddBridge(Bridge{Name: "s1", DPID: 1, Ports: []string{"p1", "p2"}})
		o.stop()
	}
}
