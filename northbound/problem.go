package northbound

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"syscall"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/controller/documents"
)

// Errors that a Network or VIPs may return (wrapped or not), and the status each
// is answered with. Anything they do not name is 500 and goes to the log, not to
// the client.
var (
	// ErrNotFound says that the object is not known: 404.
	ErrNotFound = errors.New("not found")
	// ErrNotConnected says that the switch is known but has no session, so that
	// what it holds cannot be read: 503.
	ErrNotConnected = errors.New("switch is not connected")
	// ErrPrecondition says that If-Match or If-None-Match did not hold: 412.
	ErrPrecondition = errors.New("precondition failed")
)

// FieldError names what is wrong with one field of a request: a path into the
// document ("listeners[0].port"), a query or path parameter, or a header.
type FieldError = documents.FieldError

// Problem is the body of every error answer, application/problem+json (RFC 9457).
type Problem struct {
	Type   string       `json:"type"` // urn:fairlead:problem:…, one per kind of refusal
	Title  string       `json:"title"`
	Status int          `json:"status"`
	Detail string       `json:"detail"`
	Errors []FieldError `json:"errors"` // empty where no field is to blame

	// Reasons is an extension of /readyz: why the server is not ready.
	Reasons []string `json:"reasons,omitempty"`
}

// Error makes a Problem an error: the client commands return what the server said.
func (p *Problem) Error() string {
	b := new(strings.Builder)
	b.WriteString(p.Title)
	if p.Detail != "" {
		b.WriteString(": ")
		b.WriteString(p.Detail)
	}
	for _, e := range p.Errors {
		if !strings.Contains(p.Detail, e.Field) || !strings.Contains(p.Detail, e.Reason) {
			fmt.Fprintf(b, "; %s: %s", e.Field, e.Reason)
		}
	}
	return b.String()
}

const problemType = "urn:fairlead:problem:"

func problem(status int, kind, title, detail string, fields ...FieldError) *Problem {
	if fields == nil {
		fields = []FieldError{}
	}
	return &Problem{Type: problemType + kind, Title: title, Status: status, Detail: detail, Errors: fields}
}

// fieldsProblem blames fields; its detail is the same in one line.
func fieldsProblem(status int, kind, title string, fields []FieldError) *Problem {
	d := make([]string, len(fields))
	for i, f := range fields {
		d[i] = f.Field + ": " + f.Reason
	}
	return problem(status, kind, title, strings.Join(d, "; "), fields...)
}

// badField is a 400 that blames one field.
func badField(field, format string, args ...any) *Problem {
	reason := fmt.Sprintf(format, args...)
	return problem(http.StatusBadRequest, "invalid", "Invalid request", field+": "+reason, FieldError{Field: field, Reason: reason})
}

// problemOf turns whatever a handler returned into the answer it deserves.
func problemOf(err error, r *http.Request) *Problem {
	var (
		p           *Problem
		invalid     *balancer.InvalidError
		unsupported *balancer.UnsupportedError
		conflict    *balancer.ConflictError
		tooLarge    *http.MaxBytesError
		he          *echo.HTTPError
	)
	switch {
	case errors.As(err, &p):
		return p
	case errors.As(err, &invalid):
		return fieldsProblem(http.StatusBadRequest, "invalid", "Invalid document", invalid.Errors)
	case errors.As(err, &unsupported):
		return fieldsProblem(http.StatusUnprocessableEntity, "unsupported", "Not offered by this version", unsupported.Errors)
	case errors.As(err, &conflict):
		return problem(http.StatusConflict, "conflict", "Conflict",
			conflict.Field+" conflicts with "+conflict.With, FieldError{Field: conflict.Field, Reason: "conflicts with " + conflict.With})
	case errors.Is(err, balancer.ErrNotFound), errors.Is(err, ErrNotFound):
		return problem(http.StatusNotFound, "not-found", "Not found", strings.TrimPrefix(err.Error(), "balancer: "))
	case errors.Is(err, balancer.ErrPrecondition), errors.Is(err, ErrPrecondition):
		return problem(http.StatusPreconditionFailed, "precondition", "Precondition failed", strings.TrimPrefix(err.Error(), "balancer: "))
	case errors.Is(err, ErrNotConnected):
		return problem(http.StatusServiceUnavailable, "not-connected", "Switch not connected", err.Error())
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return problem(http.StatusInsufficientStorage, "no-space", "Insufficient storage", "the store has no room: nothing was changed")
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.EROFS):
		return problem(http.StatusServiceUnavailable, "store", "Store not writable", "the store cannot be written to: nothing was changed")
	case errors.As(err, &tooLarge):
		return problem(http.StatusRequestEntityTooLarge, "too-large", "Body too large",
			fmt.Sprintf("a body has at most %d bytes", tooLarge.Limit), FieldError{Field: "body", Reason: fmt.Sprintf("has more than %d bytes", tooLarge.Limit)})
	case errors.Is(err, context.DeadlineExceeded):
		return problem(http.StatusGatewayTimeout, "timeout", "Timed out", "the switch or the store did not answer in time")
	case errors.Is(err, context.Canceled):
		return problem(http.StatusServiceUnavailable, "canceled", "Canceled", "the request was given up, or the server is stopping")
	case errors.As(err, &he):
		return routeProblem(he.Code, r)
	}
	return problem(http.StatusInternalServerError, "internal", "Internal error", "the reason is in the server's log")
}

// routeProblem answers for what echo's router refuses.
func routeProblem(status int, r *http.Request) *Problem {
	switch status {
	case http.StatusNotFound:
		p := problem(status, "no-route", "Not found", "there is no resource "+r.URL.Path)
		// A name with a slash in it never reaches a handler that could blame it.
		if rest, ok := strings.CutPrefix(r.URL.Path, "/v1/vips/"); ok && strings.Contains(rest, "/") {
			p.Errors = append(p.Errors, FieldError{Field: "name", Reason: "no such resource below a VIP; a name has no slash"})
		}
		return p
	case http.StatusMethodNotAllowed:
		return problem(status, "method", "Method not allowed", r.Method+" is not offered on "+r.URL.Path)
	}
	return problem(status, "http", http.StatusText(status), "")
}

// writeProblem is echo's error handler.
func (s *Server) writeProblem(err error, c echo.Context) {
	p := problemOf(err, c.Request())
	if p.Status >= http.StatusInternalServerError && p.Status != http.StatusServiceUnavailable {
		s.o.Log.Error("request failed", slog.String("method", c.Request().Method),
			slog.String("path", c.Request().URL.Path), slog.Int("status", p.Status), slog.Any("err", err))
	}
	if c.Response().Committed {
		return // a stream that broke: there is nobody left to tell
	}
	respondProblem(c.Response(), p)
}

func respondProblem(w http.ResponseWriter, p *Problem) {
	body, err := json.Marshal(p)
	if err != nil { // strings and an int: cannot happen
		body = []byte(`{}`)
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(p.Status)
	_, _ = w.Write(append(body, '\n'))
}
