//go:build soak

package reliability

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/faultproxy"
)

const soak = true

// TestS10OnOpenVSwitch holds a half-filled bundle for longer than the 10 s after
// which Open vSwitch throws it away.
func TestS10OnOpenVSwitch(t *testing.T) {
	b := openVSwitch(t, 3)
	b.proxy.Add(faultproxy.Rule{Name: "hold", Direction: faultproxy.ToSwitch, Types: []ofproto.MessageType{ofproto.TypeExperimenter}, Limit: 1, Skip: 3,
		Match: func(f *faultproxy.Frame) bool { _, ok := f.Message().(*ofproto.BundleAdd); return ok }, Do: faultproxy.Delay(12 * time.Second)})
	rec := b.put(b.document(1, 2, 3))
	d := took(t, 40*time.Second, "converged", func() bool { return b.status(vipName(1)).VIP.Provisioning == balancer.ProvisioningActive })
	require.NotZero(t, b.serves(1000, rec, 3))
	require.Equal(t, 1, b.proxy.Acted("hold"))
	t.Logf("served %v after the change, held for 12 s", d)
	require.LessOrEqual(t, d, 20*time.Second)
}
