"""Answers kept by the content of the input: the same input again costs no model.

arrays → key (blake2b over names, dtypes, shapes, bytes) → kept answer, or None
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np


def content_key(arrays: Sequence[np.ndarray]) -> bytes:
    """The same for the same dtypes, shapes and bytes, in the same order; else another, but for
    one chance in 2^128."""
    digest = blake2b(digest_size=32)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


class Answers:
    """The answers used last, in ``capacity_bytes`` at most, of one generation of the models.

    Every look and every answer names the generation it belongs to; one of another generation than
    what is kept empties it, or is not kept: what a model answered before it was replaced is not
    found after.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._kept: OrderedDict[bytes, tuple[np.ndarray, ...]] = OrderedDict()
        self._generation = 0
        self.bytes = 0
        """What the kept arrays take."""

    def get(self, generation: int, key: bytes) -> tuple[np.ndarray, ...] | None:
        """The answer kept under that key; it is now the one used last."""
        if generation != self._generation:
            self._kept.clear()
            self.bytes = 0
            self._generation = generation
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def put(self, generation: int, key: bytes, outputs: Sequence[np.ndarray]) -> None:
        """Keep an answer, unless it alone is larger than there is room; the oldest make place.

        ``generation``: when it was asked for.
        """
        if generation != self._generation:
            return
        # Copies: a view would keep the whole body alive that it was read from.
        copies = tuple(np.array(output) for output in outputs)
        size = _bytes(copies)
        if size > self._capacity:
            return
        self.bytes += size - _bytes(self._kept.pop(key, ()))
        self._kept[key] = copies
        while self.bytes > self._capacity:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= _bytes(oldest)


def _bytes(arrays: Sequence[np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays)
