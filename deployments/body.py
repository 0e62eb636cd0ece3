"""Reading a request's body without ever holding more of it than the limit."""

from __future__ import annotations

from starlette.requests import Request

from cluster.errors import PayloadTooLargeError, RequestError, UnsupportedMediaTypeError

ALLOCATED_AHEAD_BYTES = 2**20
"""Memory a body gets before it arrives, at most: a header alone must not cost what it claims."""


async def read_body(request: Request, limit_bytes: int) -> bytearray:
    """The whole body.

    Raises PayloadTooLargeError before anything is read when Content-Length is over the limit,
    and as soon as a chunked body passes it. RequestError if it ends early,
    UnsupportedMediaTypeError if it is compressed.
    """
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.strip().lower() != "identity":
        raise UnsupportedMediaTypeError(
            f"Content-Encoding is {encoding!r:.40}; send the body without compression"
        )
    declared = _content_length(request)
    if declared is not None and declared > limit_bytes:
        raise PayloadTooLargeError(
            f"the body is {declared} bytes, this model reads at most {limit_bytes}"
        )
    # Most bodies fit into what is allocated at once, though they arrive in many chunks.
    body = bytearray(min(declared or 0, ALLOCATED_AHEAD_BYTES))
    received = 0
    async for chunk in request.stream():
        end = received + len(chunk)
        if end > limit_bytes:
            raise PayloadTooLargeError(
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
