package forwarding_test

import (
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// TestFloodOfUnknownSources has one port bring a new source in every frame: the
// controller soon hears of none of them, and of hosts elsewhere as before; half a
// minute after the flood the port is learned from again.
func TestFloodOfUnknownSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := lab.Start(t, lab.Build(2, simswitch.Options{}, [2]int{1, 2}), lab.Options{})
		l.Settle()
		unicastsArrive(t, l, 2, func(a, b int) bool { return true })
		sw := l.Switch(1)
		port := ofproto.Port(l.Host("h1").At.Port)
		frame := append(append([]byte{2, 9, 9, 9, 9, 9}, 2, 7, 0, 0, 0, 0), append([]byte{0x88, 0xb6}, make([]byte, 46)...)...)
		source := uint32(0)
		punted := func() bool {
			source++
			binary.BigEndian.PutUint32(frame[8:], source)
			_, ins := sw.Process(port, frame)
			return len(ins) > 0
		}
		require.True(t, punted(), "a new host is learned")
		for range 1000 {
			l.Send("h1", frame)
			punted()
			binary.BigEndian.PutUint32(frame[8:], source)
			time.Sleep(time.Millisecond)
		}
		require.False(t, punted(), "nothing is learned from the flood")
		_, others := l.Switch(2).Process(ofproto.Port(l.Host("h2").At.Port), frame)
		require.NotEmpty(t, others, "other ports are learned from")
		unicastsArrive(t, l, 2, func(a, b int) bool { return true })
		l.Pass(35 * time.Second)
		require.True(t, punted(), "a new host is learned")
		l.NoFaults()
	})
}
