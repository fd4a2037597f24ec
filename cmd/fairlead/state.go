package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
)

// Buckets and keys of what the controller itself stores.
const (
	switchesBucket   = "switches"     // dpid, 16 hex digits → switchState
	bpdusBucket      = "switch-bpdus" // dpid, 16 hex digits → controller.BPDUs
	portMACsBucket   = "switch-ports" // dpid, 16 hex digits → addresses of ports in order, 6 bytes each
	controllerBucket = "controller"
	termKey          = "term"
	topologyKey      = "topology"
	kindsBucket      = "switch-kinds" // description → controller.Capabilities
)

// state is the controller's own part of the store (controller.Store), and the
// network as last seen.
type state struct{ db *store.Store }

// switchState is what is stored of a switch.
type switchState struct {
	Stage controller.Stage `json:"stage"`
}

// Stages implements controller.Store.
func (s state) Stages(context.Context) (map[ofproto.DPID]controller.Stage, error) {
	stages := map[ofproto.DPID]controller.Stage{}
	stored, err := readSwitches[switchState](s.db, switchesBucket)
	for dpid, st := range stored {
		stages[dpid] = st.Stage
	}
	return stages, err
}

// readSwitches reads what a bucket keeps by datapath id.
func readSwitches[T any](db *store.Store, bucket string) (map[ofproto.DPID]T, error) {
	all := map[ofproto.DPID]T{}
	var bad error
	err := db.View(func(tx *store.Tx) error {
		tx.Range(bucket, "", "", func(key string, value []byte) bool {
			dpid, err := strconv.ParseUint(key, 16, 64)
			var one T
			if err == nil {
				err = json.Unmarshal(value, &one)
			}
			if err != nil {
				bad = fmt.Errorf("stored switch %q: %w", key, err)
				return false
			}
			all[ofproto.DPID(dpid)] = one
			return true
		})
		return bad
	})
	return all, err
}

// BPDUs implements controller.Store.
func (s state) BPDUs(context.Context) (map[ofproto.DPID]controller.BPDUs, error) {
	return readSwitches[controller.BPDUs](s.db, bpdusBucket)
}

// SetBPDUs implements controller.Store.
func (s state) SetBPDUs(ctx context.Context, dpid ofproto.DPID, b controller.BPDUs) error {
	value, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(bpdusBucket, dpid.String(), value) })
}

// SetStage implements controller.Store.
func (s state) SetStage(ctx context.Context, dpid ofproto.DPID, stage controller.Stage) error {
	value, err := json.Marshal(switchState{Stage: stage})
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(switchesBucket, dpid.String(), value) })
}

// PortMACs implements controller.Store. What cannot be read is learned again.
func (s state) PortMACs(context.Context) (map[ofproto.DPID][]ofproto.MAC, error) {
	all := map[ofproto.DPID][]ofproto.MAC{}
	err := s.db.View(func(tx *store.Tx) error {
		tx.Range(portMACsBucket, "", "", func(key string, value []byte) bool {
			dpid, err := strconv.ParseUint(key, 16, 64)
			if err != nil || len(value)%len(ofproto.MAC{}) != 0 {
				return true
			}
			macs := make([]ofproto.MAC, 0, len(value)/len(ofproto.MAC{}))
			for mac := range slices.Chunk(value, len(ofproto.MAC{})) {
				macs = append(macs, ofproto.MAC(mac))
			}
			all[ofproto.DPID(dpid)] = macs
			return true
		})
		return nil
	})
	return all, err
}

// SetPortMACs implements controller.Store.
func (s state) SetPortMACs(ctx context.Context, dpid ofproto.DPID, macs []ofproto.MAC) error {
	value := make([]byte, 0, len(macs)*len(ofproto.MAC{}))
	for _, mac := range macs {
		value = append(value, mac[:]...)
	}
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(portMACsBucket, dpid.String(), value) })
}

// NextTerm implements controller.Store.
func (s state) NextTerm(ctx context.Context, least uint64) (term uint64, err error) {
	err = s.db.Update(ctx, func(tx *store.Tx) error {
		if v := tx.Get(controllerBucket, termKey); v != nil {
			if term, err = strconv.ParseUint(string(v), 10, 64); err != nil {
				return fmt.Errorf("stored term %q: %w", v, err)
			}
		}
		term = max(term+1, least)
		return tx.Put(controllerBucket, termKey, strconv.AppendUint(nil, term, 10))
	})
	return term, err
}

// Capabilities implements controller.Store. What cannot be read is probed again.
func (s state) Capabilities(context.Context) (map[string]controller.Capabilities, error) {
	kinds := map[string]controller.Capabilities{}
	err := s.db.View(func(tx *store.Tx) error {
		tx.Range(kindsBucket, "", "", func(key string, value []byte) bool {
			var c controller.Capabilities
			if json.Unmarshal(value, &c) == nil {
				kinds[key] = c
			}
			return true
		})
		return nil
	})
	return kinds, err
}

// SetCapabilities implements controller.Store.
func (s state) SetCapabilities(ctx context.Context, kind string, c controller.Capabilities) error {
	value, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(kindsBucket, kind, value) })
}

func (s state) topology() (saved []byte, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		saved = bytes.Clone(tx.Get(controllerBucket, topologyKey))
		return nil
	})
	return saved, err
}

func (s state) saveTopology(ctx context.Context, b []byte) error {
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(controllerBucket, topologyKey, b) })
}
