package store

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A backup is taken while the store is in use, and brings back what was there, the
// identity too.
func TestBackupAndRestore(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	put(t, s, "b", "k", "before")
	var backup bytes.Buffer
	require.NoError(t, s.Backup(&backup))
	put(t, s, "b", "k", "after")
	cluster, key := s.ClusterID(), s.LLDPKey()

	require.NoError(t, Restore(dir, bytes.NewReader(backup.Bytes())))
	require.Equal(t, "after", contents(t, s, "b")["k"], "nothing changes under a store that is open")
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, s.Close())

	s, err = Open(dir, Options{})
	require.NoError(t, err)
	require.Equal(t, "before", contents(t, s, "b")["k"])
	require.NoError(t, s.Close())
	require.NoFileExists(t, filepath.Join(dir, restoreName))

	// What was replaced is a store that opens.
	old := t.TempDir()
	b, err := os.ReadFile(filepath.Join(dir, replacedName))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(old, FileName), b, 0o600))
	s, err = Open(old, Options{})
	require.NoError(t, err)
	require.Equal(t, "after", contents(t, s, "b")["k"])
	require.NoError(t, s.Close())

	// Into an empty directory: the machine is another one.
	fresh := t.TempDir()
	require.NoError(t, Restore(fresh, bytes.NewReader(backup.Bytes())))
	s, err = Open(fresh, Options{})
	require.NoError(t, err)
	require.Equal(t, "before", contents(t, s, "b")["k"])
	require.Equal(t, cluster, s.ClusterID())
	require.Equal(t, key, s.LLDPKey())
	require.NoError(t, s.Close())
	info, err := os.Stat(filepath.Join(fresh, FileName))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

// What is no whole store is refused, and leaves nothing behind.
func TestRestoreRefuses(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	for i := range 200 {
		put(t, s, "b", strings.Repeat("k", i+1), strings.Repeat("v", 1000))
	}
	var backup bytes.Buffer
	require.NoError(t, s.Backup(&backup))
	whole := backup.Bytes()
	for name, b := range map[string][]byte{
		"nothing":     {},
		"text":        []byte("{}"),
		"zeros":       make([]byte, 1<<16),
		"cut":         whole[:len(whole)/2],
		"half zeroed": append(append([]byte{}, whole[:len(whole)/4]...), make([]byte, len(whole)*3/4)...),
	} {
		require.ErrorIs(t, Restore(dir, bytes.NewReader(b)), ErrCorrupt, name)
	}
	require.NoError(t, s.Close())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1)
}
