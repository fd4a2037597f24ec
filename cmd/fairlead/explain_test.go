package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/trace"
)

// fakeExplainer explains two connections.
type fakeExplainer struct{}

func at[T any](v T) *T { return &v }

func (fakeExplainer) Explain(_ context.Context, q balancer.Query) (balancer.Explanation, error) {
	in := balancer.PacketView{EthSrc: "02:00:00:00:00:01", EthDst: "02:46:4c:00:01:00", Src: q.From, Dst: q.To}
	out := balancer.PacketView{EthSrc: "02:00:00:00:00:01", EthDst: "02:00:00:00:00:02", Src: q.From, Dst: netip.MustParseAddrPort("10.0.0.2:8080")}
	e := balancer.Explanation{
		Protocol: q.Protocol, From: q.From, To: q.To, At: "0000000000000001/1", VIP: "web", Listener: "tcp:80",
		Slot: at(5), Slots: 32, Member: "10.0.0.2:8080", Result: trace.Delivered,
		Reasons: []string{"switch 0000000000000001: slot 5 of 32, by the hash of addresses, protocol and ports", "slot 5 is 10.0.0.2:8080's own\x1b[2J"},
		Path: []balancer.HopView{{
			DPID: "0000000000000001", InPort: "1", Packet: in, Group: 1174405121, Slot: at(5), Slots: 32, Member: "10.0.0.2:8080", OutPort: "2",
			Steps: []balancer.StepView{
				{Table: at(uint8(0)), Name: "ingress", Priority: 1, Cookie: "0xfa1d120000000001", Owner: "forwarding", Part: "base", Actions: []string{"goto_table:2"}},
				{Table: at(uint8(2)), Name: "vip", Priority: 300, Match: map[string]string{"tcp_dst": "80", "eth_type": "0x0800"}, Cookie: "0xfa1d130000000002", Owner: "balancer", Part: "vip/web", Actions: []string{"apply_actions(group:1174405121)"}},
				{Group: 1174405121, Type: "select", Bucket: at(5), Buckets: 32, Owner: "balancer", Part: "vip/web", Actions: []string{"group:1174405122"}},
				{Depth: 1, Group: 1174405122, Type: "ff", Bucket: at(0), Buckets: 1, Owner: "balancer", Part: "vip/web", Actions: []string{"set_field:02:00:00:00:00:02->eth_dst", "output:2"}},
			},
			Outputs: []balancer.OutputView{
				{To: trace.ToController, Packet: in}, {To: trace.ToSelf, Packet: in},
				{To: trace.ToPort, Port: "2", Packet: out, Next: at(1)},
			},
		}, {
			DPID: "0000000000000002", InPort: "3", After: at(0), Packet: out, OutPort: "1",
			Steps:   []balancer.StepView{{Table: at(uint8(0)), Name: "ingress", Actions: []string{}, Note: "no entry matches"}},
			Outputs: []balancer.OutputView{{To: trace.ToNormal, Port: "1", Packet: out, Note: "the switch's own forwarding: 02:00:00:00:00:02 is at this port"}},
		}},
		Reply: &balancer.ReplyView{
			From: netip.MustParseAddrPort("10.0.0.2:8080"), To: q.From, At: "0000000000000002/1", Result: trace.Delivered, Path: []balancer.HopView{},
			Arrives: &balancer.PacketView{Src: q.To, Dst: q.From},
		},
		Installed: balancer.InstalledSame, Differences: []balancer.DifferenceView{},
	}
	if q.From.Port() == 2 {
		e.Slot, e.Member, e.Reply, e.Path, e.Result = nil, "", nil, e.Path[:1], trace.Undetermined
		e.Candidates = []balancer.CandidateView{{Member: "10.0.0.2:8080", Slots: []int{0, 2}}, {Member: "10.0.0.3:8080", Slots: []int{1}}}
		e.Installed, e.InstalledResult, e.InstalledPath = balancer.InstalledDifferent, trace.Dropped, e.Path
		e.Differences = []balancer.DifferenceView{
			{DPID: "0000000000000001", Change: trace.Altered, Group: 1174405122, Owner: "balancer", Part: "vip/web", Desired: []string{"output:2"}, Installed: []string{"drop"}},
			{DPID: "0000000000000001", Change: trace.Extra, Table: at(uint8(2)), Priority: 60000, Desired: []string{}, Installed: []string{"drop"}},
		}
	}
	return e, nil
}

// rewrite replaces the golden files by what is printed now; look at the difference.
var rewrite = flag.Bool("rewrite", false, "rewrite the golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestExplainCommand(t *testing.T) {
	r := newRig(t)
	line := "explain --protocol tcp --from 10.0.0.1:%d --to 10.0.0.100:80"
	golden(t, "explain.txt", r.done(fmt.Sprintf(line, 1)))
	golden(t, "explain-different.txt", r.done(fmt.Sprintf(line, 2)))
	var e balancer.Explanation
	require.NoError(t, json.Unmarshal([]byte(r.done(fmt.Sprintf(line, 1)+" --at 1/1 -o json")), &e))
	require.Equal(t, "10.0.0.2:8080", e.Member)
	require.Contains(t, r.done(fmt.Sprintf(line, 1)+" -o yaml"), "member: 10.0.0.2:8080\n")

	require.Contains(t, r.fails(exitUsage, "explain --to 10.0.0.1:1"), "--from and --to")
	require.Contains(t, r.fails(exitUsage, "explain --from 10.0.0.1 --to 10.0.0.1:1"), "from: ")
	require.Contains(t, r.fails(exitUsage, fmt.Sprintf(line, 1)+" --at 1"), "at: ")
}
