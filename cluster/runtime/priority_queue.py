"""Queue with two priorities: interactive items before batch items, without starvation.

put(item, Priority) → get: the oldest interactive item, unless a batch item has reached its limit
"""

from __future__ import annotations

import threading
import time
from collections import deque
from enum import Enum
from queue import Empty
from typing import Generic, TypeVar

BATCH_WAIT_LIMIT_S = 2.0
"""Longest wait of a batch item, in seconds; after it, arrival order applies."""

T = TypeVar("T")


class Priority(Enum):
    """Urgency of a request: a caller waits for the answer, or any time will do."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class PriorityQueue(Generic[T]):
    """Blocking queue. Thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[Priority, deque[tuple[float, T]]] = {
            priority: deque() for priority in Priority
        }
        self._arrived = threading.Condition()

    def put(self, item: T, priority: Priority = Priority.INTERACTIVE) -> None:
        """Append an item to the queue of its priority."""
        with self._arrived:
            self._queues[priority].append((time.monotonic(), item))
            self._arrived.notify()

    def get(self, timeout_s: float | None = None) -> T:
        """Return the next item; wait for at most ``timeout_s`` seconds, or without limit if None.

        Raises :class:`queue.Empty` when the time is over.
        """
        with self._arrived:
            if not self._arrived.wait_for(self._pending, timeout_s):
                raise Empty
            interactive, batch = (self._queues[priority] for priority in Priority)
            overdue = batch and time.monotonic() - batch[0][0] >= BATCH_WAIT_LIMIT_S
            if not interactive or (overdue and batch[0][0] < interactive[0][0]):
                return batch.popleft()[1]
            return interactive.popleft()[1]

    def empty(self) -> bool:
        """Whether the queue is empty."""
        with self._arrived:
            return not self._pending()

    def _pending(self) -> bool:
        return any(self._queues.values())
