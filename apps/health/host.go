package health

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/fairlead/fairlead/ofproto/packet"
)

// fromHost makes a probe from the network of the controller's own host. Ping and SCTP
// need the right to open raw sockets (CAP_NET_RAW).
func fromHost(ctx context.Context, t Target) error {
	network, address := "tcp", netip.AddrPortFrom(t.Address, t.Port).String()
	switch t.Type {
	case Ping:
		network, address = "ip4:icmp", t.Address.String()
		if t.Address.Is6() {
			network = "ip6:ipv6-icmp"
		}
	case SCTP:
		network, address = "ip:132", t.Address.String()
	case UDPConnect:
		network = "udp"
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return plain(err)
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // closing resets: nothing is left to wait for
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, _ := conn.(*net.IPConn)
	switch t.Type {
	case HTTP:
		return plain(speak(conn, t))
	case HTTPS:
		return plain(speakTLS(ctx, conn, t))
	case Ping:
		return plain(ping(raw, t.Address))
	case SCTP:
		return plain(associate(raw, t))
	case UDPConnect:
		if _, err := conn.Write(nil); err != nil {
			return plain(err)
		}
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, syscall.ECONNREFUSED) {
			return errors.New("UDP port unreachable")
		}
	}
	return nil
}

// plain gives an error of a socket as a reason.
func plain(err error) error {
	var timeout net.Error
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return err
	case errors.Is(err, syscall.ECONNREFUSED):
		return errors.New("connection refused")
	case errors.Is(err, syscall.ECONNRESET):
		return errors.New("connection reset")
	}
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return err
}

// ping asks for one echo.
func ping(conn *net.IPConn, to netip.Addr) error {
	id, seq := uint16(rand.Uint32()), uint16(rand.Uint32())
	echo, reply := packet.ICMPEchoRequest, packet.ICMPEchoReply
	var b []byte
	if to.Is4() {
		b = packet.AppendICMP(nil, packet.ICMP{Type: echo, ID: id, Seq: seq}, []byte("fairlead"))
	} else {
		// The kernel writes the checksum of ICMPv6 (RFC 3542 §3.1).
		reply = packet.ICMPv6EchoReply
		b = packet.AppendICMPv6(nil, packet.ICMP{Type: packet.ICMPv6EchoRequest, ID: id, Seq: seq}, to, to, []byte("fairlead"))
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	for in := make([]byte, mtu); ; {
		n, _, err := conn.ReadFrom(in) // without the header of IPv4, which Read leaves
		if err != nil {
			return err
		}
		if n >= 8 && in[0] == reply && binary.BigEndian.Uint16(in[4:]) == id && binary.BigEndian.Uint16(in[6:]) == seq {
			return nil
		}
	}
}

// associate asks for an SCTP association and looks at the answer.
func associate(conn *net.IPConn, t Target) error {
	tag, port := max(rand.Uint32(), 1), uint16(rand.Uint32())|firstPort
	init := packet.AppendSCTP(nil, packet.SCTP{SrcPort: port, DstPort: t.Port}, initChunk(tag))
	if _, err := conn.Write(init); err != nil {
		return err
	}
	for in := make([]byte, mtu); ; {
		n, _, err := conn.ReadFrom(in) // without the header of IPv4, which Read leaves
		if err != nil {
			return err
		}
		if n < 12 || binary.BigEndian.Uint16(in) != t.Port || binary.BigEndian.Uint16(in[2:]) != port || binary.BigEndian.Uint32(in[4:]) != tag {
			continue
		}
		if o, why, ok := sctpOutcome(in[12:n]); ok && o != OutcomeSuccess {
			return errors.New(why)
		} else if ok {
			return nil
		}
	}
}
