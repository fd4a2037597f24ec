#!/usr/bin/python3
"""The hosts of the campus, and what passes between them.

    traffic.py host NAME      is a host: servers and clients (0_legacy.py starts one in each)
    traffic.py watch          shows every second what was lost, by stream, until Ctrl-C

A host serves HTTP on port 8080 (its name), echoes UDP on port 7 and lines of TCP on port 9, and counts
broadcasts. By its socket it takes commands, one line of JSON each, answered with one line:

    ["stream", ADDRESS]       starts a stream of 1,000 numbered datagrams a second to ADDRESS, which come back
    ["tcp", ADDRESS, n]       opens n TCP connections to ADDRESS's echo, and keeps talking on them
    ["vip", ADDRESS, n]       opens n HTTP connections to a VIP, and keeps asking on them
    ["http", ADDRESS]         keeps making requests to a VIP, each on a connection of its own; null stops that and all to VIPs
    ["mark"]                  what became of all that since the last mark
    ["shout", id, n]          sends n broadcasts
    ["copies", id]            how many of each arrived
"""

import json
import os
import socket
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import campus

RATE = 1000  # datagrams a second
BURST = 20  # more than that are not made up for at once, when the machine has stood still
GRACE = 0.4  # seconds that a datagram may be on its way
TIMEOUT = 5  # seconds for one request: longer than a lost packet and its retransmission
SHOUT = 4000  # the port of broadcasts


class Web(BaseHTTPRequestHandler):
    """Answers GET with the host's name and keeps the connection open."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def do_GET(self):
        body = (self.server.name + '\n').encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class WebServer(ThreadingHTTPServer):
    request_queue_size = 1024
    name = ''

    def handle_error(self, request, client_address):
        pass  # a client that went away


def in_thread(target, *args):
    threading.Thread(target=target, args=args, daemon=True).start()


def udp(port=0):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    sock.bind(('', port))
    return sock


def echo_udp():
    sock = udp(7)
    while True:
        try:
            data, source = sock.recvfrom(2048)
            sock.sendto(data, source)
        except OSError:
            pass  # an ICMP error: the peer has gone


def echo_tcp():
    def serve(conn):
        try:
            while data := conn.recv(4096):
                conn.sendall(data)
        except OSError:
            pass
        conn.close()

    server = socket.create_server(('', 9), backlog=1024)
    while True:
        in_thread(serve, server.accept()[0])


class Stream:
    """Numbered datagrams to an echo."""

    def __init__(self, address):
        self.peer = (address, 7)
        self.sock = udp()
        self.sent = 0
        self.marked = 0  # numbers below were counted by an earlier mark
        self.times = {}  # of sending, by number
        self.seen = Counter()
        in_thread(self.send)
        in_thread(self.receive)

    def send(self):
        begin, base = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - begin) * RATE) + base
            if due - self.sent > BURST:
                base -= due - self.sent - BURST
                due = self.sent + BURST
            while self.sent < due:
                try:
                    self.sock.sendto(str(self.sent).encode(), self.peer)
                except OSError:
                    pass  # counted as lost
                self.times[self.sent] = time.time()
                self.sent += 1
            time.sleep(0.001)

    def receive(self):
        while True:
            try:
                number = int(self.sock.recv(64))
            except OSError:
                continue
            self.seen[number] += 1

    def mark(self):
        end = self.sent
        time.sleep(GRACE)
        numbers = range(self.marked, end)
        lost = [n for n in numbers if n not in self.seen]
        twice = sum(self.seen[n] - 1 for n in numbers if self.seen[n] > 1)
        longest = run = 0
        for n, last in zip(lost, [None, *lost]):
            run = run + 1 if n - 1 == last else 1
            longest = max(longest, run)
        lost_at = [self.times[n] for n in lost[:1000]]
        for n in numbers:
            self.seen.pop(n, None)
            self.times.pop(n, None)
        self.marked = end
        return {'sent': len(numbers), 'lost': len(lost), 'twice': twice, 'longest': longest, 'lost_at': lost_at}


class Kept:
    """A connection that stays open, and is asked something again and again."""

    def __init__(self, address, port, question):
        self.question = question
        self.sock = socket.create_connection((address, port), TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = self.sock.makefile('rb')
        self.first = self.ask()

    def ask(self):
        """Asks once and returns the answer; OSError when the connection has broken."""
        self.sock.sendall(self.question)
        if not (line := self.reader.readline()):
            raise ConnectionResetError('closed')
        if not line.startswith(b'HTTP/'):
            return line
        length = 0
        while header := self.reader.readline().strip():
            name, _, value = header.partition(b':')
            if name.lower() == b'content-length':
                length = int(value)
        return self.reader.read(length)


class Connections:
    """Connections that stay open, and requests of one connection each."""

    GET = b'GET / HTTP/1.1\r\nHost: vip\r\n\r\n'

    def __init__(self):
        self.kept = {'tcp': [], 'vip': []}
        self.broken = Counter()
        self.round = 0
        self.vip = None
        self.requests = Counter()
        self.lock = threading.Lock()
        in_thread(self.talk)
        in_thread(self.request)

    def open(self, kind, address, count):
        new = [Kept(address, 9, b'hello\n') if kind == 'tcp' else Kept(address, 80, self.GET) for _ in range(count)]
        with self.lock:
            self.kept[kind] += new
        return [connection.first.decode().strip() for connection in new]

    def forget(self, kind):
        with self.lock:
            for connection in self.kept[kind]:
                connection.sock.close()
            self.kept[kind] = []

    def talk(self):
        while True:
            with self.lock:
                connections = [(kind, c) for kind, all_of_kind in self.kept.items() for c in all_of_kind]
            for kind, connection in connections:
                try:
                    if connection.ask() != connection.first:
                        raise ConnectionError('another answers')
                except OSError:
                    with self.lock:
                        if connection in self.kept[kind]:  # else it was closed here
                            self.broken[kind] += 1
                            self.kept[kind].remove(connection)
                    connection.sock.close()
                time.sleep(0.004)
            self.round += 1
            time.sleep(0.02)

    def request(self):
        while True:
            time.sleep(0.02)
            address = self.vip
            if not address:
                continue
            try:
                connection = Kept(address, 80, self.GET)
                connection.sock.close()
                self.requests['done'] += 1
            except OSError:
                self.requests['failed'] += 1

    def mark(self):
        # Every connection has been asked since the call.
        end = self.round + 2
        while self.round < end:
            time.sleep(0.01)
        with self.lock:
            answer = {kind: {'open': len(self.kept[kind]), 'broken': self.broken[kind]} for kind in self.kept}
            answer['http'] = {'done': self.requests['done'], 'failed': self.requests['failed']}
            self.broken.clear()
            self.requests.clear()
        return answer


class Host:
    """A host's agent."""

    def __init__(self, name):
        self.name = name
        self.streams = []
        self.connections = Connections()
        self.shouts = {}
        self.shouting = udp(SHOUT)
        in_thread(self.hear)
        in_thread(echo_udp)
        in_thread(echo_tcp)
        web = WebServer(('', 8080), Web)
        web.name = name
        in_thread(web.serve_forever)

    def hear(self):
        while True:
            word, number = self.shouting.recv(64).decode().split()
            self.shouts.setdefault(word, Counter())[int(number)] += 1

    def obey(self, command, *args):
        if command == 'stream':
            self.streams.append(Stream(*args))
            return True
        if command in ('tcp', 'vip'):
            return self.connections.open(command, *args)
        if command == 'http':
            self.connections.vip = args[0]
            if args[0] is None:
                self.connections.forget('vip')
            return True
        if command == 'mark':
            streams = [stream.mark() for stream in self.streams]
            return {'streams': streams, **self.connections.mark()}
        if command == 'shout':
            word, count = args
            for number in range(count):
                self.shouting.sendto(f'{word} {number}'.encode(), ('255.255.255.255', SHOUT))
                time.sleep(0.005)
            return True
        if command == 'copies':
            word, count = args
            heard = self.shouts.get(word, Counter())
            return [heard[n] for n in range(count)]
        raise ValueError(f'unknown command {command!r}')

    def listen(self):
        path = f'{campus.DIR}/{self.name}.sock'
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path + '.new')
            server.listen(16)
            os.rename(path + '.new', path)
            while True:
                in_thread(self.serve, server.accept()[0])

    def serve(self, conn):
        with conn, conn.makefile() as lines:
            for line in lines:
                try:
                    answer = self.obey(*json.loads(line))
                except (OSError, ValueError) as error:
                    answer = {'error': str(error)}
                conn.sendall(json.dumps(answer).encode() + b'\n')


def watch():
    """Starts the traffic, unless it runs, and shows every second what became of it."""
    campus.enter()
    for host, target in campus.STREAMS.items():
        if not campus.ask(host, 'mark')['streams']:
            campus.ask(host, 'stream', campus.HOSTS[target][1])
            campus.ask(host, 'http', campus.VIP)
    while True:
        time.sleep(1)
        marks = {host: campus.ask(host, 'mark') for host in campus.STREAMS}
        lost = ', '.join(f'{host} to {campus.STREAMS[host]} {m["streams"][0]["lost"]} of {m["streams"][0]["sent"]}' for host, m in marks.items())
        http = [sum(m['http'][k] for m in marks.values()) for k in ('failed', 'done')]
        print(f'{time.strftime("%H:%M:%S")} lost: {lost}; requests to the VIP failed: {http[0]} of {sum(http)}', flush=True)


if __name__ == '__main__':
    if sys.argv[1:] == ['watch']:
        try:
            watch()
        except KeyboardInterrupt:
            sys.exit()
    if sys.argv[1:2] == ['host']:
        sys.setswitchinterval(0.0005)
        Host(sys.argv[2]).listen()
    sys.exit(__doc__)
