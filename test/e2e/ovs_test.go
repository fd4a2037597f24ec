//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// db is the lab's OVSDB as an endpoint.
func (l *lab) db() string { return "unix:" + l.ovs.Dir + "/db.sock" }

// fairlead runs a client command and returns its standard output and its exit code.
func (c *controller) cli(args ...string) (out, errs string, code int) {
	c.t.Helper()
	path, err := fairleadBinary()
	require.NoError(c.t, err)
	cmd := exec.Command("ip", append([]string{"netns", "exec", c.lab.ns.name, path}, args...)...)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.t.Fatalf("fairlead: %v", err)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// must0 runs a client command that has to succeed.
func (c *controller) must0(args ...string) string {
	c.t.Helper()
	out, errs, code := c.cli(args...)
	require.Zero(c.t, code, "fairlead %s: %s%s", strings.Join(args, " "), out, errs)
	return out
}

// rows reads all columns of the rows of a table, by name or target, but for those that
// Open vSwitch writes by itself (status, statistics and so on change at any time) and
// what names a row: controllers are looked up where a bridge refers to them.
func (l *lab) rows(table string) map[string]map[string]any {
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

// written is every column of every bridge and controller as an operator wrote it, with
// what a bridge's controllers are in place of their names.
func (l *lab) written() map[string]map[string]any {
	l.t.Helper()
	controllers := l.rows("controller")
	bridges := map[string]map[string]any{}
	for _, b := range l.rows("bridge") {
		var refer func(v any) []string
		refer = func(v any) (list []string) {
			pair, ok := v.([]any)
			if !ok || len(pair) != 2 {
				return nil
			}
			if pair[0] == "uuid" {
				row := controllers[fmt.Sprint(v)]
				for _, runtime := range []string{"_uuid", "is_connected", "role", "status"} {
					delete(row, runtime)
				}
				text, err := json.Marshal(row)
				require.NoError(l.t, err)
				return []string{string(text)}
			}
			for _, member := range pair[1].([]any) {
				list = append(list, refer(member)...)
			}
			return list
		}
		list := refer(b["controller"])
		slices.Sort(list)
		b["controller"] = list
		bridges[b["name"].(string)] = b
	}
	return bridges
}

// serving starts fairlead without switches.
func (l *lab) serving(stage string) *controller {
	l.t.Helper()
	dpids := l.dpids
	l.dpids = 0
	c := l.control(stage)
	l.dpids = dpids
	return c
}

// adopted waits until the bridge's switch is connected.
func (c *controller) adopted(dpid string) {
	c.t.Helper()
	c.wait("switch "+dpid+" is connected", func() bool {
		var s struct {
			Connection struct {
				State string `json:"state"`
			} `json:"connection"`
		}
		return c.rest("GET", "/v1/switches/"+dpid, nil, &s) == http.StatusOK && s.Connection.State == "connected"
	})
}

// bare makes the lab's switch as hypervisors have theirs: no datapath id of its own, no
// controller, the default fail mode and in-band control.
func bareLab(t *testing.T, hosts int) *lab {
	t.Helper()
	l := singleLab(t, standalone, hosts)
	l.ovs.Vsctl("clear", "bridge", "s1", "fail_mode", "--", "clear", "bridge", "s1", "protocols",
		"--", "remove", "bridge", "s1", "other_config", "disable-in-band", "--", "remove", "bridge", "s1", "other_config", "datapath-id")
	return l
}

// dpid is the datapath id of the lab's switch now.
func (l *lab) dpid() string {
	l.t.Helper()
	return strings.Trim(l.ovs.Vsctl("get", "bridge", "s1", "datapath_id"), `"`)
}

// ofThePort is what the REST API says of the port of a host.
func (c *controller) ofThePort(dpid string, h *host) (port int, ifaceID string) {
	c.t.Helper()
	var s struct {
		Ports []struct {
			Port    int    `json:"port"`
			Name    string `json:"name"`
			IfaceID string `json:"iface_id"`
		} `json:"ports"`
	}
	if c.rest("GET", "/v1/switches/"+dpid, nil, &s) != http.StatusOK {
		return 0, ""
	}
	for _, p := range s.Ports {
		if p.Name == h.name {
			return p.Port, p.IfaceID
		}
	}
	return 0, ""
}

// TestOVSAdoptUnderTraffic adopts a bridge that carries traffic by itself, in every
// stage, moves its controller, and releases it.
func TestOVSAdoptUnderTraffic(t *testing.T) {
	for _, stage := range []string{"observe", "steer", "managed"} {
		t.Run(stage, func(t *testing.T) {
			l := bareLab(t, 3)
			l.sweep()
			before, dpid := l.written(), l.dpid()
			c := l.serving("observe")
			client, server := l.host("h1"), l.host("h2")
			for round := range scale(2, 10) {
				stream := client.udpStream(netip.AddrPortFrom(server.addr, 7))
				stream.flows(t, 500)
				begin := time.Now()
				c.must0("ovs", "adopt", l.db(), "s1", "--stage", stage)
				took := time.Since(begin)
				stream.flows(t, 1000)
				r := stream.finish()
				t.Logf("round %d: adopted in %v: %v", round, took.Round(time.Millisecond), r)
				require.LessOrEqual(t, r.lost(), 5)
				require.LessOrEqual(t, r.gap, time.Second)
				require.Equal(t, dpid, l.dpid())
				require.Equal(t, "secure", l.ovs.Vsctl("get", "bridge", "s1", "fail_mode"))
				require.Contains(t, l.ovs.Vsctl("get", "bridge", "s1", "protocols"), "OpenFlow13")

				stream = client.udpStream(netip.AddrPortFrom(server.addr, 7))
				stream.flows(t, 500)
				require.Contains(t, c.must0("ovs", "adopt", l.db(), "s1"), "false", "nothing has changed")
				stream.flows(t, 200)
				r = stream.finish()
				require.Zero(t, r.lost(), "adopting again: %v", r)

				stream = client.udpStream(netip.AddrPortFrom(server.addr, 7))
				stream.flows(t, 500)
				begin = time.Now()
				c.must0("ovs", "release", l.db(), "s1")
				took = time.Since(begin)
				stream.flows(t, 1000)
				r = stream.finish()
				t.Logf("round %d: released in %v: %v", round, took.Round(time.Millisecond), r)
				require.LessOrEqual(t, r.lost(), 5)
				require.Equal(t, before, l.written(), "every column")
				require.Equal(t, []string{"priority=0 actions=NORMAL"}, entries(l.ovs.DumpFlows("s1")))
				require.Empty(t, l.ovs.DumpGroups("s1"))
			}
		})
	}
}

// entries are flows without the columns that ovs-ofctl puts before them.
func entries(flows []string) (list []string) {
	for _, f := range flows {
		list = append(list, strings.TrimSpace(f[strings.Index(f, "priority="):]))
	}
	return list
}

var _ = url.PathEscape
