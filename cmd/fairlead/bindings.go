package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
)

// certificatesBucket: dpid, 16 hex digits → controller.Binding.
const certificatesBucket = "certificates"

// Bindings implements controller.Bindings.
func (s state) Bindings(context.Context) (map[ofproto.DPID]controller.Binding, error) {
	bound := map[ofproto.DPID]controller.Binding{}
	var bad error
	err := s.db.View(func(tx *store.Tx) error {
		tx.Range(certificatesBucket, "", "", func(key string, value []byte) bool {
			dpid, err := strconv.ParseUint(key, 16, 64)
			var b controller.Binding
			if err == nil {
				err = json.Unmarshal(value, &b)
			}
			if err != nil {
				bad = fmt.Errorf("stored certificate %q: %w", key, err)
				return false
			}
			bound[ofproto.DPID(dpid)] = b
			return true
		})
		return bad
	})
	return bound, err
}

// Bind implements controller.Bindings.
func (s state) Bind(ctx context.Context, dpid ofproto.DPID, b controller.Binding) error {
	value, err := json.Marshal(b)
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(certificatesBucket, dpid.String(), value) })
}

// Unbind implements controller.Bindings.
func (s state) Unbind(ctx context.Context, dpid ofproto.DPID) error {
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Delete(certificatesBucket, dpid.String()) })
}
