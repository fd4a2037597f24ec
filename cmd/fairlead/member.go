package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/northbound"
)

func memberCommand() *cobra.Command {
	return group("member", "Members of a VIP's listeners", memberAdd(), memberSet(), memberDrain(), memberRemove())
}

const memberArgs = "VIP LISTENER ADDRESS:PORT"

// memberPath checks the three arguments that name a member and returns its path.
func memberPath(args []string) (path string, key balancer.MemberKey, err error) {
	l, err := balancer.ParseListenerKey(args[1])
	if err != nil {
		return "", key, fmt.Errorf("listener: %q is not protocol:port, such as tcp:80", args[1])
	}
	key, err = netip.ParseAddrPort(args[2])
	if err != nil || key.Port() == 0 {
		return "", key, fmt.Errorf("member: %q is not address:port (IPv6 addresses in brackets)", args[2])
	}
	return vipPath(args[0]) + "/listeners/" + l.String() + "/members/" + url.PathEscape(key.String()), key, nil
}

func checkWeight(n int) error {
	if n < 0 || n > balancer.MaxWeight {
		return fmt.Errorf("weight: %d is not from 0 to %d", n, balancer.MaxWeight)
	}
	return nil
}

// printMember writes the answer to a write.
func (c *client) printMember(a answer, args []string, verb string) error {
	if c.output == "table" {
		return c.done("member %s of %s %s %s", args[2], args[0], args[1], verb)
	}
	return c.print(a.body, func(*tabwriter.Writer) error { return nil })
}

func memberAdd() *cobra.Command {
	cmd := &cobra.Command{Use: "add " + memberArgs, Short: "Add a member; IPv6 addresses stand in brackets: [2001:db8::2]:8080", Args: cobra.ExactArgs(3)}
	weight := cmd.Flags().Int("weight", 1, "share of the slots, relative to the other members; 0 drains")
	iface := cmd.Flags().String("interface", "", "`ID` of the interface that it is attached to (external_ids:iface-id in OVSDB): it is where that is")
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		path, key, err := memberPath(args)
		if err != nil {
			return err
		}
		if err := checkWeight(*weight); err != nil {
			return err
		}
		document := map[string]any{"address": key.Addr(), "port": key.Port(), "weight": *weight}
		if *iface != "" {
			document["interface"] = *iface
		}
		body, err := json.Marshal(document)
		if err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPut, path: path, body: body, wait: *wait, headers: []string{"If-None-Match", "*"}})
		if isPrecondition(err) {
			return refused(fmt.Errorf("member %s of %s %s is there already: change it with member set", args[2], args[0], args[1]))
		}
		if err != nil {
			return err
		}
		return c.printMember(a, args, "added")
	})
}

func memberSet() *cobra.Command {
	cmd := &cobra.Command{Use: "set " + memberArgs, Short: "Change a member's weight or admin state", Args: cobra.ExactArgs(3)}
	weight := cmd.Flags().Int("weight", 1, "share of the slots, relative to the other members; 0 drains")
	admin := cmd.Flags().String("admin-state", "up", "up|drain|down")
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		changes := map[string]any{}
		if cmd.Flags().Changed("weight") {
			if err := checkWeight(*weight); err != nil {
				return err
			}
			changes["weight"] = *weight
		}
		if cmd.Flags().Changed("admin-state") {
			states := []string{string(balancer.AdminUp), string(balancer.AdminDrain), string(balancer.AdminDown)}
			if !slices.Contains(states, *admin) {
				return fmt.Errorf("admin-state: %q is none of %s", *admin, strings.Join(states, ", "))
			}
			changes["admin_state"] = *admin
		}
		if len(changes) == 0 {
			return errors.New("--weight or --admin-state is needed")
		}
		a, err := c.changeMember(args, changes, *wait)
		if err != nil {
			return err
		}
		return c.printMember(a, args, "set")
	})
}

func memberDrain() *cobra.Command {
	cmd := &cobra.Command{Use: "drain " + memberArgs, Short: "Take a member's slots away: it keeps its place in the pool and gets no packets (in mode nat its open connections break)", Args: cobra.ExactArgs(3)}
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		a, err := c.changeMember(args, map[string]any{"admin_state": balancer.AdminDrain}, *wait)
		if err != nil {
			return err
		}
		return c.printMember(a, args, "draining")
	})
}

// changeMember reads a member, changes fields of it and writes it back, again when
// somebody else wrote in between.
func (c *client) changeMember(args []string, changes map[string]any, wait time.Duration) (answer, error) {
	path, _, err := memberPath(args)
	if err != nil {
		return answer{}, err
	}
	for try := 1; ; try++ {
		a, err := c.get(path)
		if err != nil {
			return answer{}, err
		}
		m, err := decode[map[string]any](c, a.body)
		if err != nil {
			return answer{}, err
		}
		delete(m, "status")
		for k, v := range changes {
			m[k] = v
		}
		body, err := json.Marshal(m)
		if err != nil {
			return answer{}, err
		}
		a, err = c.do(call{method: http.MethodPut, path: path, body: body, wait: wait, headers: []string{"If-Match", a.etag}})
		if isPrecondition(err) && try < 5 {
			continue
		}
		return a, err
	}
}

func isPrecondition(err error) bool {
	var p *northbound.Problem
	return errors.As(err, &p) && p.Status == http.StatusPreconditionFailed
}

func memberRemove() *cobra.Command {
	cmd := &cobra.Command{Use: "remove " + memberArgs, Short: "Remove a member", Args: cobra.ExactArgs(3)}
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		path, _, err := memberPath(args)
		if err != nil {
			return err
		}
		if _, err := c.do(call{method: http.MethodDelete, path: path, wait: *wait}); err != nil {
			return err
		}
		return c.done("member %s of %s %s removed", args[2], args[0], args[1])
	})
}
