package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

// load parses flags as serve does; file is the text of --config, if any.
func load(t *testing.T, file string, args ...string) (Config, error) {
	t.Helper()
	if file != "" {
		path := filepath.Join(t.TempDir(), "fairlead.yaml")
		require.NoError(t, os.WriteFile(path, []byte(file), 0o600))
		args = append(args, "--config", path)
	}
	cmd := serveCommand()
	if err := cmd.ParseFlags(args); err != nil {
		return Config{}, err
	}
	return loadConfig(cmd)
}

func TestConfigDefaults(t *testing.T) {
	c, err := load(t, "")
	require.NoError(t, err)
	require.Equal(t, ":6653", c.OpenFlow)
	require.Equal(t, "127.0.0.1:8080", c.HTTP)
	require.Equal(t, "observe", c.Stage)
	require.Equal(t, slog.LevelInfo, c.LogLevel)
	require.Equal(t, "text", c.LogFormat)
	require.NotEmpty(t, c.Name)
	require.NotEmpty(t, c.Data)
	require.False(t, c.exposed())
}

// The contract names these flags.
func TestConfigHasTheFlagsOfTheContract(t *testing.T) {
	fs := serveCommand().Flags()
	for _, name := range strings.Fields("config openflow http data stage tls-cert tls-key tls-ca http-tls-cert http-tls-key token-file " +
		"store etcd etcd-cert etcd-key etcd-ca name log-level log-format insecure") {
		require.NotNil(t, fs.Lookup(name), name)
	}
}

func TestConfigPrecedence(t *testing.T) {
	const file = "openflow: 127.0.0.1:1\nhttp: 127.0.0.1:1\nstage: steer\nlog-level: debug\ninsecure: true\nname: file\n"
	t.Setenv("FAIRLEAD_OPENFLOW", "127.0.0.1:2")
	t.Setenv("FAIRLEAD_HTTP", "127.0.0.1:2")
	t.Setenv("FAIRLEAD_INSECURE", "false")
	t.Setenv("FAIRLEAD_NAME", "")
	c, err := load(t, file, "--openflow", "127.0.0.1:3")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:3", c.OpenFlow, "the flag")
	require.Equal(t, "127.0.0.1:2", c.HTTP, "the environment")
	require.Equal(t, "steer", c.Stage, "the file")
	require.Equal(t, slog.LevelDebug, c.LogLevel)
	require.False(t, c.Insecure)
	require.Equal(t, "file", c.Name, "an empty variable is none")

	// A flag counts even when it says what the default is.
	c, err = load(t, file, "--stage", "observe")
	require.NoError(t, err)
	require.Equal(t, "observe", c.Stage)

	// The file itself may be named by the environment.
	path := filepath.Join(t.TempDir(), "c.yaml")
	require.NoError(t, os.WriteFile(path, []byte("stage: managed\n"), 0o600))
	t.Setenv("FAIRLEAD_CONFIG", path)
	c, err = load(t, "")
	require.NoError(t, err)
	require.Equal(t, "managed", c.Stage)
}

// Every flag but config is a key and a variable.
func TestConfigEveryFlagEverywhere(t *testing.T) {
	values := map[string]string{"log-level": "warn", "log-format": "json", "stage": "steer", "store": "bbolt", "insecure": "true",
		"openflow-insecure": "true", "tls-min": "1.2", "packet-in-rate": "7", "packet-in-port-rate": "7", "traffic-metrics": "vips",
		"bgp-asn": "0", "announce-every": "7s", "openflow": "127.0.0.1:7", "http": "127.0.0.1:8"}
	serveCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "config" {
			return
		}
		v := values[f.Name]
		if v == "" {
			v = "some"
		}
		fromFile, fileErr := load(t, f.Name+": "+v+"\n")
		t.Setenv("FAIRLEAD_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")), v)
		fromEnv, envErr := load(t, "")
		fromFlag, flagErr := load(t, "", "--"+f.Name+"="+v)
		t.Setenv("FAIRLEAD_"+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_")), "")
		// Some make no sense alone; then all three say so.
		require.Equal(t, flagErr, fileErr, f.Name)
		require.Equal(t, flagErr, envErr, f.Name)
		require.Equal(t, fromFlag, fromFile, f.Name)
		require.Equal(t, fromFlag, fromEnv, f.Name)
	})
}

func TestConfigErrors(t *testing.T) {
	for _, tc := range []struct {
		file string
		args string
		says string
	}{
		{file: "stage: steer\nopenflo: :1\n", says: `unknown key "openflo"`},
		{file: "config: other.yaml\n", says: `unknown key "config"`},
		{file: "help: true\n", says: `unknown key "help"`},
		{file: "stage: steer\nstage: steer\n", says: `"stage" is there twice`},
		{file: "stage: [steer]\n", says: `"stage" has no value`},
		{file: "stage: {a: b}\n", says: `"stage" has no value`},
		{file: "stage:\n", says: `"stage" has no value`},
		{file: "stage: ste", says: `stage: "ste" is none of`},      // half written
		{file: "http: 127.0.0.1:8080\nsta", says: "line"},          // half written
		{file: "etcd: [http://a:1, http", says: "line"},            // half written
		{file: "openflow: \":66", says: "found unexpected end of"}, // half written
		{file: "sta", says: "not a mapping"},
		{file: "# nothing\n", says: "nothing in it"},
		{file: "- stage\n", says: "not a mapping"},
		{file: "stage: steer\n---\nstage: steer\n", says: "more than one document"},
		{file: "insecure: perhaps\n", says: "insecure"},
		{file: "\tstage: steer\n", says: "character that cannot start"},
		{args: "--config /does/not/exist", says: "/does/not/exist"},
		{args: "--stage fly", says: "stage"},
		{args: "--announce-every 60", says: "announce-every"},
		{args: "--announce-every 10ms", says: "announce-every"},
		{args: "--announce-every 2h", says: "announce-every"},
		{args: "--announce-every -1s", says: "announce-every"},
		{args: "--bgp-asn 4294967296", says: "bgp-asn"},
		{args: "--bgp-peer 10.0.0.1@1", says: "bgp-peer: needs bgp-asn"},
		{args: "--bgp-asn 1", says: "bgp-router-id"},
		{args: "--bgp-asn 1 --bgp-router-id 10.0.0.1", says: "bgp-peer"},
		{args: "--bgp-asn 1 --bgp-router-id 10.0.0.1 --bgp-peer 10.0.0.2", says: "bgp-peer"},
		{args: "--bgp-asn 1 --bgp-router-id 10.0.0.1 --bgp-peer 10.0.0.2@2", says: "bgp-next-hop"},
		{args: "--bgp-asn 1 --bgp-router-id 10.0.0.1 --bgp-peer 10.0.0.2@2 --bgp-next-hop 10.0.0.3,10.0.0.4", says: "bgp-next-hop"},
		{args: "--bgp-asn 1 --bgp-router-id 10.0.0.1 --bgp-peer 10.0.0.2@2 --bgp-next-hop 10.0.0.3 --bgp-community 7", says: "bgp-community"},
		{args: "--openflow 6653", says: "openflow"},
		{args: "--openflow :65536", says: "openflow"},
		{args: "--http nowhere", says: "http"},
		{args: "--http 127.0.0.1:http", says: "http"},
		{args: "--log-level loud", says: "log-level"},
		{args: "--log-level INFO+2", says: "log-level"},
		{args: "--log-format xml", says: "log-format"},
		{args: "--tls-cert a --tls-key b", says: "tls-ca"},
		{args: "--tls-ca a", says: "tls-cert"},
		{args: "--http-tls-cert a", says: "http-tls-key"},
		{args: "--store etcd", says: "not in this version"},
		{args: "--store files", says: "not in this version"},
		{args: "--etcd http://127.0.0.1:2379", says: "not in this version"},
		{args: "--etcd-ca x", says: "not in this version"},
		{args: "--data=", says: "data"},
		{args: "--http :8080", says: "not a loopback address"},
		{args: "--http 0.0.0.0:8080", says: "not a loopback address"},
		{args: "--http 192.0.2.1:8080", says: "not a loopback address"},
		{args: "--http [::]:8080", says: "not a loopback address"},
		{args: "--http host.example:8080", says: "not a loopback address"},
		{args: "--http :8080 --http-tls-cert a --http-tls-key b", says: "not a loopback address"},
		{args: "--http :8080 --token-file a", says: "not a loopback address"},
	} {
		_, err := load(t, tc.file, strings.Fields(tc.args)...)
		require.ErrorContains(t, err, tc.says, "%q %q", tc.file, tc.args)
	}
	for _, ok := range []string{"--http localhost:0", "--http [::1]:8080", "--http 127.9.9.9:80", "--http :8080 --insecure",
		"--http :8080 --http-tls-cert a --http-tls-key b --token-file c"} {
		_, err := load(t, "", strings.Fields(ok)...)
		require.NoError(t, err, ok)
	}
	t.Setenv("FAIRLEAD_INSECURE", "perhaps")
	_, err := load(t, "")
	require.ErrorContains(t, err, "FAIRLEAD_INSECURE")
}

func TestInsecureIsSaidLoudly(t *testing.T) {
	var stderr bytes.Buffer
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	run(ctx, []string{"serve", "--http", "0.0.0.0:0", "--openflow", "127.0.0.1:0", "--insecure", "--log-level", "error", "--data", t.TempDir()}, nil, new(bytes.Buffer), &stderr)
	require.Contains(t, stderr.String(), "INSECURE")
}

func TestLogger(t *testing.T) {
	var out bytes.Buffer
	Config{LogLevel: slog.LevelWarn, LogFormat: "json"}.logger(&out).Info("quiet")
	require.Empty(t, out.String())
	Config{LogFormat: "json"}.logger(&out).Info("said")
	require.Contains(t, out.String(), `"msg":"said"`)
	out.Reset()
	Config{LogFormat: "text"}.logger(&out).Info("said")
	require.Contains(t, out.String(), "msg=said")
}

func TestTokenFile(t *testing.T) {
	tokens, err := Config{}.tokens()
	require.NoError(t, err)
	require.False(t, tokens.Required())
	path := filepath.Join(t.TempDir(), "tokens")
	_, err = Config{TokenFile: path}.tokens()
	require.ErrorContains(t, err, path)
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	_, err = Config{TokenFile: path}.tokens()
	require.ErrorContains(t, err, path, "an empty file opens nothing")
	require.NoError(t, os.WriteFile(path, []byte("ops:token\n"), 0o600))
	tokens, err = Config{TokenFile: path}.tokens()
	require.NoError(t, err)
	require.True(t, tokens.Required())
}

// certificate writes a self-signed certificate of 127.0.0.1 and its key.
func certificate(t *testing.T) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	require.NoError(t, os.WriteFile(cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	return cert, key
}

func TestTLS(t *testing.T) {
	conf, _, err := Config{}.southboundTLS(slog.Default())
	require.NoError(t, err)
	require.Nil(t, conf, "plain TCP")
	cert, key := certificate(t)
	conf, _, err = Config{TLSCert: cert, TLSKey: key, TLSCA: cert}.southboundTLS(slog.Default())
	require.NoError(t, err)
	require.Equal(t, tls.RequireAndVerifyClientCert, conf.ClientAuth)
	_, _, err = Config{TLSCert: cert, TLSKey: key, TLSCA: key}.southboundTLS(slog.Default())
	require.ErrorContains(t, err, "tls-ca")
	_, _, err = Config{TLSCert: key, TLSKey: key, TLSCA: cert}.southboundTLS(slog.Default())
	require.ErrorContains(t, err, "tls-cert")
	_, err = Config{HTTP: "127.0.0.1:0", HTTPTLSCert: key, HTTPTLSKey: key}.listenHTTP(sockets{}, slog.Default())
	require.ErrorContains(t, err, "http-tls-cert")

	l, err := Config{HTTP: "127.0.0.1:0", HTTPTLSCert: cert, HTTPTLSKey: key}.listenHTTP(sockets{}, slog.Default())
	require.NoError(t, err)
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(l)
	defer srv.Close()
	pool := x509.NewCertPool()
	text, err := os.ReadFile(cert)
	require.NoError(t, err)
	pool.AppendCertsFromPEM(text)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + l.Addr().String())
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, 404, resp.StatusCode)
}
