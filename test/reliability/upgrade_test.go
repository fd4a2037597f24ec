package reliability

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
)

// anotherLayout makes what a switch holds what an older version would have installed:
// tables have other numbers, and cookies name another version of the pipeline.
func anotherLayout(t *testing.T, sw *simswitch.Switch) {
	t.Helper()
	renumbered := func(n ofproto.Table) ofproto.Table { return 2 * n }
	elsewhere := func(actions []ofproto.Action) []ofproto.Action {
		actions = slices.Clone(actions)
		for i, a := range actions {
			if a, ok := a.(ofproto.Resubmit); ok {
				a.Table = renumbered(a.Table)
				actions[i] = a
			}
		}
		return actions
	}
	for _, g := range sw.Groups() {
		m := &ofproto.GroupMod{Command: ofproto.GroupModify, Type: g.Type, Group: g.Group, Buckets: slices.Clone(g.Buckets)}
		for i := range m.Buckets {
			m.Buckets[i].Actions = elsewhere(m.Buckets[i].Actions)
		}
		require.Nil(t, sw.Apply(m))
	}
	flows := sw.Flows()
	require.Nil(t, sw.Apply(&ofproto.FlowMod{Command: ofproto.FlowDelete, Table: ofproto.TableAll, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}))
	for _, f := range flows {
		m := &ofproto.FlowMod{
			Command: ofproto.FlowAdd, Table: renumbered(f.Table), Priority: f.Priority, Match: f.Match, Cookie: f.Cookie, Flags: f.Flags,
			BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny,
		}
		if flowtable.OwnsCookie(f.Cookie) {
			m.Cookie ^= 0xf << 44
		}
		for _, in := range f.Instructions {
			switch of := in.(type) {
			case ofproto.GotoTable:
				in = ofproto.GotoTable{Table: renumbered(of.Table)}
			case ofproto.ApplyActions:
				in = ofproto.ApplyActions{Actions: elsewhere(of.Actions)}
			}
			m.Instructions = append(m.Instructions, in)
		}
		require.Nil(t, sw.Apply(m))
	}
}

// TestU04AnotherLayout starts the controller on a switch that an older version with
// other table numbers has programmed: it flips to its own layout in a bundle, and no
// packet is lost before, between and after any two messages.
func TestU04AnotherLayout(t *testing.T) {
	for name, noBundles := range map[string]bool{"bundles": false, "no bundles": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var watch atomic.Pointer[func()]
				r := single(t, 4, options{}, simswitch.Options{NoBundles: noBundles, Received: func(ofproto.Header, ofproto.Message) {
					if f := watch.Load(); f != nil {
						(*f)()
					}
				}})
				var recs []balancer.Record
				for i := range scale(20, 400) {
					recs = append(recs, r.install(r.vip(i, "h2", "h3", "h4")))
				}
				time.Sleep(5 * time.Second)
				picks := r.picks(40, recs[3])
				want := r.contents()
				r.stop()
				anotherLayout(t, r.Switch(1))
				require.Equal(t, picks, r.picks(40, recs[3]), "the older layout does the same")
				held := len(r.Switch(1).Flows())

				asked, lost, most := 0, 0, 0
				var mu sync.Mutex
				before := r
				f := func() {
					mu.Lock()
					defer mu.Unlock()
					asked++
					most = max(most, len(before.Switch(1).Flows()))
					if before.serves("h1", uint16(30000+asked%20000), recs[asked%len(recs)]) == "" {
						lost++
					}
				}
				begin := time.Now()
				watch.Store(&f)
				r = r.restart(options{})
				r.ready(1)
				watch.Store(nil)
				require.Empty(t, r.core.Held(), "an upgrade needs no confirmation")
				d := time.Since(begin)
				time.Sleep(time.Second)
				require.Equal(t, want, r.contents())
				require.Equal(t, picks, r.picks(40, recs[3]))
				mu.Lock()
				defer mu.Unlock()
				t.Logf("%d flows: %d of %d packets lost over the flip, %v, at most %d flows", held, lost, asked, d, most)
				require.LessOrEqual(t, most, 2*held)
				if !noBundles {
					require.Zero(t, lost)
				}
			})
		})
	}
}

// TestU04AnotherVersion changes the version of the pipeline alone, up and back again:
// every entry gets another cookie, and none is away meanwhile. It is not parallel: the
// pipeline is a variable of the program.
func TestU04AnotherVersion(t *testing.T) {
	old := controller.Pipeline.Version
	defer func() { controller.Pipeline.Version = old }()
	synctest.Test(t, func(t *testing.T) {
		var watch atomic.Pointer[func()]
		r := single(t, 4, options{}, simswitch.Options{NoBundles: true, Received: func(ofproto.Header, ofproto.Message) {
			if f := watch.Load(); f != nil {
				(*f)()
			}
		}})
		rec := r.install(r.vip(1, "h2", "h3", "h4"))
		time.Sleep(5 * time.Second)
		want, n, lost := r.contents(), 0, 0
		var mu sync.Mutex
		before := r
		f := func() {
			mu.Lock()
			defer mu.Unlock()
			if n++; before.serves("h1", uint16(20000+n), rec) == "" {
				lost++
			}
		}
		for _, version := range []uint8{old + 1, old} {
			r.stop()
			controller.Pipeline.Version = version
			watch.Store(&f)
			r = r.restart(options{})
			r.ready(1)
			watch.Store(nil)
			require.Empty(t, r.core.Held())
			time.Sleep(time.Second)
			require.Equal(t, want, r.contents())
			for _, f := range r.Switch(1).Flows() {
				require.Equal(t, uint64(version), f.Cookie>>44&0xf)
			}
		}
		mu.Lock()
		defer mu.Unlock()
		t.Logf("%d of %d packets lost", lost, n)
		require.Zero(t, lost)
	})
}

// TestU15DeletedWhileAway deletes nearly all VIPs while a switch is away. It was
// programmed since the controller started, so that this was asked for: it is not held.
// One that the controller finds so at its start is.
func TestU15DeletedWhileAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const vips, left = 30, 2
		r := single(t, 4, options{}, simswitch.Options{})
		for i := range vips {
			r.install(r.vip(i, "h2", "h3", "h4"))
		}
		time.Sleep(3 * time.Second) // what was learned is saved
		full := len(r.Switch(1).Flows()) + len(r.Switch(1).Groups())
		r.disconnect(1)
		for i := left; i < vips; i++ {
			require.NoError(t, r.intents.Delete(t.Context(), vipName(i), balancer.Condition{}))
		}
		r.connect(1)
		r.ready(1)
		r.settle()
		now := len(r.Switch(1).Flows()) + len(r.Switch(1).Groups())
		t.Logf("%d flows and groups before, %d after", full, now)
		require.Less(t, 2*now, full)
		r.noFaults()
		require.Empty(t, r.core.Held())

		for i := left; i < vips; i++ {
			r.install(r.vip(i, "h2", "h3", "h4"))
		}
		time.Sleep(3 * time.Second)
		r.stop()
		down := start(t, options{keep: r.keep})
		for i := left; i < vips; i++ {
			require.NoError(t, down.intents.Delete(t.Context(), vipName(i), balancer.Condition{}))
		}
		down.stop()
		r = r.restart(options{})
		eventually(t, 20*time.Second, "connected", func() bool { return r.connected(1) })
		r.settle()
		require.NotEmpty(t, r.core.Held())
	})
}
