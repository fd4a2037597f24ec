// Package store keeps the controller's state on disk: intents, what was
// allocated for them, and the identity of the controller.
package store

import "context"

// Store is an open store.
type Store struct{}

// Tx is one transaction.
type Tx struct{}

// Options of Open.
type Options struct{}

// Open opens the store in the directory dir.
func Open(dir string, o Options) (*Store, error) { panic("to be written") }

// Close closes the store.
func (s *Store) Close() error { panic("to be written") }

// ClusterID is a random UUID made with the store.
func (s *Store) ClusterID() string { panic("to be written") }

// LLDPKey is the random key made with the store that authenticates probes.
func (s *Store) LLDPKey() [32]byte { panic("to be written") }

// Update runs fn in a read-write transaction and returns when it is durable.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error { panic("to be written") }

// View runs fn in a read-only transaction.
func (s *Store) View(fn func(*Tx) error) error { panic("to be written") }

// Get returns the value of a key, nil if there is none.
func (t *Tx) Get(bucket, key string) []byte { panic("to be written") }

// Put writes a value.
func (t *Tx) Put(bucket, key string, value []byte) error { panic("to be written") }

// Delete removes a key.
func (t *Tx) Delete(bucket, key string) error { panic("to be written") }

// Range calls fn for keys in order.
func (t *Tx) Range(bucket, prefix, after string, fn func(key string, value []byte) bool) {
	panic("to be written")
}

// NextID returns 1, 2, 3 … of the sequence called name.
func (t *Tx) NextID(name string) (uint64, error) { panic("to be written") }

// Revision returns the revision of the transaction.
func (t *Tx) Revision() uint64 { panic("to be written") }

// OnCommit has fn called once the transaction is durable.
func (t *Tx) OnCommit(fn func()) { panic("to be written") }
