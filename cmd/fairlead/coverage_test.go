package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/northbound"
)

// fakeBridges is an OVS with one bridge that is no switch.
type fakeBridges struct{ northbound.OVS }

func (fakeBridges) Bridges(context.Context, ovsdb.Endpoint) ([]ovsdb.View, error) {
	return []ovsdb.View{{Endpoint: "unix:/db.sock", Bridge: ovsdb.Bridge{Name: "br-int", DPID: "00000000000000aa", Ports: []ovsdb.Port{
		{Name: "vm", Interfaces: []ovsdb.Interface{{Name: "vm", AttachedMAC: "00:00:00:00:00:08"}}},
	}}}}, nil
}

func TestMigrateCoverage(t *testing.T) {
	r := newRig(t)
	r.done("vip apply -f " + r.file(`{"name":"web","address":"10.0.0.100","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"address":"10.0.0.9","port":80},{"address":"10.0.0.10","port":80}]}}]}`))
	out := strings.Split(r.done("migrate coverage"), "\n")
	row := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	require.Equal(t, "web 1 0 0 1", row(out[1]))
	require.Equal(t, "1 switch s1 0000000000000001 1 1 (100.0%) fairlead switch stage 0000000000000001 steer", strings.ReplaceAll(row(out[5]), "switch 1", "switch s1"))
	require.Contains(t, strings.Join(out, "\n"), "crosses no converted switch")
	require.True(t, json.Valid([]byte(r.done("migrate coverage --output json"))))
	require.Contains(t, r.done("migrate coverage --output svg"), "0 of 1 VIP paths covered")
	require.Contains(t, r.done("migrate coverage --output svg --after 1"), "1 of 1 VIP paths covered")
	require.True(t, strings.HasPrefix(r.done("migrate coverage --output dot --after 1"), "graph"))
	require.Contains(t, r.fails(exitUsage, "migrate coverage --after 1"), "--output dot or svg")
}

func TestPercentOf(t *testing.T) {
	require.Equal(t, "3 (75.0%)", percentOf(3, 4))
	require.Equal(t, "-", percentOf(0, 0))
}
