package migration

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/fairlead/fairlead/controller/documents"
	"github.com/fairlead/fairlead/controller/ovsdb"
)

// DecodeDescription reads the JSON document of the migration called name and fills in
// its defaults. It is strict: fields that are unknown, given twice, null or of the wrong
// type, and anything after the document are errors; a name in it must be the name. The
// error is *InvalidError.
func DecodeDescription(name string, body []byte) (Description, error) {
	var bad faults
	d := Description{Name: name, ConfirmTimeout: DefaultConfirmTimeout, VIPs: []string{}, Probes: []documents.Probe{}, Waves: []Wave{}}
	if o := parse(&bad, "", body); o != nil {
		d.read(o)
		o.end()
	}
	if len(bad) > 0 {
		return Description{}, &InvalidError{bad}
	}
	return d, nil
}

func (d *Description) read(o *object) {
	given := o.text("name")
	if !validName(d.Name) {
		o.bad.add("name", "%q must be 1 to %d of a-z, 0-9 and -, not beginning with -", d.Name, maxNameSize)
	} else if given != "" && given != d.Name {
		o.bad.add("name", "must be %s, as in the path, or be left out", d.Name)
	}
	const duration = "a duration from 5s to 24h, such as 5m"
	var wait string
	if o.take("confirm_timeout", &wait, duration) {
		t, err := time.ParseDuration(wait)
		if err != nil || t < minConfirm || t > maxConfirm {
			o.bad.add("confirm_timeout", "%q is not %s", wait, duration)
		}
		d.ConfirmTimeout = documents.Duration(t)
	}
	d.SourceAddress = o.address("source_address", false)
	for i, s := range o.texts("vips", maxVIPs) {
		field := fmt.Sprintf("vips[%d]", i)
		switch {
		case !validName(s):
			o.bad.add(field, "%q is no name of a VIP", s)
		case slices.Contains(d.VIPs, s):
			o.bad.add(field, "%s is given twice", s)
		}
		d.VIPs = append(d.VIPs, s)
	}
	for _, p := range o.objects("probes", maxProbes) {
		d.Probes = append(d.Probes, p.probe(d.SourceAddress))
	}
	names := map[string]bool{}
	for i, w := range o.some("waves", maxWaves) {
		wave := w.wave(i)
		if names[wave.Name] {
			o.bad.add(w.path+".name", "there is a wave %s already", wave.Name)
		}
		names[wave.Name] = true
		d.Waves = append(d.Waves, wave)
	}
}

func (o *object) probe(source netip.Addr) documents.Probe {
	p := documents.Probe{Type: documents.ProbeType(o.text("type")), Address: o.address("address", true), Port: uint16(o.integer("port", 65535)), VLAN: uint16(o.integer("vlan", 4094))}
	o.end()
	switch p.Type {
	case documents.ProbeTCP:
		if p.Port == 0 {
			o.bad.add(o.path+".port", "is required of a probe of TCP")
		}
	case documents.ProbePing, documents.ProbeARP:
		if p.Port != 0 {
			o.bad.add(o.path+".port", "is for probes of TCP only")
		}
	default:
		o.bad.add(o.path+".type", "%q is none of %s, %s, %s", p.Type, documents.ProbePing, documents.ProbeTCP, documents.ProbeARP)
		return p
	}
	if p.Type != documents.ProbeARP && p.Address.IsValid() && (!source.IsValid() || source.Is4() != p.Address.Is4()) {
		o.bad.add("source_address", "is required, of the family of %s, for %s", p.Address, o.path)
	}
	return p
}

func (o *object) wave(i int) Wave {
	w := Wave{Name: o.text("name"), Steps: []Step{}}
	if w.Name == "" {
		w.Name = fmt.Sprintf("wave-%d", i+1)
	}
	if !validName(w.Name) {
		o.bad.add(o.path+".name", "must be 1 to %d of a-z, 0-9 and -, not beginning with -", maxNameSize)
	}
	targets, canary := map[string]bool{}, false
	for _, s := range o.some("steps", maxSteps) {
		step := s.step()
		if t := step.Target(); t != "" && targets[t] {
			o.bad.add(s.path, "%s has a step in this wave already", t)
		}
		targets[step.Target()] = true
		if step.Canary && canary {
			o.bad.add(s.path+".canary", "the wave has one already")
		}
		canary = canary || step.Canary
		w.Steps = append(w.Steps, step)
	}
	o.end()
	return w
}

func (o *object) step() Step {
	byEndpoint, byDPID, hasBridge, hasStage := o.has("endpoint"), o.has("dpid"), o.has("bridge"), o.has("stage")
	s := Step{
		Bridge: o.text("bridge"), DPID: strings.ToLower(o.text("dpid")), Stage: o.text("stage"),
		Controllers: o.texts("controllers", maxTargets), DiscardFlows: o.boolean("discard_flows"), Canary: o.boolean("canary"),
	}
	if !hasStage {
		o.bad.add(o.path+".stage", "is required: one of %s", strings.Join(Stages, ", "))
	} else if s.Stage != "" && !slices.Contains(Stages, s.Stage) {
		o.bad.add(o.path+".stage", "%q is none of %s", s.Stage, strings.Join(Stages, ", "))
	}
	endpoint := o.text("endpoint")
	switch {
	case byEndpoint == byDPID:
		o.bad.add(o.path, "needs endpoint and bridge, or dpid: one of the two")
	case byDPID:
		if s.DPID != "" && parseDPID(s.DPID) == 0 {
			o.bad.add(o.path+".dpid", "%q is not 16 hex digits", s.DPID)
		}
		for field, given := range map[string]bool{"bridge": s.Bridge != "", "controllers": len(s.Controllers) > 0, "discard_flows": s.DiscardFlows} {
			if given {
				o.bad.add(o.path+"."+field, "is for a bridge by its endpoint, not by its dpid")
			}
		}
		if s.Stage == StageReleased {
			o.bad.add(o.path+".stage", "%s is for a bridge by its endpoint: a switch is released where it was given its controller", StageReleased)
		}
	default:
		e, err := ovsdb.ParseEndpoint(endpoint)
		if err != nil && endpoint != "" {
			o.bad.add(o.path+".endpoint", "%s", strings.TrimPrefix(err.Error(), "ovsdb: parse endpoint: "))
		}
		s.Endpoint = e
		if !hasBridge {
			o.bad.add(o.path+".bridge", "is required with endpoint")
		} else if len(s.Bridge) > 255 {
			o.bad.add(o.path+".bridge", "%.40q… is no name of a bridge", s.Bridge)
		}
		for i, c := range s.Controllers {
			field := fmt.Sprintf("%s.controllers[%d]", o.path, i)
			if err := ovsdb.ParseController(c); err != nil {
				o.bad.add(field, "%v", err)
			} else if slices.Contains(s.Controllers[:i], c) {
				o.bad.add(field, "%s is given twice", c)
			}
		}
		if s.Stage == StageReleased && (len(s.Controllers) > 0 || s.DiscardFlows) {
			o.bad.add(o.path, "a bridge that is released needs neither controllers nor discard_flows")
		}
	}
	o.end()
	return s
}

// validName says whether a name is one of a migration, a wave or a VIP.
func validName(s string) bool {
	return s != "" && len(s) <= maxNameSize && s[0] != '-' && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// object is a JSON object that is read field by field. What is wrong goes to bad; what
// was not read when end is called is unknown.
type object struct {
	bad    *faults
	path   string // of the object; empty: the document
	fields map[string]json.RawMessage
}

// parse reads an object; nil when it is none.
func parse(bad *faults, path string, raw []byte) *object {
	o := &object{bad: bad, path: path, fields: map[string]json.RawMessage{}}
	at := path
	if at == "" {
		at = "body"
	}
	err := func() error {
		dec := json.NewDecoder(bytes.NewReader(raw))
		if t, err := dec.Token(); err != nil {
			return err
		} else if t != json.Delim('{') {
			return errNoObject
		}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name := key.(string) // of an object
			var value json.RawMessage
			if err := dec.Decode(&value); err != nil {
				return err
			}
			if _, twice := o.fields[name]; twice {
				bad.add(o.at(name), "is given twice")
			}
			if string(value) == "null" {
				bad.add(o.at(name), "is null")
				value = nil
			}
			o.fields[name] = value
		}
		if _, err := dec.Token(); err != nil {
			return err
		}
		if _, err := dec.Token(); err != io.EOF {
			return errors.New("there is data after it")
		}
		return nil
	}()
	switch {
	case err == nil:
		return o
	case errors.Is(err, errNoObject) && path != "":
		bad.add(at, "is not an object with fields")
	default:
		bad.add(at, "is no JSON object: %v", err)
	}
	return nil
}

// errNoObject says that a value is something else.
var errNoObject = errors.New("it is another value")

// has says whether a field is there, and was not read yet.
func (o *object) has(name string) bool {
	_, ok := o.fields[name]
	return ok
}

func (o *object) at(name string) string {
	if o.path == "" {
		return name
	}
	return o.path + "." + name
}

// take reads a field into v; false when it is not there, or of another type.
func (o *object) take(name string, v any, kind string) bool {
	raw, ok := o.fields[name]
	delete(o.fields, name)
	if !ok || raw == nil {
		return false
	}
	if err := json.Unmarshal(raw, v); err != nil {
		o.bad.add(o.at(name), "is not %s", kind)
		return false
	}
	return true
}

func (o *object) text(name string) (s string) {
	kind := "a text"
	if raw := o.fields[name]; len(raw) > 0 && raw[0] != '{' && raw[0] != '[' {
		kind = "a text: write it in quotes" // YAML takes it for a number, or yes and no
	}
	if o.take(name, &s, kind) && s == "" {
		o.bad.add(o.at(name), "is empty")
	}
	return s
}

func (o *object) boolean(name string) (b bool) {
	o.take(name, &b, "true or false")
	return b
}

func (o *object) integer(name string, most int) (n int) {
	if o.take(name, &n, "a whole number") && (n < 0 || n > most) {
		o.bad.add(o.at(name), "must be 0 to %d", most)
		n = 0
	}
	return n
}

func (o *object) address(name string, required bool) (a netip.Addr) {
	_, there := o.fields[name]
	s := o.text(name)
	if s == "" {
		if required && !there {
			o.bad.add(o.at(name), "is required")
		}
		return a
	}
	a, err := netip.ParseAddr(s)
	if a = a.Unmap(); err != nil || a.Zone() != "" || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		o.bad.add(o.at(name), "%q is no address of a host", s)
		return netip.Addr{}
	}
	return a
}

func (o *object) texts(name string, most int) (list []string) {
	if o.take(name, &list, "a list of texts") && len(list) > most {
		o.bad.add(o.at(name), "has more than %d", most)
		list = list[:most]
	}
	if len(list) == 0 {
		return nil // one that is empty is shown as none
	}
	return list
}

func (o *object) objects(name string, most int) (list []*object) {
	var raw []json.RawMessage
	if o.take(name, &raw, "a list") && len(raw) > most {
		o.bad.add(o.at(name), "has more than %d", most)
		raw = raw[:most]
	}
	for i, r := range raw {
		if e := parse(o.bad, fmt.Sprintf("%s[%d]", o.at(name), i), r); e != nil {
			list = append(list, e)
		}
	}
	return list
}

// some reads a list of objects that has to have one.
func (o *object) some(name string, most int) []*object {
	var raw []json.RawMessage
	given, there := o.fields[name]
	if !there {
		o.bad.add(o.at(name), "is missing")
	} else if given != nil && json.Unmarshal(given, &raw) == nil && len(raw) == 0 {
		o.bad.add(o.at(name), "is empty")
	}
	return o.objects(name, most)
}

// end says which fields nobody asked for.
func (o *object) end() {
	for _, name := range slices.Sorted(maps.Keys(o.fields)) {
		o.bad.add(o.at(name), "unknown field")
	}
}
