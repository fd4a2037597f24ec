package ovsdb

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/ovn-kubernetes/libovsdb/ovsdb"
)

const (
	dialTimeout = 5 * time.Second
	// probePerRow is how much longer every row makes the time between two probes.
	probePerRow = 2 * time.Millisecond
	// retryMost is the longest time between two attempts to connect.
	retryMost = 3 * time.Second
	// goodAfter is how long a session lasts after which the next attempt comes at once.
	goodAfter = 10 * time.Second
)

// pace is how long things take.
type pace struct {
	setup time.Duration // of the schema and the first copy of all rows, at most
	every time.Duration // between comparisons of the replica with the database
	probe time.Duration // one comparison, at most
	again time.Duration // an update of what was found to differ may be on its way, at most
	retry time.Duration // before the first new attempt to connect
}

var defaultPace = pace{
	setup: 8 * time.Second, every: 2 * time.Second, probe: 3 * time.Second, again: 500 * time.Millisecond, retry: 100 * time.Millisecond,
}

// ErrNotConnected says that there is no session with the server.
var ErrNotConnected = errors.New("ovsdb: not connected")

// ClientOptions configures a Client.
type ClientOptions struct {
	// TLS is asked for the configuration of each connection to an ssl: endpoint, which
	// has to verify the server by itself; nil: such endpoints cannot be reached.
	TLS func(host string) (*tls.Config, error)
	Log *slog.Logger
	// Connected is called on a goroutine of its own at the beginning of each session,
	// when the replica is complete; its context ends with the session. May be nil.
	Connected func(context.Context)
	// Changed is called when Inventory or Status may return something else. It must not
	// block. May be nil.
	Changed func()
}

// Client keeps a replica of one database. Its methods may be called from any
// goroutine.
type Client struct {
	endpoint Endpoint
	o        ClientOptions
	pace     pace

	mu      sync.Mutex // guards what follows
	conn    *conn      // nil: no session
	replica *replica   // of the session
	schema  ovsdb.DatabaseSchema
	since   time.Time     // of the session, or of its end
	why     error         // there is none
	changed chan struct{} // closed when the session begins or ends
	inv     *Inventory    // of replica at version
	version uint64
}

// NewClient returns a client that Run makes connect.
func NewClient(e Endpoint, o ClientOptions) *Client {
	return &Client{
		endpoint: e, o: o, pace: defaultPace, since: time.Now(), why: errors.New("no attempt to connect has ended yet"), changed: make(chan struct{}),
	}
}

// Run keeps a session until ctx ends. What a server does wrong ends a session, not Run.
func (c *Client) Run(ctx context.Context) {
	wait := c.pace.retry
	for ctx.Err() == nil {
		begin := time.Now()
		err := c.session(ctx)
		c.ended(err)
		if time.Since(begin) >= goodAfter {
			wait = c.pace.retry
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait/2 + rand.N(wait)): // hosts that went together do not come back together
		}
		wait = min(2*wait, retryMost*2/3)
	}
}

// session runs one connection to its end and returns why it ended.
func (c *Client) session(ctx context.Context) error {
	nc, err := c.dial(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer func() {
		cancel()
		work.Wait()
	}()
	context.AfterFunc(ctx, func() { nc.Close() })

	var r *replica // of the reader's goroutine until it is published
	k := newConn(nc, func(params []byte) error {
		var p []json.RawMessage
		if err := json.Unmarshal(params, &p); err != nil || len(p) != 2 {
			return violation("an update without two parameters")
		}
		if r == nil {
			return violation("an update of what is not monitored")
		}
		defer c.tell()
		return r.apply(p[1])
	})
	read := make(chan error, 1)
	work.Go(func() { read <- k.run() })

	setup, done := context.WithTimeout(ctx, c.pace.setup)
	defer done()
	var schema ovsdb.DatabaseSchema
	if err := k.call(setup, "get_schema", ovsdb.NewGetSchemaArgs(database), small(&schema)); err != nil {
		return fmt.Errorf("ovsdb: get schema: %w", err)
	}
	m, err := newModel(schema)
	if err != nil {
		return err
	}
	requests := map[string]ovsdb.MonitorRequest{}
	for table := range tables {
		requests[table] = ovsdb.MonitorRequest{Columns: columns[table], Select: ovsdb.NewDefaultMonitorSelect()}
	}
	err = k.call(setup, ovsdb.MonitorRPC, ovsdb.NewMonitorArgs(database, "bridges", requests), func(b []byte) error {
		r = newReplica(m)
		return r.apply(b)
	})
	if err != nil {
		return fmt.Errorf("ovsdb: monitor: %w", err)
	}
	c.began(k, r, schema)
	if c.o.Connected != nil {
		work.Go(func() { c.o.Connected(ctx) })
	}
	probes := make(chan error, 1)
	work.Go(func() { probes <- probe(ctx, k, r, c.pace) })
	select {
	case err = <-read:
	case err = <-probes:
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return err
}

func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	network, address, secure := c.endpoint.dialed()
	dialer := &net.Dialer{}
	if !secure {
		return dialer.DialContext(ctx, network, address)
	}
	if c.o.TLS == nil {
		return nil, errors.New("ovsdb: an ssl: endpoint needs the certificates of southbound TLS")
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	conf, err := c.o.TLS(host)
	if err != nil {
		return nil, err
	}
	return (&tls.Dialer{NetDialer: dialer, Config: conf}).DialContext(ctx, network, address)
}

// probe compares the replica with the database until they differ for good, or the
// server does not answer.
func probe(ctx context.Context, k *conn, r *replica, p pace) error {
	args, order := selectAll()
	for {
		rows, _ := r.size()
		if !sleep(ctx, p.every+time.Duration(rows)*probePerRow) {
			return ctx.Err()
		}
		var differ []string
		for attempt := 0; attempt < 3; attempt++ {
			if attempt > 0 && !sleep(ctx, p.again) {
				return ctx.Err()
			}
			limit, cancel := context.WithTimeout(ctx, p.probe)
			err := k.call(limit, "transact", args, func(b []byte) (err error) {
				differ, err = r.compare(order, b)
				return err
			})
			cancel()
			if err != nil {
				return fmt.Errorf("ovsdb: probe: %w", err)
			}
			if len(differ) == 0 {
				break
			}
		}
		if len(differ) > 0 {
			return fmt.Errorf("ovsdb: probe: the monitor is silent about %v", differ)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// selectAll is the parameters of a transaction that reads what is monitored, and the
// tables in the order of its operations.
func selectAll() (args []any, order []string) {
	args = []any{database}
	for table := range tables {
		order = append(order, table)
	}
	slices.Sort(order)
	for _, table := range order {
		args = append(args, ovsdb.Operation{Op: ovsdb.OperationSelect, Table: table, Columns: append([]string{"_uuid"}, columns[table]...)})
	}
	return args, order
}

// tell says that something has changed.
func (c *Client) tell() {
	if c.o.Changed != nil {
		c.o.Changed()
	}
}

func (c *Client) began(k *conn, r *replica, schema ovsdb.DatabaseSchema) {
	defer c.tell()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.replica, c.schema, c.since, c.why, c.inv = k, r, schema, time.Now(), nil, nil
	close(c.changed)
	c.changed = make(chan struct{})
	c.o.Log.Info("OVSDB connected", "endpoint", string(c.endpoint))
}

func (c *Client) ended(err error) {
	defer c.tell()
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.conn != nil
	if errors.Is(err, context.Canceled) {
		// asked for
	} else if c.why == nil || err.Error() != c.why.Error() {
		c.o.Log.Warn("OVSDB not connected", "endpoint", string(c.endpoint), "reason", err)
	}
	c.conn, c.replica, c.why, c.inv = nil, nil, err, nil
	if was {
		c.since = time.Now()
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// Status says since when there is a session, or since when not and why.
func (c *Client) Status() (connected bool, since time.Time, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.conn != nil, c.since, c.why
}

// Ready waits until there is a session. The error is ErrNotConnected with why there is
// none, when ctx has ended.
func (c *Client) Ready(ctx context.Context) error {
	for {
		c.mu.Lock()
		ok, why, changed := c.conn != nil, c.why, c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %s: %w", ErrNotConnected, c.endpoint, why)
		}
	}
}

// Local is this end of the session's connection, as the server's host knows it: the
// loopback address for a unix: endpoint. It is not valid without a session.
func (c *Client) Local() netip.Addr {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return netip.Addr{}
	}
	if a, ok := c.conn.nc.LocalAddr().(*net.TCPAddr); ok {
		return a.AddrPort().Addr().Unmap()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// sessionSchema returns the schema of the session.
func (c *Client) sessionSchema() ovsdb.DatabaseSchema {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.schema
}

// Inventory returns what the database says now; ErrNotConnected when there is no
// session. The result is shared and must not be changed.
func (c *Client) Inventory() (*Inventory, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.replica == nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotConnected, c.endpoint, c.why)
	}
	if _, version := c.replica.size(); c.inv == nil || version != c.version {
		c.inv, c.version = c.replica.inventory(), version
	}
	return c.inv, nil
}

// result is the outcome of one operation (RFC 7047 §5.2), its rows as they were sent.
type result struct {
	Error   string                       `json:"error"`
	Details string                       `json:"details"`
	Rows    []map[string]json.RawMessage `json:"rows"`
}

// transact runs one transaction. A failed operation is an error of libovsdb's.
func (c *Client) transact(ctx context.Context, ops ...ovsdb.Operation) ([]result, error) {
	c.mu.Lock()
	k, why := c.conn, c.why
	c.mu.Unlock()
	if k == nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNotConnected, c.endpoint, why)
	}
	var results []*result // those after a failure are null
	if err := k.call(ctx, "transact", ovsdb.NewTransactArgs(database, ops...), small(&results)); err != nil {
		return nil, fmt.Errorf("ovsdb: transact: %w", err)
	}
	out := make([]result, len(results))
	check := make([]ovsdb.OperationResult, len(results))
	for i, r := range results {
		if r != nil {
			out[i], check[i] = *r, ovsdb.OperationResult{Error: r.Error, Details: r.Details}
		}
	}
	failed, err := ovsdb.CheckOperationResults(check, ops)
	for _, f := range failed {
		err = f // the first says more than how many
		break
	}
	if err != nil {
		return out, fmt.Errorf("ovsdb: transact: %w", err)
	}
	return out, nil
}
