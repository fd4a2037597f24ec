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
