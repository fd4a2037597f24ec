package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/apps/balancer"
)

func vipStats() *cobra.Command {
	cmd := &cobra.Command{
		Use: "stats NAME", Short: "Count the traffic of a VIP", Args: cobra.ExactArgs(1),
		Long: "Count the traffic of a VIP: packets and bytes that clients sent, an estimate of their new TCP connections, and the\n" +
			"shares of members by slots, by weight and as observed. With --watch the table is renewed until Ctrl-C; where it\n" +
			"does not go to a terminal, one table follows the other.",
	}
	watch := cmd.Flags().BoolP("watch", "w", false, "renew the table until Ctrl-C")
	every := cmd.Flags().Duration("every", 2*time.Second, "with --watch: the time between two tables, from 200ms")
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		if *every < balancer.StatsLeast {
			return fmt.Errorf("every: %s is less than %s", *every, balancer.StatsLeast)
		}
		if !*watch {
			return c.stats(args[0], 0, c.out)
		}
		live := terminal(c.out) && c.output == "table"
		for first := true; ; first = false {
			var b bytes.Buffer
			if err := c.stats(args[0], *every, &b); err != nil {
				if c.ctx.Err() != nil {
					return nil
				}
				return err
			}
			switch {
			case live:
				// Home, each line cleared to its end, and what is left over below.
				text := strings.ReplaceAll(b.String(), "\n", "\x1b[K\n")
				if first {
					text = "\x1b[2J" + text
				}
				fmt.Fprint(c.out, "\x1b[H"+text+"\x1b[J")
			case c.output == "table" && !first:
				fmt.Fprint(c.out, "\n"+b.String())
			default:
				fmt.Fprint(c.out, b.String())
			}
			select {
			case <-time.After(*every):
			case <-c.ctx.Done():
				return nil
			}
		}
	})
}

// terminal says whether what is written is read by a person at once.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	st, err := f.Stat()
	return err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
}

// stats reads the counters of a VIP, which are to be at most that old, and writes them.
// With an age they are one of many: JSON on one line, YAML as one document of a stream.
func (c *client) stats(name string, age time.Duration, w io.Writer) error {
	k := call{method: http.MethodGet, path: vipPath(name) + "/stats"}
	if age > 0 {
		k.query = url.Values{"max_age": {age.String()}}
	}
	a, err := c.do(k)
	if err != nil {
		return err
	}
	st, err := decode[balancer.Stats](c, a.body)
	if err != nil {
		return err
	}
	to := *c
	to.out = w
	if age > 0 {
		switch c.output {
		case "json":
			var line bytes.Buffer
			if err := json.Compact(&line, a.body); err != nil {
				return c.garbled(err)
			}
			_, err := fmt.Fprintln(w, line.String())
			return err
		case "yaml":
			fmt.Fprintln(w, "---")
		}
	}
	return to.print(a.body, func(w *tabwriter.Writer) error {
		statsTable(w, st)
		return nil
	})
}

func statsTable(w *tabwriter.Writer, st balancer.Stats) {
	over := ", no rates yet"
	if st.Interval > 0 {
		over = ", rates over " + st.Interval.String()
	}
	fmt.Fprintf(w, "vip %s at %s%s\n\n", oneLine(st.Name), st.At.UTC().Format(time.TimeOnly), over)
	w.Flush()
	row(w, "LISTENER", "MEMBER", "PACKETS", "BYTES", "NEW CONNS", "PACKETS/S", "BYTES/S", "CONNS/S", "SLOTS", "SHARE", "OBSERVED", " ")
	for _, l := range st.Listeners {
		key := balancer.ListenerKey{Protocol: l.Protocol, Port: l.Port}
		statsRow(w, key, "all", l.Traffic, l.Slots, "", "", " ")
		for _, m := range l.Members {
			observed, drawn := "", bar(m.Share)
			if m.ObservedShare != nil {
				observed, drawn = percent(*m.ObservedShare), bar(*m.ObservedShare)
			}
			statsRow(w, key, balancer.Member{Address: m.Address, Port: m.Port}.Key().String(), m.Traffic, m.Slots, percent(m.Share), observed, drawn)
		}
	}
	gap(w)
	row(w, "LISTENER", "SLOTS", "QUANTISATION ERROR")
	for _, l := range st.Listeners {
		row(w, balancer.ListenerKey{Protocol: l.Protocol, Port: l.Port}, l.Slots, percent(l.QuantisationError))
	}
	if len(st.Unread) > 0 {
		gap(w)
		for _, why := range st.Unread {
			fmt.Fprintf(w, "not read: %s\n", oneLine(why))
		}
	}
}

func statsRow(w io.Writer, listener balancer.ListenerKey, member string, t balancer.Traffic, slots int, share, observed, bar string) {
	conns, rate := "", ""
	if t.NewConnections != nil {
		conns, rate = fmt.Sprint(*t.NewConnections), amount(t.NewConnectionRate)
	}
	row(w, listener, member, t.Packets, t.Bytes, conns, amount(t.PacketRate), amount(t.ByteRate), rate, slots, share, observed, bar)
}

func percent(v float64) string { return fmt.Sprintf("%.1f%%", 100*v) }

// amount writes a rate in three digits or so.
func amount(v float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		if v < 999.5 || unit == "G" {
			if v == 0 || v >= 99.95 || unit == "" && v == float64(int64(v)) {
				return fmt.Sprintf("%.0f%s", v, unit)
			}
			return fmt.Sprintf("%.1f%s", v, unit)
		}
		v /= 1000
	}
	return ""
}

// barWidth is the length of the bar of everything, in characters.
const barWidth = 20

// bar draws a share, to an eighth of a character.
func bar(share float64) string {
	eighths := int(8*barWidth*min(max(share, 0), 1) + 0.5)
	s := strings.Repeat("█", eighths/8)
	if rest := eighths % 8; rest > 0 {
		s += string([]rune("▏▎▍▌▋▊▉")[rest-1])
	}
	if s == "" {
		return " "
	}
	return s
}
