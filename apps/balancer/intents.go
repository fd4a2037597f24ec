package balancer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
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

// Put creates or replaces the VIP v.Name; created says which. What the server
// gives (ID, MAC, Generation, times, Status) is not taken from v. A document that
// says what is stored already changes nothing. The error may be of the kinds
// listed at ErrNotFound.
func (in *Intents) Put(ctx context.Context, v VIP, cond Condition) (rec Record, created bool, err error) {
	if err := validate(v); err != nil {
		return Record{}, false, err
	}
	err = in.store.Update(ctx, func(tx *store.Tx) error {
		old, err := read(tx, v.Name)
		if err != nil {
			return err
		}
		if err := cond.check(old != nil, old); err != nil {
			return err
		}
		created = old == nil
		rec, err = in.write(tx, old, v)
		return err
	})
	return rec, created, named("put", v.Name, err)
}

// Delete removes a VIP and gives up what was allocated for it.
func (in *Intents) Delete(ctx context.Context, name string, cond Condition) error {
	err := in.store.Update(ctx, func(tx *store.Tx) error {
		old, err := existing(tx, name)
		if err != nil {
			return err
		}
		if err := cond.check(true, old); err != nil {
			return err
		}
		if err := in.release(tx, *old, Record{}); err != nil {
			return err
		}
		change := Change{Name: name, Revision: tx.Revision()}
		tx.OnCommit(func() { in.changed(change) })
		return tx.Delete(vipBucket, name)
	})
	return named("delete", name, err)
}

// Get returns one VIP.
func (in *Intents) Get(ctx context.Context, name string) (Record, error) {
	var rec Record
	err := in.view(ctx, func(tx *store.Tx) error {
		old, err := existing(tx, name)
		if err == nil {
			rec = *old
		}
		return err
	})
	return rec, named("get", name, err)
}

// List returns up to limit VIPs, at least one, in the order of their names,
// beginning behind the name after. next is the after of the next call, empty at
// the end.
func (in *Intents) List(ctx context.Context, after string, limit int) (recs []Record, next string, err error) {
	err = in.view(ctx, func(tx *store.Tx) error {
		var bad error
		tx.Range(vipBucket, "", after, func(name string, value []byte) bool {
			if len(recs) == max(limit, 1) {
				next = recs[len(recs)-1].VIP.Name
				return false
			}
			var rec Record
			if bad = json.Unmarshal(value, &rec); bad != nil {
				bad = named("read", name, bad)
				return false
			}
			recs = append(recs, rec)
			return true
		})
		return bad
	})
	if err != nil {
		return nil, "", fmt.Errorf("balancer: list vips: %w", err)
	}
	return recs, next, nil
}

// All returns every VIP in the order of their names.
func (in *Intents) All(ctx context.Context) ([]Record, error) {
	recs, _, err := in.List(ctx, "", math.MaxInt)
	return recs, err
}

// PutMember creates or replaces one member of a listener. IfMatch is about the
// VIP, IfNoneMatch about the member. Errors are as of Put, with fields of the
// member's own document; ErrNotFound says that there is no such VIP or listener.
func (in *Intents) PutMember(ctx context.Context, vip string, l ListenerKey, m Member, cond Condition) (rec Record, created bool, err error) {
	err = in.store.Update(ctx, func(tx *store.Tx) error {
		old, pool, at, err := existingPool(tx, vip, l)
		if err != nil {
			return err
		}
		i := pool.Member(m.Key())
		if err := cond.check(i >= 0, old); err != nil {
			return err
		}
		created = i < 0
		members := slices.Clone(pool.Members)
		if created {
			i, members = len(members), append(members, m)
		} else {
			members[i] = m
		}
		rec, err = in.putMembers(tx, old, at, members)
		return ofMember(err, memberField(fmt.Sprintf("listeners[%d].pool", at), i))
	})
	return rec, created, named("put member of", vip, err)
}

// DeleteMember removes one member of a listener. ErrNotFound says that there is
// no such VIP, listener or member.
func (in *Intents) DeleteMember(ctx context.Context, vip string, l ListenerKey, m MemberKey, cond Condition) error {
	err := in.store.Update(ctx, func(tx *store.Tx) error {
		old, pool, at, err := existingPool(tx, vip, l)
		if err != nil {
			return err
		}
		i := pool.Member(m)
		if i < 0 {
			return fmt.Errorf("member %s: %w", m, ErrNotFound)
		}
		if err := cond.check(true, old); err != nil {
			return err
		}
		_, err = in.putMembers(tx, old, at, slices.Delete(slices.Clone(pool.Members), i, i+1))
		return err
	})
	return named("delete member of", vip, err)
}

// SaveOwners remembers the present owners of the slots of a VIP's listeners, for
// the next start. Where the document has another generation by now, or is gone,
// it does nothing; a table whose length is not that of the stored one is left
// out. It is no change of the VIP.
func (in *Intents) SaveOwners(ctx context.Context, name string, generation uint64, owners map[ListenerKey][]uint16) error {
	err := in.store.Update(ctx, func(tx *store.Tx) error {
		rec, err := read(tx, name)
		if err != nil || rec == nil || rec.VIP.Generation != generation {
			return err
		}
		changed := false
		for i, l := range rec.Listeners {
			owner, ok := owners[l.Key]
			if ok && len(owner) == len(l.Slots.Home) && !slices.Equal(owner, l.Slots.Owner) {
				rec.Listeners[i].Slots.Owner = owner
				changed = true
			}
		}
		if !changed {
			return nil
		}
		return save(tx, *rec)
	})
	return named("save slots of", name, err)
}

// check says whether the condition holds: exists is about what would be written,
// vip is the record whose tag is compared, nil if there is none.
func (c Condition) check(exists bool, vip *Record) error {
	if c.IfNoneMatch && exists {
		return fmt.Errorf("it exists: %w", ErrPrecondition)
	}
	if c.IfMatch == "" {
		return nil
	}
	if vip == nil {
		return fmt.Errorf("it does not exist: %w", ErrPrecondition)
	}
	for tag := range strings.SplitSeq(c.IfMatch, ",") {
		// Weak tags never match (RFC 9110 §8.8.3.2).
		if tag = strings.TrimSpace(tag); tag == "*" || tag == vip.VIP.ETag() {
			return nil
		}
	}
	return fmt.Errorf("its entity tag is %s: %w", vip.VIP.ETag(), ErrPrecondition)
}

// named adds what was done to an error, except to those that are about the
// document alone.
func named(verb, name string, err error) error {
	var bad *InvalidError
	var missing *UnsupportedError
	var conflict *ConflictError
	if err == nil || errors.As(err, &bad) || errors.As(err, &missing) || errors.As(err, &conflict) {
		return err
	}
	return fmt.Errorf("balancer: %s vip %q: %w", verb, name, err)
}

// ofMember makes the fields of an error about a VIP's document those of the
// member at that path, where they are within it.
func ofMember(err error, path string) error {
	own := func(field string) string {
		if field == path {
			return "address"
		}
		return strings.TrimPrefix(field, path+".")
	}
	var bad *InvalidError
	var missing *UnsupportedError
	var conflict *ConflictError
	switch {
	case errors.As(err, &bad):
		for i := range bad.Errors {
			bad.Errors[i].Field = own(bad.Errors[i].Field)
		}
	case errors.As(err, &missing):
		for i := range missing.Errors {
			missing.Errors[i].Field = own(missing.Errors[i].Field)
		}
	case errors.As(err, &conflict):
		conflict.Field = own(conflict.Field)
	}
	return err
}

func (in *Intents) view(ctx context.Context, fn func(*store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return in.store.View(fn)
}
