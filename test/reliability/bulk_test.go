package reliability

import (
	"encoding/binary"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
)

// want is an event for bulk: how many flows every switch is to have.
type want int

// bulk is an app that desires any number of flows, in parts of a hundred. An edit
// changes the flows of one part.
type bulk struct {
	flows int
	salt  map[int]int
}

// edit is an event for bulk: another content for one part.
type edit struct{ part, salt int }

const bulkPart = 100

func (b *bulk) ID() flowtable.AppID { return controller.AppForwarding }

func partName(i int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(i))) }

func (b *bulk) Parts(*controller.Context, *controller.Switch) (names []string) {
	for i := range (b.flows + bulkPart - 1) / bulkPart {
		names = append(names, partName(i))
	}
	return names
}

func (b *bulk) Handle(c *controller.Context, event any) {
	switch e := event.(type) {
	case want:
		most := max(b.flows, int(e))
		b.flows = int(e)
		for i := range (most + bulkPart - 1) / bulkPart {
			c.DirtyAll(partName(i))
		}
	case edit:
		if b.salt == nil {
			b.salt = map[int]int{}
		}
		b.salt[e.part] = e.salt
		c.DirtyAll(partName(e.part))
	}
}

func (b *bulk) Compile(_ *controller.Context, _ *controller.Switch, part string) controller.Source {
	i := int(binary.BigEndian.Uint32([]byte(part)))
	n, salt := min(b.flows-i*bulkPart, bulkPart), b.salt[i]
	if n <= 0 {
		return controller.Source{}
	}
	return controller.Source{Build: func() (p flowtable.Part) {
		for j := range n {
			mac := ofproto.MAC{6, 0}
			binary.BigEndian.PutUint32(mac[2:], uint32(i*bulkPart+j))
			p.Flows = append(p.Flows, flowtable.Flow{
				Table: controller.TableDestination, Priority: controller.PrioHost,
				Match:        ofproto.NewMatch(ofproto.EthDst(mac)),
				Instructions: []ofproto.Instruction{ofproto.ApplyActions{Actions: []ofproto.Action{ofproto.OutputPort(ofproto.Port(1 + salt))}}},
			})
		}
		return p
	}}
}
