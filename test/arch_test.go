// Package test holds the rules of the source tree: which package may import
// which, and who may see a socket or a clock (docs/architecture.md, "Layout").
package test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/fairlead/fairlead"

// layers of the tree, from the top. A package imports only packages of lower
// layers, except where family says more.
var layers = []string{"cmd", "northbound", "apps", "controller", "topology", "ofproto"}

// family lists the imports allowed within a layer: a tree of packages is one
// subject, whose top may use its parts.
var family = map[string][]string{
	"northbound": {"northbound/"},
	"controller": {"controller/"},
	// What a switch is to hold is traced as it stands in its flow table.
	"controller/trace": {"controller/flowtable"},
}

// listed is what the tests read of `go list`.
type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Module     *struct{ Path string }
	Standard   bool
}

// packages returns all packages of the build of the module, by import path.
func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,GoFiles,Imports,Module,Standard", module+"/...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	all := map[string]listed{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err)
		all[p.ImportPath] = p
	}
}

// ours returns the product's packages by their path in the module; those under
// test may import anything and are left out.
func ours(all map[string]listed) map[string]listed {
	m := map[string]listed{}
	for name, p := range all {
		short, own := strings.CutPrefix(name, module+"/")
		if own && !strings.HasPrefix(short, "test/") && short != "test" {
			m[short] = p
		}
	}
	return m
}

func layer(short string) int {
	first, _, _ := strings.Cut(short, "/")
	return slices.Index(layers, first)
}

func TestImportsPointDown(t *testing.T) {
	all := ours(packages(t))
	require.NotEmpty(t, all)
	for short, p := range all {
		require.GreaterOrEqual(t, layer(short), 0, "%s is in no layer", short)
		for _, imported := range p.Imports {
			imported, own := strings.CutPrefix(imported, module+"/")
			if !own {
				continue
			}
			if strings.HasPrefix(short, "topology") || strings.HasPrefix(short, "ofproto") {
				t.Errorf("%s imports %s: it may import nothing of ours", short, imported)
				continue
			}
			if layer(imported) > layer(short) || slices.ContainsFunc(family[short], func(f string) bool { return strings.HasPrefix(imported, f) }) {
				continue
			}
			t.Errorf("%s imports %s: imports point down: %s", short, imported, strings.Join(layers, " → "))
		}
	}
}

func TestEachLibraryHasOneHome(t *testing.T) {
	all := packages(t)
	homes := map[string][]string{}
	for short, p := range ours(all) {
		for _, imported := range p.Imports {
			lib := all[imported]
			if lib.Standard || lib.Module == nil || lib.Module.Path == module || strings.HasPrefix(lib.Module.Path, "golang.org/x/") {
				continue
			}
			if !slices.Contains(homes[lib.Module.Path], short) {
				homes[lib.Module.Path] = append(homes[lib.Module.Path], short)
			}
		}
	}
	for lib, at := range homes {
		slices.Sort(at)
		require.Len(t, at, 1, "%s is used by %v", lib, at)
	}
}

// selectors returns the places where a package names something of another, as in
// net.Conn or time.Now.
func selectors(t *testing.T, p listed, from string, names ...string) []string {
	t.Helper()
	var found []string
	for _, file := range p.GoFiles {
		fset := token.NewFileSet()
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		local := ""
		for _, spec := range f.Imports {
			if strings.Trim(spec.Path.Value, `"`) == from {
				if local = path.Base(from); spec.Name != nil {
					local = spec.Name.Name
				}
			}
		}
		if local == "" {
			continue
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == local && slices.Contains(names, s.Sel.Name) {
					found = append(found, fset.Position(s.Pos()).String())
				}
			}
			return true
		})
	}
	return found
}

func TestConnectionsStayAtTheEdge(t *testing.T) {
	edge := []string{"ofproto", "controller", "controller/ovsdb", "apps/health"} // the last one for probes from the controller's own network
	for short, p := range ours(packages(t)) {
		if slices.Contains(edge, short) {
			continue
		}
		require.Empty(t, selectors(t, p, "net", "Conn", "TCPConn"), "%s sees a net.Conn", short)
	}
}

func TestPureCodeHasNoClockAndNoSocket(t *testing.T) {
	all := ours(packages(t))
	for _, short := range []string{"topology", "controller/flowtable", "controller/trace", "ofproto/packet"} {
		p, ok := all[short]
		require.True(t, ok, "package %s", short)
		for _, imported := range p.Imports {
			require.NotContains(t, []string{"net", "os", "math/rand", "math/rand/v2", "crypto/rand", "net/http"}, imported, "imported by %s", short)
		}
		require.Empty(t, selectors(t, p, "time", "Now", "Since", "Until", "After", "AfterFunc", "Sleep", "Tick", "NewTimer", "NewTicker"),
			"%s reads the clock: now is a parameter", short)
	}
}

func TestPackagesAreNouns(t *testing.T) {
	for short := range ours(packages(t)) {
		for part := range strings.SplitSeq(short, "/") {
			require.NotContains(t, []string{"util", "utils", "common", "types", "models", "interfaces", "manager", "helper", "helpers"}, part)
		}
	}
}
