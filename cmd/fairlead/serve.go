package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/discovery"
	"github.com/fairlead/fairlead/apps/forwarding"
	"github.com/fairlead/fairlead/apps/health"
	"github.com/fairlead/fairlead/apps/migration"
	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/northbound"
	"github.com/fairlead/fairlead/topology"
)

// edgeDelay is how long a port that came up is kept out of floods and of learning:
// long enough for probes to show whether it leads to another switch.
const edgeDelay = 750 * time.Millisecond

// newHostsAt is how many hosts a second may be new on one port, a second's worth at
// once. Each changes every managed switch: at ten times that rate Open vSwitch was seen
// to lose a tenth of the packets of others.
const newHostsAt = 100

// moveEvery is how often a host may move between two ports that are both up. Moves of
// machines are rarer, and usually take their old port down.
const moveEvery = 5 * time.Second

// beyondTTL is how long hosts are believed to be behind a switch that was found between
// them and their port, until they are seen there. Members are asked for meanwhile.
const beyondTTL = 10 * time.Second

// serve runs the controller until ctx ends, or until a backup was restored
// (errRestored). The switches are left as they are.
func serve(ctx context.Context, cfg Config, sockets sockets) (err error) {
	log, end := cfg.queuedLogger(os.Stderr)
	defer end()
	growHeap()
	if err := noCoreDumps(); err != nil {
		log.Warn("core dumps stay possible", "error", err)
	}
	tokens, err := cfg.tokens()
	if err != nil {
		return err
	}
	conf, recheck, err := cfg.southboundTLS(log)
	if err != nil {
		return err
	}
	db, err := store.Open(cfg.Data, store.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()

	// All that is stored is read before a switch may connect: nothing is written to
	// switches from less than the whole desired state.
	state := state{db}
	graph := topology.New(topology.Options{EdgeDelay: edgeDelay, NewHostsAt: newHostsAt, MoveEvery: moveEvery, Claims: true, BeyondTTL: beyondTTL})
	saved, err := state.topology()
	if err != nil {
		return err
	}
	found := discovery.New(lldpKey(db), rand.Reader, state.saveTopology)
	if err := found.Restore(graph, saved, time.Now()); err != nil {
		log.Warn("the network has to be discovered anew", "error", err)
	}
	var core *controller.Controller
	intents := balancer.NewIntents(db, time.Now, func(c balancer.Change) {
		// An error means that the core has stopped; the next start reads the intent.
		_ = core.Post(context.Background(), c)
	})
	records, err := intents.All(ctx)
	if err != nil {
		return err
	}
	vips := balancer.NewApp(records, intents.SaveOwners)
	found.Except(vips.Virtual)
	vips.SetWatch(watch)
	vips.AnnounceEvery(cfg.AnnounceEvery)
	probes := health.New(log, tell)
	measured := reachability.New()
	stage, err := parseStage(cfg.Stage)
	if err != nil {
		return err
	}
	core, err = controller.New(ctx, controller.Options{
		Store: state, Graph: graph, Cluster: db.ClusterID(), DefaultStage: stage, Log: log,
		Bindings: state, Recheck: recheck, AllowPlain: cfg.OpenFlowInsecure,
		PacketInRate: cfg.PacketInRate, PacketInPortRate: cfg.PacketInPortRate,
		Apps: []controller.App{
			found,
			forwarding.New(graph),
			vips,
			probes,
			measured,
		},
	})
	if err != nil {
		return err
	}

	openflow, err := sockets.listen(openflowSocket, cfg.OpenFlow)
	if err != nil {
		return fmt.Errorf("openflow: %w", err)
	}
	defer openflow.Close()
	if conf != nil {
		openflow = tls.NewListener(openflow, conf)
	}
	http, err := cfg.listenHTTP(sockets, log)
	if err != nil {
		return fmt.Errorf("http: %w", err)
	}
	defer http.Close()
	backups := backups{db: db, dir: cfg.Data, restored: make(chan struct{}, 1)}
	hosts, err := ovsdb.New(ctx, ovsdb.Options{
		Store: adoptions{db}, Switches: switches{core: core, fresh: stage}, Cluster: db.ClusterID(), Log: log, TLS: cfg.ovsdbTLS(log), EdgeDelay: edgeDelay,
		Self: func(local netip.Addr) (string, error) { return selfTarget(openflow.Addr(), conf != nil, local) },
		// An error means that the core has stopped.
		Attached: func(ctx context.Context, a ovsdb.Attachments) { _ = core.Post(ctx, attachmentsOf(a)) },
	})
	if err != nil {
		return err
	}
	service := balancer.NewService(intents, vips, core)
	measurer := reachability.NewService(measured, core, measuredVIPs(service), accessPorts(hosts), rand.Reader)
	moves, err := migration.New(ctx, migration.Options{
		Store: migrationStore{db}, Network: migrated{core, switches{core: core, fresh: stage}}, Bridges: hosts,
		VIPs: migratedVIPs{service}, Prober: prober{measurer}, Log: log,
	})
	if err != nil {
		return err
	}
	api := northbound.New(northbound.Options{
		VIPs:     service,
		Network:  network{core: core, interfaces: hosts.Interfaces},
		OVS:      hosts,
		Events:   events{core},
		Probes:   probesView(core, probes),
		Presence: presenceView(core, vips),
		Backups:  backups,
		Ready:    core.Held,
		Tokens:   tokens,
		Log:      log,
		Version:  programVersion(),

		Explainer:  service,
		Migrations: moves,
		Measurer:   measurer,
		Traffic:    cfg.Traffic,
	})

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return core.Run(ctx, openflow) })
	g.Go(func() error { return probes.Run(ctx, core.Post) })
	g.Go(func() error { return hosts.Run(ctx) })
	g.Go(func() error { return moves.Run(ctx) })
	g.Go(func() error { return api.Run(ctx, http) })
	g.Go(func() error { return backups.wait(ctx) })
	if cfg.Announce != nil {
		g.Go(func() error { return runAnnounce(ctx, *cfg.Announce, state, vips, core, log) })
	}
	log.Info("ready", slog.String("openflow", openflow.Addr().String()), slog.Bool("tls", conf != nil),
		slog.String("http", http.Addr().String()), slog.Int("vips", len(records)), slog.String("stage", cfg.Stage), slog.String("name", cfg.Name))
	// The one line on standard output, for those who wait for it.
	fmt.Printf("fairlead ready openflow=%s http=%s\n", openflow.Addr(), http.Addr())
	return g.Wait()
}

func lldpKey(db *store.Store) []byte {
	key := db.LLDPKey()
	return key[:]
}
