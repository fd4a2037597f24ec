package ofproto

import "fmt"

// MultipartType is what a multipart message is about (§7.3.5).
type MultipartType uint16

// Multipart types.
const (
	MultipartDesc          MultipartType = 0
	MultipartFlow          MultipartType = 1
	MultipartAggregate     MultipartType = 2
	MultipartTable         MultipartType = 3
	MultipartPortStats     MultipartType = 4
	MultipartQueue         MultipartType = 5
	MultipartGroup         MultipartType = 6
	MultipartGroupDesc     MultipartType = 7
	MultipartGroupFeatures MultipartType = 8
	MultipartMeter         MultipartType = 9
	MultipartMeterConfig   MultipartType = 10
	MultipartMeterFeatures MultipartType = 11
	MultipartTableFeatures MultipartType = 12
	MultipartPortDesc      MultipartType = 13
	MultipartExperimenter  MultipartType = 0xffff
)

var multipartNames = [...]string{
	"desc", "flow", "aggregate", "table", "port_stats", "queue", "group", "group_desc", "group_features", "meter",
	"meter_config", "meter_features", "table_features", "port_desc",
}

// String returns the name of the specification in lower case.
func (t MultipartType) String() string {
	if int(t) < len(multipartNames) {
		return multipartNames[t]
	}
	if t == MultipartExperimenter {
		return "experimenter"
	}
	return fmt.Sprintf("multipart_%d", uint16(t))
}

// MultipartMore is the flag of a message that another of the same xid and type follows.
const MultipartMore uint16 = 1

// MultipartRequest asks for a description or for statistics (§7.3.5).
type MultipartRequest struct {
	Type  MultipartType
	Flags uint16        // MultipartMore
	Body  MultipartBody // nil for types that have none
}

// MultipartBody is the body of a MultipartRequest. The implementations are values:
// FlowStatsRequest, PortStatsRequest, QueueStatsRequest, GroupStatsRequest,
// MeterStatsRequest, TableFeaturesRequest and RawBody.
type MultipartBody interface {
	appendRequest(b []byte) []byte
}

// FlowStatsRequest asks for the flows that its match covers; the body of
// MultipartFlow and MultipartAggregate (§7.3.5.2).
type FlowStatsRequest struct {
	Table              Table   // TableAll for all
	OutPort            Port    // PortAny for no restriction
	OutGroup           GroupID // GroupAny for no restriction
	Cookie, CookieMask uint64
	Match              Match
}

// AllFlows asks for every flow of every table.
func AllFlows() FlowStatsRequest {
	return FlowStatsRequest{Table: TableAll, OutPort: PortAny, OutGroup: GroupAny}
}

// PortStatsRequest asks for the counters of a port, PortAny for all (§7.3.5.6).
type PortStatsRequest struct{ Port Port }

// QueueStatsRequest asks for the counters of queues (§7.3.5.8).
type QueueStatsRequest struct {
	Port  Port   // PortAny for all
	Queue uint32 // all ones for all
}

// GroupStatsRequest asks for the counters of a group, GroupAll for all (§7.3.5.9).
type GroupStatsRequest struct{ Group GroupID }

// MeterStatsRequest asks for a meter, MeterAll for all; the body of MultipartMeter
// and MultipartMeterConfig (§7.3.5.12).
type MeterStatsRequest struct{ Meter uint32 }

// TableFeaturesRequest sets the features of tables (§7.3.5.5). To read them send
// MultipartTableFeatures with a nil body.
type TableFeaturesRequest struct{ Tables []TableFeatures }

// RawBody is the body of a request of a type this package does not read.
type RawBody []byte

// MessageType implements Message.
func (*MultipartRequest) MessageType() MessageType { return TypeMultipartRequest }

func (m *MultipartRequest) appendBody(b []byte) []byte {
	b = be.AppendUint16(b, uint16(m.Type))
	b = be.AppendUint16(b, m.Flags)
	b = pad(b, 4)
	if m.Body != nil {
		b = m.Body.appendRequest(b)
	}
	return b
}

func (r FlowStatsRequest) appendRequest(b []byte) []byte {
	b = append(b, byte(r.Table), 0, 0, 0)
	b = be.AppendUint32(b, uint32(r.OutPort))
	b = be.AppendUint32(b, uint32(r.OutGroup))
	b = pad(b, 4)
	b = be.AppendUint64(b, r.Cookie)
	b = be.AppendUint64(b, r.CookieMask)
	return appendMatch(b, r.Match)
}

func (r PortStatsRequest) appendRequest(b []byte) []byte {
	return pad(be.AppendUint32(b, uint32(r.Port)), 4)
}

func (r QueueStatsRequest) appendRequest(b []byte) []byte {
	return be.AppendUint32(be.AppendUint32(b, uint32(r.Port)), r.Queue)
}

func (r GroupStatsRequest) appendRequest(b []byte) []byte {
	return pad(be.AppendUint32(b, uint32(r.Group)), 4)
}

func (r MeterStatsRequest) appendRequest(b []byte) []byte {
	return pad(be.AppendUint32(b, r.Meter), 4)
}

func (r TableFeaturesRequest) appendRequest(b []byte) []byte {
	for i := range r.Tables {
		b = r.Tables[i].AppendTo(b)
	}
	return b
}

func (r RawBody) appendRequest(b []byte) []byte { return append(b, r...) }

func (m *MultipartRequest) parse(b []byte) error {
	if err := atLeast("body", b, 8); err != nil {
		return err
	}
	typ := MultipartType(be.Uint16(b))
	body, err := parseRequestBody(typ, b[8:])
	if err != nil {
		return within(typ.String(), 8, err)
	}
	*m = MultipartRequest{Type: typ, Flags: be.Uint16(b[2:]), Body: body}
	return nil
}

func parseRequestBody(typ MultipartType, b []byte) (MultipartBody, error) {
	switch typ {
	case MultipartDesc, MultipartTable, MultipartGroupDesc, MultipartGroupFeatures, MultipartMeterFeatures, MultipartPortDesc:
		return nil, exactly("body", b, 0)
	case MultipartFlow, MultipartAggregate:
		if err := atLeast("body", b, 32); err != nil {
			return nil, err
		}
		match, n, err := parseMatch(b[32:])
		if err != nil {
			return nil, within("body", 32, err)
		}
		if err := exactly("body", b, 32+n); err != nil {
			return nil, err
		}
		return FlowStatsRequest{
			Table: Table(b[0]), OutPort: Port(be.Uint32(b[4:])), OutGroup: GroupID(be.Uint32(b[8:])),
			Cookie: be.Uint64(b[16:]), CookieMask: be.Uint64(b[24:]), Match: match,
		}, nil
	case MultipartTableFeatures:
		if len(b) == 0 {
			return nil, nil
		}
		var r TableFeaturesRequest
		for t, err := range TableFeaturesOf(b) {
			if err != nil {
				return nil, err
			}
			r.Tables = append(r.Tables, t)
		}
		return r, nil
	case MultipartPortStats, MultipartQueue, MultipartGroup, MultipartMeter, MultipartMeterConfig:
		if err := exactly("body", b, 8); err != nil {
			return nil, err
		}
		v := be.Uint32(b)
		switch typ {
		case MultipartPortStats:
			return PortStatsRequest{Port: Port(v)}, nil
		case MultipartQueue:
			return QueueStatsRequest{Port: Port(v), Queue: be.Uint32(b[4:])}, nil
		case MultipartGroup:
			return GroupStatsRequest{Group: GroupID(v)}, nil
		default:
			return MeterStatsRequest{Meter: v}, nil
		}
	default:
		return RawBody(clip(b)), nil
	}
}

// MultipartReply is one part of the answer to a MultipartRequest (§7.3.5). Its
// body is read by the function of its type: ParseDesc, FlowStatsOf, and so on.
type MultipartReply struct {
	Type  MultipartType
	Flags uint16
	Body  []byte // whole records; aliases the message
}

// More says that another part follows.
func (m *MultipartReply) More() bool { return m.Flags&MultipartMore != 0 }

// MessageType implements Message.
func (*MultipartReply) MessageType() MessageType { return TypeMultipartReply }

func (m *MultipartReply) appendBody(b []byte) []byte {
	b = be.AppendUint16(b, uint16(m.Type))
	b = be.AppendUint16(b, m.Flags)
	b = pad(b, 4)
	return append(b, m.Body...)
}

func (m *MultipartReply) parse(b []byte) error {
	if err := atLeast("body", b, 8); err != nil {
		return err
	}
	*m = MultipartReply{Type: MultipartType(be.Uint16(b)), Flags: be.Uint16(b[2:]), Body: clip(b[8:])}
	return nil
}
