package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"gopkg.in/yaml.v3"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/northbound"
)

func vipCommand() *cobra.Command {
	return group("vip", "Virtual IPs",
		vipApply(), vipList(), vipGet(), vipDelete(), vipStats(), vipWatch())
}

func vipPath(name string) string { return "/v1/vips/" + url.PathEscape(name) }

// document is one VIP to be applied: its name, and the JSON that goes to the server.
type document struct {
	name string
	body []byte
}

func vipApply() *cobra.Command {
	cmd := &cobra.Command{
		Use: "apply -f FILE…", Short: "Create or replace VIPs from YAML or JSON documents",
		Long: "Create or replace VIPs from YAML or JSON documents. Each has the VIP's name in \"name\";\n" +
			"what list and get print can be applied again. The file - is the standard input.\n" +
			"Nothing is sent unless every document can be read.",
		Args: cobra.ArbitraryArgs,
	}
	files := cmd.Flags().StringArrayP("file", "f", nil, "`FILE` of documents; - is the standard input")
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		paths := append(*files, args...) // -f a b c
		if len(*files) == 0 {
			return errors.New("-f FILE is needed")
		}
		var docs []document
		for _, path := range paths {
			more, err := readDocuments(path, c.in)
			if err != nil {
				return err
			}
			docs = append(docs, more...)
		}
		done := northbound.Page[json.RawMessage]{Items: []json.RawMessage{}}
		var errs []error
		for _, d := range docs {
			a, err := c.do(call{method: http.MethodPut, path: vipPath(d.name), body: d.body, wait: *wait})
			if err != nil {
				errs = append(errs, fmt.Errorf("vip %s: %w", d.name, err))
				continue // one refused VIP does not hold up the others
			}
			done.Items = append(done.Items, bytes.TrimSpace(a.body))
			verb := "applied"
			if a.status == http.StatusCreated {
				verb = "created"
			}
			errs = append(errs, c.done("vip %s %s", d.name, verb))
		}
		if c.output != "table" {
			errs = append(errs, c.printPage(done, nil))
		}
		return errors.Join(errs...)
	})
}

// readDocuments reads the VIPs of a file of JSON or YAML documents. A document is a
// VIP, a list of VIPs, or a page of them ({"items": […]}).
func readDocuments(path string, stdin io.Reader) ([]document, error) {
	var text []byte
	var err error
	if path == "-" {
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, err
	}
	var docs []document
	add := func(raw json.RawMessage) error {
		more, err := splitDocument(raw)
		if err != nil {
			return fmt.Errorf("%s: document %d: %w", path, len(docs)+1, err)
		}
		docs = append(docs, more...)
		return nil
	}
	if t := bytes.TrimLeft(text, " \t\r\n"); len(t) > 0 && (t[0] == '{' || t[0] == '[') {
		err = eachJSON(t, add)
		if err != nil && yaml.Unmarshal(t, new(any)) == nil {
			docs = nil
			err = eachYAML(t, add) // YAML in flow style
		}
	} else {
		err = eachYAML(text, add)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(docs) == 0 {
		return nil, fmt.Errorf("%s: there is no VIP in it", path)
	}
	return docs, nil
}

func eachJSON(text []byte, add func(json.RawMessage) error) error {
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := add(raw); err != nil {
			return err
		}
	}
}

func eachYAML(text []byte, add func(json.RawMessage) error) error {
	for dec := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var v any
		err := dec.Decode(&v)
		several := new(yaml.TypeError)
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &several):
			return errors.New("yaml: " + strings.Join(several.Errors, "; ")) // each has its line
		case err != nil:
			return err
		case v == nil:
			continue // nothing between two ---
		}
		if err := isJSON(v, ""); err != nil {
			return err
		}
		raw, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if err := add(raw); err != nil {
			return err
		}
	}
}

// isJSON says where in a value of YAML something is that JSON does not have.
func isJSON(v any, at string) error {
	inside := func(key string) string { return strings.TrimPrefix(at+"."+key, ".") }
	switch v := v.(type) {
	case map[any]any:
		for key := range v {
			if _, ok := key.(string); !ok {
				return fmt.Errorf("%s: %v is a key that is not a text: write it in quotes", cmp.Or(at, "document"), key)
			}
		}
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if err := isJSON(v[key], inside(key)); err != nil {
				return err
			}
		}
	case []any:
		for i, one := range v {
			if err := isJSON(one, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("%s: %v is no number that a field may have", cmp.Or(at, "document"), v)
		}
	}
	return nil
}

// splitDocument takes one document apart into VIPs.
func splitDocument(raw json.RawMessage) ([]document, error) {
	var items []json.RawMessage
	if json.Unmarshal(raw, &items) != nil {
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return nil, errors.New("it is not a VIP")
		}
		list, isPage := fields["items"]
		if !isPage {
			var name string
			if json.Unmarshal(fields["name"], &name) != nil || name == "" {
				return nil, errors.New("it has no name")
			}
			return []document{{name, raw}}, nil
		}
		if err := json.Unmarshal(list, &items); err != nil {
			return nil, fmt.Errorf("items: %w", err)
		}
	}
	var docs []document
	for _, item := range items {
		d, err := splitDocument(item)
		if err != nil {
			return nil, err
		}
		docs = append(docs, d...)
	}
	return docs, nil
}

func vipList() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "list", Short: "List the VIPs", Args: cobra.NoArgs}, outputs,
		func(c *client, _ []string) error {
			page, err := c.list("/v1/vips")
			if err != nil {
				return err
			}
			vips, err := decodeItems[balancer.VIP](c, page)
			if err != nil {
				return err
			}
			return c.printPage(page, func(w *tabwriter.Writer) error {
				row(w, "NAME", "ADDRESS", "MODE", "LISTENERS", "MEMBERS", "PROVISIONING", "OPERATING", "GENERATION")
				for _, v := range vips {
					keys, members := []string{}, 0
					for _, l := range v.Listeners {
						keys = append(keys, l.Key().String())
						members += len(l.Pool.Members)
					}
					st := status(v)
					row(w, v.Name, v.Address, v.Mode, strings.Join(keys, ","), members, st.Provisioning, st.Operating, v.Generation)
				}
				return nil
			})
		})
}

func status(v balancer.VIP) balancer.VIPStatus {
	if v.Status == nil {
		return balancer.VIPStatus{}
	}
	return *v.Status
}

func vipGet() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "get NAME", Short: "Show a VIP", Args: cobra.ExactArgs(1)}, outputs,
		func(c *client, args []string) error {
			a, err := c.get(vipPath(args[0]))
			if err != nil {
				return err
			}
			v, err := decode[balancer.VIP](c, a.body)
			if err != nil {
				return err
			}
			return c.print(a.body, func(w *tabwriter.Writer) error {
				st := status(v)
				row(w, "NAME", "ADDRESS", "MAC", "MODE", "PROVISIONING", "OPERATING", "GENERATION")
				row(w, v.Name, v.Address, v.MAC, v.Mode, st.Provisioning, st.Operating, v.Generation)
				gap(w)
				// Few have members with interfaces: the others are spared a column.
				named := slices.ContainsFunc(v.Listeners, func(l balancer.Listener) bool {
					return slices.ContainsFunc(l.Pool.Members, func(m balancer.Member) bool { return m.Interface != "" })
				})
				line := func(listener, member, iface any, rest ...any) {
					cells := []any{listener, member}
					if named {
						cells = append(cells, iface)
					}
					row(w, append(cells, rest...)...)
				}
				line("LISTENER", "MEMBER", "INTERFACE", "WEIGHT", "ADMIN", "HEALTH", "SLOTS", "AT", "REASON")
				for _, l := range v.Listeners {
					if len(l.Pool.Members) == 0 {
						line(l.Key(), "", "", "", "", "", "", "", "")
					}
					for _, m := range l.Pool.Members {
						ms, at := balancer.MemberStatus{}, ""
						if m.Status != nil {
							ms = *m.Status
						}
						if ms.Switch != "" {
							at = fmt.Sprintf("%s/%d", ms.Switch, ms.Port)
						}
						line(l.Key(), m.Key(), m.Interface, m.Weight, m.AdminState, ms.Health, ms.Slots, at, ms.Reason)
					}
				}
				if len(v.Listeners) > 0 {
					gap(w)
					row(w, "LISTENER", "SLOTS", "QUANTISATION ERROR")
					for _, l := range v.Listeners {
						if l.Status != nil {
							row(w, l.Key(), l.Status.Slots, percent(l.Status.QuantisationError))
						}
					}
				}
				if len(st.Switches) > 0 {
					gap(w)
					row(w, "SWITCH", "STATE", "GENERATION", "METHOD", "SLOTS", "REASON")
					for _, s := range st.Switches {
						row(w, s.DPID, s.State, s.Generation, s.Method, s.Slots, s.Reason)
					}
				}
				return nil
			})
		})
}

func vipDelete() *cobra.Command {
	cmd := &cobra.Command{Use: "delete NAME", Short: "Delete a VIP", Args: cobra.ExactArgs(1)}
	wait := waitFlag(cmd)
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		if _, err := c.do(call{method: http.MethodDelete, path: vipPath(args[0]), wait: *wait}); err != nil {
			return err
		}
		return c.done("vip %s deleted", args[0])
	})
}

// done reports a write that has no document for an answer.
func (c *client) done(format string, args ...any) error {
	if c.output == "table" {
		_, err := fmt.Fprintf(c.out, format+"\n", args...)
		return err
	}
	return nil
}

func vipWatch() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "watch", Short: "Follow what changes of VIPs and members", Args: cobra.NoArgs}, outputs,
		func(c *client, _ []string) error {
			lagged := errors.New("lagged")
			for {
				err := c.events(func(typ string, data []byte) error {
					switch northbound.EventType(typ) {
					case northbound.EventVIP, northbound.EventMember:
						return c.printEvent(data)
					case northbound.EventLagged:
						if err := c.printEvent(data); err != nil {
							return err
						}
						return lagged
					}
					return nil
				})
				if !errors.Is(err, lagged) {
					return err
				}
			}
		})
}

// printEvent writes one event as it comes: a line of a table or of JSON, or a YAML
// document.
func (c *client) printEvent(data []byte) error {
	switch c.output {
	case "json":
		_, err := fmt.Fprintf(c.out, "%s\n", plainJSON(data))
		return err
	case "yaml":
		fmt.Fprintln(c.out, "---")
		return c.printYAML(data)
	}
	e, err := decode[struct {
		Type string          `json:"type"`
		Time string          `json:"time"`
		Data json.RawMessage `json:"data"`
	}](c, data)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.out, "%s %s %s\n", e.Time, e.Type, oneLine(string(e.Data)))
	return err
}
