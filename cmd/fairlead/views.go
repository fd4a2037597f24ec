package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/northbound"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// network shows the controller to the REST API (northbound.Network).
type network struct {
	core *controller.Controller
	// interfaces returns what OVSDB knows of the ports of a switch.
	interfaces func(ofproto.DPID) map[ofproto.Port]ovsdb.Interface
}

// name adds to ports what OVSDB knows of them. Not on the core loop: it may take as long
// as a server that has much to say wants.
func (n network) name(dpid ofproto.DPID, ports []northbound.PortView) {
	if n.interfaces == nil {
		return
	}
	known := n.interfaces(dpid)
	for i := range ports {
		if f, ok := known[ofproto.Port(ports[i].Port)]; ok {
			ports[i].IfaceID, ports[i].AttachedMAC = f.IfaceID, f.AttachedMAC
		}
	}
}

func parseStage(s string) (stage controller.Stage, err error) {
	err = stage.UnmarshalText([]byte(s))
	return stage, err
}

func (n network) Switches(ctx context.Context) ([]northbound.SwitchView, error) {
	var views []northbound.SwitchView
	var dpids []ofproto.DPID
	err := n.core.Known(ctx, func(c *controller.Context, sw *controller.Switch) {
		views = append(views, n.view(c, sw))
		dpids = append(dpids, sw.DPID)
	})
	for i := range views {
		n.name(dpids[i], views[i].Ports)
	}
	return views, err
}

func (n network) Switch(ctx context.Context, dpid ofproto.DPID) (v northbound.SwitchView, err error) {
	found := false
	err = n.core.Known(ctx, func(c *controller.Context, sw *controller.Switch) {
		if sw.DPID == dpid {
			v, found = n.view(c, sw), true
		}
	})
	if err == nil && !found {
		err = fmt.Errorf("switch %s: %w", dpid, northbound.ErrNotFound)
	}
	n.name(dpid, v.Ports)
	return v, err
}

func (n network) view(c *controller.Context, sw *controller.Switch) northbound.SwitchView {
	v := switchView(c, sw)
	if b, ok := n.core.BindingOf(sw.DPID); ok {
		v.Certificate = &northbound.CertificateView{Key: b.Key, Subject: b.Subject, Since: b.Since}
	}
	return v
}

func switchView(c *controller.Context, sw *controller.Switch) northbound.SwitchView {
	k := sw.Capabilities
	v := northbound.SwitchView{
		DPID:       sw.DPID.String(),
		Connection: northbound.ConnectionView{State: "disconnected", Since: sw.Since},
		Stage:      sw.Stage.String(),
		BPDUs:      sw.BPDUs.String(),
		Description: northbound.DescriptionView{
			Manufacturer: sw.Desc.Manufacturer, Hardware: sw.Desc.Hardware, Software: sw.Desc.Software,
			Serial: sw.Desc.Serial, Datapath: sw.Desc.Datapath,
		},
		Capabilities: northbound.CapabilitiesView{
			Tables: k.Tables, Bundles: k.Bundles, Nicira: k.Nicira, SelectGroups: k.Select,
			FastFailover: k.FastFailover, GroupChaining: k.Chaining, AllGroups: k.AllGroups, WatchPort: k.WatchPort, WatchGroup: k.WatchGroup,
			MaxGroups: k.MaxGroups, MaxBuckets: k.MaxBuckets, MaxMeters: k.Meters, Normal: k.Normal, NormalInBuckets: k.NormalInBuckets,
			SetFields: k.FlowSet.Names(), BucketSetFields: k.BucketSet.Names(), AddressMasks: k.AddressMasks,
			IPv6Masks: k.IPv6Masks, PortMasks: k.PortMasks, NDAnswers: k.NDAnswers, Hashing: k.Hashing, Resubmits: k.Resubmits, TCPFlags: k.TCPFlags, ConnTrack: k.ConnTrack,
			Holds: k.Holds, Ignores: k.Ignored, Probed: k.Probed, Pipeline: "tables",
		},
		Counts: northbound.CountsView{
			Ports: len(sw.Ports), Flows: sw.Flows, Groups: sw.Groups, Foreign: sw.Foreign,
			PacketIns: sw.PacketIns, PacketInsDropped: sw.PacketInsDropped,
		},
	}
	if k.OneTable() {
		v.Capabilities.Pipeline = "folded"
	}
	if b := &v.Capabilities.Balancing; k != (controller.Capabilities{}) { // it was connected once
		b.Method, b.Slots, b.Reason = balancer.Ladder(k, sw.Stage)
	}
	if sw.Connected {
		v.Connection.State, v.Role = "connected", sw.Role.String()
		v.Connection.Address, v.Connection.Secure = sw.Remote.String(), sw.Secure
	}
	snap := c.Graph.Snapshot()
	for _, p := range sw.PortList() {
		v.Ports = append(v.Ports, northbound.PortView{
			Port: uint32(p.Port), Name: p.Name, MAC: p.HWAddr.String(), Up: p.Up(), SpeedKbps: p.CurrSpeed,
			Blocked: snap.Blocked(topology.Place{DPID: topology.DPID(sw.DPID), Port: topology.Port(p.Port)}),
		})
	}
	for object, reason := range sw.Faults {
		v.Faults = append(v.Faults, northbound.FaultView{Object: object, Reason: reason})
	}
	for _, l := range snap.Links() {
		if ofproto.DPID(l.A.DPID) == sw.DPID || ofproto.DPID(l.B.DPID) == sw.DPID {
			v.Counts.Links++
		}
	}
	for _, h := range snap.Hosts() {
		if ofproto.DPID(h.Place.DPID) == sw.DPID {
			v.Counts.Hosts++
		}
	}
	return v
}

func (n network) SetStage(ctx context.Context, dpid ofproto.DPID, stage string) error {
	s, err := parseStage(stage)
	if err != nil {
		return err
	}
	if _, err := n.Switch(ctx, dpid); err != nil {
		return err
	}
	return n.core.SetStage(ctx, dpid, s)
}

func (n network) SetBPDUs(ctx context.Context, dpid ofproto.DPID, bpdus string) error {
	var b controller.BPDUs
	if err := b.UnmarshalText([]byte(bpdus)); err != nil {
		return err
	}
	if _, err := n.Switch(ctx, dpid); err != nil {
		return err
	}
	return n.core.SetBPDUs(ctx, dpid, b)
}

func (n network) Confirm(ctx context.Context, dpid ofproto.DPID) error {
	return n.explain(ctx, dpid, n.core.Confirm(ctx, dpid))
}

func (n network) Unbind(ctx context.Context, dpid ofproto.DPID) error {
	err := n.core.Unbind(ctx, dpid)
	if errors.Is(err, controller.ErrNoBinding) {
		err = fmt.Errorf("certificate of switch %s: %w", dpid, northbound.ErrNotFound)
	}
	return err
}

func (n network) Sessions(context.Context) (northbound.SessionsView, error) {
	c := n.core.Counters()
	return northbound.SessionsView{Open: c.Open, Handshaking: c.Fresh, Refused: c.Refused, Panics: c.Panics}, nil
}

func (n network) Settled(ctx context.Context, dpid ofproto.DPID) error {
	return n.core.Settled(ctx, dpid)
}

func (n network) Flows(ctx context.Context, dpid ofproto.DPID) ([]northbound.FlowView, error) {
	var views []northbound.FlowView
	var bad error
	err := n.core.Flows(ctx, dpid, func(f ofproto.FlowStats) {
		owner := ""
		if flowtable.OwnsCookie(f.Cookie) {
			owner = controller.AppNames[flowtable.CookieApp(f.Cookie)]
		}
		v, err := northbound.NewFlowView(f, owner)
		if err != nil {
			bad = err
			return
		}
		views = append(views, v)
	})
	return views, n.explain(ctx, dpid, errors.Join(err, bad))
}

func (n network) Groups(ctx context.Context, dpid ofproto.DPID) ([]northbound.GroupView, error) {
	stats := map[ofproto.GroupID]ofproto.GroupStats{}
	if err := n.core.GroupStats(ctx, dpid, func(g ofproto.GroupStats) { stats[g.Group] = g }); err != nil {
		return nil, n.explain(ctx, dpid, err)
	}
	var views []northbound.GroupView
	err := n.core.Groups(ctx, dpid, func(g ofproto.GroupDesc) {
		owner := ""
		if flowtable.OwnsGroup(g.Group) {
			owner = "fairlead"
		}
		views = append(views, northbound.NewGroupView(g, stats[g.Group], owner))
	})
	return views, n.explain(ctx, dpid, err)
}

// explain tells a switch that is unknown from one that is not connected.
func (n network) explain(ctx context.Context, dpid ofproto.DPID, err error) error {
	if !errors.Is(err, controller.ErrNotConnected) {
		return err
	}
	if _, err := n.Switch(ctx, dpid); err != nil {
		return err
	}
	return fmt.Errorf("switch %s: %w", dpid, northbound.ErrNotConnected)
}

func (n network) Topology(ctx context.Context) (snap *topology.Snapshot, err error) {
	err = n.core.Do(ctx, func(c *controller.Context) { snap = c.Graph.Snapshot() })
	return snap, err
}

// events shows the controller's notices to the REST API (northbound.Events).
type events struct{ core *controller.Controller }

func (e events) Subscribe(buffer int) (<-chan northbound.Event, func()) {
	notices, cancel := e.core.Subscribe(buffer)
	ch := make(chan northbound.Event)
	stop := make(chan struct{})
	go func() {
		defer close(ch)
		for n := range notices {
			select {
			case ch <- northbound.Event{ID: n.ID, Type: northbound.EventType(n.Kind), Time: n.Time, Data: n.Data}:
			case <-stop:
				return
			}
		}
	}()
	var once sync.Once
	return ch, func() { once.Do(func() { cancel(); close(stop) }) }
}
