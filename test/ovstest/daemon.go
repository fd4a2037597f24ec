package ovstest

import (
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// StartDaemon starts a command that does not outlive this process: a test binary that dies
// without its cleanup (a timeout, a SIGKILL) takes its daemons with it.
//
// The kernel goes by the thread that started a command, not by its process. Threads of
// Go end when a goroutine does that was locked to one, as those that live in network
// namespaces are, and any thread may become one of them; so all commands are started by
// a thread that never ends.
func StartDaemon(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	result := make(chan error)
	starter() <- func() { result <- cmd.Start() }
	return <-result
}

var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})
