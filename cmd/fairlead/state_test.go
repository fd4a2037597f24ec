package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
)

// What is stored of switches is there after the store was opened again, each by itself.
func TestStateOfSwitches(t *testing.T) {
	dir := t.TempDir()
	open := func() state {
		db, err := store.Open(dir, store.Options{})
		require.NoError(t, err)
		return state{db}
	}
	s := open()
	require.NoError(t, s.SetStage(t.Context(), 1, controller.StageManaged))
	require.NoError(t, s.SetBPDUs(t.Context(), 1, controller.BPDUsGuard))
	require.NoError(t, s.SetBPDUs(t.Context(), 0xfffffffffffffffe, controller.BPDUsForward))
	macs := []ofproto.MAC{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}
	require.NoError(t, s.SetPortMACs(t.Context(), 1, macs))
	require.NoError(t, s.SetPortMACs(t.Context(), 2, macs[1:]))
	require.NoError(t, s.SetPortMACs(t.Context(), 3, nil))
	require.NoError(t, s.db.Update(t.Context(), func(tx *store.Tx) error { return tx.Put(portMACsBucket, "0000000000000004", []byte("short")) }))
	require.NoError(t, s.db.Close())

	s = open()
	stages, err := s.Stages(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[ofproto.DPID]controller.Stage{1: controller.StageManaged}, stages)
	bpdus, err := s.BPDUs(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[ofproto.DPID]controller.BPDUs{1: controller.BPDUsGuard, 0xfffffffffffffffe: controller.BPDUsForward}, bpdus)

	kept, err := s.PortMACs(t.Context())
	require.NoError(t, err)
	require.Equal(t, map[ofproto.DPID][]ofproto.MAC{1: macs, 2: macs[1:], 3: {}}, kept)

	require.NoError(t, s.db.Update(t.Context(), func(tx *store.Tx) error { return tx.Put(bpdusBucket, "0000000000000002", []byte(`"eat"`)) }))
	_, err = s.BPDUs(t.Context())
	require.ErrorContains(t, err, `"0000000000000002"`)
	require.NoError(t, s.db.Close())
}
