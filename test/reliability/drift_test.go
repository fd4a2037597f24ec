package reliability

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/faultproxy"
	"github.com/fairlead/fairlead/test/simswitch"
)

// TestZ03NoDrift changes VIPs, ports and the channel for hours of virtual time, and
// asks whether memory, goroutines or descriptors grow with it. It is not parallel: what
// is measured is the process's.
func TestZ03NoDrift(t *testing.T) {
	files := descriptors()
	synctest.Test(t, func(t *testing.T) {
		random, _ := seeded(t)
		r := single(t, 6, options{}, simswitch.Options{})
		round := func() {
			for range 10 {
				switch i := random.IntN(6); random.IntN(5) {
				case 0, 1:
					r.put(r.vip(i, hosts(2, 6)[:random.IntN(6)]...))
				case 2:
					_ = r.intents.Delete(t.Context(), vipName(i), balancer.Condition{}) // or there is none
				case 3:
					r.Switch(1).SetPort(ofproto.Port(2+random.IntN(5)), random.IntN(2) == 0)
				case 4:
					if random.IntN(8) == 0 {
						r.proxy(1).Cut()
					}
				}
				time.Sleep(time.Duration(random.IntN(10000)) * time.Millisecond)
			}
			// The same state at the end of each.
			for i := range 6 {
				r.put(r.vip(i, "h2", "h3", "h4", "h5", "h6"))
			}
			for p := ofproto.Port(2); p <= 6; p++ {
				r.Switch(1).SetPort(p, true)
			}
			time.Sleep(15 * time.Second)
			r.learn()
			r.ready(1)
			r.logs.mu.Lock()
			r.logs.lines = nil // of the test, not of the program
			r.logs.mu.Unlock()
			r.Forget()
			synctest.Wait()
		}
		// What the test's proxy logs of mods, which the program does not keep.
		logged := func() int64 { return int64(len(r.proxy(1).Log())) * int64(unsafe.Sizeof(faultproxy.Entry{})) }
		begin := time.Now()
		for range 5 { // what is made once, is made now
			round()
		}
		rounds := scale(20, 500)
		first, goroutines := heap(), runtime.NumGoroutine()
		half := int64(0)
		for i := range rounds {
			round()
			if i == rounds/2 {
				half = heap()
			}
		}
		last := heap()
		t.Logf("of the growth at most %d KiB are the test's own log", 2*logged()>>10)
		t.Logf("%v of virtual time, %d rounds: heap %d → %d → %d KiB, goroutines %d → %d",
			time.Since(begin).Round(time.Minute), rounds, first>>10, half>>10, last>>10, goroutines, runtime.NumGoroutine())
		require.InDelta(t, goroutines, runtime.NumGoroutine(), 2)
		require.Less(t, last-half, 2*logged()+512<<10)
		r.consistent()
	})
	require.LessOrEqual(t, descriptors(), files+2)
}
