package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// coverage is what the table of GET /v1/coverage shows of the document.
type coverage struct {
	Paths   int `json:"paths"`
	Covered int `json:"covered"`
	Never   int `json:"never"`
	VIPs    []struct {
		Name     string   `json:"name"`
		Paths    int      `json:"paths"`
		Covered  int      `json:"covered"`
		Never    int      `json:"never"`
		Unplaced []string `json:"unplaced"`
		Gaps     []struct {
			From    place  `json:"from"`
			Clients int    `json:"clients"`
			Member  string `json:"member"`
			To      place  `json:"to"`
			Reason  string `json:"reason"`
		} `json:"gaps"`
	} `json:"vips"`
	Steps []struct {
		DPID     string `json:"dpid"`
		Name     string `json:"name"`
		Kind     string `json:"kind"`
		Endpoint string `json:"endpoint"`
		Behind   *place `json:"behind"`
		Gain     int    `json:"gain"`
		Covered  int    `json:"covered"`
	} `json:"steps"`
}

func migrateCoverage() *cobra.Command {
	cmd := &cobra.Command{
		Use: "coverage", Short: "Show which paths of VIPs cross a converted switch, and what to convert next", Args: cobra.NoArgs,
		Long: "Show which paths of VIPs cross a switch in stage steer or managed, and which switch or bridge to convert next.\n\n" +
			"A path leads from a client (a host that is no member) to a member and back; what the way back must cross is up to the mode of the VIP.\n" +
			"With --output dot or svg the network is drawn, as it is now or, with --after N, after the first N conversions.",
	}
	after := cmd.Flags().Int("after", 0, "draw the network as it is after the first `N` conversions")
	return clientCommand(cmd, []string{"table", "json", "yaml", "dot", "svg"}, func(c *client, _ []string) error {
		k := call{method: http.MethodGet, path: "/v1/coverage"}
		drawn := c.output == "dot" || c.output == "svg"
		if *after != 0 && (!drawn || *after < 0) {
			return errors.New("after: is the number of conversions to draw, with --output dot or svg")
		}
		if drawn {
			k.query = url.Values{"format": {c.output}, "after": {strconv.Itoa(*after)}}
		}
		a, err := c.do(k)
		if err != nil {
			return err
		}
		if drawn {
			_, err := c.out.Write(a.body)
			return err
		}
		doc, err := decode[coverage](c, a.body)
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			coverageTable(w, doc)
			return nil
		})
	})
}

func coverageTable(w *tabwriter.Writer, doc coverage) {
	row(w, "VIP", "PATHS", "COVERED", "NEVER", "MEMBERS NOT FOUND")
	for _, v := range doc.VIPs {
		row(w, v.Name, v.Paths, v.Covered, v.Never, len(v.Unplaced))
	}
	row(w, "all", doc.Paths, doc.Covered, doc.Never, "")
	if len(doc.Steps) > 0 {
		gap(w)
		row(w, "STEP", "CONVERT", "DPID", "PATHS WON", "COVERED", "BY")
		for i, s := range doc.Steps {
			what, by := "switch "+s.Name, "fairlead switch stage "+s.DPID+" steer"
			if s.Kind == "bridge" {
				what, by = "bridge "+s.Name, "fairlead ovs adopt "+s.Endpoint+" "+s.Name+" --stage steer"
				if s.Behind != nil {
					what += " behind " + s.Behind.String()
				}
			}
			row(w, i+1, what, s.DPID, s.Gain, percentOf(s.Covered, doc.Paths), by)
		}
	}
	first := true
	for _, v := range doc.VIPs {
		for _, g := range v.Gaps {
			if first {
				gap(w)
				row(w, "VIP", "CLIENTS", "AT", "MEMBER", "AT", "WHY NOT COVERED")
				first = false
			}
			row(w, v.Name, g.Clients, g.From, g.Member, g.To, g.Reason)
		}
	}
}

func percentOf(n, of int) string {
	if of == 0 {
		return "-"
	}
	return fmt.Sprintf("%d (%s)", n, percent(float64(n)/float64(of)))
}
