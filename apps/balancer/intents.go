package balancer

import (
	"context"
	"errors"
	"time"

	"github.com/fairlead/fairlead/controller/store"
)

// What callers of Intents branch on, besides InvalidError, UnsupportedError and
// ConflictError.
var (
	ErrNotFound     = errors.New("not found")
	ErrPrecondition = errors.New("precondition failed")
)

// Condition is the precondition of a write (RFC 9110 §13.1). The zero value
// always holds.
type Condition struct {
	IfMatch     string // value of If-Match: entity tags of the VIP, or "*"; empty is none
	IfNoneMatch bool   // If-None-Match: *: only create
}

// Change tells that the record of a VIP was written or deleted.
type Change struct {
	Name     string
	Record   *Record // nil: deleted
	Revision uint64  // of the store: larger with each change
}

// Intents reads and writes the VIPs in a store. Its methods are safe for
// concurrent use.
type Intents struct {
	store   *store.Store
	now     func() time.Time
	changed func(Change)
}

// NewIntents returns the intents in s. It calls changed after each change is
// durable, one at a time, in the order of the revisions, and before the write
// that made it returns; changed must not write to the store and must not block.
func NewIntents(s *store.Store, now func() time.Time, changed func(Change)) *Intents {
	return &Intents{store: s, now: now, changed: changed}
}

// Put creates or replaces the VIP v.Name.
func (in *Intents) Put(ctx context.Context, v VIP, cond Condition) (rec Record, created bool, err error) {
	panic("to be written")
}

// Delete removes a VIP.
func (in *Intents) Delete(ctx context.Context, name string, cond Condition) error {
	panic("to be written")
}

// Get returns one VIP.
func (in *Intents) Get(ctx context.Context, name string) (Record, error) { panic("to be written") }

// List returns up to limit VIPs in the order of their names.
func (in *Intents) List(ctx context.Context, after string, limit int) (recs []Record, next string, err error) {
	panic("to be written")
}

// All returns every VIP in the order of their names.
func (in *Intents) All(ctx context.Context) ([]Record, error) { panic("to be written") }

// PutMember creates or replaces one member of a listener.
func (in *Intents) PutMember(ctx context.Context, vip string, l ListenerKey, m Member, cond Condition) (rec Record, created bool, err error) {
	panic("to be written")
}

// DeleteMember removes one member of a listener.
func (in *Intents) DeleteMember(ctx context.Context, vip string, l ListenerKey, m MemberKey, cond Condition) error {
	panic("to be written")
}

// SaveOwners remembers the present owners of the slots of a VIP's listeners, if
// the document still has that generation.
func (in *Intents) SaveOwners(ctx context.Context, name string, generation uint64, owners map[ListenerKey][]uint16) error {
	panic("to be written")
}
