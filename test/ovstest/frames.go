package ovstest

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"slices"
)

// Inject lets frames (from the Ethernet header on, without the checksum) arrive
// at a dummy port, in order, and returns when the switch has forwarded them: what
// it sent is in Sent then, also across patch ports. What it punts to a
// controller is on its way.
func (o *OVS) Inject(port string, frames ...[]byte) {
	o.t.Helper()
	for batch := range slices.Chunk(frames, 64) {
		args := []string{port}
		for _, f := range batch {
			args = append(args, hex.EncodeToString(f))
		}
		o.Appctl("netdev-dummy/receive", args...)
		// Each round of the daemon's loop takes one frame from the port's queue, forwards
		// it to the end, and only then accepts connections: an answer on a
		// new connection is the proof of one more round.
		for range batch {
			o.Appctl("version")
		}
	}
}

// Sent returns all frames that a dummy port has sent since it was added or since
// the last Forget, in order.
func (o *OVS) Sent(port string) [][]byte {
	o.t.Helper()
	b, err := os.ReadFile(o.pcap(port))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		o.t.Fatalf("ovstest: read capture: %v", err)
	}
	const header, record = 24, 16 // bytes, of the file and of each frame in it
	frames := [][]byte{}
	for b = b[min(header, len(b)):]; len(b) >= record; {
		n := int(binary.LittleEndian.Uint32(b[8:]))
		if len(b) < record+n {
			break // being written
		}
		frames = append(frames, b[record:record+n:record+n])
		b = b[record+n:]
	}
	skip := min(o.seen[port], len(frames))
	return frames[skip:]
}

// Forget makes Sent begin anew at each of the ports: what they have sent so far
// is not returned again.
func (o *OVS) Forget(ports ...string) {
	o.t.Helper()
	for _, port := range ports {
		o.seen[port] += len(o.Sent(port))
	}
}
