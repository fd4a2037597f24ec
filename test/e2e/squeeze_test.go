//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// smallDisk moves a directory into a file system of its own in memory, of so many KiB,
// for the rest of the test.
func smallDisk(t *testing.T, dir string, kib int) {
	t.Helper()
	old := dir + ".old"
	require.NoError(t, os.Rename(dir, old))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dk,mode=0700", kib)))
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	out, err := exec.Command("cp", "-a", old+"/.", dir).CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// fill takes all the room that is left in a directory.
func fill(t *testing.T, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(t, err)
	defer f.Close()
	for b := make([]byte, 4096); ; {
		if _, err := f.Write(b); err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			return filler
		}
	}
}

// TestR03StoreWithoutRoom fills the disk of the store under traffic: writes are refused
// with the reason and change nothing, what serves goes on, and with room again all is well.
func TestR03StoreWithoutRoom(t *testing.T) {
	t.Parallel()
	l, c, clients, _ := small(t, 3)
	c.stop()
	smallDisk(t, c.data, 2048)
	c.start()
	c.quiet()
	stream := spreadStream(t, clients, func(int) netip.AddrPort { return service(53) })
	stream.flows(t, 200)
	filler := fill(t, c.data)
	codes := map[int]int{}
	acked := map[string]bool{}
	for i := range 40 {
		name := fmt.Sprintf("vip-%d", i)
		code, answer := c.exchange("PUT", "/v1/vips/"+name, vipDoc{Address: fmt.Sprintf("10.0.0.%d", 101+i), Listeners: []listenerDoc{
			listener("tcp", 80, []memberDoc{{Address: l.hosts[5].addr.String(), Port: uint16(9000 + i)}})}})
		codes[code]++
		acked[name] = code == 201
		require.Contains(t, []int{201, 507}, code, "%s", answer)
	}
	require.NotZero(t, codes[507], "%v", codes)
	require.Equal(t, 200, c.status("GET", "/v1/vips/web", nil))
	stream.flows(t, 500)
	require.NoError(t, os.Remove(filler))
	require.Equal(t, 200, c.status("PUT", "/v1/vips/web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
		listener("tcp", 80, members(8080, l.hosts[4:]...)), listener("udp", 53, members(5353, l.hosts[4:]...)),
	}}))
	require.Equal(t, 201, c.status("PUT", "/v1/vips/more", vipDoc{Address: "10.0.0.99", Listeners: []listenerDoc{listener("tcp", 80, members(8099, l.hosts[4]))}}))
	c.kill()
	c.start()
	for name, ok := range acked {
		require.Equal(t, ok, c.status("GET", "/v1/vips/"+name, nil) == 200, "%s after a crash", name)
	}
	require.Equal(t, 200, c.status("GET", "/v1/vips/more", nil))
	r := stream.finish()
	t.Logf("%v; answers to 40 writes on a full disk: %v", r, codes)
	require.Zero(t, r.lost())
}

// TestZ06LogWithoutRoom has the log on a full disk, from the start and later: the
// controller does all that it does.
func TestZ06LogWithoutRoom(t *testing.T) {
	t.Parallel()
	_, c, clients, servers := small(t, 3)
	c.stop()
	first := c.log
	dir := filepath.Join(filepath.Dir(first), "full")
	require.NoError(t, os.Mkdir(dir, 0o700))
	smallDisk(t, dir, 64)
	c.log = filepath.Join(dir, "log")
	defer func() { c.log = first }() // the other goes with its disk
	require.NoError(t, os.WriteFile(c.log, nil, 0o600))
	fill(t, dir)
	stream := spreadStream(t, clients, func(int) netip.AddrPort { return service(53) })
	c.start()
	for i := range 20 {
		c.put("web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{
			listener("tcp", 80, members(8080, servers[:1+i%3]...)), listener("udp", 53, members(5353, servers...)),
		}})
	}
	stream.flows(t, 500)
	info, err := os.Stat(c.log)
	require.NoError(t, err)
	require.LessOrEqual(t, info.Size(), int64(64<<10))
	r := stream.finish()
	t.Logf("%v; the log has %d bytes", r, info.Size())
	require.Zero(t, r.lost())
}

// limited puts a process into cgroups of its own, of version 1 or 2, and returns their
// directories by controller.
func limited(t *testing.T, pid int, values map[string]string) {
	t.Helper()
	root := "/sys/fs/cgroup"
	name := fmt.Sprintf("fairlead-e2e-%d", os.Getpid())
	v2 := true
	if _, err := os.Stat(root + "/cgroup.controllers"); err != nil {
		v2 = false
	}
	if v2 {
		_ = os.WriteFile(root+"/cgroup.subtree_control", []byte("+cpu +memory"), 0) // or they are there
	}
	for key, value := range values {
		controller, _, _ := strings.Cut(key, ".")
		dir := filepath.Join(root, name)
		if !v2 {
			dir = filepath.Join(root, controller, name)
		}
		require.NoError(t, os.MkdirAll(dir, 0o755))
		t.Cleanup(func() {
			for range 100 { // when its processes are gone
				if err := os.Remove(dir); err == nil || os.IsNotExist(err) {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		if !v2 {
			switch key {
			case "cpu.max":
				quota, period, _ := strings.Cut(value, " ")
				require.NoError(t, os.WriteFile(dir+"/cpu.cfs_period_us", []byte(period), 0))
				key, value = "cpu.cfs_quota_us", quota
			case "memory.max":
				key = "memory.limit_in_bytes"
			}
		}
		if err := os.WriteFile(filepath.Join(dir, key), []byte(value), 0); err != nil {
			t.Skipf("cgroups cannot be written to here: %v", err)
		}
		require.NoError(t, os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0))
	}
}

// TestZ04LittleProcessorAndMemory gives the controller of ten switches a fifth of a
// processor and 256 MiB: no switch is disconnected while VIPs are written and hosts
// talk. Then its memory ends, and it is killed as by U-02.
func TestZ04LittleProcessorAndMemory(t *testing.T) {
	l := newLab(t)
	l.addSwitches(secure, 10, 1)
	for i := 2; i <= 10; i++ {
		l.addLink("s1", fmt.Sprintf("s%d", i))
	}
	c := l.control("managed")
	c.linked()
	l.host("h2").serveEcho(5353)
	l.host("h3").serveEcho(5353)
	c.put("dns", vipDoc{Address: vip.String(), Listeners: []listenerDoc{listener("udp", 53, members(5353, l.host("h2"), l.host("h3")))}})
	stream := l.host("h1").udpStream(service(53))
	stream.flows(t, 100)
	hellos := l.tap.hellos()
	limited(t, c.cmd.Process.Pid, map[string]string{"cpu.max": "20000 100000", "memory.max": "268435456"})
	end := time.Now().Add(time.Duration(scale(12, 120)) * time.Second)
	written := 0
	for i := 0; time.Now().Before(end); i++ {
		doc := vipDoc{Address: fmt.Sprintf("10.0.0.%d", 110+i%40), Listeners: []listenerDoc{listener("tcp", 80, members(uint16(10000+i%40), l.host("h2"), l.host("h3")))}}
		if code := c.status("PUT", fmt.Sprintf("/v1/vips/vip-%d", i%40), doc); code == 201 || code == 200 {
			written++
		}
	}
	require.Equal(t, hellos, l.tap.hellos(), "a switch connected again")
	u := c.usage()
	t.Logf("a fifth of a processor: %d writes in %d s, no switch disconnected, RSS %d MiB", written, scale(12, 120), u.rss>>10)
	require.NotZero(t, written)
	require.Less(t, u.rss>>10, 256)

	c.kill() // what a want of memory ends in
	c.start()
	stream.flows(t, 200)
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost())
}

// TestU08PowerCycle ends everything at once, switches, controller and hosts' ports, and
// starts it again in any order: the VIP serves without anybody's help, and nothing loops.
func TestU08PowerCycle(t *testing.T) {
	t.Parallel()
	l, c, clients, servers := ringWithService(t)
	c.put("web", vipDoc{Address: vip.String(), Listeners: []listenerDoc{listener("udp", 53, members(5353, servers...))}})
	random := seeded(t)
	for range scale(2, 20) {
		c.kill()
		l.ovs.KillVswitchd()
		for _, h := range l.hosts {
			h.unplug()
		}
		begin := time.Now()
		steps := []func(){
			func() { c.launch() },
			func() { l.ovs.StartVswitchd() },
			func() {
				for _, i := range rand.Perm(len(l.hosts)) {
					l.hosts[i].plugIn()
				}
			},
		}
		order := random.Perm(len(steps))
		for _, i := range order {
			steps[i]()
		}
		for _, h := range clients {
			eventually(t, 30*time.Second, h.name+" is served", func() bool {
				_, err := h.datagram(netip.AddrPortFrom(h.addr, 0), service(53))
				return err == nil
			})
		}
		took := time.Since(begin)
		t.Logf("order %v: all clients are served after %v", order, took.Round(time.Millisecond))
		require.LessOrEqual(t, took, 30*time.Second)
		c.ready()
		c.linked()
		requireOneCopy(l, clients[0])
	}
}

// TestU11ControllerAddressChanges changes where the switch finds its controller, the ways
// that Open vSwitch survives, and then the one that it does not.
func TestU11ControllerAddressChanges(t *testing.T) {
	t.Parallel()
	l, c, clients, _ := small(t, 3)
	groups := len(l.ovs.DumpGroups("s1"))
	stream := spreadStream(t, clients, func(int) netip.AddrPort { return service(53) })
	stream.flows(t, 200)
	before := l.tap.mods()
	// Another address in one transaction, and back.
	for _, target := range []string{controllerAddress, tapAddress} {
		l.ovs.Vsctl("set-controller", "s1", "tcp:"+target)
		require.Len(t, l.ovs.DumpGroups("s1"), groups)
		c.ready()
	}
	// Two, and then one of them less.
	l.ovs.Vsctl("set-controller", "s1", "tcp:"+tapAddress, "tcp:"+controllerAddress)
	stream.flows(t, 200)
	l.ovs.Vsctl("set-controller", "s1", "tcp:"+tapAddress)
	c.ready()
	c.quiet()
	require.Len(t, l.ovs.DumpGroups("s1"), groups)
	r := stream.finish()
	t.Log(r)
	require.Zero(t, r.lost(), "over changes that never leave the switch without a controller row")
	require.Equal(t, before, l.tap.mods(), "messages that change the switch")

	// None at all: Open vSwitch forgets everything, in mode secure too.
	l.ovs.Vsctl("del-controller", "s1")
	eventually(t, 5*time.Second, "the switch has forgotten its groups", func() bool { return len(l.ovs.DumpGroups("s1")) == 0 })
	begin := time.Now()
	l.ovs.Vsctl("set-controller", "s1", "tcp:"+tapAddress)
	times := clients[0].answers(53, vip)
	t.Logf("on-boarding: served %v after the first controller row", times[0].Round(time.Millisecond))
	require.LessOrEqual(t, time.Since(begin), 5*time.Second, "1 s on a machine of its own")
}

// TestX08DataNetworkReachesNothing gives the controller's machine a foot in the data
// network, as it must not have, with the default addresses: hosts reach none of its
// ports, and the one of OpenFlow closes before a byte is said.
func TestX08DataNetworkReachesNothing(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.addSwitch("s1", secure)
	h := l.addHost("s1")
	l.addHost("s1")
	foot := netip.MustParseAddr("10.0.0.250")
	run(t, "ip", "-n", l.ns.name, "link", "add", "foot", "type", "veth", "peer", "name", "footport")
	l.ns.run(t, "ethtool", "-K", "foot", "tx", "off")
	run(t, "ip", "-n", l.ns.name, "addr", "add", foot.String()+"/24", "dev", "foot")
	run(t, "ip", "-n", l.ns.name, "link", "set", "foot", "up")
	l.plug("s1", "footport")
	c := l.controlWith("managed", "--openflow", ":6653")
	open := map[int]bool{}
	eventually(t, 15*time.Second, "the machine is reached", func() bool {
		conn, err := h.dial(netip.AddrPort{}, netip.AddrPortFrom(foot, 6653), time.Second)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	for port := 1; port < 10000; port++ {
		conn, err := h.dial(netip.AddrPort{}, netip.AddrPortFrom(foot, uint16(port)), time.Second)
		if err != nil {
			continue
		}
		open[port] = true
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Write([]byte{4, 0, 0, 8, 0, 0, 0, 1})
		said, _ := io.ReadAll(conn)
		require.Empty(t, said, "port %d says something", port)
		conn.Close()
	}
	require.Equal(t, map[int]bool{6653: true}, open)
	log, err := os.ReadFile(c.log)
	require.NoError(t, err)
	require.Contains(t, string(log), "plain TCP from another machine refused")
}

// TestS04TableFull has a table of Open vSwitch hold 1,000 entries where 1,500 are wanted:
// what fits serves and goes on serving, what does not says why and is not tried all the
// time; entries are replaced though there is room for none; with room all serve.
func TestS04TableFull(t *testing.T) {
	t.Parallel()
	const limit, wanted = 1000, 1500
	l, c, clients, servers := small(t, 3)
	client := clients[0]
	table2 := func() int { return len(l.ovs.DumpFlows("s1", "table=2")) }
	each := -table2()
	names := []string{}
	doc := func(i, port int) vipDoc {
		return vipDoc{Address: fmt.Sprintf("10.0.%d.%d", 1+i/250, 1+i%250), Listeners: []listenerDoc{listener("tcp", 80, members(uint16(port), servers...))}}
	}
	at := func(i int) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(doc(i, 1).Address), 80) }
	add := func() {
		i := len(names)
		names = append(names, fmt.Sprintf("vip-%d", i))
		c.must("PUT", "/v1/vips/"+names[i], doc(i, 10000+i))
	}
	var ports []uint16
	for p := 10000; p < 10000+wanted/4; p++ {
		ports = append(ports, uint16(p))
	}
	for _, h := range servers {
		h.serveHTTP(ports...)
		h.serveHTTP(9999)
	}
	run(t, "ip", "-n", client.namespace.name, "route", "add", "10.0.0.0/16", "dev", "eth0")
	for _, h := range servers {
		run(t, "ip", "-n", h.namespace.name, "route", "add", "10.0.0.0/16", "dev", "eth0")
	}
	add()
	c.installed(names[0])
	each += table2()
	l.ovs.Vsctl("--", "--id=@t", "create", "flow_table", fmt.Sprintf("flow_limit=%d", limit), "overflow_policy=refuse", "--", "set", "bridge", "s1", "flow_tables:2=@t")
	for len(names)*each < wanted {
		add()
	}
	var in, out []int
	sort := func() bool {
		in, out = nil, nil
		for i, name := range names {
			var s vipState
			c.rest("GET", "/v1/vips/"+name, nil, &s)
			switch {
			case len(s.Status.Switches) != 1 || s.Status.Switches[0].State == "pending":
				return false
			case s.Status.Switches[0].State == "installed":
				in = append(in, i)
			default:
				require.Contains(t, s.Status.Switches[0].Reason, "TABLE_FULL", name)
				out = append(out, i)
			}
		}
		return true
	}
	c.wait("every VIP is served or says why not", func() bool { return sort() && len(out) > 0 })
	serve := func(list []int) {
		for _, i := range list {
			_, err := client.request(netip.AddrPort{}, at(i))
			require.NoError(t, err, "%s, which is installed", names[i])
		}
	}
	t.Logf("%d VIPs of %d entries: %d serve, %d say why not; the table has %d of %d", len(names), each, len(in), len(out), table2(), limit)
	require.GreaterOrEqual(t, table2(), limit-each)
	serve(in)

	refused := func() int { _, up := l.tap.snapshot(); return up[1] }
	before, began := refused(), time.Now()
	for time.Since(began) < time.Duration(scale(11, 60))*time.Second {
		serve(in[:10])
	}
	tries := refused() - before
	t.Logf("refused %d times in %s", tries, time.Since(began).Round(time.Second))
	require.LessOrEqual(t, tries, 1+int(time.Since(began)/(10*time.Second)), "one attempt in 10 s")

	// 200 entries are replaced though there is no room: those of the members' ports.
	stream := spreadStream(t, clients, func(int) netip.AddrPort { return service(53) })
	replaced := in[1 : 1+200/len(servers)]
	for n, i := range replaced {
		c.must("PUT", "/v1/vips/"+names[i], doc(i, 10000+wanted/4-1-n))
	}
	c.wait("they are replaced", func() bool { return sort() && subset(replaced, in) })
	serve(in)

	// Room for all: the least wanted go, and those that waited take it.
	r := stream.finish()
	t.Logf("UDP meanwhile: %v", r)
	require.Zero(t, r.lost())
	began = time.Now()
	l.ovs.Vsctl("remove", "bridge", "s1", "flow_tables", "2")
	c.wait("all serve", func() bool { return sort() && len(out) == 0 })
	t.Logf("all serve %s after there is room", time.Since(began).Round(10*time.Millisecond))
	require.LessOrEqual(t, time.Since(began), 15*time.Second)
	serve(in)
}

// subset says whether all of a are in b.
func subset(a, b []int) bool {
	return !slices.ContainsFunc(a, func(i int) bool { return !slices.Contains(b, i) })
}
