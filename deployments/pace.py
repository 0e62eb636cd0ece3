"""The time of one request: its deadline, and the pace at which its body must come in.

    one timer per request ┬ deadline passed → cancelled, now or a grace later
                          ├ body too slow   → cancelled
                          └ neither         → set again, to when either could be

A client that sends a byte now and then would otherwise hold a place of the replica, of which there
are a few dozen, until the deadline.
"""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass

DEADLINE = "headrace.deadline"
"""Key of the ASGI scope under which the application finds its :class:`Deadline`."""

ANSWER_GRACE_S = 1.0
"""How long after its deadline a request is cut off whose application keeps the deadline itself: a
busy machine may need so long to write down the answer that it decided on in time."""

PATIENCE_S = 10.0
"""How long a client is waited for that sends no more of its body; for the whole of it, so long and
a second for every :data:`BODY_BYTES_PER_S`."""

LEAST_PATIENCE_S = 1.0
"""The same for a request that stood in a queue: its body had time to come, and behind it stand
others."""

BODY_BYTES_PER_S = 100_000


@dataclass(slots=True)
class Deadline:
    """When the answer to a request must be there."""

    at: float
    """In seconds on the monotonic clock."""

    kept_by_application: bool = False
    """Set by an application that decides by itself, in time, what to answer: it is left
    :data:`ANSWER_GRACE_S` to say so."""


class Pace:
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


class Timer:
    """The one timer of a request: ``timeout`` ends when the deadline or the pace asks for it."""

    __slots__ = ("_deadline", "_handle", "_loop", "_pace", "_timeout", "body_too_slow")

    def __init__(self, timeout: asyncio.Timeout, deadline: Deadline, pace: Pace) -> None:
        self._timeout = timeout
        self._deadline = deadline
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self.body_too_slow = False
        left = min(deadline.at - time.monotonic(), PATIENCE_S)
        self._handle: asyncio.Handle = self._loop.call_later(left, self._look)

    def cancel(self) -> None:
        """The request is over."""
        self._handle.cancel()

    def _look(self, again: bool = False) -> None:
        now = time.monotonic()
        to_deadline, to_slowness = self._deadline.at - now, self._pace.left_s(now)
        if to_deadline <= 0:
            # The grace counts from here, not from the deadline: however long this loop was held
            # up, the application comes first.
            grace_s = ANSWER_GRACE_S if self._deadline.kept_by_application else 0
            self._timeout.reschedule(self._loop.time() + grace_s)
        elif to_slowness > 0:
            self._handle = self._loop.call_later(min(to_deadline, to_slowness), self._look)
        elif not again:
            # Once more, behind what has come meanwhile: this loop may have been held up.
            self._handle = self._loop.call_soon(self._look, True)
        else:
            self.body_too_slow = True
            self._timeout.reschedule(self._loop.time())
