"""The one timer of a request: its deadline, and the rate at which its body must arrive.

deadline passed → cancelled, now or a grace period later
body too slow   → cancelled
neither         → set again, to when either could be
"""

from __future__ import annotations

import asyncio
import time

from deployments.http import body_rate
from deployments.http import deadline as deadlines
from deployments.http.body_rate import BodyRate
from deployments.http.deadline import Deadline


class RequestTimer:
    """The timer of a request: ``timeout`` ends at the deadline, or when the body is too slow."""

    __slots__ = ("_deadline", "_handle", "_loop", "_rate", "_timeout", "body_too_slow")

    def __init__(self, timeout: asyncio.Timeout, deadline: Deadline, rate: BodyRate) -> None:
        self._timeout = timeout
        self._deadline = deadline
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self.body_too_slow = False
        left = min(deadline.at - time.monotonic(), body_rate.PATIENCE_S)
        self._handle: asyncio.Handle = self._loop.call_later(left, self._look)

    def cancel(self) -> None:
        """The request is over."""
        self._handle.cancel()

    def _look(self, again: bool = False) -> None:
        now = time.monotonic()
        to_deadline, to_slowness = self._deadline.at - now, self._rate.left_s(now)
        if to_deadline <= 0:
            # The grace counts from here, not from the deadline: however long this loop was held
            # up, the application comes first.
            grace_s = deadlines.ANSWER_GRACE_S if self._deadline.enforced_by_application else 0
            self._timeout.reschedule(self._loop.time() + grace_s)
        elif to_slowness > 0:
            self._handle = self._loop.call_later(min(to_deadline, to_slowness), self._look)
        elif not again:
            # Once more, behind what has come meanwhile: this loop may have been held up.
            self._handle = self._loop.call_soon(self._look, True)
        else:
            self.body_too_slow = True
            self._timeout.reschedule(self._loop.time())
