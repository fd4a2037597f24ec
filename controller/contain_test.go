package controller_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/flowtable"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
	"github.com/fairlead/fairlead/test/simswitch/lab"
)

// brittleApp panics where it is told to.
type brittleApp struct {
	partsApp
	compile, build bool
	noParts        bool
}

func (a *brittleApp) Parts(c *controller.Context, sw *controller.Switch) []string {
	if a.noParts {
		panic("parts")
	}
	return a.partsApp.Parts(c, sw)
}

func (a *brittleApp) Compile(c *controller.Context, sw *controller.Switch, name string) controller.Source {
	if a.compile && name == "13" {
		panic("compile")
	}
	src := a.partsApp.Compile(c, sw, name)
	if a.build && name == "13" {
		src.Build = func() flowtable.Part { panic("build") }
	}
	return src
}

// A panic in an app, in a part, or in a call of the API ends no more than what it was
// about; other parts are installed, and the switch is served on.
func TestZ08PanicsAreContained(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		app := &brittleApp{partsApp: partsApp{parts: map[string]flowtable.Part{}, acks: map[string]error{}}}
		n := simswitch.NewNetwork()
		sw := n.AddSwitch(simswitch.Options{DPID: 1, Ports: []ofproto.Port{1, 2}})
		l := lab.Start(t, n, lab.Options{Only: true, Apps: func() []controller.App { return []controller.App{app} }})
		synctest.Wait()
		r := &rig{Lab: l, t: t, app: &app.partsApp, sw: sw}

		r.set(1, part(1))
		l.Do(func(*controller.Context) { app.build = true })
		r.set(13, part(13))
		l.Pass(5 * time.Second)
		r.set(2, part(2))
		l.Pass(5 * time.Second)
		require.Equal(t, []int{1, 2}, has(sw))
		require.Contains(t, r.connected().Faults["balancer/13"], "panic")

		l.Do(func(*controller.Context) { app.build, app.compile = false, true })
		r.set(13, part(13))
		r.set(3, part(3))
		l.Pass(5 * time.Second)
		require.Equal(t, []int{1, 2, 3}, has(sw))

		require.Error(t, l.Core.Do(t.Context(), func(*controller.Context) { panic("api") }))
		l.Do(func(*controller.Context) { app.compile = false })
		r.set(13, part(13))
		l.Pass(5 * time.Second)
		require.Equal(t, []int{1, 2, 3, 13}, has(sw))
		require.Empty(t, r.connected().Faults)
		require.EqualValues(t, 3, l.Core.Counters().Panics)
	})
}

// A part that a new start cannot compile leaves what serves for it in the switch.
func TestZ08PartThatDoesNotCompileKeepsItsFlows(t *testing.T) {
	for _, broken := range []string{"compile", "build", "parts"} {
		t.Run(broken, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				app := &brittleApp{partsApp: partsApp{parts: map[string]flowtable.Part{}, acks: map[string]error{}}}
				n := simswitch.NewNetwork()
				sw := n.AddSwitch(simswitch.Options{DPID: 1, Ports: []ofproto.Port{1, 2}})
				run := func(m *lab.Memory) *lab.Lab {
					l := lab.Start(t, n, lab.Options{Only: true, Memory: m, Apps: func() []controller.App { return []controller.App{app} }})
					l.Pass(5 * time.Second)
					return l
				}
				app.parts["1"], app.parts["2"], app.parts["13"] = *part(1), *part(2), *part(13)
				l := run(nil)
				require.Equal(t, []int{1, 2, 13}, has(sw))
				l.Stop()

				app.compile, app.build, app.noParts = broken == "compile", broken == "build", broken == "parts"
				delete(app.parts, "2")
				l = run(l.Memory)
				require.Equal(t, []int{1, 2, 13}, has(sw), "nothing is deleted while not all that is desired is known")
				l.Stop()

				app.compile, app.build, app.noParts = false, false, false
				run(l.Memory)
				require.Equal(t, []int{1, 13}, has(sw))
			})
		})
	}
}
