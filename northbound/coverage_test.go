package northbound

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/topology"
)

func TestCoverage(t *testing.T) {
	r := newRig(t)
	r.network.graph = ring(t)
	r.ok(201, "PUT /v1/vips/web", web)
	doc := r.ok(200, "GET /v1/coverage", "")
	require.Equal(t, doc, r.ok(200, "GET /v1/coverage?format=json", ""))
	vip := doc["vips"].([]any)[0].(map[string]any)
	require.Equal(t, "web", vip["name"])
	require.Equal(t, doc["paths"], vip["paths"])
	require.NotZero(t, doc["paths"])
	for _, query := range []string{"format=svg", "format=svg&after=1", "format=svg&after=99"} {
		svg := r.do("GET /v1/coverage?"+query, "")
		require.Equal(t, "image/svg+xml; charset=utf-8", svg.Header.Get("Content-Type"))
		require.Contains(t, svg.Header.Get("Content-Security-Policy"), "default-src 'none'")
		require.Contains(t, string(svg.body), "VIP paths covered")
		for d := xml.NewDecoder(strings.NewReader(string(svg.body))); ; {
			_, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			require.NoError(t, err)
		}
	}
	dot := r.do("GET /v1/coverage?format=dot&after=1", "")
	require.Equal(t, "text/vnd.graphviz; charset=utf-8", dot.Header.Get("Content-Type"))
	require.True(t, strings.HasPrefix(string(dot.body), "graph"), "%s", dot.body)
	r.refused(400, []string{"format"}, "GET /v1/coverage?format=png", "")
	r.refused(400, []string{"after"}, "GET /v1/coverage?format=svg&after=-1", "")
	r.refused(400, []string{"after"}, "GET /v1/coverage?after=1", "")
}

// TestCoverageByMode: the VIP's mode says which way replies have to take.
func TestCoverageByMode(t *testing.T) {
	for mode, want := range map[balancer.Mode]topology.Replies{
		balancer.ModeNAT: topology.RepliesCross, balancer.ModeDSR: topology.RepliesFree, balancer.ModeConntrack: topology.RepliesReturn,
	} {
		require.Equal(t, want, repliesOf(balancer.VIP{Mode: mode}), mode)
	}
	require.Equal(t, topology.RepliesToVIP, repliesOf(balancer.VIP{Mode: balancer.ModeConntrack, SourceNAT: true}))
}

// TestCoverageBridges reads where bridges are from their databases.
func TestCoverageBridges(t *testing.T) {
	face := func(name string, f ovsdb.Interface) ovsdb.Port {
		f.Name = name
		return ovsdb.Port{Name: name, Interfaces: []ovsdb.Interface{f}}
	}
	patch := func(name, peer string, port int) ovsdb.Port {
		return face(name, ovsdb.Interface{Type: "patch", Peer: peer, OFPort: port})
	}
	views := []ovsdb.View{
		{Endpoint: "unix:/a", Bridge: ovsdb.Bridge{Name: "br-ex", DPID: "0000000000000001", Ports: []ovsdb.Port{patch("to-int", "to-ex", 7)}}},
		{Endpoint: "unix:/a", Bridge: ovsdb.Bridge{Name: "br-int", DPID: "0000000000000002", Ports: []ovsdb.Port{
			patch("to-ex", "to-int", 3), face("vm", ovsdb.Interface{AttachedMAC: "02:00:00:00:00:09", OFPort: 4}), face("br-int", ovsdb.Interface{Type: "internal", MAC: "02:00:00:00:00:0a"})}}},
		{Endpoint: "unix:/b", Bridge: ovsdb.Bridge{Name: "br-int", DPID: "0000000000000003", Ports: []ovsdb.Port{face("to-ex", ovsdb.Interface{MAC: "02:00:00:00:00:0b"})}}},
		{Endpoint: "unix:/b", Bridge: ovsdb.Bridge{Name: "young"}},
	}
	require.Equal(t, []topology.CoverageBridge{
		{DPID: 1, Endpoint: "unix:/a", Name: "br-ex", Behind: []topology.Place{{DPID: 2, Port: 3}}},
		{DPID: 2, Endpoint: "unix:/a", Name: "br-int", Attached: []topology.MAC{{2, 0, 0, 0, 0, 9}, {2, 0, 0, 0, 0, 10}}, Behind: []topology.Place{{DPID: 1, Port: 7}}},
		{DPID: 3, Endpoint: "unix:/b", Name: "br-int"},
	}, coverageBridges(views))
}
