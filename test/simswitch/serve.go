package simswitch

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// channel is one OpenFlow connection to a controller.
type channel struct {
	s       *Switch
	conn    *ofproto.Conn
	role    ofproto.Role
	bundles map[uint32]*bundle
	waiting []bundled // for the barrier, with Options.Reorder
}

var errNoHello = errors.New("simswitch: the first message is not a hello")

type bundle struct {
	flags uint16
	adds  []bundled
}

type bundled struct {
	xid uint32
	m   ofproto.Message
}

// Serve speaks OpenFlow to a controller until the connection or ctx ends, and
// returns why it did. It owns nc. A switch may serve several controllers at once.
func (s *Switch) Serve(ctx context.Context, nc net.Conn) error {
	ch := &channel{s: s, role: ofproto.RoleEqual, bundles: map[uint32]*bundle{}}
	ch.conn = ofproto.NewConn(nc, ofproto.ConnOptions{Handler: ch.handle, Invalid: ch.invalid})
	if s.o.Hello == nil {
		if _, err := ch.conn.Send(&ofproto.Hello{Versions: []uint8{ofproto.Version}}); err != nil {
			return err
		}
	} else if _, err := nc.Write(s.o.Hello); err != nil {
		nc.Close()
		return err
	}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.channels, ch)
	}()
	return ch.conn.Run(ctx)
}

// async tells all controllers of an event, but for slaves, which hear of ports only
// (§6.3.6). The caller holds mu.
func (s *Switch) async(m ofproto.Message) {
	if s.holding {
		s.held = append(s.held, m)
		return
	}
	_, ports := m.(*ofproto.PortStatus)
	for ch := range s.channels {
		if ch.role != ofproto.RoleSlave || ports {
			ch.conn.TrySend(0, m)
		}
	}
}

func (ch *channel) invalid(h ofproto.Header, frame []byte, _ error) {
	ch.send(h.XID, &ofproto.Error{Type: ofproto.ErrorBadRequest, Code: ofproto.CodeBadLen, Data: frame[:min(len(frame), 64)]})
}

// send answers a controller. One that is gone needs no answer.
func (ch *channel) send(xid uint32, m ofproto.Message) {
	if ch.s.o.Answered != nil {
		ch.s.o.Answered(m)
	}
	_ = ch.conn.SendXID(xid, m)
}

func (ch *channel) refuse(xid uint32, m ofproto.Message, err *ofproto.Error) {
	if err != nil {
		e := *err
		data := ofproto.Append(nil, xid, m)
		e.Data = data[:min(len(data), 64)]
		ch.send(xid, &e)
	}
}

// handle runs on the goroutine that reads, so messages are carried out in order and
// a barrier has nothing to wait for.
func (ch *channel) handle(h ofproto.Header, m ofproto.Message) {
	s := ch.s
	if s.o.Received != nil {
		s.o.Received(h, m)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, met := s.channels[ch]; !met && h.Type != ofproto.TypeHello {
		ch.conn.CloseWith(errNoHello) // as Open vSwitch does
		return
	}
	switch m.(type) {
	case *ofproto.FlowMod, *ofproto.GroupMod, *ofproto.BundleAdd:
		s.mods++
	}
	switch m.(type) {
	case *ofproto.FlowMod, *ofproto.GroupMod, *ofproto.PortMod, *ofproto.PacketOut, *ofproto.BundleAdd, *ofproto.BundleControl:
		if ch.role == ofproto.RoleSlave {
			ch.refuse(h.XID, m, bad(ofproto.ErrorBadRequest, ofproto.CodeIsSlave))
			return
		}
	}
	switch m := m.(type) {
	case *ofproto.Hello:
		s.channels[ch] = struct{}{}
	case *ofproto.FeaturesRequest:
		ch.send(h.XID, &ofproto.FeaturesReply{
			DPID: s.o.DPID, Tables: uint8(s.tableLimit()),
			Capabilities: ofproto.CapFlowStats | ofproto.CapTableStats | ofproto.CapPortStats | ofproto.CapGroupStats,
		})
	case *ofproto.GetConfigRequest:
		ch.send(h.XID, &ofproto.GetConfigReply{MissSendLen: ofproto.MaxLenNoBuffer})
	case *ofproto.SetConfig, *ofproto.Error, *ofproto.EchoReply:
	case *ofproto.BarrierRequest:
		ch.carryOut()
		ch.send(h.XID, &ofproto.BarrierReply{})
	case *ofproto.RoleRequest:
		ch.setRole(h.XID, m)
	case *ofproto.MultipartRequest:
		ch.multipart(h.XID, m)
	case *ofproto.FlowMod, *ofproto.GroupMod, *ofproto.PortMod:
		if s.random != nil {
			if c, err := fresh(m); err == nil {
				ch.waiting = append(ch.waiting, bundled{h.XID, c})
			}
			return
		}
		ch.refuse(h.XID, m, s.apply(m))
	case *ofproto.BundleControl:
		ch.bundleControl(h.XID, m)
	case *ofproto.BundleAdd:
		ch.bundleAdd(h.XID, m)
	case *ofproto.PacketOut:
		c, err := fresh(m)
		if err != nil {
			ch.refuse(h.XID, m, bad(ofproto.ErrorBadRequest, ofproto.CodeBadLen))
			return
		}
		out, refused := s.packetOut(c.(*ofproto.PacketOut))
		ch.refuse(h.XID, m, refused)
		if transmit := s.transmit; transmit != nil && len(out) > 0 {
			s.mu.Unlock()
			transmit(out)
			s.mu.Lock()
		}
	default:
		ch.refuse(h.XID, m, bad(ofproto.ErrorBadRequest, ofproto.CodeBadType))
	}
}

// carryOut does what has come since the last barrier, in any order.
func (ch *channel) carryOut() {
	waiting := ch.waiting
	ch.waiting = nil
	for len(waiting) > 0 {
		i := ch.s.random.IntN(len(waiting))
		ch.refuse(waiting[i].xid, waiting[i].m, ch.s.apply(waiting[i].m))
		waiting = slices.Delete(waiting, i, i+1)
	}
}

// setRole is §6.3.6.
func (ch *channel) setRole(xid uint32, m *ofproto.RoleRequest) {
	s := ch.s
	switch {
	case s.o.NoRoles:
		ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, ofproto.CodeBadType))
		return
	case m.Role == ofproto.RoleMaster || m.Role == ofproto.RoleSlave:
		if s.termSeen && int64(m.GenerationID-s.term) < 0 {
			ch.refuse(xid, m, bad(ofproto.ErrorRoleRequestFailed, ofproto.CodeRoleStale))
			return
		}
		s.term, s.termSeen = m.GenerationID, true
	}
	if m.Role == ofproto.RoleMaster {
		for o := range s.channels {
			if o.role == ofproto.RoleMaster {
				o.role = ofproto.RoleSlave
			}
		}
	}
	if m.Role != ofproto.RoleNoChange {
		ch.role = m.Role
	}
	reply := &ofproto.RoleReply{Role: ch.role, GenerationID: ^uint64(0)}
	if s.termSeen {
		reply.GenerationID = s.term
	}
	ch.send(xid, reply)
}

// SetTerm makes the switch refuse roles of terms below this one, as if another
// controller had been its master.
func (s *Switch) SetTerm(term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.term, s.termSeen = term, true
}

func (ch *channel) multipart(xid uint32, m *ofproto.MultipartRequest) {
	s := ch.s
	var records [][]byte
	switch m.Type {
	case ofproto.MultipartDesc:
		d := ofproto.Desc{Manufacturer: "Nicira, Inc.", Hardware: "Open vSwitch", Software: "simulated"}
		if s.o.NoNicira {
			d = ofproto.Desc{Manufacturer: "Example", Hardware: "Switch", Software: "simulated"}
		}
		if s.o.Desc != nil {
			d = *s.o.Desc
		}
		records = [][]byte{d.AppendTo(nil)}
	case ofproto.MultipartPortDesc:
		for _, p := range s.portList() {
			records = append(records, s.ports[p].desc.AppendTo(nil))
		}
	case ofproto.MultipartFlow, ofproto.MultipartAggregate:
		q, ok := m.Body.(ofproto.FlowStatsRequest)
		if !ok {
			ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, ofproto.CodeBadLen))
			return
		}
		var sum ofproto.AggregateStats
		for _, f := range s.selectFlows(&ofproto.FlowMod{Table: q.Table, Match: q.Match, Cookie: q.Cookie, CookieMask: q.CookieMask}, false) {
			if q.OutPort != ofproto.PortAny && !outputs(f.Instructions, q.OutPort) || q.OutGroup != ofproto.GroupAny && !groupOf(f.Instructions, q.OutGroup) {
				continue
			}
			sum.Flows++
			sum.Packets += f.Counter.Packets
			sum.Bytes += f.Counter.Bytes
			records = append(records, f.Stats().AppendTo(nil))
		}
		if m.Type == ofproto.MultipartAggregate {
			records = [][]byte{sum.AppendTo(nil)}
		}
	case ofproto.MultipartTable:
		for t := range s.tables {
			ft := &s.tables[t]
			st := ofproto.TableStats{Table: ofproto.Table(t), Active: uint32(len(ft.entries)), Lookups: ft.lookups, Matched: ft.lookups - ft.misses}
			records = append(records, st.AppendTo(nil))
		}
	case ofproto.MultipartPortStats:
		for _, n := range s.portList() {
			if q, ok := m.Body.(ofproto.PortStatsRequest); ok && (q.Port == ofproto.PortAny || q.Port == n) {
				p := s.ports[n]
				st := ofproto.PortStats{Port: n, RxPackets: p.rx.Packets, RxBytes: p.rx.Bytes, TxPackets: p.tx.Packets, TxBytes: p.tx.Bytes}
				records = append(records, st.AppendTo(nil))
			}
		}
	case ofproto.MultipartGroup, ofproto.MultipartGroupDesc, ofproto.MultipartGroupFeatures:
		if s.o.NoGroups {
			ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, requestBadMultipart))
			return
		}
		records = s.groupRecords(m)
	case ofproto.MultipartMeterFeatures:
		if s.o.NoMeters {
			ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, requestBadMultipart))
			return
		}
		records = [][]byte{ofproto.MeterFeatures{}.AppendTo(nil)}
	default:
		ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, requestBadMultipart))
		return
	}
	const most = 60000 // bytes of records in one message
	body := []byte{}
	for _, r := range records {
		if len(body)+len(r) > most {
			ch.send(xid, &ofproto.MultipartReply{Type: m.Type, Flags: ofproto.MultipartMore, Body: body})
			body = body[:0]
		}
		body = append(body, r...)
	}
	ch.send(xid, &ofproto.MultipartReply{Type: m.Type, Body: body})
}

func (s *Switch) groupRecords(m *ofproto.MultipartRequest) (records [][]byte) {
	switch m.Type {
	case ofproto.MultipartGroup:
		q, _ := m.Body.(ofproto.GroupStatsRequest)
		for _, g := range s.groupStats(q.Group) {
			records = append(records, g.AppendTo(nil))
		}
	case ofproto.MultipartGroupDesc:
		for _, g := range s.groupDescs() {
			records = append(records, g.AppendTo(nil))
		}
	case ofproto.MultipartGroupFeatures:
		f := ofproto.GroupFeatures{Types: 0xf, Capabilities: ofproto.GroupCapSelectWeight | ofproto.GroupCapSelectLiveness | ofproto.GroupCapChaining}
		if s.o.NoSelect && !s.o.Undeclared {
			f.Types &^= 1 << ofproto.GroupTypeSelect
		}
		if s.o.NoFailover && !s.o.Undeclared {
			f.Types &^= 1 << ofproto.GroupTypeFastFailover
		}
		if s.o.NoChaining && !s.o.Undeclared {
			f.Capabilities &^= ofproto.GroupCapChaining
		}
		for t := range f.MaxGroups {
			f.MaxGroups[t] = 0xffffff00
			if s.o.MaxGroups > 0 {
				f.MaxGroups[t] = uint32(s.o.MaxGroups)
			}
		}
		records = [][]byte{f.AppendTo(nil)}
	}
	return records
}

// Stats reports an entry. The fields of its match come in an order of the switch's
// own, as they do from Open vSwitch.
func (f *Flow) Stats() ofproto.FlowStats {
	var m ofproto.Match
	for rest := []byte(f.Match); len(rest) > 0; {
		n := 4 + int(rest[3])
		m = append(slices.Clone(ofproto.Match(rest[:n])), m...)
		rest = rest[n:]
	}
	return ofproto.FlowStats{
		Table: f.Table, Priority: f.Priority, Flags: f.Flags, Cookie: f.Cookie, IdleTimeout: f.Idle, HardTimeout: f.Hard,
		Packets: f.Counter.Packets, Bytes: f.Counter.Bytes, Match: m,
		RawInstructions: ofproto.AppendInstructions(nil, f.Instructions),
	}
}

func badBundle(code uint16) *ofproto.Error {
	return &ofproto.Error{Type: ofproto.ErrorExperimenter, Code: code, Experimenter: ofproto.ExperimenterONF}
}

func (ch *channel) bundleControl(xid uint32, m *ofproto.BundleControl) {
	if ch.s.o.NoBundles {
		ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, requestBadExperimenter))
		return
	}
	b := ch.bundles[m.Bundle]
	switch {
	case m.Type == ofproto.BundleOpenRequest && b != nil:
		ch.refuse(xid, m, badBundle(bundleExists))
		return
	case m.Type == ofproto.BundleOpenRequest:
		ch.bundles[m.Bundle] = &bundle{flags: m.Flags}
	case b == nil:
		ch.refuse(xid, m, badBundle(bundleUnknownID))
		return
	case m.Type == ofproto.BundleDiscardRequest:
		delete(ch.bundles, m.Bundle)
	case m.Type == ofproto.BundleCommitRequest:
		delete(ch.bundles, m.Bundle)
		if !ch.commit(b) {
			ch.refuse(xid, m, badBundle(bundleMessageFailed))
			return
		}
	}
	ch.send(xid, &ofproto.BundleControl{Bundle: m.Bundle, Type: m.Type + 1, Flags: m.Flags})
}

func (ch *channel) bundleAdd(xid uint32, m *ofproto.BundleAdd) {
	if ch.s.o.NoBundles {
		ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, requestBadExperimenter))
		return
	}
	b := ch.bundles[m.Bundle]
	inner, err := fresh(m.Message)
	switch {
	case b == nil:
		ch.refuse(xid, m, badBundle(bundleUnknownID))
		return
	case m.XID != xid:
		ch.refuse(xid, m, badBundle(bundleBadXID))
		return
	case err != nil:
		ch.refuse(xid, m, bad(ofproto.ErrorBadRequest, ofproto.CodeBadLen))
		return
	}
	switch inner.(type) {
	case *ofproto.FlowMod, *ofproto.GroupMod, *ofproto.PortMod:
		b.adds = append(b.adds, bundled{xid, inner})
	default:
		ch.refuse(xid, m, badBundle(bundleUnsupported))
	}
}

// commit carries all messages of a bundle out, or none.
func (ch *channel) commit(b *bundle) bool {
	s := ch.s
	var tables [tableCount][]*Flow
	for t := range s.tables {
		for _, f := range s.tables[t].entries {
			c := *f
			tables[t] = append(tables[t], &c)
		}
	}
	groups := maps.Clone(s.groups) // entries are replaced, not changed, by group-mods
	s.holding = true
	for _, add := range b.adds {
		if err := s.apply(add.m); err != nil {
			for t := range s.tables {
				s.tables[t].entries = tables[t]
			}
			s.groups, s.holding, s.held = groups, false, nil
			ch.refuse(add.xid, add.m, err)
			return false
		}
	}
	s.holding = false
	for _, m := range s.held {
		s.async(m)
	}
	s.held = nil
	return true
}
