package main

import (
	_ "embed"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

//go:embed simple_switch_13.py
var simpleSwitch []byte

const (
	answerTurn = 700 * time.Millisecond
	// answerWindow is how many packet-ins of one switch wait for an answer at a time.
	answerWindow = 128
)

var (
	benchVIP  = netip.MustParseAddr("10.0.0.100")
	answerers = []struct {
		name  string
		start func(*bench) (*process, error)
		least float64 // what Fairlead should answer a second with 16 switches, in multiples of this one
	}{
		{"fairlead", startAnswering, 0},
		{"ovs-testcontroller", (*bench).startTestController, 5},
		{"os-ken", (*bench).startOSKen, 40},
	}
)

// startAnswering runs Fairlead without its limits on packet-ins.
func startAnswering(b *bench) (*process, error) {
	return b.startFairlead("managed", "--packet-in-rate=-1", "--packet-in-port-rate=-1")
}

// answerer is a controller with the switches it has.
type answerer struct {
	name  string
	least float64
	*process
	fakes   []*fake
	rate    sample // answers a second, one a turn
	latency sample // median of each turn, µs
	tail    sample // 99th percentile of each turn, µs
	lost    int
}

// packetIn compares how fast packet-ins are answered.
func (b *bench) packetIn() error {
	b.head("packet-in", fmt.Sprintf(`Fake switches send ARP requests (broadcast, 42 bytes, %d hosts a switch) and count the answers; all controllers get the same
bytes. The address asked for is a VIP: Fairlead learns the sender, looks the VIP up and sends the ARP reply by packet-out (the
switches are not Open vSwitch, which would answer by itself, and their stage is managed). The peers are learning switches: they learn
the sender and flood the request by packet-out. So each answer is one packet-out, and Fairlead's has the more work behind it.
ovs-testcontroller runs with its defaults over OpenFlow 1.3, os-ken runs the usual simple_switch_13. Fairlead runs without its limits
on packet-ins (--packet-in-rate, --packet-in-port-rate), which the peers do not have.
Answers a second: with %d outstanding a switch. Latency: with 1.`, fakeHosts, answerWindow))
	var list []*answerer
	defer func() {
		for _, a := range list {
			for _, f := range a.fakes {
				f.close()
			}
			a.stop()
		}
	}()
	for _, c := range answerers {
		p, err := c.start(b)
		if errors.Is(err, errMissing) {
			b.printf("%s %v: left out.\n", c.name, err)
			continue
		}
		if err != nil {
			return err
		}
		list = append(list, &answerer{name: c.name, least: c.least, process: p})
	}
	if err := b.put(list[0].process, "/v1/vips/bench", vipDocument(benchVIP, nil), nil); err != nil {
		return err
	}
	for _, n := range []int{1, 16} {
		for _, a := range list {
			if err := a.connect(b, n); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		for range b.rounds {
			for _, a := range list {
				if b.ctx.Err() != nil {
					return b.ctx.Err()
				}
				a.turn()
			}
		}
		b.reportAnswers(list, n)
	}
	return nil
}

// connect brings the number of switches to n and waits until each is answered.
func (a *answerer) connect(b *bench, n int) error {
	a.rate, a.latency, a.tail, a.lost = nil, nil, nil, 0
	for len(a.fakes) < n {
		f, err := dialFake(b.ctx, a.openflow, uint64(len(a.fakes)+1), benchVIP)
		if err != nil {
			return err
		}
		a.fakes = append(a.fakes, f)
	}
	for _, f := range a.fakes {
		f.start(1)
		for end := time.Now().Add(15 * time.Second); ; {
			time.Sleep(5 * time.Millisecond)
			f.impatient()
			f.mu.Lock()
			answers := f.run.answers
			f.mu.Unlock()
			if answers >= 2*fakeHosts {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("switch %d is not answered: %s", f.dpid, a.log.tail())
			}
		}
		f.stop()
	}
	a.measure(answerWindow, 2*answerTurn) // warm up; Fairlead's ports settle in a second
	return nil
}

// turn measures rate and latency once.
func (a *answerer) turn() {
	runs, took := a.measure(answerWindow, answerTurn)
	total := 0
	for _, r := range runs {
		total += r.answers
		a.lost += r.lost
	}
	a.rate = append(a.rate, float64(total)/took.Seconds())
	runs, _ = a.measure(1, answerTurn)
	var times sample
	for _, r := range runs {
		a.lost += r.lost
		for _, t := range r.times {
			times = append(times, float64(t.Nanoseconds())/1e3)
		}
	}
	a.latency = append(a.latency, times.median())
	a.tail = append(a.tail, times.quantile(0.99))
}

func (a *answerer) measure(window int, d time.Duration) ([]*fakeRun, time.Duration) {
	start := time.Now()
	for _, f := range a.fakes {
		f.start(window)
	}
	for time.Since(start) < d {
		time.Sleep(50 * time.Millisecond)
		for _, f := range a.fakes {
			f.impatient()
		}
	}
	runs := make([]*fakeRun, len(a.fakes))
	for i, f := range a.fakes {
		runs[i] = f.stop()
	}
	took := time.Since(start)
	time.Sleep(100 * time.Millisecond) // what is on its way belongs to nobody
	return runs, took
}

func (b *bench) reportAnswers(list []*answerer, n int) {
	b.printf("%d switch(es)\n%-20s %32s %26s %26s %6s\n", n, "", "answers/s", "latency µs, median", "latency µs, 99 %", "lost")
	for _, a := range list {
		b.printf("%-20s %32s %26s %26s %6d\n", a.name, a.rate.text("%.0f"), a.latency.text("%.0f"), a.tail.text("%.0f"), a.lost)
	}
	own := list[0]
	for _, a := range list[1:] {
		rate, latency := own.rate.over(a.rate), own.latency.over(a.latency)
		b.printf("fairlead / %-18s answers %s", a.name, rate.text("%.2f"))
		if n > 1 {
			b.printf(", %s", target(rate, a.least, 0))
		}
		b.printf("; latency %s, %s\n", latency.text("%.2f"), target(latency, 0, 1))
	}
	b.printf("\n")
}
