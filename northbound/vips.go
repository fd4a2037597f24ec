package northbound

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/fairlead/fairlead/apps/balancer"
)

// VIPs is where virtual IPs are kept. Errors are those of package balancer; a write
// has become durable when it returns.
type VIPs interface {
	// Get returns a VIP with its status.
	Get(ctx context.Context, name string) (balancer.VIP, error)
	// List returns up to limit VIPs whose names follow after, in the order of their
	// names, and the name to continue after: empty when there are no more.
	List(ctx context.Context, after string, limit int) (vips []balancer.VIP, next string, err error)
	// Put creates or replaces the VIP v.Name and returns it as it is now.
	Put(ctx context.Context, v balancer.VIP, cond balancer.Condition) (now balancer.VIP, created bool, err error)
	// Delete removes a VIP.
	Delete(ctx context.Context, name string, cond balancer.Condition) error
	// PutMember creates or replaces one member and returns the VIP as it is now. The
	// condition is about the VIP's entity tag (and, with IfNoneMatch, that there is no
	// such member).
	PutMember(ctx context.Context, vip string, l balancer.ListenerKey, m balancer.Member, cond balancer.Condition) (now balancer.VIP, created bool, err error)
	// DeleteMember removes one member and returns the VIP as it is now.
	DeleteMember(ctx context.Context, vip string, l balancer.ListenerKey, m balancer.MemberKey, cond balancer.Condition) (now balancer.VIP, err error)
	// Stats counts the traffic of a VIP, by counters that are at most that old;
	// balancer.StatsAge for 0.
	Stats(ctx context.Context, name string, age time.Duration) (balancer.Stats, error)
	// AllStats counts the traffic of every VIP, in the order of their names.
	AllStats(ctx context.Context, age time.Duration) ([]balancer.Stats, error)
	// Wait returns nil when every switch concerned has acknowledged that generation of
	// the VIP, or a later one, or has failed to take it. Generation 0 stands for a
	// deleted VIP: until no switch holds anything of it. The error is that of ctx.
	Wait(ctx context.Context, name string, generation uint64) error
}

func (s *Server) listVIPs(c echo.Context) error {
	after, limit, err := pageParams(c)
	if err != nil {
		return err
	}
	vips, next, err := s.o.VIPs.List(c.Request().Context(), after, limit)
	if err != nil {
		return err
	}
	if vips == nil {
		vips = []balancer.VIP{}
	}
	return respond(c, http.StatusOK, Page[balancer.VIP]{Items: vips, Next: next})
}

func (s *Server) getVIP(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	v, err := s.o.VIPs.Get(c.Request().Context(), name)
	if err != nil {
		return err
	}
	return respondVIP(c, http.StatusOK, v)
}

func (s *Server) putVIP(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	cond, wait, err := writeParams(c)
	if err != nil {
		return err
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	v, err := balancer.DecodeVIP(name, body)
	if err != nil {
		return err
	}
	v, created, err := s.o.VIPs.Put(c.Request().Context(), v, cond)
	if err != nil {
		return err
	}
	v = s.settled(c, wait, v)
	if !created {
		return respondVIP(c, http.StatusOK, v)
	}
	c.Response().Header().Set("Location", "/v1/vips/"+v.Name)
	return respondVIP(c, http.StatusCreated, v)
}

func (s *Server) deleteVIP(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	cond, wait, err := writeParams(c)
	if err != nil {
		return err
	}
	if err := s.o.VIPs.Delete(c.Request().Context(), name, cond); err != nil {
		return err
	}
	s.wait(c, wait, func(ctx context.Context) error { return s.o.VIPs.Wait(ctx, name, 0) })
	return c.NoContent(http.StatusNoContent)
}

func (s *Server) getVIPStats(c echo.Context) error {
	name, err := pathParam(c, "name")
	if err != nil {
		return err
	}
	age, err := ageParam(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Request().Context(), s.limits.readSwitch)
	defer cancel()
	st, err := s.o.VIPs.Stats(ctx, name, age)
	if err != nil {
		return err
	}
	return respond(c, http.StatusOK, st)
}

// memberPath is the place of one member.
type memberPath struct {
	vip      string
	listener balancer.ListenerKey
	member   balancer.MemberKey
}

// URL is the canonical path of the member.
func (p memberPath) URL() string {
	return "/v1/vips/" + url.PathEscape(p.vip) + "/listeners/" + p.listener.String() + "/members/" + url.PathEscape(p.member.String())
}

// find returns the member in a VIP.
func (p memberPath) find(v balancer.VIP) (balancer.Member, error) {
	l := v.Listener(p.listener)
	if l < 0 {
		return balancer.Member{}, fmt.Errorf("VIP %s has no listener %s: %w", p.vip, p.listener, ErrNotFound)
	}
	pool := v.Listeners[l].Pool
	m := pool.Member(p.member)
	if m < 0 {
		return balancer.Member{}, fmt.Errorf("listener %s of VIP %s has no member %s: %w", p.listener, p.vip, p.member, ErrNotFound)
	}
	return pool.Members[m], nil
}

func memberParams(c echo.Context) (p memberPath, err error) {
	if p.vip, err = pathParam(c, "name"); err != nil {
		return p, err
	}
	if p.listener, err = listenerParam(c); err != nil {
		return p, err
	}
	p.member, err = memberParam(c)
	return p, err
}

func (s *Server) getMember(c echo.Context) error {
	p, err := memberParams(c)
	if err != nil {
		return err
	}
	v, err := s.o.VIPs.Get(c.Request().Context(), p.vip)
	if err != nil {
		return err
	}
	return respondMember(c, http.StatusOK, p, v)
}

func (s *Server) putMember(c echo.Context) error {
	p, err := memberParams(c)
	if err != nil {
		return err
	}
	cond, wait, err := writeParams(c)
	if err != nil {
		return err
	}
	body, err := readBody(c)
	if err != nil {
		return err
	}
	m, err := balancer.DecodeMember(p.member, body)
	if err != nil {
		return err
	}
	v, created, err := s.o.VIPs.PutMember(c.Request().Context(), p.vip, p.listener, m, cond)
	if err != nil {
		return err
	}
	if now := s.settled(c, wait, v); hasMember(now, p) {
		v = now
	}
	if !created {
		return respondMember(c, http.StatusOK, p, v)
	}
	c.Response().Header().Set("Location", p.URL())
	return respondMember(c, http.StatusCreated, p, v)
}

// hasMember says whether a concurrent write has left the member in place.
func hasMember(v balancer.VIP, p memberPath) bool {
	_, err := p.find(v)
	return err == nil
}

func (s *Server) deleteMember(c echo.Context) error {
	p, err := memberParams(c)
	if err != nil {
		return err
	}
	cond, wait, err := writeParams(c)
	if err != nil {
		return err
	}
	v, err := s.o.VIPs.DeleteMember(c.Request().Context(), p.vip, p.listener, p.member, cond)
	if err != nil {
		return err
	}
	s.wait(c, wait, func(ctx context.Context) error { return s.o.VIPs.Wait(ctx, p.vip, v.Generation) })
	return c.NoContent(http.StatusNoContent)
}

func writeParams(c echo.Context) (cond balancer.Condition, wait time.Duration, err error) {
	if cond, err = condition(c); err != nil {
		return cond, 0, err
	}
	wait, err = waitParam(c)
	return cond, wait, err
}

// settled waits for the switches, then reads the VIP's status afresh. When that
// cannot be, the answer is the VIP as it was written: it is durable all the same.
func (s *Server) settled(c echo.Context, d time.Duration, v balancer.VIP) balancer.VIP {
	if d == 0 {
		return v
	}
	s.wait(c, d, func(ctx context.Context) error { return s.o.VIPs.Wait(ctx, v.Name, v.Generation) })
	now, err := s.o.VIPs.Get(c.Request().Context(), v.Name)
	if err != nil || now.ID != v.ID {
		return v // deleted meanwhile
	}
	return now
}

// wait runs f for at most d, and less when the server stops. That the time is up is
// no failure: the answer's status says how far the switches are.
func (s *Server) wait(c echo.Context, d time.Duration, f func(context.Context) error) {
	if d == 0 {
		return
	}
	rc := http.NewResponseController(c.Response())
	_ = rc.SetReadDeadline(time.Time{}) // or the wait would end with the time for the body
	_ = rc.SetWriteDeadline(time.Now().Add(d + s.limits.write))
	ctx, cancel := context.WithTimeout(c.Request().Context(), d)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	if err := f(ctx); err != nil && ctx.Err() == nil {
		s.o.Log.Warn("wait failed", slog.String("path", c.Request().URL.Path), slog.Any("err", err))
	}
}

func respondVIP(c echo.Context, status int, v balancer.VIP) error {
	c.Response().Header().Set("ETag", v.ETag())
	return respond(c, status, v)
}

// respondMember answers with one member of v. Its entity tag is the VIP's: the
// members of a VIP are one document.
func respondMember(c echo.Context, status int, p memberPath, v balancer.VIP) error {
	m, err := p.find(v)
	if err != nil {
		return err
	}
	c.Response().Header().Set("ETag", v.ETag())
	return respond(c, status, m)
}
