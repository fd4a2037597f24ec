package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/migration"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
)

// scripted is a server with one migration, which goes on to its next state each time that
// it is read.
type scripted struct {
	mu     sync.Mutex
	states []migration.Migration
	asked  []string
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	s.asked = append(s.asked, r.Method+" "+r.URL.String()+" "+string(body))
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodDelete {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	m := s.states[0]
	if r.Method == http.MethodGet && len(s.states) > 1 {
		s.states = s.states[1:]
	}
	var v any = m
	switch {
	case r.URL.Path == "/v1/migrations":
		v = map[string]any{"items": []any{m}, "next": ""}
	case r.URL.Query().Get("dry_run") != "":
		v = m.Plan
	}
	_ = json.NewEncoder(w).Encode(v)
}

func TestMigrateCommands(t *testing.T) {
	r := newRig(t)
	step := migration.Step{Endpoint: "unix:/db", Bridge: "a1", Stage: "steer"}
	now := time.Date(2026, 11, 30, 10, 0, 0, 0, time.UTC)
	plan := &migration.Plan{Waves: []migration.PlannedWave{{Name: "access", Steps: []migration.PlannedStep{{
		Step: step, From: "available", Canary: true, Checks: []migration.Check{{Name: "loops", State: migration.CheckOK, Detail: "no circle is left open"}},
		OVSDB:    []ovsdb.Change{{Table: "Bridge", Row: "a1", Column: "fail_mode", Before: `["set",[]]`, After: `"secure"`}},
		OpenFlow: migration.FlowChanges{AddFlows: 11, Entries: []string{"+ table=0 priority=1"}}, Undo: "the bridge is released",
		Blast: migration.Blast{Known: true, Hosts: []string{"10.0.0.2"}}, Elsewhere: []migration.SwitchChange{{DPID: "02", Ports: []string{"port 3: no broadcasts pass"}, Paths: 2}},
	}}}}}
	run := func(phase migration.Phase, state migration.StepState, reason string) *migration.Run {
		return &migration.Run{Wave: "access", Phase: phase, Checkpoint: 1, Reason: reason, Steps: []migration.StepRun{{Step: step, State: state, Began: now, Ended: now.Add(2 * time.Second)}}}
	}
	of := func(state migration.State, m migration.Migration) migration.Migration {
		m.Name, m.State, m.Plan = "campus", state, plan
		m.Checkpoints = []migration.CheckpointView{{N: 1, Wave: "access", Hosts: migration.Tally{Answered: 3, Asked: 4}}}
		m.Progress.Total = 2
		return m
	}
	s := &scripted{}
	srv := httptest.NewServer(s)
	defer srv.Close()
	t.Setenv("FAIRLEAD_SERVER", srv.URL)
	file := r.file("name: campus\nconfirm_timeout: 60s\nwaves:\n- name: access\n  steps: [{endpoint: 'unix:/db', bridge: a1, stage: steer}]\n")

	s.states = []migration.Migration{of(migration.StatePlanned, migration.Migration{})}
	out := r.done("migrate plan -f " + file)
	for _, says := range []string{"available -> steer", "ok       loops: no circle", `Bridge a1 fail_mode: [] → secure`, "flows +11", "1 hosts: 10.0.0.2", "elsewhere 02: port 3: no broadcasts pass; reaches 2 switches another way", "undo      the bridge is released", "all checks hold"} {
		require.Contains(t, out, says)
	}
	require.NotContains(t, out, "priority=1")
	require.Contains(t, r.done("migrate plan --verbose -f "+file), "+ table=0 priority=1")
	require.Contains(t, r.done("migrate plan --dry-run -f "+file), "all checks hold")
	require.Contains(t, s.asked[0], `PUT /v1/migrations/campus {"confirm_timeout":"60s"`)
	require.Contains(t, s.asked[2], "PUT /v1/migrations/campus?dry_run=true")

	s.states = []migration.Migration{
		of(migration.StateApplying, migration.Migration{Run: run(migration.PhaseMeasuring, migration.StepPending, "")}),
		of(migration.StateApplying, migration.Migration{Run: run(migration.PhaseStepping, migration.StepVerifying, "")}),
		of(migration.StateUnconfirmed, migration.Migration{Run: run(migration.PhaseUnconfirmed, migration.StepDone, ""), Progress: migration.Progress{Confirm: documents.Duration(time.Minute)}}),
	}
	out = r.done("migrate apply campus --wave access")
	for _, says := range []string{"measuring", "checkpoint 1: answered: 3 of 4 hosts", "step 1 of 1: unix:/db a1 to steer: verifying", "done (2s)", "confirm it within 1m0s"} {
		require.Contains(t, out, says)
	}
	require.Contains(t, s.asked[3], `POST /v1/migrations/campus/apply {"wave":"access"}`)

	s.states = s.states[len(s.states)-1:]
	s.states[0].Watch = &migration.Watch{Times: 4, At: now, Doubts: []string{"10.0.0.9 does not answer from switch 1 any more"}}
	out = r.done("migrate status campus")
	require.Contains(t, out, "4 times")
	require.Contains(t, out, "10.0.0.9 does not answer from switch 1 any more")

	s.states = []migration.Migration{
		of(migration.StateRollingBack, migration.Migration{Run: run(migration.PhaseUndoing, migration.StepUndoing, "10.0.0.9 is silent"), Reason: "10.0.0.9 is silent"}),
		of(migration.StateRolledBack, migration.Migration{
			Last:   &migration.Outcome{Wave: "access", State: migration.StateRolledBack, Steps: []migration.StepRun{{Step: step, State: migration.StepUndone}}},
			Reason: "10.0.0.9 is silent",
		}),
	}
	states := s.states
	refused := of(migration.StateRolledBack, migration.Migration{
		Last:   &migration.Outcome{Wave: "access", State: migration.StateRolledBack, Steps: []migration.StepRun{{Step: step, State: migration.StepPending}}},
		Reason: "checks before the wave failed: loops",
	})
	s.states = []migration.Migration{of(migration.StateRollingBack, migration.Migration{Run: run(migration.PhaseUndoing, migration.StepPending, refused.Reason), Reason: refused.Reason}), refused}
	code, out, errs := r.run("migrate", "apply", "campus")
	require.Equal(t, exitRefused, code)
	require.NotContains(t, out, "rolling back")
	require.Equal(t, "fairlead: wave access was not begun: checks before the wave failed: loops\n", errs)

	s.states = states
	code, out, errs = r.run("migrate", "apply", "campus")
	require.Equal(t, exitRefused, code)
	require.Contains(t, out, "rolling back: 10.0.0.9 is silent")
	require.Equal(t, "fairlead: wave access: rolled back: 10.0.0.9 is silent\n", errs)
	s.states = states
	require.Contains(t, r.done("migrate rollback campus --to 1"), "undone")
	require.Contains(t, s.asked[len(s.asked)-3], `POST /v1/migrations/campus/rollback {"to":1}`)
	s.states = states
	require.Contains(t, r.done("migrate rollback campus --no-wait"), "is being rolled back")
	out = r.done("migrate status campus --watch")
	require.Contains(t, out, "rolling_back")
	require.Contains(t, out, "rolled_back")
	require.Contains(t, r.done("migrate status campus"), "10.0.0.9 is silent")
	require.Contains(t, r.done("migrate status"), "[------------------------] 0 of 2 steps")
	require.Contains(t, r.done("migrate list"), "campus")

	s.states = []migration.Migration{of(migration.StateConfirmed, migration.Migration{Last: &migration.Outcome{Wave: "access"}, Next: "back"})}
	require.Contains(t, r.done("migrate confirm campus"), "the next one is back")
	require.Contains(t, r.done("migrate delete campus"), "is deleted")
	plan.Failed = 1
	code, _, errs = r.run("migrate", "apply", "campus", "--dry-run")
	require.Equal(t, exitRefused, code)
	require.Contains(t, errs, "checks that fail: 1")

	require.Contains(t, r.fails(exitUsage, "migrate plan"), "-f FILE is needed")
	for text, want := range map[string]string{
		"":                                ": it is empty\n",
		"# nothing yet\n---\n":            ": it is empty\n",
		"waves: []":                       ": name: is missing\n",
		"name:\nwaves: []":                ": name: is missing\n",
		"name: 7\nwaves: []":              ": name: 7 is not a text: write it in quotes\n",
		"- a":                             ": it is no migration, which has the fields name and waves\n",
		"name: a\n---\nname: b\n":         ": there are 2 documents in it, where one migration belongs\n",
		"name: a\nname: b\n":              `: yaml: line 2: mapping key "name" already defined at line 1`,
		"name: a\nwaves:\n\t- x\n":        ": yaml: line 3: found character that cannot start any token\n",
		"name: a\nwaves: *w\n":            ": yaml: unknown anchor 'w' referenced\n",
		"name: a\nwaves: [{1: x}]":        ": waves[0]: 1 is a key that is not a text: write it in quotes\n",
		"name: a\n1: x":                   ": document: 1 is a key that is not a text: write it in quotes\n",
		"name: a\nprobes: [{vlan: .nan}]": ": probes[0].vlan: NaN is no number that a field may have\n",
	} {
		require.Contains(t, r.fails(exitUsage, "migrate plan -f "+r.file(text)), want, text)
	}
	require.Contains(t, r.fails(exitUsage, "migrate rollback campus --to 0"), "to: 0")
	require.Contains(t, r.fails(exitUsage, "migrate status --watch"), "name the migration")
}

// Who stops following does not stop the wave, and is told so; who watches may stop.
func TestMigrateInterrupted(t *testing.T) {
	applying := migration.Migration{Name: "campus", State: migration.StateApplying, Run: &migration.Run{Wave: "access", Phase: migration.PhaseStepping}}
	s := &scripted{states: []migration.Migration{applying}}
	srv := httptest.NewServer(s)
	defer srv.Close()
	t.Setenv("FAIRLEAD_SERVER", srv.URL)
	for line, want := range map[string]struct {
		code int
		errs string
	}{
		"migrate apply campus":          {exitRefused, "fairlead: interrupted; the server goes on with what was begun: fairlead migrate status campus\n"},
		"migrate status campus --watch": {exitDone, ""},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var errs bytes.Buffer
		ended := make(chan int, 1)
		s.mu.Lock()
		s.asked = nil
		s.mu.Unlock()
		go func() { ended <- run(ctx, strings.Fields(line), nil, io.Discard, &errs) }()
		require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.asked) > 2 }, 10*time.Second, time.Millisecond)
		cancel()
		require.Equal(t, want.code, <-ended, line)
		require.Equal(t, want.errs, errs.String(), line)
	}
}

func TestProgressBar(t *testing.T) {
	require.Equal(t, "[############------------] 2 of 4 steps, about 12s left", progressBar(migration.Progress{Done: 2, Total: 4, Left: documents.Duration(12 * time.Second)}))
	require.Equal(t, "[########################] 4 of 4 steps, 59s to confirm", progressBar(migration.Progress{Done: 4, Total: 4, Confirm: documents.Duration(59 * time.Second)}))
	require.Equal(t, "[------------------------] 0 of 0 steps", progressBar(migration.Progress{}))
}
