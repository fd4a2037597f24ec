package controller

import (
	"cmp"
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/topology"
)

// App is one job of the controller: discovery, forwarding, balancing. The core
// loop calls it, one call at a time, so an app needs no locks; a call must not
// block. What an app wants done it says through the Context.
type App interface {
	// ID is the app's number in cookies and part keys.
	ID() flowtable.AppID
	// Handle is told of an event: one of this package, of package topology, or one
	// that was given to Controller.Post. Unknown events are ignored.
	Handle(c *Context, event any)
	// Parts lists the names of all parts the app desires on a switch.
	Parts(c *Context, sw *Switch) []string
	// Compile captures what the named part of a switch is made from.
	Compile(c *Context, sw *Switch, part string) Source
}

// Witness is an App that knows of switches without a channel whether they forward.
type Witness interface {
	// Forwards says that a switch that is not connected was found to forward by what it
	// has, a moment ago.
	Forwards(dpid ofproto.DPID) bool
}

// Source is a part to be compiled. The core loop makes it cheaply from immutable
// inputs; the switch's session runs Build.
type Source struct {
	// Tag comes back in Applied, to tell which version of the app's state the
	// switch acknowledged.
	Tag uint64
	// Build compiles the part. It is pure and runs outside the core loop. Nil: the
	// part is not desired any more.
	Build func() flowtable.Part
	// Refused is why the switch cannot have all that the part is for, though what
	// Build returns is installed. Applied tells it back. Nil: it can.
	Refused error

	// Class is that of the part: where many are to be compiled, those of the lower
	// class are first.
	Class flowtable.Class
	// Patient: entries for a host that may wait for those of others.
	Patient bool

	seq uint64    // of this assignment; set by the core
	at  time.Time // of it
	// again: it replaced one that the session had not taken yet.
	again bool
}

// Started says that the core loop runs. It is the first event.
type Started struct{}

// SwitchUp says that a switch has finished its handshake and read-back. Its
// parts are compiled after every app has seen the event.
type SwitchUp struct{ DPID ofproto.DPID }

// SwitchDown says that the session with a switch has ended. What is installed in
// it stays installed.
type SwitchDown struct{ DPID ofproto.DPID }

// StageLeaving says that a switch is about to leave stage managed. It forwards as it did;
// the others are to reckon with one that forwards on its own.
type StageLeaving struct{ DPID ofproto.DPID }

// StageChanged says that a switch was moved to another stage. All its parts are
// compiled again after the event.
type StageChanged struct{ DPID ofproto.DPID }

// BPDUsChanged says that another choice was made for the BPDUs of a switch.
type BPDUsChanged struct{ DPID ofproto.DPID }

// Confirmed says that an operator takes a switch for what it seems to be.
type Confirmed struct{ DPID ofproto.DPID }

// PortChanged says that a port came, went or changed.
type PortChanged struct {
	DPID    ofproto.DPID
	Desc    ofproto.PortDesc
	Removed bool
}

// PacketIn is a packet that a switch sent to the controller (§7.4.1). Data is the
// app's to keep.
type PacketIn struct {
	DPID   ofproto.DPID
	InPort ofproto.Port
	Table  ofproto.Table
	Cookie uint64
	Data   []byte
}

// Applied says that a switch acknowledged a part, or refused it. It goes to the
// app that owns the part only.
type Applied struct {
	DPID ofproto.DPID
	Part string
	Tag  uint64
	Err  error // nil: installed
}

// Rerouted says that the graph of switches and links changed, after changes that
// come close together have been gathered. Every part that depends on paths must
// be compiled again.
type Rerouted struct{}

// Woken says that the time an app asked for with Context.WakeAt has come.
type Woken struct{}

// Context is what an app sees during a call, and where it says what must follow.
type Context struct {
	Now time.Time
	// Graph is the network as discovered. Its changes are returned as topology
	// events, which the caller passes to Emit.
	Graph *topology.Graph

	switches map[ofproto.DPID]*Switch
	order    []*Switch // of switches, by datapath id; nil: to be made again
	app      App

	events     []any
	dirty      map[dirtyKey]struct{}
	packetOuts []packetOut
	wake       map[flowtable.AppID]time.Time
	notices    []Notice
	alarms     []raised
	saves      []save
}

type dirtyKey struct {
	dpid ofproto.DPID
	part flowtable.PartKey
}

type packetOut struct {
	dpid ofproto.DPID
	msg  ofproto.Message
}

// raised is an alarm that was asked for.
type raised struct {
	key, text string
	args      []any
}

type save struct {
	key   string
	write func(context.Context) error
}

// NewContext returns a context over some switches for tests of apps.
func NewContext(now time.Time, g *topology.Graph, app App, switches ...*Switch) *Context {
	c := &Context{Now: now, Graph: g, app: app, switches: map[ofproto.DPID]*Switch{}, dirty: map[dirtyKey]struct{}{}, wake: map[flowtable.AppID]time.Time{}}
	for _, s := range switches {
		c.switches[s.DPID] = s
	}
	return c
}

// Switch returns a connected switch, or nil.
func (c *Context) Switch(dpid ofproto.DPID) *Switch { return c.switches[dpid] }

// Switches yields the connected switches in order of datapath id.
func (c *Context) Switches() iter.Seq[*Switch] {
	if len(c.order) != len(c.switches) {
		c.order = slices.SortedFunc(maps.Values(c.switches), func(a, b *Switch) int { return cmp.Compare(a.DPID, b.DPID) })
	}
	return slices.Values(c.order)
}

// Emit hands events to every app, after the present call.
func (c *Context) Emit(events ...any) { c.events = append(c.events, events...) }

// Dirty asks for a part of the calling app to be compiled again for one switch.
func (c *Context) Dirty(dpid ofproto.DPID, part string) {
	c.dirty[dirtyKey{dpid, flowtable.PartKey{App: c.app.ID(), Name: part}}] = struct{}{}
}

// DirtyAll asks for a part of the calling app to be compiled again for every switch.
func (c *Context) DirtyAll(part string) {
	for d := range c.switches {
		c.Dirty(d, part)
	}
}

// PacketOut sends a packet out of a switch. It is dropped when the switch is not
// connected or does not keep up. data is kept.
func (c *Context) PacketOut(dpid ofproto.DPID, inPort ofproto.Port, data []byte, actions ...ofproto.Action) {
	c.packetOuts = append(c.packetOuts, packetOut{dpid, &ofproto.PacketOut{
		BufferID: ofproto.NoBuffer, InPort: inPort, Actions: actions, Data: data,
	}})
}

// Send sends a switch a message that is no part of its desired state. It is dropped when
// the switch is not connected or does not keep up; an error of the switch is not told.
func (c *Context) Send(dpid ofproto.DPID, msg ofproto.Message) {
	c.packetOuts = append(c.packetOuts, packetOut{dpid, msg})
}

// WakeAt asks for Woken at a time, if no earlier one is asked for already.
func (c *Context) WakeAt(t time.Time) {
	id := c.app.ID()
	if old, ok := c.wake[id]; !ok || t.Before(old) {
		c.wake[id] = t
	}
}

// Notify publishes a notice to those who watch the controller.
func (c *Context) Notify(kind string, data any) {
	c.notices = append(c.notices, Notice{Kind: kind, Data: data})
}

// Alarm has what an operator must see written to the log, with pairs of names and values:
// at once, and then once a minute at most for each key.
func (c *Context) Alarm(key, text string, args ...any) {
	c.alarms = append(c.alarms, raised{key, text, args})
}

// Save has something written to the store soon, outside the core loop; of writes
// with the same key only the last is sure to be made. It is for what smooths a
// restart, not for intents: a write that fails is logged and forgotten.
func (c *Context) Save(key string, write func(context.Context) error) {
	c.saves = append(c.saves, save{key, write})
}

// DirtyParts returns what a call marked dirty, for tests of apps.
func (c *Context) DirtyParts() map[ofproto.DPID][]string {
	out := map[ofproto.DPID][]string{}
	for k := range c.dirty {
		out[k.dpid] = append(out[k.dpid], k.part.Name)
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

// Sent returns what a call had sent by Send, for tests of apps.
func (c *Context) Sent() (all []ofproto.Message) {
	for _, p := range c.packetOuts {
		if _, out := p.msg.(*ofproto.PacketOut); !out {
			all = append(all, p.msg)
		}
	}
	return all
}

// PacketOuts returns the packets a call sent, for tests of apps.
func (c *Context) PacketOuts() iter.Seq2[ofproto.DPID, *ofproto.PacketOut] {
	return func(yield func(ofproto.DPID, *ofproto.PacketOut) bool) {
		for _, p := range c.packetOuts {
			if out, ok := p.msg.(*ofproto.PacketOut); ok && !yield(p.dpid, out) {
				return
			}
		}
	}
}
