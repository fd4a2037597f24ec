package ovsdb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"reflect"
	"strings"
	"sync"

	"github.com/ovn-kubernetes/libovsdb/model"
	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

// The rows that a Client follows, with the columns it needs of each: a monitored table
// without columns of its own brings statistics every five seconds.
type (
	rootRow struct {
		UUID        string            `ovsdb:"_uuid"`
		Bridges     []string          `ovsdb:"bridges"`
		Version     *string           `ovsdb:"ovs_version"`
		ExternalIDs map[string]string `ovsdb:"external_ids"`
	}
	bridgeRow struct {
		UUID         string            `ovsdb:"_uuid"`
		Name         string            `ovsdb:"name"`
		Ports        []string          `ovsdb:"ports"`
		Controller   []string          `ovsdb:"controller"`
		Protocols    []string          `ovsdb:"protocols"`
		FailMode     *string           `ovsdb:"fail_mode"`
		DatapathID   *string           `ovsdb:"datapath_id"`
		DatapathType string            `ovsdb:"datapath_type"`
		OtherConfig  map[string]string `ovsdb:"other_config"`
		ExternalIDs  map[string]string `ovsdb:"external_ids"`
		STP          bool              `ovsdb:"stp_enable"`
		RSTP         bool              `ovsdb:"rstp_enable"`
	}
	portRow struct {
		UUID       string   `ovsdb:"_uuid"`
		Name       string   `ovsdb:"name"`
		Interfaces []string `ovsdb:"interfaces"`
		Tag        *int     `ovsdb:"tag"`
		Trunks     []int    `ovsdb:"trunks"`
		VLANMode   *string  `ovsdb:"vlan_mode"`
		BondMode   *string  `ovsdb:"bond_mode"`
		LACP       *string  `ovsdb:"lacp"`
	}
	interfaceRow struct {
		UUID        string            `ovsdb:"_uuid"`
		Name        string            `ovsdb:"name"`
		Type        string            `ovsdb:"type"`
		OFPort      *int              `ovsdb:"ofport"`
		MACInUse    *string           `ovsdb:"mac_in_use"`
		AdminState  *string           `ovsdb:"admin_state"`
		LinkState   *string           `ovsdb:"link_state"`
		Error       *string           `ovsdb:"error"`
		MTU         *int              `ovsdb:"mtu"`
		Options     map[string]string `ovsdb:"options"`
		ExternalIDs map[string]string `ovsdb:"external_ids"`
	}
	controllerRow struct {
		UUID      string  `ovsdb:"_uuid"`
		Target    string  `ovsdb:"target"`
		Type      *string `ovsdb:"type"`
		Connected bool    `ovsdb:"is_connected"`
		Role      *string `ovsdb:"role"`
	}
)

// tables are the rows' types by the names of their tables.
var tables = map[string]model.Model{
	"Open_vSwitch": &rootRow{}, "Bridge": &bridgeRow{}, "Port": &portRow{}, "Interface": &interfaceRow{}, "Controller": &controllerRow{},
}

// clientModel is tables as libovsdb wants them; columns are those of each.
var clientModel, columns = func() (model.ClientDBModel, map[string][]string) {
	m, err := model.NewClientDBModel(database, tables)
	if err != nil {
		panic(err) // of the types above
	}
	columns := map[string][]string{}
	for table, row := range tables {
		for _, f := range reflect.VisibleFields(reflect.TypeOf(row).Elem()) {
			if c := f.Tag.Get("ovsdb"); c != "_uuid" {
				columns[table] = append(columns[table], c)
			}
		}
	}
	return m, columns
}()

// newModel joins the types with the server's schema. What the server lacks is an error.
func newModel(schema ovsdb.DatabaseSchema) (model.DatabaseModel, error) {
	if schema.Name != database {
		return model.DatabaseModel{}, fmt.Errorf("ovsdb: schema: it is that of %.40q, not of %s", schema.Name, database)
	}
	m, errs := model.NewDatabaseModel(schema, clientModel)
	if len(errs) > 0 {
		return m, fmt.Errorf("ovsdb: schema: %w", errors.Join(errs...))
	}
	return m, nil
}

// replica is what the server has told of the rows that the tables name.
type replica struct {
	model model.DatabaseModel

	mu      sync.Mutex // guards what follows
	tables  map[string]map[string]entry
	rows    int
	bytes   int
	version uint64 // counts changes
}

// entry is one row. Its digest is of the columns as they were sent, in any order.
type entry struct {
	row    any // pointer to the row's type
	size   int
	digest uint64
}

func newReplica(m model.DatabaseModel) *replica {
	r := &replica{model: m, tables: map[string]map[string]entry{}}
	for table := range tables {
		r.tables[table] = map[string]entry{}
	}
	return r
}

var seed = maphash.MakeSeed()

// digest reads the names of a row's columns, refuses those that nobody asked for, and
// sums them up with their values.
func digest(table string, raw []byte) (sum uint64, err error) {
	dec := json.NewDecoder(bytes.NewReader(raw))
	err = eachKey(dec, func(column string) error {
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return violation("%v", err)
		}
		if column == "_uuid" {
			return nil
		}
		known := false
		for _, c := range columns[table] {
			known = known || c == column
		}
		if !known {
			return violation("column %.40q of table %s, which was not asked for", column, table)
		}
		var h maphash.Hash
		h.SetSeed(seed)
		h.WriteString(column)
		h.WriteByte(0)
		h.Write(value)
		sum += h.Sum64()
		return nil
	})
	return sum, err
}

// parse makes an entry of a whole row.
func (r *replica) parse(table, uuid string, raw []byte) (entry, error) {
	e := entry{size: len(raw) + len(uuid)}
	if len(raw) > maxRow {
		return e, violation("a row of %d bytes in table %s", len(raw), table)
	}
	var err error
	if e.digest, err = digest(table, raw); err != nil {
		return e, err
	}
	var row ovsdb.Row
	if err := json.Unmarshal(raw, &row); err != nil {
		return e, violation("row of table %s: %v", table, err)
	}
	e.row = reflect.New(reflect.TypeOf(tables[table]).Elem()).Interface()
	info, err := r.model.NewModelInfo(e.row)
	if err == nil {
		err = r.model.Mapper.GetRowData(&row, info)
	}
	if err != nil {
		return e, violation("%v", err)
	}
	reflect.ValueOf(e.row).Elem().FieldByName("UUID").SetString(uuid)
	return e, nil
}

// apply takes table updates (RFC 7047 §4.1.5, §4.1.6) into the replica. After an error
// the replica is of no more use.
func (r *replica) apply(raw []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version++
	dec := json.NewDecoder(bytes.NewReader(raw))
	return eachKey(dec, func(table string) error {
		rows := r.tables[table]
		if rows == nil {
			return violation("rows of table %.40q, which was not asked for", table)
		}
		return eachKey(dec, func(uuid string) error {
			if len(uuid) != 36 {
				return violation("a row with the name %.40q", uuid)
			}
			uuid = strings.Clone(uuid)
			var was, is json.RawMessage
			err := eachKey(dec, func(key string) error {
				switch key {
				case "old":
					return dec.Decode(&was)
				case "new":
					return dec.Decode(&is)
				}
				return violation("a row update with %.40q", key)
			})
			if err != nil {
				return err
			}
			return r.change(table, uuid, !isNull(was), is)
		})
	})
}

// change takes one row update: had says that the server thinks the row is known.
func (r *replica) change(table, uuid string, had bool, is []byte) error {
	rows := r.tables[table]
	was, known := rows[uuid]
	switch {
	case had && !known:
		return violation("an update of row %s of table %s, which is not known", uuid, table)
	case !had && known:
		return violation("row %s of table %s, which is known already", uuid, table)
	case !had && isNull(is):
		return violation("an empty update of row %s of table %s", uuid, table)
	}
	if known {
		r.bytes -= was.size
		r.rows--
		delete(rows, uuid)
	}
	if isNull(is) {
		return nil
	}
	e, err := r.parse(table, uuid, is)
	if err != nil {
		return err
	}
	r.bytes += e.size
	r.rows++
	if r.rows > maxRows || r.bytes > maxReplica {
		return violation("more than %d rows or %d bytes of them", maxRows, maxReplica)
	}
	rows[uuid] = e
	return nil
}

// size returns the number of rows, and of changes so far.
func (r *replica) size() (rows int, version uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rows, r.version
}

// compare reads the results of selects of everything (see selectAll) and says which
// rows are not what the replica has, a few of them; nothing when all are.
func (r *replica) compare(order []string, raw []byte) (differ []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	note := func(table, uuid string) {
		if len(differ) < 5 {
			differ = append(differ, table+" "+uuid)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	at, seen := 0, 0
	err = eachElement(dec, func() error {
		if at == len(order) {
			return violation("more results than operations")
		}
		table := order[at]
		at++
		return eachKey(dec, func(key string) error {
			if key != "rows" {
				var skipped json.RawMessage
				if key == "error" {
					return violation("a select of table %s failed", table)
				}
				return dec.Decode(&skipped)
			}
			return eachElement(dec, func() error {
				var row json.RawMessage
				if err := dec.Decode(&row); err != nil {
					return err
				}
				if seen++; seen > maxRows || len(row) > maxRow {
					return violation("too many rows, or a row too large")
				}
				var id struct {
					UUID [2]string `json:"_uuid"`
				}
				if err := json.Unmarshal(row, &id); err != nil {
					return violation("%v", err)
				}
				sum, err := digest(table, row)
				if err != nil {
					return err
				}
				if e, ok := r.tables[table][id.UUID[1]]; !ok || e.digest != sum {
					note(table, id.UUID[1])
				}
				return nil
			})
		})
	})
	switch {
	case err != nil:
		return nil, err
	case at < len(order):
		return nil, violation("%d results of %d operations", at, len(order))
	case len(differ) == 0 && seen != r.rows:
		differ = append(differ, fmt.Sprintf("%d rows where %d are known", seen, r.rows))
	}
	return differ, nil
}
