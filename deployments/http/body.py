"""Bodies of requests, read into memory up to a limit.

body ≤ limit → bytearray, inflated if it is compressed
lent by a router of this node → a copy of its memory → bytearray
body > limit → BodyTooLargeError → ClosingResponse: answer, drain, close the connection
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.errors import PayloadTooLargeError, RequestError
from cluster.protocol.compression import coding_of
from cluster.runtime.lent_bodies import read_lent
from deployments.http.compression import inflated
from deployments.http.headers import LENT_BODY

ALLOCATED_AHEAD_BYTES = 2**20
"""Memory allocated before a body arrives, at most: a Content-Length alone must cost no more."""

LINGER_BYTES = 16 * 2**20
"""Bytes of a rejected body that are still read, at most."""

LINGER_S = 2.0
"""Time for reading them, in seconds.

Most clients read the answer only after sending everything; closing the connection before loses it.
"""


class BodyTooLargeError(PayloadTooLargeError):
    """The body exceeds the limit; the rest of it was not read."""


class ClosingResponse(Response):
    """Answer to a request whose body is incomplete; it closes the connection afterwards."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Connection"] = "close"
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        # Content-Length marks the end for the client; the server keeps the connection open.
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        remaining = LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while remaining > 0:
                    message = await receive()
                    remaining -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b""})


async def read_body(request: Request, limit_bytes: int) -> bytearray:
    """Return the whole body, inflated; ``limit_bytes`` holds before and after that.

    Raises BodyTooLargeError, before reading if Content-Length exceeds the limit. RequestError: it
    ends early, or cannot be inflated. PayloadTooLargeError: it inflates beyond the limit.
    UnsupportedMediaTypeError: its coding is unknown. LentBodyError: it is lent, but not readable
    here.
    """
    lent = request.headers.get(LENT_BODY)
    if lent is not None:
        return read_lent(lent, limit_bytes)
    coding = coding_of(request.headers.get("content-encoding"))
    declared = _content_length(request)
    if declared is not None and declared > limit_bytes:
        raise BodyTooLargeError(
            f"the body is {declared} bytes, this model reads at most {limit_bytes}"
        )
    # Most bodies fit into what is allocated at once, though they arrive in many chunks.
    body = bytearray(min(declared or 0, ALLOCATED_AHEAD_BYTES))
    received = 0
    async for chunk in request.stream():
        end = received + len(chunk)
        if end > limit_bytes:
            raise BodyTooLargeError(
                f"the body exceeds {limit_bytes} bytes, the limit of this model"
            )
        body[received:end] = chunk
        received = end
    if declared is not None and received < declared:
        raise RequestError(f"the body ended after {received} of {declared} bytes")
    return body if coding is None else await inflated(body, coding, limit_bytes)


def _content_length(request: Request) -> int | None:
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not value.isdigit():
        raise RequestError(f"Content-Length is {value!r:.40}, expected a number of bytes")
    return int(value)
