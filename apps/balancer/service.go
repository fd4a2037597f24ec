package balancer

import (
	"context"
	"errors"

	"github.com/fairlead/fairlead/controller"
)

// Service is the balancer as the REST API sees it: the intents together with what
// the network has made of them. It is safe for concurrent use.
type Service struct {
	*Intents
	app  *App
	core *controller.Controller

	traffic tally
}

// NewService joins the intents with the app that runs on a controller.
func NewService(in *Intents, app *App, core *controller.Controller) *Service {
	return &Service{Intents: in, app: app, core: core}
}

// Get returns a VIP with its status.
func (s *Service) Get(ctx context.Context, name string) (VIP, error) {
	rec, err := s.Intents.Get(ctx, name)
	if err != nil {
		return VIP{}, err
	}
	return s.withStatus(ctx, rec)
}

// List returns up to limit VIPs after a name, with their status.
func (s *Service) List(ctx context.Context, after string, limit int) ([]VIP, string, error) {
	recs, next, err := s.Intents.List(ctx, after, limit)
	if err != nil {
		return nil, "", err
	}
	vips := make([]VIP, 0, len(recs))
	for _, rec := range recs {
		v, err := s.withStatus(ctx, rec)
		if err != nil {
			return nil, "", err
		}
		vips = append(vips, v)
	}
	return vips, next, nil
}

// Put creates or replaces a VIP and returns it with its status. Members with an
// interface and no address get that of what is attached there.
func (s *Service) Put(ctx context.Context, v VIP, cond Condition) (VIP, bool, error) {
	v, err := s.fill(ctx, v)
	if err != nil {
		return VIP{}, false, err
	}
	rec, created, err := s.Intents.Put(ctx, v, cond)
	if err != nil {
		return VIP{}, false, err
	}
	v, err = s.withStatus(ctx, rec)
	return v, created, err
}

// PutMember creates or replaces a member and returns its VIP with its status.
func (s *Service) PutMember(ctx context.Context, vip string, l ListenerKey, m Member, cond Condition) (VIP, bool, error) {
	rec, created, err := s.Intents.PutMember(ctx, vip, l, m, cond)
	if err != nil {
		return VIP{}, false, err
	}
	v, err := s.withStatus(ctx, rec)
	return v, created, err
}

// DeleteMember removes a member and returns its VIP with its status.
func (s *Service) DeleteMember(ctx context.Context, vip string, l ListenerKey, m MemberKey, cond Condition) (VIP, error) {
	if err := s.Intents.DeleteMember(ctx, vip, l, m, cond); err != nil {
		return VIP{}, err
	}
	return s.Get(ctx, vip)
}

// withStatus returns the document of a record with the network's view of it. The
// record itself is shared and stays as it is.
func (s *Service) withStatus(ctx context.Context, rec Record) (VIP, error) {
	v := rec.VIP
	var st Status
	var ok bool
	err := s.core.Do(ctx, func(c *controller.Context) { st, ok = s.app.Status(c, v.Name) })
	if err != nil {
		return VIP{}, err
	}
	if !ok || st.Deleted {
		return v, nil // it was deleted meanwhile
	}
	v.Status = &st.VIP
	listeners := make([]Listener, len(v.Listeners))
	for i, l := range v.Listeners {
		members := make([]Member, len(l.Pool.Members))
		for j, m := range l.Pool.Members {
			if ms, ok := st.Members[l.Key()][m.Key()]; ok {
				m.Status = &ms
			}
			members[j] = m
		}
		l.Pool.Members = members
		l.Status = &ListenerStatus{Slots: len(rec.Listeners[i].Slots.Home), QuantisationError: QuantisationError(rec, i)}
		listeners[i] = l
	}
	v.Listeners = listeners
	return v, nil
}

// Wait returns nil when every switch that serves VIPs has acknowledged this
// generation of a VIP, or a later one, or has refused it. Generation 0 stands for
// a deleted VIP: until no switch holds anything of it. The error is that of ctx.
func (s *Service) Wait(ctx context.Context, name string, generation uint64) error {
	for {
		notices, cancel := s.core.Subscribe(256)
		err := s.wait(ctx, name, generation, notices)
		cancel()
		if !errors.Is(err, errLagged) {
			return err
		}
	}
}

var errLagged = errors.New("balancer: missed notices")

func (s *Service) wait(ctx context.Context, name string, generation uint64, notices <-chan controller.Notice) error {
	for {
		var st Status
		var known bool
		if err := s.core.Do(ctx, func(c *controller.Context) { st, known = s.app.Status(c, name) }); err != nil {
			return err
		}
		switch {
		case !known, len(st.VIP.Switches) == 0:
			return nil
		case st.Deleted != (generation == 0): // it was created again, or deleted
			return nil
		case !st.Deleted && (st.Generation > generation || st.VIP.Provisioning != ProvisioningPending):
			return nil
		}
		for waiting := true; waiting; {
			select {
			case n, ok := <-notices:
				if !ok {
					return errLagged
				}
				waiting = n.Kind != "vip" && n.Kind != "switch"
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
