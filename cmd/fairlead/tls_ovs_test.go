package main

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/ovstest"
)

// pki is what an operator of Open vSwitch makes with ovs-pki(8).
type pki struct {
	t   *testing.T
	dir string
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	for _, tool := range []string{"ovs-pki", "openssl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%s is missing: apt-get install -y openvswitch-common openssl", tool)
		}
	}
	p := &pki{t, t.TempDir()}
	p.run("init")
	return p
}

func (p *pki) run(args ...string) {
	p.t.Helper()
	cmd := exec.Command("ovs-pki", append([]string{"--dir=" + p.path("pki"), "--log=" + p.path("log"), "--unique"}, args...)...)
	cmd.Dir = p.dir
	out, err := cmd.CombinedOutput()
	require.NoError(p.t, err, "%s", out)
}

func (p *pki) path(name string) string { return filepath.Join(p.dir, name) }

// TestX01OpenVSwitch connects Open vSwitch itself with certificates of ovs-pki, whose
// common name is the datapath id.
func TestX01OpenVSwitch(t *testing.T) {
	p := newPKI(t)
	p.run("req+sign", "ctl", "controller")
	p.run("req+sign", "0000000000000001", "switch")
	p.run("req+sign", "00000000000000b2", "switch")
	ovs := ovstest.Start(t)
	use := func(name string) {
		ovs.Vsctl("--", "set-ssl", p.path(name+"-privkey.pem"), p.path(name+"-cert.pem"), p.path("pki/controllerca/cacert.pem"))
	}
	use("0000000000000001")
	ovs.AddBridge(ovstest.Bridge{Name: "s1", DPID: 1, Ports: []string{"p1"}})

	since := func(s *southbound) (at time.Time) {
		require.NoError(t, s.core.Do(t.Context(), func(c *controller.Context) {
			if sw := c.Switch(1); sw != nil {
				at = sw.Since
			}
		}))
		return at
	}
	// connects measures how long a switch that is told of its controller takes until it
	// is served, the best of some.
	connects := func(s *southbound, target string) time.Duration {
		best := time.Hour
		for range 5 {
			begin := time.Now()
			ovs.SetController("s1", target)
			ovs.Eventually("the switch is connected", func() bool { return since(s).After(begin) })
			best = min(best, time.Since(begin))
			ovs.SetController("s1")
			ovs.Eventually("the switch is gone", func() bool { return since(s).IsZero() })
		}
		return best
	}

	plain := &southbound{t: t}
	plain.start()
	direct := connects(plain, "tcp:"+plain.addr)
	for _, least := range []string{"1.3", "1.2"} {
		s := &southbound{t: t, cfg: Config{TLSMin: least, TLSCert: p.path("ctl-cert.pem"), TLSKey: p.path("ctl-privkey.pem"), TLSCA: p.path("pki/switchca/cacert.pem")}}
		s.start()
		secured := connects(s, "ssl:"+s.addr)
		t.Logf("least TLS %s: served after %v, by plain TCP after %v", least, secured.Round(time.Millisecond), direct.Round(time.Millisecond))
		require.Less(t, secured, direct+time.Second, "it is some 20 ms; the race detector makes RSA slow")
	}

	// The certificate of another switch, of the same authority.
	s := &southbound{t: t, cfg: Config{TLSMin: "1.3", TLSCert: p.path("ctl-cert.pem"), TLSKey: p.path("ctl-privkey.pem"), TLSCA: p.path("pki/switchca/cacert.pem")}}
	s.start()
	use("00000000000000b2")
	ovs.SetController("s1", "ssl:"+s.addr)
	ovs.Eventually("the switch is refused", func() bool { return s.core.Counters().Refused["certificate"] > 0 })
	require.Zero(t, since(s))
	require.Contains(t, s.log.String(), "CN=00000000000000b2")
	use("0000000000000001")
	ovs.Eventually("the right certificate is taken", func() bool { return s.connected(ofproto.DPID(1)) != "" })

	// It stays: echo requests go by TLS as well.
	at := since(s)
	time.Sleep(6 * time.Second) // the keepalive's interval is five: what is asked about is time itself
	require.Equal(t, at, since(s))
}
