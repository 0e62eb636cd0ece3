"""Cache of answers by the content of the input.

arrays → key (blake2b over dtypes, shapes, bytes) → cached answer, or None
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np


def content_key(arrays: Sequence[np.ndarray]) -> bytes:
    """Return a 256-bit digest of the arrays' dtypes, shapes and bytes, in order."""
    digest = blake2b(digest_size=32)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.digest()


class AnswerCache:
    """Least recently used answers, within ``capacity_bytes``, of one generation of the models.

    Every lookup and every answer names its generation. A lookup of another generation empties the
    cache; an answer of another one is dropped. So no answer outlives the model that computed it.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._answers: OrderedDict[bytes, tuple[np.ndarray, ...]] = OrderedDict()
        self._generation = 0
        self.bytes = 0
        """Size of the cached arrays."""

    def get(self, generation: int, key: bytes) -> tuple[np.ndarray, ...] | None:
        """Return the cached answer, which becomes the most recently used, or None."""
        if generation != self._generation:
            self._answers.clear()
            self.bytes = 0
            self._generation = generation
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, generation: int, key: bytes, outputs: Sequence[np.ndarray]) -> None:
        """Cache an answer, and evict the least recently used ones to make room.

        An answer larger than the capacity is dropped. ``generation``: that of its request.
        """
        if generation != self._generation:
            return
        # A view would keep the whole request body alive.
        copies = tuple(np.array(output) for output in outputs)
        size = _bytes(copies)
        if size > self._capacity:
            return
        self.bytes += size - _bytes(self._answers.pop(key, ()))
        self._answers[key] = copies
        while self.bytes > self._capacity:
            _, oldest = self._answers.popitem(last=False)
            self.bytes -= _bytes(oldest)


def _bytes(arrays: Sequence[np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays)
