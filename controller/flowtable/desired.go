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
	for _, f := range t.flows {
		if f.part != nil {
			flows = append(flows, DesiredFlow{f.part.key, f.desired(), f.cookie})
		}
	}
	for _, g := range t.groups {
		if g.part != nil {
			groups = append(groups, DesiredGroup{g.part.key, Group{ID: g.id, Type: g.desc.kind(), Buckets: g.desc.buckets()}})
		}
	}
	return flows, groups
}

// Altered says whether an entry that a switch reported has a cookie of ours and a
// content that the cookie does not stand for: somebody else has changed it.
func Altered(f ofproto.FlowStats) bool {
	if !OwnsCookie(f.Cookie) {
		return false
	}
	return contentOf(f, f.Match.Canonical()) != f.Cookie
}

// SameGroup says whether two group entries do the same to every packet.
func SameGroup(a, b Group) bool {
	return a.ID == b.ID && appendDescription(nil, a.Type, a.Buckets).equal(appendDescription(nil, b.Type, b.Buckets))
}

// CookiesOf returns the cookie and the mask that all flows of an app have, of any
// pipeline version.
func CookiesOf(app AppID) (cookie, mask uint64) {
	return cookieMagic | uint64(app&0xf)<<40, cookieMagicMask | 0xf<<40
}
