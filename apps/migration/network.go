package migration

import (
	"context"
	"net/netip"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// Switch is what a migration needs to know of one switch.
type Switch struct {
	DPID      ofproto.DPID
	Connected bool
	Stage     string // that it has, or gets when it connects
	Stored    bool   // the stage is its own, and not that of switches never seen
	// Held is why nothing is written to it; empty: nothing keeps it.
	Held         string
	Faults       map[string]string // parts that it refused, and why
	Capabilities controller.Capabilities
	Flows        int // of Fairlead's, in it
}

// Network is the OpenFlow side.
type Network interface {
	// Switch returns what is known of a switch; of one that was never seen, its stage.
	Switch(ctx context.Context, dpid ofproto.DPID) (Switch, error)
	// SetStage stores the stage of a switch, which follows when it is connected; empty:
	// that of switches never seen.
	SetStage(ctx context.Context, dpid ofproto.DPID, stage string) error
	// Settled returns nil when a switch has acknowledged or refused all that it is to
	// hold, or is not connected.
	Settled(ctx context.Context, dpid ofproto.DPID) error
	// WhatIf says what a stage would change in a switch. One that is not connected is
	// taken for an empty Open vSwitch with these ports.
	WhatIf(ctx context.Context, dpid ofproto.DPID, stage string, ports []ofproto.PortDesc) (controller.Change, error)
	// Deviations lists what a connected switch holds otherwise than it is to, nothing
	// when all is right.
	Deviations(ctx context.Context, dpid ofproto.DPID) ([]string, error)
	// Room returns how many entries the tables of a connected switch take; a table that
	// is not there says nothing of itself.
	Room(ctx context.Context, dpid ofproto.DPID) (map[ofproto.Table]uint32, error)
	// Topology returns the graph as it is now.
	Topology(ctx context.Context) (*topology.Snapshot, error)
	// Assuming returns the graph as it would be with switches in stage managed, or in none
	// that is: what follows from that in others is in it. Nothing changes.
	Assuming(ctx context.Context, managed map[topology.DPID]bool) (*topology.Snapshot, error)
	// Notify publishes an event of a migration.
	Notify(ctx context.Context, data any)
}

// Bridges is the OVSDB side (ovsdb.Hosts).
type Bridges interface {
	Bridges(ctx context.Context, e ovsdb.Endpoint) ([]ovsdb.View, error)
	Adopt(ctx context.Context, req ovsdb.Request) ([]ovsdb.Outcome, error)
	Release(ctx context.Context, e ovsdb.Endpoint, bridge string) error
	// PreviewAdopt and PreviewRelease say what would be written, and write nothing.
	PreviewAdopt(ctx context.Context, req ovsdb.Request) ([]ovsdb.Change, error)
	PreviewRelease(ctx context.Context, e ovsdb.Endpoint, bridge string) ([]ovsdb.Change, error)
	// Rows reads all of a bridge and its controllers that somebody wrote.
	Rows(ctx context.Context, e ovsdb.Endpoint, bridge string) (ovsdb.Rows, error)
}

// VIP is what a migration needs to know of a virtual IP.
type VIP struct {
	Name    string
	Address netip.Addr
	Mode    string
	Members []Member
}

// Member is one backend of a VIP.
type Member struct {
	Address netip.Addr
	DPID    string // of the switch it is attached to; empty: not known
	Up      bool
}

// VIPs is where virtual IPs are kept.
type VIPs interface {
	VIPs(ctx context.Context) ([]VIP, error)
}
