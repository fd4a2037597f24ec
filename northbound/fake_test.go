package northbound

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// fakeVIPs keeps VIPs in memory with the rules of the contract. fail makes every method
// return it.
type fakeVIPs struct {
	mu     sync.Mutex
	vips   map[string]balancer.VIP
	fail   error
	age    time.Duration // that was asked for last
	onWait func(ctx context.Context, name string, generation uint64) error
	waited []string
}

var _ VIPs = (*fakeVIPs)(nil)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func (f *fakeVIPs) Get(_ context.Context, name string) (balancer.VIP, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.vips[name]
	if f.fail != nil {
		return v, f.fail
	}
	if !ok {
		return v, fmt.Errorf("VIP %s: %w", name, balancer.ErrNotFound)
	}
	return v, nil
}

func (f *fakeVIPs) List(_ context.Context, after string, limit int) ([]balancer.VIP, string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return nil, "", f.fail
	}
	var names []string
	for n := range f.vips {
		if n > after {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	next := ""
	if len(names) > limit {
		names = names[:limit]
		next = names[limit-1]
	}
	var list []balancer.VIP
	for _, n := range names {
		list = append(list, f.vips[n])
	}
	return list, next, nil
}

func (f *fakeVIPs) check(name string, cond balancer.Condition) error {
	v, ok := f.vips[name]
	if f.fail != nil {
		return f.fail
	}
	if cond.IfNoneMatch && ok || cond.IfMatch != "" && (!ok || !matches(cond.IfMatch, v.ETag())) {
		return fmt.Errorf("VIP %s: %w", name, balancer.ErrPrecondition)
	}
	return nil
}

func (f *fakeVIPs) Put(_ context.Context, v balancer.VIP, cond balancer.Condition) (balancer.VIP, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(v.Name, cond); err != nil {
		return v, false, err
	}
	old, ok := f.vips[v.Name]
	for name, other := range f.vips {
		if name != v.Name && other.Address == v.Address {
			return v, false, &balancer.ConflictError{Field: "address", With: "VIP " + name}
		}
	}
	v.ID, v.MAC, v.CreatedAt = "c0ffee00-0000-4000-8000-000000000001", ofproto.MAC{2, 0x46, 0x4c, 0, 0, 9}, epoch
	v.Generation, v.UpdatedAt = old.Generation+1, epoch
	v.Status = &balancer.VIPStatus{Provisioning: balancer.ProvisioningPending, Operating: balancer.OperatingNoMonitor, Switches: []balancer.SwitchStatus{}}
	f.put(v)
	return v, !ok, nil
}

func (f *fakeVIPs) put(v balancer.VIP) {
	if f.vips == nil {
		f.vips = map[string]balancer.VIP{}
	}
	f.vips[v.Name] = v
}

// vipTag is the entity tag that fakeVIPs gives a VIP of that generation.
func vipTag(generation int) string {
	return fmt.Sprintf(`"%d-c0ffee00-%d"`, generation, epoch.UnixMilli())
}

func (f *fakeVIPs) Delete(_ context.Context, name string, cond balancer.Condition) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(name, cond); err != nil {
		return err
	}
	if _, ok := f.vips[name]; !ok {
		return fmt.Errorf("VIP %s: %w", name, balancer.ErrNotFound)
	}
	delete(f.vips, name)
	return nil
}

func (f *fakeVIPs) PutMember(_ context.Context, vip string, l balancer.ListenerKey, m balancer.Member, cond balancer.Condition) (balancer.VIP, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, i, err := f.listener(vip, l)
	if err != nil {
		return v, false, err
	}
	pool := &v.Listeners[i].Pool
	j := pool.Member(m.Key())
	if cond.IfNoneMatch && j >= 0 || cond.IfMatch != "" && !matches(cond.IfMatch, v.ETag()) {
		return v, false, balancer.ErrPrecondition
	}
	if j < 0 {
		pool.Members = append(pool.Members, m)
	} else {
		pool.Members[j] = m
	}
	v.Generation++
	f.put(v)
	return v, j < 0, nil
}

func (f *fakeVIPs) DeleteMember(_ context.Context, vip string, l balancer.ListenerKey, m balancer.MemberKey, cond balancer.Condition) (balancer.VIP, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, i, err := f.listener(vip, l)
	if err != nil {
		return v, err
	}
	pool := &v.Listeners[i].Pool
	j := pool.Member(m)
	if j < 0 {
		return v, balancer.ErrNotFound
	}
	if cond.IfMatch != "" && !matches(cond.IfMatch, v.ETag()) {
		return v, balancer.ErrPrecondition
	}
	pool.Members = slices.Delete(pool.Members, j, j+1)
	v.Generation++
	f.put(v)
	return v, nil
}

// listener returns a copy of a VIP whose listeners may be written to.
func (f *fakeVIPs) listener(vip string, l balancer.ListenerKey) (balancer.VIP, int, error) {
	v, ok := f.vips[vip]
	if f.fail != nil {
		return v, 0, f.fail
	}
	i := v.Listener(l)
	if !ok || i < 0 {
		return v, 0, fmt.Errorf("listener %s of VIP %s: %w", l, vip, balancer.ErrNotFound)
	}
	v.Listeners = slices.Clone(v.Listeners)
	v.Listeners[i].Pool.Members = slices.Clone(v.Listeners[i].Pool.Members)
	return v, i, nil
}

func (f *fakeVIPs) AllStats(ctx context.Context, age time.Duration) (all []balancer.Stats, err error) {
	list, _, err := f.List(ctx, "", 1<<20)
	for _, v := range list {
		st, err := f.Stats(ctx, v.Name, age)
		if err != nil {
			return nil, err
		}
		all = append(all, st)
	}
	return all, err
}

func (f *fakeVIPs) Stats(ctx context.Context, name string, age time.Duration) (balancer.Stats, error) {
	f.age = age
	v, err := f.Get(ctx, name)
	if err != nil {
		return balancer.Stats{}, err
	}
	st := balancer.Stats{Name: name, At: epoch, Traffic: balancer.Traffic{Packets: 7, Bytes: 700}, Unread: []string{}, Listeners: []balancer.ListenerStats{}}
	for _, l := range v.Listeners {
		ls := balancer.ListenerStats{Protocol: l.Protocol, Port: l.Port, Traffic: balancer.Traffic{Packets: 7, Bytes: 700, NewConnections: new(uint64)}, Slots: 16, QuantisationError: 0.25, Members: []balancer.MemberStats{}}
		for _, m := range l.Pool.Members {
			ls.Members = append(ls.Members, balancer.MemberStats{Address: m.Address, Port: m.Port, Traffic: balancer.Traffic{Packets: 7, Bytes: 700}, Slots: 8, Share: 0.5})
		}
		st.Listeners = append(st.Listeners, ls)
	}
	return st, nil
}

func (f *fakeVIPs) Wait(ctx context.Context, name string, generation uint64) error {
	f.mu.Lock()
	f.waited = append(f.waited, fmt.Sprintf("%s@%d", name, generation))
	on := f.onWait
	f.mu.Unlock()
	if on != nil {
		return on(ctx, name, generation)
	}
	return nil
}

// fakeNetwork is two switches with a link; fail makes every method return it.
type fakeNetwork struct {
	mu       sync.Mutex
	switches map[ofproto.DPID]SwitchView
	flows    []FlowView
	groups   []GroupView
	graph    *topology.Snapshot
	fail     error
	hang     bool // Flows and Groups wait for their context
	settled  int
}

var _ Network = (*fakeNetwork)(nil)

func (f *fakeNetwork) Switches(context.Context) ([]SwitchView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []SwitchView
	for _, v := range f.switches { // any order
		list = append(list, v)
	}
	return list, f.fail
}

func (f *fakeNetwork) Switch(_ context.Context, dpid ofproto.DPID) (SwitchView, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.switches[dpid]
	if f.fail != nil {
		return v, f.fail
	}
	if !ok {
		return v, fmt.Errorf("switch %s: %w", dpid, ErrNotFound)
	}
	return v, nil
}

func (f *fakeNetwork) SetStage(ctx context.Context, dpid ofproto.DPID, stage string) error {
	v, err := f.Switch(ctx, dpid)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.Stage = stage
	f.switches[dpid] = v
	return nil
}

func (f *fakeNetwork) SetBPDUs(ctx context.Context, dpid ofproto.DPID, bpdus string) error {
	v, err := f.Switch(ctx, dpid)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.BPDUs = bpdus
	f.switches[dpid] = v
	return nil
}

func (f *fakeNetwork) Confirm(ctx context.Context, dpid ofproto.DPID) error {
	v, err := f.Switch(ctx, dpid)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.Faults = nil
	f.switches[dpid] = v
	return nil
}

func (f *fakeNetwork) Unbind(ctx context.Context, dpid ofproto.DPID) error {
	v, err := f.Switch(ctx, dpid)
	if err == nil && v.Certificate == nil {
		err = fmt.Errorf("certificate of %s: %w", dpid, ErrNotFound)
	}
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	v.Certificate = nil
	f.switches[dpid] = v
	return nil
}

func (f *fakeNetwork) Sessions(context.Context) (SessionsView, error) {
	return SessionsView{Open: 3, Handshaking: 1, Refused: map[string]uint64{"tls": 7}, Panics: 2}, f.fail
}

func (f *fakeNetwork) Settled(context.Context, ofproto.DPID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.settled++
	return nil
}

func (f *fakeNetwork) Flows(ctx context.Context, dpid ofproto.DPID) ([]FlowView, error) {
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, err := f.Switch(ctx, dpid)
	return f.flows, err
}

func (f *fakeNetwork) Groups(ctx context.Context, dpid ofproto.DPID) ([]GroupView, error) {
	if f.hang {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, err := f.Switch(ctx, dpid)
	return f.groups, err
}

func (f *fakeNetwork) Topology(context.Context) (*topology.Snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.graph, f.fail
}

// fakeEvents hands events to one subscriber at a time.
type fakeEvents struct {
	mu   sync.Mutex
	subs map[chan Event]bool
	came chan struct{} // one for each subscription
}

func (f *fakeEvents) Subscribe(buffer int) (<-chan Event, func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	ch := make(chan Event, buffer)
	if f.subs == nil {
		f.subs = map[chan Event]bool{}
	}
	f.subs[ch] = true
	select {
	case f.came <- struct{}{}:
	default:
	}
	return ch, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.subs, ch)
	}
}

func (f *fakeEvents) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.subs)
}

func (f *fakeEvents) publish(e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for ch := range f.subs {
		select {
		case ch <- e:
		default:
			delete(f.subs, ch)
			close(ch)
		}
	}
}

// rig is a server over fakes.
type rig struct {
	t       *testing.T
	vips    *fakeVIPs
	network *fakeNetwork
	events  *fakeEvents
	backups *fakeBackups
	s       *Server
}

// fakeBackups is a store whose backups are its text.
type fakeBackups struct{ text string }

func (f *fakeBackups) Backup(w io.Writer) error {
	_, err := io.WriteString(w, f.text)
	return err
}

func (f *fakeBackups) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	if err == nil && !strings.HasPrefix(string(b), "backup") {
		err = ErrBadBackup
	}
	if err == nil {
		f.text = string(b)
	}
	return err
}

func newRig(t *testing.T, change ...func(*Options)) *rig {
	g := topology.New(topology.Options{})
	r := &rig{
		t: t, vips: &fakeVIPs{}, backups: &fakeBackups{"backup of now"}, events: &fakeEvents{came: make(chan struct{}, 8)},
		network: &fakeNetwork{switches: map[ofproto.DPID]SwitchView{
			2: {DPID: "0000000000000002", Stage: "observe", Connection: ConnectionView{State: "disconnected"}},
			1: {DPID: "0000000000000001", Stage: "steer", BPDUs: "drop", Connection: ConnectionView{State: "connected", Address: "10.9.0.1:40000", Since: epoch}},
		}, graph: g.Snapshot()},
	}
	o := Options{VIPs: r.vips, Network: r.network, Events: r.events, Backups: r.backups, OVS: &fakeOVS{}, Migrations: &fakeMigrations{}, Log: slog.New(slog.DiscardHandler), Version: "1.2.3"}
	for _, c := range change {
		c(&o)
	}
	r.s = New(o)
	t.Cleanup(r.s.end)
	return r
}

// reply is an answer with its body read.
type reply struct {
	*http.Response
	body []byte
}

// do sends a request through the handler: "PUT /v1/vips/web", with headers as pairs.
func (r *rig) do(request, body string, headers ...string) reply {
	r.t.Helper()
	method, target, _ := strings.Cut(request, " ")
	req := httptest.NewRequest(method, target, strings.NewReader(body))
	req.RemoteAddr = "" // many, as far as guesses of tokens are counted
	for h := headers; len(h) > 1; h = h[2:] {
		req.Header.Set(h[0], h[1])
	}
	rec := httptest.NewRecorder()
	r.s.Handler().ServeHTTP(rec, req)
	resp := rec.Result()
	b, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return reply{resp, b}
}

// ok asserts a status and returns the JSON of the body.
func (r *rig) ok(status int, request, body string, headers ...string) map[string]any {
	r.t.Helper()
	resp := r.do(request, body, headers...)
	require.Equal(r.t, status, resp.StatusCode, "%s: %s", request, resp.body)
	if status == http.StatusNoContent {
		require.Empty(r.t, resp.body)
		return nil
	}
	require.Equal(r.t, "application/json", resp.Header.Get("Content-Type"))
	var doc map[string]any
	require.NoError(r.t, json.Unmarshal(resp.body, &doc))
	return doc
}

// refused asserts a Problem of that status that blames the fields.
func (r *rig) refused(status int, fields []string, request, body string, headers ...string) Problem {
	r.t.Helper()
	resp := r.do(request, body, headers...)
	return requireProblem(r.t, resp, status, fields)
}

func requireProblem(t *testing.T, resp reply, status int, fields []string) Problem {
	t.Helper()
	require.Equal(t, status, resp.StatusCode, "%s", resp.body)
	require.Equal(t, "application/problem+json", resp.Header.Get("Content-Type"))
	dec := json.NewDecoder(bytes.NewReader(resp.body))
	dec.DisallowUnknownFields()
	var p Problem
	require.NoError(t, dec.Decode(&p), "%s", resp.body)
	require.Equal(t, status, p.Status)
	require.True(t, strings.HasPrefix(p.Type, problemType), p.Type)
	require.NotEmpty(t, p.Title)
	require.NotEmpty(t, p.Detail)
	require.NotNil(t, p.Errors)
	got := []string{}
	for _, e := range p.Errors {
		require.NotEmpty(t, e.Reason)
		got = append(got, e.Field)
	}
	if fields == nil {
		fields = []string{}
	}
	require.ElementsMatch(t, fields, got, "%s", resp.body)
	return p
}

const web = `{"address":"10.0.0.100","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[
	{"address":"10.0.0.2","port":8080},{"address":"10.0.0.3","port":8080,"weight":3}]}}]}`
