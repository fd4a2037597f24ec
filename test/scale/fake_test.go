package scale

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// fake is a light switch: it keeps the entries that it is sent as bytes and
// forwards nothing, but that cables carry probes and hosts answer ARP. It takes
// everything and is named Open vSwitch.
type fake struct {
	dpid  ofproto.DPID
	ports int

	mu     sync.Mutex
	nc     net.Conn
	flows  map[string][]byte // records of flow statistics, by table, priority and match
	groups map[ofproto.GroupID][]byte
	term   uint64
	cables map[ofproto.Port]end
	hosts  map[ofproto.Port]fakeHost

	mods   atomic.Int64
	silent atomic.Bool   // reads no more
	done   chan struct{} // of the present connection
	in     *bufio.Reader
	buf    []byte
}

// end is a port at the other end of a cable.
type end struct {
	sw   *fake
	port ofproto.Port
}

type fakeHost struct {
	mac ofproto.MAC
	ip  netip.Addr
}

func newFake(dpid ofproto.DPID, ports int) *fake {
	return &fake{
		dpid: dpid, ports: ports, term: ^uint64(0),
		flows: map[string][]byte{}, groups: map[ofproto.GroupID][]byte{},
		cables: map[ofproto.Port]end{}, hosts: map[ofproto.Port]fakeHost{},
		in: bufio.NewReaderSize(nil, 4<<10),
	}
}

// join lays a cable.
func join(a *fake, pa ofproto.Port, b *fake, pb ofproto.Port) {
	a.cables[pa], b.cables[pb] = end{b, pb}, end{a, pa}
}

// connect opens a connection; it is served until it ends.
func (f *fake) connect(addr string) error {
	nc, err := net.DialTimeout("tcp", addr, 20*time.Second)
	if err != nil {
		return fmt.Errorf("switch %s: %w", f.dpid, err)
	}
	done := make(chan struct{})
	f.mu.Lock()
	f.nc, f.done = nc, done
	f.mu.Unlock()
	f.in.Reset(nc)
	f.send(1, &ofproto.Hello{Versions: []uint8{ofproto.Version}})
	go func() {
		defer close(done)
		defer nc.Close()
		f.serve()
	}()
	return nil
}

// close ends the connection and waits for it.
func (f *fake) close() {
	f.mu.Lock()
	nc, done := f.nc, f.done
	f.mu.Unlock()
	if nc != nil {
		_ = nc.Close()
		<-done
	}
}

func (f *fake) serve() {
	for {
		for f.silent.Load() {
			time.Sleep(10 * time.Millisecond)
			if _, err := f.nc.Write(nil); err != nil {
				return
			}
		}
		head, err := f.in.Peek(ofproto.HeaderLen)
		if err != nil {
			return
		}
		n := int(binary.BigEndian.Uint16(head[2:]))
		if n < ofproto.HeaderLen {
			return
		}
		f.buf = slices.Grow(f.buf[:0], n)
		if _, err := io.ReadFull(f.in, f.buf[:n]); err != nil {
			return
		}
		h, m, err := ofproto.Parse(f.buf[:n])
		if err != nil {
			panic(fmt.Sprintf("switch %s was sent what does not parse: %v", f.dpid, err))
		}
		f.handle(h.XID, m)
	}
}

// send answers; when the connection is gone nobody misses it.
func (f *fake) send(xid uint32, m ofproto.Message) { f.write(ofproto.Append(nil, xid, m)) }

func (f *fake) write(b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.nc != nil {
		_, _ = f.nc.Write(b)
	}
}

func (f *fake) handle(xid uint32, m ofproto.Message) {
	switch m := m.(type) {
	case *ofproto.EchoRequest:
		f.send(xid, &ofproto.EchoReply{Data: m.Data})
	case *ofproto.FeaturesRequest:
		f.send(xid, &ofproto.FeaturesReply{DPID: f.dpid, Tables: 254, Capabilities: ofproto.CapFlowStats | ofproto.CapGroupStats})
	case *ofproto.BarrierRequest:
		f.send(xid, &ofproto.BarrierReply{})
	case *ofproto.RoleRequest:
		if m.Role == ofproto.RoleMaster {
			f.term = m.GenerationID
		}
		f.send(xid, &ofproto.RoleReply{Role: m.Role, GenerationID: f.term})
	case *ofproto.MultipartRequest:
		f.multipart(xid, m)
	case *ofproto.FlowMod:
		f.flowMod(m)
	case *ofproto.GroupMod:
		f.groupMod(m)
	case *ofproto.BundleControl:
		f.send(xid, &ofproto.BundleControl{Bundle: m.Bundle, Type: m.Type + 1, Flags: m.Flags})
	case *ofproto.BundleAdd: // carried out at once: no bundle of these tests is refused
		switch inner := m.Message.(type) {
		case *ofproto.FlowMod:
			f.flowMod(inner)
		case *ofproto.GroupMod:
			f.groupMod(inner)
		}
	case *ofproto.PacketOut:
		f.packetOut(m)
	}
}

func (f *fake) multipart(xid uint32, m *ofproto.MultipartRequest) {
	var records [][]byte
	switch m.Type {
	case ofproto.MultipartDesc:
		records = [][]byte{ofproto.Desc{Manufacturer: "Nicira, Inc.", Hardware: "Open vSwitch", Software: "light"}.AppendTo(nil)}
	case ofproto.MultipartPortDesc:
		for p := range f.ports {
			records = append(records, ofproto.PortDesc{
				Port: ofproto.Port(p + 1), HWAddr: ofproto.MAC{0x0a, 0, byte(f.dpid >> 8), byte(f.dpid), 0, byte(p + 1)},
				Name: fmt.Sprintf("p%d", p+1), State: ofproto.PortStateLive,
			}.AppendTo(nil))
		}
	case ofproto.MultipartGroupFeatures:
		records = [][]byte{ofproto.GroupFeatures{
			Types: 0xf, Capabilities: ofproto.GroupCapChaining | ofproto.GroupCapSelectLiveness, MaxGroups: [4]uint32{1 << 20, 1 << 20, 1 << 20, 1 << 20},
		}.AppendTo(nil)}
	case ofproto.MultipartFlow:
		records = slices.Collect(maps.Values(f.flows))
	case ofproto.MultipartGroupDesc:
		records = slices.Collect(maps.Values(f.groups))
	default:
		f.send(xid, &ofproto.Error{Type: ofproto.ErrorBadRequest, Code: ofproto.CodeBadMultipart})
		return
	}
	body := []byte{}
	for _, r := range records {
		if len(body)+len(r) > 60000 {
			f.send(xid, &ofproto.MultipartReply{Type: m.Type, Flags: ofproto.MultipartMore, Body: body})
			body = body[:0]
		}
		body = append(body, r...)
	}
	f.send(xid, &ofproto.MultipartReply{Type: m.Type, Body: body})
}

func (f *fake) flowMod(m *ofproto.FlowMod) {
	f.mods.Add(1)
	key := fmt.Sprintf("%d %d %s", m.Table, m.Priority, m.Match)
	switch m.Command {
	case ofproto.FlowAdd:
		f.flows[key] = ofproto.FlowStats{
			Table: m.Table, Priority: m.Priority, Flags: m.Flags, Cookie: m.Cookie, Match: m.Match,
			RawInstructions: ofproto.AppendInstructions(nil, m.Instructions),
		}.AppendTo(nil)
	case ofproto.FlowDeleteStrict:
		delete(f.flows, key)
	default:
		panic(fmt.Sprintf("switch %s: a flow-mod that no test expects: %+v", f.dpid, m))
	}
}

func (f *fake) groupMod(m *ofproto.GroupMod) {
	f.mods.Add(1)
	if m.Command == ofproto.GroupDelete {
		delete(f.groups, m.Group)
		return
	}
	f.groups[m.Group] = ofproto.GroupDesc{Type: m.Type, Group: m.Group, Buckets: m.Buckets}.AppendTo(nil)
}

// packetOut carries probes over cables, and has hosts answer ARP.
func (f *fake) packetOut(m *ofproto.PacketOut) {
	frame, err := packet.Decode(m.Data)
	if err != nil {
		return
	}
	_, probe := frame.LLDP()
	arp, asks := frame.ARP()
	for _, a := range m.Actions {
		out, ok := a.(ofproto.Output)
		if !ok {
			continue
		}
		if at, ok := f.cables[out.Port]; ok && probe {
			at.sw.packetIn(at.port, m.Data)
		}
		if h, ok := f.hosts[out.Port]; ok && asks && arp.Op == packet.ARPRequest && arp.TPA == h.ip {
			f.packetIn(out.Port, packet.AppendARPReply(nil, h.mac, h.ip, arp.SHA, arp.SPA))
		}
	}
}

func (f *fake) packetIn(port ofproto.Port, frame []byte) {
	f.send(0, &ofproto.PacketIn{
		BufferID: ofproto.NoBuffer, TotalLen: uint16(len(frame)), Cookie: ^uint64(0),
		Match: ofproto.NewMatch(ofproto.InPort(port)), Data: frame,
	})
}

// announce has the hosts of the switch say where they are.
func (f *fake) announce() {
	for port, h := range f.hosts {
		f.packetIn(port, packet.AppendARPRequest(nil, h.mac, h.ip, h.ip))
	}
}

// setPort tells of a port that came up or went down.
func (f *fake) setPort(port ofproto.Port, up bool) {
	d := ofproto.PortDesc{
		Port: port, HWAddr: ofproto.MAC{0x0a, 0, byte(f.dpid >> 8), byte(f.dpid), 0, byte(port)}, Name: fmt.Sprintf("p%d", port),
		State: ofproto.PortStateLinkDown,
	}
	if up {
		d.State = ofproto.PortStateLive
	}
	f.send(0, &ofproto.PortStatus{Reason: ofproto.PortReasonModify, Desc: d})
}
