package northbound

import (
	"bufio"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"io"
	"net/http"
	"strings"
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

// ParseTokens reads one token a line, "token" or "name:token"; the name goes into the
// log with every write. Empty lines and lines that begin with # are skipped. A file
// with no token in it is an error: it would leave the API open.
func ParseTokens(r io.Reader) (Tokens, error) {
	var t Tokens
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, token, ok := strings.Cut(line, ":")
		if !ok {
			name, token = fmt.Sprintf("line %d", n), line
		}
		if token == "" {
			return Tokens{}, fmt.Errorf("northbound: parse tokens: line %d: the token is empty", n)
		}
		t.named = append(t.named, namedToken{name, sha256.Sum256([]byte(token))})
	}
	if err := sc.Err(); err != nil {
		return Tokens{}, fmt.Errorf("northbound: parse tokens: %w", err)
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

// guard asks for a token on everything but liveness.
func (s *Server) guard(next http.Handler) http.Handler {
	if !s.o.Tokens.Required() {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			next.ServeHTTP(w, r)
			return
		}
		name, ok := s.o.Tokens.identify(r)
		if !ok {
			w.Header().Set("WWW-Authenticate", `Bearer realm="fairlead"`)
			respondProblem(w, problem(http.StatusUnauthorized, "unauthorized", "Unauthorized",
				"a valid token is needed: Authorization: Bearer …"))
			return
		}
		infoOf(r.Context()).client = name
		next.ServeHTTP(w, r)
	})
}
