package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/migration"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// migrationsBucket keeps migrations: name → record, name/… → what belongs to it.
const migrationsBucket = "migrations"

// migrationStore is the store of package migration.
type migrationStore struct{ db *store.Store }

// Entries implements migration.Store.
func (s migrationStore) Entries(context.Context) (map[string][]byte, error) {
	all := map[string][]byte{}
	err := s.db.View(func(tx *store.Tx) error {
		tx.Range(migrationsBucket, "", "", func(key string, value []byte) bool {
			all[key] = bytes.Clone(value)
			return true
		})
		return nil
	})
	return all, err
}

// Entry implements migration.Store.
func (s migrationStore) Entry(_ context.Context, key string) (value []byte, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		value = bytes.Clone(tx.Get(migrationsBucket, key))
		return nil
	})
	return value, err
}

// Write implements migration.Store.
func (s migrationStore) Write(ctx context.Context, entries map[string][]byte) error {
	return s.db.Update(ctx, func(tx *store.Tx) error {
		for key, value := range entries {
			var err error
			if value == nil {
				err = tx.Delete(migrationsBucket, key)
			} else {
				err = tx.Put(migrationsBucket, key, value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// migrated shows the OpenFlow side to package migration (migration.Network).
type migrated struct {
	core *controller.Controller
	switches
}

func (n migrated) Switch(ctx context.Context, dpid ofproto.DPID) (v migration.Switch, err error) {
	stage, stored, err := n.core.StageOf(ctx, dpid)
	if err != nil {
		return v, err
	}
	v = migration.Switch{DPID: dpid, Stage: stage.String(), Stored: stored}
	err = n.core.Do(ctx, func(c *controller.Context) {
		if sw := c.Switch(dpid); sw != nil {
			v.Connected, v.Stage, v.Capabilities, v.Flows = true, sw.Stage.String(), sw.Capabilities, sw.Flows
			v.Faults = maps.Clone(sw.Faults)
			v.Held = v.Faults[heldBy]
		}
	})
	return v, err
}

func (n migrated) WhatIf(ctx context.Context, dpid ofproto.DPID, stage string, ports []ofproto.PortDesc) (controller.Change, error) {
	to, err := parseStage(stage)
	if err != nil {
		return controller.Change{}, err
	}
	ch, err := n.core.WhatIf(ctx, dpid, to)
	if errors.Is(err, controller.ErrNotConnected) {
		return n.core.WhatIfNew(ctx, dpid, to, ports)
	}
	return ch, err
}

func (n migrated) Deviations(ctx context.Context, dpid ofproto.DPID) ([]string, error) {
	return n.core.Deviations(ctx, dpid)
}

func (n migrated) Room(ctx context.Context, dpid ofproto.DPID) (map[ofproto.Table]uint32, error) {
	return n.core.Room(ctx, dpid)
}

func (n migrated) Topology(ctx context.Context) (*topology.Snapshot, error) {
	return network{core: n.core}.Topology(ctx)
}

func (n migrated) Assuming(ctx context.Context, managed map[topology.DPID]bool) (snap *topology.Snapshot, err error) {
	err = n.core.Do(ctx, func(c *controller.Context) { snap = c.Graph.Assuming(managed) })
	return snap, err
}

func (n migrated) Notify(ctx context.Context, data any) {
	// An error means that nobody is left to be told.
	_ = n.core.Do(ctx, func(c *controller.Context) { c.Notify("migration", data) })
}

// migratedVIPs shows VIPs to package migration (migration.VIPs).
type migratedVIPs struct{ vips *balancer.Service }

// manyVIPs is how many VIPs are read at once.
const manyVIPs = 1000

func (v migratedVIPs) VIPs(ctx context.Context) (all []migration.VIP, err error) {
	for after := ""; ; {
		list, next, err := v.vips.List(ctx, after, manyVIPs)
		if err != nil {
			return nil, fmt.Errorf("read VIPs: %w", err)
		}
		for _, vip := range list {
			m := migration.VIP{Name: vip.Name, Address: vip.Address, Mode: string(vip.Mode)}
			for _, l := range vip.Listeners {
				for _, b := range l.Pool.Members {
					one := migration.Member{Address: b.Address}
					if b.Status != nil {
						one.DPID, one.Up = b.Status.Switch, b.Status.Health == balancer.HealthUp
					}
					m.Members = append(m.Members, one)
				}
			}
			all = append(all, m)
		}
		if next == "" {
			return all, nil
		}
		after = next
	}
}
