package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"text/tabwriter"

	"gopkg.in/yaml.v3"

	"github.com/fairlead/fairlead/northbound"
)

// print writes an answer as JSON or YAML, in the server's order of fields, or hands it
// to table.
func (c *client) print(body []byte, table func(*tabwriter.Writer) error) error {
	switch c.output {
	case "json":
		var b bytes.Buffer
		if err := json.Indent(&b, bytes.TrimSpace(body), "", "  "); err != nil {
			return c.garbled(err)
		}
		b.WriteByte('\n')
		_, err := c.out.Write(plainJSON(b.Bytes()))
		return err
	case "yaml":
		return c.printYAML(body)
	}
	tw := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	if err := table(tw); err != nil {
		return err
	}
	return tw.Flush()
}

// controls are the characters that JSON leaves as they are, a terminal may obey, and YAML
// does not allow.
var controls = regexp.MustCompile("[\x7f-\u009f]")

// plainJSON escapes them; they can only be within strings.
func plainJSON(b []byte) []byte {
	return controls.ReplaceAllFunc(b, func(c []byte) []byte { return fmt.Appendf(nil, `\u%04x`, []rune(string(c))[0]) })
}

// otherInYAML11 are strings that are truths or numbers to readers of YAML 1.1, which many
// still are.
var otherInYAML11 = regexp.MustCompile(`^(?i:y|n|yes|no|on|off)$|^[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?$`)

// printYAML writes JSON, which is YAML, in block style.
func (c *client) printYAML(body []byte) error {
	var doc yaml.Node
	if err := yaml.Unmarshal(plainJSON(body), &doc); err != nil {
		return c.garbled(err)
	}
	var block func(*yaml.Node)
	block = func(n *yaml.Node) {
		n.Style = 0 // strings that would read as something else are quoted all the same
		if n.Tag == "!!str" && otherInYAML11.MatchString(n.Value) {
			n.Style = yaml.DoubleQuotedStyle
		}
		for _, k := range n.Content {
			block(k)
		}
	}
	block(&doc)
	var b bytes.Buffer
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := errors.Join(enc.Encode(&doc), enc.Close()); err != nil {
		return err
	}
	_, err := c.out.Write(b.Bytes())
	return err
}

// printPage writes a list.
func (c *client) printPage(p northbound.Page[json.RawMessage], table func(*tabwriter.Writer) error) error {
	body, err := json.Marshal(p)
	if err != nil {
		return c.garbled(err)
	}
	return c.print(body, table)
}

// row writes cells of a table; an empty cell becomes a dash.
func row(w io.Writer, cells ...any) {
	for i, cell := range cells {
		s := oneLine(fmt.Sprint(cell))
		if s == "" {
			s = "-"
		}
		if i > 0 {
			io.WriteString(w, "\t")
		}
		io.WriteString(w, s)
	}
	io.WriteString(w, "\n")
}

// gap ends one table; the columns of the next are its own.
func gap(w *tabwriter.Writer) {
	w.Flush()
	io.WriteString(w, "\n")
}

// oneLine keeps what comes from the network from breaking a table or a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
