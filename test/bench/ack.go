package main

import (
	"fmt"
	"time"

	"github.com/fairlead/fairlead/test/ovstest"
)

// ackWrites is how many VIPs are put, one after the other, in each setting.
const ackWrites = 60

// ack measures how long it takes from the PUT of a VIP until every switch has it.
func (b *bench) ack() error {
	b.head("PUT of a VIP to the last switch's acknowledgement", fmt.Sprintf(`PUT /v1/vips/{name}?wait=5s of a new VIP of 3 known members, as the client sees it: validated, made durable, compiled, applied and
acknowledged by every switch (by bundle on Open vSwitch, by barriers on the fakes), answered. %d writes one after the other. Without
a switch it is the cost of HTTP and of the durable write alone.`, ackWrites))
	b.printf("%-22s %34s %10s\n", "", "ms, median (least – most)", "99 %")
	if err := b.ackWithout(); err != nil {
		return err
	}
	for _, n := range []int{1, 16} {
		if err := b.ackOVS(n); err != nil {
			return fmt.Errorf("acknowledgements of ovs: %w", err)
		}
	}
	for _, n := range []int{1, 16} {
		if err := b.ackFakes(n); err != nil {
			return fmt.Errorf("fakes: %w", err)
		}
	}
	return nil
}

func (b *bench) ackWithout() error {
	p, err := b.startFairlead("managed")
	if err != nil {
		return err
	}
	defer p.stop()
	return b.timeWrites(p, 0, "")
}

func (b *bench) ackOVS(n int) error {
	return scoped(func(s *scope) error {
		p, err := b.startFairlead("managed")
		if err != nil {
			return err
		}
		defer p.stop()
		o := ovstest.Start(s)
		for i := range n {
			o.AddBridge(ovstest.Bridge{
				Name: fmt.Sprintf("b%d", i), DPID: uint64(i + 1), Ports: portNames(i), Controllers: []string{"tcp:" + p.openflow},
			})
		}
		if err := b.connected(p, n); err != nil {
			return err
		}
		if err := b.announce(o, p, portNames(0)); err != nil {
			return err
		}
		return b.timeWrites(p, n, "Open vSwitch")
	})
}

func (b *bench) ackFakes(n int) error {
	p, err := b.startFairlead("managed")
	if err != nil {
		return err
	}
	defer p.stop()
	var first *fake
	for i := range n {
		hosts := members()
		if i > 0 {
			hosts = nil
		}
		f, err := dialFake(b.ctx, p.openflow, uint64(i+1), benchVIP, hosts...)
		if err != nil {
			return err
		}
		defer f.close()
		if i == 0 {
			first = f
		}
	}
	if err := b.connected(p, n); err != nil {
		return err
	}
	if err := b.known(p, first.announce); err != nil {
		return err
	}
	return b.timeWrites(p, n, "fake")
}

func (b *bench) timeWrites(p *process, switches int, kind string) error {
	var took sample
	what := "no switch"
	if switches > 0 {
		what = fmt.Sprintf("%d %s", switches, kind)
	}
	for i := range ackWrites + 5 {
		doc := vipDocument(vipAddress(i), threeMembers(i))
		start := time.Now()
		var v vipView
		if err := b.put(p, fmt.Sprintf("/v1/vips/v%d?wait=5s", i), doc, &v); err != nil {
			return err
		}
		if n := v.installed(); n != switches {
			return fmt.Errorf("%d of %d switches hold the VIP", n, switches)
		}
		if i >= 5 { // warmed up
			took = append(took, time.Since(start).Seconds()*1e3)
		}
	}
	b.printf("%-22s %34s %10.1f\n", what, took.text("%.1f"), took.quantile(0.99))
	return nil
}
