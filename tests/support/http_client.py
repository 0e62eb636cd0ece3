"""Small HTTP client for tests: whole answers, or raw bytes that a real client would not send.

ask(url, body, headers) → Answer        any status, never an exception for one
Raw(port) → send bytes → read an Answer
"""

from __future__ import annotations

import http.client
import json
import socket
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """HTTP answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """Message of a JSON error; AssertionError if the body is anything else."""
        assert self.headers["content-type"] == "application/json", self
        document = self.json
        assert list(document) == ["error"], document
        message = document["error"]
        assert isinstance(message, str)
        assert message
        return message


def ask(
    url: str,
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
    *,
    method: str | None = None,
    timeout_s: float = 20,
) -> Answer:
    """Send a request on a new connection; POST if there is a body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout_s)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    try:
        connection.request(
            method or ("GET" if body is None else "POST"), target, body, headers or {}
        )
        return _read(connection.getresponse())
    finally:
        connection.close()


class Raw:
    """Bare TCP connection to a port of this machine."""

    def __init__(self, port: int, timeout_s: float = 20, *, host: str = "127.0.0.1") -> None:
        """``host``: an address of this machine."""
        self.socket = socket.create_connection((host, port), timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def answer(self) -> Answer:
        """Read one whole answer."""
        response = http.client.HTTPResponse(self.socket)
        response.begin()
        return _read(response)

    def abort(self) -> None:
        """Close with a reset, as a client that crashes does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()


def _read(response: http.client.HTTPResponse) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())
