package reliability

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// TestMain checks that all tests together leave no goroutine, no descriptor and no
// heap behind.
func TestMain(m *testing.M) {
	goroutines, files, before := runtime.NumGoroutine(), descriptors(), heap()
	code := m.Run()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if runtime.NumGoroutine() <= goroutines+2 && descriptors() <= files+2 {
			break
		}
	}
	after := heap()
	fmt.Printf("goroutines %d → %d, descriptors %d → %d, heap %d KiB → %d KiB\n",
		goroutines, runtime.NumGoroutine(), files, descriptors(), before>>10, after>>10)
	if runtime.NumGoroutine() > goroutines+2 || descriptors() > files+2 || after > before+32<<20 {
		fmt.Println("FAIL: something is left over")
		code = max(code, 1)
	}
	os.Exit(code)
}

func descriptors() int {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // no Linux
	}
	return len(list)
}
