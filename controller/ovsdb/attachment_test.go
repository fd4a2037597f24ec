package ovsdb

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
)

// ear keeps what Hosts has told of attachments.
type ear struct {
	mu   sync.Mutex
	last Attachments
	told int
}

func (e *ear) hear(_ context.Context, a Attachments) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last, e.told = a, e.told+1
}

func (e *ear) latest() (a Attachments, told int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last, e.told
}

// places are those of an id, as "bridge/port", those that are stale with a question mark.
func (e *ear) places(id string) (list []string) {
	a, _ := e.latest()
	for _, at := range a.ByID[id] {
		s := fmt.Sprintf("%s/%d", at.Bridge, at.Port)
		if at.Stale {
			s += "?"
		}
		list = append(list, s)
	}
	return list
}

// TestAttachments follows an interface by its id: to another number, to another bridge,
// while it is at two, over a session that ends, and until it is gone.
func TestAttachments(t *testing.T) {
	l := newLab(t)
	l.stop()
	heard := new(ear)
	l.heard = heard.hear
	l.bridge("br0", "other_config:datapath-id=00000000000000aa",
		"--", "add-port", "br0", "vm1", "--", "set", "interface", "vm1", "type=dummy", "ofport_request=7", "external_ids:iface-id=port-1",
		"external_ids:attached-mac=02:00:00:00:00:01", `external_ids:ip_addresses="10.0.0.9/24 fd00::9, bogus, 10.0.0.9"`,
		"--", "add-port", "br0", "in1", "tag=5", "--", "set", "interface", "in1", "type=internal", "external_ids:iface-id=port-2",
		"--", "add-port", "br0", "gone", "--", "set", "interface", "gone", "type=nonsense", "external_ids:iface-id=port-3")
	l.bridge("br1", "other_config:datapath-id=00000000000000bb")
	l.start("cluster")
	eventually(t, 5*time.Second, "no endpoint is in use", func() bool {
		a, told := heard.latest()
		return told == 1 && a.Complete && len(a.ByID) == 0
	})

	l.adopted("br0")
	has := func(id string, places ...string) {
		t.Helper()
		eventually(t, 5*time.Second, fmt.Sprintf("%s is at %v, not at %v", id, places, heard.places(id)), func() bool {
			return slices.Equal(heard.places(id), places)
		})
	}
	has("port-1", "br0/7")
	eventually(t, 5*time.Second, "the interface that cannot be is known as such", func() bool {
		a, _ := heard.latest()
		return len(a.ByID["port-3"]) == 1 && a.ByID["port-3"][0].Error != ""
	})
	a, _ := heard.latest()
	vm := a.ByID["port-1"][0]
	require.Equal(t, Attachment{
		Endpoint: l.endpoint(), Bridge: "br0", DPID: 0xaa, Interface: "vm1", Port: 7, MAC: ofproto.MAC{2, 5: 1},
		Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")},
	}, vm)
	internal := a.ByID["port-2"][0]
	require.True(t, internal.Access)
	require.NotZero(t, internal.MAC, "an internal interface is its own machine")
	require.Zero(t, a.ByID["port-3"][0].Port)

	l.ovs.Vsctl("set", "interface", "vm1", "ofport_request=9")
	has("port-1", "br0/9")

	// What it moves to is made before what it moves from is gone.
	l.ovs.Vsctl("add-port", "br1", "vm1b", "--", "set", "interface", "vm1b", "type=dummy", "ofport_request=3", "external_ids:iface-id=port-1")
	has("port-1", "br0/9", "br1/3")
	l.ovs.Vsctl("del-port", "br0", "vm1")
	has("port-1", "br1/3")

	_, told := heard.latest()
	l.ovs.Vsctl("set", "bridge", "br1", "other_config:unrelated=1")
	eventually(t, 5*time.Second, "the change has come", func() bool { return l.view("br1").OtherConfig["unrelated"] == "1" })
	_, after := heard.latest()
	require.Equal(t, told, after, "nothing is told of what changes no attachment")

	// The server goes: what it said last stands, and says so. It comes back changed.
	l.ovs.StopDB()
	has("port-1", "br1/3?")
	l.ovs.StartDB()
	has("port-1", "br1/3")
	l.ovs.Vsctl("remove", "interface", "vm1b", "external_ids", "iface-id")
	has("port-1")
	a, _ = heard.latest()
	require.True(t, a.Complete)

	// After a restart nothing is known until the database has been read.
	l.ovs.Vsctl("set", "interface", "vm1b", "external_ids:iface-id=port-1")
	has("port-1", "br1/3")
	l.stop()
	l.ovs.StopDB()
	*heard = ear{}
	l.launch("cluster")
	eventually(t, 5*time.Second, "it is told what is not known", func() bool {
		a, told := heard.latest()
		return told > 0 && !a.Complete && len(a.ByID) == 0
	})
	l.ovs.StartDB()
	has("port-1", "br1/3")
	require.NoError(t, l.Release(t.Context(), l.endpoint(), "br0"))
	has("port-1")
}
