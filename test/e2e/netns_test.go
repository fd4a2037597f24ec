//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is a network namespace with a thread that lives in it.
type namespace struct {
	name string
	work chan func()
	gone chan struct{} // closed at the end of the test
}

var namespaces atomic.Int32

// newNamespace makes a network namespace that is deleted when the test ends.
func newNamespace(t testing.TB, label string) *namespace {
	t.Helper()
	ns := &namespace{
		name: fmt.Sprintf("fl%d-%d-%s", os.Getpid(), namespaces.Add(1), label),
		work: make(chan func()),
		gone: make(chan struct{}),
	}
	run(t, "ip", "netns", "add", ns.name)
	t.Cleanup(func() { run(t, "ip", "netns", "del", ns.name) })

	entered := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and no other
		// goroutine ever runs in the namespace by accident.
		runtime.LockOSThread()
		entered <- enter(ns.name)
		for {
			select {
			case f := <-ns.work:
				f()
			case <-ns.gone:
				return
			}
		}
	}()
	if err := <-entered; err != nil {
		t.Fatalf("enter namespace %s: %v", ns.name, err)
	}
	t.Cleanup(func() { close(ns.gone) })

	// No IPv6: its router solicitations and multicast reports would be traffic
	// that no test asked for.
	ns.sysctl(t, "net/ipv6/conf/all/disable_ipv6", "1")
	ns.sysctl(t, "net/ipv6/conf/default/disable_ipv6", "1")
	run(t, "ip", "-n", ns.name, "link", "set", "lo", "up")
	return ns
}

func enter(name string) error {
	f, err := os.Open("/var/run/netns/" + name)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Setns(int(f.Fd()), unix.CLONE_NEWNET)
}

// do runs f on the namespace's thread; f must not block. It ends the goroutine that calls
// it when the test is over, as after a failure that others have not heard of.
func (ns *namespace) do(f func()) {
	done := make(chan struct{})
	select {
	case ns.work <- func() { defer close(done); f() }:
		<-done
	case <-ns.gone:
		runtime.Goexit()
	}
}

// sysctl sets a value under /proc/sys, where net/ is the namespace's own.
func (ns *namespace) sysctl(t testing.TB, key, value string) {
	t.Helper()
	var err error
	ns.do(func() { err = os.WriteFile("/proc/sys/"+key, []byte(value), 0) })
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a kernel without IPv6 is fine
		t.Fatalf("sysctl %s: %v", key, err)
	}
}

// run runs a command inside the namespace and returns its output.
func (ns *namespace) run(t testing.TB, args ...string) string {
	t.Helper()
	return run(t, append([]string{"ip", "netns", "exec", ns.name}, args...)...)
}

// family returns a network with the family of an address: IPv6 ones are in brackets.
func family(network, address string) string {
	if strings.HasPrefix(address, "[") {
		return network + "6"
	}
	return network + "4"
}

// listen listens for TCP connections; listenPacket for UDP datagrams.
func (ns *namespace) listen(address string) (l net.Listener, err error) {
	ns.do(func() { l, err = new(net.ListenConfig).Listen(context.Background(), family("tcp", address), address) })
	return l, err
}

func (ns *namespace) listenPacket(address string) (c *net.UDPConn, err error) {
	ns.do(func() {
		var pc net.PacketConn
		pc, err = new(net.ListenConfig).ListenPacket(context.Background(), family("udp", address), address)
		if err == nil {
			c = pc.(*net.UDPConn)
		}
	})
	return c, err
}

// dial opens a TCP connection from a source (the zero value: the kernel chooses)
// to a destination. Only the socket is made on the namespace's thread, so many
// connections can be under way at once.
func (ns *namespace) dial(src, dst netip.AddrPort, timeout time.Duration) (*net.TCPConn, error) {
	c, err := ns.dialRaw(src, dst, timeout)
	if err != nil {
		return nil, fmt.Errorf("dial %s from %s: %w", dst, src, err)
	}
	return c, nil
}

func (ns *namespace) dialRaw(src, dst netip.AddrPort, timeout time.Duration) (*net.TCPConn, error) {
	var fd int
	var err error
	domain := unix.AF_INET
	if dst.Addr().Is6() {
		domain = unix.AF_INET6
	}
	ns.do(func() { fd, err = unix.Socket(domain, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	defer f.Close()
	if src.IsValid() {
		if err := unix.Bind(fd, sockaddr(src)); err != nil {
			return nil, os.NewSyscallError("bind", err)
		}
	}
	err = unix.Connect(fd, sockaddr(dst))
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, os.NewSyscallError("connect", err)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	if err := f.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	var status error
	err = raw.Write(func(fd uintptr) bool {
		if errno, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || errno != 0 {
			status = syscall.Errno(errno)
			return true
		}
		_, err := unix.Getpeername(int(fd)) // ENOTCONN: still under way
		return err == nil
	})
	if err = errors.Join(err, status); err != nil {
		return nil, err
	}
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.TCPConn), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
}

// sniff returns a raw socket that sees every frame that arrives at a device.
func (ns *namespace) sniff(t testing.TB, device string) *os.File {
	t.Helper()
	var fd int
	var err error
	ns.do(func() {
		var dev *net.Interface
		if dev, err = net.InterfaceByName(device); err != nil {
			return
		}
		const everything = 0x0300 // ETH_P_ALL in network byte order
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, everything); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: everything, Ifindex: dev.Index})
		}
	})
	if err != nil {
		t.Fatalf("sniff %s: %v", device, err)
	}
	f := os.NewFile(uintptr(fd), device)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// run runs a command to its end, at most 30 s, and returns its output.
func run(t testing.TB, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// eventually polls a condition until it holds and fails the test when it does
// not in time.
func eventually(t testing.TB, timeout time.Duration, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(timeout); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", timeout, what)
		}
	}
}
