package balancer

// Sizes of a slot table: always a power of two.
const (
	MinSlots = 16
	MaxSlots = 256
)

// NoMember is the owner of a slot that nobody can serve.
const NoMember uint16 = 0xffff

// Slots is the slot table of one listener: slot i of a select group of
// len(Home) equal buckets. Entries are member indexes (MemberRecord.Index) or
// NoMember.
type Slots struct {
	Home  []uint16 `json:"home"`  // owners by intent: weights and admin states only
	Owner []uint16 `json:"owner"` // owners as last known: members that fail lend their slots to others
}

// SlotMember is a member as Assign sees it. Weight 0 gets no slots: drained,
// down by intent.
type SlotMember struct {
	ID     uint16
	Weight int
}

// Assign returns the slot table for members, made of the previous one.
func Assign(prev Slots, members []SlotMember) Slots { panic("to be written") }

// Spread returns the present owners of the slots.
func Spread(home, prevOwner []uint16, up func(id uint16) bool) []uint16 { panic("to be written") }
