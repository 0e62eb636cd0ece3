"""Queue with priorities: more urgent items before less urgent ones, without starvation.

put(item, Priority) → get: the oldest item of the most urgent priority, or an older item of another
                           priority that has reached its wait limit
"""

from __future__ import annotations

import threading
import time
from collections import deque
from enum import Enum
from queue import Empty
from typing import Generic, TypeVar

T = TypeVar("T")


class Priority(Enum):
    """Urgency of a request, the most urgent first. A value is one of the header ``x-priority``."""

    INTERACTIVE = "interactive"
    """A caller waits for the answer."""

    BATCH = "batch"
    """No caller waits."""


WAIT_LIMIT_S = {Priority.BATCH: 2.0}
"""Longest wait of an item behind more urgent ones, in seconds; after it, arrival order applies."""


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
            return self._next_queue().popleft()[1]

    def empty(self) -> bool:
        """Whether the queue is empty."""
        with self._arrived:
            return not self._pending()

    def _pending(self) -> bool:
        return any(self._queues.values())

    def _next_queue(self) -> deque[tuple[float, T]]:
        """Return the queue of the next item: at least one is pending."""
        now = time.monotonic()
        urgent, *others = (priority for priority in Priority if self._queues[priority])
        overdue = [
            priority
            for priority in others
            if now - self._queues[priority][0][0] >= WAIT_LIMIT_S[priority]
        ]
        # Arrival order; at the same time, the most urgent.
        return min((self._queues[p] for p in (urgent, *overdue)), key=lambda queue: queue[0][0])
