package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
)

const (
	fakePorts = 4
	// fakeHosts is how many hosts take turns in asking, so that a controller's host
	// table is looked into and its branch predictor is not the only one at work.
	fakeHosts = 16
	// patience is how long a packet-in may stay without an answer before it counts as
	// lost and another is sent in its place.
	patience = 500 * time.Millisecond
)

// fake is a switch that forwards nothing, as cbench's are: it sends packet-ins and
// counts the answers. All of its packet-ins are ARP requests, made beforehand; a
// packet-out that carries ARP is an answer, others are dropped. Everything else that
// the controller says goes to a simswitch without bundles or Nicira's actions, which
// holds what it is told and is not named Open vSwitch.
type fake struct {
	dpid uint64
	nc   net.Conn
	sim  net.Conn // to the simswitch
	ask  [][]byte // packet-ins, one a host

	// members are the addresses that answer ARP, as hosts behind the ports.
	members map[netip.Addr]bool

	mu       sync.Mutex
	run      *fakeRun
	writing  sync.Mutex
	next     int
	featured chan struct{} // closed with the features reply
	once     sync.Once
	done     chan struct{} // closed when the connection has ended
	err      error
}

// fakeRun is one measurement.
type fakeRun struct {
	window   int
	inFlight int
	sentAt   time.Time
	answers  int
	lost     int
	times    []time.Duration // of each answer, where window is 1
}

// dialFake connects a switch to a controller and answers its handshake.
func dialFake(ctx context.Context, addr string, dpid uint64, target netip.Addr, members ...netip.Addr) (*fake, error) {
	nc, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	f := &fake{dpid: dpid, nc: nc, members: map[netip.Addr]bool{}, featured: make(chan struct{}), done: make(chan struct{})}
	for _, m := range members {
		f.members[m] = true
	}
	for i := range fakeHosts {
		mac := ofproto.MAC{0x02, 0, 0, byte(dpid >> 8), byte(dpid), byte(i + 1)}
		ip := netip.AddrFrom4([4]byte{10, 9, byte(dpid), byte(i + 1)})
		f.ask = append(f.ask, packetInOf(1+i%fakePorts, packet.AppendARPRequest(nil, mac, ip, target)))
	}
	near, far := net.Pipe()
	f.sim = near
	go func() { _ = f.simulated().Serve(ctx, far) }()
	go f.pump()
	go f.read()
	select {
	case <-f.featured:
		return f, nil
	case <-f.done:
		return nil, fmt.Errorf("fake switch %d: handshake: %w", dpid, f.err)
	case <-time.After(10 * time.Second):
		f.close()
		return nil, fmt.Errorf("fake switch %d: the controller does not ask for its features", dpid)
	}
}

func packetInOf(port int, frame []byte) []byte {
	return ofproto.Append(nil, 0, &ofproto.PacketIn{
		BufferID: ofproto.NoBuffer, TotalLen: uint16(len(frame)), Reason: ofproto.ReasonNoMatch, Cookie: ^uint64(0),
		Match: ofproto.NewMatch(ofproto.InPort(ofproto.Port(port))), Data: frame,
	})
}

// simulated returns the switch that answers what is no packet-out.
func (f *fake) simulated() *simswitch.Switch {
	o := simswitch.Options{
		DPID: ofproto.DPID(f.dpid), NoBundles: true, NoNicira: true,
		Desc: &ofproto.Desc{Manufacturer: "bench", Hardware: "fake switch", Software: "bench"},
	}
	for p := range fakePorts {
		o.Ports = append(o.Ports, ofproto.Port(p+1))
	}
	return simswitch.New(o)
}

// pump passes on what the simswitch says.
func (f *fake) pump() {
	buf := make([]byte, 64<<10)
	for {
		n, err := f.sim.Read(buf)
		if err != nil {
			return
		}
		f.write(buf[:n])
	}
}

func (f *fake) close() {
	f.nc.Close()
	<-f.done
}

// write is for what is rare; what is lost when the connection has ended is not missed.
func (f *fake) write(b []byte) {
	f.writing.Lock()
	defer f.writing.Unlock()
	_, _ = f.nc.Write(b)
}

func (f *fake) read() {
	defer close(f.done)
	defer f.sim.Close()
	buf := make([]byte, 256<<10)
	have := 0
	var out []byte
	for {
		n, err := f.nc.Read(buf[have:])
		have += n
		answers, used := 0, 0
		out = out[:0]
		for have-used >= ofproto.HeaderLen {
			b := buf[used:have]
			size := int(binary.BigEndian.Uint16(b[2:]))
			if size < ofproto.HeaderLen {
				f.err = fmt.Errorf("a message of %d bytes", size)
				f.nc.Close()
				return
			}
			if len(b) < size {
				break
			}
			if frame := b[:size]; ofproto.MessageType(b[1]) == ofproto.TypePacketOut {
				if arp := arpOf(frame); arp != nil {
					if reply := f.member(arp); reply != nil {
						out = append(out, reply...)
					} else {
						answers++
					}
				}
			} else {
				if ofproto.MessageType(b[1]) == ofproto.TypeFeaturesRequest {
					f.once.Do(func() { close(f.featured) })
				}
				_, _ = f.sim.Write(frame) // fails when the connection has ended
			}
			used += size
		}
		have = copy(buf, buf[used:have])
		if len(out) > 0 {
			f.write(out)
		}
		if answers > 0 {
			f.answered(answers)
		}
		if err != nil {
			f.err = err
			return
		}
	}
}

// arpOf returns the Ethernet frame of a packet-out if it is ARP.
func arpOf(b []byte) []byte {
	if len(b) < 24 {
		return nil
	}
	data := 24 + int(binary.BigEndian.Uint16(b[16:]))
	if len(b) < data+42 || b[data+12] != 0x08 || b[data+13] != 0x06 {
		return nil
	}
	return b[data:]
}

// member answers, as a host would, what the controller itself asks of a member.
func (f *fake) member(frame []byte) []byte {
	if len(f.members) == 0 || frame[21] != byte(packet.ARPRequest) {
		return nil
	}
	addr := netip.AddrFrom4([4]byte(frame[38:42]))
	if !f.members[addr] {
		return nil
	}
	asker := ofproto.MAC(frame[6:12])
	return packetInOf(memberPort(addr), packet.AppendARPReply(nil, memberMAC(addr), addr, asker, netip.IPv4Unspecified()))
}

func memberMAC(a netip.Addr) ofproto.MAC {
	b := a.As4()
	return ofproto.MAC{0x02, 0x01, b[0], b[1], b[2], b[3]}
}

func memberPort(a netip.Addr) int { return 1 + int(a.As4()[3])%fakePorts }

// announce makes the members known: each sends a gratuitous ARP.
func (f *fake) announce() {
	var out []byte
	for addr := range f.members {
		out = append(out, packetInOf(memberPort(addr), packet.AppendARPRequest(nil, memberMAC(addr), addr, addr))...)
	}
	f.write(out)
}

// start begins to send packet-ins, so that window of them are without an answer at
// any time.
func (f *fake) start(window int) {
	f.mu.Lock()
	f.run = &fakeRun{window: window}
	f.refill()
	f.mu.Unlock()
}

// stop ends the sending and returns what was counted.
func (f *fake) stop() *fakeRun {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.run
	f.run = nil
	return r
}

// answered counts answers and sends as many packet-ins.
func (f *fake) answered(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := f.run
	if r == nil {
		return
	}
	if r.window == 1 {
		r.times = append(r.times, time.Since(r.sentAt))
	}
	r.answers += n
	r.inFlight = max(r.inFlight-n, 0)
	f.refill()
}

// impatient gives up what has waited for too long.
func (f *fake) impatient() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r := f.run; r != nil && r.inFlight > 0 && time.Since(r.sentAt) > patience {
		r.lost += r.inFlight
		r.inFlight = 0
		f.refill()
	}
}

// refill fills the window. The caller holds mu.
func (f *fake) refill() {
	r := f.run
	var out []byte
	if r.window == 1 {
		out = f.ask[f.next%fakeHosts]
	} else {
		out = slices.Grow(out, (r.window-r.inFlight)*len(f.ask[0]))
		for i := r.inFlight; i < r.window; i++ {
			out = append(out, f.ask[(f.next+i)%fakeHosts]...)
		}
	}
	f.next += r.window - r.inFlight
	r.inFlight = r.window
	r.sentAt = time.Now()
	f.write(out)
}
