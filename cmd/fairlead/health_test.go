package main

import (
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/health"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/topology"
)

// What a monitor says is what is probed, and what is found is what the balancer hears.
func TestChecksAndVerdicts(t *testing.T) {
	check := balancer.Check{
		ID: "web/tcp:80/10.0.0.2:8080", Target: netip.MustParseAddrPort("10.0.0.3:9090"), Source: netip.MustParseAddr("10.0.0.9"), VLAN: 7,
		Monitor: balancer.Monitor{
			Type: balancer.MonitorHTTPS, Interval: balancer.Duration(3 * time.Second), Timeout: balancer.Duration(time.Second), Rise: 3, Fall: 4,
			Via: balancer.ViaSwitches, SourceAddress: netip.MustParseAddr("10.0.0.9"),
			Method: "HEAD", Host: "shop.example", TLSInsecure: true, Path: "/healthz", ExpectedCodes: "204",
		},
	}
	want := health.Target{
		ID: check.ID, Type: health.HTTPS, Address: netip.MustParseAddr("10.0.0.3"), Port: 9090, Source: netip.MustParseAddr("10.0.0.9"), Answer: true, VLAN: 7,
		Interval: 3 * time.Second, Timeout: time.Second, Rise: 3, Fall: 4,
		Method: "HEAD", Host: "shop.example", TLSInsecure: true, Path: "/healthz", ExpectedCodes: "204",
	}
	require.Equal(t, want, targetOf(check))
	check.Monitor.SourceAddress, want.Answer = netip.Addr{}, false
	require.Equal(t, want, targetOf(check), "the VIP's own address is the balancer's to answer for")
	check.Monitor.Via, want.ViaHost = balancer.ViaHost, true
	require.Equal(t, want, targetOf(check))
	for _, typ := range []balancer.MonitorType{
		balancer.MonitorTCP, balancer.MonitorHTTP, balancer.MonitorHTTPS, balancer.MonitorPing, balancer.MonitorUDPConnect, balancer.MonitorSCTP,
	} {
		require.Contains(t, health.Types, health.Type(typ))
	}

	app := health.New(slog.New(slog.DiscardHandler), tell)
	c := controller.NewContext(time.Now(), topology.New(topology.Options{}), app)
	watch(c, "web", []balancer.Check{check})
	app.Handle(c, health.Change{Owner: "web", Targets: []health.Target{targetOf(check)}})
	require.Equal(t, map[health.Status]int{health.Unknown: 1}, app.Stats().Targets)
}
