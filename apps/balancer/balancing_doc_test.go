package balancer

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the printed part of docs/balancing.md")

// Of docs/balancing.md, what is between these lines is printed from choose.
const (
	printedFirst = "<!-- printed by: go test ./apps/balancer -run BalancingDocument -rewrite -->\n"
	printedLast  = "<!-- end of what is printed -->\n"
)

// switchKinds are the columns of the table.
var switchKinds = []struct {
	name string
	caps controller.Capabilities
}{
	{"Open vSwitch", everyCapability()},
	{"OpenFlow 1.3", without(func(c *controller.Capabilities) {
		c.Nicira, c.PortMasks, c.NDAnswers, c.Hashing, c.Resubmits, c.TCPFlags, c.ConnTrack = false, false, false, false, false, false, false
	})},
	{"OpenFlow 1.3, one table, no groups, masks of prefixes", without(func(c *controller.Capabilities) {
		*c = controller.Capabilities{Tables: 1, Normal: true, FlowSet: c.FlowSet, Holds: true, Probed: true}
	})},
}

func everyCapability() controller.Capabilities {
	all := controller.LayerL2 | controller.LayerL3 | controller.LayerL4 | controller.LayerIPv6 | controller.LayerSCTP
	return controller.Capabilities{
		Tables: 254, Nicira: true, Bundles: true, Select: true, FastFailover: true, AllGroups: true, Chaining: true, WatchPort: true,
		WatchGroup: true, MaxGroups: 1 << 20, MaxBuckets: 256, Meters: 1 << 18, MeteredCopies: true, Normal: true, NormalInBuckets: true,
		BucketSet: all, FlowSet: all, AddressMasks: true, IPv6Masks: true, PortMasks: true, NDAnswers: true,
		Hashing: true, Resubmits: true, TCPFlags: true, ConnTrack: true, Holds: true, Probed: true,
	}
}

func without(change func(*controller.Capabilities)) controller.Capabilities {
	c := everyCapability()
	change(&c)
	return c
}

// situations are the stages of a switch, and where members are.
var situations = []struct {
	name  string
	stage controller.Stage
	at    target
}{
	{"managed", controller.StageManaged, target{mac: ofproto.MAC{2}, hop: hop{port: 2}, attached: true}},
	{"steer", controller.StageSteer, target{mac: ofproto.MAC{2}, hop: hop{port: 2}, attached: true}},
	{"steer, members at another switch", controller.StageSteer, target{mac: ofproto.MAC{2}, hop: hop{port: 2}}},
}

// combination is what becomes of a VIP with two members on a kind of switch.
func combination(v VIP, caps controller.Capabilities, stage controller.Stage, at target) string {
	if err := validate(v); err != nil {
		var missing *UnsupportedError
		if errors.As(err, &missing) {
			return "refused: " + missing.Errors[0].Reason
		}
		return "refused: " + err.Error()
	}
	rec := Record{VIP: v}
	lr := ListenerRecord{Key: v.Listeners[0].Key(), Group: 0x46000001}
	in := vipInput{rec: &rec, stage: stage, caps: caps, targets: map[netip.Addr]target{}}
	var slots []SlotMember
	for i, m := range v.Listeners[0].Pool.Members {
		lr.Members = append(lr.Members, MemberRecord{Key: m.Key(), Group: ofproto.GroupID(0x46000002 + i), Index: uint16(i)})
		slots = append(slots, SlotMember{ID: uint16(i), Weight: 1})
		t := at
		t.vlan = v.VLAN
		in.targets[m.Address] = t
	}
	lr.Slots = Assign(Slots{}, slots)
	rec.Listeners = []ListenerRecord{lr}
	ch := in.choose(lr, lr.Slots.Home)
	switch {
	case ch.method == MethodRefused:
		return "refused: " + ch.reason
	case ch.reason != "":
		return string(ch.method) + "; " + ch.reason
	}
	return string(ch.method)
}

// The dimensions of the table. A VIP with source_nat stands as a mode.
var dimensions = []struct {
	name   string
	values []string
}{
	{"mode", []string{"nat", "dsr", "conntrack", "conntrack with source_nat"}},
	{"protocol", []string{"tcp", "udp", "sctp"}},
	{"persistence", []string{"none", "source_ip", "source_ip_protocol"}},
	{"monitor", monitors()},
	{"family", []string{"IPv4", "IPv6"}},
	{"stage", []string{situations[0].name, situations[1].name, situations[2].name}},
}

// monitors are the types of monitors, by each way that probes take.
func monitors() []string {
	list := []string{"none"}
	for _, t := range []MonitorType{MonitorTCP, MonitorHTTP, MonitorHTTPS, MonitorPing, MonitorUDPConnect, MonitorSCTP} {
		list = append(list, string(t), string(t)+" via host")
	}
	return list
}

// row is a row of the table: sets of values, and what comes of them on each kind of
// switch.
type row struct {
	at    [6][]string
	cells string
}

// combinations prints mode × protocol × persistence × monitor × family × stage for each
// kind of switch. Rows that differ in one dimension and say the same are one; reasons are notes.
func combinations() string {
	var notes []string
	note := func(text string) string {
		separator := "; "
		if strings.HasPrefix(text, "refused: ") {
			separator = ": "
		}
		text, reason, _ := strings.Cut(text, separator)
		if reason == "" {
			return text
		}
		i := slices.Index(notes, reason)
		if i < 0 {
			i, notes = len(notes), append(notes, reason)
		}
		return fmt.Sprintf("%s (%d)", text, i+1)
	}
	var rows []row
	d := dimensions
	for _, mode := range d[0].values {
		for _, protocol := range d[1].values {
			for _, persistence := range d[2].values {
				for _, monitor := range d[3].values {
					for f, family := range d[4].values {
						for _, s := range situations {
							v := combined(mode, Protocol(protocol), Persistence(persistence), monitor, f == 1)
							r := row{at: [6][]string{{mode}, {protocol}, {persistence}, {monitor}, {family}, {s.name}}}
							for _, k := range switchKinds {
								text := combination(v, k.caps, s.stage, s.at)
								var members []string
								for _, m := range v.Listeners[0].Pool.Members {
									members = append(members, m.Address.String())
								}
								r.cells += " " + note(strings.ReplaceAll(text, strings.Join(members, ", "), "members")) + " |"
							}
							rows = append(rows, r)
						}
					}
				}
			}
		}
	}
	for _, dim := range []int{3, 4, 5, 2, 1, 0} {
		rows = merge(rows, dim)
	}
	var b strings.Builder
	for _, dim := range d {
		fmt.Fprintf(&b, "| %s ", dim.name)
	}
	for _, k := range switchKinds {
		fmt.Fprintf(&b, "| %s ", k.name)
	}
	b.WriteString("|\n|" + strings.Repeat("---|", len(d)+len(switchKinds)) + "\n")
	for _, r := range rows {
		for i, values := range r.at {
			text := strings.Join(values, ", ")
			if len(values) == len(d[i].values) {
				text = "all"
			}
			fmt.Fprintf(&b, "| %s ", text)
		}
		fmt.Fprintf(&b, "|%s\n", r.cells)
	}
	b.WriteString("\n")
	for i, reason := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, reason)
	}
	return b.String()
}

// combined is the VIP of a combination.
func combined(mode string, protocol Protocol, persistence Persistence, monitor string, six bool) VIP {
	base, _, sourceNAT := strings.Cut(mode, " with ")
	v := VIP{Name: "web", Address: netip.MustParseAddr("10.0.0.100"), Mode: Mode(base), SourceNAT: sourceNAT, Enabled: true, OnEmpty: OnEmptyDrop}
	member, port, source := "10.0.0.%d", uint16(8080), netip.MustParseAddr("10.0.0.251")
	if six {
		v.Address, member, source = netip.MustParseAddr("2001:db8::64"), "2001:db8::%d", netip.MustParseAddr("2001:db8::fb")
	}
	if v.Mode == ModeDSR {
		port = 80
	}
	l := Listener{Protocol: protocol, Port: 80, Pool: Pool{Persistence: persistence}}
	if typ, _, host := strings.Cut(monitor, " via "); typ != "none" {
		m := &Monitor{Type: MonitorType(typ), Interval: Duration(time.Second), Timeout: Duration(time.Second), Rise: 1, Fall: 1, Via: ViaSwitches, Initial: HealthUnknown}
		if host {
			m.Via = ViaHost
		} else if v.Mode == ModeDSR {
			m.SourceAddress = source
		}
		if m.Type.http() {
			m.Method, m.Path, m.ExpectedCodes = "GET", "/", "200"
		}
		l.Pool.Monitor = m
	}
	for i := 1; i <= 2; i++ {
		l.Pool.Members = append(l.Pool.Members, Member{Address: netip.MustParseAddr(fmt.Sprintf(member, i)), Port: port, Weight: 1, AdminState: AdminUp})
	}
	v.Listeners = []Listener{l}
	return v
}

// merge makes one of rows that differ in one dimension alone.
func merge(rows []row, dim int) (merged []row) {
	for _, r := range rows {
		i := slices.IndexFunc(merged, func(m row) bool {
			for other := range m.at {
				if other != dim && !slices.Equal(m.at[other], r.at[other]) {
					return false
				}
			}
			return m.cells == r.cells
		})
		if i < 0 {
			merged = append(merged, r)
			continue
		}
		merged[i].at[dim] = append(slices.Clone(merged[i].at[dim]), r.at[dim]...)
	}
	return merged
}

// TestBalancingDocument holds docs/balancing.md to what is compiled.
func TestBalancingDocument(t *testing.T) {
	const path = "../../docs/balancing.md"
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(text), printedFirst)
	require.True(t, found, "%s has no line %q", path, printedFirst)
	printed, after, found := strings.Cut(rest, printedLast)
	require.True(t, found, "%s has no line %q", path, printedLast)
	want := "\n" + combinations() + "\n"
	if *rewrite {
		require.NoError(t, os.WriteFile(path, []byte(before+printedFirst+want+printedLast+after), 0o644))
		return
	}
	require.Equal(t, want, printed, "%s is out of date: go test ./apps/balancer -run BalancingDocument -rewrite", path)
}
