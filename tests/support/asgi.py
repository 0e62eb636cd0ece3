"""Requests to an ASGI application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from starlette.types import ASGIApp, Message

from support.http_client import Answer


def ask(
    app: ASGIApp,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    method: str | None = None,
    root_path: str = "",
) -> Answer:
    """Send a request; POST if there is a body. ``path`` begins with ``root_path``."""
    sent: list[Message] = []
    waiting = [{"type": "http.request", "body": body or b"", "more_body": False}]

    async def receive() -> Message:
        if not waiting:
            await asyncio.Event().wait()  # the client stays connected and sends no more
        return waiting.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    target, _, query = path.partition("?")
    scope = {
        "type": "http",
        "method": method or ("GET" if body is None else "POST"),
        "path": target,
        "query_string": query.encode(),
        "root_path": root_path,
        "headers": [
            (name.lower().encode(), value.encode()) for name, value in (headers or {}).items()
        ],
    }
    asyncio.run(app(scope, receive, send))
    start, *parts = sent
    received = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], received, b"".join(part.get("body", b"") for part in parts))
