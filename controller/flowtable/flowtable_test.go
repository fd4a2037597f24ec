package flowtable_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
)

const appA, appB flowtable.AppID = 3, 4

var pipeline = &flowtable.Pipeline{Version: 1, Tables: []flowtable.TableSpec{
	{ID: 0, Name: "first", Match: []ofproto.FieldType{ofproto.FieldInPort, ofproto.FieldEthType, ofproto.FieldIPv4Dst}, Next: []ofproto.Table{1},
		Rows: []flowtable.RowSpec{{Priority: 1, App: appA}, {Priority: 2, App: appA}, {Priority: 1, App: appB}}},
	{ID: 1, Name: "second", Match: []ofproto.FieldType{ofproto.FieldInPort},
		Rows: []flowtable.RowSpec{{Priority: 1, App: appA}, {Priority: 2, App: appA}}},
}}

func key(name string) flowtable.PartKey { return flowtable.PartKey{App: appA, Name: name} }

// flow is an entry of table 0 for a destination.
func flow(dst int, actions ...ofproto.Action) flowtable.Flow {
	return flowtable.Flow{Priority: 1, Match: dstMatch(dst), Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: actions}}}
}

func dstMatch(dst int) ofproto.Match {
	return ofproto.NewMatch(ofproto.EthType(ofproto.EthTypeIPv4), ofproto.IPv4Dst(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(dst)}), 32)))
}

func out(p int) ofproto.Action { return ofproto.OutputPort(ofproto.Port(p)) }

func to(id int) ofproto.Action { return ofproto.Group{ID: flowtable.GroupIDOf(uint32(id))} }

// group has a bucket for each list of actions.
func group(id int, buckets ...[]ofproto.Action) flowtable.Group {
	g := flowtable.Group{ID: flowtable.GroupIDOf(uint32(id)), Type: ofproto.GroupTypeSelect}
	for _, as := range buckets {
		g.Buckets = append(g.Buckets, ofproto.Bucket{Weight: 1, WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: as})
	}
	return g
}

func actions(as ...ofproto.Action) []ofproto.Action { return as }

// rig is a table and the switch that its plans go to.
type rig struct {
	t      *testing.T
	table  *flowtable.Table
	sw     *simswitch.Switch
	phases bool // no bundles
}

func newRig(t *testing.T, phases bool) *rig {
	return &rig{t: t, table: flowtable.New(pipeline), sw: simswitch.New(simswitch.Options{Ports: []ofproto.Port{1, 2, 3, 4}}), phases: phases}
}

func (r *rig) set(k flowtable.PartKey, p flowtable.Part) {
	r.t.Helper()
	require.NoError(r.t, r.table.SetPart(k, p))
}

// sync applies plans until nothing is dirty and returns how many messages it took.
// The switch is strict about references to groups.
func (r *rig) sync() (sent int) {
	r.t.Helper()
	for r.table.Dirty() {
		p := r.table.Plan(3)
		require.Empty(r.t, p.Blocked)
		mods := p.Atomic()
		if r.phases {
			mods = slices.Concat(p.Phases()...)
		}
		require.Len(r.t, mods, p.Len())
		for i := range mods {
			err := r.sw.Apply(mods[i].Message)
			if err != nil && mods[i].Part == (flowtable.PartKey{}) && err.Name() == "OFPGMFC_CHAINED_GROUP" {
				// Left over from a part that failed, and still in its old buckets.
				r.table.Failed(&mods[i])
				r.table.MarkDirty(mods[i].Part)
				continue
			}
			require.Nil(r.t, err, "%s", &mods[i])
			r.table.Applied(&mods[i])
			sent++
		}
	}
	return sent
}

// readBack makes the table believe what the switch says.
func (r *rig) readBack() {
	in := r.table.NewInstalled()
	for _, f := range r.sw.Flows() {
		in.AddFlow(f.Stats())
	}
	for _, g := range r.sw.Groups() {
		in.AddGroup(g.Group, g.Type, g.Buckets)
	}
	r.table.ReadBack(in, nil)
}

// contents of the switch, without counters.
func (r *rig) contents() (all []string) {
	for _, f := range r.sw.Flows() {
		all = append(all, fmt.Sprintf("%d %d %v %x %v", f.Table, f.Priority, f.Match, f.Cookie, f.Instructions))
	}
	for _, g := range r.sw.Groups() {
		all = append(all, fmt.Sprintf("%x %v %v", g.Group, g.Type, g.Buckets))
	}
	return all
}

// vip is a part as the balancer makes them: a flow, a select group, groups of members.
func vip(n int, members ...int) flowtable.Part {
	p := flowtable.Part{Flows: []flowtable.Flow{flow(n, to(100*n))}}
	sel := group(100 * n)
	for _, m := range members {
		p.Groups = append(p.Groups, group(100*n+m, actions(out(1+m%4))))
		sel.Buckets = append(sel.Buckets, group(0, actions(to(100*n+m))).Buckets...)
	}
	p.Groups = append(p.Groups, sel)
	slices.Reverse(p.Groups) // their order says nothing
	return p
}

func both(t *testing.T, f func(t *testing.T, phases bool)) {
	t.Run("atomic", func(t *testing.T) { f(t, false) })
	t.Run("phases", func(t *testing.T) { f(t, true) })
}

func TestDesiredBecomesInstalled(t *testing.T) {
	both(t, func(t *testing.T, phases bool) {
		r := newRig(t, phases)
		r.set(key("a"), vip(1, 1, 2, 3))
		r.set(key("b"), vip(2, 1))
		require.Equal(t, 4+1+2+1, r.sync())
		before := r.contents()
		require.Len(t, before, 8)
		flows, groups := r.table.Counts()
		require.Equal(t, []int{2, 6}, []int{flows, groups})

		r.set(key("a"), vip(1, 1, 2, 3))
		require.Zero(t, r.sync(), "the same again")

		r.set(key("a"), vip(1, 1, 4))
		require.Equal(t, 1+1+2, r.sync(), "one member more, two fewer, the select group")
		r.set(key("a"), vip(1, 1, 2, 3))
		r.sync()
		require.Equal(t, before, r.contents(), "there and back again")

		r.table.DeletePart(key("a"))
		r.table.DeletePart(key("b"))
		r.table.DeletePart(key("never was"))
		require.Equal(t, 8, r.sync())
		require.Empty(t, r.contents())
	})
}

// TestReadBackLeavesPartsThatWait reads back while one part that is missing waits for
// something else, and another that did is due.
func TestReadBackLeavesPartsThatWait(t *testing.T) {
	r := newRig(t, false)
	r.set(key("lost"), vip(1, 1))
	r.sync()
	r.set(key("waits"), vip(2, 1))
	r.table.Unqueue(key("waits"))
	r.set(key("due"), vip(3, 1))
	r.table.ReadBack(r.table.NewInstalled(), func(k flowtable.PartKey) bool { return k != key("lost") })
	p := r.table.Plan(100)
	require.ElementsMatch(t, []flowtable.PartKey{key("due"), key("lost"), {}}, p.Parts)
}

func TestRestartIsASetDifference(t *testing.T) {
	r := newRig(t, false)
	r.set(key("a"), vip(1, 1, 2))
	r.set(key("b"), vip(2, 1))
	r.set(key("c"), vip(3, 1))
	r.sync()
	r.table = flowtable.New(pipeline)
	r.set(key("a"), vip(1, 1, 2)) // as it was
	r.set(key("b"), vip(2, 1, 2)) // changed meanwhile
	r.readBack()                  // and c is gone
	require.Equal(t, 2+3, r.sync())
	fresh := newRig(t, false)
	fresh.set(key("a"), vip(1, 1, 2))
	fresh.set(key("b"), vip(2, 1, 2))
	fresh.sync()
	require.Equal(t, fresh.contents(), r.contents())
	r.readBack()
	require.Zero(t, r.sync())
}

func TestOrderOfMessages(t *testing.T) {
	r := newRig(t, false)
	deep := flowtable.Part{
		Flows: []flowtable.Flow{
			{Table: 0, Priority: 1, Match: dstMatch(9), Instructions: []ofproto.Instruction{ofproto.GotoTable{Table: 1}}},
			{Table: 1, Priority: 1, Match: nil, Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: actions(to(1))}}},
		},
		Groups: []flowtable.Group{group(1, actions(to(2))), group(2, actions(to(3))), group(3, actions(out(1)))},
	}
	r.set(key("old"), vip(1, 1))
	r.sync()
	r.table.DeletePart(key("old"))
	r.set(key("new"), deep)
	p := r.table.Plan(100)
	kinds := func(ms []flowtable.Mod) (s []string) {
		for i := range ms {
			s = append(s, ms[i].String())
		}
		return s
	}
	require.Equal(t, []string{
		"delete flow table=0,priority=1,eth_type=0x0800,ipv4_dst=10.0.0.1 of 3/old",
		"set group 0x46000003 of 3/new", "set group 0x46000002 of 3/new", "set group 0x46000001 of 3/new",
		"set flow table=1,priority=1, of 3/new", "set flow table=0,priority=1,eth_type=0x0800,ipv4_dst=10.0.0.9 of 3/new",
		"delete group 0x46000064 of 3/old", "delete group 0x46000065 of 3/old",
	}, kinds(p.Atomic()))
	phases := func(all [][]flowtable.Mod) (s []string) {
		for _, ms := range all {
			s = append(s, strings.Join(kinds(ms), "; "))
		}
		return s
	}
	setGroups := []string{"set group 0x46000003 of 3/new", "set group 0x46000002 of 3/new", "set group 0x46000001 of 3/new"}
	setFlows := []string{"set flow table=1,priority=1, of 3/new; set flow table=0,priority=1,eth_type=0x0800,ipv4_dst=10.0.0.9 of 3/new"}
	deleteFlows := []string{"delete flow table=0,priority=1,eth_type=0x0800,ipv4_dst=10.0.0.1 of 3/old"}
	deleteGroups := []string{"delete group 0x46000064 of 3/old", "delete group 0x46000065 of 3/old"}
	require.Equal(t, slices.Concat(setGroups, setFlows, deleteFlows, deleteGroups), phases(p.Phases()), "a phase a level of references: make before break")
	require.Equal(t, slices.Concat(deleteFlows, deleteGroups, setGroups, setFlows), phases(p.RoomFirst()))
}

// What is left over may be in buckets of parts that are planned later.
func TestLeftoversGoLast(t *testing.T) {
	r := newRig(t, false)
	for i := 1; i < 9; i++ {
		r.set(key(fmt.Sprint(i)), vip(i, 1, 2))
	}
	r.sync()
	r.table = flowtable.New(pipeline)
	for i := 1; i < 9; i++ {
		r.set(key(fmt.Sprint(i)), vip(i, 1)) // member 2 was removed meanwhile
	}
	r.readBack()
	for r.table.Dirty() {
		p := r.table.Plan(3)
		mods := p.Atomic()
		for i := range mods {
			require.Nil(t, r.sw.Apply(mods[i].Message), "%s", &mods[i])
			r.table.Applied(&mods[i])
		}
	}
	require.Len(t, r.sw.Groups(), 16)
}

func TestPlanNeverSplitsAPart(t *testing.T) {
	r := newRig(t, false)
	for i := 1; i <= 20; i++ {
		r.set(key(fmt.Sprint(i)), vip(i, 1, 2))
	}
	for r.table.Dirty() {
		p := r.table.Plan(5)
		require.Len(t, p.Parts, 2)
		require.Equal(t, 8, p.Len())
	}
}

// TestRandomParts plays random changes, losses, refusals and restarts against a
// dumb oracle: the switch must end up with the union of the parts.
func TestRandomParts(t *testing.T) {
	both(t, func(t *testing.T, phases bool) {
		for seed := range uint64(40) {
			random := rand.New(rand.NewPCG(seed, 7))
			r := newRig(t, phases)
			want := map[flowtable.PartKey]flowtable.Part{}
			part := func(i int) flowtable.Part {
				var members []int
				for m := 1; m < 9; m++ {
					if random.IntN(2) == 0 {
						members = append(members, m)
					}
				}
				if len(members) == 0 {
					return flowtable.Part{Flows: []flowtable.Flow{flow(i)}}
				}
				return vip(i, members...)
			}
			for range 60 {
				i := 1 + random.IntN(6)
				k := key(fmt.Sprint(i))
				switch random.IntN(8) {
				case 0:
					delete(want, k)
					r.table.DeletePart(k)
				case 1: // an entry is lost
					if fs := r.sw.Flows(); len(fs) > 0 {
						f := fs[random.IntN(len(fs))]
						require.Nil(t, r.sw.Apply(&ofproto.FlowMod{Table: f.Table, Priority: f.Priority, Match: f.Match, Command: ofproto.FlowDeleteStrict, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}))
						r.table.FlowRemoved(f.Table, f.Priority, f.Match, f.Cookie)
					}
				case 2: // the switch loses everything while nobody looks
					require.Nil(t, r.sw.Apply(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: ofproto.GroupAll}))
					r.readBack()
				case 3: // restart
					r.table = flowtable.New(pipeline)
					for k, p := range want {
						r.set(k, p)
					}
					r.readBack()
				case 4: // half a plan goes wrong
					p := r.table.Plan(4)
					mods := p.Atomic()
					if phases {
						mods = slices.Concat(p.Phases()...)
					}
					for j := range mods {
						if !phases || random.IntN(3) == 0 || r.sw.Apply(mods[j].Message) != nil {
							r.table.Failed(&mods[j])
						} else {
							r.table.Applied(&mods[j])
						}
					}
					for _, k := range p.Parts {
						r.table.MarkDirty(k)
					}
				case 5:
					r.sync()
				default:
					want[k] = part(i)
					r.set(k, want[k])
				}
			}
			r.sync()
			oracle := newRig(t, false)
			for k, p := range want {
				oracle.set(k, p)
			}
			oracle.sync()
			require.Equal(t, oracle.contents(), r.contents(), "seed %d", seed)
			flows, groups := r.table.Counts()
			require.Len(t, r.contents(), flows+groups)
			require.Zero(t, r.sync())
		}
	})
}

func TestForeignEntriesAreLeftAlone(t *testing.T) {
	r := newRig(t, false)
	foreign := &ofproto.FlowMod{Priority: 1, Match: dstMatch(1), Cookie: 77, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}
	elsewhere := &ofproto.FlowMod{Table: 7, Priority: 9, Cookie: 78, OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}
	for _, m := range []ofproto.Message{foreign, elsewhere, &ofproto.GroupMod{Type: ofproto.GroupTypeAll, Group: 5}} {
		require.Nil(t, r.sw.Apply(m))
	}
	before := r.contents()
	r.set(key("in the way"), vip(1, 1))
	r.set(key("free"), vip(2, 1))
	r.readBack()
	require.Equal(t, 2, r.table.Foreign())
	p := r.table.Plan(100)
	require.Len(t, p.Blocked, 1)
	require.ErrorIs(t, p.Blocked[key("in the way")], flowtable.ErrForeign)
	mods := p.Atomic()
	for i := range mods {
		require.Equal(t, key("free"), mods[i].Part)
		require.Nil(t, r.sw.Apply(mods[i].Message))
		r.table.Applied(&mods[i])
	}
	require.Subset(t, r.contents(), before)

	// A strict delete of ours does not take what has replaced the entry.
	free := r.sw.Flows()[1]
	require.Equal(t, dstMatch(2), free.Match)
	require.Nil(t, r.sw.Apply(&ofproto.FlowMod{Priority: 1, Match: dstMatch(2), Cookie: 79}))
	r.table.DeletePart(key("free"))
	r.sync()
	require.Len(t, r.sw.Flows(), 3)

	// Once the entry is out of the way, the next read-back lets the part in.
	require.Nil(t, r.sw.Apply(&ofproto.FlowMod{Command: ofproto.FlowDelete, Cookie: 77, CookieMask: ^uint64(0), OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny}))
	r.readBack()
	r.sync()
	require.Len(t, r.sw.Flows(), 3)
}

func TestCookiesTellContentsApart(t *testing.T) {
	cookieOf := func(version uint8, app flowtable.AppID, f flowtable.Flow) uint64 {
		p := *pipeline
		p.Version = version
		table := flowtable.New(&p)
		part := flowtable.Part{Flows: []flowtable.Flow{f}, Groups: []flowtable.Group{group(1, actions(out(1))), group(2, actions(out(1)))}}
		require.NoError(t, table.SetPart(flowtable.PartKey{App: app, Name: "x"}, part))
		plan := table.Plan(10)
		return plan.SetFlows[0].Message.(*ofproto.FlowMod).Cookie
	}
	base := func() flowtable.Flow { return flow(1, to(1)) }
	seen := map[uint64]string{}
	note := func(what string, c uint64) {
		require.Empty(t, seen[c], "%s has the cookie of another", what)
		seen[c] = what
		require.True(t, flowtable.OwnsCookie(c))
	}
	note("base", cookieOf(1, appA, base()))
	require.Contains(t, seen, cookieOf(1, appA, base()), "the same content, the same cookie")
	note("version", cookieOf(2, appA, base()))
	note("app", cookieOf(1, appB, base()))
	for what, change := range map[string]func(*flowtable.Flow){
		"priority": func(f *flowtable.Flow) { f.Priority = 2 },
		"match":    func(f *flowtable.Flow) { f.Match = dstMatch(2) },
		"action":   func(f *flowtable.Flow) { *f = flow(1, to(2)) },
		"drop":     func(f *flowtable.Flow) { f.Instructions = nil },
		"table":    func(f *flowtable.Flow) { f.Table, f.Match = 1, nil },
	} {
		f := base()
		change(&f)
		note(what, cookieOf(1, appA, f))
	}
	require.Equal(t, appB, flowtable.CookieApp(cookieOf(1, appB, base())))
	for c := range maps.Keys(map[uint64]bool{0: true, 1: true, ^uint64(0): true}) {
		require.False(t, flowtable.OwnsCookie(c))
	}
}

func TestFlowRemoved(t *testing.T) {
	r := newRig(t, false)
	r.set(key("a"), vip(1, 1))
	r.sync()
	f := r.sw.Flows()[0]
	require.False(t, r.table.FlowRemoved(f.Table, f.Priority, f.Match, f.Cookie+1), "of an entry that was replaced")
	require.False(t, r.table.FlowRemoved(f.Table, 2, f.Match, f.Cookie))
	require.False(t, r.table.Dirty())
	require.True(t, r.table.FlowRemoved(f.Table, f.Priority, f.Match, f.Cookie))
	require.Equal(t, 1, r.sync())
	r.table.DeletePart(key("a"))
	require.False(t, r.table.FlowRemoved(f.Table, f.Priority, f.Match, f.Cookie), "nobody wants it any more")
	p := r.table.Plan(10)
	require.Empty(t, p.DeleteFlows, "it is gone already")
	require.Len(t, p.DeleteGroups, 2)
}

func TestFailedDeletionIsRetried(t *testing.T) {
	r := newRig(t, true)
	r.set(key("a"), vip(1, 1))
	r.sync()
	r.table.DeletePart(key("a"))
	p := r.table.Plan(10)
	mods := p.Atomic()
	require.Len(t, mods, 3)
	for i := range mods {
		r.table.Failed(&mods[i])
	}
	require.False(t, r.table.Dirty(), "when is up to the caller")
	r.table.MarkDirty(key("a"))
	require.Equal(t, 3, r.sync())
	require.Empty(t, r.contents())
}

func TestInvalidPartsChangeNothing(t *testing.T) {
	r := newRig(t, false)
	r.set(key("a"), vip(1, 1))
	r.sync()
	for want, p := range map[string]flowtable.Part{
		"outside our range":      {Groups: []flowtable.Group{{ID: 1, Buckets: group(1, nil).Buckets}}},
		"appears twice":          {Groups: []flowtable.Group{group(8, actions(out(1))), group(8, actions(out(1)))}},
		"has no bucket":          {Groups: []flowtable.Group{group(8)}},
		"belongs to part 3/a":    {Groups: []flowtable.Group{group(100, actions(out(1)))}},
		"priority=1 of another":  {Flows: []flowtable.Flow{flow(1)}},
		"not in the part":        {Flows: []flowtable.Flow{flow(2, to(100))}},
		"two flows":              {Flows: []flowtable.Flow{flow(2), flow(2, out(1))}},
		"table 5 is not":         {Flows: []flowtable.Flow{{Table: 5, Priority: 1}}},
		"declares no priority 7": {Flows: []flowtable.Flow{{Priority: 7}}},
		"does not match on":      {Flows: []flowtable.Flow{{Priority: 1, Match: ofproto.NewMatch(ofproto.EthSrc(ofproto.MAC{1}))}}},
		"does not go to table 1": {Flows: []flowtable.Flow{{Table: 1, Priority: 1, Instructions: []ofproto.Instruction{ofproto.GotoTable{Table: 1}}}}},
	} {
		if want == "priority=1 of another" {
			want = "belongs to part 3/a"
		}
		err := r.table.SetPart(key("bad"), p)
		require.ErrorIs(t, err, flowtable.ErrPart)
		require.ErrorContains(t, err, want)
	}
	require.ErrorIs(t, r.table.SetPart(key("a"), flowtable.Part{Groups: []flowtable.Group{group(8)}}), flowtable.ErrPart)
	require.False(t, r.table.Dirty())
	r.set(key("a"), vip(1, 1))
	require.Zero(t, r.sync(), "what was desired before still is")
}

// alter changes what the switch holds behind the table's back: the actions of the
// flow, under its cookie, and the group.
func (r *rig) alter() {
	f := r.sw.Flows()[0]
	drop := &ofproto.FlowMod{Table: f.Table, Priority: f.Priority, Match: f.Match, Command: ofproto.FlowModifyStrict}
	require.Nil(r.t, r.sw.Apply(drop))
	g := r.sw.Groups()[0]
	require.Nil(r.t, r.sw.Apply(&ofproto.GroupMod{Command: ofproto.GroupModify, Group: g.Group, Type: g.Type, Buckets: nil}))
}

func TestAlteredObjectsAreSetAgain(t *testing.T) {
	r := newRig(t, false)
	r.set(key("a"), vip(1, 1))
	r.sync()
	want := r.contents()
	r.alter()
	require.NotEqual(t, want, r.contents())
	r.readBack()
	require.Equal(t, 2, r.sync())
	require.Equal(t, want, r.contents())
}

// What was altered and is not desired any more goes too, and an entry that is not what
// its cookie says, such as one that tried the switch out.
func TestAlteredOrphansGo(t *testing.T) {
	r := newRig(t, false)
	r.set(key("a"), vip(1, 1))
	r.sync()
	r.alter()
	probe := &ofproto.FlowMod{Cookie: flowtable.ProbeCookie, Command: ofproto.FlowAdd, Match: ofproto.NewMatch(ofproto.EthType(0x800))}
	require.Nil(t, r.sw.Apply(probe))
	r.readBack()
	r.table.DeletePart(key("a"))
	r.sync()
	require.Empty(t, r.contents())
}

// A switch that writes an object in another way than it was told is not told for ever.
func TestSwitchThatWritesInItsOwnWayIsBelieved(t *testing.T) {
	r := newRig(t, false)
	r.set(key("a"), vip(1, 1))
	r.sync()
	sent := 0
	for range 20 {
		r.alter()
		r.readBack()
		sent += r.sync()
	}
	require.LessOrEqual(t, sent, 2*3)
}

func TestMarkdownNamesEveryTableAndRow(t *testing.T) {
	md := pipeline.Markdown(map[flowtable.AppID]string{appA: "alpha", appB: "beta"})
	for _, want := range []string{"## Table 0: first", "## Table 1: second", "| 2 | alpha |", "| 1 | beta |"} {
		require.Contains(t, md, want)
	}
}

// What a part desires is kept in another form, and comes out as it went in.
func TestDesiredIsWhatWasSet(t *testing.T) {
	shared := []ofproto.Instruction{ofproto.ApplyActions{Actions: actions(to(1))}, ofproto.GotoTable{Table: 1}}
	part := flowtable.Part{
		Flows: []flowtable.Flow{
			{Priority: 1, Match: dstMatch(1), Instructions: shared},
			{Priority: 1, Match: dstMatch(2)}, // drops
			{Priority: 1, Match: dstMatch(3), Instructions: shared[1:]},
			{Priority: 2, Instructions: shared[:1]},
			{Priority: 1, Match: dstMatch(4), Instructions: shared},
		},
		Groups: []flowtable.Group{group(1, actions(out(1)), actions(out(2), to(2))), group(2, actions(out(3)))},
	}
	table := flowtable.New(pipeline)
	require.NoError(t, table.SetPart(key("other"), flowtable.Part{Flows: []flowtable.Flow{flow(9, out(1))}}))
	require.NoError(t, table.SetPart(key("this"), part))
	flows, groups := table.Desired()
	got := flowtable.Part{}
	for _, f := range flows {
		if f.Part == key("this") {
			got.Flows = append(got.Flows, f.Flow)
		} else {
			require.Equal(t, flow(9, out(1)), f.Flow)
		}
	}
	for _, g := range groups {
		require.Equal(t, key("this"), g.Part)
		got.Groups = append(got.Groups, g.Group)
	}
	text := func(p flowtable.Part) (all []string) {
		for _, f := range p.Flows {
			all = append(all, fmt.Sprintf("%d %d %s %v", f.Table, f.Priority, f.Match, f.Instructions))
		}
		for _, g := range p.Groups {
			all = append(all, fmt.Sprintf("%x %s %v", g.ID, g.Type, g.Buckets))
		}
		return all
	}
	require.ElementsMatch(t, text(part), text(got))

	// So is the switch when it gets the messages.
	r := newRig(t, false)
	r.set(key("this"), part)
	r.sync()
	var held []string
	for _, f := range r.sw.Flows() {
		held = append(held, fmt.Sprintf("%d %d %s %v", f.Table, f.Priority, f.Match, f.Instructions))
	}
	for _, g := range r.sw.Groups() {
		held = append(held, fmt.Sprintf("%x %s %v", g.Group, g.Type, g.Buckets))
	}
	require.ElementsMatch(t, text(part), held)
}
