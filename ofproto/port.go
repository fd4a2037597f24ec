package ofproto

import "strconv"

// String returns the number, or the name of a reserved port in upper case.
func (p Port) String() string {
	switch p {
	case PortInPort:
		return "IN_PORT"
	case PortTable:
		return "TABLE"
	case PortNormal:
		return "NORMAL"
	case PortFlood:
		return "FLOOD"
	case PortAll:
		return "ALL"
	case PortController:
		return "CONTROLLER"
	case PortLocal:
		return "LOCAL"
	case PortAny:
		return "ANY"
	}
	return strconv.FormatUint(uint64(p), 10)
}

// Configuration of a port, set by an administrator (§7.2.1, enum ofp_port_config).
const (
	PortConfigDown       uint32 = 1 << 0
	PortConfigNoRecv     uint32 = 1 << 2
	PortConfigNoFwd      uint32 = 1 << 5
	PortConfigNoPacketIn uint32 = 1 << 6
)

// State of a port, observed by the switch (§7.2.1, enum ofp_port_state).
const (
	PortStateLinkDown uint32 = 1 << 0
	PortStateBlocked  uint32 = 1 << 1
	PortStateLive     uint32 = 1 << 2
)

// Why a PortStatus was sent (§7.4.3, enum ofp_port_reason).
const (
	PortReasonAdd    uint8 = 0
	PortReasonDelete uint8 = 1
	PortReasonModify uint8 = 2
)

// PortDesc describes a port (§7.2.1).
type PortDesc struct {
	Port   Port
	HWAddr MAC
	Name   string // at most 16 bytes
	Config uint32 // PortConfig… bits
	State  uint32 // PortState… bits

	Curr, Advertised, Supported, Peer uint32 // enum ofp_port_features bits

	CurrSpeed, MaxSpeed uint32 // kbit/s
}

// Up says that the port is neither configured down nor without link.
func (p PortDesc) Up() bool {
	return p.Config&PortConfigDown == 0 && p.State&PortStateLinkDown == 0
}

const portLen = 64

// AppendTo appends the port as a record of a port description multipart reply.
func (p PortDesc) AppendTo(b []byte) []byte {
	b = be.AppendUint32(b, uint32(p.Port))
	b = pad(b, 4)
	b = append(b, p.HWAddr[:]...)
	b = pad(b, 2)
	b = appendCString(b, p.Name, 16)
	for _, v := range [...]uint32{p.Config, p.State, p.Curr, p.Advertised, p.Supported, p.Peer, p.CurrSpeed, p.MaxSpeed} {
		b = be.AppendUint32(b, v)
	}
	return b
}

// parsePort reads a record of portLen bytes.
func parsePort(b []byte) PortDesc {
	return PortDesc{
		Port: Port(be.Uint32(b)), HWAddr: MAC(b[8:14]), Name: cString(b[16:32]),
		Config: be.Uint32(b[32:]), State: be.Uint32(b[36:]), Curr: be.Uint32(b[40:]), Advertised: be.Uint32(b[44:]),
		Supported: be.Uint32(b[48:]), Peer: be.Uint32(b[52:]), CurrSpeed: be.Uint32(b[56:]), MaxSpeed: be.Uint32(b[60:]),
	}
}

// PortStatus tells that a port came, went or changed (§7.4.3).
type PortStatus struct {
	Reason uint8 // PortReason…
	Desc   PortDesc
}

// MessageType implements Message.
func (*PortStatus) MessageType() MessageType { return TypePortStatus }

func (m *PortStatus) appendBody(b []byte) []byte {
	b = append(b, m.Reason)
	b = pad(b, 7)
	return m.Desc.AppendTo(b)
}

func (m *PortStatus) parse(b []byte) error {
	if err := exactly("body", b, 8+portLen); err != nil {
		return err
	}
	*m = PortStatus{Reason: b[0], Desc: parsePort(b[8:])}
	return nil
}

// PortMod changes the configuration of a port (§7.3.4.3).
type PortMod struct {
	Port      Port
	HWAddr    MAC    // must be the port's: it tells apart ports that were renumbered
	Config    uint32 // PortConfig… bits
	Mask      uint32 // those of them to change
	Advertise uint32 // enum ofp_port_features bits; 0 changes nothing
}

// MessageType implements Message.
func (*PortMod) MessageType() MessageType { return TypePortMod }

func (m *PortMod) appendBody(b []byte) []byte {
	b = be.AppendUint32(b, uint32(m.Port))
	b = pad(b, 4)
	b = append(b, m.HWAddr[:]...)
	b = pad(b, 2)
	b = be.AppendUint32(b, m.Config)
	b = be.AppendUint32(b, m.Mask)
	b = be.AppendUint32(b, m.Advertise)
	return pad(b, 4)
}

func (m *PortMod) parse(b []byte) error {
	if err := exactly("body", b, 32); err != nil {
		return err
	}
	*m = PortMod{
		Port: Port(be.Uint32(b)), HWAddr: MAC(b[8:14]), Config: be.Uint32(b[16:]), Mask: be.Uint32(b[20:]),
		Advertise: be.Uint32(b[24:]),
	}
	return nil
}
