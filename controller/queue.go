package controller

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fairlead/fairlead/ofproto"
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

// limitedLog lets so many messages a second through for each text and datapath, and
// says how many it held back.
type limitedLog struct {
	mu   sync.Mutex
	seen map[limitedKey]limitedState
}

// limitedKey is not the connection: who is refused comes again. Connections that have
// not said which datapath they are share one.
type limitedKey struct {
	dpid ofproto.DPID
	text string
}

type limitedState struct {
	at    time.Time // of the first of this second
	lines int       // of this second
	held  int       // and not told
}

// log writes a message unless there were most of its key within the second.
func (l *limitedLog) log(log *slog.Logger, k limitedKey, most int, level slog.Level, args ...any) {
	now := time.Now()
	l.mu.Lock()
	st, known := l.seen[k]
	if now.Sub(st.at) >= time.Second {
		st.at, st.lines = now, 0
	}
	if !known && (l.seen == nil || len(l.seen) > 4096) {
		l.seen = map[limitedKey]limitedState{}
	}
	if st.lines >= most {
		st.held++
		l.seen[k] = st
		l.mu.Unlock()
		return
	}
	held := st.held
	st.lines, st.held = st.lines+1, 0
	l.seen[k] = st
	l.mu.Unlock()
	if held > 0 {
		args = append(args, "held_back", held)
	}
	log.Log(context.Background(), level, k.text, args...)
}
