package balancer

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
)

// Buckets of the store. The last four are kept with every write of a record, so
// that a conflict is found without reading other records.
const (
	vipBucket     = "vips"             // name → Record
	addressBucket = "vip-addresses"    // address/name → MAC, "vlan:N" and the names of the listeners
	memberBucket  = "member-addresses" // address/port/protocol/name/listener port → VLAN, last port and interface; nothing where untagged, one port, none
	groupBucket   = "groups"           // 24 bits in hex → name of the VIP
	macBucket     = "macs"             // 24 bits in hex → address
)

// Numbers that are allocated have 24 bits below a prefix that says they are ours.
const (
	numberMask  = 1<<24 - 1
	groupPrefix = 0x46000000
	// The lowest MACs are kept for the controller itself: probes come from
	// 02:46:4c:00:00:01.
	reservedMACs = 0x100
)

var (
	macPrefix = [3]byte{0x02, 0x46, 0x4c}

	errExhausted = errors.New("no number left")
)

// read returns the record of a VIP, nil if there is none.
func read(tx *store.Tx, name string) (*Record, error) {
	value := tx.Get(vipBucket, name)
	if value == nil {
		return nil, nil
	}
	rec := new(Record)
	if err := json.Unmarshal(value, rec); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return rec, nil
}

func existing(tx *store.Tx, name string) (*Record, error) {
	rec, err := read(tx, name)
	if err == nil && rec == nil {
		err = ErrNotFound
	}
	return rec, err
}

// existingPool returns the pool of a listener and the listener's index.
func existingPool(tx *store.Tx, name string, l ListenerKey) (*Record, Pool, int, error) {
	rec, err := existing(tx, name)
	if err != nil {
		return nil, Pool{}, 0, err
	}
	at := rec.VIP.Listener(l)
	if at < 0 {
		return nil, Pool{}, 0, fmt.Errorf("listener %s: %w", l, ErrNotFound)
	}
	return rec, rec.VIP.Listeners[at].Pool, at, nil
}

func save(tx *store.Tx, rec Record) error {
	value, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return tx.Put(vipBucket, rec.VIP.Name, value)
}

// putMembers writes the record with other members of one listener.
func (in *Intents) putMembers(tx *store.Tx, old *Record, listener int, members []Member) (Record, error) {
	v := old.VIP
	v.Listeners = slices.Clone(v.Listeners)
	v.Listeners[listener].Pool.Members = members
	if err := validate(v); err != nil {
		return Record{}, err
	}
	return in.write(tx, old, v)
}

// write stores a valid document in place of old, nil for a new one, with all
// that belongs to it, and has the change told.
func (in *Intents) write(tx *store.Tx, old *Record, v VIP) (Record, error) {
	v = document(v)
	if old == nil {
		old = &Record{}
	} else if sameDocument(old.VIP, v) {
		return *old, nil
	}
	if err := checkOthers(tx, old.VIP, v); err != nil {
		return Record{}, err
	}
	now := in.now().UTC().Truncate(time.Millisecond)
	v.ID, v.CreatedAt = old.VIP.ID, old.VIP.CreatedAt
	if v.ID == "" {
		v.ID, v.CreatedAt = newID(in.store.ClusterID(), v.Name, tx.Revision()), now
	}
	v.Generation, v.UpdatedAt = old.VIP.Generation+1, now
	rec := Record{VIP: v}
	var err error
	if rec.VIP.MAC, err = in.mac(tx, *old, v.Address); err != nil {
		return Record{}, err
	}
	for _, l := range v.Listeners {
		lr, err := newListener(tx, *old, v.Name, l)
		if err != nil {
			return Record{}, err
		}
		rec.Listeners = append(rec.Listeners, lr)
	}
	rec.alike(*old)
	if v.Mode == ModeConntrack {
		rec.noteDrains(*old, now)
	}
	if err := in.release(tx, *old, rec); err != nil {
		return Record{}, err
	}
	if err := index(tx, rec.VIP, tx.Put); err != nil {
		return Record{}, err
	}
	if err := save(tx, rec); err != nil {
		return Record{}, err
	}
	change := Change{Name: v.Name, Record: &rec, Revision: tx.Revision()}
	tx.OnCommit(func() { in.changed(change) })
	return rec, nil
}

// document returns v with nothing in it but what a client says.
func document(v VIP) VIP {
	v.ID, v.MAC, v.Generation, v.CreatedAt, v.UpdatedAt, v.Status = "", ofproto.MAC{}, 0, time.Time{}, time.Time{}, nil
	v.Listeners = slices.Clone(v.Listeners)
	for i := range v.Listeners {
		v.Listeners[i].Status = nil
		members := slices.Clone(v.Listeners[i].Pool.Members)
		for j := range members {
			members[j].Status = nil
		}
		v.Listeners[i].Pool.Members = members
	}
	return v
}

// sameDocument compares what two VIPs say, not how: nil and empty lists are one.
func sameDocument(a, b VIP) bool {
	x, errX := json.Marshal(document(a))
	y, errY := json.Marshal(document(b))
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// newID returns a UUID of version 8 (RFC 9562 §5.8). A revision is used once, so
// a name that is deleted and created again gets another one.
func newID(cluster, name string, revision uint64) string {
	id := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", cluster, name, revision))
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:16])
}

// newListener returns the record of a listener, keeping what old has of it.
func newListener(tx *store.Tx, old Record, name string, l Listener) (ListenerRecord, error) {
	var before ListenerRecord
	for _, o := range old.Listeners {
		if o.Key == l.Key() {
			before = o
		}
	}
	lr := ListenerRecord{Key: l.Key(), Group: before.Group, Next: before.Next}
	if lr.Group == 0 {
		var err error
		if lr.Group, err = newGroup(tx, name); err != nil {
			return lr, err
		}
	}
	known := map[MemberKey]MemberRecord{}
	used := map[uint16]bool{NoMember: true}
	for _, m := range before.Members {
		known[m.Key] = m
		used[m.Index] = true
	}
	// New members get their numbers in the order of their addresses: the order of
	// a document makes no difference to the slots.
	keys := make([]MemberKey, len(l.Pool.Members))
	for i, m := range l.Pool.Members {
		keys[i] = m.Key()
	}
	slices.SortFunc(keys, netip.AddrPort.Compare)
	for _, k := range keys {
		if _, ok := known[k]; ok {
			continue
		}
		for used[lr.Next] {
			lr.Next++
		}
		group, err := newGroup(tx, name)
		if err != nil {
			return lr, err
		}
		known[k] = MemberRecord{Key: k, Group: group, Index: lr.Next}
		lr.Next++ // not the lowest free one: an index that was just given up may still be known somewhere
	}
	members := make([]SlotMember, len(l.Pool.Members))
	for i, m := range l.Pool.Members {
		lr.Members = append(lr.Members, known[m.Key()])
		members[i] = SlotMember{ID: known[m.Key()].Index, Weight: m.SlotWeight(), Backup: m.Backup}
	}
	lr.Slots = Assign(before.Slots, members)
	if l.Pool.Monitor != nil {
		lr.Slots.keepOwners(before.Slots.Owner, lr.Members)
	}
	return lr, nil
}

func newGroup(tx *store.Tx, vip string) (ofproto.GroupID, error) {
	n, err := allocate(tx, groupBucket, vip, 0, 1)
	if err != nil {
		return 0, fmt.Errorf("allocate group: %w", err)
	}
	return groupPrefix | ofproto.GroupID(n), nil
}

// mac returns the MAC for an address: the present one of old, or of another VIP
// of that address, or a new one.
func (in *Intents) mac(tx *store.Tx, old Record, address netip.Addr) (ofproto.MAC, error) {
	if old.VIP.Address == address {
		return old.VIP.MAC, nil
	}
	var mac ofproto.MAC
	var err error
	if others(tx, address, old.VIP.Name, func(_ string, value []string) bool {
		mac, err = parseMAC(value[0])
		return false
	}) {
		return mac, err
	}
	// Controllers that do not know of each other may share a network: each begins
	// at a place of its own.
	start, err := strconv.ParseUint(in.store.ClusterID()[:6], 16, 24)
	if err != nil {
		return mac, fmt.Errorf("allocate MAC: %w", err)
	}
	n, err := allocate(tx, macBucket, address.String(), start, reservedMACs)
	if err != nil {
		return mac, fmt.Errorf("allocate MAC: %w", err)
	}
	return ofproto.MAC{macPrefix[0], macPrefix[1], macPrefix[2], byte(n >> 16), byte(n >> 8), byte(n)}, nil
}

// allocate takes the next number of 24 bits, from low up, that nobody has, and
// notes the holder. Numbers come round again only when all were used, so that one
// just given up is not mistaken for its next holder.
func allocate(tx *store.Tx, bucket, holder string, start, low uint64) (uint64, error) {
	for range numberMask {
		n, err := tx.NextID(bucket)
		if err != nil {
			return 0, err
		}
		n = (start + n) & numberMask
		if n >= low && tx.Get(bucket, numberKey(n)) == nil {
			return n, tx.Put(bucket, numberKey(n), []byte(holder))
		}
	}
	return 0, errExhausted
}

func numberKey(n uint64) string { return fmt.Sprintf("%06x", n&numberMask) }

// release gives up what old holds and rec, its successor, does not, and takes
// old out of the indexes.
func (in *Intents) release(tx *store.Tx, old, rec Record) error {
	if old.VIP.Name == "" {
		return nil
	}
	keep := map[ofproto.GroupID]bool{}
	for _, l := range rec.Listeners {
		keep[l.Group] = true
		for _, m := range l.Members {
			keep[m.Group] = true
		}
	}
	drop := func(g ofproto.GroupID) error {
		if keep[g] {
			return nil
		}
		return tx.Delete(groupBucket, numberKey(uint64(g)))
	}
	for _, l := range old.Listeners {
		if err := drop(l.Group); err != nil {
			return err
		}
		for _, m := range l.Members {
			if err := drop(m.Group); err != nil {
				return err
			}
		}
	}
	if old.VIP.Address != rec.VIP.Address && !others(tx, old.VIP.Address, old.VIP.Name, func(string, []string) bool { return false }) {
		m := old.VIP.MAC
		if err := tx.Delete(macBucket, fmt.Sprintf("%x", m[3:])); err != nil {
			return err
		}
	}
	return index(tx, old.VIP, func(bucket, key string, _ []byte) error { return tx.Delete(bucket, key) })
}

// index calls do for each entry of a VIP in the indexes.
func index(tx *store.Tx, v VIP, do func(bucket, key string, value []byte) error) error {
	value := []string{v.MAC.String()}
	if v.VLAN != 0 {
		value = append(value, vlanPrefix+strconv.Itoa(int(v.VLAN)))
	}
	for _, l := range v.Listeners {
		value = append(value, l.named())
		for _, m := range l.Pool.Members {
			key := fmt.Sprintf("%s/%d/%s/%s/%d", m.Address, m.Port, l.Protocol, v.Name, l.Port)
			use := []byte{}
			if last := l.memberPorts(m).last; v.VLAN != 0 || last != m.Port || m.Interface != "" {
				use = fmt.Appendf(use, "%d %d", v.VLAN, last)
			}
			if m.Interface != "" {
				use = append(append(use, ' '), m.Interface...)
			}
			if err := do(memberBucket, key, use); err != nil {
				return err
			}
		}
	}
	return do(addressBucket, v.Address.String()+"/"+v.Name, []byte(strings.Join(value, " ")))
}

// vlanPrefix begins the field of a value of addressBucket that has the VLAN; untagged
// VIPs have no such field.
const vlanPrefix = "vlan:"

// others calls fn for each VIP of an address except the one called name, until fn
// returns false: with its name and its value in addressBucket. It says whether there
// was one.
func others(tx *store.Tx, address netip.Addr, name string, fn func(other string, value []string) bool) bool {
	found := false
	prefix := address.String() + "/"
	tx.Range(addressBucket, prefix, "", func(key string, value []byte) bool {
		other := key[len(prefix):]
		if other == name {
			return true
		}
		found = true
		return fn(other, strings.Fields(string(value)))
	})
	return found
}

// checkOthers refuses a document that cannot stand beside those of other VIPs. What it
// has in common with old, the zero value for a new VIP, stood beside them already: many
// VIPs may have a member's address, and a change of one looks at none of them.
func checkOthers(tx *store.Tx, old, v VIP) error {
	var err error
	stood := map[string]bool{}
	if old.Mode == v.Mode && old.VLAN == v.VLAN {
		for _, l := range old.Listeners {
			for _, m := range l.Pool.Members {
				stood[l.named()+" "+m.Key().String()+" "+m.Interface] = true
			}
		}
	}
	others(tx, v.Address, v.Name, func(other string, value []string) bool {
		vlan := uint16(0)
		for _, entry := range value[1:] {
			kind, rest, _ := strings.Cut(entry, ":")
			if n := parsePorts(rest).first; kind+":" == vlanPrefix {
				vlan = n
			}
			for i, l := range v.Listeners {
				if kind == string(l.Protocol) && l.ports().overlaps(parsePorts(rest)) {
					err = &ConflictError{fmt.Sprintf("listeners[%d].port", i),
						fmt.Sprintf("listener %s of vip %q, which has that address", entry, other)}
				}
			}
		}
		if vlan != v.VLAN {
			err = &ConflictError{"vlan", fmt.Sprintf("vip %q, which has that address in VLAN %d", other, vlan)}
		}
		return err == nil
	})
	membersOf(tx, v.Address, v.Name, func(other memberUse) bool {
		if err == nil {
			err = &ConflictError{"address", fmt.Sprintf("member %s of vip %q", other.member, other.vip)}
		}
		return false
	})
	for i, l := range v.Listeners {
		for j, m := range l.Pool.Members {
			if err != nil {
				return err
			}
			if stood[l.named()+" "+m.Key().String()+" "+m.Interface] {
				continue
			}
			field := memberField(fmt.Sprintf("listeners[%d].pool", i), j)
			others(tx, m.Address, v.Name, func(other string, _ []string) bool {
				err = &ConflictError{field + ".address", fmt.Sprintf("the address of vip %q", other)}
				return false
			})
			membersOf(tx, m.Address, v.Name, func(other memberUse) bool {
				switch {
				case err != nil:
				case other.vlan != v.VLAN:
					err = &ConflictError{field + ".address", fmt.Sprintf("vip %q, which has it as a member in VLAN %d", other.vip, other.vlan)}
				case other.iface != "" && m.Interface != "" && other.iface != m.Interface:
					err = &ConflictError{field + ".interface", fmt.Sprintf("vip %q, which has %s at interface %s", other.vip, m.Address, other.iface)}
				case v.Mode != ModeDSR && other.protocol == l.Protocol && other.ports.overlaps(l.memberPorts(m)):
					var rec *Record
					if rec, err = read(tx, other.vip); err == nil && rec != nil && !share(v.Mode, rec.VIP.Mode) {
						err = &ConflictError{field, fmt.Sprintf("vip %q: in nat mode %s serves one %s listener only", other.vip, m.Key(), l.Protocol)}
					}
				}
				return err == nil
			})
		}
	}
	return err
}

// share says whether VIPs of two modes may have a member's address and port in common:
// in mode nat a reply tells its VIP by them alone, in mode dsr it needs no telling.
func share(a, b Mode) bool {
	return a == ModeDSR || b == ModeDSR || a == ModeConntrack && b == ModeConntrack
}

// memberUse is a member of another VIP.
type memberUse struct {
	vip      string
	member   MemberKey
	protocol Protocol
	ports    portRange
	vlan     uint16
	iface    string
}

// membersOf calls fn for each member of that address that VIPs have but the one called
// name, until fn returns false.
func membersOf(tx *store.Tx, addr netip.Addr, name string, fn func(memberUse) bool) {
	tx.Range(memberBucket, addr.String()+"/", "", func(key string, value []byte) bool {
		part := strings.Split(key, "/") // address, port, protocol, name, listener port
		if part[3] == name {
			return true
		}
		first := parsePorts(part[1]).first
		use := memberUse{vip: part[3], member: netip.AddrPortFrom(addr, first), protocol: Protocol(part[2]), ports: portRange{first, first}}
		if vlan, rest, ok := strings.Cut(string(value), " "); ok {
			last, iface, _ := strings.Cut(rest, " ")
			use.vlan, use.ports.last, use.iface = parsePorts(vlan).first, parsePorts(last).first, iface
		}
		return fn(use)
	})
}

// parsePorts reads what portRange.String wrote.
func parsePorts(s string) portRange {
	first, last, isRange := strings.Cut(s, "-")
	a, _ := strconv.ParseUint(first, 10, 16) // written by this package
	if !isRange {
		return portRange{uint16(a), uint16(a)}
	}
	b, _ := strconv.ParseUint(last, 10, 16)
	return portRange{uint16(a), uint16(b)}
}
