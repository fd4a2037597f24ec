package ovsdb

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/test/ovstest"
)

// forward listens at a TCP address and joins each connection with one to a socket, until
// the test ends. cut ends those that are open.
func forward(t *testing.T, socket string) (e Endpoint, cut func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var mu sync.Mutex
	var open []net.Conn
	cut = func() {
		mu.Lock()
		defer mu.Unlock()
		for _, c := range open {
			_ = c.Close()
		}
		open = nil
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			here, err := l.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("unix", socket)
			if err != nil {
				_ = here.Close()
				continue
			}
			mu.Lock()
			open = append(open, here, there)
			mu.Unlock()
			for _, pair := range [][2]net.Conn{{here, there}, {there, here}} {
				work.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_, _ = pair[0].Close(), pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() { _ = l.Close(); cut(); work.Wait() })
	return Endpoint("tcp:" + l.Addr().String()), cut
}

// TestManyHosts adopts the bridges of several hosts at the same time, by unix and tcp
// endpoints, has sessions cut and one host gone, and releases all to what they were.
func TestManyHosts(t *testing.T) {
	l := newLab(t)
	l.stop()
	heard := new(ear)
	l.heard = heard.hear
	l.start("cluster")
	type machine struct {
		*lab
		endpoint Endpoint
		cut      func()
		before   map[string]string
	}
	machines := make([]*machine, 6)
	for i := range machines {
		m := &machine{lab: &lab{t: t, ovs: ovstest.Start(t)}}
		for j := range 3 {
			name := fmt.Sprintf("br%d", j)
			m.bridge(name, fmt.Sprintf("other_config:datapath-id=%016x", 0x100*(i+1)+j), "--", "add-port", name, "vm"+name, "--",
				"set", "interface", "vm"+name, "type=dummy", fmt.Sprintf("external_ids:iface-id=%d/%d", i, j))
		}
		m.endpoint, m.cut = Endpoint("unix:"+m.ovs.Dir+"/db.sock"), func() {}
		if i%2 == 1 {
			m.endpoint, m.cut = forward(t, m.ovs.Dir+"/db.sock")
		}
		m.before = m.written()
		machines[i] = m
	}
	begin := time.Now()
	var work sync.WaitGroup
	for _, m := range machines {
		work.Go(func() {
			outcomes, err := l.Adopt(t.Context(), Request{Endpoint: m.endpoint, Stage: "steer"})
			if err != nil || len(outcomes) != 3 {
				t.Errorf("%s: %v, %v", m.endpoint, outcomes, err)
			}
			for _, o := range outcomes {
				if o.State != "adopted" {
					t.Errorf("%s: %+v", m.endpoint, o)
				}
			}
		})
	}
	work.Wait()
	t.Logf("%d hosts with 3 bridges each adopted in %v", len(machines), time.Since(begin).Round(time.Millisecond))
	stale := func() (known, stale int) {
		a, _ := heard.latest()
		for _, list := range a.ByID {
			known++
			if list[0].Stale {
				stale++
			}
		}
		return known, stale
	}
	eventually(t, 10*time.Second, "all interfaces are known", func() bool { n, s := stale(); return n == 18 && s == 0 })

	for _, m := range machines {
		m.cut()
	}
	machines[0].ovs.StopDB()
	eventually(t, 10*time.Second, "the host that is gone is stale, and no other", func() bool { n, s := stale(); return n == 18 && s == 3 })
	views, err := l.Bridges(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, views, 18)
	machines[1].ovs.Vsctl("set", "interface", "vmbr0", "external_ids:iface-id=other")
	eventually(t, 10*time.Second, "the others are followed", func() bool { return len(heard.places("other")) == 1 && len(heard.places("1/0")) == 0 })
	machines[1].ovs.Vsctl("set", "interface", "vmbr0", "external_ids:iface-id=1/0")
	machines[0].ovs.StartDB()
	eventually(t, 10*time.Second, "it is back", func() bool { n, s := stale(); return n == 18 && s == 0 })
	a, _ := heard.latest()
	for _, list := range a.ByID {
		require.NotZero(t, list[0].DPID, "%+v", list)
		require.NotZero(t, list[0].Port, "%+v", list)
	}

	for _, m := range machines {
		for j := range 3 {
			require.NoError(t, l.Release(t.Context(), m.endpoint, fmt.Sprintf("br%d", j)))
		}
		eventually(t, 20*time.Second, "datapath_id is back after the restart", func() bool { return len(m.get("br0", "datapath_id")) == 16 })
		require.Equal(t, m.before, m.written())
	}
	require.Zero(t, l.store.size())
}
