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
	f.change(first, drains, 2, b.now)
	require.Empty(t, send(2))
	removed := put("10.0.0.1 tcp:80=10.0.1.1:80,10.0.1.2:80", func(v *VIP) {
		v.Listeners[0].Pool.Members[0].AdminState = AdminDrain
		v.Listeners[0].Pool.DrainTimeout = Duration(time.Minute)
	})
	f.change(drains, removed, 3, b.now)
	require.Empty(t, send(2), "it has the member still")
	zone, _ := controller.Zones(0)
	require.Equal(t, []ofproto.Message{ofproto.FlushConnections(zone, ofproto.ProtoTCP,
		netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("10.0.1.3:80"))}, send(3))
	require.Empty(t, send(3), "once")
	f.change(removed, removed, 4, b.now.Add(time.Minute))
	require.Len(t, send(4), 1, "the time to drain is over")
	back := put(three, nil)
	f.change(removed, back, 5, b.now)
	f.change(back, nil, 6, b.now)
	require.Len(t, send(6), 3, "deleted")
}
