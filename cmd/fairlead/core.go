package main

import "syscall"

// noCoreDumps keeps the memory of the process, with the keys in it, from being written
// to a disk when it crashes. The error is that of the operating system.
func noCoreDumps() error {
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{})
}
