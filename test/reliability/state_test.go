package reliability

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/faultproxy"
	"github.com/fairlead/fairlead/test/simswitch"
)

// counts gathers what passes a proxy.
type counts struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counts) tap(f *faultproxy.Frame) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[f.Header.Type.String()]++
	c.n["bytes "+f.Direction.String()] += len(f.Bytes)
	switch m := f.Message().(type) {
	case *ofproto.Error:
		c.n[m.Name()]++
	case *ofproto.FlowRemoved:
		if m.Reason == ofproto.RemovedGroupDelete {
			c.n["cascaded"]++
		}
	}
}

func (c *counts) of(what string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n[what]
}

// tapped is single behind a proxy with options.
func tapped(t *testing.T, n int, sw simswitch.Options, o faultproxy.Options) (*rig, *counts) {
	t.Helper()
	c := &counts{}
	o.Tap = c.tap
	r := start(t, options{})
	sw.DPID = 1
	r.AddSwitch(sw)
	r.fill(1, n)
	r.connectBy(1, o)
	r.ready(1)
	r.settle()
	r.learn()
	r.ready(1)
	return r, c
}

// eachServes checks that VIPs 0 … n−1 are served.
func (r *rig) eachServes(recs []balancer.Record) {
	r.t.Helper()
	for _, rec := range recs {
		require.NotEmpty(r.t, r.serves("h1", 3000, rec), "%s", rec.VIP.Name)
	}
}

func TestS01ReorderedBetweenBarriers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, seed := seeded(t)
		r, c := tapped(t, 4, simswitch.Options{NoBundles: true}, faultproxy.Options{Reorder: true, Seed: seed})
		const vips = 200
		barriers, mods, errs := c.of("barrier_request"), r.mods(), c.of("error") // those of probes, so far
		var recs []balancer.Record
		for i := range vips {
			recs = append(recs, r.put(r.vip(i, "h2", "h3", "h4")))
		}
		r.ready(1)
		r.noFaults()
		require.Equal(t, errs, c.of("error"), "errors: %v", c.n)
		r.eachServes(recs)
		// All of them in one batch: the switch has lost everything.
		require.Nil(t, r.Switch(1).Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll}))
		time.Sleep(90 * time.Second)
		r.ready(1)
		before, modsBefore := c.of("barrier_request"), r.mods()
		require.Nil(t, r.Switch(1).Apply(&ofproto.FlowMod{Command: ofproto.FlowDelete, Table: ofproto.TableAll, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}))
		require.Nil(t, r.Switch(1).Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll}))
		r.proxy(1).Cut()
		time.Sleep(5 * time.Second)
		r.ready(1)
		sent, used := r.mods()-modsBefore, c.of("barrier_request")-before
		t.Logf("200 VIPs one by one: %d mods, %d barriers; all again at once: %d mods, %d barriers", modsBefore-mods, before-barriers, sent, used)
		require.LessOrEqual(t, used, 4*(sent/1000+1)+8, "the handshake has some too")
		r.eachServes(recs)
	})
}

func TestS02GroupsOfOurIDsAreThere(t *testing.T) {
	for _, bundles := range []bool{true, false} {
		t.Run(fmt.Sprint("bundles ", bundles), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, c := tapped(t, 4, simswitch.Options{NoBundles: !bundles}, faultproxy.Options{})
				var recs []balancer.Record
				for i := range 10 {
					recs = append(recs, r.install(r.vip(i, "h2", "h3")))
				}
				r.proxy(1).Stall(faultproxy.Both)
				r.proxy(1).Cut()
				// Meanwhile somebody puts others in their place: other buckets, other types.
				for i, g := range r.Switch(1).Groups() {
					g.Type = ofproto.GroupType(i % 2 * int(ofproto.GroupTypeIndirect))
					g.Buckets = []ofproto.Bucket{{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: []ofproto.Action{ofproto.OutputPort(ofproto.Port(i%4 + 1))}}}
					require.Nil(t, r.Switch(1).Apply(&ofproto.GroupMod{Command: ofproto.GroupModify, Type: g.Type, Group: g.Group, Buckets: g.Buckets}))
				}
				exists, unknown := c.of("OFPGMFC_GROUP_EXISTS"), c.of("OFPGMFC_UNKNOWN_GROUP")
				r.proxy(1).Resume(faultproxy.Both)
				time.Sleep(10 * time.Second)
				r.ready(1)
				r.eachServes(recs)
				r.noFaults()
				require.Equal(t, exists, c.of("OFPGMFC_GROUP_EXISTS"))
				require.Equal(t, unknown, c.of("OFPGMFC_UNKNOWN_GROUP"))
			})
		})
	}
}

func TestS03GroupReplacedUnderTraffic(t *testing.T) {
	for _, bundles := range []bool{true, false} {
		t.Run(fmt.Sprint("bundles ", bundles), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				random, _ := seeded(t)
				r, c := tapped(t, 6, simswitch.Options{NoBundles: !bundles}, faultproxy.Options{})
				r.install(r.vip(1, "h2", "h3"))
				lost := 0
				n := scale(150, 1000)
				for range n {
					members := []string{"h2", "h3", "h4", "h5", "h6"}
					random.Shuffle(len(members), func(i, j int) { members[i], members[j] = members[j], members[i] })
					rec := r.put(r.vip(1, members[:1+random.IntN(5)]...))
					for range 3 { // while it is being written, and after
						if r.serves("h1", uint16(random.IntN(60000)), rec) == "" {
							lost++
						}
						time.Sleep(time.Millisecond)
					}
				}
				t.Logf("%d replacements, %d packets, %d lost, %d flows cascaded", n, 3*n, lost, c.of("cascaded"))
				require.Zero(t, lost)
				require.Zero(t, c.of("cascaded"))
				r.noFaults()
			})
		})
	}
}

// TestS04TableFull has more VIPs than a table holds.
func TestS04TableFull(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const limit, vips = 200, 150
		r, c := tapped(t, 3, simswitch.Options{MaxFlows: limit}, faultproxy.Options{})
		var recs []balancer.Record
		for i := range vips {
			recs = append(recs, r.put(r.vip(i, "h2", "h3")))
		}
		time.Sleep(5 * time.Second)
		var in, out []balancer.Record
		sort := func() {
			in, out = nil, nil
			for _, rec := range recs {
				s := r.status(rec.VIP.Name)
				switch s.VIP.Provisioning {
				case balancer.ProvisioningActive:
					in = append(in, rec)
				default:
					require.Len(t, s.VIP.Switches, 1)
					require.Contains(t, s.VIP.Switches[0].Reason, "TABLE_FULL", "%s", rec.VIP.Name)
					out = append(out, rec)
				}
			}
		}
		sort()
		t.Logf("%d VIPs in a table of %d: %d are served, %d say why not", vips, limit, len(in), len(out))
		require.NotEmpty(t, in)
		require.NotEmpty(t, out)
		r.eachServes(in)
		full, begin := c.of("OFPFMFC_TABLE_FULL"), time.Now()
		for range 12 {
			time.Sleep(10 * time.Second)
			r.eachServes(in[:5])
		}
		tries := c.of("OFPFMFC_TABLE_FULL") - full
		t.Logf("refused %d times in %v, of %d VIPs", tries, time.Since(begin), len(out))

		// Space: as many as wait are deleted; those that wait take it.
		for _, rec := range in[:min(len(out), len(in)-1)] {
			require.NoError(t, r.intents.Delete(t.Context(), rec.VIP.Name, balancer.Condition{}))
		}
		freed, healed := min(len(out), len(in)-1), 0
		begin = time.Now()
		for time.Since(begin) < 90*time.Second && healed < freed {
			time.Sleep(250 * time.Millisecond)
			healed = 0
			for _, rec := range out {
				if r.status(rec.VIP.Name).VIP.Provisioning == balancer.ProvisioningActive {
					healed++
				}
			}
		}
		heal := time.Since(begin)
		t.Logf("%d VIPs made room; %d that waited are served after %v", freed, healed, heal)
		require.LessOrEqual(t, heal, 15*time.Second)
	})
}

// TestS04RoomOfOthers has VIPs wait for the room that entries of somebody else take, most
// of them too large ever to fit: those that fit are served soon after there is room, whoever
// made it and whether the switch tells or not.
func TestS04RoomOfOthers(t *testing.T) {
	for name, o := range map[string]struct {
		flags uint16
		soon  time.Duration
	}{
		"told":           {ofproto.FlagSendFlowRem, 11 * time.Second},
		"found by audit": {0, 71 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				const limit = 80
				r, c := tapped(t, 3, simswitch.Options{MaxFlows: limit}, faultproxy.Options{})
				first := r.vip(0, "h2", "h3")
				first.Listeners[0].Port++
				in := r.install(first)
				held := 0
				for _, f := range r.Switch(1).Flows() {
					if f.Table == controller.TableVIP {
						held++
					}
				}
				others := func(i int) *ofproto.FlowMod {
					return &ofproto.FlowMod{
						Cookie: 4711, Table: controller.TableVIP, Priority: 7, Flags: o.flags, BufferID: ofproto.NoBuffer,
						Match: ofproto.NewMatch(ofproto.InPort(ofproto.Port(1000 + i))),
					}
				}
				for i := range limit - held {
					require.Nil(t, r.Switch(1).Apply(others(i)))
				}
				more := func(i, listeners int) balancer.Record {
					v := r.vip(i, "h2", "h3")
					v.Address = in.VIP.Address
					l := v.Listeners[0]
					v.Listeners = nil
					for n := range listeners {
						if listeners > 1 {
							l.Port = uint16(10000 + 200*i + n)
						}
						l.Pool.Members = slices.Clone(l.Pool.Members)
						for m := range l.Pool.Members {
							l.Pool.Members[m].Port = uint16(10000 + 200*i + n)
						}
						v.Listeners = append(v.Listeners, l)
					}
					return r.put(v)
				}
				for i := range 20 {
					more(1+i, limit/2) // two entries a listener, and more
				}
				waits := more(21, 1)
				time.Sleep(3 * time.Minute)
				require.Contains(t, r.status(waits.VIP.Name).VIP.Switches[0].Reason, "TABLE_FULL")
				tries, begin := c.of("OFPFMFC_TABLE_FULL"), time.Now()

				for i := range limit - held {
					del := others(i)
					del.Command, del.OutPort, del.OutGroup = ofproto.FlowDeleteStrict, ofproto.PortAny, ofproto.GroupAny
					require.Nil(t, r.Switch(1).Apply(del))
				}
				took(t, o.soon, "it is served", func() bool { return r.serves("h1", 3000, waits) != "" })
				t.Logf("served %v after others made room, with %d refusals meanwhile", time.Since(begin).Round(time.Second), c.of("OFPFMFC_TABLE_FULL")-tries)
				require.Equal(t, balancer.ProvisioningActive, r.status(in.VIP.Name).VIP.Provisioning)
			})
		})
	}
}

func TestS05OutOfGroups(t *testing.T) {
	for name, o := range map[string]simswitch.Options{"groups": {MaxGroups: 300}, "buckets": {MaxBuckets: 16}} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, _ := tapped(t, 3, o, faultproxy.Options{})
				var recs []balancer.Record
				for i := range 150 {
					recs = append(recs, r.put(r.vip(i, "h2", "h3")))
				}
				time.Sleep(5 * time.Second)
				active := 0
				for _, rec := range recs {
					s := r.status(rec.VIP.Name).VIP
					serves := r.serves("h1", 3000, rec) != ""
					if s.Provisioning == balancer.ProvisioningActive {
						active++
						require.True(t, serves, "%s is said to be active", rec.VIP.Name)
						continue
					}
					require.Equal(t, balancer.ProvisioningError, s.Provisioning)
					require.Contains(t, s.Switches[0].Reason, "OUT_OF_", "%s", rec.VIP.Name)
				}
				t.Logf("%d of 150 active", active)
				require.NotZero(t, active)
			})
		})
	}
}

func TestS06NothingToSendTo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := tapped(t, 3, simswitch.Options{}, faultproxy.Options{})
		empty := r.vip(1)
		zero := r.vip(2, "h2", "h3")
		for i := range zero.Listeners[0].Pool.Members {
			zero.Listeners[0].Pool.Members[i].Weight = 0
		}
		nowhere := r.vip(3, "h2")
		nowhere.Listeners[0].Pool.Members[0].Address = vipAddr(200) // nobody has it
		r.Host("h3").At.Port = 77                                   // of a port that is not there
		var recs []balancer.Record
		for _, v := range []balancer.VIP{empty, zero, nowhere} {
			recs = append(recs, r.put(v))
		}
		time.Sleep(20 * time.Second)
		for _, rec := range recs {
			require.Empty(t, r.serves("h1", 3000, rec), "%s", rec.VIP.Name)
			for _, h := range r.Hosts() {
				require.Empty(t, r.Received(h), "a packet to %s leaked to %s", rec.VIP.Name, h)
			}
			require.Equal(t, balancer.OperatingOffline, r.status(rec.VIP.Name).VIP.Operating)
		}
		for _, g := range r.Switch(1).Groups() {
			require.NotEmpty(t, g.Buckets, "group %#x", uint32(g.Group))
		}
		r.noFaults()
	})
}

// TestS07ForeignObjects has flows and groups of an operator among ours.
func TestS07ForeignObjects(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := tapped(t, 3, simswitch.Options{}, faultproxy.Options{})
		rec := r.install(r.vip(1, "h2", "h3"))
		sw := r.Switch(1)
		out := []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(2)}}}
		foreign := []ofproto.FlowMod{
			{Cookie: 0xfa1d, Table: 2, Priority: 300, Match: ofproto.NewMatch(ofproto.EthType(0x86dd)), Instructions: out},
			{Cookie: 0xfa1c << 48, Table: 0, Priority: 5, Match: ofproto.NewMatch(ofproto.EthType(0x9999)), Instructions: out},
			{Cookie: 0, Table: 3, Priority: 0, Match: ofproto.NewMatch(), Instructions: out},
			{Cookie: 77, Table: 9, Priority: 9, Match: ofproto.NewMatch(), Instructions: out},
		}
		// One where a flow of ours would be: table, priority and match of VIP 2's listener.
		vip2 := r.install(r.vip(2, "h2"))
		var place simswitch.Flow
		for _, f := range sw.Flows() {
			if f.Table == controller.TableVIP && f.Priority == controller.PrioVIPForward && strings.Contains(f.Match.String(), vipAddr(2).String()) {
				place = f
			}
		}
		require.NotZero(t, place.Cookie)
		require.NoError(t, r.intents.Delete(t.Context(), vipName(2), balancer.Condition{}))
		r.ready(1)
		foreign = append(foreign, ofproto.FlowMod{Cookie: 4711, Table: place.Table, Priority: place.Priority, Match: place.Match, Instructions: out})
		for _, m := range foreign {
			m.BufferID, m.OutPort, m.OutGroup = ofproto.NoBuffer, ofproto.PortAny, ofproto.GroupAny
			require.Nil(t, sw.Apply(&m))
		}
		require.Nil(t, sw.Apply(&ofproto.GroupMod{Command: ofproto.GroupAdd, Type: ofproto.GroupTypeAll, Group: 5,
			Buckets: []ofproto.Bucket{{WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: []ofproto.Action{ofproto.OutputPort(1)}}}}))
		time.Sleep(70 * time.Second) // an audit

		r.put(r.vip(2, "h2"))
		alarm := took(t, 70*time.Second, "the conflict is shown", func() bool {
			s := r.status(vipName(2)).VIP
			return s.Provisioning == balancer.ProvisioningError && strings.Contains(s.Switches[0].Reason, "foreign")
		})
		t.Logf("conflict shown after %v", alarm)
		r.restartAll()
		all := func() bool {
			for _, m := range foreign {
				if !slices.ContainsFunc(sw.Flows(), func(f simswitch.Flow) bool {
					return f.Cookie == m.Cookie && f.Table == m.Table && f.Priority == m.Priority && f.Match.Equal(m.Match)
				}) {
					return false
				}
			}
			return slices.ContainsFunc(sw.Groups(), func(g ofproto.GroupDesc) bool { return g.Group == 5 })
		}
		require.True(t, all(), "a foreign object was deleted or changed")
		time.Sleep(2 * time.Minute)
		require.True(t, all())
		require.NotEmpty(t, r.serves("h1", 3000, rec))
		_ = vip2
	})
}

// restartAll has all switches connect anew.
func (r *rig) restartAll() {
	for _, sw := range r.Switches() {
		r.proxy(sw.DPID()).Cut()
	}
	time.Sleep(4 * time.Second)
	for _, sw := range r.Switches() {
		r.ready(sw.DPID())
	}
}

func TestS08SomebodyElseChangesTheSwitch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := tapped(t, 3, simswitch.Options{}, faultproxy.Options{})
		rec := r.install(r.vip(1, "h2", "h3"))
		sw := r.Switch(1)
		same := func() (cookies []uint64) {
			for _, f := range sw.Flows() {
				if flowtable.OwnsCookie(f.Cookie) {
					cookies = append(cookies, f.Cookie)
				}
			}
			slices.Sort(cookies)
			return cookies
		}
		flows, groups := same(), len(sw.Groups())
		require.NotEmpty(t, flows)
		repaired := func() bool { return slices.Equal(flows, same()) && len(sw.Groups()) == groups }
		var forward simswitch.Flow
		var forwards []simswitch.Flow // and those of first packets, which are counted apart
		for _, f := range sw.Flows() {
			if f.Table == controller.TableVIP && f.Priority >= controller.PrioVIPForward && f.Priority <= controller.PrioVIPLimit {
				forwards = append(forwards, f)
			}
			if f.Table == controller.TableVIP && f.Priority == controller.PrioVIPForward {
				forward = f
			}
		}
		mod := func(command ofproto.FlowCommand, table ofproto.Table, priority uint16, match ofproto.Match, ins ...ofproto.Instruction) {
			require.Nil(t, sw.Apply(&ofproto.FlowMod{Command: command, Table: table, Priority: priority, Match: match, Instructions: ins,
				BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}))
		}
		mod(ofproto.FlowDeleteStrict, forward.Table, forward.Priority, forward.Match)
		one := took(t, 3*time.Second, "one flow deleted", repaired)
		mod(ofproto.FlowDelete, ofproto.TableAll, 0, ofproto.NewMatch())
		all := took(t, 3*time.Second, "all flows deleted", repaired)
		for _, f := range forwards {
			mod(ofproto.FlowModifyStrict, f.Table, f.Priority, f.Match, ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(1)}})
		}
		require.Empty(t, r.serves("h1", 3000, rec))
		altered := took(t, 61*time.Second, "an action changed", func() bool { return r.serves("h1", 3000, rec) != "" })
		require.Nil(t, sw.Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll}))
		deleted := took(t, 61*time.Second, "all groups deleted", repaired)
		require.NotEmpty(t, r.serves("h1", 3000, rec))
		drop := ofproto.FlowMod{Cookie: 99, Table: forward.Table, Priority: 60000, Match: forward.Match, BufferID: ofproto.NoBuffer, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}
		require.Nil(t, sw.Apply(&drop))
		foreign := took(t, 61*time.Second, "the drop of somebody else is counted", func() bool { k, _ := r.known(1); return k.Foreign > 0 })
		t.Logf("repaired: one flow deleted %v, all flows %v, an action changed %v, all groups %v; foreign drop seen %v", one, all, altered, deleted, foreign)
		require.LessOrEqual(t, one, 2*time.Second)
		require.LessOrEqual(t, all, 2*time.Second)
		require.LessOrEqual(t, altered, 61*time.Second)
	})
}

// TestS08DroppedAgainAndAgain has a switch drop an entry as soon as it is added, as one does
// that makes room for one with another: it is repaired ever less often, and that is told.
func TestS08DroppedAgainAndAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, options{})
		o := hosted(7)
		o.holds = true
		var drops atomic.Bool
		o.override = func(f frame, m ofproto.Message) ([][]byte, bool) {
			if m, ok := m.(*ofproto.FlowMod); ok && drops.Load() && m.Command == ofproto.FlowAdd {
				return reply(0, &ofproto.FlowRemoved{Cookie: m.Cookie, Table: m.Table, Priority: m.Priority, Reason: ofproto.RemovedDelete, Match: m.Match}), true
			}
			return nil, false
		}
		p := r.scripted(o)
		r.ready(7)
		mark := func(f ofproto.FlowStats) bool { return f.Priority == controller.PrioMark }
		drops.Store(true)
		before := p.mods()
		require.Equal(t, 1, p.lose(mark))
		time.Sleep(time.Second / 2)
		require.Equal(t, 5, p.mods()-before, "at once, a few times")
		sw, _ := r.known(7)
		require.Contains(t, sw.Faults["store/mark"], "again and again")
		time.Sleep(10 * time.Minute)
		t.Logf("%d mods in ten minutes", p.mods()-before)
		require.Less(t, p.mods()-before, 60)

		drops.Store(false)
		time.Sleep(61 * time.Second)
		sw, _ = r.known(7)
		require.Empty(t, sw.Faults)
		time.Sleep(5 * time.Minute)
		before = p.mods()
		require.Equal(t, 1, p.lose(mark))
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, 1, p.mods()-before, "long after, it is repaired at once again")
	})
}

// TestS08MetersAreGone has somebody delete the meters of a switch, which deletes the entries
// that name them.
func TestS08MetersAreGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := start(t, options{})
		o := hosted(7)
		o.holds = true
		var meters sync.Map
		missing := func(ins []ofproto.Instruction) bool {
			return slices.ContainsFunc(ins, func(in ofproto.Instruction) bool {
				m, ok := in.(ofproto.Meter)
				_, there := meters.Load(m.ID)
				return ok && !there
			})
		}
		o.override = func(f frame, m ofproto.Message) ([][]byte, bool) {
			switch m := m.(type) {
			case *ofproto.MeterMod:
				meters.Store(m.Meter, true)
			case *ofproto.FlowMod:
				if m.Command == ofproto.FlowAdd && missing(m.Instructions) {
					return refusal(f, ofproto.ErrorMeterModFailed, ofproto.CodeInvalidMeter), true
				}
			case *ofproto.MultipartRequest:
				var b []byte
				switch m.Type {
				case ofproto.MultipartMeterFeatures:
					b = ofproto.MeterFeatures{MaxMeter: 100}.AppendTo(nil)
				case ofproto.MultipartMeterConfig:
					meters.Range(func(id, _ any) bool {
						b = ofproto.MeterConfig{Meter: id.(uint32)}.AppendTo(b)
						return true
					})
				default:
					return nil, false
				}
				return reply(f.XID, &ofproto.MultipartReply{Type: m.Type, Body: b}), true
			}
			return nil, false
		}
		p := r.scripted(o)
		r.ready(7)
		all := len(p.held())
		meters.Clear()
		lost := p.lose(func(f ofproto.FlowStats) bool {
			ins, err := f.Instructions()
			return err == nil && missing(ins)
		})
		require.Positive(t, lost)
		restored := took(t, 20*time.Second, "all entries are there again", func() bool { return len(p.held()) == all })
		t.Logf("%d entries are there again after %v", lost, restored)
		require.LessOrEqual(t, restored, 2*time.Second)
		time.Sleep(time.Second)
		sw, _ := r.known(7)
		require.Empty(t, sw.Faults)
	})
}

// TestS10BundleTornApart has the switch throw a half-filled bundle away after 10 s,
// while the rest of it is on its way.
func TestS10BundleTornApart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, c := tapped(t, 3, simswitch.Options{}, faultproxy.Options{})
		r.install(r.vip(1, "h2", "h3"))
		p := r.proxy(1)
		adds := 0
		p.Add(faultproxy.Rule{Name: "hold", Direction: faultproxy.ToSwitch, Types: []ofproto.MessageType{ofproto.TypeExperimenter}, Limit: 1,
			Match: func(f *faultproxy.Frame) bool {
				if _, ok := f.Message().(*ofproto.BundleAdd); ok {
					adds++
				}
				return adds == 3
			}, Do: faultproxy.Delay(12 * time.Second)})
		// The switch discards it: what is added then is of no bundle.
		p.Add(faultproxy.Rule{Name: "discarded", Direction: faultproxy.ToSwitch, Types: []ofproto.MessageType{ofproto.TypeExperimenter}, Limit: 1,
			Match: func(f *faultproxy.Frame) bool { _, ok := f.Message().(*ofproto.BundleAdd); return ok && adds > 3 },
			Do: faultproxy.Lie(func(f *faultproxy.Frame) [][]byte {
				b := f.Message().(*ofproto.BundleAdd)
				return [][]byte{ofproto.Append(nil, f.Header.XID, &ofproto.BundleControl{Bundle: b.Bundle, Type: ofproto.BundleDiscardRequest, Flags: b.Flags}), f.Bytes}
			})})
		rec := r.put(r.vip(2, "h2", "h3"))
		d := took(t, 30*time.Second, "converged", func() bool { return r.status(vipName(2)).VIP.Provisioning == balancer.ProvisioningActive })
		t.Logf("converged %v after the change, held for 12 s", d)
		require.LessOrEqual(t, d, 17*time.Second)
		require.NotEmpty(t, r.serves("h1", 3000, rec))
		r.noFaults()
		_ = c
	})
}

func TestS11OneBadMemberOfABundle(t *testing.T) {
	for _, bundles := range []bool{true, false} {
		t.Run(fmt.Sprint("bundles ", bundles), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				vips := scale(200, 1000)
				bad := vipAddr(vips / 2).String()
				refuse := func(m ofproto.Message) *ofproto.Error {
					if f, ok := m.(*ofproto.FlowMod); ok && f.Command == ofproto.FlowAdd && f.Table == controller.TableVIP && strings.Contains(f.Match.String(), "="+bad) {
						return &ofproto.Error{Type: ofproto.ErrorBadAction, Code: 9}
					}
					return nil
				}
				r, _ := tapped(t, 3, simswitch.Options{NoBundles: !bundles, Refuse: refuse}, faultproxy.Options{})
				r.proxy(1).Stall(faultproxy.Both) // all of them come at once
				var recs []balancer.Record
				for i := range vips {
					recs = append(recs, r.put(r.vip(i, "h2", "h3")))
				}
				begin := time.Now()
				r.proxy(1).Resume(faultproxy.Both)
				good := func() (n int) {
					for i := range vips {
						if r.status(vipName(i)).VIP.Provisioning == balancer.ProvisioningActive {
							n++
						}
					}
					return n
				}
				for time.Since(begin) < 20*time.Second && good() < vips-1 {
					time.Sleep(50 * time.Millisecond)
				}
				require.Equal(t, vips-1, good())
				t.Logf("%d others served %v after", vips-1, time.Since(begin))
				require.LessOrEqual(t, time.Since(begin), 3*time.Second)
				s := r.status(vipName(vips / 2)).VIP
				require.Equal(t, balancer.ProvisioningError, s.Provisioning)
				require.Contains(t, s.Switches[0].Reason, "BAD_OUT_GROUP")
				r.eachServes(slices.Delete(recs, vips/2, vips/2+1)[:20])
			})
		})
	}
}

// TestS12Burst edits the same ten parts ten thousand times within a second.
func TestS12Burst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		b := &bulk{}
		r := start(t, options{apps: []controller.App{b}, only: true})
		r.add(simswitch.Options{DPID: 1})
		r.ready(1)
		require.NoError(t, r.core.Post(r.ctx, want(10*bulkPart)))
		r.ready(1)
		mods := r.mods()
		// The switch is slow to answer, as a real one under such a load.
		r.proxy(1).Add(faultproxy.Rule{Direction: faultproxy.ToController, Do: faultproxy.Delay(100 * time.Millisecond)})
		for i := range 10000 {
			require.NoError(t, r.core.Post(r.ctx, edit{i % 10, 1 + i/10}))
			if i%10 == 9 {
				time.Sleep(time.Millisecond)
			}
		}
		end := time.Now()
		r.ready(1)
		settle, sent := time.Since(end), r.mods()-mods
		t.Logf("10,000 edits of 10 parts: %d mods (%d objects), settled after %v", sent, 10*bulkPart, settle)
		require.LessOrEqual(t, settle, 3*time.Second)
		require.LessOrEqual(t, sent, 10*bulkPart*12/10, "what is edited over and over is sent when it has settled")
		for _, f := range r.Switch(1).Flows() {
			if f.Table == controller.TableDestination && f.Priority == controller.PrioHost {
				require.Contains(t, fmt.Sprint(f.Instructions), "1001")
			}
		}
	})
}

// TestS14ShortLivedFlows tells of flows of others that expire, and of ours.
func TestS14ShortLivedFlows(t *testing.T) {
	r := start(t, options{tcp: true})
	p := r.scripted(hosted(7))
	send := func(n int) {
		for i := range n / 100 {
			var b []byte
			for j := range 100 {
				b = ofproto.Append(b, 0, &ofproto.FlowRemoved{Cookie: uint64(0xfa1d)<<48*uint64(j%2) + uint64(i*100+j), Table: 2, Priority: uint16(j),
					Match: ofproto.NewMatch(ofproto.Metadata(uint64(i*100+j), ^uint64(0)))})
			}
			p.raw(b)
		}
		p.lives()
	}
	send(scale(10000, 100000))
	time.Sleep(100 * time.Millisecond)
	before := heap()
	n := scale(50000, 1000000)
	send(n)
	eventually(t, 10*time.Second, "the heap is what it was", func() bool { return heap()-before < 1<<20 })
	t.Logf("%d flows expired: heap %+d B", n, heap()-before)
}

// TestS15LiarAboutOneVIP has a switch accept the entries of one VIP and not hold them, which
// it does with all others: the VIP is not said to be active for good.
func TestS15LiarAboutOneVIP(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var lies atomic.Bool
		lies.Store(true)
		is := "=" + vipAddr(2).String()
		r := single(t, 3, options{}, simswitch.Options{Ignore: func(m ofproto.Message) bool {
			f, ok := m.(*ofproto.FlowMod)
			return ok && lies.Load() && f.Command == ofproto.FlowAdd && f.Table == controller.TableVIP && strings.Contains(f.Match.String(), is)
		}})
		good, bad := r.install(r.vip(1, "h2", "h3")), r.put(r.vip(2, "h2", "h3"))
		mods := r.mods()
		d := took(t, 10*time.Minute, "the VIP is not said to be active", func() bool {
			return r.status(vipName(2)).VIP.Provisioning == balancer.ProvisioningError
		})
		t.Logf("told after %v and %d mods", d, r.mods()-mods)
		sw, _ := r.known(1)
		require.Contains(t, fmt.Sprint(sw.Faults), "does not hold those that it accepts")
		require.Equal(t, balancer.ProvisioningActive, r.status(vipName(1)).VIP.Provisioning)
		r.learn()
		require.NotEmpty(t, r.serves("h1", 4000, good))
		time.Sleep(10 * time.Minute)
		require.Less(t, r.mods()-mods, 200)

		lies.Store(false)
		took(t, 2*time.Minute, "healed", func() bool { return r.status(vipName(2)).VIP.Provisioning == balancer.ProvisioningActive })
		r.learn()
		require.NotEmpty(t, r.serves("h1", 4001, bad))
		r.noFaults()
	})
}

func TestS16PortReturnsUnderAnotherNumber(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := tapped(t, 4, simswitch.Options{}, faultproxy.Options{})
		rec := r.install(r.vip(1, "h2", "h3"))
		r.Switch(1).RemovePort(2)
		time.Sleep(time.Second)
		for i := range 40 {
			require.NotEqual(t, "h2", r.serves("h1", uint16(3000+i), rec))
		}
		// Another host at the old number, and the member at a new one.
		r.Move("h4", simswitch.Place{DPID: 1, Port: 2})
		r.Move("h2", simswitch.Place{DPID: 1, Port: 12})
		begin := time.Now()
		r.Announce("h4")
		r.Announce("h2")
		d := took(t, 10*time.Second, "the member serves again", func() bool {
			for i := range 40 {
				if r.serves("h1", uint16(3000+i), rec) == "h2" {
					return true
				}
			}
			return false
		})
		t.Logf("served again after %v", d)
		require.LessOrEqual(t, time.Since(begin), 3500*time.Millisecond)
		for i := range 100 {
			require.NotEqual(t, "h4", r.serves("h1", uint16(3000+i), rec), "sent to the wrong port")
		}
	})
}

func TestS18AuditIsANoOp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, c := tapped(t, 4, simswitch.Options{}, faultproxy.Options{})
		var recs []balancer.Record
		for i := range 50 {
			recs = append(recs, r.install(r.vip(i, "h2", "h3", "h4")))
		}
		mods := r.mods()
		before, reads := c.of("bytes to controller")+c.of("bytes to switch"), c.of("multipart_request")
		for range 30 {
			time.Sleep(time.Minute)
			for _, h := range r.Hosts() { // that they do not age
				r.Announce(h)
			}
		}
		bytes := c.of("bytes to controller") + c.of("bytes to switch") - before
		t.Logf("30 min, %d flows: %d mods, %d requests for state, %d B/s", len(r.Switch(1).Flows()), r.mods()-mods, c.of("multipart_request")-reads, bytes/1800)
		require.Equal(t, mods, r.mods())
		require.GreaterOrEqual(t, c.of("multipart_request")-reads, 30, "audits")
		r.eachServes(recs)
	})
}
