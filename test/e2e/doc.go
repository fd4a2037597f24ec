// Package e2e tests Fairlead from outside: the real binary, real Open vSwitch,
// real TCP connections between network namespaces.
//
// Its tests carry the build tag e2e and need root:
//
//	go test -tags e2e ./test/e2e
//
// A lab is a set of network namespaces: one a host, and one that holds the
// switches (an Open vSwitch of its own with the userspace datapath, see
// package ovstest) and the controller. Nothing runs in the machine's own
// namespace and nothing there is changed, so labs can stand side by side.
//
// Clients and servers live in the test's process: a socket belongs to the
// network namespace of the thread that makes it, so a thread per namespace makes
// the sockets, and everything else is ordinary Go.
//
// Tests run beside each other (t.Parallel), for most of their time is waiting. Those that
// measure the machine, or give it much to do, have it to themselves: they run first, one
// after the other.
//
// FAIRLEAD_BIN names the binary to test; without it one is built.
package e2e
