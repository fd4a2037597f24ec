package forwarding_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// bpdus counts the BPDUs that leave each port.
func bpdus(n *simswitch.Network) map[simswitch.Place]int {
	out := map[simswitch.Place]int{}
	n.SetTap(func(from simswitch.Place, frame []byte) {
		for _, dst := range controller.BPDUAddresses {
			if ofproto.MAC(frame[:6]) == dst {
				out[from]++
			}
		}
	})
	return out
}

// bpduFrom is what a bridge at the place of a host would send.
func bpduFrom(l *lab.Lab, host string, dst ofproto.MAC) {
	l.Send(host, append(packet.AppendEthernet(nil, packet.Ethernet{
		Dst: packet.MAC(dst), Src: packet.MAC{0x0e, 0xb, 0, 0, 0, host[1]}, Type: 0x26,
	}), 0x42, 0x42, 3, 0, 0, 2, 2))
}

func choose(t *testing.T, l *lab.Lab, b controller.BPDUs) {
	t.Helper()
	for _, sw := range l.Switches() {
		require.NoError(t, l.Core.SetBPDUs(t.Context(), sw.DPID(), b))
	}
	l.Pass(time.Second)
}

// In stage managed BPDUs end at the first switch, or come to every edge port once.
func TestBPDUsDropAndForward(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(4, simswitch.Options{}, lab.Ring(4)...), lab.Options{})
		l.Settle()
		out := bpdus(l.Network)
		for _, dst := range controller.BPDUAddresses {
			bpduFrom(l, "h1", dst)
		}
		require.Empty(t, out, "drop is what holds without a choice")

		choose(t, l, controller.BPDUsForward)
		hosts := l.Snapshot().HostCount()
		for _, dst := range controller.BPDUAddresses {
			clear(out)
			bpduFrom(l, "h1", dst)
			require.False(t, l.Stormed())
			for _, h := range l.Hosts() {
				want := 1
				if h == "h1" {
					want = 0
				}
				require.Equal(t, want, out[l.Host(h).At], "%s at %s", dst, h)
			}
		}
		l.Pass(time.Second)
		require.Equal(t, hosts, l.Snapshot().HostCount(), "a bridge is no host")

		choose(t, l, controller.BPDUsDrop)
		clear(out)
		bpduFrom(l, "h1", controller.BPDUAddresses[0])
		require.Empty(t, out)
		l.NoFaults()
	})
}

// A port of a segment that is blocked passes no BPDU on: it would arrive twice.
func TestBPDUsOnSegments(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, segmentedLabs[0].build(), lab.Options{})
		l.Settle()
		choose(t, l, controller.BPDUsForward)
		out := bpdus(l.Network)
		bpduFrom(l, "old", controller.BPDUAddresses[1]) // the bridge takes those of IEEE for itself
		for _, h := range []string{"h1", "h2"} {
			require.Equal(t, 1, out[l.Host(h).At], h)
		}
		require.False(t, l.Stormed())
	})
}

// Below managed, BPDUs are the switch's own affair, or go through it.
func TestBPDUsBelowManaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, stage := range []controller.Stage{controller.StageObserve, controller.StageSteer} {
			l := lab.Start(t, lab.Build(2, simswitch.Options{}, [2]int{1, 2}), lab.Options{Stage: stage, Observe: stage == controller.StageObserve})
			l.Settle()
			for _, b := range []controller.BPDUs{controller.BPDUsDrop, controller.BPDUsGuard} {
				choose(t, l, b)
				for _, sw := range l.Switches() {
					for _, f := range sw.Flows() {
						for _, dst := range controller.BPDUAddresses {
							got, _ := f.Match.Lookup(ofproto.FieldEthDst)
							require.NotEqual(t, ofproto.EthDst(dst), got, "NORMAL has them")
						}
					}
				}
			}
			choose(t, l, controller.BPDUsForward)
			out := bpdus(l.Network)
			bpduFrom(l, "h1", controller.BPDUAddresses[0])
			require.Equal(t, 1, out[l.Host("h2").At], stage)
			l.NoFaults()
			l.Stop()
		}
	})
}

// A guarded port at which a BPDU arrives is blocked until none came for half a minute;
// over a restart too.
func TestBPDUGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(3, simswitch.Options{}, [2]int{1, 2}, [2]int{2, 3})
		l := lab.Start(t, n, lab.Options{})
		l.Settle()
		announceAll(l)
		everyUnicastArrives(t, l)
		choose(t, l, controller.BPDUsGuard)
		out := bpdus(l.Network)
		at := topology.Place{DPID: topology.DPID(l.Host("h1").At.DPID), Port: topology.Port(l.Host("h1").At.Port)}
		notices, cancel := l.Core.Subscribe(64)
		defer cancel()
		bpduFrom(l, "h1", controller.BPDUAddresses[0])
		l.Pass(100 * time.Millisecond)
		require.Contains(t, l.Snapshot().Blocked(at), "a BPDU came from 0e:0b:00:00:00:31")
		told := false
		for len(notices) > 0 {
			n := <-notices
			data, _ := n.Data.(map[string]any)
			told = told || n.Kind == "port" && data["event"] == "blocked" && data["port"] == uint32(at.Port)
		}
		require.True(t, told)
		l.Forget()
		l.Announce("h1")
		l.Announce("h2")
		require.Empty(t, l.Seen("h1"))
		require.Len(t, l.Seen("h3"), 1, "from h2 alone")

		for range 20 { // a bridge goes on
			l.Pass(2 * time.Second)
			bpduFrom(l, "h1", controller.BPDUAddresses[0])
			require.NotEmpty(t, l.Snapshot().Blocked(at))
		}
		l.Switch(1).SetPort(ofproto.Port(at.Port), false)
		l.Switch(1).SetPort(ofproto.Port(at.Port), true)
		l.Pass(5 * time.Second)
		require.NotEmpty(t, l.Snapshot().Blocked(at), "the port came up again")
		l.Stop()
		l = lab.Start(t, n, lab.Options{Memory: l.Memory})
		l.Pass(5 * time.Second)
		require.NotEmpty(t, l.Snapshot().Blocked(at), "the controller came up again")

		l.Pass(25 * time.Second)
		require.Empty(t, l.Snapshot().Blocked(at))
		announceAll(l)
		everyUnicastArrives(t, l)
		require.Empty(t, out, "none went anywhere")

		bpduFrom(l, "h1", controller.BPDUAddresses[0])
		l.Pass(time.Second)
		require.NotEmpty(t, l.Snapshot().Blocked(at))
		choose(t, l, controller.BPDUsDrop)
		require.Empty(t, l.Snapshot().Blocked(at), "nobody guards any more")
		l.Pass(2 * time.Second)
		everyUnicastArrives(t, l)
		l.NoFaults()
	})
}

// A BPDU that comes from another switch of ours blocks no link.
func TestBPDUGuardLeavesLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(2, simswitch.Options{}, [2]int{1, 2}), lab.Options{})
		l.Settle()
		require.NoError(t, l.Core.SetBPDUs(t.Context(), 1, controller.BPDUsForward))
		require.NoError(t, l.Core.SetBPDUs(t.Context(), 2, controller.BPDUsGuard))
		l.Pass(time.Second)
		bpduFrom(l, "h1", controller.BPDUAddresses[0])
		l.Pass(time.Second)
		require.Empty(t, l.Snapshot().Blocks())
		announceAll(l)
		everyUnicastArrives(t, l)
	})
}
