package forwarding_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// TestBroadcastsWhileStagesChange moves switches between steer and managed, each of which
// does what it is told at a moment of its own, under broadcasts: none goes round, and none
// comes twice. Two at most are in steer, which make no circle by themselves.
func TestBroadcastsWhileStagesChange(t *testing.T) {
	for _, s := range circles {
		for seed := range uint64(8) {
			t.Run(fmt.Sprint(s.name, " ", seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					slow := func(ofproto.Header, ofproto.Message) {
						time.Sleep(time.Duration(rand.Int64N(int64(4 * time.Millisecond))))
					}
					l := lab.Start(t, lab.Build(s.switches, simswitch.Options{Received: slow}, s.links...), lab.Options{})
					l.Pass(6 * time.Second)
					everyBroadcastOnce(t, l)
					random := rand.New(rand.NewPCG(seed, 1))
					hosts := l.Hosts()
					var steer []ofproto.DPID
					for range 8 {
						move, stage := ofproto.DPID(1+random.IntN(s.switches)), controller.StageSteer
						if len(steer) == 2 {
							move, stage, steer = steer[0], controller.StageManaged, steer[1:]
						} else {
							steer = append(steer, move)
						}
						_, err := l.Core.WhatIf(t.Context(), move, stage)
						require.NoError(t, err)
						moved := make(chan error, 1)
						go func() { moved <- l.Core.SetStage(t.Context(), move, stage) }()
						for at := range 110 {
							from := hosts[random.IntN(len(hosts))]
							l.Forget()
							l.Announce(from)
							require.False(t, l.Stormed(), "a broadcast of %s goes round, %d ms after %v was moved to %v", from, 2*at, move, stage)
							for _, h := range hosts {
								n := len(l.Seen(h))
								if at >= 100 && h != from { // it is over
									require.Equal(t, 1, n, "copies at %s of a broadcast of %s, %d ms after %v was moved to %v", h, from, 2*at, move, stage)
								}
								require.LessOrEqual(t, n, 1, "copies at %s of a broadcast of %s, %d ms after %v was moved to %v", h, from, 2*at, move, stage)
							}
							l.Pass(2 * time.Millisecond)
						}
						require.NoError(t, <-moved)
						l.Pass(3 * time.Second)
						everyBroadcastOnce(t, l)
					}
				})
			})
		}
	}
}
