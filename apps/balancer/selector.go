package balancer

import (
	"math/bits"

	"github.com/fairlead/fairlead/ofproto"
)

// selector is the match that stands for one of size slots where no hash does: four
// bits of the source port, and as many of the source address as the slots need
// beyond. The lowest bit of the port says nothing: Linux picks even ones to connect.
// OpenFlow has no masks on ports (§7.2.3.7), Open vSwitch has: elsewhere all bits
// are those of the address, and a client keeps to one slot. Where addresses have no
// such masks, all bits are those of the port.
func (in vipInput) selector(proto uint8, slot, size int) []ofproto.Field {
	all := bits.Len(uint(size - 1))
	portBits := 0
	switch {
	case in.caps.PortMasks && in.addressMasks():
		portBits = 4
	case in.caps.PortMasks:
		portBits = all
	}
	var fs []ofproto.Field
	if mask := uint16(1<<portBits-1) << 1; mask != 0 {
		fs = append(fs, ofproto.L4SrcMasked(proto, uint16(slot)<<1&mask, mask))
	}
	if addressBits := max(all-portBits, 0); addressBits > 0 {
		fs = append(fs, in.srcBits(uint32(slot>>portBits), 1<<addressBits-1))
	}
	return fs
}
