package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/spf13/pflag"

	"github.com/fairlead/fairlead/apps/announce"
	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/store"
)

const announcedKey = "announced" // in controllerBucket: the addresses announced by BGP

func announceFlags(fs *pflag.FlagSet) {
	fs.Uint32("bgp-asn", 0, "announce VIPs by BGP from autonomous system `NUMBER`; 0: do not")
	fs.String("bgp-router-id", "", "BGP identifier, an IPv4 `ADDRESS`")
	fs.StringSlice("bgp-peer", nil, "routers to tell, `ADDRESS[:PORT]@ASN`, with commas between")
	fs.StringSlice("bgp-next-hop", nil, "`ADDRESS` in the network of the switches that routers send packets of VIPs to; one of each family, with a comma between")
	fs.StringSlice("bgp-community", nil, "communities of the routes, `NUMBER:NUMBER`, with commas between")
}

// announceOptions reads the flags of BGP; nil is none.
func announceOptions(fs *pflag.FlagSet) (*announce.Options, error) {
	list := func(name string) []string { l, _ := fs.GetStringSlice(name); return l }
	asn, _ := fs.GetUint32("bgp-asn")
	if asn == 0 {
		for _, name := range []string{"bgp-router-id", "bgp-peer", "bgp-next-hop", "bgp-community"} {
			if f := fs.Lookup(name); f.Value.String() != "" && f.Value.String() != "[]" {
				return nil, fmt.Errorf("%s: needs bgp-asn", name)
			}
		}
		return nil, nil
	}
	o := &announce.Options{ASN: asn}
	id, _ := fs.GetString("bgp-router-id")
	var err error
	if o.RouterID, err = netip.ParseAddr(id); err != nil || !o.RouterID.Is4() {
		return nil, fmt.Errorf("bgp-router-id: %q is not an IPv4 address", id)
	}
	for _, s := range list("bgp-peer") {
		p, err := announce.ParsePeer(s)
		if err != nil {
			return nil, fmt.Errorf("bgp-peer: %w", err)
		}
		o.Peers = append(o.Peers, p)
	}
	for _, s := range list("bgp-next-hop") {
		a, err := netip.ParseAddr(s)
		hop := &o.NextHop
		if a.Is6() {
			hop = &o.NextHop6
		}
		if err != nil || a.Is4In6() || a.Zone() != "" || hop.IsValid() {
			return nil, fmt.Errorf("bgp-next-hop: %q: want one IPv4 or IPv6 address of each family", s)
		}
		*hop = a
	}
	for _, s := range list("bgp-community") {
		c, err := announce.ParseCommunity(s)
		if err != nil {
			return nil, fmt.Errorf("bgp-community: %w", err)
		}
		o.Communities = append(o.Communities, c)
	}
	_, err = announce.New(*o) // whether they make a whole
	return o, err
}

// runAnnounce announces the VIPs of a controller until ctx ends.
func runAnnounce(ctx context.Context, o announce.Options, state state, vips *balancer.App, core *controller.Controller, log *slog.Logger) error {
	var err error
	if o.Before, err = state.announced(); err != nil {
		log.Warn("what was announced is not known", "error", err)
	}
	changed := make(chan struct{}, 1)
	o.Changed, o.Save, o.Log = changed, state.saveAnnounced, log
	o.Serving = func(ctx context.Context) (serving map[netip.Addr]bool, err error) {
		err = core.Do(ctx, func(c *controller.Context) { serving = vips.Serving(c) })
		return serving, err
	}
	speaker, err := announce.New(o)
	if err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			// A subscription that lags is closed: something has changed then, too.
			notices, cancel := core.Subscribe(256)
			for open := true; open; {
				select {
				case changed <- struct{}{}:
				default:
				}
				select {
				case _, open = <-notices:
				case <-ctx.Done():
					open = false
				}
			}
			cancel()
		}
	}()
	return speaker.Run(ctx)
}

func (s state) announced() (list []netip.Addr, err error) {
	err = s.db.View(func(tx *store.Tx) error {
		if b := tx.Get(controllerBucket, announcedKey); b != nil {
			return json.Unmarshal(b, &list)
		}
		return nil
	})
	return list, err
}

func (s state) saveAnnounced(ctx context.Context, list []netip.Addr) error {
	b, err := json.Marshal(list)
	return errors.Join(err, s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(controllerBucket, announcedKey, b) }))
}
