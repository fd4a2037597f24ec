package flowtable

import "math/bits"

// cookieIndex finds the flows that a switch is known to hold by their cookies, with no
// pointer to follow: reading 100,000 of them back is a matter of memory that is not in
// the cache. It is made before a read-back and holds until the table changes.
type cookieIndex struct {
	slots []uint64 // cookies; 0: free
	shift int
	twice map[uint64]bool // cookies that several flows share
}

// index returns the index of the flows that are held.
func (t *Table) index() *cookieIndex {
	if t.cookies != nil {
		return t.cookies
	}
	size := bits.Len(uint(2*t.heldFlows + 1))
	ix := &cookieIndex{slots: make([]uint64, 1<<size), shift: 64 - size, twice: map[uint64]bool{}}
	for _, f := range t.flows {
		if !f.held || f.has == 0 {
			continue
		}
		slot, there := ix.find(f.has)
		if there {
			ix.twice[f.has] = true
		}
		ix.slots[slot] = f.has
	}
	t.cookies = ix
	return ix
}

// find returns the slot of a cookie, or a free one for it.
func (ix *cookieIndex) find(cookie uint64) (slot int, there bool) {
	slot = int(cookie * 0x9e3779b97f4a7c15 >> ix.shift)
	for {
		switch ix.slots[slot] {
		case cookie:
			return slot, true
		case 0:
			return slot, false
		}
		slot = (slot + 1) & (len(ix.slots) - 1)
	}
}

// ticks remembers slots of an index.
type ticks []uint64

func (k ticks) has(slot int) bool { return k[slot/64]&(1<<(slot%64)) != 0 }
func (k ticks) set(slot int)      { k[slot/64] |= 1 << (slot % 64) }
