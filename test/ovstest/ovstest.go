// Package ovstest runs a private Open vSwitch for one test.
//
// Start gives an ovsdb-server and an ovs-vswitchd of the test's own, in a
// temporary directory, with the dummy datapath: the real OpenFlow
// implementation, no kernel, no root, started in some 40 ms. Frames are injected into a
// port with Inject and what a port sent is read back with Sent. StartIn runs
// the same with the userspace datapath inside a network namespace, for tests
// whose hosts are real (it needs root).
//
// Nothing of the machine's own Open vSwitch is read or changed, so tests run in
// parallel with each other and beside a system service. Every process is ended,
// by its pid, when the test ends.
//
// All methods that can fail end the test with t.Fatal; they must be called from
// the test's goroutine, except where a method says otherwise.
package ovstest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// deadline bounds every wait of this package. It is generous, because tests
// share their machine; a condition that holds is noticed within milliseconds.
const deadline = 20 * time.Second

// schema is where Debian's package installs the description of the database.
const schema = "/usr/share/openvswitch/vswitch.ovsschema"

// installHint is what a machine without Open vSwitch needs.
const installHint = "Open vSwitch is missing: apt-get install -y openvswitch-switch"

// OVS is one running Open vSwitch: a database server and a switch daemon.
type OVS struct {
	// Dir is the directory of its sockets, logs, database and captures. It is
	// removed when the test ends.
	Dir string

	t        testing.TB
	netns    string
	dpType   string
	seen     map[string]int // frames of each port that Forget has put behind
	ovsdb    *process
	vswitchd *process
}

// Bridge is a switch to create with AddBridge.
type Bridge struct {
	// Name of the bridge, at most 15 characters.
	Name string
	// DPID is the datapath id. It must not be zero: a random one would make the test another one each time.
	DPID uint64
	// FailMode is secure (the default) or standalone.
	FailMode string
	// Protocols is the list of OpenFlow versions, OpenFlow13 when empty.
	Protocols string
	// Controllers are targets such as tcp:127.0.0.1:6653; none when empty.
	Controllers []string
	// Ports are the ports to add, numbered 1, 2, … in this order.
	Ports []string
}

// Start runs a private Open vSwitch with the dummy datapath until the test ends.
// A machine without Open vSwitch fails the test.
func Start(t testing.TB) *OVS {
	t.Helper()
	return start(t, "", "dummy")
}

// StartIn runs a private Open vSwitch with the userspace datapath inside the
// named network namespace (see ip-netns(8)) until the test ends. The namespace
// must hold no other ovs-vswitchd. It needs root.
func StartIn(t testing.TB, netns string) *OVS {
	t.Helper()
	return start(t, netns, "netdev")
}

func start(t testing.TB, netns, dpType string) *OVS {
	t.Helper()
	for _, tool := range []string{"ovsdb-tool", "ovsdb-server", "ovs-vswitchd", "ovs-vsctl", "ovs-ofctl"} {
		if _, err := lookPath(tool); err != nil {
			t.Fatal(installHint)
		}
	}
	// Not t.TempDir: it holds the test's name, and a socket's path has 107 characters at most.
	dir, err := os.MkdirTemp("", "ovs")
	if err != nil {
		t.Fatalf("ovstest: make directory: %v", err)
	}
	o := &OVS{Dir: dir, t: t, netns: netns, dpType: dpType, seen: map[string]int{}}
	t.Cleanup(func() {
		o.stop()
		if t.Failed() {
			o.logTail()
		}
		_ = os.RemoveAll(dir)
	})

	o.run("ovsdb-tool", "create", o.path("conf.db"), schema)
	o.StartDB()
	o.run("ovs-vsctl", "--db=unix:"+o.path("db.sock"), "--no-wait", "init")
	o.StartVswitchd()
	return o
}

// StartDB starts the database server again after StopDB.
func (o *OVS) StartDB() {
	o.t.Helper()
	o.ovsdb = o.spawn("ovsdb-server",
		"--remote=punix:"+o.path("db.sock"), "--unixctl="+o.path("ovsdb-server.ctl"),
		"--log-file="+o.path("ovsdb-server.log"), "--verbose=console:off", "--no-chdir", o.path("conf.db"))
	o.waitFor(o.ovsdb, o.path("db.sock"))
}

// StopDB ends the database server with SIGTERM. The switch daemon goes on without it.
func (o *OVS) StopDB() {
	o.t.Helper()
	o.ovsdb.terminate()
	_ = os.Remove(o.path("db.sock"))
}

// StartVswitchd starts the switch daemon again after KillVswitchd or
// StopVswitchd. Bridges and ports come back from the database; flows and groups
// do not.
func (o *OVS) StartVswitchd() {
	o.t.Helper()
	args := []string{"unix:" + o.path("db.sock"), "--unixctl=" + o.ctl(),
		"--log-file=" + o.path("ovs-vswitchd.log"), "--verbose=console:off", "--no-chdir", "--disable-system"}
	if o.dpType == "dummy" {
		args = append(args, "--enable-dummy=override")
	}
	o.vswitchd = o.spawn("ovs-vswitchd", args...)
	o.waitFor(o.vswitchd, o.ctl())
}

// KillVswitchd ends the switch daemon with SIGKILL: what a crash looks like.
func (o *OVS) KillVswitchd() {
	o.t.Helper()
	o.vswitchd.kill()
	_ = os.Remove(o.ctl())
}

// StopVswitchd ends the switch daemon with SIGTERM.
func (o *OVS) StopVswitchd() {
	o.t.Helper()
	o.vswitchd.terminate()
	_ = os.Remove(o.ctl())
}

// RestartVswitchd stops the switch daemon and starts it again; its flows and
// groups are lost.
func (o *OVS) RestartVswitchd() {
	o.t.Helper()
	o.StopVswitchd()
	o.StartVswitchd()
}

// PID returns the process id of the switch daemon.
func (o *OVS) PID() int { return o.vswitchd.cmd.Process.Pid }

// AddBridge creates a bridge and waits until the switch daemon has it.
func (o *OVS) AddBridge(b Bridge) {
	o.t.Helper()
	if b.DPID == 0 {
		o.t.Fatal("ovstest: add bridge: no datapath id")
	}
	failMode, protocols := b.FailMode, b.Protocols
	if failMode == "" {
		failMode = "secure"
	}
	if protocols == "" {
		protocols = "OpenFlow13"
	}
	args := []string{"--", "add-br", b.Name, "--", "set", "bridge", b.Name,
		"datapath_type=" + o.dpType, "fail_mode=" + failMode, "protocols=" + protocols,
		fmt.Sprintf("other_config:datapath-id=%016x", b.DPID), "other_config:disable-in-band=true"}
	for i, port := range b.Ports {
		args = append(args, o.addPort(b.Name, port, i+1)...)
	}
	if len(b.Controllers) > 0 {
		args = append(args, "--", "set-controller", b.Name)
		args = append(args, b.Controllers...)
	}
	o.Vsctl(args...)
}

// AddPort adds a port with the given OpenFlow number to a bridge. On the dummy
// datapath the port is a dummy one; otherwise the network device of that name.
func (o *OVS) AddPort(bridge, port string, number int) {
	o.t.Helper()
	o.Vsctl(o.addPort(bridge, port, number)...)
}

func (o *OVS) addPort(bridge, port string, number int) []string {
	args := []string{"--", "add-port", bridge, port, "--", "set", "interface", port, fmt.Sprintf("ofport_request=%d", number)}
	if o.dpType == "dummy" {
		args = append(args, "type=dummy", "options:tx_pcap="+o.pcap(port))
	}
	return args
}

// DelPort removes a port from a bridge.
func (o *OVS) DelPort(bridge, port string) {
	o.t.Helper()
	o.Vsctl("del-port", bridge, port)
}

// Join connects two bridges with a pair of patch ports of the given names and
// OpenFlow numbers.
func (o *OVS) Join(bridgeA, portA string, numberA int, bridgeB, portB string, numberB int) {
	o.t.Helper()
	patch := func(bridge, port string, number int, peer string) []string {
		return []string{"--", "add-port", bridge, port, "--", "set", "interface", port,
			fmt.Sprintf("ofport_request=%d", number), "type=patch", "options:peer=" + peer}
	}
	o.Vsctl(append(patch(bridgeA, portA, numberA, portB), patch(bridgeB, portB, numberB, portA)...)...)
}

// SetController replaces the controllers of a bridge; with no target it removes them all, at which OVS flushes the
// bridge.
func (o *OVS) SetController(bridge string, targets ...string) {
	o.t.Helper()
	if len(targets) == 0 {
		o.Vsctl("del-controller", bridge)
		return
	}
	o.Vsctl(append([]string{"set-controller", bridge}, targets...)...)
}

// PortDown takes a dummy port's carrier away; PortUp gives it back.
func (o *OVS) PortDown(port string) {
	o.t.Helper()
	o.Appctl("netdev-dummy/set-admin-state", port, "down")
}

// PortUp undoes PortDown.
func (o *OVS) PortUp(port string) {
	o.t.Helper()
	o.Appctl("netdev-dummy/set-admin-state", port, "up")
}

// Vsctl runs ovs-vsctl, waits until the switch daemon has done what it asks,
// and returns its output without the last line end.
func (o *OVS) Vsctl(args ...string) string {
	o.t.Helper()
	return o.run("ovs-vsctl", append([]string{"--db=unix:" + o.path("db.sock"), "--timeout=20"}, args...)...)
}

// Ofctl runs ovs-ofctl with OpenFlow 1.3 and returns its output. The bridge in
// args is named by Target.
//
//	o.Ofctl("add-flow", o.Target("s1"), "priority=0,actions=NORMAL")
func (o *OVS) Ofctl(args ...string) string {
	o.t.Helper()
	return o.run("ovs-ofctl", append([]string{"-O", "OpenFlow13", "--timeout=20"}, args...)...)
}

// Target is how ovs-ofctl reaches a bridge of this Open vSwitch.
func (o *OVS) Target(bridge string) string { return "unix:" + o.path(bridge+".mgmt") }

// AddFlow adds flows, each in the syntax of ovs-ofctl(8).
func (o *OVS) AddFlow(bridge string, flows ...string) {
	o.t.Helper()
	o.Ofctl("add-flows", o.Target(bridge), o.file(strings.Join(flows, "\n")+"\n"))
}

// AddGroup adds groups, each in the syntax of ovs-ofctl(8).
func (o *OVS) AddGroup(bridge string, groups ...string) {
	o.t.Helper()
	o.Ofctl("add-groups", o.Target(bridge), o.file(strings.Join(groups, "\n")+"\n"))
}

// DumpFlows returns the flows of a bridge, one a string, without counters and
// ages, in the order of ovs-ofctl. More arguments restrict them, as in
// "table=2" or "cookie=0x1/-1".
func (o *OVS) DumpFlows(bridge string, match ...string) []string {
	o.t.Helper()
	return records(o.Ofctl(append([]string{"--no-stats", "--no-names", "dump-flows", o.Target(bridge)}, match...)...), "actions=")
}

// DumpGroups returns the groups of a bridge, one a string.
func (o *OVS) DumpGroups(bridge string) []string {
	o.t.Helper()
	return records(o.Ofctl("--no-names", "dump-groups", o.Target(bridge)), "group_id=")
}

// Connected reports whether the bridge is connected to at least one of its controllers.
func (o *OVS) Connected(bridge string) bool {
	o.t.Helper()
	ids := strings.Trim(o.Vsctl("get", "bridge", bridge, "controller"), "[]")
	for id := range strings.SplitSeq(ids, ",") {
		if id = strings.TrimSpace(id); id != "" && o.Vsctl("get", "controller", id, "is_connected") == "true" {
			return true
		}
	}
	return false
}

// Log returns the log of the switch daemon so far.
func (o *OVS) Log() string {
	b, err := os.ReadFile(o.path("ovs-vswitchd.log"))
	if err != nil {
		o.t.Fatalf("ovstest: read log: %v", err)
	}
	return string(b)
}

// Eventually polls a condition until it holds, and fails the test when it does
// not within 20 s.
func (o *OVS) Eventually(what string, condition func() bool) {
	o.t.Helper()
	for end := time.Now().Add(deadline); !condition(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			o.t.Fatalf("ovstest: not within %s: %s", deadline, what)
		}
	}
}

// records returns the trimmed lines of a reply that are records: those that
// hold the given mark, not the header.
func records(out, mark string) []string {
	lines := []string{}
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); strings.Contains(line, mark) {
			lines = append(lines, line)
		}
	}
	return lines
}

func (o *OVS) path(name string) string { return filepath.Join(o.Dir, name) }
func (o *OVS) ctl() string             { return o.path("ovs-vswitchd.ctl") }
func (o *OVS) pcap(port string) string { return o.path(port + ".pcap") }

func (o *OVS) file(content string) string {
	o.t.Helper()
	f, err := os.CreateTemp(o.Dir, "in")
	if err == nil {
		_, err = f.WriteString(content)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		o.t.Fatalf("ovstest: write input: %v", err)
	}
	return f.Name()
}

// command prepares a tool of Open vSwitch, inside the namespace when there is one.
func (o *OVS) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	path, err := lookPath(name)
	if err != nil {
		o.t.Fatal(installHint)
	}
	if o.netns != "" {
		path, args = "ip", append([]string{"netns", "exec", o.netns, path}, args...)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "OVS_RUNDIR="+o.Dir, "OVS_LOGDIR="+o.Dir, "OVS_DBDIR="+o.Dir, "OVS_SYSCONFDIR="+o.Dir)
	return cmd
}

func (o *OVS) run(name string, args ...string) string {
	o.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline+5*time.Second)
	defer cancel()
	cmd := o.command(ctx, name, args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("ovstest: %s %s: %v: %s", name, strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSuffix(string(out), "\n")
}

// process is a daemon this package started.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended and was waited for
}

func (o *OVS) spawn(name string, args ...string) *process {
	o.t.Helper()
	cmd := o.command(context.Background(), name, args...)
	out, err := os.OpenFile(o.path(name+".out"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		o.t.Fatalf("ovstest: start %s: %v", name, err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := StartDaemon(cmd); err != nil {
		o.t.Fatalf("ovstest: start %s: %v", name, err)
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(p.done) }()
	return p
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *process) terminate() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

// waitFor waits until a daemon accepts connections on its socket.
func (o *OVS) waitFor(p *process, socket string) {
	o.t.Helper()
	end := time.Now().Add(deadline)
	for {
		c, err := dial(socket)
		if err == nil {
			_ = c.Close()
			return
		}
		select {
		case <-p.done:
			o.t.Fatalf("ovstest: %s ended: %v", p.cmd.Path, p.cmd.ProcessState)
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			o.t.Fatalf("ovstest: %s does not answer: %v", p.cmd.Path, err)
		}
	}
}

func (o *OVS) stop() {
	if o.vswitchd != nil {
		// SIGKILL is enough: its taps and sockets go with it, and the directory is removed.
		o.vswitchd.kill()
	}
	if o.ovsdb != nil {
		o.ovsdb.kill()
	}
}

// logTail shows what the daemons said last; called when the test failed.
func (o *OVS) logTail() {
	for _, name := range []string{"ovs-vswitchd.log", "ovs-vswitchd.out", "ovsdb-server.out"} {
		b, err := os.ReadFile(o.path(name))
		if err != nil || len(b) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		o.t.Logf("%s (last lines):\n%s", name, strings.Join(lines[max(0, len(lines)-25):], "\n"))
	}
}

// lookPath finds a tool; Debian keeps the daemons in /usr/sbin, which is not in
// an ordinary user's PATH.
func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return exec.LookPath(filepath.Join("/usr/sbin", name))
}
