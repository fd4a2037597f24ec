package balancer_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

const bypassed = "does not cross an OpenFlow switch: use dsr or conntrack"

// marked returns the state of the first member of "web", and the reasons of its switches.
func (s *site) marked(t *testing.T) (balancer.MemberStatus, []string) {
	t.Helper()
	rec, err := s.service.Get(t.Context(), "web")
	require.NoError(t, err)
	var reasons []string
	for _, sw := range rec.Status.Switches {
		if sw.Reason != "" {
			reasons = append(reasons, sw.DPID+": "+sw.Reason)
		}
	}
	return *rec.Listeners[0].Pool.Members[0].Status, reasons
}

func TestRepliesPastTheSwitches(t *testing.T) {
	for _, tc := range []struct {
		name  string
		mode  balancer.Mode
		build func() *simswitch.Network
		says  string // of the member
		none  bool   // it serves nobody
	}{
		{name: "clients elsewhere", build: func() *simswitch.Network { return lab.Build(2, simswitch.Options{}, [2]int{1, 2}) }},
		{name: "a client behind the same port, and others", says: "reply of 10.0.0.1 to 10.0.0.9 " + bypassed, build: func() *simswitch.Network {
			n := lab.Build(2, simswitch.Options{}, [2]int{1, 2})
			lab.AddHost(n, 9, n.Host("h1").At)
			return n
		}},
		{name: "clients in the same segment, by another port", says: "reply of 10.0.0.1 to 10.0.9.91 and 1 more of its segment " + bypassed, build: func() *simswitch.Network {
			n := lab.Build(2, simswitch.Options{})
			n.Share(false, legacy(1, 1), legacy(2, 1))
			n.Move("h1", legacy(2, 1))
			old(n, "h91", 91, legacy(2, 1))
			old(n, "h92", 92, legacy(2, 1))
			return n
		}},
		{name: "no client elsewhere", says: "reply of 10.0.0.1 " + bypassed, none: true, build: func() *simswitch.Network {
			n := lab.Build(1, simswitch.Options{})
			lab.AddHost(n, 9, n.Host("h1").At)
			return n
		}},
		{name: "no client elsewhere, dsr", mode: balancer.ModeDSR, build: func() *simswitch.Network {
			n := lab.Build(1, simswitch.Options{})
			lab.AddHost(n, 9, n.Host("h1").At)
			return n
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, t.TempDir(), tc.build(), lab.Options{})
				s.learn()
				doc := s.pool(balancer.TCP, "h1")
				if tc.mode != "" {
					doc.Mode = tc.mode
					doc.Listeners[0].Pool.Members[0].Port = vipPort
				}
				s.put(doc)
				s.Pass(2 * time.Second)
				m, reasons := s.marked(t)
				require.Equal(t, tc.says, m.Reason)
				require.Equal(t, tc.none, m.Slots == 0)
				if tc.says == "" {
					require.Empty(t, reasons)
					return
				}
				require.NotEmpty(t, reasons)
				require.Contains(t, reasons[0], tc.says)
				// Clients that go take the reason with them.
				for _, name := range []string{"h9", "h91", "h92"} {
					for _, h := range s.Hosts() {
						if h == name {
							s.Move(h, place{DPID: 1, Port: 400})
							s.Pass(2 * time.Second)
							s.Announce(h)
						}
					}
				}
				s.Pass(3 * time.Second)
				m, reasons = s.marked(t)
				require.Empty(t, m.Reason)
				require.Empty(t, reasons)
				require.NotZero(t, m.Slots)
			})
		})
	}
}
