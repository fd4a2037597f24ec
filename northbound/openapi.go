package northbound

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"
)

//go:embed openapi.json
var openAPIDocument []byte

// openAPI returns the OpenAPI 3.1 document with the program's version in it. The
// document is part of the program: a mistake in it is a panic, which a test meets.
func openAPI(version string) []byte {
	var doc map[string]any
	if err := json.Unmarshal(openAPIDocument, &doc); err != nil {
		panic(fmt.Sprintf("northbound: openapi.json: %v", err))
	}
	if version != "" {
		doc["info"].(map[string]any)["version"] = version
	}
	out, err := json.Marshal(doc)
	if err != nil {
		panic(fmt.Sprintf("northbound: openapi.json: %v", err))
	}
	return append(out, '\n')
}

func (s *Server) getOpenAPI(c echo.Context) error {
	return c.Blob(http.StatusOK, "application/json", s.openapi)
}
