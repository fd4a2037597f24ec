package topology

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestScenarios runs the scripts in testdata/*.txt. Each line at the margin is a
// command; the indented lines after it are what came of it, rewritten by
// -rewrite. Comments and blank lines stay. DPIDs are in hex; h1 is the MAC
// 02:00:00:00:00:01, h1@5 the same on VLAN 5.
//
//	options link-ttl=15s edge-delay=1s host-ttl=5m max-hosts=3 max-ips=2   (first)
//	switch DPID ports=N [down=P,P]    add it or replace its ports: 1…N
//	switch-gone DPID
//	port DPID/P up|down|gone
//	heard DPID/P DPID/P               a probe from the first came in at the second
//	link DPID/P DPID/P                both ways
//	seed DPID/P DPID/P DURATION
//	host MAC DPID/P [IP…]
//	pin MAC, unpin MAC
//	advance DURATION                  the time goes on, then Expire
//	show switches|links|tree|components|hosts
//	show edges DPID, show path DPID DPID, show ip IP [VLAN]
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			script, err := os.ReadFile(file)
			require.NoError(t, err)
			var out bytes.Buffer
			s := scenario{g: New(Options{}), now: t0}
			for n, line := range strings.Split(strings.TrimSuffix(string(script), "\n"), "\n") {
				if strings.HasPrefix(line, "  ") {
					continue
				}
				fmt.Fprintln(&out, line)
				if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
					result, err := s.run(words)
					require.NoError(t, err, "%s:%d: %s", file, n+1, line)
					for _, r := range result {
						fmt.Fprintln(&out, "  "+r)
					}
				}
			}
			golden(t, filepath.Base(file), out.String())
		})
	}
}

type scenario struct {
	g   *Graph
	now time.Time
}

func (s *scenario) run(words []string) (out []string, err error) {
	// Scripts are ours: one that is wrong may say so as it likes.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	arg := func(i int) string { return words[i] }
	var evs []Event
	switch words[0] {
	case "options":
		var o Options
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			switch k {
			case "link-ttl":
				o.LinkTTL = must(time.ParseDuration(v))
			case "edge-delay":
				o.EdgeDelay = must(time.ParseDuration(v))
			case "host-ttl":
				o.HostTTL = must(time.ParseDuration(v))
			case "max-hosts":
				o.MaxHosts = must(strconv.Atoi(v))
			case "max-ips":
				o.MaxIPs = must(strconv.Atoi(v))
			default:
				return nil, fmt.Errorf("unknown option %s", k)
			}
		}
		s.g = New(o)
	case "switch":
		n := must(strconv.Atoi(strings.TrimPrefix(arg(2), "ports=")))
		ps := ports(n)
		if len(words) > 3 {
			for _, d := range strings.Split(strings.TrimPrefix(arg(3), "down="), ",") {
				ps[must(strconv.Atoi(d))-1].Up = false
			}
		}
		evs = s.g.SetSwitch(dpid(arg(1)), ps, s.now)
	case "switch-gone":
		evs = s.g.RemoveSwitch(dpid(arg(1)), s.now)
	case "port":
		p := place(arg(1))
		if arg(2) == "gone" {
			evs = s.g.RemovePort(p, s.now)
		} else {
			evs = s.g.SetPort(p.DPID, PortState{Port: p.Port, Up: arg(2) == "up"}, s.now)
		}
	case "heard":
		evs = s.g.HearLink(place(arg(1)), place(arg(2)), s.now)
	case "link":
		evs = hear(s.g, place(arg(1)), place(arg(2)), s.now)
	case "seed":
		evs = s.g.SeedLink(place(arg(1)), place(arg(2)), s.now.Add(must(time.ParseDuration(arg(3)))), s.now)
	case "host":
		key := hostKey(arg(1))
		for _, ip := range append([]string{""}, words[3:]...) {
			h := Sighting{MAC: key.MAC, VLAN: key.VLAN, Place: place(arg(2))}
			if ip != "" {
				h.IP = netip.MustParseAddr(ip)
			} else if len(words) > 3 {
				continue
			}
			evs = append(evs, s.g.SeeHost(h, s.now)...)
		}
	case "pin", "unpin":
		evs = s.g.Pin(hostKey(arg(1)), words[0] == "pin", s.now)
	case "advance":
		s.now = s.now.Add(must(time.ParseDuration(arg(1))))
		evs = s.g.Expire(s.now)
	case "show":
		return s.show(words[1:])
	default:
		return nil, fmt.Errorf("unknown command %s", words[0])
	}
	for _, e := range evs {
		out = append(out, brief(e.String()))
	}
	if len(out) == 0 {
		out = []string{"nothing"}
	}
	return out, nil
}

func (s *scenario) show(words []string) (out []string, err error) {
	snap := s.g.Snapshot()
	add := func(format string, args ...any) { out = append(out, brief(fmt.Sprintf(format, args...))) }
	switch words[0] {
	case "switches":
		for _, sw := range snap.Switches() {
			line := sw.DPID.String()
			for _, p := range sw.Ports {
				line += fmt.Sprintf(" %v", p.Port)
				if !p.Up {
					line += "(down)"
				}
			}
			add("%s", line)
		}
	case "links":
		for _, l := range snap.Links() {
			add("%v%s seen=%v...%v", l, l.trust(), l.FirstSeen.Sub(t0), l.LastSeen.Sub(t0))
		}
	case "tree":
		for _, sw := range snap.Switches() {
			root, _ := snap.Tree().Root(sw.DPID)
			add("%v root=%v ports=%v", sw.DPID, root, snap.Tree().Ports(sw.DPID))
		}
	case "components":
		for _, c := range snap.Components() {
			add("%v", c)
		}
	case "hosts":
		for _, h := range snap.Hosts() {
			add("%v at %v ips=%v seen=%v", h.Key(), h.Place, h.IPs, h.LastSeen.Sub(t0))
			if h.Pinned {
				out[len(out)-1] += " pinned"
			}
		}
	case "edges":
		add("%v", snap.EdgePorts(dpid(words[1])))
	case "path":
		for _, h := range snap.Path(dpid(words[1]), dpid(words[2])) {
			add("%v in=%v out=%v", h.DPID, h.In, h.Out)
		}
	case "ip":
		vlan := 0
		if len(words) > 2 {
			vlan = must(strconv.Atoi(words[2]))
		}
		if h, ok := snap.HostByIP(uint16(vlan), netip.MustParseAddr(words[1])); ok {
			add("%v at %v", h.Key(), h.Place)
		}
	default:
		return nil, fmt.Errorf("cannot show %s", words[0])
	}
	if len(out) == 0 {
		out = []string{"none"}
	}
	return out, nil
}

// brief shortens what scripts are full of.
func brief(s string) string {
	return strings.NewReplacer("000000000000000", "s", "02:00:00:00:00:0", "h").Replace(s)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func dpid(s string) DPID {
	return DPID(must(strconv.ParseUint(strings.TrimPrefix(s, "s"), 16, 64)))
}

func place(s string) Place {
	id, port, _ := strings.Cut(s, "/")
	return Place{dpid(id), Port(must(strconv.ParseUint(port, 10, 32)))}
}

func hostKey(s string) HostKey {
	name, vlan, _ := strings.Cut(s, "@")
	k := HostKey{MAC: MAC{2, 0, 0, 0, 0, byte(must(strconv.Atoi(strings.TrimPrefix(name, "h"))))}}
	if vlan != "" {
		k.VLAN = uint16(must(strconv.Atoi(vlan)))
	}
	return k
}
