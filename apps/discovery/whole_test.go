package discovery_test

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// log is what a controller has written.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *log) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Count(l.b.Bytes(), []byte(text))
}

// narrow returns the faults of links and segments.
func narrow(l *lab.Lab) (faults []string) {
	synctest.Wait()
	for _, link := range l.Snapshot().Links() {
		if link.Fault != "" {
			faults = append(faults, link.Fault)
		}
	}
	for _, seg := range l.Snapshot().Segments() {
		for _, p := range seg.Ports {
			if p.Fault != "" {
				faults = append(faults, p.Fault)
			}
		}
	}
	return faults
}

// events returns the notices of a kind since the last call, but for when links came and went.
func events(notices <-chan controller.Notice, kind string) (list []string) {
	for {
		select {
		case n := <-notices:
			if data, ok := n.Data.(map[string]any); ok && n.Kind == kind && data["from"] != nil {
				list = append(list, fmt.Sprintf("%v %v-%v %v", data["event"], data["from"], data["to"], data["bytes"]))
			}
		default:
			return list
		}
	}
}

const lostFrom = "frames with 1500 bytes from %v do not arrive at %v, small ones do: is an MTU too small?"

// A direction of a cable that loses whole frames is told within two intervals of discovery,
// the link stays up, and that it is well again is told too.
func TestNarrowLinkIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(3, simswitch.Options{}, [2]int{1, 2}, [2]int{2, 3})
		var out log
		l := lab.Start(t, n, lab.Options{Log: &out})
		l.Settle()
		l.Pass(time.Minute)
		require.Empty(t, narrow(l))
		require.Zero(t, out.count("ALARM"))
		notices, end := l.Core.Subscribe(4096)
		defer end()
		for range 5 {
			n.Narrow(place{DPID: 1, Port: 1}, 1400)
			l.Pass(10 * time.Second)
			require.Equal(t, []string{fmt.Sprintf(lostFrom, "0000000000000001/1", "0000000000000002/1")}, narrow(l))
			require.Equal(t, []string{"narrow 0000000000000001/1-0000000000000002/1 1500"}, events(notices, "link"))
			require.Len(t, links(l), 2)
			n.Narrow(place{DPID: 1, Port: 1}, 1500)
			l.Pass(10 * time.Second)
			require.Empty(t, narrow(l))
			require.Equal(t, []string{"wide 0000000000000001/1-0000000000000002/1 1500"}, events(notices, "link"))
			l.Pass(time.Minute + 700*time.Millisecond)
		}
		require.Equal(t, 5, out.count("ALARM"))

		// Nothing is told of a link that loses all.
		l.Cut(place{DPID: 1, Port: 1}, true)
		l.Pass(time.Minute)
		require.Len(t, links(l), 1)
		l.Cut(place{DPID: 1, Port: 1}, false)
		l.Pass(time.Minute)
		require.Len(t, links(l), 2)
		require.Empty(t, events(notices, "link"))
	})
}

// A link that comes up so is told at once, of both directions where both are narrow, and of
// every link that is.
func TestNarrowLinkThatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, apart(), lab.Options{})
		l.Pass(7 * time.Second)
		a, b := place{DPID: 1, Port: 1}, place{DPID: 2, Port: 1}
		l.Narrow(a, 1499)
		l.Narrow(b, 1499)
		l.Link(a, b)
		l.Pass(3 * time.Second)
		require.Equal(t, []string{
			fmt.Sprintf(lostFrom, "0000000000000001/1", "0000000000000002/1") + "; " + fmt.Sprintf(lostFrom, "0000000000000002/1", "0000000000000001/1"),
		}, narrow(l))
		// What is plugged in there next has no faults of its predecessor.
		l.SetLink(a, false)
		l.Pass(time.Second)
		l.Narrow(a, 9000)
		l.Narrow(b, 9000)
		l.SetLink(a, true)
		l.Pass(100 * time.Millisecond)
		require.Len(t, links(l), 1)
		require.Empty(t, narrow(l))
		l.Pass(time.Minute)
		require.Empty(t, narrow(l))
	})
}

// Whole frames that get lost over a bridge are told too.
func TestNarrowSegmentIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(3, simswitch.Options{})
		n.Share(false, legacy(1), legacy(2), legacy(3))
		l := lab.Start(t, n, lab.Options{})
		l.Settle()
		l.Pass(time.Minute)
		require.Empty(t, narrow(l))
		notices, end := l.Core.Subscribe(4096)
		defer end()
		n.Narrow(legacy(2), 1400)
		l.Pass(10 * time.Second)
		require.Equal(t, []string{fmt.Sprintf(lostFrom, "0000000000000002/301", "0000000000000001/301, 0000000000000003/301")}, narrow(l))
		require.ElementsMatch(t, []string{"narrow 0000000000000002/301-0000000000000001/301 1500", "narrow 0000000000000002/301-0000000000000003/301 1500"},
			events(notices, "segment"))
		n.Narrow(legacy(2), 0)
		l.Pass(10 * time.Second)
		require.Empty(t, narrow(l))
	})
}

// Frames that get lost whatever their size make no way narrow.
func TestLossIsNotNarrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := lab.Build(2, simswitch.Options{}, [2]int{1, 2})
		l := lab.Start(t, n, lab.Options{})
		l.Settle()
		for range 200 {
			l.Cut(place{DPID: 1, Port: 1}, true)
			l.Pass(1100 * time.Millisecond)
			l.Cut(place{DPID: 1, Port: 1}, false)
			l.Pass(700 * time.Millisecond)
			require.Empty(t, narrow(l))
		}
	})
}
