"""What waits for a compute thread: interactive items before batch items, none for ever.

put(item, Priority) → get: the oldest interactive one, unless a batch one has waited its time
"""

from __future__ import annotations

import threading
import time
from collections import deque
from enum import Enum
from queue import Empty
from typing import Generic, TypeVar

PATIENCE_S = 2.0
"""A batch item that has waited for so long goes before all that came after it."""

T = TypeVar("T")


class Priority(Enum):
    """How soon an answer is wanted: by somebody who waits for it, or some time."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class WaitingLine(Generic[T]):
    """Thread-safe."""

    def __init__(self) -> None:
        self._lines: dict[Priority, deque[tuple[float, T]]] = {each: deque() for each in Priority}
        self._arrived = threading.Condition()

    def put(self, item: T, priority: Priority = Priority.INTERACTIVE) -> None:
        """Let it wait."""
        with self._arrived:
            self._lines[priority].append((time.monotonic(), item))
            self._arrived.notify()

    def get(self, timeout_s: float | None = None) -> T:
        """The next one; :class:`queue.Empty` if there is none within that time, None being for
        ever."""
        with self._arrived:
            if not self._arrived.wait_for(self._waits, timeout_s):
                raise Empty
            interactive, batch = (self._lines[each] for each in Priority)
            patience_over = batch and time.monotonic() - batch[0][0] >= PATIENCE_S
            if not interactive or (patience_over and batch[0][0] < interactive[0][0]):
                return batch.popleft()[1]
            return interactive.popleft()[1]

    def empty(self) -> bool:
        """Whether nothing waits."""
        with self._arrived:
            return not self._waits()

    def _waits(self) -> bool:
        return any(self._lines.values())
