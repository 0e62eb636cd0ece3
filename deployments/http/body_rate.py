"""The rate at which the body of a request must arrive, so that no slow client holds a place.

A replica has a few dozen places. A client that sends a byte now and then would hold one of them
until the deadline.
"""

from __future__ import annotations

import math

PATIENCE_S = 10.0
"""How long a client is waited for that sends no more of its body; for the whole of it, so long and
a second for every :data:`BODY_BYTES_PER_S`."""

LEAST_PATIENCE_S = 1.0
"""The same for a request that stood in a queue: its body had time to come, and behind it stand
others."""

BODY_BYTES_PER_S = 100_000


class BodyRate:
    """How the body of one request comes in; times in seconds on the monotonic clock.

    Only the time counts in which somebody waits for more of it.
    """

    __slots__ = ("_asked_at", "_patience_s", "_started", "_waited_s", "complete", "received")

    def __init__(self, started: float) -> None:
        self._started = started
        self._asked_at: float | None = None
        self._patience_s: float | None = None
        self._waited_s = 0.0
        self.received = 0
        """Bytes so far."""
        self.complete = False

    def asked(self, now: float) -> None:
        """More is waited for."""
        self._asked_at = now
        if self._patience_s is None:
            self._patience_s = max(LEAST_PATIENCE_S, PATIENCE_S - (now - self._started))

    def came(self, now: float, size: int, *, more: bool) -> None:
        """So many bytes have come; ``more``: whether others follow."""
        if self._asked_at is not None:
            self._waited_s += now - self._asked_at
            self._asked_at = None
        self.received += size
        self.complete = not more

    def left_s(self, now: float) -> float:
        """How long nothing has to be looked at: the client may take at least so long more."""
        if self.complete:
            return math.inf
        if self._asked_at is None or self._patience_s is None:
            return LEAST_PATIENCE_S
        in_all = self._patience_s + self.received / BODY_BYTES_PER_S - self._waited_s
        return min(self._patience_s, in_all) - (now - self._asked_at)

    def refusal(self, request_id: str) -> str:
        """What the client is told whose body comes too slowly."""
        return (
            f"the body of request {request_id} comes too slowly, {self.received} bytes so far; "
            f"send it without a pause of {PATIENCE_S:g} s, and after that time at "
            f"{BODY_BYTES_PER_S // 1000} kB/s or more"
        )
