package northbound

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/ofproto"
)

const (
	// maxBody is the largest request body read, in bytes.
	maxBody = 1 << 20
	// MaxWait bounds ?wait=: a request that waits holds a connection.
	MaxWait = time.Minute

	defaultLimit = 100
	maxLimit     = 1000
)

// pathParam returns a path parameter with its percent-encoding undone. The router
// matches on the escaped path when there is one (so that %2F is no separator) and
// hands out the pieces as they stand there; otherwise they are decoded already.
func pathParam(c echo.Context, name string) (string, error) {
	v := c.Param(name)
	if c.Request().URL.RawPath == "" {
		return v, nil
	}
	dec, err := url.PathUnescape(v)
	if err != nil {
		return "", badField(name, "percent-encoding is broken")
	}
	return dec, nil
}

func dpidParam(c echo.Context) (ofproto.DPID, error) {
	v, err := pathParam(c, "dpid")
	if err != nil {
		return 0, err
	}
	return ParseDPID(v)
}

// ParseDPID reads the 16 hex digits of a datapath ID; the error is a *Problem that
// blames "dpid".
func ParseDPID(v string) (ofproto.DPID, error) {
	n, err := strconv.ParseUint(v, 16, 64)
	if err != nil || len(v) != 16 {
		return 0, badField("dpid", "%q is not 16 hex digits", v)
	}
	return ofproto.DPID(n), nil
}

func listenerParam(c echo.Context) (balancer.ListenerKey, error) {
	v, err := pathParam(c, "listener")
	if err != nil {
		return balancer.ListenerKey{}, err
	}
	k, err := balancer.ParseListenerKey(v)
	if err != nil {
		return k, badField("listener", "%q is not protocol:port: %v", v, err)
	}
	return k, nil
}

func memberParam(c echo.Context) (balancer.MemberKey, error) {
	v, err := pathParam(c, "member")
	if err != nil {
		return balancer.MemberKey{}, err
	}
	k, err := netip.ParseAddrPort(v)
	if err != nil || k.Port() == 0 || k.Addr().Zone() != "" {
		return k, badField("member", "%q is not address:port (IPv6 addresses in brackets)", v)
	}
	return netip.AddrPortFrom(k.Addr().Unmap(), k.Port()), nil
}

// readBody reads the whole body, at most maxBody bytes of UTF-8.
func readBody(c echo.Context) ([]byte, error) {
	r := c.Request()
	if enc := r.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return nil, problem(http.StatusUnsupportedMediaType, "encoding", "Unsupported encoding",
			"bodies are read as they are, not "+enc, FieldError{Field: "Content-Encoding", Reason: "only identity is read"})
	}
	body, err := io.ReadAll(r.Body) // bounded by the server (limitBody)
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, err
		}
		return nil, problem(http.StatusBadRequest, "body", "Body not read", err.Error())
	}
	if !utf8.Valid(body) {
		return nil, fieldsProblem(http.StatusBadRequest, "invalid", "Invalid document", []FieldError{{Field: "body", Reason: "is not UTF-8"}})
	}
	return body, nil
}

// decodeFields decodes a small flat document strictly: every field it may have is a
// key of fields, every one of them but the optional ones is required, names are matched
// exactly and given once, and null is no value.
func decodeFields(body []byte, fields map[string]any, optional ...string) error {
	doc, wrong := splitFields(body)
	for name, raw := range doc {
		dst, ok := fields[name]
		if !ok {
			wrong = append(wrong, FieldError{Field: name, Reason: "unknown field"})
			continue
		}
		if string(raw) == "null" {
			wrong = append(wrong, FieldError{Field: name, Reason: "is null"})
		} else if err := json.Unmarshal(raw, dst); err != nil {
			wrong = append(wrong, wrongType(name, err))
		}
	}
	for name := range fields {
		if _, ok := doc[name]; !ok && doc != nil && !slices.Contains(optional, name) {
			wrong = append(wrong, FieldError{Field: name, Reason: "is required"})
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	sort.Slice(wrong, func(i, j int) bool { return wrong[i].Field < wrong[j].Field })
	return fieldsProblem(http.StatusBadRequest, "invalid", "Invalid document", wrong)
}

// splitFields takes the one JSON object that body is apart; fields is nil where it is
// none.
func splitFields(body []byte) (fields map[string]json.RawMessage, wrong []FieldError) {
	var whole json.RawMessage
	if err := json.Unmarshal(body, &whole); err != nil {
		return nil, []FieldError{{Field: "body", Reason: "is not JSON: " + err.Error()}}
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if first, _ := dec.Token(); first != json.Delim('{') {
		return nil, []FieldError{{Field: "body", Reason: "is not a JSON object"}}
	}
	fields = map[string]json.RawMessage{}
	for dec.More() { // the syntax is known to be right
		key, _ := dec.Token()
		name, _ := key.(string)
		var value json.RawMessage
		_ = dec.Decode(&value)
		if _, twice := fields[name]; twice {
			wrong = append(wrong, FieldError{Field: name, Reason: "is given twice"})
		}
		fields[name] = value
	}
	return fields, wrong
}

// wrongType says what a value of a field should have been.
func wrongType(field string, err error) FieldError {
	var mismatch *json.UnmarshalTypeError
	if !errors.As(err, &mismatch) {
		return FieldError{Field: field, Reason: "is not understood: " + err.Error()}
	}
	want := map[reflect.Kind]string{
		reflect.String: "a string", reflect.Bool: "true or false", reflect.Slice: "a list", reflect.Map: "an object", reflect.Struct: "an object",
	}[mismatch.Type.Kind()]
	if want == "" {
		want = "a whole number, in its range"
	}
	return FieldError{Field: field, Reason: fmt.Sprintf("wrong type: must be %s, is %s", want, mismatch.Value)}
}

// condition reads If-Match and If-None-Match (RFC 9110 §13.1).
func condition(c echo.Context) (balancer.Condition, error) {
	h := c.Request().Header
	cond := balancer.Condition{IfMatch: strings.TrimSpace(strings.Join(h.Values("If-Match"), ", "))}
	if cond.IfMatch != "" {
		for tag := range strings.SplitSeq(cond.IfMatch, ",") {
			if tag = strings.TrimSpace(tag); tag != "*" && !entityTag(strings.TrimPrefix(tag, "W/")) {
				return cond, badField("If-Match", "%s is not an entity tag in double quotes", tag)
			}
		}
	}
	switch v := h.Get("If-None-Match"); v {
	case "":
	case "*":
		cond.IfNoneMatch = true
	default:
		return cond, badField("If-None-Match", "only * is offered, not %s", v)
	}
	return cond, nil
}

func entityTag(s string) bool {
	return len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' && !strings.Contains(s[1:len(s)-1], `"`)
}

// matches says whether an object whose entity tag is etag passes If-Match. Weak tags
// never match (strong comparison, RFC 9110 §8.8.3.2).
func matches(ifMatch, etag string) bool {
	for tag := range strings.SplitSeq(ifMatch, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || tag == etag {
			return true
		}
	}
	return false
}

// waitParam reads ?wait=, zero when absent.
func waitParam(c echo.Context) (time.Duration, error) {
	v := c.QueryParam("wait")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > MaxWait {
		return 0, badField("wait", "%q is not a duration from 0s to %s, such as 5s", v, MaxWait)
	}
	return d, nil
}

// ageParam reads ?max_age=, zero when absent.
func ageParam(c echo.Context) (time.Duration, error) {
	v := c.QueryParam("max_age")
	if v == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < balancer.StatsLeast || d > time.Hour {
		return 0, badField("max_age", "%q is not a duration from %s to 1h, such as 10s", v, balancer.StatsLeast)
	}
	return d, nil
}

// pageParams reads ?after= and ?limit=.
func pageParams(c echo.Context) (after string, limit int, err error) {
	limit = defaultLimit
	if v := c.QueryParam("limit"); v != "" {
		if limit, err = strconv.Atoi(v); err != nil || limit < 1 || limit > maxLimit {
			return "", 0, badField("limit", "%q is not a number from 1 to %d", v, maxLimit)
		}
	}
	return c.QueryParam("after"), limit, nil
}

// Page is the answer of every list. Next goes into ?after= for the items that
// follow; it is empty on the last page.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next"`
}

// pageOf sorts items by key and cuts out the page that c asks for. Keys are unique;
// an item that appears or goes between two requests does not disturb the others.
func pageOf[T any](c echo.Context, items []T, key func(*T) string) (Page[T], error) {
	after, limit, err := pageParams(c)
	if err != nil {
		return Page[T]{}, err
	}
	keys := make([]string, len(items))
	order := make([]int, len(items))
	for i := range items {
		keys[i], order[i] = key(&items[i]), i
	}
	sort.Slice(order, func(i, j int) bool { return keys[order[i]] < keys[order[j]] })
	from := 0
	if after != "" {
		from = sort.Search(len(order), func(i int) bool { return keys[order[i]] > after })
	}
	to := min(from+limit, len(order))
	p := Page[T]{Items: make([]T, 0, to-from)}
	for _, i := range order[from:to] {
		p.Items = append(p.Items, items[i])
	}
	if to < len(order) {
		p.Next = keys[order[to-1]]
	}
	return p, nil
}
