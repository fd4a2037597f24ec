package main

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A log that is read is whole and in order, up to the last line.
func TestLogIsWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		log, end := Config{}.queuedLogger(&out)
		for i := range logLines {
			log.Info("line", "n", i)
		}
		end()
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		require.Len(t, lines, logLines)
		for i, line := range lines {
			require.Contains(t, line, fmt.Sprintf("msg=line n=%d", i))
		}
	})
}

// TestZ06LogThatIsNotRead: who logs does not wait for who reads, nor does the end; what
// was lost is said.
func TestZ06LogThatIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		log, end := Config{}.queuedLogger(w)
		began := time.Now()
		for i := range 3 * logLines {
			log.Info("line", "n", i)
		}
		require.Equal(t, began, time.Now())
		synctest.Wait()
		read := make([]byte, 64<<10)
		var text strings.Builder
		for !strings.Contains(text.String(), "were lost") {
			n, err := r.Read(read)
			require.NoError(t, err)
			text.Write(read[:n])
		}
		var lost int
		_, err := fmt.Sscanf(text.String()[strings.LastIndex(text.String(), "lines="):], "lines=%d", &lost)
		require.NoError(t, err)
		require.InDelta(t, 2*logLines, lost, 2)
		end() // with lines that nobody reads
		require.Equal(t, began.Add(logPatience), time.Now())
		require.NoError(t, r.Close()) // and the goroutine is gone
	})
}
