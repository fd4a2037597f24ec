package ovsdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/ovstest"
)

// memory is a Store.
type memory struct {
	mu   sync.Mutex
	list map[bridgeKey]Adoption
}

func (m *memory) Adoptions(context.Context) ([]Adoption, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.list)), nil
}

func (m *memory) size() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.list)
}

func (m *memory) SaveAdoption(ctx context.Context, a Adoption) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	m.list[a.key()] = a
	return nil
}

func (m *memory) DeleteAdoption(_ context.Context, e Endpoint, bridge string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.list, bridgeKey{e, bridge})
	return nil
}

// side is an OpenFlow side that is what a test says. By default a switch is there while
// its bridge has Fairlead for a controller.
type side struct {
	mu        sync.Mutex
	there     func(ofproto.DPID) bool
	away      bool // no switch ever connects
	present   bool // every switch is connected already
	held      string
	foreign   int
	withdrawn []ofproto.DPID
	released  []ofproto.DPID
	taken     int
	stages    map[ofproto.DPID]string
	// Called before anything else; nil: nothing is done. An error is returned.
	hook func(what string) error
}

func (s *side) call(what string) error {
	s.mu.Lock()
	hook := s.hook
	s.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(what)
}

func (s *side) Connected(_ context.Context, dpid ofproto.DPID) (bool, string, error) {
	err := s.call("connected")
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.present || !s.away && s.there(dpid), s.held, err
}

func (s *side) Settled(context.Context, ofproto.DPID) error { return s.call("settled") }

func (s *side) Foreign(context.Context, ofproto.DPID) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.foreign, nil
}

func (s *side) TakeOver(ctx context.Context, _ ofproto.DPID, flushed bool, do, hand func(context.Context) error) (bool, error) {
	if err := s.call("take over"); err != nil {
		return false, err
	}
	s.mu.Lock()
	if flushed {
		s.taken++
	}
	s.mu.Unlock()
	if err := do(ctx); err != nil {
		return false, err
	}
	if err := s.call("taken over"); err != nil {
		return false, err
	}
	return flushed, hand(ctx)
}

func (s *side) Withdraw(_ context.Context, dpid ofproto.DPID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.withdrawn = append(s.withdrawn, dpid)
	return nil
}

func (s *side) Release(_ context.Context, dpid ofproto.DPID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = append(s.released, dpid)
	return nil
}

func (s *side) Stage(_ context.Context, dpid ofproto.DPID) (string, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stage := s.stages[dpid]; stage != "" {
		return stage, true, nil
	}
	return "observe", false, nil
}

func (s *side) SetStage(_ context.Context, dpid ofproto.DPID, stage string) error {
	s.mu.Lock()
	s.stages[dpid] = stage
	s.mu.Unlock()
	return s.call("stage " + stage)
}

const (
	us      = "tcp:127.0.0.1:16653"
	another = "tcp:127.0.0.1:16654"
)

// lab is an Open vSwitch and what adopts its bridges. Nobody listens where its
// controllers are said to be.
type lab struct {
	*Hosts
	t     *testing.T
	ovs   *ovstest.OVS
	store *memory
	side  *side
	stop  func()
	heard func(context.Context, Attachments) // Options.Attached; nil: nobody listens
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, ovs: ovstest.Start(t), store: &memory{list: map[bridgeKey]Adoption{}}}
	l.start("cluster")
	return l
}

// start runs Hosts anew, with what is stored.
func (l *lab) start(cluster string) {
	l.t.Helper()
	l.side = &side{stages: map[ofproto.DPID]string{}}
	l.launch(cluster)
}

func (l *lab) launch(cluster string) {
	l.t.Helper()
	var err error
	l.Hosts, err = New(l.t.Context(), Options{
		Store: l.store, Switches: l.side, Cluster: cluster, Log: slog.New(slog.DiscardHandler),
		Self: func(netip.Addr) (string, error) { return us, nil }, EdgeDelay: 10 * time.Millisecond,
		Attached: l.heard,
	})
	require.NoError(l.t, err)
	l.Hosts.patience = patience{join: 300 * time.Millisecond, confirm: 20 * time.Millisecond, leave: 100 * time.Millisecond}
	h := l.Hosts
	l.side.there = func(dpid ofproto.DPID) bool {
		h.mu.Lock()
		hosts := slices.Collect(maps.Values(h.hosts))
		h.mu.Unlock()
		for _, k := range hosts {
			inv, err := k.client.Inventory()
			if err != nil {
				continue
			}
			for _, b := range inv.Bridges {
				if parseDPID(b.DPID) == dpid && slices.ContainsFunc(b.Controllers, func(c Controller) bool {
					return slices.Contains([]string{us, another, joining(us), joining(another)}, c.Target)
				}) {
					return true
				}
			}
		}
		return false
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { _ = h.Run(ctx); close(done) }()
	l.stop = sync.OnceFunc(func() { cancel(); <-done })
	l.t.Cleanup(l.stop)
	eventually(l.t, 10*time.Second, "it runs", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.life != nil
	})
}

func (l *lab) endpoint() Endpoint { return Endpoint("unix:" + l.ovs.Dir + "/db.sock") }

// bridge adds a bridge with a bare configuration; more is arguments of ovs-vsctl.
func (l *lab) bridge(name string, more ...string) {
	l.t.Helper()
	l.ovs.Vsctl(append([]string{"--", "add-br", name, "--", "set", "bridge", name, "datapath_type=dummy"}, more...)...)
}

// list reads a table.
func (l *lab) list(table string) map[string]map[string]any {
	l.t.Helper()
	var answer struct {
		Headings []string
		Data     [][]any
	}
	require.NoError(l.t, json.Unmarshal([]byte(l.ovs.Vsctl("--format=json", "list", table)), &answer))
	rows := map[string]map[string]any{}
	for _, d := range answer.Data {
		row := map[string]any{}
		for i, h := range answer.Headings {
			row[h] = d[i]
		}
		rows[fmt.Sprint(row["_uuid"])] = row
	}
	return rows
}

// written is every column of every bridge, with all that an operator writes of its
// controllers in the place of their names. What Open vSwitch says of a connection is no
// part of it.
func (l *lab) written() map[string]string {
	l.t.Helper()
	controllers := l.list("controller")
	bridges := map[string]string{}
	for _, b := range l.list("bridge") {
		targets := []string{}
		for id, c := range controllers {
			if strings.Contains(fmt.Sprint(b["controller"]), strings.Trim(strings.TrimPrefix(id, "[uuid "), "]")) {
				for _, runtime := range []string{"_uuid", "is_connected", "role", "status"} {
					delete(c, runtime)
				}
				text, err := json.Marshal(c)
				require.NoError(l.t, err)
				targets = append(targets, string(text))
			}
		}
		slices.Sort(targets)
		b["controller"] = targets
		text, err := json.Marshal(b)
		require.NoError(l.t, err)
		bridges[b["name"].(string)] = string(text)
	}
	return bridges
}

func (l *lab) get(bridge, column string) string {
	l.t.Helper()
	return strings.Trim(l.ovs.Vsctl("get", "bridge", bridge, column), `"`)
}

// targets are the controllers of a bridge.
func (l *lab) targets(bridge string) []string {
	l.t.Helper()
	return strings.Fields(l.ovs.Vsctl("get-controller", bridge))
}

func (l *lab) adopt(req Request) []Outcome {
	l.t.Helper()
	req.Endpoint = l.endpoint()
	o, err := l.Adopt(l.t.Context(), req)
	require.NoError(l.t, err)
	return o
}

// staged are the stages that are stored.
func (l *lab) staged() map[ofproto.DPID]string {
	l.side.mu.Lock()
	defer l.side.mu.Unlock()
	stages := maps.Clone(l.side.stages)
	maps.DeleteFunc(stages, func(_ ofproto.DPID, stage string) bool { return stage == "" })
	return stages
}

func (l *lab) adopted(bridge string) {
	l.t.Helper()
	o := l.adopt(Request{Bridges: []string{bridge}})
	require.Equal(l.t, "adopted", o[0].State, "%+v", o)
}

func (l *lab) view(bridge string) View {
	l.t.Helper()
	views, err := l.Bridges(l.t.Context(), l.endpoint())
	require.NoError(l.t, err)
	for _, v := range views {
		if v.Name == bridge {
			return v
		}
	}
	return View{}
}

// shapes are bridges as they are found in the wild.
var shapes = map[string][]string{
	"bare": nil,
	"full": {
		"fail_mode=standalone", "protocols=OpenFlow10,OpenFlow14", "other_config:mac-table-size=4096", "other_config:disable-in-band=false",
		"external_ids:owner=ops", `external_ids:quoted="a \"b\", c=[d]"`,
		"--", "--id=@a", "create", "controller", `target="tcp:127.0.0.1:9"`, "max_backoff=2000", "inactivity_probe=7000", "connection_mode=in-band",
		"enable_async_messages=false", "controller_rate_limit=200", "controller_burst_limit=50", "controller_queue_size=5", "external_ids:a=b", "other_config:dscp=10",
		"--", "--id=@b", "create", "controller", `target="tcp:127.0.0.1:10"`, "type=primary", "local_ip=10.0.0.1", "local_netmask=255.0.0.0", "local_gateway=10.0.0.254",
		"--", "--id=@c", "create", "controller", `target="ptcp:0:127.0.0.1"`,
		"--", "add", "bridge", "BRIDGE", "controller", "@a", "@b", "@c",
	},
	"secure":   {"fail_mode=secure", "other_config:datapath-id=00000000000000aa", "other_config:disable-in-band=true", "protocols=OpenFlow13"},
	"listener": {"--", "--id=@a", "create", "controller", `target="ptcp:0:127.0.0.1"`, "--", "add", "bridge", "BRIDGE", "controller", "@a"},
	"service":  {"--", "--id=@a", "create", "controller", `target="tcp:127.0.0.1:9"`, "type=service", "--", "add", "bridge", "BRIDGE", "controller", "@a"},
	"ours":     {"--", "--id=@a", "create", "controller", `target="` + us + `"`, "max_backoff=5000", "--", "add", "bridge", "BRIDGE", "controller", "@a"},
}

func shape(bridge, name string) []string {
	args := slices.Clone(shapes[name])
	for i, a := range args {
		if a == "BRIDGE" {
			args[i] = bridge
		}
	}
	return args
}

func TestAdoptAndRelease(t *testing.T) {
	for name := range shapes {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.bridge("br0", shape("br0", name)...)
			before, dpid := l.written(), l.get("br0", "datapath_id")
			for range 2 {
				o := l.adopt(Request{Bridges: []string{"br0"}, Stage: "steer"})
				require.Equal(t, "adopted", o[0].State, "%+v", o)
				require.True(t, o[0].Changed)
				require.Equal(t, []string{us}, l.targets("br0"))
				require.Equal(t, "secure", l.get("br0", "fail_mode"))
				require.Equal(t, "true", l.get("br0", "other_config:disable-in-band"))
				require.Equal(t, dpid, l.get("br0", "other_config:datapath-id"))
				require.Equal(t, dpid, l.get("br0", "datapath_id"))
				has := strings.FieldsFunc(strings.Trim(l.get("br0", "protocols"), "[]"), func(r rune) bool { return r == ',' || r == ' ' })
				require.Contains(t, has, "OpenFlow13")
				if name == "full" {
					require.ElementsMatch(t, []string{"OpenFlow10", "OpenFlow13", "OpenFlow14"}, has)
					require.Equal(t, "ops", l.get("br0", "external_ids:owner"))
					require.Equal(t, "4096", l.get("br0", "other_config:mac-table-size"))
				}
				eventually(t, 5*time.Second, "it is shown", func() bool { v := l.view("br0"); return v.State == "adopted" && len(v.Drift) == 0 })
				require.Equal(t, "steer", l.side.stages[parseDPID(dpid)])

				id, written := l.get("br0", "controller"), l.written()
				o = l.adopt(Request{Bridges: []string{"br0"}})
				require.Equal(t, "adopted", o[0].State)
				require.False(t, o[0].Changed, "nothing to do")
				require.Equal(t, id, l.get("br0", "controller"))
				require.Equal(t, written, l.written())

				require.NoError(t, l.Release(t.Context(), l.endpoint(), "br0"))
				require.Equal(t, before, l.written())
				require.Empty(t, l.store.list)
				require.Empty(t, l.side.stages[parseDPID(dpid)])
				require.ErrorIs(t, l.Release(t.Context(), l.endpoint(), "br0"), ErrNotAdopted)
			}
		})
	}
}

// TestAddressChange moves an adopted bridge to another controller: what stays keeps its
// row, and with it its connection, and there is a controller all the time.
func TestAddressChange(t *testing.T) {
	l := newLab(t)
	l.bridge("br0")
	before := l.written()
	l.adopted("br0")
	id := l.get("br0", "controller")
	taken := l.side.taken
	o := l.adopt(Request{Bridges: []string{"br0"}, Controllers: []string{us, another}})
	require.True(t, o[0].Changed)
	require.ElementsMatch(t, []string{us, another}, l.targets("br0"))
	require.Contains(t, l.get("br0", "controller"), strings.Trim(id, "[]"))
	l.adopt(Request{Bridges: []string{"br0"}, Controllers: []string{another}})
	require.Equal(t, []string{another}, l.targets("br0"))
	require.Equal(t, taken, l.side.taken, "no flows were forgotten")
	require.NoError(t, l.Release(t.Context(), l.endpoint(), "br0"))
	require.Equal(t, before, l.written())
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		args  []string
		prep  func(l *lab)
		req   Request
		wants string
	}{
		"no connection":   {prep: func(l *lab) { l.side.away = true }, wants: "did not connect"},
		"held":            {prep: func(l *lab) { l.side.held = "another store" }, wants: "another store"},
		"flows of others": {prep: func(l *lab) { l.side.foreign = 3 }, wants: "3 flows"},
		"another place":   {prep: func(l *lab) { l.side.present = true }, wants: "from another place"},
		"STP":             {args: []string{"stp_enable=true"}, req: Request{Stage: "managed"}, wants: "STP"},
		"VLAN":            {args: []string{"--", "add-port", "br0", "p1", "tag=5"}, req: Request{Stage: "managed"}, wants: "port p1 has VLANs"},
		"bond":            {args: []string{"--", "add-bond", "br0", "b", "p1", "p2"}, req: Request{Stage: "managed"}, wants: "port b is a bond"},
		"OVN": {prep: func(l *lab) {
			l.ovs.Vsctl("set", "open_vswitch", ".", "external_ids:ovn-remote=tcp:1.1.1.1:1", "external_ids:ovn-bridge=br0")
		}, wants: "ovn-controller"},
		"unreadable record": {args: []string{"external_ids:fairlead=?"}, wants: "is not what was written"},
		"another's":         {prep: func(l *lab) { l.adopted("br0"); l.stop(); l.store.list = map[bridgeKey]Adoption{}; l.start("other") }, req: Request{Controllers: []string{another}}, wants: "cluster cluster"},
		"the datapath id of": {prep: func(l *lab) {
			l.ovs.Vsctl("set", "bridge", "br0", "other_config:datapath-id=00000000000000aa")
			l.bridge("br1", "other_config:datapath-id=00000000000000aa")
			l.adopted("br1")
		}, wants: "is that of bridge br1"},
		"failed to take": {prep: func(l *lab) { l.side.hook = failing("take over") }, wants: "failed"},
		"failed after":   {prep: func(l *lab) { l.side.hook = failing("taken over") }, wants: "failed"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.bridge("br0", c.args...)
			if c.prep != nil {
				c.prep(l)
			}
			before, stored, stages := l.written(), maps.Clone(l.store.list), l.staged()
			c.req.Bridges = []string{"br0"}
			o := l.adopt(c.req)
			require.Equal(t, "refused", o[0].State)
			require.Contains(t, o[0].Reason, c.wants)
			require.Equal(t, before, l.written(), "nothing is changed")
			require.Equal(t, stored, l.store.list)
			require.Equal(t, stages, l.staged())
		})
	}
	l := newLab(t)
	l.bridge("br0")
	l.side.foreign = 3
	require.Equal(t, "there is no such bridge", l.adopt(Request{Bridges: []string{"br9"}})[0].Reason)
	require.Equal(t, "adopted", l.adopt(Request{Bridges: []string{"br0"}, DiscardFlows: true})[0].State)
	_, err := l.Adopt(t.Context(), Request{Endpoint: "unix:/nowhere", Bridges: []string{"a"}})
	require.ErrorIs(t, err, ErrNotConnected)
}

func failing(at string) func(string) error {
	return func(what string) error {
		if what == at {
			return errors.New("failed")
		}
		return nil
	}
}

// TestCrash stops at every point of an adoption and of a release, and starts again with
// what is stored: what was begun is finished, or was never there.
func TestCrash(t *testing.T) {
	for at, want := range map[string]string{
		"stage steer": "available", // stored, and nothing done yet
		"connected":   "adopted",   // service connections are there
		"take over":   "adopted",
		"taken over":  "adopted", // the transaction is through, and not stored
		"settled":     "adopted",
	} {
		t.Run(at, func(t *testing.T) {
			l := newLab(t)
			l.bridge("br0")
			before := l.written()
			crashed, n := make(chan struct{}), 0
			l.side.hook = func(what string) error {
				if what != at {
					return nil
				}
				if n++; what == "connected" && n == 1 {
					return nil // that one is before the first transaction
				}
				select {
				case <-crashed:
				default:
					close(crashed)
				}
				<-make(chan struct{}) // a process that is killed returns nothing
				return nil
			}
			go func() {
				_, _ = l.Adopt(context.Background(), Request{Endpoint: l.endpoint(), Bridges: []string{"br0"}, Stage: "steer"})
			}()
			<-crashed
			l.start("cluster")
			eventually(t, 10*time.Second, "it is "+want, func() bool {
				v := l.view("br0")
				return v.State == want && (want == "adopted" && len(v.Drift) == 0 && l.store.size() == 1 || want == "available" && l.store.size() == 0)
			})
			if want == "available" {
				require.Equal(t, before, l.written())
				return
			}
			require.Equal(t, []string{us}, l.targets("br0"))
			require.NoError(t, l.Release(t.Context(), l.endpoint(), "br0"))
			require.Equal(t, before, l.written())
		})
	}
	t.Run("release", func(t *testing.T) {
		l := newLab(t)
		l.bridge("br0")
		before := l.written()
		l.adopted("br0")
		l.stop()
		for key, a := range l.store.list { // stored, and nothing done yet
			a.Record.Phase = PhaseReleasing
			l.store.list[key] = a
		}
		l.start("cluster")
		eventually(t, 10*time.Second, "it is released", func() bool { return l.view("br0").State == "available" && l.store.size() == 0 })
		require.Equal(t, before, l.written())
	})
}

// TestLostStore releases, or adopts again, what an earlier server had adopted.
func TestLostStore(t *testing.T) {
	for _, again := range []bool{false, true} {
		l := newLab(t)
		l.bridge("br0", shape("br0", "full")...)
		before := l.written()
		l.adopted("br0")
		l.stop()
		l.store.list = map[bridgeKey]Adoption{}
		l.start("new cluster")
		require.Equal(t, "adopted", l.view("br0").State)
		require.NotEmpty(t, l.view("br0").Reason)
		if again {
			l.adopted("br0")
			require.Empty(t, l.view("br0").Reason)
			require.Zero(t, l.side.taken, "no flows were forgotten")
		}
		require.NoError(t, l.Release(t.Context(), l.endpoint(), "br0"))
		require.Equal(t, before, l.written())
	}
}

// TestDrift changes an adopted bridge behind Fairlead's back: it is shown, and mended by
// adopting again.
func TestDrift(t *testing.T) {
	l := newLab(t)
	l.bridge("br0")
	before := l.written()
	l.adopted("br0")
	l.ovs.Vsctl("set-fail-mode", "br0", "standalone", "--", "set-controller", "br0", "tcp:127.0.0.1:9", "--", "remove", "bridge", "br0", "other_config", "datapath-id")
	eventually(t, 5*time.Second, "it is shown", func() bool { return len(l.view("br0").Drift) == 3 })
	l.adopted("br0")
	eventually(t, 5*time.Second, "it is mended", func() bool { return len(l.view("br0").Drift) == 0 })
	require.NoError(t, l.Release(t.Context(), l.endpoint(), "br0"))
	require.Equal(t, before, l.written())

	l.adopted("br0")
	l.ovs.Vsctl("del-br", "br0")
	eventually(t, 5*time.Second, "it is missing", func() bool { return l.view("br0").State == "missing" })
	require.NoError(t, l.Release(t.Context(), l.endpoint(), "br0"))
	require.Empty(t, l.store.list)
}

func TestFiftyBridges(t *testing.T) {
	const n = 50
	l := newLab(t)
	for i := range n {
		names := slices.Sorted(maps.Keys(shapes))
		name := fmt.Sprintf("br%d", i)
		kind := names[i%len(names)]
		if kind == "secure" {
			kind = "bare" // its datapath id would be there several times
		}
		l.bridge(name, shape(name, kind)...)
	}
	before := l.written()
	begin := time.Now()
	for _, o := range l.adopt(Request{}) {
		require.Equal(t, "adopted", o.State, "%+v", o)
	}
	t.Logf("%d bridges adopted in %v", n, time.Since(begin).Round(time.Millisecond))
	views, err := l.Bridges(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, views, n)
	begin = time.Now()
	for _, v := range views {
		require.NoError(t, l.Release(t.Context(), l.endpoint(), v.Name))
	}
	t.Logf("released in %v", time.Since(begin).Round(time.Millisecond))
	require.Equal(t, before, l.written())
}

// TestInventory reads ports, VLANs, bonds and identities, and follows a port to another
// number.
func TestInventory(t *testing.T) {
	l := newLab(t)
	l.bridge("br0", "other_config:datapath-id=00000000000000aa", "external_ids:a=b",
		"--", "add-port", "br0", "vm1", "tag=10", "vlan_mode=native-untagged", "trunks=10,20", "--", "set", "interface", "vm1", "type=dummy", "ofport_request=7",
		"external_ids:iface-id=port-1", "external_ids:attached-mac=02:00:00:00:00:01",
		"--", "add-bond", "br0", "bond0", "e1", "e2", "bond_mode=balance-slb", "lacp=passive", "--", "set", "interface", "e1", "type=dummy", "--", "set", "interface", "e2", "type=dummy")
	b := l.view("br0")
	require.Equal(t, map[string]string{"a": "b"}, b.ExternalIDs)
	require.Len(t, b.Ports, 3)
	require.Equal(t, []string{"bond0", "br0", "vm1"}, []string{b.Ports[0].Name, b.Ports[1].Name, b.Ports[2].Name})
	require.Equal(t, "balance-slb passive", b.Ports[0].BondMode+" "+b.Ports[0].LACP)
	require.Len(t, b.Ports[0].Interfaces, 2)
	vm := b.Ports[2]
	require.Equal(t, 10, vm.Tag)
	require.Equal(t, []int{10, 20}, vm.Trunks)
	require.Equal(t, "native-untagged", vm.VLANMode)
	require.Equal(t, "up", vm.Interfaces[0].LinkState)

	require.Empty(t, l.Interfaces(0xaa), "the endpoint is not in use")
	l.adopted("br0")
	eventually(t, 5*time.Second, "the interface is known by its port", func() bool { return l.Interfaces(0xaa)[7].IfaceID == "port-1" })
	require.Equal(t, "02:00:00:00:00:01", l.Interfaces(0xaa)[7].AttachedMAC)
	require.Equal(t, "br0", l.Interfaces(0xaa)[ofproto.PortLocal].Name)
	l.ovs.Vsctl("set", "interface", "vm1", "ofport_request=9")
	eventually(t, 5*time.Second, "the port has another number", func() bool {
		m := l.Interfaces(0xaa)
		return m[9].IfaceID == "port-1" && m[7].Name == ""
	})
	require.Equal(t, "00000000000000aa", l.get("br0", "datapath_id"))
}

// Who asks for it is called when a bridge has joined, is filled and still forwards by
// itself; an error leaves the bridge as it was.
func TestJoined(t *testing.T) {
	l := newLab(t)
	l.bridge("br0")
	before := l.list("Bridge")
	called := 0
	joined := func() error {
		called++
		row := l.list("Bridge")["br0"]
		require.Len(t, l.list("Controller"), 1)
		require.NotEqual(t, "secure", row["fail_mode"])
		require.Zero(t, l.side.taken)
		return errors.New("10.0.0.9 is silent")
	}
	outcomes, err := l.Adopt(t.Context(), Request{Endpoint: l.endpoint(), Bridges: []string{"br0"}, Stage: "steer", Joined: joined})
	require.NoError(t, err)
	require.Equal(t, "refused", outcomes[0].State)
	require.Equal(t, "10.0.0.9 is silent", outcomes[0].Reason)
	require.Equal(t, before["br0"]["external_ids"], l.list("Bridge")["br0"]["external_ids"])
	require.Empty(t, l.list("Controller"))
	require.Zero(t, l.store.size())
	require.Equal(t, 1, called)

	outcomes, err = l.Adopt(t.Context(), Request{Endpoint: l.endpoint(), Bridges: []string{"br0"}, Stage: "steer", Joined: func() error { called++; return nil }})
	require.NoError(t, err)
	require.Equal(t, "adopted", outcomes[0].State)
	require.Equal(t, 2, called)
	_, err = l.Adopt(t.Context(), Request{Endpoint: l.endpoint(), Bridges: []string{"br0"}, Stage: "steer", Joined: func() error { called++; return nil }})
	require.NoError(t, err)
	require.Equal(t, 2, called, "it is adopted already")
}

// A bridge that has joined, and is released by a server that was just started, is let go
// when it is back: nobody else takes Fairlead's entries out of it.
func TestReleaseJoined(t *testing.T) {
	l := newLab(t)
	l.bridge("br0")
	before := l.written()
	looked := 0
	outcomes, err := l.Adopt(t.Context(), Request{Endpoint: l.endpoint(), Bridges: []string{"br0"}, Stage: "steer", Joined: func() error {
		l.side.mu.Lock()
		l.side.away = true
		l.side.hook = func(what string) error {
			l.side.mu.Lock()
			defer l.side.mu.Unlock()
			if looked++; looked == 3 {
				l.side.away = false
			}
			return nil
		}
		l.side.mu.Unlock()
		require.NoError(t, l.release(t.Context(), l.hosts[l.endpoint()], "br0"))
		return errors.New("it is released")
	}})
	require.NoError(t, err)
	require.Equal(t, "it is released", outcomes[0].Reason)
	require.Equal(t, before, l.written())
	require.Len(t, l.side.withdrawn, 1)
}
