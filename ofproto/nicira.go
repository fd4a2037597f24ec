package ofproto

import (
	"fmt"
	"net/netip"
	"strings"
)

// Nicira's extension actions, which Open vSwitch executes. Each is an experimenter
// action: experimenter number, 16-bit subtype, then its own fields.
const (
	nxRegMove       = 6
	nxRegLoad       = 7
	nxMultipath     = 10
	nxResubmitTable = 14
	nxOutputReg     = 15
	nxCT            = 35
	nxNAT           = 36
	nxController2   = 37
)

// Move copies Bits bits from one field into another. Both are of the fields this
// package knows, Nicira's or the specification's.
type Move struct {
	Src, Dst             FieldType
	SrcOffset, DstOffset uint16 // in bits from the least significant
	Bits                 uint16
}

// Load sets Bits bits of a field to the low bits of Value.
type Load struct {
	Dst    FieldType
	Offset uint16 // in bits from the least significant
	Bits   uint16 // at most 64
	Value  uint64
}

// Fields and algorithms of Multipath.
const (
	HashEthSrc       uint16 = 0
	HashSymmetricL4  uint16 = 1
	HashSymmetricL34 uint16 = 2
	HashSymmetricUDP uint16 = 3 // as HashSymmetricL34 with UDP ports
	HashNWSrc        uint16 = 4
	HashNWDst        uint16 = 5

	MultipathModulo    uint16 = 0
	MultipathThreshold uint16 = 1
	MultipathHRW       uint16 = 2 // highest random weight
	MultipathIter      uint16 = 3
)

// Multipath hashes header fields into a number 0 … Links-1 and writes it to Bits
// bits of a field.
type Multipath struct {
	Fields    uint16 // Hash…
	Basis     uint16 // seed of the hash
	Algorithm uint16 // Multipath…
	Links     uint32 // 1 … 65536
	Arg       uint32
	Dst       FieldType
	Offset    uint16 // in bits from the least significant
	Bits      uint16
}

// Resubmit looks the packet up in a table again, as if it came in on InPort
// (PortInPort for the port it came in on), then goes on.
type Resubmit struct {
	InPort Port
	Table  Table
}

// OutputReg sends the packet out of the port whose number is in Bits bits of a field.
type OutputReg struct {
	Src    FieldType
	Offset uint16 // in bits from the least significant
	Bits   uint16
}

// Controller sends the whole packet to the controller as ToController does, by way of
// a meter: what is over its rate does not go to the controller, and the packet itself
// goes on. A meter that does not exist limits nothing.
type Controller struct{ Meter uint32 }

// Flags of CT, and what its Table holds when the packet is not recirculated.
const (
	CTCommit uint16 = 1 << 0
	CTForce  uint16 = 1 << 1

	CTNoTable Table = 0xff
)

// CT sends the packet through connection tracking.
type CT struct {
	Flags uint16 // CT… bits
	Zone  uint16

	// ZoneField takes the zone from Bits bits of a field instead, where ZoneBits is not 0.
	ZoneField            FieldType
	ZoneOffset, ZoneBits uint16

	Table   Table // where a copy of the packet goes on with the state known; CTNoTable for nowhere
	ALG     uint16
	Actions []Action // on the connection committed: NAT, SetField and Load of ct_mark and ct_label, Move
}

// Flags of NAT.
const (
	NATSrc        uint16 = 1 << 0
	NATDst        uint16 = 1 << 1
	NATPersistent uint16 = 1 << 2
	NATHash       uint16 = 1 << 3
	NATRandom     uint16 = 1 << 4
)

// NAT translates addresses inside CT. Without NATSrc and NATDst it translates
// packets of connections that already are.
type NAT struct {
	Flags            uint16     // NAT… bits
	IPMin, IPMax     netip.Addr // both of one family; not valid where absent
	PortMin, PortMax uint16     // 0 where absent
}

const (
	natIPv4Min = 1 << iota
	natIPv4Max
	natIPv6Min
	natIPv6Max
	natPortMin
	natPortMax
)

// nicira begins an action of Nicira's: 10 bytes.
func nicira(b []byte, subtype uint16) []byte {
	b = append(b, 0xff, 0xff, 0, 0)
	b = be.AppendUint32(b, ExperimenterNicira)
	return be.AppendUint16(b, subtype)
}

// FlushConnections is the message that has Open vSwitch, from 3.1 on, forget connections
// of a zone (NXT_CT_FLUSH): those whose first packet went to a destination, and whose
// replies come from a source. Both are of one family; port 0 stands for all.
func FlushConnections(zone uint16, proto uint8, to, from netip.AddrPort) *Experimenter {
	b := []byte{proto, 0, 0, 0, 0, 0, 0, 0}
	port := func(typ, p uint16) {
		b = be.AppendUint16(b, typ)
		b = be.AppendUint16(b, 8)
		b = be.AppendUint16(b, p)
		b = append(b, 0, 0)
	}
	tuple := func(typ, address, portType uint16, a netip.AddrPort) {
		start := len(b)
		b = be.AppendUint16(b, typ)
		b = append(b, 0, 0, 0, 0, 0, 0)
		b = be.AppendUint16(b, address)
		b = be.AppendUint16(b, 20)
		v := a.Addr().As16()
		b = append(append(b, v[:]...), 0, 0, 0, 0)
		if a.Port() != 0 {
			port(portType, a.Port())
		}
		be.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	const original, reply, source, destination, sourcePort, destinationPort, zoneID = 0, 1, 0, 1, 2, 3, 2
	tuple(original, destination, destinationPort, to)
	tuple(reply, source, sourcePort, from)
	port(zoneID, zone)
	return &Experimenter{Experimenter: ExperimenterNicira, ExpType: 32, Data: b}
}

// bitRange packs an offset and a number of bits, 1 … 64, as Nicira's actions hold them.
func bitRange(offset, bits uint16) uint16 { return offset<<6 | (bits-1)&0x3f }

func (a Move) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxRegMove)
	b = be.AppendUint16(b, a.Bits)
	b = be.AppendUint16(b, a.SrcOffset)
	b = be.AppendUint16(b, a.DstOffset)
	b = be.AppendUint32(b, a.Src.header())
	b = be.AppendUint32(b, a.Dst.header())
	return setLen(b, start, 2)
}

func (a Load) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxRegLoad)
	b = be.AppendUint16(b, bitRange(a.Offset, a.Bits))
	b = be.AppendUint32(b, a.Dst.header())
	b = be.AppendUint64(b, a.Value)
	return setLen(b, start, 2)
}

func (a Multipath) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxMultipath)
	b = be.AppendUint16(b, a.Fields)
	b = be.AppendUint16(b, a.Basis)
	b = pad(b, 2)
	b = be.AppendUint16(b, a.Algorithm)
	b = be.AppendUint16(b, uint16(a.Links-1))
	b = be.AppendUint32(b, a.Arg)
	b = pad(b, 2)
	b = be.AppendUint16(b, bitRange(a.Offset, a.Bits))
	b = be.AppendUint32(b, a.Dst.header())
	return setLen(b, start, 2)
}

// Resubmit holds a port of OpenFlow 1.0: 16 bits, the reserved ones at its end.
func (a Resubmit) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxResubmitTable)
	b = be.AppendUint16(b, uint16(a.InPort))
	b = append(b, byte(a.Table), 0, 0, 0)
	return setLen(b, start, 2)
}

// OutputReg ends in the length for packets to the controller, which is not limited, and
// padding.
func (a OutputReg) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxOutputReg)
	b = be.AppendUint16(b, bitRange(a.Offset, a.Bits))
	b = be.AppendUint32(b, a.Src.header())
	b = be.AppendUint16(b, MaxLenNoBuffer)
	b = pad(b, 6)
	return setLen(b, start, 2)
}

// controllerMeter is the property of nxController2 that names a meter.
const controllerMeter = 5

// Controller is the action's header padded to 16 bytes and one property.
func (a Controller) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxController2)
	b = pad(b, 6)
	b = append(b, 0, controllerMeter, 0, 8)
	b = be.AppendUint32(b, a.Meter)
	return setLen(b, start, 2)
}

func (a CT) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxCT)
	b = be.AppendUint16(b, a.Flags)
	if a.ZoneBits > 0 {
		b = be.AppendUint32(b, a.ZoneField.header())
		b = be.AppendUint16(b, bitRange(a.ZoneOffset, a.ZoneBits))
	} else {
		b = pad(b, 4)
		b = be.AppendUint16(b, a.Zone)
	}
	b = append(b, byte(a.Table), 0, 0, 0)
	b = be.AppendUint16(b, a.ALG)
	b = appendActions(b, a.Actions)
	return setLen(b, start, 2)
}

func (a NAT) appendTo(b []byte) []byte {
	start := len(b)
	b = nicira(b, nxNAT)
	b = pad(b, 2)
	b = be.AppendUint16(b, a.Flags)
	var present uint16
	presentAt := len(b)
	b = pad(b, 2)
	for i, ip := range [...]netip.Addr{a.IPMin, a.IPMax} {
		switch {
		case ip.Is4():
			v := ip.As4()
			b = append(b, v[:]...)
			present |= natIPv4Min << i
		case ip.Is6():
			v := ip.As16()
			b = append(b, v[:]...)
			present |= natIPv6Min << i
		}
	}
	for i, p := range [...]uint16{a.PortMin, a.PortMax} {
		if p != 0 {
			b = be.AppendUint16(b, p)
			present |= natPortMin << i
		}
	}
	be.PutUint16(b[presentAt:], present)
	b = pad8(b, start)
	return setLen(b, start, 2)
}

func subfield(f FieldType, offset, bits uint16) string {
	switch {
	case offset == 0 && int(bits) == f.Bits():
		return f.String() + "[]"
	case bits == 1:
		return fmt.Sprintf("%v[%d]", f, offset)
	}
	return fmt.Sprintf("%v[%d..%d]", f, offset, int(offset)+int(bits)-1)
}

// String implements Action.
func (a Move) String() string {
	return "move:" + subfield(a.Src, a.SrcOffset, a.Bits) + "->" + subfield(a.Dst, a.DstOffset, a.Bits)
}

// String implements Action.
func (a Load) String() string {
	return fmt.Sprintf("load:%#x->%s", a.Value, subfield(a.Dst, a.Offset, a.Bits))
}

// String implements Action.
func (a Multipath) String() string {
	fields, algorithm := fmt.Sprint(a.Fields), fmt.Sprint(a.Algorithm)
	if names := [...]string{"eth_src", "symmetric_l4", "symmetric_l3l4", "symmetric_l3l4+udp", "nw_src", "nw_dst"}; int(a.Fields) < len(names) {
		fields = names[a.Fields]
	}
	if names := [...]string{"modulo_n", "hash_threshold", "hrw", "iter_hash"}; int(a.Algorithm) < len(names) {
		algorithm = names[a.Algorithm]
	}
	return fmt.Sprintf("multipath(%s,%d,%s,%d,%d,%s)", fields, a.Basis, algorithm, a.Links, a.Arg, subfield(a.Dst, a.Offset, a.Bits))
}

// String implements Action.
func (a Resubmit) String() string {
	if a.InPort == PortInPort {
		return fmt.Sprintf("resubmit(,%d)", a.Table)
	}
	return fmt.Sprintf("resubmit(%v,%d)", a.InPort, a.Table)
}

// String implements Action.
func (a OutputReg) String() string { return "output:" + subfield(a.Src, a.Offset, a.Bits) }

// String implements Action.
func (a Controller) String() string { return fmt.Sprintf("controller(meter_id=%d)", a.Meter) }

// String implements Action.
func (a CT) String() string {
	var list []string
	if a.Flags&CTCommit != 0 {
		list = append(list, "commit")
	}
	if a.Flags&CTForce != 0 {
		list = append(list, "force")
	}
	if a.Table != CTNoTable {
		list = append(list, fmt.Sprintf("table=%d", a.Table))
	}
	if a.ZoneBits > 0 {
		list = append(list, "zone="+subfield(a.ZoneField, a.ZoneOffset, a.ZoneBits))
	} else if a.Zone != 0 {
		list = append(list, fmt.Sprintf("zone=%d", a.Zone))
	}
	var exec []Action
	for _, x := range a.Actions {
		if n, ok := x.(NAT); ok {
			list = append(list, n.String())
		} else {
			exec = append(exec, x)
		}
	}
	if exec != nil {
		list = append(list, "exec("+FormatActions(exec)+")")
	}
	if a.ALG != 0 {
		list = append(list, fmt.Sprintf("alg=%d", a.ALG))
	}
	return "ct(" + strings.Join(list, ",") + ")"
}

// String implements Action.
func (a NAT) String() string {
	var list []string
	switch {
	case a.Flags&(NATSrc|NATDst) == 0:
		return "nat"
	case a.Flags&NATSrc != 0:
		list = append(list, "src"+a.to())
	default:
		list = append(list, "dst"+a.to())
	}
	for i, name := range [...]string{"persistent", "hash", "random"} {
		if a.Flags&(NATPersistent<<i) != 0 {
			list = append(list, name)
		}
	}
	return "nat(" + strings.Join(list, ",") + ")"
}

// to is what a NAT translates to, with its "=".
func (a NAT) to() string {
	var ip, port string
	if a.IPMin.IsValid() {
		ip = a.IPMin.String()
		if a.IPMax.IsValid() && a.IPMax != a.IPMin {
			ip += "-" + a.IPMax.String()
		}
		if a.IPMin.Is6() && a.PortMin != 0 {
			ip = "[" + ip + "]"
		}
	}
	if a.PortMin != 0 {
		port = fmt.Sprintf(":%d", a.PortMin)
		if a.PortMax != 0 && a.PortMax != a.PortMin {
			port += fmt.Sprintf("-%d", a.PortMax)
		}
	}
	if ip+port == "" {
		return ""
	}
	return "=" + ip + port
}

// parseExperimenterAction reads an experimenter's action. One that this package
// does not know, or that names a field it does not know, is kept raw.
func parseExperimenterAction(b []byte) (Action, error) {
	raw := RawAction{Type: actExperimenter, Body: clip(b[4:])}
	if be.Uint32(b[4:]) != ExperimenterNicira {
		return raw, nil
	}
	if len(b) < 16 { // every action of Nicira's is that long
		return nil, fail("nicira", 2, ErrLength)
	}
	switch be.Uint16(b[8:]) {
	case nxRegMove:
		if err := exactly("move", b, 24); err != nil {
			return nil, err
		}
		src, ok1 := fieldOfHeader(be.Uint32(b[16:]))
		dst, ok2 := fieldOfHeader(be.Uint32(b[20:]))
		if !ok1 || !ok2 {
			return raw, nil
		}
		return Move{
			Src: src, Dst: dst, Bits: be.Uint16(b[10:]), SrcOffset: be.Uint16(b[12:]), DstOffset: be.Uint16(b[14:]),
		}, nil
	case nxRegLoad:
		if err := exactly("load", b, 24); err != nil {
			return nil, err
		}
		dst, ok := fieldOfHeader(be.Uint32(b[12:]))
		if !ok {
			return raw, nil
		}
		r := be.Uint16(b[10:])
		return Load{Dst: dst, Offset: r >> 6, Bits: r&0x3f + 1, Value: be.Uint64(b[16:])}, nil
	case nxMultipath:
		if err := exactly("multipath", b, 32); err != nil {
			return nil, err
		}
		dst, ok := fieldOfHeader(be.Uint32(b[28:]))
		if !ok {
			return raw, nil
		}
		r := be.Uint16(b[26:])
		return Multipath{
			Fields: be.Uint16(b[10:]), Basis: be.Uint16(b[12:]), Algorithm: be.Uint16(b[16:]),
			Links: uint32(be.Uint16(b[18:])) + 1, Arg: be.Uint32(b[20:]),
			Dst: dst, Offset: r >> 6, Bits: r&0x3f + 1,
		}, nil
	case nxResubmitTable:
		if err := exactly("resubmit", b, 16); err != nil {
			return nil, err
		}
		port := Port(be.Uint16(b[10:]))
		if port >= 0xff00 {
			port |= 0xffff0000
		}
		return Resubmit{InPort: port, Table: Table(b[12])}, nil
	case nxOutputReg:
		if err := exactly("output_reg", b, 24); err != nil {
			return nil, err
		}
		src, ok := fieldOfHeader(be.Uint32(b[12:]))
		if !ok || be.Uint16(b[16:]) != MaxLenNoBuffer {
			return raw, nil
		}
		r := be.Uint16(b[10:])
		return OutputReg{Src: src, Offset: r >> 6, Bits: r&0x3f + 1}, nil
	case nxController2:
		if len(b) != 24 || be.Uint32(b[16:]) != controllerMeter<<16|8 {
			return raw, nil // other properties
		}
		return Controller{Meter: be.Uint32(b[20:])}, nil
	case nxCT:
		return parseCT(b, raw)
	case nxNAT:
		return parseNAT(b)
	}
	return raw, nil
}

func parseCT(b []byte, raw RawAction) (Action, error) {
	if len(b) < 24 {
		return nil, fail("ct", 2, ErrLength)
	}
	a := CT{Flags: be.Uint16(b[10:]), Table: Table(b[18]), ALG: be.Uint16(b[22:])}
	if h := be.Uint32(b[12:]); h != 0 {
		f, ok := fieldOfHeader(h)
		if !ok {
			return raw, nil
		}
		r := be.Uint16(b[16:])
		a.ZoneField, a.ZoneOffset, a.ZoneBits = f, r>>6, r&0x3f+1
	} else {
		a.Zone = be.Uint16(b[16:])
	}
	// Only what is executed on the connection may be inside, never another CT:
	// nesting stops here.
	actions, err := parseActionList(b[24:], func(e []byte) (Action, error) {
		if be.Uint16(e) == actExperimenter && be.Uint32(e[4:]) == ExperimenterNicira && len(e) >= 16 && be.Uint16(e[8:]) == nxCT {
			return nil, fail("ct", 8, ErrValue)
		}
		return parseAction(e)
	})
	if err != nil {
		return nil, within("ct", 24, err)
	}
	a.Actions = actions
	return a, nil
}

func parseNAT(b []byte) (Action, error) {
	a := NAT{Flags: be.Uint16(b[12:])}
	present := be.Uint16(b[14:])
	if present&(natIPv4Min|natIPv4Max) != 0 && present&(natIPv6Min|natIPv6Max) != 0 {
		return nil, fail("nat", 14, ErrValue)
	}
	off := 16
	take := func(bit uint16, n int) []byte {
		if present&bit == 0 || off < 0 {
			return nil
		}
		if off+n > len(b) {
			off = -1
			return nil
		}
		off += n
		return b[off-n : off]
	}
	a.IPMin, _ = netip.AddrFromSlice(take(natIPv4Min, 4))
	a.IPMax, _ = netip.AddrFromSlice(take(natIPv4Max, 4))
	if v := take(natIPv6Min, 16); v != nil {
		a.IPMin = netip.AddrFrom16([16]byte(v))
	}
	if v := take(natIPv6Max, 16); v != nil {
		a.IPMax = netip.AddrFrom16([16]byte(v))
	}
	if v := take(natPortMin, 2); v != nil {
		a.PortMin = be.Uint16(v)
	}
	if v := take(natPortMax, 2); v != nil {
		a.PortMax = be.Uint16(v)
	}
	if off < 0 || roundUp8(off) != len(b) {
		return nil, fail("nat", 2, ErrLength)
	}
	return a, nil
}
