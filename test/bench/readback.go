package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/ovstest"
)

const (
	readBackFlows = 100_000
	flowsAPart    = 4
	// readBackMost is how much longer than the reading alone the comparing may make it.
	readBackMost = 1.5
)

// readBack measures what it costs to find out that nothing has changed in a switch.
func (b *bench) readBack() error {
	b.head("reading back 100,000 unchanged flows", `Open vSwitch holds what package flowtable desires, in 25,000 parts. Reading alone: the flow statistics of all tables, every record
parsed and let go. Reading and diffing: the same, and what the controller does after it, until it knows that there is nothing to send.`)
	return scoped(b.readBackOVS)
}

func (b *bench) readBackOVS(s *scope) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	o := ovstest.Start(s)
	o.AddBridge(ovstest.Bridge{Name: "b0", DPID: 1, Controllers: []string{"tcp:" + ln.Addr().String()}})
	nc, err := ln.Accept()
	if err != nil {
		return err
	}
	var refused error // read after a barrier
	conn := ofproto.NewConn(nc, ofproto.ConnOptions{MaxMultipart: 1 << 30, Handler: func(_ ofproto.Header, m ofproto.Message) {
		if e, ok := m.(*ofproto.Error); ok {
			refused = e
		}
	}})
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); _ = conn.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	if _, err := conn.Send(&ofproto.Hello{Versions: []uint8{ofproto.Version}}); err != nil {
		return err
	}
	if _, err := conn.Request(ctx, &ofproto.FeaturesRequest{}); err != nil {
		return err
	}

	table := flowtable.New(controller.Pipeline)
	for i := range readBackFlows / flowsAPart {
		if err := table.SetPart(flowtable.PartKey{App: controller.AppBalancer, Name: fmt.Sprintf("vip/v%d", i)}, somePart(i)); err != nil {
			return err
		}
	}
	table.ReadBack(table.NewInstalled(), nil)
	plan := table.Plan(readBackFlows)
	if plan.Len() != readBackFlows {
		return fmt.Errorf("%d flows to install", plan.Len())
	}
	for _, m := range plan.SetFlows {
		if _, err := conn.Send(m.Message); err != nil {
			return err
		}
		table.Applied(&m)
	}
	if _, err := conn.Request(ctx, &ofproto.BarrierRequest{}); err != nil {
		return err
	}
	if refused != nil {
		return refused
	}

	read := func(f func(ofproto.FlowStats)) error {
		all := &ofproto.MultipartRequest{Type: ofproto.MultipartFlow, Body: ofproto.AllFlows()}
		return conn.Multipart(ctx, all, func(body []byte) error {
			for flow, err := range ofproto.FlowStatsOf(body) {
				if err != nil {
					return err
				}
				f(flow)
			}
			return nil
		})
	}
	var alone, diffed sample
	for range b.rounds + 1 { // the first to warm up
		start := time.Now()
		n := 0
		if err := read(func(ofproto.FlowStats) { n++ }); err != nil {
			return err
		}
		alone = append(alone, time.Since(start).Seconds()*1e3)
		if n != readBackFlows {
			return fmt.Errorf("%d flows were read", n)
		}

		start = time.Now()
		in := table.NewInstalled()
		if err := read(func(f ofproto.FlowStats) { in.AddFlow(f) }); err != nil {
			return err
		}
		table.ReadBack(in, nil)
		for table.Dirty() {
			if plan := table.Plan(readBackFlows); plan.Len() > 0 {
				return errors.New("unchanged flows are to be changed")
			}
		}
		diffed = append(diffed, time.Since(start).Seconds()*1e3)
	}
	alone, diffed = alone[1:], diffed[1:]
	ratio := diffed.over(alone)
	b.printf("reading alone %s ms, reading and diffing %s ms, ratio %s, %s\n", alone.text("%.0f"), diffed.text("%.0f"), ratio.text("%.2f"), target(ratio, 0, readBackMost))
	return nil
}

// somePart has the flows that give the replies of four members the address of a VIP.
func somePart(i int) flowtable.Part {
	var p flowtable.Part
	vip := netip.PrefixFrom(vipAddress(i), 32)
	for j := range flowsAPart {
		n := flowsAPart*i + j
		member := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 3, byte(n >> 8), byte(n)}), 32)
		p.Flows = append(p.Flows, flowtable.Flow{
			Table: controller.TableVIP, Priority: controller.PrioVIPReverse,
			Match: ofproto.NewMatch(ofproto.EthType(packet.EtherTypeIPv4), ofproto.IPProto(packet.ProtoTCP),
				ofproto.IPv4Src(member), ofproto.L4Src(packet.ProtoTCP, uint16(1024+n>>16))),
			Instructions: []ofproto.Instruction{
				ofproto.ApplyActions{Actions: []ofproto.Action{
					ofproto.SetField{Field: ofproto.IPv4Src(vip)},
					ofproto.SetField{Field: ofproto.L4Src(packet.ProtoTCP, 80)},
				}},
				ofproto.GotoTable{Table: controller.TableDestination},
			},
		})
	}
	return p
}
