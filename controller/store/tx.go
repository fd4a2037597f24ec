package store

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/bbolt"
)

// Tx is one transaction. It is valid within the function it was given to, on
// that goroutine.
type Tx struct {
	tx        *bbolt.Tx
	writable  bool
	revision  uint64
	undo      []write
	committed []func()
}

// write is what a key held before it was written; nil is nothing.
type write struct {
	bucket, key string
	value       []byte
}

var errReadOnly = errors.New("store: write in a read-only transaction")

// call runs the function of c. Where that fails, it takes back what it wrote,
// so that the others in the same commit stand. The error returned is one of the
// store.
func (t *Tx) call(c *call) error {
	if c.err = c.ctx.Err(); c.err != nil {
		return nil
	}
	t.revision = t.storedRevision() + 1
	func() {
		defer func() { c.panicked = recover() }()
		c.err = c.fn(t)
	}()
	t.writable = false
	if c.err == nil && c.panicked == nil {
		if len(t.undo) == 0 {
			return nil
		}
		return t.put(metaBucket, keyRevision, number(t.revision))
	}
	for i := len(t.undo) - 1; i >= 0; i-- {
		if err := t.put(t.undo[i].bucket, t.undo[i].key, t.undo[i].value); err != nil {
			return fmt.Errorf("store: undo: %w", err)
		}
	}
	return nil
}

// Get returns the value of a key, nil if there is none. The value is valid until
// the transaction ends and must not be changed.
func (t *Tx) Get(bucket, key string) []byte {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return nil
	}
	return b.Get([]byte(key))
}

// Put sets the value of a key. The store does not keep value. Keys are not
// empty; names of buckets do not begin with an underscore.
func (t *Tx) Put(bucket, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	return t.write(bucket, key, value)
}

// Delete removes a key; a key that is not there is no error.
func (t *Tx) Delete(bucket, key string) error {
	if t.Get(bucket, key) == nil {
		return t.check(bucket)
	}
	return t.write(bucket, key, nil)
}

// Range calls fn for each key of the bucket that begins with prefix and is
// greater than after, in the order of their bytes, until fn returns false. fn
// gets the value as Get would return it, and must not write to the bucket.
func (t *Tx) Range(bucket, prefix, after string, fn func(key string, value []byte) bool) {
	b := t.tx.Bucket([]byte(bucket))
	if b == nil {
		return
	}
	c := b.Cursor()
	for k, v := c.Seek([]byte(max(prefix, after))); k != nil && bytes.HasPrefix(k, []byte(prefix)); k, v = c.Next() {
		if key := string(k); key > after || after == "" {
			if !fn(key, v) {
				return
			}
		}
	}
}

// NextID returns 1, then 2, 3, … for each name, never the same twice.
func (t *Tx) NextID(name string) (uint64, error) {
	if !t.writable {
		return 0, errReadOnly
	}
	var n uint64
	if v := t.Get(idsBucket, name); v != nil {
		n = parse(v)
	}
	n++
	t.remember(idsBucket, name)
	return n, t.put(idsBucket, name, number(n))
}

// Revision counts the updates that wrote something. In an Update it is the
// number that this one has if it writes; in a View, that of the last one seen.
func (t *Tx) Revision() uint64 { return t.revision }

// OnCommit has fn called when the transaction is durable, before Update returns.
// All such functions run one at a time, in the order of the revisions; they must
// be quick and must not call the store.
func (t *Tx) OnCommit(fn func()) { t.committed = append(t.committed, fn) }

func (t *Tx) storedRevision() uint64 { return parse(t.Get(metaBucket, keyRevision)) }

// check refuses writes where the caller may not write.
func (t *Tx) check(bucket string) error {
	if !t.writable {
		return errReadOnly
	}
	if strings.HasPrefix(bucket, "_") {
		return fmt.Errorf("store: bucket %q is the store's own", bucket)
	}
	return nil
}

func (t *Tx) write(bucket, key string, value []byte) error {
	if err := t.check(bucket); err != nil {
		return err
	}
	t.remember(bucket, key)
	return t.put(bucket, key, value)
}

// remember notes what a key holds before it is written.
func (t *Tx) remember(bucket, key string) {
	t.undo = append(t.undo, write{bucket, key, bytes.Clone(t.Get(bucket, key))})
}

// put sets a key, or removes it where value is nil.
func (t *Tx) put(bucket, key string, value []byte) error {
	b, err := t.tx.CreateBucketIfNotExists([]byte(bucket))
	if err == nil && value == nil {
		err = b.Delete([]byte(key))
	} else if err == nil {
		// bbolt keeps the slice until the commit.
		err = b.Put([]byte(key), bytes.Clone(value))
	}
	if err != nil {
		return fmt.Errorf("store: write %s/%s: %w", bucket, key, err)
	}
	return nil
}
