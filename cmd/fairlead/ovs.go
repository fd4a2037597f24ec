package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/northbound"
	"github.com/fairlead/fairlead/ofproto"
)

// ovsBucket keeps adoptions: endpoint, space, bridge → ovsdb.Adoption.
const ovsBucket = "ovs"

// adoptions is the store of package ovsdb.
type adoptions struct{ db *store.Store }

func adoptionKey(e ovsdb.Endpoint, bridge string) string { return string(e) + " " + bridge }

// Adoptions implements ovsdb.Store.
func (s adoptions) Adoptions(context.Context) ([]ovsdb.Adoption, error) {
	var list []ovsdb.Adoption
	var bad error
	err := s.db.View(func(tx *store.Tx) error {
		tx.Range(ovsBucket, "", "", func(key string, value []byte) bool {
			var a ovsdb.Adoption
			if err := json.Unmarshal(value, &a); err != nil {
				bad = fmt.Errorf("stored adoption %q: %w", key, err)
				return false
			}
			list = append(list, a)
			return true
		})
		return bad
	})
	return list, err
}

// SaveAdoption implements ovsdb.Store.
func (s adoptions) SaveAdoption(ctx context.Context, a ovsdb.Adoption) error {
	value, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Put(ovsBucket, adoptionKey(a.Endpoint, a.Bridge), value) })
}

// DeleteAdoption implements ovsdb.Store.
func (s adoptions) DeleteAdoption(ctx context.Context, e ovsdb.Endpoint, bridge string) error {
	return s.db.Update(ctx, func(tx *store.Tx) error { return tx.Delete(ovsBucket, adoptionKey(e, bridge)) })
}

// switches shows the OpenFlow side to package ovsdb (ovsdb.Switches).
type switches struct {
	core  *controller.Controller
	fresh controller.Stage // of switches never seen
}

// heldBy is the object of the fault that says why nothing is written to a switch.
const heldBy = "store"

func (s switches) Connected(ctx context.Context, dpid ofproto.DPID) (connected bool, held string, err error) {
	err = s.core.Do(ctx, func(c *controller.Context) {
		if sw := c.Switch(dpid); sw != nil {
			connected, held = true, sw.Faults[heldBy]
		}
	})
	return connected, held, err
}

func (s switches) Settled(ctx context.Context, dpid ofproto.DPID) error {
	return s.core.Settled(ctx, dpid)
}

func (s switches) Withdraw(ctx context.Context, dpid ofproto.DPID) error {
	return s.core.Withdraw(ctx, dpid)
}

func (s switches) Release(ctx context.Context, dpid ofproto.DPID) error {
	return s.core.Release(ctx, dpid)
}

func (s switches) TakeOver(ctx context.Context, dpid ofproto.DPID, flushed bool, do, hand func(context.Context) error) (bool, error) {
	return s.core.TakeOver(ctx, dpid, flushed, do, hand)
}

func (s switches) Foreign(ctx context.Context, dpid ofproto.DPID) (n int, err error) {
	err = s.core.Flows(ctx, dpid, func(f ofproto.FlowStats) {
		if !flowtable.OwnsCookie(f.Cookie) && !ofOVS(f) {
			n++
		}
	})
	return n, err
}

// ofOVS says whether a flow is the one that a bridge without a controller has of itself:
// everything to NORMAL.
func ofOVS(f ofproto.FlowStats) bool {
	if f.Table != 0 || f.Priority != 0 || f.Cookie != 0 || f.Match.String() != "" {
		return false
	}
	list, err := f.Instructions()
	if err != nil || len(list) != 1 {
		return false
	}
	apply, ok := list[0].(ofproto.ApplyActions)
	if !ok || len(apply.Actions) != 1 {
		return false
	}
	out, ok := apply.Actions[0].(ofproto.Output)
	return ok && out.Port == ofproto.PortNormal
}

func (s switches) Stage(ctx context.Context, dpid ofproto.DPID) (string, bool, error) {
	stage, stored, err := s.core.StageOf(ctx, dpid)
	return stage.String(), stored, err
}

func (s switches) SetStage(ctx context.Context, dpid ofproto.DPID, stage string) error {
	to := s.fresh
	if stage != "" {
		var err error
		if to, err = parseStage(stage); err != nil {
			return err
		}
	}
	return s.core.SetStage(ctx, dpid, to)
}

// selfTarget is the controller target of this server for a switch that knows this
// machine by the address local.
func selfTarget(openflow net.Addr, secure bool, local netip.Addr) (string, error) {
	at, err := netip.ParseAddrPort(openflow.String())
	if err != nil {
		return "", fmt.Errorf("the server's OpenFlow address: %w", err)
	}
	if bound := at.Addr().Unmap(); !bound.IsUnspecified() {
		if bound.IsLoopback() && !local.IsLoopback() {
			return "", fmt.Errorf("the server takes OpenFlow at %s, which other machines cannot reach: say which controllers the bridge gets", at)
		}
		local = bound
	}
	scheme := "tcp"
	if secure {
		scheme = "ssl"
	}
	return scheme + ":" + netip.AddrPortFrom(local.WithZone(""), at.Port()).String(), nil
}

// client is the TLS of connections to OVSDB servers, with the certificates of the
// listener for switches. A server shows a certificate of the same authority; when that
// has addresses or names of hosts in it, the server's is among them.
func (f *tlsFiles) client(host string) (*tls.Config, error) {
	conf, err := f.current()
	if err != nil {
		return nil, err
	}
	refuse := conf.VerifyConnection
	return &tls.Config{
		Certificates: conf.Certificates, MinVersion: conf.MinVersion, CipherSuites: conf.CipherSuites,
		// The chain is verified below: certificates without names are no good to crypto/tls.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the server shows no certificate")
			}
			leaf := cs.PeerCertificates[0]
			others := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[1:] {
				others.AddCert(c)
			}
			chains, err := leaf.Verify(x509.VerifyOptions{
				Roots: conf.ClientCAs, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
			})
			if err != nil {
				return err
			}
			// What a certificate says of addresses binds those that are reached by address,
			// what it says of names those by name. ovs-pki(8) writes names that are none.
			_, err = netip.ParseAddr(host)
			if byAddress := err == nil; byAddress && len(leaf.IPAddresses) > 0 || !byAddress && slices.ContainsFunc(leaf.DNSNames, isHostname) {
				if err := leaf.VerifyHostname(host); err != nil {
					return err
				}
			}
			cs.VerifiedChains = chains
			return refuse(cs)
		},
	}, nil
}

// isHostname says whether a name can be one of a host.
func isHostname(name string) bool {
	return name != "" && strings.Trim(strings.ToLower(name), "abcdefghijklmnopqrstuvwxyz0123456789.-*") == ""
}

// ovsdbTLS returns what makes the TLS of connections to OVSDB servers; nil without
// southbound TLS.
func (c Config) ovsdbTLS(log *slog.Logger) func(host string) (*tls.Config, error) {
	if c.TLSCert == "" {
		return nil
	}
	least := uint16(tls.VersionTLS13)
	if c.TLSMin == "1.2" {
		least = tls.VersionTLS12
	}
	f := &tlsFiles{cert: c.TLSCert, key: c.TLSKey, ca: c.TLSCA, crl: c.TLSCRL, least: least, log: log}
	return f.client
}

func ovsCommand() *cobra.Command {
	return group("ovs", "Bridges of Open vSwitch, by way of OVSDB", ovsAdopt(), ovsRelease(), ovsList(), ovsShow())
}

func ovsAdopt() *cobra.Command {
	cmd := &cobra.Command{
		Use: "adopt ENDPOINT BRIDGE…", Short: "Make Fairlead the controller of bridges", Args: cobra.MinimumNArgs(1),
		Long: "Make Fairlead the controller of bridges.\n\n" +
			"ENDPOINT is where the bridges' OVSDB listens, as the server can reach it: unix:PATH, tcp:HOST:PORT or ssl:HOST:PORT.\n" +
			"A bridge connects and is filled for its stage before Fairlead becomes its only controller, in one transaction.\n" +
			"What was there is written down in the server's store and in the bridge's external_ids; release puts it back.",
	}
	fs := cmd.Flags()
	stage := fs.String("stage", "", "`STAGE` that the bridge's switch gets first: "+strings.Join(northbound.Stages, "|"))
	controllers := fs.StringSlice("controller", nil, "controller `TARGET` tcp:ADDRESS:PORT or ssl:ADDRESS:PORT, may be repeated (default this server)")
	all := fs.Bool("all", false, "all bridges of the OVSDB")
	discard := fs.Bool("discard-flows", false, "also a bridge that forgets flows of others by it")
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		doc := northbound.OVSAdoption{
			Endpoint: args[0], Bridges: args[1:], All: *all, Stage: *stage, Controllers: *controllers, DiscardFlows: *discard,
		}
		if *all == (len(doc.Bridges) > 0) {
			return errors.New("name bridges, or --all of them")
		}
		if err := checkEndpoint(doc.Endpoint); err != nil {
			return err
		}
		if *stage != "" && !slices.Contains(northbound.Stages, *stage) {
			return fmt.Errorf("stage: %q is none of %s", *stage, strings.Join(northbound.Stages, ", "))
		}
		for _, t := range *controllers {
			if err := ovsdb.ParseController(t); err != nil {
				return fmt.Errorf("controller: %w", err)
			}
		}
		body, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPost, path: "/v1/ovs", body: body})
		if err != nil {
			return err
		}
		outcomes, err := decode[northbound.OVSOutcomes](c, a.body)
		if err != nil {
			return err
		}
		if err := c.print(a.body, func(w *tabwriter.Writer) error {
			row(w, "BRIDGE", "DPID", "STATE", "CHANGED", "REMARKS")
			for _, o := range outcomes.Items {
				row(w, o.Bridge, o.DPID, o.State, o.Changed, strings.Join(append(slices.Clone(o.Warnings), o.Reason), " "))
			}
			return nil
		}); err != nil {
			return err
		}
		refusals := 0
		for _, o := range outcomes.Items {
			if o.State != "adopted" {
				refusals++
			}
		}
		if refusals > 0 {
			return refused(fmt.Errorf("%d of %d bridges were refused", refusals, len(outcomes.Items)))
		}
		return nil
	})
}

func checkEndpoint(s string) error {
	_, err := ovsdb.ParseEndpoint(s)
	return err
}

// ovsPath is the path of a bridge in the REST API.
func ovsPath(endpoint, bridge string) string {
	return "/v1/ovs/" + url.PathEscape(endpoint) + "/" + url.PathEscape(bridge)
}

func ovsRelease() *cobra.Command {
	cmd := &cobra.Command{
		Use: "release ENDPOINT BRIDGE…", Short: "Put bridges back as they were before they were adopted", Args: cobra.MinimumNArgs(1),
	}
	all := cmd.Flags().Bool("all", false, "all adopted bridges of the OVSDB")
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		endpoint, bridges := args[0], args[1:]
		if *all == (len(bridges) > 0) {
			return errors.New("name bridges, or --all of them")
		}
		if err := checkEndpoint(endpoint); err != nil {
			return err
		}
		if *all {
			_, views, err := c.bridges(endpoint)
			if err != nil {
				return err
			}
			for _, v := range views {
				if v.State != "available" {
					bridges = append(bridges, v.Name)
				}
			}
		}
		var failed []error
		for _, b := range bridges {
			if _, err := c.do(call{method: http.MethodDelete, path: ovsPath(endpoint, b)}); err != nil {
				failed = append(failed, err)
				continue
			}
			failed = append(failed, c.done("%s released", oneLine(b)))
		}
		return errors.Join(failed...)
	})
}

// bridges lists the bridges at an endpoint, or at all in use.
func (c *client) bridges(endpoint string) (northbound.Page[json.RawMessage], []ovsdb.View, error) {
	query := url.Values{}
	if endpoint != "" {
		query.Set("endpoint", endpoint)
	}
	page, err := c.search("/v1/ovs", query)
	if err != nil {
		return page, nil, err
	}
	views, err := decodeItems[ovsdb.View](c, page)
	return page, views, err
}

func ovsList() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use: "list [ENDPOINT]", Short: "List the bridges at the endpoints in use, or at one", Args: cobra.MaximumNArgs(1),
	}, outputs, func(c *client, args []string) error {
		endpoint := strings.Join(args, "")
		if len(args) > 0 {
			if err := checkEndpoint(endpoint); err != nil {
				return err
			}
		}
		page, views, err := c.bridges(endpoint)
		if err != nil {
			return err
		}
		return c.printPage(page, func(w *tabwriter.Writer) error {
			bridgeTable(w, views...)
			return nil
		})
	})
}

func bridgeTable(w *tabwriter.Writer, views ...ovsdb.View) {
	row(w, "ENDPOINT", "BRIDGE", "DPID", "STATE", "STAGE", "FAIL MODE", "CONTROLLERS", "PORTS", "REMARKS")
	for _, v := range views {
		var targets []string
		for _, k := range v.Controllers {
			targets = append(targets, k.Target)
		}
		row(w, v.Endpoint, v.Name, v.DPID, v.State, v.Stage, v.FailMode, strings.Join(targets, " "), len(v.Ports),
			strings.Join(append(slices.Clone(v.Drift), v.Reason), " "))
	}
}

func ovsShow() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use: "show ENDPOINT BRIDGE", Short: "Show a bridge and its ports", Args: cobra.ExactArgs(2),
	}, outputs, func(c *client, args []string) error {
		if err := checkEndpoint(args[0]); err != nil {
			return err
		}
		a, err := c.get(ovsPath(args[0], args[1]))
		if err != nil {
			return err
		}
		v, err := decode[ovsdb.View](c, a.body)
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			bridgeTable(w, v)
			gap(w)
			row(w, "PORT", "VLAN", "INTERFACE", "OFPORT", "TYPE", "LINK", "IFACE-ID", "ATTACHED-MAC")
			for _, p := range v.Ports {
				for _, f := range p.Interfaces {
					row(w, p.Name, vlansOf(p), f.Name, f.OFPort, f.Type, f.LinkState, f.IfaceID, f.AttachedMAC)
				}
			}
			return nil
		})
	})
}

// vlansOf writes the VLANs of a port in short.
func vlansOf(p ovsdb.Port) string {
	var parts []string
	if p.VLANMode != "" {
		parts = append(parts, p.VLANMode)
	}
	if p.Tag >= 0 {
		parts = append(parts, fmt.Sprint(p.Tag))
	}
	if len(p.Trunks) > 0 {
		parts = append(parts, strings.Trim(strings.ReplaceAll(fmt.Sprint(p.Trunks), " ", ","), "[]"))
	}
	return strings.Join(parts, " ")
}
