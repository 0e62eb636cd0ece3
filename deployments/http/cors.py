"""Requests of scripts in web pages of other origins (CORS), for the origins that the config names.

    preflight of a named origin → 204, before API keys: a browser sends no key with it
    request of a named origin   → its answer, errors too, with Access-Control-Allow-Origin
    any other origin            → its answer without these headers, so the browser withholds it

Without named origins there is no middleware. Credentials of the browser (cookies) are never
allowed; a page sends its API key as a header.

https://fetch.spec.whatwg.org/#http-cors-protocol
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cluster.protocol.binary_tensor import HEADER_LENGTH
from deployments.http.headers import (
    API_KEY,
    DEADLINE,
    PRIORITY,
    REQUEST_ID,
    SERVER_TIMING,
    TRACE_CONTEXT,
)

MAX_AGE_S = 600
"""Time for which a browser may remember the answer to a preflight, in seconds."""

_REQUEST_HEADERS = ", ".join(
    (
        "Authorization",
        "Content-Encoding",
        "Content-Type",
        HEADER_LENGTH,
        API_KEY,
        DEADLINE,
        PRIORITY,
        REQUEST_ID,
        *TRACE_CONTEXT,
    )
)
_ANSWER_HEADERS = ", ".join((HEADER_LENGTH, "Retry-After", SERVER_TIMING, REQUEST_ID))
_PREFLIGHT = (
    (b"access-control-allow-methods", b"GET, HEAD, POST"),
    (b"access-control-allow-headers", _REQUEST_HEADERS.encode()),
    (b"access-control-max-age", str(MAX_AGE_S).encode()),
    (b"vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
    (b"content-length", b"0"),
)


class _Named:
    """Origins that the applications of this process name; a replica has one application."""

    origins: frozenset[str] = frozenset()


def allow(origins: Iterable[str]) -> None:
    """Allow these origins in this process: called where an application is built."""
    _Named.origins |= frozenset(origins)


def middlewares() -> list[Middleware]:
    """Return the middleware of this process; none without named origins."""
    return [Middleware(Cors, origins=_Named.origins)] if _Named.origins else []


class Cors:
    """ASGI middleware that lets scripts of the named origins read answers."""

    def __init__(self, app: ASGIApp, origins: Iterable[str]) -> None:
        self._app = app
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin, is_preflight = None, False
        for name, value in scope["headers"] if scope["type"] == "http" else ():
            if name == b"origin":
                origin = value
            elif name == b"access-control-request-method":
                is_preflight = scope["method"] == "OPTIONS"
        # Caches keep answers to GET; those must vary even where no origin asked.
        if scope["type"] != "http" or (origin is None and scope["method"] == "POST"):
            await self._app(scope, receive, send)
            return
        named = origin if origin in self._origins else None
        if named is not None and is_preflight:
            headers = [(b"access-control-allow-origin", named), *_PREFLIGHT]
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                fields = MutableHeaders(raw=list(message.get("headers", ())))
                fields.add_vary_header("Origin")
                if named is not None:
                    fields["Access-Control-Allow-Origin"] = named.decode()
                    fields["Access-Control-Expose-Headers"] = _ANSWER_HEADERS
                message = {**message, "headers": fields.raw}
            await send(message)

        await self._app(scope, receive, answer)
