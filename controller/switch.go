package controller

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// Stage says how much of a switch's forwarding Fairlead has taken over.
type Stage uint8

const (
	// StageObserve leaves forwarding to the switch (NORMAL) and only watches.
	StageObserve Stage = iota
	// StageSteer adds VIPs; all other traffic stays with NORMAL.
	StageSteer
	// StageManaged forwards by Fairlead's flows alone.
	StageManaged
)

var stageNames = [...]string{"observe", "steer", "managed"}

func (s Stage) String() string { return stageNames[s] }

// MarshalText makes a stage its name in JSON.
func (s Stage) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText parses a stage's name.
func (s *Stage) UnmarshalText(b []byte) error {
	i := slices.Index(stageNames[:], string(b))
	if i < 0 {
		return fmt.Errorf("%q is not a stage: observe, steer or managed", b)
	}
	*s = Stage(i)
	return nil
}

// Switch is what the core knows of one connected switch. The core loop owns it;
// apps read it during a call and do not keep it.
type Switch struct {
	DPID         ofproto.DPID
	Remote       netip.AddrPort
	Desc         ofproto.Desc
	Stage        Stage
	BPDUs        BPDUs
	Role         ofproto.Role
	Capabilities Capabilities
	Ports        map[ofproto.Port]ofproto.PortDesc
	Connected    bool
	Secure       bool      // connected by TLS
	Since        time.Time // of the connection, or of its end
	// Faults are the parts that the switch refused, by name, and why; and what is
	// wrong with the switch itself.
	Faults map[string]string
	// Flows, Groups and Foreign count what the switch holds: ours, and entries of others.
	Flows, Groups, Foreign int
	// PacketIns and PacketInsDropped count since the connection was made.
	PacketIns, PacketInsDropped uint64

	pending map[flowtable.PartKey]uint64 // parts assigned and not answered, by Source.seq
	waiters []chan struct{}              // closed when pending is empty
	session *session

	withdrawn bool // holds nothing of ours; see Withdraw
	released  bool // is to forward by itself when its session ends; see Release
}

// PortList returns the ports ordered by number.
func (s *Switch) PortList() []ofproto.PortDesc {
	return slices.SortedFunc(maps.Values(s.Ports), func(a, b ofproto.PortDesc) int { return cmp.Compare(a.Port, b.Port) })
}
