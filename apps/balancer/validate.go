package balancer

import (
	"fmt"
	"strings"
)

// FieldError is what is wrong with one field of a document. Field is a path as
// "listeners[0].pool.members[1].weight"; "body" is the document as a whole.
type FieldError struct {
	Field  string `json:"field"`
	Reason string `json:"reason"`
}

// String returns "field: reason".
func (e FieldError) String() string { return e.Field + ": " + e.Reason }

// InvalidError says that a document is malformed or against its rules (400).
type InvalidError struct{ Errors []FieldError }

// Error lists the fields and reasons.
func (e *InvalidError) Error() string { return "balancer: invalid document: " + join(e.Errors) }

// UnsupportedError says that a document is well-formed and asks for something
// this version does not offer (422).
type UnsupportedError struct{ Errors []FieldError }

// Error lists the fields and reasons.
func (e *UnsupportedError) Error() string { return "balancer: not supported: " + join(e.Errors) }

// ConflictError says that a document cannot stand beside another one, or two
// parts of one document beside each other (409). With names what is in the way.
type ConflictError struct{ Field, With string }

// Error names both sides.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("balancer: %s conflicts with %s", e.Field, e.With)
}

func join(errs []FieldError) string {
	s := make([]string, len(errs))
	for i, e := range errs {
		s[i] = e.String()
	}
	return strings.Join(s, "; ")
}

// DecodeVIP reads the document of the VIP called name.
func DecodeVIP(name string, body []byte) (VIP, error) { panic("to be written") }

// DecodeMember reads the document of one member of a listener of the VIP at address.
func DecodeMember(key MemberKey, body []byte) (Member, error) { panic("to be written") }
