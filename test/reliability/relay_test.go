package reliability

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
)

// relay is two hosts that pass on to one another the probes that come to their ports, by a way
// of their own.
type relay struct {
	r    *rig
	ends [2]string

	mu     sync.Mutex
	frames [2][][]byte // for the one, and for the other
}

func (r *rig) relay(a, b string) *relay {
	k := &relay{r: r, ends: [2]string{a, b}}
	ports := [2]simswitch.Place{r.Host(a).At, r.Host(b).At}
	r.SetTap(func(from simswitch.Place, frame []byte) {
		k.mu.Lock()
		defer k.mu.Unlock()
		for i, at := range ports {
			if from == at && packet.MAC(frame[:6]) == packet.LLDPMulticast {
				k.frames[1-i] = append(k.frames[1-i], bytes.Clone(frame))
			}
		}
	})
	return k
}

// pass passes on what came, once a millisecond.
func (k *relay) pass(while time.Duration) {
	for end := time.Now().Add(while); time.Now().Before(end); time.Sleep(time.Millisecond) {
		k.mu.Lock()
		frames := k.frames
		k.frames = [2][][]byte{}
		k.mu.Unlock()
		for i := range frames {
			for _, f := range frames[i] {
				k.r.Send(k.ends[i], f)
			}
		}
	}
}

// suspected returns what is wrong with the link between two ports.
func (r *rig) suspected(a, b simswitch.Place) string {
	for _, l := range r.snapshot().Links() {
		if ends := [2]simswitch.Place{place(l.A), place(l.B)}; ends == [2]simswitch.Place{a, b} || ends == [2]simswitch.Place{b, a} {
			return l.Fault
		}
	}
	return "no link"
}

// linkEvents counts the notices of a kind of event about links.
func linkEvents(notices <-chan controller.Notice, event string) (n int) {
	for {
		select {
		case v := <-notices:
			if data, ok := v.Data.(map[string]any); ok && v.Kind == "link" && data["event"] == event {
				n++
			}
		default:
			return n
		}
	}
}

// TestT05RelayedProbes has two hosts pass probes on to one another, so that a link seems to
// be between their ports: as they are; after both, and after one, took its port down and
// up (port amnesia); and with a probe from before that. It is told each time, once, and shown
// with the link; no other link is suspected, and traffic of others goes on.
func TestT05RelayedProbes(t *testing.T) {
	for name, c := range map[string]struct {
		down []string // whose ports go down and up first
		late bool     // the probe that came before is passed on after that
		why  string
	}{
		"two that were there":       {nil, false, "both ports have been up"},
		"two that took ports down":  {[]string{"h1", "h3"}, false, "hosts were there until the ports went down"},
		"one that took a port down": {[]string{"h3"}, false, "one port went down and up"},
		"a probe from before":       {[]string{"h3"}, true, "a port went down after the probe was sent"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := ring(t, options{relays: true})
				for _, h := range r.Hosts() {
					r.Announce(h)
				}
				time.Sleep(30 * time.Second)
				notices, cancel := r.core.Subscribe(4096)
				defer cancel()
				k := r.relay("h1", "h3")
				a, b := r.Host("h1").At, r.Host("h3").At
				if c.late {
					time.Sleep(6 * time.Second) // a probe of h1's port is kept
				}
				for _, up := range []bool{false, true} {
					for _, h := range c.down {
						at := r.Host(h).At
						r.Switch(at.DPID).SetPort(at.Port, up)
					}
					time.Sleep(time.Millisecond)
				}
				k.pass(20 * time.Second)
				require.Contains(t, r.suspected(a, b), c.why)
				require.Equal(t, 1, linkEvents(notices, "suspected"))
				require.Len(t, r.logs.with("do hosts pass on probes?"), 1)
				for _, l := range r.snapshot().Links() {
					require.True(t, l.Fault == "" || place(l.A) == a || place(l.B) == a, "%v %s", l, l.Fault)
				}
				require.True(t, r.reaches("h2", "h4"))

				// It ends with the link.
				time.Sleep(30 * time.Second)
				require.Equal(t, "no link", r.suspected(a, b))
				require.Len(t, r.links(), 4)
			})
		})
	}
}

// TestT05CableInsteadOfHosts unplugs two hosts and plugs a cable into their ports: it is
// suspected until the hosts are seen elsewhere, or somebody says that it is meant so.
func TestT05CableInsteadOfHosts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := ring(t, options{relays: true})
		for _, h := range r.Hosts() {
			r.Announce(h)
		}
		time.Sleep(30 * time.Second)
		a, b := r.Host("h1").At, r.Host("h3").At
		plug := func(first ...string) {
			for _, p := range []simswitch.Place{a, b} {
				r.Switch(p.DPID).SetPort(p.Port, false)
			}
			time.Sleep(time.Second)
			for i, h := range first {
				r.Move(h, simswitch.Place{DPID: ofproto.DPID(1 + i), Port: 40})
				time.Sleep(2 * time.Second)
				r.Announce(h)
			}
			r.Link(a, b)
			time.Sleep(time.Second)
		}
		plug("h1")
		require.Contains(t, r.suspected(a, b), ofproto.MAC(r.Host("h3").MAC).String())
		require.NotContains(t, r.suspected(a, b), ofproto.MAC(r.Host("h1").MAC).String())
		r.Move("h3", simswitch.Place{DPID: 3, Port: 40})
		time.Sleep(2 * time.Second)
		r.Announce("h3")
		time.Sleep(10 * time.Millisecond)
		require.Empty(t, r.suspected(a, b))
		require.Len(t, r.links(), 5)
		r.broadcasts("h1")

		// The same cable again is no news.
		plug()
		require.Empty(t, r.suspected(a, b))

		// A new one is, until it is confirmed.
		c := simswitch.Place{DPID: 4, Port: 1}
		r.Switch(4).SetPort(c.Port, false)
		r.SetLink(a, false)
		time.Sleep(time.Second)
		r.Link(a, c)
		time.Sleep(time.Second)
		require.Contains(t, r.suspected(a, c), ofproto.MAC(r.Host("h4").MAC).String())
		require.NoError(t, r.core.Confirm(t.Context(), 4))
		time.Sleep(10 * time.Millisecond)
		require.Empty(t, r.suspected(a, c))
	})
}

// TestOrdinaryWiringIsNotSuspected has cables and hosts come and go, channels end and come
// back, and the controller restart, as they do where nobody passes on probes: the rig fails
// if anything is suspected.
func TestOrdinaryWiringIsNotSuspected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		random, _ := seeded(t)
		r := ring(t, options{})
		next := ofproto.Port(50)
		var cables []simswitch.Place
		dpid := func() ofproto.DPID { return ofproto.DPID(1 + random.IntN(4)) }
		calm := func() { time.Sleep(time.Duration(random.Int64N(int64(40 * time.Second)))) }
		for range scale(300, 3000) {
			d := dpid()
			switch random.IntN(9) {
			case 0: // a cable is unplugged, and plugged in again
				at := simswitch.Place{DPID: d, Port: 10}
				r.SetLink(at, false)
				calm()
				r.SetLink(at, true)
			case 1: // at one end
				r.Switch(d).SetPort(10, false)
				calm()
				r.Switch(d).SetPort(10, true)
			case 2: // it loses all for a while
				at := simswitch.Place{DPID: d, Port: 10}
				r.Cut(at, true)
				calm()
				r.Cut(at, false)
			case 3: // one is added
				a, b := simswitch.Place{DPID: d, Port: next}, simswitch.Place{DPID: d%4 + 1, Port: next + 1}
				next += 2
				r.Link(a, b)
				cables = append(cables, a)
			case 4: // and taken away
				if len(cables) > 0 {
					i := random.IntN(len(cables))
					r.SetLink(cables[i], random.IntN(2) == 0)
				}
			case 5: // a host moves
				h := r.Hosts()[random.IntN(4)]
				from := r.Host(h).At
				r.Move(h, simswitch.Place{DPID: d, Port: next})
				next++
				r.Switch(from.DPID).SetPort(from.Port, false)
				time.Sleep(2 * time.Second)
				r.Announce(h)
			case 6: // a host's port flaps
				at := r.Host(r.Hosts()[random.IntN(4)]).At
				for up := range 4 {
					r.Switch(at.DPID).SetPort(at.Port, up%2 == 1)
					time.Sleep(time.Duration(random.Int64N(int64(2 * time.Second))))
				}
			case 7: // a channel ends
				r.disconnect(d)
				calm()
				r.connect(d)
				r.ready(d)
			case 8: // the controller starts again
				if random.IntN(8) == 0 {
					r = r.restart(options{})
					r.ready(1, 2, 3, 4)
				}
			}
			wait(random)
		}
		for _, l := range r.snapshot().Links() {
			require.Empty(t, l.Fault, "%v", l)
		}
	})
}

func wait(random *rand.Rand) { time.Sleep(time.Duration(random.Int64N(int64(10 * time.Second)))) }
