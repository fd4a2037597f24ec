package ofproto

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	openflow "github.com/netrack/openflow"
	"github.com/netrack/openflow/ofp"
	"github.com/stretchr/testify/require"
)

// The messages of this package are held against two implementations written by
// others: the encoder of netrack/openflow, byte for byte, and the decoder and
// printer of Open vSwitch. Where they differ from the specification is said at
// the place.

// netrackFrame is the whole frame of m as netrack/openflow encodes it; ok is
// false where it cannot express the message.
func netrackFrame(t *testing.T, xid uint32, m Message) (frame []byte, ok bool) {
	body, ok := netrackMessage(m)
	if !ok {
		return nil, false
	}
	var payload bytes.Buffer
	if body != nil {
		_, err := body.WriteTo(&payload)
		require.NoError(t, err)
	}
	h := openflow.Header{
		Version: Version, Type: openflow.Type(m.MessageType()), Length: uint16(HeaderLen + payload.Len()), Transaction: xid,
	}
	var b bytes.Buffer
	_, err := h.WriteTo(&b)
	require.NoError(t, err)
	return append(b.Bytes(), payload.Bytes()...), true
}

// writers are values that are encoded one after the other.
type writers []io.WriterTo

func (w writers) WriteTo(out io.Writer) (n int64, err error) {
	for _, one := range w {
		k, err := one.WriteTo(out)
		n += k
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// rawBytes is what the other implementation leaves to its user.
type rawBytes []byte

func (r rawBytes) WriteTo(out io.Writer) (int64, error) {
	n, err := out.Write(r)
	return int64(n), err
}

func netrackMessage(m Message) (io.WriterTo, bool) {
	switch m := m.(type) {
	case *Hello:
		if m.Elements != nil || len(m.Versions) == 0 {
			return &ofp.Hello{}, m.Elements == nil && m.Versions == nil
		}
		// It counts the padding into the element's length, which the specification
		// does not, so only an odd number of words is the same.
		words := make([]uint32, int(m.Versions[len(m.Versions)-1])/32+1)
		for _, v := range m.Versions {
			words[v/32] |= 1 << (v % 32)
		}
		return &ofp.Hello{Elements: ofp.HelloElems{&ofp.HelloElemVersionBitmap{Bitmaps: words}}}, len(words)%2 == 1
	case *Error:
		if m.Type == ErrorExperimenter {
			return &ofp.ErrorExperimenter{ExpType: m.Code, Experimenter: m.Experimenter, Data: m.Data}, true
		}
		return &ofp.Error{Type: ofp.ErrType(m.Type), Code: ofp.ErrCode(m.Code), Data: m.Data}, true
	case *EchoRequest:
		return &ofp.EchoRequest{Data: m.Data}, true
	case *EchoReply:
		return &ofp.EchoReply{Data: m.Data}, true
	case *Experimenter:
		return writers{&ofp.Experimenter{Experimenter: m.Experimenter, ExpType: m.ExpType}, rawBytes(m.Data)}, true
	case *FeaturesRequest, *GetConfigRequest, *BarrierRequest, *BarrierReply, *GetAsyncRequest:
		return nil, true
	case *FeaturesReply:
		return &ofp.SwitchFeatures{
			DatapathID: uint64(m.DPID), NumBuffers: m.Buffers, NumTables: m.Tables, AuxiliaryID: m.AuxiliaryID,
			Capabilities: ofp.Capability(m.Capabilities),
		}, true
	case *GetConfigReply:
		return &ofp.SwitchConfig{Flags: ofp.ConfigFlag(m.Flags), MissSendLength: m.MissSendLen}, true
	case *SetConfig:
		return &ofp.SwitchConfig{Flags: ofp.ConfigFlag(m.Flags), MissSendLength: m.MissSendLen}, true
	case *PacketIn:
		match, ok := netrackMatch(m.Match)
		return &ofp.PacketIn{
			Buffer: m.BufferID, Length: m.TotalLen, Reason: ofp.PacketInReason(m.Reason), Table: ofp.Table(m.Table),
			Cookie: m.Cookie, Match: match, Data: m.Data,
		}, ok
	case *FlowRemoved:
		match, ok := netrackMatch(m.Match)
		return &ofp.FlowRemoved{
			Cookie: m.Cookie, Priority: m.Priority, Reason: ofp.FlowRemovedReason(m.Reason), Table: ofp.Table(m.Table),
			DurationSec: m.DurationSec, DurationNSec: m.DurationNsec, IdleTimeout: m.IdleTimeout, HardTimeout: m.HardTimeout,
			PacketCount: m.Packets, ByteCount: m.Bytes, Match: match,
		}, ok
	case *PortStatus:
		port := netrackPort(m.Desc)
		return &ofp.PortStatus{Reason: ofp.PortReason(m.Reason), Port: port}, true
	case *PacketOut:
		actions, ok := netrackActions(m.Actions)
		return &ofp.PacketOut{Buffer: m.BufferID, InPort: ofp.PortNo(m.InPort), Actions: actions, Data: m.Data}, ok
	case *FlowMod:
		match, ok1 := netrackMatch(m.Match)
		instructions, ok2 := netrackInstructions(m.Instructions)
		return &ofp.FlowMod{
			Cookie: m.Cookie, CookieMask: m.CookieMask, Table: ofp.Table(m.Table), Command: ofp.FlowModCommand(m.Command),
			IdleTimeout: m.IdleTimeout, HardTimeout: m.HardTimeout, Priority: m.Priority, Buffer: m.BufferID,
			OutPort: ofp.PortNo(m.OutPort), OutGroup: ofp.Group(m.OutGroup), Flags: ofp.FlowModFlag(m.Flags),
			Match: match, Instructions: instructions,
		}, ok1 && ok2
	case *GroupMod:
		buckets, ok := netrackBuckets(m.Buckets)
		return &ofp.GroupMod{
			Command: ofp.GroupCommand(m.Command), Type: ofp.GroupType(m.Type), Group: ofp.Group(m.Group), Buckets: buckets,
		}, ok
	case *PortMod:
		return &ofp.PortMod{
			PortNo: ofp.PortNo(m.Port), HWAddr: m.HWAddr[:], Config: ofp.PortConfig(m.Config), Mask: ofp.PortConfig(m.Mask),
			Advertise: ofp.PortFeature(m.Advertise),
		}, true
	case *TableMod:
		return &ofp.TableMod{Table: ofp.Table(m.Table), Config: ofp.TableConfig(m.Config)}, true
	case *MeterMod:
		bands, ok := netrackBands(m.Bands)
		return &ofp.MeterMod{
			Command: ofp.MeterCommand(m.Command), Flags: ofp.MeterFlag(m.Flags), Meter: ofp.Meter(m.Meter), Bands: bands,
		}, ok
	case *RoleRequest:
		return &ofp.RoleRequest{Role: ofp.ControllerRole(m.Role), GenerationID: m.GenerationID}, true
	case *RoleReply:
		return &ofp.RoleRequest{Role: ofp.ControllerRole(m.Role), GenerationID: m.GenerationID}, true
	case *GetAsyncReply:
		return &ofp.AsyncConfig{PacketInMask: m.PacketIn, PortStatusMask: m.PortStatus, FlowRemovedMask: m.FlowRemoved}, true
	case *SetAsync:
		return &ofp.AsyncConfig{PacketInMask: m.PacketIn, PortStatusMask: m.PortStatus, FlowRemovedMask: m.FlowRemoved}, true
	case *MultipartRequest:
		body, ok := netrackRequest(m)
		// It wraps the body in a reader that is drained by the first WriteTo.
		return ofp.NewMultipartRequest(ofp.MultipartType(m.Type), body), ok && m.Flags == 0
	case *MultipartReply:
		body, ok := netrackReply(m)
		return writers{
			&ofp.MultipartReply{Type: ofp.MultipartType(m.Type), Flags: ofp.MultipartReplyFlag(m.Flags)}, body,
		}, ok
	}
	return nil, false
}

func netrackXM(f Field) (ofp.XM, bool) {
	return ofp.XM{
		Class: ofp.XMClass(f.Type >> 16), Type: ofp.XMType(f.Type & 0x7f), Value: f.Value, Mask: f.Mask,
	}, f.Type>>16 != classExperimenter
}

func netrackMatch(m Match) (ofp.Match, bool) {
	out, all := ofp.Match{Type: ofp.MatchTypeXM}, true
	for f := range m.Fields() {
		xm, ok := netrackXM(f)
		out.Fields, all = append(out.Fields, xm), all && ok
	}
	return out, all
}

func netrackActions(list []Action) (out ofp.Actions, ok bool) {
	for _, a := range list {
		var n ofp.Action
		switch a := a.(type) {
		case Output:
			n = &ofp.ActionOutput{Port: ofp.PortNo(a.Port), MaxLen: a.MaxLen}
		case Group:
			n = &ofp.ActionGroup{Group: ofp.Group(a.ID)}
		case SetField:
			xm, ok := netrackXM(a.Field)
			if !ok {
				return nil, false
			}
			n = &ofp.ActionSetField{Field: xm}
		case PushVLAN:
			n = &ofp.ActionPushVLAN{EtherType: a.EthType}
		case PopVLAN:
			n = &ofp.ActionPopVLAN{}
		case PushMPLS:
			n = &ofp.ActionPushMPLS{EtherType: a.EthType}
		case PopMPLS:
			n = &ofp.ActionPopMPLS{EtherType: a.EthType}
		case PushPBB:
			n = &ofp.ActionPushPBB{EtherType: a.EthType}
		case SetQueue:
			n = &ofp.ActionSetQueue{QueueID: ofp.Queue(a.Queue)}
		case SetMPLSTTL:
			n = &ofp.ActionSetMPLSTTL{TTL: a.TTL}
		case DecMPLSTTL:
			n = &ofp.ActionDecMPLSTTL{}
		case SetNWTTL:
			n = &ofp.ActionSetNetworkTTL{TTL: a.TTL}
		case DecNWTTL:
			n = &ofp.ActionDecNetworkTTL{}
		case CopyTTLOut:
			n = &ofp.ActionCopyTTLOut{}
		case CopyTTLIn:
			n = &ofp.ActionCopyTTLIn{}
		default: // PopPBB has no encoder there; experimenters have no body
			return nil, false
		}
		out = append(out, n)
	}
	return out, true
}

func netrackInstructions(list []Instruction) (out ofp.Instructions, ok bool) {
	for _, i := range list {
		switch i := i.(type) {
		case GotoTable:
			out = append(out, &ofp.InstructionGotoTable{Table: ofp.Table(i.Table)})
		case WriteMetadata:
			out = append(out, &ofp.InstructionWriteMetadata{Metadata: i.Metadata, MetadataMask: i.Mask})
		case WriteActions:
			actions, ok := netrackActions(i.Actions)
			if !ok {
				return nil, false
			}
			out = append(out, &ofp.InstructionWriteActions{Actions: actions})
		case ApplyActions:
			actions, ok := netrackActions(i.Actions)
			if !ok {
				return nil, false
			}
			out = append(out, &ofp.InstructionApplyActions{Actions: actions})
		case ClearActions:
			out = append(out, &ofp.InstructionClearActions{})
		case Meter:
			out = append(out, &ofp.InstructionMeter{Meter: ofp.Meter(i.ID)})
		default:
			return nil, false
		}
	}
	return out, true
}

func netrackBuckets(list []Bucket) (out []ofp.Bucket, ok bool) {
	for _, b := range list {
		actions, ok := netrackActions(b.Actions)
		if !ok {
			return nil, false
		}
		out = append(out, ofp.Bucket{
			Weight: b.Weight, WatchPort: ofp.PortNo(b.WatchPort), WatchGroup: ofp.Group(b.WatchGroup), Actions: actions,
		})
	}
	return out, true
}

func netrackBands(list []MeterBand) (out ofp.MeterBands, ok bool) {
	for _, d := range list {
		switch d.Type {
		case BandDrop:
			out = append(out, &ofp.MeterBandDrop{Rate: d.Rate, BurstSize: d.Burst})
		case BandDSCPRemark:
			out = append(out, &ofp.MeterBandDSCPRemark{Rate: d.Rate, BurstSize: d.Burst, PrecLevel: d.PrecLevel})
		default:
			out = append(out, &ofp.MeterBandExperimenter{Rate: d.Rate, BurstSize: d.Burst, Experimenter: be.Uint32(d.Data)})
		}
	}
	return out, true
}

func netrackPort(p PortDesc) ofp.Port {
	return ofp.Port{
		PortNo: ofp.PortNo(p.Port), HWAddr: net.HardwareAddr(p.HWAddr[:]), Name: p.Name, Config: ofp.PortConfig(p.Config),
		State: ofp.PortState(p.State), Curr: ofp.PortFeature(p.Curr), Advertised: ofp.PortFeature(p.Advertised),
		Supported: ofp.PortFeature(p.Supported), Peer: ofp.PortFeature(p.Peer), CurrSpeed: p.CurrSpeed, MaxSpeed: p.MaxSpeed,
	}
}

func netrackRequest(m *MultipartRequest) (io.WriterTo, bool) {
	switch r := m.Body.(type) {
	case nil:
		return nil, true
	case FlowStatsRequest:
		match, ok := netrackMatch(r.Match)
		if m.Type == MultipartAggregate {
			return &ofp.AggregateStatsRequest{
				Table: ofp.Table(r.Table), OutPort: ofp.PortNo(r.OutPort), OutGroup: ofp.Group(r.OutGroup),
				Cookie: r.Cookie, CookieMask: r.CookieMask, Match: match,
			}, ok
		}
		return &ofp.FlowStatsRequest{
			Table: ofp.Table(r.Table), OutPort: ofp.PortNo(r.OutPort), OutGroup: ofp.Group(r.OutGroup),
			Cookie: r.Cookie, CookieMask: r.CookieMask, Match: match,
		}, ok
	case PortStatsRequest:
		return &ofp.PortStatsRequest{PortNo: ofp.PortNo(r.Port)}, true
	case QueueStatsRequest:
		return &ofp.QueueStatsRequest{Port: ofp.PortNo(r.Port), Queue: ofp.Queue(r.Queue)}, true
	case GroupStatsRequest:
		return &ofp.GroupStatsRequest{Group: ofp.Group(r.Group)}, true
	case MeterStatsRequest:
		if m.Type == MultipartMeterConfig {
			return &ofp.MeterConfigRequest{Meter: ofp.Meter(r.Meter)}, true
		}
		return &ofp.MeterStatsRequest{Meter: ofp.Meter(r.Meter)}, true
	}
	return nil, false
}

// netrackReply reads the records with this package and writes them with the other.
func netrackReply(m *MultipartReply) (w writers, ok bool) {
	ok = true
	switch m.Type {
	case MultipartDesc:
		d, err := ParseDesc(m.Body)
		return writers{&ofp.Description{
			Manufacturer: d.Manufacturer, Hardware: d.Hardware, Software: d.Software, SerialNum: d.Serial, Datapath: d.Datapath,
		}}, err == nil
	case MultipartFlow:
		for f, err := range FlowStatsOf(m.Body) {
			match, ok1 := netrackMatch(f.Match)
			list, err2 := f.Instructions()
			instructions, ok2 := netrackInstructions(list)
			ok = ok && ok1 && ok2 && err == nil && err2 == nil
			w = append(w, &ofp.FlowStats{
				Table: ofp.Table(f.Table), DurationSec: f.DurationSec, DurationNSec: f.DurationNsec, Priority: f.Priority,
				IdleTimeout: f.IdleTimeout, HardTimeout: f.HardTimeout, Flags: ofp.FlowModFlag(f.Flags), Cookie: f.Cookie,
				PacketCount: f.Packets, ByteCount: f.Bytes, Match: match, Instructions: instructions,
			})
		}
	case MultipartAggregate:
		a, err := ParseAggregateStats(m.Body)
		return writers{&ofp.AggregateStats{PacketCount: a.Packets, ByteCount: a.Bytes, FlowCount: a.Flows}}, err == nil
	case MultipartTable:
		for s, err := range TableStatsOf(m.Body) {
			ok = ok && err == nil
			w = append(w, &ofp.TableStats{
				Table: ofp.Table(s.Table), ActiveCount: s.Active, LookupCount: s.Lookups, MatchedCount: s.Matched,
			})
		}
	case MultipartPortStats:
		for p, err := range PortStatsOf(m.Body) {
			ok = ok && err == nil
			w = append(w, &ofp.PortStats{
				PortNo: ofp.PortNo(p.Port), RxPackets: p.RxPackets, TxPackets: p.TxPackets, RxBytes: p.RxBytes, TxBytes: p.TxBytes,
				RxDropped: p.RxDropped, TxDropped: p.TxDropped, RxErrors: p.RxErrors, TxErrors: p.TxErrors,
				RxFrameErr: p.RxFrameErr, RxOverErr: p.RxOverErr, RxCrcErr: p.RxCRCErr, Collisions: p.Colls,
				DurationSec: p.DurationSec, DurationNSec: p.DurationNsec,
			})
		}
	case MultipartQueue:
		for q, err := range QueueStatsOf(m.Body) {
			ok = ok && err == nil
			w = append(w, &ofp.QueueStats{
				Port: ofp.PortNo(q.Port), Queue: ofp.Queue(q.Queue), TxBytes: q.TxBytes, TxPackets: q.TxPackets,
				TxErrors: q.TxDropped, DurationSec: q.DurationSec, DurationNSec: q.DurationNsec,
			})
		}
	case MultipartGroup:
		for s, err := range GroupStatsOf(m.Body) {
			ok = ok && err == nil
			g := &ofp.GroupStats{
				Group: ofp.Group(s.Group), RefCount: s.RefCount, PacketCount: s.Packets, ByteCount: s.Bytes,
				DurationSec: s.DurationSec, DurationNSec: s.DurationNsec,
			}
			for _, c := range s.Buckets {
				g.BucketStats = append(g.BucketStats, ofp.BucketCounter{PacketCount: c.Packets, ByteCount: c.Bytes})
			}
			w = append(w, g)
		}
	case MultipartGroupDesc:
		for d, err := range GroupDescOf(m.Body) {
			buckets, ok1 := netrackBuckets(d.Buckets)
			ok = ok && ok1 && err == nil
			w = append(w, &ofp.GroupDescStats{Type: ofp.GroupType(d.Type), Group: ofp.Group(d.Group), Buckets: buckets})
		}
	case MultipartGroupFeatures:
		f, err := ParseGroupFeatures(m.Body)
		return writers{&ofp.GroupFeatures{Types: f.Types, Capabilities: f.Capabilities, MaxGroups: f.MaxGroups, Actions: f.Actions}}, err == nil
	case MultipartMeter:
		for s, err := range MeterStatsOf(m.Body) {
			ok = ok && err == nil
			n := &ofp.MeterStats{
				Meter: ofp.Meter(s.Meter), FlowCount: s.Flows, PacketInCount: s.Packets, ByteInCount: s.Bytes,
				DurationSec: s.DurationSec, DurationNSec: s.DurationNsec,
			}
			for _, c := range s.Bands {
				n.BandStats = append(n.BandStats, ofp.MeterBandStats{PacketBandCount: c.Packets, ByteBandCount: c.Bytes})
			}
			w = append(w, n)
		}
	case MultipartMeterConfig:
		for c, err := range MeterConfigOf(m.Body) {
			bands, ok1 := netrackBands(c.Bands)
			ok = ok && ok1 && err == nil
			w = append(w, &ofp.MeterConfig{Flags: ofp.MeterFlag(c.Flags), Meter: ofp.Meter(c.Meter), Bands: bands})
		}
	case MultipartMeterFeatures:
		f, err := ParseMeterFeatures(m.Body)
		return writers{&ofp.MeterFeatures{
			MaxMeter: f.MaxMeter, BandTypes: f.BandTypes, Capabilities: f.Capabilities, MaxBands: f.MaxBands, MaxColor: f.MaxColor,
		}}, err == nil
	case MultipartPortDesc:
		for p, err := range PortDescOf(m.Body) {
			ok = ok && err == nil
			port := netrackPort(p)
			w = append(w, &port)
		}
	default: // table features: it has other ideas of their properties
		return nil, false
	}
	return w, ok
}

// TestNetrackAgrees encodes every golden message and thousands of random ones with
// both encoders. What netrack cannot express is counted, so that it stays little.
func TestNetrackAgrees(t *testing.T) {
	compared := map[string]int{}
	check := func(name string, m Message) {
		other, ok := netrackFrame(t, goldenXID, m)
		if !ok {
			return
		}
		kind := m.MessageType().String()
		switch m := m.(type) {
		case *MultipartRequest:
			kind += " " + m.Type.String()
		case *MultipartReply:
			kind += " " + m.Type.String()
		}
		compared[kind]++
		require.Equal(t, hex.EncodeToString(other), hex.EncodeToString(Append(nil, goldenXID, m)), "%s %s: %#v", name, kind, m)
	}
	for _, g := range goldens {
		check(g.name, g.msg)
	}
	g := newGenerator(1)
	for i := range 200 * kinds {
		check("random message", g.message(i%kinds))
	}
	for typ := TypeHello; typ <= TypeMeterMod; typ++ {
		switch typ {
		case TypeMultipartRequest, TypeMultipartReply, TypeQueueConfigReq, TypeQueueConfigReply:
		default:
			require.NotZero(t, compared[typ.String()], "no %v compared", typ)
		}
	}
	for typ := MultipartDesc; typ <= MultipartPortDesc; typ++ {
		require.NotZero(t, compared["multipart_request "+typ.String()], "no request for %v compared", typ)
		if typ != MultipartTableFeatures {
			require.NotZero(t, compared["multipart_reply "+typ.String()], "no reply of %v compared", typ)
		}
	}
	require.Greater(t, compared["flow_mod"], 300)
}

// ofpPrint has Open vSwitch print frames, one text each, in a single run: between
// two frames stands an echo request with a mark.
func ofpPrint(t *testing.T, frames ...[]byte) []string {
	t.Helper()
	tool, err := exec.LookPath("ovs-ofctl")
	require.NoError(t, err, "ovs-ofctl of Open vSwitch is needed for this test (Debian: openvswitch-common)")
	const mark = 0x7ea7beef
	var all []byte
	for _, f := range frames {
		all = append(all, f...)
		all = Append(all, mark, &EchoRequest{})
	}
	file := filepath.Join(t.TempDir(), "frames")
	require.NoError(t, os.WriteFile(file, all, 0o600))
	out, err := exec.Command(tool, "-vconsole:off", "ofp-parse", file).CombinedOutput()
	require.NoError(t, err, "%s", out)
	texts := strings.Split(string(out), fmt.Sprintf("OFPT_ECHO_REQUEST (OF1.3) (xid=%#x): 0 bytes of payload\n", mark))
	require.Len(t, texts, len(frames)+1, "%s", out)
	return texts[:len(frames)]
}

// squeeze makes every run of spaces and line ends one space.
func squeeze(s string) string { return strings.Join(strings.Fields(s), " ") }

// TestOpenVSwitchPrints has ovs-ofctl print every golden message and looks for
// what the message means, and for no complaint.
func TestOpenVSwitchPrints(t *testing.T) {
	var frames [][]byte
	for _, g := range goldens {
		frames = append(frames, Append(nil, goldenXID, g.msg))
	}
	for i, text := range ofpPrint(t, frames...) {
		g := goldens[i]
		if g.print == "" {
			continue // Open vSwitch does not know it
		}
		for part := range strings.SplitSeq(g.print, "|") {
			require.Contains(t, squeeze(text), squeeze(part), g.name)
		}
		require.NotContains(t, text, "***", g.name)
		require.NotContains(t, text, "unknown data", g.name)
	}
}

// TestOpenVSwitchPrintsMasks prints the fields of random masked matches, each
// with what it depends on: the text has to have every value.
func TestOpenVSwitchPrintsMasks(t *testing.T) {
	g := newGenerator(2)
	var frames [][]byte
	var want []string
	for range 200 {
		v, m := g.Uint32(), g.Uint32()
		p, pm := g.u16(), g.u16()|1
		frames = append(frames, Append(nil, goldenXID, flowMod(NewMatch(
			EthType(EthTypeIPv4), IPProto(ProtoUDP), IPv4SrcMasked(v, m), UDPSrcMasked(p, pm), Metadata(uint64(v), 0xffffffff)))))
		f := IPv4SrcMasked(v, m)
		want = append(want, fmt.Sprintf("udp,metadata=%s,nw_src=%s,tp_src=%#x/%#x actions=drop",
			Metadata(uint64(v), 0xffffffff).text(), f.text(), p&pm, pm))
	}
	for i, text := range ofpPrint(t, frames...) {
		require.Contains(t, text, want[i])
	}
}
