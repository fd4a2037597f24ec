package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/northbound"
	"github.com/fairlead/fairlead/ofproto"
)

func switchCommand() *cobra.Command {
	return group("switch", "Switches", switchList(), switchGet(), switchStage(), switchBPDUs(), switchConfirm(), switchUnbind(), switchFlows(), switchGroups())
}

// switchPath checks a DPID: up to 16 hex digits.
func switchPath(dpid string) (string, error) {
	d, err := northbound.ParseDPID(wholeDPID(dpid))
	if err != nil {
		return "", fmt.Errorf("dpid: %q is not up to 16 hex digits", dpid)
	}
	return "/v1/switches/" + d.String(), nil
}

// wholeDPID adds the zeros that a DPID may be given without.
func wholeDPID(dpid string) string {
	if len(dpid) == 0 || len(dpid) > 16 {
		return dpid
	}
	return strings.Repeat("0", 16-len(dpid)) + dpid
}

func switchList() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "list", Short: "List the switches", Args: cobra.NoArgs}, outputs,
		func(c *client, _ []string) error {
			page, err := c.list("/v1/switches")
			if err != nil {
				return err
			}
			list, err := decodeItems[northbound.SwitchView](c, page)
			if err != nil {
				return err
			}
			return c.printPage(page, func(w *tabwriter.Writer) error { return switchTable(w, list...) })
		})
}

func switchTable(w *tabwriter.Writer, list ...northbound.SwitchView) error {
	row(w, "DPID", "STATE", "SECURE", "ROLE", "STAGE", "BPDUS", "ADDRESS", "PORTS", "FLOWS", "GROUPS", "FAULTS", "SOFTWARE")
	for _, s := range list {
		row(w, s.DPID, s.Connection.State, s.Connection.Secure, s.Role, s.Stage, s.BPDUs, s.Connection.Address, s.Counts.Ports, s.Counts.Flows, s.Counts.Groups,
			len(s.Faults), strings.TrimSpace(s.Description.Hardware+" "+s.Description.Software))
	}
	return nil
}

func switchGet() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "get DPID", Short: "Show a switch", Args: cobra.ExactArgs(1)}, outputs,
		func(c *client, args []string) error {
			path, err := switchPath(args[0])
			if err != nil {
				return err
			}
			a, err := c.get(path)
			if err != nil {
				return err
			}
			s, err := decode[northbound.SwitchView](c, a.body)
			if err != nil {
				return err
			}
			return c.print(a.body, func(w *tabwriter.Writer) error {
				if err := switchTable(w, s); err != nil {
					return err
				}
				if k := s.Capabilities; k.Balancing.Method != "" {
					gap(w)
					row(w, "BALANCING", "SLOTS", "PIPELINE", "REASON")
					row(w, k.Balancing.Method, k.Balancing.Slots, k.Pipeline, k.Balancing.Reason)
					gap(w)
					capabilityTable(w, k)
				}
				gap(w)
				row(w, "PORT", "NAME", "MAC", "UP", "KBPS", "IFACE-ID", "ATTACHED-MAC", "BLOCKED")
				for _, p := range s.Ports {
					row(w, ofproto.Port(p.Port), p.Name, p.MAC, p.Up, p.SpeedKbps, p.IfaceID, p.AttachedMAC, p.Blocked)
				}
				if len(s.Faults) > 0 {
					gap(w)
					row(w, "FAULT", "REASON")
					for _, f := range s.Faults {
						row(w, f.Object, f.Reason)
					}
				}
				return nil
			})
		})
}

// capabilityTable writes what a switch has, what it lacks, and its sizes.
func capabilityTable(w *tabwriter.Writer, k northbound.CapabilitiesView) {
	var has, lacks []string
	for _, c := range []struct {
		name string
		has  bool
	}{
		{"bundles", k.Bundles}, {"select groups", k.SelectGroups}, {"fast failover", k.FastFailover}, {"group chaining", k.GroupChaining}, {"flooding groups", k.AllGroups},
		{"watching ports", k.WatchPort}, {"watching groups", k.WatchGroup}, {"NORMAL", k.Normal}, {"NORMAL in groups", k.NormalInBuckets},
		{"masks on IPv4 addresses", k.AddressMasks}, {"masks on IPv6 addresses", k.IPv6Masks}, {"masks on ports", k.PortMasks},
		{"Nicira's actions", k.Nicira}, {"answers to neighbour solicitations", k.NDAnswers}, {"hashing of sources", k.Hashing}, {"lookups by actions", k.Resubmits}, {"flags of TCP", k.TCPFlags},
		{"connection tracking", k.ConnTrack}, {"holding entries", k.Holds},
	} {
		if c.has {
			has = append(has, c.name)
		} else {
			lacks = append(lacks, c.name)
		}
	}
	row(w, "CAPABILITIES", "")
	row(w, "has", strings.Join(has, ", "))
	row(w, "lacks", strings.Join(lacks, ", "))
	row(w, "rewrites", fmt.Sprintf("%s; in groups %s", strings.Join(k.SetFields, ", "), strings.Join(k.BucketSetFields, ", ")))
	sizes := fmt.Sprintf("%d tables, %d buckets of a group, %d meters", k.Tables, k.MaxBuckets, k.MaxMeters)
	if k.MaxGroups > 0 {
		sizes += fmt.Sprintf(", %d groups", k.MaxGroups)
	}
	row(w, "sizes", sizes)
	known := "as it declares"
	if k.Probed {
		known = "tried out on its kind"
	}
	row(w, "known", known)
}

func switchStage() *cobra.Command {
	cmd := &cobra.Command{
		Use: "stage DPID STAGE", Short: "Move a switch to a stage: " + strings.Join(northbound.Stages, ", "), Args: cobra.ExactArgs(2),
	}
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		path, err := switchPath(args[0])
		if err != nil {
			return err
		}
		if !slices.Contains(northbound.Stages, args[1]) {
			return fmt.Errorf("stage: %q is none of %s", args[1], strings.Join(northbound.Stages, ", "))
		}
		body, err := json.Marshal(map[string]string{"stage": args[1]})
		if err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPut, path: path + "/stage", body: body, wait: *wait})
		if err != nil {
			return err
		}
		if c.output == "table" {
			return c.done("switch %s in stage %s", args[0], args[1])
		}
		return c.print(a.body, nil)
	})
}

func switchBPDUs() *cobra.Command {
	cmd := &cobra.Command{
		Use: "bpdus DPID CHOICE", Short: "Say what a switch does with BPDUs: " + strings.Join(northbound.BPDUs, ", "), Args: cobra.ExactArgs(2),
		Long: "Say what a switch does with the frames of spanning tree that reach it. drop: they end at a managed switch; in the\n" +
			"stages below, the switch's own forwarding decides. forward: they go through it as through a cable, in every stage.\n" +
			"guard: one at an edge port of a managed switch blocks the port, until none came for 30 seconds.",
	}
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		path, err := switchPath(args[0])
		if err != nil {
			return err
		}
		if !slices.Contains(northbound.BPDUs, args[1]) {
			return fmt.Errorf("bpdus: %q is none of %s", args[1], strings.Join(northbound.BPDUs, ", "))
		}
		body, err := json.Marshal(map[string]string{"bpdus": args[1]})
		if err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPut, path: path + "/bpdus", body: body, wait: *wait})
		if err != nil {
			return err
		}
		if c.output == "table" {
			return c.done("switch %s: BPDUs %s", args[0], args[1])
		}
		return c.print(a.body, nil)
	})
}

func switchConfirm() *cobra.Command {
	cmd := &cobra.Command{
		Use: "confirm DPID", Short: "Let a switch be written to that was held back", Args: cobra.ExactArgs(1),
		Long: "Let a switch be written to that was held back: because the store does not seem to be the one it was programmed\n" +
			"from, or because more than half of what it holds would be deleted. `switch get` shows which. What the store\n" +
			"does not want is then deleted from the switch. One whose ports are those that another datapath id had (fault\n" +
			"`ports`) has them for its own from then on.",
	}
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		path, err := switchPath(args[0])
		if err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPost, path: path + "/confirm", wait: *wait})
		if err != nil {
			return err
		}
		if c.output == "table" {
			return c.done("switch %s confirmed", args[0])
		}
		return c.print(a.body, nil)
	})
}

func switchUnbind() *cobra.Command {
	cmd := &cobra.Command{
		Use: "unbind DPID", Short: "Forget the certificate that a switch is bound to", Args: cobra.ExactArgs(1),
		Long: "Forget the certificate that a switch is bound to: the next one that it shows is bound in its place. Needed when a\n" +
			"switch gets a new key, or is replaced, and its certificate does not name its datapath id.",
	}
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		path, err := switchPath(args[0])
		if err != nil {
			return err
		}
		if _, err := c.do(call{method: http.MethodDelete, path: path + "/certificate"}); err != nil {
			return err
		}
		return c.done("switch %s is bound to no certificate", args[0])
	})
}

func switchFlows() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "flows DPID", Short: "List the flows that a switch holds", Args: cobra.ExactArgs(1)}, outputs,
		func(c *client, args []string) error {
			path, err := switchPath(args[0])
			if err != nil {
				return err
			}
			page, err := c.list(path + "/flows")
			if err != nil {
				return err
			}
			flows, err := decodeItems[northbound.FlowView](c, page)
			if err != nil {
				return err
			}
			return c.printPage(page, func(w *tabwriter.Writer) error {
				row(w, "TABLE", "PRIORITY", "OWNER", "PACKETS", "BYTES", "MATCH", "INSTRUCTIONS")
				for _, f := range flows {
					var match []string
					for _, name := range slices.Sorted(maps.Keys(f.Match)) {
						match = append(match, name+"="+f.Match[name])
					}
					row(w, f.Table, f.Priority, f.Owner, f.Packets, f.Bytes, strings.Join(match, ","), strings.Join(f.Instructions, " "))
				}
				return nil
			})
		})
}

func switchGroups() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "groups DPID", Short: "List the groups that a switch holds", Args: cobra.ExactArgs(1)}, outputs,
		func(c *client, args []string) error {
			path, err := switchPath(args[0])
			if err != nil {
				return err
			}
			page, err := c.list(path + "/groups")
			if err != nil {
				return err
			}
			groups, err := decodeItems[northbound.GroupView](c, page)
			if err != nil {
				return err
			}
			return c.printPage(page, func(w *tabwriter.Writer) error {
				row(w, "ID", "TYPE", "OWNER", "PACKETS", "BYTES", "BUCKETS", "ACTIONS OF THE FIRST")
				for _, g := range groups {
					first := ""
					if len(g.Buckets) > 0 {
						first = strings.Join(g.Buckets[0].Actions, ",")
					}
					row(w, g.ID, g.Type, g.Owner, g.Packets, g.Bytes, len(g.Buckets), first)
				}
				return nil
			})
		})
}
