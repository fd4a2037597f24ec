//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/fairlead/fairlead/test/ovstest"
)

// restAddress is where the controller serves REST, inside the lab's own namespace.
const restAddress = "127.0.0.1:8080"

// fairleadBinary returns the path of the binary under test.
var fairleadBinary = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("FAIRLEAD_BIN"); path != "" {
		return filepath.Abs(path)
	}
	// Outside the packages' directories, and the same for each run: a build of what has not changed is quick.
	path := filepath.Join(os.TempDir(), "fairlead-e2e", "fairlead")
	out, err := exec.Command("go", "build", "-o", path, "github.com/fairlead/fairlead/cmd/fairlead").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build fairlead: %w: %s", err, out)
	}
	return path, nil
})

// repositoryFile finds a file of the repository: tests run in their package's directory, or
// by make in the root.
func repositoryFile(t testing.TB, name string) string {
	t.Helper()
	for _, root := range []string{".", "../.."} {
		path := filepath.Join(root, name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Fatalf("%s: neither here nor two directories up", name)
	return ""
}

// controller is a fairlead process of a lab and its REST client. Its data
// directory stays while processes come and go.
type controller struct {
	t      testing.TB
	lab    *lab
	stage  string
	flags  []string // more of them
	data   string
	log    string
	narrow bool // the test makes an MTU too small
	cmd    *exec.Cmd
	done   chan struct{}
	client *http.Client
}

// control starts fairlead for the lab, in the given stage for new switches, and
// waits until it is ready and all switches are connected.
func (l *lab) control(stage string) *controller {
	l.t.Helper()
	return l.controlWith(stage)
}

// controlWith does so with more flags.
func (l *lab) controlWith(stage string, flags ...string) *controller {
	l.t.Helper()
	dir, err := os.MkdirTemp("", "fairlead")
	if err != nil {
		l.t.Fatalf("controller: %v", err)
	}
	c := &controller{t: l.t, lab: l, stage: stage, flags: flags, data: filepath.Join(dir, "data"), log: filepath.Join(dir, "log")}
	c.client = &http.Client{
		Timeout: 30 * time.Second,
		Transport: &http.Transport{
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return l.ns.dial(netip.AddrPort{}, netip.MustParseAddrPort(restAddress), patience)
			},
		},
	}
	l.t.Cleanup(func() {
		c.kill()
		c.client.CloseIdleConnections()
		c.noFalseAlarm()
		if l.t.Failed() {
			c.tail()
		}
		_ = os.RemoveAll(dir)
	})
	c.start()
	return c
}

// start runs the process and waits until it is ready and has all switches.
func (c *controller) start() {
	c.t.Helper()
	c.launch()
	c.ready()
}

// launch runs the process without waiting.
func (c *controller) launch() {
	c.t.Helper()
	path, err := fairleadBinary()
	if err != nil {
		c.t.Fatal(err)
	}
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatalf("controller: %v", err)
	}
	defer log.Close()
	args := []string{"netns", "exec", c.lab.ns.name, path, "serve",
		"--openflow", controllerAddress, "--http", restAddress, "--data", c.data, "--stage", c.stage}
	c.cmd = exec.Command("ip", append(args, c.flags...)...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := ovstest.StartDaemon(c.cmd); err != nil {
		c.t.Fatalf("controller: start: %v", err)
	}
	done := make(chan struct{})
	c.done = done
	go func(cmd *exec.Cmd) { _ = cmd.Wait(); close(done) }(c.cmd)
}

// ready waits until /readyz agrees and every switch of the lab is connected and
// has what is stored for it.
func (c *controller) ready() {
	c.t.Helper()
	c.wait("fairlead is ready", func() bool { return c.status("GET", "/readyz", nil) == http.StatusOK })
	c.wait("all switches are connected", func() bool {
		var list struct {
			Items []struct {
				DPID       string `json:"dpid"`
				Connection struct {
					State string `json:"state"`
				} `json:"connection"`
			} `json:"items"`
		}
		if c.rest("GET", "/v1/switches", nil, &list) != http.StatusOK {
			return false
		}
		connected := map[string]bool{}
		for _, s := range list.Items {
			connected[s.DPID] = s.Connection.State == "connected"
		}
		for _, dpid := range c.lab.switches() {
			if !connected[dpid] {
				return false
			}
		}
		return true
	})
}

// wait polls a condition for 30 s: a switch that lost its controller tries again
// after up to 8 s.
func (c *controller) wait(what string, condition func() bool) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, what, func() bool {
		select {
		case <-c.done:
			c.t.Fatalf("fairlead ended while waiting: %s: %v", what, c.cmd.ProcessState)
		default:
		}
		return condition()
	})
}

// kill ends the process with SIGKILL.
func (c *controller) kill() {
	if c.cmd != nil {
		_ = c.cmd.Process.Kill()
		<-c.done
	}
}

// stop ends the process with SIGTERM; it must end by itself within 5 s.
func (c *controller) stop() {
	c.t.Helper()
	if err := c.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		c.t.Fatalf("controller: stop: %v", err)
	}
	select {
	case <-c.done:
	case <-time.After(5 * time.Second):
		c.t.Fatal("controller: no answer to SIGTERM within 5 s")
	}
}

// noFalseAlarm fails the test if links were suspected of being made up, which no test does
// on Open vSwitch, or of losing whole frames, where none does.
func (c *controller) noFalseAlarm() {
	b, err := os.ReadFile(c.log)
	if err != nil {
		c.t.Errorf("controller: read log: %v", err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "do hosts pass on probes?") || strings.Contains(line, "is an MTU too small?") && !c.narrow {
			c.t.Errorf("a false alarm: %s", line)
		}
	}
}

// tail shows the end of the process's log.
func (c *controller) tail() {
	b, err := os.ReadFile(c.log)
	if err != nil {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	c.t.Logf("fairlead's log (last lines):\n%s", strings.Join(lines[max(0, len(lines)-60):], "\n"))
	down, up := c.lab.tap.snapshot()
	c.t.Logf("OpenFlow messages by type, to the switches: %v, from them: %v", down, up)
}

// rest makes one request and decodes a JSON answer into out, when given and the
// answer is a good one. It returns the status, 0 when there was no answer.
func (c *controller) rest(method, path string, body, out any) int {
	c.t.Helper()
	code, answer := c.exchange(method, path, body)
	if out != nil && code >= 200 && code < 300 {
		if err := json.Unmarshal(answer, out); err != nil {
			c.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
		}
	}
	return code
}

func (c *controller) status(method, path string, body any) int {
	c.t.Helper()
	code, _ := c.exchange(method, path, body)
	return code
}

func (c *controller) exchange(method, path string, body any) (int, []byte) {
	c.t.Helper()
	var r io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			c.t.Fatalf("%s %s: %v", method, path, err)
		}
		r = bytes.NewReader(b)
	}
	request, err := http.NewRequest(method, "http://"+restAddress+path, r)
	if err != nil {
		c.t.Fatalf("%s %s: %v", method, path, err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.client.Do(request)
	if err != nil {
		return 0, nil
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, nil
	}
	return response.StatusCode, answer
}

// must makes a request that has to succeed and returns its answer.
func (c *controller) must(method, path string, body any) []byte {
	c.t.Helper()
	code, answer := c.exchange(method, path, body)
	if code < 200 || code > 299 {
		c.t.Fatalf("%s %s: status %d: %s", method, path, code, answer)
	}
	return answer
}

// The documents of the REST API, as far as the tests write and read them.
type (
	vipDoc struct {
		Address   string        `json:"address"`
		Listeners []listenerDoc `json:"listeners"`
	}
	listenerDoc struct {
		Protocol string  `json:"protocol"`
		Port     uint16  `json:"port"`
		Pool     poolDoc `json:"pool"`
	}
	poolDoc struct {
		Members []memberDoc `json:"members"`
	}
	memberDoc struct {
		Address string `json:"address"`
		Port    uint16 `json:"port"`
		Weight  *int   `json:"weight,omitempty"`
	}
	vipState struct {
		MAC        string `json:"mac"`
		Generation uint64 `json:"generation"`
		Listeners  []struct {
			Pool struct {
				Members []struct {
					Address string `json:"address"`
					Status  struct {
						Health string `json:"health"`
						Slots  int    `json:"slots"`
						Switch string `json:"switch"`
						Reason string `json:"reason"`
					} `json:"status"`
				} `json:"members"`
			} `json:"pool"`
		} `json:"listeners"`
		Status struct {
			Provisioning string `json:"provisioning"`
			Operating    string `json:"operating"`
			Switches     []struct {
				DPID       string `json:"dpid"`
				State      string `json:"state"`
				Generation uint64 `json:"generation"`
				Reason     string `json:"reason"`
			} `json:"switches"`
		} `json:"status"`
	}
)

// member is the member of a pool that a host is.
func (h *host) member(port uint16) memberDoc { return memberDoc{Address: h.addr.String(), Port: port} }

// members are the members that hosts are, all at one port.
func members(port uint16, hosts ...*host) []memberDoc {
	list := make([]memberDoc, len(hosts))
	for i, h := range hosts {
		list[i] = h.member(port)
	}
	return list
}

// listener balances a port over members.
func listener(protocol string, port uint16, list []memberDoc) listenerDoc {
	return listenerDoc{Protocol: protocol, Port: port, Pool: poolDoc{Members: list}}
}

// web is a VIP document with one TCP listener at port 80.
func web(list []memberDoc) vipDoc {
	return vipDoc{Address: vip.String(), Listeners: []listenerDoc{listener("tcp", 80, list)}}
}

// put writes a VIP and waits until it serves (see serves).
func (c *controller) put(name string, doc vipDoc) vipState {
	c.t.Helper()
	c.must("PUT", "/v1/vips/"+name, doc)
	return c.serves(name)
}

// serves waits until the VIP is installed and the switches follow: members that
// are found bring more changes, during which connections may break.
func (c *controller) serves(name string) vipState {
	c.t.Helper()
	s := c.installed(name)
	c.unchanged(200 * time.Millisecond)
	c.lab.settle()
	return s
}

// installed waits until every switch has acknowledged the VIP's newest document
// and every member has been found.
func (c *controller) installed(name string) vipState {
	c.t.Helper()
	var s vipState
	path := "/v1/vips/" + name
	defer func() {
		if c.t.Failed() {
			c.t.Logf("GET %s: %s", path, c.must("GET", path, nil))
		}
	}()
	c.wait("VIP "+name+" is installed everywhere", func() bool {
		s = vipState{}
		if c.rest("GET", path, nil, &s) != http.StatusOK || s.Status.Provisioning != "active" ||
			len(s.Status.Switches) < len(c.lab.switches()) {
			return false
		}
		for _, sw := range s.Status.Switches {
			if sw.State != "installed" || sw.Generation != s.Generation {
				return false
			}
		}
		for _, l := range s.Listeners {
			for _, m := range l.Pool.Members {
				if m.Status.Switch == "" {
					return false
				}
			}
		}
		return true
	})
	return s
}

// quiet waits until the controller has nothing more to do: no switch was changed
// for two seconds, longer than discovery takes between its steps.
func (c *controller) quiet() {
	c.t.Helper()
	c.unchanged(2 * time.Second)
}

// unchanged waits until no switch was changed for a while.
func (c *controller) unchanged(while time.Duration) {
	c.t.Helper()
	before, since := c.lab.tap.mods(), time.Now()
	c.wait("no more changes to the switches", func() bool {
		if now := c.lab.tap.mods(); !maps.Equal(before, now) {
			before, since = now, time.Now()
		}
		return time.Since(since) > while
	})
}

// memberPath is the path of a member of a VIP's listener.
func memberPath(name, listener string, m memberDoc) string {
	return fmt.Sprintf("/v1/vips/%s/listeners/%s/members/%s:%d", name, listener, m.Address, m.Port)
}

// service is an address of the VIP.
func service(port uint16) netip.AddrPort { return netip.AddrPortFrom(vip, port) }
