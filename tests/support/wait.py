"""Conditions that are polled until they hold, within a bound for a slow and busy machine.

condition → true: return its value
    │ └ false, or an error of `passing`: poll again
    └ after `within_s` → AssertionError with the last state
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

WITHIN_S = 180
"""Default bound in seconds: three times the slowest known machine's time."""

SOON_S = 15
"""Bound in seconds of a condition that takes tenths of a second on an idle machine. A failure takes
a timeout of 30 s, or forever."""

POLL_S = 0.1


def until(
    condition: Callable[[], T],
    otherwise: str | Callable[[], object] = "the condition never held",
    *,
    within_s: float = WITHIN_S,
    poll_s: float = POLL_S,
    passing: tuple[type[Exception], ...] = (),
) -> T:
    """Poll ``condition`` until its value is true; return that value.

    ``otherwise``: message of the AssertionError after ``within_s`` seconds, or a function that
    returns the state to show. ``passing``: errors that count as false, as while a process starts.
    """
    deadline = time.monotonic() + within_s
    while True:
        error: Exception | None = None
        try:
            if value := condition():
                return value
        except passing as caught:
            error = caught
        if time.monotonic() >= deadline:
            state = otherwise if isinstance(otherwise, str) else otherwise()
            because = "" if error is None else f": {error!r}"
            raise AssertionError(f"{state} within {within_s:g} s{because}")
        time.sleep(poll_s)
