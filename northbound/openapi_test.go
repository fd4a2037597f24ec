package northbound

import (
	"encoding"
	"encoding/json"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/fairlead/fairlead/apps/balancer"
	"github.com/fairlead/fairlead/apps/migration"
	"github.com/fairlead/fairlead/apps/reachability"
	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
	"github.com/fairlead/fairlead/topology"
)

// document is the part of the OpenAPI document that the tests look at.
type document struct {
	OpenAPI string
	Info    struct{ Version string }
	Paths   map[string]map[string]struct {
		OperationID string
		Parameters  []struct {
			Ref string `json:"$ref"`
		}
		RequestBody *struct{}
		Responses   map[string]json.RawMessage
	}
	Components struct {
		Parameters map[string]struct{ Name, In string }
		Schemas    map[string]struct {
			Type       any
			Properties map[string]json.RawMessage
			Required   []string
		}
	}
}

func openAPIOf(t *testing.T, r *rig) (document, []byte) {
	resp := r.do("GET /openapi.json", "")
	require.Equal(t, 200, resp.StatusCode)
	require.Equal(t, "application/json", resp.Header.Get("Content-Type"))
	var d document
	require.NoError(t, json.Unmarshal(resp.body, &d))
	return d, resp.body
}

// Every route is documented, every documented route exists, and its path parameters
// are the route's.
func TestOpenAPIRoutes(t *testing.T) {
	r := newRig(t)
	d, _ := openAPIOf(t, r)
	require.Equal(t, "3.1.0", d.OpenAPI)
	require.Equal(t, "1.2.3", d.Info.Version)
	var routes, documented []string
	param := regexp.MustCompile(`:([a-z]+)`)
	for _, rt := range r.s.routes() {
		routes = append(routes, rt.method+" "+param.ReplaceAllString(rt.path, "{$1}"))
	}
	ids := map[string]bool{}
	for path, ops := range d.Paths {
		for method, op := range ops {
			documented = append(documented, strings.ToUpper(method)+" "+path)
			require.NotEmpty(t, op.OperationID)
			require.False(t, ids[op.OperationID], op.OperationID)
			ids[op.OperationID] = true
			var inPath []string
			for _, p := range op.Parameters {
				c, ok := d.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
				require.True(t, ok, p.Ref)
				if c.In == "path" {
					inPath = append(inPath, "{"+c.Name+"}")
				}
			}
			require.ElementsMatch(t, regexp.MustCompile(`\{[a-z]+\}`).FindAllString(path, -1), inPath, path)
			posts := []string{ovsPath, restorePath, "/v1/explain", "/v1/reachability", "/v1/migrations/{name}/apply", "/v1/migrations/{name}/rollback"} // with a body
			require.Equal(t, method == "put" || method == "post" && slices.Contains(posts, path), op.RequestBody != nil, path)
			if path != "/healthz" {
				require.Contains(t, op.Responses, "401", path)
			}
		}
	}
	require.ElementsMatch(t, routes, documented)
}

func TestOpenAPIReferences(t *testing.T) {
	r := newRig(t)
	_, text := openAPIOf(t, r)
	var root any
	require.NoError(t, json.Unmarshal(text, &root))
	used := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, e := range v {
				walk(e)
			}
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok {
				used[ref] = true
				at := root
				for step := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
					at = at.(map[string]any)[step]
				}
				require.NotNil(t, at, ref)
			}
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(root)
	for _, kind := range []string{"schemas", "responses", "parameters"} {
		for name := range root.(map[string]any)["components"].(map[string]any)[kind].(map[string]any) {
			if name == "Event" || name == "FieldError" {
				continue // data of the event stream
			}
			require.True(t, used["#/components/"+kind+"/"+name], "%s %s is used", kind, name)
		}
	}
}

// jsonFields are the names a struct has in JSON, and those it always has.
func jsonFields(typ reflect.Type) (all, always []string) {
	for _, f := range reflect.VisibleFields(typ) {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || !f.IsExported() || name == "-" || name == "" {
			continue
		}
		all = append(all, name)
		if !strings.Contains(options, "omit") {
			always = append(always, name)
		}
	}
	return all, always
}

// jsonType is the type that a value has in JSON; empty where its Go type does not say.
func jsonType(typ reflect.Type) string {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch {
	case typ.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return "string" // times, addresses, durations
	case typ.Implements(reflect.TypeFor[json.Marshaler]()):
		return ""
	}
	switch typ.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Float64:
		return "number"
	case reflect.Slice:
		return "array"
	case reflect.Struct, reflect.Map:
		return "object"
	case reflect.Interface, reflect.Array: // hardware addresses, which their documents write
		return ""
	}
	return "integer"
}

// requireTypes asserts that the properties of a schema have the types of the fields.
func requireTypes(t *testing.T, d document, name string, typ reflect.Type) {
	t.Helper()
	for _, f := range reflect.VisibleFields(typ) {
		field, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		raw, ok := d.Components.Schemas[name].Properties[field]
		want := jsonType(f.Type)
		if !ok || want == "" {
			continue
		}
		var schema struct {
			Ref  string `json:"$ref"`
			Type any    // a name, or a list of them
		}
		require.NoError(t, json.Unmarshal(raw, &schema))
		if schema.Ref != "" {
			schema.Type = d.Components.Schemas[strings.TrimPrefix(schema.Ref, "#/components/schemas/")].Type
		}
		if one, ok := schema.Type.(string); ok {
			require.Equal(t, want, one, "%s.%s", name, field)
		} else if schema.Type != nil {
			require.Contains(t, schema.Type, want, "%s.%s", name, field)
		}
	}
}

// What is asked for in documents of these is all that may be in them.
func TestOpenAPIInputIsClosed(t *testing.T) {
	_, text := openAPIOf(t, newRig(t))
	var d struct {
		Paths map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct {
					Schema struct {
						Ref string `json:"$ref"`
					}
				}
			}
		}
		Components struct {
			Schemas map[string]struct{ AdditionalProperties *bool }
		}
	}
	require.NoError(t, json.Unmarshal(text, &d))
	for path, ops := range d.Paths {
		for method, op := range ops {
			for kind, body := range op.RequestBody.Content {
				if name := strings.TrimPrefix(body.Schema.Ref, "#/components/schemas/"); kind == "application/json" {
					more := d.Components.Schemas[name].AdditionalProperties
					require.True(t, more != nil && !*more, "%s %s: %s", method, path, name)
				}
			}
		}
	}
}

// The schemas have exactly the fields that the types have. What answers only have
// requires what is always there.
func TestOpenAPISchemas(t *testing.T) {
	d, _ := openAPIOf(t, newRig(t))
	input := []string{"ReachabilityRequest", "ReachabilityProbe", "OVSAdoption", "VIP", "Listener", "Pool", "Member", "Monitor", "MemberPut", "MigrationDescription", "MigrationWave", "MigrationStep", "MigrationProbe"}
	for name, v := range map[string]any{
		"VIP": balancer.VIP{}, "Listener": balancer.Listener{}, "Pool": balancer.Pool{}, "Member": balancer.Member{}, "MemberPut": balancer.Member{},
		"Monitor": balancer.Monitor{}, "VIPStatus": balancer.VIPStatus{}, "SwitchStatus": balancer.SwitchStatus{}, "MemberStatus": balancer.MemberStatus{},
		"ListenerStatus": balancer.ListenerStatus{}, "Stats": balancer.Stats{}, "ListenerStats": balancer.ListenerStats{}, "MemberStats": balancer.MemberStats{},
		"Switch": SwitchView{}, "Connection": ConnectionView{}, "Description": DescriptionView{}, "Capabilities": CapabilitiesView{}, "Balancing": BalancingView{}, "Port": PortView{},
		"Explanation": balancer.Explanation{}, "ExplainedReply": balancer.ReplyView{}, "Candidate": balancer.CandidateView{}, "Hop": balancer.HopView{}, "Step": balancer.StepView{},
		"PacketHeaders": balancer.PacketView{}, "PacketOutput": balancer.OutputView{}, "Difference": balancer.DifferenceView{},
		"Certificate": CertificateView{}, "Counts": CountsView{}, "Fault": FaultView{}, "Flow": FlowView{}, "Group": GroupView{}, "Bucket": BucketView{},
		"Place": topology.Place{}, "Link": topology.Link{}, "Segment": topology.Segment{}, "SegmentPort": topology.SegmentPort{}, "Host": topology.Host{}, "Topology": topology.View{}, "TopologySwitch": topology.ViewSwitch{},
		"Coverage": topology.Coverage{}, "VIPCoverage": topology.VIPCoverage{}, "CoverageGap": topology.CoverageGap{}, "CoverageStep": topology.CoverageStep{},
		"TopologyPort": topology.PortState{}, "TopologyLink": topology.ViewLink{}, "TopologyVIP": topology.VIPNote{},
		"OVSBridge": ovsdb.View{}, "OVSController": ovsdb.Controller{}, "OVSPort": ovsdb.Port{}, "OVSInterface": ovsdb.Interface{}, "OVSFound": OVSInterface{},
		"OVSAdoption": OVSAdoption{}, "OVSOutcome": ovsdb.Outcome{}, "OVSOutcomes": OVSOutcomes{},
		"Migration": migration.Migration{}, "MigrationDescription": migration.Description{}, "MigrationWave": migration.Wave{}, "MigrationStep": migration.Step{},
		"MigrationProbe": documents.Probe{}, "MigrationPlan": migration.Plan{}, "PlannedWave": migration.PlannedWave{}, "PlannedStep": migration.PlannedStep{}, "MigrationCheck": migration.Check{},
		"OVSDBChange": ovsdb.Change{}, "FlowChanges": migration.FlowChanges{}, "SwitchChange": migration.SwitchChange{}, "BlastRadius": migration.Blast{}, "MigrationRun": migration.Run{}, "StepRun": migration.StepRun{},
		"MigrationOutcome": migration.Outcome{}, "MigrationCheckpoint": migration.CheckpointView{}, "MigrationTarget": migration.Target{}, "MigrationProgress": migration.Progress{}, "MigrationWatch": migration.Watch{},
		"AuditEntry": migration.AuditEntry{}, "MigrationTally": migration.Tally{}, "MigrationPage": Page[int]{},
		"ReachabilityRequest": ReachabilityRequest{}, "ReachabilityProbe": documents.Probe{}, "Reachability": reachability.Measurement{}, "MeasuredSwitch": reachability.Switch{},
		"MeasuredPair": reachability.Pair{}, "MeasuredVIP": reachability.VIPAnswer{}, "MeasuredProbe": reachability.ProbeAnswer{}, "MeasuredCopies": reachability.Copies{},
		"MeasuredLink": reachability.LinkAnswer{}, "MeasuredRate": reachability.PortRate{},
		"Event": Event{}, "Problem": Problem{}, "FieldError": FieldError{}, "Health": Health{}, "Readiness": Readiness{}, "Restored": Restored{}, "VIPPage": Page[int]{}, "FlowPage": Page[int]{},
	} {
		s, ok := d.Components.Schemas[name]
		require.True(t, ok, name)
		requireTypes(t, d, name, reflect.TypeOf(v))
		all, always := jsonFields(reflect.TypeOf(v))
		var props []string
		for p := range s.Properties {
			props = append(props, p)
		}
		require.ElementsMatch(t, all, props, name)
		if !slices.Contains(input, name) {
			require.ElementsMatch(t, always, s.Required, name)
		}
	}
}
