package ofproto

import (
	"bytes"
	"cmp"
	"iter"
	"slices"
	"strings"
)

// NewMatch makes a canonical match of fields; of two of the same field the first
// counts. No fields match everything.
func NewMatch(fields ...Field) Match {
	var stack [fewFields]Field
	list, size := stack[:0], 0
	for _, f := range fields {
		list = insertField(list, f)
		size += 8 + len(f.Value) + len(f.Mask) // at least what it takes
	}
	if len(list) == 0 {
		return nil
	}
	return appendFields(make(Match, 0, size), list)
}

// fewFields is how many fields a match has at most as a rule.
const fewFields = 16

// insertField puts a field where it belongs in a canonical list, if it matches
// anything and is not there yet. The list is short.
func insertField(list []Field, f Field) []Field {
	f, ok := f.canonical()
	if !ok {
		return list
	}
	i := len(list)
	for i > 0 && compareFields(list[i-1], f) > 0 {
		i--
	}
	if i > 0 && compareFields(list[i-1], f) == 0 {
		return list
	}
	return slices.Insert(list, i, f)
}

func appendFields(m Match, list []Field) Match {
	for _, f := range list {
		m = f.appendTo(m)
	}
	return m
}

// compareFields orders the specification's own fields first and by number, which
// puts every field after the ones it depends on (§7.2.3.6), also those of other classes.
func compareFields(a, b Field) int {
	if x, y := a.Type>>16 == classBasic, b.Type>>16 == classBasic; x != y {
		if x {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Experimenter, b.Experimenter))
}

// canonical drops a mask that covers the whole field and cuts the value to the
// mask; ok is false where nothing is left to match. It does not change f's bytes.
func (f Field) canonical() (_ Field, ok bool) {
	if f.Mask == nil {
		return f, true
	}
	// The bits over the field's size mean nothing, in a mask either.
	unused := 0
	if bits := f.Type.Bits(); bits > 0 {
		unused = 8*len(f.Mask) - bits
	}
	all, none := true, true
	for i, m := range f.Mask {
		want := byte(0xff) >> min(8, max(0, unused-8*i))
		all = all && m&want == want
		none = none && m&want == 0
	}
	if none {
		return Field{}, false
	}
	if all {
		f.Mask = nil
		return f, true
	}
	value := slices.Clone(f.Value)
	for i := range value {
		value[i] &= f.Mask[i]
	}
	f.Value = value
	return f, true
}

// Fields runs over the fields in the order they stand. It stops at bytes that are
// no field, which a match from Parse or NewMatch does not have.
func (m Match) Fields() iter.Seq[Field] {
	return func(yield func(Field) bool) {
		for b := []byte(m); len(b) > 0; {
			f, n, err := parseField(b)
			if err != nil || !yield(f) {
				return
			}
			b = b[n:]
		}
	}
}

// Lookup finds a field by type, not by experimenter.
func (m Match) Lookup(t FieldType) (Field, bool) {
	for b := []byte(m); len(b) > 0; {
		f, n, err := parseField(b)
		if err != nil {
			break
		}
		if f.Type == t {
			return f, true
		}
		b = b[n:]
	}
	return Field{}, false
}

// InPort is the ingress port the match has; ok is false where it has none.
func (m Match) InPort() (port Port, ok bool) {
	f, ok := m.Lookup(FieldInPort)
	return Port(f.Uint()), ok
}

// Canonical returns the canonical form of the match, in bytes of its own.
func (m Match) Canonical() Match { return m.AppendCanonical(nil) }

// AppendCanonical appends the canonical form of the match to b. It allocates nothing
// for a match of few fields when b has room.
func (m Match) AppendCanonical(b Match) Match {
	if b, ok := m.appendSorted(b); ok {
		return b
	}
	var stack [fewFields]Field
	list := stack[:0]
	for rest := []byte(m); len(rest) > 0; {
		f, n, err := parseField(rest)
		if err != nil {
			break
		}
		list = insertField(list, f)
		rest = rest[n:]
	}
	return appendFields(b, list)
}

// appendSorted is AppendCanonical for what most matches are: few fields of the
// specification's own class without a mask, which are only to be brought in order. ok
// is false for others.
func (m Match) appendSorted(b Match) (_ Match, ok bool) {
	var stack [fewFields][]byte
	n := 0
	for rest := []byte(m); len(rest) > 0; n++ {
		f, size, err := parseField(rest)
		if err != nil || n == len(stack) || f.Type>>16 != classBasic || f.Mask != nil {
			return b, false
		}
		i := n
		for i > 0 && stack[i-1][2] >= rest[2] { // the third byte is the field
			if stack[i-1][2] == rest[2] {
				return b, false
			}
			stack[i] = stack[i-1]
			i--
		}
		stack[i] = rest[:size]
		rest = rest[size:]
	}
	for _, f := range stack[:n] {
		b = append(b, f...)
	}
	return b, true
}

// Equal says that two matches are the same bytes, which for canonical ones means
// that they match the same packets.
func (m Match) Equal(o Match) bool { return bytes.Equal(m, o) }

// String returns the fields separated by commas, "in_port=1,eth_type=0x0800,ipv4_dst=10.0.0.0/24",
// and "" for the match of everything.
func (m Match) String() string {
	var s strings.Builder
	for f := range m.Fields() {
		if s.Len() > 0 {
			s.WriteByte(',')
		}
		s.WriteString(f.String())
	}
	return s.String()
}

const matchTypeOXM = 1

// appendMatch appends the match with its header and padding (§7.2.3.1).
func appendMatch(b []byte, m Match) []byte {
	start := len(b)
	b = be.AppendUint16(b, matchTypeOXM)
	b = be.AppendUint16(b, uint16(4+len(m)))
	b = append(b, m...)
	return pad8(b, start)
}

// parseMatch reads the match that b begins with; n counts header and padding too.
func parseMatch(b []byte) (m Match, n int, err error) {
	if len(b) < 8 {
		return nil, 0, fail("match", len(b), ErrTruncated)
	}
	if be.Uint16(b) != matchTypeOXM {
		return nil, 0, fail("match", 0, ErrValue)
	}
	l := int(be.Uint16(b[2:]))
	if l < 4 {
		return nil, 0, fail("match", 2, ErrLength)
	}
	n = roundUp8(l)
	if n > len(b) {
		return nil, 0, fail("match", 2, ErrTruncated)
	}
	for off := 4; off < l; {
		_, size, err := parseField(b[off:l])
		if err != nil {
			return nil, 0, within("match", off, err)
		}
		off += size
	}
	return clip(b[4:l]), n, nil
}
