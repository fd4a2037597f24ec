package ovsdb

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"
	"unicode/utf8"
)

const (
	// writeTimeout is how long a server may take nothing of what it is sent.
	writeTimeout = 5 * time.Second
	maxPending   = 256 // requests without an answer
)

// ServerError is what a server answers instead of a result (RFC 7047 §4.1.3, or
// whatever JSON it sent).
type ServerError struct{ Text string }

func (e *ServerError) Error() string { return "the server refuses: " + e.Text }

// request waits for its answer. take reads the result on the reader's goroutine and
// must not keep it; done gets the outcome.
type request struct {
	take func(result []byte) error
	done chan error
}

// conn is one JSON-RPC connection (RFC 7047 §4). One goroutine, run, reads it; call may
// be used by several.
type conn struct {
	nc     net.Conn
	update func(params []byte) error // of an update notification; on run's goroutine

	writing sync.Mutex

	mu      sync.Mutex // guards what follows
	next    uint64
	pending map[uint64]*request // nil: run has ended
	err     error               // why it ended
}

func newConn(nc net.Conn, update func(params []byte) error) *conn {
	return &conn{nc: nc, update: update, pending: map[uint64]*request{}}
}

// call sends a request and waits until take has read its result. A server that answers
// with an error makes it a *ServerError; what take returns ends the connection.
func (c *conn) call(ctx context.Context, method string, params any, take func(result []byte) error) error {
	r := &request{take: take, done: make(chan error, 1)}
	c.mu.Lock()
	switch {
	case c.pending == nil:
		err := c.err
		c.mu.Unlock()
		return err
	case len(c.pending) >= maxPending:
		c.mu.Unlock()
		return errors.New("too many requests are unanswered")
	}
	id := c.next
	c.next++
	c.pending[id] = r
	c.mu.Unlock()
	if err := c.write(map[string]any{"id": id, "method": method, "params": params}); err != nil {
		c.nc.Close() // run tells why
		return err
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return ctx.Err() // the answer still has its place in pending
	}
}

func (c *conn) write(m any) error {
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	if err := c.nc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err = c.nc.Write(b)
	return err
}

// run reads until the connection or the protocol breaks, closes the connection and
// returns why.
func (c *conn) run() error {
	f := newFrames(c.nc)
	var err error
	for err == nil {
		var b []byte
		if b, err = f.next(); err == nil {
			err = c.handle(b)
		}
	}
	c.nc.Close()
	c.mu.Lock()
	pending := c.pending
	c.pending, c.err = nil, err
	c.mu.Unlock()
	for _, r := range pending {
		r.done <- err
	}
	return err
}

// handle takes one message. libovsdb panics at some things that are no OVSDB: they end
// the session too.
func (c *conn) handle(b []byte) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = violation("%v", p)
			if _, ok := p.(error); !ok {
				err = fmt.Errorf("%w\n%s", err, debug.Stack())
			}
		}
	}()
	if !utf8.Valid(b) {
		return violation("a message that is not UTF-8")
	}
	var m struct {
		Method string          `json:"method"`
		Params json.RawMessage `json:"params"`
		Result json.RawMessage `json:"result"`
		Error  json.RawMessage `json:"error"`
		ID     json.RawMessage `json:"id"`
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return violation("%v", err)
	}
	switch {
	case m.Method == "update":
		return c.update(m.Params)
	case m.Method == "echo" && !isNull(m.ID) && len(m.Params)+len(m.ID) <= maxEcho:
		return c.write(map[string]any{"id": m.ID, "result": m.Params, "error": nil})
	case m.Method != "":
		return violation("method %.40q", m.Method)
	}
	var id uint64
	if err := json.Unmarshal(m.ID, &id); err != nil {
		return violation("an answer with the id %.40q", m.ID)
	}
	c.mu.Lock()
	r := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if r == nil {
		return violation("an answer to request %d, which nobody waits for", id)
	}
	if !isNull(m.Error) {
		r.done <- &ServerError{Text: string(m.Error[:min(len(m.Error), 500)])}
		return nil
	}
	returned := false
	defer func() {
		if !returned {
			r.done <- violation("an answer that is no answer to what was asked")
		}
	}()
	err = r.take(m.Result)
	returned = true
	r.done <- err
	return err
}

// small takes a result that is decoded whole.
func small(v any) func([]byte) error {
	return func(b []byte) error {
		if len(b) > maxSmall {
			return violation("an answer of %d bytes where %d are the most", len(b), maxSmall)
		}
		if isNull(b) {
			return violation("an answer without a result")
		}
		if err := json.Unmarshal(b, v); err != nil {
			return violation("%v", err)
		}
		return nil
	}
}
