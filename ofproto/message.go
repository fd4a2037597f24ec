package ofproto

import "fmt"

var messageNames = [...]string{
	"hello", "error", "echo_request", "echo_reply", "experimenter", "features_request", "features_reply",
	"get_config_request", "get_config_reply", "set_config", "packet_in", "flow_removed", "port_status",
	"packet_out", "flow_mod", "group_mod", "port_mod", "table_mod", "multipart_request", "multipart_reply",
	"barrier_request", "barrier_reply", "queue_get_config_request", "queue_get_config_reply", "role_request",
	"role_reply", "get_async_request", "get_async_reply", "set_async", "meter_mod",
}

// String returns the name of the specification in lower case, without its prefix: "flow_mod".
func (t MessageType) String() string {
	if int(t) < len(messageNames) {
		return messageNames[t]
	}
	return fmt.Sprintf("type_%d", uint8(t))
}

// RawMessage is a message of a type this package does not read.
type RawMessage struct {
	Type MessageType
	Body []byte // what follows the header
}

// MessageType implements Message.
func (m *RawMessage) MessageType() MessageType { return m.Type }

func (m *RawMessage) appendBody(b []byte) []byte { return append(b, m.Body...) }

// Hello opens a connection (§7.5.1).
type Hello struct {
	// Versions are those of the version bitmap, ascending; nil when the message
	// has none, and then the version of the header counts.
	Versions []uint8
	// Elements are the elements other than the version bitmap, as they stand on the wire.
	Elements []byte
}

const helloVersionBitmap = 1

// MessageType implements Message.
func (*Hello) MessageType() MessageType { return TypeHello }

func (m *Hello) appendBody(b []byte) []byte {
	if m.Versions != nil {
		var words int
		for _, v := range m.Versions {
			words = max(words, int(v)/32+1)
		}
		start := len(b)
		b = be.AppendUint16(b, helloVersionBitmap)
		b = be.AppendUint16(b, uint16(4+4*words))
		for w := range words {
			var bits uint32
			for _, v := range m.Versions {
				if int(v)/32 == w {
					bits |= 1 << (v % 32)
				}
			}
			b = be.AppendUint32(b, bits)
		}
		b = pad8(b, start)
	}
	return append(b, m.Elements...)
}

func (m *Hello) parse(b []byte) error {
	var (
		versions [256]bool
		found    bool
		other    []byte
	)
	for off := 0; off < len(b); {
		e := b[off:]
		if len(e) < 4 {
			return fail("element", off, ErrTruncated)
		}
		n := int(be.Uint16(e[2:]))
		body, err := cut("element", e, n, 4, 2)
		if err != nil {
			return within("hello", off, err)
		}
		// The last element may come without its padding, from some.
		whole := min(roundUp8(n), len(e))
		if be.Uint16(e) == helloVersionBitmap {
			if n%4 != 0 {
				return fail("version bitmap", off+2, ErrLength)
			}
			found = true
			for w := 0; w < 8 && 4+4*w < n; w++ {
				bits := be.Uint32(body[4+4*w:])
				for i := range 32 {
					if bits&(1<<i) != 0 {
						versions[32*w+i] = true
					}
				}
			}
		} else {
			other = append(other, e[:whole]...)
			other = pad8(other, 0)
		}
		off += whole
	}
	var v []uint8
	if found {
		v = []uint8{}
		for i, set := range versions {
			if set {
				v = append(v, uint8(i))
			}
		}
	}
	*m = Hello{Versions: v, Elements: other}
	return nil
}

// EchoRequest asks the other side for an EchoReply with the same data (§7.5.2).
type EchoRequest struct{ Data []byte }

// MessageType implements Message.
func (*EchoRequest) MessageType() MessageType { return TypeEchoRequest }

func (m *EchoRequest) appendBody(b []byte) []byte { return append(b, m.Data...) }

// EchoReply answers an EchoRequest (§7.5.3).
type EchoReply struct{ Data []byte }

// MessageType implements Message.
func (*EchoReply) MessageType() MessageType { return TypeEchoReply }

func (m *EchoReply) appendBody(b []byte) []byte { return append(b, m.Data...) }

// Experimenter identifiers this package knows.
const (
	ExperimenterNicira uint32 = 0x00002320
	ExperimenterONF    uint32 = 0x4f4e4600
)

// Experimenter is a message outside the specification (§7.5.4). Bundle messages
// come as *BundleControl and *BundleAdd instead.
type Experimenter struct {
	Experimenter uint32 // an IEEE OUI or an identifier assigned by the ONF
	ExpType      uint32
	Data         []byte
}

// MessageType implements Message.
func (*Experimenter) MessageType() MessageType { return TypeExperimenter }

func (m *Experimenter) appendBody(b []byte) []byte {
	b = be.AppendUint32(b, m.Experimenter)
	b = be.AppendUint32(b, m.ExpType)
	return append(b, m.Data...)
}

func parseExperimenter(b []byte) (Message, error) {
	if err := atLeast("body", b, 8); err != nil {
		return nil, err
	}
	m := Experimenter{Experimenter: be.Uint32(b), ExpType: be.Uint32(b[4:]), Data: clip(b[8:])}
	if m.Experimenter == ExperimenterONF {
		switch m.ExpType {
		case bundleControlType:
			return parseBundleControl(b)
		case bundleAddType:
			return parseBundleAdd(b)
		}
	}
	return &m, nil
}

// FeaturesRequest asks a switch who it is (§7.3.1).
type FeaturesRequest struct{}

// MessageType implements Message.
func (*FeaturesRequest) MessageType() MessageType { return TypeFeaturesRequest }

func (*FeaturesRequest) appendBody(b []byte) []byte { return b }
func (*FeaturesRequest) parse(b []byte) error       { return exactly("body", b, 0) }

// Capabilities of a switch (§7.3.1, enum ofp_capabilities).
const (
	CapFlowStats   uint32 = 1 << 0
	CapTableStats  uint32 = 1 << 1
	CapPortStats   uint32 = 1 << 2
	CapGroupStats  uint32 = 1 << 3
	CapIPReasm     uint32 = 1 << 5
	CapQueueStats  uint32 = 1 << 6
	CapPortBlocked uint32 = 1 << 8
)

// FeaturesReply is a switch's answer to a FeaturesRequest (§7.3.1).
type FeaturesReply struct {
	DPID         DPID
	Buffers      uint32 // packets it can hold for a PACKET_IN
	Tables       uint8
	AuxiliaryID  uint8  // 0 on the main connection
	Capabilities uint32 // Cap… bits
}

// MessageType implements Message.
func (*FeaturesReply) MessageType() MessageType { return TypeFeaturesReply }

func (m *FeaturesReply) appendBody(b []byte) []byte {
	b = be.AppendUint64(b, uint64(m.DPID))
	b = be.AppendUint32(b, m.Buffers)
	b = append(b, m.Tables, m.AuxiliaryID, 0, 0)
	b = be.AppendUint32(b, m.Capabilities)
	return pad(b, 4)
}

func (m *FeaturesReply) parse(b []byte) error {
	if err := exactly("body", b, 24); err != nil {
		return err
	}
	*m = FeaturesReply{
		DPID: DPID(be.Uint64(b)), Buffers: be.Uint32(b[8:]), Tables: b[12], AuxiliaryID: b[13],
		Capabilities: be.Uint32(b[16:]),
	}
	return nil
}

// GetConfigRequest asks for a GetConfigReply (§7.3.2).
type GetConfigRequest struct{}

// MessageType implements Message.
func (*GetConfigRequest) MessageType() MessageType { return TypeGetConfigRequest }

func (*GetConfigRequest) appendBody(b []byte) []byte { return b }
func (*GetConfigRequest) parse(b []byte) error       { return exactly("body", b, 0) }

// What a switch does with IP fragments (§7.3.2, enum ofp_config_flags).
const (
	FragNormal uint16 = 0
	FragDrop   uint16 = 1
	FragReasm  uint16 = 2
	FragMask   uint16 = 3
)

// GetConfigReply is the configuration of a switch (§7.3.2).
type GetConfigReply struct {
	Flags       uint16 // Frag… bits
	MissSendLen uint16 // bytes of a packet sent to the controller, MaxLenNoBuffer for all
}

// MessageType implements Message.
func (*GetConfigReply) MessageType() MessageType { return TypeGetConfigReply }

func (m *GetConfigReply) appendBody(b []byte) []byte { return (*SetConfig)(m).appendBody(b) }
func (m *GetConfigReply) parse(b []byte) error       { return (*SetConfig)(m).parse(b) }

// SetConfig sets the configuration of a switch; there is no answer (§7.3.2).
type SetConfig struct {
	Flags       uint16 // Frag… bits
	MissSendLen uint16 // bytes of a packet sent to the controller, MaxLenNoBuffer for all
}

// MessageType implements Message.
func (*SetConfig) MessageType() MessageType { return TypeSetConfig }

func (m *SetConfig) appendBody(b []byte) []byte {
	b = be.AppendUint16(b, m.Flags)
	return be.AppendUint16(b, m.MissSendLen)
}

func (m *SetConfig) parse(b []byte) error {
	if err := exactly("body", b, 4); err != nil {
		return err
	}
	*m = SetConfig{Flags: be.Uint16(b), MissSendLen: be.Uint16(b[2:])}
	return nil
}

// BarrierRequest asks the switch to finish everything sent before it (§7.3.8).
type BarrierRequest struct{}

// MessageType implements Message.
func (*BarrierRequest) MessageType() MessageType { return TypeBarrierRequest }

func (*BarrierRequest) appendBody(b []byte) []byte { return b }
func (*BarrierRequest) parse(b []byte) error       { return exactly("body", b, 0) }

// BarrierReply says that everything before its BarrierRequest is done (§7.3.8).
type BarrierReply struct{}

// MessageType implements Message.
func (*BarrierReply) MessageType() MessageType { return TypeBarrierReply }

func (*BarrierReply) appendBody(b []byte) []byte { return b }
func (*BarrierReply) parse(b []byte) error       { return exactly("body", b, 0) }

// Role is the role of a controller towards a switch (§7.3.9).
type Role uint32

// Roles.
const (
	RoleNoChange Role = 0 // only asks
	RoleEqual    Role = 1
	RoleMaster   Role = 2
	RoleSlave    Role = 3
)

// String returns the role in lower case.
func (r Role) String() string {
	switch r {
	case RoleNoChange:
		return "nochange"
	case RoleEqual:
		return "equal"
	case RoleMaster:
		return "master"
	case RoleSlave:
		return "slave"
	}
	return fmt.Sprintf("role_%d", uint32(r))
}

// RoleRequest asks for a role (§7.3.9).
type RoleRequest struct {
	Role         Role
	GenerationID uint64 // of the election; a switch refuses a smaller one than it has seen
}

// MessageType implements Message.
func (*RoleRequest) MessageType() MessageType { return TypeRoleRequest }

func (m *RoleRequest) appendBody(b []byte) []byte {
	b = be.AppendUint32(b, uint32(m.Role))
	b = pad(b, 4)
	return be.AppendUint64(b, m.GenerationID)
}

func (m *RoleRequest) parse(b []byte) error {
	if err := exactly("body", b, 16); err != nil {
		return err
	}
	*m = RoleRequest{Role: Role(be.Uint32(b)), GenerationID: be.Uint64(b[8:])}
	return nil
}

// RoleReply says which role the controller now has (§7.3.9).
type RoleReply struct {
	Role         Role
	GenerationID uint64 // all ones where the switch has seen none
}

// MessageType implements Message.
func (*RoleReply) MessageType() MessageType { return TypeRoleReply }

func (m *RoleReply) appendBody(b []byte) []byte { return (*RoleRequest)(m).appendBody(b) }
func (m *RoleReply) parse(b []byte) error       { return (*RoleRequest)(m).parse(b) }

// GetAsyncRequest asks which asynchronous messages this connection gets (§7.3.10).
type GetAsyncRequest struct{}

// MessageType implements Message.
func (*GetAsyncRequest) MessageType() MessageType { return TypeGetAsyncRequest }

func (*GetAsyncRequest) appendBody(b []byte) []byte { return b }
func (*GetAsyncRequest) parse(b []byte) error       { return exactly("body", b, 0) }

// GetAsyncReply is the answer to a GetAsyncRequest (§7.3.10).
type GetAsyncReply SetAsync

// MessageType implements Message.
func (*GetAsyncReply) MessageType() MessageType { return TypeGetAsyncReply }

func (m *GetAsyncReply) appendBody(b []byte) []byte { return (*SetAsync)(m).appendBody(b) }
func (m *GetAsyncReply) parse(b []byte) error       { return (*SetAsync)(m).parse(b) }

// SetAsync chooses the asynchronous messages of this connection (§7.3.10). Each
// mask has bit 1<<reason set for the reasons wanted; element 0 holds for the
// roles equal and master, element 1 for slave.
type SetAsync struct {
	PacketIn, PortStatus, FlowRemoved [2]uint32
}

// MessageType implements Message.
func (*SetAsync) MessageType() MessageType { return TypeSetAsync }

func (m *SetAsync) appendBody(b []byte) []byte {
	for _, mask := range [...][2]uint32{m.PacketIn, m.PortStatus, m.FlowRemoved} {
		b = be.AppendUint32(b, mask[0])
		b = be.AppendUint32(b, mask[1])
	}
	return b
}

func (m *SetAsync) parse(b []byte) error {
	if err := exactly("body", b, 24); err != nil {
		return err
	}
	at := func(i int) [2]uint32 { return [2]uint32{be.Uint32(b[i:]), be.Uint32(b[i+4:])} }
	*m = SetAsync{PacketIn: at(0), PortStatus: at(8), FlowRemoved: at(16)}
	return nil
}

// TableMod configures a table (§7.3.3). 1.3 has no configuration bit left that
// means something.
type TableMod struct {
	Table  Table // TableAll for all
	Config uint32
}

// MessageType implements Message.
func (*TableMod) MessageType() MessageType { return TypeTableMod }

func (m *TableMod) appendBody(b []byte) []byte {
	b = append(b, byte(m.Table), 0, 0, 0)
	return be.AppendUint32(b, m.Config)
}

func (m *TableMod) parse(b []byte) error {
	if err := exactly("body", b, 8); err != nil {
		return err
	}
	*m = TableMod{Table: Table(b[0]), Config: be.Uint32(b[4:])}
	return nil
}
