package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller/store"
	"github.com/fairlead/fairlead/ofproto"
	"github.com/fairlead/fairlead/test/simswitch"
)

// process is the program itself, run by the test.
type process struct {
	t              *testing.T
	cmd            *exec.Cmd
	data           string
	openflow, http string // addresses
	log            syncBuffer
	token          string
}

// program prepares a run of the program with arguments.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), mainVariable+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// serveProcess runs fairlead serve on free ports of loopback until the test ends.
func serveProcess(t *testing.T, data string, args ...string) *process {
	t.Helper()
	p := &process{t: t, data: data}
	p.start(&p.log, args...)
	return p
}

// start runs the program with its log going to a writer.
func (p *process) start(log io.Writer, args ...string) {
	t, data := p.t, p.data
	t.Helper()
	p.cmd = program(append([]string{"serve", "--openflow", "127.0.0.1:0", "--http", "127.0.0.1:0", "--data", data}, args...)...)
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(p.stop)
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "%s", &p.log)
	for _, f := range strings.Fields(line) {
		if a, ok := strings.CutPrefix(f, "openflow="); ok {
			p.openflow = a
		} else if a, ok := strings.CutPrefix(f, "http="); ok {
			p.http = a
		}
	}
}

// TestZ06LogThatNobodyReads takes the reader of the log away, as a restart of what collects
// logs does.
func TestZ06LogThatNobodyReads(t *testing.T) {
	r, w, err := os.Pipe()
	require.NoError(t, err)
	p := &process{t: t, data: t.TempDir()}
	p.start(w)
	require.NoError(t, w.Close())
	require.NoError(t, r.Close())
	for i := range 3 {
		status, _, body := p.ask("PUT", "/v1/vips/web", fmt.Sprintf(`{"address":"10.0.0.%d"}`, i+1))
		require.Contains(t, []int{200, 201}, status, "%s", body)
	}
	p.stop()
	require.Zero(t, p.cmd.ProcessState.ExitCode(), "%s", p.cmd.ProcessState)
}

func (p *process) stop() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
	}
}

// ask makes a request and returns status, entity tag and body.
func (p *process) ask(method, path, body string, header ...string) (int, string, []byte) {
	p.t.Helper()
	req, err := http.NewRequest(method, "http://"+p.http+path, strings.NewReader(body))
	require.NoError(p.t, err)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	if p.token != "" {
		req.Header.Set("Authorization", "Bearer "+p.token)
	}
	resp, err := (&http.Client{Timeout: 20 * time.Second}).Do(req)
	require.NoError(p.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	require.NoError(p.t, err)
	return resp.StatusCode, resp.Header.Get("ETag"), b
}

// rss is the memory of the process in bytes.
func (p *process) rss() int64 {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	require.NoError(p.t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n << 10
		}
	}
	p.t.Fatal("no VmRSS")
	return 0
}

// listening returns the TCP addresses that the process listens on, and its UDP sockets.
func (p *process) listening() (tcp, udp []string) {
	p.t.Helper()
	own := map[string]bool{}
	dir := fmt.Sprintf("/proc/%d", p.cmd.Process.Pid)
	list, err := os.ReadDir(dir + "/fd")
	require.NoError(p.t, err)
	for _, e := range list {
		if to, err := os.Readlink(dir + "/fd/" + e.Name()); err == nil {
			if inode, ok := strings.CutPrefix(to, "socket:["); ok {
				own[strings.TrimSuffix(inode, "]")] = true
			}
		}
	}
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		b, err := os.ReadFile(dir + "/net/" + name)
		if err != nil {
			continue // a machine without IPv6
		}
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 10 || !own[f[9]] {
				continue
			}
			if strings.HasPrefix(name, "udp") {
				udp = append(udp, f[1])
			} else if f[3] == "0A" { // LISTEN
				host, port, _ := strings.Cut(f[1], ":")
				n, _ := strconv.ParseUint(port, 16, 16)
				raw, _ := hex.DecodeString(host)
				for i := 0; i < len(raw); i += 4 { // words in the machine's order
					binary.LittleEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
				}
				tcp = append(tcp, net.JoinHostPort(net.IP(raw).String(), strconv.FormatUint(n, 10)))
			}
		}
	}
	return tcp, udp
}

const someVIP = `{"address":"10.0.0.100","listeners":[{"protocol":"tcp","port":80,"pool":{"members":[{"address":"10.0.0.2","port":8080},{"address":"10.0.0.3","port":8080}]}}]}`

// TestR06NothingElseIsOpen looks at what a default installation listens on, and crawls it.
func TestR06NothingElseIsOpen(t *testing.T) {
	p := serveProcess(t, t.TempDir())
	tcp, udp := p.listening()
	slices.Sort(tcp)
	want := []string{p.openflow, p.http}
	slices.Sort(want)
	require.Equal(t, want, tcp)
	require.Empty(t, udp)
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/vars", "/swagger", "/swagger/index.html", "/swagger-ui/", "/docs",
		"/static/", "/files", "/upload", "/v1/files", "/index.html", "/.git/config", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/v1/../metrics/..", "/admin", "/console", "/server-status", "/favicon.ico"} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			code, _, body := p.ask(method, path, "x", "Origin", "http://elsewhere.example")
			require.GreaterOrEqual(t, code, 400, "%s %s: %s", method, path, body)
			require.NotContains(t, string(body), "root:")
		}
	}
	req, err := http.NewRequest("OPTIONS", "http://"+p.http+"/v1/vips/web", nil)
	require.NoError(t, err)
	req.Header.Set("Origin", "http://elsewhere.example")
	req.Header.Set("Access-Control-Request-Method", "PUT")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	resp.Body.Close()
	for name := range resp.Header {
		require.False(t, strings.HasPrefix(name, "Access-Control-"), "%s: %s", name, resp.Header.Get(name))
	}
}

// TestR07TwoEditors has many clients count up the weight of a member by reading and
// writing, with If-Match: no write is lost, and one that is repeated changes nothing.
func TestR07TwoEditors(t *testing.T) {
	p := serveProcess(t, t.TempDir())
	code, etag, body := p.ask("PUT", "/v1/vips/web", someVIP)
	require.Equal(t, 201, code, "%s", body)
	code, again, _ := p.ask("PUT", "/v1/vips/web", someVIP)
	require.Equal(t, 200, code)
	require.Equal(t, etag, again, "the same once more")
	code, _, _ = p.ask("PUT", "/v1/vips/web", someVIP, "If-None-Match", "*")
	require.Equal(t, 412, code, "it is there already")

	const member = "/v1/vips/web/listeners/tcp:80/members/10.0.0.2:8080"
	var editors sync.WaitGroup
	var retries atomic.Int64
	for range 8 {
		editors.Go(func() {
			for range 5 {
				for {
					_, etag, body := p.ask("GET", member, "")
					var doc struct {
						Weight int `json:"weight"`
					}
					if err := json.Unmarshal(body, &doc); err != nil {
						t.Error(err)
						return
					}
					code, _, _ := p.ask("PUT", member, fmt.Sprintf(`{"weight":%d}`, doc.Weight+1), "If-Match", etag)
					if code == 200 {
						break
					}
					if code != 412 {
						t.Errorf("status %d", code)
						return
					}
					retries.Add(1)
				}
			}
		})
	}
	editors.Wait()
	_, _, body = p.ask("GET", member, "")
	require.Contains(t, string(body), `"weight":41`, "1 and 40 times one more; %d had to try again", retries.Load())
}

// TestR05NonsenseIsRefused puts documents that mean nothing, or harm: each is answered
// with the field to blame, and nothing is stored.
func TestR05NonsenseIsRefused(t *testing.T) {
	p := serveProcess(t, t.TempDir())
	code, _, body := p.ask("PUT", "/v1/vips/good", someVIP)
	require.Equal(t, 201, code, "%s", body)
	doc := func(fields string) string { return `{"address":"10.0.0.101",` + fields + `}` }
	pool := func(members string) string {
		return doc(`"listeners":[{"protocol":"tcp","port":80,"pool":{"members":[` + members + `]}}]`)
	}
	many := strings.TrimSuffix(strings.Repeat(`{"address":"10.0.0.2","port":1},`, 5000), ",")
	for name, c := range map[string]struct{ path, body string }{
		"the address and port of another VIP":  {"two", strings.ReplaceAll(someVIP, "8080", "8081")},
		"a member of another VIP's listener":   {"two", strings.ReplaceAll(someVIP, "10.0.0.100", "10.0.0.101")},
		"a member that is the VIP itself":      {"two", pool(`{"address":"10.0.0.101","port":80}`)},
		"port 0":                               {"two", doc(`"listeners":[{"protocol":"tcp","port":0}]`)},
		"port 65536":                           {"two", doc(`"listeners":[{"protocol":"tcp","port":65536}]`)},
		"a member's port 0":                    {"two", pool(`{"address":"10.0.0.2","port":0}`)},
		"a negative weight":                    {"two", pool(`{"address":"10.0.0.2","port":1,"weight":-1}`)},
		"a huge weight":                        {"two", pool(`{"address":"10.0.0.2","port":1,"weight":1e9}`)},
		"a weight of a half":                   {"two", pool(`{"address":"10.0.0.2","port":1,"weight":0.5}`)},
		"a weight that is no number":           {"two", pool(`{"address":"10.0.0.2","port":1,"weight":NaN}`)},
		"a weight as a text":                   {"two", pool(`{"address":"10.0.0.2","port":1,"weight":"1"}`)},
		"a member twice":                       {"two", pool(`{"address":"10.0.0.2","port":1},{"address":"10.0.0.2","port":1}`)},
		"a listener twice":                     {"two", doc(`"listeners":[{"protocol":"tcp","port":80},{"protocol":"tcp","port":80}]`)},
		"a field twice":                        {"two", doc(`"enabled":true,"enabled":false`)},
		"an unknown field":                     {"two", doc(`"listener":[]`)},
		"a field in capitals":                  {"two", doc(`"Listeners":[]`)},
		"a broadcast address":                  {"two", `{"address":"255.255.255.255"}`},
		"a multicast address":                  {"two", `{"address":"224.0.0.5"}`},
		"a loopback address":                   {"two", `{"address":"127.0.0.1"}`},
		"no address":                           {"two", `{"address":"0.0.0.0"}`},
		"an address with leading zeros":        {"two", `{"address":"010.0.0.101"}`},
		"an address in other digits":           {"two", `{"address":"１０.0.0.101"}`},
		"an address with a zone":               {"two", `{"address":"fe80::1%eth0"}`},
		"a name that looks like another":       {"gооd", someVIP}, // Cyrillic
		"a name with a slash":                  {"a%2fb", someVIP},
		"a name that leads elsewhere":          {"..", someVIP},
		"a long name":                          {strings.Repeat("a", 64), someVIP},
		"too many members":                     {"two", pool(many)},
		"a monitor without a type":             {"two", doc(`"listeners":[{"protocol":"tcp","port":80,"pool":{"monitor":{}}}]`)},
		"depth":                                {"two", strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000)},
		"what is no JSON":                      {"two", `{"address":`},
		"more than one document":               {"two", someVIP + someVIP},
		"bytes that are no UTF-8":              {"two", "{\"address\":\"\xff\"}"},
		"nothing":                              {"two", ""},
		"another name than that of the path":   {"two", `{"name":"three","address":"10.0.0.101"}`},
		"an address and a list as one another": {"two", `{"address":[],"listeners":"x"}`},
	} {
		code, _, body := p.ask("PUT", "/v1/vips/"+c.path, c.body)
		require.GreaterOrEqual(t, code, 400, "%s: %s", name, body)
		require.Less(t, code, 500, "%s: %s", name, body)
		if code != 404 && code != 413 && code != 405 {
			var problem struct {
				Errors []struct{ Field string } `json:"errors"`
			}
			require.NoError(t, json.Unmarshal(body, &problem), "%s: %s", name, body)
			if name == "bytes that are no UTF-8" {
				continue // there is no field to blame
			}
			require.NotEmpty(t, problem.Errors, "%s: %s", name, body)
			require.NotEmpty(t, problem.Errors[0].Field, "%s: %s", name, body)
		}
	}
	_, _, body = p.ask("GET", "/v1/vips", "")
	require.Equal(t, 1, strings.Count(string(body), `"generation"`), "%s", body)
}

// TestR08HostileClients opens 2,000 connections that say little, and sends bodies that
// are large, packed or deep, while a switch asks for echoes.
func TestR08HostileClients(t *testing.T) {
	p := serveProcess(t, t.TempDir())
	nc, err := net.Dial("tcp", p.openflow)
	require.NoError(t, err)
	sw := simswitch.New(simswitch.Options{DPID: 1, Ports: []ofproto.Port{1, 2}})
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	go func() { defer close(served); _ = sw.Serve(ctx, nc) }()
	defer func() { cancel(); <-served }()
	require.Eventually(t, func() bool {
		_, _, b := p.ask("GET", "/v1/switches", "")
		return bytes.Contains(b, []byte(`"connected"`))
	}, 10*time.Second, 10*time.Millisecond)
	before := p.rss()

	var slow []net.Conn
	defer func() {
		for _, c := range slow {
			c.Close()
		}
	}()
	for i := range 2000 {
		c, err := net.Dial("tcp", p.http)
		require.NoError(t, err)
		slow = append(slow, c)
		_, _ = fmt.Fprintf(c, "PUT /v1/vips/web HTTP/1.1\r\nHost: x\r\nX-%d: ", i)
	}
	var clients sync.WaitGroup
	var codes sync.Map
	end := time.Now().Add(3 * time.Second)
	for i := range 8 {
		clients.Go(func() {
			for n := 0; time.Now().Before(end); n++ {
				var body io.Reader = strings.NewReader(strings.Repeat(`{"a":`, 100000))
				header := ""
				switch (i + n) % 4 {
				case 1:
					body = io.LimitReader(zeros{}, 100<<20)
				case 2:
					body, header = strings.NewReader("\x1f\x8b\x08\x00"+strings.Repeat("x", 1000)), "gzip"
				case 3:
					body = strings.NewReader(`{"status":[` + strings.TrimSuffix(strings.Repeat("{},", 1<<17), ",") + `]}`)
				}
				req, _ := http.NewRequest("PUT", "http://"+p.http+"/v1/vips/web", body)
				if header != "" {
					req.Header.Set("Content-Encoding", header)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					continue // cut off in the middle of the body
				}
				resp.Body.Close()
				codes.Store(resp.StatusCode, true)
			}
		})
	}
	// The switch's own view: how long its echoes take, over a second connection that
	// says hello and asks.
	var worst time.Duration
	for time.Now().Before(end) {
		worst = max(worst, echoTime(t, p.openflow))
		time.Sleep(50 * time.Millisecond)
	}
	clients.Wait()
	peak := p.rss()
	codes.Range(func(code, _ any) bool {
		require.Contains(t, []int{400, 413, 415, 429, 503}, code)
		return true
	})
	t.Logf("2,000 slow clients and 8 that send too much: echo after %v at most, RSS %d → %d MiB", worst.Round(time.Millisecond), before>>20, peak>>20)
	require.Less(t, worst, 5*time.Second, "1 s on a machine of its own")
	require.Less(t, peak-before, int64(512<<20), "some 90 MiB; three times that under the race detector")
	code, _, _ := p.ask("GET", "/healthz", "")
	require.Equal(t, 200, code)
	// A request that does not come is not waited for without end.
	_ = slow[0].SetReadDeadline(time.Now().Add(20 * time.Second))
	_, err = io.ReadAll(slow[0])
	require.NoError(t, err, "closed by the server")
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// echoTime is how long the controller takes to answer the echo request of a new
// connection.
func echoTime(t *testing.T, addr string) time.Duration {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer nc.Close()
	begin := time.Now()
	b := ofproto.Append(nil, 1, &ofproto.Hello{Versions: []uint8{4}})
	_, err = nc.Write(ofproto.Append(b, 77, &ofproto.EchoRequest{Data: []byte("x")}))
	require.NoError(t, err)
	_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	r := bufio.NewReader(nc)
	for {
		head := make([]byte, 8)
		_, err := io.ReadFull(r, head)
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint16(head[2:]))-8)
		require.NoError(t, err)
		if head[1] == byte(ofproto.TypeEchoReply) && binary.BigEndian.Uint32(head[4:]) == 77 {
			return time.Since(begin)
		}
	}
}

// TestR09ConfigurationThatIsWrong starts with files that are invalid, cut short or
// empty: the program says what is wrong and ends, and touches nothing. One that runs
// takes no notice of its file.
func TestR09ConfigurationThatIsWrong(t *testing.T) {
	dir := t.TempDir()
	file, data := filepath.Join(dir, "fairlead.yaml"), filepath.Join(dir, "data")
	good := "openflow: 127.0.0.1:0\nhttp: 127.0.0.1:0\nstage: managed\n"
	for text, says := range map[string]string{
		"":                                      "nothing in it",
		"openflow: [":                           "line",
		"stage: everything\n":                   "stage",
		"stagee: managed\n":                     "stagee",
		"stage: managed\nstage: observe\n":      "twice",
		good[:len(good)-9] + ":\n\t":            "line",
		"http: 0.0.0.0:8080\n":                  "loopback",
		"openflow: 6653\n":                      "openflow",
		"packet-in-rate: many\n":                "packet-in-rate",
		"tls-cert: " + dir + "/none\n":          "go together",
		"token-file: " + dir + "/none\n" + good: "none",
	} {
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		cmd := program("serve", "--config", file, "--data", data)
		out, err := cmd.CombinedOutput()
		require.Error(t, err, "%q: %s", text, out)
		require.Contains(t, string(out), says, "%q", text)
		require.NoDirExists(t, data)
	}
	require.NoError(t, os.WriteFile(file, []byte(good), 0o600))
	p := serveProcess(t, data, "--config", file)
	require.NoError(t, os.WriteFile(file, []byte("openflow: ["), 0o600))
	code, _, _ := p.ask("GET", "/readyz", "")
	require.Equal(t, 200, code)
}

// TestX07Secrets looks for keys and tokens in all that a process writes and says, and
// at the modes of its files.
func TestX07Secrets(t *testing.T) {
	const token = "a-token-that-nobody-else-has-0123456789"
	data, dir := filepath.Join(t.TempDir(), "data"), t.TempDir()
	file := filepath.Join(dir, "tokens")
	require.NoError(t, os.WriteFile(file, []byte("alice:"+token+"\n"), 0o600))
	p := serveProcess(t, data, "--token-file", file, "--log-level", "debug")

	// Before anybody has shown it, the token is nowhere in memory: only its digest is.
	digest := sha256.Sum256([]byte(token))
	require.NotZero(t, inMemory(t, p.cmd.Process.Pid, digest[:]), "the search itself finds what is there")
	require.Zero(t, inMemory(t, p.cmd.Process.Pid, []byte(token)))

	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(limits)) {
		if strings.HasPrefix(line, "Max core file size") {
			require.Equal(t, []string{"0", "0"}, strings.Fields(line)[4:6])
		}
	}

	p.token = token
	var said bytes.Buffer
	for _, path := range []string{"/v1/vips", "/v1/switches", "/v1/links", "/v1/hosts", "/v1/topology", "/metrics", "/openapi.json", "/readyz", "/healthz", "/v1/nothing"} {
		_, _, body := p.ask("GET", path, "")
		said.Write(body)
	}
	code, _, body := p.ask("PUT", "/v1/vips/web", someVIP)
	require.Equal(t, 201, code)
	said.Write(body)
	nc, err := net.Dial("tcp", p.openflow) // and what the log says of a switch
	require.NoError(t, err)
	sw := simswitch.New(simswitch.Options{DPID: 1, Ports: []ofproto.Port{1, 2}})
	served := make(chan struct{})
	go func() { defer close(served); _ = sw.Serve(t.Context(), nc) }()
	require.Eventually(t, func() bool {
		_, _, b := p.ask("GET", "/v1/switches", "")
		return bytes.Contains(b, []byte(`"connected"`))
	}, 10*time.Second, 10*time.Millisecond)
	nc.Close()
	<-served
	p.stop()
	said.WriteString(p.log.String())

	db, err := store.Open(data, store.Options{})
	require.NoError(t, err)
	key := db.LLDPKey()
	require.NoError(t, db.Close())
	for what, secret := range map[string][]byte{"the token": []byte(token), "the key": key[:], "the key in hexadecimal": []byte(hex.EncodeToString(key[:]))} {
		require.False(t, bytes.Contains(said.Bytes(), secret), "%s is in what was said", what)
	}
	require.NoError(t, filepath.WalkDir(data, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		require.Zero(t, info.Mode().Perm()&0o077, "%s is open to others: %v", path, info.Mode())
		if !e.IsDir() {
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			require.False(t, bytes.Contains(b, []byte(token)), "the token is in %s", path)
		}
		return nil
	}))
}

// inMemory counts how often a text stands in the memory of a process that may be
// written to.
func inMemory(t *testing.T, pid int, text []byte) (found int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	require.NoError(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	require.NoError(t, err)
	defer mem.Close()
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.HasPrefix(f[1], "rw") {
			continue
		}
		from, to, _ := strings.Cut(f[0], "-")
		a, _ := strconv.ParseInt(from, 16, 64)
		b, _ := strconv.ParseInt(to, 16, 64)
		const chunk = 4 << 20
		for at := a; at < b; at += chunk {
			buf := make([]byte, min(chunk+int64(len(text)), b-at))
			n, _ := mem.ReadAt(buf, at) // what is not there reads as an error
			found += bytes.Count(buf[:n], text)
		}
	}
	return found
}

// TestX08DefaultAddresses: by default the REST API listens on loopback alone, OpenFlow
// everywhere: what reaches it from elsewhere is X-06.
func TestX08DefaultAddresses(t *testing.T) {
	c, err := load(t, "")
	require.NoError(t, err)
	host, _, err := net.SplitHostPort(c.HTTP)
	require.NoError(t, err)
	require.True(t, net.ParseIP(host).IsLoopback())
	require.False(t, c.OpenFlowInsecure)
	require.False(t, c.Insecure)
	_, err = load(t, "", "--http", "0.0.0.0:8080")
	require.Error(t, err)
}

// TestX09KeyIsReplaced replaces the key of a store whose controller is stopped.
func TestX09KeyIsReplaced(t *testing.T) {
	data := t.TempDir()
	p := serveProcess(t, data)
	out, err := program("lldp-key", "--data", data).CombinedOutput()
	require.Error(t, err, "%s", out)
	require.Contains(t, string(out), "locked by another process")
	p.stop()
	key := func() [32]byte {
		db, err := store.Open(data, store.Options{})
		require.NoError(t, err)
		defer db.Close()
		return db.LLDPKey()
	}
	old := key()
	out, err = program("lldp-key", "--data", data).CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NotEqual(t, old, key())
}

// TestX10SupplyChain: every module that is in the program is named by version and
// checksum in go.mod and go.sum.
func TestX10SupplyChain(t *testing.T) {
	info, ok := debug.ReadBuildInfo()
	require.True(t, ok)
	mod, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	sum, err := os.ReadFile("../../go.sum")
	require.NoError(t, err)
	for _, m := range info.Deps {
		require.Nil(t, m.Replace, "%s is replaced", m.Path)
		require.True(t, strings.HasPrefix(m.Sum, "h1:"), "%s has no checksum", m.Path)
		require.Contains(t, string(mod), m.Path+" "+m.Version)
		require.Contains(t, string(sum), m.Path+" "+m.Version+" "+m.Sum)
	}
	t.Logf("%d modules, %s", len(info.Deps), info.GoVersion)
	require.NotEmpty(t, info.Deps)
}
