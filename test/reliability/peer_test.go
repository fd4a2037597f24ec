package reliability

import (
	"context"
	"encoding/binary"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// peer is a scripted switch: a connection to the controller and all that came over
// it. It says nothing by itself until play.
type peer struct {
	t   *testing.T
	ctx context.Context // of the rig
	nc  net.Conn

	mu     sync.Mutex
	got    []frame
	closed error // why reading ended
	answer func(frame) [][]byte
	deaf   bool                                    // it reads no more
	flows  map[flowtable.FlowKey]ofproto.FlowStats // of a persona that holds
	groups map[ofproto.GroupID]ofproto.GroupDesc
}

type frame struct {
	ofproto.Header
	bytes []byte
	at    time.Time
}

func (f frame) message() ofproto.Message {
	_, m, err := ofproto.Parse(f.bytes)
	if err != nil {
		return nil
	}
	return m
}

// peer connects to the controller.
func (r *rig) peer() *peer {
	r.t.Helper()
	nc, err := r.door.dial()
	require.NoError(r.t, err)
	p := &peer{t: r.t, ctx: r.ctx, nc: nc}
	r.serving.Go(p.read)
	r.t.Cleanup(func() { nc.Close() })
	return p
}

// read takes what comes and answers it. Answers are written by a goroutine of
// their own: a pipe has no room, and who only writes must not block who reads.
func (p *peer) read() {
	out := make(chan []byte, 1024)
	var writing sync.WaitGroup
	writing.Go(func() {
		for b := range out {
			if _, err := p.nc.Write(b); err != nil {
				p.nc.Close()
			}
		}
	})
	defer writing.Wait()
	defer close(out)
	defer p.nc.Close()
	for {
		f, err := readFrame(p.nc)
		p.mu.Lock()
		if err != nil {
			p.closed = err
			p.mu.Unlock()
			return
		}
		p.got = append(p.got, f)
		answer, deaf := p.answer, p.deaf
		p.mu.Unlock()
		if deaf {
			<-p.ctx.Done()
			return
		}
		if answer != nil {
			for _, b := range answer(f) {
				out <- b
			}
		}
	}
}

func readFrame(r io.Reader) (frame, error) {
	b := make([]byte, ofproto.HeaderLen)
	if _, err := io.ReadFull(r, b); err != nil {
		return frame{}, err
	}
	h, err := ofproto.ParseHeader(b)
	if err != nil {
		return frame{}, err
	}
	b = append(b, make([]byte, int(h.Length)-len(b))...)
	_, err = io.ReadFull(r, b[ofproto.HeaderLen:])
	return frame{Header: h, bytes: b, at: time.Now()}, err
}

// raw writes bytes; a controller that has closed the connection already is no error.
func (p *peer) raw(b []byte) {
	_, _ = p.nc.Write(b)
}

func (p *peer) send(xid uint32, m ofproto.Message) { p.raw(ofproto.Append(nil, xid, m)) }

// took returns the frames of a type so far.
func (p *peer) took(t ofproto.MessageType) (out []frame) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.got {
		if f.Type == t {
			out = append(out, f)
		}
	}
	return out
}

// errors returns the errors the controller has sent.
func (p *peer) errors() (out []*ofproto.Error) {
	for _, f := range p.took(ofproto.TypeError) {
		if e, ok := f.message().(*ofproto.Error); ok {
			out = append(out, e)
		}
	}
	return out
}

// over says whether the controller has closed the connection.
func (p *peer) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.closed != nil
}

// wait waits for a frame of a type, from the skip-th on.
func (p *peer) wait(t ofproto.MessageType, skip int) frame {
	p.t.Helper()
	var f frame
	eventually(p.t, 15*time.Second, "the controller sends "+t.String(), func() bool {
		got := p.took(t)
		if len(got) > skip {
			f = got[skip]
			return true
		}
		require.False(p.t, p.over(), "the controller closed the connection: %v", p.closed)
		return false
	})
	return f
}

// mods is how many messages that change a switch the peer got.
func (p *peer) mods() int {
	n := len(p.took(ofproto.TypeFlowMod)) + len(p.took(ofproto.TypeGroupMod)) + len(p.took(ofproto.TypeMeterMod))
	for _, f := range p.took(ofproto.TypeExperimenter) {
		if _, ok := f.message().(*ofproto.BundleAdd); ok {
			n++
		}
	}
	return n
}

// persona is what a scripted switch says of itself. override may answer a frame in
// place of it: ok says that it did.
type persona struct {
	dpid     ofproto.DPID
	ports    []ofproto.PortDesc
	flows    []ofproto.FlowStats
	groups   []ofproto.GroupDesc
	holds    bool // entries and groups that it is sent, and nothing of flows and groups
	override func(f frame, m ofproto.Message) (out [][]byte, ok bool)
}

func reply(xid uint32, m ...ofproto.Message) (out [][]byte) {
	for _, m := range m {
		out = append(out, ofproto.Append(nil, xid, m))
	}
	return out
}

func refusal(f frame, t ofproto.ErrorType, code uint16) [][]byte {
	return reply(f.XID, &ofproto.Error{Type: t, Code: code, Data: f.bytes[:min(64, len(f.bytes))]})
}

// play has the peer answer as a plain OpenFlow 1.3 switch without bundles and meters.
func (p *peer) play(o persona) {
	p.mu.Lock()
	p.flows, p.groups = map[flowtable.FlowKey]ofproto.FlowStats{}, map[ofproto.GroupID]ofproto.GroupDesc{}
	p.answer = func(f frame) [][]byte {
		m := f.message()
		if o.override != nil {
			if out, ok := o.override(f, m); ok {
				return out
			}
		}
		if o.holds {
			p.mu.Lock()
			p.hold(m)
			o.flows, o.groups = slices.Collect(maps.Values(p.flows)), slices.Collect(maps.Values(p.groups))
			p.mu.Unlock()
		}
		switch m := m.(type) {
		case *ofproto.EchoRequest:
			return reply(f.XID, &ofproto.EchoReply{Data: m.Data})
		case *ofproto.FeaturesRequest:
			return reply(f.XID, &ofproto.FeaturesReply{DPID: o.dpid, Tables: 254})
		case *ofproto.RoleRequest:
			return reply(f.XID, &ofproto.RoleReply{Role: max(m.Role, ofproto.RoleEqual), GenerationID: m.GenerationID})
		case *ofproto.BarrierRequest:
			return reply(f.XID, &ofproto.BarrierReply{})
		case *ofproto.Experimenter, *ofproto.BundleControl, *ofproto.BundleAdd:
			return refusal(f, ofproto.ErrorBadRequest, 3)
		case *ofproto.GetConfigRequest:
			return reply(f.XID, &ofproto.GetConfigReply{})
		case *ofproto.MultipartRequest:
			var b []byte
			switch m.Type {
			case ofproto.MultipartDesc:
				b = ofproto.Desc{Manufacturer: "Example", Hardware: "Scripted"}.AppendTo(nil)
			case ofproto.MultipartPortDesc:
				for _, d := range o.ports {
					b = d.AppendTo(b)
				}
			case ofproto.MultipartFlow:
				for _, d := range o.flows {
					b = d.AppendTo(b)
				}
			case ofproto.MultipartGroupDesc:
				for _, d := range o.groups {
					b = d.AppendTo(b)
				}
			case ofproto.MultipartGroupFeatures:
				b = ofproto.GroupFeatures{Types: 0xf, Capabilities: ofproto.GroupCapChaining, MaxGroups: [4]uint32{1e6, 1e6, 1e6, 1e6}}.AppendTo(nil)
			default:
				return refusal(f, ofproto.ErrorBadRequest, ofproto.CodeBadMultipart)
			}
			return reply(f.XID, &ofproto.MultipartReply{Type: m.Type, Body: b})
		}
		return nil
	}
	p.mu.Unlock()
	p.send(0, &ofproto.Hello{Versions: []uint8{ofproto.Version}})
}

// hold carries out what changes a switch, for one that refuses nothing. The caller holds
// mu.
func (p *peer) hold(m ofproto.Message) {
	switch m := m.(type) {
	case *ofproto.FlowMod:
		key := flowtable.FlowKey{Table: m.Table, Priority: m.Priority, Match: string(m.Match.Canonical())}
		if delete(p.flows, key); m.Command == ofproto.FlowAdd {
			p.flows[key] = ofproto.FlowStats{
				Table: m.Table, Priority: m.Priority, Cookie: m.Cookie, Match: m.Match,
				RawInstructions: ofproto.AppendInstructions(nil, m.Instructions),
			}
		}
	case *ofproto.GroupMod:
		if delete(p.groups, m.Group); m.Command != ofproto.GroupDelete {
			p.groups[m.Group] = ofproto.GroupDesc{Type: m.Type, Group: m.Group, Buckets: m.Buckets}
		}
	}
}

// held returns the entries of a persona that holds.
func (p *peer) held() []ofproto.FlowStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.flows))
}

// lose drops entries of a persona that holds, and tells the controller. It returns how
// many there were.
func (p *peer) lose(which func(ofproto.FlowStats) bool) int {
	var gone []ofproto.FlowStats
	p.mu.Lock()
	maps.DeleteFunc(p.flows, func(_ flowtable.FlowKey, f ofproto.FlowStats) bool {
		if which(f) {
			gone = append(gone, f)
		}
		return which(f)
	})
	p.mu.Unlock()
	for _, f := range gone {
		p.send(0, &ofproto.FlowRemoved{Cookie: f.Cookie, Table: f.Table, Priority: f.Priority, Reason: ofproto.RemovedDelete, Match: f.Match})
	}
	return len(gone)
}

// upPort is a port whose link is up.
func upPort(n ofproto.Port) ofproto.PortDesc {
	return ofproto.PortDesc{Port: n, Name: "p" + n.String(), HWAddr: ofproto.MAC{2, 1, 0, byte(n >> 16), byte(n >> 8), byte(n)}, State: ofproto.PortStateLive}
}

// header builds a frame with any header.
func header(version uint8, t ofproto.MessageType, xid uint32, body ...byte) []byte {
	b := []byte{version, byte(t), 0, 0}
	b = binary.BigEndian.AppendUint32(b, xid)
	b = append(b, body...)
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	return b
}

// scripted is a peer that has become a ready switch.
func (r *rig) scripted(o persona) *peer {
	r.t.Helper()
	p := r.peer()
	p.play(o)
	eventually(r.t, 15*time.Second, "the scripted switch is connected", func() bool {
		require.False(r.t, p.over(), "the controller closed the connection: %v", r.logs.with("session ended"))
		return r.connected(o.dpid)
	})
	return p
}

// lives checks that a session works: an echo of it is answered.
func (p *peer) lives() {
	p.t.Helper()
	n := len(p.took(ofproto.TypeEchoReply))
	p.send(0x1234, &ofproto.EchoRequest{Data: []byte("alive")})
	p.wait(ofproto.TypeEchoReply, n)
}

// deafen has the peer read no more: what is sent to it stays in the kernel.
func (p *peer) deafen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = true
}
