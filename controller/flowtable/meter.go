package flowtable

import (
	"cmp"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Meter is a meter as it is desired: packets over its rate are dropped (OpenFlow 1.3.5
// §5.7). Meters belong to a switch and not to a part: flows of several share one.
type Meter struct {
	ID    uint32
	Rate  uint32 // packets a second
	Burst uint32 // packets
}

// MeterRange is the meter ids that are ours: like those of groups, they have no cookie.
type MeterRange struct{ First, Last uint32 }

// Owns says whether an id is of the range.
func (r MeterRange) Owns(id uint32) bool { return r.First <= id && id <= r.Last }

// meters is what of a Table concerns meters.
type meters struct {
	ids    MeterRange
	wanted map[uint32]Meter
	has    map[uint32]uint32 // rate by id; 0: it is otherwise than any of ours
}

// SetMeters replaces the desired meters. Ids are of the range; what the switch holds of
// the range besides is stale.
func (t *Table) SetMeters(ids MeterRange, list []Meter) {
	t.meters.ids, t.meters.wanted = ids, map[uint32]Meter{}
	for _, m := range list {
		t.meters.wanted[m.ID] = m
	}
}

// AddMeter records a meter that the switch reported. It keeps nothing of m.
func (in *Installed) AddMeter(m ofproto.MeterConfig) {
	rate := uint32(0)
	if m.Flags&ofproto.MeterFlagPktps != 0 && len(m.Bands) == 1 && m.Bands[0].Type == ofproto.BandDrop {
		rate = m.Bands[0].Rate
	}
	if in.meters == nil {
		in.meters = map[uint32]uint32{}
	}
	in.meters[m.Meter] = rate
}

// SetMeterMods returns the messages that bring desired meters about; flows that name
// them come after. They belong to no part, and are reported with Applied. A bundle
// cannot hold them.
func (t *Table) SetMeterMods() (mods []Mod) {
	for id, m := range t.meters.wanted {
		rate, there := t.meters.has[id]
		if there && rate == m.Rate {
			continue
		}
		command := ofproto.MeterAdd
		if there {
			command = ofproto.MeterModify
		}
		mods = append(mods, Mod{meter: m, Message: &ofproto.MeterMod{
			Command: command, Meter: id, Flags: ofproto.MeterFlagPktps | ofproto.MeterFlagBurst,
			Bands: []ofproto.MeterBand{{Type: ofproto.BandDrop, Rate: m.Rate, Burst: m.Burst}},
		}})
	}
	slices.SortFunc(mods, func(a, b Mod) int { return cmp.Compare(a.meter.ID, b.meter.ID) })
	return mods
}

// DeleteMeterMods returns the messages that delete stale meters. With a meter a switch
// deletes the flows that name it (§6.4): they are to be sent when no part is dirty.
func (t *Table) DeleteMeterMods() (mods []Mod) {
	for id := range t.meters.has {
		if _, wanted := t.meters.wanted[id]; !wanted && t.meters.ids.Owns(id) {
			mods = append(mods, Mod{meter: Meter{ID: id}, remove: true, Message: &ofproto.MeterMod{Command: ofproto.MeterDelete, Meter: id}})
		}
	}
	slices.SortFunc(mods, func(a, b Mod) int { return cmp.Compare(a.meter.ID, b.meter.ID) })
	return mods
}

// appliedMeter records that the switch carried a meter-mod out.
func (t *Table) appliedMeter(m *Mod) {
	if m.remove {
		delete(t.meters.has, m.meter.ID)
		return
	}
	if t.meters.has == nil {
		t.meters.has = map[uint32]uint32{}
	}
	t.meters.has[m.meter.ID] = m.meter.Rate
}
