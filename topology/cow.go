package topology

import (
	"encoding/binary"
	"maps"
)

// shards is how many parts a cow has. A write after a snapshot copies one part.
const shards = 256

// cow is a map of which frozen copies are cheap: freezing copies the table of
// parts, and the first write to a part thereafter copies that part.
type cow[K comparable, V any] struct {
	frozen[K, V]
	own [shards]bool // parts no frozen copy shares
}

// frozen is an immutable copy of a cow.
type frozen[K comparable, V any] struct {
	parts *[shards]map[K]V
	hash  func(K) uint8
	size  int
}

func newCOW[K comparable, V any](hash func(K) uint8) cow[K, V] {
	return cow[K, V]{frozen: frozen[K, V]{parts: new([shards]map[K]V), hash: hash}}
}

func (f frozen[K, V]) get(k K) (V, bool) {
	v, ok := f.parts[f.hash(k)][k]
	return v, ok
}

func (c *cow[K, V]) part(k K) map[K]V {
	i := c.hash(k)
	if !c.own[i] {
		c.own[i] = true
		if c.parts[i] = maps.Clone(c.parts[i]); c.parts[i] == nil {
			c.parts[i] = map[K]V{}
		}
	}
	return c.parts[i]
}

func (c *cow[K, V]) set(k K, v V) {
	p := c.part(k)
	if _, ok := p[k]; !ok {
		c.size++
	}
	p[k] = v
}

func (c *cow[K, V]) remove(k K) {
	if _, ok := c.get(k); ok {
		delete(c.part(k), k)
		c.size--
	}
}

func (c *cow[K, V]) freeze() frozen[K, V] {
	f := c.frozen
	parts := *c.parts
	f.parts = &parts
	c.own = [shards]bool{}
	return f
}

// mix spreads the bits of x over one byte (multiplication by 2^64 over the
// golden ratio).
func mix(x uint64) uint8 { return uint8((x * 0x9e3779b97f4a7c15) >> 56) }

func hashHost(k HostKey) uint8 {
	var b [8]byte
	copy(b[:], k.MAC[:])
	binary.BigEndian.PutUint16(b[6:], k.VLAN)
	return mix(binary.BigEndian.Uint64(b[:]))
}

func hashIP(k ipKey) uint8 {
	b := k.ip.As16()
	return mix(binary.BigEndian.Uint64(b[:8]) ^ binary.BigEndian.Uint64(b[8:])<<1 ^ uint64(k.vlan)<<48)
}
