package reliability

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/faultproxy"
	"github.com/fairlead/fairlead/test/ovstest"
)

// bridge is an Open vSwitch of the test's own, with the dummy datapath, connected to
// a rig through a proxy.
type bridge struct {
	*rig
	*ovstest.OVS
	proxy *faultproxy.Proxy
	taps  *counts
}

const ovsDPID ofproto.DPID = 0xa1

func openVSwitch(t *testing.T, ports int) *bridge {
	t.Helper()
	r := start(t, options{tcp: true})
	b := &bridge{rig: r, OVS: ovstest.Start(t), taps: &counts{}}
	b.proxy = faultproxy.New(func(context.Context) (net.Conn, error) { return r.door.dial() }, faultproxy.Options{Tap: b.taps.tap})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = b.proxy.Run(ctx, ln) })
	t.Cleanup(func() { cancel(); running.Wait() })
	names := []string{}
	for i := range ports {
		names = append(names, fmt.Sprintf("p%d", i+1))
	}
	b.AddBridge(ovstest.Bridge{Name: "s1", DPID: uint64(ovsDPID), Controllers: []string{"tcp:" + ln.Addr().String()}, Ports: names})
	b.ready(ovsDPID)
	time.Sleep(1500 * time.Millisecond) // the ports settle
	for i := 1; i <= ports; i++ {
		mac, ip := ovsHost(i)
		b.Inject(fmt.Sprintf("p%d", i), packet.AppendARPRequest(nil, mac, ip, ip))
	}
	b.OVS.Eventually("all hosts are known", func() bool { return len(r.snapshot().Hosts()) >= ports })
	b.ready(ovsDPID)
	return b
}

func ovsHost(i int) (mac packet.MAC, ip netip.Addr) {
	return packet.MAC{2, 0, 0, 0, 0xa1, byte(i)}, netip.AddrFrom4([4]byte{10, 0, 0xa1, byte(i)})
}

// document is a VIP over the hosts of a bridge.
func (b *bridge) document(i int, members ...int) balancer.VIP {
	v := b.vip(i)
	for _, m := range members {
		_, ip := ovsHost(m)
		v.Listeners[0].Pool.Members = append(v.Listeners[0].Pool.Members, balancer.Member{Address: ip, Port: uint16(memberPort + i), Weight: 1, AdminState: balancer.AdminUp})
	}
	return v
}

// serves sends a request from host 1 and returns the port that it left by, 0 for none.
func (b *bridge) serves(sport uint16, rec balancer.Record, ports int) int {
	mac, ip := ovsHost(1)
	f := packet.Flow{SrcMAC: mac, DstMAC: rec.VIP.MAC, Src: netip.AddrPortFrom(ip, sport), Dst: netip.AddrPortFrom(rec.VIP.Address, vipPort)}
	for i := 1; i <= ports; i++ {
		b.Forget(fmt.Sprintf("p%d", i))
	}
	b.Inject("p1", packet.AppendTCPFrame(nil, f, packet.TCP{Flags: packet.TCPSyn}, nil))
	for i := 1; i <= ports; i++ {
		for _, got := range b.Sent(fmt.Sprintf("p%d", i)) {
			if d, err := packet.Decode(got); err == nil && d.Proto() == packet.ProtoTCP {
				return i
			}
		}
	}
	return 0
}

// TestC08OnOpenVSwitch has a stranger announce the datapath id of a live Open vSwitch.
func TestC08OnOpenVSwitch(t *testing.T) {
	b := openVSwitch(t, 3)
	rec := b.install(b.document(1, 2, 3))
	since, mods := b.since(ovsDPID), len(b.proxy.Log())
	for i := range scale(20, 600) {
		p := b.peer()
		p.play(hosted(ovsDPID))
		eventually(t, 5*time.Second, "turned away", p.over)
		require.Zero(t, p.mods())
		require.NotZero(t, b.serves(uint16(1000+i), rec, 3))
	}
	require.Equal(t, since, b.since(ovsDPID))
	require.Len(t, b.proxy.Log(), mods, "mods")
	require.Len(t, b.logs.with("duplicate datapath id"), 1)
}

// TestC10EchoDuringReadBack reads 20,000 flows back again and again, and asks for
// echoes meanwhile.
func TestC10EchoDuringReadBack(t *testing.T) {
	b := openVSwitch(t, 3)
	flows := make([]string, scale(20000, 100000))
	for i := range flows {
		flows[i] = fmt.Sprintf("table=9,priority=%d,metadata=%d,actions=drop", i%1000, i)
	}
	for _, f := range flows { // there is no form that all can be written in
		b.Ofctl("add-flow", b.Target("s1"), f)
	}
	since := b.since(ovsDPID)
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	reads := 0
	reading.Go(func() {
		for ctx.Err() == nil {
			n := 0
			if b.core.Flows(ctx, ovsDPID, func(ofproto.FlowStats) { n++ }) == nil && n >= len(flows) {
				reads++
			}
		}
	})
	var rtts []time.Duration
	for range scale(60, 600) {
		rtts = append(rtts, echo(t, b.proxy))
		time.Sleep(20 * time.Millisecond)
	}
	cancel()
	reading.Wait()
	slices.Sort(rtts)
	t.Logf("%d flows read %d times: echo median %v, p99 %v, max %v", len(flows), reads, rtts[len(rtts)/2], rtts[len(rtts)*99/100], rtts[len(rtts)-1])
	require.NotZero(t, reads)
	require.Less(t, rtts[len(rtts)*99/100], time.Second)
	require.Less(t, rtts[len(rtts)-1], 4*time.Second)
	require.Equal(t, since, b.since(ovsDPID), "disconnected")
}

// TestS03OnOpenVSwitch replaces the group of a VIP in use.
func TestS03OnOpenVSwitch(t *testing.T) {
	random, _ := seeded(t)
	b := openVSwitch(t, 6)
	rec := b.install(b.document(1, 2, 3))
	members := []int{2, 3, 4, 5, 6}
	n, lost := scale(60, 1000), 0
	for i := range n {
		random.Shuffle(5, func(i, j int) { members[i], members[j] = members[j], members[i] })
		b.put(b.document(1, members[:1+random.IntN(5)]...))
		if b.serves(uint16(1000+i), rec, 6) == 0 {
			lost++
		}
	}
	b.ready(ovsDPID)
	t.Logf("%d replacements: %d of %d packets lost, %d flows cascaded", n, lost, n, b.taps.of("cascaded"))
	require.Zero(t, lost)
	require.Zero(t, b.taps.of("cascaded"))
}

// TestS08OnOpenVSwitch changes an Open vSwitch behind the controller's back.
func TestS08OnOpenVSwitch(t *testing.T) {
	b := openVSwitch(t, 4)
	rec := b.install(b.document(1, 2, 3, 4))
	require.NotZero(t, b.serves(1000, rec, 4))
	dump := func() []string { return slices.Sorted(slices.Values(b.DumpFlows("s1"))) }
	whole := dump()
	groups := len(b.DumpGroups("s1"))
	repaired := func() bool { return slices.Equal(whole, dump()) && len(b.DumpGroups("s1")) == groups }
	for _, c := range [][]string{
		{"del-flows", b.Target("s1"), "table=2,tcp,nw_dst=" + vipAddr(1).String()},
		{"del-flows", b.Target("s1")},
		{"del-groups", b.Target("s1")},
	} {
		b.Ofctl(c...)
		d := took(t, 20*time.Second, "repaired after "+strings.Join(c, " "), repaired)
		t.Logf("%s: repaired after %v", strings.Join(append(c[:1:1], c[2:]...), " "), d.Round(time.Millisecond))
		require.LessOrEqual(t, d, 3*time.Second)
		require.NotZero(t, b.serves(1001, rec, 4))
	}
}

// TestS07OnOpenVSwitch has an operator use what Open vSwitch has and OpenFlow 1.3 does not
// know: such entries and groups void no read-back, can be shown, and stay.
func TestS07OnOpenVSwitch(t *testing.T) {
	b := openVSwitch(t, 2)
	rec := b.install(b.document(1, 2))
	b.Ofctl("add-tlv-map", b.Target("s1"), "{class=0xffff,type=0,len=4}->tun_metadata0")
	b.AddGroup("s1",
		"group_id=1,type=indirect,bucket=actions=learn(table=200,priority=1,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[]),output:1",
		"group_id=2,type=ff,bucket=watch_port:1,actions=push_vlan:0x8100,set_field:4100->vlan_vid,output:2",
		"group_id=3,type=all,bucket=actions=ct(commit,zone=5,nat(src=10.9.9.1-10.9.9.9:1000-2000)),bucket=actions=controller(userdata=01.02.03,pause)",
		"group_id=4,type=select,bucket=weight:65535,actions=push_mpls:0x8847,set_field:7->mpls_label,dec_mpls_ttl,output:1",
	)
	flows := []string{}
	for i, f := range []string{
		"tun_metadata0=0x12345678/0xff00ffff actions=drop", "tun_id=0x5/0xff,tun_src=10.0.0.0/8 actions=set_field:9->tun_id,output:1",
		"ip,ct_state=+trk-new,ct_mark=1/3,ct_label=0x1/0xff actions=ct(table=201,zone=NXM_NX_REG0[0..15],commit,exec(set_field:0x1->ct_label))",
		"tcp,tp_src=0x10/0xfff0,tcp_flags=+syn-ack actions=conjunction(7,1/2)", "conj_id=7,ip actions=multipath(eth_src,50,modulo_n,4,0,NXM_NX_REG0[])",
		"reg0=1/3,reg15=2,xreg3=4,xxreg1=0x5,metadata=6/6,pkt_mark=7 actions=load:1->NXM_NX_REG1[3..5],move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],push:NXM_NX_REG0[],pop:NXM_NX_REG2[]",
		"ipv6,ipv6_label=5/7,nw_ecn=1,nw_ttl=3 actions=dec_ttl(1,2),write_metadata:0x1/0x3,goto_table:222",
		"arp,arp_op=2,arp_sha=02:00:00:00:00:00/ff:00:00:00:00:00 actions=bundle(symmetric_l4,60,hrw,ofport,members:1,2)",
		"icmp6,icmp_type=135,nd_target=2001:db8::/32,nd_options_type=1 actions=set_field:2->nd_options_type,in_port",
		"dl_type=0x894f,nsh_spi=1,nsh_c1=5 actions=decap(),resubmit(,203)", "ip actions=encap(nsh(md_type=1)),set_field:1->nsh_spi,encap(ethernet),output:1",
		"dl_vlan=5,dl_vlan_pcp=2 actions=strip_vlan,clone(set_field:1->reg3,output:1),ct_clear,check_pkt_larger(1500)->NXM_NX_REG0[0]",
		"dl_type=0x8847,mpls_label=5,mpls_bos=1 actions=pop_mpls:0x0800,note:01.02.03.04.05,sample(probability=1,collector_set_id=1,obs_domain_id=1,obs_point_id=1)",
		"sctp,sctp_dst=7 actions=enqueue:1:3,set_queue:2,pop_queue,exit", "in_port=LOCAL actions=clear_actions,write_actions(group:1)",
		"tcp,nw_dst=10.1.2.3/255.0.255.0,ip_frag=no actions=fin_timeout(idle_timeout=5),output:NXM_NX_REG0[1..16]",
	} {
		flows = append(flows, fmt.Sprintf("table=%d,cookie=0x%x,priority=%d,hard_timeout=%d,%s", 199+i, uint64(0xffff000000000000)+uint64(i), 65535-i, 600*(i%2), f))
	}
	for _, f := range flows { // there is no form that all can be written in
		b.Ofctl("add-flow", b.Target("s1"), f)
	}
	foreign := func() (all []string) {
		for i := range flows {
			all = append(all, b.DumpFlows("s1", fmt.Sprintf("table=%d", 199+i))...)
		}
		return append(all, b.DumpGroups("s1")[:4]...)
	}
	before := foreign()
	since := b.since(ovsDPID)
	b.proxy.Cut()
	eventually(t, 20*time.Second, "back", func() bool { return b.connected(ovsDPID) && b.since(ovsDPID) != since })
	b.ready(ovsDPID)
	sw, _ := b.known(ovsDPID)
	require.Equal(t, len(flows), sw.Foreign)
	require.Empty(t, sw.Faults)
	_, err := b.core.Installed(t.Context(), ovsDPID)
	require.NoError(t, err)
	require.NoError(t, b.core.GroupStats(t.Context(), ovsDPID, func(ofproto.GroupStats) {}))
	require.Equal(t, before, foreign())
	require.NotZero(t, b.serves(1000, rec, 2))
}
