package trace

import (
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"github.com/fairlead/fairlead/ofproto"
)

// The hashes that Open vSwitch is known to choose the buckets of a select group by
// ("dp_hash" over OpenFlow 1.3, in the userspace datapath): symmetric over addresses,
// protocol, and the ports of TCP and SCTP. Which one a switch has depends on the
// processor that it was built for.
var (
	// HashMurmur is that of a build for any processor.
	HashMurmur Hash = symmetric(func(h, v uint32) uint32 {
		v *= 0xcc9e2d51
		v = bits.RotateLeft32(v, 15) * 0x1b873593
		return bits.RotateLeft32(h^v, 13)*5 + 0xe6546b64
	}, func(h uint32) uint32 {
		h = (h ^ h>>16) * 0x85ebca6b
		h = (h ^ h>>13) * 0xc2b2ae35
		return h ^ h>>16
	})
	// HashCRC is that of a build for processors with an instruction for CRC-32C.
	HashCRC Hash = symmetric(crc, func(h uint32) uint32 {
		h = crc(crc(h, 0), 0) * 0x805204f3
		return h ^ h>>16
	})
)

// Hashes are all that are known, by name.
var Hashes = map[string]Hash{"murmur": HashMurmur, "crc32c": HashCRC}

// HashSource is the hash of the source address that Open vSwitch's multipath action
// computes (fields nw_src): Bob Jenkins' lookup3, on a little-endian machine.
func HashSource(p *Packet, basis uint16) (uint32, bool) {
	b := p.Tuple().Src.Addr().AsSlice()
	if len(b) == 0 {
		return 0, false
	}
	v := uint32(0xdeadbeef) + uint32(len(b)) + uint32(basis)
	x, y, z := v, v, v
	rot := bits.RotateLeft32
	for ; len(b) >= 12; b = b[12:] {
		x += binary.LittleEndian.Uint32(b)
		y += binary.LittleEndian.Uint32(b[4:])
		z += binary.LittleEndian.Uint32(b[8:])
		x, z = (x-z)^rot(z, 4), z+y
		y, x = (y-x)^rot(x, 6), x+z
		z, y = (z-y)^rot(y, 8), y+x
		x, z = (x-z)^rot(z, 16), z+y
		y, x = (y-x)^rot(x, 19), x+z
		z, y = (z-y)^rot(y, 4), y+x
	}
	// Addresses leave one word.
	x += binary.LittleEndian.Uint32(b)
	z = (z ^ y) - rot(y, 14)
	x = (x ^ z) - rot(z, 11)
	y = (y ^ x) - rot(x, 25)
	z = (z ^ y) - rot(y, 16)
	x = (x ^ z) - rot(z, 4)
	y = (y ^ x) - rot(x, 14)
	return (z ^ y) - rot(y, 24), true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is the processor's instruction: without the inversions of the checksum.
func crc(h, v uint32) uint32 {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return ^crc32.Update(^h, castagnoli, b[:])
}

// symmetric returns the hash that is the same for both directions of a connection:
// source and destination are combined before they are added. Words are as little-endian
// machines load them. add takes in a word, finish mixes the result.
func symmetric(add func(h, v uint32) uint32, finish func(h uint32) uint32) Hash {
	return func(p *Packet) (uint32, bool) {
		t := p.Tuple()
		src, dst := t.Src.Addr().AsSlice(), t.Dst.Addr().AsSlice()
		if len(src) == 0 || len(src) != len(dst) {
			return 0, false
		}
		h := uint32(0)
		for i := 0; i < len(src); i += 4 {
			h = add(h, binary.LittleEndian.Uint32(src[i:])^binary.LittleEndian.Uint32(dst[i:]))
		}
		h = add(h, uint32(t.Proto))
		if t.Proto == ofproto.ProtoTCP || t.Proto == ofproto.ProtoSCTP {
			h = add(h, uint32(bits.ReverseBytes16(t.Src.Port()^t.Dst.Port())))
		}
		return finish(h), true
	}
}
