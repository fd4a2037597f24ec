//go:build soak

package main

import (
	"bytes"
	"crypto/sha256"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
)

// TestX10ReproducibleBuild builds the program twice, the second time from another
// directory and with nothing kept from before: the same bytes come of it.
func TestX10ReproducibleBuild(t *testing.T) {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	elsewhere := filepath.Join(t.TempDir(), "elsewhere")
	text, err := exec.Command("cp", "-a", root, elsewhere).CombinedOutput()
	require.NoError(t, err, "%s", text)
	var sums [][32]byte
	for _, dir := range []string{root, elsewhere} {
		out := filepath.Join(t.TempDir(), "fairlead")
		cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", out, "./cmd/fairlead")
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOCACHE="+t.TempDir())
		text, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", text)
		b, err := os.ReadFile(out)
		require.NoError(t, err)
		require.False(t, bytes.Contains(b, []byte(dir)), "the path of the sources is in it")
		sums = append(sums, sha256.Sum256(b))
	}
	require.Equal(t, sums[0], sums[1])
	t.Logf("SHA-256 %x, twice", sums[0])
}

// TestX01AHundredReconnects has a hundred switches connect one after the other, each
// with a certificate of its own: one that came and went so often would be made to wait.
func TestX01AHundredReconnects(t *testing.T) {
	took := func(s *southbound, secure bool) time.Duration {
		begin := time.Now()
		for i := range 100 {
			dpid := uint64(i + 1)
			if !secure {
				s.accepted(ofproto.DPID(dpid), nil).Close()
				continue
			}
			s.accepted(ofproto.DPID(dpid), s.client(s.ca.issue("switch", ecKey(t), nil))).Close()
		}
		return time.Since(begin) / 100
	}
	plain := &southbound{t: t}
	plain.start()
	direct := took(plain, false)
	for _, least := range []string{"1.3", "1.2"} {
		s := newSouthbound(t)
		s.cfg.TLSMin = least
		s.start()
		secured := took(s, true)
		t.Logf("least TLS %s: %v a connection, by plain TCP %v", least, secured, direct)
		require.Less(t, secured, direct+100*time.Millisecond)
	}
}
