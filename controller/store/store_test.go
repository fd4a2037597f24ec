package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
)

// childDir makes this test binary a writer that never stops, for TestR01Killed.
const childDir = "FAIRLEAD_STORE_TEST_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		writeForever(dir)
	}
	os.Exit(m.Run())
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func put(t testing.TB, s *Store, bucket, key, value string) {
	t.Helper()
	require.NoError(t, s.Update(context.Background(), func(tx *Tx) error { return tx.Put(bucket, key, []byte(value)) }))
}

// contents returns what a bucket holds.
func contents(t testing.TB, s *Store, bucket string) map[string]string {
	t.Helper()
	m := map[string]string{}
	require.NoError(t, s.View(func(tx *Tx) error {
		tx.Range(bucket, "", "", func(k string, v []byte) bool {
			m[k] = string(v)
			return true
		})
		return nil
	}))
	return m
}

func TestReopenKeepsEverything(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := open(t, dir)
	put(t, s, "vips", "web", "one")
	put(t, s, "vips", "empty", "")
	put(t, s, "switches", "1", "observe")
	cluster, key := s.ClusterID(), s.LLDPKey()
	require.Regexp(t, `^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`, cluster)
	require.NotZero(t, key)
	require.NoError(t, s.Close())

	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, FileName): 0o600} {
		info, err := os.Stat(path)
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), path)
	}

	s = open(t, dir)
	require.Equal(t, cluster, s.ClusterID())
	require.Equal(t, key, s.LLDPKey())
	require.Equal(t, map[string]string{"web": "one", "empty": ""}, contents(t, s, "vips"))
	require.NoError(t, s.View(func(tx *Tx) error {
		require.NotNil(t, tx.Get("vips", "empty"), "an empty value is a value")
		require.Nil(t, tx.Get("vips", "none"))
		require.Nil(t, tx.Get("none", "none"))
		require.EqualValues(t, 3, tx.Revision())
		return nil
	}))
	other := open(t, t.TempDir())
	require.NotEqual(t, cluster, other.ClusterID())
	require.NotEqual(t, key, other.LLDPKey())
}

func TestRange(t *testing.T) {
	s := open(t, t.TempDir())
	for _, k := range []string{"b/2", "a", "b/1", "b", "c", "b/10"} {
		put(t, s, "x", k, "")
	}
	keys := func(prefix, after string, limit int) (keys []string) {
		require.NoError(t, s.View(func(tx *Tx) error {
			tx.Range("x", prefix, after, func(k string, _ []byte) bool {
				keys = append(keys, k)
				return len(keys) != limit
			})
			return nil
		}))
		return keys
	}
	require.Equal(t, []string{"a", "b", "b/1", "b/10", "b/2", "c"}, keys("", "", 0))
	require.Equal(t, []string{"b/1", "b/10", "b/2"}, keys("b/", "", 0))
	require.Equal(t, []string{"b/10", "b/2"}, keys("b/", "b/1", 0))
	require.Equal(t, []string{"b/1", "b/10"}, keys("b/", "a", 2))
	require.Equal(t, []string{"b/2", "c"}, keys("", "b/10x", 0))
	require.Empty(t, keys("b/", "c", 0))
	require.Empty(t, keys("d", "", 0))
}

func TestFailedUpdateLeavesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	put(t, s, "x", "kept", "1")
	put(t, s, "x", "removed", "1")
	wrong := errors.New("wrong")
	spoil := func(tx *Tx) error {
		_, err := tx.NextID("group")
		return errors.Join(err,
			tx.Put("x", "kept", []byte("2")), tx.Put("x", "kept", []byte("3")), tx.Delete("x", "removed"),
			tx.Put("x", "new", nil), tx.Delete("x", "new"), tx.Put("x", "new", nil),
			tx.Put("y", "new", nil))
	}
	before := contents(t, s, "x")
	called := false
	err := s.Update(context.Background(), func(tx *Tx) error {
		tx.OnCommit(func() { called = true })
		return errors.Join(spoil(tx), wrong)
	})
	require.ErrorIs(t, err, wrong)
	require.PanicsWithValue(t, "wrong", func() {
		_ = s.Update(context.Background(), func(tx *Tx) error {
			require.NoError(t, spoil(tx))
			panic("wrong")
		})
	})
	require.False(t, called)
	require.Equal(t, before, contents(t, s, "x"))
	require.Empty(t, contents(t, s, "y"))
	require.NoError(t, s.Update(context.Background(), func(tx *Tx) error {
		id, err := tx.NextID("group")
		require.NoError(t, err)
		require.EqualValues(t, 1, id)
		require.EqualValues(t, 3, tx.Revision())
		return nil
	}))
}

// An update that fails shares its commit with others that do not; neither sees
// the other's fate.
func TestConcurrentUpdates(t *testing.T) {
	s := open(t, t.TempDir())
	const clients, each = 16, 20
	var wg sync.WaitGroup
	var told []uint64 // revisions, in the order of the calls: one at a time, so no lock
	ids := make(chan uint64, clients*each)
	wrong := errors.New("wrong")
	for c := range clients {
		wg.Go(func() {
			for i := range each {
				key := fmt.Sprintf("%d/%d", c, i)
				err := s.Update(context.Background(), func(tx *Tx) error {
					id, err := tx.NextID("group")
					if err := errors.Join(err, tx.Put("x", key, []byte(key))); err != nil {
						return err
					}
					if i%3 == 0 {
						return wrong
					}
					revision := tx.Revision()
					tx.OnCommit(func() {
						told = append(told, revision)
						ids <- id
					})
					return nil
				})
				if (i%3 == 0) != errors.Is(err, wrong) || (i%3 != 0 && err != nil) {
					t.Errorf("update %s: %v", key, err)
				}
			}
		})
	}
	wg.Wait()
	close(ids)
	want := map[string]string{}
	for c := range clients {
		for i := range each {
			if i%3 != 0 {
				key := fmt.Sprintf("%d/%d", c, i)
				want[key] = key
			}
		}
	}
	require.Equal(t, want, contents(t, s, "x"))
	require.Len(t, told, len(want))
	for i, r := range told {
		require.EqualValues(t, i+1, r, "revisions are told in order, without a gap")
	}
	seen := slices.Sorted(func(yield func(uint64) bool) {
		for id := range ids {
			if !yield(id) {
				return
			}
		}
	})
	require.Len(t, slices.Compact(slices.Clone(seen)), len(want), "ids are unique")
	require.EqualValues(t, len(want), seen[len(seen)-1], "an update that fails uses up no id")
}

func TestUpdateOfEndedContext(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	err := s.Update(ctx, func(tx *Tx) error { return tx.Put("x", "k", nil) })
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, contents(t, s, "x"))
}

func TestUpdateThatWritesNothing(t *testing.T) {
	s := open(t, t.TempDir())
	told := false
	require.NoError(t, s.Update(context.Background(), func(tx *Tx) error {
		tx.OnCommit(func() { told = true })
		return tx.Delete("x", "none")
	}))
	require.True(t, told)
	require.NoError(t, s.View(func(tx *Tx) error {
		require.Zero(t, tx.Revision())
		return nil
	}))
}

func TestRefusedWrites(t *testing.T) {
	s := open(t, t.TempDir())
	require.NoError(t, s.View(func(tx *Tx) error {
		require.Error(t, tx.Put("x", "k", nil))
		require.Error(t, tx.Delete("x", "k"))
		_, err := tx.NextID("x")
		require.Error(t, err)
		return nil
	}))
	require.Error(t, s.Update(context.Background(), func(tx *Tx) error { return tx.Put(metaBucket, "k", nil) }))
	require.Error(t, s.Update(context.Background(), func(tx *Tx) error { return tx.Delete(idsBucket, "k") }))
	require.Error(t, s.Update(context.Background(), func(tx *Tx) error { return tx.Put("x", "", nil) }))
}

func TestClosed(t *testing.T) {
	s := open(t, t.TempDir())
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.Update(context.Background(), func(*Tx) error { return nil }), ErrClosed)
	require.ErrorIs(t, s.View(func(*Tx) error { return nil }), ErrClosed)
	require.NoError(t, s.Close())
}

func TestLocked(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_, err := Open(dir, Options{Timeout: time.Millisecond})
	require.ErrorIs(t, err, ErrLocked)
	require.ErrorContains(t, err, filepath.Join(dir, FileName))
	require.NoError(t, s.Close())
	open(t, dir)
}

func TestNewerSchemaIsRefused(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	require.NoError(t, s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(metaBucket)).Put([]byte(keySchema), number(schema()+1))
	}))
	require.NoError(t, s.Close())
	before, err := os.ReadFile(filepath.Join(dir, FileName))
	require.NoError(t, err)
	_, err = Open(dir, Options{})
	require.ErrorIs(t, err, ErrNewer)
	require.ErrorContains(t, err, "schema 2")
	after, err := os.ReadFile(filepath.Join(dir, FileName))
	require.NoError(t, err)
	require.Equal(t, before, after)
}

func TestR12Migration(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	put(t, s, "x", "k", "old")
	cluster := s.ClusterID()
	require.NoError(t, s.Close())

	wrong := errors.New("wrong")
	fail := true
	migrations = []func(*bbolt.Tx) error{
		func(tx *bbolt.Tx) error { return tx.Bucket([]byte("x")).Put([]byte("k"), []byte("newer")) },
		func(tx *bbolt.Tx) error {
			if fail {
				return wrong
			}
			b := tx.Bucket([]byte("x"))
			return b.Put([]byte("k"), append(b.Get([]byte("k")), " still"...))
		},
	}
	t.Cleanup(func() { migrations = nil })
	_, err := Open(dir, Options{})
	require.ErrorIs(t, err, wrong)
	fail = false
	s = open(t, dir)
	require.Equal(t, map[string]string{"k": "newer still"}, contents(t, s, "x"), "each once, all or nothing")
	require.Equal(t, cluster, s.ClusterID())
	require.NoError(t, s.Close())
	s = open(t, dir)
	require.Equal(t, map[string]string{"k": "newer still"}, contents(t, s, "x"))
}

// A damaged file is never a crash, and never written to.
func TestDamagedFile(t *testing.T) {
	good := t.TempDir()
	s := open(t, good)
	for i := range 200 {
		put(t, s, "x", strconv.Itoa(i), strings.Repeat("value", 100))
	}
	require.NoError(t, s.Close())
	whole, err := os.ReadFile(filepath.Join(good, FileName))
	require.NoError(t, err)
	page := os.Getpagesize()

	foreign := filepath.Join(t.TempDir(), "other.db")
	db, err := bbolt.Open(foreign, 0o600, nil)
	require.NoError(t, err)
	require.NoError(t, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucket([]byte("theirs"))
		return err
	}))
	require.NoError(t, db.Close())
	theirs, err := os.ReadFile(foreign)
	require.NoError(t, err)

	noise := make([]byte, len(whole))
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(rng.Uint32())
	}
	spoiled := slices.Concat(whole[:2*page], noise[2*page:])
	for name, file := range map[string][]byte{
		"text":               []byte("not a database\n"),
		"noise":              noise,
		"zeros":              make([]byte, len(whole)),
		"one byte":           {0},
		"cut to a page":      whole[:page],
		"cut to its headers": whole[:2*page],
		"cut in the middle":  whole[:len(whole)/2],
		"both headers":       slices.Concat(noise[:2*page], whole[2*page:]),
		"all but headers":    spoiled,
		"another program's":  theirs,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, FileName)
			require.NoError(t, os.WriteFile(path, file, 0o600))
			_, err := Open(dir, Options{})
			require.ErrorIs(t, err, ErrCorrupt)
			require.ErrorContains(t, err, path)
			after, err := os.ReadFile(path)
			require.NoError(t, err)
			require.True(t, slices.Equal(file, after), "the file was changed")
		})
	}
}

func TestOpenErrorsOfTheSystem(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := Open(file, Options{})
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrCorrupt)
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, FileName), 0o700))
	_, err = Open(dir, Options{})
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrCorrupt)
}

// writeForever writes from several goroutines and prints each key once its
// update has returned.
func writeForever(dir string) {
	s, err := Open(dir, Options{Timeout: 10 * time.Second})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var out sync.Mutex
	for w := range 8 {
		go func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("%d/%d/%d", os.Getpid(), w, i)
				err := s.Update(context.Background(), func(tx *Tx) error {
					_, err := tx.NextID("group")
					return errors.Join(err, tx.Put("x", key, []byte(key)), tx.Put("y", key, []byte(key)))
				})
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				out.Lock()
				fmt.Println(key)
				out.Unlock()
			}
		}()
	}
	select {}
}

// What was acknowledged survives SIGKILL at any moment, and what was not is
// there as a whole or not at all.
func TestR01Killed(t *testing.T) {
	dir := t.TempDir()
	acked := map[string]bool{}
	for round := range killed {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, cmd.Start())
		lines := bufio.NewScanner(out)
		for n := 0; lines.Scan(); n++ {
			acked[lines.Text()] = true
			if n == 100+37*(round%10) {
				require.NoError(t, cmd.Process.Kill())
			}
		}
		require.Error(t, cmd.Wait(), "killed")

		s, err := Open(dir, Options{Timeout: 10 * time.Second})
		require.NoError(t, err)
		x, y := contents(t, s, "x"), contents(t, s, "y")
		for key := range acked {
			require.Equal(t, key, x[key])
		}
		require.True(t, maps.Equal(x, y))
		require.NoError(t, s.View(func(tx *Tx) error {
			require.EqualValues(t, len(x), tx.Revision())
			return nil
		}))
		require.NoError(t, s.Close())
	}
	t.Logf("%d kills, %d acknowledged writes, none lost", killed, len(acked))
}

// BenchmarkUpdate measures updates of 2 kB, each waited for, by the number of
// clients that write at the same time.
func BenchmarkUpdate(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			s := open(b, b.TempDir())
			value := make([]byte, 2048)
			var n atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					for i := n.Add(1); i <= int64(b.N); i = n.Add(1) {
						key := strconv.FormatInt(i%10000, 10)
						if err := s.Update(context.Background(), func(tx *Tx) error { return tx.Put("x", key, value) }); err != nil {
							b.Error(err)
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "updates/s")
		})
	}
}
