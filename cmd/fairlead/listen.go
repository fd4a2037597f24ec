package main

import (
	"fmt"
	"net"
	"os"

	"github.com/coreos/go-systemd/v22/activation"
)

// Names of the sockets that the process may be started with (FileDescriptorName= of
// a systemd socket unit, LISTEN_FDNAMES).
const (
	openflowSocket = "openflow"
	httpSocket     = "http"
)

// inheritedListeners returns the listeners that the process was started with, by
// name. Who holds them keeps them open from one process to the next, so that no
// switch and no client is refused in between (sd_listen_fds(3)).
func inheritedListeners() (sockets, error) {
	all, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("inherited sockets: %w", err)
	}
	named := sockets{}
	for name, list := range all {
		if (name != openflowSocket && name != httpSocket) || len(list) != 1 || list[0] == nil {
			return nil, fmt.Errorf("inherited sockets: %d of name %q: want one listener each of the names %s and %s", len(list), name, openflowSocket, httpSocket)
		}
		named[name] = list[0]
	}
	return named, nil
}

// sockets are the listeners of the process: those it was started with, and those it
// has opened. They stay open while the controller begins anew.
type sockets map[string]net.Listener

func (s sockets) close() {
	for _, l := range s {
		l.Close()
	}
}

// listen returns a copy of the listener of that name, which is opened if there is none.
func (s sockets) listen(name, address string) (net.Listener, error) {
	if s[name] == nil {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return nil, err
		}
		s[name] = l
	}
	tcp, ok := s[name].(interface{ File() (*os.File, error) })
	if !ok {
		return nil, fmt.Errorf("socket %s: %T cannot be copied", name, s[name])
	}
	f, err := tcp.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return net.FileListener(f)
}
