"""Memory for large arrays that come and go: used again, rather than given back and asked for anew.

    Buffers.take(bytes) → array → views of it … → the last one is gone → idle → the next take
    lent(memory, returned) → the same for any memory: returned() is called when no view is left

What the system hands out is filled with zeros first, which for some megabytes takes as long as
receiving them.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

_IDLE = 8
"""Buffers that wait to be used again, at most; those that have waited longest go."""


class Buffers:
    """Thread-safe."""

    def __init__(self) -> None:
        self._idle: deque[np.ndarray] = deque(maxlen=_IDLE)

    def take(self, size: int) -> np.ndarray:
        """A flat, writeable array of ``size`` bytes, of any contents, that nobody else holds."""
        memory = self._found(size)
        return lent(memory, lambda: self._idle.append(memory))

    def _found(self, size: int) -> np.ndarray:
        for _ in range(len(self._idle)):
            with contextlib.suppress(IndexError):  # another thread took the last one
                memory = self._idle.popleft()
                if memory.size == size:
                    return memory
                self._idle.append(memory)
        return np.empty(size, np.uint8)


def lent(memory: np.ndarray, returned: Callable[[], None]) -> np.ndarray:
    """``memory`` as another array; ``returned`` is called, by any thread, once neither that array
    nor a view of it is left."""
    return np.asarray(_Lent(memory, returned))


class _Lent:
    """What every view of the memory holds; it ends with the last of them."""

    def __init__(self, memory: np.ndarray, returned: Callable[[], None]) -> None:
        self.__array_interface__: dict[str, Any] = memory.__array_interface__
        self._memory = memory
        self._returned = returned

    def __del__(self) -> None:
        self._returned()
