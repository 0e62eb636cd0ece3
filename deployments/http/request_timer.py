"""Timer of a request: its deadline, and the minimum rate of its body.

deadline passed → cancelled, at once or after a grace period
body too slow   → cancelled
neither         → rescheduled to the earliest time of either
"""

from __future__ import annotations

import asyncio
import time

from deployments.http import body_rate
from deployments.http import deadline as deadlines
from deployments.http.body_rate import BodyRate
from deployments.http.deadline import Deadline


class RequestTimer:
    """Timer of a request: ends ``timeout`` at the deadline, or when the body is too slow."""

    __slots__ = ("_deadline", "_handle", "_loop", "_rate", "_timeout", "body_too_slow")

    def __init__(self, timeout: asyncio.Timeout, deadline: Deadline, rate: BodyRate) -> None:
        self._timeout = timeout
        self._deadline = deadline
        self._rate = rate
        self._loop = asyncio.get_running_loop()
        self.body_too_slow = False
        delay_s = min(deadline.at - time.monotonic(), body_rate.STALL_TIMEOUT_S)
        self._handle: asyncio.Handle = self._loop.call_later(delay_s, self._check)

    def cancel(self) -> None:
        """Cancel the timer: the request is over."""
        self._handle.cancel()

    def _check(self, again: bool = False) -> None:
        now = time.monotonic()
        to_deadline, to_stall = self._deadline.at - now, self._rate.remaining_s(now)
        if to_deadline <= 0:
            # The grace period starts now, not at the deadline: if this loop was blocked, the
            # application still gets its turn.
            grace_s = deadlines.ANSWER_GRACE_S if self._deadline.enforced_by_application else 0
            self._timeout.reschedule(self._loop.time() + grace_s)
        elif to_stall > 0:
            self._handle = self._loop.call_later(min(to_deadline, to_stall), self._check)
        elif not again:
            # Check again after the events that are queued: this loop may have been blocked.
            self._handle = self._loop.call_soon(self._check, True)
        else:
            self.body_too_slow = True
            self._timeout.reschedule(self._loop.time())
