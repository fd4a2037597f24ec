//go:build e2e

package e2e

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/fairlead/fairlead/ofproto/packet"
)

// flood sends frames out of the host's device at a rate, for a time, and returns how
// many it sent. next changes the frame before each.
func (h *host) flood(frame []byte, perSecond int, d time.Duration, next func([]byte)) (sent int) {
	h.t.Helper()
	var fd int
	var err error
	h.do(func() {
		var dev *net.Interface
		if dev, err = net.InterfaceByName("eth0"); err != nil {
			return
		}
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err == nil {
			err = unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: dev.Index})
		}
	})
	if err != nil {
		h.t.Fatalf("flood: %v", err)
	}
	defer unix.Close(fd)
	begin := time.Now()
	for time.Since(begin) < d {
		// What is due by now: bursts of a millisecond's worth.
		for due := int(time.Since(begin).Seconds() * float64(perSecond)); sent < due; sent++ {
			if next != nil {
				next(frame)
			}
			if _, err := unix.Write(fd, frame); err != nil && err != unix.ENOBUFS && err != unix.EAGAIN {
				h.t.Errorf("flood: %v", err)
				return sent
			}
		}
		time.Sleep(time.Millisecond)
	}
	return sent
}

// frameTo begins a frame of the host to itself: a switch that knows the host sends it
// nowhere, so what the flood costs is what the controller's part of it costs.
func (h *host) frameTo(etherType uint16, payload ...byte) []byte {
	h.t.Helper()
	mac, err := net.ParseMAC(h.mac)
	if err != nil {
		h.t.Fatal(err)
	}
	f := append(append([]byte{}, mac...), mac...)
	f = binary.BigEndian.AppendUint16(f, etherType)
	f = append(f, payload...)
	return append(f, make([]byte, max(60-len(f), 0))...)
}

// cpu is the processor time that a process has used.
func cpu(t testing.TB, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')'):]))
	var ticks int
	for _, f := range fields[12:14] { // utime and stime, of 10 ms each
		var n int
		if _, err := fmt.Sscan(f, &n); err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// rss is the memory that a process has, in bytes.
func rss(t testing.TB, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		t.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(b), &size, &resident); err != nil {
		t.Fatal(err)
	}
	return resident * os.Getpagesize()
}

// TestZ01PacketInFlood has one host offer 70,000 packets a second that the switch hands
// to the controller, of each kind that it does: the traffic of a VIP goes on, and the
// meters in the switch let through what the controller can take. A machine that is busy
// with other things loses packets of such a flood in any case, so the first one is of
// packets that the switch drops without the controller, and the others may not lose much
// more. Unknown sources cost Open vSwitch a flow of its datapath each, whatever is done
// with them: what that alone loses shows when the controller is gone and the entries are
// what they were.
func TestZ01PacketInFlood(t *testing.T) {
	const offered, span = 70_000, 5 * time.Second
	l := singleLab(t, secure, 5)
	client, servers, attacker := l.hosts[0], l.hosts[1:4], l.hosts[4]
	for _, h := range servers {
		h.serveEcho(5353)
		h.serveLines(9009)
	}
	c := l.control("managed")
	l.sweep()
	c.put("web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
		listener("udp", 53, members(5353, servers...)), listener("tcp", 9, members(9009, servers...)),
	}})

	lost := map[string]float64{} // shares of the stream
	unknown := func(f []byte) { binary.BigEndian.PutUint32(f[8:], rand.Uint32()) }
	arp := attacker.frameTo(0x0806, 0, 1, 8, 0, 6, 4, 0, 1) // a request
	for _, kind := range []struct {
		name  string
		frame []byte
		next  func([]byte)
		alone bool // without the controller
	}{
		{name: "known source", frame: attacker.frameTo(0x88b6)},
		{name: "LLDP", frame: attacker.frameTo(0x88cc)},
		{name: "ARP", frame: arp},
		{name: "unknown sources", frame: attacker.frameTo(0x88b6), next: unknown},
		{name: "unknown sources, no controller", frame: attacker.frameTo(0x88b6), next: unknown, alone: true},
	} {
		t.Run(kind.name, func(t *testing.T) {
			if kind.alone {
				c.kill()
				udp := client.udpStream(service(53))
				udp.flows(t, 500)
				attacker.flood(kind.frame, offered, span, kind.next)
				udp.flows(t, 500)
				u := udp.finish()
				t.Logf("UDP: %v", u)
				lost[kind.name] = float64(u.lost()) / float64(u.sent)
				return
			}
			udp := client.udpStream(service(53))
			tcp := client.tcpStream(service(9))
			udp.flows(t, 500)
			pid := c.cmd.Process.Pid
			_, up := l.tap.snapshot()
			packets, used, memory, began := up[typePacketIn], cpu(t, pid), rss(t, pid), time.Now()
			sent := attacker.flood(kind.frame, offered, span, kind.next)
			took := time.Since(began)
			used = cpu(t, pid) - used
			_, up = l.tap.snapshot()
			udp.flows(t, 500)
			u, s := udp.finish(), tcp.finish()
			t.Logf("%d offered a second, %d a second reached the controller, which used %.0f %% of one core and %d MiB more",
				int(float64(sent)/took.Seconds()), int(float64(up[typePacketIn]-packets)/took.Seconds()),
				100*used.Seconds()/took.Seconds(), (rss(t, pid)-memory)>>20)
			t.Logf("UDP: %v", u)
			t.Logf("TCP: %v", s)
			require.NoError(t, u.err)
			require.NoError(t, s.err)
			require.LessOrEqual(t, used, took, "one core")
			require.LessOrEqual(t, rss(t, pid)-memory, 100<<20)
			require.LessOrEqual(t, up[typePacketIn]-packets, int(5000*took.Seconds()), "packets that the meters let through")
			lost[kind.name] = float64(u.lost()) / float64(u.sent)
			var sw struct {
				Connection struct {
					State string    `json:"state"`
					Since time.Time `json:"since"`
				} `json:"connection"`
			}
			require.Equal(t, 200, c.rest("GET", "/v1/switches/0000000000000001", nil, &sw))
			require.Equal(t, "connected", sw.Connection.State)
			require.Greater(t, time.Since(sw.Connection.Since), span, "it never went")
		})
	}
	// A flood of what the switch drops by itself, and one of sources that nobody learns,
	// are what the others are held to.
	for _, name := range []string{"LLDP", "ARP"} {
		require.LessOrEqual(t, lost[name], lost["known source"]+0.02, name)
	}
	require.LessOrEqual(t, lost["unknown sources"], lost["unknown sources, no controller"]+0.1)
}

// TestL12ResolutionFlood has one host ask for the VIP's hardware address 20,000 times a
// second, by ARP and by neighbour solicitation, in the name of 10,000 others: the switch
// answers, and clients of the VIP connect as before.
func TestL12ResolutionFlood(t *testing.T) {
	const offered, names = 20_000, 10_000
	span := time.Duration(scale(3, 20)) * time.Second
	for _, six := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6=%v", six), func(t *testing.T) {
			l := singleLab(t, secure, 5)
			address := vip
			if six {
				l.useIPv6()
				address = vip6
			}
			client, servers, attacker := l.hosts[0], l.hosts[1:4], l.hosts[4]
			for _, h := range servers {
				h.serveHTTP(8080)
			}
			c := l.control("managed")
			l.sweep()
			c.apply("web", document(address, "tcp", 80, 0, 8080, servers...))

			// The sender is in the message, and in IPv6 in the header too, whose checksum
			// goes by what is changed.
			mac := attacker.hardware()
			frame := packet.AppendARPRequest(nil, mac, netip.MustParseAddr("10.20.0.0"), address)
			n := uint16(0)
			next := func(f []byte) { n++; binary.BigEndian.PutUint16(f[30:], n%names) }
			if six {
				var frames [][]byte
				for i := range names {
					from := netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 14: byte(i >> 8), 15: byte(i), 12: 0x20})
					frames = append(frames, packet.AppendNeighborSolicitation(nil, mac, from, address))
				}
				frame = slices.Clone(frames[0])
				next = func(f []byte) { n++; copy(f, frames[n%names]) }
			}
			_, up := l.tap.snapshot()
			packets, answers := up[typePacketIn], attacker.received(t)
			over := make(chan int, 1)
			go func() { over <- attacker.flood(frame, offered, span, next) }()
			served, failed, sent := 0, 0, 0
			for seed := uint64(1); sent == 0; seed++ {
				good, bad := client.attempts(client.request, netip.AddrPortFrom(address, 80), client.sources(100, seed))
				served, failed = served+len(good), failed+len(bad)
				select {
				case sent = <-over:
				default:
				}
			}
			answers = attacker.received(t) - answers
			_, up = l.tap.snapshot()
			t.Logf("%d asked in %s, %d answered, %d packets to the controller; %d new connections, %d failed",
				sent, span, answers, up[typePacketIn]-packets, served, failed)
			require.LessOrEqual(t, failed*1000, served, "99.9 % connect")
			require.LessOrEqual(t, up[typePacketIn]-packets, 5000*int(span.Seconds()), "what the meters let through")
			require.GreaterOrEqual(t, answers, sent/2, "the switch answers by itself")
		})
	}
}

// received is how many frames the host's device has taken in.
func (h *host) received(t *testing.T) (n int) {
	t.Helper()
	_, err := fmt.Sscan(h.run(t, "cat", "/sys/class/net/eth0/statistics/rx_packets"), &n)
	require.NoError(t, err)
	return n
}
