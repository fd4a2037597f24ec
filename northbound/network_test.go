package northbound

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

const sw1 = "/v1/switches/0000000000000001"

func TestSwitches(t *testing.T) {
	r := newRig(t)
	doc := r.ok(200, "GET /v1/switches", "")
	items := doc["items"].([]any)
	require.Len(t, items, 2)
	require.Equal(t, "0000000000000001", items[0].(map[string]any)["dpid"], "in order")
	require.Equal(t, []any{}, items[0].(map[string]any)["ports"], "a list is never null")
	require.Equal(t, []any{}, items[0].(map[string]any)["faults"])
	doc = r.ok(200, "GET /v1/switches?limit=1", "")
	require.Equal(t, "0000000000000001", doc["next"])
	doc = r.ok(200, "GET /v1/switches?limit=1&after=0000000000000001", "")
	require.Equal(t, "", doc["next"])
	require.Len(t, doc["items"], 1)

	resp := r.do("GET "+sw1, "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, `"steer-drop"`, resp.Header.Get("ETag"))
	r.refused(404, nil, "GET /v1/switches/00000000000000ff", "")
	for _, bad := range []string{"1", "00000000000000zz", "0x00000000000001", "00000000000000001"} {
		for _, rest := range []string{"", "/flows", "/groups"} {
			r.refused(400, []string{"dpid"}, "GET /v1/switches/"+bad+rest, "")
		}
		r.refused(400, []string{"dpid"}, "PUT /v1/switches/"+bad+"/stage", `{"stage":"steer"}`)
	}
}

func TestStage(t *testing.T) {
	r := newRig(t)
	const put = "PUT " + sw1 + "/stage"
	doc := r.ok(200, put, `{"stage":"managed"}`)
	require.Equal(t, "managed", doc["stage"])
	require.Equal(t, "managed", r.network.switches[1].Stage)
	require.Zero(t, r.network.settled)
	r.ok(200, put+"?wait=1s", `{"stage":"steer"}`)
	require.Equal(t, 1, r.network.settled)

	r.refused(412, nil, put, `{"stage":"observe"}`, "If-Match", `"managed-drop"`)
	r.refused(412, nil, put, `{"stage":"observe"}`, "If-None-Match", `*`)
	resp := r.do(put, `{"stage":"observe"}`, "If-Match", `"steer-drop"`)
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, `"observe-drop"`, resp.Header.Get("ETag"))

	for body, fields := range map[string][]string{
		``: {"body"}, `[]`: {"body"}, `{"stage":"steer"} x`: {"body"}, `{"stage":"steer"}{}`: {"body"}, `null`: {"body"}, "{\"stage\":\"\xff\"}": {"body"},
		`{"stage":"steer","stage":"managed"}`: {"stage"},
		`{}`:                                  {"stage"}, `{"stage":null}`: {"stage"}, `{"stage":3}`: {"stage"}, `{"stage":"fly"}`: {"stage"}, `{"stage":""}`: {"stage"},
		`{"Stage":"steer"}`: {"Stage", "stage"}, `{"stage":"steer","x":1}`: {"x"},
	} {
		r.refused(400, fields, put, body)
	}
	require.Equal(t, "observe", r.network.switches[1].Stage)
	r.refused(404, nil, "PUT /v1/switches/00000000000000ff/stage", `{"stage":"steer"}`)
	r.refused(404, nil, "POST /v1/switches/00000000000000ff/confirm", "")
	r.refused(404, nil, "PUT /v1/switches/00000000000000ff/stage", `{"stage":"steer"}`, "If-Match", "*")
}

func TestBPDUs(t *testing.T) {
	r := newRig(t)
	const put = "PUT " + sw1 + "/bpdus"
	doc := r.ok(200, put, `{"bpdus":"forward"}`)
	require.Equal(t, "forward", doc["bpdus"])
	require.Equal(t, "forward", r.network.switches[1].BPDUs)
	require.Zero(t, r.network.settled)
	r.ok(200, put+"?wait=1s", `{"bpdus":"guard"}`)
	require.Equal(t, 1, r.network.settled)
	r.refused(412, nil, put, `{"bpdus":"drop"}`, "If-Match", `"steer-drop"`)
	resp := r.do(put, `{"bpdus":"guard"}`, "If-Match", `"steer-guard"`)
	require.Equal(t, `"steer-guard"`, resp.Header.Get("ETag"), "the tag is of all that is stored of a switch")
	for body, fields := range map[string][]string{
		``: {"body"}, `null`: {"body"}, `{}`: {"bpdus"}, `{"bpdus":null}`: {"bpdus"}, `{"bpdus":"eat"}`: {"bpdus"}, `{"bpdus":""}`: {"bpdus"}, `{"bpdus":"drop","x":1}`: {"x"},
	} {
		r.refused(400, fields, put, body)
	}
	require.Equal(t, "guard", r.network.switches[1].BPDUs)
	r.refused(404, nil, "PUT /v1/switches/00000000000000ff/bpdus", `{"bpdus":"drop"}`)
}

func flowStats(table ofproto.Table, priority uint16, fields ...ofproto.Field) ofproto.FlowStats {
	return ofproto.FlowStats{Table: table, Priority: priority, Match: ofproto.NewMatch(fields...),
		DurationSec: 61, DurationNsec: 500e6, IdleTimeout: 30, Cookie: 0x46, Packets: 3, Bytes: 180}
}

func TestFlows(t *testing.T) {
	r := newRig(t)
	vip := netip.MustParsePrefix("10.0.0.100/32")
	for _, f := range []ofproto.FlowStats{
		flowStats(2, 100, ofproto.EthType(0x0800), ofproto.IPv4Dst(vip)),
		flowStats(0, 0),
		flowStats(2, 300, ofproto.EthType(0x0800), ofproto.IPProto(6), ofproto.IPv4Dst(vip), ofproto.TCPDst(80)),
		flowStats(0, 65000, ofproto.EthType(0x88cc)),
	} {
		v, err := NewFlowView(f, "balancer vip/web")
		require.NoError(t, err)
		r.network.flows = append(r.network.flows, v)
	}
	// Page by page: every flow once, in the order a switch tries them.
	var got []string
	for after := ""; ; {
		doc := r.ok(200, "GET "+sw1+"/flows?limit=1&after="+after, "")
		for _, item := range doc["items"].([]any) {
			f := item.(map[string]any)
			got = append(got, fmt.Sprint(f["table"], "/", f["priority"]))
		}
		if after = doc["next"].(string); after == "" {
			break
		}
	}
	require.Equal(t, []string{"0/65000", "0/0", "2/300", "2/100"}, got)
	f := r.ok(200, "GET "+sw1+"/flows", "")["items"].([]any)[2].(map[string]any)
	require.Equal(t, "10.0.0.100", f["match"].(map[string]any)["ipv4_dst"])
	require.Equal(t, "80", f["match"].(map[string]any)["tcp_dst"])
	require.Equal(t, "1m1.5s", f["age"])
	require.Equal(t, "30s", f["idle_timeout"])
	require.Equal(t, "0s", f["hard_timeout"])
	require.Equal(t, "0x0000000000000046", f["cookie"])
	require.Equal(t, []any{}, f["instructions"])
}

func TestGroups(t *testing.T) {
	r := newRig(t)
	slot := ofproto.Bucket{Weight: 1, WatchPort: ofproto.PortAny, WatchGroup: 0x46000002, Actions: []ofproto.Action{ofproto.Group{ID: 0x46000002}}}
	r.network.groups = []GroupView{
		NewGroupView(ofproto.GroupDesc{Type: ofproto.GroupTypeSelect, Group: 0x46000001, Buckets: []ofproto.Bucket{slot, slot}},
			ofproto.GroupStats{Packets: 9, Bytes: 900, RefCount: 1, DurationSec: 5, Buckets: []ofproto.BucketCounter{{Packets: 4, Bytes: 400}}}, "balancer vip/web"),
		NewGroupView(ofproto.GroupDesc{Type: ofproto.GroupTypeFastFailover, Group: 7, Buckets: []ofproto.Bucket{{WatchPort: 3, WatchGroup: ofproto.GroupAny,
			Actions: []ofproto.Action{ofproto.OutputPort(3)}}}}, ofproto.GroupStats{}, ""),
	}
	items := r.ok(200, "GET "+sw1+"/groups", "")["items"].([]any)
	require.Len(t, items, 2)
	ff, sel := items[0].(map[string]any), items[1].(map[string]any)
	require.Equal(t, float64(7), ff["id"], "in the order of the numbers")
	require.Equal(t, "ff", ff["type"])
	require.Equal(t, "3", ff["buckets"].([]any)[0].(map[string]any)["watch_port"])
	require.NotContains(t, ff["buckets"].([]any)[0], "watch_group")
	require.Equal(t, "select", sel["type"])
	require.Equal(t, "5s", sel["age"])
	b := sel["buckets"].([]any)[0].(map[string]any)
	require.Equal(t, float64(0x46000002), b["watch_group"])
	require.NotContains(t, b, "watch_port")
	require.Equal(t, float64(4), b["packets"])
	doc := r.ok(200, "GET "+sw1+"/groups?limit=1", "")
	doc = r.ok(200, "GET "+sw1+"/groups?limit=1&after="+doc["next"].(string), "")
	require.Equal(t, "", doc["next"])
	require.Equal(t, sel["id"], doc["items"].([]any)[0].(map[string]any)["id"])
}

// ring is a graph of two switches, their link, and hosts.
func ring(t *testing.T) *topology.Snapshot {
	t.Helper()
	g := topology.New(topology.Options{})
	for d := topology.DPID(1); d <= 2; d++ {
		g.SetSwitch(d, []topology.PortState{{Port: 1, Name: fmt.Sprintf("s%d-eth1", d), Up: true}, {Port: 2, Name: fmt.Sprintf("s%d-eth2", d), Up: true},
			{Port: topology.PortLocal, Name: fmt.Sprintf("s%d<&\"", d), Up: true}}, epoch)
	}
	a, b := topology.Place{DPID: 1, Port: 1}, topology.Place{DPID: 2, Port: 1}
	g.HearLink(a, b, epoch)
	g.HearLink(b, a, epoch)
	for i := range 3 {
		g.SeeHost(topology.Sighting{MAC: topology.MAC{0, 0, 0, 0, 0, byte(i + 1)}, Place: topology.Place{DPID: 1, Port: 2},
			IP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}, epoch)
	}
	return g.Snapshot()
}

func TestTopology(t *testing.T) {
	r := newRig(t)
	r.network.graph = ring(t)
	r.ok(201, "PUT /v1/vips/web", web)

	links := r.ok(200, "GET /v1/links", "")["items"].([]any)
	require.Len(t, links, 1)
	require.Equal(t, map[string]any{"dpid": "0000000000000001", "port": float64(1)}, links[0].(map[string]any)["a"])
	require.Equal(t, "up", links[0].(map[string]any)["state"])
	hosts := r.ok(200, "GET /v1/hosts?limit=2", "")
	require.Len(t, hosts["items"], 2)
	hosts = r.ok(200, "GET /v1/hosts?limit=2&after="+hosts["next"].(string), "")
	require.Equal(t, "00:00:00:00:00:03", hosts["items"].([]any)[0].(map[string]any)["mac"])
	require.Equal(t, map[string]any{"items": []any{}, "next": ""}, r.ok(200, "GET /v1/segments", ""))

	doc := r.ok(200, "GET /v1/topology", "")
	require.Len(t, doc["switches"], 2)
	require.Len(t, doc["links"], 1)
	require.Len(t, doc["hosts"], 3)
	vip := doc["vips"].([]any)[0].(map[string]any)
	require.Equal(t, "web", vip["name"])
	require.Equal(t, []any{"10.0.0.2", "10.0.0.3"}, vip["members"])
	require.Equal(t, doc, r.ok(200, "GET /v1/topology?format=json", ""))

	dot := r.do("GET /v1/topology?format=dot", "")
	require.Equal(t, "text/vnd.graphviz; charset=utf-8", dot.Header.Get("Content-Type"))
	require.True(t, strings.HasPrefix(string(dot.body), "graph"), "%s", dot.body)
	svg := r.do("GET /v1/topology?format=svg", "")
	require.Equal(t, "image/svg+xml; charset=utf-8", svg.Header.Get("Content-Type"))
	require.Contains(t, string(svg.body), "<svg")
	require.Contains(t, svg.Header.Get("Content-Security-Policy"), "default-src 'none'")
	r.refused(400, []string{"format"}, "GET /v1/topology?format=png", "")
}

// All VIPs are in the picture, also more than one page of them.
func TestTopologyOfManyVIPs(t *testing.T) {
	r := newRig(t)
	for i := range maxLimit + 5 {
		r.vips.put(balancer.VIP{Name: fmt.Sprintf("v%04d", i)})
	}
	require.Len(t, r.ok(200, "GET /v1/topology", "")["vips"], maxLimit+5)
}

func TestErrorsOfNetwork(t *testing.T) {
	for _, tc := range []struct {
		err    error
		status int
	}{
		{ErrNotFound, 404},
		{fmt.Errorf("x: %w", ErrNotConnected), 503},
		{ErrPrecondition, 412},
		{errors.New("inside"), 500},
	} {
		r := newRig(t)
		r.network.fail = tc.err
		for _, request := range []string{"GET /v1/switches", "GET " + sw1, "PUT " + sw1 + "/stage", "GET " + sw1 + "/flows", "GET " + sw1 + "/groups",
			"GET /v1/links", "GET /v1/hosts", "GET /v1/topology"} {
			body := ""
			if strings.HasPrefix(request, "PUT") {
				body = `{"stage":"steer"}`
			}
			r.refused(tc.status, nil, request, body)
		}
	}
	r := newRig(t)
	r.network.hang = true
	r.s.limits.readSwitch = 10 * time.Millisecond
	r.refused(504, nil, "GET "+sw1+"/flows", "")
	r.refused(504, nil, "GET "+sw1+"/groups", "")
	for _, path := range []string{"/v1/switches", sw1 + "/flows", sw1 + "/groups", "/v1/links", "/v1/hosts", "/v1/segments"} {
		r.network.hang = false
		r.refused(400, []string{"limit"}, "GET "+path+"?limit=0", "")
	}
}

// A list is cut the same way however it changes between two pages.
func TestPagesOfAChangingList(t *testing.T) {
	r := newRig(t)
	delete(r.network.switches, 1)
	doc := r.ok(200, "GET /v1/switches?limit=1&after=0000000000000001", "")
	require.Len(t, doc["items"], 1, "after what is gone comes what follows it")
	require.Equal(t, "", doc["next"])
	require.Empty(t, r.ok(200, "GET /v1/switches?after=ffffffffffffffff", "")["items"])
}

func TestViewsHaveNoNull(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/v1/switches", sw1, sw1 + "/flows", sw1 + "/groups", "/v1/links", "/v1/hosts", "/v1/topology"} {
		body := r.do("GET "+path, "").body
		require.True(t, json.Valid(body))
		require.NotContains(t, string(body), "null", path)
	}
	require.Equal(t, http.StatusOK, r.do("HEAD "+sw1, "").StatusCode)
}
