"""Small HTTP server with answers from the test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

Reply = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]
"""Status, body and optionally headers of an answer."""

Answer = Callable[[bytes, dict[str, str]], Reply]
"""Body and headers of a request, names in lower case → its answer."""


@pytest.fixture
def serving() -> Iterator[Callable[[Answer], str]]:
    """Start a server with such a function and return its URL; stop all after the test."""
    servers: list[ThreadingHTTPServer] = []

    def start(answer: Answer) -> str:
        class Post(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, content, *more = answer(body, headers)
                self.send_response(status)
                for name, value in (more[0] if more else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
        threading.Thread(target=server.serve_forever).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/infer"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
