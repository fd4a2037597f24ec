package ofproto

import "fmt"

// GroupCommand is what a GroupMod does (§7.3.4.2).
type GroupCommand uint16

// Group commands.
const (
	GroupAdd    GroupCommand = 0
	GroupModify GroupCommand = 1
	GroupDelete GroupCommand = 2
)

// GroupType is how a group treats its buckets (§5.6.1).
type GroupType uint8

// Group types.
const (
	GroupTypeAll          GroupType = 0
	GroupTypeSelect       GroupType = 1
	GroupTypeIndirect     GroupType = 2
	GroupTypeFastFailover GroupType = 3
)

// String returns the name that ovs-ofctl uses.
func (t GroupType) String() string {
	switch t {
	case GroupTypeAll:
		return "all"
	case GroupTypeSelect:
		return "select"
	case GroupTypeIndirect:
		return "indirect"
	case GroupTypeFastFailover:
		return "ff"
	}
	return fmt.Sprintf("type_%d", uint8(t))
}

// GroupMod adds, changes or deletes a group (§7.3.4.2).
type GroupMod struct {
	Command GroupCommand
	Type    GroupType
	Group   GroupID // GroupAll for a delete of all
	Buckets []Bucket
	// RawBuckets are more of them, behind the others, as they stand on the wire
	// (AppendBuckets): for who has them at hand. Parse leaves it nil.
	RawBuckets []byte
}

// Bucket is one action set of a group (§7.3.4.2). WatchPort and WatchGroup are
// encoded as they stand: a bucket that watches nothing has PortAny and GroupAny.
type Bucket struct {
	Weight     uint16 // its share in a select group; 0 in every other
	WatchPort  Port
	WatchGroup GroupID
	Actions    []Action
}

// MessageType implements Message.
func (*GroupMod) MessageType() MessageType { return TypeGroupMod }

func (m *GroupMod) appendBody(b []byte) []byte {
	b = be.AppendUint16(b, uint16(m.Command))
	b = append(b, byte(m.Type), 0)
	b = be.AppendUint32(b, uint32(m.Group))
	b = appendBuckets(b, m.Buckets)
	return append(b, m.RawBuckets...)
}

func (m *GroupMod) parse(b []byte) error {
	if err := atLeast("body", b, 8); err != nil {
		return err
	}
	buckets, err := parseBuckets(b[8:])
	if err != nil {
		return within("body", 8, err)
	}
	*m = GroupMod{
		Command: GroupCommand(be.Uint16(b)), Type: GroupType(b[2]), Group: GroupID(be.Uint32(b[4:])),
		Buckets: buckets,
	}
	return nil
}

// AppendBuckets appends the buckets as they stand on the wire: a key by which lists of
// buckets can be compared.
func AppendBuckets(b []byte, list []Bucket) []byte { return appendBuckets(b, list) }

// ParseBuckets reads a list of buckets, which alias b.
func ParseBuckets(b []byte) ([]Bucket, error) { return parseBuckets(b) }

const bucketLen = 16 // without actions

func appendBuckets(b []byte, buckets []Bucket) []byte {
	for i := range buckets {
		k := &buckets[i]
		start := len(b)
		b = pad(b, 2)
		b = be.AppendUint16(b, k.Weight)
		b = be.AppendUint32(b, uint32(k.WatchPort))
		b = be.AppendUint32(b, uint32(k.WatchGroup))
		b = pad(b, 4)
		b = appendActions(b, k.Actions)
		b = setLen(b, start, 0)
	}
	return b
}

func parseBuckets(b []byte) ([]Bucket, error) {
	n, err := count("buckets", b, 0, bucketLen, 8)
	if n == 0 || err != nil {
		return nil, err
	}
	buckets := make([]Bucket, 0, n)
	for off := 0; off < len(b); {
		k := b[off:][:be.Uint16(b[off:])]
		actions, err := parseActions(k[bucketLen:])
		if err != nil {
			return nil, within("buckets", off+bucketLen, err)
		}
		buckets = append(buckets, Bucket{
			Weight: be.Uint16(k[2:]), WatchPort: Port(be.Uint32(k[4:])), WatchGroup: GroupID(be.Uint32(k[8:])),
			Actions: actions,
		})
		off += len(k)
	}
	return buckets, nil
}

// count walks a list whose elements carry their length in the 16 bits at lenAt,
// checks every length (at least min, a multiple of align, within b) and returns
// how many there are: the reader behind it allocates once and indexes freely.
func count(op string, b []byte, lenAt, min, align int) (n int, err error) {
	for off := 0; off < len(b); n++ {
		e := b[off:]
		if len(e) < min {
			return 0, fail(op, off, ErrTruncated)
		}
		l := int(be.Uint16(e[lenAt:]))
		if l < min || l%align != 0 {
			return 0, fail(op, off+lenAt, ErrLength)
		}
		if l > len(e) {
			return 0, fail(op, off+lenAt, ErrTruncated)
		}
		off += l
	}
	return n, nil
}
