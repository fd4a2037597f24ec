//go:build e2e && soak

package e2e

import (
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const soak = true

// TestU10Standalone stops the controller for so long that a switch in fail mode
// standalone forgets everything, which takes it 15 s or more. OpenFlow does not tell the fail mode, so the
// controller can only say what happened, and repair it.
func TestU10Standalone(t *testing.T) {
	l, c, clients, _ := small(t, 3)
	client := clients[0]
	l.ovs.Vsctl("set-fail-mode", "s1", "standalone")
	groups := len(l.ovs.DumpGroups("s1"))
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGSTOP))
	eventually(t, 90*time.Second, "the switch forgets its groups", func() bool { return len(l.ovs.DumpGroups("s1")) == 0 })
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGCONT))
	begin := time.Now()
	eventually(t, 30*time.Second, "the VIP answers", func() bool {
		_, err := client.datagram(netip.AddrPortFrom(client.addr, 0), service(53))
		return err == nil && len(l.ovs.DumpGroups("s1")) == groups
	})
	t.Logf("filled again %v after the controller went on", time.Since(begin).Round(time.Millisecond))
	log, err := os.ReadFile(c.log)
	require.NoError(t, err)
	require.Contains(t, string(log), "the switch came back empty")
}
