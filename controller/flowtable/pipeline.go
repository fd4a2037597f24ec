package flowtable

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fairlead/fairlead/ofproto"
)

// Pipeline is the declared layout of the flow tables. Every compiled flow is
// checked against it, and docs/pipeline.md is printed from it.
type Pipeline struct {
	// Version goes into every cookie (4 bits). It changes when a table changes its
	// meaning, so that flows of the old layout are told from those of the new.
	Version uint8
	Tables  []TableSpec

	folded bool // into the first table: see Fold
}

// TableSpec declares one flow table.
type TableSpec struct {
	ID      ofproto.Table
	Name    string
	Purpose string
	// Match lists the fields an entry of this table may match on.
	Match []ofproto.FieldType
	// Next lists the tables an entry may go to; always higher numbers (§5.9.2).
	Next []ofproto.Table
	// Extension: the table is there only on switches that have more than the
	// specification, and many tables. It comes after all others, and is not folded.
	Extension bool
	// Rows describes the kinds of entry, from the highest priority to the lowest.
	Rows []RowSpec
}

// RowSpec describes one kind of entry for the reader, and its priority for the check.
type RowSpec struct {
	Priority uint16
	App      AppID
	Stages   string // stages in which it is installed
	Match    string
	Does     string
}

// Table returns the declaration of a table.
func (p *Pipeline) Table(id ofproto.Table) (TableSpec, bool) {
	for _, t := range p.Tables {
		if t.ID == id {
			return t, true
		}
	}
	return TableSpec{}, false
}

// Check says what of a flow the pipeline does not declare: its table, the
// priority for this app, a match field, or the table it goes to.
func (p *Pipeline) Check(app AppID, f Flow) error {
	t, ok := p.Table(f.Table)
	if p.folded && ok {
		return nil // its parts were checked before they were folded
	}
	if !ok {
		return fmt.Errorf("flowtable: table %d is not declared", f.Table)
	}
	if !slices.ContainsFunc(t.Rows, func(r RowSpec) bool { return r.Priority == f.Priority && r.App == app }) {
		return fmt.Errorf("flowtable: table %s declares no priority %d for app %d", t.Name, f.Priority, app)
	}
	for field := range f.Match.Fields() {
		if !slices.Contains(t.Match, field.Type) {
			return fmt.Errorf("flowtable: table %s does not match on %s", t.Name, f.Match)
		}
	}
	for _, in := range f.Instructions {
		if g, ok := in.(ofproto.GotoTable); ok && !slices.Contains(t.Next, g.Table) {
			return fmt.Errorf("flowtable: table %s does not go to table %d", t.Name, g.Table)
		}
	}
	return nil
}

// Markdown prints the pipeline for docs/pipeline.md. apps names the app ids.
func (p *Pipeline) Markdown(apps map[AppID]string) string {
	var b strings.Builder
	b.WriteString("| table | name | purpose | goes to |\n|---|---|---|---|\n")
	name := func(id ofproto.Table) string {
		t, _ := p.Table(id)
		return t.Name
	}
	for _, t := range p.Tables {
		var next []string
		for _, n := range t.Next {
			next = append(next, name(n))
		}
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s |\n", t.ID, t.Name, t.Purpose, strings.Join(next, ", "))
	}
	for _, t := range p.Tables {
		fmt.Fprintf(&b, "\n## Table %d: %s\n\n%s\n\n", t.ID, t.Name, t.Purpose)
		b.WriteString("| priority | app | stages | match | what it does |\n|---|---|---|---|---|\n")
		for _, r := range t.Rows {
			fmt.Fprintf(&b, "| %d | %s | %s | %s | %s |\n", r.Priority, apps[r.App], r.Stages, r.Match, r.Does)
		}
	}
	return b.String()
}
