package store

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestX09LLDPKey: keys are random, of 256 bits, another for each store, and replaced
// for good.
func TestX09LLDPKey(t *testing.T) {
	seen := map[[32]byte]bool{}
	ones := 0
	for range 20 {
		s := open(t, t.TempDir())
		key := s.LLDPKey()
		require.False(t, seen[key])
		seen[key] = true
		for _, b := range key {
			for ; b > 0; b &= b - 1 {
				ones++
			}
		}
	}
	require.InDelta(t, 20*256/2, ones, 4*36, "bits that are set: four standard deviations")

	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "x", "k", "v")
	old, cluster := s.LLDPKey(), s.ClusterID()
	require.NoError(t, s.NewLLDPKey())
	require.NotEqual(t, old, s.LLDPKey())
	now := s.LLDPKey()
	require.NoError(t, s.Close())
	s = open(t, dir)
	require.Equal(t, now, s.LLDPKey())
	require.Equal(t, cluster, s.ClusterID())
	require.Equal(t, map[string]string{"k": "v"}, contents(t, s, "x"))
	put(t, s, "x", "k", "w") // the page that the old key stood in is used again sooner or later
	require.NoError(t, s.Close())
	info, err := os.Stat(filepath.Join(dir, FileName))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	b, err := os.ReadFile(filepath.Join(dir, FileName))
	require.NoError(t, err)
	require.True(t, bytes.Contains(b, now[:]))
}
