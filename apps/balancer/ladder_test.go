package balancer_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

func isGroupMod(m ofproto.Message) bool { _, ok := m.(*ofproto.GroupMod); return ok }
func isMod(m ofproto.Message) bool      { _, ok := m.(*ofproto.FlowMod); return ok || isGroupMod(m) }

// status returns what is said of the VIP "web" in a switch.
func (s *site) status(dpid ofproto.DPID) balancer.SwitchStatus {
	s.t.Helper()
	v, err := s.service.Get(s.t.Context(), "web")
	require.NoError(s.t, err)
	for _, st := range v.Status.Switches {
		if st.DPID == dpid.String() {
			return st
		}
	}
	s.t.Fatalf("no status of switch %s", dpid)
	return balancer.SwitchStatus{}
}

// give writes a document and waits until all switches have answered.
func (s *site) give(v balancer.VIP) balancer.Record {
	s.t.Helper()
	rec, _, err := s.intents.Put(s.t.Context(), v, balancer.Condition{})
	require.NoError(s.t, err)
	require.NoError(s.t, s.service.Wait(s.t.Context(), v.Name, rec.VIP.Generation))
	s.Pass(time.Second)
	s.Forget()
	return rec
}

var ports = []ofproto.FieldType{ofproto.FieldTCPSrc, ofproto.FieldTCPDst}

// rungs are the personalities and the rung of the ladder that each one gets to, in
// stages managed and steer.
var rungs = map[string]struct {
	o      simswitch.Options
	method balancer.Method
	slots  int
	steer  balancer.Method // "": as managed
}{
	"Open vSwitch":                   {simswitch.Options{}, "chained", 32, ""},
	"strict":                         {simswitch.Options{NoNicira: true}, "chained", 32, ""},
	"reordering":                     {simswitch.Options{Reorder: 3, NoBundles: true}, "chained", 32, ""},
	"one table":                      {simswitch.Options{Tables: 1}, "chained", 32, ""},
	"one table, strict":              {simswitch.Options{Tables: 1, NoNicira: true, NoBundles: true}, "chained", 32, ""},
	"one table, no groups":           {simswitch.Options{Tables: 1, NoGroups: true}, "selector", 32, ""},
	"no groups":                      {simswitch.Options{NoGroups: true}, "selector", 32, ""},
	"no groups, no masks on ports":   {simswitch.Options{NoGroups: true, NoNicira: true}, "selector", 32, ""},
	"no groups, no masks":            {simswitch.Options{NoGroups: true, NoNicira: true, NoMasks: true}, "refused", 0, ""},
	"no chaining":                    {simswitch.Options{NoChaining: true}, "inline", 32, ""},
	"no chaining, and claims it":     {simswitch.Options{NoChaining: true, Undeclared: true}, "inline", 32, ""},
	"no watching of groups":          {simswitch.Options{NoWatch: true}, "inline", 32, ""},
	"16 buckets":                     {simswitch.Options{MaxBuckets: 16}, "chained", 16, ""},
	"16 buckets, no chaining":        {simswitch.Options{MaxBuckets: 16, NoChaining: true}, "inline", 16, ""},
	"no L4 in buckets":               {simswitch.Options{NoBucketSet: ports}, "selector", 32, ""},
	"no L4":                          {simswitch.Options{NoSet: ports}, "refused", 0, ""},
	"no NORMAL":                      {simswitch.Options{NoNormal: true}, "chained", 32, "refused"},
	"no bundles":                     {simswitch.Options{NoBundles: true}, "chained", 32, ""},
	"no meters":                      {simswitch.Options{NoMeters: true}, "chained", 32, ""},
	"100 entries":                    {simswitch.Options{MaxFlows: 100}, "chained", 32, ""},
	"100 entries in one table":       {simswitch.Options{MaxFlows: 100, Tables: 1}, "chained", 32, ""},
	"liar about groups":              {simswitch.Options{Ignore: isGroupMod}, "selector", 32, ""},
	"liar":                           {simswitch.Options{Ignore: isMod}, "refused", 0, ""},
	"basic OpenFlow 1.3 (S-15)":      {simswitch.Options{Tables: 1, NoGroups: true, NoMeters: true, NoBundles: true, NoNicira: true, NoRoles: true}, "selector", 32, ""},
	"basic with select groups":       {simswitch.Options{Tables: 1, NoChaining: true, NoFailover: true, NoMeters: true, NoBundles: true, NoNicira: true, MaxBuckets: 16}, "inline", 16, ""},
	"one table, no NORMAL, no group": {simswitch.Options{Tables: 1, NoGroups: true, NoNormal: true, NoNicira: true}, "selector", 32, "refused"},
}

// A VIP works on every kind of switch, on the best rung that the switch has, or is
// refused with the reason and nothing is installed that looks as if it worked.
func TestS15FeatureProbingAndFallback(t *testing.T) {
	t.Parallel()
	for name, k := range rungs {
		for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
			t.Run(name+"/"+stage.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					want := k.method
					if stage == controller.StageSteer && k.steer != "" {
						want = k.steer
					}
					n := lab.Build(3, k.o, [2]int{1, 2}, [2]int{2, 3})
					s := open(t, t.TempDir(), n, lab.Options{Stage: stage})
					if want != "refused" {
						s.NoFaults()
					}
					v := s.pool(balancer.TCP, "h2", "h3")
					v.Listeners[0].Pool.Members[0].Weight = 3 // 32 slots
					rec := s.give(v)
					s.learn()
					for d := ofproto.DPID(1); d <= 3; d++ {
						st := s.status(d)
						require.Equal(t, want, st.Method, "%+v", st)
						if want == "refused" {
							require.Equal(t, balancer.InstallError, st.State)
							require.NotEmpty(t, st.Reason)
							continue
						}
						require.Equal(t, balancer.InstallInstalled, st.State, "%+v", st)
						require.Equal(t, k.slots, st.Slots)
						require.Equal(t, k.method == "chained" && k.slots == 32, st.Reason == "", st.Reason)
					}
					if want == "refused" {
						who, _ := s.takes("h1", s.request("h1", 1000, rec))
						require.Empty(t, who)
						for _, arp := range s.asksARPOnly("h1") {
							require.NotEqual(t, packet.ARPReply, arp.Op, "says that it serves the VIP")
						}
						return
					}
					s.NoFaults()
					count := map[string]int{}
					for sport := range uint16(80) {
						count[s.serves("h1", 1000+2*sport, rec)]++
					}
					if !(want == "selector" && k.o.NoNicira) { // those know the client by its address alone
						require.InDelta(t, 60, count["h2"], 14, "%v", count)
						require.Len(t, count, 2)
					}
					require.Len(t, s.asksForVIP("h1"), 1)
				})
			})
		}
	}
}

// What comes of plain traffic on one table is what comes of it on four.
func TestFoldedPipelineForwards(t *testing.T) {
	for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer, controller.StageObserve} {
		t.Run(stage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := lab.Options{Stage: stage, Observe: true}
				links := lab.Ring(4)
				if stage != controller.StageManaged {
					links = links[:3]
				}
				s := open(t, t.TempDir(), lab.Build(4, simswitch.Options{Tables: 1}, links...), o)
				if stage != controller.StageObserve {
					s.give(s.pool(balancer.TCP, "h2", "h3"))
				}
				s.learn()
				s.NoFaults()
				for _, a := range s.Hosts() {
					for _, b := range s.Hosts() {
						if a != b {
							who, _ := s.takes(a, lab.Frame(s.Host(a), 1000, s.Host(b).MAC, s.Host(b).AddrPort(22)))
							require.Equal(t, b, who, "from %s", a)
						}
					}
				}
				// An unknown address is flooded to all, once; and broadcasts are.
				s.Send("h1", lab.Frame(s.Host("h1"), 1, [6]byte{0x0e, 9, 9, 9, 9, 9}, netip.MustParseAddrPort("10.0.9.9:1")))
				for _, h := range []string{"h2", "h3", "h4"} {
					require.Len(t, s.Seen(h), 1, h)
				}
				require.False(t, s.Stormed())
			})
		})
	}
}

// S-05: what a switch turns out not to have room for is tried the next best way, and
// said to be missing when there is none. Nothing is said to serve that does not.
func TestS05OutOfGroups(t *testing.T) {
	t.Parallel()
	const vips = 150
	for name, k := range map[string]struct {
		o       simswitch.Options
		serving int // at least
	}{
		"selector left":             {simswitch.Options{MaxGroups: 100}, vips},
		"selector left, no bundles": {simswitch.Options{MaxGroups: 100, NoBundles: true}, vips},
		"nothing left":              {simswitch.Options{MaxGroups: 100, NoNicira: true, NoMasks: true}, 99},
		"nothing left, no bundles":  {simswitch.Options{MaxGroups: 100, NoNicira: true, NoMasks: true, NoBundles: true}, 99},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), lab.Build(1, k.o), lab.Options{})
				for i := 2; i <= 4; i++ {
					lab.AddHost(s.Network, i, place{DPID: 1, Port: ofproto.Port(100 + i)})
				}
				s.learn()
				for i := range vips {
					v := s.pool(balancer.TCP, "h2", "h3", "h4")
					v.Name, v.Address = fmt.Sprintf("web%d", i), netip.AddrFrom4([4]byte{10, 0, 100, byte(i)})
					for m := range v.Listeners[0].Pool.Members {
						v.Listeners[0].Pool.Members[m].Port = uint16(8000 + i)
					}
					_, _, err := s.intents.Put(t.Context(), v, balancer.Condition{})
					require.NoError(t, err)
				}
				s.Pass(25 * time.Second)
				serving, methods := 0, map[balancer.Method]int{}
				for i := range vips {
					v, err := s.service.Get(t.Context(), fmt.Sprintf("web%d", i))
					require.NoError(t, err)
					st := v.Status.Switches[0]
					rec, err := s.intents.Get(t.Context(), v.Name)
					require.NoError(t, err)
					h := s.Host("h1")
					frame := lab.Frame(h, 1000, rec.VIP.MAC, netip.AddrPortFrom(v.Address, vipPort))
					who, _ := s.takes("h1", frame)
					if st.State == balancer.InstallInstalled {
						require.NotEmpty(t, who, "%s says %+v", v.Name, st)
						serving++
						methods[st.Method]++
					} else {
						require.Equal(t, balancer.InstallError, st.State)
						require.Contains(t, st.Reason, "OFPGMFC_OUT_OF_GROUPS")
						require.Empty(t, who, "%+v", st)
					}
				}
				t.Log(serving, methods)
				require.GreaterOrEqual(t, serving, k.serving)
			})
		})
	}
}

// many writes VIPs "web0" … with one member each, without waiting.
func (s *site) many(from, to int, port func(i int) uint16) {
	s.t.Helper()
	for i := from; i < to; i++ {
		v := s.pool(balancer.TCP, "h2")
		v.Name, v.Address = fmt.Sprintf("web%d", i), numbered(i)
		v.Listeners[0].Pool.Members[0].Port = port(i)
		_, _, err := s.intents.Put(s.t.Context(), v, balancer.Condition{})
		require.NoError(s.t, err)
	}
}

func numbered(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 0, byte(100 + i/250), byte(i % 250)})
}

// served says which of the VIPs serve, and checks that they say so: one that is
// installed does, and one that is not says why.
func (s *site) served(vips int, why string) map[int]bool {
	s.t.Helper()
	on := map[int]bool{}
	for i := range vips {
		v, err := s.service.Get(s.t.Context(), fmt.Sprintf("web%d", i))
		if errors.Is(err, balancer.ErrNotFound) {
			continue
		}
		require.NoError(s.t, err)
		st := v.Status.Switches[0]
		who, got := s.takes("h1", lab.Frame(s.Host("h1"), 1000, packet.MAC(v.MAC), netip.AddrPortFrom(v.Address, vipPort)))
		if st.State == balancer.InstallInstalled {
			require.Equal(s.t, "h2", who, "%s: %+v", v.Name, st)
			require.Equal(s.t, v.Listeners[0].Pool.Members[0].Port, simswitch.Headers(got).Dst.Port())
			on[i] = true
		} else {
			require.Equal(s.t, balancer.InstallError, st.State, "%s: %+v", v.Name, st)
			require.Contains(s.t, st.Reason, why)
			require.Equal(s.t, balancer.ProvisioningError, v.Status.Provisioning)
		}
	}
	return on
}

// S-04: more is desired than the table holds.
func TestS04TableFull(t *testing.T) {
	t.Parallel()
	for _, o := range []simswitch.Options{{MaxFlows: 480}, {MaxFlows: 480, NoBundles: true}, {MaxFlows: 900, Tables: 1}} {
		t.Run(fmt.Sprintf("bundles=%v, tables=%d", !o.NoBundles, o.Tables), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const vips = 150
				s := open(t, t.TempDir(), lab.Build(1, o), lab.Options{})
				lab.AddHost(s.Network, 2, place{DPID: 1, Port: 102})
				s.learn()
				port := func(i int) uint16 { return uint16(8000 + i) }
				s.many(0, 40, port)
				s.Pass(time.Second)
				require.Len(t, s.served(vips, ""), 40)
				s.many(40, vips, port)
				s.Pass(time.Second)
				on := s.served(vips, "OFPFMFC_TABLE_FULL")
				require.Greater(t, len(on), 40)
				require.Less(t, len(on), vips)
				for i := range 40 {
					require.True(t, on[i], "one that was in place")
				}
				// No hot loop: one part is tried in ten seconds, which begins at any moment.
				// Audits look again too, twice.
				mods := s.Mods()
				s.Pass(time.Minute)
				require.LessOrEqual(t, s.Mods()-mods, (7+2)*16)

				// Replacing at a full table: the old goes first.
				s.many(0, 20, func(i int) uint16 { return port(i) + 1000 })
				s.Pass(2 * time.Second)
				now := s.served(vips, "OFPFMFC_TABLE_FULL")
				for i := range 40 {
					v, err := s.service.Get(t.Context(), fmt.Sprintf("web%d", i))
					require.NoError(t, err)
					require.True(t, now[i], "web%d: %+v", i, v.Status.Switches)
				}
				// Room is found within 15 s.
				for i := range 90 {
					require.NoError(t, s.intents.Delete(t.Context(), fmt.Sprintf("web%d", i), balancer.Condition{}))
				}
				s.Pass(15 * time.Second)
				require.Len(t, s.served(vips, "OFPFMFC_TABLE_FULL"), vips-90)
				s.NoFaults()
			})
		})
	}
}

// S-01: what comes between barriers is carried out in any order.
func TestS01ReorderingBetweenBarriers(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		synctest.Test(t, func(t *testing.T) {
			refusals := 0
			var mu sync.Mutex
			o := simswitch.Options{NoBundles: true, Reorder: 1 + seed}
			o.Answered = func(m ofproto.Message) {
				if e, ok := m.(*ofproto.Error); ok && e.Type != ofproto.ErrorBadRequest {
					mu.Lock()
					refusals++
					mu.Unlock()
				}
			}
			s := open(t, t.TempDir(), lab.Build(1, o), lab.Options{})
			mu.Lock()
			refusals = 0 // of probes
			mu.Unlock()
			lab.AddHost(s.Network, 2, place{DPID: 1, Port: 102})
			s.learn()
			s.many(0, 200, func(i int) uint16 { return uint16(8000 + i) })
			s.Pass(time.Second)
			require.Len(t, s.served(200, ""), 200)
			for i := range 200 {
				require.NoError(t, s.intents.Delete(t.Context(), fmt.Sprintf("web%d", i), balancer.Condition{}))
			}
			s.Pass(time.Second)
			require.Len(t, s.Switch(1).Groups(), 1, "the flood group alone is left")
			s.NoFaults()
			mu.Lock()
			defer mu.Unlock()
			require.Zero(t, refusals, "seed %d", seed)
		})
	}
}

// S-11: one that is refused in a bundle of many is named, and alone.
func TestS11OneBadInABundle(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		bad := numbered(77)
		o := simswitch.Options{Refuse: func(m ofproto.Message) *ofproto.Error {
			if f, ok := m.(*ofproto.FlowMod); ok && f.Command == ofproto.FlowAdd && f.Priority == controller.PrioVIPForward {
				if dst, ok := f.Match.Lookup(ofproto.FieldIPv4Dst); ok && netip.AddrFrom4([4]byte(dst.Value)) == bad {
					return &ofproto.Error{Type: ofproto.ErrorBadAction, Code: 5}
				}
			}
			return nil
		}}
		s := open(t, t.TempDir(), lab.Build(1, o), lab.Options{})
		lab.AddHost(s.Network, 2, place{DPID: 1, Port: 102})
		s.learn()
		s.many(0, 1000, func(i int) uint16 { return uint16(8000 + i) })
		s.Pass(3 * time.Second)
		on := s.served(100, "OFPBAC_BAD_ARGUMENT")
		require.Len(t, on, 99)
		require.False(t, on[77])
		s.Do(func(c *controller.Context) {
			require.Len(t, c.Switch(1).Faults, 1)
			require.Contains(t, c.Switch(1).Faults["balancer/vip/web77"], "OFPBAC_BAD_ARGUMENT")
		})
		v, err := s.service.Get(t.Context(), "web77")
		require.NoError(t, err)
		require.Contains(t, v.Status.Switches[0].Reason, "chained groups (OFPBAC_BAD_ARGUMENT), inline actions (OFPBAC_BAD_ARGUMENT)", "what was tried")
	})
}

// A restart sends nothing to a switch of any kind.
func TestRestartSendsNothingOnAnyRung(t *testing.T) {
	for name, k := range rungs {
		if k.o.Ignore != nil {
			continue // it cannot be told what it holds
		}
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dir := t.TempDir()
				first := open(t, dir, lab.Build(3, k.o, [2]int{1, 2}, [2]int{2, 3}), lab.Options{})
				first.give(first.pool(balancer.TCP, "h2", "h3"))
				first.learn()
				first.Settle()
				first.close()
				mods := first.Mods()
				second := open(t, dir, first.Network, lab.Options{Memory: first.Memory})
				second.Pass(90 * time.Second)
				require.Equal(t, mods, second.Mods())
			})
		})
	}
}

// A switch whose connection breaks off over and over, in the middle of being probed
// and programmed, comes to serve in the end; one beside it serves all the while.
func TestResettingSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *site
		var mu sync.Mutex
		left, count := 0, 0
		resetting := simswitch.Options{DPID: 2, Received: func(_ ofproto.Header, m ofproto.Message) {
			mu.Lock()
			defer mu.Unlock()
			if count++; left > 0 && count >= 7+4*(12-left) {
				left--
				count = 0
				go s.Disconnect(2)
				go func() { time.Sleep(100 * time.Millisecond); s.Connect(2) }()
			}
		}}
		n := simswitch.NewNetwork()
		n.AddSwitch(simswitch.Options{DPID: 1})
		n.AddSwitch(resetting)
		n.Link(place{DPID: 1, Port: 1}, place{DPID: 2, Port: 1})
		for i := 1; i <= 2; i++ {
			lab.AddHost(n, i, place{DPID: ofproto.DPID(i), Port: lab.HostPort})
		}
		lab.AddHost(n, 3, place{DPID: 1, Port: 103})
		s = open(t, t.TempDir(), n, lab.Options{})
		mu.Lock()
		left = 12
		mu.Unlock()
		s.Disconnect(2)
		s.Connect(2)
		rec, _, err := s.intents.Put(t.Context(), s.pool(balancer.TCP, "h3"), balancer.Condition{})
		require.NoError(t, err)
		s.Pass(5 * time.Minute)
		mu.Lock()
		require.Less(t, left, 6, "it came back, ever more seldom")
		left = 0
		mu.Unlock()
		s.Pass(2 * time.Minute)
		s.learn()
		require.Equal(t, "h3", s.serves("h1", 1000, rec))
		require.Equal(t, "h3", s.serves("h2", 1000, rec))
		s.NoFaults()
	})
}

// A switch that answers nothing any more, or reads slowly, holds up nobody else.
func TestMuteAndSlowSwitches(t *testing.T) {
	for name, delay := range map[string]time.Duration{"mute": time.Hour, "slow reader": 20 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var late atomic.Bool
				n := simswitch.NewNetwork()
				n.AddSwitch(simswitch.Options{DPID: 1})
				ctx, cancel := context.WithCancel(t.Context())
				n.AddSwitch(simswitch.Options{DPID: 2, Received: func(ofproto.Header, ofproto.Message) {
					if late.Load() {
						select {
						case <-time.After(delay):
						case <-ctx.Done():
						}
					}
				}})
				for i := 1; i <= 2; i++ {
					lab.AddHost(n, i, place{DPID: ofproto.DPID(i), Port: lab.HostPort})
				}
				lab.AddHost(n, 3, place{DPID: 1, Port: 103})
				s := open(t, t.TempDir(), n, lab.Options{})
				defer cancel()
				s.learn()
				late.Store(true)
				for i := range 50 {
					v := s.pool(balancer.TCP, "h3")
					v.Name, v.Address = fmt.Sprintf("web%d", i), numbered(i)
					v.Listeners[0].Pool.Members[0].Port += uint16(i)
					_, _, err := s.intents.Put(t.Context(), v, balancer.Condition{})
					require.NoError(t, err)
				}
				s.Pass(50 * time.Millisecond)
				for i := range 50 {
					v, err := s.service.Get(t.Context(), fmt.Sprintf("web%d", i))
					require.NoError(t, err)
					require.Equal(t, balancer.InstallInstalled, v.Status.Switches[0].State)
				}
				if delay == time.Hour {
					s.Pass(time.Minute)
					v, err := s.service.Get(t.Context(), "web0")
					require.NoError(t, err)
					require.Len(t, v.Status.Switches, 1, "the mute one was let go")
					return
				}
				s.Pass(time.Minute)
				v, err := s.service.Get(t.Context(), "web49")
				require.NoError(t, err)
				require.Equal(t, balancer.InstallInstalled, v.Status.Switches[1].State)
			})
		})
	}
}
