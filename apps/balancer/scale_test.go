package balancer

import (
	"context"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// sketch is an app over a network without a wire: its switches are what the core would
// show, and what is to be sent to them is looked at.
type sketch struct {
	t     testing.TB
	app   *App
	graph *topology.Graph
	c     *controller.Context
	now   time.Time
	list  []*controller.Switch
}

const sketchHosts = 3 // a switch

// sketchOf has so many switches in a line, each with hosts, and VIPs of three members.
func sketchOf(t testing.TB, switches, vips int, monitored bool) *sketch {
	s := &sketch{t: t, now: time.Unix(1e9, 0), graph: topology.New(topology.Options{})}
	caps := controller.Capabilities{
		Holds: true, Nicira: true, Normal: true, NormalInBuckets: true, Select: true, FastFailover: true, Chaining: true,
		WatchGroup: true, WatchPort: true, AllGroups: true, PortMasks: true, AddressMasks: true, MaxBuckets: MaxSlots, Tables: 254,
		FlowSet: controller.LayerL2 | controller.LayerL3 | controller.LayerL4, BucketSet: controller.LayerL2 | controller.LayerL3 | controller.LayerL4,
	}
	for i := range switches {
		dpid := ofproto.DPID(i + 1)
		s.list = append(s.list, &controller.Switch{DPID: dpid, Stage: controller.StageManaged, Connected: true, Capabilities: caps})
		var ports []topology.PortState
		for p := range sketchHosts + 2 {
			ports = append(ports, topology.PortState{Port: topology.Port(p + 1), Up: true})
		}
		s.graph.SetSwitch(topology.DPID(dpid), ports, s.now)
		for h := range sketchHosts {
			s.graph.SeeHost(topology.Sighting{
				MAC: topology.MAC{2, 0, 0, byte(i >> 8), byte(i), byte(h)}, IP: hostAddr(i, h),
				Place: topology.Place{DPID: topology.DPID(dpid), Port: topology.Port(h + 1)},
			}, s.now)
		}
		if i > 0 {
			s.graph.SeedLink(topology.Place{DPID: topology.DPID(i), Port: sketchHosts + 2}, topology.Place{DPID: topology.DPID(i + 1), Port: sketchHosts + 1}, s.now.Add(time.Hour), s.now)
		}
	}
	var records []Record
	for i := range vips {
		records = append(records, sketchRecord(i, switches, monitored))
	}
	s.app = NewApp(records, func(context.Context, string, uint64, map[ListenerKey][]uint16) error { return nil })
	s.turn()
	s.app.Handle(s.c, controller.Started{})
	for _, sw := range s.list {
		s.app.Handle(s.c, controller.SwitchUp{DPID: sw.DPID})
	}
	return s
}

func hostAddr(sw, host int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(sw >> 8), byte(sw), byte(host + 1)})
}

func sketchRecord(i, switches int, monitored bool) Record {
	v := VIP{Name: fmt.Sprintf("vip-%d", i), Address: netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), Mode: ModeNAT, Enabled: true, OnEmpty: OnEmptyDrop, Generation: 1}
	l := Listener{Protocol: TCP, Port: 80, Pool: Pool{Persistence: PersistenceNone}}
	if monitored {
		l.Pool.Monitor = &Monitor{Type: MonitorTCP, Via: ViaSwitches, Initial: HealthUnknown}
	}
	lr := ListenerRecord{Key: l.Key(), Group: flowtable.GroupIDOf(uint32(4 * i))}
	var slots []SlotMember
	for m := range 3 {
		member := Member{Address: hostAddr((i+m)%switches, m), Port: uint16(1024 + i%60000), Weight: 1, AdminState: AdminUp}
		l.Pool.Members = append(l.Pool.Members, member)
		lr.Members = append(lr.Members, MemberRecord{Key: member.Key(), Group: flowtable.GroupIDOf(uint32(4*i + m + 1)), Index: uint16(m)})
		slots = append(slots, SlotMember{ID: uint16(m), Weight: 1})
	}
	v.Listeners = []Listener{l}
	lr.Slots = Assign(Slots{}, slots)
	return Record{VIP: v, Listeners: []ListenerRecord{lr}}
}

// turn begins a turn of the core loop.
func (s *sketch) turn() {
	s.now = s.now.Add(time.Millisecond)
	s.c = controller.NewContext(s.now, s.graph, s.app, s.list...)
}

// flush compiles what is dirty, as the core does, and says how many parts of how many
// switches that are. The switches take them all.
func (s *sketch) flush() (parts map[ofproto.DPID][]string, sources int) {
	parts = s.c.DirtyParts()
	s.compile(parts, false)
	for _, names := range parts {
		sources += len(names)
	}
	return parts, sources
}

func (s *sketch) compile(parts map[ofproto.DPID][]string, build bool) (flows int) {
	for _, sw := range s.list {
		for _, name := range parts[sw.DPID] {
			src := s.app.Compile(s.c, sw, name)
			if build && src.Build != nil {
				flows += len(src.Build().Flows)
			}
			s.app.Handle(s.c, controller.Applied{DPID: sw.DPID, Part: name, Tag: src.Tag})
		}
	}
	return flows
}

// settle compiles all parts of all switches, as when they connect.
func (s *sketch) settle() {
	all := map[ofproto.DPID][]string{}
	for _, sw := range s.list {
		all[sw.DPID] = s.app.Parts(s.c, sw)
	}
	s.turn()
	s.compile(all, false)
	s.turn()
}

func TestChangeOfOneVIPCompilesItsPartAlone(t *testing.T) {
	s := sketchOf(t, 5, 40, true)
	s.settle()
	s.app.Handle(s.c, Verdict{ID: "vip-7/tcp:80/" + s.app.vips["vip-7"].rec.Listeners[0].Members[1].Key.String()})
	parts, _ := s.flush()
	require.Len(t, parts, 5)
	for _, names := range parts {
		require.Equal(t, []string{"vip/vip-7"}, names)
	}
	s.turn()
	rec := sketchRecord(7, 5, true)
	rec.VIP.Listeners[0].Pool.Members[0].Weight = 2
	s.app.Handle(s.c, Change{Name: "vip-7", Record: &rec, Revision: 99})
	parts, _ = s.flush()
	for _, names := range parts {
		require.Subset(t, []string{"vip/vip-7", "address/11.0.0.7", "icmp/11.0.0.7"}, names)
	}
}

func TestSwitchThatOnlyWatchesHasNoParts(t *testing.T) {
	s := sketchOf(t, 2, 10, false)
	s.settle()
	sw := s.list[0]
	require.NotEmpty(t, s.app.Parts(s.c, sw))
	sw.Stage = controller.StageObserve
	s.app.Handle(s.c, controller.StageChanged{DPID: sw.DPID})
	// What it has goes: each part is compiled to nothing, once.
	parts := s.app.Parts(s.c, sw)
	require.NotEmpty(t, parts)
	for _, name := range parts {
		require.Nil(t, s.app.Compile(s.c, sw, name).Build)
	}
	s.turn()
	require.Empty(t, s.app.Parts(s.c, sw))
	s.app.Handle(s.c, controller.SwitchUp{DPID: sw.DPID})
	require.Empty(t, s.app.Parts(s.c, sw))
	sw.Stage = controller.StageSteer
	s.app.Handle(s.c, controller.StageChanged{DPID: sw.DPID})
	require.NotEmpty(t, s.app.Parts(s.c, sw))
}

// A link that comes changes the way to some switches, and what stands in for it when it is
// lost, and of those alone the VIPs with members there are compiled again.
func TestReroutedCompilesWhatGoesAnotherWay(t *testing.T) {
	s := sketchOf(t, 6, 30, false)
	s.settle()
	s.app.Handle(s.c, controller.Rerouted{})
	require.Empty(t, s.c.DirtyParts(), "nothing goes another way")
	// The first three of the line are joined in a circle.
	s.graph.SetPort(1, topology.PortState{Port: 9, Up: true}, s.now)
	s.graph.SetPort(3, topology.PortState{Port: 9, Up: true}, s.now)
	s.graph.SeedLink(topology.Place{DPID: 1, Port: 9}, topology.Place{DPID: 3, Port: 9}, s.now.Add(time.Hour), s.now)
	s.turn()
	s.app.Handle(s.c, controller.Rerouted{})
	want := map[ofproto.DPID][]string{}
	for dpid := ofproto.DPID(1); dpid <= 3; dpid++ {
		for name, v := range s.app.vips {
			if slices.ContainsFunc(v.rec.Listeners[0].Members, func(m MemberRecord) bool {
				// Of the three only 3 leads to those beyond it, by a link that has nothing in its stead.
				at := s.app.members[m.Key.Addr()].place.DPID
				return at != topology.DPID(dpid) && (dpid != 3 || at < 3)
			}) {
				want[dpid] = append(want[dpid], partVIP+name)
			}
		}
		slices.Sort(want[dpid])
	}
	require.Equal(t, want, s.c.DirtyParts())
	s.flush()
	snap := s.graph.Snapshot()
	for _, sw := range s.list {
		for _, v := range s.app.vips {
			for _, m := range v.rec.Listeners[0].Members {
				at := s.app.members[m.Key.Addr()]
				got := s.app.input(s.c, sw, v).targets[m.Key.Addr()].port
				if port, ok := snap.NextHop(topology.DPID(sw.DPID), at.place.DPID); ok {
					require.EqualValues(t, port, got)
				}
			}
		}
	}
	status, _ := s.app.Status(s.c, "vip-1")
	require.Equal(t, ProvisioningActive, status.VIP.Provisioning)
}

// BenchmarkTenThousandVIPs is one member of one of 10,000 VIPs that changes, on 100
// switches, without what the sessions keep of them and do.
func BenchmarkTenThousandVIPs(b *testing.B) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := sketchOf(b, 100, 10_000, true)
	s.settle()
	runtime.GC()
	runtime.ReadMemStats(&after)
	b.Logf("%.0f MiB of heap", float64(after.HeapAlloc-before.HeapAlloc)/(1<<20))
	b.Run("verdict", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			name := fmt.Sprintf("vip-%d", i%10_000)
			member := s.app.vips[name].rec.Listeners[0].Members[i%3]
			s.turn()
			s.app.Handle(s.c, Verdict{ID: checkID(name, ListenerKey{TCP, 80}, member.Key), Up: i/10_000%2 == 1})
			if _, n := s.flush(); n != 100 {
				b.Fatal(n, "parts")
			}
		}
	})
	b.Run("rerouted", func(b *testing.B) {
		for b.Loop() {
			s.turn()
			s.app.Handle(s.c, controller.Rerouted{})
		}
	})
	b.Run("switch up", func(b *testing.B) {
		for b.Loop() {
			s.turn()
			s.app.Handle(s.c, controller.SwitchUp{DPID: 50})
		}
	})
}

// BenchmarkPoolOf256 is one of 256 members that goes down and comes up, on one switch.
func BenchmarkPoolOf256(b *testing.B) {
	slots := make([]SlotMember, MaxMembers)
	members := make([]standing, MaxMembers)
	for i := range slots {
		slots[i] = SlotMember{ID: uint16(i), Weight: 1}
		members[i] = standing{id: uint16(i), wanted: true, placed: true, health: HealthUp}
	}
	s := Assign(Slots{}, slots)
	for i := 0; b.Loop(); i++ {
		members[7].health = []Health{HealthDown, HealthUp}[i%2]
		s.Owner = present(s, s.Owner, Pool{}, members)
	}
}

// BenchmarkFill is what a switch that comes empty is to hold of 10,000 VIPs: what the core
// does before its session can begin, and what its session builds.
func BenchmarkFill(b *testing.B) {
	s := sketchOf(b, 1, 10_000, false)
	s.settle()
	sw := s.list[0]
	sources := map[string]controller.Source{}
	b.Run("compile", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			s.turn()
			s.app.Handle(s.c, controller.SwitchUp{DPID: sw.DPID})
			for _, part := range s.app.Parts(s.c, sw) {
				sources[part] = s.app.Compile(s.c, sw, part)
			}
		}
	})
	b.Run("build", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for _, src := range sources {
				if src.Build != nil { // there is no VIP of IPv6
					src.Build()
				}
			}
		}
	})
}
