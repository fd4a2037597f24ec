package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/northbound"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// fakeVIPs are real ones over a store, shown without a network.
type fakeVIPs struct {
	*balancer.Intents
	mu     sync.Mutex
	waited int
}

func (i *fakeVIPs) Get(ctx context.Context, name string) (balancer.VIP, error) {
	rec, err := i.Intents.Get(ctx, name)
	return rec.VIP, err
}

func (i *fakeVIPs) List(ctx context.Context, after string, limit int) ([]balancer.VIP, string, error) {
	recs, next, err := i.Intents.List(ctx, after, min(limit, 2)) // pages of two, to be many
	var list []balancer.VIP
	for _, r := range recs {
		list = append(list, r.VIP)
	}
	return list, next, err
}

func (i *fakeVIPs) Put(ctx context.Context, v balancer.VIP, cond balancer.Condition) (balancer.VIP, bool, error) {
	rec, created, err := i.Intents.Put(ctx, v, cond)
	return rec.VIP, created, err
}

func (i *fakeVIPs) PutMember(ctx context.Context, vip string, l balancer.ListenerKey, m balancer.Member, cond balancer.Condition) (balancer.VIP, bool, error) {
	rec, created, err := i.Intents.PutMember(ctx, vip, l, m, cond)
	return rec.VIP, created, err
}

func (i *fakeVIPs) DeleteMember(ctx context.Context, vip string, l balancer.ListenerKey, m balancer.MemberKey, cond balancer.Condition) (balancer.VIP, error) {
	if err := i.Intents.DeleteMember(ctx, vip, l, m, cond); err != nil {
		return balancer.VIP{}, err
	}
	return i.Get(ctx, vip)
}

func (i *fakeVIPs) AllStats(context.Context, time.Duration) ([]balancer.Stats, error) {
	return nil, nil
}

func (i *fakeVIPs) Stats(ctx context.Context, name string, _ time.Duration) (balancer.Stats, error) {
	v, err := i.Get(ctx, name)
	st := balancer.Stats{Name: name}
	for _, l := range v.Listeners {
		ls := balancer.ListenerStats{Protocol: l.Protocol, Port: l.Port, Traffic: balancer.Traffic{Packets: 40}, Slots: 16}
		for _, m := range l.Pool.Members {
			ls.Members = append(ls.Members, balancer.MemberStats{Address: m.Address, Port: m.Port, Traffic: balancer.Traffic{Packets: 20}, Slots: 8, Share: 0.5})
		}
		st.Listeners = append(st.Listeners, ls)
	}
	return st, err
}

func (i *fakeVIPs) Wait(context.Context, string, uint64) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.waited++
	return nil
}

// fakeNetwork is one switch.
type fakeNetwork struct {
	mu    sync.Mutex
	stage string
	bpdus string
}

func (n *fakeNetwork) Switches(ctx context.Context) ([]northbound.SwitchView, error) {
	v, err := n.Switch(ctx, 1)
	return []northbound.SwitchView{v}, err
}

func (n *fakeNetwork) Switch(_ context.Context, dpid ofproto.DPID) (northbound.SwitchView, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if dpid != 1 {
		return northbound.SwitchView{}, fmt.Errorf("switch %s: %w", dpid, northbound.ErrNotFound)
	}
	return northbound.SwitchView{DPID: dpid.String(), Stage: n.stage, BPDUs: n.bpdus, Role: "master",
		Connection:  northbound.ConnectionView{State: "connected", Address: "10.9.0.1:40000"},
		Description: northbound.DescriptionView{Hardware: "Open vSwitch", Software: "3.1.0", Serial: "\x7f\u009b2Jé"},
		Ports: []northbound.PortView{{Port: 1, Name: "s1-eth1", MAC: "02:00:00:00:00:01", Up: true, Blocked: "another port leads there"},
			{Port: uint32(ofproto.PortLocal), Name: "s1", MAC: "02:00:00:00:00:02", Up: true}},
		Faults: []northbound.FaultView{{Object: "vip/web", Reason: "OFPGMFC_OUT_OF_GROUPS\x1b[2J"}}}, nil
}

func (n *fakeNetwork) SetStage(ctx context.Context, dpid ofproto.DPID, stage string) error {
	if _, err := n.Switch(ctx, dpid); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stage = stage
	return nil
}

func (n *fakeNetwork) SetBPDUs(ctx context.Context, dpid ofproto.DPID, bpdus string) error {
	if _, err := n.Switch(ctx, dpid); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.bpdus = bpdus
	return nil
}

func (n *fakeNetwork) Unbind(_ context.Context, dpid ofproto.DPID) error {
	return fmt.Errorf("certificate of %s: %w", dpid, northbound.ErrNotFound)
}

func (n *fakeNetwork) Sessions(context.Context) (northbound.SessionsView, error) {
	return northbound.SessionsView{}, nil
}

func (f *fakeNetwork) Confirm(ctx context.Context, dpid ofproto.DPID) error {
	_, err := f.Switch(ctx, dpid)
	return err
}

func (n *fakeNetwork) Settled(context.Context, ofproto.DPID) error { return nil }

func (n *fakeNetwork) Flows(ctx context.Context, dpid ofproto.DPID) ([]northbound.FlowView, error) {
	if _, err := n.Switch(ctx, dpid); err != nil {
		return nil, err
	}
	var list []northbound.FlowView
	for i := range 1500 { // more than one page
		v, err := northbound.NewFlowView(ofproto.FlowStats{Table: 2, Priority: uint16(i), Match: ofproto.NewMatch(
			ofproto.EthType(0x800), ofproto.IPv4Dst(netip.MustParsePrefix("10.0.0.100/32")))}, "balancer vip/web")
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

func (n *fakeNetwork) Groups(ctx context.Context, dpid ofproto.DPID) ([]northbound.GroupView, error) {
	_, err := n.Switch(ctx, dpid)
	return []northbound.GroupView{northbound.NewGroupView(ofproto.GroupDesc{Type: ofproto.GroupTypeSelect, Group: 0x46000001,
		Buckets: []ofproto.Bucket{{Actions: []ofproto.Action{ofproto.Group{ID: 0x46000002}}}}}, ofproto.GroupStats{Packets: 9}, "balancer vip/web")}, err
}

func (n *fakeNetwork) Topology(context.Context) (*topology.Snapshot, error) {
	now := time.Unix(0, 0)
	g := topology.New(topology.Options{})
	for d := topology.DPID(1); d <= 2; d++ {
		g.SetSwitch(d, []topology.PortState{{Port: 1, Up: true}, {Port: 2, Up: true}}, now)
	}
	a, b := topology.Place{DPID: 1, Port: 1}, topology.Place{DPID: 2, Port: 1}
	g.HearLink(a, b, now)
	g.HearLink(b, a, now)
	g.SeeHost(topology.Sighting{MAC: topology.MAC{0, 0, 0, 0, 0, 9}, Place: topology.Place{DPID: 2, Port: 2}, IP: netip.MustParseAddr("10.0.0.9")}, now)
	g.SeeHost(topology.Sighting{MAC: topology.MAC{0, 0, 0, 0, 0, 8}, Place: topology.Place{DPID: 1, Port: 2}, IP: netip.MustParseAddr("10.0.0.8")}, now)
	return g.Snapshot(), nil
}

// fakeEvents gives the same events to each who subscribes.
type fakeEvents []northbound.Event

func (e fakeEvents) Subscribe(int) (<-chan northbound.Event, func()) {
	ch := make(chan northbound.Event, len(e))
	for _, v := range e {
		ch <- v
	}
	return ch, func() {}
}

// fakeBackups has a backup of four bytes.
type fakeBackups struct{}

func (fakeBackups) Backup(w io.Writer) error {
	_, err := io.WriteString(w, "data")
	return err
}

func (fakeBackups) Restore(r io.Reader) error {
	if b, err := io.ReadAll(r); err != nil || string(b) != "data" {
		return northbound.ErrBadBackup
	}
	return nil
}

func TestBackupCommands(t *testing.T) {
	r := newRig(t)
	path := filepath.Join(t.TempDir(), "b")
	require.Equal(t, path+": 4 bytes\n", r.done("backup "+path))
	require.JSONEq(t, `{"file":"`+path+`","bytes":4}`, r.done("backup -o json "+path))
	require.Equal(t, "data", r.done("backup -o yaml -"))
	require.Equal(t, "restored; the server begins anew\n", r.done("restore "+path))
	require.JSONEq(t, `{"restarting":true}`, r.done("restore --output json "+path))
	require.Equal(t, "restarting: true\n", r.done("restore -o yaml "+path))
	r.fails(exitUsage, "restore "+r.file(" \n"))
	require.Contains(t, r.fails(exitRefused, "restore "+r.file("junk")), "not a backup")
	r.fails(exitRefused, "backup "+path+"/x")
}

// rig is a server and the environment to reach it.
type rig struct {
	t       *testing.T
	url     string
	intents *fakeVIPs
	network *fakeNetwork
	stdin   string
}

func newRig(t *testing.T) *rig {
	s, err := store.Open(t.TempDir(), store.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	tokens, err := northbound.ParseTokens(strings.NewReader("ops:letmein"))
	require.NoError(t, err)
	r := &rig{t: t, intents: &fakeVIPs{Intents: balancer.NewIntents(s, time.Now, func(balancer.Change) {})},
		network: &fakeNetwork{stage: "observe"}}
	h := northbound.New(northbound.Options{VIPs: r.intents, Network: r.network, Events: fakeEvents{
		{ID: 1, Type: northbound.EventLink},
		{ID: 2, Type: northbound.EventVIP, Data: map[string]any{"name": "web"}},
		{ID: 3, Type: northbound.EventMember, Data: map[string]any{"member": "10.0.0.2:8080"}},
	}, Explainer: fakeExplainer{}, Measurer: fakeMeasurer{}, OVS: fakeBridges{}, Backups: fakeBackups{}, Tokens: tokens, Log: slog.New(slog.DiscardHandler)}).Handler()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	r.url = srv.URL
	t.Setenv("FAIRLEAD_SERVER", srv.URL+"/")
	t.Setenv("FAIRLEAD_TOKEN", "letmein")
	return r
}

// run runs one command line.
func (r *rig) run(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, strings.NewReader(r.stdin), &out, &errs)
	return code, out.String(), errs.String()
}

// done asserts success and returns what was printed.
func (r *rig) done(line string) string {
	r.t.Helper()
	code, out, errs := r.run(strings.Fields(line)...)
	require.Equal(r.t, exitDone, code, "%s: %s", line, errs)
	require.Empty(r.t, errs)
	return out
}

// fails asserts an exit code and returns the reason.
func (r *rig) fails(code int, line string) string {
	r.t.Helper()
	got, out, errs := r.run(strings.Fields(line)...)
	require.Equal(r.t, code, got, "%s: %s", line, errs)
	require.Empty(r.t, out)
	require.True(r.t, strings.HasPrefix(errs, "fairlead: "), errs)
	return errs
}

const webYAML = `
# two VIPs
name: web
address: 10.0.0.100
listeners:
- protocol: tcp
  port: 80
  pool:
    members:
    - {address: 10.0.0.2, port: 8080}
    - {address: 10.0.0.3, port: 8080}
---
name: dns
address: 10.0.0.101
listeners:
- {protocol: udp, port: 53}
---
`

func (r *rig) file(text string) string {
	path := filepath.Join(r.t.TempDir(), "doc")
	require.NoError(r.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func TestVIPCommands(t *testing.T) {
	r := newRig(t)
	require.Equal(t, "vip web created\nvip dns created\n", r.done("vip apply -f "+r.file(webYAML)+" --wait 1s"))
	require.Equal(t, 2, r.intents.waited)
	r.stdin = webYAML
	require.Equal(t, "vip web applied\nvip dns applied\n", r.done("vip apply -f -"))
	more := r.file(`{"name":"a","address":"10.0.0.102"} {"name":"b","address":"10.0.0.103"}`)
	list := r.file(`[{"name":"c","address":"10.0.0.104"}]`)
	require.Equal(t, "vip a created\nvip b created\nvip c created\n", r.done("vip apply -f "+more+" "+list))
	require.Equal(t, "vip d created\n", r.done("vip apply -f "+r.file("{name: d, address: 10.0.0.105}\n")), "YAML that begins like JSON")

	table := r.done("vip list")
	lines := strings.Split(strings.TrimSpace(table), "\n")
	require.Len(t, lines, 7, "all pages: %s", table)
	require.Equal(t, []string{"NAME", "ADDRESS", "MODE", "LISTENERS", "MEMBERS", "PROVISIONING", "OPERATING", "GENERATION"}, strings.Fields(lines[0]))
	require.Equal(t, []string{"web", "10.0.0.100", "nat", "tcp:80", "2", "-", "-", "1"}, strings.Fields(lines[6]))

	var page struct {
		Items []balancer.VIP `json:"items"`
		Next  *string        `json:"next"`
	}
	require.NoError(t, json.Unmarshal([]byte(r.done("vip list -o json")), &page))
	require.Len(t, page.Items, 6)
	require.Equal(t, "", *page.Next)

	// What is printed can be applied again.
	for _, format := range []string{"json", "yaml"} {
		require.Contains(t, r.done("vip apply -f "+r.file(r.done("vip list -o "+format))), "vip web applied\n")
		require.Equal(t, "vip web applied\n", r.done("vip apply -f "+r.file(r.done("vip get web -o "+format))))
	}
	var doc map[string]any
	require.NoError(t, yaml.Unmarshal([]byte(r.done("vip get web --output yaml")), &doc))
	require.Equal(t, "web", doc["name"])
	require.Equal(t, 1, doc["generation"])
	require.NoError(t, json.Unmarshal([]byte(r.done("vip apply -o json -f "+more)), &page))
	require.Len(t, page.Items, 2)

	table = r.done("vip get web")
	for _, word := range []string{"10.0.0.100", "02:46:4c:", "10.0.0.2:8080", "10.0.0.3:8080"} {
		require.Contains(t, table, word)
	}
	require.Contains(t, r.done("vip get dns"), "udp:53")
	require.Contains(t, r.done("vip stats web"), "50.0%")
	require.Contains(t, r.done("vip stats web -o json"), `"share": 0.5`)
	require.Equal(t, "vip web deleted\n", r.done("vip delete web --wait 2s"))
	require.Empty(t, r.done("vip delete dns -o json"))
	require.Contains(t, r.fails(exitRefused, "vip get web"), "Not found")
	require.Contains(t, r.fails(exitRefused, "vip delete web"), "Not found")
}

func TestVIPApplyRefused(t *testing.T) {
	r := newRig(t)
	// One VIP that the server refuses does not hold up the others.
	code, out, errs := r.run("vip", "apply", "-f", r.file("name: bad\naddress: 10.0.0.100\nvlan: 9999\n---\nname: good\naddress: 10.0.0.101\n"))
	require.Equal(t, exitRefused, code)
	require.Equal(t, "vip good created\n", out)
	require.Contains(t, errs, "vip bad: ")
	require.Contains(t, errs, "vlan: ")

	// A file that is not understood sends nothing.
	for text, says := range map[string]string{
		"name: a\naddress: 10.0.0.1\n---\naddress: 10.0.0.2\n": "document 2: it has no name",
		"name: 7\n":                          "no name",
		"- 3\n":                              "not a VIP",
		"just text":                          "not a VIP",
		"":                                   "no VIP in it",
		"---\n---\n":                         "no VIP in it",
		"name: a\n  b: c\n":                  "line",
		"name: a\nname: b\n":                 "already defined",
		`{"name":"a","address":"10.0.0.1"`:   "doc",
		`{"items":3}`:                        "items",
		"name: a\nweight: .nan\n":            "NaN",
		"name: a\n? [1, 2]\n: complex\n":     "doc",
		`{"name":"a","address":"10.0.0.1"}x`: "doc",
	} {
		require.Contains(t, r.fails(exitUsage, "vip apply -f "+r.file(text)), says, "%q", text)
	}
	require.Contains(t, r.fails(exitUsage, "vip apply -f /does/not/exist"), "/does/not/exist")
	require.Contains(t, r.fails(exitUsage, "vip apply"), "-f FILE")
	require.Contains(t, r.fails(exitUsage, "vip apply "+r.file(webYAML)), "-f FILE")
	require.Len(t, strings.Split(strings.TrimSpace(r.done("vip list")), "\n"), 2)

	// The server is the judge of fields, duplicates in JSON too.
	require.Contains(t, r.fails(exitRefused, "vip apply -f "+r.file(`{"name":"a","address":"10.0.0.1","vlan":0,"vlan":0}`)), "vlan")
}

func TestMemberCommands(t *testing.T) {
	r := newRig(t)
	r.done("vip apply -f " + r.file(webYAML))
	require.Equal(t, "member 10.0.0.4:8080 of web tcp:80 added\n", r.done("member add web tcp:80 10.0.0.4:8080 --weight 3"))
	m := func() map[string]any {
		var v balancer.VIP
		require.NoError(t, json.Unmarshal([]byte(r.done("vip get web -o json")), &v))
		members := v.Listeners[0].Pool.Members
		last := members[len(members)-1]
		return map[string]any{"weight": last.Weight, "admin": string(last.AdminState), "n": len(members)}
	}
	require.Equal(t, map[string]any{"weight": 3, "admin": "up", "n": 3}, m())
	require.Contains(t, r.fails(exitRefused, "member add web tcp:80 10.0.0.4:8080"), "there already")
	r.done("member drain web tcp:80 10.0.0.4:8080 --wait 1s")
	require.Equal(t, map[string]any{"weight": 3, "admin": "drain", "n": 3}, m())
	r.done("member add web tcp:80 10.0.0.5:8080 --interface vm-5")
	require.Contains(t, r.done("vip get web"), "INTERFACE")
	require.Contains(t, r.done("vip get web"), "vm-5")
	r.done("member drain web tcp:80 10.0.0.5:8080")
	require.Contains(t, r.done("vip get web"), "vm-5", "what is changed of a member leaves its interface")
	r.done("member remove web tcp:80 10.0.0.5:8080")
	require.NotContains(t, r.done("vip get web"), "INTERFACE")
	r.done("member set web tcp:80 10.0.0.4:8080 --weight 0")
	require.Equal(t, map[string]any{"weight": 0, "admin": "drain", "n": 3}, m(), "what is not named stays")
	out := r.done("member set web tcp:80 10.0.0.4:8080 --weight 9 --admin-state up -o json")
	require.Contains(t, out, `"weight": 9`)
	require.Equal(t, map[string]any{"weight": 9, "admin": "up", "n": 3}, m())
	require.Equal(t, "member 10.0.0.4:8080 of web tcp:80 removed\n", r.done("member remove web tcp:80 10.0.0.4:8080"))
	require.Equal(t, 2, m()["n"])

	require.Contains(t, r.fails(exitRefused, "member remove web tcp:80 10.0.0.4:8080"), "Not found")
	require.Contains(t, r.fails(exitRefused, "member drain web tcp:81 10.0.0.2:8080"), "Not found")
	require.Contains(t, r.fails(exitRefused, "member add web tcp:80 10.0.0.100:80"), "address")
	for line, says := range map[string]string{
		"member add web tcp:80":                               "arg",
		"member add web tcp 10.0.0.2:80":                      "listener",
		"member add web tcp:0 10.0.0.2:80":                    "listener",
		"member add web tcp:80 10.0.0.2":                      "member",
		"member add web tcp:80 10.0.0.2:0":                    "member",
		"member add web tcp:80 2001:db8::1:80":                "member",
		"member add web tcp:80 10.0.0.2:80 --weight 257":      "weight",
		"member add web tcp:80 10.0.0.2:80 --weight -1":       "weight",
		"member add web tcp:80 10.0.0.2:80 --weight x":        "weight",
		"member set web tcp:80 10.0.0.2:8080":                 "--weight or --admin-state",
		"member set web tcp:80 10.0.0.2:80 --weight 300":      "weight",
		"member set web tcp:80 10.0.0.2:80 --admin-state":     "admin-state",
		"member set web tcp:80 10.0.0.2:80 --admin-state off": "admin-state",
		"member drain web tcp:80 x":                           "member",
		"member remove web tcp:80 x":                          "member",
	} {
		require.Contains(t, r.fails(exitUsage, line), says, line)
	}
}

func TestSwitchCommands(t *testing.T) {
	r := newRig(t)
	require.Contains(t, r.done("switch list"), "Open vSwitch 3.1.0")
	out := r.done("switch get 1")
	require.Contains(t, out, "s1-eth1")
	require.Contains(t, out, "LOCAL")
	require.Contains(t, out, "OFPGMFC_OUT_OF_GROUPS?[2J", "what a switch says does not drive the terminal")
	for _, format := range []string{"json", "yaml"} {
		out = r.done("switch get 1 -o " + format)
		require.NotContains(t, out, "\u009b", format)
		require.NotContains(t, out, "\x7f", format)
		var v struct{ Description struct{ Serial string } }
		require.NoError(t, yaml.Unmarshal([]byte(out), &v), "JSON is YAML")
		require.Equal(t, "\x7f\u009b2Jé", v.Description.Serial, "it is the same string")
	}
	require.Contains(t, r.done("switch get 0000000000000001 -o yaml"), "dpid: \"0000000000000001\"\n")
	require.Equal(t, "switch 1 in stage steer\n", r.done("switch stage 1 steer --wait 1s"))
	require.Equal(t, "steer", r.network.stage)
	require.Contains(t, r.done("switch stage 1 managed -o json"), `"stage": "managed"`)
	require.Contains(t, out, "another port leads there")
	require.Equal(t, "switch 1: BPDUs forward\n", r.done("switch bpdus 1 forward --wait 1s"))
	require.Equal(t, "forward", r.network.bpdus)
	require.Contains(t, r.done("switch bpdus 1 guard -o json"), `"bpdus": "guard"`)
	out = r.done("switch flows 1")
	require.Equal(t, 1501, strings.Count(out, "\n"), "all pages")
	require.Contains(t, out, "eth_type=0x0800,ipv4_dst=10.0.0.100")
	require.Contains(t, r.done("switch groups 1"), "1174405121")
	require.Contains(t, r.fails(exitRefused, "switch get ff"), "Not found")
	require.Contains(t, r.fails(exitRefused, "switch flows ff"), "Not found")
	for line, says := range map[string]string{
		"switch get":                      "arg",
		"switch get zz":                   "dpid",
		"switch get 0x1":                  "dpid",
		"switch flows -- -1":              "dpid",
		"switch groups 11112222333344445": "dpid",
		"switch stage 1":                  "arg",
		"switch stage 1 fly":              "stage",
		"switch stage zz steer":           "dpid",
		"switch bpdus 1 eat":              "bpdus",
		"switch bpdus zz drop":            "dpid",
	} {
		require.Contains(t, r.fails(exitUsage, line), says, line)
	}
}

func TestTopologyCommand(t *testing.T) {
	r := newRig(t)
	out := r.done("topology")
	require.Contains(t, out, "0000000000000001/1")
	require.Contains(t, out, "10.0.0.9")
	require.True(t, json.Valid([]byte(r.done("topology --output json"))))
	require.True(t, strings.HasPrefix(r.done("topology --output dot"), "graph"))
	require.Contains(t, r.done("topology --output svg"), "<svg")
	require.Contains(t, r.done("topology -o yaml"), "links:\n")
	require.Contains(t, r.fails(exitUsage, "topology -o png"), "output")
}

func TestVIPWatch(t *testing.T) {
	r := newRig(t)
	watch := func(format string) string {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		pr, pw := io.Pipe()
		done := make(chan int)
		go func() {
			done <- run(ctx, []string{"vip", "watch", "-o", format}, nil, pw, io.Discard)
			pw.Close()
		}()
		var out strings.Builder
		buf := make([]byte, 4096)
		for !strings.Contains(out.String(), "8080") {
			n, err := pr.Read(buf)
			require.NoError(t, err)
			out.Write(buf[:n])
		}
		cancel()
		go io.Copy(io.Discard, pr)
		require.Equal(t, exitDone, <-done, "an interrupt is no failure")
		return out.String()
	}
	out := watch("table")
	require.Contains(t, out, `vip {"name":"web"}`)
	require.Contains(t, out, `member {"member":"10.0.0.2:8080"}`)
	require.NotContains(t, out, "link")
	for line := range strings.Lines(watch("json")) {
		require.True(t, json.Valid([]byte(line)), line)
	}
	require.Contains(t, watch("yaml"), "---\n")

	// A server that ends the stream is a failure.
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "id: 1\nevent: vip\ndata: {\"type\":\"vip\"}\n\n")
	}))
	defer srv.Close()
	code, _, errs := r.run("vip", "watch", "--server", srv.URL)
	require.Equal(t, exitRefused, code)
	require.Contains(t, errs, "ended")
}

// A watch that falls behind says so and goes on.
func TestVIPWatchLagged(t *testing.T) {
	r := newRig(t)
	calls := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls == 1 {
			io.WriteString(w, ": hello\n\nid: 1\nevent: lagged\ndata: {\"id\":1,\"type\":\"lagged\"}\n\n")
			return
		}
		w.WriteHeader(503)
	}))
	defer srv.Close()
	code, out, errs := r.run("vip", "watch", "-o", "json", "--server", srv.URL)
	require.Equal(t, exitRefused, code)
	require.Equal(t, 2, calls)
	require.Contains(t, out, "lagged")
	require.Contains(t, errs, "503")
}

// What is a text in JSON is one in YAML, whoever reads it.
func TestYAMLKeepsTexts(t *testing.T) {
	var out bytes.Buffer
	c := &client{out: &out, output: "yaml"}
	require.NoError(t, c.print([]byte(`["on","No","y","12:34:56:01:02:03","0000000000000001","1e3","null","web","02:46:4c:00:00:01","5s",1,true,null]`), nil))
	require.Equal(t, `- "on"
- "No"
- "y"
- "12:34:56:01:02:03"
- "0000000000000001"
- "1e3"
- "null"
- web
- 02:46:4c:00:00:01
- 5s
- 1
- true
- null
`, out.String())
}

// full is a disk that is.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

func TestExitCodes(t *testing.T) {
	r := newRig(t)
	require.Contains(t, r.done("version"), "fairlead ")
	require.JSONEq(t, `{"version":"`+programVersion()+`"}`, r.done("version --output json"))
	require.Contains(t, r.done("version -o yaml"), "version: ")
	require.Contains(t, r.done("--help"), "Usage:")
	require.Contains(t, r.done("vip --help"), "Usage:")
	require.Equal(t, r.done("vip get --help"), r.done("help vip get"))
	require.Equal(t, r.done("--help"), r.done("help"))
	for _, line := range []string{"", "vip", "switch", "member", "fly", "vip fly", "version x", "vip list x", "vip list --fly", "vip get", "vip get a b",
		"vip list -o xml", "vip list --server ftp://x", "vip list --server nonsense", "vip list --server http://", "serve x", "serve --fly",
		"serve --stage fly", "vip delete a --wait x", "vip delete a --wait -1s", "vip delete a --wait 2m", "version -o xml", "restore /nowhere", "help fly", "help vip fly"} {
		errs := r.fails(exitUsage, line)
		require.Contains(t, errs, "--help' for usage.\n", line)
	}
	for line, says := range map[string]string{
		"vip list --token wrong":                 "Unauthorized",
		"vip list --server http://127.0.0.1:1":   "127.0.0.1:1",
		"vip get no/such":                        "Not found",
		"vip list --server " + r.url + "/nested": "Not found",
	} {
		errs := r.fails(exitRefused, line)
		require.Contains(t, errs, says, line)
		require.NotContains(t, errs, "--help", line)
	}
	for _, line := range []string{"vip list", "vip list -o json", "vip list -o yaml", "switch stage 1 steer", "version"} {
		var errs bytes.Buffer
		require.Equal(t, exitRefused, run(context.Background(), strings.Fields(line), nil, full{}, &errs), line)
		require.Contains(t, errs.String(), "no space left", line)
	}
	t.Setenv("FAIRLEAD_TOKEN", "")
	require.Contains(t, r.fails(exitRefused, "vip list"), "Unauthorized")
	r.done("vip list --token letmein --server " + r.url)
}

// Answers that are not Fairlead's do not confuse the client.
func TestStrangeServers(t *testing.T) {
	r := newRig(t)
	for _, tc := range []struct {
		status      int
		contentType string
		body        string
		says        string
	}{
		{200, "text/html", "<html>", "not understood"},
		{200, "application/json", `{"items":[3],"next":""}`, "not understood"},
		{502, "text/html", "<html>proxy</html>", "502 Bad Gateway: <html>proxy"},
		{500, "application/problem+json", "{", "500 Internal Server Error"},
		{302, "text/plain", "", "302 Found"},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", tc.contentType)
			w.WriteHeader(tc.status)
			io.WriteString(w, tc.body)
		}))
		require.Contains(t, r.fails(exitRefused, "vip list --server "+srv.URL), tc.says)
		srv.Close()
	}
}

// member set reads again when somebody wrote in between.
func TestMemberSetRetries(t *testing.T) {
	r := newRig(t)
	puts := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodPut {
			puts++
			body, _ := io.ReadAll(q.Body)
			require.NotContains(t, string(body), "status")
			if q.Header.Get("If-Match") != `"2"` {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(412)
				io.WriteString(w, `{"status":412,"title":"x"}`)
				return
			}
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, puts))
		io.WriteString(w, `{"address":"10.0.0.2","port":80,"weight":1,"status":{}}`)
	}))
	defer srv.Close()
	r.done("member set web tcp:80 10.0.0.2:80 --weight 2 --server " + srv.URL)
	require.Equal(t, 3, puts)
}
