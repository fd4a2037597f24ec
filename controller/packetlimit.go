package controller

import (
	"time"

	"github.com/fairlead/fairlead/ofproto"
)

// Limits of the packets that are taken from a switch.
const (
	defaultPacketInRate     = 4000 // a second
	defaultPacketInPortRate = 1000
	// probeRate is what a port may bring of discovery frames, which are counted apart:
	// a flood of other packets must not take links down.
	probeRate = 50

	// maxPacketIns bounds the packets of one switch that wait for the core, and
	// maxProbes the discovery frames above that.
	maxPacketIns = 512
	maxProbes    = 256
	// maxPortLimits bounds the ports that are counted each for itself. A switch that
	// invents port numbers shares one count for the others.
	maxPortLimits = 4096
)

// packetLimit is a token bucket for a switch and one for each of its ports, so that
// what one host sends leaves room for the others. A bucket holds what half a second
// brings.
type packetLimit struct {
	rate, portRate float64 // below 0: no limit
	all            bucket
	ports          map[ofproto.Port]*portLimit
	others         portLimit
}

type portLimit struct{ packets, probes bucket }

type bucket struct {
	spent float64
	at    time.Time
}

func newPacketLimit(rate, portRate int) packetLimit {
	if rate == 0 {
		rate = defaultPacketInRate
	}
	if portRate == 0 {
		portRate = defaultPacketInPortRate
	}
	return packetLimit{rate: float64(rate), portRate: float64(portRate), ports: map[ofproto.Port]*portLimit{}}
}

// refill gives back what the time since the last packet is worth.
func (b *bucket) refill(now time.Time, rate float64) {
	b.spent = max(b.spent-now.Sub(b.at).Seconds()*rate, 0)
	b.at = now
}

// full says whether one more packet is over the limit.
func (b *bucket) full(rate float64) bool { return rate >= 0 && b.spent+1 > max(rate/2, 1) }

// admit says whether a packet is taken. waiting is how many wait already.
func (l *packetLimit) admit(now time.Time, port ofproto.Port, probe bool, waiting int) bool {
	p := l.ports[port]
	if p == nil {
		p = &l.others
		if len(l.ports) < maxPortLimits {
			p = &portLimit{}
			l.ports[port] = p
		}
	}
	if probe {
		p.probes.refill(now, probeRate)
		if waiting >= maxPacketIns+maxProbes || p.probes.full(probeRate) {
			return false
		}
		p.probes.spent++
		return true
	}
	p.packets.refill(now, l.portRate)
	l.all.refill(now, l.rate)
	if waiting >= maxPacketIns || p.packets.full(l.portRate) || l.all.full(l.rate) {
		return false
	}
	p.packets.spent++
	l.all.spent++
	return true
}

// probeFrame says whether a frame is of LLDP.
func probeFrame(frame []byte) bool {
	return len(frame) > 13 && frame[12] == 0x88 && frame[13] == 0xcc
}
