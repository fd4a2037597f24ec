package controller_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// holds says whether a switch has the entry that Open vSwitch gives a bridge.
func holds(sw *simswitch.Switch) bool {
	for _, f := range sw.Flows() {
		if f.Table == 0 && f.Priority == 0 {
			return true
		}
	}
	return false
}

func TestTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		r.set(1, part(1))
		require.NoError(t, r.Core.Settled(t.Context(), 1))
		all := len(r.sw.Flows())
		held := false
		forgot, err := r.Core.TakeOver(t.Context(), 1, true, func(context.Context) error {
			held = holds(r.sw)
			require.Nil(t, r.sw.Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll}))
			require.Nil(t, r.sw.Apply(&ofproto.FlowMod{Table: ofproto.TableAll, Command: ofproto.FlowDelete, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}))
			return nil
		}, func(context.Context) error {
			require.Len(t, r.sw.Flows(), all, "it is filled before it is handed over, and what held it is gone")
			r.Disconnect(1)
			r.Connect(1)
			return nil
		})
		require.NoError(t, err)
		require.True(t, forgot)
		require.True(t, held, "before it forgets")
		require.False(t, holds(r.sw))
		require.Equal(t, []int{1}, has(r.sw))
		require.Len(t, r.sw.Flows(), all)

		// Nothing is forgotten where it keeps a controller.
		mods := r.Mods()
		forgot, err = r.Core.TakeOver(t.Context(), 1, false, func(context.Context) error { return nil }, func(context.Context) error {
			r.Disconnect(1)
			r.Connect(1)
			return nil
		})
		require.NoError(t, err)
		require.False(t, forgot)
		require.Equal(t, mods, r.Mods())

		failed := errors.New("failed")
		_, err = r.Core.TakeOver(t.Context(), 1, false, func(context.Context) error { return failed }, nil)
		require.ErrorIs(t, err, failed)
		_, err = r.Core.TakeOver(t.Context(), 2, false, nil, nil)
		require.ErrorIs(t, err, controller.ErrNotConnected)
		r.NoFaults()
	})
}
