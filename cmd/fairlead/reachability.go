package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/northbound"
	"github.com/fairlead/fairlead/topology"
)

// vipPage is how many VIPs are read at once.
const vipPage = 1000

// measuredVIPs tells a measurement of the VIPs of a service.
func measuredVIPs(service *balancer.Service) func(context.Context) ([]reachability.VIP, error) {
	return func(ctx context.Context) (all []reachability.VIP, err error) {
		for after := ""; ; {
			list, next, err := service.List(ctx, after, vipPage)
			if err != nil {
				return nil, err
			}
			for _, v := range list {
				all = append(all, measuredVIP(v))
			}
			if next == "" {
				return all, nil
			}
			after = next
		}
	}
}

// accessPorts tells a measurement of the ports of adopted bridges that have a tag, by
// which Open vSwitch's own forwarding takes untagged frames to be of a VLAN.
func accessPorts(hosts *ovsdb.Hosts) func(context.Context) (reachability.AccessPorts, error) {
	return func(ctx context.Context) (reachability.AccessPorts, error) {
		views, err := hosts.Bridges(ctx, "") // at the endpoints in use
		if err != nil {
			return nil, err
		}
		return accessPortsOf(views), nil
	}
}

func accessPortsOf(views []ovsdb.View) reachability.AccessPorts {
	ports := reachability.AccessPorts{}
	for _, v := range views {
		dpid, err := strconv.ParseUint(v.DPID, 16, 64)
		if err != nil {
			continue // ovs-vswitchd does not run
		}
		for _, p := range v.Ports {
			// On a trunk the tag says nothing, and a tunnel of 802.1ad has tags within.
			if p.Tag <= 0 || p.VLANMode == "trunk" || p.VLANMode == "dot1q-tunnel" {
				continue
			}
			for _, f := range p.Interfaces {
				if f.OFPort > 0 {
					ports[topology.Place{DPID: topology.DPID(dpid), Port: topology.Port(f.OFPort)}] = uint16(p.Tag)
				}
			}
		}
	}
	return ports
}

func measuredVIP(v balancer.VIP) reachability.VIP {
	m := reachability.VIP{
		Name: v.Name, Address: v.Address, MAC: v.MAC, VLAN: v.VLAN, Tracked: v.Mode == balancer.ModeConntrack, Allowed: v.AllowedCIDRs,
	}
	if v.Status != nil {
		m.Operating = string(v.Status.Operating)
	}
	for _, l := range v.Listeners {
		to := reachability.Listener{Protocol: string(l.Protocol), Port: l.Port}
		for _, b := range l.Pool.Members {
			if b.SlotWeight() == 0 {
				continue
			}
			port := b.Port
			if l.PortEnd != 0 {
				port = l.Port // packets of a range keep theirs
			}
			to.Members = append(to.Members, netip.AddrPortFrom(b.Address, port))
		}
		m.Listeners = append(m.Listeners, to)
	}
	return m
}

func reachabilityCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "reachability [--source ADDRESS] [--vip NAME]", Short: "Measure what answers through the switches", Args: cobra.NoArgs,
		Long: "Ask every host from every switch by ARP or neighbour discovery, and print who answers. The questions are handed\n" +
			"to the switches as if they had come in there, and nothing is left in them. With a source address, which must be\n" +
			"nobody's, VIPs are asked for connections, and ping and tcp probes are possible.",
	}
	fs := cmd.Flags()
	from := fs.StringSlice("from", nil, "measure from these switches only: `DPID`s, with commas between")
	sources := fs.StringSlice("source", nil, "`ADDRESS` that nobody has, for questions by IP; one of each family, with a comma between")
	vips := fs.StringSlice("vip", nil, "ask the listeners of VIP `NAME` too")
	probes := fs.StringSlice("probe", nil, "ask `TYPE:ADDRESS` too: arp:10.0.0.9, ping:10.0.0.9, tcp:10.0.0.9:22, tcp:[2001:db8::9]:22")
	hosts := fs.Bool("hosts", true, "ask the hosts that are known")
	broadcast := fs.Bool("broadcast", false, "count in how many copies a broadcast from each switch arrives")
	rates := fs.Bool("rates", false, "tell what ports carry meanwhile")
	tables := fs.Bool("tables", false, "compare what switches hold with what they are to hold")
	mtu := fs.Int("mtu", 0, "try links with IP packets of that many `BYTES`")
	pairs := fs.Int("max-pairs", reachability.DefaultPairs, "ask at most `N` pairs of a switch and a host")
	timeout := fs.Duration("timeout", reachability.DefaultTimeout, "how long the answer to one question is waited for")
	return clientCommand(cmd, outputs, func(c *client, _ []string) error {
		doc := map[string]any{
			"hosts": *hosts, "broadcast": *broadcast, "rates": *rates, "tables": *tables, "mtu": *mtu, "max_pairs": *pairs, "timeout": timeout.String(),
			"from": *from, "source_addresses": *sources, "vips": *vips,
		}
		for i, dpid := range *from {
			(*from)[i] = wholeDPID(dpid)
		}
		for name, list := range map[string][]string{"from": *from, "source_addresses": *sources, "vips": *vips} {
			if len(list) == 0 {
				delete(doc, name)
			}
		}
		if len(*probes) > 0 {
			var list []documents.Probe
			for _, p := range *probes {
				probe, err := parseProbe(p)
				if err != nil {
					return err
				}
				list = append(list, probe)
			}
			doc["probes"] = list
		}
		body, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		if _, err := northbound.ParseReachability(body); err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPost, path: "/v1/reachability", body: body})
		if err != nil {
			return err
		}
		m, err := decode[reachability.Measurement](c, a.body)
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			printMeasurement(w, m)
			return nil
		})
	})
}

// parseProbe reads TYPE:ADDRESS, with :PORT where the type has one.
func parseProbe(s string) (p documents.Probe, err error) {
	typ, rest, ok := strings.Cut(s, ":")
	p.Type = documents.ProbeType(typ)
	switch {
	case ok && p.Type == documents.ProbeTCP:
		var to netip.AddrPort
		if to, err = netip.ParseAddrPort(rest); err == nil {
			p.Address, p.Port = to.Addr(), to.Port()
			return p, nil
		}
	case ok && (p.Type == documents.ProbeARP || p.Type == documents.ProbePing):
		if p.Address, err = netip.ParseAddr(strings.Trim(rest, "[]")); err == nil {
			return p, nil
		}
	}
	return p, fmt.Errorf("probe: %q is not arp:ADDRESS, ping:ADDRESS or tcp:ADDRESS:PORT", s)
}

// printMeasurement writes a measurement as tables of who asked and who answered.
func printMeasurement(w *tabwriter.Writer, m reachability.Measurement) {
	var from []string // that were measured from
	for _, sw := range m.Switches {
		if sw.Skipped == "" {
			from = append(from, sw.DPID)
		}
	}
	var reasons []string // why there is no answer
	grid := func(head []any, rows [][]any, replies []map[string]reachability.Reply) {
		for _, dpid := range from {
			head = append(head, shortDPID(dpid))
		}
		row(w, head...)
		for i, cells := range rows {
			for _, dpid := range from {
				r, asked := replies[i][dpid]
				cells = append(cells, mark(r, asked))
				if asked && r.Reason != "" && r.Reason != "no answer" {
					reasons = append(reasons, fmt.Sprintf("%s from %s: %s", rows[i][0], shortDPID(dpid), r.Reason))
				}
			}
			row(w, cells...)
		}
		endTable(w)
	}
	fmt.Fprintf(w, "measured in %s from %d switches; columns are their datapath ids\n", m.Took, len(from))
	endTable(w)

	var rows [][]any
	var replies []map[string]reachability.Reply
	index := map[string]int{}
	add := func(key, dpid string, r reachability.Reply, cells ...any) {
		i, ok := index[key]
		if !ok {
			i = len(rows)
			index[key], rows, replies = i, append(rows, cells), append(replies, map[string]reachability.Reply{})
		}
		replies[i][dpid] = r
	}
	flush := func(head ...any) {
		if len(rows) > 0 {
			grid(head, rows, replies)
		}
		rows, replies, index = nil, nil, map[string]int{}
	}
	for _, p := range m.Pairs {
		vlan := ""
		if p.VLAN != 0 {
			vlan = fmt.Sprint(p.VLAN)
		}
		add(fmt.Sprint(p.Address, p.MAC, p.VLAN), p.From, p.Reply, p.Address, p.MAC, vlan, shortDPID(p.At.DPID)+"/"+fmt.Sprint(p.At.Port))
	}
	flush("HOST", "MAC", "VLAN", "AT")
	for _, v := range m.VIPs {
		add(v.VIP+" "+v.Listener, v.From, v.Reply, v.VIP+" "+v.Listener, v.By)
	}
	flush("VIP", "BY")
	for _, p := range m.Probes {
		add(p.Probe.String(), p.From, p.Reply, p.Probe)
	}
	flush("PROBE")
	if len(m.Copies) > 0 {
		row(w, "BROADCAST FROM", "TO", "COPIES")
		for _, c := range m.Copies {
			row(w, shortDPID(c.From), shortDPID(c.To), c.Count)
		}
		endTable(w)
	}
	if len(m.Links) > 0 {
		row(w, "LINK FROM", "TO", "SMALL", fmt.Sprintf("%d BYTES", m.Links[0].MTU))
		for _, l := range m.Links {
			row(w, l.From, l.To, yes(l.Small), yes(l.Full))
		}
		endTable(w)
	}
	if len(m.Rates) > 0 {
		row(w, "PORT", "RX/S", "TX/S")
		for _, r := range m.Rates {
			row(w, r.Place, fmt.Sprintf("%.0f", r.Rx), fmt.Sprintf("%.0f", r.Tx))
		}
		endTable(w)
	}
	for _, sw := range m.Switches {
		switch {
		case sw.Skipped != "":
			reasons = append(reasons, fmt.Sprintf("switch %s was not measured from: %s", sw.DPID, sw.Skipped))
		case sw.Compared && len(sw.Deviations) == 0:
			fmt.Fprintf(w, "switch %s holds what it is to hold\n", sw.DPID)
		}
		for _, d := range sw.Deviations {
			fmt.Fprintf(w, "switch %s: %s\n", sw.DPID, oneLine(d))
		}
	}
	for _, text := range append(reasons, m.Notes...) {
		fmt.Fprintln(w, oneLine(text))
	}
}

// endTable ends a table, so that the next has columns of its own.
func endTable(w *tabwriter.Writer) {
	_ = w.Flush() // an error of the output comes again
	_, _ = io.WriteString(w, "\n")
}

// mark is a reply in a cell.
func mark(r reachability.Reply, asked bool) string {
	switch {
	case !asked:
		return ""
	case r.OK():
		return "yes"
	case r.Result == reachability.Skipped:
		return "?"
	}
	return "NO"
}

func yes(ok bool) string {
	if ok {
		return "yes"
	}
	return "NO"
}

// shortDPID is a datapath id without the zeros before it.
func shortDPID(dpid string) string {
	if s := strings.TrimLeft(dpid, "0"); s != "" {
		return s
	}
	return "0"
}
