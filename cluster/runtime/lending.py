"""Buffer pool for large arrays: memory is reused, not returned to the system.

    Buffers.take(bytes) → array → views of it … → the last view is released → idle → the next take
    lent(memory, returned) → the same for any memory: returned() runs when no view remains

The system fills new memory with zeros first, which for some megabytes takes as long as receiving
them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

_IDLE = 8
"""Maximum number of idle buffers; the oldest are released."""


class Buffers:
    """Pool of flat buffers. Thread-safe."""

    def __init__(self) -> None:
        self._idle: deque[np.ndarray] = deque(maxlen=_IDLE)

    def take(self, size: int) -> np.ndarray:
        """Return a flat, writeable array of ``size`` bytes, with arbitrary content, not shared."""
        memory = self._idle_or_new(size)
        return lent(memory, lambda: self._idle.append(memory))

    def _idle_or_new(self, size: int) -> np.ndarray:
        for _ in range(len(self._idle)):
            with contextlib.suppress(IndexError):  # another thread took the last one
                memory = self._idle.popleft()
                if memory.size == size:
                    return memory
                self._idle.append(memory)
        return np.empty(size, np.uint8)


def lent(memory: np.ndarray, returned: Callable[[], None]) -> np.ndarray:
    """Return ``memory`` as another array; call ``returned`` once no view of that array remains.

    Any thread may run ``returned``.
    """
    return np.asarray(_Lent(memory, returned))


class _Lent:
    """Owner that every view of the memory refers to; it ends with the last of them."""

    def __init__(self, memory: np.ndarray, returned: Callable[[], None]) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
        self._memory = memory
        self._returned = returned

    def __del__(self) -> None:
        self._returned()
