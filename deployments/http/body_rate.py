"""Minimum rate at which the body of a request must arrive.

A replica serves a few dozen requests at once. A slow client that sends a byte at a time would
occupy one of these places until its deadline.
"""

from __future__ import annotations

import math

STALL_TIMEOUT_S = 10.0
"""Longest pause of a client within its body, in seconds.

For the whole body, a second for every :data:`BODY_BYTES_PER_S` is added."""

MIN_STALL_TIMEOUT_S = 1.0
"""The same after a wait in a queue: the body had time to arrive, and other requests wait."""

BODY_BYTES_PER_S = 100_000


class BodyRate:
    """Progress of one request's body; times in seconds on the monotonic clock.

    Only the time counts during which the application waits for more of the body.
    """

    __slots__ = ("_started", "_timeout_s", "_wait_started", "_waited_s", "complete", "received")

    def __init__(self, started: float) -> None:
        self._started = started
        self._wait_started: float | None = None
        self._timeout_s: float | None = None
        self._waited_s = 0.0
        self.received = 0
        """Bytes so far."""
        self.complete = False

    def start_wait(self, now: float) -> None:
        """Record that the application waits for more."""
        self._wait_started = now
        if self._timeout_s is None:
            self._timeout_s = max(MIN_STALL_TIMEOUT_S, STALL_TIMEOUT_S - (now - self._started))

    def add_chunk(self, now: float, size: int, *, more: bool) -> None:
        """Record a chunk of ``size`` bytes; ``more``: whether others follow."""
        if self._wait_started is not None:
            self._waited_s += now - self._wait_started
            self._wait_started = None
        self.received += size
        self.complete = not more

    def remaining_s(self, now: float) -> float:
        """Return the seconds before which the body cannot be too slow."""
        if self.complete:
            return math.inf
        if self._wait_started is None or self._timeout_s is None:
            return MIN_STALL_TIMEOUT_S
        total_s = self._timeout_s + self.received / BODY_BYTES_PER_S - self._waited_s
        return min(self._timeout_s, total_s) - (now - self._wait_started)

    def refusal(self, request_id: str) -> str:
        """Return the message for the client of a body that is too slow."""
        return (
            f"the body of request {request_id} arrives too slowly, {self.received} bytes so far; "
            f"send it without a pause of {STALL_TIMEOUT_S:g} s, and after that time at "
            f"{BODY_BYTES_PER_S // 1000} kB/s or more"
        )
