package balancer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Defaults of a monitor.
const (
	defaultInterval = Duration(2 * time.Second)
	defaultTimeout  = Duration(time.Second)
	defaultRiseFall = 2
	defaultPath     = "/"
	defaultMethod   = "GET"
	defaultCodes    = "200-299"
)

// maxDepth, maxList and maxKeys are more than any document has: depth, entries of a list,
// fields of an object.
const (
	maxDepth = 16
	maxList  = max(MaxMembers, MaxListeners, MaxCIDRs) + 1
	maxKeys  = 4096
)

// DecodeVIP reads the document of the VIP called name and fills in its defaults.
// It is strict: fields that are unknown, given twice or of the wrong type, null,
// and anything after the document are errors. Fields that the server gives are
// ignored, so that a document that was read can be changed and written back; a
// name, if there is one, must be the name. A member with an interface may have no
// address yet: what depends on it is found by Service.Put. The error is *InvalidError,
// *ConflictError or *UnsupportedError.
func DecodeVIP(name string, body []byte) (VIP, error) {
	var bad faults
	v := VIP{Name: name}
	if root := parseObject(&bad, body); root != nil {
		if !validName(name) {
			bad.add("name", "must be 1 to 63 of a-z, 0-9 and -, not beginning with -")
		} else if given := root.text("name", name); given != name {
			bad.add("name", "must be %s, as in the path, or be left out", name)
		}
		v.Address = root.address("address")
		v.Mode = Mode(root.text("mode", string(ModeNAT)))
		v.VLAN = uint16(root.integer("vlan", 0, 4094, 0))
		v.Enabled = root.boolean("enabled", true)
		v.OnEmpty = root.text("on_empty", OnEmptyDrop)
		v.SourceNAT = root.boolean("source_nat", false)
		v.AllowedCIDRs = []netip.Prefix{}
		for i, e := range root.list("allowed_cidrs", MaxCIDRs) {
			v.AllowedCIDRs = append(v.AllowedCIDRs, prefix(&bad, fmt.Sprintf("allowed_cidrs[%d]", i), e))
		}
		v.Listeners = []Listener{}
		for _, o := range root.objects("listeners", MaxListeners) {
			v.Listeners = append(v.Listeners, o.listener())
		}
		root.end("name", "id", "mac", "generation", "created_at", "updated_at", "status")
	}
	if len(bad) > 0 {
		return VIP{}, &InvalidError{bad}
	}
	if v.unaddressed() {
		return v, nil // until its addresses are known
	}
	if err := validate(v); err != nil {
		return VIP{}, err
	}
	return v, nil
}

// DecodeMember reads the document of the member with that key and fills in its
// defaults, as strictly as DecodeVIP. Address and port may be left out; otherwise
// they must be those of the key. The error is *InvalidError; what depends on the
// VIP is found by Intents.PutMember.
func DecodeMember(key MemberKey, body []byte) (Member, error) {
	var bad faults
	m := Member{Address: key.Addr(), Port: key.Port()}
	if root := parseObject(&bad, body); root != nil {
		if root.has("address") && root.address("address") != m.Address {
			bad.add("address", "must be %s, as in the path, or be left out", m.Address)
		}
		if root.has("port") && root.integer("port", 1, 65535, 0) != int(m.Port) {
			bad.add("port", "must be %d, as in the path, or be left out", m.Port)
		}
		root.memberSettings(&m)
	}
	if len(bad) == 0 {
		checkMember(&bad, "", netip.Addr{}, m)
	}
	if len(bad) > 0 {
		return Member{}, &InvalidError{bad}
	}
	return m, nil
}

func (o *object) listener() Listener {
	l := Listener{
		Protocol: Protocol(o.text("protocol", "")),
		Port:     uint16(o.integer("port", 1, 65535, 0)),
		PortEnd:  uint16(o.integer("port_end", 0, 65535, 0)),

		ConnectionRate: o.integer("connection_rate", 0, maxRate, 0),

		Pool: Pool{Persistence: PersistenceNone, Members: []Member{}},
	}
	o.require("protocol", "port")
	if p := o.object("pool"); p != nil {
		l.Pool.Persistence = Persistence(p.text("persistence", string(PersistenceNone)))
		for _, m := range p.objects("members", MaxMembers) {
			l.Pool.Members = append(l.Pool.Members, m.member())
		}
		l.Pool.PanicThreshold = p.integer("panic_threshold", 0, 100, 0)
		l.Pool.MinimumHealthy = p.integer("minimum_healthy", 0, MaxMembers, 0)
		l.Pool.DrainTimeout = p.duration("drain_timeout", 0)
		if m := p.object("monitor"); m != nil {
			l.Pool.Monitor = m.monitor()
		}
		p.end()
	}
	o.end("status")
	return l
}

func (o *object) member() Member {
	m := Member{Port: uint16(o.integer("port", 1, 65535, 0))}
	if o.has("address") || o.text("interface", "") == "" {
		m.Address = o.address("address")
	}
	o.require("port")
	o.memberSettings(&m)
	return m
}

// memberSettings reads what is left once address and port are read.
func (o *object) memberSettings(m *Member) {
	if m.Interface = o.text("interface", ""); m.Interface == "" && o.has("interface") || !validInterface(m.Interface) {
		o.bad.add(o.path("interface"), "must be 1 to %d bytes without control characters or spaces at its ends", maxInterface)
	}
	m.Weight = o.integer("weight", 0, MaxWeight, 1)
	m.AdminState = AdminState(o.text("admin_state", string(AdminUp)))
	m.Backup = o.boolean("backup", false)
	if o.has("monitor_address") {
		m.MonitorAddress = o.address("monitor_address")
	}
	m.MonitorPort = uint16(o.integer("monitor_port", 0, 65535, 0))
	o.end("status")
}

func (o *object) monitor() *Monitor {
	m := &Monitor{
		Type:     MonitorType(o.text("type", "")),
		Interval: o.duration("interval", defaultInterval),
		Timeout:  o.duration("timeout", defaultTimeout),
		Rise:     o.integer("rise", 1, maxRiseFall, defaultRiseFall),
		Fall:     o.integer("fall", 1, maxRiseFall, defaultRiseFall),
		Via:      Via(o.text("via", string(ViaSwitches))),
		Initial:  Health(o.text("initial", string(HealthUnknown))),

		TLSInsecure: o.boolean("tls_insecure", false),
	}
	if o.has("source_address") {
		m.SourceAddress = o.address("source_address")
	}
	o.require("type")
	path, codes, method := "", "", ""
	if m.Type.http() {
		path, codes, method = defaultPath, defaultCodes, defaultMethod
	}
	m.Method = o.text("method", method)
	m.Host = o.text("host", "")
	m.Path = o.text("path", path)
	m.ExpectedCodes = o.text("expected_codes", codes)
	o.end()
	return m
}

// object is a JSON object on its way into a value. Its methods take a field each
// and add to the faults; on a fault they return the default or zero.
type object struct {
	bad    *faults
	prefix string         // of the paths of its fields: "" or "listeners[0]."
	keys   []string       // in the order of the document
	fields map[string]any // *object, []any, string, json.Number, bool or nil
	taken  map[string]bool
}

// parseObject reads the whole of body as one object.
func parseObject(bad *faults, body []byte) *object {
	if !utf8.Valid(body) {
		bad.add("body", "is not UTF-8")
		return nil
	}
	// The decoder below is lenient in places; this is the judge of the syntax, of
	// what follows the document too.
	var raw json.RawMessage
	if err := json.Unmarshal(body, &raw); err != nil {
		bad.add("body", "is not JSON: %s", strings.TrimPrefix(err.Error(), "json: "))
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	v, ok := parseValue(bad, d, func() string { return "" }, 0)
	if !ok {
		return nil
	}
	o, ok := v.(*object)
	if !ok {
		bad.add("body", "must be an object, is %s", kind(v))
	}
	return o
}

// set gives the object a field.
func (o *object) set(name string, v any) {
	if o.fields == nil {
		o.fields = map[string]any{}
	}
	o.keys = append(o.keys, name)
	o.fields[name] = v
}

// parseValue reads the next value; false says that the document is too deep. path
// is called only where the value has parts.
func parseValue(bad *faults, d *json.Decoder, path func() string, depth int) (any, bool) {
	if depth > maxDepth {
		bad.add("body", "is nested deeper than %d", maxDepth)
		return nil, false
	}
	token, err := d.Token()
	if err != nil { // the syntax is known to be right
		bad.add("body", "is not JSON: %v", err)
		return nil, false
	}
	switch token {
	case json.Delim('{'):
		o := &object{bad: bad}
		if p := path(); p != "" {
			o.prefix = p + "."
		}
		for d.More() {
			key, _ := d.Token()
			name, _ := key.(string)
			if len(o.keys) == maxKeys {
				bad.add(o.path(name), "is one field too many: there are at most %d", maxKeys)
				return nil, false
			}
			if name == "status" { // nothing reads one, and it may be longer than all the rest
				var skipped json.RawMessage
				_ = d.Decode(&skipped) // the syntax is known to be right
				o.set(name, nil)
				continue
			}
			v, ok := parseValue(bad, d, func() string { return o.path(name) }, depth+1)
			if !ok {
				return nil, false
			}
			if _, twice := o.fields[name]; twice {
				bad.add(o.path(name), "is given twice")
				continue
			}
			o.set(name, v)
		}
		d.Token() // }
		return o, true
	case json.Delim('['):
		list, here := []any{}, path()
		for d.More() {
			v, ok := parseValue(bad, d, func() string { return fmt.Sprintf("%s[%d]", here, len(list)) }, depth+1)
			if !ok {
				return nil, false
			}
			if len(list) == maxList {
				bad.add(here, "has more than %d entries", maxList)
				return nil, false
			}
			list = append(list, v)
		}
		d.Token() // ]
		return list, true
	}
	return token, true
}

// kind names the JSON type of a value.
func kind(v any) string {
	switch v.(type) {
	case *object:
		return "an object"
	case []any:
		return "a list"
	case string:
		return "a string"
	case json.Number:
		return "a number"
	case bool:
		return "a boolean"
	}
	return "null"
}

// path returns the path of a field. Names of fields come from outside: what is
// no plain name is quoted, and cut.
func (o *object) path(name string) string {
	plain := func(r rune) bool {
		return r == '_' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9'
	}
	if name == "" || len(name) > 40 || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		name = fmt.Sprintf("%+.40q", name)
	}
	return o.prefix + name
}

func (o *object) has(name string) bool {
	_, ok := o.fields[name]
	return ok
}

// take returns a field of type T; false says that it is missing or wrong.
func take[T any](o *object, name, want string) (T, bool) {
	if o.taken == nil {
		o.taken = map[string]bool{}
	}
	o.taken[name] = true
	v, there := o.fields[name]
	t, ok := v.(T)
	if there && !ok {
		o.bad.add(o.path(name), "must be %s, is %s", want, kind(v))
	}
	return t, ok
}

// require adds a fault for each field that is missing.
func (o *object) require(names ...string) {
	for _, name := range names {
		if !o.has(name) {
			o.bad.add(o.path(name), "is missing")
		}
	}
}

// end adds a fault for each field that was neither taken nor is to be ignored.
func (o *object) end(ignored ...string) {
	for _, name := range o.keys {
		if !o.taken[name] && !slices.Contains(ignored, name) {
			o.bad.add(o.path(name), "is not a field of this document")
		}
	}
}

func (o *object) text(name, fallback string) string {
	if s, ok := take[string](o, name, "a string"); ok {
		return s
	}
	return fallback
}

func (o *object) boolean(name string, fallback bool) bool {
	if b, ok := take[bool](o, name, "a boolean"); ok {
		return b
	}
	return fallback
}

func (o *object) integer(name string, low, high, fallback int) int {
	number, ok := take[json.Number](o, name, "a number")
	if !ok {
		return fallback
	}
	n, err := strconv.Atoi(number.String())
	switch {
	case strings.ContainsAny(number.String(), ".eE"):
		o.bad.add(o.path(name), "must be a whole number")
	case err != nil || n < low || n > high:
		o.bad.add(o.path(name), "must be %d to %d", low, high)
	default:
		return n
	}
	return fallback
}

func (o *object) duration(name string, fallback Duration) Duration {
	s, ok := take[string](o, name, "a string")
	if !ok {
		return fallback
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		o.bad.add(o.path(name), `must be a duration, as "500ms" or "5s"`)
		return fallback
	}
	return Duration(d)
}

func (o *object) address(name string) netip.Addr {
	o.require(name)
	s, ok := take[string](o, name, "a string")
	if !ok {
		return netip.Addr{}
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		o.bad.add(o.path(name), "is not an IP address")
	}
	return a
}

func (o *object) list(name string, limit int) []any {
	l, _ := take[[]any](o, name, "a list")
	if len(l) > limit {
		o.bad.add(o.path(name), "must be at most %d", limit)
		return nil
	}
	return l
}

func (o *object) objects(name string, limit int) []*object {
	var objects []*object
	for i, v := range o.list(name, limit) {
		if e, ok := v.(*object); ok {
			objects = append(objects, e)
		} else {
			o.bad.add(fmt.Sprintf("%s[%d]", o.path(name), i), "must be an object, is %s", kind(v))
		}
	}
	return objects
}

func (o *object) object(name string) *object {
	e, _ := take[*object](o, name, "an object")
	return e
}

func prefix(bad *faults, field string, v any) netip.Prefix {
	s, ok := v.(string)
	if !ok {
		bad.add(field, "must be a string, is %s", kind(v))
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		bad.add(field, "is not a network, as 10.0.0.0/8")
	}
	return p
}
