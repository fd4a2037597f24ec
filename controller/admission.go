package controller

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/ofproto"
)

// Bounds of admission.
const (
	maxOpen    = 8192 // connections at once
	maxPerPeer = 1024 // of one address, but for loopback
	maxFresh   = 2048 // connections that have not become sessions yet

	// handshakes is how many connections are read back at once, and peerHandshakes
	// how many of one address: the rest waits its turn. Reading a switch back is what
	// costs memory and time; a connection that waits costs next to nothing.
	handshakes     = 64
	peerHandshakes = 48

	// A datapath whose sessions end within flapLife is flapping. After flapsFree of
	// them the next is held back for flapHold, doubled each time up to flapMost.
	flapLife  = 2 * time.Second
	flapsFree = 10
	flapHold  = 250 * time.Millisecond
	flapMost  = 10 * time.Second
	flapReset = 10 * time.Second // a session this long ends the count

	// An address whose connections come to nothing is held back likewise.
	failsFree = 20
	failHold  = 100 * time.Millisecond
	failMost  = 10 * time.Second

	holdForget = time.Minute // without a flap, and all is forgiven
	maxHolds   = 8192        // remembered
)

// Reasons for which a connection is refused before it is a session.
var (
	errTooMany     = errors.New("too many connections")
	errTooManyPeer = errors.New("too many connections from this address")
	errEvicted     = errors.New("closed to make room: too many connections have not finished the handshake")
)

// admission bounds and orders what connections may ask of the controller.
type admission struct {
	mu    sync.Mutex
	open  int
	fresh int
	peers map[netip.Addr]*peer
	busy  int // handshakes under way
	turns []netip.Addr
	holds map[holdKey]hold

	refused map[string]uint64 // by reason
	panics  uint64
}

// peer is what one address has open.
type peer struct {
	open    int
	fresh   []*entry // oldest first
	busy    int
	waiting []chan struct{} // for a turn, oldest first; closed when it has come
}

// entry is one connection.
type entry struct {
	addr    netip.Addr
	nc      net.Conn
	fresh   bool
	evicted bool
	busy    bool
}

// holdKey is whom a hold is for: a datapath at an address, or an address.
type holdKey struct {
	addr netip.Addr
	dpid ofproto.DPID
	any  bool // the address itself
}

type hold struct {
	count int
	last  time.Time
}

func newAdmission() *admission {
	return &admission{peers: map[netip.Addr]*peer{}, holds: map[holdKey]hold{}, refused: map[string]uint64{}}
}

// peerAddr is the address by which a connection is counted. What is not TCP is of
// this machine.
func peerAddr(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// enter counts a connection, or says why it is refused. When too many have not
// finished the handshake, the oldest of the address with the most of them makes room.
func (a *admission) enter(nc net.Conn) (*entry, error) {
	e := &entry{addr: peerAddr(nc.RemoteAddr()), nc: nc, fresh: true}
	a.mu.Lock()
	defer a.mu.Unlock()
	p := a.peers[e.addr]
	switch {
	case a.open >= maxOpen:
		return nil, errTooMany
	case p != nil && p.open >= maxPerPeer && !e.addr.IsLoopback():
		return nil, errTooManyPeer
	case a.fresh >= maxFresh:
		a.evict()
	}
	if p = a.peers[e.addr]; p == nil {
		p = &peer{}
		a.peers[e.addr] = p
	}
	a.open++
	p.open++
	a.fresh++
	p.fresh = append(p.fresh, e)
	return e, nil
}

// evict closes a connection that has not finished the handshake.
func (a *admission) evict() {
	var most *peer
	for _, p := range a.peers {
		if most == nil || len(p.fresh) > len(most.fresh) {
			most = p
		}
	}
	e := most.fresh[0]
	e.evicted = true
	a.settleLocked(e)
	cut(e.nc)
}

// cut closes a connection at once: TLS would wait to say goodbye.
func cut(nc net.Conn) {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	_ = nc.Close() // there is nobody to tell
}

// settle records that a connection has become a session.
func (a *admission) settle(e *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settleLocked(e)
}

func (a *admission) settleLocked(e *entry) {
	if !e.fresh {
		return
	}
	e.fresh = false
	a.fresh--
	p := a.peers[e.addr]
	p.fresh = slices.DeleteFunc(p.fresh, func(o *entry) bool { return o == e })
}

// leave gives back all that a connection holds. It reports whether the connection
// had been closed to make room for another.
func (a *admission) leave(e *entry) (evicted bool) {
	a.done(e)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.settleLocked(e)
	a.open--
	p := a.peers[e.addr]
	if p.open--; p.open == 0 {
		delete(a.peers, e.addr)
	}
	return e.evicted
}

// turn waits until a connection may be read back. Addresses take turns; within one
// address the first come are served first.
func (a *admission) turn(ctx context.Context, e *entry) error {
	a.mu.Lock()
	p := a.peers[e.addr]
	come := make(chan struct{})
	p.waiting = append(p.waiting, come)
	if len(p.waiting) == 1 {
		a.turns = append(a.turns, e.addr)
	}
	a.nextLocked()
	a.mu.Unlock()
	select {
	case <-come:
		e.busy = true
		return nil
	case <-ctx.Done():
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if i := slices.Index(p.waiting, come); i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
		if len(p.waiting) == 0 {
			a.turns = slices.DeleteFunc(a.turns, func(o netip.Addr) bool { return o == e.addr })
		}
	} else { // it came just now
		a.busy--
		p.busy--
		a.nextLocked()
	}
	return context.Cause(ctx)
}

// done gives a turn back, once.
func (a *admission) done(e *entry) {
	if !e.busy {
		return
	}
	e.busy = false
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy--
	a.peers[e.addr].busy--
	a.nextLocked()
}

// nextLocked gives turns away while there are any.
func (a *admission) nextLocked() {
	for skipped := 0; a.busy < handshakes && skipped < len(a.turns); {
		addr := a.turns[0]
		a.turns = a.turns[1:]
		p := a.peers[addr]
		if p.busy >= peerHandshakes {
			a.turns = append(a.turns, addr)
			skipped++
			continue
		}
		skipped = 0
		come := p.waiting[0]
		if p.waiting = p.waiting[1:]; len(p.waiting) > 0 {
			a.turns = append(a.turns, addr)
		}
		a.busy++
		p.busy++
		close(come)
	}
}

// heldFor is how long a datapath or an address is held back at present.
func (a *admission) heldFor(k holdKey, now time.Time) time.Duration {
	a.mu.Lock()
	h, ok := a.holds[k]
	a.mu.Unlock()
	if !ok {
		return 0
	}
	free, first, most := flapsFree, flapHold, flapMost
	if k.any {
		free, first, most = failsFree, failHold, failMost
	}
	n := h.count - free
	if n <= 0 || now.Sub(h.last) > holdForget {
		return 0
	}
	return max(h.last.Add(min(first<<min(n-1, 16), most)).Sub(now), 0)
}

// flapping says whether a datapath has flapped more than twice lately.
func (a *admission) flapping(k holdKey) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.holds[k].count > 2
}

// note counts a flap or a failure, or forgets what was counted.
func (a *admission) note(k holdKey, bad bool, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !bad {
		delete(a.holds, k)
		return
	}
	if len(a.holds) >= maxHolds {
		maps.DeleteFunc(a.holds, func(_ holdKey, h hold) bool { return now.Sub(h.last) > holdForget })
		for k := range a.holds { // half of them, where that was not enough
			if len(a.holds) <= maxHolds/2 {
				break
			}
			delete(a.holds, k)
		}
	}
	h := a.holds[k]
	if now.Sub(h.last) > holdForget {
		h.count = 0
	}
	a.holds[k] = hold{count: h.count + 1, last: now}
}

// pause holds a connection back for as long as its key is.
func (a *admission) pause(ctx context.Context, k holdKey) error {
	d := a.heldFor(k, time.Now())
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// count counts a refusal.
func (a *admission) count(reason string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.refused[reason]++
}

func (a *admission) panicked() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.panics++
}

// Counters count since the start, and what is open now.
type Counters struct {
	Open    int               // connections
	Fresh   int               // of them, those that have not finished the handshake
	Refused map[string]uint64 // connections that became no session, by reason
	Panics  uint64            // contained
}

// Counters returns what was admitted and refused. It is safe for concurrent use.
func (c *Controller) Counters() Counters {
	a := c.admission
	a.mu.Lock()
	defer a.mu.Unlock()
	return Counters{Open: a.open, Fresh: a.fresh, Refused: maps.Clone(a.refused), Panics: a.panics}
}
