package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"gopkg.in/yaml.v3"

	"github.com/fairlead/fairlead/apps/announce"
	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/northbound"
)

// Config is what serve runs with. Every field is a flag, a key of the YAML
// configuration (the flag's name) and an environment variable (FAIRLEAD_ and the name in
// upper case with underscores); a flag goes before the environment, the environment
// before the file.
type Config struct {
	OpenFlow string // address to listen on for switches
	HTTP     string // address to listen on for the REST API
	Data     string // directory of the store
	Stage    string // of switches never seen before: one of northbound.Stages

	TLSCert, TLSKey, TLSCA  string // southbound TLS: all three or none
	TLSMin                  string // least version of southbound TLS: 1.2 or 1.3
	TLSCRL                  string // certificates of TLSCA that are revoked; may be empty
	OpenFlowInsecure        bool   // switches on other machines may speak plain TCP
	HTTPTLSCert, HTTPTLSKey string // HTTPS: both or none
	TokenFile               string
	Insecure                bool // HTTP on other addresses than loopback without TLS or tokens

	// Packets a second taken from one switch, and from one port of it; 0: the
	// controller's default, below 0: no limit.
	PacketInRate, PacketInPortRate int

	Traffic northbound.TrafficDetail // of metrics

	Announce *announce.Options // of VIPs by BGP; nil: none
	// AnnounceEvery is the time between two announcements of a VIP to hosts and bridges;
	// 0: on change only.
	AnnounceEvery time.Duration

	Name      string // of this node
	LogLevel  slog.Level
	LogFormat string // text or json
}

const envPrefix = "FAIRLEAD_"

// serveFlags declares the flags of serve.
func serveFlags(fs *pflag.FlagSet) {
	fs.SortFlags = false
	fs.String("config", "", "YAML `FILE` with any of these flags as keys")
	fs.String("openflow", ":6653", "`ADDRESS` to listen on for switches")
	fs.String("http", "127.0.0.1:8080", "`ADDRESS` to listen on for the REST API")
	fs.String("data", "/var/lib/fairlead", "`DIR` of the store")
	fs.String("stage", "observe", "`STAGE` of switches never seen before: "+strings.Join(northbound.Stages, "|"))
	fs.String("tls-cert", "", "certificate `FILE` shown to switches")
	fs.String("tls-key", "", "key `FILE` of --tls-cert")
	fs.String("tls-ca", "", "`FILE` of the authority whose certificates switches must show")
	fs.String("tls-crl", "", "`FILE` of lists of revoked certificates of --tls-ca")
	fs.String("tls-min", "1.3", "least `VERSION` of TLS that switches may use: 1.2|1.3")
	fs.Bool("openflow-insecure", false, "let switches on other machines connect by plain TCP: nobody's identity is checked")
	fs.Int("packet-in-rate", 0, "packets a second taken from one switch (default 4000; -1: no limit)")
	fs.Int("packet-in-port-rate", 0, "packets a second taken from one port of a switch (default 1000; -1: no limit)")
	fs.String("http-tls-cert", "", "certificate `FILE` of the REST API")
	fs.String("http-tls-key", "", "key `FILE` of --http-tls-cert")
	fs.String("token-file", "", "`FILE` of the tokens that open the REST API, one a line, [name:]token")
	fs.Bool("insecure", false, "let --http listen on other addresses than loopback without TLS or tokens")
	fs.String("store", "bbolt", "kind of store: bbolt|etcd (etcd is not in this version)")
	fs.StringSlice("etcd", nil, "`URLS` of etcd, with commas between")
	fs.String("etcd-cert", "", "certificate `FILE` shown to etcd")
	fs.String("etcd-key", "", "key `FILE` of --etcd-cert")
	fs.String("etcd-ca", "", "`FILE` of etcd's authority")
	fs.String("name", "", "`NODE` name (default the host's name)")
	fs.String("traffic-metrics", string(northbound.TrafficMembers), "`DETAIL` of the metrics of traffic: none|vips|listeners|members")
	fs.Duration("announce-every", balancer.DefaultAnnounceEvery, "`TIME` between two announcements of a VIP to hosts and bridges, by gratuitous ARP and unsolicited neighbour advertisements; 0: when something changes only")
	announceFlags(fs)
	fs.String("log-level", "info", "debug|info|warn|error")
	fs.String("log-format", "text", "text|json")
}

func serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the controller", Args: cobra.NoArgs,
		Long: "Run the controller.\n\nEvery flag is also a key of the YAML configuration and an environment variable:\n" +
			"--tls-cert is tls-cert and FAIRLEAD_TLS_CERT. Flags go before the environment, the environment before the file.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			signal.Ignore(syscall.SIGPIPE) // the controller goes on when who reads its log does not
			cfg, err := loadConfig(cmd)
			if err != nil {
				return err
			}
			sockets, err := inheritedListeners()
			if err != nil {
				return refused(err)
			}
			defer sockets.close()
			if l := sockets[httpSocket]; l != nil && l.Addr().Network() == "tcp" {
				cfg.HTTP = l.Addr().String() // and not what it would be
				if err := cfg.check(); err != nil {
					return err
				}
			}
			if cfg.exposed() {
				cfg.logger(cmd.ErrOrStderr()).Error("INSECURE: the REST API is open to the network without TLS or without tokens",
					slog.String("http", cfg.HTTP), slog.Bool("tls", cfg.HTTPTLSCert != ""), slog.Bool("tokens", cfg.TokenFile != ""))
			}
			for {
				if err := serve(cmd.Context(), cfg, sockets); !errors.Is(err, errRestored) {
					return refused(err)
				}
			}
		},
	}
	serveFlags(cmd.Flags())
	return cmd
}

// loadConfig puts the configuration of serve together from its flags, the environment
// and the file, and checks it. Errors name the flag, variable or key.
func loadConfig(cmd *cobra.Command) (Config, error) {
	fs := cmd.Flags()
	if err := setFromEnv(fs.Lookup("config")); err != nil {
		return Config{}, err
	}
	file := map[string]string{}
	if path := fs.Lookup("config").Value.String(); path != "" {
		var err error
		if file, err = readConfigFile(path, fs); err != nil {
			return Config{}, fmt.Errorf("configuration %s: %w", path, err)
		}
	}
	var errs []error
	fs.VisitAll(func(f *pflag.Flag) {
		if f.Changed || f.Name == "config" || f.Name == "help" {
			return
		}
		if v, ok := file[f.Name]; ok {
			if err := f.Value.Set(v); err != nil {
				errs = append(errs, fmt.Errorf("configuration %s: %s: %w", fs.Lookup("config").Value, f.Name, err))
			}
		}
		errs = append(errs, setFromEnv(f))
	})
	if err := errors.Join(errs...); err != nil {
		return Config{}, err
	}

	get := func(name string) string { return fs.Lookup(name).Value.String() }
	c := Config{
		OpenFlow: get("openflow"), HTTP: get("http"), Data: get("data"), Stage: get("stage"),
		TLSCert: get("tls-cert"), TLSKey: get("tls-key"), TLSCA: get("tls-ca"),
		HTTPTLSCert: get("http-tls-cert"), HTTPTLSKey: get("http-tls-key"),
		TLSMin: get("tls-min"), TLSCRL: get("tls-crl"), OpenFlowInsecure: get("openflow-insecure") == "true",
		TokenFile: get("token-file"), Insecure: get("insecure") == "true",
		Name: get("name"), LogFormat: get("log-format"),
	}
	c.PacketInRate, _ = fs.GetInt("packet-in-rate") // its Set has parsed it
	c.PacketInPortRate, _ = fs.GetInt("packet-in-port-rate")
	if err := c.LogLevel.UnmarshalText([]byte(get("log-level"))); err != nil ||
		!slices.Contains([]string{"debug", "info", "warn", "error"}, get("log-level")) {
		return Config{}, fmt.Errorf("log-level: %q is none of debug, info, warn, error", get("log-level"))
	}
	if s := get("store"); s != "bbolt" {
		return Config{}, fmt.Errorf("store: %q is not in this version: bbolt is", s)
	}
	for _, name := range []string{"etcd-cert", "etcd-key", "etcd-ca"} {
		if get(name) != "" {
			return Config{}, fmt.Errorf("%s: is for store etcd, which is not in this version", name)
		}
	}
	if urls, _ := fs.GetStringSlice("etcd"); len(urls) > 0 {
		return Config{}, errors.New("etcd: is for store etcd, which is not in this version")
	}
	if c.Name == "" {
		c.Name, _ = os.Hostname()
	}
	var err error
	if c.Traffic, err = northbound.ParseTrafficDetail(get("traffic-metrics")); err != nil {
		return Config{}, fmt.Errorf("traffic-metrics: %w", err)
	}
	c.AnnounceEvery, _ = fs.GetDuration("announce-every") // its Set has parsed it
	if d := c.AnnounceEvery; d != 0 && (d < time.Second || d > time.Hour) {
		return Config{}, fmt.Errorf("announce-every: %v is neither 0 nor between 1s and 1h", d)
	}
	if c.Announce, err = announceOptions(fs); err != nil {
		return Config{}, err
	}
	return c, c.check()
}

// setFromEnv sets a flag that the command line did not from its variable.
func setFromEnv(f *pflag.Flag) error {
	if f.Changed {
		return nil
	}
	name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
	v := os.Getenv(name)
	if v == "" {
		return nil
	}
	if s, ok := f.Value.(pflag.SliceValue); ok {
		_ = s.Replace(nil) // Set would append to what the file gave
	}
	if err := f.Value.Set(v); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// readConfigFile reads a YAML mapping of flags to scalars, or to a list of scalars
// where the flag is a list.
func readConfigFile(path string, fs *pflag.FlagSet) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err == io.EOF {
		return nil, errors.New("there is nothing in it")
	} else if err != nil {
		return nil, err
	}
	if err := dec.Decode(&more); err != io.EOF {
		return nil, errors.New("there is more than one document in it")
	}
	if doc.Kind != yaml.DocumentNode || doc.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("line %d: it is not a mapping of keys to values", doc.Line)
	}
	values := map[string]string{}
	for pairs := doc.Content[0].Content; len(pairs) > 0; pairs = pairs[2:] {
		key, value := pairs[0], pairs[1]
		flag := fs.Lookup(key.Value)
		if flag == nil || key.Value == "config" || key.Value == "help" {
			return nil, fmt.Errorf("line %d: unknown key %q", key.Line, key.Value)
		}
		if _, ok := values[key.Value]; ok {
			return nil, fmt.Errorf("line %d: key %q is there twice", key.Line, key.Value)
		}
		scalars := []*yaml.Node{value}
		if _, list := flag.Value.(pflag.SliceValue); list && value.Kind == yaml.SequenceNode {
			scalars = value.Content
		}
		var parts []string
		for _, n := range scalars {
			if n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
				return nil, fmt.Errorf("line %d: key %q has no value that is a text, a number or a truth", n.Line, key.Value)
			}
			parts = append(parts, n.Value)
		}
		values[key.Value] = strings.Join(parts, ",")
	}
	return values, nil
}

// check refuses what cannot work or must not be.
func (c Config) check() error {
	for _, a := range []struct{ name, addr string }{{"openflow", c.OpenFlow}, {"http", c.HTTP}} {
		_, port, err := net.SplitHostPort(a.addr)
		if err != nil {
			return fmt.Errorf("%s: %q is not an address with a port: %w", a.name, a.addr, err)
		}
		if _, err := strconv.ParseUint(port, 10, 16); err != nil {
			return fmt.Errorf("%s: %q is not a port number", a.name, port)
		}
	}
	switch {
	case c.Data == "":
		return errors.New("data: is needed")
	case !slices.Contains(northbound.Stages, c.Stage):
		return fmt.Errorf("stage: %q is none of %s", c.Stage, strings.Join(northbound.Stages, ", "))
	case (c.TLSCert == "") != (c.TLSKey == "") || (c.TLSCert == "") != (c.TLSCA == ""):
		return errors.New("tls-cert, tls-key and tls-ca go together")
	case c.TLSCRL != "" && c.TLSCert == "":
		return errors.New("tls-crl: is for tls-cert, tls-key and tls-ca")
	case c.TLSMin != "1.2" && c.TLSMin != "1.3":
		return fmt.Errorf("tls-min: %q is none of 1.2, 1.3", c.TLSMin)
	case c.TLSCert != "" && c.OpenFlowInsecure:
		return errors.New("openflow-insecure: is for plain TCP, and tls-cert asks for TLS")
	case (c.HTTPTLSCert == "") != (c.HTTPTLSKey == ""):
		return errors.New("http-tls-cert and http-tls-key go together")
	case c.LogFormat != "text" && c.LogFormat != "json":
		return fmt.Errorf("log-format: %q is none of text, json", c.LogFormat)
	case c.exposed() && !c.Insecure:
		return fmt.Errorf("http: %s is not a loopback address: it needs http-tls-cert, http-tls-key and token-file, or insecure", c.HTTP)
	}
	return nil
}

// exposed says whether the REST API can be reached from other machines without TLS or
// without a token.
func (c Config) exposed() bool {
	host, _, _ := net.SplitHostPort(c.HTTP)
	if host == "localhost" {
		return false
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Unmap().IsLoopback() {
		return false
	}
	return c.HTTPTLSCert == "" || c.TokenFile == ""
}

// logger returns a logger of the configured level and format that writes to w.
func (c Config) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.LogLevel}
	if c.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// tokens reads the token file; without one nobody needs a token.
func (c Config) tokens() (northbound.Tokens, error) {
	if c.TokenFile == "" {
		return northbound.Tokens{}, nil
	}
	f, err := os.Open(c.TokenFile)
	if err != nil {
		return northbound.Tokens{}, err
	}
	defer f.Close()
	t, err := northbound.ParseTokens(f)
	if err != nil {
		return t, fmt.Errorf("%s: %w", c.TokenFile, err)
	}
	return t, nil
}

// southboundTLS returns what switches are spoken to with: nil is plain TCP. Switches
// must show a certificate of the configured authority; recheck is that of controller.Options.
func (c Config) southboundTLS(log *slog.Logger) (conf *tls.Config, recheck func(tls.ConnectionState) error, err error) {
	if c.TLSCert == "" {
		return nil, nil, nil
	}
	least := uint16(tls.VersionTLS13)
	if c.TLSMin == "1.2" {
		least = tls.VersionTLS12
	}
	f := &tlsFiles{cert: c.TLSCert, key: c.TLSKey, ca: c.TLSCA, crl: c.TLSCRL, least: least, log: log}
	conf, err = f.config()
	return conf, f.recheck, err
}

// listenHTTP opens the REST API's listener, unless it was inherited, and adds TLS when
// that is configured.
func (c Config) listenHTTP(sockets sockets, log *slog.Logger) (net.Listener, error) {
	var conf *tls.Config
	if c.HTTPTLSCert != "" {
		var err error
		f := &tlsFiles{cert: c.HTTPTLSCert, key: c.HTTPTLSKey, least: tls.VersionTLS12, log: log}
		if conf, err = f.config(); err != nil {
			return nil, err
		}
	}
	l, err := sockets.listen(httpSocket, c.HTTP)
	if err != nil {
		return nil, err
	}
	if conf != nil {
		l = tls.NewListener(l, conf)
	}
	return l, nil
}
