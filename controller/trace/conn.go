package trace

import (
	"net/netip"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// The bits of ct_state (ovs-fields(7)).
const (
	stateNew uint32 = 1 << iota
	stateEstablished
	stateRelated
	stateReply
	stateInvalid
	stateTracked
	stateSrcNAT
	stateDstNAT
)

// Connections are those that a switch tracks. The zero value has none: every packet is
// the first of its connection, until one is committed.
type Connections struct{ list []connection }

// connection is one connection of a zone. The tuples are those of its packets as they
// arrive: first is the direction it was opened in, reply the other.
type connection struct {
	zone         uint16
	first, reply Tuple
	mark, label  []byte
}

func (c *Connections) clone() *Connections { return &Connections{slices.Clone(c.list)} }

// find returns the connection of a packet, and whether the packet goes the other way.
func (c *Connections) find(zone uint16, t Tuple) (found *connection, reply bool) {
	for i := range c.list {
		switch k := &c.list[i]; {
		case k.zone == zone && k.first == t:
			return k, false
		case k.zone == zone && k.reply == t:
			return k, true
		}
	}
	return nil, false
}

// track sends the packet through connection tracking (ovs-actions(7), ct): its
// addresses are translated, and a copy of it goes on in a table with the state known.
func (x *execution) track(a ofproto.CT, p *Packet) {
	zone := a.Zone
	if a.ZoneBits > 0 {
		v, _ := p.get(a.ZoneField)
		zone = be.Uint16(withBits([]byte{0, 0}, 0, v, int(a.ZoneOffset), int(a.ZoneBits)))
	}
	c := p.clone()
	before := c.Tuple()
	conn, reply := x.tracked.find(zone, before)
	state := stateTracked
	mark, label := make([]byte, 4), make([]byte, 16)
	if conn != nil {
		mark, label = conn.mark, conn.label
	}
	c.set(ofproto.FieldNXMCTMark, mark)
	c.set(ofproto.FieldNXMCTLabel, label)
	var nat *ofproto.NAT
	for _, in := range a.Actions {
		if in, ok := in.(ofproto.NAT); ok {
			nat = &in
		} else {
			x.actions([]ofproto.Action{in}, c) // of the connection: its mark and label
		}
	}
	mark, _ = c.get(ofproto.FieldNXMCTMark)
	label, _ = c.get(ofproto.FieldNXMCTLabel)
	if conn != nil && a.Flags&ofproto.CTCommit != 0 {
		conn.mark, conn.label = mark, label
	}
	switch {
	case conn == nil:
		state |= stateNew
		after := before
		if nat != nil {
			after = translate(*nat, before)
		}
		if a.Flags&ofproto.CTCommit != 0 {
			x.tracked.list = append(x.tracked.list, connection{zone: zone, first: before, reply: after.Reverse(), mark: mark, label: label})
		}
		state |= c.rewrite(before, after)
	case reply:
		state |= stateEstablished | stateReply
		if nat != nil {
			state |= c.rewrite(before, conn.first.Reverse())
		}
	default:
		// A connection that was committed a packet ago: its first packet has not been
		// answered, and counts as new until it is.
		state |= stateNew
		if nat != nil {
			state |= c.rewrite(before, conn.reply.Reverse())
		}
	}
	if a.Table == ofproto.CTNoTable {
		p.fields = c.fields // what was translated stays so
		return
	}
	if c.depth++; c.depth > maxDepth {
		x.note("packets are recirculated too often")
		return
	}
	c.set(ofproto.FieldNXMCTState, be.AppendUint32(nil, state))
	c.set(ofproto.FieldNXMCTZone, be.AppendUint16(nil, zone))
	x.table(a.Table, c)
}

// translate returns the tuple of the first packet of a connection behind a NAT. Of a
// range the first is taken.
func translate(n ofproto.NAT, t Tuple) Tuple {
	to := func(old netip.AddrPort) netip.AddrPort {
		addr, port := old.Addr(), old.Port()
		if n.IPMin.IsValid() {
			addr = n.IPMin
		}
		if n.PortMin != 0 {
			port = n.PortMin
		}
		return netip.AddrPortFrom(addr, port)
	}
	switch {
	case n.Flags&ofproto.NATSrc != 0:
		t.Src = to(t.Src)
	case n.Flags&ofproto.NATDst != 0:
		t.Dst = to(t.Dst)
	}
	return t
}

// rewrite gives the packet the addresses and ports of another tuple, and returns the
// bits of the state that say so.
func (p *Packet) rewrite(from, to Tuple) (state uint32) {
	v4, v6 := ofproto.FieldIPv4Src, ofproto.FieldIPv6Src
	write := func(old, now netip.AddrPort, offset ofproto.FieldType, changed uint32) {
		if old == now {
			return
		}
		state |= changed
		field := v4
		if now.Addr().Is6() {
			field = v6
		}
		p.set(field+offset, now.Addr().AsSlice())
		p.set(portField(to.Proto)+offset, be.AppendUint16(nil, now.Port()))
	}
	write(from.Src, to.Src, 0, stateSrcNAT)
	write(from.Dst, to.Dst, 1, stateDstNAT)
	return state
}
