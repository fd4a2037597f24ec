// Package reliability holds the controller to a catalogue of faults and attacks
// (docs/reliability.md): each test is named by the catalogue's id. The real
// controller with its apps runs in the test's process, against software switches
// behind a faulty proxy, against scripted peers, and against Open vSwitch.
//
// Most tests run in a bubble of testing/synctest, where minutes take no time; such a
// test also fails when a goroutine outlives it. A run that chooses at random
// prints its seed when it fails; RELIABILITY_SEED=n runs that one again. With
// the tag soak the same tests use the larger numbers.
package reliability
