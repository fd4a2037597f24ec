package reliability

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/topology"
)

// balanced is a ring with a VIP of h2 and h3, that h1 uses and h4 attacks.
func balanced(t *testing.T) (*rig, balancer.Record) {
	r := ring(t, options{})
	time.Sleep(5 * time.Second)
	for _, h := range r.Hosts() {
		r.Announce(h)
	}
	rec := r.install(r.vip(1, "h2", "h3"))
	time.Sleep(5 * time.Second)
	return r, rec
}

// stolen returns how many frames for a host have left by the port of h4.
func (r *rig) stolen(victim string) func() int {
	mac, at := r.Host(victim).MAC, r.Host("h4").At
	var n atomic.Int64
	r.SetTap(func(from simswitch.Place, frame []byte) {
		if from == at && packet.MAC(frame[:6]) == mac && packet.MAC(frame[6:12]) != packet.MAC(controller.ProbeMAC) { // no question of the controller's

			n.Add(1)
		}
	})
	return func() int { return int(n.Load()) }
}

// at says where a host is known to be.
func (r *rig) at(name string) simswitch.Place {
	h, ok := r.snapshot().Host(topology.MAC(r.Host(name).MAC), 0)
	require.True(r.t, ok, name)
	return place(h.Place)
}

func place(p topology.Place) simswitch.Place {
	return simswitch.Place{DPID: ofproto.DPID(p.DPID), Port: ofproto.Port(p.Port)}
}

// events counts the notices of a kind of event about hosts.
func events(notices <-chan controller.Notice, event string) (n int) {
	for {
		select {
		case one := <-notices:
			if data, ok := one.Data.(map[string]any); ok && one.Kind == "host" && data["event"] == event {
				n++
			}
		default:
			return n
		}
	}
}

// TestT04HijackOfAHost claims, from the port of h4, to be a member, to have a member's
// address, and to be a host that is no member: nothing goes to h4, and watchers are told.
func TestT04HijackOfAHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, rec := balanced(t)
		notices, cancel := r.core.Subscribe(4096)
		defer cancel()
		for _, victim := range []string{"h2", "h1"} {
			v, own := r.Host(victim), r.Host("h4")
			home, stolen := r.at(victim), r.stolen(victim)
			for _, claim := range [][]byte{
				packet.AppendARPRequest(nil, v.MAC, v.IP, v.IP),                     // it announces itself
				packet.AppendARPRequest(nil, v.MAC, v.IP, own.IP),                   // it asks
				packet.AppendARPReply(nil, v.MAC, v.IP, own.MAC, own.IP),            // it answers
				packet.AppendARPRequest(nil, own.MAC, v.IP, v.IP),                   // its address is that of h4
				packet.AppendARPReply(nil, own.MAC, v.IP, r.Host("h1").MAC, own.IP), // likewise
			} {
				lost := 0
				for i := range 300 {
					r.Send("h4", claim)
					if !r.reaches("h3", victim) {
						lost++
					}
					if r.serves("h1", uint16(2000+i), rec) == "" {
						lost++
					}
					time.Sleep(10 * time.Millisecond)
				}
				require.Zero(t, stolen(), victim)
				require.Zero(t, lost, "%s %v", victim, claim)
				require.Equal(t, home, r.at(victim))
				owner, ok := r.snapshot().HostByIP(0, v.IP)
				require.True(t, ok)
				require.Equal(t, topology.MAC(v.MAC), owner.MAC, "the address is still its own")
			}
		}
		require.GreaterOrEqual(t, events(notices, "claim refused"), 4)

		// What a member would send goes nowhere from another port.
		v := r.Host("h2")
		r.Forget()
		r.Send("h4", packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: v.MAC, DstMAC: r.Host("h1").MAC, Src: v.AddrPort(8080), Dst: r.Host("h1").AddrPort(1)}, nil))
		require.Empty(t, r.Received("h1"))
		r.noFaults()
	})
}

// TestT05PortProbing claims hosts the moment that their ports go down: a member that comes
// back half a second later at the latest is where it was; of others watchers are told. Who really
// moves is followed within a second, with the old port up or down.
func TestT05PortProbing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, rec := balanced(t)
		notices, cancel := r.core.Subscribe(4096)
		defer cancel()
		v := r.Host("h2")
		home, stolen := v.At, r.stolen("h2")
		for range 20 {
			r.Switch(home.DPID).SetPort(home.Port, false)
			for range 40 {
				r.Send("h4", packet.AppendARPRequest(nil, v.MAC, v.IP, v.IP))
				r.Send("h4", packet.AppendARPReply(nil, v.MAC, v.IP, packet.MAC(controller.ProbeMAC), v.IP))
				r.serves("h1", 3000, rec)
				time.Sleep(10 * time.Millisecond)
			}
			r.Switch(home.DPID).SetPort(home.Port, true)
			for range 200 {
				r.Send("h4", packet.AppendARPRequest(nil, v.MAC, v.IP, v.IP))
				r.serves("h1", 3000, rec)
				time.Sleep(10 * time.Millisecond)
			}
			require.Zero(t, stolen())
			require.Equal(t, home, r.at("h2"))
		}
		require.True(t, r.reaches("h1", "h2"))

		victim := r.Host("h1")
		events(notices, "")
		r.Switch(victim.At.DPID).SetPort(victim.At.Port, false)
		time.Sleep(time.Millisecond)
		r.Send("h4", packet.AppendARPRequest(nil, victim.MAC, victim.IP, victim.IP))
		time.Sleep(time.Millisecond)
		require.Equal(t, 1, events(notices, "elsewhere"))
		r.Switch(victim.At.DPID).SetPort(victim.At.Port, true)
		time.Sleep(2 * time.Second)

		for i, name := range []string{"h2", "h3", "h2", "h3"} {
			from, to := r.Host(name).At, simswitch.Place{DPID: r.Host(name).At.DPID%4 + 1, Port: ofproto.Port(40 + i)}
			r.Move(name, to)
			time.Sleep(1100 * time.Millisecond) // until a port that came up is used
			if i < 2 {
				r.Switch(from.DPID).SetPort(from.Port, false)
			}
			r.Announce(name)
			d := took(t, time.Second, "a member has moved", func() bool { return r.at(name) == to })
			t.Logf("a member is followed after %v", d)
		}
	})
}

// TestT06SpoofOfAVIP says from h4 that a VIP were there, in the ways of ARP, and sends with
// the VIP's MAC: nobody hears of it.
func TestT06SpoofOfAVIP(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, rec := balanced(t)
		vip, mac := rec.VIP.Address, packet.MAC(rec.VIP.MAC)
		own, client := r.Host("h4"), r.Host("h1")
		r.Forget()
		for range 100 {
			r.Send("h4", packet.AppendARPReply(nil, own.MAC, vip, client.MAC, client.IP))
			r.Send("h4", packet.AppendARPRequest(nil, own.MAC, vip, vip))
			r.Send("h4", packet.AppendARPRequest(nil, own.MAC, vip, client.IP))
			r.Send("h4", packet.AppendARPReply(nil, mac, vip, client.MAC, client.IP))
			r.Send("h4", packet.AppendUDPFrame(nil, packet.Flow{SrcMAC: mac, DstMAC: client.MAC, Src: own.AddrPort(1), Dst: client.AddrPort(2)}, nil))
			time.Sleep(10 * time.Millisecond)
		}
		for _, h := range []string{"h1", "h2", "h3"} {
			for _, frame := range r.Seen(h) {
				f, err := packet.Decode(frame)
				require.NoError(t, err)
				arp, ok := f.ARP()
				require.False(t, ok && arp.SPA == vip, "%s hears that the VIP is at %v", h, arp.SHA)
				require.NotEqual(t, mac, f.Ethernet().Src, "%s gets a frame of the VIP's MAC", h)
			}
		}
		require.NotEmpty(t, r.serves("h1", 5000, rec))
	})
}

// TestT16LateFrames has what a host sent before it moved come after its announcement: it
// is followed nevertheless, a member as well as another.
func TestT16LateFrames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _ := balanced(t)
		for i, name := range []string{"h1", "h2"} {
			h := *r.Host(name)
			from, to := h.At, simswitch.Place{DPID: 4, Port: ofproto.Port(40 + i)}
			r.Move(name, to)
			r.AddHost(simswitch.Host{Name: "late " + name, MAC: h.MAC, At: from})
			time.Sleep(1100 * time.Millisecond) // until a port that came up is used
			r.Announce(name)
			for range 5 {
				time.Sleep(10 * time.Millisecond)
				r.Send("late "+name, packet.AppendARPRequest(nil, h.MAC, h.IP, r.Host("h3").IP))
			}
			d := took(t, time.Second, "the host has moved", func() bool { return r.at(name) == to })
			t.Logf("%s is followed after %v", name, d)
		}
	})
}
