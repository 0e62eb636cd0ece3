"""Remaining time of a request, on its way to its targets.

request's deadline ─ route_deadline ─→ the route's deadline ─ left_s ─→ timeout of each call

A deadline is a moment on the monotonic clock, in seconds.
"""

from __future__ import annotations

ANSWER_MARGIN_S = 0.005
"""Time reserved to combine the answers and to send the reply."""


def left_s(deadline: float, now: float) -> float:
    """Return the seconds until the deadline, at least 0."""
    return max(0.0, deadline - now)


def route_deadline(started: float, deadline: float, route_timeout_s: float | None) -> float:
    """Return the route's deadline: within its own timeout, before the request's ``deadline``.

    The margin is :data:`ANSWER_MARGIN_S`, or half of the request's time if that is less.
    """
    whole = left_s(deadline, started)
    limit = whole - min(ANSWER_MARGIN_S, whole / 2)
    return started + (limit if route_timeout_s is None else min(limit, route_timeout_s))
