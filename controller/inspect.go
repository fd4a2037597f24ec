package controller

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/controller/trace"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
)

// inspection is how others look at what a session's worker owns, and what is known of
// the switch's hash.
type inspection struct {
	mu     sync.Mutex
	asks   []func(*worker)   // for the worker
	sample chan<- hashSample // while the hash is measured

	measuring sync.Mutex // held while it is; guards what follows
	measured  bool
	hash      trace.Hash
	source    bool   // trace.HashSource is the switch's
	noHash    string // why they are not known
}

// ask has the worker run f between two plans, with everything compiled that was
// assigned before.
func (s *session) ask(ctx context.Context, f func(*worker)) error {
	done := make(chan struct{})
	s.inspect.mu.Lock()
	s.inspect.asks = append(s.inspect.asks, func(w *worker) {
		defer close(done)
		if ctx.Err() == nil {
			f(w)
		}
	})
	s.inspect.mu.Unlock()
	s.wake()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err() // f may be running: what it finds must go through a channel
	case <-s.c.stopped:
		return errStopped
	}
}

// answer runs what was asked for.
func (w *worker) answer() {
	w.inspect.mu.Lock()
	asks := w.inspect.asks
	w.inspect.asks = nil
	w.inspect.mu.Unlock()
	for _, f := range asks {
		f(w)
	}
}

// Desired returns the tables and groups of a connected switch as they are to be, with
// the part that desires each entry. ErrNotConnected when the switch is not.
func (c *Controller) Desired(ctx context.Context, dpid ofproto.DPID) (*trace.Switch, error) {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return nil, err
	}
	flows, list, err := s.desired(ctx)
	if err != nil {
		return nil, fmt.Errorf("controller: ask for the desired state of %s: %w", dpid, err)
	}
	entries := make([]trace.Entry, len(flows))
	for i, f := range flows {
		entries[i] = trace.Entry{Flow: f.Flow, Cookie: f.Cookie, Part: f.Part}
	}
	groups := make([]trace.Group, len(list))
	for i, g := range list {
		groups[i] = trace.Group{Group: g.Group, Part: g.Part}
	}
	return c.inspected(ctx, s, trace.NewSwitch(dpid, entries, groups))
}

// Installed returns the tables and groups of a connected switch as it reports them,
// those of others included. ErrNotConnected when the switch is not.
func (c *Controller) Installed(ctx context.Context, dpid ofproto.DPID) (*trace.Switch, error) {
	s, err := c.session(ctx, dpid)
	if err != nil {
		return nil, err
	}
	var entries []trace.Entry
	var bad error
	err = c.Flows(ctx, dpid, func(f ofproto.FlowStats) {
		ins, err := f.Instructions()
		if err != nil {
			bad = err
			return
		}
		entries = append(entries, trace.Entry{
			Flow:   flowtable.Flow{Table: f.Table, Priority: f.Priority, Match: f.Match.Canonical(), Instructions: detached(ins)},
			Cookie: f.Cookie, Altered: flowtable.Altered(f),
		})
	})
	if err == nil {
		err = bad
	}
	if err != nil {
		return nil, fmt.Errorf("controller: read flows of %s: %w", dpid, err)
	}
	var groups []trace.Group
	err = c.Groups(ctx, dpid, func(g ofproto.GroupDesc) {
		buckets := slices.Clone(g.Buckets)
		for i := range buckets {
			raw := ofproto.AppendActions(nil, buckets[i].Actions)
			buckets[i].Actions, _ = ofproto.ParseActions(raw) // it was parsed before
		}
		groups = append(groups, trace.Group{Group: flowtable.Group{ID: g.Group, Type: g.Type, Buckets: buckets}})
	})
	if err != nil && !refused(err) { // there are switches without groups
		return nil, fmt.Errorf("controller: read groups of %s: %w", dpid, err)
	}
	return c.inspected(ctx, s, trace.NewSwitch(dpid, entries, groups))
}

// FlowsOf asks a connected switch for some of its flow entries. What f gets is only
// good during the call. ErrNotConnected when the switch is not.
func (c *Controller) FlowsOf(ctx context.Context, dpid ofproto.DPID, which ofproto.FlowStatsRequest, f func(ofproto.FlowStats)) error {
	return read(ctx, c, dpid, &ofproto.MultipartRequest{Type: ofproto.MultipartFlow, Body: &which}, ofproto.FlowStatsOf, f)
}

// detached returns instructions that share nothing with the buffer they were read from.
func detached(ins []ofproto.Instruction) []ofproto.Instruction {
	own, _ := ofproto.ParseInstructions(ofproto.AppendInstructions(nil, ins)) // they were parsed before
	return own
}

// inspected adds what is known of ports and of the hash.
func (c *Controller) inspected(ctx context.Context, s *session, sw *trace.Switch) (*trace.Switch, error) {
	held, chooses := false, false
	err := c.Do(ctx, func(x *Context) {
		if now := x.switches[s.dpid]; now != nil && now.session == s {
			for n, p := range now.Ports {
				sw.Ports[n] = p.Up()
			}
			_, held = now.Faults[heldFault]
		}
	})
	if err != nil {
		return nil, err
	}
	for _, g := range sw.Groups {
		chooses = chooses || g.Type == ofproto.GroupTypeSelect && len(g.Buckets) > 1
	}
	if s.caps.Hashing || chooses {
		var source bool
		if sw.Hash, source, sw.NoHash = s.measureHashes(ctx, held); source {
			sw.Source = trace.HashSource
		}
	}
	return sw, nil
}

// What hashes are measured with: packets of connections between addresses that are set
// aside for documentation (RFC 5737), which are handed to the switch by packet-out and
// come back without leaving it. Some go to a select group, whose buckets write their
// number into the packet; some by an action that hashes their source into a register.
const (
	hashGroup   = probeGroupFirst - 1
	hashBuckets = 16
	hashSamples = 24 // a hash that is none of those known agrees once in 2^96 times
	hashTimeout = 2 * time.Second
)

// What is measured, as the destination port of the packets.
const (
	hashOfGroups uint16 = 80 + iota
	hashOfSource
)

// hashMAC marks the packets of a measurement; the last two bytes are what was chosen.
var hashMAC = ofproto.MAC{0x02, 'F', 'L', 'h'}

// hashSample is one packet that came back.
type hashSample struct {
	src, dst uint16 // ports
	chosen   uint16
}

// measureHashes says by which hash the switch chooses the buckets of select groups, and
// by which it hashes sources; what is not known is nil, and noHash says why. It is found
// out once for each session, when it is first asked for, by having the switch choose for
// packets of our own.
func (s *session) measureHashes(ctx context.Context, held bool) (hash trace.Hash, source bool, noHash string) {
	in := &s.inspect
	in.measuring.Lock()
	defer in.measuring.Unlock()
	switch {
	case in.measured:
		return in.hash, in.source, in.noHash
	case held || s.role == ofproto.RoleSlave:
		return nil, false, "nothing may be written to the switch now, which finding out how it hashes takes"
	}
	samples, err := s.sampleHashes(ctx)
	if err != nil {
		return nil, false, "the switch did not answer in time how it hashes"
	}
	agrees := func(h trace.Hash, kind uint16) bool {
		return slices.ContainsFunc(samples, func(got hashSample) bool { return got.dst == kind }) &&
			!slices.ContainsFunc(samples, func(got hashSample) bool {
				v, _ := h(trace.NewPacket(trace.Headers{Tuple: hashTuple(got.src, got.dst)}))
				return got.dst == kind && uint16(v%hashBuckets) != got.chosen
			})
	}
	in.measured = true
	in.noHash = "the hash of this switch is none that is known: hardware and the kernel's datapath have hashes of their own, the kernel's with a key of each boot"
	for name, h := range trace.Hashes {
		if agrees(h, hashOfGroups) {
			s.log().Debug("hash of select groups found out", "hash", name)
			in.hash = h
		}
	}
	in.source = agrees(func(p *trace.Packet) (uint32, bool) { return trace.HashSource(p, 0) }, hashOfSource)
	return in.hash, in.source, in.noHash
}

// hashTuple is the connection of one packet of a measurement.
func hashTuple(src, dst uint16) trace.Tuple {
	return trace.Tuple{
		Proto: ofproto.ProtoTCP,
		Src:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 51, 100, byte(src)}), src),
		Dst:   netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 1}), dst),
	}
}

// sampleHashes has the switch choose, and returns what it chose.
func (s *session) sampleHashes(ctx context.Context) ([]hashSample, error) {
	ctx, cancel := context.WithTimeout(ctx, hashTimeout)
	defer cancel()
	got := make(chan hashSample, 2*hashSamples)
	s.inspect.mu.Lock()
	s.inspect.sample = got
	s.inspect.mu.Unlock()
	defer func() {
		s.inspect.mu.Lock()
		s.inspect.sample = nil
		s.inspect.mu.Unlock()
	}()
	id := flowtable.GroupIDOf(hashGroup)
	ways := map[uint16][]ofproto.Action{}
	if s.caps.Select && s.caps.MaxBuckets >= hashBuckets {
		g := &ofproto.GroupMod{Command: ofproto.GroupAdd, Type: ofproto.GroupTypeSelect, Group: id}
		for i := range byte(hashBuckets) {
			mark := hashMAC
			mark[5] = i
			g.Buckets = append(g.Buckets, ofproto.Bucket{Weight: 1, WatchPort: ofproto.PortAny, WatchGroup: ofproto.GroupAny, Actions: []ofproto.Action{
				ofproto.SetField{Field: ofproto.EthSrc(mark)}, ofproto.ToController(),
			}})
		}
		if _, err := s.conn.Send(g); err != nil {
			return nil, err
		}
		defer func() {
			_, _ = s.conn.Send(&ofproto.GroupMod{Command: ofproto.GroupDelete, Group: id}) // else the next read-back finds it
		}()
		if _, err := s.conn.Request(ctx, &ofproto.BarrierRequest{}); err != nil {
			return nil, err
		}
		ways[hashOfGroups] = []ofproto.Action{ofproto.Group{ID: id}}
	}
	if s.caps.Hashing {
		ways[hashOfSource] = []ofproto.Action{
			ofproto.Multipath{Fields: ofproto.HashNWSrc, Algorithm: ofproto.MultipathModulo, Links: hashBuckets, Dst: ofproto.FieldNXMReg0, Bits: 16},
			ofproto.SetField{Field: ofproto.EthSrc(hashMAC)},
			ofproto.Move{Src: ofproto.FieldNXMReg0, Dst: ofproto.FieldNXMEthSrc, Bits: 16},
			ofproto.ToController(),
		}
	}
	for kind, actions := range ways {
		for i := range uint16(hashSamples) {
			t := hashTuple(40000+7*i, kind)
			frame := packet.AppendTCPFrame(nil, packet.Flow{SrcMAC: packet.MAC(ProbeMAC), DstMAC: packet.MAC(ProbeMAC), Src: t.Src, Dst: t.Dst}, packet.TCP{Flags: packet.TCPSyn}, nil)
			if _, err := s.conn.Send(&ofproto.PacketOut{
				BufferID: ofproto.NoBuffer, InPort: ofproto.PortController, Data: frame, Actions: actions,
			}); err != nil {
				return nil, err
			}
		}
	}
	all := make([]hashSample, 0, 2*hashSamples)
	for len(all) < hashSamples*len(ways) {
		select {
		case one := <-got:
			all = append(all, one)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return all, nil
}

// sampled takes a packet-in of a measurement, and says whether it is one.
func (s *session) sampled(in ofproto.Port, data []byte) bool {
	if in != ofproto.PortController || len(data) < 38 || [4]byte(data[6:10]) != [4]byte(hashMAC[:4]) {
		return false
	}
	s.inspect.mu.Lock()
	defer s.inspect.mu.Unlock()
	select {
	case s.inspect.sample <- hashSample{src: binary.BigEndian.Uint16(data[34:]), dst: binary.BigEndian.Uint16(data[36:]), chosen: binary.BigEndian.Uint16(data[10:])}:
	default: // nobody measures any more
	}
	return true
}
