package northbound

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Tokens are the bearer tokens the API accepts. The zero value accepts everybody.
// Only digests are kept, so a dump of the process or of its options holds no token.
type Tokens struct {
	named []namedToken
}

type namedToken struct {
	name   string
	digest [sha256.Size]byte
}

// maxTokens bounds the file of tokens, in bytes.
const maxTokens = 1 << 20

// ParseTokens reads one token a line, "token" or "name:token"; the name goes into the
// log with every write. Empty lines and lines that begin with # are skipped. A file
// with no token in it is an error: it would leave the API open.
func ParseTokens(r io.Reader) (Tokens, error) {
	var t Tokens
	text := make([]byte, maxTokens+1)
	defer clear(text) // no copy of a token stays in memory
	length, err := io.ReadFull(r, text)
	if err == nil {
		return Tokens{}, fmt.Errorf("northbound: parse tokens: longer than %d bytes", maxTokens)
	} else if err != io.EOF && err != io.ErrUnexpectedEOF {
		return Tokens{}, fmt.Errorf("northbound: parse tokens: %w", err)
	}
	n := 0
	for line := range bytes.Lines(text[:length]) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		name, token, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			name, token = fmt.Appendf(nil, "line %d", n), line
		}
		if len(token) == 0 {
			return Tokens{}, fmt.Errorf("northbound: parse tokens: line %d: the token is empty", n)
		}
		t.named = append(t.named, namedToken{string(name), sha256.Sum256(token)})
	}
	if len(t.named) == 0 {
		return Tokens{}, fmt.Errorf("northbound: parse tokens: there is no token in it")
	}
	return t, nil
}

// Required says whether a request needs a token at all.
func (t Tokens) Required() bool { return len(t.named) > 0 }

// identify returns the name of the token that r carries. The time it takes depends
// on the number of tokens only: every one is compared, by digest.
func (t Tokens) identify(r *http.Request) (string, bool) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	digest := sha256.Sum256([]byte(strings.TrimSpace(token)))
	name, found := "", 0
	for _, n := range t.named {
		if eq := subtle.ConstantTimeCompare(n.digest[:], digest[:]); eq == 1 {
			name, found = n.name, 1
		}
	}
	return name, found == 1 && strings.EqualFold(scheme, "Bearer")
}

// guessesMost is how many wrong tokens one address may show in a second, and at once.
// Above it none of its requests is looked at.
const guessesMost = 10

// guessers bounds the addresses that are remembered.
const guessers = 4096

// guesses counts wrong tokens by address: an IPv4 address, or the 64 bits of an IPv6
// one that a network has as a whole.
type guesses struct {
	mu sync.Mutex
	of map[netip.Prefix]guessed
}

// guessed is forgotten at the rate that is allowed.
type guessed struct {
	count float64
	at    time.Time
}

func (g guessed) now(now time.Time) float64 {
	return max(g.count-guessesMost*now.Sub(g.at).Seconds(), 0)
}

func guesser(r *http.Request) netip.Prefix {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{} // no socket: a test
	}
	bits := 32
	if a := peer.Addr().Unmap(); a.Is6() {
		bits = 64
	}
	p, _ := peer.Addr().Unmap().WithZone("").Prefix(bits)
	return p
}

// may says whether a request is looked at.
func (g *guesses) may(peer netip.Prefix, now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return !peer.IsValid() || g.of[peer].now(now)+1 <= guessesMost
}

func (g *guesses) wrong(peer netip.Prefix, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, known := g.of[peer]; !known && len(g.of) >= guessers {
		for p, was := range g.of {
			if was.now(now) == 0 {
				delete(g.of, p)
			}
		}
		if len(g.of) >= guessers {
			clear(g.of) // from so many addresses at once that they are not told apart
		}
	}
	g.of[peer] = guessed{g.of[peer].now(now) + 1, now}
}

// guard asks for a token on everything but liveness.
func (s *Server) guard(next http.Handler) http.Handler {
	if !s.o.Tokens.Required() {
		return next
	}
	g := guesses{of: map[netip.Prefix]guessed{}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		peer := guesser(r)
		if !g.may(peer, time.Now()) {
			w.Header().Set("Retry-After", "1")
			respondProblem(w, problem(http.StatusTooManyRequests, "too-many-guesses", "Too many guesses",
				"too many requests without a valid token came from this address"))
			return
		}
		name, ok := s.o.Tokens.identify(r)
		if !ok {
			g.wrong(peer, time.Now())
			w.Header().Set("WWW-Authenticate", `Bearer realm="fairlead"`)
			respondProblem(w, problem(http.StatusUnauthorized, "unauthorized", "Unauthorized",
				"a valid token is needed: Authorization: Bearer …"))
			return
		}
		infoOf(r.Context()).client = name
		next.ServeHTTP(w, r)
	})
}
