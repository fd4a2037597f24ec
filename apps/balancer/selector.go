package balancer

import (
	"math/bits"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
)

// selector is the match that stands for one of size slots where no hash does: four
// bits of the source port, and as many of the source address as the slots need
// beyond. The lowest bit of the port says nothing: Linux picks even ones to connect.
// OpenFlow has no masks on ports (§7.2.3.7), Open vSwitch has: elsewhere all bits
// are those of the address, and a client keeps to one slot. Where addresses have no
// such masks, all bits are those of the port.
//
// With persistence it is eight bits of the address, of which several combinations may
// stand for one slot: see client.
func (in vipInput) selector(l ListenerRecord, slot, size int) [][]ofproto.Field {
	if size < 2 {
		return [][]ofproto.Field{nil}
	}
	if in.persistent(l) {
		var all [][]ofproto.Field
		for c := range 1 << clientBits {
			if client(c).slot(size) == slot {
				all = append(all, []ofproto.Field{in.clientField(client(c))})
			}
		}
		return all
	}
	proto := l.Key.Protocol.number()
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
	return [][]ofproto.Field{fs}
}

// selectors is the number of matches that all slots need.
func (in vipInput) selectors(l ListenerRecord, size int) int {
	if size > 1 && in.persistent(l) {
		return 1 << clientBits
	}
	return size
}

// persistent says whether the connections of a client keep to one member.
func (in vipInput) persistent(l ListenerRecord) bool {
	p := in.document(l).Pool.Persistence
	return p != PersistenceNone && p != ""
}

// clientBits is the number of bits of a client's address that tell its slot where the
// switch cannot hash it.
const clientBits = 8

// client is those bits: in the lower half the lowest four of the address; in the upper
// half the lowest four of its third byte in IPv4, of its network's number in IPv6 (bits
// 60 to 63). So clients of one network are told apart, and clients that have the same
// number in different ones.
type client uint8

// slot spreads the bits over size slots, each of which stands for as many of them. The
// runs of 16 slots are balanced (see slots.go), and so is any step of 17.
func (c client) slot(size int) int {
	low, high := int(c&0xf), int(c>>4)
	return (16*high + (low+high)%16) % size
}

func (in vipInput) clientField(c client) ofproto.Field {
	low, high := byte(c&0xf), byte(c>>4)
	if !in.ipv6() {
		return ofproto.IPv4SrcMasked(uint32(high)<<8|uint32(low), 0x0f0f)
	}
	f := ofproto.Field{Type: ofproto.FieldIPv6Src, Value: make([]byte, 16), Mask: make([]byte, 16)}
	f.Value[15], f.Mask[15] = low, 0xf
	f.Value[7], f.Mask[7] = high, 0xf
	return f
}

// hash hashes the address of a client into the register of slots. The seed is the same
// for all listeners that are to send a client to the same member.
func (in vipInput) hash(l ListenerRecord, size int) ofproto.Action {
	m := ofproto.Multipath{
		Fields: ofproto.HashNWSrc, Algorithm: ofproto.MultipathModulo, Links: uint32(size),
		Dst: ofproto.FieldNXMReg0 + controller.RegSlot, Bits: slotBits,
	}
	if in.document(l).Pool.Persistence == PersistenceSourceIPProtocol {
		m.Basis = uint16(l.Key.Protocol.number())
	}
	return m
}

// slotBits is the size of a slot in its register.
const slotBits = 16

// lookup sends to the table of slots: with the listener, and with the slot of the client
// where connections are persistent.
func (in vipInput) lookup(l ListenerRecord, size int) []ofproto.Instruction {
	actions := []ofproto.Action{ofproto.Load{Dst: ofproto.FieldNXMReg0 + controller.RegListener, Bits: 32, Value: uint64(l.Group)}}
	if in.persistent(l) {
		actions = append(actions, in.hash(l, size))
	}
	return []ofproto.Instruction{ofproto.ApplyActions{Actions: actions}, ofproto.GotoTable{Table: controller.TableSlot}}
}

// slotMatch is the match of a slot in the table of slots.
func (in vipInput) slotMatch(l ListenerRecord, slot, size int) []ofproto.Field {
	of := ofproto.NXMReg(controller.RegListener, uint32(l.Group), ^uint32(0))
	of.Mask = nil
	match := []ofproto.Field{of, ofproto.EthType(in.etherType()), ofproto.IPProto(l.Key.Protocol.number())}
	if in.persistent(l) {
		return append(match, ofproto.NXMReg(controller.RegSlot, uint32(slot), 1<<slotBits-1))
	}
	return append(match, in.selector(l, slot, size)[0]...)
}
