package ovsdb

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// mostOfValue is how much of one value a person is shown.
const mostOfValue = 60

// String returns the change in one line, for people: values are written as ovs-vsctl
// does, and of a map only what differs. Long values are cut.
func (c Change) String() string {
	at := strings.TrimSpace(c.Table + " " + c.Row + " " + c.Column)
	before, isMap := pairs(c.Before)
	after, alsoMap := pairs(c.After)
	if !isMap || !alsoMap {
		return fmt.Sprintf("%s: %s → %s", at, notation(c.Before), notation(c.After))
	}
	var diff []string
	for _, p := range before {
		switch i := slices.IndexFunc(after, func(o [2]string) bool { return o[0] == p[0] }); {
		case i < 0:
			diff = append(diff, "-"+p[0]+"="+cut(p[1]))
		case after[i][1] != p[1]:
			diff = append(diff, p[0]+"="+cut(p[1])+" → "+cut(after[i][1]))
		}
	}
	for _, p := range after {
		if !slices.ContainsFunc(before, func(o [2]string) bool { return o[0] == p[0] }) {
			diff = append(diff, "+"+p[0]+"="+cut(p[1]))
		}
	}
	return at + ": " + strings.Join(diff, ", ")
}

// notation writes a value of RFC 7047 (§5.1) as ovs-vsctl does; what is none is left as
// it is.
func notation(value string) string {
	if value == "" {
		return "(none)"
	}
	if p, ok := pairs(value); ok {
		list := make([]string, len(p))
		for i, one := range p {
			list[i] = one[0] + "=" + cut(one[1])
		}
		return "{" + strings.Join(list, ", ") + "}"
	}
	var members []json.RawMessage
	if tagged(value, "set", &members) {
		list := make([]string, len(members))
		for i, m := range members {
			list[i] = cut(scalar(m))
		}
		return "[" + strings.Join(list, ", ") + "]"
	}
	return cut(scalar(json.RawMessage(value)))
}

// tagged reads the members of a value of a kind: ["set", […]], ["map", […]].
func tagged(value, kind string, members any) bool {
	var pair []json.RawMessage
	var is string
	return json.Unmarshal([]byte(value), &pair) == nil && len(pair) == 2 && json.Unmarshal(pair[0], &is) == nil && is == kind && json.Unmarshal(pair[1], members) == nil
}

// pairs reads a map, ordered by its keys.
func pairs(value string) (list [][2]string, ok bool) {
	var raw [][2]json.RawMessage
	if !tagged(value, "map", &raw) {
		return nil, false
	}
	for _, p := range raw {
		list = append(list, [2]string{scalar(p[0]), scalar(p[1])})
	}
	slices.SortFunc(list, func(a, b [2]string) int { return cmp.Compare(a[0], b[0]) })
	return list, true
}

// scalar writes a text without its quotes, and all else as it stands.
func scalar(raw json.RawMessage) string {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return s
	}
	return string(raw)
}

func cut(s string) string {
	if r := []rune(s); len(r) > mostOfValue {
		return string(r[:mostOfValue]) + "…"
	}
	return s
}
