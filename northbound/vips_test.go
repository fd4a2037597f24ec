package northbound

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/documents"
)

const member = "/v1/vips/web/listeners/tcp:80/members/10.0.0.2:8080"

func TestVIPLife(t *testing.T) {
	r := newRig(t)
	resp := r.do("PUT /v1/vips/web", web)
	require.Equal(t, http.StatusCreated, resp.StatusCode)
	require.Equal(t, vipTag(1), resp.Header.Get("ETag"))
	require.Equal(t, "/v1/vips/web", resp.Header.Get("Location"))

	doc := r.ok(http.StatusOK, "GET /v1/vips/web", "")
	require.Equal(t, "web", doc["name"])
	require.Equal(t, "02:46:4c:00:00:09", doc["mac"])
	require.Equal(t, "nat", doc["mode"])
	require.Equal(t, "2026-01-02T03:04:05Z", doc["created_at"])
	require.Equal(t, "pending", doc["status"].(map[string]any)["provisioning"])

	// What GET gave goes back as it is.
	body := string(r.do("GET /v1/vips/web", "").body)
	resp = r.do("PUT /v1/vips/web", body)
	require.Equal(t, http.StatusOK, resp.StatusCode, "%s", resp.body)
	require.Empty(t, resp.Header.Get("Location"))
	require.Equal(t, vipTag(2), r.do("GET /v1/vips/web", "").Header.Get("ETag"))

	st := r.ok(http.StatusOK, "GET /v1/vips/web/stats", "")
	require.Len(t, st["listeners"], 1)

	r.ok(http.StatusNoContent, "DELETE /v1/vips/web", "")
	r.refused(http.StatusNotFound, nil, "GET /v1/vips/web", "")
	r.refused(http.StatusNotFound, nil, "DELETE /v1/vips/web", "")
}

func TestMemberLife(t *testing.T) {
	r := newRig(t)
	r.ok(http.StatusCreated, "PUT /v1/vips/web", web)

	require.Equal(t, float64(8080), r.ok(http.StatusOK, "GET "+member, "")["port"])
	require.Equal(t, float64(5), r.ok(http.StatusOK, "PUT "+member, `{"weight":5}`)["weight"])
	resp := r.do("PUT /v1/vips/web/listeners/tcp:80/members/10.0.0.9:8080", `{"address":"10.0.0.9","port":8080}`)
	require.Equal(t, http.StatusCreated, resp.StatusCode)
	require.Equal(t, "/v1/vips/web/listeners/tcp:80/members/10.0.0.9:8080", resp.Header.Get("Location"))
	require.Equal(t, vipTag(3), resp.Header.Get("ETag"), "the tag of the VIP")
	r.ok(http.StatusNoContent, "DELETE "+member, "")
	r.refused(http.StatusNotFound, nil, "GET "+member, "")
	r.refused(http.StatusNotFound, nil, "DELETE "+member, "")
	r.refused(http.StatusNotFound, nil, "PUT /v1/vips/web/listeners/udp:80/members/10.0.0.2:8080", "{}")
	r.refused(http.StatusNotFound, nil, "GET /v1/vips/web/listeners/udp:80/members/10.0.0.2:8080", "")
	r.refused(http.StatusNotFound, nil, "GET /v1/vips/none/listeners/tcp:80/members/10.0.0.2:8080", "")
}

func TestPathNames(t *testing.T) {
	r := newRig(t)
	v6 := balancer.VIP{Name: "six", Listeners: []balancer.Listener{{Protocol: "tcp", Port: 80}}, Generation: 1}
	r.vips.put(v6)
	for _, tc := range []struct {
		path   string
		status int
		fields []string
	}{
		{"six/listeners/tcp:80/members/[2001:db8::2]:8080", 201, nil},
		{"six/listeners/tcp:80/members/%5B2001:db8::2%5D:8080", 200, nil},
		{"six/listeners/tcp%3A80/members/%5B2001%3Adb8%3A%3A2%5D%3A8080", 200, nil},
		{"%73ix/listeners/tcp:80/members/[2001:DB8:0::2]:8080", 200, nil},
		{"six/listeners/tcp:80/members/2001:db8::2:8080", 400, []string{"member"}},
		{"six/listeners/tcp:80/members/[2001:db8::2%25eth0]:80", 400, []string{"member"}},
		{"six/listeners/tcp:80/members/10.0.0.2", 400, []string{"member"}},
		{"six/listeners/tcp:80/members/10.0.0.2:0", 400, []string{"member"}},
		{"six/listeners/tcp:80/members/10.0.0.2:65536", 400, []string{"member"}},
		{"six/listeners/tcp:80/members/10.0.0.256:80", 400, []string{"member"}},
		{"six/listeners/tcp:80/members/10.0.0.2%2F8:80", 400, []string{"member"}},
		{"six/listeners/tcp:0/members/10.0.0.2:80", 400, []string{"listener"}},
		{"six/listeners/tcp:65536/members/10.0.0.2:80", 400, []string{"listener"}},
		{"six/listeners/http:80/members/10.0.0.2:80", 400, []string{"listener"}},
		{"six/listeners/tcp/members/10.0.0.2:80", 400, []string{"listener"}},
	} {
		resp := r.do("PUT /v1/vips/"+tc.path, "{}")
		if tc.status < 400 {
			require.Equal(t, tc.status, resp.StatusCode, "%s: %s", tc.path, resp.body)
			continue
		}
		requireProblem(t, resp, tc.status, tc.fields)
	}
	r.refused(400, []string{"name"}, "PUT /v1/vips/Web", web)
	r.refused(400, []string{"name"}, "PUT /v1/vips/a%2Fb", web)
	r.refused(400, []string{"name"}, "PUT /v1/vips/"+strings.Repeat("a", 64), web)
	r.refused(404, []string{"name"}, "PUT /v1/vips/a/b", web)
	r.refused(404, nil, "GET /v1/vips/%00", "")
	r.ok(201, "PUT /v1/vips/%77eb", web)
}

// Every invalid document is refused with the field's name and changes nothing.
func TestInvalidDocuments(t *testing.T) {
	r := newRig(t)
	vip := func(s string) string { return `{"address":"10.0.0.100",` + s + `}` }
	listener := func(s string) string { return vip(`"listeners":[{"protocol":"tcp","port":80,` + s + `}]`) }
	m := func(s string) string {
		return listener(`"pool":{"members":[{"address":"10.0.0.2","port":80,` + s + `}]}`)
	}
	for _, tc := range []struct {
		body   string
		status int
		fields []string
	}{
		{``, 400, []string{"body"}},
		{`null`, 400, []string{"body"}},
		{`[]`, 400, []string{"body"}},
		{`{`, 400, []string{"body"}},
		{web + `x`, 400, []string{"body"}},
		{web + web, 400, []string{"body"}},
		{`{}`, 400, []string{"address"}},
		{`{"address":"10.0.0"}`, 400, []string{"address"}},
		{`{"address":7}`, 400, []string{"address"}},
		{vip(`"colour":"red"`), 400, []string{"colour"}},
		{vip(`"Mode":"nat"`), 400, []string{"Mode"}},
		{vip(`"mode":"nat","mode":"nat"`), 400, []string{"mode"}},
		{vip(`"mode":"other"`), 400, []string{"mode"}},
		{vip(`"mode":"conntrack","listeners":[{"protocol":"sctp","port":80}]`), 422, []string{"listeners[0].protocol"}},
		{vip(`"name":"other"`), 400, []string{"name"}},
		{vip(`"vlan":4095`), 400, []string{"vlan"}},
		{vip(`"listeners":{}`), 400, []string{"listeners"}},
		{vip(`"listeners":[{"port":80}]`), 400, []string{"listeners[0].protocol"}},
		{vip(`"listeners":[{"protocol":"tcp","port":0}]`), 400, []string{"listeners[0].port"}},
		{vip(`"listeners":[{"protocol":"tcp","port":65536}]`), 400, []string{"listeners[0].port"}},
		{vip(`"listeners":[{"protocol":"tcp","port":"80"}]`), 400, []string{"listeners[0].port"}},
		{vip(`"listeners":[{"protocol":"tcp","port":80},{"protocol":"tcp","port":80}]`), 409, []string{"listeners[1].port"}},
		{m(`"weight":-1`), 400, []string{"listeners[0].pool.members[0].weight"}},
		{m(`"weight":257`), 400, []string{"listeners[0].pool.members[0].weight"}},
		{m(`"weight":1.5`), 400, []string{"listeners[0].pool.members[0].weight"}},
		{m(`"weight":1e99`), 400, []string{"listeners[0].pool.members[0].weight"}},
		{m(`"admin_state":"off"`), 400, []string{"listeners[0].pool.members[0].admin_state"}},
		{listener(`"pool":{"members":[{"address":"10.0.0.100","port":80}]}`), 400, []string{"listeners[0].pool.members[0].address"}},
		{listener(`"pool":{"members":[{"address":"2001:db8::1","port":80}]}`), 400, []string{"listeners[0].pool.members[0].address"}},
		{vip(`"colour":1,"mode":2`), 400, []string{"colour", "mode"}},
	} {
		r.refused(tc.status, tc.fields, "PUT /v1/vips/web", tc.body)
	}
	p := r.refused(400, []string{"body"}, "PUT /v1/vips/web", "{\"address\":\"\xff\"}")
	require.Contains(t, p.Detail, "UTF-8")
	require.Empty(t, r.vips.vips)

	r.ok(201, "PUT /v1/vips/web", web)
	p = r.refused(409, []string{"address"}, "PUT /v1/vips/other", web)
	require.Contains(t, p.Detail, "VIP web")
	require.Len(t, r.vips.vips, 1)

	r.refused(400, []string{"wight"}, "PUT "+member, `{"wight":1}`)
	r.refused(400, []string{"weight"}, "PUT "+member, `{"weight":257}`)
	r.refused(400, []string{"port"}, "PUT "+member, `{"port":1}`)
	r.refused(400, []string{"body"}, "PUT "+member, `{} {}`)
	require.Equal(t, uint64(1), r.vips.vips["web"].Generation)
}

func TestPreconditions(t *testing.T) {
	r := newRig(t)
	const put, del = "PUT /v1/vips/web", "DELETE /v1/vips/web"
	r.refused(412, nil, put, web, "If-Match", "*")
	r.refused(412, nil, put, web, "If-Match", `"1"`)
	r.ok(201, put, web, "If-None-Match", "*")
	r.refused(412, nil, put, web, "If-None-Match", "*")
	r.refused(412, nil, put, web, "If-Match", `"7"`)
	r.refused(412, nil, put, web, "If-Match", "W/"+vipTag(1))
	r.ok(200, put, web, "If-Match", `"7", `+vipTag(1))
	r.ok(200, put, web, "If-Match", "*")
	r.refused(400, []string{"If-Match"}, put, web, "If-Match", "3")
	r.refused(400, []string{"If-None-Match"}, put, web, "If-None-Match", `"3"`)
	r.refused(412, nil, "PUT "+member, "{}", "If-None-Match", "*")
	r.refused(412, nil, "PUT "+member, "{}", "If-Match", vipTag(1))
	r.ok(200, "PUT "+member, "{}", "If-Match", vipTag(3))
	r.refused(412, nil, "DELETE "+member, "", "If-Match", vipTag(3))
	r.refused(412, nil, del, "", "If-Match", vipTag(3))
	r.ok(204, del, "", "If-Match", vipTag(4))
}

func TestBrokenQueries(t *testing.T) {
	r := newRig(t)
	for _, query := range []string{"limit=%zz", "limit=1;after=web", "%"} {
		req := httptest.NewRequest(http.MethodGet, "/v1/vips", nil)
		req.URL.RawQuery = query
		rec := httptest.NewRecorder()
		r.s.Handler().ServeHTTP(rec, req)
		requireProblem(t, reply{rec.Result(), rec.Body.Bytes()}, 400, []string{"query"})
	}
	r.ok(200, "GET /v1/vips?limit=1&after=%77eb", "")
}

func TestListVIPs(t *testing.T) {
	r := newRig(t)
	doc := r.ok(200, "GET /v1/vips", "")
	require.Equal(t, map[string]any{"items": []any{}, "next": ""}, doc)
	for i := range 250 {
		r.vips.put(balancer.VIP{Name: fmt.Sprintf("v%03d", i), Generation: 1})
	}
	names := func(doc map[string]any) (list []string) {
		for _, item := range doc["items"].([]any) {
			list = append(list, item.(map[string]any)["name"].(string))
		}
		return list
	}
	doc = r.ok(200, "GET /v1/vips", "")
	require.Len(t, doc["items"], 100)
	require.Equal(t, "v099", doc["next"])
	doc = r.ok(200, "GET /v1/vips?limit=1000&after=v199", "")
	require.Len(t, doc["items"], 50)
	require.Equal(t, "", doc["next"])
	require.Equal(t, []string{"v003", "v004"}, names(r.ok(200, "GET /v1/vips?limit=2&after=v002", "")))
	for _, bad := range []string{"0", "-1", "1001", "x", "1.5", "99999999999999999999"} {
		r.refused(400, []string{"limit"}, "GET /v1/vips?limit="+bad, "")
	}
}

func TestWait(t *testing.T) {
	r := newRig(t)
	r.vips.onWait = func(_ context.Context, name string, _ uint64) error {
		r.vips.mu.Lock()
		defer r.vips.mu.Unlock()
		if v, ok := r.vips.vips[name]; ok {
			st := *v.Status
			st.Provisioning = balancer.ProvisioningActive
			v.Status = &st
			r.vips.vips[name] = v
		}
		return nil
	}
	doc := r.ok(201, "PUT /v1/vips/web?wait=5s", web)
	require.Equal(t, "active", doc["status"].(map[string]any)["provisioning"], "the status after the wait")
	r.ok(200, "PUT "+member+"?wait=5s", "{}")
	r.ok(204, "DELETE "+member+"?wait=5s", "")
	r.ok(204, "DELETE /v1/vips/web?wait=5s", "")
	require.Equal(t, []string{"web@1", "web@2", "web@3", "web@0"}, r.vips.waited)
	r.ok(201, "PUT /v1/vips/web", web)
	require.Len(t, r.vips.waited, 4, "no wait unless asked")
	for _, bad := range []string{"5", "-1s", "61s", "x"} {
		r.refused(400, []string{"wait"}, "PUT /v1/vips/web?wait="+bad, web)
	}
	require.Equal(t, uint64(1), r.vips.vips["web"].Generation)
}

func TestWaitThatIsNotAnswered(t *testing.T) {
	r := newRig(t)
	r.vips.onWait = func(ctx context.Context, _ string, _ uint64) error {
		<-ctx.Done()
		return ctx.Err()
	}
	doc := r.ok(201, "PUT /v1/vips/web?wait=10ms", web)
	require.Equal(t, "pending", doc["status"].(map[string]any)["provisioning"])
	// The end of the server ends the wait.
	time.AfterFunc(10*time.Millisecond, r.s.end)
	r.ok(200, "PUT /v1/vips/web?wait=1m", web)
}

// Deleted by somebody else while the writer waits: the write is answered all the same.
func TestWaitForWhatIsGone(t *testing.T) {
	r := newRig(t)
	r.vips.onWait = func(ctx context.Context, name string, _ uint64) error {
		return r.vips.Delete(ctx, name, balancer.Condition{})
	}
	r.ok(201, "PUT /v1/vips/web?wait=1s", web)
	r.vips.onWait = nil
	r.ok(201, "PUT /v1/vips/web", web)
	r.vips.onWait = func(context.Context, string, uint64) error {
		key := balancer.ListenerKey{Protocol: balancer.TCP, Port: 80}
		v := r.vips.vips["web"]
		_, err := r.vips.DeleteMember(context.Background(), "web", key, v.Listeners[0].Pool.Members[0].Key(), balancer.Condition{})
		return err
	}
	r.ok(200, "PUT "+member+"?wait=1s", "{}")
}

// Each error of the consumer interfaces has its status, on every route that can meet it.
func TestErrorsOfVIPs(t *testing.T) {
	for _, tc := range []struct {
		err    error
		status int
		fields []string
	}{
		{balancer.ErrNotFound, 404, nil},
		{fmt.Errorf("x: %w", balancer.ErrPrecondition), 412, nil},
		{&balancer.InvalidError{Errors: []documents.FieldError{{Field: "a", Reason: "b"}, {Field: "c", Reason: "d"}}}, 400, []string{"a", "c"}},
		{&balancer.UnsupportedError{Errors: []documents.FieldError{{Field: "a", Reason: "b"}}}, 422, []string{"a"}},
		{&balancer.ConflictError{Field: "address", With: "VIP x"}, 409, []string{"address"}},
		{context.DeadlineExceeded, 504, nil},
		{context.Canceled, 503, nil},
		{errors.New("disk is on fire"), 500, nil},
	} {
		r := newRig(t)
		r.vips.fail = tc.err
		for _, request := range []string{"GET /v1/vips", "GET /v1/vips/web", "PUT /v1/vips/web", "DELETE /v1/vips/web",
			"GET /v1/vips/web/stats", "GET " + member, "PUT " + member, "DELETE " + member, "GET /v1/topology"} {
			body := ""
			if request == "PUT /v1/vips/web" {
				body = web
			} else if strings.HasPrefix(request, "PUT") {
				body = "{}"
			}
			p := r.refused(tc.status, tc.fields, request, body)
			require.NotContains(t, p.Detail, "fire", "what is inside stays inside")
		}
	}
}
