package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// graph is what the table of a topology shows of the document.
type graph struct {
	Switches []struct {
		Name  string `json:"name"`
		DPID  string `json:"dpid"`
		Ports []any  `json:"ports"`
	} `json:"switches"`
	Links []struct {
		A     place  `json:"a"`
		B     place  `json:"b"`
		State string `json:"state"`
		Tree  bool   `json:"tree"`
		Fault string `json:"fault"`
	} `json:"links"`
	Segments []struct {
		Ports []struct {
			place
			Fault string `json:"fault"`
		} `json:"ports"`
	} `json:"segments"`
	Hosts []struct {
		MAC   string   `json:"mac"`
		VLAN  int      `json:"vlan"`
		Place place    `json:"place"`
		IPs   []string `json:"ips"`
	} `json:"hosts"`
}

// faults are what is wrong with links and ports of segments that are used all the same.
func (g graph) faults() (list []string) {
	for _, l := range g.Links {
		if l.Fault != "" {
			list = append(list, l.Fault)
		}
	}
	for _, s := range g.Segments {
		for _, p := range s.Ports {
			if p.Fault != "" {
				list = append(list, p.Fault)
			}
		}
	}
	return list
}

type place struct {
	DPID string `json:"dpid"`
	Port uint32 `json:"port"`
}

func (p place) String() string { return fmt.Sprintf("%s/%d", p.DPID, p.Port) }

func topologyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "topology", Short: "Show or draw the network", Args: cobra.NoArgs}
	return clientCommand(cmd, []string{"table", "json", "yaml", "dot", "svg"}, func(c *client, _ []string) error {
		k := call{method: http.MethodGet, path: "/v1/topology"}
		if c.output == "dot" || c.output == "svg" {
			k.query = url.Values{"format": {c.output}}
			a, err := c.do(k)
			if err == nil {
				_, err = c.out.Write(a.body)
			}
			return err
		}
		a, err := c.do(k)
		if err != nil {
			return err
		}
		g, err := decode[graph](c, a.body)
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			row(w, "SWITCH", "NAME", "PORTS")
			for _, s := range g.Switches {
				row(w, s.DPID, s.Name, len(s.Ports))
			}
			if len(g.Links) > 0 {
				gap(w)
				row(w, "LINK", "TO", "STATE", "BROADCASTS")
				for _, l := range g.Links {
					tree := "no"
					if l.Tree {
						tree = "yes"
					}
					row(w, l.A, l.B, l.State, tree)
				}
			}
			if faults := g.faults(); len(faults) > 0 {
				gap(w)
				row(w, "FAULT")
				for _, text := range faults {
					row(w, text)
				}
			}
			if len(g.Hosts) > 0 {
				gap(w)
				row(w, "HOST", "VLAN", "AT", "ADDRESSES")
				for _, h := range g.Hosts {
					row(w, h.MAC, h.VLAN, h.Place, strings.Join(h.IPs, ","))
				}
			}
			return nil
		})
	})
}
