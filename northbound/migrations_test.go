package northbound

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/migration"
)

// fakeMigrations has the migrations campus and web, of revision 7. It writes down what it is
// asked for.
type fakeMigrations struct {
	asked []string
	err   error
}

func (f *fakeMigrations) say(format string, args ...any) error {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	return f.err
}

func (f *fakeMigrations) found(name string) (migration.Migration, error) {
	if name != "campus" && name != "web" {
		return migration.Migration{}, fmt.Errorf("%w: there is no migration %s", migration.ErrNotFound, name)
	}
	return migration.Migration{Name: name, State: migration.StatePlanned, Revision: 7, UpdatedAt: epoch}, f.err
}

func (f *fakeMigrations) tag() string { return fmt.Sprintf(`"7-%d"`, epoch.UnixNano()) }

func (f *fakeMigrations) List(context.Context) ([]migration.Migration, error) {
	m, err := f.found("campus")
	return []migration.Migration{m}, err
}

func (f *fakeMigrations) Get(_ context.Context, name string) (migration.Migration, error) {
	return f.found(name)
}

func (f *fakeMigrations) Plan(_ context.Context, d migration.Description) (*migration.Plan, error) {
	return &migration.Plan{Waves: []migration.PlannedWave{}}, f.say("plan %s", d.Name)
}

func (f *fakeMigrations) PlanWave(_ context.Context, name, wave string) (*migration.Plan, error) {
	return &migration.Plan{Waves: []migration.PlannedWave{}}, f.say("plan %s %q", name, wave)
}

func (f *fakeMigrations) Put(_ context.Context, d migration.Description, cond migration.Condition, who string) (migration.Migration, bool, error) {
	if cond.IfMatch != nil && !cond.IfMatch(f.tag()) || cond.IfNoneMatch && d.Name == "campus" {
		return migration.Migration{}, false, migration.ErrPrecondition
	}
	err := f.say("put %s by %s", d.Name, who)
	return migration.Migration{Name: d.Name, Revision: 8}, d.Name != "campus", err
}

func (f *fakeMigrations) Delete(_ context.Context, name string, cond migration.Condition, who string) error {
	if cond.IfMatch != nil && !cond.IfMatch(f.tag()) {
		return migration.ErrPrecondition
	}
	return f.say("delete %s by %s", name, who)
}

func (f *fakeMigrations) Apply(_ context.Context, name, wave, who string) (migration.Migration, error) {
	_ = f.say("apply %s %q by %s", name, wave, who)
	return f.found(name)
}

func (f *fakeMigrations) Confirm(_ context.Context, name, who string) (migration.Migration, error) {
	_ = f.say("confirm %s by %s", name, who)
	return f.found(name)
}

func (f *fakeMigrations) Rollback(_ context.Context, name string, to int, who string) (migration.Migration, error) {
	_ = f.say("rollback %s %d by %s", name, to, who)
	return f.found(name)
}

const aMigration = `{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"steer"}]}]}`

func TestMigrations(t *testing.T) {
	f := &fakeMigrations{}
	r := newRig(t, func(o *Options) { o.Migrations = f })
	require.Len(t, r.ok(200, "GET /v1/migrations", "")["items"], 1)
	require.Equal(t, f.tag(), r.do("GET /v1/migrations/campus", "").Header.Get("ETag"))
	r.refused(404, nil, "GET /v1/migrations/other", "")

	r.ok(200, "PUT /v1/migrations/campus", aMigration)
	created := r.do("PUT /v1/migrations/new", aMigration)
	require.Equal(t, 201, created.StatusCode)
	require.Equal(t, "/v1/migrations/new", created.Header.Get("Location"))
	r.ok(200, "PUT /v1/migrations/campus?dry_run=true", aMigration)
	r.refused(400, []string{"dry_run"}, "PUT /v1/migrations/campus?dry_run=perhaps", aMigration)
	r.refused(412, nil, "PUT /v1/migrations/campus", aMigration, "If-Match", `"6"`)
	r.refused(412, nil, "PUT /v1/migrations/campus", aMigration, "If-None-Match", `*`)
	r.refused(400, []string{"waves[0].steps[0].stage"}, "PUT /v1/migrations/campus", `{"waves":[{"steps":[{"dpid":"0000000000000001","stage":"all"}]}]}`)
	r.refused(412, nil, "DELETE /v1/migrations/campus", "", "If-Match", `"6"`)
	r.ok(204, "DELETE /v1/migrations/campus", "", "If-Match", f.tag())

	r.ok(202, "POST /v1/migrations/campus/apply", "")
	r.ok(202, "POST /v1/migrations/campus/apply", `{"wave":"access"}`)
	r.ok(200, "POST /v1/migrations/campus/apply?dry_run=1", `{"wave":"access"}`)
	r.refused(400, []string{"wave"}, "POST /v1/migrations/campus/apply", `{"wave":1}`)
	r.refused(400, []string{"wave"}, "POST /v1/migrations/campus/apply", `{"wave":"a","wave":"b"}`)
	r.refused(400, []string{"body"}, "POST /v1/migrations/campus/apply", `null`)
	r.refused(400, []string{"body"}, "POST /v1/migrations/campus/rollback", `[]`)
	r.refused(400, []string{"when"}, "POST /v1/migrations/campus/apply", `{"when":"now"}`)
	r.refused(404, nil, "POST /v1/migrations/other/apply", "")
	r.ok(200, "POST /v1/migrations/campus/confirm", "")
	r.ok(202, "POST /v1/migrations/campus/rollback", "")
	r.ok(202, "POST /v1/migrations/campus/rollback", `{"to":3}`)
	r.refused(400, []string{"to"}, "POST /v1/migrations/campus/rollback", `{"to":0}`)
	require.Equal(t, []string{
		"put campus by ", "put new by ", "plan campus", "delete campus by ",
		`apply campus "" by `, `apply campus "access" by `, `plan campus "access"`, `apply other "" by `,
		"confirm campus by ", "rollback campus 0 by ", "rollback campus 3 by ",
	}, f.asked)

	f.err = &migration.ConflictError{Reason: "it is under way"}
	r.refused(409, nil, "POST /v1/migrations/campus/apply", "")
	r.refused(409, nil, "DELETE /v1/migrations/campus", "")
	f.err = errors.New("what")
	r.refused(500, nil, "POST /v1/migrations/campus/confirm", "")
}
