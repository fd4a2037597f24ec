package controller

import (
	"sync"
	"time"
)

// Notice is something that happened, for those who watch: the event stream of
// the REST API, and waiters for an acknowledgement.
type Notice struct {
	ID   uint64 // counts up from 1, without gaps for one controller process
	Time time.Time
	Kind string // "switch", "link", "host", "vip", "member"
	Data any
}

// notices hands every notice to every subscriber. A subscriber that does not keep
// up is cut off (its channel is closed) rather than waited for.
type notices struct {
	mu   sync.Mutex
	last uint64
	subs map[chan Notice]struct{}
}

func (n *notices) publish(now time.Time, list []Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, v := range list {
		n.last++
		v.ID, v.Time = n.last, now
		for ch := range n.subs {
			select {
			case ch <- v:
			default:
				delete(n.subs, ch)
				close(ch)
			}
		}
	}
}

// Subscribe returns a channel of notices from now on, and the function that ends
// the subscription. The channel is closed when more than buffer notices wait.
func (c *Controller) Subscribe(buffer int) (<-chan Notice, func()) {
	ch := make(chan Notice, buffer)
	n := &c.notices
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.subs == nil {
		n.subs = map[chan Notice]struct{}{}
	}
	n.subs[ch] = struct{}{}
	return ch, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if _, ok := n.subs[ch]; ok {
			delete(n.subs, ch)
			close(ch)
		}
	}
}
