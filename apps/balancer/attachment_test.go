package balancer_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
	"github.com/fairlead/fairlead/topology"
)

const vm = "vm-3"

// attached has the controller told that interfaces are at some places.
func (s *site) attached(complete bool, at map[string][]balancer.Attachment) {
	s.t.Helper()
	require.NoError(s.t, s.Core.Post(s.t.Context(), balancer.Attachments{ByID: at, Complete: complete}))
	synctest.Wait()
}

// at is an attachment of h3.
func (s *site) at(dpid topology.DPID, port topology.Port) balancer.Attachment {
	return balancer.Attachment{
		Place: topology.Place{DPID: dpid, Port: port}, MAC: ofproto.MAC(s.Host("h3").MAC), Where: fmt.Sprintf("bridge br%d at unix:/db.sock", dpid),
	}
}

// one is the only place of the interface.
func one(at balancer.Attachment) map[string][]balancer.Attachment {
	return map[string][]balancer.Attachment{vm: {at}}
}

// moveTo plugs h3 into another port, and the old one is gone, as when OVSDB renumbers.
func (s *site) moveTo(to place) {
	old := s.Host("h3").At
	s.Move("h3", to)
	s.Switch(old.DPID).SetPort(old.Port, false)
	synctest.Wait()
}

func (s *site) member() balancer.MemberStatus {
	s.t.Helper()
	v, err := s.service.Get(s.t.Context(), "web")
	require.NoError(s.t, err)
	return *v.Listeners[0].Pool.Members[0].Status
}

// reached says whether a connection of h1's gets to h3.
func (s *site) reached() bool {
	s.t.Helper()
	s.Forget()
	s.Send("h1", s.request("h1", 1000, s.rec()))
	synctest.Wait()
	return len(s.Seen("h3")) == 1
}

func (s *site) rec() balancer.Record {
	s.t.Helper()
	rec, err := s.intents.Get(s.t.Context(), "web")
	require.NoError(s.t, err)
	return rec
}

// interfaceSite is a line of switches in which the VIP's only member, h3, is known by its interface
// and answers no ARP. asked counts the requests for it.
func interfaceSite(t *testing.T, o lab.Options) (s *site, asked func() int) {
	t.Helper()
	n := lab.Build(4, simswitch.Options{}, [2]int{1, 2}, [2]int{2, 3}, [2]int{3, 4})
	n.Host("h3").Mute = true
	s = open(t, t.TempDir(), n, o)
	s.Announce("h1")
	count, wanted := 0, s.Host("h3").IP // count is written under the network's lock
	s.SetTap(func(_ simswitch.Place, frame []byte) {
		f, err := packet.Decode(frame)
		require.NoError(t, err)
		if arp, ok := f.ARP(); ok && arp.SHA == controller.ProbeMAC && arp.TPA == wanted {
			count++
		}
	})
	v := s.pool(balancer.TCP, "h3")
	v.Listeners[0].Pool.Members[0].Interface = vm
	_, _, err := s.intents.Put(t.Context(), v, balancer.Condition{})
	require.NoError(t, err)
	s.Pass(time.Second)
	return s, func() int {
		synctest.Wait()
		n := count
		count = 0
		return n
	}
}

// TestInterfaceIsFollowed finds a member by its interface alone and follows it over
// another number, another switch, and its end, in no time and without a request for it.
func TestInterfaceIsFollowed(t *testing.T) {
	for _, stage := range []controller.Stage{controller.StageManaged, controller.StageSteer} {
		t.Run(stage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, asked := interfaceSite(t, lab.Options{Stage: stage})
				asked() // until the databases are read, it is looked for like any other
				require.False(t, s.reached())
				require.Equal(t, "does not answer ARP", s.member().Reason)

				s.attached(true, nil)
				require.Equal(t, "no bridge known by OVSDB has an interface with the id vm-3", s.member().Reason)
				s.Pass(time.Minute)
				require.Zero(t, asked(), "it is nowhere: nobody is asked")
				require.Equal(t, balancer.HealthDown, s.member().Health)

				home := s.Host("h3").At
				s.attached(true, one(s.at(topology.DPID(home.DPID), topology.Port(home.Port))))
				require.True(t, s.reached(), "at once")
				require.Equal(t, uint32(home.Port), s.member().Port)
				require.Empty(t, s.member().Reason)
				h, ok := s.Snapshot().HostByIP(0, s.Host("h3").IP)
				require.True(t, ok, "forwarding and probes know it, too")
				require.Equal(t, topology.MAC(s.Host("h3").MAC), h.MAC)

				// Another number on the same switch: the port goes, and another comes. Whether
				// OpenFlow or OVSDB says so first makes no difference.
				s.moveTo(place{DPID: 3, Port: 150})
				require.False(t, s.reached())
				require.Equal(t, "port 0000000000000003/100 is down", s.member().Reason)
				s.attached(true, one(s.at(3, 150)))
				require.True(t, s.reached(), "at once")
				s.attached(true, one(s.at(3, 151)))
				require.Equal(t, "interface vm-3 is on bridge br3 at unix:/db.sock, whose switch has no port 151 yet", s.member().Reason)
				s.moveTo(place{DPID: 3, Port: 151})
				require.True(t, s.reached(), "at once")
				if stage == controller.StageManaged {
					require.Equal(t, "h3", s.serves("h1", 1000, s.rec()), "and back, although the port has not settled")
				}
				require.Equal(t, uint32(151), s.member().Port)

				// Another bridge, that has it before it has left the first.
				s.Host("h3").Mute = true
				s.Move("h3", place{DPID: 4, Port: 150})
				s.attached(true, map[string][]balancer.Attachment{vm: {s.at(3, 151), s.at(4, 150)}})
				require.Equal(t, topology.DPID(3).String(), s.member().Switch, "it stays until there is a reason to go")
				s.Pass(2 * lab.EdgeDelay)
				s.Announce("h3")
				synctest.Wait()
				require.True(t, s.reached(), "its frames say which of the two")
				require.Equal(t, topology.DPID(4).String(), s.member().Switch)
				s.attached(true, one(s.at(4, 150)))
				require.True(t, s.reached())
				require.LessOrEqual(t, asked(), 2, "but for the refreshment of what is known")

				// A bridge whose database is away is where it was.
				stale := s.at(4, 150)
				stale.Stale = true
				s.attached(true, one(stale))
				require.True(t, s.reached())
				s.attached(true, map[string][]balancer.Attachment{vm: {s.at(2, 77), stale}})
				require.True(t, s.reached(), "a port that is not there yet does not take it away")

				none := s.at(4, 0)
				none.Error = "could not open network device"
				s.attached(true, one(none))
				require.False(t, s.reached())
				require.Equal(t, "interface vm-3 is on bridge br4 at unix:/db.sock and has no port: could not open network device", s.member().Reason)
				s.attached(true, map[string][]balancer.Attachment{})
				require.False(t, s.reached())
				s.NoFaults()
			})
		})
	}
}

// TestInterfaceKeepsItsMember has another host claim the member's address: packets go
// where OVSDB says all the same.
func TestInterfaceKeepsItsMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := interfaceSite(t, lab.Options{})
		home := s.Host("h3").At
		s.attached(true, one(s.at(topology.DPID(home.DPID), topology.Port(home.Port))))
		s.Pass(2 * lab.EdgeDelay)
		thief := s.Host("h2")
		s.Send("h2", packet.AppendARPRequest(nil, thief.MAC, s.Host("h3").IP, s.Host("h3").IP))
		synctest.Wait()
		require.True(t, s.reached())
	})
}

// TestInterfaceWithoutMAC asks for the MAC at the port of the interface and nowhere else,
// and knows it from then on, wherever the interface goes.
func TestInterfaceWithoutMAC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, asked := interfaceSite(t, lab.Options{})
		s.attached(true, nil)
		asked()
		home := s.Host("h3").At
		at := s.at(topology.DPID(home.DPID), topology.Port(home.Port))
		at.MAC = ofproto.MAC{}
		s.attached(true, one(at))
		require.False(t, s.reached())
		require.True(t, strings.HasPrefix(s.member().Reason, "interface vm-3 is on bridge br3 at unix:/db.sock, whose MAC is not known"), s.member().Reason)
		s.Pass(10 * time.Millisecond)
		require.Equal(t, 1, asked(), "one request at one port")
		s.Announce("h3")
		synctest.Wait()
		require.Equal(t, "h3", s.serves("h1", 1000, s.rec()))
		s.moveTo(place{DPID: 3, Port: 150})
		at.Place.Port = 150
		s.attached(true, one(at))
		require.True(t, s.reached(), "at once")
	})
}

// TestInterfaceElsewhere has the interface on a bridge that is no switch of this
// controller: the member is where its frames come from.
func TestInterfaceElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := interfaceSite(t, lab.Options{})
		at := s.at(99, 5)
		s.attached(true, one(at))
		require.Equal(t, "interface vm-3 is on bridge br99 at unix:/db.sock, which is not connected as a switch; does not answer ARP", s.member().Reason)
		s.Announce("h3")
		s.Pass(time.Second)
		require.Equal(t, "h3", s.serves("h1", 1000, s.rec()))
	})
}

// TestInterfaceOfTwoVIPs has the interface said by one of two VIPs that share a member,
// and taken back.
func TestInterfaceOfTwoVIPs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := interfaceSite(t, lab.Options{})
		s.attached(true, nil)
		other := s.pool(balancer.TCP, "h3")
		other.Name, other.Address = "other", netip.MustParseAddr("10.0.100.2")
		other.Listeners[0].Pool.Members[0].Port = 9090
		_, _, err := s.intents.Put(t.Context(), other, balancer.Condition{})
		require.NoError(t, err)
		other.Listeners[0].Pool.Members[0].Interface = "vm-4"
		_, _, err = s.intents.Put(t.Context(), other, balancer.Condition{})
		var conflict *balancer.ConflictError
		require.ErrorAs(t, err, &conflict)
		require.Equal(t, "listeners[0].pool.members[0].interface", conflict.Field)
		require.Equal(t, `vip "web", which has 10.0.0.3 at interface vm-3`, conflict.With)

		s.Announce("h3")
		s.Pass(time.Second)
		require.False(t, s.reached(), "it is where its interface is: nowhere")
		web := s.pool(balancer.TCP, "h3")
		_, _, err = s.intents.Put(t.Context(), web, balancer.Condition{})
		require.NoError(t, err)
		s.Pass(time.Second)
		require.True(t, s.reached(), "where it was heard")
	})
}

// TestInterfaceGivesTheAddress has addresses left out of documents.
func TestInterfaceGivesTheAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := interfaceSite(t, lab.Options{})
		document := func(more string) (balancer.VIP, error) {
			v, err := balancer.DecodeVIP("web", []byte(`{"address":"10.0.100.1","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"interface":"vm-3","port":8080}`+more+`]}}]}`))
			require.NoError(t, err)
			v, _, err = s.service.Put(t.Context(), v, balancer.Condition{})
			return v, err
		}
		refused := func(err error, field, reason string) {
			t.Helper()
			var missing *balancer.UnsupportedError
			require.ErrorAs(t, err, &missing)
			require.Equal(t, []balancer.FieldError{{Field: field, Reason: reason}}, missing.Errors)
		}
		address := func(v balancer.VIP, err error) string {
			t.Helper()
			require.NoError(t, err)
			return v.Listeners[0].Pool.Members[0].Address.String()
		}
		require.NoError(t, s.intents.Delete(t.Context(), "web", balancer.Condition{}))
		_, err := document("")
		refused(err, "listeners[0].pool.members[0].address", "interface vm-3: no bridge known by OVSDB has it: give the address, or attach it first")

		at := s.at(3, 100)
		s.attached(true, one(at))
		_, err = document("")
		refused(err, "listeners[0].pool.members[0].address",
			"interface vm-3: no IPv4 address of it is known: it has none in external_ids:ip_addresses, and none was heard from its port")
		s.Announce("h3")
		s.Announce("h2")
		s.Pass(time.Second)
		require.Equal(t, "10.0.0.3", address(document("")), "what was heard at its port")

		at.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.33"), netip.MustParseAddr("fd00::3")}
		s.attached(true, one(at))
		require.Equal(t, "10.0.0.33", address(document("")), "what the database says goes before")
		at.Addresses = []netip.Addr{netip.MustParseAddr("10.0.0.33"), netip.MustParseAddr("10.0.0.34")}
		s.attached(true, one(at))
		require.Equal(t, "10.0.0.33", address(document("")), "the one that it has already")
		s.attached(true, nil)
		generation := s.rec().VIP.Generation
		require.Equal(t, "10.0.0.33", address(document("")), "the one that it has already")
		require.Equal(t, generation, s.rec().VIP.Generation, "nothing has changed")

		require.NoError(t, s.intents.Delete(t.Context(), "web", balancer.Condition{}))
		s.attached(true, one(at))
		_, err = document("")
		refused(err, "listeners[0].pool.members[0].address", "interface vm-3: it has several addresses, [10.0.0.33 10.0.0.34]: say which")

		at.Addresses = at.Addresses[:1]
		s.attached(true, one(at))
		_, err = document(`,{"address":"10.0.0.33","port":8080}`)
		var invalid *balancer.InvalidError
		require.ErrorAs(t, err, &invalid, "the whole document is held to its rules once it is whole")
		_, err = document(`,{"address":"10.0.0.33","port":8081,"interface":"vm-9"}`)
		var conflict *balancer.ConflictError
		require.True(t, errors.As(err, &conflict))
		require.Equal(t, "listeners[0].pool.members[1].interface", conflict.Field)
	})
}

// TestInterfaceOverRestart finds the member where it was while no database has been read.
func TestInterfaceOverRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		n := ring(simswitch.Options{})
		n.Host("h3").Mute = true
		s := open(t, dir, n, lab.Options{})
		s.Announce("h1")
		v := s.pool(balancer.TCP, "h3")
		v.Listeners[0].Pool.Members[0].Interface = vm
		_, _, err := s.intents.Put(t.Context(), v, balancer.Condition{})
		require.NoError(t, err)
		s.attached(true, one(s.at(3, 100)))
		s.Pass(10 * time.Second)
		require.True(t, s.reached())
		memory := s.Memory
		s.close()
		s = open(t, dir, n, lab.Options{Memory: memory})
		require.True(t, s.reached())
		s.attached(false, nil)
		require.True(t, s.reached(), "not all databases have been read yet")
		s.attached(true, one(s.at(3, 100)))
		require.True(t, s.reached())
	})
}
