package northbound

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/ofproto"
)

// fakeMeasurer remembers what it was asked.
type fakeMeasurer struct{ asked []reachability.Request }

func (f *fakeMeasurer) Measure(ctx context.Context, req reachability.Request) (reachability.Measurement, error) {
	f.asked = append(f.asked, req)
	switch {
	case len(req.VIPs) > 0 && req.VIPs[0] == "none":
		return reachability.Measurement{}, &reachability.InvalidError{Errors: []documents.FieldError{{Field: "vips[0]", Reason: `there is no VIP "none"`}}}
	case len(req.VIPs) > 0:
		<-ctx.Done()
		return reachability.Measurement{}, ctx.Err()
	}
	caught := reachability.Place{DPID: "0000000000000002", Port: 3}
	return reachability.Measurement{
		At: epoch, Took: "12ms", Switches: []reachability.Switch{{DPID: "0000000000000001", Stage: "steer", Deviations: []string{}}},
		Pairs: []reachability.Pair{{From: "0000000000000001", Address: netip.MustParseAddr("10.0.0.2"), MAC: "02:00:00:00:00:02", At: caught,
			Reply: reachability.Reply{Result: reachability.Answered, Tries: 1, RTT: "2ms", Caught: &caught}}},
		Total: 1, VIPs: []reachability.VIPAnswer{}, Probes: []reachability.ProbeAnswer{}, Copies: []reachability.Copies{}, Links: []reachability.LinkAnswer{},
		Rates: []reachability.PortRate{}, Notes: []string{},
	}, nil
}

func TestReachability(t *testing.T) {
	f := &fakeMeasurer{}
	r := newRig(t, func(o *Options) { o.Measurer = f })
	place := map[string]any{"dpid": "0000000000000002", "port": 3.0}
	require.Equal(t, map[string]any{
		"at": "2026-01-02T03:04:05Z", "took": "12ms", "pairs_total": 1.0,
		"switches": []any{map[string]any{"dpid": "0000000000000001", "stage": "steer", "compared": false, "deviations": []any{}}},
		"pairs": []any{map[string]any{"from": "0000000000000001", "address": "10.0.0.2", "mac": "02:00:00:00:00:02", "vlan": 0.0, "at": place,
			"result": "answered", "tries": 1.0, "rtt": "2ms", "caught": place}},
		"vips": []any{}, "probes": []any{}, "copies": []any{}, "links": []any{}, "rates": []any{}, "notes": []any{},
	}, r.ok(200, "POST /v1/reachability", `{}`))
	r.ok(200, "POST /v1/reachability", `{"from":["000000000000001f"],"hosts":false,"source_addresses":["10.0.0.250","2001:db8::250"],"broadcast":true,"rates":true,
		"tables":true,"mtu":1500,"max_pairs":7,"timeout":"1s","probes":[{"type":"tcp","address":"10.0.0.9","port":22,"vlan":7},{"type":"arp","address":"10.0.0.9"}]}`)
	require.Equal(t, []reachability.Request{{Hosts: true}, {
		From: []ofproto.DPID{0x1f}, Sources: []netip.Addr{netip.MustParseAddr("10.0.0.250"), netip.MustParseAddr("2001:db8::250")},
		Probes:    []documents.Probe{{Type: "tcp", Address: netip.MustParseAddr("10.0.0.9"), Port: 22, VLAN: 7}, {Type: "arp", Address: netip.MustParseAddr("10.0.0.9")}},
		Broadcast: true, Rates: true, Tables: true, MTU: 1500, MaxPairs: 7, Timeout: time.Second,
	}}, f.asked)

	for body, fields := range map[string][]string{
		`{"hots":true}`:             {"hots"},
		`{"hosts":"yes","mtu":"x"}`: {"hosts", "mtu"},
		`{"from":["1"]}`:            {"from[0]"},
		`{"source_addresses":["10.0.0.1","x"],"timeout":"1"}`: {"source_addresses[1]", "timeout"},
		`{"timeout":"-1s"}`:                                   {"timeout"},
		`{"probes":[{"type":"arp"}]}`:                         {"probes[0].address"},
		`{"probes":[{"type":"arp","address":"x","speed":1}]}`: {"probes[0].speed"},
		`{"probes":[{"type":"arp","address":"x"},7]}`:         {"probes[0].address", "probes[1]"},
		`{"vips":["none"]}`:                                   {"vips[0]"},
		`{"vips":null}`:                                       {"vips"},
		`{"mtu":1500,"mtu":64}`:                               {"mtu"},
	} {
		r.refused(400, fields, "POST /v1/reachability", body)
	}
	for _, body := range []string{``, `[]`, `null`, `{} {}`} {
		r.refused(400, []string{"body"}, "POST /v1/reachability", body)
	}
}
