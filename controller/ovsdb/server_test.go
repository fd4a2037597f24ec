package ovsdb

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// server is an ovsdb-server without ovs-vswitchd, which can be restarted.
type server struct {
	t   *testing.T
	dir string
	cmd *exec.Cmd
}

func newServer(t *testing.T) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "ovsdb")
	require.NoError(t, err)
	s := &server{t: t, dir: dir}
	t.Cleanup(func() {
		s.kill()
		os.RemoveAll(dir)
	})
	s.tool("ovsdb-tool", "create", s.path("db"), "/usr/share/openvswitch/vswitch.ovsschema")
	s.start()
	s.vsctl("init")
	return s
}

func (s *server) path(name string) string { return filepath.Join(s.dir, name) }

func (s *server) command(name string, args ...string) *exec.Cmd {
	path, err := exec.LookPath(name)
	if err != nil {
		path = "/usr/sbin/" + name // not in an ordinary user's PATH
	}
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+s.dir, "OVS_LOGDIR="+s.dir)
	return cmd
}

func (s *server) tool(name string, args ...string) string {
	s.t.Helper()
	out, err := s.command(name, args...).CombinedOutput()
	require.NoError(s.t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

func (s *server) vsctl(args ...string) {
	s.t.Helper()
	s.tool("ovs-vsctl", append([]string{"--db=unix:" + s.path("s"), "--no-wait", "--timeout=10"}, args...)...)
}

func (s *server) start() {
	s.t.Helper()
	s.cmd = s.command("ovsdb-server", "--remote=punix:"+s.path("s"), "--unixctl="+s.path("ctl"), "--no-chdir", "--verbose=off", s.path("db"))
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(s.t, s.cmd.Start())
	eventually(s.t, 10*time.Second, "the server answers", func() bool {
		c, err := net.Dial("unix", s.path("s"))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

func bridges(c *Client) int {
	inv, err := c.Inventory()
	if err != nil {
		return -1
	}
	return len(inv.Bridges)
}

// TestR14Restarts kills the server again and again, and changes the database while
// nobody looks.
func TestR14Restarts(t *testing.T) {
	const rounds = 3 // a hundred were tried: docs/reliability.md
	s := newServer(t)
	c := client(t, Endpoint("unix:"+s.path("s")), ClientOptions{})
	eventually(t, 5*time.Second, "it is connected", func() bool { return bridges(c) == 0 })
	before := runtime.NumGoroutine()
	var worst time.Duration
	for i := range rounds {
		s.kill()
		eventually(t, 5*time.Second, "the session has ended", func() bool { return bridges(c) < 0 })
		s.start()
		up := time.Now()
		s.vsctl("--may-exist", "add-br", fmt.Sprintf("br%d", i))
		eventually(t, 10*time.Second, "the new bridge is there", func() bool { return bridges(c) == i+1 })
		worst = max(worst, time.Since(up))
	}
	t.Logf("%d restarts; the replica was there at most %v after the server", rounds, worst.Round(time.Millisecond))
	require.LessOrEqual(t, worst, 5*time.Second)
	eventually(t, 5*time.Second, "goroutines are back to where they were", func() bool { return runtime.NumGoroutine() <= before })
}

// TestR14SchemaConverted converts the database to another schema while it is followed:
// first to one with one column more, then to one that lacks what is needed, and back.
func TestR14SchemaConverted(t *testing.T) {
	s := newServer(t)
	s.vsctl("add-br", "br0")
	c := client(t, Endpoint("unix:"+s.path("s")), ClientOptions{})
	eventually(t, 5*time.Second, "it is connected", func() bool { return bridges(c) == 1 })
	schema, err := os.ReadFile("/usr/share/openvswitch/vswitch.ovsschema")
	require.NoError(t, err)
	convert := func(old, new string) {
		text := strings.Replace(string(schema), old, new, 1)
		require.NotEqual(t, string(schema), text)
		require.NoError(t, os.WriteFile(s.path("schema"), []byte(text), 0o600))
		s.tool("ovsdb-client", "convert", "unix:"+s.path("s"), s.path("schema"))
	}
	connected := func(n int) time.Duration {
		begin := time.Now()
		eventually(t, 10*time.Second, "the replica is there", func() bool { return bridges(c) == n })
		return time.Since(begin)
	}
	convert(`"Bridge": {
     "columns": {`, `"Bridge": {
     "columns": { "colour": {"type": "string"},`)
	s.vsctl("add-br", "br1")
	require.LessOrEqual(t, connected(2), 5*time.Second)
	convert(`"mac_in_use"`, `"mac_in_disuse"`)
	eventually(t, 5*time.Second, "what is missing is told", func() bool {
		connected, _, why := c.Status()
		return !connected && strings.Contains(why.Error(), "mac_in_use")
	})
	require.NoError(t, os.WriteFile(s.path("schema"), schema, 0o600))
	s.tool("ovsdb-client", "convert", "unix:"+s.path("s"), s.path("schema"))
	took := connected(2)
	t.Logf("back %v after the last conversion", took.Round(time.Millisecond))
	require.LessOrEqual(t, took, 5*time.Second)
}

// TestR14Frozen stops the server without ending it.
func TestR14Frozen(t *testing.T) {
	s := newServer(t)
	c := client(t, Endpoint("unix:"+s.path("s")), ClientOptions{})
	eventually(t, 5*time.Second, "it is connected", func() bool { return bridges(c) == 0 })
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGSTOP))
	begin := time.Now()
	eventually(t, 10*time.Second, "it is noticed", func() bool { return bridges(c) < 0 })
	t.Logf("noticed after %v", time.Since(begin).Round(time.Millisecond))
	require.NoError(t, s.cmd.Process.Signal(syscall.SIGCONT))
	begin = time.Now()
	eventually(t, 10*time.Second, "the replica is there again", func() bool { return bridges(c) == 0 })
	took := time.Since(begin)
	t.Logf("recovered %v after the server", took.Round(time.Millisecond))
	require.LessOrEqual(t, took, 5*time.Second)
}
