//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hybridStep is what mininet/hybrid/demo.py reports of one step.
type hybridStep struct {
	Title      string
	Kind       string // cabling, adopt, stage, release
	Seconds    float64
	Lost       map[string]int // by stream
	Most       int            // that a stream lost at one switch, and the reference did not
	Machine    int            // that the reference lost
	Unfit      bool           // the machine stood still: the step is not judged
	Twice      int
	TCP, VIP   []int // broken, open
	Broadcasts []string
	Missed     []string
}

// hybrid tells the story of mininet/hybrid: a legacy campus becomes SDN and legacy again,
// under traffic, by the scripts that a reader of docs/migration.md runs.
func hybrid(t *testing.T, args ...string) (steps []hybridStep) {
	t.Helper()
	binary, err := fairleadBinary()
	require.NoError(t, err)
	report := filepath.Join(t.TempDir(), "report.json")
	// The Python of the system: the one that Ansible is installed for.
	cmd := exec.Command("/usr/bin/python3", append([]string{repositoryFile(t, "mininet/hybrid/demo.py"), "--report", report}, args...)...)
	cmd.Env = append(os.Environ(), "FAIRLEAD_BIN="+binary)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if i := strings.LastIndex(out.String(), "What it cost"); i >= 0 {
		t.Log(out.String()[i:])
	}
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 3) { // 3: something was lost, which is judged here
		require.NoError(t, err, "%s", out.String())
	}
	text, err := os.ReadFile(report)
	require.NoError(t, err, "%s", out.String())
	var doc struct{ Steps []hybridStep }
	require.NoError(t, json.Unmarshal(text, &doc))
	steps = doc.Steps
	require.NotEmpty(t, steps)
	fit := 0
	for _, s := range steps {
		require.Zero(t, s.Twice, "%s: datagrams that arrived twice", s.Title)
		require.Empty(t, s.Broadcasts, "%s: broadcasts that did not arrive once", s.Title)
		if s.Kind == "cabling" || s.Unfit {
			continue
		}
		fit++
		require.Zero(t, s.TCP[0], "%s: TCP connections broken", s.Title)
		if !strings.Contains(s.Title, "the VIP goes") {
			require.Zero(t, s.VIP[0], "%s: connections through the VIP broken", s.Title)
		}
	}
	require.NotZero(t, fit, "the machine stood still in every step")
	return steps
}

// TestHybridCampus migrates the campus and takes it back. What datagrams it costs
// is judged where the machine is not shared (soak): one step in three may be spoilt.
func TestHybridCampus(t *testing.T) {
	until := "access"
	if soak {
		until = "core2"
	}
	steps := hybrid(t, "--until", until)
	if !soak {
		return
	}
	for kind, most := range map[string]int{"adopt": 5, "release": 5, "stage": 0} {
		var lost []int
		for _, s := range steps {
			if s.Kind == kind && !s.Unfit {
				lost = append(lost, s.Most)
			}
		}
		require.NotEmpty(t, lost, kind)
		slices.Sort(lost)
		require.LessOrEqual(t, lost[(len(lost)-1)*2/3], most, "%s: %v", kind, lost)
	}
}

// TestHybridAnsible does the first switch by the playbooks, which change nothing in check
// mode and nothing when they are run again.
func TestHybridAnsible(t *testing.T) {
	until := "core1"
	if soak {
		until = "core2"
	}
	hybrid(t, "--form", "ansible", "--until", until)
}
