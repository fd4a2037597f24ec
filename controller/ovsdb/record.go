package ovsdb

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// recordKey is the key of a bridge's external_ids that holds the Record.
const recordKey = "fairlead"

// The keys of other_config that adoption sets.
const (
	keyDatapathID = "datapath-id"
	keyInBand     = "disable-in-band"
)

// Phase is how far the adoption of a bridge has come.
type Phase string

const (
	// PhaseJoining is a bridge that has been given service connections to the
	// controller, which flush nothing.
	PhaseJoining Phase = "joining"
	// PhaseAdopted is a bridge whose only controllers are Fairlead's.
	PhaseAdopted Phase = "adopted"
	// PhaseReleasing is a bridge on its way back.
	PhaseReleasing Phase = "releasing"
)

// Record is what is written down of an adopted bridge, in its external_ids and in the
// store: all that a release needs.
type Record struct {
	Cluster     string    `json:"cluster"` // of the controller that adopted it
	Phase       Phase     `json:"phase"`
	Since       time.Time `json:"since"`
	Controllers []string  `json:"controllers"` // targets that were set
	Before      Before    `json:"before"`
}

// Before is what a bridge had in the places that adoption changes, as JSON of RFC 7047.
type Before struct {
	Controllers []map[string]json.RawMessage `json:"controllers"` // rows
	Protocols   json.RawMessage              `json:"protocols"`
	FailMode    json.RawMessage              `json:"fail_mode"`
	OtherConfig map[string]string            `json:"other_config"` // of the keys that adoption sets
}

// primary says whether the bridge had a controller whose coming and going flushes
// flows.
func (b Before) primary() bool {
	for _, row := range b.Controllers {
		if isPrimary(row) {
			return true
		}
	}
	return false
}

// parseRecord reads the record of a bridge's external_ids; ok is whether there is one.
func parseRecord(externalIDs map[string]string) (r Record, ok bool, err error) {
	s, ok := externalIDs[recordKey]
	if !ok {
		return r, false, nil
	}
	dec := json.NewDecoder(bytes.NewReader([]byte(s)))
	if err := dec.Decode(&r); err != nil {
		return r, true, fmt.Errorf("external_ids:%s is not what was written: %w", recordKey, err)
	}
	if !slices.Contains([]Phase{PhaseJoining, PhaseAdopted, PhaseReleasing}, r.Phase) || isNull(r.Before.Protocols) || isNull(r.Before.FailMode) {
		return r, true, fmt.Errorf("external_ids:%s is not what was written", recordKey)
	}
	return r, true, nil
}

// text is the record as external_ids holds it.
func (r Record) text() string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // of strings and of JSON that was parsed
	}
	return string(b)
}

// row is a bridge or a controller as a select gives it: columns as they were sent.
type row map[string]json.RawMessage

// atom reads a string, or a set of at most one; empty when the set is.
func atom(raw json.RawMessage) (string, error) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s, nil
	}
	l, err := set(raw)
	switch {
	case err != nil:
		return "", err
	case len(l) > 1:
		return "", violation("a set of %d where one is the most", len(l))
	case len(l) == 0:
		return "", nil
	}
	return l[0], nil
}

// set reads a set of strings, or of UUIDs.
func set(raw json.RawMessage) ([]string, error) {
	one := func(raw json.RawMessage) (string, bool) {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s, true
		}
		var id []string
		if json.Unmarshal(raw, &id) == nil && len(id) == 2 && id[0] == "uuid" {
			return id[1], true
		}
		return "", false
	}
	if s, ok := one(raw); ok {
		return []string{s}, nil
	}
	var pair []json.RawMessage
	var kind string
	var members []json.RawMessage
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &kind) != nil || kind != "set" ||
		json.Unmarshal(pair[1], &members) != nil {
		return nil, violation("%.80q is no set", raw)
	}
	l := make([]string, len(members))
	for i, m := range members {
		s, ok := one(m)
		if !ok {
			return nil, violation("%.80q is no string", m)
		}
		l[i] = s
	}
	return l, nil
}

// dict reads a map of strings to strings.
func dict(raw json.RawMessage) (map[string]string, error) {
	var pair []json.RawMessage
	var kind string
	var members [][2]string
	if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &kind) != nil || kind != "map" ||
		json.Unmarshal(pair[1], &members) != nil {
		return nil, violation("%.80q is no map", raw)
	}
	m := make(map[string]string, len(members))
	for _, kv := range members {
		m[kv[0]] = kv[1]
	}
	return m, nil
}

func isPrimary(r row) bool {
	target, _ := atom(r["target"])
	typ, _ := atom(r["type"])
	return controllerType(target, typ) == primary
}

// state is a bridge as a transaction reads it, before one that changes it.
type state struct {
	uuid        string
	bridge      row // the columns of guard, and others
	controllers map[string]row
	order       []string // uuids of controllers, by target
	dpid        string
	otherConfig map[string]string
	externalIDs map[string]string
	record      Record
	recorded    bool
}

// guard are the columns that must not have changed between reading and writing.
var guard = []string{"controller", "protocols", "fail_mode", "other_config", "external_ids"}

// readOps reads a bridge and all controllers.
func readOps(bridge string, controllerColumns []string) []ovsdb.Operation {
	return []ovsdb.Operation{
		{
			Op: ovsdb.OperationSelect, Table: "Bridge", Columns: append([]string{"_uuid", "datapath_id"}, guard...),
			Where: []ovsdb.Condition{ovsdb.NewCondition("name", ovsdb.ConditionEqual, bridge)},
		},
		{Op: ovsdb.OperationSelect, Table: "Controller", Columns: append([]string{"_uuid"}, controllerColumns...)},
	}
}

// lasting are the columns of a table that Open vSwitch does not write by itself.
func lasting(schema ovsdb.DatabaseSchema, table string) (names []string) {
	for name, c := range schema.Tables[table].Columns {
		if !c.Ephemeral() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// parseState reads the results of readOps; ok is whether there is such a bridge.
func parseState(results []result) (s state, ok bool, err error) {
	if len(results) < 2 {
		return s, false, violation("%d results of 2 operations", len(results))
	}
	if len(results[0].Rows) == 0 {
		return s, false, nil
	}
	s.bridge, s.controllers = results[0].Rows[0], map[string]row{}
	if s.uuid, err = atom(s.bridge["_uuid"]); err != nil {
		return s, false, err
	}
	if s.dpid, err = atom(s.bridge["datapath_id"]); err != nil {
		return s, false, err
	}
	if s.otherConfig, err = dict(s.bridge["other_config"]); err != nil {
		return s, false, err
	}
	if s.externalIDs, err = dict(s.bridge["external_ids"]); err != nil {
		return s, false, err
	}
	ids, err := set(s.bridge["controller"])
	if err != nil {
		return s, false, err
	}
	for _, r := range results[1].Rows {
		id, err := atom(r["_uuid"])
		if err != nil {
			return s, false, err
		}
		if slices.Contains(ids, id) {
			r = maps.Clone(r)
			delete(r, "_uuid")
			s.controllers[id] = r
			s.order = append(s.order, id)
		}
	}
	slices.SortFunc(s.order, func(a, b string) int { return cmp.Or(cmp.Compare(s.target(a), s.target(b)), cmp.Compare(a, b)) })
	s.record, s.recorded, err = parseRecord(s.externalIDs)
	return s, true, err
}

func (s *state) target(uuid string) string {
	t, _ := atom(s.controllers[uuid]["target"])
	return t
}

// primary says whether the bridge has a primary controller now.
func (s *state) primary() bool {
	for _, r := range s.controllers {
		if isPrimary(r) {
			return true
		}
	}
	return false
}

// before is what a release of the bridge will put back.
func (s *state) before() Before {
	b := Before{
		Controllers: []map[string]json.RawMessage{}, Protocols: s.bridge["protocols"], FailMode: s.bridge["fail_mode"],
		OtherConfig: map[string]string{},
	}
	for _, id := range s.order {
		b.Controllers = append(b.Controllers, s.controllers[id])
	}
	for _, key := range []string{keyDatapathID, keyInBand} {
		if v, ok := s.otherConfig[key]; ok {
			b.OtherConfig[key] = v
		}
	}
	return b
}

// plan gathers the operations of one transaction on one bridge.
type plan struct {
	s    *state
	ops  []ovsdb.Operation
	news int
}

// newPlan begins with the condition that the bridge is as it was read.
func newPlan(s *state) *plan {
	expect := ovsdb.Row{}
	for _, column := range guard {
		expect[column] = s.bridge[column]
	}
	now := 0
	p := &plan{s: s}
	p.ops = append(p.ops, ovsdb.Operation{
		Op: ovsdb.OperationWait, Table: "Bridge", Where: p.where(), Columns: guard, Until: string(ovsdb.WaitConditionEqual),
		Rows: []ovsdb.Row{expect}, Timeout: &now,
	})
	return p
}

func (p *plan) where() []ovsdb.Condition { return uuidIs(p.s.uuid) }

func uuidIs(id string) []ovsdb.Condition {
	return []ovsdb.Condition{ovsdb.NewCondition("_uuid", ovsdb.ConditionEqual, ovsdb.UUID{GoUUID: id})}
}

// insert adds a controller row and returns its reference.
func (p *plan) insert(r map[string]json.RawMessage) any {
	name := fmt.Sprintf("c%d", p.news)
	p.news++
	p.ops = append(p.ops, ovsdb.Operation{Op: ovsdb.OperationInsert, Table: "Controller", Row: asRow(r), UUIDName: name})
	return []string{"named-uuid", name}
}

func asRow(r map[string]json.RawMessage) ovsdb.Row {
	out := ovsdb.Row{}
	for k, v := range r {
		out[k] = v
	}
	return out
}

func reference(uuid string) any { return []string{"uuid", uuid} }

func setOf[T any](members ...T) any {
	if members == nil {
		members = []T{}
	}
	return []any{"set", members}
}

// update sets columns of the bridge.
func (p *plan) update(columns ovsdb.Row) {
	p.ops = append(p.ops, ovsdb.Operation{Op: ovsdb.OperationUpdate, Table: "Bridge", Where: p.where(), Row: columns})
}

// controller sets columns of a controller.
func (p *plan) controller(uuid string, columns ovsdb.Row) {
	p.ops = append(p.ops, ovsdb.Operation{Op: ovsdb.OperationUpdate, Table: "Controller", Where: uuidIs(uuid), Row: columns})
}

// put sets keys of a map of the bridge, and removes those whose value is nil; other keys
// stay.
func (p *plan) put(column string, keys map[string]*string) {
	names := slices.Sorted(maps.Keys(keys))
	var pairs [][2]string
	for _, k := range names {
		if v := keys[k]; v != nil {
			pairs = append(pairs, [2]string{k, *v})
		}
	}
	p.ops = append(p.ops, ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Bridge", Where: p.where(), Mutations: []ovsdb.Mutation{
		*ovsdb.NewMutation(column, ovsdb.MutateOperationDelete, setOf(names...)),
	}})
	if len(pairs) > 0 {
		p.ops = append(p.ops, ovsdb.Operation{Op: ovsdb.OperationMutate, Table: "Bridge", Where: p.where(), Mutations: []ovsdb.Mutation{
			*ovsdb.NewMutation(column, ovsdb.MutateOperationInsert, []any{"map", pairs}),
		}})
	}
}

func (p *plan) record(r Record) {
	text := r.text()
	p.put("external_ids", map[string]*string{recordKey: &text})
}

// commit is done with the gathered operations; the database is on disk when the answer
// comes.
func (p *plan) commit(what string) []ovsdb.Operation {
	durable := true
	comment := "fairlead: " + what
	return append(p.ops,
		ovsdb.Operation{Op: ovsdb.OperationComment, Comment: &comment},
		ovsdb.Operation{Op: ovsdb.OperationCommit, Durable: &durable})
}
