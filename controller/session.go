package controller

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Bounds of a session.
const (
	helloTimeout     = 8 * time.Second // to say which datapath the peer is
	handshakeTimeout = 10 * time.Second
	requestTimeout   = 10 * time.Second
	probeTimeout     = 2 * time.Second
	// maxPortEvents and maxRemoved bound what waits of messages that may not be
	// lost; beyond them the state they tell of is read again.
	maxPortEvents = 4096
	// maxPorts bounds the ports of one switch; those beyond it are not used.
	maxPorts = 4096
	// maxReply and maxInstalled bound a read-back: the bytes of one multipart reply,
	// and the entries kept of it.
	maxReply     = 64 << 20
	maxInstalled = 400_000
	maxRemoved   = 4096
	// maxMatch is longer than any match of ours.
	maxMatch = 1024
)

// Reasons for which a session ends.
var (
	errNoHello       = errors.New("first message is not a hello")
	errVersion       = errors.New("peer does not offer OpenFlow 1.3")
	errDuplicate     = errors.New("datapath id is in use by a live connection")
	errSuperseded    = errors.New("superseded: the switch connected again and this connection is dead")
	errHandshake     = errors.New("handshake took too long")
	errNoAnswer      = fmt.Errorf("the switch does not answer: %w", context.DeadlineExceeded)
	errPanic         = errors.New("panic")
	errDeposed       = errors.New("another controller has become the switch's master")
	errConfirmed     = errors.New("confirmed: the switch is taken when it connects again")
	errAuxiliary     = errors.New("auxiliary connections are not used")
	errPortsOverflow = errors.New("too many port events at once")
	// errTooManyEntries voids a read-back as ErrTooLarge does.
	errTooManyEntries = fmt.Errorf("over %d entries: %w", maxInstalled, ofproto.ErrTooLarge)
)

// session is one OpenFlow connection. Three goroutines serve it: the reader
// (ofproto.Conn.Run calling handle), the worker that owns the flow table, and the
// writer inside the connection.
type session struct {
	c    *Controller
	conn *ofproto.Conn
	logs atomic.Pointer[slog.Logger] // the reader logs while the handshake adds the datapath id
	id   atomic.Uint64               // the datapath id for the reader; 0: not known yet
	peer netip.AddrPort
	cert *x509.Certificate // of the switch; nil: plain TCP

	entry    *entry
	flapping bool      // it has come and gone lately, and more often than is worth a line in the log
	attached time.Time // when it became a session; zero: not yet

	hello chan *hello   // the first message, nil if it is no hello
	phase atomic.Uint32 // of phase…

	// Set by the handshake before the session is attached.
	dpid     ofproto.DPID
	desc     ofproto.Desc
	caps     Capabilities
	role     ofproto.Role
	ports    []ofproto.PortDesc
	bundleID uint32
	// metersRefused says that the switch takes no meter; of the worker.
	metersRefused bool
	// master: the switch has made this session its master. The reader asks.
	master atomic.Bool
	// passive: another controller may have the switch, which is only looked at.
	passive bool
	// laterTerm is a term that the switch has seen and this store never gave out.
	laterTerm uint64
	empty     bool // held nothing of ours when it was read back first

	table *flowtable.Table // owned by the worker

	hold      atomic.Pointer[chan struct{}] // gets a message when the switch has forgotten; see TakeOver
	leaves    atomic.Int64                  // a successor waits until then, in Unix nanoseconds; see TakeOver
	unflushed bool                          // packet-outs are queued; owned by the core
	refusals  int                           // bundles refused in a row; the worker's

	mu        sync.Mutex
	packetIns []PacketIn
	queuedLen int // bytes of packetIns
	limit     packetLimit
	portEvs   []ofproto.PortStatus
	portsSeen uint64 // port events so far
	queued    bool   // waits in the core's inbox
	received  uint64
	dropped   uint64
	sources   map[flowtable.PartKey]Source
	complete  bool // sources has held every part once
	removed   []removedFlow
	reread    bool
	rereadDue time.Time // reread is due then; zero: it is not
	doubtedAt time.Time // when it last was
	// othersFreed: entries that are not ours are gone, so that there may be room.
	othersFreed bool
	confirmed   bool       // an operator lets the switch be written to; see gate.go
	sendings    []*sending // messages on their way

	work chan struct{} // capacity 1: the worker has something to do

	inspect inspection
}

type removedFlow struct {
	table    ofproto.Table
	priority uint16
	cookie   uint64
	match    ofproto.Match
}

const (
	phaseHello uint32 = iota // nothing but a hello is expected
	phaseSetup               // handshake; events are kept for later
	phaseReady               // attached to the core
)

// serve runs one connection to its end and returns why it ended. It owns nc.
func (c *Controller) serve(ctx context.Context, nc net.Conn) error {
	defer cut(nc)
	e, err := c.admission.enter(nc)
	if err != nil {
		c.admission.count(reasonOf(err))
		return err
	}
	attached, err := c.admitted(ctx, e)
	switch evicted := c.admission.leave(e); {
	case attached || err == nil || ctx.Err() != nil:
	case evicted:
		c.admission.count("evicted")
		return errEvicted
	default:
		c.admission.count(reasonOf(err))
		if !e.addr.IsLoopback() { // all of this machine share that address
			c.admission.note(holdKey{addr: e.addr, any: true}, true, time.Now())
		}
	}
	return err
}

// reasonOf names why a connection became no session, for the counters.
func reasonOf(err error) string {
	for _, r := range []struct {
		err  error
		name string
	}{
		{errInsecure, "plain_tcp"}, {errTLS, "tls"}, {errIdentity, "certificate"}, {errTooMany, "connections"}, {errTooManyPeer, "connections_of_peer"},
		{errDuplicate, "duplicate"}, {errVersion, "version"}, {errNoHello, "no_hello"}, {errAuxiliary, "auxiliary"}, {errHandshake, "timeout"},
		{errPanic, "panic"}, {ofproto.ErrNotOpenFlow, "not_openflow"},
	} {
		if errors.Is(err, r.err) {
			return r.name
		}
	}
	return "ended"
}

// admitted serves a connection that was let in, and says whether it became a session.
func (c *Controller) admitted(ctx context.Context, e *entry) (attached bool, err error) {
	nc := e.nc
	if err := c.admission.pause(ctx, holdKey{addr: e.addr, any: true}); err != nil {
		return false, err
	}
	cert, err := c.secure(ctx, nc)
	if err != nil {
		return false, err
	}
	s := &session{
		c:       c,
		entry:   e,
		cert:    cert,
		hello:   make(chan *hello, 1),
		table:   flowtable.New(Pipeline),
		limit:   newPacketLimit(c.PacketInRate, c.PacketInPortRate),
		sources: map[flowtable.PartKey]Source{},
		work:    make(chan struct{}, 1),
	}
	s.logs.Store(c.log.With("peer", nc.RemoteAddr().String()))
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		peer := a.AddrPort()
		s.peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	}
	s.conn = ofproto.NewConn(nc, ofproto.ConnOptions{
		ReadTimeout:       20 * time.Second,
		WriteTimeout:      10 * time.Second,
		KeepaliveInterval: 5 * time.Second,
		MaxMultipart:      maxReply,
		Handler:           s.handle,
		Invalid:           s.invalid,
		Drained:           s.drained,
	})
	defer s.conn.Close()

	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.contain(func() error { return s.conn.Run(gctx) }) })
	g.Go(func() error {
		// What is said here is why: the reader only learns that it is over.
		err = s.contain(func() error {
			err := s.handshake(gctx)
			if err == nil {
				defer s.c.detach(s)
				err = s.attachAndWork(gctx)
			}
			return err
		})
		s.conn.Close()
		return err
	})
	_ = g.Wait()
	if s.attached.IsZero() {
		return false, err
	}
	life, now := time.Since(s.attached), time.Now()
	if life < flapLife && ctx.Err() == nil && !errors.Is(err, errSuperseded) {
		c.admission.note(holdKey{addr: e.addr, dpid: s.dpid}, true, now)
	} else if life > flapReset {
		c.admission.note(holdKey{addr: e.addr, dpid: s.dpid}, false, now)
	}
	return true, err
}

// contain makes a panic the end of this session alone: the switch connects again and
// is read back.
func (s *session) contain(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			s.c.admission.panicked()
			s.log().Error("session panicked", "panic", r, "stack", string(debug.Stack()))
			err = fmt.Errorf("%w: %v", errPanic, r)
			s.conn.CloseWith(err)
		}
	}()
	return f()
}

func (s *session) log() *slog.Logger { return s.logs.Load() }

// logLimited logs at most most lines a second with this text about the datapath: what
// is logged for each message, port or part of it, it can have happen without end.
func (s *session) logLimited(most int, level slog.Level, text string, args ...any) {
	s.c.logLimited.log(s.log(), limitedKey{ofproto.DPID(s.id.Load()), text}, most, level, args...)
}

// fewLines is how many lines a second tell of things that have names, like ports.
const fewLines = 10

// logLevel is that of what each connection has happen to it.
func (s *session) logLevel() slog.Level {
	if s.flapping {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// handshake makes the connection usable, in the order of §6.3: versions, features,
// then the role before anything else, so that no other controller's writes mix
// with what is read afterwards.
func (s *session) handshake(ctx context.Context) error {
	features, err := s.introduce(ctx)
	if err != nil {
		return err
	}
	key := holdKey{addr: s.entry.addr, dpid: s.dpid}
	if s.flapping = s.c.admission.flapping(key); s.flapping {
		s.c.alarm("flapping "+s.dpid.String(), "switch connects and goes, again and again", "dpid", s.dpid.String(), "peer", s.peer.String())
	}
	if err := s.c.admission.pause(ctx, key); err != nil {
		return err
	}
	if err := s.c.claim(ctx, s); err != nil {
		return err
	}
	if err := s.c.admission.turn(ctx, s.entry); err != nil {
		s.c.detach(s)
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, errHandshake)
	defer cancel()
	if err := s.setup(ctx, features); err != nil {
		s.c.detach(s)
		return err
	}
	return nil
}

// introduce learns which datapath the peer is, and whether it may be that.
func (s *session) introduce(ctx context.Context) (*ofproto.FeaturesReply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, helloTimeout, errHandshake)
	defer cancel()
	if _, err := s.conn.Send(&ofproto.Hello{Versions: []uint8{ofproto.Version}}); err != nil {
		return nil, err
	}
	select {
	case h := <-s.hello:
		if h == nil {
			return nil, errNoHello
		}
		if !h.offersVersion() {
			_, err := s.conn.Send(&ofproto.Error{Type: ofproto.ErrorHelloFailed, Code: ofproto.CodeHelloIncompatible, Data: []byte("fairlead speaks OpenFlow 1.3 only")})
			return nil, errors.Join(errVersion, err)
		}
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	features, err := request[*ofproto.FeaturesReply](ctx, s, &ofproto.FeaturesRequest{})
	if err != nil {
		return nil, fmt.Errorf("features: %w", err)
	}
	if features.AuxiliaryID != 0 {
		return nil, errAuxiliary
	}
	s.dpid = features.DPID
	s.id.Store(uint64(s.dpid))
	s.logs.Store(s.log().With("dpid", s.dpid.String()))
	if err := s.c.bindings.check(ctx, s.dpid, s.cert, time.Now()); err != nil {
		if errors.Is(err, errIdentity) {
			args := []any{"dpid", s.dpid.String(), "peer", s.peer.String(), "error", err}
			of := s.dpid.String()
			if s.cert != nil { // who claims one id after the other is one that does
				of = keyOf(s.cert)
				args = append(args, certificateLog(s.cert))
			}
			s.c.alarm("identity "+of, "switch refused", args...)
		}
		return nil, err
	}
	return features, nil
}

// setup asks for the role and then for all that describes the switch.
func (s *session) setup(ctx context.Context, features *ofproto.FeaturesReply) error {
	if err := s.becomeMaster(ctx); err != nil {
		return fmt.Errorf("role: %w", err)
	}
	if !s.passive {
		if _, err := s.conn.Send(&ofproto.SetConfig{MissSendLen: ofproto.MaxLenNoBuffer}); err != nil {
			return err
		}
	}
	var err error
	if s.desc, err = single(ctx, s, ofproto.MultipartDesc, ofproto.ParseDesc); err != nil {
		return fmt.Errorf("description: %w", err)
	}
	if s.ports, _, err = s.readPorts(ctx); err != nil {
		return err
	}
	groups, err := single(ctx, s, ofproto.MultipartGroupFeatures, ofproto.ParseGroupFeatures)
	if err != nil && !refused(err) {
		return fmt.Errorf("group features: %w", err)
	}
	meters, err := single(ctx, s, ofproto.MultipartMeterFeatures, ofproto.ParseMeterFeatures)
	if err != nil && !refused(err) {
		return fmt.Errorf("meter features: %w", err)
	}
	bundles := false
	if !s.passive {
		if bundles, err = s.probeBundles(ctx); err != nil {
			return fmt.Errorf("bundles: %w", err)
		}
	}
	s.caps = capabilitiesOf(features, s.desc, groups, meters, bundles)
	return nil
}

// hello is what the peer's hello said.
type hello struct {
	version uint8   // of the header
	bitmap  []uint8 // versions offered; nil without the element
}

// offersVersion negotiates as §6.3.1 says: by the bitmap where the peer sent one,
// by the header's version otherwise.
func (h *hello) offersVersion() bool {
	if len(h.bitmap) > 0 {
		return slices.Contains(h.bitmap, ofproto.Version)
	}
	return h.version >= ofproto.Version
}

// request sends m and returns the reply as the type it must have.
func request[R ofproto.Message](ctx context.Context, s *session, m ofproto.Message) (R, error) {
	var zero R
	reply, err := s.conn.Request(ctx, m)
	if err != nil {
		return zero, err
	}
	r, ok := reply.(R)
	if !ok {
		return zero, fmt.Errorf("reply to %T is a %T", m, reply)
	}
	return r, nil
}

// single asks for a multipart of one part and returns what parse makes of it.
func single[T any](ctx context.Context, s *session, t ofproto.MultipartType, parse func([]byte) (T, error)) (v T, err error) {
	err = s.conn.Multipart(ctx, &ofproto.MultipartRequest{Type: t}, func(b []byte) (err error) {
		v, err = parse(b)
		return err
	})
	return v, err
}

// refused says whether an error is the switch's own answer to a request: it does
// not have, or does not want, what was asked for.
func refused(err error) bool {
	var e *ofproto.Error
	return errors.As(err, &e)
}

// becomeMaster requests the role MASTER under the controller's term (§6.3.6). Where
// the switch has seen a later one, or bears the mark of another store, another
// controller may have it: then this one is a slave, until an operator confirms that it
// is to take the switch. A switch that knows no roles has one controller, which may
// write.
func (s *session) becomeMaster(ctx context.Context) error {
	for range 3 {
		seen, err := request[*ofproto.RoleReply](ctx, s, &ofproto.RoleRequest{Role: ofproto.RoleNoChange})
		if refused(err) {
			s.role = ofproto.RoleEqual
			return nil
		} else if err != nil {
			return err
		}
		// All ones: the switch has seen no term yet.
		later := seen.GenerationID != ^uint64(0) && int64(seen.GenerationID-s.c.term.Load()) > 0
		if later || s.c.suspect(s.dpid, seen.GenerationID) {
			s.laterTerm = seen.GenerationID
		}
		other := s.laterTerm != 0
		if !other {
			if other, err = s.markOfAnother(ctx); err != nil {
				return err
			}
		}
		if other {
			s.mu.Lock()
			s.confirmed = s.c.mayTake(s.dpid)
			confirmed := s.confirmed
			s.mu.Unlock()
			if !confirmed {
				return s.becomeSlave(ctx, seen.GenerationID)
			}
		}
		if later {
			if err := s.c.raiseTerm(ctx, seen.GenerationID+1); err != nil {
				return err
			}
		}
		s.c.tell(s.dpid)
		reply, err := request[*ofproto.RoleReply](ctx, s, &ofproto.RoleRequest{Role: ofproto.RoleMaster, GenerationID: s.c.term.Load()})
		if err == nil {
			// One that does as if it had roles makes it EQUAL, which may write. A slave may not.
			switch s.role = reply.Role; s.role {
			case ofproto.RoleMaster, ofproto.RoleEqual:
			case ofproto.RoleSlave:
				s.passive = true
			default:
				return fmt.Errorf("asked to be master, and the switch says %v", s.role)
			}
			s.master.Store(s.role == ofproto.RoleMaster)
			return nil
		}
		var e *ofproto.Error
		if !errors.As(err, &e) || e.Type != ofproto.ErrorRoleRequestFailed || e.Code != ofproto.CodeRoleStale {
			return err
		}
	}
	return errors.New("the switch keeps refusing the term as stale")
}

// becomeSlave requests the role SLAVE, which disturbs no master, under the term that
// the switch has seen. Without one there is no master, and what is refused changes
// nothing: EQUAL is what every connection begins as.
func (s *session) becomeSlave(ctx context.Context, seen uint64) error {
	s.passive, s.role = true, ofproto.RoleEqual
	if seen == ^uint64(0) {
		return nil
	}
	// What is sent below the switch keeps: a reply that was damaged must not become its term.
	again, err := request[*ofproto.RoleReply](ctx, s, &ofproto.RoleRequest{Role: ofproto.RoleNoChange})
	if err != nil {
		return err
	} else if again.GenerationID != seen {
		return fmt.Errorf("the switch has seen term %d, and then %d", seen, again.GenerationID)
	}
	reply, err := request[*ofproto.RoleReply](ctx, s, &ofproto.RoleRequest{Role: ofproto.RoleSlave, GenerationID: seen})
	if err == nil {
		s.role = reply.Role
	} else if !refused(err) {
		return err
	}
	return nil
}

// markOfAnother says whether the switch bears the mark of another store.
func (s *session) markOfAnother(ctx context.Context) (other bool, err error) {
	ours := markSource(s.c.Cluster).Build().Flows[0].Match
	err = s.conn.Multipart(ctx, &ofproto.MultipartRequest{Type: ofproto.MultipartFlow, Body: &ofproto.FlowStatsRequest{
		Table: TableIngress, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny, Match: ofproto.NewMatch(ofproto.EthType(markType)),
	}}, func(b []byte) error {
		return each(ofproto.FlowStatsOf(b), func(f ofproto.FlowStats) {
			if flowtable.OwnsCookie(f.Cookie) && flowtable.CookieApp(f.Cookie) == AppStore && !f.Match.Canonical().Equal(ours.Canonical()) {
				other = true
			}
		})
	})
	if refused(err) {
		return false, nil // it will be seen in what is read back
	}
	return other, err
}

// probeBundles opens and discards an empty bundle (ONF extension 230).
func (s *session) probeBundles(ctx context.Context) (bool, error) {
	s.bundleID++
	open := &ofproto.BundleControl{Bundle: s.bundleID, Type: ofproto.BundleOpenRequest, Flags: ofproto.BundleAtomic | ofproto.BundleOrdered}
	if _, err := s.conn.Request(ctx, open); refused(err) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	_, err := s.conn.Request(ctx, &ofproto.BundleControl{Bundle: s.bundleID, Type: ofproto.BundleDiscardRequest, Flags: open.Flags})
	if err != nil && !refused(err) {
		return false, err
	}
	return true, nil
}

// handle takes a message from the reader goroutine. It must be quick and keep
// nothing that aliases the read buffer.
func (s *session) handle(h ofproto.Header, m ofproto.Message) {
	if s.phase.Load() == phaseHello {
		s.phase.Store(phaseSetup)
		var first *hello
		if m, ok := m.(*ofproto.Hello); ok {
			first = &hello{version: h.Version, bitmap: slices.Clone(m.Versions)}
		}
		s.hello <- first
		return
	}
	switch m := m.(type) {
	case *ofproto.PacketIn:
		s.packetIn(m)
	case *ofproto.PortStatus:
		s.portStatus(m)
	case *ofproto.FlowRemoved:
		s.flowRemoved(m)
	case *ofproto.Error:
		if h.Version == ofproto.Version { // others mean something else by the same numbers
			s.failed(h.XID, m)
		}
	case *ofproto.Hello, *ofproto.RoleReply, *ofproto.BarrierReply, *ofproto.EchoReply, *ofproto.Experimenter, *ofproto.BundleControl:
		// A second hello means nothing; replies that no request waits for any more,
		// and what experimenters announce by themselves, change nothing.
	default:
		s.conn.TrySend(h.XID, &ofproto.Error{Type: ofproto.ErrorBadRequest, Code: ofproto.CodeBadType, Data: []byte{h.Version, byte(h.Type), byte(h.Length >> 8), byte(h.Length)}})
	}
}

// invalid answers a message that cannot be parsed. The session goes on: the frame's
// header was sound, so the next one begins where it should.
func (s *session) invalid(h ofproto.Header, frame []byte, err error) {
	if s.phase.CompareAndSwap(phaseHello, phaseSetup) {
		s.hello <- nil
		return
	}
	s.logLimited(1, slog.LevelWarn, "malformed message", "type", h.Type, "error", err)
	if h.Type == ofproto.TypeError {
		return // an error is never answered with an error
	}
	code := ofproto.CodeBadLen
	if h.Version != ofproto.Version {
		code = ofproto.CodeBadVersion
	}
	s.conn.TrySend(h.XID, &ofproto.Error{Type: ofproto.ErrorBadRequest, Code: code, Data: frame[:min(len(frame), 64)]})
}

func (s *session) packetIn(m *ofproto.PacketIn) {
	port, ok := m.Match.InPort()
	if !ok || s.sampled(port, m.Data) {
		return
	}
	s.mu.Lock()
	s.received++
	if s.queuedLen+len(m.Data) > maxPacketBytes || !s.limit.admit(time.Now(), port, packetKindOf(m.Cookie, m.Data), len(s.packetIns)) {
		s.dropped++
		s.mu.Unlock()
		return
	}
	s.queuedLen += len(m.Data)
	s.packetIns = append(s.packetIns, PacketIn{InPort: port, Table: m.Table, Cookie: m.Cookie, Data: slices.Clone(m.Data)})
	s.mu.Unlock()
}

// drained hands what was read to the core: at once if that is idle, else by its inbox.
func (s *session) drained() {
	s.mu.Lock()
	if s.queued || len(s.packetIns)+len(s.portEvs) == 0 || s.phase.Load() != phaseReady {
		s.mu.Unlock()
		return
	}
	s.queued = true
	s.mu.Unlock()
	s.c.offer(s)
}

// readPorts asks for all ports, and returns how many port events had come before the
// answer did.
func (s *session) readPorts(ctx context.Context) (ports []ofproto.PortDesc, seen uint64, err error) {
	at := map[ofproto.Port]int{} // in ports
	err = s.conn.Multipart(ctx, &ofproto.MultipartRequest{Type: ofproto.MultipartPortDesc}, func(b []byte) error {
		s.mu.Lock()
		seen = s.portsSeen
		s.mu.Unlock()
		for p, err := range ofproto.PortDescOf(b) {
			if err != nil {
				return err
			}
			i, twice := at[p.Port]
			switch {
			case twice:
				ports[i] = p // as with two messages about one port
			case usable(p.Port) && len(ports) < maxPorts:
				at[p.Port] = len(ports)
				ports = append(ports, p)
			}
		}
		return nil
	})
	if err != nil {
		return nil, 0, fmt.Errorf("ports: %w", err)
	}
	return ports, seen, nil
}

// auditPorts compares the ports of the switch with what is known of them: a change
// that nobody told of, or whose message could not be read, must not stay unknown.
func (s *session) auditPorts(ctx context.Context) error {
	asking, cancel := context.WithTimeoutCause(ctx, requestTimeout, errNoAnswer)
	defer cancel()
	ports, seen, err := s.readPorts(asking)
	if refused(err) {
		return nil
	} else if err != nil {
		return err
	}
	return s.c.enqueue(ctx, func() {
		s.mu.Lock()
		later := s.portsSeen != seen || len(s.portEvs) > 0 // they know better; there is another audit
		s.mu.Unlock()
		sw := s.c.ctx.switches[s.dpid]
		if later || sw == nil || sw.session != s {
			return
		}
		there := map[ofproto.Port]bool{}
		for _, p := range ports {
			there[p.Port] = true
			if known, ok := sw.Ports[p.Port]; !ok || known.Name != p.Name || known.Config != p.Config || known.State != p.State || known.HWAddr != p.HWAddr {
				s.logLimited(fewLines, slog.LevelWarn, "a change of a port was not told", "port", p.Port, "up", p.Up())
				s.c.portStatus(sw, ofproto.PortStatus{Reason: ofproto.PortReasonModify, Desc: p})
			}
		}
		for _, p := range sw.PortList() {
			if !there[p.Port] {
				s.logLimited(fewLines, slog.LevelWarn, "a port is gone and that was not told", "port", p.Port)
				s.c.portStatus(sw, ofproto.PortStatus{Reason: ofproto.PortReasonDelete, Desc: p})
			}
		}
	})
}

// usable says whether a switch may have a port of that number (§7.2.1).
func usable(p ofproto.Port) bool {
	return p > 0 && p < ofproto.PortMax || p == ofproto.PortLocal
}

func (s *session) portStatus(m *ofproto.PortStatus) {
	if !usable(m.Desc.Port) || m.Reason > ofproto.PortReasonModify {
		s.logLimited(1, slog.LevelWarn, "port status makes no sense", "port", m.Desc.Port, "reason", m.Reason)
		return
	}
	s.mu.Lock()
	if len(s.portEvs) >= maxPortEvents {
		s.mu.Unlock()
		s.conn.CloseWith(errPortsOverflow)
		return
	}
	s.portEvs = append(s.portEvs, *m)
	s.portsSeen++
	s.enqueueLocked()
}

// enqueueLocked puts the session into the core's inbox unless it waits there
// already, or is not attached yet. It unlocks s.mu.
func (s *session) enqueueLocked() {
	put := !s.queued && s.phase.Load() == phaseReady
	s.queued = s.queued || put
	s.mu.Unlock()
	if put {
		s.c.inbox.put(s)
	}
}

func (s *session) flowRemoved(m *ofproto.FlowRemoved) {
	if len(m.Match) > maxMatch {
		return // no entry of ours, whatever its cookie
	}
	if !flowtable.OwnsCookie(m.Cookie) {
		s.holdRemoved(m)
		s.roomBeside()
		return
	}
	s.mu.Lock()
	// Who deletes a group takes its flows along: what else is gone is not told.
	s.reread = s.reread || m.Reason == ofproto.RemovedGroupDelete
	if len(s.removed) < maxRemoved {
		s.removed = append(s.removed, removedFlow{m.Table, m.Priority, m.Cookie, slices.Clone(m.Match)})
	} else {
		s.reread = true
	}
	s.mu.Unlock()
	s.wake()
}

// failed records an error that the switch sent for a message being applied.
func (s *session) failed(xid uint32, m *ofproto.Error) {
	if m.Type == ofproto.ErrorBadRequest && m.Code == ofproto.CodeIsSlave && s.master.Load() {
		s.c.alarm("deposed "+s.dpid.String(), errDeposed.Error(), "dpid", s.dpid.String(), "peer", s.peer.String())
		s.conn.CloseWith(errDeposed)
	}
	ok := false
	s.mu.Lock()
	for _, q := range s.sendings {
		i := xid - q.first
		if i >= q.n {
			continue
		}
		ok = true
		if q.errs[int(i)] == nil {
			e := *m
			e.Data = nil // of the read buffer, and what was sent is known
			if q.errs == nil {
				q.errs = map[int]*ofproto.Error{}
			}
			q.errs[int(i)] = &e
		}
	}
	s.mu.Unlock()
	if !ok {
		s.late(xid, m)
		s.logLimited(1, slog.LevelWarn, "switch reports an error", "xid", xid, "error", m)
	}
}

// late has the switch read back for an error of a message that a barrier had it carried
// out: there are switches that answer a barrier before they know.
func (s *session) late(xid uint32, m *ofproto.Error) {
	switch m.Type {
	case ofproto.ErrorBadAction, ofproto.ErrorBadInstruction, ofproto.ErrorBadMatch, ofproto.ErrorFlowModFailed, ofproto.ErrorGroupModFailed, ofproto.ErrorMeterModFailed:
	default:
		return
	}
	if xid != 0 { // packet-outs have none
		s.doubt()
		s.wake()
	}
}

// doubt has the switch read back, soon if it was not for a while.
func (s *session) doubt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rereadDue.IsZero() {
		s.rereadDue = s.doubtedAt.Add(doubtEvery)
	}
}

func (s *session) wake() {
	select {
	case s.work <- struct{}{}:
	default:
	}
}

// assign gives the worker parts to compile; later ones replace earlier ones that
// it has not taken yet. It owns the map from then on.
func (s *session) assign(parts map[flowtable.PartKey]Source, complete bool) {
	s.mu.Lock()
	if len(s.sources) == 0 {
		s.sources = parts
		parts = nil
	}
	for k, v := range parts {
		_, v.again = s.sources[k]
		s.sources[k] = v
	}
	s.complete = s.complete || complete
	s.mu.Unlock()
	s.wake()
}

// alive probes the connection with an echo request.
func (s *session) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := s.conn.Request(ctx, &ofproto.EchoRequest{})
	return err == nil
}
