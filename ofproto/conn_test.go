package ofproto

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/test/allocation"
)

// wire is the switch's end of a connection under test, without a Conn around it.
type wire struct {
	t *testing.T
	net.Conn
}

func (w wire) send(xid uint32, m Message) { w.bytes(Append(nil, xid, m)) }

func (w wire) bytes(b []byte) {
	_, err := w.Write(b)
	require.NoError(w.t, err)
}

// next reads one frame.
func (w wire) next() (Header, Message) {
	w.t.Helper()
	b := make([]byte, HeaderLen, 128)
	_, err := io.ReadFull(w, b)
	require.NoError(w.t, err)
	b = append(b, make([]byte, int(binary.BigEndian.Uint16(b[2:]))-HeaderLen)...)
	_, err = io.ReadFull(w, b[HeaderLen:])
	require.NoError(w.t, err)
	h, m, err := Parse(b)
	require.NoError(w.t, err)
	return h, m
}

// ends are what a test of a Conn holds.
type ends struct {
	*Conn
	peer wire
	ran  chan error // the result of Run

	cancel context.CancelFunc // of Run's context
}

// dial runs a Conn over a pipe. It is ended, and awaited, with the test.
func dial(t *testing.T, o ConnOptions) *ends {
	a, b := net.Pipe()
	return run(t, a, b, o)
}

func run(t *testing.T, a, b net.Conn, o ConnOptions) *ends {
	e := &ends{Conn: NewConn(a, o), peer: wire{t, b}, ran: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	go func() { e.ran <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		_ = b.Close()
		e.ran <- <-e.ran // that Run has returned
	})
	return e
}

// loopback returns the two ends of a TCP connection.
func loopback(t testing.TB) (a, b net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	dialled := make(chan net.Conn, 1)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			close(dialled)
			return
		}
		dialled <- c
	}()
	a, err = l.Accept()
	require.NoError(t, err)
	b, ok := <-dialled
	require.True(t, ok)
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// received collects what a Handler gets, copied.
type received struct {
	mu      sync.Mutex
	headers []Header
	frames  [][]byte
}

func (r *received) handler(h Header, m Message) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.headers = append(r.headers, h)
	r.frames = append(r.frames, Append(nil, h.XID, m))
}

func (r *received) xids() []uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	var x []uint32
	for _, h := range r.headers {
		x = append(x, h.XID)
	}
	return x
}

func packetIn(n int) *PacketIn {
	return &PacketIn{BufferID: NoBuffer, TotalLen: uint16(n), Match: NewMatch(InPort(3)), Data: make([]byte, n)}
}

// However the bytes are cut, the messages come whole and in order.
func TestConnFraming(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var stream []byte
	var want [][]byte
	for i := range 400 {
		var m Message = &BarrierRequest{}
		switch i % 5 {
		case 0:
			m = packetIn(rng.IntN(200))
		case 1:
			m = &RawMessage{Type: 77, Body: bytes.Repeat([]byte{byte(i)}, rng.IntN(3000))}
		case 2:
			if i%100 == 2 {
				m = &RawMessage{Type: 78, Body: make([]byte, MaxMessageLen-HeaderLen)}
			}
		case 3:
			m = &PortStatus{Desc: PortDesc{Port: 4, Name: "eth4"}}
		}
		want = append(want, Append(nil, uint32(i), m))
		stream = append(stream, want[i]...)
	}
	cuts := map[string]func() int{
		"bytes":  func() int { return 1 },
		"random": func() int { return 1 + rng.IntN(5000) },
		"whole":  func() int { return len(stream) },
	}
	for name, cut := range cuts {
		t.Run(name, func(t *testing.T) {
			var got received
			e := dial(t, ConnOptions{Handler: got.handler})
			rest := stream
			if name == "bytes" {
				rest = stream[:20000]
			}
			sent := len(rest)
			for len(rest) > 0 {
				n := min(cut(), len(rest))
				e.peer.bytes(rest[:n])
				rest = rest[n:]
			}
			e.peer.Close()
			require.ErrorIs(t, <-e.ran, io.EOF)
			e.ran <- nil
			require.Equal(t, uint64(sent), e.Stats().BytesReceived)
			if name == "bytes" {
				require.Equal(t, want[:len(got.frames)], got.frames)
				require.NotEmpty(t, got.frames)
				return
			}
			require.Equal(t, want, got.frames)
			require.Equal(t, uint64(80), e.Stats().Received[TypePacketIn])
			require.Equal(t, uint64(84), e.Stats().Received[NumTypes-1])
		})
	}
}

// A length that cannot be leaves no way to find the next message.
func TestConnHostileLength(t *testing.T) {
	for n := range HeaderLen {
		var got received
		e := dial(t, ConnOptions{Handler: got.handler})
		e.peer.send(1, &BarrierRequest{})
		e.peer.bytes([]byte{Version, byte(TypePacketIn), 0, byte(n), 0, 0, 0, 2})
		err := <-e.ran
		e.ran <- nil
		require.ErrorIs(t, err, ErrLength)
		require.Equal(t, []uint32{1}, got.xids())
		_, err = e.peer.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF, "the connection is closed")
	}
}

// A message that Parse refuses is dropped, reported and counted; those around it
// are not touched.
func TestConnInvalid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got received
		var refused []Header
		e := dial(t, ConnOptions{Handler: got.handler, Invalid: func(h Header, frame []byte, err error) {
			require.Error(t, err)
			require.Len(t, frame, int(h.Length))
			refused = append(refused, h)
		}})
		e.peer.send(1, &BarrierRequest{})
		e.peer.bytes([]byte{Version, byte(TypePacketIn), 0, 8, 0, 0, 0, 2})                  // too short
		e.peer.bytes([]byte{Version, byte(TypePortStatus), 0, 9, 0, 0, 0, 3, 0})             // too short
		e.peer.bytes([]byte{1, byte(TypeBarrierRequest), 0, 8, 0, 0, 0, 4})                  // OpenFlow 1.0
		e.peer.bytes([]byte{5, byte(TypeEchoRequest), 0, 8, 0, 0, 0, 5})                     // OpenFlow 1.4
		e.peer.bytes([]byte{6, byte(TypePacketIn), 0, 8, 0, 0, 0, 6})                        // OpenFlow 1.5
		e.peer.bytes([]byte{6, byte(TypeHello), 0, 16, 0, 0, 0, 7, 0, 1, 0, 8, 0, 0, 0, 16}) // but a hello may be
		e.peer.send(8, &RawMessage{Type: 200})
		synctest.Wait()
		require.Equal(t, []uint32{1, 7, 8}, got.xids())
		require.Len(t, refused, 5)
		require.Equal(t, uint64(5), e.Stats().Invalid)
		require.Nil(t, e.Err())
	})
}

func TestConnEcho(t *testing.T) {
	e := dial(t, ConnOptions{Handler: func(Header, Message) { t.Error("an echo request came to the handler") }})
	go e.peer.send(7, &EchoRequest{Data: []byte("ping")})
	h, m := e.peer.next()
	require.Equal(t, uint32(7), h.XID)
	require.Equal(t, &EchoReply{Data: []byte("ping")}, m)
}

// A full queue does not delay echo replies behind it, and a peer that reads none of
// them does not make it grow.
func TestConnEchoOvertakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dial(t, ConnOptions{})
		big := &RawMessage{Type: TypeFlowMod, Body: make([]byte, 1000)}
		for range 5000 {
			_, err := e.Send(big)
			require.NoError(t, err)
		}
		e.peer.send(7, &EchoRequest{})
		synctest.Wait()
		behind := 0
		for {
			h, _, err := readFrame(e.peer)
			require.NoError(t, err)
			behind += int(h.Length)
			if h.Type == TypeEchoReply {
				break
			}
		}
		require.LessOrEqual(t, behind, 2*writeChunk)

		for range 1000 {
			e.peer.send(8, &EchoRequest{Data: make([]byte, 1000)})
		}
		synctest.Wait()
		require.NotZero(t, e.Stats().EchoesDropped)
		require.Nil(t, e.Err())
	})
}

// readFrame is next for frames that Parse need not know.
func readFrame(r io.Reader) (Header, []byte, error) {
	b := make([]byte, HeaderLen)
	if _, err := io.ReadFull(r, b); err != nil {
		return Header{}, nil, err
	}
	h, err := ParseHeader(b)
	if err != nil {
		return h, nil, err
	}
	body := make([]byte, h.Length-HeaderLen)
	_, err = io.ReadFull(r, body)
	return h, body, err
}

func TestConnKeepalive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dial(t, ConnOptions{
			KeepaliveInterval: 5 * time.Second, ReadTimeout: 15 * time.Second,
			Handler: func(h Header, _ Message) { t.Errorf("%v came to the handler", h.Type) },
		})
		start := time.Now()
		for i := range 3 {
			h, m := e.peer.next()
			require.IsType(t, &EchoRequest{}, m)
			require.Equal(t, time.Duration(i+1)*5*time.Second, time.Since(start))
			e.peer.send(h.XID, &EchoReply{})
			synctest.Wait()
		}
		require.Zero(t, e.Stats().Late)

		// It asks once more, and gives up when only half a message comes.
		_, m := e.peer.next()
		require.IsType(t, &EchoRequest{}, m)
		for range 7 {
			e.peer.bytes([]byte{Version})
			if time.Sleep(time.Second); e.Err() != nil {
				break
			}
		}
		err := <-e.ran
		e.ran <- nil
		require.ErrorIs(t, err, ErrSilent)
		require.Equal(t, 30*time.Second, time.Since(start))
	})
}

func TestConnSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		e := dial(t, ConnOptions{ReadTimeout: 10 * time.Second})
		// A header that promises 64 KiB, and nothing after it.
		e.peer.bytes([]byte{Version, byte(TypePacketIn), 0xff, 0xff, 0, 0, 0, 2})
		err := <-e.ran
		e.ran <- nil
		require.ErrorIs(t, err, ErrSilent)
		require.Equal(t, 10*time.Second, time.Since(start))
	})
}

// While a handler takes its time, what came meanwhile is not taken for silence.
func TestConnSlowHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got received
		e := dial(t, ConnOptions{ReadTimeout: 10 * time.Second, Handler: func(h Header, m Message) {
			time.Sleep(time.Minute)
			got.handler(h, m)
		}})
		for i := range 3 {
			e.peer.send(uint32(i), &BarrierRequest{})
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, []uint32{0, 1, 2}, got.xids())
	})
}

func TestConnRequest(t *testing.T) {
	e := dial(t, ConnOptions{})
	go func() {
		h, _ := e.peer.next()
		e.peer.send(h.XID, &FeaturesReply{DPID: 5, Tables: 254})
		e.peer.send(99, packetIn(60)) // into the buffer the reply was in
		h, _ = e.peer.next()
		e.peer.send(h.XID, &Error{Type: ErrorRoleRequestFailed, Code: CodeRoleStale})
		h, _ = e.peer.next()
		e.peer.bytes([]byte{Version, byte(TypeGetConfigReply), 0, 9, byte(h.XID >> 24), byte(h.XID >> 16), byte(h.XID >> 8), byte(h.XID), 0})
	}()
	m, err := e.Request(t.Context(), &FeaturesRequest{})
	require.NoError(t, err)
	features := m.(*FeaturesReply)

	_, err = e.Request(t.Context(), &RoleRequest{Role: RoleMaster})
	var of *Error
	require.ErrorAs(t, err, &of)
	require.Equal(t, ErrorRoleRequestFailed, of.Type)
	require.Equal(t, DPID(5), features.DPID)

	_, err = e.Request(t.Context(), &GetConfigRequest{})
	var pe *ParseError
	require.ErrorAs(t, err, &pe, "a reply that is none")

	_, err = e.Request(t.Context(), &SetConfig{})
	require.ErrorIs(t, err, ErrNoReply)
	_, err = e.Send(&RawMessage{Type: TypeFlowMod, Body: make([]byte, MaxMessageLen)})
	require.ErrorIs(t, err, ErrTooLong)
	// A reply may overtake the account of the write that asked for it.
	require.Eventually(t, func() bool { return e.Stats().Queued == 0 }, 10*time.Second, time.Millisecond)
}

// A request that was given up is over: its reply is ignored and counted.
func TestConnRequestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got received
		e := dial(t, ConnOptions{Handler: got.handler})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		xid := make(chan uint32, 1)
		go func() {
			h, _ := e.peer.next()
			xid <- h.XID
		}()
		_, err := e.Request(ctx, &BarrierRequest{})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		late := <-xid
		e.peer.send(late, &BarrierReply{})
		e.peer.send(late, &Error{Type: ErrorBadRequest})
		e.peer.send(late, &MultipartReply{Type: MultipartFlow})
		e.peer.send(late, &BundleControl{Type: BundleCommitReply})
		e.peer.send(5, &BarrierReply{}) // to a barrier that was sent with Send
		synctest.Wait()
		require.Equal(t, uint64(4), e.Stats().Late)
		require.Equal(t, []uint32{5}, got.xids())
	})
}

// Only the right type with the right id is the reply.
func TestConnReplyMatching(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got received
		e := dial(t, ConnOptions{Handler: got.handler})
		go func() {
			h, _ := e.peer.next()
			e.peer.send(h.XID+1, &BarrierReply{})                    // of another request
			e.peer.send(h.XID, &FeaturesReply{})                     // of another type
			e.peer.send(h.XID, packetIn(10))                         // no reply at all
			e.peer.send(h.XID, &MultipartReply{Type: MultipartFlow}) // of another type
			e.peer.send(h.XID, &BarrierReply{})
			e.peer.send(h.XID, &BarrierReply{}) // once more
		}()
		m, err := e.Request(t.Context(), &BarrierRequest{})
		require.NoError(t, err)
		require.IsType(t, &BarrierReply{}, m)
		synctest.Wait()
		require.Equal(t, uint64(4), e.Stats().Late)
		require.Len(t, got.xids(), 1)
	})
}

// The errors of what was sent before a barrier are with the handler, by their ids,
// before the barrier's reply is with the caller.
func TestConnErrorsBeforeBarrier(t *testing.T) {
	failed := make(map[uint32]uint16)
	e := dial(t, ConnOptions{Handler: func(h Header, m Message) { failed[h.XID] = m.(*Error).Code }})
	go func() {
		for {
			h, m := e.peer.next()
			switch m.(type) {
			case *FlowMod:
				e.peer.send(h.XID, &Error{Type: ErrorFlowModFailed, Code: CodeTableFull})
			case *BarrierRequest:
				e.peer.send(h.XID, &BarrierReply{})
				return
			}
		}
	}()
	want := make(map[uint32]uint16)
	for range 50 {
		xid := e.NextXID()
		require.NoError(t, e.SendXID(xid, &FlowMod{OutPort: PortAny, OutGroup: GroupAny, BufferID: NoBuffer}))
		want[xid] = CodeTableFull
	}
	_, err := e.Request(t.Context(), &BarrierRequest{})
	require.NoError(t, err)
	require.Equal(t, want, failed)
}

func TestConnBundle(t *testing.T) {
	a, b := net.Pipe()
	opened := make(chan BundleControlType, 1)
	var sw *ends
	sw = run(t, b, a, ConnOptions{Handler: func(h Header, m Message) {
		switch m := m.(type) {
		case *BundleControl:
			opened <- m.Type
			_ = sw.SendXID(h.XID, &BundleControl{Bundle: m.Bundle, Type: m.Type + 1})
		case *BundleAdd:
			_ = sw.SendXID(h.XID, &Error{Type: ErrorFlowModFailed, Code: CodeTableFull})
		}
	}})
	var failed atomic.Uint32
	e := run(t, a, b, ConnOptions{Handler: func(h Header, m Message) {
		if _, ok := m.(*Error); ok {
			failed.Store(h.XID)
		}
	}})
	m, err := e.Request(t.Context(), &BundleControl{Bundle: 1, Type: BundleOpenRequest})
	require.NoError(t, err)
	require.Equal(t, BundleOpenReply, m.(*BundleControl).Type)
	require.Equal(t, BundleOpenRequest, <-opened)
	xid := e.NextXID()
	require.NoError(t, e.SendXID(xid, &BundleAdd{Bundle: 1, XID: xid, Message: &FlowMod{}}))
	_, err = e.Request(t.Context(), &BundleControl{Bundle: 1, Type: BundleCommitRequest})
	require.NoError(t, err)
	require.Equal(t, xid, failed.Load())
}

// parts answers the next request with these bodies, all but the last to be
// continued.
func (e *ends) parts(typ MultipartType, bodies ...string) {
	h, _ := e.peer.next()
	for i, b := range bodies {
		m := &MultipartReply{Type: typ, Body: []byte(b)}
		if i < len(bodies)-1 {
			m.Flags = MultipartMore
		}
		e.peer.send(h.XID, m)
	}
}

func TestConnMultipart(t *testing.T) {
	e := dial(t, ConnOptions{})
	go func() {
		e.parts(MultipartFlow, "a", "", "bc")
		e.parts(MultipartGroupDesc, "d", "ef")
		h, _ := e.peer.next()
		e.peer.send(h.XID, &Error{Type: ErrorBadRequest, Code: CodeBadMultipart})
	}()
	var got []string
	err := e.Multipart(t.Context(), &MultipartRequest{Type: MultipartFlow, Body: AllFlows()}, func(body []byte) error {
		got = append(got, string(body))
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, []string{"a", "", "bc"}, got)

	m, err := e.Request(t.Context(), &MultipartRequest{Type: MultipartGroupDesc})
	require.NoError(t, err)
	require.Equal(t, &MultipartReply{Type: MultipartGroupDesc, Body: []byte("def")}, m)

	_, err = e.Request(t.Context(), &MultipartRequest{Type: MultipartTableFeatures})
	var of *Error
	require.ErrorAs(t, err, &of)
	require.Equal(t, CodeBadMultipart, of.Code)
}

// Two replies whose parts come mixed are told apart by their ids.
func TestConnMultipartMixed(t *testing.T) {
	e := dial(t, ConnOptions{})
	go func() {
		var xids [2]uint32
		for range xids {
			h, m := e.peer.next()
			xids[m.(*MultipartRequest).Type-MultipartGroup] = h.XID
		}
		for i := range 20 {
			for k, xid := range xids {
				more := MultipartMore
				if i == 19 {
					more = 0
				}
				e.peer.send(xid, &MultipartReply{Type: MultipartGroup + MultipartType(k), Flags: more, Body: []byte{byte(k)}})
			}
		}
	}()
	var wg sync.WaitGroup
	for k := range 2 {
		wg.Go(func() {
			req := &MultipartRequest{Type: MultipartGroup + MultipartType(k)}
			if k == 0 {
				req.Body = GroupStatsRequest{Group: GroupAll}
			}
			m, err := e.Request(t.Context(), req)
			if err != nil {
				t.Error(err)
				return
			}
			if want := bytes.Repeat([]byte{byte(k)}, 20); !bytes.Equal(want, m.(*MultipartReply).Body) {
				t.Errorf("request %d got %v", k, m)
			}
		})
	}
	wg.Wait()
}

// What ends a multipart early makes all of it void, and the rest is ignored.
func TestConnMultipartVoid(t *testing.T) {
	errPart := errors.New("unreadable")
	more := func(typ MultipartType, n int) *MultipartReply {
		return &MultipartReply{Type: typ, Flags: MultipartMore, Body: make([]byte, n)}
	}
	cut := []byte{Version, byte(TypeMultipartReply), 0, 12, 0, 0, 0, 0, 0, 1, 0, 1}
	tests := []struct {
		name  string
		parts []any // *MultipartReply, or the bytes of a frame
		part  error
		want  error
		calls int
		late  uint64
	}{
		{"other type in it", []any{more(MultipartFlow, 10), more(MultipartTable, 10), more(MultipartFlow, 10)}, nil, ErrTorn, 1, 1},
		{"part refused", []any{more(MultipartFlow, 10), more(MultipartFlow, 10)}, errPart, errPart, 1, 1},
		{"part cut", []any{more(MultipartFlow, 10), cut, more(MultipartFlow, 10)}, nil, ErrTruncated, 1, 1},
		{"endless", []any{more(MultipartFlow, 300), more(MultipartFlow, 300), more(MultipartFlow, 400), more(MultipartFlow, 1), more(MultipartFlow, 1)},
			nil, ErrTooLarge, 2, 2},
		{"endless and empty", repeatPart(more(MultipartFlow, 0), 100), nil, ErrTooLarge, 62, 37},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := dial(t, ConnOptions{MaxMultipart: 1000})
				go func() {
					h, _ := e.peer.next()
					for _, p := range tt.parts {
						switch p := p.(type) {
						case *MultipartReply:
							e.peer.send(h.XID, p)
						case []byte:
							p = bytes.Clone(p)
							binary.BigEndian.PutUint32(p[4:], h.XID)
							e.peer.bytes(p)
						}
					}
				}()
				calls := 0
				err := e.Multipart(t.Context(), &MultipartRequest{Type: MultipartFlow, Body: AllFlows()}, func([]byte) error {
					calls++
					return tt.part
				})
				require.ErrorIs(t, err, tt.want)
				synctest.Wait()
				require.Equal(t, tt.calls, calls)
				require.Equal(t, tt.late, e.Stats().Late)
				require.Nil(t, e.Err(), "the connection lives")
			})
		})
	}
}

func repeatPart(m *MultipartReply, n int) []any {
	parts := make([]any, n)
	for i := range parts {
		parts[i] = m
	}
	return parts
}

// When Multipart has returned, part does not run any more.
func TestConnMultipartCancelled(t *testing.T) {
	e := dial(t, ConnOptions{})
	go func() {
		h, _, err := readFrame(e.peer)
		frame := Append(nil, h.XID, &MultipartReply{Type: MultipartFlow, Flags: MultipartMore, Body: make([]byte, 100)})
		for err == nil {
			_, err = e.peer.Write(frame)
		}
	}()
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0 // no lock: the race detector tells
	err := e.Multipart(ctx, &MultipartRequest{Type: MultipartFlow, Body: AllFlows()}, func([]byte) error {
		if calls++; calls == 100 {
			cancel()
		}
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	calls = 0
	require.Eventually(t, func() bool { return e.Stats().Late > 100 }, 5*time.Second, time.Millisecond)
	require.Zero(t, calls)
}

// Everyone who waits is released with the connection's error.
func TestConnReleases(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(e *ends, cancel context.CancelFunc)
		want error
	}{
		// The peer is found gone by the reader or, as here, in the middle of a write.
		"peer closes": {func(e *ends, _ context.CancelFunc) { e.peer.Close() }, nil},
		"close":       {func(e *ends, _ context.CancelFunc) { e.Close() }, net.ErrClosed},
		"context":     {func(_ *ends, cancel context.CancelFunc) { cancel() }, context.Canceled},
		"bad bytes":   {func(e *ends, _ context.CancelFunc) { e.peer.bytes([]byte{4, 0, 0, 0, 0, 0, 0, 0}) }, ErrLength},
		"TLS":         {func(e *ends, _ context.CancelFunc) { e.peer.bytes([]byte{0x16}) }, ErrNotOpenFlow},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				e := &ends{Conn: NewConn(a, ConnOptions{MaxQueue: 1000}), peer: wire{t, b}}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ran := make(chan error, 1)
				go func() { ran <- e.Run(ctx) }()

				results := make(chan error, 30)
				for range 10 {
					go func() {
						_, err := e.Request(t.Context(), &BarrierRequest{})
						results <- err
					}()
					go func() {
						results <- e.Multipart(t.Context(), &MultipartRequest{Type: MultipartFlow, Body: AllFlows()}, func([]byte) error { return nil })
					}()
				}
				synctest.Wait()
				for range 10 { // these wait for room
					go func() {
						_, err := e.Send(&RawMessage{Type: TypeFlowMod, Body: make([]byte, 1000)})
						results <- err
					}()
				}
				synctest.Wait()
				tt.end(e, cancel)
				err := <-ran
				require.Error(t, err)
				require.Equal(t, err, e.Err())
				if tt.want != nil {
					require.ErrorIs(t, err, tt.want)
				}
				for range 30 {
					require.Equal(t, err, <-results)
				}
				_, again := e.Send(&BarrierRequest{})
				require.Equal(t, err, again)
				_, again = e.Request(t.Context(), &BarrierRequest{})
				require.Equal(t, err, again)
				require.Error(t, e.Run(t.Context()))
				require.Empty(t, e.waiters)
				b.Close()
			}) // and no goroutine is left
		})
	}
}

// Close still writes what was queued, so that a peer can be told why.
func TestConnCloseDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dial(t, ConnOptions{})
		for range 100 {
			_, err := e.Send(&RawMessage{Type: TypeFlowMod, Body: make([]byte, 2000)})
			require.NoError(t, err)
		}
		_, err := e.Send(&Error{Type: ErrorHelloFailed})
		require.NoError(t, err)
		synctest.Wait() // for Run
		require.NoError(t, e.Close())
		require.NoError(t, e.Close())
		e.cancel() // as a caller does who is through
		for range 100 {
			h, _, err := readFrame(e.peer)
			require.NoError(t, err)
			require.Equal(t, TypeFlowMod, h.Type)
		}
		_, m := e.peer.next()
		require.IsType(t, &Error{}, m)
		_, err = e.peer.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
	})
}

// But not for longer than a second, if nobody reads.
func TestConnCloseGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		e := dial(t, ConnOptions{})
		_, err := e.Send(&BarrierRequest{})
		require.NoError(t, err)
		synctest.Wait()
		require.NoError(t, e.Close())
		require.ErrorIs(t, <-e.ran, net.ErrClosed)
		e.ran <- nil
		require.Equal(t, closeTimeout, time.Since(start))
	})
}

func TestConnCloseBeforeRun(t *testing.T) {
	a, b := net.Pipe()
	c := NewConn(a, ConnOptions{})
	require.NoError(t, c.Close())
	require.ErrorIs(t, c.Run(t.Context()), net.ErrClosed)
	_, err := b.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF)
}

// What waits goes out in one write.
func TestConnBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dial(t, ConnOptions{})
		first, err := e.Send(&BarrierRequest{})
		require.NoError(t, err)
		synctest.Wait() // the writer is in Write: nobody reads yet
		for range 999 {
			_, err := e.Send(&BarrierRequest{})
			require.NoError(t, err)
		}
		for i := range 1000 {
			h, _ := e.peer.next()
			require.Equal(t, first+uint32(i), h.XID, "in order")
		}
		synctest.Wait()
		s := e.Stats()
		require.Equal(t, uint64(2), s.Writes)
		require.Equal(t, uint64(1000), s.Sent[TypeBarrierRequest])
		require.Equal(t, uint64(8000), s.BytesSent)
		require.Zero(t, s.Queued)
	})
}

// What is flushed leaves whole and in order beside what the writer sends, also when
// the socket takes only a part of it at once.
func TestConnFlush(t *testing.T) {
	a, b := loopback(t)
	require.NoError(t, a.(*net.TCPConn).SetWriteBuffer(16<<10))
	e := run(t, a, b, ConnOptions{MaxQueue: 1 << 30})
	queued := make(chan struct{})
	const messages, echoes = 5_000, 100
	go func() {
		defer close(queued)
		for i := range uint32(messages) {
			m := &RawMessage{Type: TypePacketOut, Body: bytes.Repeat([]byte{byte(i)}, 16+int(i*37%1500))}
			if i > messages/2 && i%7 == 0 { // until then a Flush meets the full socket, and no writer
				e.TrySend(i, m)
			} else {
				e.TryQueue(i, m)
			}
			if i%3 == 0 || i == messages-1 {
				e.Flush()
			}
			if i%500 == 0 {
				runtime.Gosched()
			}
		}
	}()
	go func() {
		for i := range uint32(echoes) {
			if _, err := b.Write(Append(nil, i, &EchoRequest{})); err != nil {
				return
			}
		}
	}()
	<-queued // more than the sockets hold
	next, answered := uint32(0), 0
	for next < messages || answered < echoes {
		h, body, err := readFrame(b)
		require.NoError(t, err)
		if h.Type == TypeEchoReply {
			answered++
			continue
		}
		require.Equal(t, next, h.XID)
		require.Equal(t, bytes.Repeat([]byte{byte(next)}, 16+int(next*37%1500)), body)
		next++
	}
	require.Eventually(t, func() bool { return e.Stats().Queued == 0 }, time.Minute, time.Millisecond)

	// Without a socket of its own, the writer is woken.
	p := dial(t, ConnOptions{})
	require.True(t, p.TryQueue(7, &BarrierRequest{}))
	p.Flush()
	h, _ := p.peer.next()
	require.Equal(t, uint32(7), h.XID)
	p.Close()
	require.False(t, p.TryQueue(8, &BarrierRequest{}))
	p.Flush()
}

// The queue is bounded: senders wait for room and, in the end, give up; a peer that
// does not read at all is cut off.
func TestConnSlowPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dial(t, ConnOptions{MaxQueue: 10_000, WriteTimeout: 10 * time.Second})
		m := &RawMessage{Type: TypeFlowMod, Body: make([]byte, 992)}
		for range 10 {
			_, err := e.Send(m)
			require.NoError(t, err)
			synctest.Wait() // the first is in Write, the others wait
		}
		require.Equal(t, 10_000, e.Stats().Queued)

		// The eleventh waits until there is room.
		sent := make(chan error, 1)
		go func() {
			_, err := e.Send(m)
			sent <- err
		}()
		time.Sleep(5 * time.Second)
		require.Empty(t, sent)
		_, _, err := readFrame(e.peer)
		require.NoError(t, err)
		require.NoError(t, <-sent)

		// A request waits for room no longer than its context.
		for e.Stats().Queued < 10_000 {
			_, err := e.Send(m)
			require.NoError(t, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = e.Request(ctx, &BarrierRequest{})
		require.ErrorIs(t, err, context.DeadlineExceeded)

		// Nobody reads: the write pending times out, and all is over.
		start := time.Now()
		_, err = e.Send(m)
		require.ErrorIs(t, err, ErrSlow)
		require.ErrorIs(t, <-e.ran, ErrSlow)
		e.ran <- nil
		require.LessOrEqual(t, time.Since(start), 10*time.Second)
	})
}

// A peer that reads, but slowly, costs a sender its patience and not the connection.
func TestConnCrawlingPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := dial(t, ConnOptions{MaxQueue: 2 << 20, WriteTimeout: 10 * time.Second})
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			for {
				time.Sleep(8 * time.Second)
				if _, err := io.CopyN(io.Discard, e.peer, writeChunk); err != nil {
					return
				}
			}
		}()
		m := &RawMessage{Type: TypeFlowMod, Body: make([]byte, MaxMessageLen-HeaderLen)}
		var err error
		for range 100 {
			if _, err = e.Send(m); err != nil {
				break
			}
		}
		require.NoError(t, err, "each waits less than the timeout")
		require.Nil(t, e.Err())
		e.peer.Close()
		<-stop
	})
}

func TestConnXID(t *testing.T) {
	c := NewConn(nil, ConnOptions{})
	c.sendXID.Store(requestXID - 2)
	for _, want := range []uint32{requestXID - 1, 1, 2} {
		require.Equal(t, want, c.NextXID(), "neither 0 nor of a request")
	}
	c.lastXID = 1<<32 - 2
	c.waiters[requestXID|1] = nil // still waits, after so many others
	for _, want := range []uint32{1<<32 - 1, requestXID | 2} {
		require.Equal(t, want, c.requestXID())
	}
}

// Many goroutines, two real ends, every reply to its own request.
func TestConnConcurrent(t *testing.T) {
	a, b := loopback(t)
	var sw *ends
	sw = run(t, b, a, ConnOptions{Handler: func(h Header, m Message) {
		switch m := m.(type) {
		case *RoleRequest:
			_ = sw.SendXID(h.XID, &RoleReply{Role: m.Role, GenerationID: m.GenerationID})
		case *MultipartRequest:
			for i := range 10 {
				r := &MultipartReply{Type: m.Type, Flags: MultipartMore, Body: bytes.Repeat([]byte{byte(i)}, 1000)}
				if i == 9 {
					r.Flags = 0
				}
				_ = sw.SendXID(h.XID, r)
			}
		case *PacketOut:
			_ = sw.SendXID(0, packetIn(len(m.Data)))
		}
	}})
	var packets atomic.Int64
	e := run(t, a, b, ConnOptions{Handler: func(_ Header, m Message) {
		if _, ok := m.(*PacketIn); ok {
			packets.Add(1)
		}
	}, KeepaliveInterval: time.Millisecond, ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second})

	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 100 {
				generation := uint64(g)<<32 | uint64(i)
				m, err := e.Request(t.Context(), &RoleRequest{Role: RoleMaster, GenerationID: generation})
				if err != nil || m.(*RoleReply).GenerationID != generation {
					t.Errorf("request %x got %v, %v", generation, m, err)
					return
				}
				if _, err := e.Send(&PacketOut{BufferID: NoBuffer, InPort: PortController, Data: make([]byte, 64)}); err != nil {
					t.Error(err)
					return
				}
				if i%10 == 0 {
					n := 0
					err := e.Multipart(t.Context(), &MultipartRequest{Type: MultipartDesc}, func(body []byte) error {
						if body[0] != byte(n) {
							t.Errorf("part %d is %d", n, body[0])
						}
						n++
						return nil
					})
					if err != nil || n != 10 {
						t.Errorf("%d parts, %v", n, err)
					}
				}
			}
		})
	}
	wg.Wait()
	_, err := e.Request(t.Context(), &EchoRequest{Data: []byte("last")})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return packets.Load() == 800 }, 5*time.Second, time.Millisecond)
	require.Zero(t, e.Stats().Late)
	require.Zero(t, e.Stats().Invalid)
}

func TestConnAllocations(t *testing.T) {
	var ports Port
	c := NewConn(nil, ConnOptions{Handler: func(_ Header, m Message) {
		p, _ := m.(*PacketIn).InPort()
		ports += p
	}})
	frame := Append(nil, 0, packetIn(128))
	h, err := ParseHeader(frame)
	require.NoError(t, err)
	require.Zero(t, testing.AllocsPerRun(1000, func() { c.handle(h, frame) }), "a packet-in from buffer to handler")
	require.NotZero(t, ports)

	out := &PacketOut{BufferID: NoBuffer, InPort: 1, Actions: []Action{OutputPort(2)}, Data: make([]byte, 128)}
	c.out = make([]byte, 0, 1<<20)
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		if _, err := c.Send(out); err != nil {
			t.Fatal(err)
		}
	}), "a packet-out from value to queue")
}

// stream is a net.Conn whose peer sends these bytes, a few at a time, and takes all.
type stream struct {
	net.Conn // nil: what is not below is not called
	b        []byte
	step     int
	closed   atomic.Bool
}

func (s *stream) Read(b []byte) (int, error) {
	if len(s.b) == 0 || s.closed.Load() {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), s.step)], s.b)
	s.b = s.b[n:]
	return n, nil
}

func (s *stream) Write(b []byte) (int, error) {
	if s.closed.Load() {
		return 0, os.ErrClosed
	}
	return len(b), nil
}

func (s *stream) Close() error { s.closed.Store(true); return nil }

func (s *stream) SetWriteDeadline(time.Time) error { return nil }

func FuzzConn(f *testing.F) {
	request := requestXID | 1
	var all []byte
	for _, m := range []Message{
		&Hello{Versions: []uint8{4}}, packetIn(60), &EchoRequest{Data: []byte("x")}, &BarrierReply{},
		&MultipartReply{Type: MultipartFlow, Flags: MultipartMore, Body: []byte("abc")},
		&MultipartReply{Type: MultipartFlow}, &Error{Type: ErrorBadRequest}, &BundleControl{Type: BundleOpenReply},
	} {
		b := Append(nil, request, m)
		f.Add(b, uint8(3))
		all = append(all, b...)
	}
	f.Add(all, uint8(11))
	f.Add(append(all[:len(all):len(all)], 4, 10, 0, 0, 0, 0, 0, 0), uint8(255))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		allocation.Bounded(t, len(b), func() {
			_ = NewConn(&stream{b: b, step: int(step) + 1}, ConnOptions{MaxMultipart: 1 << 10, Handler: func(Header, Message) {}}).Run(context.Background())
		})
		var n int
		c := NewConn(&stream{b: b, step: int(step) + 1}, ConnOptions{MaxMultipart: 1 << 10, Handler: func(h Header, m Message) { n++ }})
		var parts int
		w := &waiter{reply: TypeMultipartReply, multipart: MultipartFlow, done: make(chan struct{}),
			part: func(body []byte) error { parts += len(body); return nil }}
		c.waiters[request] = w
		require.Error(t, c.Run(context.Background()))
		s := c.Stats()
		require.LessOrEqual(t, s.BytesReceived, uint64(len(b)))
		require.LessOrEqual(t, parts, 1<<10)
		var received uint64
		for _, n := range s.Received {
			received += n
		}
		require.LessOrEqual(t, received*HeaderLen, s.BytesReceived)
		require.LessOrEqual(t, uint64(n)+s.Late+s.Invalid, received)
	})
}

// BenchmarkConnPacketIn is the way of a packet-in from the socket to a handler.
func BenchmarkConnPacketIn(b *testing.B) {
	a, peer := loopback(b)
	var n atomic.Int64
	done := make(chan struct{})
	c := NewConn(a, ConnOptions{Handler: func(_ Header, m Message) {
		if _, ok := m.(*PacketIn); ok && n.Add(-1) == 0 {
			close(done)
		}
	}, ReadTimeout: time.Minute, KeepaliveInterval: 10 * time.Second})
	go c.Run(b.Context())
	frame := Append(nil, 0, packetIn(128))
	batch := bytes.Repeat(frame, 100)
	n.Store(int64(b.N))
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	b.ResetTimer()
	for left := b.N; left > 0; left -= 100 {
		if _, err := peer.Write(batch[:min(left, 100)*len(frame)]); err != nil {
			b.Fatal(err)
		}
	}
	<-done
}

// BenchmarkConnAnswer answers packet-ins with packet-outs, as a learning switch does.
func BenchmarkConnAnswer(b *testing.B) {
	a, peer := loopback(b)
	out := &PacketOut{BufferID: NoBuffer, InPort: 1, Actions: []Action{OutputPort(2)}, Data: make([]byte, 128)}
	var c *Conn
	c = NewConn(a, ConnOptions{Handler: func(h Header, m Message) {
		if _, ok := m.(*PacketIn); ok {
			if err := c.SendXID(h.XID, out); err != nil {
				b.Error(err)
			}
		}
	}, ReadTimeout: time.Minute, WriteTimeout: time.Minute, KeepaliveInterval: 10 * time.Second})
	go c.Run(b.Context())
	frame, answer := Append(nil, 0, packetIn(128)), Len(out)
	batch := bytes.Repeat(frame, 100)
	b.ReportAllocs()
	b.ResetTimer()
	go func() {
		for left := b.N; left > 0; left -= 100 {
			if _, err := peer.Write(batch[:min(left, 100)*len(frame)]); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, peer, int64(b.N)*int64(answer)); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/float64(c.Stats().Writes), "msgs/write")
}

// BenchmarkConnSend sends flow-mods to a peer that only reads.
func BenchmarkConnSend(b *testing.B) {
	a, peer := loopback(b)
	c := NewConn(a, ConnOptions{WriteTimeout: time.Minute})
	go c.Run(b.Context())
	m := &FlowMod{Priority: 100, OutPort: PortAny, OutGroup: GroupAny, BufferID: NoBuffer,
		Match:        NewMatch(InPort(1), EthDst(MAC{2, 0, 0, 0, 0, 1})),
		Instructions: []Instruction{ApplyActions{Actions: []Action{OutputPort(2)}}}}
	size := Len(m)
	b.ReportAllocs()
	b.SetBytes(int64(size))
	b.ResetTimer()
	go func() {
		for range b.N {
			if _, err := c.Send(m); err != nil {
				b.Error(err)
				return
			}
		}
	}()
	if _, err := io.CopyN(io.Discard, peer, int64(b.N)*int64(size)); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/float64(c.Stats().Writes), "msgs/write")
}

// BenchmarkConnRequest is the round trip of a barrier.
func BenchmarkConnRequest(b *testing.B) {
	x, y := loopback(b)
	var sw *Conn
	sw = NewConn(y, ConnOptions{Handler: func(h Header, _ Message) { _ = sw.SendXID(h.XID, &BarrierReply{}) }})
	c := NewConn(x, ConnOptions{})
	go sw.Run(b.Context())
	go c.Run(b.Context())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Request(b.Context(), &BarrierRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}
