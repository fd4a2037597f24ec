//go:build e2e

package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/fairlead/fairlead/test/ovstest"
)

// vip is the address that the tests balance.
var vip = netip.MustParseAddr("10.0.0.100")

func TestMain(m *testing.M) {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "e2e: network namespaces need root: run the tests as root or with sudo")
		os.Exit(1)
	}
	for _, tool := range []string{"ip", "ethtool"} {
		if _, err := exec.LookPath(tool); err != nil {
			fmt.Fprintf(os.Stderr, "e2e: %s is missing: apt-get install -y iproute2 ethtool\n", tool)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// lab is a network of switches and hosts.
type lab struct {
	t     testing.TB
	ns    *namespace // of the switches and the controller
	ovs   *ovstest.OVS
	tap   *tap
	links []link
	hosts []*host
	ports map[string]int // ports given to each switch so far
	dpids int

	machines map[string]*machine // the switches that are machines of their own
}

// link joins two switches by a veth pair; its ends are named a-b and b-a.
type link struct{ a, b string }

// host is a machine of the lab.
type host struct {
	*namespace
	t    testing.TB
	lab  *lab
	name string
	addr netip.Addr
	mac  string
	at   string // its switch
	more []netip.Addr
}

// failMode of a lab's switches.
type failMode string

const (
	secure     failMode = "secure"
	standalone failMode = "standalone"
)

// newLab makes a lab without switches. Its bridges connect to the controller by
// way of the tap, whether or not one runs; a standalone lab has no controller.
func newLab(t testing.TB) *lab {
	t.Helper()
	l := &lab{t: t, ns: newNamespace(t, "sw"), ports: map[string]int{}, machines: map[string]*machine{}}
	l.ovs = ovstest.StartIn(t, l.ns.name)
	l.tap = newTap(t, l.ns)
	return l
}

// singleLab is one switch, s1, with n hosts, h1 to hn.
func singleLab(t testing.TB, mode failMode, n int) *lab {
	t.Helper()
	l := newLab(t)
	l.addSwitch("s1", mode)
	for range n {
		l.addHost("s1")
	}
	return l
}

// ringLab is four switches in a ring, s1 to s4, with n hosts on each: h1 to hn on s1 and so on.
func ringLab(t testing.TB, mode failMode, n int) *lab {
	t.Helper()
	l := newLab(t)
	l.addSwitches(mode, 4, n)
	for i := 1; i <= 4; i++ {
		l.addLink(fmt.Sprintf("s%d", i), fmt.Sprintf("s%d", i%4+1))
	}
	return l
}

// treeLab is two tiers: s1 above s2 and s3, which have n hosts each.
func treeLab(t testing.TB, mode failMode, n int) *lab {
	t.Helper()
	l := newLab(t)
	l.addSwitch("s1", mode)
	for _, leaf := range []string{"s2", "s3"} {
		l.addSwitch(leaf, mode)
		for range n {
			l.addHost(leaf)
		}
		l.addLink("s1", leaf)
	}
	return l
}

func (l *lab) addSwitches(mode failMode, switches, hosts int) {
	l.t.Helper()
	for i := 1; i <= switches; i++ {
		name := fmt.Sprintf("s%d", i)
		l.addSwitch(name, mode)
		for range hosts {
			l.addHost(name)
		}
	}
}

// addSwitch adds a switch; its datapath ids are 1, 2, …
func (l *lab) addSwitch(name string, mode failMode) {
	l.t.Helper()
	l.dpids++
	b := ovstest.Bridge{Name: name, DPID: uint64(l.dpids), FailMode: string(mode)}
	if mode == secure {
		b.Controllers = []string{"tcp:" + tapAddress}
	}
	l.ovs.AddBridge(b)
}

// dpids of the lab's switches, as the REST API writes them.
func (l *lab) switches() []string {
	ids := make([]string, l.dpids)
	for i := range ids {
		ids[i] = fmt.Sprintf("%016x", i+1)
	}
	return ids
}

func (l *lab) plug(sw, device string) int {
	l.t.Helper()
	l.ports[sw]++
	ns, ovs := l.ns, l.ovs
	if m := l.machines[sw]; m != nil {
		run(l.t, "ip", "-n", ns.name, "link", "set", device, "netns", m.name)
		ns, ovs = m.namespace, m.ovs
	}
	run(l.t, "ip", "-n", ns.name, "link", "set", device, "up")
	ovs.AddPort(sw, device, l.ports[sw])
	return l.ports[sw]
}

// addHost adds host hN with address 10.0.0.N to a switch; its device there is hN.
func (l *lab) addHost(sw string) *host {
	l.t.Helper()
	n := len(l.hosts) + 1
	h := &host{
		t:    l.t,
		lab:  l,
		name: fmt.Sprintf("h%d", n),
		addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(n)}),
		mac:  fmt.Sprintf("02:00:00:00:00:%02x", n),
		at:   sw,
	}
	h.namespace = newNamespace(l.t, h.name)
	run(l.t, "ip", "-n", l.ns.name, "link", "add", h.name, "type", "veth",
		"peer", "name", "eth0", "address", h.mac, "netns", h.namespace.name)
	// Frames leave a veth without checksums, which a switch that rewrites addresses cannot complete.
	h.run(l.t, "ethtool", "-K", "eth0", "tx", "off")
	h.addAddress(h.addr)
	run(l.t, "ip", "-n", h.namespace.name, "link", "set", "eth0", "up")
	l.plug(sw, h.name)
	l.hosts = append(l.hosts, h)
	h.serveEcho(7)
	return h
}

func (h *host) addAddress(a netip.Addr) {
	h.t.Helper()
	run(h.t, "ip", "-n", h.namespace.name, "addr", "add", a.String()+"/24", "dev", "eth0")
}

// addAddresses gives the host n more addresses, to send from many sources. first
// is the last byte of the first.
func (h *host) addAddresses(first, n int) {
	h.t.Helper()
	for i := range n {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(first + i)})
		h.addAddress(a)
		h.more = append(h.more, a)
	}
}

// move unplugs the host and plugs it into another switch.
func (h *host) move(sw string) {
	h.t.Helper()
	h.lab.ovs.DelPort(h.at, h.name)
	h.at = sw
	h.lab.plug(sw, h.name)
}

// unplug takes the carrier of the host's port away; plugIn gives it back.
func (h *host) unplug() {
	h.t.Helper()
	run(h.t, "ip", "-n", h.lab.ns.name, "link", "set", h.name, "down")
}

func (h *host) plugIn() {
	h.t.Helper()
	run(h.t, "ip", "-n", h.lab.ns.name, "link", "set", h.name, "up")
}

// host returns a host by name.
func (l *lab) host(name string) *host {
	l.t.Helper()
	for _, h := range l.hosts {
		if h.name == name {
			return h
		}
	}
	l.t.Fatalf("no host %s", name)
	return nil
}

// addLink joins two switches by a cable.
func (l *lab) addLink(a, b string) {
	l.t.Helper()
	k := link{a, b}
	run(l.t, "ip", "-n", l.ns.name, "link", "add", k.near(), "type", "veth", "peer", "name", k.far())
	l.plug(a, k.near())
	l.plug(b, k.far())
	l.links = append(l.links, k)
}

func (k link) near() string   { return k.a + "-" + k.b }
func (k link) far() string    { return k.b + "-" + k.a }
func (k link) String() string { return k.near() }

// cut takes a link's carrier away at both ends; mend gives it back.
func (l *lab) cut(k link) {
	l.t.Helper()
	run(l.t, "ip", "-n", l.ns.name, "link", "set", k.near(), "down")
}

func (l *lab) mend(k link) {
	l.t.Helper()
	run(l.t, "ip", "-n", l.ns.name, "link", "set", k.near(), "up")
}

// portUp reports what OVS itself knows about a port's carrier.
func (l *lab) portUp(device string) bool {
	l.t.Helper()
	return strings.Contains(l.ovs.Vsctl("get", "interface", device, "link_state"), "up")
}

// settle waits until OVS has brought its cached datapath flows up to its tables,
// which a barrier reply does not promise.
func (l *lab) settle() {
	l.t.Helper()
	l.ovs.Appctl("revalidator/wait")
}
