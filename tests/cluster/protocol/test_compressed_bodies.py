"""Compressed bodies: what other programs compress is read, and bombs stay small."""

from __future__ import annotations

import gzip
import subprocess
import time
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import PayloadTooLargeError, RequestError, UnsupportedMediaTypeError
from cluster.protocol.compression import MAX_MEMBERS, coding_of, deflate, inflate

LIMIT = 2**20
TEXT = bytes(range(256)) * 40


@pytest.mark.parametrize(
    ("coding", "compressed"),
    [
        ("gzip", gzip.compress(TEXT)),
        ("x-gzip", gzip.compress(TEXT)),
        ("gzip", gzip.compress(TEXT[:9]) + gzip.compress(b"") + gzip.compress(TEXT[9:])),
        ("gzip", gzip.compress(TEXT, compresslevel=0)),
        ("deflate", zlib.compress(TEXT)),
    ],
)
def test_body_compressed_by_python_is_inflated(coding: str, compressed: bytes) -> None:
    assert inflate(compressed, coding, LIMIT) == TEXT


def test_body_compressed_by_gzip_is_inflated() -> None:
    done = subprocess.run(["gzip", "-9"], input=TEXT, capture_output=True, check=True, timeout=30)
    assert inflate(done.stdout, "gzip", LIMIT) == TEXT


@given(st.binary(max_size=20_000), st.sampled_from(["gzip", "deflate"]))
def test_compressed_body_is_read_by_python(body: bytes, coding: str) -> None:
    read = gzip.decompress if coding == "gzip" else zlib.decompress
    assert read(deflate(body, coding)) == body


@pytest.mark.parametrize(
    ("value", "coding"),
    [(None, None), ("identity", None), (" GZip ", "gzip"), ("deflate", "deflate")],
)
def test_content_encoding_is_read(value: str | None, coding: str | None) -> None:
    assert coding_of(value) == coding


@pytest.mark.parametrize("value", ["br", "gzip, gzip", "zstd", "compress", "gzip;q=1"])
def test_other_content_encoding_is_refused(value: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="send the body as gzip or deflate"):
        coding_of(value)


def test_limit_holds_for_inflated_body() -> None:
    body = bytes(LIMIT)
    for coding, compressed in (("gzip", gzip.compress(body)), ("deflate", zlib.compress(body))):
        assert inflate(compressed, coding, LIMIT) == body
        with pytest.raises(PayloadTooLargeError, match=str(LIMIT - 1)):
            inflate(compressed, coding, LIMIT - 1)


def bombs() -> dict[str, tuple[str, bytes]]:
    """Return bodies of 128 MiB, by name: coding and compressed body."""
    plain = zlib.compressobj(9, wbits=-15)
    raw = plain.compress(bytes(2**27)) + plain.flush()
    whole = gzip.compress(b"")[:10] + raw
    declared = (2**27).to_bytes(4, "little")
    return {
        "declared size": ("gzip", whole + bytes(4) + declared),
        "false size": ("gzip", whole + bytes(8)),
        "no size": ("deflate", b"\x78\xda" + raw + bytes(4)),
        "members": ("gzip", gzip.compress(bytes(2**12)) * 2**16),
    }


@pytest.mark.parametrize("bomb", ["declared size", "false size", "no size", "members"])
def test_bomb_is_refused_with_little_memory(bomb: str) -> None:
    coding, body = bombs()[bomb]
    tracemalloc.start()
    try:
        started = time.process_time()
        with pytest.raises(RequestError):
            inflate(body, coding, LIMIT)
        assert time.process_time() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 4 * LIMIT
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("coding", "body", "message"),
    [
        ("gzip", b"", "ends early, after 0 bytes"),
        ("gzip", gzip.compress(bytes(999), compresslevel=0)[:500], "ends early, after 500 bytes"),
        ("gzip", gzip.compress(TEXT)[:-1], "or the whole body if it was cut off"),
        ("deflate", zlib.compress(TEXT)[:9], "ends early, after 9 bytes"),
        ("gzip", TEXT[:64], "is not valid gzip"),
        ("deflate", gzip.compress(TEXT), "is not valid deflate"),
        ("gzip", gzip.compress(TEXT)[:-8] + bytes(8), "is not valid gzip"),  # CRC and size
        ("gzip", gzip.compress(TEXT) + bytes(9), "is not valid gzip"),
        ("deflate", zlib.compress(TEXT) + b"more", "4 bytes follow"),
        ("gzip", gzip.compress(b"") * (MAX_MEMBERS + 1), "20 bytes follow"),
    ],
)
def test_damaged_body_is_refused(coding: str, body: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=message):  # or PayloadTooLargeError, a kind of it
        inflate(body, coding, LIMIT)
