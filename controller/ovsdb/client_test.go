package ovsdb

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestEndpoints(t *testing.T) {
	for in, want := range map[string]Endpoint{
		"unix:/run/db.sock": "unix:/run/db.sock", "tcp:192.0.2.1": "tcp:192.0.2.1:6640", "tcp:[2001:db8::0001]:7": "tcp:[2001:db8::1]:7",
		"ssl:host.example:6640": "ssl:host.example:6640", "tcp:[::1]": "tcp:[::1]:6640",
	} {
		e, err := ParseEndpoint(in)
		require.NoError(t, err, in)
		require.Equal(t, want, e)
	}
	for _, in := range []string{"", "unix:", "unix:db.sock", "tcp:", "tcp::6640", "tcp:1.2.3.4:0", "tcp:1.2.3.4:x", "tcp:1.2.3.4:65536", "ptcp:1", "http://a",
		"tcp:a b:1", "unix:/" + strings.Repeat("a", 107)} {
		_, err := ParseEndpoint(in)
		require.Error(t, err, in)
	}
	for _, in := range []string{"tcp:1.2.3.4:1", "ssl:[2001:db8::1]:6653"} {
		require.NoError(t, ParseController(in), in)
	}
	for _, in := range []string{"tcp:host:1", "tcp:1.2.3.4", "tcp:0.0.0.0:1", "ptcp:1", "tcp:1.2.3.4:0", "tcp:1.2.3.4:1 "} {
		require.Error(t, ParseController(in), in)
	}
}

func TestClientFollowsUpdates(t *testing.T) {
	f := newFake(t)
	var write atomic.Pointer[func(string)]
	f.set(nil, func(w func(string)) { write.Store(&w) })
	c := client(t, f.endpoint(), ClientOptions{})
	eventually(t, 5*time.Second, "the inventory is there", func() bool { return sane(c) && write.Load() != nil })
	ofport := func() int {
		inv, err := c.Inventory()
		require.NoError(t, err)
		return inv.Bridges[0].Ports[0].Interfaces[0].OFPort
	}
	(*write.Load())(fmt.Sprintf(`{"id":null,"method":"update","params":["bridges",{"Interface":{"%s":{"old":{"ofport":3},"new":{"ofport":9,%s}}}}]}`, ifaceID, ifaceRest))
	eventually(t, time.Second, "the port has its new number", func() bool { return ofport() == 9 })
	(*write.Load())(fmt.Sprintf(`{"id":null,"method":"update","params":["bridges",{"Interface":{"%s":{"old":{"ofport":9}}}}]}`, ifaceID))
	eventually(t, time.Second, "the interface is gone", func() bool {
		inv, err := c.Inventory()
		require.NoError(t, err)
		return len(inv.Bridges[0].Ports[0].Interfaces) == 0
	})
	require.Equal(t, 1, f.connections())
	// What is compared now differs from what the fake selects: the session ends.
	eventually(t, 10*time.Second, "the replica is made anew", func() bool { return f.connections() > 1 && sane(c) })
}

// TestClientAnswersEcho is asked for a sign of life in the midst of its own requests.
func TestClientAnswersEcho(t *testing.T) {
	f := newFake(t)
	answered := make(chan string, 1)
	f.set(func(method string, _, params json.RawMessage, _ func(string)) bool {
		if method == "" { // an answer
			select {
			case answered <- string(params):
			default:
			}
			return true
		}
		return false
	}, func(w func(string)) { w(`{"id":"echo","method":"echo","params":["x"]}`) })
	c := client(t, f.endpoint(), ClientOptions{})
	<-answered
	eventually(t, time.Second, "the session lasts", func() bool { return sane(c) && f.connections() == 1 })
}

// peak watches how much memory the process has from the system, and how much of it is in
// use at most.
func peak(t *testing.T) func() uint64 {
	t.Helper()
	runtime.GC()
	var most atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/stacks:bytes"}}
		for {
			metrics.Read(s)
			sum := uint64(0)
			for _, v := range s {
				sum += v.Value.Uint64()
			}
			most.Store(max(most.Load(), sum))
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() uint64 { close(stop); <-done; return most.Load() }
}

// quick is the pace of tests of what takes long on purpose.
var quick = pace{setup: time.Second, every: 200 * time.Millisecond, probe: time.Second, again: 50 * time.Millisecond, retry: 10 * time.Millisecond}

// TestP14HostileServer is attacked by a server in every way there is a test for; the
// session ends, another is tried, and with a server that behaves all is well again.
func TestP14HostileServer(t *testing.T) {
	const bound, recovery = 128 << 20, 10 * time.Second
	flood := func(begin, fill string, size int, end string) func(func(string)) {
		return func(w func(string)) {
			w(begin)
			chunk := strings.Repeat(fill, 1<<20/len(fill))
			for n := 0; n < size; n += len(chunk) {
				w(chunk)
			}
			w(end)
		}
	}
	update := func(s string) func(func(string)) {
		return func(w func(string)) { w(`{"id":null,"method":"update","params":["bridges",` + s + `]}`) }
	}
	reply := func(method, result string) func(string, json.RawMessage, json.RawMessage, func(string)) bool {
		return func(m string, id, _ json.RawMessage, w func(string)) bool {
			if m != method {
				return false
			}
			w(`{"id":` + string(id) + `,"result":` + result + `,"error":null}`)
			return true
		}
	}
	iface := func(rest string) string {
		return `{"Interface":{"` + ifaceID + `":{"old":{"ofport":3},"new":{` + rest + `}}}}`
	}
	other := "00000000-0000-4000-8000-0000000000ff"
	many := func(n int, rest string) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"00000000-0000-4000-8000-%012d":{"new":{%s}}`, i+100, rest)
		}
		return `{"Interface":{` + b.String()[1:] + `}}`
	}
	type attack struct {
		answer func(string, json.RawMessage, json.RawMessage, func(string)) bool
		greet  func(func(string))
	}
	attacks := map[string]attack{
		"a row of 500 MB":                 {greet: flood(`{"id":null,"method":"update","params":["bridges",{"Interface":{"`+ifaceID+`":{"old":{},"new":{"name":"`, "a", 500<<20, `"}}}}]}`)},
		"a row of 500 MB of empty arrays": {greet: flood(`{"id":null,"method":"update","params":["bridges",{"Interface":{"`+ifaceID+`":{"old":{},"new":{"name":[`, "[],", 500<<20, `1]}}}}]}`)},
		"a monitor's answer of 500 MB": {answer: func(m string, id, _ json.RawMessage, w func(string)) bool {
			if m == "monitor" {
				flood(`{"id":`+string(id)+`,"error":null,"result":{"Interface":{`, `"x":{},`, 500<<20, `}}}`)(w)
				return true
			}
			return false
		}},
		"a message just within the bound": {answer: func(m string, id, _ json.RawMessage, w func(string)) bool {
			if m == "monitor" {
				flood(`{"id":`+string(id)+`,"error":null,"result":{"Interface":{`, `"00000000-0000-4000-8000-000000000000":{},`, maxMessage-3<<20, `"":{}}}}`)(w)
				return true
			}
			return false
		}},
		"a schema of 7 MB":             {answer: reply("get_schema", `{"name":"Open_vSwitch","version":"1","tables":{"a":{"columns":{"b":{"type":{"key":{"type":"string","enum":["set",[`+strings.Repeat("[],", 7<<20/3)+`1]]}}}}}}}`)},
		"an answer of 7 MB to a probe": {answer: reply("transact", `[{"rows":[`+strings.Repeat("{},", 7<<20/3)+`{}]}]`)},
		"brackets without end":         {greet: flood(`{"a":`, "[", 1<<20, "")},
		"bytes without end":            {greet: flood(``, "\x00", 1<<20, "")},
		"too many rows":                {greet: update(many(maxRows+1, `"name":"a"`))},
		"an unknown column":            {greet: update(iface(`"ofport":3,"colour":"red",` + ifaceRest))},
		"an unknown table":             {greet: update(`{"Secret":{"` + other + `":{"new":{"name":"x"}}}}`)},
		"a row that is not known":      {greet: update(`{"Interface":{"` + other + `":{"old":{"ofport":3},"new":{"ofport":4,` + ifaceRest + `}}}}`)},
		"the end of a row not known":   {greet: update(`{"Interface":{"` + other + `":{"old":{"ofport":3}}}}`)},
		"a row that is known, new":     {greet: update(`{"Interface":{"` + ifaceID + `":{"new":{"ofport":3,` + ifaceRest + `}}}}`)},
		"a row with a bad name":        {greet: update(`{"Interface":{"x":{"new":{"ofport":3,` + ifaceRest + `}}}}`)},
		"an empty row update":          {greet: update(`{"Interface":{"` + other + `":{}}}`)},
		"an empty set":                 {greet: update(iface(`"ofport":[],` + ifaceRest))},
		"a set that is none":           {greet: update(iface(`"ofport":["set",3],` + ifaceRest))},
		"a map of one":                 {greet: update(iface(`"ofport":3,"name":"p1","external_ids":["map",[["a"]]]`))},
		"null for a number":            {greet: update(iface(`"ofport":["set",[null]],` + ifaceRest))},
		"text for a number":            {greet: update(iface(`"ofport":"three",` + ifaceRest))},
		"an update without parameters": {greet: func(w func(string)) { w(`{"id":null,"method":"update","params":[]}`) }},
		"an update of null":            {greet: func(w func(string)) { w(`{"id":null,"method":"update","params":null}`) }},
		"an update by another version": {greet: func(w func(string)) {
			w(`{"id":null,"method":"update3","params":[{"databaseName":"Open_vSwitch","id":"x"},"0",{}]}`)
		}},
		"a cancelled monitor":            {greet: func(w func(string)) { w(`{"id":null,"method":"monitor_canceled","params":["bridges"]}`) }},
		"an answer to nothing":           {greet: func(w func(string)) { w(`{"id":4711,"result":{},"error":null}`) }},
		"an answer twice":                {greet: func(w func(string)) { w(`{"id":1,"result":{},"error":null}`) }},
		"an answer with a text for id":   {greet: func(w func(string)) { w(`{"id":"1","result":{},"error":null}`) }},
		"invalid JSON":                   {greet: func(w func(string)) { w(`{"id":null,"method":"update","params":[1,}]}`) }},
		"invalid UTF-8":                  {greet: func(w func(string)) { w("{\"id\":null,\"method\":\"update\",\"params\":[\"\xff\xfe\",{}]}") }},
		"no JSON":                        {greet: func(w func(string)) { w("HTTP/1.1 400 Bad Request\r\n\r\n") }},
		"a schema without a table":       {answer: reply("get_schema", strings.Replace(fakeSchema(), `"Interface":`, `"Interfaces":`, 1))},
		"a schema without a column":      {answer: reply("get_schema", strings.Replace(fakeSchema(), `"ofport":`, `"of_port":`, 1))},
		"a schema with other types":      {answer: reply("get_schema", strings.Replace(fakeSchema(), `"ofport":{"type":{"key":"integer"`, `"ofport":{"type":{"key":"string"`, 1))},
		"a schema with a bad enum":       {answer: reply("get_schema", strings.Replace(fakeSchema(), `"stp_enable":{"type":"boolean"}`, `"stp_enable":{"type":{"key":{"type":"string","enum":["set"]}}}`, 1))},
		"a schema with nothing in it":    {answer: reply("get_schema", `{"name":"Open_vSwitch","tables":{"Bridge":{"columns":{"name":{}}}}}`)},
		"the schema of another database": {answer: reply("get_schema", strings.Replace(fakeSchema(), `"Open_vSwitch"`, `"hardware_vtep"`, 1))},
		"null for a schema":              {answer: reply("get_schema", `null`)},
		"answers in another order": {answer: func() func(string, json.RawMessage, json.RawMessage, func(string)) bool {
			return func(m string, id, _ json.RawMessage, w func(string)) bool {
				if m == "get_schema" {
					w(`{"id":1,"result":` + fakeRows + `,"error":null}`)
					w(`{"id":` + string(id) + `,"result":` + fakeSchema() + `,"error":null}`)
					return true
				}
				return false
			}
		}()},
		"rows for a schema":     {answer: reply("get_schema", fakeRows)},
		"a schema for rows":     {answer: reply("monitor", fakeSchema())},
		"a number for rows":     {answer: reply("monitor", `7`)},
		"no answer to a probe":  {answer: func(m string, _, _ json.RawMessage, _ func(string)) bool { return m == "transact" }},
		"no answer to anything": {answer: func(m string, _, _ json.RawMessage, _ func(string)) bool { return true }},
		"a bridge of copies of one port": {answer: reply("monitor", strings.Replace(strings.Replace(fakeRows,
			`"ports":["uuid","`+portID+`"]`, `"ports":["set",[`+strings.Repeat(`["uuid","`+portID+`"],`, 4000)+`["uuid","`+portID+`"]]]`, 1),
			`"interfaces":["uuid","`+ifaceID+`"]`, `"interfaces":["set",[`+strings.Repeat(`["uuid","`+ifaceID+`"],`, 4000)+`["uuid","`+ifaceID+`"]]]`, 1))},
	}
	before := runtime.NumGoroutine()
	t.Run("attacks", func(t *testing.T) {
		for name, a := range attacks {
			t.Run(name, func(t *testing.T) {
				f := newFake(t)
				f.set(a.answer, a.greet)
				most := peak(t)
				c := client(t, f.endpoint(), ClientOptions{}, quick)
				eventually(t, 60*time.Second, "the session is dropped and another tried", func() bool {
					_, _ = c.Inventory() // somebody looks all the time
					return f.connections() >= 2
				})
				f.set(nil, nil)
				f.cut()
				begin := time.Now()
				eventually(t, recovery, "the replica is made anew", func() bool { return sane(c) })
				n := most()
				t.Logf("recovered %v after the server behaved; at most %d MiB", time.Since(begin).Round(time.Millisecond), n>>20)
				require.LessOrEqual(t, n, uint64(bound))
			})
		}
	})
	eventually(t, 5*time.Second, "goroutines are back to where they were", func() bool { return runtime.NumGoroutine() <= before })
}

// TestR14SilentMonitor loses the updates of a server that otherwise works.
func TestR14SilentMonitor(t *testing.T) {
	f := newFake(t)
	c := client(t, f.endpoint(), ClientOptions{})
	eventually(t, 5*time.Second, "the inventory is there", func() bool { return sane(c) })
	f.set(func(m string, id, _ json.RawMessage, w func(string)) bool {
		result := ""
		switch m {
		case "monitor":
			result = strings.Replace(fakeRows, `"ofport":3`, `"ofport":8`, 1)
		case "transact":
			result = strings.Replace(fakeSelect, `"ofport":3`, `"ofport":8`, 1)
		default:
			return false
		}
		w(`{"id":` + string(id) + `,"result":` + result + `,"error":null}`)
		return true
	}, nil)
	begin := time.Now()
	eventually(t, 10*time.Second, "the change is seen", func() bool {
		inv, err := c.Inventory()
		return err == nil && inv.Bridges[0].Ports[0].Interfaces[0].OFPort == 8
	})
	took := time.Since(begin)
	t.Logf("seen after %v", took.Round(time.Millisecond))
	require.LessOrEqual(t, took, 5*time.Second)
	require.Equal(t, 2, f.connections())
}

func FuzzUpdates(f *testing.F) {
	for _, s := range []string{
		fakeRows, `{}`, `{"Interface":{"` + ifaceID + `":{"old":{},"new":{"ofport":["set",[]],` + ifaceRest + `}}}}`,
		`{"Interface":{"` + ifaceID + `":{"old":null}}}`, `{"Port":{"` + portID + `":{"new":{"trunks":["set",[1,2]],"interfaces":["named-uuid","a"]}}}}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := testModel()
		require.NoError(t, err)
		r := newReplica(m)
		k := newConn(nil, r.apply)
		// As a message comes in: panics of the library are contained there.
		_ = k.handle([]byte(`{"id":null,"method":"update","params":` + string(b) + `}`))
		_ = r.inventory()
	})
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte(`{"a":["}\"",{}]} {"b":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		frames := newFrames(strings.NewReader(string(b)))
		n := 0
		for {
			m, err := frames.next()
			if err != nil {
				return
			}
			if n += len(m); n > len(b) || m[0] != '{' {
				t.Fatalf("%q of %q", m, b)
			}
		}
	})
}
