package flowtable

import (
	"cmp"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Meter is a meter as it is desired: packets over its rate are dropped (OpenFlow 1.3.5
// §5.7). It belongs to a part, or to the switch where flows of several parts share it.
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
	ids     MeterRange
	wanted  map[uint32]Meter     // of the switch
	parts   map[uint32]partMeter // of parts
	has     map[uint32]uint32    // rate by id; 0: it is otherwise than any of ours
	refused map[uint32]uint32    // rate by id
	settled bool                 // nothing is to be set
}

type partMeter struct {
	Meter
	part PartKey
}

// SetMeters replaces the desired meters that several parts share. Ids are of the range;
// what the switch holds of the range besides, and no part has, is stale.
func (t *Table) SetMeters(ids MeterRange, list []Meter) {
	t.meters.ids, t.meters.wanted, t.meters.settled = ids, map[uint32]Meter{}, false
	for _, m := range list {
		t.meters.wanted[m.ID] = m
	}
}

// setPartMeters adds the desired meters of a part.
func (t *Table) setPartMeters(key PartKey, list []Meter) (ids []uint32) {
	for _, m := range list {
		if t.meters.parts == nil {
			t.meters.parts = map[uint32]partMeter{}
		}
		t.meters.parts[m.ID] = partMeter{m, key}
		t.meters.settled = false
		ids = append(ids, m.ID)
	}
	return ids
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
// them come after. Those that are not of a part are reported as of PartKey{}. A bundle
// cannot hold them. What the switch has refused of a part is not in it again.
func (t *Table) SetMeterMods() (mods []Mod) {
	if t.meters.settled {
		return nil
	}
	set := func(part PartKey, m Meter) {
		rate, there := t.meters.has[m.ID]
		if there && rate == m.Rate {
			return
		}
		command := ofproto.MeterAdd
		if there {
			command = ofproto.MeterModify
		}
		mods = append(mods, Mod{Part: part, meter: m, Message: &ofproto.MeterMod{
			Command: command, Meter: m.ID, Flags: ofproto.MeterFlagPktps | ofproto.MeterFlagBurst,
			Bands: []ofproto.MeterBand{{Type: ofproto.BandDrop, Rate: m.Rate, Burst: m.Burst}},
		}})
	}
	for _, m := range t.meters.wanted {
		set(PartKey{}, m)
	}
	for id, m := range t.meters.parts {
		if rate, refused := t.meters.refused[id]; !refused || rate != m.Rate {
			set(m.part, m.Meter)
		}
	}
	t.meters.settled = len(mods) == 0
	slices.SortFunc(mods, func(a, b Mod) int { return cmp.Compare(a.meter.ID, b.meter.ID) })
	return mods
}

// MetersDue says whether SetMeterMods has something.
func (t *Table) MetersDue() bool { return len(t.SetMeterMods()) > 0 }

// DeleteMeterMods returns the messages that delete stale meters. With a meter a switch
// deletes the flows that name it (§6.4): they are to be sent when no part is dirty.
func (t *Table) DeleteMeterMods() (mods []Mod) {
	for id := range t.meters.has {
		_, wanted := t.meters.wanted[id]
		_, ofPart := t.meters.parts[id]
		if !wanted && !ofPart && t.meters.ids.Owns(id) {
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
	delete(t.meters.refused, m.meter.ID)
}

// failedMeter records that the switch refused a meter-mod.
func (t *Table) failedMeter(m *Mod) {
	if m.remove || m.Part == (PartKey{}) {
		return
	}
	if t.meters.refused == nil {
		t.meters.refused = map[uint32]uint32{}
	}
	t.meters.refused[m.meter.ID] = m.meter.Rate
}
