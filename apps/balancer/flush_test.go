package balancer

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// A switch is told to forget the connections of members that are cut, once, when it has
// acknowledged that they are; and not those of members that drain.
func TestConnectionsOfCutMembersAreForgotten(t *testing.T) {
	b := newBench(t)
	put := func(words string, change func(*VIP)) *Record {
		v := doc(t, "a", words)
		v.Mode = ModeConntrack
		if change != nil {
			change(&v)
		}
		rec, _, err := b.Put(context.Background(), v, Condition{})
		require.NoError(t, err)
		return &rec
	}
	const three = "10.0.0.1 tcp:80=10.0.1.1:80,10.0.1.2:80,10.0.1.3:80"
	first := put(three, nil)
	app := NewApp([]Record{*first}, nil)
	sw := &controller.Switch{DPID: 1, Capabilities: controller.Capabilities{ConnTrack: true}}
	c := controller.NewContext(b.now, topology.New(topology.Options{}), app, sw)
	f := flushes{}
	send := func(version uint64) []ofproto.Message {
		before := len(c.Sent())
		f.send(c, 1, version)
		return c.Sent()[before:]
	}
	drains := put(three, func(v *VIP) {
		v.Listeners[0].Pool.Members[0].AdminState = AdminDrain
		v.Listeners[0].Pool.DrainTimeout = Duration(time.Minute)
	})
	f.change(first, drains.connections(b.now), 2)
	require.Empty(t, send(2))
	removed := put("10.0.0.1 tcp:80=10.0.1.1:80,10.0.1.2:80", func(v *VIP) {
		v.Listeners[0].Pool.Members[0].AdminState = AdminDrain
		v.Listeners[0].Pool.DrainTimeout = Duration(time.Minute)
	})
	f.change(drains, removed.connections(b.now), 3)
	require.Empty(t, send(2), "it has the member still")
	zone, _ := controller.Zones(0)
	require.Equal(t, []ofproto.Message{ofproto.FlushConnections(zone, ofproto.ProtoTCP,
		netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.1.3:80"))}, send(3))
	require.Empty(t, send(3), "once")
	f.change(removed, removed.connections(b.now.Add(time.Minute)), 4)
	require.Len(t, send(4), 1, "the time to drain is over")
	back := put(three, nil)
	f.change(removed, back.connections(b.now), 5)
	f.change(back, (*Record)(nil).connections(b.now), 6)
	require.Len(t, send(6), 3, "deleted")
}

// Connections of UDP with a member that its monitor finds down are forgotten: a client
// that sends from one port only would have no other. Those of TCP are not.
func TestDatagramsLeaveAMemberThatIsDown(t *testing.T) {
	b := newBench(t)
	v := doc(t, "a", "10.0.0.1 udp:53=10.0.1.1:53,10.0.1.2:53 tcp:53=10.0.1.1:53,10.0.1.2:53")
	v.Mode = ModeConntrack
	for i := range v.Listeners {
		v.Listeners[i].Pool.Monitor = &Monitor{Type: MonitorTCP, Interval: Duration(time.Second), Timeout: Duration(time.Second), Rise: 1, Fall: 1, Via: ViaHost, Initial: HealthUp}
	}
	rec, _, err := b.Put(context.Background(), v, Condition{})
	require.NoError(t, err)
	app := NewApp([]Record{rec}, nil)
	sw := &controller.Switch{DPID: 1, Stage: controller.StageManaged, Capabilities: controller.Capabilities{ConnTrack: true}}
	c := controller.NewContext(b.now, topology.New(topology.Options{}), app, sw)
	a := app.vips["a"]
	for m := range app.members {
		at := app.members[m]
		at.known = true
		app.members[m] = at
	}
	for _, l := range rec.Listeners {
		for _, m := range l.Members {
			app.verdict(c, Verdict{ID: checkID("a", l.Key, m.Key), Up: true})
		}
	}
	a.flushes.send(c, 1, a.version)
	before := len(c.Sent())
	for _, l := range rec.Listeners {
		app.verdict(c, Verdict{ID: checkID("a", l.Key, l.Members[0].Key), Reason: "gone"})
	}
	a.flushes.send(c, 1, a.version)
	zone, _ := controller.Zones(0)
	udp := func(m int) ofproto.Message {
		return ofproto.FlushConnections(zone, ofproto.ProtoUDP, netip.MustParseAddrPort("10.0.0.1:53"), rec.Listeners[0].Members[m].Key)
	}
	require.Equal(t, []ofproto.Message{udp(0)}, c.Sent()[before:])

	// The other goes too: nobody serves, and nothing would be better than nobody.
	app.verdict(c, Verdict{ID: checkID("a", rec.Listeners[0].Key, rec.Listeners[0].Members[1].Key), Reason: "gone"})
	app.verdict(c, Verdict{ID: checkID("a", rec.Listeners[0].Key, rec.Listeners[0].Members[0].Key), Up: true})
	a.flushes.send(c, 1, a.version)
	require.Contains(t, c.Sent(), udp(1))
	require.Len(t, c.Sent(), before+2, "each once")
}
