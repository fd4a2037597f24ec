package main

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/ofproto/packet"
	"github.com/fairlead/fairlead/test/ovstest"
)

// memberCount is how many hosts all VIPs of a section share as members; each VIP uses
// ports of its own.
const memberCount = 100

// scope stands in for a test: package ovstest ends with it. Fatal ends the section.
type scope struct {
	testing.TB // its other methods are not called
	cleanups   []func()
	failed     bool
}

type fatal string

func (s *scope) Helper()                   {}
func (s *scope) Cleanup(f func())          { s.cleanups = append(s.cleanups, f) }
func (s *scope) Failed() bool              { return s.failed }
func (s *scope) Logf(f string, a ...any)   { fmt.Printf(f+"\n", a...) }
func (s *scope) Fatal(a ...any)            { s.failed = true; panic(fatal(fmt.Sprint(a...))) }
func (s *scope) Fatalf(f string, a ...any) { s.failed = true; panic(fatal(fmt.Sprintf(f, a...))) }

// scoped runs f and everything that was to be cleaned up after it.
func scoped(f func(*scope) error) (err error) {
	s := &scope{}
	defer func() {
		if r := recover(); r != nil {
			text, ok := r.(fatal)
			if !ok {
				panic(r)
			}
			err = fmt.Errorf("%s", text)
		}
		for i := len(s.cleanups) - 1; i >= 0; i-- {
			s.cleanups[i]()
		}
	}()
	return f(s)
}

func members() []netip.Addr {
	list := make([]netip.Addr, memberCount)
	for i := range list {
		list[i] = netip.AddrFrom4([4]byte{10, 3, 0, byte(i + 1)})
	}
	return list
}

// threeMembers are the members of the i-th VIP: no two VIPs share an address and port.
func threeMembers(i int) []netip.AddrPort {
	list := make([]netip.AddrPort, 3)
	for j := range list {
		k := 3*i + j
		list[j] = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 3, 0, byte(k%memberCount + 1)}), uint16(1024+k/memberCount))
	}
	return list
}

// vipAddress is the address of the i-th VIP.
func vipAddress(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 128 + byte(i>>16), byte(i >> 8), byte(i)})
}

// announce lets the members be heard on the ports of a bridge: each sends a
// gratuitous ARP, until the controller has them all. Fairlead leaves a new port out
// for its first second, in which it could turn out to lead to another switch.
func (b *bench) announce(o *ovstest.OVS, p *process, ports []string) error {
	frames := make([][][]byte, len(ports))
	for _, m := range members() {
		port := memberPort(m) - 1
		mac := memberMAC(m)
		frames[port] = append(frames[port], packet.AppendARPRequest(nil, ofproto.MAC(mac), m, m))
	}
	return b.known(p, func() {
		for i, f := range frames {
			o.Inject(ports[i], f...)
		}
	})
}

// known repeats an announcement until Fairlead knows the members.
func (b *bench) known(p *process, announce func()) error {
	for end := time.Now().Add(15 * time.Second); ; {
		announce()
		time.Sleep(100 * time.Millisecond)
		var hosts struct {
			Items []struct {
				IPs []netip.Addr `json:"ips"`
			} `json:"items"`
		}
		if err := b.get(p, "/v1/hosts?limit=1000", &hosts); err != nil {
			return err
		}
		n := 0
		for _, h := range hosts.Items {
			n += len(h.IPs)
		}
		if n >= memberCount {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d members are known", n, memberCount)
		}
	}
}

// switchState is what the bench reads of a switch.
type switchState struct {
	Connection struct {
		State   string    `json:"state"`
		Address string    `json:"address"`
		Since   time.Time `json:"since"`
	} `json:"connection"`
	Counts struct {
		Flows  int `json:"flows"`
		Groups int `json:"groups"`
	} `json:"counts"`
	Faults []struct {
		Object string `json:"object"`
		Reason string `json:"reason"`
	} `json:"faults"`
}

// connected waits until n switches are.
func (b *bench) connected(p *process, n int) error {
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var list struct{ Items []switchState }
		if err := b.get(p, "/v1/switches?limit=1000", &list); err != nil {
			return err
		}
		up := 0
		for _, s := range list.Items {
			if s.Connection.State == "connected" {
				up++
			}
		}
		if up == n {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d of %d switches are connected: %s", up, n, p.log.tail())
		}
	}
}

// portNames are the names of the ports of a dummy bridge.
func portNames(bridge int) []string {
	names := make([]string, fakePorts)
	for i := range names {
		names[i] = fmt.Sprintf("b%dp%d", bridge, i+1)
	}
	return names
}
