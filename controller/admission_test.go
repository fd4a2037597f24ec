package controller

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
)

// from is a connection that says it comes from an address, and is closed or not.
type from struct {
	net.Conn
	addr   string
	closed bool
}

func (f *from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(f.addr), 1))
}

func (f *from) Close() error { f.closed = true; return nil }

func TestX06AddressesOfThisMachine(t *testing.T) {
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"} {
		require.True(t, peerAddr((&from{addr: a}).RemoteAddr()).IsLoopback(), a)
	}
	for _, a := range []string{"10.0.0.1", "0.0.0.0", "fe80::1%eth0", "::ffff:10.0.0.1", "2001:db8::1"} {
		require.False(t, peerAddr((&from{addr: a}).RemoteAddr()).IsLoopback(), a)
	}
}

func TestC11ConnectionsAreBounded(t *testing.T) {
	a := newAdmission()
	var entries []*entry
	for range maxPerPeer {
		e, err := a.enter(&from{addr: "10.0.0.1"})
		require.NoError(t, err)
		entries = append(entries, e)
		a.settle(e)
	}
	_, err := a.enter(&from{addr: "10.0.0.1"})
	require.ErrorIs(t, err, errTooManyPeer)
	_, err = a.enter(&from{addr: "::ffff:10.0.0.1"})
	require.ErrorIs(t, err, errTooManyPeer, "the same address")
	for range maxOpen - maxPerPeer {
		e, err := a.enter(&from{addr: "127.0.0.1"})
		require.NoError(t, err, "all of this machine share an address")
		entries = append(entries, e)
		a.settle(e)
	}
	_, err = a.enter(&from{addr: "10.0.0.2"})
	require.ErrorIs(t, err, errTooMany)
	for _, e := range entries {
		require.False(t, a.leave(e))
	}
	require.Empty(t, a.peers)
	require.Zero(t, a.open)
	require.Zero(t, a.fresh)
}

// Who says nothing makes room for who comes, and the one with the most goes first.
func TestC02MuteConnectionsMakeRoom(t *testing.T) {
	a := newAdmission()
	switches := &from{addr: "10.0.0.1"}
	real, err := a.enter(switches)
	require.NoError(t, err)
	var mute []*from
	for i := range 3 * maxFresh {
		f := &from{addr: fmt.Sprintf("10.0.1.%d", i%4)}
		mute = append(mute, f)
		if _, err := a.enter(f); err != nil {
			require.ErrorIs(t, err, errTooManyPeer)
		}
	}
	require.False(t, switches.closed)
	require.LessOrEqual(t, a.fresh, maxFresh)
	closed := 0
	for _, f := range mute {
		if f.closed {
			closed++
		}
	}
	require.Positive(t, closed)
	require.False(t, a.leave(real))
}

func (a *admission) underWay() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.busy
}

// A thousand connections of one address that want to be read back do not delay one of
// another.
func TestC11TurnsAreFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission()
		served := make(chan string, 2000)
		want := func(addr string) {
			e, err := a.enter(&from{addr: addr})
			require.NoError(t, err)
			require.NoError(t, a.turn(t.Context(), e))
			time.Sleep(time.Second)
			served <- addr
			a.done(e)
			a.done(e) // once is enough
			a.leave(e)
		}
		for range 900 {
			go want("10.0.0.1")
		}
		synctest.Wait()
		require.Equal(t, peerHandshakes, a.underWay(), "an address does not get all")
		go want("10.0.0.2")
		synctest.Wait()
		require.Equal(t, peerHandshakes+1, a.underWay())
		begin := time.Now()
		for addr := ""; addr != "10.0.0.2"; {
			addr = <-served
		}
		require.LessOrEqual(t, time.Since(begin), time.Second)
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Zero(t, a.underWay())
		require.Empty(t, a.turns)
		require.Empty(t, a.peers)
	})
}

// Who gives up while it waits, or as its turn comes, takes no turn with it.
func TestTurnsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission()
		for i := range 300 {
			go func() {
				e, err := a.enter(&from{addr: fmt.Sprintf("10.0.0.%d", i%7)})
				require.NoError(t, err)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+i%5)*time.Second)
				defer cancel()
				if a.turn(ctx, e) == nil {
					time.Sleep(time.Second)
				}
				a.leave(e)
			}()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Zero(t, a.underWay())
		require.Empty(t, a.turns)
		require.Empty(t, a.peers)
	})
}

func TestC12HoldsGrowAndAreForgotten(t *testing.T) {
	a, now := newAdmission(), time.Now()
	k := holdKey{addr: netip.MustParseAddr("10.0.0.1"), dpid: 1}
	var holds []time.Duration
	for range 20 {
		a.note(k, true, now)
		holds = append(holds, a.heldFor(k, now))
	}
	require.Zero(t, holds[flapsFree-1])
	require.Equal(t, []time.Duration{flapHold, 2 * flapHold, 4 * flapHold}, holds[flapsFree:flapsFree+3])
	require.Equal(t, flapMost, holds[19])
	require.Zero(t, a.heldFor(holdKey{addr: k.addr, dpid: 2}, now), "another datapath")
	require.Zero(t, a.heldFor(holdKey{addr: netip.MustParseAddr("10.0.0.2"), dpid: 1}, now), "another address: a stranger cannot have a switch held back")
	require.Zero(t, a.heldFor(k, now.Add(flapMost)))
	a.note(k, false, now)
	require.Zero(t, a.heldFor(k, now))

	for i := range 3 * maxHolds {
		a.note(holdKey{addr: k.addr, dpid: ofproto.DPID(i)}, true, now)
	}
	require.LessOrEqual(t, len(a.holds), maxHolds)
}

// An address whose connections come to nothing is held back.
func TestC12FailuresOfAnAddress(t *testing.T) {
	a, now := newAdmission(), time.Now()
	k := holdKey{addr: netip.MustParseAddr("10.0.0.1"), any: true}
	for range failsFree {
		a.note(k, true, now)
		require.Zero(t, a.heldFor(k, now))
	}
	a.note(k, true, now)
	require.Equal(t, failHold, a.heldFor(k, now))
	for range 1000 {
		a.note(k, true, now)
	}
	require.Equal(t, failMost, a.heldFor(k, now))
	require.Zero(t, a.heldFor(k, now.Add(holdForget+time.Second)))
}

func TestZ01PacketLimits(t *testing.T) {
	l, now := newPacketLimit(1000, 100), time.Now()
	flood := func(port ofproto.Port, kind packetKind, perSecond, seconds int) (taken int) {
		for range perSecond * seconds {
			now = now.Add(time.Second / time.Duration(perSecond))
			if l.admit(now, port, kind, 0) {
				taken++
			}
		}
		return taken
	}
	require.InDelta(t, 1000, flood(1, packetOther, 50_000, 10), 60, "one port")
	require.InDelta(t, 10*probeRate, flood(1, packetProbe, 50_000, 10), probeRate, "discovery frames, beside")
	require.InDelta(t, 10*repliesPortRate, flood(1, packetReply, 50_000, 10), repliesPortRate, "replies to health monitors, beside")
	now = now.Add(time.Minute)
	require.Equal(t, 50, flood(2, packetOther, 10, 5), "a port that keeps to its limit loses nothing")
	taken := 0
	for range 10 * 50_000 { // 50 ports
		now = now.Add(time.Second / 50_000)
		if l.admit(now, ofproto.Port(1+now.UnixNano()/20_000%50), packetOther, 0) {
			taken++
		}
	}
	require.InDelta(t, 10*1000, taken, 600, "one switch")

	require.False(t, l.admit(now.Add(time.Minute), 1, packetOther, maxPacketIns), "the queue is full")
	require.True(t, l.admit(now.Add(time.Minute), 1, packetReply, maxPacketIns), "but for replies to health monitors")
	require.False(t, l.admit(now.Add(time.Minute), 1, packetReply, maxPacketIns+maxReplies))
	require.True(t, l.admit(now.Add(time.Minute), 1, packetProbe, maxPacketIns+maxReplies), "and for discovery")
	require.False(t, l.admit(now.Add(time.Minute), 1, packetProbe, maxPacketIns+maxReplies+maxProbes))
	for i := range 3 * maxPortLimits {
		l.admit(now, ofproto.Port(i), packetOther, 0)
	}
	require.LessOrEqual(t, len(l.ports), maxPortLimits)

	free := newPacketLimit(-1, -1)
	for range 100_000 {
		require.True(t, free.admit(now, 1, packetOther, 0))
	}
}

// flakyListener fails as one does that has no descriptors left.
type flakyListener struct {
	net.Listener
	failures int
}

type emfile struct{}

func (emfile) Error() string   { return "accept4: too many open files" }
func (emfile) Temporary() bool { return true }

func (l *flakyListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Err: emfile{}}
	}
	return nil, net.ErrClosed
}

func (l *flakyListener) Close() error { return nil }

func TestC11AcceptOutlivesAWantOfDescriptors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Controller{log: discard, admission: newAdmission()}
		l := &flakyListener{failures: 50}
		begin := time.Now()
		err := c.accept(t.Context(), l)
		require.ErrorIs(t, err, net.ErrClosed, "it went on until the listener was closed")
		require.Zero(t, l.failures)
		require.InDelta(t, 5, time.Since(begin).Seconds(), 0.1)
	})
}

func TestReasonsHaveNames(t *testing.T) {
	require.Equal(t, "tls", reasonOf(fmt.Errorf("%w: x", errTLS)))
	require.Equal(t, "timeout", reasonOf(fmt.Errorf("features: %w", errHandshake)))
	require.Equal(t, "not_openflow", reasonOf(fmt.Errorf("ofproto: read: %w: it speaks TLS", ofproto.ErrNotOpenFlow)))
	require.Equal(t, "ended", reasonOf(errors.New("EOF")))
}

// Every queue that a switch, a client or an app can fill is bounded. Those that are not
// here have tests of their own: the connection's (ofproto, MaxQueue and its echoes),
// packet-ins, and what admission remembers (above).
func TestQueuesAreBounded(t *testing.T) {
	newSession := func() *session {
		here, there := net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		s := &session{c: &Controller{log: discard, admission: newAdmission()}, work: make(chan struct{}, 1), limit: newPacketLimit(-1, -1)}
		s.conn = ofproto.NewConn(here, ofproto.ConnOptions{})
		s.logs.Store(discard)
		return s
	}
	t.Run("packet-ins", func(t *testing.T) {
		s := newSession()
		m := &ofproto.PacketIn{Match: ofproto.NewMatch(ofproto.InPort(1)), Data: make([]byte, 60)}
		for range 10_000 {
			s.packetIn(m)
		}
		require.Len(t, s.packetIns, maxPacketIns)
		require.EqualValues(t, 10_000-maxPacketIns, s.dropped)
	})
	t.Run("bytes of packet-ins", func(t *testing.T) {
		s := newSession()
		m := &ofproto.PacketIn{Match: ofproto.NewMatch(ofproto.InPort(1)), Data: make([]byte, 60_000)}
		for range 100 {
			s.packetIn(m)
		}
		require.LessOrEqual(t, 60_000*len(s.packetIns), maxPacketBytes)
		require.NotEmpty(t, s.packetIns)
		s.c.ctx = NewContext(time.Now(), nil, nil)
		s.c.drain(s)
		require.Zero(t, s.queuedLen, "there is room again")
	})
	t.Run("port events", func(t *testing.T) {
		s := newSession()
		for range 2 * maxPortEvents {
			s.portStatus(&ofproto.PortStatus{Desc: ofproto.PortDesc{Port: 1}})
		}
		require.LessOrEqual(t, len(s.portEvs), maxPortEvents)
		require.ErrorIs(t, s.conn.Err(), errPortsOverflow)
	})
	t.Run("removed flows", func(t *testing.T) {
		s := newSession()
		for range 2 * maxRemoved {
			s.flowRemoved(&ofproto.FlowRemoved{Cookie: 0xfa1d << 48})
		}
		require.Len(t, s.removed, maxRemoved)
		require.True(t, s.reread, "what did not fit is read back")
	})
	t.Run("matches of removed flows", func(t *testing.T) {
		s := newSession()
		s.flowRemoved(&ofproto.FlowRemoved{Cookie: 0xfa1d << 48, Match: make(ofproto.Match, 60_000)})
		require.Empty(t, s.removed, "no entry of ours")
	})
	t.Run("errors", func(t *testing.T) {
		s := newSession()
		sent := s.announce(1)
		sent.first = 7
		for xid := range uint32(10_000) {
			s.failed(xid, &ofproto.Error{Data: make([]byte, 64)})
		}
		require.Len(t, sent.errs, 1, "of what was sent")
		require.Nil(t, sent.errs[0].Data)
		require.LessOrEqual(t, len(s.c.logLimited.seen), 4096)
	})
	t.Run("inbox", func(t *testing.T) {
		s := newSession()
		s.c.inbox.signal = make(chan struct{}, 1)
		s.phase.Store(phaseReady)
		for range 1000 {
			s.portStatus(&ofproto.PortStatus{Desc: ofproto.PortDesc{Port: 1}})
		}
		require.Len(t, s.c.inbox.queue, 1, "a session waits in it once")
	})
	t.Run("saver", func(t *testing.T) {
		v := saver{signal: make(chan struct{}, 1), pending: map[string]func(context.Context) error{}}
		for range 1000 {
			v.put([]save{{"topology", nil}})
		}
		require.Len(t, v.pending, 1, "the last of each key")
	})
	t.Run("notices", func(t *testing.T) {
		c := &Controller{}
		ch, cancel := c.Subscribe(16)
		defer cancel()
		for range 100 {
			c.notices.publish(time.Now(), []Notice{{Kind: "host"}})
		}
		require.Len(t, ch, 16)
		for range 16 {
			<-ch
		}
		_, open := <-ch
		require.False(t, open, "who does not keep up is cut off")
		require.Empty(t, c.notices.subs)
	})
	t.Run("commands", func(t *testing.T) {
		c := &Controller{cmds: make(chan func(), 64), stopped: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		for range cap(c.cmds) {
			require.NoError(t, c.enqueue(ctx, func() {}))
		}
		cancel()
		require.ErrorIs(t, c.enqueue(ctx, func() {}), context.Canceled, "the next one waits")
	})
	t.Run("alarms", func(t *testing.T) {
		c := &Controller{log: discard}
		for i := range 10_000 {
			c.alarm(fmt.Sprint(i), "x")
		}
		require.LessOrEqual(t, len(c.alarms.seen), 4096)
	})
	t.Run("bindings", func(t *testing.T) {
		b := bindings{of: map[ofproto.DPID]Binding{}}
		cert := certificateOf(t, "switch")
		var err error
		for i := range 10 * maxBindingsOfKey {
			err = b.check(t.Context(), ofproto.DPID(i), cert, time.Now())
		}
		require.ErrorIs(t, err, errIdentity)
		require.Len(t, b.of, maxBindingsOfKey, "of one key")
		for i := range maxBindings { // of others
			if _, ok := b.of[ofproto.DPID(i)]; !ok {
				b.of[ofproto.DPID(i)] = Binding{}
			}
		}
		require.ErrorIs(t, b.check(t.Context(), maxBindings+1, certificateOf(t, "another"), time.Now()), errIdentity)
		require.Len(t, b.of, maxBindings)
	})
}

var discard = slog.New(slog.DiscardHandler)

func certificateOf(t *testing.T, name string) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}
