package balancer

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// forwardMatches returns the matches that together take the packets of clients to a
// listener.
func (in vipInput) forwardMatches(l ListenerRecord) [][]ofproto.Field {
	base := append(network(in.rec.VIP.Address, in.rec.VIP.VLAN), ipDst(in.rec.VIP.Address))
	return in.allowed(in.portMatches(base, l, l.Key.Port, ofproto.L4DstMasked))
}

// replyMatches returns the matches that together take the replies of a member. They
// have the VLAN that the member is seen in: none behind an access port.
func (in vipInput) replyMatches(l ListenerRecord, m MemberRecord) [][]ofproto.Field {
	vlan := in.rec.VIP.VLAN
	if t, ok := in.targets[m.Key.Addr()]; ok {
		vlan = t.vlan
	}
	base := append(network(m.Key.Addr(), vlan), ipSrc(m.Key.Addr()))
	return in.portMatches(base, l, m.Key.Port(), ofproto.L4SrcMasked)
}

// portMatches adds the protocol and ports of a listener to a match: port, or its range.
func (in vipInput) portMatches(base []ofproto.Field, l ListenerRecord, port uint16, field func(proto uint8, value, mask uint16) ofproto.Field) [][]ofproto.Field {
	proto := l.Key.Protocol.number()
	base = append(base, ofproto.IPProto(proto))
	ports := in.ports(l)
	if ports.all() {
		// Fragments have no ports in Open vSwitch, the first one neither, and would be spread
		// by other bits than whole packets. Where the addresses alone count they go the same
		// way; connection tracking puts them together.
		if in.caps.Nicira && in.document(l).Pool.Persistence == PersistenceNone && in.rec.VIP.Mode != ModeConntrack {
			base = append(base, ofproto.IPFrag(0, ofproto.FragAny))
		}
		return [][]ofproto.Field{base}
	}
	if ports.single() {
		return [][]ofproto.Field{append(base, field(proto, port, 0xffff))}
	}
	var all [][]ofproto.Field
	for _, p := range ports.masks() {
		all = append(all, append(base[:len(base):len(base)], field(proto, p.value, p.mask)))
	}
	return all
}

// document returns what the document says of a listener.
func (in vipInput) document(l ListenerRecord) Listener {
	if in.rec != nil {
		if i := in.rec.VIP.Listener(l.Key); i >= 0 {
			return in.rec.VIP.Listeners[i]
		}
	}
	return Listener{Protocol: l.Key.Protocol, Port: l.Key.Port}
}

// ports are those of a listener.
func (in vipInput) ports(l ListenerRecord) portRange { return in.document(l).ports() }

// ports returns the ports of the listener.
func (l Listener) ports() portRange { return portRange{l.Port, max(l.Port, l.PortEnd)} }

// portRange is a range of ports, with both its ends.
type portRange struct{ first, last uint16 }

func (r portRange) single() bool { return r.first == r.last }

// all says whether the range has all ports, so that a match needs none.
func (r portRange) all() bool { return r.first == 1 && r.last == 65535 }

func (r portRange) overlaps(o portRange) bool { return r.first <= o.last && o.first <= r.last }

// String returns "80" or "8000-8999".
func (r portRange) String() string {
	if r.single() {
		return strconv.Itoa(int(r.first))
	}
	return fmt.Sprintf("%d-%d", r.first, r.last)
}

// portMask is a set of ports that a masked match takes.
type portMask struct{ value, mask uint16 }

// masks returns the fewest aligned blocks of ports that make up the range.
func (r portRange) masks() []portMask {
	var list []portMask
	for at, end := uint32(r.first), uint32(r.last)+1; at < end; {
		size := at & -at // the largest block that begins here
		if size == 0 {
			size = 1 << 16
		}
		for at+size > end {
			size /= 2
		}
		list = append(list, portMask{uint16(at), ^uint16(size - 1)})
		at += size
	}
	return list
}

// fieldsMost is how many fields most matches have at most.
const fieldsMost = 6

// network returns what the packets of a family have in a VLAN, 0 for untagged ones:
// VLANs may use the same addresses. There is room for the other fields of a match.
func network(a netip.Addr, vlan uint16) []ofproto.Field {
	etherType := packet.EtherTypeIPv4
	if a.Is6() {
		etherType = packet.EtherTypeIPv6
	}
	return append(make([]ofproto.Field, 0, fieldsMost), ofproto.EthType(etherType), inVLAN(vlan))
}

// inVLAN matches frames of a VLAN, 0 for untagged ones.
func inVLAN(vlan uint16) ofproto.Field {
	if vlan == 0 {
		return ofproto.VLANNone()
	}
	return ofproto.VLANVID(vlan)
}

// ipSrc is the source address of either family, to match or to set.
func ipSrc(a netip.Addr) ofproto.Field {
	if a.Is6() {
		return ofproto.IPv6Src(netip.PrefixFrom(a, 128))
	}
	return ofproto.IPv4Src(netip.PrefixFrom(a, 32))
}

// ipDst is the destination address of either family, to match or to set.
func ipDst(a netip.Addr) ofproto.Field {
	if a.Is6() {
		return ofproto.IPv6Dst(netip.PrefixFrom(a, 128))
	}
	return ofproto.IPv4Dst(netip.PrefixFrom(a, 32))
}

// ipv6 says whether the VIP has an IPv6 address.
func (in vipInput) ipv6() bool { return in.rec != nil && in.rec.VIP.Address.Is6() }

// addressMasks says whether any bits of a client's address can be matched.
func (in vipInput) addressMasks() bool {
	if in.ipv6() {
		return in.caps.IPv6Masks
	}
	return in.caps.AddressMasks
}

// srcBits matches bits of the lowest 32 of the source address.
func (in vipInput) srcBits(value, mask uint32) ofproto.Field {
	if in.ipv6() {
		return ofproto.IPv6SrcMasked(value, mask)
	}
	return ofproto.IPv4SrcMasked(value, mask)
}
