//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/test/ovstest"
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

// succeeds runs a client command that has to succeed.
func (c *controller) succeeds(args ...string) string {
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

// bareLab makes the lab's switch as hypervisors have theirs: no datapath id of its own, no
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

// lossFrom is what a change under traffic may lose: an aim for every time, of which one
// in three may be spoilt by those who share the machine.
type lossFrom struct {
	t    *testing.T
	what string
	lost []int
}

func (l *lossFrom) add(took time.Duration, r report) {
	l.t.Helper()
	l.t.Logf("%s in %v: %v", l.what, took.Round(time.Millisecond), r)
	l.lost = append(l.lost, r.lost())
}

func (l *lossFrom) atMost(n int) {
	l.t.Helper()
	slices.Sort(l.lost)
	l.t.Logf("%s: lost each time, in order: %v", l.what, l.lost)
	require.LessOrEqual(l.t, l.lost[(len(l.lost)-1)*2/3], n, "%s", l.what)
}

// under does something while a stream of a thousand packets a second passes, and returns
// how long that took and what became of the stream.
func (l *lab) under(do func()) (time.Duration, report) {
	l.t.Helper()
	stream := l.host("h1").udpStream(netip.AddrPortFrom(l.host("h2").addr, 7))
	stream.flows(l.t, 300)
	begin := time.Now()
	do()
	took := time.Since(begin)
	stream.flows(l.t, 700)
	r := stream.finish()
	require.LessOrEqual(l.t, r.gap, time.Second)
	return took, r
}

// TestOVSAdoptUnderTraffic adopts a bridge that carries traffic by itself, in every
// stage, and releases it.
func TestOVSAdoptUnderTraffic(t *testing.T) {
	for _, stage := range []string{"observe", "steer", "managed"} {
		t.Run(stage, func(t *testing.T) {
			l := bareLab(t, 3)
			l.sweep()
			before, dpid := l.written(), l.dpid()
			c := l.serving("observe")
			adopted, released := &lossFrom{t: t, what: "adopted"}, &lossFrom{t: t, what: "released"}
			for range scale(2, 30) {
				adopted.add(l.under(func() { c.succeeds("ovs", "adopt", l.db(), "s1", "--stage", stage) }))
				require.Equal(t, dpid, l.dpid())
				require.Equal(t, "secure", l.ovs.Vsctl("get", "bridge", "s1", "fail_mode"))
				require.Contains(t, l.ovs.Vsctl("get", "bridge", "s1", "protocols"), "OpenFlow13")
				require.NotContains(t, entries(l.ovs.DumpFlows("s1")), "priority=0 actions=NORMAL", "what held the bridge is gone")

				_, r := l.under(func() { require.Contains(t, c.succeeds("ovs", "adopt", l.db(), "s1"), "false", "nothing has changed") })
				require.Zero(t, r.lost(), "adopted again: %v", r)

				released.add(l.under(func() { c.succeeds("ovs", "release", l.db(), "s1") }))
				require.Equal(t, before, l.written(), "every column")
				require.Equal(t, []string{"priority=0 actions=NORMAL"}, entries(l.ovs.DumpFlows("s1")))
				require.Empty(t, l.ovs.DumpGroups("s1"))
			}
			adopted.atMost(5)
			released.atMost(5)
		})
	}
}

// TestOVSAdoptAfterAnotherController takes a bridge over from a learning switch that is
// not Fairlead's, and gives it back.
func TestOVSAdoptAfterAnotherController(t *testing.T) {
	const other = "127.0.0.1:6655"
	l := bareLab(t, 3)
	command := exec.Command("ip", "netns", "exec", l.ns.name, "ovs-testcontroller", "--wildcards", "--max-idle=permanent",
		"--unixctl="+l.ovs.Dir+"/other.ctl", "ptcp:6655:127.0.0.1")
	command.Env = append(os.Environ(), "OVS_RUNDIR="+l.ovs.Dir, "OVS_LOGDIR="+l.ovs.Dir)
	require.NoError(t, ovstest.StartDaemon(command))
	t.Cleanup(func() { _ = command.Process.Kill(); _ = command.Wait() })
	l.ovs.Vsctl("set-fail-mode", "s1", "secure", "--", "set-controller", "s1", "tcp:"+other, "--", "set", "bridge", "s1", "protocols=OpenFlow10,OpenFlow13")
	l.ovs.Eventually("the other controller has the bridge", func() bool { return l.ovs.Connected("s1") })
	l.sweep()
	before := l.written()
	c := l.serving("observe")
	adopted, released := &lossFrom{t: t, what: "adopted"}, &lossFrom{t: t, what: "released"}
	for range scale(3, 10) {
		adopted.add(l.under(func() {
			require.Contains(t, c.succeeds("ovs", "adopt", l.db(), "s1", "--stage", "steer"), "flows of the earlier controllers stay")
		}))
		released.add(l.under(func() { c.succeeds("ovs", "release", l.db(), "s1") }))
		require.Equal(t, before, l.written(), "every column")
		for _, f := range l.ovs.DumpFlows("s1") {
			require.NotContains(t, f, "cookie=0xfa1d", "nothing of Fairlead's is left")
		}
	}
	adopted.atMost(5)
	released.atMost(5)
}

// TestU11AddressOfTheController adopts a bridge, gives it a second controller, takes the
// first away, and moves it back: nothing is flushed after the first time.
func TestU11AddressOfTheController(t *testing.T) {
	l := bareLab(t, 3)
	l.sweep()
	c := l.serving("observe")
	took, r := l.under(func() { c.succeeds("ovs", "adopt", l.db(), "s1", "--controller", "tcp:"+controllerAddress) })
	t.Logf("adopted in %v: %v", took.Round(time.Millisecond), r)
	l.ovs.AddFlow("s1", "table=99,priority=7,actions=drop") // goes when the bridge is flushed
	for _, step := range [][]string{{controllerAddress, "127.0.0.1:6699"}, {controllerAddress}, {tapAddress}, {controllerAddress}} {
		args := []string{"ovs", "adopt", l.db(), "s1"}
		for _, a := range step {
			args = append(args, "--controller", "tcp:"+a)
		}
		took, r := l.under(func() { c.succeeds(args...) })
		t.Logf("controllers %v in %v: %v", step, took.Round(time.Millisecond), r)
		require.Zero(t, r.lost())
		require.Len(t, l.ovs.DumpFlows("s1", "table=99"), 1, "nothing was flushed")
		require.Len(t, strings.Fields(l.ovs.Vsctl("get-controller", "s1")), len(step))
	}
	_, r = l.under(func() { c.succeeds("ovs", "release", l.db(), "s1") })
	t.Logf("released: %v", r)
}

// TestC18DatapathIDStays adds and removes ports whose addresses would make another
// datapath id of a bridge that has none of its own, in-band control on.
func TestC18DatapathIDStays(t *testing.T) {
	t.Parallel()
	l := bareLab(t, 3)
	l.sweep()
	add := func(i int) {
		dev := fmt.Sprintf("x%d", i)
		run(t, "ip", "-n", l.ns.name, "link", "add", dev, "address", fmt.Sprintf("00:00:00:00:%02x:01", 199-i), "type", "veth", "peer", "name", fmt.Sprintf("y%d", i))
		l.ovs.Vsctl("add-port", "s1", dev)
	}
	was := l.dpid()
	add(0)
	l.ovs.Eventually("the datapath id is made of the lowest address", func() bool { return l.dpid() != was })
	dpid := l.dpid()
	c := l.serving("observe")
	_, r := l.under(func() { c.succeeds("ovs", "adopt", l.db(), "s1") })
	t.Logf("adopted: %v", r)
	require.Equal(t, "true", strings.Trim(l.ovs.Vsctl("get", "bridge", "s1", "other_config:disable-in-band"), `"`))
	rounds := scale(10, 100)
	_, r = l.under(func() {
		for i := 1; i <= rounds; i++ {
			add(i)
			if i%2 == 0 {
				l.ovs.DelPort("s1", fmt.Sprintf("x%d", i-1))
			}
			require.Equal(t, dpid, l.dpid())
		}
	})
	t.Logf("%d ports added, %d removed: %v", rounds, rounds/2, r)
	require.Zero(t, r.lost())
	var list struct {
		Items []struct {
			DPID string `json:"dpid"`
		} `json:"items"`
	}
	require.Equal(t, http.StatusOK, c.rest("GET", "/v1/switches", nil, &list))
	require.Len(t, list.Items, 1, "one switch, all the time")
	require.Equal(t, dpid, list.Items[0].DPID)
}

// TestOVSPortsByName finds ports by what an orchestrator calls them, and follows them to
// other numbers.
func TestOVSPortsByName(t *testing.T) {
	t.Parallel()
	l := bareLab(t, 2)
	l.sweep()
	h, dpid := l.host("h1"), l.dpid()
	l.ovs.Vsctl("set", "interface", h.name, "external_ids:iface-id=vm-1", "external_ids:attached-mac="+h.mac)
	c := l.serving("observe")
	c.succeeds("ovs", "adopt", l.db(), "s1")
	eventually(t, 5*time.Second, "the port has its interface id", func() bool {
		port, id := c.ofThePort(dpid, h)
		return port == 1 && id == "vm-1"
	})
	require.Contains(t, c.succeeds("switch", "get", dpid), "vm-1")
	l.ovs.Vsctl("set", "interface", h.name, "ofport_request=77")
	eventually(t, 5*time.Second, "the interface id is at the new number", func() bool {
		var found struct {
			Items []struct {
				OFPort int    `json:"ofport"`
				DPID   string `json:"dpid"`
			} `json:"items"`
		}
		require.Equal(t, http.StatusOK, c.rest("GET", "/v1/ovs/interfaces?iface_id=vm-1", nil, &found))
		port, id := c.ofThePort(dpid, h)
		return len(found.Items) == 1 && found.Items[0].OFPort == 77 && found.Items[0].DPID == dpid && port == 77 && id == "vm-1"
	})
}

// TestOVSFiftyBridges adopts fifty bridges in one command, one of them under traffic,
// and releases them.
func TestOVSFiftyBridges(t *testing.T) {
	t.Parallel()
	const n = 50
	l := bareLab(t, 2)
	l.sweep()
	args := []string{}
	for i := 1; i < n; i++ {
		name := fmt.Sprintf("b%d", i)
		args = append(args, "--", "add-br", name, "--", "set", "bridge", name, "datapath_type=netdev")
	}
	l.ovs.Vsctl(args...)
	before := l.written()
	require.Len(t, before, n)
	c := l.serving("observe")
	took, r := l.under(func() { c.succeeds("ovs", "adopt", l.db(), "--all", "--stage", "steer") })
	t.Logf("%d bridges adopted in %v; traffic of one: %v", n, took.Round(time.Millisecond), r)
	for _, b := range slices.Sorted(maps.Keys(before)) {
		require.Equal(t, "tcp:"+controllerAddress, l.ovs.Vsctl("get-controller", b))
	}
	took, r = l.under(func() { c.succeeds("ovs", "release", l.db(), "--all") })
	t.Logf("released in %v; traffic of one: %v", took.Round(time.Millisecond), r)
	require.Equal(t, before, l.written(), "every column of every bridge")
}

// TestOVSControllerKilledMidAdoption kills fairlead while it adopts: the next one
// finishes, or nothing has happened. Killed in the moment in which Open vSwitch has
// forgotten its flows, the bridge waits for the next one.
func TestOVSControllerKilledMidAdoption(t *testing.T) {
	t.Parallel()
	l := bareLab(t, 2)
	l.sweep()
	before := l.written()
	c := l.serving("observe")
	for i := range scale(6, 50) {
		began, ended := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(ended)
			close(began)
			_, _, _ = c.cli("ovs", "adopt", l.db(), "s1", "--stage", "steer")
		}()
		<-began
		time.Sleep(time.Duration(5+10*i) * time.Millisecond) // at another point each time
		c.kill()
		<-ended // it is not to ask the next one
		c.launch()
		var list struct {
			Items []struct {
				Name, State string
				Drift       []string
			} `json:"items"`
		}
		c.wait("it is adopted, or as it was", func() bool {
			if c.rest("GET", "/v1/ovs?endpoint="+url.QueryEscape(l.db()), nil, &list) != http.StatusOK || len(list.Items) != 1 {
				return false
			}
			s := list.Items[0].State
			return s == "available" || s == "adopted" && len(list.Items[0].Drift) == 0
		})
		t.Logf("killed %d ms after the command: %s", 5+10*i, list.Items[0].State)
		require.True(t, l.host("h1").reaches(l.host("h2").addr))
		if list.Items[0].State == "adopted" {
			c.succeeds("ovs", "release", l.db(), "s1")
		}
		require.Equal(t, before, l.written(), "every column")
		require.True(t, l.host("h1").reaches(l.host("h2").addr))
	}
}

// entries are flows without the columns that ovs-ofctl puts before them.
func entries(flows []string) (list []string) {
	for _, f := range flows {
		list = append(list, strings.TrimSpace(f[strings.Index(f, "priority="):]))
	}
	return list
}

// TestP14OpenFlowUnaffected has the controller look at a hostile OVSDB server while it
// has a switch: the switch notices nothing, and the process stays small.
func TestP14OpenFlowUnaffected(t *testing.T) {
	l := bareLab(t, 2)
	l.sweep()
	c := l.serving("observe")
	c.succeeds("ovs", "adopt", l.db(), "s1", "--stage", "steer")
	memory := func() (kib int) {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
		require.NoError(t, err)
		for line := range strings.Lines(string(status)) {
			if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
				return kib
			}
		}
		t.Fatal("no VmHWM")
		return 0
	}
	base := memory()
	hostile, err := net.Listen("unix", l.ovs.Dir+"/hostile")
	require.NoError(t, err)
	t.Cleanup(func() { _ = hostile.Close() })
	attacks := atomic.Int32{}
	go func() {
		for {
			conn, err := hostile.Accept()
			if err != nil {
				return
			}
			attacks.Add(1)
			go func() {
				defer conn.Close()
				_, _ = io.WriteString(conn, `{"id":0,"error":null,"result":{"name":"`)
				chunk := []byte(strings.Repeat("a", 1<<20))
				for range 500 {
					if _, err := conn.Write(chunk); err != nil {
						return
					}
				}
			}()
		}
	}()
	_, r := l.under(func() {
		_, errs, code := c.cli("ovs", "list", "unix:"+l.ovs.Dir+"/hostile")
		require.Equal(t, 1, code)
		require.Contains(t, errs, "more than")
	})
	t.Logf("%d attacks; at most %d MiB, %d MiB before; %v", attacks.Load(), memory()>>10, base>>10, r)
	require.Greater(t, attacks.Load(), int32(3))
	require.Zero(t, r.lost())
	require.LessOrEqual(t, memory(), 128<<10)
}
