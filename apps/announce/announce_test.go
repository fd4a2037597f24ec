package announce

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	for s, want := range map[string]Peer{
		"10.9.0.2@64513":           {netip.MustParseAddrPort("10.9.0.2:179"), 64513},
		"10.9.0.2:1790@4200000000": {netip.MustParseAddrPort("10.9.0.2:1790"), 4200000000},
		"2001:db8::1@1":            {netip.MustParseAddrPort("[2001:db8::1]:179"), 1},
		"[2001:db8::1]:1790@1":     {netip.MustParseAddrPort("[2001:db8::1]:1790"), 1},
		"":                         {},
		"10.9.0.2":                 {},
		"10.9.0.2@0":               {},
		"10.9.0.2@4294967296":      {},
		"10.9.0.2:0@1":             {},
		"router@64513":             {},
		"10.9.0.2@64513@64514":     {},
	} {
		p, err := ParsePeer(s)
		require.Equal(t, want, p, s)
		require.Equal(t, want.ASN == 0, err != nil, s)
	}
	c, err := ParseCommunity("64512:100")
	require.NoError(t, err)
	require.Equal(t, uint32(64512<<16|100), c)
	for _, s := range []string{"", "1", "1:65536", "65536:1", "a:b", "1:2:3"} {
		_, err := ParseCommunity(s)
		require.Error(t, err, s)
	}
}

func TestOptions(t *testing.T) {
	good := Options{ASN: 1, RouterID: netip.MustParseAddr("10.0.0.1"), Peers: []Peer{{}}, NextHop: netip.MustParseAddr("10.0.0.2")}
	_, err := New(good)
	require.NoError(t, err)
	for name, spoil := range map[string]func(*Options){
		"bgp-asn":       func(o *Options) { o.ASN = 0 },
		"bgp-router-id": func(o *Options) { o.RouterID = netip.MustParseAddr("::1") },
		"bgp-peer":      func(o *Options) { o.Peers = nil },
		"bgp-next-hop":  func(o *Options) { o.NextHop = netip.Addr{} },
	} {
		o := good
		spoil(&o)
		_, err := New(o)
		require.ErrorContains(t, err, name)
	}
}

// router is a BGP router on the loopback interface.
type router struct {
	*server.BgpServer
	port uint16
}

func newRouter(t *testing.T) *router {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := l.Addr().(*net.TCPAddr).Port
	require.NoError(t, l.Close())
	r := &router{server.NewBgpServer(server.LoggerOption(slog.New(slog.DiscardHandler), new(slog.LevelVar))), uint16(port)}
	go r.Serve()
	require.NoError(t, r.StartBgp(t.Context(), &api.StartBgpRequest{Global: &api.Global{
		Asn: 64513, RouterId: "127.0.0.2", ListenPort: int32(port), ListenAddresses: []string{"127.0.0.1"},
	}}))
	t.Cleanup(r.Stop)
	p := peer(Peer{netip.MustParseAddrPort("127.0.0.1:179"), 64512})
	p.Transport.PassiveMode = true
	p.GracefulRestart = nil // the library's own way of keeping routes races with reading them
	require.NoError(t, r.AddPeer(t.Context(), &api.AddPeerRequest{Peer: p}))
	return r
}

// routes are the prefixes that the router knows, each with its next hop and communities.
func (r *router) routes(t *testing.T) map[string]string {
	m := map[string]string{}
	for _, family := range []bgp.Family{bgp.RF_IPv4_UC, bgp.RF_IPv6_UC} {
		require.NoError(t, r.ListPath(apiutil.ListPathRequest{TableType: api.TableType_TABLE_TYPE_GLOBAL, Family: family}, func(prefix bgp.NLRI, paths []*apiutil.Path) {
			var hop, community string
			for _, a := range paths[0].Attrs {
				switch a := a.(type) {
				case *bgp.PathAttributeNextHop:
					hop = a.Value.String()
				case *bgp.PathAttributeMpReachNLRI:
					hop = a.Nexthop.String()
				case *bgp.PathAttributeCommunities:
					community = strconv.Itoa(int(a.Value[0]))
				}
			}
			m[prefix.String()] = hop + " " + community
		}))
	}
	return m
}

// network is what serves, and what was saved.
type network struct {
	mu      sync.Mutex
	serving map[netip.Addr]bool
	saved   []netip.Addr
	looked  int // times that the speaker has asked
	changed chan struct{}
}

// serve has these addresses served, and waits until the speaker has looked.
func (n *network) serve(t *testing.T, addresses ...string) {
	n.mu.Lock()
	looked := n.looked
	n.serving = map[netip.Addr]bool{}
	for _, a := range addresses {
		n.serving[netip.MustParseAddr(a)] = true
	}
	n.mu.Unlock()
	n.changed <- struct{}{}
	require.Eventually(t, func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.looked > looked }, 20*time.Second, time.Millisecond)
}

func (n *network) hasSaved(t *testing.T, count int) {
	require.Eventually(t, func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.saved) == count }, 20*time.Second, time.Millisecond)
}

func (n *network) options(r *router) Options {
	return Options{
		ASN: 64512, RouterID: netip.MustParseAddr("127.0.0.1"), Peers: []Peer{{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), r.port), 64513}},
		NextHop: netip.MustParseAddr("10.0.0.1"), NextHop6: netip.MustParseAddr("2001:db8::1"), Communities: []uint32{7},
		Changed: n.changed, Log: slog.New(slog.DiscardHandler),
		Serving: func(context.Context) (map[netip.Addr]bool, error) {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.looked++
			return maps.Clone(n.serving), nil
		},
		Save: func(_ context.Context, list []netip.Addr) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.saved = slices.Clone(list)
			return nil
		},
	}
}

// speak runs a speaker until the returned function is called.
func speak(t *testing.T, o Options) (stop func()) {
	s, err := New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return func() {
		cancel()
		require.NoError(t, <-done)
	}
}

// knows waits until the router has exactly these routes.
func (r *router) knows(t *testing.T, what string, want map[string]string) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) { assert.Equal(c, want, r.routes(t)) }, 20*time.Second, 10*time.Millisecond, what)
}

func TestRoutesFollowWhatServes(t *testing.T) {
	r := newRouter(t)
	n := &network{changed: make(chan struct{}, 1)}
	stop := speak(t, n.options(r))
	defer stop()
	n.serve(t, "203.0.113.1", "2001:db8:1::1")
	r.knows(t, "both families", map[string]string{"203.0.113.1/32": "10.0.0.1 7", "2001:db8:1::1/128": "2001:db8::1 7"})
	n.serve(t, "203.0.113.2", "2001:db8:1::1")
	r.knows(t, "one gone, one new", map[string]string{"203.0.113.2/32": "10.0.0.1 7", "2001:db8:1::1/128": "2001:db8::1 7"})
	n.hasSaved(t, 2)
	n.serve(t)
	r.knows(t, "nothing serves", map[string]string{})
	n.hasSaved(t, 0)
}

// A speaker that knows what was announced before it believes so until it has seen
// better. That routes outlive sessions is asked of a real router elsewhere.
func TestRestart(t *testing.T) {
	r := newRouter(t)
	n := &network{changed: make(chan struct{}, 1)}
	o := n.options(r)
	o.Before = []netip.Addr{netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("2001:db8:1::1")}
	stop := speak(t, o)
	defer stop()
	n.serve(t, "203.0.113.3")
	both := map[string]string{"203.0.113.2/32": "10.0.0.1 7", "203.0.113.3/32": "10.0.0.1 7", "2001:db8:1::1/128": "2001:db8::1 7"}
	r.knows(t, "what was announced before is believed", both)
	n.serve(t, "203.0.113.2", "203.0.113.3")
	r.knows(t, "seen to serve", both)
	n.serve(t)
	r.knows(t, "what was seen to serve goes at once", map[string]string{"2001:db8:1::1/128": "2001:db8::1 7"})
}
