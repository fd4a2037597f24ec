"""Traffic for the labs: who serves a virtual IP, and which connections break.

    client.py ADDRESS[:PORT] [-n CONNECTIONS]   connect that often, show the spread
    client.py ADDRESS[:PORT] --session          take commands on standard input (used by demo.py)

In a Mininet lab: `h1 python3 mininet/client.py 10.0.0.100 -n 1000`.
"""

import argparse
import json
import random
import socket
import struct
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

TIMEOUT = 5  # seconds for one request: longer than a lost packet and its retransmission


class Connection:
    """One HTTP connection that stays open."""

    def __init__(self, address, port=0):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(TIMEOUT)
            # Closing resets, so that the same 5-tuple can be used again at once.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            if port:
                self.sock.bind(('', port))
            self.sock.connect(address)
            self.reader = self.sock.makefile('rb')
            self.member = self.ask()
        except OSError:
            self.sock.close()
            raise

    def ask(self):
        """Makes a request and returns the name of the member that answered."""
        self.sock.sendall(b'GET / HTTP/1.1\r\nHost: vip\r\n\r\n')
        if not self.reader.readline():
            raise ConnectionResetError('closed')
        length = 0
        while header := self.reader.readline().strip():
            name, _, value = header.partition(b':')
            if name.lower() == b'content-length':
                length = int(value)
        return self.reader.read(length).decode().strip()

    def close(self):
        self.sock.close()


# Ports to connect from: below those that the kernel gives to the connections that stay open.
PORTS = range(10000, 32000)


def spread(address, ports):
    """Makes one request from each port; returns the member of each, None for failures."""

    def one(port):
        try:
            connection = Connection(address, port)
        except OSError:
            return None
        connection.close()
        return connection.member

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, ports))


def chart(counts, width=40):
    """The lines of a bar chart of counts by name."""
    total, most = sum(counts.values()), max(counts.values(), default=1)
    block = '█' if 'utf' in (sys.stdout.encoding or '').lower() else '#'
    for name in sorted(counts, key=lambda n: (len(n), n)):
        count = counts[name]
        bar = block * round(width * count / most)
        yield f'{name:>4} {bar:<{width}} {count:>5}  {100 * count / max(total, 1):4.1f} %'


def session(address):
    """Reads one JSON command a line and answers each with one line of JSON.

    ["spread", n, seed]  n connections from random ports (the same for a seed): the member of each
    ["open", n]          opens n connections and keeps them: the member of each
    ["ask"]              a request on each: the member that answered, or null where it broke
    """
    kept = []
    for line in sys.stdin:
        command, *args = json.loads(line)
        if command == 'spread':
            count, seed = args
            answer = spread(address, random.Random(seed).sample(PORTS, count))
        elif command == 'open':
            kept = [Connection(address) for _ in range(args[0])]
            answer = [connection.member for connection in kept]
        elif command == 'ask':
            answer = []
            for connection in kept:
                try:
                    answer.append(connection.ask())
                except OSError:
                    answer.append(None)
        else:
            raise ValueError(f'unknown command {command!r}')
        print(json.dumps(answer), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('address', help='address of the VIP, with :PORT when it is not 80')
    parser.add_argument('-n', type=int, default=1000, help='connections to make')
    parser.add_argument('--session', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    host, _, port = args.address.partition(':')
    address = (host, int(port or 80))
    if args.session:
        session(address)
        return
    members = spread(address, random.sample(PORTS, args.n))
    for line in chart(Counter(member or 'none' for member in members)):
        print(line)


if __name__ == '__main__':
    main()
