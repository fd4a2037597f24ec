package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/northbound"
)

// client speaks to one server. It is what a client command runs with.
type client struct {
	base   string // URL without a slash at the end
	token  string
	output string // format of what is printed

	ctx context.Context
	in  io.Reader
	out io.Writer
}

const (
	defaultServer = "http://127.0.0.1:8080"

	// answerTime is how long an answer may take, beyond what a write was told to wait.
	answerTime = time.Minute
	// maxAnswer bounds one answer, in bytes.
	maxAnswer = 256 << 20
)

var outputs = []string{"table", "json", "yaml"}

// clientCommand makes a command of cmd that talks to a server: it gets the flags all
// clients have, and its errors at run time that are not usage are the server's.
func clientCommand(cmd *cobra.Command, outputs []string, do func(c *client, args []string) error) *cobra.Command {
	fs := cmd.Flags()
	server := fs.String("server", "", "`URL` of the server (or FAIRLEAD_SERVER; default "+defaultServer+")")
	token := fs.String("token", "", "`TOKEN` for the server (or FAIRLEAD_TOKEN)")
	output := outputFlag(cmd, outputs)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		base := firstOf(*server, os.Getenv(envPrefix+"SERVER"), defaultServer)
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
			return fmt.Errorf("server: %q is not a URL such as %s", base, defaultServer)
		}
		if err := checkOutput(*output, outputs); err != nil {
			return err
		}
		return do(&client{
			base: strings.TrimRight(base, "/"), token: firstOf(*token, os.Getenv(envPrefix+"TOKEN")), output: *output,
			ctx: cmd.Context(), in: cmd.InOrStdin(), out: printed{cmd.OutOrStdout()},
		}, args)
	}
	return cmd
}

// printed is where commands print to. That it takes no more is no wrong usage.
type printed struct{ to io.Writer }

func (p printed) Write(b []byte) (int, error) {
	n, err := p.to.Write(b)
	return n, refused(err)
}

// outputFlag adds --output to a command; the first of outputs is the default.
func outputFlag(cmd *cobra.Command, outputs []string) *string {
	return cmd.Flags().StringP("output", "o", outputs[0], strings.Join(outputs, "|"))
}

func checkOutput(output string, outputs []string) error {
	if !slices.Contains(outputs, output) {
		return fmt.Errorf("output: %q is none of %s", output, strings.Join(outputs, ", "))
	}
	return nil
}

func firstOf(list ...string) string {
	for _, s := range list {
		if s != "" {
			return s
		}
	}
	return ""
}

// call is one request: headers come in pairs, body may be nil.
type call struct {
	method, path string
	query        url.Values
	headers      []string
	body         []byte
	wait         time.Duration // ?wait=
}

// answer is what the server said when it did not refuse.
type answer struct {
	status int
	etag   string
	body   []byte
}

// do sends a request. What the server refuses is an error that wraps a
// *northbound.Problem; every error is a refusal.
func (c *client) do(k call) (answer, error) {
	ctx, cancel := context.WithTimeout(c.ctx, answerTime+k.wait)
	defer cancel()
	if k.wait > 0 {
		if k.query == nil {
			k.query = url.Values{}
		}
		k.query.Set("wait", k.wait.String())
	}
	resp, err := c.send(ctx, k)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, refused(fmt.Errorf("read the answer of %s: %w", c.base, err))
	}
	return answer{resp.StatusCode, resp.Header.Get("ETag"), body}, nil
}

// send sends a request and returns the answer with its body unread, unless the server
// refused.
func (c *client) send(ctx context.Context, k call) (*http.Response, error) {
	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, bytes.NewReader(k.body))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", target, err)
	}
	if k.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	for h := k.headers; len(h) > 1; h = h[2:] {
		req.Header.Set(h[0], h[1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		var ue *url.Error // it repeats the whole URL
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, refused(fmt.Errorf("%s %s: %w", k.method, c.base+k.path, err))
	}
	if resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	p := &northbound.Problem{Title: resp.Status}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if t, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); t != "application/problem+json" || json.Unmarshal(body, p) != nil {
		p = &northbound.Problem{Title: resp.Status, Status: resp.StatusCode, Detail: strings.TrimSpace(string(body[:min(len(body), 200)]))}
	}
	return nil, refused(p)
}

// get reads one resource.
func (c *client) get(path string) (answer, error) {
	return c.do(call{method: http.MethodGet, path: path})
}

// list reads all pages of a list. The result is one page with all items, as the server
// wrote them.
func (c *client) list(path string) (northbound.Page[json.RawMessage], error) {
	return c.search(path, nil)
}

// search reads all pages of a list that query restricts.
func (c *client) search(path string, query url.Values) (northbound.Page[json.RawMessage], error) {
	all := northbound.Page[json.RawMessage]{Items: []json.RawMessage{}}
	for after := ""; ; {
		q := url.Values{"limit": {"1000"}}
		maps.Copy(q, query)
		if after != "" {
			q.Set("after", after)
		}
		a, err := c.do(call{method: http.MethodGet, path: path, query: q})
		if err != nil {
			return all, err
		}
		var p northbound.Page[json.RawMessage]
		if err := json.Unmarshal(a.body, &p); err != nil {
			return all, c.garbled(err)
		}
		all.Items = append(all.Items, p.Items...)
		if p.Next == "" || p.Next == after {
			return all, nil
		}
		after = p.Next
	}
}

// garbled is the error for an answer that is not what it should be.
func (c *client) garbled(err error) error {
	return refused(fmt.Errorf("the answer of %s is not understood: %w", c.base, err))
}

// decode reads an answer.
func decode[T any](c *client, body []byte) (T, error) {
	var v T
	if err := json.Unmarshal(body, &v); err != nil {
		return v, c.garbled(err)
	}
	return v, nil
}

// decodeItems reads the items of a list.
func decodeItems[T any](c *client, p northbound.Page[json.RawMessage]) ([]T, error) {
	list := make([]T, len(p.Items))
	for i, raw := range p.Items {
		if err := json.Unmarshal(raw, &list[i]); err != nil {
			return nil, c.garbled(err)
		}
	}
	return list, nil
}

// events calls f for every server-sent event until the stream ends, ctx ends or f
// returns an error. It returns nil when ctx ends.
func (c *client) events(f func(typ string, data []byte) error) error {
	resp, err := c.send(c.ctx, call{method: http.MethodGet, path: "/v1/events"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 16<<20)
	var typ string
	var data []byte
	for sc.Scan() {
		field, value, _ := strings.Cut(sc.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "event":
			typ = value
		case "data":
			data = append(data, value...)
		case "": // the end of an event, or a comment
			if value == "" && data != nil {
				if err := f(typ, data); err != nil {
					return err
				}
				typ, data = "", nil
			}
		}
	}
	if c.ctx.Err() != nil {
		return nil
	}
	err = sc.Err()
	if err == nil {
		err = io.EOF
	}
	return refused(fmt.Errorf("event stream of %s ended: %w", c.base, err))
}

// waitFlag adds --wait to a command that writes.
func waitFlag(cmd *cobra.Command) *time.Duration {
	w := new(waitTime)
	cmd.Flags().Var(w, "wait", "also wait, at most `DURATION`, until every switch concerned has acknowledged")
	return (*time.Duration)(w)
}

// waitTime is a flag's value: a time that the server is ready to wait.
type waitTime time.Duration

// Set implements pflag.Value.
func (w *waitTime) Set(s string) error {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > northbound.MaxWait {
		return fmt.Errorf("it is not a duration from 0s to %s, such as 5s", northbound.MaxWait)
	}
	*w = waitTime(d)
	return nil
}

// String implements pflag.Value.
func (w *waitTime) String() string { return time.Duration(*w).String() }

// Type implements pflag.Value.
func (w *waitTime) Type() string { return "duration" }
