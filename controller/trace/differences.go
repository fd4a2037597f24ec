package trace

import (
	"slices"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Change says how what a switch holds differs from what it is to hold.
type Change string

// Changes.
const (
	Missing Change = "missing" // it is not there
	Altered Change = "altered" // it does something else
	Extra   Change = "extra"   // it is there and not desired
)

// Difference is an entry or a group that a packet meets and that is not as desired.
type Difference struct {
	DPID      ofproto.DPID
	Change    Change
	Desired   *Entry // nil: a group, or extra
	Installed *Entry // nil: a group, or missing
	// The same of a group.
	DesiredGroup, InstalledGroup *Group
}

// Differences compares what a packet meets of a switch as it is to be, and as it was
// found: the steps through both.
func Differences(desired, installed *Switch, steps, found []Step) []Difference {
	c := comparison{entries: map[flowtable.FlowKey]bool{}, groups: map[ofproto.GroupID]bool{}}
	for _, s := range slices.Concat(steps, found) {
		if s.Entry != nil {
			c.entry(desired, installed, flowtable.FlowKey{Table: s.Entry.Table, Priority: s.Entry.Priority, Match: string(s.Entry.Match)})
		}
		if s.Group != nil {
			c.group(desired, installed, s.Group.ID)
		}
	}
	return c.list
}

type comparison struct {
	entries map[flowtable.FlowKey]bool
	groups  map[ofproto.GroupID]bool
	list    []Difference
}

func (c *comparison) entry(desired, installed *Switch, k flowtable.FlowKey) {
	if c.entries[k] {
		return
	}
	c.entries[k] = true
	d := Difference{DPID: desired.DPID, Desired: desired.Entry(k), Installed: installed.Entry(k)}
	switch {
	case d.Installed == nil:
		d.Change = Missing
	case d.Desired == nil:
		d.Change = Extra
	case d.Desired.Cookie != d.Installed.Cookie || d.Installed.Altered:
		d.Change = Altered
	default:
		return
	}
	c.list = append(c.list, d)
}

func (c *comparison) group(desired, installed *Switch, id ofproto.GroupID) {
	if c.groups[id] {
		return
	}
	c.groups[id] = true
	d := Difference{DPID: desired.DPID, DesiredGroup: desired.Groups[id], InstalledGroup: installed.Groups[id]}
	switch {
	case d.InstalledGroup == nil:
		d.Change = Missing
	case d.DesiredGroup == nil:
		d.Change = Extra
	case !flowtable.SameGroup(d.DesiredGroup.Group, d.InstalledGroup.Group):
		d.Change = Altered
	default:
		return
	}
	c.list = append(c.list, d)
}
