// Package flowtable turns what a switch should hold into the messages that make
// it so. It is pure: no clock, no socket, no goroutine.
//
// The desired state of a switch is a set of parts: one part a VIP, a host, the
// base of an app. A part is a handful of flows and the groups they use. Table
// keeps the desired parts beside what the switch is known to have installed;
// Plan is the ordered difference. Flows are told apart by their cookie, which is
// a hash of their content, so that reading a switch back costs a set difference
// and a controller that restarts sends nothing when nothing changed. Groups have
// no cookie in OpenFlow 1.3 and are compared by id and description.
package flowtable

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// AppID numbers the app that owns a part. It travels in the cookie of every flow
// of the part, so it must never change its meaning.
type AppID uint8

// PartKey names one part of a switch's desired state: the app that compiles it
// and a name of the app's choosing ("web", "host/02:00:00:00:00:01").
type PartKey struct {
	App  AppID
	Name string
}

func (k PartKey) String() string { return fmt.Sprintf("%d/%s", k.App, k.Name) }

// Flow is a flow entry as an app desires it (OpenFlow 1.3.5 §5.2). It has no
// timeouts: an entry that expires by itself would fight with reconciliation.
type Flow struct {
	Table        ofproto.Table
	Priority     uint16
	Match        ofproto.Match // canonical, as NewMatch makes it
	Instructions []ofproto.Instruction
}

// Group is a group entry as an app desires it (§5.6).
type Group struct {
	ID      ofproto.GroupID
	Type    ofproto.GroupType
	Buckets []ofproto.Bucket
}

// Class ranks parts: where a table is too small for all, those of the lower class
// come first.
type Class uint8

// The classes of parts.
const (
	ClassBase    Class = iota // what a switch cannot do without
	ClassService              // a VIP
	ClassHost                 // what saves a flood

	classOrphan // what is left over from earlier
	classes
)

// Part is the desired state one app compiled for one PartKey. The groups that
// its flows and buckets refer to are in the part itself, in any order, and so are
// the meters.
type Part struct {
	Class  Class
	Flows  []Flow
	Groups []Group
	Meters []Meter
}

// Our group ids carry groupMagic in their upper 8 bits; the rest of the id space
// belongs to others and is never touched.
const (
	groupMagic ofproto.GroupID = 0x46000000
	groupMask  ofproto.GroupID = 0xff000000
)

// GroupIDOf returns the group id of an allocated number below 2^24.
func GroupIDOf(n uint32) ofproto.GroupID {
	return groupMagic | ofproto.GroupID(n)&^groupMask
}

// OwnsGroup says whether an id is in the range that Fairlead allocates from.
func OwnsGroup(id ofproto.GroupID) bool { return id&groupMask == groupMagic }

// A cookie is, from the top: 16 bits of magic, 4 of pipeline version, 4 of app,
// 40 of content hash.
const (
	cookieMagic     uint64 = 0xfa1d << 48
	cookieMagicMask uint64 = 0xffff << 48
	cookieHashMask  uint64 = 1<<40 - 1
)

// ProbeCookie is the cookie of entries that try out a switch. They are deleted at
// once; one that is found later is an orphan like any other.
const ProbeCookie = cookieMagic | 0xe<<40 | 1

// OwnsCookie says whether a flow with this cookie was installed by Fairlead, of
// any pipeline version.
func OwnsCookie(c uint64) bool { return c&cookieMagicMask == cookieMagic }

// CookieApp returns the app that a cookie of ours names.
func CookieApp(c uint64) AppID { return AppID(c >> 40 & 0xf) }

// FlowKey identifies a flow entry inside a switch: no two entries have the same
// table, priority and match (§6.4).
type FlowKey struct {
	Table    ofproto.Table
	Priority uint16
	Match    string // the bytes of the canonical match
}

// addMessage makes m the flow-mod that installs f as it is desired.
func addMessage(m *ofproto.FlowMod, f *flow) {
	*m = ofproto.FlowMod{
		Cookie:          f.cookie,
		Table:           f.Table,
		Command:         ofproto.FlowAdd,
		Priority:        f.Priority,
		BufferID:        ofproto.NoBuffer,
		OutPort:         ofproto.PortAny,
		OutGroup:        ofproto.GroupAny,
		Flags:           ofproto.FlagSendFlowRem,
		Match:           f.match,
		RawInstructions: f.instructions,
	}
}

// deleteMessage removes exactly one entry, and only while it has this cookie:
// a foreign entry that took its place stays. Cookie 0 stands for an entry of ours that
// is not what its cookie says; then any cookie of ours will do.
func deleteMessage(k FlowKey, cookie uint64) *ofproto.FlowMod {
	mask := ^uint64(0)
	if cookie == 0 {
		cookie, mask = cookieMagic, cookieMagicMask
	}
	return &ofproto.FlowMod{
		Cookie:     cookie,
		CookieMask: mask,
		Table:      k.Table,
		Command:    ofproto.FlowDeleteStrict,
		Priority:   k.Priority,
		BufferID:   ofproto.NoBuffer,
		OutPort:    ofproto.PortAny,
		OutGroup:   ofproto.GroupAny,
		Match:      ofproto.Match(k.Match),
	}
}

// cookieOf hashes the content of a flow: table, priority, match and instructions as
// they stand on the wire, with FNV-1a folded to 40 bits. Flags are the same for all
// flows of ours, and not every switch reports them.
func cookieOf(version uint8, app AppID, table ofproto.Table, priority uint16, match ofproto.Match, instructions []byte) uint64 {
	const prime = 1099511628211
	h := uint64(14695981039346656037)
	h = (h ^ uint64(table)) * prime
	h = (h ^ uint64(priority>>8)) * prime
	h = (h ^ uint64(priority&0xff)) * prime
	for _, b := range match {
		h = (h ^ uint64(b)) * prime
	}
	h *= prime // a zero byte
	for _, b := range instructions {
		h = (h ^ uint64(b)) * prime
	}
	h ^= h >> 40
	return cookieMagic | uint64(version&0xf)<<44 | uint64(app&0xf)<<40 | h&cookieHashMask
}

// groupRefs calls yield for every group that a flow's instructions name.
func groupRefs(ins []ofproto.Instruction, yield func(ofproto.GroupID)) {
	for _, in := range ins {
		switch in := in.(type) {
		case ofproto.ApplyActions:
			actionGroups(in.Actions, yield)
		case ofproto.WriteActions:
			actionGroups(in.Actions, yield)
		}
	}
}

func actionGroups(actions []ofproto.Action, yield func(ofproto.GroupID)) {
	for _, a := range actions {
		if g, ok := a.(ofproto.Group); ok {
			yield(g.ID)
		}
	}
}

// bucketRefs calls yield for every group that a group's buckets name.
func bucketRefs(bs []ofproto.Bucket, yield func(ofproto.GroupID)) {
	for _, b := range bs {
		if b.WatchGroup != ofproto.GroupAny {
			yield(b.WatchGroup)
		}
		actionGroups(b.Actions, yield)
	}
}

// description is what two groups of one id are compared by: the type, which is one byte,
// and the buckets as they stand on the wire. Nobody writes to it.
type description []byte

// appendDescription appends the description of a group, without weights where they mean
// nothing.
func appendDescription(b []byte, t ofproto.GroupType, bs []ofproto.Bucket) description {
	if t != ofproto.GroupTypeSelect && slices.ContainsFunc(bs, func(b ofproto.Bucket) bool { return b.Weight != 0 }) {
		bs = slices.Clone(bs)
		for i := range bs {
			bs[i].Weight = 0
		}
	}
	return ofproto.AppendBuckets(append(b, byte(t)), bs)
}

func (d description) equal(o description) bool { return bytes.Equal(d, o) }
func (d description) kind() ofproto.GroupType  { return ofproto.GroupType(d[0]) }
func (d description) rawBuckets() []byte       { return d[1:] }

func (d description) buckets() []ofproto.Bucket {
	if d == nil {
		return nil
	}
	list, _ := ofproto.ParseBuckets(d.rawBuckets()) // appendDescription made them
	return list
}
