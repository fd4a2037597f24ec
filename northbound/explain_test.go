package northbound

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/topology"
)

// fakeExplainer remembers what it was asked.
type fakeExplainer struct{ asked []balancer.Query }

func (f *fakeExplainer) Explain(_ context.Context, q balancer.Query) (balancer.Explanation, error) {
	f.asked = append(f.asked, q)
	if q.At == nil && q.From.Port() == 9 {
		return balancer.Explanation{}, &balancer.InvalidError{Errors: []documents.FieldError{{Field: "at", Reason: "is needed"}}}
	}
	return balancer.Explanation{Protocol: q.Protocol, From: q.From, To: q.To, At: "0000000000000001/1", Result: "dropped",
		Reasons: []string{}, Path: []balancer.HopView{}, Installed: balancer.InstalledSame, Differences: []balancer.DifferenceView{}}, nil
}

func TestExplain(t *testing.T) {
	f := &fakeExplainer{}
	r := newRig(t, func(o *Options) { o.Explainer = f })
	doc := r.ok(200, "POST /v1/explain", `{"protocol":"tcp","from":"10.0.0.1:40000","to":"10.0.0.100:80"}`)
	require.Equal(t, map[string]any{
		"protocol": "tcp", "from": "10.0.0.1:40000", "to": "10.0.0.100:80", "at": "0000000000000001/1", "result": "dropped", "slot": nil,
		"reasons": []any{}, "path": []any{}, "installed": "same", "differences": []any{},
	}, doc)
	r.ok(200, "POST /v1/explain", `{"protocol":"udp","from":"[2001:db8::1]:53","to":"[2001:db8::2]:53","at":"1f/LOCAL"}`)
	require.Equal(t, []balancer.Query{
		{Protocol: balancer.TCP, From: netip.MustParseAddrPort("10.0.0.1:40000"), To: netip.MustParseAddrPort("10.0.0.100:80")},
		{Protocol: balancer.UDP, From: netip.MustParseAddrPort("[2001:db8::1]:53"), To: netip.MustParseAddrPort("[2001:db8::2]:53"),
			At: &topology.Place{DPID: 0x1f, Port: topology.PortLocal}},
	}, f.asked)

	for body, fields := range map[string][]string{
		`{}`: {"from", "protocol", "to"},
		`{"protocol":"icmp","from":"10.0.0.1","to":"10.0.0.100:0","at":"1"}`:                  {"protocol", "from", "to", "at"},
		`{"protocol":"tcp","from":"10.0.0.1:1","to":"[2001:db8::2]:1"}`:                       {"to"},
		`{"protocol":"tcp","from":"10.0.0.1:1","to":"10.0.0.2:1","at":"1/x"}`:                 {"at"},
		`{"protocol":"tcp","from":"10.0.0.1:1","to":"10.0.0.2:1","at":"00000000000000001/1"}`: {"at"},
		`{"protocol":"tcp","from":"10.0.0.1:1","to":"10.0.0.2:1","at":7}`:                     {"at"},
		`{"protocol":"tcp","from":"10.0.0.1:1","to":"10.0.0.2:1","dpid":"1"}`:                 {"dpid"},
		`{"protocol":"tcp","from":"10.0.0.1:9","to":"10.0.0.2:1"}`:                            {"at"},
		`{"protocol":"tcp","from":"fe80::1%eth0:1","to":"10.0.0.2:1"}`:                        {"from"},
		`{"protocol":"tcp","from":"10.0.0.1:1","to":"10.0.0.2:65536"}`:                        {"to"},
		`{"protocol":"tcp","from":"10.0.0.1:1","to":"10.0.0.2:1","at":null}`:                  {"at"},
	} {
		r.refused(400, fields, "POST /v1/explain", body)
	}
}
