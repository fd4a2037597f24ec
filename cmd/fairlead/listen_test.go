package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mainVariable makes the test binary the program itself.
const mainVariable = "FAIRLEAD_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(mainVariable) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestU01SocketsOutliveTheProcess hands the listeners to one process after the
// other, as systemd does: a client that connects while none runs is served by the next.
func TestU01SocketsOutliveTheProcess(t *testing.T) {
	listener := func() (*os.File, string) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		f, err := l.(*net.TCPListener).File()
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		require.NoError(t, l.Close())
		return f, l.Addr().String()
	}
	openflow, switches := listener()
	rest, api := listener()
	data := t.TempDir()
	get := func() error {
		resp, err := (&http.Client{Timeout: 20 * time.Second}).Get("http://" + api + "/readyz")
		if err == nil {
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		return err
	}
	for range 3 {
		// Nobody serves yet, and both connections are taken all the same.
		answer := make(chan error, 1)
		go func() { answer <- get() }()
		sw, err := net.Dial("tcp", switches)
		require.NoError(t, err)

		// LISTEN_PID is the process's own, which the shell becomes.
		cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" serve --data "$1"`, os.Args[0], data)
		cmd.Env = append(os.Environ(), mainVariable+"=1", "LISTEN_FDS=2", "LISTEN_FDNAMES=openflow:http")
		cmd.ExtraFiles = []*os.File{openflow, rest}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, cmd.Start())
		require.NoError(t, <-answer)
		require.NoError(t, sw.SetReadDeadline(time.Now().Add(20*time.Second)))
		hello := make([]byte, 8)
		_, err = sw.Read(hello)
		require.NoError(t, err)
		require.Equal(t, byte(4), hello[0])
		require.NoError(t, sw.Close())

		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait())
	}
}

// A REST API that is open to the network is refused however its socket was opened.
func TestInheritedSocketsAreNoWayAroundTokens(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	require.NoError(t, err)
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer f.Close()
	for _, insecure := range []string{"false", "true"} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" serve --openflow 127.0.0.1:0 --data "$1" --insecure="$2"`, os.Args[0], t.TempDir(), insecure)
		cmd.Env = append(os.Environ(), mainVariable+"=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=http")
		cmd.ExtraFiles = []*os.File{f}
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		line, _ := bufio.NewReader(out).ReadString('\n')
		if insecure == "true" {
			require.Contains(t, line, "ready")
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			require.NoError(t, cmd.Wait())
			require.Contains(t, errs.String(), "INSECURE")
			continue
		}
		require.Empty(t, line)
		require.Error(t, cmd.Wait())
		require.Equal(t, exitUsage, cmd.ProcessState.ExitCode(), "%s", &errs)
		require.Contains(t, errs.String(), "is not a loopback address")
	}
}
