// Command bench measures Fairlead against its peers, in one run.
//
//	go run ./test/bench -fairlead bin/fairlead
//
// Machines differ and are noisy, so no figure stands alone: each is a ratio to
// something measured in the same run, in turns (A B A B …), given as the median of
// the turns and their spread. What a ratio should be is printed beside it; only an
// allocation where there may be none makes the program fail.
//
// It needs Debian's openvswitch-switch, openvswitch-testcontroller and
// python3-os-ken; a peer that is not installed is left out, and said to be. All
// traffic is on the loopback interface and in switches of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// bench is one run.
type bench struct {
	ctx      context.Context
	out      io.Writer
	fairlead string // the binary
	dir      string // removed at the end
	rounds   int
	failures []string
}

// sections in the order in which they run.
var sections = []struct {
	name string
	run  func(*bench) error
}{
	{"codec", (*bench).codec},
	{"packet-in", (*bench).packetIn},
	{"ack", (*bench).ack},
	{"program", (*bench).program},
	{"read-back", (*bench).readBack},
}

func main() {
	b := &bench{out: os.Stdout}
	var only string
	names := make([]string, len(sections))
	for i, s := range sections {
		names[i] = s.name
	}
	flag.StringVar(&b.fairlead, "fairlead", "bin/fairlead", "`BINARY` of the controller")
	flag.StringVar(&only, "only", "", "run one `SECTION` only: "+strings.Join(names, ", "))
	flag.IntVar(&b.rounds, "rounds", 3, "turns of every comparison")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b.ctx = ctx
	if err := b.run(only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

func (b *bench) run(only string) (err error) {
	if b.fairlead, err = filepath.Abs(b.fairlead); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	b.printf("%s/%s, %d CPUs, %s. Each figure: median of %d turns (least – most).\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version(), b.rounds)
	start := time.Now()
	for _, s := range sections {
		if only != "" && only != s.name {
			continue
		}
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		if err := s.run(b); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	b.printf("\n%.0f s.\n", time.Since(start).Seconds())
	if len(b.failures) > 0 {
		return errors.New(strings.Join(b.failures, "; "))
	}
	return nil
}

func (b *bench) printf(format string, args ...any) { fmt.Fprintf(b.out, format, args...) }

// head prints the title of a section and what is compared in it.
func (b *bench) head(title, what string) { b.printf("\n== %s\n%s\n\n", title, what) }
