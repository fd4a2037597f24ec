package health

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// mtu of probes through the switches.
const mtu = 1500

// netstack is the TCP/IP stack of probes. It has a link for each VLAN, without link
// addresses, routes or neighbours: the core knows where hosts are. Links take any
// source address: the entries in switches choose what comes in.
type netstack struct {
	wire   *wire
	stack  *stack.Stack
	links  map[uint16]*link
	broken atomic.Bool // a timer of it panicked
}

func newNetstack(w *wire) *netstack {
	n := &netstack{wire: w, links: map[uint16]*link{}}
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
		Clock:              &clock{Clock: tcpip.NewStdClock(), stack: n},
	})
	// Cannot fail: the range is one.
	_ = n.stack.SetPortRange(firstPort, 0xffff)
	return n
}

// clock is the stack's. A panic in a timer of the stack is contained, and the stack
// replaced. It is monotonic: steps of the wall clock change nothing.
type clock struct {
	tcpip.Clock
	stack *netstack
}

// AfterFunc implements tcpip.Clock.
func (c *clock) AfterFunc(d time.Duration, f func()) tcpip.Timer {
	return c.Clock.AfterFunc(d, func() {
		defer func() {
			if p := recover(); p != nil {
				c.stack.wire.log.Error("TCP/IP stack of health monitors panicked", "panic", p, "stack", string(debug.Stack()))
				c.stack.broken.Store(true)
			}
		}()
		f()
	})
}

// link returns the link of a VLAN.
func (n *netstack) link(vlan uint16) (*link, error) {
	if l := n.links[vlan]; l != nil {
		return l, nil
	}
	l := &link{wire: n.wire, vlan: vlan, id: tcpip.NICID(vlan) + 1}
	for _, f := range []func() tcpip.Error{
		func() tcpip.Error { return n.stack.CreateNIC(l.id, l) },
		func() tcpip.Error { return n.stack.SetSpoofing(l.id, true) },
		func() tcpip.Error { return n.stack.SetPromiscuousMode(l.id, true) },
	} {
		if err := f(); err != nil {
			return nil, fmt.Errorf("health: make link of VLAN %d: %s", vlan, err)
		}
	}
	n.stack.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: l.id})
	n.stack.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: l.id})
	n.links[vlan] = l
	return l, nil
}

// inject gives the stack a packet from a host.
func (n *netstack) inject(p inbound) {
	l := n.links[p.vlan]
	if l == nil || l.dispatcher == nil || len(p.data) == 0 {
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(p.data)})
	defer pkt.DecRef()
	l.dispatcher.DeliverNetworkPacket(protocolOf(p.data[0]>>4 == 4), pkt)
}

func protocolOf(v4 bool) tcpip.NetworkProtocolNumber {
	if v4 {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func (n *netstack) close() {
	n.stack.Close()
	n.stack.Wait()
}

// link is the data network as the stack sees it, a stack.LinkEndpoint.
type link struct {
	wire       *wire
	vlan       uint16
	id         tcpip.NICID
	dispatcher stack.NetworkDispatcher
}

// WritePackets implements stack.LinkWriter.
func (l *link) WritePackets(list stack.PacketBufferList) (int, tcpip.Error) {
	for _, p := range list.AsSlice() {
		view := p.ToView()
		data := bytes.Clone(view.AsSlice())
		view.Release()
		if dst, ok := destination(data); ok {
			l.wire.send(outbound{l.vlan, dst, data})
		}
	}
	return list.Len(), nil
}

// destination is where an IP packet goes.
func destination(b []byte) (netip.Addr, bool) {
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(b[16:20])), true
	case len(b) >= 40 && b[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(b[24:40])), true
	}
	return netip.Addr{}, false
}

// Attach implements stack.LinkEndpoint.
func (l *link) Attach(d stack.NetworkDispatcher) { l.dispatcher = d }

// IsAttached implements stack.LinkEndpoint.
func (l *link) IsAttached() bool { return l.dispatcher != nil }

// MTU implements stack.LinkEndpoint.
func (*link) MTU() uint32 { return mtu }

// SetMTU implements stack.LinkEndpoint; the MTU is fixed.
func (*link) SetMTU(uint32) {}

// MaxHeaderLength implements stack.LinkEndpoint: the core adds the Ethernet header.
func (*link) MaxHeaderLength() uint16 { return 0 }

// LinkAddress implements stack.LinkEndpoint.
func (*link) LinkAddress() tcpip.LinkAddress { return "" }

// SetLinkAddress implements stack.LinkEndpoint; there is none.
func (*link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint: checksums are the stack's to make and
// to check.
func (*link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityNone }

// Wait implements stack.LinkEndpoint.
func (*link) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }

// AddHeader implements stack.LinkEndpoint.
func (*link) AddHeader(*stack.PacketBuffer) {}

// ParseHeader implements stack.LinkEndpoint.
func (*link) ParseHeader(*stack.PacketBuffer) bool { return true }

// Close implements stack.LinkEndpoint.
func (*link) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (*link) SetOnCloseAction(func()) {}

// stream is one connection of a probe through the switches. It needs no goroutine: the
// stack says when there is something to do, and step does it.
type stream struct {
	wire     *wire
	probe    uint64
	target   Target
	deadline time.Time

	queue   waiter.Queue
	entry   waiter.Entry
	ep      tcpip.Endpoint
	waiting atomic.Bool // among those that are ready
	phase   phase
	handed  bool   // to a goroutine
	head    []byte // of the response
}

type phase uint8

const (
	phaseConnect phase = iota
	phaseRead          // the request is sent
	phaseTLS           // connected; a goroutine speaks
)

// connect begins the connection.
func (s *stream) connect(n *netstack) error {
	l, err := n.link(s.target.VLAN)
	if err != nil {
		return err
	}
	protocol := protocolOf(s.target.Address.Is4())
	ep, terr := n.stack.NewEndpoint(tcp.ProtocolNumber, protocol, &s.queue)
	if terr != nil {
		return stackError{terr}
	}
	s.ep = ep
	s.entry = waiter.NewFunctionEntry(waiter.ReadableEvents|waiter.WritableEvents|waiter.EventErr|waiter.EventHUp, func(waiter.EventMask) {
		s.wire.wake(s)
	})
	s.queue.EventRegister(&s.entry)
	if terr := ep.Bind(tcpip.FullAddress{NIC: l.id, Addr: addressOf(s.target.Source)}); terr != nil {
		return stackError{terr}
	}
	terr = ep.Connect(tcpip.FullAddress{NIC: l.id, Addr: addressOf(s.target.Address), Port: s.target.Port})
	if _, started := terr.(*tcpip.ErrConnectStarted); !started && terr != nil {
		return stackError{terr}
	}
	return nil
}

func addressOf(a netip.Addr) tcpip.Address { return tcpip.AddrFromSlice(a.AsSlice()) }

// step goes on as far as it can without waiting. done or an error is the end.
func (s *stream) step() (done bool, err error) {
	if s.phase == phaseTLS {
		return false, nil
	}
	if s.phase == phaseConnect {
		if err := s.ep.LastError(); err != nil {
			return false, stackError{err}
		}
		switch state := tcp.EndpointState(s.ep.State()); state {
		case tcp.StateEstablished, tcp.StateCloseWait:
		case tcp.StateError, tcp.StateClose:
			return false, errClosed
		default:
			return false, nil // not connected yet
		}
		switch s.target.Type {
		case TCP:
			return true, nil
		case HTTPS:
			s.phase = phaseTLS
			s.queue.EventUnregister(&s.entry)
			return false, nil
		}
		if _, err := s.ep.Write(bytes.NewReader(request(s.target)), tcpip.WriteOptions{}); err != nil {
			return false, stackError{err}
		}
		s.phase = phaseRead
	}
	for {
		var b bytes.Buffer
		r, err := s.ep.Read(&limited{&b, maxHead - len(s.head)}, tcpip.ReadOptions{})
		s.head = append(s.head, b.Bytes()...)
		if r.Count > 0 {
			if done, err := judge(s.target, s.head); done || err != nil {
				return done, err
			}
		}
		switch err.(type) {
		case nil:
			if r.Count == 0 {
				return false, nil
			}
		case *tcpip.ErrWouldBlock:
			return false, nil
		case *tcpip.ErrClosedForReceive:
			return false, errClosed
		default:
			return false, stackError{err}
		}
	}
}

var errClosed = errors.New("connection closed without an answer")

// limited takes up to n bytes.
type limited struct {
	io.Writer
	n int
}

// Write implements io.Writer.
func (l *limited) Write(b []byte) (int, error) {
	if len(b) > l.n {
		b = b[:l.n]
	}
	l.n -= len(b)
	n, err := l.Writer.Write(b)
	if err == nil && l.n == 0 {
		err = io.ErrShortWrite
	}
	return n, err
}

// conn is the connection as Go knows them, for a goroutine that speaks TLS.
func (s *stream) conn() net.Conn { return gonet.NewTCPConn(&s.queue, s.ep) }

// close resets the connection: it leaves nothing to wait for on either side.
func (s *stream) close() {
	if s.ep != nil {
		s.queue.EventUnregister(&s.entry)
		s.ep.Abort()
	}
}

// stackError is an error of the stack as a reason.
type stackError struct{ err tcpip.Error }

// Error implements error.
func (e stackError) Error() string {
	switch e.err.(type) {
	case *tcpip.ErrConnectionRefused:
		return "connection refused"
	case *tcpip.ErrConnectionReset, *tcpip.ErrConnectionAborted:
		return "connection reset"
	}
	return e.err.String()
}
