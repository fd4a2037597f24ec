//go:build e2e && soak

package e2e

import (
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestSegmentsUnderLoad has a machine do ten times as much as it can: no port on a segment is
// taken for dead.
func TestSegmentsUnderLoad(t *testing.T) {
	w := newTwins(t)
	for range 20 {
		busy := exec.Command("sh", "-c", "while :; do :; done")
		require.NoError(t, busy.Start())
		t.Cleanup(func() {
			_ = busy.Process.Kill()
			_ = busy.Wait()
		})
	}
	looked := 0
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		s := w.c.segments()
		require.True(t, len(s) == 1 && s[0]["designated"] == 1 && s[0]["blocked"] == 1, "after looking %d times: %v", looked, s)
		require.Equal(t, w.ports[0], w.learned())
		looked++
	}
	t.Logf("looked %d times", looked)
}
