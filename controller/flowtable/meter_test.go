package flowtable_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// meterMods are the meters of messages, by what is done to them.
func meterMods(mods []flowtable.Mod) (out map[uint32]ofproto.MeterCommand) {
	out = map[uint32]ofproto.MeterCommand{}
	for _, m := range mods {
		mod := m.Message.(*ofproto.MeterMod)
		out[mod.Meter] = mod.Command
	}
	return out
}

// Meters of parts come before the parts' flows and go when no part has them; those of the
// switch stay; what a switch refused is not sent to it over and over.
func TestMetersOfParts(t *testing.T) {
	tb := flowtable.New(&flowtable.Pipeline{Version: 1})
	tb.SetMeters(flowtable.MeterRange{First: 10, Last: 99}, []flowtable.Meter{{ID: 10, Rate: 5}})
	part := func(rate uint32) flowtable.Part {
		return flowtable.Part{Meters: []flowtable.Meter{{ID: 20, Rate: rate}}}
	}
	a, b := flowtable.PartKey{App: 3, Name: "a"}, flowtable.PartKey{App: 3, Name: "b"}
	apply := func(mods []flowtable.Mod) {
		for i := range mods {
			tb.Applied(&mods[i])
		}
	}
	require.NoError(t, tb.SetPart(a, part(7)))
	require.ErrorIs(t, tb.SetPart(b, part(7)), flowtable.ErrPart, "the meter of another part")
	mods := tb.SetMeterMods()
	require.Equal(t, map[uint32]ofproto.MeterCommand{10: ofproto.MeterAdd, 20: ofproto.MeterAdd}, meterMods(mods))
	require.Equal(t, flowtable.PartKey{}, mods[0].Part)
	require.Equal(t, a, mods[1].Part)
	apply(mods)
	require.False(t, tb.MetersDue())
	require.Empty(t, tb.DeleteMeterMods())

	require.NoError(t, tb.SetPart(a, part(8)))
	mods = tb.SetMeterMods()
	require.Equal(t, map[uint32]ofproto.MeterCommand{20: ofproto.MeterModify}, meterMods(mods))
	tb.Failed(&mods[0])
	require.False(t, tb.MetersDue(), "refused")
	require.NoError(t, tb.SetPart(a, part(9)))
	require.True(t, tb.MetersDue(), "another rate")

	in := flowtable.NewInstalled()
	in.AddMeter(ofproto.MeterConfig{Meter: 10, Flags: ofproto.MeterFlagPktps, Bands: []ofproto.MeterBand{{Type: ofproto.BandDrop, Rate: 5}}})
	in.AddMeter(ofproto.MeterConfig{Meter: 20, Flags: ofproto.MeterFlagPktps, Bands: []ofproto.MeterBand{{Type: ofproto.BandDrop, Rate: 9}}})
	in.AddMeter(ofproto.MeterConfig{Meter: 30})
	in.AddMeter(ofproto.MeterConfig{Meter: 300})
	tb.ReadBack(in, nil)
	require.False(t, tb.MetersDue(), "a restart sends nothing")
	require.Equal(t, map[uint32]ofproto.MeterCommand{30: ofproto.MeterDelete}, meterMods(tb.DeleteMeterMods()))
	apply(tb.DeleteMeterMods())

	tb.DeletePart(a)
	require.Equal(t, map[uint32]ofproto.MeterCommand{20: ofproto.MeterDelete}, meterMods(tb.DeleteMeterMods()))
	require.NoError(t, tb.SetPart(b, part(9)))
	require.Empty(t, tb.DeleteMeterMods())
}
