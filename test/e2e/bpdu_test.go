//go:build e2e

package e2e

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// isRoot says whether a legacy bridge takes itself for the root of the spanning tree.
func (l *lab) isRoot(bridge string) bool {
	l.t.Helper()
	shown := run(l.t, "ip", "-n", l.ns.name, "-d", "link", "show", bridge)
	require.Contains(l.t, shown, " root_port ")
	return strings.Contains(shown, " root_port 0 ")
}

// TestBPDUs has a switch between two legacy bridges with spanning tree: they find each
// other through it where it forwards BPDUs, in each stage; and a guarded port is blocked.
func TestBPDUs(t *testing.T) {
	l := newLab(t)
	l.addSwitch("s1", secure)
	for _, b := range []string{"bp", "bq"} {
		l.addBridge(b)
		l.bridgeTo(b, "s1")
		run(t, "ip", "-n", l.ns.name, "link", "set", b, "type", "bridge", "forward_delay", "200", "hello_time", "100", "max_age", "600", "stp_state", "1")
	}
	c := l.control("managed")
	dpid := l.dpid()
	one := func() bool { return l.isRoot("bp") != l.isRoot("bq") }
	two := func() bool { return l.isRoot("bp") && l.isRoot("bq") }
	for i, stage := range []string{"managed", "steer", "observe"}[:scale(2, 3)] {
		c.succeeds("switch", "stage", dpid, stage, "--wait", "5s")
		if i > 0 {
			c.succeeds("switch", "bpdus", dpid, "drop", "--wait", "5s")
			c.wait("each bridge is a root in "+stage, two)
		}
		c.succeeds("switch", "bpdus", dpid, "forward", "--wait", "5s")
		c.wait("the bridges find each other in "+stage, one)
	}
	c.succeeds("switch", "stage", dpid, "managed", "--wait", "5s")
	c.succeeds("switch", "bpdus", dpid, "guard", "--wait", "5s")
	c.wait("both ports are blocked", func() bool {
		return strings.Count(c.succeeds("switch", "get", dpid), "a BPDU came from") == 2
	})
	c.wait("each bridge is a root again", two)
}
