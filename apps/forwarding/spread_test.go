package forwarding_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// TestNewHostAcrossLinkOutsideTree lets the switch of a new host take its entry late. The
// link from the third switch is outside the tree: packets by it would be lost meanwhile.
func TestNewHostAcrossLinkOutsideTree(t *testing.T) {
	for _, refused := range []bool{false, true} {
		name := map[bool]string{false: "late", true: "refused"}[refused]
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var wanted ofproto.Match
				isItsEntry := func(m ofproto.Message) bool {
					if add, ok := m.(*ofproto.BundleAdd); ok {
						m = add.Message
					}
					mod, ok := m.(*ofproto.FlowMod)
					if !ok || mod.Table != controller.TableDestination {
						return false
					}
					return mod.Match.Canonical().Equal(wanted) && slices.ContainsFunc(mod.Instructions, func(in ofproto.Instruction) bool {
						do, ok := in.(ofproto.ApplyActions)
						return ok && slices.ContainsFunc(do.Actions, func(a ofproto.Action) bool {
							out, ok := a.(ofproto.Output)
							return ok && out.Port == lab.HostPort
						})
					})
				}
				held := make(chan struct{})
				personality := simswitch.Options{}
				if refused {
					personality.Refuse = func(m ofproto.Message) *ofproto.Error {
						if isItsEntry(m) {
							return &ofproto.Error{Type: ofproto.ErrorFlowModFailed, Code: ofproto.CodeTableFull}
						}
						return nil
					}
				} else {
					personality.Received = func(_ ofproto.Header, m ofproto.Message) {
						if isItsEntry(m) {
							<-held
						}
					}
				}
				net := lab.Build(3, personality, lab.Ring(3)...)
				wanted = ofproto.NewMatch(ofproto.EthDst(ofproto.MAC(net.Host("h2").MAC)), ofproto.VLANNone()).Canonical()
				l := lab.Start(t, net, lab.Options{})
				l.Settle()
				h3 := net.Host("h3").MAC
				var direct atomic.Int32
				l.SetTap(func(from simswitch.Place, frame []byte) {
					if from == (simswitch.Place{DPID: 3, Port: 1}) && packet.MAC(frame[6:12]) == h3 {
						direct.Add(1)
					}
				})
				reach := func() {
					t.Helper()
					b := l.Host("h2")
					for _, from := range []string{"h1", "h3"} {
						a := l.Host(from)
						l.Forget()
						direct.Store(0)
						l.Send(from, packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.AddrPort(1), Dst: b.AddrPort(2)}, nil))
						require.Len(t, l.Received("h2"), 1, "from %s", from)
					}
				}
				l.Announce("h2")
				l.Pass(500 * time.Millisecond)
				reach()
				require.Zero(t, direct.Load(), "the direct link was used before the switch at its end knows the host")
				close(held)
				l.Pass(500 * time.Millisecond)
				reach()
				if !refused {
					require.EqualValues(t, 1, direct.Load(), "the direct link is not used")
				}
			})
		})
	}
}

// circles are networks whose shortest paths are not those of the broadcast tree.
var circles = []struct {
	name     string
	switches int
	links    [][2]int
}{
	{"ring of five", 5, lab.Ring(5)},
	{"each with each", 4, [][2]int{{1, 2}, {1, 3}, {1, 4}, {2, 3}, {2, 4}, {3, 4}}},
	{"ladder", 6, [][2]int{{1, 2}, {3, 4}, {5, 6}, {1, 3}, {3, 5}, {2, 4}, {4, 6}}},
}

// TestNewHostsFromEverywhere sends to hosts from the moment that they are first seen, while
// each switch takes its entries at moments of its own. Each packet comes once.
func TestNewHostsFromEverywhere(t *testing.T) {
	for _, s := range circles {
		for seed := range uint64(6) {
			t.Run(fmt.Sprint(s.name, " ", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					delay := func() { time.Sleep(time.Duration(rand.Int64N(int64(8 * time.Millisecond)))) }
					l := lab.Start(t, lab.Build(s.switches, simswitch.Options{Received: func(ofproto.Header, ofproto.Message) { delay() }}, s.links...), lab.Options{})
					l.Pass(6 * time.Second)
					random := rand.New(rand.NewPCG(seed, 1))
					hosts := l.Hosts()
					for i := range 1200 {
						// One host after the other speaks for the first time, and all speak to those.
						seen := hosts[:1+min(i/100, len(hosts)-1)]
						if i%100 == 0 {
							l.Announce(seen[len(seen)-1])
						}
						to := seen[random.IntN(len(seen))]
						if from := hosts[random.IntN(len(hosts))]; from != to && slices.Contains(seen, from) {
							a, b := l.Host(from), l.Host(to)
							l.Forget()
							l.Send(from, packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: a.MAC, DstMAC: b.MAC, Src: a.AddrPort(1), Dst: b.AddrPort(2)}, nil))
							require.Len(t, l.Received(to), 1, "%s to %s after %d ms", from, to, i*5)
						}
						l.Pass(5 * time.Millisecond)
					}
					l.NoFaults()
				})
			})
		}
	}
}
