package ofproto

import (
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// rewrite is how testdata is made anew: go test ./ofproto -run Live -rewrite
var rewrite = flag.Bool("rewrite", false, "write what a live Open vSwitch answers to testdata")

// describe writes a message as text, multipart replies record by record.
func describe(m Message) (string, error) {
	reply, ok := m.(*MultipartReply)
	if !ok {
		return fmt.Sprintf("%T %+v\n", m, reflect.ValueOf(m).Elem()), nil
	}
	var s strings.Builder
	fmt.Fprintf(&s, "multipart reply %v more=%v\n", reply.Type, reply.More())
	var failed error
	line := func(v any, err error) {
		failed = errorsFirst(failed, err)
		fmt.Fprintf(&s, "%+v\n", v)
	}
	switch b := reply.Body; reply.Type {
	case MultipartDesc:
		line(ParseDesc(b))
	case MultipartFlow:
		for f, err := range FlowStatsOf(b) {
			list, err2 := f.Instructions()
			failed = errorsFirst(failed, errorsFirst(err, err2))
			f.RawInstructions = nil
			fmt.Fprintf(&s, "%+v %v\n", f, list)
		}
	case MultipartAggregate:
		line(ParseAggregateStats(b))
	case MultipartTable:
		for r, err := range TableStatsOf(b) {
			line(r, err)
		}
	case MultipartPortStats:
		for r, err := range PortStatsOf(b) {
			line(r, err)
		}
	case MultipartQueue:
		for r, err := range QueueStatsOf(b) {
			line(r, err)
		}
	case MultipartGroup:
		for r, err := range GroupStatsOf(b) {
			line(r, err)
		}
	case MultipartGroupDesc:
		for r, err := range GroupDescOf(b) {
			line(r, err)
		}
	case MultipartGroupFeatures:
		line(ParseGroupFeatures(b))
	case MultipartMeter:
		for r, err := range MeterStatsOf(b) {
			line(r, err)
		}
	case MultipartMeterConfig:
		for r, err := range MeterConfigOf(b) {
			line(r, err)
		}
	case MultipartMeterFeatures:
		line(ParseMeterFeatures(b))
	case MultipartPortDesc:
		for r, err := range PortDescOf(b) {
			line(r, err)
		}
	case MultipartTableFeatures:
		for r, err := range TableFeaturesOf(b) {
			failed = errorsFirst(failed, err)
			fmt.Fprintf(&s, "table %d %q metadata %#x %#x config %d entries %d\n", r.Table, r.Name, r.MetadataMatch, r.MetadataWrite, r.Config, r.MaxEntries)
			for _, p := range r.Properties {
				fmt.Fprintf(&s, "  property %d:", p.Type)
				switch p.Type &^ 1 {
				case PropNextTables:
					fmt.Fprintf(&s, " %v", p.Tables())
				case PropInstructions, PropWriteActions, PropApplyActions:
					for typ := range p.Types() {
						fmt.Fprintf(&s, " %d", typ)
					}
				case PropMatch, PropWildcards, PropWriteSetField, PropApplySetField:
					for f, maskable := range p.Fields() {
						fmt.Fprintf(&s, " %v", f)
						if maskable {
							s.WriteString("/m")
						}
					}
				}
				s.WriteByte('\n')
			}
		}
	default:
		return "", fmt.Errorf("multipart type %v", reply.Type)
	}
	return s.String(), failed
}

func errorsFirst(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// TestCapturedReplies parses what Open vSwitch 3.1 has answered and compares it
// with what that was taken to mean when it was looked through by hand.
func TestCapturedReplies(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hex")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 25)
	multipart := map[MultipartType]bool{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		frame := unhex(t, string(text))
		_, m, err := Parse(frame)
		require.NoError(t, err, file)
		got, err := describe(m)
		require.NoError(t, err, file)
		want, err := os.ReadFile(strings.TrimSuffix(file, ".hex") + ".txt")
		require.NoError(t, err)
		require.Equal(t, string(want), got, file)
		if r, ok := m.(*MultipartReply); ok {
			multipart[r.Type] = true
		}
		checkTruncations(t, frame)
	}
	require.Len(t, multipart, 14, "every multipart type is captured")
}

// checkTruncations cuts a reply at every byte: it must be refused, or the records
// that are left be read without the one that is cut.
func checkTruncations(t *testing.T, frame []byte) {
	for n := HeaderLen; n < len(frame); n++ {
		short := slices.Clone(frame[:n])
		be.PutUint16(short[2:], uint16(n))
		_, m, err := Parse(short)
		if err != nil {
			continue
		}
		if r, ok := m.(*MultipartReply); ok {
			if b, ok := rewritten(r); ok {
				require.Equal(t, r.Body, b, "cut to %d", n)
			}
		}
	}
}

// openVSwitch is a private Open vSwitch without a datapath of the system: it needs
// no rights and ends with the test.
type openVSwitch struct {
	t   *testing.T
	dir string
}

func startOpenVSwitch(t *testing.T) *openVSwitch {
	dir, err := os.MkdirTemp("", "ofproto") // t.TempDir is too long for a socket
	require.NoError(t, err)
	o := &openVSwitch{t, dir}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })

	schema := "/usr/share/openvswitch/vswitch.ovsschema"
	o.run("ovsdb-tool", "create", dir+"/conf.db", schema)
	o.daemon("ovsdb-server", "--remote=punix:"+dir+"/db.sock", dir+"/conf.db")
	o.await(dir + "/db.sock")
	o.run("ovs-vsctl", "--no-wait", "--db=unix:"+dir+"/db.sock", "init")
	o.daemon("ovs-vswitchd", "--enable-dummy=override", "--disable-system", "unix:"+dir+"/db.sock")
	o.vsctl("add-br", "br0",
		"--", "set", "bridge", "br0", "datapath_type=dummy", "fail_mode=secure", "protocols=OpenFlow13",
		"other_config:datapath-id=00000000000000a1", "other_config:hwaddr=02:00:00:00:00:a1",
		"--", "add-port", "br0", "p1", "--", "set", "interface", "p1", "ofport_request=1", "type=dummy",
		"--", "add-port", "br0", "p2", "--", "set", "interface", "p2", "ofport_request=2", "type=dummy")
	o.await(dir + "/br0.mgmt")
	return o
}

func (o *openVSwitch) command(name string, args ...string) *exec.Cmd {
	tool, err := exec.LookPath(name)
	require.NoError(o.t, err, "%s of Open vSwitch is needed for this test (Debian: openvswitch-switch)", name)
	c := exec.Command(tool, args...)
	c.Dir = o.dir
	c.Env = append(os.Environ(), "OVS_RUNDIR="+o.dir, "OVS_LOGDIR="+o.dir, "OVS_DBDIR="+o.dir, "OVS_SYSCONFDIR="+o.dir)
	return c
}

func (o *openVSwitch) run(name string, args ...string) {
	out, err := o.command(name, args...).CombinedOutput()
	require.NoError(o.t, err, "%s %v: %s", name, args, out)
}

func (o *openVSwitch) vsctl(args ...string) {
	o.run("ovs-vsctl", append([]string{"--timeout=10", "--db=unix:" + o.dir + "/db.sock"}, args...)...)
}

func (o *openVSwitch) daemon(name string, args ...string) {
	c := o.command(name, append([]string{"-vconsole:off", "--no-chdir"}, args...)...)
	require.NoError(o.t, c.Start())
	o.t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
}

// await waits for a socket to be there.
func (o *openVSwitch) await(path string) {
	require.Eventually(o.t, func() bool {
		c, err := net.Dial("unix", path)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}, 10*time.Second, 5*time.Millisecond, "no socket %s", path)
}

// peer is a connection to a switch on which everything is said step by step.
type peer struct {
	t   *testing.T
	c   net.Conn
	xid uint32
}

func (p *peer) send(m Message) uint32 {
	p.xid++
	if a, ok := m.(*BundleAdd); ok {
		a.XID = p.xid
	}
	_, err := p.c.Write(Append(nil, p.xid, m))
	require.NoError(p.t, err)
	return p.xid
}

// receive reads the next frame.
func (p *peer) receive() (frame []byte, h Header, m Message) {
	require.NoError(p.t, p.c.SetReadDeadline(time.Now().Add(10*time.Second)))
	head := make([]byte, HeaderLen)
	_, err := io.ReadFull(p.c, head)
	require.NoError(p.t, err)
	h, err = ParseHeader(head)
	require.NoError(p.t, err)
	frame = append(head, make([]byte, int(h.Length)-HeaderLen)...)
	_, err = io.ReadFull(p.c, frame[HeaderLen:])
	require.NoError(p.t, err)
	h, m, err = Parse(frame)
	require.NoError(p.t, err, "%x", frame)
	return frame, h, m
}

// ask sends a message and returns the frames of its answer. A refusal fails the
// test unless it is what is asked for.
func (p *peer) ask(m Message) (frames [][]byte, last Message) {
	xid := p.send(m)
	for {
		frame, h, reply := p.receive()
		require.Equal(p.t, xid, h.XID, "answer to %v: %+v", m.MessageType(), reply)
		frames = append(frames, frame)
		if r, ok := reply.(*MultipartReply); ok && r.More() {
			continue
		}
		return frames, reply
	}
}

// do sends messages that have no answer and fails if one is refused.
func (p *peer) do(messages ...Message) {
	p.t.Helper()
	sent := map[uint32]Message{}
	for _, m := range messages {
		sent[p.send(m)] = m
	}
	barrier := p.send(&BarrierRequest{})
	for {
		_, h, m := p.receive()
		if h.XID == barrier {
			return
		}
		require.NotContains(p.t, sent, h.XID, "%v for %+v", m, sent[h.XID])
	}
}

func TestLiveOpenVSwitch(t *testing.T) {
	ovs := startOpenVSwitch(t)
	c, err := net.Dial("unix", ovs.dir+"/br0.mgmt")
	require.NoError(t, err)
	defer func() { _ = c.Close() }()
	p := &peer{t: t, c: c, xid: 0x100}

	captured := map[string][]byte{}
	// keep stores the answer's first frame under a name.
	keep := func(name string, m Message) Message {
		frames, last := p.ask(m)
		captured[name] = frames[0]
		return last
	}

	p.send(&Hello{Versions: []uint8{4}})
	frame, _, m := p.receive()
	require.Equal(t, &Hello{Versions: []uint8{4}}, m)
	captured["hello"] = frame

	features := keep("features_reply", &FeaturesRequest{}).(*FeaturesReply)
	require.Equal(t, DPID(0xa1), features.DPID)
	require.EqualValues(t, 254, features.Tables)
	p.do(&SetConfig{MissSendLen: MaxLenNoBuffer})
	require.Equal(t, &GetConfigReply{MissSendLen: MaxLenNoBuffer}, keep("get_config_reply", &GetConfigRequest{}))
	require.Equal(t, &EchoReply{Data: []byte("hi")}, keep("echo_reply", &EchoRequest{Data: []byte("hi")}))
	require.Equal(t, &RoleReply{Role: RoleMaster, GenerationID: 3}, keep("role_reply", &RoleRequest{Role: RoleMaster, GenerationID: 3}))
	stale := keep("error_role_stale", &RoleRequest{Role: RoleMaster, GenerationID: 2})
	require.Equal(t, "OFPRRFC_STALE", stale.(*Error).Name())

	async := SetAsync{PacketIn: [2]uint32{7, 0}, PortStatus: [2]uint32{7, 7}, FlowRemoved: [2]uint32{15, 0}}
	p.do(&async)
	require.Equal(t, (*GetAsyncReply)(&async), keep("get_async_reply", &GetAsyncRequest{}))

	// Meters, groups and flows, some of them in a bundle.
	meter := MeterMod{Flags: MeterFlagKbps | MeterFlagBurst | MeterFlagStats, Meter: 7, Bands: []MeterBand{
		{Type: BandDrop, Rate: 1000, Burst: 200}, {Type: BandDrop, Rate: 2000, Burst: 100},
	}}
	p.do(&meter)
	groups := []GroupMod{
		{Type: GroupTypeFastFailover, Group: 2, Buckets: []Bucket{
			{WatchPort: 1, WatchGroup: GroupAny, Actions: []Action{SetField{Field: EthDst(mac1)}, OutputPort(1)}},
		}},
		{Type: GroupTypeFastFailover, Group: 3, Buckets: []Bucket{
			{WatchPort: 2, WatchGroup: GroupAny, Actions: []Action{Load{Dst: FieldNXMInPort, Bits: 16}, OutputPort(2)}},
		}},
		{Type: GroupTypeSelect, Group: 1, Buckets: []Bucket{
			{Weight: 1, WatchPort: PortAny, WatchGroup: 2, Actions: []Action{Group{ID: 2}}},
			{Weight: 1, WatchPort: PortAny, WatchGroup: 3, Actions: []Action{Group{ID: 3}}},
		}},
		{Type: GroupTypeAll, Group: 4},
		{Type: GroupTypeIndirect, Group: 5, Buckets: []Bucket{
			{WatchPort: PortAny, WatchGroup: GroupAny, Actions: []Action{
				CT{Flags: CTCommit, Zone: 1, Table: 9, Actions: []Action{NAT{Flags: NATDst, IPMin: prefix("10.0.0.2/32").Addr()}}}}},
		}},
	}
	flows := map[uint64]*FlowMod{}
	for _, g := range goldens { // those that Open vSwitch can print it can also execute
		f, ok := g.msg.(*FlowMod)
		if !ok || f.Command != FlowAdd || g.print == "" {
			continue
		}
		f2 := *f
		f2.Cookie = uint64(0xc0de00 + len(flows))
		f2.Priority = uint16(1000 + len(flows))
		f2.Table = 2
		f2.Flags &^= FlagCheckOverlap
		f2.Instructions = slices.Clone(f2.Instructions)
		for i, inst := range f2.Instructions {
			switch inst := inst.(type) {
			case Meter:
				f2.Instructions[i] = Meter{ID: meter.Meter}
			case ApplyActions:
				list := slices.Clone(inst.Actions)
				for j, a := range list {
					if _, ok := a.(Group); ok {
						list[j] = Group{ID: 1}
					}
				}
				f2.Instructions[i] = ApplyActions{Actions: list}
			}
		}
		flows[f2.Cookie] = &f2
	}
	flags := BundleAtomic | BundleOrdered
	control := func(typ BundleControlType) *BundleControl { return &BundleControl{Bundle: 1, Type: typ, Flags: flags} }
	// Its answers have no flags.
	require.Equal(t, &BundleControl{Bundle: 1, Type: BundleOpenReply}, keep("bundle_open_reply", control(BundleOpenRequest)))
	for i := range groups {
		p.send(&BundleAdd{Bundle: 1, Flags: flags, Message: &groups[i]})
	}
	for _, cookie := range slices.Sorted(maps.Keys(flows)) {
		p.send(&BundleAdd{Bundle: 1, Flags: flags, Message: flows[cookie]})
	}
	require.Equal(t, &BundleControl{Bundle: 1, Type: BundleCommitReply}, keep("bundle_commit_reply", control(BundleCommitRequest)))

	// Errors, by name.
	exists := keep("error_group_exists", &groups[0]).(*Error)
	require.Equal(t, "OFPGMFC_GROUP_EXISTS", exists.Name())
	failedID := p.xid
	h, err := ParseHeader(exists.Data)
	require.NoError(t, err)
	require.Equal(t, failedID, h.XID)
	require.Equal(t, "OFPBFC_BAD_ID", keep("error_bundle", &BundleControl{Bundle: 99, Type: BundleCommitRequest, Flags: flags}).(*Error).Name())
	require.Equal(t, "OFPBRC_BAD_EXPERIMENTER", keep("error_experimenter", &Experimenter{Experimenter: 0x123456, ExpType: 1}).(*Error).Name())

	// A queue for its statistics, and packets for the counters.
	packet := append(unhex(t, "020000000002 020000000001 0806 0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002"), make([]byte, 18)...)
	p.send(&PacketOut{BufferID: NoBuffer, InPort: 1, Actions: []Action{ToController()}, Data: packet})
	frame, _, m = p.receive()
	captured["packet_in"] = frame
	in := m.(*PacketIn)
	port, ok := in.InPort()
	require.True(t, ok)
	require.EqualValues(t, 1, port)
	require.Equal(t, packet, in.Data)
	require.Equal(t, ReasonAction, in.Reason)

	// Every multipart type.
	first := func(name string, typ MultipartType, body MultipartBody) []byte {
		frames, last := p.ask(&MultipartRequest{Type: typ, Body: body})
		reply, ok := last.(*MultipartReply)
		require.True(t, ok, "%s: %+v", name, last)
		require.Equal(t, typ, reply.Type)
		captured["multipart_"+name] = frames[0]
		var whole []byte
		for _, f := range frames {
			_, m, err := Parse(f)
			require.NoError(t, err)
			_, err = describe(m)
			require.NoError(t, err)
			whole = append(whole, m.(*MultipartReply).Body...)
		}
		return whole
	}
	desc, err := ParseDesc(first("desc", MultipartDesc, nil))
	require.NoError(t, err)
	require.Equal(t, "Nicira, Inc.", desc.Manufacturer)

	back := map[uint64]FlowStats{}
	for f, err := range FlowStatsOf(first("flow", MultipartFlow, AllFlows())) {
		require.NoError(t, err)
		back[f.Cookie] = f
	}
	require.Len(t, back, len(flows))
	for cookie, sent := range flows {
		got := back[cookie]
		require.Equal(t, sent.Match.Canonical().String(), got.Match.Canonical().String())
		require.Equal(t, sent.Priority, got.Priority)
		list, err := got.Instructions()
		require.NoError(t, err)
		// It comes back as it was sent, but for an instruction that does nothing.
		require.Equal(t, strings.ReplaceAll(fmt.Sprint(sent.Instructions), "apply_actions(drop) ", ""), fmt.Sprint(list))
	}
	aggregate, err := ParseAggregateStats(first("aggregate", MultipartAggregate, AllFlows()))
	require.NoError(t, err)
	require.EqualValues(t, len(flows), aggregate.Flows)

	descs := map[GroupID]GroupDesc{}
	for d, err := range GroupDescOf(first("group_desc", MultipartGroupDesc, nil)) {
		require.NoError(t, err)
		descs[d.Group] = d
	}
	require.Len(t, descs, len(groups))
	for _, g := range groups {
		require.Equal(t, GroupDesc{Type: g.Type, Group: g.Group, Buckets: g.Buckets}, descs[g.Group])
	}
	var configs []MeterConfig
	for mc, err := range MeterConfigOf(first("meter_config", MultipartMeterConfig, MeterStatsRequest{Meter: MeterAll})) {
		require.NoError(t, err)
		configs = append(configs, mc)
	}
	require.Equal(t, []MeterConfig{{Flags: meter.Flags, Meter: meter.Meter, Bands: meter.Bands}}, configs)
	ports := map[string]PortDesc{}
	for d, err := range PortDescOf(first("port_desc", MultipartPortDesc, nil)) {
		require.NoError(t, err)
		ports[d.Name] = d
	}
	require.EqualValues(t, 1, ports["p1"].Port)
	require.EqualValues(t, 2, ports["p2"].Port)
	require.Equal(t, PortLocal, ports["br0"].Port)
	groupFeatures, err := ParseGroupFeatures(first("group_features", MultipartGroupFeatures, nil))
	require.NoError(t, err)
	require.EqualValues(t, 0xf, groupFeatures.Types)
	tables := 0
	for tf, err := range TableFeaturesOf(first("table_features", MultipartTableFeatures, nil)) {
		require.NoError(t, err)
		require.EqualValues(t, tables, tf.Table)
		tables++
	}
	require.Equal(t, 254, tables)
	first("table", MultipartTable, nil)
	first("port_stats", MultipartPortStats, PortStatsRequest{Port: PortAny})
	first("queue", MultipartQueue, QueueStatsRequest{Port: PortAny, Queue: 0xffffffff})
	first("group", MultipartGroup, GroupStatsRequest{Group: GroupAll})
	first("meter", MultipartMeter, MeterStatsRequest{Meter: MeterAll})
	first("meter_features", MultipartMeterFeatures, nil)

	// What comes unasked.
	hw := ports["p2"].HWAddr
	p.send(&PortMod{Port: 2, HWAddr: hw, Config: PortConfigDown, Mask: PortConfigDown})
	frame, _, m = p.receive()
	captured["port_status"] = frame
	require.False(t, m.(*PortStatus).Desc.Up())
	p.send(&FlowMod{
		Table: TableAll, Command: FlowDelete, Cookie: 0xc0de00, CookieMask: 1<<64 - 1, BufferID: NoBuffer, OutPort: PortAny, OutGroup: GroupAny,
	})
	frame, _, m = p.receive()
	captured["flow_removed"] = frame
	removed := m.(*FlowRemoved)
	require.Equal(t, RemovedDelete, removed.Reason)
	require.Equal(t, uint64(0xc0de00), removed.Cookie)
	require.Equal(t, flows[0xc0de00].Match.Canonical(), removed.Match.Canonical())
	p.do(&GroupMod{Command: GroupDelete, Group: GroupAll}, &MeterMod{Command: MeterDelete, Meter: MeterAll})

	for name, frame := range captured {
		_, m, err := Parse(frame)
		require.NoError(t, err)
		if !*rewrite {
			continue
		}
		note := "answer of Open vSwitch 3.1.0"
		if r, ok := m.(*MultipartReply); ok && r.Type == MultipartTableFeatures {
			n := 0
			for range 2 { // of 254 tables that are all the same
				n += int(be.Uint16(r.Body[n:]))
			}
			r.Body = r.Body[:n]
			frame = Append(nil, be.Uint32(frame[4:]), r)
			note += ", its first two tables"
		}
		text, err := describe(m)
		require.NoError(t, err)
		var dump strings.Builder
		fmt.Fprintf(&dump, "# %s: %s\n", name, note)
		for line := range slices.Chunk(frame, 32) {
			fmt.Fprintln(&dump, hex.EncodeToString(line))
		}
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(filepath.Join("testdata", name+".hex"), []byte(dump.String()), 0o644))
		require.NoError(t, os.WriteFile(filepath.Join("testdata", name+".txt"), []byte(text), 0o644))
	}
}
