// Package scale runs the real controller, with all its apps and a store on disk,
// against a thousand light switches in the test's own process, and holds it to
// time, memory and fairness. The tests are named by the catalogue of
// docs/reliability.md. With the tag soak the larger numbers are used.
package scale
