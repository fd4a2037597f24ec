package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/fairlead/fairlead/apps/migration"
)

func migrateCommand() *cobra.Command {
	cmd := group("migrate", "Move a network over to Fairlead, in steps that can be undone",
		migratePlan(), migrateApply(), migrateStatus(), migrateConfirm(), migrateRollback(), migrateList(), migrateDelete(), migrateCoverage())
	cmd.Long = "Move a network over to Fairlead, in waves of steps that are checked before, verified after, and undone by themselves\n" +
		"when something answers less than before, or when nobody confirms them in time."
	return cmd
}

func migrationPath(name string) string { return "/v1/migrations/" + url.PathEscape(name) }

// followEvery is how often a migration that is followed is looked at.
const followEvery = 200 * time.Millisecond

// readMigration reads one description and its name, as JSON.
func readMigration(path string, stdin io.Reader) (name string, body []byte, err error) {
	var text []byte
	shown := path
	if path == "-" {
		shown = "standard input"
		text, err = io.ReadAll(stdin)
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return "", nil, err
	}
	wrong := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w", shown, fmt.Errorf(format, args...))
	}
	var docs []json.RawMessage
	if err := eachYAML(text, func(raw json.RawMessage) error { docs = append(docs, raw); return nil }); err != nil {
		return "", nil, wrong("%w", err)
	}
	if len(docs) == 0 {
		return "", nil, wrong("it is empty")
	}
	if len(docs) > 1 {
		return "", nil, wrong("there are %d documents in it, where one migration belongs", len(docs))
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(docs[0], &fields) != nil {
		return "", nil, wrong("it is no migration, which has the fields name and waves")
	}
	given, there := fields["name"]
	switch {
	case !there || string(given) == "null" || string(given) == `""`:
		return "", nil, wrong("name: is missing")
	case json.Unmarshal(given, &name) != nil:
		return "", nil, wrong("name: %.40s is not a text: write it in quotes", given)
	}
	return name, docs[0], nil
}

func migratePlan() *cobra.Command {
	cmd := &cobra.Command{
		Use: "plan -f FILE", Short: "Plan a migration from a YAML or JSON description, and keep it", Args: cobra.NoArgs,
		Long: "Plan a migration from a YAML or JSON description, and keep it under its name. The plan tells for each step what has to\n" +
			"hold, what exactly would change in OVSDB and in the flow tables, who is behind it and how it is undone. Planning\n" +
			"changes nothing in the network. The file - is the standard input.",
	}
	file := cmd.Flags().StringP("file", "f", "", "`FILE` with the description; - is the standard input")
	dry := cmd.Flags().Bool("dry-run", false, "keep nothing")
	verbose := cmd.Flags().Bool("verbose", false, "also list the flow entries")
	return clientCommand(cmd, outputs, func(c *client, _ []string) error {
		if *file == "" {
			return errors.New("-f FILE is needed")
		}
		name, body, err := readMigration(*file, c.in)
		if err != nil {
			return err
		}
		k := call{method: http.MethodPut, path: migrationPath(name), body: body}
		if *dry {
			k.query = url.Values{"dry_run": {"true"}}
		}
		a, err := c.do(k)
		if err != nil {
			return err
		}
		plan, err := decodePlan(c, a.body, !*dry)
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			planText(w, plan, *verbose)
			if !*dry {
				fmt.Fprintf(w, "\nmigration %s is planned: fairlead migrate apply %s\n", name, name)
			}
			return nil
		})
	})
}

// decodePlan reads a plan, or that of a migration.
func decodePlan(c *client, body []byte, whole bool) (migration.Plan, error) {
	if !whole {
		return decode[migration.Plan](c, body)
	}
	m, err := decode[migration.Migration](c, body)
	if err == nil && m.Plan == nil {
		err = c.garbled(errors.New("there is no plan in it"))
	}
	if err != nil {
		return migration.Plan{}, err
	}
	return *m.Plan, nil
}

// planText writes a plan for people.
func planText(w io.Writer, p migration.Plan, verbose bool) {
	line := func(format string, args ...any) { fmt.Fprintln(w, oneLine(fmt.Sprintf(format, args...))) }
	for i, wave := range p.Waves {
		if i > 0 {
			line("")
		}
		if wave.Applied && len(wave.Steps) == 0 {
			line("wave %s: applied", wave.Name)
			continue
		}
		line("wave %s", wave.Name)
		for j, s := range wave.Steps {
			canary := ""
			if s.Canary && len(wave.Steps) > 1 {
				canary = ", the canary"
			}
			line("  step %d of %d%s: %s: %s -> %s", j+1, len(wave.Steps), canary, s.Target(), cmp.Or(s.From, "?"), s.Stage)
			for _, k := range s.Checks {
				line("    check     %-8s %s: %s", k.State, k.Name, k.Detail)
			}
			for _, d := range s.OVSDB {
				line("    ovsdb     %s", d)
			}
			if s.From == "" {
				continue // it cannot be looked at
			}
			f := s.OpenFlow
			line("    openflow  flows +%d -%d =%d, groups +%d ~%d -%d =%d", f.AddFlows, f.DeleteFlows, f.KeptFlows, f.AddGroups, f.ChangeGroups, f.DeleteGroups, f.KeptGroups)
			if f.Assumed != "" {
				line("              (%s)", f.Assumed)
			}
			if verbose {
				for _, e := range f.Entries {
					line("              %s", e)
				}
			}
			for _, e := range s.Elsewhere {
				paths := ""
				if e.Paths > 0 {
					paths = fmt.Sprintf("; reaches %d switches another way", e.Paths)
				}
				line("    elsewhere %s: %s%s", e.DPID, strings.Join(e.Ports, "; "), paths)
			}
			if b := s.Blast; b.Known {
				line("    behind    %d hosts%s, %d links%s; members of VIPs%s", len(b.Hosts), some(b.Hosts), len(b.Links), some(b.Links), some(b.Members))
			} else {
				line("    behind    not known before the switch is connected")
			}
			if s.Undo != "" {
				line("    undo      %s", s.Undo)
			}
		}
	}
	line("")
	switch {
	case p.Failed > 0:
		line("checks that fail: %d; a wave with one of them is not applied", p.Failed)
	case p.Warnings > 0:
		line("no check fails; warnings: %d", p.Warnings)
	default:
		line("all checks hold")
	}
}

// some lists the first of many.
func some(list []string) string {
	const most = 8
	if len(list) == 0 {
		return ": none"
	}
	s := ": " + strings.Join(list[:min(len(list), most)], " ")
	if len(list) > most {
		s += fmt.Sprintf(" and %d more", len(list)-most)
	}
	return s
}

func migrateApply() *cobra.Command {
	cmd := &cobra.Command{
		Use: "apply NAME", Short: "Apply the next wave of a migration", Args: cobra.ExactArgs(1),
		Long: "Apply the next wave of a migration, and wait until it is applied, or taken back. A wave that is applied has to be\n" +
			"confirmed within the migration's confirm timeout (fairlead migrate confirm NAME), else it is rolled back. When a\n" +
			"wave is taken back, the command fails with the reason.",
	}
	wave := cmd.Flags().String("wave", "", "`WAVE` to apply (default the next one)")
	dry := cmd.Flags().Bool("dry-run", false, "only check and plan the wave, as things stand now")
	noWait := cmd.Flags().Bool("no-wait", false, "do not wait")
	verbose := cmd.Flags().Bool("verbose", false, "with --dry-run, also list the flow entries")
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		fields := map[string]string{}
		if *wave != "" {
			fields["wave"] = *wave
		}
		body, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		k := call{method: http.MethodPost, path: migrationPath(args[0]) + "/apply", body: body}
		if *dry {
			k.query = url.Values{"dry_run": {"true"}}
		}
		a, err := c.do(k)
		if err != nil {
			return err
		}
		if *dry {
			plan, err := decodePlan(c, a.body, false)
			if err != nil {
				return err
			}
			if err := c.print(a.body, func(w *tabwriter.Writer) error { planText(w, plan, *verbose); return nil }); err != nil {
				return err
			}
			if plan.Failed > 0 {
				return refused(fmt.Errorf("checks that fail: %d; the wave would not be applied", plan.Failed))
			}
			return nil
		}
		m, err := decode[migration.Migration](c, a.body)
		if err != nil {
			return err
		}
		if *noWait {
			if c.output != "table" {
				return c.print(a.body, nil)
			}
			return c.done("wave %s of migration %s is on its way", m.Run.Wave, m.Name)
		}
		return c.follow(args[0], migration.StateUnconfirmed, migration.StateConfirmed, migration.StateCompleted)
	})
}

// looks reads a migration again and again, until see has seen enough. body is the
// document as it came. A command that is interrupted fails, and the server goes on.
func (c *client) looks(name string, see func(m migration.Migration, body []byte) (enough bool, err error)) error {
	interrupted := refused(fmt.Errorf("interrupted; the server goes on with what was begun: fairlead migrate status %s", name))
	for {
		a, err := c.get(migrationPath(name))
		if c.ctx.Err() != nil {
			return interrupted
		}
		if err != nil {
			return err
		}
		m, err := decode[migration.Migration](c, a.body)
		if err != nil {
			return err
		}
		if enough, err := see(m, a.body); enough || err != nil {
			return err
		}
		select {
		case <-time.After(followEvery):
		case <-c.ctx.Done():
			return interrupted
		}
	}
}

// story tells what happens to a migration, each thing once. Documents have nothing told.
type story struct {
	c    *client
	said map[string]bool
}

func (s story) say(format string, args ...any) {
	line := oneLine(fmt.Sprintf(format, args...))
	if s.c.output == "table" && !s.said[line] {
		s.said[line] = true
		fmt.Fprintln(s.c.out, line)
	}
}

// latest returns the run under way, or the last one: its wave and its steps.
func latest(m migration.Migration) (wave string, steps []migration.StepRun) {
	switch {
	case m.Run != nil:
		return m.Run.Wave, m.Run.Steps
	case m.Last != nil:
		return m.Last.Wave, m.Last.Steps
	}
	return "", nil
}

// untouched says whether none of the steps of a run was begun.
func untouched(steps []migration.StepRun) bool {
	return !slices.ContainsFunc(steps, func(st migration.StepRun) bool { return st.State != migration.StepPending })
}

// tell says what is new.
func (s story) tell(m migration.Migration) {
	wave, steps := latest(m)
	run := m.Run
	undoing := run != nil && run.Phase == migration.PhaseUndoing
	if run != nil {
		if run.Phase == migration.PhaseChecking || run.Phase == migration.PhaseMeasuring {
			s.say("wave %s: %s", wave, run.Phase)
		}
		for _, k := range m.Checkpoints {
			switch {
			case k.N != run.Checkpoint || undoing:
			case k.Hosts.Asked+k.VIPs.Asked+k.Probes.Asked == 0:
				s.say("wave %s: checkpoint %d: nothing can be asked yet", wave, k.N)
			default:
				s.say("wave %s: checkpoint %d: answered: %s hosts, %s VIPs, %s probes", wave, k.N, k.Hosts, k.VIPs, k.Probes)
			}
		}
	}
	switch {
	case undoing && untouched(steps):
		return // what comes next says why it is not begun
	case undoing && run.Whole:
		s.say("rolling back to %s: %s", wave, run.Reason)
	case undoing:
		s.say("wave %s: rolling back: %s", wave, run.Reason)
	}
	for i, st := range steps {
		if st.State == migration.StepPending || undoing && st.State == migration.StepDone {
			continue // not its turn yet
		}
		more := ""
		if st.State == migration.StepDone && !st.Ended.IsZero() {
			more = " (" + st.Ended.Sub(st.Began).Round(10*time.Millisecond).String() + ")"
		}
		if st.Reason != "" {
			more += ": " + st.Reason
		}
		s.say("step %d of %d: %s: %s%s", i+1, len(steps), st.Step, st.State, more)
	}
}

// follow tells what happens to a migration until it rests, and fails unless it then is
// in one of the states that are good.
func (c *client) follow(name string, good ...migration.State) error {
	s := story{c, map[string]bool{}}
	return c.looks(name, func(m migration.Migration, body []byte) (bool, error) {
		s.tell(m)
		if m.State == migration.StateApplying || m.State == migration.StateRollingBack {
			return false, nil
		}
		if c.output != "table" {
			if err := c.print(body, nil); err != nil {
				return true, err
			}
		}
		wave, steps := latest(m)
		switch {
		case m.State == migration.StateRolledBack && untouched(steps) && !slices.Contains(good, m.State):
			return true, refused(fmt.Errorf("wave %s was not begun: %s", wave, m.Reason))
		case !slices.Contains(good, m.State):
			return true, refused(fmt.Errorf("wave %s: %s: %s", wave, strings.ReplaceAll(string(m.State), "_", " "), m.Reason))
		case m.State == migration.StateUnconfirmed:
			s.say("wave %s is applied: confirm it within %s, or it is rolled back: fairlead migrate confirm %s", wave, m.Progress.Confirm, name)
		case m.State == migration.StateRolledBack:
			s.say("rolled back: %s", m.Reason)
		default:
			s.say("migration %s is %s", name, m.State)
		}
		return true, nil
	})
}

func migrateConfirm() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "confirm NAME", Short: "Keep the wave that was applied", Args: cobra.ExactArgs(1)}, outputs,
		func(c *client, args []string) error {
			a, err := c.do(call{method: http.MethodPost, path: migrationPath(args[0]) + "/confirm"})
			if err != nil {
				return err
			}
			m, err := decode[migration.Migration](c, a.body)
			if err != nil {
				return err
			}
			if c.output != "table" {
				return c.print(a.body, nil)
			}
			if m.Next == "" {
				return c.done("wave %s is confirmed; migration %s is completed", m.Last.Wave, m.Name)
			}
			return c.done("wave %s is confirmed; the next one is %s", m.Last.Wave, m.Next)
		})
}

func migrateRollback() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rollback NAME", Short: "Take a migration back to a checkpoint", Args: cobra.ExactArgs(1),
		Long: "Take a migration back to a checkpoint, and wait until that is done. Without --to it is the one before the wave that is\n" +
			"under way, or else before the wave that was applied last. `status` lists the checkpoints.",
	}
	to := cmd.Flags().Int("to", 0, "`NUMBER` of the checkpoint")
	noWait := cmd.Flags().Bool("no-wait", false, "do not wait")
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		fields := map[string]int{}
		if cmd.Flags().Changed("to") {
			if *to < 1 {
				return fmt.Errorf("to: %d is not the number of a checkpoint", *to)
			}
			fields["to"] = *to
		}
		body, err := json.Marshal(fields)
		if err != nil {
			return err
		}
		a, err := c.do(call{method: http.MethodPost, path: migrationPath(args[0]) + "/rollback", body: body})
		if err != nil {
			return err
		}
		if *noWait {
			if c.output != "table" {
				return c.print(a.body, nil)
			}
			return c.done("migration %s is being rolled back", args[0])
		}
		return c.follow(args[0], migration.StateRolledBack, migration.StatePlanned, migration.StateConfirmed)
	})
}

// progressBar draws how much of a migration is done.
func progressBar(p migration.Progress) string {
	const width = 24
	full := 0
	if p.Total > 0 {
		full = width * p.Done / p.Total
	}
	s := fmt.Sprintf("[%s%s] %d of %d steps", strings.Repeat("#", full), strings.Repeat("-", width-full), p.Done, p.Total)
	if p.Left > 0 {
		s += fmt.Sprintf(", about %s left", time.Duration(p.Left).Round(time.Second))
	}
	if p.Confirm > 0 {
		s += fmt.Sprintf(", %s to confirm", p.Confirm)
	}
	return s
}

func migrateStatus() *cobra.Command {
	cmd := &cobra.Command{Use: "status [NAME]", Short: "Show how far migrations are", Args: cobra.MaximumNArgs(1)}
	watch := cmd.Flags().Bool("watch", false, "show every change, until nothing is under way any more")
	return clientCommand(cmd, outputs, func(c *client, args []string) error {
		if len(args) == 0 {
			if *watch {
				return errors.New("watch: name the migration")
			}
			return c.listMigrations()
		}
		if *watch {
			return c.watchMigration(args[0])
		}
		a, err := c.get(migrationPath(args[0]))
		if err != nil {
			return err
		}
		m, err := decode[migration.Migration](c, a.body)
		if err != nil {
			return err
		}
		return c.print(a.body, func(w *tabwriter.Writer) error {
			migrationText(w, m)
			return nil
		})
	})
}

func migrationText(w *tabwriter.Writer, m migration.Migration) {
	row(w, "NAME", "STATE", "PROGRESS", "APPLIED", "NEXT", "REVISION")
	row(w, m.Name, m.State, progressBar(m.Progress), strings.Join(m.Applied, " "), m.Next, m.Revision)
	if m.Reason != "" {
		gap(w)
		row(w, "REASON")
		row(w, m.Reason)
	}
	if k := m.Watch; k != nil && k.Times > 0 {
		gap(w)
		row(w, "VERIFIED SINCE", "LAST", "DOUBTFUL")
		doubts := "nothing"
		if len(k.Doubts) > 0 {
			doubts = strings.Join(k.Doubts, "; ")
		}
		row(w, fmt.Sprintf("%d times", k.Times), k.At.Format(time.RFC3339), doubts)
	}
	if _, steps := latest(m); len(steps) > 0 {
		gap(w)
		row(w, "STEP", "STATE", "TOOK", "REASON")
		for _, s := range steps {
			took := ""
			if !s.Ended.IsZero() && !s.Began.IsZero() {
				took = s.Ended.Sub(s.Began).Round(10 * time.Millisecond).String()
			}
			row(w, s.Step.String(), s.State, took, s.Reason)
		}
	}
	if len(m.Checkpoints) > 0 {
		gap(w)
		row(w, "CHECKPOINT", "AT", "BEFORE WAVE", "TARGETS", "HOSTS ANSWERED", "VIPS", "PROBES")
		for _, k := range m.Checkpoints {
			row(w, k.N, k.At.Format(time.RFC3339), k.Wave, len(k.Targets), k.Hosts, k.VIPs, k.Probes)
		}
	}
	if len(m.Audit) > 0 {
		gap(w)
		row(w, "AT", "WHO", "WHAT", "TARGET", "BEFORE", "AFTER", "DETAIL")
		for _, e := range m.Audit[max(len(m.Audit)-20, 0):] {
			row(w, e.At.Format(time.RFC3339), e.Who, e.What, e.Target, e.Before, e.After, e.Detail)
		}
	}
}

// watchMigration prints a line for every change until the migration rests.
func (c *client) watchMigration(name string) error {
	var last string
	err := c.looks(name, func(m migration.Migration, body []byte) (bool, error) {
		line := fmt.Sprintf("%s %s %s", m.Name, m.State, progressBar(m.Progress))
		if m.Run != nil {
			line += " wave " + m.Run.Wave + " " + string(m.Run.Phase)
		}
		over := m.Run == nil
		switch {
		case line == last:
			return over, nil
		case c.output != "table":
			last = line
			return over, c.print(body, nil)
		}
		last = line
		fmt.Fprintln(c.out, oneLine(line))
		return over, nil
	})
	if c.ctx.Err() != nil {
		return nil // who watches may stop
	}
	return err
}

func migrateList() *cobra.Command {
	return clientCommand(&cobra.Command{Use: "list", Short: "List the migrations", Args: cobra.NoArgs}, outputs,
		func(c *client, _ []string) error { return c.listMigrations() })
}

func (c *client) listMigrations() error {
	page, err := c.list("/v1/migrations")
	if err != nil {
		return err
	}
	list, err := decodeItems[migration.Migration](c, page)
	if err != nil {
		return err
	}
	return c.printPage(page, func(w *tabwriter.Writer) error {
		row(w, "NAME", "STATE", "PROGRESS", "NEXT", "UPDATED", "REASON")
		for _, m := range list {
			row(w, m.Name, m.State, progressBar(m.Progress), m.Next, m.UpdatedAt.Format(time.RFC3339), m.Reason)
		}
		return nil
	})
}

func migrateDelete() *cobra.Command {
	return clientCommand(&cobra.Command{
		Use: "delete NAME", Short: "Forget a migration and its checkpoints; what it applied stays", Args: cobra.ExactArgs(1),
	}, outputs, func(c *client, args []string) error {
		if _, err := c.do(call{method: http.MethodDelete, path: migrationPath(args[0])}); err != nil {
			return err
		}
		return c.done("migration %s is deleted", args[0])
	})
}
