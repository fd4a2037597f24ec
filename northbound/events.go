package northbound

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"
)

// EventType says what an Event is about.
type EventType string

// The types of events.
const (
	EventSwitch    EventType = "switch"
	EventLink      EventType = "link"
	EventPort      EventType = "port"
	EventSegment   EventType = "segment"
	EventHost      EventType = "host"
	EventVIP       EventType = "vip"
	EventMember    EventType = "member"
	EventMigration EventType = "migration"
	// EventLagged is the last event of a stream whose reader fell behind: it has missed
	// events, and should open another stream and then read afresh what it watches.
	EventLagged EventType = "lagged"
)

// Event is one change of the network or of its intents. It tells that something
// changed and how; the truth is in the resource it names.
type Event struct {
	ID   uint64    `json:"id"` // strictly increasing while the server runs
	Type EventType `json:"type"`
	Time time.Time `json:"time"`
	Data any       `json:"data,omitempty"` // marshalled to JSON by every reader: do not change it
}

// Events is where event streams come from.
type Events interface {
	// Subscribe returns the events from now on. It never waits for the subscriber: ch
	// is closed when more than buffer events are waiting, and by cancel, which may be
	// called more than once.
	Subscribe(buffer int) (ch <-chan Event, cancel func())
}

const eventsPath = "/v1/events"

// streamCount bounds the event streams that are open at once.
type streamCount struct{ n atomic.Int64 }

func (s *streamCount) enter(most int64) bool {
	if s.n.Add(1) > most {
		s.n.Add(-1)
		return false
	}
	return true
}

func (s *streamCount) leave() { s.n.Add(-1) }

// getEvents streams events (text/event-stream of the HTML standard) until the client
// goes, falls behind, or the server stops. A comment now and then keeps the
// connection from looking idle.
func (s *Server) getEvents(c echo.Context) error {
	if !s.streams.enter(s.limits.streams) {
		return problem(http.StatusServiceUnavailable, "busy", "Too many streams",
			fmt.Sprintf("at most %d event streams are open at once", s.limits.streams))
	}
	defer s.streams.leave()
	s.metrics.streams.Inc()
	defer s.metrics.streams.Dec()

	w := c.Response()
	rc := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	if c.Request().Method == http.MethodHead {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	// A stream lives longer than the deadlines of a request: none for reading (only
	// the end of the connection is read), one for each write.
	_ = rc.SetReadDeadline(time.Time{})
	send := func(b []byte) error {
		_ = rc.SetWriteDeadline(time.Now().Add(s.limits.eventWrite))
		if _, err := w.Write(b); err != nil {
			return err
		}
		return rc.Flush()
	}

	ch, cancel := s.o.Events.Subscribe(s.limits.eventBuffer)
	defer cancel()
	w.WriteHeader(http.StatusOK)
	if send([]byte(": fairlead events\n\n")) != nil {
		return nil
	}
	tick := time.NewTicker(s.limits.heartbeat)
	defer tick.Stop()
	var (
		buf    []byte
		last   uint64 // id of the last event sent
		lagged bool
	)
	for {
		buf = buf[:0]
		select {
		case <-c.Request().Context().Done():
			return nil
		case <-s.life.Done():
			return nil
		case <-tick.C:
			buf = append(buf, ": heartbeat\n\n"...)
		case e, ok := <-ch:
			if !ok {
				e = Event{ID: last, Type: EventLagged, Time: time.Now()}
			}
			data, err := json.Marshal(e)
			if err != nil {
				return fmt.Errorf("northbound: encode event %d: %w", e.ID, err)
			}
			buf = append(buf, "id: "...)
			buf = strconv.AppendUint(buf, e.ID, 10)
			buf = append(buf, "\nevent: "...)
			buf = append(buf, e.Type...)
			buf = append(buf, "\ndata: "...)
			buf = append(append(buf, data...), "\n\n"...)
			last, lagged = e.ID, !ok
		}
		if send(buf) != nil || lagged {
			return nil // gone, or too slow
		}
	}
}
