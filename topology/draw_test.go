package topology

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected outcomes in testdata")

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// join makes a link between two switches on their next free ports, counted in
// used.
func join(g *Graph, used map[DPID]Port, a, b DPID) {
	used[a]++
	used[b]++
	hear(g, Place{a, used[a]}, Place{b, used[b]}, t0)
}

// attach puts a host on the next free port of a switch.
func attach(g *Graph, used map[DPID]Port, id DPID, n byte) {
	used[id]++
	g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 0, n}, Place: Place{id, used[id]}, IP: netip.AddrFrom4([4]byte{10, 0, 0, n})}, t0)
}

func switches(g *Graph, n, ports_ int) map[DPID]Port {
	for i := 1; i <= n; i++ {
		ps := append(ports(ports_), PortState{Port: PortLocal, Name: "s" + string(rune('0'+i))})
		g.SetSwitch(DPID(i), ps, t0)
	}
	return map[DPID]Port{}
}

func pictures() map[string]View {
	vs := map[string]View{}
	web := VIPNote{Name: "web", Address: addr("10.0.0.100"), Members: []netip.Addr{addr("10.0.0.3"), addr("10.0.0.5"), addr("10.0.0.7")}}
	dns := VIPNote{Name: "dns", Address: addr("10.0.0.101"), Members: []netip.Addr{addr("10.0.0.5"), addr("10.0.0.8")}}

	g := New(Options{})
	used := switches(g, 4, 8)
	for i := DPID(1); i <= 4; i++ {
		join(g, used, i, i%4+1)
	}
	for i := byte(1); i <= 8; i++ {
		attach(g, used, DPID(i+1)/2, i)
	}
	vs["ring"] = g.Snapshot().View(Notes{VIPs: []VIPNote{web, dns}})

	g = New(Options{})
	used = switches(g, 7, 20)
	for i := DPID(2); i <= 7; i++ {
		join(g, used, i/2, i)
	}
	for i := byte(1); i <= 20; i++ {
		attach(g, used, DPID(4+i%4), i)
	}
	for i := byte(21); i <= 30; i++ {
		attach(g, used, 4, i)
	}
	vs["tree"] = g.Snapshot().View(Notes{VIPs: []VIPNote{web}, Switches: map[DPID]string{1: "core", 2: "left", 3: "right"}})

	g = New(Options{})
	used = switches(g, 6, 8)
	for _, leaf := range []DPID{3, 4, 5, 6} {
		join(g, used, 1, leaf)
		join(g, used, 2, leaf)
		attach(g, used, leaf, byte(leaf))
	}
	vs["spine"] = g.Snapshot().View(Notes{})

	// One of everything that can be wrong, and names that bite.
	g = New(Options{})
	used = switches(g, 5, 9)
	join(g, used, 1, 2)
	join(g, used, 1, 2)
	join(g, used, 2, 3)
	g.HearLink(Place{3, 5}, Place{1, 5}, t0)
	hear(g, Place{1, 1}, Place{3, 7}, t0)
	g.HearLink(Place{2, 8}, Place{2, 9}, t0)
	g.SeedLink(Place{3, 8}, Place{5, 1}, t0.Add(1e9), t0)
	g.SeedLink(Place{3, 9}, Place{77, 1}, t0.Add(1e9), t0)
	attach(g, used, 1, 1)
	g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 1, 1}, VLAN: 5, Place: Place{4, 1}}, t0)
	g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 1, 2}, Place: Place{4, PortLocal}}, t0)
	g.SeeHost(Sighting{MAC: MAC{2, 0, 0, 0, 1, 3}, Place: Place{4, 2}, IP: addr("2001:db8:1234:5678:9abc:def0:1234:5678")}, t0)
	vs["odd"] = g.Snapshot().View(Notes{
		Switches: map[DPID]string{1: `</text><script>"&'`, 2: "a\\\"b\nc", 3: "nul\x00\xff\ufffe"},
		VIPs:     []VIPNote{{Name: "<b>", Address: addr("::1")}},
	})

	vs["empty"] = New(Options{}).Snapshot().View(Notes{})
	return vs
}

func TestPictures(t *testing.T) {
	for name, v := range pictures() {
		t.Run(name, func(t *testing.T) {
			svg, dot := v.SVG(), v.DOT()
			golden(t, name+".svg", svg)
			golden(t, name+".dot", dot)
			require.Equal(t, svg, v.SVG())

			d := xml.NewDecoder(strings.NewReader(svg))
			for {
				tok, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err)
				if e, ok := tok.(xml.StartElement); ok {
					require.NotEqual(t, "script", e.Name.Local)
				}
			}
			for _, e := range []string{"NaN", "Inf", "%!"} {
				require.NotContains(t, svg, e)
			}

			b, err := json.Marshal(v)
			require.NoError(t, err)
			require.NotContains(t, string(b), "null")

			if tool, err := exec.LookPath("dot"); err == nil {
				cmd := exec.Command(tool, "-Tplain")
				cmd.Stdin = strings.NewReader(dot)
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s", out)
			}
		})
	}
}

// golden compares text with a file of testdata, or rewrites the file.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *rewrite {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, "run with -rewrite if this is meant, and look at the picture")
}
