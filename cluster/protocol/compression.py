"""Compressed bodies: gzip (RFC 1952) and deflate (RFC 1950), in both directions.

    body, Content-Encoding, limit ──► inflate ──► body of at most ``limit`` bytes
    body, coding                  ──► deflate ──► compressed body

A kilobyte may inflate to a megabyte, so the limit holds for the inflated body. Inflating ends one
byte beyond it.
"""

from __future__ import annotations

import zlib

from cluster.errors import PayloadTooLargeError, RequestError, UnsupportedMediaTypeError

_GZIP, _ZLIB = 31, 15  # zlib's wbits

CODINGS = {"gzip": _GZIP, "x-gzip": _GZIP, "deflate": _ZLIB}
"""Content-Encoding → zlib's wbits."""

MAX_MEMBERS = 1000
"""Gzip members of a body, at most; each costs a copy of up to 4 KiB."""

LEVEL = 1
"""Compression level of answers: the fastest."""

_CHUNK_BYTES = 2**12
"""Compressed bytes inflated at a time: to 4 MiB at most, by DEFLATE's largest ratio of 1032."""

_GZIP_MAGIC = b"\x1f\x8b"
_SIZE_BYTES = 4  # of the last field of a gzip body


def coding_of(value: str | None) -> str | None:
    """Return the coding of the header Content-Encoding; None for a body without compression.

    Raises UnsupportedMediaTypeError for another coding, or more than one.
    """
    if value is None:
        return None
    coding = value.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding not in CODINGS:
        raise UnsupportedMediaTypeError(
            f"Content-Encoding is {value!r:.40}; send the body as gzip or deflate, or without "
            "compression"
        )
    return coding


def inflate(body: bytes | bytearray, coding: str, limit_bytes: int) -> bytearray:
    """Return the inflated body.

    Raises PayloadTooLargeError if it exceeds ``limit_bytes``, before inflating where a gzip body
    declares its size. RequestError if the body is incomplete, damaged or has trailing bytes.
    """
    wbits = CODINGS[coding]
    declared = int.from_bytes(body[-_SIZE_BYTES:], "little")
    if wbits == _GZIP and body.startswith(_GZIP_MAGIC) and declared > limit_bytes:
        raise PayloadTooLargeError(
            f"the {coding} body is {declared} bytes by its last field, the limit after "
            f"decompression is {limit_bytes}; send less, or the whole body if it was cut off"
        )
    inflated = bytearray()
    view, position = memoryview(body), 0
    for _ in range(MAX_MEMBERS):
        stream = zlib.decompressobj(wbits)
        while not stream.eof:
            chunk = view[position : position + _CHUNK_BYTES]
            if not chunk:
                raise RequestError(
                    f"the {coding} body ends early, after {len(body)} bytes; send it whole"
                )
            try:
                part = stream.decompress(chunk, limit_bytes - len(inflated) + 1)
            except zlib.error as error:
                raise RequestError(f"the body is not valid {coding}: {error}") from None
            inflated += part
            if len(inflated) > limit_bytes:
                raise PayloadTooLargeError(
                    f"the {coding} body exceeds {limit_bytes} bytes after decompression, the limit "
                    "of this model"
                )
            position += len(chunk) - len(stream.unused_data)
        if position == len(body):
            return inflated
        if wbits != _GZIP:
            break
    raise RequestError(
        f"{len(body) - position} bytes follow the compressed body; send one {coding} stream"
    )


def deflate(body: bytes, coding: str) -> bytes:
    """Return the compressed body."""
    stream = zlib.compressobj(LEVEL, wbits=CODINGS[coding])
    return stream.compress(body) + stream.flush()
