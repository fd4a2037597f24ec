"""A web server that answers every request with a name: `server.py NAME PORT`."""

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    """Answers GET with the server's name and keeps the connection open."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def do_GET(self):
        body = (self.server.name + '\n').encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/plain')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    """Serves each connection in a thread of its own."""

    request_queue_size = 1024
    name = ''

    def handle_error(self, request, client_address):
        pass  # a client that went away


def main():
    server = Server(('', int(sys.argv[2])), Handler)
    server.name = sys.argv[1]
    server.serve_forever()


if __name__ == '__main__':
    main()
