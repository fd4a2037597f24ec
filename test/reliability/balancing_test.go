package reliability

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
)

// movedOf counts the connections of before that have another member now, without
// those of members that are gone.
func movedOf(before, now []string, gone ...string) (moved int) {
	for i := range before {
		if before[i] != now[i] && !slices.Contains(gone, before[i]) {
			moved++
		}
	}
	return moved
}

func hosts(from, to int) (names []string) {
	for i := from; i <= to; i++ {
		names = append(names, fmt.Sprintf("h%d", i))
	}
	return names
}

// TestL01OneMemberLess takes each of eight members out of service, by removing it, by
// draining it and by weight 0: no connection of the others moves.
func TestL01OneMemberLess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 9, options{}, simswitch.Options{})
		all := hosts(2, 9)
		rec := r.install(r.vip(1, all...))
		n := scale(400, 2000)
		before := r.picks(n, rec)
		for i, gone := range all {
			doc := r.vip(1, all...)
			members := doc.Listeners[0].Pool.Members
			switch i % 3 {
			case 0:
				doc.Listeners[0].Pool.Members = slices.Delete(members, i, i+1)
			case 1:
				members[i].AdminState = balancer.AdminDrain
			case 2:
				members[i].Weight = 0
			}
			rec = r.install(doc)
			now := r.picks(n, rec)
			require.Zero(t, movedOf(before, now, gone), "without %s", gone)
			require.NotContains(t, now, "")
			rec = r.install(r.vip(1, all...))
			before = r.picks(n, rec)
			require.LessOrEqual(t, movedOf(now, before), n/8+n/20, "what moves to a member that is there again")
		}
	})
}

// TestL02OneMemberMore adds a member, doubles a weight, and lets a canary take five in
// a hundred: only what has to move does.
func TestL02OneMemberMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 10, options{}, simswitch.Options{})
		n := scale(1000, 4000)
		weighted := func(weights map[string]int, names ...string) balancer.VIP {
			doc := r.vip(1, names...)
			for i, name := range names {
				doc.Listeners[0].Pool.Members[i].Weight = 1
				if w, ok := weights[name]; ok {
					doc.Listeners[0].Pool.Members[i].Weight = w
				}
			}
			return doc
		}
		for _, c := range []struct {
			what  string
			from  balancer.VIP
			to    balancer.VIP
			ideal float64
		}{
			{"a fifth member", weighted(nil, hosts(2, 5)...), weighted(nil, hosts(2, 6)...), 1.0 / 5},
			{"a ninth member", weighted(nil, hosts(2, 9)...), weighted(nil, hosts(2, 10)...), 1.0 / 9},
			{"a weight doubled", weighted(nil, hosts(2, 5)...), weighted(map[string]int{"h3": 2}, hosts(2, 5)...), 2.0/5 - 1.0/4},
			{"a canary of 5 %", weighted(map[string]int{"h2": 19, "h3": 0}, "h2", "h3"), weighted(map[string]int{"h2": 19, "h3": 1}, "h2", "h3"), 1.0 / 20},
		} {
			rec := r.install(c.from)
			before := r.picks(n, rec)
			rec = r.install(c.to)
			moved := float64(movedOf(before, r.picks(n, rec))) / float64(n)
			t.Logf("%s: %.1f %% moved, ideal %.1f %%", c.what, 100*moved, 100*c.ideal)
			// 2 points, and what a sample of that size may be off by: three standard deviations.
			require.LessOrEqual(t, moved, c.ideal+0.02+3*math.Sqrt(c.ideal*(1-c.ideal)/float64(n)), c.what)
			require.NoError(t, r.intents.Delete(t.Context(), vipName(1), balancer.Condition{}))
		}
	})
}

// TestL05AllMembersDown takes all members down, and gives one back.
func TestL05AllMembersDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 4, options{}, simswitch.Options{})
		rec := r.install(r.vip(1, "h2", "h3", "h4"))
		require.NotEmpty(t, r.serves("h1", 1000, rec))
		for p := ofproto.Port(2); p <= 4; p++ {
			r.Switch(1).SetPort(p, false)
		}
		quiet := func() {
			for i := range 50 {
				r.Forget()
				r.Send("h1", r.request("h1", uint16(2000+i), rec))
				for _, h := range r.Hosts() {
					for _, f := range r.Seen(h) {
						require.NotEqual(t, uint16(2000+i), simswitch.Headers(f).Src.Port(), "%s got what is for nobody", h)
					}
				}
			}
		}
		quiet() // at once, by the switch alone
		time.Sleep(10 * time.Second)
		quiet()
		r.Switch(1).SetPort(3, true)
		d := took(t, 5*time.Second, "one serves again", func() bool { return r.serves("h1", 3000, rec) == "h3" })
		t.Logf("served %v after the port came up", d)
		// A port counts after a second, when it is known that no switch is behind it.
		require.LessOrEqual(t, d, 1100*time.Millisecond)
		for i := range 50 {
			require.Equal(t, "h3", r.serves("h1", uint16(4000+i), rec))
		}
	})
}

// TestL10Distribution counts flows of many VIPs over members of mixed weights: by slot
// they are spread as chance has it, and each member has the slots that its weight is worth.
func TestL10Distribution(t *testing.T) {
	bubble(t, func(t *testing.T) {
		random, _ := seeded(t)
		r := single(t, 33, options{}, simswitch.Options{})
		vips := scale(4, 100)
		worst := 0.0
		for i := range vips {
			n := 2000
			if i == 0 {
				n = 20_000
			}
			doc := r.vip(i, hosts(2, 33)...)
			sum := 0
			for m := range doc.Listeners[0].Pool.Members {
				w := 1 // the first VIP has equal weights
				if i > 0 {
					w = 1 + random.IntN(100)
				}
				doc.Listeners[0].Pool.Members[m].Weight = w
				sum += w
			}
			rec := r.install(doc)
			slots := map[uint16]int{}
			size := len(rec.Listeners[0].Slots.Home)
			for _, o := range rec.Listeners[0].Slots.Home {
				slots[o]++
			}
			count := map[string]int{}
			for _, who := range r.picks(n, rec) {
				count[who]++
			}
			chi2, most := 0.0, 0.0
			for m, member := range rec.VIP.Listeners[0].Pool.Members {
				index := rec.Listeners[0].Members[m].Index
				ideal := float64(size) * float64(member.Weight) / float64(sum)
				require.LessOrEqual(t, math.Abs(float64(slots[index])-ideal), 1.0, "slots of weight %d of %d", member.Weight, sum)
				expected := float64(n) * float64(slots[index]) / float64(size)
				got := float64(count[fmt.Sprintf("h%d", m+2)])
				if expected == 0 {
					require.Zero(t, got)
					continue
				}
				chi2 += (got - expected) * (got - expected) / expected
				most = max(most, got/expected)
			}
			worst = max(worst, chi2)
			if i == 0 {
				t.Logf("32 equal members, %d flows: busiest %.3f of the mean, chi² %.1f with 31 degrees of freedom", n, most, chi2)
				// What an ideal hash gives: 1.08, and over 1.14 once in a hundred. (With 2,000 flows
				// 1.26, and never in 400 trials 1.10: see docs/reliability.md.)
				require.LessOrEqual(t, most, 1.16)
			}
			// The 99.99th percentile for 31 degrees of freedom: one of a hundred VIPs may
			// well be over the 99th, which is 52.2.
			require.LessOrEqual(t, chi2, 70.0, "VIP %d", i)
			require.NoError(t, r.intents.Delete(t.Context(), vipName(i), balancer.Condition{}))
		}
		t.Logf("%d VIPs of 32 members, 2,000 flows each but the first: largest chi² %.1f with 31 degrees of freedom or fewer", vips, worst)
	})
}

// TestL11MemberOnAnotherSwitch has client and member on different switches of a ring,
// and cuts links under them: the addresses are right both ways.
func TestL11MemberOnAnotherSwitch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := ring(t, options{})
		rec := r.install(r.vip(1, "h3"))
		time.Sleep(2 * time.Second)
		wrong, answered := 0, 0
		ask := func(sport uint16) bool {
			r.Forget()
			r.Send("h1", r.request("h1", sport, rec))
			var got []byte
			for _, f := range r.Seen("h3") {
				if simswitch.Headers(f).Dst == netip.AddrPortFrom(r.Host("h3").IP, memberPort+1) {
					got = f
				}
			}
			if got == nil {
				return false
			}
			d, err := packet.Decode(got)
			require.NoError(t, err)
			ip, _ := d.IPv4()
			require.Equal(t, uint8(64), ip.TTL, "switches do not route")
			require.True(t, d.ChecksumsOK())
			in := simswitch.Headers(got)
			back := packet.Flow{SrcMAC: r.Host("h3").MAC, DstMAC: in.SrcMAC, Src: in.Dst, Dst: in.Src}
			r.Forget()
			r.Send("h3", packet.AppendTCPFrame(nil, back, packet.TCP{Flags: packet.TCPSyn | packet.TCPAck}, nil))
			for _, f := range r.Seen("h1") {
				h := simswitch.Headers(f)
				if h.Dst != r.Host("h1").AddrPort(sport) {
					continue
				}
				if h.Src != netip.AddrPortFrom(rec.VIP.Address, vipPort) {
					wrong++
				}
				answered++
				return true
			}
			return false
		}
		require.True(t, ask(1000))
		for d := ofproto.DPID(1); d <= 4; d++ {
			at := simswitch.Place{DPID: d, Port: 10}
			r.SetLink(at, false)
			eventually(t, time.Second, fmt.Sprintf("served with the link at %v cut", at), func() bool { return ask(uint16(1000 + d)) })
			r.SetLink(at, true)
			time.Sleep(5 * time.Second)
			require.True(t, ask(uint16(2000+d)))
		}
		require.Zero(t, wrong, "replies from another address than the VIP's")
		require.False(t, r.Stormed())
		t.Logf("%d replies, all from the VIP, over 4 cuts", answered)
	})
}

// TestL12ARPFlood has a host ask for the VIP 20,000 times a second from 10,000
// addresses: the switch answers, and others are served.
func TestL12ARPFlood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 5, options{}, simswitch.Options{})
		rec := r.install(r.vip(1, "h3", "h4", "h5"))
		mods := r.mods()
		served, asked, answered := 0, 0, 0
		for i := range scale(20000, 200000) {
			mac := packet.MAC{6, 1, byte(i >> 16 & 0xff), byte(i % 10000 >> 8), byte(i % 10000), 2}
			ip := netip.AddrFrom4([4]byte{10, 9, byte(i % 10000 >> 8), byte(i % 10000)})
			r.Forget()
			r.Send("h2", packet.AppendARPRequest(nil, mac, ip, rec.VIP.Address))
			for _, f := range r.Seen("h2") {
				if d, err := packet.Decode(f); err == nil {
					if arp, ok := d.ARP(); ok && arp.Op == packet.ARPReply && arp.SPA == rec.VIP.Address {
						answered++
					}
				}
			}
			if i%20 == 0 {
				time.Sleep(time.Millisecond)
			}
			if i%100 == 0 {
				asked++
				if r.serves("h1", uint16(1000+i/100), rec) != "" {
					served++
				}
			}
		}
		time.Sleep(2 * time.Second)
		t.Logf("%d requests, %d answered by the switch; %d of %d connections served; %d mods", scale(20000, 200000), answered, served, asked, r.mods()-mods)
		require.Equal(t, scale(20000, 200000), answered)
		require.Equal(t, asked, served)
	})
}

// TestL13IdleAndFewPorts asks for UDP: few source ports, and an hour without a packet.
func TestL13IdleAndFewPorts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := single(t, 6, options{}, simswitch.Options{})
		doc := r.vip(1, hosts(2, 6)...)
		doc.Listeners[0].Protocol, doc.Listeners[0].Port = balancer.UDP, 53
		rec := r.install(doc)
		pick := func(sport uint16) (who string) {
			h := r.Host("h1")
			r.Forget()
			r.Send("h1", packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: h.MAC, DstMAC: rec.VIP.MAC, Src: h.AddrPort(sport), Dst: netip.AddrPortFrom(rec.VIP.Address, 53)}, []byte("?")))
			for _, m := range hosts(2, 6) {
				for _, f := range r.Seen(m) {
					if simswitch.Headers(f).Dst.Addr() == r.Host(m).IP {
						require.Empty(t, who)
						who = m
					}
				}
			}
			return who
		}
		var before []string
		for i := range 32 {
			before = append(before, pick(uint16(5353+2*i)))
		}
		ofVIPs := func() (n int) {
			for _, f := range r.Switch(1).Flows() {
				if f.Table == controller.TableVIP {
					n++
				}
			}
			return n
		}
		flows := ofVIPs()
		for range 3 {
			time.Sleep(time.Hour)
			for i, was := range before {
				require.Equal(t, was, pick(uint16(5353+2*i)))
			}
		}
		require.LessOrEqual(t, ofVIPs(), flows+8, "no state of single flows")
		require.NotContains(t, before, "")
	})
}

// TestL14VIPDeletedUnderConnections deletes a VIP with 200 connections: nothing of
// them leaks to anybody, and no group goes before the flows that refer to it.
func TestL14VIPDeletedUnderConnections(t *testing.T) {
	for _, noBundles := range []bool{false, true} {
		t.Run(fmt.Sprintf("NoBundles=%v", noBundles), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var mu sync.Mutex
				var order []string
				note := func(m ofproto.Message) {
					if add, ok := m.(*ofproto.BundleAdd); ok {
						m = add.Message
					}
					mu.Lock()
					defer mu.Unlock()
					switch m := m.(type) {
					case *ofproto.FlowMod:
						if m.Command == ofproto.FlowDelete || m.Command == ofproto.FlowDeleteStrict {
							order = append(order, "flow")
						}
					case *ofproto.GroupMod:
						if m.Command == ofproto.GroupDelete {
							order = append(order, "group")
						}
					}
				}
				r := single(t, 4, options{}, simswitch.Options{NoBundles: noBundles, Received: func(_ ofproto.Header, m ofproto.Message) { note(m) }})
				other := r.install(r.vip(2, "h2", "h3"))
				rec := r.install(r.vip(1, "h2", "h3", "h4"))
				require.NotContains(t, r.picks(200, rec), "")
				mu.Lock()
				order = nil
				mu.Unlock()
				require.NoError(t, r.intents.Delete(t.Context(), vipName(1), balancer.Condition{}))
				r.ready(1)
				for i := range 200 {
					r.Forget()
					r.Send("h1", r.request("h1", uint16(20000+i), rec))
					for _, h := range []string{"h2", "h3", "h4"} {
						// To the MAC of a VIP that is no more it is flooded like any other unknown one; no
						// station takes it.
						require.Empty(t, r.Received(h), "%s is still served", h)
					}
				}
				require.NotEmpty(t, r.serves("h1", 1, other))
				mu.Lock()
				defer mu.Unlock()
				require.Contains(t, order, "group")
				last := slices.Index(order, "group")
				require.NotContains(t, order[last:], "flow", "a flow goes after a group: %v", order)
				r.noFaults()
			})
		})
	}
}
