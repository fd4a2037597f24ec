package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/fairlead/fairlead/ofproto"
)

// BPDUs says what a switch does with the frames of spanning tree (IEEE 802.1D §9, and
// the per-VLAN form of others) that reach it. Fairlead itself takes no part in spanning
// tree.
type BPDUs uint8

const (
	// BPDUsDrop drops them in stage managed: a spanning tree of others ends at the
	// switch. In the stages below the switch's own forwarding decides, as if there were
	// no Fairlead.
	BPDUsDrop BPDUs = iota
	// BPDUsForward passes them on as a cable would: along the broadcast tree in stage
	// managed, out of all other ports in the stages below. A spanning tree of others
	// goes through the switch.
	BPDUsForward
	// BPDUsGuard blocks an edge port of a managed switch at which one arrives, for a
	// while after the last. In the stages below it is as BPDUsDrop.
	BPDUsGuard
)

var bpduNames = [...]string{"drop", "forward", "guard"}

func (b BPDUs) String() string { return bpduNames[b] }

// MarshalText makes a choice its name in JSON.
func (b BPDUs) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText parses a choice's name.
func (b *BPDUs) UnmarshalText(text []byte) error {
	i := slices.Index(bpduNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("%q is no choice for BPDUs: drop, forward or guard", text)
	}
	*b = BPDUs(i)
	return nil
}

// BPDUAddresses are the destinations of BPDUs: of IEEE 802.1D (§7.12.3), and of the
// per-VLAN spanning tree of Cisco's and others'.
var BPDUAddresses = []ofproto.MAC{
	{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00},
	{0x01, 0x00, 0x0c, 0xcc, 0xcc, 0xcd},
}

// SetBPDUs stores what a switch does with BPDUs, and has it do so.
func (c *Controller) SetBPDUs(ctx context.Context, dpid ofproto.DPID, b BPDUs) error {
	if err := c.Store.SetBPDUs(ctx, dpid, b); err != nil {
		return fmt.Errorf("controller: store the choice for BPDUs: %w", err)
	}
	return c.Do(ctx, func(x *Context) {
		c.bpdus[dpid] = b
		if sw := x.switches[dpid]; sw != nil && sw.BPDUs != b {
			sw.BPDUs = b
			x.Emit(BPDUsChanged{dpid})
			x.Notify("switch", map[string]any{"dpid": dpid.String(), "bpdus": b.String()})
		}
	})
}
