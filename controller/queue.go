package controller

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// inbox is the queue of sessions that have something for the core. A session is
// in it at most once, so it is bounded by their number.
type inbox struct {
	mu      sync.Mutex
	queue   []*session
	waiting atomic.Int32 // about as many as in queue, never too few for long
	signal  chan struct{}
}

// add queues a session; whoever is the core looks into the inbox when it is done.
func (in *inbox) add(s *session) {
	in.mu.Lock()
	in.queue = append(in.queue, s)
	in.mu.Unlock()
	in.waiting.Add(1)
}

// put queues a session for the core loop.
func (in *inbox) put(s *session) {
	in.add(s)
	in.poke()
}

// poke wakes the core loop.
func (in *inbox) poke() {
	select {
	case in.signal <- struct{}{}:
	default:
	}
}

func (in *inbox) take() *session {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.queue) == 0 {
		return nil
	}
	s := in.queue[0]
	if in.queue = in.queue[1:]; len(in.queue) == 0 {
		in.queue = nil
	}
	in.waiting.Add(-1)
	return s
}

// saver makes the writes of Context.Save, the last of each key.
type saver struct {
	mu      sync.Mutex
	pending map[string]func(context.Context) error
	signal  chan struct{}
}

func (s *saver) put(list []save) {
	s.mu.Lock()
	for _, v := range list {
		s.pending[v.key] = v.write
	}
	s.mu.Unlock()
	select {
	case s.signal <- struct{}{}:
	default:
	}
}

func (s *saver) run(ctx context.Context, log *slog.Logger) error {
	for {
		select {
		case <-ctx.Done():
			s.write(context.WithoutCancel(ctx), log)
			return ctx.Err()
		case <-s.signal:
			s.write(ctx, log)
		}
	}
}

func (s *saver) write(ctx context.Context, log *slog.Logger) {
	s.mu.Lock()
	pending := s.pending
	s.pending = map[string]func(context.Context) error{}
	s.mu.Unlock()
	for key, write := range pending {
		if err := write(ctx); err != nil {
			log.Warn("not saved; a restart will have to learn it again", "what", key, "error", err)
		}
	}
}

// limitedLog lets a message through at most once a second for each text and
// datapath, and says how many it held back.
type limitedLog struct {
	mu   sync.Mutex
	seen map[limitedKey]limitedState
}

type limitedKey struct {
	log  *slog.Logger
	text string
}

type limitedState struct {
	at   time.Time
	held int
}

func (l *limitedLog) log(log *slog.Logger, level slog.Level, text string, args ...any) {
	now := time.Now()
	l.mu.Lock()
	k := limitedKey{log, text}
	st := l.seen[k]
	if now.Sub(st.at) < time.Second {
		st.held++
		l.seen[k] = st
		l.mu.Unlock()
		return
	}
	if l.seen == nil || len(l.seen) > 4096 {
		l.seen = map[limitedKey]limitedState{}
	}
	l.seen[k] = limitedState{at: now}
	l.mu.Unlock()
	if st.held > 0 {
		args = append(args, "held_back", st.held)
	}
	log.Log(context.Background(), level, text, args...)
}
