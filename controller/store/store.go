// Package store keeps what a controller must not forget on disk: intents, what
// was allocated for them, and its own identity.
//
// A store is a set of named buckets of keys in order; values are opaque bytes.
// Transactions are serialisable, and an Update that has returned nil is durable.
// Concurrent updates share one commit, so that sixty-four clients cost hardly
// more disk time than one. Nothing in the interface is particular to bbolt.
package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
)

// FileName is the name of the database within its directory.
const FileName = "fairlead.db"

// Errors that callers branch on; the error returned names the file.
var (
	// ErrLocked says that another process has the store open.
	ErrLocked = errors.New("locked by another process")
	// ErrNewer says that a newer version of this program wrote the store.
	ErrNewer = errors.New("written by a newer version")
	// ErrCorrupt says that the file is damaged, or is no store of ours. It is
	// left as it was found.
	ErrCorrupt = errors.New("damaged, or not a fairlead store")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store: closed")
)

// The bucket of the store itself and its keys.
const (
	metaBucket  = "_meta"
	idsBucket   = "_ids"
	keySchema   = "schema"
	keyCluster  = "cluster-id"
	keyLLDP     = "lldp-key"
	keyRevision = "revision"
)

// migrations bring older files up to date: migrations[i] turns schema i+1 into
// i+2. They run in the transaction that writes the new schema number.
var migrations []func(*bbolt.Tx) error

// schema is the number of the layout this version writes.
func schema() uint64 { return uint64(1 + len(migrations)) }

// Options are the choices of Open; the zero value is good.
type Options struct {
	// Timeout is how long Open waits for another process to give up the store;
	// 0 is one second.
	Timeout time.Duration
}

// Store is an open store. Its methods are safe for concurrent use.
type Store struct {
	db      *bbolt.DB
	cluster string
	lldp    [32]byte

	mu      sync.Mutex // guards pending
	pending []*call    // updates that no commit has taken yet, oldest first
	writing chan struct{}
}

// call is one Update on its way through a commit.
type call struct {
	ctx      context.Context
	fn       func(*Tx) error
	err      error // valid once done is closed, as is panicked
	panicked any
	done     chan struct{}
}

// Open opens the store in the directory dir and makes both if they are missing:
// the directory with mode 0700, the file with 0600. The store is locked against
// other processes until Close. It reads the whole file once, so that damage is
// found now and not under traffic. The error is one of ErrLocked, ErrNewer and
// ErrCorrupt, or one of the operating system.
func Open(dir string, o Options) (*Store, error) {
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	path := filepath.Join(dir, FileName)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("store: open: %w", err)
	}
	if err := takeRestored(dir); err != nil {
		return nil, fmt.Errorf("store: open %s: take the restored backup: %w", path, err)
	}
	db, err := openFile(path, o.Timeout)
	if err != nil {
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	s := &Store{db: db, writing: make(chan struct{}, 1)}
	if err := s.setUp(dir); err != nil {
		db.Close()
		return nil, fmt.Errorf("store: open %s: %w", path, err)
	}
	return s, nil
}

// openFile opens and checks the database. bbolt trusts the pages of its file:
// damage shows as a panic, or as a fault where the file is shorter than its
// header says. Here both become ErrCorrupt.
//
// After a panic within bbolt.Open the file stays locked until the process ends:
// the mapping that holds it is out of reach.
func openFile(path string, timeout time.Duration) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrCorrupt, p)
		}
		if err != nil && db != nil {
			db.Close()
			db = nil
		}
	}()
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: timeout, FreelistType: bbolt.FreelistMapType})
	var errno syscall.Errno
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, ErrLocked
	case errors.As(err, &errno): // of the operating system
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return db, check(db)
}

// check reads every page that is in use.
func check(db *bbolt.DB) error {
	tx, err := db.Begin(false)
	if err != nil {
		return err
	}
	defer tx.Rollback() // db.Close waits for it
	info, err := os.Stat(db.Path())
	if err != nil {
		return err
	}
	if tx.Size() > info.Size() {
		return fmt.Errorf("%w: %d bytes long, should be %d", ErrCorrupt, info.Size(), tx.Size())
	}
	buckets, ours := 0, tx.Bucket([]byte(metaBucket)) != nil
	err = tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
		buckets++
		if b == nil {
			return fmt.Errorf("%w: key %q outside of a bucket", ErrCorrupt, name)
		}
		return b.ForEach(func(k, v []byte) error {
			if v == nil {
				return fmt.Errorf("%w: bucket in bucket %q", ErrCorrupt, name)
			}
			return nil
		})
	})
	if err == nil && buckets > 0 && !ours {
		err = fmt.Errorf("%w: no schema number", ErrCorrupt)
	}
	return err
}

// setUp makes a new store's identity, brings an older one up to date, and loads it.
func (s *Store) setUp(dir string) error {
	created := false
	var have uint64
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(metaBucket))
		if b == nil {
			created = true
			return nil
		}
		return s.load(b, &have)
	})
	switch {
	case err != nil:
		return err
	case have > schema():
		return newer(have)
	case have == schema():
		return nil
	}
	err = s.db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte(metaBucket))
		if err != nil {
			return err
		}
		if created {
			if err := identify(b); err != nil {
				return err
			}
		} else {
			for _, migrate := range migrations[have-1:] {
				if err := migrate(tx); err != nil {
					return fmt.Errorf("migrate from schema %d: %w", have, err)
				}
			}
		}
		if err := b.Put([]byte(keySchema), number(schema())); err != nil {
			return err
		}
		return s.load(b, &have)
	})
	if err != nil || !created {
		return err
	}
	// The file's name must outlive a power cut as well as its contents do.
	return syncDir(dir)
}

func newer(have uint64) error {
	return fmt.Errorf("%w: schema %d, this one knows up to %d", ErrNewer, have, schema())
}

// identify gives a new store its cluster id and keys.
func identify(b *bbolt.Bucket) error {
	var id [16]byte
	var key [32]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	rand.Read(key[:])
	id[6] = id[6]&0x0f | 0x40 // RFC 9562 §5.4, version 4
	id[8] = id[8]&0x3f | 0x80
	uuid := fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
	return errors.Join(
		b.Put([]byte(keyCluster), []byte(uuid)),
		b.Put([]byte(keyLLDP), key[:]),
		b.Put([]byte(keyRevision), number(0)))
}

// load reads the schema number, and the identity if the schema is one we know.
func (s *Store) load(b *bbolt.Bucket, have *uint64) error {
	v := b.Get([]byte(keySchema))
	if len(v) != 8 || parse(v) == 0 {
		return fmt.Errorf("%w: no schema number", ErrCorrupt)
	}
	if *have = parse(v); *have > schema() {
		return nil
	}
	s.cluster = string(b.Get([]byte(keyCluster)))
	key := b.Get([]byte(keyLLDP))
	if s.cluster == "" || len(key) != len(s.lldp) || len(b.Get([]byte(keyRevision))) != 8 {
		return fmt.Errorf("%w: identity missing", ErrCorrupt)
	}
	copy(s.lldp[:], key)
	return nil
}

// Close waits for the transactions under way, closes the store and gives up its
// lock. Later transactions fail with ErrClosed.
func (s *Store) Close() error {
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("store: close: %w", err)
	}
	return nil
}

// ClusterID is a random UUID that was made with the store.
func (s *Store) ClusterID() string { return s.cluster }

// LLDPKey is the random key, made with the store, that authenticates this
// controller's discovery probes.
func (s *Store) LLDPKey() [32]byte { return s.lldp }

// NewLLDPKey replaces the key that LLDPKey returns, durably: probes of the old one are
// not believed any more. It must not be called while others use the store.
func (s *Store) NewLLDPKey() error {
	var key [32]byte
	rand.Read(key[:]) // never fails (crypto/rand)
	err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket([]byte(metaBucket)).Put([]byte(keyLLDP), key[:]) })
	if err != nil {
		return fmt.Errorf("store: replace the LLDP key: %w", err)
	}
	s.lldp = key
	return nil
}

// View runs fn in a read-only transaction on the newest committed state, beside
// any other. fn must not call the store except through its Tx.
func (s *Store) View(fn func(*Tx) error) error {
	err := s.db.View(func(tx *bbolt.Tx) error {
		t := &Tx{tx: tx}
		t.revision = t.storedRevision()
		return fn(t)
	})
	return closed(err)
}

// Update runs fn once in a read-write transaction and returns when what it wrote
// is durable. If fn returns an error, what it wrote is undone and Update returns
// that error. Where ctx ends before fn was run, Update returns its error and
// nothing was written; later it has no effect. fn runs on the goroutine of any of
// the callers, alone, and must not call the store except through its Tx.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	c := &call{ctx: ctx, fn: fn, done: make(chan struct{})}
	s.mu.Lock()
	s.pending = append(s.pending, c)
	s.mu.Unlock()

	// Whoever gets to write commits for all who are waiting at that moment.
	select {
	case <-c.done:
	case s.writing <- struct{}{}:
		s.write()
		<-c.done // by us, or by the one before us who had just taken it
	}
	if c.panicked != nil {
		panic(c.panicked)
	}
	return c.err
}

// write commits what is pending. The caller has put a token into s.writing.
func (s *Store) write() {
	defer func() { <-s.writing }()
	s.mu.Lock()
	batch := s.pending
	s.pending = nil
	s.mu.Unlock()
	if len(batch) == 0 {
		return
	}
	defer func() {
		for _, c := range batch {
			close(c.done)
		}
	}()
	committed, err := s.commit(batch)
	if err != nil {
		// Errors of single calls too: they were found beside the writes of others
		// in this batch, and those did not come to be.
		for _, c := range batch {
			c.err = err
		}
		return
	}
	for _, fn := range committed {
		fn()
	}
}

// commit runs the calls of a batch in one transaction and returns the functions
// to call now that it is durable.
func (s *Store) commit(batch []*call) (committed []func(), err error) {
	tx, err := s.db.Begin(true)
	if err != nil {
		return nil, closed(err)
	}
	defer tx.Rollback() // after Commit: no effect
	written := false
	for _, c := range batch {
		t := &Tx{tx: tx, writable: true}
		if err := t.call(c); err != nil {
			return nil, err
		}
		if c.err == nil && c.panicked == nil {
			committed = append(committed, t.committed...)
			written = written || len(t.undo) > 0
		}
	}
	if !written {
		return committed, nil
	}
	if err := tx.Commit(); err != nil {
		return nil, fmt.Errorf("store: commit: %w", err)
	}
	return committed, nil
}

func closed(err error) error {
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
func parse(b []byte) uint64  { return binary.BigEndian.Uint64(b) }
