package controller

import (
	"cmp"
	"errors"
	"maps"
	"reflect"
	"slices"

	"github.com/fairlead/fairlead/controller/flowtable"
)

// errIgnores is what keeps everything from a switch that only says that it does what
// it is told.
var errIgnores = errors.New("the switch accepts flow entries and does not hold them")

// folded is the desired state of a switch with one table: the parts as the apps
// compiled them, and folded into that table (flowtable.Pipeline.Fold). Entries of
// several parts meet in one, so a change of any part folds all of them again; a
// switch with one table has a small one.
type folded struct {
	parts map[flowtable.PartKey]flowtable.Part
	table map[flowtable.PartKey]flowtable.Part
	stale bool
}

// setPart replaces the desired state of a part; see flowtable.Table.SetPart.
func (w *worker) setPart(key flowtable.PartKey, p flowtable.Part) error {
	if !w.caps.OneTable() {
		return w.table.SetPart(key, p)
	}
	if err := Pipeline.CheckPart(key, p); err != nil {
		return err
	}
	if w.folded.parts == nil {
		w.folded.parts = map[flowtable.PartKey]flowtable.Part{}
	}
	w.folded.parts[key], w.folded.stale = p, true
	return nil
}

// deletePart makes a part desire nothing.
func (w *worker) deletePart(key flowtable.PartKey) {
	w.table.DeletePart(key)
	if _, ok := w.folded.parts[key]; ok {
		delete(w.folded.parts, key)
		w.folded.stale = true
	}
}

// refold brings the table of a switch with one table up to the parts. assigned are
// those that are owed an answer; results takes the errors of parts.
func (w *worker) refold(assigned map[flowtable.PartKey]Source, results map[flowtable.PartKey]error) {
	if !w.folded.stale {
		return
	}
	w.folded.stale = false
	table, err := Pipeline.Fold(w.folded.parts)
	if err != nil {
		w.log().Error("parts do not fold", "error", err)
		for key := range assigned {
			results[key] = err
		}
		return
	}
	var changed []flowtable.PartKey
	for key, p := range table {
		if _, owed := assigned[key]; owed || !reflect.DeepEqual(p, w.folded.table[key]) {
			changed = append(changed, key)
		}
	}
	for key := range w.folded.table {
		if _, ok := table[key]; !ok {
			w.table.DeletePart(key)
		}
	}
	// An entry may go from one part to another.
	for _, key := range changed {
		w.table.DeletePart(key)
	}
	slices.SortFunc(changed, func(a, b flowtable.PartKey) int {
		return cmp.Or(cmp.Compare(table[a].Class, table[b].Class), cmp.Compare(a.App, b.App), cmp.Compare(a.Name, b.Name))
	})
	for _, key := range changed {
		if err := w.table.SetPart(key, table[key]); err != nil {
			w.log().Error("folded part does not fit", "part", key.Name, "app", AppNames[key.App], "error", err)
			results[key] = err
		}
	}
	w.folded.table = maps.Clone(table)
}
