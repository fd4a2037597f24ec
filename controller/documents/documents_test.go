package documents

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDuration(t *testing.T) {
	var d Duration
	require.NoError(t, json.Unmarshal([]byte(`"1m30s"`), &d))
	require.Equal(t, Duration(90*time.Second), d)
	text, err := json.Marshal(d)
	require.NoError(t, err)
	require.Equal(t, `"1m30s"`, string(text))
	for _, bad := range []string{`"90"`, `90`, `""`, `"5 s"`} {
		require.Error(t, json.Unmarshal([]byte(bad), &d), bad)
		require.Equal(t, Duration(90*time.Second), d, "as it was")
	}
}

func TestProbe(t *testing.T) {
	four, six := netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("2001:db8::9")
	for want, p := range map[string]Probe{
		"ping 10.0.0.9":          {Type: ProbePing, Address: four},
		"tcp 10.0.0.9:22 vlan 7": {Type: ProbeTCP, Address: four, Port: 22, VLAN: 7},
		"tcp [2001:db8::9]:22":   {Type: ProbeTCP, Address: six, Port: 22},
		"arp 2001:db8::9 vlan 7": {Type: ProbeARP, Address: six, VLAN: 7},
	} {
		require.Equal(t, want, p.String())
		text, err := json.Marshal(p)
		require.NoError(t, err)
		var back Probe
		require.NoError(t, json.Unmarshal(text, &back))
		require.Equal(t, p, back)
	}
}

func TestJoin(t *testing.T) {
	require.Equal(t, "name: is missing; waves[0].steps: is empty", Join([]FieldError{{"name", "is missing"}, {"waves[0].steps", "is empty"}}))
	require.Empty(t, Join(nil))
}
