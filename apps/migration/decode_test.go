package migration

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/test/allocation"
)

const whole = `{
	"name": "campus", "confirm_timeout": "60s", "source_address": "10.0.0.250", "vips": ["web"],
	"probes": [{"type": "ping", "address": "10.0.0.9"}, {"type": "tcp", "address": "10.0.0.9", "port": 22, "vlan": 7}, {"type": "arp", "address": "fe80::1"}],
	"waves": [
		{"name": "access", "steps": [
			{"endpoint": "tcp:192.0.2.1", "bridge": "a1", "stage": "steer", "controllers": ["tcp:192.0.2.9:6653"], "discard_flows": true, "canary": true},
			{"dpid": "00000000000000A2", "stage": "managed"}]},
		{"steps": [{"endpoint": "tcp:192.0.2.1", "bridge": "a1", "stage": "released"}]}
	]}`

func TestDecodeDescription(t *testing.T) {
	d, err := DecodeDescription("campus", []byte(whole))
	require.NoError(t, err)
	require.Equal(t, Description{
		Name: "campus", ConfirmTimeout: documents.Duration(time.Minute), SourceAddress: netip.MustParseAddr("10.0.0.250"), VIPs: []string{"web"},
		Probes: []documents.Probe{
			{Type: documents.ProbePing, Address: netip.MustParseAddr("10.0.0.9")}, {Type: documents.ProbeTCP, Address: netip.MustParseAddr("10.0.0.9"), Port: 22, VLAN: 7},
			{Type: documents.ProbeARP, Address: netip.MustParseAddr("fe80::1")},
		},
		Waves: []Wave{
			{Name: "access", Steps: []Step{
				{Endpoint: "tcp:192.0.2.1:6640", Bridge: "a1", Stage: "steer", Controllers: []string{"tcp:192.0.2.9:6653"}, DiscardFlows: true, Canary: true},
				{DPID: "00000000000000a2", Stage: "managed"},
			}},
			{Name: "wave-2", Steps: []Step{{Endpoint: "tcp:192.0.2.1:6640", Bridge: "a1", Stage: "released"}}},
		},
	}, d)
	require.Equal(t, "tcp 10.0.0.9:22 vlan 7", d.Probes[1].String())
	require.Equal(t, "tcp:192.0.2.1:6640 a1 to released", d.Waves[1].Steps[0].String())

	// What the API shows can be sent again.
	shown, err := json.Marshal(d)
	require.NoError(t, err)
	again, err := DecodeDescription("campus", shown)
	require.NoError(t, err)
	require.Equal(t, d, again)

	d, err = DecodeDescription("x", []byte(`{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer"}]}]}`))
	require.NoError(t, err)
	require.Equal(t, DefaultConfirmTimeout, d.ConfirmTimeout)
}

// Whatever is wrong is refused, with the field.
func TestDecodeNamesTheField(t *testing.T) {
	good := `"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer"}]}]`
	for body, field := range map[string]string{
		`{}`:                         "waves",
		`[]`:                         "body",
		`{` + good + `} x`:           "body",
		`{` + good:                   "body",
		`{` + good + `,"of":1}`:      "of",
		`{` + good + `,"vips":null}`: "vips",
		`{` + good + `,"vips":["web"],"vips":["web"]}`:                                                                      "vips",
		`{` + good + `,"vips":["web","web"]}`:                                                                               "vips[1]",
		`{` + good + `,"vips":["Web"]}`:                                                                                     "vips[0]",
		`{` + good + `,"vips":[1]}`:                                                                                         "vips",
		`{` + good + `,"name":"other"}`:                                                                                     "name",
		`{` + good + `,"confirm_timeout":"1s"}`:                                                                             "confirm_timeout",
		`{` + good + `,"confirm_timeout":60}`:                                                                               "confirm_timeout",
		`{` + good + `,"confirm_timeout":""}`:                                                                               "confirm_timeout",
		`{` + good + `,"source_address":"10.0.0"}`:                                                                          "source_address",
		`{` + good + `,"source_address":"224.0.0.1"}`:                                                                       "source_address",
		`{` + good + `,"probes":[{"type":"ping","address":"10.0.0.9"}]}`:                                                    "source_address",
		`{` + good + `,"source_address":"::2","probes":[{"type":"ping","address":"10.0.0.9"}]}`:                             "source_address",
		`{` + good + `,"probes":[{"type":"arp"}]}`:                                                                          "probes[0].address",
		`{` + good + `,"probes":[{"type":"http","address":"10.0.0.9"}]}`:                                                    "probes[0].type",
		`{` + good + `,"source_address":"10.0.0.2","probes":[{"type":"tcp","address":"10.0.0.9"}]}`:                         "probes[0].port",
		`{` + good + `,"probes":[{"type":"arp","address":"10.0.0.9","port":1}]}`:                                            "probes[0].port",
		`{` + good + `,"probes":[{"type":"arp","address":"10.0.0.9","vlan":5000}]}`:                                         "probes[0].vlan",
		`{` + good + `,"probes":[{"type":"arp","address":"10.0.0.9","vlan":"1"}]}`:                                          "probes[0].vlan",
		`{` + good + `,"probes":[1]}`:                                                                                       "probes[0]",
		`{"waves":[{"steps":[]}]}`:                                                                                          "waves[0].steps",
		`{"waves":[{"name":"A","steps":[{"dpid":"0000000000000001","stage":"steer"}]}]}`:                                    "waves[0].name",
		`{"waves":[{"steps":[{"dpid":"1","stage":"steer"}]}]}`:                                                              "waves[0].steps[0].dpid",
		`{"waves":[{"steps":[{"dpid":1,"stage":"steer"}]}]}`:                                                                "waves[0].steps[0].dpid",
		`{"waves":[{"steps":[{"stage":"steer"}]}]}`:                                                                         "waves[0].steps[0]",
		`{"waves":[{"steps":[{"dpid":"0000000000000001"}]}]}`:                                                               "waves[0].steps[0].stage",
		`{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"released"}]}]}`:                                            "waves[0].steps[0].stage",
		`{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer","bridge":"b"}]}]}`:                                  "waves[0].steps[0].bridge",
		`{"waves":[{"steps":[{"dpid":"0000000000000001","endpoint":"unix:/a","stage":"steer"}]}]}`:                          "waves[0].steps[0]",
		`{"waves":[{"steps":[{"endpoint":"unix:a","bridge":"b","stage":"steer"}]}]}`:                                        "waves[0].steps[0].endpoint",
		`{"waves":[{"steps":[{"endpoint":"unix:/a","stage":"steer"}]}]}`:                                                    "waves[0].steps[0].bridge",
		`{"waves":[{"steps":[{"endpoint":"unix:/a","bridge":"b","stage":"steer","controllers":["x"]}]}]}`:                   "waves[0].steps[0].controllers[0]",
		`{"waves":[{"steps":[{"endpoint":"unix:/a","bridge":"b","stage":"released","controllers":["x"]}]}]}`:                "waves[0].steps[0]",
		`{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer"},{"dpid":"0000000000000001","stage":"managed"}]}]}`: "waves[0].steps[1]",
		`{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer","canary":true},{"dpid":"0000000000000002","stage":"steer","canary":true}]}]}`:       "waves[0].steps[1].canary",
		`{"waves":[{"name":"a","steps":[{"dpid":"0000000000000001","stage":"steer"}]},{"name":"a","steps":[{"dpid":"0000000000000001","stage":"steer"}]}]}`: "waves[1].name",
		`{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer","now":1}]}]}`:                                                                       "waves[0].steps[0].now",
	} {
		_, err := DecodeDescription("campus", []byte(body))
		invalid := new(InvalidError)
		require.ErrorAs(t, err, &invalid, body)
		var fields []string
		for _, e := range invalid.Errors {
			require.NotEmpty(t, e.Reason)
			fields = append(fields, e.Field)
		}
		require.Contains(t, fields, field, body)
	}
	_, err := DecodeDescription("-x", []byte(`{`+good+`}`))
	require.ErrorContains(t, err, "name")
	_, err = DecodeDescription("x", []byte(`{"vips":[`+strings.Repeat(`"a",`, 1000)+`"a"],`+good+`}`))
	require.ErrorContains(t, err, "vips: has more than 256")
}

// One thing that is wrong is told once, in words that say what to write.
func TestDecodeTellsOnce(t *testing.T) {
	good := `"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer"}]}]`
	for body, want := range map[string]string{
		`{}`:                                                  "waves: is missing",
		`{"waves":[ ]}`:                                       "waves: is empty",
		`{"waves":{"a":1}}`:                                   "waves: is not a list",
		`{"waves":null}`:                                      "waves: is null",
		`{"waves":["a"]}`:                                     "waves[0]: is not an object with fields",
		`{"waves":[{"name":"w"}]}`:                            "waves[0].steps: is missing",
		`{"waves":[{"steps":[]}]}`:                            "waves[0].steps: is empty",
		`{"name":7,` + good + `}`:                             "name: is not a text: write it in quotes",
		`{"name":["a"],` + good + `}`:                         "name: is not a text",
		`{"vips":"web",` + good + `}`:                         "vips: is not a list of texts",
		`{"confirm_timeout":60,` + good + `}`:                 "confirm_timeout: is not a duration from 5s to 24h, such as 5m",
		`{"confirm_timeout":"1 minute",` + good + `}`:         `confirm_timeout: "1 minute" is not a duration from 5s to 24h, such as 5m`,
		`{"waves":[{"steps":[{"dpid":1,"stage":"steer"}]}]}`:  "waves[0].steps[0].dpid: is not a text: write it in quotes",
		`{"waves":[{"steps":[{"dpid":"0000000000000001"}]}]}`: "waves[0].steps[0].stage: is required: one of released, observe, steer, managed",
		`{"waves":[{"steps":[{"dpid":"0000000000000001","stage":true}]}]}`:    "waves[0].steps[0].stage: is not a text: write it in quotes",
		`{"waves":[{"steps":[{"endpoint":"unix:/a","stage":"steer"}]}]}`:      "waves[0].steps[0].bridge: is required with endpoint",
		`{"waves":[{"steps":[{"stage":"steer"}]}]}`:                           "waves[0].steps[0]: needs endpoint and bridge, or dpid: one of the two",
		`{"waves":[{"steps":[{"endpoint":7,"bridge":"b","stage":"steer"}]}]}`: "waves[0].steps[0].endpoint: is not a text: write it in quotes",
		`{"probes":[{"type":"arp","adress":"10.0.0.1"}],` + good + `}`:        "probes[0].address: is required; probes[0].adress: unknown field",
	} {
		_, err := DecodeDescription("campus", []byte(body))
		require.EqualError(t, err, "migration: invalid description: "+want, body)
	}
	_, err := DecodeDescription("A_b", []byte(`{"name":"A_b",`+good+`}`))
	require.EqualError(t, err, `migration: invalid description: name: "A_b" must be 1 to 63 of a-z, 0-9 and -, not beginning with -`)
}

func FuzzDecodeDescription(f *testing.F) {
	f.Add([]byte(whole))
	f.Fuzz(func(t *testing.T, body []byte) {
		// A tree is made of a document: bodies are of 1 MiB at most.
		allocation.BoundedBy(t, 64, len(body), func() { _, _ = DecodeDescription("campus", body) })
		d, err := DecodeDescription("campus", body)
		if err != nil {
			invalid := new(InvalidError)
			require.ErrorAs(t, err, &invalid)
			return
		}
		shown, err := json.Marshal(d)
		require.NoError(t, err)
		again, err := DecodeDescription("campus", shown)
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}
