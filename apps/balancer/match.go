package balancer

import (
	"net/netip"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// forwardMatches returns the matches that together take the packets of clients to a
// listener.
func (in vipInput) forwardMatches(l ListenerRecord) [][]ofproto.Field {
	proto := l.Key.Protocol.number()
	return [][]ofproto.Field{{
		ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(proto),
		ofproto.IPv4Dst(netip.PrefixFrom(in.rec.VIP.Address, 32)), ofproto.L4Dst(proto, l.Key.Port),
	}}
}

// replyMatches returns the matches that together take the replies of a member.
func (in vipInput) replyMatches(l ListenerRecord, m MemberRecord) [][]ofproto.Field {
	proto := l.Key.Protocol.number()
	return [][]ofproto.Field{{
		ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(proto),
		ofproto.IPv4Src(netip.PrefixFrom(m.Key.Addr(), 32)), ofproto.L4Src(proto, m.Key.Port()),
	}}
}
