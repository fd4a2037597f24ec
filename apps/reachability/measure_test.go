package reachability_test

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

// site is a lab with the app.
type site struct {
	*lab.Lab
	t       *testing.T
	app     *reachability.App
	service *reachability.Service
	vips    []reachability.VIP
	ports   reachability.AccessPorts
}

func (s *site) access(context.Context) (reachability.AccessPorts, error) { return s.ports, nil }

// panics fails a test in whose log something panicked: the core goes on as if nothing
// had been.
type panics struct{ t *testing.T }

func (p panics) Write(line []byte) (int, error) {
	if strings.Contains(string(line), "panicked") {
		p.t.Errorf("%s", line)
	}
	return len(line), nil
}

// random is not random.
type random struct{ n byte }

func (r *random) Read(b []byte) (int, error) {
	for i := range b {
		r.n++
		b[i] = r.n
	}
	return len(b), nil
}

func at(dpid ofproto.DPID, port ofproto.Port) simswitch.Place {
	return simswitch.Place{DPID: dpid, Port: port}
}

// open starts a controller with the app over a network, whose hosts make themselves known.
func open(t *testing.T, n *simswitch.Network, o lab.Options) *site {
	t.Helper()
	s := &site{t: t, app: reachability.New()}
	o.Log = panics{t}
	more := o.Apps
	o.Apps = func() []controller.App {
		apps := []controller.App{s.app}
		if more != nil {
			apps = append(apps, more()...)
		}
		return apps
	}
	s.Lab = lab.Start(t, n, o)
	s.service = reachability.NewService(s.app, s.Core, func(context.Context) ([]reachability.VIP, error) { return s.vips, nil }, s.access, &random{})
	s.Settle()
	for _, h := range n.Hosts() {
		s.Announce(h)
	}
	s.Settle()
	s.Forget()
	s.NoFaults()
	return s
}

func (s *site) measure(req reachability.Request) reachability.Measurement {
	s.t.Helper()
	m, err := s.service.Measure(s.t.Context(), req)
	require.NoError(s.t, err)
	return m
}

// matrix writes the pairs of a measurement: a line an address, and for each switch +, -
// or ?.
func matrix(m reachability.Measurement) string {
	var b bytes.Buffer
	last := ""
	for _, p := range m.Pairs {
		if name := p.Address.String(); name != last {
			fmt.Fprintf(&b, "\n%s ", name)
			last = name
		}
		b.WriteString(map[reachability.Result]string{reachability.Answered: "+", reachability.NoAnswer: "-", reachability.Skipped: "?"}[p.Result])
	}
	return strings.TrimSpace(b.String())
}

// stages are the labs that a test of all stages runs in.
var stages = map[string]struct {
	lab lab.Options
	sw  simswitch.Options
}{
	"observe":     {lab: lab.Options{Observe: true}},
	"steer":       {lab: lab.Options{Stage: controller.StageSteer}},
	"managed":     {},
	"one table":   {sw: simswitch.Options{Tables: 1}},
	"one, steer":  {lab: lab.Options{Stage: controller.StageSteer}, sw: simswitch.Options{Tables: 1}},
	"no OVS":      {sw: simswitch.Options{NoNicira: true, NoMasks: true, NoMeters: true, NoBundles: true}},
	"no groups":   {sw: simswitch.Options{NoGroups: true}},
	"no NORMAL":   {sw: simswitch.Options{NoNormal: true}},
	"no meters 2": {lab: lab.Options{Observe: true}, sw: simswitch.Options{NoMeters: true}},
}

// line is three switches in a row with hosts of both families and of a VLAN.
func line(o simswitch.Options) *simswitch.Network {
	n := lab.Build(3, o, [2]int{1, 2}, [2]int{2, 3})
	n.AddHost(simswitch.Host{Name: "six", MAC: packet.MAC{0x0e, 1, 5: 6}, IP: netip.MustParseAddr("2001:db8::6"), At: at(3, 101)})
	n.AddHost(simswitch.Host{Name: "tagged", MAC: packet.MAC{0x0e, 1, 5: 7}, IP: netip.MustParseAddr("10.0.7.7"), VLAN: 7, At: at(3, 102)})
	return n
}

// Every host answers every switch, in every stage, and no host sees anything of it that
// is not addressed to it. Measuring changes nothing in switches, and what was learned
// stays.
func TestEverybodyAnswers(t *testing.T) {
	for name, o := range stages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, line(o.sw), o.lab)
				mods, hosts := s.Mods(), s.Snapshot().HostCount()
				began := time.Now()
				m := s.measure(reachability.Request{Hosts: true})
				require.Less(t, time.Since(began), time.Second)
				require.Equal(t, "10.0.0.1 +++\n10.0.0.2 +++\n10.0.0.3 +++\n10.0.7.7 +++\n2001:db8::6 +++", matrix(m))
				require.Equal(t, 15, m.Total)
				require.Empty(t, m.Notes)
				for _, p := range m.Pairs {
					require.Equal(t, 1, p.Tries)
					require.Equal(t, p.At, *p.Caught, "the first switch that the answer crosses")
				}
				s.Pass(time.Second)
				require.Equal(t, mods, s.Mods())
				require.Equal(t, hosts, s.Snapshot().HostCount())
				for _, name := range s.Hosts() {
					asked := 0
					for _, b := range s.Seen(name) {
						f, err := packet.Decode(b)
						require.NoError(t, err)
						if f.EtherType() == packet.EtherTypeLLDP {
							continue
						}
						require.Equal(t, s.Host(name).MAC, f.Ethernet().Dst, "%s sees %x", name, b)
						if a, ok := f.ARP(); ok {
							require.Equal(t, netip.IPv4Unspecified(), a.SPA, "a question that caches learn from")
						}
						asked++
					}
					require.Equal(t, 3, asked, name)
				}
			})
		})
	}
}

// Hosts behind access ports answer too, in the VLAN that the switch's own forwarding
// takes their frames to be of; nobody in another VLAN does for them.
func TestAccessPorts(t *testing.T) {
	for _, stage := range []controller.Stage{controller.StageObserve, controller.StageSteer} {
		for _, known := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, known %v", stage, known), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := simswitch.NewNetwork()
					for dpid := range ofproto.DPID(3) {
						n.AddSwitch(simswitch.Options{DPID: dpid + 1, Tags: map[ofproto.Port]uint16{101: 7, 102: 8}})
					}
					n.Link(at(1, 1), at(2, 1))
					n.Link(at(2, 2), at(3, 1))
					host := func(id byte, where simswitch.Place) {
						n.AddHost(simswitch.Host{Name: fmt.Sprint("h", id), MAC: packet.MAC{0x0e, 1, 5: id}, IP: netip.AddrFrom4([4]byte{10, 0, 7, id}), At: where})
					}
					host(1, at(1, 101))
					host(2, at(3, 101))
					host(3, at(3, 102))
					host(4, at(2, 100)) // untagged everywhere
					n.AddHost(simswitch.Host{Name: "h5", MAC: packet.MAC{0x0e, 1, 5: 5}, IP: netip.MustParseAddr("10.0.7.5"), VLAN: 7, At: at(2, 103)})
					s := open(t, n, lab.Options{Observe: stage == controller.StageObserve, Stage: stage})
					probe := documents.Probe{Type: documents.ProbeARP, Address: netip.MustParseAddr("10.0.7.2"), VLAN: 7}
					if !known {
						require.Equal(t, "10.0.7.1 ---\n10.0.7.2 ---\n10.0.7.3 ---\n10.0.7.4 +++\n10.0.7.5 +++", matrix(s.measure(reachability.Request{Hosts: true})))
						return
					}
					s.ports = reachability.AccessPorts{}
					for dpid := range topology.DPID(3) {
						s.ports[topology.Place{DPID: dpid + 1, Port: 101}], s.ports[topology.Place{DPID: dpid + 1, Port: 102}] = 7, 8
					}
					m := s.measure(reachability.Request{Hosts: true, Probes: []documents.Probe{probe}})
					require.Equal(t, "10.0.7.1 +++\n10.0.7.2 +++\n10.0.7.3 +++\n10.0.7.4 +++\n10.0.7.5 +++", matrix(m))
					for _, p := range m.Probes {
						require.Equal(t, reachability.Answered, p.Result)
					}
					s.Host("h2").Mute = true
					again := s.measure(reachability.Request{Like: &m})
					require.Equal(t, "10.0.7.1 +++\n10.0.7.2 ---\n10.0.7.3 +++\n10.0.7.4 +++\n10.0.7.5 +++", matrix(again))
				})
			})
		}
	}
}

// What fails is what the matrix shows: a cable that carries nothing, a host that is
// blocked by an entry of somebody else, one that is gone.
func TestMatrix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, line(simswitch.Options{}), lab.Options{})
		before := s.measure(reachability.Request{Hosts: true})

		s.Cut(at(2, 2), true) // between 2 and 3
		m := s.measure(reachability.Request{Hosts: true})
		require.Equal(t, "10.0.0.1 ++-\n10.0.0.2 ++-\n10.0.0.3 --+\n10.0.7.7 --+\n2001:db8::6 --+", matrix(m))
		for _, p := range m.Pairs {
			require.Equal(t, p.OK(), p.Reason == "")
			if !p.OK() {
				require.Equal(t, 3, p.Tries)
			}
		}
		worse := reachability.Worse(before, m)
		require.Len(t, worse, 8)
		require.Equal(t, reachability.Difference{
			Aspect: reachability.AspectHost, DPID: "0000000000000003",
			Text: "10.0.0.1 (0e:00:00:00:00:01) does not answer from switch 0000000000000003 any more (answered before)",
		}, worse[0])
		require.Empty(t, reachability.Worse(m, m))
		s.Cut(at(2, 2), false)

		// Somebody else drops what is for h1, at the switch in the middle.
		drop := &ofproto.FlowMod{Table: controller.TableDestination, Priority: 1000, BufferID: ofproto.NoBuffer,
			OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny, Match: ofproto.NewMatch(ofproto.EthDst(ofproto.MAC(s.Host("h1").MAC)))}
		require.Nil(t, s.Switch(2).Apply(drop))
		m = s.measure(reachability.Request{Hosts: true})
		require.Equal(t, "10.0.0.1 +--\n10.0.0.2 +++\n10.0.0.3 +++\n10.0.7.7 +++\n2001:db8::6 +++", matrix(m))
		drop.Command = ofproto.FlowDelete
		require.Nil(t, s.Switch(2).Apply(drop))

		s.Host("six").Mute = true
		m = s.measure(reachability.Request{Hosts: true, From: []ofproto.DPID{1, 3}})
		require.Equal(t, "10.0.0.1 ++\n10.0.0.2 ++\n10.0.0.3 ++\n10.0.7.7 ++\n2001:db8::6 --", matrix(m))
	})
}

// A switch that is away is told, and compared as one thing.
func TestSwitchAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, line(simswitch.Options{}), lab.Options{})
		before := s.measure(reachability.Request{Hosts: true})
		s.Disconnect(2)
		s.Pass(time.Second)
		m := s.measure(reachability.Request{Hosts: true})
		require.Equal(t, "not connected", m.Switches[1].Skipped)
		require.Equal(t, "10.0.0.1 ++\n10.0.0.2 ??\n10.0.0.3 ++\n10.0.7.7 ++\n2001:db8::6 ++", matrix(m), "it forwards by the entries that it has")
		require.Equal(t, []reachability.Difference{{
			Aspect: reachability.AspectSwitch, DPID: "0000000000000002", Text: "switch 0000000000000002 cannot be measured from any more: not connected",
		}}, reachability.Worse(before, m))
	})
}

// ours counts the entries of the app in all switches.
func (s *site) ours() (n int) {
	for _, sw := range s.Switches() {
		for _, f := range sw.Flows() {
			if flowtable.OwnsCookie(f.Cookie) && flowtable.CookieApp(f.Cookie) == controller.AppMeasure {
				n++
			}
		}
	}
	return n
}

// What is installed is there once and for all: a restart of the controller sends
// nothing, and so does a measurement; of one that counts broadcasts nothing is left.
func TestNothingIsLeft(t *testing.T) {
	for name, o := range stages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, line(o.sw), o.lab)
				ours := s.ours()
				require.Positive(t, ours)
				s.measure(reachability.Request{Hosts: true, Broadcast: true, Rates: true, Tables: true, MTU: 1500})
				require.Equal(t, ours, s.ours())
				s.NoFaults()
				s.Stop()
				mods := s.Mods()
				o.lab.Memory = s.Memory
				s = open(t, s.Network, o.lab)
				require.Equal(t, mods, s.Mods())
				require.Equal(t, ours, s.ours())
			})
		})
	}
}

// A broadcast arrives once; where a loop is closed, twice or more, and it does not go on
// after the measurement.
func TestBroadcast(t *testing.T) {
	for name, o := range stages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, line(o.sw), o.lab)
				m := s.measure(reachability.Request{Broadcast: true})
				require.Len(t, m.Copies, 6)
				for _, c := range m.Copies {
					require.Equal(t, 1, c.Count, c)
				}
				require.Empty(t, m.Notes)
				s.Cut(at(2, 2), true)
				cut := s.measure(reachability.Request{Broadcast: true})
				for _, c := range cut.Copies {
					joined := c.From != "0000000000000003" && c.To != "0000000000000003"
					require.Equal(t, joined, c.Count == 1, c)
				}
				worse := reachability.Worse(m, cut)
				require.Len(t, worse, 4)
				require.Equal(t, "a broadcast from switch 0000000000000001 does not come to switch 0000000000000003 any more", worse[0].Text)
			})
		})
	}
}

// A link that passes small packets only is told, and one that passes none.
func TestLinkThatLosesWholePackets(t *testing.T) {
	for name, o := range stages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := line(o.sw)
				managed := !o.lab.Observe && o.lab.Stage != controller.StageSteer
				if managed { // elsewhere it would be a loop
					n.Share(false, at(1, 50), at(3, 50)) // a legacy bridge
				}
				s := open(t, n, o.lab)
				m := s.measure(reachability.Request{MTU: 1500})
				var got []string
				for _, l := range m.Links {
					require.True(t, l.Small && l.Full, "%+v", l)
					got = append(got, l.From.String()+" "+l.To.String())
				}
				require.Contains(t, got, "0000000000000001/1 0000000000000002/1")
				require.Contains(t, got, "0000000000000002/1 0000000000000001/1")

				require.Len(t, got, 4) // one port on the segment is blocked

				s.Narrow(at(1, 1), 1400)
				s.Cut(at(2, 2), true)
				bad := s.measure(reachability.Request{MTU: 1500})
				texts := ""
				for _, d := range reachability.Worse(m, bad) {
					texts += d.Text + "\n"
				}
				require.Contains(t, texts, "packets of 1500 bytes do not pass from 0000000000000001/1 to 0000000000000002/1 any more, small ones do\n")
				require.Contains(t, texts, "nothing passes from 0000000000000003/1 to 0000000000000002/2 any more\n")
				require.NotContains(t, texts, "from 0000000000000002/1")
			})
		})
	}
}

// What an earlier measurement asked is asked again, though its host is forgotten; a switch
// that came since asks all.
func TestLike(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := line(simswitch.Options{})
		n.AddHost(simswitch.Host{Name: "brief", MAC: packet.MAC{0x0e, 1, 5: 9}, IP: netip.MustParseAddr("10.0.9.9"), At: at(1, 103)})
		s := open(t, n, lab.Options{})
		s.Disconnect(2)
		s.Pass(time.Second)
		before := s.measure(reachability.Request{Hosts: true})
		s.Switch(1).RemovePort(103)
		s.Pass(time.Second)
		s.Connect(2)
		s.Pass(10 * time.Second)
		again := s.measure(reachability.Request{Like: &before})
		require.Equal(t, "10.0.0.1 +++\n10.0.0.2 +++\n10.0.0.3 +++\n10.0.7.7 +++\n10.0.9.9 ---\n2001:db8::6 +++", matrix(again))
		worse := reachability.Worse(before, again)
		require.Len(t, worse, 2)
		require.Equal(t, "10.0.9.9 (0e:01:00:00:00:09) does not answer from switch 0000000000000001 any more (answered before)", worse[0].Text)
		fresh := s.measure(reachability.Request{Hosts: true})
		require.Equal(t, "10.0.0.1 +++\n10.0.0.2 +++\n10.0.0.3 +++\n10.0.7.7 +++\n2001:db8::6 +++", matrix(fresh))
	})
}

// Of too many pairs always the same are asked, and the result says so.
func TestSample(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, line(simswitch.Options{}), lab.Options{})
		m := s.measure(reachability.Request{Hosts: true, MaxPairs: 7})
		require.Len(t, m.Pairs, 7)
		require.Equal(t, 15, m.Total)
		require.Equal(t, []string{"8 of 15 pairs of a switch and a host were left out: max_pairs is 7"}, m.Notes)
		again := s.measure(reachability.Request{Hosts: true, MaxPairs: 7})
		require.Equal(t, matrix(m), matrix(again))
		for i := range m.Pairs {
			require.Equal(t, m.Pairs[i].From, again.Pairs[i].From)
		}
	})
}

// Hundreds of pairs take a second, and less than a second more when all are silent: the
// rate holds, and no question waits for the one before.
func TestHundredsOfPairs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(10, simswitch.Options{}, lab.Ring(10)...)
		for i := range 40 {
			lab.AddHost(n, 100+i, at(ofproto.DPID(1+i%10), ofproto.Port(200+i)))
		}
		s := open(t, n, lab.Options{})
		began := time.Now()
		m := s.measure(reachability.Request{Hosts: true})
		took := time.Since(began)
		require.Len(t, m.Pairs, 500)
		require.NotContains(t, matrix(m), "-")
		require.Less(t, took, 1100*time.Millisecond)
		for _, name := range s.Hosts() {
			s.Host(name).Mute = true
		}
		began = time.Now()
		m = s.measure(reachability.Request{Hosts: true})
		require.NotContains(t, matrix(m), "+")
		require.Less(t, time.Since(began), 3500*time.Millisecond)
	})
}

// More switches than there are addresses to ask from share them, one after the other.
func TestMoreSwitchesThanLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const switches = 140
		n := simswitch.NewNetwork()
		n.AddSwitch(simswitch.Options{DPID: 1})
		lab.AddHost(n, 1, at(1, 1000))
		for i := ofproto.DPID(2); i <= switches; i++ { // a star
			n.AddSwitch(simswitch.Options{DPID: i})
			n.Link(at(1, ofproto.Port(i)), at(i, 1))
		}
		s := open(t, n, lab.Options{})
		m := s.measure(reachability.Request{Hosts: true})
		require.Equal(t, "10.0.0.1 "+strings.Repeat("+", switches), matrix(m))
		s.Host("h1").Mute = true
		m = s.measure(reachability.Request{Hosts: true})
		require.Equal(t, "10.0.0.1 "+strings.Repeat("-", switches), matrix(m))
	})
}

// A measurement that is given up leaves nothing behind, and lets the next one go on.
func TestGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, line(simswitch.Options{}), lab.Options{})
		ours := s.ours()
		for _, name := range s.Hosts() {
			s.Host(name).Mute = true
		}
		for _, after := range []time.Duration{time.Millisecond, 60 * time.Millisecond, 300 * time.Millisecond, 700 * time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			_, err := s.service.Measure(ctx, reachability.Request{Hosts: true, Broadcast: true})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
			s.Pass(time.Second)
			require.Equal(t, ours, s.ours(), after)
		}
		for _, name := range s.Hosts() {
			s.Host(name).Mute = false
		}
		// Several at once are made one after the other.
		done := make(chan reachability.Measurement)
		for range 3 {
			go func() {
				m, err := s.service.Measure(t.Context(), reachability.Request{Hosts: true, Broadcast: true})
				if err != nil {
					t.Error(err)
				}
				done <- m
			}()
		}
		for range 3 {
			require.NotContains(t, matrix(<-done), "-")
		}
		require.Equal(t, ours, s.ours())
	})
}

// A stage that changes while a measurement goes on does no harm to it, nor is anything
// left of it.
func TestStageChangesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, line(simswitch.Options{}), lab.Options{Stage: controller.StageSteer})
		done := make(chan reachability.Measurement)
		go func() {
			m, err := s.service.Measure(t.Context(), reachability.Request{Hosts: true, Broadcast: true, Rates: true, Timeout: time.Second})
			if err != nil {
				t.Error(err)
			}
			done <- m
		}()
		for _, stage := range []controller.Stage{controller.StageManaged, controller.StageObserve, controller.StageManaged, controller.StageSteer} {
			for dpid := range ofproto.DPID(3) {
				s.Pass(25 * time.Millisecond)
				require.NoError(t, s.Core.SetStage(t.Context(), dpid+1, stage))
			}
		}
		m := <-done
		require.NotContains(t, matrix(m), "-")
		s.Pass(2 * time.Second)
		s.NoFaults()
		for dpid := range ofproto.DPID(3) {
			list, err := s.Core.Deviations(t.Context(), dpid+1)
			require.NoError(t, err)
			require.Empty(t, list)
		}
	})
}

// A loop multiplies a broadcast, and is told; the broadcast ends with the measurement.
func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, line(simswitch.Options{}), lab.Options{Observe: true})
		before := s.measure(reachability.Request{Broadcast: true, Rates: true})
		s.Link(at(1, 60), at(3, 60))
		m := s.measure(reachability.Request{Broadcast: true, Rates: true})
		require.True(t, s.Stormed())
		worse := reachability.Worse(before, m)
		require.NotEmpty(t, worse)
		require.Contains(t, worse[0].Text, "there is a loop")
		var storms int
		for _, d := range worse {
			if d.Aspect == reachability.AspectStorm {
				storms++
			}
		}
		require.Positive(t, storms)
	})
}

// Entries that somebody else changed are told, in all words that an operator needs.
func TestDeviations(t *testing.T) {
	for name, o := range stages {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := open(t, line(o.sw), o.lab)
				m := s.measure(reachability.Request{Tables: true})
				for _, sw := range m.Switches {
					require.True(t, sw.Compared)
					require.Empty(t, sw.Deviations)
				}
				for _, f := range s.Switch(2).Flows() {
					if flowtable.OwnsCookie(f.Cookie) && flowtable.CookieApp(f.Cookie) == controller.AppMeasure && len(f.Instructions) > 0 {
						// Deleted it would be back at once.
						require.Nil(t, s.Switch(2).Apply(&ofproto.FlowMod{Command: ofproto.FlowModifyStrict, Table: f.Table, Priority: f.Priority, Match: f.Match,
							OutPort: ofproto.PortAny, OutGroup: ofproto.GroupAny, BufferID: ofproto.NoBuffer}))
						break
					}
				}
				bad := s.measure(reachability.Request{Tables: true})
				worse := reachability.Worse(m, bad)
				require.Len(t, worse, 1)
				require.Regexp(t, `^switch 0000000000000002 does not hold what it is to: table \d+, priority \d+, .*: altered \(reachability base\)$`, worse[0].Text)
			})
		})
	}
}
