package controller

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// Two switches that were given each other's datapath id get each other's flow entries,
// and nothing in OpenFlow tells. The hardware addresses of their ports do: those that
// each datapath id had are remembered, and a switch that comes with another's is
// reported. It is served all the same: the addresses are no proof.

const (
	// maxPortMACs bounds the addresses that are remembered of one switch: the lowest.
	maxPortMACs = 1024
	// maxPortMACSwitches bounds the datapath ids whose addresses are remembered; those of
	// further ones are not.
	maxPortMACSwitches = 4096
	// swappedFrom is how many ports of another datapath id make a switch suspect.
	swappedFrom = 2
	// swappedFault is the object that the fault of a suspect switch names.
	swappedFault = "ports"
)

// recognise compares the ports that a switch has come with to those remembered. Those of
// a suspect switch are not remembered as its own until an operator confirms it: its
// twin, which comes later, is to be found out too.
func (c *Controller) recognise(sw *Switch) {
	macs := portMACsOf(sw)
	other, swapped := swappedWith(c.portMACs, sw.DPID, macs)
	if !swapped {
		c.rememberPorts(sw.DPID, macs)
		return
	}
	sw.Faults[swappedFault] = fmt.Sprintf("its ports are those that datapath %s had: are two datapath ids swapped?", other)
	c.alarm("swapped "+sw.DPID.String(), "a switch has the ports of another: are two datapath ids swapped?",
		"dpid", sw.DPID.String(), "peer", sw.Remote.String(), "ports_of", other.String())
}

// acceptPorts takes the ports of a suspect switch for its own.
func (c *Controller) acceptPorts(sw *Switch) {
	if _, ok := sw.Faults[swappedFault]; ok {
		delete(sw.Faults, swappedFault)
		c.rememberPorts(sw.DPID, portMACsOf(sw))
	}
}

// portMoved follows a port of a connected switch whose address was the one and is the
// other now; zero: there was none, there is none. Ports that are moved to another bridge
// one by one are that bridge's when it connects again.
func (c *Controller) portMoved(sw *Switch, was, is ofproto.MAC) {
	if _, suspect := sw.Faults[swappedFault]; suspect || was == is {
		return
	}
	macs := slices.Clone(c.portMACs[sw.DPID]) // the saver has the other
	if i, ok := slices.BinarySearchFunc(macs, was, compareMACs); ok {
		macs = slices.Delete(macs, i, i+1)
	}
	if i, ok := slices.BinarySearchFunc(macs, is, compareMACs); !ok && is != (ofproto.MAC{}) && len(macs) < maxPortMACs {
		macs = slices.Insert(macs, i, is)
	}
	c.rememberPorts(sw.DPID, macs)
}

// rememberPorts keeps the addresses of a datapath id, in order, over a restart too. It
// owns them from then on.
func (c *Controller) rememberPorts(dpid ofproto.DPID, macs []ofproto.MAC) {
	old, known := c.portMACs[dpid]
	if slices.Equal(old, macs) || !known && len(c.portMACs) >= maxPortMACSwitches {
		return
	}
	c.portMACs[dpid] = macs
	c.saver.put([]save{{"ports/" + dpid.String(), func(ctx context.Context) error { return c.Store.SetPortMACs(ctx, dpid, macs) }}})
}

// portMACsOf returns the addresses of a switch's ports in order, each once. LOCAL, the
// bridge's own interface, is left out: its address is often borrowed of another port.
func portMACsOf(sw *Switch) []ofproto.MAC {
	var macs []ofproto.MAC
	for _, p := range sw.Ports {
		if mac := portMAC(p); mac != (ofproto.MAC{}) {
			macs = append(macs, mac)
		}
	}
	slices.SortFunc(macs, compareMACs)
	macs = slices.Compact(macs)
	return macs[:min(len(macs), maxPortMACs)]
}

// portMAC is the address of a port, zero when it says nothing of the switch.
func portMAC(p ofproto.PortDesc) ofproto.MAC {
	if p.Port == ofproto.PortLocal {
		return ofproto.MAC{}
	}
	return p.HWAddr
}

// swappedWith returns whose ports a switch has come with: those of another datapath id
// are more than half of its ports and at least swappedFrom, and none is one that its own
// id had. An address that several others had counts for none of them, and an id that
// is new, or had no ports, is nobody's twin.
func swappedWith(known map[ofproto.DPID][]ofproto.MAC, dpid ofproto.DPID, macs []ofproto.MAC) (ofproto.DPID, bool) {
	has := func(mac ofproto.MAC) bool {
		_, ok := slices.BinarySearchFunc(macs, mac, compareMACs)
		return ok
	}
	if len(known[dpid]) == 0 || slices.ContainsFunc(known[dpid], has) {
		return 0, false // nearly always: what follows looks at all switches
	}
	owners := map[ofproto.MAC][]ofproto.DPID{}
	for other, theirs := range known {
		for _, mac := range theirs {
			if has(mac) {
				owners[mac] = append(owners[mac], other)
			}
		}
	}
	ports := map[ofproto.DPID]int{}
	for _, of := range owners {
		if len(of) == 1 {
			ports[of[0]]++
		}
	}
	for other, n := range ports {
		if n >= swappedFrom && 2*n > len(macs) {
			return other, true
		}
	}
	return 0, false
}

func compareMACs(a, b ofproto.MAC) int { return bytes.Compare(a[:], b[:]) }
