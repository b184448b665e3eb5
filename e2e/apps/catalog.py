"""The shop's catalog: an ordinary HTTP server on IPv4 and IPv6, from Python's standard library."""

import json
import os
import signal
import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ITEMS = [
    {"name": "lamp", "price": 40},
    {"name": "chair", "price": 120},
    {"name": "canary-table-7d1e", "price": 300},
]


class Catalog(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60

    def do_GET(self):
        if self.path == "/items":
            self.answer(200, {"host": socket.gethostname(), "items": ITEMS})
        elif self.path == "/healthz":
            self.answer(200, {"status": "ok"})
        else:
            self.answer(404, {"error": f"no such path: {self.path}"})

    def answer(self, status, document):
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format, *args):
        pass


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def server_bind(self):
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def main():
    port = int(os.environ.get("PORT", "8000"))
    server = Server(("::", port), Catalog)

    def stop(*_):
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    print(f"listening on port {port}", file=sys.stderr, flush=True)
    server.serve_forever()


main()
