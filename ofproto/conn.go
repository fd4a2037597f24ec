package ofproto

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Why a connection or a request on it ended.
var (
	// ErrSlow says that the peer does not read: the write queue was full, or one
	// write pending, for as long as WriteTimeout.
	ErrSlow = errors.New("peer does not read")
	// ErrSilent says that no whole message came for as long as ReadTimeout.
	ErrSilent = errors.New("peer is silent")
	// ErrTorn says that a multipart reply does not fit together. What came of it is void.
	ErrTorn = errors.New("torn multipart reply")
	// ErrTooLarge says that a multipart reply went over MaxMultipart. What came of it is void.
	ErrTooLarge = errors.New("multipart reply too large")
	// ErrNotOpenFlow says that the peer began with what is no version of OpenFlow.
	ErrNotOpenFlow = errors.New("peer does not speak OpenFlow")
	// ErrNoReply says that a message was handed to Request that has no reply.
	ErrNoReply = errors.New("message has no reply")
)

// Defaults of ConnOptions.
const (
	DefaultMaxMultipart = 64 << 20
	DefaultMaxQueue     = 8 << 20
)

const (
	minReadBuffer = 4 << 10
	maxReadBuffer = 64 << 10 // holds the longest message
	writeChunk    = 64 << 10 // written at once; echo replies go between two of them
	keptBuffer    = 256 << 10
	keptFor       = 16        // times that a larger one may be little used
	maxUrgent     = 256 << 10 // echo replies of a peer that does not read them
	closeTimeout  = time.Second

	// requestXID marks the transactions of Request and Multipart. The replies to
	// those that were given up are known by it, with no list of them.
	requestXID   uint32 = 1 << 31
	keepaliveXID        = requestXID
)

// ConnOptions say how a Conn behaves. The zero value has no timeouts.
type ConnOptions struct {
	// Handler is called for every message that is neither an echo request nor the
	// reply to a Request or Multipart, in the order they came. It runs on the
	// goroutine that reads: while it runs nothing is read, no echo is answered and
	// no request completes, so it must be quick and must not call Request or
	// Multipart. The message, and what it points to, is valid until Handler
	// returns: it aliases the read buffer, and one *PacketIn is used for all.
	Handler func(Header, Message)

	// Drained is called, under the same rules, when all messages that one read brought
	// have been handled: who gathers what Handler gets can go on with it.
	Drained func()

	// Invalid is called, under the same rules, for every message whose header is
	// sound and whose rest is not: of another version, or an error of Parse. It is
	// dropped otherwise. The frame aliases the read buffer.
	Invalid func(h Header, frame []byte, err error)

	// KeepaliveInterval is how long nothing may come before the Conn sends an echo
	// request; 0 is never.
	KeepaliveInterval time.Duration
	// ReadTimeout is how long the peer may take for the next whole message; then
	// the Conn ends with ErrSilent. It should be well over KeepaliveInterval. 0 is
	// no limit.
	ReadTimeout time.Duration
	// WriteTimeout is how long one write to the peer, or the wait for room in the
	// queue, may take; then ErrSlow. 0 is no limit.
	WriteTimeout time.Duration

	// MaxMultipart bounds the bytes of one multipart reply, headers included; 0 is
	// DefaultMaxMultipart.
	MaxMultipart int
	// MaxQueue bounds the bytes that wait to be written; 0 is DefaultMaxQueue.
	MaxQueue int
}

// NumTypes is the length of the counters by message type; the last one counts all
// types after TypeMeterMod.
const NumTypes = int(TypeMeterMod) + 2

// ConnStats are the counters of a Conn since it was made.
type ConnStats struct {
	Sent, Received [NumTypes]uint64 // messages by type; those sent as they are queued
	BytesSent      uint64           // written
	BytesReceived  uint64
	Writes         uint64 // calls of Write, each of as many messages as were waiting
	Late           uint64 // replies to a request given up, or a second reply to one
	Invalid        uint64 // messages that Parse refused
	EchoesDropped  uint64 // echo replies not sent to a peer that does not read them
	Queued         int    // bytes that wait now
}

// Conn carries OpenFlow messages over a net.Conn, which it owns. It frames and
// counts them, queues and batches what is sent, answers echo requests, and matches
// replies to requests by transaction id. It does not negotiate: that is done on
// top, with Send and Handler.
//
// Run does the work on its own goroutine, which reads, and on one more, which
// writes; both have ended when it returns. All other methods are safe for
// concurrent use.
type Conn struct {
	nc  net.Conn
	raw syscall.RawConn // of nc, nil where it has none
	// For writeNow, made once.
	control func(fd uintptr)
	now     []byte
	wrote   int
	o       ConnOptions

	sendXID atomic.Uint32

	mu      sync.Mutex
	work    sync.Cond     // the writer waits here
	out     []byte        // whole frames that the writer has not taken
	urgent  []byte        // echo frames, which overtake the others
	queued  int           // bytes of out and of what the writer holds
	space   chan struct{} // closed and replaced when queued falls; nil when nobody waits
	idle    bool          // the writer waits
	inline  bool          // a Flush writes, and the writer must not
	partial []byte        // the end of what a Flush could not write, before all others
	spare   []byte        // buffer of the last Flush
	slack   int           // how many large buffers in a row were little used; see reuse
	running bool
	drainBy time.Time // set by Close: write what is queued until then
	aborted bool      // the net.Conn is closed
	err     error     // why it ended
	done    chan struct{}
	waiters map[uint32]*waiter
	lastXID uint32 // of a request
	sent    [NumTypes]uint64
	dropped uint64 // echo replies

	received      [NumTypes]atomic.Uint64
	bytesReceived atomic.Uint64
	bytesSent     atomic.Uint64
	writes        atomic.Uint64
	late, invalid atomic.Uint64

	// Reused by the reader from message to message.
	packetIn PacketIn
	part     MultipartReply
}

// waiter is a request whose reply has not come.
type waiter struct {
	reply     MessageType
	multipart MultipartType
	part      func(body []byte) error // nil unless multipart
	size      int                     // bytes of multipart so far

	// mu is held while part runs. Whoever sets over has the last word: no part runs
	// after that.
	mu   sync.Mutex
	over bool
	m    Message
	err  error
	done chan struct{} // closed with over
}

// finish completes a request, once.
func (w *waiter) finish(m Message, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.finishLocked(m, err)
}

func (w *waiter) finishLocked(m Message, err error) {
	if !w.over {
		w.over, w.m, w.err = true, m, err
		close(w.done)
	}
}

// NewConn makes a Conn of c. Nothing is read or written before Run; what is sent
// before waits in the queue.
func NewConn(c net.Conn, o ConnOptions) *Conn {
	if o.MaxMultipart == 0 {
		o.MaxMultipart = DefaultMaxMultipart
	}
	if o.MaxQueue == 0 {
		o.MaxQueue = DefaultMaxQueue
	}
	if o.Handler == nil {
		o.Handler = func(Header, Message) {}
	}
	if o.Invalid == nil {
		o.Invalid = func(Header, []byte, error) {}
	}
	conn := &Conn{nc: c, o: o, done: make(chan struct{}), waiters: make(map[uint32]*waiter)}
	conn.work.L = &conn.mu
	if sc, ok := c.(syscall.Conn); ok {
		conn.raw, _ = sc.SyscallConn() // without it the writer writes
	}
	conn.control = func(fd uintptr) { conn.wrote, _ = syscall.Write(int(fd), conn.now) }
	// Each connection counts from elsewhere: what was said in an earlier one, and
	// comes again in this, is no answer here.
	conn.sendXID.Store(rand.Uint32())
	conn.lastXID = rand.Uint32()
	return conn
}

// RemoteAddr returns the address of the peer.
func (c *Conn) RemoteAddr() net.Addr { return c.nc.RemoteAddr() }

// Err returns why the connection ended, nil while it has not: net.ErrClosed after
// Close, the context's cause, io.EOF when the peer closed it, ErrSlow, ErrSilent, a
// *ParseError for bytes that cannot be framed, or an error of the net.Conn.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Stats returns the counters as they are now.
func (c *Conn) Stats() ConnStats {
	s := ConnStats{
		BytesSent: c.bytesSent.Load(), BytesReceived: c.bytesReceived.Load(), Writes: c.writes.Load(),
		Late: c.late.Load(), Invalid: c.invalid.Load(),
	}
	for i := range s.Received {
		s.Received[i] = c.received[i].Load()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Sent, s.EchoesDropped, s.Queued = c.sent, c.dropped, c.queued
	return s
}

// Run reads and writes until the connection fails, Close is called or ctx ends. It
// returns what Err returns, which is not nil, and has released all waiting
// requests with it. It may be called once.
func (c *Conn) Run(ctx context.Context) error {
	c.mu.Lock()
	switch {
	case c.running:
		c.mu.Unlock()
		return errors.New("ofproto: run connection: already running")
	case c.err != nil:
		c.mu.Unlock()
		return c.err
	}
	c.running = true
	c.mu.Unlock()

	stop := context.AfterFunc(ctx, func() {
		// After Close the writer keeps its second: the last message says why.
		if !c.draining() {
			c.abort(context.Cause(ctx))
		}
	})
	defer stop()
	written := make(chan struct{})
	go func() {
		defer close(written)
		c.write()
	}()
	err := c.read()
	if !c.ended() { // else Close is giving the writer its time
		c.abort(err)
	}
	<-written
	return c.Err()
}

// Close ends the connection. Requests are released with net.ErrClosed and nothing
// more can be sent, but what is queued is still written, for at most a second.
// Close does not wait for that: Run returns when it is done. Before Run it closes at
// once.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.end(net.ErrClosed)
	if !c.running {
		c.mu.Unlock()
		c.abort(net.ErrClosed)
		return nil
	}
	if c.drainBy.IsZero() {
		c.drainBy = time.Now().Add(closeTimeout)
		// An error here is that of a net.Conn closed already.
		_ = c.nc.SetWriteDeadline(c.drainBy)
		c.work.Signal()
	}
	c.mu.Unlock()
	return nil
}

// end records why the connection ends and releases who waits. The caller holds mu.
func (c *Conn) end(err error) {
	if c.err == nil {
		c.err = err
		close(c.done)
	}
}

// CloseWith ends the connection at once, without writing what is queued; err is
// what Err and Run return.
func (c *Conn) CloseWith(err error) { c.abort(err) }

// abort ends the connection at once.
func (c *Conn) abort(err error) {
	c.mu.Lock()
	c.end(err)
	first := !c.aborted
	c.aborted = true
	c.work.Signal()
	c.mu.Unlock()
	if first {
		_ = c.nc.Close() // there is nobody to tell
	}
}

func (c *Conn) draining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.drainBy.IsZero()
}

func (c *Conn) ended() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// NextXID returns a transaction id for SendXID. Its upper bit is 0: the other half
// is that of Request and Multipart.
func (c *Conn) NextXID() uint32 {
	for {
		if xid := c.sendXID.Add(1) &^ requestXID; xid != 0 {
			return xid
		}
	}
}

// Send queues a message under a new transaction id, which it returns. See SendXID.
func (c *Conn) Send(m Message) (xid uint32, err error) {
	xid = c.NextXID()
	return xid, c.SendXID(xid, m)
}

// ReserveXIDs returns the first of n transaction ids for SendXID and Queue that follow
// one another.
func (c *Conn) ReserveXIDs(n int) (first uint32) {
	for {
		last := c.sendXID.Add(uint32(n)) &^ requestXID
		if last >= uint32(n) { // else it counted over the end, or through 0
			return last - uint32(n) + 1
		}
	}
}

// SendXID queues a message; it is encoded when SendXID returns. Messages leave in
// the order they are queued, all that wait in one write. When the queue is full it
// waits for room, at most WriteTimeout: then the error is ErrSlow, and the message
// is not sent. It returns ErrTooLong for what does not fit a message, and the error
// of the connection once that has ended. nil does not mean that the peer has it.
//
// For messages of our own xid is one of NextXID; for a reply it is that of the
// request. The errors a switch answers a message with carry its xid and come to
// Handler; all those of messages sent before a barrier come before the Request of
// that barrier returns.
func (c *Conn) SendXID(xid uint32, m Message) error {
	return c.enqueue(context.Background(), xid, m, true)
}

// TrySend is SendXID for what may be lost: it never waits, and reports whether
// there was room.
func (c *Conn) TrySend(xid uint32, m Message) bool {
	return c.enqueue(expired, xid, m, true) == nil
}

// Queue is SendXID for messages that come many at once: they need not leave before the
// next Flush or SendXID, unless they fill a write.
func (c *Conn) Queue(xid uint32, m Message) error {
	return c.enqueue(context.Background(), xid, m, false)
}

// TryQueue is TrySend for messages that come many at once: they need not leave before
// the next Flush.
func (c *Conn) TryQueue(xid uint32, m Message) bool {
	return c.enqueue(expired, xid, m, false) == nil
}

// Flush sends what was queued with TryQueue. It never waits: it writes at once as much
// as the socket takes, which saves waking the writer, and leaves the rest to that.
func (c *Conn) Flush() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) == 0 {
		return
	}
	if !c.idle || c.raw == nil || len(c.out) > writeChunk || len(c.urgent) > 0 || c.err != nil {
		c.wake()
		return
	}
	b := c.out
	c.out, c.spare = c.reuse(c.spare), nil
	c.idle, c.inline = false, true
	c.mu.Unlock()
	n := c.writeNow(b)
	c.writes.Add(1)
	c.bytesSent.Add(uint64(n))
	c.mu.Lock()
	c.idle, c.inline = true, false
	if n == len(b) {
		c.spare = b
	} else {
		c.partial = b[n:]
	}
	c.written(n)
	if len(c.partial) > 0 || len(c.out) > 0 || len(c.urgent) > 0 || !c.drainBy.IsZero() || c.aborted {
		c.wake()
	}
}

// writeNow writes what the socket takes at once. Only who has set inline calls it.
func (c *Conn) writeNow(b []byte) int {
	c.now, c.wrote = b, 0
	// Control and not Write: no deadline is set, and there is none to heed. An error is
	// left to the writer, which meets it too.
	_ = c.raw.Control(c.control)
	c.now = nil
	return max(c.wrote, 0)
}

// written takes bytes off the queue. The caller holds mu.
func (c *Conn) written(n int) {
	c.queued -= n
	if c.space != nil {
		close(c.space)
		c.space = nil
	}
}

// expired is a context that has ended, for a send that does not wait.
var expired = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

func (c *Conn) enqueue(ctx context.Context, xid uint32, m Message, now bool) error {
	var timeout <-chan time.Time
	for {
		c.mu.Lock()
		if c.err != nil {
			c.mu.Unlock()
			return c.err
		}
		start := len(c.out)
		c.out = Append(c.out, xid, m)
		n := len(c.out) - start
		if n > MaxMessageLen {
			c.out = c.out[:start]
			c.mu.Unlock()
			return fmt.Errorf("ofproto: send %v: %w", m.MessageType(), ErrTooLong)
		}
		if c.queued == 0 || c.queued+n <= c.o.MaxQueue {
			c.queued += n
			c.sent[typeIndex(m.MessageType())]++
			if now || len(c.out) >= writeChunk {
				c.wake()
			}
			c.mu.Unlock()
			return nil
		}
		c.out = c.out[:start]
		if c.space == nil {
			c.space = make(chan struct{})
		}
		space := c.space
		c.wake() // what was queued makes room
		c.mu.Unlock()

		if timeout == nil && c.o.WriteTimeout > 0 {
			t := time.NewTimer(c.o.WriteTimeout)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-space:
		case <-c.done:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timeout:
			return fmt.Errorf("ofproto: send %v: %w", m.MessageType(), ErrSlow)
		}
	}
}

// wake wakes the writer. The caller holds mu.
func (c *Conn) wake() {
	if c.idle {
		c.idle = false
		c.work.Signal()
	}
}

// sendUrgent queues an echo message ahead of the others. The reader calls it, so it
// never waits: a peer that reads none of its echo replies gets no more.
func (c *Conn) sendUrgent(xid uint32, m Message) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.urgent) > maxUrgent {
		c.dropped++
		return
	}
	c.urgent = Append(c.urgent, xid, m)
	c.sent[typeIndex(m.MessageType())]++
	c.wake()
}

// write is the goroutine that writes. It takes all that is queued at once, and
// writes it in chunks of whole frames.
func (c *Conn) write() {
	var taken, urgent []byte // buffers in the writer's hands
	rest := taken            // of taken, not yet written
	for {
		c.mu.Lock()
		for c.inline || len(rest) == 0 && len(c.partial) == 0 && len(c.out) == 0 && len(c.urgent) == 0 && c.drainBy.IsZero() && !c.aborted {
			c.idle = !c.inline
			c.work.Wait()
		}
		c.idle = false
		if c.aborted {
			c.mu.Unlock()
			return
		}
		if len(rest) == 0 {
			taken, c.out = c.out, c.reuse(taken)
			rest = taken
		}
		urgent, c.urgent = c.urgent, c.reuse(urgent)
		begun := c.partial
		c.partial = nil
		if len(rest) == 0 && len(urgent) == 0 && len(begun) == 0 { // Close was called and all is written
			c.mu.Unlock()
			c.abort(net.ErrClosed)
			return
		}
		switch {
		case !c.drainBy.IsZero():
			_ = c.nc.SetWriteDeadline(c.drainBy)
		case c.o.WriteTimeout > 0:
			_ = c.nc.SetWriteDeadline(time.Now().Add(c.o.WriteTimeout))
		}
		c.mu.Unlock()

		chunk := rest[:wholeFrames(rest, writeChunk)]
		rest = rest[len(chunk):]
		if err := c.writeAll(begun, urgent, chunk); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				err = ErrSlow
			}
			c.abort(fmt.Errorf("ofproto: write: %w", err))
			return
		}
		c.mu.Lock()
		c.written(len(begun) + len(chunk))
		c.mu.Unlock()
	}
}

func (c *Conn) writeAll(buffers ...[]byte) error {
	for _, b := range buffers {
		if len(b) == 0 {
			continue
		}
		n, err := c.nc.Write(b)
		c.writes.Add(1)
		c.bytesSent.Add(uint64(n))
		if err != nil {
			return err
		}
	}
	return nil
}

// reuse empties a buffer. One that a burst made large is left to the collector when
// little was used of large ones for some time: between two bursts there is always one
// that is used a little. The caller holds mu.
func (c *Conn) reuse(b []byte) []byte {
	switch {
	case cap(b) <= keptBuffer:
	case len(b) >= cap(b)/4:
		c.slack = 0
	case c.slack < keptFor:
		c.slack++
	default:
		return nil
	}
	return b[:0]
}

// wholeFrames returns the length of as many frames from the start of b as fit in
// limit bytes, at least of one. b is made of whole frames of ours.
func wholeFrames(b []byte, limit int) int {
	if len(b) <= limit {
		return len(b)
	}
	n := int(be.Uint16(b[2:]))
	for {
		next := n + int(be.Uint16(b[n+2:]))
		if next > limit {
			return n
		}
		n = next
	}
}

// read is the loop of Run's goroutine; it returns why it ended.
func (c *Conn) read() error {
	var (
		buf   = make([]byte, minReadBuffer)
		have  int          // bytes of buf that were read and not yet handled
		since = time.Now() // when it began to wait for the next whole message
		first = true       // nothing came yet
		asked bool         // a keepalive was sent since
		until time.Time    // the read deadline that is set
	)
	for {
		if err := c.setReadDeadline(since, asked, &until); err != nil {
			return fmt.Errorf("ofproto: read: %w", err)
		}
		n, err := c.nc.Read(buf[have:])
		have += n
		c.bytesReceived.Add(uint64(n))

		used := 0
		for !c.ended() {
			b := buf[used:have]
			if first && len(b) > 0 {
				// Not what is taken for a length is waited for.
				if err := speaks(b[0]); err != nil {
					return fmt.Errorf("ofproto: read: %w", err)
				}
				first = false
			}
			if len(b) < HeaderLen {
				break
			}
			h, err := ParseHeader(b)
			if err != nil {
				return err // where the next message begins is unknown
			}
			if len(b) < int(h.Length) {
				break
			}
			c.handle(h, b[:h.Length:h.Length])
			used += int(h.Length)
		}
		if c.ended() {
			return c.Err()
		}
		full := have == len(buf)
		if used > 0 {
			have = copy(buf, buf[used:have])
			since, asked = time.Now(), false
			if c.o.Drained != nil {
				c.o.Drained()
			}
		}
		// Grow by what came, not by what a header promises.
		if full && len(buf) < maxReadBuffer {
			buf = append(buf[:have], make([]byte, 2*len(buf)-have)...)
		}

		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			until = time.Time{}
			idle := time.Since(since)
			if c.o.ReadTimeout > 0 && idle >= c.o.ReadTimeout {
				return fmt.Errorf("ofproto: read: %w for %v", ErrSilent, c.o.ReadTimeout)
			}
			if c.o.KeepaliveInterval > 0 && idle >= c.o.KeepaliveInterval && !asked {
				asked = true
				c.sendUrgent(keepaliveXID, &EchoRequest{})
			}
		default:
			return fmt.Errorf("ofproto: read: %w", err)
		}
	}
}

// speaks says whether a peer that begins with a byte may speak OpenFlow, of whatever
// version.
func speaks(b byte) error {
	switch {
	case b == 0x16: // of a TLS record (RFC 8446 §5.1)
		return fmt.Errorf("%w: it speaks TLS", ErrNotOpenFlow)
	case b == 0 || b > 0x0f && b < 0x80: // above are versions for experiments (§7.1)
		return ErrNotOpenFlow
	}
	return nil
}

// setReadDeadline makes the next read return when there is something to do about
// silence. A deadline that is only a little early stays as it is: moving it for every
// message would cost more than waking for nothing now and then.
func (c *Conn) setReadDeadline(since time.Time, asked bool, set *time.Time) error {
	var after time.Duration
	switch {
	case c.o.KeepaliveInterval > 0 && !asked && (c.o.ReadTimeout == 0 || c.o.KeepaliveInterval < c.o.ReadTimeout):
		after = c.o.KeepaliveInterval
	case c.o.ReadTimeout > 0:
		after = c.o.ReadTimeout
	case c.o.KeepaliveInterval > 0: // asked, and nothing more to do
		*set = time.Time{}
		return c.nc.SetReadDeadline(time.Time{})
	default:
		return nil
	}
	at := since.Add(after)
	if early := at.Sub(*set); early >= 0 && early < after/16 {
		return nil
	}
	*set = at
	return c.nc.SetReadDeadline(at)
}

func typeIndex(t MessageType) int { return min(int(t), NumTypes-1) }

// handle gives one whole frame to who it is for.
func (c *Conn) handle(h Header, frame []byte) {
	c.received[typeIndex(h.Type)].Add(1)
	switch h.Type {
	case TypePacketIn:
		if err := ParsePacketIn(frame, &c.packetIn); err != nil {
			c.refuse(h, frame, err)
			return
		}
		c.o.Handler(h, &c.packetIn)
		return
	case TypeEchoRequest:
		_, m, err := Parse(frame)
		if err != nil {
			c.refuse(h, frame, err)
			return
		}
		c.sendUrgent(h.XID, &EchoReply{Data: m.(*EchoRequest).Data})
		return
	case TypeMultipartReply, TypeBarrierReply, TypeFeaturesReply, TypeGetConfigReply, TypeRoleReply, TypeGetAsyncReply,
		TypeQueueConfigReply, TypeEchoReply, TypeError:
		if c.reply(h, frame, true) {
			return
		}
	case TypeExperimenter:
		// The type does not tell a request from its reply, but in bundles, where the
		// number does.
		request, reply := bundleKind(frame)
		if !request && c.reply(h, frame, reply) {
			return
		}
	}
	_, m, err := Parse(frame)
	if err != nil {
		c.refuse(h, frame, err)
		return
	}
	c.o.Handler(h, m)
}

func (c *Conn) refuse(h Header, frame []byte, err error) {
	c.invalid.Add(1)
	c.o.Invalid(h, frame, err)
}

// reply completes the request that a frame answers. It reports whether the frame is
// done with; certain says that it can be nothing but a reply.
func (c *Conn) reply(h Header, frame []byte, certain bool) bool {
	if h.XID&requestXID == 0 {
		return false
	}
	c.mu.Lock()
	w := c.waiters[h.XID]
	c.mu.Unlock()
	switch {
	case w == nil || h.Type != w.reply && h.Type != TypeError:
		if certain && h.XID != keepaliveXID {
			c.late.Add(1)
		}
		return certain
	case h.Version != Version: // of an error: Parse lets those of other versions pass
		c.refuse(h, frame, fail(h.Type.String(), 0, ErrVersion))
		return true
	case h.Type == TypeMultipartReply:
		c.replyPart(h, frame, w)
		return true
	}
	// The waiter reads it on its own goroutine, when this buffer holds something else.
	_, m, err := Parse(bytes.Clone(frame))
	if err != nil {
		c.refuse(h, frame, err)
	} else if e, ok := m.(*Error); ok {
		m, err = nil, e
	}
	c.forget(h.XID)
	w.finish(m, err)
	return true
}

// replyPart hands one part of a multipart reply to its request.
func (c *Conn) replyPart(h Header, frame []byte, w *waiter) {
	_, body, err := parseFrame(frame)
	if err == nil {
		err = c.part.parse(body)
	}
	if err != nil {
		err = within(h.Type.String(), HeaderLen, err)
		c.refuse(h, frame, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		c.late.Add(1)
		return
	}
	if err == nil {
		w.size += len(frame)
		switch {
		case c.part.Type != w.multipart:
			err = fmt.Errorf("ofproto: read %v reply: %v in it: %w", w.multipart, c.part.Type, ErrTorn)
		case w.size > c.o.MaxMultipart:
			err = fmt.Errorf("ofproto: read %v reply: over %d bytes: %w", w.multipart, c.o.MaxMultipart, ErrTooLarge)
		default:
			err = w.part(c.part.Body)
		}
	}
	if err != nil || !c.part.More() {
		c.forget(h.XID)
		w.finishLocked(nil, err)
	}
}

func (c *Conn) forget(xid uint32) {
	c.mu.Lock()
	delete(c.waiters, xid)
	c.mu.Unlock()
}

// bundleKind tells the requests of bundles from their replies.
func bundleKind(frame []byte) (request, reply bool) {
	if len(frame) < 22 || be.Uint32(frame[8:]) != ExperimenterONF {
		return false, false
	}
	switch be.Uint32(frame[12:]) {
	case bundleControlType:
		reply = be.Uint16(frame[20:])&1 == 1
		return !reply, reply
	case bundleAddType:
		return true, false
	}
	return false, false
}

// replyTo returns the type that answers a request.
func replyTo(t MessageType) (reply MessageType, ok bool) {
	switch t {
	case TypeEchoRequest, TypeFeaturesRequest, TypeGetConfigRequest, TypeMultipartRequest, TypeBarrierRequest,
		TypeQueueConfigReq, TypeRoleRequest, TypeGetAsyncRequest:
		return t + 1, true
	case TypeExperimenter:
		return TypeExperimenter, true
	}
	return 0, false
}

// Request sends a message and waits for its reply, which is the caller's to keep. A
// switch that answers with an error makes that *Error the error. Other errors: the
// context's cause, the connection's (Err), a *ParseError for a reply that is no
// message, those of SendXID, ErrNoReply. After one of those the request is given up:
// a reply that comes later is ignored, and whether the switch has done it is not
// known.
//
// The reply to a *MultipartRequest is a *MultipartReply with the bodies of all parts
// one behind the other; see Multipart for its errors.
func (c *Conn) Request(ctx context.Context, m Message) (Message, error) {
	if req, ok := m.(*MultipartRequest); ok {
		whole := &MultipartReply{Type: req.Type}
		if err := c.Multipart(ctx, req, func(body []byte) error {
			whole.Body = append(whole.Body, body...)
			return nil
		}); err != nil {
			return nil, err
		}
		return whole, nil
	}
	call, err := c.start(ctx, m)
	if err != nil {
		return nil, err
	}
	c.Flush()
	return call.Wait(ctx)
}

// Call is a request that was sent with Start.
type Call struct {
	c   *Conn
	xid uint32
	w   *waiter
}

// Start queues a request, which is no multipart, as Queue does. Wait waits for its
// reply, and is to be called once. Errors are those of Request.
func (c *Conn) Start(m Message) (*Call, error) { return c.start(context.Background(), m) }

func (c *Conn) start(ctx context.Context, m Message) (*Call, error) {
	reply, ok := replyTo(m.MessageType())
	if !ok || reply == TypeMultipartReply {
		return nil, fmt.Errorf("ofproto: request %v: %w", m.MessageType(), ErrNoReply)
	}
	return c.begin(ctx, m, &waiter{reply: reply, done: make(chan struct{})})
}

// Wait waits for the reply to a request. See Request for it and for the errors.
func (k *Call) Wait(ctx context.Context) (Message, error) {
	var err error
	select {
	case <-k.w.done:
	case <-k.c.done:
		err = k.c.Err()
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	k.c.forget(k.xid)
	k.w.finish(nil, err) // unless the reply was first
	return k.w.m, k.w.err
}

// Done says whether Wait would return at once.
func (k *Call) Done() bool {
	select {
	case <-k.w.done:
		return true
	case <-k.c.done:
		return true
	default:
		return false
	}
}

// Multipart sends a request and calls part with the body of each part of the reply,
// in order, until the last. part runs on the goroutine that reads, under the rules
// of ConnOptions.Handler; body aliases the read buffer. part does not run any more
// when Multipart has returned.
//
// On any error what part was given so far is void: it is not the whole. Besides
// those of Request there are the error of part, ErrTorn for a part of another type,
// and ErrTooLarge over MaxMultipart bytes. What still comes of that reply is ignored.
func (c *Conn) Multipart(ctx context.Context, req *MultipartRequest, part func(body []byte) error) error {
	w := &waiter{reply: TypeMultipartReply, multipart: req.Type, part: part, done: make(chan struct{})}
	call, err := c.begin(ctx, req, w)
	if err != nil {
		return err
	}
	c.Flush()
	_, err = call.Wait(ctx)
	return err
}

// begin sends m, whose reply is for w.
func (c *Conn) begin(ctx context.Context, m Message, w *waiter) (*Call, error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return nil, c.err
	}
	xid := c.requestXID()
	c.waiters[xid] = w
	c.mu.Unlock()
	if err := c.enqueue(ctx, xid, m, false); err != nil {
		c.forget(xid)
		w.finish(nil, err)
		return nil, err
	}
	return &Call{c, xid, w}, nil
}

// requestXID returns an id for a request. The caller holds mu.
func (c *Conn) requestXID() uint32 {
	for {
		c.lastXID++
		xid := c.lastXID | requestXID
		if _, used := c.waiters[xid]; !used && xid != keepaliveXID {
			return xid
		}
	}
}
