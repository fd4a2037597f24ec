package main

import (
	"bytes"
	"io"
	"log/slog"
	"sync/atomic"
	"time"
)

const (
	// logLines is how many lines of the log may wait for who reads it.
	logLines = 4096
	// logPatience is how long the last lines may take at the end.
	logPatience = time.Second
)

// logQueue takes the lines of a log and never has their writer wait: a collector that
// hangs must not hold up the controller. Lines that find no room are lost, and counted.
// One goroutine writes; close ends it.
type logQueue struct {
	lines      chan []byte
	lost       atomic.Uint64
	stop, done chan struct{}
}

// newLogQueue begins to write to w. When it takes lines again after some were lost, tell
// is called with their number, by the goroutine that writes.
func newLogQueue(w io.Writer, tell func(lost uint64)) *logQueue {
	q := &logQueue{lines: make(chan []byte, logLines), stop: make(chan struct{}), done: make(chan struct{})}
	go q.run(w, tell)
	return q
}

// Write implements io.Writer for one line. There is no error: nobody could log it.
func (q *logQueue) Write(line []byte) (int, error) {
	select {
	case q.lines <- bytes.Clone(line):
	default:
		q.lost.Add(1)
	}
	return len(line), nil
}

func (q *logQueue) run(w io.Writer, tell func(lost uint64)) {
	defer close(q.done)
	write := func(line []byte) {
		_, _ = w.Write(line)
		if n := q.lost.Swap(0); n > 0 {
			tell(n)
		}
	}
	for {
		select {
		case line := <-q.lines:
			write(line)
		case <-q.stop:
			for len(q.lines) > 0 {
				write(<-q.lines)
			}
			return
		}
	}
}

// close writes what waits, for as long as logPatience. Nothing may be written after it.
func (q *logQueue) close() {
	close(q.stop)
	select {
	case <-q.done:
	case <-time.After(logPatience):
	}
}

// queuedLogger returns a logger that writes to w without waiting for it, and what ends
// that.
func (c Config) queuedLogger(w io.Writer) (log *slog.Logger, end func()) {
	q := newLogQueue(w, func(lost uint64) {
		c.logger(w).Warn("lines of the log were lost: it was not read", slog.Uint64("lines", lost))
	})
	return c.logger(q), q.close
}
