//go:build e2e

package e2e

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Where a lab's switches find their controller, and where it listens. Between the two stands the tap.
const (
	tapAddress        = "127.0.0.1:6633"
	controllerAddress = "127.0.0.1:6653"
)

// Types of OpenFlow messages that the tests count (OpenFlow 1.3.5, §7.1).
const (
	typeExperimenter = 4
	typePacketIn     = 10
	typeFlowMod      = 14
	typeGroupMod     = 15
	typePortMod      = 16
	typeTableMod     = 17
	typeMeterMod     = 29
)

// modTypes are those that change a switch.
var modTypes = []byte{typeFlowMod, typeGroupMod, typePortMod, typeTableMod, typeMeterMod}

// tap passes OpenFlow connections on to the controller and counts the messages.
type tap struct {
	ns *namespace
	mu sync.Mutex
	// down counts messages to the switches by type; those inside a bundle count as what they are.
	down, up map[byte]int
	recent   [][]byte // messages that change a switch, the last thousand, without their bundles
	conns    map[net.Conn]bool
	severed  bool
	seen     func(kind byte, message []byte) // is shown each message; nil: nobody looks
}

func newTap(t testing.TB, ns *namespace) *tap {
	t.Helper()
	p := &tap{ns: ns, down: map[byte]int{}, up: map[byte]int{}, conns: map[net.Conn]bool{}}
	l, err := ns.listen(tapAddress)
	if err != nil {
		t.Fatalf("tap: %v", err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		p.mu.Lock()
		for c := range p.conns {
			_ = c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.pass(c) })
		}
	})
	return p
}

// sever ends all connections and lets none come about, or lets them again.
func (p *tap) sever(severed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.severed = severed
	for c := range p.conns {
		_ = c.Close()
	}
}

// pass copies both directions until either end is closed, then closes both.
func (p *tap) pass(sw net.Conn) {
	defer p.forget(sw)
	if !p.remember(sw) {
		return
	}
	ctl, err := p.ns.dial(netip.AddrPort{}, netip.MustParseAddrPort(controllerAddress), time.Second)
	if err != nil {
		return // no controller: the switch sees a refused connection and tries again
	}
	defer p.forget(ctl)
	if !p.remember(ctl) {
		return
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.copy(ctl, sw, p.up)
		p.forget(ctl)
		p.forget(sw)
	}()
	p.copy(sw, ctl, p.down)
	p.forget(ctl)
	p.forget(sw)
	<-done
}

// remember notes a connection; false: there is to be none.
func (p *tap) remember(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[c] = true
	return !p.severed
}

func (p *tap) forget(c net.Conn) {
	_ = c.Close()
	p.mu.Lock()
	delete(p.conns, c)
	p.mu.Unlock()
}

// copy passes messages on, those that came together in one piece: a write for each
// would be what the switch waits for.
func (p *tap) copy(dst io.Writer, src io.Reader, counts map[byte]int) {
	const bundleAdd = 2301 // ONF extension 230
	in, out := bufio.NewReaderSize(src, 1<<18), bufio.NewWriterSize(dst, 1<<18)
	b := make([]byte, 1<<16)
	// fill reads on, after passing on what is here when it would have to wait.
	fill := func(b []byte) error {
		if in.Buffered() < len(b) {
			if err := out.Flush(); err != nil {
				return err
			}
		}
		_, err := io.ReadFull(in, b)
		return err
	}
	for {
		if err := fill(b[:8]); err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < 8 {
			return
		}
		if err := fill(b[8:n]); err != nil {
			return
		}
		message := b[:n]
		if message[1] == typeExperimenter && n >= 32 && binary.BigEndian.Uint32(b[8:]) == 0x4f4e4600 && binary.BigEndian.Uint32(b[12:]) == bundleAdd {
			message = b[24 : 24+binary.BigEndian.Uint16(b[26:])] // the one in it
		}
		kind := message[1]
		p.mu.Lock()
		counts[kind]++
		if slices.Contains(modTypes, kind) {
			p.recent = append(p.recent[max(0, len(p.recent)-999):], slices.Clone(message))
		}
		if p.seen != nil {
			p.seen(kind, message)
		}
		p.mu.Unlock()
		if _, err := out.Write(b[:n]); err != nil {
			return
		}
	}
}

// look has every message shown to f from now on, nil: to nobody. f must not block.
func (p *tap) look(f func(kind byte, message []byte)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seen = f
}

// mods returns the messages that changed a switch so far, by type.
func (p *tap) mods() map[byte]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := map[byte]int{}
	for _, kind := range modTypes {
		if p.down[kind] > 0 {
			m[kind] = p.down[kind]
		}
	}
	return m
}

// last prints the last n messages that changed a switch.
func (p *tap) last(t testing.TB, n int) string {
	t.Helper()
	p.mu.Lock()
	recent := slices.Clone(p.recent[max(0, len(p.recent)-n):])
	p.mu.Unlock()
	var s strings.Builder
	for _, message := range recent {
		s.WriteString(run(t, "ovs-ofctl", "ofp-print", hex.EncodeToString(message)) + "\n")
	}
	return s.String()
}

// packetIns returns the packets that switches have sent to the controller so far.
func (p *tap) packetIns() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up[typePacketIn]
}

// snapshot of all counts, for messages of failed tests.
func (p *tap) snapshot() (down, up map[byte]int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.down), maps.Clone(p.up)
}
