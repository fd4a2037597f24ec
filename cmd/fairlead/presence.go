package main

import (
	"context"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/northbound"
)

// presenceView shows what was announced to hosts and bridges (northbound.Options.Presence).
func presenceView(core *controller.Controller, vips *balancer.App) func(context.Context) (northbound.PresenceView, error) {
	return func(ctx context.Context) (v northbound.PresenceView, err error) {
		err = core.Do(ctx, func(*controller.Context) {
			s := vips.Announcements()
			v = northbound.PresenceView{ARP: s.ARP, ND: s.ND, Waiting: s.Waiting}
		})
		return v, err
	}
}
