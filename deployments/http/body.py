"""Reading a request's body without ever holding more of it than the limit.

body ≤ limit → bytearray
lent by a router of this node → a copy of its memory → bytearray
body > limit → BodyTooLargeError → Refusal: the answer at once, a little of the rest read, the end
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from cluster.errors import PayloadTooLargeError, RequestError, UnsupportedMediaTypeError
from cluster.runtime.lent_bodies import read_lent
from deployments.http.headers import LENT_BODY

ALLOCATED_AHEAD_BYTES = 2**20
"""Memory a body gets before it arrives, at most: a header alone must not cost what it claims."""

LINGER_BYTES = 16 * 2**20
LINGER_S = 2.0
"""How much of a refused body is still read, and for how long: most clients look for the answer
only when they have sent everything, and a connection closed before that loses it."""


class BodyTooLargeError(PayloadTooLargeError):
    """The body is over the limit, and the rest of it was not read."""


class Refusal(Response):
    """An answer to a request whose body goes on: sent whole, then the connection is ended."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers["Connection"] = "close"
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        # Content-Length tells the client that this is all; the server reads on until told so.
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        left = LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while left > 0:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        break
        await send({"type": "http.response.body", "body": b""})


async def read_body(request: Request, limit_bytes: int) -> bytearray:
    """The whole body.

    Raises BodyTooLargeError before anything is read when Content-Length is over the limit,
    and as soon as a chunked body passes it. RequestError if it ends early,
    UnsupportedMediaTypeError if it is compressed, LentBodyError if it is lent and out of reach.
    """
    lent = request.headers.get(LENT_BODY)
    if lent is not None:
        return read_lent(lent, limit_bytes)
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedMediaTypeError(
            f"Content-Encoding is {encoding!r:.40}; send the body without compression"
        )
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
                f"the body is over {limit_bytes} bytes, the most this model reads"
            )
        body[received:end] = chunk
        received = end
    if declared is not None and received < declared:
        raise RequestError(f"the body ended after {received} of {declared} bytes")
    return body


def _content_length(request: Request) -> int | None:
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not value.isdigit():
        raise RequestError(f"Content-Length is {value!r:.40}, expected a number of bytes")
    return int(value)
