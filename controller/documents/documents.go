// Package documents holds what stands in documents of more than one kind: those of VIPs,
// migrations and measurements, as they are stored and as the REST API shows them.
package documents

import (
	"strings"
	"time"
)

// Duration is a time.Duration whose text is "5s", "1m30s".
type Duration time.Duration

// String returns the text of the duration.
func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes the duration as String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads what time.ParseDuration reads.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err == nil {
		*d = Duration(v)
	}
	return err
}

// FieldError is what is wrong with one field of a document. Field is a path as
// "listeners[0].pool.members[1].weight"; "body" is the document as a whole.
type FieldError struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// String returns "field: reason".
func (e FieldError) String() string { return e.Field + ": " + e.Reason }

// Join returns all of it in one line, with semicolons between.
func Join(errs []FieldError) string {
	s := make([]string, len(errs))
	for i, e := range errs {
		s[i] = e.String()
	}
	return strings.Join(s, "; ")
}
