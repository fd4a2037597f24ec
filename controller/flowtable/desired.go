package flowtable

import "github.com/fairlead/fairlead/ofproto"

// DesiredFlow is a flow that a part desires, under the cookie that it is installed
// with.
type DesiredFlow struct {
	Part   PartKey
	Flow   Flow
	Cookie uint64
}

// DesiredGroup is a group that a part desires.
type DesiredGroup struct {
	Part  PartKey
	Group Group
}

// Desired returns all that the parts desire, in no order. Matches, instructions and
// buckets are shared: nobody may write to them.
func (t *Table) Desired() (flows []DesiredFlow, groups []DesiredGroup) {
	flows, groups = make([]DesiredFlow, 0, len(t.flows)), make([]DesiredGroup, 0, len(t.groups))
	for _, w := range t.flows {
		flows = append(flows, DesiredFlow{w.part, w.flow, w.cookie})
	}
	for _, w := range t.groups {
		groups = append(groups, DesiredGroup{w.part, w.group})
	}
	return flows, groups
}

// Altered says whether an entry that a switch reported has a cookie of ours and a
// content that the cookie does not stand for: somebody else has changed it.
func Altered(f ofproto.FlowStats) bool {
	if !OwnsCookie(f.Cookie) {
		return false
	}
	k := FlowKey{Table: f.Table, Priority: f.Priority, Match: string(f.Match.Canonical())}
	return cookieOf(uint8(f.Cookie>>44&0xf), CookieApp(f.Cookie), k, f.RawInstructions) != f.Cookie
}

// SameGroup says whether two group entries do the same to every packet.
func SameGroup(a, b Group) bool {
	return a.ID == b.ID && describe(a.Type, a.Buckets) == describe(b.Type, b.Buckets)
}
