package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// startWithin is how long a controller may take to listen.
const startWithin = 20 * time.Second

// process is a controller under test.
type process struct {
	name     string
	openflow string // where it takes switches
	http     string // Fairlead's REST API

	cmd  *exec.Cmd
	log  *logBuffer
	done chan struct{}
}

// logBuffer keeps what a process says.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// tail is the end of what a process said.
func (l *logBuffer) tail() string {
	s := strings.TrimSpace(l.String())
	return s[max(0, len(s)-2000):]
}

// spawn starts a process, which ends with this one at the latest.
func (b *bench) spawn(name string, env []string, command ...string) (*process, error) {
	p := &process{name: name, cmd: exec.CommandContext(b.ctx, command[0], command[1:]...), log: &logBuffer{}, done: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { _ = p.cmd.Wait(); close(p.done) }()
	return p, nil
}

// stop ends a process by its id.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// until waits for a condition of a process that is starting.
func (p *process) until(condition func() bool) error {
	for end := time.Now().Add(startWithin); !condition(); {
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v: %s", p.name, p.cmd.ProcessState, p.log.tail())
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(end) {
			p.stop()
			return fmt.Errorf("%s does not start: %s", p.name, p.log.tail())
		}
	}
	return nil
}

var readyLine = regexp.MustCompile(`msg=ready openflow=(\S+) .*http=(\S+)`)

// startFairlead runs the controller on ports of its own with an empty store.
func (b *bench) startFairlead(stage string, flags ...string) (*process, error) {
	data, err := os.MkdirTemp(b.dir, "data")
	if err != nil {
		return nil, err
	}
	command := []string{b.fairlead, "serve", "--openflow", "127.0.0.1:0", "--http", "127.0.0.1:0",
		"--data", data, "--stage", stage, "--log-level", "info", "--log-format", "text"}
	p, err := b.spawn("fairlead", nil, append(command, flags...)...)
	if err != nil {
		return nil, err
	}
	var ready []string
	err = p.until(func() bool { ready = readyLine.FindStringSubmatch(p.log.String()); return ready != nil })
	if err != nil {
		return nil, err
	}
	p.openflow, p.http = ready[1], "http://"+ready[2]
	return p, nil
}

// freePort returns a port of the loopback interface that nobody listens on.
func freePort() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	_, port, err := net.SplitHostPort(ln.Addr().String())
	return port, err
}

// errMissing says that a peer is not installed.
var errMissing = errors.New("is not installed")

// startPeer runs a controller that listens on a port given to it.
func (b *bench) startPeer(name, needs string, command func(port string) []string) (*process, error) {
	if _, err := exec.LookPath(needs); err != nil {
		return nil, errMissing
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	p, err := b.spawn(name, []string{"OVS_RUNDIR=" + b.dir, "OVS_LOGDIR=" + b.dir}, command(port)...)
	if err != nil {
		return nil, err
	}
	p.openflow = net.JoinHostPort("127.0.0.1", port)
	err = p.until(func() bool {
		ctx, cancel := context.WithTimeout(b.ctx, time.Second)
		defer cancel()
		nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", p.openflow)
		if err != nil {
			return false
		}
		_ = nc.Close()
		return true
	})
	return p, err
}

func (b *bench) startTestController() (*process, error) {
	return b.startPeer("ovs-testcontroller", "ovs-testcontroller", func(port string) []string {
		return []string{"ovs-testcontroller", "-O", "OpenFlow13", "--unixctl=" + filepath.Join(b.dir, "testcontroller.ctl"), "ptcp:" + port + ":127.0.0.1"}
	})
}

func (b *bench) startOSKen() (*process, error) {
	app := filepath.Join(b.dir, "simple_switch_13.py")
	if err := os.WriteFile(app, simpleSwitch, 0o600); err != nil {
		return nil, err
	}
	return b.startPeer("os-ken", "osken-manager", func(port string) []string {
		// Debian's Python: another one in front of it in PATH has no os-ken.
		return []string{"/usr/bin/python3", "/usr/bin/osken-manager", "--ofp-listen-host", "127.0.0.1", "--ofp-tcp-listen-port", port, app}
	})
}
