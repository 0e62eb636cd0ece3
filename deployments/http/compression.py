"""Compression of bodies in threads: requests are inflated, answers deflated.

    Content-Encoding: gzip | deflate   →  inflated, within the body's limit
    Accept-Encoding: gzip | deflate    →  answer compressed, if the client accepts this coding alone

A list, such as a browser's default ``gzip, deflate, br``, requests nothing: compressing numbers
takes longer than sending them.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from starlette.responses import Response

from cluster.protocol.compression import deflate, inflate

ANSWER_CODINGS: dict[str | None, str] = {"gzip": "gzip", "deflate": "deflate"}
"""Accept-Encoding → coding of the answer."""

SMALL_BYTES = 2**14
"""Largest answer that is compressed in the event loop: a thread would take longer to start."""

AT_ONCE = 2
"""Bodies that the process inflates or deflates at once, which bounds the memory of bombs."""

# Threads rather than a semaphore: a client that disconnects cancels its request, but not the thread
# that works for it.
_threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="compression")


async def inflated(body: bytearray, coding: str, limit_bytes: int) -> bytearray:
    """Inflate a request's body; raises as :func:`cluster.protocol.compression.inflate` does."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_threads, inflate, body, coding, limit_bytes)


async def compress(answer: Response, accepted: str | None) -> None:
    """Compress an answer if the client requests it; ``accepted``: header Accept-Encoding.

    Errors stay plain: Triton's client reads them without decompression.
    """
    coding = ANSWER_CODINGS.get(accepted)
    if coding is None or answer.status_code >= 400:
        return
    body = bytes(answer.body)
    if len(body) <= SMALL_BYTES:
        compressed = deflate(body, coding)
    else:
        loop = asyncio.get_running_loop()
        compressed = await loop.run_in_executor(_threads, deflate, body, coding)
    answer.body = compressed
    answer.headers["Content-Length"] = str(len(compressed))
    answer.headers["Content-Encoding"] = coding
    answer.headers.add_vary_header("Accept-Encoding")
