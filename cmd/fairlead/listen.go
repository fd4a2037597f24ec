package main

import (
	"fmt"
	"net"

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
func inheritedListeners() (map[string]net.Listener, error) {
	all, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("inherited sockets: %w", err)
	}
	named := map[string]net.Listener{}
	for name, list := range all {
		if (name != openflowSocket && name != httpSocket) || len(list) != 1 || list[0] == nil {
			return nil, fmt.Errorf("inherited sockets: %d of name %q: want one listener each of the names %s and %s", len(list), name, openflowSocket, httpSocket)
		}
		named[name] = list[0]
	}
	return named, nil
}

// listen returns the inherited listener if there is one, else a new one.
func listen(inherited net.Listener, address string) (net.Listener, error) {
	if inherited != nil {
		return inherited, nil
	}
	return net.Listen("tcp", address)
}
