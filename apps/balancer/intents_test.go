package balancer

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
)

// bench is a store with intents in it and the changes they told.
type bench struct {
	*Intents
	store   *store.Store
	dir     string
	now     time.Time
	changes []Change
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{dir: t.TempDir(), now: time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)}
	b.open(t)
	t.Cleanup(func() { b.store.Close() })
	return b
}

func (b *bench) open(t testing.TB) {
	t.Helper()
	var err error
	b.store, err = store.Open(b.dir, store.Options{})
	require.NoError(t, err)
	b.Intents = NewIntents(b.store, func() time.Time { return b.now }, func(c Change) { b.changes = append(b.changes, c) })
}

// doc returns a document in a few words: "10.0.0.100 tcp:80=10.0.0.2:80,10.0.0.3:80*2 udp:53=".
func doc(t testing.TB, name, words string) VIP {
	t.Helper()
	address, rest, _ := strings.Cut(words, " ")
	var listeners []string
	for _, l := range strings.Fields(rest) {
		key, members, _ := strings.Cut(l, "=")
		protocol, port, _ := strings.Cut(key, ":")
		var list []string
		for _, m := range strings.FieldsFunc(members, func(r rune) bool { return r == ',' }) {
			m, weight, ok := strings.Cut(m, "*")
			if !ok {
				weight = "1"
			}
			a, p, _ := strings.Cut(m, ":")
			list = append(list, fmt.Sprintf(`{"address":%q,"port":%s,"weight":%s}`, a, p, weight))
		}
		listeners = append(listeners, fmt.Sprintf(`{"protocol":%q,"port":%s,"pool":{"members":[%s]}}`, protocol, port, strings.Join(list, ",")))
	}
	return decode(t, name, fmt.Sprintf(`{"address":%q,"listeners":[%s]}`, address, strings.Join(listeners, ",")))
}

func (b *bench) put(t testing.TB, name, words string) Record {
	t.Helper()
	rec, _, err := b.Put(context.Background(), doc(t, name, words), Condition{})
	require.NoError(t, err)
	return rec
}

func (b *bench) bucket(t testing.TB, name string) map[string]string {
	t.Helper()
	m := map[string]string{}
	require.NoError(t, b.store.View(func(tx *store.Tx) error {
		tx.Range(name, "", "", func(k string, v []byte) bool {
			m[k] = string(v)
			return true
		})
		return nil
	}))
	return m
}

// check compares the indexes and allocations in the store with what the records
// say they should be.
func (b *bench) check(t testing.TB) []Record {
	t.Helper()
	recs, err := b.All(context.Background())
	require.NoError(t, err)
	groups, macs, addresses, members := map[string]string{}, map[string]string{}, map[string]string{}, map[string]string{}
	group := func(g ofproto.GroupID, name string) {
		require.EqualValues(t, 0x46, g>>24)
		key := fmt.Sprintf("%06x", uint32(g)&0xffffff)
		require.NotContains(t, groups, key, "a group of two")
		groups[key] = name
	}
	for _, rec := range recs {
		v := rec.VIP
		macs[strings.ReplaceAll(v.MAC.String()[9:], ":", "")] = v.Address.String()
		entry := v.MAC.String()
		require.Equal(t, len(v.Listeners), len(rec.Listeners))
		for i, l := range v.Listeners {
			entry += " " + l.Key().String()
			lr := rec.Listeners[i]
			require.Equal(t, l.Key(), lr.Key)
			group(lr.Group, v.Name)
			var slotMembers []SlotMember
			require.Equal(t, len(l.Pool.Members), len(lr.Members))
			for j, m := range l.Pool.Members {
				mr := lr.Members[j]
				require.Equal(t, m.Key(), mr.Key)
				group(mr.Group, v.Name)
				for _, s := range slotMembers {
					require.NotEqual(t, s.ID, mr.Index)
				}
				slotMembers = append(slotMembers, SlotMember{ID: mr.Index, Weight: m.SlotWeight(), Backup: m.Backup})
				members[fmt.Sprintf("%s/%d/%s/%s/%d", m.Address, m.Port, l.Protocol, v.Name, l.Port)] = ""
			}
			require.Equal(t, wantQuotas(lr.Slots.Home, slotMembers), counts(lr.Slots.Home))
		}
		addresses[v.Address.String()+"/"+v.Name] = entry
	}
	require.Equal(t, groups, b.bucket(t, groupBucket))
	require.Equal(t, macs, b.bucket(t, macBucket))
	require.Equal(t, addresses, b.bucket(t, addressBucket))
	require.Equal(t, members, b.bucket(t, memberBucket))
	return recs
}

func TestPutGetDelete(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	_, err := b.Get(ctx, "web")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, b.Delete(ctx, "web", Condition{}), ErrNotFound)

	v := decode(t, "web", example)
	rec, created, err := b.Put(ctx, v, Condition{})
	require.NoError(t, err)
	require.True(t, created)
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, rec.VIP.ID)
	require.Equal(t, []byte{0x02, 0x46, 0x4c}, rec.VIP.MAC[:3])
	require.NotEqual(t, "02:46:4c:00:00:01", rec.VIP.MAC.String())
	require.EqualValues(t, 1, rec.VIP.Generation)
	require.Equal(t, fmt.Sprintf(`"1-%s-%d"`, rec.VIP.ID[:8], b.now.UnixMilli()), rec.VIP.ETag())
	require.Equal(t, b.now, rec.VIP.CreatedAt)
	require.Equal(t, v, document(rec.VIP))
	got, err := b.Get(ctx, "web")
	require.NoError(t, err)
	require.Equal(t, rec, got)
	require.Len(t, b.changes, 1)
	require.Equal(t, Change{"web", &rec, 1}, b.changes[0])
	b.check(t)

	// The same again, with all that the server gives: nothing happens.
	b.now = b.now.Add(time.Minute)
	again := got.VIP
	again.Status, again.Generation, again.ID = &VIPStatus{}, 77, "x"
	same, created, err := b.Put(ctx, again, Condition{})
	require.NoError(t, err)
	require.False(t, created)
	require.Equal(t, rec, same)
	require.Len(t, b.changes, 1)

	again.Enabled = false
	next, created, err := b.Put(ctx, again, Condition{})
	require.NoError(t, err)
	require.False(t, created)
	require.EqualValues(t, 2, next.VIP.Generation)
	require.Equal(t, rec.VIP.ID, next.VIP.ID)
	require.Equal(t, rec.VIP.CreatedAt, next.VIP.CreatedAt)
	require.Equal(t, b.now, next.VIP.UpdatedAt)
	require.Nil(t, next.VIP.Status)
	require.Equal(t, rec.Listeners, next.Listeners)

	require.NoError(t, b.Delete(ctx, "web", Condition{}))
	require.Len(t, b.changes, 3)
	require.Equal(t, Change{"web", nil, 3}, b.changes[2])
	require.Empty(t, b.check(t))

	reborn, created, err := b.Put(ctx, v, Condition{})
	require.NoError(t, err)
	require.True(t, created)
	require.NotEqual(t, rec.VIP.ID, reborn.VIP.ID)
	require.NotEqual(t, rec.VIP.MAC, reborn.VIP.MAC, "numbers are not used again at once")
	require.NotEqual(t, rec.Listeners[0].Group, reborn.Listeners[0].Group)
	require.Equal(t, rec.Listeners[0].Slots, reborn.Listeners[0].Slots, "the table depends on the document alone")
}

func TestRestartKeepsRecords(t *testing.T) {
	b := newBench(t)
	for i := range 20 {
		b.put(t, fmt.Sprintf("vip-%d", i), fmt.Sprintf("10.0.0.%d tcp:80=10.0.1.%d:80,10.0.2.%d:80*3", i+1, i, i))
	}
	before := b.check(t)
	require.NoError(t, b.store.Close())
	b.open(t)
	require.Equal(t, before, b.check(t))
}

func TestRefusedPutsChangeNothing(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.put(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80")
	before := b.check(t)
	for _, c := range []struct {
		what, name, words string
		field             string
	}{
		{"address, protocol and port of another", "b", "10.0.0.1 udp:80= tcp:80=", "listeners[1].port"},
		{"member of another listener", "b", "10.0.0.2 tcp:80=10.0.1.9:80,10.0.1.1:80", "listeners[0].pool.members[1]"},
		{"member is another VIP", "b", "10.0.0.2 tcp:80=10.0.0.1:80", "listeners[0].pool.members[0].address"},
		{"address is a member of another", "b", "10.0.1.1", "address"},
	} {
		_, _, err := b.Put(ctx, doc(t, c.name, c.words), Condition{})
		var conflict *ConflictError
		require.ErrorAs(t, err, &conflict, c.what)
		require.Equal(t, c.field, conflict.Field)
		require.Contains(t, conflict.With, `vip "a"`)
	}
	for _, spoil := range []func(*VIP){
		func(v *VIP) { v.Listeners[0].Port = 0 },
		func(v *VIP) { v.Mode = "direct" },
		func(v *VIP) { v.Name = "../a" },
		func(v *VIP) { v.Listeners = append(v.Listeners, v.Listeners[0]) },
		func(v *VIP) { v.Listeners[0].Pool.Members[0].Weight = -1 },
		func(v *VIP) { v.AllowedCIDRs = []netip.Prefix{{}} },
	} {
		v := doc(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80")
		spoil(&v)
		_, _, err := b.Put(ctx, v, Condition{})
		fields(t, err)
	}
	require.Equal(t, before, b.check(t))
	require.Len(t, b.changes, 1)

	// Ranges, VLANs, IPv6.
	put := func(name, body string) error {
		_, _, err := b.Put(ctx, decode(t, name, body), Condition{})
		return err
	}
	with := func(address string, more string, listener, members string) string {
		return fmt.Sprintf(`{"address":%q%s,"listeners":[{"protocol":"tcp",%s,"pool":{"members":[%s]}}]}`, address, more, listener, members)
	}
	require.NoError(t, put("range", with("10.0.7.1", "", `"port":80,"port_end":90`, `{"address":"10.0.7.9","port":80}`)))
	require.NoError(t, put("tagged", with("10.0.8.1", `,"vlan":7`, `"port":80`, `{"address":"10.0.8.9","port":80}`)))
	require.NoError(t, put("six", with("2001:db8::1", "", `"port":80`, `{"address":"2001:db8::9","port":80}`)))
	for _, c := range []struct{ body, field, with string }{
		{with("10.0.7.1", "", `"port":90`, ``), "listeners[0].port", `listener tcp:80-90 of vip "range"`},
		{with("10.0.7.1", "", `"port":1,"port_end":65535`, ``), "listeners[0].port", `listener tcp:80-90 of vip "range"`},
		{with("10.0.7.2", "", `"port":1`, `{"address":"10.0.7.9","port":90}`), "listeners[0].pool.members[0]", `vip "range"`},
		{with("10.0.8.1", "", `"port":81`, ``), "vlan", `vip "tagged", which has that address in VLAN 7`},
		{with("10.0.8.2", `,"vlan":8`, `"port":81`, `{"address":"10.0.8.9","port":1}`), "listeners[0].pool.members[0].address", `vip "tagged"`},
		{with("2001:db8::2", "", `"port":81`, `{"address":"2001:db8:0::9","port":80}`), "listeners[0].pool.members[0]", `vip "six": in nat mode [2001:db8::9]:80`},
		{with("2001:db8::9", "", `"port":80`, ``), "address", `member [2001:db8::9]:80 of vip "six"`},
		{with("2001:db8:0:0::1", "", `"port":80`, ``), "listeners[0].port", `vip "six"`},
	} {
		var conflict *ConflictError
		require.ErrorAs(t, put("b", c.body), &conflict, c.body)
		require.Equal(t, c.field, conflict.Field)
		require.Contains(t, conflict.With, c.with)
	}
	require.NoError(t, put("b", with("10.0.7.1", "", `"port":91`, `{"address":"10.0.7.9","port":91}`)))
	for _, name := range []string{"b", "range", "tagged", "six"} {
		require.NoError(t, b.Delete(ctx, name, Condition{}))
	}
	b.check(t)

	// What is no conflict.
	b.put(t, "c", "10.0.0.1 tcp:81= udp:80=10.0.1.1:80")
	b.put(t, "d", "10.0.0.3 tcp:80=10.0.1.1:81")
	b.check(t)
}

// A VIP may take over what it gives up itself, and another one what was deleted.
func TestConflictsEnd(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	b.put(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80 tcp:81=10.0.1.2:80")
	b.put(t, "a", "10.0.0.1 tcp:80=10.0.1.2:80 tcp:81=10.0.1.1:80")
	b.put(t, "a", "10.0.1.1 tcp:80=10.0.1.2:80")
	b.put(t, "b", "10.0.0.1 tcp:80=10.0.1.3:80")
	_, _, err := b.Put(ctx, doc(t, "b", "10.0.0.1 tcp:80=10.0.1.1:80"), Condition{})
	require.ErrorContains(t, err, `vip "a"`)
	require.NoError(t, b.Delete(ctx, "a", Condition{}))
	b.put(t, "b", "10.0.0.1 tcp:80=10.0.1.1:80")
	b.check(t)
}

func TestMACBelongsToTheAddress(t *testing.T) {
	b := newBench(t)
	first := b.put(t, "a", "10.0.0.1 tcp:80=")
	require.Equal(t, first.VIP.MAC, b.put(t, "b", "10.0.0.1 tcp:81=").VIP.MAC)
	require.NotEqual(t, first.VIP.MAC, b.put(t, "c", "10.0.0.2 tcp:80=").VIP.MAC)
	b.check(t)
	require.NotEqual(t, first.VIP.MAC, b.put(t, "a", "10.0.0.3 tcp:80=").VIP.MAC)
	b.check(t)
	require.NoError(t, b.Delete(context.Background(), "b", Condition{}))
	b.check(t)

	other := newBench(t)
	require.NotEqual(t, first.VIP.MAC, other.put(t, "a", "10.0.0.1 tcp:80=").VIP.MAC, "two controllers in one network")
}

func TestConditions(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	put := func(words string, c Condition) error {
		_, _, err := b.Put(ctx, doc(t, "a", words), c)
		return err
	}
	tag := func(generation uint64) string {
		rec, err := b.Get(ctx, "a")
		require.NoError(t, err)
		rec.VIP.Generation = generation
		return rec.VIP.ETag()
	}
	require.ErrorIs(t, put("10.0.0.1", Condition{IfMatch: `"1"`}), ErrPrecondition)
	require.ErrorIs(t, put("10.0.0.1", Condition{IfMatch: "*"}), ErrPrecondition)
	require.NoError(t, put("10.0.0.1", Condition{IfNoneMatch: true}))
	require.ErrorIs(t, put("10.0.0.1", Condition{IfNoneMatch: true}), ErrPrecondition)
	require.ErrorIs(t, put("10.0.0.2", Condition{IfMatch: tag(2)}), ErrPrecondition)
	require.ErrorIs(t, put("10.0.0.2", Condition{IfMatch: strings.Trim(tag(1), `"`)}), ErrPrecondition)
	require.ErrorIs(t, put("10.0.0.2", Condition{IfMatch: "W/" + tag(1)}), ErrPrecondition)
	require.NoError(t, put("10.0.0.2", Condition{IfMatch: tag(1)}))
	require.NoError(t, put("10.0.0.3", Condition{IfMatch: tag(1) + ", " + tag(2)}))
	require.NoError(t, put("10.0.0.4", Condition{IfMatch: `*`}))
	require.ErrorIs(t, b.Delete(ctx, "a", Condition{IfMatch: tag(1)}), ErrPrecondition)
	last := tag(4)
	require.NoError(t, b.Delete(ctx, "a", Condition{IfMatch: last}))
	require.ErrorIs(t, b.Delete(ctx, "a", Condition{IfMatch: last}), ErrNotFound)

	// Who read the first VIP of a name does not overwrite the second one.
	for _, words := range []string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"} {
		require.NoError(t, put(words, Condition{}))
	}
	require.NotEqual(t, last, tag(4))
	require.ErrorIs(t, put("10.0.0.5", Condition{IfMatch: last}), ErrPrecondition)
	require.ErrorIs(t, b.Delete(ctx, "a", Condition{IfMatch: last}), ErrPrecondition)
}

func TestMembers(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	http := ListenerKey{TCP, 80}
	member := func(s string, weight int) Member {
		k := netip.MustParseAddrPort(s)
		return Member{Address: k.Addr(), Port: k.Port(), Weight: weight, AdminState: AdminUp}
	}
	_, _, err := b.PutMember(ctx, "a", http, member("10.0.1.1:80", 1), Condition{})
	require.ErrorIs(t, err, ErrNotFound)
	b.put(t, "a", "10.0.0.1 udp:53= tcp:80=10.0.1.1:80")
	b.put(t, "b", "10.0.0.2 tcp:80=10.0.1.9:80")
	_, _, err = b.PutMember(ctx, "a", ListenerKey{TCP, 81}, member("10.0.1.1:80", 1), Condition{})
	require.ErrorIs(t, err, ErrNotFound)

	first, err := b.Get(ctx, "a")
	require.NoError(t, err)
	rec, created, err := b.PutMember(ctx, "a", http, member("10.0.1.2:80", 1), Condition{IfMatch: first.VIP.ETag(), IfNoneMatch: true})
	require.NoError(t, err)
	require.True(t, created)
	require.EqualValues(t, 2, rec.VIP.Generation)
	require.Equal(t, map[uint16]int{0: 8, 1: 8}, counts(rec.Listeners[1].Slots.Home))

	_, _, err = b.PutMember(ctx, "a", http, member("10.0.1.2:80", 2), Condition{IfNoneMatch: true})
	require.ErrorIs(t, err, ErrPrecondition)
	_, _, err = b.PutMember(ctx, "a", http, member("10.0.1.2:80", 2), Condition{IfMatch: first.VIP.ETag()})
	require.ErrorIs(t, err, ErrPrecondition)
	rec, created, err = b.PutMember(ctx, "a", http, member("10.0.1.2:80", 1), Condition{})
	require.NoError(t, err)
	require.False(t, created)
	require.EqualValues(t, 2, rec.VIP.Generation, "the same again")

	drained := member("10.0.1.2:80", 1)
	drained.AdminState = AdminDrain
	rec, _, err = b.PutMember(ctx, "a", http, drained, Condition{})
	require.NoError(t, err)
	require.Equal(t, map[uint16]int{0: 16}, counts(rec.Listeners[1].Slots.Home))
	b.check(t)

	// Fields are those of the member's document.
	for _, c := range []struct {
		member Member
		field  string
		kind   int
	}{
		{member("10.0.1.2:80", 300), "weight", invalid},
		{member("10.0.0.1:80", 1), "address", invalid},
		{member("[2001:db8::1]:80", 1), "address", invalid},
		{Member{Address: drained.Address, Port: 1, AdminState: "x"}, "admin_state", invalid},
		{member("10.0.0.2:80", 1), "address", conflict},
		{member("10.0.1.9:80", 1), "address", conflict},
	} {
		_, _, err := b.PutMember(ctx, "a", http, c.member, Condition{})
		names, kind := fields(t, err)
		require.Equal(t, []string{c.field}, names)
		require.Equal(t, c.kind, kind)
	}

	require.ErrorIs(t, b.DeleteMember(ctx, "a", http, netip.MustParseAddrPort("10.0.1.3:80"), Condition{}), ErrNotFound)
	require.ErrorIs(t, b.DeleteMember(ctx, "a", http, drained.Key(), Condition{IfMatch: first.VIP.ETag()}), ErrPrecondition)
	require.NoError(t, b.DeleteMember(ctx, "a", http, drained.Key(), Condition{IfMatch: rec.VIP.ETag()}))
	rec, _, err = b.PutMember(ctx, "a", http, drained, Condition{})
	require.NoError(t, err)
	require.EqualValues(t, 2, rec.Listeners[1].Members[1].Index, "an index just given up is not used again")
	require.EqualValues(t, 5, rec.VIP.Generation)
	b.check(t)
}

// Members in another order make another document, and the same slots.
func TestOrderOfMembers(t *testing.T) {
	a, b := newBench(t), newBench(t)
	x := a.put(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80,10.0.1.2:80*2,10.0.1.3:80")
	y := b.put(t, "a", "10.0.0.1 tcp:80=10.0.1.3:80,10.0.1.1:80,10.0.1.2:80*2")
	require.Equal(t, x.Listeners[0].Slots, y.Listeners[0].Slots)
	owner := func(r Record) map[MemberKey]uint16 {
		m := map[MemberKey]uint16{}
		for _, k := range r.Listeners[0].Members {
			m[k.Key] = k.Index
		}
		return m
	}
	require.Equal(t, owner(x), owner(y))
	z := a.put(t, "a", "10.0.0.1 tcp:80=10.0.1.3:80,10.0.1.1:80,10.0.1.2:80*2")
	require.EqualValues(t, 2, z.VIP.Generation)
	require.Equal(t, x.Listeners[0].Slots, z.Listeners[0].Slots)
	require.Equal(t, owner(x), owner(z))
}

func TestList(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	recs, next, err := b.List(ctx, "", 10)
	require.NoError(t, err)
	require.Empty(t, recs)
	require.Empty(t, next)
	for i := range 5 {
		b.put(t, fmt.Sprintf("vip-%d", i), fmt.Sprintf("10.0.0.%d", i+1))
	}
	var names []string
	for after, pages := "", 0; pages == 0 || after != ""; pages++ {
		require.Less(t, pages, 4)
		recs, next, err := b.List(ctx, after, 2)
		require.NoError(t, err)
		require.LessOrEqual(t, len(recs), 2)
		for _, r := range recs {
			names = append(names, r.VIP.Name)
		}
		after = next
	}
	require.Equal(t, []string{"vip-0", "vip-1", "vip-2", "vip-3", "vip-4"}, names)
	recs, next, err = b.List(ctx, "vip-2", 2)
	require.NoError(t, err)
	require.Len(t, recs, 2)
	require.Empty(t, next, "a page that ends with the last one is the last")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	_, _, err = b.List(ended, "", 1)
	require.ErrorIs(t, err, context.Canceled)
}

func TestSaveOwners(t *testing.T) {
	b := newBench(t)
	ctx := context.Background()
	http := ListenerKey{TCP, 80}
	rec := b.put(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80,10.0.1.2:80")
	home := rec.Listeners[0].Slots.Home
	lent := Spread(home, home, func(id uint16) bool { return id == 1 })
	save := func(name string, generation uint64, owners []uint16) []uint16 {
		require.NoError(t, b.SaveOwners(ctx, name, generation, map[ListenerKey][]uint16{http: owners}))
		rec, err := b.Get(ctx, "a")
		require.NoError(t, err)
		return rec.Listeners[0].Slots.Owner
	}
	require.Equal(t, home, save("b", 1, lent), "no such VIP")
	require.Equal(t, home, save("a", 2, lent), "of another generation")
	require.Equal(t, home, save("a", 1, lent[:8]), "of another length")
	require.Equal(t, lent, save("a", 1, lent))
	require.Len(t, b.changes, 1, "no change of the VIP")
	rec = b.put(t, "a", "10.0.0.1 tcp:80=10.0.1.1:80,10.0.1.2:80 tcp:81=")
	require.Equal(t, lent, rec.Listeners[0].Slots.Owner, "loans outlast a change elsewhere")
}

// Many random writes, right and wrong: each is accepted exactly if no
// other document is in its way, and the indexes always say what the records say.
func TestRandomWrites(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(4, 4))
	held := map[string]VIP{}
	// Addresses are few, so that conflicts are many.
	address := func() string { return fmt.Sprintf("10.0.0.%d", 1+rng.IntN(12)) }
	accepted, refused := 0, 0
	for i := range 1500 {
		name := string(rune('a' + rng.IntN(5)))
		if rng.IntN(6) == 0 {
			err := b.Delete(ctx, name, Condition{})
			if _, ok := held[name]; ok {
				require.NoError(t, err)
			} else {
				require.ErrorIs(t, err, ErrNotFound)
			}
			delete(held, name)
			continue
		}
		v := VIP{Name: name, Address: netip.MustParseAddr(address()), Mode: ModeNAT, OnEmpty: OnEmptyDrop, Enabled: true}
		for range rng.IntN(3) {
			l := Listener{Protocol: []Protocol{TCP, UDP}[rng.IntN(2)], Port: uint16(80 + rng.IntN(3)), Pool: Pool{Persistence: PersistenceNone}}
			for range rng.IntN(3) {
				k := netip.MustParseAddrPort(address() + ":80")
				l.Pool.Members = append(l.Pool.Members, Member{Address: k.Addr(), Port: 80, Weight: rng.IntN(3), AdminState: AdminUp})
			}
			v.Listeners = append(v.Listeners, l)
		}
		fine := validate(v) == nil
		for other, o := range held {
			fine = fine && (other == name || together(v, o) && together(o, v))
		}
		_, created, err := b.Put(ctx, v, Condition{})
		require.Equal(t, fine, err == nil, "%+v beside %+v: %v", v, held, err)
		if err == nil {
			_, old := held[name]
			require.Equal(t, !old, created)
			held[name] = v
			accepted++
		} else {
			fields(t, err)
			refused++
		}
		if i%50 == 0 {
			require.Len(t, b.check(t), len(held))
		}
	}
	require.Greater(t, accepted, 100)
	require.Greater(t, refused, 100)
	for i, c := range b.changes[1:] {
		require.Greater(t, c.Revision, b.changes[i].Revision)
	}
	for _, name := range slices.Sorted(maps.Keys(held)) {
		require.NoError(t, b.Delete(ctx, name, Condition{}))
	}
	require.Empty(t, b.check(t))
}

// together says whether v has nothing that o has.
func together(v, o VIP) bool {
	for _, l := range v.Listeners {
		if v.Address == o.Address && o.Listener(l.Key()) >= 0 {
			return false
		}
		for _, m := range l.Pool.Members {
			if m.Address == o.Address {
				return false
			}
			for _, ol := range o.Listeners {
				if ol.Protocol == l.Protocol && ol.Pool.Member(m.Key()) >= 0 {
					return false
				}
			}
		}
	}
	return true
}

// Numbers are found again once the counter has gone all the way round.
func TestNumbersComeRound(t *testing.T) {
	b := newBench(t)
	// The counters are the store's own: wind them by hand.
	require.NoError(t, b.store.Update(context.Background(), func(tx *store.Tx) error {
		for i := range 10 {
			n, err := allocate(tx, "test", "x", numberMask-4, 3)
			require.NoError(t, err)
			want := uint64(numberMask - 3 + i)
			if i >= 4 {
				want = uint64(i - 4 + 3)
			}
			require.Equal(t, want, n)
		}
		require.NoError(t, tx.Put("test", numberKey(9), []byte("y")))
		n, err := allocate(tx, "test", "x", numberMask-4, 3)
		require.NoError(t, err)
		require.EqualValues(t, 10, n)
		return nil
	}))
}

func TestConcurrentPuts(t *testing.T) {
	b := newBench(t)
	var wg sync.WaitGroup
	var won atomic.Int32
	for c := range 16 {
		wg.Go(func() {
			for i := range 10 {
				_, _, err := b.Put(context.Background(), doc(t, fmt.Sprintf("vip-%d", c), fmt.Sprintf("10.0.%d.%d tcp:80=10.1.%d.%d:80", c, i+1, c, i)), Condition{})
				if err != nil {
					t.Error(err)
				}
			}
			// All want the same address: one gets it.
			_, _, err := b.Put(context.Background(), doc(t, fmt.Sprintf("vip-%d", c), "10.9.9.9 tcp:80="), Condition{})
			var conflict *ConflictError
			if err == nil {
				won.Add(1)
			} else if !errors.As(err, &conflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
	require.Len(t, b.check(t), 16)
	require.Len(t, b.changes, 161)
	for i, c := range b.changes {
		require.EqualValues(t, i+1, c.Revision)
	}
}

// BenchmarkPut measures changes of VIPs of ten members, each waited for until it
// is durable.
func BenchmarkPut(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run("clients="+strconv.Itoa(clients), func(b *testing.B) {
			s, err := store.Open(b.TempDir(), store.Options{})
			require.NoError(b, err)
			defer s.Close()
			in := NewIntents(s, time.Now, func(Change) {})
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						v := VIP{Name: fmt.Sprintf("vip-%d", i%1000), Mode: ModeNAT, OnEmpty: OnEmptyDrop, Enabled: true,
							Address: netip.AddrFrom4([4]byte{10, 0, byte(i % 1000 >> 8), byte(i % 1000)})}
						l := Listener{Protocol: TCP, Port: 80, Pool: Pool{Persistence: PersistenceNone}}
						for m := range 10 {
							l.Pool.Members = append(l.Pool.Members, Member{
								Address: netip.AddrFrom4([4]byte{10, 1 + byte(m), byte(i % 1000 >> 8), byte(i % 1000)}),
								Port:    80, Weight: 1 + int(i/1000%2), AdminState: AdminUp})
						}
						v.Listeners = []Listener{l}
						if _, _, err := in.Put(context.Background(), v, Condition{}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "puts/s")
		})
	}
}
