package northbound

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/migration"
)

// Migrations is where migrations are kept and run. Errors are those of package
// migration; what changes something is durable when it returns, and goes on by itself.
// who is who asked.
type Migrations interface {
	List(ctx context.Context) ([]migration.Migration, error)
	Get(ctx context.Context, name string) (migration.Migration, error)
	// Plan and PlanWave change nothing.
	Plan(ctx context.Context, d migration.Description) (*migration.Plan, error)
	PlanWave(ctx context.Context, name, wave string) (*migration.Plan, error)
	Put(ctx context.Context, d migration.Description, cond migration.Condition, who string) (m migration.Migration, created bool, err error)
	Delete(ctx context.Context, name string, cond migration.Condition, who string) error
	Apply(ctx context.Context, name, wave, who string) (migration.Migration, error)
	Confirm(ctx context.Context, name, who string) (migration.Migration, error)
	Rollback(ctx context.Context, name string, to int, who string) (migration.Migration, error)
}

const migrationsPath = "/v1/migrations"

// migrationProblem turns an error of package migration into an answer.
func migrationProblem(err error) error {
	var invalid *migration.InvalidError
	var clash *migration.ConflictError
	switch {
	case errors.As(err, &invalid):
		return fieldsProblem(http.StatusBadRequest, "invalid", "Invalid document", invalid.Errors)
	case errors.As(err, &clash):
		return problem(http.StatusConflict, "conflict", "Conflict", clash.Reason)
	case errors.Is(err, migration.ErrNotFound):
		return problem(http.StatusNotFound, "not-found", "Not found", strings.TrimPrefix(err.Error(), migration.ErrNotFound.Error()+": "))
	case errors.Is(err, migration.ErrPrecondition):
		return problem(http.StatusPreconditionFailed, "precondition", "Precondition failed", strings.TrimPrefix(err.Error(), migration.ErrPrecondition.Error()+": "))
	}
	return err
}

// asker names who sent a request: its token, and its address.
func asker(c echo.Context) string {
	who := c.Request().RemoteAddr
	if a, err := netip.ParseAddrPort(who); err == nil {
		who = a.Addr().Unmap().String()
	}
	if token := infoOf(c.Request().Context()).client; token != "" {
		who = token + " " + who
	}
	return who
}

// migrationCondition reads If-Match and If-None-Match.
func migrationCondition(c echo.Context) (migration.Condition, error) {
	cond, err := condition(c)
	if err != nil {
		return migration.Condition{}, err
	}
	m := migration.Condition{IfNoneMatch: cond.IfNoneMatch}
	if cond.IfMatch != "" {
		m.IfMatch = func(etag string) bool { return matches(cond.IfMatch, etag) }
	}
	return m, nil
}

// dryRun reads ?dry_run=.
func dryRun(c echo.Context) (bool, error) {
	v := c.QueryParam("dry_run")
	if v == "" {
		return false, nil
	}
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, badField("dry_run", "%q is neither true nor false", v)
	}
	return b, nil
}

func respondMigration(c echo.Context, status int, m migration.Migration) error {
	c.Response().Header().Set("ETag", m.ETag())
	return respond(c, status, m)
}

func (s *Server) listMigrations(c echo.Context) error {
	list, err := s.o.Migrations.List(c.Request().Context())
	if err != nil {
		return migrationProblem(err)
	}
	return respondPage(c, list, func(m *migration.Migration) string { return m.Name })
}

func (s *Server) getMigration(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	m, err := s.o.Migrations.Get(c.Request().Context(), name)
	if err != nil {
		return migrationProblem(err)
	}
	return respondMigration(c, http.StatusOK, m)
}

// putMigration plans a description, and stores it unless it is a dry run.
func (s *Server) putMigration(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	cond, err := migrationCondition(c)
	if err != nil {
		return err
	}
	dry, err := dryRun(c)
	if err != nil {
		return err
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	d, err := migration.DecodeDescription(name, body)
	if err != nil {
		return migrationProblem(err)
	}
	ctx, cancel := s.patient(c)
	defer cancel()
	if dry {
		plan, err := s.o.Migrations.Plan(ctx, d)
		if err != nil {
			return migrationProblem(err)
		}
		return respond(c, http.StatusOK, plan)
	}
	m, created, err := s.o.Migrations.Put(ctx, d, cond, asker(c))
	if err != nil {
		return migrationProblem(err)
	}
	if !created {
		return respondMigration(c, http.StatusOK, m)
	}
	c.Response().Header().Set("Location", migrationsPath+"/"+m.Name)
	return respondMigration(c, http.StatusCreated, m)
}

func (s *Server) deleteMigration(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	cond, err := migrationCondition(c)
	if err != nil {
		return err
	}
	if err := s.o.Migrations.Delete(c.Request().Context(), name, cond, asker(c)); err != nil {
		return migrationProblem(err)
	}
	return c.NoContent(http.StatusNoContent)
}

// action reads the name of a migration, and the fields of a body that may be left out.
func action(c echo.Context, fields map[string]any) (name string, err error) {
	if name, err = pathParam(c, "name"); err != nil {
		return "", err
	}
	body, err := readBody(c)
	if err != nil || len(body) == 0 {
		return name, err
	}
	optional := []string{}
	for f := range fields {
		optional = append(optional, f)
	}
	return name, decodeFields(body, fields, optional...)
}

func (s *Server) postApply(c echo.Context) error {
	var wave string
	name, err := action(c, map[string]any{"wave": &wave})
	if err != nil {
		return err
	}
	dry, err := dryRun(c)
	if err != nil {
		return err
	}
	if dry {
		ctx, cancel := s.patient(c)
		defer cancel()
		plan, err := s.o.Migrations.PlanWave(ctx, name, wave)
		if err != nil {
			return migrationProblem(err)
		}
		return respond(c, http.StatusOK, plan)
	}
	m, err := s.o.Migrations.Apply(c.Request().Context(), name, wave, asker(c))
	if err != nil {
		return migrationProblem(err)
	}
	return respondMigration(c, http.StatusAccepted, m)
}

func (s *Server) postMigrationConfirm(c echo.Context) error {
	name, err := action(c, map[string]any{})
	if err != nil {
		return err
	}
	m, err := s.o.Migrations.Confirm(c.Request().Context(), name, asker(c))
	if err != nil {
		return migrationProblem(err)
	}
	return respondMigration(c, http.StatusOK, m)
}

func (s *Server) postRollback(c echo.Context) error {
	var to *int
	name, err := action(c, map[string]any{"to": &to})
	if err != nil {
		return err
	}
	n := 0 // the last one
	if to != nil {
		if n = *to; n < 1 {
			return badField("to", "%d is not the number of a checkpoint", n)
		}
	}
	m, err := s.o.Migrations.Rollback(c.Request().Context(), name, n, asker(c))
	if err != nil {
		return migrationProblem(err)
	}
	return respondMigration(c, http.StatusAccepted, m)
}
