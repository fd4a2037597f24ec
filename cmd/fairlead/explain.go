package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/trace"
	"github.com/fairlead/fairlead/northbound"
)

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "explain --protocol tcp --from IP:PORT --to IP:PORT [--at DPID/PORT]", Short: "Tell what becomes of a packet, and why", Args: cobra.NoArgs,
		Long: "Follow the first packet of a connection, and the answer to it, through the tables and groups of every switch on\n" +
			"its way: which entries it meets, which slot and member it takes and why, and whether the switches hold what they\n" +
			"are to hold. IPv6 addresses are written in brackets.",
	}
	fs := cmd.Flags()
	protocol := fs.String("protocol", "tcp", "tcp|udp|sctp")
	from := fs.String("from", "", "`IP:PORT` of the client")
	to := fs.String("to", "", "`IP:PORT` that it speaks to")
	at := fs.String("at", "", "`DPID/PORT` that the packet comes in by; by default where the client was seen")
	return clientCommand(cmd, outputs, func(c *client, _ []string) error {
		if *from == "" || *to == "" {
			return errors.New("--from and --to are needed")
		}
		if _, err := northbound.ParseQuery(*protocol, *from, *to, *at); err != nil {
			return err
		}
		doc := map[string]string{"protocol": *protocol, "from": *from, "to": *to}
		if *at != "" {
			doc["at"] = *at
		}
		body, err := json.Marshal(doc)
		if err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPost, path: "/v1/explain", body: body})
		if err != nil {
			return err
		}
		e, err := decode[balancer.Explanation](c, a.body)
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			printExplanation(w, e)
			return nil
		})
	})
}

// printExplanation writes an explanation as a tree.
func printExplanation(w io.Writer, e balancer.Explanation) {
	line := func(format string, args ...any) { fmt.Fprintln(w, oneLine(fmt.Sprintf(format, args...))) }
	line("%s %s → %s, in at %s", e.Protocol, e.From, e.To, e.At)
	line("%s", verdict(e))
	printPath(w, e.Path)
	if len(e.Reasons) > 0 {
		line("")
		line("why")
		for _, r := range e.Reasons {
			line("  %s", r)
		}
	}
	if r := e.Reply; r != nil {
		line("")
		line("reply %s → %s, in at %s: %s", r.From, r.To, r.At, r.Result)
		if r.Arrives != nil {
			line("  arrives as %s → %s", r.Arrives.Src, r.Arrives.Dst)
		}
		if r.Reason != "" {
			line("  %s", r.Reason)
		}
		printPath(w, r.Path)
	}
	line("")
	switch {
	case e.InstalledError != "":
		line("installed: %s (%s)", e.Installed, e.InstalledError)
	default:
		line("installed: %s", e.Installed)
	}
	for _, d := range e.Differences {
		what := fmt.Sprintf("group %d", d.Group)
		if d.Table != nil {
			what = fmt.Sprintf("table %d, priority %d, %s", *d.Table, d.Priority, matchText(d.Match))
		}
		line("  switch %s: %s: %s%s", d.DPID, d.Change, what, ownerText(d.Owner, d.Part))
		if d.Change != trace.Extra {
			line("    desired   %s", strings.Join(d.Desired, " "))
		}
		if d.Change != trace.Missing {
			line("    installed %s", strings.Join(d.Installed, " "))
		}
	}
	if len(e.InstalledPath) > 0 {
		line("")
		now := string(e.InstalledResult)
		if e.InstalledMember != "" {
			now += " to " + e.InstalledMember
		}
		line("by what is installed: %s", now)
		printPath(w, e.InstalledPath)
	}
}

// verdict is the explanation in one line.
func verdict(e balancer.Explanation) string {
	text := string(e.Result)
	var of []string
	if e.VIP != "" {
		of = append(of, "vip "+e.VIP)
	}
	if e.Listener != "" {
		of = append(of, "listener "+e.Listener)
	}
	if e.Slot != nil {
		of = append(of, fmt.Sprintf("slot %d of %d", *e.Slot, e.Slots))
	}
	if e.Member != "" {
		text += " to " + e.Member
	}
	if len(e.Candidates) > 0 {
		var members []string
		for _, c := range e.Candidates {
			members = append(members, fmt.Sprintf("%s (%d slots)", c.Member, len(c.Slots)))
		}
		text += ": one of " + strings.Join(members, ", ")
	}
	if len(of) > 0 {
		text += " (" + strings.Join(of, ", ") + ")"
	}
	return text
}

// printPath writes the switches of a way, each with what the packet meets there.
func printPath(w io.Writer, path []balancer.HopView) {
	for _, h := range path {
		fmt.Fprintln(w)
		text := fmt.Sprintf("switch %s, in by port %s: %s → %s, %s → %s", h.DPID, h.InPort, h.Packet.Src, h.Packet.Dst, h.Packet.EthSrc, h.Packet.EthDst)
		if h.Packet.VLAN != 0 {
			text += fmt.Sprintf(", vlan %d", h.Packet.VLAN)
		}
		fmt.Fprintln(w, oneLine(text))
		var rows []treeRow
		for _, s := range h.Steps {
			rows = append(rows, stepRow(s))
		}
		for _, o := range h.Outputs {
			rows = append(rows, outputRow(o, path))
		}
		if h.Error != "" {
			rows = append(rows, treeRow{text: h.Error})
		}
		for i, r := range rows {
			branch, stem := "├─ ", "│  "
			if i == len(rows)-1 {
				branch, stem = "└─ ", "   "
			}
			pad := strings.Repeat("   ", r.depth)
			fmt.Fprintln(w, branch+pad+oneLine(r.text))
			for _, more := range r.more {
				fmt.Fprintln(w, stem+pad+"   "+oneLine(more))
			}
		}
	}
}

// treeRow is one thing that a packet meets.
type treeRow struct {
	depth int
	text  string
	more  []string
}

func stepRow(s balancer.StepView) treeRow {
	r := treeRow{depth: s.Depth}
	switch {
	case s.Table == nil:
		r.text = fmt.Sprintf("group %d, %s", s.Group, s.Type)
		if s.Bucket != nil {
			r.text += fmt.Sprintf(", bucket %d of %d", *s.Bucket, s.Buckets)
		} else {
			r.text += fmt.Sprintf(" of %d buckets", s.Buckets)
		}
	case s.Cookie == "":
		r.text = fmt.Sprintf("table %d %s", *s.Table, s.Name)
	default:
		r.text = fmt.Sprintf("table %d %s, priority %d, %s", *s.Table, s.Name, s.Priority, matchText(s.Match))
	}
	if s.Table == nil || s.Cookie != "" {
		r.text += ownerText(s.Owner, s.Part)
	}
	switch {
	case len(s.Actions) > 0:
		r.more = append(r.more, strings.Join(s.Actions, " "))
	case s.Table != nil && s.Cookie != "":
		r.more = append(r.more, "drop")
	}
	if s.Note != "" {
		r.more = append(r.more, "! "+s.Note)
	}
	return r
}

func outputRow(o balancer.OutputView, path []balancer.HopView) (r treeRow) {
	switch o.To {
	case trace.ToController:
		r.text = "a copy to the controller"
	case trace.ToSelf:
		r.text = "to its own sender by NORMAL: it teaches the switch's MAC table and goes nowhere"
	default:
		r.text = "out"
		if o.Port != "" {
			r.text = "out of port " + o.Port
		}
		r.text += fmt.Sprintf(": %s → %s, %s → %s", o.Packet.Src, o.Packet.Dst, o.Packet.EthSrc, o.Packet.EthDst)
		if o.Next != nil && *o.Next < len(path) {
			r.text += ", to switch " + path[*o.Next].DPID
		}
	}
	if o.Note != "" {
		r.more = append(r.more, o.Note)
	}
	return r
}

// matchText writes a match as ovs-ofctl does.
func matchText(m map[string]string) string {
	if len(m) == 0 {
		return "everything"
	}
	var fields []string
	for _, name := range slices.Sorted(maps.Keys(m)) {
		fields = append(fields, name+"="+m[name])
	}
	return strings.Join(fields, ",")
}

func ownerText(owner, part string) string {
	if owner == "" {
		return "  [not Fairlead's]"
	}
	return "  [" + strings.TrimSpace(owner+" "+part) + "]"
}
