package controller

import (
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Limits of the packets that are taken from a switch.
const (
	defaultPacketInRate     = 4000 // a second
	defaultPacketInPortRate = 1000
	// probeRate is what a port may bring of discovery frames, which are counted apart:
	// a flood of other packets must not take links down.
	probeRate = 50
	// repliesRate and repliesPortRate are what a switch, and a port of it, may bring of
	// replies to health monitors, which are counted apart too: a flood of other packets
	// must not make members look dead.
	repliesRate     = 12000
	repliesPortRate = 8000

	// maxPacketIns bounds the packets of one switch that wait for the core, maxReplies
	// the replies to health monitors above that, and maxProbes the discovery frames
	// above both.
	maxPacketIns = 512
	maxReplies   = 1024
	maxProbes    = 256
	// maxPacketBytes bounds the bytes of all of them: as many whole frames as may wait.
	maxPacketBytes = (maxPacketIns + maxReplies + maxProbes) * 2048
	// maxPortLimits bounds the ports that are counted each for itself. A switch that
	// invents port numbers shares one count for the others.
	maxPortLimits = 4096
)

// packetLimit is a token bucket for a switch and one for each of its ports, so that
// what one host sends leaves room for the others. A bucket holds what half a second
// brings.
type packetLimit struct {
	rate, portRate float64 // below 0: no limit
	all, replies   bucket
	ports          map[ofproto.Port]*portLimit
	others         portLimit
}

type portLimit struct{ packets, probes, replies bucket }

// packetKind is what a packet is limited as.
type packetKind uint8

const (
	packetOther packetKind = iota
	packetProbe            // of discovery
	packetReply            // to a health monitor
)

// packetKindOf tells by the entry that sent a packet, or by the frame.
func packetKindOf(cookie uint64, frame []byte) packetKind {
	switch {
	case probeFrame(frame):
		return packetProbe
	case flowtable.OwnsCookie(cookie) && flowtable.CookieApp(cookie) == AppHealth:
		return packetReply
	}
	return packetOther
}

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
func (l *packetLimit) admit(now time.Time, port ofproto.Port, kind packetKind, waiting int) bool {
	p := l.ports[port]
	if p == nil {
		p = &l.others
		if len(l.ports) < maxPortLimits {
			p = &portLimit{}
			l.ports[port] = p
		}
	}
	switch kind {
	case packetProbe:
		p.probes.refill(now, probeRate)
		if waiting >= maxPacketIns+maxReplies+maxProbes || p.probes.full(probeRate) {
			return false
		}
		p.probes.spent++
		return true
	case packetReply:
		all, one := float64(repliesRate), float64(repliesPortRate)
		if l.rate < 0 {
			all, one = -1, -1
		}
		p.replies.refill(now, one)
		l.replies.refill(now, all)
		if waiting >= maxPacketIns+maxReplies || p.replies.full(one) || l.replies.full(all) {
			return false
		}
		p.replies.spent++
		l.replies.spent++
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
