package ovsdb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// Change is what an adoption or a release writes into one column of one row. Values are
// JSON of RFC 7047; those of a row that comes or goes are empty on one side.
type Change struct {
	Table  string `json:"table"`
	Row    string `json:"row"` // name of the bridge, target of the controller
	Column string `json:"column"`
	Before string `json:"before"`
	After  string `json:"after"`
}

// Rows is what is written of a bridge: its columns, and the rows of its controllers
// ordered by their text. What Open vSwitch writes by itself is not in it, nor the
// names of rows: two are equal when nobody can tell the bridges apart.
type Rows struct {
	Bridge      map[string]json.RawMessage   `json:"bridge"`
	Controllers []map[string]json.RawMessage `json:"controllers"`
}

// Differences says what of a bridge is not as it was, nothing when all is.
func (r Rows) Differences(was Rows) []Change {
	name, _ := atom(r.Bridge["name"])
	list := columnChanges("Bridge", name, was.Bridge, r.Bridge)
	before, after := texts(was.Controllers), texts(r.Controllers)
	for _, c := range was.Controllers {
		if t := text(c); !slices.Contains(after, t) {
			list = append(list, Change{"Controller", targetOf(c), "", t, ""})
		}
	}
	for _, c := range r.Controllers {
		if t := text(c); !slices.Contains(before, t) {
			list = append(list, Change{"Controller", targetOf(c), "", "", t})
		}
	}
	return list
}

func targetOf(c map[string]json.RawMessage) string {
	t, _ := atom(c["target"])
	return t
}

// text is a row as one JSON object with its columns in order.
func text(r map[string]json.RawMessage) string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // of JSON that was parsed
	}
	return string(b)
}

func texts(rows []map[string]json.RawMessage) (list []string) {
	for _, r := range rows {
		list = append(list, text(r))
	}
	return list
}

func columnChanges(table, row string, before, after map[string]json.RawMessage) (list []Change) {
	all := maps.Clone(before)
	if all == nil {
		all = map[string]json.RawMessage{}
	}
	maps.Copy(all, after)
	for _, column := range slices.Sorted(maps.Keys(all)) {
		if b, a := before[column], after[column]; !sameValue(b, a) {
			list = append(list, Change{table, row, column, string(b), string(a)})
		}
	}
	return list
}

// sameValue says whether two values are the same: sets and maps have no order, and a set of one is
// written in two ways.
func sameValue(a, b json.RawMessage) bool {
	if string(a) == string(b) || a == nil || b == nil {
		return string(a) == string(b)
	}
	if x, err := dict(a); err == nil {
		y, err := dict(b)
		return err == nil && maps.Equal(x, y)
	}
	x, err := set(a)
	y, bad := set(b)
	slices.Sort(x)
	slices.Sort(y)
	return err == nil && bad == nil && slices.Equal(x, y)
}

// Rows reads what is written of a bridge. ErrNoBridge when it is not there,
// ErrNotConnected when its endpoint cannot be reached.
func (h *Hosts) Rows(ctx context.Context, e Endpoint, bridge string) (r Rows, err error) {
	err = h.look(ctx, e, bridge, func(_ *host, s *state) error {
		r = s.rows(bridge)
		return nil
	})
	return r, err
}

// rows is what of a state is written by somebody.
func (s *state) rows(bridge string) Rows {
	r := Rows{Bridge: map[string]json.RawMessage{"name": quoted(bridge)}, Controllers: []map[string]json.RawMessage{}}
	for _, column := range guard {
		if column != "controller" { // they are shown as rows
			r.Bridge[column] = s.bridge[column]
		}
	}
	for _, id := range s.order {
		r.Controllers = append(r.Controllers, s.controllers[id])
	}
	slices.SortFunc(r.Controllers, func(a, b map[string]json.RawMessage) int { return strings.Compare(text(a), text(b)) })
	return r
}

// look reads a bridge once, and changes nothing.
func (h *Hosts) look(ctx context.Context, e Endpoint, bridge string, f func(*host, *state) error) error {
	k, release, err := h.acquire(e)
	if err != nil {
		return err
	}
	defer release()
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := k.client.Ready(wait); err != nil {
		return err
	}
	ctx, cancel = context.WithTimeout(ctx, operationTimeout)
	defer cancel()
	s, err := k.read(ctx, bridge)
	if err != nil {
		return err
	}
	return f(k, s)
}

// PreviewAdopt returns what Adopt would have written of the one bridge of a request when
// it is done, and writes nothing. A *Refusal says why it would refuse it.
func (h *Hosts) PreviewAdopt(ctx context.Context, req Request) (list []Change, err error) {
	if len(req.Bridges) != 1 {
		return nil, errors.New("ovsdb: preview: one bridge at a time")
	}
	name := req.Bridges[0]
	err = h.look(ctx, req.Endpoint, name, func(k *host, s *state) error {
		inv, err := k.client.Inventory()
		if err != nil {
			return err
		}
		b, ok := inv.Bridge(name)
		if !ok {
			return fmt.Errorf("%w: %s", ErrNoBridge, name)
		}
		stage := req.Stage
		if stage == "" {
			if stage, _, err = h.o.Switches.Stage(ctx, parseDPID(b.DPID)); err != nil {
				return err
			}
		}
		if reason := unfit(inv, b, stage); reason != "" {
			return &Refusal{name, reason}
		}
		if len(req.Controllers) == 0 {
			self, err := h.o.Self(k.client.Local())
			if err != nil {
				return &Refusal{name, err.Error()}
			}
			req.Controllers = []string{self}
		}
		if reason := taken(s, h.o.Cluster, req.Controllers); reason != "" {
			return &Refusal{name, reason}
		}
		if other, ok := h.sameDPID(Adoption{Endpoint: req.Endpoint, Bridge: name, DPID: b.DPID}); ok {
			return &Refusal{name, fmt.Sprintf("its datapath id %s is that of bridge %s at %s", b.DPID, other.Bridge, other.Endpoint)}
		}
		r := Record{Cluster: h.o.Cluster, Phase: PhaseAdopted, Since: time.Now().UTC().Truncate(time.Second), Controllers: req.Controllers, Before: s.before()}
		if s.recorded {
			if s.record.Phase == PhaseAdopted && s.record.Cluster == h.o.Cluster && len(drift(b, s.record)) == 0 && slices.Equal(s.record.Controllers, req.Controllers) {
				return nil // only the stage changes
			}
			r.Before, r.Since = s.record.Before, s.record.Since
		}
		ops, err := planAdopt(s, r, offeredProtocols(k.client.sessionSchema()))
		if err != nil {
			return &Refusal{name, err.Error()}
		}
		list, err = s.after(name, ops)
		return err
	})
	return list, err
}

// PreviewRelease returns what Release would have written when it is done, and writes
// nothing.
func (h *Hosts) PreviewRelease(ctx context.Context, e Endpoint, bridge string) (list []Change, err error) {
	err = h.look(ctx, e, bridge, func(_ *host, s *state) error {
		if !s.recorded {
			return fmt.Errorf("%w: %s", ErrNotAdopted, bridge)
		}
		var err error
		list, err = s.after(bridge, planRestore(s))
		return err
	})
	return list, err
}

// wireOperation is an operation as a server reads it.
type wireOperation struct {
	Op        string                     `json:"op"`
	Table     string                     `json:"table"`
	Where     json.RawMessage            `json:"where"`
	Row       map[string]json.RawMessage `json:"row"`
	UUIDName  string                     `json:"uuid-name"`
	Mutations [][3]json.RawMessage       `json:"mutations"`
}

// after is what a bridge's rows change by when a plan for it is run, column by column.
func (s *state) after(bridge string, planned []ovsdb.Operation) ([]Change, error) {
	raw, err := json.Marshal(planned)
	if err != nil {
		return nil, fmt.Errorf("ovsdb: preview %s: %w", bridge, err)
	}
	// A row that is new goes by the name that the plan gives it.
	var ops []wireOperation
	if err := json.Unmarshal(bytes.ReplaceAll(raw, []byte(`"named-uuid"`), []byte(`"uuid"`)), &ops); err != nil {
		return nil, fmt.Errorf("ovsdb: preview %s: %w", bridge, err)
	}
	columns, controllers := maps.Clone(s.bridge), map[string]row{}
	for id, c := range s.controllers {
		controllers[id] = maps.Clone(c)
	}
	for _, op := range ops {
		switch {
		case op.Op == ovsdb.OperationInsert:
			controllers[op.UUIDName] = op.Row
		case op.Op == ovsdb.OperationUpdate && op.Table == "Bridge":
			maps.Copy(columns, op.Row)
		case op.Op == ovsdb.OperationUpdate:
			for id, c := range controllers {
				if bytes.Contains(op.Where, quoted(id)) {
					maps.Copy(c, op.Row)
				}
			}
		case op.Op == ovsdb.OperationMutate:
			for _, m := range op.Mutations {
				if err := mutate(columns, m); err != nil {
					return nil, fmt.Errorf("ovsdb: preview %s: %w", bridge, err)
				}
			}
		}
	}
	refers, err := set(columns["controller"])
	if err != nil {
		return nil, fmt.Errorf("ovsdb: preview %s: %w", bridge, err)
	}
	before, after := maps.Clone(s.bridge), columns
	for _, column := range []string{"_uuid", "datapath_id", "controller"} { // controllers are told by their rows
		delete(before, column)
		delete(after, column)
	}
	list := columnChanges("Bridge", bridge, before, after)
	for _, id := range s.order {
		var now row // nil: it goes
		if slices.Contains(refers, id) && !s.joins(id) {
			now = controllers[id]
		}
		list = append(list, columnChanges("Controller", s.target(id), s.controllers[id], now)...)
	}
	for _, id := range refers {
		if _, was := s.controllers[id]; !was {
			list = append(list, columnChanges("Controller", targetOf(controllers[id]), nil, controllers[id])...)
		}
	}
	return list, nil
}

// mutate deletes keys from a map, or puts pairs into it.
func mutate(columns row, m [3]json.RawMessage) error {
	column, _ := atom(m[0])
	pairs, err := dict(columns[column])
	if err != nil {
		return err
	}
	switch mutator, _ := atom(m[1]); mutator {
	case string(ovsdb.MutateOperationDelete):
		keys, err := set(m[2])
		if err != nil {
			return err
		}
		for _, k := range keys {
			delete(pairs, k)
		}
	case string(ovsdb.MutateOperationInsert):
		more, err := dict(m[2])
		if err != nil {
			return err
		}
		maps.Copy(pairs, more)
	}
	list := [][2]string{}
	for _, k := range slices.Sorted(maps.Keys(pairs)) {
		list = append(list, [2]string{k, pairs[k]})
	}
	columns[column], err = json.Marshal([]any{"map", list})
	return err
}
