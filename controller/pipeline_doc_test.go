package controller_test

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/controller"
)

var rewrite = flag.Bool("rewrite", false, "rewrite docs/pipeline.md below its marker")

// pipelineMarker divides docs/pipeline.md: what is above it was written by hand,
// what is below it is printed from Pipeline.
const pipelineMarker = "<!-- printed from controller.Pipeline: go test ./controller -run PipelineDocument -rewrite -->\n"

// TestPipelineDocument holds docs/pipeline.md to the declared pipeline.
func TestPipelineDocument(t *testing.T) {
	const path = "../docs/pipeline.md"
	document, err := os.ReadFile(path)
	require.NoError(t, err)
	preface, printed, found := strings.Cut(string(document), pipelineMarker)
	require.True(t, found, "%s has no line %q", path, pipelineMarker)
	want := "\n" + strings.ReplaceAll(controller.Pipeline.Markdown(controller.AppNames), "\n## ", "\n### ") // one level down
	if *rewrite {
		require.NoError(t, os.WriteFile(path, []byte(preface+pipelineMarker+want), 0o644))
		return
	}
	require.Equal(t, want, printed, "%s is out of date: go test ./controller -run PipelineDocument -rewrite", path)
}
