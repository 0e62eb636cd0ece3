"""Digests of bodies: equal for equal bodies, in every type that holds them."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.runtime import content_digest
from cluster.runtime.content_digest import ContentDigest

KEY = bytes(range(32))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 8192, 12_001, 602_112])
def test_digest_tells_bodies_apart(size: int) -> None:
    digest = ContentDigest(KEY)
    body = np.random.default_rng(0).bytes(size)
    expected = digest.of("infer", body)
    assert 0 <= expected < 2**64
    assert ContentDigest(KEY).of("infer", bytearray(body)) == expected
    assert digest.of("infer", memoryview(body)) == expected
    others = [digest.of("predict", body), ContentDigest(KEY[::-1]).of("infer", body)]
    others += [digest.of("infer", body + b"\0")]
    for place in {0, size // 2, size - 1} if size else ():
        changed = bytearray(body)
        changed[place] ^= 0x80
        others.append(digest.of("infer", changed))
    assert len({expected, *others}) == 1 + len(others)


def test_digest_depends_on_order_and_on_signs() -> None:
    """Sums of blocks would not tell these apart."""
    values = np.random.default_rng(1).normal(size=3072).astype(np.float32)
    flipped = values.copy()
    flipped[[1, 1025]] *= -1
    bodies = [values, np.roll(values, 1024), values[::-1], flipped]
    digests = {ContentDigest(KEY).of("infer", body.tobytes()) for body in bodies}
    assert len(digests) == len(bodies)


def test_digest_reads_all_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(content_digest, "_PIECE_BYTES", 16)
    bodies = [b"a" * 16 + b"b" * 16, b"b" * 16 + b"a" * 16, b"a" * 32, b"a" * 33]
    assert len({ContentDigest(KEY).of("infer", body) for body in bodies}) == len(bodies)
