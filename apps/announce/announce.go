// Package announce tells routers by BGP (RFC 4271) which VIPs are served: each
// address as a host route, /32 or /128, towards a next hop in the network of the
// switches. A route is withdrawn when nothing serves its address any more.
//
// The switches go on without the controller, so routes outlive it: sessions end
// without a notification and begin as a graceful restart (RFC 4724). What was
// announced before a restart is believed until the network has been looked at.
//
// The speaker takes no routes in and listens nowhere.
package announce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/osrg/gobgp/v4/api"
	"github.com/osrg/gobgp/v4/pkg/apiutil"
	"github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"github.com/osrg/gobgp/v4/pkg/server"
)

const (
	// restartTime is how long routers keep the routes of a speaker that went away, in
	// seconds: the most that RFC 4724 §3 has room for.
	restartTime = 4095
	// deferral bounds the wait for the routes of routers after a restart, in seconds;
	// none are of interest.
	deferral = 5
	// connectRetry and holdTime are in seconds.
	connectRetry = 1
	holdTime     = 9
	// believed is how long what was announced before a restart is believed.
	believed = 30 * time.Second
	// gather is how long changes are gathered before they are looked at.
	gather = 50 * time.Millisecond
	// multihop is the time to live that sessions start with: routers need not be
	// neighbours of the controller.
	multihop = 64
)

// Peer is a router to tell.
type Peer struct {
	Address netip.AddrPort
	ASN     uint32
}

// ParsePeer reads "ADDRESS@ASN" or "ADDRESS:PORT@ASN"; the port is 179 by default.
func ParsePeer(s string) (Peer, error) {
	address, asn, ok := strings.Cut(s, "@")
	n, err := strconv.ParseUint(asn, 10, 32)
	if !ok || err != nil || n == 0 {
		return Peer{}, fmt.Errorf("announce: parse peer %q: want ADDRESS@ASN", s)
	}
	if a, err := netip.ParseAddr(address); err == nil {
		return Peer{netip.AddrPortFrom(a, 179), uint32(n)}, nil
	}
	a, err := netip.ParseAddrPort(address)
	if err != nil || a.Port() == 0 {
		return Peer{}, fmt.Errorf("announce: parse peer %q: want ADDRESS@ASN", s)
	}
	return Peer{a, uint32(n)}, nil
}

// ParseCommunity reads a community as two numbers of 16 bits (RFC 1997): "64512:100".
func ParseCommunity(s string) (uint32, error) {
	high, low, ok := strings.Cut(s, ":")
	h, err1 := strconv.ParseUint(high, 10, 16)
	l, err2 := strconv.ParseUint(low, 10, 16)
	if !ok || err1 != nil || err2 != nil {
		return 0, fmt.Errorf("announce: parse community %q: want two numbers of 0 to 65535 with a colon between", s)
	}
	return uint32(h)<<16 | uint32(l), nil
}

// Options are the choices of a speaker.
type Options struct {
	ASN      uint32
	RouterID netip.Addr // IPv4
	Peers    []Peer
	// NextHop and NextHop6 are what routers send packets of VIPs to: an address of the
	// network of the switches, of either family. VIPs of a family without one are not
	// announced.
	NextHop, NextHop6 netip.Addr
	Communities       []uint32

	// Serving returns the addresses that something serves now.
	Serving func(ctx context.Context) (map[netip.Addr]bool, error)
	// Changed holds a value when Serving may return something else.
	Changed <-chan struct{}
	// Before is what was announced when the last speaker ended.
	Before []netip.Addr
	// Save is given what is announced whenever it changes, to be Before next time. An
	// error is logged.
	Save func(ctx context.Context, addresses []netip.Addr) error
	Log  *slog.Logger
}

// Speaker announces addresses. It is made by New and runs once.
type Speaker struct {
	o         Options
	bgp       *server.BgpServer
	announced map[netip.Addr]bool
	before    map[netip.Addr]bool // what was announced before and was not seen serving yet
	until     time.Time           // until then it is believed
}

// New checks the options and makes a speaker. It starts nothing.
func New(o Options) (*Speaker, error) {
	switch {
	case o.ASN == 0:
		return nil, errors.New("announce: bgp-asn: must not be 0")
	case !o.RouterID.Is4():
		return nil, errors.New("announce: bgp-router-id: must be an IPv4 address")
	case len(o.Peers) == 0:
		return nil, errors.New("announce: bgp-peer: there is none")
	case !o.NextHop.IsValid() && !o.NextHop6.IsValid():
		return nil, errors.New("announce: bgp-next-hop: must be an address of the network of the switches")
	}
	return &Speaker{o: o, announced: map[netip.Addr]bool{}, before: map[netip.Addr]bool{}}, nil
}

// Run speaks until ctx ends. Sessions then end without a word, so that the routers
// keep the routes.
func (s *Speaker) Run(ctx context.Context) error {
	level := new(slog.LevelVar)
	level.Set(slog.LevelWarn)
	s.bgp = server.NewBgpServer(server.LoggerOption(s.o.Log, level))
	go s.bgp.Serve()
	err := s.bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{
		Asn: s.o.ASN, RouterId: s.o.RouterID.String(), ListenPort: -1,
	}})
	if err != nil {
		return fmt.Errorf("announce: start: %w", err)
	}
	defer func() {
		if err := s.bgp.StopBgp(context.WithoutCancel(ctx), &api.StopBgpRequest{AllowGracefulRestart: true}); err != nil {
			s.o.Log.Warn("BGP does not stop", "error", err)
		}
	}()
	// Routes first: a router that takes the session for a restart drops what is not
	// among the first routes it is sent.
	s.until = time.Now().Add(believed)
	for _, a := range s.o.Before {
		if err := s.add(a); err != nil {
			return err
		}
		s.before[a] = true
	}
	for _, p := range s.o.Peers {
		if err := s.bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: peer(p)}); err != nil {
			return fmt.Errorf("announce: peer %s: %w", p.Address, err)
		}
	}
	look := time.NewTimer(0)
	defer look.Stop()
	doubt := time.NewTimer(believed)
	defer doubt.Stop()
	for waiting := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-s.o.Changed:
			if !waiting {
				look.Reset(gather)
				waiting = true
			}
			continue
		case <-doubt.C:
		case <-look.C:
			waiting = false
		}
		if err := s.update(ctx); err != nil && ctx.Err() == nil {
			s.o.Log.Error("announce VIPs", "error", err)
			look.Reset(time.Second)
			waiting = true
		}
	}
}

// peer is a router as the library wants it described.
func peer(p Peer) *api.Peer {
	family := func(afi api.Family_Afi) *api.AfiSafi {
		return &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: afi, Safi: api.Family_SAFI_UNICAST}, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: true}},
		}
	}
	return &api.Peer{
		Conf:         &api.PeerConf{NeighborAddress: p.Address.Addr().String(), PeerAsn: p.ASN},
		Transport:    &api.Transport{RemotePort: uint32(p.Address.Port())},
		EbgpMultihop: &api.EbgpMultihop{Enabled: true, MultihopTtl: multihop},
		Timers: &api.Timers{Config: &api.TimersConfig{
			ConnectRetry: connectRetry, HoldTime: holdTime, KeepaliveInterval: holdTime / 3, IdleHoldTimeAfterReset: connectRetry,
		}},
		GracefulRestart: &api.GracefulRestart{Enabled: true, RestartTime: restartTime, DeferralTime: deferral, LocalRestarting: true},
		AfiSafis:        []*api.AfiSafi{family(api.Family_AFI_IP), family(api.Family_AFI_IP6)},
	}
}

// update brings what is announced in line with what is served.
func (s *Speaker) update(ctx context.Context) error {
	serving, err := s.o.Serving(ctx)
	if err != nil {
		return err
	}
	changed := false
	for a := range serving {
		delete(s.before, a)
		if s.announced[a] || !s.nextHop(a).IsValid() {
			continue
		}
		if err := s.add(a); err != nil {
			return err
		}
		changed = true
		s.o.Log.Info("VIP announced", "address", a)
	}
	for a := range s.announced {
		if serving[a] || s.before[a] && time.Now().Before(s.until) {
			continue
		}
		path, err := s.path(a)
		if err == nil {
			path.Withdrawal = true
			err = s.bgp.DeletePath(apiutil.DeletePathRequest{Paths: []*apiutil.Path{path}})
		}
		if err != nil {
			return fmt.Errorf("withdraw %s: %w", a, err)
		}
		delete(s.announced, a)
		changed = true
		s.o.Log.Info("VIP withdrawn", "address", a)
	}
	if changed {
		if err := s.o.Save(ctx, slices.SortedFunc(maps.Keys(s.announced), netip.Addr.Compare)); err != nil {
			s.o.Log.Warn("what is announced is not saved", "error", err)
		}
	}
	return nil
}

func (s *Speaker) add(a netip.Addr) error {
	if !s.nextHop(a).IsValid() {
		return nil
	}
	path, err := s.path(a)
	if err == nil {
		_, err = s.bgp.AddPath(apiutil.AddPathRequest{Paths: []*apiutil.Path{path}})
	}
	if err != nil {
		return fmt.Errorf("announce %s: %w", a, err)
	}
	s.announced[a] = true
	return nil
}

func (s *Speaker) nextHop(a netip.Addr) netip.Addr {
	if a.Is4() {
		return s.o.NextHop
	}
	return s.o.NextHop6
}

// path is the route to an address (RFC 4271 §5; for IPv6 RFC 4760 §3).
func (s *Speaker) path(a netip.Addr) (*apiutil.Path, error) {
	nlri, err := bgp.NewIPAddrPrefix(netip.PrefixFrom(a, a.BitLen()))
	if err != nil {
		return nil, err
	}
	attrs := []bgp.PathAttributeInterface{bgp.NewPathAttributeOrigin(bgp.BGP_ORIGIN_ATTR_TYPE_IGP)}
	family := bgp.RF_IPv4_UC
	if a.Is4() {
		hop, err := bgp.NewPathAttributeNextHop(s.o.NextHop)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, hop)
	} else {
		family = bgp.RF_IPv6_UC
		reach, err := bgp.NewPathAttributeMpReachNLRI(family, []bgp.PathNLRI{{NLRI: nlri}}, s.o.NextHop6)
		if err != nil {
			return nil, err
		}
		attrs = append(attrs, reach)
	}
	if len(s.o.Communities) > 0 {
		attrs = append(attrs, bgp.NewPathAttributeCommunities(s.o.Communities))
	}
	return &apiutil.Path{Family: family, Nlri: nlri, Attrs: attrs}, nil
}
