package northbound

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
)

func TestMetricsOfTheNetwork(t *testing.T) {
	r := newRig(t)
	v := r.network.switches[1]
	v.Connection.Secure = true
	v.Counts = CountsView{Ports: 3, Flows: 12, Groups: 4, Foreign: 2, PacketIns: 100, PacketInsDropped: 90}
	v.Faults = []FaultView{{Object: "vip/web", Reason: "OFPFMFC_TABLE_FULL"}}
	r.network.switches[1] = v
	r.ok(201, "PUT /v1/vips/web", `{"address":"10.0.0.100","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"address":"10.0.0.2","port":8080}]}}]}`)
	text := string(r.do("GET /metrics", "").body)
	for _, line := range []string{
		`fairlead_collect_success 1`,
		`fairlead_switches{state="connected"} 1`, `fairlead_switches{state="disconnected"} 1`,
		`fairlead_switch_connected{dpid="0000000000000001"} 1`, `fairlead_switch_connected{dpid="0000000000000002"} 0`,
		`fairlead_switch_secure{dpid="0000000000000001"} 1`, `fairlead_switch_secure{dpid="0000000000000002"} 0`,
		`fairlead_switch_flows{dpid="0000000000000001"} 12`, `fairlead_switch_groups{dpid="0000000000000001"} 4`,
		`fairlead_switch_foreign{dpid="0000000000000001"} 2`, `fairlead_switch_faults{dpid="0000000000000001"} 1`,
		`fairlead_switch_packet_ins_total{dpid="0000000000000001"} 100`, `fairlead_switch_packet_ins_dropped_total{dpid="0000000000000001"} 90`,
		`fairlead_connections 3`, `fairlead_connections_handshaking 1`, `fairlead_sessions_refused_total{reason="tls"} 7`, `fairlead_panics_total 2`,
		`fairlead_hosts 0`,
		`fairlead_vip_packets_total{vip="web"} 7`, `fairlead_vip_bytes_total{vip="web"} 700`, `fairlead_traffic_detail{detail="members"} 1`,
		`fairlead_listener_packets_total{listener="tcp:80",vip="web"} 7`, `fairlead_listener_new_connections_total{listener="tcp:80",vip="web"} 0`,
		`fairlead_listener_quantisation_error{listener="tcp:80",vip="web"} 0.25`,
		`fairlead_member_bytes_total{listener="tcp:80",member="10.0.0.2:8080",vip="web"} 700`, `fairlead_member_slots{listener="tcp:80",member="10.0.0.2:8080",vip="web"} 8`,
	} {
		require.Contains(t, text, line+"\n")
	}
}

// Each detail less has the series of one kind less.
func TestMetricsOfTrafficInDetail(t *testing.T) {
	for i, detail := range TrafficDetails {
		r := newRig(t, func(o *Options) { o.Traffic = detail })
		r.ok(201, "PUT /v1/vips/web", `{"address":"10.0.0.100","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"address":"10.0.0.2","port":8080}]}}]}`)
		text := string(r.do("GET /metrics", "").body)
		for j, name := range []string{"fairlead_vip_packets_total{", "fairlead_listener_packets_total{", "fairlead_member_packets_total{"} {
			require.Equal(t, j < i, strings.Contains(text, name), "%s with detail %s", name, detail)
		}
	}
	_, err := ParseTrafficDetail("all")
	require.Error(t, err)
}

// The number of series is bounded: members are left out first, then listeners.
func TestMetricsOfTrafficAreBounded(t *testing.T) {
	vips := func(n, listeners, members int) (all []balancer.Stats) {
		l := balancer.ListenerStats{Members: make([]balancer.MemberStats, members)}
		for range n {
			all = append(all, balancer.Stats{Listeners: slices.Repeat([]balancer.ListenerStats{l}, listeners)})
		}
		return all
	}
	require.Equal(t, TrafficMembers, affordable(vips(10000, 1, 3), TrafficMembers))
	require.Equal(t, TrafficListeners, affordable(vips(10000, 1, 4), TrafficMembers))
	require.Equal(t, TrafficVIPs, affordable(vips(10000, 5, 1), TrafficMembers))
	require.Equal(t, TrafficVIPs, affordable(vips(10, 1, 1), TrafficVIPs))
}

// What cannot be read is left out and said to be; the rest is there.
func TestMetricsOfANetworkThatFails(t *testing.T) {
	r := newRig(t)
	r.network.fail = errors.New("stopped")
	resp := r.do("GET /metrics", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Contains(t, string(resp.body), "fairlead_collect_success 0\n")
	require.Contains(t, string(resp.body), "fairlead_event_streams 0\n")
}

func TestDeleteCertificate(t *testing.T) {
	r := newRig(t)
	r.refused(404, nil, "DELETE "+sw1+"/certificate", "")
	v := r.network.switches[1]
	v.Certificate = &CertificateView{Key: "00ff", Subject: "CN=s1", Since: epoch}
	r.network.switches[1] = v
	require.Equal(t, map[string]any{"key": "00ff", "subject": "CN=s1", "since": "2026-01-02T03:04:05Z"}, r.ok(200, "GET "+sw1, "")["certificate"])
	r.refused(412, nil, "DELETE "+sw1+"/certificate", "", "If-Match", `"steer-drop"`)
	require.Equal(t, 204, r.do("DELETE "+sw1+"/certificate", "", "If-Match", `"steer-drop-00ff"`).StatusCode)
	require.NotContains(t, r.ok(200, "GET "+sw1, ""), "certificate")
}
