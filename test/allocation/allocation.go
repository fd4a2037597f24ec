// Package allocation bounds what a decoder may allocate, for fuzz targets: a message
// must not make its reader use memory out of proportion to its length.
package allocation

import (
	"runtime"
	"testing"
)

// The bound of decoders of the wire: for each byte of input, and besides.
const (
	PerByte = 16
	Fixed   = 64 << 10
)

// Bounded calls decode, and fails the test when that allocated more than PerByte bytes
// for each of the n bytes of its input and Fixed bytes besides. What goes on elsewhere in
// the process is counted too: what is too much once is asked a second and a third time,
// so decode must be able to run again.
func Bounded(t testing.TB, n int, decode func()) {
	t.Helper()
	BoundedBy(t, PerByte, n, decode)
}

// BoundedBy is Bounded with another number of bytes for each byte of input.
func BoundedBy(t testing.TB, perByte, n int, decode func()) {
	t.Helper()
	var before, after runtime.MemStats
	var most uint64
	for range 3 {
		runtime.ReadMemStats(&before)
		decode()
		runtime.ReadMemStats(&after)
		if most = after.TotalAlloc - before.TotalAlloc; most <= uint64(perByte*n+Fixed) {
			return
		}
	}
	t.Fatalf("%d bytes of input: %d bytes allocated", n, most)
}
