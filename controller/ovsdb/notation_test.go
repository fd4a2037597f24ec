package ovsdb

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestChangeText(t *testing.T) {
	for want, c := range map[string]Change{
		`Bridge br0 fail_mode: [] → secure`:                                     {"Bridge", "br0", "fail_mode", `["set",[]]`, `"secure"`},
		`Bridge br0 protocols: [OpenFlow10] → [OpenFlow10, OpenFlow13]`:         {"Bridge", "br0", "protocols", `["set",["OpenFlow10"]]`, `["set",["OpenFlow10","OpenFlow13"]]`},
		`Bridge br0 other_config: a=1 → 2, -b=x, +disable-in-band=true`:         {"Bridge", "br0", "other_config", `["map",[["b","x"],["same","y"],["a","1"]]]`, `["map",[["a","2"],["same","y"],["disable-in-band","true"]]]`},
		`Bridge br0 external_ids: +fairlead=` + strings.Repeat("x", 60) + `…`:   {"Bridge", "br0", "external_ids", `["map",[]]`, `["map",[["fairlead","` + strings.Repeat("x", 61) + `"]]]`},
		`Controller tcp:192.0.2.1:6653 max_backoff: (none) → 1000`:              {"Controller", "tcp:192.0.2.1:6653", "max_backoff", "", "1000"},
		`Controller tcp:192.0.2.1:6653 other_config: {a=b} → (none)`:            {"Controller", "tcp:192.0.2.1:6653", "other_config", `["map",[["a","b"]]]`, ""},
		`Controller tcp:192.0.2.1:6653: (none) → {"target":"tcp:192.0.2.1:6"}`:  {"Controller", "tcp:192.0.2.1:6653", "", "", `{"target":"tcp:192.0.2.1:6"}`},
		`Bridge br0 name: ["map"] → [`:                                          {"Bridge", "br0", "name", `["map"]`, `[`},
		`Bridge br0 controller: ["uuid","550e8400"] → [["uuid","550e8400"], 7]`: {"Bridge", "br0", "controller", `["uuid","550e8400"]`, `["set",[["uuid","550e8400"],7]]`},
	} {
		require.Equal(t, want, c.String())
	}
}
