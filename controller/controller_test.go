package controller_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// partsApp desires on every switch the parts that it is told of by events.
type partsApp struct {
	parts map[string]flowtable.Part
	acks  map[string]error // what switches last said, by part

	// Of every event but its own.
	seen func(event any)
}

// setPart is the event that changes a part; nil takes it away.
type setPart struct {
	name string
	part *flowtable.Part
}

func (a *partsApp) ID() flowtable.AppID { return controller.AppBalancer }

func (a *partsApp) Parts(*controller.Context, *controller.Switch) (names []string) {
	for name := range a.parts {
		names = append(names, name)
	}
	return names
}

func (a *partsApp) Handle(c *controller.Context, event any) {
	switch e := event.(type) {
	case setPart:
		delete(a.parts, e.name)
		if e.part != nil {
			a.parts[e.name] = *e.part
		}
		c.DirtyAll(e.name)
	case controller.Applied:
		a.acks[e.Part] = e.Err
	default:
		if a.seen != nil {
			a.seen(event)
		}
	}
}

func (a *partsApp) Compile(_ *controller.Context, _ *controller.Switch, name string) controller.Source {
	part, ok := a.parts[name]
	if !ok {
		return controller.Source{}
	}
	return controller.Source{Build: func() flowtable.Part { return part }}
}

// part has a flow to 10.0.0.n and the group that it goes through.
func part(n int) *flowtable.Part {
	id := flowtable.GroupIDOf(uint32(n))
	return &flowtable.Part{
		Flows: []flowtable.Flow{{
			Table: controller.TableVIP, Priority: controller.PrioVIPForward, Match: dst(n),
			Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.Group{ID: id}}}},
		}},
		Groups: []flowtable.Group{{ID: id, Type: ofproto.GroupTypeIndirect, Buckets: []ofproto.Bucket{
			{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: []ofproto.Action{ofproto.OutputPort(1)}},
		}}},
	}
}

func dst(n int) ofproto.Match {
	return ofproto.NewMatch(ofproto.EthType(ofproto.EthTypeIPv4), ofproto.IPv4Dst(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}), 32)))
}

// rig is a lab with one switch, 1, and an app of parts.
type rig struct {
	*lab.Lab
	t   *testing.T
	app *partsApp
	sw  *simswitch.Switch
}

func start(t *testing.T, o simswitch.Options, l lab.Options) *rig {
	t.Helper()
	o.DPID = 1
	if o.Ports == nil {
		o.Ports = []ofproto.Port{1, 2}
	}
	n := simswitch.NewNetwork()
	r := &rig{t: t, app: &partsApp{parts: map[string]flowtable.Part{}, acks: map[string]error{}}, sw: n.AddSwitch(o)}
	l.Only = true
	l.Apps = func() []controller.App { return []controller.App{r.app} }
	r.Lab = lab.Start(t, n, l)
	synctest.Wait()
	return r
}

func (r *rig) set(n int, p *flowtable.Part) {
	r.t.Helper()
	require.NoError(r.t, r.Core.Post(r.t.Context(), setPart{fmt.Sprint(n), p}))
}

// connected returns how the core sees switch 1, nil when it is not connected.
func (r *rig) connected() (sw *controller.Switch) {
	r.t.Helper()
	r.Do(func(c *controller.Context) {
		if s := c.Switch(1); s != nil {
			copied := *s
			copied.Ports, copied.Faults = nil, map[string]string{}
			for k, v := range s.Faults {
				copied.Faults[k] = v
			}
			sw = &copied
		}
	})
	return sw
}

// has returns the numbers of the parts that a switch holds whole.
func has(sw *simswitch.Switch) (parts []int) {
	groups := map[ofproto.GroupID]bool{}
	for _, g := range sw.Groups() {
		groups[g.Group] = true
	}
	for _, f := range sw.Flows() {
		for n := range 256 {
			if f.Table == controller.TableVIP && f.Match.Equal(dst(n)) && groups[flowtable.GroupIDOf(uint32(n))] {
				parts = append(parts, n)
			}
		}
	}
	slices.Sort(parts)
	return parts
}

func hello(version uint8, elements ...byte) []byte {
	b := []byte{version, byte(ofproto.TypeHello), 0, byte(8 + len(elements)), 0, 0, 0, 7}
	return append(b, elements...)
}

func bitmap(versions ...uint8) []byte {
	var bits uint32
	for _, v := range versions {
		bits |= 1 << v
	}
	return binary.BigEndian.AppendUint32([]byte{0, 1, 0, 8}, bits)
}

func TestHelloVariants(t *testing.T) {
	for name, c := range map[string]struct {
		hello []byte
		ok    bool
	}{
		"1.3":                             {hello(4), true},
		"1.3 with a bitmap":               {hello(4, bitmap(4)...), true},
		"1.5 with a bitmap with 1.3":      {hello(6, bitmap(1, 4, 6)...), true},
		"1.5 without a bitmap":            {hello(6), true},
		"an element nobody knows":         {hello(4, 0, 99, 0, 8, 1, 2, 3, 4), true},
		"1.0":                             {hello(1), false},
		"1.5 with a bitmap without 1.3":   {hello(6, bitmap(1, 5, 6)...), false},
		"1.3 with a bitmap that lacks it": {hello(4, bitmap(1)...), false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var refusal *ofproto.Error
				var mu sync.Mutex
				r := start(t, simswitch.Options{Hello: c.hello, Received: func(_ ofproto.Header, m ofproto.Message) {
					if e, ok := m.(*ofproto.Error); ok {
						mu.Lock()
						defer mu.Unlock()
						refusal = &ofproto.Error{Type: e.Type, Code: e.Code}
					}
				}}, lab.Options{})
				require.Equal(t, c.ok, r.connected() != nil)
				mu.Lock()
				defer mu.Unlock()
				if c.ok {
					require.Nil(t, refusal)
				} else {
					require.Equal(t, "OFPHFC_INCOMPATIBLE", refusal.Name())
				}
			})
		})
	}
}

func TestHostilePeersAreShutOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		r.set(1, part(1))
		synctest.Wait()
		random := rand.NewChaCha8([32]byte{1})
		noise := make([]byte, 4096)
		_, _ = random.Read(noise)
		for name, first := range map[string][]byte{
			"HTTP":             []byte("GET / HTTP/1.1\r\nHost: controller\r\n\r\n"),
			"TLS":              {0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
			"noise":            noise,
			"flow-mod first":   ofproto.Append(nil, 1, &ofproto.FlowMod{}),
			"error first":      ofproto.Append(nil, 1, &ofproto.Error{}),
			"length 0":         {4, 0, 0, 0, 0, 0, 0, 0},
			"bad hello":        hello(4, 0, 1, 0, 3),
			"nothing":          nil,
			"half a hello":     {4, 0, 0, 8, 0},
			"hello, then hush": hello(4),
		} {
			nc := r.Dial()
			go func() { _, _ = nc.Write(first) }() // all of it, or not
			done := make(chan struct{})
			go func() { // reads what comes until it is shut out
				defer close(done)
				b := make([]byte, 1024)
				for {
					if _, err := nc.Read(b); err != nil {
						return
					}
				}
			}()
			select {
			case <-done:
			case <-time.After(30 * time.Second):
				t.Fatalf("%s: still connected", name)
			}
			nc.Close()
		}
		require.NotNil(t, r.connected(), "the good one is unaffected")
		r.set(2, part(2))
		synctest.Wait()
		require.Equal(t, []int{1, 2}, has(r.sw))
	})
}

// wire is a connection of a switch that a test can freeze and write into.
type wire struct {
	net.Conn
	mu     sync.Mutex
	frozen chan struct{} // closed when it thaws; nil: it flows
	closed chan struct{}
	once   sync.Once
}

func newWire(nc net.Conn) *wire { return &wire{Conn: nc, closed: make(chan struct{})} }

func (w *wire) freeze() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frozen = make(chan struct{})
}

func (w *wire) wait() error {
	w.mu.Lock()
	f := w.frozen
	w.mu.Unlock()
	if f != nil {
		<-w.closed
		return net.ErrClosed
	}
	return nil
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if e := w.wait(); e != nil {
		return 0, e
	}
	return n, err
}

func (w *wire) Write(b []byte) (int, error) {
	if err := w.wait(); err != nil {
		return 0, err
	}
	return w.Conn.Write(b)
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return w.Conn.Close()
}

// join has another switch with datapath id 1 connect, and returns its connection and
// a channel that is closed when that has ended.
func (r *rig) join(o simswitch.Options) (*simswitch.Switch, *wire, <-chan struct{}) {
	o.DPID = 1
	sw, w, done := simswitch.New(o), newWire(r.Dial()), make(chan struct{})
	ctx, cancel := context.WithCancel(r.t.Context())
	go func() {
		defer close(done)
		_ = sw.Serve(ctx, w) // its end is what the test is about
	}()
	r.t.Cleanup(func() {
		cancel()
		w.Close()
		<-done
	})
	return sw, w, done
}

func TestDuplicateOfALiveSwitchIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		other, _, done := r.join(simswitch.Options{})
		<-done
		require.Zero(t, other.Mods())
		r.set(1, part(1))
		synctest.Wait()
		require.Equal(t, []int{1}, has(r.sw))
	})
}

func TestDuplicateOfADeadConnectionTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		r.Disconnect(1)
		synctest.Wait()
		require.Nil(t, r.connected())
		_, dead, _ := r.join(simswitch.Options{})
		synctest.Wait()
		require.NotNil(t, r.connected())
		dead.freeze()
		second, _, done := r.join(simswitch.Options{})
		r.Pass(3 * time.Second) // less than a connection may be silent
		select {
		case <-done:
			t.Fatal("the live one was refused")
		default:
		}
		r.set(1, part(1))
		synctest.Wait()
		require.Equal(t, []int{1}, has(second))
	})
}

func TestSilentSwitchIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		r.Disconnect(1)
		synctest.Wait()
		_, w, _ := r.join(simswitch.Options{})
		r.Pass(time.Minute)
		require.NotNil(t, r.connected(), "echoes keep an idle one")
		w.freeze()
		r.Pass(time.Minute)
		require.Nil(t, r.connected())
	})
}

func TestSwitchWithALaterTermIsHeldUntilConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simswitch.NewNetwork()
		sw := n.AddSwitch(simswitch.Options{DPID: 1})
		sw.SetTerm(1000)
		app := &partsApp{parts: map[string]flowtable.Part{"1": *part(1)}, acks: map[string]error{}}
		l := lab.Start(t, n, lab.Options{Only: true, Apps: func() []controller.App { return []controller.App{app} }})
		l.Pass(5 * time.Second)
		require.Zero(t, sw.Mods())
		require.Len(t, l.Core.Held(), 1)
		require.NoError(t, l.Core.Settled(t.Context(), 1), "an answer is owed no more")
		require.NoError(t, l.Core.Confirm(t.Context(), 1))
		l.Pass(time.Second)
		require.Equal(t, []int{1}, has(sw))
		require.Empty(t, l.Core.Held())
		l.NoFaults()
	})
}

func TestSwitchOfAnotherStoreIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{Memory: &lab.Memory{Cluster: "mine"}})
		r.set(1, part(1))
		r.Pass(time.Second)
		r.Stop()
		before := r.sw.Flows()
		l := lab.Start(t, r.Network, lab.Options{Only: true, Memory: &lab.Memory{Cluster: "another"}})
		l.Pass(time.Second)
		require.Len(t, l.Core.Held(), 1)
		require.Equal(t, before, r.sw.Flows())
		l.Stop()
		l = lab.Start(t, r.Network, lab.Options{Only: true, Memory: r.Memory})
		l.Pass(time.Second)
		require.Empty(t, l.Core.Held(), "its own store may")
	})
}

func TestSwitchWithoutRolesIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{NoRoles: true}, lab.Options{})
		r.set(1, part(1))
		synctest.Wait()
		require.Equal(t, []int{1}, has(r.sw))
		require.Equal(t, ofproto.RoleEqual, r.connected().Role)
	})
}

func TestPortEventsDuringTheHandshakeAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simswitch.NewNetwork()
		var sw *simswitch.Switch
		sw = n.AddSwitch(simswitch.Options{DPID: 1, Ports: []ofproto.Port{1, 2, 3}, Received: func(_ ofproto.Header, m ofproto.Message) {
			// After the ports were asked for, before the switch is known.
			if q, ok := m.(*ofproto.MultipartRequest); ok && q.Type == ofproto.MultipartGroupFeatures {
				sw.SetPort(7, true)
				sw.SetPort(1, false)
				sw.RemovePort(2)
			}
		}})
		l := lab.Start(t, n, lab.Options{Only: true})
		synctest.Wait()
		ports := map[ofproto.Port]bool{}
		l.Do(func(c *controller.Context) {
			for _, p := range c.Switch(1).PortList() {
				ports[p.Port] = p.Up()
			}
		})
		require.Equal(t, map[ofproto.Port]bool{1: false, 3: true, 7: true}, ports)
		require.Len(t, l.Snapshot().Switches()[0].Ports, 3)
	})
}

// refusing refuses the flow to 10.0.0.n while on.
type refusing struct {
	mu sync.Mutex
	n  int
}

func (f *refusing) set(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.n = n
}

func (f *refusing) refuse(m ofproto.Message) *ofproto.Error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := m.(*ofproto.FlowMod); ok && m.Match.Equal(dst(f.n)) {
		return &ofproto.Error{Type: ofproto.ErrorFlowModFailed, Code: ofproto.CodeTableFull}
	}
	return nil
}

func TestRefusedPartDoesNotStopTheOthers(t *testing.T) {
	for _, o := range []simswitch.Options{{}, {NoBundles: true}} {
		t.Run(fmt.Sprintf("bundles=%v", !o.NoBundles), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				full := &refusing{n: 5}
				o.Refuse = full.refuse
				r := start(t, o, lab.Options{})
				for n := 1; n <= 9; n++ {
					r.set(n, part(n))
				}
				require.NoError(t, r.Core.Settled(t.Context(), 1))
				require.Equal(t, []int{1, 2, 3, 4, 6, 7, 8, 9}, has(r.sw))
				faults := r.connected().Faults
				require.Len(t, faults, 1)
				require.Contains(t, faults["balancer/5"], "OFPFMFC_TABLE_FULL")
				r.Do(func(*controller.Context) {
					require.Error(t, r.app.acks["5"])
					require.NoError(t, r.app.acks["4"])
				})
				// It is tried again, once in ten seconds, until it works.
				mods := r.Mods()
				r.Pass(10 * time.Minute)
				require.LessOrEqual(t, r.Mods()-mods, 60*4) // and at audits
				full.set(0)
				r.Pass(11 * time.Second)
				require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7, 8, 9}, has(r.sw))
				r.NoFaults()
			})
		})
	}
}

func TestWithoutBundlesABarrierIsBetweenPhases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log []string
		var mu sync.Mutex
		r := start(t, simswitch.Options{NoBundles: true, Received: func(_ ofproto.Header, m ofproto.Message) {
			mu.Lock()
			defer mu.Unlock()
			switch m := m.(type) {
			case *ofproto.GroupMod:
				log = append(log, fmt.Sprint("group", m.Command))
			case *ofproto.FlowMod:
				log = append(log, fmt.Sprint("flow", m.Command))
			case *ofproto.BarrierRequest:
				log = append(log, "barrier")
			}
		}}, lab.Options{})
		take := func() []string {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			defer func() { log = nil }()
			return log
		}
		take()
		r.set(1, part(1))
		require.Equal(t, []string{"group0", "barrier", "flow0", "barrier"}, take())
		r.set(1, nil)
		require.Equal(t, []string{"flow4", "barrier", "group2", "barrier"}, take())
	})
}

func TestSwitchIsHeldAtItsDesiredState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		r.set(1, part(1))
		r.set(2, part(2))
		synctest.Wait()
		mods := r.Mods()
		r.Pass(5 * time.Minute)
		require.Equal(t, mods, r.Mods(), "audits of what is right send nothing")

		// Somebody deletes a flow: the switch tells, and it is back at once.
		remove := &ofproto.FlowMod{Table: controller.TableVIP, Command: ofproto.FlowDelete, Match: dst(1), OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}
		require.Nil(t, r.sw.Apply(remove))
		synctest.Wait()
		require.Equal(t, []int{1, 2}, has(r.sw))

		// Somebody deletes all groups, and the flows with them.
		require.Nil(t, r.sw.Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll}))
		r.Pass(2 * time.Minute)
		require.Equal(t, []int{1, 2}, has(r.sw))
		r.NoFaults()
	})
}

func TestForeignEntriesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := simswitch.NewNetwork()
		sw := n.AddSwitch(simswitch.Options{DPID: 1})
		conflict := &ofproto.FlowMod{Table: controller.TableVIP, Priority: controller.PrioVIPForward, Match: dst(1), Cookie: 5}
		harmless := &ofproto.FlowMod{Table: 9, Cookie: 6}
		require.Nil(t, sw.Apply(conflict))
		require.Nil(t, sw.Apply(harmless))
		app := &partsApp{parts: map[string]flowtable.Part{"1": *part(1), "2": *part(2)}, acks: map[string]error{}}
		l := lab.Start(t, n, lab.Options{Only: true, Apps: func() []controller.App { return []controller.App{app} }})
		l.Pass(time.Second)
		require.Equal(t, []int{2}, has(sw))
		var fault string
		foreign := 0
		l.Do(func(c *controller.Context) {
			fault, foreign = c.Switch(1).Faults["balancer/1"], c.Switch(1).Foreign
		})
		require.Contains(t, fault, "foreign")
		require.Equal(t, 2, foreign)
		remove := *conflict
		remove.Command, remove.OutPort, remove.OutGroup = ofproto.FlowDeleteStrict, ofproto.PortAny, ofproto.GroupAny
		require.Nil(t, sw.Apply(&remove))
		l.Pass(2 * time.Minute)
		require.Equal(t, []int{1, 2}, has(sw))
		l.NoFaults()
	})
}

func TestMalformedMessagesAreAnsweredAndSurvived(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		r.Disconnect(1)
		synctest.Wait()
		var mu sync.Mutex
		var errs []string
		sw, w, done := r.join(simswitch.Options{Received: func(_ ofproto.Header, m ofproto.Message) {
			if e, ok := m.(*ofproto.Error); ok {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, e.Name())
			}
		}})
		synctest.Wait()
		frame := func(version uint8, typ ofproto.MessageType, body ...byte) []byte {
			b := []byte{version, byte(typ), 0, byte(8 + len(body)), 0, 0, 0, 9}
			return append(b, body...)
		}
		for _, c := range []struct {
			frame []byte
			want  string
		}{
			{frame(4, ofproto.TypePacketIn, 1, 2, 3), "OFPBRC_BAD_LEN"},
			{frame(4, ofproto.TypePortStatus), "OFPBRC_BAD_LEN"},
			{frame(4, ofproto.TypeFlowRemoved, make([]byte, 20)...), "OFPBRC_BAD_LEN"},
			{frame(1, ofproto.TypePacketIn, make([]byte, 40)...), "OFPBRC_BAD_VERSION"},
			{frame(4, 77), "OFPBRC_BAD_TYPE"},
			{frame(4, ofproto.TypeFeaturesRequest), "OFPBRC_BAD_TYPE"},
			{frame(4, ofproto.TypeFlowMod, make([]byte, 48)...), ""},
			{frame(4, ofproto.TypeError, 0), ""},
			{frame(4, ofproto.TypeBarrierReply), ""},
			{ofproto.Append(nil, 1<<31|5, &ofproto.MultipartReply{Type: ofproto.MultipartFlow, Body: []byte{1, 2, 3}}), ""},
		} {
			_, err := w.Write(c.frame)
			require.NoError(t, err)
			synctest.Wait()
			mu.Lock()
			if c.want != "" {
				require.Equal(t, []string{c.want}, errs, "% x", c.frame)
			} else if len(errs) > 0 {
				require.True(t, strings.HasPrefix(errs[0], "OFPBRC_"), errs[0])
			}
			errs = nil
			mu.Unlock()
		}
		select {
		case <-done:
			t.Fatal("the session has ended")
		default:
		}
		r.set(1, part(1))
		synctest.Wait()
		require.Equal(t, []int{1}, has(sw))
	})
}

func TestPanickingAppIsContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		panics := 0
		r.Do(func(*controller.Context) {
			r.app.seen = func(event any) {
				if _, ok := event.(controller.PortChanged); ok {
					panics++
					panic("a bug")
				}
			}
		})
		r.sw.SetPort(1, false)
		r.set(1, part(1))
		synctest.Wait()
		require.Equal(t, []int{1}, has(r.sw))
		r.Do(func(*controller.Context) { require.Equal(t, 1, panics) })
	})
}

func TestStageIsStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		require.Equal(t, controller.StageManaged, r.connected().Stage)
		require.NoError(t, r.Core.SetStage(t.Context(), 1, controller.StageSteer))
		require.Equal(t, controller.StageSteer, r.connected().Stage)
		r.Stop()
		l := lab.Start(t, r.Network, lab.Options{Only: true, Memory: r.Memory})
		synctest.Wait()
		var stage controller.Stage
		l.Do(func(c *controller.Context) { stage = c.Switch(1).Stage })
		require.Equal(t, controller.StageSteer, stage)
	})
}

func TestBPDUsAreStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		require.Equal(t, controller.BPDUsDrop, r.connected().BPDUs)
		require.NoError(t, r.Core.SetBPDUs(t.Context(), 1, controller.BPDUsForward))
		require.Equal(t, controller.BPDUsForward, r.connected().BPDUs)
		r.Stop()
		l := lab.Start(t, r.Network, lab.Options{Only: true, Memory: r.Memory})
		synctest.Wait()
		l.Do(func(c *controller.Context) { require.Equal(t, controller.BPDUsForward, c.Switch(1).BPDUs) })
	})
}

// TestChaos changes parts while the connection breaks and the switch refuses, and
// wants the switch at the desired state when all is quiet again.
func TestChaos(t *testing.T) {
	for _, o := range []simswitch.Options{{}, {NoBundles: true}} {
		for seed := range uint64(6) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 3))
				full := &refusing{}
				o.Refuse = full.refuse
				r := start(t, o, lab.Options{})
				want := map[int]bool{}
				for range 150 {
					n := 1 + random.IntN(12)
					switch random.IntN(6) {
					case 0:
						r.Disconnect(1)
						if random.IntN(2) == 0 {
							r.Pass(time.Duration(random.IntN(3000)) * time.Millisecond)
						}
						r.Connect(1)
					case 1:
						full.set(n)
					case 2:
						delete(want, n)
						r.set(n, nil)
					default:
						want[n] = true
						r.set(n, part(n))
					}
					if random.IntN(3) == 0 {
						r.Pass(time.Duration(random.IntN(1500)) * time.Millisecond)
					}
				}
				full.set(0)
				r.Pass(3 * time.Minute)
				var list []int
				for n := range want {
					list = append(list, n)
				}
				slices.Sort(list)
				require.Equal(t, list, has(r.sw), "seed %d", seed)
				require.Len(t, r.sw.Groups(), len(list))
				require.NotNil(t, r.connected())
				r.NoFaults()
			})
		}
	}
}

func TestManyPartsNeedManyMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(t, simswitch.Options{}, lab.Options{})
		big := *part(1)
		big.Flows = nil
		for i := range 10000 {
			big.Flows = append(big.Flows, flowtable.Flow{
				Table: controller.TableVIP, Priority: controller.PrioVIPForward,
				Match: ofproto.NewMatch(ofproto.EthType(ofproto.EthTypeIPv4), ofproto.IPv4Dst(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), 32))),
			})
		}
		r.set(1, &big)
		require.NoError(t, r.Core.Settled(t.Context(), 1))
		require.Len(t, r.sw.Flows(), 10000+1, "and the mark")
		mods := r.Mods()
		r.Disconnect(1)
		synctest.Wait()
		r.Connect(1)
		r.Pass(time.Second)
		require.NotNil(t, r.connected())
		require.Equal(t, mods, r.Mods(), "the read-back is of many messages, and finds all there")
	})
}
