//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// migration is what the tests read of GET /v1/migrations/{name}.
type migration struct {
	State, Reason, Next string
	Applied             []string
	Run                 *struct {
		Wave, Phase, Retrying string
	}
	Checkpoints []struct{ N int }
	Plan        struct {
		Failed int
		Waves  []struct {
			Steps []struct {
				From  string
				OVSDB []struct{ Column, Before, After string }
			}
		}
	}
	Audit []struct{ Who, What string }
}

func (c *controller) migration(name string) (m migration) {
	c.t.Helper()
	require.Equal(c.t, http.StatusOK, c.rest("GET", "/v1/migrations/"+name, nil, &m))
	return m
}

// describe writes a description and returns the file's name.
func (l *lab) describe(text string, args ...any) string {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), "migration.yaml")
	require.NoError(l.t, os.WriteFile(file, fmt.Appendf(nil, text, args...), 0o600))
	return file
}

// state waits until a migration is in a state.
func (c *controller) reaches(name, state string, within time.Duration) (m migration) {
	c.t.Helper()
	eventually(c.t, within, "migration "+name+" is "+state, func() bool {
		return c.rest("GET", "/v1/migrations/"+name, nil, &m) == http.StatusOK && m.State == state
	})
	return m
}

// TestMigrateBridge takes a bridge through the stages and back under traffic: every wave
// is confirmed, rolled back, or not confirmed in time.
func TestMigrateBridge(t *testing.T) {
	l := bareLab(t, 3)
	l.sweep()
	before, dpid := l.written(), l.dpid()
	c := l.serving("observe")
	file := l.describe(`
name: campus
confirm_timeout: 5s
waves:
  - name: steer
    steps:
      - {endpoint: "%[1]s", bridge: s1, stage: steer}
  - name: managed
    steps:
      - {dpid: "%[2]s", stage: managed}
  - name: back
    steps:
      - {endpoint: "%[1]s", bridge: s1, stage: released}
`, l.db(), dpid)

	c.succeeds("migrate", "plan", "-f", file, "--dry-run")
	require.Equal(t, http.StatusNotFound, c.rest("GET", "/v1/migrations/campus", nil, nil))
	out := c.succeeds("migrate", "plan", "-f", file, "--verbose")
	t.Log(out)
	require.Equal(t, before, l.written(), "a plan changes nothing")
	require.Equal(t, "planned", c.migration("campus").State)
	require.Zero(t, c.migration("campus").Plan.Failed)
	c.succeeds("migrate", "apply", "campus", "--dry-run")
	require.Equal(t, before, l.written(), "nor does a dry run")

	// Not confirmed in time.
	t.Log(c.succeeds("migrate", "apply", "campus"))
	require.NotEqual(t, before, l.written())
	m := c.reaches("campus", "rolled_back", 30*time.Second)
	require.Contains(t, m.Reason, "not confirmed")
	require.Equal(t, before, l.written(), "every column")
	require.Equal(t, []string{"priority=0 actions=NORMAL"}, entries(l.ovs.DumpFlows("s1")))

	// Through all stages.
	_, r := l.under(func() {
		c.succeeds("migrate", "apply", "campus")
		c.succeeds("migrate", "confirm", "campus")
	})
	t.Logf("adopted: %v", r)
	_, r = l.under(func() {
		t.Log(c.succeeds("migrate", "apply", "campus"))
		c.succeeds("migrate", "confirm", "campus")
	})
	t.Logf("managed: %v", r)
	require.Equal(t, "back", c.migration("campus").Next)
	_, r = l.under(func() { t.Log(c.succeeds("migrate", "rollback", "campus")) })
	t.Logf("rolled back to steer: %v", r)
	require.Equal(t, []string{"steer"}, c.migration("campus").Applied)
	c.succeeds("migrate", "apply", "campus")
	c.succeeds("migrate", "confirm", "campus")
	c.succeeds("migrate", "apply", "campus")
	require.Equal(t, before, l.written(), "released")
	c.succeeds("migrate", "confirm", "campus")
	require.Equal(t, "completed", c.migration("campus").State)
	c.succeeds("migrate", "rollback", "campus", "--to", "1")
	require.Equal(t, before, l.written())
	t.Log(c.succeeds("migrate", "status", "campus"))
	c.succeeds("migrate", "delete", "campus")
}

// TestMigrateControllerKilled kills the controller at another point of a wave each time:
// the next one takes the wave back, or waits for the confirmation that is due.
func TestMigrateControllerKilled(t *testing.T) {
	l := bareLab(t, 2)
	l.sweep()
	before, dpid := l.written(), l.dpid()
	c := l.serving("observe")
	file := l.describe(`
name: campus
confirm_timeout: 5s
waves:
  - steps: [{endpoint: "%s", bridge: s1, stage: steer}]
  - steps: [{dpid: "%s", stage: managed}]
`, l.db(), dpid)
	c.succeeds("migrate", "plan", "-f", file)
	for i := range scale(3, 50) {
		_, errs, code := c.cli("migrate", "apply", "campus", "--no-wait")
		require.Zero(t, code, errs)
		time.Sleep(time.Duration(400*i) * time.Millisecond)
		c.kill()
		c.launch()
		m := c.reaches("campus", "rolled_back", 40*time.Second)
		t.Logf("killed %d ms after the command: %s", 400*i, m.Reason)
		require.Equal(t, before, l.written(), "every column")
		require.Equal(t, []string{"priority=0 actions=NORMAL"}, entries(l.ovs.DumpFlows("s1")))
		require.True(t, l.host("h1").reaches(l.host("h2").addr))
	}
}

// TestMigrateEndpointGone has the database away when a wave has to be taken back: it is
// when the database is back.
func TestMigrateEndpointGone(t *testing.T) {
	l := bareLab(t, 2)
	l.sweep()
	before := l.written()
	c := l.serving("observe")
	p := l.forward(l.ovs.Dir + "/db.sock")
	file := l.describe(`
name: campus
confirm_timeout: 60s
waves:
  - steps: [{endpoint: "unix:%s", bridge: s1, stage: steer}]
`, p.path)
	c.succeeds("migrate", "plan", "-f", file)
	c.succeeds("migrate", "apply", "campus")
	p.close()
	c.succeeds("migrate", "rollback", "campus", "--no-wait")
	eventually(t, 40*time.Second, "it is tried", func() bool {
		m := c.migration("campus")
		return m.Run != nil && m.Run.Retrying != ""
	})
	require.NotEqual(t, before, l.written())
	_, errs, code := c.cli("migrate", "apply", "campus")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "under way")
	p.open()
	m := c.reaches("campus", "rolled_back", 40*time.Second)
	require.Contains(t, m.Reason, "asked for by")
	require.Equal(t, before, l.written(), "every column")
	require.True(t, l.host("h1").reaches(l.host("h2").addr))
}

// forwarder is a socket that leads to another, until it is closed.
type forwarder struct {
	t        testing.TB
	path, to string
	ln       net.Listener
	mu       sync.Mutex
	conns    []net.Conn
}

func (l *lab) forward(to string) *forwarder {
	l.t.Helper()
	f := &forwarder{t: l.t, path: l.ovs.Dir + "/forward", to: to}
	f.open()
	l.t.Cleanup(f.close)
	return f
}

func (f *forwarder) open() {
	f.t.Helper()
	ln, err := net.Listen("unix", f.path)
	require.NoError(f.t, err)
	f.ln = ln
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", f.to)
			if err != nil {
				in.Close()
				continue
			}
			f.mu.Lock()
			f.conns = append(f.conns, in, out)
			f.mu.Unlock()
			go func() { _, _ = io.Copy(in, out); in.Close() }()
			go func() { _, _ = io.Copy(out, in); out.Close() }()
		}
	}()
}

func (f *forwarder) close() {
	f.ln.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		c.Close()
	}
}

// TestMigrateNoRoom has a switch whose tables are too small for the stage. One that is
// connected is found out by the checks; one that is not when it refuses what it gets: the
// wave is taken back.
func TestMigrateNoRoom(t *testing.T) {
	l := bareLab(t, 2)
	l.sweep()
	c := l.serving("observe")
	l.ovs.Vsctl("--", "--id=@t", "create", "Flow_Table", "flow_limit=2", "overflow_policy=refuse", "--", "set", "bridge", "s1", "flow_tables:0=@t")
	before := l.written()
	file := l.describe(`
name: campus
confirm_timeout: 60s
waves:
  - steps: [{endpoint: "%s", bridge: s1, stage: steer}]
`, l.db())
	c.succeeds("migrate", "plan", "-f", file)
	began := time.Now()
	out, errs, code := c.cli("migrate", "apply", "campus")
	t.Log(out, errs)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "rolled back")
	require.Contains(t, errs, "TABLE_FULL")
	require.Less(t, time.Since(began), time.Minute, "within the confirm timeout")
	require.Equal(t, before, l.written())
	require.Equal(t, []string{"priority=0 actions=NORMAL"}, entries(l.ovs.DumpFlows("s1")))
	require.True(t, l.host("h1").reaches(l.host("h2").addr))

	l.ovs.Vsctl("clear", "bridge", "s1", "flow_tables")
	c.succeeds("ovs", "adopt", l.db(), "s1", "--stage", "observe")
	l.ovs.Vsctl("--", "--id=@t", "create", "Flow_Table", "flow_limit=2", "overflow_policy=refuse", "--", "set", "bridge", "s1", "flow_tables:2=@t", "flow_tables:0=@t")
	_, errs, code = c.cli("migrate", "apply", "campus")
	t.Log(errs)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "room: table 0")
}

// TestMigrateProbeBlocked has a flow of somebody else's in the way of a host, which takes
// effect with the stage: the host does not answer, and the wave is taken back.
func TestMigrateProbeBlocked(t *testing.T) {
	l := bareLab(t, 3)
	l.sweep()
	c := l.serving("observe")
	c.succeeds("ovs", "adopt", l.db(), "s1", "--stage", "observe")
	eventually(t, 10*time.Second, "the hosts are known, which they are when they ask", func() bool {
		for _, h := range l.hosts {
			h.run(t, "ip", "neigh", "flush", "all")
		}
		l.sweep()
		var hosts struct{ Items []struct{ MAC string } }
		return c.rest("GET", "/v1/hosts", nil, &hosts) == http.StatusOK && len(hosts.Items) == len(l.hosts)
	})
	h3 := l.host("h3")
	l.ovs.AddFlow("s1", fmt.Sprintf("table=2,priority=65000,arp,arp_tpa=%s,actions=drop", h3.addr))
	file := l.describe(`
name: campus
confirm_timeout: 60s
source_address: 10.0.0.250
probes: [{type: ping, address: %[2]s}]
waves:
  - steps: [{dpid: "%[1]s", stage: steer}]
`, l.dpid(), l.host("h2").addr)
	c.succeeds("migrate", "plan", "-f", file)
	began := time.Now()
	out, errs, code := c.cli("migrate", "apply", "campus")
	t.Log(out, errs)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "rolled back")
	require.Contains(t, errs, h3.addr.String())
	require.Less(t, time.Since(began), time.Minute, "within the confirm timeout")
	var s struct{ Stage string }
	require.Equal(t, http.StatusOK, c.rest("GET", "/v1/switches/"+l.dpid(), nil, &s))
	require.Equal(t, "observe", s.Stage)
	require.True(t, l.host("h1").reaches(h3.addr))
	l.ovs.Ofctl("del-flows", l.ovs.Target("s1"), "table=2,arp")

	// And once it is applied, while it waits for its confirmation.
	c.succeeds("migrate", "apply", "campus")
	l.ovs.AddFlow("s1", fmt.Sprintf("table=2,priority=65000,icmp,nw_dst=%s,actions=drop", l.host("h2").addr))
	m := c.reaches("campus", "rolled_back", 50*time.Second)
	require.Contains(t, m.Reason, "while it waited for its confirmation: not verified: ping "+l.host("h2").addr.String())
	l.ovs.Ofctl("del-flows", l.ovs.Target("s1"), "table=2,icmp")
	c.succeeds("migrate", "apply", "campus")
	c.succeeds("migrate", "confirm", "campus")
}

// TestMigrateRollbackCircle has a ring closed while its switches are managed. Going back, the
// last of them would close it with switches that forward on their own: it waits until a
// cable is pulled.
func TestMigrateRollbackCircle(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitches(standalone, 3, 1)
	l.addLink("s1", "s2")
	l.addLink("s2", "s3")
	l.sweep()
	before := l.written()
	c := l.serving("observe")
	file := l.describe(`
name: campus
confirm_timeout: 120s
waves:
  - steps:
      - {endpoint: "%[1]s", bridge: s1, stage: managed, canary: true}
      - {endpoint: "%[1]s", bridge: s2, stage: managed}
      - {endpoint: "%[1]s", bridge: s3, stage: managed}
`, l.db())
	c.succeeds("migrate", "plan", "-f", file)
	c.succeeds("migrate", "apply", "campus")
	l.addLink("s1", "s3")
	c.wait("the third cable is found", func() bool {
		var list struct{ Items []struct{ State string } }
		return c.rest("GET", "/v1/links", nil, &list) == http.StatusOK && len(list.Items) == 3 && list.Items[0].State == "up" && list.Items[1].State == "up" && list.Items[2].State == "up"
	})
	c.succeeds("migrate", "rollback", "campus", "--no-wait")
	var m migration
	eventually(t, 30*time.Second, "the last one waits", func() bool {
		m = c.migration("campus")
		return m.Run != nil && m.Run.Retrying != ""
	})
	require.Contains(t, m.Run.Retrying, " s1: with ")
	require.Contains(t, m.Run.Retrying, "pull a cable of the circle")
	l.cut(l.links[2])
	m = c.reaches("campus", "rolled_back", 40*time.Second)
	require.Contains(t, m.Reason, "asked for by")
	after := l.written()
	for name := range before { // but for the third cable
		delete(before[name], "ports")
		delete(after[name], "ports")
	}
	require.Equal(t, before, after, "every column")
	require.True(t, l.host("h1").reaches(l.host("h3").addr))
}
