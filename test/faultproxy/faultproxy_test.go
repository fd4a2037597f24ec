package faultproxy_test

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/faultproxy"
)

// ends is a proxy session with a test at both ends.
type ends struct {
	*faultproxy.Proxy
	near, far net.Conn // the switch's end and the controller's

	mu  sync.Mutex
	got []uint32 // xids that came to the controller
}

func join(t *testing.T, o faultproxy.Options) *ends {
	t.Helper()
	near, a := net.Pipe()
	b, far := net.Pipe()
	e := &ends{near: near, far: far}
	e.Proxy = faultproxy.New(func(context.Context) (net.Conn, error) { return b, nil }, o)
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	running.Go(func() { _ = e.Serve(ctx, a) })
	t.Cleanup(func() { cancel(); near.Close(); far.Close(); running.Wait() })
	return e
}

// collect reads what comes to the controller.
func (e *ends) collect() {
	for {
		h, _, err := readFrame(e.far)
		if err != nil {
			return
		}
		e.mu.Lock()
		e.got = append(e.got, h.XID)
		e.mu.Unlock()
	}
}

func (e *ends) take() []uint32 {
	synctest.Wait()
	e.mu.Lock()
	defer e.mu.Unlock()
	got := e.got
	e.got = nil
	return got
}

func readFrame(r io.Reader) (ofproto.Header, []byte, error) {
	b := make([]byte, ofproto.HeaderLen)
	if _, err := io.ReadFull(r, b); err != nil {
		return ofproto.Header{}, nil, err
	}
	h, err := ofproto.ParseHeader(b)
	if err != nil {
		return h, nil, err
	}
	b = append(b, make([]byte, int(h.Length)-len(b))...)
	_, err = io.ReadFull(r, b[ofproto.HeaderLen:])
	return h, b, err
}

func (e *ends) send(t *testing.T, xids ...uint32) {
	t.Helper()
	for _, xid := range xids {
		_, err := e.near.Write(ofproto.Append(nil, xid, &ofproto.EchoRequest{Data: []byte("0123456789")}))
		require.NoError(t, err)
	}
}

func TestRules(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := join(t, faultproxy.Options{})
		go e.collect()
		e.send(t, 1, 2)
		require.Equal(t, []uint32{1, 2}, e.take())

		is := func(xid uint32) func(*faultproxy.Frame) bool {
			return func(f *faultproxy.Frame) bool { return f.Header.XID == xid }
		}
		e.Add(faultproxy.Rule{Name: "drop", Match: is(3), Do: faultproxy.Drop()})
		e.Add(faultproxy.Rule{Name: "twice", Match: is(4), Do: faultproxy.Duplicate(2)})
		e.Add(faultproxy.Rule{Name: "late", Match: is(5), Do: faultproxy.Late(time.Second)})
		remove := e.Add(faultproxy.Rule{Name: "delay", Match: is(7), Do: faultproxy.Delay(time.Second), Skip: 1, Limit: 1})
		e.send(t, 3, 4, 5, 6)
		require.Equal(t, []uint32{4, 4, 4, 6}, e.take())
		time.Sleep(time.Second)
		require.Equal(t, []uint32{5}, e.take())
		e.send(t, 7, 7)
		go e.send(t, 8)
		require.Equal(t, []uint32{7}, e.take())
		time.Sleep(time.Second)
		require.Equal(t, []uint32{7, 8}, e.take())
		remove()

		e.Stall(faultproxy.ToController)
		go e.send(t, 9, 10)
		require.Empty(t, e.take())
		e.Resume(faultproxy.Both)
		require.Equal(t, []uint32{9, 10}, e.take())
		require.Equal(t, 1, e.Acted("drop"))

		e.Add(faultproxy.Rule{Match: is(11), Do: faultproxy.Cut()})
		e.send(t, 11)
		_, err := e.near.Read(make([]byte, 1))
		require.Error(t, err)
		synctest.Wait()
		all, now := e.Sessions()
		require.Equal(t, 1, all)
		require.Zero(t, now)
	})
}

func TestTruncateKeepsFraming(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := join(t, faultproxy.Options{})
		e.Add(faultproxy.Rule{Do: faultproxy.Truncate(12)})
		go e.send(t, 1, 2)
		for _, xid := range []uint32{1, 2} {
			h, b, err := readFrame(e.far)
			require.NoError(t, err)
			require.Equal(t, xid, h.XID)
			require.Len(t, b, 12)
		}
	})
}

func TestReorderStaysWithinBarriers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := join(t, faultproxy.Options{Reorder: true, Seed: 7})
		go func() {
			for xid := range uint32(20) {
				var m ofproto.Message = &ofproto.FlowMod{}
				if xid%10 == 9 {
					m = &ofproto.BarrierRequest{}
				}
				_, _ = e.far.Write(ofproto.Append(nil, xid, m))
			}
		}()
		var got []uint32
		for range 20 {
			h, _, err := readFrame(e.near)
			require.NoError(t, err)
			got = append(got, h.XID)
		}
		require.Equal(t, uint32(9), got[9])
		require.Equal(t, uint32(19), got[19])
		require.False(t, slices.IsSorted(got))
		first := slices.Sorted(slices.Values(got[:10]))
		require.Equal(t, []uint32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, first)
		require.Equal(t, 18, e.Mods()[ofproto.TypeFlowMod])
	})
}
