//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// migration is what the tests read of GET /v1/migrations/{name}.
type migration struct {
	State, Reason, Next string
	Applied             []string
	Run                 *struct {
		Wave, Phase, Retrying string
	}
	Checkpoints []struct{ N int }
	Plan        struct {
		Failed int
		Waves  []struct {
			Steps []struct {
				From  string
				OVSDB []struct{ Column, Before, After string }
			}
		}
	}
	Audit []struct{ Who, What string }
}

func (c *controller) migration(name string) (m migration) {
	c.t.Helper()
	require.Equal(c.t, http.StatusOK, c.rest("GET", "/v1/migrations/"+name, nil, &m))
	return m
}

// describe writes a description and returns the file's name.
func (l *lab) describe(text string, args ...any) string {
	l.t.Helper()
	file := filepath.Join(l.t.TempDir(), "migration.yaml")
	require.NoError(l.t, os.WriteFile(file, fmt.Appendf(nil, text, args...), 0o600))
	return file
}

// state waits until a migration is in a state.
func (c *controller) reaches(name, state string, within time.Duration) (m migration) {
	c.t.Helper()
	eventually(c.t, within, "migration "+name+" is "+state, func() bool {
		return c.rest("GET", "/v1/migrations/"+name, nil, &m) == http.StatusOK && m.State == state
	})
	return m
}

// TestMigrateBridge takes a bridge through the stages and back under traffic: every wave
// is confirmed, rolled back, or not confirmed in time.
func TestMigrateBridge(t *testing.T) {
	l := bareLab(t, 3)
	l.sweep()
	before, dpid := l.written(), l.dpid()
	c := l.serving("observe")
	file := l.describe(`
name: campus
confirm_timeout: 5s
waves:
  - name: steer
    steps:
      - {endpoint: "%[1]s", bridge: s1, stage: steer}
  - name: managed
    steps:
      - {dpid: "%[2]s", stage: managed}
  - name: back
    steps:
      - {endpoint: "%[1]s", bridge: s1, stage: released}
`, l.db(), dpid)

	c.succeeds("migrate", "plan", "-f", file, "--dry-run")
	require.Equal(t, http.StatusNotFound, c.rest("GET", "/v1/migrations/campus", nil, nil))
	out := c.succeeds("migrate", "plan", "-f", file, "--verbose")
	t.Log(out)
	require.Equal(t, before, l.written(), "a plan changes nothing")
	require.Equal(t, "planned", c.migration("campus").State)
	require.Zero(t, c.migration("campus").Plan.Failed)
	c.succeeds("migrate", "apply", "campus", "--dry-run")
	require.Equal(t, before, l.written(), "nor does a dry run")

	// Not confirmed in time.
	t.Log(c.succeeds("migrate", "apply", "campus"))
	require.NotEqual(t, before, l.written())
	m := c.reaches("campus", "rolled_back", 30*time.Second)
	require.Contains(t, m.Reason, "not confirmed")
	require.Equal(t, before, l.written(), "every column")
	require.Equal(t, []string{"priority=0 actions=NORMAL"}, entries(l.ovs.DumpFlows("s1")))

	// Through all stages.
	_, r := l.under(func() {
		c.succeeds("migrate", "apply", "campus")
		c.succeeds("migrate", "confirm", "campus")
	})
	t.Logf("adopted: %v", r)
	_, r = l.under(func() {
		t.Log(c.succeeds("migrate", "apply", "campus"))
		c.succeeds("migrate", "confirm", "campus")
	})
	t.Logf("managed: %v", r)
	require.Equal(t, "back", c.migration("campus").Next)
	_, r = l.under(func() { t.Log(c.succeeds("migrate", "rollback", "campus")) })
	t.Logf("rolled back to steer: %v", r)
	require.Equal(t, []string{"steer"}, c.migration("campus").Applied)
	c.succeeds("migrate", "apply", "campus")
	c.succeeds("migrate", "confirm", "campus")
	c.succeeds("migrate", "apply", "campus")
	require.Equal(t, before, l.written(), "released")
	c.succeeds("migrate", "confirm", "campus")
	require.Equal(t, "completed", c.migration("campus").State)
	c.succeeds("migrate", "rollback", "campus", "--to", "1")
	require.Equal(t, before, l.written())
	t.Log(c.succeeds("migrate", "status", "campus"))
	c.succeeds("migrate", "delete", "campus")
}
