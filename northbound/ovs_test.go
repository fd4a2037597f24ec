package northbound

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/ovsdb"
)

// fakeOVS has one bridge, br0, at one endpoint, ovsAt.
type fakeOVS struct {
	requests []ovsdb.Request
	outcomes []ovsdb.Outcome
	released []string
	err      error
}

const (
	ovsAt      = "unix:/run/db.sock"
	ovsEscaped = "unix:%2Frun%2Fdb.sock"
)

func (f *fakeOVS) Bridges(_ context.Context, e ovsdb.Endpoint) ([]ovsdb.View, error) {
	if e != "" && e != ovsAt {
		return nil, fmt.Errorf("%w: %s: connection refused", ovsdb.ErrNotConnected, e)
	}
	return []ovsdb.View{{
		Endpoint: ovsAt, State: "adopted", Connected: true, Since: "2026-01-02T03:04:05Z", Drift: []string{},
		Bridge: ovsdb.Bridge{
			Name: "br0", DPID: "0000000000000001", Protocols: []string{}, Controllers: []ovsdb.Controller{},
			Ports: []ovsdb.Port{{Name: "bond0", Tag: -1, Interfaces: []ovsdb.Interface{
				{Name: "eth0", OFPort: 1, IfaceID: "vm1", AttachedMAC: "02:00:00:00:00:01"}, {Name: "eth1", OFPort: 2, IfaceID: "vm2"},
			}}, {Name: "br0", Tag: -1, Interfaces: []ovsdb.Interface{{Name: "br0", OFPort: 65534}}}},
		},
	}}, f.err
}

func (f *fakeOVS) Adopt(_ context.Context, req ovsdb.Request) ([]ovsdb.Outcome, error) {
	f.requests = append(f.requests, req)
	return f.outcomes, f.err
}

func (f *fakeOVS) Release(_ context.Context, e ovsdb.Endpoint, bridge string) error {
	f.released = append(f.released, string(e)+" "+bridge)
	return f.err
}

func TestOVSAdopt(t *testing.T) {
	f := &fakeOVS{outcomes: []ovsdb.Outcome{{Bridge: "br0", State: "adopted", Changed: true}, {Bridge: "br1", State: "refused", Reason: "why"}}}
	r := newRig(t, func(o *Options) { o.OVS = f })
	r.ok(200, "POST /v1/ovs", `{"endpoint":"tcp:192.0.2.1","bridges":["br0","br1"],"stage":"steer","controllers":["tcp:10.0.0.1:6653"],"discard_flows":true}`)
	require.Equal(t, []ovsdb.Request{{
		Endpoint: "tcp:192.0.2.1:6640", Bridges: []string{"br0", "br1"}, Stage: "steer", Controllers: []string{"tcp:10.0.0.1:6653"}, DiscardFlows: true,
	}}, f.requests)
	r.ok(200, "POST /v1/ovs", `{"endpoint":"unix:/run/db.sock","all":true}`)
	f.outcomes = f.outcomes[1:]
	r.refused(409, []string{"br1"}, "POST /v1/ovs", `{"endpoint":"unix:/run/db.sock","bridges":["br1"]}`)
	f.err = fmt.Errorf("%w: no route", ovsdb.ErrNotConnected)
	r.refused(503, nil, "POST /v1/ovs", `{"endpoint":"unix:/run/db.sock","bridges":["br1"]}`)

	asked := len(f.requests)
	for body, field := range map[string]string{
		`{"endpoint":"unix:run","all":true}`:                                                "endpoint",
		`{"endpoint":"ptcp:1","all":true}`:                                                  "endpoint",
		`{"endpoint":"unix:/a"}`:                                                            "bridges",
		`{"endpoint":"unix:/a","bridges":["a"],"all":true}`:                                 "all",
		`{"endpoint":"unix:/a","bridges":["a","a"]}`:                                        "bridges[1]",
		`{"endpoint":"unix:/a","bridges":[""]}`:                                             "bridges[0]",
		`{"endpoint":"unix:/a","all":true,"stage":"all"}`:                                   "stage",
		`{"endpoint":"unix:/a","all":true,"controllers":["tcp:host:1"]}`:                    "controllers[0]",
		`{"endpoint":"unix:/a","all":true,"controllers":["tcp:1.1.1.1:1","tcp:0.0.0.0:1"]}`: "controllers[1]",
	} {
		r.refused(400, []string{field}, "POST /v1/ovs", body)
	}
	for body, field := range map[string]string{
		`{"endpoint":"unix:/a","all":true,"more":1}`: "more", `{"endpoint":"unix:/a","all":true} x`: "body", ``: "body", `[]`: "body", `null`: "body",
		`{"endpoint":1,"all":true}`: "endpoint", `{"all":true}`: "endpoint", `{"endpoint":"unix:/a","bridges":[5]}`: "bridges", `{"endpoint":"unix:/a","all":null}`: "all",
		`{"endpoint":"unix:/a","endpoint":"unix:/b","all":true}`: "endpoint", `{"endpoint":"unix:/a","All":true}`: "All",
	} {
		r.refused(400, []string{field}, "POST /v1/ovs", body)
	}
	require.Len(t, f.requests, asked, "what is wrong is not asked for")
}

func TestOVSReadAndRelease(t *testing.T) {
	f := &fakeOVS{}
	r := newRig(t, func(o *Options) { o.OVS = f })
	require.Len(t, r.ok(200, "GET /v1/ovs", "")["items"], 1)
	require.Len(t, r.ok(200, "GET /v1/ovs?endpoint="+ovsEscaped, "")["items"], 1)
	r.refused(503, nil, "GET /v1/ovs?endpoint=tcp:192.0.2.1", "")
	r.refused(400, []string{"endpoint"}, "GET /v1/ovs?endpoint=here", "")
	require.Equal(t, "br0", r.ok(200, "GET /v1/ovs/"+ovsEscaped+"/br0", "")["name"])
	r.refused(404, nil, "GET /v1/ovs/"+ovsEscaped+"/br9", "")

	tag := r.do("GET /v1/ovs/"+ovsEscaped+"/br0", "").Header.Get("ETag")
	require.NotEmpty(t, tag)
	r.refused(412, nil, "DELETE /v1/ovs/"+ovsEscaped+"/br0", "", "If-Match", `"other"`)
	r.refused(400, []string{"If-Match"}, "DELETE /v1/ovs/"+ovsEscaped+"/br0", "", "If-Match", "other")
	require.Empty(t, f.released)
	r.ok(204, "DELETE /v1/ovs/"+ovsEscaped+"/br0", "", "If-Match", tag)
	require.Equal(t, []string{ovsAt + " br0"}, f.released)
	f.err = ovsdb.ErrNotAdopted
	r.refused(404, nil, "DELETE /v1/ovs/"+ovsEscaped+"/br0", "")
	f.err = &ovsdb.Refusal{Bridge: "br0", Reason: "why"}
	r.refused(409, []string{"bridge"}, "DELETE /v1/ovs/"+ovsEscaped+"/br0", "")
}

func TestOVSInterfaces(t *testing.T) {
	r := newRig(t, func(o *Options) { o.OVS = &fakeOVS{} })
	for query, want := range map[string]string{
		"iface_id=vm1": "eth0", "attached_mac=02:00:00:00:00:01": "eth0", "dpid=0000000000000001&port=2": "eth1", "name=eth1": "eth1",
		"port=4294967294": "br0", "iface_id=vm9": "", "dpid=0000000000000002": "",
	} {
		items := r.ok(200, "GET /v1/ovs/interfaces?"+query, "")["items"].([]any)
		if want == "" {
			require.Empty(t, items, query)
			continue
		}
		require.Len(t, items, 1, query)
		require.Equal(t, want, items[0].(map[string]any)["name"], query)
	}
	require.Len(t, r.ok(200, "GET /v1/ovs/interfaces", "")["items"], 3)
	r.refused(400, []string{"dpid"}, "GET /v1/ovs/interfaces?dpid=1", "")
	r.refused(400, []string{"port"}, "GET /v1/ovs/interfaces?port=x", "")
}
