package health

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/fairlead/fairlead/ofproto/packet"
)

var (
	member4 = netip.MustParseAddr("10.0.0.2")
	member6 = netip.MustParseAddr("2001:db8::2")
	source4 = netip.MustParseAddr("10.0.0.100")
	source6 = netip.MustParseAddr("2001:db8::100")
)

// peer is a machine with a TCP/IP stack of its own at the other end of a wire.
type peer struct {
	t     *testing.T
	wire  *wire
	stack *stack.Stack
	link  *channel.Endpoint
	// lose says which packets to the peer are lost; nil: none.
	lose func(ip []byte) bool
}

func newPeer(t *testing.T, w *wire) *peer {
	p := &peer{t: t, wire: w, link: channel.New(1024, mtu, "")}
	p.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	require.Nil(t, p.stack.CreateNIC(1, p.link))
	for _, a := range []netip.Addr{member4, member6} {
		require.Nil(t, p.stack.AddProtocolAddress(1, tcpip.ProtocolAddress{
			Protocol: protocolOf(a.Is4()), AddressWithPrefix: addressOf(a).WithPrefix(),
		}, stack.AddressProperties{}))
	}
	p.stack.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}, {Destination: header.IPv6EmptySubnet, NIC: 1}})
	return p
}

// serve carries packets both ways, and gives results to the channel, until ctx ends.
func (p *peer) serve(ctx context.Context, results chan<- result) {
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-p.wire.news:
			}
			out, rs := p.wire.drain()
			for _, o := range out {
				if !wellFormed(o.data) {
					p.t.Errorf("malformed packet % x", o.data)
				}
				if p.lose == nil || !p.lose(o.data) {
					pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(o.data)})
					p.link.InjectInbound(protocolOf(o.data[0]>>4 == 4), pkt)
					pkt.DecRef()
				}
			}
			for _, r := range rs {
				results <- r
			}
		}
	}()
	go func() {
		for {
			pkt := p.link.ReadContext(ctx)
			if pkt == nil {
				return
			}
			b := pkt.ToView().ToSlice()
			pkt.DecRef()
			p.wire.deliver(0, b)
		}
	}()
}

// wellFormed says whether an IP packet is one that hosts take, of at most 1,500 bytes.
func wellFormed(ip []byte) bool {
	typ := packet.EtherTypeIPv4
	if ip[0]>>4 == 6 {
		typ = packet.EtherTypeIPv6
	}
	f, err := packet.Decode(append(packet.AppendEthernet(nil, packet.Ethernet{Type: typ}), ip...))
	src, _, _ := f.Ports()
	return err == nil && f.ChecksumsOK() && len(ip) <= mtu && src >= firstPort
}

func (p *peer) listen(a netip.Addr, port uint16) net.Listener {
	l, err := gonet.ListenTCP(p.stack, tcpip.FullAddress{NIC: 1, Addr: addressOf(a), Port: port}, protocolOf(a.Is4()))
	require.NoError(p.t, err)
	p.t.Cleanup(func() { l.Close() })
	return l
}

// each calls f for every connection to a port.
func each(l net.Listener, f func(net.Conn)) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go f(c)
		}
	}()
}

// rig is a wire with a peer, which serves in many ways.
type rig struct {
	t       *testing.T
	wire    *wire
	peer    *peer
	results chan result
	other   result // the last of a probe given up
	next    uint64
	stop    func()
}

func newRig(t *testing.T) *rig { return startRig(t, newWire(slog.New(slog.DiscardHandler))) }

func startRig(t *testing.T, w *wire) *rig {
	r := &rig{t: t, wire: w, results: make(chan result, 10000)}
	r.peer = newPeer(t, r.wire)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); r.wire.run(ctx) }()
	r.peer.serve(ctx, r.results)
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

// probe makes a probe and returns its result.
func (r *rig) probe(t Target) result {
	r.t.Helper()
	r.next++
	t.ID = fmt.Sprint(r.next)
	require.True(r.t, r.wire.start(r.next, t.filled(), time.Now().Add(t.Timeout)))
	end := time.After(t.Timeout)
	for {
		select {
		case got := <-r.results:
			if got.probe == r.next { // not of one given up
				return got
			}
			r.other = got
		case <-end:
			r.wire.abort(r.next)
			return result{id: t.ID, probe: r.next, outcome: OutcomeTimeout}
		}
	}
}

func (r *rig) target(typ Type, a netip.Addr, port uint16) Target {
	t := Target{Type: typ, Address: a, Port: port, Source: source4, Interval: 5 * time.Second, Timeout: 5 * time.Second}
	if a.Is6() {
		t.Source = source6
	}
	return t
}

func status(code int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
}

func TestProbesByTCP(t *testing.T) {
	r := newRig(t)
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS() // for its certificate, of example.com
	t.Cleanup(cert.Close)
	names := make(chan string, 10)
	seen := make(chan *http.Request, 10)
	for _, a := range []netip.Addr{member4, member6} {
		go http.Serve(r.peer.listen(a, 80), status(200))
		go http.Serve(r.peer.listen(a, 81), status(500))
		each(r.peer.listen(a, 82), func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) // hangs
		each(r.peer.listen(a, 83), func(c net.Conn) { _, _ = c.Read(make([]byte, 1000)); c.Close() })
		each(r.peer.listen(a, 88), func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); c.Close() }) // leaves bytes unread
		each(r.peer.listen(a, 84), func(c net.Conn) {
			fmt.Fprint(c, "SSH-2.0-OpenSSH_9.2\r\n")
		})
		each(r.peer.listen(a, 85), func(c net.Conn) {
			fmt.Fprint(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 20")
			fmt.Fprint(c, "4 No Content\r\n\r\n")
		})
		each(r.peer.listen(a, 86), func(c net.Conn) { // without end
			for {
				if _, err := fmt.Fprint(c, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		})
		go http.Serve(r.peer.listen(a, 87), http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			seen <- q
			w.WriteHeader(301)
		}))
		conf := cert.TLS.Clone()
		conf.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			names <- h.ServerName
			return nil, nil
		}
		go http.Serve(tls.NewListener(r.peer.listen(a, 443), conf), status(200))
		go http.Serve(tls.NewListener(r.peer.listen(a, 444), cert.TLS), status(503))
	}
	for _, a := range []netip.Addr{member4, member6} {
		of := func(typ Type, port uint16, change ...func(*Target)) Target {
			to := r.target(typ, a, port)
			for _, f := range change {
				f(&to)
			}
			return to
		}
		quick := func(t *Target) { t.Timeout = 100 * time.Millisecond }
		insecure := func(t *Target) { t.TLSInsecure = true }
		for _, c := range []struct {
			name    string
			target  Target
			outcome Outcome
			why     string
		}{
			{"TCP open", of(TCP, 80), OutcomeSuccess, ""},
			{"TCP refused", of(TCP, 9), OutcomeFailure, "connection refused"},
			{"HTTP 200", of(HTTP, 80), OutcomeSuccess, ""},
			{"HTTP 500", of(HTTP, 81), OutcomeFailure, "HTTP status 500, not 200"},
			{"HTTP 500 expected", of(HTTP, 81, func(t *Target) { t.ExpectedCodes = "204,500-599" }), OutcomeSuccess, ""},
			{"HTTP refused", of(HTTP, 9), OutcomeFailure, "connection refused"},
			{"HTTP hangs", of(HTTP, 82, quick), OutcomeTimeout, ""},
			{"HTTP closes", of(HTTP, 83), OutcomeFailure, "connection closed without an answer"},
			{"HTTP resets", of(HTTP, 88), OutcomeFailure, "connection reset"},
			{"not HTTP", of(HTTP, 84), OutcomeFailure, "the answer is not HTTP"},
			{"early hints, in pieces", of(HTTP, 85, func(t *Target) { t.ExpectedCodes = "200-299" }), OutcomeSuccess, ""},
			{"without end", of(HTTP, 86), OutcomeFailure, "the answer is not HTTP"},
			{"request", of(HTTP, 87, func(t *Target) {
				t.Method, t.Path, t.Host, t.ExpectedCodes = "OPTIONS", "/healthz?a=b", "shop.example", "301"
			}), OutcomeSuccess, ""},
			{"HTTPS", of(HTTPS, 443, insecure, func(t *Target) { t.Host = "shop.example" }), OutcomeSuccess, ""},
			{"HTTPS with a certificate of nobody", of(HTTPS, 443), OutcomeFailure, "TLS: "},
			{"HTTPS 503", of(HTTPS, 444, insecure), OutcomeFailure, "HTTP status 503, not 200"},
			{"HTTPS to HTTP", of(HTTPS, 80, insecure), OutcomeFailure, "TLS: "},
			{"HTTPS hangs", of(HTTPS, 82, insecure, quick), OutcomeTimeout, ""},
			{"HTTPS refused", of(HTTPS, 9), OutcomeFailure, "connection refused"},
		} {
			got := r.probe(c.target)
			require.Equal(t, c.outcome, got.outcome, "%s %s: %s", a, c.name, got.why)
			require.True(t, got.why == c.why || c.why == "TLS: " && strings.HasPrefix(got.why, c.why), "%s %s: %s", a, c.name, got.why)
		}
		q := <-seen
		require.Equal(t, "OPTIONS /healthz?a=b shop.example fairlead", fmt.Sprint(q.Method, " ", q.RequestURI, " ", q.Host, " ", q.UserAgent()))
		require.Equal(t, "shop.example", <-names)
		require.Equal(t, "", <-names, "an address is no server name")
	}
}

// Nothing is left of probes: neither goroutines nor connections, whether they ended
// well, were refused or were given up.
func TestProbesLeaveNothingBehind(t *testing.T) {
	r := newRig(t)
	go http.Serve(r.peer.listen(member4, 80), status(200))
	each(r.peer.listen(member4, 82), func(c net.Conn) { _, _ = io.Copy(io.Discard, c); c.Close() })
	r.probe(r.target(HTTP, member4, 80))
	before := runtime.NumGoroutine()
	for range 20 {
		require.Equal(t, OutcomeSuccess, r.probe(r.target(TCP, member4, 80)).outcome)
		require.Equal(t, OutcomeSuccess, r.probe(r.target(HTTP, member4, 80)).outcome)
		require.Equal(t, OutcomeFailure, r.probe(r.target(TCP, member4, 9)).outcome)
		hung := r.target(HTTPS, member4, 82)
		hung.Timeout = 20 * time.Millisecond
		require.Equal(t, OutcomeTimeout, r.probe(hung).outcome)
	}
	require.EventuallyWithT(t, func(t *assert.CollectT) {
		s := r.peer.stack.Stats().TCP
		assert.Zero(t, s.CurrentConnected.Value())
		assert.Zero(t, s.CurrentEstablished.Value())
		assert.LessOrEqual(t, runtime.NumGoroutine(), before+1, "but for the one that looks")
	}, 10*time.Second, 5*time.Millisecond)
	r.stop()
	require.Empty(t, r.wire.streams)
	require.Zero(t, r.wire.stack.stack.Stats().TCP.CurrentConnected.Value())
}

// Thousands of targets that hang take no goroutine each.
func TestProbesInFlightTakeNoGoroutines(t *testing.T) {
	r := newRig(t)
	r.peer.lose = func([]byte) bool { return true }
	before := runtime.NumGoroutine()
	var mem [2]runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&mem[0])
	const n = 3000
	for i := range n {
		to := r.target(HTTP, member4, 80)
		to.Source = netip.AddrFrom4([4]byte{10, 0, 100, byte(i)})
		require.True(t, r.wire.start(uint64(i+1), to.filled(), time.Now().Add(time.Minute)))
	}
	require.Eventually(t, func() bool { return len(r.wire.jobs) == 0 }, 10*time.Second, time.Millisecond)
	runtime.GC()
	runtime.ReadMemStats(&mem[1])
	goroutines := runtime.NumGoroutine() - before
	t.Logf("%d connections in flight: %d goroutines more, %d bytes each", n, goroutines, (mem[1].HeapAlloc-mem[0].HeapAlloc)/n)
	require.Less(t, goroutines, 50)
}

// A panic of the stack makes the probes under way void; the next ones are made.
func TestPanicOfTheStack(t *testing.T) {
	w := newWire(slog.New(slog.DiscardHandler))
	under := &stream{wire: w, probe: 77, target: Target{ID: "under way", Type: HTTP, Address: member4, Port: 80, Source: source4}}
	require.NoError(t, under.connect(w.stackNow()))
	w.streams[77] = under
	w.contain(func() { panic("bug") })
	require.Empty(t, w.streams)
	r := startRig(t, w)
	go http.Serve(r.peer.listen(member4, 80), status(200))
	require.Equal(t, OutcomeSuccess, r.probe(r.target(HTTP, member4, 80)).outcome)
	require.Equal(t, result{id: "under way", probe: 77, outcome: OutcomeVoid}, r.other)
}

func BenchmarkProbeHTTP(b *testing.B) {
	t := &testing.T{}
	r := &rig{t: t, wire: newWire(slog.New(slog.DiscardHandler)), results: make(chan result, 10000)}
	r.peer = newPeer(t, r.wire)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go r.wire.run(ctx)
	r.peer.serve(ctx, r.results)
	go http.Serve(r.peer.listen(member4, 80), status(200))
	b.ReportAllocs()
	for b.Loop() {
		r.probe(r.target(HTTP, member4, 80))
	}
}
