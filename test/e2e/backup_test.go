//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// fairlead runs a client command against the controller and returns what it printed.
func (c *controller) fairlead(args ...string) (string, error) {
	c.t.Helper()
	path, err := fairleadBinary()
	if err != nil {
		c.t.Fatal(err)
	}
	args = append([]string{"netns", "exec", c.lab.ns.name, path}, args...)
	out, err := exec.Command("ip", append(args, "--server", "http://"+restAddress)...).CombinedOutput()
	return string(out), err
}

// TestR10BackupAndRestore loses the store after a backup and more changes: the backup
// brings the VIPs of its time back, and what the switch holds of later ones goes only
// when an operator agrees. Traffic of the VIP that both know never stops.
func TestR10BackupAndRestore(t *testing.T) {
	t.Parallel()
	l := singleLab(t, secure, 4)
	client, servers := l.hosts[0], l.hosts[1:]
	for _, h := range servers {
		h.serveEcho(5353)
	}
	c := l.control("managed")
	l.sweep()
	c.put("dns", vipDoc{Address: vip.String(), Listeners: []listenerDoc{listener("udp", 53, members(5353, servers...))}})
	stream := client.udpStream(service(53))
	stream.flows(t, 200)

	file := filepath.Join(t.TempDir(), "backup")
	out, err := c.fairlead("backup", file)
	require.NoError(t, err, out)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	c.put("later", vipDoc{Address: "10.0.0.101", Listeners: []listenerDoc{listener("udp", 54, members(5354, servers...))}})
	c.quiet()
	groups := len(l.ovs.DumpGroups("s1"))
	c.stop()
	c.start() // a term that the backup does not know
	c.quiet()
	c.kill()
	require.NoError(t, os.RemoveAll(c.data))

	c.launch()
	c.wait("the switch is held: the store is another one", func() bool { return c.status("GET", "/readyz", nil) == http.StatusServiceUnavailable })
	require.NoError(t, os.WriteFile(file+".bad", []byte("no backup"), 0o600))
	out, err = c.fairlead("restore", file+".bad")
	require.Error(t, err)
	require.Contains(t, out, "not a backup")
	before := l.tap.mods()
	out, err = c.fairlead("restore", file)
	require.NoError(t, err, out)
	c.wait("the VIP is known again", func() bool { return c.status("GET", "/v1/vips/dns", nil) == http.StatusOK })
	c.wait("the switch is held: the backup is older", func() bool { return c.status("GET", "/readyz", nil) == http.StatusServiceUnavailable })
	c.quiet()
	require.Equal(t, before, l.tap.mods(), "messages that change the switch")
	require.Len(t, l.ovs.DumpGroups("s1"), groups)

	out, err = c.fairlead("switch", "confirm", l.switches()[0])
	require.NoError(t, err, out)
	c.ready()
	c.wait("what came after the backup is gone", func() bool { return len(l.ovs.DumpGroups("s1")) < groups })
	require.Equal(t, http.StatusNotFound, c.status("GET", "/v1/vips/later", nil))
	c.serves("dns")
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())
}
