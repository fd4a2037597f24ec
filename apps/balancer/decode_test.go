package balancer

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/allocation"
)

// The example of the API's description.
const example = `{
  "address": "10.0.0.100",
  "mode": "nat",
  "vlan": 0,
  "listeners": [
    {
      "protocol": "tcp",
      "port": 80,
      "pool": {
        "persistence": "none",
        "members": [
          {"address": "10.0.0.2", "port": 8080, "weight": 1, "admin_state": "up", "backup": false},
          {"address": "10.0.0.3", "port": 8080}
        ],
        "monitor": {"type": "http", "interval": "2s", "timeout": "1s", "rise": 2, "fall": 2, "path": "/healthz", "expected_codes": "200-299"}
      }
    }
  ]
}`

func decode(t testing.TB, name, body string) VIP {
	t.Helper()
	v, err := DecodeVIP(name, []byte(body))
	require.NoError(t, err)
	return v
}

// with returns a document with one listener whose members are given.
func with(members string) string {
	return `{"address":"10.0.0.100","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[` + members + `]}}]}`
}

// top returns a document with more fields.
func top(fields string) string { return `{"address":"10.0.0.100",` + fields + `}` }

// pool returns a document with one listener and fields of its pool.
func pool(fields string) string {
	return `{"address":"10.0.0.100","listeners":[{"protocol":"tcp","port":80,"pool":{` + fields + `}}]}`
}

func monitor(fields string) string { return pool(`"monitor":{` + fields + `}`) }

// repeat joins n texts made of their number.
func repeat(n int, text func(i int) string) string {
	parts := make([]string, n)
	for i := range parts {
		parts[i] = text(i)
	}
	return strings.Join(parts, ",")
}

func TestDecodeExample(t *testing.T) {
	v := decode(t, "web", example)
	require.Equal(t, VIP{
		Name: "web", Address: netip.MustParseAddr("10.0.0.100"), Mode: ModeNAT, Enabled: true,
		AllowedCIDRs: []netip.Prefix{}, OnEmpty: OnEmptyDrop,
		Listeners: []Listener{{
			Protocol: TCP, Port: 80,
			Pool: Pool{
				Persistence: PersistenceNone,
				Members: []Member{
					{Address: netip.MustParseAddr("10.0.0.2"), Port: 8080, Weight: 1, AdminState: AdminUp},
					{Address: netip.MustParseAddr("10.0.0.3"), Port: 8080, Weight: 1, AdminState: AdminUp},
				},
				Monitor: &Monitor{
					Type: MonitorHTTP, Interval: Duration(2 * time.Second), Timeout: Duration(time.Second),
					Rise: 2, Fall: 2, Path: "/healthz", ExpectedCodes: "200-299",
					Via: ViaSwitches, Initial: HealthUnknown, Method: "GET",
				},
			},
		}},
	}, v)
}

func TestDecodeValid(t *testing.T) {
	longest := strings.Repeat("a", 63)
	for _, c := range []struct{ what, name, body string }{
		{"least", "a", `{"address":"10.0.0.100"}`},
		{"longest name", longest, `{"address":"10.0.0.100"}`},
		{"digits and hyphens", "0-a-", `{"address":"10.0.0.100"}`},
		{"no pool", "a", top(`"listeners":[{"protocol":"tcp","port":65535}]`)},
		{"its own name", "a", top(`"name":"a"`)},
		{"read-only fields of any kind", "a", top(`"id":1,"mac":null,"generation":"x","status":[],"created_at":{},"updated_at":false`)},
		{"status of a member", "a", with(`{"address":"10.0.0.2","port":1,"status":{"health":"up"}}`)},
		{"extremes of weight", "a", with(`{"address":"10.0.0.2","port":1,"weight":0},{"address":"10.0.0.3","port":1,"weight":256}`)},
		{"disabled", "a", top(`"enabled":false`)},
		{"one member, two protocols", "a", top(`"listeners":[
			{"protocol":"tcp","port":53,"pool":{"members":[{"address":"10.0.0.2","port":53}]}},
			{"protocol":"udp","port":53,"pool":{"members":[{"address":"10.0.0.2","port":53}]}}]`)},
		{"one member, two ports", "a", with(`{"address":"10.0.0.2","port":1},{"address":"10.0.0.2","port":2}`)},
		{"most members", "a", with(repeat(MaxMembers, func(i int) string { return fmt.Sprintf(`{"address":"10.0.1.%d","port":1}`, i) }))},
		{"most listeners", "a", top(`"listeners":[` + repeat(MaxListeners, func(i int) string { return fmt.Sprintf(`{"protocol":"udp","port":%d}`, i+1) }) + `]`)},
		{"escaped keys and text", "a", `{"\u0061ddress":"10.0.0.\u0031"}`},
		{"space", "a", " \n{ \"address\"\t: \"10.0.0.1\" }\r\n"},
		{"ping", "a", monitor(`"type":"ping"`)},
		{"codes", "a", monitor(`"type":"https","expected_codes":"200,204,300-399"`)},
	} {
		t.Run(c.what, func(t *testing.T) { decode(t, c.name, c.body) })
	}
}

// What an error must be: the REST API answers 400, 409 or 422.
const (
	invalid = iota
	conflict
	unsupported
)

// fields returns the fields an error names, and its kind.
func fields(t testing.TB, err error) (names []string, kind int) {
	t.Helper()
	var list []FieldError
	var bad *InvalidError
	var other *ConflictError
	var missing *UnsupportedError
	switch {
	case errors.As(err, &bad):
		list, kind = bad.Errors, invalid
	case errors.As(err, &missing):
		list, kind = missing.Errors, unsupported
	case errors.As(err, &other):
		require.NotEmpty(t, other.With)
		return []string{other.Field}, conflict
	default:
		require.Fail(t, "neither invalid, conflict nor unsupported", "%v", err)
	}
	for _, e := range list {
		require.NotEmpty(t, e.Reason)
		names = append(names, e.Field)
	}
	return names, kind
}

// invalidVIPs is the table of documents that are refused, each with the field
// that the error must name and no other.
var invalidVIPs = []struct {
	what, name, body string
	field            string
	kind             int
}{
	// The whole.
	{"empty", "a", ``, "body", invalid},
	{"not JSON", "a", `address: 10.0.0.100`, "body", invalid},
	{"cut short", "a", `{"address":"10.0.0.100"`, "body", invalid},
	{"trailing object", "a", `{"address":"10.0.0.100"}{}`, "body", invalid},
	{"trailing text", "a", `{"address":"10.0.0.100"} x`, "body", invalid},
	{"trailing bracket", "a", `{"address":"10.0.0.100"}]`, "body", invalid},
	{"trailing NUL", "a", "{\"address\":\"10.0.0.100\"}\x00", "body", invalid},
	{"trailing comma", "a", `{"address":"10.0.0.100",}`, "body", invalid},
	{"comment", "a", `{"address":"10.0.0.100"/**/}`, "body", invalid},
	{"single quotes", "a", `{'address':'10.0.0.100'}`, "body", invalid},
	{"byte order mark", "a", "\ufeff{\"address\":\"10.0.0.100\"}", "body", invalid},
	{"list", "a", `[{"address":"10.0.0.100"}]`, "body", invalid},
	{"null", "a", `null`, "body", invalid},
	{"string", "a", `"10.0.0.100"`, "body", invalid},
	{"invalid UTF-8", "a", "{\"address\":\"10.0.0.100\",\"name\":\"\xff\"}", "body", invalid},
	{"invalid UTF-8 in a key", "a", "{\"address\":\"10.0.0.100\",\"\xc3\x28\":1}", "body", invalid},
	{"deep lists", "a", strings.Repeat("[", 20000) + strings.Repeat("]", 20000), "body", invalid},
	{"deep lists", "a", top(`"stat":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)), "body", invalid},
	{"deep objects", "a", top(`"stat":` + strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100)), "body", invalid},
	{"NaN", "a", with(`{"address":"10.0.0.2","port":80,"weight":NaN}`), "body", invalid},
	{"infinity", "a", top(`"vlan":Infinity`), "body", invalid},
	{"leading zero", "a", top(`"vlan":01`), "body", invalid},
	{"hexadecimal", "a", top(`"vlan":0x1`), "body", invalid},
	{"control character in a string", "a", "{\"address\":\"10.0.0.100\n\"}", "body", invalid},

	// Names.
	{"empty name", "", `{"address":"10.0.0.100"}`, "name", invalid},
	{"slash in the name", "a/b", `{"address":"10.0.0.100"}`, "name", invalid},
	{"upper case name", "Web", `{"address":"10.0.0.100"}`, "name", invalid},
	{"name too long", strings.Repeat("a", 64), `{"address":"10.0.0.100"}`, "name", invalid},
	{"name with hyphen first", "-a", `{"address":"10.0.0.100"}`, "name", invalid},
	{"name with underscore", "a_b", `{"address":"10.0.0.100"}`, "name", invalid},
	{"name with dot", "a.b", `{"address":"10.0.0.100"}`, "name", invalid},
	{"dots", "..", `{"address":"10.0.0.100"}`, "name", invalid},
	{"name with space", "a b", `{"address":"10.0.0.100"}`, "name", invalid},
	{"name with newline", "a\n", `{"address":"10.0.0.100"}`, "name", invalid},
	{"name with NUL", "a\x00", `{"address":"10.0.0.100"}`, "name", invalid},
	{"Cyrillic look-alike", "wеb", `{"address":"10.0.0.100"}`, "name", invalid},
	{"full-width digits", "１２", `{"address":"10.0.0.100"}`, "name", invalid},
	{"name not of the path", "a", top(`"name":"b"`), "name", invalid},
	{"name of wrong type", "a", top(`"name":7`), "name", invalid},

	// Fields.
	{"unknown field", "a", top(`"adress":"10.0.0.1"`), "adress", invalid},
	{"field in another case", "a", top(`"Mode":"nat"`), "Mode", invalid},
	{"unknown field of a listener", "a", top(`"listeners":[{"protocol":"tcp","port":80,"name":"x"}]`), "listeners[0].name", invalid},
	{"unknown field of a pool", "a", pool(`"algorithm":"rr"`), "listeners[0].pool.algorithm", invalid},
	{"unknown field of a member", "a", with(`{"address":"10.0.0.2","port":80,"wieght":1}`), "listeners[0].pool.members[0].wieght", invalid},
	{"unknown field of a monitor", "a", monitor(`"type":"tcp","url":"/"`), "listeners[0].pool.monitor.url", invalid},
	{"field without a name", "a", top(`"":1`), `""`, invalid},
	{"field with a strange name", "a", top(`"a.b\n":1`), `"a.b\n"`, invalid},
	{"field with a long name", "a", top(`"` + strings.Repeat("x", 1000) + `":1`), `"` + strings.Repeat("x", 40) + `"`, invalid},
	{"field given twice", "a", top(`"address":"10.0.0.100"`), "address", invalid},
	{"field given twice, once escaped", "a", top(`"mode":"nat","m\u006fde":"nat"`), "mode", invalid},
	{"member's field given twice", "a", with(`{"address":"10.0.0.2","port":80,"port":80}`), "listeners[0].pool.members[0].port", invalid},

	// The VIP's address.
	{"no address", "a", `{}`, "address", invalid},
	{"null address", "a", `{"address":null}`, "address", invalid},
	{"number as address", "a", `{"address":167772260}`, "address", invalid},
	{"empty address", "a", `{"address":""}`, "address", invalid},
	{"host name as address", "a", `{"address":"example.org"}`, "address", invalid},
	{"address with a port", "a", `{"address":"10.0.0.100:80"}`, "address", invalid},
	{"address with a mask", "a", `{"address":"10.0.0.100/24"}`, "address", invalid},
	{"address with leading zeros", "a", `{"address":"10.0.0.010"}`, "address", invalid},
	{"address of three parts", "a", `{"address":"10.0.1"}`, "address", invalid},
	{"address part over 255", "a", `{"address":"10.0.0.256"}`, "address", invalid},
	{"space around the address", "a", `{"address":" 10.0.0.100"}`, "address", invalid},
	{"multicast", "a", `{"address":"224.0.0.1"}`, "address", invalid},
	{"IPv6 multicast", "a", `{"address":"ff02::1"}`, "address", invalid},
	{"broadcast", "a", `{"address":"255.255.255.255"}`, "address", invalid},
	{"loopback", "a", `{"address":"127.0.0.1"}`, "address", invalid},
	{"IPv6 loopback", "a", `{"address":"::1"}`, "address", invalid},
	{"unspecified", "a", `{"address":"0.0.0.0"}`, "address", invalid},
	{"IPv6 unspecified", "a", `{"address":"::"}`, "address", invalid},
	{"this network", "a", `{"address":"0.1.2.3"}`, "address", invalid},
	{"link-local", "a", `{"address":"169.254.1.1"}`, "address", invalid},
	{"IPv6 link-local", "a", `{"address":"fe80::1"}`, "address", invalid},
	{"IPv4-mapped IPv6", "a", `{"address":"::ffff:10.0.0.100"}`, "address", invalid},
	{"zone", "a", `{"address":"2001:db8::1%eth0"}`, "address", invalid},

	// Other settings of the VIP.
	{"mode unknown", "a", top(`"mode":"tunnel"`), "mode", invalid},
	{"mode empty", "a", top(`"mode":""`), "mode", invalid},
	{"mode null", "a", top(`"mode":null`), "mode", invalid},
	{"mode upper case", "a", top(`"mode":"NAT"`), "mode", invalid},
	{"sctp in mode conntrack", "a", `{"address":"10.0.0.100","mode":"conntrack","listeners":[{"protocol":"sctp","port":80}]}`, "listeners[0].protocol", unsupported},
	{"source_nat in mode dsr", "a", `{"address":"10.0.0.100","mode":"dsr","source_nat":true}`, "source_nat", invalid},
	{"vlan 4095", "a", top(`"vlan":4095`), "vlan", invalid},
	{"vlan -1", "a", top(`"vlan":-1`), "vlan", invalid},
	{"vlan string", "a", top(`"vlan":"0"`), "vlan", invalid},
	{"enabled as a string", "a", top(`"enabled":"true"`), "enabled", invalid},
	{"enabled as a number", "a", top(`"enabled":1`), "enabled", invalid},
	{"on_empty unknown", "a", top(`"on_empty":"forward"`), "on_empty", invalid},
	{"CIDR as a string", "a", top(`"allowed_cidrs":"10.0.0.0/8"`), "allowed_cidrs", invalid},
	{"CIDR of wrong type", "a", top(`"allowed_cidrs":[10]`), "allowed_cidrs[0]", invalid},
	{"CIDR without length", "a", top(`"allowed_cidrs":["10.0.0.0/8","10.0.0.1"]`), "allowed_cidrs[1]", invalid},
	{"CIDR with host bits", "a", top(`"allowed_cidrs":["10.0.0.1/8"]`), "allowed_cidrs[0]", invalid},
	{"CIDR length 33", "a", top(`"allowed_cidrs":["10.0.0.0/33"]`), "allowed_cidrs[0]", invalid},
	{"CIDR of the other family", "a", top(`"allowed_cidrs":["2001:db8::/32"]`), "allowed_cidrs[0]", invalid},
	{"CIDR twice", "a", top(`"allowed_cidrs":["10.0.0.0/8","10.0.0.0/8"]`), "allowed_cidrs[1]", invalid},
	{"too many CIDRs", "a", top(`"allowed_cidrs":[` + repeat(MaxCIDRs+1, func(i int) string { return fmt.Sprintf(`"10.%d.%d.0/24"`, i/256, i%256) }) + `]`), "allowed_cidrs", invalid},

	// Listeners.
	{"listeners an object", "a", top(`"listeners":{}`), "listeners", invalid},
	{"listeners null", "a", top(`"listeners":null`), "listeners", invalid},
	{"listener a string", "a", top(`"listeners":["tcp:80"]`), "listeners[0]", invalid},
	{"listener null", "a", top(`"listeners":[null]`), "listeners[0]", invalid},
	{"no protocol", "a", top(`"listeners":[{"port":80}]`), "listeners[0].protocol", invalid},
	{"protocol unknown", "a", top(`"listeners":[{"protocol":"icmp","port":80}]`), "listeners[0].protocol", invalid},
	{"protocol a number", "a", top(`"listeners":[{"protocol":6,"port":80}]`), "listeners[0].protocol", invalid},
	{"no port", "a", top(`"listeners":[{"protocol":"tcp"}]`), "listeners[0].port", invalid},
	{"port 0", "a", top(`"listeners":[{"protocol":"tcp","port":0}]`), "listeners[0].port", invalid},
	{"port -0", "a", top(`"listeners":[{"protocol":"tcp","port":-0}]`), "listeners[0].port", invalid},
	{"port 65536", "a", top(`"listeners":[{"protocol":"tcp","port":65536}]`), "listeners[0].port", invalid},
	{"port 65616, which is 80 in 16 bits", "a", top(`"listeners":[{"protocol":"tcp","port":65616}]`), "listeners[0].port", invalid},
	{"port -1", "a", top(`"listeners":[{"protocol":"tcp","port":-1}]`), "listeners[0].port", invalid},
	{"port 2^64+80", "a", top(`"listeners":[{"protocol":"tcp","port":18446744073709551696}]`), "listeners[0].port", invalid},
	{"port of 400 digits", "a", top(`"listeners":[{"protocol":"tcp","port":` + strings.Repeat("8", 400) + `}]`), "listeners[0].port", invalid},
	{"port 1e400", "a", top(`"listeners":[{"protocol":"tcp","port":1e400}]`), "listeners[0].port", invalid},
	{"port 8e1", "a", top(`"listeners":[{"protocol":"tcp","port":8e1}]`), "listeners[0].port", invalid},
	{"port string", "a", top(`"listeners":[{"protocol":"tcp","port":"80"}]`), "listeners[0].port", invalid},
	{"listener twice", "a", top(`"listeners":[{"protocol":"tcp","port":80},{"protocol":"tcp","port":80}]`), "listeners[1].port", conflict},
	{"listener in a range", "a", top(`"listeners":[{"protocol":"tcp","port":80,"port_end":90},{"protocol":"tcp","port":85}]`), "listeners[1].port", conflict},
	{"ranges that overlap", "a", top(`"listeners":[{"protocol":"udp","port":80,"port_end":90},{"protocol":"udp","port":90,"port_end":99}]`), "listeners[1].port", conflict},
	{"all ports and one", "a", top(`"listeners":[{"protocol":"tcp","port":443},{"protocol":"tcp","port":1,"port_end":65535}]`), "listeners[1].port", conflict},
	{"too many listeners", "a", top(`"listeners":[` + repeat(MaxListeners+1, func(i int) string { return fmt.Sprintf(`{"protocol":"udp","port":%d}`, i+1) }) + `]`), "listeners", invalid},
	{"second listener wrong", "a", top(`"listeners":[{"protocol":"tcp","port":80},{"protocol":"tcp","port":0}]`), "listeners[1].port", invalid},

	// Pools.
	{"pool a list", "a", top(`"listeners":[{"protocol":"tcp","port":80,"pool":[]}]`), "listeners[0].pool", invalid},
	{"pool null", "a", top(`"listeners":[{"protocol":"tcp","port":80,"pool":null}]`), "listeners[0].pool", invalid},
	{"persistence unknown", "a", pool(`"persistence":"cookie"`), "listeners[0].pool.persistence", invalid},
	{"members an object", "a", pool(`"members":{}`), "listeners[0].pool.members", invalid},
	{"too many members", "a", with(repeat(MaxMembers+1, func(i int) string { return fmt.Sprintf(`{"address":"10.0.%d.%d","port":1}`, 1+i/256, i%256) })), "listeners[0].pool.members", invalid},

	// Members.
	{"member a string", "a", with(`"10.0.0.2:80"`), "listeners[0].pool.members[0]", invalid},
	{"no member address", "a", with(`{"port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"no member port", "a", with(`{"address":"10.0.0.2"}`), "listeners[0].pool.members[0].port", invalid},
	{"member port 0", "a", with(`{"address":"10.0.0.2","port":0}`), "listeners[0].pool.members[0].port", invalid},
	{"member port 65536", "a", with(`{"address":"10.0.0.2","port":65536}`), "listeners[0].pool.members[0].port", invalid},
	{"member is the VIP", "a", with(`{"address":"10.0.0.100","port":8080}`), "listeners[0].pool.members[0].address", invalid},
	{"member is the VIP, second", "a", with(`{"address":"10.0.0.2","port":80},{"address":"10.0.0.100","port":80}`), "listeners[0].pool.members[1].address", invalid},
	{"member twice", "a", with(`{"address":"10.0.0.2","port":80},{"address":"10.0.0.2","port":80,"weight":2}`), "listeners[0].pool.members[1]", invalid},
	{"member of the other family", "a", with(`{"address":"2001:db8::2","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"IPv4 member of an IPv6 VIP", "a", `{"address":"2001:db8::1","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"address":"10.0.0.2","port":80}]}}]}`, "listeners[0].pool.members[0].address", invalid},
	{"member IPv4-mapped", "a", with(`{"address":"::ffff:10.0.0.2","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"member loopback", "a", with(`{"address":"127.0.0.1","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"member multicast", "a", with(`{"address":"239.1.1.1","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"member broadcast", "a", with(`{"address":"255.255.255.255","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"member unspecified", "a", with(`{"address":"0.0.0.0","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"member link-local", "a", with(`{"address":"169.254.0.5","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"member with leading zeros", "a", with(`{"address":"010.0.0.2","port":80}`), "listeners[0].pool.members[0].address", invalid},
	{"weight -1", "a", with(`{"address":"10.0.0.2","port":80,"weight":-1}`), "listeners[0].pool.members[0].weight", invalid},
	{"weight 257", "a", with(`{"address":"10.0.0.2","port":80,"weight":257}`), "listeners[0].pool.members[0].weight", invalid},
	{"weight 1.5", "a", with(`{"address":"10.0.0.2","port":80,"weight":1.5}`), "listeners[0].pool.members[0].weight", invalid},
	{"weight 1.0", "a", with(`{"address":"10.0.0.2","port":80,"weight":1.0}`), "listeners[0].pool.members[0].weight", invalid},
	{"weight string", "a", with(`{"address":"10.0.0.2","port":80,"weight":"1"}`), "listeners[0].pool.members[0].weight", invalid},
	{"weight null", "a", with(`{"address":"10.0.0.2","port":80,"weight":null}`), "listeners[0].pool.members[0].weight", invalid},
	{"weight true", "a", with(`{"address":"10.0.0.2","port":80,"weight":true}`), "listeners[0].pool.members[0].weight", invalid},
	{"admin_state unknown", "a", with(`{"address":"10.0.0.2","port":80,"admin_state":"off"}`), "listeners[0].pool.members[0].admin_state", invalid},
	{"admin_state boolean", "a", with(`{"address":"10.0.0.2","port":80,"admin_state":true}`), "listeners[0].pool.members[0].admin_state", invalid},
	{"backup a string", "a", with(`{"address":"10.0.0.2","port":80,"backup":"no"}`), "listeners[0].pool.members[0].backup", invalid},
	{"nat member of two listeners", "a", top(`"listeners":[
		{"protocol":"tcp","port":80,"pool":{"members":[{"address":"10.0.0.2","port":8080}]}},
		{"protocol":"tcp","port":81,"pool":{"members":[{"address":"10.0.0.3","port":8080},{"address":"10.0.0.2","port":8080}]}}]`), "listeners[1].pool.members[1]", conflict},

	{"nat member of two ranges", "a", top(`"listeners":[
		{"protocol":"tcp","port":80,"port_end":90,"pool":{"members":[{"address":"10.0.0.2","port":80}]}},
		{"protocol":"tcp","port":100,"pool":{"members":[{"address":"10.0.0.2","port":90}]}}]`), "listeners[1].pool.members[0]", conflict},

	// Monitors.
	{"monitor null", "a", pool(`"monitor":null`), "listeners[0].pool.monitor", invalid},
	{"monitor a string", "a", pool(`"monitor":"http"`), "listeners[0].pool.monitor", invalid},
	{"no type", "a", monitor(`"interval":"2s"`), "listeners[0].pool.monitor.type", invalid},
	{"type unknown", "a", monitor(`"type":"icmp"`), "listeners[0].pool.monitor.type", invalid},
	{"interval a number", "a", monitor(`"type":"tcp","interval":2`), "listeners[0].pool.monitor.interval", invalid},
	{"interval without unit", "a", monitor(`"type":"tcp","interval":"2"`), "listeners[0].pool.monitor.interval", invalid},
	{"interval too short", "a", monitor(`"type":"tcp","interval":"50ms","timeout":"10ms"`), "listeners[0].pool.monitor.interval", invalid},
	{"interval too long", "a", monitor(`"type":"tcp","interval":"2h"`), "listeners[0].pool.monitor.interval", invalid},
	{"interval overflow", "a", monitor(`"type":"tcp","interval":"9999999999h"`), "listeners[0].pool.monitor.interval", invalid},
	{"timeout 0", "a", monitor(`"type":"tcp","timeout":"0s"`), "listeners[0].pool.monitor.timeout", invalid},
	{"timeout negative", "a", monitor(`"type":"tcp","timeout":"-1s"`), "listeners[0].pool.monitor.timeout", invalid},
	{"timeout over the interval", "a", monitor(`"type":"tcp","timeout":"3s"`), "listeners[0].pool.monitor.timeout", invalid},
	{"rise 0", "a", monitor(`"type":"tcp","rise":0`), "listeners[0].pool.monitor.rise", invalid},
	{"fall 11", "a", monitor(`"type":"tcp","fall":11`), "listeners[0].pool.monitor.fall", invalid},
	{"path of tcp", "a", monitor(`"type":"tcp","path":"/"`), "listeners[0].pool.monitor.path", invalid},
	{"path without slash", "a", monitor(`"type":"http","path":"healthz"`), "listeners[0].pool.monitor.path", invalid},
	{"path empty", "a", monitor(`"type":"http","path":""`), "listeners[0].pool.monitor.path", invalid},
	{"path that splits the request", "a", monitor(`"type":"http","path":"/ HTTP/1.1\r\nX: y"`), "listeners[0].pool.monitor.path", invalid},
	{"path too long", "a", monitor(`"type":"http","path":"/` + strings.Repeat("a", 1024) + `"`), "listeners[0].pool.monitor.path", invalid},
	{"codes empty", "a", monitor(`"type":"http","expected_codes":""`), "listeners[0].pool.monitor.expected_codes", invalid},
	{"code 99", "a", monitor(`"type":"http","expected_codes":"99"`), "listeners[0].pool.monitor.expected_codes", invalid},
	{"code +20", "a", monitor(`"type":"http","expected_codes":"+20"`), "listeners[0].pool.monitor.expected_codes", invalid},
	{"codes backwards", "a", monitor(`"type":"http","expected_codes":"299-200"`), "listeners[0].pool.monitor.expected_codes", invalid},
	{"codes open", "a", monitor(`"type":"http","expected_codes":"200-"`), "listeners[0].pool.monitor.expected_codes", invalid},
	{"codes a number", "a", monitor(`"type":"http","expected_codes":200`), "listeners[0].pool.monitor.expected_codes", invalid},
	{"codes of ping", "a", monitor(`"type":"ping","expected_codes":"200"`), "listeners[0].pool.monitor.expected_codes", invalid},
	{"method unknown", "a", monitor(`"type":"http","method":"BREW"`), "listeners[0].pool.monitor.method", invalid},
	{"method of tcp", "a", monitor(`"type":"tcp","method":"GET"`), "listeners[0].pool.monitor.method", invalid},
	{"host that splits the request", "a", monitor(`"type":"http","host":"a\r\nX: y"`), "listeners[0].pool.monitor.host", invalid},
	{"host with a path", "a", monitor(`"type":"https","host":"a/b"`), "listeners[0].pool.monitor.host", invalid},
	{"tls_insecure of http", "a", monitor(`"type":"http","tls_insecure":true`), "listeners[0].pool.monitor.tls_insecure", invalid},
	{"via unknown", "a", monitor(`"type":"tcp","via":"vpn"`), "listeners[0].pool.monitor.via", invalid},
	{"initial down", "a", monitor(`"type":"tcp","initial":"down"`), "listeners[0].pool.monitor.initial", invalid},
	{"source of the other family", "a", monitor(`"type":"tcp","source_address":"2001:db8::1"`), "listeners[0].pool.monitor.source_address", invalid},
	{"source of probes from the host", "a", monitor(`"type":"tcp","via":"host","source_address":"10.0.0.1"`), "listeners[0].pool.monitor.source_address", invalid},
	{"no source in mode dsr", "a", `{"address":"10.0.0.100","mode":"dsr","listeners":[{"protocol":"tcp","port":80,"pool":{"monitor":{"type":"tcp"}}}]}`, "listeners[0].pool.monitor.source_address", invalid},
	{"monitor_address of the other family", "a", with(`{"address":"10.0.0.2","port":80,"monitor_address":"2001:db8::1"}`), "listeners[0].pool.members[0].monitor_address", invalid},
	{"monitor_port 65536", "a", with(`{"address":"10.0.0.2","port":80,"monitor_port":65536}`), "listeners[0].pool.members[0].monitor_port", invalid},
	{"panic_threshold 101", "a", pool(`"panic_threshold":101`), "listeners[0].pool.panic_threshold", invalid},
	{"minimum_healthy -1", "a", pool(`"minimum_healthy":-1`), "listeners[0].pool.minimum_healthy", invalid},
	{"drain_timeout of nat", "a", pool(`"drain_timeout":"5m"`), "listeners[0].pool.drain_timeout", invalid},
	{"drain_timeout negative", "a", pool(`"drain_timeout":"-1s"`), "listeners[0].pool.drain_timeout", invalid},
	{"source_nat of nat", "a", top(`"source_nat":true`), "source_nat", invalid},
	{"port_end below port", "a", top(`"listeners":[{"protocol":"tcp","port":80,"port_end":79}]`), "listeners[0].port_end", invalid},
	{"port_end is port", "a", top(`"listeners":[{"protocol":"tcp","port":80,"port_end":80}]`), "listeners[0].port_end", invalid},
	{"port of a member of a range", "a", top(`"listeners":[{"protocol":"tcp","port":80,"port_end":90,"pool":{"members":[{"address":"10.0.0.2","port":81}]}}]`), "listeners[0].pool.members[0].port", invalid},
	{"port of a member in mode dsr", "a", `{"address":"10.0.0.100","mode":"dsr","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"address":"10.0.0.2","port":81}]}}]}`, "listeners[0].pool.members[0].port", invalid},
	{"connection_rate of udp", "a", top(`"listeners":[{"protocol":"udp","port":80,"connection_rate":5}]`), "listeners[0].connection_rate", invalid},
	{"connection_rate -1", "a", top(`"listeners":[{"protocol":"tcp","port":80,"connection_rate":-1}]`), "listeners[0].connection_rate", invalid},
}

// protocols are documents of every family, protocol, VLAN and kind of port range.
var protocols = []string{
	`{"address":"2001:db8::1","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"address":"2001:db8::2","port":8080}]}}]}`,
	`{"address":"10.0.0.100","vlan":4094,"listeners":[{"protocol":"sctp","port":80,"pool":{"members":[{"address":"10.0.0.2","port":8080}]}}]}`,
	`{"address":"10.0.0.100","listeners":[
		{"protocol":"tcp","port":80,"port_end":89,"pool":{"members":[{"address":"10.0.0.2","port":80}]}},
		{"protocol":"tcp","port":90,"pool":{"members":[{"address":"10.0.0.2","port":90}]}},
		{"protocol":"udp","port":1,"port_end":65535,"pool":{"members":[{"address":"10.0.0.2","port":1}]}}]}`,
}

func TestDecodeProtocols(t *testing.T) {
	for _, body := range protocols {
		v, err := DecodeVIP("a", []byte(body))
		require.NoError(t, err)
		text, err := json.Marshal(v)
		require.NoError(t, err)
		again, err := DecodeVIP("a", text)
		require.NoError(t, err)
		require.Equal(t, v, again)
	}
}

func TestDecodeInvalid(t *testing.T) {
	for _, c := range invalidVIPs {
		t.Run(c.what, func(t *testing.T) {
			v, err := DecodeVIP(c.name, []byte(c.body))
			require.Error(t, err)
			require.Zero(t, v)
			names, kind := fields(t, err)
			require.Equal(t, []string{c.field}, names)
			require.Equal(t, c.kind, kind)
			require.Less(t, len(err.Error()), 500)
		})
	}
}

// All that is wrong is told at once, within reason.
func TestDecodeTellsAll(t *testing.T) {
	_, err := DecodeVIP("a", []byte(top(`"mode":7,"x":1,"listeners":[{"protocol":"tcp","port":0},{}]`)))
	names, _ := fields(t, err)
	require.Equal(t, []string{"mode", "listeners[0].port", "listeners[1].protocol", "listeners[1].port", "x"}, names)

	_, err = DecodeVIP("a", []byte(`{"address":"10.0.0.100","mode":"x","on_empty":"x","listeners":[{"protocol":"x","port":80}]}`))
	names, _ = fields(t, err)
	require.Equal(t, []string{"mode", "on_empty", "listeners[0].protocol"}, names)

	_, err = DecodeVIP("a", []byte(top(repeat(100000, func(i int) string { return fmt.Sprintf(`"x%d":1`, i) }))))
	names, _ = fields(t, err)
	require.Len(t, names, 1, "too many to tell one from the other")
	_, err = DecodeVIP("a", []byte(top(repeat(1000, func(i int) string { return fmt.Sprintf(`"x%d":1`, i) }))))
	names, _ = fields(t, err)
	require.Len(t, names, maxFaults)
}

// What is read can be written back, and again.
func TestReadModifyWrite(t *testing.T) {
	v := decode(t, "web", example)
	v.ID, v.Generation, v.MAC = "7b0f6f7e-5d0c-4a0e-8b1a-0c1d2e3f4a5b", 3, ofproto.MAC{0x02, 0x46, 0x4c, 1, 2, 0xab}
	v.CreatedAt = time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	v.Status = &VIPStatus{Provisioning: ProvisioningActive, Operating: OperatingOnline}
	v.Listeners[0].Pool.Members[0].Status = &MemberStatus{Health: HealthUp, Slots: 8, Switch: "0000000000000001", Port: 3}
	text, err := json.Marshal(v)
	require.NoError(t, err)
	require.Contains(t, string(text), `"mac":"02:46:4c:01:02:ab"`)
	require.NotContains(t, string(text), "null,")

	var read VIP
	require.NoError(t, json.Unmarshal(text, &read))
	read.Status.Switches = nil
	require.Equal(t, v, read)
	require.Equal(t, decode(t, "web", example), decode(t, "web", string(text)))
}

func TestMarshalHasNoNullLists(t *testing.T) {
	text, err := json.Marshal(VIP{Name: "a", Listeners: []Listener{{}}})
	require.NoError(t, err)
	require.NotContains(t, string(text), "null")
	require.NotContains(t, string(text), `"mac"`)
}

func TestDecodeMember(t *testing.T) {
	key := netip.MustParseAddrPort("10.0.0.2:8080")
	m, err := DecodeMember(key, []byte(`{}`))
	require.NoError(t, err)
	require.Equal(t, Member{Address: key.Addr(), Port: 8080, Weight: 1, AdminState: AdminUp}, m)
	m, err = DecodeMember(key, []byte(`{"address":"10.0.0.2","port":8080,"weight":5,"admin_state":"drain","status":{"health":"up"}}`))
	require.NoError(t, err)
	require.Equal(t, Member{Address: key.Addr(), Port: 8080, Weight: 5, AdminState: AdminDrain}, m)

	for _, c := range []struct{ key, body, field string }{
		{"10.0.0.2:8080", ``, "body"},
		{"10.0.0.2:8080", `[]`, "body"},
		{"10.0.0.2:8080", `{"weight":300}`, "weight"},
		{"10.0.0.2:8080", `{"address":"10.0.0.3"}`, "address"},
		{"10.0.0.2:8080", `{"address":7}`, "address"},
		{"10.0.0.2:8080", `{"port":81}`, "port"},
		{"10.0.0.2:8080", `{"port":"8080"}`, "port"},
		{"10.0.0.2:8080", `{"admin_state":"x"}`, "admin_state"},
		{"10.0.0.2:8080", `{"name":"x"}`, "name"},
		{"10.0.0.2:0", `{}`, "port"},
		{"127.0.0.1:80", `{}`, "address"},
		{"[fe80::1%eth0]:80", `{}`, "address"},
	} {
		m, err := DecodeMember(netip.MustParseAddrPort(c.key), []byte(c.body))
		require.Error(t, err, c)
		require.Zero(t, m)
		names, kind := fields(t, err)
		require.Equal(t, invalid, kind)
		require.Contains(t, names, c.field)
	}
}

func TestListenerKey(t *testing.T) {
	for _, s := range []string{"tcp:80", "udp:53", "sctp:65535"} {
		k, err := ParseListenerKey(s)
		require.NoError(t, err)
		require.Equal(t, s, k.String())
	}
	for _, s := range []string{"", "tcp", "tcp:", "tcp:0", "tcp:65536", "tcp:080", "tcp:+80", "TCP:80", "icmp:1", "tcp:80:1", ":80", "tcp: 80"} {
		_, err := ParseListenerKey(s)
		require.Error(t, err, s)
	}
}

func TestParseMAC(t *testing.T) {
	m, err := parseMAC("02:46:4c:00:fF:01")
	require.NoError(t, err)
	require.Equal(t, "02:46:4c:00:ff:01", m.String())
	for _, s := range []string{"", "02:46:4c:00:ff", "02-46-4c-00-ff-01", "02:46:4c:00:ff:0g", "+2:46:4c:00:ff:01", "02:46:4c:00:ff:01 "} {
		_, err := parseMAC(s)
		require.Error(t, err, s)
	}
}

func FuzzDecodeVIP(f *testing.F) {
	f.Add(example)
	f.Add(monitor(`"type":"tcp"`))
	for _, c := range invalidVIPs {
		if len(c.body) < 1000 {
			f.Add(c.body)
		}
	}
	f.Fuzz(func(t *testing.T, body string) {
		text := []byte(body)
		// A tree is made of a document: an empty object costs most. Bodies are of 1 MiB at
		// most.
		allocation.BoundedBy(t, 64, len(text), func() { _, _ = DecodeVIP("web", text) })
		v, err := DecodeVIP("web", text)
		if err != nil {
			names, _ := fields(t, err)
			require.NotEmpty(t, names)
			require.LessOrEqual(t, len(names), maxFaults)
			return
		}
		if v.unaddressed() {
			return // Service.Put has to find out more before it can be judged
		}
		require.NoError(t, validate(v))
		text, err = json.Marshal(v)
		require.NoError(t, err)
		again, err := DecodeVIP("web", text)
		require.NoError(t, err)
		require.Equal(t, v, again)
		var read VIP
		require.NoError(t, json.Unmarshal(text, &read))
		require.Equal(t, v, read)
	})
}

// The worst that fits into a request of 1 MiB.
func BenchmarkDecodeHostile(b *testing.B) {
	for name, body := range map[string]string{
		"objects": top(`"status":[` + repeat(1<<18, func(int) string { return "{}" }) + `]`),
		"numbers": top(`"status":[` + repeat(1<<18, func(int) string { return "1" }) + `]`),
		"keys":    top(repeat(1<<16, func(i int) string { return fmt.Sprintf(`"x%d":1`, i) })),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				_, _ = DecodeVIP("a", []byte(body))
			}
		})
	}
}
