package northbound

import (
	"context"
	"fmt"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fairlead/fairlead/apps/balancer"
)

// TrafficDetail is how far the metrics of traffic go into detail: each step multiplies
// the series.
type TrafficDetail string

// Details of traffic.
const (
	TrafficNone      TrafficDetail = "none"
	TrafficVIPs      TrafficDetail = "vips"
	TrafficListeners TrafficDetail = "listeners"
	TrafficMembers   TrafficDetail = "members"
)

// TrafficDetails are the details there are, from the least.
var TrafficDetails = []TrafficDetail{TrafficNone, TrafficVIPs, TrafficListeners, TrafficMembers}

// ParseTrafficDetail reads one of TrafficDetails.
func ParseTrafficDetail(s string) (TrafficDetail, error) {
	if d := TrafficDetail(s); slices.Contains(TrafficDetails, d) {
		return d, nil
	}
	return "", fmt.Errorf("%q is none of none, vips, listeners, members", s)
}

// maxTraffic bounds the VIPs, listeners and members together that have metrics of
// traffic. Beyond it members are left out first, then listeners.
const maxTraffic = 50_000

// The metrics of traffic.
var (
	vipLabels      = []string{"vip"}
	listenerLabels = []string{"vip", "listener"}
	memberLabels   = []string{"vip", "listener", "member"}

	descsVIP      = trafficDescs("vip", "the VIP", vipLabels)
	descsListener = trafficDescs("listener", "the listener", listenerLabels)
	descsMember   = trafficDescs("member", "the member", memberLabels)

	descQuantisation  = prometheus.NewDesc("fairlead_listener_quantisation_error", "The largest difference between a member's share of its own slots and its share of the weights.", listenerLabels, nil)
	descSlots         = prometheus.NewDesc("fairlead_member_slots", "Slots that the member owns now.", memberLabels, nil)
	descTrafficDetail = prometheus.NewDesc("fairlead_traffic_detail", "1 for how far the metrics of traffic go into detail now.", []string{"detail"}, nil)
)

// trafficDesc are the metrics of one kind of thing that has traffic.
type trafficDesc struct{ packets, bytes, connections *prometheus.Desc }

func trafficDescs(kind, of string, labels []string) trafficDesc {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc("fairlead_"+kind+"_"+name+"_total", help+" "+of+".", labels, nil)
	}
	return trafficDesc{
		packets: desc("packets", "Packets of clients to"), bytes: desc("bytes", "Bytes of clients to"),
		connections: desc("new_connections", "Estimate of the new TCP connections to"),
	}
}

func (d trafficDesc) show(ch chan<- prometheus.Metric, t balancer.Traffic, labels ...string) {
	counter(ch, d.packets, t.Packets, labels...)
	counter(ch, d.bytes, t.Bytes, labels...)
	if t.NewConnections != nil {
		counter(ch, d.connections, *t.NewConnections, labels...)
	}
}

// counted shows the traffic of VIPs.
func (c collector) counted(ctx context.Context, ch chan<- prometheus.Metric) error {
	detail := c.traffic
	if detail == "" {
		detail = TrafficMembers
	}
	if detail == TrafficNone {
		return nil
	}
	all, err := c.vips.AllStats(ctx, 0)
	if err != nil {
		return err
	}
	detail = affordable(all, detail)
	gauge(ch, descTrafficDetail, 1, string(detail))
	for _, v := range all {
		descsVIP.show(ch, v.Traffic, v.Name)
		if detail == TrafficVIPs {
			continue
		}
		for _, l := range v.Listeners {
			key := balancer.ListenerKey{Protocol: l.Protocol, Port: l.Port}.String()
			descsListener.show(ch, l.Traffic, v.Name, key)
			gauge(ch, descQuantisation, l.QuantisationError, v.Name, key)
			if detail == TrafficListeners {
				continue
			}
			for _, m := range l.Members {
				member := balancer.Member{Address: m.Address, Port: m.Port}.Key().String()
				descsMember.show(ch, m.Traffic, v.Name, key, member)
				gauge(ch, descSlots, float64(m.Slots), v.Name, key, member)
			}
		}
	}
	return nil
}

// affordable is the detail that stays within maxTraffic.
func affordable(all []balancer.Stats, detail TrafficDetail) TrafficDetail {
	listeners, members := 0, 0
	for _, v := range all {
		listeners += len(v.Listeners)
		for _, l := range v.Listeners {
			members += len(l.Members)
		}
	}
	if detail == TrafficMembers && len(all)+listeners+members > maxTraffic {
		detail = TrafficListeners
	}
	if detail == TrafficListeners && len(all)+listeners > maxTraffic {
		detail = TrafficVIPs
	}
	return detail
}
