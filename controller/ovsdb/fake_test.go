package ovsdb

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
	"github.com/stretchr/testify/require"
)

// fake is an OVSDB server with one bridge, br0, and its port and interface. What it
// answers can be replaced: a server may be broken, or hostile.
type fake struct {
	t    *testing.T
	path string

	mu     sync.Mutex
	answer func(method string, id, params json.RawMessage, write func(string)) bool // true: it has answered
	greet  func(write func(string))                                                 // after the monitor's answer
	conns  int
	accept net.Listener
	open   map[net.Conn]bool
}

const (
	rootID   = "00000000-0000-4000-8000-000000000001"
	bridgeID = "00000000-0000-4000-8000-000000000002"
	portID   = "00000000-0000-4000-8000-000000000003"
	ifaceID  = "00000000-0000-4000-8000-000000000004"
)

func newFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "ovsdb") // a socket's path is short
	require.NoError(t, err)
	f := &fake{t: t, path: filepath.Join(dir, "s"), open: map[net.Conn]bool{}}
	f.accept, err = net.Listen("unix", f.path)
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := f.accept.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns++
			f.open[c] = true
			f.mu.Unlock()
			serving.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(func() {
		f.accept.Close()
		f.cut()
		serving.Wait()
		os.RemoveAll(dir)
	})
	return f
}

// cut ends all connections.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.open {
		c.Close()
	}
}

func (f *fake) set(answer func(method string, id, params json.RawMessage, write func(string)) bool, greet func(write func(string))) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer, f.greet = answer, greet
}

func (f *fake) connections() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.conns
}

func (f *fake) serve(c net.Conn) {
	defer func() {
		c.Close()
		f.mu.Lock()
		delete(f.open, c)
		f.mu.Unlock()
	}()
	var writing sync.Mutex
	write := func(s string) {
		writing.Lock()
		defer writing.Unlock()
		_, _ = c.Write([]byte(s))
	}
	for dec := json.NewDecoder(c); ; {
		var m struct {
			Method     string
			ID, Params json.RawMessage
		}
		if dec.Decode(&m) != nil {
			return
		}
		f.mu.Lock()
		answer, greet := f.answer, f.greet
		f.mu.Unlock()
		if answer != nil && answer(m.Method, m.ID, m.Params, write) {
			continue
		}
		result := ""
		switch m.Method {
		case "get_schema":
			result = fakeSchema()
		case "monitor":
			result = fakeRows
		case "transact":
			result = fakeSelect
		}
		write(fmt.Sprintf(`{"id":%s,"result":%s,"error":null}`, m.ID, result))
		if m.Method == "monitor" && greet != nil {
			greet(write)
		}
	}
}

// fakeSchema has the tables and columns that are asked for, and no others.
func fakeSchema() string {
	set := func(typ string) string { return `{"type":{"key":"` + typ + `","min":0,"max":"unlimited"}}` }
	opt := func(typ string) string { return `{"type":{"key":"` + typ + `","min":0,"max":1}}` }
	const dict = `{"type":{"key":"string","value":"string","min":0,"max":"unlimited"}}`
	const str, boolean = `{"type":"string"}`, `{"type":"boolean"}`
	tables := map[string]map[string]string{
		"Open_vSwitch": {"bridges": set("uuid"), "ovs_version": opt("string"), "external_ids": dict},
		"Bridge": {
			"name": str, "ports": set("uuid"), "controller": set("uuid"), "protocols": set("string"), "fail_mode": opt("string"),
			"datapath_id": opt("string"), "datapath_type": str, "other_config": dict, "external_ids": dict, "stp_enable": boolean, "rstp_enable": boolean,
		},
		"Port": {
			"name": str, "interfaces": `{"type":{"key":"uuid","min":1,"max":"unlimited"}}`, "tag": opt("integer"), "trunks": set("integer"),
			"vlan_mode": opt("string"), "bond_mode": opt("string"), "lacp": opt("string"),
		},
		"Interface": {
			"name": str, "type": str, "ofport": opt("integer"), "mac_in_use": opt("string"), "admin_state": opt("string"),
			"link_state": opt("string"), "error": opt("string"), "mtu": opt("integer"), "options": dict, "external_ids": dict,
		},
		"Controller": {"target": str, "type": opt("string"), "is_connected": boolean, "role": opt("string")},
	}
	var b strings.Builder
	for table, columns := range tables {
		var list []string
		for name, typ := range columns {
			list = append(list, `"`+name+`":`+typ)
		}
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `"%s":{"columns":{%s}}`, table, strings.Join(list, ","))
	}
	return `{"name":"Open_vSwitch","version":"8.3.1","tables":{` + b.String() + `}}`
}

const (
	rootRowJSON   = `"bridges":["uuid","` + bridgeID + `"],"ovs_version":"3.1.0","external_ids":["map",[]]`
	bridgeRowJSON = `"name":"br0","ports":["uuid","` + portID + `"],"controller":["set",[]],"protocols":["set",[]],"fail_mode":["set",[]],` +
		`"datapath_id":"0000000000000007","datapath_type":"","other_config":["map",[]],"external_ids":["map",[]],"stp_enable":false,"rstp_enable":false`
	portRowJSON = `"name":"p1","interfaces":["uuid","` + ifaceID + `"],"tag":["set",[]],"trunks":["set",[]],"vlan_mode":["set",[]],"bond_mode":["set",[]],"lacp":["set",[]]`
	// The rest of an interface's row, but for its number.
	ifaceRest = `"name":"p1","type":"","mac_in_use":"02:00:00:00:00:01","admin_state":"up","link_state":"up","error":["set",[]],"mtu":1500,` +
		`"options":["map",[]],"external_ids":["map",[["iface-id","vm1"]]]`
	fakeRows = `{"Open_vSwitch":{"` + rootID + `":{"new":{` + rootRowJSON + `}}},"Bridge":{"` + bridgeID + `":{"new":{` + bridgeRowJSON + `}}},` +
		`"Port":{"` + portID + `":{"new":{` + portRowJSON + `}}},"Interface":{"` + ifaceID + `":{"new":{"ofport":3,` + ifaceRest + `}}}}`
	// In the order of selectAll: Bridge, Controller, Interface, Open_vSwitch, Port.
	fakeSelect = `[{"rows":[{"_uuid":["uuid","` + bridgeID + `"],` + bridgeRowJSON + `}]},{"rows":[]},{"rows":[{"_uuid":["uuid","` + ifaceID + `"],"ofport":3,` + ifaceRest + `}]},` +
		`{"rows":[{"_uuid":["uuid","` + rootID + `"],` + rootRowJSON + `}]},{"rows":[{"_uuid":["uuid","` + portID + `"],` + portRowJSON + `}]}]`
)

// client runs a client of an endpoint until the test ends.
func client(t *testing.T, e Endpoint, o ClientOptions, change ...pace) *Client {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := NewClient(e, o)
	for _, p := range change {
		c.pace = p
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return c
}

func (f *fake) endpoint() Endpoint { return Endpoint("unix:" + f.path) }

// eventually polls a condition until it holds.
func eventually(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

// sane says whether a client has what a fake serves by itself.
func sane(c *Client) bool {
	inv, err := c.Inventory()
	if err != nil || len(inv.Bridges) != 1 {
		return false
	}
	b, ok := inv.Bridge("br0")
	return ok && b.DPID == "0000000000000007" && len(b.Ports) == 1 && len(b.Ports[0].Interfaces) == 1 &&
		b.Ports[0].Interfaces[0].OFPort == 3 && b.Ports[0].Interfaces[0].IfaceID == "vm1"
}

func testModel() (model.DatabaseModel, error) {
	var schema ovsdb.DatabaseSchema
	if err := json.Unmarshal([]byte(fakeSchema()), &schema); err != nil {
		return model.DatabaseModel{}, err
	}
	return newModel(schema)
}
