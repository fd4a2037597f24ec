package controller_test

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

func TestWithdrawTakesOnlyWhatIsOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		foreign := &ofproto.FlowMod{
			Table: controller.TableVIP, Command: ofproto.FlowAdd, Priority: 7, Match: dst(77),
			BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
		}
		require.Nil(t, r.sw.Apply(foreign))
		r.set(1, part(1))
		r.set(2, part(2))
		require.NoError(t, r.Core.Settled(t.Context(), 1))
		all := len(r.sw.Flows())

		require.NoError(t, r.Core.Withdraw(t.Context(), 1))
		require.Len(t, r.sw.Flows(), 1, "the other's")
		require.Empty(t, r.sw.Groups())
		r.set(3, part(3))
		synctest.Wait()
		require.Len(t, r.sw.Flows(), 1, "what changes meanwhile is not installed")

		require.NoError(t, r.Core.Return(t.Context(), 1))
		require.Len(t, r.sw.Flows(), all+1)
		require.Equal(t, []int{1, 2, 3}, has(r.sw)[:3])

		require.NoError(t, r.Core.Withdraw(t.Context(), 1))
		r.Disconnect(1)
		synctest.Wait()
		require.ErrorIs(t, r.Core.Withdraw(t.Context(), 1), controller.ErrNotConnected)
		r.Connect(1)
		synctest.Wait()
		require.Len(t, r.sw.Flows(), all+1, "a new connection is a new start")
		r.NoFaults()
	})
}

func TestStageOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		stage, stored, err := r.Core.StageOf(t.Context(), 9)
		require.NoError(t, err)
		require.False(t, stored)
		require.Equal(t, controller.StageManaged, stage, "of switches never seen")
		require.NoError(t, r.Core.SetStage(t.Context(), 9, controller.StageSteer))
		stage, stored, err = r.Core.StageOf(t.Context(), 9)
		require.NoError(t, err)
		require.True(t, stored)
		require.Equal(t, controller.StageSteer, stage)
	})
}
