//go:build e2e

package e2e

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long one request may take: longer than a lost SYN and its
// second retransmission.
const patience = 5 * time.Second

// wildcard is any address of the host's family, and a port.
func (h *host) wildcard(port uint16) string {
	if h.addr.Is6() {
		return fmt.Sprintf("[::]:%d", port)
	}
	return fmt.Sprintf(":%d", port)
}

// serveHTTP answers requests at the ports with the host's name until the test
// ends, and keeps connections open.
func (h *host) serveHTTP(ports ...uint16) {
	h.t.Helper()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, h.name)
	})}
	h.t.Cleanup(func() { _ = server.Close() })
	for _, port := range ports {
		l, err := h.listen(h.wildcard(port))
		if err != nil {
			h.t.Fatalf("%s: serve HTTP: %v", h.name, err)
		}
		go func() { _ = server.Serve(l) }()
	}
}

// serveEcho answers each UDP datagram at the ports with its own bytes and the
// host's name.
func (h *host) serveEcho(ports ...uint16) {
	h.t.Helper()
	for _, port := range ports {
		c, err := h.listenPacket(h.wildcard(port))
		if err != nil {
			h.t.Fatalf("%s: serve UDP: %v", h.name, err)
		}
		patient(h.t, c)
		h.t.Cleanup(func() { _ = c.Close() })
		go func() {
			b := make([]byte, 2048)
			for {
				n, from, err := c.ReadFromUDPAddrPort(b)
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err == nil {
					_, _ = c.WriteToUDPAddrPort(append(b[:n:n], h.name...), from)
				}
			}
		}()
	}
}

// serveLines answers each line of a TCP connection with the same line.
func (h *host) serveLines(port uint16) {
	h.t.Helper()
	l, err := h.listen(h.wildcard(port))
	if err != nil {
		h.t.Fatalf("%s: serve TCP: %v", h.name, err)
	}
	h.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
}

// session is an open HTTP connection.
type session struct {
	src    netip.AddrPort
	member string // that answered the first request
	conn   *net.TCPConn
	r      *bufio.Reader
	idle   atomic.Bool // is not asked any more by those that ask all the time
}

// open opens a connection and makes its first request. The zero source lets the kernel choose.
func (h *host) open(src, dst netip.AddrPort) (*session, error) {
	c, err := h.dial(src, dst, patience)
	if err != nil {
		return nil, err
	}
	// Closing resets: no TIME_WAIT stands in the way of the same 5-tuple again.
	_ = c.SetLinger(0)
	s := &session{src: c.LocalAddr().(*net.TCPAddr).AddrPort(), conn: c, r: bufio.NewReader(c)}
	if s.member, err = s.ask(); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// ask makes one more request on the connection and returns the name of the
// member that answered.
func (s *session) ask() (string, error) {
	if err := s.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(s.conn, "GET / HTTP/1.1\r\nHost: vip\r\n\r\n"); err != nil {
		return "", err
	}
	response, err := http.ReadResponse(s.r, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %s", response.Status)
	}
	return string(b), err
}

func (s *session) close() { _ = s.conn.Close() }

// request opens a connection, makes one request, and closes it.
func (h *host) request(src, dst netip.AddrPort) (string, error) {
	s, err := h.open(src, dst)
	if err != nil {
		return "", err
	}
	s.close()
	return s.member, nil
}

// sources returns n different sources of the host, random but the same for a
// seed. Their ports are below those that the kernel gives to other connections.
func (h *host) sources(n int, seed uint64) []netip.AddrPort {
	random := rand.New(rand.NewPCG(seed, 0))
	addrs := append([]netip.Addr{h.addr}, h.more...)
	seen := map[netip.AddrPort]bool{}
	list := make([]netip.AddrPort, 0, n)
	for len(list) < n {
		s := netip.AddrPortFrom(addrs[random.IntN(len(addrs))], uint16(10000+random.IntN(22000)))
		if !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	return list
}

// placement says which member served each source.
type placement map[netip.AddrPort]string

// requests makes one request from each source, each on a connection of its own,
// 32 at a time. All must succeed.
func (h *host) requests(dst netip.AddrPort, sources []netip.AddrPort) placement {
	h.t.Helper()
	return h.all(h.attempts(h.request, dst, sources))
}

// datagrams sends one datagram from each source and returns who answered. A
// datagram is sent again after 200 ms, five times at most. All must be answered.
func (h *host) datagrams(dst netip.AddrPort, sources []netip.AddrPort) placement {
	h.t.Helper()
	return h.all(h.attempts(h.datagram, dst, sources))
}

// attempts calls one for each source, 32 at a time, and returns the member of each
// that was served and the errors of the others.
func (h *host) attempts(one func(src, dst netip.AddrPort) (string, error), dst netip.AddrPort, sources []netip.AddrPort) (placement, []error) {
	p := placement{}
	var failed []error
	var mu sync.Mutex
	var wg sync.WaitGroup
	queue := make(chan netip.AddrPort)
	for range 32 {
		wg.Go(func() {
			for src := range queue {
				member, err := one(src, dst)
				mu.Lock()
				if err != nil {
					failed = append(failed, fmt.Errorf("from %s: %w", src, err))
				} else {
					p[src] = member
				}
				mu.Unlock()
			}
		})
	}
	for _, src := range sources {
		queue <- src
	}
	close(queue)
	wg.Wait()
	return p, failed
}

// all fails the test when an attempt failed.
func (h *host) all(p placement, failed []error) placement {
	h.t.Helper()
	if len(failed) > 0 {
		h.t.Fatalf("%d of %d failed: %v", len(failed), len(failed)+len(p), errors.Join(failed[:min(5, len(failed))]...))
	}
	return p
}

func (h *host) datagram(src, dst netip.AddrPort) (string, error) {
	c, err := h.listenPacket(src.String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	b := make([]byte, 256)
	for range 5 {
		if _, err = c.WriteToUDPAddrPort([]byte("?"), dst); err != nil {
			return "", err
		}
		_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		var n int
		var from netip.AddrPort
		if n, from, err = c.ReadFromUDPAddrPort(b); err != nil {
			continue
		}
		if from != dst {
			return "", fmt.Errorf("answer of %s to a datagram for %s", from, dst)
		}
		return string(b[1:n]), nil
	}
	return "", err
}

// counts returns the number of sources of each member.
func (p placement) counts() map[string]int {
	m := map[string]int{}
	for _, member := range p {
		m[member]++
	}
	return m
}

// busiest returns the largest count over the mean of n members.
func (p placement) busiest(n int) float64 {
	most := 0
	for _, c := range p.counts() {
		most = max(most, c)
	}
	return float64(most) * float64(n) / float64(len(p))
}

// moved returns the sources that another member serves in q, except those whose
// old member is one of gone.
func (p placement) moved(q placement, gone ...string) []netip.AddrPort {
	var list []netip.AddrPort
	for src, member := range p {
		if !slices.Contains(gone, member) && q[src] != member {
			list = append(list, src)
		}
	}
	return list
}

// reaches reports whether the host exchanges a datagram with an address.
func (h *host) reaches(a netip.Addr) bool {
	_, err := h.datagram(netip.AddrPortFrom(h.addr, 0), netip.AddrPortFrom(a, 7))
	return err == nil
}

// sweep lets every host exchange a datagram with every other, so that all
// addresses are known; it fails the test when one stays out of reach.
func (l *lab) sweep() {
	l.t.Helper()
	for _, a := range l.hosts {
		for _, b := range l.hosts {
			if a != b {
				eventually(l.t, 15*time.Second, a.name+" reaches "+b.name, func() bool { return a.reaches(b.addr) })
			}
		}
	}
}

// report is what a stream saw.
type report struct {
	sent, answered, repeated int
	gap                      time.Duration // the longest between two answers
	members                  map[string]int
	err                      error // of a TCP stream: how it broke
}

func (r report) lost() int { return r.sent - r.answered }

func (r report) String() string {
	return fmt.Sprintf("%d sent, %d lost, %d repeated, longest gap %s, answered by %v, error %v",
		r.sent, r.lost(), r.repeated, r.gap.Round(time.Millisecond), r.members, r.err)
}

// stream sends 1,000 numbered packets a second and follows their answers.
type stream struct {
	mu    sync.Mutex
	r     report
	seen  map[uint64]bool
	last  time.Time
	stop  chan struct{}
	sends sync.WaitGroup
	reads sync.WaitGroup
	end   func()
}

// udpStream sends datagrams to a service of serveEcho, also by way of a VIP.
func (h *host) udpStream(dst netip.AddrPort) *stream {
	h.t.Helper()
	c, err := h.listenPacket(netip.AddrPortFrom(h.addr, 0).String())
	if err != nil {
		h.t.Fatalf("stream: %v", err)
	}
	return h.stream(
		func(b []byte) error { _, err := c.WriteToUDPAddrPort(b, dst); return err },
		func(b []byte) (int, error) { n, _, err := c.ReadFromUDPAddrPort(b); return n, err },
		func() { _ = c.Close() })
}

// tcpStream sends 8-byte records on one connection to a service of serveLines;
// TCP loses none, so its report tells the longest gap and whether the connection broke.
func (h *host) tcpStream(dst netip.AddrPort) *stream {
	h.t.Helper()
	c, err := h.dial(netip.AddrPort{}, dst, patience)
	if err != nil {
		h.t.Fatalf("stream: %v", err)
	}
	return h.stream(
		func(b []byte) error { _, err := c.Write(b); return err },
		func(b []byte) (int, error) { return io.ReadFull(c, b[:8]) },
		func() { _ = c.Close() })
}

func (h *host) stream(send func([]byte) error, receive func([]byte) (int, error), end func()) *stream {
	s := &stream{r: report{members: map[string]int{}}, seen: map[uint64]bool{}, stop: make(chan struct{}), end: end}
	s.sends.Go(func() {
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for begin, n := time.Now(), uint64(0); ; {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			// What is due since the last tick; at most one second's packets, should sending have been blocked.
			for due := min(uint64(time.Since(begin)/time.Millisecond), n+1000); n < due; n++ {
				if err := send(binary.BigEndian.AppendUint64(nil, n)); err != nil && !passing(err) {
					s.broke(err)
					return
				}
				s.mu.Lock()
				s.r.sent++
				s.mu.Unlock()
			}
		}
	})
	s.reads.Go(func() {
		b := make([]byte, 256)
		for {
			n, err := receive(b)
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil && passing(err):
			case err != nil:
				s.broke(err)
				return
			case n >= 8:
				s.answer(binary.BigEndian.Uint64(b), string(b[8:n]))
			}
		}
	})
	var once sync.Once
	s.end = func() {
		once.Do(func() {
			close(s.stop)
			s.sends.Wait()
			s.drain()
			end()
			s.reads.Wait()
		})
	}
	h.t.Cleanup(s.end)
	return s
}

// passing reports errors that a UDP socket tells of one datagram (a port or a
// host unreachable for a moment), after which it goes on.
func passing(err error) bool {
	var e *net.OpError
	return errors.As(err, &e) && e.Net == "udp4" && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (s *stream) broke(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.r.err = errors.Join(s.r.err, err)
}

func (s *stream) answer(n uint64, member string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[n] {
		s.r.repeated++
		return
	}
	s.seen[n] = true
	s.r.answered++
	s.r.members[member]++
	now := time.Now()
	if !s.last.IsZero() {
		s.r.gap = max(s.r.gap, now.Sub(s.last))
	}
	s.last = now
}

// answered returns the number of answers so far.
func (s *stream) answered() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.answered
}

// flows waits until n more packets were answered.
func (s *stream) flows(t testing.TB, n int) {
	t.Helper()
	from := s.answered()
	eventually(t, 30*time.Second, fmt.Sprintf("%d more packets of the stream are answered", n), func() bool { return s.answered() >= from+n })
}

// drain waits for the answers to what was sent: until all are here, or none
// came for half a second.
func (s *stream) drain() {
	for idle, before := time.Now(), -1; time.Since(idle) < 500*time.Millisecond; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		now, sent := s.r.answered, s.r.sent
		s.mu.Unlock()
		if now >= sent {
			return
		}
		if now != before {
			idle, before = time.Now(), now
		}
	}
}

// finish ends the stream and returns its report.
func (s *stream) finish() report {
	s.end()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r
}

// broadcast counts how often each host receives each of n broadcasts of the host:
// it returns the copies received by each other host, those of all n together.
func (l *lab) broadcast(from *host, n int) map[string][]int {
	l.t.Helper()
	const port = 9999
	type receipt struct {
		host string
		n    int
	}
	receipts := make(chan receipt, 1<<16)
	var wg sync.WaitGroup
	var conns []*net.UDPConn
	for _, h := range l.hosts {
		if h == from {
			continue
		}
		c, err := h.listenPacket(h.wildcard(port))
		if err != nil {
			l.t.Fatalf("broadcast: %v", err)
		}
		conns = append(conns, c)
		wg.Go(func() {
			b := make([]byte, 64)
			for {
				k, _, err := c.ReadFromUDPAddrPort(b)
				if err != nil {
					return
				}
				if k == 8 {
					receipts <- receipt{h.name, int(binary.BigEndian.Uint64(b))}
				}
			}
		})
	}
	c, err := from.listenPacket(netip.AddrPortFrom(from.addr, 0).String())
	if err != nil {
		l.t.Fatalf("broadcast: %v", err)
	}
	defer c.Close()
	copies := map[string][]int{}
	for _, h := range l.hosts {
		if h != from {
			copies[h.name] = make([]int, n)
		}
	}
	all := netip.MustParseAddrPort(fmt.Sprintf("10.0.0.255:%d", port))
	for i := range n {
		if _, err := c.WriteToUDPAddrPort(binary.BigEndian.AppendUint64(nil, uint64(i)), all); err != nil {
			l.t.Fatalf("broadcast: %v", err)
		}
		// One a millisecond: bursts would test the sockets' buffers.
		time.Sleep(time.Millisecond)
	}
	// The last copies are here when nothing has come for a while; a storm never ends, so it is bounded.
	end := time.After(5 * time.Second)
	for quiet := false; !quiet; {
		select {
		case r := <-receipts:
			copies[r.host][r.n]++
		case <-time.After(500 * time.Millisecond):
			quiet = true
		case <-end:
			quiet = true
		}
	}
	for _, c := range conns {
		_ = c.Close()
	}
	wg.Wait()
	return copies
}

// frameLog keeps what arrives at a host's device.
type frameLog struct {
	mu     sync.Mutex
	frames [][]byte
}

// capture records all frames that arrive at the host from now on.
func (h *host) capture() *frameLog {
	h.t.Helper()
	f := h.sniff(h.t, "eth0")
	log := &frameLog{}
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, err := f.Read(b)
			if err != nil {
				return
			}
			log.mu.Lock()
			log.frames = append(log.frames, slices.Clone(b[:n]))
			log.mu.Unlock()
		}
	}()
	return log
}

// senders counts the frames that arrived from others by their source address.
func (l *frameLog) senders(h *host) map[string]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := map[string]int{}
	for _, f := range l.frames {
		if src := net.HardwareAddr(f[6:12]).String(); src != h.mac {
			m[src]++
		}
	}
	return m
}

// unicast counts the frames that were sent to another host's own address and
// arrived here all the same.
func (l *frameLog) unicast(h *host) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, f := range l.frames {
		dst, src := net.HardwareAddr(f[:6]).String(), net.HardwareAddr(f[6:12]).String()
		if f[0]&1 == 0 && dst != h.mac && src != h.mac {
			n++
		}
	}
	return n
}
