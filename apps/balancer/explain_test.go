package balancer_test

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/trace"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// explain asks about a connection from a host to the VIP.
func (s *site) explain(protocol balancer.Protocol, from string, sport uint16) balancer.Explanation {
	s.t.Helper()
	e, err := s.service.Explain(s.t.Context(), balancer.Query{
		Protocol: protocol, From: s.Host(from).AddrPort(sport), To: netip.AddrPortFrom(vipAddr, vipPort),
	})
	require.NoError(s.t, err)
	return e
}

// key is how the API names a member.
func (s *site) key(host string) string { return s.Host(host).AddrPort(memberPort).String() }

// What is said of a connection is what happens to it, on all kinds of switches whose
// choice does not rest on a hash.
func TestExplainTellsTheMember(t *testing.T) {
	for name, o := range map[string]simswitch.Options{
		"Open vSwitch, UDP": {}, "no select": {NoSelect: true}, "no groups": {NoGroups: true}, "one table": {Tables: 1, NoSelect: true},
		"neither nor select": {NoNicira: true, NoSelect: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				protocol := balancer.TCP
				if !o.NoSelect && !o.NoGroups {
					protocol = balancer.UDP
				}
				s, rec := start(t, lab.Build(4, o, [2]int{1, 2}, [2]int{2, 3}, [2]int{3, 4}), lab.Options{}, protocol, "h2", "h3", "h4")
				s.learn()
				for sport := range uint16(40) {
					e := s.explain(protocol, "h1", 1000+sport)
					text, _ := json.MarshalIndent(e, "", " ")
					require.Equal(t, trace.Delivered, e.Result, "%s", text)
					require.Equal(t, s.key(s.serves("h1", 1000+sport, rec)), e.Member, "%s", text)
					require.NotNil(t, e.Slot)
					require.Equal(t, "web", e.VIP)
					require.Equal(t, balancer.InstalledSame, e.Installed, "%s", text)
					require.Equal(t, trace.Delivered, e.Reply.Result)
					require.Equal(t, e.To, e.Reply.Arrives.Src, "%s", text)
					require.Equal(t, e.From, e.Reply.Arrives.Dst)
				}
			})
		})
	}
}

// Where the hash is not known the members that it may be are named, and nothing is
// made up.
func TestExplainOfAHashThatIsNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2", "h3", "h4")
		s.learn()
		before := s.Switch(1).Groups()
		e := s.explain(balancer.TCP, "h1", 1000)
		require.Equal(t, trace.Undetermined, e.Result)
		require.Nil(t, e.Slot)
		require.Empty(t, e.Member)
		var members []string
		slots := 0
		for _, c := range e.Candidates {
			members = append(members, c.Member)
			slots += len(c.Slots)
		}
		require.ElementsMatch(t, []string{s.key("h2"), s.key("h3"), s.key("h4")}, members)
		require.Contains(t, members, s.key(s.serves("h1", 1000, rec)))
		require.Equal(t, len(rec.Listeners[0].Slots.Home), slots)
		require.Contains(t, e.Reasons[len(e.Reasons)-1], "none that is known")
		require.Equal(t, balancer.InstalledSame, e.Installed)
		s.Pass(time.Second)
		require.Equal(t, before, s.Switch(1).Groups(), "what it was measured with is gone")
	})
}

func TestExplainWithOneMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, ring(simswitch.Options{}), lab.Options{Stage: controller.StageSteer}, balancer.TCP, "h3")
		s.learn()
		e := s.explain(balancer.TCP, "h1", 1000)
		require.Equal(t, trace.Delivered, e.Result, "%v", e.Reasons)
		require.Equal(t, s.key("h3"), e.Member)
		require.Equal(t, []string{"0000000000000001", "0000000000000002", "0000000000000003"}, dpidsOf(e.Path))
		require.Equal(t, trace.ToSelf, e.Path[0].Outputs[1].To)
		require.Equal(t, e.To, e.Reply.Arrives.Src)
	})
}

func dpidsOf(path []balancer.HopView) (ids []string) {
	for _, h := range path {
		ids = append(ids, h.DPID)
	}
	return ids
}

// A switch that forwards by itself is followed as the graph says.
func TestExplainThroughAnObservedSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, lab.Build(3, simswitch.Options{}, [2]int{1, 2}, [2]int{2, 3}), lab.Options{Stage: controller.StageSteer}, balancer.UDP, "h3")
		require.NoError(t, s.Core.SetStage(t.Context(), 1, controller.StageObserve))
		s.learn()
		s.Pass(time.Second)
		e := s.explain(balancer.UDP, "h1", 1000)
		require.Equal(t, trace.Delivered, e.Result, "%v", e.Reasons)
		require.Equal(t, s.key("h3"), e.Member)
		require.Equal(t, trace.ToNormal, e.Path[0].Outputs[0].To)
		require.Contains(t, e.Path[0].Outputs[0].Note, "own forwarding")
		require.Equal(t, "2", e.Path[1].OutPort)
	})
}

// A slot that is lent says by whom, and why.
func TestExplainOfALentSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.UDP, "h2", "h3", "h4")
		s.learn()
		var sport uint16
		for sport = 1000; s.explain(balancer.UDP, "h1", sport).Member != s.key("h3"); sport++ {
		}
		at := s.Host("h3").At
		s.Switch(at.DPID).SetPort(at.Port, false)
		s.Pass(5 * time.Second)
		e := s.explain(balancer.UDP, "h1", sport)
		require.NotEqual(t, s.key("h3"), e.Member)
		require.True(t, slices.ContainsFunc(e.Reasons, func(r string) bool {
			return strings.Contains(r, "is lent to "+e.Member+" by "+s.key("h3")) && strings.Contains(r, "is down")
		}), "%v", e.Reasons)
	})
}

// What somebody else did to a switch is named, and where the packet goes because of it.
func TestExplainNamesWhatIsDifferent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, rec := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.UDP, "h2")
		s.learn()
		vip := ofproto.NewMatch(ofproto.EthType(ofproto.EthTypeIPv4), ofproto.IPv4Dst(netip.PrefixFrom(vipAddr, 32)))
		require.Nil(t, s.Switch(1).Apply(&ofproto.FlowMod{
			Table: controller.TableVIP, Priority: 60000, Match: vip, BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
		}))
		g := s.Switch(1).Groups()
		i := slices.IndexFunc(g, func(d ofproto.GroupDesc) bool { return d.Group == rec.Listeners[0].Members[0].Group })
		g[i].Buckets[0].Actions = g[i].Buckets[0].Actions[:1]
		require.Nil(t, s.Switch(1).Apply(&ofproto.GroupMod{Command: ofproto.GroupModify, Type: g[i].Type, Group: g[i].Group, Buckets: g[i].Buckets}))

		e := s.explain(balancer.UDP, "h1", 1000)
		require.Equal(t, trace.Delivered, e.Result, "as it is to be")
		require.Equal(t, balancer.InstalledDifferent, e.Installed)
		require.Equal(t, trace.Dropped, e.InstalledResult)
		require.Len(t, e.Differences, 2)
		altered, extra := e.Differences[0], e.Differences[1]
		require.Equal(t, trace.Altered, altered.Change)
		require.Equal(t, uint32(g[i].Group), altered.Group)
		require.Equal(t, "vip/web", altered.Part)
		require.Equal(t, trace.Extra, extra.Change)
		require.EqualValues(t, 60000, extra.Priority)
		require.Equal(t, []string{"drop"}, extra.Installed)
	})
}

func TestExplainRefusesWhatMakesNoSense(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := start(t, ring(simswitch.Options{}), lab.Options{}, balancer.TCP, "h2")
		s.learn()
		h1 := s.Host("h1").AddrPort(1000)
		to := netip.AddrPortFrom(vipAddr, vipPort)
		stranger := netip.MustParseAddrPort("192.0.2.9:1000")
		for _, c := range []struct {
			field string
			q     balancer.Query
		}{
			{"to", balancer.Query{Protocol: balancer.TCP, From: netip.MustParseAddrPort("[2001:db8::1]:1"), To: to}},
			{"at", balancer.Query{Protocol: balancer.TCP, From: stranger, To: to}},
			{"at", balancer.Query{Protocol: balancer.TCP, From: h1, To: to, At: &topology.Place{DPID: 99, Port: 1}}},
			{"at", balancer.Query{Protocol: balancer.TCP, From: h1, To: to, At: &topology.Place{DPID: 1, Port: 77}}},
		} {
			_, err := s.service.Explain(t.Context(), c.q)
			var bad *balancer.InvalidError
			require.ErrorAs(t, err, &bad)
			require.Equal(t, c.field, bad.Errors[0].Field)
		}
		e, err := s.service.Explain(t.Context(), balancer.Query{Protocol: balancer.TCP, From: stranger, To: to, At: &topology.Place{DPID: 1, Port: lab.HostPort}})
		require.NoError(t, err)
		require.Equal(t, s.key("h2"), e.Member)
		require.Equal(t, ofproto.MAC(s.Host("h1").MAC).String(), e.Path[0].Packet.EthSrc, "a client behind a router")

		e, err = s.service.Explain(t.Context(), balancer.Query{Protocol: balancer.TCP, From: h1, To: netip.AddrPortFrom(vipAddr, 81)})
		require.NoError(t, err)
		require.Equal(t, trace.Dropped, e.Result)
		require.Contains(t, e.Reasons[0], "no listener tcp:81")

		e, err = s.service.Explain(t.Context(), balancer.Query{Protocol: balancer.TCP, From: h1, To: s.Host("h3").AddrPort(22)})
		require.NoError(t, err)
		require.Equal(t, trace.Delivered, e.Result, "of what is no VIP's too")
		require.Empty(t, e.VIP)
	})
}
